"""`pipeline train-student`: train a network from a cache, on hard labels, or on both.

Under torchrun every rank runs all of it; the first alone writes and prints.
"""

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.compute import Ranks, guard_memory, join_ranks, make_accelerator
from pipeline.errors import RecipeError
from pipeline.experiment import Setup, check_same, open_student
from pipeline.models import (
    load_weights,
    read_weights,
    save_pretrained,
    save_reference,
    weights_digest,
)
from pipeline.progress import progress, say, says_what_is_kept
from pipeline.recipe import Recipe, require_tables, resolved
from pipeline.training.checkpoint import (
    BEST_WEIGHTS,
    POINTER,
    load_checkpoint,
    save_best,
    save_checkpoint,
    save_projections,
)
from pipeline.training.evaluation import better_by, evaluate
from pipeline.training.loop import Learner, Metrics, Observers, Progress, Schedule, train
from pipeline.training.match import weigh
from pipeline.training.optimizer import make_optimizer
from pipeline.training.randomness import gather_rng, restore_rank_rng, seed_rank
from pipeline.training.run_folder import (
    RESULT,
    append_metrics,
    begin_run,
    hold_run,
    keep_metrics_until,
    read_json,
    read_metrics,
    read_result,
    replace_json,
)

# Of a student of transformers: what that library's own from_pretrained opens.
PRETRAINED = "pretrained"
# Below this share of the gradient a loss may as well not be there.
FAINT = 0.01


def join() -> AbstractContextManager[Ranks]:
    """Be one of the ranks that torchrun started, or alone."""
    return join_ranks()


def run(
    recipe: Recipe, *, dry_run: bool = False, quiet: bool = False, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Train the student that a recipe describes, or go on with it; alone, or as one of several.

    Raises: PipelineError for everything a user can mend, before the first step where it can be
        known.
    """
    ranks = ranks or Ranks()
    quiet = quiet or not ranks.is_first
    require_tables(recipe, "train-student", "student", "losses", "training", "run")
    assert recipe.run
    folder = recipe.locate(recipe.run.path)
    if dry_run:
        setup = open_student(recipe, folder, quiet=quiet, ranks=ranks)
        return {"run": str(folder), "steps": _schedule(setup).steps, "trained": False}
    with says_what_is_kept(partial(_tell_kept, folder)), _hold(folder, ranks):
        setup = open_student(recipe, folder, quiet=quiet, ranks=ranks)
        schedule = _schedule(setup)
        result = ranks.hand_out(_begin(setup, schedule, quiet) if ranks.is_first else None)
        if result is None:
            result = _train(setup, schedule, quiet)
        else:
            say(f"{folder}: this run has ended; delete the folder to train it again", quiet)
    return {"run": str(folder), "trained": True, **result}


def _hold(folder: Path, ranks: Ranks) -> AbstractContextManager[None]:
    return hold_run(folder) if ranks.is_first else nullcontext()


def _tell_kept(folder: Path) -> str:
    """Say what is safe of a run that is interrupted."""
    if not (folder / POINTER).exists():
        return f"no checkpoint is in {folder} yet; the same command begins anew"
    step = read_json(folder / POINTER)["step"]
    return f"the checkpoint of step {step} is in {folder}; the same command goes on from there"


def _begin(setup: Setup, schedule: Schedule, quiet: bool) -> dict[str, Any] | None:
    """Write down what is about to begin; gives how it ended if it has."""
    begin_run(setup.folder, setup.identity, resolved(setup.recipe))
    _tell_views(setup, schedule.steps, quiet)
    for warning in _warn_alone(setup):
        say(f"warning: {warning}", quiet)
    return read_result(setup.folder)


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
    network = accelerator.prepare(setup.network)
    losses = weigh([loss.model_dump() for loss in setup.recipe.losses])
    start = _resume(setup, optimizer, quiet)
    if setup.ranks.size > 1:
        check_same({"weights_at_the_start": weights_digest(setup.network)}, setup.ranks)
    with (
        guard_memory(training.rows_a_batch, "training"),
        progress(
            "train-student",
            total=schedule.steps,
            unit="steps",
            done=start.step,
            note=f"into {setup.folder}",
            quiet=quiet,
        ) as advance,
    ):
        end = train(
            Learner(accelerator, network, optimizer, losses, setup.taps, setup.ranks),
            setup.stream,
            schedule=schedule,
            start=start,
            observers=_observers(setup, optimizer, advance),
        )
    is_first = setup.ranks.is_first
    best = read_weights(setup.folder / BEST_WEIGHTS, "best weights") if is_first else {}
    load_weights(setup.network.model, setup.ranks.hand_out(best), "best weights")
    result = _result(setup, end, started)
    if is_first:
        _write(setup, result)
    return result


def _result(setup: Setup, end: Progress, started_s: float) -> dict[str, Any]:
    return {
        "steps": end.step,
        "best_step": end.best_step,
        "validation": end.best,
        "test": _evaluate(setup, "test"),
        "parameters": sum(each.numel() for each in setup.network.model.parameters()),
        "elapsed_s": round(time.perf_counter() - started_s, 3),
        "ranks": setup.ranks.size,
        "gradient_share": _mean_shares(setup),
        **({"warnings": told} if (told := _warn_alone(setup)) else {}),
        **{
            key: setup.identity[key]
            for key in ("cache", "teachers", "data", "sources")
            if key in setup.identity
        },
    }


def _write(setup: Setup, result: dict[str, Any]) -> None:
    """Keep the best student for others to use, and at last how its run ended."""
    assert setup.recipe.student
    if projections := _projections(setup):
        save_projections(setup.folder, projections)
    save_pretrained(setup.network, setup.folder / PRETRAINED, tokenizer=_tokenizer(setup.recipe))
    model = setup.recipe.student.model.model_dump(exclude_none=True)
    save_reference(setup.folder, model, setup.recipe.base)
    replace_json(setup.folder / RESULT, result)


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


def _resume(setup: Setup, optimizer: Any, quiet: bool) -> Progress:
    ranks, seed = setup.ranks, setup.identity["training"]["seed"]
    checkpoint = ranks.hand_out(load_checkpoint(setup.folder) if ranks.is_first else None)
    if ranks.is_first:
        keep_metrics_until(setup.folder, checkpoint.step if checkpoint else -1)
    if checkpoint is None:
        seed_rank(seed, ranks)
        return Progress()
    load_weights(setup.network.model, checkpoint.weights, "last checkpoint")
    if setup.network.projections is not None:
        load_weights(setup.network.projections, checkpoint.projections, "last checkpoint")
    optimizer.load_state_dict(checkpoint.optimizer_state)
    before = restore_rank_rng(checkpoint.rng, ranks, seed=seed, step=checkpoint.step)
    if before != ranks.size:
        say(
            f"{setup.folder}: goes on with {ranks.size} ranks after {before}: the rest of the "
            "epoch is what it would have been, what is drawn at random (dropout) is not",
            quiet,
        )
    setup.stream.load_state_dict(checkpoint.progress["stream"])
    return Progress(**checkpoint.progress)


def _evaluate(setup: Setup, name: str) -> Metrics:
    stream = setup.evaluations.get(name)
    return evaluate(setup.network, stream, setup.device, setup.ranks) if stream else {}


def _observers(setup: Setup, optimizer: Any, advance: Any) -> Observers:
    validation, is_first = setup.recipe.validation, setup.ranks.is_first

    def checkpoint(now: Progress) -> None:
        rng = gather_rng(setup.ranks)
        if is_first:
            save_checkpoint(
                setup.folder,
                now.step,
                weights=setup.network.model.state_dict(),
                projections=_projections(setup),
                optimizer_state=optimizer.state_dict(),
                progress=asdict(now),
                rng=rng,
            )

    def log(line: Mapping[str, Any]) -> None:
        if is_first:
            append_metrics(setup.folder, line)

    def keep_best(metrics: Metrics) -> None:
        if is_first:
            save_best(setup.folder, setup.network.model.state_dict(), metrics)

    return Observers(
        log=log,
        evaluate=(lambda: _evaluate(setup, "validation")) if validation else None,
        better=better_by(validation.best_by if validation else "accuracy"),
        save_checkpoint=checkpoint,
        save_best=keep_best,
        advance=advance,
    )
