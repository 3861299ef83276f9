"""Every random generator a training step may draw from, as plain tensors and numbers.

It captures and restores; seeds are the loop's business.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from pipeline.compute import Ranks

# Between the seeds of ranks, so that those of neighbouring seeds are not the same: 2^64 divided by
# the golden ratio, an odd number whose multiples lie far apart.
BETWEEN_RANKS = 0x9E3779B97F4A7C15


def capture_rng() -> dict[str, Any]:
    """Copy the state of torch (each device), Python and numpy, as tensors and numbers alone."""
    version, numbers, spare = random.getstate()
    legacy = np.random.get_state(legacy=False)
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": {"version": version, "numbers": torch.tensor(numbers), "spare": spare},
        "numpy": {
            "key": torch.from_numpy(legacy["state"]["key"].astype(np.int64)),
            "position": int(legacy["state"]["pos"]),
            "has_spare": int(legacy["has_gauss"]),
            "spare": float(legacy["gauss"]),
        },
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def restore_rng(state: Mapping[str, Any]) -> None:
    """Put every generator back; generators of devices that this machine lacks are left alone."""
    python, legacy = state["python"], state["numpy"]
    torch.set_rng_state(state["torch"])
    random.setstate((python["version"], tuple(python["numbers"].tolist()), python["spare"]))
    np.random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {
                "key": legacy["key"].numpy().astype(np.uint32),
                "pos": legacy["position"],
            },
            "has_gauss": legacy["has_spare"],
            "gauss": legacy["spare"],
        }
    )
    saved = state.get("cuda", [])
    if len(saved) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(saved)


def seed_rank(seed: int, ranks: Ranks, step: int = 0) -> None:
    """Seed torch for one of several ranks, each with draws of its own; the first by the seed."""
    torch.manual_seed((seed + ranks.rank * (BETWEEN_RANKS + 2 * step)) % 2**63)


def gather_rng(ranks: Ranks) -> dict[str, Any]:
    """Copy the states of all ranks: that of the first, with those of the others in it."""
    first, *others = ranks.gather(capture_rng())
    return {**first, "others": others} if others else first


def restore_rank_rng(state: Mapping[str, Any], ranks: Ranks, *, seed: int, step: int) -> int:
    """Put back what this rank had; one that was not there is seeded anew. Gives how many were."""
    known = [state, *state.get("others", [])]
    if ranks.rank < len(known):
        restore_rng(known[ranks.rank])
    else:
        seed_rank(seed, ranks, step)
    return len(known)
