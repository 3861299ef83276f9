"""The views of a dataset: how many each sample has, and what one looks like.

Where several are kept, a row is a sample and a view: first come all samples in view 0, then all in
view 1, so that an epoch of a student, which sees one view of each, lies in one piece.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError, list_differences
from pipeline.keyed import view_key
from pipeline.samples.batch import Indices, SampleBatch, Samples, hold_samples, read_labels
from pipeline.samples.text.tokens import Tokens, tokens_of
from pipeline.samples.views.augment import augment, library_versions
from pipeline.samples.views.masks import Masks, mask_tokens

Numbers = NDArray[np.int64]
Table = Mapping[str, Any]
# Raised whenever the same settings show something else than before.
VERSION = 2


@dataclass(frozen=True)
class Views:
    """How samples are shown; with nothing to be done a sample has one view, itself.

    `steps` are augmentations of images, each a table with its kind, applied in order; then a sample
    may be mixed with a partner of its part, as `mix` says.
    """

    count: int = 1
    seed: int = 0
    masks: Masks | None = None
    steps: tuple[Table, ...] = ()
    mix: Table | None = None

    @property
    def change(self) -> bool:
        """Whether any sample is shown otherwise than it is."""
        return bool(self.masks or self.steps or self.mix)

    def show(self, batch: SampleBatch, numbers: Numbers) -> SampleBatch:
        """Show samples in the views of these numbers, not mixed yet. Shapes: numbers (B,)."""
        if self.masks:
            keys = self.keys(batch.ids, numbers)
            return replace(batch, inputs=mask_tokens(batch.inputs, keys, self.masks))
        if not self.steps:
            return batch

        def keys_of(purpose: bytes) -> list[bytes]:
            return self.keys(batch.ids, numbers, purpose)

        steps = [(step["kind"], _without_kind(step)) for step in self.steps]
        return replace(batch, inputs=augment(batch.inputs, keys_of, steps))

    def keys(self, ids: Sequence[str], numbers: Numbers, purpose: bytes = b"") -> list[bytes]:
        """Make what decides everything that is drawn for some samples and their views."""
        named = zip(ids, numbers.tolist(), strict=True)
        return [view_key(self.seed, sample_id, number, purpose) for sample_id, number in named]

    @property
    def settings(self) -> dict[str, Any] | None:
        """Everything that decides what is shown, as JSON; None where samples are shown as are."""
        if not self.change:
            return None
        told: dict[str, Any] = {"version": VERSION, "count": self.count, "seed": self.seed}
        if self.masks:
            return told | {"mask": self.masks.settings}
        versions = library_versions(self.steps)
        return {
            **told,
            "augment": [dict(step) for step in self.steps],
            "mix": dict(self.mix) if self.mix else None,
            **({"software": versions} if versions else {}),
        }


def split_rows(rows: Indices, sample_count: int) -> tuple[Numbers, Numbers]:
    """Tell rows apart into samples and views. Shapes: rows (B,); returns (B,) twice."""
    numbers, samples = np.divmod(np.asarray(rows, np.int64), sample_count)
    return samples, numbers


def _without_kind(table: Table) -> dict[str, Any]:
    return {key: value for key, value in table.items() if key != "kind"}


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

    def hold(self, indices: NDArray[np.int64], asked: int) -> "Viewed":
        """Give the same samples, of which those at `indices` are in memory if that is worth it."""
        return Viewed(hold_samples(self.samples, indices, asked), self.views)

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
    augment: Sequence[Table] = (),
    mix: Table | None = None,
) -> Views:
    """Make views of text whose masked tokens are asked for, or of images that are augmented.

    Other text is shown as it is.

    Raises: SampleError if text is to be augmented.
    """
    tokens = tokens_of(samples)
    if tokens is None:
        changes = bool(augment or mix)
        return Views(count, seed, None, tuple(augment), mix) if changes else Views()
    if augment or mix:
        raise SampleError(
            f"{samples.name}: is text, and views.{'augment' if augment else 'mix'} is of images. "
            "Leave it out; the views of text are masks."
        )
    if tokens.maskable is None:
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
    tokens = tokens_of(samples)
    asks, holds = bool(tokens and tokens.maskable), bool(settings and "mask" in settings)
    if asks != holds:
        said = ("holds", "no") if holds else ("holds no", "the")
        raise SampleError(
            f"{samples.name}: {where} {said[0]} answers about masked tokens, and {samples.name} "
            f"asks for {said[1]} masked tokens. Give the data the task that the teacher had."
        )
    if settings is None:
        return Views()
    if settings["version"] != VERSION:
        raise SampleError(
            f"{samples.name}: {where} was made with version {settings['version']} of the views; "
            f"this software shows version {VERSION}. Use the software that made it, or cache again."
        )
    views = _make_again(samples, settings)
    if counts is not None and views.masks:
        maskable = replace(views.masks.maskable, counts=counts)
        views = replace(views, masks=replace(views.masks, maskable=maskable))
    if differing := list_differences(({"views": settings}, {"views": views.settings})):
        head = f"{samples.name}: the views of {where} cannot be shown again"
        advice = (
            "Give the data the mask_token that the teacher saw, or cache again."
            if holds
            else "Install the version that the teacher's views were made with, or cache again."
        )
        raise SampleError("\n  ".join([head, *differing, advice]))
    return views


def _make_again(samples: Samples, settings: Mapping[str, Any]) -> Views:
    shared = {"count": settings["count"], "seed": settings["seed"]}
    if "mask" in settings:
        chosen = {key: settings["mask"][key] for key in ("fraction", "rare", "mask", "random")}
        return make_views(samples, **shared, mask=chosen)
    return make_views(samples, **shared, augment=settings["augment"], mix=settings["mix"])
