"""The kind "huggingface": a saved dataset as text, if a tokenizer is named, or else as images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.errors import SampleError
from pipeline.factories import did_you_mean
from pipeline.samples.batch import Samples
from pipeline.samples.columns import choose_decoder
from pipeline.samples.images import image_options
from pipeline.samples.parquet import open_table
from pipeline.samples.tables.batches import index_batches
from pipeline.samples.tables.saved import open_folder
from pipeline.samples.text.documents import Wanted, read_documents
from pipeline.samples.text.rows import Layout, lay_out_documents
from pipeline.samples.text.tokenizer import open_tokenizer
from pipeline.samples.text.tokens import Task


# One keyword a key of the recipe, so that the recipe's table can be passed as it is.
def open_huggingface(  # noqa: PLR0913
    *,
    base: Path,
    name: str,
    path: str,
    split: str | None = None,
    column: str | None = None,
    label: str | None = None,
    tokenizer: str | None = None,
    length: int | None = None,
    task: Task = "next_token",
    pack: bool = False,
    end: str | None = None,
    mask_token: str | None = None,
    class_names: Sequence[str] | None = None,
    size: Sequence[int] | None = None,
    mode: str = "RGB",
    fit: str = "crop",
) -> Samples:
    """Open a folder that `Dataset.save_to_disk` made, or one split of a DatasetDict's.

    With a `tokenizer` the column, "text" by default, is text, cut to `length` and laid out as the
    kind "text" does; without one it is images, "image" by default, decoded as the kind "parquet"
    does. The names of the classes are those the dataset has for the column of labels.

    Raises: SampleError if there is no such folder, split or column, or options of text and images
        are mixed.
    """
    saved = open_folder(base, name, path, split)
    names = tuple(class_names) if class_names else saved.class_names(label)
    if tokenizer is None:
        of_text = {"length": length, "end": end, "pack": pack, "mask_token": mask_token}
        _refuse(name, of_text, "text; name its tokenizer too")
        options = image_options(name, size, mode, fit)
        batches = index_batches(name, saved.files, saved.names)
        _check_images(name, batches.schema, column or "image")
        return open_table(
            name,
            batches,
            batches.schema,
            columns={"input": column or "image", "label": label},
            choose=lambda _, kind: choose_decoder(f"{name}.column", kind, None, None, options),
            class_names=names,
        )
    _refuse(name, {"size": size}, "images, which have no tokenizer; leave one of the two out")
    if length is None:
        raise SampleError(
            f"{name}.length: text needs it: the most tokens that a row has, from 2 up"
        )
    opened = open_tokenizer(
        base=base,
        where=name,
        source=tokenizer,
        end=end,
        masks=task == "masked_token",
        mask_token=mask_token,
    )
    wanted = Wanted(column or "text", label, whole=False)
    documents = read_documents(name, saved.files, wanted)
    layout = Layout(task, length, pack)
    return lay_out_documents(
        name, documents, opened, layout, file_names=saved.names, class_names=names
    )


def _check_images(name: str, schema: Any, column: str) -> None:
    """Say what is wrong with a column of images; most often it is text."""
    if column not in schema.names:
        near, known = did_you_mean(column, schema.names), ", ".join(schema.names)
        raise SampleError(
            f"{name}.column: there is no column {column!r}{near or ';'} there are {known}. For "
            "text name a tokenizer"
        )
    kind = schema.field(column).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        raise SampleError(f"{name}.column: {column!r} is text; name a tokenizer, and a length")


def _refuse(name: str, options: dict[str, Any], what: str) -> None:
    """Refuse options that would not be used."""
    for key, value in options.items():
        if value:
            raise SampleError(f"{name}.{key}: is for {what}")
