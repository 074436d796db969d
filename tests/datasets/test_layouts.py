"""Names and layouts of the known datasets, on small made-up trees."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from jobs.datasets.described import Reading, list_csv, list_pattern
from jobs.datasets.layouts import FOLDERS
from jobs.datasets.listing import Record
from jobs.datasets.names import ParsedKey, parse_key
from jobs.datasets.recognise import list_dataset, recognise
from jobs.errors import UserError
from jobs.identity import Who


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
        ("10002_c1s1_000451_03", ParsedKey(pid=10002, camid=0, seq=1, frame=451)),
        ("10001_c2_f0046182", ParsedKey(pid=10001, camid=1, frame=46182)),
        ("10001_c2_7", ParsedKey(pid=10001, camid=1)),
        ("10012_1003_15_0303morning_0008_1", ParsedKey(pid=10012, camid=14, frame=8)),
        ("002_c1s1_000451_03", None),
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
    assert [p.name for p in listing.ignored] == ["Thumbs.db"]
    assert [p.name for p in listing.unfit] == ["readme.jpg"]
    assert [r.who for r in listing.records] == [
        Who("person", "0002"),
        Who("person", "0003"),
        Who("junk", None),
        Who("distractor", None),
    ]


def test_market1501_as_released_names_some_images_jpg_jpg(tmp_path: Path) -> None:
    """Person 1488 whole, some distractors and some junk; its counts are those of the papers only with them."""
    folders = {"bounding_box_train": 13, "query": 5, "bounding_box_test": 21}
    names = [f"{folder}/{n:04d}_c1s1_{n:06d}_00.jpg" for folder, count in folders.items() for n in range(2, 2 + count)]
    names += [f"query/1488_c{c}s1_{c:06d}_00.jpg.jpg" for c in (1, 2)]
    names += [f"bounding_box_test/{pid}_c{c}s1_{c:06d}_01.jpg.jpg" for pid in ("1488", "0000", "-1") for c in (1, 2, 3)]
    names += ["bounding_box_test/10001_c1s1_000001_01.jpg"]
    strays = ["Thumbs.db", ".DS_Store", "._0002_c1s1_000002_00.jpg", "._readme.txt"]
    unfit = ["query/portrait.jpg", "query/0002_c1.jpg", "query/more/0002_c1s1_000001_00.jpg"]
    tree(tmp_path, *names, *(f"bounding_box_test/{name}" for name in strays), *unfit, "query/more/._x.jpg")
    tree(tmp_path, "bounding_box_test/0002_c1s1_000002_00.heic", "query/empty/note.txt", "query/__MACOSX/0002_c1.jpg")
    listing = list_dataset(tmp_path)
    counts = Counter(record.split for record in listing.records)
    assert counts == {"train": 13, "query": 5 + 2, "gallery": 21 + 9 + 1}
    doubled = [record for record in listing.records if record.path.name.endswith(".jpg.jpg")]
    assert sorted({record.parsed.pid for record in doubled}) == [-1, 0, 1488] and len(doubled) == 11
    assert all(record.key == record.path.name[: -len(".jpg.jpg")] for record in doubled)
    assert [record.parsed.pid for record in listing.records if record.parsed.pid > 9999] == [10001]
    assert sorted(path.relative_to(tmp_path).as_posix() for path in listing.unfit) == sorted(unfit)
    assert sorted(path.name for path in listing.ignored) == sorted([*strays, "empty", "__MACOSX"])
    assert [path.name for path in listing.unread] == ["0002_c1s1_000002_00.heic"]


def test_what_macs_leave_beside_images_does_not_hide_a_layout(tmp_path: Path) -> None:
    names = [f"{folder}/{n:04d}_c1s1_000001_00.jpg" for folder in FOLDERS for n in range(60)]
    tree(tmp_path, *names, *(name.replace("/", "/._") for name in names), "__MACOSX/bounding_box_train/._x.jpg")
    assert recognise(tmp_path) == "market1501" and len(list_dataset(tmp_path).records) == 180


def test_images_of_other_suffixes_are_images(tmp_path: Path) -> None:
    suffixes = ("tif", "TIFF", "jfif", "jpe", "gif", "avif", "JPG", "jpeg", "png", "webp", "bmp")
    names = [f"query/{n:04d}_c1s1_000001_00.{suffix}" for n, suffix in enumerate(suffixes)]
    others = ["bounding_box_train/0002_c1s1_000001_00.jpg", "bounding_box_test/0002_c1s1_000001_00.jpg"]
    listing = list_dataset(tree(tmp_path, *names, *others))
    assert Counter(record.split for record in listing.records) == {"query": 11, "train": 1, "gallery": 1}


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
    # Person 0 is a person, and another one in training than in testing.
    people = [r.who for r in listing.records]
    assert people == [Who("person", f"{kind}/0") for kind in ("train", "train", "test", "test")]


def test_lists_of_msmt17_that_are_wrong_name_file_and_line(tmp_path: Path) -> None:
    tree(tmp_path, "train/a.jpg", "test/a.jpg")
    good = "0000/0000_000_01_0303morning_0008_0.jpg 0\n"
    for content, message in (
        (good.encode() + "0000/行人.jpg 0".encode("gbk"), "list_train.txt, line 2: byte 0xd0 is not UTF-8"),
        (good.encode("utf-16"), "list_train.txt, line 1: the file is UTF-16"),
        (good.replace(" 0", " ²").encode(), "list_train.txt, line 1: expected `path pid`"),
        (good.replace(".jpg", ".heic").encode(), "list_train.txt, line 1: expected `path pid`, got .*heic 0"),
    ):
        for file in ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"):
            (tmp_path / file).write_bytes(content)
        with pytest.raises(UserError, match=message):
            list_dataset(tmp_path)


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
    assert ([p.name for p in listing.ignored], [p.name for p in listing.unfit]) == (["note.txt"], ["x.jpg"])
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
    for line, message in (
        ("a/b.jpg,1_0,1,query", "line 2: pid is '1_0', expected an integer"),
        ("a/b.jpg,²,1,query", "line 2: pid is '²', expected an integer"),
        ("a/b.jpg,99999999999999999999,1,query", "line 2: pid is 99999999999999999999, which is too large"),
        ("a/b.jpg,1,4294967296,query", "line 2: camid is 4294967296, which is too large"),
        ("a/b.txt,1,1,query", r"line 2: .*a/b.txt is no image that is read here \(.txt\)"),
        ("a/b.jpg,1,1,bounding_box_test", "rename it with --split-map 'bounding_box_test=NAME'"),
        ('"' + "x" * 200_000 + '",1,1,query', "line 2: not CSV: field larger than field limit"),
    ):
        table.write_text(f"path,pid,camid,split\n{line}\n")
        with pytest.raises(UserError, match=message):
            list_csv(tmp_path, table)
    table.write_text("path,pid,camid,split\n\na/._b.jpg,1,1,query\n\na/b.jpg,+7,2,query\n", encoding="utf-8-sig")
    listing = list_csv(tmp_path, table)
    assert rows(listing.records) == [("query", "b.jpg", 7, 2)] and [p.name for p in listing.ignored] == ["._b.jpg"]
    table.write_text("file,pid\n")
    with pytest.raises(UserError, match="must name path,pid,camid,split"):
        list_csv(tmp_path, table)


@pytest.mark.parametrize(
    ("text", "reading", "expected"),
    [
        ("3", Reading(), 3),
        ("3", Reading(camid_base=1), 2),
        ("-1", Reading(camid_base=1), -2),
        ("a", Reading(), 0),
        ("B", Reading(camid_base=1), 1),
        ("0", Reading(camid_base=1), "line 2: camid is 0, so cameras do not count from 1"),
        ("ab", Reading(), "line 2: camid is 'ab', expected an integer"),
        ("3", Reading(camid=5), "has a column camid; leave out --camid"),
    ],
)
def test_how_cameras_count(tmp_path: Path, text: str, reading: Reading, expected: int | str) -> None:
    tree(tmp_path, "b.jpg")
    table = tmp_path / "list.csv"
    table.write_text(f"path,pid,camid,split\nb.jpg,7,{text},query\n")
    if isinstance(expected, str):
        with pytest.raises(UserError, match=expected):
            list_csv(tmp_path, table, reading)
    else:
        assert [record.parsed.camid for record in list_csv(tmp_path, table, reading).records] == [expected]


def test_a_layout_with_one_camera(tmp_path: Path) -> None:
    tree(tmp_path, "0007.jpg")
    (tmp_path / "list.csv").write_text("path,pid,split\n0007.jpg,7,query\n")
    one = Reading(camid=5)
    assert rows(list_csv(tmp_path, tmp_path / "list.csv", one).records) == [("query", "0007.jpg", 7, 5)]
    assert rows(list_pattern(tmp_path, r"(?P<pid>\d+)\.jpg", one).records) == [("train", "0007.jpg", 7, 5)]
    with pytest.raises(UserError, match="has the group camid; leave out --camid"):
        list_pattern(tmp_path, r"(?P<pid>\d\d)(?P<camid>\d\d)\.jpg", one)
    with pytest.raises(UserError, match="must name path,pid,camid,split"):
        list_csv(tmp_path, tmp_path / "list.csv")


def test_folders_that_are_no_dataset(tmp_path: Path) -> None:
    tree(tmp_path, "images/a.jpg")
    with pytest.raises(
        UserError, match=r"no known dataset is laid out as .* \(it has images\); name it with --dataset"
    ):
        list_dataset(tmp_path)
    with pytest.raises(UserError, match=r"unknown dataset 'market'; did you mean market1501\?; known are market1501"):
        list_dataset(tmp_path, "market")
    for name in ("Market-1501", "MARKET_1501"):  # taken as market1501
        with pytest.raises(UserError, match="no folder bounding_box_train, which market1501 needs"):
            list_dataset(tmp_path, name)
    with pytest.raises(UserError, match="no folder bounding_box_train, which market1501 needs"):
        list_dataset(tmp_path, "market1501")
    with pytest.raises(UserError, match="does not exist"):
        list_dataset(tmp_path / "none")


def test_a_csv_and_a_pattern_may_say_who_it_is(tmp_path: Path) -> None:
    names = ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")
    tree(tmp_path / "all", *names)
    table = tmp_path / "list.csv"
    rows = ("a.jpg,7,0,test,,", "b.jpg,7,0,test,person,anna", "c.jpg,7,0,test,distractor,", "d.jpg,-1,0,test,,",
            "e.jpg,7,0,test,,anna")  # fmt: skip
    table.write_text("\n".join(["path,pid,camid,split,role,identity", *rows]) + "\n")
    found = [record.who for record in list_csv(tmp_path / "all", table).records]
    assert found == [Who("person", "0007"), Who("person", "anna"), Who("distractor", None), Who("junk", None),
                     Who("person", "anna")]  # fmt: skip
    table.write_text("path,pid,camid,split,role\na.jpg,7,0,test,Person\n")
    with pytest.raises(UserError, match=r"list.csv, line 2: role is 'Person', expected person, distractor or junk"):
        list_csv(tmp_path / "all", table)

    tree(tmp_path / "set", "cam1/anna_1.jpg", "cam2/anna_2.jpg", "cam2/junk_3.jpg")
    pattern = r"cam(?P<camid>\d)/((?P<role>junk)|(?P<identity>[a-z]+))_(?P<pid>\d)\.jpg"
    found = [record.who for record in list_pattern(tmp_path / "set", pattern).records]
    assert found == [Who("person", "anna"), Who("person", "anna"), Who("junk", None)]
