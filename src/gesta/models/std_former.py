"""STD-Former: a CLIP image Transformer beside a temporal branch, which attends along time at every position.

Source: "Spatio-temporal diffusion transformer for action recognition", anonymous submission to ICLR (OpenReview
ICR3swcnaa), whose sections are named here. No code exists and its figures are not in the text we have; what only they
say is decided in ``docs/fidelity.md``, with fields of :class:`STDFormerConfig` for the other readings. "Diffusion" is
the feedback of temporal features to the spatial branch; nothing is denoised. It builds on UniFormerV2 (K. Li et al.,
ICCV 2023).

Layer i, for tokens x of every frame (ST branch), their patches P(x), and the memory z of the T branch::

    x = PTM(x), or CLIP's block                     u = x + DPE(x);  u + MHA(u) + α FFN(u) + β Conv(u)       §3.2, Eq. 1
    z = CTM(P(x), z)                                q = P + CPE(P);  u = q + MHA_T(q, z);  u + FFN(u)        §3.3
    P(x) = P(x) + STDM(z)                           not behind the last layer                                §3.4

with an SMEM (§3.5) before one of the CTMs. The classifier reads the mean of the last z.

Both branches keep frames first, ``(T, B, ...)``: layers act on single tokens or single frames as they lie, a shift in
time is a slice, and attention along time takes strided views of its queries and keys.
"""

from __future__ import annotations

import math
import re
import warnings
from typing import NamedTuple

import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from gesta.config import config
from gesta.errors import GestaError
from gesta.layers.init import Standardise, init_small
from gesta.layers.tokens import to_grid, to_tokens
from gesta.model import Classifier, ClipSpec, Grid, VideoModel, drop_path_rates
from gesta.models.std_former_parts import CTM, PTM, Block, Branch, ConvStem, STDFormerSizes, Tubelets, add_to_patches
from gesta.plugins.smem import SMEM, MotionExcitation
from gesta.plugins.stdm import STDM, Diffusion


@config
class STDFormerConfig(STDFormerSizes):
    """An STD-Former of these sizes; the fields are those of :class:`STDFormerSizes`."""

    def build(self) -> STDFormer:
        return STDFormer(self)


def std_former_b() -> STDFormerConfig:
    """STD-Former on CLIP's ViT-B/16, 16 frames of 224 × 224, one per segment of the video."""
    return STDFormerConfig()


def std_former_tiny() -> STDFormerConfig:
    """Four narrow layers for CPUs: 8 frames of 64 × 64, every fourth frame, 4 × 8 × 8 tokens."""
    return STDFormerConfig(
        width=64,
        depth=4,
        heads=2,
        mlp_ratio=2.0,
        ctm_mlp_ratio=2.0,
        patch=8,
        stem="conv",
        ptm_layers=(2, 3),
        ctm_residual="memory",
        smem=(("T", 1),),
        smem_channels=32,
        small_init=True,
        clip=ClipSpec(frames=8, stride=4, size=64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    )


class State(NamedTuple):
    """What goes from layer to layer.

    Attributes:
        tokens: of the ST branch, ``(T, B, 1 + H·W, C)``, each frame's class token first.
        memory: of the T branch, ``(T, B, N, C)``: N = H·W, and one more, the first, if class tokens attend along time.
        size: (H, W), plain numbers.
        read: whether the map that is shown is the memory's, as it is after the last layer: what the classifier reads.
    """

    tokens: Tensor
    memory: Tensor
    size: tuple[int, int]
    read: bool = False


class Layer(nn.Module):
    """Layer i of both branches, and the diffusion from the one to the other."""

    def __init__(self, config: STDFormerConfig, index: int, size: tuple[int, int], rates: tuple[float, float]) -> None:
        super().__init__()
        kind = PTM if index in config.ptm_layers else Block
        self.spatial = kind(config, rates[0])
        self.cross = None if config.head_input == "patches" else CTM(config, rates[1])
        self.last = index + 1 == config.depth
        self.feedback: Diffusion | None = None
        if index in _stdm_layers(config):
            stdm = STDM(kind=config.stdm_kind, final_relu=config.stdm_final_relu, norm=config.norm)
            self.feedback = Diffusion(config.width, stdm)
        self.before = config.smem_position == "before"
        smem = SMEM(
            channels=config.smem_channels,
            fusion=config.smem_fusion,
            pairing=config.smem_pairing,
            edge=config.smem_edge,
            norm=config.norm,
        )
        self.motion = nn.ModuleDict(
            {branch: MotionExcitation(config.width, size, smem) for branch, at in config.smem if at == index}
        )

    def forward(self, state: State) -> State:
        tokens, memory, size, _ = state
        if self.before:
            tokens = self._excited("ST", tokens, size)
        tokens = self.spatial(tokens, size)
        tokens, memory = (
            (tokens, self._excited("T", memory, size)) if self.before else (self._excited("ST", tokens, size), memory)
        )
        query = tokens[:, :, tokens.shape[2] - memory.shape[2] :]
        memory = query if self.cross is None else self.cross(query, memory, size)
        if not self.before:
            memory = self._excited("T", memory, size)
        if self.feedback is not None:
            spread = self.feedback.spread(_patches(memory, size))
            tokens = add_to_patches(tokens, spread.flatten(2, 3))
        return State(tokens, memory, size, self.last)

    def _excited(self, branch: Branch, x: Tensor, size: tuple[int, int]) -> Tensor:
        """Tokens or memory behind the SMEM of that branch, if there is one."""
        if branch not in self.motion:
            return x
        patches = to_tokens(self.motion[branch](to_grid(_patches(x, size)))).flatten(2, 3)
        return torch.cat([x[:, :, : x.shape[2] - patches.shape[2]], patches], 2)


class STDFormer(VideoModel):
    """STD-Former. Clips of another length or size than configured may be given; positions are resized (bicubic).

    Its blocks are its layers, each with its PTM or CLIP block, CTM and STDM. What is inserted before one sees the ST
    branch; after the last layer the map is the last CTM's.
    """

    config: STDFormerConfig

    def __init__(self, config: STDFormerConfig) -> None:
        super().__init__(config)
        _check(config)
        width, small = config.width, config.small_init
        self.conv_stem: nn.Module = nn.Identity()
        channels, patch = 3, config.patch
        if config.stem == "conv":
            channels, patch = width // 2, patch // 4
            self.conv_stem = ConvStem(channels)
        self.patch_embed = Tubelets(channels, width, patch, config.tubelet_kernel, config.tubelet_stride)
        _, _, *size = self.grid_at(0)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        self.pos_embed = nn.Parameter(torch.empty(1, 1 + size[0] * size[1], width))
        self.norm_pre = nn.LayerNorm(width)
        rates = zip(
            drop_path_rates(config.drop_path, config.depth), drop_path_rates(config.ctm_drop_path, config.depth)
        )
        self.blocks = nn.ModuleList(Layer(config, i, (size[0], size[1]), rate) for i, rate in enumerate(rates))
        self.balance = nn.Parameter(torch.zeros(width)) if config.head_input == "fused" else None
        self.norm_read = nn.LayerNorm(width)
        self.standardise = Standardise(width) if small else nn.Identity()
        self.classifier = Classifier(width, config.classes, config.dropout)
        for table in (self.cls_token, self.pos_embed):
            nn.init.trunc_normal_(table, std=0.3 if small else 0.02)
        nn.init.trunc_normal_(self.patch_embed.weight, std=self.patch_embed.weight[0].numel() ** -0.5)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear) and ".spatial." in f".{name}" and (".attn." in name or ".mlp." in name):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        for module in self.classifier.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        if small:
            self._init_small()
        self.finish()

    def _init_small(self) -> None:
        """Initialise for a narrow model: no layer starts at zero."""
        init_small(self)
        for module in self.modules():
            if isinstance(module, CTM):
                nn.init.kaiming_uniform_(module.cpe.weight, a=math.sqrt(5))  # type: ignore[arg-type]  # torch's default
            elif isinstance(module, MotionExcitation):
                nn.init.kaiming_uniform_(module.excite.weight, a=math.sqrt(5))
            elif isinstance(module, Diffusion) and module.gate is not None:
                nn.init.ones_(module.gate)

    def stem(self, video: Tensor) -> State:
        """Tokens of both branches, behind CLIP's first layer norm.

        Raises:
            GestaError: a clip that tokens do not tile.
        """
        frames, *size = self._size(*video.shape[2:])
        patches = self.patch_embed(self.conv_stem(video)).flatten(2, 3)
        table = resample_abs_pos_embed(self.pos_embed, size, num_prefix_tokens=1)
        token = self.cls_token.expand(frames, video.shape[0], -1, -1)
        embedded = torch.cat([token, patches], 2)
        tokens = self.norm_pre(embedded + table)
        memory = embedded if self.config.memory_start == "stem" else tokens
        memory = memory if self.config.ctm_include_cls else memory[:, :, 1:].contiguous()
        return State(tokens, memory, (size[0], size[1]))

    def pool(self, state: State) -> Tensor:
        """The mean of the last memory over frames and positions, a class token's included, normalised."""
        features = state.memory.mean((0, 2))
        if self.balance is not None:
            gate = self.balance.sigmoid()
            features = gate * state.tokens[:, :, 0].mean(0) + (1 - gate) * features
        return self.standardise(self.norm_read(features))

    def to_grid(self, state: State) -> Tensor:
        """The ST branch's patches, or the memory's after the last layer: a view."""
        return _patches(state.memory if state.read else state.tokens, state.size).permute(1, 4, 0, 2, 3)

    def from_grid(self, grid: Tensor, state: State) -> State:
        patches = grid.permute(2, 0, 3, 4, 1).flatten(2, 3)
        x = state.memory if state.read else state.tokens
        x = torch.cat([x[:, :, : x.shape[2] - patches.shape[2]], patches], 2)
        return state._replace(memory=x) if state.read else state._replace(tokens=x)

    def scale_token(self, state: State, factor: int) -> State:
        """Those of the ST branch, into which layers are inserted; the memory stays as it is."""
        return state._replace(tokens=state.tokens * factor)

    def grid_at(self, block: int) -> Grid:
        clip = self.config.clip
        return self.config.width, *self._size(clip.frames, clip.size, clip.size)

    def no_weight_decay(self) -> set[str]:
        times = {f"blocks.{i}.cross.time_embed" for i in range(len(self.blocks)) if self.config.temporal_pos_embed}
        return {"cls_token", "pos_embed"} | times

    def _is_stem(self, name: str) -> bool:
        return not name.startswith(("classifier.", "norm_read.", "standardise.", "balance"))

    def _size(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Token frames, height and width of the token map of a clip."""
        patch, stride = self.config.patch, self.config.tubelet_stride
        if height % patch or width % patch:
            raise GestaError(
                f"patches of {patch} pixels do not tile a clip of {height} × {width} pixels; give another size"
            )
        if frames % stride:
            raise GestaError(f"a clip of {frames} frames cannot be embedded with tubelet_stride={stride}")
        return frames // stride, height // patch, width // patch

    # --- CLIP's weights ------------------------------------------------------------------------------------------

    def check_source(self, description: str) -> None:
        """Refuse weights of the other GELU: their names are the same, so nothing else would show it.

        OpenAI's weights and those that say "quickgelu" were trained with QuickGELU; open_clip's of LAION, DataComp and
        CommonPool, and timm's CLIP ViTs without that word, with the exact one. A file that says neither is taken.
        """
        quick = re.search(r"quick_?gelu|openai", description, re.IGNORECASE)
        exact = re.search(r"laion|datacomp|commonpool|clip_\d+\.|\"hidden_act\": \"gelu\"", description, re.IGNORECASE)
        trained_with = "quick" if quick else "exact" if exact else self.config.gelu
        if trained_with != self.config.gelu:
            names = {"quick": "QuickGELU", "exact": "the exact GELU"}
            evidence = (quick or exact)[0]  # type: ignore[index]
            raise GestaError(
                f"these weights were trained with {names[trained_with]} (its description says {evidence!r}), "
                f"and the model computes {names[self.config.gelu]}: set --model.gelu {trained_with}"
            )

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Names of OpenAI's CLIP (``visual.``, or its image part alone), of its image part in ``transformers`` and of
        timm's CLIP ViTs to ours.

        The kernel of an image becomes the middle frame of a tubelet, the others zero. CLIP's last norm and projection
        are not used. Positions for another size are resized (bicubic), with a warning.
        """
        image = next((p for p in ("visual.", "vision_model.") if any(n.startswith(p) for n in weights)), "")
        renamed: dict[str, Tensor] = {}
        for name, value in weights.items():
            if not name.startswith(image):
                renamed[name] = value  # the text's Transformer, whose blocks have the names of the image's
                continue
            theirs = name.removeprefix(image)
            for pattern, ours in _FOREIGN:
                theirs = re.sub(pattern, ours, theirs)
            renamed[theirs] = value
        for name in [name for name in renamed if ".attn.q_proj." in name]:  # transformers
            parts = [name.replace(".q_proj.", f".{part}_proj.") for part in "qkv"]
            if all(part in renamed for part in parts):
                renamed[name.replace(".q_proj.", ".qkv.")] = torch.cat([renamed.pop(part) for part in parts])
        for name, dims in (("cls_token", 3), ("pos_embed", 3)):
            if name in renamed and renamed[name].dim() < dims:
                renamed[name] = renamed[name].reshape(1, -1, renamed[name].shape[-1])
        kernel = renamed.get("patch_embed.weight")
        if kernel is not None and kernel.dim() == 5 and kernel.shape[2] == 1 < self.config.tubelet_kernel:
            kernel = kernel[:, :, 0]  # of a training on single frames
        if kernel is not None and kernel.dim() == 4:
            tubelet = kernel.new_zeros(*kernel.shape[:2], self.config.tubelet_kernel, *kernel.shape[2:])
            tubelet[:, :, self.config.tubelet_kernel // 2] = kernel
            renamed["patch_embed.weight"] = tubelet
        table = renamed.get("pos_embed")
        if table is not None and table.shape[1] != self.pos_embed.shape[1]:
            _, _, *size = self.grid_at(0)
            warnings.warn(f"pos_embed was made for another size and is resized to {size[0]} × {size[1]}", stacklevel=2)
            renamed["pos_embed"] = resample_abs_pos_embed(table, size, num_prefix_tokens=1)
        return renamed


_FOREIGN: tuple[tuple[str, str], ...] = (
    (r"^embeddings\.patch_embedding\.", "patch_embed."),
    (r"^embeddings\.class_embedding$", "cls_token"),
    (r"^embeddings\.position_embedding\.weight$", "pos_embed"),
    (r"^pre_layrnorm\.", "norm_pre."),
    (r"^encoder\.layers\.", "blocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm([12])\.", r".norm\1."),
    (r"^conv1\.", "patch_embed."),
    (r"^patch_embed\.proj\.", "patch_embed."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"^(blocks\.\d+)\.(?:ln_|norm)([12])\.", r"\1.spatial.norm\2."),
    (r"^(blocks\.\d+)\.attn\.in_proj_", r"\1.spatial.attn.qkv."),
    (r"^(blocks\.\d+)\.attn\.(?:out_)?proj\.", r"\1.spatial.attn.proj."),
    (r"^(blocks\.\d+)\.attn\.", r"\1.spatial.attn."),
    (r"^(blocks\.\d+)\.mlp\.(?:c_fc|fc1)\.", r"\1.spatial.mlp.0."),
    (r"^(blocks\.\d+)\.mlp\.(?:c_proj|fc2)\.", r"\1.spatial.mlp.2."),
)
"""Patterns of public names and ours."""


def _patches(x: Tensor, size: tuple[int, int]) -> Tensor:
    """``(T, B, N, C)`` or ``(T, B, 1 + N, C)`` as a token map ``(T, B, H, W, C)``, without the class token."""
    return x[:, :, x.shape[2] - size[0] * size[1] :].unflatten(2, size)


def _stdm_layers(config: STDFormerConfig) -> tuple[int, ...]:
    return tuple(range(config.depth - 1)) if config.stdm_layers is None else config.stdm_layers


def _check(config: STDFormerConfig) -> None:
    def outside(name: str, layers: tuple[int, ...], last: int) -> dict[str, bool]:
        sentence = f"{name} {layers}: the model has layers 0 to {last}"
        return {sentence: any(not 0 <= layer <= last for layer in layers)}

    stdm = _stdm_layers(config)
    rules = {
        f"{config.heads} heads need a width that is divisible by {config.heads}, not {config.width}": config.width
        % config.heads
        > 0,
        f"stdm_layers {stdm}: nothing follows layer {config.depth - 1}, so the last STDM is behind layer "
        f"{config.depth - 2}": any(not 0 <= layer < config.depth - 1 for layer in stdm),
        f"dpe_reduction {config.dpe_reduction:g} leaves nothing of the width {config.width}: give less": bool(
            config.ptm_layers
        )
        and config.dpe_reduction > config.width,
        f"smem {config.smem}: a layer is named twice": len(set(config.smem)) < len(config.smem),
        f"a patch of {config.patch} pixels cannot be four times smaller; stem conv needs a multiple of 4": config.stem
        == "conv"
        and config.patch % 4 > 0,
        **outside("ptm_layers", config.ptm_layers, config.depth - 1),
        **outside("smem", tuple(at for _, at in config.smem), config.depth - 1),
    }
    for sentence, broken in rules.items():
        if broken:
            raise GestaError(sentence)
