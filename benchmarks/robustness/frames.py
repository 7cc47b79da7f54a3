"""Are frames the right ones? Files of every container and codec that PyAV can write, with every kind of wrong clock.

    python benchmarks/robustness/frames.py [--pictures 36] [--every 1] [--only TEXT] [--workers 1] [--json]

Each file is decoded from its beginning, packet by packet, without gesta. Then gesta reads every single frame, every
clip of eight frames (at every start, 1 and 3 apart, the end looped) and the test clip, and where a codec has a shortcut
all of that again as from a large file, which is not held in memory. Prints for each clock how many files and reads
there were, how many reads took the shortcut, and how many gave another picture or another number of frames than the
plain decode; exits with 1 if any did.

Clocks: ``plain``; ``negative`` times; ``gapped`` by a minute in the middle; ``wrapped`` at the end of 33 bits;
``repeated``, two frames each at one time; ``uneven``; ``as decoded``, presentation times that follow the order of the
file; ``set back`` in the middle, between and inside groups of pictures; ``joined``: two files one after the other, with
equal, overlapping and interleaved clocks; ``joined inside``: the second begins with pictures that refer to what is not
there.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

import av
import av.logging
import numpy as np
import torch

from gesta.data.clips import test_indices
from gesta.data.workers import run_each
from gesta.errors import GestaError
from gesta.model import ClipSpec
from gesta.video import decode, index
from gesta.video.picture import FrameConverter
from gesta.video.probe import probe
from gesta.video.read import read

UNIT = Fraction(1, 90000)
STEP = 3600
"""Units between frames: 25 a second, whole milliseconds, and an even number, so that half a step is one, too."""

GOP = 9

CONTAINERS = {
    "3g2": "3g2", "3gp": "3gp", "asf": "wmv", "avi": "avi", "dv": "dv", "dvd": "vob", "f4v": "f4v",
    "film_cpk": "cpk", "flv": "flv", "gif": "gif", "h261": "h261", "h263": "h263", "h264": "h264", "hevc": "hevc",
    "ismv": "ismv", "ivf": "ivf", "m4v": "m4v", "matroska": "mkv", "mov": "mov", "mp4": "mp4", "mpeg": "mpg",
    "mpeg1video": "m1v", "mpeg2video": "m2v", "mpegts": "ts", "mxf": "mxf", "mxf_opatom": "mxf", "nut": "nut",
    "obu": "obu", "ogg": "ogg", "rm": "rm", "swf": "swf", "vob": "vob", "webm": "webm", "wtv": "wtv",
    "yuv4mpegpipe": "y4m",
}  # fmt: skip
"""Suffix by the name of the muxer."""

CODECS = {
    "libx264": {"x264-params": "keyint=9:min-keyint=9:scenecut=0:bframes=3:b-adapt=0:b-pyramid=normal"},
    "libx264, open": {"x264-params": "keyint=9:scenecut=0:open-gop=1:bframes=2:b-adapt=0"},
    "libx264, no B": {"x264-params": "keyint=9:min-keyint=9:scenecut=0:bframes=0"},
    "libx265": {"x265-params": "keyint=9:min-keyint=9:scenecut=0:bframes=3:log-level=none:pools=none"},
    "libx265, open": {"x265-params": "keyint=9:scenecut=0:open-gop=1:bframes=3:log-level=none:pools=none"},
    "libsvtav1": {"preset": "12", "svtav1-params": "lp=1:keyint=8"},
    "libvpx": {"auto-alt-ref": "1", "lag-in-frames": "12", "arnr-maxframes": "5", "cpu-used": "8"},
    "libvpx-vp9": {"auto-alt-ref": "1", "lag-in-frames": "12", "cpu-used": "8"},
    "mpeg4": {"bf": "2"}, "mpeg2video": {"bf": "2"}, "mpeg1video": {"bf": "2"},
    "amv": {}, "asv1": {}, "asv2": {}, "cfhd": {}, "cinepak": {}, "dvvideo": {}, "dxv": {}, "ffv1": {},
    "ffvhuff": {}, "flashsv": {}, "flashsv2": {}, "flv": {}, "gif": {}, "h261": {}, "h263": {}, "h263p": {},
    "huffyuv": {}, "jpeg2000": {}, "magicyuv": {}, "mjpeg": {}, "msmpeg4": {}, "msmpeg4v2": {}, "msvideo1": {},
    "png": {}, "prores_ks": {}, "qtrle": {}, "rawvideo": {}, "roqvideo": {}, "rpza": {}, "rv10": {}, "rv20": {},
    "snow": {}, "speedhq": {}, "svq1": {}, "utvideo": {}, "v210": {}, "wmv1": {}, "wmv2": {}, "zlib": {},
}  # fmt: skip
"""Options of each encoder."""

SIZES = {"h261": (176, 144), "dvvideo": (720, 576), "h263": (128, 96), "cfhd": (64, 64)}
"""Width and height where 64 x 48 is not possible."""

Times = list[tuple[int, int]]
"""Presentation and decoding time of each packet, in the order of the file."""


def _plain(times: Times) -> Times:
    return times


def _gapped(times: Times) -> Times:
    middle = len(times) // 2 * STEP
    return [tuple(t + 60 * 90000 * (t >= middle) for t in pair) for pair in times]  # type: ignore[misc]


def _wrapped(times: Times) -> Times:
    start = 2**33 - len(times) // 2 * STEP
    return [(pts + start, dts + start) for pts, dts in times]


def _repeated(times: Times) -> Times:
    early = min(dts - pts // (2 * STEP) * 2 * STEP for pts, dts in times)
    return [(pts // (2 * STEP) * 2 * STEP, dts - max(early, 0) - 40 * STEP) for pts, dts in times]


def _uneven(times: Times) -> Times:
    rng = np.random.default_rng(0)
    shown = sorted(pts for pts, _ in times)
    moved = dict(zip(shown, np.cumsum(rng.integers(1, 8, len(shown)) * STEP // 2).tolist()))
    decoding = [min(moved.values()) + (i - 20) * STEP // 2 for i in range(len(times))]
    return [(moved[pts], dts) for (pts, _), dts in zip(times, decoding)]


def _as_decoded(times: Times) -> Times:
    return [(i * STEP, i * STEP) for i in range(len(times))]


def _shifted(by: int) -> Callable[[Times], Times]:
    return lambda times: [(pts + by, dts + by) for pts, dts in times]


def _set_back(by: float, at: int) -> Callable[[Times], Times]:
    """From the frame ``at`` on, presentation times are ``by`` frames lower; decoding times still rise."""

    def moved(times: Times) -> Times:
        return [(pts - int(by * STEP) * (pts >= at * STEP), (i - 90) * STEP) for i, (pts, _) in enumerate(times)]

    return moved


CLOCKS: dict[str, Callable[[Times], Times]] = {
    "plain": _plain,
    "negative": _shifted(-20 * STEP),
    "gapped": _gapped,
    "wrapped": _wrapped,
    "repeated": _repeated,
    "uneven": _uneven,
    "as decoded": _as_decoded,
    "set back at a key frame": _set_back(5.5, 2 * GOP),
    "set back inside": _set_back(1.5, 2 * GOP + 4),
    "set back far": _set_back(12.0, 2 * GOP + 3),
}

DAMAGED = "joined inside"
"""What its packets promise is not what comes: without a look at every picture, frames after the join may be numbered by
packets, as in any damaged file. It is counted here and does not decide the exit status."""

JOINS = {"joined": (0, 0), "joined, overlapping": (8 * STEP, 0), "joined, interleaved": (9 * STEP // 2, 0),
         DAMAGED: (8 * STEP, 4)}  # fmt: skip
"""By how much the second file's clock is later than the first one's, and how many of its packets are missing."""


class Encoded:
    """The packets of one encoder, to be written into a container with any clock."""

    def __init__(self, container: str, codec: str, pictures: int, seed: int = 0) -> None:
        self.container, self.codec = container, codec.split(",")[0]
        self.options, self.size, self.pictures, self.seed = CODECS[codec], SIZES.get(codec, (64, 48)), pictures, seed
        self._packets: list[tuple[bytes, bool]] = []
        self._times: Times = []

    def write(self, clock: Callable[[Times], Times], without: int = 0) -> bytes:
        """The file, less some packets; raises where encoder, container and these times do not go together."""
        target = io.BytesIO()
        with av.open(target, "w", format=self.container) as output:
            stream: Any = output.add_stream(self.codec, rate=25)
            stream.width, stream.height = self.size
            formats = [f.name for f in av.Codec(self.codec, "w").video_formats or []]
            stream.pix_fmt = next((f for f in ("yuv420p", "yuvj420p") if f in formats), (formats or ["yuv420p"])[0])
            stream.codec_context.time_base = Fraction(1, 25)
            stream.codec_context.gop_size = GOP
            stream.codec_context.thread_count = 1
            stream.options = self.options
            output.start_encoding()
            if not self._packets:
                packets = [packet for frame in self._frames() for packet in stream.encode(frame)] + stream.encode()
                self._packets = [(bytes(packet), packet.is_keyframe) for packet in packets]
                self._times = [
                    (STEP * (i if packet.pts is None else packet.pts), STEP * (i if packet.dts is None else packet.dts))
                    for i, packet in enumerate(packets)
                ]
            for (data, is_key), (pts, dts) in list(zip(self._packets, clock(self._times)))[without:]:
                packet = av.Packet(data)
                packet.stream, packet.is_keyframe = stream, is_key
                packet.pts, packet.dts, packet.time_base, packet.duration = pts, dts, UNIT, STEP
                output.mux(packet)
        return target.getvalue()

    def _frames(self) -> Iterator[av.VideoFrame]:
        rng = np.random.default_rng(self.seed)
        width, height = self.size
        scene = rng.integers(0, 256, (height // 4 + 16, width // 4 + 32, 3), dtype=np.uint8).repeat(4, 0).repeat(4, 1)
        for i in range(self.pictures):
            left, top = 2 * i % 64, 3 * i % 40
            image = np.ascontiguousarray(scene[top : top + height, left : left + width])
            image[:6, :] = 5 * i % 256
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, 25)
            yield frame


def written(container: str, codec: str, pictures: int, clocks: list[str]) -> Iterator[tuple[str, bytes]]:
    """The files of one container and codec, by clock; without those that cannot be written."""
    whole, first = Encoded(container, codec, pictures), Encoded(container, codec, pictures // 2)
    second = Encoded(container, codec, pictures // 2, seed=1)
    for name in clocks:
        if container == "nut" and name.startswith("set back"):
            continue  # an assertion of libav's muxer ends the process
        with contextlib.suppress(Exception):  # a container that refuses these times, or this codec
            if name in CLOCKS:
                yield name, whole.write(CLOCKS[name])
            else:
                shift, without = JOINS[name]
                yield name, first.write(_plain) + second.write(_shifted(shift), without)


def plain_decode(path: Path, hold: bool = False) -> list[np.ndarray]:
    """All frames, decoded from the beginning by one thread; what cannot be decoded is left out.

    With ``hold`` the decoder gets no buffer back: a damaged picture that it fills in part then differs.
    """
    frames: list[np.ndarray] = []
    held = []
    convert = FrameConverter(None)
    with contextlib.suppress(av.error.FFmpegError), av.open(str(path)) as container:
        stream = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            return []
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        with contextlib.suppress(av.error.FFmpegError, IndexError):
            for packet in container.demux(stream):
                with contextlib.suppress(av.error.FFmpegError):
                    for frame in packet.decode():
                        frames.append(convert(frame).copy())
                        held += [frame] * hold
    return frames


@dataclass
class Tally:
    """What came of the files of one clock."""

    files: int = 0
    unreadable: int = 0
    reads: int = 0
    shortcuts: int = 0
    wrong_reads: int = 0
    wrong_counts: int = 0
    wrong_times: int = 0
    wrong: list[str] = field(default_factory=list)


def judge(path: Path, name: str, tally: Tally, every: int = 1) -> None:
    """Compare all that gesta reads from a file with a plain decode; only each ``every``-th frame and clip."""
    truth = plain_decode(path)
    tally.files += 1
    if not truth:
        tally.unreadable += 1
        with contextlib.suppress(GestaError):
            read(path, torch.arange)
            tally.wrong.append(f"{name}: gesta reads what a plain decode does not")
        return
    n = len(truth)
    random = {k for k, other in enumerate(plain_decode(path, hold=True)) if not np.array_equal(truth[k], other)}
    wanted = [[k] for k in range(0, n, every)]
    wanted += [[(start + step * i) % n for i in range(8)] for step in (1, 3) for start in range(0, n, every)]
    wanted += [test_indices(n, ClipSpec(frames=8, stride=2), 1, "even", "loop")[0].tolist()]
    shortcuts = 0
    fill = decode.VideoFile.fill

    def counted(file: decode.VideoFile, buffer: Any) -> int:
        nonlocal shortcuts
        frames = fill(file, buffer)
        shortcuts += file._shortcut
        return frames

    decode.VideoFile.fill = counted  # type: ignore[method-assign]
    held = index.HELD_BYTES
    try:
        for limit in (held, 0):
            index.HELD_BYTES = limit  # type: ignore[misc]
            before, wrong = shortcuts, 0
            for numbers in wanted:
                images = read(path, lambda count, chosen=numbers: torch.tensor(chosen), short_side=None).numpy()
                wrong += any(
                    a.shape == truth[k].shape and k not in random and not np.array_equal(a, truth[k])
                    for a, k in zip(images, numbers)
                )
                tally.reads += 1
            tally.wrong_reads += wrong
            if wrong:
                tally.wrong.append(f"{name}: {wrong} of {len(wanted)} reads")
            if shortcuts == before:
                break
        counts: list[int] = []
        read(path, lambda count: counts.append(count) or torch.tensor([0]))  # type: ignore[func-returns-value]
        if counts[-1] != n:
            tally.wrong_counts += 1
            tally.wrong.append(f"{name}: {counts[-1]} frames, decoded {n}")
        info = probe(path)
        with decode.VideoFile(str(path)) as file:
            times = file.times() if file.has_times else np.arange(n)
        if (np.diff(times) <= 0).any() or times[0] < 0 or (info.fps and info.duration < 0.9 * n / max(info.fps, 1)):
            tally.wrong_times += 1
            tally.wrong.append(f"{name}: times {times[:3]} to {times[-1]}, {info.fps} fps, {info.duration} s")
    except (GestaError, ValueError) as error:
        tally.wrong.append(f"{name}: {error}")
    finally:
        decode.VideoFile.fill = fill  # type: ignore[method-assign]
        index.HELD_BYTES = held  # type: ignore[misc]
        tally.shortcuts += shortcuts


class Job(NamedTuple):
    """A container and a codec, and how thoroughly to judge their files."""

    container: str
    codec: str
    pictures: int
    every: int


def judge_all(job: Job) -> dict[str, Tally]:
    """All files of one container and codec, by clock; in a process of its own, as some encoders crash."""
    av.logging.set_level(av.logging.PANIC)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # SVT-AV1 writes pages
    torch.set_num_threads(1)
    tallies = {name: Tally() for name in [*CLOCKS, *JOINS]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{CONTAINERS[job.container]}"
        for name, data in written(job.container, job.codec, job.pictures, list(tallies)):
            path.write_bytes(data)
            if name in JOINS and len(plain_decode(path)) <= job.pictures // 2:
                continue  # a format of which libav does not read the second file
            judge(path, f"{name}, {job.container} {job.codec}", tallies[name], job.every)
    return tallies


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=36, help="in each file (default %(default)s)")
    parser.add_argument("--every", type=int, default=1, help="only each such frame and clip (default %(default)s)")
    parser.add_argument("--only", default="", help="containers and codecs whose name, CONTAINER CODEC, contains this")
    parser.add_argument("--workers", type=int, default=1, help="processes (default %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    jobs = [
        Job(container, codec, options.pictures, options.every)
        for container in CONTAINERS
        for codec in CODECS
        if options.only in f"{container} {codec}"
    ]
    total = {name: Tally() for name in [*CLOCKS, *JOINS]}
    crashed = []
    for position, tallies, reason in run_each(judge_all, jobs, options.workers, lambda job: 3600.0):
        if tallies is None:
            crashed.append(f"{jobs[position].container} {jobs[position].codec}: {reason}")
            print(crashed[-1], flush=True)
            continue
        for name, tally in tallies.items():
            print(*tally.wrong, sep="\n", end="\n" * bool(tally.wrong), flush=True)
            for key, value in asdict(tally).items():
                setattr(total[name], key, getattr(total[name], key) + value)
    if options.json:
        print(json.dumps({name: asdict(tally) for name, tally in total.items()}, indent=2))
    else:
        columns = ["files", "unreadable", "reads", "shortcuts", "wrong_reads", "wrong_counts", "wrong_times"]
        print(f"{'clock':26}", *(f"{column:>13}" for column in columns))
        for name, tally in total.items():
            print(f"{name:26}", *(f"{getattr(tally, column):13}" for column in columns))
        print(f"{sum(t.files for t in total.values())} files, {sum(t.reads for t in total.values())} reads")
    sys.exit(any(tally.wrong for name, tally in total.items() if name != DAMAGED))


if __name__ == "__main__":
    main()
