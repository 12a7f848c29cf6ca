"""ChatGLM's dialect, as the programs that were written for ChatGLM-6B's api.py meet it."""

import json
import re
import shutil
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest
from chatserver import endless
from serverkit import serving, wait_until

from kbqa.build import Installation
from kbqa.config import Config, Home
from kbqa.server import auth, stream
from kbqa.types import REFUSAL, Message, Piece

HANDBOOK = """# 员工手册

## 年假

工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。年假须提前三个工作日申请。
"""
LEAVE = "年假有几天？"


class Scripted:
    name = "scripted"

    def __init__(self, text="你好！"):
        self.text = text
        self.requests = []

    def stream(self, request):
        self.requests.append(request)
        yield Piece(self.text)
        yield Piece(finish="stop")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A home with one base. Not to be changed."""
    home = tmp_path_factory.mktemp("home")
    (home / "knowledge" / "制度").mkdir(parents=True)
    (home / "knowledge" / "制度" / "员工手册.md").write_text(HANDBOOK, encoding="utf-8")
    Installation(Home(home), Config()).ingest("制度")
    return home


@contextmanager
def tiny_chatglm(built, folder, **generator):
    pytest.importorskip("torch", reason="kbqa[glm] is not installed")
    import glmkit  # noqa: F401  (one thread)

    from kbqa.chatglm import load_chatglm
    from kbqa.chatglm.tiny import make_tiny

    make_tiny("chatglm", folder)
    settings = {
        "KBQA_GENERATOR__KIND": "chatglm",
        "KBQA_GENERATOR__MODEL": str(folder),
        "KBQA_GENERATOR__DTYPE": "float32",
        "KBQA_GENERATOR__DEVICE": "cpu",
        **{f"KBQA_GENERATOR__{name.upper()}": str(value) for name, value in generator.items()},
    }
    with serving(built, settings=settings) as running:
        yield running, load_chatglm(folder)


def test_a_model_says_what_its_chat_says(built, tmp_path):
    """ChatGLM-6B's README: the first curl line, then the history that it gave goes back."""
    with tiny_chatglm(built, tmp_path / "tiny") as (running, model):
        greedy = {"temperature": 0, "max_length": 12}
        first = running.post("/", {"prompt": "你好", "history": [], **greedy}).json()
        expected, history = model.chat("你好", do_sample=False, max_new_tokens=12)
        assert first["response"] == expected
        second = running.post("/", {"prompt": "晚上睡不着应该怎么办", "history": first["history"], **greedy}).json()
        assert second["response"] == model.chat("晚上睡不着应该怎么办", history, do_sample=False, max_new_tokens=12)[0]
        assert second["history"] == [["你好", expected], ["晚上睡不着应该怎么办", second["response"]]]
        assert running.post("/", {"prompt": "你好" * 2000}).status_code == 400


def test_a_client_that_leaves_frees_its_place_in_the_line_and_its_slot(built, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "LOOK", 0.05)
    body = {"prompt": "你好", "max_length": 2}
    with tiny_chatglm(built, tmp_path / "tiny", slots=1, waiting=1) as (running, _):
        assert running.post("/", body).status_code == 200
        engine = running.service.generator._ready()[1]
        go, stuck = threading.Event(), threading.Event()

        def hold(*_):
            stuck.set()
            go.wait(20)

        engine._runner.decoder.blocks[0].register_forward_hook(hold)
        with ThreadPoolExecutor(2) as others:
            reading = others.submit(httpx.post, running.url, json=body, timeout=1.5)  # its prompt is read
            assert stuck.wait(10)
            with pytest.raises(httpx.ReadTimeout):  # in the line
                running.post("/", body, timeout=0.5)
            wait_until(lambda: engine.load == (1, 0))
            patient = others.submit(httpx.post, running.url, json=body, timeout=20)
            wait_until(lambda: engine.load == (1, 1))
            assert running.post("/", body).status_code == 503
            assert isinstance(reading.exception(10), httpx.ReadTimeout)
            wait_until(lambda: b'kbqa_answers_total{outcome="cancelled"} 2.0' in running.service.metrics.render())
            go.set()
            assert patient.result(20).status_code == 200


def test_the_curl_line_of_chatglms_readme_works(built):
    if not shutil.which("curl"):
        pytest.skip("curl is not here")
    with serving(built, Scripted("你好👋！")) as running:
        line = [*"curl -s -X POST".split(), running.url, "-H", "Content-Type: application/json"]
        done = subprocess.run(
            [*line, "-d", '{"prompt": "你好", "history": []}'], capture_output=True, check=True, timeout=30
        )
    reply = json.loads(done.stdout)
    assert list(reply) == ["response", "history", "status", "time"]
    assert (reply["response"], reply["history"], reply["status"]) == ("你好👋！", [["你好", "你好👋！"]], 200)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", reply["time"])
    told = time.mktime(time.strptime(reply["time"], "%Y-%m-%d %H:%M:%S"))
    assert abs(told - time.time()) < 60, "the time is this machine's"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (2048, 0.7, 0.95)),
        ({"max_length": None, "top_p": None, "temperature": None, "history": None}, (2048, 0.7, 0.95)),
        ({"temperature": 0}, (2048, 0.7, 0)),
        ({"max_length": 100, "top_p": 1, "temperature": 0.1, "stream": False}, (100, 1, 0.1)),
    ],
)
def test_defaults_are_those_of_api_py_and_temperature_0_is_heeded(built, given, expected):
    generator = Scripted()
    with serving(built, generator) as running:
        assert running.post("/", {"prompt": "你好", **given}).status_code == 200
    (request,) = generator.requests
    assert (request.max_tokens, request.top_p, request.temperature) == expected


def test_history_is_what_was_said_before(built):
    generator = Scripted()
    with serving(built, generator) as running:
        running.post("/", {"prompt": "再见", "history": [["你好", "您好"]]})
    assert generator.requests[0].messages == (
        Message("user", "你好"),
        Message("assistant", "您好"),
        Message("user", "再见"),
    )


def test_a_base_that_config_yaml_names_answers_with_sources(built):
    """Also where nothing but quoting is possible."""
    with serving(built, chatglm_knowledge="制度") as running:
        first = running.post("/", {"prompt": LEAVE, "history": []}).json()
        assert "每年享有10天年假" in first["response"]
        assert "\n\n来源：\n- [1] 员工手册.md" in first["response"]
        second = running.post("/", {"prompt": "那满十年的呢？", "history": first["history"]}).json()
        assert "15天" in second["response"]
        assert len(second["history"]) == 2
        assert running.post("/", {"prompt": "公司的注册资本是多少？"}).json()["response"] == REFUSAL


def test_a_base_leaves_to_config_yaml_what_a_request_does_not_say(built):
    generator = Scripted("工作满一年的员工每年享有10天年假。")
    with serving(built, generator, chatglm_knowledge="制度") as running:
        first = running.post("/", {"prompt": LEAVE}).json()
        running.post("/", {"prompt": "那满十年的呢？", "history": first["history"], "temperature": 0, "max_length": 9})
    before, after = generator.requests
    assert (before.temperature, before.top_p, before.max_tokens) == (None, None, None)
    assert (after.temperature, after.max_tokens) == (0, 9)
    assert after.messages[1] == Message("assistant", "工作满一年的员工每年享有10天年假。"), "sources are no part of it"


def test_without_a_model_and_without_a_base_it_says_what_to_set(built):
    with serving(built) as running:
        response = running.post("/", {"prompt": "你好"})
        assert response.status_code == 404
        assert "server.chatglm_knowledge: <base>" in response.json()["error"]["message"]
    with serving(built, chatglm_knowledge="nix") as running:
        assert running.post("/", {"prompt": "你好"}).json()["error"]["type"] == "UnknownKnowledgeBase"


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        ({}, 422, "prompt: Field required"),
        ({"prompt": 1}, 422, "prompt: "),
        ({"prompt": "x", "history": ["y"]}, 422, "history.0"),
        ({"prompt": "x", "max_length": 0}, 422, "max_length: Input should be greater than or equal to 1"),
        ({"prompt": "x", "max_length": -3}, 422, "max_length: Input should be greater than or equal to 1"),
        ({"prompt": "x", "top_p": 0}, 422, "top_p: "),
        ({"prompt": "x", "temperature": -1}, 422, "temperature: "),
        (b"prompt=x", 400, "not valid JSON"),
    ],
)
def test_a_request_that_cannot_be_understood_says_why(talking, body, status, why):
    response = talking.post("/", body)
    assert response.status_code == status
    assert why in response.json()["error"]["message"]


@pytest.fixture(scope="module")
def talking(built):
    with serving(built, Scripted()) as running:
        yield running


def test_a_key_must_open_the_base(built, monkeypatch):
    monkeypatch.setattr(auth, "FRESH", 0.0)
    with serving(built, chatglm_knowledge="制度") as running:
        keys = running.service.keys
        mine, other = keys.add("mine", bases=["制度"]), keys.add("other", bases=["default"])
        try:
            assert running.post("/", {"prompt": LEAVE}).status_code == 401
            assert running.with_key(other.secret).post("/", {"prompt": LEAVE}).status_code == 403
            assert running.with_key(mine.secret).post("/", {"prompt": LEAVE}).status_code == 200
        finally:
            keys.revoke("mine")
            keys.revoke("other")


def test_a_generator_knows_who_asks_with_a_base_and_without(built, monkeypatch):
    """What a model has read for one key must not make it faster for another."""
    monkeypatch.setattr(auth, "FRESH", 0.0)
    with serving(built, asked := Scripted()) as running:
        keys = running.service.keys
        secrets = [keys.add(name, bases=["制度"]).secret for name in ("甲", "乙")]
        try:
            for secret in secrets:
                mine = running.with_key(secret)
                assert mine.post("/", {"prompt": LEAVE}).status_code == 200
                assert mine.post("/api/v1/kb/制度/ask", {"question": LEAVE}).status_code == 200
        finally:
            keys.revoke("甲")
            keys.revoke("乙")
    assert [request.owner for request in asked.requests] == ["甲", "甲", "乙", "乙"]


def test_the_model_stops_when_nobody_waits_any_more(built, chat_server, monkeypatch):
    monkeypatch.setattr(stream, "LOOK", 0.05)
    chat_server.script = [endless]
    generator = {"KIND": "openai", "BASE_URL": chat_server.url, "MODEL": "glm"}
    with serving(built, settings={f"KBQA_GENERATOR__{key}": value for key, value in generator.items()}) as running:
        with pytest.raises(httpx.ReadTimeout):
            running.post("/", {"prompt": "x"}, timeout=0.5)
        assert chat_server.left.wait(10), "the model still writes"
        wait_until(lambda: running.log.requests)
        assert running.log.requests[-1]["status"] == 499
