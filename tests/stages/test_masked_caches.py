"""What a cache of masked tokens holds is enough: to draw again, to learn from without text."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
from laboratory import Lab, run_cli
from test_masked import BERT, lab, losses_of  # noqa: F401  # a fixture

from pipeline import open_cache

HYBRID = "targets.selection={ kind = 'hybrid', k = 4, draws = 6, seed = 3 }"
SAMPLED = "targets.selection={ kind = 'sampled', draws = 6, seed = 3 }"
WITH_VALIDATION = ("cache.data=validation", "cache.path=held-out")
TEXT = 'kind = "text"\npath = "{}.txt"\ntokenizer = "bytes"\nlength = 24\ntask = "masked_token"\n'


def sets(*settings: str) -> list[str]:
    return ["--quiet", *(word for each in settings for word in ("--set", each))]


# A fixture of another module is asked for by its name.
@pytest.fixture
def masked_lab(lab: Lab) -> Lab:  # noqa: F811
    return lab


@pytest.mark.parametrize("selection", [HYBRID, SAMPLED], ids=["hybrid", "sampled"])
def test_an_audit_draws_again_what_was_drawn(masked_lab: Lab, selection: str) -> None:
    options = sets(selection)
    assert masked_lab.cache_teacher(*options).status == 0
    audit = run_cli("verify", str(masked_lab.recipe), *options, "--audit", "20", "--json")
    assert audit.status == 0, audit.stderr
    found = json.loads(audit.stdout)["audit"]
    assert (found["largest_difference"], found["other_classes"]) == (0.0, 0)
    answer = masked_lab.train_student(*options)
    assert answer.status == 0, answer.stderr


def test_two_views_of_a_sample_draw_differently(masked_lab: Lab) -> None:
    # Nothing is hidden and all is asked for, so both views ask the same questions.
    shown = ("views.mask.mask=0.0", "views.mask.random=0.0", "views.mask.fraction=1.0")
    options = sets(SAMPLED, *shown, "views.count=2", "cache.rows_per_part=64")
    assert masked_lab.cache_teacher(*options).status == 0
    cache = open_cache(masked_lab.cache)
    parts = range(cache.plan.part_count)
    arrays = [cache.read_part(part) for part in parts]
    tables = [cache.read_samples(part) for part in parts]
    positions = np.concatenate([table.positions for table in tables])
    views = np.concatenate([table.views for table in tables])
    half = len(views) // 2
    assert views.tolist() == [0] * half + [1] * half
    assert positions[:half].tolist() == positions[half:].tolist()
    entropy, drawn = (
        np.concatenate([array[name] for array in arrays]) for name in ("entropy", "drawn")
    )
    asked = int(positions[:half].sum())
    np.testing.assert_allclose(entropy[:asked], entropy[asked:], atol=1e-3)
    assert not np.array_equal(drawn[:asked], drawn[asked:])


def make_caches(lab: Lab, *options: str) -> None:  # noqa: F811
    for more in ((), WITH_VALIDATION):
        answer = lab.cache_teacher(*sets(*options, *more))
        assert answer.status == 0, answer.stderr


def go_blind(lab: Lab) -> None:  # noqa: F811
    """Delete the text, and name the caches in its place."""
    text = lab.recipe.read_text()
    for name, place in (("train", "cache"), ("validation", "held-out")):
        text = text.replace(TEXT.format(name), f'kind = "cache"\npath = "{place}"\n')
        (lab.folder / f"{name}.txt").unlink()
    lab.recipe.write_text(text.replace("[views]\ncount = 3\nseed = 5\n", ""))


def trained(lab: Lab, run: str, *options: str) -> tuple[Any, ...]:  # noqa: F811
    """Train, and tell the metrics but for times."""
    answer = lab.train_student(*sets(f"run.path={run}", *options), "--json")
    assert answer.status == 0, answer.stderr
    lines = [
        {name: value for name, value in line.items() if not name.endswith("_s")}
        for line in lab.metrics(run)
    ]
    return lines, json.loads(answer.stdout)["validation"]


@pytest.mark.parametrize("group", ["true", "false"])
@pytest.mark.parametrize("backend", ["zarr", "parquet"])
def test_a_masked_student_needs_no_text(masked_lab: Lab, backend: str, group: str) -> None:
    make_caches(masked_lab, f"cache.backend={backend}")
    options = ("validation.cache=held-out", f"training.group_by_length={group}")
    from_text = trained(masked_lab, "from-text", *options)
    go_blind(masked_lab)
    assert trained(masked_lab, "from-cache", *options) == from_text


def test_hard_labels_are_masked_anew_from_the_cache_too(masked_lab: Lab) -> None:
    make_caches(masked_lab)
    hard = "losses=[{ kind = 'hard_labels', weight = 1.0 }]"
    masked_lab.edit("[views]\ncount = 3\nseed = 5\n", "")
    from_text = trained(masked_lab, "from-text", hard)
    go_blind(masked_lab)
    assert trained(masked_lab, "from-cache", hard) == from_text


def test_the_shape_of_the_tail_and_the_counts_share_a_place(masked_lab: Lab) -> None:
    low_rank = "targets.tail={ kind = 'low_rank', rank = 4, positions = 40 }"
    options = sets(low_rank, f"teacher.model={BERT}")
    assert masked_lab.cache_teacher(*options).status == 0
    shared = open_cache(masked_lab.cache).read_shared()
    assert set(shared) == {"bias", "weights", "vectors", "token_counts"}
    assert shared["token_counts"].shape == (258,)
    counted = np.bincount(np.fromfile(masked_lab.folder / "train.txt", np.uint8), minlength=258)
    counted[[ord("\n"), 256, 257]] = [0, -1, -1]  # between documents, their end, and the mask
    assert shared["token_counts"].tolist() == counted.tolist()
    assert masked_lab.train_student(*options).status == 0
    shutil.rmtree(masked_lab.cache / "shared")
    answer = masked_lab.train_student(*sets(low_rank, "run.path=again"))
    assert answer.status == 1
    assert "shared/arrays" in answer.stderr


def test_a_padded_student_learns(masked_lab: Lab) -> None:
    assert masked_lab.cache_teacher("--quiet").status == 0
    padded = BERT.replace("vocab_size = 258", "vocab_size = 320")
    answer = masked_lab.train_student(*sets(f"student.model={padded}"))
    assert answer.status == 0, answer.stderr
    assert all(np.isfinite(losses_of(masked_lab)))


def test_rows_beyond_the_context_of_a_masked_model_are_refused(masked_lab: Lab) -> None:
    long = ("data.train.length=40", f"teacher.model={BERT}", f"student.model={BERT}")
    for run in (masked_lab.cache_teacher, masked_lab.train_student):
        answer = run(*sets(*long))
        assert answer.status == 2
        assert "data.train.length: must be at most 32, the tokens that" in answer.stderr


def test_a_cache_is_planned_by_the_tokens_that_are_masked(masked_lab: Lab) -> None:
    # Of 24 tokens 15 % are 3.6, so 4 positions a row, as many as any row has.
    answer = masked_lab.cache_teacher("--json", "--dry-run", *sets())
    planned = json.loads(answer.stdout)["bytes_a_row"]
    assert masked_lab.cache_teacher(*sets()).status == 0
    cache = open_cache(masked_lab.cache)
    most = int(cache.read_samples(0).positions.max())
    sizes = {"rows": 1, "positions": 4}
    assert most <= 4
    assert planned == sum(field.entry_bytes * sizes[field.axis] for field in cache.plan.fields)
