"""Students that begin as layers of their teacher, through the command line."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from laboratory import Lab

from pipeline.models import load_network, read_weights
from pipeline.training.checkpoint import save_checkpoint

RECIPE = """\
name = "layers"

[data.train]
kind = "text"
path = "train.txt"
tokenizer = "bytes"
length = 16

[teacher]
model = { kind = "transformers", path = "teacher" }
batch_size = 4
threads = 1

[targets]
selection = { kind = "top_k", k = 4 }

[cache]
path = "cache"

[student]
initialise = { layers = "spread" }

[student.model]
kind = "transformers"

[student.model.config]
model_type = "gpt2"
vocab_size = 257
n_embd = 8
n_layer = 2
n_head = 2

[[losses]]
kind = "soft_targets"
weight = 1.0

[training]
steps = 4
batch_size = 2
checkpoint_every = 2
threads = 1

[run]
path = "run"
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=257, n_embd=8, n_layer=4, n_head=2)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "teacher")
    (tmp_path / "train.txt").write_text("from fairest creatures\nwe desire increase\n" * 4)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return Lab(tmp_path)


def test_a_student_begins_as_layers_of_its_teacher_and_needs_it_no_more_when_trained(
    lab: Lab,
) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = lab.train_student("--set", "training.learning_rate=1e-12")
    assert answer.status == 0, answer.stderr
    assert (
        "student: begins as teacher.model: 2 layers of 4 (0, 3) and 4 other tensors copied, none "
        "left as they were\n"
    ) in answer.stderr
    teacher = load_network("transformers", base=lab.folder, where="teacher", path="teacher")
    wanted = teacher.model.state_dict()["transformer.h.3.mlp.c_fc.weight"]
    best = read_weights(lab.run / "best.safetensors", "best")
    torch.testing.assert_close(best["transformer.h.1.mlp.c_fc.weight"], wanted)
    shutil.rmtree(lab.folder / "teacher")
    student = load_network("run", base=lab.folder, where="model", path="run")
    assert torch.equal(student.model.state_dict()["lm_head.weight"], best["lm_head.weight"])


def test_a_run_that_was_stopped_ends_as_one_that_was_not(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    assert lab.train_student("--quiet", "--set", "run.path=whole").status == 0

    def save_and_stop(*arguments: Any, **options: Any) -> None:
        save_checkpoint(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("stages.train_student.save_checkpoint", save_and_stop)
        assert lab.train_student("--quiet").status == 130
    assert [line["step"] for line in lab.metrics()] == [1]
    assert lab.train_student("--quiet").status == 0
    whole = (lab.folder / "whole" / "best.safetensors").read_bytes()
    assert (lab.run / "best.safetensors").read_bytes() == whole


def test_other_layers_are_another_run(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    assert lab.train_student("--quiet").status == 0
    answer = lab.train_student("--quiet", "--set", "student.initialise.layers=last")
    assert answer.status == 2
    assert "  initial_weights: there '" in answer.stderr
    assert "  student.initialise.layers: there 'spread', here 'last'" in answer.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "student.initialise.layers=[0, 4]",
            "student.initialise.layers: there is no layer 4; the model to begin from has 4, so 0 "
            "to 3 are allowed.",
        ),
        (
            "student.model.config.n_embd=4",
            "student.initialise: transformer.h.0.ln_1.weight has shape (4,), but that of layer 0 "
            "of the model to begin from (8,); layers of another shape cannot be copied.",
        ),
        (
            "student.initialise.model={ kind = 'run', path = 'techer' }",
            "student.initialise.model.path: there is no folder ",
        ),
    ],
    ids=["no such layer", "widths", "no such model"],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    lab: Lab, setting: str, message: str
) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    answer = lab.train_student("--quiet", "--set", setting)
    assert answer.status == 2
    assert message in answer.stderr
    assert not (lab.run / "recipe.json").exists()


def test_another_model_than_the_teacher_may_be_begun_from(lab: Lab) -> None:
    assert lab.cache_teacher("--quiet").status == 0
    assert lab.train_student("--quiet").status == 0
    model = "student.initialise.model={ kind = 'run', path = 'run' }"
    options = ["--set", model, "--set", "student.initialise.layers=first"]
    answer = lab.train_student("--json", *options, "--set", "run.path=second")
    assert answer.status == 0, answer.stderr
    assert "student: begins as student.initialise.model: 2 layers of 2 (0, 1)" in answer.stderr
    assert json.loads(answer.stdout)["steps"] == 4
