"""Model folders written whole or not at all, their tensors in shards with an index.

Knows nothing about models: names and tensors come in, files come out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from kbqa.errors import ModelError
from kbqa.importing import one_line

__all__ = ["Kind", "Shards", "new_folder", "write_json"]

Kind = Literal["bin", "safetensors"]
STEMS = {"bin": "pytorch_model", "safetensors": "model"}
LIMIT = 2**30  # bytes of a shard: what is kept in memory until it is written


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to write into, which takes the place `folder` once everything is in it.

    Until then it stands beside it as `<name>.partial`, and is removed when something goes wrong. ModelError when there
    is something at `folder` already.
    """
    folder = folder.expanduser().resolve()  # "." has no name that another could stand beside
    if folder.exists() and not folder.is_dir():
        raise ModelError(f"{folder} is a file; name a new folder")
    if folder.exists() and (held := sorted(path.name for path in folder.iterdir())):
        more = f" and {len(held) - 1} more" if len(held) > 1 else ""
        raise ModelError(f"{folder} holds {held[0]}{more}; name a new folder, or an empty one: nothing is overwritten")
    partial = folder.with_name(f"{folder.name}.partial")
    if partial.exists():  # of a run that was killed
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


class Shards:
    """Tensors, one after another, into files of about `limit` bytes; at most one of them is in memory."""

    def __init__(self, folder: Path, kind: Kind, limit: int = LIMIT) -> None:
        self._folder, self._kind, self._limit = folder, kind, limit
        self._held: dict[str, Tensor] = {}
        self._written: list[tuple[Path, tuple[str, ...]]] = []
        self._bytes = self._total = 0

    def add(self, name: str, tensor: Tensor) -> None:
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().nbytes() != tensor.nbytes:  # a part of a larger one, which would be saved whole
            tensor = tensor.clone()
        if self._held and self._bytes + tensor.nbytes > self._limit:
            self.close_file()
        self._held[name] = tensor
        self._bytes += tensor.nbytes
        self._total += tensor.nbytes

    def close_file(self) -> None:
        """Ends the present file; what comes next goes into another."""
        if not self._held:
            return
        path = self._folder / f"{STEMS[self._kind]}-{len(self._written) + 1:05}.{self._kind}"
        _save(path, self._held, self._kind)
        self._written.append((path, tuple(self._held)))
        self._held, self._bytes = {}, 0

    def finish(self) -> None:
        """Names the files as they are published: with their number, which is known only now."""
        self.close_file()
        stem, count = STEMS[self._kind], len(self._written)
        if count == 1:
            self._written[0][0].rename(self._folder / f"{stem}.{self._kind}")
            return
        weight_map: dict[str, str] = {}
        for number, (path, names) in enumerate(self._written, 1):
            named = path.rename(self._folder / f"{stem}-{number:05}-of-{count:05}.{self._kind}")
            weight_map |= dict.fromkeys(names, named.name)
        index = {"metadata": {"total_size": self._total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(self._folder / f"{stem}.{self._kind}.index.json", index)


def _save(path: Path, tensors: dict[str, Tensor], kind: Kind) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        if kind == "bin":
            torch.save(tensors, path)
        else:
            save_file(tensors, path, metadata={"format": "pt"})
    except (RuntimeError, SafetensorError) as error:  # neither says which file it was
        raise ModelError(f"{path} cannot be written: {one_line(error)[:200]}; is the disk full?") from error
