"""What the checksums of model files and training states cost.

    python benchmarks/checkpoints.py [--model mvitv2_s] [--rounds 3]

A model and its AdamW state after one step are written and read, ``--rounds`` times; the fastest of each counts. Of the
model file the checksum (of names, shapes and values) is part of writing and of reading, of the training state (the zip
archive's own CRC-32) of reading only. CPU seconds; nothing is asserted about time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import optim

from gesta import checkpoint
from gesta.checkpoint import formats
from gesta.models import model_config


def fastest(work: Callable[[], object], rounds: int) -> float:
    """CPU seconds of the fastest of several rounds, which other programs on the machine change less."""
    seconds = []
    for _ in range(rounds):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return min(seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mvitv2_s")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = model_config(options.model).build()
    optimizer = optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    names = [str(i) for i in range(model.config.classes)]  # type: ignore[call-overload]
    weights, state = model.state_dict(), {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with tempfile.TemporaryDirectory() as folder:
        file, last = Path(folder) / "best.safetensors", Path(folder) / "last.ckpt"
        for name, path, work in (
            ("write a model file", file, lambda: checkpoint.save_model(file, model, names)),
            ("read a model file", file, lambda: checkpoint.load(file)),
            ("its checksum, in both", file, lambda: checkpoint._checksum(weights, {})),
            ("write a training state", last, lambda: checkpoint.save_state(last, state)),
            ("read a training state", last, lambda: checkpoint.load_state(last)),
            ("its checksum, in reading", last, lambda: formats.check_zip(last)),
        ):
            seconds = fastest(work, options.rounds)
            print(f"{name:26} {path.stat().st_size / 1e6:7.1f} MB {seconds:6.2f} s")


if __name__ == "__main__":
    main()
