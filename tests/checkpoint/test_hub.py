"""Weights by name (``hf:owner/name``) against a hub on this machine: downloads, the cache, and what can go wrong."""

from __future__ import annotations

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from hub_server import TOKEN, Hub, Repository, hub_fixture, server_fixture  # noqa: F401
from safetensors.torch import save

import gesta
from gesta.checkpoint import hub as client
from gesta.checkpoint import load, save_model
from gesta.checkpoint.weights import read_source
from gesta.errors import CheckpointError
from gesta.model import ClipSpec
from gesta.models.timesformer import TimeSformerConfig

WEIGHTS = {"a.weight": torch.arange(600.0).reshape(20, 30), "b.weight": torch.ones(3)}


def test_only_what_is_needed_is_downloaded_and_once(hub: Hub) -> None:
    files = {
        "config.json": b"{}",
        "model.safetensors": save(WEIGHTS),
        "pytorch_model.bin": b"pickle",
        "modeling_evil.py": b"import os",
        "README.md": b"a model",
    }
    hub.repositories["us/model"] = Repository(files)
    source = read_source("hf:us/model")
    assert source.weights.keys() == WEIGHTS.keys() and torch.equal(source.weights["a.weight"], WEIGHTS["a.weight"])
    commit = hub.repositories["us/model"].commit
    assert source.name == f"hf:us/model@{commit[:12]}/model.safetensors"
    assert hub.downloads() == ["config.json", "model.safetensors"]
    read_source("hf:us/model")
    assert hub.downloads() == []
    assert read_source(f"hf:us/model@{commit}/model.safetensors").weights.keys() == WEIGHTS.keys()
    assert hub.downloads() == []


def test_shards_are_joined_by_their_index(hub: Hub, tmp_path: Path) -> None:
    places = {"a.weight": "model-1-of-2.safetensors", "b.weight": "model-2-of-2.safetensors"}
    files = {file: save({name: WEIGHTS[name]}) for name, file in places.items()}
    files["model.safetensors.index.json"] = json.dumps({"metadata": {}, "weight_map": places}).encode()
    hub.repositories["us/large"] = Repository(files | {"other.safetensors": save(WEIGHTS)})
    weights = read_source("hf:us/large").weights
    assert all(torch.equal(weights[name], value) for name, value in WEIGHTS.items())
    assert "other.safetensors" not in hub.downloads()
    for name, sentence in (("../a.safetensors", "no file of weights beside it"), ("/a.bin", "no file of weights")):
        files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a.weight": name}}).encode()
        hub.repositories["us/large"] = Repository(files)
        with pytest.raises(CheckpointError, match=sentence):
            read_source("hf:us/large")
    places["c.weight"] = places["a.weight"]
    files["model.safetensors.index.json"] = json.dumps({"weight_map": places}).encode()
    hub.repositories["us/large"] = Repository(files)
    with pytest.raises(CheckpointError, match=r"1-of-2\.safetensors: lacks c\.weight"):
        read_source("hf:us/large")


def test_a_file_in_a_folder_and_a_folder(hub: Hub) -> None:
    files = {"vit_s/a.pth": b"x", "vit_s/config.json": b"{}", "vit_b/b.safetensors": save(WEIGHTS)}
    hub.repositories["us/zoo"] = Repository(files)
    assert read_source("hf:us/zoo/vit_b").weights.keys() == WEIGHTS.keys()
    assert client.resolve("hf:us/zoo/vit_s/a.pth").path.read_bytes() == b"x"
    assert hub.downloads() == ["vit_b/b.safetensors", "vit_s/config.json", "vit_s/a.pth"]
    with pytest.raises(CheckpointError, match=r"hf:us/zoo/vit_s/b\.pth: there is no such file; did you mean 'vit_s/a"):
        client.resolve("hf:us/zoo/vit_s/b.pth")
    with pytest.raises(CheckpointError, match=r"hf:us/zoo@\w+: no best\.safetensors in this folder, nor another file"):
        client.resolve("hf:us/zoo")
    files = {"a.pth": b"x", "b.pth": b"y"}
    hub.repositories["us/zoo"] = Repository(files)
    with pytest.raises(CheckpointError, match=r"several files of weights \(a\.pth, b\.pth\); name one of them, hf:us/"):
        client.resolve("hf:us/zoo")


@pytest.mark.parametrize(
    "name", ["hf:model", "hf://us/model", "hf:us/model/../x", "hf:us/model@", "hf:us/mo del", "hf:us/model/a\\..\\b"]
)
def test_what_is_no_name_of_a_repository(name: str) -> None:
    with pytest.raises(CheckpointError, match="write hf:OWNER/NAME"):
        client.resolve(name)


def test_repositories_that_one_may_not_or_cannot_read(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"model.safetensors": save(WEIGHTS)}
    hub.repositories |= {
        "us/private": Repository(files, token=TOKEN),
        "us/gated": Repository(files, gated=True),
        "us/model": Repository(files),
        "us/bare": Repository({}),
    }
    for name, sentence in {
        "hf:us/nothing": "no such repository, or it is private; .*hf auth login, or HF_TOKEN",
        "hf:us/private": "no such repository, or it is private; .*hf auth login, or HF_TOKEN",
        "hf:us/gated": "only for those who accept its terms; accept them on .* page, and give a token ",
        "hf:us/model@v9": "no revision 'v9'; give a branch, a tag or a commit",
        "hf:us/bare": "no best.safetensors in this folder",
    }.items():
        with pytest.raises(CheckpointError, match=f"^{name}.*{sentence}"):
            client.resolve(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert read_source("hf:us/private").weights.keys() == WEIGHTS.keys()
    monkeypatch.setenv("HF_TOKEN", "another")
    with pytest.raises(CheckpointError, match="or give another token than the one that is set"):
        client.resolve("hf:us/private@main")


@pytest.mark.parametrize("kind", ["offline", "no network", "broken server"])
def test_without_network_the_cache_is_used_and_said(
    kind: str, hub: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.repositories["us/model"] = Repository({"config.json": b"{}", "model.safetensors": save(WEIGHTS)})
    read_source("hf:us/model")
    if kind == "offline":
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    reason = "HF_HUB_OFFLINE is set" if kind == "offline" else "refused"
    if kind == "broken server":
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.address)
        hub.repositories.clear()
        reason = "500"
        monkeypatch.setattr(hub, "status", 500)
    hub.downloads()
    assert read_source("hf:us/model").weights.keys() == WEIGHTS.keys()
    said = capsys.readouterr().err
    assert "hf:us/model: no answer from" in said and reason in said and "the files in the cache are used" in said
    with pytest.raises(CheckpointError, match=r"hf:us/other: no answer .*nothing of it is in the cache; connect"):
        client.resolve("hf:us/other")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: there is no such file.*does not have all of it"):
        client.resolve("hf:us/model/pytorch_model.bin")


def test_an_interrupted_download_continues_or_says_so(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    hub.repositories["us/model"] = Repository({"model.safetensors": save(WEIGHTS)})
    hub.cut = 2
    assert torch.equal(read_source("hf:us/model").weights["a.weight"], WEIGHTS["a.weight"])
    hub.repositories["us/other"] = Repository({"model.safetensors": save(WEIGHTS)})
    hub.cut = 10**6
    with pytest.raises(
        CheckpointError, match=r"^hf:us/other: the connection broke off .*; give the same command again$"
    ):
        read_source("hf:us/other")
    hub.cut = 0
    assert read_source("hf:us/other").weights.keys() == WEIGHTS.keys()


def test_a_file_with_a_wrong_hash_is_deleted_and_refused(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["us/model"] = Repository({"model.safetensors": save(WEIGHTS)})
    hub.corrupt = True
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what the hub has .*deleted; give the same"):
        read_source("hf:us/model")
    assert not [path for path in tmp_path.rglob("blobs/*") if path.is_file()]
    hub.corrupt = False
    assert torch.equal(read_source("hf:us/model").weights["a.weight"], WEIGHTS["a.weight"])


def test_what_the_disk_cannot_take_is_refused_before(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["us/model"] = Repository({"config.json": b"{}", "model.safetensors": save(WEIGHTS)})
    usage = client.shutil.disk_usage("/")
    monkeypatch.setattr(client.shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(CheckpointError, match=r"GB are to be downloaded.*make room, or set HF_HOME"):
        client.resolve("hf:us/model")
    assert hub.downloads() == ["config.json"]


def test_a_model_of_gesta_by_its_name(hub: Hub, tmp_path: Path) -> None:
    clip = ClipSpec(frames=2, stride=1, size=8)
    model = TimeSformerConfig(width=8, depth=2, heads=2, patch=4, classes=2, clip=clip).build()
    save_model(tmp_path / "best.safetensors", model, ["run", "sit"])
    hub.repositories["us/mine"] = Repository({"model.safetensors": (tmp_path / "best.safetensors").read_bytes()})
    trained = load("hf:us/mine")
    assert trained.classes == ["run", "sit"] and "(hf:us/mine@" in str(trained)
    assert torch.equal(trained.model.cls_token, model.cls_token)
    network = gesta.create_model(
        "timesformer_tiny", width=8, depth=2, heads=2, patch=4, classes=2, clip=clip, weights="hf:us/mine"
    )
    assert torch.equal(network.state_dict()["cls_token"], model.cls_token)
