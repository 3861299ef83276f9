"""What is drawn when a teacher writes: the teacher's law, cut as asked, keyed by row and place."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline.caching.writing import Writing, choose, write_rows
from pipeline.models import Network
from pipeline.models.continuing import Continuing, remembers
from pipeline.samples import SampleBatch
from pipeline.samples.text.tokens import token_row

VOCABULARY = 7
PLAIN = Writing(
    prompt_tokens=3,
    length=9,
    count=1,
    temperature=1.0,
    top_k=None,
    top_p=None,
    seed=0,
    end=None,
    vocabulary=VOCABULARY,
)
CPU = torch.device("cpu")


class Counting(nn.Module):
    """A causal model that looks at the last two tokens: a table of logits."""

    def __init__(self, classes: int = VOCABULARY) -> None:
        super().__init__()
        table = torch.randn(
            VOCABULARY, VOCABULARY, classes, generator=torch.Generator().manual_seed(0)
        )
        self.table = nn.Parameter(2 * table)

    def forward(self, tokens: Tensor) -> Tensor:
        before = nn.functional.pad(tokens, (1, 0))[:, :-1]
        logits: Tensor = self.table[before, tokens]
        return logits


def make_network(classes: int = VOCABULARY) -> Network:
    return Network(Counting(classes), task="next_token").eval()


def make_prompts(*sizes: int) -> SampleBatch:
    rows = [token_row([np.arange(size, dtype=np.int32) % VOCABULARY], 12) for size in sizes]
    ids = [f"s{place}" for place in range(len(sizes))]
    return SampleBatch(ids, np.stack(rows), np.full(len(sizes), -1))


def write(
    prompts: SampleBatch, writing: Writing, batch_size: int = 4, **options: Any
) -> SampleBatch:
    numbers = options.get("numbers", np.zeros(len(prompts.ids), np.int64))
    return write_rows(
        options.get("network") or make_network(),
        writing,
        prompts,
        numbers,
        device=CPU,
        batch_size=batch_size,
    )


def test_at_temperature_0_every_token_is_the_most_probable() -> None:
    network, prompts = make_network(), make_prompts(3, 12, 2)
    written = write(prompts, replace(PLAIN, temperature=0.0), network=network)
    for prompt, row in zip(prompts.inputs, written.inputs, strict=True):
        tokens = prompt[0][prompt[1] == 0][:3].tolist()
        while len(tokens) < 9:
            tokens.append(int(network.model(torch.tensor([tokens]))[0, -1].argmax()))
        assert row[0].tolist() == tokens
        assert row[1].tolist() == [0] * 9
    assert written.ids == ["s0~0", "s1~0", "s2~0"]


def test_tokens_are_drawn_with_the_teachers_probabilities() -> None:
    rows, writing = 4000, replace(PLAIN, length=4, temperature=0.7)
    prompts = make_prompts(*[3] * rows)
    drawn = write(prompts, writing, batch_size=1000).inputs[:, 0, 3]
    probs = (make_network().model(torch.tensor([[0, 1, 2]]))[0, -1] / 0.7).softmax(0)
    counts = np.bincount(drawn, minlength=VOCABULARY)
    for share, count in zip(probs.tolist(), counts.tolist(), strict=True):
        spread = (rows * share * (1 - share)) ** 0.5
        assert abs(count - rows * share) < 5 * spread


@pytest.mark.parametrize(
    ("cut", "allowed"),
    [({"top_k": 2}, 2), ({"top_p": 0.5}, None), ({"top_k": 3, "top_p": 0.99}, 3)],
    ids=["top_k", "top_p", "both"],
)
def test_what_is_cut_is_never_drawn_and_the_rest_keeps_its_shares(
    cut: dict[str, Any], allowed: int | None
) -> None:
    logits = torch.randn(1, VOCABULARY, generator=torch.Generator().manual_seed(1))
    probs = logits.double().softmax(1)[0]
    order = probs.argsort(descending=True).tolist()
    if allowed is None:  # the fewest that reach half of the mass
        allowed = next(n for n in range(1, 8) if float(probs[order[:n]].sum()) >= 0.5)
    uniforms = (torch.arange(20_000) + 0.5).double() / 20_000
    drawn = choose(logits.expand(20_000, -1), replace(PLAIN, **cut), uniforms)
    shares = torch.bincount(drawn, minlength=VOCABULARY) / 20_000
    kept = torch.zeros(VOCABULARY).double()
    kept[order[:allowed]] = probs[order[:allowed]]
    assert torch.allclose(shares.double(), kept / kept.sum(), atol=1e-3)


def test_what_is_drawn_depends_on_nothing_but_row_number_and_place() -> None:
    prompts, numbers = make_prompts(*[3, 5, 2, 3, 4, 1]), np.array([0, 1, 0, 2, 0, 0])
    together = write(prompts, PLAIN, numbers=numbers, batch_size=6)
    apart = [
        write(
            SampleBatch([prompts.ids[row]], prompts.inputs[[row]], prompts.labels[[row]]),
            PLAIN,
            numbers=numbers[[row]],
        )
        for row in range(6)
    ]
    assert np.array_equal(together.inputs, np.concatenate([each.inputs for each in apart]))
    assert together.ids == ["s0~0", "s1~1", "s2~0", "s3~2", "s4~0", "s5~0"]
    assert not np.array_equal(together.inputs[0], together.inputs[3])  # two goes at one prompt
    other = write(prompts, replace(PLAIN, seed=1), numbers=numbers)
    assert not np.array_equal(together.inputs, other.inputs)


def test_a_row_ends_with_the_token_that_ends_documents() -> None:
    written = write(make_prompts(*[3] * 30), replace(PLAIN, end=4, length=12))
    for tokens, documents in written.inputs:
        size = int((documents == 0).sum())
        assert 4 not in tokens[3 : size - 1]
        assert size == 12 or tokens[size - 1] == 4
        assert documents[size:].tolist() == [-1] * (12 - size)
    assert len({int((documents == 0).sum()) for _, documents in written.inputs}) > 1


def test_tokens_beyond_the_vocabulary_of_the_text_are_never_drawn() -> None:
    written = write(make_prompts(*[3] * 50), PLAIN, network=make_network(classes=20))
    assert written.inputs[:, 0].max() < VOCABULARY


@pytest.mark.parametrize("architecture", ["LlamaConfig", "GPT2Config"])
def test_a_model_that_remembers_says_what_it_says_without(architecture: str) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 0}
    options = {"n_embd": 16, "n_layer": 2, "n_head": 2}
    if architecture == "LlamaConfig":
        options = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        options["intermediate_size"] = 32
    torch.manual_seed(0)
    config = getattr(transformers, architecture)(**sizes, **options)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    network = Network(model, task="next_token").eval()
    assert remembers(model)
    tokens = torch.randint(0, 20, (3, 4), generator=torch.Generator().manual_seed(1))
    quick, slow = Continuing(network), Continuing(network, may_remember=False)
    for _ in range(5):
        ours, theirs = quick(tokens), slow(tokens)
        assert torch.allclose(ours, theirs, atol=1e-5)
        tokens = torch.cat([tokens, ours.argmax(1, keepdim=True)], 1)
