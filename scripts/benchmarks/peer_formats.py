"""The same rows in the formats that people use instead: written once, then read shuffled.

Runs in a virtual environment of its own, without this project: peer_formats.py KIND RAW ROWS OUT
WORKERS [write]. Every format has its library's default settings. Prints the seconds of an epoch.
"""

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

POSITIONS, BATCH = 512, 32
SHAPES = {"classes": (64,), "logits": (64,), "tail": (8,)}
DTYPES = {"classes": "uint16", "logits": "float16", "tail": "float32"}

Row = dict[str, Any]


def rows_of(raw: Path, rows: int) -> Iterable[Row]:
    """Give each row's arrays."""
    maps = {
        name: np.memmap(raw / name, DTYPES[name], "r", shape=(rows, POSITIONS, *SHAPES[name]))
        for name in SHAPES
    }
    for row in range(rows):
        yield {name: np.array(array[row]) for name, array in maps.items()}


def as_tensors(row: Row) -> list[torch.Tensor]:
    """Turn what a library gives into tensors, from bytes where it gives those: of a row, or of a
    batch of rows."""
    made = []
    for name, shape in SHAPES.items():
        value = row[name]
        if isinstance(value, list):
            value = b"".join(value)
        if isinstance(value, bytes):
            value = np.frombuffer(bytearray(value), DTYPES[name])
        tensor = value if isinstance(value, torch.Tensor) else torch.from_numpy(value)
        made.append(tensor.reshape(-1, POSITIONS, *shape))
    return made


def write_mds(data: Iterable[Row], out: Path) -> None:
    from streaming import MDSWriter

    columns = {name: f"ndarray:{DTYPES[name]}" for name in SHAPES}
    with MDSWriter(out=str(out), columns=columns) as writer:
        for row in data:
            writer.write(row)


def read_mds(out: Path, workers: int) -> Iterable[Any]:
    from streaming import StreamingDataset

    dataset = StreamingDataset(local=str(out), shuffle=True, batch_size=BATCH)
    return _loaded(dataset, workers)


def write_litdata(data: Iterable[Row], out: Path) -> None:
    from litdata.streaming.writer import BinaryWriter

    writer = BinaryWriter(str(out), chunk_bytes="64MB")
    for number, row in enumerate(data):
        writer[number] = {name: torch.from_numpy(array) for name, array in row.items()}
    writer.done()
    writer.merge()


def read_litdata(out: Path, workers: int) -> Iterable[Any]:
    from litdata import StreamingDataLoader, StreamingDataset

    dataset = StreamingDataset(str(out), shuffle=True)
    if not workers:
        return dataset
    return StreamingDataLoader(dataset, batch_size=BATCH, num_workers=workers)


def write_webdataset(data: Iterable[Row], out: Path) -> None:
    import webdataset

    with webdataset.ShardWriter(str(out / "%04d.tar"), maxsize=64 * 2**20, verbose=0) as writer:
        for number, row in enumerate(data):
            named = {f"{name}.npy": array for name, array in row.items()}
            writer.write({"__key__": f"{number:07d}", **named})


def read_webdataset(out: Path, workers: int) -> Iterable[Any]:
    import webdataset

    shards = sorted(map(str, out.glob("*.tar")))
    dataset = webdataset.WebDataset(shards, shardshuffle=len(shards)).shuffle(512).decode()
    return _loaded(dataset.map(_without_suffix), workers)


def _without_suffix(row: Row) -> Row:
    return {name: row[f"{name}.npy"] for name in SHAPES}


def _as_arrow(data: Iterable[Row]) -> Any:
    import pyarrow as pa

    schema = pa.schema([(name, pa.binary()) for name in SHAPES])
    blocks = (
        pa.record_batch({name: [row[name].tobytes()] for name in SHAPES}, schema) for row in data
    )
    return pa.RecordBatchReader.from_batches(schema, blocks)


def write_lance(data: Iterable[Row], out: Path) -> None:
    import lance

    lance.write_dataset(_as_arrow(data), str(out / "data"))


def read_lance(out: Path, workers: int) -> Iterable[Any]:
    import lance

    dataset = lance.dataset(str(out / "data"))
    order = np.random.default_rng(0).permutation(dataset.count_rows())

    def rows() -> Iterable[Row]:
        for start in range(0, len(order), BATCH):
            yield from dataset.take(order[start : start + BATCH].tolist()).to_pylist()

    return rows()


def write_huggingface(data: Iterable[Row], out: Path) -> None:
    import datasets

    datasets.Dataset(_as_arrow(data).read_all()).save_to_disk(str(out / "saved"))


def read_huggingface(out: Path, workers: int) -> Iterable[Any]:
    import datasets

    return _loaded(datasets.load_from_disk(str(out / "saved")).shuffle(seed=0), workers)


def write_files(data: Iterable[Row], out: Path) -> None:
    """As torchdistill and others do: a file of torch for each sample."""
    for number, row in enumerate(data):
        tensors = {name: torch.from_numpy(array) for name, array in row.items()}
        torch.save(tensors, out / f"{number:07d}.pt")


def read_files(out: Path, workers: int) -> Iterable[Any]:
    return _loaded(_Files(sorted(out.glob("*.pt"))), workers, shuffle=True)


class _Files(torch.utils.data.Dataset[Row]):
    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Row:
        row: Row = torch.load(self.paths[index])
        return row


def _loaded(dataset: Any, workers: int, **options: Any) -> Iterable[Any]:
    """Give row by row, or let workers make batches."""
    if not workers and not options:
        return dataset  # type: ignore[no-any-return]
    size = BATCH if workers else None
    return torch.utils.data.DataLoader(dataset, batch_size=size, num_workers=workers, **options)


WRITERS: dict[str, Callable[[Iterable[Row], Path], None]] = {
    "mosaicml-streaming": write_mds,
    "litdata": write_litdata,
    "webdataset": write_webdataset,
    "lance": write_lance,
    "datasets": write_huggingface,
    "a file a sample": write_files,
}
READERS: dict[str, Callable[[Path, int], Iterable[Any]]] = {
    "mosaicml-streaming": read_mds,
    "litdata": read_litdata,
    "webdataset": read_webdataset,
    "lance": read_lance,
    "datasets": read_huggingface,
    "a file a sample": read_files,
}


def main() -> None:
    """Write, or read an epoch; print its seconds."""
    kind, raw, rows, out, workers, *write = sys.argv[1:]
    torch.set_num_threads(1)
    if write:
        Path(out).mkdir(parents=True)
        WRITERS[kind](rows_of(Path(raw), int(rows)), Path(out))
        return
    data, seen = READERS[kind](Path(out), int(workers)), 0  # opening is not in it
    started = time.perf_counter()
    for row in data:
        seen += len(as_tensors(row)[0])
    assert seen == int(rows), f"{seen} of {rows} rows"
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main()
