"""The kernels on processors that this machine does not have: vectors of other widths, and machine code for aarch64."""

import os
import re
import subprocess
import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest
from numba import types

from difflayers.satnet import tiles

WIDTH = """
import torch
from difflayers.satnet import tiles
tiles.VECTOR_BYTES = {width}
from satnet_problems import kernel_adjoint, make_problem
from difflayers.satnet import common, cpu, oracle
for sizes in ((3, 13, 9, 6, 5), (2, 19, 3, 7, 9), (2, 11, 12, 3, 24)):
    p = make_problem(*sizes)
    grad = torch.randn_like(p.z)
    out, V, norms, _, _ = cpu.mixing(*p, 30, 1e-6)
    U = kernel_adjoint(p.S, V, norms, p.given, grad, 1e-2, 500, 1e-12)
    lengths = norms * common.scaling(p.S) ** 2
    for b, want in enumerate(oracle.forward(*p, max_iter=30, eps=1e-6)):
        torch.testing.assert_close(V[b], want.V, rtol=0, atol=1e-9)
        own = oracle.Solution(out[b], V[b], lengths[b], 0, 0.0)
        u, _ = oracle.coordinate_descent(p.S, own, p.given[b], grad[b], max_iter=5000, eps=1e-16)
        torch.testing.assert_close(U[b], u, rtol=1e-5, atol=1e-5)
print("same")
"""


@pytest.mark.parametrize("width", [width for width in (16, 32, 64) if width != tiles.VECTOR_BYTES])
def test_vectors_of_other_processors_give_the_oracle_too(width: int, tmp_path: Path) -> None:
    """Compiled anew for each width: LLVM splits or joins what this processor does not have."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, "-c", WIDTH.format(width=width)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout == "same\n", done.stderr


@pytest.mark.parametrize("number", [types.float32, types.float64], ids=str)
def test_products_are_multiply_adds_of_vectors_on_aarch64(number: types.Float) -> None:
    """LLVM's code for aarch64 from the same IR: each 16 bytes of a vector are one of NEON's, and nothing is a call."""
    flat, rows, matrix = types.Array(number, 1, "C"), types.Array(types.int64, 1, "C"), types.Array(number, 2, "C")
    size = types.int64
    signature = (flat, size, rows, size, size, size, matrix, size, matrix, size)
    tiles.subtract_product.compile(signature)
    text = tiles.subtract_product.inspect_llvm(signature)
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple = "aarch64-unknown-linux-gnu"
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu="generic", opt=3)
    module = llvm.parse_assembly(re.sub(r'target (triple|datalayout) = .*|"target-(cpu|features)"="[^"]*"', "", text))
    module.triple, module.data_layout = triple, str(machine.target_data)
    code = machine.emit_assembly(module)
    kind = "4s" if number == types.float32 else "2d"
    products = re.findall(rf"^\s+fml[as]\s+v\d+\.{kind}", code, re.MULTILINE)
    assert len(products) >= tiles.ROWS * tiles.VECTOR_BYTES // 16
    assert not re.findall(r"^\s+bl\s.*", code, re.MULTILINE)
