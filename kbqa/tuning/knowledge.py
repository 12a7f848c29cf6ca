"""Rows as they will be asked from a knowledge base: the question below the passages that it finds.

Who tunes on bare questions teaches a model to answer from memory, and its answers from documents suffer. So a row's
question becomes the very prompt that `kbqa ask` would make, other passages beside the right ones included, where the
passages bear out its answer. Where they do not, the row stays bare: to answer from passages that do not tell is what a
model must not learn. And some of the questions are asked once more without the passages that answer them; the answer is
the refusal then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from kbqa.chain import KnowledgeBase
from kbqa.errors import QuestionError
from kbqa.prompt import fill, fit
from kbqa.retriever import expand
from kbqa.support import Reply, check, says_something
from kbqa.tuning.data import Row
from kbqa.types import REFUSAL, Chunk

__all__ = ["Grounded", "grounded"]

BORNE_OUT = 0.5  # of an answer's sentences that say something: people's answers also say what no document does
REFUSALS = 0.1  # of the rows with passages: how many are asked once more without those that answer

Passage = tuple[str, tuple[Chunk, ...]]  # as it is shown, and the chunks it was made of


@dataclass(frozen=True, slots=True)
class Grounded:
    """`rows` in the order of those given, refusals behind the row that they were made of.

    `with_passages` and `refusals` count rows; `bare` are questions that stayed as they were.
    """

    rows: Sequence[Row]
    with_passages: int
    refusals: int
    bare: Sequence[str]


def grounded(
    rows: Sequence[Row],
    kb: KnowledgeBase,
    *,
    refusals: float = REFUSALS,
    max_characters: int | None = None,
    seed: int = 0,
    on_row: Callable[[Row], None] = lambda row: None,
) -> Grounded:
    """The rows with the passages of `kb`; about the share `refusals` of those once more, to be refused.

    `max_characters` is how long the passages of a row may be together; None: as long as when the base is asked.
    """
    chance = Random(seed)
    room = kb.prompt.max_characters if max_characters is None else max_characters
    made: list[Row] = []
    bare: list[str] = []
    asked = refused = 0
    for row in rows:
        on_row(row)
        found = _found(row, kb, room)
        shown = _fitted(found, room)
        if not _bears_out(row.response, shown):
            made.append(row)
            bare.append(row.prompt)
            continue
        asked += 1
        made.append(_below(shown, row, row.response, kb))
        others = _fitted([passage for passage in found if not _bears_out(row.response, [passage])], room)
        if chance.random() < refusals and others and not _bears_out(row.response, others):
            refused += 1
            made.append(_below(others, row, REFUSAL, kb))
    return Grounded(made, asked, refused, bare)


def _below(passages: Sequence[Passage], row: Row, response: str, kb: KnowledgeBase) -> Row:
    prompt = fill(row.prompt, [text for text, _ in passages], kb.prompt.template)
    return Row(prompt, response, row.history, "" if response == REFUSAL else row.teacher)


def _found(row: Row, kb: KnowledgeBase, room: int) -> list[Passage]:
    """What the base would show for the question; nothing where it would not ask a model.

    Where the best passage would not fit, what stands around the hits is left out first.
    """
    try:
        found = kb.retriever.search(row.prompt, history=row.history)
    except QuestionError:  # too long, or nothing but punctuation
        return []
    if found.confidence < kb.retrieval.min_confidence:
        return []
    passages = expand(found.hits, kb.store, kb.retrieval.neighbours)
    fits = not passages or len(passages[0][0]) <= room
    return passages if fits else expand(found.hits, kb.store, 0)


def _fitted(passages: Sequence[Passage], room: int) -> list[Passage]:
    """Those that fit; of one that was cut only what is left of it counts."""
    texts = fit([text for text, _ in passages], room)
    return [
        (text, chunks if text == whole else (Chunk("", 0, text, (0, len(text))),))
        for text, (whole, chunks) in zip(texts, passages, strict=False)
    ]


def _bears_out(response: str, passages: Sequence[Passage]) -> bool:
    """Whether enough of the answer's sentences stand in the passages."""
    chunks = [chunk for _, its in passages for chunk in its]
    reply = Reply()
    spans = [*reply.add(response), *reply.end()]
    claims = [claim for span in spans if says_something(claim := reply.claim(span))]
    supported = sum(check(claim, chunks).verdict == "supported" for claim in claims)
    return bool(claims) and supported >= BORNE_OUT * len(claims)
