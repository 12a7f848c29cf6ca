"""The documents of a FAISS folder that LangChain saved, without LangChain and without running what the folder says.

Such a folder holds NAME.faiss (vectors of an embedder that we do not have: not needed) and NAME.pkl, a pickle of
(docstore, {row: document id}). A pickle is a program. This one may name the few classes below and nothing else, and
what it builds with them are records that only hold what they were given.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from kbqa.documents import from_langchain
from kbqa.errors import DocumentError
from kbqa.types import Document

__all__ = ["import_langchain"]

MAX_BYTES = 1 << 30  # of one .pkl

_BROKEN = (  # what the pickle machine raises when its program makes no sense
    ArithmeticError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    pickle.UnpicklingError,
    RecursionError,
    TypeError,
    ValueError,
)


def import_langchain(folder: Path, max_bytes: int = MAX_BYTES) -> Iterator[Document]:
    """The documents of all indexes in `folder`, pieces of one source put together (see `from_langchain`).

    Raises DocumentError, before anything is handed out, when there is no index, or one is too large, damaged or
    names a class that no index needs.
    """
    pickles = sorted(path for path in folder.glob("*.pkl") if path.with_suffix(".faiss").is_file())
    if not pickles:
        raise DocumentError(
            f"{folder} holds no LangChain index: give the folder that FAISS.save_local wrote, "
            "with index.faiss and index.pkl in it",
            "unsupported",
        )
    return from_langchain(list(chain.from_iterable(_load(path, max_bytes) for path in pickles)))


def _load(path: Path, max_bytes: int) -> list[_DocumentRecord]:
    size = path.stat().st_size
    if size > max_bytes:
        raise DocumentError(f"{path} has {size:,} bytes; at most {max_bytes:,} are read", "too-large")
    data = path.read_bytes()
    try:
        _check_program(data)
        return list(_documents(_Unpickler(io.BytesIO(data)).load()))
    except _Refused as error:
        raise DocumentError(f"{path} was not opened: {error}", "malformed") from error
    except _BROKEN as error:
        raise DocumentError(f"{path} is damaged or not a LangChain index: {error}", "corrupt") from error


class _Refused(Exception):
    """The pickle asks for something that a LangChain index does not need."""


def _check_program(data: bytes) -> None:
    """Walk over the program without running it, so that its numbers cannot make the machine reserve memory."""
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name in _SLOT_OPCODES and isinstance(argument, int) and argument > len(data):
            raise _Refused(f"its memo has a slot {argument}, more than it has bytes")


_SLOT_OPCODES = {"PUT", "BINPUT", "LONG_BINPUT"}


# --- what may be built ----------------------------------------------------------------------------------------------


class _Record:
    """Keeps the state that a pickle gives it, ignores everything else."""

    state: Mapping[str, Any]

    def __new__(cls, *args: object, **named: object) -> _Record:
        record = super().__new__(cls)
        record.state = {}
        return record

    def __init__(self, *args: object, **named: object) -> None:
        """Takes what the original's __init__ takes."""

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, dict) else {}


class _DocstoreRecord(_Record):
    pass


class _DocumentRecord(_Record):
    """A document of any LangChain version; pydantic 1 and 2 both put the fields into `__dict__` of the state."""

    @property
    def _fields(self) -> Mapping[str, Any]:
        fields = self.state.get("__dict__", self.state)
        return fields if isinstance(fields, dict) else {}

    @property
    def page_content(self) -> Any:
        return self._fields.get("page_content")

    @property
    def metadata(self) -> Any:
        return self._fields.get("metadata", {})


class _PathText(_Record):
    """A pathlib path, as plain text."""

    def __new__(cls, *parts: object) -> str:  # type: ignore[misc]
        return "/".join(map(str, parts))


_DOCUMENT_MODULES = (  # where LangChain kept it, oldest first
    "langchain.schema",
    "langchain.schema.document",
    "langchain.docstore.document",
    "langchain_core.documents",
    "langchain_core.documents.base",
)
_DOCSTORE_MODULES = ("langchain.docstore.in_memory", "langchain_community.docstore.in_memory")
_ADMITTED: Mapping[tuple[str, str], Any] = {
    **{(module, "Document"): _DocumentRecord for module in _DOCUMENT_MODULES},
    **{(module, "InMemoryDocstore"): _DocstoreRecord for module in _DOCSTORE_MODULES},
    ("builtins", "set"): set,
    # values that loaders put into the metadata
    **{("pathlib", name): _PathText for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")},
    **{("datetime", name): _Record for name in ("date", "datetime", "timedelta", "timezone")},
    ("uuid", "UUID"): _Record,
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in _ADMITTED, imports nothing."""

    def find_class(self, module: str, name: str) -> Any:
        try:
            return _ADMITTED[module, name]
        except KeyError:
            raise _Refused(f"it names {module}.{name}, which no LangChain index needs") from None


def _documents(loaded: object) -> Iterable[_DocumentRecord]:
    """The documents in the order of the index's rows."""
    docstore, rows = loaded if isinstance(loaded, tuple) and len(loaded) == 2 else (None, None)
    if not isinstance(docstore, _DocstoreRecord) or not isinstance(rows, dict):
        raise ValueError("it does not hold a document store and its rows")
    stored = docstore.state["_dict"]
    for row in sorted(rows):
        document = stored[rows[row]]
        if not isinstance(document, _DocumentRecord):
            raise TypeError(f"row {row} is not a document")
        yield document
