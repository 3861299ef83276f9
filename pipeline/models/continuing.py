"""What a causal model says comes next, token after token.

Models of transformers keep the keys and values of what they have read; any other is asked again
about all of it, and answers for the last token alone. Nothing is chosen here.
"""

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.network import Network


@dataclass
class Continuing:
    """Rows that grow by a token a time, all of one length; each call reads what is new in them."""

    network: Network
    may_remember: bool = True
    _read: int = field(default=0, init=False)
    _memory: Any = field(default=None, init=False)

    @torch.inference_mode()
    def __call__(self, tokens: Tensor) -> Tensor:
        """Give the logits of the next token. Shapes: tokens (B, n), int64; returns (B, C)."""
        if self.may_remember and remembers(self.network.model):
            return self._go_on(tokens)
        # Any token will do for the one that is asked for: a causal model does not see it.
        asked = nn.functional.pad(tokens, (0, 1))
        inputs = torch.stack([asked, torch.zeros_like(asked)], 1).int()  # (B, 2, n + 1)
        output = self.network(inputs)
        last = output.states.unflatten(0, tokens.shape)[:, -1]  # (B, d)
        logits: Tensor = output.head(last)
        return logits

    def _go_on(self, tokens: Tensor) -> Tensor:
        model: Any = self.network.model
        options = {"logits_to_keep": 1} if "logits_to_keep" in _taken(model) else {}
        answer = model(
            input_ids=tokens[:, self._read :],
            past_key_values=self._memory,
            use_cache=True,
            **options,
        )
        self._read, self._memory = tokens.shape[1], answer.past_key_values
        logits: Tensor = answer.logits[:, -1]
        return logits.float()


def remembers(model: nn.Module) -> bool:
    """Tell whether a model is one of transformers that keeps keys and values."""
    may = getattr(model, "can_generate", None)
    return bool(may and may()) and {"past_key_values", "use_cache"} <= _taken(model)


def _taken(model: nn.Module) -> set[str]:
    return set(inspect.signature(model.forward).parameters)
