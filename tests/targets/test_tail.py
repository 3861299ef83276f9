"""The interpolation alone, against a spline written out slowly."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.targets import DEFAULT_NODES, nodes_with, tail_weights


def interpolate(nodes: tuple[float, ...], known: float, stored: list[float], t: float) -> float:
    weight, weights = tail_weights(nodes, t)
    return weight * known + sum(w * s for w, s in zip(weights, stored, strict=True))


def slow_spline(nodes: tuple[float, ...], known: float, stored: list[float], t: float) -> float:
    """Solve for one cubic a piece: values, end slopes, and two smooth derivatives at each knot."""
    knots = [0.0, *(b / (1 + b) for b in sorted(nodes))]
    values = [known, *stored[: len(nodes)][::-1]]
    pieces = len(knots) - 1
    rows, right = [], []

    def add(wanted: float, *terms: tuple[int, float, int, float]) -> None:
        row = np.zeros(4 * pieces)
        for piece, u, order, sign in terms:
            for power in range(order, 4):
                factor = np.prod(range(power - order + 1, power + 1))
                row[4 * piece + power] += sign * factor * (u - knots[piece]) ** (power - order)
        rows.append(row)
        right.append(wanted)

    for i in range(pieces):
        add(values[i], (i, knots[i], 0, 1.0))
        add(values[i + 1], (i, knots[i + 1], 0, 1.0))
    for i, order in itertools.product(range(1, pieces), (1, 2)):
        add(0.0, (i - 1, knots[i], order, 1.0), (i, knots[i], order, -1.0))
    add(stored[-2], (0, 0.0, 1, 1.0))
    add(4 * stored[-1], (pieces - 1, 0.5, 1, 1.0))
    solution = np.linalg.solve(np.array(rows), np.array(right)).reshape(pieces, 4)
    u = 1 / (1 + t)
    piece = max(i for i in range(pieces) if knots[i] <= u or i == 0)
    return float(sum(solution[piece][power] * (u - knots[piece]) ** power for power in range(4)))


extra_temperatures = st.sets(st.sampled_from([1.1, 1.5, 3.0, 5.0, 10.0, 20.0, 100.0]))


@given(extra_temperatures, st.floats(1, 50), st.integers(0, 2**32 - 1))
def test_weights_are_those_of_the_spline_of_the_format(
    extra: set[float], temperature: float, seed: int
) -> None:
    nodes = nodes_with(extra)
    known, *stored = np.random.default_rng(seed).normal(size=len(nodes) + 3).tolist()
    slow = slow_spline(nodes, known, stored, temperature)
    assert interpolate(nodes, known, stored, temperature) == pytest.approx(slow, abs=1e-6)


@given(extra_temperatures)
def test_a_node_takes_its_stored_number_and_nothing_else(extra: set[float]) -> None:
    nodes = nodes_with(extra)
    for i, node in enumerate(nodes):
        weight, weights = tail_weights(nodes, 1 / node)
        expected = np.eye(len(weights))[i]
        assert np.allclose([weight, *weights], [0.0, *expected], atol=1e-12)


def test_a_single_node_is_enough() -> None:
    # K(b) = 2 - 3 b / (1 + b) has slopes -3 and -3/4, and is straight in the spline's variable.
    stored = [0.5, -3.0, -0.75]
    assert interpolate((1.0,), 2.0, stored, 4.0) == pytest.approx(2 - 3 / 5)


@given(st.floats(1, 1000))
def test_weights_stay_small_so_that_rounding_does(temperature: float) -> None:
    nodes = nodes_with([1.01, 2.01, 3.0, 10.0, 100.0])
    weight, weights = tail_weights(nodes, temperature)
    # Nodes at 1 and 1.01 are the hard case: 22. Times float32's 6e-8 that is nothing.
    assert sum(abs(w) for w in (weight, *weights)) < 50


def test_high_temperature_tends_to_the_number_of_left_out_classes() -> None:
    weight, weights = tail_weights(DEFAULT_NODES, 1e6)
    assert weight == pytest.approx(1, abs=1e-4)
    assert np.abs(weights).max() < 1e-4
