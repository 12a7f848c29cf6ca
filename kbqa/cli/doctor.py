"""kbqa doctor: what works here, what is missing, and the command that mends it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kbqa.cli.common import Command, Session, pass_session
from kbqa.cli.screen import print_json, say, shown

if TYPE_CHECKING:
    from kbqa.checks import Finding, Level

__all__ = ["doctor"]

MARKS: dict[Level, tuple[str, str]] = {
    "ok": ("ok  ", "green"),
    "note": ("--  ", "bright_black"),
    "warn": ("warn", "yellow"),
    "fail": ("FAIL", "red"),
}


@click.command(cls=Command)
@pass_session
def doctor(session: Session) -> None:
    """Say what works here, what is missing, what mends it."""
    from kbqa.checks import examine

    findings = []
    for finding in examine(lambda: session.home):
        findings.append(finding)
        if not session.json:
            _show(finding)
    failed = sum(finding.level == "fail" for finding in findings)
    warned = sum(finding.level == "warn" for finding in findings)
    if session.json:
        print_json({"findings": [asdict(finding) for finding in findings], "failed": failed, "warned": warned})
    else:
        say()
        say(f"{failed} failed, {warned} to look at" if failed or warned else "all is well", bold=True)
    click.get_current_context().exit(1 if failed else 0)


def _show(finding: Finding) -> None:
    mark, colour = MARKS[finding.level]
    say(mark, fg=colour, end="  ")
    say(f"{shown(finding.subject)}: {shown(finding.detail)}")
    if finding.remedy:
        say(f"      -> {shown(finding.remedy)}", fg=None if finding.level == "note" else colour)
