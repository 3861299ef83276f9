"""Every random generator a training step may draw from, as plain tensors and numbers.

It captures and restores; seeds are the loop's business.
"""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


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
