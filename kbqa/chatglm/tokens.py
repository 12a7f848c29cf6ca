"""What the tokenizers of all families have in common.

`encode` adds no control token and never makes one: what a user types stays text. `decode` takes any id; control
tokens read as the original tokenizers write them, and an id that stands for nothing is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from kbqa.chatglm.architecture import Family
from kbqa.errors import ModelError
from kbqa.importing import one_line

__all__ = [
    "ASSISTANT",
    "BROKEN",
    "ROLES",
    "TOKENIZER_CONFIG",
    "TOKENIZER_JSON",
    "TOKENIZER_MODEL",
    "TextStream",
    "Tokenizer",
    "need",
    "sayable",
    "unreadable",
]

TOKENIZER_MODEL = "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

ASSISTANT = "<|assistant|>"
ROLES = ("<|system|>", "<|user|>", ASSISTANT, "<|observation|>")
BROKEN = "\ufffd"  # bytes that are no character


class TextStream(Protocol):
    """Ids one by one to text: only what is new, never half a character, at the same cost for each id.

    What `push` and, once, `end` return joins to `decode` of all the ids.
    """

    def push(self, token: int) -> str: ...

    def end(self) -> str: ...


class Tokenizer:
    """What the families share. `specials` are the control tokens by name."""

    family: Family
    specials: Mapping[str, int]
    size: int  # every id below it stands for something, or is kept free by the vocabulary itself
    eos: int  # ends a reply
    pad: int
    chat_template: str | None = None  # of tokenizer_config.json

    def encode(self, text: str) -> list[int]:
        """No control tokens: none added, none made of what stands in `text`."""
        raise NotImplementedError

    def bytes_of(self, token: int) -> bytes:
        """What a token adds to a text, in UTF-8; nothing for a control token, and for an id that is none."""
        raise NotImplementedError

    def stream(self) -> TextStream:
        raise NotImplementedError

    def decode(self, ids: Iterable[int]) -> str:
        stream = self.stream()
        return "".join(stream.push(int(token)) for token in ids) + stream.end()

    @property
    def prompt_specials(self) -> tuple[int, int]:
        """[gMASK] and sop: ChatGLM-6B has them behind the prompt, the others before it."""
        sop = "<sop>" if "<sop>" in self.specials else "sop"
        return self.specials["[gMASK]"], self.specials[sop]

    def prompt(self, ids: list[int]) -> list[int]:
        """A prompt as the model is fed it."""
        return [*ids, *self.prompt_specials] if self.family == "chatglm" else [*self.prompt_specials, *ids]


def need(module: str) -> Any:
    """An imported library of the extra; ModelError naming the extra where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(
            f'ChatGLM models need {module.partition(".")[0]} ({one_line(error)}): pip install "kbqa[glm]"'
        ) from error


def sayable(text: str) -> str:
    """Half a surrogate pair, as JSON can bring it, is no character, and no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def unreadable(path: Path, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError(f"{path.parent} has no {path.name}, the tokenizer: its download is incomplete")
    return ModelError(f"{path} cannot be read: {error}")
