"""What all commands share: the options --home and --json, the home folder they lead to, and the handling of errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kbqa.cli.screen import complain, print_json, shown
from kbqa.config import Home, find_home, load_config
from kbqa.errors import ConfigError, KbqaError
from kbqa.idle import idle_settings

if TYPE_CHECKING:
    from kbqa.build import Installation

__all__ = [
    "Command",
    "FilePath",
    "Group",
    "Root",
    "Session",
    "base_name",
    "kb_option",
    "known_names",
    "pass_session",
    "typed",
]

WRITERS = ("ingest", "add", "kb", "tune")
INTERRUPTED = 130  # what a shell reports for a program that Ctrl-C ended
REMEDIES = {
    errno.EACCES: "give this user the right to read and write it",
    errno.ENOSPC: "free some space and run the command again",
    errno.EROFS: "mount its file system for writing",
}
F = TypeVar("F", bound=Callable[..., Any])


class Session:
    """One call of kbqa: what --home and --json said."""

    def __init__(self) -> None:
        self.home_given: str | None = None
        self.json = False

    @property
    def home(self) -> Home:
        return find_home(self.home_given)

    def installation(self, workers: int | None = None, settings: Path | None = None) -> Installation:
        """The home folder with its parts; `workers` takes the place of knowledge.workers, `settings` of config.yaml."""
        from kbqa.build import Installation

        home = self.home
        config = load_config(home, path=settings)
        if workers is not None:
            config = replace(config, knowledge=replace(config.knowledge, workers=workers))
        for idle in idle_settings(config):
            complain(f"kbqa: {idle}", dim=True)
        return Installation(home, config)


pass_session = click.make_pass_decorator(Session, ensure=True)


def _remember_home(context: click.Context, _: click.Parameter, value: str | None) -> None:
    session = context.ensure_object(Session)
    session.home_given = value or session.home_given


def _remember_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    session = context.ensure_object(Session)
    session.json = value or session.json


def _shared_options() -> list[click.Parameter]:
    return [
        click.Option(
            ["--home"],
            metavar="DIR",
            expose_value=False,
            is_eager=True,
            callback=_remember_home,
            help="The folder with config.yaml, knowledge/ and vectorstore/; else KBQA_HOME, "
            "else the current folder or its nearest parent with a config.yaml.",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_remember_json,
            help="Print JSON, for programs.",
        ),
    ]


class Command(click.Command):
    """A command that takes the shared options."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += _shared_options()


class Group(click.Group):
    command_class = Command
    group_class = type

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params += _shared_options()

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were defined, which is the order in which a user meets them."""
        return list(self.commands)


class Root(Group):
    """The one place where an error becomes a line on standard error and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            kept = "; everything that was reported as done is kept" if ctx.invoked_subcommand in WRITERS else ""
            complain(f"\ninterrupted{kept}")
            ctx.exit(INTERRUPTED)
        except (KbqaError, OSError) as error:
            if os.environ.get("KBQA_DEBUG") or _is_broken_pipe(error):
                raise  # click ends silently on a broken pipe
            message = _message(error)
            complain(f"kbqa: {message}", fg="red")
            if ctx.ensure_object(Session).json:
                print_json({"error": {"type": type(error).__name__, "message": message}})
            ctx.exit(1)


def _is_broken_pipe(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.EPIPE


def _message(error: KbqaError | OSError) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        remedy = f"; {REMEDIES[error.errno]}" if error.errno in REMEDIES else ""
        return shown(f"{where}{error.strerror}{remedy}")
    return shown(str(error))


def typed(text: str) -> str:
    """Words typed by a user, as UTF-8 whatever the locale says; bytes that are not become U+FFFD."""
    return os.fsencode(text).decode(errors="replace")


class FilePath(click.Path):
    """A path as it is given; whether anything lies there is for the command to say, in its own words."""

    def __init__(self) -> None:
        super().__init__(readable=False, path_type=Path)

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        if not str(value):
            raise ConfigError("a path is empty; name a file or a folder")
        return super().convert(value, parameter, context)


def base_name(text: str) -> str:
    """A name given for a knowledge base; what may name one is checked where it is used."""
    if not text.strip():
        raise ConfigError("the name of the knowledge base is empty")
    return typed(text)


def known_names(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
    """For the shell's completion: folders below knowledge/ and vectorstore/."""
    try:
        home = context.ensure_object(Session).home
    except KbqaError:
        return []
    names = {path.name for folder in (home.knowledge, home.vectorstore) for path in _folders(folder)}
    return sorted(name for name in names if name.startswith(incomplete))


def _folders(folder: Any) -> Iterable[Any]:
    return [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []


def kb_option(required: bool = False) -> Callable[[F], F]:
    return click.option(
        "--kb",
        metavar="NAME",
        required=required,
        type=base_name,
        shell_complete=known_names,
        help="The knowledge base." if required else "The knowledge base; else knowledge.default of config.yaml.",
    )
