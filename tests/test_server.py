"""The service as clients meet it: real HTTP on loopback, real bases, a model that can misbehave."""

import asyncio
import json
import re
import shutil
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import httpx
import pytest
from chatserver import delta, encoded, endless, events, refusal, silence
from serverkit import CARS, JSON, events_of, serving, take_in, wait_until

from kbqa.build import Installation
from kbqa.chain import KnowledgeBase
from kbqa.config import Config, Home
from kbqa.evaluation import ask_all, load_questions, located
from kbqa.fields import answer_fields, search_fields
from kbqa.server import auth, front, stream
from kbqa.server.auth import is_loopback
from kbqa.server.stream import Feed
from kbqa.types import REFUSAL, Block, Document

HANDBOOK = """# 员工手册

## 第三章 休假

### 年假

工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。年假须提前三个工作日申请。

### 病假

病假须提交医院证明，病假期间工资按百分之八十发放。

## 第四章 报销

出差回来后应在十五个工作日内提交报销单，逾期不予报销。
"""
LEAVE = "年假有几天？"
NOWHERE = "公司的注册资本是多少？"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A home with two bases that have been taken in and one folder that has not. Not to be changed."""
    home = take_in(tmp_path_factory.mktemp("home"), default=HANDBOOK, 制度=CARS)
    (home / "knowledge" / "waiting").mkdir()
    return home


@pytest.fixture
def home(built, tmp_path):
    """One of its own, that may be changed."""
    shutil.copytree(built, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def service(built):
    with serving(built) as running:
        yield running


@pytest.fixture(scope="module")
def base(built):
    with Installation(Home(built), Config()).open("default") as opened:
        yield opened


@pytest.fixture
def modelled(built, chat_server):
    """A service whose answers `chat_server` writes, which tests tell what to do."""
    settings = {
        "KBQA_GENERATOR__KIND": "openai",
        "KBQA_GENERATOR__BASE_URL": chat_server.url,
        "KBQA_GENERATOR__MODEL": "glm",
    }
    with serving(built, settings=settings) as running:
        yield running


def timeless(fields):
    return {**fields, "seconds": 0}


def error_of(response, status):
    """The error's type and message, once it has the status and the shape that all errors have."""
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"type", "message"}
    return response.json()["error"]["type"], response.json()["error"]["message"]


# --- asking ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", [LEAVE, NOWHERE])
def test_an_answer_has_the_fields_of_ask_json(service, base: KnowledgeBase, question):
    given = service.ask(question)
    assert given.status_code == 200
    assert timeless(given.json()) == timeless(answer_fields(base.ask(question)))
    assert given.json()["grounded"] is (question == LEAVE)


def test_a_search_has_the_fields_of_search_json(service, base: KnowledgeBase):
    assert service.search(LEAVE).json() == search_fields(LEAVE, base.search(LEAVE, 10))
    assert len(service.search(LEAVE, k=1).json()["hits"]) == 1


def test_a_follow_up_is_understood_from_the_history(service):
    alone = service.ask("那满十年的呢？").json()
    followed = service.ask("那满十年的呢？", history=[[LEAVE, "每年享有10天年假。"]]).json()
    assert "15天" in followed["answer"]
    assert followed["confidence"] > alone["confidence"]


def test_a_stream_tells_the_answer_bit_by_bit_and_then_whole(service):
    told = service.events(LEAVE)
    whole = told[-1][1]
    assert timeless(whole) == timeless(service.ask(LEAVE).json())
    assert "".join(data["text"] for name, data in told if name == "token") == whole["answer"]
    assert [data for name, data in told if name == "citation"] == whole["citations"] != []
    sentences = [data for name, data in told if name == "sentence"]
    assert [{key: data[key] for key in ("text", "verdict", "markers")} for data in sentences] == whole["sentences"]
    assert all(whole["answer"][slice(*data["span"])] == data["text"] for data in sentences)
    known = set()
    for name, data in told:
        known |= {data["marker"]} if name == "citation" else set()
        assert name != "sentence" or set(data["markers"]) <= known, "a marker came before its citation"


def test_a_refusal_is_streamed_too(service):
    told = service.events(NOWHERE)
    assert [name for name, _ in told] == ["token", "done"]
    assert told[1][1]["answer"] == REFUSAL


def test_a_stream_comes_while_the_model_writes(modelled, chat_server):
    chat_server.script = [silence(delta("员工每年享有10天年假。"), delta("满十年"))]
    request = {"question": LEAVE, "stream": True}
    with modelled.http.stream("POST", "/api/v1/kb/default/ask", json=request) as response:
        text = ""
        for bit in response.iter_text():
            text += bit
            if "event: sentence" in text and text.endswith("\n\n") and "满十年" in text:
                break
    names = [name for name, _ in events_of(text)]
    assert names == ["token", "token", "citation", "sentence"], "the model has not come to its end"


def test_many_clients_at_once_get_what_each_of_them_asked_for(service):
    questions = [LEAVE, "病假工资怎么发？", "报销单什么时候交？", NOWHERE]
    alone = {question: timeless(service.ask(question).json()) for question in questions}

    def client(number):
        with httpx.Client(base_url=service.url, timeout=60) as http:
            for question in questions[number % 4 :]:
                body = {"question": question, "stream": number % 2 == 1}
                response = http.post("/api/v1/kb/default/ask", json=body)
                assert response.status_code == 200
                got = events_of(response.text)[-1][1] if body["stream"] else response.json()
                assert timeless(got) == alone[question]

    with ThreadPoolExecutor(32) as pool:
        list(pool.map(client, range(32)))


# --- bases -----------------------------------------------------------------------------------------------------------


def test_bases_are_listed_with_what_they_hold(service):
    bases = {base["name"]: base for base in service.http.get("/api/v1/kb").json()["bases"]}
    assert list(bases) == ["default", "制度", "waiting"]
    assert (bases["default"]["built"], bases["default"]["documents"]) == (True, 1)
    assert (bases["waiting"]["built"], bases["waiting"]["documents"]) == (False, 0)


def test_a_base_shows_what_it_was_built_with(service):
    shown = service.http.get("/api/v1/kb/制度").json()
    assert (shown["name"], shown["documents"], shown["passport"]["embedder"]) == ("制度", 1, "static")


@pytest.mark.parametrize("name", ["nix", "con", "a%00b", "..", "%2e%2e", "%20", "长" * 100])
def test_a_base_that_is_not_there_is_404_and_none_other_is_told_of(service, name):
    for response in (
        service.http.get(f"/api/v1/kb/{name}"),
        service.ask(LEAVE, name),
        service.search(LEAVE, name),
        service.ask(LEAVE, name, stream=True),
    ):
        if "." not in name and "e" not in name:  # the client itself may have made another path of it
            assert error_of(response, 404)[0] == "UnknownKnowledgeBase"
        assert response.status_code in (404, 405)
        assert "制度" not in response.text


def test_a_base_that_is_not_built_yet_is_told_how(service):
    assert "run `kbqa ingest --kb waiting`" in error_of(service.ask(LEAVE, "waiting"), 404)[1]


def test_what_another_installation_takes_in_or_deletes_is_seen_by_the_next_question(home):
    other = Installation(Home(home), Config())
    with serving(home) as running:
        assert not running.ask("食堂几点开门？").json()["grounded"]
        canteen = Document("食堂.txt", "食堂", (Block("text", "食堂每天早上七点开门，晚上八点关门。"),), "1")
        other.add_documents("default", [canteen])
        assert running.ask("食堂几点开门？").json()["citations"][0]["source"] == "食堂.txt"
        other.delete("default")
        assert error_of(running.ask(LEAVE), 404)[0] == "UnknownKnowledgeBase"
        assert running.http.get("/api/v1/kb").json()["bases"][1]["name"] == "default", "it waits to be built"
        other.ingest("default")
        assert running.ask(LEAVE).json()["grounded"]


def test_a_base_of_another_embedder_says_what_is_to_be_done(home):
    with Installation(Home(home), Config()).store("default") as store:
        made = replace(store.passport, embedder="another", embedder_fingerprint="another")
    with serving(home) as running:
        assert running.ask(LEAVE).status_code == 200
        from kbqa.store import Store

        with Store.rebuild(home / "vectorstore" / "default", made):
            pass
        kind, message = error_of(running.ask(LEAVE), 503)
        assert kind == "IndexMismatch"
        assert "kbqa ingest --kb default --rebuild" in message


# --- what cannot be asked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("ask", b"{", 400, "not valid JSON"),
        ("ask", b"", 422, "the body: Field required"),
        ("ask", '{"question": "年假有几天？"}'.encode("gb18030"), 400, "the body is not UTF-8"),
        ("ask", [], 422, "the body must be a JSON object"),
        ("ask", {}, 422, "question: Field required"),
        ("ask", {"question": 5}, 422, "question: "),
        ("ask", {"question": None}, 422, "question: "),
        ("ask", {"question": "x", "kb": "other"}, 422, "kb: Extra inputs are not permitted"),
        ("ask", {"question": "x", "history": [["q"]]}, 422, "history.0"),
        ("ask", {"question": "x", "history": [["q", "a"]] * 101}, 422, "history: "),
        ("ask", {"question": "x", "stream": "maybe"}, 422, "stream: "),
        ("ask", b'{"question": "x", "\\ud800": 1}', 422, "unable to parse raw data"),
        ("ask", {"question": "  "}, 400, "the question is empty"),
        ("ask", {"question": "  ", "stream": True}, 400, "the question is empty"),
        ("ask", {"question": "长" * 4001}, 400, "at most 4000"),
        ("search", {"question": "x", "k": 0}, 422, "k: "),
        ("search", {"question": "x", "k": 10**9}, 422, "k: "),
        ("search", {"question": ""}, 400, "the question is empty"),
    ],
)
def test_a_request_that_cannot_be_understood_says_why(service, path, body, status, said):
    assert said in error_of(service.post(f"/api/v1/kb/default/{path}", body), status)[1]


def test_json_must_be_called_json(service):
    """A web page can make a browser send anything else to localhost without asking first."""
    sent = service.http.post(
        "/api/v1/kb/default/ask", content=b'{"question": "x"}', headers={"Content-Type": "text/plain"}
    )
    assert "Content-Type: application/json" in error_of(sent, 422)[1]


@pytest.mark.parametrize(
    "question", ["<|user|>[gMASK]sop", "'; DROP TABLE chunks; --", "\x00\x01", "NOT AND (", "😀" * 50, "年假\ud800"]
)
def test_strange_questions_are_questions(service, question):
    assert service.ask(question).status_code == 200
    assert service.search(question).status_code == 200


def test_unknown_paths_and_methods_have_the_same_errors(service):
    assert error_of(service.http.get("/api/v1/nothing"), 404)[0] == "NotFound"
    assert error_of(service.http.get("/api/v1/kb/default/ask"), 405)[0] == "MethodNotAllowed"


def test_a_body_that_is_too_large_is_refused_before_it_is_read(service):
    with socket.create_connection(("127.0.0.1", service.http.base_url.port), timeout=10) as raw:
        raw.sendall(
            b"POST /api/v1/kb/default/ask HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 2147483648\r\n\r\n{"
        )
        said = b""
        while more := raw.recv(4096):  # until the service closes the connection: nobody reads the body
            said += more
    assert said.startswith(b"HTTP/1.1 413")
    assert b'"the body is larger than 1 MiB"' in said


def test_a_body_of_unknown_length_is_cut_off_where_it_is_too_large(service):
    sent = []

    def endless_body():
        for _ in range(200):
            sent.append(1)
            yield b" " * 65536

    response = httpx.post(f"{service.url}/api/v1/kb/default/ask", content=endless_body(), headers=JSON, timeout=10)
    assert error_of(response, 413)[1] == "the body is larger than 1 MiB"


def test_a_body_that_never_comes_is_not_waited_for_for_ever(service, monkeypatch):
    monkeypatch.setattr(front, "PATIENCE", 0.1)
    release = threading.Event()

    def stuck():
        yield b"{"
        release.wait(10)

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            httpx.post, f"{service.url}/api/v1/kb/default/ask", content=stuck(), headers=JSON, timeout=10
        )
        wait_until(lambda: any(line["status"] == 408 for line in service.log.requests))
        release.set()
        assert error_of(waiting.result(), 408)[0] == "RequestTimeout"


# --- models that fail ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("status", "expected", "kind"),
    [(429, 503, "GeneratorBusy"), (503, 503, "GeneratorBusy"), (401, 502, "GeneratorError")],
)
def test_a_model_that_is_busy_or_fails_has_a_status_of_its_own(modelled, chat_server, streamed, status, expected, kind):
    chat_server.usual = refusal(status, {"error": {"message": "no"}})
    response = modelled.ask(LEAVE, stream=streamed)
    assert error_of(response, expected)[0] == kind
    assert response.headers.get("retry-after") == ("5" if expected == 503 else None)


def test_a_model_that_breaks_off_in_the_middle_ends_the_stream_with_an_error(modelled, chat_server):
    chat_server.script = [events(delta("员工每年享有10天年假。"), delta("满"), ends=False)]
    told = modelled.events(LEAVE)
    assert [name for name, _ in told][-1] == "error"
    assert "sentence" in [name for name, _ in told]
    assert told[-1][1]["error"]["type"] == "GeneratorError"
    wait_until(lambda: modelled.log.requests)
    assert (modelled.log.requests[-1]["status"], modelled.log.requests[-1]["error"]) == (200, "GeneratorError")


def test_what_nobody_foresaw_is_told_to_the_log_and_not_to_the_client(built):
    class Broken:
        name = "broken"

        def stream(self, request):
            raise ZeroDivisionError("the secret inside")
            yield

    with serving(built, Broken()) as running:
        for streamed in (False, True):
            response = running.ask(LEAVE, stream=streamed)
            assert error_of(response, 500)[0] == "InternalError"
            assert "secret" not in response.text
        wait_until(lambda: len(running.log.requests) == 2)
        traces = [record.exc_info[1] for record in running.log.records if record.exc_info]
        assert [str(error) for error in traces] == ["the secret inside"] * 2
        assert running.http.get("/healthz").status_code == 200


def test_a_model_that_says_nothing_for_long_keeps_the_connection_alive(modelled, chat_server, monkeypatch):
    monkeypatch.setattr(stream, "FIRST", 0.05)
    monkeypatch.setattr(stream, "PULSE", 0.05)
    chat_server.script = [silence()]
    with modelled.http.stream("POST", "/api/v1/kb/default/ask", json={"question": LEAVE, "stream": True}) as response:
        bits = response.iter_text()
        assert response.status_code == 200
        assert ": waiting\n\n" in next(bits) + next(bits)


# --- clients that go -------------------------------------------------------------------------------------------------


def test_the_model_stops_when_the_client_goes_in_the_middle_of_a_stream(modelled, chat_server):
    chat_server.script = [endless]
    with modelled.http.stream("POST", "/api/v1/kb/default/ask", json={"question": LEAVE, "stream": True}) as response:
        assert "event: token" in next(response.iter_text())
    assert chat_server.left.wait(10), "the model still writes"
    wait_until(lambda: b'kbqa_answers_total{outcome="cancelled"} 1.0' in modelled.service.metrics.render())


def test_the_model_stops_when_the_client_no_longer_waits_for_the_whole_answer(modelled, chat_server, monkeypatch):
    monkeypatch.setattr(stream, "LOOK", 0.05)
    chat_server.script = [endless]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{modelled.url}/api/v1/kb/default/ask", json={"question": LEAVE}, timeout=0.5)
    assert chat_server.left.wait(10), "the model still writes"
    wait_until(lambda: modelled.log.requests)
    assert modelled.log.requests[-1]["status"] == 499


def test_a_client_that_reads_slowly_holds_the_model_back_instead_of_filling_the_memory():
    made = []

    def numbers(_):
        for number in range(10_000):
            made.append(number)
            yield number

    async def read_a_little():
        feed = await Feed.start(numbers, asyncio.Semaphore(1))
        first = [await anext(feed) for _ in range(3)]
        await asyncio.sleep(0.1)
        ahead = len(made)
        feed.close()
        return first, ahead

    first, ahead = asyncio.run(read_a_little())
    assert first == [0, 1, 2]
    assert ahead <= stream.AHEAD + 5


def test_a_client_that_takes_nothing_of_its_answer_is_given_up(modelled, chat_server, monkeypatch):
    monkeypatch.setattr(front, "STALLED", 0.3)

    def torrent(handler):
        handler.begin()
        while not handler.server.over.is_set():
            handler.chunk(encoded([delta("又" * 20_000)]))

    chat_server.script = [torrent]
    body = json.dumps({"question": LEAVE, "stream": True}).encode()
    head = f"POST /api/v1/kb/default/ask HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # else the system takes megabytes in its stead
        raw.connect(("127.0.0.1", modelled.http.base_url.port))
        raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        assert chat_server.left.wait(30), "the model still writes"
        wait_until(lambda: modelled.log.requests)


def test_places_are_free_again_after_feeds_that_end_fail_or_are_closed():
    def failing(_):
        yield 1
        raise ValueError("no")

    async def many():
        places = asyncio.Semaphore(2)
        for number in range(12):
            feed = await asyncio.wait_for(Feed.start(failing if number % 2 else lambda _: iter([1]), places), 5)
            assert await anext(feed) == 1
            if number % 3:
                with pytest.raises((ValueError, StopAsyncIteration)):
                    await anext(feed)
            feed.close()

    asyncio.run(many())


# --- keys ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def keyed(home, monkeypatch):
    """A service and its key ring, whose changes count at once."""
    monkeypatch.setattr(auth, "FRESH", 0.0)
    with serving(home) as running:
        yield running, running.service.keys


def test_as_soon_as_there_is_a_key_every_request_needs_one(keyed):
    running, ring = keyed
    assert running.ask(LEAVE).status_code == 200
    made = ring.add("app")
    refused = running.ask(LEAVE)
    assert error_of(refused, 401)[0] == "Unauthorized"
    assert refused.headers["www-authenticate"] == "Bearer"
    assert error_of(running.ask(LEAVE, stream=True), 401)
    assert running.with_key(made.secret).ask(LEAVE).status_code == 200
    assert running.http.get("/api/v1/kb", headers={"api-key": made.secret}).status_code == 200
    for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 401), ("/api/v1/kb", 401)):
        assert running.http.get(path).status_code == status, path


@pytest.mark.parametrize(
    "header", ["Bearer", "Bearer nonsense", "Basic YTpi", "Bearer kbqa_" + "x" * 43, "密钥".encode()]
)
def test_what_is_no_key_opens_nothing(keyed, header):
    running, ring = keyed
    ring.add("app")
    response = running.http.get("/api/v1/kb", headers={"Authorization": header})
    assert error_of(response, 401)[0] == "Unauthorized"


def test_a_key_opens_its_bases_and_no_others(keyed):
    running, ring = keyed
    mine = running.with_key(ring.add("人事", bases=["制度"]).secret)
    assert mine.ask("公车私用要谁批准？", "制度").json()["grounded"]
    assert [base["name"] for base in mine.http.get("/api/v1/kb").json()["bases"]] == ["制度"]
    for name in ("default", "waiting", "nix"):  # whether there is one is not told either
        for response in (mine.ask(LEAVE, name), mine.search(LEAVE, name), mine.http.get(f"/api/v1/kb/{name}")):
            assert error_of(response, 403) == ("Forbidden", f"the key 人事 does not open the knowledge base {name}")


def test_a_key_that_is_revoked_or_expired_opens_nothing_any_more(keyed, monkeypatch):
    running, ring = keyed
    ring.add("other")
    guest = running.with_key(ring.add("guest", expires_at=time.time() + 3600).secret)
    gone = running.with_key(ring.add("gone").secret)
    assert (guest.ask(LEAVE).status_code, gone.ask(LEAVE).status_code) == (200, 200)
    ring.revoke("gone")
    assert "revoked" in error_of(gone.ask(LEAVE), 401)[1]
    later = time.time() + 7200
    monkeypatch.setattr(auth.time, "time", lambda: later)
    assert "the key guest has expired" in error_of(guest.ask(LEAVE), 401)[1]


def test_a_scope_may_what_the_scopes_below_it_may():
    reader, writer, admin = (auth.Caller("k", scope, None) for scope in ("read", "write", "admin"))
    for caller, scope in ((reader, "read"), (writer, "read"), (writer, "write"), (admin, "write"), (admin, "admin")):
        caller.check(scope, "default")
    for caller, scope in ((reader, "write"), (reader, "admin"), (writer, "admin")):
        with pytest.raises(auth.Forbidden, match=f"may {caller.scope}, this needs one that may {scope}"):
            caller.check(scope)


def test_without_a_key_only_requests_meant_for_this_machine_are_answered(service):
    """A page of another site, or a name of its own that leads to 127.0.0.1, must not reach the documents."""
    assert error_of(service.http.get("/api/v1/kb", headers={"Host": "evil.example"}), 403)[1].endswith("NAME`")
    assert error_of(service.http.get("/api/v1/kb", headers={"Origin": "http://evil.example"}), 403)
    assert error_of(service.http.get("/api/v1/kb", headers={"Origin": "null"}), 403)
    assert error_of(service.http.get("/api/v1/kb", headers={"Host": "[::1"}), 403)
    assert service.http.get("/api/v1/kb", headers={"Origin": service.url}).status_code == 200
    assert service.http.get("/api/v1/kb", headers={"Host": "localhost:8000"}).status_code == 200


def test_a_service_for_other_machines_answers_nobody_without_a_key(built):
    """Also when its last key is revoked while it runs."""
    with serving(built, host="0.0.0.0") as running:
        assert error_of(running.ask(LEAVE), 401)[0] == "Unauthorized"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("", False),
        ("localhost.evil.example", False),
    ],
)
def test_only_addresses_of_this_machine_are_its_own(host, expected):
    assert is_loopback(host) is expected


def test_keys_that_cannot_be_read_open_nothing(keyed, home):
    running, ring = keyed
    ring.add("app")
    for file in (home / "vectorstore").glob("kbqa.sqlite*"):
        file.unlink()
    (home / "vectorstore" / "kbqa.sqlite").write_bytes(b"damaged " * 1000)
    assert error_of(running.ask(LEAVE), 503)[0] == "RegistryError"
    assert error_of(running.http.get("/readyz"), 503)[0] == "RegistryError"


def test_a_key_may_send_so_many_requests_a_minute(home):
    with serving(home, requests_per_minute=3) as running:
        mine, other = (running.with_key(running.service.keys.add(name).secret) for name in ("mine", "other"))
        assert [mine.ask(LEAVE).status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = mine.ask(LEAVE)
        assert "3 requests a minute (server.requests_per_minute)" in error_of(refused, 429)[1]
        assert 0 < int(refused.headers["retry-after"]) <= 20
        assert other.ask(LEAVE).status_code == 200


def test_a_key_may_have_so_many_requests_under_way(home, chat_server):
    chat_server.script = [silence(delta("员工"))]
    generator = {"KIND": "openai", "BASE_URL": chat_server.url, "MODEL": "glm"}
    settings = {f"KBQA_GENERATOR__{key}": value for key, value in generator.items()}
    with serving(home, settings=settings, concurrent_per_key=1) as running:
        mine = running.with_key(running.service.keys.add("mine").secret)
        with mine.http.stream("POST", "/api/v1/kb/default/ask", json={"question": LEAVE, "stream": True}) as first:
            assert first.status_code == 200
            refused = mine.ask(LEAVE)
            assert "1 requests under way already" in error_of(refused, 429)[1]
        wait_until(lambda: mine.search(LEAVE).status_code == 200)


def test_what_is_too_much_at_once_is_told_to_try_again(built, chat_server):
    chat_server.script = [silence(delta("员工"))]
    generator = {"KIND": "openai", "BASE_URL": chat_server.url, "MODEL": "glm"}
    settings = {f"KBQA_GENERATOR__{key}": value for key, value in generator.items()}
    with serving(built, settings=settings, concurrent_requests=1) as running:
        with running.http.stream("POST", "/api/v1/kb/default/ask", json={"question": LEAVE, "stream": True}) as first:
            assert first.status_code == 200
            refused = running.search(LEAVE)
            assert error_of(refused, 503)[0] == "Overloaded"
            assert refused.headers["retry-after"]
            assert running.http.get("/healthz").status_code == 200
        wait_until(lambda: running.search(LEAVE).status_code == 200)


# --- operation -------------------------------------------------------------------------------------------------------


def test_every_answer_has_an_id_which_a_client_may_choose(service):
    assert re.fullmatch(r"[0-9a-f]{16}", service.ask(LEAVE).headers["x-request-id"])
    mine = service.http.get("/nothing", headers={"X-Request-Id": "Trace-1.2_3"})
    assert mine.headers["x-request-id"] == "Trace-1.2_3"
    for bad in ("a b", "x" * 65, "<script>"):
        assert service.http.get("/healthz", headers={"X-Request-Id": bad}).headers["x-request-id"] != bad


def test_a_request_is_one_line_in_the_log_and_tells_no_secrets(keyed):
    running, ring = keyed
    made = ring.add("人事系统")
    response = running.with_key(made.secret).post("/api/v1/kb/default/ask?token=hidden", {"question": LEAVE})
    wait_until(lambda: running.log.requests)
    (line,) = running.log.requests
    assert line["request"] == response.headers["x-request-id"]
    assert (line["method"], line["path"], line["status"]) == ("POST", "/api/v1/kb/default/ask", 200)
    assert (line["who"], line["base"], line["bytes"]) == ("人事系统", "default", len(response.content))
    written = json.dumps(line, ensure_ascii=False)
    assert not any(secret in written for secret in (made.secret, "hidden", "年假"))


def test_the_audit_log_says_who_was_told_what_from_which_documents(home):
    with serving(home, audit_log="logs/audit.jsonl") as running:
        mine = running.with_key(running.service.keys.add("人事系统").secret)
        asked = mine.ask(LEAVE)
        mine.ask(NOWHERE, stream=True)
        mine.search(LEAVE)
    text = (home / "logs" / "audit.jsonl").read_text(encoding="utf-8")
    first, second, third = map(json.loads, text.splitlines())
    assert first["time"].startswith("20")
    assert first["request"] == asked.headers["x-request-id"]
    assert (first["who"], first["action"], first["base"]) == ("人事系统", "ask", "default")
    assert (first["documents"], first["grounded"]) == (["员工手册.md"], True)
    assert (second["documents"], second["grounded"]) == ([], False)
    assert (third["action"], third["documents"]) == ("search", ["员工手册.md"])
    assert "年假" not in text
    assert "kbqa_" not in text


def test_questions_stand_in_the_audit_log_where_they_may(home):
    with serving(home, audit_log="audit.jsonl", log_questions=True) as running:
        running.ask(LEAVE)
    assert json.loads((home / "audit.jsonl").read_text(encoding="utf-8"))["question"] == LEAVE


def test_an_audit_log_that_cannot_be_written_is_told_of_and_stops_no_answer(home):
    with serving(home, audit_log="knowledge") as running:  # a folder
        assert running.ask(LEAVE).json()["grounded"]
        assert any("audit log" in record.getMessage() for record in running.log.records)


def test_figures_tell_what_happened(home):
    with serving(home) as running:
        running.ask(LEAVE)
        running.ask(NOWHERE, stream=True)
        running.search(LEAVE)
        running.ask(LEAVE, "nix")
        running.http.get("/no/such/path")
        response = running.http.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    figures = dict(line.rsplit(" ", 1) for line in response.text.splitlines() if not line.startswith("#"))
    ask = 'kbqa_requests_total{method="POST",route="/api/v1/kb/{kb}/ask",status='
    assert (figures[f'{ask}"200"}}'], figures[f'{ask}"404"}}']) == ("2.0", "1.0")
    assert figures['kbqa_requests_total{method="GET",route="unknown",status="404"}'] == "1.0"
    assert figures['kbqa_answers_total{outcome="grounded"}'] == "1.0"
    assert figures['kbqa_answers_total{outcome="refused"}'] == "1.0"
    assert figures['kbqa_answers_total{outcome="failed"}'] == "1.0"
    assert figures['kbqa_stage_seconds_count{stage="first"}'] == "2.0"
    assert figures['kbqa_stage_seconds_count{stage="search"}'] == "1.0"
    assert figures["kbqa_requests_in_flight"] == "1.0"


def test_it_says_that_it_lives_and_is_ready(service):
    assert service.http.get("/healthz").json()["status"] == "ok"
    assert service.http.get("/readyz").json() == {"status": "ready"}


def test_the_page_of_the_api_loads_nothing_from_anywhere(service):
    page = service.http.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r"<script|<link|<img|https?://|url\(|@import", page.text)
    assert "/api/v1/kb/{kb}/ask" in page.text
    assert "AskRequest" in page.text


def test_the_api_says_which_statuses_it_answers_with(service):
    described = service.http.get("/openapi.json").json()
    responses = described["paths"]["/api/v1/kb/{kb}/ask"]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "403", "404", "408", "413", "422", "429", "500", "502", "503"}
    assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    fields = described["components"]["schemas"]["AnswerFields"]["properties"]
    assert set(fields) == set(service.ask(LEAVE).json())


def test_closing_the_service_closes_its_bases(home):
    with serving(home) as running:
        running.ask(LEAVE)
        store = running.service.base("default").store
    with pytest.raises(Exception, match="was closed"):
        store.counts()
    with closing(running.http):
        pass


# --- feedback --------------------------------------------------------------------------------------------------------

FEEDBACK = "/api/v1/kb/default/feedback"


def rated(running, rating="up", question=LEAVE, **fields):
    """What a page sends when somebody has pressed a thumb."""
    told = running.ask(question).json()
    answer = {"question": told["question"], "answer": told["answer"], "citations": told["citations"]}
    return running.post(FEEDBACK, {**answer, "rating": rating, **fields})


def lines_of(response):
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def test_feedback_is_kept_with_what_was_asked_and_told(home):
    with serving(home) as running:
        given = rated(running, "down", comment="过时了")
        assert given.status_code == 201
        (line,) = lines_of(running.http.get(FEEDBACK))
        told = running.ask(LEAVE).json()
    assert line["id"] == given.json()["id"]
    assert (line["base"], line["who"], line["rating"], line["comment"]) == ("default", "local", "down", "过时了")
    assert (line["question"], line["answer"]) == (told["question"], [told["answer"]])
    assert (line["source"], line["citations"]) == (["员工手册.md"], told["citations"])


def test_who_changes_his_mind_changes_his_feedback(home):
    with serving(home) as running:
        first = rated(running, "down").json()["id"]
        again = rated(running, "up", id=first)
        assert (again.status_code, again.json()) == (200, {"id": first})
        assert [line["rating"] for line in lines_of(running.http.get(FEEDBACK))] == ["up"]
        assert error_of(rated(running, "up", id="nix"), 404)[0] == "UnknownFeedback"


def test_feedback_is_exported_by_rating_and_time(home):
    with serving(home) as running:
        rated(running, "up")
        rated(running, "down", NOWHERE)
        assert [line["rating"] for line in lines_of(running.http.get(FEEDBACK, params={"rating": "down"}))] == ["down"]
        assert lines_of(running.http.get(FEEDBACK, params={"since": "2999-01-01"})) == []
        assert len(lines_of(running.http.get(FEEDBACK, params={"since": "2020-01-01T00:00:00+08:00"}))) == 2


def test_what_was_answered_well_becomes_questions_to_measure_by(home, tmp_path):
    with serving(home) as running:
        rated(running, "up")
        rated(running, "up", NOWHERE)
        exported = running.http.get(FEEDBACK, params={"rating": "up"})
    file = tmp_path / "liked.jsonl"
    file.write_bytes(exported.content)
    with Installation(Home(home), Config()).open("default") as base:
        questions = located(file, load_questions(file), ["员工手册.md"], "default")
        report = ask_all(base, questions)
    assert [question.answerable for question in questions] == [True, False]
    assert [reply.verdict for reply in report.replies] == ["right", "refused rightly"]
    assert report.replies[0].text == questions[0].answers[0], "several lines are one answer"


def test_whoever_may_ask_may_give_feedback_and_only_who_may_write_reads_it(keyed):
    running, ring = keyed
    reader, other = (running.with_key(ring.add(name).secret) for name in ("读者", "另一位"))
    writer = running.with_key(ring.add("管理", "write", ["default"]).secret)
    given = rated(reader).json()["id"]
    assert error_of(reader.http.get(FEEDBACK), 403)
    assert [line["who"] for line in lines_of(writer.http.get(FEEDBACK))] == ["读者"]
    assert error_of(rated(other, "down", id=given), 404)[0] == "UnknownFeedback"
    assert error_of(writer.http.get("/api/v1/kb/制度/feedback"), 403)
    assert error_of(running.post(FEEDBACK, {"question": "x", "answer": "y", "rating": "up"}), 401)


@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        (FEEDBACK, b"{", 400, "not valid JSON"),
        (FEEDBACK, {"question": "x", "answer": "y"}, 422, "rating: Field required"),
        (FEEDBACK, {"question": "x", "answer": "y", "rating": "great"}, 422, "rating: "),
        (FEEDBACK, {"question": "", "answer": "y", "rating": "up"}, 422, "question: "),
        (FEEDBACK, {"question": "x", "answer": "长" * 100_001, "rating": "up"}, 422, "answer: "),
        (FEEDBACK, {"question": "x", "answer": "y", "rating": "up", "citations": [{}]}, 422, "citations.0.source"),
        (FEEDBACK, {"question": "x", "answer": "y", "rating": "up", "citations": [5] * 201}, 422, "citations: "),
        ("/api/v1/kb/nix/feedback", {"question": "x", "answer": "y", "rating": "up"}, 404, "nix"),
        ("/api/v1/kb/..%2Fetc/feedback", {"question": "x", "answer": "y", "rating": "up"}, 404, ""),
    ],
)
def test_feedback_that_is_none_is_refused(service, path, body, status, said):
    assert said in error_of(service.post(path, body), status)[1]
    assert error_of(service.http.get(FEEDBACK, params={"since": "soon"}), 422)


def test_feedback_holds_any_text(home):
    with serving(home) as running:
        strange = b'{"question": "\\ud800?", "answer": "\\u0000<script>", "rating": "up", "comment": "\\udc00"}'
        given = running.post(FEEDBACK, strange)
        assert given.status_code == 201, given.text
        (line,) = lines_of(running.http.get(FEEDBACK))
    assert (line["question"], line["answer"], line["comment"]) == ("\ufffd?", ["\0<script>"], "\ufffd")
