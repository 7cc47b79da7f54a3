"""How long alignment takes on this machine, beside the paper's loop, and how much of it is obvious."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gesta.alignment.chain import compose, find_routes, similarity
from gesta.alignment.statistics import statistics
from gesta.data.batch import Failure
from gesta.data.samples import TestViews
from gesta.errors import GestaError
from gesta.model import Scores, VideoModel, to_clips
from gesta.plugins.ata import tile
from gesta.processes import choose_device, cpu_cores
from gesta.recipe import EvaluateConfig
from gesta.records import Record, by_space

EDGES = (7, 14, 28, 56)
"""Of the maps that are measured: 49, 196, 784 and 3136 tokens, the stages of ConvNeXt; ViT-B/16 has 196."""

WIDTH = 64
"""Channels of the features that are made."""

ENTRIES = 40_000_000
"""Of the similarity matrices of one measurement; pairs of frames beyond are extrapolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """Milliseconds to find the routes through one clip: similarities, assignments and their composition.

    Attributes:
        places: N, tokens per frame.
        frames: T.
        loop: the paper's algorithm, frame after frame with SciPy.
        threads: all pairs of frames in parallel with SciPy.
        ours: :func:`gesta.alignment.chain.find_routes` on the processor.
        tiles: the same in the tiles that ATA takes by itself for so large a map, or None.
        gpu: ours on the accelerator, or None.
        pairs: pairs of frames that were measured; fewer than T - 1: the figures are extrapolated.
    """

    places: int
    frames: int
    loop: float
    threads: float
    ours: float
    tiles: float | None
    gpu: float | None
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The assignments of one clip.

    Attributes:
        what: features, or model and clip.
        problems: assignments per clip.
        certified: share of them that was proved optimal without a solver.
        forward: milliseconds of a whole forward pass, or None.
        share: of it that assignments take, or None.
    """

    what: str
    problems: int
    certified: float
    forward: float | None
    share: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignBench:
    """What alignment costs on this machine.

    Attributes:
        cells: by size of the clip.
        parts: of models.
        cpu_cores: usable ones.
        device: the accelerator, or None.
    """

    cells: list[Cell]
    parts: list[Part]
    cpu_cores: int
    device: str | None

    def to_json(self) -> dict[str, Any]:
        """All attributes as plain values."""
        return asdict(self)

    def __str__(self) -> str:
        lines = [
            f"milliseconds to align one clip, {self.cpu_cores} CPU cores, {self.device or 'no GPU'}",
            f"{'N':>5}{'T':>4}{'paper loop':>12}{'threads':>11}{'ours':>11}{'in tiles':>11}{'GPU':>11}   loop / ours",
        ]
        for c in self.cells:
            times = (c.loop, c.threads, c.ours, c.tiles, c.gpu)
            shown = "".join(f"{'–' if t is None else f'{t:.1f}':>11}" for t in times)
            note = "" if c.pairs >= c.frames - 1 else f"   (extrapolated from {c.pairs} pairs of frames)"
            lines.append(f"{c.places:>5}{c.frames:>4} {shown}{c.loop / c.ours:>9.2f} ×{note}")
        for part in self.parts:
            text = f"{part.what}: {part.problems} assignments a clip, {part.certified:.0%} of them obvious"
            if part.forward is not None:
                text += f"; they take {part.share:.1%} of {part.forward:.0f} ms forward"
            lines.append(text)
        return "\n".join(lines)


def bench_align(
    models: Sequence[tuple[str, VideoModel]] = (),
    *,
    video: str | os.PathLike[str] | None = None,
    edges: Sequence[int] = EDGES,
    frames: Sequence[int] = (8, 32),
    device: str | torch.device = "auto",
    seconds: float = 0.5,
) -> AlignBench:
    """Measure alignment by itself and in models.

    Args:
        models: names and models with ATA; they are moved to ``device``.
        video: a video whose middle clip models see as well as a made one.
        edges: of the square maps.
        frames: of the clips.
        device: ``auto`` takes the first accelerator there is.
        seconds: of each measurement; one run at least.

    Raises:
        GestaError: a model that aligns nothing, an unreadable video.
    """
    place = choose_device(device)
    parts = [_part("random features", lambda: find_routes(torch.randn(1, 8, 196, WIDTH), (14, 14)), forward=False)]
    for name, model in models:
        model.to(place).eval()
        spec = model.config.clip
        clips = {
            "made clip": moving(spec.size, spec.frames, 3).unflatten(2, (spec.size, spec.size)).permute(0, 4, 1, 2, 3)
        }
        if video is not None:
            clips[os.path.basename(video)] = _middle_clip(model, video)
        for kind, clip in clips.items():
            parts.append(_forward_part(f"{name}, {kind}", model, clip.to(place)))
    return AlignBench(
        cells=[_cell(edge, t, place, seconds) for edge in edges for t in frames],
        parts=parts,
        cpu_cores=cpu_cores(),
        device=None
        if place.type == "cpu"
        else torch.cuda.get_device_name(place)
        if place.type == "cuda"
        else place.type,
    )


def moving(edge: int, frames: int, width: int, seed: int = 0) -> Tensor:
    """Features ``(1, T, edge², width)`` of a moving scene: smooth in space, shifted by a place per frame, with noise.

    Of so much noise that every third place is not some token's best match, as in features of genuine videos.
    """
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(1, width, edge // 4 + 2, edge // 4 + 2, generator=draw)
    field = F.interpolate(coarse, size=(edge + frames, edge + frames), mode="bicubic", align_corners=False)[0]
    scene = torch.stack([field[:, t : t + edge, t : t + edge].flatten(1).T for t in range(frames)])
    return (scene + 0.5 * torch.randn(scene.shape, generator=draw))[None]


def paper_loop(tokens: Tensor) -> Tensor:
    """Routes ``(T, N)`` through one clip ``(T, N, C)`` as in the paper's Algorithm 1, slips repaired."""
    aligned, *later = F.normalize(tokens, dim=-1)
    routes = [torch.arange(tokens.shape[1])]
    for frame in later:
        _, columns = linear_sum_assignment((aligned @ frame.T).numpy(), maximize=True)
        routes.append(torch.from_numpy(columns))
        aligned = frame[routes[-1]]
    return torch.stack(routes)


def scipy_threads(tokens: Tensor) -> Tensor:
    """The same routes from all pairs of frames at once, each solved by SciPy in a thread."""
    with ThreadPoolExecutor(cpu_cores()) as pool:
        solved = pool.map(lambda s: linear_sum_assignment(s, maximize=True)[1], similarity(tokens[None])[0].numpy())
    return compose(torch.stack([torch.from_numpy(columns) for columns in solved])[None])[0]


def _cell(edge: int, frames: int, device: torch.device, seconds: float) -> Cell:
    # each thread gets two pairs at least; the loop, which has no threads, is extrapolated from fewer
    pairs = min(frames - 1, max(ENTRIES // edge**4, 2 * cpu_cores()))
    looped = min(frames - 1, max(ENTRIES // edge**4, 3))
    size, tokens = (edge, edge), moving(edge, max(pairs, looped) + 1, WIDTH)
    clip = tokens[:, : pairs + 1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of tiles
        step = tile(size)

    def per_clip(work: Callable[[], object], measured: int) -> float:
        return 1e3 * _seconds(work, seconds) * (frames - 1) / measured

    there = clip.to(device)
    return Cell(
        places=edge**2,
        frames=frames,
        loop=per_clip(lambda: paper_loop(tokens[0, : looped + 1]), looped),
        threads=per_clip(lambda: scipy_threads(clip[0]), pairs),
        ours=per_clip(lambda: find_routes(clip, size), pairs),
        tiles=per_clip(lambda: find_routes(clip, size, coarse=step), pairs) if step > 1 else None,
        gpu=per_clip(lambda: find_routes(there, size).cpu(), pairs) if device.type != "cpu" else None,
        pairs=min(pairs, looped),
    )


def _seconds(work: Callable[[], object], seconds: float) -> float:
    """The fastest of some runs; the first counts only if there is no time for another."""
    begin, fastest = time.perf_counter(), float("inf")
    work()
    first = time.perf_counter() - begin
    while time.perf_counter() - begin < seconds:
        again = time.perf_counter()
        work()
        fastest = min(fastest, time.perf_counter() - again)
    return min(fastest, first)


def _part(what: str, work: Callable[[], object], *, forward: bool = True) -> Part:
    begin = time.perf_counter()
    with statistics() as counted:
        work()
    took = time.perf_counter() - begin
    if not counted.problems:
        raise GestaError(f"{what}: this model aligns nothing; name one with ATA, such as ata_vitb")
    return Part(
        what=what,
        problems=counted.problems,
        certified=counted.certified / counted.problems,
        forward=1e3 * took if forward else None,
        share=counted.seconds / took if forward else None,
    )


@torch.inference_mode()
def _forward_part(what: str, model: VideoModel, clip: Tensor) -> Part:
    model(clip)  # pays for what is loaded and compiled on first use
    return _part(what, lambda: _scores(model(clip)).sum().item())  # which waits for the device


def _scores(scores: Scores) -> Tensor:
    return torch.cat(list(by_space(scores).values()), 1)


def _middle_clip(model: VideoModel, video: str | os.PathLike[str]) -> Tensor:
    """One clip of the middle of a video, as the model eats it: ``(1, 3, T, S, S)``."""
    record = Record(path=os.fspath(video), name=os.fspath(video), label=0)
    sample = TestViews([record], model.config.clip, EvaluateConfig(clips=1, crops=1))[0]
    if isinstance(sample, Failure):
        raise GestaError(sample.reason)
    return to_clips(sample["video"][None], model.config.clip)
