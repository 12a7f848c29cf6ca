"""The OpenAI dialect, as its official client, LangChain and httpx meet it."""

import base64
import json
import threading

import httpx
import numpy as np
import pytest
from chatserver import USAGE, delta, endless, events, refusal
from serverkit import CARS, serving, take_in, wait_until

openai = pytest.importorskip("openai", reason="kbqa[test] is not installed")

from kbqa.build import Installation  # noqa: E402
from kbqa.config import Config, Home  # noqa: E402
from kbqa.fields import answer_fields  # noqa: E402
from kbqa.server import auth, stream  # noqa: E402
from kbqa.server.dialects.cited import plain  # noqa: E402
from kbqa.types import REFUSAL, Message, Piece  # noqa: E402

LEAVE = "年假有几天？"
NOWHERE = "公司的注册资本是多少？"
HANDBOOK = """# 员工手册

## 第三章 休假

### 年假

工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。年假须提前三个工作日申请。

### 病假

病假须提交医院证明，病假期间工资按百分之八十发放。
"""
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "今天的天气",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Scripted:
    """Says what it was told to, and remembers what it was asked."""

    name = "scripted:one"

    def __init__(self, *pieces):
        self.pieces = pieces
        self.requests = []
        self.closed = threading.Event()

    def stream(self, request):
        self.requests.append(request)
        try:
            yield from self.pieces
        finally:
            self.closed.set()


def said(*texts, **end):
    return *(Piece(text) for text in texts), Piece(finish="stop", prompt_tokens=12, completion_tokens=5, **end)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A home with two bases. Not to be changed."""
    home = take_in(tmp_path_factory.mktemp("home"), default=HANDBOOK, 制度=CARS)
    (home / "knowledge" / "waiting").mkdir()
    return home


@pytest.fixture(scope="module")
def service(built):
    """One that quotes."""
    with serving(built) as running:
        yield running


@pytest.fixture(scope="module")
def client(service):
    with client_of(service) as made:
        yield made


@pytest.fixture(scope="module")
def talking(built):
    generator = Scripted()
    with serving(built, generator) as running, client_of(running) as made:
        yield generator, running, made


@pytest.fixture
def scripted(talking):
    """A generator that says what the test tells it to, the service before it, and a client."""
    talking[0].pieces = said("你好", "！")
    talking[0].requests.clear()
    return talking


def client_of(running, key="none"):
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key=key, max_retries=0, timeout=30)


def ask(client, *texts, model="kb:default", **settings):
    roles = ("user", "assistant")
    messages = [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]
    return client.chat.completions.create(model=model, messages=messages, **settings)


def refused(running, status, path="/v1/chat/completions", **body):
    """The message and code of an error in OpenAI's shape."""
    messages = {} if path.endswith("embeddings") else {"messages": [{"role": "user", "content": LEAVE}]}
    response = running.post(path, {**messages, **body})
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"], error["code"]


# --- a base ----------------------------------------------------------------------------------------------------------


def test_models_are_the_bases_and_what_writes(client, scripted):
    assert [model.id for model in client.models.list()] == ["kb:default", "kb:制度"], (
        "one that quotes has no bare model"
    )
    names = [model.id for model in scripted[2].models.list()]
    assert names == ["chatglm", "scripted:one", "kb:default", "kb:制度"]
    for name in (*names, "static"):
        assert scripted[2].models.retrieve(name).id == name
    for name in ("kb:nix", "gpt-4o"):
        with pytest.raises(openai.NotFoundError):
            scripted[2].models.retrieve(name)


def test_a_base_answers_with_its_sources_in_the_text_and_in_a_field(client, built):
    choice = ask(client, LEAVE).choices[0]
    with Installation(Home(built), Config()).open("default") as base:
        answer = answer_fields(base.ask(LEAVE))
    assert choice.finish_reason == "stop"
    assert choice.message.citations == answer["citations"] != []
    assert choice.message.grounded is True
    text, _, sources = choice.message.content.partition("\n\n来源：\n")
    assert "满十年的员工每年享有15天年假。[1]" in text
    assert sources.splitlines()[0] == "- [1] 员工手册.md · 员工手册 > 第三章 休假 > 年假"
    assert plain(choice.message.content) == answer["answer"]


@pytest.mark.parametrize("question", [LEAVE, NOWHERE])
def test_a_streamed_answer_is_the_same_and_its_last_chunk_has_the_citations(client, question):
    whole = ask(client, question)
    *chunks, counted = ask(client, question, stream=True, stream_options={"include_usage": True})
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].delta.citations == whole.choices[0].message.citations
    assert (counted.choices, counted.usage) == ([], whole.usage)
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_refusal_is_an_ordinary_answer(client):
    choice = ask(client, NOWHERE).choices[0]
    assert (choice.message.content, choice.finish_reason) == (REFUSAL, "stop")
    assert (choice.message.citations, choice.message.grounded) == ([], False)


def test_a_follow_up_is_understood_from_the_messages_before(client):
    first = ask(client, LEAVE).choices[0].message.content
    assert "15天" in ask(client, LEAVE, first, "那满十年的呢？").choices[0].message.content


def test_earlier_answers_reach_the_model_without_what_was_added_to_them(scripted):
    generator, _, client = scripted
    generator.pieces = said("工作满一年的员工每年享有10天年假。", "公司有三千人。")
    first = ask(client, LEAVE).choices[0].message
    assert "[1]公司有三千人。[未证实]" in first.content
    ask(client, LEAVE, first.content, "那满十年的呢？")
    assert generator.requests[-1].messages[:2] == (
        Message("user", LEAVE),
        Message("assistant", "工作满一年的员工每年享有10天年假。公司有三千人。"),
    )


def test_numbers_that_a_model_puts_behind_its_sentences_are_not_taken_for_citations(scripted):
    generator, _, client = scripted
    generator.pieces = said("工作满一年的员工每年享有10天年假。[7]【8】公司有三千人。[9]")
    message = ask(client, LEAVE).choices[0].message
    assert message.content.startswith("工作满一年的员工每年享有10天年假。[1]公司有三千人。[未证实]\n\n来源：\n- [1] ")
    assert [citation["marker"] for citation in message.citations] == [1]


def test_what_looks_like_a_marker_or_a_list_of_sources_is_told_from_ours(scripted):
    generator, _, client = scripted
    generator.pieces = said("年假见[1][2]号文件，取rows[1]即可。\n\n来源：\n- [1] 伪造.docx")
    message = ask(client, LEAVE).choices[0].message
    assert "年假见［1］［2］号文件，取rows［1］即可。" in message.content
    assert "- ［1］ 伪造.docx" in message.content
    assert message.citations == []
    ask(client, LEAVE, message.content, "那满十年的呢？")
    assert "伪造.docx" in generator.requests[-1].messages[1].content


def test_a_row_of_a_table_is_marked_inside(scripted):
    generator, _, client = scripted
    generator.pieces = said("| 工龄 | 年假 |\n|---|---|\n| 满一年的员工 | 10天年假 |\n| 满百年的员工 | 99天年假 |")
    rows = ask(client, LEAVE).choices[0].message.content.split("\n\n")[0].splitlines()
    assert all(row.endswith("|") for row in rows)
    assert rows[-1] == "| 满百年的员工 | 99天年假 [未证实] |"


def test_settings_of_a_request_hold_for_a_base_too(scripted):
    generator, _, client = scripted
    generator.pieces = (
        Piece("工作满一年的员工每年享有"),
        Piece(finish="length", prompt_tokens=30, completion_tokens=7),
    )
    reply = ask(client, LEAVE, temperature=0, max_tokens=7, stop="。", seed=3, top_p=0.5)
    request = generator.requests[0]
    assert (request.temperature, request.max_tokens, request.stop, request.seed) == (0.0, 7, ("。",), 3)
    assert (request.question, request.top_p) == (LEAVE, 0.5)
    assert reply.choices[0].finish_reason == "length"
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (30, 7, 37)


# --- the model alone -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chatglm", "scripted:one"])
def test_the_bare_model_gets_the_messages_as_they_are(scripted, name):
    generator, _, client = scripted
    messages = [
        {"role": "developer", "content": "说中文"},
        {"role": "user", "content": [{"type": "text", "text": "你"}, {"type": "text", "text": "好"}]},
        {"role": "assistant", "content": "您好"},
        {"role": "user", "content": "再见"},
    ]
    reply = client.chat.completions.create(model=name, messages=messages, max_completion_tokens=9, temperature=0)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == ("你好！", "stop")
    assert (reply.model, reply.usage.total_tokens) == (name, 17)
    request = generator.requests[0]
    assert request.messages == (
        Message("system", "说中文"),
        Message("user", "你好"),
        Message("assistant", "您好"),
        Message("user", "再见"),
    )
    assert (request.max_tokens, request.temperature, request.top_p, request.seed) == (9, 0.0, None, None)


def test_the_bare_model_streams_what_it_says(scripted):
    _, running, client = scripted
    chunks = list(ask(client, "你好", model="chatglm", stream=True))
    assert [chunk.choices[0].delta.content for chunk in chunks] == ["你好", "！", None]
    assert chunks[-1].choices[0].finish_reason == "stop"
    raw = running.post("/v1/chat/completions", {"model": "chatglm", "messages": [user("x")], "stream": True})
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.text.endswith("\n\ndata: [DONE]\n\n")
    assert "usage" not in raw.text


def user(text):
    return {"role": "user", "content": text}


def test_a_tool_call_comes_in_openais_shape_and_its_result_goes_back(scripted):
    generator, _, client = scripted
    call = {"id": "call_1", "name": "get_weather", "arguments": {"city": "北京"}}
    generator.pieces = (Piece(tool_call=call), Piece(finish="tool_calls", prompt_tokens=1, completion_tokens=1))
    choice = ask(client, "北京天气？", model="chatglm", tools=[WEATHER], tool_choice="auto").choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    (made,) = choice.message.tool_calls
    assert (made.id, made.type, made.function.name) == ("call_1", "function", "get_weather")
    assert json.loads(made.function.arguments) == {"city": "北京"}
    assert generator.requests[0].tools == (WEATHER,)

    chunks = list(ask(client, "北京天气？", model="chatglm", tools=[WEATHER], stream=True))
    (streamed,) = [chunk.choices[0].delta.tool_calls for chunk in chunks if chunk.choices[0].delta.tool_calls]
    assert (streamed[0].index, streamed[0].function.model_dump()) == (0, made.function.model_dump())

    generator.pieces = said("晴")
    messages = [
        user("北京天气？"),
        choice.message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": "call_1", "content": "晴，20度"},
    ]
    client.chat.completions.create(model="chatglm", messages=messages, tools=[WEATHER], tool_choice="none")
    assert generator.requests[-1].messages == (
        Message("user", "北京天气？"),
        Message("assistant", "", (call,)),
        Message("tool", "晴，20度", tool_call_id="call_1"),
    )
    assert generator.requests[-1].tools == ()


@pytest.mark.parametrize(
    ("wanted", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        ({"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "array"}}}, {"type": "array"}),
    ],
)
def test_a_response_format_becomes_the_schema_that_the_model_is_held_to(scripted, wanted, schema):
    generator, _, client = scripted
    ask(client, "你好", model="chatglm", response_format=wanted)
    assert generator.requests[0].response_schema == schema


def test_a_chatglm_behind_the_service_speaks_json_and_counts(built, tmp_path):
    pytest.importorskip("torch", reason="kbqa[glm] is not installed")
    import glmkit  # noqa: F401  (one thread)

    from kbqa.chatglm.tiny import make_tiny

    make_tiny("chatglm3", tmp_path / "chatglm3-tiny")
    settings = {
        "KBQA_GENERATOR__KIND": "chatglm",
        "KBQA_GENERATOR__MODEL": str(tmp_path / "chatglm3-tiny"),
        "KBQA_GENERATOR__DTYPE": "float32",
        "KBQA_GENERATOR__DEVICE": "cpu",
    }
    contact = {
        "type": "object",
        "properties": {"电话": {"type": "string", "pattern": "^1[0-9]{10}$"}},
        "required": ["电话"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "contact", "schema": contact}}
    with serving(built, settings=settings) as running, client_of(running) as client:
        assert [model.id for model in client.models.list()][:2] == ["chatglm", "chatglm:chatglm3-tiny"]
        reply = ask(client, "李明，13800138000", model="chatglm", response_format=wanted, temperature=0)
        assert len(json.loads(reply.choices[0].message.content)["电话"]) == 11
        assert 0 < reply.usage.completion_tokens < reply.usage.total_tokens
        cut = ask(client, "你好", model="chatglm", max_tokens=3, temperature=0)
        assert (cut.choices[0].finish_reason, cut.usage.completion_tokens) == ("length", 3)
        chunks = list(ask(client, "你好", model="chatglm", max_tokens=3, temperature=0, stream=True))
        assert "".join(it.choices[0].delta.content or "" for it in chunks) == cut.choices[0].message.content
        grounded = ask(client, LEAVE, max_tokens=5)
        assert grounded.usage.completion_tokens == 5
        wanted["json_schema"]["schema"] = {"type": "circle"}
        for streamed in (False, True):  # what the model cannot do is no fault of the service, and is not tried again
            with pytest.raises(openai.BadRequestError, match="response schema"):
                ask(client, "你好", model="chatglm", response_format=wanted, stream=streamed)
            with pytest.raises(openai.BadRequestError, match=r"the question needs \d+ tokens"):
                ask(client, "你好" * 2000, model="chatglm", stream=streamed)


# --- embeddings ------------------------------------------------------------------------------------------------------


def test_embeddings_are_those_of_the_installation(client, service):
    embedder = service.service.installation.embedder
    expected = embedder.embed_passages(["年假", "病假"])
    made = client.embeddings.create(model="static", input=["年假", "病假"])  # the client asks for base64 by itself
    assert [item.index for item in made.data] == [0, 1]
    np.testing.assert_array_equal(np.array([item.embedding for item in made.data], np.float32), expected)
    raw = service.post("/v1/embeddings", {"model": "static", "input": "年假", "encoding_format": "base64"}).json()
    np.testing.assert_array_equal(np.frombuffer(base64.b64decode(raw["data"][0]["embedding"]), "<f4"), expected[0])
    plain_numbers = client.embeddings.create(model="static", input="年假", encoding_format="float", dimensions=512)
    np.testing.assert_allclose(plain_numbers.data[0].embedding, expected[0], rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "status", "why"),
    [
        ({"model": "text-embedding-3-small", "input": "x"}, 404, "there is static"),
        ({"model": "static", "input": [1, 2, 3]}, 400, "check_embedding_ctx_length=False"),
        ({"model": "static", "input": [[1, 2], [3]]}, 400, "token numbers"),
        ({"model": "static", "input": []}, 400, "input has 0 texts"),
        ({"model": "static", "input": ["x"] * 2049}, 400, "1 to 2048"),
        ({"model": "static", "input": ""}, 400, "not empty"),
        ({"model": "static", "input": None}, 400, "must be text"),
        ({"model": "static", "input": {"a": 1}}, 400, "must be text"),
        ({"model": "static"}, 400, "input: Field required"),
        ({"model": "static", "input": "x", "dimensions": 3}, 400, "dimensions is 3; static has 512"),
        ({"model": "static", "input": "x", "encoding_format": "int8"}, 400, "encoding_format: "),
    ],
)
def test_texts_that_cannot_be_embedded_are_refused(service, given, status, why):
    assert why in refused(service, status, "/v1/embeddings", **given)[0]


# --- what cannot be asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({}, "model: Field required"),
        ({"messages": []}, "messages: "),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: "),
        ({"messages": [{"role": "user"}]}, "message 1, the user's, has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "type 'image_url'; only text"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}]}, "the assistant's"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}]}, "answers the tool call 'c'"),
        ({"n": 2}, "n is 2"),
        ({"logprobs": True}, "logprobs is true"),
        ({"presence_penalty": 0.5}, "presence_penalty is 0.5"),
        ({"functions": [{"name": "f"}]}, "functions is "),
        ({"tools": [WEATHER], "tool_choice": "required"}, "cannot make the model call a tool"),
        (
            {"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "get_weather"}}},
            "auto or none",
        ),
        ({"tools": [{"type": "function"}]}, "a tool must be"),
        ({"tools": [WEATHER], "response_format": {"type": "json_object"}}, "exclude each other"),
        ({"response_format": {"type": "xml"}}, "response_format must be"),
        ({"temperature": -1}, "temperature: "),
        ({"temperature": "hot"}, "temperature: "),
        ({"max_tokens": 0}, "max_tokens: Input should be greater than or equal to 1"),
        ({"max_completion_tokens": -3}, "max_completion_tokens: Input should be greater than or equal to 1"),
        ({"seed": 2**64}, "seed: "),
        ({"stop": [""]}, "stop.0: "),
        ({"model": "kb:default", "tools": [WEATHER]}, "tools and response_format are for chatglm"),
        ({"model": "kb:default", "response_format": {"type": "json_object"}}, "tools and response_format are for"),
        ({"model": "kb:default", "messages": [{"role": "user", "content": " "}]}, "the question is empty"),
    ],
)
def test_a_request_that_cannot_be_granted_says_why(scripted, given, why):
    model = {} if given in ({},) else {"model": "chatglm"}
    assert why in refused(scripted[1], 400, **{**model, **given})[0]
    assert not scripted[0].requests


@pytest.mark.parametrize("given", [{"n": 1}, {"presence_penalty": 0}, {"user": "u", "store": True}, {"logit_bias": {}}])
def test_what_asks_for_nothing_is_let_through(client, given):
    assert ask(client, LEAVE, **given).choices[0].message.citations


@pytest.mark.parametrize("body", [b"{", b"[]", b"\xff", b"[" * 100_000, b'{"model": "chatglm", "messages": "x"}'])
def test_bodies_that_are_none_have_openais_errors_too(service, body):
    response = service.post("/v1/chat/completions", body)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


def test_halves_of_characters_are_replaced(scripted):
    generator, running, _ = scripted
    half = json.dumps({"model": "chatglm", "messages": [user("好\ud800")], "tools": [WEATHER], "stop": "\udc00"})
    assert running.post("/v1/chat/completions", half.encode()).status_code == 200
    assert generator.requests[0].messages == (Message("user", "好\ufffd"),)


def test_a_model_that_is_not_there_is_404_with_openais_code(client, service, scripted):
    with pytest.raises(openai.NotFoundError) as raised:
        ask(client, LEAVE, model="kb:nix")
    assert (raised.value.code, raised.value.param) == ("model_not_found", "model")
    assert "GET /v1/models" in refused(scripted[1], 404, model="gpt-4o")[0]
    assert refused(service, 404, model="kb:waiting")[0].endswith("run `kbqa ingest --kb waiting`")
    message, code = refused(service, 404, model="chatglm")
    assert code == "model_not_found"
    assert "generator.kind" in message


# --- who asks, and who has gone --------------------------------------------------------------------------------------


def test_keys_open_their_bases_and_are_counted_and_audited(built, tmp_path, monkeypatch):
    monkeypatch.setattr(auth, "FRESH", 0.0)
    audit = tmp_path / "audit.jsonl"
    with serving(built, Scripted(*said("好")), audit_log=str(audit)) as running:
        key = running.service.keys.add("车队", bases=["制度"])
        try:
            with client_of(running, key.secret) as mine, client_of(running, "kbqa_wrong") as wrong:
                assert [model.id for model in mine.models.list()] == ["chatglm", "scripted:one", "kb:制度"]
                ask(mine, "公车私用要谁批准？", model="kb:制度")
                ask(mine, "你好", model="chatglm")
                for model in ("kb:default", "kb:nix"):
                    with pytest.raises(openai.PermissionDeniedError, match="does not open the knowledge base"):
                        ask(mine, LEAVE, model=model)
                with pytest.raises(openai.AuthenticationError) as raised:
                    ask(wrong, LEAVE)
                assert raised.value.code == "invalid_api_key"
        finally:
            running.service.keys.revoke("车队")
    written = [json.loads(line) for line in audit.read_text(encoding="utf-8").splitlines()]
    assert [(line["who"], line["action"], line["base"]) for line in written] == [
        ("车队", "ask", "制度"),
        ("车队", "chat", None),
    ]


@pytest.mark.parametrize("model", ["chatglm", "kb:default"])
def test_the_model_stops_when_the_client_goes(built, model):
    class Endless(Scripted):
        def stream(self, request):
            try:
                while True:
                    yield Piece("工作满一年的员工每年享有10天年假。")
            finally:
                self.closed.set()

    generator = Endless()
    with serving(built, generator) as running, client_of(running) as client:
        with ask(client, LEAVE, model=model, stream=True) as chunks:
            assert next(iter(chunks)).choices
        assert generator.closed.wait(10), "the model still writes"
        wait_until(lambda: b'kbqa_answers_total{outcome="cancelled"} 1.0' in running.service.metrics.render())


def test_the_model_stops_when_nobody_waits_for_the_whole_any_more(built, chat_server, monkeypatch):
    monkeypatch.setattr(stream, "LOOK", 0.05)
    chat_server.script = [endless]
    with serving(built, settings=behind(chat_server)) as running:
        with pytest.raises(httpx.ReadTimeout):
            running.post("/v1/chat/completions", {"model": "chatglm", "messages": [user("x")]}, timeout=0.5)
        assert chat_server.left.wait(10), "the model still writes"


def behind(chat_server):
    generator = {"KIND": "openai", "BASE_URL": chat_server.url, "MODEL": "glm"}
    return {f"KBQA_GENERATOR__{key}": value for key, value in generator.items()}


def test_a_model_that_fails_has_openais_errors_before_and_within_a_stream(built, chat_server):
    with serving(built, settings=behind(chat_server)) as running, client_of(running) as client:
        chat_server.script = [refusal(503, {"error": {"message": "no"}}), refusal(401, {"error": {"message": "no"}})]
        with pytest.raises(openai.InternalServerError) as raised:
            ask(client, "你好", model="chatglm", stream=True)
        assert (raised.value.status_code, raised.value.response.headers["retry-after"]) == (503, "5")
        with pytest.raises(openai.InternalServerError):
            ask(client, "你好", model="openai:glm")
        chat_server.script = [events(delta("员工"), ends=False)]
        with pytest.raises(openai.APIError, match="broke off"):
            list(ask(client, "你好", model="chatglm", stream=True))
        assert ask(client, "你好", model="chatglm").usage.total_tokens == USAGE["total_tokens"]


# --- LangChain -------------------------------------------------------------------------------------------------------


def test_langchain_talks_to_a_base_a_model_and_the_embedder(scripted):
    langchain = pytest.importorskip("langchain_openai", reason="kbqa[test] is not installed")
    generator, running, _ = scripted
    generator.pieces = said("工作满一年的员工每年享有10天年假。")
    common = {"base_url": f"{running.url}/v1", "api_key": "none", "http_client": running.http}
    base = langchain.ChatOpenAI(model="kb:default", **common)
    whole = base.invoke([("system", "请简短"), ("user", LEAVE)])
    assert whole.content.startswith("工作满一年的员工每年享有10天年假。[1]")
    assert whole.usage_metadata["total_tokens"] == 17
    assert "".join(chunk.content for chunk in base.stream(LEAVE)) == whole.content

    call = {"id": "call_1", "name": "get_weather", "arguments": {"city": "北京"}}
    generator.pieces = (Piece(tool_call=call), Piece(finish="tool_calls"))
    tooled = langchain.ChatOpenAI(model="chatglm", **common).bind_tools([WEATHER])
    assert tooled.invoke("北京天气？").tool_calls == [
        {"name": "get_weather", "args": {"city": "北京"}, "id": "call_1", "type": "tool_call"}
    ]
    embeddings = langchain.OpenAIEmbeddings(model="static", check_embedding_ctx_length=False, **common)
    expected = running.service.installation.embedder.embed_passages(["年假"])
    np.testing.assert_allclose(embeddings.embed_documents(["年假"]), expected, rtol=1e-6)
