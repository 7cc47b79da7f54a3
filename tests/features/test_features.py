"""Features are the model's own, of the frames that they are said to be of; none is computed twice, lost or mixed up."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from gesta.checkpoint import save_model
from gesta.checkpoint.weights import weights_hash
from gesta.cli import main
from gesta.config import config, replace
from gesta.data.samples import TestViews
from gesta.data.shares import Share, read_parts
from gesta.errors import GestaError
from gesta.features import windows as windows_module
from gesta.features.compute import compute_features, compute_missing, feature_files, merge_features
from gesta.features.extract import FeatureKind, extract
from gesta.features.folder import FeatureFolder, describe, source_hash
from gesta.features.neighbours import neighbours
from gesta.features.windows import Windows
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel, to_clips
from gesta.models import create_model
from gesta.recipe import EvaluateConfig
from gesta.records import Record

VIEWS = EvaluateConfig(clips=2, crops=3, batch_size=5, workers=0)
CPU = torch.device("cpu")


@config
class LevelsConfig(ModelConfig):
    """A model whose features are the brightness of each frame of the clip, 0 to 255."""

    def build(self) -> VideoModel:
        return Levels(self)


class Levels(VideoModel):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.blocks = nn.ModuleList([nn.AdaptiveAvgPool3d((None, 1, 1))])
        self.classifier = Classifier(config.clip.frames, config.classes)
        self.finish()

    def stem(self, video: Tensor) -> Tensor:
        return video[:, :1]

    def to_grid(self, state: Tensor) -> Tensor:
        return state

    def grid_at(self, block: int) -> Grid:
        return (1, self.config.clip.frames, 1, 1)

    def pool(self, state: Tensor) -> Tensor:
        return 255 * state.flatten(1)


def levels(frames: int = 4) -> VideoModel:
    clip = ClipSpec(frames=frames, stride=1, size=32, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    return LevelsConfig(classes=2, clip=clip).build()


@pytest.mark.parametrize("kind", ["pooled", "mean", "tokens"])
def test_features_of_a_video_are_the_models_own(make_video: Callable[..., Path], kind: FeatureKind) -> None:
    records = [Record(path=str(make_video(f"{i}.mp4", shade=40 * i)), name=f"{i}") for i in range(3)]
    torch.manual_seed(0)
    model = create_model("r3d_tiny", classes=3).eval()
    computed = list(extract(model, records, VIEWS, kind=kind, device=CPU, indices=[2, 0]))
    assert [features.index for features in computed] == [2, 0]
    for features in computed:
        sample = TestViews(records, model.config.clip, VIEWS)[features.index]
        assert isinstance(sample, dict)
        clips = to_clips(sample["video"][None], model.config.clip)
        with torch.no_grad():
            last = f"block.{len(model.blocks) - 1}"
            grid = model.taps(clips, [last])[last]
            own = {"pooled": model.embed(clips), "mean": grid.mean((2, 3, 4)), "tokens": grid}[kind]
        assert features.values is not None and features.values.shape == own.shape
        torch.testing.assert_close(features.values, own, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("together", [1, 2, 32])
def test_windows_cover_a_whole_video_and_say_when(
    make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: int
) -> None:
    """Frame i of the video has level 4 i (and a white square); the model sees each other frame of a window of 8."""
    monkeypatch.setattr(windows_module, "WINDOWS_PER_READ", together)
    video = make_video("long.mp4", frames=22, fps=10)
    filled = compute_features(levels(), [str(video)], tmp_path / "out", windows=Windows(8, 5), device="cpu")
    assert (filled.computed, filled.failures) == (1, {})
    folder = FeatureFolder(tmp_path / "out", None)
    starts = [0, 5, 10, 15]  # the last one ends after the video, and holds its last frame
    np.testing.assert_allclose(
        np.array(folder.entries["long.npy"]["times"]),
        [[s / 10, min(s + 8, 22) / 10] for s in starts],
        atol=1e-4,
    )
    frames = np.minimum(np.array(starts)[:, None] + [0, 2, 4, 6], 21)
    square = folder.read("long.npy") - 4 * frames
    assert square.shape == (4, 4)
    assert (abs(square - (255 - 4 * frames) * (8 * 8) / (64 * 48)) < 12).all(), square


def test_a_short_video_has_one_window_and_silly_windows_are_refused(
    make_video: Callable[..., Path], tmp_path: Path
) -> None:
    video = str(make_video("short.mp4", frames=3))
    compute_features(levels(), [video], tmp_path / "out", windows=Windows(8, 8), device="cpu")
    folder = FeatureFolder(tmp_path / "out", None)
    assert folder.read("short.npy").shape == (1, 4) and folder.entries["short.npy"]["times"] == [[0.0, 0.25]]
    assert list(Windows(8, 100).starts(17)) == [0] and list(Windows(8, 12).starts(25)) == [0, 12, 24]
    long = str(make_video("long.mp4", frames=17, fps=10))
    compute_features(levels(), [long], tmp_path / "far", windows=Windows(8, 100), device="cpu")
    assert FeatureFolder(tmp_path / "far", None).entries["long.npy"]["times"] == [[0.0, 0.8]]
    with pytest.raises(GestaError, match="window 3 is shorter than the model's clip; give 4"):
        compute_features(levels(), [video], tmp_path / "other", windows=Windows(3, 1), device="cpu")
    assert not (tmp_path / "other").exists()


def test_nothing_is_computed_twice_and_what_changed_is(make_video: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("a/one.mp4", "b/two.mp4"):
        make_video(f"videos/{name}")
    (tmp_path / "videos" / "b" / "broken.mp4").write_bytes(b"not a video")
    videos, out = str(tmp_path / "videos"), tmp_path / "out"
    views = EvaluateConfig(clips=2, workers=0)
    model = levels()
    filled = compute_features(model, [videos], out, views=views, device="cpu")
    assert filled.computed == 2 and list(filled.failures) == [f"{videos}/b/broken.mp4"]
    assert {p.relative_to(out).as_posix() for p in out.rglob("*.npy")} == {"a/one.npy", "b/two.npy"}
    assert compute_features(model, [videos], out, views=views, device="cpu").computed == 0
    make_video("videos/a/one.mp4", frames=30)
    assert compute_features(model, [videos], out, views=views, device="cpu").computed == 1
    (tmp_path / "videos" / "a" / "one.mp4").write_bytes(b"broken now")
    assert not {f"{videos}/a/one.mp4", f"{videos}/b/broken.mp4"} - set(
        compute_features(model, [videos], out, views=views, device="cpu").failures
    )
    assert not (out / "a" / "one.npy").exists()
    before = (out / "index.jsonl").read_text()
    other = create_model("r3d_tiny", classes=3)
    for given, how in ((other, {}), (model, {"views": replace(views, clips=3)}), (model, {"kind": "mean"})):
        with pytest.raises(GestaError, match=r"holds features of other (model and weights and views|views|kind)"):
            compute_features(given, [videos], out, device="cpu", **{"views": views, **how})  # type: ignore[arg-type]
    assert (out / "index.jsonl").read_text() == before


def test_segments_of_one_video_are_counted_one_by_one(make_video: Callable[..., Path], tmp_path: Path) -> None:
    broken, video = tmp_path / "broken.mp4", str(make_video("a.mp4"))
    broken.write_bytes(b"not a video")
    paths, model, views = [str(broken), str(broken), video, video], levels(), EvaluateConfig(clips=1, workers=0)
    records = [Record(path=path, name=path, start=4 * (i % 2), end=4 * (i % 2) + 4) for i, path in enumerate(paths)]
    files, description = [f"{i}.npy" for i in range(4)], describe(model, views, "pooled")

    def compute(indices: list[int]) -> Any:
        return extract(model, records, views, indices=indices, device=CPU)

    for counts in ("2 videos computed, 2 failed", "0 videos computed, 2 were there already, 2 failed"):
        report = compute_missing(FeatureFolder(tmp_path / "out", description), records, files, compute)
        assert str(report).splitlines()[0] == f"{tmp_path}/out: features of {counts}"
        assert list(report.failures) == [f"{broken} 0-4", f"{broken} 4-8"]


def test_a_folder_of_other_versions_goes_on_and_says_so(
    make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos, out, how = [str(make_video("a.mp4"))], tmp_path / "out", {"views": EvaluateConfig(clips=1, workers=0)}
    share = {"share": Share(1, 1)}
    compute_features(levels(), videos, out, device="cpu", **how)  # type: ignore[arg-type]
    compute_features(levels(), videos, tmp_path / "part", device="cpu", **how, **share)  # type: ignore[arg-type]
    began = json.loads((out / "features.json").read_text())
    assert "torch" in began["versions"] and "libavcodec" in began["versions"]
    monkeypatch.setattr("gesta.features.folder.pixel_versions", lambda: {"libavcodec": (99, 0, 1)})
    again = compute_features(levels(), videos, tmp_path / "part", device="cpu", **how, **share)  # type: ignore[arg-type]
    assert again.computed == 0 and not again.remark
    merge_features([str(tmp_path / "part")], read_parts([str(tmp_path / "part")]), tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "features.json").read_text()) == began
    videos.append(str(make_video("b.mp4")))
    more = compute_features(levels(), videos, out, device="cpu", **how)  # type: ignore[arg-type]
    assert more.computed == 1 and f"libavcodec {began['versions']['libavcodec']} → 99.0.1" in str(more).splitlines()[1]
    del began["versions"]  # as an earlier version of gesta wrote it
    (out / "features.json").write_text(json.dumps(began))
    videos.append(str(make_video("c.mp4")))
    assert not compute_features(levels(), videos, out, device="cpu", **how).remark  # type: ignore[arg-type]


def test_features_of_videos_that_cannot_be_seen_just_now_stay(make_video: Callable[..., Path], tmp_path: Path) -> None:
    """A list names videos on a disk that is not mounted."""
    disk, out, model = make_video("disk/a.mp4").parent, tmp_path / "o", levels()
    how: dict[str, Any] = {"views": EvaluateConfig(clips=1), "device": "cpu", "listed": True}
    videos = [str(disk / "a.mp4")]
    assert compute_features(model, videos, out, **how).computed == 1
    disk.rename(tmp_path / "elsewhere")
    done = compute_features(model, videos, out, **how)
    assert (done.computed, done.failures) == (0, {}) and (out / "a.npy").is_file()


def test_killed_while_writing_loses_that_video_alone(make_video: Callable[..., Path], tmp_path: Path) -> None:
    """Of one killed run there is a file without a line, of another half a line."""
    videos = [str(make_video(f"{i}.mp4", shade=9 * i)) for i in range(3)]
    out, views = tmp_path / "out", EvaluateConfig(clips=1, workers=0)
    compute_features(levels(), videos, out, views=views, device="cpu")
    lines = (out / "index.jsonl").read_text().splitlines(keepends=True)
    for left in ("".join(lines[:2]), "".join(lines[:2]) + lines[2][:30]):
        (out / "index.jsonl").write_text(left)
        assert len(FeatureFolder(out, None).entries) == 2
        assert (out / "index.jsonl").read_text() == left  # another process may be writing it: reading changes nothing
        assert compute_features(levels(), videos, out, views=views, device="cpu").computed == 1
        assert (out / "index.jsonl").read_text() == "".join(lines)


def test_the_classifier_changes_no_hash_and_every_other_weight_does() -> None:
    model = create_model("r3d_tiny", classes=3)
    before = weights_hash(model)
    model.reset_classifier(5)
    assert weights_hash(model) == before
    next(model.parameters()).data[0] += 1
    assert weights_hash(model) != before


def test_folders_of_frames_change_with_their_images(tmp_path: Path) -> None:
    for i in range(2):
        (tmp_path / f"img_{i}.jpg").write_bytes(b"x")
    record = Record(path=str(tmp_path), name="frames")
    before = source_hash(record)
    assert source_hash(record) == before != source_hash(Record(path=str(tmp_path), name="frames", start=1))
    (tmp_path / "img_1.jpg").write_bytes(b"xy")
    assert source_hash(record) != before


def test_files_are_named_by_their_videos_and_never_share_a_name(tmp_path: Path) -> None:
    for name in ("a/clip.mp4", "a/Clip.avi", "a/other.mp4", "b/clip.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    root = str(tmp_path)
    below = ["a/Clip.avi.npy", "a/clip.mp4.npy", "a/other.npy", "b/clip.npy"]
    assert list(feature_files([root], "npy").values()) == below
    assert list(feature_files([f"{root}/*/*"], "npy").values()) == below
    assert list(feature_files([f"{root}/b/../a/other.mp4"], "npy").values()) == ["other.npy"]
    assert list(feature_files(["http://host/..", "..mp4"], "npy").values()) == ["http_.npy", "..mp4.npy"]
    with pytest.raises(GestaError, match=r"clip\.mp4 and .*clip\.mp4: the features of both would be clip\.mp4\.npy"):
        feature_files([f"{root}/a/clip.mp4", f"{root}/b/clip.mp4"], "npy")


def test_features_of_other_videos_are_not_replaced(
    make_video: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two splits of one folder have the same names below them."""
    for split in ("train", "val"):
        make_video(f"v/{split}/wave/c.mp4", shade=20 * len(split))
    out, views = tmp_path / "out", EvaluateConfig(clips=1, workers=0)
    monkeypatch.chdir(tmp_path / "v")

    def compute(source: str) -> int:
        return compute_features(levels(), [source], out, views=views, device="cpu").computed

    def state() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}

    assert compute("train") == 1
    before = state()
    of_both = (
        rf"v/train/wave/c.mp4 and .*v/val/wave/c.mp4: the features of both would be {out}/wave/c.npy; give the fol"
    )
    with pytest.raises(GestaError, match=of_both):
        compute("val")
    with pytest.raises(GestaError, match=of_both), monkeypatch.context() as patch:
        patch.chdir("val")
        compute(".")
    assert state() == before
    assert compute(str(tmp_path / "v/train")) == 0
    make_video("v/train/wave/c.mp4", frames=30)  # the same video has changed
    assert compute(str(tmp_path / "v/train")) == 1
    (tmp_path / "link").symlink_to(tmp_path / "v/train")
    assert compute(str(tmp_path / "link")) == 1
    (tmp_path / "v/train").rename(tmp_path / "moved")
    with pytest.raises(GestaError, match=r"link/wave/c.mp4 and .*moved/wave/c.mp4: the features of both would be"):
        compute(str(tmp_path / "moved"))
    entries = [json.loads(line) for line in (out / "index.jsonl").read_text().splitlines()]
    for entry in entries:  # of a folder that an earlier version has made
        entry.pop("path", None)
    (out / "index.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    with pytest.raises(GestaError, match="the features of both would be"):
        compute("val")


def test_as_a_command(
    make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(("train/wave/1.mp4", "train/jump/2.mp4", "val/jump/3.mp4")):
        make_video(f"videos/{name}", shade=60 * i, fps=10)
    shutil.copy("videos/train/jump/2.mp4", "videos/val/jump/copy.mp4")
    torch.manual_seed(0)
    save_model("m.safetensors", create_model("r3d_tiny", classes=2), ["jump", "wave"])

    def gesta(*words: str) -> tuple[Any, str]:
        with pytest.raises(SystemExit) as end:
            main(words)
        streams = capsys.readouterr()
        return end.value.code, streams.out + streams.err

    assert gesta("features", "m.safetensors", "videos", "--out", "f") == (0, "f: features of 4 videos computed\n")
    assert gesta("features", "m.safetensors", "videos", "--out", "f")[1] == (
        "f: features of 0 videos computed, 4 were there already\n"
    )
    status, printed = gesta("neighbours", "f")
    assert status == 0 and "videos/train/jump/2.mp4  videos/val/jump/copy.mp4  (train and val!)" in printed
    status, printed = gesta("neighbours", "f", "--query", "videos/val/jump/copy.mp4", "--top", "1")
    assert printed.splitlines()[1].split()[:3] == ["1.000", "videos/val/jump/copy.mp4", "videos/train/jump/2.mp4"]

    windows = ("--window", "16", "--stride", "4", "--format", "safetensors", "--tokens")
    status, printed = gesta("features", "m.safetensors", "videos", "none.mp4", "--out", "w", *windows, "--json")
    assert status == 1 and "none.mp4: does not exist" in json.loads(printed)["failures"]["none.mp4"]
    stored = load_file("w/train/wave/1.safetensors")
    assert stored["features"].shape[0] == len(stored["times"]) == 3 and stored["features"].ndim == 5
    assert "holds maps of tokens" in gesta("neighbours", "w")[1]

    for words, sentence in (
        (("--tokens", "--pool", "mean"), "give one of them"),
        (("--stride", "4"), "give their length in frames with --window"),
        (("--window", "16", "--clips", "2"), "leave --clips and --crops out"),
        (("--tokens", "--format", "parquet"), "which a map of tokens is not"),
    ):
        status, printed = gesta("features", "m.safetensors", "videos", "--out", "no", *words)
        assert status == 1 and sentence in printed and not Path("no").exists()
    printed = gesta("neighbours", "f", "--query", "videos/val/jump/3.mp")[1]
    assert "f: holds no features of videos/val/jump/3.mp; did you mean 'videos/val/jump/3.mp4'?" in printed


def test_parquet_holds_the_same_numbers(make_video: Callable[..., Path], tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow.parquet")
    video, formats = str(make_video("a.mp4")), ("npy", "parquet")
    for name in formats:
        compute_features(levels(), [video], tmp_path / name, format=name, windows=Windows(8, 5), device="cpu")  # type: ignore[arg-type]
    folder, plain = FeatureFolder(tmp_path / "parquet", None), FeatureFolder(tmp_path / "npy", None)
    (entry,), (same,) = folder.entries.values(), plain.entries.values()
    np.testing.assert_array_equal(folder.read(entry["file"]), plain.read(same["file"]))
    table = pyarrow.read_table(tmp_path / "parquet" / entry["file"])
    assert table.column_names == ["video", "start", "end", "features"] and set(table["video"].to_pylist()) == {video}
    assert [list(pair) for pair in same["times"]] == list(
        map(list, zip(*(table[c].to_pylist() for c in ("start", "end"))))
    )


def test_parquet_without_its_package_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(GestaError, match="pip install pyarrow"):
        compute_features(levels(), ["x.mp4"], tmp_path / "no", format="parquet", device="cpu")
    assert not (tmp_path / "no").exists()


def test_a_given_folder_is_not_believed(make_video: Callable[..., Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    compute_features(levels(), [str(make_video("a.mp4"))], out, device="cpu")
    line = json.loads((out / "index.jsonl").read_text())
    for file in ("../a.npy", "/etc/passwd", ""):
        (out / "index.jsonl").write_text(json.dumps({**line, "file": file}) + "\n")
        with pytest.raises(GestaError, match="which is not in its folder"):
            FeatureFolder(out, None)
    (out / "index.jsonl").write_text(json.dumps(line) + "\n")
    np.save(out / "a.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(GestaError, match="cannot be read as features"):
        FeatureFolder(out, None).read("a.npy")
    with pytest.raises(GestaError, match=r"holds no features\.json"):
        neighbours(tmp_path, None)


def feature_folder(folder: Path, *rows: tuple[str, str, str, Tensor]) -> Path:
    """A folder of features with these lines: video, file, source, features."""
    features = FeatureFolder(folder, {"format": 1, "kind": "pooled"})
    for video, file, source, values in rows:
        features.add({"video": video, "file": file, "source": source}, values)
    return folder


def test_exact_copies_are_duplicates_of_any_threshold(tmp_path: Path) -> None:
    """In float32 a unit vector's product with itself may be below 1."""
    torch.manual_seed(0)
    values = [torch.randn(1, 96) for _ in range(10)]
    rows = [(f"{n}{copy}.mp4", f"{n}{copy}.npy", f"{n}{copy}", values[n]) for n in range(10) for copy in "ab"]
    pairs = neighbours(feature_folder(tmp_path / "f", *rows), duplicates=1.0).pairs
    assert {(pair.first, pair.second) for pair in pairs} == {(f"{n}a.mp4", f"{n}b.mp4") for n in range(10)}


def test_a_video_that_is_there_twice_counts_once(tmp_path: Path) -> None:
    """In two formats, or named once from its folder and once from the one above."""
    a, b, c = torch.eye(3)[:, None] + 0.1
    lines = [
        ("a.mp4", "a.npy", "A", a), ("a.mp4", "a.safetensors", "A", a), ("/v/a.mp4", "v/a.npy", "A", a),
        ("b.mp4", "b.npy", "B", b), ("b.mp4", "b.safetensors", "B", b), ("c.mp4", "c.npy", "C", c),
    ]  # fmt: skip
    folder = feature_folder(tmp_path / "f", *lines)
    assert not neighbours(folder).pairs
    for query in ("a.mp4", "/v/a.mp4"):
        found = neighbours(folder, query)
        assert [(pair.first, pair.second) for pair in found.pairs] == [("a.mp4", "b.mp4"), ("a.mp4", "c.mp4")]
    (folder / "b.npy").unlink()
    with pytest.raises(GestaError, match=r"b\.npy: cannot be read as features"):
        neighbours(folder)


def test_windows_without_their_times_are_refused(tmp_path: Path) -> None:
    folder = FeatureFolder(tmp_path, {"format": 1, "kind": "pooled"})
    for name in ("a", "b"):
        times = [[0.0, 1.0], [1.0, 2.0]][: 1 + (name == "a")]
        folder.add({"video": name, "file": f"{name}.npy", "source": name, "times": times}, torch.randn(2, 4))
    with pytest.raises(GestaError, match=r"b\.npy: holds 2 windows, its line of the index 1; remove it"):
        neighbours(tmp_path)


def test_features_in_parquet_without_its_package_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = feature_folder(tmp_path, ("a.mp4", "a.npy", "A", torch.ones(1, 2)))
    (folder / "a.npy").rename(folder / "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(GestaError, match=r"a\.parquet: pyarrow, which reads Parquet, is not installed"):
        FeatureFolder(folder, None).read("a.parquet")
