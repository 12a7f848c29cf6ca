"""A full checkpoint to one of 8 or 4 bits, in the layout of the published quantized releases.

The linear layers of the blocks become int8 with a float16 scale a row; everything else stays as it is. The numbers are
those that the originals' own quantize() gives, so that their code, and any that reads the releases, reads the folder.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from kbqa.chatglm.architecture import Architecture, Family, read_architecture, read_json
from kbqa.chatglm.checkpoint import Checkpoint, Place, place_of
from kbqa.chatglm.inventory import Inventory
from kbqa.chatglm.quantization import Bits, quantize
from kbqa.chatglm.writing import Kind, Shards, new_folder, write_json
from kbqa.errors import ModelError

__all__ = ["quantize_folder"]

QUANTIZED = (".attention.qkv.weight", ".attention.out.weight", ".up.weight", ".down.weight")
ROWS = 1024  # quantized at a time, so that what is computed between needs little memory
WEIGHTS = ("*.bin", "*.safetensors", "*.bin.index.json", "*.safetensors.index.json")


def quantize_folder(source: Path, out: Path, bits: Bits, family: Family | None = None) -> Architecture:
    """Writes the model in `source` into the new folder `out`; further files are copied as they are.

    The weights are read and written tensor by tensor. ModelError for a model that is quantized already, and for one in
    the layout of transformers, which has no place for scales.
    """
    a = read_architecture(source, family)
    if a.bits:
        raise ModelError(f"{source} is quantized to {a.bits} bits already; quantize the full checkpoint instead")
    if a.layout == "glm":
        raise ModelError(
            f"{source} is in the layout of transformers, which has no place for the scales; quantize the original "
            "folder, or while loading (generator.quantize: 4)"
        )
    checkpoint = Checkpoint(source)
    kind: Kind = "safetensors" if checkpoint.files[0].suffix == ".safetensors" else "bin"
    with new_folder(out) as folder:
        _copy_others(source, folder)
        write_json(folder / "config.json", read_json(source / "config.json") | _settings(a, bits))
        shards = Shards(folder, kind)
        inventory = Inventory(source, a)
        for name, tensor in checkpoint:
            place = _place(name, a)
            if place:
                inventory.check(place.name, tensor)
            if place and place.name.endswith(QUANTIZED):
                parts = [quantize(rows, bits) for rows in tensor.split(ROWS)]
                shards.add(name, torch.cat([packed for packed, _ in parts]))
                shards.add(f"{name}_scale", torch.cat([scale for _, scale in parts]))
            else:
                shards.add(name, tensor)
        inventory.finish()
        shards.finish()
    return a


def _settings(a: Architecture, bits: Bits) -> dict[str, object]:
    return {"quantization_bit": bits} | ({"quantization_embeddings": False} if a.is_v1 else {})


def _place(name: str, a: Architecture) -> Place | None:
    try:
        return place_of(name)
    except KeyError as error:
        raise ModelError(f"the checkpoint holds a tensor {name}, which no {a.family} model has") from error


def _copy_others(source: Path, folder: Path) -> None:
    for path in source.iterdir():
        if path.is_file() and not any(path.match(pattern) for pattern in WEIGHTS):
            shutil.copyfile(path, folder / path.name)
