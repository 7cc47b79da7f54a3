"""How fast this machine loads videos, what limits it, and what to do about it (``gesta bench data``)."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from torch import Tensor

from gesta.bench.timing import describe, synchronize
from gesta.config import replace
from gesta.data.batch import Failure
from gesta.data.loader import Loader, training_batches
from gesta.data.samples import TrainingClips, TrainingDraws, read_record_frames
from gesta.data.transforms import training_short_side
from gesta.errors import GestaError, VideoError
from gesta.model import ClipSpec, to_clips
from gesta.processes import choose_device, loader_workers
from gesta.progress import join_lines
from gesta.recipe import TrainConfig
from gesta.records import Label, Record
from gesta.video.find import find_videos
from gesta.video.probe import probe
from gesta.video.read import Selection, stream

MAX_VIDEOS = 64
"""At most this many videos of a folder, evenly spaced, are measured."""

STAGE_LABELS = {
    "decode": "decoding a clip",
    "convert": "scaling, RGB",
    "augment": "augmenting",
    "to_device": "copying to the device",
}
"""What is printed for each stage of loading a clip."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadingSpeed:
    """What loading costs on this machine.

    Attributes:
        videos: number of those that were measured.
        unreadable: sentences about those that were left out, or that the loader replaced by others.
        source: median width x height, frames and codec of the videos.
        clip_text: the clips that are loaded, in words.
        cpu_cores: usable ones.
        decode_fps: frames per second of one thread that decodes from the first frame to the last and discards the
            pixels.
        convert_fps: the same, every frame scaled and turned into RGB.
        milliseconds: one training clip in one process, by stage, medians: ``decode`` (open the file and decode the
            frames that the clip needs, nothing else), ``convert`` (cut out its box, scale it, turn it into RGB),
            ``augment`` (the other augmentations), ``to_device`` (copy to ``device``, to normalised floats). CPU time,
            which other programs hardly change, except the copy to another device, which is wall-clock time.
        clips_per_s: clips per second that the training loader delivers, by number of worker processes (0: none).
        decode_only_clips_per_s: the same if the files are opened and the packets that a clip needs decoded, with as
            little decoding as the reader allows, and the frames are discarded: the loader cannot be faster than this
            on these CPU cores.
        device: where clips are copied to.
        bottleneck: the stage that takes most.
        advice: what to do about it.
    """

    videos: int
    unreadable: list[str]
    source: str
    clip_text: str
    cpu_cores: int
    decode_fps: float
    convert_fps: float
    milliseconds: dict[str, float]
    clips_per_s: dict[int, float]
    decode_only_clips_per_s: dict[int, float]
    device: str
    bottleneck: str
    advice: str

    @property
    def decoding_fraction(self) -> float:
        """The fraction of a clip's CPU time, before it is copied to the device, that is decoding.

        From alternating measurements of the same clips; the rates change with everything else that the machine does.
        """
        return self.milliseconds["decode"] / sum(ms for stage, ms in self.milliseconds.items() if stage != "to_device")

    def to_json(self) -> dict[str, Any]:
        """All attributes as plain values."""
        return {**asdict(self), "decoding_fraction": self.decoding_fraction}

    def __str__(self) -> str:
        total = sum(self.milliseconds.values())
        lines = [
            f"{self.videos} videos, {self.source}; {self.cpu_cores} CPU cores; "
            f"clips of {self.clip_text}, {self.device}",
            f"decoding a video       {self.decode_fps:8.0f} frames/s, {self.convert_fps:.0f} with scaling and RGB "
            "(one process)",
            *(f"{STAGE_LABELS[s]:<23}{ms:8.1f} ms per clip, {ms / total:.0%}" for s, ms in self.milliseconds.items()),
            *(
                f"loader, workers {n:<7}{rate:8.1f} clips/s, {self.decode_only_clips_per_s[n]:.1f} if it only decoded"
                for n, rate in self.clips_per_s.items()
            ),
            f"decoding is {self.decoding_fraction:.0%} of the CPU time of a clip before it is copied to the device",
            f"most time goes to: {STAGE_LABELS[self.bottleneck]}; {self.advice}",
        ]
        return join_lines(lines + [f"left out: {sentence}" for sentence in self.unreadable])


def measure_loading(
    root: str | os.PathLike[str] | Sequence[Record] | None = None,
    *,
    clip: ClipSpec | None = None,
    train: TrainConfig | None = None,
    workers: Sequence[int] | None = None,
    device: str | torch.device = "auto",
    seconds: float = 4.0,
) -> LoadingSpeed:
    """Measure decoding, augmentation, the copy to the device and the training loader.

    Args:
        root: folder of videos, records, or None to generate some in a temporary folder.
        clip: what is loaded; default 16 frames, 4 apart, of 224 x 224.
        train: augmentation, batch size, repeats, decoder; default :class:`TrainConfig` with 8 videos a batch.
        workers: numbers of loader processes to try; default 0, 1, 2, 4 ... up to the CPU cores.
        device: ``auto`` takes the first accelerator there is.
        seconds: of each measurement, start-up not counted.

    Raises:
        GestaError: no readable video.
    """
    if root is None:
        with tempfile.TemporaryDirectory(prefix="gesta-bench-") as folder:
            make_videos(Path(folder))
            return measure_loading(folder, clip=clip, train=train, workers=workers, device=device, seconds=seconds)
    clip, chosen_device = clip or ClipSpec(), choose_device(device)
    train = train or TrainConfig(batch_size=8)
    records, unreadable, source, short_side = _readable(root)
    needed = training_short_side(train.augment, clip.size)
    decode_fps, convert_fps = (_decoding_rate(records, side, seconds, unreadable) for side in (None, needed))
    records = [record for record in records if record.path not in unreadable]
    train = replace(train, batch_size=min(train.batch_size, len(records)), accumulate=1, balanced=False)
    dataset = TrainingClips(records, clip, train, ["any"])
    cpu_cores = loader_workers(-1)
    if workers is None:
        workers = [0, *(2**i for i in range(cpu_cores.bit_length()) if 2**i <= cpu_cores)]
    milliseconds = _stage_milliseconds(dataset, chosen_device, seconds, unreadable)
    decode_only = DecodeOnlyClips(records, clip, train, ["any"])
    decode_only_clips_per_s, clips_per_s = {}, {}
    for n in workers:  # alternating, so that another program that runs meanwhile slows both
        decode_only_clips_per_s[n] = _loading_rate(decode_only, n, seconds, unreadable)
        clips_per_s[n] = _loading_rate(dataset, n, seconds, unreadable)
    bottleneck = max(milliseconds, key=lambda stage: milliseconds[stage])
    sampling = f"stride {clip.stride}" if clip.sampling == "dense" else "uniform"
    return LoadingSpeed(
        videos=sum(record.path not in unreadable for record in records),
        unreadable=list(unreadable.values()),
        source=source,
        clip_text=f"{clip.frames} frames ({sampling}) of {clip.size} x {clip.size}",
        cpu_cores=cpu_cores,
        decode_fps=decode_fps,
        convert_fps=convert_fps,
        milliseconds=milliseconds,
        clips_per_s=clips_per_s,
        decode_only_clips_per_s=decode_only_clips_per_s,
        device=describe(chosen_device),
        bottleneck=bottleneck,
        advice=advise(bottleneck, clips_per_s, short_side, needed),
    )


def make_videos(folder: Path, count: int = 16, frames: int = 150, size: tuple[int, int] = (340, 256)) -> None:
    """Write H.264 files with movement and noise, as hard to decode as camera footage; the same on every machine.

    The default size (width, height) is that of Kinetics after the usual preparation.
    """
    width, height = size
    for i in range(count):
        rng = np.random.default_rng(i)
        scene = rng.integers(0, 256, (height // 8 + 9, width // 8 + 9, 3)).repeat(8, 0).repeat(8, 1)
        noise = rng.integers(-6, 7, (height + 16, width + 16, 1))
        with av.open(str(folder / f"made_{i:02d}.mp4"), "w") as container:
            video = container.add_stream("libx264", rate=25)
            video.width, video.height, video.pix_fmt = width, height, "yuv420p"
            # with its look-ahead libx264 does not always write the same file
            video.options = {"preset": "veryfast", "crf": "23", "x264-params": "rc-lookahead=0"}
            for t in range(frames):
                down, across = (int(32 + 31 * math.sin(0.05 * t + phase)) for phase in (i, i + 1.6))
                shift = rng.integers(0, 16, 2)
                image = scene[down : down + height, across : across + width] // 2 + 64
                image = image + noise[shift[0] : shift[0] + height, shift[1] : shift[1] + width]
                container.mux(video.encode(av.VideoFrame.from_ndarray(image.astype(np.uint8), format="rgb24")))
            container.mux(video.encode())


def _readable(root: str | os.PathLike[str] | Sequence[Record]) -> tuple[list[Record], dict[str, str], str, int]:
    """Some records, path → sentence of unreadable ones, a description of the median video, its short side in pixels."""
    if isinstance(root, str | os.PathLike):
        listing, listed = os.fspath(root), [Record(path=path, name=path, label=0) for path in find_videos(root)]
    else:
        listing, listed = "the list", [dataclasses.replace(record, label=0) for record in root]
    records, unreadable, infos = [], {}, []
    for record in listed[:: max(1, math.ceil(len(listed) / MAX_VIDEOS))]:
        try:
            infos.append(probe(record.path, shows=record.shows))
            records.append(record)
        except VideoError as error:
            unreadable[record.path] = str(error)
    if not records:
        raise GestaError(
            f"{listing}: no readable video to measure with; give a folder of videos, or none to generate some"
        )
    median = sorted(infos, key=lambda info: info.width * info.height)[len(infos) // 2]
    frames = sorted(info.frames for info in infos)[len(infos) // 2]
    description = f"typically {median.width} x {median.height}, {frames} frames, {median.codec}"
    return records, unreadable, description, min(median.width, median.height)


def _decoding_rate(
    records: Sequence[Record], short_side: int | None, seconds: float, unreadable: dict[str, str]
) -> float:
    """Frames per second of sequential decoding; without ``short_side`` only one frame in fifty is converted.

    A video that breaks off counts neither with its frames nor with its time, and is named in ``unreadable``.
    """
    frames, elapsed = 0, 0.0
    left = [record for record in records if record.path not in unreadable]
    while left:
        for record in left:
            begin, last = time.perf_counter(), -1
            try:
                for frame in stream(
                    record.path, short_side=short_side, step=1 if short_side else 50, shows=record.shows
                ):
                    last = frame.index
                    if elapsed + time.perf_counter() - begin > seconds:
                        break
                else:
                    last = last if short_side else probe(record.path, shows=record.shows).frames - 1
            except VideoError as error:
                unreadable[record.path] = str(error)
                continue
            frames, elapsed = frames + last + 1, elapsed + time.perf_counter() - begin
            if elapsed > seconds:
                return frames / elapsed
        left = [record for record in left if record.path not in unreadable]
    raise GestaError(f"no video can be read to its end, the last one: {[*unreadable.values()][-1]}")


class DecodeOnlyClips(TrainingClips):
    """Training clips whose frames are discarded after decoding: the pure decoding limit of a loader."""

    def views(self, index: int, select: Callable[[int], TrainingDraws]) -> tuple[Label, Tensor]:
        """Open the file and decode what the clip needs, with as little decoding as the reader allows; ``(V, 0)``."""

        def without_pixels(frames: int) -> Selection:
            return Selection(select(frames).indices, lambda height, width: (0, 0, 0, 0))  # an empty box

        for record in filter(None, self.streams(index)):
            unmasked = dataclasses.replace(record, masks="")
            read_record_frames(unmasked, without_pixels, self.short_side, self.config.decoder, enlarge=self.enlarge)
        return self.records[index].label, torch.empty((self.config.repeats, 0), dtype=torch.uint8)


def _stage_milliseconds(
    dataset: TrainingClips, device: torch.device, seconds: float, unreadable: dict[str, str]
) -> dict[str, float]:
    """Milliseconds of one clip in this process; it is only decoded, then only cropped, then fully augmented.

    Records that are replaced by others are named in ``unreadable``.
    """
    config, spec = dataset.config, dataset.clip
    crop_only = replace(config.augment, rotate=0.0, color_jitter=0.0, hue=0.0, randaugment=0, erasing=0.0)
    cropped_clips = TrainingClips(dataset.records, spec, replace(config, augment=crop_only), ["any"])
    decode_only = DecodeOnlyClips(dataset.records, spec, config, ["any"])
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {stage: [] for stage in STAGE_LABELS}
    begin = time.perf_counter()
    for epoch, index in ((e, i) for e in itertools.count() for i in range(len(dataset))):
        start = time.process_time()
        _name_failures(dataset, decode_only[epoch, index]["failures"], unreadable)
        after_decoding = time.process_time()
        video = cropped_clips[epoch, index]["video"]
        after_cropping = time.process_time()
        if crop_only != config.augment:
            video = dataset[epoch, index]["video"]
        after_augmenting = time.process_time()
        copy_start = clock()
        to_clips(torch.stack([video]).to(device, non_blocking=True), spec)
        synchronize(device)
        copy_end = clock()
        if index or epoch:  # the first clip pays for what is loaded on first use
            times["decode"].append(after_decoding - start)
            times["convert"].append(after_cropping - after_decoding)
            times["augment"].append(after_augmenting - after_cropping)
            times["to_device"].append(copy_end - copy_start)
        if time.perf_counter() - begin > seconds and times["decode"]:
            break
    medians = {stage: 1000 * statistics.median(values) / config.repeats for stage, values in times.items()}
    # each measurement includes the one before it
    medians["augment"] = max(0.0, medians["augment"] - medians["convert"]) if crop_only != config.augment else 0.0
    medians["convert"] = max(0.0, medians["convert"] - medians["decode"])
    return medians


def _name_failures(dataset: TrainingClips, failures: Sequence[Failure], unreadable: dict[str, str]) -> None:
    for failure in failures:
        unreadable.setdefault(dataset.records[failure.index].path, failure.reason)


def _loading_rate(dataset: TrainingClips, workers: int, seconds: float, unreadable: dict[str, str]) -> float:
    """Clips per second of the training loader, start-up and first batches not counted.

    Records that are replaced by others are named in ``unreadable``.
    """
    config = dataset.config
    epochs = (training_batches(dataset.records, config, epoch) for epoch in itertools.count())
    begin, loaded_clips = 0.0, 0
    ahead = 1 + 2 * workers  # these batches were loaded before the measurement
    for number, batch in enumerate(Loader(dataset, itertools.chain.from_iterable(epochs), workers)):
        _name_failures(dataset, batch["failures"], unreadable)
        if number + 1 == ahead:
            begin = time.perf_counter()
        elif number + 1 > ahead:
            loaded_clips += batch["video"].shape[:2].numel()
            if time.perf_counter() - begin > seconds:
                return loaded_clips / (time.perf_counter() - begin)
    raise AssertionError("epochs do not end")


def advise(bottleneck: str, rates: dict[int, float], short_side: int, needed: int) -> str:
    """What would make loading faster.

    Args:
        bottleneck: the stage that takes most.
        rates: clips per second by number of worker processes.
        short_side: of the videos in pixels.
        needed: short side to which they are scaled for training.
    """
    best = max(rates, key=lambda n: rates[n])
    text = (
        f"with {best} loader process{'es' * (best != 1)} (train.workers) the loader gives {rates[best]:.1f} clips/s, "
        "and a model that trains faster waits for it"
    )
    side = needed + needed % 2 if short_side > 1.25 * needed else short_side
    smaller = f"with a short side of {side} instead of {short_side} pixels and " if side < short_side else ""
    command = f"gesta data prepare FOLDER COPY --short-side {side}"
    if bottleneck == "decode":
        return f"{text}; storing videos {smaller}with a key frame every second makes reading a clip cheaper ({command})"
    if bottleneck == "convert":
        return f"{text}; fewer frames a clip, or smaller videos, are cheaper to scale" + f" ({command})" * bool(smaller)
    if bottleneck == "augment":
        return f"{text}; train.augment with less randaugment or color_jitter makes a clip cheaper"
    return f"{text}; fewer or smaller frames make a clip cheaper to copy and normalise"
