"""The table of a recipe that says which rows of unlabelled data are to have a pseudo-label."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.schema import EXECUTION, OptionalPlace, Place, Positive, Table

Share = Annotated[float, Field(gt=0, lt=1)]


class Threshold(Table):
    """Rows whose confidence is so high, after calibration if there is one."""

    kind: Literal["threshold"]
    at_least: Share


class Margin(Table):
    """Rows whose two most probable classes are so far apart."""

    kind: Literal["margin"]
    at_least: Share


class PerClass(Table):
    """The surest rows of every class, so many; repeated where there are fewer."""

    kind: Literal["per_class"]
    count: Positive


class Precision(Table):
    """The widest set that is so precise, as far as labelled rows show; or each class's widest.

    As they show: the lower end of the Clopper-Pearson interval of `confidence` reaches `at_least`.
    """

    kind: Literal["precision"]
    at_least: Share
    confidence: Share = 0.95
    every_class: bool = False


class Everything(Table):
    """Every row, each as much as the teacher is sure of it."""

    kind: Literal["all"]


Rule = Annotated[
    Threshold | Margin | PerClass | Precision | Everything, Field(discriminator="kind")
]


class Labelling(Table):
    """What `pipeline pseudo-label` reads, chooses and writes.

    `cache` is of the unlabelled data, [cache] if it is left out; `labelled_cache` is of labelled
    data that the teacher was not trained on. `show` names the data to be shown on the page.
    """

    path: Place
    rule: Rule
    cache: OptionalPlace = None
    labelled_cache: OptionalPlace = None
    balanced: bool = False
    most_per_class: Positive | None = None
    most: Positive | None = None
    show: Annotated[str | None, Field(json_schema_extra=EXECUTION)] = None
    threads: Annotated[Positive | None, Field(json_schema_extra=EXECUTION)] = None
