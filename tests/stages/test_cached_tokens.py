"""A cache of text teaches by itself: no text, no tokenizer, and not a bit is other."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from laboratory import Lab, run_cli
from test_text import MODELS, RECIPE, VERSES

from pipeline import open_cache
from pipeline.experiment import open_data
from pipeline.recipe import load_recipe

TOKENIZER = "words"
WITH_VALIDATION_CACHE = ("--set", "cache.data=validation", "--set", "cache.path=held-out")
CACHED = "data.train={ kind = 'cache', path = 'cache' }"
LABEL_MODEL = """

class Label(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 2)

    def forward(self, rows):
        return self.head(rows.flatten(1)[:, :1].float())


def label():
    return Label()
"""
BLIND = """
[data.train]
kind = "cache"
path = "cache"

[data.validation]
kind = "cache"
path = "held-out"
"""


def make_tokenizer(folder: Path) -> None:
    """Make a tokenizer of the words of the verses, whose vocabulary has a gap."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    tokenizer = Tokenizer(WordLevel({"<unk>": 0}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    words = sorted({word for line in VERSES for word, _ in Whitespace().pre_tokenize_str(line)})
    vocabulary = {"<unk>": 0, **{word: 256 - place for place, word in enumerate(words)}}
    tokenizer.model = WordLevel(vocabulary, unk_token="<unk>")
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))


@pytest.fixture
def text_lab(tmp_path: Path) -> Lab:
    (tmp_path / "train.txt").write_text("\n".join(VERSES) * 3)
    (tmp_path / "validation.txt").write_text("\n".join(VERSES[:3]))
    (tmp_path / "text_models.py").write_text(MODELS)
    (tmp_path / "recipe.toml").write_text(RECIPE.replace('"bytes"', f'"{TOKENIZER}"'))
    make_tokenizer(tmp_path / TOKENIZER)
    return Lab(tmp_path)


def make_caches(lab: Lab, *options: str) -> None:
    for more in ((), WITH_VALIDATION_CACHE):
        answer = lab.cache_teacher("--quiet", *options, *more)
        assert answer.status == 0, answer.stderr


def go_blind(lab: Lab) -> None:
    """Delete text and tokenizer, and name the caches in their place."""
    head, rest = lab.recipe.read_text().split("[data.train]")
    lab.recipe.write_text(head + BLIND + "[teacher]" + rest.split("[teacher]")[1])
    shutil.rmtree(lab.folder / TOKENIZER)
    for name in ("train.txt", "validation.txt"):
        (lab.folder / name).unlink()


def trained(lab: Lab, run: str, *options: str) -> tuple[object, ...]:
    """Train, and tell the metrics but for times."""
    settings = ["--set", "validation.cache=held-out", "--set", f"run.path={run}", *options]
    answer = lab.train_student("--json", "--quiet", *settings)
    assert answer.status == 0, answer.stderr
    result = json.loads(answer.stdout)
    lines = [
        {name: value for name, value in line.items() if not name.endswith("_s")}
        for line in lab.metrics(run)
    ]
    return lines, result["validation"], result["cache"] if "cache" in result else result["data"]


@pytest.mark.parametrize("pack", ["true", "false"])
@pytest.mark.parametrize("backend", ["zarr", "parquet"])
def test_a_student_needs_neither_text_nor_tokenizer(text_lab: Lab, backend: str, pack: str) -> None:
    options = ["--set", f"data.train.pack={pack}"]
    make_caches(text_lab, *options, "--set", f"cache.backend={backend}")
    from_text = trained(text_lab, "from-text", *options)
    go_blind(text_lab)
    assert trained(text_lab, "from-cache") == from_text


def test_hard_labels_alone_are_learned_from_the_cache_too(text_lab: Lab) -> None:
    make_caches(text_lab)
    hard = ["--set", "losses=[{ kind = 'hard_labels', weight = 1.0 }]"]
    from_text = trained(text_lab, "from-text", *hard)
    go_blind(text_lab)
    assert trained(text_lab, "from-cache", *hard) == from_text


def test_documents_with_labels_are_kept_whole(text_lab: Lab) -> None:
    lines = [json.dumps({"text": line, "label": row % 2}) for row, line in enumerate(VERSES)]
    (text_lab.folder / "train.jsonl").write_text("\n".join(lines))
    table = f"path = 'train.jsonl', label = 'label', tokenizer = '{TOKENIZER}', length = 12"
    data = f"data.train={{ kind = 'text', task = 'label', {table} }}"
    models = text_lab.folder / "text_models.py"
    models.write_text(models.read_text() + LABEL_MODEL)
    model = "teacher.model={ kind = 'python', factory = 'text_models:label', task = 'label' }"
    settings = (data, model, "targets.selection.k=2")
    answer = text_lab.cache_teacher(
        "--quiet", *(each for value in settings for each in ("--set", value))
    )
    assert answer.status == 0, answer.stderr
    text = open_data(load_recipe(text_lab.recipe, [data]), "train")
    cached = open_data(load_recipe(text_lab.recipe, [CACHED]), "train")
    there, here = text.read(range(len(text))), cached.read(range(len(cached)))
    assert here.ids == there.ids
    assert here.labels.tolist() == there.labels.tolist() == [0, 1] * 4
    np.testing.assert_array_equal(here.inputs, there.inputs)


def test_another_teacher_answers_for_the_tokens_of_a_cache(text_lab: Lab) -> None:
    make_caches(text_lab)
    go_blind(text_lab)
    answer = text_lab.cache_teacher("--quiet", "--set", "cache.path=second")
    assert answer.status == 0, answer.stderr
    first, second = open_cache(text_lab.cache), open_cache(text_lab.folder / "second")
    assert first.plan.settings == second.plan.settings
    assert first.plan.fingerprint != second.plan.fingerprint  # each says what it was made from
    record = "parts/00001.json"
    folders = (text_lab.cache, text_lab.folder / "second")
    files = [json.loads((folder / record).read_text())["files"] for folder in folders]
    assert files[0] == files[1]


@pytest.mark.parametrize("name", ["tokens", "sizes", "starts"])
def test_a_flipped_byte_of_the_tokens_is_found(text_lab: Lab, name: str) -> None:
    make_caches(text_lab)
    go_blind(text_lab)
    path = next((text_lab.cache / "targets/00001.zarr" / name).glob("c*"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    answer = text_lab.train_student("--quiet")
    assert answer.status == 1
    assert f"part 1: {path.relative_to(text_lab.cache)}: its checksum differs" in answer.stderr


def test_images_have_no_tokens_to_learn_from(cached_lab: Lab) -> None:
    answer = cached_lab.train_student("--quiet", "--set", CACHED)
    assert answer.status == 2
    assert answer.stderr == (
        f"error: data.train.path: {cached_lab.cache} holds no tokens: it is not of text, or was "
        "made before they were kept. Give the data that it was made from.\n"
    )


def test_a_cache_that_is_not_complete_is_no_data(text_lab: Lab) -> None:
    make_caches(text_lab)
    (text_lab.cache / "manifest.json").unlink()
    answer = text_lab.train_student("--quiet", "--set", CACHED)
    assert answer.status == 2
    assert f"{text_lab.cache}: all parts are there, but no manifest yet." in answer.stderr


def test_a_plan_says_how_large_full_rows_will_be(text_lab: Lab) -> None:
    answer = text_lab.cache_teacher("--dry-run", "--json", "--quiet")
    bytes_a_position = 8 * 2 + 8 * 2 + 8 * 4 + 3 * 4
    tokens = 24 * 2 + 4 + 3
    assert json.loads(answer.stdout)["bytes_a_row"] == 23 * bytes_a_position + tokens
    make_caches(text_lab)
    shown = json.loads(run_cli("inspect", str(text_lab.cache), "--json").stdout)
    a_row = (shown["field_bytes_a_position"] - bytes_a_position) * shown["positions"]
    assert a_row / shown["rows"] == pytest.approx(tokens, abs=1)


@pytest.mark.parametrize("backend", ["zarr", "parquet"])
def test_tokens_are_readable_from_the_document_alone(text_lab: Lab, backend: str) -> None:
    make_caches(text_lab, "--set", f"cache.backend={backend}")
    samples = pq.read_table(text_lab.cache / "samples/00000.parquet")
    fields = plain_fields(text_lab.cache)
    positions, digests = [], []
    for ids, size, starts in zip(*fields, strict=True):
        row = np.zeros((2, 24), "<i4")
        row[1], document = -1, -1
        for place in range(size):
            document += starts[place // 8] >> place % 8 & 1
            row[:, place] = ids[place], document
        positions.append(size - document - 1)
        digests.append(hashlib.blake2b(b"<i4(2, 24)" + row.tobytes(), digest_size=16).digest())
    assert positions == samples["positions"].to_pylist()
    assert digests == samples["digest"].to_pylist()


def plain_fields(cache: Path) -> list[list[Any]]:
    """Read tokens, sizes and starts of part 0 with zarr or pyarrow alone."""
    names = ("tokens", "sizes", "starts")
    if (cache / "targets/00000.zarr").exists():
        root = cache / "targets/00000.zarr"
        return [np.asarray(zarr.open_array(root / name, mode="r")).tolist() for name in names]
    table = pq.read_table(cache / "targets/00000.rows.parquet")
    tokens = [np.frombuffer(each, "<u2").tolist() for each in table["tokens"].to_pylist()]
    return [
        tokens,
        table["sizes"].to_pylist(),
        [list(each) for each in table["starts"].to_pylist()],
    ]


def test_a_saved_dataset_is_cached_and_learned_from_as_its_text_is(text_lab: Lab) -> None:
    saved = text_lab.folder / "saved"
    saved.mkdir()
    lines = (text_lab.folder / "train.txt").read_text().splitlines()
    table = pa.table({"text": lines})
    with pa.ipc.new_stream(saved / "data-00000-of-00001.arrow", table.schema) as stream:
        stream.write_table(table, max_chunksize=5)
    files = [{"filename": "data-00000-of-00001.arrow"}]
    (saved / "state.json").write_text(json.dumps({"_data_files": files}))
    make_caches(text_lab)
    from_text = trained(text_lab, "from-text")
    options = f"path = 'saved', tokenizer = '{TOKENIZER}', length = 24, pack = true"
    data = ("--set", f"data.train={{ kind = 'huggingface', {options} }}")
    answer = text_lab.cache_teacher("--quiet", *data, "--set", "cache.path=second")
    assert answer.status == 0, answer.stderr
    lines_of_saved = trained(text_lab, "from-saved", *data, "--set", "cache.path=second")
    assert lines_of_saved[:2] == from_text[:2]
