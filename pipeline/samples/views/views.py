"""The views of a dataset: how many each sample has, and what one looks like.

Where several are kept, a row is a sample and a view: the views of a sample come one after another.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError, list_differences
from pipeline.keyed import view_key
from pipeline.samples.batch import Indices, SampleBatch, Samples, read_labels
from pipeline.samples.text.tokens import Tokens, tokens_of
from pipeline.samples.views.masks import Masks, mask_tokens

Numbers = NDArray[np.int64]
# Raised whenever the same settings show something else than before.
VERSION = 1


@dataclass(frozen=True)
class Views:
    """How samples are shown; without masks a sample has one view, itself."""

    count: int = 1
    seed: int = 0
    masks: Masks | None = None

    def show(self, batch: SampleBatch, numbers: Numbers) -> SampleBatch:
        """Show samples in the views of these numbers. Shapes: numbers (B,)."""
        if self.masks is None:
            return batch
        named = zip(batch.ids, numbers.tolist(), strict=True)
        keys = [view_key(self.seed, sample_id, number) for sample_id, number in named]
        return replace(batch, inputs=mask_tokens(batch.inputs, keys, self.masks))

    def split(self, rows: Indices) -> tuple[Numbers, Numbers]:
        """Tell rows apart into samples and views. Shapes: rows (B,); returns (B,) twice."""
        samples, numbers = np.divmod(np.asarray(rows, np.int64), self.count)
        return samples, numbers

    @property
    def settings(self) -> dict[str, Any] | None:
        """Everything that decides what is shown, as JSON; None where samples are shown as are."""
        if self.masks is None:
            return None
        masks = self.masks.settings
        return {"version": VERSION, "count": self.count, "seed": self.seed, "mask": masks}


@runtime_checkable
class KnowsViews(Protocol):
    """A dataset that says in which views it is to be seen."""

    @property
    def views(self) -> Views:
        """How each sample is shown."""


@dataclass(frozen=True)
class Viewed:
    """A dataset, and the views that it is to be seen in; what it reads are the samples as are."""

    samples: Samples
    views: Views

    @property
    def name(self) -> str:
        """The name of the dataset behind."""
        return self.samples.name

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The class names of the dataset behind."""
        return self.samples.class_names

    @property
    def tokens(self) -> Tokens | None:
        """What kind of text the dataset behind holds."""
        return tokens_of(self.samples)

    def __len__(self) -> int:
        return len(self.samples)

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the samples of a range."""
        return self.samples.ids(start, stop)

    def read(self, indices: Indices) -> SampleBatch:
        """Read samples as they are."""
        return self.samples.read(indices)

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Give the labels of `indices`."""
        return read_labels(self.samples, indices)


def views_of(samples: Samples) -> Views:
    """Say in which views a dataset is seen: those it names, or by default one of each sample."""
    return samples.views if isinstance(samples, KnowsViews) else make_views(samples)


def make_views(
    samples: Samples,
    *,
    count: int = 1,
    seed: int = 0,
    mask: Mapping[str, float] | None = None,
) -> Views:
    """Make views of text whose masked tokens are asked for; other data is shown as it is."""
    tokens = tokens_of(samples)
    if tokens is None or tokens.maskable is None:
        return Views()
    return Views(count, seed, Masks(tokens.maskable, **(mask or {})))


def replay_views(
    samples: Samples,
    settings: Mapping[str, Any] | None,
    counts: NDArray[np.int64] | None = None,
    *,
    where: str,
) -> Views:
    """Make the views that were seen by whoever kept these settings; `where` says who.

    Shapes: counts (vocabulary,), how often each token occurred then; by default as often as now.
    Raises: SampleError naming what differs, if this dataset cannot show them again.
    """
    if settings is None and views_of(samples).masks is None:
        return Views()
    if settings is None or views_of(samples).masks is None:
        has, asks = ("holds", "no") if settings else ("holds no", "the")
        raise SampleError(
            f"{samples.name}: {where} {has} answers about masked tokens, and {samples.name} asks "
            f"for {asks} masked tokens. Give the data the task that the teacher had."
        )
    if settings["version"] != VERSION:
        raise SampleError(
            f"{samples.name}: {where} was made with version {settings['version']} of the views; "
            f"this software shows version {VERSION}. Use the software that made it, or cache again."
        )
    chosen = {key: settings["mask"][key] for key in ("fraction", "rare", "mask", "random")}
    views = make_views(samples, count=settings["count"], seed=settings["seed"], mask=chosen)
    if counts is not None and views.masks:
        maskable = replace(views.masks.maskable, counts=counts)
        views = replace(views, masks=replace(views.masks, maskable=maskable))
    if differing := list_differences(({"views": settings}, {"views": views.settings})):
        head = f"{samples.name}: the views of {where} cannot be shown again"
        advice = "Give the data the mask_token that the teacher saw, or cache again."
        raise SampleError("\n  ".join([head, *differing, advice]))
    return views


def read_views(samples: Samples, rows: Indices) -> SampleBatch:
    """Read rows of a dataset as they are seen. Shapes: rows (B,), counting samples and views."""
    views = views_of(samples)
    indices, numbers = views.split(rows)
    return views.show(samples.read(indices), numbers)
