"""Every Python block of docs/python.md and of the guides runs: with tiny models, small videos and one epoch."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from gesta.checkpoint import save_model
from gesta.models import create_model, model_config

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "python.md"
GUIDES = [page for page in sorted((DOCS / "guides").glob("*.md")) if "```python" in page.read_text(encoding="utf-8")]
CLASSES = ["jump", "wave"]
TINY = {"mvitv2_s": "mvitv2_tiny", "r3d_50": "r3d_tiny", "timesformer_b": "timesformer_tiny", "regnety_040": "resnet18"}
"""The models of the pages, and what stands for them."""


def blocks(path: Path) -> list[tuple[int, str]]:
    """First line and text of each Python block."""
    page = path.read_text(encoding="utf-8")
    return [
        (page.count("\n", 0, match.start(1)), match[1])
        for match in re.finditer(r"```python\n(.*?)```", page, re.DOTALL)
    ]


def run_blocks(path: Path, namespace: dict[str, Any]) -> None:
    """Run the blocks of a page in order, as one script with these names."""
    for line, block in blocks(path):
        for name, tiny in TINY.items():
            block = block.replace(f'"{name}"', f'"{tiny}"')
        exec(compile("\n" * line + block, str(path), "exec"), namespace)


def test_blocks_of_the_page_run_in_order(
    make_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for shade, name in enumerate(CLASSES):
        for i in range(4):
            make_video(f"videos/{name}/{i}.mp4", frames=20, shade=60 * shade + i)
    make_video("new.mp4", frames=20)
    make_video("long.mp4", frames=60)
    Path("runs/demo").mkdir(parents=True)
    save_model("runs/demo/best.safetensors", create_model("r3d_tiny", num_classes=2), CLASSES)
    public = model_config("mvitv2_tiny", classes=400).build()
    torch.save({"model_state": public.state_dict()}, "MViTv2_S_16x4.pyth")
    Path("kinetics_classes.txt").write_text("\n".join(f"class {i}" for i in range(400)))
    run_blocks(PAGE, {"__name__": "__main__"})  # a block that starts with the guard of scripts runs, too
    printed = capsys.readouterr().out
    assert "did you mean 'mvitv2_s'" in printed
    assert "class " in printed and "top-1" in printed
    assert {"result.json", "runs/mine/result.json"} <= {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.json")}


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_blocks_of_the_guides_run(guide: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos/wave").mkdir(parents=True)
    Path("flat").mkdir()
    for name in ("jump_1", "jump_2", "jump_3", "jump_4", "wave_1"):
        Path(f"flat/{name}.mp4").touch()  # a data set lists files, and opens none
    module = ModuleType(f"page_{guide.stem}")
    monkeypatch.setitem(
        sys.modules, module.__name__, module
    )  # where the types of a configuration's fields are looked up
    run_blocks(guide, module.__dict__)
