"""Text to ids and back, for the tokenizer files of each family.

ChatGLM-6B            ice_text.model    sentencepiece; line breaks, tabs and runs of blanks have tokens of their own
ChatGLM2, ChatGLM3    tokenizer.model   sentencepiece; the control tokens stand behind its pieces
GLM-4                 tokenizer.model   tiktoken ranks; the control tokens stand in tokenizer_config.json
GLM-4 (-hf)           tokenizer.json    byte-level BPE of the tokenizers library
"""

from __future__ import annotations

from pathlib import Path

from kbqa.chatglm.architecture import Family
from kbqa.chatglm.bytetokens import glm4_tokenizer
from kbqa.chatglm.sentencepieces import ChatGLM2Tokenizer, ChatGLMTokenizer
from kbqa.chatglm.tokens import TextStream, Tokenizer

__all__ = ["TextStream", "Tokenizer", "load_tokenizer"]


def load_tokenizer(folder: str | Path, family: Family) -> Tokenizer:
    """The tokenizer in a model's folder. ModelError when a file is missing, damaged or another family's."""
    folder = Path(folder)
    match family:
        case "chatglm":
            return ChatGLMTokenizer(folder)
        case "chatglm2" | "chatglm3":
            return ChatGLM2Tokenizer(folder, family)
        case "glm4":
            return glm4_tokenizer(folder)
