"""kbqa kb: the knowledge bases that there are, and what can be done to one as a whole."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbqa.cli.common import FilePath, Group, Session, base_name, known_names, pass_session
from kbqa.cli.ingesting import print_files, print_report
from kbqa.cli.screen import complain, print_json, say, shown, table
from kbqa.config import ingest_command
from kbqa.errors import ConfigError, KbqaError
from kbqa.fields import base_fields, document_fields, passport_fields

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.store import StoredDocument

__all__ = ["bases"]

name_argument = click.argument("name", type=base_name, shell_complete=known_names)


@click.group("kb", cls=Group)
def bases() -> None:
    """Knowledge bases: list, show, verify, back up, restore, delete."""


@bases.command("list")
@pass_session
def list_bases(session: Session) -> None:
    """List the bases, also those that are not built yet."""
    installation = session.installation()
    rows = [_summary_or_error(installation, name) for name in installation.bases()]
    rows += [base_fields(name, None) for name in installation.unbuilt()]
    if session.json:
        print_json({"bases": rows})
    elif not rows:
        say("there are none; `kbqa init` makes the folders")
    else:
        table(("name", "documents", "failed", "passages", "size", "note"), [_row(row) for row in rows], header=True)


def _summary(installation: Installation, name: str) -> dict[str, Any]:
    with installation.store(name) as store:
        return base_fields(name, store.counts())


def _summary_or_error(installation: Installation, name: str) -> dict[str, Any]:
    """One base that cannot be opened does not hide the others."""
    try:
        return _summary(installation, name)
    except (KbqaError, OSError) as error:
        unknown = dict.fromkeys(("documents", "failed", "chunks", "bytes"))
        return {"name": name, "built": True, **unknown, "error": str(error), "error_type": type(error).__name__}


def _row(row: dict[str, Any]) -> tuple[object, ...]:
    if "error" in row:
        return row["name"], None, None, None, None, row["error"]
    note = "" if row["built"] else f"not built: {ingest_command(row['name'])}"
    return row["name"], row["documents"], row["failed"], row["chunks"], _size(row["bytes"]), note


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


@bases.command()
@name_argument
@pass_session
def show(session: Session, name: str) -> None:
    """Show what NAME holds and what it was built with."""
    from kbqa.splitter import in_words

    installation = session.installation()
    name = installation.name(name)
    summary = _summary(installation, name)
    with installation.store(name) as store:
        passport = passport_fields(store.passport)
    folders = {
        "knowledge": str(installation.home.documents(name)),
        "vectorstore": str(installation.home.base(name)),
    }
    if session.json:
        print_json({**summary, **folders, "passport": passport})
        return
    summary["size"] = _size(summary.pop("bytes"))
    summary.pop("built")
    passport["splitter"] = in_words(passport["splitter"])
    for key, value in {**summary, **folders, **passport}.items():
        say(f"{key + ':':22} {shown(str(value))}")


@bases.command()
@name_argument
@pass_session
def documents(session: Session, name: str) -> None:
    """List the documents of NAME and why some failed."""
    with session.installation().store(name) as store:
        stored = sorted(store.documents(), key=lambda document: (document.status != "failed", document.source))
    if session.json:
        print_json({"documents": [document_fields(document) for document in stored]})
    else:
        table(("status", "document", "passages", "pages", "taken in", "error"), [_document_row(d) for d in stored])


def _document_row(document: StoredDocument) -> tuple[object, ...]:
    error = document.error.removeprefix(f"{document.source}: ")
    taken_in = f"{datetime.fromtimestamp(document.updated_at):%Y-%m-%d %H:%M}"
    return document.status, document.source, document.chunks, document.pages, taken_in, error


@bases.command()
@name_argument
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_session
def delete(session: Session, name: str, yes: bool) -> None:
    """Delete NAME. The documents in knowledge/ stay."""
    installation = session.installation()
    name = installation.name(name)
    if name not in installation.bases():
        raise installation.unknown(name)
    if not yes:
        if not sys.stdin.isatty() or session.json:
            raise ConfigError(f"add --yes to delete {name} without being asked")
        click.confirm(f"Delete {shown(name)} ({_contents(installation, name)})?", abort=True, err=True)
    installation.delete(name)
    kept = installation.home.documents(name)
    if session.json:
        print_json({"deleted": name, "kept": str(kept) if kept.is_dir() else None})
    else:
        say(f"deleted {shown(name)}" + (f"; the documents in {shown(str(kept))} stay" if kept.is_dir() else ""))


def _contents(installation: Installation, name: str) -> str:
    """What would be lost, as far as the base itself can still tell."""
    try:
        with installation.store(name) as store:
            pushed = sum(document.origin == "api" for document in store.documents())
            count = store.counts().documents
    except KbqaError as error:
        complain(shown(str(error)), fg="yellow")
        return "what it holds cannot be told"
    return f"{count} documents" + (f", {pushed} of them pushed by a program and nowhere else" if pushed else "")


@bases.command()
@name_argument
@click.option("--no-mend", is_flag=True, help="Only look: leave damaged indexes as they are.")
@pass_session
def verify(session: Session, name: str, no_mend: bool) -> None:
    """Check every part of NAME and mend what can be mended."""
    from kbqa.store import verify as verify_base

    installation = session.installation()
    name = installation.name(name)
    report = verify_base(installation.home.base(name), mend=not no_mend)
    if session.json:
        print_json({"name": name, "sound": report.sound, "findings": [asdict(finding) for finding in report.findings]})
    else:
        for finding in report.findings:
            say(f"{'mended' if finding.mended else 'not mended'}: {shown(finding.what)}")
        state, colour = ("sound", "green") if report.sound else ("damaged", "red")
        say(f"{shown(name)} is {state}: {report.chunks} passages of {report.documents} files", fg=colour)
    click.get_current_context().exit(0 if report.sound else 1)


@bases.command()
@name_argument
@click.argument("file", type=FilePath())
@pass_session
def backup(session: Session, name: str, file: Path) -> None:
    """Write NAME into one FILE, while it goes on answering."""
    from kbqa.store import backup as back_up

    installation = session.installation()
    name = installation.name(name)
    back_up(installation.home.base(name), file)
    size = file.stat().st_size
    if session.json:
        print_json({"name": name, "file": str(file), "bytes": size})
    else:
        say(f"{shown(name)} is in {shown(str(file))} ({_size(size)}); the files in knowledge/ are not part of it")


@bases.command()
@click.argument("file", type=FilePath())
@click.option("--kb", "name", metavar="NAME", type=base_name, help="The name for it; else the one it had.")
@click.option("--replace", is_flag=True, help="Take the place of a base of that name.")
@pass_session
def restore(session: Session, file: Path, name: str | None, replace: bool) -> None:
    """Make a base from a FILE that `kbqa kb backup` wrote."""
    from kbqa.store import backup_name
    from kbqa.store import restore as restore_base

    installation = session.installation()
    name = installation.name(name or backup_name(file))
    restore_base(file, installation.home.base(name), replace=replace)
    summary = _summary(installation, name)
    if session.json:
        print_json(summary)
    else:
        say(f"{shown(name)} is back: {summary['documents']} documents, {summary['chunks']} passages")


@bases.command("import-langchain")
@click.argument("folder", type=FilePath())
@click.option("--kb", "name", metavar="NAME", required=True, type=base_name)
@pass_session
def import_langchain(session: Session, folder: Path, name: str) -> None:
    """Take in a FAISS index that LangChain saved.

    FOLDER holds index.faiss and index.pkl, which is read without running anything in it.
    """
    from kbqa.bridge import import_langchain as read_index

    report = session.installation().add_documents(name, read_index(folder))
    print_files(report.files, session.json)
    print_report(report, session.json)
