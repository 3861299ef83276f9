"""Text as samples: documents are tokenised once, cut into pieces, and read again by index.

Tokens and places lie in unnamed temporary files, 4 bytes a token and 40 a piece, so memory does not
grow with the corpus. What a document means to a model is not known here.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import SampleError
from pipeline.samples.batch import UNLABELLED, Indices, SampleBatch, as_indices
from pipeline.samples.text.documents import Document, Wanted, find_files, read_documents
from pipeline.samples.text.tokenizer import Ids, Tokenizer, open_tokenizer
from pipeline.samples.text.tokens import Maskable, Task, Tokens, cut_row
from pipeline.temporary import TemporaryArray

# A piece of a document: where its tokens begin, how many there are, and which piece of which
# document of which file it is. No tokens: the document has a fault.
PIECE = np.dtype(
    [
        ("start", "<i8"),
        ("size", "<i4"),
        ("file", "<i4"),
        ("document", "<i8"),
        ("piece", "<i8"),
        ("label", "<i8"),
    ]
)
# The pieces of a row.
ROW = np.dtype([("first", "<i8"), ("count", "<i4")])
DOCUMENTS_AT_ONCE = 256


@dataclass(frozen=True)
class TextSamples:
    """Rows of tokens, each of one piece of a document, or packed with several."""

    name: str
    class_names: tuple[str, ...] | None
    tokens: Tokens
    length: int
    file_names: tuple[str, ...]
    ids_text: TemporaryArray
    pieces: TemporaryArray
    rows: TemporaryArray
    faults: dict[int, str]

    def __len__(self) -> int:
        return self.rows.count

    def ids(self, start: int, stop: int) -> list[str]:
        """Name the rows of a range: file, document, piece, and how many more are packed with it."""
        rows = self.rows.read(start, min(stop, len(self)))
        if not len(rows):
            return []
        first = int(rows["first"][0])
        pieces = self.pieces.read(first, int(rows["first"][-1]) + 1)
        return [
            self._id(pieces[place - first].item(), count)
            for place, count in zip(rows["first"].tolist(), rows["count"].tolist(), strict=True)
        ]

    def read(self, indices: Indices) -> SampleBatch:
        """Read rows of tokens.

        Raises: SampleError if a row stands for a document that could not be used.
        """
        found = [self._read(index) for index in as_indices(indices, len(self)).tolist()]
        return SampleBatch(
            [sample_id for sample_id, _, _ in found],
            np.stack([inputs for _, inputs, _ in found]),
            np.array([label for _, _, label in found], np.int64),
        )

    def _read(self, index: int) -> tuple[str, NDArray[np.int32], int]:
        first, count = self.rows.read(index, index + 1).item()
        pieces = self.pieces.read(first, first + count)
        # A tuple in the order of PIECE, which Python reads faster than a row of an array.
        leading = pieces[0].item()
        sample_id = self._id(leading, count)
        if first in self.faults:
            raise SampleError(f"{self.name}: {sample_id} {self.faults[first]}")
        start, label = leading[0], leading[-1]
        # The pieces of a row follow one another.
        sizes = pieces["size"].tolist()
        content = self.ids_text.read(start, start + sum(sizes))
        return sample_id, cut_row(content, sizes, self.length), label

    def _id(self, piece: tuple[int, ...], count: int) -> str:
        _, _, file, document, number, _ = piece
        more = f"+{count - 1}" if count > 1 else ""
        return f"{self.file_names[file]}:{document + 1}#{number}{more}"


@dataclass(frozen=True)
class Layout:
    """What becomes of documents: what is asked of them, the tokens of a row, and whether packed."""

    task: Task
    length: int
    pack: bool


# One keyword a key of the recipe, so that the recipe's table can be passed as it is.
def open_text(  # noqa: PLR0913
    *,
    base: Path,
    name: str,
    path: str,
    tokenizer: str,
    length: int,
    task: Task = "next_token",
    document: str = "line",
    pack: bool = False,
    end: str | None = None,
    column: str = "text",
    label: str | None = None,
    mask_token: str | None = None,
    class_names: Sequence[str] | None = None,
) -> TextSamples:
    """Tokenise every document, and cut it into pieces of at most `length` tokens.

    A document is a line of .txt (or the whole file) or .jsonl, or a row of Parquet. With `pack`,
    short pieces share a row, in order; with the task "label" a document is one piece, cut off.
    For masked tokens, each piece has what the tokenizer puts around a text ([CLS] and [SEP]).

    Raises: SampleError if there are no documents or no tokenizer. A document that cannot be used is
        a sample that cannot be read, which a scan counts or leaves out.
    """
    opened = open_tokenizer(
        base=base,
        where=name,
        source=tokenizer,
        end=end,
        masks=task == "masked_token",
        mask_token=mask_token,
    )
    files, names = find_files(base, name, path)
    if label and (plain := [each for each in names if each.endswith(".txt")]):
        raise SampleError(
            f"{name}.label: {plain[0]} has no column of labels; give .jsonl or .parquet, or leave "
            "label out"
        )
    documents = read_documents(name, files, Wanted(column, label, whole=document == "file"))
    layout = Layout(task, length, pack)
    return lay_out_documents(
        name, documents, opened, layout, file_names=names, class_names=class_names
    )


def lay_out_documents(
    name: str,
    documents: Iterator[Document],
    tokenizer: Tokenizer,
    layout: Layout,
    *,
    file_names: tuple[str, ...],
    class_names: Sequence[str] | None,
) -> TextSamples:
    """Tokenise documents, which are read once, and lay them out in rows.

    Raises: SampleError if documents with labels are to be packed, a row has no room for any of
        their tokens, or reading them fails.
    """
    if layout.pack and layout.task == "label":
        raise SampleError(f"{name}.pack: a row with a label is one document; leave pack out")
    _check_room(name, layout.length, tokenizer)
    samples = TextSamples(
        name=name,
        class_names=tuple(class_names) if class_names else None,
        tokens=Tokens(layout.task, tokenizer.vocabulary, tokenizer.digest, _maskable(tokenizer)),
        length=layout.length,
        file_names=file_names,
        ids_text=TemporaryArray(np.dtype("<i4")),
        pieces=TemporaryArray(PIECE),
        rows=TemporaryArray(ROW),
        faults={},
    )
    while block := list(islice(documents, DOCUMENTS_AT_ONCE)):
        _add(samples, tokenizer, block)
    _lay_out(samples, layout.pack)
    return samples


def _check_room(name: str, length: int, tokenizer: Tokenizer) -> None:
    framed = 0
    if masking := tokenizer.masking:
        framed = len(masking.before) + len(masking.after)
    if framed >= length:
        raise SampleError(
            f"{name}.length: must be above {framed}, the tokens that are put around every text; "
            f"got {length}"
        )


def _maskable(tokenizer: Tokenizer) -> Maskable | None:
    """Begin to count tokens; counting goes on as documents are read."""
    if tokenizer.masking is None:
        return None
    counts = np.zeros(tokenizer.vocabulary, np.int64)
    counts[list(tokenizer.masking.special)] = -1
    return Maskable(tokenizer.masking.token, counts)


def _add(samples: TextSamples, tokenizer: Tokenizer, documents: list[Document]) -> None:
    """Tokenise some documents and note their pieces."""
    encoded = tokenizer.encode([each.text for each in documents])
    pieces, tokens = list[tuple[int, ...]](), list[NDArray[np.int32]]()
    start = samples.ids_text.count
    for each, ids in zip(documents, encoded, strict=True):
        cut = {} if each.fault else _cut(ids, samples, tokenizer)
        if not cut:
            place = samples.pieces.count + len(pieces)
            samples.faults[place] = each.fault or _too_little(len(ids), samples.tokens.task)
            pieces.append((start, 0, each.file, each.number, 0, UNLABELLED))
        for number, piece in cut.items():
            pieces.append((start, len(piece), each.file, each.number, number, each.label))
            tokens.append(piece)
            start += len(piece)
    content = np.concatenate([np.empty(0, np.int32), *tokens])
    samples.pieces.append(np.array(pieces, PIECE))
    samples.ids_text.append(content)
    if maskable := samples.tokens.maskable:
        found = np.bincount(content, minlength=len(maskable.counts))
        maskable.counts[:] += np.where(maskable.counts >= 0, found, 0)


def _cut(ids: Ids, samples: TextSamples, tokenizer: Tokenizer) -> dict[int, Ids]:
    """Cut a document, and number its pieces; those in which nothing is asked are left out."""
    length = samples.length
    if samples.tokens.task == "label":
        return {0: ids[:length]} if len(ids) else {}
    if tokenizer.masking is not None:
        return _cut_framed(ids, samples, tokenizer)
    cut = enumerate(ids[start : start + length] for start in range(0, len(ids), length))
    return {number: piece for number, piece in cut if len(piece) > 1}


def _cut_framed(ids: Ids, samples: TextSamples, tokenizer: Tokenizer) -> dict[int, Ids]:
    masking, maskable = tokenizer.masking, samples.tokens.maskable
    assert masking
    assert maskable
    room = samples.length - len(masking.before) - len(masking.after)
    cut = enumerate(ids[start : start + room] for start in range(0, len(ids), room))
    return {
        number: np.concatenate([masking.before, piece, masking.after])
        for number, piece in cut
        if (maskable.counts[piece] >= 0).any()
    }


def _too_little(size: int, task: Task) -> str:
    if task == "masked_token":
        return f"has {size} tokens, none of which can be masked"
    return f"has {size} token, too few to predict one"


def _lay_out(samples: TextSamples, pack: bool) -> None:
    """Give every piece a row or, packed, fill each row with the pieces that come next."""
    rows = _packed(samples) if pack else ((place, 1) for place in range(samples.pieces.count))
    while block := list(islice(rows, 4096)):
        samples.rows.append(np.array(block, ROW))


def _packed(samples: TextSamples) -> Iterator[tuple[int, int]]:
    first, count, filled = 0, 0, 0
    for place, size in enumerate(_sizes(samples)):
        # A document with a fault is alone, so that nothing else is lost with it.
        if count and (filled + size > samples.length or not size or not filled):
            yield first, count
            count = filled = 0
        first = first if count else place
        count, filled = count + 1, filled + size
    if count:
        yield first, count


def _sizes(samples: TextSamples) -> Iterator[int]:
    for start in range(0, samples.pieces.count, 4096):
        stop = min(start + 4096, samples.pieces.count)
        yield from samples.pieces.read(start, stop)["size"].tolist()
