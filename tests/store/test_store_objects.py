"""Caches in an object store: the same bytes, whoever dies and whatever is lost on the way."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import uuid4

import contract
import pytest

from loopback import BUCKET, Faults, environment, object_store, proxy
from pipeline.errors import CacheError, CorruptPart, IncompleteCache
from pipeline.store import claim_part, find_faults, open_cache, write_plan
from pipeline.store.places import as_place, leases
from pipeline.store.places import bucket as bucket_module
from pipeline.store.places.bucket import Bucket

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with object_store() as port:
        yield port


@pytest.fixture
def url(port: int, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in environment(port).items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid4().hex}/cache"


def bucket(url: str) -> Bucket:
    place = as_place(url)
    assert isinstance(place, Bucket)
    return place


def behind(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")


@pytest.mark.parametrize("kind", contract.KINDS, ids="-".join)
def test_objects_are_the_bytes_of_a_folder(kind: tuple[str, str], url: str, tmp_path: Path) -> None:
    plan = contract.tiny_plan(*kind)
    contract.write_cache(url, plan)
    contract.write_cache(tmp_path / "cache", plan)
    place, folder = as_place(url), as_place(tmp_path / "cache")
    assert place.files("") == folder.files("")
    for path in place.files(""):
        assert place.read(path).tobytes() == folder.read(path).tobytes()
    cache = open_cache(url)
    for part in range(plan.part_count):
        there = open_cache(tmp_path / "cache").read_part(part)
        for name, array in cache.read_part(part).items():
            assert array.tobytes() == there[name].tobytes()
        assert cache.read_samples(part).ids == open_cache(tmp_path / "cache").read_samples(part).ids


def test_a_whole_cache_has_no_faults_and_damage_is_named(url: str) -> None:
    contract.write_cache(url, contract.tiny_plan())
    assert find_faults(url) == []
    place = bucket(url)
    path = "targets/00001.zarr/logits/c.0.0"
    content = bytearray(place.read(path).tobytes())
    content[3] ^= 1
    place.put(path, bytes(content), name="")
    place.remove("samples/00002.parquet")
    place.put("targets/00000.zarr/surplus", b"x", name="")
    place.put("notes.txt", b"x", name="")
    assert [str(fault) for fault in find_faults(url)] == [
        "notes.txt: does not belong to this cache",
        "part 0: targets/00000.zarr/surplus: does not belong to this cache",
        f"part 1: {path}: its checksum differs: a byte was changed",
        "part 2: samples/00002.parquet: is missing",
    ]
    with pytest.raises(CorruptPart, match=r"part 1: .*its checksum differs"):
        open_cache(url).read_part(1)


def test_what_is_missing_is_said(url: str) -> None:
    with pytest.raises(CacheError, match=r"there is no such folder. Name the folder of a cache"):
        open_cache(url)
    plan = contract.tiny_plan()
    write_plan(url, plan)
    contract.write_part(url, plan, 1)
    with pytest.raises(IncompleteCache, match=r"2 of 3 parts are missing \(0, 2\)"):
        open_cache(url)
    bucket(f"{url}-other").put("letter.txt", b"x", name="")
    with pytest.raises(CacheError, match=r"cache-other: holds letter.txt and is not a cache"):
        write_plan(f"{url}-other", plan)


def test_a_part_is_claimed_once(url: str) -> None:
    write_plan(url, contract.tiny_plan())
    claimed = list[bool]()

    def try_to_claim() -> None:
        with claim_part(url, 1) as is_ours:
            claimed.append(is_ours)

    with claim_part(url, 1) as is_ours:
        assert is_ours
        thread = threading.Thread(target=try_to_claim)
        thread.start()
        thread.join()
    try_to_claim()
    assert claimed == [False, True]
    assert as_place(url).files(".scratch") == []


HOLD = """\
import sys, time
from pipeline.store import claim_part
with claim_part(sys.argv[1], 1) as is_ours:
    print(is_ours, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(url: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that holds part 1 of a planned cache."""
    write_plan(url, contract.tiny_plan())
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_dead_process_of_this_machine_is_known_to_be_dead(
    url: str, holder: "subprocess.Popen[str]"
) -> None:
    with claim_part(url, 1) as is_ours:
        assert not is_ours
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with claim_part(url, 1) as is_ours:
        assert is_ours
    assert as_place(url).files(".scratch") == []


def test_a_lease_of_another_machine_is_taken_over_once_nobody_renews_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "LEASE_S", 0.4)
    write_plan(url, contract.tiny_plan())
    place = bucket(url)
    owner = {"boot": "another", "space": "", "pid": 1, "started": "1"}
    for renewal in range(3):
        place.put(".scratch/00001.0.lease", json.dumps({**owner, "n": renewal}).encode(), name="")
        time.sleep(0.2)
        with claim_part(url, 1) as is_ours:
            assert not is_ours
    time.sleep(0.5)
    with claim_part(url, 1) as is_ours:
        assert is_ours
        assert place.files(".scratch") == ["00001.0.lease", "00001.1.lease"]
    assert place.files(".scratch") == []


class Slow:
    """A client whose writes of what is there already take their time."""

    def __init__(self, client: Any, begun: threading.Event) -> None:
        self.client, self.begun = client, begun

    def put(self, path: str, content: bytes, **options: Any) -> Any:
        if "mode" not in options:
            self.begun.set()
            time.sleep(0.3)
        return self.client.put(path, content, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)


def test_a_renewal_on_its_way_brings_no_lease_back(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.01)
    begun = threading.Event()
    held = leases.Leases(Slow(bucket(url).client, begun))
    with held.claim("00001", wait=False, told=nullcontext) as is_mine:
        assert is_mine
        assert begun.wait(5)
    time.sleep(0.5)
    assert as_place(url).files(".scratch") == []


def test_a_lease_that_a_dead_process_wrote_last_is_swept_away(url: str) -> None:
    place = as_place(url)
    with place.claim("00001"):
        owner = json.loads(place.read(".scratch/00001.0.lease").tobytes())
    gone = json.dumps({**owner, "started": "0"}).encode()
    place.put(".scratch/00001.3.lease", gone, name="")
    place.sweep()
    assert place.files(".scratch") == []


def test_a_holder_renews_its_lease(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "RENEW_S", 0.05)
    write_plan(url, contract.tiny_plan())
    with claim_part(url, 1):
        first = as_place(url).read(".scratch/00001.0.lease").tobytes()
        time.sleep(0.5)
        assert as_place(url).read(".scratch/00001.0.lease").tobytes() != first
    time.sleep(0.2)
    assert as_place(url).files(".scratch") == []


def test_writers_at_once_share_the_parts(url: str) -> None:
    plan = contract.tiny_plan(rows=24, rows_per_part=2)
    made = [list[int]() for _ in range(3)]

    def work(number: int) -> None:
        made[number] += contract.share_cache(url, plan, 0.01)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(part for parts in made for part in parts) == list(range(12))
    assert find_faults(url) == []


@pytest.mark.parametrize("share", [0.01, 0.08])
def test_lost_and_refused_requests_change_nothing(
    share: float, url: str, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults, plan = Faults(share), contract.tiny_plan(rows=18)
    with proxy(port, faults) as between:
        behind(monkeypatch, between)
        contract.write_cache(f"{url}-{share}", plan)
        assert find_faults(f"{url}-{share}") == []
        digest = open_cache(f"{url}-{share}").digest
    assert digest == open_cache(contract.write_cache(tmp_path / "cache", plan)).digest
    assert faults.counts["passed"] > 100
    assert share < 0.05 or len(faults.counts) == 4


def test_refused_credentials_are_one_clear_error(
    url: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(port, Faults(is_refusing=True)) as between:
        behind(monkeypatch, between)
        for ask in (open_cache, lambda place: write_plan(place, contract.tiny_plan())):
            with pytest.raises(CacheError) as caught:
                ask(f"{url}-refused")
            assert str(caught.value) == (
                f"{url}-refused: the store refuses these credentials (InvalidAccessKeyId). Set "
                "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (and AWS_SESSION_TOKEN) to ones that "
                "may read and write there."
            )


def test_a_missing_bucket_is_one_clear_error(url: str) -> None:
    for ask in (open_cache, lambda place: write_plan(place, contract.tiny_plan())):
        with pytest.raises(CacheError) as caught:
            ask("s3://nobodys/cache")
        assert str(caught.value) == (
            "s3://nobodys/cache: there is no such bucket. Make it, or name another one."
        )


def test_a_store_without_conditional_writes_is_refused_and_can_be_read(
    url: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = contract.tiny_plan()
    contract.write_cache(url, plan)
    with proxy(port, Faults(is_weak=True)) as between:
        behind(monkeypatch, between)
        with pytest.raises(CacheError) as caught:
            write_plan(f"{url}-weak", plan)
        assert str(caught.value) == (
            f"{url}-weak: this store does not honour `If-None-Match: *`, so it cannot keep two "
            "writers apart. Cache into a folder and copy it there when it is complete: what reads "
            "it needs no such writes."
        )
        assert as_place(f"{url}-weak").files("") == []


def test_an_address_where_nothing_answers_is_told_in_seconds(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy(0, Faults()) as closed:
        pass
    behind(monkeypatch, closed)
    started = time.monotonic()
    with pytest.raises(CacheError, match=r"the store does not answer as it should: .*\n.*AWS_END"):
        open_cache(f"{url}-nowhere")
    assert time.monotonic() - started < bucket_module.RETRY_S / 2


def test_a_store_that_is_away_for_seconds_is_waited_for(
    url: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = contract.tiny_plan()
    contract.write_cache(url, plan)
    faults = Faults()
    with proxy(port, faults) as between:
        behind(monkeypatch, between)
        cache = open_cache(f"{url}/.")  # of another name, so that it is another client
        faults.share, faults.kinds = 1.0, ("lost before",)
        back = threading.Timer(4, setattr, (faults, "share", 0.0))
        back.start()
        assert cache.read_part(0)
        back.join()
    assert faults.counts["lost before"] > 1


@pytest.mark.parametrize("wrong", ["s3://bucket", "s3:///x", "gs://bucket/x", "http://x/y"])
def test_other_addresses_are_refused(wrong: str) -> None:
    with pytest.raises(CacheError, match="is no place of a cache; give a path, or s3://BUCKET/PRE"):
        open_cache(wrong)


def test_without_obstore_the_extra_is_named(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(CacheError, match=r"pip install 'teacher-logit-cache\[s3\]'"):
        open_cache(f"{url}-without")


def test_a_forked_process_is_told_what_to_do(url: str) -> None:
    contract.write_cache(url, contract.tiny_plan())
    place = bucket(url)
    stranger = Bucket(place.url, place.client, place.leases, place.process + 1, place.greet)
    with pytest.raises(CacheError, match="a forked process cannot use its parent's connections"):
        stranger.read("plan.json")
