"""`pipeline report` on a laboratory: a recipe, a cache or a run in, one page out."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from laboratory import Lab, run_cli
from test_masked import lab as masked  # noqa: F401  # a fixture

from pipeline.errors import PipelineError
from pipeline.experiment import open_viewed
from pipeline.recipe import load_recipe
from pipeline.report.answers import Answers, count_cache
from pipeline.report.gather import gather, write_page
from pipeline.report.given import find_given
from pipeline.samples import views_of
from pipeline.samples.images import encode_png
from pipeline.store import open_cache

ROOT = Path(__file__).parents[2]

TEXT = """\
name = "verses"
[data.train]
kind = "text"
path = "verses.txt"
tokenizer = "bytes"
length = 24
pack = true
[teacher]
batch_size = 4
threads = 1
[teacher.model]
kind = "python"
factory = "models:language_model"
task = "next_token"
arguments = { width = 16, layers = 1 }
[targets]
selection = { kind = "top_k", k = 8 }
[cache]
path = "cache"
rows_per_part = 5
"""


@pytest.fixture(scope="module")
def trained_source(cached_source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the laboratory's student once; tests take copies."""
    folder = tmp_path_factory.mktemp("trained") / "laboratory"
    shutil.copytree(cached_source, folder)
    answer = Lab(folder).train_student("--quiet")
    assert answer.status == 0, answer.stderr
    return folder


@pytest.fixture
def trained(trained_source: Path, tmp_path: Path) -> Lab:
    return Lab(Path(shutil.copytree(trained_source, tmp_path / "lab")))


@pytest.fixture
def verses(tmp_path: Path) -> Lab:
    """Give a cache of a few lines of text, of a teacher that was not trained."""
    lab = Lab(tmp_path / "verses")
    lab.folder.mkdir()
    shutil.copy(ROOT / "data/recipes/models.py", lab.folder)
    text = (ROOT / "data/shakespeare/train/sonnets.txt").read_text().splitlines()[5:25]
    (lab.folder / "verses.txt").write_text("\n".join(text))
    lab.recipe.write_text(TEXT)
    assert lab.cache_teacher("--quiet").status == 0
    return lab


def headings(page: Path) -> list[str]:
    return re.findall(r"<h[234][^>]*>(.*?)</h[234]>", page.read_text())


def test_a_recipe_is_its_cache_its_run_and_its_samples(trained: Lab) -> None:
    page = trained.folder / "page.html"
    answer = run_cli("report", str(trained.recipe), "--out", str(page))
    assert answer.status == 0, answer.stderr
    assert answer.stdout == f"{page}: 1 cache, 1 run; {page.stat().st_size / 1000:,.0f} kB\n"
    assert [each for each in headings(page) if "chip" not in each] == [
        *("What is here", "Run run", "How it learned", "Cache cache", "How sure the teacher is"),
        *("Class by class", "What the teacher finds alike"),
    ]
    text = page.read_text()
    assert text.count("data:image/png;base64,") > 1
    assert '<a href="#cache-1">the cache cache</a>' in text
    assert "<title>Report on tiny</title>" in text


def test_a_cache_and_a_run_stand_for_themselves(trained: Lab) -> None:
    page = trained.folder / "page.html"
    words = ("report", str(trained.cache), str(trained.run), str(trained.cache), "--json")
    answer = run_cli(*words, "--out", str(page))
    assert json.loads(answer.stdout) == {
        "page": str(page),
        "size_bytes": page.stat().st_size,
        "caches": [str(trained.cache)],
        "runs": [str(trained.run)],
        "missing": [],
    }
    text = page.read_text()
    assert "data:image/png" not in text
    assert "Samples are not shown: only a recipe says where data.train lies." in text


def test_the_same_page_comes_out_every_time(trained: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = []
    for cores in (1, 3):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        out = trained.folder / f"{cores}.html"
        assert run_cli("report", str(trained.recipe), "--out", str(out), "--quiet").status == 0
        pages.append(out.read_bytes())
    assert pages[0] == pages[1]


def test_a_bare_cache_is_read_with_a_recipe_that_knows_its_data(trained: Lab) -> None:
    bare = trained.cache.rename(trained.folder / "bare")
    page = trained.folder / "page.html"
    answer = run_cli("report", str(bare), str(trained.recipe), "--out", str(page), "--quiet")
    assert answer.status == 0
    assert page.read_text().count("data:image/png;base64,") > 1


def test_what_is_missing_is_said_and_no_error(cached_lab: Lab) -> None:
    page = cached_lab.folder / "page.html"
    cached_lab.edit('[validation]\ndata = "validation"', '[validation]\ncache = "held-out"')
    answer = run_cli("report", str(cached_lab.recipe), "--out", str(page))
    assert answer.status == 0
    for line in (
        f"recipe.toml: validation.cache: {cached_lab.folder / 'held-out'}: there is no such folder",
        f"recipe.toml: run.path: {cached_lab.run} is not there yet; `pipeline train-student` makes",
    ):
        assert line in answer.stderr
        assert line in page.read_text()


def test_a_recipe_given_after_its_cache_names_what_there_is(cached_lab: Lab) -> None:
    cached_lab.edit('[run]\npath = "run"\n', "")
    answer = run_cli(
        "report", str(cached_lab.cache), str(cached_lab.recipe),
        "--out", str(cached_lab.folder / "p.html"), "--json",
    )  # fmt: skip
    assert json.loads(answer.stdout)["missing"] == []


def test_without_a_cache_and_a_run_there_is_no_page(lab: Lab) -> None:
    answer = run_cli("report", str(lab.recipe), "--out", str(lab.folder / "page.html"))
    assert answer.status == 2
    assert answer.stderr.startswith(
        "error: report: there is no cache and no run to report on\n  recipe.toml: cache.path: "
    )
    assert not (lab.folder / "page.html").exists()


@pytest.mark.parametrize(
    ("target", "said"),
    [("nowhere", "is not there"), (".", "holds neither a cache nor a run"),
     ("train.parquet", "is neither a cache nor a run")],
)  # fmt: skip
def test_a_target_that_is_something_else_is_refused(lab: Lab, target: str, said: str) -> None:
    path = str(lab.folder / target)
    answer = run_cli("report", path, "--out", str(lab.folder / "page.html"))
    assert answer.status == 2
    assert answer.stderr == (
        f"error: {path}: {said}; allowed are a cache (a folder with plan.json, or "
        "s3://bucket/prefix), a run's folder (with recipe.json), a recipe (.toml), and what "
        "`scripts/bench size --json` wrote (.json)\n"
    )


def test_a_page_that_cannot_be_written_is_told(cached_lab: Lab) -> None:
    out = cached_lab.folder / "no" / "page.html"
    answer = run_cli("report", str(cached_lab.cache), "--out", str(out), "--quiet")
    assert answer.status == 2
    assert answer.stderr == (
        f"error: {out}: the folder {out.parent} is not there. Name another file with --out.\n"
    )
    # What changes while the page is made.
    with pytest.raises(PipelineError, match=r"cannot be written \(No such file or directory\)"):
        write_page(out, "page")


def test_a_folder_is_no_page_and_nothing_is_left_in_it(cached_lab: Lab) -> None:
    out = cached_lab.folder / "pages"
    out.mkdir()
    before = sorted(cached_lab.folder.iterdir())
    answer = run_cli("report", str(cached_lab.cache), "--out", str(out), "--quiet")
    assert (answer.status, sorted(cached_lab.folder.iterdir())) == (2, before)
    assert f"{out}: is a folder. Name a file in it, such as {out}/report.html" in answer.stderr


def test_places_with_equal_ends_are_told_apart(trained: Lab) -> None:
    for name in ("one", "two"):
        shutil.copytree(trained.run, trained.folder / name / "run")
    runs = [str(trained.folder / name / "run") for name in ("one", "two")]
    page = trained.folder / "page.html"
    assert run_cli("report", *runs, str(trained.cache), "--out", str(page)).status == 0
    shown = [each for each in headings(page) if each.startswith(("Run", "Cache"))]
    assert shown == [f"Run {runs[0]}", f"Run {runs[1]}", "Cache cache"]


def test_a_damaged_part_is_a_fault(cached_lab: Lab) -> None:
    (damaged,) = cached_lab.cache.glob("targets/00003.zarr/logits/c.0.0")
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x7f")
    answer = run_cli("report", str(cached_lab.cache), "--out", str(cached_lab.folder / "p.html"))
    assert answer.status == 1
    assert "part 3: targets/00003.zarr/logits/c.0.0" in answer.stderr


def test_samples_that_have_changed_are_not_shown(cached_lab: Lab) -> None:
    cached_lab.edit('path = "train.parquet"', 'path = "validation.parquet"')
    page = cached_lab.folder / "page.html"
    assert run_cli("report", str(cached_lab.recipe), "--out", str(page), "--quiet").status == 0
    assert "data:image/png" not in page.read_text()
    assert "is other data than the teacher saw, has changed since" in page.read_text()


def test_data_that_is_gone_is_said_on_the_page(cached_lab: Lab) -> None:
    (cached_lab.folder / "train.parquet").unlink()
    page = cached_lab.folder / "page.html"
    assert run_cli("report", str(cached_lab.recipe), "--out", str(page), "--quiet").status == 0
    assert "Samples are not shown: data.train.path: there is no" in page.read_text()


def test_without_matplotlib_the_extra_is_named(
    cached_lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    answer = run_cli("report", str(cached_lab.cache))
    assert answer.status == 2
    assert "report: needs matplotlib, which is not installed" in answer.stderr
    assert "pip install 'teacher-logit-cache[plots]'" in answer.stderr


def test_the_labels_of_text_are_its_next_tokens(verses: Lab) -> None:
    cache = open_cache(verses.cache)
    _, counts = count_cache(Answers(cache), 2, lambda parts: None)
    told = cache.manifest["statistics"]
    assert counts.labelled == told["labelled"] == counts.positions > 200
    assert counts.classes[3].sum() == told["teacher_right"]
    assert counts.entropy_sum == pytest.approx(told["entropy_sum"], rel=1e-5)
    assert counts.mass_sum[0] == pytest.approx(told["kept_mass_sum"], rel=1e-5)


def test_the_labels_of_masked_text_are_what_was_hidden(
    masked: Lab,  # noqa: F811
) -> None:
    assert masked.cache_teacher("--quiet", "--set", "views.count=2").status == 0
    contents = gather(find_given([str(masked.cache)], ()), 2, lambda parts: None)
    (found,) = contents.caches
    told = found.cache.manifest["statistics"]
    assert found.counts.labelled == told["labelled"] == found.counts.positions > 20
    assert found.counts.classes[3].sum() == told["teacher_right"]
    for example in found.examples:
        assert example.text is not None
        assert example.text.count("▯") == 1


def test_pictures_are_what_the_teacher_saw(lab: Lab) -> None:
    table = '[views]\ncount = 3\n[[views.augment]]\nkind = "shift"\npixels = 2.0\n\n[teacher]'
    lab.edit("[teacher]", table)
    assert lab.cache_teacher("--quiet").status == 0
    contents = gather(find_given([str(lab.recipe)], ()), 1, lambda parts: None)
    samples = open_viewed(load_recipe(lab.recipe), "train")
    examples = contents.caches[0].examples
    assert examples
    for example in examples:
        name, _, view = example.id.partition(", view ")
        index = samples.ids(0, len(samples)).index(name)
        shown = views_of(samples).show(samples.read([index]), np.array([int(view or 0)]))
        assert example.picture == encode_png(shown.inputs[0])
    assert any("view" in example.id for example in examples)


def test_tokens_have_names_and_examples_what_comes_before_them(verses: Lab) -> None:
    contents = gather(find_given([str(verses.cache)], ()), 1, lambda parts: None)
    (found,) = contents.caches
    assert found.notes == []
    text = (verses.folder / "verses.txt").read_text()
    for example in found.examples:
        assert example.text is not None
        before, label = example.text.removeprefix("… ").removesuffix("▯"), example.label
        assert label is not None
        assert before + label.replace("␣", " ").replace("⏎", "\n") in text
