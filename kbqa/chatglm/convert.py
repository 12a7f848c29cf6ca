"""ChatGLM2-6B, ChatGLM3-6B and GLM-4 folders into the layout `glm` that transformers, and what builds on it, knows.

Weights keep their numbers; a quantized checkpoint is restored. The tokenizer becomes a tokenizer.json that gives the
same ids, the way prompts are built a chat template. Two things differ from the original folder, both because a chat
template writes control tokens as text: ChatGLM2's and ChatGLM3's `sop` and `eop` are called `<sop>` and `<eop>`, so
that the plain word is no control token; and the name of a control token in what a user types is that token, unless the
tokenizer is called with split_special_tokens=True.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kbqa.chatglm.architecture import Architecture, Family, read_architecture
from kbqa.chatglm.bytetokens import GLM4_PATTERN, byte_letters
from kbqa.chatglm.chat import sampling_defaults, stop_ids
from kbqa.chatglm.checkpoint import HF_MODULES, HF_QKV, Checkpoint, place_of
from kbqa.chatglm.inventory import Inventory
from kbqa.chatglm.quantization import dequantize
from kbqa.chatglm.sentencepieces import sentencepiece_model
from kbqa.chatglm.tokenizers import Tokenizer, load_tokenizer
from kbqa.chatglm.tokens import TOKENIZER_CONFIG, TOKENIZER_JSON, TOKENIZER_MODEL, need
from kbqa.chatglm.writing import Shards, new_folder, write_json
from kbqa.errors import ModelError

__all__ = ["convert"]

RENAMED = {"sop": "<sop>", "eop": "<eop>"}


def convert(source: Path, out: Path, family: Family | None = None, dtype: str | None = None) -> Architecture:
    """Writes the model in `source` into the new folder `out`, in `dtype` or that of the checkpoint.

    ModelError for ChatGLM-6B, for which transformers has no model, and for folders that cannot be read.
    """
    a = read_architecture(source, family)
    if a.is_v1:
        raise ModelError(
            f"{source} holds a ChatGLM-6B, which cannot be converted: transformers has no model with its "
            "two-dimensional positions; kbqa itself runs it (generator.kind: chatglm)"
        )
    if a.layout == "glm":
        raise ModelError(f"{source} is in the layout of transformers already")
    dtype = dtype or (a.dtype if a.bits is None else "float16")
    tokenizer = load_tokenizer(source, a.family)
    with new_folder(out) as folder:
        write_json(folder / "config.json", _config(a, tokenizer, dtype))
        write_json(folder / "generation_config.json", _generation_config(a, tokenizer))
        _write_tokenizer(source, folder, a, tokenizer)
        shards = Shards(folder, "safetensors")
        for name, tensor in _weights(source, a):
            shards.add(name, tensor.to(getattr(torch, dtype)))
        shards.finish()
    return a


# --- settings ---------------------------------------------------------------------------------------------------------


def _config(a: Architecture, tokenizer: Tokenizer, dtype: str) -> dict[str, Any]:
    rope: dict[str, Any] = {
        "rope_type": "default",
        "rope_theta": a.rope_base,
        "partial_rotary_factor": a.rotary / a.head_dim,
    }
    if a.rope_scale != 1:
        rope |= {"rope_type": "linear", "factor": a.rope_scale}
    return {
        "architectures": ["GlmForCausalLM"],
        "model_type": "glm",
        "chatglm_family": a.family,
        "vocab_size": a.vocabulary,
        "hidden_size": a.hidden,
        "intermediate_size": a.inner,
        "num_hidden_layers": a.layers,
        "num_attention_heads": a.heads,
        "num_key_value_heads": a.groups,
        "head_dim": a.head_dim,
        "hidden_act": "silu",
        "attention_bias": a.qkv_bias,
        "attention_dropout": 0.0,
        "rms_norm_eps": a.eps,
        "max_position_embeddings": a.context,
        "rope_parameters": rope,
        "rope_theta": a.rope_base,
        "partial_rotary_factor": rope["partial_rotary_factor"],
        "tie_word_embeddings": False,
        "use_cache": True,
        "bos_token_id": None,
        "eos_token_id": list(stop_ids(tokenizer, a.eos)),
        "pad_token_id": a.pad,
        "torch_dtype": dtype,
    }


def _generation_config(a: Architecture, tokenizer: Tokenizer) -> dict[str, Any]:
    usual = sampling_defaults(a.family)
    return {
        "do_sample": True,
        "temperature": usual.temperature,
        "top_p": usual.top_p,
        "max_length": a.context,
        "eos_token_id": list(stop_ids(tokenizer, a.eos)),
        "pad_token_id": a.pad,
    }


# --- weights ----------------------------------------------------------------------------------------------------------


def _weights(source: Path, a: Architecture) -> Iterator[tuple[str, Tensor]]:
    """(name in transformers, tensor), one after another, each checked against the model that config.json describes."""
    inventory = Inventory(source, a)
    for name, tensor in _restored(source, a):
        inventory.check(name, tensor)
        yield from _named(name, tensor, a)
    inventory.finish()


def _restored(source: Path, a: Architecture) -> Iterator[tuple[str, Tensor]]:
    """(our name, tensor). A quantized weight waits until its scale has come too, or the other way round."""
    waiting: dict[str, Tensor] = {}
    for published, tensor in Checkpoint(source):
        try:
            place = place_of(published)
        except KeyError as error:
            raise ModelError(f"{source} holds a tensor {published}, which no {a.family} model has") from error
        if place is None:
            continue
        module, _, part = place.name.rpartition(".")
        if part != "scale" and tensor.is_floating_point():
            yield place.name, tensor
            continue
        if a.bits is None:
            raise ModelError(f"{published} is stored as {tensor.dtype}, but config.json names no quantization_bit")
        other = waiting.pop(module, None)
        if other is None:
            waiting[module] = tensor.clone()
        else:
            weight, scale = (other, tensor) if part == "scale" else (tensor, other)
            yield f"{module}.weight", dequantize(weight, scale, a.bits)
    if waiting:
        raise ModelError(f"{source} lacks the scale or the weight of {min(waiting)}: it is incomplete")


def _named(name: str, tensor: Tensor, a: Architecture) -> Iterator[tuple[str, Tensor]]:
    outside = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
    module, _, part = name.rpartition(".")
    if module in outside:
        yield f"{outside[module]}.{part}", tensor
        return
    _, layer, inner = module.split(".", 2)
    if inner == "attention.qkv":
        sizes = [heads * a.head_dim for heads in (a.heads, a.groups, a.groups)]
        for theirs, rows in zip(HF_QKV, tensor.split(sizes), strict=True):
            yield f"model.layers.{layer}.{theirs}.{part}", rows
        return
    theirs = next(theirs for theirs, ours in HF_MODULES.items() if ours == inner)
    yield f"model.layers.{layer}.{theirs}.{part}", tensor


# --- the tokenizer ----------------------------------------------------------------------------------------------------


def _write_tokenizer(source: Path, folder: Path, a: Architecture, tokenizer: Tokenizer) -> None:
    if a.family == "glm4":
        _byte_level(source, tokenizer).save(str(folder / TOKENIZER_JSON))
        named = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    else:
        _sentence_pieces(source, tokenizer).save(str(folder / TOKENIZER_JSON))
        # The engine goes on reading the original, so that it stays exactly what it was.
        shutil.copyfile(source / TOKENIZER_MODEL, folder / TOKENIZER_MODEL)
        named = {"eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    template = files("kbqa") / "data" / "chat_templates" / f"{a.family}.jinja"
    own = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template.read_text(encoding="utf-8"),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": a.context,
        "padding_side": "left",
    }
    write_json(folder / TOKENIZER_CONFIG, own | named)


def _control(names: Sequence[str]) -> list[Any]:
    library = need("tokenizers")
    return [library.AddedToken(name, special=True, normalized=False) for name in names]


def _sentence_pieces(source: Path, tokenizer: Tokenizer) -> Any:
    """Sentencepiece's BPE. Control tokens get no merges, so that none arises from text."""
    library = need("tokenizers")
    model = sentencepiece_model(source / TOKENIZER_MODEL)
    size = model.get_piece_size()
    pieces = [model.id_to_piece(at) for at in range(size)]
    plain = {
        piece: at
        for at, piece in enumerate(pieces)
        if not (model.is_control(at) or model.is_unknown(at) or model.is_byte(at) or model.is_unused(at))
    }
    vocabulary = {piece: at for at, piece in enumerate(pieces)}
    behind = {RENAMED.get(name, name): at for name, at in tokenizer.specials.items() if at >= size}
    made = library.Tokenizer(
        library.models.BPE(
            vocab=vocabulary | behind,
            merges=_merges(plain, key=lambda piece: (-model.get_score(plain[piece]), plain[piece])),
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    normalizers, decoders = library.normalizers, library.decoders
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    made.add_special_tokens(_control([*(pieces[at] for at in range(3)), *sorted(behind, key=behind.__getitem__)]))
    return made


def _byte_level(source: Path, tokenizer: Tokenizer) -> Any:
    """GLM-4's ranks, in the letters that byte-level vocabularies write bytes with. A rank is the id."""
    library = need("tokenizers")
    tokens: Mapping[int, bytes] = tokenizer.tokens  # type: ignore[attr-defined]
    letters = {byte: letter for letter, byte in byte_letters().items()}
    written = {"".join(letters[byte] for byte in content): token for token, content in tokens.items()}
    merges = _merges(written, key=written.__getitem__)
    model = library.models.BPE(vocab=written, merges=merges, ignore_merges=True)
    made = library.Tokenizer(model)
    pre = library.pre_tokenizers
    made.pre_tokenizer = pre.Sequence(
        [
            pre.Split(library.Regex(GLM4_PATTERN), "isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = library.decoders.ByteLevel()
    made.add_special_tokens(_control(sorted(tokenizer.specials, key=tokenizer.specials.__getitem__)))
    return made


def _merges(vocabulary: Mapping[str, int], key: Callable[[str], Any]) -> list[tuple[str, str]]:
    """All pairs that may be merged, those first whose union comes first by `key`.

    Both originals merge the two neighbours with the best union, whatever two these are.
    """
    return [
        (token[:cut], token[cut:])
        for token in sorted(vocabulary, key=key)
        for cut in sorted(
            (at for at in range(1, len(token)) if token[:at] in vocabulary and token[at:] in vocabulary),
            key=lambda at: (vocabulary[token[:at]], vocabulary[token[at:]]),
        )
    ]
