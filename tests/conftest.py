"""Shared fixtures: small videos made on the spot, and the genuine clips where they lie beside the checkout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from gesta.model import VideoModel

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(autouse=True, scope="session")
def _cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Lists of shards are not kept in the user's cache folder, also not by processes that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Sums do not depend on a division of labour, and on a busy machine threads do not wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def fast_first(cases: Iterable[tuple[Any, ...]], fast: int) -> list[Any]:
    """Parameters of a test whose first cases run in the fast suite, and the others in the full one only."""
    return [pytest.param(*case, marks=[] if i < fast else [pytest.mark.full]) for i, case in enumerate(cases)]


def smooth_clips(count: int, channels: int, frames: int, size: int) -> torch.Tensor:
    """Random clips that change slowly: of white noise every max-pool finds a value that no ReLU before it has cut."""
    coarse = (count, channels, max(frames // 2, 2), size // 8, size // 8)
    noise = torch.randn(coarse, generator=torch.Generator().manual_seed(5))
    return F.interpolate(noise, (frames, size, size), mode="trilinear")


def gradients_below_rounding(model: VideoModel, video: torch.Tensor) -> list[str]:
    """Parameters that the classification loss of a fresh model does not move, computed in float64.

    Those that start at zero, which may hide others, are first moved a little. Rounding gives a parameter without
    influence up to 1e-14 of the largest gradient; the smallest of the others have 1e-7 of it.
    """
    torch.manual_seed(1)
    model = model.double().train()
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    scores = model(video.double())
    assert isinstance(scores, torch.Tensor)
    F.cross_entropy(scores, torch.arange(len(video)) % scores.shape[1]).backward()
    sizes = {name: 0.0 if p.grad is None else p.grad.abs().max().item() for name, p in model.named_parameters()}
    return [name for name, size in sizes.items() if not size > 1e-11 * max(sizes.values())]


@pytest.fixture
def shared() -> Path:
    """The folder of genuine clips and annotations; the test is skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip("no genuine clips beside this checkout")
    return SHARED


def write_video(path: Path, frames: int = 24, size: tuple[int, int] = (64, 48), fps: int = 12, shade: int = 0) -> Path:
    """An H.264 file (width, height) in which a bright square moves right; frame i has grey level ``shade + 4 * i``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = {"crf": "10", "preset": "ultrafast"}
        for i in range(frames):
            image = np.full((height, width, 3), (shade + 4 * i) % 200, dtype=np.uint8)
            left = (2 * i) % (width - 8)
            image[height // 2 : height // 2 + 8, left : left + 8] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def make_video(tmp_path: Path) -> Callable[..., Path]:
    """``make_video(name, **options)`` writes a small video below the test's own folder; see :func:`write_video`."""
    return lambda name, **options: write_video(tmp_path / name, **options)
