"""CTN: a video ViT with a convolutional stem and depth-wise convolutions before its queries, keys and values.

Source: Y. Ma et al., "Convolutional transformer network for fine-grained action recognition", Neurocomputing 569
(127027), 2024; chapter 4 of the first author's thesis, whose equations are named here. It builds on ViViT's joint
space-time attention (A. Arnab et al., ICCV 2021), CvT's convolutional projection (H. Wu et al., ICCV 2021) and CeiT's
image-to-tokens (K. Yuan et al., ICCV 2021). With ``embed="tube"`` and ``mapping="linear"``, the paper's baseline, the
network *is* ViViT (``vivit_b``, :mod:`gesta.models.vit`), by the names of its weights, too.

Tokens ``x`` (B, 1 + t·h·w, C), the class token first::

    x = [cls ; patches( MaxPool3d( BN( Conv3d( video ) ) ) )]                          (4.5)
    q, k, v = PW( [cls ; BN( DW( map ) )] )      DW: s × s per channel and plane       (4.6)
    x = x + MHSA( norm1(x) ) ;  x = x + MLP( norm2(x) )                     norm="pre", as ViT's weights need
    x = norm1( x + MHSA(x) ) ;  x = norm2( x + MLP(x) )                     norm="post"   (4.1, 4.2)

Only the class token is read out, so the last block computes nothing else unless its feature map is asked for.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from dataclasses import field
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from gesta.config import Count, Positive, config, unless
from gesta.cost import is_counting
from gesta.errors import GestaError
from gesta.layers.adapters import some_outputs
from gesta.layers.init import Standardise, init_small
from gesta.layers.mlp import mlp
from gesta.layers.resize import resize_line, resize_map
from gesta.model import Classifier, ClipSpec, Grid, ModelConfig, VideoModel, drop_path_rates

EPS = 1e-6  # of all layer norms
HALF = (0.5, 0.5, 0.5)


@config
class CTNConfig(ModelConfig):
    """Sizes of a CTN, and every switch of the paper's ablations.

    Attributes:
        width: channels.
        depth: number of blocks.
        heads: attention heads.
        mlp_ratio: hidden width of the MLPs / width.
        embed: ``video_to_tokens``: patches of a convolutional stem's feature map, or ``tube``: patches of the
            pixels (ViViT).
        patch: side of the square that becomes a token, in pixels.
        patch_frames: frames that become a token: of the clip (``tube``) or of the stem's feature map.
        stem_kernel: side of the stem's cubic kernel, odd.
        stem_stride: spatial stride of the stem's convolution.
        stem_channels: channels of the stem's convolution.
        stem_pool: max-pooling of 3 × 3 × 3 after the convolution, of spatial stride 2.
        stem_norm: batch norm between convolution and pooling.
        stem_relu: ReLU after the batch norm, which the paper does not have.
        time_strides: temporal strides of convolution and pooling; (2, 2) is the paper's text read literally, see
            :func:`ctn_b`.
        mapping: what computes queries, keys and values: ``conv`` is a depth-wise convolution, batch norm and a linear
            layer, ``linear`` that layer alone.
        mapping_kernel: side of the depth-wise kernel, odd.
        mapping_norm: batch norm after the depth-wise convolution.
        mapping_dims: 2 convolves every plane of tokens (those of one time step) separately; 3 convolves over time,
            too (our extension).
        mapping_start: depth-wise kernels start as ``identity``, so that image weights keep their meaning, or
            ``kaiming``.
        positions: ``none``, ``learned`` (one vector per token) or ``temporal`` (one per plane, our extension: without
            positions the network knows no order in clips that are longer than the stem's 10 frames).
        norm: layer norms before (``pre``) or after (``post``) the branches.
        gelu: ``exact``, or its ``tanh`` approximation, with which the public ViViT was trained.
        small_init: our addition for narrow models and few videos, see :mod:`gesta.layers.init`.
    """

    width: Count = 768
    depth: Count = 12
    heads: Count = 12
    mlp_ratio: Positive = 4.0
    embed: Literal["video_to_tokens", "tube"] = "video_to_tokens"
    patch: Count = 16
    patch_frames: Count = 2
    stem_kernel: Count = 7
    stem_stride: Count = 2
    stem_channels: Count = 32
    stem_pool: bool = True
    stem_norm: bool = True
    stem_relu: bool = False
    time_strides: tuple[Count, Count] = (1, 1)
    mapping: Literal["conv", "linear"] = "conv"
    mapping_kernel: Count = 3
    mapping_norm: bool = True
    mapping_dims: Literal[2, 3] = 2
    mapping_start: Literal["identity", "kaiming"] = "identity"
    positions: Literal["none", "learned", "temporal"] = "none"
    norm: Literal["pre", "post"] = "pre"
    gelu: Literal["exact", "tanh"] = "exact"
    small_init: bool = False
    clip: ClipSpec = field(
        default_factory=lambda: ClipSpec(frames=8, sampling="uniform", size=224, mean=HALF, std=HALF)
    )

    def contradictions(self) -> Iterator[tuple[str, str]]:
        yield from ModelConfig.contradictions(self)
        if not self.stem_pool and self.time_strides[1] > 1:
            yield "time_strides", "and the second is of the pooling, which stem_pool False leaves out: say 1"

    def unused(self) -> Iterator[tuple[str, str]]:
        stem = self.embed == "video_to_tokens"
        of_stem = ("stem_kernel", "stem_stride", "stem_channels", "stem_pool", "stem_norm", "stem_relu", "time_strides")
        yield from unless(stem, "embed='video_to_tokens'", *of_stem)
        of_mapping = ("mapping_kernel", "mapping_norm", "mapping_dims", "mapping_start")
        yield from unless(self.mapping == "conv", "mapping='conv'", *of_mapping)

    def build(self) -> CTN:
        return CTN(self)


def ctn_b() -> CTNConfig:
    """CTN (the paper's CTN-b) on 8 frames of 224 × 224, one per segment; layer norms where ViT has them.

    The stem does not shorten time: with the strides of 2 that Table 4.1 prints for it, 8 frames would become one plane
    of tokens, a quarter of the paper's FLOPs (``time_strides=(2, 2)``).
    """
    return CTNConfig()


def ctn_b_eq() -> CTNConfig:
    """CTN with its layer norms where Eqs. 4.1 and 4.2 have them; ViT's weights do not fit."""
    return CTNConfig(norm="post")


def ctn_a() -> CTNConfig:
    """The paper's CTN-a: convolutional stem, linear mapping."""
    return CTNConfig(mapping="linear")


def ctn_tiny() -> CTNConfig:
    """Four narrow blocks for CPUs: 8 frames of 64 × 64, every fourth frame, 4 × 8 × 8 tokens."""
    return CTNConfig(
        width=64,
        depth=4,
        heads=2,
        patch=8,
        stem_kernel=5,
        stem_channels=16,
        small_init=True,
        clip=ClipSpec(frames=8, stride=4, size=64, mean=HALF, std=HALF),
    )


class State(NamedTuple):
    """What passes from block to block.

    Attributes:
        tokens: ``(B, 1 + t·h·w, C)``, the class token first, then t-major; after the last block the class token alone
            if the feature map is not asked for.
        size: (t, h, w), ints.
        all_tokens: whether the last block has to compute the feature map, too.
    """

    tokens: Tensor
    size: tuple[int, int, int]
    all_tokens: bool = True


class VideoToTokens(nn.Module):
    """Convolution, batch norm and max-pooling in space and time (Eq. 4.5), then patches of the feature map."""

    def __init__(self, config: CTNConfig) -> None:
        super().__init__()
        conv_stride, pool_stride = config.time_strides
        kernel, channels = config.stem_kernel, config.stem_channels
        strides = conv_stride, config.stem_stride, config.stem_stride
        self.conv = nn.Conv3d(3, channels, kernel, strides, padding=kernel // 2, bias=not config.stem_norm)
        self.norm = nn.BatchNorm3d(channels) if config.stem_norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True) if config.stem_relu else nn.Identity()
        self.pool = nn.MaxPool3d(3, (pool_stride, 2, 2), padding=1) if config.stem_pool else nn.Identity()
        side = config.patch // _reduction(config)
        patch = (config.patch_frames, side, side)
        self.patches = nn.Conv3d(channels, config.width, patch, patch)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)

    def forward(self, video: Tensor) -> Tensor:
        """``(B, 3, T, H, W)`` to ``(B, C, t, h, w)``."""
        return self.patches(self.pool(self.relu(self.norm(self.conv(video)))))


class DepthwiseConv(nn.Module):
    """Depth-wise convolution of the feature map and batch norm, without change of layout (first half of Eq. 4.6)."""

    def __init__(self, config: CTNConfig) -> None:
        super().__init__()
        width, kernel, self.dims = config.width, config.mapping_kernel, config.mapping_dims
        conv, norm = ((nn.Conv2d, nn.BatchNorm2d), (nn.Conv3d, nn.BatchNorm3d))[self.dims - 2]
        self.conv = conv(width, width, kernel, padding=kernel // 2, groups=width, bias=False)
        self.norm = norm(width) if config.mapping_norm else nn.Identity()
        if config.mapping_start == "kaiming":
            nn.init.kaiming_normal_(self.conv.weight, mode="fan_out")
        else:
            nn.init.dirac_(self.conv.weight, groups=width)
            if isinstance(
                self.norm, nn.modules.batchnorm._BatchNorm
            ):  # undo its eps: as initialised, it divides by √(1 + eps)
                nn.init.constant_(self.norm.weight, math.sqrt(1 + self.norm.eps))

    def forward(self, x: Tensor) -> Tensor:
        """``(B, t, h, w, C)`` to the same shape; tokens are a channels-last feature map already."""
        planes = x.flatten(0, 1).permute(0, 3, 1, 2) if self.dims == 2 else x.permute(0, 4, 1, 2, 3)
        if self.training or is_counting() or isinstance(self.norm, nn.Identity):
            planes = self.norm(self.conv(planes))
        else:
            convolve = F.conv2d if self.dims == 2 else F.conv3d
            planes = convolve(planes, *self.folded(), padding=self.conv.padding, groups=self.conv.groups)  # type: ignore[operator]
        return planes.permute(0, 2, 3, 1).unflatten(0, x.shape[:2]) if self.dims == 2 else planes.movedim(1, 4)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the one convolution that computes convolution and batch norm in evaluation mode."""
        norm: Any = self.norm
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        kernel: Tensor = self.conv.weight
        return kernel * scale.view(-1, *[1] * (kernel.dim() - 1)), norm.bias - norm.running_mean * scale


class Attention(nn.Module):
    """Multi-head self-attention over all tokens (Eq. 4.3, scaled by the width of a head, as ViT is).

    The linear layer of all three mappings is ViT's ``qkv``. The class token has no position in the feature map: it
    skips the convolutions and shares the linear layers.
    """

    def __init__(self, config: CTNConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.depthwise: nn.ModuleDict | None = None
        if config.mapping == "conv":
            self.depthwise = nn.ModuleDict({name: DepthwiseConv(config) for name in "qkv"})
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor, size: tuple[int, int, int], all_tokens: bool = True) -> Tensor:
        """``(B, 1 + N, C)`` to the same shape, or to the class token's ``(B, 1, C)`` if not ``all_tokens``."""
        class_token = tokens[:, :1]
        mapped = dict.fromkeys("qkv", tokens)
        if self.depthwise is not None:
            feature_map = tokens[:, 1:].unflatten(1, size)
            for name in "qkv" if all_tokens else "kv":
                mapped[name] = torch.cat([class_token, self.depthwise[name](feature_map).flatten(1, 3)], 1)
        if not all_tokens:
            mapped["q"] = class_token
        if self.depthwise is None and all_tokens:
            q, k, v = self.qkv(tokens).chunk(3, 2)
        else:
            width = self.qkv.in_features
            parts = (slice(i * width, (i + 1) * width) for i in range(3))
            q, k, v = (some_outputs(self.qkv, mapped[name], part) for name, part in zip("qkv", parts))
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and MLP, each with a residual connection and a layer norm before or after."""

    def __init__(self, config: CTNConfig, drop_path: float, last: bool) -> None:
        super().__init__()
        width = config.width
        self.post, self.last = config.norm == "post", last
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(config)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = mlp(width, config.mlp_ratio, "tanh" if config.gelu == "tanh" else "none")
        self.drop_path = DropPath(drop_path)

    def forward(self, state: State) -> State:
        tokens, size, all_tokens = state
        keep_all = all_tokens or not self.last  # tokens; else the class token only
        normed = tokens if self.post else self.norm1(tokens)
        tokens = (tokens if keep_all else tokens[:, :1]) + self.drop_path(self.attn(normed, size, keep_all))
        if self.post:
            tokens = self.norm1(tokens)
            tokens = self.norm2(tokens + self.drop_path(self.mlp(tokens)))
        else:
            tokens = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return State(tokens, size, all_tokens)


class CTN(VideoModel):
    """CTN, and ViViT as one of its settings. Clips of another length or size than configured may be given.

    Nothing that the scores depend on is left out when the last block computes the class token alone. Its depth-wise
    convolution of the queries is among the paper's parameters, but no score depends on it: it stays as it starts, and
    its batch norm in evaluation mode. Where all tokens are read out (``attentive``, SimMIM) it is trained.
    """

    config: CTNConfig

    def __init__(self, config: CTNConfig) -> None:
        super().__init__(config)
        _check(config)
        width = config.width
        if config.embed == "tube":
            tube = (config.patch_frames, config.patch, config.patch)
            self.patch_embed = nn.Conv3d(3, width, tube, tube)
            patches = self.patch_embed
        else:
            self.video_to_tokens = VideoToTokens(config)
            patches = self.video_to_tokens.patches
        planes, height, _ = self._size(config.clip.frames, config.clip.size, config.clip.size)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        if config.positions == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + planes * height * height, width))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        elif config.positions == "temporal":
            self.time_embed = nn.Parameter(torch.zeros(1, planes, width))
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = nn.ModuleList(Block(config, rate, i + 1 == config.depth) for i, rate in enumerate(rates))
        self.norm = nn.LayerNorm(width, eps=EPS) if config.norm == "pre" else nn.Identity()
        self.standardise = Standardise(width) if config.small_init else nn.Identity()
        self.classifier = Classifier(width, config.classes, config.dropout)
        self._initialise(patches)
        if self._unread is not None and config.attentive is None:
            self._unread.requires_grad_(False).eval()
        self._all_tokens = True
        self.finish()

    def _initialise(self, patches: nn.Conv3d) -> None:
        small = self.config.small_init
        nn.init.trunc_normal_(patches.weight, std=patches.weight[0].numel() ** -0.5 if small else 0.02)
        assert patches.bias is not None
        nn.init.zeros_(patches.bias)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if small:
            init_small(self)
            for name in self.no_weight_decay():
                nn.init.trunc_normal_(self.get_parameter(name), std=0.3)
        else:
            for module in self.classifier.modules():
                if isinstance(module, nn.Linear):
                    nn.init.zeros_(module.weight)

    @property
    def _unread(self) -> nn.Module | None:
        """The last block's convolution of the queries, which the class token's query passes by."""
        depthwise = self.blocks[-1].attn.depthwise
        return depthwise["q"] if depthwise is not None else None

    def train(self, mode: bool = True) -> CTN:
        super().train(mode)
        if self._unread is not None and not any(p.requires_grad for p in self._unread.parameters()):
            self._unread.eval()
        return self

    def stem(self, video: Tensor) -> State:
        """Tokens of the clip and one class token, with the embeddings of their positions if there are any.

        Raises:
            GestaError: a clip that patches do not tile.
        """
        size = self._size(*video.shape[2:])
        if self.config.embed == "tube":
            feature_map = self.patch_embed(video)
        else:
            feature_map = self.video_to_tokens(video.contiguous(memory_format=torch.channels_last_3d))
        patches = feature_map.flatten(2).mT
        class_token: Tensor = self.cls_token
        if self.config.positions == "learned":
            table = self._for_size(self.pos_embed, size)
            patches, class_token = patches + table[:, 1:], class_token + table[:, :1]
        elif self.config.positions == "temporal":
            times = resize_line(self.time_embed, size[0])
            patches = patches + times.repeat_interleave(size[1] * size[2], 1)
        return State(torch.cat([class_token.expand(video.shape[0], -1, -1), patches], 1), size, self._all_tokens)

    def forward_features(self, video: Tensor) -> Any:
        """As of :class:`VideoModel`: whoever asks for the state may want its feature map, so all tokens are there."""
        return self._run(video, {})

    def _run(self, video: Tensor, taps: dict[str, Any] | None) -> Any:
        # papers count the last block with all its tokens
        self._all_tokens = taps is not None or is_counting() or self.attentive is not None
        try:
            return super()._run(video, taps)
        finally:
            self._all_tokens = True

    def pool(self, state: State) -> Tensor:
        """The class token, normalised."""
        tokens = state.tokens if is_counting() else state.tokens[:, :1]  # papers count the norm of all tokens
        return self.standardise(self.norm(tokens)[:, 0])

    def to_grid(self, state: State) -> Tensor:
        return state.tokens[:, 1:].unflatten(1, state.size).permute(0, 4, 1, 2, 3)

    def from_grid(self, grid: Tensor, state: State) -> State:
        tokens = torch.cat([state.tokens[:, :1], grid.permute(0, 2, 3, 4, 1).flatten(1, 3)], 1)
        return State(tokens, state.size, state.all_tokens)

    def grid_at(self, block: int) -> Grid:
        clip = self.config.clip
        return self.config.width, *self._size(clip.frames, clip.size, clip.size)

    def no_weight_decay(self) -> set[str]:
        return {"cls_token", "pos_embed", "time_embed"} & {name for name, _ in self.named_parameters(recurse=False)}

    def _size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Time steps, height and width of a clip's grid of tokens."""
        config = self.config
        map_frames = frames
        if config.embed == "video_to_tokens":
            map_frames = -(-frames // config.time_strides[0])
            map_frames = -(-map_frames // config.time_strides[1]) if config.stem_pool else map_frames
        if height % config.patch or width % config.patch:
            raise GestaError(
                f"patches of {config.patch} pixels do not tile a clip of {height} × {width} pixels; give another size"
            )
        if map_frames % config.patch_frames:
            raise GestaError(
                f"a clip of {frames} frames gives {map_frames} to embed, which patches of {config.patch_frames} do "
                "not tile; change the clip's frames, or patch_frames"
            )
        return map_frames // config.patch_frames, height // config.patch, width // config.patch

    def _for_size(self, table: Tensor, size: tuple[int, int, int]) -> Tensor:
        """``(1, 1 + N, C)`` positions for another map by nearest neighbour; an image's are repeated over the planes.

        Raises:
            GestaError: positions of a map that is not square.
        """
        count, per_plane = table.shape[1] - 1, size[1] * size[2]
        if count == math.prod(size):
            return table
        configured = self.grid_at(0)[2:]
        for height, width in (size[1:], configured, (math.isqrt(count), math.isqrt(count))):
            if height * width and count % (height * width) == 0:
                grid = table[:, 1:].mT.unflatten(2, (count // (height * width), height, width))
                return torch.cat([table[:, :1], resize_map(grid, size).flatten(2).mT], 1)
        raise GestaError(f"{count} positions cannot be resized to {size[0]} planes of {per_plane}")

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the weights of timm's image ViTs and of the public ViViT (and ViT) of ``transformers``.

        A kernel for images becomes the central frame of a tube, whose other frames are zero ("central frame" of
        ViViT's §3.4). Positions of an image are repeated over the planes; those of another clip are resized, with a
        warning. The public patch embedding, which reads pixels, does not fit ``video_to_tokens``.
        """
        renamed: dict[str, Tensor] = {}
        for name, value in weights.items():
            name = name.removeprefix("module.")
            for pattern, ours in _FOREIGN:
                name = re.sub(pattern, ours, name)
            renamed[name] = value
        for name in [name for name in renamed if ".attn.query." in name]:
            parts = [name.replace("query", part) for part in ("query", "key", "value")]
            if all(part in renamed for part in parts):
                renamed[name.replace("query", "qkv")] = torch.cat([renamed.pop(part) for part in parts])
        if self.config.norm == "post" and "norm.weight" in renamed:
            warnings.warn(
                "these weights are of a network with layer norms before its branches; this one has them after, and "
                "will compute something else: use norm='pre'",
                stacklevel=2,
            )
        kernel = renamed.get("patch_embed.weight")
        if self.config.embed == "tube" and kernel is not None and kernel.dim() == 4:
            frames = self.config.patch_frames
            tube = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
            tube[:, :, frames // 2] = kernel
            renamed["patch_embed.weight"] = tube
        table = renamed.get("pos_embed")
        if self.config.positions == "learned" and table is not None and table.dim() == 3:
            size = self.grid_at(0)[1:]
            if table.shape[1] - 1 not in (math.prod(size), size[1] * size[2]):
                warnings.warn(
                    f"pos_embed was made for another clip and is resized to {1 + math.prod(size)} vectors", stacklevel=2
                )
            renamed["pos_embed"] = self._for_size(table, size)
        return renamed


_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"\.mlp\.fc1\.", ".mlp.0."),
    (r"\.mlp\.fc2\.", ".mlp.2."),
    (r"^head\.", "classifier.linear."),
    (r"^classifier\.(weight|bias)$", r"classifier.linear.\1"),
    (r"^(?:vit|vivit)\.layernorm\.", "norm."),
    (r"^(?:vit|vivit)\.embeddings\.", ""),
    (r"^patch_embeddings\.projection\.", "patch_embed."),
    (r"^position_embeddings$", "pos_embed"),
    (r"^(?:vit|vivit)\.encoder\.layer\.", "blocks."),
    (r"\.attention\.attention\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.0."),
    (r"\.output\.dense\.", ".mlp.2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)
"""Patterns of public names, and what replaces them here."""


def _check(config: CTNConfig) -> None:
    rules = {
        f"{config.heads} heads need a width that is divisible by {config.heads}, not {config.width}": config.width
        % config.heads,
        f"mapping_kernel and stem_kernel must be odd, not {config.mapping_kernel} and {config.stem_kernel}": (
            config.mapping_kernel * config.stem_kernel % 2 == 0
        ),
        f"a stem of stride {_reduction(config)} cannot make patches of {config.patch} pixels": (
            config.embed == "video_to_tokens" and config.patch % _reduction(config)
        ),
    }
    for message, is_violated in rules.items():
        if is_violated:
            raise GestaError(message)


def _reduction(config: CTNConfig) -> int:
    """Pixels per position of the stem's feature map, along each spatial axis."""
    return config.stem_stride * (2 if config.stem_pool else 1)
