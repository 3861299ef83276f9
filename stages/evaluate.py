"""`pipeline evaluate`: the comparison that papers print, of a teacher, its student, other runs."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.card import (
    FILES,
    Compared,
    as_csv,
    as_markdown,
    as_text,
    ask_live,
    compare,
    judge,
    measure_speeds,
)
from pipeline.card.compare import TEACHER, count_weights
from pipeline.card.quality import Quality
from pipeline.card.speed import WARM_UP, Speed
from pipeline.compute import device_kind, keep_freed_memory, software_versions
from pipeline.experiment.compared import Contest, count_text_bytes, open_compared
from pipeline.holding import hold_folder
from pipeline.progress import Advance, progress, say
from pipeline.recipe import Recipe
from pipeline.recipe.training import Evaluate
from pipeline.stream import Batch, Stream
from pipeline.training.run_folder import PURPOSE, read_result, replace_text

tell = as_text
# What `train-student` calls the folder of a student of transformers.
PRETRAINED = "pretrained"
SAVING = replace(PURPOSE, doing="saving the card of this run", again="it compares anew.")


def run(
    recipe: Recipe, *, runs: Mapping[str, Path] | None = None, quiet: bool = False
) -> dict[str, Any]:
    """Compare the models of a recipe, and save the card with the student of [run].

    Raises: PipelineError for everything a user can mend.
    """
    keep_freed_memory()
    contest = open_compared(recipe, runs or {}, quiet=quiet)
    if recipe.run is None:
        return _compare(recipe, contest, quiet)
    folder = recipe.locate(recipe.run.path)
    with hold_folder(folder, SAVING):  # all the time, so that what cannot be saved is not measured
        document = _compare(recipe, contest, quiet)
        pages = {"json": json.dumps(document, indent=2) + "\n"}
        pages |= {"csv": as_csv(document), "markdown": as_markdown(document)}
        for kind, text in pages.items():
            replace_text(folder / FILES[kind], text)
    say(f"{folder}: holds {', '.join(FILES.values())} now", quiet)
    return document


def _compare(recipe: Recipe, contest: Contest, quiet: bool) -> dict[str, Any]:
    """Judge and time all models, and put what was found beside each other."""
    table = recipe.evaluate or Evaluate()
    qualities = _judge(contest, quiet)
    inputs = next(iter(contest.stream)).inputs.to(contest.device)
    with progress("timing", total=table.rounds, unit="rounds", quiet=quiet) as advance:
        speeds = measure_speeds(contest.networks, inputs, rounds=table.rounds, advance=advance)
    models = [
        Compared(name, qualities[name], speeds[name], *count_weights(network.model))
        for name, network in contest.networks.items()
    ]
    return {
        "name": recipe.name,
        **compare(models, contest.class_names, count_text_bytes(recipe, contest)),
        "data": _data(contest, qualities),
        "conditions": _conditions(contest, len(inputs), speeds),
        "notes": list(contest.notes),
        "made": _made(recipe),
        "use": _use(recipe),
    }


def _judge(contest: Contest, quiet: bool) -> dict[str, Any]:
    """Judge one model after another, each over all of the data."""
    stream, names = contest.stream, contest.class_names
    teacher = contest.networks.get(TEACHER)
    ask = ask_live(teacher) if teacher and not stream.cache else None
    found = {}
    for name, network in contest.networks.items():
        with progress(f"judging {name}", total=len(stream), unit="batches", quiet=quiet) as advance:
            stream.set_epoch(0)
            found[name] = judge(
                network,
                _told(stream, advance),
                contest.device,
                ask=ask,
                name_of=lambda each: names[each] if each < len(names) else str(each),
            )
    return found


def _told(stream: Stream, advance: Advance) -> Iterator[Batch]:
    for batch in stream:
        yield batch
        advance(1)


def _data(contest: Contest, qualities: Mapping[str, Quality]) -> dict[str, Any]:
    stream = contest.stream
    if stream.cache:
        answers = f"are those of {stream.cache.path}, digest {stream.cache.digest[:16]}"
    else:
        answers = "were asked for now" if TEACHER in contest.networks else "are not known"
    quality = next(iter(qualities.values()))
    return {
        "name": contest.name,
        "rows": stream.order.epoch_rows,
        "positions": max(quality.labelled, quality.positions),
        "answers": answers,
    }


def _conditions(contest: Contest, rows: int, speeds: Mapping[str, Speed]) -> dict[str, Any]:
    return {
        "device": device_kind(contest.device),
        "threads": torch.get_num_threads(),
        "batch_size": rows,
        "rounds": sorted({len(each.one_s) for each in speeds.values()}),
        "warm_up": WARM_UP,
        **software_versions(),
    }


def _made(recipe: Recipe) -> dict[str, str]:
    """Say how the student was made, a line a fact, as its recipe and its run say it."""
    training = recipe.training
    result = (read_result(recipe.locate(recipe.run.path)) or {}) if recipe.run else {}
    made = {"recipe": recipe.file}
    if recipe.teacher:
        made["teacher"] = _named(recipe.teacher.model.model_dump(exclude_defaults=True))
    if recipe.student:
        made["student"] = _named(recipe.student.model.model_dump(exclude_defaults=True))
    if recipe.targets and "cache" in result:
        selection = recipe.targets.selection.model_dump(exclude_defaults=True)
        made["targets"] = f"{_named(selection)}; cache {result['cache'][:16]}"
    if recipe.losses:
        made["losses"] = "; ".join(
            _loss(each.model_dump(exclude_defaults=True)) for each in recipe.losses
        )
    if training and result:
        made["training"] = (
            f"{result['steps']} steps, best at {result['best_step']}, batches of "
            f"{training.rows_a_batch}, {training.optimizer}, learning rate "
            f"{training.learning_rate:g}, seed {training.seed}"
        )
    return made


def _named(table: Mapping[str, Any]) -> str:
    """Say a table of a recipe in one line, its kind first."""
    rest = ", ".join(f"{key} {value}" for key, value in table.items() if key != "kind" and value)
    return f"{table['kind']}, {rest}" if rest else str(table["kind"])


def _loss(table: Mapping[str, Any]) -> str:
    weight = table["weight"]
    return f"{weight:g} x {_named({key: each for key, each in table.items() if key != 'weight'})}"


def _use(recipe: Recipe) -> str:
    """Show how the student is used, in a recipe and with transformers where it is one of theirs."""
    if not recipe.run:
        return ""
    folder = recipe.locate(recipe.run.path)
    lines = [
        "In another recipe, as a teacher or to be trained further:",
        f'```toml\nmodel = {{ kind = "run", path = "{folder.as_posix()}" }}\n```',
    ]
    if (folder / PRETRAINED).is_dir():
        lines += [
            "With transformers:",
            f'```python\nAutoModel.from_pretrained("{(folder / PRETRAINED).as_posix()}")\n```',
        ]
    return "\n\n".join(lines)
