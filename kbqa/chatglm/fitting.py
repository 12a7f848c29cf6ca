"""Fits a tiny model to the facts of data/tiny.txt, so that it answers from a passage instead of saying anything.

Each step shows it passages of a few facts with numbers and names drawn anew, and asks for one of them; the answer is
the sentence as it stands in the passage. Some questions are not answered by their passage, and get the refusal. A
minute of this teaches to find the sentence and to say it; copying any number takes longer, so there are only a few.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from kbqa.chatglm.chat import prompt_ids
from kbqa.chatglm.decoder import Alone, Decoder
from kbqa.chatglm.facts import NAMES, NUMBERS, facts
from kbqa.chatglm.messages import conversation
from kbqa.chatglm.places import context_length, positions, visible
from kbqa.chatglm.tokenizers import Tokenizer

__all__ = ["fit"]

BATCH = 24
RATE = 3e-3
PROMPT = "已知信息:\n{passage}\n根据已知信息回答问题:\n{question}"
REFUSAL = "根据已知信息无法回答该问题"
GREETING = ("你好", "你好！我是一个很小的模型。")
NOT_COUNTED = -100


def fit(decoder: Decoder, tokenizer: Tokenizer, steps: int, seed: int) -> None:
    """Trains all weights with AdamW, from small ones on: those of a random tiny model are too peaked to start from."""
    _small(decoder, seed)
    draw = random.Random(seed)
    decoder.train().requires_grad_(True)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.01)
    warm = max(steps // 10, 1)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min((step + 1) / warm, max(0.02, (steps - step) / (steps - warm + 1)))
        loss = _loss(decoder, [_row(tokenizer, *_question(draw)) for _ in range(BATCH)])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
    decoder.eval().requires_grad_(False)


@torch.no_grad()
def _small(decoder: Decoder, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear) and name != "head":
            module.weight.normal_(0, module.in_features**-0.5, generator=draw)
            if module.bias is not None:
                module.bias.zero_()
    assert isinstance(decoder.embedding, nn.Embedding)
    decoder.embedding.weight.normal_(0, 0.05, generator=draw)
    assert isinstance(decoder.head, nn.Linear)
    if decoder.head.weight is not decoder.embedding.weight:
        decoder.head.weight.normal_(0, 0.02, generator=draw)


def _question(draw: random.Random) -> tuple[str, str]:
    """What is asked, and the answer that is to be learnt."""
    if draw.random() < 0.04:
        return GREETING
    chosen = draw.sample(facts(), draw.randint(1, 3))
    name = draw.choice(NAMES)
    told = [sentence.replace("#", draw.choice(NUMBERS)).replace("@", name) for _, sentence in chosen]
    asked = draw.randrange(len(told))
    question = name + "的" + chosen[asked][0] if "@" in chosen[asked][1] else chosen[asked][0]
    answer = told[asked]
    if draw.random() < 0.1:
        told.pop(asked)
        answer = REFUSAL
    return PROMPT.format(passage="".join(told), question=question), answer


def _row(tokenizer: Tokenizer, question: str, answer: str) -> tuple[list[int], int]:
    """The ids of prompt and answer, and how many of them are the prompt's."""
    prompt = prompt_ids(tokenizer, conversation(question))
    match tokenizer.family:
        case "chatglm3":  # each line of a message is encoded on its own
            written = [*tokenizer.encode("\n"), *tokenizer.encode(answer)]
        case "glm4":
            written = tokenizer.encode(f"\n{answer}")
        case _:
            written = tokenizer.encode(answer)
    return [*prompt, *written, tokenizer.eos], len(prompt)


def _loss(decoder: Decoder, rows: list[tuple[list[int], int]]) -> Tensor:
    a = decoder.architecture
    tokens = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), tokens, dtype=torch.long)
    labels = torch.full_like(ids, NOT_COUNTED)
    placed = torch.zeros(len(rows), 2 if a.is_v1 else 1, tokens, dtype=torch.long)
    for at, (row, prompt) in enumerate(rows):
        ids[at, : len(row)] = torch.tensor(row)
        labels[at, prompt : len(row)] = ids[at, prompt : len(row)]
        placed[at, :, : len(row)] = positions(a, row)
    contexts = torch.tensor([context_length(a, row) for row, _ in rows])
    seen = visible(torch.zeros(len(rows), dtype=torch.long), tokens, tokens, contexts)
    logits = decoder(ids, placed, Alone(), seen)
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=NOT_COUNTED)
