"""The table of promises in docs/export.md: every small model as ONNX and as a program of ``torch.export``.

    python benchmarks/export.py                    prints the rows, some minutes on two idle cores
    python benchmarks/export.py r3d_tiny ctn_tiny  of these models
    python benchmarks/export.py --write            and writes the table into docs/export.md

One thread; each time is the fastest run within a second, torch's and the file's one after the other.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from gesta.export.promises import HEADER, KINDS, keep_promise, promised_models

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
BEGIN, END = "<!-- begin of the table -->", "<!-- end of the table -->"


def main() -> None:
    torch.set_num_threads(1)
    arguments = [word for word in sys.argv[1:] if word != "--write"]
    lines = [HEADER]
    print(HEADER)
    for name in arguments or promised_models():
        for kind in KINDS:
            with tempfile.TemporaryDirectory() as folder:
                lines.append(str(keep_promise(name, kind, Path(folder), seconds=1.0)))
            print(lines[-1], flush=True)
    if "--write" in sys.argv:
        text = PAGE.read_text()
        before, _, rest = text.partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()
