"""Our ViT-B (VideoMAE) and Hiera-B against the original classes with the same weights, in one run.

    python benchmarks/vit.py [--only hiera_b] [--frames 8] [--batch 1] [--device cuda --dtype bfloat16] [--repeats 5]

Prints the largest difference of the scores, and the time of a forward pass and of a training step (forward and
backward); asserts nothing about time. The originals are those of the packages ``transformers`` (with its default
attention) and ``hiera-transformer``. Fewer frames than the models' 16 make it short on a CPU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from side_by_side import Work, compare, dtype_option, environment, options_of
from torch import Tensor, nn

from gesta.checkpoint.weights import import_weights
from gesta.config import replace
from gesta.models import model_config

SIZE = 224


def videomae(frames: int) -> nn.Module:
    """The original VideoMAE-B; it takes (B, T, C, H, W)."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification  # a package of the tests

    return VideoMAEForVideoClassification(VideoMAEConfig(num_frames=frames, num_labels=400, use_mean_pooling=True))


def hiera(frames: int) -> nn.Module:
    """The original Hiera-B."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it imports timm.models.layers
        from hiera.hiera import Hiera  # a package of the tests

    return Hiera(
        input_size=(frames, SIZE, SIZE), num_classes=400, sep_pos_embed=True, q_stride=(1, 2, 2),
        mask_unit_size=(1, 8, 8), patch_kernel=(3, 7, 7), patch_stride=(2, 4, 4), patch_padding=(1, 3, 3),
    )  # fmt: skip


ORIGINALS: dict[str, tuple[Callable[[int], nn.Module], Callable[[Any, Tensor], Tensor]]] = {
    "videomae_b": (videomae, lambda model, video: model(video.transpose(1, 2)).logits),
    "hiera_b": (hiera, lambda model, video: model(video)),
}
"""Our name → the original, and how it is called; Hiera's gives probabilities in evaluation."""


def measure(name: str, options: Any, device: torch.device) -> None:
    """Compare one of our models with its original."""
    make, call = ORIGINALS[name]
    torch.manual_seed(0)
    theirs = make(options.frames)
    for parameter in theirs.parameters():  # else classifiers that start near zero give all clips the same scores
        parameter.data += 0.02 * torch.randn_like(parameter)
    config = model_config(name)
    ours = replace(config, clip=replace(config.clip, frames=options.frames)).build()
    import_weights(ours, theirs.state_dict(), min_matched=1.0)
    ours, theirs = ours.to(device), theirs.to(device)
    calls: dict[str, tuple[nn.Module, Callable[[], Tensor]]] = {
        "ours": (ours, lambda: ours(video)),
        "original": (theirs, lambda: call(theirs, video)),
    }
    video = torch.randn(options.batch, 3, options.frames, SIZE, SIZE, device=device)
    dtype = getattr(torch, options.dtype)

    def autocast() -> Any:
        return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)

    def forward(model: nn.Module, run: Callable[[], Tensor]) -> Tensor:
        model.eval()
        with torch.inference_mode(), autocast():
            return run()

    def step(model: nn.Module, run: Callable[[], Tensor]) -> None:
        model.train().zero_grad()
        with autocast():
            loss = run().float().square().mean()
        loss.backward()

    scores, expected = (forward(*calls[who]).float() for who in calls)
    if name == "hiera_b":
        scores = scores.softmax(-1)
    print(f"{name}: largest difference of the scores {(scores - expected).abs().max():.1e}")
    for what, work in (("forward", forward), ("training step", step)):
        ways: dict[str, Work] = {who: lambda of=of, work=work: work(*of) for who, of in calls.items()}
        compare(f"{name}, {what}", ways, device, options.repeats)


def main() -> None:
    parser = options_of(__doc__, batch=1, repeats=5)
    dtype_option(parser)
    parser.add_argument("--frames", type=int, default=16, help="of a clip (default %(default)s)")
    parser.add_argument("--only", choices=ORIGINALS, help="one of the models (default: all)")
    options = parser.parse_args()
    print(f"{environment(options)}, {options.frames} x {SIZE} x {SIZE}")
    for name in [options.only] if options.only else ORIGINALS:
        measure(name, options, torch.device(options.device))


if __name__ == "__main__":
    main()
