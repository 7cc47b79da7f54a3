"""The GPU kernel without a GPU: run by Triton's interpreter, and compiled for GPUs that are not there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

INTERPRETED = """
import sys
import numpy
import torch
numpy.seterr(invalid="ignore")  # the interpreter computes in NumPy, infinities included
sys.path.insert(0, sys.argv[1])
from problems import KINDS, problems, value
from scipy.optimize import linear_sum_assignment
from gesta.alignment import certificate, kernel
from gesta.alignment.assignment import assign
from gesta.alignment.statistics import statistics

def check(similarity, tolerance=1e-7):
    rows = similarity.shape[-1]
    matches, prices = kernel.solve(similarity)
    best = torch.stack([torch.tensor(linear_sum_assignment(s.numpy(), maximize=True)[1]) for s in similarity])
    gap = certificate.gap(similarity, matches, prices)
    true = value(similarity, best) - value(similarity, matches)
    assert (gap <= tolerance * rows).all() and (true <= gap + 1e-9).all(), (rows, gap, true)
    return matches, best

for kind in KINDS:
    for edge in (2, 5):
        check(problems(kind, edge, 2, seed=edge))
matches, best = check(problems("smooth", 7, 1, seed=0))  # more than one register block, unique optimum
assert torch.equal(matches, best)
check(torch.zeros(1, 1, 1)), check(torch.zeros(2, 4, 4))

place = torch.arange(16)
banded = problems("random", 4, 2, seed=1).masked_fill((place[:, None] - place[None]).abs() > 2, -torch.inf)
matches, _ = check(banded)
assert ((matches - place).abs() <= 2).all()

hopeless = torch.randn(3, 5, 5)
hopeless[1, :3, 2:] = -torch.inf  # three rows, two columns: ends all the same, and harms no other problem
matches, prices = kernel.solve(hopeless)
assert certificate.gap(hopeless, matches, prices).isposinf().tolist() == [False, True, False]
hopeless[1] = torch.nan
matches, prices = kernel.solve(hopeless)
assert certificate.gap(hopeless, matches, prices).isposinf().tolist() == [False, True, False]

similarity = problems("smooth", 4, 3, seed=2)
with statistics() as counted:
    assert torch.equal(assign(similarity, "kernel"), assign(similarity, "scipy"))
assert counted.solved == {"kernel": 3, "scipy": 3} and counted.fallbacks == 0 and counted.gap < 16e-7
print("interpreted")
"""


def run(program: str, *arguments: str, **environment: str) -> str:
    """What a program prints in an interpreter of its own; warnings are errors there, too."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.full  # test_compiles_for_gpus builds the kernel; its answers need the slow interpreter or a GPU
def test_interpreted() -> None:
    assert run(INTERPRETED, str(Path(__file__).parent), TRITON_INTERPRET="1") == "interpreted\n"


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from gesta.alignment.kernel import LARGEST, _augment

types = {"similarity": "*fp32", "prices": "*fp32", "rows": "i32", "BLOCK": "constexpr"}
types |= dict.fromkeys(("owners_of", "waiting", "matches"), "*i32")
for capability, block in ((80, 32), (90, 256), (90, LARGEST)):
    source = ASTSource(fn=_augment, signature=types, constexprs={"BLOCK": block})
    options = {"num_warps": max(1, min(block // 256, 8)), "enable_fp_fusion": False}
    built = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    assert len(built.asm["cubin"]) > 1000 and built.metadata.shared < 48 * 1024
print("compiled")
"""


def test_compiles_for_gpus(tmp_path: Path) -> None:
    """Down to machine code (the wheel brings the assembler); that no GPU runs it here is all that is missing."""
    assert run(COMPILED, TRITON_CACHE_DIR=str(tmp_path)) == "compiled\n"
