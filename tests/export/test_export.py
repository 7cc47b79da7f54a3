"""Exported files give the model's scores, are used as a run is, and run nothing of their author."""

from __future__ import annotations

import functools
import json
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

import gesta
from gesta.bench.model import measure_exported
from gesta.checkpoint import METADATA_KEY, TrainedModel, save_model
from gesta.checkpoint.exported import Exported, load_exported
from gesta.cli import main
from gesta.config import config, replace
from gesta.data.lists import Folder
from gesta.errors import GestaError
from gesta.export.assignment import DOMAIN, add_functions
from gesta.export.fastest import NOTE, measure_run, with_fastest
from gesta.export.quantise import export_int8
from gesta.export.verification import BEGIN, END, KINDS, check_export, check_exports, checked_models
from gesta.export.write import description, differences, export, made_views, spread_indices, views_of_data
from gesta.model import ClipSpec, ModelConfig, VideoModel
from gesta.models import list_models, model_config
from gesta.recipe import EvaluateConfig

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

PAGE = Path(__file__).parents[2] / "docs" / "export.md"

Video = Callable[..., Path]


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    """A ViT of one block for clips of two frames: few operators, so that it is exported quickly."""
    torch.manual_seed(0)
    config = model_config("vit_tiny", num_classes={"verb": 3, "noun": 2}, depth=1, width=24, heads=2)
    config = replace(config, clip=replace(config.clip, frames=2, size=16))
    return TrainedModel(
        model=config.build().eval(),
        classes={"verb": ["open", "close", "take"], "noun": ["door", "cup"]},
        metadata={"licence": "cc-by-4.0"},
        person_crop=True,
    )


@pytest.fixture(scope="module")
def file(model: TrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The model's file with an ending, made when it is first asked for."""
    folder = tmp_path_factory.mktemp("exported")

    @functools.cache
    def make(suffix: str) -> Path:
        export(model, folder / f"model{suffix}", uint8=True)
        return folder / f"model{suffix}"

    return make


BOTH = pytest.mark.parametrize("suffix", [".pt2", pytest.param(".onnx", marks=pytest.mark.full)])
"""Importing torch's converter to ONNX takes ten seconds; test_matches_in_onnx_are_those_of_scipy runs such a file."""


@BOTH
def test_a_file_is_used_as_the_model(
    suffix: str, model: TrainedModel, file: Callable[[str], Path], make_video: Video
) -> None:
    loaded = gesta.load(file(suffix))
    assert loaded.classes == model.classes and loaded.model.config == model.model.config
    assert loaded.metadata["licence"] == "cc-by-4.0" and loaded.metadata["gesta"] == gesta.__version__
    assert differences(model.model, loaded.model, made_views(model.model.config.clip).repeat(2, 1, 1, 1, 1))[0] < 1e-5
    video = make_video("door/a.mp4", frames=30)
    with pytest.warns(UserWarning, match="crops around the person"):
        (expected,), (prediction,) = (list(gesta.predict(one, [video])) for one in (model, loaded))
    assert dict(prediction.labels) == pytest.approx(dict(expected.labels), abs=1e-5)
    with pytest.warns(UserWarning, match="crops around the person"):
        spans = [[(s.start, s.end) for s in gesta.timeline(one, video)] for one in (model, loaded)]
    assert spans[0] == spans[1] != []
    records = [gesta.Record(path=str(video), name="a", label={"verb": 0, "noun": 1})]
    results = [gesta.evaluate(one, records) for one in (model, loaded)]
    assert results[0].metrics == pytest.approx(results[1].metrics)
    assert all("trained on RGB cropped to the person" in result.input_differs for result in results)
    assert measure_exported(loaded, batch=1, seconds=0).forward > 0


@BOTH
def test_what_a_file_cannot_do_is_refused(suffix: str, file: Callable[[str], Path]) -> None:
    loaded = gesta.load(file(suffix))
    for use in (
        lambda: loaded.model.taps(torch.zeros(1, 3, 2, 16, 16), ["block.0"]),
        lambda: loaded.model.embed(torch.zeros(1, 3, 2, 16, 16)),
        lambda: export(loaded, file(suffix).with_name(f"again{suffix}")),
    ):
        with pytest.raises(GestaError, match="give the run that it was made from"):
            use()
    with pytest.raises(GestaError, match="as it was written"):
        list(gesta.predict(loaded, ["x.mp4"], precision="bf16-mixed"))


@pytest.mark.parametrize("views", [(0, 2, 3, 16, 16), (2, 2, 3, 16, 16), (3, 2, 3, 8, 8), (3, 2)])
def test_views_that_check_nothing_are_refused(model: TrainedModel, tmp_path: Path, views: tuple[int, ...]) -> None:
    with pytest.raises(GestaError, match="are 3 or more clips of \\(2, 3, 16, 16\\)"):
        export(model, tmp_path / "a.pt2", views=torch.zeros(views, dtype=torch.uint8))
    assert not list(tmp_path.iterdir())


def test_an_error_of_8_bits_names_the_file_that_was_asked_for(
    model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(model: TrainedModel, path: Path, **_: object) -> None:
        raise GestaError(f"{path}: its scores differ")

    monkeypatch.setattr("gesta.export.quantise.export", refused)
    monkeypatch.setattr("gesta.export.quantise.views_of_data", lambda *_: made_views(model.model.config.clip))
    how: dict[str, Any] = {"data": Folder(), "protocol": EvaluateConfig(), "uint8": True, "dynamic": True}
    with pytest.raises(GestaError, match=f"^{tmp_path}/a.onnx: its scores differ"):
        export_int8(model, tmp_path / "a.onnx", **how)


def test_a_file_that_differs_is_not_kept(model: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesta.export.write.LARGEST_DIFFERENCE", -1.0)
    with pytest.raises(GestaError, match="is not kept"):
        export(model, tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
    with pytest.raises(GestaError, match=r"called \.onnx or \.pt2"):
        export(model, tmp_path / "model.bin")


def onnx_file(path: Path, model: TrainedModel, change: Callable[[Any], None] = lambda graph: None) -> Path:
    """An ONNX file with the model's description, whose scores are means of pixels; ``change`` changes its graph."""
    shapes = {"video": ["B", 2, 16, 16, 3], "verb": ["B", 3], "noun": ["B", 2]}
    kinds = {"video": onnx.TensorProto.UINT8}
    values = {
        name: onnx.helper.make_tensor_value_info(name, kinds.get(name, onnx.TensorProto.FLOAT), shape)
        for name, shape in shapes.items()
    }
    nodes = [
        onnx.helper.make_node("Cast", ["video"], ["numbers"], to=onnx.TensorProto.FLOAT),
        onnx.helper.make_node("ReduceMean", ["numbers", "axes"], ["verb"], keepdims=0),
        onnx.helper.make_node("Identity", ["verb"], ["noun"]),
    ]
    axes = onnx.numpy_helper.from_array(np.array([1, 2, 3]), "axes")
    graph = onnx.helper.make_graph(nodes, "means", [values["video"]], [values["verb"], values["noun"]], [axes])
    change(graph)
    written = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    written.metadata_props.add(key=METADATA_KEY, value=description(model, Exported(kind="onnx", uint8=True), None))
    path.write_bytes(written.SerializeToString())
    return path


def test_an_onnx_file_asks_for_nothing_elsewhere(model: TrainedModel, tmp_path: Path) -> None:
    def strange(graph: Any) -> None:
        graph.node[0].domain = "com.stranger"

    with pytest.raises(GestaError, match=r"com\.stranger"):
        load_exported(onnx_file(tmp_path / "a.onnx", model, strange))
    for place in ("../secret", "/etc/passwd", "weights.bin", "*/_ORT_MEM_ADDR_/*"):

        def outside(graph: Any) -> None:
            graph.initializer[0].external_data.add(key="location", value=place)  # noqa: B023  # called at once

        with pytest.raises(GestaError, match="in another file"):
            load_exported(onnx_file(tmp_path / "b.onnx", model, outside))


def test_scores_of_other_classes_are_refused(model: TrainedModel, tmp_path: Path) -> None:
    loaded = load_exported(onnx_file(tmp_path / "a.onnx", model))
    with pytest.raises(GestaError, match=r"\(2, 3\) for 2 clips and 2 classes"):
        loaded.model(torch.zeros(2, 2, 3, 16, 16, dtype=torch.uint8))


def changed(source: Path, target: Path, part: str, change: Callable[[Any], None]) -> Path:
    """A copy of a .pt2 file in which one of its parts in JSON is another."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            data = old.read(member)
            if member.filename.endswith(part):
                content = json.loads(data)
                change(content)
                data = json.dumps(content).encode()
            new.writestr(member.filename, data)
    return target


@pytest.mark.parametrize(
    "target",
    [
        "torch.load",
        "torch.serialization.os.system",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.embedding_dense_backward.default",
        "_operator.call",
        "#x",
    ],
)
def test_a_program_calls_no_other_operators(target: str, file: Callable[[str], Path], tmp_path: Path) -> None:
    def change(program: Any) -> None:
        program["graph_module"]["graph"]["nodes"][0]["target"] = target

    with pytest.raises(GestaError, match="not among the operators"):
        load_exported(changed(file(".pt2"), tmp_path / "a.pt2", "models/model.json", change))


def test_a_program_is_never_unpickled_evaluated_or_executed(file: Callable[[str], Path], tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"open({str(mark)!r}, 'w')"

    def guard(program: Any) -> None:
        program["guards_code"] = [code]
        for value in program["graph_module"]["graph"]["tensor_values"].values():
            value["sizes"] = [{"as_expr": {"expr_str": code, "hint": {"as_int": 3}}}]

    load_exported(changed(file(".pt2"), tmp_path / "a.pt2", "models/model.json", guard))

    def unpickle(config: Any) -> None:
        next(iter(config["config"].values()))["use_pickle"] = True

    with pytest.raises(GestaError, match="Python object"):
        load_exported(changed(file(".pt2"), tmp_path / "b.pt2", "model_weights_config.json", unpickle))
    assert not mark.exists()


def test_matches_in_onnx_are_those_of_scipy() -> None:
    node = onnx.helper.make_node("assign", ["similarity"], ["matches"], domain=DOMAIN)
    sizes = ["B", "T", "N", "N"]
    graph = onnx.helper.make_graph(
        [node],
        "matches",
        [onnx.helper.make_tensor_value_info("similarity", onnx.TensorProto.FLOAT, sizes)],
        [onnx.helper.make_tensor_value_info("matches", onnx.TensorProto.INT64, sizes[:3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)], ir_version=10)
    add_functions(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    random = np.random.default_rng(0)
    for shape in [(1, 1, 1, 1), (2, 3, 7, 7), (1, 2, 30, 30)]:
        similarity = random.random(shape, dtype=np.float32)
        if shape[-1] == 7:  # a window around each position: the others are forbidden
            far = abs(np.subtract.outer(np.arange(7), np.arange(7))) > 2
            similarity[..., far] = -math.inf
        (matches,) = session.run(None, {"similarity": similarity})
        for problem, match in zip(similarity.reshape(-1, *shape[2:]), matches.reshape(-1, shape[-1])):
            assert match.tolist() == linear_sum_assignment(-problem.astype(np.float64))[1].tolist()


@pytest.mark.full  # test_a_file_is_used_as_the_model does the same from Python
@pytest.mark.timeout(1200)
def test_a_run_is_exported_scored_and_quantised_by_commands(
    make_video: Video, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(words: str) -> str:
        with pytest.raises(SystemExit) as end:
            main(words.split())
        output = capsys.readouterr()
        assert end.value.code == 0, output.err
        return output.out

    monkeypatch.chdir(tmp_path)
    for i in range(6):
        make_video(f"videos/dark/{i}.mp4", frames=12)
        make_video(f"videos/bright/{i}.mp4", frames=12, shade=120)
    flags = "--train.epochs 1 --train.batch-size 4 --train.workers 0 --evaluate.workers 0 --evaluate.split val"
    run(f"train finetune --model r3d_tiny --model.clip.size 32 --data.root videos --data.val 0.4 --run run {flags}")
    scores = json.loads((tmp_path / "run/result.json").read_text())["scores"]["values"]["label"]
    assert "3 clips of its data" in run("export run --to onnx --uint8")
    assert "3 clips of its data" in run("export run --to torch")
    for name in ("model.onnx", "model.pt2"):
        result = json.loads(run(f"evaluate run/{name} --json"))
        np.testing.assert_allclose(result["scores"]["values"]["label"], scores, atol=1e-4)
        assert "clips/s" in run(f"bench model run/{name} --batch 1")
    printed = run("export run --to onnx --int8")
    assert "top1 on split val" in printed and "training clips" in printed
    assert (tmp_path / "run/model-int8.onnx").stat().st_size < 0.6 * (tmp_path / "run/model.onnx").stat().st_size
    assert run("predict run/model-int8.onnx videos/dark/0.mp4 --timeline --format srt")
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    run("bench export r3d_tiny vit_tiny --write page.md")
    assert page.read_text().count("| `") == 4 and page.read_text().endswith(f"{END}\nafter\n")


def test_clips_of_data_are_of_all_classes(make_video: Video, tmp_path: Path) -> None:
    assert spread_indices(100, 4) == [0, 25, 50, 75, 12, 37, 62, 87]
    assert spread_indices(5, 4) == [0, 1, 2, 3, 4] and spread_indices(0, 4) == []
    assert sorted(spread_indices(8, 4)) == [*range(8)]
    for i in range(6):
        make_video(f"v/bright/{i}.mp4", frames=4, shade=150)
        make_video(f"v/dark/{i}.mp4", frames=4)
    (tmp_path / "v/bright/0.mp4").write_bytes(b"nothing")
    data = Folder(root=str(tmp_path / "v"), val=0.0)
    views = views_of_data(data, ClipSpec(frames=2, stride=1, size=16), EvaluateConfig(), 2, "train")
    assert [view.float().mean() > 100 for view in views] == [False, True]  # the first of all cannot be read


@config
class OutsideConfig(ModelConfig):
    """A model of somebody else's code."""

    def build(self) -> VideoModel:
        return Outside(self)

    @property
    def summary(self) -> str:
        return "outside"


class Outside(VideoModel):
    def __init__(self, config: OutsideConfig) -> None:
        super().__init__(config)
        self.head = torch.nn.Linear(3, 2)

    def forward(self, video: torch.Tensor, with_losses: bool = False) -> Any:
        return self.head(video.mean((2, 3, 4)))


def test_a_model_of_trusted_code_is_exported_and_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network = OutsideConfig(classes=2, clip=ClipSpec(frames=2, size=16)).build().eval()
    save_model(tmp_path / "best.safetensors", network, ["a", "b"])

    def run(*words: str) -> str:
        with pytest.raises(SystemExit):
            main([*words])
        shown = capsys.readouterr()
        return shown.out + shown.err

    monkeypatch.setattr("gesta.export.fastest.fastest_run", lambda work, seconds: 1.0)
    for words in (["export", str(tmp_path), "--to", "torch"], ["bench", "model", str(tmp_path)]):
        assert "pass --trust-code" in run(*words)
        assert "differ by" in run(*words, "--trust-code")
    exported = str(tmp_path / "best.pt2")
    assert "pass --trust-code" in run("bench", "model", exported)
    monkeypatch.setattr("gesta.bench.model.seconds_per_step", lambda *_: (1.0, 1.0))
    assert "forward" in run("bench", "model", exported, "--trust-code", "--batch", "1")


# --- the table of exports ------------------------------------------------------------------------------------------


@pytest.mark.full  # a new model is in the table once gesta bench export --write has run, which takes minutes
def test_the_table_has_every_model_and_none_is_refused() -> None:
    cells = [line.split("|")[1:4] for line in PAGE.read_text().splitlines() if line.startswith("| `")]
    rows = [row for row in cells if row[1].strip() in KINDS]  # the page has a table of options, too
    assert checked_models() == list_models("*_tiny")
    assert sorted((name.strip(" `"), kind.strip()) for name, kind, _ in rows) == sorted(
        (name, kind) for name in checked_models() for kind in KINDS
    )
    assert all(float(difference) <= 1e-4 for _, _, difference in rows)


@pytest.mark.full  # test_a_file_is_used_as_the_model exports a smaller network in both forms
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", list_models("*_tiny"))
def test_every_row_of_the_table_holds(name: str, kind: Any, tmp_path: Path) -> None:
    check = check_export(name, kind, tmp_path)
    assert check.difference is not None and check.difference <= 1e-4, check.refusal


def test_a_misspelt_model_is_refused_before_others_are_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gesta.export.verification.check_export", lambda *_, **__: pytest.fail("exported"))
    with pytest.raises(GestaError, match="r3d_tny"):
        check_exports(["r3d_tiny", "r3d_tny"])


def test_predictions_take_the_fastest_way_as_long_as_it_has_the_same_weights(
    model: TrainedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "best.safetensors", model.model, model.classes)
    export(gesta.load(tmp_path), tmp_path / "model.pt2")
    speed = measure_run(gesta.load(tmp_path), seconds=0.01)
    assert speed.clips_per_s.keys() == {"torch", "model.pt2"} and speed.differences["model.pt2"] < 1e-5
    note = json.loads((tmp_path / NOTE).read_text())
    assert note["file"] == ("" if speed.best == "torch" else "model.pt2")

    for difference in (1e-3, math.nan):  # of a file with other scores, though it names the same weights
        with monkeypatch.context() as patch:
            patch.setattr("gesta.export.write.differences", lambda *_, found=difference: (found, 1.0))
            other_scores = measure_run(gesta.load(tmp_path), seconds=0.01)
        assert other_scores.best == "torch" and [*other_scores.clips_per_s] == ["torch"]
        assert f"its scores differ by {difference:.2g} from" in other_scores.left_out["model.pt2"]
        assert json.loads((tmp_path / NOTE).read_text())["file"] == ""

    (tmp_path / NOTE).write_text(json.dumps(note | {"file": "model.pt2"}))
    fast = with_fastest(gesta.load(tmp_path), "cpu", "32-true")
    clips = made_views(model.model.config.clip)
    assert type(fast.model) is not type(model.model) and differences(model.model, fast.model, clips)[0] < 1e-5
    assert "model.pt2, the fastest way" in capsys.readouterr().err
    assert type(with_fastest(gesta.load(tmp_path), "cpu", "bf16-mixed").model) is type(model.model)

    (tmp_path / NOTE).write_text(json.dumps(note | {"file": "../model.pt2"}))
    with pytest.raises(GestaError, match="no exported file of this folder"):
        with_fastest(gesta.load(tmp_path), "cpu", "32-true")
    other = model.model.config.build().eval()
    save_model(tmp_path / "best.safetensors", other, model.classes)
    with_other = gesta.load(tmp_path)
    renewed = {"file": "model.pt2", "checksum": with_other.metadata["checksum"]}
    (tmp_path / NOTE).write_text(json.dumps(note | renewed))
    assert type(with_fastest(with_other, "cpu", "32-true").model) is type(model.model)
    assert "was made from other weights" in capsys.readouterr().err
