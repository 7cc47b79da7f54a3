"""What every model and every plug-in must do, for each pair of them.

A new model needs no line here: every name of ``gesta.models.MODELS`` is built on the meta device, and those that end in
``_tiny`` run. A new plug-in is one line in ``PLUGINS``; a variant of a model is one line in ``VARIANTS``; a new kind of
state between blocks is one line in ``STATES``.

The full cross of plug-ins and models is marked ``full``. The fast suite has each plug-in (its other settings with the
first model only) with one model of each kind of state, and each other model with one plug-in, another one in each test.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten

from conftest import fast_first, gradients_below_rounding, smooth_clips
from gesta.checkpoint.weights import import_weights
from gesta.comparison.ledger import UNMOVED, Unmoved
from gesta.config import copy, from_json, replace, to_json
from gesta.errors import GestaError
from gesta.evaluation.health import measure_health
from gesta.layers.attentive import Attentive
from gesta.layers.temporal import TemporalAttention
from gesta.model import Insert, LayerConfig, ModelConfig, VideoModel
from gesta.models import list_models, model_config
from gesta.plugins.ata import ATA
from gesta.plugins.smem import SMEM
from gesta.plugins.st_manet import SDA, TDA
from gesta.plugins.stan import STAN
from gesta.plugins.stdm import STDM
from gesta.recipes.address import miniature
from gesta.recipes.synthetic import mvitv2


@dataclass(frozen=True)
class Variant:
    """A named model with some fields changed."""

    model: str
    changes: dict[str, Any] = field(default_factory=dict)
    token: bool = False  # it has a class token


@dataclass(frozen=True)
class PlugIn:
    """A plug-in and what its paper says of a fresh one: how many times its input it gives (None: nothing)."""

    layer: LayerConfig
    factor: int | None = None
    exact: bool = False  # to the bit


VARIANTS = {
    "mvitv2_tiny+token": Variant("mvitv2_tiny", {"cls_token": True}, token=True),
    "timesformer_tiny+all": Variant(
        "timesformer_tiny", {"temporal_cls": True, "temporal_post_norm": True, "drop_path": 0.1}, token=True
    ),
    "timesformer_tiny+joint": Variant("timesformer_tiny", {"temporal": "joint"}, token=True),
    "timesformer_tiny+averaging": Variant("timesformer_tiny", {"temporal": "averaging"}, token=True),
    "timesformer_tiny+ata": Variant(
        "timesformer_tiny", {"around": ATA(dealign=False), "ata_blocks": (0, 1, 3), "align_every": 2}, token=True
    ),
    "timesformer_tiny+soft": Variant(
        "timesformer_tiny", {"around": ATA(alignment="straight_through", align_on="norm")}, token=True
    ),
    "ctn_tiny+eq": Variant("ctn_tiny", {"norm": "post", "mapping_norm": False, "drop_path": 0.1}, token=True),
    "ctn_tiny+3d": Variant("ctn_tiny", {"mapping_dims": 3, "positions": "temporal"}, token=True),
    "ctn_tiny+vivit": Variant("ctn_tiny", {"embed": "tube", "mapping": "linear", "positions": "learned"}, token=True),
    "vit_tiny+vivit": Variant(
        "vit_tiny", {"positions": "learned", "class_token": True, "gelu": "tanh", "tail": "norm_first"}, token=True
    ),
    "vit_tiny+vjepa": Variant(
        "vit_tiny",
        {
            "positions": "rope",
            "qkv_bias": "full",
            "tail": "norm_mean",
            "modality_embed": True,
            "norm_after": (3,),
            "layer_scale": 0.5,
            "attentive": Attentive(heads=4, depth=2),
            "drop_path": 0.1,
        },
    ),
    "rpe_stdt_tiny+all": Variant(
        "rpe_stdt_tiny",
        {
            "absolute": "clip",
            "shared": False,
            "rpe_on": "qkv",
            "temporal_pos": "abs",
            "subsample": "conv1d",
            "subsample_layers": (1, 2),
            "subsample_mode": "after",
        },
        token=True,
    ),
}

PLUGINS = {
    "stan": PlugIn(STAN(), factor=2),
    "stan.attention": PlugIn(STAN(mode="attention", separable=False, residual="mean"), factor=1),
    "stan.homography": PlugIn(STAN(mode="homography", scale="medium", residual="none"), factor=1),
    "stan.gated": PlugIn(STAN(residual="gated", direction="source_to_output"), factor=1, exact=True),
    "stan.separable": PlugIn(STAN(mode="attention", scale="small"), factor=2),
    "stan.bn": PlugIn(STAN(scale="cost_matched_large", padding_mode="border"), factor=2),
    "tda": PlugIn(TDA(), factor=1, exact=True),
    "sda": PlugIn(SDA(), factor=1, exact=True),
    "smem": PlugIn(SMEM(), factor=1, exact=True),
    "stdm": PlugIn(STDM(), factor=1, exact=True),
}

# begins of names of models that have a class token
TOKEN = ("timesformer", "ata_timesformer", "ata_vitb", "ctn", "vivit", "rpe_stdt", "std_former")

CASES = {name: Variant(name, token=name.startswith(TOKEN)) for name in list_models()} | VARIANTS


def configured(model_name: str, plugin: str | None = None, **changes: Any) -> ModelConfig:
    """A model's configuration for three classes; a plug-in goes before its second block, instead of its own inserts."""
    case = CASES[model_name]
    config = model_config(case.model, **{"classes": 3, **case.changes, **changes})
    if case.model.endswith("_tiny"):
        config.clip.frames //= 2  # half the time, too
    if plugin is not None:
        config.inserts = [Insert(layer=copy(PLUGINS[plugin].layer), at=1)]
    return config


def bare(model_name: str, **changes: Any) -> ModelConfig:
    return configured(model_name, inserts=[], **changes)


def distinct(names: Iterable[str]) -> list[str]:
    """Without those that differ from an earlier one by their inserts only."""
    first: dict[str, str] = {}
    for name in names:
        first.setdefault(json.dumps(to_json(bare(name))), name)
    return list(first.values())


ALL_MODELS = distinct(CASES)
TINY = [name for name in ALL_MODELS if CASES[name].model.endswith("_tiny")]

# the smallest model of each kind of state, the kind as :func:`kind_of_state` says it
STATES = {
    "one map": "r3d_tiny",
    "tokens": "mvitv2_tiny",
    "tokens and a class token": "timesformer_tiny",
    "several tensors": "std_former_tiny",
}

DISTINCT = ("stan", "tda", "sda", "smem", "stdm")
"""Plug-ins of different code; the others are settings of them."""

every_tiny = pytest.mark.parametrize("model_name", TINY)
every_plugin = pytest.mark.parametrize("plugin", PLUGINS)
cheapest = pytest.mark.parametrize("model_name", ["r3d_tiny"])  # for what depends on the plug-in alone and takes long
# Compiling takes long: the fast suite has several tensors, and one map in the test of all plug-ins.
every_architecture = pytest.mark.parametrize(
    "model_name", fast_first([(name,) for name in dict.fromkeys(["std_former_tiny", *TINY])], 1)
)


def pairs(
    models: list[str], turn: int, plugins: Sequence[str] = tuple(PLUGINS), with_all: Collection[str] = STATES.values()
) -> pytest.MarkDecorator:
    """Every model with every plug-in; the fast suite has a part of them.

    Args:
        models: names of models.
        turn: shifts which plug-in a model has in the fast suite, so that it has another one in the next test.
        plugins: names of plug-ins.
        with_all: models that have all of them in the fast suite.
    """
    cases = []
    for i, model_name in enumerate(models):
        for j, plugin in enumerate(plugins):
            fast = (model_name in with_all and (plugin in DISTINCT or i == 0)) or (i + turn) % len(plugins) == j
            cases.append(pytest.param(model_name, plugin, marks=[] if fast else [pytest.mark.full]))
    return pytest.mark.parametrize(("model_name", "plugin"), cases)


def built(config: ModelConfig, seed: int = 0) -> VideoModel:
    torch.manual_seed(seed)
    return config.build()


@cache
def clips(channels: int, frames: int, size: int, count: int) -> Tensor:
    return torch.randn(count, channels, frames, size, size, generator=torch.Generator().manual_seed(5))


def video_for(config: ModelConfig, count: int = 2) -> Tensor:
    return clips(config.clip.channels, config.clip.frames, config.clip.size, count)


def states(model: VideoModel, video: Tensor) -> Iterator[tuple[int, Any]]:
    """The state before every block and after the last, without inserts."""
    state = model.stem(video)
    for i, block in enumerate(model.blocks):
        yield i, state
        state = block(state)
    yield len(model.blocks), state


def leaves(state: Any) -> list[Any]:
    return tree_flatten(state)[0]


def same(a: Any, b: Any) -> bool:
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in zip(leaves(a), leaves(b)))


# --- every model × every plug-in -------------------------------------------------------------------------------------


@pairs(TINY, turn=0)
def test_backbone_keys_stay(model_name: str, plugin: str) -> None:
    base, model = built(bare(model_name)), built(configured(model_name, plugin), seed=1)
    layer = PLUGINS[plugin].layer.build(model.grid_at(1))
    added = {f"inserts.1.0.{name}" for name in layer.state_dict()}
    assert set(model.state_dict()) == set(base.state_dict()) | added
    report = model.load_state_dict(base.state_dict(), strict=False)
    counters = {name for name in added if name.endswith("num_batches_tracked")}  # torch lets these be missing
    assert set(report.missing_keys) == added - counters and not report.unexpected_keys


@pytest.mark.parametrize(
    ("model_name", "source", "changes"),
    [
        ("timesformer_tiny", {"temporal": "averaging"}, {}),
        ("timesformer_tiny", {"temporal": "averaging"}, {"around": ATA(), "align_every": 2}),
        ("timesformer_tiny", {"temporal": "averaging"}, {"temporal_cls": True, "temporal_post_norm": True}),
        ("convnext_tiny", {}, {"inserts": [Insert(layer=TemporalAttention(around=ATA()), at=1)]}),
        ("cyclemlp_tiny", {}, {"inserts": [Insert(layer=TemporalAttention(), at=1)]}),
        ("rpe_stdt_tiny", {"relative": False}, {"relative": True}),
        ("std_former_tiny", {"smem": (), "stdm_layers": ()}, {"smem": (("T", 1), ("ST", 2)), "stdm_layers": (0, 1)}),
        ("std_former_tiny", {"conv_placement": "none"}, {"conv_placement": "residual"}),
    ],
)
def test_new_parts_change_nothing_where_weights_are_loaded(
    model_name: str, source: dict[str, Any], changes: dict[str, Any]
) -> None:
    """In a tiny model too, whose parts start at random where nothing is loaded."""
    trained = built(bare(model_name, **source))
    model = built(configured(model_name, **({"inserts": []} | changes)), seed=1)
    for name, value in trained.named_parameters():  # no part of it is as it was at the start
        if not name.startswith("classifier."):
            torch.nn.init.normal_(value, std=0.1)
    video = video_for(trained.config)
    with torch.no_grad():
        import_weights(model, trained.eval().state_dict())
        assert torch.equal(model(video), trained(video))


@pairs(TINY, turn=1, plugins=[name for name, plugin in PLUGINS.items() if plugin.factor is not None])
def test_fresh_plugin_gives_what_its_paper_says(model_name: str, plugin: str) -> None:
    case, config = PLUGINS[plugin], configured(model_name, plugin)
    base, model = built(bare(model_name)).eval(), built(config).eval()
    model.load_state_dict(base.state_dict(), strict=False)
    with torch.no_grad():
        taps = model.taps(video_for(config), ["block.0", "insert.1"])
        before, after = taps["block.0"], taps["insert.1"]
        bound = 1e-6 * case.factor * before.abs().max().item()
        torch.testing.assert_close(after, case.factor * before, atol=0 if case.exact else bound, rtol=0)
        if case.exact:
            assert torch.equal(model(video_for(config)), base(video_for(config)))


@pairs(TINY, turn=2)
def test_classification_moves_every_parameter(model_name: str, plugin: str) -> None:
    """Or the ledger names it, with the reason."""
    unmoved = gradients_below_rounding(*with_clips(configured(model_name, plugin)))
    assert not [name for name in unmoved if not is_named(model_name, name)]


# what a tiny model cannot show: its large models' own switches, in the tiny one's sizes
OF_FULL_SIZE = [name for name in list_models() if not name.endswith("_tiny")]


@pytest.mark.parametrize("model_name", fast_first([(name,) for name in OF_FULL_SIZE], 0))
def test_classification_moves_every_parameter_of_the_miniatures(model_name: str) -> None:
    unmoved = gradients_below_rounding(*with_clips(small_config(model_name)))
    assert not [name for name in unmoved if not is_named(f"{model_name}_tiny", name)]


def small_config(model_name: str) -> ModelConfig:
    return replace(miniature(replace(mvitv2(), model=model_config(model_name))).model, classes=3)


def with_clips(config: ModelConfig) -> tuple[VideoModel, Tensor]:
    """A model and three clips: standardised over two, features are +1 and -1 whatever they were."""
    clip = config.clip
    return built(config), smooth_clips(3, clip.channels, clip.frames, clip.size)


def is_named(model_name: str, parameter: str) -> bool:
    return any(matches(model_name, entry.models) and matches(parameter, entry.parameters) for entry in UNMOVED)


def matches(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


@pytest.mark.full
@pytest.mark.parametrize("entry", UNMOVED, ids=lambda entry: entry.parameters[0])
def test_the_ledger_names_only_what_classification_does_not_move(entry: Unmoved) -> None:
    """Each of its patterns, of models and of parameters, stands for at least one parameter without a gradient."""
    models, parameters = set(entry.models), set(entry.parameters)  # patterns not met yet
    configs = [(name, configured(name)) for name in TINY]
    configs += [(f"{name}_tiny", small_config(name)) for name in OF_FULL_SIZE]
    configs += [(name, configured(name, plugin)) for name in TINY for plugin in PLUGINS]
    for model_name, config in configs:
        if (models or parameters) and matches(model_name, entry.models):
            with torch.device("meta"):
                names = [name for name, _ in built(config).named_parameters() if matches(name, entry.parameters)]
            if names and (matches(model_name, models) or any(matches(name, parameters) for name in names)):
                unmoved = {*gradients_below_rounding(*with_clips(config))}.intersection(names)
                models -= {pattern for pattern in models if unmoved and fnmatch(model_name, pattern)}
                parameters -= {pattern for pattern in parameters if any(fnmatch(name, pattern) for name in unmoved)}
    assert not models and not parameters


@pairs(ALL_MODELS, turn=0, with_all=())
def test_builds_and_runs_on_meta(model_name: str, plugin: str) -> None:
    config = configured(model_name, plugin)
    with torch.device("meta"):
        model = built(config).eval()
        scores = model(torch.empty(1, config.clip.channels, config.clip.frames, config.clip.size, config.clip.size))
    assert scores.shape == (1, 3) and scores.device.type == "meta"
    assert all(tensor.device.type == "meta" for tensor in model.state_dict().values())
    parameters = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("inserts."))
    assert (parameters < 2_000_000) == CASES[model_name].model.endswith("_tiny")


@pairs(ALL_MODELS, turn=0, with_all=())
def test_json_round_trip(model_name: str, plugin: str) -> None:
    config = configured(model_name, plugin, dropout=0.25)
    again = from_json(json.loads(json.dumps(to_json(config))))
    assert again == config and type(again) is type(config)


@pairs(TINY, turn=3)
def test_taps_have_the_announced_grids(model_name: str, plugin: str) -> None:
    model = built(configured(model_name, plugin)).eval()
    names = model.tap_names()
    last = len(model.blocks)
    assert names[0] == "stem" and names[-1] == f"block.{last - 1}"
    assert [name for name in names if name.startswith("insert.")] == ["insert.1"]
    assert names.index("insert.1") == names.index("block.0") + 1
    with torch.no_grad():
        taps = model.taps(video_for(model.config), names)
    assert set(taps) == set(names)
    for name, tap in taps.items():
        at = 0 if name == "stem" else int(name.split(".")[1]) + name.startswith("block")
        assert tuple(tap.shape) == (2, *model.grid_at(at)), name
    with pytest.raises(GestaError, match=r"has no tap 'block_0'; did you mean 'block\.0'\?"):
        model.taps(video_for(model.config), ["block_0"])


@pairs(TINY, turn=4)
def test_recomputed_activations_change_nothing(model_name: str, plugin: str) -> None:
    """Loss, gradients and running statistics are equal to the bit, dropout and drop-path included."""
    outcomes = []
    for recompute in (False, True):
        config = configured(model_name, plugin, activation_checkpointing=recompute, dropout=0.2, drop_path=0.2)
        model = built(config).train()
        torch.manual_seed(7)
        loss = torch.nn.functional.cross_entropy(model(video_for(config)), torch.tensor([0, 2]))
        loss.backward()
        grads = {name: p.grad for name, p in model.named_parameters()}
        outcomes.append((loss.detach(), grads, dict(model.named_buffers())))
    assert same(outcomes[0], outcomes[1])


def compiles_in_one_graph(config: ModelConfig) -> None:
    torch._dynamo.reset()
    model = built(config).eval()
    video = video_for(config)
    with torch.no_grad():
        compiled = torch.compile(model, backend="eager", fullgraph=True)  # tests/plugins compiles the layers further
        torch.testing.assert_close(compiled(video), model(video), atol=1e-5, rtol=1e-5)


@pytest.mark.full
@every_plugin
@cheapest
def test_each_plug_in_compiles_in_one_graph(model_name: str, plugin: str) -> None:
    compiles_in_one_graph(configured(model_name, plugin))


@cheapest
def test_all_plug_ins_together_compile_in_one_graph(model_name: str) -> None:
    """Their other settings are in the test before."""
    config = bare(model_name)
    config.inserts = [Insert(layer=copy(PLUGINS[name].layer), at=1) for name in DISTINCT]
    compiles_in_one_graph(config)


# --- every model -----------------------------------------------------------------------------------------------------


def trained_once(config: ModelConfig, backend: str | None) -> dict[str, Tensor]:
    """Gradients and buffers after one training step, compiled to one graph or not."""
    torch._dynamo.reset()
    model = built(config).train()
    run = torch.compile(model, backend=backend, fullgraph=True) if backend else model
    run(video_for(config)).square().mean().backward()
    values = {name: p.grad for name, p in model.named_parameters()} | dict(model.named_buffers())
    return {name: value for name, value in values.items() if value is not None}


@every_architecture
def test_compiled_training_step(model_name: str) -> None:
    shallow = {"depth": 2, "ptm_layers": (1,)} if model_name == "std_former_tiny" else {}  # for the fast suite
    config = configured(model_name, "stan", **shallow)
    assert_close_to(trained_once(config, "eager"), trained_once(config, None))


@pytest.mark.full  # that maps compile is seen where all plug-ins are compiled together
@cheapest
def test_compiled_training_step_that_recomputes(model_name: str) -> None:
    config = configured(model_name, "stan", activation_checkpointing=True)
    assert_close_to(trained_once(config, "aot_eager"), trained_once(config, None))


def assert_close_to(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(actual) == set(expected)
    for name, value in expected.items():
        bound = 1e-3 * max(1e-4, value.abs().max().item())
        torch.testing.assert_close(actual[name], value, atol=bound, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


@every_tiny
def test_grid_and_state(model_name: str) -> None:
    """to_grid and from_grid are each other's inverse at every block, and from_grid replaces the map only."""
    model = built(bare(model_name)).eval()
    with torch.no_grad():
        for i, state in states(model, video_for(model.config)):
            grid = model.to_grid(state)
            assert tuple(grid.shape) == (2, *model.grid_at(i))
            assert same(model.from_grid(grid, state), state)
            other = torch.randn(grid.shape)
            replaced = model.from_grid(other, state)
            assert torch.equal(model.to_grid(replaced), other)
            assert same(model.from_grid(grid, replaced), state)  # nothing else was lost


def kind_of_state(model_name: str) -> str:
    model = built(configured(model_name))
    with torch.no_grad():
        state = model.stem(video_for(model.config))
    tensors = [leaf for leaf in leaves(state) if isinstance(leaf, Tensor)]
    if len(tensors) > 1:
        return "several tensors"
    if tensors[0].dim() > 3:  # or the windows of one (Hiera)
        return "one map"
    return "tokens and a class token" if CASES[model_name].token else "tokens"


def test_the_fast_suite_has_every_kind_of_state() -> None:
    assert {kind_of_state(model_name) for model_name in TINY} == set(STATES)
    assert {kind: kind_of_state(model_name) for kind, model_name in STATES.items()} == {kind: kind for kind in STATES}


@every_tiny
def test_order_of_frames_matters(model_name: str) -> None:
    for seed in (0, 1):
        model = built(configured(model_name), seed).eval()
        for parameter in model.parameters():
            if not parameter.any():  # what starts at zero, embeddings of time among it
                torch.nn.init.normal_(parameter, std=0.1)
        video = video_for(model.config)
        with torch.no_grad():
            scores = model(video)
            for other in (video.flip(2), video.roll(1, 2)):
                assert (model(other) - scores).abs().max() > 1e-4 * scores.abs().max()


@every_tiny
def test_clips_are_independent(model_name: str) -> None:
    model = built(configured(model_name)).eval()
    video = video_for(model.config)
    with torch.no_grad():
        torch.testing.assert_close(model(video[1:]), model(video)[1:], atol=1e-5, rtol=1e-5)


@every_tiny
def test_heads(model_name: str) -> None:
    video = video_for(bare(model_name))
    features = built(bare(model_name, classes=0)).eval()
    plain = built(bare(model_name)).eval()
    spaces = built(bare(model_name, classes={"verb": 4, "noun": 5})).eval()
    with torch.no_grad():
        pooled = features(video)
        assert pooled.dim() == 2 and torch.equal(pooled, features.embed(video))
        assert plain(video).shape == (2, 3) and plain.embed(video).shape == pooled.shape
        scores = spaces(video)
        assert {space: tuple(s.shape) for space, s in scores.items()} == {"verb": (2, 4), "noun": (2, 5)}
        with_losses, losses = plain(video, with_losses=True)
        assert torch.equal(with_losses, plain(video)) and isinstance(losses, dict)


@every_tiny
def test_several_inserts(model_name: str) -> None:
    """Three layers, two of them before one block, equal the same layers applied by hand."""
    layers = [STAN(fc_init_std=0.05), STAN(fc_init_std=0.05, mode="attention"), STAN(fc_init_std=0.05)]
    config = bare(model_name)
    config.inserts = [Insert(layer=layer, at=at) for layer, at in zip(layers, (1, 1, 0))]
    model = built(config).eval()
    assert {at: len(layers) for at, layers in model.inserts.items()} == {"1": 2, "0": 1}
    with torch.no_grad():
        state = model.stem(video_for(config))
        for i, block in enumerate(model.blocks):
            if i < 2:
                for layer in model.inserts[str(i)]:
                    state = model.from_grid(layer(model.to_grid(state)), state)
            state = block(state)
        by_hand, scores = model.forward_head(state), model(video_for(config))
        torch.testing.assert_close(scores, by_hand, atol=1e-5, rtol=1e-5)  # memory layouts differ


@every_tiny
def test_class_token_policy(model_name: str) -> None:
    """``double`` changes the class token and nothing else; where there is none it is refused."""
    configs = [
        configured(model_name, inserts=[Insert(layer=STAN(), at=1, class_token=how)]) for how in ("keep", "double")
    ]
    if not CASES[model_name].token:
        with pytest.raises(GestaError, match="class_token is double for STAN before block 1, which changes nothing"):
            configs[1].build()
        return
    video = video_for(configs[0])
    with torch.no_grad():
        keep, double = (built(config).eval() for config in configs)
        assert torch.equal(*(model.taps(video, ["insert.1"])["insert.1"] for model in (keep, double)))
        assert not torch.equal(keep(video), double(video))


@pytest.mark.parametrize("model_name", [name for name in TINY if CASES[name].token])
def test_token_is_doubled_exactly(model_name: str) -> None:
    config = bare(model_name)
    config.inserts = [Insert(layer=STAN(), at=1, class_token="double")]
    model = built(config).eval()
    seen: list[Any] = []
    model.blocks[0].register_forward_hook(lambda _, __, state: seen.append(state))
    model.blocks[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(video_for(config))
    # a fresh STAN doubles the map (to rounding); with the token doubled too, the whole state is twice what it was, but
    # for the memory of an STD-Former, which no layer sees and is no class token
    if hasattr(seen[0], "memory"):
        assert torch.equal(seen[0].memory, seen[1].memory)
        seen = [state._replace(memory=None) for state in seen]
    for old, new in zip(leaves(seen[0]), leaves(seen[1])):
        if isinstance(old, Tensor) and old.is_floating_point():
            torch.testing.assert_close(new, 2 * old, atol=2e-6 * old.abs().max().item(), rtol=0)
        else:
            assert same(old, new)


@every_tiny
def test_impossible_positions_are_refused(model_name: str) -> None:
    blocks = len(built(bare(model_name)).blocks)
    beyond = f"STAN cannot be inserted before block {blocks}: .* has blocks 0 to {blocks - 1}"
    for at, sentence in ((-1, r"inserts\[0\].at is -1, not 0 or more"), (blocks, beyond)):
        config = bare(model_name)
        config.inserts = [Insert(layer=STAN(), at=at)]
        with pytest.raises(GestaError, match=sentence):
            config.build()


@every_tiny
def test_wrong_input_is_refused(model_name: str) -> None:
    model = built(bare(model_name))
    with pytest.raises(ValueError, match=rf"expects clips \(B, {model.config.clip.channels}, T, H, W\)"):
        model(torch.zeros(2, 4, 3, 32, 32))


@every_tiny
def test_depths_and_decay_names(model_name: str) -> None:
    model = built(configured(model_name, "stan"))
    names = [name for name, _ in model.named_parameters()]
    depths = {name: model.depth_of(name) for name in names}
    assert set(depths.values()) == set(range(len(model.blocks) + 2))
    assert {depths[name] for name in names if name.startswith("inserts.1.")} == {2}
    assert {depths[name] for name in names if name.startswith("classifier.")} == {len(model.blocks) + 1}
    assert model.no_weight_decay() <= set(names)
    assert set(model.convert_foreign(model.state_dict())) == set(model.state_dict())


@pairs(TINY, turn=5)
def test_plug_ins_report_without_disturbing(model_name: str, plugin: str) -> None:
    model = built(configured(model_name, plugin)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    health = measure_health(model, video_for(model.config))
    own = {name for name in health.figures if name.startswith("insert.1.0/")}
    assert own and all(math.isfinite(value) for value in health.figures.values())
    assert model.training and all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(fault.startswith(("insert.", "block.")) for fault in health.faults)
