"""The 6B shape with random weights on a CUDA GPU: decoding, prefill, memory, many users, in 16, 8 and 4 bits.

    python scripts/bench_glm_gpu.py                                 # about five minutes; needs 20 GB for float16
    python scripts/bench_glm_gpu.py --graphs                        # steps as CUDA graphs (kbqa/chatglm/graphs.py)
    python scripts/bench_glm_gpu.py --kind int4 --turns 0           # one row, without the 500 turns
    python scripts/bench_glm_gpu.py --device cpu --shape tiny       # only to see that it runs

"int8 torch" and "int4 torch" are torch's own kernels, to compare. Without --graphs, figures of fast GPUs are those of
the host: Python takes tens of microseconds to start each product of 8 or 4 bits.

Decoding is timed for 1, 8 and 32 sequences behind 128 tokens; "floor" is the share of the GPU's memory speed, which is
measured with a copy in the same run. Each fast layer is held against the plain one first ("off by", relative). Memory
is what torch holds at its highest for one answer with a context of 2,048 tokens, prefill of 512 included; the CUDA
runtime's own (some 0.5 GB) comes on top. Then, through the engine as a server uses it: 20 streams at once, each with a
deadline, and the memory after 500 turns beside that after the 20th.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from kbqa.chatglm.architecture import Architecture
from kbqa.chatglm.decoder import Decoder
from kbqa.chatglm.engine import Ended, Engine, Job
from kbqa.chatglm.kernels import Int4, Int8, faster
from kbqa.chatglm.quantization import GroupedLinear, QuantizedLinear
from kbqa.chatglm.runner import Runner
from kbqa.chatglm.sampling import Sampling
from kbqa.errors import GeneratorError

GLM3_6B = Architecture(
    "chatglm3", "chatglm", layers=28, hidden=4096, heads=32, groups=2, head_dim=128, inner=13696, vocabulary=65024,
    eps=1e-5, context=8192, eos=(2,), pad=0, dtype="float16", rotary=64,
)  # fmt: skip
TINY = replace(GLM3_6B, layers=2, hidden=128, heads=4, head_dim=32, inner=192, vocabulary=1024, rotary=16)
SHAPES = {"6b": GLM3_6B, "tiny": TINY}
KINDS = {"float16": torch.float16, "bfloat16": torch.bfloat16} | dict.fromkeys(
    ("int8", "int8 torch", "int4", "int4 torch"), torch.float16
)
PEERS = {"int8 torch": Int8, "int4 torch": Int4}  # kernels that kbqa would not choose
BATCHES, PROMPT, READ, CONTEXT, STEPS = (1, 8, 32), 128, 512, 2048, 20
STREAMS, TOKENS, DEADLINE = 20, 128, 120.0  # users at once, what each is written, seconds that each is given


@dataclass(frozen=True)
class Bench:
    """One device, and the shape of the model on it."""

    device: str
    a: Architecture
    graphs: bool
    speed: float  # of its memory, bytes a second

    @classmethod
    def on(cls, device: str, a: Architecture, graphs: bool) -> Bench:
        one = torch.empty(1 << (30 if device == "cuda" else 26), dtype=torch.uint8, device=device)
        copy = partial(torch.empty_like(one).copy_, one)
        return cls(device, a, graphs, 2 * one.nbytes / seconds(device, copy, STEPS))

    # --- the model ---------------------------------------------------------------------------------------------------

    def layer(self, linear: nn.Linear, kind: str, dtype: torch.dtype) -> nn.Module:
        """`linear`, which is on the meta device, with random weights."""
        weight = torch.randn(linear.out_features, linear.in_features, dtype=dtype, device=self.device) * 0.02
        bias = None if linear.bias is None else nn.Parameter(torch.zeros(len(weight), dtype=dtype, device=self.device))
        made: Any = linear
        if kind.startswith("int"):
            made = GroupedLinear(linear) if kind.startswith("int4") else QuantizedLinear(linear, 8)
            made.fill(weight)
        else:
            made.weight = nn.Parameter(weight)
        made.bias = bias
        return made.requires_grad_(False)

    def decoder(self, kind: str) -> tuple[Decoder, set[str]]:
        """The decoder, and the names of the kinds of layer in it."""
        dtype, kinds = KINDS[kind], set()
        with torch.device("meta"):
            decoder = Decoder(self.a)
        for parent in [module for module in decoder.modules() if any(module.children())]:
            for name, layer in list(parent.named_children()):
                if isinstance(layer, nn.Linear):
                    its = "plain" if name == "head" else kind
                    fast = fast_layer(self.layer(layer, its, dtype), its, dtype)
                    kinds.add(type(fast).__name__)
                    setattr(parent, name, fast)
                elif not any(layer.children()):
                    for part, tensor in list(layer.named_parameters()):
                        new = torch.randn(tensor.shape, dtype=dtype, device=self.device) * 0.02 + (tensor.ndim == 1)
                        setattr(layer, part, nn.Parameter(new, requires_grad=False))
        decoder.frequencies = decoder.frequencies.to(self.device)
        return decoder.eval(), kinds

    def off_by(self, kind: str) -> float:
        """How far the fast layer here is from float32 on the CPU, relative to the largest number."""
        dtype = KINDS[kind]
        layer: Any = self.layer(nn.Linear(self.a.hidden, self.a.hidden, device="meta", bias=False), kind, dtype)
        x = torch.randn(5, self.a.hidden, dtype=dtype, device=self.device)
        got = fast_layer(layer, kind, dtype)(x).float().cpu()
        layer, x = layer.cpu().float(), x.float().cpu()
        wanted = layer(x)
        return float((got - wanted).abs().max() / wanted.abs().max())

    # --- the runner --------------------------------------------------------------------------------------------------

    def prefill(self, runner: Runner) -> float:
        """Tokens a second."""
        return READ / seconds(self.device, lambda: runner.read(runner.begin(0, range(7, 7 + READ)), READ))

    def step(self, decoder: Decoder, batch: int) -> float:
        """Seconds of a step that writes `batch` tokens."""
        runner = Runner(decoder, batch, CONTEXT, self.graphs)
        sequences = [runner.begin(slot, range(7, 7 + PROMPT)) for slot in range(batch)]
        for sequence in sequences:
            sequence.filled = PROMPT
        return seconds(self.device, partial(runner.write, sequences, [11] * batch), STEPS)

    # --- the engine --------------------------------------------------------------------------------------------------

    def job(self, prompt: int, most: int, seed: int, deadline: float | None = None) -> Job:
        ids = [7 + (seed + at) % (self.a.vocabulary - 7) for at in range(prompt)]
        return Job(ids, Sampling(temperature=0.8, top_p=0.8, seed=seed), most, frozenset(), deadline=deadline)

    def streams(self, decoder: Decoder) -> str:
        """All of them at once, one after another in the engine's slots."""
        engine = Engine(decoder, slots=STREAMS, waiting=0, context=CONTEXT, graphs=self.graphs)
        start = time.monotonic()

        def follow(number: int) -> tuple[float, bool]:
            """(seconds to the first token, whether all came in time)"""
            first = 0.0
            try:
                for it in engine.write(self.job(PROMPT, TOKENS, number, start + DEADLINE)):
                    first = first or time.monotonic() - start
                    if isinstance(it, Ended):
                        return first, True
            except GeneratorError as error:
                print(f"stream {number}: {error}", file=sys.stderr)
            return first, False

        try:
            with ThreadPoolExecutor(STREAMS) as users:
                ended = list(users.map(follow, range(STREAMS)))
            took = time.monotonic() - start
        finally:
            engine.close()
        whole = sum(good for _, good in ended)
        last = max(first for first, _ in ended)
        return f"{whole} of {STREAMS} whole, first tokens within {last:.1f} s, {whole * TOKENS / took:.0f} tokens/s"

    def turns(self, decoder: Decoder, count: int) -> str:
        """Answers of one length, some of them given up in the middle."""
        engine, early = Engine(decoder, slots=4, context=CONTEXT, graphs=self.graphs), 0
        try:
            for number in range(count):
                with closing(engine.write(self.job(64, 16, number))) as ids:
                    for at, _ in enumerate(ids):
                        if number % 5 == 2 and at == 4:
                            break
                if number == min(20, count - 1):
                    early = self.held()
            return f"{(self.held() - early) / 2**20:+.1f} MiB since turn 20"
        finally:
            engine.close()

    def held(self) -> int:
        """Bytes of the device's memory that this process has; on a CPU its resident memory."""
        if self.device == "cuda":
            return torch.cuda.memory_reserved()
        import psutil

        return int(psutil.Process().memory_info().rss)

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() if self.device == "cuda" else self.held()


def fast_layer(layer: nn.Module, kind: str, dtype: torch.dtype) -> nn.Module:
    return PEERS[kind](layer) if kind in PEERS else faster(layer, dtype)


def seconds(device: str, work: Callable[[], object], count: int = 1) -> float:
    """Of one of `count` runs, the GPU's work included."""
    work()
    synchronize(device)
    start = time.perf_counter()
    for _ in range(count):
        work()
    synchronize(device)
    return (time.perf_counter() - start) / count


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(bench: Bench, kind: str, turns: int) -> tuple[str, list[str]]:
    """(a row of the table, what the engine did)"""
    if bench.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    off = bench.off_by(kind)
    decoder, kinds = bench.decoder(kind)
    read = sum(it.nbytes for it in weights(decoder)) - decoder.embedding.weight.nbytes
    prefill = bench.prefill(Runner(decoder, 1, CONTEXT))
    steps = {1: bench.step(decoder, 1)}
    peak = bench.peak()
    steps |= {batch: bench.step(decoder, batch) for batch in BATCHES[1:]}
    rates = " | ".join(f"{batch / took:.1f}" for batch, took in steps.items())
    layers = " ".join(sorted(kinds))
    floor = read / steps[1] / bench.speed
    row = f"| {kind} | {layers} | {off:.4f} | {prefill:.0f} | {rates} | {floor:.0%} | {peak / 1e9:.2f} |"
    done = [f"{kind}: {STREAMS} streams at once: {bench.streams(decoder)}"]
    if turns:
        done.append(f"{kind}: memory after {turns} turns: {bench.turns(decoder, turns)}")
    return row, done


def weights(module: nn.Module) -> list[torch.Tensor]:
    """Also those that layers of the fast path keep as plain attributes."""
    found: dict[int, torch.Tensor] = {}
    for part in module.modules():
        kept = [*vars(part).values(), *part._parameters.values(), *part._buffers.values()]
        kept += [it for several in kept if isinstance(several, tuple) for it in several]
        found |= {id(it): it for it in kept if isinstance(it, torch.Tensor)}
    return list(found.values())


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--shape", choices=SHAPES, default="6b")
    parser.add_argument("--kind", choices=KINDS, action="append", help="one or more rows of the table; else all")
    parser.add_argument("--graphs", action="store_true", help="replay steps as CUDA graphs")
    parser.add_argument("--turns", type=int, default=500, help="0: leave them out")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no CUDA GPU that this torch can use; for CPUs there is scripts/bench_glm.py")
    with torch.inference_mode():
        bench = Bench.on(options.device, SHAPES[options.shape], options.graphs)
        name = torch.cuda.get_device_name() if options.device == "cuda" else "CPU"
        print(f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}, memory {bench.speed / 1e9:.0f} GB/s\n")
        heads = " | ".join(f"decode x{batch}" for batch in BATCHES)
        print(f"| weights | layers | off by | prefill {READ} | {heads} | floor x1 | memory, GB |")
        print("| --- " * (6 + len(BATCHES)) + "|")
        told: list[str] = []
        for kind in options.kind or KINDS:
            row, done = measure(bench, kind, options.turns)
            print(row, flush=True)
            told += done
    print("", *told, sep="\n")


if __name__ == "__main__":
    main()
