"""Files that belong to another shard or another run: every reader names the file and stops."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.errors import UserError
from jobs.runs.integrity.belonging import check_pair
from jobs.runs.integrity.footers import look_at, refuse_damaged_pairs
from jobs.runs.layout import RunLayout
from jobs.runs.run import open_run
from jobs.runs.shard_output import ShardOutput
from jobs.runs.status import failed_inputs, status
from jobs.runs.verify import verify
from jobs.shards.columns import SampleColumns
from jobs.shards.shard_bytes import ShardBytes
from tests.runs.conftest import NAMES, promptsg
from tests.support.made_runs import made_manifest, made_samples, made_shard

FIRST, SECOND = NAMES[:2]
EVALUATE = ["evaluate", "--query-where", "camid = 0", "--gallery-where", "camid > 0"]
GALLERY = ["gallery", "--output", "page"]
# Those that read only the metadata, and those that also read maps or features.
METADATA_READERS = (["finalize"], ["stats"], ["render", "--dry-run"], EVALUATE, GALLERY)
MAPS_READERS = (["stats"], EVALUATE)


def maps(root: Path, name: str) -> Path:
    return root / "maps" / f"{name}.h5"


def metadata(root: Path, name: str) -> Path:
    return root / "metadata" / f"{name}.parquet"


def exchange(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def of_older_run(root: Path, path: Callable[[Path, str], Path]) -> None:
    """Puts a file there of a run with another map, whose first shard has as many rows."""
    older = root.parent / "OLDER"
    manifest = made_manifest(older, NAMES, ["rollout"])
    made_shard(older, manifest, FIRST, made_samples(40, 0, seed=0))
    shutil.copy(path(older, FIRST), path(root, FIRST))


def copied(root: Path) -> Path:
    """A copy, as file managers name it."""
    copy = metadata(root, "gallery-000000 (1)")
    shutil.copy(metadata(root, FIRST), copy)
    return copy


def over_another(root: Path) -> Path:
    shutil.copy(metadata(root, FIRST), metadata(root, SECOND))
    return metadata(root, SECOND)


def metadata_of_older_run(root: Path) -> Path:
    of_older_run(root, metadata)
    return metadata(root, FIRST)


def exchanged_maps(root: Path) -> Path:
    exchange(maps(root, FIRST), maps(root, SECOND))
    return maps(root, FIRST)


def maps_of_older_run(root: Path) -> Path:
    of_older_run(root, maps)
    return maps(root, FIRST)


def cut_maps(root: Path) -> Path:
    path = maps(root, FIRST)
    path.write_bytes(path.read_bytes()[:-1000])
    return path


def gone_maps(root: Path) -> Path:
    maps(root, FIRST).unlink()
    return maps(root, FIRST)


METADATA_DAMAGE = [copied, over_another, metadata_of_older_run]
MAPS_DAMAGE = [exchanged_maps, maps_of_older_run, cut_maps, gone_maps]


def refused(root: Path, wrong: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command says; it must be one line, which names the file."""
    monkeypatch.chdir(root.parent)
    code, said = promptsg(words[0], root, *words[1:])
    assert code == 1 and len(said.splitlines()) == 1 and str(wrong) in said, (words, said)
    return said


@pytest.mark.parametrize("damage", METADATA_DAMAGE)
def test_rows_of_others_are_not_read(
    made: Path, damage: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = damage(made)
    for words in METADATA_READERS:
        said = refused(made, wrong, words, monkeypatch)
    says = {
        copied: f"is not in run.json; it holds the rows of the shard {FIRST!r}. Move it out of {made}/metadata",
        over_another: f"holds the rows of the shard {FIRST!r}; put the right file back, or delete it and run",
        metadata_of_older_run: "was made by another run; put the right file back, or delete it and run",
    }
    assert says[damage] in said
    assert not (made / "metadata.parquet").exists()
    assert verify(made).exit_status == 1 and status(made).exit_status == 1


@pytest.mark.parametrize("damage", MAPS_DAMAGE)
def test_maps_and_features_of_others_are_not_read(
    made: Path, damage: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = damage(made)
    for words in MAPS_READERS:
        said = refused(made, wrong, words, monkeypatch)
    assert (
        f"put the right file back, or delete {made}/metadata/{FIRST}.parquet and run the same `promptsg mine`" in said
    )
    run = open_run(made)
    row = {"shard": FIRST, "h5_row": 0}
    for read in (run.read_features, run.read_keys, lambda shard: run.maps_of(run.maps[0], [row])):
        with pytest.raises(UserError, match=str(wrong)):
            read(FIRST)
    assert verify(made).exit_status == 1


@pytest.mark.parametrize("damage", [cut_maps, gone_maps])
def test_status_notices_maps_that_are_missing_or_cut(made: Path, damage: Callable[[Path], Path]) -> None:
    wrong = damage(made)
    found = status(made)
    assert list(found.damaged) == [FIRST] and found.exit_status == 1 and found.images == 72
    assert found.damaged[FIRST].startswith(str(wrong))
    code, said = promptsg("status", made)
    assert code == 1 and f"damaged: {wrong} " in said
    (entry,) = [entry for entry in failed_inputs(found) if entry.status == "maps_damaged"]
    assert (entry.shard, entry.error) == (FIRST, found.damaged[FIRST])
    with pytest.raises(UserError, match=str(wrong)):  # as `mine` looks at its done shards
        refuse_damaged_pairs(RunLayout(made), open_run(made).manifest.fingerprint, NAMES)
    wrong.unlink(missing_ok=True)
    maps(made, SECOND).unlink()
    with pytest.raises(UserError, match=f"2 done shards of {made} are damaged: .* is gone"):
        refuse_damaged_pairs(RunLayout(made), open_run(made).manifest.fingerprint, NAMES)


def test_status_names_a_parquet_file_that_is_no_shards(made: Path) -> None:
    copy = copied(made)
    found = status(made)
    assert (found.done, found.images, list(found.damaged)) == (3, 108, [copy.stem])
    (entry,) = [entry for entry in failed_inputs(found) if entry.status == "metadata_damaged"]
    assert entry.input == str(copy) and entry.error == found.damaged[copy.stem]


def test_maps_of_the_same_size_are_told_by_what_they_say_of_themselves(tmp_path: Path) -> None:
    root, older = tmp_path / "RUN", tmp_path / "OLDER"
    for folder, names in ((root, ["a", "b"]), (older, ["a", "c"])):
        manifest = made_manifest(folder, names)
        for number, name in enumerate(names):
            made_shard(folder, manifest, name, made_samples(12), seed=number)
    own = maps(root, "a").read_bytes()
    for other, says in (
        (maps(root, "b"), "holds the maps of the shard 'b'"),
        (maps(older, "a"), "was made by another run"),
    ):
        assert other.stat().st_size == len(own)
        maps(root, "a").write_bytes(other.read_bytes())
        for read in (open_run(root).read_keys, open_run(root).read_features):
            with pytest.raises(UserError, match=rf"maps/a\.h5 {says}; put the right file back, or delete"):
                read("a")
        assert verify(root).exit_status == 1
    maps(root, "a").write_bytes(own)
    assert len(open_run(root).read_keys("a")) == 11 and verify(root).exit_status == 0


def test_maps_that_were_mined_from_another_tar_of_the_same_request_are_not_read(tmp_path: Path) -> None:
    """The name, the run and the size agree; the tar that was mined does not."""
    for folder, digest in (("A", "1" * 64), ("B", "2" * 64)):
        manifest = made_manifest(tmp_path / folder, ["a"])
        output = ShardOutput(RunLayout(tmp_path / folder), manifest, "a", 1.0)
        output.add(SampleColumns.of(made_samples(6)[5:]), None)
        assert output.commit(ShardBytes(size=1000, sha256=digest)).published
    assert maps(tmp_path / "A", "a").stat().st_size == maps(tmp_path / "B", "a").stat().st_size
    assert open_run(tmp_path / "A").read_keys("a") == []
    shutil.copy(maps(tmp_path / "B", "a"), maps(tmp_path / "A", "a"))
    with pytest.raises(UserError, match=r"a\.h5 was mined from another tar than its metadata"):
        open_run(tmp_path / "A").read_keys("a")


def test_a_pair_that_is_replaced_while_it_is_looked_at_is_whole(made: Path) -> None:
    """`mine --retry-failed` replaces both files: the footer that was read before says nothing of the new maps."""
    layout, manifest = RunLayout(made), open_run(made).manifest
    before = open_run(made).footers.of(FIRST)
    metadata(made, FIRST).unlink()
    made_shard(made, manifest, FIRST, made_samples(400))
    assert check_pair(layout, FIRST, manifest.fingerprint, before).images != before.images


def test_a_footer_is_read_once(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs.runs.integrity import belonging, footers

    read: list[Path] = []
    real = footers.read_facts
    for module in (belonging, footers):
        monkeypatch.setattr(module, "read_facts", lambda path: read.append(path) or real(path))
    run = open_run(made)
    for _ in range(3):
        run.metadata().to_table()
        for name in NAMES:
            run.read_features(name, [0])
            run.mined_shards([name])
    assert sorted(read) == sorted(metadata(made, name) for name in NAMES)


@pytest.mark.parametrize("limit", [1.0, 0.0])  # seconds a shard, above which a file system counts as slow
def test_many_shards_are_looked_at_in_their_order(limit: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jobs.runs.integrity.footers._SLOW", limit)
    names = [f"s-{number}" for number in range(200)]
    threads = set()

    def look(name: str) -> str:
        threads.add(threading.get_ident())
        time.sleep(0.001)
        return name.upper()

    assert list(look_at(names, look)) == [name.upper() for name in names]
    assert (len(threads) > 1) == (limit == 0)
