"""The shard reader: order, pairing, hostile content, workers; pictures carry numbers, so a wrong pairing shows."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import ShardError, UserError
from jobs.shards import decoding
from jobs.shards import samples as samples_module
from jobs.shards.decoding import default_workers
from jobs.shards.reader import Batch, ShardEnd, ShardReader
from jobs.shards.reading import batches, in_processes
from jobs.shards.samples import Sample
from jobs.shards.shard_bytes import parts_sha256
from jobs.shards.urls import Shard
from tests.support.shard_files import Member, image_bytes, number_of, sample_members, tar_bytes, write_tar

SIZE = (16, 8)


def shard_of(path: Path, name: str = "s-0") -> Shard:
    return Shard(name=name, url=str(path), size=None)


def reader(batch_size: int = 4, workers: int = 0, **options: int) -> ShardReader:
    return ShardReader(image_size=SIZE, batch_size=batch_size, workers=workers, **options)  # type: ignore[arg-type]


def read_one(path: Path, name: str = "s-0", **options: int) -> tuple[list[Sample], torch.Tensor, ShardEnd]:
    """All samples and all good images of one shard, and its end."""
    samples, images = [], []
    with reader(**options) as shards:
        items = list(shards.read([shard_of(path, name)]))
    for batch in items[:-1]:
        assert isinstance(batch, Batch) and len(batch.images) == sum(s.status == "ok" for s in batch.samples)
        samples += batch.samples
        images.append(batch.images)
    assert isinstance(items[-1], ShardEnd)
    return samples, torch.cat(images) if images else torch.empty(0), items[-1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> list[Shard]:
    folder = tmp_path_factory.mktemp("shards")
    found = []
    for number, count in enumerate([5, 0, 9, 1]):
        numbers = [100 * number + i for i in range(count)]
        members = [m for n in numbers for m in sample_members(f"{n:04d}_c1s1_000001_00", image_bytes(n), pid=n)]
        found.append(shard_of(write_tar(folder / f"s-{number}.tar", members), f"s-{number}"))
    return found


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batches_come_in_order_and_never_mix_shards(shards: list[Shard], workers: int) -> None:
    with reader(batch_size=4, workers=workers) as source:
        items = list(source.read(iter(shards)))
    shape = [(item.shard.name, len(item.samples) if isinstance(item, Batch) else "end") for item in items]
    assert shape == [
        ("s-0", 4), ("s-0", 1), ("s-0", "end"), ("s-1", "end"),
        ("s-2", 4), ("s-2", 4), ("s-2", 1), ("s-2", "end"), ("s-3", 1), ("s-3", "end"),
    ]  # fmt: skip
    for item in items:
        if isinstance(item, Batch):
            assert item.images.dtype == torch.uint8 and item.images.shape[1:] == (3, *SIZE)
            assert [number_of(image.numpy()) for image in item.images] == [s.pid for s in item.samples]
        else:
            assert item.error is None and item.seconds >= 0 and item.bytes_read >= 1024


def test_rows_have_all_that_names_and_json_say(tmp_path: Path) -> None:
    key = "0007_c3s2_000451_03"
    picture = image_bytes(7, (40, 20))
    members = [(f"d/{key}.JPG", picture), ("0008_c2_f0000009.png", image_bytes(8, form="PNG"))]
    members += [("x.json", json.dumps({"pid": 5, "camid": None, "split": "mine"}).encode()), ("x.jpeg", picture)]
    path = write_tar(tmp_path / "query-3.tar", members)
    (market, duke, other), _, _ = read_one(path, "query-3")
    assert market == Sample(
        key=f"d/{key}", tar_index=0, pid=7, camid=2, seq=2, frame=451, split="query", width=20, height=40,
        image_offset=512, image_size=len(picture), image_crc32=zlib.crc32(picture),
    )  # fmt: skip
    assert (duke.pid, duke.camid, duke.frame, duke.tar_index) == (8, 1, 9, 1)
    assert (other.pid, other.camid, other.split) == (5, None, "mine")
    whole = path.read_bytes()
    assert whole[other.image_offset :][: other.image_size] == picture


def test_who_is_on_an_image_is_what_the_json_says_or_the_default(tmp_path: Path) -> None:
    cases: list[tuple[str, dict[str, object], tuple[str | None, str | None]]] = [
        ("0002_c1s1_000001_00", {}, ("person", "0002")),
        ("0000_c1s1_000002_00", {}, ("distractor", None)),
        ("-1_c1s1_000003_00", {}, ("junk", None)),
        ("0000_000_01_0303morning_0015_0", {}, ("person", "0000")),
        ("0000_000_01_0303morning_0016_0", {"role": "person", "identity": "test/0"}, ("person", "test/0")),
        ("a", {"pid": 3, "role": "distractor", "identity": None}, ("distractor", None)),
        ("b", {"identity": "anna"}, ("person", "anna")),
        ("c", {"pid": 3, "role": None, "identity": None}, ("person", "0003")),
        ("d", {"pid": 3, "role": "junk", "identity": "3"}, ("junk", None)),
        ("e", {}, (None, None)),
    ]
    path = write_tar(
        tmp_path / "a.tar", [m for key, note, _ in cases for m in sample_members(key, image_bytes(), **note)]
    )
    samples, _, _ = read_one(path)
    assert [(s.key, s.status, (s.role, s.identity)) for s in samples] == [(key, "ok", who) for key, _, who in cases]


def link(name: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    return out.getvalue()[:512]


GOOD: list[Member] = [("0001_c1s1_000001_00.jpg", image_bytes(1))]
# What a shard holds beside one good image -> the status and words of the row that it must become (None: no row).
BAD: dict[str, tuple[list[Member], str | None, str]] = {
    "corrupt": ([("k.jpg", image_bytes(2)[:20] + b"?" * 300)], "image_corrupt", "no image format"),
    "truncated": ([("k.jpg", image_bytes(2)[:-40])], "image_corrupt", "runcated"),
    "empty": ([("k.jpg", b"")], "image_corrupt", "empty file"),
    "text": ([("k.jpg", b"hello")], "image_corrupt", "no image format"),
    "gigantic": ([("k.png", image_bytes(2, (300, 400), "PNG"))], "image_too_large", "400x300 pixels"),
    "no image": ([("k.json", b'{"pid": 3}')], "image_missing", "k.json"),
    "two images": ([("k.jpg", image_bytes(2)), ("k.png", image_bytes(3, form="PNG"))], "image_ambiguous", "k.png"),
    "duplicate": (GOOD, "duplicate_key", "came before"),
    "not json": ([("k.json", b"{pid: 1"), ("k.jpg", image_bytes(2))], "metadata_invalid", "is not JSON"),
    "json list": ([("k.json", b"[1]"), ("k.jpg", image_bytes(2))], "metadata_invalid", "is list, not an object"),
    "json text pid": ([("k.json", b'{"pid": "3"}'), ("k.jpg", image_bytes(2))], "metadata_invalid", "pid is '3'"),
    "json bool": ([("k.json", b'{"camid": true}'), ("k.jpg", image_bytes(2))], "metadata_invalid", "camid is True"),
    "json role": ([("k.json", b'{"role": "human"}'), ("k.jpg", image_bytes(2))], "metadata_invalid",
                  "role is 'human', expected person, distractor, junk or null"),
    "json role list": ([("k.json", b'{"role": []}'), ("k.jpg", image_bytes(2))], "metadata_invalid", "role is []"),
    "json identity": ([("k.json", b'{"identity": 3}'), ("k.jpg", image_bytes(2))], "metadata_invalid",
                      "identity is 3, expected a string that is not empty, or null"),
    "json no identity": ([("k.json", b'{"identity": ""}'), ("k.jpg", image_bytes(2))], "metadata_invalid",
                         "identity is ''"),
    "json identity, no text": ([("k.json", b'{"identity": "\\udc80"}'), ("k.jpg", image_bytes(2))], "metadata_invalid",
                               "which is not text"),
    "json float": ([("k.json", b'{"pid": 1.5}'), ("k.jpg", image_bytes(2))], "metadata_invalid", "pid is 1.5"),
    "json huge": ([("k.json", b'{"camid": 9999999999}'), ("k.jpg", image_bytes(2))], "metadata_invalid", "camid"),
    "json split": ([("k.json", b'{"split": 3}'), ("k.jpg", image_bytes(2))], "metadata_invalid", "split is 3"),
    "json nesting": ([("k.json", b"[" * 99999), ("k.jpg", image_bytes(2))], "metadata_invalid", "k.json"),
    "dots": ([("../../k.jpg", image_bytes(2))], "name_unsafe", "leads out"),
    "absolute": ([("/etc/k.jpg", image_bytes(2))], "name_unsafe", "leads out"),
    "lone text": ([("README.txt", b"x")], None, ""),
    "mac": ([("._k.jpg", b"x")], None, ""),
    "hidden meta": ([("__meta__.json", b"x")], None, ""),
    "mask beside": ([("k.mask.png", image_bytes(3, form="PNG"))], None, ""),
    "no extension": ([("k", b"x")], None, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("first", [True, False])
def test_bad_samples_become_rows_and_the_rest_goes_on(tmp_path: Path, case: str, first: bool) -> None:
    members, status, words = BAD[case]
    if case == "duplicate":
        members = [("9999_c1s1_000001_00.jpg", image_bytes(4)), *members]
    order = [*members, *GOOD] if first and case != "duplicate" else [*GOOD, *members]
    samples, images, end = read_one(write_tar(tmp_path / "s.tar", order), max_image_pixels=100_000)
    assert end.error is None
    bad = [s for s in samples if s.status != "ok"]
    assert [s.status for s in bad] == ([status] if status else [])
    if status:
        assert words in (bad[0].error or "") and bad[0].key
    assert 1 in [number_of(image.numpy()) for image in images]
    assert [s.tar_index for s in samples] == list(range(len(samples)))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "s.tar").write_bytes(link("k.jpg") + tar_bytes(GOOD))
    samples, images, _ = read_one(tmp_path / "s.tar")
    assert [s.status for s in samples] == ["not_a_file", "ok"] and len(images) == 1


@pytest.mark.parametrize(
    ("form", "mode"), [("JPEG", "L"), ("JPEG", "CMYK"), ("PNG", "P"), ("PNG", "RGBA"), ("WEBP", "RGB"), ("BMP", "RGB")]
)
def test_every_kind_of_image_is_read(tmp_path: Path, form: str, mode: str) -> None:
    members = [(f"k.{form.lower()}", image_bytes(91, form=form, mode=mode))]
    samples, images, _ = read_one(write_tar(tmp_path / "s.tar", members))
    assert samples[0].status == "ok" and images.shape == (1, 3, *SIZE)
    if mode not in ("L", "P"):
        assert number_of(images[0].numpy()) == 91


def test_junk_and_unnamed_images_are_rows_too(tmp_path: Path) -> None:
    members = [
        ("-1_c1s1_000001_00.jpg", image_bytes(1)),
        ("人.jpg", image_bytes(2)),
        ("x" * 250 + ".jpg", image_bytes(3)),
    ]
    samples, images, _ = read_one(write_tar(tmp_path / "s.tar", members))
    assert [(s.status, s.pid) for s in samples] == [("ok", -1), ("ok", None), ("ok", None)]
    assert samples[1].key == "人" and len(images) == 3


def test_a_broken_shard_ends_with_its_error_and_the_next_one_follows(tmp_path: Path, shards: list[Shard]) -> None:
    (tmp_path / "b.tar").write_bytes(Path(shards[2].url).read_bytes()[:4096])
    with reader(batch_size=2) as source:
        items = list(source.read([shard_of(tmp_path / "b.tar", "b"), shard_of(tmp_path / "no.tar", "no"), shards[0]]))
    ends = {item.shard.name: item.error for item in items if isinstance(item, ShardEnd)}
    assert isinstance(ends["b"], ShardError) and "b: " in str(ends["b"])
    assert "no: " in str(ends["no"]) and "No such file" in str(ends["no"])
    assert ends["s-0"] is None
    assert sum(len(i.samples) for i in items if isinstance(i, Batch) and i.shard.name == "s-0") == 5


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_sequence_of_members_and_no_truncation_crashes_or_pairs_wrongly(tmp_path: Path, data: st.DataObject) -> None:
    """Image and metadata carry the key's number: whatever is read must agree, or be a row or error that says so."""
    kinds = {
        "jpg": lambda n: image_bytes(n, (8, 8)),
        "png": lambda n: image_bytes(n, (8, 8), "PNG"),
        "json": lambda n: json.dumps({"pid": n}).encode(),
        "txt": lambda n: b"%d" % n,
    }
    picked = data.draw(st.lists(st.tuples(st.integers(0, 6), st.sampled_from([*kinds, "bad"])), max_size=12))
    members = [(f"{n}.json", b"{") if kind == "bad" else (f"{n}.{kind}", kinds[kind](n)) for n, kind in picked]
    whole = tar_bytes(members)
    needed = len(tar_bytes(members, end=False)) + 1024
    cut = data.draw(st.one_of(st.none(), st.integers(0, needed - 1)))
    path = tmp_path / "s.tar"
    path.write_bytes(whole if cut is None else whole[:cut])
    samples, images, end = read_one(path, batch_size=data.draw(st.integers(1, 5)))
    good = [s for s in samples if s.status == "ok"]
    assert [number_of(image.numpy()) for image in images] == [int(s.key) for s in good]
    for sample in good:
        assert sample.pid in (None, int(sample.key))
        found = whole[sample.image_offset :][: sample.image_size or 0]
        assert found in (kinds["jpg"](int(sample.key)), kinds["png"](int(sample.key)))
    if cut is None:
        assert end.error is None
        runs = [(n, [kind for _, kind in run]) for n, run in itertools.groupby(picked, key=lambda p: p[0])]
        wanted = [str(n) for n, run in runs if set(run) != {"txt"}]
        assert [s.key for s in samples] == wanted
        assert all(s.error for s in samples if s.status != "ok")
    else:
        assert end.error is not None and "s-0" in str(end.error)


def processes_of(source: ShardReader) -> list[int]:
    """The process that reads, and those that decode."""
    assert isinstance(source._source, in_processes.InProcesses)
    return [process.pid or 0 for process in source._source.processes]


def test_leaving_early_stops_thread_and_processes(shards: list[Shard]) -> None:
    started = time.monotonic()
    with reader(batch_size=1, workers=2) as source:
        next(source.read(itertools.cycle(shards)))
        workers = processes_of(source)
        thread = source._source.thread if source._source is not None else None
        assert len(workers) == 3 and all(_alive(pid) for pid in workers) and thread is not None and thread.is_alive()
    assert not thread.is_alive() and not any(_alive(pid) for pid in workers)
    assert time.monotonic() - started < 30


def test_a_decoding_process_that_dies_is_said_and_does_not_hang(shards: list[Shard]) -> None:
    with reader(batch_size=1, workers=1) as source:
        items = source.read(itertools.cycle(shards))
        next(items)
        for pid in processes_of(source)[1:]:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(UserError, match="a decoding process died"):
            for _ in itertools.islice(items, 10_000):
                pass


ORPHANS = """
import itertools, os, sys, time
from jobs.shards.reader import ShardReader
from jobs.shards.urls import Shard
if __name__ == "__main__":
    with ShardReader(image_size=(16, 8), batch_size=1, workers=2) as source:
        items = source.read(itertools.cycle([Shard(name="s", url=sys.argv[1], size=None)]))
        next(items), next(items)
        print(*(process.pid for process in source._source.processes), flush=True)
        time.sleep(60)
"""


def run_script(folder: Path, script: str, *words: str, stderr: int | None = None) -> subprocess.Popen[str]:
    """A Python program of its own, whose output is to be read."""
    path = folder / "script.py"
    path.write_text(script)
    return subprocess.Popen(
        [sys.executable, str(path), *words],
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def assert_they_end(pids: list[int]) -> None:
    deadline = time.monotonic() + 15
    while any(_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(_alive(pid) for pid in pids)


def test_decoding_processes_do_not_outlive_a_killed_parent(tmp_path: Path, shards: list[Shard]) -> None:
    parent = run_script(tmp_path, ORPHANS, shards[0].url)
    assert parent.stdout is not None
    children = [int(word) for word in parent.stdout.readline().split()]
    assert children
    parent.kill()  # and nobody waits for it: it stays as a zombie, whose number is still in use
    assert_they_end(children)
    parent.wait()


SILENT = """
import sys, time
from jobs.shards.reader import ShardReader
from jobs.shards.urls import Shard
if __name__ == "__main__":
    with ShardReader(image_size=(16, 8), batch_size=1, workers=int(sys.argv[2])) as source:
        if len(sys.argv) > 3:
            source._source.close = lambda: None  # it hangs
        next(source.read([Shard(name="s", url=sys.argv[1], size=None)], stop=lambda: len(sys.argv) > 3), None)
"""


@pytest.mark.parametrize("case", ["killed", "ends"])
def test_a_command_that_writes_nothing_does_not_outlive_whom_it_works_for(tmp_path: Path, case: str) -> None:
    """Neither a process that is killed while another one reads, nor one that ends while its own thread hangs."""
    pids = tmp_path / "pids"
    command = f"pipe:sleep 61 & echo $! $$ > {pids}.new; mv {pids}.new {pids}; wait"
    parent = run_script(tmp_path, SILENT, command, *(["1"] if case == "killed" else ["0", "hangs"]))
    deadline = time.monotonic() + 120
    while not pids.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    found = [int(word) for word in pids.read_text().split()]
    if case == "killed":
        assert len(found) == 2 and all(_alive(pid) for pid in found)
        parent.kill()
    assert_they_end(found)
    parent.wait()


LATER = """
import logging, os, sys
from jobs.shards.reader import ShardReader
from jobs.shards.urls import Shard

def read(*urls):
    with ShardReader(image_size=(16, 8), batch_size=1, workers=1) as source:
        return len(list(source.read([Shard(name="s", url=url, size=None) for url in urls])))

if __name__ == "__main__":
    os.environ["GONE"] = "there"
    read(sys.argv[1])
    del os.environ["GONE"]
    os.environ["WORD"] = "a word"
    os.chdir(sys.argv[2])
    logging.getLogger("jobs").setLevel(logging.DEBUG)
    print(read('pipe:echo "$WORD/$GONE" > here; cat ' + sys.argv[1], 5))
"""


def test_shards_are_read_in_the_surroundings_that_are_now(tmp_path: Path, shards: list[Shard]) -> None:
    """Not in those in which the first processes were started, as a notebook may have done long before."""
    with run_script(tmp_path, LATER, shards[3].url, str(tmp_path), stderr=subprocess.PIPE) as program:
        out, log = program.communicate(timeout=240)
    assert out == "3\n" and (tmp_path / "here").read_text() == "a word/\n"
    assert "s: reading failed" in log and "TypeError: " in log  # a line for debugging


def test_a_stopped_decoding_process_holds_up_neither_a_request_to_stop_nor_the_end(shards: list[Shard]) -> None:
    stop_now = threading.Event()
    with reader(batch_size=1, workers=2) as source:
        items = source.read(itertools.cycle(shards), stop=stop_now.is_set)
        next(items)
        workers = processes_of(source)
        for pid in workers:
            os.kill(pid, signal.SIGSTOP)
        stop_now.set()
        started = time.monotonic()
        assert len(list(itertools.islice(items, 10_000))) < 10_000
    assert time.monotonic() - started < 12 and not any(_alive(pid) for pid in workers)


def test_a_decoding_process_that_hangs_is_said(shards: list[Shard], monkeypatch: pytest.MonkeyPatch) -> None:
    with reader(batch_size=1, workers=1) as source:
        items = source.read(itertools.cycle(shards))
        next(items)  # the processes have started
        monkeypatch.setattr(in_processes, "_STALLED_SECONDS", 0.1)
        for pid in processes_of(source)[1:]:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(UserError, match=r"a batch was not decoded in .* minutes: the decoding process hangs"):
            for _ in itertools.islice(items, 10_000):
                pass


def test_the_reading_process_that_dies_is_said(shards: list[Shard]) -> None:
    with reader(batch_size=1, workers=1) as source:
        items = source.read(itertools.cycle(shards))
        next(items)
        os.kill(processes_of(source)[0], signal.SIGKILL)
        with pytest.raises(UserError, match="the process that reads the shards died"):
            for _ in itertools.islice(items, 10_000):
                pass


def test_a_slot_is_not_written_again_before_it_is_given_back(tmp_path: Path) -> None:
    """Of more batches than slots, one is kept to the end while the others come and go."""
    members = [m for n in range(40) for m in sample_members(f"{n:04d}_c1s1_000001_00", image_bytes(n), pid=n)]
    shard = shard_of(write_tar(tmp_path / "s.tar", members))
    with ShardReader(image_size=SIZE, batch_size=2, workers=2, lend=True) as source:
        assert source.ring is not None and source.ring.shape == (2 + 2 + 3, 2, 3, *SIZE) and source.ring.is_shared()
        batches_of = (item for item in source.read([shard]) if isinstance(item, Batch))
        kept = next(batches_of)
        slots, seen = [kept.slot], [number_of(image.numpy()) for image in kept.images]
        for batch in batches_of:
            assert batch.slot is not None and batch.images.data_ptr() == source.ring[batch.slot].data_ptr()
            seen += [number_of(image.numpy()) for image in batch.images]
            slots.append(batch.slot)
            batch.release()
        assert seen == list(range(40)) and slots.count(kept.slot) == 1 and len(set(slots)) < len(slots)
        assert [number_of(image.numpy()) for image in kept.images] == [0, 1]
        kept.release()


def test_batches_that_are_not_lent_are_copies(shards: list[Shard]) -> None:
    with reader(batch_size=1, workers=1) as source:
        items = [item for item in source.read(shards * 3) if isinstance(item, Batch)]
    assert len(items) == 45 and all(item.slot is None for item in items)
    assert [number_of(item.images[0].numpy()) for item in items] == [item.samples.pid[0] for item in items]


def test_shards_are_drawn_here_and_what_drawing_raises_is_raised_here(shards: list[Shard]) -> None:
    drawn_in: set[int] = set()

    def draw() -> Iterator[Shard]:
        for shard in shards[:2]:
            drawn_in.add(os.getpid())
            yield shard
        raise OSError("the store is gone")

    ends: list[str] = []
    with reader(workers=1) as source, pytest.raises(OSError, match="the store is gone"):
        for item in source.read(draw()):
            if isinstance(item, ShardEnd):
                ends.append(item.shard.name)
    assert ends == ["s-0", "s-1"] and drawn_in == {os.getpid()}


def test_a_shard_that_raises_anything_is_that_shard_s_failure(
    shards: list[Shard], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_samples(tar: object, name: str, *rest: object) -> Iterator[object]:
        if name == "s-1":
            raise MemoryError
        if name == "s-2":
            raise KeyError("odd")
        yield from samples_module.read_samples(tar, name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(batches, "read_samples", read_samples)
    with reader(batch_size=4, workers=0) as source:
        ends = {item.shard.name: item.error for item in source.read(shards) if isinstance(item, ShardEnd)}
    assert ends["s-0"] is None and ends["s-3"] is None
    assert str(ends["s-1"]) == f"s-1: reading {shards[1].url} failed: not enough memory"
    assert str(ends["s-2"]) == f"s-2: reading {shards[2].url} failed: KeyError: 'odd'"


def _alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.parametrize(
    ("cores", "ranks", "workers"), [(1, 1, 1), (2, 1, 1), (4, 1, 3), (64, 1, 8), (16, 4, 3), (16, 8, 1), (12, 8, 1)]
)
def test_default_workers(monkeypatch: pytest.MonkeyPatch, cores: int, ranks: int, workers: int) -> None:
    monkeypatch.setattr(decoding, "available_cores", lambda: cores)
    assert default_workers("cuda", ranks) == workers
    assert default_workers("cpu", ranks) == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_samples_of_a_shard_that_breaks_off_do_not_count_for_the_limit(tmp_path: Path, workers: int) -> None:
    """Nothing of it is used, so that as many of the next shard are read; its file is told from others."""
    members = [one for n in range(6) for one in sample_members(f"000{n}_c1s1_00000{n}_00", image_bytes(n))]
    broken, good = tmp_path / "a.tar", write_tar(tmp_path / "b.tar", members)
    broken.write_bytes(good.read_bytes()[:-11_000])
    with reader(2, workers, limit=5) as source:
        items = list(source.read([shard_of(broken, "a"), shard_of(good, "b"), shard_of(good, "c")]))
    taken = [(item.shard.name, len(item.samples)) for item in items if isinstance(item, Batch)]
    assert [size for name, size in taken if name == "b"] == [2, 2, 1] and {name for name, _ in taken} == {"a", "b"}
    first, second = (item for item in items if isinstance(item, ShardEnd))
    assert first.error is not None and not first.only_first and first.whole is None
    assert second.error is None and second.only_first and second.whole is not None
    facts = good.stat()
    assert (second.whole.size, second.whole.modified_ns) == (facts.st_size, facts.st_mtime_ns)
    assert (second.whole.sha256, second.whole.parts_sha256) == (None, parts_sha256(good, facts.st_size))
