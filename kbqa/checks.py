"""What `kbqa doctor` and the service look at: Python, libraries, extras, folders, disk, settings, models, bases."""

from __future__ import annotations

import platform
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import kbqa
from kbqa.config import Config, Home, as_argument, ingest_command, load_config, stray_variables
from kbqa.embedders.weight import own_weight
from kbqa.errors import ConfigError, KbqaError, RegistryError
from kbqa.generators.chatglm import ChatGLMGenerator
from kbqa.generators.openai import OpenAIGenerator
from kbqa.idle import idle_settings
from kbqa.registry import FILE, Database

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.store import Store

__all__ = ["Code", "Finding", "Level", "examine", "examine_open", "gpu_finding"]

Level = Literal["ok", "note", "warn", "fail"]  # note: optional, and nothing here asks for it
# fmt: off
Code = Literal[
    "kbqa", "kbqa-broken", "python", "library", "library-broken", "extra", "extra-missing", "extra-asked",
    "gpu", "gpu-none", "gpu-unseen", "gpu-unfit", "disk", "folder", "folder-missing", "folder-locked",
    "configuration", "configuration-wrong", "configuration-missing", "configuration-idle",
    "registry", "registry-broken", "variable", "variable-misspelt",
    "embedder", "embedder-broken", "reranker", "reranker-broken",
    "generator", "generator-server", "generator-unsure", "generator-broken",
    "base", "base-failures", "base-broken", "base-outdated", "base-unbuilt", "base-missing",
    "synonyms", "synonyms-wrong",
]
# fmt: on
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
    """`detail` is `code` in English with its `values`; whoever says it in another language goes by these."""

    level: Level
    subject: str
    detail: str
    remedy: str  # a command, or what to change
    code: Code  # stays what it is, whatever becomes of the words
    values: Mapping[str, str | int]


def _finding(level: Level, subject: str, code: Code, detail: str, remedy: str = "", **values: object) -> Finding:
    """`{name}` in `detail` stands for what `values` has under that name."""
    told = {name: value if isinstance(value, int) else str(value) for name, value in values.items()}
    return Finding(level, subject, detail.format_map(told), remedy, code, told)


Open = Callable[[str], AbstractContextManager["Store"]]


def examine(home_of: Callable[[], Home]) -> Iterator[Finding]:
    """Everything there is to find, in the order in which one thing needs another. `home_of` may raise ConfigError."""
    yield from _machine()
    try:
        home = home_of()
        config = load_config(home)
    except ConfigError as error:
        remedy = "correct it; `kbqa init` in an empty folder shows a whole one"
        yield _finding("fail", "configuration", "configuration-wrong", "{why}", remedy, why=error)
        yield from _extras(Config())
        yield from _gpu()
        return
    yield from _settings(home, config)
    yield from _gpu()
    try:
        from kbqa.build import Installation

        installation = Installation(home, config)
    except (ImportError, OSError) as error:  # OSError: a library of the system is missing
        remedy = "mend what is marked above"
        yield _finding("fail", "kbqa", "kbqa-broken", "cannot be loaded: {why}", remedy, why=error)
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
    folder = Path(kbqa.__file__).parent
    yield _finding("ok", "kbqa", "kbqa", "{version} in {folder}", version=kbqa.__version__, folder=folder)
    yield _python()
    yield _finding("ok", "sqlite", "library", "{version}", version=sqlite3.sqlite_version)
    yield from map(_library, LIBRARIES)


def _settings(home: Home, config: Config) -> Iterator[Finding]:
    yield from _variables(config)
    for idle in idle_settings(config):
        remedy = "take it out, or correct the kind"
        yield _finding("warn", "configuration", "configuration-idle", str(idle), remedy, **asdict(idle))
    yield from _extras(config)
    yield from _home(home)


def _python() -> Finding:
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return _finding("ok", "python", "python", "{version} on {system}", version=platform.python_version(), system=system)


def _library(module: str) -> Finding:
    name = DISTRIBUTIONS.get(module, module)
    try:
        import_module(module)
    except (ImportError, OSError) as error:  # OSError: a library of the system is missing
        remedy = f"pip install --force-reinstall {name}"
        return _finding("fail", name, "library-broken", "cannot be loaded: {why}", remedy, why=error)
    return _finding("ok", name, "library", "{version}", version=version(name) if _installed(name) else "present")


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
            yield _finding("ok", extra, "extra", "installed: {purpose}", purpose=purpose)
            continue
        level: Level = "fail" if needed.get(extra) else "warn" if wished.get(extra) else "note"
        code: Code = "extra-missing" if level == "note" else "extra-asked"
        detail = "not installed: {purpose}" + (", which config.yaml asks for" if level != "note" else "")
        lacks = f" (lacks {', '.join(absent)})" if 0 < len(absent) < len(wanted) else ""
        yield _finding(level, extra, code, detail, f"pip install 'kbqa[{extra}]'", purpose=purpose + lacks)


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
        yield _finding("ok", "gpu", "gpu", "{name} ({torch})", name="Apple", torch=made)
    elif Path("/proc/driver/nvidia/version").is_file():
        built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
        yield _finding(
            "warn",
            "gpu",
            "gpu-unseen",
            "this machine has a driver of NVIDIA, but {torch} sees no GPU: it {built}",
            "install the torch that fits the driver: https://pytorch.org/get-started/locally/",
            torch=made,
            built=built,
        )
    else:
        detail = "none that {torch} can use; models run on the processor"
        yield _finding("note", "gpu", "gpu-none", detail, torch=made)


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
        return _finding("ok", "gpu", "gpu", "{name} ({torch})", name=name, torch=made)
    return _finding(
        "fail",
        "gpu",
        "gpu-unfit",
        "{name} is {kind}, for which {torch} is not built ({kinds})",
        "install a torch that is, an older one for an older GPU (https://pytorch.org/get-started/previous-versions/), "
        "or let models run on the processor (generator.device: cpu)",
        name=name,
        kind=f"sm_{capability[0]}{capability[1]}",
        torch=made,
        kinds=", ".join(built_for),
    )


# --- this installation -----------------------------------------------------------------------------------------------


def _home(home: Home) -> Iterator[Finding]:
    if home.config.is_file():
        yield _finding("ok", "configuration", "configuration", "{path}", path=home.config)
    else:
        detail = "there is no {path}; the defaults hold"
        yield _finding("warn", "configuration", "configuration-missing", detail, "kbqa init", path=home.config)
    for folder in (home.knowledge, home.vectorstore):
        yield _writable(folder)
    yield from _registry(home.vectorstore / FILE)
    free = shutil.disk_usage(home.folder).free
    level: Level = "fail" if free < NO_DISK else "warn" if free < LITTLE_DISK else "ok"
    remedy = "make room, or move the folder" if level != "ok" else ""
    gib = f"{free / 2**30:.1f}"
    yield _finding(level, "disk", "disk", "{gib} GiB free in {folder}", remedy, gib=gib, folder=home.folder)


def _registry(path: Path) -> Iterator[Finding]:
    if not path.exists():  # no key was made yet, and no job
        return
    database = Database(path)
    try:
        database.check()
        yield _finding("ok", FILE, "registry", "{path} is whole", path=path)
    except RegistryError as error:
        yield _finding("fail", FILE, "registry-broken", "{why}", why=error)
    finally:
        database.close()


def _variables(config: Config) -> Iterator[Finding]:
    for name, meant in stray_variables(config).items():
        detail = "is set in the environment, and kbqa knows no such variable"
        if meant:
            detail += "; two underscores make a setting"
            yield _finding("warn", name, "variable-misspelt", detail, f"rename it to {meant}", meant=meant)
        else:
            yield _finding("note", name, "variable", detail)


def _writable(folder: Path) -> Finding:
    if not folder.is_dir():
        return _finding(
            "warn", folder.name, "folder-missing", "there is no folder {folder}", "kbqa init", folder=folder
        )
    try:
        with tempfile.TemporaryFile(dir=folder):
            return _finding("ok", folder.name, "folder", "{folder} can be written", folder=folder)
    except OSError as error:
        detail, remedy = "{folder} cannot be written: {why}", "change its rights or owner"
        return _finding("fail", folder.name, "folder-locked", detail, remedy, folder=folder, why=error.strerror)


def _parts(installation: Installation, opened: Open) -> Iterator[Finding]:
    try:
        embedder = installation.embedder
        weight = own_weight(embedder)
    except (KbqaError, ImportError, OSError) as error:
        remedy = "correct the embedder section of config.yaml"
        yield _finding("fail", "embedder", "embedder-broken", "{why}", remedy, why=error)
        return
    detail = "{name}, {dim} dimensions, dense weight of its own {weight}"
    yield _finding("ok", "embedder", "embedder", detail, name=embedder.name, dim=embedder.dim, weight=f"{weight:g}")
    if installation.config.retrieval.reranker:
        try:
            yield _finding("ok", "reranker", "reranker", "{name}", name=installation.reranker().name)
        except (KbqaError, ImportError, OSError) as error:
            remedy = "correct retrieval.reranker in config.yaml"
            yield _finding("fail", "reranker", "reranker-broken", "{why}", remedy, why=error)
    try:
        generator = installation.generator
        if isinstance(generator, ChatGLMGenerator):
            generator.check()
        if isinstance(generator, OpenAIGenerator):
            good, seen = generator.check()
            level: Level = "ok" if good else "warn"
            code: Code = "generator-server" if good else "generator-unsure"
            remedy = "" if good else NAMES
            yield _finding(level, "generator", code, "{name}: {why}", remedy, name=generator.name, why=seen)
        else:
            yield _finding("ok", "generator", "generator", "{name}", name=generator.name)
    except (KbqaError, ImportError, OSError) as error:
        remedy = "mend that, or correct the generator section of config.yaml"
        yield _finding("fail", "generator", "generator-broken", "{why}", remedy, why=error)
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
        return _finding("fail", subject, "base-broken", "{why}", base=name, why=error)
    if made != today:
        remedy = ingest_command(name, rebuild=True)
        return _finding("fail", subject, "base-outdated", "was built with other settings", remedy, base=name)
    detail = "{documents} documents, {passages} passages"
    if not counts.failed:
        return _finding("ok", subject, "base", detail, base=name, documents=counts.documents, passages=counts.chunks)
    return _finding(
        "warn",
        subject,
        "base-failures",
        f"{detail}; {{failed}} failed",
        f"kbqa kb documents {as_argument(name)}",
        base=name,
        documents=counts.documents,
        passages=counts.chunks,
        failed=counts.failed,
    )


def _synonyms(installation: Installation, name: str) -> Iterator[Finding]:
    path, subject = installation.home.synonyms(name), f"synonyms of {name}"
    if not path.exists():
        return
    try:
        names = len(installation.synonyms(name).own.others)
        yield _finding("ok", subject, "synonyms", "{names} names in {path}", base=name, names=names, path=path)
    except ConfigError as error:
        remedy = "correct that line; until then no question is answered"
        yield _finding("fail", subject, "synonyms-wrong", "{why}", remedy, base=name, why=error)


def _default_base(installation: Installation) -> Finding:
    name = installation.config.knowledge.default
    subject = f"base {name}"
    folder = installation.home.documents(name)
    if folder.is_dir():
        return _finding("warn", subject, "base-unbuilt", "has not been built yet", "kbqa ingest", base=name)
    detail = "knowledge.default names it, but there is no folder {folder}"
    return _finding("warn", subject, "base-missing", detail, "kbqa init", base=name, folder=folder)
