"""Checkpoints that are whole or not there, whatever happens while they are written; and the folder of a run."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kbqa.chatglm.writing import write_json
from kbqa.errors import ConfigError
from kbqa.tuning.curve import EVENTS, PICTURE

__all__ = ["begin_run", "check_run", "checkpoints", "newest", "remove", "written_whole"]

SETTINGS = "settings.json"  # of the run, beside its checkpoints
SAVING = ".saving"
REMOVING = ".removing"
FILES = (SETTINGS, PICTURE, f".{PICTURE}")
FOLDERS = (SAVING, REMOVING, EVENTS)
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")


@contextmanager
def written_whole(folder: Path) -> Iterator[Path]:
    """A folder to write into, which is at `folder` once everything in it is on disk."""
    parent = folder.parent / SAVING
    shutil.rmtree(parent, ignore_errors=True)
    partial = parent / folder.name
    partial.mkdir(parents=True)
    try:
        yield partial
        for path in (*partial.rglob("*"), partial):
            _sync(path)
        remove(folder)
        partial.rename(folder)
        _sync(folder.parent)
    finally:
        shutil.rmtree(parent, ignore_errors=True)


def remove(folder: Path) -> None:
    """At once: what is half removed has not the name of a checkpoint any more."""
    if folder.exists():
        aside = folder.parent / REMOVING
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _sync(path: Path) -> None:
    windows = os.name == "nt"
    if windows and path.is_dir():  # which has no such thing
        return
    handle = os.open(path, os.O_RDWR if windows else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def checkpoints(run: Path) -> list[tuple[int, Path]]:
    """(step, folder) of those in the folder of a run, the oldest first."""
    if not run.is_dir():
        return []
    found = ((_CHECKPOINT.fullmatch(path.name), path) for path in run.iterdir() if path.is_dir())
    return sorted((int(match[1]), path) for match, path in found if match)


def newest(run: Path) -> Path | None:
    found = checkpoints(run)
    return found[-1][1] if found else None


def check_run(run: Path, settings: Mapping[str, Any], *, resume: bool, overwrite: bool) -> None:
    """ConfigError when another run is there, when there is none to go on with, and when that one was another."""
    path = run / SETTINGS
    if resume:
        _check_same(path, run, settings)
        return
    if not run.exists() or (run.is_dir() and not any(run.iterdir())):
        return
    broken_off = path.is_file() and newest(run) is None  # before anything was saved
    if not overwrite and not broken_off:
        raise ConfigError(
            f"{run} is there already; go on with that run by --resume, name another output_dir, or say "
            "--overwrite_output_dir to remove it"
        )
    if not path.is_file():
        raise ConfigError(f"{run} holds no run of kbqa tune and is not removed; name another output_dir")


def begin_run(run: Path, settings: Mapping[str, Any]) -> None:
    """Makes the folder of a run and writes down what it is; of a run that is there, what `check_run` let pass, nothing
    is left but what somebody else put into its folder."""
    for path in run.iterdir() if run.is_dir() else ():
        if path.is_dir() and (path.name in FOLDERS or _CHECKPOINT.fullmatch(path.name)):
            shutil.rmtree(path)
        elif path.name in FILES:
            path.unlink()
    run.mkdir(parents=True, exist_ok=True)
    write_json(run / SETTINGS, dict(settings))


def _check_same(path: Path, run: Path, settings: Mapping[str, Any]) -> None:
    if newest(run) is None:
        raise ConfigError(f"{run} holds no checkpoint to go on from; leave --resume out")
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}, which says what the run was, cannot be read: {error}") from error
    other = [name for name, value in settings.items() if before.get(name) != value]
    if other:
        told = ", ".join(f"{name} {before.get(name)!r}, now {settings[name]!r}" for name in other)
        raise ConfigError(f"the run in {run} was another: {told}; go on with the same settings, or begin a new one")
