"""What classes are called, so that it can be seen."""

from pathlib import Path

import pytest
from tiny import make_cache, make_samples

from pipeline.report.names import name_classes, open_decoder, printable, visible
from pipeline.samples.text.tokenizer import BYTES, open_tokenizer


@pytest.mark.parametrize(
    ("text", "shown"),
    [(" the", "␣the"), ("\n", "⏎"), ("\x00a\u202e", "\\x00a\\u202e"), ("é", "é"), ("\t", "\\t")],
    ids=["space", "line", "control", "letter", "tab"],
)
def test_every_sign_of_a_token_can_be_seen(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_text_keeps_its_lines_and_loses_what_no_page_may_hold() -> None:
    assert printable("a b\n\x1b[31m\ud800") == "a b\n\\x1b[31m\\ud800"
    assert printable("\u202egnp.exe") == "\\u202egnp.exe"
    family = "👨\u200d👩\u200d👧 où\xa0?"
    assert printable(family) == family


def about_text(task: str, end: str | None = None) -> dict[str, object]:
    digest = open_tokenizer(base=Path(), where="data", source=BYTES, end=end).digest
    return {
        "class_names": None,
        "recipe": {"cache": {"data": "train"}, "data": {"train": {}}},
        "tokens": {"task": task, "vocabulary": 257, "tokenizer": digest},
    }


@pytest.mark.parametrize("end", [None, "end"])
def test_bytes_are_known_by_their_digest(tmp_path: Path, end: str | None) -> None:
    about = about_text("next_token", end)
    cache = make_cache(tmp_path / "cache", make_samples(9), rows_per_part=4, about=about)
    decode = open_decoder(cache, None)
    name = name_classes(cache, decode)
    assert [name(each) for each in (97, 32, 10, 195, 256)] == [
        *("a", "␣", "⏎", "token 195", "token 256"),
    ]


def test_the_tokens_of_an_unknown_tokenizer_have_numbers(tmp_path: Path) -> None:
    about = about_text("next_token")
    about["tokens"] = {"task": "next_token", "vocabulary": 257, "tokenizer": "another"}
    cache = make_cache(tmp_path / "cache", make_samples(9), rows_per_part=4, about=about)
    assert open_decoder(cache, None) is None
    assert name_classes(cache, None)(97) == "97"


def test_the_classes_of_labelled_text_are_no_tokens(tmp_path: Path) -> None:
    about = about_text("label")
    cache = make_cache(tmp_path / "cache", make_samples(9), rows_per_part=4, about=about)
    assert name_classes(cache, open_decoder(cache, None))(3) == "3"
