"""Language models of a few kilobytes in the published layout: real to transformers, and what they say is known."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

ASKS, SAYS, ENDS = "<|user|>", "<|assistant|>", "<|endoftext|>"
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message.role not in ('system', 'user', 'assistant') %}{{ raise_exception('不认识的角色') }}{% endif %}"
    "{{ '<|' + ('assistant' if message.role == 'assistant' else 'user') + '|>' + message.content }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def pieces_of(answer: str) -> list[bytes]:
    """The answer's bytes in pieces of which none comes twice. Most cut a character: it has three bytes."""
    content, pieces = answer.encode(), []
    while content:
        piece = next(content[:size] for size in range(4, len(content) + 5) if content[:size] not in pieces)
        pieces.append(piece)
        content = content[len(piece) :]
    return pieces


def make_tokenizer(answer: str):
    """A token for each byte, three for the conversation, and one for each piece of the answer, which no text encodes
    to. With it the ids of the pieces."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import PreTrainedTokenizerFast

    letters = _byte_letters()
    assert set(letters.values()) == set(ByteLevel.alphabet())
    words = [letters[byte] for byte in range(256)]
    spelled = ["".join(letters[byte] for byte in piece) for piece in pieces_of(answer)]
    vocabulary = {word: at for at, word in enumerate(dict.fromkeys([*words, *spelled]))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(word, special=True) for word in (ASKS, SAYS, ENDS)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=ENDS, chat_template=TEMPLATE, model_max_length=10**6
    ), [vocabulary[word] for word in spelled]


def _byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level vocabularies, as GPT-2 defined it."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {byte: chr(byte) for byte in plain} | {byte: chr(256 + at) for at, byte in enumerate(others)}


def make_parrot(folder: Path, answer: str, context: int = 4096) -> Path:
    """A Llama whose weights were set by hand: whatever it is asked, it says `answer`, token by token, and ends.

    Attention and MLP add nothing, so that the next token depends on the last one alone.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer, spoken = make_tokenizer(answer)
    size = len(tokenizer)
    dim = -(-size // 8) * 8
    config = LlamaConfig(
        vocab_size=size,
        hidden_size=dim,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    chain = [tokenizer.convert_tokens_to_ids(SAYS), *spoken, tokenizer.eos_token_id]
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size, dim))
        model.lm_head.weight.zero_()
        for last, following in pairwise(chain):
            model.lm_head.weight[following, last] = 10.0
    return _save(folder, model, tokenizer)


def make_babbler(folder: Path, context: int = 4096) -> Path:
    """A Llama with random weights: it says random bytes until it is stopped."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    tokenizer, _ = make_tokenizer("")
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=None,
    )
    folder = _save(folder, LlamaForCausalLM(config), tokenizer)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("eos_token")  # so that nothing ends it
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    return folder


def _save(folder: Path, model, tokenizer) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
