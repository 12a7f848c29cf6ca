"""The 6B shape with random weights on a CUDA GPU: decoding, prefill and memory in float16, bfloat16, int8 and int4.

    python scripts/bench_glm_gpu.py

Decoding is timed for 1, 8 and 32 sequences behind 128 tokens; "floor" is the share of the GPU's memory speed, which is
measured with a copy in the same run. Each fast layer is held against the plain one first. Refuses without a GPU.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from kbqa.chatglm.architecture import Architecture
from kbqa.chatglm.decoder import Decoder
from kbqa.chatglm.kernels import faster
from kbqa.chatglm.quantization import GroupedLinear, QuantizedLinear
from kbqa.chatglm.runner import Runner

SHAPE = Architecture(
    "chatglm3", "chatglm", layers=28, hidden=4096, heads=32, groups=2, head_dim=128, inner=13696, vocabulary=65024,
    eps=1e-5, context=8192, eos=(2,), pad=0, dtype="float16", rotary=64,
)  # fmt: skip
KINDS = {"float16": torch.float16, "bfloat16": torch.bfloat16, "int8": torch.bfloat16, "int4": torch.bfloat16}
BATCHES, PROMPT, CONTEXT, STEPS = (1, 8, 32), 128, 2048, 20


def seconds(work: Callable[[], object], count: int = 1) -> float:
    """Of one of `count` runs, the GPU's work included."""
    work()
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def memory_speed() -> float:
    """Bytes a second, read and written."""
    one = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    return 2 * one.nbytes / seconds(partial(torch.empty_like(one).copy_, one), 20)


def layer_of(linear: nn.Linear, kind: str, dtype: torch.dtype) -> nn.Module:
    """`linear`, which is on the meta device, with random weights on the GPU."""
    weight = torch.randn(linear.out_features, linear.in_features, dtype=dtype, device="cuda") * 0.02
    bias = None if linear.bias is None else nn.Parameter(torch.zeros(len(weight), dtype=dtype, device="cuda"))
    made: Any = linear
    if kind.startswith("int"):
        made = GroupedLinear(linear) if kind == "int4" else QuantizedLinear(linear, 8)
        made.fill(weight)
    else:
        made.weight = nn.Parameter(weight)
    made.bias = bias
    return made.requires_grad_(False)


def decoder_of(a: Architecture, kind: str) -> tuple[Decoder, set[str]]:
    """The decoder, and the names of the kinds of layer in it."""
    dtype, kinds = KINDS[kind], set()
    with torch.device("meta"):
        decoder = Decoder(a)
    for parent in [module for module in decoder.modules() if any(module.children())]:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear):
                fast = faster(layer_of(layer, "plain" if name == "head" else kind, dtype), dtype)
                kinds.add(type(fast).__name__)
                setattr(parent, name, fast)
            elif not any(layer.children()):
                for part, tensor in list(layer.named_parameters()):
                    new = torch.randn(tensor.shape, dtype=dtype, device="cuda") * 0.02 + (tensor.ndim == 1)
                    setattr(layer, part, nn.Parameter(new, requires_grad=False))
    decoder.frequencies = decoder.frequencies.cuda()
    return decoder.eval(), kinds


def read_prompt(runner: Runner) -> None:
    runner.read(runner.begin(0, range(7, 519)))


def check(kind: str) -> float:
    """How far the layer on this GPU is from float32 on the CPU, relative to the largest number."""
    layer = layer_of(nn.Linear(4096, 4096, device="meta", bias=False), kind, KINDS[kind])
    x = torch.randn(5, 4096, dtype=KINDS[kind], device="cuda")
    got = faster(layer, KINDS[kind])(x).float().cpu()
    wanted = (
        layer.cpu().float()(x.float().cpu())
        if kind.startswith("int")
        else x.float().cpu() @ layer.weight.float().cpu().T
    )
    return float((got - wanted).abs().max() / wanted.abs().max())


@torch.inference_mode()
def main() -> None:
    if not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU that this torch can use; for CPUs there is scripts/bench_glm.py")
    speed = memory_speed()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    print(f"memory {speed / 1e9:.0f} GB/s\n")
    heads = " | ".join(f"decode x{batch}" for batch in BATCHES)
    print(f"| weights | layers | off by | prefill 512 | {heads} | floor x1 | GPU memory GB |")
    print("| --- " * (6 + len(BATCHES)) + "|")
    for kind in KINDS:
        torch.cuda.reset_peak_memory_stats()
        off = check(kind)
        decoder, kinds = decoder_of(replace(SHAPE), kind)
        read = torch.cuda.memory_allocated() - decoder.embedding.weight.nbytes
        rates, floor, prefill = [], 0.0, 0.0
        for batch in BATCHES:
            runner = Runner(decoder, batch, CONTEXT)
            if batch == 1:
                prefill = 512 / seconds(partial(read_prompt, runner))
            sequences = [runner.begin(slot, range(7, 7 + PROMPT)) for slot in range(batch)]
            for sequence in sequences:
                sequence.filled = PROMPT
            step = seconds(partial(runner.write, sequences, [11] * batch), STEPS)
            rates.append(f"{batch / step:.1f}")
            floor = floor or read / step / speed
            runner = None
        peak = torch.cuda.max_memory_allocated() / 1e9
        shown = " | ".join(rates)
        print(
            f"| {kind} | {' '.join(sorted(kinds))} | {off:.4f} | {prefill:.0f} | {shown} | {floor:.0%} | {peak:.1f} |"
        )
        del decoder
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
