"""Names and layouts of the known datasets, on small made-up trees."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.datasets.described import list_csv, list_pattern
from jobs.datasets.listing import Record
from jobs.datasets.names import ParsedKey, parse_key
from jobs.datasets.recognise import list_dataset, recognise
from jobs.errors import UserError


def tree(root: Path, *files: str) -> Path:
    for name in files:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def rows(records: list[Record]) -> list[tuple[str, str, int, int]]:
    return [(r.split, r.path.name, r.parsed.pid, r.parsed.camid) for r in records]


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("0002_c1s1_000451_03", ParsedKey(pid=2, camid=0, seq=1, frame=451)),
        ("-1_c6s4_011526_06", ParsedKey(pid=-1, camid=5, seq=4, frame=11526)),
        ("0000_c3s2_000001_00", ParsedKey(pid=0, camid=2, seq=2, frame=1)),
        ("0001_c2_f0046182", ParsedKey(pid=1, camid=1, frame=46182)),
        ("0001_c2_7", ParsedKey(pid=1, camid=1)),
        ("0012_003_15_0303morning_0008_1", ParsedKey(pid=12, camid=14, frame=8)),
        ("0012_003_01_0303noon_0108_0_ex", ParsedKey(pid=12, camid=0, frame=108)),
        ("0001_c12_f0046182", ParsedKey(pid=1, camid=11, frame=46182)),
        ("x0002_c1s1_000451_03", None),
        ("0002_c1s1_000451_03_", None),
        ("portrait", None),
    ],
)
def test_what_a_key_says(key: str, expected: ParsedKey | None) -> None:
    assert parse_key(key) == expected


def test_market1501_with_stray_files_junk_and_distractors(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "bounding_box_train/Thumbs.db",
        "bounding_box_train/readme.jpg",
        "query/0003_c2s1_000001_00.jpg",
        "bounding_box_test/-1_c1s1_000001_00.jpg",
        "bounding_box_test/0000_c6s1_000002_00.jpg",
        "gt_bbox/0002_c1s1_000451_00.jpg",
    )
    listing = list_dataset(tmp_path)
    assert listing.dataset == "market1501"
    assert rows(listing.records) == [
        ("train", "0002_c1s1_000451_03.jpg", 2, 0),
        ("query", "0003_c2s1_000001_00.jpg", 3, 1),
        ("gallery", "-1_c1s1_000001_00.jpg", -1, 0),
        ("gallery", "0000_c6s1_000002_00.jpg", 0, 5),
    ]
    assert sorted(p.name for p in listing.ignored) == ["Thumbs.db", "readme.jpg"]


def test_a_folder_called_like_an_image_above_the_dataset(tmp_path: Path) -> None:
    root = tree(
        tmp_path / "0099_c7s7_000000_00",
        "bounding_box_train/0002_c1s1_000451_03.jpg",
        "query/0003_c2s1_000001_00.jpg",
        "bounding_box_test/0004_c3s1_000001_00.jpg",
    )
    assert [r.parsed.pid for r in list_dataset(root).records] == [2, 3, 4]


def test_duke_has_cameras_above_nine_and_occluded_duke_its_layout(tmp_path: Path) -> None:
    names = (
        "bounding_box_train/0001_c10_f0046182.jpg",
        "query/0005_c8_f0000001.jpg",
        "bounding_box_test/0005_c2_f1.jpg",
    )
    assert [r.parsed.camid for r in list_dataset(tree(tmp_path / "d", *names)).records] == [9, 7, 1]
    assert recognise(tmp_path / "d") == "dukemtmc"
    assert list_dataset(tree(tmp_path / "Occluded_Duke", *names)).dataset == "occluded-duke"


def test_cuhk03_np_is_png_and_comes_in_two_kinds(tmp_path: Path) -> None:
    names = ("bounding_box_train/0001_c1_1.png", "query/0002_c2_3.png", "bounding_box_test/0002_c1_2.png")
    for kind in ("labeled", "detected"):
        tree(tmp_path / kind, *names)
    with pytest.raises(UserError, match="several datasets: detected, labeled; name one"):
        list_dataset(tmp_path)
    listing = list_dataset(tmp_path / "labeled")
    assert listing.dataset == "cuhk03-np" and len(listing.records) == 3


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_msmt17_keeps_restarted_pids_apart_and_names_missing_files(tmp_path: Path, version: str) -> None:
    train, test = ("train", "test") if version == "V1" else ("mask_train_v2", "mask_test_v2")
    name = "0000/0000_000_{:02d}_0303morning_0008_0.jpg"
    tree(tmp_path, *(f"{train}/{name.format(c)}" for c in (1, 12)), *(f"{test}/{name.format(c)}" for c in (10, 15)))
    for file, lines in (
        ("list_train.txt", [f"{name.format(1)} 0", f"{name.format(2)} 0"]),
        ("list_val.txt", [f"{name.format(12)} 0"]),
        ("list_query.txt", [f"{name.format(10)} 0"]),
        ("list_gallery.txt", [f"{name.format(15)} 0", ""]),
    ):
        (tmp_path / file).write_text("\n".join(lines) + "\n")
    listing = list_dataset(tmp_path)
    found = [(r.split, r.parsed.pid, r.parsed.camid) for r in listing.records]
    assert found == [("train", 0, 0), ("val", 0, 11), ("query", 0, 9), ("gallery", 0, 14)]
    assert [p.name for p in listing.missing] == ["0000_000_02_0303morning_0008_0.jpg"]


def test_a_list_that_leads_out_of_the_dataset(tmp_path: Path) -> None:
    tree(tmp_path, "train/a.jpg", "test/a.jpg")
    for file in ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"):
        (tmp_path / file).write_text("../../0000_000_01_0303morning_0008_0.jpg 0\n")
    with pytest.raises(UserError, match=r"list_train.txt, line 1: the path .* leads out"):
        list_dataset(tmp_path)


def test_any_layout_by_pattern(tmp_path: Path) -> None:
    tree(tmp_path, "test/p12/cam3_7.png", "test/p12/note.txt", "other/x.jpg")
    listing = list_pattern(tmp_path, r"(?P<split>\w+)/p(?P<pid>\d+)/cam(?P<camid>\d+)_(?P<frame>\d+)\.png")
    (record,) = listing.records
    assert (record.split, record.parsed) == ("test", ParsedKey(pid=12, camid=3, frame=7))
    assert len(listing.ignored) == 2
    with pytest.raises(UserError, match="needs the named groups"):
        list_pattern(tmp_path, r"(?P<pid>\d+).jpg")
    with pytest.raises(UserError, match="not a regular expression"):
        list_pattern(tmp_path, "(")


def test_any_layout_by_csv(tmp_path: Path) -> None:
    tree(tmp_path, "a/b.jpg")
    table = tmp_path / "list.csv"
    table.write_text("path,pid,camid,split\na/b.jpg,7,2,query\na/c.jpg,7,2,query\n")
    listing = list_csv(tmp_path, table)
    assert rows(listing.records) == [("query", "b.jpg", 7, 2)] and len(listing.missing) == 1
    for line, message in (
        ("/etc/passwd,1,1,query", "leads out"),
        ("../b.jpg,1,1,query", "leads out"),
        ("a/b.jpg,x,1,query", "line 2: pid is 'x'"),
        ("a/b.jpg,1,1,a/b", "the split 'a/b'"),
        ("a/b.jpg,,1,query", "must not be empty"),
    ):
        table.write_text(f"path,pid,camid,split\n{line}\n")
        with pytest.raises(UserError, match=message):
            list_csv(tmp_path, table)
    table.write_text("file,pid\n")
    with pytest.raises(UserError, match="must name path,pid,camid,split"):
        list_csv(tmp_path, table)


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    tree(tmp_path, "images/a.jpg")
    with pytest.raises(
        UserError, match=r"no known dataset is laid out as .* \(it has images\); name it with --dataset"
    ):
        list_dataset(tmp_path)
    with pytest.raises(UserError, match="unknown dataset 'market'; known are market1501"):
        list_dataset(tmp_path, "market")
    with pytest.raises(UserError, match="no folder bounding_box_train, which market1501 needs"):
        list_dataset(tmp_path, "market1501")
    with pytest.raises(UserError, match="does not exist"):
        list_dataset(tmp_path / "none")
