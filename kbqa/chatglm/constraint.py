"""Replies that a JSON schema holds: at each step only tokens that can still lead to a document of the schema.

The grammar is followed by llguidance; this module tells it the vocabulary and puts its verdict on the logits.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kbqa.chatglm.tokens import Tokenizer, need
from kbqa.errors import BeyondModel, GeneratorError, ModelError

__all__ = ["Constraint", "Vocabulary"]


class Vocabulary:
    """What llguidance must know of a model's tokens; made once a model, as it takes a second."""

    def __init__(self, tokenizer: Tokenizer, rows: int, stops: Collection[int]) -> None:
        """`rows` of the model's embedding: there may be more than the tokenizer has tokens. `stops` end a reply."""
        guidance = need("llguidance")
        tokens = [tokenizer.bytes_of(token) for token in range(rows)]
        nothing = [token for token, content in enumerate(tokens) if not content]
        wrapped = _Tokens([content or b"<%d>" % token for token, content in enumerate(tokens)], nothing)
        ends = sorted(stops)
        wrapped.eos_token_id = ends[0]
        self.grammar = guidance.LLTokenizer(guidance.TokenizerWrapper(wrapped), n_vocab=rows, eos_token=ends)

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """BeyondModel for a schema that cannot be followed, with what is wrong with it."""
        guidance = need("llguidance")
        try:
            rules = guidance.LLMatcher.grammar_from_json_schema(
                json.dumps(schema, ensure_ascii=False), overrides={"whitespace_flexible": False}
            )
        except (ValueError, TypeError, RecursionError) as error:
            raise BeyondModel(f"the response schema is no JSON schema: {error}") from error
        matcher = guidance.LLMatcher(self.grammar, rules, log_level=0)
        if not matcher.is_error():
            matcher.compute_bitmask()  # a schema that leads nowhere ({"$ref": "#"}) is known by its first token alone
        if matcher.is_error():
            raise BeyondModel(f"the response schema cannot be followed: {_first_line(matcher.get_error())}")
        return Constraint(matcher)


class _Tokens:
    """The vocabulary as llguidance's wrapper wants to see it.

    Its text-to-tokens is the longest match: the model's own tokenizer would put a blank before the first word, and what
    counts here is only that the bytes are the same.
    """

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int]) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = 0
        kept = set(range(len(tokens))) - set(special)
        self._texts = {tokens[token]: token for token in sorted(kept, reverse=True)}
        self._longest = max(map(len, self._texts), default=1)

    def __call__(self, text: bytes) -> list[int]:
        at, ids = 0, []
        while at < len(text):
            size = next((n for n in range(self._longest, 0, -1) if text[at : at + n] in self._texts), 0)
            if not size:
                raise ModelError(f"the model has no token for the byte {text[at]}")
            ids.append(self._texts[text[at : at + size]])
            at += size
        return ids


class Constraint:
    """One reply on its way through the grammar."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def masked(self, logits: Tensor) -> Tensor:
        """(vocabulary,) logits, those of impossible tokens at minus infinity."""
        bits = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        allowed = np.unpackbits(bits, bitorder="little")[: len(logits)].astype(bool)
        self._check()
        return logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), float("-inf"))

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GeneratorError(f"the response schema could not be followed: {_first_line(self._matcher.get_error())}")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no reason given"
