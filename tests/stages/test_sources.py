"""Students of several datasets at once: labels, soft targets and pseudo-labels in each batch."""

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from laboratory import UNLABELLED, Answer, Lab, draw_samples, options, run_cli, write_samples
from nursery import Nursery, wait_until

TABLES = f"""\
{UNLABELLED}
[pseudo_labels]
path = "labels"
cache = "unlabelled"
rule = {{ kind = "threshold", at_least = 0.8 }}

[[views.augment]]
kind = "shift"
pixels = 1.0

[[training.sources]]
data = "train"
rows = 4

[[training.sources]]
data = "unlabelled"
cache = "unlabelled"
pseudo_labels = "labels"
rows = 6

[validation]
"""
LOSSES = """\
[[losses]]
kind = "hard_labels"
weight = 1.0

[[losses]]
kind = "soft_targets"
weight = 0.5
temperature = 2.0

[[losses]]
kind = "pseudo_labels"
weight = 0.5

[training]
"""
ROWS = 40


@pytest.fixture(scope="module")
def source(lab_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the cache and the pseudo-labels of a recipe with two sources."""
    folder = tmp_path_factory.mktemp("sources") / "laboratory"
    lab = Lab(Path(shutil.copytree(lab_source, folder)))
    write_samples(folder / "unlabelled.parquet", draw_samples(ROWS, seed=2, prefix="u"))
    text = lab.recipe.read_text()
    begin, end = text.index("[[losses]]"), text.index("[training]\n")
    text = text[:begin] + LOSSES + text[end + len("[training]\n") :]
    text = text.replace("batch_size = 8\n", 'views = "fresh"\n')
    lab.recipe.write_text(text.replace("[validation]\n", TABLES, 1))
    caching = ("cache.path=unlabelled", "cache.data=unlabelled")
    for answer in (
        lab.cache_teacher("--quiet", *options(*caching)),
        run_cli("pseudo-label", str(lab.recipe), "--quiet"),
    ):
        assert answer.status == 0, answer.stderr
    return folder


@pytest.fixture
def lab(source: Path, tmp_path: Path) -> Lab:
    return Lab(Path(shutil.copytree(source, tmp_path / "lab")))


def train(lab: Lab, *values: str) -> Answer:
    return run_cli("train-student", str(lab.recipe), *options(*values))


def read_result(lab: Lab, run: str = "run") -> dict[str, Any]:
    result: dict[str, Any] = json.loads((lab.folder / run / "result.json").read_text())
    return result


def test_a_student_learns_from_labels_targets_and_pseudo_labels_at_once(lab: Lab) -> None:
    answer = train(lab, "training.epochs=15", "student.model.arguments={ dropout = 0.0 }")
    assert answer.status == 0, answer.stderr
    lines = [line for line in lab.metrics() if "loss" in line]
    first = lines[0]
    for name in ("hard_labels", "soft_targets", "pseudo_labels"):
        early, late = (sum(line[name] for line in cut) for cut in (lines[:15], lines[-15:]))
        assert late < early
    whole = first["hard_labels"] + 0.5 * (first["soft_targets"] + first["pseudo_labels"])
    assert first["loss"] == pytest.approx(whole)
    result = read_result(lab)
    assert sum(result["gradient_share"].values()) == pytest.approx(1, abs=1e-3)
    assert [sorted(each) for each in result["sources"]] == [
        ["data", "only_chosen", "rows", "views"],
        ["cache", "labels", "only_chosen", "pseudo_labels", "rows", "views"],
    ]


def test_killed_again_and_again_it_continues_bit_for_bit(lab: Lab, nursery: Nursery) -> None:
    settings = ("training.epochs=5", "training.checkpoint_every=3")
    assert train(lab, *settings, "run.path=undisturbed").status == 0
    killed, moments = 0, random.Random(0)
    for _ in range(4):
        child = nursery.start("train-student", str(lab.recipe), *options(*settings))
        pointer, ended = lab.run / "last.json", lab.run / "result.json"
        before = pointer.read_bytes() if pointer.exists() else b""
        wait_until(
            lambda: ended.exists() or (pointer.exists() and pointer.read_bytes() != before)  # noqa: B023
        )
        time.sleep(moments.uniform(0.0, 0.03))
        child.kill(signal.SIGKILL)
        killed += child.wait().status == -signal.SIGKILL
    assert killed, "the run was always faster than the knife"
    assert train(lab, *settings).status == 0
    for name in ("metrics.jsonl", "best.safetensors"):
        assert (lab.run / name).read_bytes() == (lab.folder / "undisturbed" / name).read_bytes()


def test_one_source_is_trained_on_as_a_dataset_alone_is(lab: Lab) -> None:
    hard = 'losses=[{ kind = "hard_labels", weight = 1.0 }]'
    assert train(lab, hard, 'training.sources=[{ data = "train", rows = 8 }]').status == 0
    text = lab.recipe.read_text()
    begin, end = text.index("[[training.sources]]"), text.index("[validation]\n")
    lab.recipe.write_text(text[:begin] + text[end:])
    assert train(lab, hard, "training.batch_size=8", "run.path=alone").status == 0
    assert lab.metrics() == lab.metrics("alone")


def test_skewed_hard_pseudo_labels_alone_are_warned_of_and_nothing_else_is(lab: Lab) -> None:
    alone = (
        'losses=[{ kind = "pseudo_labels", weight = 1.0 }]',
        'training.sources=[{ data = "unlabelled", pseudo_labels = "skewed", rows = 6 }]',
    )
    samples = draw_samples(ROWS, seed=2, prefix="u")
    samples["image"][::5] //= 3  # the teacher is least sure of class 0
    write_samples(lab.folder / "unlabelled.parquet", samples)
    shutil.rmtree(lab.folder / "unlabelled")
    lab.cache_teacher("--quiet", *options("cache.path=unlabelled", "cache.data=unlabelled"))
    for name, balanced in (("skewed", "false"), ("balanced", "true")):
        making = (f"pseudo_labels.path={name}", f"pseudo_labels.balanced={balanced}")
        assert run_cli("pseudo-label", str(lab.recipe), "--quiet", *options(*making)).status == 0
    warning = "warning: this student learns from hard pseudo-labels alone, whose classes are skewed"
    assert warning in train(lab, *alone).stderr
    even = [each.replace("skewed", "balanced") for each in alone]
    beside = (
        'losses=[{ kind = "pseudo_labels", weight = 1.0 }, { kind = "hard_labels", weight = 1.0 }]',
        'training.sources=[{ data = "unlabelled", pseudo_labels = "skewed", rows = 6 }, '
        '{ data = "train", rows = 4 }]',
    )
    for number, values in enumerate((even, beside)):
        answer = train(lab, *values, f"run.path=other{number}")
        assert answer.status == 0, answer.stderr
        assert "warning" not in answer.stderr


def test_features_are_learned_from_where_there_are_any(lab: Lab) -> None:
    kept = 'features=[{ name = "answer", module = "1" }]'
    caching = ("cache.path=featured", "cache.data=unlabelled", kept)
    assert lab.cache_teacher("--quiet", *options(*caching)).status == 0
    answer = train(
        lab,
        "training.epochs=12",
        'losses=[{ kind = "hard_labels", weight = 1.0 }, '
        '{ kind = "hint", weight = 1.0, feature = "answer", module = "2" }]',
        'training.sources=[{ data = "train", rows = 4 }, '
        '{ data = "unlabelled", cache = "featured", rows = 6 }]',
    )
    assert answer.status == 0, answer.stderr
    lines = [line["hint"] for line in lab.metrics() if "hint" in line]
    assert sum(lines[-10:]) < sum(lines[:10])


def test_soft_targets_weighed_by_the_table_are_learned_from(lab: Lab) -> None:
    making = ('pseudo_labels.rule={ kind = "all" }', "pseudo_labels.path=everything")
    assert run_cli("pseudo-label", str(lab.recipe), "--quiet", *options(*making)).status == 0
    weighed = (
        'losses=[{ kind = "soft_targets", weight = 1.0, weigh_by = "pseudo_label" }]',
        'training.sources=[{ data = "unlabelled", cache = "unlabelled", '
        'pseudo_labels = "everything", rows = 8 }]',
    )
    assert train(lab, *weighed).status == 0
    plain = [each.replace(', weigh_by = "pseudo_label"', "") for each in weighed]
    assert train(lab, *plain, "run.path=plain").status == 0
    first, other = (lab.metrics(run)[0]["soft_targets"] for run in ("run", "plain"))
    assert first != other


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        (
            ["training.data=train", "training.batch_size=8"],
            [
                "training.data: is what training.sources says of each dataset; leave it out",
                "training.batch_size: is what training.sources says of each dataset",
            ],
        ),
        (
            ['training.sources=[{ data = "trian", rows = 4 }]'],
            ["training.sources.0.data: there is no dataset 'trian'; did you mean 'train'?"],
        ),
        (
            ['training.sources=[{ data = "train", rows = 4 }]'],
            [
                "losses.2: pseudo_labels needs training.sources, one of which names a folder",
                "losses: soft_targets needs targets, and no one of training.sources names a cache",
            ],
        ),
        (
            ['training.sources=[{ data = "train", rows = 4, only_chosen = false }]'],
            ["training.sources.0.only_chosen: says which pseudo-labelled rows are used"],
        ),
        (
            [
                'losses=[{ kind = "hard_labels", weight = 1.0 }]',
                'training.sources=[{ data = "train", rows = 4 }, '
                '{ data = "unlabelled", rows = 4 }]',
            ],
            [
                "training.sources.1: no loss learns from it: data.unlabelled has neither labels "
                "nor targets, and the losses are hard_labels"
            ],
        ),
        (
            [
                "training.sources.1.cache=unlabelled",
                "student.model.arguments={ classes = 6 }",
            ],
            ["answers with 6 classes, but its pseudo-labels are of 5 classes"],
        ),
        (
            ['training.sources.1.pseudo_labels="nowhere"'],
            ["nowhere/pseudo_labels.parquet: there is no finished table. Make it"],
        ),
        (
            [
                'losses=[{ kind = "soft_targets", weight = 1.0, weigh_by = "pseudo_label" }]',
                'training.sources=[{ data = "unlabelled", cache = "unlabelled", rows = 4 }]',
            ],
            ["losses.0.weigh_by: 'pseudo_label' needs training.sources, one of which names a fold"],
        ),
    ],
    ids=["data", "near miss", "nothing", "only chosen", "idle", "classes", "no table", "weights"],
)
def test_what_does_not_fit_together_is_refused_before_the_run_is_begun(
    lab: Lab, values: list[str], messages: list[str]
) -> None:
    answer = train(lab, *values)
    assert answer.status == 2, answer.stderr
    for message in messages:
        assert message in answer.stderr
    assert not (lab.folder / "run/recipe.json").exists()


def test_pseudo_labels_of_samples_that_are_gone_are_refused(lab: Lab) -> None:
    write_samples(lab.folder / "unlabelled.parquet", draw_samples(30, seed=2, prefix="u"))
    answer = train(
        lab,
        'training.sources.1={ data = "unlabelled", pseudo_labels = "labels", rows = 4 }',
        'losses=[{ kind = "pseudo_labels", weight = 1.0 }, { kind = "hard_labels", weight = 1.0 }]',
    )
    assert answer.status == 2
    assert "the samples of data.unlabelled are not those it was made from" in answer.stderr
    assert "missing: 10: u030, u031, u032, u033, u034 and 5 more" in answer.stderr


def test_images_of_another_size_cannot_share_a_batch(lab: Lab) -> None:
    shape = "data.train.shape=[1, 2, 8]"
    answer = train(lab, shape, "student.model.factory='tiny_models:student'")
    assert answer.status == 2
    assert (
        "training.sources.1.data: its samples have shape (1, 4, 4) uint8, those of the first "
        "source (1, 2, 8) uint8; a batch is of one shape" in answer.stderr
    )


def test_a_table_of_other_classes_is_refused(lab: Lab) -> None:
    named = 'data.unlabelled.class_names=["a", "b", "c", "d", "e"]'
    caching = ("cache.path=named", "cache.data=unlabelled", named)
    assert lab.cache_teacher("--quiet", *options(*caching)).status == 0
    making = ("pseudo_labels.cache=named", "pseudo_labels.path=named-labels", named)
    assert run_cli("pseudo-label", str(lab.recipe), "--quiet", *options(*making)).status == 0
    source = 'training.sources.1={ data = "unlabelled", pseudo_labels = "named-labels", rows = 4 }'
    losses = 'losses=[{ kind = "pseudo_labels", weight = 1.0 }]'
    other = named.replace('"a", "b"', '"b", "a"')
    answer = train(lab, source, losses, "training.sources.0.data=train", other)
    assert answer.status == 2
    assert (
        "named-labels/pseudo_labels.parquet: is of the classes a, b, c, d, e, but data.unlabelled "
        "has b, a, c, d, e. Label with a teacher of the same classes." in answer.stderr
    )


@pytest.mark.parametrize("content", [b"", b"[]", b"{}\n"], ids=["empty", "a list", "no seal"])
def test_a_damaged_summary_is_one_clear_error(lab: Lab, content: bytes) -> None:
    (lab.folder / "labels/summary.json").write_bytes(content)
    for answer in (train(lab), run_cli("pseudo-label", str(lab.recipe))):
        assert answer.status == 1
        told = answer.stderr.splitlines()[-1]
        assert told.startswith(f"error: {lab.folder / 'labels/summary.json'}: ")
        assert told.endswith("Restore it, or delete the folder and make it again.")
