"""The house rules that a reviewer would otherwise have to repeat."""

import ast
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import pipeline

ROOT = Path(__file__).parent.parent
# room -> the rooms of ours it may import. A room may always import itself and `errors`.
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "factories": set(),
    "keyed": set(),
    "temporary": set(),
    "holding": set(),
    "recipe": set(),
    "metrics": set(),
    "progress": set(),
    "termination": set(),
    "compute": set(),
    "samples": {"factories", "keyed", "temporary"},
    "starters": {"samples"},
    "models": {"factories"},
    "store": set(),
    "targets": {"keyed", "store.fields"},
    "kept_targets": {"store", "targets"},
    "losses": {"targets"},
    "labelling": {
        *("compute", "holding", "kept_targets", "metrics", "temporary", "store", "targets"),
    },
    "stream": {"kept_targets", "labelling", "samples", "temporary", "store", "targets"},
    "training": {"compute", "holding", "losses", "metrics", "models", "stream", "targets"},
    "card": {"compute", "losses", "models", "stream", "targets", "training"},
    "experiment": {
        "card",
        "compute",
        "labelling",
        "losses",
        "models",
        "progress",
        "recipe",
        "samples",
        "store",
        "stream",
        "targets",
    },
    "caching": {
        *("compute", "experiment", "keyed", "models", "progress", "recipe", "samples", "store"),
        *("stream", "targets"),
    },
    "estimate": {
        *("caching", "compute", "experiment", "progress", "recipe", "samples", "store"),
        "training",
    },
    "looking": {
        *("experiment", "kept_targets", "labelling", "progress", "recipe", "samples", "store"),
        *("stream", "targets", "training"),
    },
    "report": {
        *("compute", "experiment", "kept_targets", "looking", "metrics", "recipe", "samples"),
        *("store", "stream", "targets", "training"),
    },
    "cli": {"recipe", "stages", "termination"},
    "__main__": {"cli"},
    # What anyone may use; each is imported when it is asked for.
    "__init__": {"losses", "samples", "store", "stream"},
}
MAY_IMPORT["stages"] = set(MAY_IMPORT) - {"cli", "__main__", "__init__"}
# third-party library -> the only rooms that may import it.
ONLY_IN: dict[str, set[str]] = {
    "click": {"cli"},
    "pydantic": {"recipe"},
    "tomllib": {"recipe"},
    "rich": {"progress"},
    "zarr": {"store"},
    "numcodecs": {"store"},
    "pyarrow": {"labelling", "store", "samples"},
    "scipy": {"labelling"},
    "PIL": {"samples"},
    "dask": {"compute"},
    "distributed": {"compute"},
    "dask_jobqueue": {"compute"},
    "accelerate": {"compute", "training"},
    "tokenizers": {"samples"},
    "transformers": {"models"},
    "torchvision": {"samples"},
    "matplotlib": {"report"},
    "safetensors": {"models", "training"},
}
WITHOUT_TORCH = {
    *(
        "store",
        "samples",
        "recipe",
        "errors",
        "factories",
        "holding",
        "keyed",
        "temporary",
        "progress",
        "termination",
    ),
    "cli",
}
# What a user's own augmentations run in; it is imported when they are.
RUNS_TORCH = {"torchvision.py"}
HEAVY = ("torch", "numpy", "zarr", "pyarrow", "pydantic", "dask", "accelerate", "rich", "PIL")
# The starters are handed to users, so they are no part of the house.
MODULES = sorted(
    path
    for top in ("pipeline", "stages")
    for path in (ROOT / top).rglob("*.py")
    if "templates" not in path.parts
)
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.relative_to(ROOT).as_posix())


def imports(path: Path) -> set[str]:
    """Every absolute module name that `path` imports, lazily or not."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write absolute imports"
            assert node.module is not None
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return "stages" if parts[0] == "stages" else parts[1]


def modules_after(statement: str) -> set[str]:
    """Name the libraries that a fresh process has loaded after a statement."""
    code = f"import sys\n{statement}\nprint(*(name for name in {HEAVY} if name in sys.modules))"
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(ended.stdout.split())


@each_module
def test_imports_point_downwards(path: Path) -> None:
    room = room_of(path)
    # Stages never import each other.
    allowed = MAY_IMPORT[room] | {"errors", room} - {"stages"}
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "stages" or (top == "pipeline" and rest):
            target = rest if top == "pipeline" else name
            assert any(target == each or target.startswith(f"{each}.") for each in allowed) or any(
                each.startswith(f"{target}.") for each in allowed
            ), f"{room} may not import {name}; it may import {', '.join(sorted(allowed))}"


@each_module
def test_libraries_stay_in_their_rooms(path: Path) -> None:
    room = room_of(path)
    tops = {name.partition(".")[0] for name in imports(path)}
    for top in sorted(tops & ONLY_IN.keys()):
        assert room in ONLY_IN[top], f"{top} belongs in {sorted(ONLY_IN[top])}, not in {room}"
    if any(name.startswith("torch.distributed") for name in imports(path)):
        assert room == "compute", f"torch.distributed belongs in compute, not in {room}"
    is_without = room in WITHOUT_TORCH and path.name not in RUNS_TORCH
    assert not (is_without and "torch" in tops), f"{room} does without torch"


@each_module
def test_modules_stay_small(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{lines} lines; split it along a noun, or ask whether it needs to exist"


@each_module
def test_modules_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert path.stem not in ("base", "utils", "util", "helpers", "common", "misc", "manager")


def test_rooms_stay_small() -> None:
    rooms = Counter(path.parent for path in MODULES if path.name != "__init__.py")
    large = {room: count for room, count in rooms.items() if count > 10 and room.name != "pipeline"}
    assert large == {}


def test_every_room_has_its_rule() -> None:
    assert {room_of(path) for path in MODULES} == set(MAY_IMPORT)


@pytest.mark.parametrize("module", ["pipeline", "pipeline.cli", "pipeline.errors"])
def test_nothing_heavy_is_loaded_before_a_stage_runs(module: str) -> None:
    assert modules_after(f"import {module}") == set()


def test_a_recipe_is_read_without_torch() -> None:
    loaded = modules_after("import pipeline.recipe")
    assert loaded == {"pydantic"}


def test_a_cache_is_opened_without_torch() -> None:
    assert "torch" not in modules_after("from pipeline import open_cache")


def test_what_is_exported_is_there_and_nothing_else() -> None:
    assert pipeline.__all__ == sorted(pipeline.__all__)
    assert set(pipeline.__all__) == {
        *("Stream", "hard_labels", "open_cache", "open_samples", "soft_targets"),
    }
    assert set(dir(pipeline)) == set(pipeline.__all__)
    for name in pipeline.__all__:
        assert getattr(pipeline, name).__doc__, f"pipeline.{name} needs a docstring"
    with pytest.raises(AttributeError, match="module 'pipeline' has no attribute 'open_cahce'"):
        pipeline.open_cahce  # noqa: B018  # asking is the test
