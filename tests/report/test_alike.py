"""What a teacher finds alike, where it was made up so."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import CLASSES, make_cache, make_samples

from pipeline.report.alike import find_pairs, show_examples
from pipeline.report.answers import Answers, count_cache
from pipeline.store import Cache

ROWS = 50


def make_alike(folder: Path) -> Cache:
    """Make a teacher that gives the class after its first choice half as much, of 1 most of all."""
    noise = 0.1 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(ROWS)
    noise[rows, rows % CLASSES] += 6.0
    noise[rows, (rows + 1) % CLASSES] += 3.0
    noise[rows[rows % CLASSES == 1], 2] += 2.0
    noise[31, 2] += 0.8  # a row of class 1
    return make_cache(folder, make_samples(ROWS), rows_per_part=8, k=CLASSES, logits=noise)


def test_the_pairs_are_those_that_were_made(tmp_path: Path) -> None:
    answers = Answers(make_alike(tmp_path / "cache"))
    frame, counts = count_cache(answers, 1, lambda parts: None)
    pairs = find_pairs(frame, counts)
    assert {(pair.first, pair.second) for pair in pairs[:CLASSES]} == {
        (each, (each + 1) % CLASSES) for each in range(CLASSES)
    }
    assert (pairs[0].first, pairs[0].second, pairs[0].count) == (1, 2, 10)
    assert 8 * pairs[0].part + pairs[0].position == 31
    assert [pair.share for pair in pairs] == sorted((pair.share for pair in pairs), reverse=True)


def test_what_a_pair_gets_is_compared_with_what_it_gets_elsewhere(tmp_path: Path) -> None:
    cache = make_alike(tmp_path / "cache")
    frame, counts = count_cache(Answers(cache), 1, lambda parts: None)
    shares = np.concatenate(
        [
            torch.from_numpy(cache.read_part(part)["logits"]).double().div(frame.temperature)
            .softmax(1).numpy()
            for part in range(cache.plan.part_count)
        ]
    )  # fmt: skip
    first = shares.argmax(1)
    for pair in find_pairs(frame, counts):
        assert pair.usual is not None
        assert pair.share == pytest.approx(shares[first == pair.first, pair.second].mean(), 1e-5)
        others = (first != pair.first) & (first != pair.second)
        assert pair.usual == pytest.approx(shares[others, pair.second].mean(), 1e-5)
        assert pair.share > pair.usual


def test_an_example_is_the_position_with_its_sample_and_answer(tmp_path: Path) -> None:
    cache = make_alike(tmp_path / "cache")
    answers = Answers(cache)
    frame, counts = count_cache(answers, 1, lambda parts: None)
    asked = list[tuple[int, str, bytes]]()

    def look(row: int, sample_id: str, digest: np.ndarray) -> str:
        asked.append((row, sample_id, digest.tobytes()))
        return "the sample\x00"

    (example,) = show_examples(
        answers,
        find_pairs(frame, counts)[:1],
        frame.temperature,
        name_of=lambda each: f"class {each}",
        decode=None,
        look=look,
    )
    assert (example.first, example.second) == ("class 1", "class 2")
    assert (example.id, example.label) == ("s31", "class 1")
    assert (example.picture, example.text) == (None, "the sample\x00")
    assert asked == [(31, "s31", cache.read_samples(3).digests[7].tobytes())]
    logits = torch.from_numpy(cache.read_part(3)["logits"][7]).double()
    assert [choice.name for choice in example.choices[:2]] == ["class 1", "class 2"]
    for choice in example.choices:
        each = int(choice.name[-1])
        assert choice.plain == pytest.approx(float(logits.softmax(0)[each]), abs=1e-5)
        soft = float((logits / frame.temperature).softmax(0)[each])
        assert choice.soft == pytest.approx(soft, abs=1e-5)


def test_a_teacher_that_is_always_equally_sure_finds_nothing_alike(tmp_path: Path) -> None:
    rows = torch.arange(ROWS)
    logits = torch.zeros(ROWS, CLASSES)
    logits[rows, rows % CLASSES] = 4.0
    cache = make_cache(
        tmp_path / "cache", make_samples(ROWS), rows_per_part=8, k=CLASSES, logits=logits
    )
    assert find_pairs(*count_cache(Answers(cache), 1, lambda parts: None)) == []


@pytest.mark.parametrize("k", [2, CLASSES])
def test_a_class_that_was_left_out_is_said_to_be(tmp_path: Path, k: int) -> None:
    logits = 3 * torch.randn(ROWS, CLASSES, generator=torch.Generator().manual_seed(1))
    cache = make_cache(tmp_path / "cache", make_samples(ROWS), rows_per_part=8, k=k, logits=logits)
    answers = Answers(cache)
    pairs = find_pairs(*count_cache(answers, 1, lambda parts: None))
    assert pairs
    examples = show_examples(answers, pairs, 4.0, name_of=str, decode=None, look=None)
    for pair, example in zip(pairs, examples, strict=True):
        kept = logits[8 * pair.part + pair.position].topk(k).indices.tolist()
        for choice in example.choices:
            assert choice.is_left_out == (int(choice.name) not in kept)
