"""One number for everything a model is: its tensors and its architecture.

It reads bytes; it does not know what the model is for or where it was loaded from.
"""

import hashlib
import re

import torch
from torch import Tensor, nn

# An object shown by a module's repr may carry its address, which differs from process to process.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def weights_digest(model: nn.Module) -> str:
    """Digest the state, sorted by name, and the module tree, so that neither can change unseen.

    Given a Network, the normalisation is covered as well.
    """
    digest = hashlib.sha256(ADDRESS.sub("", repr(model)).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"\0{name}\0".encode())
        if isinstance(value, Tensor):
            digest.update(f"{value.dtype}{tuple(value.shape)}\0".encode())
            digest.update(_raw_bytes(value))
        else:
            digest.update(ADDRESS.sub("", repr(value)).encode())
    return digest.hexdigest()


def _raw_bytes(tensor: Tensor) -> memoryview:
    # numpy has no bfloat16, so every tensor is looked at as bytes.
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data
