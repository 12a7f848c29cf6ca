"""What `kbqa doctor` and the service look at: Python, libraries, extras, folders, disk, settings, models, bases."""

from __future__ import annotations

import platform
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import kbqa
from kbqa.config import Config, Home, as_argument, ingest_command, load_config, stray_variables
from kbqa.embedders.weight import own_weight
from kbqa.errors import ConfigError, KbqaError
from kbqa.generators.chatglm import ChatGLMGenerator
from kbqa.generators.openai import OpenAIGenerator
from kbqa.idle import idle_settings

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.store import Store

__all__ = ["Finding", "Level", "examine", "examine_open", "gpu_finding"]

Level = Literal["ok", "note", "warn", "fail"]  # note: optional, and nothing here asks for it
LIBRARIES = ("faiss", "tantivy", "numpy", "rjieba", "python_calamine", "pypdfium2", "selectolax", "fastapi", "uvicorn")
DISTRIBUTIONS = {"faiss": "faiss-cpu"}  # module -> where they differ
EXTRAS = {
    "ocr": "reads scans and images",
    "st": "any local embedding model or reranker",
    "transformers": "any language model with a chat template",
    "langchain": "any LangChain model or embeddings",
    "glm": "runs ChatGLM models",
    "hub": "downloads models",
    "tune": "tunes ChatGLM models, and judges what they learned",
    "mcp": "offers bases to language models' programs (kbqa mcp)",
    "unstructured": "reads .org files",
}
NAMES = "correct generator.model or generator.base_url in config.yaml"
LITTLE_DISK, NO_DISK = 2 * 2**30, 200 * 2**20  # bytes


@dataclass(frozen=True, slots=True)
class Finding:
    level: Level
    subject: str
    detail: str
    remedy: str = ""  # a command, or what to change


Open = Callable[[str], AbstractContextManager["Store"]]


def examine(home_of: Callable[[], Home]) -> Iterator[Finding]:
    """Everything there is to find, in the order in which one thing needs another. `home_of` may raise ConfigError."""
    yield from _machine()
    try:
        home = home_of()
        config = load_config(home)
    except ConfigError as error:
        yield Finding(
            "fail", "configuration", str(error), "correct it; `kbqa init` in an empty folder shows a whole one"
        )
        yield from _extras(Config())
        yield from _gpu()
        return
    yield from _settings(home, config)
    yield from _gpu()
    try:
        from kbqa.build import Installation

        installation = Installation(home, config)
    except (ImportError, OSError) as error:  # OSError: a library of the system is missing
        yield Finding("fail", "kbqa", f"cannot be loaded: {error}", "mend what is marked above")
        return
    yield from _parts(installation, installation.store)


def examine_open(installation: Installation, opened: Open) -> Iterator[Finding]:
    """The same of an installation that is at work, with its own parts; `opened` gives its bases. Loads nothing more:
    a GPU is looked for where something uses torch already."""
    yield from _machine()
    yield from _settings(installation.home, installation.config)
    if "torch" in sys.modules:
        yield from _gpu()
    yield from _parts(installation, opened)


def _machine() -> Iterator[Finding]:
    yield Finding("ok", "kbqa", f"{kbqa.__version__} in {Path(kbqa.__file__).parent}")
    yield _python()
    yield Finding("ok", "sqlite", sqlite3.sqlite_version)
    yield from map(_library, LIBRARIES)


def _settings(home: Home, config: Config) -> Iterator[Finding]:
    yield from _variables(config)
    for line in idle_settings(config):
        yield Finding("warn", "configuration", line, "take it out, or correct the kind")
    yield from _extras(config)
    yield from _home(home)


def _python() -> Finding:
    system = f"{platform.python_version()} on {platform.system()} {platform.release()} {platform.machine()}"
    return Finding("ok", "python", system)


def _library(module: str) -> Finding:
    name = DISTRIBUTIONS.get(module, module)
    try:
        import_module(module)
    except (ImportError, OSError) as error:  # OSError: a library of the system is missing
        return Finding("fail", name, f"cannot be loaded: {error}", f"pip install --force-reinstall {name}")
    return Finding("ok", name, version(name) if _installed(name) else "present")


# --- what can be added -----------------------------------------------------------------------------------------------


def _extras(config: Config) -> Iterator[Finding]:
    needed = {
        "st": config.embedder.kind == "sentence-transformers" or config.retrieval.reranker is not None,
        "transformers": config.generator.kind == "transformers",
        "glm": config.generator.kind == "chatglm",
        "langchain": "langchain" in (config.embedder.kind, config.generator.kind),
    }
    wished = {"ocr": config.knowledge.ocr}
    for extra, purpose in EXTRAS.items():
        wanted = _distributions(extra)
        absent = [name for name in wanted if not _installed(name)]
        if wanted and not absent:
            yield Finding("ok", extra, f"installed: {purpose}")
            continue
        if 0 < len(absent) < len(wanted):
            purpose += f" (lacks {', '.join(absent)})"
        level: Level = "fail" if needed.get(extra) else "warn" if wished.get(extra) else "note"
        why = ", which config.yaml asks for" if level != "note" else ""
        yield Finding(level, extra, f"not installed: {purpose}{why}", f"pip install 'kbqa[{extra}]'")


def _distributions(extra: str) -> list[str]:
    """What `pip install 'kbqa[extra]'` brings, from kbqa's own metadata."""
    try:
        lines = requires("kbqa") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        return []
    wanted = [line for line in lines if f"extra == '{extra}'" in line.replace('"', "'")]
    return [line.partition(";")[0].split("[")[0].split(">")[0].split("=")[0].split("<")[0].strip() for line in wanted]


def _installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def _gpu() -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    import torch

    made = f"torch {torch.__version__}"
    if torch.cuda.is_available():
        built_for = torch.cuda.get_arch_list()
        for number in range(torch.cuda.device_count()):
            yield gpu_finding(
                torch.cuda.get_device_name(number), torch.cuda.get_device_capability(number), built_for, made
            )
    elif torch.backends.mps.is_available():
        yield Finding("ok", "gpu", f"Apple ({made})")
    elif Path("/proc/driver/nvidia/version").is_file():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        yield Finding(
            "warn",
            "gpu",
            f"this machine has a driver of NVIDIA, but {made} sees no GPU: it {built}",
            "install the torch that fits the driver: https://pytorch.org/get-started/locally/",
        )
    else:
        yield Finding("note", "gpu", f"none that {made} can use; models run on the processor")


def gpu_finding(name: str, capability: tuple[int, int], built_for: Sequence[str], made: str) -> Finding:
    """Whether a torch that is built for `built_for` (sm_80, compute_90, ...) has kernels for a GPU.

    Those of a generation run on its later members, compute_* is translated for whatever is newer. Without either, all
    that a GPU is asked for ends in "no kernel image is available for execution on the device".
    """
    kinds = [re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", each) for each in built_for]
    runs = [
        (int(kind[2]) == capability[0] and int(kind[3]) <= capability[1])
        or (kind[1] == "compute" and (int(kind[2]), int(kind[3])) <= capability)
        for kind in kinds
        if kind
    ]
    if any(runs) or not runs:  # other makers name their GPUs otherwise, and torch knows best
        return Finding("ok", "gpu", f"{name} ({made})")
    return Finding(
        "fail",
        "gpu",
        f"{name} is sm_{capability[0]}{capability[1]}, for which {made} is not built ({', '.join(built_for)})",
        "install a torch that is, an older one for an older GPU (https://pytorch.org/get-started/previous-versions/), "
        "or let models run on the processor (generator.device: cpu)",
    )


# --- this installation -----------------------------------------------------------------------------------------------


def _home(home: Home) -> Iterator[Finding]:
    if home.config.is_file():
        yield Finding("ok", "configuration", str(home.config))
    else:
        yield Finding("warn", "configuration", f"there is no {home.config}; the defaults hold", "kbqa init")
    for folder in (home.knowledge, home.vectorstore):
        yield _writable(folder)
    free = shutil.disk_usage(home.folder).free
    level: Level = "fail" if free < NO_DISK else "warn" if free < LITTLE_DISK else "ok"
    remedy = "make room, or move the folder" if level != "ok" else ""
    yield Finding(level, "disk", f"{free / 2**30:.1f} GiB free in {home.folder}", remedy)


def _variables(config: Config) -> Iterator[Finding]:
    for name, meant in stray_variables(config).items():
        detail = "is set in the environment, and kbqa knows no such variable"
        if meant:
            yield Finding("warn", name, f"{detail}; two underscores make a setting", f"rename it to {meant}")
        else:
            yield Finding("note", name, detail)


def _writable(folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding("warn", folder.name, f"there is no folder {folder}", "kbqa init")
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding("ok", folder.name, f"{folder} can be written")
    except OSError as error:
        return Finding(
            "fail", folder.name, f"{folder} cannot be written: {error.strerror}", "change its rights or owner"
        )


def _parts(installation: Installation, opened: Open) -> Iterator[Finding]:
    try:
        embedder = installation.embedder
        weight = own_weight(embedder)
    except (KbqaError, ImportError, OSError) as error:
        yield Finding("fail", "embedder", str(error), "correct the embedder section of config.yaml")
        return
    yield Finding("ok", "embedder", f"{embedder.name}, {embedder.dim} dimensions, dense weight of its own {weight:g}")
    if installation.config.retrieval.reranker:
        try:
            yield Finding("ok", "reranker", installation.reranker().name)
        except (KbqaError, ImportError, OSError) as error:
            yield Finding("fail", "reranker", str(error), "correct retrieval.reranker in config.yaml")
    try:
        generator = installation.generator
        if isinstance(generator, ChatGLMGenerator):
            generator.check()
        if isinstance(generator, OpenAIGenerator):
            good, seen = generator.check()
            yield Finding("ok" if good else "warn", "generator", f"{generator.name}: {seen}", "" if good else NAMES)
        else:
            yield Finding("ok", "generator", generator.name)
    except (KbqaError, ImportError, OSError) as error:
        yield Finding("fail", "generator", str(error), "mend that, or correct the generator section of config.yaml")
    for name in installation.bases():
        yield _base(installation, opened, name)
        yield from _synonyms(installation, name)
    if installation.config.knowledge.default not in installation.bases():
        yield _default_base(installation)


def _base(installation: Installation, opened: Open, name: str) -> Finding:
    subject = f"base {name}"
    try:
        with opened(name) as store:
            made, counts = store.passport, store.counts()
        today = installation.passport
    except (KbqaError, OSError) as error:
        return Finding("fail", subject, str(error))
    if made != today:
        return Finding("fail", subject, "was built with other settings", ingest_command(name, rebuild=True))
    detail = f"{counts.documents} documents, {counts.chunks} passages"
    if counts.failed:
        return Finding("warn", subject, f"{detail}; {counts.failed} failed", f"kbqa kb documents {as_argument(name)}")
    return Finding("ok", subject, detail)


def _synonyms(installation: Installation, name: str) -> Iterator[Finding]:
    path = installation.home.synonyms(name)
    if not path.exists():
        return
    try:
        names = len(installation.synonyms(name).own.others)
        yield Finding("ok", f"synonyms of {name}", f"{names} names in {path}")
    except ConfigError as error:
        yield Finding(
            "fail", f"synonyms of {name}", str(error), "correct that line; until then no question is answered"
        )


def _default_base(installation: Installation) -> Finding:
    name = installation.config.knowledge.default
    subject = f"base {name}"
    if installation.home.documents(name).is_dir():
        return Finding("warn", subject, "has not been built yet", "kbqa ingest")
    folder = installation.home.documents(name)
    return Finding("warn", subject, f"knowledge.default names it, but there is no folder {folder}", "kbqa init")
