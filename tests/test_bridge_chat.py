"""kbqa's generators as LangChain chat models: a scripted one where it matters what is passed on, tiny ChatGLMs for the
rest. The last part of docs/langchain.md is run here."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal, TypedDict

import chatserver
import pytest

pytest.importorskip("langchain_core", reason="LangChain is not installed: pip install 'kbqa[langchain]'")
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.exceptions import OutputParserException
from langchain_core.messages import AIMessage, AIMessageChunk, ChatMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from kbqa.bridge import KbqaChatModel, chat_model
from kbqa.errors import ConfigError, GeneratorBusy, GeneratorError, KbqaError, ModelError, QuestionError
from kbqa.generators.openai import OpenAIGenerator
from kbqa.types import GenerationRequest, Message, Piece

GUIDE = Path(__file__).parents[1] / "docs" / "langchain.md"
CALL = {"id": "call_1", "name": "weather", "arguments": {"city": "北京", "days": 2}}


class Scripted:
    """Gives one answer after the other, keeps the requests, and tells whether its stream was closed."""

    name = "scripted"

    def __init__(self, *answers: list[Piece]) -> None:
        self.answers = list(answers)
        self.requests: list[GenerationRequest] = []
        self.closed = threading.Event()

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        self.requests.append(request)
        try:
            yield from self.answers[min(len(self.requests), len(self.answers)) - 1]
        finally:
            self.closed.set()


class Endless(Scripted):
    """Keeps its stream, so that it ends only when it is closed."""

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        self.kept = self.write()
        return self.kept

    def write(self) -> Iterator[Piece]:
        try:
            for _ in range(60_000):
                yield Piece("很")
                time.sleep(0.001)
            pytest.fail("nobody stopped it")
        finally:
            self.closed.set()


def says(*texts: str, finish: str = "stop") -> list[Piece]:
    return [*map(Piece, texts), Piece(finish=finish, prompt_tokens=7, completion_tokens=len(texts))]  # type: ignore[arg-type]


def calls(*made: dict[str, object]) -> list[Piece]:
    return [*(Piece(tool_call=call) for call in made), Piece(finish="tool_calls", prompt_tokens=9, completion_tokens=4)]


def scripted(*answers: list[Piece], **settings: object) -> tuple[KbqaChatModel, Scripted]:
    generator = Scripted(*answers)
    return KbqaChatModel(generator=generator, **settings), generator


@tool
def weather(city: str, days: int = 1) -> str:
    """查询天气。"""
    return f"{city}：晴，{days} 天"


# --- text ------------------------------------------------------------------------------------------------------------


def test_an_answer_comes_with_its_end_and_its_tokens():
    model, generator = scripted(says("每年", "十天。", finish="length"))
    answer = model.invoke("年假有几天？")
    assert answer.content == "每年十天。"
    assert answer.response_metadata == {"finish_reason": "length", "model_name": "scripted"}
    assert answer.usage_metadata == {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    assert generator.requests == [GenerationRequest((Message("user", "年假有几天？"),))]


def test_a_generator_that_does_not_count_gives_no_counts():
    model, _ = scripted([Piece("好"), Piece(finish="stop")])
    assert model.invoke("你好").usage_metadata is None


def test_a_stream_gives_the_pieces_and_adds_up_to_the_answer():
    model, _ = scripted(says("每年", "十天。"))
    chunks = list(model.stream("年假有几天？"))
    assert [chunk.content for chunk in chunks] == ["每年", "十天。", ""]
    assert [chunk.chunk_position for chunk in chunks] == [None, None, "last"]
    whole = sum(chunks[1:], chunks[0])
    assert whole.usage_metadata == {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    assert whole.response_metadata == {"finish_reason": "stop", "model_name": "scripted"}


def test_asynchronous_and_batched_calls_say_the_same():
    model, _ = scripted(says("每年", "十天。"))

    async def everything() -> list[str]:
        streamed = [str(chunk.content) async for chunk in model.astream("年假有几天？")]
        return [(await model.ainvoke("年假有几天？")).text, "".join(streamed), *texts(await model.abatch(["甲", "乙"]))]

    assert asyncio.run(everything()) == ["每年十天。"] * 4
    assert texts(model.batch(["甲", "乙"])) == ["每年十天。"] * 2


def texts(answers: list[AIMessage]) -> list[str]:
    return [answer.text for answer in answers]


class Tokens(BaseCallbackHandler):
    def __init__(self) -> None:
        self.heard: list[str] = []
        self.ends: list[str] = []
        self.errors: list[BaseException] = []

    def on_llm_new_token(self, token, **kwargs):
        self.heard.append(token)

    def on_llm_end(self, response, **kwargs):
        self.ends.append(response.generations[0][0].text)

    def on_llm_error(self, error, **kwargs):
        self.errors.append(error)


def test_callbacks_hear_each_piece_of_a_stream_once_and_of_an_answer_when_it_is_to_stream():
    quiet, _ = scripted(says("每年", "十天。"))
    telling, _ = scripted(says("每年", "十天。"), streaming=True)
    heard = [Tokens() for _ in range(4)]
    list(quiet.stream("年假？", {"callbacks": [heard[0]]}))
    quiet.invoke("年假？", {"callbacks": [heard[1]]})
    telling.invoke("年假？", {"callbacks": [heard[2]]})

    async def streamed() -> None:
        async for _ in quiet.astream("年假？", {"callbacks": [heard[3]]}):
            pass

    asyncio.run(streamed())
    assert [it.heard for it in heard] == [["每年", "十天。", ""], [], ["每年", "十天。", ""], ["每年", "十天。", ""]]
    assert [it.ends for it in heard] == [["每年十天。"]] * 4


def test_a_chain_of_prompt_model_and_parser_streams():
    model, generator = scripted(says("每年", "十天。"))
    prompt = ChatPromptTemplate.from_messages([("system", "你是人事助手。"), ("user", "{question}")])
    chain = prompt | model | StrOutputParser()
    assert "|".join(chain.stream({"question": "年假有几天？"})) == "每年|十天。|"
    assert generator.requests[0].messages == (Message("system", "你是人事助手。"), Message("user", "年假有几天？"))


# --- settings --------------------------------------------------------------------------------------------------------


def test_fields_hold_for_every_call_and_what_a_call_says_comes_first():
    model, generator = scripted(says("好"), temperature=0.5, max_tokens=20, seed=1, stop="。", adapter="甲")
    model.invoke("你好")
    model.bind(temperature=0, top_p=0.9, top_k=3, repetition_penalty=1.1).invoke("你好", stop=["！"], max_tokens=5)
    list(model.stream("你好", temperature=None, adapter="乙"))
    first, second, third = generator.requests
    said = (Message("user", "你好"),)
    assert first == GenerationRequest(said, temperature=0.5, max_tokens=20, seed=1, stop=("。",), adapter="甲")
    assert (second.temperature, second.top_p, second.top_k, second.repetition_penalty) == (0, 0.9, 3, 1.1)
    assert (second.max_tokens, second.seed, second.stop) == (5, 1, ("！",))
    assert (third.temperature, third.adapter) == (0.5, "乙")


def test_a_timeout_is_a_deadline_of_the_request():
    model, generator = scripted(says("好"), timeout=30)
    before = time.monotonic()
    model.invoke("你好")
    assert before + 29 < (generator.requests[0].deadline or 0) < time.monotonic() + 31


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"temperature": -1}, r"^temperature is -1: .* greater than or equal to 0"),
        ({"max_tokens": "viele"}, r"^max_tokens is 'viele': .*integer"),
        ({"temprature": 1}, r"^temprature is nothing that a call can ask for; there are: .*temperature"),
        ({"response_format": "json"}, r"^response_format is 'json'; it must be"),
    ],
)
def test_what_a_call_cannot_ask_for_is_named(wrong, message):
    model, generator = scripted(says("好"))
    with pytest.raises(ConfigError, match=message):
        model.invoke("你好", **wrong)
    assert not generator.requests


def test_a_field_that_there_is_not_and_a_thing_that_is_no_generator_are_refused():
    with pytest.raises(ValueError, match="temprature"):
        scripted(says("好"), temprature=1)
    with pytest.raises(ValueError, match="a str is no kbqa generator"):
        KbqaChatModel(generator="chatglm")


def test_settings_are_part_of_what_a_cache_goes_by():
    from langchain_core.caches import InMemoryCache

    model, generator = scripted(says("好"), cache=InMemoryCache())
    for temperature in (0, 0, 1):
        model.invoke("你好", temperature=temperature)
    assert [request.temperature for request in generator.requests] == [0, 1]


def test_counting_tokens_downloads_nothing():
    model, _ = scripted(says("好"))
    with pytest.raises(ConfigError, match="custom_get_token_ids"):
        model.get_num_tokens("年假有几天？")
    assert scripted(says("好"), custom_get_token_ids=lambda text: [*map(ord, text)])[0].get_num_tokens("年假") == 2


# --- messages --------------------------------------------------------------------------------------------------------


def test_all_kinds_of_messages_reach_the_generator():
    model, generator = scripted(says("晴。"))
    model.invoke(
        [
            ("system", "简短。"),
            HumanMessage([{"type": "text", "text": "北京"}, "天气？"]),
            AIMessage("我查一下。", tool_calls=[{"id": "c1", "name": "weather", "args": {"city": "北京"}}]),
            ToolMessage("晴", tool_call_id="c1"),
            AIMessage([{"type": "reasoning", "reasoning": "嗯"}, {"type": "text", "text": "晴。"}]),
            ChatMessage("明天呢？", role="user"),
        ]
    )
    assert generator.requests[0].messages == (
        Message("system", "简短。"),
        Message("user", "北京天气？"),
        Message("assistant", "我查一下。", ({"id": "c1", "name": "weather", "arguments": {"city": "北京"}},)),
        Message("tool", "晴", tool_call_id="c1"),
        Message("assistant", "晴。"),
        Message("user", "明天呢？"),
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "the last message must be the user's or a tool's.* there is none"),
        ([("system", "简短。")], "last message.* it is the system's"),
        ([("user", "你好"), ("assistant", "您好")], "last message.* it is the assistant's"),
        ([("user", "你好"), ToolMessage("晴", tool_call_id="c9")], "message 2 answers the tool call 'c9', which no"),
        ([ChatMessage("你好", role="moderator")], "message 1 has the role 'moderator'; there are: system"),
        ([HumanMessage("你好"), RemoveMessage("x")], "message 2 is a RemoveMessage; a conversation is made of"),
        (
            [HumanMessage([{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}])],
            "message 1 has content of the type 'image_url'; .* text and nothing else",
        ),
        (
            [HumanMessage([{"type": "image", "base64": "iVBORw0KGgo=", "mime_type": "image/png"}])],
            "message 1 has content of the type 'image",
        ),
    ],
)
def test_messages_that_cannot_be_answered_are_named(messages, message):
    model, generator = scripted(says("好"))
    with pytest.raises(QuestionError, match=message):
        model.invoke(messages)
    with pytest.raises(QuestionError, match=message):
        list(model.stream(messages))
    assert not generator.requests


# --- errors and giving up --------------------------------------------------------------------------------------------


class Full(Scripted):
    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        yield Piece("每年")
        raise GeneratorBusy("3 questions are waiting already; try again in a few seconds")


def test_the_answers_to_several_calls_may_come_later_and_in_any_order():
    model, generator = scripted(says("都晴。"))
    made = [{"id": name, "name": "weather", "args": {"city": name}} for name in ("甲", "乙")]
    results = [ToolMessage("晴", tool_call_id="乙"), ToolMessage("晴", tool_call_id="甲")]
    model.invoke([HumanMessage("甲乙天气？"), AIMessage("", tool_calls=made), *results])
    assert [message.tool_call_id for message in generator.requests[0].messages] == ["", "", "乙", "甲"]


def test_errors_stay_kbqas_and_callbacks_hear_of_them():
    model, tokens = KbqaChatModel(generator=Full()), Tokens()

    async def streamed() -> None:
        async for _ in model.astream("你好", {"callbacks": [tokens]}):
            pass

    ways: list[Callable[[], object]] = [
        lambda: model.invoke("你好", {"callbacks": [tokens]}),
        lambda: list(model.stream("你好", {"callbacks": [tokens]})),
        lambda: asyncio.run(model.ainvoke("你好", {"callbacks": [tokens]})),
        lambda: asyncio.run(streamed()),
    ]
    for way in ways:
        with pytest.raises(GeneratorBusy, match="try again"):
            way()
    assert [type(error) for error in tokens.errors] == [GeneratorBusy] * 4


def test_a_busy_model_can_be_tried_again():
    class OnceFull(Scripted):
        def stream(self, request: GenerationRequest) -> Iterator[Piece]:
            if not self.requests:
                self.requests.append(request)
                raise GeneratorBusy("try again in a few seconds")
            yield from says("好")

    model = KbqaChatModel(generator=OnceFull())
    patient = model.with_retry(retry_if_exception_type=(GeneratorBusy,), wait_exponential_jitter=False)
    assert patient.invoke("你好").text == "好"


def test_closing_a_stream_stops_the_work():
    endless = Endless()
    stream = KbqaChatModel(generator=endless).stream("你好")
    assert next(stream).content == "很"
    assert not endless.closed.is_set()
    stream.close()
    assert endless.closed.is_set()


def test_closing_an_asynchronous_stream_stops_the_work():
    endless = Endless()

    async def one() -> None:
        stream = KbqaChatModel(generator=endless).astream("你好")
        assert (await anext(stream)).content == "很"
        await stream.aclose()
        assert await asyncio.to_thread(endless.closed.wait, 10)

    asyncio.run(one())


@pytest.mark.parametrize("way", ["ainvoke", "astream", "a call that must be made"])
def test_cancelling_an_asynchronous_call_stops_the_work(way):
    endless = Endless()
    model = KbqaChatModel(generator=endless)
    if way == "a call that must be made":
        model = model.bind_tools([weather], tool_choice="any")

    async def impatient() -> None:
        async def all_of_it() -> None:
            if way != "astream":
                await model.ainvoke("你好")
            async for _ in model.astream("你好"):
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(all_of_it(), 0.1)
        assert await asyncio.to_thread(endless.closed.wait, 10)

    asyncio.run(impatient())


@pytest.mark.parametrize("way", ["ainvoke", "astream"])
def test_cancelling_an_asynchronous_call_reaches_a_model_that_has_said_nothing_yet(way):
    """Which waits in its line, or reads a long prompt: there is no piece yet behind which it could be closed."""

    class Silent(Scripted):
        def stream(self, request: GenerationRequest) -> Iterator[Piece]:
            woken = threading.Event()
            with request.cancellation.waking(woken.set):
                assert woken.wait(20)
            self.closed.set()
            request.cancellation.check()
            yield Piece("nobody hears it")

    silent = Silent()
    model = KbqaChatModel(generator=silent)

    async def impatient() -> None:
        async def all_of_it() -> None:
            if way == "ainvoke":
                await model.ainvoke("你好")
            async for _ in model.astream("你好"):
                pass

        with pytest.raises(TimeoutError):
            await asyncio.wait_for(all_of_it(), 0.1)
        assert await asyncio.to_thread(silent.closed.wait, 10)

    asyncio.run(impatient())


# --- tools -----------------------------------------------------------------------------------------------------------


class Weather(BaseModel):
    """查询天气。"""

    city: str
    days: int = 1


FUNCTION = {
    "name": "weather",
    "description": "查询天气。",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1}},
        "required": ["city"],
    },
}


@pytest.mark.parametrize("given", [weather, {"type": "function", "function": FUNCTION}, FUNCTION])
def test_tools_of_every_kind_are_offered_as_functions(given):
    model, generator = scripted(says("好"))
    model.bind_tools([given]).invoke("天气？")
    assert generator.requests[0].tools == ({"type": "function", "function": FUNCTION},)
    assert generator.requests[0].response_schema is None


def test_a_pydantic_class_and_a_tool_that_is_built_into_the_model_can_be_offered():
    model, generator = scripted(says("好"))
    model.bind_tools([Weather, {"type": "python"}], tool_choice="auto").invoke("天气？")
    model.bind_tools([Weather], tool_choice="none").invoke("天气？")
    function = {**FUNCTION, "name": "Weather"}
    assert generator.requests[0].tools == ({"type": "function", "function": function}, {"type": "python"})
    assert generator.requests[1].tools == ()


def test_calls_come_out_whole_streamed_or_not():
    model, _ = scripted([Piece("我查一下。"), *calls(CALL, {**CALL, "id": "call_2"})])
    made = [
        {"name": "weather", "args": {"city": "北京", "days": 2}, "id": f"call_{n}", "type": "tool_call"} for n in (1, 2)
    ]
    answer = model.invoke("天气？")
    assert (answer.content, answer.tool_calls) == ("我查一下。", made)
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    chunks = list(model.stream("天气？"))
    assert [chunk.tool_call_chunks[0]["index"] for chunk in chunks if chunk.tool_call_chunks] == [0, 1]
    assert "北京" in chunks[1].tool_call_chunks[0]["args"]
    whole = sum(chunks[1:], chunks[0])
    assert isinstance(whole, AIMessageChunk)
    assert whole.tool_calls == made


def test_a_tool_loop_goes_round():
    model, generator = scripted(calls(CALL), says("北京晴，两天。"))
    assistant = model.bind_tools([weather])
    messages: list[object] = [HumanMessage("北京这两天天气如何？")]
    messages.append(assistant.invoke(messages))
    messages += [weather.invoke(call) for call in messages[-1].tool_calls]
    assert assistant.invoke(messages).text == "北京晴，两天。"
    assert generator.requests[1].messages == (
        Message("user", "北京这两天天气如何？"),
        Message("assistant", "", (CALL,)),
        Message("tool", "北京：晴，2 天", tool_call_id="call_1"),
    )


@pytest.mark.parametrize(
    "choice", ["any", "required", True, "weather", {"type": "function", "function": {"name": "weather"}}]
)
def test_a_call_that_must_be_made_is_written_by_a_schema(choice):
    written = json.dumps({"name": "weather", "arguments": {"city": "北京"}}, ensure_ascii=False)
    model, generator = scripted(says(written[:9], written[9:]))
    answer = model.bind_tools([weather], tool_choice=choice).invoke("天气？")
    assert answer.content == ""
    assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("weather", {"city": "北京"})]
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    (schema,) = generator.requests[0].response_schema["anyOf"]
    assert schema["properties"]["name"] == {"const": "weather"}
    assert schema["properties"]["arguments"] == {**FUNCTION["parameters"], "additionalProperties": False}


def test_a_call_that_the_generator_makes_of_it_itself_goes_through():
    model, _ = scripted([Piece(" "), *calls(CALL)])
    answer = model.bind_tools([weather], tool_choice="any").invoke("天气？")
    assert [(call["id"], answer.content) for call in answer.tool_calls] == [("call_1", "")]


def test_a_call_that_is_cut_off_is_an_error():
    model, _ = scripted(says('{"name": "weather", "argu', finish="length"))
    with pytest.raises(GeneratorError, match="did not bring the tool call to an end: max_tokens is too small"):
        model.bind_tools([weather], tool_choice="any").invoke("天气？")


def test_a_tool_that_is_not_offered_cannot_be_demanded():
    model, _ = scripted(says("好"))
    with pytest.raises(ConfigError, match=r"tool_choice is 'news'; .*\(offered: weather\)"):
        model.bind_tools([weather], tool_choice="news")
    with pytest.raises(ConfigError, match="no function is offered"):
        model.bind_tools([{"type": "python"}], tool_choice="any")
    both = model.bind_tools([weather], tool_choice="any", response_format={"type": "json_object"})
    with pytest.raises(ConfigError, match="exclude each other"):
        both.invoke("天气？")


# --- answers by a schema ---------------------------------------------------------------------------------------------


class Part(BaseModel):
    name: str
    parts: list[Part] = Field(default_factory=list)


class Plain(TypedDict):
    """一个人。"""

    name: str


def test_a_pydantic_class_comes_out_as_its_object_and_its_schema_is_closed():
    model, generator = scripted(says('{"name": "箱', '", "parts": [{"name": "盖"}]}'))
    assert model.with_structured_output(Part).invoke("拆开") == Part(name="箱", parts=[Part(name="盖")])
    schema = generator.requests[0].response_schema
    assert schema["$defs"]["Part"]["additionalProperties"] is False
    assert schema["$defs"]["Part"]["properties"]["parts"]["items"] == {"$ref": "#/$defs/Part"}


@pytest.mark.parametrize(
    "schema",
    [Plain, {"title": "人", "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}],
    ids=["TypedDict", "JSON schema"],
)
def test_other_schemas_come_out_as_dicts_that_grow_while_they_stream(schema):
    model, generator = scripted(says('{"name": "', "张三", '"}'))
    structured = model.with_structured_output(schema)
    assert structured.invoke("谁？") == {"name": "张三"}
    assert list(structured.stream("谁？"))[-1] == {"name": "张三"}
    asked = generator.requests[0].response_schema
    assert (asked["required"], asked["additionalProperties"]) == (["name"], False)


def test_a_schema_that_is_put_together_of_others_is_left_open():
    model, generator = scripted(says('{"甲": 1, "乙": 2}'))
    parts = [{"type": "object", "properties": {name: {"type": "integer"}}} for name in "甲乙"]
    model.with_structured_output({"title": "两", "allOf": parts}).invoke("两个数")
    assert generator.requests[0].response_schema == {"title": "两", "allOf": parts}


def test_the_raw_answer_comes_along_with_what_went_wrong():
    model, _ = scripted(says('{"name": "张三"}'), says("不是 JSON"))
    structured = model.with_structured_output(Plain, include_raw=True)
    good, bad = structured.invoke("谁？"), structured.invoke("谁？")
    assert (good["raw"].text, good["parsed"], good["parsing_error"]) == ('{"name": "张三"}', {"name": "张三"}, None)
    assert (bad["raw"].text, bad["parsed"]) == ("不是 JSON", None)
    assert isinstance(bad["parsing_error"], OutputParserException)


def test_an_answer_that_is_cut_off_is_no_shorter_object():
    """LangChain's parser would close the list and hand it over."""
    model, _ = scripted(says('{"name": "箱", "parts": [{"name": "盖"}', finish="length"))
    for schema in (Part, Part.model_json_schema()):
        structured = model.with_structured_output(schema)
        with pytest.raises(OutputParserException, match="max_tokens is too small"):
            structured.invoke("拆开")
        with pytest.raises(OutputParserException, match="max_tokens is too small"):
            list(structured.stream("拆开"))


def test_the_other_methods_of_langchain_work_too():
    model, generator = scripted(says('{"name": "张三"}'), says('{"name": "Plain", "arguments": {"name": "李四"}}'))
    assert model.with_structured_output(Plain, method="json_mode").invoke("谁？") == {"name": "张三"}
    assert generator.requests[0].response_schema == {"type": "object"}
    assert model.with_structured_output(Plain, method="function_calling").invoke("谁？") == {"name": "李四"}
    with pytest.raises(ValueError, match="must be json_schema"):
        model.with_structured_output(Plain, method="guess")
    with pytest.raises(ValueError, match="unsupported arguments"):
        model.with_structured_output(Plain, colour="red")


# --- ChatGLM ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["chatglm", "glm4"])
def glm(request, tmp_path_factory):
    pytest.importorskip("torch", reason="kbqa[glm] is not installed")
    import glmkit  # noqa: F401  (one thread)

    from kbqa.chatglm.tiny import Shape, make_tiny
    from kbqa.generators.chatglm import ChatGLMGenerator

    folder = tmp_path_factory.mktemp("models") / f"{request.param}-tiny"
    make_tiny(request.param, folder, Shape(context=1024))
    options = {"device": "cpu", "dtype": "float32", "temperature": 0, "max_tokens": 12, "slots": 1, "waiting": 0}
    with closing(ChatGLMGenerator(folder, **options)) as generator:
        yield generator


HISTORY = [("system", "你是人事助手。"), ("user", "你好"), ("assistant", "您好！"), ("user", "年假有几天？")]


def test_chatglm_says_the_same_to_langchain_as_to_kbqa(glm):
    request = GenerationRequest(
        (
            Message("system", "你是人事助手。"),
            Message("user", "你好"),
            Message("assistant", "您好！"),
            Message("user", "年假有几天？"),
        )
    )
    *pieces, last = glm.stream(request)
    model = KbqaChatModel(generator=glm)
    answer = model.invoke(HISTORY)
    assert answer.text == "".join(piece.text for piece in pieces) != ""
    assert answer.usage_metadata["input_tokens"] == last.prompt_tokens
    assert answer.usage_metadata["output_tokens"] == last.completion_tokens
    assert "".join(str(chunk.content) for chunk in model.stream(HISTORY)) == answer.text
    assert asyncio.run(model.ainvoke(HISTORY)).text == answer.text
    assert answer.text.startswith(model.invoke(HISTORY, max_tokens=3).text)


def test_chatglm_draws_by_the_seed_and_ends_at_a_stop_string(glm):
    model = KbqaChatModel(generator=glm)
    drawn = [model.invoke("你好", temperature=1.0, top_p=1.0, seed=seed).text for seed in (1, 1, 2, 3)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1
    whole = model.invoke("你好").text
    stop = whole[len(whole) // 2 :][:2]
    answer = model.invoke("你好", stop=[stop])
    assert answer.text == whole[: whole.index(stop)]
    assert answer.response_metadata["finish_reason"] == "stop"


class Ticket(BaseModel):
    department: Literal["人事", "财务", "信息"]
    urgent: bool


def test_chatglm_fills_in_a_pydantic_class(glm):
    model = KbqaChatModel(generator=glm, max_tokens=60)
    ticket = model.with_structured_output(Ticket).invoke("打印机坏了。")
    assert isinstance(ticket, Ticket)
    with pytest.raises(OutputParserException, match="max_tokens"):
        model.with_structured_output(Ticket).invoke("打印机坏了。", max_tokens=3)


def test_chatglm_makes_a_call_that_it_must_make_or_says_that_it_knows_no_tools(glm):
    @tool
    def days_left(kind: Literal["年假", "病假"]) -> int:
        """还剩几天假。"""
        return {"年假": 4, "病假": 10}[kind]

    assistant = KbqaChatModel(generator=glm, max_tokens=60).bind_tools([days_left], tool_choice="any")
    messages: list[object] = [HumanMessage("我还有几天年假？")]
    if "chatglm-" in glm.name:
        with pytest.raises(ModelError, match="ChatGLM-6B knows no tools"):
            assistant.invoke(messages)
        return
    said = assistant.invoke(messages)
    assert said.tool_calls[0]["args"]["kind"] in ("年假", "病假")
    results = [days_left.invoke(call) for call in said.tool_calls]
    answer = KbqaChatModel(generator=glm).bind_tools([days_left]).invoke([*messages, said, *results])
    assert answer.usage_metadata["input_tokens"] > said.usage_metadata["input_tokens"]


def test_a_stream_of_chatglm_that_is_closed_makes_room_for_the_next(glm):
    model = KbqaChatModel(generator=glm)
    endless = {"type": "json_schema", "json_schema": {"schema": {"type": "string", "minLength": 900}}}
    stream = model.stream("你好", response_format=endless, max_tokens=900)
    next(stream)
    with pytest.raises(GeneratorBusy):
        model.invoke("你好", max_tokens=1)
    stream.close()
    model.invoke("你好", max_tokens=1)


# --- a server --------------------------------------------------------------------------------------------------------


def test_tools_go_to_a_server_and_its_call_comes_back(chat_server):
    made = {"index": 0, "id": "call_7", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}
    chat_server.script = [chatserver.events(chatserver.delta(tool_calls=[made], finish="tool_calls"), "[DONE]")]
    model = KbqaChatModel(generator=OpenAIGenerator(chat_server.url, "glm"), temperature=0)
    answer = model.bind_tools([weather]).invoke("北京天气？")
    assert answer.tool_calls == [{"name": "weather", "args": {"city": "北京"}, "id": "call_7", "type": "tool_call"}]
    assert chat_server.seen[0]["tools"] == [{"type": "function", "function": FUNCTION}]
    assert chat_server.seen[0]["temperature"] == 0


def test_a_stream_that_is_closed_lets_the_server_know(chat_server):
    chat_server.script = [chatserver.endless]
    stream = KbqaChatModel(generator=OpenAIGenerator(chat_server.url, "glm")).stream("你好")
    assert next(stream).content == "又"
    stream.close()
    assert chat_server.left.wait(10)


# --- from a home folder, and the guide -------------------------------------------------------------------------------


def test_a_home_without_a_model_says_what_to_do(tmp_path):
    with pytest.raises(ConfigError, match=r"extractive generator quotes documents and cannot chat; .*config\.yaml"):
        chat_model(tmp_path)
    with pytest.raises(KbqaError, match="does not exist"):
        chat_model(tmp_path / "nirgends")


def test_the_chat_programs_of_the_guide_run(tmp_path, monkeypatch):
    """With a tiny model in place of ChatGLM3-6B: what it says is random, its form is not."""
    pytest.importorskip("torch", reason="kbqa[glm] is not installed")
    import glmkit  # noqa: F401

    from kbqa.chatglm.tiny import Shape, make_tiny

    monkeypatch.chdir(tmp_path)
    make_tiny("chatglm3", tmp_path / "models" / "chatglm3-6b", Shape(context=1024))
    guide = GUIDE.read_text(encoding="utf-8").partition("## A kbqa generator as a LangChain chat model")[2]
    ((_, config),) = re.findall(r"```(yaml)\n(.*?)```", guide, re.DOTALL)
    (tmp_path / "config.yaml").write_text(
        f"{config}  dtype: float32\n  device: cpu\n  max_tokens: 60\n", encoding="utf-8"
    )
    names: dict[str, object] = {}
    programs = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    assert len(programs) == 3
    for program in programs:
        exec(compile(program, str(GUIDE), "exec", dont_inherit=True), names)
    assert names["answer"]
    assert names["ticket"].department in ("人事", "财务", "信息")
    assert [message.type for message in names["messages"]] == ["human", "ai", "tool", "ai"]
    names["model"].generator.close()
