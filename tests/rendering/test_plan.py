"""Which pictures are planned and how they are named, against rows made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from cam.errors import CamError
from cam.overlay import SCALES, UPSAMPLE
from jobs.errors import UserError
from jobs.rendering.drawing.job import LeftOut, PictureJob, RankedHit
from jobs.rendering.drawing.style import PictureStyle
from jobs.rendering.looks import Looks
from jobs.rendering.names import NamedPicture, identity_names, picture_names
from jobs.rendering.plan import NO_IDENTITY, RenderPlan, plan
from jobs.rendering.render import RenderConfig, preview, render
from jobs.rendering.requests import digest_of
from jobs.runs.query import RowSelection
from jobs.runs.run import Run
from tests.runs.test_query import make_run
from tests.support.shard_files import image_bytes, sample_members, write_tar

# Two persons, one of them on two cameras; a distractor and a pid 0 that is a person, by their names; junk; and no pid.
IMAGES = (
    ("0002_c1s1_000001_00", 2, 0),
    ("0000_c1s1_000002_00", 0, 0),
    ("0011_c1s1_000003_00", 11, 0),
    ("-1_c1s1_000004_00", -1, 0),
    ("0002_c2s1_000005_00", 2, 1),
    ("visitor", 0, 0),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("plan")
    members = [m for key, pid, camid in IMAGES for m in sample_members(key, image_bytes(1), pid=pid, camid=camid)]
    members += [("unknown.jpg", image_bytes(2))]
    write_tar(folder / "tars/query-0.tar", members)
    return make_run(folder / "RUN", folder / "tars")


def planned(run: Run, output: Path, **settings: object) -> RenderPlan:
    config = RenderConfig(run=run.layout.root, output=output, **settings)  # type: ignore[arg-type]
    return plan(run, config, config.picture_style(run))


def keys_of(found: RenderPlan, job: PictureJob) -> list[str]:
    keys = found.table["key"].to_pylist()
    return [keys[row] for row in job.rows]


def test_a_page_shows_one_identity_also_where_pids_start_again(tmp_path: Path) -> None:
    notes = {
        "a": {"pid": 2, "identity": "train/2"},
        "b": {"pid": 2, "identity": "test/2"},
        "c": {"pid": 2, "identity": "train/2"},
        "0000_000_01_0303morning_0000_0": {"pid": 0, "identity": "test/0"},
        "d": {"pid": 2, "role": "distractor"},
    }
    members = [m for key, note in notes.items() for m in sample_members(key, image_bytes(1), camid=0, **note)]
    write_tar(tmp_path / "tars/query-0.tar", members)
    found = planned(make_run(tmp_path / "RUN", tmp_path / "tars"), tmp_path / "out", style="identity")
    pages = {job.name: (job.identity, keys_of(found, job)) for job in found.jobs}
    assert pages == {
        "pid_train__2__identity.png": ("identity train/2", ["a", "c"]),
        "pid_test__2__identity.png": ("identity test/2", ["b"]),
        "pid_test__0__identity.png": ("identity test/0", ["0000_000_01_0303morning_0000_0"]),
    }
    assert found.left_out == [LeftOut("d", NO_IDENTITY)]


def test_a_page_shows_one_identity_and_nobody_unknown(run: Run, tmp_path: Path) -> None:
    found = planned(run, tmp_path, style="identity")
    pages = {job.name: (job.identity, keys_of(found, job)) for job in found.jobs}
    assert pages == {
        "pid_0002__identity.png": ("pid 2", [IMAGES[0][0], IMAGES[4][0]]),
        "pid_0011__identity.png": ("pid 11", [IMAGES[2][0]]),
        "pid_0000__identity.png": ("pid 0", ["visitor"]),
    }
    assert found.left_out == [LeftOut(key, NO_IDENTITY) for key in (IMAGES[1][0], IMAGES[3][0], "unknown")]


def test_identities_that_are_no_numbers_have_pages_of_their_own() -> None:
    assert identity_names(["2", "11", "12345"]) == {
        "2": "pid_0002__identity",
        "11": "pid_0011__identity",
        "12345": "pid_12345__identity",
    }
    assert identity_names(["train/2", "../x"]) == {
        "train/2": "pid_train__2__identity",
        "../x": "pid____x__identity",
    }
    for alike in (["2", "0002"], ["a/b", "a__b"], ["A", "a"]):
        names = identity_names(alike)
        assert len({name.casefold() for name in names.values()}) == 2
        assert all("~" in name and "/" not in name for name in names.values())


def test_pictures_never_share_a_name() -> None:
    def names(*keys: str, template: str | None = None, shared: frozenset[str] = frozenset()) -> list[str]:
        pictures = [NamedPicture(key=key, shard="s", pid=1, camid=None, map="gradcam++/mim") for key in keys]
        return picture_names(pictures, style="overlay", template=template, shared_keys=shared)

    assert names("a", "b") == ["a__gradcampp_mim", "b__gradcampp_mim"]
    assert names("a", "b", shared=frozenset("b")) == ["a__gradcampp_mim", "s__b__gradcampp_mim"]
    assert names("a", shared=frozenset("a"), template="{camid}/{key}") == ["none/a"]
    first, second, other = names("a/b", "a__b", "c")
    assert first != second and first[:20] == second[:20] == "a__b__gradcampp_mim~" and other == "c__gradcampp_mim"
    with pytest.raises(UserError, match="names several pictures 'x'"):
        names("a", "b", template="x")


def test_settings_that_cannot_be_are_refused_before_a_run_is_opened() -> None:
    nowhere = Path("nowhere")
    with pytest.raises(UserError, match=r"--style .panels. is not known; did you mean panel\?"):
        RenderConfig(run=nowhere, style="panels")
    with pytest.raises(UserError, match="--format 'gif' is not known"):
        RenderConfig(run=nowhere, form="gif")
    with pytest.raises(UserError, match="ranked needs --queries"):
        RenderConfig(run=nowhere, style="ranked")
    with pytest.raises(UserError, match="does not apply to --style identity"):
        RenderConfig(run=nowhere, style="identity", name_template="{key}")
    for wrong, message in (
        ({"colormap": "jett"}, "did you mean jet"),
        ({"scale": "all"}, ", ".join(SCALES)),
        ({"upsample": "cubic"}, ", ".join(UPSAMPLE)),
    ):
        with pytest.raises(CamError, match=message):
            Looks(**wrong)  # type: ignore[arg-type]


def test_a_notebook_draws_with_typed_arguments_and_gets_typed_values(run: Run, tmp_path: Path) -> None:
    config = RenderConfig(run=run.layout.root, output=tmp_path, selection=RowSelection(where="pid = 2"))
    would = preview(config)
    assert would.pictures == tuple(f"{IMAGES[at][0]}__mim_attention.png" for at in (0, 4)) and would.existing == 0
    report = render(config)
    assert (report.folder, report.written, report.kept, report.left_out) == (tmp_path, 2, 0, ())
    assert preview(config).existing == 2 and render(config).kept == 2
    assert RenderConfig(run=Path("RUN")).folder == Path("RUN/pictures")


LOOKS = Looks(colormap="jet", alpha=0.25, upsample="nearest", scale="shared")
HITS = (RankedHit(0.125, True), RankedHit(0.5, False))


@pytest.mark.parametrize(
    ("style", "job", "digest"),
    [
        (
            PictureStyle(kind="overlay", maps=("mim_attention",)),
            PictureJob(name="b__m.png", rows=(0,), map="mim_attention"),
            "a51e90f443a92adc191cc556c5dd43ce27a64ca0d4705c89e41c52611e3809c8",
        ),
        (
            PictureStyle(kind="heatmap", maps=("mim_attention",), looks=LOOKS, size=(64, None)),
            PictureJob(name="b__m.png", rows=(0,), map="mim_attention"),
            "d74828101198594a3fd3d0163085f5b37b0b7bcfeaa5d6bc0754cce1885e6b0b",
        ),
        (
            PictureStyle(
                kind="panel", maps=("mim_attention", "gradcam/mim"), looks=Looks(scale="percentile"), size=(256, None)
            ),
            PictureJob(name="b__panel.png", rows=(0,)),
            "ddf03e9b81bdb4a0b348cc42c420653bb1e0f94811ff25af6e92f9cf5f628884",
        ),
        (
            PictureStyle(kind="sheet", maps=("mim_attention",), size=(64, 32)),
            PictureJob(name="sheet_0001.png", rows=(0, 1, 2)),
            "8575bba745185138deac87498db973621f3c74c6faa851d29a5baa4adea87e21",
        ),
        (
            PictureStyle(kind="identity", maps=("mim_attention",), size=(256, None)),
            PictureJob(name="pid_0002__identity.png", rows=(0, 2), identity="pid 2"),
            "c45d78680b2a1be35f6861b48c391ca23954512fc4c406d315ebfa2e7092f072",
        ),
        (
            PictureStyle(kind="ranked", maps=("mim_attention",), size=(256, None)),
            PictureJob(name="b__ranked.png", rows=(0, 1, 2), hits=HITS, note="AP 0.250"),
            "7b6dc2f24e7adaebe715c8da19a5bd1133fdb0caa5a39b8978db45c0bce2b134",
        ),
    ],
    ids=lambda value: value.kind if isinstance(value, PictureStyle) else "",
)
def test_a_folder_of_an_earlier_version_is_recognised(style: PictureStyle, job: PictureJob, digest: str) -> None:
    """The digests that the first version wrote for these requests, when no overlay faded."""
    style = replace(style, looks=replace(style.looks, fade=False))
    table = pa.table({"key": ["b", "a", "c"]})
    assert digest_of("f" * 64, style, RenderPlan(table, [job], [])) == digest
