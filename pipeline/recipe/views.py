"""The tables of a recipe that say in which renditions samples are seen."""

from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.recipe.schema import Positive, Seed, Table

Share = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]


class Mask(Table):
    """Of a row's tokens the `fraction` is asked for, rare ones first; `mask` of those are hidden.

    A token that occurs n times weighs n to the power -rare; `random` of them show another token.
    """

    fraction: Annotated[float, Field(gt=0, le=1)] = 0.15
    rare: Annotated[float, Field(ge=0, le=4)] = 0.7
    mask: Share = 0.8
    random: Share = 0.1


class Crop(Table):
    """Pad by so many pixels and cut a window of the same size."""

    kind: Literal["crop"]
    padding: Positive
    mode: Literal["zero", "edge", "reflect"] = "zero"


class Flip(Table):
    """Exchange left and right."""

    kind: Literal["flip"]
    probability: Share = 0.5


class Shift(Table):
    """Move by up to so many pixels each way, also by fractions of one."""

    kind: Literal["shift"]
    pixels: Annotated[float, Field(gt=0)]


class Colour(Table):
    """Multiply brightness, contrast and saturation by factors between 1 - x and 1 + x."""

    kind: Literal["colour"]
    brightness: Share = 0.0
    contrast: Share = 0.0
    saturation: Share = 0.0


class Noise(Table):
    """Add noise of a standard deviation, in units of the input's whole range."""

    kind: Literal["noise"]
    std: NotNegative


class Torchvision(Table):
    """Apply a class of torchvision.transforms.v2."""

    kind: Literal["torchvision"]
    transform: str
    arguments: dict[str, Any] = Field(default={})


Augmentation = Annotated[
    Crop | Flip | Shift | Colour | Noise | Torchvision, Field(discriminator="kind")
]


class Mix(Table):
    """Mix each sample with another one of its part; how much is drawn from Beta(alpha, alpha)."""

    kind: Literal["mixup", "cutmix"]
    alpha: Annotated[float, Field(gt=0)] = 0.2


class Views(Table):
    """Seeded renditions of a sample; a cache holds `count` of each.

    `mask` is of text, `augment` and `mix` are of images.
    """

    count: Positive = 1
    seed: Seed = 0
    mask: Mask = Mask()
    augment: Annotated[tuple[Augmentation, ...], Field(strict=False)] = ()
    mix: Mix | None = None
