"""A whole recipe: one experiment, of which every stage reads its own tables."""

import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, PrivateAttr

from pipeline.errors import RecipeError
from pipeline.recipe.features import Feature
from pipeline.recipe.generate import Generate
from pipeline.recipe.losses import Loss
from pipeline.recipe.pseudo_labels import Labelling
from pipeline.recipe.schema import (
    Cache,
    Data,
    SpoolTable,
    Student,
    Table,
    Targets,
    Teacher,
)
from pipeline.recipe.training import Run, Test, Training, Validation
from pipeline.recipe.views import Views


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
    run: Run | None = None

    _path: Path = PrivateAttr(default=Path("recipe.toml"))

    @property
    def base(self) -> Path:
        """The folder that relative paths of the recipe start from."""
        return self._path.parent

    @property
    def file(self) -> str:
        """How messages name the recipe."""
        return self._path.name

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
