"""What /metrics tells: of answers, of the model and its queue, of jobs; and how little clients can put into it."""

import os
import signal
import subprocess
import sys
import threading
from collections import Counter

import pytest
from chatserver import answer, refusal
from prometheus_client.parser import text_string_to_metric_families
from serverkit import HANDBOOK, serving, take_in, wait_until

from kbqa.cancellation import Cancellation
from kbqa.errors import GeneratorError, RegistryError
from kbqa.generators.turns import Turns
from kbqa.server import stream
from kbqa.server.metrics import SHARED, Metrics
from kbqa.types import Load, Piece

LEAVE, NOWHERE = "年假有几天？", "食堂几点开门？"
ASK = "/api/v1/kb/{kb}/ask"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return take_in(tmp_path_factory.mktemp("home"), default=HANDBOOK)


@pytest.fixture
def service(home):
    with serving(home) as running:
        yield running


@pytest.fixture
def modelled(home, chat_server):
    settings = {"KIND": "openai", "BASE_URL": chat_server.url, "MODEL": "glm"}
    with serving(home, settings={f"KBQA_GENERATOR__{key}": value for key, value in settings.items()}) as running:
        yield running


def figures_of(text):
    """(name, labels) -> value"""
    families = text_string_to_metric_families(text)
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def read(service):
    found = figures_of(service.http.get("/metrics").text)

    def figure(name, **labels):
        return found.get((name, tuple(sorted(labels.items()))), 0.0)

    return figure


# --- answers ---------------------------------------------------------------------------------------------------------


def test_the_stages_of_an_answer_are_told(service):
    service.ask(LEAVE)
    service.ask(LEAVE, stream=True)
    service.ask(NOWHERE)
    figure = read(service)
    counts = {stage: figure("kbqa_stage_seconds_count", stage=stage) for stage in ("retrieve", "generate", "check")}
    assert counts == {"retrieve": 3, "generate": 2, "check": 2}, "a refusal asks no generator"
    parts = sum(figure("kbqa_stage_seconds_sum", stage=stage) for stage in counts)
    assert 0 < parts <= figure("kbqa_stage_seconds_sum", stage="answer")


def test_tokens_are_counted_by_route_and_stand_in_the_log(modelled, chat_server):
    chat_server.usual = answer("员工每年享有10天年假。")
    modelled.ask(LEAVE)
    modelled.ask(LEAVE, stream=True)
    modelled.post("/v1/chat/completions", {"model": "chatglm", "messages": [{"role": "user", "content": "你好"}]})
    figure = read(modelled)
    tokens = {
        (route, kind): figure("kbqa_tokens_total", route=route, kind=kind)
        for route in (ASK, "/v1/chat/completions")
        for kind in ("prompt", "completion")
    }
    assert tokens == {
        (ASK, "prompt"): 40,
        (ASK, "completion"): 18,
        ("/v1/chat/completions", "prompt"): 20,
        ("/v1/chat/completions", "completion"): 9,
    }
    whole, *_ = modelled.log.requests
    assert (whole["prompt_tokens"], whole["completion_tokens"]) == (20, 9)


class Talker:
    """Says two words and counts its tokens, then goes on, waits or fails."""

    name = "talker"

    def __init__(self):
        self.fails, self.stopped = False, threading.Event()

    def stream(self, request):
        try:
            yield Piece("员工每年", prompt_tokens=20, completion_tokens=1)
            yield Piece("享有10天年假。满十年的", prompt_tokens=20, completion_tokens=2)
            if self.fails:
                raise GeneratorError("the model broke down")
            with request.cancellation.waking(self.stopped.set):
                self.stopped.wait(20)
            request.cancellation.check()
        finally:
            self.stopped.set()


@pytest.mark.parametrize("path", [ASK, "/v1/chat/completions", "/v1/chat-messages"])
def test_tokens_of_an_answer_that_is_broken_off_are_counted_too(home, path):
    bodies = {
        ASK: {"question": LEAVE, "stream": True},
        "/v1/chat/completions": {"model": "chatglm", "messages": [{"role": "user", "content": "你好"}], "stream": True},
        "/v1/chat-messages": {"query": LEAVE, "user": "甲", "inputs": {}, "response_mode": "streaming"},
    }
    with serving(home, talker := Talker()) as running:
        where = path.format(kb="default")
        with running.http.stream("POST", where, json=bodies[path]) as reply:
            for line in reply.iter_lines():
                if "10天" in line:
                    break
        assert talker.stopped.wait(20), "the client has gone"
        wait_until(lambda: running.log.requests)
        talker.fails = True
        running.post(where, bodies[path])
        wait_until(lambda: len(running.log.requests) == 2)
        counted = [(it["prompt_tokens"], it["completion_tokens"]) for it in running.log.requests]
        assert counted == [(20, 2), (20, 2)]
        figure = read(running)
        assert figure("kbqa_tokens_total", route=path, kind="prompt") == 40
        assert figure("kbqa_tokens_total", route=path, kind="completion") == 4


def test_a_model_whose_queue_is_full_is_told_from_one_that_fails(modelled, chat_server):
    for status in (429, 500):
        chat_server.usual = refusal(status, {"error": {"message": "no"}})
        modelled.ask(LEAVE)
    figure = read(modelled)
    assert figure("kbqa_answers_total", outcome="busy") == 1
    assert figure("kbqa_answers_total", outcome="failed") == 1


def test_answers_that_wait_for_a_thread_are_told_from_those_that_are_written(home, chat_server):
    go_on = threading.Event()
    chat_server.usual = lambda handler: go_on.wait(20) and answer("员工每年享有10天年假。")(handler)
    settings = {"KIND": "openai", "BASE_URL": chat_server.url, "MODEL": "glm"}
    given = {f"KBQA_GENERATOR__{key}": value for key, value in settings.items()}
    with serving(home, settings=given) as running:
        running.service._places = type(running.service._places)(1)
        asking = [threading.Thread(target=running.ask, args=(LEAVE,)) for _ in range(3)]
        for thread in asking:
            thread.start()

        def under_way(state):
            return read(running)("kbqa_answers_under_way", state=state)

        wait_until(lambda: (under_way("writing"), under_way("waiting")) == (1, 2))
        go_on.set()
        for thread in asking:
            thread.join(20)
        assert (under_way("writing"), under_way("waiting")) == (0, 0)


# --- the model's queue -----------------------------------------------------------------------------------------------


class Model:
    """Keeps what Queued promises."""

    name = "chatglm:models"
    load = Load(running=4, waiting=7, slots=4, places=32)


def test_the_queue_of_a_model_in_this_process_is_told():
    figures = figures_of(Metrics(Model(), dict).render().decode())
    told = {
        (name.removeprefix("kbqa_model_"), dict(labels)["state"]): value
        for (name, labels), value in figures.items()
        if name.startswith("kbqa_model_")
    }
    assert told == {
        ("requests", "running"): 4,
        ("requests", "waiting"): 7,
        ("places", "running"): 4,
        ("places", "waiting"): 32,
    }


def test_a_line_for_one_model_says_how_long_it_is():
    turns = Turns("模型", 8)
    assert turns.load == Load(0, 0, 1, 8)
    with turns.turn(None, Cancellation()):
        waiting = [threading.Thread(target=lambda: turns.turn(None, Cancellation()).__enter__()) for _ in range(2)]
        for thread in waiting:
            thread.daemon = True
            thread.start()
        wait_until(lambda: turns.load == Load(1, 2, 1, 8))


def test_a_client_that_waits_for_a_model_in_this_process_is_told_how_many_do(home, monkeypatch):
    monkeypatch.setattr(stream, "FIRST", 0.05)
    monkeypatch.setattr(stream, "PULSE", 0.05)
    go_on = threading.Event()

    class Slow(Model):
        def stream(self, request):
            go_on.wait(20)
            yield Piece("工作满一年的员工每年享有10天年假。")
            yield Piece(finish="stop")

    with serving(home, generator=Slow()) as running:
        threading.Timer(0.5, go_on.set).start()
        told = running.events(LEAVE)
    assert told[0] == ("waiting", {"running": 4, "waiting": 7})
    assert [name for name, _ in told if name != "waiting"] == ["token", "citation", "sentence", "done"]


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_what_jobs_take_in_is_counted_file_by_file(tmp_path):
    (tmp_path / "knowledge" / "default").mkdir(parents=True)
    with serving(tmp_path) as running:
        form = [("files", (f"{n}.txt", f"第{n}条规定：设备由{n}组保管。".encode())) for n in range(3)]
        form.append(("files", ("坏.docx", b"PK\x03\x04 no zip")))
        job = running.http.post("/api/v1/kb/default/documents", files=form).json()["job"]["id"]
        wait_until(lambda: running.http.get(f"/api/v1/jobs/{job}").json()["state"] == "done", 60)
        wait_until(lambda: read(running)("kbqa_jobs_total", kind="ingest", state="done") == 1)
        figure = read(running)
    assert figure("kbqa_files_total", status="added") == 3
    assert figure("kbqa_files_total", status="failed") == 1
    assert figure("kbqa_chunks_total") == 3
    assert figure("kbqa_file_seconds_count") == 4
    assert figure("kbqa_job_seconds_count", kind="ingest") == 1
    assert figure("kbqa_jobs_pending", state="queued") == figure("kbqa_jobs_pending", state="running") == 0


def test_jobs_that_wait_are_told_and_a_registry_that_cannot_be_read_hides_no_other_figure():
    def broken():
        raise RegistryError("damaged")

    assert b'kbqa_jobs_pending{state="queued"} 3.0' in Metrics(Model(), lambda: {"queued": 3}).render()
    assert b"kbqa_requests_in_flight 0.0" in Metrics(Model(), broken).render()


# --- bounds, and several processes -----------------------------------------------------------------------------------


def test_clients_cannot_make_new_figures(service):
    def series():
        return Counter(name for name, _ in figures_of(service.http.get("/metrics").text))

    def strange(number):
        service.http.get(f"/nowhere/{number}")
        service.ask(LEAVE, f"base{number}")
        service.http.request(f"M{number}", "/healthz")
        service.http.get(f"/api/v1/jobs/{number}", headers={"X-Request-Id": f"r{number}"})

    strange(0)
    series()  # asking for them is a request, too
    before = series()
    for number in range(1, 12):
        strange(number)
    assert series() == before
    assert "base" not in service.http.get("/metrics").text


COUNTED_UP = """
import os, sys
from kbqa.server.metrics import Metrics
class Model: name = "none"
metrics = Metrics(Model(), dict)
metrics.count_file("added", 2, 0.1)
metrics.in_flight.inc()
print("ready", flush=True)
sys.stdin.readline()
sys.stdout.write(metrics.render().decode())
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_what_a_killed_process_had_under_way_counts_no_more_but_what_it_had_counted_up_does(tmp_path):
    def started():
        process = subprocess.Popen(
            [sys.executable, "-c", COUNTED_UP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, SHARED: str(tmp_path)},
        )
        assert process.stdout.readline() == "ready\n"
        return process

    killed, lives = started(), started()
    killed.send_signal(signal.SIGKILL)
    killed.wait(20)
    told, _ = lives.communicate("\n", timeout=20)
    killed.communicate()
    figures = figures_of(told)
    assert figures[("kbqa_files_total", (("status", "added"),))] == 2
    assert figures[("kbqa_chunks_total", ())] == 4
    assert figures[("kbqa_requests_in_flight", ())] == 1
