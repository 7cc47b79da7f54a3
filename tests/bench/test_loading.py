"""The measurements measure what they say; no test asserts a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from av.video.reformatter import VideoReformatter

from gesta.bench import loading, timing
from gesta.bench.loading import DecodeOnlyClips, advise, make_videos, measure_loading
from gesta.bench.model import measure_model
from gesta.cli import main
from gesta.data.batch import Batch
from gesta.data.samples import TrainingClips
from gesta.errors import BrokenOffError, GestaError
from gesta.model import ClipSpec
from gesta.models import model_config
from gesta.recipe import TrainConfig
from gesta.records import Record
from gesta.video.decode import VideoFile
from gesta.video.picture import FrameBuffer
from gesta.video.probe import probe
from gesta.video.read import read

CLIP = ClipSpec(frames=4, stride=2, size=32)


def test_loading_is_measured_stage_by_stage(make_video: Callable[..., Path], tmp_path: Path) -> None:
    for i in range(3):
        make_video(f"v/{i}.mp4")
    (tmp_path / "v/broken.mp4").write_bytes(b"nothing" * 99)
    speed = measure_loading(tmp_path / "v", clip=CLIP, workers=[0, 1], device="cpu", seconds=0.2)
    assert (speed.videos, list(speed.clips_per_s), set(speed.milliseconds)) == (
        3,
        [0, 1],
        {*["decode", "convert", "augment"], "to_device"},
    )
    stages = speed.milliseconds
    assert speed.decoding_fraction == stages["decode"] / (stages["decode"] + stages["convert"] + stages["augment"])
    assert (
        list(speed.decode_only_clips_per_s) == [0, 1]
        and 0 < speed.decoding_fraction <= 1
        and speed.to_json()["decoding_fraction"] == speed.decoding_fraction
    )
    assert f"{speed.decoding_fraction:.0%} of the CPU time of a clip" in str(speed)
    assert min(speed.decode_fps, speed.convert_fps, *speed.clips_per_s.values()) > 0
    assert all(ms >= 0 for ms in speed.milliseconds.values())
    assert speed.bottleneck == max(speed.milliseconds, key=lambda s: speed.milliseconds[s]) and speed.advice
    assert len(speed.unreadable) == 1 and "broken.mp4" in speed.unreadable[0]
    assert "64 x 48" in speed.source and "24 frames" in speed.source
    assert json.loads(json.dumps(speed.to_json()))["videos"] == 3
    assert "broken.mp4" in str(speed) and "clips/s" in str(speed)


def test_records_and_training_settings_are_used(
    make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(make_video("a.mp4"))
    shapes: list[tuple[int, ...]] = []
    loader = loading.Loader

    def record(dataset: TrainingClips, *options: Any) -> Iterator[Batch]:
        for batch in loader(dataset, *options):
            shapes.append(tuple(batch["video"].shape))
            yield batch

    monkeypatch.setattr(loading, "Loader", record)
    records = [Record(path=path, name="x", label=7, start=s, end=s + 10) for s in range(5)]
    measure_loading(
        records, clip=CLIP, train=TrainConfig(batch_size=4, repeats=3), workers=[0], device="cpu", seconds=0.1
    )
    assert set(shapes) == {(4, 3, 4, 3, 32, 32), (4, 3, 0)}  # clips, and those that are decoded only


def test_a_video_that_breaks_off_is_left_out_and_replaced_ones_are_named(
    make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, half, short = (str(make_video(f"{name}.mp4")) for name in ("good", "half", "short"))
    decoded = loading.stream

    def breaking_off(source: str, **options: Any) -> Iterator[Any]:
        yield next(decoded(source, **options))
        if source == half:
            raise BrokenOffError(f"{half}: breaks off")
        yield from decoded(source, **options)

    monkeypatch.setattr(loading, "stream", breaking_off)
    records = [Record(path=path, name=path, label=0) for path in (half, good)]
    records.append(Record(path=short, name=short, label=0, start=500, end=600))  # it has 24 frames
    speed = measure_loading(records, clip=CLIP, workers=[0], device="cpu", seconds=0.1)
    assert speed.videos == 1 and min(speed.decode_fps, speed.convert_fps, speed.clips_per_s[0]) > 0
    assert len(speed.unreadable) == 2 and speed.unreadable[0] == f"{half}: breaks off"
    assert speed.unreadable[1].startswith(f"{short}: has 24 frames")
    with pytest.raises(GestaError, match=r"to its end, the last one: .*half\.mp4: breaks off"):
        measure_loading(records[:1], clip=CLIP, workers=[0], device="cpu", seconds=0.1)


def test_nothing_to_measure_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(GestaError, match="no readable video"):
        measure_loading(tmp_path, seconds=0.1)


def test_the_limit_decodes_what_the_clip_needs_and_converts_nothing(
    make_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [Record(path=str(make_video("a.mp4")), name="a", label=0, start=5, end=20)]
    decoded: list[list[int]] = []
    fill = VideoFile.fill

    def record(self: VideoFile, clip: FrameBuffer) -> int:
        decoded.append(clip.numbers)
        return fill(self, clip)

    monkeypatch.setattr(VideoFile, "fill", record)
    for repeats in (1, 2):
        config = TrainConfig(repeats=repeats)
        TrainingClips(records, CLIP, config, ["any"])[3, 0]
        with monkeypatch.context() as patch:
            patch.setattr(VideoReformatter, "reformat", None)
            sample = DecodeOnlyClips(records, CLIP, config, ["any"])[3, 0]
        assert sample["video"].shape == (repeats, 0) and decoded[-1] == decoded[-2] and min(decoded[-1]) >= 5


@pytest.mark.parametrize("stage", ["decode", "convert", "augment", "to_device"])
def test_the_advice_is_about_the_bottleneck(stage: str) -> None:
    advice = {s: advise(s, {0: 1.0, 2: 5.0, 4: 3.0}, 720, 256) for s in ("decode", "convert", "augment", "to_device")}
    assert "2 loader processes" in advice[stage] and "5.0 clips/s" in advice[stage]
    assert len(set(advice.values())) == 4
    assert "720" in advice["decode"] and "720" not in advise("decode", {1: 1.0}, 256, 256)


def test_made_videos_are_the_same_each_time_and_move(tmp_path: Path) -> None:
    videos = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        make_videos(tmp_path / name, count=1, frames=12, size=(96, 64))
        (path,) = (tmp_path / name).iterdir()
        videos.append(read(path, lambda n: torch.arange(n)))
    assert torch.equal(*videos) and probe(path).frames == 12
    assert (videos[0][0].float() - videos[0][-1].float()).abs().mean() > 10


def test_a_model_is_measured() -> None:
    config = model_config("r3d_tiny", classes=5)
    config.clip.frames, config.clip.size = 4, 32
    found = measure_model(config, batch=2, device="cpu", seconds=0.1)
    assert found.parameters == sum(p.numel() for p in config.build().parameters())
    assert found.forward > 0 and found.training > 0 and found.first_pass > 0
    assert found.memory["training"] >= found.memory["forward"] > 2**20
    assert json.loads(json.dumps(found.to_json()))["batch"] == 2
    assert "3 x 4 x 32 x 32" in str(found) and "clips/s" in str(found)
    with pytest.raises(GestaError, match="at least one"):
        measure_model(config, batch=0)


def test_clips_of_several_streams_are_named_as_they_are() -> None:
    config = model_config("fusion_tiny", num_classes=3)
    config.clip.frames, config.clip.size = 4, 32
    assert f"clips of {3 * len(config.clip.streams)} x 4 x 32 x 32" in str(
        measure_model(config, batch=1, device="cpu", seconds=0.0)
    )


def test_a_batch_without_clips_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["bench", "model", "r3d_tiny", "--batch", "0"])
    assert "--batch: '0' is not a whole number from 1 on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "durations", "fastest"), [(0.0, [3.0], 3.0), (10.0, [3.0, 5.0, 4.0], 4.0), (3.5, [3.0, 5.0], 5.0)]
)
def test_a_first_run_counts_only_where_there_is_no_other(
    seconds: float, durations: list[float], fastest: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It pays for what is loaded on first use, and may be the fastest by chance only."""
    clock, waiting = [0.0], list(durations)

    def work() -> None:
        clock[0] += waiting.pop(0)

    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert timing.fastest_run(work, seconds) == fastest and not waiting


def test_several_label_spaces_and_autocast_are_measured() -> None:
    config = model_config("r3d_tiny", classes={"verb": 3, "noun": 4})
    config.clip.frames, config.clip.size = 4, 32
    assert measure_model(config, batch=2, precision="bf16-mixed", device="cpu", seconds=0.1).precision == "bf16-mixed"
