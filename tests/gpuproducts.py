"""What test_chatglm_gpu.py asks, as a program of its own: it changes what Triton and torch are for the whole process.

TRITON_INTERPRET=1 python gpuproducts.py numbers   # on the CPU: how far the products of kbqa/chatglm/gpu.py are off
python gpuproducts.py compile 75 80                # them for these GPUs, none of which need be there
python gpuproducts.py places                       # models of tensors that have no numbers, but a place
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryDirectory

import torch
import triton
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from kbqa.chatglm import gpu, kernels, load_chatglm
from kbqa.chatglm.decoder import Decoder
from kbqa.chatglm.kernels import OnGpu, speed_up
from kbqa.chatglm.lora import Lora, adapt
from kbqa.chatglm.quantization import GroupedLinear, QuantizedLinear
from kbqa.chatglm.runner import Runner
from kbqa.chatglm.tiny import Shape, make_tiny

KINDS = {
    "int8": partial(QuantizedLinear, bits=8),
    "int4": partial(QuantizedLinear, bits=4),
    "int4 by 32": partial(GroupedLinear, group=32),
    "int4 by 128": partial(GroupedLinear, group=128),
}
GROUPS = {"int4 by 32": 32, "int4 by 128": 128}
SIZES = ((544, 37), (1152, 16))  # columns and rows; none fits the tiles


def numbers() -> Iterator[tuple[str, float]]:
    """The largest error of a row, relative to the row, and that of restored weights to the largest of them."""
    torch.manual_seed(0)
    for columns, rows in SIZES:
        for name, kind in KINDS.items():
            if columns % GROUPS.get(name, 1):
                continue
            layer = kind(nn.Linear(columns, rows))
            layer.fill(torch.randn(rows, columns) * 0.02)
            layer.requires_grad_(False)
            bias, exact = layer.bias, layer(torch.eye(columns)).sub(layer.bias).T
            for dtype in (torch.float32, torch.float16):
                layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
                fast = OnGpu(layer)
                of = f"{name} {rows} x {columns} {str(dtype).removeprefix('torch.')}"
                weights = gpu.restored(fast.weight, dtype).float()
                yield f"restored {of}", float((weights - exact).abs().max() / exact.abs().max())
                for count in (1, 3, 17, 33, 65):
                    yield f"{count} by {of}", off(fast, exact.T, bias, torch.randn(count, columns).to(dtype))


def off(fast: OnGpu, matrix: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> float:
    wanted = x.float() @ matrix + bias
    ways = [fast] if len(x) > 3 else [fast, lambda it: gpu.by_sums(it, fast.weight)]
    return max(float(((way(x).float() - wanted).norm(dim=-1) / wanted.norm(dim=-1)).max()) for way in ways)


def compiled(gpus: list[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Bytes that a thread keeps outside of its registers, bytes that threads share, instructions for tensor cores."""
    tiles = [(gpu._tiles, {"TOKENS": tokens, **sizes}) for tokens, sizes in gpu.TILES.items()]
    others = [(gpu._sums, gpu.SUMS), (gpu._restore, gpu.RESTORE)]
    for number in map(int, gpus):
        for kernel, sizes in others if number < 80 else [*others, *tiles]:
            for name, bits, group in (("int8", 8, 0), ("int4", 4, 0), ("int4 by 32", 4, 32)):
                made = build(kernel, number, bits, group, dict(sizes))
                yield f"{kernel.__name__} {sizes.get('TOKENS', '')} {name} sm_{number}", made


def build(kernel: triton.JITFunction, number: int, bits: int, group: int, sizes: dict[str, int]) -> dict[str, int]:
    dtype, scales = "*bf16" if number > 80 else "*fp16", "*bf16" if group else "*fp16"
    known = {"BITS": bits, "GROUP": group, "BIAS": True, **sizes}
    kinds = dict.fromkeys(("x", "bias", "out"), dtype) | dict.fromkeys(("scale", "zero"), scales) | {"weight": "*i8"}
    kinds |= dict.fromkeys(("tokens", "rows", "packed"), "i32") | dict.fromkeys(known, "constexpr")
    signature = {name: kinds[name] for name in kernel.arg_names}
    whole = {(at,): [["tt.divisibility", 16]] for at, name in enumerate(signature) if name not in ("tokens", *known)}
    source = ASTSource(kernel, signature, {name: known[name] for name in signature if name in known}, whole)
    options = {"num_warps": 4, "num_stages": sizes.get("num_stages", 3)}
    made = triton.compile(source, GPUTarget("cuda", number, 32), options)
    tensor = len(re.findall(r"\bw?g?mma\.|tcgen05\.mma", made.asm["ptx"]))
    return {"spilled": spilled(made.asm["cubin"]), "shared": made.metadata.shared, "tensor": tensor}


def spilled(code: bytes) -> int:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with NamedTemporaryFile(suffix=".cubin") as file:
        file.write(code)
        file.flush()
        done = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", done.stdout)[1])


def places() -> Iterator[tuple[str, str]]:
    """Where each model's logits are. An exception where it would compute with tensors of two devices."""
    pretend_gpu()
    with TemporaryDirectory() as made:
        for family in ("chatglm", "chatglm2", "chatglm3", "glm4"):
            folder = Path(made) / family
            make_tiny(family, folder, Shape(hidden=128))
            for kind, layer in {"float16": nn.Linear, "int8": OnGpu, "grouped int4": OnGpu}.items():
                quantize = 8 if kind == "int8" else None
                decoder = load_chatglm(folder, "float16", quantize=quantize, exact=True).decoder
                if kind == "grouped int4":
                    group(decoder)
                with FakeTensorMode():
                    move(decoder)
                    speed_up(decoder, torch.float16)
                    assert isinstance(decoder.blocks[0].up, layer)
                    yield f"{family} {kind}", answer(decoder).device.type


def pretend_gpu() -> None:
    """A device of which torch knows the name alone. Kernels are taken to be right, and compute nothing."""
    _setup_privateuseone_for_python_backend("gpu")
    FakeTensorMode.avoid_device_init = property(lambda mode: True)
    FakeTensorMode.may_turn_const = lambda mode, tensor: False
    torch.cuda.get_device_capability = lambda device=None: (9, 0)
    gpu.try_out = lambda device: None
    gpu._launched = lambda kernel, grid, x, matrix, out, sizes: out
    kernels._right = lambda *given: True


def group(decoder: Decoder) -> None:
    for part in list(decoder.blocks.modules()):
        for name, linear in list(part.named_children()):
            if isinstance(linear, nn.Linear):
                setattr(part, name, made := GroupedLinear(linear))
                made.fill(linear.weight)


def move(decoder: Decoder) -> None:
    def like(tensor: torch.Tensor) -> torch.Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="gpu")

    for part in decoder.modules():
        known = {name: it for name, it in part._parameters.items() if it is not None}
        part._parameters |= {name: nn.Parameter(like(it), requires_grad=False) for name, it in known.items()}
        part._buffers |= {name: like(it) for name, it in part._buffers.items()}
    decoder.frequencies = like(decoder.frequencies)


def answer(decoder: Decoder) -> torch.Tensor:
    """Logits after two tokens of three answers: one plain, one behind a prefix, one with an adapter."""
    a = decoder.architecture
    prefix = torch.empty(a.layers, 2, a.groups, 3, a.head_dim, dtype=torch.float16, device="gpu")
    lora = Lora({"blocks.1.down": (torch.empty(2, a.inner, device="gpu"), torch.empty(a.hidden, 2, device="gpu"))})
    adapt(decoder)
    ids = [*range(20, 28), a.gmask, a.sop] if a.is_v1 else range(20, 30)
    runner = Runner(decoder, slots=4, capacity=40)
    sequences = [runner.begin(0, ids), runner.begin(2, ids, prefix), runner.begin(3, ids, None, lora)]
    for sequence in sequences:
        while sequence.unread:
            runner.read(sequence, 6)
    for _ in range(2):
        runner.write(sequences, [11, 12, 13])
    return runner.write(sequences[:1], [14])


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    job, *gpus = sys.argv[1:]
    for found in {"numbers": numbers, "compile": partial(compiled, gpus), "places": places}[job]():
        print(json.dumps(found))
