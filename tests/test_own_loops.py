"""The loops of pipeline/guide/own-loop.md, as they are printed, take the steps of the stage."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from laboratory import Lab, run_cli
from test_docs import ROOT, blocks
from torch.utils.data import DataLoader

from pipeline import Stream, hard_labels, open_cache, soft_targets

pytestmark = [
    # Lightning asks torch in a way that torch gives up.
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    # It would rather be started by srun, where Slurm is installed,
    pytest.mark.filterwarnings("ignore:The `srun` command is available"),
    # and find its folder empty.
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]
PAGE = "pipeline/guide/own-loop.md"
EXAMPLES = {
    block.splitlines()[0].removeprefix("# example: "): block for block in blocks(PAGE, "python")
}
PARTS = {"images": "the parts", "text": "the parts, of text"}
LOOPS = ("plain torch", "Trainer", "Lightning")
# Of the loss. The same operations in another order differ by some 1e-6 after as many steps, on some
# CPUs by 1.6e-5: their kernels round by the shapes they are given, and 40 steps add up.
TOLERANCE = 1e-4

DATA = {
    "images": """\
[data.train]
kind = "parquet"
path = "../digits.parquet"
id = "id"
label = "label"
shape = [1, 8, 8]
dtype = "uint8"
filter = { split = "train" }
subset = { count = 100, seed = 0, balanced = true }

[teacher]
model = { kind = "python", factory = "page_teachers:of_images" }

[cache]
path = "../../caches/digits"

[student]
model = { kind = "python", factory = "page_students:of_images" }

[[losses]]
kind = "soft_targets"
weight = 0.9
temperature = 4.0

[[losses]]
kind = "hard_labels"
weight = 0.1
""",
    "text": """\
[data.train]
kind = "text"
path = "../shakespeare/train"
document = "file"
tokenizer = "bytes"
length = 64
subset = { count = 40 }

[teacher]
model = { kind = "python", factory = "page_teachers:of_text", task = "next_token" }

[cache]
path = "../../caches/shakespeare"

[student]
model = { kind = "python", factory = "page_students:of_text", task = "next_token" }

[[losses]]
kind = "soft_targets"
weight = 1.0
""",
}
RECIPE = """
[targets]
selection = { kind = "top_k", k = 4 }

[training]
epochs = 20
batch_size = 32
learning_rate = 5e-3
weight_decay = 0.0
schedule = "constant"
log_every = 1
threads = 1

[run]
path = "../../runs/stage"
"""
# Untrained, and sure of themselves.
TEACHERS = """\
import models
import torch


def _sure(make):
    torch.manual_seed(1)
    teacher = make()
    for weights in teacher.parameters():
        weights.data *= 3
    return teacher


def of_images():
    return _sure(models.digits_student)


def of_text():
    return _sure(lambda: models.language_model(width=16, layers=1))
"""


def student_module(setting: str) -> str:
    """Write a module whose factory gives the very student that the page's parts make."""
    return (
        f"{EXAMPLES[PARTS[setting]]}\n\ndef of_{setting}():\n"
        "    import copy\n    return copy.deepcopy(student)\n"
    )


@pytest.fixture(scope="module", params=PARTS)
def setting(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(setting: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder with data, a cache, and the run of a student that the stage has trained."""
    folder = tmp_path_factory.mktemp(f"own-loop-{setting}")
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("assets"))
    recipes = folder / "data/recipes"
    (recipes / "page_teachers.py").write_text(TEACHERS)
    (recipes / "page_students.py").write_text(student_module(setting))
    (recipes / "page.toml").write_text(f'name = "page"\n\n{DATA[setting]}{RECIPE}')
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        for command in ("cache-teacher", "train-student"):
            answer = run_cli(command, str(recipes / "page.toml"), "--quiet")
            assert answer.status == 0, answer.stderr
    return folder


@pytest.fixture
def stage_losses(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Give the loss of every step of the stage, in the folder where it was run."""
    monkeypatch.chdir(folder)
    return [line["loss"] for line in Lab(folder).metrics("runs/stage") if "loss" in line]


def open_parts(setting: str) -> dict[str, Any]:
    """Run the parts of the page; the namespace also has a list that losses come to, in order."""
    there: dict[str, Any] = {"__name__": "example", "seen": []}
    exec_example(PARTS[setting], there)
    loss_of = there["loss_of"]

    def tell_loss(student: Any, batch: Any) -> Any:
        loss = loss_of(student, batch)
        there["seen"].append(loss.item())
        return loss

    return there | {"loss_of": tell_loss}


def exec_example(name: str, there: dict[str, Any]) -> None:
    exec(compile(EXAMPLES[name], f"{PAGE}, {name}", "exec"), there)


def run_loop(name: str, setting: str) -> dict[str, Any]:
    there = open_parts(setting)
    exec_example(name, there)
    return there


def code_lines(name: str) -> list[str]:
    """List an example's lines of code, without its imports."""
    lines = [line for line in EXAMPLES[name].splitlines() if line.strip() and line[0] != "#"]
    return [line for line in lines if not line.startswith(("import ", "from "))]


def test_every_example_has_a_name_of_its_own() -> None:
    found = blocks(PAGE, "python")
    assert len(EXAMPLES) == len(found)
    assert all(block.startswith("# example: ") for block in found)
    assert EXAMPLES.keys() == {*PARTS.values(), *LOOPS, "workers", "several GPUs"}


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_is_short(name: str) -> None:
    assert 5 <= len(code_lines(name)) <= 15


@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_has_the_losses_of_the_stage(
    name: str, setting: str, stage_losses: list[float]
) -> None:
    there = run_loop(name, setting)
    assert len(stage_losses) == 20 * len(there["stream"]) >= 40
    assert stage_losses[-1] < 0.9 * stage_losses[0]
    assert there["seen"] == pytest.approx(stage_losses, rel=TOLERANCE, abs=0)


ON_IMAGES = pytest.mark.parametrize("setting", ["images"], indirect=True)
# In the middle of the second epoch of four batches, and at its end.
STOPS = pytest.mark.parametrize("step", [6, 8])


def run_edited(name: str, setting: str, edits: dict[str, str]) -> dict[str, Any]:
    """Run a loop with some of its text replaced."""
    text = EXAMPLES[name]
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    there = open_parts(setting)
    exec(compile(text, f"{PAGE}, {name}, edited", "exec"), there)
    return there


@ON_IMAGES
@STOPS
def test_trainer_goes_on_from_a_checkpoint(
    step: int, setting: str, stage_losses: list[float], tmp_path: Path
) -> None:
    place = {"runs/trainer": str(tmp_path)}
    saving = {"max_grad_norm=0.0": f"max_grad_norm=0.0, max_steps=9, save_steps={step}"}
    resuming = {
        ".train()": f".train(resume_from_checkpoint={str(tmp_path / f'checkpoint-{step}')!r})"
    }
    before = run_edited("Trainer", setting, place | saving)["seen"]
    after = run_edited("Trainer", setting, place | resuming)["seen"]
    assert before == pytest.approx(stage_losses[:9], rel=TOLERANCE, abs=0)
    assert after == pytest.approx(stage_losses[step:], rel=TOLERANCE, abs=0)


@ON_IMAGES
def test_trainer_resumes_in_the_wrong_epoch_if_it_is_not_told(
    setting: str, stage_losses: list[float], tmp_path: Path
) -> None:
    place = {"runs/trainer": str(tmp_path)}
    saving = {"max_grad_norm=0.0": "max_grad_norm=0.0, max_steps=6, save_steps=6"}
    run_edited("Trainer", setting, place | saving)
    resuming = {
        ".train()": f".train(resume_from_checkpoint={str(tmp_path / 'checkpoint-6')!r})",
        ", callbacks=[SetEpoch()]": "",
    }
    after = run_edited("Trainer", setting, place | resuming)["seen"]
    assert after[0] != pytest.approx(stage_losses[6], rel=1e-2, abs=0)


@ON_IMAGES
@STOPS
def test_lightning_goes_on_from_a_checkpoint(
    step: int, setting: str, stage_losses: list[float], tmp_path: Path
) -> None:
    saves = (
        f"pl.callbacks.ModelCheckpoint({str(tmp_path)!r}, '{{step}}', every_n_train_steps={step})"
    )
    saving = {"max_epochs=20": f"max_steps=9, callbacks=[{saves}]"}
    resuming = {
        "max_epochs=20": f"max_epochs=20, callbacks=[{saves}]",
        "stream)": f"stream, ckpt_path={str(tmp_path / f'step={step}.ckpt')!r})",
    }
    before = run_edited("Lightning", setting, saving)["seen"]
    after = run_edited("Lightning", setting, resuming)["seen"]
    assert before == pytest.approx(stage_losses[:9], rel=TOLERANCE, abs=0)
    assert after == pytest.approx(stage_losses[step:], rel=TOLERANCE, abs=0)


def weights_of(student: torch.nn.Module) -> torch.Tensor:
    return torch.cat([each.detach().flatten() for each in student.parameters()])


# Of four batches, the last of them short, in steps of three: by what those of the second, of which
# there is one, are divided.
@ON_IMAGES
@pytest.mark.parametrize(
    ("name", "edits", "divisor"),
    [
        (
            "Trainer",
            {
                "num_train_epochs=20": "num_train_epochs=1, gradient_accumulation_steps=3",
                '"learning_rate": 5e-3': '"learning_rate": 0.5, "optim": "sgd"',
            },
            1,
        ),
        (
            "Lightning",
            {
                "max_epochs=20": "max_epochs=1, accumulate_grad_batches=3",
                "AdamW(self.parameters(), lr=5e-3, weight_decay=0.0, fused=True)": (
                    "SGD(self.parameters(), lr=0.5)"
                ),
                "pl.Trainer(": "pl.Trainer(enable_checkpointing=False, ",
            },
            3,
        ),
    ],
    ids=["Trainer", "Lightning"],
)
def test_others_accumulate_as_the_page_says(
    name: str,
    edits: dict[str, str],
    divisor: int,
    setting: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    theirs = run_edited(name, setting, edits)["student"]
    ours = open_parts(setting)
    optimizer = torch.optim.SGD(ours["student"].parameters(), lr=0.5)
    batches = list(ours["stream"])
    assert [batch.row_count for batch in batches] == [32, 32, 32, 4]
    for group, size in ((batches[:3], 3), (batches[3:], divisor)):
        optimizer.zero_grad()
        for batch in group:
            (ours["loss_of"](ours["student"], batch) / size).backward()
        optimizer.step()
    torch.testing.assert_close(weights_of(theirs), weights_of(ours["student"]))


@ON_IMAGES
def test_gradients_of_losses_over_a_common_count_add_up_to_those_of_one_batch(
    setting: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    there = open_parts(setting)
    student, batches = there["student"], list(there["stream"])
    stream = Stream(there["samples"], open_cache("caches/digits"), batch_size=100, seed=0)
    (whole,) = stream

    def gradient(parts: list[Any], count: int) -> torch.Tensor:
        student.zero_grad()
        for part in parts:
            logits = student(part.inputs / 255)
            soft = soft_targets(logits, part.targets, temperature=4.0, count=count)
            hard = hard_labels(logits, part.labels, count=count)
            torch.autograd.backward(soft + hard)
        return torch.cat([each.grad.flatten() for each in student.parameters()])

    torch.testing.assert_close(gradient(batches, 100), gradient([whole], 100))


def test_workers_change_no_loss(
    setting: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    there = open_parts(setting)
    alone = [
        there["loss_of"](there["student"], batch).item() for _ in "12" for batch in there["stream"]
    ]
    there["stream"].set_epoch(0)
    exec_example("workers", there)
    assert there["losses"] == alone


@ON_IMAGES
def test_workers_begin_where_the_stream_is(
    setting: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    there = open_parts(setting)
    stream = there["stream"]
    stream.set_epoch(1)
    ids = [batch.ids for batch in stream]
    stream.load_state_dict({"epoch": 1, "batch": 2, "batch_size": 32})
    loader = DataLoader(stream, batch_size=None, num_workers=2)
    assert [batch.ids for batch in loader] == ids[2:]


@ON_IMAGES
def test_what_ranks_find_averages_to_the_loss_of_the_whole_batch(
    setting: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    there = open_parts(setting)
    student, whole = there["student"], list(there["stream"])
    monkeypatch.setenv("WORLD_SIZE", "3")
    shares = []
    for rank in range(3):
        monkeypatch.setenv("RANK", str(rank))
        exec_example("several GPUs", there)
        shares.append(list(there["stream"]))
    for batch, *own in zip(whole, *shares, strict=True):
        assert len({len(each.ids) for each in own}) > 1
        count = len(batch.ids) / 3
        found = [hard_labels(student(each.inputs / 255), each.labels, count=count) for each in own]
        expected = hard_labels(student(batch.inputs / 255), batch.labels)
        torch.testing.assert_close(sum(found) / 3, expected)
