"""The table of dataset kinds, and the kind that a user writes in Python.

Opening is all that happens here; whether every sample can be read is what a scan finds out.
"""

import inspect
import operator
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.factories import call_factory, describe_error, did_you_mean
from pipeline.samples.arrays import open_arrays, open_idx
from pipeline.samples.batch import (
    UNLABELLED,
    Indices,
    SampleBatch,
    Samples,
    as_indices,
    stack_inputs,
)
from pipeline.samples.images import open_images
from pipeline.samples.parquet import open_parquet
from pipeline.samples.tables.huggingface import open_huggingface
from pipeline.samples.text.rows import open_text

# A user's dataset need not be safe to call from several threads at once.
_ONE_AT_A_TIME = threading.RLock()


@dataclass(frozen=True)
class PythonSamples:
    """Samples of an object of the user's own, with `__len__` and `__getitem__`."""

    name: str
    class_names: tuple[str, ...] | None
    source: Any

    def __len__(self) -> int:
        return len(self.source)

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the samples of a range, by the object's own `ids` if it has one."""
        stop = min(stop, len(self))
        if not hasattr(self.source, "ids"):
            return [self._item(index)["id"] for index in range(start, stop)]
        own = self.source.ids
        with _ONE_AT_A_TIME:
            return [str(each) for each in (own(start, stop) if callable(own) else own[start:stop])]

    def read(self, indices: Indices) -> SampleBatch:
        """Ask the object for samples, one after the other."""
        items = [self._item(index) for index in as_indices(indices, len(self)).tolist()]
        ids = [item["id"] for item in items]
        labels = np.array([item["label"] for item in items], dtype=np.int64)
        return SampleBatch(ids, stack_inputs(self.name, ids, [i["input"] for i in items]), labels)

    def _item(self, index: int) -> dict[str, Any]:
        with _ONE_AT_A_TIME:
            try:
                item = self.source[index]
                sample_id, values = item["id"], np.asarray(item["input"])
                label = UNLABELLED if item.get("label") is None else operator.index(item["label"])
            # The user's own code may raise anything at all.
            except Exception as error:
                raise SampleError(
                    f"{self.name}: item {index} failed: {describe_error(error)}"
                ) from error
        if not isinstance(sample_id, str):
            raise SampleError(
                f"{self.name}: the id of item {index} must be text; got {sample_id!r}"
            )
        if values.dtype.kind not in "buif":
            raise SampleError(
                f"{self.name}: the input of {sample_id} must be numbers; got {values.dtype}"
            )
        if hasattr(self.source, "ids") and self.ids(index, index + 1) != [sample_id]:
            raise SampleError(
                f"{self.name}: item {index} calls itself {sample_id!r}, but ids says "
                f"{self.ids(index, index + 1)[0]!r}; they must agree"
            )
        native: NDArray[Any] = values.astype(values.dtype.newbyteorder("="), copy=False)
        return {"id": sample_id, "input": native, "label": label}


def open_python(
    *,
    base: Path,
    name: str,
    factory: str,
    arguments: Mapping[str, Any] | None = None,
    class_names: Sequence[str] | None = None,
) -> PythonSamples:
    """Make the dataset that `factory`, a `module:function` beside the recipe, returns.

    It must offer `__len__` and `__getitem__(index)`, which gives `{"id": text, "input": array,
    "label": int}`, the label being optional; `ids`, a sequence or a method (start, stop), and
    `class_names` are used if it has them.

    Raises: RecipeError if there is no such function or it fails; SampleError if what it made is no
        dataset.
    """
    source = call_factory(factory, base, f"{name}.factory", **(arguments or {}))
    missing = [method for method in ("__len__", "__getitem__") if not hasattr(source, method)]
    if missing:
        raise SampleError(
            f"{name}.factory: {factory} made a {type(source).__name__}, which has no "
            f"{' and no '.join(missing)}; return an object with both"
        )
    names = class_names or getattr(source, "class_names", None)
    return PythonSamples(name, tuple(names) if names else None, source)


KINDS: dict[str, Callable[..., Samples]] = {
    "arrays": open_arrays,
    "huggingface": open_huggingface,
    "idx": open_idx,
    "images": open_images,
    "parquet": open_parquet,
    "python": open_python,
    "text": open_text,
}


def open_samples(
    kind: str, *, base: Path = Path(), name: str = "samples", **arguments: Any
) -> Samples:
    """Open a dataset; `name` is its dotted key in the recipe, and paths are relative to `base`.

    Raises: SampleError if the kind or an argument is unknown, or the dataset cannot be opened.
    """
    if kind not in KINDS:
        near = did_you_mean(kind, KINDS)
        raise SampleError(
            f"{name}.kind: unknown kind {kind!r}{near or ';'} there are {', '.join(KINDS)}"
        )
    known = inspect.signature(KINDS[kind]).parameters
    for key in arguments:
        if key not in known:
            allowed = ", ".join(each for each in known if each not in ("base", "name"))
            near = did_you_mean(key, known)
            raise SampleError(
                f"{name}.{key}: unknown key{near or ';'} kind {kind!r} takes {allowed}"
            )
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in ("base", "name", *arguments):
            raise SampleError(f"{name}.{key}: kind {kind!r} needs it")
    return KINDS[kind](base=base, name=name, **arguments)
