"""How long a conversation waits for each answer: with what the cache still holds, and with all of it read again.

    python scripts/bench_conversation.py                  # the 6B shape in 4 bits, random weights made in memory
    python scripts/bench_conversation.py --shape 0.5B

Each turn sends the whole conversation once more, as chat clients do: QUESTION new tokens behind what was asked and
answered before. Seconds to the first token, through the engine as a server uses it, one user, in turns: once as the
same user goes on, once as somebody nobody has seen before.
"""

from __future__ import annotations

import argparse
import time

import torch
from bench_glm import SHAPES, decoder_of

from kbqa.chatglm.engine import Ended, Engine, Job
from kbqa.chatglm.sampling import Sampling

TURNS, QUESTION, ANSWER = 5, 150, 50  # tokens


def answer(engine: Engine, ids: list[int], owner: str, most: int) -> tuple[float, list[int]]:
    """(seconds to the first token, what was written)"""
    start, first, written = time.perf_counter(), 0.0, []
    for it in engine.write(Job(ids, Sampling(), most, frozenset(), owner=owner)):
        first = first or time.perf_counter() - start
        if not isinstance(it, Ended):
            written.append(it)
    return first, written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="6B")
    parser.add_argument("--kind", default="int4", help="float32, bfloat16, int8 or int4")
    options = parser.parse_args()
    torch.set_num_threads(2)
    with torch.inference_mode():
        engine = Engine(decoder_of(options.shape, options.kind), context=4096)
        answer(engine, list(range(7, 7 + QUESTION)), "nobody", 2)  # memory is touched, code is warm
        print(f"{options.shape}, {options.kind}, torch {torch.__version__}, 2 threads\n")
        print("| turn | tokens sent | all read again, s | only what is new, s | ratio |\n" + "| --- " * 5 + "|")
        ids: list[int] = []
        for turn in range(TURNS):
            ids += [7 + (turn * 31 + at * 17) % 60000 for at in range(QUESTION)]
            again, _ = answer(engine, ids, f"stranger {turn}", 1)
            new, written = answer(engine, ids, "the same", ANSWER)
            print(f"| {turn + 1} | {len(ids)} | {again:.2f} | {new:.2f} | {again / new:.1f} |", flush=True)
            ids += written
        engine.close()


if __name__ == "__main__":
    main()
