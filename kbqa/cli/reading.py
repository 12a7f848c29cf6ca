"""kbqa read: what ingestion would see of one file."""

from __future__ import annotations

from pathlib import Path

import click

from kbqa.cli.common import Command, FilePath, Session, pass_session
from kbqa.cli.screen import complain, print_json, say, shown

__all__ = ["read"]


@click.command(cls=Command)
@click.argument("file", type=FilePath())
@pass_session
def read(session: Session, file: Path) -> None:
    """Show what ingestion would see of FILE. Nothing is stored."""
    from kbqa.config import load_config
    from kbqa.errors import ConfigError
    from kbqa.readers import ReadOptions, supports
    from kbqa.sandbox import read_one

    if not file.is_file():
        raise ConfigError(f"{file} is not a file" if file.exists() else f"there is no file {file}")
    limits = load_config(session.home).knowledge
    options = ReadOptions(max_bytes=limits.max_file_mb * 2**20, ocr=limits.ocr)
    document = read_one(file, options=options, seconds=limits.seconds_per_file, memory_mb=limits.memory_mb)
    if session.json:
        print_json(
            {
                "source": document.source,
                "reader": document.reader,
                "title": document.title,
                "pages": document.pages,
                "tables": document.tables,
                "text": document.text,
                "warnings": list(document.warnings),
            }
        )
        return
    pages = "" if document.pages is None else f", {document.pages} pages"
    complain(
        f"{shown(document.source)}: {document.reader}{pages}, {document.tables} tables, {len(document.text)} characters"
    )
    if not supports(file):
        complain(
            f"ingestion leaves it out: kbqa does not take in {shown(file.suffix) or 'files without a suffix'}",
            fg="yellow",
        )
    for warning in document.warnings:
        complain(f"not read: {shown(warning)}", fg="yellow")
    say(shown(document.text, lines=True))
