"""Model folders for sentence-transformers, found on this machine: nothing is ever downloaded, no remote code is run.

Knows nothing about what a model is for; `setting` is where config.yaml names it, for the messages.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

from kbqa.errors import ConfigError

__all__ = ["Dtype", "find_model", "loading", "prepare_torch", "stay_offline"]

Dtype = Literal["float32", "bfloat16", "float16"]


def stay_offline() -> None:
    """Must come before the libraries are imported."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def find_model(model: str, setting: str) -> Path:
    """The folder `model`, or where a model of that name lies in the local Hugging Face cache."""
    folder = Path(model)
    if folder.is_dir():
        if not any(folder.glob("*.json")):
            raise ConfigError(f"{setting}.model {model} holds no model: config.json and the weights are missing")
        return folder
    missing = ConfigError(
        f"{setting}.model {model} is neither a folder nor a model in the local Hugging Face cache; kbqa downloads "
        "nothing by itself: put the model's files into a folder and name that"
    )
    if folder.is_absolute() or model.count("/") > 1 or model.startswith("."):
        raise missing
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ModuleNotFoundError as error:
        raise _missing_extra(setting) from error
    try:
        return Path(snapshot_download(model, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError) as error:
        raise missing from error


def prepare_torch(device: str | None, setting: str) -> None:
    """ConfigError when the libraries or the device are not there."""
    try:
        import sentence_transformers  # noqa: F401
        import torch
        from transformers.utils.logging import disable_progress_bar
    except ModuleNotFoundError as error:
        raise _missing_extra(setting) from error
    if device is not None and device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"{setting}.device is {device}, but torch finds no CUDA device here; leave it out or say cpu")
    # Else each loading of weights draws one on standard error, even where that is no terminal.
    disable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def loading(folder: Path, setting: str) -> Iterator[None]:
    """What a library raises about the files becomes a ConfigError of one line."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, RuntimeError, EOFError, UnpicklingError, SafetensorError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(f"{setting}.model {folder} cannot be loaded by sentence-transformers: {reason}") from error


def _missing_extra(setting: str) -> ConfigError:
    return ConfigError(f"{setting}.model needs more packages; pip install 'kbqa[st]'")
