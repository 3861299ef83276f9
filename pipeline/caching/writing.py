"""Text that the teacher writes: prompts in, finished rows out, to be answered like any others.

What is drawn follows from the seed, the prompt's id, the number of the continuation and the place
in the row, so it depends neither on parts nor on who makes them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.keyed import draw_uniform, view_key
from pipeline.models import Network
from pipeline.models.continuing import Continuing
from pipeline.samples import SampleBatch
from pipeline.samples.batch import UNLABELLED
from pipeline.samples.text.tokens import token_row

# What these draws are for; others of the same sample have nothing to do with them.
PURPOSE = b"generate"


@dataclass(frozen=True)
class Writing:
    """How text is written; `end` is the token that ends a document, `vocabulary` the tokens."""

    prompt_tokens: int
    length: int
    count: int
    temperature: float
    top_k: int | None
    top_p: float | None
    seed: int
    end: int | None
    vocabulary: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def write_rows(
    network: Network,
    writing: Writing,
    prompts: SampleBatch,
    numbers: NDArray[np.int64],
    *,
    device: torch.device,
    batch_size: int,
) -> SampleBatch:
    """Continue each prompt; a row is named after it, with the number of the continuation.

    Prompts are the first tokens of the first document of a row, as many as it has.

    Shapes: prompts of inputs (B, 2, L), numbers (B,); returns inputs (B, 2, length).
    """
    starts = [row[0][row[1] == 0][: writing.prompt_tokens] for row in prompts.inputs]
    ids = [f"{name}~{number}" for name, number in zip(prompts.ids, numbers, strict=True)]
    keys = [
        view_key(writing.seed, name, int(number), PURPOSE)
        for name, number in zip(prompts.ids, numbers, strict=True)
    ]
    rows: list[NDArray[np.int32]] = [np.empty(0, np.int32)] * len(ids)
    # Those whose prompts are equally long go together, so that none needs padding.
    for size in sorted({len(start) for start in starts}):
        alike = [place for place, start in enumerate(starts) if len(start) == size]
        for first in range(0, len(alike), batch_size):
            places = alike[first : first + batch_size]
            begun = torch.from_numpy(np.stack([starts[place] for place in places])).long()
            written = _continue(network, writing, begun.to(device), [keys[at] for at in places])
            for place, row in zip(places, written, strict=True):
                rows[place] = row
    inputs = np.stack([token_row([row], writing.length) for row in rows])
    return SampleBatch(ids, inputs, np.full(len(ids), UNLABELLED))


def _continue(
    network: Network, writing: Writing, tokens: Tensor, keys: Sequence[bytes]
) -> list[NDArray[np.int32]]:
    """Write until every row has ended or is full. Shapes: tokens (B, n)."""
    ask, begun = Continuing(network), tokens.shape[1]
    uniforms = torch.from_numpy(draw_uniform(keys, writing.length))  # (B, length)
    sizes = torch.full((len(tokens),), writing.length, device=tokens.device)
    for place in range(begun, writing.length):
        chosen = choose(ask(tokens), writing, uniforms[:, place]).to(tokens.device)
        tokens = torch.cat([tokens, chosen[:, None]], 1)
        if writing.end is not None:
            ends = (chosen == writing.end) & (sizes == writing.length)
            sizes = torch.where(ends, place + 1, sizes)
            if bool((sizes <= place + 1).all()):
                break
    written = tokens.int().cpu().numpy()
    return [row[:size] for row, size in zip(written, sizes.tolist(), strict=True)]


def choose(logits: Tensor, writing: Writing, uniforms: Tensor) -> Tensor:
    """Draw a token of each row by its number: the first at which the summed mass is above it.

    Only the `top_k` most probable are drawn from, and of those the fewest that reach `top_p`.

    Shapes: logits (B, C), uniforms (B,); returns (B,), int64, on the CPU.
    Source: Holtzman et al. 2020, arXiv:1904.09751, section 3.1 (top_p); Fan et al. 2018,
        arXiv:1805.04833, section 5.4 (top_k).
    """
    # On the CPU, for no cumulative sum of CUDA gives the same bits each time.
    logits = logits[:, : writing.vocabulary].cpu().double()
    if writing.temperature == 0:
        return logits.argmax(1)
    probs = (logits / writing.temperature).softmax(1)
    if writing.top_k is not None or writing.top_p is not None:
        probs = _cut(probs, writing)
    sums = probs.cumsum(1)
    total = sums[:, -1:]
    # Below the total whatever rounding does, so that what was cut is never drawn.
    wanted = (uniforms[:, None] * total).minimum(total.nextafter(torch.zeros_like(total)))
    # Beyond the last is where NaN ends; what the teacher answers to the row will say so.
    return torch.searchsorted(sums, wanted, right=True)[:, 0].clamp(max=probs.shape[1] - 1)


def _cut(probs: Tensor, writing: Writing) -> Tensor:
    """Leave out what is not drawn from. Shapes: probs (B, C); returns (B, C), not normalised."""
    ordered, classes = probs.sort(dim=1, descending=True, stable=True)
    if writing.top_k is not None:
        ordered[:, writing.top_k :] = 0
    if writing.top_p is not None:
        before = ordered.cumsum(1) - ordered
        ordered = ordered.where(before < writing.top_p * ordered.sum(1, keepdim=True), 0.0)
    return torch.zeros_like(probs).scatter_(1, classes, ordered)
