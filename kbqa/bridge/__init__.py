"""The doors to LangChain: our parts as its objects, and its documents as ours.

`from_langchain` and `import_langchain` work without LangChain; the classes need it, and it is imported when the
first of them is named.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kbqa.bridge.faiss_folder import import_langchain
from kbqa.documents import from_langchain
from kbqa.errors import ConfigError

if TYPE_CHECKING:
    from kbqa.bridge.chat import KbqaChatModel, chat_model
    from kbqa.bridge.objects import KbqaEmbeddings, KbqaRetriever, open_retriever

__all__ = [
    "KbqaChatModel",
    "KbqaEmbeddings",
    "KbqaRetriever",
    "chat_model",
    "from_langchain",
    "import_langchain",
    "open_retriever",
]

_NEED_LANGCHAIN = {
    "KbqaChatModel": "chat",
    "chat_model": "chat",
    "KbqaEmbeddings": "objects",
    "KbqaRetriever": "objects",
    "open_retriever": "objects",
}


def __getattr__(name: str) -> Any:
    if name not in _NEED_LANGCHAIN:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import langchain_core  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"kbqa.bridge.{name} needs LangChain: pip install 'kbqa[langchain]'") from error
    return getattr(import_module(f"kbqa.bridge.{_NEED_LANGCHAIN[name]}"), name)
