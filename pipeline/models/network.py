"""One adapter that makes any model answer in the one shape, (P, C).

Of images it scales bytes to [0, 1], normalises, casts; it calls the model and checks what comes
back. It does not know where the model came from, which role it plays, or what is kept of its
answer.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models.features import AllRead, Tap, check_taps, make_feature, read_taps
from pipeline.models.language import Parts, ask_masked_tokens, ask_next_tokens, whole

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Tasks of language models; each asks for other tokens.
ASK = {"next_token": ask_next_tokens, "masked_token": ask_masked_tokens}
# Logits of many classes are made, and kept of, so many at a time: 64 MiB. A GPU wants few launches.
BLOCK_ELEMENTS = 2**24
BLOCK_ELEMENTS_ELSEWHERE = 2**26
ALLOWED_ANSWERS = (
    "a tensor of floats of shape (batch, classes), or an object or dict whose 'logits' are one"
)


def _widened(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


@dataclass(frozen=True)
class Output:
    """What a network says of a batch; logits are made by `head`, all at once or in blocks.

    `layer` is the head itself where that is one linear layer and no more.

    Shapes: states (P, d), what the head sees, or logits (P, C) already; positions (B,) int64,
        summing to P; each feature over B rows or P positions.
    """

    states: Tensor
    positions: Tensor
    head: Callable[[Tensor], Tensor] = _widened
    layer: nn.Linear | None = None
    features: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.states)

    @property
    def logits(self) -> Tensor:
        """Make all logits. Shapes: returns (P, C), float32 or better."""
        return self.head(self.states)

    @property
    def class_count(self) -> int:
        """The number of classes, for the price of one position."""
        count: int = self.head(self.states[:1]).shape[1]
        return count

    def blocks(self) -> Iterator[Tensor]:
        """Make logits of some positions at a time. Shapes: yields (p, C), `block_elements`."""
        size = max(1, block_elements(self.states.device) // self.class_count)
        for start in range(0, len(self), size):
            yield self.head(self.states[start : start + size])


def block_elements(device: torch.device) -> int:
    """Say how many logits are made at a time."""
    return BLOCK_ELEMENTS if device.type == "cpu" else BLOCK_ELEMENTS_ELSEWHERE


def split_output(output: Output, rows: Sequence[int]) -> list[Output]:
    """Cut an output into those of so many rows each, one behind another."""
    pieces, row, position = [], 0, 0
    for count in rows:
        positions = output.positions[row : row + count]
        stop = position + (count if len(output) == len(output.positions) else int(positions.sum()))
        features = {
            name: each[row : row + count]
            if len(each) == len(output.positions)
            else each[position:stop]
            for name, each in output.features.items()
        }
        states = output.states[position:stop]
        pieces.append(replace(output, states=states, positions=positions, features=features))
        row, position = row + count, stop
    return pieces


# Of a pass that ended early.
_NOTHING = Output(torch.empty(0, 0), torch.empty(0, dtype=torch.int64))


class Network(nn.Module):
    """Any model behind one question: inputs as the dataset gives them, logits as (P, C).

    `model` is the network itself: its state is what is saved and loaded. The normalisation is a
    setting, so it is no part of that state, and it stays in float32 whatever the model's precision.
    """

    mean: Tensor | None
    std: Tensor | None
    # Learned beside the model and never a part of it: from its features to its teacher's.
    projections: nn.ModuleDict | None

    def __init__(
        self,
        model: nn.Module,
        *,
        where: str = "model",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        task: str = "label",
        parts: Parts | None = None,
    ) -> None:
        super().__init__()
        check_normalisation(mean, std, where)
        self.model = model
        self.where = where
        self.task = task
        # No submodules of this one: they are the model's.
        self._parts = parts or whole(model)
        self._taps: dict[str, Tap] = {}
        self._only_taps = False
        self.projections = None
        self.class_names = None if class_names is None else tuple(class_names)
        self.register_buffer("mean", _buffer(mean), persistent=False)
        self.register_buffer("std", _buffer(std), persistent=False)

    def tap(self, taps: Mapping[str, Tap], *, only: bool = False) -> None:
        """Read features from now on, each by its tap.

        With `only`, a pass ends once all of them are read: what comes later in the model is not
        run, the Output has no logits, and no gradient reaches it.

        Raises: ModelError if there is no such module.
        """
        check_taps(self.model, [tap.module for tap in taps.values()], self.where)
        self._taps, self._only_taps = dict(taps), only
        implement = getattr(self.model, "set_attn_implementation", None)
        if implement and any(tap.reduce == "attention_probabilities" for tap in taps.values()):
            implement("eager")  # the others never make them

    def forward(self, inputs: Tensor) -> Output:
        """Ask the model, and read what is tapped; of features with a projection, what that makes.

        Shapes: inputs (B, ...), uint8 for images; the Output has P = B. For the task "next_token"
            inputs (B, 2, L), for "masked_token" (B, 3, L), and a position for every token that is
            asked for.
        Raises: ModelError if the answer is not (B, C) logits, or (B, L, C) for tokens.
        """
        if not self._taps:
            return self._answer(inputs)
        modules = [tap.module for tap in self._taps.values()]
        output = _NOTHING
        with read_taps(self.model, modules, then_stop=self._only_taps) as found, suppress(AllRead):
            output = self._answer(inputs)
        features = {}
        for name, tap in self._taps.items():
            answers = found.get(tap.module, ())
            made = make_feature(answers, tap, inputs, task=self.task, where=self.where)
            if self.projections is not None and name in self.projections:
                made = self.projections[name](made)
            features[name] = made
        return replace(output, features=features)

    def _answer(self, inputs: Tensor) -> Output:
        if ask := ASK.get(self.task):
            states, positions = ask(self.model, self._parts, inputs, self.where)
            head = self._parts.head
            layer = head if isinstance(head, nn.Linear) else None
            ask_head = _as_precise(head, states.device.type)
            return Output(states, positions, lambda states: _widened(ask_head(states)), layer)
        logits = self._logits(self._parts.body(self._normalise(inputs)), len(inputs))  # (B, C)
        positions = torch.ones(len(inputs), dtype=torch.int64, device=logits.device)
        return Output(_widened(logits), positions)

    def extra_repr(self) -> str:
        """Show the normalisation, so that a digest of the whole adapter covers it."""
        told = f"mean={_numbers(self.mean)}, std={_numbers(self.std)}"
        return told if self.task == "label" else f"{told}, task={self.task}"

    def _normalise(self, inputs: Tensor) -> Tensor:
        if inputs.dtype == torch.uint8:
            inputs = inputs.float() / 255
        if self.mean is not None:
            inputs = inputs - self._channels("mean", self.mean, inputs)
        if self.std is not None:
            inputs = inputs / self._channels("std", self.std, inputs)
        return inputs.to(_floating_dtype(self.model)) if inputs.is_floating_point() else inputs

    def _channels(self, name: str, values: Tensor, inputs: Tensor) -> Tensor:
        channels = inputs.shape[1] if inputs.ndim > 1 else 1
        if len(values) not in (1, channels):
            raise ModelError(
                f"{self.where}.{name}: has {len(values)} values, but the inputs have {channels} "
                f"channels (shape {_shape(inputs)}). Give one value, or one for each channel."
            )
        return values.view(1, -1, *(1 for _ in inputs.shape[2:]))  # (1, channels, 1, 1)

    def _logits(self, answer: object, batch_size: int) -> Tensor:
        logits = answer.get("logits") if isinstance(answer, Mapping) else answer
        logits = getattr(logits, "logits", logits)
        if not isinstance(logits, Tensor):
            raise ModelError(self._refusal(f"{type(answer).__name__}{_keys(answer)}"))
        if logits.ndim != 2 or len(logits) != batch_size or not logits.is_floating_point():
            raise ModelError(
                self._refusal(
                    f"a {logits.dtype} tensor of shape {_shape(logits)} for a batch of {batch_size}"
                )
            )
        return logits

    def _refusal(self, came: str) -> str:
        return (
            f"{self.where}: {type(self.model).__name__} answered with {came}; "
            f"allowed is {ALLOWED_ANSWERS}. Wrap the model so that it returns its logits."
        )


def _as_precise(head: Callable[[Tensor], Tensor], kind: str) -> Callable[[Tensor], Tensor]:
    """Let a head answer under the autocast of its network's pass, whenever it is asked."""
    if not torch.is_autocast_enabled(kind):
        return head
    dtype = torch.get_autocast_dtype(kind)

    def answer(states: Tensor) -> Tensor:
        with torch.autocast(kind, dtype):
            return head(states)

    return answer


def prepare(inputs: NDArray[np.generic], device: torch.device) -> Tensor:
    """Move a dataset's array to the device; host memory is copied only where it cannot be shared.

    Shapes: inputs (B, ...); returns (B, ...).
    """
    native = np.ascontiguousarray(inputs, dtype=inputs.dtype.newbyteorder("="))
    # numpy calls an axis of one element contiguous whatever its stride; torch does not.
    is_shareable = native.flags.writeable and min(native.strides, default=0) >= 0
    return torch.from_numpy(native if is_shareable else native.copy()).to(device)


def set_precision(network: Network, precision: str) -> Network:
    """Cast the model's weights; the answer is float32 whatever they are.

    Raises: ModelError if the precision is not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise ModelError(
            f"{network.where}: precision '{precision}' is not known; "
            f"allowed are {', '.join(PRECISIONS)}."
        )
    network.model.to(PRECISIONS[precision])
    return network


def check_normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, where: str
) -> None:
    """Refuse a normalisation that cannot be applied to any image."""
    for name, values in (("mean", mean), ("std", std)):
        if values is not None and not values:
            raise ModelError(f"{where}.{name}: is empty. Give one value, or one for each channel.")
    if std is not None and min(std) <= 0:
        raise ModelError(f"{where}.std: must be above 0 for every channel; got {list(std)}.")


def _buffer(values: Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.tensor(list(values), dtype=torch.float32)


def _numbers(values: Tensor | None) -> list[float] | None:
    return None if values is None else values.tolist()


def _floating_dtype(model: nn.Module) -> torch.dtype:
    dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
    return next(dtypes, torch.float32)


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _keys(answer: object) -> str:
    return f" with keys {', '.join(map(str, answer))}" if isinstance(answer, Mapping) else ""
