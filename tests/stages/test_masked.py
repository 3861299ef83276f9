"""Masked language models, end to end: the student is asked what its teacher was asked."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from laboratory import Lab, run_cli
from torch.utils.data import DataLoader

from pipeline import Stream, open_cache, open_samples
from pipeline.experiment import open_data, open_model
from pipeline.recipe import load_recipe
from pipeline.samples import content_digests, make_views, positions_of, split_rows
from pipeline.store import Cache
from pipeline.stream import Batch
from pipeline.targets import Targets, TargetSpec, decode, soften

VERSES = [
    "From fairest creatures we desire increase,",
    "That thereby beauty's rose might never die,",
    "But as the riper should by time decease,",
    "His tender heir might bear his memory:",
    "But thou, contracted to thine own bright eyes,",
]

RECIPE = """\
name = "masked"

[data.train]
kind = "text"
path = "train.txt"
tokenizer = "bytes"
length = 24
task = "masked_token"

[data.validation]
kind = "text"
path = "validation.txt"
tokenizer = "bytes"
length = 24
task = "masked_token"

[views]
count = 3
seed = 5

[teacher]
model = { kind = "python", factory = "masked_models:masked", task = "masked_token" }
batch_size = 4
threads = 1

[targets]
selection = { kind = "top_k", k = 8 }

[cache]
path = "cache"
rows_per_part = 7

[student.model]
kind = "python"
factory = "masked_models:masked"
task = "masked_token"
arguments = { seed = 1 }

[[losses]]
kind = "soft_targets"
weight = 0.5
temperature = 2.0

[[losses]]
kind = "hard_labels"
weight = 0.5

[training]
epochs = 2
batch_size = 4
learning_rate = 1e-2
log_every = 1
threads = 1

[validation]
data = "validation"
best_by = "nll"

[run]
path = "run"
"""

MODELS = '''\
"""Models of masked bytes: a mean of what is near in the document; and some that do not fit."""

import torch
from torch import nn


class Masked(nn.Module):
    def __init__(self, seed):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(258, 8)
            self.head = nn.Linear(8, 258)

    def forward(self, tokens, documents=None):
        places = torch.arange(tokens.shape[1])
        distance = (places[:, None] - places[None, :]).abs().float()
        weights = torch.exp(-distance).expand(len(tokens), -1, -1)
        if documents is not None:
            weights = weights * (documents[:, :, None] == documents[:, None, :])
        return self.head(weights @ self.embedding(tokens))


class Blind(Masked):
    def forward(self, tokens):
        return super().forward(tokens)


class Half(Masked):
    def forward(self, tokens, attention_mask=None):
        return super().forward(tokens, None if attention_mask is None else attention_mask - 1)


def masked(seed=0):
    return Masked(seed)


def blind():
    return Blind(0)


def half():
    return Half(0)
'''

BERT = (
    "{ kind = 'transformers', task = 'masked_token', config = { model_type = 'bert', "
    "vocab_size = 258, hidden_size = 8, intermediate_size = 16, num_hidden_layers = 1, "
    "num_attention_heads = 2, max_position_embeddings = 32 } }"
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "train.txt").write_text("\n".join(VERSES))
    (tmp_path / "validation.txt").write_text("\n".join(VERSES[:3]))
    (tmp_path / "masked_models.py").write_text(MODELS)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return Lab(tmp_path)


def table_of(cache: Cache) -> list[tuple[str, int, int, bytes]]:
    """List id, view, positions and digest of every row."""
    rows = list[tuple[str, int, int, bytes]]()
    for part in range(cache.plan.part_count):
        table = cache.read_samples(part)
        digests = [digest.tobytes() for digest in table.digests]
        rows += zip(table.ids, table.views.tolist(), table.positions.tolist(), digests, strict=True)
    return rows


def test_a_row_is_a_sample_and_a_view_and_keeps_the_digest_of_the_sample(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    cache, samples = open_cache(lab.cache), open_data(load_recipe(lab.recipe), "train")
    count = len(samples)
    digests = content_digests(samples.read(range(count)).inputs)
    named = list(zip(samples.ids(0, count), digests, strict=True))
    assert [(name, view, digest) for name, view, _, digest in table_of(cache)] == [
        (name, view, digest.tobytes()) for view in range(3) for name, digest in named
    ]
    lengths = (samples.read(range(count)).inputs[:, 1] >= 0).sum(1)
    wanted = np.tile(np.ceil(0.15 * lengths - 1e-9), 3)
    assert [positions for _, _, positions, _ in table_of(cache)] == wanted.tolist()


@pytest.mark.parametrize("model", ["", f"teacher.model={BERT}"], ids=["python", "bert"])
def test_the_student_is_shown_bit_for_bit_what_the_teacher_was(lab: Lab, model: str) -> None:
    options = ["--set", model] if model else []
    assert lab.cache_teacher("--quiet", *options).status == 0
    recipe, cache = load_recipe(lab.recipe, options[1:]), open_cache(lab.cache)
    assert recipe.teacher
    samples, views = open_data(recipe, "train"), cache.plan.about["views"]
    shown = make_views(samples, count=3, seed=5)
    assert shown.settings == views
    torch.manual_seed(0)
    teacher = open_model(recipe, recipe.teacher.model, where="teacher.model").eval()
    seen = set()
    # Batches of another size, in another order, without any word of the recipe.
    stream = Stream(samples, cache, batch_size=5, seed=3)
    for batch in (batch for _ in range(3) for batch in stream):
        inputs, start = batch.inputs.numpy(), 0
        for row, name in zip(inputs, batch.ids, strict=True):
            raw = samples.read([[*samples.ids(0, len(samples))].index(name)])
            renditions = [shown.show(raw, np.array([view])).inputs[0] for view in range(3)]
            [view] = [view for view, each in enumerate(renditions) if np.array_equal(each, row)]
            seen.add((name, view))
            asked = row[2] >= 0
            assert isinstance(batch.labels, torch.Tensor)
            assert batch.labels[start : start + asked.sum()].tolist() == row[2][asked].tolist()
            start += int(asked.sum())
        assert start == len(batch.labels)
        assert isinstance(batch.targets, Targets)
        with torch.no_grad():
            logits = teacher(batch.inputs).logits
        wanted = logits.log_softmax(1).gather(1, batch.targets.classes)
        torch.testing.assert_close(soften(batch.targets, 1.0).log_probs, wanted, atol=2e-3, rtol=0)
    assert seen == {(name, view) for name, view, _, _ in table_of(cache)}
    assert len(seen) == 3 * len(samples)


@pytest.mark.parametrize("backend", ["zarr", "parquet"])
def test_cache_verify_and_train_a_masked_model(lab: Lab, backend: str) -> None:
    options = ["--set", f"teacher.model={BERT}", "--set", f"student.model={BERT}"]
    options += ["--quiet", "--set", f"cache.backend={backend}"]
    assert lab.cache_teacher(*options).status == 0
    audit = run_cli("verify", str(lab.recipe), *options, "--audit", "9", "--json")
    assert audit.status == 0, audit.stderr
    found = json.loads(audit.stdout)["audit"]
    assert (found["largest_difference"], found["other_classes"]) == (0.0, 0)
    answer = lab.train_student(*options, "--json")
    assert answer.status == 0, answer.stderr
    result = json.loads(answer.stdout)
    rows = open_cache(lab.cache).plan.rows
    assert rows == 3 * len(open_data(load_recipe(lab.recipe), "train"))
    assert result["steps"] == 2 * -(-rows // 3 // 4)
    assert lab.train_student(*options, "--set", "run.path=again").status == 0
    assert losses_of(lab, "again") == losses_of(lab)
    transformers = pytest.importorskip("transformers")
    saved = transformers.AutoModelForMaskedLM.from_pretrained(lab.run / "pretrained")
    assert type(saved).__name__ == "BertForMaskedLM"


def losses_of(lab: Lab, run: str = "run") -> list[float]:
    return [line["loss"] for line in lab.metrics(run) if "loss" in line]


def test_a_cache_in_pieces_is_a_cache_at_once(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    whole = {path: path.read_bytes() for path in lab.cache.rglob("*") if path.is_file()}
    for name in ("manifest.json", "parts/00001.json", "parts/00003.json"):
        (lab.cache / name).unlink()
    assert lab.cache_teacher("--quiet").status == 0
    assert {path: path.read_bytes() for path in lab.cache.rglob("*") if path.is_file()} == whole


def test_packed_documents_are_answered_as_if_each_were_alone(lab: Lab) -> None:
    answers = []
    for pack in ("true", "false"):
        options = ["--set", f"data.train.pack={pack}", "--set", f"cache.path=packed-{pack}"]
        # Every token is asked for, and shown: then the masks of both are the same.
        options += ["--set", "views.mask={fraction=1.0, mask=0.0, random=0.0}"]
        options += ["--set", "views.count=1"]
        assert lab.cache_teacher("--quiet", *options).status == 0
        cache = open_cache(lab.folder / f"packed-{pack}")
        parts = range(cache.plan.part_count)
        answers.append(np.concatenate([cache.read_part(part)["logits"] for part in parts]))
    np.testing.assert_allclose(answers[0], answers[1], atol=2e-3)


def test_without_a_cache_every_epoch_has_masks_of_its_own_and_validation_never(lab: Lab) -> None:
    samples = open_data(load_recipe(lab.recipe), "train")
    stream = Stream(samples, batch_size=100, seed=0)
    epochs = [next(iter(stream)) for _ in range(3)]
    shown = [
        {name: row.tobytes() for name, row in zip(each.ids, each.inputs.numpy(), strict=True)}
        for each in epochs
    ]
    assert all(shown[0][name] != shown[1][name] != shown[2][name] for name in shown[0])
    views = make_views(samples)
    first = samples.read([0])
    for epoch in range(3):
        again = views.show(first, np.array([epoch])).inputs[0]
        assert shown[epoch][first.ids[0]] == again.tobytes()
    fixed = Stream(samples, batch_size=100, seed=None)
    assert torch.equal(next(iter(fixed)).inputs, next(iter(fixed)).inputs)


def test_a_small_teacher_is_trained_on_hard_labels_alone_and_continues_bit_for_bit(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ["--quiet", "--set", "losses=[{kind='hard_labels', weight=1.0}]"]
    options += ["--set", "training.epochs=3", "--set", "training.checkpoint_every=2"]
    assert lab.train_student(*options).status == 0

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.training.loop._evaluate", stop)
        assert lab.train_student(*options, "--set", "run.path=again").status == 130
    assert lab.train_student(*options, "--set", "run.path=again").status == 0
    assert losses_of(lab, "again") == losses_of(lab)


@pytest.mark.parametrize(
    ("setting", "difference"),
    [
        ("views.seed=6", "views.seed: there 5, here 6"),
        ("views.count=2", "views.count: there 3, here 2"),
        ("views.mask.fraction=0.3", "views.mask.fraction: there 0.15, here 0.3"),
    ],
)
def test_other_views_are_refused_by_name_to_go_on_and_to_learn_from(
    lab: Lab, setting: str, difference: str
) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    learn = lab.train_student("--quiet", "--set", setting)
    assert learn.status == 2
    assert f"{lab.cache}: this cache holds other views than the recipe asks for" in learn.stderr
    assert difference in learn.stderr
    go_on = lab.cache_teacher("--quiet", "--set", setting)
    assert go_on.status == 2
    assert f"about.{difference}" in go_on.stderr


def test_a_recipe_without_views_learns_from_those_of_the_cache(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    assert lab.train_student("--quiet").status == 0
    lab.edit("[views]\ncount = 3\nseed = 5\n", "")
    assert lab.train_student("--quiet", "--set", "run.path=again").status == 0
    assert losses_of(lab, "again")[0] == losses_of(lab)[0]


def test_a_corpus_that_grew_is_masked_as_it_was(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    assert lab.train_student("--quiet").status == 0
    with (lab.folder / "train.txt").open("a") as file:
        file.write("\nFeed'st thy light'st flame with self-substantial fuel,")
    assert lab.train_student("--quiet", "--set", "run.path=again").status == 0
    assert losses_of(lab, "again") == losses_of(lab)


def test_views_of_another_version_are_refused(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    monkeypatch.setattr("pipeline.samples.views.views.VERSION", 3)
    answer = lab.train_student("--quiet")
    assert answer.status == 2
    assert "was made with version 2 of the views; this software shows version 3" in answer.stderr


@pytest.mark.parametrize(("there", "here"), [("next_token", "masked_token"),
                                             ("masked_token", "next_token")])  # fmt: skip
def test_answers_about_other_tokens_are_refused(lab: Lab, there: str, here: str) -> None:
    options = ["--set", f"data.train.task={there}", "--set", f"teacher.model.task={there}"]
    assert lab.cache_teacher("--quiet", *options).status == 0
    options = ["--set", f"data.train.task={here}", "--set", f"student.model.task={here}"]
    answer = lab.train_student("--quiet", *options)
    assert answer.status == 2
    assert "answers about masked tokens, and data.train asks for" in answer.stderr


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["teacher.model.task=next_token"],
         "teacher.model: is for the task 'next_token', but data.train asks for 'masked_token'. "
         "Give model and data the same task."),
        (["data.train.task=next_token"],
         "teacher.model: is for the task 'masked_token', but data.train asks for 'next_token'. "
         "Give model and data the same task."),
        (["teacher.model.task=label"], "teacher.model: "),
        (["teacher.model.factory=masked_models:blind"],
         "teacher.model: Blind would take padding for text, for its forward takes neither"),
        (["teacher.model.factory=masked_models:half", "data.train.pack=true",
          "data.train.length=64"],
         "teacher.model: Half cannot keep packed documents apart"),
        (["data.train.mask_token=[MASK]"],
         "data.train.mask_token: bytes have no token '[MASK]'; allowed is 'mask', or nothing"),
        (["data.train.task=next_token", "data.train.mask_token=mask"],
         "data.train.mask_token: nothing is masked but for the task 'masked_token'"),
        (["data.train.task=label", "data.validation.task=next_token"],
         "views: says nothing of how samples are seen"),
        (["views.mask.random=0.3"],
         "views.mask: mask and random are shares of the same tokens, so they add up to 1 or less; "
         "got 0.8 and 0.3"),
        (["views.mask.fraction=0.0"], "views.mask.fraction: must be greater than 0; got 0.0"),
        (["views.count=0"], "views.count: must be at least 1; got 0"),
        (["views.masks.fraction=0.3"], "views.masks: unknown key; did you mean 'mask'?"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_before_the_work(
    lab: Lab, settings: list[str], message: str
) -> None:
    (lab.folder / "train.txt").write_text("a short one\n" + (lab.folder / "train.txt").read_text())
    answer = lab.cache_teacher("--quiet", *[word for each in settings for word in ("--set", each)])
    assert answer.status == 2
    assert message in answer.stderr
    assert not lab.cache.exists()


def test_a_first_document_that_was_skipped_does_not_stop_the_student(lab: Lab) -> None:
    text = (lab.folder / "train.txt").read_bytes()
    (lab.folder / "train.txt").write_bytes(b"not \xff fine\n" + text)
    options = ["--quiet", "--set", "data.train.on_error=skip"]
    assert lab.cache_teacher(*options).status == 0
    answer = lab.train_student(*options)
    assert answer.status == 0, answer.stderr


@pytest.mark.parametrize("cached", [True, False], ids=["cached", "hard labels"])
def test_loader_workers_show_the_same_views(lab: Lab, cached: bool) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    samples = open_data(load_recipe(lab.recipe), "train")
    cache = open_cache(lab.cache) if cached else None
    alone = list(Stream(samples, cache, batch_size=4))
    shared = list(DataLoader(Stream(samples, cache, batch_size=4), batch_size=None, num_workers=2))
    assert len(alone) == len(shared)
    assert all(torch.equal(*pair) for pair in zip(inputs_of(alone), inputs_of(shared), strict=True))


def inputs_of(batches: list[Batch]) -> list[torch.Tensor]:
    return [batch.inputs for batch in batches]


def test_the_loop_of_ones_own_needs_no_recipe(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    samples = open_samples("text", base=lab.folder, path="train.txt", tokenizer="bytes",
                           length=24, task="masked_token")  # fmt: skip
    stream = Stream(samples, open_cache(lab.cache), batch_size=8)
    assert sum(len(batch.ids) for batch in stream) == len(samples)


def test_positions_of_the_cache_are_those_of_the_views(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    cache, samples = open_cache(lab.cache), open_data(load_recipe(lab.recipe), "train")
    views = make_views(samples, count=3, seed=5)
    spec, row = TargetSpec.from_json(cache.plan.about["targets"]), 0
    for part in range(cache.plan.part_count):
        table = cache.read_samples(part)
        indices, numbers = split_rows(range(row, row + len(table)), len(samples))
        shown = views.show(samples.read(indices), numbers)
        positions = positions_of(samples, shown)
        assert positions.counts.tolist() == table.positions.tolist()
        assert len(positions.labels) == len(decode(spec, cache.read_part(part)).logits)
        row += len(table)
