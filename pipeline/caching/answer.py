"""One question to the teacher, and what is kept of its answer.

Knows batches of samples, not the parts they belong to.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.caching.plan import Work
from pipeline.compute import guard_memory
from pipeline.errors import TargetError
from pipeline.models import Output, block_elements, prepare
from pipeline.samples import SampleBatch
from pipeline.targets import encode, encode_features, find_bad_positions, uniforms

Arrays = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Asked:
    """Of each row of a batch its sample's id and its view, and what the teacher answered."""

    rows: list[tuple[str, int]]
    output: Output
    features: Arrays


def answer(work: Work, batch: SampleBatch, views: NDArray[np.int64]) -> Arrays:
    """Ask the teacher about one batch, shown in these views, and keep what the plan says.

    Shapes: views (B,); returns the arrays of the plan's fields over positions, (P, ...).
    Raises: TargetError if a logit is not finite, naming the samples.
    """
    return encode_asked(work, [ask(work, batch, views)])


def ask(work: Work, batch: SampleBatch, views: NDArray[np.int64]) -> Asked:
    """Ask the teacher; states wait on its device for as many logits as make encoding worth it.

    Features do not wait, for they may be far larger.

    Raises: TargetError if a feature cannot be kept, naming a sample.
    """
    with torch.inference_mode(), guard_memory(work.batch_size, "teacher"):
        output: Output = work.network(prepare(batch.inputs, work.device))
        try:
            features = encode_features(output.features, work.features)
        except TargetError as error:
            raise TargetError(
                f"{error} The batch begins with the sample {batch.ids[0]}."
            ) from error
        rows = list(zip(batch.ids, views.tolist(), strict=True))
        return Asked(rows, replace(output, features={}), features)


def encode_asked(work: Work, asked: Sequence[Asked]) -> Arrays:
    """Keep what the plan says of some answers, one after the other.

    Raises: TargetError if a logit is not finite, naming the samples.
    """
    numbers, start, answers = _numbers(work, asked), 0, list[Arrays]()
    with torch.inference_mode(), guard_memory(work.batch_size, "teacher"):
        try:
            for block in _blocks(work, asked):
                stop = start + len(block)
                drawn = None if numbers is None else numbers[start:stop]
                answers.append(encode(work.spec, block, work.shape.basis, drawn))
                start = stop
        except TargetError as error:
            raise _named(error, asked) from error
    return concatenate(answers) | concatenate([each.features for each in asked])


def count_elements(work: Work, asked: Sequence[Asked]) -> int:
    """Count the logits of some answers, made or not."""
    return work.spec.class_count * sum(len(each.output) for each in asked)


def _numbers(work: Work, asked: Sequence[Asked]) -> NDArray[np.float64] | None:
    """Give the random numbers of every position, if any are needed. Shapes: returns (P, D)."""
    if not work.spec.draws:
        return None
    counts = torch.cat([each.output.positions for each in asked]).tolist()
    rows = [row for each in asked for row in each.rows]
    return uniforms(work.spec.seed, rows, counts, work.spec.draws)


def _blocks(work: Work, asked: Sequence[Asked]) -> Iterator[Tensor]:
    """Make logits, few positions together and many in blocks. Shapes: yields (some, C)."""
    if count_elements(work, asked) > block_elements(work.device):
        for each in asked:
            yield from each.output.blocks()
    else:
        logits = [each.output.logits for each in asked]
        yield logits[0] if len(logits) == 1 else torch.cat(logits)


def concatenate(answers: Sequence[Arrays]) -> Arrays:
    """Join arrays of the same names, one after the other."""
    if len(answers) == 1:
        return answers[0]
    return {name: np.concatenate([each[name] for each in answers]) for name in answers[0]}


def _named(error: TargetError, asked: Sequence[Asked]) -> TargetError:
    """Say on which samples encoding failed; it knows positions only. One batch stands for all."""
    for each in asked:
        rows = each.rows
        if bad := _find_bad_rows(each.output):
            named = ", ".join(rows[row][0] for row in bad[:5])
            more = f" and {len(bad) - 5} more" if len(bad) > 5 else ""
            return TargetError(
                f"teacher: its logits are NaN or infinite for {len(bad)} of {len(rows)} samples of "
                f"a batch ({named}{more}); every logit must be finite.\n"
                "  Try teacher.precision = 'float32', or look at these samples. Finished parts are "
                "kept."
            )
    return error


def _find_bad_rows(output: Output) -> list[int]:
    """List the samples of a batch with a position at which a logit is not finite."""
    bad, start = list[int](), 0
    for logits in output.blocks():
        bad += [start + position for position in find_bad_positions(logits)]
        start += len(logits)
    ends = output.positions.cumsum(0).cpu()  # (B,)
    return sorted(set(torch.searchsorted(ends, torch.tensor(bad), right=True).tolist()))
