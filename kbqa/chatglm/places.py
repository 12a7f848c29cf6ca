"""Where tokens stand and what they may see: the one thing, beside its blocks, that sets ChatGLM-6B apart.

In ChatGLM-6B a prompt ends with `[gMASK] <sop>`. What stands before the first `<sop>`, the context, sees itself whole,
in both directions. The first kind of position counts through the context and then stays at the mask token's; the second
is 0 there and counts what is written after it. In all later models a token has one position and sees what came before.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kbqa.chatglm.architecture import Architecture
from kbqa.errors import ModelError

__all__ = ["context_length", "following", "positions", "visible"]


def context_length(a: Architecture, ids: Sequence[int]) -> int:
    """How many tokens at the start of a row see each other in both directions; 0 but in ChatGLM-6B."""
    if not a.is_v1:
        return 0
    try:
        return ids.index(a.sop)
    except ValueError as error:
        raise ModelError(
            "a prompt for ChatGLM-6B must hold <sop>, where the answer begins; this one does not"
        ) from error


def positions(a: Architecture, ids: Sequence[int]) -> Tensor:
    """(P, T): where the tokens of a whole row stand."""
    count = torch.arange(len(ids))
    if not a.is_v1:
        return count.unsqueeze(0)
    context = context_length(a, ids)
    mask = next((ids.index(it) for it in (a.gmask, a.mask) if it in ids), None)
    if mask is None:
        raise ModelError("a prompt for ChatGLM-6B must hold [gMASK] or [MASK]; this one has neither")
    first = torch.where(count < context, count, mask)
    return torch.stack([first, (count - context + 1).clamp(min=0)])


def following(a: Architecture, placed: Tensor, steps: int) -> Tensor:
    """(P,): the position of the token that is written `steps` tokens (0: the first) after a row at `placed`, (P, T)."""
    last = placed[:, -1].clone()
    last[-1] += steps + 1
    return last


def visible(starts: Tensor, tokens: int, width: int, contexts: Tensor) -> Tensor:
    """(B, 1, T, W), True where a token may look.

    `starts`, (B,): the column of each row's first new token. `contexts`, (B,): so many first columns are seen by all.
    """
    columns = torch.arange(width, device=starts.device)
    own = starts[:, None] + torch.arange(tokens, device=starts.device)  # (B, T)
    seen = (columns <= own[..., None]) | (columns < contexts[:, None, None])
    return seen.unsqueeze(1)
