"""Reports in a real browser: nothing goes wrong, nothing is loaded, everything can be seen."""

import base64
import hashlib
import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hostile import HOSTILE, write_evaluation
from laboratory import Lab, options, run_cli

pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
LOOKING = (Path(__file__).parent / "looking.js").read_text()
NARROW, WIDE = 400, 1600
# A window is never as narrow as a telephone, a frame may be.
FRAME = """<!doctype html><meta charset="utf-8"><style>:root {{ color-scheme: light dark }}
body {{ margin: 0 }} iframe {{ border: 0; width: {width}px; height: 900px }}</style><script>
addEventListener("message", (told) => {{
  const place = document.createElement("pre");
  place.id = "seen";
  place.textContent = told.data;
  document.body.replaceChildren(place);
}});</script><body><iframe srcdoc="{page}"></iframe></body>"""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr"),
)
# A digits student and a language model of a few steps, of little text.
VERSES = ("data.train.subset={ count = 100 }", "data.validation.subset={ count = 20 }")
SHORT = {
    "digits-teacher": ("training.epochs=2",),
    "digits": ("training.steps=100", "training.evaluate_every=20", "training.log_every=5"),
    "shakespeare-teacher": ("training.epochs=2", "training.warmup_steps=1", *VERSES),
    "shakespeare": ("training.epochs=2", "training.warmup_steps=1", *VERSES),
}

# Of real data and a real teacher, where they are there: what tells, and what makes it short.
FASHION = Path("/usr/share/datasets/fashion-mnist")
IMAGES = ("data.train.subset={ count = 500 }", "data.test.subset={ count = 200 }")
ROWS = ("data.train.subset.count=6", "data.validation.subset.count=2", "targets.tail.positions=512")
REAL = {
    "fashion": (FASHION, ("training.epochs=2", "training.warmup_steps=0", *IMAGES)),
    "smollm2": (ROOT / "data/assets/smollm2", ("training.warmup_steps=0", *ROWS)),
}


def made(*arguments: str) -> None:
    answer = run_cli(*arguments, "--quiet")
    assert answer.status == 0, answer.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make two reports, of digits and of text."""
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(ROOT / "data", folder / "data", ignore=shutil.ignore_patterns("assets"))
    for name, values in SHORT.items():
        recipe = str(folder / f"data/recipes/{name}.toml")
        if not name.endswith("teacher"):
            made("cache-teacher", recipe, *options(*(v for v in values if v.startswith("data"))))
        made("train-student", recipe, *options(*values))
    for name in ("digits", "shakespeare"):
        recipe = str(folder / f"data/recipes/{name}.toml")
        of_text = VERSES if name == "shakespeare" else ()
        made("evaluate", recipe, *options("evaluate.rounds=1", *of_text))
        made("report", recipe, "--out", str(folder / f"{name}.html"))
    return folder


@pytest.fixture
def hostile(cached_source: Path, tmp_path: Path) -> Path:
    lab = Lab(Path(shutil.copytree(cached_source, tmp_path / "lab")))
    shutil.rmtree(lab.cache)
    names = f"class_names = {json.dumps(HOSTILE)}"
    lab.edit('path = "train.parquet"', f'path = "train.parquet"\n{names}')
    made("cache-teacher", str(lab.recipe))
    made("train-student", str(lab.recipe))
    write_evaluation(lab.run)
    page = tmp_path / "hostile.html"
    made("report", str(lab.recipe), "--out", str(page))
    return page


def browse(page: Path, profile: Path, *flags: str) -> tuple[str, list[str]]:
    """Open a page; gives its document as it is then, and what the console was told."""
    command = ["chromium", *FLAGS, f"--user-data-dir={profile}", f"--window-size={WIDE},900"]
    ended = subprocess.run(
        [*command, *flags, "--virtual-time-budget=5000", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        # Its driver for hardware that is not there would warn.
        env={**os.environ, "LIBGL_ALWAYS_SOFTWARE": "1"},
    )
    return ended.stdout, [line for line in ended.stderr.splitlines() if "CONSOLE" in line]


def look(page: Path, tmp_path: Path, width: int, *flags: str) -> dict[str, Any]:
    """Open a page so wide, with one more script that may run there; gives what that script saw."""
    digest = base64.b64encode(hashlib.sha256(LOOKING.encode()).digest()).decode()
    text = page.read_text()
    opened = text.replace("script-src ", f"script-src 'sha256-{digest}' ".replace("'", "&#x27;"), 1)
    assert opened != text
    inner = opened.replace("</body>", f"<script>{LOOKING}</script></body>")
    copy = tmp_path / "copy.html"
    copy.write_text(FRAME.format(width=width, page=html.escape(inner)))
    dom, told = browse(copy, tmp_path / f"profile-{width}", *flags)
    assert told == []
    (found,) = re.findall(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    seen: dict[str, Any] = json.loads(html.unescape(found))
    return seen


@pytest.mark.parametrize("name", ["digits", "shakespeare"])
def test_the_console_has_nothing_to_say(folder: Path, name: str, tmp_path: Path) -> None:
    dom, told = browse(folder / f"{name}.html", tmp_path / "profile")
    assert told == []
    assert "<button" in dom  # the page's own script has run


@pytest.mark.parametrize("name", REAL)
def test_reports_of_real_data_are_seen_as_well(folder: Path, name: str, tmp_path: Path) -> None:
    needed, values = REAL[name]
    if not needed.is_dir():
        pytest.skip(f"needs {needed}")
    (folder / "data/assets").unlink(missing_ok=True)
    (folder / "data/assets").symlink_to(ROOT / "data/assets")
    recipe = str(folder / f"data/recipes/{name}.toml")
    data = options(*(value for value in values if not value.startswith("training")))
    if name == "fashion":
        made("train-student", str(folder / "data/recipes/fashion-teacher.toml"), *options(*values))
    else:
        held_out = options("cache.data=validation", "cache.path=../../caches/smollm2-validation")
        made("cache-teacher", recipe, *data, *held_out)
    made("cache-teacher", recipe, *data)
    made("train-student", recipe, *options(*values))
    made("evaluate", recipe, *data, *options("evaluate.rounds=1", "evaluate.batch_size=2"))
    page = folder / f"{name}.html"
    made("report", recipe, *data, "--out", str(page))
    for width in (NARROW, WIDE):
        seen = look(page, tmp_path, width)
        assert seen["wide"] <= width
        assert seen["outside"] == seen["loaded"] == []
        assert len(seen["drawings"]) >= 5
        assert all(each["width"] > 250 and each["title"] for each in seen["drawings"])
    _, told = browse(page, tmp_path / "profile")
    assert told == []


@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize(("name", "drawings"), [("digits", 9), ("shakespeare", 9)])
def test_every_drawing_is_seen_and_nothing_overflows(
    folder: Path, name: str, drawings: int, width: int, tmp_path: Path
) -> None:
    seen = look(folder / f"{name}.html", tmp_path, width)
    assert seen["width"] == width
    assert seen["wide"] <= width
    assert seen["outside"] == []
    assert seen["loaded"] == []
    assert len(seen["drawings"]) >= drawings
    for each in seen["drawings"]:
        assert each["width"] > 250
        assert each["height"] > 100
        assert each["title"]
        assert each["letters"] > 7
    assert all(size > 0 for size in seen["pictures"])
    assert bool(seen["pictures"]) == (name == "digits")


def test_tables_are_sorted_and_filtered(folder: Path, tmp_path: Path) -> None:
    seen = look(folder / "digits.html", tmp_path, WIDE)
    digits = [str(each) for each in range(10)]
    assert seen["rising"] == {"order": "ascending", "values": digits}
    assert seen["falling"] == {"order": "descending", "values": digits[::-1]}
    assert seen["counts"]["order"] == "descending"
    counts = [int(each.replace(",", "")) for each in seen["counts"]["values"]]
    assert counts == sorted(counts, reverse=True)
    (wanted, *_), told = seen["filtered"]["shown"], seen["filtered"]["told"]
    assert told == f"{len(seen['filtered']['shown'])} of 10 rows"
    assert wanted in digits
    assert 0 < len(seen["filtered"]["shown"]) <= seen["filtered"]["all"] == 10


def test_a_hostile_name_is_text(hostile: Path, tmp_path: Path) -> None:
    seen = look(hostile, tmp_path, NARROW)
    assert seen["hostile"] == "undefined"
    assert seen["wide"] <= NARROW
    assert seen["outside"] == []
    assert seen["loaded"] == []
    for name in HOSTILE:
        assert name in seen["text"].replace("\u200b", "")
    assert sorted(seen["rising"]["values"]) == sorted(HOSTILE)


@pytest.mark.parametrize(
    ("flags", "is_dark"), [((), False), (("--blink-settings=preferredColorScheme=0",), True)]
)
def test_letters_are_light_on_dark_and_dark_on_light(
    folder: Path, tmp_path: Path, flags: tuple[str, ...], is_dark: bool
) -> None:
    seen = look(folder / "digits.html", tmp_path, WIDE, *flags)
    for color in (seen["ink"], seen["line"]):
        brightness = sum(map(int, re.findall(r"\d+", color)[:3])) / 3
        assert (brightness > 128) == is_dark


def test_a_chromium_is_there() -> None:
    assert shutil.which("chromium"), "install it: apt-get install chromium"
