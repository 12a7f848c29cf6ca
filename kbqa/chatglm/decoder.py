"""The decoder of the whole family: one attention, one way to keep keys and values, two kinds of block.

Shapes: B sequences, T tokens of each, W keys they look at, A heads, G heads of keys and values, D channels of a head,
H hidden, P kinds of position (2 in ChatGLM-6B, else 1).

The rules were taken from the published models' behaviour and are held by reference vectors (tests/test_chatglm_golden).
Knows nothing about text, prompts, sampling or who asks.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kbqa.chatglm.architecture import Architecture

__all__ = ["Alone", "Decoder", "Keys", "rotary_angles"]


class Keys(Protocol):
    """Where the keys and values of earlier tokens come from, and those of new ones go."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """New (B, G, T, D) each, to all that the new tokens may look at, (B, G, W, D) each."""
        ...


class Alone:
    """Nothing came before, nothing is kept."""

    def extend(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        return keys, values


class Decoder(nn.Module):
    """ids to logits. Linear layers and the embedding may be replaced by quantized ones of the same interface.

    With `checkpointing`, what a block computes is computed once more on the way back instead of being kept for it.
    """

    checkpointing = False

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.embedding: nn.Module = nn.Embedding(a.vocabulary, a.hidden)
        block = BlockV1 if a.is_v1 else Block
        self.blocks = nn.ModuleList(block(a, layer) for layer in range(a.layers))
        self.norm = _norm(a)
        self.head: nn.Module = nn.Linear(a.hidden, a.vocabulary, bias=False)
        self.frequencies = _frequencies(a)

    @property
    def dtype(self) -> torch.dtype:
        """In which the model computes, whatever its weights are stored in."""
        return self.norm.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.norm.weight.device

    def forward(
        self, ids: Tensor, positions: Tensor, keys: Keys, visible: Tensor | None = None, last: Tensor | None = None
    ) -> Tensor:
        """(B, T) ids at (B, P, T) positions -> (B, T, vocabulary) logits in the model's dtype.

        `visible` is (B, 1, T, W), True where a token may look; None: at everything, which is right for a single new
        token. With `last`, (B,), only those tokens get logits: (B, 1, vocabulary).
        """
        x = self.embedding(ids)  # (B, T, H)
        turn = rotary_angles(positions, self.frequencies, self.architecture, x.dtype)
        twice = self.checkpointing and torch.is_grad_enabled()
        for block in self.blocks:
            given = (x, turn, keys, visible)
            x = checkpoint(block, *given, use_reentrant=False) if twice else block(*given)
        if last is not None:
            x = x[torch.arange(len(x), device=x.device), last].unsqueeze(1)
        logits: Tensor = self.head(self.norm(x))
        return logits


class Attention(nn.Module):
    """Rows of `qkv` are the heads of all queries, then keys, then values: ChatGLM-6B's are put so on loading."""

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.layer = layer
        self.qkv = nn.Linear(a.hidden, (a.heads + 2 * a.groups) * a.head_dim, bias=a.qkv_bias)
        self.out = nn.Linear(a.heads * a.head_dim, a.hidden, bias=a.is_v1)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], keys: Keys, visible: Tensor | None) -> Tensor:
        a = self.architecture
        qkv = self.qkv(x).unflatten(-1, (-1, a.head_dim))  # (B, T, A + 2G, D)
        rotated = _rotate(qkv[:, :, : a.heads + a.groups], *turn, two_dimensional=a.is_v1)
        q, k = rotated.transpose(1, 2).split([a.heads, a.groups], dim=1)  # (B, A, T, D), (B, G, T, D)
        v = qkv[:, :, a.heads + a.groups :].transpose(1, 2)
        k, v = keys.extend(self.layer, k, v)  # (B, G, W, D)
        if q.shape[2] == 1:
            # All heads of a group as rows of one product: on a CPU 3 to 25 times as fast as one product for each head.
            q = q.view(len(q), a.groups, -1, a.head_dim)
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=visible).flatten(1).unsqueeze(1)
        else:
            shared = a.groups < a.heads
            seen = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=shared)
            seen = seen.transpose(1, 2).flatten(2)
        out: Tensor = self.out(seen)  # (B, T, H)
        return out


class Block(nn.Module):
    """ChatGLM2, ChatGLM3, GLM-4: norm before each part, added to what came in; a gated feed-forward part."""

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        a = architecture
        self.attention_norm = _norm(a)
        self.attention = Attention(a, layer)
        self.mlp_norm = _norm(a)
        self.up = nn.Linear(a.hidden, 2 * a.inner, bias=False)  # the gate's rows come first
        self.down = nn.Linear(a.inner, a.hidden, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], keys: Keys, visible: Tensor | None) -> Tensor:
        x = x + self.attention(self.attention_norm(x), turn, keys, visible)
        gate, up = self.up(self.mlp_norm(x)).chunk(2, dim=-1)
        x = x + self.down(F.silu(gate) * up)
        return x


class BlockV1(nn.Module):
    """ChatGLM-6B: each part is added to its own *normalised* input, which counts ALPHA times."""

    ALPHA = math.sqrt(2 * 28)  # of the 28 layers of the real model; the original uses it in models of any depth

    def __init__(self, architecture: Architecture, layer: int) -> None:
        super().__init__()
        a = architecture
        self.attention_norm = _norm(a)
        self.attention = Attention(a, layer)
        self.mlp_norm = _norm(a)
        self.up = nn.Linear(a.hidden, a.inner)
        self.down = nn.Linear(a.inner, a.hidden)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor], keys: Keys, visible: Tensor | None) -> Tensor:
        x = self.attention_norm(x)
        x = self.ALPHA * x + self.attention(x, turn, keys, visible)
        x = self.mlp_norm(x)
        x = self.ALPHA * x + self.down(F.gelu(self.up(x), approximate="tanh"))
        return x


def _norm(a: Architecture) -> nn.LayerNorm | nn.RMSNorm:
    return nn.LayerNorm(a.hidden, a.eps) if a.is_v1 else nn.RMSNorm(a.hidden, a.eps)


# --- rotary positions ------------------------------------------------------------------------------------------------


def _frequencies(a: Architecture) -> Tensor:
    """(channel pairs that one kind of position turns,) float32: what a pair turns by from one position to the next.

    ChatGLM-6B's were rounded to float16 when it was trained, and must be so here in whatever precision it runs.
    """
    channels = a.rotary // 2 if a.is_v1 else a.rotary
    exponents = torch.arange(0, channels, 2, dtype=torch.float32, device="cpu") / channels
    frequencies = 1.0 / (a.rope_base**exponents)
    return frequencies.half().float() if a.is_v1 else frequencies


def rotary_angles(positions: Tensor, frequencies: Tensor, a: Architecture, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines, (B, T, 1, P * pairs) each, for (B, P, T) positions.

    Always computed in float32. The originals of ChatGLM-6B and ChatGLM2-6B do so in float16 where they run in it, and
    are then off by up to 0.4 and 1.0 at position 2,047.
    """
    angles = (positions.float() / a.rope_scale).unsqueeze(-1) * frequencies  # (B, P, T, pairs)
    angles = angles.transpose(1, 2).flatten(2).unsqueeze(2)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, *, two_dimensional: bool) -> Tensor:
    """(B, T, heads, D), each pair of channels turned by its angle.

    ChatGLM-6B turns one half of the channels by each kind of position, and pairs a channel with the one half of a half
    further on. The others turn the first channels only, and pair neighbours.
    """
    if two_dimensional:
        first, second = x.unflatten(-1, (2, 2, -1)).unbind(-2)  # (B, T, heads, 2, pairs)
        cos, sin = (it.unflatten(-1, (2, -1)) for it in (cos, sin))
        return torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-2).flatten(-3)
    turned = 2 * cos.shape[-1]
    first, second = x[..., :turned].unflatten(-1, (-1, 2)).unbind(-1)
    pairs = torch.stack([first * cos - second * sin, second * cos + first * sin], dim=-1).flatten(-2)
    return torch.cat([pairs, x[..., turned:]], dim=-1)
