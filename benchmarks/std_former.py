"""STD-Former beside a straightforward transcription of its equations.

    python benchmarks/std_former.py [--device cuda] [--batch 1] [--size 224] [--dtype bfloat16] [--repeats 3] [--parts]
                                    [--dense]

The transcription below is what one writes from the paper: (B, C, T, H, W) maps for every convolution and batch norm,
(B·T, 1 + N, C) tokens for attention over space, (B·N, T, C) for attention along time, and a permuted copy at every
border between them. It has the same parameters, also uses PyTorch's fused attention, and its scores are checked against
ours at the start. Forward pass in evaluation, and a training step (forward and backward). ``--parts`` times the parts
separately; ``--dense`` prints how much of the time is dense matrix products, for which both use the same library.
Asserts nothing about time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from side_by_side import Work, compare, dtype_option, environment, options_of, smoke_option
from torch import Tensor, nn

from gesta.config import replace
from gesta.layers.tokens import DepthwiseConv, to_grid, to_tokens
from gesta.models.std_former import STDFormer, STDFormerConfig, std_former_b, std_former_tiny


class PlainAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))


class PlainGELU(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


def ffn(width: int, ratio: float) -> nn.Sequential:
    hidden = int(ratio * width)
    return nn.Sequential(nn.Linear(width, hidden), PlainGELU(), nn.Linear(hidden, width))


class Shape:
    """Changes between layouts, each a copy."""

    def __init__(self, batch: int, frames: int, height: int, width: int) -> None:
        self.b, self.t, self.h, self.w = batch, frames, height, width

    def patches(self, x: Tensor) -> Tensor:
        x = x[:, 1:].reshape(self.b, self.t, self.h, self.w, -1)
        return x.permute(0, 4, 1, 2, 3).contiguous()

    def tokens(self, cls: Tensor, grid: Tensor) -> Tensor:
        patches = grid.permute(0, 2, 3, 4, 1).reshape(self.b * self.t, self.h * self.w, -1).contiguous()
        return torch.cat([cls, patches], 1)

    def sites(self, grid: Tensor) -> Tensor:
        return grid.permute(0, 3, 4, 2, 1).reshape(-1, self.t, grid.shape[1]).contiguous()

    def grid(self, sites: Tensor) -> Tensor:
        return sites.view(self.b, self.h, self.w, self.t, -1).permute(0, 4, 3, 1, 2).contiguous()

    def frames(self, grid: Tensor) -> Tensor:
        return grid.transpose(1, 2).reshape(self.b * self.t, -1, self.h, self.w).contiguous()

    def clips(self, frames: Tensor) -> Tensor:
        return frames.view(self.b, self.t, -1, self.h, self.w).transpose(1, 2).contiguous()


class PlainBlock(nn.Module):
    def __init__(self, c: STDFormerConfig) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.attn, self.mlp = PlainAttention(c.width, c.heads), ffn(c.width, c.mlp_ratio)

    def forward(self, x: Tensor, s: Shape) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PlainPTM(PlainBlock):
    def __init__(self, c: STDFormerConfig) -> None:
        super().__init__(c)
        width, hidden, quarter = c.width, int(c.width / c.dpe_reduction), c.width // 4
        self.dpe = nn.ModuleDict(
            {
                "norm": nn.BatchNorm3d(width),
                "reduce": nn.Conv3d(width, hidden, 1),
                "time": nn.Conv3d(hidden, hidden, (3, 1, 1), padding=(1, 0, 0), groups=hidden),
                "expand": nn.Conv3d(hidden, width, 1),
            }
        )
        self.conv = nn.ModuleDict(
            {
                "reduce": nn.Conv2d(width, quarter, 1, bias=False),
                "norm1": nn.BatchNorm2d(quarter),
                "conv": nn.Conv2d(quarter, quarter, 3, padding=1, bias=False),
                "norm2": nn.BatchNorm2d(quarter),
                "expand": nn.Conv2d(quarter, width, 1),
            }
        )

    def forward(self, x: Tensor, s: Shape) -> Tensor:
        grid, dpe, conv = s.patches(x), self.dpe, self.conv
        grid = grid + dpe["expand"](dpe["time"](dpe["reduce"](dpe["norm"](grid))))
        u = s.tokens(x[:, :1], grid)
        y3 = conv["norm1"](conv["reduce"](grid.flatten(3))).relu()  # (B, C/4, T, N)
        y3 = conv["expand"](conv["norm2"](conv["conv"](y3)).relu()).view(grid.shape)
        y3 = s.tokens(torch.zeros_like(x[:, :1]), y3)
        return u + self.attn(self.norm1(u)) + self.mlp(self.norm2(u)) + y3


class PlainCTM(nn.Module):
    def __init__(self, c: STDFormerConfig) -> None:
        super().__init__()
        width, self.heads, self.residual = c.width, c.heads, c.ctm_residual
        self.cpe = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm_q, self.norm_kv, self.norm2 = (nn.LayerNorm(width) for _ in range(3))
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.mlp = ffn(width, c.ctm_mlp_ratio)

    def forward(self, grid: Tensor, z: Tensor, s: Shape) -> Tensor:
        x = s.sites(grid + self.cpe(grid))
        q = self.q(self.norm_q(x)).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
        k, v = self.kv(self.norm_kv(z)).view(*x.shape[:2], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        added = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(x.shape))
        u = added + (x if self.residual == "query" else z)
        return u + self.mlp(self.norm2(u))


class PlainSTDM(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.space = nn.Conv3d(width, width, (1, 3, 3), padding=(0, 1, 1), groups=width, bias=False)
        self.time = nn.Conv3d(width, width, (3, 1, 1), padding=(1, 0, 0), groups=width, bias=False)
        self.norm1, self.norm2, self.mix = nn.BatchNorm3d(width), nn.BatchNorm3d(width), nn.Conv3d(width, width, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.mix(self.norm2(self.time(self.norm1(self.space(z)))).relu())


class PlainSMEM(nn.Module):
    def __init__(self, width: int, positions: int, n: int) -> None:
        super().__init__()
        self.estimate, self.estimate_norm = nn.Conv2d(width, n, 3, padding=1, bias=False), nn.BatchNorm2d(n)
        self.transform = nn.ModuleList(
            nn.Conv2d(inputs, n, 3, stride=1 if i else 2, padding=1, bias=False)
            for i, inputs in enumerate((2 * positions, n, n))
        )
        self.transform_norms = nn.ModuleList(nn.BatchNorm2d(n) for _ in range(3))
        self.excite = nn.Conv2d(n, width, 3, padding=1)

    def forward(self, f: Tensor, s: Shape) -> Tensor:
        e = self.estimate_norm(self.estimate(s.frames(f))).relu().view(s.b, s.t, -1, s.h * s.w)
        e = F.normalize(e, dim=2, eps=1e-6)
        last = e[:, -1:]
        shifted = (torch.cat([e[:, 1:], last], 1), torch.cat([e[:, 2:], last, last], 1)[:, : s.t])
        maps = [torch.matmul(later.transpose(2, 3), e).view(s.b * s.t, -1, s.h, s.w) for later in shifted]
        x = torch.cat(maps, 1)
        for conv, norm in zip(self.transform, self.transform_norms):
            x = norm(conv(x)).relu()
        x = F.interpolate(self.excite(x), (s.h, s.w), mode="bilinear")
        return f + s.clips(x)


class PlainLayer(nn.Module):
    def __init__(self, c: STDFormerConfig, index: int, positions: int) -> None:
        super().__init__()
        self.spatial = (PlainPTM if index in c.ptm_layers else PlainBlock)(c)
        self.cross = PlainCTM(c)
        self.feedback = PlainSTDM(c.width) if index + 1 < c.depth else None
        self.motion = nn.ModuleDict(
            {"T": PlainSMEM(c.width, positions, c.smem_channels)} if ("T", index) in c.smem else {}
        )

    def forward(self, x: Tensor, z: Tensor, s: Shape) -> tuple[Tensor, Tensor]:
        x = self.spatial(x, s)
        if "T" in self.motion:
            z = s.sites(self.motion["T"](s.grid(z), s))
        z = self.cross(s.patches(x), z, s)
        if self.feedback is not None:
            x = s.tokens(x[:, :1], s.patches(x) + self.feedback(s.grid(z)))
        return x, z


class Plain(nn.Module):
    """The network of ``std_former_b`` and ``std_former_tiny`` with the parameters of ours, under the same names."""

    def __init__(self, ours: STDFormer) -> None:
        super().__init__()
        c = ours.config
        _, _, self.height, self.width = ours.grid_at(0)
        self.conv_stem = ours.conv_stem
        self.patch_embed = nn.Conv3d(
            ours.patch_embed.in_channels,
            c.width,
            ours.patch_embed.kernel_size,
            ours.patch_embed.stride,
            ours.patch_embed.padding,
            bias=False,
        )
        self.cls_token, self.pos_embed = (nn.Parameter(p.detach().clone()) for p in (ours.cls_token, ours.pos_embed))
        self.norm_pre, self.norm_read = nn.LayerNorm(c.width), nn.LayerNorm(c.width)
        self.blocks = nn.ModuleList(PlainLayer(c, i, self.height * self.width) for i in range(c.depth))
        self.standardise, self.classifier = ours.standardise, ours.classifier
        shapes = {name: value.shape for name, value in self.state_dict().items()}
        self.load_state_dict({name: value.reshape(shapes[name]) for name, value in ours.state_dict().items()})

    def forward(self, video: Tensor) -> Tensor:
        v = self.patch_embed(self.conv_stem(video))
        s = Shape(len(v), *v.shape[2:])
        x = self.norm_pre(s.tokens(self.cls_token.expand(s.b * s.t, -1, -1), v) + self.pos_embed)
        z = s.sites(s.patches(x))
        for block in self.blocks:
            x, z = block(x, z, s)
        features = s.grid(z).mean((2, 3, 4))
        return self.classifier(self.standardise(self.norm_read(features)))


def fill_zeros(model: STDFormer) -> None:
    """Give random values to parameters that start at zero, so that every part contributes."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)


def dense_fraction(work: Work) -> str:
    """How much of the CPU time dense matrix products take."""
    work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    times = {event.key: event.self_cpu_time_total for event in profile.key_averages()}
    return f"{sum(times.get(f'aten::{name}', 0) for name in ('mm', 'addmm', 'bmm')) / sum(times.values()):.0%}"


def step(model: nn.Module, video: Tensor) -> Work:
    def run() -> None:
        model.zero_grad(set_to_none=True)
        model(video).square().mean().backward()

    return run


def parts(
    c: STDFormerConfig, ours: STDFormer, plain: Plain, batch: int, run: Callable[[str, dict[str, Work]], None]
) -> None:
    """The parts that differ, with gradients, on maps of the model's size."""
    _, frames, height, width = ours.grid_at(0)
    device, dtype = ours.pos_embed.device, ours.pos_embed.dtype
    s = Shape(batch, frames, height, width)
    grid = torch.randn(batch, c.width, frames, height, width, device=device, dtype=dtype, requires_grad=True)
    tokens = to_tokens(grid).detach().requires_grad_()
    flat = tokens.detach().flatten(2, 3).requires_grad_()
    sites = s.sites(grid).detach().requires_grad_()
    conv = DepthwiseConv(c.width, (3, 3)).to(device, dtype)
    layer, plain_layer = ours.blocks[0], plain.blocks[0]
    tokens_of_clip = torch.randn(
        frames, batch, 1 + height * width, c.width, device=device, dtype=dtype, requires_grad=True
    )
    rows = tokens_of_clip.detach().transpose(0, 1).flatten(0, 1).contiguous().requires_grad_()

    def with_gradients(work: Callable[[], Tensor], module: nn.Module) -> Work:
        def call() -> object:
            module.zero_grad(set_to_none=True)
            return work().sum().backward()

        return call

    size = (height, width)
    pairs: dict[str, tuple[tuple[Callable[[], Tensor], Any], tuple[Callable[[], Tensor], Any]]] = {
        "depth-wise 3 × 3 × 3": (
            (lambda: conv(tokens), conv),
            (lambda: nn.Conv3d.forward(conv, grid), conv),
        ),
        "CLIP's block": (
            (lambda: layer.spatial(tokens_of_clip, size), layer.spatial),
            (lambda: plain_layer.spatial(rows, s), plain_layer.spatial),
        ),
        "CTM": (
            (lambda: layer.cross(flat, flat, size), layer.cross),
            (lambda: plain_layer.cross(grid, sites, s), plain_layer.cross),
        ),
        "STDM": (
            (lambda: layer.feedback.spread(tokens), layer.feedback),
            (lambda: plain_layer.feedback(grid), plain_layer.feedback),
        ),
        "PTM": (
            (lambda: ours.blocks[c.ptm_layers[0]].spatial(tokens_of_clip, size), ours.blocks[c.ptm_layers[0]].spatial),
            (lambda: plain.blocks[c.ptm_layers[0]].spatial(rows, s), plain.blocks[c.ptm_layers[0]].spatial),
        ),
    }
    _, at = c.smem[0]
    smem, plain_smem = ours.blocks[at].motion["T"], plain.blocks[at].motion["T"]
    pairs["SMEM"] = ((lambda: smem(to_grid(tokens)), smem), (lambda: plain_smem(grid, s), plain_smem))
    for name, (of_ours, of_plain) in pairs.items():
        ways = {"ours": with_gradients(*of_ours), "transcription": with_gradients(*of_plain)}
        run(f"{name}, with gradients", ways)


def main() -> None:
    parser = options_of(__doc__, batch=1, repeats=3)
    smoke_option(parser)
    dtype_option(parser)
    parser.add_argument("--size", type=int, default=224, help="pixels; 64 takes the tiny model")
    parser.add_argument("--parts", action="store_true", help="time the parts separately")
    parser.add_argument("--dense", action="store_true", help="print the fraction of dense products")
    options = parser.parse_args()
    device, dtype, batch = torch.device(options.device), getattr(torch, options.dtype), options.batch
    tiny = options.size == 64 or options.smoke
    config = replace(std_former_tiny() if tiny else std_former_b(), classes=174)
    config.clip.size = size = 64 if tiny else options.size
    clip = f"{config.clip.frames} × {size}²"
    print(f"std_former_{'tiny' if tiny else 'b'}, {clip}, {environment(options)}")
    torch.manual_seed(0)
    ours = config.build()
    fill_zeros(ours)
    plain = Plain(ours).to(device).eval()
    ours.to(device).eval()
    video = torch.randn(batch, 3, config.clip.frames, size, size, device=device)
    with torch.no_grad():
        torch.testing.assert_close(ours(video), plain(video), rtol=1e-3, atol=1e-4)
    ours, plain, video = ours.to(dtype), plain.to(dtype), video.to(dtype)

    def run(title: str, ways: dict[str, Work]) -> None:
        compare(title, ways, device, options.repeats)

    def forward(model: nn.Module) -> Work:
        def call() -> Tensor:
            with torch.no_grad():
                return model(video)

        return call

    def both(title: str, works: tuple[Work, Work]) -> None:
        if options.dense:
            fractions = [dense_fraction(work) for work in works]
            print(f"{title}, dense matrix products: ours {fractions[0]}, transcription {fractions[1]}")
        else:
            run(title, dict(zip(("ours", "transcription"), works)))

    both("evaluation", (forward(ours), forward(plain)))
    ours.train(), plain.train()
    both("training step", (step(ours, video), step(plain, video)))
    if options.parts:
        parts(config, ours, plain, batch, run)


if __name__ == "__main__":
    main()
