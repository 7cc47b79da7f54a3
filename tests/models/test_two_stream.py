"""Two networks side by side: nothing of the one reaches the other before the classifier, and each can do alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from gesta.config import replace
from gesta.errors import GestaError
from gesta.evaluation.evaluate import evaluate
from gesta.layers.attentive import Attentive
from gesta.model import Insert, ModelConfig
from gesta.models import create_model, model_config
from gesta.models.mfst import mfst_base, mfst_tiny
from gesta.models.two_stream import TwoStream, TwoStreamConfig, mfst_rgbd_tiny
from gesta.plugins.stdm import STDM
from gesta.recipe import EvaluateConfig, TrainConfig
from gesta.records import Record, Stream
from gesta.training.optim import parameter_groups
from gesta.video.depth import Depth


def small(**changes: object) -> TwoStreamConfig:
    config = replace(mfst_rgbd_tiny(), classes=5, **changes)
    config.clip.frames = 4
    return config


def built(config: TwoStreamConfig) -> TwoStream:
    torch.manual_seed(0)
    model = config.build().eval()
    torch.nn.init.normal_(model.classifier.linear.weight)  # type: ignore[union-attr, arg-type]
    return model


@pytest.fixture(scope="module")
def video() -> Tensor:
    return torch.randn(3, 6, 4, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_features_are_those_of_the_two_networks(video: Tensor) -> None:
    model = built(small())
    found = model.embed(video)
    for i, (name, config) in enumerate((("rgb", small().rgb), ("depth", small().depth))):
        assert config.cdc == ("st", "t")[i]
        alone = replace(config, classes=0, clip=replace(small().clip, streams=())).build().eval()
        weights = {}
        for key, value in model.state_dict().items():
            if key.startswith(f"{name}."):
                weights[key.removeprefix(f"{name}.")] = value
            elif key.startswith("blocks.") and key.split(".")[2] == name:
                weights[".".join(key.split(".")[:2] + key.split(".")[3:])] = value
        alone.load_state_dict(weights)
        torch.testing.assert_close(found.chunk(2, 1)[i], alone(video.split(3, 1)[i]))


@torch.no_grad()
def test_what_is_missing_is_made_up_for_by_the_other(video: Tensor) -> None:
    model = built(small())
    whole = model.embed(video)
    part = video.clone()
    part[1, 3:] = math.nan
    part[2, :3] = math.nan
    rgb, depth = whole.chunk(2, 1)
    zero = torch.zeros_like(rgb[0])
    expected = [whole[0], torch.cat([2 * rgb[1], zero]), torch.cat([zero, 2 * depth[2]])]
    torch.testing.assert_close(model.embed(part), torch.stack(expected))
    torch.testing.assert_close(model(part), model.classifier(torch.stack(expected)))


def test_weights_that_have_gone_wrong_are_not_taken_for_something_missing(video: Tensor) -> None:
    model = built(small())
    with torch.no_grad():
        next(model.depth.parameters()).fill_(math.nan)
        assert model(video).isnan().all()


def test_places_of_parameters() -> None:
    model = create_model("mfst_rgbd_tiny", classes=5)
    names = [name for name, _ in model.named_parameters()]
    depths = {name: model.depth_of(name) for name in names}
    assert {depths[name] for name in names if ".cdc_stem." in name} == {0}
    assert {depths[name] for name in names if name.startswith("blocks.1.")} == {2}
    assert {depths[name] for name in names if ".norm." in name and not name.startswith("blocks.")} >= {4}
    assert {depths[name] for name in names if name.startswith("classifier.")} == {4}
    pair = TwoStreamConfig(
        classes=5,
        rgb=model_config("timesformer_tiny"),
        depth=model_config("timesformer_tiny"),
        clip=replace(model_config("timesformer_tiny").clip, streams=("rgb", "depth")),
    ).build()
    known = {name for name, _ in pair.named_parameters()}
    kept = pair.no_weight_decay()
    assert kept and kept <= known and {name.split(".")[0] for name in kept} == {"rgb", "depth"}
    assert parameter_groups(pair, TrainConfig())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda c: replace(c, depth=mfst_base()), "equally many blocks|maps of one size"),
        (lambda c: replace(c, rgb=replace(mfst_tiny(), inserts=[Insert(layer=STDM(), at=1)])), r"model\.rgb\.inserts"),
        (
            lambda c: replace(c, rgb=replace(mfst_tiny(), attentive=Attentive())),
            r"model\.rgb\.attentive is not run here",
        ),
        (lambda c: replace(c, rgb=model_config("r3d_tiny")), r"model\.rgb: the blocks of R3D do not lie in one list"),
        (
            lambda c: replace(c, clip=replace(c.clip, streams=())),
            r"streams cannot be \(\): TwoStream expects rgb and depth",
        ),
        (lambda c: replace(mfst_tiny(), clip=c.clip), "MFST expects one stream, whatever it shows"),
    ],
)
def test_refusals(change: Callable[[TwoStreamConfig], ModelConfig], sentence: str) -> None:
    with pytest.raises(GestaError, match=sentence), torch.device("meta"):
        change(small()).build()


def test_results_name_what_was_scored_in_part(make_video: Callable[..., Path], tmp_path: Path) -> None:
    depth = Depth("repeat3")
    rgb, grey = make_video("rgb.mp4", shade=150, frames=12), make_video("grey.mp4", shade=90, frames=12)
    missing = str(tmp_path / "gone.mp4")
    pairs = [(str(rgb), str(grey)), (str(rgb), missing), (missing, missing)]
    records = [
        Record(path=first, name=f"video {i}", label=i, paired=(Stream(path=second, shows=depth),))
        for i, (first, second) in enumerate(pairs)
    ]
    model, protocol = built(small()), EvaluateConfig(clips=2, workers=0)
    names = [f"class {i}" for i in range(5)]
    result = evaluate(model, records, classes=names, views=protocol)
    assert (result.counts.scored, result.counts.failed) == (2, 1) and result.failures[0]["index"] == 2
    assert [(p["index"], p["name"]) for p in result.partial] == [(1, "video 1")]
    assert missing in result.partial[0]["reason"] and "video 1" in str(result)
    assert result.protocol.sampling == "dense 4×4 of rgb and depth"
    alone = evaluate(model, [record.streams[0] for record in records[:2]], classes=names, views=protocol)
    assert alone.protocol.sampling == "dense 4×4 of rgb" and not alone.partial
    assert alone.scores.values["label"][1] == result.scores.values["label"][1] != result.scores.values["label"][0]
