"""MCP as the official SDK's client meets it: over HTTP with keys, and over standard input and output."""

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import asynccontextmanager

import pytest
from click.testing import CliRunner
from serverkit import serving, wait_until

pytest.importorskip("mcp", reason="kbqa[mcp] is not installed")
import httpx2
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from kbqa.build import Installation
from kbqa.cli import kbqa
from kbqa.config import Config, Home
from kbqa.server import auth
from kbqa.server.dialects import mcp as mcp_door
from kbqa.types import REFUSAL, Piece

HANDBOOK = """# 员工手册

## 年假

工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。
"""
LEAVE, LATER, NOWHERE = "年假有几天？", "那满十年的呢？", "公司的注册资本是多少？"
SENTENCE = "工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A home with two bases. Not to be changed."""
    home = tmp_path_factory.mktemp("home")
    for name, text in (("default", HANDBOOK), ("制度", "# 车辆\n\n公车由行政部统一调度，私用须经总经理批准。\n")):
        (home / "knowledge" / name).mkdir(parents=True)
        (home / "knowledge" / name / "文件.md").write_text(text, encoding="utf-8")
        Installation(Home(home), Config()).ingest(name)
    return home


@pytest.fixture
def home(built, tmp_path):
    shutil.copytree(built, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def service(built):
    with serving(built) as running:
        yield running


@pytest.fixture
def keyed(home, monkeypatch):
    """A service and how to get the secret of a new key."""
    monkeypatch.setattr(auth, "FRESH", 0.0)
    with serving(home) as running:
        running.service.keys.add("other")
        yield running, lambda name, *bases: running.service.keys.add(name, "read", bases or None).secret


@asynccontextmanager
async def over_http(running, secret=None, mode="auto"):
    headers = {} if secret is None else {"Authorization": f"Bearer {secret}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{running.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@asynccontextmanager
async def over_stdio(home, *options, mode="auto", errors=None):
    arguments = ["-m", "kbqa", "--home", str(home), "mcp", *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    async with Client(
        StdioServerParameters(command=sys.executable, args=arguments, env=environment), mode=mode
    ) as client:
        yield client


def asked(opened, *calls):
    """What these calls of tools give, one after the other, to one client."""

    async def ask():
        async with opened as client:
            return [await client.call_tool(name, arguments) for name, arguments in calls]

    return asyncio.run(ask())


def text_of(result):
    (content,) = result.content
    return content.text


def refused(result):
    assert result.is_error
    assert result.structured_content is None
    return text_of(result)


# --- over HTTP --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_finds_the_tools_and_how_to_use_them(service, mode):
    async def look():
        async with over_http(service, mode=mode) as client:
            return await client.list_tools(), client.server_info, client.instructions

    listed, info, instructions = asyncio.run(look())
    tools = {tool.name: tool for tool in listed.tools}
    assert set(tools) == {"search", "ask", "list_knowledge_bases"}
    assert set(tools["search"].input_schema["properties"]) == {"question", "kb", "k"}
    assert tools["ask"].input_schema["required"] == ["question"]
    assert all(tool.annotations.read_only_hint for tool in tools.values())
    assert all(tool.output_schema["type"] == "object" for tool in tools.values())
    assert info.name == "kbqa"
    assert "citations" in instructions


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_tools_give_the_fields_of_json_and_a_text_for_models(service, mode):
    answer, found, bases = asked(
        over_http(service, mode=mode),
        ("ask", {"question": LEAVE}),
        ("search", {"question": LEAVE, "k": 1}),
        ("list_knowledge_bases", {}),
    )
    expected = service.ask(LEAVE).json()
    assert answer.structured_content | {"seconds": 0} == expected | {"seconds": 0}
    assert text_of(answer).startswith(f"{SENTENCE}[1]")
    assert "- [1] 文件.md" in text_of(answer)
    assert found.structured_content == service.search(LEAVE, k=1).json()
    assert text_of(found) == f"[1] 文件.md · 员工手册 > 年假\n{SENTENCE}"
    assert bases.structured_content == service.http.get("/api/v1/kb").json()


def test_a_base_is_named_or_the_usual_one(service):
    usual, named, history, refusal = asked(
        over_http(service),
        ("ask", {"question": "公车由谁调度？"}),
        ("ask", {"question": "公车由谁调度？", "kb": "制度"}),
        ("ask", {"question": LATER, "history": [[LEAVE, "10天。"]]}),
        ("ask", {"question": NOWHERE}),
    )
    assert not usual.structured_content["grounded"]
    assert "行政部" in named.structured_content["answer"]
    assert "15天" in history.structured_content["answer"]
    assert (refusal.structured_content["answer"], refusal.is_error) == (REFUSAL, False)


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        ("ask", {}, "question: Field required"),
        ("ask", {"question": 5}, "question: "),
        ("ask", {"question": " "}, "the question is empty"),
        ("ask", {"question": "长" * 5000}, "at most"),
        ("ask", {"question": "x", "kb": "nix"}, "there is no knowledge base 'nix'"),
        ("ask", {"question": "x", "kb": "../etc"}, "there is no knowledge base"),
        ("ask", {"question": "x", "history": [["nur eines"]]}, "history.0"),
        ("ask", {"question": "x", "temperature": 1}, "temperature: Extra inputs"),
        ("search", {"question": "x", "k": 0}, "k: "),
        ("search", {"question": "x", "k": 10**9}, "k: "),
        ("list_knowledge_bases", {"all": True}, "all: Extra inputs"),
        ("delete", {}, "there is no tool 'delete'; there are: search, ask, list_knowledge_bases"),
    ],
)
def test_what_cannot_be_done_is_told_to_the_model(service, tool, arguments, said):
    (result,) = asked(over_http(service), (tool, arguments))
    assert said in refused(result)


def test_a_key_is_needed_and_opens_its_bases_alone(keyed):
    running, key = keyed
    mine, both = key("人事", "制度"), key("both", "制度", "nix")
    bases, usual, foreign = asked(
        over_http(running, mine),
        ("list_knowledge_bases", {}),
        ("ask", {"question": "公车由谁调度？"}),
        ("search", {"question": LEAVE, "kb": "default"}),
    )
    assert [base["name"] for base in bases.structured_content["bases"]] == ["制度"]
    assert "行政部" in usual.structured_content["answer"]
    assert refused(foreign) == "the key 人事 does not open the knowledge base default"
    (unnamed,) = asked(over_http(running, both), ("ask", {"question": LEAVE}))
    assert "opens several bases; name one of them in kb" in refused(unnamed)


def every_error(error):
    return [one for part in error.exceptions for one in every_error(part)] if hasattr(error, "exceptions") else [error]


@pytest.mark.parametrize("secret", [None, "kbqa_" + "x" * 43])
def test_without_a_key_nobody_comes_in(keyed, secret):
    running, _ = keyed
    with pytest.raises(Exception) as refusal:  # noqa: PT011  (which one is the SDK's to say)
        asked(over_http(running, secret), ("list_knowledge_bases", {}))
    assert every_error(refusal.value)
    sent = running.post("/mcp", {}, headers={} if secret is None else {"Authorization": f"Bearer {secret}"})
    assert (sent.status_code, sent.json()["error"]["type"]) == (401, "Unauthorized")
    assert running.service.runner is not None


CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "ask", "arguments": {"question": LEAVE}}}
ACCEPT = {"Accept": "application/json, text/event-stream"}


def test_a_page_of_another_site_does_not_come_in_without_a_key(service):
    for headers in ({"Host": "evil.example"}, {"Origin": "https://evil.example"}):
        response = service.post("/mcp", CALL, headers=ACCEPT | headers)
        assert response.status_code == 403, response.text


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"5", b'{"jsonrpc": "2.0"}', b"[" * 50_000, b"\xff"])
def test_what_is_no_message_is_refused(service, body):
    for headers in (ACCEPT, ACCEPT | {"MCP-Protocol-Version": "2026-07-28"}, ACCEPT | {"MCP-Protocol-Version": "nix"}):
        response = service.post("/mcp", body, headers=headers)
        assert 400 <= response.status_code < 500, (response.status_code, response.text)
    assert service.ask(LEAVE).status_code == 200


def test_sessions_and_streams_of_the_server_are_not_offered(service):
    for method in ("GET", "DELETE"):
        assert service.http.request(method, "/mcp", headers=ACCEPT).status_code == 405


def test_a_body_that_is_too_large_is_not_read(service):
    response = service.post("/mcp", b"x" * (2**20 + 1), headers=ACCEPT)
    assert response.status_code == 413


def test_calls_stand_in_the_log_and_in_the_audit_log(home):
    with serving(home, audit_log="audit.jsonl") as running:
        asked(over_http(running), ("ask", {"question": LEAVE}), ("ask", {"question": " "}))
        wait_until(lambda: any("error" in line for line in running.log.requests))
        lines = [line for line in running.log.requests if line["path"] == "/mcp"]
    assert {line["who"] for line in lines} == {"local"}
    assert [line["base"] for line in lines if "base" in line] == ["default", "default"]
    assert [line["error"] for line in lines if "error" in line] == ["QuestionError"]
    (entry,) = map(json.loads, (home / "audit.jsonl").read_text(encoding="utf-8").splitlines())
    assert (entry["action"], entry["base"], entry["documents"]) == ("ask", "default", ["文件.md"])


class Slow:
    """Begins an answer and waits until nobody wants it."""

    name = "slow"

    def __init__(self):
        self.begun, self.stopped, self.wake = threading.Event(), threading.Event(), threading.Event()

    def stream(self, request):
        try:
            yield Piece("工作满一年")
            self.begun.set()
            with request.cancellation.waking(self.wake.set):
                self.wake.wait(20)
            request.cancellation.check()
        finally:
            self.stopped.set()


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_client_that_does_not_wait_any_longer_stops_the_model(home, mode):
    model = Slow()

    async def give_up(running):
        async with over_http(running, mode=mode) as client:
            call = asyncio.create_task(client.call_tool("ask", {"question": LEAVE}))
            await asyncio.to_thread(model.begun.wait, 20)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call

    with serving(home, model) as running:
        asyncio.run(give_up(running))
        wait_until(model.stopped.is_set)


class Failing:
    name = "failing"

    def stream(self, request):
        raise ZeroDivisionError("secret detail")
        yield


def test_what_nobody_foresaw_is_told_to_the_log_and_not_to_the_model(home):
    with serving(home, Failing()) as running:
        (result,) = asked(over_http(running), ("ask", {"question": LEAVE}))
        assert "secret" not in refused(result)
        assert any(record.exc_info for record in running.log.records)


def test_many_clients_at_once_get_what_each_of_them_asked_for(service):
    async def many():
        async def one(number):
            async with over_http(service) as client:
                question = LEAVE if number % 2 else NOWHERE
                return (await client.call_tool("ask", {"question": question})).structured_content[
                    "question"
                ] == question

        return await asyncio.gather(*map(one, range(12)))

    assert all(asyncio.run(many()))


def test_without_the_extra_it_says_how_to_get_it(home, monkeypatch):
    monkeypatch.setattr(mcp_door, "find_spec", lambda name: None)
    with serving(home) as running:
        response = running.post("/mcp", CALL, headers=ACCEPT)
        wait_until(lambda: running.log.requests)
    assert response.status_code == 501
    assert [(it.levelname, it.fields["status"], it.fields["error"]) for it in running.log.records] == [
        ("INFO", 501, "NotInstalled")
    ], "the line of the request alone: it is no fault of the service"
    assert "pip install 'kbqa[mcp]'" in response.json()["error"]["message"]
    result = CliRunner().invoke(kbqa, ["--home", str(home), "mcp"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "pip install 'kbqa[mcp]'" in result.stderr


# --- over standard input and output -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_a_program_that_starts_kbqa_mcp_gets_the_same_answers(service, built, mode):
    answer, bases, unknown = asked(
        over_stdio(built, mode=mode),
        ("ask", {"question": LEAVE}),
        ("list_knowledge_bases", {}),
        ("search", {"question": LEAVE, "kb": "nix"}),
    )
    assert answer.structured_content | {"seconds": 0} == service.ask(LEAVE).json() | {"seconds": 0}
    assert [base["name"] for base in bases.structured_content["bases"]] == ["default", "制度"]
    assert "no knowledge base" in refused(unknown)


def test_one_base_alone_may_be_offered(built):
    bases, usual, foreign = asked(
        over_stdio(built, "--kb", "制度"),
        ("list_knowledge_bases", {}),
        ("ask", {"question": "公车由谁调度？"}),
        ("ask", {"question": LEAVE, "kb": "default"}),
    )
    assert [base["name"] for base in bases.structured_content["bases"]] == ["制度"]
    assert "行政部" in usual.structured_content["answer"]
    assert "does not open" in refused(foreign)


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}


def started(home, **settings):
    command = [sys.executable, "-m", "kbqa", "--home", str(home), "mcp"]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, **pipes, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, **settings)


def test_standard_output_carries_the_protocol_and_nothing_else(built):
    """Also when what it is sent is none of it; and the end of standard input is the end."""
    messages = [INITIALIZE, {"jsonrpc": "2.0", "method": "notifications/initialized"}, CALL | {"id": 2}]
    sent = "nonsense\n" + "".join(json.dumps(message) + "\n" for message in messages)
    with started(built) as process:
        process.stdin.write(sent.encode())
        process.stdin.flush()
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        rest, errors = process.communicate(timeout=20)
    assert all(line["jsonrpc"] == "2.0" for line in lines)
    assert [line["id"] for line in lines if "result" in line] == [1, 2], lines
    assert SENTENCE in json.dumps(lines[-1], ensure_ascii=False)
    assert rest == b""
    assert process.returncode == 0, errors.decode()


@pytest.mark.skipif(os.name == "nt", reason="signals are others there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_though_standard_input_stays_open(built, number):
    with started(built) as process:
        process.stdin.write((json.dumps(INITIALIZE) + "\n").encode())
        process.stdin.flush()
        process.stdout.readline()
        process.send_signal(number)
        process.wait(20)
        assert b"Traceback" not in process.stderr.read()


def test_a_base_that_is_not_there_is_said_before_anything_is_served(built):
    result = CliRunner().invoke(kbqa, ["--home", str(built), "mcp", "--kb", "nix"])
    assert (result.exit_code, result.stdout) == (1, "")
    assert "nix" in result.stderr


def test_a_start_that_fails_tells_who_waits_and_is_tried_again(monkeypatch):
    class Manager:
        @asynccontextmanager
        async def run(self):
            if self is broken:
                raise RuntimeError("坏了")
            yield

    broken, whole = Manager(), Manager()
    managers = [broken, whole]
    monkeypatch.setattr(mcp_door, "_manager", lambda service: managers.pop(0))

    async def twice():
        hall = mcp_door.Hall(None)
        async with hall.kept():
            with pytest.raises(RuntimeError, match="坏了"):
                await hall.manager()
            return await asyncio.wait_for(hall.manager(), 5)

    assert asyncio.run(twice()) is whole
