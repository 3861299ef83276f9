"""A whole recipe: one experiment, of which every stage reads its own tables, and where it runs."""

import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, PrivateAttr

from pipeline.errors import RecipeError
from pipeline.recipe.features import Feature
from pipeline.recipe.generate import Generate
from pipeline.recipe.losses import Loss
from pipeline.recipe.pseudo_labels import Labelling
from pipeline.recipe.schema import (
    EXECUTION,
    Cache,
    Data,
    Positive,
    SpoolTable,
    Student,
    Table,
    Targets,
    Teacher,
)
from pipeline.recipe.training import Evaluate, Run, Test, Training, Validation
from pipeline.recipe.views import Views

Lines = Annotated[tuple[str, ...], Field(strict=False)]


class LocalCompute(Table):
    """So many processes on this machine; where it has GPUs, one GPU each."""

    kind: Literal["local"]
    workers: Positive


class DaskCompute(Table):
    """The workers of a Dask scheduler that runs already; give them one thread each."""

    kind: Literal["dask"]
    address: Annotated[str, Field(min_length=1)]


class BatchCompute(Table):
    """Workers that are jobs of a batch system, through dask-jobqueue: `workers` of them, or as many
    as there is work for, from `workers_min` to `workers_max`.

    `setup` are shell lines before the worker starts, `extra` directives of the batch system. Each
    job has `cores` and `memory`; workers and the process that schedules them meet on `interface`.
    """

    kind: Literal["slurm", "pbs", "lsf", "sge"]
    workers: Positive | None = None
    workers_min: Annotated[int, Field(ge=0)] = 0
    workers_max: Positive | None = None
    cores: Positive = 1
    memory: Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)? ?[kKMGT]i?B$")]
    queue: str | None = None
    walltime: str | None = None
    setup: Lines = ()
    extra: Lines = ()
    interface: str | None = None


Compute = Annotated[LocalCompute | DaskCompute | BatchCompute, Field(discriminator="kind")]


class Recipe(Table):
    """One experiment; every stage reads its own tables of it."""

    name: str = Field(min_length=1)
    data: dict[str, Data] = Field(default={})
    views: Views | None = None
    teacher: Teacher | None = None
    targets: Targets | None = None
    features: Annotated[tuple[Feature, ...], Field(strict=False)] = ()
    cache: Cache | None = None
    pseudo_labels: Labelling | None = None
    generate: Generate | None = None
    spool: SpoolTable | None = None
    student: Student | None = None
    losses: Annotated[tuple[Loss, ...], Field(strict=False)] = ()
    training: Training | None = None
    validation: Validation | None = None
    test: Test | None = None
    evaluate: Evaluate | None = None
    run: Run | None = None
    compute: Annotated[Compute | None, Field(json_schema_extra=EXECUTION)] = None

    _path: Path = PrivateAttr(default=Path("recipe.toml"))
    _overrides: tuple[str, ...] = PrivateAttr(default=())

    @property
    def base(self) -> Path:
        """The folder that relative paths of the recipe start from."""
        return self._path.parent

    @property
    def file(self) -> str:
        """How messages name the recipe."""
        return self._path.name

    @property
    def source(self) -> tuple[str, tuple[str, ...]]:
        """What `load_recipe` needs to read it again, in any process that sees the same files."""
        return os.path.abspath(self._path), self._overrides

    def locate_cache(self, place: str) -> Path | str:
        """Turn the place of a cache into one of this process; addresses stay what they are."""
        return place if "://" in place else self.locate(place)

    def locate(self, place: str) -> Path:
        """Turn a path of the recipe into one of this process, as short as it can be said.

        Raises: RecipeError for an address.
        """
        if "://" in place:
            line = f"{place}: only caches may lie in an object store; give a path"
            raise RecipeError(self.file, [line])
        path = self.base / place
        short = Path(os.path.normpath(path))
        # "a/../b" is not "b" where a is a symbolic link.
        return short if os.path.realpath(short) == os.path.realpath(path) else path
