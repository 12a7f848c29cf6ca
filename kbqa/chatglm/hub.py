"""Models by name: a folder, or an id that the clients of Hugging Face or ModelScope have downloaded.

Finding never touches the network, and needs neither client. Downloading is done by the client of the place itself, and
only when somebody asks for it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

from kbqa.chatglm.architecture import read_json
from kbqa.errors import ModelError
from kbqa.importing import one_line

__all__ = ["Source", "download", "find_model"]

Source = Literal["modelscope", "huggingface"]
ID = re.compile(r"(\w[\w.-]*)/(\w[\w.-]*?)(?:@([\w./-]+))?")  # organisation/name, perhaps @revision
ENDPOINTS: Mapping[Source, str] = {"modelscope": "MODELSCOPE_ENDPOINT", "huggingface": "HF_ENDPOINT"}
TOKENS: Mapping[Source, str] = {"modelscope": "MODELSCOPE_API_TOKEN", "huggingface": "HF_TOKEN"}
UNREACHABLE = {"ConnectionError", "NetworkError", "TransportError", "TimeoutError", "OfflineModeIsEnabled", "gaierror"}
# What a model consists of beside its weights. Its code is left where it is: nothing here runs it.
ABOUT = ["*.json", "*.model", "*.jinja", "*.txt", "*.md", "*LICENSE*"]


def find_model(name: str | Path) -> Path:
    """The folder `name`, or that of the id `name`, perhaps with @revision, in the caches. ModelError when neither."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise ModelError(f"{folder} is a file; name the folder that it lies in")
    parts = ID.fullmatch(str(name))
    if parts is None:
        raise ModelError(f"there is no model folder {folder}")
    organisation, model, revision = parts.groups()
    for place in (*_huggingface(organisation, model, revision), *_modelscope(organisation, model, revision)):
        if (place / "config.json").is_file():
            return place
    raise ModelError(
        f"there is no model folder {folder}, and no model of that name has been downloaded; if it is an id of "
        f"ModelScope or Hugging Face, `kbqa model download {organisation}/{model} DIR` fetches it"
    )


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def _huggingface(organisation: str, model: str, revision: str | None) -> Iterator[Path]:
    """Where the Hugging Face client keeps it: by commit, with the names of revisions beside."""
    home = Path(os.environ.get("HF_HOME") or _cache() / "huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub").expanduser()
    yield from _snapshots(hub / f"models--{organisation}--{model}", revision, "main")


def _snapshots(kept: Path, revision: str | None, newest: str) -> Iterator[Path]:
    named = kept / "refs" / (revision or newest)
    if named.is_file():
        yield kept / "snapshots" / named.read_text(encoding="utf-8").strip()
    if revision:
        yield kept / "snapshots" / revision
    elif (kept / "snapshots").is_dir():
        yield from sorted((kept / "snapshots").iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)


def _modelscope(organisation: str, model: str, revision: str | None) -> Iterator[Path]:
    """Where the ModelScope client keeps it: its versions have put it in different places, and write dots as `___`."""
    home = Path(os.environ.get("MODELSCOPE_CACHE") or "~/.cache/modelscope").expanduser()
    for place in (home / "hub", home):
        yield from _snapshots(place / f"models--{organisation}--{model}", revision, "master")
    for place in (home / "hub" / "models", home / "models", home / "hub", home):
        for spelled in dict.fromkeys((model, model.replace(".", "___"))):
            folder = place / organisation / spelled
            if revision is None or _modelscope_revision(folder) == revision:
                yield folder


def _modelscope_revision(folder: Path) -> str | None:
    """It keeps one revision at a time, and writes down which: `Revision:v1.0.0,CreatedAt:1700000000`."""
    try:
        said = (folder / ".mv").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return None
    found = re.search(r"Revision:([^,\s]+)", said)
    return found[1] if found else None


def download(model: str, folder: Path, source: Source, revision: str | None = None) -> None:
    """Fetches the files of `model` into `folder`; what is there already is not fetched again.

    ModelError when the client is not installed, when there is no such model, when the network fails, and when files
    are missing in the end: the clients are content with what a folder holds already.
    """
    if not ID.fullmatch(model) or "@" in model:
        raise ModelError(f"{model} is no id of a model; one looks like THUDM/chatglm3-6b")
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; name a folder")
    client = _client("modelscope" if source == "modelscope" else "huggingface_hub")

    def asked(work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:  # the client's own, of many kinds
            named = model if revision is None else f"{model}@{revision}"
            raise ModelError(f"{named} could not be downloaded: {_why(error, source, folder)}") from error

    at = revision
    if source == "huggingface":  # whose client, where it gets no answer, takes what is in the folder for the model
        at = asked(lambda: client.HfApi().model_info(model, revision=revision).sha)

    def fetch(patterns: list[str]) -> None:
        asked(lambda: client.snapshot_download(model, revision=at, local_dir=str(folder), allow_patterns=patterns))

    fetch(ABOUT)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{model} at {source} holds no config.json: it is no model that kbqa can use")
    _fetch_weights(folder, fetch)
    if missing := [name for name in _listed(folder) if not (folder / name).is_file()]:
        raise ModelError(f"{missing[0]} of {model} has not come{_kept(folder)}")


def _fetch_weights(folder: Path, fetch: Callable[[list[str]], None]) -> None:
    """One form of them: some models are published in two, each as large as the model."""
    if listed := _listed(folder):
        fetch(listed)
        return
    for suffix in ("safetensors", "bin"):
        fetch([f"*.{suffix}"])
        if any(folder.glob(f"*.{suffix}")):
            return
    raise ModelError(f"no weights are published with this model (*.safetensors, *.bin){_kept(folder)}")


def _listed(folder: Path) -> list[str]:
    """The files of the weights in the form to be fetched, where an index names them."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (index := folder / f"{name}.index.json").is_file():
            listed = read_json(index).get("weight_map")
            return sorted(set(map(str, listed.values()))) if isinstance(listed, dict) else []
    return []


def _kept(folder: Path) -> str:
    held = folder.is_dir() and any(folder.iterdir())
    return f"; what has come is kept in {folder}, and the same command goes on from there" if held else ""


def _why(error: Exception, source: Source, folder: Path) -> str:
    """What went wrong, without the clients' addresses and advice where it can be told in a few words."""
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    kinds = {kind.__name__ for it in chain for kind in type(it).__mro__}
    codes = {getattr(getattr(it, "response", it), "status_code", None) for it in chain}
    if codes & {401, 403, 404}:
        return f"{source} has no such model, or shows it only to whom it knows ({TOKENS[source]})"
    if kinds & UNREACHABLE:
        reason = next((it.strerror for it in reversed(chain) if isinstance(it, OSError) and it.strerror), "")
        return (
            f"{source} cannot be reached, or broke off{f' ({reason})' if reason else ''}: is there a network? A proxy "
            f"is named in https_proxy, a mirror in {ENDPOINTS[source]}{_kept(folder)}"
        )
    return f"{source}: {one_line(error)[:300]}{_kept(folder)}"


def _client(module: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise ModelError(f"downloading needs {module} ({one_line(error)}): pip install 'kbqa[hub]'") from error
