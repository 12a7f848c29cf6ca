"""Text to ids and back, for the tokenizer files of each family.

    ChatGLM-6B            ice_text.model    sentencepiece; line breaks, tabs and runs of blanks have tokens of their own
    ChatGLM2, ChatGLM3    tokenizer.model   sentencepiece; the control tokens stand behind its pieces
    GLM-4                 tokenizer.model   tiktoken ranks; the control tokens stand in tokenizer_config.json
    GLM-4 (-hf)           tokenizer.json    byte-level BPE of the tokenizers library

`encode` adds no control token and never makes one: what a user types stays text. `decode` takes any id; control
tokens read as the original tokenizers write them, and an id that stands for nothing is nothing.
"""

from __future__ import annotations

import codecs
import json
import re
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from kbqa.chatglm.architecture import Family, read_json
from kbqa.errors import ModelError
from kbqa.importing import one_line

__all__ = ["TextStream", "Tokenizer", "byte_letters", "load_tokenizer", "need", "sentencepiece_model"]

ICE_TEXT = "ice_text.model"
TOKENIZER_MODEL = "tokenizer.model"
TOKENIZER_JSON = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"

ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
# What GLM-4 cuts text into before it merges bytes. The ranks file does not hold it.
GLM4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BROKEN = "\ufffd"


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


def load_tokenizer(folder: str | Path, family: Family) -> Tokenizer:
    """The tokenizer in a model's folder. ModelError when a file is missing, damaged or another family's."""
    folder = Path(folder)
    match family:
        case "chatglm":
            return _ChatGLM(folder)
        case "chatglm2" | "chatglm3":
            return _ChatGLM2(folder, family)
    if not (folder / TOKENIZER_MODEL).exists() and (folder / TOKENIZER_JSON).exists():
        return _glm4_hf(folder)
    return _glm4(folder)


def need(module: str) -> Any:
    """An imported library of the extra; ModelError naming the extra where it is not installed."""
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(
            f'ChatGLM models need {module.partition(".")[0]} ({one_line(error)}): pip install "kbqa[glm]"'
        ) from error


def _sayable(text: str) -> str:
    """Half a surrogate pair, as JSON can bring it, is no character, and no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


# --- sentencepiece: ChatGLM-6B, ChatGLM2-6B, ChatGLM3-6B --------------------------------------------------------------

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
        return list(self._model.encode(_sayable(text), out_type=int))


class _ChatGLM(_SentencePieces):
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


class _ChatGLM2(_SentencePieces):
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
        raise _unreadable(path, error) from error
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


# --- bytes: GLM-4 -----------------------------------------------------------------------------------------------------

_GLM4_SPECIALS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLES)
_LONGEST_WHITE = 10_000  # the pattern's matcher runs out of stack in runs of blanks that are some hundred times longer


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
        text = _sayable(text)
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
        raise _unreadable(path, error) from error
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


def _unreadable(path: Path, error: OSError) -> ModelError:
    if isinstance(error, FileNotFoundError):
        return ModelError(f"{path.parent} has no {path.name}, the tokenizer: its download is incomplete")
    return ModelError(f"{path} cannot be read: {error}")
