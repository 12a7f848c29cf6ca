"""Other people's code: objects of classes that config.yaml names by their import path, and what exceptions mean."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from kbqa.errors import ConfigError

__all__ = ["is_failure", "is_out_of_memory", "make", "one_line"]


def make(section: str, import_path: str, options: Mapping[str, Any]) -> Any:
    """The class `import_path` made with `options`; ConfigError naming the setting of `section` that is wrong."""
    module, _, name = import_path.rpartition(".")
    try:
        cls = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{section}.import_path {import_path} cannot be imported ({one_line(error)}); it must be "
            "package.module.Class of an installed package (pip install 'kbqa[langchain]' brings LangChain itself)"
        ) from error
    try:
        return cls(**options)
    except Exception as error:  # the class is the user's choice, and so is what it raises
        raise ConfigError(f"{section}.options do not make a {import_path}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    """What a foreign exception says, fit for one of ours; its class where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def is_failure(error: BaseException) -> bool:
    """Whether the work failed, rather than being broken off: libraries written in Rust do not raise an Exception."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch, or who builds on it, says that memory ran out: each device has a word of its own for it."""
    if isinstance(error, MemoryError):
        return True
    said = r"out of memory|not enough memory|(can't|cannot) allocate memory|ALLOC_FAILED"
    return isinstance(error, RuntimeError | OSError) and re.search(said, str(error), re.IGNORECASE) is not None
