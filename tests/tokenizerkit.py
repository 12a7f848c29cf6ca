"""What the tests of ChatGLM tokenizers and prompts share: reference vectors, where they are, and small tokenizers."""

import json
import os
from base64 import b64encode
from functools import cache
from io import BytesIO
from pathlib import Path

import pytest

from kbqa.chatglm.bytetokens import GLM4_PATTERN
from kbqa.chatglm.tokenizers import load_tokenizer

FAMILIES = {"v1": "chatglm", "v2": "chatglm2", "v3": "chatglm3", "glm4": "glm4"}
PUBLISHED = {"v1": "chatglm-6b", "v2": "chatglm2-6b", "v3": "chatglm3-6b", "glm4": "glm-4-9b-chat"}
GOLDEN = Path(os.environ["KBQA_TESTDATA"]) / "golden" if "KBQA_TESTDATA" in os.environ else None
NO_GOLDEN = "KBQA_TESTDATA is not set, or holds no golden/: the reference vectors are not at hand"

CONTROLS = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
SPECIALS = (
    "<|endoftext|> [MASK] [gMASK] [sMASK] <sop> <eop> <|system|> <|user|> <|assistant|> <|observation|>"
).split()
WORDS = "知识库 知识 支持 哪些 文档 格式 你好 你 好 年假 的 有几天 the is  what   \n\n 2023 年".split(" ")
SENTENCES = (
    "知识库支持哪些文档格式？知识库支持 PDF、Word 和 Markdown 文档。",
    "年假有几天？入职满一年的员工，年假有十天。",
    "晚上睡不着应该怎么办？可以试着早一点放下手机。",
    "What is ChatGLM? It is a language model, said the manual.",
    "第一段文字：试用期有多长！试用期是三个月；合同另有规定的除外。",
)


@cache
def golden(name, kind):
    """The recorded prompts of a family, by the real or the tiny vocabulary."""
    return json.loads((GOLDEN / "prompts" / f"{name}.{kind}.json").read_text(encoding="utf-8"))


@cache
def golden_tokenizer(name, kind):
    where = GOLDEN / "tokenizers" / PUBLISHED[name] if kind == "real" else GOLDEN / name / "base"
    return load_tokenizer(where, FAMILIES[name])


def golden_rows(section, names=tuple(FAMILIES)):
    """Parameters (name, kind, row): each row of a section, for each family; one that skips where there are none."""
    if GOLDEN is None or not (GOLDEN / "prompts").is_dir():
        return [pytest.param("", "", {}, marks=pytest.mark.skip(reason=NO_GOLDEN), id="no-golden")]
    found = []
    for name in names:
        for kind in ("real", "tiny"):
            rows = golden(name, kind).get(section, [])
            rows = rows if isinstance(rows, list) else [rows]
            found += [pytest.param(name, kind, row, id=f"{name}-{kind}-{at}") for at, row in enumerate(rows)]
    return found


def make_v1(folder, images=0):
    """ChatGLM-6B's kind of sentencepiece model, of a few hundred pieces."""
    blanks = tuple(f"<|blank_{size}|>" for size in range(2, 81))
    folder.joinpath("ice_text.model").write_bytes(
        _trained(
            model_type="unigram",
            normalization_rule_name="nmt_nfkc",
            remove_extra_whitespaces=True,
            pad_id=3,
            control_symbols=CONTROLS,
            user_defined_symbols=("<n>", "<|tab|>", *blanks),
            vocab_size=520,
        )
    )
    folder.joinpath("tokenizer_config.json").write_text(json.dumps({"num_image_tokens": images}), encoding="utf-8")
    return folder


def make_v2(folder):
    """ChatGLM2's and ChatGLM3's."""
    content = _trained(
        model_type="bpe", normalization_rule_name="identity", remove_extra_whitespaces=False, vocab_size=420
    )
    folder.joinpath("tokenizer.model").write_bytes(content)
    return folder


def make_glm4(folder, template=None):
    """GLM-4's ranks: bytes, then words byte by byte."""
    ranks = _ranks()
    lines = (f"{b64encode(token).decode()} {rank}\n" for token, rank in ranks.items())
    folder.joinpath("tokenizer.model").write_text("".join(lines), encoding="ascii")
    config = {"added_tokens_decoder": {str(len(ranks) + at): {"content": name} for at, name in enumerate(SPECIALS)}}
    config |= {"chat_template": template} if template else {}
    folder.joinpath("tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def make_glm4_hf(folder):
    """The same vocabulary in the -hf layout."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

    ranks = _ranks()
    letters = _letters()
    spelled = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    merges = [(token[:-1], token[-1]) for token in spelled if len(token) > 1]
    tokenizer = Tokenizer(models.BPE(spelled, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(GLM4_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    tokenizer.enable_truncation(4)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


MAKERS = {
    "chatglm": (make_v1, "chatglm"),
    "chatglm2": (make_v2, "chatglm2"),
    "chatglm3": (make_v2, "chatglm3"),
    "glm4": (make_glm4, "glm4"),
    "glm4-hf": (make_glm4_hf, "glm4"),
}


@cache
def _trained(**options):
    import sentencepiece

    options = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    model = BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3),
        model_writer=model,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def _ranks():
    """Every prefix of a word is a token, so that merging from the left reaches the word."""
    ranks = {bytes([byte]): byte for byte in range(256)}
    for word in WORDS:
        content = word.encode()
        for size in range(2, len(content) + 1):
            ranks.setdefault(content[:size], len(ranks))
    return ranks


def _letters():
    """How byte-level BPE writes bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + at) for at, byte in enumerate(others)}
