"""Triton ops: right under the interpreter (and on a GPU), and compilable for Hopper without one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from baton_kernels.ops import kv_copy, paged_attention, rms_norm, rope, silu_mul

CHECKS = Path(__file__).with_name("op_checks.py")


def run_checks(**environment: str) -> None:
    # A process of its own: whether kernels are interpreted is settled when triton is imported.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CHECKS)]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=110,
        env={**os.environ, **environment},
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr


def test_ops_agree_with_their_references_under_the_interpreter() -> None:
    run_checks(TRITON_INTERPRET="1")


@pytest.mark.gpu
def test_ops_agree_with_their_references_on_a_gpu() -> None:
    run_checks(BATON_TEST_KERNEL_DEVICE="cuda")


KERNELS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    # kernel, pointers to the batch's element type, constants
    "rms_norm": (
        rms_norm._rms_norm_kernel,
        "x residual weight out total",
        {"HAS_RESIDUAL": True, "BLOCK": 4096},
    ),
    "silu_mul": (silu_mul._silu_mul_kernel, "x out", {"BLOCK": 1024}),
    "rope": (rope._rope_kernel, "x", {"BLOCK_H": 8, "BLOCK_D": 64}),
    "store_kv": (kv_copy._store_kv_kernel, "kv cache", {"BLOCK_P": 16, "BLOCK_D": 128}),
    "copy_rows": (kv_copy._copy_rows_kernel, "source target", {"GATHER": True, "BLOCK": 1024}),
    "decode": (
        paged_attention._paged_attention_kernel,
        "q cache out",
        {"NUM_QUERIES": 1, "GROUP": 4, "BLOCK_M": 16, "BLOCK_S": 32, "BLOCK_D": 128},
    ),
    "prefill": (
        paged_attention._paged_attention_kernel,
        "q cache out",
        {"NUM_QUERIES": 16, "GROUP": 4, "BLOCK_M": 64, "BLOCK_S": 32, "BLOCK_D": 128},
    ),
}
POINTERS = {
    "cos_ptr": "*fp32",
    "sin_ptr": "*fp32",
    "block_ids_ptr": "*i64",
    "offsets_ptr": "*i64",
    "rows_ptr": "*i64",
}


@pytest.mark.parametrize(
    ("name", "element"), [*((name, "bf16") for name in KERNELS), ("decode", "fp32")]
)
def test_kernels_compile_for_hopper_without_a_gpu(
    name: str, element: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel, elements, constants = KERNELS[name]
    known = {**constants, "WIDE": tl.float32}
    signature, given = {}, {}
    for i, parameter in enumerate(kernel.arg_names):
        if parameter in known:
            signature[parameter], given[(i,)] = "constexpr", known[parameter]
        elif parameter.removesuffix("_ptr") in elements.split():
            signature[parameter] = f"*{element}"
        elif parameter.endswith("_ptr"):
            signature[parameter] = POINTERS.get(parameter, "*i32")
        else:
            signature[parameter] = "fp32" if parameter in ("eps", "scale") else "i32"
    source = ASTSource(kernel, signature, constexprs=given)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert ".target sm_90" in compiled.asm["ptx"]
    assert len(compiled.asm["cubin"]) > 0
