"""Documents go in: ingest mirrors a folder, add copies files into it first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from kbqa.cli.common import Command, FilePath, Session, kb_option, pass_session
from kbqa.cli.screen import complain, is_terminal, print_json, say, shown, table
from kbqa.config import resolved
from kbqa.errors import ConfigError, FolderGone, KbqaError, KnowledgeBaseBusy
from kbqa.fields import file_fields
from kbqa.types import FileReport, FileStatus, IngestReport

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.ingest import Plan

__all__ = ["add", "ingest", "print_files", "print_report"]

SOME_FAILED = 3
STATUSES: tuple[FileStatus, ...] = ("added", "updated", "unchanged", "removed", "failed", "skipped")
COLOURS = {"added": "green", "updated": "green", "removed": "yellow", "failed": "red", "skipped": "yellow"}
MOST_ROWS = 50  # of a table after ingestion
POLL_SECONDS = 1.0
LOOKING_SHARE = 10  # a folder that takes long to look at is looked at more rarely, for a tenth of the time


@click.command(cls=Command)
@click.argument("paths", nargs=-1, type=FilePath())
@kb_option()
@click.option("--rebuild", is_flag=True, help="Build the base anew beside the old one, which answers until then.")
@click.option("--watch", is_flag=True, help="Go on and take in every change, until Ctrl-C.")
@click.option("--allow-empty", is_flag=True, help="Even when the folder has lost all its documents at once.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes that read files; else knowledge.workers.")
@pass_session
def ingest(
    session: Session,
    paths: tuple[Path, ...],
    kb: str | None,
    rebuild: bool,
    watch: bool,
    allow_empty: bool,
    workers: int | None,
) -> None:
    """Take in the documents of knowledge/NAME/.

    New and changed files are read, vanished ones removed, the rest is left alone. When all have vanished at once, as
    from a share that is not mounted, nothing is removed without --allow-empty.

    With PATHs only those, which must lie in that folder. Exit code 3: some files failed, the others went in.
    """
    if watch and rebuild:
        raise click.UsageError("--watch and --rebuild do not go together; rebuild first, then watch")
    installation = session.installation(workers)
    name = installation.name(kb)
    chosen = [_located(path, installation.home.documents(name)) for path in paths] or None
    if chosen and not rebuild:
        _refuse_unknown(installation, name, dict(zip(chosen, paths, strict=True)))
    before = _snapshot(installation, name, chosen) if watch else None
    run = partial(_run, session, installation, name, chosen, rebuild, allow_empty)
    try:
        report = run()
    except FolderGone as error:
        if not watch:
            raise
        complain(shown(str(error)))
        report = IngestReport((), 0.0)
    else:
        if chosen and not report.files:
            raise ConfigError(f"there is nothing to take in at {', '.join(map(str, chosen))}")
        if not report.files:
            complain(f"put documents into {shown(str(installation.home.documents(name)))}")
    if watch:
        _watch(run, partial(_snapshot, installation, name, chosen), installation.home.documents(name), before)
    _exit(report)


def _located(path: Path, documents: Path) -> Path:
    """The path as the shell sees it; where nothing is there, as the name of a document, which may have vanished."""
    below = resolved(documents) in path.absolute().parents
    return path if path.exists() or below else documents / path


def _refuse_unknown(installation: Installation, name: str, paths: Mapping[Path, Path]) -> None:
    """ConfigError when nothing is at a path and the base knows of nothing that was; `paths`: located -> as given."""
    documents = installation.home.documents(name).resolve()
    missing = {located: given for located, given in paths.items() if not located.exists() and not located.is_symlink()}
    if not missing or not documents.is_dir():
        return
    known: set[Path] = set()
    if name in installation.bases():
        with installation.store(name) as store:
            files = [documents / document.source for document in store.documents() if document.origin != "api"]
        known = {path for file in files for path in (file, *file.parents)}
    for located, given in missing.items():
        absolute = located.absolute()
        if absolute.parent.resolve() / absolute.name not in known:
            raise ConfigError(f"there is no file or folder {given}")


@click.command(cls=Command)
@click.argument("files", nargs=-1, required=True, type=FilePath())
@kb_option(required=True)
@click.option("--replace", is_flag=True, help="Overwrite files of the same name.")
@pass_session
def add(session: Session, files: tuple[Path, ...], kb: str, replace: bool) -> None:
    """Copy FILEs into knowledge/NAME/ and take them in."""
    from kbqa.ingest import copy_in

    installation = session.installation()
    name = installation.name(kb)
    copies = copy_in(files, installation.home.documents(name), replace_existing=replace)
    try:
        report = _run(session, installation, name, copies)
    except KbqaError:
        complain(f"the files are in {shown(str(installation.home.documents(name)))} now, but not taken in yet:")
        raise
    _exit(report)


def _run(
    session: Session,
    installation: Installation,
    name: str,
    paths: Sequence[Path] | None,
    rebuild: bool = False,
    allow_empty: bool = False,
) -> IngestReport:
    with _progress(session.json) as listener:
        report = installation.ingest(
            name,
            paths,
            rebuild=rebuild,
            allow_empty=allow_empty,
            on_file=listener.on_file,
            on_plan=listener.on_plan,
            on_start=listener.on_start,
        )
    print_report(report, session.json)
    return report


def _exit(report: IngestReport) -> None:
    if report.count("failed"):
        click.get_current_context().exit(SOME_FAILED)


# --- while it runs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Listener:
    """What ingestion calls as it goes on: with its plan, each source it begins to read, each file that is done."""

    on_file: Callable[[FileReport], None]
    on_plan: Callable[[Plan], None] = lambda plan: None
    on_start: Callable[[str], None] = lambda source: None


@contextmanager
def _progress(json: bool) -> Iterator[_Listener]:
    if json:
        yield _Listener(lambda file: print_json(file_fields(file)))
    elif not is_terminal():
        yield _Listener(_print_file)
    else:
        with _bar() as listener:
            yield listener


@contextmanager
def _bar() -> Iterator[_Listener]:
    """How many files are done, and the one whose reading began last."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    file_column = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn(), file_column)
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("looking", total=None)
        awaited: set[str] = set()

        def on_plan(plan: Plan) -> None:
            awaited.update(plan.read)
            progress.update(task, total=len(awaited))

        def on_start(source: str) -> None:
            progress.update(task, description=shown(source))

        def on_file(file: FileReport) -> None:
            progress.update(task, advance=int(file.source in awaited))

        yield _Listener(on_file, on_plan, on_start)


def print_files(files: Iterable[FileReport], json: bool) -> None:
    """What `_progress` prints of each, for work that is reported when it is done."""
    for file in files:
        if json:
            print_json(file_fields(file))
        elif not is_terminal():
            _print_file(file)


def _print_file(file: FileReport) -> None:
    """One line a file: status, source and reason, separated by tabs. What did not change is only counted."""
    if file.status != "unchanged":
        say("\t".join(filter(None, (file.status, shown(file.source), _reason(file)))))


def _reason(file: FileReport) -> str:
    """The error without the file's name, which stands beside it."""
    return shown(file.error.removeprefix(f"{file.source}: "))


# --- what came of it -------------------------------------------------------------------------------------------------


def print_report(report: IngestReport, json: bool) -> None:
    """The summary; on a terminal also what failed, was skipped or was not read whole, with the reasons."""
    counts = {status: report.count(status) for status in STATUSES}
    if json:
        print_json({"summary": {**counts, "chunks": report.chunks, "seconds": round(report.seconds, 3)}})
        return
    if is_terminal():
        left_out = [file for file in report.files if file.status in ("failed", "skipped")]
        _print_some(("status", "file", "why"), [(file.status, file.source, _reason(file)) for file in left_out])
        taken_in = [file for file in report.files if file.status in ("added", "updated")]
        partly = [(file.source, warning) for file in taken_in for warning in file.warnings]
        _print_some(("taken in, but not whole", "what is missing"), partly)
    for status, count in counts.items():
        if count:
            say(f"{status} {count}  ", end="", fg=COLOURS.get(status))
    say(f"({report.chunks} passages, {report.seconds:.1f} s)" if report.files else "there is nothing to take in")


def _print_some(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        table(columns, rows[:MOST_ROWS])
    if len(rows) > MOST_ROWS:
        say(f"… and {len(rows) - MOST_ROWS} more; `kbqa kb documents NAME` lists them all\n")


# --- watching --------------------------------------------------------------------------------------------------------

Snapshot = dict[str, tuple[int, int]]  # source -> size, mtime_ns


def _watch(
    run: Callable[[], IngestReport], look: Callable[[], Snapshot | None], folder: Path, taken_in: Snapshot | None
) -> NoReturn:
    """Mirror again whenever something has changed and then stood still for one look; ends with Ctrl-C.

    Looking every second is portable and cheap; notices of the system do not come from file systems on the network.
    """
    complain(f"watching {shown(str(folder))}; Ctrl-C ends it")
    before, pause = taken_in, POLL_SECONDS
    while True:
        time.sleep(pause)
        start = time.perf_counter()
        now = look()
        pause = max(POLL_SECONDS, LOOKING_SHARE * (time.perf_counter() - start))
        if now is None and before is not None:
            complain(f"{shown(str(folder))} cannot be looked into now; what was taken in stays, watching goes on")
        if now is not None and now == before and now != taken_in:
            try:
                run()
                taken_in = now
            except KnowledgeBaseBusy as error:  # the other writer will finish
                complain(f"{shown(str(error))}; trying again")
            except FolderGone as error:  # told once, until the folder changes again
                complain(shown(str(error)))
                taken_in = now
        before = now


def _snapshot(installation: Installation, name: str, paths: Sequence[Path] | None) -> Snapshot | None:
    """None when the folder cannot be looked into: unmounted perhaps, and no reason to forget its documents."""
    from kbqa.ingest import scan

    try:
        found = scan(installation.home.documents(name), paths)
    except (ConfigError, OSError):
        return None
    return {source: (file.size, file.mtime_ns) for source, file in found.items()}
