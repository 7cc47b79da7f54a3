"""How long alignment takes on this machine, beside the paper's loop, and how often no solver is needed.

``gesta bench align`` prints it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from gesta.alignment.chain import compose, find_routes, similarity
from gesta.alignment.statistics import statistics
from gesta.bench.timing import fastest_run
from gesta.data.batch import Failure
from gesta.data.samples import TestViews
from gesta.errors import GestaError
from gesta.model import VideoModel, to_clips
from gesta.plugins.ata import tile_side
from gesta.processes import choose_device, cpu_cores, describe_device
from gesta.recipe import EvaluateConfig
from gesta.records import Record, by_space

EDGES = (7, 14, 28, 56)
"""Of the maps that are measured: 49, 196, 784 and 3136 tokens, the stages of ConvNeXt; ViT-B/16 has 196."""

WIDTH = 64
"""Channels of the generated features."""

MAX_ENTRIES = 40_000_000
"""Of the similarity matrices of one measurement; the time of further pairs of frames is extrapolated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteTimes:
    """Milliseconds to find the routes through one clip: similarities, assignments and their composition.

    Attributes:
        tokens: N, per frame.
        frames: T.
        loop: the paper's algorithm, frame after frame with SciPy.
        threads: all pairs of frames in parallel with SciPy.
        ours: :func:`gesta.alignment.chain.find_routes` on the CPU.
        tiles: the same in the tiles that ATA chooses for so large a map, or None.
        gpu: ours on the accelerator, or None.
        pairs: pairs of frames that were measured; with fewer than T - 1 the figures are extrapolated.
    """

    tokens: int
    frames: int
    loop: float
    threads: float
    ours: float
    tiles: float | None
    gpu: float | None
    pairs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipAssignments:
    """The assignments of one clip.

    Attributes:
        source: features, or model and clip.
        problems: assignments per clip.
        certified: fraction of them that was proved optimal without a solver.
        forward: milliseconds of a whole forward pass, or None.
        fraction: of the forward pass that assignments take, or None.
    """

    source: str
    problems: int
    certified: float
    forward: float | None
    fraction: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignmentSpeed:
    """What alignment costs on this machine.

    Attributes:
        routes: by size of the map and length of the clip.
        clips: assignments of generated features and of models.
        cpu_cores: usable ones.
        device: the accelerator, or None.
    """

    routes: list[RouteTimes]
    clips: list[ClipAssignments]
    cpu_cores: int
    device: str | None

    to_json = asdict

    def __str__(self) -> str:
        lines = [
            f"milliseconds to align one clip, {self.cpu_cores} CPU cores, {self.device or 'no GPU'}",
            f"{'N':>5}{'T':>4}{'paper loop':>12}{'threads':>11}{'ours':>11}{'in tiles':>11}{'GPU':>11}   loop / ours",
        ]
        for r in self.routes:
            times = (r.loop, r.threads, r.ours, r.tiles, r.gpu)
            cells = "".join(f"{'–' if t is None else f'{t:.1f}':>11}" for t in times)
            note = "" if r.pairs >= r.frames - 1 else f"   (extrapolated from {r.pairs} pairs of frames)"
            lines.append(f"{r.tokens:>5}{r.frames:>4} {cells}{r.loop / r.ours:>9.2f} ×{note}")
        for clip in self.clips:
            text = f"{clip.source}: {clip.problems} assignments a clip, {clip.certified:.0%} of them certified"
            if clip.forward is not None:
                text += f"; they take {clip.fraction:.1%} of {clip.forward:.0f} ms forward"
            lines.append(text)
        return "\n".join(lines)


def measure_alignment(
    models: Sequence[tuple[str, VideoModel]] = (),
    *,
    video: str | os.PathLike[str] | None = None,
    edges: Sequence[int] = EDGES,
    frames: Sequence[int] = (8, 32),
    device: str | torch.device = "auto",
    seconds: float = 0.5,
) -> AlignmentSpeed:
    """Measure alignment by itself and in models.

    Args:
        models: names and models with ATA; they are moved to ``device``.
        video: a video whose middle clip the models see, beside a generated one.
        edges: of the square maps.
        frames: of the clips.
        device: ``auto`` takes the first accelerator there is.
        seconds: of each measurement; one run at least.

    Raises:
        GestaError: a model that aligns nothing, an unreadable video.
    """
    chosen_device = choose_device(device)
    noise = torch.randn(1, 8, 196, WIDTH)
    assignments = [_count_assignments("random features", lambda: find_routes(noise, (14, 14)), forward=False)]
    for name, model in models:
        model.to(chosen_device).eval()
        spec = model.config.clip
        scene = moving(spec.size, spec.frames, 3).unflatten(2, (spec.size, spec.size)).permute(0, 4, 1, 2, 3)
        clips = {"made clip": scene}
        if video is not None:
            clips[os.path.basename(video)] = _middle_clip(model, video)
        for kind, clip in clips.items():
            assignments.append(_model_assignments(f"{name}, {kind}", model, clip.to(chosen_device)))
    return AlignmentSpeed(
        routes=[_route_times(edge, t, chosen_device, seconds) for edge in edges for t in frames],
        clips=assignments,
        cpu_cores=cpu_cores(),
        device=None if chosen_device.type == "cpu" else describe_device(chosen_device),
    )


def moving(edge: int, frames: int, width: int) -> Tensor:
    """Features ``(1, T, edge², width)`` of a moving scene: smooth in space, shifted by a token per frame, with noise.

    With so much noise a third of the tokens is no other token's best match, as in features of real videos.
    """
    draw = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, width, edge // 4 + 2, edge // 4 + 2, generator=draw)
    field = F.interpolate(coarse, size=(edge + frames, edge + frames), mode="bicubic", align_corners=False)[0]
    scene = torch.stack([field[:, t : t + edge, t : t + edge].flatten(1).T for t in range(frames)])
    return (scene + 0.5 * torch.randn(scene.shape, generator=draw))[None]


def paper_loop(tokens: Tensor) -> Tensor:
    """Routes ``(T, N)`` through one clip ``(T, N, C)`` as in the paper's Algorithm 1, its errors corrected."""
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


def _route_times(edge: int, frames: int, device: torch.device, seconds: float) -> RouteTimes:
    # at least two pairs for each thread; the loop, which has no threads, is extrapolated from fewer
    pairs = min(frames - 1, max(MAX_ENTRIES // edge**4, 2 * cpu_cores()))
    looped = min(frames - 1, max(MAX_ENTRIES // edge**4, 3))
    size, tokens = (edge, edge), moving(edge, max(pairs, looped) + 1, WIDTH)
    clip = tokens[:, : pairs + 1]
    step = tile_side(size, warn=False)

    def per_clip(work: Callable[[], object], measured: int) -> float:
        return 1e3 * fastest_run(work, seconds) * (frames - 1) / measured

    on_device = clip.to(device)
    return RouteTimes(
        tokens=edge**2,
        frames=frames,
        loop=per_clip(lambda: paper_loop(tokens[0, : looped + 1]), looped),
        threads=per_clip(lambda: scipy_threads(clip[0]), pairs),
        ours=per_clip(lambda: find_routes(clip, size), pairs),
        tiles=per_clip(lambda: find_routes(clip, size, coarse=step), pairs) if step > 1 else None,
        gpu=per_clip(lambda: find_routes(on_device, size).cpu(), pairs) if device.type != "cpu" else None,
        pairs=min(pairs, looped),
    )


def _count_assignments(source: str, work: Callable[[], object], *, forward: bool = True) -> ClipAssignments:
    begin = time.perf_counter()
    with statistics() as counted:
        work()
    elapsed = time.perf_counter() - begin
    if not counted.problems:
        raise GestaError(f"{source}: this model aligns nothing; name one with ATA, such as ata_vitb")
    return ClipAssignments(
        source=source,
        problems=counted.problems,
        certified=counted.certified / counted.problems,
        forward=1e3 * elapsed if forward else None,
        fraction=counted.seconds / elapsed if forward else None,
    )


@torch.inference_mode()
def _model_assignments(source: str, model: VideoModel, clip: Tensor) -> ClipAssignments:
    model(clip)  # pays for what is loaded and compiled on first use
    # item() waits for the device
    return _count_assignments(source, lambda: [s.sum().item() for s in by_space(model(clip)).values()])


def _middle_clip(model: VideoModel, video: str | os.PathLike[str]) -> Tensor:
    """One clip of the middle of a video, as the model expects it: ``(1, 3, T, S, S)``."""
    record = Record(path=os.fspath(video), name=os.fspath(video), label=0)
    sample = TestViews([record], model.config.clip, EvaluateConfig(clips=1, crops=1))[0]
    if isinstance(sample, Failure):
        raise GestaError(sample.reason)
    return to_clips(sample["video"][None], model.config.clip)
