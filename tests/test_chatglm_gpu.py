"""What can be known of GPUs where there is none: what the kernels compute, that they compile for each generation, and
that all of a model's work stays there. How fast they are: scripts/bench_glm_gpu.py, on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")
pytest.importorskip("triton", reason="Triton, which torch brings for CUDA, is not installed")

from torch import nn  # noqa: E402
from triton.errors import TritonError  # noqa: E402

from kbqa.chatglm import kernels  # noqa: E402
from kbqa.chatglm.kernels import OnGpu, faster  # noqa: E402
from kbqa.chatglm.quantization import QuantizedLinear  # noqa: E402

GENERATIONS = ("75", "80", "90", "120")  # Turing, Ampere, Hopper, Blackwell
FAMILIES = ("chatglm", "chatglm2", "chatglm3", "glm4")
KINDS = ("float16", "int8", "grouped int4")


def told(*job: str, **environment: str) -> dict:
    """What the program of products says. It finds no kernels that were compiled before."""
    program = Path(__file__).parent / "gpuproducts.py"
    command = [sys.executable, program, *job]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, encoding="utf-8", timeout=250
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(line) for line in done.stdout.splitlines())


def test_products_on_gpus_are_those_of_the_packed_weights():
    off = told("numbers", TRITON_INTERPRET="1")
    assert len(off) == (3 + 4) * 2 * 6
    assert {name: error for name, error in off.items() if not error < (2e-6 if "float32" in name else 1e-3)} == {}


def test_products_compile_for_every_generation_and_use_its_tensor_cores(tmp_path):
    made = told("compile", *GENERATIONS, TRITON_CACHE_DIR=str(tmp_path))
    assert {name: it for name, it in made.items() if it["spilled"]} == {}
    tiles = [it["tensor"] for name, it in made.items() if name.startswith("_tiles")]
    assert len(tiles) == 3 * 3 * 3
    assert all(tiles)
    assert max(it["shared"] for name, it in made.items() if name.startswith("_sums")) < 64  # for the sum at the end
    assert {name.rpartition("sm_")[2] for name in made if name.startswith("_sums")} == set(GENERATIONS)


def test_reading_and_writing_stay_on_the_gpu_whatever_the_weights():
    placed = told("places")
    assert {name: where for name, where in placed.items() if where != "gpu"} == {}
    assert set(placed) == {f"{family} {kind}" for family in FAMILIES for kind in KINDS}


def test_where_triton_cannot_run_a_warning_says_so_and_layers_take_other_code(caplog):
    with torch.device("meta"):  # as good as a GPU that Triton does not know
        layer = QuantizedLinear(nn.Linear(64, 32), 8)
    assert type(faster(layer, torch.bfloat16)) is not OnGpu
    (line,) = [it.getMessage() for it in caplog.records if it.name == "kbqa.chatglm"]
    assert line.startswith("Triton does not work on meta")


def test_a_kernel_that_does_not_compile_is_not_taken(caplog, monkeypatch):
    class Failing(kernels.Int8):
        def _product(self, rows):
            raise TritonError("shared memory does not suffice")

    monkeypatch.setattr(kernels, "_kinds", lambda layer, dtype: (Failing, kernels.Int8))
    layer = QuantizedLinear(nn.Linear(64, 32), 8)
    layer.fill(torch.ones(32, 64))
    assert type(faster(layer.requires_grad_(False), torch.bfloat16)) is kernels.Int8
    assert "shared memory does not suffice" in caplog.text
