"""The terminal: commands, options, exit statuses. The only module that knows stages and click.

Exit status: 0 done, 1 a fault was found, 2 something the user can mend, 75 terminated (try again),
130 interrupted. Results go to standard output, everything else to standard error. Nothing heavy is
imported before a stage runs.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from pipeline.errors import CorruptPart, CorruptTable, PipelineError, ToldElsewhere, near_miss
from pipeline.termination import ends_when_told

FAULT, MENDABLE, INTERRUPTED = 1, 2, 130
LOOK_CLOSER = "`pipeline verify CACHE` lists all that is damaged, and how to mend it."
# Of commands that keep nothing half done.
BEGINS_ANEW = "the same command begins anew"

Command = Callable[..., None]
# The shell completes names of files where it completes these.
FILE = click.Path()
CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(click.Group):
    """The commands; of one that is not there it names the near one."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.commands and name[:1] != "-" and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{name}'{near_miss(name, sorted(self.commands))}")
        return super().resolve_command(ctx, args)


def complete_template(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """List the starters that begin so; their folders tell, for the shell does not wait."""
    from importlib.resources import files

    folders = (files("pipeline") / "starters" / "templates").iterdir()
    names = sorted(each.name for each in folders if each.is_dir() and each.name[0] not in "_.")
    return [name for name in names if name.startswith(incomplete)]


@click.group(cls=Commands, context_settings=CONTEXT)
@click.version_option(package_name="teacher-logit-cache", prog_name="pipeline")
def pipeline() -> None:
    """Run a teacher once, keep what students need, and train any number of students from it.

    \b
    A first tour, on data that ships with the project:
      pipeline train-student data/recipes/digits-teacher.toml
      pipeline cache-teacher data/recipes/digits.toml
      pipeline train-student data/recipes/digits.toml

    \b
    The shell completes commands, options and files after this line, in zsh with zsh_source;
    in fish: _PIPELINE_COMPLETE=fish_source pipeline | source
      eval "$(_PIPELINE_COMPLETE=bash_source pipeline)"
    """


def output_options(command: Command) -> Command:
    """Add the options that every command takes."""
    command = click.option("--quiet", is_flag=True, help="No progress, no notices.")(command)
    return click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")(
        command
    )


def set_option(command: Command) -> Command:
    """Add --set."""
    return click.option(
        "--set",
        "overrides",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a value of the recipe, such as training.epochs=3. May be repeated.",
    )(command)


def recipe_options(command: Command) -> Command:
    """Add the recipe and its overrides."""
    return click.argument("recipe", metavar="RECIPE", type=FILE)(set_option(command))


def dry_run_option(what: str) -> Callable[[Command], Command]:
    """Add --dry-run, saying what it does once everything was checked."""
    return click.option("--dry-run", is_flag=True, help=f"Check everything, {what}; write nothing.")


@pipeline.command()
@click.argument("template", required=False, shell_complete=complete_template)
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
@output_options
def init(template: str | None, force: bool, as_json: bool, quiet: bool) -> None:
    """Write commented starter recipes into this folder, with small data that they run on.

    Without TEMPLATE, list the starters.

    Example: pipeline init images
    """
    import stages.init as stage

    _show(stage, stage.run(template, force=force), as_json)


@pipeline.command()
@output_options
def schema(as_json: bool, quiet: bool) -> None:
    """Print the JSON Schema of recipes, so that editors complete and check them.

    Example: pipeline schema > recipe.schema.json
    """
    from pipeline.recipe import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


@pipeline.command("cache-teacher")
@recipe_options
@dry_run_option("time three batches, say what the cache would cost")
@click.option(
    "--part-range", metavar="I/N", help="Make the I-th of N shares of the parts, I from 1."
)
@click.option("--finish", is_flag=True, help="Make no part; complete a cache that has all.")
@output_options
def cache_teacher(
    recipe: str, overrides: tuple[str, ...], as_json: bool, quiet: bool, **options: Any
) -> None:
    """Run the teacher once over a dataset and keep its soft targets.

    Stop it at any moment; the same command goes on where it stopped. Several may run at once; array
    jobs of any scheduler share the parts with --part-range, in any order, again and again, and the
    last one completes the cache. With --dry-run it says first what it would
    take: bytes, hours on so many workers, and after how many epochs or students it is cheaper than
    a teacher in the training loop.

    Example: pipeline cache-teacher data/recipes/digits.toml --dry-run
    """
    import stages.cache_teacher as stage
    from pipeline.recipe import load_recipe

    summary = stage.run(load_recipe(recipe, overrides), quiet=quiet, **options)
    _show(stage, summary, as_json)


@pipeline.command()
@recipe_options
@dry_run_option("time three batches, say what the text would cost")
@output_options
def generate(
    recipe: str, overrides: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Let a causal teacher write text, and keep its soft targets on it in the same pass.

    What comes out is a cache, which holds the text as well. Stop it at any moment; the same command
    goes on where it stopped.

    Example: pipeline generate data/recipes/shakespeare-written.toml
    """
    import stages.generate as stage
    from pipeline.recipe import load_recipe

    summary = stage.run(load_recipe(recipe, overrides), dry_run=dry_run, quiet=quiet)
    _show(stage, summary, as_json)


@pipeline.command("pseudo-label")
@recipe_options
@dry_run_option("stop before any row is labelled")
@output_options
def pseudo_label(
    recipe: str, overrides: tuple[str, ...], dry_run: bool, as_json: bool, quiet: bool
) -> None:
    """Turn a cache of unlabelled data into labels with a stated error.

    Neither the teacher nor the data is needed. One Parquet table, a summary, a page to look at.

    Example: pipeline pseudo-label data/recipes/digits-unlabelled.toml
    """
    import stages.pseudo_label as stage
    from pipeline.recipe import load_recipe

    summary = stage.run(load_recipe(recipe, overrides), dry_run=dry_run, quiet=quiet)
    _show(stage, summary, as_json)


@pipeline.command("train-student")
@recipe_options
@click.option(
    "--follow", is_flag=True, help="Begin while the cache is still being made (training.follow)."
)
@dry_run_option("stop before the first optimiser step")
@output_options
def train_student(
    recipe: str,
    overrides: tuple[str, ...],
    follow: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a student from a cache, on hard labels, or on both.

    Stop it at any moment; the same command goes on from the last checkpoint. On several GPUs or
    machines: torchrun -m pipeline train-student RECIPE

    Example: pipeline train-student data/recipes/digits.toml --set training.seed=1
    """
    # Of a rank that is lost torch tells in thirty lines; the one that matters is ours.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    import stages.train_student as stage
    from pipeline.recipe import load_recipe

    if follow:
        overrides = (*overrides, "training.follow=true")
    with stage.join() as ranks:
        loaded = load_recipe(recipe, overrides)
        summary = stage.run(loaded, dry_run=dry_run, quiet=quiet, ranks=ranks)
    if ranks.is_first:
        _show(stage, summary, as_json)


@pipeline.command()
@recipe_options
@click.option(
    "--run",
    "runs",
    multiple=True,
    metavar="NAME=PATH",
    help="Compare another finished run, under this name. May be repeated.",
)
@output_options
def evaluate(
    recipe: str, overrides: tuple[str, ...], runs: tuple[str, ...], as_json: bool, quiet: bool
) -> None:
    """Compare a student with its teacher and other runs: quality, size, speed, calibration.

    The table, all numbers and a model card are saved in the student's run. Speed is that of this
    machine, with nothing else to do.

    Example: pipeline evaluate data/recipes/digits.toml --run "hard labels=runs/digits-hard"
    """
    import stages.evaluate as stage
    from pipeline.recipe import load_recipe

    named = {name: Path(path) for name, path in map(_name_and_path, runs)}
    _show(stage, stage.run(load_recipe(recipe, overrides), runs=named, quiet=quiet), as_json)


def _name_and_path(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise click.BadParameter(f"must be NAME=PATH; got {text!r}", param_hint="--run")
    return name, path


@pipeline.command()
@click.argument("target", metavar="CACHE_OR_RECIPE", type=FILE)
@click.option(
    "--audit", type=click.IntRange(min=1), metavar="N", help="Re-run the teacher on N rows."
)
@set_option
@output_options
def verify(
    target: str, overrides: tuple[str, ...], audit: int | None, as_json: bool, quiet: bool
) -> None:
    """Prove a cache whole, or name the part, the file and the fault (exit status 1).

    Give the recipe in place of the cache to audit: the teacher runs again on N rows.

    Example: pipeline verify data/recipes/digits.toml --audit 20
    """
    import stages.verify as stage

    summary = stage.run(target, overrides=overrides, audit=audit, quiet=quiet)
    _show(stage, summary, as_json)
    if summary["faults"]:
        sys.exit(FAULT)


@pipeline.command()
@click.argument("target", metavar="TARGET", type=FILE)
@click.option(
    "--rows",
    default=5,
    show_default=True,
    type=click.IntRange(min=0),
    help="Rows of a cache, or positions of a sample, to decode.",
)
@click.option("--sample", metavar="ID", help="Show the targets of this sample alone.")
@click.option("--model", is_flag=True, help="List the modules of a recipe's models.")
@set_option
@output_options
def inspect(
    target: str, model: bool, overrides: tuple[str, ...], as_json: bool, **options: Any
) -> None:
    """Show what is in a cache, a run, a folder of pseudo-labels or a recipe, in one screen.

    Of a recipe it says what is there already and what to type next. With --sample give a cache, or
    a recipe to see tokens as text. With --model give a recipe: its models' modules, and the shapes
    of what they answer, for [[features]] and losses to name.

    Example: pipeline inspect caches/digits
    """
    import stages.inspect as stage

    if model:
        from pipeline.recipe import load_recipe

        _show(stage, stage.run_model(load_recipe(target, overrides)), as_json)
    else:
        _show(stage, stage.run(target, overrides=overrides, **options), as_json)


@pipeline.command()
@click.argument("targets", metavar="TARGET...", nargs=-1, required=True)
@click.option("--out", default="report.html", show_default=True, help="The page to write.")
@set_option
@output_options
def report(
    targets: tuple[str, ...], out: str, overrides: tuple[str, ...], as_json: bool, quiet: bool
) -> None:
    """Write one HTML page about caches and runs, to look at and to send on.

    A target is a cache, a run's folder, or a recipe, which stands for its caches and its run and
    shows samples as well. The page is one file that needs nothing from elsewhere.

    Example: pipeline report data/recipes/digits.toml --out digits.html
    """
    import stages.report as stage

    _show(stage, stage.run(targets, out=out, overrides=overrides, quiet=quiet), as_json)


def _show(stage: Any, summary: dict[str, Any], as_json: bool) -> None:
    click.echo(json.dumps(summary, indent=2) if as_json else stage.tell(summary))


def main() -> None:
    """Run the command line and leave with its exit status."""
    with ends_when_told(partial(click.echo, err=True)):
        _run()


def _run() -> None:
    try:
        status = pipeline.main(prog_name="pipeline", standalone_mode=False)
    except ToldElsewhere:
        sys.exit(MENDABLE)
    except PipelineError as error:
        closer = [LOOK_CLOSER] if isinstance(error, CorruptPart) else []
        notes = [*getattr(error, "__notes__", []), *closer]
        click.echo("\n  ".join([f"error: {error}", *notes]), err=True)
        sys.exit(FAULT if isinstance(error, CorruptPart | CorruptTable) else MENDABLE)
    except click.ClickException as error:
        error.show()
        sys.exit(MENDABLE)
    except (KeyboardInterrupt, click.Abort) as error:
        # click wraps what the stage may have said of itself.
        notes = getattr(error.__cause__ or error, "__notes__", [BEGINS_ANEW])
        click.echo("; ".join(["interrupted", *notes]), err=True)
        sys.exit(INTERRUPTED)
    sys.exit(status if isinstance(status, int) else 0)
