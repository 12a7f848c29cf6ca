"""The tensors of a model folder, one after another, into a decoder.

Reads `model.safetensors`, `pytorch_model.bin`, and either in shards with an index. Tensors are mapped from their file
and leave memory as soon as they are in their place, so that loading needs hardly more than the model itself.
Nothing is unpickled but tensors (`weights_only=True`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from torch import Tensor, nn

from kbqa.chatglm.architecture import Architecture, read_json
from kbqa.chatglm.decoder import Decoder
from kbqa.chatglm.kernels import speed_up
from kbqa.chatglm.quantization import Bits, GroupedLinear, QuantizedEmbedding, QuantizedLinear
from kbqa.errors import ModelError
from kbqa.importing import is_out_of_memory, one_line

__all__ = ["HF_MODULES", "HF_QKV", "Checkpoint", "load_decoder", "published_names", "tensors_of", "usable"]

SINGLE = ("model.safetensors", "pytorch_model.safetensors", "pytorch_model.bin")
# What torch.load raises for a file of which some bytes are wrong.
DAMAGE = (RuntimeError, OSError, EOFError, UnpicklingError, ValueError, LookupError, TypeError, AttributeError)


class Checkpoint:
    """What tensors a folder holds, and in which files. ModelError when one of the files is missing.

    Some models are published as safetensors and as .bin; one of the two is enough.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = [_listed(path) for name in SINGLE if (path := folder / f"{name}.index.json").is_file()]
        choices = listed or [{path: set()} for name in SINGLE if (path := folder / name).is_file()]
        if not choices:
            raise ModelError(
                f"{folder} holds no weights: neither model.safetensors nor pytorch_model.bin, nor an index"
            )
        self._expected = next((it for it in choices if not _missing(it)), choices[0])
        if missing := _missing(self._expected):
            raise ModelError(
                f"{folder} lacks {len(missing)} of its {len(self._expected)} files of weights: {', '.join(missing)}; "
                "download them again"
            )

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(sorted(self._expected))

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """(published name, tensor) of each, file by file. A tensor is a view of its file: copy what is to stay."""
        for path in self.files:
            seen = set()
            for name, tensor in tensors_of(path):
                seen.add(name)
                yield name, tensor
            if absent := self._expected[path] - seen:
                raise ModelError(f"{path} lacks {min(absent)} and {len(absent) - 1} more of its tensors")


def tensors_of(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
    """What one file holds by name, as views of it; of names that are not wanted hardly anything is read.

    ModelError when it is damaged.
    """
    found = _safetensors(path, wanted) if path.suffix == ".safetensors" else _bin(path)
    return ((name, tensor) for name, tensor in found if wanted(name))


def _listed(index: Path) -> dict[Path, set[str]]:
    """File -> the tensors that the index says are in it."""
    files: dict[Path, set[str]] = {}
    for tensor, name in _weight_map(index).items():
        files.setdefault(index.parent / name, set()).add(tensor)
    return files


def _missing(files: Iterable[Path]) -> list[str]:
    return sorted(path.name for path in files if not path.is_file())


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    usable = isinstance(weight_map, dict) and all(
        isinstance(name, str) and Path(name).name == name for name in weight_map.values()
    )
    if not weight_map or not usable:
        raise ModelError(f"{index} does not say which tensor lies in which file (weight_map)")
    return dict(weight_map)


def _safetensors(path: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, Tensor]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  (not a dict)
                if wanted(name):
                    yield name, file.get_tensor(name)
    except (SafetensorError, OSError) as error:
        if is_out_of_memory(error):
            raise
        raise ModelError(_damaged(path, error)) from error


def _bin(path: Path) -> Iterator[tuple[str, Tensor]]:
    try:
        try:
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            content = torch.load(path, map_location="cpu", weights_only=True)  # files from before torch 1.6
    except DAMAGE as error:
        if is_out_of_memory(error):  # to map a file takes address space
            raise
        raise ModelError(_damaged(path, error)) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold tensors by name")
    while content:
        name, tensor = content.popitem()
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ModelError(f"{path}: {name} is no tensor; this is no file of model weights")
        yield name, tensor


def _damaged(path: Path, error: Exception) -> str:
    said = one_line(error).split(". ")[0][:200]  # torch goes on to explain what to think of it
    return f"{path} ({path.stat().st_size:,} bytes) is damaged or cut off: {said}; download it again"


# --- names -----------------------------------------------------------------------------------------------------------

Part = Literal["weight", "bias", "scale"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a published tensor goes: all of our tensor `name`, or the `part`-th of its blocks of rows."""

    name: str
    part: int | None = None  # of qkv: 0, 1, 2


_V1 = {
    "input_layernorm": "attention_norm",
    "attention.query_key_value": "attention.qkv",
    "attention.dense": "attention.out",
    "post_attention_layernorm": "mlp_norm",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}
_V2 = {
    "input_layernorm": "attention_norm",
    "self_attention.query_key_value": "attention.qkv",
    "self_attention.dense": "attention.out",
    "post_attention_layernorm": "mlp_norm",
    "mlp.dense_h_to_4h": "up",
    "mlp.dense_4h_to_h": "down",
}
HF_MODULES = {
    "input_layernorm": "attention_norm",
    "self_attn.o_proj": "attention.out",
    "post_attention_layernorm": "mlp_norm",
    "mlp.gate_up_proj": "up",
    "mlp.down_proj": "down",
}
HF_QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_OUTSIDE = {
    "transformer.word_embeddings": "embedding",
    "transformer.final_layernorm": "norm",
    "lm_head": "head",
    "transformer.embedding.word_embeddings": "embedding",
    "transformer.encoder.final_layernorm": "norm",
    "transformer.output_layer": "head",
    "model.embed_tokens": "embedding",
    "model.norm": "norm",
}
_IGNORED = re.compile(r"(^|\.)(inv_freq|prefix_encoder\..*|prefix_tokens)$")
_LAYER = re.compile(r"(?:transformer\.layers|transformer\.encoder\.layers|model\.layers)\.(\d+)\.(.+)")


def place_of(name: str) -> Place | None:
    """Where the published tensor `name` goes; None where it is not needed. KeyError for a name of no known model."""
    if _IGNORED.search(name):
        return None
    module, _, part = name.rpartition(".")
    part = "scale" if part == "weight_scale" else part
    if match := _LAYER.fullmatch(module):
        layer, inner = match.groups()
        if inner in HF_QKV:
            return Place(f"blocks.{layer}.attention.qkv.{part}", HF_QKV.index(inner))
        ours = {**_V1, **_V2, **HF_MODULES}[inner]
        return Place(f"blocks.{layer}.{ours}.{part}")
    return Place(f"{_OUTSIDE[module]}.{part}")


def published_names(a: Architecture) -> dict[str, str]:
    """Our modules -> the published ones, in the layout "chatglm"."""
    outside = {
        "embedding": "transformer.word_embeddings" if a.is_v1 else "transformer.embedding.word_embeddings",
        "norm": "transformer.final_layernorm" if a.is_v1 else "transformer.encoder.final_layernorm",
        "head": "lm_head" if a.is_v1 else "transformer.output_layer",
    }
    layers = "transformer.layers" if a.is_v1 else "transformer.encoder.layers"
    inside = {
        f"blocks.{layer}.{ours}": f"{layers}.{layer}.{theirs}"
        for layer in range(a.layers)
        for theirs, ours in (_V1 if a.is_v1 else _V2).items()
    }
    return outside | inside


def by_kind(tensor: Tensor, a: Architecture) -> Tensor:
    """ChatGLM-6B's fused rows, head by head (query, key, value of each), in our order: all queries, keys, values."""
    return tensor.unflatten(0, (a.heads, 3, a.head_dim)).transpose(0, 1).flatten(0, 2)


def by_head(tensor: Tensor, a: Architecture) -> Tensor:
    """The way back from `by_kind`."""
    return tensor.unflatten(0, (3, a.heads, a.head_dim)).transpose(0, 1).flatten(0, 2)


# --- loading ---------------------------------------------------------------------------------------------------------


def load_decoder(
    folder: Path,
    architecture: Architecture,
    dtype: torch.dtype,
    device: torch.device | str,
    bits: Bits | None = None,
    exact: bool = True,
) -> Decoder:
    """The decoder with its weights, on `device`; `bits` quantizes the linear layers of the blocks on the way.

    `exact` computes as the originals do. Otherwise layers are put into the form that is fastest here, and 4 bits given
    on the way get a scale for each small group of columns instead of one for a whole row; the head then gets 8 bits.

    ModelError when tensors are missing, unknown or of the wrong shape, the checkpoint is quantized otherwise, or there
    is no such device.
    """
    a = architecture
    device = usable(device)
    if a.bits and bits and a.bits != bits:
        raise ModelError(f"{folder} is quantized to {a.bits} bits already and cannot be quantized to {bits}")
    with torch.device("meta"):
        decoder = Decoder(a)
    grouped = bits == 4 and not a.bits and not exact and all(it % GroupedLinear.GROUP == 0 for it in _columns(a))
    _prepare(decoder, a, a.bits or bits, dtype, GroupedLinear if grouped else QuantizedLinear)
    if bits and not a.bits and not exact and isinstance(decoder.head, nn.Linear) and not a.is_v1:
        decoder.head = QuantizedLinear(decoder.head, 8)
    loader = _Loader(decoder, a, dtype, device, None if a.bits else bits)
    for name, tensor in Checkpoint(folder):
        try:
            place = place_of(name)
        except KeyError as error:
            raise ModelError(f"{folder} holds a tensor {name}, which no model of the family {a.family} has") from error
        if place and not (a.is_v1 and place.name.startswith("head.")):  # tied below
            loader.put(place, tensor, name)
    if a.is_v1:
        _tie(decoder)
    loader.finish(folder)
    if not exact:
        speed_up(decoder, dtype)
    return decoder.eval().requires_grad_(False)


def usable(name: torch.device | str) -> torch.device:
    """The device of that name; ModelError where torch has none."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError, ImportError) as error:  # a torch without CUDA asserts
        raise ModelError(
            f"the device {name} cannot be used here ({one_line(error)}); cpu always can, for a GPU (cuda, "
            "cuda:1, ...) see `kbqa doctor`"
        ) from error
    return torch.device(name)


def _columns(a: Architecture) -> tuple[int, ...]:
    """Of the matrices that are quantized."""
    return a.hidden, a.heads * a.head_dim, a.inner


def _prepare(
    decoder: Decoder,
    a: Architecture,
    bits: Bits | None,
    dtype: torch.dtype,
    kind: type[QuantizedLinear] | type[GroupedLinear],
) -> None:
    """Puts quantized layers where the model has some; still without memory."""
    if bits is None:
        return
    for block in decoder.blocks:
        for parent, name in ((block.attention, "qkv"), (block.attention, "out"), (block, "up"), (block, "down")):
            setattr(parent, name, kind(getattr(parent, name), bits))
    if a.quantized_embeddings:
        embedding, head = decoder.embedding, decoder.head
        assert isinstance(embedding, nn.Embedding)
        assert isinstance(head, nn.Linear)
        decoder.embedding, decoder.head = QuantizedEmbedding(embedding, bits, dtype), QuantizedLinear(head, bits)


def _tie(decoder: Decoder) -> None:
    """ChatGLM-6B reads and writes with the same matrix, whether or not its folder holds a copy of it."""
    for name in ("weight", "scale"):
        if hasattr(decoder.head, name):
            setattr(decoder.head, name, getattr(decoder.embedding, name))


class _Loader:
    """Fills a decoder on the meta device, tensor by tensor."""

    def __init__(
        self, decoder: Decoder, a: Architecture, dtype: torch.dtype, device: torch.device, bits: Bits | None
    ) -> None:
        self.decoder, self.a, self.dtype, self.device, self.bits = decoder, a, dtype, device, bits
        self._parts: dict[str, dict[int, Tensor]] = {}

    def put(self, place: Place, tensor: Tensor, published: str) -> None:
        if place.part is not None:
            parts = self._parts.setdefault(place.name, {})
            parts[place.part] = tensor.clone()
            if len(parts) < 3:
                return
            del self._parts[place.name]
            tensor = torch.cat([parts[part] for part in range(3)])
        elif self.a.is_v1 and ".attention.qkv." in place.name:
            tensor = by_kind(tensor, self.a)
        module_name, _, part = place.name.rpartition(".")
        module = self._module(module_name, published)
        if part == "weight" and isinstance(module, QuantizedLinear | GroupedLinear) and self.bits:
            self._check(published, tensor, module.shape)
            module.fill(tensor.to(self.device))
        else:
            self._set(module, part, tensor, published)

    def _module(self, name: str, published: str) -> nn.Module:
        try:
            return self.decoder.get_submodule(name)
        except AttributeError as error:
            raise ModelError(
                f"{published} is of a layer that config.json does not have ({self.a.layers} layers)"
            ) from error

    def _set(self, module: nn.Module, part: str, tensor: Tensor, published: str) -> None:
        old = getattr(module, part, None)
        if old is None:
            raise ModelError(f"the model has no {published} under this config.json")
        self._check(published, tensor, tuple(old.shape))
        if old.dtype == torch.int8:
            if tensor.dtype != torch.int8:
                raise ModelError(
                    f"{published} is stored as {tensor.dtype}, but config.json says quantization_bit {self.a.bits}"
                )
            dtype = torch.int8
        elif not tensor.is_floating_point():
            raise ModelError(
                f"{published} is stored as {tensor.dtype}: the weights are quantized, but config.json does not say so "
                "(quantization_bit)"
            )
        else:
            dtype = torch.float16 if part == "scale" else self.dtype
        new = tensor.to(self.device, dtype, copy=True)
        setattr(module, part, new if part in module._buffers else nn.Parameter(new, requires_grad=False))

    def _check(self, published: str, tensor: Tensor, wanted: tuple[int, ...]) -> None:
        if tuple(tensor.shape) != wanted:
            raise ModelError(
                f"{published} is {tuple(tensor.shape)}, but config.json makes it {wanted}: weights and config.json are "
                "not of the same model"
            )

    def finish(self, folder: Path) -> None:
        """ModelError when anything is still without a value."""
        state: Mapping[str, Tensor] = self.decoder.state_dict()
        if missing := [name for name, tensor in state.items() if tensor.is_meta]:
            raise ModelError(
                f"{folder} lacks the weights of {missing[0]} and {len(missing) - 1} more tensors of the model"
            )
        self.decoder.frequencies = self.decoder.frequencies.to(self.device)
