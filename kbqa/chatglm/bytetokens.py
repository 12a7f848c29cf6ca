"""The tokenizers of GLM-4: tokens are bytes, by tiktoken's ranks or as the tokenizers library has them."""

from __future__ import annotations

import codecs
import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kbqa.chatglm.architecture import read_json
from kbqa.chatglm.tokens import (
    ROLES,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    TextStream,
    Tokenizer,
    need,
    sayable,
    unreadable,
)
from kbqa.errors import ModelError
from kbqa.importing import one_line

__all__ = ["GLM4_PATTERN", "byte_letters", "glm4_tokenizer"]

# What GLM-4 cuts text into before it merges bytes. The ranks file does not hold it.
GLM4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_GLM4_SPECIALS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLES)
_LONGEST_WHITE = 10_000  # the pattern's matcher runs out of stack in runs of blanks that are some hundred times longer


def glm4_tokenizer(folder: Path) -> Tokenizer:
    if not (folder / TOKENIZER_MODEL).exists() and (folder / TOKENIZER_JSON).exists():
        return _glm4_hf(folder)
    return _glm4(folder)


class _ByteTokens(Tokenizer):
    """Tokens are bytes. `gap` stands around control tokens in what is decoded, as the original tokenizer puts it."""

    family = "glm4"

    def __init__(
        self, encode: Callable[[str], list[int]], tokens: Mapping[int, bytes], specials: Mapping[str, int], gap: str
    ) -> None:
        self._encode = encode
        self.tokens = tokens
        self.specials = specials
        self.names = {token: name for name, token in specials.items()}
        self.gap = gap
        self.size = max(max(tokens), max(self.names)) + 1
        self.eos = self.pad = specials["<|endoftext|>"]

    def encode(self, text: str) -> list[int]:
        text = sayable(text)
        parts = re.split(rf"(\s{{{_LONGEST_WHITE}}})", text) if len(text) > _LONGEST_WHITE else [text]
        return [token for part in parts if part for token in self._encode(part)]

    def bytes_of(self, token: int) -> bytes:
        return self.tokens.get(token, b"")

    def stream(self) -> TextStream:
        return _Bytes(self)


class _Bytes:
    """Bytes to characters. A control token ends what stood before it, and so does an id that is nothing."""

    def __init__(self, tokenizer: _ByteTokens) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._said = False  # anything at all
        self._gap = ""  # what stands before the next text

    def push(self, token: int) -> str:
        content = self._tokenizer.tokens.get(token)
        if content is not None:
            return self._text(self._utf8.decode(content))
        before = self.end()
        if (name := self._tokenizer.names.get(token)) is None:
            return before
        before += self._tokenizer.gap if self._said else ""
        self._said, self._gap = True, self._tokenizer.gap
        return before + name

    def end(self) -> str:
        text = self._text(self._utf8.decode(b"", final=True))
        self._utf8.reset()
        return text

    def _text(self, text: str) -> str:
        if not text:
            return ""
        gap, self._gap, self._said = self._gap, "", True
        return gap + text


def _glm4(folder: Path) -> Tokenizer:
    path, config_path = folder / TOKENIZER_MODEL, folder / TOKENIZER_CONFIG
    ranks = _ranks(path)
    config = read_json(config_path)
    specials = _specials(config_path, config.get("added_tokens_decoder"))
    if not specials:
        names = config.get("additional_special_tokens") or _GLM4_SPECIALS
        specials = {str(name): len(ranks) + behind for behind, name in enumerate(names)}
    _check_specials(config_path, specials)
    if min(specials.values()) != len(ranks):
        raise ModelError(
            f"{path} holds {len(ranks)} tokens, but the control tokens of {config_path.name} begin at "
            f"{min(specials.values())}: one of the two is damaged, or of another model"
        )
    try:
        encoding = need("tiktoken").Encoding(path.name, pat_str=GLM4_PATTERN, mergeable_ranks=ranks, special_tokens={})
    except ValueError as error:
        raise ModelError(f"{path} is damaged: {one_line(error)}") from error
    tokens = {rank: token for token, rank in ranks.items()}
    tokenizer = _ByteTokens(encoding.encode_ordinary, tokens, specials, gap=" ")
    tokenizer.chat_template = _template(folder, config)
    return tokenizer


def _ranks(path: Path) -> dict[bytes, int]:
    """`base64 rank` a line; ranks count from 0, and every single byte must have one."""
    ranks: dict[bytes, int] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise unreadable(path, error) from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[b64decode(token, validate=True)] = int(rank)
        except ValueError as error:
            raise ModelError(
                f"{path}, line {number} is not a token and its rank: it is damaged, or no tokenizer of GLM-4"
            ) from error
    whole = len(ranks) == len(set(ranks.values())) and set(ranks.values()) == set(range(len(ranks)))
    if not whole or any(bytes([byte]) not in ranks for byte in range(256)):
        raise ModelError(f"{path} has gaps: it is damaged; download it again")
    return ranks


def _glm4_hf(folder: Path) -> Tokenizer:
    """The -hf layout. The library gets no control tokens, so that it cannot find any in what a user types."""
    path = folder / TOKENIZER_JSON
    content = read_json(path)
    added = content.pop("added_tokens", None) or []
    specials = _specials(path, {str(entry.get("id")): entry for entry in added if isinstance(entry, dict)})
    _check_specials(path, specials)
    model = content.get("model")
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(vocabulary, dict) or not vocabulary:
        raise ModelError(f"{path} holds no vocabulary: it is damaged, or no tokenizer of GLM-4")
    letters = byte_letters()
    try:
        tokens = {int(token): bytes(map(letters.__getitem__, text)) for text, token in vocabulary.items()}
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is no byte-level tokenizer, as GLM-4's is") from error
    encode = _library_encoder(path, content)
    tokenizer = _ByteTokens(encode, tokens, specials, gap="")
    config = folder / TOKENIZER_CONFIG
    tokenizer.chat_template = _template(folder, read_json(config) if config.exists() else {})
    return tokenizer


def _library_encoder(path: Path, content: dict[str, Any]) -> Callable[[str], list[int]]:
    library = need("tokenizers")
    for setting in ("truncation", "padding", "post_processor"):
        content[setting] = None
    content["added_tokens"] = []
    try:
        tokenizer = library.Tokenizer.from_str(json.dumps(content, ensure_ascii=False))
    except Exception as error:
        raise ModelError(f"{path} cannot be used: {one_line(error)}") from error

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    return encode


def _specials(path: Path, added: Any) -> dict[str, int]:
    """Control tokens as tokenizer_config.json and tokenizer.json list them."""
    try:
        return {str(entry["content"]): int(token) for token, entry in (added or {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{path}: its list of added tokens is damaged") from error


def _check_specials(path: Path, specials: Mapping[str, int]) -> None:
    if missing := {"<|endoftext|>", "[gMASK]", "<sop>", *ROLES} - specials.keys():
        raise ModelError(f"{path} has no {min(missing)}: it is damaged, or no tokenizer of GLM-4")


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Newer folders have the chat template in a file of its own."""
    template = config.get("chat_template")
    if isinstance(template, str):
        return template
    try:
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None


def byte_letters() -> dict[str, int]:
    """How byte-level vocabularies write bytes: printable Latin-1 as it is, the others as the letters from U+0100."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(0x100 + at): byte for at, byte in enumerate(others)}
