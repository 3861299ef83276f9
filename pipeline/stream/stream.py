"""The student's side: batches of raw samples with their soft targets, shuffled, prefetched,
resumable.

The stream yields whole batches, so a DataLoader around it needs `batch_size=None`. It knows
neither the student nor the losses, and it believes the cache it is given: what the fields mean is
read from it.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import chain, count, groupby
from operator import attrgetter

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from pipeline.errors import PipelineError
from pipeline.labelling.output.table import PseudoLabelTable
from pipeline.samples import (
    Locator,
    Samples,
    Views,
    asks_tokens,
    row_lengths,
)
from pipeline.store import Cache
from pipeline.stream.ahead import count_at_once, in_bursts, prefetch
from pipeline.stream.batch import Batch, Held
from pipeline.stream.chosen import Chosen, open_chosen
from pipeline.stream.known import open_known
from pipeline.stream.making import Maker
from pipeline.stream.order import Order, Piece, Rows, pieces
from pipeline.stream.shown import check_cached, check_not_empty, shown_views
from pipeline.stream.slices import Slices
from pipeline.stream.windows.fetching import Fetcher
from pipeline.stream.windows.large import LargeFields
from pipeline.stream.windows.loader import Loader, Parts
from pipeline.stream.windows.near import Near
from pipeline.stream.windows.places import Places
from pipeline.stream.windows.size import choose_window_parts
from pipeline.stream.windows.window import Finder
from pipeline.targets import TargetSpec, normalise_weights

# Part size of the order when there is no cache; the default of caches too, so that a baseline
# without a cache sees its samples in the order of a run with one.
ROWS_PER_PART = 8192
# Batches prepared in advance, where a student has a device of its own: enough to hide an uneven
# read. On the CPU the student wants every core and the interpreter too: a thread beside it made
# steps of 8.6 ms take 12.0.
AHEAD = 2
# An epoch, the number of a batch in it, and the batch.
Numbered = tuple[int, int, Batch]


class Stream(IterableDataset[Batch]):
    """One epoch an iteration, the next epoch the next time; leave early and it goes on from there.

    Every row is seen once an epoch, also with several DataLoader workers, which share out the
    batches: the order never depends on how many there are. `state_dict` and `load_state_dict` save
    and restore the place of the next batch. Workers have copies of the stream, so it does not move
    here: keep them with `persistent_workers=True`, or call `set_epoch` before each epoch.

    `also` are the caches of further teachers, of the very same rows; then the targets are a
    `Mixture` of all, by `weights`, equal ones if none are given. The first cache decides the order.

    A cache says in which views its samples were seen, and they are shown in these: an epoch is of
    one view of every sample, the next epoch of the next view, and after the last one comes the
    first again. Without a cache, or with views of its own to samples that the teacher saw as they
    are (`fresh`), each epoch shows a view of its own. Without a seed it is always the first view.

    With a table of `pseudo_labels` an epoch has the rows that were chosen alone, as often as the
    table says, each time in a view of its own where views are fresh; without `only_chosen` it has
    all of them, and those that were not chosen have no pseudo-label.

    Of each batch, which stays one of `batch_size` rows, a `rank` has its own rows alone; the last
    batch of an epoch may have none for it. A place means the same for any `world_size`.

    Rows are shuffled among those of `window_parts` parts; left out, eight, or where rows can be
    gathered where they lie so many that most caches are shuffled as a whole.

    `group_by_length` makes batches of rows of text that are about equally long. `statistics` names
    those of each position that targets are to come with, `features` those that are read as well;
    without `soft` they are all that is read.

    Raises: SampleError, when made, if the dataset lacks a sample of the cache, holds another
    content under its id (`advance` is told how far this check is) or cannot show it as it was seen,
    or if a further cache is of other rows; TargetError if it is of other classes; CorruptPart, when
    read, if a file of a cache is damaged. `check=False` trusts them.
    """

    # Each keyword is one choice of a training loop's, and all but two have a default.
    def __init__(  # noqa: PLR0913
        self,
        samples: Samples,
        cache: Cache | None = None,
        *,
        also: Sequence[Cache] = (),
        weights: Sequence[float] = (),
        batch_size: int,
        seed: int | None = 0,
        window_parts: int | None = None,
        group_by_length: bool = False,
        statistics: Sequence[str] = (),
        features: Sequence[str] = (),
        soft: bool = True,
        fresh: Views | None = None,
        pseudo_labels: PseudoLabelTable | None = None,
        only_chosen: bool = True,
        rank: int = 0,
        world_size: int = 1,
        check: bool = True,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        self.samples, self.cache, self._slices = samples, cache, Slices(rank, world_size)
        self.batch_size, self.group_by_length = batch_size, group_by_length
        self.views = shown_views(samples, cache, fresh)
        self.is_fresh = (cache is None or fresh is not None) and seed is not None
        kept = self.views.count if cache and not fresh else 1
        rows = cache.plan.rows // kept if cache else len(samples)
        self._table = pseudo_labels
        self._chosen = self._open_chosen(only_chosen=only_chosen, advance=advance)
        if pseudo_labels is not None:
            rows = cache.plan.rows if cache else pseudo_labels.rows
        self.order = Order(
            rows,
            self._rows_per_part,
            window_parts or choose_window_parts(cache, is_alone=not also and not self._chosen),
            seed,
            kept,
            self._chosen,
            rises_first=cache is not None and cache.is_growing,
        )
        self.caches = (cache, *also) if cache else ()
        self.weights = normalise_weights(weights, len(self.caches)) if cache else ()
        self._known = open_known(
            self.caches,
            self.weights,
            features=features,
            statistics=statistics,
            is_soft=soft,
            has_pseudo_labels=pseudo_labels is not None,
            check=check,
        )
        self._large = LargeFields(
            self._known.large, set(range(self.order.part_count if check else 0))
        )
        self._loader = self._make_loader(check=check)
        self._maker = Maker(
            samples,
            self.views,
            self.is_fresh,
            self._known,
            self._loader,
            Places(self.order),
            Near(samples, world_size, is_shuffled=seed is not None),
        )
        self._ahead = AHEAD if torch.accelerator.is_available() else 0
        # What is still being made is waited for one by one, and mixtures are large.
        self._comes_singly = len(self.caches) > 1 or (cache is not None and cache.is_growing)
        self._at_once = 0  # not known before the first batch
        self.epoch, self.batch = 0, 0
        if cache and check and not cache.is_growing:
            check_cached(samples, cache, rows, self._loader.finder, advance)

    @property
    def _rows_per_part(self) -> int:
        return self.cache.plan.rows_per_part if self.cache else ROWS_PER_PART

    def _open_chosen(
        self, *, only_chosen: bool, advance: Callable[[int], None] | None
    ) -> Chosen | None:
        """Read the table of pseudo-labels, if there is one."""
        if self._table is None:
            return None
        return open_chosen(
            self._table,
            self.samples,
            self.cache,
            rows_per_part=self._rows_per_part,
            only_chosen=only_chosen,
            advance=None if self.cache else advance,
        )

    def _make_loader(self, *, check: bool) -> Loader:
        """Make what reads windows. It does not know this stream, which it would keep alive."""
        cache, known = self.cache, self._known
        return Loader(
            cache,
            self.order,
            Finder(Locator(self.samples), self.order.rows),
            known.small,
            self._large,
            unread=set(range(self.order.part_count)) if check else set(),
            fetcher=Fetcher(cache, known.names, check) if cache and cache.spool else None,
            widen=[each.widen for each in (self._chosen, known.beside) if each],
            find_whole=known.find_whole,
        )

    @property
    def spec(self) -> TargetSpec | None:
        """What of the teacher's answers the first cache holds; None without one."""
        return self._known.spec

    @property
    def pseudo_classes(self) -> int | None:
        """The number of classes that pseudo-labels are of; None where there are none."""
        return self._table.about["class_count"] if self._table else None

    @property
    def is_skewed(self) -> bool:
        """Whether the classes of the pseudo-labels are far from those of the data."""
        return self._table is not None and bool(self._table.about["is_skewed"])

    def __len__(self) -> int:
        """Count the batches of an epoch; the last one may be short."""
        return -(-self.order.epoch_rows // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        """Iterate over the rest of the current epoch."""
        worker = get_worker_info()
        share = (worker.id, worker.num_workers) if worker else (0, 1)
        yield from self._follow(self._batches(self.epoch, self.batch, share))
        if self.batch:  # this worker's last batch was not the epoch's
            self.set_epoch(self.epoch + 1)

    def forever(self) -> Generator[Batch]:
        """Iterate over epoch after epoch, reading ahead across their borders.

        After the last batch of an epoch `state_dict` says batch 0 of the next one.

        Raises: PipelineError if an epoch has no rows.
        """
        check_not_empty(self.samples, self.order.epoch_rows)
        first = self._batches(self.epoch, self.batch, (0, 1))
        later = (self._batches(epoch, 0, (0, 1)) for epoch in count(self.epoch + 1))
        yield from self._follow(chain(first, chain.from_iterable(later)))

    def _follow(self, source: Iterator[Numbered]) -> Generator[Batch]:
        # Where this process computes on a GPU; a worker does not, and leaves it to its DataLoader.
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's own
            source = ((epoch, number, batch.pin_memory()) for epoch, number, batch in source)
        with closing(self._prepare(source)) as ready:
            last = len(self) - 1
            for epoch, number, batch in ready:
                self.epoch, self.batch = (epoch + 1, 0) if number == last else (epoch, number + 1)
                yield batch

    def _prepare(self, source: Iterator[Numbered]) -> Generator[Numbered]:
        if self._ahead or self._comes_singly:
            return prefetch(source, self._ahead)
        return in_bursts(source, lambda numbered: self._count_at_once(numbered[2]))

    def _count_at_once(self, batch: Batch) -> int:
        # The first one may be the last of an epoch, and short; others are not.
        size = batch.size_bytes * len(self._slices.of(self.batch_size)) // max(1, batch.row_count)
        return count_at_once(size, is_large=bool(self._large.names))

    def set_epoch(self, epoch: int) -> None:
        """Start the next iteration at the beginning of an epoch."""
        self.epoch, self.batch = epoch, 0

    def state_dict(self) -> dict[str, int]:
        """Where the next batch lies."""
        return {"epoch": self.epoch, "batch": self.batch, "batch_size": self.batch_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on with the very batch that a saved state says comes next.

        Raises: PipelineError if the state counts in batches of another size.
        """
        if state["batch_size"] != self.batch_size:
            raise PipelineError(
                f"stream: the saved place counts batches of {state['batch_size']}, this stream "
                f"makes batches of {self.batch_size}. Make the stream with the saved batch_size."
            )
        self.epoch, self.batch = state["epoch"], state["batch"]

    def _batches(self, epoch: int, first: int, share: tuple[int, int]) -> Iterator[Numbered]:
        windows = list(map(_in_order, self.order.windows(epoch)))
        some, held = list[Piece](), list[Held]()
        cut = pieces(
            self.order,
            epoch=epoch,
            batch_size=self.batch_size,
            first_batch=first,
            regroup=partial(self._regroup, epoch),
        )
        for piece in cut:
            self._loader.follow(epoch, piece.window)
            if (piece.number - first) % share[1] == share[0]:
                some.append(piece)
            if len(some) >= self._at_once or piece.ends_window:
                yield from self._make(windows[piece.window], some, held, epoch)
                some.clear()

    def _make(
        self, parts: Parts, some: Sequence[Piece], held: list[Held], epoch: int
    ) -> Iterator[Numbered]:
        """Make batches of pieces of a window, and of what is `held` of the one before."""
        for is_whole, run in groupby(some, attrgetter("is_whole")):
            these = list(run)
            if is_whole and len(these) > 1 and (made := self._make_together(parts, these, epoch)):
                yield from made
                continue
            for piece in these:
                own = self._maker.take(parts, self._slices.cut(piece), epoch)
                if len(own.read.names) or (piece.ends_batch and not held):
                    held.append(own)
                if piece.ends_batch:
                    batch = self._maker.join(held)
                    if not self._at_once and self._may_come_together:
                        self._at_once = self._count_at_once(batch)
                    held.clear()
                    yield epoch, piece.number, batch

    def _make_together(self, parts: Parts, some: Sequence[Piece], epoch: int) -> list[Numbered]:
        """Make whole batches as one, for asking takes longer than copying; none if one fails."""
        own = list(map(self._slices.cut, some))
        try:
            batch = self._maker.join([self._maker.take(parts, np.concatenate(own), epoch)])
        except Exception:  # raised again by the piece that it is of, after those before it
            return []
        batches = batch.split(list(map(len, own)))
        return [(epoch, piece.number, made) for piece, made in zip(some, batches, strict=True)]

    @property
    def _may_come_together(self) -> bool:
        # Text has several positions a row, and rows that are copied where they lie come in order.
        return not (asks_tokens(self.samples) or self._comes_singly or self._large.names)

    def _regroup(self, epoch: int, window: int, places: Rows, first: int) -> Rows:
        if not self.group_by_length or self.order.seed is None:
            return places
        parts = _in_order(self.order.windows(epoch)[window])
        indices = self._maker.indices(parts, places, epoch)
        return self.order.group(
            places,
            row_lengths(self.samples, indices),
            window=window,
            epoch=epoch,
            first=first,
            batch_size=self.batch_size,
        )


def _in_order(parts: Rows) -> Parts:
    return tuple(sorted(parts.tolist()))
