"""The tokenizers of ChatGLM-6B, ChatGLM2-6B and ChatGLM3-6B: sentencepiece models."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from kbqa.chatglm.architecture import Family, read_json
from kbqa.chatglm.tokens import (
    BROKEN,
    ROLES,
    TOKENIZER_CONFIG,
    TOKENIZER_MODEL,
    TextStream,
    Tokenizer,
    need,
    sayable,
    unreadable,
)
from kbqa.errors import ModelError
from kbqa.importing import one_line

__all__ = ["ChatGLM2Tokenizer", "ChatGLMTokenizer", "sentencepiece_model"]

ICE_TEXT = "ice_text.model"
_SPACE = "▁"  # a blank, in a piece
_BYTES = {f"<0x{byte:02X}>": byte for byte in range(256)}

# What an id of a sentencepiece vocabulary is to the reader: text, a byte of a character, or "" (a control token).
_Surface = str | int


class _SentencePieces(Tokenizer):
    """A sentencepiece model. `_surface` says what one id means; `_Pieces` joins them."""

    def __init__(self, path: Path) -> None:
        self._model = sentencepiece_model(path)
        self._texts = _piece_texts(path, self._model)
        self._pieces = len(self._texts)
        self._surfaces: dict[int, _Surface] = {}
        self.one_blank, self.all_blanks = _leading_blanks(self._model, self._texts)

    def surface(self, token: int) -> _Surface:
        """Looked up once: asking the model for all of 130,000 would cost more than loading it."""
        found = self._surfaces.get(token)
        if found is None:
            found = self._surfaces[token] = self._surface(token)
        return found

    def bytes_of(self, token: int) -> bytes:
        surface = "" if token in self.specials.values() else self.surface(token)
        return bytes([surface]) if isinstance(surface, int) else surface.replace(_SPACE, " ").encode()

    def stream(self) -> TextStream:
        return _Pieces(self)

    def _surface(self, token: int) -> _Surface:
        raise NotImplementedError

    def controls(self) -> dict[str, int]:
        """The model's own control pieces, <unk> among them."""
        every = list(range(self._pieces))
        kinds = zip(every, self._model.is_control(every), self._model.is_unknown(every), strict=True)
        return {self._texts[at]: at for at, control, unknown in kinds if control or unknown}

    def _piece(self, at: int) -> _Surface:
        """What the model's own piece `at` means."""
        if self._model.is_byte(at):
            return _BYTES.get(self._texts[at], "")
        return "" if self._model.is_control(at) else self._texts[at]

    def _ids(self, text: str) -> list[int]:
        return list(self._model.encode(sayable(text), out_type=int))


class ChatGLMTokenizer(_SentencePieces):
    """ChatGLM-6B. In its first releases the ids of 20,000 images came first; config.json tells."""

    family = "chatglm"
    LONGEST_RUN = 80  # of blanks that have one token

    def __init__(self, folder: Path) -> None:
        path = folder / ICE_TEXT
        super().__init__(path)
        self._images = _image_tokens(folder, self._model.piece_to_id("<sop>"))
        self.specials = {name: at + self._images for name, at in self.controls().items()}
        if missing := {"[MASK]", "[gMASK]", "<sop>", "<eop>", "<pad>"} - self.specials.keys():
            raise ModelError(f"{path} has no {min(missing)}: it is damaged, or not the tokenizer of ChatGLM-6B")
        self.size = self._pieces + self._images
        self.eos = self.specials["<eop>"]
        self.pad = self.specials["<pad>"]

    def encode(self, text: str) -> list[int]:
        text = text.replace("\n", "<n>").replace("\t", "<|tab|>")
        text = re.sub(f" {{2,{self.LONGEST_RUN}}}", lambda run: f"<|blank_{len(run[0])}|>", text)
        return [at + self._images for at in self._ids(text)] if self._images else self._ids(text)

    def _surface(self, token: int) -> _Surface:
        at = token - self._images
        if not 0 <= at < self._pieces:
            return ""
        if self._model.is_unknown(at):
            return str(self._model.decode([at]))
        piece = self._piece(at)
        if isinstance(piece, str) and (run := re.fullmatch(r"<\|blank_(\d+)\|>", piece)):
            return " " * int(run[1])
        return {"<n>": "\n", "<|tab|>": "\t"}.get(piece, piece) if isinstance(piece, str) else piece


class ChatGLM2Tokenizer(_SentencePieces):
    """ChatGLM2-6B and ChatGLM3-6B. The latter has roles, and shows its control tokens."""

    def __init__(self, folder: Path, family: Family) -> None:
        path = folder / TOKENIZER_MODEL
        super().__init__(path)
        self.family = family
        self.eos = int(self._model.eos_id())
        self.pad = int(self._model.unk_id())
        if self.eos < 0 or self._model.piece_to_id("<sop>") != self.pad:
            raise ModelError(f"{path} is damaged, or not the tokenizer of ChatGLM2-6B and ChatGLM3-6B")
        names = ("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", *(ROLES if family == "chatglm3" else ()))
        behind = {name: self._pieces + at for at, name in enumerate(names)}
        self.specials = self.controls() | behind
        self._shown = {token: name for name, token in behind.items()} if family == "chatglm3" else {}
        self.size = self._pieces + len(names)

    def encode(self, text: str) -> list[int]:
        return self._ids(text)

    def _surface(self, token: int) -> _Surface:
        if 0 <= token < self._pieces:
            return "" if self._model.is_unknown(token) else self._piece(token)
        return self._shown.get(token, "")


class _Pieces:
    """Sentencepiece's own rules of joining, one id at a time.

    A blank at the very start is not part of the text, and bytes are characters once they are complete.
    """

    def __init__(self, tokenizer: _SentencePieces) -> None:
        self._tokenizer = tokenizer
        self._pad = tokenizer.pad if tokenizer.family == "chatglm" else None  # its tokenizer takes them out first
        self._start = True
        self._bytes = bytearray()

    def push(self, token: int) -> str:
        if token == self._pad:
            return ""
        surface = self._tokenizer.surface(token)
        if isinstance(surface, int):
            self._bytes.append(surface)
            before = _characters(self._bytes)
            self._start = self._start and not before
            return before
        before = self.end()
        self._start = self._start and not before
        if self._start and surface.startswith(_SPACE):
            surface = surface[1:] if self._tokenizer.one_blank or self._tokenizer.all_blanks else surface
            self._start = self._tokenizer.all_blanks
        self._start = self._start and not surface
        return before + surface.replace(_SPACE, " ")

    def end(self) -> str:
        return _characters(self._bytes, whole=True) if self._bytes else ""


def _characters(held: bytearray, whole: bool = False) -> str:
    """The characters that are complete, taken off the front of `held`; with `whole`, all of it.

    As in sentencepiece, every single byte that belongs to no character is one U+FFFD.
    """
    text = ""
    while held:
        lead = held[0]
        length = 1 if lead < 0xC2 or lead > 0xF4 else 2 if lead < 0xE0 else 3 if lead < 0xF0 else 4
        part = bytes(held[:length])
        if len(part) < length and not whole and all(0x80 <= byte < 0xC0 for byte in part[1:]):
            break
        try:
            text += part.decode()
            del held[:length]
        except UnicodeDecodeError:
            text += BROKEN
            del held[0]
    return text


def sentencepiece_model(path: Path) -> Any:
    library = need("sentencepiece")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    model = library.SentencePieceProcessor()
    try:
        model.load_from_serialized_proto(content)
        pieces = model.get_piece_size()
    except Exception as error:
        raise ModelError(f"{path} is no sentencepiece model, or is damaged: {one_line(error)}") from error
    if not pieces:
        raise ModelError(f"{path} holds no pieces: it is damaged; download it again")
    return model


def _piece_texts(path: Path, model: Any) -> list[str]:
    try:
        return list(model.id_to_piece(list(range(model.get_piece_size()))))
    except UnicodeDecodeError as error:
        raise ModelError(f"{path} is damaged: {one_line(error)}") from error


def _leading_blanks(model: Any, texts: list[str]) -> tuple[bool, bool]:
    """Whether decoding takes one blank off the start of a text, and whether it takes all: seen by trying.

    The model's normalizer decides it, which the library does not show.
    """
    marked = next((piece for piece in texts if piece.startswith(_SPACE) and piece.strip(_SPACE)), None)
    if marked is None:
        return True, False
    bare = model.piece_to_id(_SPACE)
    one = not str(model.decode([model.piece_to_id(marked)])).startswith(" ")
    every = not model.is_unknown(bare) and not str(model.decode([bare, model.piece_to_id(marked)])).startswith(" ")
    return one, one and every


def _image_tokens(folder: Path, sop: int) -> int:
    """How many ids of images stand before those of the pieces.

    config.json is believed first, since the model's positions depend on its ids.
    """
    config, own = folder / "config.json", folder / TOKENIZER_CONFIG
    if config.exists() and isinstance(start := read_json(config).get("bos_token_id"), int):
        if start < sop:
            raise ModelError(f"{folder / ICE_TEXT} has <sop> at {sop}, {config} at {start}: they belong to two models")
        return start - sop
    number = read_json(own).get("num_image_tokens", 0) if own.exists() else 0
    if not isinstance(number, int) or number < 0:
        raise ModelError(f"{own}: num_image_tokens is {number!r}, not a number of tokens")
    return number
