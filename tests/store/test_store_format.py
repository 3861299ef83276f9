"""FORMAT.md says what the code does: its examples are sealed and belong together."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import contract
import pytest

import pipeline.store
from pipeline.errors import CorruptPart
from pipeline.store import open_cache
from pipeline.store.documents import canonical, parse_sealed, sealed
from pipeline.store.fields import DTYPES
from pipeline.store.plan import COMPRESSIONS, FORMAT, VERSION, parse_plan, plan_bytes

FORMAT_TEXT = (Path(pipeline.store.__file__).parent / "FORMAT.md").read_text()
NAMES = ["plan.json", "parts/00000.json", "manifest.json"]


def example(name: str) -> bytes:
    """Cut an example out of the document, byte for byte."""
    pattern = rf"<!-- example {re.escape(name)} -->\n```json\n(.*?)```\n<!-- end -->"
    (text,) = re.findall(pattern, FORMAT_TEXT, flags=re.DOTALL)
    return str(text).encode()


@pytest.mark.parametrize("name", NAMES)
def test_example_has_the_keys_that_are_written(name: str, tmp_path: Path) -> None:
    folder = contract.write_cache(tmp_path / "cache", contract.tiny_plan("parquet", "lz4"))
    key = "fingerprint" if name == "plan.json" else "digest"
    documented = parse_sealed(example(name), where=name, key=key)
    written = parse_sealed((folder / name).read_bytes(), where=name, key=key)
    assert {name: type(value) for name, value in documented.items()} == {
        name: type(value) for name, value in written.items()
    }
    assert canonical(documented) == example(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_key_is_explained(name: str) -> None:
    section = FORMAT_TEXT.split(f"### {name.replace('00000', '00017')}")[1].split("<!-- example")[0]
    key = "fingerprint" if name == "plan.json" else "digest"
    explained = {
        word
        for row in re.findall(r"^\| (`.*?) \|", section, flags=re.MULTILINE)
        for word in re.findall(r"`(\w+)`", row)
    }
    assert explained == set(parse_sealed(example(name), where=name, key=key))


@pytest.mark.parametrize(
    "others",
    [
        {},
        {"a": 1},
        {"z": [1, {"seal": 2}]},
        {"a": {"seal": "x"}, "z": 'a "seal": "y",\n  "seal": "z"'},
        {"seal ": 1, "seals": 2},
    ],
    ids=["alone", "last", "first", "between", "alike"],
)
def test_a_seal_is_found_wherever_it_lies(others: dict[str, object]) -> None:
    document = sealed(others, key="seal")
    raw = canonical(document)
    assert parse_sealed(raw, where="here", key="seal") == document
    for changed in ({**document, "more": 1}, {**document, "seal": "0" * 64}, others):
        with pytest.raises(CorruptPart, match="'seal' does not match the other keys"):
            parse_sealed(canonical(changed), where="here", key="seal")


def test_examples_belong_together() -> None:
    plan = parse_plan(example("plan.json"), where="plan.json")
    assert plan_bytes(plan) == example("plan.json")
    record = parse_sealed(example("parts/00000.json"), where="record", key="digest")
    manifest = parse_sealed(example("manifest.json"), where="manifest", key="digest")
    assert record["fingerprint"] == manifest["fingerprint"] == plan.fingerprint
    assert manifest["plan_sha256"] == hashlib.sha256(example("plan.json")).hexdigest()
    assert manifest["records"] == [hashlib.sha256(example("parts/00000.json")).hexdigest()]


def test_values_that_the_code_allows_are_documented() -> None:
    assert " ".join(DTYPES) in FORMAT_TEXT
    assert all(f"`{name}`" in FORMAT_TEXT for name in COMPRESSIONS)
    assert f"Format `{FORMAT}`, **version {VERSION}**" in FORMAT_TEXT


def test_cache_holds_only_what_the_format_names(tmp_path: Path) -> None:
    folder = contract.write_cache(tmp_path / "cache", contract.tiny_plan("parquet"))
    found = {re.sub(r"0000\d", "00017", path) for path in contract.digests(folder)}
    files = {path for path in found if "." in path}
    assert all(path in FORMAT_TEXT for path in files)
    assert len(files) == 6


def test_cache_has_one_digest(tmp_path: Path) -> None:
    first = open_cache(contract.write_cache(tmp_path / "a", contract.tiny_plan()))
    again = open_cache(contract.write_cache(tmp_path / "b", contract.tiny_plan()))
    other = open_cache(contract.write_cache(tmp_path / "c", contract.tiny_plan(about={})))
    assert first.digest == again.digest
    assert first.digest != other.digest


def test_importing_the_store_loads_no_library() -> None:
    script = "import sys, pipeline.store; print([m for m in sys.modules if m in HEAVY])"
    heavy = "HEAVY = {'zarr', 'pyarrow', 'numcodecs', 'torch'}; "
    printed = subprocess.run(
        [sys.executable, "-c", heavy + script], capture_output=True, text=True, check=True
    )
    assert printed.stdout == "[]\n"
