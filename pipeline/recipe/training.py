"""The tables of a recipe that say how a student is optimised, judged, and where its run goes."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.recipe.schema import (
    EXECUTION,
    LOCATION,
    Device,
    OptionalPlace,
    Place,
    Positive,
    Seed,
    Table,
)

Runs = Annotated[dict[str, Place], Field(json_schema_extra=LOCATION)]


class TaughtBy(Table):
    """One of several caches that teach a student; weights are shares of their sum."""

    cache: Place
    weight: Annotated[float, Field(gt=0)] = 1.0


class Source(Table):
    """One of several datasets that share each batch, `rows` of it, with what is known of it.

    `cache` gives soft targets, `pseudo_labels` the folder of a table of them: the rows that were
    chosen alone, unless `only_chosen` is false.
    """

    data: str
    rows: Positive
    cache: OptionalPlace = None
    pseudo_labels: OptionalPlace = None
    only_chosen: bool = True


class Training(Table):
    """How the student is optimised; exactly one of `epochs` and `steps`.

    `teachers` are the caches that teach it, in place of [cache]; `sources` are several datasets, in
    place of `data` and `batch_size`.
    """

    data: str = "train"
    sources: Annotated[tuple[Source, ...], Field(strict=False, json_schema_extra=LOCATION)] = ()
    # What two runs differ by are the caches' digests and shares, which are compared elsewhere.
    teachers: Annotated[tuple[TaughtBy, ...], Field(strict=False, json_schema_extra=LOCATION)] = ()
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive = 128
    accumulate: Positive = 1
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.01
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: Seed = 0
    window_parts: Positive = 8
    # Of samples that the teacher saw as they are, "fresh" shows the student views all the same.
    views: Literal["replay", "fresh"] = "replay"
    # Begin while the teacher still works: the first epoch takes the parts as they are made.
    follow: bool = False
    group_by_length: bool = False
    evaluate_every: Positive | None = None
    patience: Positive | None = None
    checkpoint_every: Annotated[Positive | None, Field(json_schema_extra=EXECUTION)] = None
    log_every: Annotated[Positive, Field(json_schema_extra=EXECUTION)] = 10
    gradients_every: Annotated[int, Field(ge=0)] = 200
    device: Device = "auto"
    threads: Annotated[Positive | None, Field(json_schema_extra=EXECUTION)] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The datasets that are trained on."""
        return tuple(each.data for each in self.sources) or (self.data,)

    @property
    def rows_a_batch(self) -> int:
        """The rows of a batch, of all sources together."""
        return sum(each.rows for each in self.sources) or self.batch_size


class Evaluation(Table):
    """Held-out data; with a cache of it, the student is compared with the teacher as well."""

    data: str
    cache: OptionalPlace = None
    batch_size: Positive = 512


class Validation(Evaluation):
    """Evaluated while training; `best_by` chooses the checkpoint that is kept."""

    data: str = "validation"
    best_by: Literal["accuracy", "nll", "teacher_kl"] = "accuracy"


class Test(Evaluation):
    """Evaluated once, with the best checkpoint, at the end."""

    data: str = "test"


class Evaluate(Table):
    """Which models are compared, on which held-out data, and how long they are timed.

    Left out, `data` and `cache` are those of [test], or else of [validation]. `runs` are finished
    runs beside that of [run], by the name that they have in the comparison.
    """

    data: str | None = None
    cache: OptionalPlace = None
    runs: Runs = {}  # noqa: RUF012  # pydantic copies it
    batch_size: Positive = 64
    rounds: Positive = 20
    device: Device = "auto"
    threads: Annotated[Positive | None, Field(json_schema_extra=EXECUTION)] = None


class Run(Table):
    """Where a run's metrics and checkpoints go."""

    path: Place
