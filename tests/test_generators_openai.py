"""The generator for OpenAI-compatible servers, against a real server that misbehaves on demand, and a foreign one."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest
from chatserver import SAID, answer, delta, encoded, endless, events, old_http, raw, refusal, silence, stream_of
from conftest import PARROT

from kbqa.build import make_generator
from kbqa.cancellation import Cancellation
from kbqa.config import GeneratorConfig
from kbqa.errors import Cancelled, ConfigError, GeneratorBusy, GeneratorError
from kbqa.generators.openai import OpenAIGenerator
from kbqa.types import GenerationRequest, Message, Piece

ASKED = GenerationRequest((Message("user", "年假有几天？"),))
SEARCH = {"name": "查询", "description": "查一个词", "parameters": {"type": "object", "properties": {}}}


def asked(**settings) -> GenerationRequest:
    return GenerationRequest(ASKED.messages, **settings)


def made(server, **settings) -> OpenAIGenerator:
    return OpenAIGenerator(server.url, "glm-4-9b-chat", **settings)


def text_of(pieces) -> str:
    return "".join(piece.text for piece in pieces)


def error_of(server, *steps, request=ASKED, **settings) -> str:
    server.script = list(steps)
    with pytest.raises(GeneratorError) as caught:
        list(made(server, **settings).stream(request))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is asked ---------------------------------------------------------------------------------------------------


def test_only_what_was_asked_for_is_sent(chat_server):
    said = (Message("system", "你是助手"), Message("user", "问"), Message("assistant", "答"), Message("user", "再问"))
    list(made(chat_server).stream(GenerationRequest(said)))
    (seen,) = chat_server.seen
    assert seen.pop("path") == "/v1/chat/completions"
    assert "Authorization" not in seen.pop("headers")
    del seen["port"]
    assert seen == {
        "model": "glm-4-9b-chat",
        "messages": [{"role": message.role, "content": message.content} for message in said],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_sampling_stop_strings_and_seed_are_sent_where_they_are_given(chat_server):
    settings = {
        "temperature": 0.0,
        "top_p": 0.5,
        "top_k": 3,
        "repetition_penalty": 1.1,
        "max_tokens": 9,
        "seed": 7,
    }
    list(made(chat_server, temperature=0.9).stream(asked(stop=("停",), **settings)))
    (seen,) = chat_server.seen
    assert {name: seen[name] for name in settings} == settings
    assert seen["stop"] == ["停"]


def test_the_generators_own_settings_and_further_fields_hold_where_a_request_says_nothing(chat_server):
    config = GeneratorConfig(
        "openai",
        base_url=chat_server.url,
        model="qwen",
        temperature=0.25,
        max_tokens=80,
        options={"chat_template_kwargs": {"enable_thinking": False}},
    )
    list(make_generator(config).stream(asked(max_tokens=5)))
    (seen,) = chat_server.seen
    assert (seen["model"], seen["temperature"], seen["max_tokens"]) == ("qwen", 0.25, 5)
    assert seen["chat_template_kwargs"] == {"enable_thinking": False}


def test_an_adapter_is_asked_for_as_a_model(chat_server):
    list(made(chat_server).stream(asked(adapter="客服")))
    assert chat_server.seen[0]["model"] == "客服"


def test_the_key_comes_from_the_variable_that_config_yaml_names(chat_server, monkeypatch):
    monkeypatch.setenv("GLM_KEY", " sk-1234\n")
    config = GeneratorConfig("openai", base_url=chat_server.url, model="glm", api_key_env="GLM_KEY")
    list(make_generator(config).stream(ASKED))
    assert chat_server.seen[0]["headers"]["Authorization"] == "Bearer sk-1234"


def test_a_query_in_the_address_stays_behind_the_path(chat_server):
    generator = OpenAIGenerator(f"{chat_server.url}/?api-version=2024-06&code=geheim", "glm")
    list(generator.stream(ASKED))
    assert chat_server.seen[0]["path"] == "/v1/chat/completions?api-version=2024-06&code=geheim"
    chat_server.script = [refusal(500)]
    with pytest.raises(GeneratorError) as caught:
        list(generator.stream(ASKED))
    assert "geheim" not in str(caught.value)


def test_an_address_may_hold_chinese_and_a_question_half_a_character(chat_server):
    generator = OpenAIGenerator(f"{chat_server.url}/模型 一?位置=北京", "glm")
    list(generator.stream(GenerationRequest((Message("user", "年假\ud83d"),))))
    assert unquote(chat_server.seen[0]["path"]) == "/v1/模型 一/chat/completions?位置=北京"
    assert chat_server.seen[0]["messages"][0]["content"] == "年假\ud83d"


@pytest.mark.parametrize(
    ("base_url", "words"),
    [
        ("gpu-box:8000", "must begin with http"),
        ("http://", "must begin with http"),
        ("http://[::1", "is no address"),
        ("http://gpu-box:port/v1", "is no address"),
        ("http://user:secret@gpu-box/v1", "holds a user name or password"),
    ],
)
def test_an_address_that_cannot_be_used_names_the_setting(base_url, words):
    with pytest.raises(ConfigError, match=f"generator.base_url .*{words}"):
        OpenAIGenerator(base_url, "glm")


def test_further_fields_cannot_take_the_place_of_what_kbqa_says():
    with pytest.raises(ConfigError, match=r"generator\.options\.stream"):
        OpenAIGenerator("http://gpu-box/v1", "glm", options={"stream": False, "user": "kbqa"})


def test_a_key_that_is_none_is_named_without_being_shown():
    with pytest.raises(ConfigError, match=r"the variable that generator\.api_key_env names") as caught:
        OpenAIGenerator("http://gpu-box/v1", "glm", api_key="密钥一二三")
    assert "一二三" not in str(caught.value)


# --- what comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("cut", [1, 2, 3, 5, 64, 0])
def test_the_stream_is_read_however_it_was_cut(chat_server, cut, line_end):
    chat_server.script = [raw(encoded(stream_of(SAID), line_end), cut=cut)]
    pieces = list(made(chat_server).stream(ASKED))
    assert text_of(pieces) == SAID
    assert pieces[-1] == Piece(finish="stop", prompt_tokens=20, completion_tokens=9)


def test_comments_other_fields_and_data_of_several_lines_are_understood(chat_server):
    lines = json.dumps(delta("十天。"), ensure_ascii=False, indent=1).splitlines()
    content = "\ufeff: 排队中\n\n: 排队中\n\nevent: message\nid: 7\nretry: 10\n"
    content += "".join(f"data:{line}\n" for line in lines) + "\n\n" + encoded([delta(finish="stop"), "[DONE]"]).decode()
    chat_server.script = [raw(content.encode(), cut=7)]
    assert [piece.text for piece in made(chat_server).stream(ASKED)] == ["十天。", ""]


@pytest.mark.parametrize(
    ("reason", "finish"), [("length", "length"), ("max_tokens", "length"), ("stop", "stop"), ("eos", "stop")]
)
def test_the_reason_for_the_end_comes_out(chat_server, reason, finish):
    chat_server.script = [answer(finish=reason)]
    assert list(made(chat_server).stream(ASKED))[-1].finish == finish


def test_token_counts_are_not_needed(chat_server):
    chat_server.script = [events(*stream_of("十天。", usage=None))]
    assert list(made(chat_server).stream(ASKED))[-1] == Piece(finish="stop")


def test_what_a_server_counts_while_it_writes_is_known_by_then(chat_server):
    """As vLLM does with stream_options: {continuous_usage_stats: true}."""
    so_far = [
        {**delta(text), "usage": {"prompt_tokens": 20, "completion_tokens": at + 1}} for at, text in enumerate("十天")
    ]
    chat_server.script = [events(*so_far, ends=False)]
    stream = made(chat_server).stream(ASKED)
    told = [next(stream), next(stream)]
    assert [(piece.prompt_tokens, piece.completion_tokens) for piece in told] == [(20, 1), (20, 2)]
    with pytest.raises(GeneratorError, match="broke off"):
        next(stream)


def test_a_server_that_does_not_know_how_to_count_is_asked_again_once_and_then_without(chat_server):
    detail = [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]
    chat_server.script = [refusal(422, {"detail": detail})]
    generator = made(chat_server)
    assert text_of(generator.stream(ASKED)) == SAID
    assert text_of(generator.stream(ASKED)) == SAID
    assert ["stream_options" in seen for seen in chat_server.seen] == [True, False, False]


def test_a_stream_may_end_without_done_and_on_old_http(chat_server):
    chat_server.script = [events(*stream_of("十天。")[:-1]), old_http("五天。")]
    generator = made(chat_server)
    assert [text_of(generator.stream(ASKED)) for _ in range(2)] == ["十天。", "五天。"]


@pytest.mark.parametrize("first", ["", ": 排队中\n\n", "event: message\n"])
def test_a_stream_is_one_even_when_its_headers_do_not_say_so(chat_server, first):
    chat_server.script = [refusal(200, first.encode() + encoded(stream_of(SAID)), Content_Type="text/plain")]
    assert text_of(made(chat_server).stream(ASKED)) == SAID


def test_an_answer_of_a_server_that_does_not_stream_comes_whole(chat_server):
    whole = {"choices": [{"message": {"role": "assistant", "content": SAID}, "finish_reason": "stop"}]}
    chat_server.script = [refusal(200, whole)]
    assert [piece.text for piece in made(chat_server).stream(ASKED)] == [SAID, ""]


def test_only_what_is_said_is_text_not_what_is_thought(chat_server):
    blocks = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "年假"}]
    chat_server.script = [
        events(delta(reasoning_content="想一想"), delta(content=blocks), delta("十天。"), delta(finish="stop"))
    ]
    assert text_of(made(chat_server).stream(ASKED)) == "年假十天。"


def test_stop_strings_never_come_out_of_a_server_that_does_not_heed_them(chat_server):
    chat_server.script = [answer("年假十天。<停止>食堂在二楼。"), answer("年假<停")]
    generator = made(chat_server)
    pieces = list(generator.stream(asked(stop=("<停止>",))))
    assert (text_of(pieces), pieces[-1].finish) == ("年假十天。", "stop")
    assert text_of(generator.stream(asked(stop=("<停止>",)))) == "年假<停"


def test_tool_calls_are_put_together(chat_server):
    parts = [
        {"index": 0, "id": "call_1", "type": "function", "function": {"name": "查询", "arguments": ""}},
        {"index": 0, "function": {"arguments": '{"词": "年'}},
        {"index": 1, "id": "call_2", "type": "function", "function": {"name": "时间", "arguments": ""}},
        {"index": 0, "function": {"arguments": '假"}'}},
    ]
    chat_server.script = [
        events(*(delta(tool_calls=[part]) for part in parts), delta(finish="tool_calls"), "[DONE]", cut=5)
    ]
    *calls, last = made(chat_server).stream(asked(tools=(SEARCH,)))
    assert [piece.tool_call for piece in calls] == [
        {"id": "call_1", "name": "查询", "arguments": {"词": "年假"}},
        {"id": "call_2", "name": "时间", "arguments": {}},
    ]
    assert last == Piece(finish="tool_calls")
    assert chat_server.seen[0]["tools"] == [{"type": "function", "function": SEARCH}]


def test_calls_that_all_have_the_same_index_are_told_apart_by_their_id(chat_server):
    calls = [{"index": 0, "id": f"c{n}", "function": {"name": "查询", "arguments": f'{{"n": {n}}}'}} for n in (1, 2)]
    chat_server.script = [events(*(delta(tool_calls=[call]) for call in calls), delta(finish="stop"))]
    pieces = list(made(chat_server).stream(asked(tools=(SEARCH,))))
    assert [piece.tool_call["arguments"] for piece in pieces[:-1]] == [{"n": 1}, {"n": 2}]
    assert pieces[-1].finish == "tool_calls"


def test_what_a_tool_said_is_told_to_the_server(chat_server):
    call = {"id": "call_1", "name": "查询", "arguments": {"词": "年假"}}
    said = (
        *ASKED.messages,
        Message("assistant", "", tool_calls=(call,)),
        Message("tool", "十天", tool_call_id="call_1"),
    )
    list(made(chat_server).stream(GenerationRequest(said)))
    _, assistant, tool = chat_server.seen[0]["messages"]
    assert json.loads(assistant["tool_calls"][0]["function"].pop("arguments")) == {"词": "年假"}
    assert assistant["tool_calls"] == [{"id": "call_1", "type": "function", "function": {"name": "查询"}}]
    assert tool == {"role": "tool", "content": "十天", "tool_call_id": "call_1"}


def test_a_schema_is_asked_for_and_prose_in_its_place_is_an_error(chat_server):
    schema = {"type": "object", "properties": {"天数": {"type": "integer"}}}
    chat_server.script = [answer('{"天数": 10}')]
    assert json.loads(text_of(made(chat_server).stream(asked(response_schema=schema)))) == {"天数": 10}
    told = chat_server.seen[0]["response_format"]
    assert (told["type"], told["json_schema"]["schema"]) == ("json_schema", schema)
    assert "does not heed response_format" in error_of(chat_server, answer(), request=asked(response_schema=schema))


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (refusal(400, {"error": {"message": "max_tokens is too large"}}), ["400", "max_tokens is too large"]),
        (refusal(400, {"object": "error", "message": "坏请求"}), ["400", "坏请求"]),
        (refusal(400, {"error": "maximum context length is 4096"}), ["length is 4096", "lower prompt.max_characters"]),
        (refusal(401, {"error": {"message": "Unauthorized"}}), ["401", "set OPENAI_API_KEY to a key"]),
        (refusal(404, {"detail": "Not Found"}), ["404", "glm-4-9b-chat", "base_url", "/v1/models lists"]),
        (refusal(413, b"too long"), ["413 too long", "prompt.max_characters"]),
        (refusal(500, b"<html>\n<b>Internal</b>\n</html>"), ["500 <html> <b>Internal</b> </html>"]),
        (refusal(301, Location="https://gpu-box/v1/chat/completions"), ["moved to https://gpu-box", "base_url"]),
        (refusal(200, "<html>登录</html>".encode(), Content_Type="text/html"), ["not with JSON", "登录", "/v1?"]),
        (refusal(200, {"message": "坏了"}), ["not as a chat endpoint does: 坏了"]),
        (refusal(200, b"\xff\xfe"), ["not with text that can be read"]),
        (events(delta("十"), {"error": {"message": "CUDA out of memory"}}), ["failed: CUDA out of memory"]),
        (events(delta("十"), {"error": "显存不足"}), ["failed: 显存不足"]),
        (events(delta("十"), '{"error": "a "quoted" word"}'), ["not with JSON", 'a "quoted" word']),
        (events(delta("十"), {"choices": [7]}), ["not as a chat endpoint does"]),
        (events(delta("十"), delta(finish="content_filter")), ["did not finish its answer: content_filter"]),
        (answer(ends=False, finish=""), ["broke off in the middle"]),
        (events(delta("十"), ends=False), ["broke off in the middle"]),
        (events(delta("十")), ["broke off in the middle"]),
        (events(delta("十"), "[DONE]"), ["broke off in the middle"]),
        (raw(encoded([delta("十"), delta(finish="stop")])[:-1]), ["broke off in the middle"]),
        (raw(b"data: \xff\n\n"), ["not with text that can be read"]),
        (raw(b"data: " + b"[" * 100_000 + b"\n\n"), ["not with JSON ([[["]),
        (refusal(500, b"[" * 50_000), ["500 [[["]),
    ],
)
def test_an_error_names_the_server_and_what_it_says(chat_server, step, words):
    message = error_of(chat_server, step)
    assert message.startswith(f"{chat_server.url}/chat/completions ")
    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_server_is_told_apart(chat_server, status):
    chat_server.script = [refusal(status, {"error": {"message": "模型加载中"}})]
    with pytest.raises(GeneratorBusy, match=f"{status} 模型加载中.*try again"):
        list(made(chat_server).stream(ASKED))
    assert text_of(made(chat_server).stream(ASKED)) == SAID


@pytest.mark.parametrize(
    "step",
    [
        refusal(401, {"error": {"message": "Incorrect API key provided: sk-verysecret."}}),
        refusal(500, b"sk-verysecret"),
        refusal(200, b"sk-verysecret"),
        events({"error": "sk-verysecret"}),
        events({"message": "sk-verysecret"}),
    ],
)
def test_the_key_is_in_no_message(chat_server, step):
    message = error_of(chat_server, step, api_key="sk-verysecret", api_key_env="GLM_KEY")
    assert "verysecret" not in message


def test_a_refused_key_names_its_variable(chat_server):
    message = error_of(chat_server, refusal(401, b"no"), api_key="sk-1", api_key_env="GLM_KEY")
    assert "the key in GLM_KEY was refused" in message


def test_a_very_long_complaint_is_cut(chat_server):
    assert len(error_of(chat_server, refusal(500, b"x" * 200_000))) < 700


def test_the_pieces_before_an_error_come_out(chat_server):
    chat_server.script = [events(delta("十"), delta("天"), ends=False)]
    stream = made(chat_server).stream(ASKED)
    assert [next(stream).text, next(stream).text] == ["十", "天"]
    with pytest.raises(GeneratorError, match="broke off"):
        next(stream)


def test_a_server_that_is_not_there_is_named():
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
    with pytest.raises(GeneratorError, match=rf"^{url}/chat/completions cannot be reached: .*is the server running"):
        list(OpenAIGenerator(url, "glm").stream(ASKED))


def test_a_server_of_another_protocol_is_named():
    def hello(listener):
        connection, _ = listener.accept()
        with closing(connection):
            connection.recv(1)
            connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    import threading

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=hello, args=(listener,))
        thread.start()
        with pytest.raises(GeneratorError, match="is it an HTTP server"):
            list(OpenAIGenerator(f"http://127.0.0.1:{listener.getsockname()[1]}", "glm").stream(ASKED))
        thread.join()


@pytest.mark.parametrize("step", [silence(headers=False), silence(), silence(delta("十"))])
def test_a_deadline_is_kept_by_a_silent_server_too(chat_server, step):
    chat_server.script = [step]
    start = time.monotonic()
    with pytest.raises(GeneratorError, match="did not finish in time"):
        list(made(chat_server).stream(asked(deadline=start + 0.3)))
    assert 0.2 < time.monotonic() - start < 10
    assert chat_server.left.wait(5)


def test_a_deadline_is_kept_by_a_server_that_never_ends(chat_server):
    chat_server.script = [endless]
    start = time.monotonic()
    with pytest.raises(GeneratorError, match="did not finish in time"):
        list(made(chat_server).stream(asked(deadline=start + 0.3)))
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("step", [silence(headers=False), silence(delta("十"))])
def test_a_server_that_says_nothing_for_too_long_is_given_up(chat_server, step):
    assert "said nothing for 0.2 seconds" in error_of(chat_server, step, timeout=0.2)


@pytest.mark.parametrize("step", [endless, silence(delta("又"))])
def test_closing_the_answer_closes_the_connection(chat_server, step):
    chat_server.script = [step]
    stream = made(chat_server).stream(ASKED)
    assert next(stream).text == "又"
    assert not chat_server.left.is_set()
    stream.close()
    assert chat_server.left.wait(5)


@pytest.mark.parametrize("step", [silence(headers=False), silence(delta("又")), endless])
def test_who_takes_a_question_back_from_another_thread_breaks_the_connection_off(chat_server, step):
    chat_server.script, gone = [step], Cancellation()
    later = threading.Timer(0.1, gone.cancel)
    later.start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        list(made(chat_server).stream(replace(ASKED, cancellation=gone)))
    assert time.monotonic() - start < 5
    assert chat_server.left.wait(5)


def test_a_question_that_is_taken_back_when_it_has_been_answered_leaves_the_connection_alone(chat_server):
    generator, gone = made(chat_server), Cancellation()
    assert text_of(generator.stream(replace(ASKED, cancellation=gone))) == SAID
    gone.cancel()
    assert text_of(generator.stream(ASKED)) == SAID
    assert len({seen["port"] for seen in chat_server.seen}) == 1


@pytest.mark.parametrize(
    ("step", "good", "said"),
    [
        (refusal(200, {"data": [{"id": "other"}, {"id": "glm-4-9b-chat"}]}), True, "answers, and has it"),
        (
            refusal(200, {"data": [{"id": str(n)} for n in range(9)]}),
            False,
            "no model of that name (0, 1, 2, 3, 4, ...)",
        ),
        (refusal(200, {"data": []}), False, "no model of that name (none)"),
        (refusal(200, {"data": [3, {"x": 1}]}), False, "no model of that name (None)"),
        (refusal(200, b"<html>"), False, "not as such a server does; does base_url end in /v1?"),
        (refusal(200, {"hello": "world"}), False, "does base_url end in /v1?"),
        (refusal(404, b"nothing here"), True, "answers, but tells no models (404)"),
        (refusal(503, b"loading"), False, "answers, but tells no models (503)"),
    ],
)
def test_the_server_can_be_looked_at_without_being_asked_anything(chat_server, step, good, said):
    chat_server.listed = step
    seen = made(chat_server).check()
    assert seen[0] == good
    assert said in seen[1]
    assert chat_server.seen == []


def test_a_server_that_is_silent_or_refuses_the_key_fails_when_it_is_looked_at(chat_server, monkeypatch):
    monkeypatch.setattr("kbqa.generators.openai.GLANCE", 0.2)
    chat_server.listed = silence(headers=False)
    with pytest.raises(GeneratorError, match=r"/models (said nothing for 0.2 seconds|did not finish in time)"):
        made(chat_server).check()
    chat_server.listed = refusal(401, {"error": {"message": "who are you"}})
    with pytest.raises(GeneratorError, match="401 who are you; set OPENAI_API_KEY to a key for it"):
        made(chat_server).check()


# --- connections -----------------------------------------------------------------------------------------------------


def test_a_connection_serves_the_next_question_too(chat_server):
    generator = made(chat_server)
    chat_server.script = [answer(), answer(cut=3), refusal(500, b"kaputt"), answer()]
    for _ in range(4):
        with suppress(GeneratorError):
            assert text_of(generator.stream(ASKED)) == SAID
    assert len({seen["port"] for seen in chat_server.seen}) == 1


def test_a_connection_that_broke_in_an_answer_is_not_used_again(chat_server):
    generator = made(chat_server)
    chat_server.script = [silence(delta("十")), answer()]
    next(stream := generator.stream(ASKED))
    stream.close()
    assert text_of(generator.stream(ASKED)) == SAID
    assert len({seen["port"] for seen in chat_server.seen}) == 2


def test_a_connection_that_the_server_closed_meanwhile_does_no_harm(chat_server):
    def says_and_leaves(handler):
        answer()(handler)
        handler.close_connection = True  # without having announced it

    generator = made(chat_server)
    chat_server.script = [says_and_leaves]
    for _ in range(3):
        assert text_of(generator.stream(ASKED)) == SAID
    assert len(chat_server.seen) == 3


def test_many_threads_may_ask_at_once(chat_server):

    generator = made(chat_server)
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: text_of(generator.stream(ASKED)), range(40))) == {SAID}
    assert len({seen["port"] for seen in chat_server.seen}) <= 8


def test_this_machine_is_not_reached_through_a_proxy_and_others_are(chat_server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://leser:geheim@127.0.0.1:{chat_server.server_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert text_of(made(chat_server).stream(ASKED)) == SAID
    assert text_of(OpenAIGenerator("http://gpu-box.example:8000/v1", "glm").stream(ASKED)) == SAID
    direct, proxied = chat_server.seen
    assert direct["path"] == "/v1/chat/completions"
    assert "Proxy-Authorization" not in direct["headers"]
    assert proxied["path"] == "http://gpu-box.example:8000/v1/chat/completions"
    assert proxied["headers"]["Host"] == "gpu-box.example:8000"
    assert proxied["headers"]["Proxy-Authorization"].startswith("Basic ")


def test_https_goes_through_the_tunnel_of_a_proxy(monkeypatch):
    import threading

    def proxy(listener, heard):
        connection, _ = listener.accept()
        with closing(connection):
            heard.append(connection.recv(4096).split(b"\r\n")[0])
            connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")

    heard = []
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        for name in ("https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"127.0.0.1:{listener.getsockname()[1]}")
        thread = threading.Thread(target=proxy, args=(listener, heard))
        thread.start()
        with pytest.raises(GeneratorError, match=r"through the proxy 127\.0\.0\.1: .*502"):
            list(OpenAIGenerator("https://gpu-box.example/v1", "glm").stream(ASKED))
        thread.join()
    assert heard[0].startswith(b"CONNECT gpu-box.example:443 ")


def test_a_proxy_that_kbqa_does_not_speak_is_named(monkeypatch):
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "socks5://127.0.0.1:1080")
    with pytest.raises(ConfigError, match=r"socks5 proxy.*no_proxy"):
        OpenAIGenerator("https://gpu-box.example/v1", "glm")


@pytest.mark.parametrize("proxy", ["http://me:secret@proxy:80a", "http://", "proxy:99999", "http://[::1"])
def test_a_proxy_that_is_no_address_is_named_without_being_shown(monkeypatch, proxy):
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy)
    with pytest.raises(ConfigError, match=r"proxy in http_proxy.*no_proxy") as caught:
        OpenAIGenerator("http://gpu-box.example/v1", "glm")
    assert "secret" not in str(caught.value)


# --- others ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def foreign(parrot, tmp_path_factory):
    """`transformers serve` with a model that says PARROT."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("serve") / "log.txt"
    program = Path(sys.executable).with_name("transformers")
    command = [program, "serve", parrot, "--device", "cpu", "--host", "127.0.0.1", "--port", port]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "no_proxy": "127.0.0.1"}
    with log.open("wb") as file:
        process = subprocess.Popen([*map(str, command)], stdout=file, stderr=file, env=environment)
    try:
        direct, end = urllib.request.build_opener(urllib.request.ProxyHandler({})), time.monotonic() + 200
        while True:
            assert process.poll() is None, log.read_text(encoding="utf-8")
            assert time.monotonic() < end, log.read_text(encoding="utf-8")
            try:
                direct.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait()


def test_a_foreign_server_is_understood(foreign, parrot):
    generator = OpenAIGenerator(foreign, str(parrot))
    pieces = list(generator.stream(asked(temperature=0.0, seed=1)))
    assert text_of(pieces) == PARROT
    assert pieces[-1].finish == "stop"
    assert pieces[-1].prompt_tokens > 0
    assert pieces[-1].completion_tokens > len(PARROT) / 2
    assert list(generator.stream(asked(max_tokens=3)))[-1].finish == "length"
    assert text_of(generator.stream(asked(stop=("百分之",)))) == PARROT.partition("百分之")[0]
    with pytest.raises(GeneratorError, match=r"422 .*top_k"):
        list(generator.stream(asked(top_k=3)))
    with pytest.raises(GeneratorError, match="没有这个模型"):
        list(generator.stream(asked(adapter="没有这个模型")))


def test_openais_own_client_reads_the_same_of_it(foreign, parrot, chat_server):
    openai = pytest.importorskip("openai")
    import httpx

    for url in (foreign, chat_server.url):
        with httpx.Client(trust_env=False) as http, openai.OpenAI(base_url=url, api_key="none", http_client=http) as ai:
            said = [{"role": "user", "content": "年假有几天？"}]
            chunks = list(ai.chat.completions.create(model=str(parrot), messages=said, stream=True))
        theirs = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
        reasons = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        counts = next(chunk.usage for chunk in chunks if chunk.usage)
        ours = list(OpenAIGenerator(url, str(parrot)).stream(ASKED))
        assert text_of(ours) == theirs
        assert ours[-1] == Piece(
            finish=reasons[-1], prompt_tokens=counts.prompt_tokens, completion_tokens=counts.completion_tokens
        )


def test_a_connection_that_breaks_off_between_two_chunks_is_closed_and_the_model_stops(chat_server):
    go_on, cancellation = threading.Event(), Cancellation()

    def waiting_then_endless(handler):
        handler.begin()
        handler.chunk(encoded([delta("年假")]))
        go_on.wait(20)
        while not handler.server.over.is_set():
            handler.chunk(encoded([delta("又" * 1000)]))

    chat_server.script = [waiting_then_endless]
    pieces = made(chat_server).stream(replace(ASKED, cancellation=cancellation))
    assert next(pieces).text == "年假"
    threading.Timer(0.2, cancellation.cancel).start()
    with pytest.raises(Cancelled):
        next(pieces)
    go_on.set()
    assert chat_server.left.wait(5), "the model still writes"
