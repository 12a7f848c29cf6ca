"""How well a model answers rows that it was not tuned on: greedily, scored against the answers that are wanted.

What a model writes and what is wanted are compared in the model's own spelling: ChatGLM-6B's vocabulary folds
full-width punctuation, for example, and its replies unfold it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import isfinite
from pathlib import Path
from statistics import fmean
from typing import Any

from kbqa.chatglm.model import ChatGLM
from kbqa.chatglm.passport import read_passport
from kbqa.chatglm.replies import process_response
from kbqa.errors import ConfigError
from kbqa.tuning.checks import check
from kbqa.tuning.data import Row
from kbqa.tuning.guard import WEIGHTS, Forgetting, Held, standing
from kbqa.tuning.metrics import Scores, mean, score
from kbqa.tuning.preprocess import Format, Limits
from kbqa.tuning.speaker import Said, Speaker

__all__ = ["BASE", "Candidate", "Evaluation", "Scored", "checkpoints", "compare", "evaluate", "write_scored"]

BASE = "base"


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is measured under `name`; `folder` is None for the untuned base."""

    name: str
    folder: Path | None
    speaker: Speaker


@dataclass(frozen=True, slots=True)
class Scored:
    """A row, what was said to it, and how near that is to `wanted`: the row's response in the model's spelling."""

    row: Row
    said: Said
    wanted: str
    scores: Scores
    loss: float

    def as_json(self) -> dict[str, Any]:
        return {
            "content": self.row.prompt,
            **({"history": [list(turn) for turn in self.row.history]} if self.row.history else {}),
            "labels": self.wanted,
            "predict": self.said.text,
            **asdict(self.scores),
            "loss": self.loss if isfinite(self.loss) else None,
            "tokens": self.said.tokens,
            "cut_off": self.said.cut_off,
            **({"error": self.said.error} if self.said.error else {}),
        }


@dataclass(frozen=True, slots=True)
class Evaluation:
    """All of one model. `long_prompts` were cut before they were asked, `long_answers` cannot be said in full."""

    name: str
    folder: Path | None
    scored: Sequence[Scored]
    long_prompts: int
    long_answers: int
    seconds: float
    forgetting: Forgetting | None = None

    @property
    def scores(self) -> Scores:
        return mean([it.scores for it in self.scored])

    @property
    def loss(self) -> float:
        return fmean(it.loss for it in self.scored)

    @property
    def failed(self) -> int:
        return sum(bool(it.said.error) for it in self.scored)

    @property
    def cut_off(self) -> int:
        return sum(it.said.cut_off for it in self.scored)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "path": None if self.folder is None else str(self.folder),
            "rows": len(self.scored),
            **asdict(self.scores),
            "loss": round(self.loss, 6) if isfinite(self.loss) else None,
            "long_prompts": self.long_prompts,
            "long_answers": self.long_answers,
            "cut_off": self.cut_off,
            "failed": self.failed,
            "seconds": round(self.seconds, 1),
            "forgetting": None if self.forgetting is None else self.forgetting.as_json(),
        }


def evaluate(
    candidate: Candidate,
    rows: Sequence[Row],
    limits: Limits,
    at_once: int = 8,
    on_row: Callable[[Scored], None] = lambda scored: None,
) -> Evaluation:
    """Ask all rows and score the answers, of `limits.max_target_length` tokens at most; `on_row` gets each in turn."""
    if not rows:
        raise ConfigError("there is no row to measure with")
    speaker = candidate.speaker
    lengths = check(rows, (), speaker.model.tokenizer, limits)
    start = time.perf_counter()
    scored = []
    for it in _scored(speaker, rows, limits, at_once):
        scored.append(it)
        on_row(it)
    seconds = time.perf_counter() - start
    return Evaluation(candidate.name, candidate.folder, scored, lengths.prompts.over, lengths.responses.over, seconds)


def _scored(speaker: Speaker, rows: Sequence[Row], limits: Limits, at_once: int) -> Iterator[Scored]:
    prompts = [speaker.asked(row.prompt, limits, row.history) for row in rows]
    for row, said in zip(rows, speaker.replies(prompts, limits.max_target_length, at_once), strict=True):
        wanted = spelled(speaker, row.response)
        yield Scored(row, said, wanted, score(said.text, wanted), speaker.loss(row, limits))


def spelled(speaker: Speaker, text: str) -> str:
    """A text as it would come back if the model said it."""
    tokenizer = speaker.model.tokenizer
    return str(process_response(speaker.model.family, tokenizer.decode(tokenizer.encode(text))))


def checkpoints(path: Path) -> list[Path]:
    """The folder itself if it holds weights, else the checkpoint-N folders of a training in it, in their order.

    ConfigError when it is neither.
    """
    if not path.is_dir():
        raise ConfigError(f"there is no folder {path}")
    if any((path / name).is_file() for name in WEIGHTS):
        return [path]
    found = [it for it in path.glob("checkpoint-*") if any((it / name).is_file() for name in WEIGHTS)]
    if not found:
        raise ConfigError(f"{path} holds neither a prefix or an adapter nor checkpoint-N folders with one")
    return sorted(found, key=lambda it: (len(it.name), it.name))


def write_scored(path: Path) -> Callable[[Scored], None]:
    """What writes each row to the file `path` as soon as it is there."""

    def add(scored: Scored) -> None:
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(json.dumps(scored.as_json(), ensure_ascii=False) + "\n")

    return add


def compare(
    model: ChatGLM,
    folders: Sequence[Path],
    rows: Sequence[Row],
    limits: Limits,
    what: Held | None = None,
    at_once: int = 8,
    base: bool = True,
    on_row: Callable[[Candidate, Scored], None] = lambda candidate, scored: None,
) -> Iterator[Evaluation]:
    """The untuned base (unless not wanted), then each checkpoint, on the same rows.

    With `what`, also what each forgot. All are loaded before the first is asked: ModelError for one of another model.
    """
    plain = Candidate(BASE, None, Speaker(model))
    tuned = [_loaded(model, name, folder) for name, folder in zip(_names(folders), folders, strict=True)]
    before = standing(plain.speaker, what) if what is not None and tuned else None
    for candidate in [plain, *tuned] if base or not tuned else tuned:
        found = evaluate(candidate, rows, limits, at_once, partial(on_row, candidate))
        if what is not None and before is not None and candidate.folder is not None:
            found = replace(found, forgetting=Forgetting(before, standing(candidate.speaker, what)))
        yield found


def _loaded(model: ChatGLM, name: str, folder: Path) -> Candidate:
    model.load_adapter(name, folder)
    passport = read_passport(folder)
    format: Format = "input-output" if passport and passport.train_format == "input-output" else "multi-turn"
    return Candidate(name, folder, Speaker(model, name, format))


def _names(folders: Sequence[Path]) -> list[str]:
    """As short as they can be told apart."""
    paths = [folder.resolve() for folder in folders]
    for parts in range(1, 64):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len({BASE, *names}) > len(names):
            break
    return names
