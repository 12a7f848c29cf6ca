"""A full-size ChatGLM with random weights, laid out as published: how it loads, and what memory that takes.

    python scripts/bench_glm_load.py chatglm3 /tmp/chatglm3 --bits 4 --bits 0

Writes the checkpoint (12.5 GB, 7 shards) unless DIR has it; it stays there. Each row is a process of its own. "Peak" is
memory of the process's own at its highest, over what the weights take in the end: pages of the shard being read come
on top and can be taken away at any time.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

PROMPT, ANSWER = 128, 8  # tokens
SHARDS = 7
CONFIGS = {  # of the published folders
    "chatglm": {
        "model_type": "chatglm",
        "hidden_size": 4096,
        "inner_hidden_size": 16384,
        "layernorm_epsilon": 1e-05,
        "max_sequence_length": 2048,
        "num_attention_heads": 32,
        "num_layers": 28,
        "position_encoding_2d": True,
        "vocab_size": 130528,
        "bos_token_id": 130004,
        "eos_token_id": 130005,
        "gmask_token_id": 130001,
        "mask_token_id": 130000,
        "pad_token_id": 3,
        "torch_dtype": "float16",
    },
    "chatglm3": {
        "_name_or_path": "THUDM/chatglm3-6b",
        "model_type": "chatglm",
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_residual_connection_post_layernorm": False,
        "ffn_hidden_size": 13696,
        "hidden_size": 4096,
        "kv_channels": 128,
        "layernorm_epsilon": 1e-05,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "num_attention_heads": 32,
        "num_layers": 28,
        "original_rope": True,
        "padded_vocab_size": 65024,
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": 8192,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float16",
    },
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("family", choices=CONFIGS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--bits", type=int, choices=(0, 4, 8), action="append", help="0: bfloat16; may be repeated")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one is not None:
        measure(given.folder, given.family, given.one, given.threads)
        return 0
    if not (given.folder / "config.json").exists():
        make(given.folder, given.family)
    print("| weights | load, s | of it processor | memory, GB | peak / memory | prefill 128, s | decode, tokens/s |")
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    for bits in given.bits or [4, 0]:
        command = [sys.executable, __file__, given.family, given.folder, "--threads", given.threads, "--one", bits]
        if code := subprocess.run([str(part) for part in command]).returncode:
            print(f"{bits or 16} bits: ended with {code} (-9: killed, most likely for lack of memory)")
    return 0


def make(folder: Path, family: str) -> None:
    """Random weights, one shard in memory at a time; all of one noise, whose values do not matter here."""
    import torch

    from kbqa.chatglm.architecture import read_architecture
    from kbqa.chatglm.checkpoint import published_names
    from kbqa.chatglm.decoder import Decoder

    if shutil.disk_usage(folder.parent).free < 14 << 30:
        sys.exit(f"{folder.parent} has not the 14 GB that are needed")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json.partial").write_text(json.dumps(CONFIGS[family]))
    shutil.copy(folder / "config.json.partial", folder / "config.json")
    a = read_architecture(folder)
    (folder / "config.json").unlink()  # it comes last: without it the folder is not whole
    names = published_names(a)
    with torch.device("meta"):
        parameters = dict(Decoder(a).named_parameters())
    noise = (torch.randn(1 << 24) * 0.02).half()
    per_shard = sum(p.numel() for p in parameters.values()) // SHARDS + 1
    shard: dict[str, torch.Tensor] = {}
    where: dict[str, str] = {}
    held, number = 0, 1
    for name, parameter in parameters.items():
        module, _, part = name.rpartition(".")
        shape, count = parameter.shape, parameter.numel()
        ones = torch.ones(shape, dtype=torch.float16)
        shard[f"{names[module]}.{part}"] = (
            ones if "norm" in name and part == "weight" else noise.repeat(count // len(noise) + 1)[:count].view(shape)
        )
        held += count
        if held >= per_shard * number or name == list(parameters)[-1]:
            file = f"pytorch_model-{number:05}-of-{SHARDS:05}.bin"
            torch.save({key: tensor.clone() for key, tensor in shard.items()}, folder / file)
            where |= dict.fromkeys(shard, file)
            shard, number = {}, number + 1
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    (folder / "config.json.partial").rename(folder / "config.json")


def measure(folder: Path, family: str, bits: int, threads: int) -> None:
    import torch

    from kbqa.chatglm.architecture import read_architecture
    from kbqa.chatglm.checkpoint import load_decoder
    from kbqa.chatglm.runner import Runner

    torch.set_num_threads(threads)
    before = own_memory()
    peak = Peak()
    start, processor = time.perf_counter(), time.process_time()
    a = read_architecture(folder)
    decoder = load_decoder(folder, a, torch.bfloat16, "cpu", bits or None, exact=False)
    loaded, used = time.perf_counter() - start, time.process_time() - processor
    highest, held = peak.stop() - before, own_memory() - before
    runner = Runner(decoder, 1, PROMPT + ANSWER)
    ids = [*range(5, 3 + PROMPT), *((a.gmask, a.sop) if a.is_v1 else (3, 4))]
    sequence = runner.begin(0, ids)
    start = time.perf_counter()
    logits = None
    while logits is None:
        logits = runner.read(sequence)
    prefill = time.perf_counter() - start
    steps = []
    for _ in range(ANSWER):
        start = time.perf_counter()
        logits = runner.write([sequence], [int(logits.flatten().argmax())])
        steps.append(time.perf_counter() - start)
    assert bool(torch.isfinite(logits).all())
    print(
        f"| {f'int{bits}' if bits else 'bfloat16'} | {loaded:.0f} | {used:.0f} | {held:.2f} | {highest / held:.2f} "
        f"| {prefill:.1f} | {1 / sorted(steps)[len(steps) // 2]:.2f} |",
        flush=True,
    )


def own_memory() -> float:
    """GB that no file stands behind (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1e6


class Peak:
    """The highest `own_memory` since it was made, looked at twenty times a second."""

    def __init__(self) -> None:
        self._highest, self._ended = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self._highest = max(self._highest, own_memory())

    def stop(self) -> float:
        self._ended.set()
        self._thread.join()
        return max(self._highest, own_memory())


if __name__ == "__main__":
    sys.exit(main())
