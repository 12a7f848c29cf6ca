"""kbqa init and kbqa completion: what a user does once."""

from __future__ import annotations

import os
from pathlib import Path

import click

from kbqa.cli.common import Command, FilePath, Session, pass_session
from kbqa.cli.screen import complain, print_json, say, shown
from kbqa.config import resolved
from kbqa.errors import ConfigError

__all__ = ["completion", "init"]


@click.command(cls=Command)
@click.argument("folder", metavar="[DIR]", required=False, type=FilePath())
@pass_session
def init(session: Session, folder: Path | None) -> None:
    """Make the folders and config.yaml in DIR.

    DIR is the current folder if not given. What is there already stays as it is.
    """
    home = resolved(folder or session.home_given or ".")
    if home.exists() and not home.is_dir():
        raise ConfigError(f"{home} is a file; name a folder")
    documents, vectorstore = home / "knowledge" / "default", home / "vectorstore"
    made: list[str] = []
    for place in (documents, vectorstore):
        if not place.is_dir():
            place.mkdir(parents=True)
            made.append(f"{place.relative_to(home).as_posix()}/")
    written = {
        home / "config.yaml": _shipped("config.yaml"),
        home / "knowledge" / "default.synonyms.txt": _shipped("synonyms.txt"),
        vectorstore / ".gitignore": "*\n",
    }
    for path, text in written.items():
        if not path.exists():
            _write(path, text)
            made.append(path.relative_to(home).as_posix())
    if session.json:
        print_json({"home": str(home), "made": made})
        return
    say(f"{shown(str(home))}: " + (f"made {', '.join(made)}" if made else "everything is there already"))
    there = "" if home == Path.cwd() else f" --home {shown(str(home))}"
    say("\nPut documents into knowledge/default/, then:\n")
    say(f"  kbqa{there} ingest")
    say(f'  kbqa{there} ask "年假有几天？"')


def _shipped(name: str) -> str:
    from importlib.resources import files

    return (files("kbqa") / "data" / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    """The whole text or no file: what lies there already is never touched again."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        path.unlink(missing_ok=True)
        raise OSError(error.errno, error.strerror, str(path)) from error  # a write that fails does not say where


PLACES = {
    "bash": ("~/.local/share/bash-completion/completions/kbqa", ""),
    "zsh": ("~/.zfunc/_kbqa", " (with `fpath+=~/.zfunc; autoload -U compinit; compinit` in ~/.zshrc)"),
    "fish": ("~/.config/fish/completions/kbqa.fish", ""),
}


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(list(PLACES)), required=False, metavar="[bash|zsh|fish]")
@pass_session
@click.pass_context
def completion(context: click.Context, session: Session, shell: str | None) -> None:
    """Print the script for completion in a shell."""
    from click.shell_completion import get_completion_class

    mine = Path(os.environ.get("SHELL", "")).name
    shell = shell or (mine if mine in PLACES else "bash")
    completer = get_completion_class(shell)
    if completer is None:
        raise ConfigError(f"there is no completion for {shell}")
    place, further = PLACES[shell]
    script = completer(context.find_root().command, {}, "kbqa", "_KBQA_COMPLETE").source()
    if session.json:
        print_json({"shell": shell, "script": script, "place": place})
        return
    say(script)
    complain(f"# keep it: kbqa completion {shell} > {place}{further}")
