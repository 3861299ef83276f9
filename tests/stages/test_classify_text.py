"""Text with labels, end to end: a teacher on hard labels, its cache, and a student of that."""

import json
from pathlib import Path

import pytest
import torch
from laboratory import Lab, run_cli

from pipeline import open_cache

HARD = """\
[[losses]]
kind = "hard_labels"
weight = 1.0

[run]
path = "teacher"
"""
SOFT = """\
[teacher]
model = { kind = "run", path = "teacher" }
batch_size = 5
threads = 1

[targets]
selection = { kind = "all" }

[cache]
path = "cache"
rows_per_part = 8

[[losses]]
kind = "soft_targets"
weight = 1.0
temperature = 2.0

[run]
path = "run"
"""
RECIPE = """\
name = "labels"

[data.train]
kind = "text"
path = "train.jsonl"
tokenizer = "bytes"
length = 12
task = "label"
label = "kind"

[student.model]
kind = "transformers"
task = "label"

[student.model.config]
model_type = "bert"
vocab_size = 257
hidden_size = 16
intermediate_size = 16
num_hidden_layers = LAYERS
num_attention_heads = 2
max_position_embeddings = 12
id2label = { 0 = "vowels", 1 = "consonants" }
label2id = { vowels = 0, consonants = 1 }

[training]
epochs = 6
batch_size = 8
learning_rate = 2e-2
log_every = 1
threads = 1

[validation]
data = "train"
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    pytest.importorskip("transformers")
    words = [("aeiou"[row % 5] * (2 + row % 9), 0) for row in range(20)]
    words += [("bcdfg"[row % 5] * (2 + row % 9), 1) for row in range(20)]
    lines = [json.dumps({"text": text, "kind": label}) for text, label in words]
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "teacher.toml").write_text(RECIPE.replace("LAYERS", "2") + HARD)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace("LAYERS", "1") + SOFT)
    return Lab(tmp_path)


def test_a_classifier_of_text_teaches_a_smaller_one(lab: Lab) -> None:
    import transformers

    taught = run_cli("train-student", str(lab.folder / "teacher.toml"), "--json", "--quiet")
    assert taught.status == 0, taught.stderr
    assert json.loads(taught.stdout)["validation"]["accuracy"] == 1.0
    cached = lab.cache_teacher("--json", "--quiet")
    assert cached.status == 0, cached.stderr
    told = json.loads(cached.stdout)
    assert (told["rows"], told["classes"], told["teacher_right"]) == (40, 2, 40)
    assert open_cache(lab.cache).plan.about["class_names"] == ["vowels", "consonants"]
    answer = lab.train_student("--json", "--quiet", "--set", "student.initialise.layers=first")
    assert answer.status == 0, answer.stderr
    assert json.loads(answer.stdout)["validation"]["accuracy"] == 1.0
    audit = run_cli("verify", str(lab.recipe), "--audit", "4", "--json", "--quiet")
    assert audit.status == 0, audit.stderr
    auto = transformers.AutoModelForSequenceClassification
    opened = auto.from_pretrained(lab.run / "pretrained").eval()
    tokens = torch.tensor([list(b"eee")])
    with torch.no_grad():
        assert opened.config.id2label[int(opened(tokens).logits.argmax())] == "vowels"


def test_a_saved_body_with_a_new_head_learns_and_then_teaches(lab: Lab) -> None:
    import transformers

    torch.manual_seed(0)
    body = transformers.BertConfig(
        vocab_size=257, hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=12,
    )  # fmt: skip
    transformers.BertModel(body).save_pretrained(lab.folder / "body")
    names = "new_head = ['vowels', 'consonants']"
    model = f"student.model={{ kind = 'transformers', path = 'body', {names} }}"
    options = ["--json", "--quiet", "--set", model]
    taught = run_cli("train-student", str(lab.folder / "teacher.toml"), *options)
    assert taught.status == 0, taught.stderr
    assert json.loads(taught.stdout)["validation"]["accuracy"] == 1.0
    # The body was where the run began; the cache is of what it ended with.
    cached = lab.cache_teacher("--json", "--quiet")
    assert cached.status == 0, cached.stderr
    assert json.loads(cached.stdout)["teacher_right"] == 40
    assert open_cache(lab.cache).plan.about["class_names"] == ["vowels", "consonants"]


def test_a_head_that_nobody_trained_is_no_teacher(lab: Lab) -> None:
    model = "teacher.model={ kind = 'transformers', path = 'body', new_head = ['a', 'b'] }"
    answer = lab.cache_teacher("--quiet", "--set", model)
    assert answer.status == 2
    assert answer.stderr == (
        "error: recipe.toml: 1 problem\n  teacher.model.new_head: a head that nobody trained "
        "cannot teach; give it to a student, and name the run of that as the teacher\n"
        "  see pipeline/guide/recipe.md\n"
    )


def test_the_classes_of_a_new_head_have_a_name_each(lab: Lab) -> None:
    model = "student.model={ kind = 'transformers', path = 'body', new_head = ['a', 'a'] }"
    answer = run_cli("train-student", str(lab.folder / "teacher.toml"), "--quiet", "--set", model)
    assert answer.status == 2
    assert "student.model.new_head: a name occurs twice; every class needs its own" in answer.stderr


def test_a_model_of_ones_own_is_given_rows_of_tokens(lab: Lab) -> None:
    (lab.folder / "own.py").write_text(
        "import torch\n\n\n"
        "class Bag(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.embedding = torch.nn.Embedding(257, 2)\n\n"
        "    def forward(self, rows):\n"
        "        assert rows.dtype == torch.int32\n"
        "        tokens, documents = rows.unbind(1)\n"
        "        return (self.embedding(tokens) * (documents >= 0)[:, :, None]).sum(1)\n"
    )
    model = "student.model={ kind = 'python', factory = 'own:Bag' }"
    options = ["--json", "--quiet", "--set", model, "--set", "training.learning_rate=0.3"]
    answer = run_cli("train-student", str(lab.folder / "teacher.toml"), *options)
    assert answer.status == 0, answer.stderr
    assert json.loads(answer.stdout)["validation"]["accuracy"] > 0.9


def test_a_model_for_another_task_is_refused(lab: Lab) -> None:
    config = (
        "student.model.config={ model_type = 'gpt2', vocab_size = 257, n_embd = 8, n_head = 2 }"
    )
    options = ["--quiet", "--set", config, "--set", "student.model.task=next_token"]
    answer = run_cli("train-student", str(lab.folder / "teacher.toml"), *options)
    assert answer.status == 2
    assert answer.stderr == (
        "error: student.model: is for the task 'next_token', but data.train asks for 'label'. Give "
        "model and data the same task.\n"
    )


@pytest.mark.parametrize("stage", ["train-student", "cache-teacher"])
def test_rows_longer_than_a_models_context_are_refused_before_they_are_read(
    stage: str, lab: Lab
) -> None:
    recipe = "teacher.toml" if stage == "train-student" else "recipe.toml"
    if stage == "cache-teacher":
        taught = run_cli("train-student", str(lab.folder / "teacher.toml"), "--quiet")
        assert taught.status == 0
    (lab.folder / "train.jsonl").unlink()
    options = ["--quiet", "--set", "data.train.length=13"]
    answer = run_cli(stage, str(lab.folder / recipe), *options)
    whose = "student" if stage == "train-student" else "teacher"
    assert answer.status == 2
    assert answer.stderr == (
        f"error: {recipe}: 1 problem\n  data.train.length: must be at most 12, the tokens that "
        f"{whose}.model takes at once; got 13. Cut the text shorter, or give a model of a longer "
        "context\n"
    )


def test_tokens_that_a_model_does_not_know_are_refused(lab: Lab) -> None:
    options = ["--quiet", "--set", "student.model.config.vocab_size=128"]
    answer = run_cli("train-student", str(lab.folder / "teacher.toml"), *options)
    assert answer.status == 2
    assert answer.stderr == (
        "error: student.model: knows 128 tokens, but data.train is of 257. Give the data the "
        "tokenizer of the model.\n"
    )
