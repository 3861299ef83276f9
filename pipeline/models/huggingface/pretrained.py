"""A trained model of transformers, saved as that library saves its own."""

import os
import shutil
from pathlib import Path
from typing import Any

from pipeline.models.huggingface.kind import quietly
from pipeline.models.network import Network

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "chat_template.jinja"),
)


def save_pretrained(network: Network, folder: Path, *, tokenizer: Path | None = None) -> bool:
    """Save a model of transformers so that `from_pretrained` opens it; others are left alone.

    The files of `tokenizer`, a folder, go with it. The folder appears whole or not at all.
    """
    save: Any = getattr(network.model, "save_pretrained", None)
    if save is None:
        return False
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    with quietly():
        save(partial)
    for name in TOKENIZER_FILES if tokenizer else ():
        assert tokenizer
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, partial / name)
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return True
