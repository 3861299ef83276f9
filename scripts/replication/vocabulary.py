"""A language model over fewer tokens: those that a text uses most.

They are kept with all that they are merged from, so that the tokenizer still finds them; a rarer
word falls into more pieces than before.
"""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer

from pipeline.models.huggingface.kind import quietly


def cut_vocabulary(source: Path, texts: Iterable[Path], size: int, target: Path) -> None:
    """Save the model and tokenizer of `source` with `size` tokens in `target`, whole or not at all.

    The teacher's distribution over the kept classes is its own, renormalised.
    """
    if target.exists():
        return
    from transformers import AutoModelForCausalLM

    described = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    kept = choose(described, _count(source, texts), size)
    partial = target.with_name(f".{target.name}.partial")
    with quietly():
        model: Any = AutoModelForCausalLM.from_pretrained(source)
        embeddings = model.get_input_embeddings().weight[kept].clone()
        model.resize_token_embeddings(size)
        with torch.no_grad():
            model.get_input_embeddings().weight.copy_(embeddings)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(model.config, key, 0)
            setattr(model.generation_config, key, 0)
        model.save_pretrained(partial)
    text = json.dumps(renumbered(described, kept), ensure_ascii=False)
    (partial / "tokenizer.json").write_text(text, encoding="utf-8")
    partial.rename(target)


def _count(source: Path, texts: Iterable[Path]) -> Counter[int]:
    tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
    counts = Counter[int]()
    for text in texts:
        counts.update(tokenizer.encode(text.read_text(encoding="utf-8")).ids)
    return counts


def choose(described: dict[str, Any], counts: Counter[int], size: int) -> list[int]:
    """Keep special tokens and bytes, then what is used most, with what that is merged from."""
    numbers: dict[str, int] = described["model"]["vocab"]
    parents = {
        numbers[left + right]: (numbers[left], numbers[right])
        for left, right in described["model"]["merges"]
    }
    kept = {number for number in numbers.values() if number not in parents}
    # Of what is used equally often, or never, the earlier merge is the commoner one.
    for token in sorted(numbers.values(), key=lambda each: (-counts[each], each)):
        family = _with_parents(token, parents) - kept
        if len(kept) + len(family) <= size:
            kept |= family
    assert len(kept) == size, f"{len(kept)} of {size} tokens"
    return sorted(kept)


def _with_parents(token: int, parents: dict[int, tuple[int, int]]) -> set[int]:
    family, waiting = set[int](), [token]
    while waiting:
        family.add(waiting[-1])
        waiting += parents.get(waiting.pop(), ())
    return family


def renumbered(described: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    places = {old: new for new, old in enumerate(kept)}
    model = described["model"]
    vocab = {text: places[old] for text, old in model["vocab"].items() if old in places}
    merges = [pair for pair in model["merges"] if "".join(pair) in vocab]
    added = [each | {"id": places[each["id"]]} for each in described["added_tokens"]]
    return described | {
        "added_tokens": added,
        "model": model | {"vocab": vocab, "merges": merges},
    }
