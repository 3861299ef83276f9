"""What a spec says is what the cache will hold."""

import json

import pytest

from pipeline.errors import TargetError
from pipeline.targets import DEFAULT_NODES, TargetSpec, nodes_with, target_fields
from pipeline.targets.spec import class_dtype


def layout(spec: TargetSpec) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {field.name: (field.dtype, field.shape) for field in target_fields(spec)}


def test_all_keeps_logits_and_statistics() -> None:
    assert layout(TargetSpec("all", 10, 10)) == {
        "logits": ("float16", (10,)),
        "entropy": ("float32", ()),
        "confidence": ("float32", ()),
        "margin": ("float32", ()),
    }


def test_top_k_keeps_classes_and_tail_too() -> None:
    fields = layout(TargetSpec("top_k", 10, 4, (1.0, 0.5)))
    assert fields["classes"] == ("uint8", (4,))
    assert fields["logits"] == ("float16", (4,))
    assert fields["tail"] == ("float32", (4,))


def test_top_k_of_all_classes_has_no_tail() -> None:
    assert "tail" not in layout(TargetSpec("top_k", 10, 10))


def test_every_field_is_over_positions() -> None:
    assert {field.axis for field in target_fields(TargetSpec("top_k", 10, 4))} == {"positions"}


@pytest.mark.parametrize(
    ("class_count", "dtype"),
    [
        (1, "uint8"),
        (10, "uint8"),
        (256, "uint8"),
        (257, "uint16"),
        (50_257, "uint16"),
        (65_536, "uint16"),
        (65_537, "uint32"),
        (151_936, "uint32"),
        (262_144, "uint32"),
        (2**31, "uint32"),
    ],
)
def test_classes_take_the_smallest_dtype_that_holds_them(class_count: int, dtype: str) -> None:
    assert class_dtype(class_count) == dtype


@pytest.mark.parametrize("class_count", [0, 2**31 + 1])
def test_class_count_out_of_range_is_refused(class_count: int) -> None:
    with pytest.raises(TargetError, match=f"{class_count} classes; between 1 and 2147483648"):
        class_dtype(class_count)


@pytest.mark.parametrize(
    "spec", [TargetSpec("all", 10, 10), TargetSpec("top_k", 10, 4, (1.0, 0.3))]
)
def test_spec_survives_json(spec: TargetSpec) -> None:
    assert TargetSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_exact_temperatures_are_added_to_the_default_nodes() -> None:
    nodes = nodes_with([3.0, 20.0])
    assert nodes == tuple(sorted({*DEFAULT_NODES, 1 / 3, 1 / 20}, reverse=True))


def test_a_default_node_gives_way_to_an_exact_temperature_beside_it() -> None:
    nodes = nodes_with([2.001])
    assert 1 / 2.001 in nodes
    assert 0.5 not in nodes
    assert len(nodes) == len(DEFAULT_NODES)


@pytest.mark.parametrize("temperature", [0.5, 1e6, float("inf"), float("nan")])
def test_exact_temperature_out_of_range_is_refused(temperature: float) -> None:
    with pytest.raises(TargetError, match=r"is out of range; between 1 and 999 is allowed"):
        nodes_with([temperature])


def test_exact_temperatures_too_close_are_refused() -> None:
    with pytest.raises(TargetError, match=r"temperatures 3 and 3\.001 are too close"):
        nodes_with([3.0, 3.001])


def test_targets_of_a_kind_from_the_future_are_refused() -> None:
    document = TargetSpec("all", 10, 10).to_json() | {"kind": "guessed"}
    with pytest.raises(TargetError) as refused:
        TargetSpec.from_json(document)
    assert str(refused.value) == (
        "targets: of kind 'guessed'; this software reads all, top_k, top_p, sampled, hybrid. "
        "Use the software that made the cache, or a newer one."
    )
