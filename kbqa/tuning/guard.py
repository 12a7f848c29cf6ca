"""What a model forgot while it was tuned: how it takes general text, and fixed questions, before and after.

Two kinds of measure. Perplexity on held text, Chinese and English, that no tuning is about. And the share of fixed
questions that are answered right: general ones, and ones with passages, some of which do not answer. A file of the
user's own adds to both. The drop of each is in [0, 1), so that one limit holds for all.

`kbqa tune evaluate` keeps what it found beside the checkpoint, where `kbqa tune promote` looks at it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import file_digest, sha256
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbqa.analyzer import fold
from kbqa.errors import ConfigError
from kbqa.prompt import fill

if TYPE_CHECKING:
    from kbqa.tuning.speaker import Speaker

__all__ = [
    "EVALUATION",
    "MAX_DROP",
    "WEIGHTS",
    "Answered",
    "Forgetting",
    "Held",
    "Question",
    "Standing",
    "check_forgetting",
    "forgetting",
    "held",
    "read_evaluation",
    "standing",
    "weights_digest",
    "write_evaluation",
]

WEIGHTS = (  # what a checkpoint can be stored in
    "pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.safetensors",
    "adapter_model.safetensors",
    "adapter_model.bin",
)
EVALUATION = "evaluation.json"  # beside the weights of a checkpoint
FORMAT = 1
MAX_DROP = 0.2  # perplexity a quarter higher, or one question in five more that is answered wrong
MOST = 96  # tokens of an answer: a sentence or two before the word that is looked for
OWN = "own"


@dataclass(frozen=True, slots=True)
class Question:
    """One of `answers` must stand in the reply; `passages` are shown with the question."""

    group: str
    text: str
    answers: tuple[str, ...]
    passages: tuple[str, ...] = ()

    @property
    def prompt(self) -> str:
        return fill(self.text, self.passages) if self.passages else self.text


@dataclass(frozen=True, slots=True)
class Held:
    """What no model is tuned on: texts by group, and questions."""

    texts: Mapping[str, Sequence[str]]
    questions: Sequence[Question]


@dataclass(frozen=True, slots=True)
class Answered:
    group: str
    question: str
    reply: str
    right: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """How one model does: perplexity by group of texts, and what it answered."""

    perplexity: Mapping[str, float]
    answered: Sequence[Answered]

    def right(self, group: str) -> float:
        """The share of the group's questions that are answered right."""
        verdicts = [it.right for it in self.answered if it.group == group]
        return sum(verdicts) / len(verdicts) if verdicts else 0.0

    @property
    def groups(self) -> list[str]:
        return list(dict.fromkeys(it.group for it in self.answered))


@dataclass(frozen=True, slots=True)
class Forgetting:
    """The base and the tuned model on the same texts and questions."""

    base: Standing
    tuned: Standing
    drops: Mapping[str, float] = field(init=False)  # measure -> what was lost: 0 nothing (or gained), towards 1 all

    def __post_init__(self) -> None:
        drops = {
            f"perplexity on {group} text": max(0.0, 1 - before / self.tuned.perplexity[group])
            for group, before in self.base.perplexity.items()
        }
        for group in self.base.groups:
            drops[f"{group} questions"] = max(0.0, self.base.right(group) - self.tuned.right(group))
        object.__setattr__(self, "drops", drops)

    @property
    def worst(self) -> str:
        return max(self.drops, key=lambda name: self.drops[name])

    @property
    def drop(self) -> float:
        return self.drops[self.worst]

    def told(self) -> str:
        """The worst of it in one line."""
        kind, _, group = self.worst.partition(" on ")
        if group:
            group = group.removesuffix(" text")
            change = f"{self.base.perplexity[group]:.1f} → {self.tuned.perplexity[group]:.1f}"
        else:
            group = kind.removesuffix(" questions")
            change = f"{self.base.right(group):.0%} → {self.tuned.right(group):.0%} right"
        return f"{self.worst}: {change}, a drop of {self.drop:.2f}"

    def as_json(self) -> dict[str, Any]:
        return {
            "drop": round(self.drop, 4),
            "worst": self.worst,
            "drops": {name: round(drop, 4) for name, drop in self.drops.items()},
            "base": asdict(self.base),
            "tuned": asdict(self.tuned),
        }

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Forgetting:
        sides = (fields[side] for side in ("base", "tuned"))
        return cls(*(Standing(it["perplexity"], tuple(Answered(**told) for told in it["answered"])) for it in sides))


# --- measuring -------------------------------------------------------------------------------------------------------


def forgetting(base: Speaker, tuned: Speaker, what: Held | None = None) -> Forgetting:
    """Ask both the same; `what` is `held()` unless given."""
    what = what or held()
    return Forgetting(standing(base, what), standing(tuned, what))


def standing(speaker: Speaker, what: Held) -> Standing:
    """How one model does on the texts and questions."""
    perplexity = {group: round(speaker.perplexity(texts), 4) for group, texts in what.texts.items()}
    said = speaker.replies([speaker.asked(question.prompt) for question in what.questions], MOST)
    answered = [
        Answered(question.group, question.text, reply.text, _is_right(reply.text, question.answers))
        for question, reply in zip(what.questions, said, strict=True)
    ]
    return Standing(perplexity, tuple(answered))


def _is_right(reply: str, answers: Iterable[str]) -> bool:
    return any(fold(answer) in fold(reply) for answer in answers)


def held(own: Path | None = None) -> Held:
    """The texts and questions that come with kbqa, and those of the user's file (see `_own`)."""
    folder = files("kbqa") / "data" / "guard"
    texts: dict[str, Sequence[str]] = {
        group: _paragraphs((folder / f"{group}.txt").read_text(encoding="utf-8")) for group in ("chinese", "english")
    }
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [_question(json.loads(line)) for line in lines]
    if own is not None:
        its = _own(own)
        texts |= its.texts
        questions += its.questions
    return Held(texts, tuple(questions))


def _own(path: Path) -> Held:
    """A text file, paragraphs parted by empty lines; or JSON lines with `text`, or `question`, `answers`, `passages`.

    ConfigError names the line that is neither.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8") from error
    texts, questions = [], []
    if path.suffix != ".jsonl":
        texts = _paragraphs(content)
    else:
        for number, line in enumerate(content.splitlines(), 1):
            try:
                fields = json.loads(line) if line.strip() else {"text": ""}
                if "text" in fields:
                    texts.append(str(fields["text"]))
                else:
                    questions.append(_question({**fields, "group": OWN}))
            except (ValueError, KeyError, TypeError) as error:
                raise ConfigError(
                    f"{path}, line {number}: not an object with text, or with question and answers (a list)"
                ) from error
        texts = [text for text in texts if text.strip()]
    if not texts and not questions:
        raise ConfigError(f"{path} holds neither text nor questions")
    return Held({OWN: texts} if texts else {}, questions)


def _paragraphs(content: str) -> list[str]:
    return [paragraph.strip() for paragraph in content.split("\n\n") if paragraph.strip()]


def _question(fields: Mapping[str, Any]) -> Question:
    answers = fields["answers"]
    if not isinstance(answers, list) or not answers:
        raise TypeError("answers must be a list")
    passages = tuple(map(str, fields.get("passages", ())))
    return Question(fields["group"], str(fields["question"]), tuple(map(str, answers)), passages)


# --- keeping ---------------------------------------------------------------------------------------------------------


def weights_digest(checkpoint: Path) -> str:
    """Of the files with the checkpoint's weights, and of nothing else beside them; "" when there are none."""
    found = [path for name in WEIGHTS if (path := checkpoint / name).is_file()]
    whole = sha256()
    for path in found:
        with path.open("rb") as file:
            whole.update(file_digest(file, "sha256").digest())
    return whole.hexdigest() if found else ""


def write_evaluation(checkpoint: Path, report: Mapping[str, Any]) -> None:
    """Keep a report (its field `forgetting` is `Forgetting.as_json()`) beside the checkpoint that it is about."""
    fields = {"format": FORMAT, "weights": weights_digest(checkpoint), **report}
    path = checkpoint / EVALUATION
    partial = path.with_name(f"{path.name}.partial")
    try:
        partial.write_text(json.dumps(fields, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def read_evaluation(checkpoint: Path) -> dict[str, Any]:
    """What `kbqa tune evaluate` kept beside a checkpoint.

    ConfigError when there is nothing, when it cannot be read, and when the weights have changed since.
    """
    path = checkpoint / EVALUATION
    remedy = f"`kbqa tune evaluate BASE {checkpoint} --data dev.jsonl` measures it"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        Forgetting.from_json(fields["forgetting"])
        weights, format = fields["weights"], fields["format"]
    except FileNotFoundError as error:
        raise ConfigError(f"nobody knows yet what {checkpoint} forgot: it has no {EVALUATION}; {remedy}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read; {remedy} anew") from error
    if format != FORMAT:
        raise ConfigError(f"{path} is of another version of kbqa; {remedy} anew")
    if weights != weights_digest(checkpoint):
        raise ConfigError(f"{path} is of other weights than {checkpoint} holds now; {remedy} anew")
    return dict(fields)


def check_forgetting(checkpoint: Path, max_drop: float = MAX_DROP) -> Forgetting:
    """What the checkpoint forgot, as it was measured. ConfigError when it never was, and when it forgot too much."""
    found = Forgetting.from_json(read_evaluation(checkpoint)["forgetting"])
    if found.drop > max_drop:
        raise ConfigError(f"{checkpoint} forgot more than the {max_drop:.2f} allowed: {found.told()}")
    return found
