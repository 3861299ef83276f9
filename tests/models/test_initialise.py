"""Students that begin as layers of another model: which, and that nothing else is made up."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipeline.errors import ModelError
from pipeline.models import copy_layers, load_network
from pipeline.models.initialise.rules import choose_layers

pytest.importorskip("transformers")

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {
        "model_type": "llama",
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "tie_word_embeddings": True,
    },
    "gpt2": {"model_type": "gpt2", "vocab_size": 30, "n_embd": 16, "n_layer": 4, "n_head": 2},
    "bert": {
        "model_type": "bert",
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
    },
    "distilbert": {
        "model_type": "distilbert",
        "vocab_size": 30,
        "dim": 16,
        "hidden_dim": 20,
        "n_layers": 4,
        "n_heads": 2,
    },
    "gemma2": {
        "model_type": "gemma2",
        "vocab_size": 30,
        "hidden_size": 16,
        "intermediate_size": 20,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    },
}
COUNTS = {"gpt2": "n_layer", "distilbert": "n_layers"}
# Where the layers lie, and the name of everything else.
STACKS = {
    "llama": "model.layers",
    "gpt2": "transformer.h",
    "bert": "bert.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "gemma2": "model.layers",
}


def make(kind: str, layers: int, seed: int, **settings: Any) -> nn.Module:
    """Make a model of some type, every tensor of it drawn, norms and biases too."""
    import transformers

    described = CONFIGS[kind] | {COUNTS.get(kind, "num_hidden_layers"): layers} | settings
    described = {key: value for key, value in described.items() if key != "model_type"}
    config = transformers.AutoConfig.for_model(kind, **described)
    auto = "AutoModelForMaskedLM" if "bert" in kind else "AutoModelForCausalLM"
    torch.manual_seed(seed)
    model: nn.Module = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ("rule", "counts", "layers"),
    [
        ("every_other", (12, 6), (0, 2, 4, 6, 8, 10)),
        ("every_other", (5, 3), (0, 2, 4)),
        ("first", (12, 3), (0, 1, 2)),
        ("last", (12, 3), (9, 10, 11)),
        ("spread", (12, 6), (0, 2, 4, 7, 9, 11)),
        ("spread", (12, 4), (0, 4, 7, 11)),
        ("spread", (12, 2), (0, 11)),
        ("spread", (12, 1), (0,)),
        ("spread", (3, 3), (0, 1, 2)),
        ([0, 2, 4, 7, 9, 11], (12, 6), (0, 2, 4, 7, 9, 11)),
        ([1, 0, 0], (2, 3), (1, 0, 0)),
    ],
)
def test_rules_choose_layers(rule: Any, counts: tuple[int, int], layers: tuple[int, ...]) -> None:
    assert choose_layers(rule, *counts, where="layers") == layers


@pytest.mark.parametrize("source", range(1, 20))
def test_a_spread_is_even_and_has_both_ends(source: int) -> None:
    for student in range(2, source + 1):
        chosen = choose_layers("spread", source, student, where="layers")
        gaps = {second - first for first, second in pairwise(chosen)}
        assert (chosen[0], chosen[-1], len(chosen)) == (0, source - 1, student)
        assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize(
    ("rule", "counts", "message"),
    [
        (
            "every_other",
            (12, 4),
            "layers: 'every_other' of 12 layers gives 6 layers (0, 2, 4, 6, 8, 10), but the "
            "student has 4. Give it 6, or choose 4: 'spread' always fits.",
        ),
        (
            [0, 1],
            (12, 3),
            "layers: lists 2 layers (0, 1), but the student has 3. Give it 2, or choose 3: "
            "'spread' always fits.",
        ),
        (
            [0, 12],
            (12, 2),
            "layers: there is no layer 12; the model to begin from has 12, so 0 to 11 are allowed.",
        ),
        (
            "last",
            (2, 3),
            "layers: the model to begin from has 2 layers, the student 3. Give the student at most "
            "2, or list the layers; one may be listed twice.",
        ),
        ("frist", (2, 2), "layers: 'frist' is not known, allowed are every_other, first, last, "
         "spread"),
    ],
)  # fmt: skip
def test_a_choice_that_does_not_fit_says_why(
    rule: Any, counts: tuple[int, int], message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        choose_layers(rule, *counts, where="layers")
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", CONFIGS)
def test_every_tensor_is_the_one_of_its_layer_or_of_its_name(kind: str) -> None:
    source, student = make(kind, 4, seed=0), make(kind, 2, seed=1)
    told = copy_layers(source, student, [3, 1])
    there, here = snapshot(source), snapshot(student)
    stack = STACKS[kind]
    assert len(here) > 10
    for name, value in here.items():
        assert torch.equal(value, there[name.replace(f"{stack}.0.", f"{stack}.3.")]), name
    assert told.layers == (3, 1)
    assert (told.source_count, told.left) == (4, ())
    assert all(parameter.requires_grad for parameter in student.parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_a_student_of_all_layers_answers_as_the_teacher(kind: str) -> None:
    source, student = make(kind, 3, seed=0), make(kind, 3, seed=1)
    copy_layers(source, student, "spread")
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        assert torch.equal(source(tokens).logits, student(tokens).logits)


def test_distilbert_begins_as_bert_by_its_published_names() -> None:
    source, student = make("bert", 12, seed=0), make("distilbert", 6, seed=1)
    told = copy_layers(source, student, "spread")
    with torch.no_grad():  # BERT's kind of segment, which DistilBERT has not
        source.bert.embeddings.token_type_embeddings.weight.zero_()  # type: ignore[union-attr, operator]
    every = list(source.bert.encoder.layer)  # type: ignore[union-attr, arg-type]
    kept = [every[layer] for layer in (0, 2, 4, 7, 9, 11)]
    source.bert.encoder.layer = nn.ModuleList(kept)  # type: ignore[union-attr]
    tokens = torch.arange(12).reshape(2, 6)
    with torch.no_grad():
        wanted, answer = source(tokens).logits, student(tokens).logits
    torch.testing.assert_close(answer, wanted, atol=1e-5, rtol=1e-5)
    assert str(told) == (
        "6 layers of 12 (0, 2, 4, 7, 9, 11) and 9 other tensors copied, none left as they were"
    )


def test_what_has_another_shape_is_left_and_named() -> None:
    source, student = make("gpt2", 4, seed=0), make("gpt2", 2, seed=1, vocab_size=31)
    before = snapshot(student)["transformer.wte.weight"]
    told = copy_layers(source, student, "every_other")
    assert torch.equal(snapshot(student)["transformer.wte.weight"], before)
    assert torch.equal(snapshot(student)["lm_head.weight"], before)
    assert str(told) == (
        "2 layers of 4 (0, 2) and 3 other tensors copied, "
        "1 (transformer.wte.weight ((31, 16), there (30, 16))) left as they were"
    )


def test_a_tied_student_keeps_the_embedding_of_a_teacher_that_is_not() -> None:
    source = make("llama", 4, seed=0, tie_word_embeddings=False)
    student = make("llama", 2, seed=1)
    copy_layers(source, student, "every_other")
    embedding = snapshot(source)["model.embed_tokens.weight"]
    assert torch.equal(snapshot(student)["model.embed_tokens.weight"], embedding)
    assert torch.equal(snapshot(student)["lm_head.weight"], embedding)


def test_a_teacher_of_half_precision_begins_a_student_of_float32() -> None:
    source, student = make("llama", 4, seed=0).bfloat16(), make("llama", 2, seed=1)
    copy_layers(source, student, "last")
    name = "model.layers.1.mlp.up_proj.weight"
    here, there = snapshot(student)[name], snapshot(source)[name.replace("1", "3")]
    assert here.dtype == torch.float32
    assert torch.equal(here, there.float())


def test_settings_that_change_a_layer_are_told() -> None:
    source = make("llama", 4, seed=0, rms_norm_eps=1e-3)
    student = make("llama", 2, seed=1, rope_parameters={"rope_type": "default", "rope_theta": 9.0})
    told = str(copy_layers(source, student, "first"))
    assert told.endswith("\n  its layers are set otherwise: rms_norm_eps, rope_parameters")
    # Every other layer of Gemma 2 has a window.
    told = str(copy_layers(make("gemma2", 4, seed=0), make("gemma2", 2, seed=0), "every_other"))
    assert told.endswith("\n  its layers are set otherwise: layer_types")


@pytest.mark.parametrize(
    ("source", "student", "message"),
    [
        (
            ("llama", {}),
            ("llama", {"hidden_size": 8, "head_dim": 8}),
            "here: model.layers.0.self_attn.q_proj.weight has shape (16, 8), but that of layer 0 "
            "of the model to begin from (16, 16); layers of another shape cannot be copied. Give "
            "the student the same widths, or leave initialise out.",
        ),
        (
            ("llama", {}),
            ("gpt2", {}),
            "here: layers of llama are no layers of gpt2, another architecture. Give both models "
            "the same type (or bert for a student of distilbert), or leave initialise out.",
        ),
        (
            ("gpt2", {}),
            ("gpt2", {"n_head": 4}),
            "here: num_attention_heads is 2 in the model to begin from and 4 in the student, whose "
            "heads would be cut from the same weights otherwise. Give both the same.",
        ),
        (
            ("llama", {"attention_bias": True}),
            ("llama", {}),
            "here: layer 0 cannot become layer 0 of the student: the other's has a tensor "
            "self_attn.k_proj.bias, the student's has not. Only layers that are built alike can be "
            "copied.",
        ),
    ],
    ids=["widths", "architecture", "heads", "biases"],
)
def test_layers_that_do_not_fit_are_refused_and_nothing_is_copied(
    source: tuple[str, Any], student: tuple[str, Any], message: str
) -> None:
    learner = make(student[0], 2, seed=1, **student[1])
    before = snapshot(learner)
    with pytest.raises(ModelError) as caught:
        copy_layers(make(source[0], 4, seed=0, **source[1]), learner, "every_other", where="here")
    assert str(caught.value) == message
    assert all(torch.equal(before[name], value) for name, value in snapshot(learner).items())


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(4, 4), nn.ReLU())


class Tower(nn.Module):
    """A model of the user's own: lists of blocks, and a head."""

    def __init__(self, count: int, **lists: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(count))
        for name, length in lists.items():
            setattr(self, name, nn.Sequential(*(Block() for _ in range(length))))
        self.head = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def test_a_model_of_ones_own_has_one_list_of_layers() -> None:
    source, student = Tower(5), Tower(2)
    told = copy_layers(source, student, "spread")
    name = "blocks.{}.inner.0.weight"
    assert torch.equal(snapshot(student)[name.format(1)], snapshot(source)[name.format(4)])
    assert str(told).startswith("2 layers of 5 (0, 4) and 4 other tensors copied, none left")


@pytest.mark.parametrize(
    ("source", "student", "options", "message"),
    [
        (
            Tower(4, rest=3),
            Tower(2, rest=3),
            {},
            "here.stack: which list of layers is meant? Both models have blocks, rest. Name one: "
            'stack = "blocks".',
        ),
        (
            Tower(4),
            nn.Sequential(nn.Linear(4, 2)),
            {},
            "here: the models have no list of layers in common: the model to begin from has blocks "
            "(4), the student none. Name a list (a torch.nn.ModuleList or Sequential) that both "
            "have under the same name: stack = '...'.",
        ),
        (
            Tower(4),
            Tower(2),
            {"stack": "block"},
            "here.stack: the model to begin from has no list of layers 'block'; it has blocks (4), "
            "blocks.0.inner (2), blocks.1.inner (2), blocks.2.inner (2), blocks.3.inner (2), "
            "head (3).",
        ),
    ],
    ids=["two lists", "none", "no such list"],
)
def test_a_list_of_layers_that_is_not_clear_is_asked_for(
    source: nn.Module, student: nn.Module, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ModelError) as caught:
        copy_layers(source, student, "every_other", where="here", **options)
    assert str(caught.value) == message


def test_a_list_can_be_named() -> None:
    source, student = Tower(4, rest=3), Tower(4, rest=2)
    told = copy_layers(source, student, "every_other", stack="rest")
    there, here = snapshot(source)["rest.2.inner.0.bias"], snapshot(student)["rest.1.inner.0.bias"]
    assert torch.equal(here, there)
    assert str(told).startswith("2 layers of 3 (0, 2) and 12 other tensors copied")


def test_layers_of_a_network_of_a_recipe_are_found(tmp_path: Path) -> None:
    networks = [
        load_network(
            "transformers",
            base=tmp_path,
            where="model",
            config=CONFIGS["llama"] | {"num_hidden_layers": count},
        )
        for count in (4, 2)
    ]
    assert copy_layers(networks[0].model, networks[1].model, "last").layers == (2, 3)
