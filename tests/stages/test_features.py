"""Features of a teacher, through the command line: cached, audited, streamed, and matched."""

import json
from pathlib import Path

import pytest
import torch
from laboratory import RECIPE as TINY
from laboratory import Lab, draw_samples, run_cli, write_samples

from pipeline import Stream, open_cache
from pipeline.experiment import open_data, open_model
from pipeline.models import Tap
from pipeline.recipe import load_recipe

RECIPE = """\
name = "features"

[data.train]
kind = "text"
path = "train.txt"
tokenizer = "bytes"
length = 12
pack = true

[teacher]
model = { kind = "transformers", path = "teacher" }
batch_size = 3
threads = 1

[targets]
selection = { kind = "top_k", k = 4 }

[[features]]
name = "last_hidden"
module = "transformer.ln_f"
dtype = "float32"

[cache]
path = "cache"
rows_per_part = 4

[student]
initialise = { layers = "first" }

[student.model]
kind = "transformers"

[student.model.config]
model_type = "gpt2"
vocab_size = 257
n_embd = 8
n_layer = 1
n_head = 2
resid_pdrop = 0.0
embd_pdrop = 0.0
attn_pdrop = 0.0

[[losses]]
kind = "cosine"
weight = 1.0
feature = "last_hidden"
module = "transformer.ln_f"

[[losses]]
kind = "soft_targets"
weight = 5.0

[[losses]]
kind = "hard_labels"
weight = 2.0

[training]
steps = 30
batch_size = 4
learning_rate = 1e-2
log_every = 1
threads = 1

[run]
path = "run"
"""
IMAGES = TINY.replace("tiny_models:teacher", "own:make").replace("tiny_models:student", "own:make")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=257, n_embd=8, n_layer=2, n_head=2, initializer_range=0.5
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "teacher")
    (tmp_path / "train.txt").write_text("from fairest\nwe desire\nincrease, that\n" * 4)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return Lab(tmp_path)


@pytest.mark.parametrize("backend", ["zarr", "parquet"])
def test_every_position_has_the_vector_its_logits_were_made_of(lab: Lab, backend: str) -> None:
    assert lab.cache_teacher("--quiet", "--set", f"cache.backend={backend}").status == 0
    recipe, cache = load_recipe(lab.recipe), open_cache(lab.cache)
    assert recipe.teacher
    network = open_model(recipe, recipe.teacher.model, where="teacher.model").eval()
    network.tap({"last_hidden": Tap("transformer.ln_f")})
    stream = Stream(
        open_data(recipe, "train"), cache, batch_size=5, seed=3, features=["last_hidden"]
    )
    seen = 0
    for batch in stream:
        assert batch.targets is not None
        feature = batch.features["last_hidden"]
        assert feature.shape == (len(batch.targets), 8)
        with torch.no_grad():
            output = network(batch.inputs)
        torch.testing.assert_close(feature, output.features["last_hidden"], atol=1e-5, rtol=0)
        torch.testing.assert_close(feature, output.states, atol=1e-5, rtol=0)
        seen += len(feature)
    assert seen > 50


def test_a_student_turns_its_states_to_where_the_teachers_point(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    alone = ["--set", "losses.1.weight=0.0", "--set", "losses.2.weight=0.0"]
    answer = lab.train_student("--quiet", *alone)
    assert answer.status == 0, answer.stderr
    lines = lab.metrics()
    assert lines[-1]["cosine"] < 0.5 * lines[0]["cosine"]


def test_three_losses_add_up_whatever_share_of_a_step_a_batch_is(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    assert lab.train_student("--quiet").status == 0
    first = lab.metrics()[0]
    total = first["cosine"] + 5 * first["soft_targets"] + 2 * first["hard_labels"]
    assert first["loss"] == pytest.approx(total)
    options = ["--set", "training.batch_size=2", "--set", "training.accumulate=2"]
    assert lab.train_student("--quiet", *options, "--set", "run.path=halves").status == 0
    halves = lab.metrics("halves")[0]
    assert halves["cosine"] == pytest.approx(first["cosine"], rel=1e-5)


def test_an_audit_compares_features_too(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = run_cli("verify", str(lab.recipe), "--audit", "4", "--json", "--quiet")
    assert answer.status == 0, answer.stderr
    assert json.loads(answer.stdout)["audit"]["largest_feature_difference"] == 0.0
    told = run_cli("verify", str(lab.recipe), "--audit", "4", "--quiet").stdout
    assert told.endswith(" kept classes differ, largest difference of a feature 0\n")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "features.0.module=transformer.lnf",
            "teacher.model: GPT2LMHeadModel has no module 'transformer.lnf' to read a feature "
            "from; the nearest is 'transformer.ln_f'.",
        ),
        (
            "features.0.module=transformer.drop.p",
            "teacher.model: GPT2LMHeadModel has no module 'transformer.drop.p'",
        ),
        (
            "features.0.module=transformer.wpe",
            "teacher.model: its module 'transformer.wpe' gives (1, 12, 8) for a batch of",
        ),
    ],
)
def test_a_feature_that_cannot_be_read_is_refused(lab: Lab, setting: str, message: str) -> None:
    answer = lab.cache_teacher("--quiet", "--set", setting)
    assert answer.status == 2
    assert message in answer.stderr
    assert not lab.cache.exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["losses.0.feature=hidden"],
            "  losses.0.feature: cache keeps no feature 'hidden'; it has last_hidden. Name one in "
            "[[features]] and cache again\n",
        ),
        (
            ["losses.0.module=transformer.h.0.mlp.c_fc"],
            "  losses.0.module: 'transformer.h.0.mlp.c_fc' gives (32,), and the feature "
            "'last_hidden' of the teacher is (8,): cosine: the student's features have shape "
            "(2, 32), the teacher's (2, 8); they must be equally many vectors and equally wide. "
            "Name a module of the student that is as wide as the teacher's, or set projection = "
            "true.\n",
        ),
        (
            ["losses.0.module=transformer.h.3"],
            "student.model: GPT2LMHeadModel has no module 'transformer.h.3'",
        ),
    ],
    ids=["no such feature", "another width", "no such module"],
)
def test_a_loss_of_features_that_does_not_fit_is_refused(
    lab: Lab, settings: list[str], message: str
) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = lab.train_student("--quiet", *(part for each in settings for part in ("--set", each)))
    assert answer.status == 2
    assert message in answer.stderr
    assert not (lab.run / "recipe.json").exists()


def test_a_feature_beyond_float16_is_refused(lab: Lab) -> None:
    transformers = pytest.importorskip("transformers")
    model = transformers.GPT2LMHeadModel.from_pretrained(lab.folder / "teacher")
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(1e6)
        model.lm_head.weight.mul_(1e-6)
    model.save_pretrained(lab.folder / "teacher")
    answer = lab.cache_teacher("--quiet", "--set", "features.0.dtype=float16")
    assert answer.status == 2
    assert "features: 'last_hidden' is not finite in float16 at " in answer.stderr
    assert "Give it dtype = 'float32', or look at the teacher." in answer.stderr


def test_other_features_are_another_cache(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = lab.cache_teacher("--quiet", "--set", "features.0.dtype=float16")
    assert answer.status == 2
    assert "features.0.dtype: there 'float32', here 'float16'" in answer.stderr


def test_an_image_has_one_vector(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(
        "from torch import nn\n\n\n"
        "def make(width=6):\n"
        "    return nn.Sequential(\n"
        "        nn.Flatten(), nn.Linear(16, width), nn.ReLU(inplace=True), nn.Linear(width, 5)\n"
        "    )\n"
    )
    samples = draw_samples(20, seed=0, prefix="s")
    write_samples(tmp_path / "train.parquet", samples)
    write_samples(tmp_path / "validation.parquet", samples)
    (tmp_path / "recipe.toml").write_text(IMAGES)
    lab = Lab(tmp_path)
    tapped = "features=[{ name = 'inner', module = '1' }]"
    assert lab.cache_teacher("--quiet", "--set", tapped).status == 0
    feature = open_cache(lab.cache).read_part(0)["feature_inner"]
    assert feature.shape == (8, 6)
    assert feature.min() < 0  # read before the ReLU works in place
    loss = "losses=[{ kind = 'cosine', weight = 1.0, feature = 'inner', module = '1' }]"
    answer = lab.train_student("--quiet", "--set", loss, "--set", "training.seed=1")
    assert answer.status == 0, answer.stderr
    lines = [line["cosine"] for line in lab.metrics() if "cosine" in line]
    assert lines[-1] < lines[0]


def test_a_dry_run_times_a_student_of_features_on_a_scratch_cache(lab: Lab) -> None:
    answer = lab.cache_teacher("--dry-run", "--json", "--quiet")
    assert answer.status == 0, answer.stderr
    measured = json.loads(answer.stdout)["measured"]
    assert measured["no_student"] is None
    assert measured["student"]["step_s"] > 0
    assert not lab.cache.exists()
