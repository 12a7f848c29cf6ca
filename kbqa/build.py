"""Settings to objects: the one place that names implementations.

An Installation is a home folder with its configuration: it opens bases to be asked and takes documents into them.
Heavy libraries are imported in the branch that needs them.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock

from kbqa.analyzer import VERSION as ANALYZER
from kbqa.chain import KnowledgeBase
from kbqa.config import (
    Config,
    EmbedderConfig,
    GeneratorConfig,
    Home,
    RerankerConfig,
    as_argument,
    check_name,
    checked_settings,
    ingest_command,
    load_config,
)
from kbqa.errors import (
    ConfigError,
    FolderGone,
    IndexMismatch,
    KbqaError,
    KnowledgeBaseBusy,
    KnowledgeBaseError,
    UnknownKnowledgeBase,
)
from kbqa.ingest import Ingestion, OnFile, Plan
from kbqa.registry import FILE, Adapters, Database, Served
from kbqa.retriever import Retriever, SynonymFile
from kbqa.splitter import Splitter, in_words
from kbqa.store import FORMAT, Passport, Store, StoredDocument, set_aside
from kbqa.store.files import CATALOGUE, remove_catalogue, write_lock
from kbqa.types import Document, Embedder, Generator, IngestReport, Reranker

__all__ = ["Installation", "make_embedder", "make_generator", "make_reranker"]


class Installation:
    """One home folder. Parts are made when first needed and shared by all its bases."""

    def __init__(self, home: Home, config: Config | None = None) -> None:
        self.home = home
        self.config = load_config(home) if config is None else config
        self._reranker: Reranker | None = None
        self._loading = Lock()

    @cached_property
    def embedder(self) -> Embedder:
        return make_embedder(self.config.embedder, self.home.folder)

    @cached_property
    def splitter(self) -> Splitter:
        config = self.config.splitter
        if config.tokenizer:
            config = replace(config, tokenizer=_path(config.tokenizer, self.home.folder))
        return Splitter(config)

    @cached_property
    def generator(self) -> Generator:
        return make_generator(self.config.generator, self.home.folder, self._served)

    @contextmanager
    def adapters(self) -> Iterator[Adapters]:
        """What was tuned and promoted."""
        database = Database(self.home.vectorstore / FILE)
        try:
            yield Adapters(database)
        finally:
            database.close()

    def _served(self) -> Served:
        with self.adapters() as adapters:
            return adapters.served()

    def teacher(self, name: str) -> Generator:
        """The generator called `name` in generator.teachers of config.yaml; "generator" is that of all questions."""
        config, teachers = self.config.generator, self.config.generator.teachers
        if name != "generator":
            if not isinstance(settings := teachers.get(name), dict):
                known = ", ".join(["generator", *teachers])
                raise ConfigError(f"{self.home.config} names no teacher {name!r} (generator.teachers); it has: {known}")
            config = checked_settings(f"generator.teachers.{name}", GeneratorConfig, settings)
        if config.kind == "extractive":
            raise ConfigError(
                f"the teacher {name} quotes documents and writes nothing; give generator.teachers.{name} a "
                "kind that is a language model"
            )
        return make_generator(config, self.home.folder)

    def reranker(self) -> Reranker:
        """Made at the first call, once: the first questions may come at the same time, and memory holds one model."""
        if self.config.retrieval.reranker is None:
            raise ConfigError("config.yaml names no retrieval.reranker")
        with self._loading:
            if self._reranker is None:
                self._reranker = make_reranker(self.config.retrieval.reranker, self.home.folder)
            return self._reranker

    @property
    def passport(self) -> Passport:
        """What a base is built with under today's configuration."""
        return Passport(
            embedder=self.embedder.name,
            embedder_fingerprint=self.embedder.fingerprint,
            dim=self.embedder.dim,
            splitter=self.splitter.fingerprint,
            analyzer=ANALYZER,
            format=FORMAT,
        )

    def bases(self) -> list[str]:
        """The names of the bases that have been built, sorted."""
        if not self.home.vectorstore.is_dir():
            return []
        return sorted(folder.name for folder in self.home.vectorstore.iterdir() if Store.exists(folder))

    def unbuilt(self) -> list[str]:
        """The names of the folders below knowledge/ that have not been taken in yet, sorted."""
        if not self.home.knowledge.is_dir():
            return []
        built = set(self.bases())
        folders = [path.name for path in self.home.knowledge.iterdir() if path.is_dir()]
        return sorted(name for name in folders if not name.startswith(".") and name not in built)

    def name(self, given: str | None) -> str:
        """`given`, or the base that config.yaml names as the default."""
        return check_name(self.config.knowledge.default if given is None else given)

    def store(self, name: str | None = None) -> Store:
        """The base as it lies on disk, whatever it was built with; UnknownKnowledgeBase with what there is instead."""
        name = self.name(name)
        folder = self.home.base(name)
        if not Store.exists(folder):
            if self.home.documents(name).is_dir():
                raise UnknownKnowledgeBase(f"{name} has not been built yet; run `{ingest_command(name)}`")
            error = self.unknown(name)
            raise UnknownKnowledgeBase(
                f"{error}; put documents into {self.home.documents(name)} and run `{ingest_command(name)}`"
            )
        return Store.open(folder)

    def unknown(self, name: str) -> UnknownKnowledgeBase:
        """The error that says that `name` is not among the bases, and which there are."""
        known = ", ".join(self.bases()) or "none yet"
        return UnknownKnowledgeBase(f"there is no knowledge base {name} (there are: {known})")

    @contextmanager
    def open(self, name: str | None = None) -> Iterator[KnowledgeBase]:
        """The base ready to be asked; IndexMismatch when it holds vectors of another embedder."""
        name = self.name(name)
        with self.store(name) as store:
            self.check_fits(name, store.passport)
            yield self.knowledge_base(name, store, self.synonyms(name))

    def synonyms(self, name: str) -> SynonymFile:
        """ConfigError naming the line that cannot be understood."""
        return SynonymFile(self.home.synonyms(name))

    def knowledge_base(self, name: str, store: Store, synonyms: SynonymFile | None = None) -> KnowledgeBase:
        config = self.config
        retriever = Retriever(store, self.embedder, config.retrieval, synonyms, self.reranker)
        return KnowledgeBase(
            name, store, retriever, self.generator, self.splitter, self.embedder, config.retrieval, config.prompt
        )

    def ingest(
        self,
        name: str | None = None,
        paths: Sequence[Path] | None = None,
        *,
        rebuild: bool = False,
        allow_empty: bool = False,
        on_file: OnFile = lambda report: None,
        on_plan: Callable[[Plan], None] = lambda plan: None,
        on_start: Callable[[str], None] = lambda source: None,
    ) -> IngestReport:
        """Mirror knowledge/<name>/ (or just `paths` in it) into the base, which is made when it does not exist.

        `rebuild` builds a new base beside the old one, which answers until the new one takes its place. FolderGone,
        and nothing has changed, when all documents are missing at once; `allow_empty` removes them.
        """
        name = self.name(name)
        folder, base = self.home.documents(name), self.home.base(name)
        if not folder.is_dir():
            raise self._no_folder(name, folder)

        # A vanished file or folder that is named has been looked for: that one is to go.
        whole = rebuild or paths is None or folder.resolve() in [path.resolve() for path in paths]

        def careful(held: frozenset[str], plan: Plan) -> None:
            """Hears of the plan before anything is done; `held` are the documents that the base has of the folder."""
            if held and whole and plan.finds_nothing and not allow_empty:
                raise FolderGone(
                    f"{folder} holds nothing that kbqa reads, and {name} would lose all {len(held)} documents that it "
                    "has from there; nothing was changed. Mount it if it is a share; if they are to go, add "
                    f"--allow-empty, or run `kbqa kb delete {as_argument(name)}`"
                )
            on_plan(plan)

        limits = self.config.knowledge
        if rebuild and (old := _still_there(base)):
            with Store.rebuild(base, self.passport) as writer:
                ingestion = Ingestion(writer, self.splitter, self.embedder, on_file=on_file)
                ingestion.add(old.pushed)
                report = ingestion.mirror(folder, {}, limits, on_plan=partial(careful, old.sources), on_start=on_start)
                _check_nothing_lost(name, folder, old.sources, report, allow_empty)
                return report
        with self._made(name, base) as store, store.write() as writer:
            known = {document.source: document for document in store.documents()}
            ingestion = Ingestion(writer, self.splitter, self.embedder, on_file=on_file)
            held = _from_files(known.values())
            return ingestion.mirror(
                folder, known, limits, paths=paths, on_plan=partial(careful, held), on_start=on_start
            )

    def _no_folder(self, name: str, folder: Path) -> KbqaError:
        try:
            with Store.open(self.home.base(name)) as store:
                held = _from_files(store.documents())
        except KbqaError:  # there is no such base, or it cannot be opened
            held = frozenset()
        if held:
            return FolderGone(
                f"there is no folder {folder}, and {name} would lose all {len(held)} documents that it has from there; "
                "nothing was changed. Mount it if it is a share; if they are to go, run "
                f"`kbqa kb delete {as_argument(name)}`"
            )
        return ConfigError(f"there is no folder {folder}; create it and put documents in, or name a base with --kb")

    def add_documents(self, name: str | None, documents: Iterable[Document]) -> IngestReport:
        """Documents that have no file, into a base that is made when it does not exist."""
        name = self.name(name)
        with self._made(name, self.home.base(name)) as store:
            return self.knowledge_base(name, store).add_documents(documents)

    def temporary_base(
        self,
        folder: Path,
        material: Iterable[Document] | Path,
        on_file: OnFile = lambda report: None,
        synonyms: SynonymFile | None = None,
    ) -> KnowledgeBase:
        """A base of its own in `folder`, for measuring; the caller closes it.

        It holds the documents given, or those that lie in a folder; `on_file` hears of each file of that.
        """
        kb = self.knowledge_base(folder.name, Store.create(folder, self.passport), synonyms)
        if not isinstance(material, Path):
            kb.add_documents(material)
            return kb
        with kb.store.write() as writer:
            ingestion = Ingestion(writer, self.splitter, self.embedder, on_file=on_file)
            ingestion.mirror(material, {}, self.config.knowledge)
        return kb

    @contextmanager
    def remade(self, name: str | None, on_file: OnFile = lambda report: None) -> Iterator[KnowledgeBase]:
        """The base as this configuration makes it: as it lies there where that fits, else made anew in a temporary
        folder of the same documents. For measuring what another configuration would do."""
        name = self.name(name)
        with self.store(name) as store:
            same = (store.passport.embedder_fingerprint, store.passport.splitter)
            if same == (self.embedder.fingerprint, self.splitter.fingerprint):
                yield self.knowledge_base(name, store, self.synonyms(name))
                return
            pushed = list(store.api_documents())
        files = self.home.documents(name)
        with (
            TemporaryDirectory(prefix="kbqa-remade-") as folder,
            self.temporary_base(
                Path(folder) / "base", files if files.is_dir() else (), on_file, self.synonyms(name)
            ) as kb,
        ):
            kb.add_documents(pushed)
            yield kb

    def create(self, name: str) -> None:
        """An empty base and the folder for its documents. KnowledgeBaseError when there is such a base already."""
        self.home.documents(name).mkdir(parents=True, exist_ok=True)
        Store.create(self.home.base(name), self.passport).close()

    def delete(self, name: str) -> None:
        """Remove what was built as `name`, damaged or not; its documents in knowledge/ stay."""
        base = self.home.base(name)
        if not Store.exists(base):
            raise self.unknown(name)
        with write_lock(base):
            remove_catalogue(base / CATALOGUE)  # from here on there is no such base, whatever happens to the rest
        shutil.rmtree(base.resolve())
        if base.is_symlink():  # to a larger disk, for example
            base.unlink()

    def _made(self, name: str, base: Path) -> Store:
        """The base to write to, made if need be; IndexMismatch when today's parts would not fit what it holds."""
        if not Store.exists(base):
            return Store.create(base, self.passport)
        store = Store.open(base)
        try:
            self.check_fits(name, store.passport)
            if store.passport.splitter != self.splitter.fingerprint:
                raise IndexMismatch(
                    f"{name} was cut with other splitter settings ({in_words(store.passport.splitter)}) than those of "
                    f"config.yaml ({in_words(self.splitter.fingerprint)}); run `{ingest_command(name, rebuild=True)}` "
                    "or change the splitter section back"
                )
        except IndexMismatch:
            store.close()
            raise
        return store

    def check_fits(self, name: str, made: Passport) -> None:
        """Raises IndexMismatch when questions would be searched for by other parts than the documents were taken in."""
        if made.analyzer != ANALYZER:
            raise IndexMismatch(
                f"{name} was built with version {made.analyzer} of the text analyzer, this kbqa has {ANALYZER}; "
                f"run `{ingest_command(name, rebuild=True)}`"
            )
        if made.embedder_fingerprint != self.embedder.fingerprint:
            built, now = (f"{part.embedder} ({part.dim} dimensions)" for part in (made, self.passport))
            raise IndexMismatch(
                f"{name} was built with the embedder {built}, "
                + (f"config.yaml names {now}; " if built != now else "whose files have changed since; ")
                + f"run `{ingest_command(name, rebuild=True)}` or change the embedder section"
            )


@dataclass(frozen=True, slots=True)
class _Old:
    """What a base holds that is to be rebuilt: its documents without a file, and the names of those with one."""

    pushed: list[Document]
    sources: frozenset[str]


def _from_files(documents: Iterable[StoredDocument]) -> frozenset[str]:
    """The sources of those that are answered from and mirror a file."""
    return frozenset(d.source for d in documents if d.status == "indexed" and d.origin != "api")


def _still_there(base: Path) -> _Old | None:
    """None when there is no base, or only a damaged one, which is set aside."""
    if not Store.exists(base):
        return None
    try:
        with Store.open(base) as store:
            return _Old(list(store.api_documents()), _from_files(store.documents()))
    except (KnowledgeBaseBusy, IndexMismatch, UnknownKnowledgeBase):
        raise
    except KnowledgeBaseError:
        set_aside(base)
        return None


def _check_nothing_lost(
    name: str, folder: Path, before: frozenset[str], report: IngestReport, allow_empty: bool
) -> None:
    """Raises KnowledgeBaseError, and so keeps the old base, when a file that it answers from cannot be read now."""
    failed = [file.source for file in report.files if file.status == "failed" and file.source in before]
    if failed:
        raise KnowledgeBaseError(
            f"{name} stays as it was: {len(failed)} of its documents cannot be read now, among them {failed[0]}; "
            "mend or remove these files and run `kbqa ingest --rebuild` again"
        )
    if before and not report.count("added") and not allow_empty:
        raise KnowledgeBaseError(f"{name} stays as it was: {folder} holds none of its {len(before)} documents now")


def make_embedder(config: EmbedderConfig, folder: Path) -> Embedder:
    """The embedder that `config` names; relative paths are below `folder`."""
    match config.kind:
        case "static":
            from kbqa.embedders.static import StaticEmbedder

            return StaticEmbedder()
        case "sentence-transformers":
            from kbqa.embedders.sentence_transformer import SentenceTransformerEmbedder

            return SentenceTransformerEmbedder(
                _path(config.model or "", folder),
                device=config.device,
                dtype=config.dtype,
                batch_size=config.batch_size,
                query_instruction=config.query_instruction,
                passage_instruction=config.passage_instruction,
            )
        case "openai":
            from kbqa.embedders.openai import OpenAIEmbedder

            return OpenAIEmbedder(
                config.base_url or "",
                config.model or "",
                api_key=os.environ.get(config.api_key_env),
                batch_size=config.batch_size,
            )
        case "langchain":
            from kbqa.embedders.langchain import LangChainEmbedder

            return LangChainEmbedder(config.import_path or "", config.options)


def make_reranker(config: RerankerConfig, folder: Path) -> Reranker:
    """The reranker that `config` names; a relative path is below `folder`."""
    from kbqa.retriever.cross_encoder import CrossEncoderReranker

    return CrossEncoderReranker(
        _path(config.model, folder), device=config.device, dtype=config.dtype, batch_size=config.batch_size
    )


def make_generator(
    config: GeneratorConfig, folder: Path = Path(), served: Callable[[], Served] | None = None
) -> Generator:
    """The generator that `config` names; a relative path is below `folder`. `served` tells what is promoted."""
    match config.kind:
        case "extractive":
            from kbqa.generators.extractive import ExtractiveGenerator

            return ExtractiveGenerator(config.sentences)
        case "chatglm":
            from kbqa.generators.chatglm import ChatGLMGenerator

            return ChatGLMGenerator(
                _path(config.model or "", folder),
                dtype=config.dtype,
                device=config.device,
                quantize=config.quantize,
                prefix=_path(config.prefix, folder) if config.prefix else None,
                adapters={name: _path(str(path), folder) for name, path in config.adapters.items()},
                adapter=config.adapter,
                served=served,
                family=config.family,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                context=config.context,
                slots=config.slots,
                waiting=config.waiting,
            )
        case "openai":
            from kbqa.generators.openai import OpenAIGenerator

            return OpenAIGenerator(
                config.base_url or "",
                config.model or "",
                api_key=os.environ.get(config.api_key_env),
                api_key_env=config.api_key_env,
                timeout=config.timeout,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                options=config.options,
            )
        case "transformers":
            from kbqa.generators.transformers import TransformersGenerator

            return TransformersGenerator(
                _path(config.model or "", folder),
                device=config.device,
                dtype=config.dtype,
                temperature=config.temperature,
                max_tokens=config.max_tokens,
                waiting=config.waiting,
                options=config.options,
            )
        case "langchain":
            from kbqa.generators.langchain import LangChainGenerator

            return LangChainGenerator(
                config.import_path or "", config.options, temperature=config.temperature, max_tokens=config.max_tokens
            )


def _path(model: str, folder: Path) -> str:
    """A folder below the home folder if there is one of that name, else the name as it is."""
    local = folder / model
    return str(local) if local.exists() else model
