"""The page itself: everything escaped, nothing from elsewhere, names of its own."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE, hostile_evaluation
from tiny import make_cache, make_samples

from pipeline.report.gather import gather
from pipeline.report.given import find_given
from pipeline.report.page import make_page
from pipeline.report.page.pieces import Column, number, table
from pipeline.report.page.plots import draw_curves, draw_shares

VOID = {"meta", "link", "img", "input", "br"}


class Elements(HTMLParser):
    """Collects the elements of a page with their attributes, and checks that they nest."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Make a page of a cache and a run whose every name is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    about: dict[str, Any] = {
        "class_names": list(HOSTILE),
        "recipe": {
            "cache": {"data": "train"},
            "data": {"train": {"kind": HOSTILE[0]}},
            "teacher": {"model": {"kind": HOSTILE[1]}},
        },
    }
    teacher = {"weights": HOSTILE[2], "precision": HOSTILE[3], "batch_size": 1, "threads": 1}
    settings = {"data": {"digest": HOSTILE[4]}, "teacher": {**teacher, "device": HOSTILE[0]}}
    cache = folder / "<b>cache"
    make_cache(cache, make_samples(40), rows_per_part=8, k=5, about=about, settings=settings)
    run = hostile_evaluation(folder / "<i>run")
    return make_page(gather(find_given([str(cache), str(run)], ()), 1, lambda parts: None))


def test_elements_nest_and_hostile_names_are_text(page: str) -> None:
    elements = Elements(page)
    assert elements.open == []
    tags = [tag for tag, _ in elements.found]
    assert tags.count("script") == 1
    assert not {"b", "i", "iframe", "img"} & set(tags)
    assert not any(name.startswith("on") for _, attrs in elements.found for name in attrs)
    for name in (*HOSTILE, "\\x07\\ud800\\u202e"):
        assert name in elements.text
    page.encode()  # what is no sign of Unicode could not be


def test_only_the_pages_own_script_may_run_and_nothing_is_loaded(page: str) -> None:
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(
        attrs["content"]
        for tag, attrs in Elements(page).found
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert policy == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    for _, attrs in Elements(page).found:
        for name in ("src", "href", "xlink:href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)", page)


def test_every_id_is_there_once_and_every_link_leads_to_one(page: str) -> None:
    elements = Elements(page).found
    ids = [attrs["id"] for _, attrs in elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = {(attrs.get("href") or "")[1:] for _, attrs in elements if attrs.get("href")}
    named = {attrs.get("aria-labelledby") for _, attrs in elements} - {None}
    clips = set(re.findall(r"url\(#([^)]+)\)", page))
    assert {*(each for each in links if not each.startswith("ata:")), *named, *clips} <= set(ids)


def test_colours_are_those_of_the_page(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) > 4
    for drawing in drawings:
        assert not re.search(
            r"#[0-9a-f]{6}\b", re.sub(r'(href|id)="[^"]*"|url\([^)]*\)', "", drawing)
        )
        assert re.match(
            r'<svg viewBox="[\d. ]+" role="img" aria-labelledby="(.*?)"><title', drawing
        )
        assert " width=" not in drawing.partition(">")[0]
        assert "<text" in drawing


def test_a_drawing_shows_names_as_they_are() -> None:
    drawn = draw_curves("one", "a < b", {"$x^2$": [(1, 1.0), (2, 3.0)], "&<": [(1, 2.0)]}, label="")
    assert ">$x^2$</text>" in drawn
    assert ">&amp;&lt;</text>" in drawn
    assert '<title id="one-title">a &lt; b</title>' in drawn


@pytest.mark.parametrize(
    "curves",
    [
        {"hint": [(1, 0.4)], "cosine": [(1, 0.6)]},
        {"hint": [(1, 1.0)], "soft_targets": [(2, 0.7), (3, 0.8)], "hard": [(2, 0.3), (3, 0.2)]},
    ],
    ids=["one step", "one after another"],
)
def test_shares_are_drawn_whenever_they_were_measured(
    curves: dict[str, list[tuple[float, float]]],
) -> None:
    drawn = draw_shares("one", "Shares", curves)
    for name in curves:
        assert f">{name}</text>" in drawn


def test_numbers_are_sorted_by_their_value_and_what_is_unknown_has_none() -> None:
    columns = [Column("name"), Column("count", number(0))]
    html = table("Counts", columns, [("a", 1234.0), ("b", None)])
    assert '<td class="number" data-value="1234.0">1,234</td>' in html
    assert '<td class="number">–</td>' in html
    assert 'class="sorts"' in html


def test_the_packaged_style_and_script_are_whole(page: str) -> None:
    folder = Path(__file__).parents[2] / "pipeline/report/page"
    assert (folder / "page.css").read_text() in page
    assert (folder / "page.js").read_text() in page
    for name in ("page.css", "page.js"):
        assert "</" not in (folder / name).read_text()  # would end the element
