"""`pipeline train-student`: train a network from a cache, on hard labels, or on both."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.compute import make_accelerator, pick_device, set_threads
from pipeline.errors import RecipeError, TargetError
from pipeline.experiment import Joined, count_classes, join_data, open_model
from pipeline.models import Network, load_weights, read_weights, save_reference, weights_digest
from pipeline.progress import progress, say
from pipeline.recipe import Recipe, comparable, require_tables, resolved
from pipeline.recipe.schema import Evaluation
from pipeline.stream import Stream
from pipeline.training.checkpoint import BEST_WEIGHTS, load_checkpoint, save_best, save_checkpoint
from pipeline.training.evaluation import better_by, evaluate
from pipeline.training.loop import Learner, Metrics, Observers, Progress, Schedule, train, weigh
from pipeline.training.optimizer import make_optimizer
from pipeline.training.randomness import restore_rng
from pipeline.training.run_folder import (
    RESULT,
    append_metrics,
    begin_run,
    hold_run,
    keep_metrics_until,
    read_result,
    replace_json,
)


@dataclass(frozen=True)
class Setup:
    """What a run is trained with."""

    recipe: Recipe
    folder: Path
    network: Network
    stream: Stream
    device: torch.device
    evaluations: dict[str, Stream]
    identity: dict[str, Any]


def run(recipe: Recipe, *, dry_run: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train the student that a recipe describes, or go on with it.

    Raises: PipelineError for everything a user can mend, before the first step where it can be
    known.
    """
    require_tables(recipe, "train-student", "student", "losses", "training", "run")
    assert recipe.run
    folder = recipe.locate(recipe.run.path)
    if dry_run:
        setup = _open(recipe, folder, quiet)
        return {"run": str(folder), "steps": _schedule(setup).steps, "trained": False}
    with hold_run(folder):
        setup = _open(recipe, folder, quiet)
        begin_run(folder, setup.identity, resolved(recipe))
        result = read_result(folder)
        if result is None:
            result = _train(setup, quiet)
        else:
            say(f"{folder}: this run has ended; delete the folder to train it again", quiet)
    return {"run": str(folder), "trained": True, **result}


def tell(summary: dict[str, Any]) -> str:
    """Say how the run ended, in a few lines."""
    if not summary["trained"]:
        return (
            f"{summary['run']}: dry run: would take {summary['steps']} steps; nothing was written"
        )
    lines = [f"{summary['run']}: {summary['steps']} steps, best at step {summary['best_step']}"]
    for name in ("validation", "test"):
        if metrics := summary.get(name):
            shown = ", ".join(f"{key} {value:.4f}" for key, value in metrics.items())
            lines.append(f"  {name}: {shown}")
    lines.append(f"  {summary['parameters']} parameters, trained in {summary['elapsed_s']:.1f} s")
    return "\n".join(lines)


def _open(recipe: Recipe, folder: Path, quiet: bool) -> Setup:
    training = recipe.training
    assert training
    assert recipe.student
    if training.threads:
        set_threads(training.threads)
    device = pick_device(training.device)
    data = _training_data(recipe, quiet)
    asked = {"validation": recipe.validation, "test": recipe.test}
    held_out = {name: _held_out(recipe, table, quiet) for name, table in asked.items() if table}
    _check_best_by(recipe, held_out)
    torch.manual_seed(training.seed)
    network = open_model(recipe, recipe.student.model, where="student.model").to(device)
    tables = ("student", "losses", "training", "validation", "test")
    settings = comparable(recipe)
    identity = {
        **{table: settings[table] for table in tables},
        **data.identity,
        "held_out": {name: joined.identity for name, joined in held_out.items()},
        "initial_weights": weights_digest(network),
    }
    network.eval()
    for name, joined in {"training": data, **held_out}.items():
        class_count = count_classes(network, joined.stream.samples, device, whose="student")
        _check_classes(f"{name}.data", joined, class_count)
    evaluations = {name: joined.stream for name, joined in held_out.items()}
    return Setup(recipe, folder, network, data.stream, device, evaluations, identity)


def _training_data(recipe: Recipe, quiet: bool) -> Joined:
    """The training data, with targets where a loss needs them."""
    training = recipe.training
    assert training
    needs = {loss.kind for loss in recipe.losses}
    place = recipe.cache.path if recipe.cache and "soft_targets" in needs else None
    joined = join_data(
        recipe,
        training.data,
        place,
        quiet=quiet,
        batch_size=training.batch_size,
        seed=training.seed,
        window_parts=training.window_parts,
    )
    if "hard_labels" in needs and joined.highest_label < 0:
        line = (
            f"losses: hard_labels needs labels, but data.{training.data} has none; name the label "
            "column, or take the loss out"
        )
        raise RecipeError(recipe.file, [line])
    return joined


def _held_out(recipe: Recipe, table: Evaluation, quiet: bool) -> Joined:
    options = {"batch_size": table.batch_size, "seed": None}
    return join_data(recipe, table.data, table.cache, quiet=quiet, **options)


def _check_best_by(recipe: Recipe, held_out: Mapping[str, Joined]) -> None:
    table = recipe.validation
    if table and table.best_by != "teacher_kl" and held_out["validation"].highest_label < 0:
        line = (
            f"validation.best_by: '{table.best_by}' needs labels, but data.{table.data} has none; "
            "name the label column, or compare with a teacher: best_by = 'teacher_kl' and "
            "validation.cache, a cache of that data"
        )
        raise RecipeError(recipe.file, [line])


def _check_classes(where: str, joined: Joined, class_count: int) -> None:
    """Refuse a student that does not fit its data, before anything is written."""
    stream, highest = joined.stream, joined.highest_label
    problem = None
    if stream.spec and stream.cache and stream.spec.class_count != class_count:
        problem = f"{stream.cache.path} holds targets over {stream.spec.class_count} classes"
    elif highest >= class_count:
        problem = f"{stream.samples.name} has labels up to {highest}"
    if problem:
        raise TargetError(
            f"student.model: answers with {class_count} classes, but {problem} ({where}). "
            "Give the student the classes of its data and of its teacher."
        )


def _schedule(setup: Setup) -> Schedule:
    training = setup.recipe.training
    assert training
    an_epoch = -(-len(setup.stream) // training.accumulate)
    steps = training.steps or an_epoch * (training.epochs or 1)
    evaluate_every = training.evaluate_every or an_epoch
    return Schedule(
        steps=steps,
        learning_rate=training.learning_rate,
        evaluate_every=evaluate_every,
        checkpoint_every=training.checkpoint_every or evaluate_every,
        log_every=training.log_every,
        kind=training.schedule,
        warmup_steps=training.warmup_steps,
        accumulate=training.accumulate,
        clip_norm=training.clip_norm,
        patience=training.patience,
    )


def _train(setup: Setup, quiet: bool) -> dict[str, Any]:
    training, schedule, started = setup.recipe.training, _schedule(setup), time.perf_counter()
    assert training
    assert setup.recipe.student
    accelerator = make_accelerator(training.precision, device=setup.device)
    optimizer = make_optimizer(
        training.optimizer,
        setup.network.parameters(),
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        momentum=training.momentum,
    )
    network, optimizer = accelerator.prepare(setup.network, optimizer)
    losses = weigh([loss.model_dump() for loss in setup.recipe.losses])
    start = _resume(setup, optimizer)
    with progress(
        "train-student", total=schedule.steps, unit="steps", done=start.step, quiet=quiet
    ) as advance:
        end = train(
            Learner(accelerator, network, optimizer, losses),
            setup.stream,
            schedule=schedule,
            start=start,
            observers=_observers(setup, optimizer, advance),
        )
    best = read_weights(setup.folder / BEST_WEIGHTS, "best weights")
    load_weights(setup.network.model, best, "best weights")
    result: dict[str, Any] = {
        "steps": end.step,
        "best_step": end.best_step,
        "validation": end.best,
        "test": _evaluate(setup, "test"),
        "parameters": sum(each.numel() for each in setup.network.model.parameters()),
        "elapsed_s": round(time.perf_counter() - started, 3),
        **{key: setup.identity[key] for key in ("cache", "data") if key in setup.identity},
    }
    model = setup.recipe.student.model.model_dump(exclude_none=True)
    save_reference(setup.folder, model, setup.recipe.base)
    replace_json(setup.folder / RESULT, result)
    return result


def _resume(setup: Setup, optimizer: Any) -> Progress:
    checkpoint = load_checkpoint(setup.folder)
    if checkpoint is None:
        keep_metrics_until(setup.folder, -1)
        torch.manual_seed(setup.identity["training"]["seed"])
        return Progress()
    load_weights(setup.network.model, checkpoint.weights, "last checkpoint")
    optimizer.load_state_dict(checkpoint.optimizer_state)
    restore_rng(checkpoint.rng)
    setup.stream.load_state_dict(checkpoint.progress["stream"])
    keep_metrics_until(setup.folder, checkpoint.step)
    return Progress(**checkpoint.progress)


def _evaluate(setup: Setup, name: str) -> Metrics:
    stream = setup.evaluations.get(name)
    return evaluate(setup.network, stream, setup.device) if stream else {}


def _observers(setup: Setup, optimizer: Any, advance: Any) -> Observers:
    validation = setup.recipe.validation

    def checkpoint(now: Progress) -> None:
        save_checkpoint(
            setup.folder,
            now.step,
            weights=setup.network.model.state_dict(),
            optimizer_state=optimizer.state_dict(),
            progress=asdict(now),
        )

    return Observers(
        log=lambda line: append_metrics(setup.folder, line),
        evaluate=(lambda: _evaluate(setup, "validation")) if validation else None,
        better=better_by(validation.best_by if validation else "accuracy"),
        save_checkpoint=checkpoint,
        save_best=lambda metrics: save_best(
            setup.folder, setup.network.model.state_dict(), metrics
        ),
        advance=advance,
    )
