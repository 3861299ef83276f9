"""Array jobs: every process makes a share of the parts, and whoever is last completes the cache."""

import json
from pathlib import Path

import pytest
from laboratory import Lab, options
from nursery import Nursery

from pipeline.caching import Share
from pipeline.errors import PipelineError
from stages.cache_teacher import parse_share


def digest(lab: Lab) -> str:
    return str(json.loads((lab.cache / "manifest.json").read_bytes())["digest"])


def undisturbed(lab: Lab) -> str:
    answer = lab.cache_teacher("--json", "--quiet", *options("cache.path=undisturbed"))
    return str(json.loads(answer.stdout)["digest"])


@pytest.mark.parametrize(("count", "of"), [(8, 1), (8, 3), (3, 8), (100_000, 7), (1, 1)])
def test_shares_are_neighbours_that_make_the_whole_and_are_fair(count: int, of: int) -> None:
    shares = [Share(index, of).parts(count) for index in range(1, of + 1)]
    assert [part for share in shares for part in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2", "", "1.0/4"])
def test_a_bad_range_says_what_is_allowed(text: str) -> None:
    with pytest.raises(PipelineError) as refused:
        parse_share(text)
    assert str(refused.value) == (
        f"--part-range {text}: must be i/n with i from 1 to n, such as 3/8 for the third of eight. "
        "Schedulers that count from 0 need i + 1."
    )


def test_in_any_order_and_again_the_last_completes_it(lab: Lab) -> None:
    expected = undisturbed(lab)
    for text, missing in (("3/3", 5), ("1/3", 3), ("1/3", 3)):
        answer = lab.cache_teacher("--part-range", text)
        assert answer.status == 0
        assert f"range {text} is done; {missing} of 8 parts are missing yet" in answer.stdout
        assert not (lab.cache / "manifest.json").exists()
    last = lab.cache_teacher("--part-range", "2/3", "--json")
    assert json.loads(last.stdout)["digest"] == expected
    again = lab.cache_teacher("--part-range", "2/3", "--json", "--quiet")
    assert (json.loads(again.stdout)["digest"], json.loads(again.stdout)["made_rows"]) == (
        expected,
        0,
    )
    assert not (lab.cache / ".scratch").exists()


def test_more_processes_than_parts_are_fine(lab: Lab) -> None:
    expected = undisturbed(lab)
    statuses = [
        lab.cache_teacher("--quiet", "--part-range", f"{i}/11").status for i in range(1, 12)
    ]
    assert statuses == [0] * 11
    assert digest(lab) == expected


def test_started_all_at_once_one_scans_and_one_completes_it(lab: Lab, nursery: Nursery) -> None:
    expected = undisturbed(lab)
    (lab.folder / "slow").write_text("0.02")
    children = [
        nursery.start("cache-teacher", str(lab.recipe), "--part-range", text)
        for text in ("1/2", "2/2", "2/2")
    ]
    answers = [child.wait() for child in children]
    assert [answer.status for answer in answers] == [0, 0, 0], answers
    assert sum("reading data.train" in answer.stderr for answer in answers) == 1
    assert digest(lab) == expected


def test_finish_completes_a_cache_without_data_or_teacher(lab: Lab) -> None:
    expected = undisturbed(lab)
    assert lab.cache_teacher("--quiet").status == 0
    (lab.cache / "manifest.json").unlink()
    for name in ("train.parquet", "tiny_models.py"):
        (lab.folder / name).unlink()
    answer = lab.cache_teacher("--finish")
    assert answer.status == 0
    assert answer.stdout == (
        f"{lab.cache}: 60 rows in 8 parts, complete\n"
        f"  digest {expected[:16]}; the teacher is right on 100.0% of 60 labels\n"
    )
    assert digest(lab) == expected


def test_finish_says_which_parts_are_missing(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet", "--part-range", "1/2").status == 0
    answer = lab.cache_teacher("--finish")
    assert answer.status == 2
    assert "not complete: 4 of 8 parts are missing (4-7)" in answer.stderr


@pytest.mark.parametrize("other", [["--part-range", "1/2"], ["--dry-run"]], ids=lambda o: o[0])
def test_finish_goes_with_nothing_that_makes_parts(lab: Lab, other: list[str]) -> None:
    answer = lab.cache_teacher("--finish", *other)
    assert answer.status == 2
    assert answer.stderr.startswith("error: --finish: makes no part, so it cannot go with --")


def test_a_recipe_that_cannot_be_planned_leaves_no_cache(lab: Lab, tmp_path: Path) -> None:
    answer = lab.cache_teacher("--part-range", "1/2", *options("targets.selection.k=9"))
    assert answer.status == 2
    assert list(lab.cache.iterdir()) == []
