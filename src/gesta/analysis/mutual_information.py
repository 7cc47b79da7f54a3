"""Mutual information of neighbouring frames' features, before and after alignment (ATA's Table 4).

Y. Zhao et al., "Alignment-guided Temporal Attention for Video Action Recognition", NeurIPS 2022, §3.2 (Eqs 8 to 16).
The paper leaves p(x_j | x_i) open, and the temperature, the layer and the unit; its values can be compared in their
order only. Read as a softmax of similarities, its Eqs 12 and 14 sum over all pairs (i, j), which no permutation
changes, so they cannot grow by alignment as Eq 16 says. What does grow is information between tokens at the *same
position*: with :func:`infonce`, whose partition no permutation changes either::

    I(aligned) - I(unaligned) = (mean matched cosine - mean diagonal cosine) / tau  >=  0

with equality exactly if no other matching is better than the identity. That is a correct form of Eq 16. It also says
what the gain is worth: matching sees both frames, so it raises the value of *unrelated* frames, too. Every measurement
therefore comes with a control, in which one frame of a pair is taken from another clip.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gesta.alignment.chain import Size, find_routes, similarity
from gesta.analysis.measured import plain
from gesta.analysis.sources import after_time, check_places
from gesta.config import to_json
from gesta.data.batch import Failure
from gesta.data.loader import test_loader
from gesta.data.samples import TestViews
from gesta.errors import GestaError
from gesta.files import write_text
from gesta.model import VideoModel, to_clips
from gesta.plugins.ata import tile_side
from gesta.prediction.background import in_background
from gesta.processes import choose_device
from gesta.progress import join_lines, track
from gesta.recipe import EvaluateConfig
from gesta.records import DataConfig, Record
from gesta.training.finished import INFORMATION

Estimator = Literal["infonce", "softmax_entropy", "gaussian", "codebook"]
BOUNDED: tuple[Estimator, ...] = ("infonce", "softmax_entropy")
"""Estimators that use a temperature and cannot exceed log N."""

MAX_SQUARED_CORRELATION = 1 - 1e-6
"""Largest that :func:`gaussian` admits, 6.9 nats: equal features would have infinitely many."""

LLOYD_STEPS = 20
"""Steps of k-means."""


# --- estimators: features of P pairs of frames, (P, N, C) each, to nats ----------------------------------------------


def infonce(earlier: Tensor, later: Tensor, tau: float = 0.1) -> Tensor:
    """InfoNCE between tokens at the same position of two frames (van den Oord et al. 2018).

    ``log N + mean_i [ s_ii / tau - logsumexp_j s_ij / tau ]`` with cosine similarities s: how well a token of the
    earlier frame finds the one at its own position among the N tokens of the later. A lower bound of mutual
    information in expectation, at most log N; below 0 where the same position is a worse guess than any.

    Args:
        earlier, later: ``(P, N, C)``.
        tau: temperature.

    Returns:
        ``(P,)`` nats.
    """
    logits = _logits(earlier, later, tau)
    same_position = logits.diagonal(dim1=1, dim2=2)
    return math.log(logits.shape[2]) + (same_position - logits.logsumexp(2)).mean(1)


def softmax_entropy(earlier: Tensor, later: Tensor, tau: float = 0.1) -> Tensor:
    """Eq 12 by the letter, p(x_j | x_i) being the softmax of row i: ``log N + mean_i sum_j p_ij log p_ij``.

    How peaked similarities are; positions do not enter, so that alignment does not change it. Eq 11's uniform marginal
    does not follow from these conditionals, so this is no mutual information in the proper sense.

    Args, Returns: as :func:`infonce`.
    """
    logs = _logits(earlier, later, tau).log_softmax(2)
    return math.log(logs.shape[2]) + (logs.exp() * logs).sum(2).mean(1)


def gaussian(earlier: Tensor, later: Tensor) -> Tensor:
    """Mutual information of jointly normal channels of the measured correlation.

    It is the mean over channels of ``-log(1 - rho²) / 2``.

    rho is a channel's correlation over the N positions with itself at the same positions of the later frame. Each
    channel is treated alone, so this is nats per channel, overestimated by about 1 / (2 N). A constant channel counts
    as 0.

    Args, Returns: as :func:`infonce`.
    """
    a, b = (F.normalize(x.double() - x.double().mean(1, keepdim=True), dim=1) for x in (earlier, later))
    rho = (a * b).sum(1)
    return (-0.5 * torch.log1p(-rho.square().clamp(max=MAX_SQUARED_CORRELATION))).mean(1)


def codebook(earlier: Tensor, later: Tensor, codes: int = 16) -> Tensor:
    """Discrete mutual information of the codes at the same position, over all pairs of frames together.

    Codes are the k-means clusters of the earlier frames' tokens. The plug-in estimate from n pairs of tokens is
    corrected for its bias by Miller and Madow's ``(K_x + K_y - K_xy - 1) / 2n``, K being the numbers of codes and pairs
    of codes that occur; so it can be a little below 0. At most log ``codes``.

    Args:
        earlier, later: ``(P, N, C)``.
        codes: clusters; fewer if there are fewer tokens than pairs of codes, since every token could then have a pair
            of its own.

    Returns:
        ``(1,)`` nats.
    """
    a, b = earlier.flatten(0, 1).float(), later.flatten(0, 1).float()
    count = len(a)
    codes = min(codes, math.isqrt(count))
    centres = a[torch.linspace(0, count - 1, codes, device=a.device).round().long()]
    for _ in range(LLOYD_STEPS):
        members = F.one_hot(_nearest(a, centres), codes).to(a.dtype)
        sizes = members.sum(0)[:, None]
        centres = torch.where(sizes > 0, members.mT @ a / sizes.clamp(min=1), centres)
    pairs = torch.bincount(_nearest(a, centres) * codes + _nearest(b, centres), minlength=codes**2).double()
    joint = (pairs / count).view(codes, codes)
    entropies = [torch.special.entr(p).sum() for p in (joint.sum(1), joint.sum(0), joint)]
    occur = [int((p > 0).sum()) for p in (joint.sum(1), joint.sum(0), joint)]
    bias = (occur[0] + occur[1] - occur[2] - 1) / (2 * count)
    return (entropies[0] + entropies[1] - entropies[2] + bias)[None]


def _nearest(tokens: Tensor, centres: Tensor) -> Tensor:
    return (centres.square().sum(1) - 2 * tokens @ centres.mT).argmin(1)


def estimate(earlier: Tensor, later: Tensor, estimator: Estimator = "infonce", tau: float = 0.1) -> float:
    """Mean over pairs of frames by one of the estimators; ``(P, N, C)`` twice to nats."""
    if estimator in BOUNDED:
        return float((infonce if estimator == "infonce" else softmax_entropy)(earlier, later, tau).mean())
    return float((gaussian if estimator == "gaussian" else codebook)(earlier, later).mean())


def cosines(earlier: Tensor, later: Tensor) -> Tensor:
    """Cosine similarities of all tokens of pairs of frames: ``(P, N, C)`` twice to ``(P, N, N)``."""
    return similarity(torch.stack([earlier, later], 1))[:, 0]


def _logits(earlier: Tensor, later: Tensor, tau: float) -> Tensor:
    if tau <= 0:
        raise GestaError(f"the temperature must be greater than 0, not {tau:g}; choose another --tau")
    return cosines(earlier, later) / tau


def match_tokens(earlier: Tensor, later: Tensor, size: Size) -> Tensor:
    """The one-to-one match of best total similarity, found as ATA does by default.

    Args:
        earlier, later: ``(P, N, C)``.
        size: (H, W), N = H·W; beyond 784 tokens, tiles of them are matched.

    Returns:
        ``(P, N)`` int64: the index in the later frame of every token of the earlier.
    """
    return find_routes(torch.stack([earlier, later], 1), size, coarse=tile_side(size))[:, 1]


# --- one model -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MapInformation:
    """Neighbouring frames of one feature map; means over pairs of frames and clips, information in nats."""

    model: str  # its name, or "None" for the map right after the first model's embedding, before any temporal modelling
    tap: str  # the feature map; "last" is the last block's after the layer norm that follows it (if one does)
    size: Size  # (H, W) of the map
    unaligned: float  # information between tokens at the same position
    aligned: float  # the same after matching
    control_unaligned: float | None  # as unaligned, the later frame taken from another clip; None for a single clip
    control_aligned: float | None  # as aligned, the later frame taken from another clip: what matching alone gives
    cosine_unaligned: float  # mean cosine of tokens at the same position
    cosine_aligned: float  # mean cosine of matched tokens
    unmoved: float  # fraction of tokens that are matched with the one at their own position
    clips: int  # clips that were measured


@torch.inference_mode()
def measure_maps(
    name: str,
    model: VideoModel,
    clips: Iterable[Tensor],
    *,
    taps: Sequence[str] = ("stem", "last"),
    estimator: Estimator = "infonce",
    tau: float = 0.1,
) -> list[MapInformation]:
    """Mutual information of neighbouring frames' features in a model.

    Features are in the frames' own layout (de-aligned, if the model aligns); matching is done here, on any model.

    Args:
        name, model: as in :mod:`gesta.analysis`.
        clips: normalised, ``(1, 3, T, H, W)`` each, on the model's device. The control pairs each with the one before
            it (the first with the last), so neighbours should be unrelated.
        taps: as :meth:`gesta.model.VideoModel.taps`, and ``last``.
        estimator: see the functions of these names.
        tau: temperature of those that have one.

    Returns:
        One entry per tap.

    Raises:
        GestaError: a temperature that is not positive, no clips, a map of one frame or one position.
    """
    same_clip: dict[str, list[dict[str, float]]] = {tap: [] for tap in taps}
    control: dict[str, list[dict[str, float]]] = {tap: [] for tap in taps}
    first: dict[str, Tensor] = {}  # the first clip's maps
    previous: dict[str, Tensor] = {}  # maps of the clip before
    for clip in clips:
        maps = _maps(model, clip, taps)
        for tap, grid in maps.items():
            same_clip[tap].append(_compare(grid, grid, estimator, tau))
            if previous:
                control[tap].append(_compare(previous[tap], grid, estimator, tau))
        first, previous = first or maps, maps
    if not first:
        raise GestaError("there is no clip to measure; name videos that can be read")
    rows = []
    for tap in taps:
        if control[tap]:  # of several clips the first is paired with the last
            control[tap].append(_compare(previous[tap], first[tap], estimator, tau))
        means = {f"control_{field}": _mean(control[tap], field) for field in ("unaligned", "aligned")}
        means |= {field: _mean(same_clip[tap], field) for field in same_clip[tap][0]}
        model_name, size = "None" if tap == "stem" else name, tuple(first[tap].shape[3:])
        rows.append(MapInformation(model=model_name, tap=tap, size=size, clips=len(same_clip[tap]), **means))  # type: ignore[arg-type]
    return rows


def _mean(measured: list[dict[str, float]], field: str) -> float | None:
    return statistics.fmean(pair[field] for pair in measured) if measured else None


def _maps(model: VideoModel, clip: Tensor, taps: Sequence[str]) -> dict[str, Tensor]:
    last = f"block.{len(model.blocks) - 1}"
    tapped = model.taps(clip, [last if tap == "last" else tap for tap in taps])
    norm = getattr(model, "norm", None)
    maps = {tap: tapped[last if tap == "last" else tap] for tap in taps}
    for tap, grid in maps.items():
        if grid.shape[2] < 2 or grid.shape[3] * grid.shape[4] < 2:
            raise GestaError(
                f"{type(model).__name__}, {tap}: a map of {' × '.join(map(str, grid.shape[2:]))} has no neighbouring "
                "frames, or a single position in each: nothing to align; choose another --block"
            )
    if "last" in maps and isinstance(norm, nn.LayerNorm):
        maps["last"] = norm(maps["last"].movedim(1, -1)).movedim(-1, 1)
    return maps


def _compare(clip: Tensor, next_clip: Tensor, estimator: Estimator, tau: float) -> dict[str, float]:
    """The fields of :class:`MapInformation` that compare frames of a map ``(1, C, T, H, W)`` with another's next."""
    earlier, later = (grid[0].flatten(2).permute(1, 2, 0) for grid in (clip[:, :, :-1], next_clip[:, :, 1:]))
    match = match_tokens(earlier, later, (clip.shape[3], clip.shape[4]))
    aligned = later.gather(1, match[..., None].expand_as(later))
    position = torch.arange(match.shape[1], device=match.device)
    return {
        "unaligned": estimate(earlier, later, estimator, tau),
        "aligned": estimate(earlier, aligned, estimator, tau),
        "cosine_unaligned": F.cosine_similarity(earlier, later, dim=2).mean().item(),
        "cosine_aligned": F.cosine_similarity(earlier, aligned, dim=2).mean().item(),
        "unmoved": (match == position).double().mean().item(),
    }


# --- several models, beside each other -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class MutualInformation:
    """Table 4 for the models and videos at hand."""

    estimator: Estimator  # how information was estimated
    tau: float | None  # temperature, None if the estimator has none
    rows: list[MapInformation]  # a measurement of each model; the first is the map before any temporal modelling
    failures: list[Failure]  # videos that could not be read and are left out

    def to_json(self) -> dict[str, Any]:
        """All attributes as plain values."""
        failures = [{"video": failure.name, "reason": failure.reason} for failure in self.failures]
        return plain(self, "failures") | {"unit": "nats", "failures": failures}

    def __str__(self) -> str:
        clips = self.rows[0].clips
        method = self.estimator + (f", τ = {self.tau:g}" if self.tau else "")
        bounded = self.estimator in BOUNDED
        wide = max(len("temporal modelling"), *(len(row.model) for row in self.rows))
        lines = [
            f"mutual information of neighbouring frames: {method}, nats, mean over {clips} clip{'s' * (clips > 1)}",
            f"{'':{wide + 41}}{'shuffled clips':^21}",
            f"{'temporal modelling':{wide}}  {'features':<11}{'tokens':>8}{'unaligned':>11}{'aligned':>9}"
            f"{'unaligned':>12}{'aligned':>9}{'unmoved':>9}" + ("   at most" if bounded else ""),
        ]
        for row in self.rows:
            height, width = row.size
            controls = row.control_unaligned, row.control_aligned
            shuffled = ["–" if value is None else f"{value:.3f}" for value in controls]
            lines.append(
                f"{row.model:{wide}}  {row.tap:<11}{f'{height} × {width}':>8}{row.unaligned:>11.3f}{row.aligned:>9.3f}"
                f"{shuffled[0]:>12}{shuffled[1]:>9}{row.unmoved:>9.0%}"
                + (f"{math.log(height * width):>10.3f}" if bounded else "")
            )
        lines += [
            "",
            "Matching sees both frames of a pair and so raises the value of unrelated frames, too: what counts is how",
            "far a value exceeds that of the shuffled clips, where the later frame is another video's.",
            "unmoved: tokens whose match is at their own position. None: right after the first model's embedding.",
        ]
        if clips == 1:
            lines.append("One clip cannot be shuffled: give a second video.")
        return join_lines(lines + [f"left out: {failure.reason}" for failure in self.failures])


def measure_mutual_information(
    models: Sequence[tuple[str, VideoModel]],
    records: Sequence[Record],
    *,
    estimator: Estimator = "infonce",
    tau: float = 0.1,
    block: int | None = None,
    device: str | torch.device = "auto",
) -> MutualInformation:
    """Measure models on the middle clips of videos.

    Args:
        models: names and models; they are moved to ``device`` and put into evaluation mode.
        records: the videos; those that cannot be read are left out and named.
        estimator: see the functions of these names.
        tau: temperature of those that have one.
        block: measure after the temporal modelling of this block instead of after the last.
        device: ``auto`` takes the first accelerator there is.

    Raises:
        GestaError: no such block, maps that stay permuted, or no video that can be read.
    """
    chosen_device = choose_device(device)
    # the control pairs neighbours, and neighbours in a list are often of one class: shuffle
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(0)).tolist()
    for name, model in models:
        check_places(name, model)
    taps = ["last" if block is None else after_time(model, block) for _, model in models]
    rows: list[MapInformation] = []
    failures: dict[int, Failure] = {}  # by position: segments of one video have one name

    def clips(name: str, model: VideoModel) -> Iterable[Tensor]:
        views = TestViews(records, model.config.clip, EvaluateConfig(clips=1, crops=1))
        for batch in track(in_background(test_loader(views, order, 1, 0), size=2), name, total=len(order)):
            failures.update({failure.index: failure for failure in batch["failures"]})
            if len(batch["index"]):
                yield to_clips(batch["video"].to(chosen_device), model.config.clip)
        if len(failures) == len(records):
            example = next(iter(failures.values())).reason
            raise GestaError(
                f"none of {len(records)} videos can be read, for instance {example}; gesta data check finds why"
            )

    for (name, model), tap in zip(models, taps):
        model.to(chosen_device).eval()
        of_model = [tap] if rows else ["stem", tap]
        rows += measure_maps(name, model, clips(name, model), taps=of_model, estimator=estimator, tau=tau)
    unread = [failures[index] for index in sorted(failures)]
    used_tau = tau if estimator in BOUNDED else None
    return MutualInformation(estimator=estimator, tau=used_tau, rows=rows, failures=unread)


def write_information(
    run: Path, measured: MutualInformation, row: MapInformation, data: DataConfig, split: str
) -> None:
    """Leave in a run's folder what was measured of its model, where ``gesta table ata.table4`` looks for it.

    Args:
        run: the folder.
        measured: all that was measured.
        row: the run's own.
        data, split: the videos.
    """
    first = measured.rows[0]
    unaligned = {"last": row.unaligned} | ({"stem": first.unaligned} if row is measured.rows[1] else {})
    values = {"data": to_json(data), "split": split, "clips": row.clips, "unaligned": unaligned}
    values |= {"estimator": measured.estimator, "tau": measured.tau}
    write_text(run / INFORMATION, json.dumps(values, indent=2) + "\n")
