"""What a step of tuning takes: seconds, tokens a second and memory, with random weights of a shape.

    python scripts/bench_tune.py                       # a small shape, on whatever is here
    python scripts/bench_tune.py --shape 6b --device cuda

The 6B shapes are ChatGLM-6B's and ChatGLM3-6B's; to hold them against, the original README has 6.7 GB (int4)
and 13 to 14 GB (float16) for ChatGLM-6B with pre_seq_len 128 and 64 + 64 tokens. Each row is a process of its own, so
that peaks do not mix. On a CPU, memory is what the process has at its highest.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

SMALL = {"layers": 4, "hidden": 512, "heads": 8, "groups": 2, "head_dim": 64, "inner": 1536, "vocabulary": 8192}
V1 = {"layers": 28, "hidden": 4096, "heads": 32, "groups": 32, "head_dim": 128, "inner": 16384, "vocabulary": 130528}
V3 = {"layers": 28, "hidden": 4096, "heads": 32, "groups": 2, "head_dim": 128, "inner": 13696, "vocabulary": 65024}
SHAPES: dict[str, tuple[tuple[str, dict[str, int]], ...]] = {
    "small": (("chatglm", SMALL | {"groups": 8}), ("chatglm3", SMALL)),
    "6b": (("chatglm", V1), ("chatglm3", V3)),
}
KINDS = ("float32", "float16", "bfloat16", "int8", "int4")
SOURCE = TARGET = 64


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--device", choices=("cpu", "cuda"))
    parser.add_argument("--kinds", default=None, help=f"of {', '.join(KINDS)}, with commas between")
    parser.add_argument("--methods", default="p-tuning,lora")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one(**json.loads(arguments.one))))
        return 0
    import torch

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        print("bench_tune: there is no CUDA GPU here", file=sys.stderr)
        return 1
    kinds = (arguments.kinds or ("float16,int4" if device == "cuda" else "bfloat16,float32,int8,int4")).split(",")
    where = torch.cuda.get_device_name() if device == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"{arguments.shape} shape on {where}, batch {arguments.batch}, {SOURCE} + {TARGET} tokens, pre_seq_len 128")
    print("family     method    base      twice  s/step  tokens/s  peak")
    for family, shape in SHAPES[arguments.shape]:
        for method in arguments.methods.split(","):
            for kind in kinds:
                for twice in (False, True):
                    told = {"family": family, "shape": shape, "kind": kind, "method": method, "twice": twice}
                    more = {"device": device, "batch": arguments.batch, "steps": arguments.steps}
                    show(told, measured(told | more | {"threads": arguments.threads}))
    return 0


def measured(told: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", json.dumps(told)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["it ended without a word"])[-1][:100]}
    return json.loads(done.stdout.splitlines()[-1])


def show(told: dict[str, Any], found: dict[str, Any]) -> None:
    head = f"{told['family']:9}  {told['method']:8}  {told['kind']:8}  {'yes' if told['twice'] else 'no':5}"
    if "error" in found:
        print(f"{head}  {found['error']}", flush=True)
        return
    print(f"{head}  {found['seconds']:6.3f}  {found['tokens']:8.0f}  {found['peak'] / 2**30:.2f} GiB", flush=True)


def one(
    family: str,
    shape: dict[str, int],
    kind: str,
    method: str,
    twice: bool,
    device: str,
    batch: int,
    steps: int,
    threads: int,
) -> dict[str, float]:
    """One run of the Trainer as `kbqa tune train` makes it, without saving; the first two steps are not counted."""
    import torch
    from transformers import TrainerCallback

    from kbqa.tuning.lora import LoraTuning
    from kbqa.tuning.prefix import PrefixTuning
    from kbqa.tuning.preprocess import Example
    from kbqa.tuning.settings import Settings
    from kbqa.tuning.trainer import Tuner, arguments

    if threads:
        torch.set_num_threads(threads)
    decoder = decoder_of(family, shape, kind, device)
    decoder.checkpointing = twice
    settings = Settings("m", "f", output_dir="o", max_steps=steps + 2, save_steps=10**6, gradient_accumulation_steps=1)
    settings = replace(settings, per_device_train_batch_size=batch)
    tuning = (
        PrefixTuning(decoder, 128, False)
        if method == "p-tuning"
        else LoraTuning(decoder, 8, 32, 0.1, ["query_key_value"])
    )
    a = decoder.architecture
    ids = (
        (*range(20, 20 + SOURCE - 2), a.gmask, a.sop, *range(20, 20 + TARGET))
        if a.is_v1
        else (*range(20, 20 + SOURCE + TARGET),)
    )
    row = Example(ids, (*[-100] * SOURCE, *ids[SOURCE:]))
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            if device == "cuda":
                torch.cuda.synchronize()
            ends.append(time.perf_counter())

    with TemporaryDirectory() as folder:
        args = arguments(settings, Path(folder), on_cpu=device == "cpu", measured=False)
        args.save_strategy = "no"
        Tuner(tuning, Path(folder), None, args, [row] * batch * (steps + 2), None, callbacks=[Clock()]).train()
    seconds = (ends[-1] - ends[1]) / steps
    return {"seconds": seconds, "tokens": batch * len(ids) / seconds, "peak": peak(device)}


def decoder_of(family: str, shape: dict[str, int], kind: str, device: str) -> Any:
    """Random weights, layer by layer, so that no more memory is needed than the model takes in the end."""
    import torch
    from torch import nn

    from kbqa.chatglm.architecture import Architecture
    from kbqa.chatglm.decoder import Decoder
    from kbqa.chatglm.quantization import QuantizedLinear

    v1 = family == "chatglm"
    dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        kind, torch.float16 if device == "cuda" else torch.bfloat16
    )
    a = Architecture(
        family, "chatglm", **shape, eps=1e-5, context=2048, eos=(2,), pad=0, dtype="float16",
        rotary=shape["head_dim"] // (1 if v1 else 2), mask=10, gmask=11, sop=12,
    )  # type: ignore[arg-type]  # fmt: skip
    with torch.device("meta"):
        decoder = Decoder(a)
    draw = torch.Generator(device).manual_seed(0)
    for name, module in list(decoder.named_modules()):
        if isinstance(module, nn.Linear | nn.Embedding):
            weight = torch.randn(module.weight.shape, dtype=dtype, device=device, generator=draw) * 0.02
            if kind.startswith("int") and name.startswith("blocks."):
                made = QuantizedLinear(module, 8 if kind == "int8" else 4)
                made.fill(weight)
                if module.bias is not None:
                    made.bias = nn.Parameter(torch.zeros(module.bias.shape, dtype=dtype, device=device))
                parent, _, own = name.rpartition(".")
                setattr(decoder.get_submodule(parent), own, made)
                continue
            module.weight = nn.Parameter(weight)
            if getattr(module, "bias", None) is not None:
                module.bias = nn.Parameter(torch.zeros(module.bias.shape, dtype=dtype, device=device))
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.weight = nn.Parameter(torch.ones(module.weight.shape, dtype=dtype, device=device))
            if isinstance(module, nn.LayerNorm):
                module.bias = nn.Parameter(torch.zeros(module.bias.shape, dtype=dtype, device=device))
    if v1:
        decoder.head.weight = decoder.embedding.weight
    decoder.frequencies = decoder.frequencies.to(device)
    return decoder.eval().requires_grad_(False)


def peak(device: str) -> int:
    import torch

    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
