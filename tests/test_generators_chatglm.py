"""The ChatGLM generator on tiny models of every family: what the chain and a server ask of it."""

from __future__ import annotations

import json
import shutil
import threading
import time
from contextlib import closing
from dataclasses import replace
from functools import reduce

import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")

import glmkit  # noqa: E402, F401  (one thread)

from kbqa.build import Installation, make_generator  # noqa: E402
from kbqa.chatglm import load_chatglm  # noqa: E402
from kbqa.chatglm.tiny import make_tiny  # noqa: E402
from kbqa.config import Config, GeneratorConfig, Home, RetrievalConfig  # noqa: E402
from kbqa.errors import BeyondModel, GeneratorBusy, GeneratorError, ModelError  # noqa: E402
from kbqa.generators.chatglm import ChatGLMGenerator  # noqa: E402
from kbqa.types import Block, Document, GenerationRequest, Message  # noqa: E402

FAMILIES = ("chatglm", "chatglm2", "chatglm3", "glm4")


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request, tmp_path_factory):
    where = tmp_path_factory.mktemp("models") / f"{request.param}-tiny"
    make_tiny(request.param, where)
    return where


@pytest.fixture(scope="module")
def generator(folder):
    made = ChatGLMGenerator(folder, device="cpu", dtype="float32", temperature=0, max_tokens=20, slots=2, waiting=2)
    yield made
    made.close()


def test_a_model_is_named_by_the_id_that_it_was_downloaded_under(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_CACHE", str(tmp_path))
    shutil.copytree(folder, tmp_path / "models" / "mine" / folder.name)
    with closing(ChatGLMGenerator(f"mine/{folder.name}", device="cpu", temperature=0, max_tokens=4)) as made:
        assert made.name == f"chatglm:{folder.name}"
        assert [piece.finish for piece in made.stream(asked("你好"))][-1] in ("stop", "length")
    with pytest.raises(ModelError, match="kbqa model download mine/other DIR"):
        ChatGLMGenerator("mine/other")


def asked(*said: str, **settings) -> GenerationRequest:
    roles = ("user", "assistant")
    return GenerationRequest(tuple(Message(roles[at % 2], text) for at, text in enumerate(said)), **settings)


def text_of(generator, request) -> str:
    return "".join(piece.text for piece in generator.stream(request))


def test_it_says_what_the_model_says_and_counts_the_tokens(generator, folder):
    model = load_chatglm(folder)
    *pieces, last = generator.stream(asked("年假有几天？"))
    ids = model.chat_ids("年假有几天？")
    new = model.generate(ids, 20)
    reply, _ = model.chat("年假有几天？", do_sample=False, max_new_tokens=20)
    assert "".join(piece.text for piece in pieces) == reply
    assert (last.prompt_tokens, last.completion_tokens) == (len(ids), len(new))
    so_far = [(piece.prompt_tokens, piece.completion_tokens) for piece in pieces if piece.completion_tokens]
    assert so_far
    assert so_far == sorted({(len(ids), count) for _, count in so_far}), "also while it is written"
    assert last.finish == ("length" if len(new) == 20 else "stop")


def test_history_is_part_of_the_prompt_and_its_oldest_turns_go_when_it_is_too_long(generator, folder):
    model = load_chatglm(folder)
    *_, last = generator.stream(asked("你好", "您好！", "年假有几天？"))
    assert last.prompt_tokens == len(model.chat_ids("年假有几天？", [("你好", "您好！")]))
    turns = ["你好", "您好！" * 10] * 40
    *_, last = generator.stream(asked(*turns, "年假有几天？"))
    assert len(model.chat_ids("年假有几天？")) < last.prompt_tokens <= model.architecture.context


def test_a_question_that_is_too_long_is_refused_with_the_numbers(generator):
    endless = asked("年假有几天？" * 300)
    assert not generator.fits(endless)
    assert generator.fits(asked("年假有几天？"))
    with pytest.raises(ModelError, match=r"the question needs \d+ tokens"):
        list(generator.stream(endless))


def test_what_stays_of_a_conversation_counts_when_its_room_is_measured(generator, folder):
    """System messages, tools, and the answer that is asked for; turns that may be left out do not."""
    context = generator._ready()[1].context
    question, room = asked("年假有几天？"), context - min(20, context // 4)
    turns = asked(*["年假" * 40] * 30, "年假有几天？")
    assert generator.fits(turns)
    talkative = Message("system", "请简短回答。" * context)
    for request in (question, turns):
        crowded = replace(request, messages=(talkative, *request.messages))
        assert not generator.fits(crowded)
        with pytest.raises(BeyondModel, match="the question needs"):
            list(generator.stream(crowded))
    if folder.name.startswith(("chatglm3", "glm4")):
        tool = {"name": "weather", "description": "查询天气。" * context, "parameters": {"type": "object"}}
        assert not generator.fits(replace(question, tools=(tool,)))
    model = load_chatglm(folder)
    text = "年"
    while len(model.chat_ids(text + "假")) <= room:
        text += "假"
    assert generator.fits(asked(text))
    assert not generator.fits(asked(text, max_tokens=context))
    assert not generator.fits(asked(text + "年假"))


@pytest.mark.parametrize("most", [0, -3])
def test_an_answer_of_no_tokens_cannot_be_asked_for(folder, most):
    with pytest.raises(BeyondModel, match=f"max_tokens is {most}; an answer has at least 1"):
        asked("你好", max_tokens=most)
    model = load_chatglm(folder)
    for way in (model.chat, lambda *said, **options: list(model.stream(*said, **options))):
        with pytest.raises(ModelError, match=f"max_new_tokens is {most}; an answer has at least 1"):
            way("你好", max_new_tokens=most)
    with pytest.raises(ModelError, match=f"max_new_tokens is {most}"):
        model.generate(model.chat_ids("你好"), max_new_tokens=most)


def test_temperature_and_seed_of_a_request_come_before_those_of_the_configuration(generator):
    drawn = [text_of(generator, asked("你好", temperature=1.0, top_p=1.0, seed=seed)) for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    assert text_of(generator, asked("你好", temperature=0.0)) == text_of(generator, asked("你好"))


def test_a_stop_string_ends_the_answer_and_is_not_shown(generator):
    whole = text_of(generator, asked("你好"))
    stop = whole[len(whole) // 2 :][:2]
    *pieces, last = generator.stream(asked("你好", stop=(stop,)))
    assert "".join(piece.text for piece in pieces) == whole[: whole.index(stop)]
    assert last.finish == "stop"


def test_a_schema_makes_the_answer_json(generator):
    schema = {
        "type": "object",
        "properties": {"电话": {"type": "string", "pattern": "^[0-9]{3}$"}, "好": {"type": "boolean"}},
        "required": ["电话", "好"],
        "additionalProperties": False,
    }
    said = json.loads(text_of(generator, asked("我的电话是多少？", response_schema=schema, max_tokens=60)))
    assert set(said) == {"电话", "好"}
    assert said["电话"].isdigit()
    with pytest.raises(ModelError, match="schema"):
        text_of(generator, asked("你好", response_schema={"type": "circle"}))
    endless = reduce(lambda inner, _: {"type": "array", "items": inner}, range(3000), {"type": "string"})
    with pytest.raises(ModelError, match="response schema is no JSON schema"):
        text_of(generator, asked("你好", response_schema=endless))


def test_the_schema_that_allows_everything_still_makes_the_answer_json(generator):
    for seed in range(3):
        *pieces, last = generator.stream(asked("你好", response_schema={}, max_tokens=200, temperature=1.0, seed=seed))
        said = "".join(piece.text for piece in pieces)
        assert said.lstrip()[0] in '{["-0123456789tfn'
        if last.finish == "stop":
            json.loads(said)


def test_a_chat_takes_a_schema_too(folder):
    """As ChatGLM3's guide extracts contacts from a text, but that the form is held."""
    schema = {
        "type": "object",
        "properties": {
            "电话": {"type": "string", "pattern": "^1[0-9]{10}$"},
            "备注": {"type": "string", "maxLength": 5},
        },
        "required": ["电话", "备注"],
        "additionalProperties": False,
    }
    model = load_chatglm(folder)
    for seed in range(3):
        reply, history = model.chat("请抽取：李明，13800138000，VIP", schema=schema, seed=seed)
        assert set(json.loads(reply)) == {"电话", "备注"}
        assert len(history) == (1 if model.family in ("chatglm", "chatglm2") else 2)
        assert "".join(model.stream("请抽取：李明，13800138000，VIP", schema=schema, seed=seed)) == reply


def test_a_full_line_says_so_and_closing_a_stream_makes_room(folder):
    long = asked("你好", response_schema={"type": "string", "minLength": 300}, max_tokens=350)
    options = {"device": "cpu", "dtype": "float32", "temperature": 0, "slots": 1, "waiting": 0}
    with closing(ChatGLMGenerator(folder, **options)) as single:
        stream = single.stream(long)
        next(stream)
        with pytest.raises(GeneratorBusy, match="try again"):
            text_of(single, asked("你好", max_tokens=1))
        stream.close()
        text_of(single, asked("你好", max_tokens=1))


def test_a_deadline_that_has_passed_is_an_error(generator):
    with pytest.raises(GeneratorError, match="in time"):
        list(generator.stream(asked("你好", deadline=time.monotonic() - 1)))


def test_an_adapter_that_is_not_loaded_is_refused(generator):
    with pytest.raises(ModelError, match="there is no adapter 'legal'"):
        list(generator.stream(asked("你好", adapter="legal")))


def test_several_prefixes_answer_at_once_each_in_its_own_way(folder, tmp_path):
    """Saved as the original trainer saves them; the model is loaded once."""
    a = load_chatglm(folder).architecture
    width = 2 * a.layers * a.groups * a.head_dim
    for seed, name in enumerate(("甲", "乙")):
        (tmp_path / name).mkdir()
        rows = torch.randn(6, width, generator=torch.Generator().manual_seed(seed))
        torch.save({"transformer.prefix_encoder.embedding.weight": rows}, tmp_path / name / "pytorch_model.bin")
    options = {"device": "cpu", "dtype": "float32", "temperature": 0, "max_tokens": 12}
    both = ChatGLMGenerator(folder, adapters={"甲": tmp_path / "甲", "乙": tmp_path / "乙"}, **options)
    with closing(both):
        said = {}
        threads = [
            threading.Thread(target=lambda name=name: said.update({name: text_of(both, asked("你好", adapter=name))}))
            for name in (None, "甲", "乙")
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    for name in (None, "甲", "乙"):
        with closing(ChatGLMGenerator(folder, prefix=tmp_path / name if name else None, **options)) as single:
            assert said[name] == text_of(single, asked("你好"))


def test_a_prefix_of_any_length_leaves_the_whole_context_to_the_question(folder, tmp_path):
    model = load_chatglm(folder)
    a = model.architecture
    rows = torch.randn(200, 2 * a.layers * a.groups * a.head_dim, generator=torch.Generator().manual_seed(0))
    torch.save({"transformer.prefix_encoder.embedding.weight": rows}, tmp_path / "pytorch_model.bin")
    question = "年假" * (a.context // 2)
    while len(model.chat_ids(question)) > a.context - 1:
        question = question[:-1]
    options = {"device": "cpu", "dtype": "float32", "temperature": 0, "max_tokens": 1}
    for adapters in ({}, {"长": tmp_path}):
        with closing(ChatGLMGenerator(folder, adapters=adapters, **options)) as generator:
            *_, last = generator.stream(asked(question, adapter=next(iter(adapters), None)))
            assert last.prompt_tokens == len(model.chat_ids(question))


def test_tools_are_offered_and_a_call_is_handed_over(tmp_path, folder):
    if folder.name.startswith(("chatglm-", "chatglm2-")):
        with closing(ChatGLMGenerator(folder, device="cpu")) as generator, pytest.raises(ModelError, match="tools"):
            list(generator.stream(asked("天气如何？", tools=({"name": "weather", "parameters": {}},))))
        return
    tools = ({"name": "weather", "description": "天气", "parameters": {"type": "object", "properties": {}}},)
    with closing(ChatGLMGenerator(folder, device="cpu", temperature=0, max_tokens=8)) as generator:
        *_, plain = generator.stream(asked("天气如何？"))
        *_, last = generator.stream(asked("天气如何？", tools=tools))
    assert last.prompt_tokens > plain.prompt_tokens + 10


def test_the_model_is_loaded_when_the_first_question_needs_it(tmp_path, folder):
    made = ChatGLMGenerator(folder, device="cpu")
    (folder / "config.json").rename(tmp_path / "config.json")
    try:
        with pytest.raises(ModelError, match=r"config\.json"):
            text_of(made, asked("你好"))
    finally:
        (tmp_path / "config.json").rename(folder / "config.json")
    assert text_of(made, asked("你好", max_tokens=3, temperature=0)) is not None
    made.close()


def test_what_is_no_model_is_refused_when_it_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no model folder|no folder with a model"):
        ChatGLMGenerator(tmp_path / "nothing")


def test_config_yaml_makes_one_and_it_answers_from_the_documents(folder, tmp_path):
    """Through the chain: the 「已知信息」 prompt, shortened to what a context of 512 tokens has room for."""
    config = Config(
        generator=GeneratorConfig(kind="chatglm", model=str(folder), device="cpu", temperature=0, max_tokens=20),
        retrieval=RetrievalConfig(min_confidence=0.0),
    )
    long = "员工每年享有十天带薪年假。" + "、".join(f"第{n}条也讲年假" for n in range(300)) + "。"
    document = Document("手册.md", "手册", (Block("text", long),), "1" * 64, "md")
    installation = Installation(Home(tmp_path), config)
    assert isinstance(installation.generator, ChatGLMGenerator)
    with installation.temporary_base(tmp_path / "库", [document]) as base:
        answer = base.ask("年假有几天？")
    assert answer.text
    installation.generator.close()


def test_the_settings_of_config_yaml_reach_the_generator(folder, tmp_path):
    config = GeneratorConfig(kind="chatglm", model=folder.name, device="cpu", quantize=8, context=64, family=None)
    made = make_generator(config, folder.parent)
    with closing(made), pytest.raises(ModelError, match="room for 48 beside"):
        list(made.stream(asked("年假有几天？" * 30)))


def test_check_finds_what_would_keep_the_model_from_loading_without_loading_it(folder, tmp_path):
    def spoiled(name, **settings):
        made = ChatGLMGenerator(shutil.copytree(folder, tmp_path / name), **{"device": "cpu", **settings})
        return made, tmp_path / name

    whole, _ = spoiled("whole")
    whole.check()
    made, place = spoiled("no-weights")
    next(it for it in place.iterdir() if it.suffix in (".bin", ".safetensors")).unlink()
    with pytest.raises(ModelError, match="weights"):
        made.check()
    made, place = spoiled("no-tokenizer")
    next(place.glob("*.model")).unlink()
    with pytest.raises(ModelError, match="the tokenizer: its download is incomplete"):
        made.check()
    made, _ = spoiled("no-device", device="cuda:99")
    with pytest.raises(ModelError, match="cuda:99 cannot be used here"):
        made.check()
    made, _ = spoiled("no-prefix", prefix=folder)
    with pytest.raises(ModelError, match="holds no P-Tuning prefix"):
        made.check()
    assert made._loaded is None


def test_a_prefix_or_a_model_that_is_not_there_is_named_by_its_setting(folder, tmp_path):
    with pytest.raises(ModelError, match=r"^generator.prefix: there is no folder 微调/无; a relative path begins"):
        ChatGLMGenerator(folder, prefix="微调/无")
    with pytest.raises(ModelError, match=r"^generator.adapters.legal: there is no folder .*无$"):
        ChatGLMGenerator(folder, adapters={"legal": tmp_path / "无"})
    with pytest.raises(
        ModelError, match=r"^generator.model: there is no model folder models/无.* begins at the folder"
    ):
        ChatGLMGenerator("models/无")
