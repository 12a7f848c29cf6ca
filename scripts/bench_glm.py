"""How fast the ChatGLM engine is on this CPU, beside what its memory allows and beside llama.cpp, in one run.

    python scripts/bench_glm.py                           # the 0.5B shape and the 6B shape, all precisions
    python scripts/bench_glm.py --shape 6B --kind int4    # one of them
    python scripts/bench_glm.py --threads 1               # by processor time: for a machine that others use too

Weights are random and made in memory, except for llama.cpp (pip install llama-cpp-python gguf), which reads a file of
the same shape: `--gguf DIR` says where it may be written (10 GB), `--llama PYTHON` which interpreter has the packages.
Each row of the table is a process of its own, and the best of some steps counts. "floor" is the share of the memory's
speed in it: bytes of weights read for each token, times tokens a second. The memory's speed is measured before the rows
and after them, by summing up 2 GB on as many threads; the best counts for all rows and stands below the table. With one
thread, seconds are those that the processor spent on it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

NAMES = ("layers", "hidden", "heads", "groups", "head_dim", "inner", "vocabulary")
SHAPES: dict[str, dict[str, int]] = {
    "0.5B": dict(zip(NAMES, (24, 1024, 16, 2, 64, 4096, 65024), strict=True)),
    "6B": dict(zip(NAMES, (28, 4096, 32, 2, 128, 13696, 65024), strict=True)),  # ChatGLM3-6B
}
KINDS = {"0.5B": ("float32", "bfloat16", "int8", "int4"), "6B": ("bfloat16", "int8", "int4")}
LLAMA = ("Q8_0", "Q4_0")
PROMPT, CONTEXT, BATCH = 128, 1024, 8
STEPS = {"0.5B": 40, "6B": 12}


def decoder_of(shape: str, kind: str) -> Any:
    """A decoder with random weights, its layers on the fast path."""
    import torch
    from torch import nn

    from kbqa.chatglm.architecture import Architecture
    from kbqa.chatglm.decoder import Decoder
    from kbqa.chatglm.kernels import faster
    from kbqa.chatglm.quantization import GroupedLinear, QuantizedLinear

    sizes = SHAPES[shape]
    a = Architecture(
        "chatglm3", "chatglm", **sizes, eps=1e-5, context=8192, eos=(2,), pad=0, dtype="float16",
        rotary=sizes["head_dim"] // 2,
    )  # fmt: skip
    dtype = torch.float32 if kind == "float32" else torch.bfloat16
    noise = torch.randn(1 << 24, dtype=torch.float32).mul_(0.02)

    def random(like: torch.Tensor, kind: torch.dtype) -> torch.Tensor:
        source = noise.mul(4000).to(torch.int8) if kind == torch.int8 else noise.to(kind)
        return source.repeat(like.numel() // len(source) + 1)[: like.numel()].view(like.shape).clone()

    with torch.device("meta"):
        decoder = Decoder(a)
    for parent in [module for module in decoder.modules() if any(module.children())]:
        for name, layer in list(parent.named_children()):
            if isinstance(layer, nn.Linear) and kind.startswith("int"):
                head = name == "head"
                made = GroupedLinear(layer) if kind == "int4" and not head else QuantizedLinear(layer, 8)
                made.weight = random(made.weight, torch.int8)
                for part in ("scale", "zero"):
                    if hasattr(made, part):
                        setattr(made, part, torch.full_like(getattr(made, part), 2e-4, device="cpu"))
                if layer.bias is not None:
                    made.bias = nn.Parameter(torch.zeros(layer.out_features, dtype=dtype), requires_grad=False)
                setattr(parent, name, faster(made, dtype))
            elif not any(layer.children()):
                for part, tensor in list(layer.named_parameters()):
                    setattr(layer, part, nn.Parameter(random(tensor, dtype), requires_grad=False))
                setattr(parent, name, faster(layer, dtype) if dtype == torch.bfloat16 else layer)
    return decoder.eval()


def weight_bytes(shape: str, kind: str) -> float:
    """What is read to write one token, in bytes; llama.cpp's head has 8 bits in both of its kinds, as ours."""
    s = SHAPES[shape]
    qkv = (s["heads"] + 2 * s["groups"]) * s["head_dim"]
    inside = s["layers"] * s["hidden"] * (qkv + s["heads"] * s["head_dim"] + 3 * s["inner"])
    each = {"float32": 4, "bfloat16": 2, "int8": 1, "int4": 0.625, "Q8_0": 34 / 32, "Q4_0": 18 / 32}[kind]
    return inside * each + s["hidden"] * s["vocabulary"] * (each if each >= 2 else {"Q4_0": 34 / 32}.get(kind, 1))


def clock(threads: int) -> Callable[[], float]:
    return time.thread_time if threads == 1 else time.perf_counter


def seconds(work: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    work()
    return now() - start


def fastest(step: Callable[[], object], count: int, threads: int) -> float:
    """Seconds of the fastest step."""
    step()
    return min(seconds(step, clock(threads)) for _ in range(count))


def memory_speed(threads: int) -> float:
    """Bytes a second, at best, from a buffer that no cache holds, in huge pages where NumPy gets them."""
    import numpy
    import torch

    torch.set_num_threads(threads)
    ones = torch.from_numpy(numpy.ones(1 << 29, dtype=numpy.float32))
    return ones.nbytes / fastest(ones.sum, 15, threads)


def rss() -> tuple[float, float]:
    """GB now and at most."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return tuple(int(lines[name].split()[0]) / 1e6 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def ours(shape: str, kind: str, threads: int) -> dict[str, Any]:
    import torch

    from kbqa.chatglm.runner import Runner

    torch.set_num_threads(threads)
    decoder, now = decoder_of(shape, kind), clock(threads)
    memory, result = rss(), {}
    for batch in (1, BATCH):
        runner = Runner(decoder, batch, CONTEXT)
        sequences = [runner.begin(slot, range(7, 7 + PROMPT)) for slot in range(batch)]
        if batch == 1:
            reads = [seconds(partial(runner.read, runner.begin(0, range(7, 7 + PROMPT))), now) for _ in range(2)]
            result["prefill"] = PROMPT / min(reads)
        for sequence in sequences:
            sequence.filled = PROMPT  # what is in the cache does not change how long a step takes
        result[f"decode{batch}"] = batch / fastest(
            partial(runner.write, sequences, [11] * batch), STEPS[shape], threads
        )
    return result | {"rss": memory[0], "peak": memory[1]}


def llama(shape: str, kind: str, threads: int, folder: Path) -> dict[str, Any]:
    from llama_cpp import Llama

    path = folder / f"{shape}-{kind}.gguf"
    if not path.is_file():
        write_gguf(path, shape, kind)
    model = Llama(
        str(path), n_ctx=CONTEXT, n_threads=threads, n_threads_batch=threads, n_batch=512, use_mmap=False, verbose=False
    )
    now = clock(threads)
    prompt = list(range(7, 7 + PROMPT))
    model.eval(prompt)
    model.reset()
    prefill = PROMPT / seconds(lambda: model.eval(prompt), now)
    decode = 1 / fastest(lambda: model.eval([11]), STEPS[shape], threads)
    return {"prefill": prefill, "decode1": decode, "rss": rss()[0]}


def write_gguf(path: Path, shape: str, kind: str) -> None:
    """The same sizes as a llama model: the same products, in parts where ours are joined."""
    import gguf
    import numpy

    s = SHAPES[shape]
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_context_length(8192)
    writer.add_embedding_length(s["hidden"])
    writer.add_block_count(s["layers"])
    writer.add_feed_forward_length(s["inner"])
    writer.add_head_count(s["heads"])
    writer.add_head_count_kv(s["groups"])
    writer.add_rope_dimension_count(s["head_dim"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(s["vocabulary"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{it}>" for it in range(s["vocabulary"])])
    writer.add_token_scores([0.0] * s["vocabulary"])
    writer.add_token_types([1] * s["vocabulary"])
    random = numpy.random.default_rng(0)

    def matrix(name: str, rows: int, columns: int, kind: str) -> None:
        payload = 32 if kind == "Q8_0" else 16
        row = random.integers(0, 256, (columns // 32, 2 + payload), dtype=numpy.uint8)
        row[:, :2] = numpy.frombuffer(numpy.float16(2e-4).tobytes(), dtype=numpy.uint8)
        data = numpy.broadcast_to(row.reshape(1, -1), (rows, row.size))
        writer.add_tensor(name, numpy.ascontiguousarray(data), raw_dtype=gguf.GGMLQuantizationType[kind])

    def norm(name: str) -> None:
        writer.add_tensor(name, numpy.ones(s["hidden"], dtype=numpy.float32))

    matrix("token_embd.weight", s["vocabulary"], s["hidden"], kind)
    norm("output_norm.weight")
    matrix("output.weight", s["vocabulary"], s["hidden"], "Q8_0")
    for layer in range(s["layers"]):
        block = f"blk.{layer}."
        norm(block + "attn_norm.weight")
        norm(block + "ffn_norm.weight")
        matrix(block + "attn_q.weight", s["heads"] * s["head_dim"], s["hidden"], kind)
        matrix(block + "attn_k.weight", s["groups"] * s["head_dim"], s["hidden"], kind)
        matrix(block + "attn_v.weight", s["groups"] * s["head_dim"], s["hidden"], kind)
        matrix(block + "attn_output.weight", s["hidden"], s["heads"] * s["head_dim"], kind)
        matrix(block + "ffn_gate.weight", s["inner"], s["hidden"], kind)
        matrix(block + "ffn_up.weight", s["inner"], s["hidden"], kind)
        matrix(block + "ffn_down.weight", s["hidden"], s["inner"], kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, action="append")
    parser.add_argument("--kind", choices=[*KINDS["0.5B"], *LLAMA], action="append")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--gguf", type=Path, help="where files for llama.cpp may be written")
    parser.add_argument("--llama", default=sys.executable, help="a Python that has llama-cpp-python and gguf")
    parser.add_argument("--one", choices=("memory", "row"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one == "memory":
        print(memory_speed(options.threads))
        return
    if options.one:
        (shape,), (kind,) = options.shape, options.kind
        work = partial(llama, folder=options.gguf) if kind in LLAMA else ours
        print(json.dumps(work(shape, kind, options.threads)))
        return
    rows = []
    speed = float(run(sys.executable, "memory", options))
    for shape in options.shape or SHAPES:
        for kind in options.kind or (*KINDS[shape], *(LLAMA if options.gguf else ())):
            python = options.llama if kind in LLAMA else sys.executable
            told = run(python, "row", options, "--shape", shape, "--kind", kind)
            print(f"{shape} {kind}: {told}", file=sys.stderr, flush=True)
            rows.append((shape, kind, json.loads(told) if told else None))
    speed = max(speed, float(run(sys.executable, "memory", options)))
    table(rows, speed)


def run(python: str, what: str, options: argparse.Namespace, *more: str) -> str:
    """The last line that a process of its own writes; nothing when it fails."""
    command = [python, __file__, "--one", what, "--threads", str(options.threads), *more]
    if options.gguf:
        command += ["--gguf", str(options.gguf)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    return "" if done.returncode else done.stdout.splitlines()[-1]


def table(rows: list[tuple[str, str, dict[str, Any] | None]], speed: float) -> None:
    print(f"| shape | weights | prefill | decode | floor | decode x{BATCH} | RSS GB | peak GB |")
    print("| --- " * 8 + "|")
    for shape, kind, result in rows:
        if result is None:
            print(f"| {shape} | {kind} | failed |")
            continue
        result["floor"] = weight_bytes(shape, kind) * result["decode1"] / speed
        cells = {
            "prefill": ".1f",
            "decode1": ".2f",
            "floor": ".0%",
            f"decode{BATCH}": ".2f",
            "rss": ".1f",
            "peak": ".1f",
        }
        shown = [format(result[name], form) if name in result else "" for name, form in cells.items()]
        print(f"| {shape} | {'llama.cpp ' * (kind in LLAMA)}{kind} | {' | '.join(shown)} |")
    print(f"\nMemory: {speed / 1e9:.1f} GB/s")


if __name__ == "__main__":
    main()
