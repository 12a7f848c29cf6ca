"""config.yaml: read once, checked, frozen.

Every setting has a default, so an empty file (or none) is a working configuration. The environment overrides the
file: KBQA_RETRIEVAL__MIN_CONFIDENCE=0.4 sets `retrieval.min_confidence`, KBQA_RETRIEVAL__RERANKER__DEVICE=cpu sets
`retrieval.reranker.device`. Relative paths in it are relative to the home folder, which holds config.yaml, knowledge/
and vectorstore/.
"""

from __future__ import annotations

import os
import re
import types
import typing
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from kbqa.errors import ConfigError
from kbqa.yamlfile import read_yaml

__all__ = [
    "Config",
    "EmbedderConfig",
    "GeneratorConfig",
    "Home",
    "KnowledgeConfig",
    "PromptConfig",
    "RerankerConfig",
    "RetrievalConfig",
    "ServerConfig",
    "SplitterConfig",
    "as_argument",
    "check_name",
    "checked_settings",
    "find_home",
    "ingest_command",
    "is_reserved",
    "load_config",
    "resolved",
    "stray_variables",
]

_PLACEHOLDERS = ("{context}", "{question}")
DEFAULT_TEMPLATE = "已知信息:\n{context}\n根据已知信息回答问题:\n{question}"


@dataclass(frozen=True, slots=True)
class KnowledgeConfig:
    """What is taken in, and within which limits one file may be read."""

    default: str = "default"  # the base that commands use when --kb is not given
    workers: int = 0  # processes that read files; 0: one a core
    seconds_per_file: float = 60.0  # where OCR works: per page
    memory_mb: int = 3072  # a reading process that needs more fails that file
    max_file_mb: int = 200
    ocr: bool = True  # read scans and images, if `kbqa[ocr]` is installed


@dataclass(frozen=True, slots=True)
class SplitterConfig:
    """Chunk sizes, in characters; or in tokens of `tokenizer`, a tokenizer.json of the tokenizers library."""

    size: int = 400
    overlap: int = 50
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True)
class EmbedderConfig:
    """Which embedder; the other settings belong to the kind named behind them."""

    kind: Literal["static", "sentence-transformers", "openai", "langchain"] = "static"
    model: str | None = None  # sentence-transformers: a folder; openai: the model's name
    device: str | None = None  # sentence-transformers
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"  # sentence-transformers
    batch_size: int = 32  # sentence-transformers, openai
    query_instruction: str | None = None  # sentence-transformers; None: as the model's family wants it
    passage_instruction: str | None = None  # sentence-transformers
    base_url: str | None = None  # openai
    api_key_env: str = "OPENAI_API_KEY"  # openai: the environment variable that holds the key
    import_path: str | None = None  # langchain: package.module.Class
    options: Mapping[str, Any] = field(default_factory=dict)  # langchain: the class's arguments


@dataclass(frozen=True, slots=True)
class RerankerConfig:
    """A cross-encoder that reads the question together with each of the best passages."""

    model: str = ""  # a folder; must be named
    device: str | None = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch_size: int = 32
    candidates: int = 30  # passages that it reads
    weight: float = 0.7  # of its judgement, the order in which the passages were found has the rest


@dataclass(frozen=True, slots=True)
class RetrievalConfig:
    k: int = 5  # passages that may go into the prompt
    candidates: int = 50  # taken from each arm before they are fused
    dense_weight: float | None = None  # of the dense arm, the lexical one has the rest; None: the embedder's own
    reranker: RerankerConfig | None = None
    neighbours: int = 1  # chunks before and after a hit that go with it into the prompt
    min_confidence: float = 0.42  # below, the answer is the refusal and no generator is asked
    max_question_characters: int = 4000


@dataclass(frozen=True, slots=True)
class PromptConfig:
    template: str = DEFAULT_TEMPLATE
    max_characters: int = 3000  # of all passages together
    history_turns: int = 5


@dataclass(frozen=True, slots=True)
class GeneratorConfig:
    """Who writes the answer; the other settings belong to the kind named behind them."""

    kind: Literal["extractive", "chatglm", "openai", "transformers", "langchain"] = "extractive"
    sentences: int = 3  # extractive: at most so many
    model: str | None = None  # chatglm, transformers: a folder; openai: the model's name
    base_url: str | None = None  # openai
    api_key_env: str = "OPENAI_API_KEY"  # openai: the environment variable that holds the key
    timeout: float = 120.0  # openai: seconds for which the server may say nothing
    device: str | None = None  # chatglm, transformers
    # chatglm, transformers; auto: as the weights are stored (chatglm on a CPU: bfloat16)
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Literal[4, 8] | None = None  # chatglm: bits of a weight, while loading
    prefix: str | None = None  # chatglm: the folder of a P-Tuning checkpoint
    adapters: Mapping[str, Any] = field(default_factory=dict)  # chatglm: further ones by name
    adapter: str | None = None  # chatglm: which of them, or of the promoted ones, answers where a request names none
    family: Literal["chatglm", "chatglm2", "chatglm3", "glm4"] | None = None  # chatglm: where its folder does not tell
    context: int | None = None  # chatglm: tokens of a prompt and its answer
    slots: int = 4  # chatglm: answers that are written at once
    waiting: int = 32  # chatglm, transformers: questions that may wait for their turn
    import_path: str | None = None  # langchain: package.module.Class
    # openai: further fields of a request; transformers: variables of the chat template; langchain: class's arguments
    options: Mapping[str, Any] = field(default_factory=dict)
    temperature: float | None = None  # all that write
    max_tokens: int | None = None  # all that write
    teachers: Mapping[str, Any] = field(default_factory=dict)  # others by name, with these settings: for tuning alone


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """`kbqa serve`: where it listens, how much it takes on at once, what it writes down."""

    host: str = "127.0.0.1"  # another address than this machine's own needs a key (kbqa key add)
    port: int = 8000
    threads: int = 8  # what blocks at once; of searches that only compute, two
    concurrent_requests: int = 512  # answers that a model writes among them; more are told to try again
    max_body_mb: int = 1
    max_upload_mb: int = 200  # of one file
    max_upload_total_mb: int = 1024  # of all files of one request
    max_upload_files: int = 1000  # of one request
    requests_per_minute: int = 0  # of one key; 0: any number
    concurrent_per_key: int = 0  # requests of one key at once; 0: any number
    shutdown_seconds: int = 30  # for which answers that are being written may go on when the service is stopped
    audit_log: str | None = None  # a file that takes one line of JSON an answer: who, which base, which documents
    log_questions: bool = False  # whether questions may stand in logs
    chatglm_knowledge: str | None = None  # the base that POST / answers from; None: the model alone answers there


@dataclass(frozen=True, slots=True)
class Config:
    knowledge: KnowledgeConfig = field(default_factory=KnowledgeConfig)
    splitter: SplitterConfig = field(default_factory=SplitterConfig)
    embedder: EmbedderConfig = field(default_factory=EmbedderConfig)
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    prompt: PromptConfig = field(default_factory=PromptConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    server: ServerConfig = field(default_factory=ServerConfig)


@dataclass(frozen=True, slots=True)
class Home:
    """The folder of one installation, and where things lie in it."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.yaml"

    @property
    def knowledge(self) -> Path:
        return self.folder / "knowledge"

    @property
    def vectorstore(self) -> Path:
        return self.folder / "vectorstore"

    def documents(self, kb: str) -> Path:
        return self.knowledge / check_name(kb)

    def base(self, kb: str) -> Path:
        return self.vectorstore / check_name(kb)

    def synonyms(self, kb: str) -> Path:
        """Beside the documents, so that it is none of them."""
        return self.knowledge / f"{check_name(kb)}.synonyms.txt"


def find_home(given: str | Path | None = None) -> Home:
    """`given`, else KBQA_HOME, else the current folder or its nearest parent with a config.yaml."""
    named = given or os.environ.get("KBQA_HOME")
    if named:
        folder = resolved(named)
        if folder.is_file():
            raise ConfigError(f"the home {folder} is a file, not a folder; name the folder with config.yaml in it")
        if not folder.is_dir():
            create = f"kbqa init {as_argument(str(folder))}"
            raise ConfigError(f"the home folder {folder} does not exist; create it with `{create}`")
        return Home(folder)
    here = Path.cwd()
    return Home(next((folder for folder in (here, *here.parents) if (folder / "config.yaml").is_file()), here))


def resolved(path: str | Path) -> Path:
    """`path` without `~`, `..` and links; ConfigError when these lead nowhere."""
    try:
        return Path(path).expanduser().resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, or no such user
        raise ConfigError(f"{path} leads nowhere ({error}); name an existing folder") from error


_NAME = re.compile(r"\w[\w.\- ]*", re.UNICODE)
_DEVICES = {
    *("con", "prn", "aux", "nul", "conin$", "conout$"),
    *(f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"),
}


def check_name(name: str) -> str:
    """`name` (NFC) if it can name a knowledge base, and so a folder on any system; else ConfigError."""
    name = unicodedata.normalize("NFC", name)
    usable = _NAME.fullmatch(name) is not None and len(name.encode()) <= 120 and not name.endswith((".", " "))
    if is_reserved(name):
        raise ConfigError(f"{name!r} cannot name a knowledge base: it is a reserved name on Windows; choose another")
    if not usable:
        raise ConfigError(
            f"{name!r} cannot name a knowledge base: use letters (Chinese too), digits, '-', '_', '.' and spaces, "
            "starting with a letter or digit, at most 120 bytes"
        )
    return name


def is_reserved(name: str) -> bool:
    """Whether no file can have this name on Windows, whatever its suffix: it stands for a device there."""
    return name.partition(".")[0].rstrip(" ").lower() in _DEVICES


def as_argument(text: str) -> str:
    """A name or a path as it is typed in any shell, for the commands that messages propose."""
    return f'"{text}"' if " " in text else text


def ingest_command(name: str, rebuild: bool = False) -> str:
    """The command that builds the base `name`, the remedy in many a message."""
    return f"kbqa ingest --kb {as_argument(name)}" + (" --rebuild" if rebuild else "")


# --- reading ---------------------------------------------------------------------------------------------------------


def load_config(home: Home, environ: Mapping[str, str] = os.environ, path: Path | None = None) -> Config:
    """The configuration of `home`, or that of the file `path` for the same home.

    Raises ConfigError naming the key, the value and what is allowed.
    """
    given = read_yaml(path or home.config)
    variables: dict[str, str] = {}  # setting -> the environment variable that sets it
    for key, value in environ.items():
        *sections, name = key.removeprefix("KBQA_").lower().split("__")
        if key.startswith("KBQA_") and sections:
            where = given
            for depth, section in enumerate(sections, 1):
                where = _section(where, section, f"the environment variable {key}", ".".join(sections[:depth]))
            where[name] = _scalar(value, key)
            variables[".".join([*sections, name])] = key
    try:
        return _checked_config(given)
    except ConfigError as error:
        said = str(error)
        if blamed := [key for setting, key in variables.items() if _speaks_of(said, setting)]:
            raise ConfigError(f"{said} (set by the environment variable {', '.join(blamed)})") from error
        raise


_OTHER_VARIABLES = {"KBQA_HOME", "KBQA_DEBUG", "KBQA_OCR_THREADS", "KBQA_TESTDATA"}


def stray_variables(config: Config, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Variables that begin with KBQA_ and that nothing reads, each with the one that may be meant, or "".

    They are no error, because other programs may have their own.
    """
    known = {*_OTHER_VARIABLES, config.embedder.api_key_env, config.generator.api_key_env}
    names: list[tuple[str, ...]]
    names = [(section.name, f.name) for section in fields(Config) for f in fields(getattr(config, section.name))]
    names += [("retrieval", "reranker", f.name) for f in fields(RerankerConfig)]
    meant = {"_".join(("KBQA", *name)).upper(): f"KBQA_{'__'.join(name)}".upper() for name in names}
    stray = (key for key in environ if key.startswith("KBQA_") and "__" not in key.removeprefix("KBQA_"))
    return {key: meant.get(key.replace("KBQA__", "KBQA_"), "") for key in sorted(stray) if key not in known}


def _speaks_of(message: str, setting: str) -> bool:
    section = setting.partition(".")[0]
    return re.search(rf"(?<![\w.]){re.escape(setting)}(?!\w)", message) is not None or message.startswith(
        f"{section} is not a section"
    )


def _checked_config(given: dict[str, Any]) -> Config:
    known = {f.name: f for f in fields(Config)}
    if unknown := set(given) - set(known):
        raise ConfigError(f"{min(unknown)} is not a section of config.yaml; it has: {', '.join(known)}")
    hints = get_type_hints(Config)
    config = Config(**{name: _build(name, hints[name], _section(given, name, "config.yaml")) for name in given})
    _check(config)
    return config


def _section(given: dict[str, Any], name: str, where: str, path: str = "") -> dict[str, Any]:
    """`path` is its whole name, where it is a section of a section."""
    section = given.setdefault(name, {})
    if section is None:
        section = given[name] = {}
    if not isinstance(section, dict):
        raise ConfigError(f"{path or name} in {where} must be a section with settings, not {section!r}")
    return section


def _scalar(text: str, key: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"the environment variable {key} is not a YAML value: {text!r}") from error


def checked_settings(where: str, cls: type, given: Mapping[str, Any]) -> Any:
    """`given` as an object of the dataclass `cls`, checked as the sections of config.yaml are."""
    return _build(where, cls, given)


def _build(name: str, cls: type, given: Mapping[str, Any]) -> Any:
    known = [f.name for f in fields(cls)]
    if unknown := {str(key) for key in given} - set(known):
        raise ConfigError(f"{name}.{min(unknown)} is not a setting; {name} has: {', '.join(known)}")
    hints = get_type_hints(cls)
    return cls(**{key: _checked(f"{name}.{key}", hints[key], value) for key, value in given.items()})


def _checked(key: str, wanted: Any, value: Any) -> Any:
    """`value` as the type that the field is declared with."""
    if get_origin(wanted) in (typing.Union, types.UnionType):
        if value is None:
            return None
        wanted = next(option for option in get_args(wanted) if option is not type(None))
    if isinstance(wanted, type) and is_dataclass(wanted):
        if not isinstance(value, dict):
            raise ConfigError(f"{key} is {value!r}; it must be a section with settings")
        return _build(key, wanted, value)
    if get_origin(wanted) is Literal:
        if value not in get_args(wanted):
            raise ConfigError(f"{key} is {value!r}; it can be: {', '.join(map(str, get_args(wanted)))}")
        return value
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = dict if get_origin(wanted) is not None else wanted
    if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
        raise ConfigError(f"{key} is {value!r}; it must be {_TYPE_NAMES[expected]}")
    return value


_TYPE_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false", dict: "a mapping"}


def _check(config: Config) -> None:
    """Ranges, and settings that only make sense together."""
    bases = {"knowledge.default": config.knowledge.default, "server.chatglm_knowledge": config.server.chatglm_knowledge}
    for key, name in bases.items():
        try:
            _ = name is None or check_name(name)
        except ConfigError as error:
            raise ConfigError(f"{key}: {error}") from error
    for section in ("knowledge", "splitter", "retrieval", "prompt", "server"):
        settings = getattr(config, section)
        for f in fields(settings):
            value = getattr(settings, f.name)
            if isinstance(value, int | float) and value < 0:
                raise ConfigError(f"{section}.{f.name} is {value}; it cannot be negative")
    limits: list[tuple[str, float | None, float, float]] = [
        ("splitter.size", config.splitter.size, 50, 100_000),
        ("splitter.overlap", config.splitter.overlap, 0, config.splitter.size / 2),
        ("retrieval.k", config.retrieval.k, 1, 1000),
        ("retrieval.candidates", config.retrieval.candidates, config.retrieval.k, 10_000),
        ("retrieval.min_confidence", config.retrieval.min_confidence, 0, 1),
        ("retrieval.dense_weight", config.retrieval.dense_weight or 0, 0, 1),
        ("knowledge.seconds_per_file", config.knowledge.seconds_per_file, 1, 86_400),
        ("knowledge.memory_mb", config.knowledge.memory_mb, 256, 1_000_000),
        ("knowledge.max_file_mb", config.knowledge.max_file_mb, 1, 1_000_000),
        ("generator.sentences", config.generator.sentences, 1, 20),
        ("generator.timeout", config.generator.timeout, 1, 86_400),
        ("generator.waiting", config.generator.waiting, 0, 10_000),
        ("generator.context", config.generator.context, 16, 10_000_000),
        ("generator.slots", config.generator.slots, 1, 1000),
        ("generator.temperature", config.generator.temperature, 0, 2),
        ("generator.max_tokens", config.generator.max_tokens, 1, 1_000_000),
        ("embedder.batch_size", config.embedder.batch_size, 1, 10_000),
        ("server.port", config.server.port, 0, 65_535),
        ("server.threads", config.server.threads, 1, 1000),
        ("server.concurrent_requests", config.server.concurrent_requests, 1, 100_000),
        ("server.max_body_mb", config.server.max_body_mb, 1, 1000),
        ("server.max_upload_mb", config.server.max_upload_mb, 1, 1_000_000),
        ("server.max_upload_total_mb", config.server.max_upload_total_mb, 1, 1_000_000),
        ("server.max_upload_files", config.server.max_upload_files, 1, 100_000),
        ("server.shutdown_seconds", config.server.shutdown_seconds, 0, 3600),
    ]
    if reranker := config.retrieval.reranker:
        if not reranker.model:
            raise ConfigError("retrieval.reranker needs retrieval.reranker.model, the folder of a cross-encoder")
        limits += [
            ("retrieval.reranker.batch_size", reranker.batch_size, 1, 10_000),
            ("retrieval.reranker.candidates", reranker.candidates, 1, 1000),
            ("retrieval.reranker.weight", reranker.weight, 0, 1),
        ]
    for key, value, low, high in limits:
        if value is not None and not low <= value <= high:
            raise ConfigError(f"{key} is {value:.10g}; it must lie between {low:.10g} and {high:.10g}")
    _check_template(config.prompt.template)
    needed = {
        "embedder": {"sentence-transformers": ["model"], "openai": ["base_url", "model"], "langchain": ["import_path"]},
        "generator": {
            "chatglm": ["model"],
            "openai": ["base_url", "model"],
            "transformers": ["model"],
            "langchain": ["import_path"],
        },
    }
    for section, kinds in needed.items():
        settings = getattr(config, section)
        for name in kinds.get(settings.kind, []):
            if not getattr(settings, name):
                raise ConfigError(f"{section}.kind {settings.kind} needs {section}.{name}")


def _check_template(template: str) -> None:
    for placeholder in _PLACEHOLDERS:
        if template.count(placeholder) != 1:
            raise ConfigError(f"prompt.template must hold {placeholder} exactly once")
    for found in re.findall(r"\{\w+\}", template):
        if found not in _PLACEHOLDERS:
            raise ConfigError(
                f"prompt.template holds {found}, which nothing fills; it can hold {' and '.join(_PLACEHOLDERS)}; "
                f"where the braces are meant as they stand, put spaces inside: {{ {found[1:-1]} }}"
            )
