"""HMDB-51's official splits: codes, brackets in names, class from the list's name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gesta.data.batch import Failure
from gesta.data.samples import TestViews
from gesta.datasets.hmdb51 import HMDB51
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.recipe import EvaluateConfig

ODD = "Brushing__[_NEW_]_UPDATED!!_brush_hair_h_cm_np1_fr_goo_0.avi"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    lists = tmp_path / "testTrainMulti_7030_splits"
    lists.mkdir()
    (lists / "class_list.txt").write_text("0 brush_hair\n")
    films = "".join(f"film{f}_brush_hair_u_nm_np1_ba_goo_{i}.avi 1 \n" for f in range(4) for i in range(2))
    (lists / "brush_hair_test_split1.txt").write_text(films + f"{ODD} 2 \nunused_brush_hair_u_nm_np1_ba_goo_0.avi 0 \n")
    waves = "".join(f"film{i}_wave_u_nm_np1_ba_goo_0.avi 1 \n" for i in range(4))
    (lists / "wave_test_split1.txt").write_text(waves + "a_&_b;-)_wave_u_nm_np10_ba_goo_1.avi 2 \n")
    (lists / "._wave_test_split1.txt").write_bytes(b"\0\5\x16\7")  # of macOS
    (lists / "wave_test_split2.txt").write_text("other_wave_u_nm_np1_ba_goo_1.avi 2 \n")
    return tmp_path


def test_codes_and_classes(small: Path) -> None:
    for place in ("hmdb51_org/brush_hair", "wave"):
        (small / place).mkdir(parents=True)
    (small / "hmdb51_org/brush_hair" / ODD).touch()
    (small / "wave" / "a_&_b;-)_wave_u_nm_np10_ba_goo_1.mp4").touch()
    data = HMDB51(root=str(small))
    assert data.classes() == ["brush_hair", "wave"]
    assert Counter(r.label for r in data.records("train")) == {0: 8, 1: 4}
    first, second = data.records("test")
    assert (first.name, first.label) == (f"brush_hair/{ODD}", 0)
    assert first.path == str(small / "hmdb51_org" / "brush_hair" / ODD)
    assert second.path.endswith("a_&_b;-)_wave_u_nm_np10_ba_goo_1.mp4") and second.label == 1
    assert data.records("val") == []


def test_validation_holds_out_whole_films(small: Path) -> None:
    for seed in range(4):
        data = HMDB51(root=str(small), val=0.25, seed=seed)
        train, val = data.records("train"), data.records("val")
        assert Counter(r.label for r in val) == {0: 2, 1: 1} and len(train) == 9
        films = [{Path(r.name).name.split("_")[0] for r in part} for part in (train, val)]  # all are in both classes
        assert not films[0] & films[1]


def test_refusals(small: Path) -> None:
    with pytest.raises(GestaError, match=r"holds no files \*_test_split3\.txt"):
        HMDB51(root=str(small), split=3).records("train")
    with pytest.raises(GestaError, match="splits 1, 2 and 3"):
        HMDB51(root=str(small), split=0).classes()
    (small / "testTrainMulti_7030_splits" / "wave_test_split1.txt").write_text("x.avi 3\n")
    with pytest.raises(GestaError, match="not a line of the official list"):
        HMDB51(root=str(small)).records("train")


def test_official_lists_have_the_published_sizes(shared: Path, tmp_path: Path) -> None:
    for split in (1, 2, 3):
        data = HMDB51(root=str(tmp_path), annotations=str(shared / "annotations" / "hmdb51"), split=split)
        train, test = data.records("train"), data.records("test")
        assert len(data.classes()) == 51
        assert Counter(r.label for r in train) == {label: 70 for label in range(51)}
        assert Counter(r.label for r in test) == {label: 30 for label in range(51)}
        assert len({r.name for r in [*train, *test]}) == 5100
    known = set((shared / "annotations/hmdb51/variants/kiyoon_hmdb_videos_list.txt").read_text().split("\n"))
    assert {r.name.removesuffix(".avi") for r in [*train, *test]} <= known


def test_genuine_clip(shared: Path) -> None:
    data = HMDB51(root=str(shared / "videos" / "hmdb51"), annotations=str(shared / "annotations" / "hmdb51"))
    records = [r for split in ("train", "test") for r in data.records(split) if Path(r.path).exists()]  # type: ignore[arg-type]
    assert records and all(r.path.endswith(".avi") for r in records)
    views = TestViews(records, ClipSpec(frames=4, stride=2, size=32), EvaluateConfig(clips=1, crops=3))
    for i, record in enumerate(records):
        sample = views[i]
        assert not isinstance(sample, Failure) and sample["video"].shape == (3, 4, 3, 32, 32)
        assert data.classes()[sample["label"]] == record.name.split("/")[0]  # type: ignore[index]
