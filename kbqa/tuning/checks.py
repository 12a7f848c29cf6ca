"""What to know of rows before a model is tuned on them: how long they are, what contradicts itself, what leaks."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kbqa.tuning.data import Row, plain

if TYPE_CHECKING:
    from kbqa.chatglm.tokenizers import Tokenizer
    from kbqa.tuning.preprocess import Limits

__all__ = ["Checks", "Conflict", "Lengths", "check", "without_duplicates"]

BARS = 10  # of a histogram


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long texts are, shortest first; `limit` is where they are cut, None where that is not known."""

    values: Sequence[int]
    limit: int | None = None

    @property
    def over(self) -> int:
        """How many are cut."""
        return 0 if self.limit is None else sum(value > self.limit for value in self.values)

    def at(self, share: float) -> int:
        """As long as that is the given share of them at most."""
        return self.values[min(int(share * len(self.values)), len(self.values) - 1)] if self.values else 0

    def bars(self) -> list[tuple[int, int]]:
        """(up to which length, how many) of each bar of a histogram, from the shortest on, all equally wide."""
        if not self.values:
            return []
        first, last = self.values[0], self.values[-1]
        step = -(-(last - first + 1) // BARS)
        counts = Counter((value - first) // step for value in self.values)
        return [(first + (bar + 1) * step - 1, counts[bar]) for bar in range((last - first) // step + 1)]

    def as_json(self) -> dict[str, Any]:
        figures = {"min": self.at(0), "median": self.at(0.5), "p90": self.at(0.9), "max": self.at(1)}
        return {**figures, "limit": self.limit, "over": self.over, "histogram": [list(bar) for bar in self.bars()]}


@dataclass(frozen=True, slots=True)
class Conflict:
    """A question to which different answers are given."""

    prompt: str
    responses: Sequence[str]


@dataclass(frozen=True, slots=True)
class Checks:
    """`unit` is what lengths count; `leaked` are questions of the dev rows that are trained on too."""

    rows: int
    dev_rows: int
    unit: str
    prompts: Lengths
    responses: Lengths
    duplicates: int
    conflicts: Sequence[Conflict]
    leaked: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "dev_rows": self.dev_rows,
            "unit": self.unit,
            "prompts": self.prompts.as_json(),
            "responses": self.responses.as_json(),
            "duplicates": self.duplicates,
            "conflicts": [{"prompt": it.prompt, "responses": list(it.responses)} for it in self.conflicts],
            "leaked": list(self.leaked),
        }


def check(
    train: Sequence[Row], dev: Sequence[Row] = (), tokenizer: Tokenizer | None = None, limits: Limits | None = None
) -> Checks:
    """Lengths are tokens with a `tokenizer`, against `limits` as training cuts; else characters, against nothing."""
    rows = [*train, *dev]
    counted = _tokens(rows, tokenizer) if tokenizer is not None else _characters(rows)
    source, target = (limits.max_source_length, limits.max_target_length) if tokenizer and limits else (None, None)
    asked = {_asked(row) for row in train}
    return Checks(
        rows=len(train),
        dev_rows=len(dev),
        unit="characters" if tokenizer is None else "tokens",
        prompts=Lengths(sorted(prompt for prompt, _ in counted), source),
        responses=Lengths(sorted(response for _, response in counted), target),
        duplicates=len(train) - len(without_duplicates(train)),
        conflicts=_conflicts(rows),
        leaked=list(dict.fromkeys(row.prompt for row in dev if _asked(row) in asked)),
    )


def without_duplicates(rows: Iterable[Row]) -> list[Row]:
    """The first of those that say the same, whatever wrote them."""
    found: dict[tuple[object, ...], Row] = {}
    for row in rows:
        found.setdefault((row.prompt, row.response, row.history), row)
    return list(found.values())


def _asked(row: Row) -> tuple[str, ...]:
    return (*(plain(said) for turn in row.history for said in turn), plain(row.prompt))


def _conflicts(rows: Sequence[Row]) -> list[Conflict]:
    answers: Mapping[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        answers[_asked(row)].setdefault(plain(row.response), row)
    found = [list(its.values()) for its in answers.values() if len(its) > 1]
    return [Conflict(its[0].prompt, [row.response for row in its]) for its in found]


def _characters(rows: Sequence[Row]) -> list[tuple[int, int]]:
    said = (sum(len(text) for turn in row.history for text in turn) for row in rows)
    return [(len(row.prompt) + before, len(row.response)) for row, before in zip(rows, said, strict=True)]


def _tokens(rows: Sequence[Row], tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """(prompt, response), what training adds included where it counts it against its limits (see `preprocess`)."""
    from kbqa.chatglm.chat import chat_ids, message_ids
    from kbqa.chatglm.messages import WITH_ROLES, ChatMessage

    first = tokenizer.family == "chatglm"

    def response(text: str) -> int:
        if tokenizer.family in WITH_ROLES:
            return len(message_ids(tokenizer, ChatMessage("assistant", text))) - 1
        return len(tokenizer.encode(text)) + 2 * first

    return [(len(chat_ids(tokenizer, row.prompt, row.history)) - first, response(row.response)) for row in rows]
