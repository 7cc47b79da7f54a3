"""The shape every system shares: stem → blocks → head, with one loop over the blocks.

A model is described by a :class:`ModelConfig` (typed sizes, JSON-able, saved with the weights) and built by
``config.build()``. Plug-in layers are inserted *before* a block by configuration and see the state as a
``(B, C, T, H, W)`` grid, so a plug-in never learns which backbone it is in and a backbone never learns which plug-in
it got.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, overload

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.utils._pytree import tree_map_only
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from gesta.config import Between, Count, CountOrZero, config, replace, reset_unused, suggest, to_json, unless
from gesta.errors import GestaError
from gesta.video.modality import Modality

Grid = tuple[int, int, int, int]
"""Channels, frames, height, width of a feature map."""

Scores = Tensor | dict[str, Tensor]
"""``(B, K)`` scores, or one such tensor per label space (verb, noun)."""


MAX_PARTS = 20_000
"""Modules, parameters and buffers that a model described by a file may have; the largest of gesta has 2,500."""

MAX_NUMBERS = 2**32
"""Numbers in all parameters and buffers of such a model: 16 GiB in 32 bits."""

_Positive = Annotated[float, Between(1e-6, 1e6)]
_Mean = Annotated[float, Between(-1e6, 1e6)]


@config
class ClipSpec:
    """What clips a model expects; part of the model's configuration, so it travels with the weights.

    Attributes:
        frames: frames per clip, T.
        sampling: ``dense`` takes frames ``stride`` apart, ``uniform`` one frame of each of ``frames`` equal segments of
            the whole video (TSN sampling).
        stride: distance of neighbouring frames in dense sampling, in frames of the video.
        shrink: let the stride of dense sampling shrink to ``n // frames``, but not below 1, for a video of n frames
            that is shorter than a clip.
        size: height and width of a clip in pixels.
        squash: scale whole frames to a square, whatever their aspect, before they are cropped, instead of cropping a
            square from them; training, testing and prediction all do.
        mean: per-channel mean subtracted from RGB in [0, 1].
        std: per-channel standard deviation divided by.
        streams: what a model of several streams expects, each three channels, one after the other; all others expect
            one, whatever it shows.
    """

    frames: Annotated[int, Between(1, 4096)] = 16
    sampling: Literal["dense", "uniform"] = "dense"
    stride: Annotated[int, Between(1, 4096)] = 4
    shrink: bool = False
    size: Annotated[int, Between(1, 4096)] = 224
    squash: bool = False
    mean: tuple[_Mean, _Mean, _Mean] = (0.45, 0.45, 0.45)
    std: tuple[_Positive, _Positive, _Positive] = (0.225, 0.225, 0.225)
    streams: tuple[Modality, ...] = ()

    def unused(self) -> Iterator[tuple[str, str]]:
        yield from unless(self.sampling == "dense", "sampling='dense'", "stride", "shrink")

    @property
    def channels(self) -> int:
        """C of a clip."""
        return 3 * max(1, len(self.streams))


@config
class LayerConfig:
    """A plug-in layer that keeps the shape of a feature map."""

    def build(self, grid: Grid) -> nn.Module:
        """A module ``(B, C, T, H, W) -> (B, C, T, H, W)`` for feature maps of the given size."""
        raise NotImplementedError


@config
class AroundConfig:
    """A plug-in around a temporal attention, such as an alignment of the frames."""

    @property
    def needs_positions(self) -> bool:
        """Whether it has to know the embeddings of position and time that a stem has added to the tokens."""
        return False

    def check_map(self, height: int, width: int) -> None:
        """Refuse feature maps of a size that it cannot work with, before anything is trained.

        Raises:
            GestaError: of this size.
        """

    def build(self) -> nn.Module:
        """A module as :class:`gesta.layers.temporal.Around` says."""
        raise NotImplementedError


@config
class ReadoutConfig:
    """What reads features from the tokens of a clip, instead of a model's own pooling.

    Attributes:
        layers: blocks whose tokens are read, each through the model's last norm, joined one after the other; empty for
            the last.
    """

    layers: tuple[CountOrZero, ...] = ()

    def build(self, width: int) -> nn.Module:
        """A module ``(B, N, width) -> (B, width)``."""
        raise NotImplementedError


@config
class Insert:
    """Put ``layer`` before block ``at`` (0-based: ``at=3`` means after three blocks, the papers' ``[3]``).

    Attributes:
        class_token: a layer sees the feature map only; ``double`` multiplies the class token by 2, as a layer that adds
            its input back at first does to the map. It is refused where there is none.
    """

    layer: LayerConfig
    at: CountOrZero
    class_token: Literal["keep", "double"] = "keep"


@config
class ModelConfig:
    """Sizes of one system. Subclasses add their own fields and implement :meth:`build`.

    Attributes:
        classes: number of classes; a dict for several label spaces (``{"verb": 97, "noun": 300}``); 0 gives features.
        multi_label: a video may have any number of the classes: each score goes through a sigmoid of its own instead of
            a softmax over all. A training takes this, as the number of classes, from its data.
        clip: what clips the model expects.
        inserts: plug-in layers and the blocks that they precede.
        attentive: what reads the features out, such as ``Attentive()``, V-JEPA 2's probe; None is as the system does.
        dropout: dropout before the classifier.
        drop_path: stochastic depth, growing linearly from 0 in the first block to this in the last.
        activation_checkpointing: recompute each block, and what is inserted before it, in the backward pass instead of
            keeping its activations.
    """

    learns_classes: ClassVar[bool] = True  # or else its own losses alone, from videos without labels

    classes: CountOrZero | dict[str, Count] = 400
    clip: ClipSpec = field(default_factory=ClipSpec)
    inserts: list[Insert] = field(default_factory=list)
    attentive: ReadoutConfig | None = None
    dropout: Annotated[float, Between(0, 1, open="high")] = 0.0
    drop_path: Annotated[float, Between(0, 1, open="high")] = 0.0
    activation_checkpointing: bool = False
    multi_label: bool = False

    def contradictions(self) -> Iterator[tuple[str, str]]:
        if self.multi_label and isinstance(self.classes, dict):
            yield "multi_label", "and a video has one class in each of several label spaces"
        if isinstance(self.classes, dict):
            if not self.classes:
                yield "classes", "which names no label space; 0 gives features"
            for space in self.classes:
                if not re.fullmatch(r"[^\W\d][\w -]{0,59}", space) or hasattr(nn.ModuleDict(), space):
                    yield "classes", f"and a label space cannot be called {space!r}: use another word"

    @property
    def summary(self) -> str:
        """The system and its plug-ins in one line, ``MViT + STAN[3]``."""
        plugins = [f"{type(insert.layer).__name__}[{insert.at}]" for insert in self.inserts]
        return " + ".join([type(self).__name__.removesuffix("Config"), *plugins])

    def build(self) -> VideoModel:
        """Build the model with freshly initialised weights (on the current default device, ``meta`` included)."""
        raise NotImplementedError


class VideoModel(nn.Module):
    """Base of all systems: owns the loop over blocks, the inserts, the taps and activation checkpointing.

    A subclass registers its parts, offers its blocks as :attr:`blocks`, and implements :meth:`stem`, :meth:`pool`,
    :meth:`to_grid`, :meth:`from_grid` and :meth:`grid_at`; its ``__init__`` ends with :meth:`finish`. The state between
    blocks is whatever the system likes.
    """

    blocks: Any  # an nn.ModuleList, or a property giving a list of registered modules
    classifier: nn.Module
    inserts: nn.ModuleDict
    attentive: nn.Module | None
    streams: ClassVar[tuple[str, ...]] = ()  # what its clips hold, see ClipSpec
    variants: ClassVar[tuple[str, ...]] = ()  # fields of the configuration in which its public checkpoints differ

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        if config.clip.streams != self.streams:
            raise GestaError(
                f"model.clip.streams cannot be {config.clip.streams}: {type(self).__name__} expects "
                f"{' and '.join(self.streams) or 'one stream, whatever it shows'}"
            )

    # --- what a system implements ------------------------------------------------------------------------------------

    def stem(self, video: Tensor) -> Any:
        """Clips ``(B, C, T, H, W)`` to the first block's state."""
        raise NotImplementedError

    def pool(self, state: Any) -> Tensor:
        """The last block's state to one feature vector per clip, ``(B, D)``, normalised as the classifier expects."""
        raise NotImplementedError

    def to_grid(self, state: Any) -> Tensor:
        """The state as a feature map ``(B, C, T, H, W)``, class tokens left out."""
        raise NotImplementedError

    def from_grid(self, grid: Tensor, state: Any) -> Any:
        """The state with its feature map replaced by ``grid``; class tokens are untouched."""
        raise NotImplementedError

    def tokens(self, state: Any, block: int | None = None) -> Tensor:
        """The state as tokens, ``(B, N, C)``, through the last norm: what :attr:`ModelConfig.attentive` reads.

        By default the positions of the feature map, through :attr:`norm` where there is a layer norm of that width.

        Args:
            state: of the last block.
            block: the block that gave it, if it is another.
        """
        tokens = self.to_grid(state).flatten(2).mT
        norm = getattr(self, "norm", None)
        fits = isinstance(norm, nn.LayerNorm) and norm.normalized_shape == (tokens.shape[2],)
        return norm(tokens) if norm is not None and fits else tokens

    def grid_at(self, block: int) -> Grid:
        """Size of the map before block ``block`` (``len(blocks)``: after the last) at the configured clip size."""
        raise NotImplementedError

    def scale_token(self, state: Any, factor: int) -> Any:
        """The state with its class token multiplied. The map may be, too: :meth:`from_grid` is about to replace it."""
        return tree_map_only(Tensor, lambda part: part * factor if part.is_floating_point() else part, state)

    def losses(self, state: Any) -> dict[str, Tensor]:
        """Extra training losses by name, already weighted; computed from the last block's state."""
        return {}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters without weight decay, besides biases and 1-D ones."""
        return set()

    def depth_of(self, name: str) -> int:
        """Depth of a parameter for layer-wise learning-rate decay: 0 stem, i + 1 block i, len(blocks) + 1 head."""
        if name.startswith("attentive."):
            return len(self.blocks) + 1
        for index, block in enumerate(self._blocks_by_name()):
            if name.startswith(block):
                return index + 1
        if name.startswith("inserts."):
            return int(name.split(".")[1]) + 1
        return 0 if self._is_stem(name) else len(self.blocks) + 1

    def convert_foreign(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename a public checkpoint's keys to this model's; unknown keys are passed through unchanged."""
        return weights

    def check_source(self, description: str) -> None:
        """Refuse foreign weights that are of another kind than their names say, with a :class:`GestaError`.

        Args:
            description: what their file says of itself: its path, its metadata, the config.json beside it.
        """

    # --- what all systems share --------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Build the inserts and the readout; called at the end of a subclass's ``__init__``."""
        layers: dict[str, list[nn.Module]] = {}
        self._token_scale: dict[str, int] = {}
        for insert in self.config.inserts:
            if not 0 <= insert.at < len(self.blocks):
                raise GestaError(
                    f"{type(insert.layer).__name__} cannot be inserted before block {insert.at}: "
                    f"{type(self).__name__} has blocks 0 to {len(self.blocks) - 1}"
                )
            if insert.class_token == "double" and not self._has_class_token():
                raise GestaError(
                    f"class_token is double for {type(insert.layer).__name__} before block {insert.at}, which changes "
                    f"nothing without a class token, and {type(self).__name__} has none here; leave it at keep"
                )
            at = str(insert.at)
            layers.setdefault(at, []).append(insert.layer.build(self.grid_at(insert.at)))
            self._token_scale[at] = self._token_scale.get(at, 1) * (2 if insert.class_token == "double" else 1)
        self.inserts = nn.ModuleDict({at: nn.Sequential(*group) for at, group in layers.items()})
        self.attentive = self._readout()

    def _has_class_token(self) -> bool:
        return any(name.rpartition(".")[2] == "cls_token" for name, _ in self.named_parameters())

    def _readout(self) -> nn.Module | None:
        """What the configuration says, and a classifier of its width as the original probe has it.

        Raises:
            GestaError: blocks that there are not, or of another width than the last.
        """
        config, count = self.config.attentive, len(self.blocks)
        if config is None:
            return None
        width = self.grid_at(count)[0]
        for block in config.layers:
            if block >= count or self.grid_at(block + 1)[0] != width:
                what = "has another width than the last" if block < count else f"is none of blocks 0 to {count - 1}"
                raise GestaError(f"model.attentive.layers names block {block}, which {what}; leave it out")
        if list(config.layers) != sorted(set(config.layers)):
            raise GestaError(f"model.attentive.layers is {config.layers}; name each block once, in their order")
        self.classifier = Classifier(width, self.config.classes, self.config.dropout)
        for layer in self.classifier.modules():
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        return config.build(width)

    @overload
    def forward(self, video: Tensor, with_losses: Literal[False] = False) -> Scores: ...
    @overload
    def forward(self, video: Tensor, with_losses: Literal[True]) -> tuple[Scores, dict[str, Tensor]]: ...
    def forward(self, video: Tensor, with_losses: bool = False) -> Scores | tuple[Scores, dict[str, Tensor]]:
        """Class scores (logits) of clips.

        Args:
            video: normalised clips ``(B, C, T, H, W)``.
            with_losses: also return the model's extra losses (empty for most), for training.

        Returns:
            ``(B, K)`` scores, a dict of them for several label spaces, or pooled features for ``classes=0``.
        """
        tapped = self._tapped()
        state = self._run(video, tapped or None)
        scores = self.forward_head(state, tapped=tapped)
        return (scores, self.losses(state)) if with_losses else scores

    def forward_features(self, video: Tensor) -> Any:
        """Clips ``(B, C, T, H, W)`` to the state after the last block, not pooled, as timm's method of this name.

        :meth:`to_grid` shows it as a feature map ``(B, C', T', H', W')``; :meth:`forward_head` takes it.
        """
        return self._run(video, None)

    @overload
    def forward_head(
        self, state: Any, pre_logits: Literal[False] = False, tapped: Mapping[str, Any] | None = None
    ) -> Scores: ...
    @overload
    def forward_head(
        self, state: Any, pre_logits: Literal[True], tapped: Mapping[str, Any] | None = None
    ) -> Tensor: ...
    def forward_head(self, state: Any, pre_logits: bool = False, tapped: Mapping[str, Any] | None = None) -> Scores:
        """What :meth:`forward_features` gave to class scores, or with ``pre_logits`` to pooled features ``(B, D)``.

        Args:
            state: after the last block.
            pre_logits: leave the classifier out.
            tapped: ``"block.i"`` → the state after block i, of each that ``config.attentive.layers`` names.

        Raises:
            GestaError: a model that reads several layers, without their states.
        """
        features = self.pool(state) if self.attentive is None else self.attentive(self.tokens_read(state, tapped))
        return features if pre_logits else self.classifier(features)

    def clips_of(self, views: Tensor) -> Tensor:
        """Views ``(V, T, C, H, W)`` uint8, on the model's device, as the clips that it takes; see :func:`to_clips`."""
        return to_clips(views[None], self.config.clip, next((w.dtype for w in self.parameters()), torch.float32))

    def score_tokens(self, tokens: Tensor) -> Scores:
        """Class scores of tokens ``(B, N, C)`` that :meth:`read_tokens` gave, also of several clips joined along N.

        Raises:
            GestaError: a model without an attentive head.
        """
        if self.attentive is None:
            raise GestaError("this model has no attentive head (model.attentive), which alone reads joined tokens")
        return self.classifier(self.attentive(tokens))

    def tokens_read(self, state: Any, tapped: Mapping[str, Any] | None = None) -> Tensor:
        """The tokens that :attr:`attentive` reads, ``(B, N, C)``; for the arguments see :meth:`forward_head`."""
        if not (names := self._tapped()):
            return self.tokens(state)
        if tapped is None:
            raise GestaError("this model reads out several layers: call model(video) or model.embed(video)")
        return torch.cat([self.tokens(tapped[name], int(name.removeprefix("block."))) for name in names], 1)

    def read_tokens(self, video: Tensor) -> Tensor:
        """The tokens of clips that :attr:`attentive` reads, ``(B, N, C)``."""
        tapped = self._tapped()
        return self.tokens_read(self._run(video, tapped or None), tapped)

    def _tapped(self) -> dict[str, Any]:
        """The taps that the readout needs beside the last block's state, without their values."""
        return {f"block.{i}": None for i in self.config.attentive.layers} if self.config.attentive else {}

    def embed(self, video: Tensor) -> Tensor:
        """Pooled features of clips, ``(B, D)``: what the classifier sees."""
        tapped = self._tapped()
        state = self._run(video, tapped or None)
        return self.forward_head(state, pre_logits=True, tapped=tapped)

    def get_classifier(self) -> nn.Module:
        """The last part: dropout and a linear layer for each label space, see :class:`Classifier`."""
        return self.classifier

    def reset_classifier(self, num_classes: int | dict[str, int]) -> None:
        """Replace the classifier by a fresh one, and note its size in the configuration; all else keeps its weights.

        Args:
            num_classes: number of classes, a dict of numbers for several label spaces, or 0 for features.

        Raises:
            GestaError: a number that is no number of classes; the model stays as it was.
        """
        config = replace(self.config, classes=num_classes)
        weight = next(self.parameters())
        # each system initialises its classifier in its own way, so a whole network is built for this part of it
        self.classifier = config.build().classifier.to(weight.device, weight.dtype).train(self.training)
        self.config = config

    def taps(self, video: Tensor, names: Iterable[str]) -> dict[str, Tensor]:
        """Named intermediate feature maps, each ``(B, C, T, H, W)``.

        ``"stem"`` is what enters block 0 (before its inserts), ``"insert.i"`` what the inserts before block i give,
        ``"temporal.i"`` what the temporal modelling inside block i gives, ``"block.i"`` what block i gives.
        """
        requested = set(names)
        known = self.tap_names()
        for name in requested - set(known):
            raise GestaError(f"{type(self).__name__} has no tap {name!r}{suggest(name, known)}")
        maps: dict[str, Tensor] = {}

        def keep(name: str, _: nn.Module, __: Any, result: tuple[Tensor, Any]) -> None:
            maps[name] = result[0].permute(0, 4, 1, 2, 3)  # a temporal attention gives (B, T, H, W, C)

        states: dict[str, Any] = {name: None for name in known if name in requested and "temporal" not in name}
        taps = [(f"temporal.{i}", block) for i, block in enumerate(self.blocks)]
        with hooked({block.temporal: partial(keep, name) for name, block in taps if name in requested}):
            self._run(video, states)
        return maps | {name: self.to_grid(state) for name, state in states.items()}

    def tap_names(self) -> list[str]:
        """All names :meth:`taps` knows, in the order of the forward pass."""
        names = ["stem"]
        for i, block in enumerate(self.blocks):
            names += [f"insert.{i}"] * (str(i) in self.inserts)
            names += [f"temporal.{i}"] * (getattr(block, "temporal", None) is not None) + [f"block.{i}"]
        return names

    def _run(self, video: Tensor, taps: dict[str, Any] | None) -> Any:
        channels = self.config.clip.channels
        if video.dim() != 5 or video.shape[1] != channels:
            raise ValueError(f"{type(self).__name__} expects clips (B, {channels}, T, H, W), not {tuple(video.shape)}")
        state = self.stem(video)
        _tap(taps, "stem", state)
        clip = self.config.clip
        return self.run_blocks(state, taps, tuple(video.shape[2:]) == (clip.frames, clip.size, clip.size))

    def run_blocks(self, state: Any, taps: dict[str, Any] | None = None, configured: bool = False) -> Any:
        """The state after the last block, from that before the first.

        Args:
            state: before the first block.
            taps: states are kept under its keys.
            configured: the clips have the configured size, for which :meth:`grid_at` speaks.

        Raises:
            GestaError: a map that a plug-in was not built for.
        """
        recompute = self.config.activation_checkpointing and torch.is_grad_enabled() and self.training
        run = _checkpoint if recompute else _call
        for i, block in enumerate(self.blocks):
            if str(i) in self.inserts:
                grid = self.to_grid(state)
                self._check_grid(grid, i, configured)
                grid = run(self.inserts[str(i)], grid)
                if (scale := self._token_scale[str(i)]) != 1:
                    state = self.scale_token(state, scale)
                state = self.from_grid(grid, state)
                _tap(taps, f"insert.{i}", state)
            state = run(block, state)
            _tap(taps, f"block.{i}", state)
        return state

    def _check_grid(self, grid: Tensor, block: int, configured: bool) -> None:
        """Refuse a map of other axes than a plug-in was built for: most would compute something all the same."""
        axes = slice(0, 4 if configured else 1)  # clips of another size have maps of another size
        built, found = tuple(self.grid_at(block))[axes], tuple(grid.shape[1:])[axes]
        if grid.dim() != 5 or built != found:
            says = ", ".join(map(str, self.grid_at(block)))
            raise GestaError(
                f"{type(self).__name__}: before block {block} to_grid gives a map {tuple(grid.shape)}, and grid_at "
                f"says (B, {says}), for which the plug-in there was built; both are (B, C, T, H, W)"
            )

    def _blocks_by_name(self) -> list[str]:
        """Name prefix of every block's parameters, with the trailing dot."""
        names = {module: name for name, module in self.named_modules()}
        return [names[block] + "." for block in self.blocks]

    def _is_stem(self, name: str) -> bool:
        """Whether a parameter outside blocks and inserts comes before the first block."""
        return not name.startswith(("classifier.", "norm."))


def check_names(
    model: VideoModel, fragments: tuple[str, ...], field: str, anywhere: bool = False, trained: bool = False
) -> None:
    """Refuse a fragment with which no parameter's name begins, or that is in none.

    Args:
        model: whose parameters are meant.
        fragments: beginnings or parts of names.
        field: where they were given, for the error.
        anywhere: they may be any part of a name.
        trained: only parameters that are trained count.
    """
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad or not trained]
    for fragment in fragments:
        if any(fragment in name if anywhere else name.startswith(fragment) for name in names):
            continue
        if anywhere:
            known = {part for name in names for part in (name, *name.split("."))}
        else:
            known = {".".join(name.split(".")[:n]) + "." for name in names for n in (1, 2, 3)}
        how = "contains" if anywhere else "begins with"
        remedy = suggest(fragment, known) or "; gesta show and gesta cost print the parts of a model"
        which = "trained parameter" if trained else "parameter"
        raise GestaError(f"{field}: no {which}'s name {how} {fragment!r}{remedy}")


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode for a while; every module's mode is as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def hooked(
    post: Mapping[nn.Module, Callable[[Any, Any, Any], None]] | None = None,
    *,
    pre: Mapping[nn.Module, Callable[[Any, Any], None]] | None = None,
) -> Iterator[None]:
    """Call functions at the forward passes of modules for a while.

    Args:
        post: module → what is called after its forward pass with the module, its inputs and its result.
        pre: module → what is called before it with the module and its inputs.
    """
    handles = [module.register_forward_hook(hook) for module, hook in (post or {}).items()]
    handles += [module.register_forward_pre_hook(hook) for module, hook in (pre or {}).items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _tap(taps: dict[str, Any] | None, name: str, state: Any) -> None:
    """Keep a state that is asked for."""
    if taps is not None and name in taps:
        taps[name] = state


def _call(module: nn.Module, state: Any) -> Any:
    return module(state)


def _checkpoint(block: nn.Module, state: Any) -> Any:
    """Run a block (or inserts) without keeping its activations; the backward pass runs it again.

    A module names operators whose results must not be computed again as ``not_recomputed``.
    """
    kept = list({op for module in block.modules() for op in getattr(module, "not_recomputed", ())})
    contexts: Any = partial(create_selective_checkpoint_contexts, kept) if kept else _no_contexts
    if not torch.compiler.is_compiling():
        return checkpoint(block, state, use_reentrant=False, context_fn=partial(_contexts, block, contexts))
    # a compiled recomputation leaves the running statistics alone by itself
    return checkpoint(block, state, use_reentrant=False, **({"context_fn": contexts} if kept else {}))


def _no_contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), nullcontext()


def _contexts(
    block: nn.Module, contexts: Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]
) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    """Around a block's first run, and around its second, which counts no batches."""
    forward, recomputation = contexts()
    return forward, _both(recomputation, _statistics_kept(block))


@contextmanager
def _both(first: AbstractContextManager[Any], second: AbstractContextManager[Any]) -> Iterator[None]:
    with first, second:
        yield


@contextmanager
def _statistics_kept(block: nn.Module) -> Iterator[None]:
    """Let no batch norm update its running statistics: the forward pass has done so already."""
    norms = [m for m in block.modules() if isinstance(m, _BatchNorm) and m.training and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum, count in zip(norms, momenta, counts):
            norm.momentum = momentum
            if norm.num_batches_tracked is not None and count is not None:
                norm.num_batches_tracked.copy_(count)


class Classifier(nn.Module):
    """Dropout and one linear layer per label space.

    Args:
        width: D of the pooled features.
        classes: number of classes, a dict of numbers for several label spaces, or 0 for the features themselves.
        dropout: probability before the linear layer.
    """

    def __init__(self, width: int, classes: int | dict[str, int], dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear: nn.Module
        if isinstance(classes, dict):
            self.linear = nn.ModuleDict({space: nn.Linear(width, count) for space, count in classes.items()})
        else:
            self.linear = nn.Linear(width, classes) if classes else nn.Identity()

    def forward(self, features: Tensor) -> Scores:
        """``(B, D)`` features to ``(B, K)`` scores, or a dict of them."""
        features = self.dropout(features)
        if isinstance(self.linear, nn.ModuleDict):
            return {space: layer(features) for space, layer in self.linear.items()}
        return self.linear(features)


def to_clips(video: Tensor, spec: ClipSpec, dtype: torch.dtype = torch.float32) -> Tensor:
    """Loader batches to model input, on whatever device they lie: the one place where pixels become floats.

    Of several streams, one whose pixels are all 0 in a clip counts as missing and becomes NaN.

    Args:
        video: ``(B, V, T, C, H, W)`` uint8.
        spec: the model's streams, mean and standard deviation.

    Returns:
        ``(B * V, C, T, H, W)`` of ``dtype``, contiguous.

    Raises:
        GestaError: clips of fewer streams than the model expects.
    """
    if video.shape[3] != spec.channels:
        raise GestaError(
            f"the model expects clips of {' and '.join(spec.streams) or 'one stream'}, {spec.channels} channels, and "
            f"was given {video.shape[3]}; give clips of all its streams, or another model"
        )
    pixels = video.flatten(0, 1).transpose(1, 2)
    count = max(1, len(spec.streams))
    mean, std = (
        torch.tensor(v * count, dtype=dtype, device=video.device).view(1, -1, 1, 1, 1) for v in (spec.mean, spec.std)
    )
    clips = (pixels.to(dtype) - 255 * mean).div_(255 * std).contiguous()
    if spec.streams:
        black = pixels.amax((2, 3, 4)).unflatten(1, (count, 3)).amax(2) == 0
        clips.masked_fill_(black.repeat_interleave(3, 1)[..., None, None, None], math.nan)
    return clips


def block_grids(config: ModelConfig) -> list[Grid]:
    """Sizes of the maps before each block of a model, whatever is inserted into it.

    They are remembered: a published size takes half a second to build, even without memory for its weights.
    """
    plain = replace(config, inserts=[])
    key = type(plain), json.dumps(to_json(plain))
    if key not in _block_grids:
        with torch.device("meta"):
            model = plain.build()
        _block_grids[key] = [model.grid_at(block) for block in range(len(model.blocks))]
    return _block_grids[key]


_block_grids: dict[tuple[type, str], list[Grid]] = {}


def check_size(config: ModelConfig, source: str, max_parts: int = MAX_PARTS) -> dict[str, torch.Size]:
    """Build a model that a file describes without memory for its numbers, before it is built in earnest.

    Args:
        config: of the model; of its fields those that change nothing, which files of older versions may set, become
            the defaults.
        source: the file, for error messages.
        max_parts: modules, parameters and buffers that it may have.

    Returns:
        Name → shape of all that the model's state dict holds.

    Raises:
        GestaError: it cannot be built, has more parts, or more than :data:`MAX_NUMBERS` numbers in them.
    """
    parts = numbers = 0

    def count(_: nn.Module, __: str, part: nn.Module | Tensor | None) -> None:
        nonlocal parts, numbers
        parts += 1
        numbers += part.numel() if isinstance(part, Tensor) else 0
        if parts > max_parts or numbers > MAX_NUMBERS:
            raise GestaError(f"it has more than {max_parts} parts or {MAX_NUMBERS / 2**30:g} Gi numbers")

    handles = [
        register_module_module_registration_hook(count),
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
    ]
    reset_unused(config)
    try:
        with torch.device("meta"):
            return {name: value.shape for name, value in config.build().state_dict().items()}
    except Exception as error:  # whatever torch, timm or a plug-in raise about sizes of a stranger
        reason = str(error).strip().partition("\n")[0][:200] if str(error).strip() else type(error).__name__
        raise GestaError(f"{source}: the model that it describes cannot be built: {reason}") from error
    finally:
        for handle in handles:
            handle.remove()


def drop_path_rates(last: float, blocks: int) -> Sequence[float]:
    """Stochastic-depth probability of each block, linear from 0 to ``last``."""
    return [last * i / max(blocks - 1, 1) for i in range(blocks)]
