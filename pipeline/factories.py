"""Finds the function that a recipe names as `module:function`.

The module is a file beside the recipe, or anything importable. This module knows neither samples
nor models: what the function makes, and whether that fits, is for the room that asked.
"""

import difflib
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import RecipeError


def load_factory(reference: str, base: Path, where: str) -> Callable[..., Any]:
    """Find the callable that `module:function` names, beside `base` or else importable.

    A file beside `base` runs under a private module name, so it never shadows a library, and two
    recipes may each have a `my_models.py`.

    Raises: RecipeError if the reference is malformed, the module cannot be found or fails when
        imported, or it does not offer the function.
    """
    module_name, colon, function_name = reference.partition(":")
    if not (colon and module_name and function_name):
        wanted = 'must be "module:function", such as "my_models:small_cnn"'
        raise RecipeError(where, [f"{wanted}; got {reference!r}"])
    module = _load_module(module_name, base, where)
    function: Callable[..., Any] | None = getattr(module, function_name, None)
    if not callable(function):
        raise RecipeError(where, [_what_it_offers(module, module_name, function_name)])
    return function


def call_factory(reference: str, base: Path, where: str, **arguments: Any) -> Any:
    """Call the function that `module:function` names.

    Raises: RecipeError as `load_factory` does, or if the function itself fails; it names the line
        that did.
    """
    factory = load_factory(reference, base, where)
    try:
        return factory(**arguments)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        problem = f"{reference}({given}) failed: {describe_error(error)}"
        raise RecipeError(where, [problem]) from error


def describe_error(error: BaseException) -> str:
    """Say in one line what a user's own code raised, and where."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    return (
        f"{text} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else text
    )


def did_you_mean(word: str, choices: Iterable[str]) -> str:
    """Suggest the nearest of `choices`, as the end of a sentence; empty if none is near."""
    near = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _load_module(name: str, base: Path, where: str) -> ModuleType:
    path = base.joinpath(*name.split(".")).with_suffix(".py")
    try:
        return _load_file(path) if path.is_file() else importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            problem = f"importing {name!r} failed: {describe_error(error)}; install it first"
            raise RecipeError(where, [problem]) from error
        near = did_you_mean(name, (file.stem for file in base.glob("*.py")))
        problem = f"there is no {path.name} in {path.parent}, and no module {name!r} installed"
        raise RecipeError(where, [problem + near]) from error
    except Exception as error:
        problem = f"importing {name!r} failed: {describe_error(error)}"
        raise RecipeError(where, [problem]) from error


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    place = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    private_name = f"_recipe_module_{place}_{path.stem}"
    if private_name in sys.modules:
        return sys.modules[private_name]
    spec = importlib.util.spec_from_file_location(private_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # The file may import its neighbours; last on the path, they cannot shadow a library.
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    # Dataclasses and pickle look a class's module up by name while the file runs.
    sys.modules[private_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[private_name]
        raise
    return module


def _what_it_offers(module: ModuleType, module_name: str, function_name: str) -> str:
    own = sorted(
        key
        for key, value in vars(module).items()
        if callable(value) and not key.startswith("_") and value.__module__ == module.__name__
    )
    offered = f"it offers {', '.join(own[:10])}" if own else "it defines no function"
    near = did_you_mean(function_name, own)
    return f"{module_name!r} has no function {function_name!r}{near or ';'} {offered}"
