"""Images in views, through the command line: what the teacher saw is what the student sees.

The teacher answers with a digest of every pixel, so that its cached answer tells whether a student
is shown the same image, bit for bit.
"""

import json
import multiprocessing
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import RECIPE as TINY
from laboratory import Lab, draw_samples, run_cli, write_samples
from torch.utils.data import DataLoader

from pipeline import Stream, open_cache
from pipeline.errors import SampleError
from pipeline.experiment import open_data, scan_data
from pipeline.losses import hard_labels
from pipeline.recipe import load_recipe
from pipeline.stream import Batch
from pipeline.targets import MixedLabels, Targets

MODELS = """\
import torch
from torch import nn

PRIMES = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53])


class Digest(nn.Module):
    # Five sums over all pixels, exact in float32 and in float16; no two images here share all.
    def forward(self, images):
        pixels = torch.round(images.flatten(1) * 255).long()
        return torch.stack([(pixels * PRIMES**power % 1009).sum(1) * (power + 7) % 499
                            for power in range(1, 6)], 1).float()


def digest():
    return Digest()


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5))
"""
AUGMENT = """
[views]
count = 3
seed = 7

[[views.augment]]
kind = "shift"
pixels = 1.5

[[views.augment]]
kind = "flip"

[[views.augment]]
kind = "noise"
std = 0.1
"""
MIXES = [
    "",
    '\n[views.mix]\nkind = "mixup"\nalpha = 0.8\n',
    '\n[views.mix]\nkind = "cutmix"\nalpha = 1.0\n',
]
mixes = pytest.mark.parametrize("mix", MIXES, ids=["alone", "mixup", "cutmix"])
ROWS = 23


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "tiny_models.py").write_text(MODELS)
    samples = draw_samples(ROWS, seed=0, prefix="s")
    write_samples(tmp_path / "train.parquet", samples)
    write_samples(tmp_path / "validation.parquet", samples)
    recipe = TINY.replace("tiny_models:teacher", "tiny_models:digest")
    recipe = recipe.replace('{ kind = "top_k", k = 2 }', '{ kind = "all" }')
    (tmp_path / "recipe.toml").write_text(recipe + AUGMENT)
    return Lab(tmp_path)


def mixed(lab: Lab, mix: str, *options: str) -> Lab:
    """Make the cache, with pairs mixed or not."""
    lab.recipe.write_text(lab.recipe.read_text() + mix)
    answer = lab.cache_teacher("--quiet", *(word for each in options for word in ("--set", each)))
    assert answer.status == 0, answer.stderr
    return lab


def stream_of(lab: Lab) -> Stream:
    samples = open_data(load_recipe(lab.recipe), "train")
    return Stream(samples, open_cache(lab.cache), batch_size=5)


def digest_of(images: torch.Tensor) -> torch.Tensor:
    names: dict[str, torch.nn.Module] = {}
    exec(compile(MODELS, "tiny_models.py", "exec"), names)  # the very teacher
    answer: torch.Tensor = names["Digest"]()(images.float() / 255)
    return answer - answer.amax(1, keepdim=True)


def is_seen_as_by_the_teacher(batch: Batch) -> bool:
    assert isinstance(batch.targets, Targets)
    return torch.equal(digest_of(batch.inputs), batch.targets.logits)


def of_epochs(stream: Stream, count: int) -> Iterator[tuple[int, Batch]]:
    for epoch in range(count):
        for batch in stream:
            yield epoch, batch


@mixes
@pytest.mark.parametrize("part_rows", [4, 8, 100], ids=lambda rows: f"parts of {rows}")
def test_every_view_is_the_one_the_teacher_saw(lab: Lab, mix: str, part_rows: int) -> None:
    mixed(lab, mix, f"cache.rows_per_part={part_rows}")
    seen: dict[int, dict[str, bytes]] = {}
    for epoch, batch in of_epochs(stream_of(lab), 4):
        assert is_seen_as_by_the_teacher(batch)
        rows = zip(batch.ids, batch.inputs.numpy(), strict=True)
        seen.setdefault(epoch, {}).update({name: row.tobytes() for name, row in rows})
    assert all(len(each) == ROWS for each in seen.values())  # an epoch is a view of every sample
    assert seen[3] == seen[0]  # after the last view comes the first
    assert all(seen[1][name] != seen[0][name] for name in seen[0])


@mixes
def test_an_audit_shows_the_teacher_the_same_views(lab: Lab, mix: str) -> None:
    mixed(lab, mix, "cache.rows_per_part=10")
    audit = json.loads(run_cli("verify", str(lab.recipe), "--set", "cache.rows_per_part=10",
                               "--audit", "69", "--json").stdout)["audit"]  # fmt: skip
    assert (audit["rows"], audit["largest_difference"]) == (69, 0.0)


@mixes
def test_data_in_another_order_is_shown_alike(lab: Lab, mix: str) -> None:
    mixed(lab, mix)
    table = draw_samples(ROWS, seed=0, prefix="s")
    order = np.random.default_rng(1).permutation(ROWS)
    shuffled = {name: [column[row] for row in order] for name, column in table.items()}
    shuffled["image"] = table["image"][order]
    write_samples(lab.folder / "train.parquet", shuffled)
    assert all(is_seen_as_by_the_teacher(batch) for _, batch in of_epochs(stream_of(lab), 3))


def test_a_loader_worker_shows_the_same_views(lab: Lab) -> None:
    mixed(lab, MIXES[1])
    loader = DataLoader(stream_of(lab), batch_size=None, num_workers=2, persistent_workers=True)
    batches = [batch for _ in range(2) for batch in loader]
    assert len(batches) == 2 * 5
    assert all(is_seen_as_by_the_teacher(batch) for batch in batches)


def look(folder: Path, sent: "multiprocessing.Queue[list[bytes]]") -> None:
    stream = stream_of(Lab(folder))
    sent.put([batch.inputs.numpy().tobytes() for _, batch in of_epochs(stream, 2)])


def test_another_process_shows_the_same_views(lab: Lab) -> None:
    mixed(lab, MIXES[2])
    context = multiprocessing.get_context("spawn")
    sent = context.Queue()
    process = context.Process(target=look, args=(lab.folder, sent))
    process.start()
    there = sent.get(timeout=60)
    process.join()
    assert there == [b.inputs.numpy().tobytes() for _, b in of_epochs(stream_of(lab), 2)]


def test_a_resumed_stream_goes_on_in_the_same_view(lab: Lab) -> None:
    mixed(lab, MIXES[1])
    whole = [batch.inputs.numpy().tobytes() for _, batch in of_epochs(stream_of(lab), 3)]
    stream, seen = stream_of(lab), list[bytes]()
    for _, batch in of_epochs(stream, 2):
        seen.append(batch.inputs.numpy().tobytes())
        if len(seen) == 8:
            break
    resumed = stream_of(lab)
    resumed.load_state_dict(stream.state_dict())
    later = [batch.inputs.numpy().tobytes() for _, batch in of_epochs(resumed, 2)]
    assert seen + later == whole


def test_mixed_labels_are_those_of_both_and_are_learned_from(lab: Lab) -> None:
    mixed(lab, MIXES[1])
    table = draw_samples(ROWS, seed=0, prefix="s")
    labels = dict(zip(table["id"], table["label"], strict=True))
    shares = []
    for _, batch in of_epochs(stream_of(lab), 3):
        assert isinstance(batch.labels, MixedLabels)
        assert batch.labels.first.tolist() == [labels[name] for name in batch.ids]
        logits = torch.randn(len(batch.ids), 5)
        probs = logits.log_softmax(1)
        both = zip(batch.labels.first, batch.labels.second, batch.labels.share, strict=True)
        values = [
            -(share * probs[row, one] + (1 - share) * probs[row, other])
            for row, (one, other, share) in enumerate(both)
        ]
        assert torch.allclose(hard_labels(logits, batch.labels), torch.stack(values).mean())
        shares += batch.labels.share.tolist()
    assert 0.3 < np.mean(shares) < 0.7
    answer = lab.train_student("--quiet", "--json")
    assert answer.status == 0, answer.stderr
    lines = [line["hard_labels"] for line in lab.metrics() if "hard_labels" in line]
    assert len(lines) == json.loads(answer.stdout)["steps"] == 2 * 3  # two epochs of 23, by 8
    inspected = run_cli("inspect", str(lab.cache)).stdout
    assert "3 of each sample, seed 7: shift, flip, noise, mixup" in inspected
    assert "of the teacher: unlabelled" in inspected  # an answer about two is right about neither


def test_views_that_are_seen_again_are_told_of(lab: Lab) -> None:
    mixed(lab, "")
    assert "views:" not in lab.train_student("--set", "run.path=few").stderr
    answer = lab.train_student("--set", "training.epochs=5")
    assert (
        "views: 3 of each sample are cached and this run takes 5 epochs; from epoch 4 on they are "
        "seen again\n"
    ) in answer.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("views.count=4", "views.count: there 3, here 4"),
        ("views.seed=8", "views.seed: there 7, here 8"),
        ("views.augment.0.pixels=2.0", "views.augment.0.pixels: there 1.5, here 2.0"),
        ("views.mix={kind='mixup'}", "views.mix"),
    ],
)
@pytest.mark.parametrize("command", ["cache-teacher", "train-student"])
def test_views_that_changed_since_are_refused(
    lab: Lab, command: str, setting: str, message: str
) -> None:
    mixed(lab, "")
    answer = run_cli(command, str(lab.recipe), "--quiet", "--set", setting)
    assert answer.status == 2
    assert message in answer.stderr


def test_a_cache_of_images_as_they_are_does_not_pass_for_one_of_views(lab: Lab) -> None:
    text = lab.recipe.read_text()
    lab.recipe.write_text(text.replace(AUGMENT, ""))
    assert lab.cache_teacher("--quiet").status == 0
    lab.recipe.write_text(text)
    answer = lab.train_student("--quiet")
    assert answer.status == 2
    assert (
        "its teacher saw the samples as they are, and the recipe has [views] of them."
        in answer.stderr
    )
    # The student alone may be shown views, if the recipe says so; they never come again.
    answer = lab.train_student("--set", "training.views=fresh", "--set", "training.epochs=5")
    assert answer.status == 0, answer.stderr
    assert "seen again" not in answer.stderr
    mixed(lab, "", "cache.path=other")
    answer = lab.train_student(
        "--quiet", "--set", "training.views=fresh", "--set", "cache.path=other"
    )
    assert answer.status == 2
    assert (
        "this cache holds views of its own, so training.views = 'fresh' would show" in answer.stderr
    )


def test_without_a_cache_every_epoch_shows_another_view_and_held_out_data_none(lab: Lab) -> None:
    recipe = load_recipe(lab.recipe, ["losses=[{ kind = 'hard_labels', weight = 1.0 }]"])
    trained, judged = (
        scan_data(recipe, name, quiet=True).samples for name in ("train", "validation")
    )
    stream = Stream(trained, batch_size=ROWS)
    seen = [
        batch.inputs[np.argsort(batch.ids)].numpy().tobytes() for _, batch in of_epochs(stream, 5)
    ]
    assert len(set(seen)) == 5  # no view is the last one
    plain = draw_samples(ROWS, seed=0, prefix="s")["image"].tobytes()
    held_out = next(iter(Stream(judged, batch_size=ROWS, seed=None)))
    assert held_out.inputs.numpy().tobytes() == plain


def test_a_stream_refuses_views_of_its_own_beside_those_of_a_cache(lab: Lab) -> None:
    mixed(lab, "")
    recipe = load_recipe(lab.recipe)
    views = scan_data(recipe, "train", quiet=True).samples.views  # type: ignore[attr-defined]
    with pytest.raises(SampleError, match="holds views of its own, so its samples cannot be shown"):
        Stream(open_data(recipe, "train"), open_cache(lab.cache), batch_size=8, fresh=views)


def test_what_a_student_alone_sees_in_views_is_cached_as_it_is(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet", "--set", "training.views=fresh").status == 0
    assert "views" not in open_cache(lab.cache).plan.about


def test_text_is_not_augmented(lab: Lab) -> None:
    (lab.folder / "train.txt").write_text("from fairest creatures\n")
    data = "data.train={kind='text', path='train.txt', tokenizer='bytes', length=8}"
    answer = lab.cache_teacher("--quiet", "--set", data)
    assert answer.status == 2
    assert "data.train: is text, and views.augment is of images. Leave it out" in answer.stderr
