"""Tiny models with random weights in the published layout of each family: to try the engine, and to test it.

Vocabularies are made of a little text of our own (data/tiny.txt), of the kind that each family has: sentencepiece
unigrams with ChatGLM-6B's tokens for blanks, sentencepiece BPE with bytes, tiktoken ranks. The weights are sized so
that tokens look at some others much more than at the rest, every layer matters, and greedy writing does not fall into
saying one token for ever.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from itertools import cycle
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase, digits
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kbqa.chatglm.architecture import Architecture, Family, read_architecture
from kbqa.chatglm.bytetokens import GLM4_PATTERN, byte_letters
from kbqa.chatglm.checkpoint import by_head, published_names
from kbqa.chatglm.decoder import BlockV1, Decoder
from kbqa.chatglm.facts import NAMES, NUMBERS, facts
from kbqa.chatglm.fitting import fit
from kbqa.chatglm.tokenizers import load_tokenizer
from kbqa.chatglm.tokens import ROLES, need
from kbqa.chatglm.writing import Shards, new_folder, write_json
from kbqa.errors import ModelError

__all__ = ["Shape", "make_tiny"]

SHARDS = {"chatglm": 3, "chatglm2": 1, "chatglm3": 3, "glm4": 2}
PADDED_TO = 64  # rows of a vocabulary come in such numbers; those behind the last token are nearly zero
V1_CONTROLS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
GLM4_CONTROLS = ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", *ROLES)


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a model. Everything else follows from it as it does in the published ones."""

    layers: int = 2
    hidden: int = 64
    heads: int = 4
    groups: int = 2  # not of ChatGLM-6B, which has as many as heads
    context: int = 512
    pieces: int = 640  # of the vocabulary, about

    def __post_init__(self) -> None:
        allowed = {
            "layers": (self.layers >= 1, "1 or more"),
            "heads": (self.heads >= 1, "1 or more"),
            "groups": (self.groups >= 1 and self.heads % self.groups == 0, f"a divisor of {self.heads}, the heads"),
            "hidden": (
                self.hidden > 0 and self.hidden % (4 * self.heads) == 0,
                f"a multiple of {4 * self.heads}, four times the heads",
            ),
            "context": (self.context >= 32, "32 or more"),
            "pieces": (self.pieces >= 600, "600 or more"),
        }
        for name, (good, range_) in allowed.items():
            if not good:
                raise ModelError(f"a model cannot have {name} {getattr(self, name)}; it must be {range_}")

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads


def make_tiny(family: Family, folder: Path, shape: Shape | None = None, seed: int = 0, steps: int = 0) -> Architecture:
    """Writes a model into `folder`, which must not be there yet; the same for the same seed.

    With `steps` it is fitted for so many of them to the text that its vocabulary is made of.
    """
    shape = shape or Shape()
    with new_folder(folder) as out:
        config = _v1_config if family == "chatglm" else _v2_config
        tokens, specials = _WRITE_TOKENIZER[family](out, shape.pieces)
        write_json(out / "config.json", config(family, shape, tokens, specials))
        a = read_architecture(out, family)
        decoder = _random(a, tokens, seed)
        if steps:
            fit(decoder, load_tokenizer(out, family), steps, seed)
        _write_weights(out, decoder)
    return a


# --- vocabularies: each writer says how many ids there are, and where the control tokens stand ------------------------


def _corpus() -> list[str]:
    """Lines to make a vocabulary of: the facts, what prompts are made of, and every letter and digit."""
    prompts = [
        "[Round 1]\n\n问：\n\n答：",
        "已知信息:\n根据已知信息回答问题:\n",
        "根据已知信息无法回答该问题",
        "你好！我是一个很小的模型。",
    ]
    letters = f"{ascii_uppercase} {ascii_lowercase} {' '.join(digits)} , . : ; ? ! ( ) - + % / ，。：；？！（）"
    filled = [
        sentence.replace("#", number).replace("@", name)
        for _, sentence in facts()
        for number, name in zip(NUMBERS, cycle(NAMES), strict=False)
    ]
    return [*filled, *(question for question, _ in facts()), *prompts, letters]


def _sentencepiece(path: Path, **options: Any) -> Any:
    library = need("sentencepiece")
    content = io.BytesIO()
    lines = (line for text in _corpus() for line in text.split("\n"))
    library.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=content,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    path.write_bytes(content.getvalue())
    model = library.SentencePieceProcessor()
    model.load_from_serialized_proto(content.getvalue())
    return model


def _ice_text(out: Path, pieces: int) -> tuple[int, dict[str, int]]:
    blanks = [f"<|blank_{run}|>" for run in range(2, 81)]
    model = _sentencepiece(
        out / "ice_text.model",
        model_type="unigram",
        vocab_size=pieces + len(blanks),
        normalization_rule_name="nmt_nfkc",
        pad_id=3,
        control_symbols=list(V1_CONTROLS),
        user_defined_symbols=["<n>", "<|tab|>", *blanks],
    )
    named = {
        "bos_token": "<sop>",
        "eos_token": "<eop>",
        "end_token": "</s>",
        "gmask_token": "[gMASK]",
        "mask_token": "[MASK]",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
    }
    own = {"name_or_path": "tiny-chatglm", "remove_space": False, "do_lower_case": False, "num_image_tokens": 0}
    write_json(out / "tokenizer_config.json", own | named | {"tokenizer_class": "ChatGLMTokenizer"})
    return model.get_piece_size(), {name: model.piece_to_id(name) for name in (*V1_CONTROLS, "<pad>")}


def _pieces(out: Path, pieces: int, family: Family, further: int) -> tuple[int, dict[str, int]]:
    """`further` control tokens stand behind the pieces, which do not know of them."""
    model = _sentencepiece(
        out / "tokenizer.model",
        model_type="bpe",
        vocab_size=pieces,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
    )
    own = {"name_or_path": f"tiny-{family}", "remove_space": False, "do_lower_case": False}
    write_json(out / "tokenizer_config.json", own | {"tokenizer_class": "ChatGLMTokenizer"})
    return model.get_piece_size() + further, {}


def _ranks(out: Path, pieces: int) -> tuple[int, dict[str, int]]:
    """Byte-level BPE; a token's rank is its id, single bytes come first."""
    library = need("tokenizers")
    tokenizer = library.Tokenizer(library.models.BPE())
    cut = library.pre_tokenizers.Split(library.Regex(GLM4_PATTERN), "isolated")
    byte_level = library.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = library.pre_tokenizers.Sequence([cut, byte_level])
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(vocab_size=pieces, initial_alphabet=sorted(alphabet), show_progress=False)
    tokenizer.train_from_iterator(_corpus(), trainer)
    letters = byte_letters()
    ranked = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [bytes(letters[letter] for letter in token) for token, _ in ranked]
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    (out / "tokenizer.model").write_text("".join(lines), encoding="ascii")
    specials = {name: len(tokens) + behind for behind, name in enumerate(GLM4_CONTROLS)}
    kept = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    template = (files("kbqa") / "data" / "chat_templates" / "glm4.jinja").read_text(encoding="utf-8")
    config = {
        "added_tokens_decoder": {str(token): {"content": name, **kept} for name, token in specials.items()},
        "additional_special_tokens": list(specials),
        "chat_template": template,
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "padding_side": "left",
        "remove_space": False,
        "do_lower_case": False,
        "tokenizer_class": "ChatGLM4Tokenizer",
    }
    write_json(out / "tokenizer_config.json", config)
    return len(tokens) + len(specials), specials


_WRITE_TOKENIZER = {
    "chatglm": _ice_text,
    "chatglm2": lambda out, pieces: _pieces(out, pieces, "chatglm2", 5),
    "chatglm3": lambda out, pieces: _pieces(out, pieces, "chatglm3", 5 + len(ROLES)),
    "glm4": _ranks,
}


# --- config.json, with the published keys -----------------------------------------------------------------------------


def _padded(tokens: int) -> int:
    return -(-tokens // PADDED_TO) * PADDED_TO


def _v1_config(family: Family, shape: Shape, tokens: int, specials: dict[str, int]) -> dict[str, Any]:
    return {
        "_name_or_path": "tiny-chatglm",
        "architectures": ["ChatGLMModel"],
        "bos_token_id": specials["<sop>"],
        "eos_token_id": specials["<eop>"],
        "mask_token_id": specials["[MASK]"],
        "gmask_token_id": specials["[gMASK]"],
        "pad_token_id": specials["<pad>"],
        "hidden_size": shape.hidden,
        "inner_hidden_size": 4 * shape.hidden,
        "layernorm_epsilon": 1e-05,
        "max_sequence_length": shape.context,
        "model_type": "chatglm",
        "num_attention_heads": shape.heads,
        "num_layers": shape.layers,
        "position_encoding_2d": True,
        "torch_dtype": "float16",
        "transformers_version": "4.23.1",
        "use_cache": True,
        "vocab_size": _padded(tokens),
    }


def _v2_config(family: Family, shape: Shape, tokens: int, specials: dict[str, int]) -> dict[str, Any]:
    config = {
        "_name_or_path": f"tiny-{family}",
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": True,
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "attention_dropout": 0.0,
        "attention_softmax_in_fp32": True,
        "bias_dropout_fusion": True,
        "ffn_hidden_size": 3 * shape.hidden,
        "fp32_residual_connection": False,
        "hidden_dropout": 0.0,
        "hidden_size": shape.hidden,
        "kv_channels": shape.head_dim,
        "layernorm_epsilon": 1e-05,
        "multi_query_attention": True,
        "multi_query_group_num": shape.groups,
        "num_attention_heads": shape.heads,
        "num_layers": shape.layers,
        "original_rope": True,
        "padded_vocab_size": _padded(tokens),
        "post_layer_norm": True,
        "rmsnorm": True,
        "seq_length": shape.context,
        "use_cache": True,
        "torch_dtype": "float16",
        "tie_word_embeddings": False,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if family == "glm4":
        ends = [specials[name] for name in ("<|endoftext|>", "<|user|>", "<|observation|>")]
        own = {"torch_dtype": "bfloat16", "layernorm_epsilon": 1.5625e-07, "rope_ratio": 500}
        config |= own | {"num_hidden_layers": shape.layers, "eos_token_id": ends, "pad_token_id": ends[0]}
    return config


# --- weights ----------------------------------------------------------------------------------------------------------

PEAKED = 1.6  # queries and keys are so large, their products then about 2.5: softmax prefers a few
SPREAD = 2.5  # of the logits


@torch.no_grad()
def _random(a: Architecture, tokens: int, seed: int) -> Decoder:
    """Float32. What a linear layer gives is as large as `gain` when what comes in is of size 1, as behind a norm."""
    draw = torch.Generator().manual_seed(seed)
    # ChatGLM-6B counts each part's input 7.5 times and reads with the matrix it writes with: with parts that add little
    # it would repeat its last token for ever.
    added = 4 * BlockV1.ALPHA if a.is_v1 else 1.0
    gains = {"qkv": PEAKED, "out": added, "up": PEAKED, "down": added}
    decoder = Decoder(a)
    for name, module in decoder.named_modules():
        if isinstance(module, nn.Linear):
            gain = gains.get(name.rpartition(".")[2], SPREAD)
            module.weight.normal_(0, gain / module.in_features**0.5, generator=draw)
            if module.bias is not None:
                module.bias.normal_(0, 0.1, generator=draw)
        elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
            module.weight.normal_(1, 0.1, generator=draw)
            if isinstance(module, nn.LayerNorm):
                module.bias.normal_(0, 0.1, generator=draw)
    embedding, head = decoder.embedding, decoder.head
    assert isinstance(embedding, nn.Embedding)
    assert isinstance(head, nn.Linear)
    embedding.weight.normal_(0, SPREAD / a.hidden**0.5 if a.is_v1 else 1.0, generator=draw)
    if a.is_v1:
        head.weight = embedding.weight
    for weight in (embedding.weight, head.weight):
        weight[tokens:] *= 1e-3
    return decoder


def _write_weights(out: Path, decoder: Decoder) -> None:
    a = decoder.architecture
    kind: Literal["bin", "safetensors"] = "safetensors" if a.family == "glm4" else "bin"
    shards, tensors = Shards(out, kind), list(_published(decoder))
    per_file = -(-len(tensors) // SHARDS[a.family])
    for number, (name, tensor) in enumerate(tensors):
        if number and number % per_file == 0:
            shards.close_file()
        shards.add(name, tensor)
    shards.finish()


def _published(decoder: Decoder) -> Iterator[tuple[str, Tensor]]:
    """The tensors as a published folder holds them, with the angles' frequencies that loaders ignore."""
    a = decoder.architecture
    dtype = getattr(torch, a.dtype)
    if not a.is_v1:
        yield "transformer.rotary_pos_emb.inv_freq", decoder.frequencies.to(dtype)
    names = published_names(a)
    for name, tensor in decoder.state_dict().items():
        module, _, part = name.rpartition(".")
        if a.is_v1 and module.endswith(".qkv"):
            tensor = by_head(tensor, a)
        yield f"{names[module]}.{part}", tensor.to(dtype)
        if a.is_v1 and module.endswith(".qkv") and part == "weight":
            rotary = names[module].replace("query_key_value", "rotary_emb")
            yield f"{rotary}.inv_freq", decoder.frequencies.half()
