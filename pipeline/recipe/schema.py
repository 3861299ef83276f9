"""The tables of a recipe, as frozen pydantic models; choices are told apart by `kind`.

It says what may be written in a recipe and nothing of how it is carried out: no model here is
handed to a room, stages pass plain values. A field marked EXECUTION or LOCATION says where or how
fast work runs, and never changes what comes out, so it is no part of what a run or a cache is
compared by.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

EXECUTION = {"comparable": False}
# Of keys that came later than caches that are still used.
WHERE_SET = {"comparable": "where set"}
LOCATION = {"comparable": False}

# Strict everywhere, so that k = "4" is refused; TOML has only lists, so tuples alone are lax.
Size = Annotated[
    tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], Field(strict=False)
]
# What every generator that is seeded accepts.
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Shape = Annotated[tuple[int, ...], Field(strict=False)]
Names = Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
Floats = Annotated[tuple[float, ...], Field(strict=False)]
Temperatures = Annotated[tuple[Annotated[float, Field(ge=1)], ...], Field(strict=False)]
Positive = Annotated[int, Field(ge=1)]
# What a model is asked: the label of a sample, the next token at every position, or those masked.
Task = Literal["label", "next_token", "masked_token"]
Precision = Literal["float32", "bfloat16", "float16"]


Device = Annotated[str, Field(json_schema_extra=EXECUTION)]
Place = Annotated[str, Field(min_length=1, json_schema_extra=LOCATION)]
# A mark inside a union is lost, so it stands outside as well.
OptionalPlace = Annotated[Place | None, Field(json_schema_extra=LOCATION)]


class Table(BaseModel):
    """What every table shares: frozen, strict, finite numbers, and no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Subset(Table):
    """A seeded subset of a dataset; `balanced` takes equally many of every class.

    With `skip` the first so many are left out; without `count` all others are taken.
    """

    count: Positive | None = None
    seed: Seed = 0
    balanced: bool = False
    skip: Annotated[int, Field(ge=0)] = 0


class Dataset(Table):
    """What every kind of dataset shares."""

    class_names: Names | None = None
    subset: Subset | None = None
    on_error: Literal["raise", "skip"] = "raise"


class Images(Dataset):
    """Options of everything that decodes PNG or JPEG."""

    size: Size | None = None
    mode: Literal["RGB", "L"] = "RGB"
    fit: Literal["crop", "stretch"] = "crop"


class ParquetData(Images):
    """One Parquet file, a folder of them, or a glob."""

    kind: Literal["parquet"]
    path: Place
    input: str = "image"
    id: str | None = None
    label: str | None = None
    shape: Shape | None = None
    dtype: str | None = None
    filter: dict[str, str | int | float | bool] = {}


class ImagesData(Images):
    """A folder of class folders of PNG or JPEG files, or a flat folder without labels."""

    kind: Literal["images"]
    path: Place


class ArraysData(Dataset):
    """Numpy arrays: .npy files, or with `path` the members of that .npz."""

    kind: Literal["arrays"]
    inputs: Place
    labels: OptionalPlace = None
    ids: OptionalPlace = None
    path: OptionalPlace = None


class IdxData(Dataset):
    """The files of MNIST and Fashion-MNIST, gzipped or not."""

    kind: Literal["idx"]
    images: Place
    labels: OptionalPlace = None


class PythonData(Dataset):
    """A factory beside the recipe; its object has a length and gives samples by index."""

    kind: Literal["python"]
    factory: str
    arguments: dict[str, Any] = {}


class TextData(Dataset):
    """Text files: .txt, .jsonl or Parquet, one document a line, a row or a whole .txt file."""

    kind: Literal["text"]
    path: Place
    tokenizer: Place
    length: Annotated[int, Field(ge=2)]
    task: Task = "next_token"
    document: Literal["line", "file"] = "line"
    pack: bool = False
    end: str | None = None
    column: str = "text"
    label: str | None = None
    mask_token: str | None = None


class HuggingFaceData(Images):
    """A folder that `datasets` saved: text if a tokenizer is named, or else images."""

    kind: Literal["huggingface"]
    path: Place
    split: str | None = None
    column: str | None = None
    label: str | None = None
    tokenizer: OptionalPlace = None
    length: Annotated[int, Field(ge=2)] | None = None
    task: Task = "next_token"
    pack: bool = False
    end: str | None = None
    mask_token: str | None = None


class CachedData(Dataset):
    """The rows of tokens that a cache of text holds: neither text nor tokenizer is needed."""

    kind: Literal["cache"]
    path: Place


Data = Annotated[
    ParquetData
    | ImagesData
    | ArraysData
    | IdxData
    | PythonData
    | TextData
    | HuggingFaceData
    | CachedData,
    Field(discriminator="kind"),
]


class PythonModel(Table):
    """A factory in a module beside the recipe, with optional weights."""

    kind: Literal["python"]
    factory: str
    arguments: dict[str, Any] = {}
    checkpoint: OptionalPlace = None
    mean: Floats | None = None
    std: Floats | None = None
    task: Task = "label"


class RunModel(Table):
    """A finished training run of ours."""

    kind: Literal["run"]
    path: Place


class TransformersModel(Table):
    """Through transformers: a local folder or a hub name, or with `config` a new model.

    Image classifiers, sequence classifiers, causal and masked language models; a saved model says
    itself which it is. With `new_head`, names of classes, a student is a saved body with a head
    that is yet to be trained.
    """

    kind: Literal["transformers"]
    path: OptionalPlace = None
    config: dict[str, Any] | None = None
    task: Task | None = None
    new_head: Names | None = None
    mean: Floats | None = None
    std: Floats | None = None


Model = Annotated[PythonModel | RunModel | TransformersModel, Field(discriminator="kind")]


class Teacher(Table):
    """The network that is run once, and what pins the bits of its answers."""

    model: Model
    precision: Precision = "float32"
    batch_size: Positive = 256
    device: Device = "auto"
    threads: Positive | None = None


class AllClasses(Table):
    """Keep every class: the right choice for few classes."""

    kind: Literal["all"]


class TopK(Table):
    """Keep the k most probable classes of a position."""

    kind: Literal["top_k"]
    k: Positive


class TopP(Table):
    """Keep the fewest classes that reach the mass p, `k_min` to `k_max` of them."""

    kind: Literal["top_p"]
    p: Annotated[float, Field(gt=0, lt=1)]
    k_max: Positive
    k_min: Positive = 1


class Sampled(Table):
    """Keep classes drawn from the teacher's distribution, with replacement: unbiased."""

    kind: Literal["sampled"]
    draws: Positive
    proposal_temperature: Annotated[float, Field(ge=1)] = 1.0
    seed: Seed = 0


class Hybrid(Table):
    """Keep the k most probable classes, and draws from the others."""

    kind: Literal["hybrid"]
    k: Positive
    draws: Positive
    proposal_temperature: Annotated[float, Field(ge=1)] = 1.0
    seed: Seed = 0


Selection = Annotated[
    AllClasses | TopK | TopP | Sampled | Hybrid,
    Field(discriminator="kind"),
]


class Bucket(Table):
    """Of the left-out classes, keep their mass at any temperature."""

    kind: Literal["bucket"]


class LowRank(Table):
    """Keep the shape of the left-out classes as well, on a basis learned from some positions.

    With `bytes` a position's shape takes so many, shared out over all directions that are worth a
    bit, or over `rank` of them at most; without, each of `rank` directions takes 4 bits.
    """

    kind: Literal["low_rank"]
    rank: Positive = 64
    bytes: Annotated[Positive | None, Field(json_schema_extra=WHERE_SET)] = None
    positions: Positive = 2048
    seed: Seed = 0

    @model_validator(mode="before")
    @classmethod
    def _as_many_as_there_are_bits(cls, written: Any) -> Any:
        if isinstance(written, Mapping) and "rank" not in written:
            size = written.get("bytes")
            if type(size) is int and size > 0:
                return {**written, "rank": 8 * size}
        return written


class Targets(Table):
    """What is kept of an answer; `temperatures` are those at which the tail must be exact.

    Without `tail`, a bucket of few classes, and of many (4,096) a low-rank tail.
    """

    selection: Selection
    tail: Annotated[Bucket | LowRank, Field(discriminator="kind")] | None = None
    # "small": kept logits of 8 bits, and nothing that follows from the rest.
    encoding: Annotated[Literal["small"] | None, Field(json_schema_extra=WHERE_SET)] = None
    temperatures: Temperatures = ()


class Cache(Table):
    """Where the cache lies and how it is laid out; `data` names the dataset it covers."""

    path: Place
    data: str = "train"
    backend: Literal["zarr", "parquet"] = "zarr"
    compression: Literal["none", "lz4", "zstd"] = "none"
    # Left out, 8192, or fewer so that a part stays below 64 MiB.
    rows_per_part: Positive | None = None
    # More than that is refused before the teacher runs.
    max_bytes: Annotated[Positive | None, Field(json_schema_extra=EXECUTION)] = None


class SpoolTable(Table):
    """Where copies of what is read from an object store are kept, and how much of it."""

    # Left out, a folder of this user's in the system's temporary one.
    path: OptionalPlace = None
    max_bytes: Annotated[Positive, Field(json_schema_extra=EXECUTION)] = 16 * 10**9


def _list_or_rule(layers: object) -> str:
    return "list" if isinstance(layers, list | tuple) else "rule"


Layers = Annotated[
    Annotated[Literal["every_other", "first", "last", "spread"], Tag("rule")]
    | Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False, min_length=1), Tag("list")
    ],
    Discriminator(_list_or_rule),
]


class Initialise(Table):
    """Layers of a model that a student begins as; without `model` they are the teacher's.

    `stack` names the list of layers, where a model has several.
    """

    layers: Layers
    model: Model | None = None
    stack: str | None = None


class Student(Table):
    """The network that learns."""

    model: Model
    initialise: Initialise | None = None
