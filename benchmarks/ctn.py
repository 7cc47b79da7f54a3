"""What CTN's parts cost beside the straightforward ways to write them.

    python benchmarks/ctn.py [--device cuda] [--batch 2] [--dtype bfloat16] [--repeats 5]

At CTN-b's sizes (4 × 14 × 14 tokens of 768 channels): a whole block with its convolutional mapping as we have it
(tokens are a channels-last map, batch norm folded in evaluation), with channels first as in CvT's public code, with
one convolution for queries, keys and values, and with ViViT's linear mapping; the last block for the class token alone;
the stem with channels last and first. Asserts nothing about time.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import compare, dtype_option, environment, options_of, smoke_option
from torch import Tensor, nn

from gesta.config import replace
from gesta.models.ctn import Attention, Block, State, VideoToTokens, ctn_b

SIZE = (4, 14, 14)


class ChannelsFirst(Attention):
    """Every mapping rearranges the tokens to channels first and back, and normalises in a separate pass."""

    def forward(self, tokens: Tensor, size: tuple[int, int, int], all_tokens: bool = True) -> Tensor:
        token, patches = tokens[:, :1], tokens[:, 1:]
        planes = patches.unflatten(1, size).flatten(0, 1).permute(0, 3, 1, 2).contiguous()
        parts = []
        for part, weight, bias in zip("qkv", self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)):
            module: Any = self.depthwise[part]  # type: ignore[index]
            mapped = module.norm(module.conv(planes)).flatten(2).mT.contiguous().view(patches.shape)
            parts.append(F.linear(torch.cat([token, mapped], 1), weight, bias))
        return attend(self, parts)


class OneConvolution(Attention):
    """One convolution with three outputs per channel, and one batch norm, for queries, keys and values."""

    def forward(self, tokens: Tensor, size: tuple[int, int, int], all_tokens: bool = True) -> Tensor:
        token, patches = tokens[:, :1], tokens[:, 1:]
        modules: list[Any] = [self.depthwise[part] for part in "qkv"]  # type: ignore[index]
        planes = patches.unflatten(1, size).flatten(0, 1).permute(0, 3, 1, 2)

        def interleave(values: list[Tensor]) -> Tensor:
            return torch.stack(values, 1).flatten(0, 1)

        kernel = interleave([m.conv.weight for m in modules])
        mean, var, scale, shift = (
            interleave([getattr(m.norm, name) for m in modules])
            for name in ("running_mean", "running_var", "weight", "bias")
        )
        if self.training:
            mapped = F.conv2d(planes, kernel, padding=1, groups=planes.shape[1])
            mapped = F.batch_norm(mapped, mean, var, scale, shift, True, 0.1, 1e-5)
        else:
            factor = scale * torch.rsqrt(var + 1e-5)
            kernel, shift = kernel * factor.view(-1, 1, 1, 1), shift - mean * factor
            mapped = F.conv2d(planes, kernel, shift, padding=1, groups=planes.shape[1])
        mapped = mapped.permute(0, 2, 3, 1).reshape(*patches.shape, 3)
        parts = [
            F.linear(torch.cat([token, mapped[..., i]], 1), weight, bias)
            for i, (weight, bias) in enumerate(zip(self.qkv.weight.chunk(3), self.qkv.bias.chunk(3)))
        ]
        return attend(self, parts)


def attend(attn: Attention, parts: list[Tensor]) -> Tensor:
    q, k, v = (part.unflatten(2, (attn.heads, -1)).transpose(1, 2) for part in parts)
    return attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


def main() -> None:
    parser = options_of(__doc__, batch=2, repeats=5)
    smoke_option(parser)
    dtype_option(parser)
    options = parser.parse_args()
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    print(environment(options))
    torch.manual_seed(0)
    config = replace(ctn_b(), width=96, heads=2) if options.smoke else ctn_b()

    def prepare(module: nn.Module) -> Any:
        """Random statistics and kernels, on the device."""
        for name, buffer in module.named_buffers():
            if name.endswith("running_var"):
                nn.init.uniform_(buffer, 0.5, 2)
        for name, parameter in module.named_parameters():
            if name.endswith("conv.weight"):
                nn.init.normal_(parameter, std=0.3)
        return module.to(device, dtype)

    ours = prepare(Block(config, 0.0, last=True))
    blocks = {"ours": ours}
    for name, kind in (("channels first", ChannelsFirst), ("one convolution for q, k, v", OneConvolution)):
        blocks[name] = copy.deepcopy(ours)
        blocks[name].attn.__class__ = kind
    blocks["linear mapping (ViViT)"] = prepare(Block(replace(config, mapping="linear"), 0.0, last=True))
    tokens = torch.randn(options.batch, 1 + math.prod(SIZE), config.width, device=device, dtype=dtype)
    for training in (False, True):

        def run(block: Block, all_tokens: bool = True, training: bool = training) -> Tensor:
            block.train(training)
            with torch.set_grad_enabled(training):
                result = block(State(tokens.detach().requires_grad_(training), SIZE, all_tokens)).tokens
                if training:
                    result.square().mean().backward()
            return result.detach()

        for name in ("channels first", "one convolution for q, k, v"):
            print(f"{name}: largest difference {(run(blocks[name]) - run(ours)).abs().max().item():.1e}")
        ways: dict[str, Callable[[], object]] = {name: lambda b=block: run(b) for name, block in blocks.items()}
        ways["ours, last block, class token alone"] = lambda: run(ours, all_tokens=False)
        compare("a block, " + ("forward and backward" if training else "forward"), ways, device, options.repeats)

    video = torch.randn(options.batch, 3, 8, *2 * (64 if options.smoke else 224,), device=device, dtype=dtype)
    compare_stem(prepare(VideoToTokens(config)), video, options.repeats)


def compare_stem(stem: VideoToTokens, video: Tensor, repeats: int) -> None:
    last = torch.channels_last_3d
    for training in (False, True):
        stem.train(training)

        def embed(clip: Tensor, training: bool = training) -> None:
            with torch.set_grad_enabled(training):
                result = stem(clip)
                if training:
                    result.square().mean().backward()

        ways: dict[str, Callable[[], object]] = {
            "ours (channels last)": lambda: embed(video.contiguous(memory_format=last)),
            "channels first": lambda: embed(video),
        }
        compare("the stem, " + ("forward and backward" if training else "forward"), ways, video.device, repeats)


if __name__ == "__main__":
    main()
