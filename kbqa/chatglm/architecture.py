"""What a model folder's config.json says, for each of the four families and both layouts of GLM-4.

    chatglm     ChatGLM-6B                          layout "chatglm", two-dimensional positions
    chatglm2    ChatGLM2-6B, -32k                   layout "chatglm"
    chatglm3    ChatGLM3-6B, -base, -32k, -128k     layout "chatglm"
    glm4        GLM-4-9b, -chat, -1m                layout "chatglm", or "glm" (the -hf folders)

Knows nothing about tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from kbqa.errors import ModelError

__all__ = ["Architecture", "DType", "Family", "Layout", "read_architecture", "read_json"]

Family = Literal["chatglm", "chatglm2", "chatglm3", "glm4"]
Layout = Literal["chatglm", "glm"]
DType = Literal["float32", "float16", "bfloat16"]

ROPE_BASE = 10_000.0
MOST = float(2**53)  # of a number in config.json; JSON has infinity and numbers that no float can hold

_MARKS: dict[str, Family] = {"glm-4": "glm4", "glm4": "glm4", "chatglm3": "chatglm3", "chatglm2": "chatglm2"}


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes and habits of one model. Field names are the field's, not the published configs'."""

    family: Family
    layout: Layout
    layers: int
    hidden: int
    heads: int
    groups: int  # heads of keys and values; as many as `heads` in ChatGLM-6B
    head_dim: int
    inner: int  # width of the feed-forward part; with a gate: of the gate, and again of what it gates
    vocabulary: int  # rows of the embedding
    eps: float  # of the norms
    context: int  # tokens, prompt and answer together
    eos: tuple[int, ...]
    pad: int
    dtype: DType  # of the stored weights
    qkv_bias: bool = True
    rope_base: float = ROPE_BASE
    rope_scale: float = 1.0  # positions are divided by it (ChatGLM2-6B-32k interpolates them)
    rotary: int = 0  # channels of a head that are rotated
    bits: Literal[4, 8] | None = None  # of the stored weights, when they are quantized
    quantized_embeddings: bool = False
    mask: int = -1  # ChatGLM-6B: the ids that its positions depend on
    gmask: int = -1
    sop: int = -1

    @property
    def is_v1(self) -> bool:
        """ChatGLM-6B is built differently: LayerNorm, two-dimensional positions, a prompt that sees itself whole."""
        return self.family == "chatglm"

    @property
    def parameters(self) -> int:
        """How many numbers the model has, embeddings included; tied weights count once."""
        qkv = (self.heads + 2 * self.groups) * self.head_dim
        linears = self.hidden * (qkv + self.heads * self.head_dim + self.inner * (2 if self.is_v1 else 3))
        biases = qkv * self.qkv_bias
        if self.is_v1:
            biases += self.hidden + self.inner + self.hidden + 4 * self.hidden  # dense, feed-forward, two norms
            return self.layers * (linears + biases) + self.vocabulary * self.hidden + 2 * self.hidden
        return self.layers * (linears + biases + 2 * self.hidden) + (2 * self.vocabulary + 1) * self.hidden


def read_architecture(folder: Path, family: Family | None = None) -> Architecture:
    """The architecture of the model in `folder`.

    `family` decides where the config does not tell ChatGLM2 from ChatGLM3. ModelError when the folder holds no model of
    these families, when a value is missing or impossible, and when `family` contradicts what is found.
    """
    if not folder.is_dir():
        raise ModelError(f"there is no model folder {folder}")
    if family is not None and family not in get_args(Family):
        raise ModelError(f"{family!r} is not a family; there are: {', '.join(get_args(Family))}")
    config = read_json(folder / "config.json")
    model_type = config.get("model_type")
    if model_type not in ("chatglm", "glm"):
        raise ModelError(
            f"{folder / 'config.json'} describes a model of type {model_type!r}, not one of the ChatGLM family "
            "(chatglm, or glm for GLM-4 -hf); other models are served by generator.kind: transformers or openai"
        )
    if config.get("vision_config"):
        raise ModelError(f"{folder} holds a model that sees images (GLM-4V, CogVLM); only text models are supported")
    values = _Values(folder / "config.json", config)
    found = _family(folder, config)
    if found is None and family is None:
        raise ModelError(
            f"nothing in {folder} tells whether it is ChatGLM2 or ChatGLM3, whose prompts differ; say so with "
            'family: chatglm2 or chatglm3 (in Python: family="chatglm3")'
        )
    family = _agreed(folder, found, family)
    if model_type == "glm":
        return _hf(values, family)
    return _v1(values) if family == "chatglm" else _v2(values, family)


def read_json(path: Path) -> dict[str, Any]:
    """ModelError when the file is not there, or holds no JSON object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} has no {path.name}: it is no model folder, or its download is incomplete"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return content


def _family(folder: Path, config: Mapping[str, Any]) -> Family | None:
    """None where the config is that of ChatGLM2 or of ChatGLM3, which are the same, and no name tells them apart."""
    if config["model_type"] == "glm":
        return _converted(folder, config)
    if "padded_vocab_size" not in config:
        return "chatglm"
    tokenizer = folder / "tokenizer_config.json"
    said = tokenizer.read_text(encoding="utf-8", errors="replace") if tokenizer.is_file() else ""
    if "ChatGLM4Tokenizer" in said:
        return "glm4"
    names = [str(config.get("_name_or_path", "")), said, folder.name, folder.resolve().name]
    for mark, family in _MARKS.items():
        if any(mark in name.lower() for name in names):
            return family
    if isinstance(config.get("eos_token_id"), list) and "ChatGLMTokenizer" not in said:
        return "glm4"  # a list alone does not tell: it is also how ChatGLM3's roles are made to end an answer
    return "chatglm3" if "<|observation|>" in said else None


def _converted(folder: Path, config: Mapping[str, Any]) -> Family:
    """The family that `kbqa model convert` wrote down; a folder without it is GLM-4's own."""
    family = config.get("chatglm_family", "glm4")
    if family not in get_args(Family) or family == "chatglm":
        raise ModelError(f"{folder / 'config.json'}: chatglm_family is {family!r}, no family that this layout can hold")
    return family


def _agreed(folder: Path, found: Family | None, given: Family | None) -> Family:
    """The family, when what is given can be: ChatGLM2 and ChatGLM3 may stand in for each other, a name can mislead."""
    same = ({"chatglm2", "chatglm3"},)
    if given and found and given != found and not any({given, found} <= kinds for kinds in same):
        raise ModelError(f"{folder} holds a model of the family {found}, not {given}")
    family = given or found
    assert family is not None
    return family


class _Values:
    """Numbers of a config.json, checked when taken."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self.path = path
        self.config = config

    def count(self, *names: str, default: int | None = None) -> int:
        """A whole number above 0, under the first of `names` that is there."""
        value = self._first(names, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"{self.path}: {names[0]} is {value!r}, it must be a whole number above 0")
        return value

    def number(self, *names: str, default: float | None = None) -> float:
        value = self._first(names, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MOST:
            raise ModelError(f"{self.path}: {names[0]} is {value!r}, it must be a number above 0")
        return float(value)

    def identifier(self, name: str, default: int | None = None) -> int:
        value = self._first((name,), default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ModelError(f"{self.path}: {name} is {value!r}, it must be the id of a token")
        return value

    def eos(self, default: int | None = None) -> tuple[int, ...]:
        value = self._first(("eos_token_id",), default)
        ids = value if isinstance(value, list) else [value]
        if not ids or not all(isinstance(it, int) and it >= 0 for it in ids):
            raise ModelError(f"{self.path}: eos_token_id is {value!r}, it must be one id or a list of ids")
        return tuple(ids)

    def refuse(self, **expected: Any) -> None:
        """Settings that no published model has otherwise, and that this engine therefore does not know."""
        for name, value in expected.items():
            if (given := self.config.get(name, value)) != value:
                raise ModelError(f"{self.path}: {name} is {given!r}; only {value!r}, as in every release, is supported")

    def bits(self) -> Literal[4, 8] | None:
        value = self.config.get("quantization_bit") or None
        if value not in (None, 4, 8):
            raise ModelError(f"{self.path}: quantization_bit is {value!r}, it must be 4 or 8, or 0 for none")
        return value

    def dtype(self) -> DType:
        said = str(self.config.get("torch_dtype") or self.config.get("dtype") or "float16").removeprefix("torch.")
        dtype = next((it for it in get_args(DType) if it == said), None)
        if dtype is None:
            raise ModelError(f"{self.path}: torch_dtype is {said!r}, it must be one of {', '.join(get_args(DType))}")
        return dtype

    def _first(self, names: tuple[str, ...], default: Any) -> Any:
        value = next((self.config[name] for name in names if self.config.get(name) is not None), default)
        if value is None:
            raise ModelError(f"{self.path} does not say {names[0]}")
        return value


def _v1(values: _Values) -> Architecture:
    values.refuse(position_encoding_2d=True)
    hidden, heads = values.count("hidden_size"), values.count("num_attention_heads")
    head_dim = _divided(values, hidden, heads)
    sop = values.identifier("bos_token_id")
    return Architecture(
        family="chatglm",
        layout="chatglm",
        layers=values.count("num_layers"),
        hidden=hidden,
        heads=heads,
        groups=heads,
        head_dim=head_dim,
        inner=values.count("inner_hidden_size", default=4 * hidden),
        vocabulary=values.count("vocab_size"),
        eps=values.number("layernorm_epsilon", default=1e-5),
        context=values.count("max_sequence_length", default=2048),
        eos=values.eos(),
        pad=values.identifier("pad_token_id", 3),
        dtype=values.dtype(),
        rotary=head_dim,
        bits=values.bits(),
        quantized_embeddings=bool(values.config.get("quantization_embeddings")),
        mask=values.identifier("mask_token_id", sop - 4),  # the first releases do not say; the order was always this
        gmask=values.identifier("gmask_token_id", sop - 3),
        sop=sop,
    )


def _v2(values: _Values, family: Family) -> Architecture:
    values.refuse(
        add_bias_linear=False,
        rmsnorm=True,
        post_layer_norm=True,
        apply_residual_connection_post_layernorm=False,
        original_rope=True,
    )
    hidden, heads = values.count("hidden_size"), values.count("num_attention_heads")
    head_dim = values.count("kv_channels", default=hidden // heads)
    groups = values.count("multi_query_group_num") if values.config.get("multi_query_attention") else heads
    if heads % groups:
        raise ModelError(f"{values.path}: {heads} heads cannot be shared by {groups} groups (multi_query_group_num)")
    ratio = values.number("rope_ratio", default=1.0)
    # ChatGLM2-6B-32k divides the positions by the ratio; ChatGLM3-6B-32k and GLM-4 multiply the base by it.
    interpolated = family == "chatglm2"
    return Architecture(
        family=family,
        layout="chatglm",
        layers=values.count("num_layers", "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        groups=groups,
        head_dim=head_dim,
        inner=values.count("ffn_hidden_size"),
        vocabulary=values.count("padded_vocab_size"),
        eps=values.number("layernorm_epsilon", default=1e-5),
        context=values.count("seq_length"),
        eos=values.eos(2),
        pad=values.identifier("pad_token_id", 0),
        dtype=values.dtype(),
        qkv_bias=bool(values.config.get("add_qkv_bias", False)),
        rope_base=ROPE_BASE * (1.0 if interpolated else ratio),
        rope_scale=ratio if interpolated else 1.0,
        rotary=head_dim // 2,
        bits=values.bits(),
    )


def _hf(values: _Values, family: Family) -> Architecture:
    """GLM-4's `-hf` layout, and what `kbqa model convert` writes."""
    values.refuse(hidden_act="silu", tie_word_embeddings=False)
    hidden, heads = values.count("hidden_size"), values.count("num_attention_heads")
    head_dim = values.count("head_dim", default=hidden // heads)
    rope = values.config.get("rope_parameters") or values.config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default" if isinstance(rope, dict) else rope
    if kind not in ("default", "linear"):
        raise ModelError(
            f"{values.path}: rope_parameters.rope_type is {kind!r}; only 'default' and 'linear' are supported"
        )
    nested = _Values(values.path, {**values.config, **rope})
    return Architecture(
        family=family,
        layout="glm",
        layers=values.count("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        groups=values.count("num_key_value_heads"),
        head_dim=head_dim,
        inner=values.count("intermediate_size"),
        vocabulary=values.count("vocab_size"),
        eps=values.number("rms_norm_eps", default=1.5625e-07),
        context=values.count("max_position_embeddings", default=131072),
        eos=values.eos(),
        pad=values.identifier("pad_token_id", 0),
        dtype=values.dtype(),
        qkv_bias=bool(values.config.get("attention_bias", False)),
        rope_base=nested.number("rope_theta", default=ROPE_BASE),
        rope_scale=nested.number("factor") if kind == "linear" else 1.0,
        rotary=int(head_dim * nested.number("partial_rotary_factor", default=0.5)),
    )


def _divided(values: _Values, hidden: int, heads: int) -> int:
    if hidden % heads:
        raise ModelError(f"{values.path}: hidden_size {hidden} cannot be divided among {heads} heads")
    return hidden // heads
