"""`pipeline train-student`: train a network from a cache, on hard labels, or on both."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pipeline.compute import guard_memory, make_accelerator
from pipeline.errors import RecipeError
from pipeline.experiment import Setup, open_student
from pipeline.models import load_weights, read_weights, save_pretrained, save_reference
from pipeline.progress import progress, say
from pipeline.recipe import Recipe, require_tables, resolved
from pipeline.training.checkpoint import (
    BEST_WEIGHTS,
    load_checkpoint,
    save_best,
    save_checkpoint,
    save_projections,
)
from pipeline.training.evaluation import better_by, evaluate
from pipeline.training.loop import Learner, Metrics, Observers, Progress, Schedule, train
from pipeline.training.match import weigh
from pipeline.training.optimizer import make_optimizer
from pipeline.training.randomness import restore_rng
from pipeline.training.run_folder import (
    RESULT,
    append_metrics,
    begin_run,
    hold_run,
    keep_metrics_until,
    read_metrics,
    read_result,
    replace_json,
)

# Of a student of transformers: what that library's own from_pretrained opens.
PRETRAINED = "pretrained"
# Below this share of the gradient a loss may as well not be there.
FAINT = 0.01


def run(recipe: Recipe, *, dry_run: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Train the student that a recipe describes, or go on with it.

    Raises: PipelineError for everything a user can mend, before the first step where it can be
    known.
    """
    require_tables(recipe, "train-student", "student", "losses", "training", "run")
    assert recipe.run
    folder = recipe.locate(recipe.run.path)
    if dry_run:
        setup = open_student(recipe, folder, quiet=quiet)
        return {"run": str(folder), "steps": _schedule(setup).steps, "trained": False}
    with hold_run(folder):
        setup = open_student(recipe, folder, quiet=quiet)
        schedule = _schedule(setup)
        begin_run(folder, setup.identity, resolved(recipe))
        _tell_views(setup, schedule.steps, quiet)
        for warning in _warn_alone(setup):
            say(f"warning: {warning}", quiet)
        result = read_result(folder)
        if result is None:
            result = _train(setup, schedule, quiet)
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
    if shares := summary.get("gradient_share"):
        shown = ", ".join(f"{name} {share:.1%}" for name, share in shares.items())
        lines.append(f"  of the gradient, on average: {shown}")
        faint = [name for name, share in shares.items() if share < FAINT]
        if faint:
            lines.append(
                f"  {', '.join(faint)} can hardly be seen beside the others: give it a larger "
                "weight, or leave it out"
            )
    lines.append(f"  {summary['parameters']} parameters, trained in {summary['elapsed_s']:.1f} s")
    return "\n".join(lines)


def _tell_views(setup: Setup, steps: int, quiet: bool) -> None:
    """Say when the views that were cached will be seen again."""
    epochs = -(-steps // _steps_an_epoch(setup))
    for stream in setup.streams:
        views = stream.order.views
        if stream.views.change and not stream.is_fresh and epochs > views:
            say(
                f"views: {views} of each sample {'is' if views == 1 else 'are'} cached and this "
                f"run takes {epochs} epochs; from epoch {views + 1} on they are seen again",
                quiet,
            )


def _warn_alone(setup: Setup) -> list[str]:
    """Warn of a student that is to learn from skewed pseudo-labels and from nothing else."""
    learned = {loss.kind for loss in setup.recipe.losses if loss.weight}
    if learned != {"pseudo_labels"} or not any(each.is_skewed for each in setup.streams):
        return []
    return [
        "this student learns from hard pseudo-labels alone, whose classes are skewed: it is likely "
        "to be worse than one of the labels their teacher had. Make them again with "
        "pseudo_labels.balanced = true, and give labelled data as another source"
    ]


def _steps_an_epoch(setup: Setup) -> int:
    assert setup.recipe.training
    return -(-len(setup.stream) // setup.recipe.training.accumulate)


def _schedule(setup: Setup) -> Schedule:
    training = setup.recipe.training
    assert training
    an_epoch = _steps_an_epoch(setup)
    steps = training.steps or an_epoch * (training.epochs or 1)
    if training.warmup_steps >= steps:
        line = (
            f"training.warmup_steps: must be below the {steps} steps of this run; "
            f"got {training.warmup_steps}"
        )
        raise RecipeError(setup.recipe.file, [line])
    for number, loss in enumerate(setup.recipe.losses):
        first = getattr(loss, "first_steps", None)
        if first is not None and first >= steps:
            line = f"losses.{number}.first_steps: must be below the {steps} steps of this run"
            raise RecipeError(setup.recipe.file, [f"{line}; got {first}"])
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
        gradients_every=training.gradients_every,
    )


def _train(setup: Setup, schedule: Schedule, quiet: bool) -> dict[str, Any]:
    training, started = setup.recipe.training, time.perf_counter()
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
    with (
        guard_memory(training.rows_a_batch, "training"),
        progress(
            "train-student", total=schedule.steps, unit="steps", done=start.step, quiet=quiet
        ) as advance,
    ):
        end = train(
            Learner(accelerator, network, optimizer, losses, setup.taps),
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
        "gradient_share": _mean_shares(setup),
        **({"warnings": told} if (told := _warn_alone(setup)) else {}),
        **{
            key: setup.identity[key]
            for key in ("cache", "teachers", "data", "sources")
            if key in setup.identity
        },
    }
    if projections := _projections(setup):
        save_projections(setup.folder, projections)
    save_pretrained(setup.network, setup.folder / PRETRAINED, tokenizer=_tokenizer(setup.recipe))
    model = setup.recipe.student.model.model_dump(exclude_none=True)
    save_reference(setup.folder, model, setup.recipe.base)
    replace_json(setup.folder / RESULT, result)
    return result


def _projections(setup: Setup) -> dict[str, Any]:
    projections = setup.network.projections
    return {} if projections is None else projections.state_dict()


def _mean_shares(setup: Setup) -> dict[str, float]:
    """Average what part each loss had in the gradient, over all the times that it was measured."""
    sums, count = dict[str, float](), dict[str, int]()
    for line in read_metrics(setup.folder):
        for name, share in line.get("gradient_share", {}).items():
            sums[name] = sums.get(name, 0.0) + share
            count[name] = count.get(name, 0) + 1
    return {name: round(total / count[name], 4) for name, total in sums.items()}


def _tokenizer(recipe: Recipe) -> Path | None:
    """Find the folder of the tokenizer that the student's data was read with."""
    assert recipe.training
    source = getattr(recipe.data[recipe.training.names[0]], "tokenizer", None)
    return recipe.locate(source) if source and recipe.locate(source).is_dir() else None


def _resume(setup: Setup, optimizer: Any) -> Progress:
    checkpoint = load_checkpoint(setup.folder)
    if checkpoint is None:
        keep_metrics_until(setup.folder, -1)
        torch.manual_seed(setup.identity["training"]["seed"])
        return Progress()
    load_weights(setup.network.model, checkpoint.weights, "last checkpoint")
    if setup.network.projections is not None:
        load_weights(setup.network.projections, checkpoint.projections, "last checkpoint")
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
            projections=_projections(setup),
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
