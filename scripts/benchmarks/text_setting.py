"""A folder with text, a tokenizer, a teacher and a recipe: what language students are timed on.

The words are random, which costs a network as much as any others. Nothing is timed here.
"""

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

VOCABULARY, LENGTH, BATCH = 8192, 128, 8

RECIPE = f"""
name = "bench-text"

[data.train]
kind = "text"
path = "text.txt"
tokenizer = "words"
length = {LENGTH}
pack = true

[teacher]
model = {{ kind = "python", factory = "networks:language_teacher", task = "next_token" }}
batch_size = 16
device = "cpu"

[targets]
selection = {{ kind = "top_k", k = 32 }}
tail = {{ kind = "bucket" }}

[cache]
path = "cache"
rows_per_part = 64

[student.model]
kind = "transformers"
task = "next_token"

[student.model.config]
model_type = "llama"
vocab_size = {VOCABULARY}
hidden_size = 96
intermediate_size = 256
num_hidden_layers = 2
num_attention_heads = 4
max_position_embeddings = {LENGTH}
tie_word_embeddings = true
attention_dropout = 0.0
bos_token_id = 0
eos_token_id = 0

[[losses]]
kind = "soft_targets"
weight = 1.0
temperature = 2.0

[training]
epochs = 1
batch_size = {BATCH}
device = "cpu"

[run]
path = "run"
"""


@contextmanager
def text_setting(rows: int) -> Iterator[Path]:
    """Make the folder, hand out the recipe's path, and remove everything afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        shutil.copyfile(Path(__file__).with_name("networks.py"), folder / "networks.py")
        generator = np.random.Generator(np.random.Philox(0))
        rare = generator.standard_exponential(rows * LENGTH)
        words = ((VOCABULARY - 1) * (1 - np.exp(-rare / 3))).astype(int)
        lines = words.reshape(rows, LENGTH).tolist()
        text = "\n".join(" ".join(f"w{word}" for word in line) for line in lines)
        (folder / "text.txt").write_text(text, encoding="utf-8")
        _write_tokenizer(folder / "words")
        recipe = folder / "bench.toml"
        recipe.write_text(RECIPE, encoding="utf-8")
        yield recipe


def _write_tokenizer(folder: Path) -> None:
    folder.mkdir()
    described: dict[str, object] = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordLevel",
            "vocab": {f"w{word}": word for word in range(VOCABULARY)},
            "unk_token": "w0",
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
