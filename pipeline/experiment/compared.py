"""The models that a recipe compares, opened, with the held-out data that all are judged by."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.card.compare import STUDENT, TEACHER
from pipeline.compute import pick_device, set_threads, use_any_kernels
from pipeline.errors import ModelError, RecipeError, TargetError
from pipeline.experiment.data import join_data, tokenizer_of
from pipeline.experiment.networks import check_lengths, count_classes, open_model
from pipeline.models import Network, load_network, set_precision
from pipeline.recipe import Recipe
from pipeline.recipe.training import Evaluate
from pipeline.samples import asks_tokens, tokens_of
from pipeline.stream import Stream


@dataclass(frozen=True)
class Contest:
    """Models by name, the teacher first if it is there; all on `device`, ready to be asked."""

    networks: dict[str, Network]
    stream: Stream
    name: str
    device: torch.device
    class_names: tuple[str, ...]
    notes: tuple[str, ...]


def open_compared(recipe: Recipe, runs: Mapping[str, Path], *, quiet: bool) -> Contest:
    """Open every model that is compared, and the data; `runs` are some beside the recipe's own.

    A teacher that cannot be opened here is left out if a cache has its answers, and that is said.

    Raises: PipelineError for everything a user can mend.
    """
    table = recipe.evaluate or Evaluate()
    name, cache = _held_out(recipe, table)
    threads = table.threads or (recipe.training.threads if recipe.training else None)
    if threads:
        set_threads(threads)
    use_any_kernels()
    device = pick_device(table.device)
    networks, notes = _open_teacher(recipe, cache is not None)
    networks |= {each: _open_run(path, each) for each, path in _runs(recipe, table, runs).items()}
    for network in networks.values():
        network.to(device).eval()
        check_lengths(recipe, network, [name])
    joined = join_data(recipe, name, cache, batch_size=table.batch_size, seed=None, quiet=quiet)
    _check_classes(networks, joined.stream, device)
    names = recipe.data[name].class_names or joined.stream.samples.class_names or ()
    return Contest(networks, joined.stream, name, device, tuple(names), notes)


def _held_out(recipe: Recipe, table: Evaluate) -> tuple[str, str | None]:
    """Choose the data and the cache of it."""
    known = [each for each in (recipe.test, recipe.validation) if each]
    same = next((each for each in known if table.data in (None, each.data)), None)
    name = table.data or (same.data if same else None)
    if name is None:
        line = "evaluate.data: is missing; name held-out data, or have a table [test]"
        raise RecipeError(recipe.file, [line])
    return name, table.cache or (same.cache if same else None)


def _runs(recipe: Recipe, table: Evaluate, more: Mapping[str, Path]) -> dict[str, Path]:
    """Name the runs that are compared, the recipe's own first.

    Raises: RecipeError if there are none, or a name occurs twice.
    """
    found = {STUDENT: recipe.locate(recipe.run.path)} if recipe.run else {}
    named = {name: recipe.locate(path) for name, path in table.runs.items()}
    twice = [name for name in (*named, *more) if name in (TEACHER, STUDENT)]
    twice += [name for name in more if name in named]
    if twice:
        line = f"evaluate.runs: the name '{twice[0]}' is taken; give the run another one"
        raise RecipeError(recipe.file, [line])
    found |= named | dict(more)
    if not found:
        line = "run: is missing; evaluate needs a finished run, that of [run] or of evaluate.runs"
        raise RecipeError(recipe.file, [line])
    return found


def _open_teacher(recipe: Recipe, has_cache: bool) -> tuple[dict[str, Network], tuple[str, ...]]:
    teacher = recipe.teacher
    if teacher is None:
        return {}, ()
    try:
        network = open_model(recipe, teacher.model, where="teacher.model")
    except ModelError as error:
        if not has_cache:
            raise
        first = str(error).splitlines()[0]
        return {}, (f"the teacher is not compared, for it cannot be opened here ({first})",)
    return {TEACHER: set_precision(network, teacher.precision)}, ()


def _open_run(path: Path, name: str) -> Network:
    return load_network("run", base=Path(), where=f"run '{name}'", path=str(path))


def _check_classes(networks: Mapping[str, Network], stream: Stream, device: torch.device) -> None:
    """Refuse models that answer other questions than the data asks, or of other classes."""
    asked = stream.spec.class_count if stream.spec else None
    may_be_wider = asks_tokens(stream.samples)
    for name, network in networks.items():
        found = count_classes(network, stream.samples, device, whose=name)
        asked = found if asked is None else asked
        if found < asked or (found > asked and not may_be_wider):
            raise TargetError(
                f"evaluate: '{name}' answers with {found} classes, but there are {asked} in the "
                "cache or of the first model; compare models of the same classes."
            )


def count_text_bytes(recipe: Recipe, contest: Contest) -> int | None:
    """Count the bytes of the text whose tokens are predicted; None where no tokenizer is named.

    It is the text of the rows that are judged, which may be fewer than the data has. What comes
    first in a document is predicted from nothing, so its bytes do not count.
    """
    tokens = tokens_of(contest.stream.samples)
    tokenizer = tokenizer_of(recipe, contest.name)
    if tokenizer is None or tokens is None or tokens.task != "next_token":
        return None
    contest.stream.set_epoch(0)
    total = 0
    for batch in contest.stream:
        for ids, documents in batch.inputs.numpy():
            for number in range(int(documents.max()) + 1):
                own = ids[documents == number].tolist()
                total += _size(tokenizer.decode(own)) - _size(tokenizer.decode(own[:1]))
    return total


def _size(text: str) -> int:
    """Count bytes; of a character that was cut in two each half is one."""
    return len(text.replace("\ufffd", "?").encode())
