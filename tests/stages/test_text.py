"""Per-token distillation, end to end: a position a token, whatever is packed with what."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from laboratory import Lab, run_cli

from pipeline import open_cache
from pipeline.experiment import open_data, open_model
from pipeline.recipe import load_recipe
from pipeline.samples import positions_of
from pipeline.stream import Stream
from pipeline.targets import TargetSpec, decode, soften

VERSES = [
    "From fairest creatures we desire increase,",
    "That thereby beauty's rose might never die,",
    "But as the riper should by time decease,",
    "His tender heir might bear his memory:",
    "But thou, contracted to thine own bright eyes,",
    "Feed'st thy light'st flame with self-substantial fuel,",
    "Making a famine where abundance lies,",
    "Thyself thy foe, to thy sweet self too cruel.",
]

RECIPE = """\
name = "text"

[data.train]
kind = "text"
path = "train.txt"
tokenizer = "bytes"
length = 24
pack = true

[data.validation]
kind = "text"
path = "validation.txt"
tokenizer = "bytes"
length = 24

[teacher]
model = { kind = "python", factory = "text_models:causal", task = "next_token" }
batch_size = 4
threads = 1

[targets]
selection = { kind = "top_k", k = 8 }

[cache]
path = "cache"
rows_per_part = 6

[student.model]
kind = "python"
factory = "text_models:causal"
task = "next_token"
arguments = { seed = 1 }

[[losses]]
kind = "soft_targets"
weight = 0.5
temperature = 2.0

[[losses]]
kind = "hard_labels"
weight = 0.5

[training]
epochs = 3
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
"""A causal model that keeps documents apart: a decaying mean of what came before."""

import torch
from torch import nn


class Causal(nn.Module):
    def __init__(self, seed, classes):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.embedding = nn.Embedding(257, 8)
            self.head = nn.Linear(8, classes)

    def forward(self, tokens, documents=None):
        length = tokens.shape[1]
        places = torch.arange(length)
        distance = (places[:, None] - places[None, :]).float()
        weights = torch.where(distance >= 0, torch.exp(-distance), 0.0).expand(len(tokens), -1, -1)
        if documents is not None:
            weights = weights * (documents[:, :, None] == documents[:, None, :])
        return self.head(weights @ self.embedding(tokens))


def causal(seed=0, classes=257):
    return Causal(seed, classes)


def linear():
    return nn.Linear(3, 2)
'''


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    (tmp_path / "train.txt").write_text("\n".join(VERSES) * 3)
    (tmp_path / "validation.txt").write_text("\n".join(VERSES[:3]))
    (tmp_path / "text_models.py").write_text(MODELS)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return Lab(tmp_path)


def test_every_token_but_a_documents_first_has_targets(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    cache, recipe = open_cache(lab.cache), load_recipe(lab.recipe)
    assert recipe.teacher
    samples = open_data(recipe, "train")
    network = open_model(recipe, recipe.teacher.model, where="teacher.model").eval()
    rows = 0
    for part in range(cache.plan.part_count):
        table = cache.read_samples(part)
        batch = samples.read(range(rows, rows + len(table)))
        positions = positions_of(samples, batch)
        assert table.ids == batch.ids
        assert table.positions.tolist() == positions.counts.tolist()
        spec = TargetSpec.from_json(cache.plan.about["targets"])
        targets = decode(spec, cache.read_part(part))
        with torch.no_grad():
            logits = network(torch.from_numpy(batch.inputs)).logits
        wanted = logits.log_softmax(1).gather(1, targets.classes)
        torch.testing.assert_close(soften(targets, 1.0).log_probs, wanted, atol=2e-3, rtol=0)
        rows += len(table)
    assert rows == len(samples)


def test_packed_documents_are_answered_as_if_each_were_alone(lab: Lab) -> None:
    for pack in ("true", "false"):
        options = ["--set", f"data.train.pack={pack}", "--set", f"cache.path=packed-{pack}"]
        assert lab.cache_teacher("--quiet", *options).status == 0
    logits = [
        np.concatenate([cache.read_part(part)["logits"] for part in range(cache.plan.part_count)])
        for cache in (
            open_cache(lab.folder / "packed-true"),
            open_cache(lab.folder / "packed-false"),
        )
    ]
    np.testing.assert_allclose(logits[0], logits[1], atol=2e-3)


def test_a_student_learns_from_the_cache_and_continues_bit_for_bit(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = lab.train_student("--json", "--quiet")
    assert answer.status == 0, answer.stderr
    result = json.loads(answer.stdout)
    losses = [line["loss"] for line in lab.metrics() if "loss" in line]
    assert losses[-1] < losses[0]
    assert result["validation"]["nll"] < np.log(257)
    assert result["validation"]["perplexity"] == np.exp(result["validation"]["nll"])
    assert lab.train_student("--quiet", "--set", "run.path=again").status == 0
    again = [line["loss"] for line in lab.metrics("again") if "loss" in line]
    assert again == losses


def test_an_audit_compares_every_position_of_a_row(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = run_cli("verify", str(lab.recipe), "--audit", "5", "--json", "--quiet")
    assert answer.status == 0, answer.stderr
    audit = json.loads(answer.stdout)["audit"]
    assert (audit["largest_difference"], audit["other_classes"]) == (0.0, 0)
    assert audit["kept"] % 8 == 0
    assert audit["kept"] > 5 * 8


def test_another_tokenizer_is_refused_before_anything_else(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = lab.train_student("--quiet", "--set", "data.train.end=end")
    assert answer.status == 2
    assert "data.train: its tokenizer is another than that of " in answer.stderr
    assert "Give the data the tokenizer that the teacher saw." in answer.stderr


def test_changed_text_is_refused_by_name(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    text = (lab.folder / "train.txt").read_text()
    (lab.folder / "train.txt").write_text(text.replace("famine", "Famine", 1))
    answer = lab.train_student("--quiet")
    assert answer.status == 2
    assert "changed: 1: train.txt:7#0" in answer.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("teacher.model.task=label", "teacher.model: "),
        ("data.train.task=label", "data.train.pack: a row with a label is one document"),
        ("data.train.length=1", "data.train.length: "),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_the_work(
    lab: Lab, setting: str, message: str
) -> None:
    answer = lab.cache_teacher("--quiet", "--set", setting)
    assert answer.status == 2
    assert message in answer.stderr
    assert not lab.cache.exists()


def test_logits_that_are_not_finite_are_blamed_on_their_document(lab: Lab) -> None:
    models = lab.folder / "text_models.py"
    sick = "logits = self.head(weights @ self.embedding(tokens))\n"
    sick += "        logits[tokens == 0x2D] = float('nan')  # a hyphen\n        return logits\n"
    models.write_text(
        models.read_text().replace("return self.head(weights @ self.embedding(tokens))\n", sick)
    )
    answer = lab.cache_teacher("--quiet", "--set", "data.train.pack=false")
    assert answer.status == 2
    assert "its logits are NaN or infinite for 1 of 2 samples of a batch (train.txt:6#1)" in (
        answer.stderr
    )


LOW_RANK = "targets.tail={ kind = 'low_rank', rank = 6, positions = 100 }"


@pytest.mark.parametrize("backend", ["zarr", "parquet"])
def test_the_shape_of_the_tail_is_kept_and_learned_from(lab: Lab, backend: str) -> None:
    options = ["--quiet", "--set", LOW_RANK, "--set", f"cache.backend={backend}"]
    assert lab.cache_teacher(*options, "--set", "cache.path=undisturbed").status == 0
    assert lab.cache_teacher(*options).status == 0
    files = sorted(path for path in lab.cache.rglob("*") if path.is_file())
    names = [path.relative_to(lab.cache) for path in files]
    assert [name for name in names if name.parts[0] == "shared"]
    for name in names:
        assert (lab.folder / "undisturbed" / name).read_bytes() == (lab.cache / name).read_bytes()
    cache = open_cache(lab.cache)
    assert cache.read_shared()["vectors"].shape == (257, 6)
    shared = [path for path in (lab.cache / "shared").rglob("*") if path.is_file()]
    on_disk = sum(path.stat().st_size for path in shared)
    shown = run_cli("inspect", str(lab.cache)).stdout
    assert f"; and {on_disk / 1e6:.2f} MB once, which all parts share" in shown
    assert cache.read_part(0, ["codes"])["codes"].shape[1] == 3
    audit = run_cli("verify", str(lab.recipe), *options[1:], "--audit", "3", "--quiet")
    assert audit.status == 0, audit.stderr
    assert lab.train_student(*options).status == 0
    with_shape = lab.metrics()[0]["soft_targets"]
    assert (
        lab.train_student(*options, "--set", "losses.0.tail=bucket", "--set", "run.path=b").status
        == 0
    )
    assert lab.metrics("b")[0]["soft_targets"] < with_shape


SMALL = [
    *("--set", "targets.encoding=small", "--set", "targets.selection.k=4"),
    *("--set", "targets.tail={ kind = 'low_rank', bytes = 3, positions = 100 }"),
]


@pytest.mark.parametrize("backend", ["zarr", "parquet"])
def test_a_small_cache_is_made_shown_verified_and_learned_from(lab: Lab, backend: str) -> None:
    options = ["--quiet", *SMALL, "--set", f"cache.backend={backend}"]
    assert lab.cache_teacher(*options).status == 0
    cache = open_cache(lab.cache)
    bits = cache.plan.about["targets"]["bits"]
    assert sum(width * count for width, count in bits) == 24
    assert cache.read_shared()["vectors"].shape == (257, sum(count for _, count in bits))
    names = {field.name for field in cache.plan.fields if field.axis == "positions"}
    assert names == {"classes", "logits", "range", "tail", "codes", "entropy"}
    size = sum(field.entry_bytes for field in cache.plan.fields if field.axis == "positions")
    assert size == 2 * 4 + 4 + 2 + 2 + 3 + 2
    shown = run_cli("inspect", str(lab.cache))
    assert shown.status == 0, shown.stderr
    audit = run_cli("verify", str(lab.recipe), *options[1:], "--audit", "3", "--quiet")
    assert audit.status == 0, audit.stderr
    for temperature in (1.0, 2.0):
        run = f"run.path=t{temperature:g}"
        values = f"losses.0.temperature={temperature}"
        trained = lab.train_student(*options, "--set", run, "--set", values)
        assert trained.status == 0, trained.stderr
    weighed = ("--set", "losses.0.weigh_by=confidence", "--set", "run.path=weighed")
    assert lab.train_student(*options, *weighed).status == 0
    losses = [lab.metrics(run)[0]["soft_targets"] for run in ("t1", "t2", "weighed")]
    assert len(set(losses)) == 3


def test_exact_temperatures_of_a_small_shape_are_refused(lab: Lab) -> None:
    answer = lab.cache_teacher("--quiet", *SMALL, "--set", "targets.temperatures=[2.0]")
    assert answer.status == 2
    assert "targets.temperatures: of a small encoding the tail's mass is exact at T = 1" in (
        answer.stderr
    )


@pytest.mark.parametrize("tail", [["--set", LOW_RANK], SMALL], ids=["even", "small"])
def test_a_cache_goes_on_with_the_basis_it_has(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, tail: list[str]
) -> None:
    options = ["--quiet", *tail]
    assert lab.cache_teacher(*options).status == 0
    whole = {path: path.read_bytes() for path in lab.cache.rglob("*") if path.is_file()}
    (lab.cache / "manifest.json").unlink()
    (lab.cache / "parts" / "00001.json").unlink()
    monkeypatch.setattr("pipeline.caching.shape.fit_basis", None)  # it would be called in vain
    assert lab.cache_teacher(*options).status == 0
    assert {path: path.read_bytes() for path in lab.cache.rglob("*") if path.is_file()} == whole


@pytest.mark.parametrize("name", ["arrays.zarr/vectors/c.0.0", "arrays.zarr/zarr.json"])
def test_a_flipped_byte_of_the_basis_is_found_refused_and_mended(lab: Lab, name: str) -> None:
    options = ["--quiet", "--set", LOW_RANK]
    assert lab.cache_teacher(*options).status == 0
    path = lab.cache / "shared" / name
    whole = path.read_bytes()
    path.write_bytes(bytes([whole[0] ^ 1]) + whole[1:])
    (lab.cache / "shared" / "notes.txt").write_text("mine")
    found = run_cli("verify", str(lab.cache), "--quiet")
    assert found.status == 1
    assert f"  shared/{name}: its checksum differs: a byte was changed\n" in found.stdout
    assert "  shared/notes.txt: does not belong to this cache\n" in found.stdout
    trained = lab.train_student(*options)
    assert trained.status == 1
    assert f"{lab.cache}: shared/{name}: its checksum differs" in trained.stderr
    assert lab.cache_teacher(*options).status == 0
    assert path.read_bytes() == whole
    assert run_cli("verify", str(lab.cache), "--quiet").status == 0


def test_a_rank_without_a_tail_is_refused(lab: Lab) -> None:
    answer = lab.cache_teacher("--quiet", "--set", LOW_RANK, "--set", "targets.selection.k=257")
    assert answer.status == 2
    assert "targets.tail: all 257 classes are kept, so there is no tail" in answer.stderr


SELECTIONS = {
    "top_p": "{ kind = 'top_p', p = 0.5, k_max = 20, k_min = 2 }",
    "sampled": "{ kind = 'sampled', draws = 6, proposal_temperature = 2.0 }",
    "hybrid": "{ kind = 'hybrid', k = 4, draws = 6, seed = 3 }",
}


@pytest.mark.parametrize("encoding", [[], ["--set", "targets.encoding=small"]], ids=["", "small"])
@pytest.mark.parametrize("backend", ["zarr", "parquet"])
@pytest.mark.parametrize("kind", sorted(SELECTIONS))
def test_every_selection_is_cached_audited_inspected_and_learned_from(
    lab: Lab, kind: str, backend: str, encoding: list[str]
) -> None:
    selection = ["--set", f"targets.selection={SELECTIONS[kind]}", *encoding]
    options = ["--quiet", *selection, "--set", f"cache.backend={backend}"]
    assert lab.cache_teacher(*options).status == 0
    assert run_cli("verify", str(lab.cache), "--quiet").status == 0
    audit = run_cli("verify", str(lab.recipe), *options[1:], "--audit", "3", "--quiet")
    assert audit.status == 0, audit.stderr
    shown = run_cli("inspect", str(lab.cache), "--rows", "2").stdout
    assert f"({kind})" in shown
    weighed = ["--set", "losses.0.weigh_by=entropy", "--set", "losses.0.temperature=2.0"]
    trained = lab.train_student(*options, *weighed)
    assert trained.status == 0, trained.stderr
    assert lab.metrics()[0]["soft_targets"] > 0


def test_draws_do_not_depend_on_batches_or_parts(lab: Lab) -> None:
    options = ["--quiet", "--set", f"targets.selection={SELECTIONS['hybrid']}"]
    assert lab.cache_teacher(*options).status == 0
    others = ["teacher.batch_size=3", "cache.rows_per_part=4", "cache.path=other"]
    assert lab.cache_teacher(*options, *(f"--set={each}" for each in others)).status == 0
    one, other = open_cache(lab.cache), open_cache(lab.folder / "other")
    first, second = (
        np.concatenate(
            [cache.read_part(part, ["drawn"])["drawn"] for part in range(cache.plan.part_count)]
        )
        for cache in (one, other)
    )
    np.testing.assert_array_equal(first, second)
    assert one.plan.part_count != other.plan.part_count


@pytest.mark.parametrize(
    ("selection", "tail", "text"),
    [
        (
            "{ kind = 'top_p', p = 0.5, k_max = 300 }",
            "bucket",
            "targets.selection.k_max: must be between 1 and 257, the classes of the teacher; got",
        ),
        (
            "{ kind = 'top_p', p = 0.5, k_max = 3, k_min = 4 }",
            "bucket",
            "targets.selection.k_min: must be at most k_max, 3; got 4",
        ),
        (
            "{ kind = 'hybrid', k = 257, draws = 4 }",
            "bucket",
            "targets.selection.draws: all 257 classes are kept, so there is no tail; leave it out",
        ),
        (
            SELECTIONS["sampled"],
            "low_rank",
            "targets.tail: 'low_rank' is for selections of kind top_k and top_p; 'sampled' says",
        ),
    ],
)
def test_selections_that_do_not_fit_are_refused(
    lab: Lab, selection: str, tail: str, text: str
) -> None:
    options = [f"targets.selection={selection}", f"targets.tail={{ kind = '{tail}' }}"]
    answer = lab.cache_teacher("--quiet", *(f"--set={each}" for each in options))
    assert answer.status == 2
    assert text in answer.stderr
    assert not lab.cache.exists()


def test_a_student_with_a_padded_vocabulary_learns_and_a_narrow_one_is_refused(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    wide = lab.train_student("--quiet", "--set", "student.model.arguments={ classes = 264 }")
    assert wide.status == 0, wide.stderr
    narrow = lab.train_student("--quiet", "--set", "student.model.arguments={ classes = 200 }")
    assert narrow.status == 2
    assert "student.model: answers with 200 classes, but" in narrow.stderr


def test_batches_of_similar_length_hold_less_padding_and_continue(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet", "--set", "data.train.pack=false").status == 0
    options = ["--quiet", "--set", "data.train.pack=false", "--set", "training.epochs=2"]
    grouped = [*options, "--set", "training.group_by_length=true"]
    assert lab.train_student(*options).status == 0
    assert lab.train_student(*grouped, "--set", "run.path=grouped").status == 0
    losses = [[line["soft_targets"] for line in lab.metrics(run)[:4]] for run in ("run", "grouped")]
    assert losses[0] != losses[1]
    cache = open_cache(lab.cache)
    samples = open_data(load_recipe(lab.recipe, ["data.train.pack=false"]), "train")
    padding = [
        sum(
            int((batch.inputs[:, 1] != -1).sum(1).max()) * len(batch.ids)
            for batch in Stream(samples, cache, batch_size=4, group_by_length=by_length)
        )
        for by_length in (False, True)
    ]
    assert padding[1] < padding[0]


def test_only_text_can_be_grouped_by_length(lab: Lab) -> None:
    arrays = "data.train={ kind = 'arrays', inputs = 'x.npy', labels = 'y.npy' }"
    np.save(lab.folder / "x.npy", np.zeros((4, 3), np.float32))
    np.save(lab.folder / "y.npy", np.zeros(4, np.int64))
    model = "student.model={ kind = 'python', factory = 'text_models:linear' }"
    losses = "losses=[{ kind = 'hard_labels', weight = 1.0 }]"
    answer = lab.train_student(
        *(f"--set={each}" for each in (arrays, model, losses, "training.group_by_length=true"))
    )
    assert answer.status == 2
    assert "training.group_by_length: data.train is no text, so all of its samples" in answer.stderr
