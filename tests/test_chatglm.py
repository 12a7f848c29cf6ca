"""The ChatGLM engine without the reference vectors: tiny models of our own, slow references written from the rules,
transformers' own model of the later families, and folders that something is wrong with."""

from __future__ import annotations

import json
import math
import os
import shutil
import socket
import subprocess
import sys
import time
from contextlib import closing, suppress
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request, urlopen

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")

import glmkit  # noqa: E402, F401  (one thread)
import hubkit  # noqa: E402

from kbqa.chatglm import load_chatglm  # noqa: E402
from kbqa.chatglm.architecture import read_architecture  # noqa: E402
from kbqa.chatglm.cache import Cache  # noqa: E402
from kbqa.chatglm.checkpoint import Checkpoint  # noqa: E402
from kbqa.chatglm.convert import convert  # noqa: E402
from kbqa.chatglm.files import cut_off  # noqa: E402
from kbqa.chatglm.hub import download, find_model  # noqa: E402
from kbqa.chatglm.info import what_is  # noqa: E402
from kbqa.chatglm.quantization import dequantize, pack, quantize, unpack  # noqa: E402
from kbqa.chatglm.requantize import quantize_folder  # noqa: E402
from kbqa.chatglm.sampling import Sampling  # noqa: E402
from kbqa.chatglm.tiny import Shape, make_tiny  # noqa: E402
from kbqa.chatglm.writing import Shards  # noqa: E402
from kbqa.errors import GeneratorError, ModelError  # noqa: E402

FAMILIES = ("chatglm", "chatglm2", "chatglm3", "glm4")
LATER = FAMILIES[1:]  # those that transformers has a model for
QUESTIONS = ("年假有几天？", "LQ-100的保修期是多久？", "你好")
TEXTS = (
    "工作满一年的员工每年享有15天年假。",
    "Hello  world,   how's it going?",
    " 前面有空格，后面也有 ",
    "第一行\n\n第三行\r\n\t缩进",
    "😀👍🏽 𠀀 é é ＡＢＣ　全角",
    "<|user|> [gMASK] <sop> sop eop </s> <|endoftext|> <0x0A>",
    "12345.678 1,000,000 -3.5%",
    "",
    " ",
    "\x00\x7f",
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """`tiny(family)`: the folder of a random model. Not to be changed."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("models") / f"tiny-{family}"
            make_tiny(family, made[family])
        return made[family]

    return folder


@pytest.fixture
def copy(tiny, tmp_path):
    """`copy(family)`: one to break."""

    def copied(family: str) -> Path:
        return shutil.copytree(tiny(family), tmp_path / f"broken-{family}")

    return copied


def prompts(model):
    return [model.chat_ids(question) for question in QUESTIONS]


def edit_config(folder: Path, **changes) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}), encoding="utf-8")


def edit_bin(path: Path, change) -> None:
    """Lets `change` alter the tensors of a .bin file, which are a dict."""
    tensors = {name: tensor.clone() for name, tensor in torch.load(path, weights_only=True).items()}
    change(tensors)
    torch.save(tensors, path)


# --- tiny models -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "files"),
    [
        ("chatglm", {"ice_text.model", "pytorch_model-00003-of-00003.bin", "pytorch_model.bin.index.json"}),
        ("chatglm2", {"tokenizer.model", "pytorch_model.bin"}),
        ("chatglm3", {"tokenizer.model", "pytorch_model-00002-of-00003.bin", "pytorch_model.bin.index.json"}),
        ("glm4", {"tokenizer.model", "model-00002-of-00002.safetensors", "model.safetensors.index.json"}),
    ],
)
def test_a_tiny_model_has_the_files_of_its_family_and_is_recognized(tiny, family, files):
    folder = tiny(family)
    assert files | {"config.json", "tokenizer_config.json"} <= {path.name for path in folder.iterdir()}
    assert load_chatglm(folder).family == family


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_seed_makes_the_same_model_and_another_seed_another(tiny, tmp_path, family):
    first = dict(Checkpoint(tiny(family)))
    make_tiny(family, tmp_path / "again")
    make_tiny(family, tmp_path / "other", seed=1)
    again, other = dict(Checkpoint(tmp_path / "again")), dict(Checkpoint(tmp_path / "other"))
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "inv_freq" not in name)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_tiny_model_neither_repeats_one_token_nor_says_the_same_to_everything(tiny, family):
    model = load_chatglm(tiny(family))
    said = [model.generate(ids, 24) for ids in prompts(model)]
    assert max(len(set(ids)) for ids in said) >= 8
    assert len({tuple(ids) for ids in said}) == len(said)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_vocabulary_of_our_own_gives_back_what_it_was_given(tiny, family):
    tokenizer = load_chatglm(tiny(family)).tokenizer
    for text in ("工作满一年的员工每年享有15天年假。", "a  b\n\tc 😀", "<|user|> sop"):
        folded = text.replace("，", ",") if family == "chatglm" else text
        assert tokenizer.decode(tokenizer.encode(text)) == folded
        assert not set(tokenizer.encode(text)) & set(tokenizer.specials.values())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"hidden": 60}, "hidden 60"),
        ({"layers": 0}, "layers 0"),
        ({"groups": 3}, "groups 3"),
        ({"context": 8}, "context"),
    ],
)
def test_a_shape_that_cannot_be_is_refused_by_name(change, named):
    with pytest.raises(ModelError, match=named):
        Shape(**change)


def test_a_folder_that_is_there_is_never_overwritten(tiny):
    folder = tiny("chatglm2")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ModelError, match=r"holds config.json and 3 more; name a new folder, or an empty one"):
        make_tiny("chatglm2", folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    with pytest.raises(ModelError, match=r"config.json is a file; name a new folder"):
        make_tiny("chatglm2", folder / "config.json")


def test_an_empty_folder_may_be_filled_from_within(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    make_tiny("chatglm2", Path())
    assert load_chatglm(tmp_path / "mine").family == "chatglm2"
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_fitting_makes_the_answers_of_the_text_likely(tmp_path):
    """A minute of it makes a model that answers; these few seconds show that it is on the way."""
    question, answer = "重复：公司的仓库", "公司的仓库在上海路8号。"
    likely = []
    for steps in (0, 12):
        make_tiny("chatglm3", tmp_path / f"{steps}", Shape(layers=1), steps=steps)
        model = load_chatglm(tmp_path / f"{steps}")
        prompt = model.chat_ids(question)
        ids = [*prompt, *model.tokenizer.encode("\n"), *model.tokenizer.encode(answer)]
        (logits,) = model.logits([ids])
        written = logits[len(prompt) - 1 : -1].log_softmax(-1)
        likely.append(float(written.gather(1, torch.tensor(ids[len(prompt) :])[:, None]).mean()))
    random, fitted = likely
    assert fitted > random + 1


# --- slow references -------------------------------------------------------------------------------------------------


def slow_chatglm(folder: Path, ids: list[int]) -> torch.Tensor:
    """(T, vocabulary) logits of ChatGLM-6B, token by token and head by head, as its rules say and in no clever way."""
    tensors = {name: tensor.float() for name, tensor in Checkpoint(folder)}
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    size, alpha = hidden // heads, math.sqrt(2 * 28)
    context, mask = ids.index(config["bos_token_id"]), ids.index(config["gmask_token_id"])
    places = [(at, 0) if at < context else (mask, at - context + 1) for at in range(len(ids))]
    half = size // 2
    frequency = [float(np.float16(10000 ** (-2 * pair / half))) for pair in range(half // 2)]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        middle, spread = x.mean(), x.var(unbiased=False)
        scaled = (x - middle) / torch.sqrt(spread + config["layernorm_epsilon"])
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return tensors[f"{name}.weight"] @ x + tensors[f"{name}.bias"]

    def turned(vector: torch.Tensor, place: tuple[int, int]) -> torch.Tensor:
        out = vector.clone()
        for kind in (0, 1):
            for pair, turn in enumerate(frequency):
                one, other = kind * half + pair, kind * half + pair + half // 2
                angle = place[kind] * turn
                out[one] = vector[one] * math.cos(angle) - vector[other] * math.sin(angle)
                out[other] = vector[other] * math.cos(angle) + vector[one] * math.sin(angle)
        return out

    xs = [tensors["transformer.word_embeddings.weight"][token] for token in ids]
    for layer in range(config["num_layers"]):
        name = f"transformer.layers.{layer}"
        normed = [norm(x, f"{name}.input_layernorm") for x in xs]
        fused = [linear(x, f"{name}.attention.query_key_value").view(heads, 3 * size) for x in normed]
        mixed = [torch.zeros(hidden) for _ in ids]
        for head in range(heads):
            queries = [turned(it[head, :size], place) for it, place in zip(fused, places, strict=True)]
            keys = [turned(it[head, size : 2 * size], place) for it, place in zip(fused, places, strict=True)]
            for at, query in enumerate(queries):
                seen = [to for to in range(len(ids)) if to < context or to <= at]
                scores = torch.stack([query @ keys[to] / math.sqrt(size) for to in seen])
                weights = scores.softmax(0)
                values = torch.stack([fused[to][head, 2 * size :] for to in seen])
                mixed[at][head * size : (head + 1) * size] = weights @ values
        xs = [alpha * a + linear(m, f"{name}.attention.dense") for a, m in zip(normed, mixed, strict=True)]
        normed = [norm(x, f"{name}.post_attention_layernorm") for x in xs]
        inner = [torch.nn.functional.gelu(linear(x, f"{name}.mlp.dense_h_to_4h"), approximate="tanh") for x in normed]
        xs = [alpha * a + linear(m, f"{name}.mlp.dense_4h_to_h") for a, m in zip(normed, inner, strict=True)]
    last = [norm(x, "transformer.final_layernorm") for x in xs]
    return torch.stack([tensors["lm_head.weight"] @ x for x in last])


@pytest.mark.parametrize("more", [0, 5])
def test_chatglm_6b_gives_the_logits_of_a_slow_reference(tiny, more):
    """Alone, and with tokens already written behind the prompt."""
    model = load_chatglm(tiny("chatglm"))
    ids = [*prompts(model)[1], *model.tokenizer.encode("保修期为9个月")[:more]]
    (logits,) = model.logits([ids])
    torch.testing.assert_close(logits, slow_chatglm(tiny("chatglm"), ids), atol=2e-3, rtol=1e-3)


def slow_quantized(weight: torch.Tensor, bits: int) -> tuple[list[list[int]], list[float]]:
    """Packed bytes and scales, element by element, in numpy's float16."""
    largest = 127 if bits == 8 else 7
    rows, scales = [], []
    for row in weight.half().numpy():
        scale = np.float16(max(abs(it) for it in row)) / np.float16(largest)
        q = [round(float(np.float16(it / scale))) for it in row]  # Python rounds halves to the even neighbour
        if bits == 4:
            q = [((high & 15) << 4 | (low & 15)) for high, low in zip(q[0::2], q[1::2], strict=True)]
            q = [byte - 256 if byte > 127 else byte for byte in q]
        rows.append(q)
        scales.append(float(scale))
    return rows, scales


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_are_quantized_and_packed_as_a_slow_reference_does(bits):
    weight = torch.randn(12, 20, generator=torch.Generator().manual_seed(0)).half()
    weight[3, :5] = torch.tensor([3.5, -3.5, 7.0, 0.5, 1.5])  # halves, when the scale is 1
    weight[3, 5:] = 0
    packed, scale = quantize(weight, bits)
    rows, scales = slow_quantized(weight, bits)
    assert packed.tolist() == rows
    assert scale.tolist() == scales
    restored = dequantize(packed, scale, bits)
    assert (restored - weight.float()).abs().max() <= scale.float().max()


def test_every_pair_of_four_bit_numbers_is_unpacked_as_it_was_packed():
    pairs = torch.tensor([[high, low] for high in range(-8, 8) for low in range(-8, 8)], dtype=torch.int8)
    assert torch.equal(unpack(pack(pairs)), pairs)


# --- transformers ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def converted(tiny, tmp_path_factory):
    """`converted(family)`: the tiny model as transformers has it."""
    pytest.importorskip("transformers")
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("converted") / family
            convert(tiny(family), made[family])
        return made[family]

    return folder


def theirs(folder: Path):
    from transformers import GlmForCausalLM

    return GlmForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def assert_same_logits(ours, folder: Path) -> None:
    other = theirs(folder)
    for ids in prompts(ours):
        (logits,) = ours.logits([ids])
        torch.testing.assert_close(logits, other(torch.tensor([ids])).logits[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", LATER)
def test_a_converted_model_gives_in_transformers_the_logits_it_gives_here(tiny, converted, family):
    assert_same_logits(load_chatglm(tiny(family)), converted(family))


@pytest.mark.parametrize("family", LATER)
def test_transformers_writes_greedily_what_the_engine_writes(tiny, converted, family):
    ours, other = load_chatglm(tiny(family)), theirs(converted(family))
    for ids in prompts(ours):
        out = other.generate(torch.tensor([ids]), max_new_tokens=20, do_sample=False)[0, len(ids) :].tolist()
        until = next((at for at, token in enumerate(out) if token in ours.stops), len(out))
        assert ours.generate(ids, 20) == out[:until]


@pytest.mark.parametrize("family", LATER)
def test_the_tokenizer_of_a_converted_model_gives_the_same_ids(tiny, converted, family):
    from transformers import AutoTokenizer

    ours, other = load_chatglm(tiny(family)).tokenizer, AutoTokenizer.from_pretrained(converted(family))
    for text in TEXTS:
        assert other(text, add_special_tokens=False, split_special_tokens=True)["input_ids"] == ours.encode(text), text
    assert other("按sop和eop办", add_special_tokens=False)["input_ids"] == ours.encode("按sop和eop办"), "plain words"


TOOLS = [
    {
        "type": "function",
        "function": {"name": "查天气", "description": "某地的天气", "parameters": {"type": "object", "properties": {}}},
    }
]
CONVERSATIONS = {
    "question": [("user", "年假有几天？")],
    "rounds": [("user", "你好"), ("assistant", "你好！"), ("user", "a\n b "), ("assistant", "好 "), ("user", " 再见")],
    "system": [("system", "你是助手"), ("user", "你好"), ("assistant", "在"), ("user", "年假？")],
}


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("family", LATER)
def test_the_chat_template_of_a_converted_model_gives_the_same_prompt(tiny, converted, family, name):
    from transformers import AutoTokenizer

    said = [{"role": role, "content": content} for role, content in CONVERSATIONS[name]]
    ours, other = load_chatglm(tiny(family)), AutoTokenizer.from_pretrained(converted(family))
    ids = other.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
    assert ids == ours.chat_ids(said[-1]["content"], said[:-1])


@pytest.mark.parametrize("family", ["chatglm3", "glm4"])
def test_the_chat_template_of_a_converted_model_offers_tools_as_the_engine_does(tiny, converted, family):
    from transformers import AutoTokenizer

    call = {"type": "function", "function": {"name": "查天气", "arguments": {"city": "北京", "days": 3}}}
    said = [
        {"role": "user", "content": "北京天气如何？"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": '{"晴": 21}'},
    ]
    ours, other = load_chatglm(tiny(family)), AutoTokenizer.from_pretrained(converted(family))
    for messages in (said[:1], said):
        ids = other.apply_chat_template(messages, tools=TOOLS, add_generation_prompt=True, return_dict=False)
        from kbqa.chatglm.chat import prompt_ids
        from kbqa.chatglm.messages import from_messages

        assert ids == prompt_ids(ours.tokenizer, from_messages(messages, TOOLS))


@pytest.mark.parametrize("family", LATER)
def test_the_engine_loads_a_converted_model_as_what_it_was(tiny, converted, family):
    ours, back = load_chatglm(tiny(family)), load_chatglm(converted(family))
    assert (back.family, back.architecture.layout, back.stops) == (family, "glm", ours.stops)
    assert prompts(back) == prompts(ours)
    for one, other in zip(ours.logits(prompts(ours)), back.logits(prompts(ours)), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(("family", "ratio"), [("chatglm2", 4), ("chatglm3", 50)])
def test_longer_positions_are_converted_as_the_family_makes_them(copy, tmp_path, family, ratio):
    """ChatGLM2-6B-32k divides the positions, ChatGLM3-6B-32k turns them more slowly."""
    folder = copy(family)
    plain = load_chatglm(folder).logits([prompts(load_chatglm(folder))[0]])[0]
    edit_config(folder, rope_ratio=ratio)
    convert(folder, tmp_path / "out")
    rope = json.loads((tmp_path / "out/config.json").read_text(encoding="utf-8"))["rope_parameters"]
    assert rope["rope_type"] == ("linear" if family == "chatglm2" else "default")
    long = load_chatglm(folder)
    assert not torch.allclose(long.logits([prompts(long)[0]])[0], plain, atol=0.1)
    assert_same_logits(long, tmp_path / "out")
    assert_same_logits(load_chatglm(tmp_path / "out"), tmp_path / "out")


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_model_is_restored_when_it_is_converted(tiny, tmp_path, bits):
    quantize_folder(tiny("chatglm3"), tmp_path / "small", bits)
    convert(tmp_path / "small", tmp_path / "out", dtype="float32")
    assert_same_logits(load_chatglm(tmp_path / "small"), tmp_path / "out")


def test_large_models_are_written_in_shards_with_an_index(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(Shards.__init__, "__defaults__", (100_000,))
    convert(tiny("chatglm2"), tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text(encoding="utf-8"))
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert sorted(set(index["weight_map"].values())) == files
    assert_same_logits(load_chatglm(tiny("chatglm2")), tmp_path / "out")


def test_chatglm_6b_cannot_be_converted_and_the_error_says_why(tiny, tmp_path):
    with pytest.raises(ModelError, match="ChatGLM-6B, which cannot be converted"):
        convert(tiny("chatglm"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# --- quantizing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_quantized_folder_is_the_model_that_quantizing_while_loading_gives(tiny, tmp_path, family, bits):
    quantize_folder(tiny(family), tmp_path / "small", bits)
    stored, loaded = load_chatglm(tmp_path / "small"), load_chatglm(tiny(family), quantize=bits)
    assert stored.architecture.bits == bits
    for one, other in zip(stored.logits(prompts(stored)), loaded.logits(prompts(stored)), strict=True):
        assert torch.equal(one, other)


def test_a_quantized_folder_keeps_all_else_as_it_was(tiny, tmp_path):
    source = tiny("chatglm")
    quantize_folder(source, tmp_path / "small", 8)
    for name in ("ice_text.model", "tokenizer_config.json"):
        assert (tmp_path / "small" / name).read_bytes() == (source / name).read_bytes()
    full, small = dict(Checkpoint(source)), dict(Checkpoint(tmp_path / "small"))
    assert {name for name in small if not name.endswith("_scale")} == full.keys()
    untouched = [name for name in full if small[name].dtype != torch.int8]
    assert "lm_head.weight" in untouched
    assert all(torch.equal(full[name], small[name]) for name in untouched)
    config = json.loads((tmp_path / "small/config.json").read_text(encoding="utf-8"))
    assert (config["quantization_bit"], config["quantization_embeddings"]) == (8, False)


def test_what_cannot_be_quantized_is_refused_and_nothing_is_left(tiny, copy, converted, tmp_path):
    quantize_folder(tiny("chatglm2"), tmp_path / "small", 8)
    broken = copy("chatglm3")
    path = broken / "pytorch_model-00002-of-00003.bin"
    path.write_bytes(path.read_bytes()[:-500])
    before = {*tmp_path.iterdir()}
    for source, said in (
        (tmp_path / "small", "8 bits already"),
        (converted("glm4"), "layout of transformers"),
        (broken, "cut off"),
    ):
        with pytest.raises(ModelError, match=said):
            quantize_folder(source, tmp_path / "out", 4)
    with pytest.raises(ModelError, match="nothing is overwritten"):
        quantize_folder(tiny("chatglm2"), tmp_path / "small", 4)
    assert {*tmp_path.iterdir()} == before


def test_a_checkpoint_that_is_not_whole_is_not_passed_on(copy, tmp_path):
    folder = copy("chatglm2")
    path = folder / "pytorch_model.bin"
    for change, said in (
        (lambda tensors: tensors.update({QKV: torch.zeros(8, 64).half()}), "is .8, 64., but config.json makes it"),
        (drop(QKV), "lacks the weights of blocks.0.attention.qkv.weight and 0 more"),
    ):
        edit_bin(path, change)
        for write in (convert, lambda source, out: quantize_folder(source, out, 4)):
            with pytest.raises(ModelError, match=said):
                write(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name]


def test_a_full_disk_leaves_nothing_behind(tiny, tmp_path, no_file_grows):
    for write in (convert, lambda source, out: quantize_folder(source, out, 8)):
        with no_file_grows(30_000), pytest.raises((ModelError, OSError)):
            write(tiny("chatglm2"), tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_left_is_taken_away_by_the_next(tiny, tmp_path):
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "half").write_text("x", encoding="utf-8")
    quantize_folder(tiny("chatglm2"), tmp_path / "out", 8)
    assert not left.exists()
    assert not (tmp_path / "out/half").exists()


# --- folders that something is wrong with ----------------------------------------------------------------------------


def drop(name):
    def change(tensors):
        del tensors[name]

    return change


def replaced(name, tensor):
    def change(tensors):
        assert name in tensors
        tensors[name] = tensor

    return change


QKV = "transformer.encoder.layers.0.self_attention.query_key_value.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop(QKV), "lacks the weights of blocks.0.attention.qkv.weight"),
        (replaced(QKV, torch.zeros(8, 64).half()), r"query_key_value.weight is \(8, 64\), but config.json makes it"),
        (replaced(QKV, torch.zeros(128, 64, dtype=torch.int8)), "int8: the weights are quantized, but config.json"),
        (lambda tensors: tensors.update({"transformer.vision.weight": torch.zeros(2)}), "transformer.vision.weight"),
        (
            lambda tensors: tensors.update({QKV.replace("layers.0", "layers.7"): torch.zeros(2)}),
            r"of a layer that config.json does not have \(2 layers\)",
        ),
        (lambda tensors: tensors.update({"epoch": 3}), "epoch is no tensor"),
    ],
)
def test_weights_that_do_not_fit_config_json_are_named(copy, change, said):
    folder = copy("chatglm2")
    edit_bin(folder / "pytorch_model.bin", change)
    with pytest.raises(ModelError, match=said):
        load_chatglm(folder)


@pytest.mark.parametrize("device", ["tpu", "中", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error_of_one_line(tiny, device):
    with pytest.raises(ModelError, match=f"^the device {device} cannot be used here .* `kbqa doctor`$"):
        load_chatglm(tiny("chatglm3"), device=device)


def test_a_model_that_is_published_in_two_forms_needs_only_one_of_them(copy):
    folder = copy("chatglm3")
    plain = load_chatglm(folder).logits([[5, 6, 7]])[0]
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text(encoding="utf-8"))
    others = {name: file.replace("pytorch_model", "model") for name, file in index["weight_map"].items()}
    others = {name: file.replace(".bin", ".safetensors") for name, file in others.items()}
    text = json.dumps(index | {"weight_map": others})
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    assert torch.equal(load_chatglm(folder).logits([[5, 6, 7]])[0], plain)
    for path in folder.glob("*.bin"):
        path.unlink()
    with pytest.raises(ModelError, match=r"lacks 3 of its 3 files of weights: model-00001"):
        load_chatglm(folder)


def test_a_missing_shard_is_named(copy):
    folder = copy("chatglm")
    (folder / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(ModelError, match=r"lacks 1 of its 3 files of weights: pytorch_model-00002-of-00003.bin; down"):
        load_chatglm(folder)


@pytest.mark.parametrize(
    ("family", "name"), [("chatglm3", "pytorch_model-00001-of-00003.bin"), ("glm4", "model-00002-of-00002.safetensors")]
)
@pytest.mark.parametrize("left", [0, 0.5, 0.999])
def test_a_shard_that_is_cut_off_is_named(copy, family, name, left):
    folder = copy(family)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(len(content) * left)])
    with pytest.raises(ModelError, match=rf"{name} .*is damaged or cut off: .*; download it again"):
        load_chatglm(folder)
    assert f"{name} is damaged or cut off: " in what_is(folder).trouble, "which does not read it"


@pytest.mark.parametrize(
    ("content", "wrong"),
    [
        (b"", "ends before its table"),
        (b"\x05\x00\x00", "ends before its table"),
        (b"\xff" * 9, "ends before its table"),
        ((4).to_bytes(8, "little") + b"{}  ", ""),
        ((4).to_bytes(8, "little") + b"{}  more", "has 16 bytes and must have 12"),
        ((4).to_bytes(8, "little") + b"[1] ", "table of contents is no JSON"),
        ((14).to_bytes(8, "little") + b'{"a":{"b":[]}}', "table of contents is no JSON"),
    ],
)
def test_a_safetensors_file_is_measured_against_its_table_of_contents(tmp_path, content, wrong):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert wrong in cut_off(path)
    assert bool(wrong) == bool(cut_off(path))


def test_a_shard_without_what_the_index_promises_is_named(copy):
    folder = copy("chatglm3")
    path = folder / "pytorch_model-00001-of-00003.bin"
    edit_bin(path, lambda tensors: tensors.pop(next(iter(tensors))))
    with pytest.raises(ModelError, match=r"00001-of-00003.bin lacks transformer"):
        load_chatglm(folder)


@pytest.mark.parametrize("content", ["{}", "[]", "no json", '{"weight_map": {"a": "../elsewhere.bin"}}'])
def test_an_index_that_makes_no_sense_is_named(copy, content):
    folder = copy("chatglm3")
    (folder / "pytorch_model.bin.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin\.index\.json"):
        load_chatglm(folder)


@pytest.mark.parametrize("content", [b"", b"\x80\x02.", b"\x80\x02]q\x00.", b"PK\x03\x04"])
def test_a_file_that_holds_no_tensors_is_named(copy, content):
    folder = copy("chatglm2")
    (folder / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(ModelError, match=r"pytorch_model\.bin.* (is damaged or cut off|does not hold tensors)"):
        load_chatglm(folder)


def test_tensors_without_a_name_are_refused(copy):
    folder = copy("chatglm2")
    edit_bin(folder / "pytorch_model.bin", lambda tensors: tensors.update({7: torch.ones(1)}))
    with pytest.raises(ModelError, match="no file of model weights"):
        load_chatglm(folder)


class Evil:
    """What a file of weights could hold and must never be run."""

    def __init__(self, where):
        self.where = where

    def __reduce__(self):
        return Path.touch, (self.where,)


def test_a_pickle_in_a_file_of_weights_is_refused_and_not_run(copy, tmp_path):
    folder = copy("chatglm2")
    torch.save({QKV: Evil(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"pytorch_model\.bin"):
        load_chatglm(folder)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "llama"}, "type 'llama', not one of the ChatGLM family"),
        ({"model_type": ...}, "type None"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"hidden_size": "64"}, "hidden_size is '64'"),
        ({"multi_query_group_num": 3}, "4 heads cannot be shared by 3 groups"),
        ({"layernorm_epsilon": 0}, "layernorm_epsilon is 0"),
        ({"rope_ratio": math.inf}, "rope_ratio is inf"),
        ({"rope_ratio": 10**400}, "rope_ratio is 1000"),
        ({"rmsnorm": False}, "rmsnorm is False"),
        ({"quantization_bit": 3}, "quantization_bit is 3"),
        ({"quantization_bit": 8}, "is stored as torch.float16, but config.json says quantization_bit 8"),
        ({"num_layers": 3}, "lacks the weights of blocks.2"),
        ({"padded_vocab_size": 640}, "is .704, 64., but config.json makes it .640, 64."),
        ({"eos_token_id": "two"}, "eos_token_id is 'two'"),
        ({"vision_config": {"layers": 1}}, "sees images"),
    ],
)
def test_a_config_that_cannot_be_is_named(copy, changes, said):
    folder = copy("chatglm2")
    edit_config(folder, **changes)
    with pytest.raises(ModelError, match=said):
        load_chatglm(folder)


def test_the_first_releases_do_not_say_where_the_mask_tokens_are(copy):
    folder = copy("chatglm")
    told = read_architecture(folder)
    edit_config(folder, mask_token_id=..., gmask_token_id=...)
    assert read_architecture(folder) == told


def test_a_folder_that_does_not_tell_its_family_asks_for_it(copy):
    folder = copy("chatglm2").rename(copy("chatglm3").parent / "mine")
    edit_config(folder, _name_or_path=...)
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"whether it is ChatGLM2 or ChatGLM3, .* family: chatglm2 or chatglm3"):
        load_chatglm(folder)
    assert load_chatglm(folder, family="chatglm2").family == "chatglm2"
    with pytest.raises(ModelError, match="'chatglm4' is not a family"):
        load_chatglm(folder, family="chatglm4")


def test_json_that_is_nested_without_end_is_an_error_of_one_line(copy):
    folder = copy("chatglm2")
    (folder / "config.json").write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        load_chatglm(folder)


def test_a_list_of_end_tokens_does_not_make_a_chatglm3_a_glm_4(copy):
    """As many write it into the config, so that an answer ends where the user's turn begins."""
    folder = copy("chatglm3")
    edit_config(folder, eos_token_id=[2, 646])
    assert load_chatglm(folder).architecture.eos == (2, 646)
    assert load_chatglm(folder).family == "chatglm3"
    edit_config(folder, _name_or_path=...)
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "ChatGLMTokenizer"}', encoding="utf-8")
    assert load_chatglm(folder, family="chatglm3").family == "chatglm3"


def test_the_name_of_a_folder_tells_its_family_however_it_is_reached(copy, tmp_path, monkeypatch):
    folder = copy("chatglm3").rename(tmp_path / "chatglm3-6b-客服")
    edit_config(folder, _name_or_path=...)
    (folder / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    monkeypatch.chdir(folder)
    assert what_is(Path()).architecture.family == "chatglm3"


def test_ways_to_stretch_positions_that_the_engine_does_not_know_are_refused(converted, tmp_path):
    """By their present and by their former name in config.json."""
    folder = shutil.copytree(converted("glm4"), tmp_path / "x")
    for name, kind in (("rope_parameters", "rope_type"), ("rope_scaling", "rope_type"), ("rope_scaling", "type")):
        edit_config(folder, rope_parameters=None, rope_scaling=None)
        edit_config(folder, **{name: {kind: "yarn", "factor": 4.0}})
        with pytest.raises(ModelError, match="rope_type is 'yarn'"):
            load_chatglm(folder)


def test_a_converted_folder_of_a_family_that_cannot_be_is_refused(converted, tmp_path):
    folder = shutil.copytree(converted("chatglm3"), tmp_path / "x")
    for family in ("chatglm", "chatglm9"):
        edit_config(folder, chatglm_family=family)
        with pytest.raises(ModelError, match=f"chatglm_family is '{family}'"):
            load_chatglm(folder)


def test_a_folder_of_another_family_than_given_is_refused(tiny):
    with pytest.raises(ModelError, match="of the family glm4, not chatglm"):
        load_chatglm(tiny("glm4"), family="chatglm")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["config.json", "the tokenizer", "the weights"])
def test_a_missing_file_is_named(copy, family, name):
    folder = copy(family)
    pattern = {"config.json": "config.json", "the tokenizer": "*.model", "the weights": "*model*[nrs]"}[name]
    for path in folder.glob(pattern):
        path.unlink()
    with pytest.raises(ModelError, match=r"has no config\.json|, the tokenizer: its|holds no weights"):
        load_chatglm(folder)


def test_no_folder_at_all_is_an_error_that_says_what_can_be_done(tmp_path):
    with pytest.raises(ModelError, match="there is no model folder"):
        load_chatglm(tmp_path / "nowhere")
    with pytest.raises(ModelError, match="kbqa model download"):
        load_chatglm("THUDM/no-such-model")
    with pytest.raises(ModelError, match=r"no model folder models.nothing$"):
        load_chatglm("./models/nothing")


# --- prefixes and prompts that do not fit ----------------------------------------------------------------------------


def write_prefix(folder: Path, rows: int, width: int) -> Path:
    folder.mkdir()
    torch.save({"transformer.prefix_encoder.embedding.weight": torch.randn(rows, width)}, folder / "pytorch_model.bin")
    return folder


def test_the_prefix_that_a_model_was_loaded_with_is_not_replaced_by_one_of_any_name(tiny, tmp_path):
    a = load_chatglm(tiny("chatglm2")).architecture
    width = 2 * a.layers * a.groups * a.head_dim
    model = load_chatglm(tiny("chatglm2"), prefix=write_prefix(tmp_path / "first", 5, width))
    ids = prompts(model)[0]
    before = model.logits([ids])[0]
    for name in ("prefix", ""):
        model.load_prefix(name, write_prefix(tmp_path / f"another {name}", 5, width))
        assert torch.equal(model.logits([ids])[0], before)
        assert not torch.equal(model.logits([ids], adapter=name)[0], before)


def test_a_prefix_of_the_model_is_used_and_one_of_another_is_refused(tiny, tmp_path):
    model = load_chatglm(tiny("chatglm2"))
    a = model.architecture
    width = 2 * a.layers * a.groups * a.head_dim
    ids = prompts(model)[0]
    plain = model.logits([ids])[0]
    model.load_prefix("客服", write_prefix(tmp_path / "right", 5, width))
    assert not torch.allclose(model.logits([ids], adapter="客服")[0], plain, atol=0.01)
    assert torch.equal(model.logits([ids])[0], plain)
    for number, wrong in enumerate((2 * width, width // 2)):  # of ChatGLM-6B, which has more heads; of fewer layers
        with pytest.raises(ModelError, match="it was trained for another model"):
            model.load_prefix("x", write_prefix(tmp_path / f"wrong{number}", 5, wrong))
    with pytest.raises(ModelError, match="holds no P-Tuning prefix"):
        model.load_prefix("x", tiny("chatglm2"))
    with pytest.raises(ModelError, match=r"no adapter 'x' is loaded \(loaded: 客服\)"):
        model.logits([ids], adapter="x")


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_that_cannot_be_are_refused(tiny, family):
    model = load_chatglm(tiny(family))
    size, context = model.architecture.vocabulary, model.architecture.context
    ids = prompts(model)[0]
    for wrong, said in (
        ([], "the prompt is empty"),
        ([size, *ids], f"has no token {size}; its ids go from 0 to {size - 1}"),
        ([-1, *ids], "has no token -1"),
        (ids[:1] * context + ids, f"the model's context is {context}"),
    ):
        with pytest.raises(ModelError, match=said):
            model.generate(wrong)
        if len(wrong) < context:
            with pytest.raises(ModelError, match=said):
                model.logits([wrong])


def test_a_prompt_for_chatglm_6b_without_its_marks_is_refused(tiny):
    model = load_chatglm(tiny("chatglm"))
    ids = model.tokenizer.encode("年假有几天？")
    with pytest.raises(ModelError, match="must hold <sop>"):
        model.generate(ids)
    with pytest.raises(ModelError, match=r"must hold \[gMASK\] or \[MASK\]"):
        model.generate([*ids, model.tokenizer.specials["<sop>"]])


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_ends_where_the_context_does(tiny, family):
    model = load_chatglm(tiny(family))
    a = model.architecture
    filler = model.tokenizer.encode("年" * (a.context - 40))[: a.context - 30]
    ids = model.tokenizer.prompt(filler)
    assert len(model.generate(ids, max_new_tokens=500)) <= a.context - len(ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_without_a_limit_takes_the_memory_of_what_is_written_not_of_the_whole_context(
    copy, monkeypatch, family
):
    folder = copy(family)
    edit_config(folder, **{"max_sequence_length" if family == "chatglm" else "seq_length": 10**6})
    made = []

    class Seen(Cache):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

    monkeypatch.setattr("kbqa.chatglm.runner.Cache", Seen)
    monkeypatch.setattr("kbqa.chatglm.model.FIRST", 4)
    model = load_chatglm(folder)
    ids = prompts(model)[0]
    model.stops = frozenset()
    with closing(model.tokens(ids, Sampling())) as tokens:
        grown = [next(tokens) for _ in range(50)]
    assert len(ids) + 49 <= made[-1].capacity <= 2 * (len(ids) + 50)
    monkeypatch.setattr("kbqa.chatglm.model.FIRST", 1000)
    assert model.generate(ids, 50) == grown


NO_MEMORY = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 96.00 MiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
)


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_a_model_that_does_not_fit_into_memory_is_an_error_that_names_the_remedy(tiny, monkeypatch, error):
    """What torch raises on each device."""

    def full(*_):
        raise error

    monkeypatch.setattr("kbqa.chatglm.model.load_decoder", full)
    with pytest.raises(ModelError, match=r"chatglm2 does not fit into the memory of cpu; 4 bits need the least"):
        load_chatglm(tiny("chatglm2"))


FULL = """
import resource, sys
import torch
from kbqa.chatglm import load_chatglm
from kbqa.errors import ModelError

torch.set_num_threads(1)
load_chatglm(sys.argv[1]).chat("x", max_new_tokens=1)
with open("/proc/self/statm") as told:
    in_use = int(told.read().split()[0]) * resource.getpagesize()
for more in (5, 20):
    resource.setrlimit(resource.RLIMIT_AS, (in_use + more * 2**20, resource.RLIM_INFINITY))
    try:
        load_chatglm(sys.argv[2])
    except ModelError as error:
        print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")
def test_weights_for_which_there_is_no_memory_are_not_called_damaged(tiny, tmp_path):
    """Where mapping the file fails already, and where its tensors have no place."""
    make_tiny("chatglm2", tmp_path / "large", Shape(hidden=1024, heads=16))  # about 40 MB
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FULL, str(tiny("chatglm2")), str(tmp_path / "large")],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    told = done.stdout.splitlines()
    assert len(told) == 2, done.stderr
    assert all("does not fit into the memory of cpu" in line for line in told), done.stdout


def test_another_error_of_torch_is_not_taken_for_a_lack_of_memory(tiny, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: no kernel image is available; see the allocator's settings")

    monkeypatch.setattr("kbqa.chatglm.model.load_decoder", broken)
    with pytest.raises(RuntimeError, match="no kernel image"):
        load_chatglm(tiny("chatglm2"))


def test_weights_that_are_no_numbers_are_an_error_and_not_a_text(copy):
    folder = copy("chatglm2")
    edit_bin(folder / "pytorch_model.bin", lambda tensors: tensors["transformer.output_layer.weight"].fill_(math.nan))
    model = load_chatglm(folder)
    with pytest.raises(GeneratorError, match="float32 logits are not finite"):
        model.generate(prompts(model)[0], 4)


# --- what it takes ---------------------------------------------------------------------------------------------------


def stored(folder: Path, family: str) -> dict[str, torch.Tensor]:
    """The tensors that a model keeps in memory."""
    tensors = {name: tensor for name, tensor in Checkpoint(folder) if "inv_freq" not in name}
    if family == "chatglm":
        del tensors["lm_head.weight"]  # the same as the embedding
    return tensors


@pytest.mark.parametrize("family", FAMILIES)
def test_info_counts_what_is_there_without_loading_it(tiny, tmp_path, family):
    found = what_is(tiny(family))
    assert not found.trouble
    assert found.architecture.parameters == sum(it.numel() for it in stored(tiny(family), family).values())
    full, *smaller = found.needs
    assert (full.bits, full.weights) == (16, 2 * found.architecture.parameters)
    assert [need.bits for need in smaller] == [8, 4]
    for need in smaller:
        folder = tmp_path / str(need.bits)
        quantize_folder(tiny(family), folder, need.bits)
        assert need.weights == sum(it.nbytes for it in stored(folder, family).values())
        assert what_is(folder).needs == (need,)


def test_info_works_from_config_json_alone_and_says_so(copy):
    folder = copy("glm4")
    for path in folder.glob("*.safetensors*"):
        path.unlink()
    found = what_is(folder)
    assert found.files == ()
    assert "holds no weights" in found.trouble
    assert found.architecture.family == "glm4"


# --- models by name --------------------------------------------------------------------------------------------------


@pytest.fixture
def caches(tmp_path, monkeypatch):
    """An empty place for what the clients keep."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "MODELSCOPE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))  # Windows
    return tmp_path / ".cache"


def put(folder: Path, text: str = "{}") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


def test_an_id_is_found_where_the_hugging_face_client_keeps_it(caches, tmp_path, monkeypatch):
    kept = caches / "huggingface/hub/models--THUDM--chatglm3-6b"
    old, new = put(kept / "snapshots/aaa"), put(kept / "snapshots/bbb")
    (kept / "refs").mkdir()
    (kept / "refs/main").write_text("bbb", encoding="utf-8")
    (kept / "refs/v1.0").write_text("aaa", encoding="utf-8")
    assert find_model("THUDM/chatglm3-6b") == new
    assert find_model("THUDM/chatglm3-6b@v1.0") == find_model("THUDM/chatglm3-6b@aaa") == old
    with pytest.raises(ModelError, match="kbqa model download THUDM/chatglm3-6b DIR"):
        find_model("THUDM/chatglm3-6b@v9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "elsewhere"))
    with pytest.raises(ModelError):
        find_model("THUDM/chatglm3-6b")
    monkeypatch.setenv("HF_HUB_CACHE", str(caches / "huggingface/hub"))
    assert find_model("THUDM/chatglm3-6b") == new


@pytest.mark.parametrize("place", ["hub/ZhipuAI/chatglm3-6b", "hub/models/ZhipuAI/chatglm3-6b"])
def test_an_id_is_found_where_the_modelscope_client_keeps_it(caches, tmp_path, monkeypatch, place):
    folder = put(caches / "modelscope" / place)
    assert find_model("ZhipuAI/chatglm3-6b") == folder
    (folder / ".mv").write_text("Revision:v1.0.2,CreatedAt:1701000000", encoding="utf-8")
    assert find_model("ZhipuAI/chatglm3-6b@v1.0.2") == folder
    with pytest.raises(ModelError):
        find_model("ZhipuAI/chatglm3-6b@v1.0.0")
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path / "own"))
    own = put(tmp_path / "own/models/ZhipuAI/glm___4")
    assert find_model("ZhipuAI/glm.4") == own


def test_a_folder_goes_before_an_id_of_the_same_name(caches, tmp_path, monkeypatch):
    put(caches / "huggingface/hub/models--models--mine/snapshots/aaa")
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "models/mine")
    assert find_model("models/mine") == Path("models/mine")


def test_an_unfinished_download_is_not_taken_for_a_model(caches):
    (caches / "huggingface/hub/models--THUDM--chatglm3-6b/snapshots/aaa").mkdir(parents=True)
    with pytest.raises(ModelError, match="has been downloaded"):
        find_model("THUDM/chatglm3-6b")


def test_a_model_loads_by_its_id(tiny, caches):
    shutil.copytree(tiny("chatglm2"), caches / "modelscope/hub/models/mine/tiny-chatglm2")
    assert load_chatglm("mine/tiny-chatglm2").family == "chatglm2"


def test_an_id_is_found_where_newer_modelscope_clients_keep_it(caches):
    kept = caches / "modelscope/hub/models--ZhipuAI--glm-4-9b-chat"
    folder = put(kept / "snapshots/abc")
    (kept / "refs").mkdir()
    (kept / "refs/master").write_text("abc", encoding="utf-8")
    assert find_model("ZhipuAI/glm-4-9b-chat") == find_model("ZhipuAI/glm-4-9b-chat@abc") == folder


class Client:
    """What the clients of both places share, with a folder in place of the network."""

    def __init__(self, there: Path) -> None:
        self.there = there

    def snapshot_download(self, model: str, *, revision: str | None, local_dir: str, allow_patterns: list[str]) -> str:
        if not (self.there / model).is_dir():
            raise ValueError(f"no model {model}\nat all")
        Path(local_dir).mkdir(parents=True, exist_ok=True)
        for path in (self.there / model).iterdir():
            if any(fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copyfile(path, Path(local_dir) / path.name)
        return local_dir


@pytest.mark.parametrize("family", ["chatglm2", "chatglm3", "glm4"])
def test_a_download_brings_one_form_of_the_weights_and_no_code(tiny, tmp_path, monkeypatch, family):
    """A single file, shards, and shards beside the same weights in the other form."""
    there = shutil.copytree(tiny(family), tmp_path / "there" / "THUDM" / family)
    (there / "modeling_chatglm.py").write_text("raise SystemExit", encoding="utf-8")
    if family == "glm4":
        torch.save(dict(Checkpoint(there)), there / "pytorch_model.bin")
    monkeypatch.setitem(sys.modules, "modelscope", Client(tmp_path / "there"))
    download(f"THUDM/{family}", tmp_path / "mine", "modelscope")
    got, form = {path.name for path in (tmp_path / "mine").iterdir()}, "safetensors" if family == "glm4" else "bin"
    assert {Path(name).suffix for name in got} == {".json", ".model", f".{form}"}
    assert load_chatglm(tmp_path / "mine").family == family


def test_a_download_that_fails_says_what_was_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "modelscope", Client(tmp_path / "there"))
    with pytest.raises(ModelError, match=r"could not be downloaded: modelscope: no model THUDM/x at all$"):
        download("THUDM/x", tmp_path / "mine", "modelscope")
    (tmp_path / "there/THUDM/x").mkdir(parents=True)
    with pytest.raises(ModelError, match=r"holds no config\.json"):
        download("THUDM/x", tmp_path / "mine", "modelscope")
    (tmp_path / "there/THUDM/x/config.json").write_text("{}")
    with pytest.raises(ModelError, match="no weights are published with this model"):
        download("THUDM/x", tmp_path / "mine", "modelscope")
    (tmp_path / "there/THUDM/x/model.safetensors.index.json").write_text('{"weight_map": {"a": "model-2.safetensors"}}')
    with pytest.raises(
        ModelError, match=r"model-2.safetensors of THUDM/x has not come; what has come is kept in .*mine"
    ):
        download("THUDM/x", tmp_path / "mine", "modelscope")


def test_a_place_that_cannot_be_reached_is_told_from_a_model_that_is_not_there(tmp_path, monkeypatch):
    client = Client(tmp_path)
    monkeypatch.setitem(sys.modules, "modelscope", client)

    def raises(error: Exception) -> str:
        monkeypatch.setattr(client, "snapshot_download", lambda *_, **__: (_ for _ in ()).throw(error))
        with pytest.raises(ModelError) as caught:
            download("THUDM/x", tmp_path / "mine", "modelscope")
        return str(caught.value)

    error = RuntimeError("HTTPConnectionPool(host='x', port=9): Max retries exceeded with url: /api/v1")
    error.__cause__ = ConnectionRefusedError(111, "Connection refused")
    assert raises(error) == (
        "THUDM/x could not be downloaded: modelscope cannot be reached, or broke off (Connection refused): is there a "
        "network? A proxy is named in https_proxy, a mirror in MODELSCOPE_ENDPOINT"
    )
    error = RuntimeError("404")
    error.response = SimpleNamespace(status_code=404)
    assert "modelscope has no such model, or shows it only to whom it knows (MODELSCOPE_API_TOKEN)" in raises(error)


DOWNLOADS = """
import sys
from pathlib import Path
from kbqa.chatglm.hub import download
from kbqa.errors import ModelError

source, *steps = sys.argv[1:]
for step in steps:
    model, folder = step.split("=")
    try:
        download(model, Path(folder), source)
        print("whole")
    except ModelError as error:
        print(error)
"""


@pytest.mark.parametrize("source", ["huggingface", "modelscope"])
def test_the_real_clients_download_resume_and_say_what_is_wrong(tiny, tmp_path, source):
    """From a server on this machine that speaks as the two places do."""
    pytest.importorskip("huggingface_hub" if source == "huggingface" else "modelscope", reason="kbqa[hub] is not there")
    there = shutil.copytree(tiny("chatglm3"), tmp_path / "there/ZhipuAI/chatglm3-6b")
    (there / "modeling_chatglm.py").write_text("raise SystemExit", encoding="utf-8")
    shards = sorted(path.name for path in there.glob("*.bin"))
    mine, part = tmp_path / "mine", tmp_path / "part"
    (tmp_path / "home").mkdir()
    with hubkit.serving(tmp_path / "there") as hub:
        hub.breaks_off = shards[1]
        steps = [f"ZhipuAI/chatglm3-6b={mine}", f"ZhipuAI/chatglm3-6b={mine}", f"ZhipuAI/none={mine}", f"x={part}"]
        root = str(Path(__file__).parents[1])
        done = subprocess.run(
            [sys.executable, "-c", DOWNLOADS, source, *steps],
            env=hub.environment(tmp_path / "home") | {"PYTHONPATH": root},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    first, second, third, fourth = done.stdout.splitlines()[-4:]
    if source == "modelscope":  # the other client tries again by itself
        assert "ZhipuAI/chatglm3-6b could not be downloaded: modelscope: " in first
        assert f"what has come is kept in {mine}, and the same command goes on from there" in first
        assert (shards[1], (there / shards[1]).stat().st_size // 2) in hub.sent, "it went on where it was"
    assert second == "whole"
    assert third.startswith(f"ZhipuAI/none could not be downloaded: {source} has no such model")
    assert "x is no id of a model" in fourth
    assert [hub.sent.count((name, 0)) for name in shards if name != shards[1]] == [1, 1], "nothing came twice"
    assert {path.suffix for path in mine.iterdir() if path.is_file()} == {".json", ".model", ".bin"}
    assert load_chatglm(mine).family == "chatglm3"


# --- served by others ------------------------------------------------------------------------------------------------


@pytest.fixture
def served(converted, tmp_path):
    """`transformers serve` with a converted GLM-4: its address and folder."""
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    folder = convert_again(converted("glm4"), tmp_path / "glm4-float32")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", "from transformers.cli.transformers import main; main()"]
    server = subprocess.Popen(
        [*command, "serve", str(folder), "--device", "cpu", "--port", str(port)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    address = f"http://127.0.0.1:{port}"
    try:
        yield until_it_answers(server, address), folder
    finally:
        server.terminate()
        server.wait(30)


def convert_again(folder: Path, out: Path) -> Path:
    """In float32, in which both compute; the weights are stored in bfloat16."""
    shutil.copytree(folder, out)
    edit_config(out, torch_dtype="float32")
    return out


def until_it_answers(server: subprocess.Popen, address: str) -> str:
    for _ in range(240):
        assert server.poll() is None, "transformers serve has ended"
        with suppress(OSError), urlopen(f"{address}/health", timeout=5):
            return address
        time.sleep(0.5)
    pytest.fail("transformers serve does not answer")


def test_transformers_serve_answers_as_the_engine_does(tiny, served):
    address, folder = served
    model = load_chatglm(tiny("glm4"))
    for question in QUESTIONS[:2]:
        body = {"model": str(folder), "messages": [{"role": "user", "content": question}], "temperature": 0}
        request = Request(
            f"{address}/v1/chat/completions",
            json.dumps(body | {"max_tokens": 16}).encode(),
            {"Content-Type": "application/json"},
        )
        with urlopen(request, timeout=120) as answer:
            said = json.load(answer)["choices"][0]["message"]["content"]
        assert said.strip() == model.tokenizer.decode(model.generate(model.chat_ids(question), 16)).strip()


PUBLISHED = {  # config.json's sizes, and how many numbers the published files hold
    "chatglm": ({"num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32, "inner_hidden_size": 16384,
                 "vocab_size": 130528, "max_sequence_length": 2048}, 6_173_286_400),
    "chatglm3": ({"num_layers": 28, "hidden_size": 4096, "num_attention_heads": 32, "ffn_hidden_size": 13696,
                  "kv_channels": 128, "padded_vocab_size": 65024, "seq_length": 8192}, 6_243_584_000),
    "glm4": ({"num_layers": 40, "hidden_size": 4096, "num_attention_heads": 32, "ffn_hidden_size": 13696,
              "kv_channels": 128, "padded_vocab_size": 151552, "seq_length": 131072}, 9_399_951_360),
}  # fmt: skip


@pytest.mark.parametrize("family", PUBLISHED)
def test_info_knows_the_size_of_the_published_models(copy, family):
    sizes, parameters = PUBLISHED[family]
    folder = copy(family)
    edit_config(folder, **sizes, num_hidden_layers=...)
    found = what_is(folder)
    assert found.architecture.parameters == parameters
    full = found.needs[0]
    assert full.weights == 2 * parameters
    assert full.cache == found.architecture.context * full.short_cache // 2048
