"""The ChatGLM family in plain torch: from the published folders, without their code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

    from kbqa.chatglm.architecture import Family
    from kbqa.chatglm.model import ChatGLM

__all__ = ["load_chatglm"]


def load_chatglm(
    path: str | Path,
    dtype: Literal["float32", "float16", "bfloat16"] = "float32",
    device: str = "cpu",
    quantize: Literal[4, 8] | None = None,
    prefix: str | Path | None = None,
    family: Family | None = None,
    exact: bool | None = None,
) -> ChatGLM:
    """The model in the folder `path`, with its tokenizer; or that of the id `path`, if it has been downloaded.

    `quantize` brings the weights of a full checkpoint to 8 or 4 bits on the way; a quantized checkpoint is recognized
    and needs no word. `prefix` is the folder of a P-Tuning checkpoint, used by every call that names no other adapter.
    `family` need only be given where nothing in the folder tells ChatGLM2 from ChatGLM3.

    `exact` restores quantized weights as the originals do, for reference numbers and training. Without it, layers take
    the form that is fastest on this machine: far faster where weights are quantized, off by about what bfloat16 is.
    None: exact in float32, fast otherwise. A model brought to 4 bits on the fast path is closer to the full one than
    a published int4 model: it has a scale and a zero for every 32 columns, not one scale for a whole row.

    ModelError when a file is missing or damaged, when weights and config.json do not fit, when the folder holds another
    model, and when the libraries of `kbqa[glm]` are not installed.
    """
    from kbqa.chatglm.model import load

    return load(path, dtype, device, quantize, prefix, family, exact)
