"""The loops of pipeline/guide/own-loop.md, as they are printed, take the steps of the stage."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from laboratory import Lab, run_cli
from test_docs import ROOT, blocks

PAGE = "pipeline/guide/own-loop.md"
EXAMPLES = {
    block.splitlines()[0].removeprefix("# example: "): block for block in blocks(PAGE, "python")
}
PARTS = {"images": "the parts", "text": "the parts, of text"}
LOOPS = ("plain torch", "Trainer", "Lightning")
# Of the loss. The same operations in another order differ by some 1e-6 after as many steps.
TOLERANCE = 1e-5

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


# Lightning asks torch in a way that torch gives up, and where Slurm is installed for srun.
@pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The `srun` command is available")
@pytest.mark.parametrize("name", LOOPS)
def test_a_loop_has_the_losses_of_the_stage(
    name: str, setting: str, stage_losses: list[float]
) -> None:
    there = run_loop(name, setting)
    assert len(stage_losses) == 20 * len(there["stream"]) >= 40
    assert stage_losses[-1] < 0.9 * stage_losses[0]
    assert there["seen"] == pytest.approx(stage_losses, rel=TOLERANCE, abs=0)
