"""Dify's dialects as Dify and its clients meet them: external knowledge, and a chat app with its conversations."""

import json
import shutil
import threading
import time
import uuid

import pytest
from serverkit import serving, wait_until

from kbqa.build import Installation
from kbqa.cancellation import Cancellation
from kbqa.config import Config, Home
from kbqa.registry import FILE, Conversation
from kbqa.server import auth, stream, tasks
from kbqa.server.dialects.conditions import OPERATORS
from kbqa.server.dialects.dify_shapes import Answering
from kbqa.server.metrics import SHARED
from kbqa.types import REFUSAL, Block, Document, Piece

HANDBOOK = """# 员工手册

## 年假

工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。

## 病假

病假须提交医院证明，病假期间工资按百分之八十发放。
"""
TRAVEL = "# 差旅\n\n出差期间每日发放住宿补贴三百元。年假期间不得出差。\n"
LEAVE, LATER, NOWHERE = "年假有几天？", "那满十年的呢？", "公司的注册资本是多少？"
USER = "abc-123"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A home with two bases. Not to be changed."""
    home = tmp_path_factory.mktemp("home")
    files = {
        "default": {"员工手册.md": HANDBOOK, "财务/差旅.txt": TRAVEL},
        "制度": {"车辆.md": "# 车辆\n\n公车由行政部统一调度。"},
    }
    for base, documents in files.items():
        for name, text in documents.items():
            path = home / "knowledge" / base / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        Installation(Home(home), Config()).ingest(base)
    with Installation(Home(home), Config()).open("default") as base:
        text = "年假须提前三个工作日申请，由部门经理批准。"
        metadata = {"department": "人事部", "version": 3, "valid_from": "2024-03-01", "draft": ""}
        base.add_documents([Document("oa/流程", "请假流程", (Block("text", text, page=2),), "d1", metadata=metadata)])
    return home


@pytest.fixture
def home(built, tmp_path):
    """One of its own, that may be changed."""
    shutil.copytree(built, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture(scope="module")
def service(built, tmp_path_factory):
    """With conversations of all tests of this module."""
    home = tmp_path_factory.mktemp("served") / "home"
    shutil.copytree(built, home)
    with serving(home) as running:
        yield running


@pytest.fixture
def keyed(home, monkeypatch):
    monkeypatch.setattr(auth, "FRESH", 0.0)
    with serving(home) as running:
        running.service.keys.add("other")
        yield (
            running,
            lambda name, *bases: running.with_key(running.service.keys.add(name, "read", bases or None).secret),
        )


class Slow:
    """Says a sentence, and the next one when it is told to, or stops when nobody wants it."""

    name = "slow"

    def __init__(self):
        self.go_on, self.stopped = threading.Event(), threading.Event()

    def stream(self, request):
        try:
            yield Piece("工作满一年的员工每年享有10天年假。满十年", prompt_tokens=7, completion_tokens=3)
            with request.cancellation.waking(self.go_on.set):
                self.go_on.wait(20)
            request.cancellation.check()
            yield Piece("的员工每年享有15天年假。")
            yield Piece(finish="stop", prompt_tokens=7, completion_tokens=5)
        finally:
            self.stopped.set()


@pytest.fixture
def slow(home):
    generator = Slow()
    with serving(home, generator) as running:
        yield running, generator
        generator.go_on.set()


# --- external knowledge -----------------------------------------------------------------------------------------------


def retrieve(running, query=LEAVE, knowledge="default", conditions=None, joined="and", **setting):
    body = {
        "knowledge_id": knowledge,
        "query": query,
        "retrieval_setting": {"top_k": 10, "score_threshold": 0.0} | setting,
    }
    if conditions is not None:
        told = [
            dict(zip(("name", "comparison_operator", "value"), condition, strict=False)) for condition in conditions
        ]
        body["metadata_condition"] = {"logical_operator": joined, "conditions": told}
    return running.post("/retrieval", body)


def sources(response):
    assert response.status_code == 200, response.text
    return [record["metadata"]["source"] for record in response.json()["records"]]


def knowledge_error(response, status, code):
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error_code", "error_msg"}
    assert response.json()["error_code"] == code
    return response.json()["error_msg"]


def test_a_workflow_gets_the_passages_with_their_scores_and_what_is_known_of_them(service):
    records = retrieve(service).json()["records"]
    found = [hit["text"] for hit in service.search(LEAVE).json()["hits"]]
    assert [record["content"] for record in records] == found
    assert [record["score"] for record in records] == sorted((record["score"] for record in records), reverse=True)
    first = records[0]
    assert (first["title"], first["metadata"]["source"]) == ("员工手册", "员工手册.md")
    assert first["metadata"]["heading"].endswith("年假")
    assert (first["metadata"]["format"], first["metadata"]["origin"], first["metadata"]["page"]) == (
        "md",
        "folder",
        None,
    )
    (process,) = (record for record in records if record["metadata"]["source"] == "oa/流程")
    assert (process["metadata"]["department"], process["metadata"]["page"]) == ("人事部", 2)


def test_only_so_many_records_and_only_those_above_the_threshold(service):
    best, *others = retrieve(service).json()["records"]
    assert retrieve(service, top_k=1).json()["records"] == [best]
    assert retrieve(service, score_threshold=best["score"]).json()["records"] == [best]
    assert others
    assert retrieve(service, score_threshold=1.0).json()["records"] == []
    assert sources(retrieve(service, top_k=None, score_threshold=None))


WEEKS_AGO = time.time() - 14 * 86_400


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        (("source", "contains", "财务"), {"财务/差旅.txt"}),
        (("source", "not contains", "财务"), {"员工手册.md", "oa/流程"}),
        (("document_name", "start with", "员工"), {"员工手册.md"}),
        (("source", "end with", ".TXT"), {"财务/差旅.txt"}),
        (("format", "is", "MD"), {"员工手册.md"}),
        (("format", "is not", "md"), {"财务/差旅.txt", "oa/流程"}),
        (("format", "in", ["md", "pdf"]), {"员工手册.md"}),
        (("format", "in", "md, txt"), {"员工手册.md", "财务/差旅.txt"}),
        (("format", "not in", ["md", "pdf"]), {"财务/差旅.txt", "oa/流程"}),
        (("page", "empty"), {"员工手册.md", "财务/差旅.txt"}),
        (("page", "not empty"), {"oa/流程"}),
        (("department", "null"), {"员工手册.md", "财务/差旅.txt"}),
        (("draft", "empty"), {"员工手册.md", "财务/差旅.txt", "oa/流程"}),
        (("page", "=", 2), {"oa/流程"}),
        (("version", "=", "3"), {"oa/流程"}),
        (("version", "≠", 3), {"员工手册.md", "财务/差旅.txt"}),
        (("version", ">", 2.5), {"oa/流程"}),
        (("version", ">", 3), set()),
        (("version", "≥", 3), {"oa/流程"}),
        (("version", "<=", 3), {"oa/流程"}),
        (("version", "<", 3), set()),
        (("valid_from", "before", "2024-03-02"), {"oa/流程"}),
        (("valid_from", "before", "2024-03-01"), set()),
        (("valid_from", "after", "2024-02-29"), {"oa/流程"}),
        (("valid_from", "after", "2024-03-01"), set()),
        (("ingested_at", "after", WEEKS_AGO), {"员工手册.md", "财务/差旅.txt", "oa/流程"}),
        (("ingested_at", "before", str(int(WEEKS_AGO))), set()),
        (("ingested_at", "after", "2999-01-01T00:00:00+08:00"), set()),
        (("heading", "contains", "病假"), {"员工手册.md"}),
        (("title", "is", "請假流程"), {"oa/流程"}),
        ((["department", "source"], "contains", "差旅"), {"财务/差旅.txt"}),
        ((["department", "source"], "not contains", "差旅"), {"员工手册.md", "oa/流程"}),
        (("origin", "is", "api"), {"oa/流程"}),
        (("bytes", "<", 75), {"oa/流程"}),
    ],
)
def test_conditions_choose_by_what_is_known_of_a_passage(service, condition, expected):
    assert set(sources(retrieve(service, conditions=[condition]))) == expected


def test_conditions_are_joined_by_and_or_by_or(service):
    two = [("format", "is", "md"), ("department", "is", "人事部")]
    assert set(sources(retrieve(service, conditions=two, joined="or"))) == {"员工手册.md", "oa/流程"}
    assert sources(retrieve(service, conditions=two)) == []
    assert set(sources(retrieve(service, conditions=two, joined=None))) == set()
    assert len(set(sources(retrieve(service, conditions=[])))) == 3


def test_what_fits_is_found_behind_all_that_does_not(home):
    """The conditions choose among the passages before the best of them are taken, not after."""
    with Installation(Home(home), Config()).open("制度") as base:
        many = [
            Document(f"通知/{n}", f"通知{n}", (Block("text", f"第{n}号通知：公车由行政部统一调度。"),), f"d{n}")
            for n in range(450)
        ]
        base.add_documents(many)
    with serving(home) as running:
        query = "第7号通知：公车由行政部统一调度"
        everything = sources(retrieve(running, query, "制度", top_k=400))
        last = next(f"通知/{n}" for n in range(450) if f"通知/{n}" not in everything)
        assert sources(retrieve(running, query, "制度", [("source", "is", last)], top_k=1)) == [last]


@pytest.mark.parametrize(
    ("conditions", "said"),
    [
        ([("source", "resembles", "x")], "comparison_operator is 'resembles'; there are: contains, "),
        ([("autor", "is", "x")], "no document here has 'autor'; there are: added_at, "),
        ([("page", ">", "viele")], "page > needs a number, not 'viele'"),
        ([("page", "=", None)], "page = needs a number, not None"),
        ([("page", "=", [1])], "page = needs a number"),
        ([("ingested_at", "before", "gestern")], "ingested_at before needs a time (2026-11-21"),
        ([("source", "is", None)], "source is needs a value"),
        ([("source", "contains", ["a", "b"])], "source contains needs a value"),
        ([("source", "in", [])], "source in needs a value"),
        ([("source", "is", {"a": 1})], "metadata_condition.conditions.0.value"),
        ([([], "is", "x")], "a condition names no field"),
        ([("source", "is", "x")] * 101, "metadata_condition.conditions"),
        ([{}], "metadata_condition.conditions.0"),
    ],
)
def test_a_condition_that_cannot_be_looked_for_says_why(service, conditions, said):
    assert said in knowledge_error(retrieve(service, conditions=conditions), 400, 400)


def test_every_operator_of_dify_is_there():
    theirs = {
        "contains",
        "not contains",
        "start with",
        "end with",
        "is",
        "is not",
        "empty",
        "not empty",
        "in",
        "not in",
    }
    assert set(OPERATORS) == theirs | {"=", "≠", ">", "<", "≥", "≤", "before", "after"}


@pytest.mark.parametrize("setting", [{"top_k": 0}, {"top_k": 10**9}, {"top_k": "many"}, {"score_threshold": 2}])
def test_a_setting_out_of_bounds_says_which(service, setting):
    assert f"retrieval_setting.{next(iter(setting))}" in knowledge_error(retrieve(service, **setting), 400, 400)


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"knowledge_id": 5, "query": []}', b"[" * 50_000])
def test_a_body_that_is_none_has_difys_shape(service, body):
    knowledge_error(service.post("/retrieval", body), 400, 400)


def test_a_query_that_cannot_be_asked_has_difys_shape(service):
    assert "empty" in knowledge_error(retrieve(service, query=" "), 400, 400)
    assert "at most" in knowledge_error(retrieve(service, query="长" * 5000), 400, 400)


def test_keys_and_bases_that_are_not_there_have_difys_codes(keyed):
    running, key = keyed
    mine = key("dify", "default")
    assert sources(retrieve(mine))
    assert "send the header" in knowledge_error(retrieve(running), 403, 1001)
    basic = running.post("/retrieval", {}, headers={"Authorization": "Basic YTpi"})
    assert "send the header" in knowledge_error(basic, 403, 1001)
    assert "no such key" in knowledge_error(retrieve(running.with_key("kbqa_" + "x" * 43)), 403, 1002)
    for foreign in ("制度", "nix"):
        assert "does not open" in knowledge_error(retrieve(mine, knowledge=foreign), 403, 1002)
    everywhere = key("all")
    for unknown in ("nix", "../default", ""):
        assert "no knowledge base" in knowledge_error(retrieve(everywhere, knowledge=unknown), 404, 2001)


def test_dify_learns_when_a_key_is_entered_whether_it_is_right(keyed):
    """It sends nothing at all then, and looks for the statuses 403, 404 and 502."""
    running, key = keyed
    for asking, status in ((key("dify"), 400), (running.with_key("kbqa_" + "x" * 43), 403)):
        tried = asking.http.post("/retrieval")
        assert tried.status_code == status, tried.text


# --- chat -------------------------------------------------------------------------------------------------------------


def send(running, query=LEAVE, user=USER, **fields):
    return running.post("/v1/chat-messages", {"query": query, "user": user, "inputs": {}, **fields})


def said(running, query=LEAVE, **fields):
    response = send(running, query, **fields)
    assert response.status_code == 200, response.text
    return response.json()


def told(running, query=LEAVE, **fields):
    response = send(running, query, response_mode="streaming", **fields)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith("text/event-stream")
    return [json.loads(line[6:]) for line in response.text.splitlines() if line.startswith("data: ")]


def dify_error(response, status, code):
    assert response.status_code == status, response.text
    assert set(response.json()) == {"code", "message", "status"}
    assert (response.json()["code"], response.json()["status"]) == (code, status)
    return response.json()["message"]


def listed(running, path, **params):
    response = running.http.get(path, params={"user": USER} | params)
    assert response.status_code == 200, response.text
    return response.json()


def test_an_answer_comes_whole_with_its_sources(service):
    answer = said(service)
    assert (answer["event"], answer["mode"], answer["id"]) == ("message", "chat", answer["message_id"])
    assert uuid.UUID(answer["conversation_id"])
    assert uuid.UUID(answer["task_id"])
    assert answer["answer"] == "工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。[1]"
    (source,) = answer["metadata"]["retriever_resources"]
    assert (source["position"], source["dataset_name"], source["document_name"]) == (1, "default", "员工手册.md")
    assert source["content"] == "工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。"
    assert 0 < source["score"] <= 1
    assert answer["metadata"]["usage"]["total_tokens"] == 0
    assert answer["metadata"]["usage"]["latency"] >= 0


def test_an_answer_comes_sentence_by_sentence_and_ends_with_its_sources(service):
    events = told(service)
    whole = said(service)
    assert [event["event"] for event in events][-1] == "message_end"
    assert {event["event"] for event in events[:-1]} == {"message"}
    assert "".join(event["answer"] for event in events[:-1]) == whole["answer"]
    assert events[-1]["metadata"]["retriever_resources"] == whole["metadata"]["retriever_resources"]
    assert len({(event["task_id"], event["message_id"], event["conversation_id"]) for event in events}) == 1


def test_a_refusal_is_an_answer_without_sources(service):
    answer = said(service, NOWHERE)
    assert (answer["answer"], answer["metadata"]["retriever_resources"]) == (REFUSAL, [])
    events = told(service, NOWHERE)
    assert "".join(event.get("answer", "") for event in events) == REFUSAL


@pytest.mark.parametrize("ask", [said, lambda *given, **fields: told(*given, **fields)[-1]])
def test_a_conversation_goes_on_where_it_was(service, ask):
    first = ask(service)
    again = ask(service, LATER, conversation_id=first["conversation_id"])
    assert again["conversation_id"] == first["conversation_id"]
    assert again["message_id"] != first["message_id"]
    rounds = listed(service, "/v1/messages", conversation_id=first["conversation_id"])
    assert [round["query"] for round in rounds["data"]] == [LEAVE, LATER]
    assert "15天" in rounds["data"][1]["answer"]


class Listening:
    """Notes what it is asked."""

    name = "listening"

    def __init__(self):
        self.messages = []

    def stream(self, request):
        self.messages.append([(message.role, message.content) for message in request.messages[:-1]])
        yield Piece("工作满一年的员工每年享有10天年假。")
        yield Piece(finish="stop")


def test_the_model_hears_what_was_said_before_without_what_was_added_for_the_client(home):
    model = Listening()
    with serving(home, model) as running:
        first = said(running)
        assert first["answer"].endswith("。[1]")
        said(running, LATER, conversation_id=first["conversation_id"])
    assert model.messages == [[], [("user", LEAVE), ("assistant", first["answer"].removesuffix("[1]"))]]


def test_a_conversation_outlives_the_service(home):
    with serving(home) as running:
        first = said(running)
    with serving(home) as running:
        assert "15天" in said(running, LATER, conversation_id=first["conversation_id"])["answer"]


def test_rounds_are_kept_as_they_were_told(service):
    answer = said(service)
    (round,) = listed(service, "/v1/messages", conversation_id=answer["conversation_id"])["data"]
    assert (round["id"], round["answer"]) == (answer["message_id"], answer["answer"])
    assert round["retriever_resources"] == answer["metadata"]["retriever_resources"]
    assert (round["feedback"], round["inputs"], round["status"]) == (None, {}, "normal")


def test_rounds_and_conversations_come_page_by_page(service):
    first = said(service, user="pages")
    for _ in range(4):
        said(service, user="pages", conversation_id=first["conversation_id"])
    read = {"user": "pages", "conversation_id": first["conversation_id"], "limit": 2}
    whole = listed(service, "/v1/messages", **read | {"limit": 100})["data"]
    last = listed(service, "/v1/messages", **read)
    assert (last["has_more"], last["data"]) == (True, whole[3:])
    before = listed(service, "/v1/messages", first_id=last["data"][0]["id"], **read)
    assert (before["has_more"], before["data"]) == (True, whole[1:3])
    assert listed(service, "/v1/messages", first_id=whole[1]["id"], **read)["has_more"] is False
    newest = [said(service, user="pages")["conversation_id"] for _ in range(2)][::-1]
    some = listed(service, "/v1/conversations", user="pages", limit=2)
    assert ([one["id"] for one in some["data"]], some["has_more"]) == (newest, True)
    rest = listed(service, "/v1/conversations", user="pages", limit=2, last_id=newest[-1])
    assert ([one["id"] for one in rest["data"]], rest["has_more"]) == ([first["conversation_id"]], False)
    oldest = listed(service, "/v1/conversations", user="pages", sort_by="created_at", limit=1)
    assert oldest["data"] == rest["data"]


def test_a_conversation_is_named_after_its_first_question_and_can_be_renamed_and_forgotten(service):
    id = said(service, "  年假\n有几天？", user="names", inputs={"name": "小张"})["conversation_id"]
    (one,) = listed(service, "/v1/conversations", user="names")["data"]
    assert (one["id"], one["name"], one["inputs"], one["status"]) == (id, "年假 有几天？", {"name": "小张"}, "normal")
    renamed = service.post(f"/v1/conversations/{id}/name", {"name": "假期", "user": "names"})
    assert renamed.json()["name"] == "假期"
    assert (
        service.post(f"/v1/conversations/{id}/name", {"auto_generate": True, "user": "names"}).json()["name"]
        == one["name"]
    )
    assert "name" in dify_error(service.post(f"/v1/conversations/{id}/name", {"user": "names"}), 400, "invalid_param")
    forgotten = service.http.request("DELETE", f"/v1/conversations/{id}", json={"user": "names"})
    assert forgotten.json() == {"result": "success"}
    assert listed(service, "/v1/conversations", user="names")["data"] == []
    dify_error(send(service, LATER, user="names", conversation_id=id), 404, "not_found")


def test_any_text_is_kept(service):
    odd = b'{"query": "\\ud800<script>\\u0000", "user": "odd\\udc00", "inputs": {"a\\ud800": ["\\udfff"]}}'
    answer = service.post("/v1/chat-messages", odd)
    assert answer.status_code == 200, answer.text
    (one,) = listed(service, "/v1/conversations", user="odd\ufffd")["data"]
    assert one["inputs"] == {"a?": ["?"]}
    (round,) = listed(service, "/v1/messages", user="odd\ufffd", conversation_id=one["id"])["data"]
    assert round["query"] == "\ufffd<script>\0"


def everything_of(running, id, message, user):
    """Each way to a conversation, as somebody may try it."""
    yield send(running, LATER, user=user, conversation_id=id)
    yield send(running, LATER, user=user, conversation_id=id, response_mode="streaming")
    yield running.http.get("/v1/messages", params={"user": user, "conversation_id": id})
    yield running.http.get("/v1/conversations", params={"user": user, "last_id": id})
    yield running.post(f"/v1/conversations/{id}/name", {"name": "x", "user": user})
    yield running.http.request("DELETE", f"/v1/conversations/{id}", json={"user": user})
    yield running.post(f"/v1/messages/{message}/feedbacks", {"rating": "like", "user": user})


def test_a_conversation_is_found_by_its_user_and_key_alone(keyed):
    _, key = keyed
    mine, foreign = key("app", "default"), key("另一个", "default")
    first = said(mine)
    id, message = first["conversation_id"], first["message_id"]
    ways = [(mine, id, message, "somebody else"), (foreign, id, message, USER), (mine, str(uuid.uuid4()), "nix", USER)]
    for running, tried, which, user in ways:
        for response in everything_of(running, tried, which, user):
            dify_error(response, 404, "not_found")
        assert listed(running, "/v1/conversations", user="somebody else")["data"] == []
    assert listed(foreign, "/v1/conversations")["data"] == []
    assert len(listed(mine, "/v1/messages", conversation_id=id)["data"]) == 1


def test_an_app_is_the_base_that_its_key_opens_or_that_is_named(keyed):
    _, key = keyed
    cars = "公车由谁调度？"
    one, two, every = key("one", "制度"), key("two", "制度", "default"), key("every")
    assert "行政部" in said(one, cars)["answer"]
    assert one.http.get("/v1/info").json()["name"] == "制度"
    assert said(two)["metadata"]["retriever_resources"][0]["dataset_name"] == "default", (
        "the one that config.yaml names"
    )
    assert "行政部" in said(every, cars, inputs={"kb": "制度"})["answer"]
    assert "does not open" in dify_error(send(one, inputs={"kb": "default"}), 403, "forbidden")
    assert "no knowledge base" in dify_error(send(every, inputs={"kb": "nix"}), 404, "app_unavailable")
    other = key("other two", "制度", "nix")
    assert "inputs.kb" in dify_error(send(other), 403, "forbidden")
    id = said(every, cars, inputs={"kb": "制度"})["conversation_id"]
    assert "行政部" in said(every, "那公车呢？", conversation_id=id)["answer"], "it stays with its base"
    assert "begin a new one" in dify_error(
        send(every, conversation_id=id, inputs={"kb": "default"}), 400, "invalid_param"
    )


def test_a_key_that_no_longer_opens_the_base_does_not_go_on_with_the_conversation(keyed):
    running, key = keyed
    id = said(key("app"), inputs={"kb": "制度"})["conversation_id"]
    running.service.keys.revoke("app")
    assert "does not open" in dify_error(send(key("app", "default"), conversation_id=id), 403, "forbidden")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 50_000, ""),
        ({}, "query"),
        ({"query": "x"}, "user"),
        ({"query": "x", "user": ""}, "user"),
        ({"query": " ", "user": "u"}, "empty"),
        ({"query": "长" * 5000, "user": "u"}, "at most"),
        ({"query": "x", "user": "u", "response_mode": "telepathic"}, "response_mode"),
        ({"query": "x", "user": "u", "inputs": {"a": "长" * 20_000}}, "inputs"),
        ({"query": "x", "user": "u", "files": [{"type": "image"}]}, "files"),
        ({"query": "x", "user": "u", "conversation_id": "x" * 65}, "conversation_id"),
    ],
)
def test_a_message_that_cannot_be_answered_says_why(service, body, message):
    assert message in dify_error(service.post("/v1/chat-messages", body), 400, "invalid_param")


@pytest.mark.parametrize(
    "params", [{"limit": 0}, {"limit": 10**9}, {"user": ""}, {"sort_by": "name"}, {"last_id": "x" * 65}]
)
def test_a_list_that_cannot_be_given_says_why(service, params):
    response = service.http.get("/v1/conversations", params={"user": USER} | params)
    assert next(iter(params)) in dify_error(response, 400, "invalid_param")


def test_questions_that_were_refused_leave_no_conversation(service):
    for query in (" ", "长" * 5000):
        dify_error(send(service, query, user="nobody"), 400, "invalid_param")
    dify_error(send(service, user="nobody", inputs={"kb": "nix"}), 404, "app_unavailable")
    assert listed(service, "/v1/conversations", user="nobody")["data"] == []


def test_without_a_key_where_one_is_needed_the_error_is_difys(keyed):
    running, _ = keyed
    assert "key" in dify_error(send(running), 401, "unauthorized")


def test_thumbs_are_kept_as_feedback(home):
    with serving(home) as running:
        answer = said(running)
        where = f"/v1/messages/{answer['message_id']}/feedbacks"

        def rate(rating, **fields):
            assert running.post(where, {"rating": rating, "user": USER, **fields}).json() == {"result": "success"}
            (round,) = listed(running, "/v1/messages", conversation_id=answer["conversation_id"])["data"]
            return round["feedback"], [json.loads(line) for line in kept().splitlines()]

        def kept():
            return running.http.get("/api/v1/kb/default/feedback").text

        rating, (line,) = rate("dislike", content="过时了")
        assert rating == {"rating": "dislike"}
        assert (line["rating"], line["comment"], line["user"], line["question"]) == ("down", "过时了", USER, LEAVE)
        assert (line["answer"], line["source"]) == ([answer["answer"].removesuffix("[1]")], ["员工手册.md"])
        rating, (line,) = rate("like")
        assert (rating, line["rating"]) == ({"rating": "like"}, "up")
        assert rate(None) == (None, [])


def test_what_clients_ask_for_at_the_start_is_answered(service):
    assert service.http.get("/v1/parameters", params={"user": USER}).json()["retriever_resource"] == {"enabled": True}
    assert service.http.get("/v1/info").json()["mode"] == "chat"
    assert service.http.get("/v1/meta").json() == {"tool_icons": {}}


# --- answers that take long ------------------------------------------------------------------------------------------


def events_while(running, **fields):
    """The events of a stream as they come."""
    body = {"query": LEAVE, "user": USER, "response_mode": "streaming", **fields}
    with running.http.stream("POST", "/v1/chat-messages", json=body) as response:
        for line in response.iter_lines():
            if line:
                yield json.loads(line[6:]) if line.startswith("data: ") else line


def stop(running, task, user=USER):
    assert running.post(f"/v1/chat-messages/{task}/stop", {"user": user}).json() == {"result": "success"}


def test_an_answer_can_be_stopped_and_what_was_said_of_it_is_kept(slow):
    running, model = slow
    coming = events_while(running)
    first = next(event for event in coming if "ping" not in event and event["answer"])
    stop(running, first["task_id"], "somebody else")
    stop(running, "nix")
    assert not model.stopped.is_set()
    stop(running, first["task_id"])
    *_, end = coming
    assert model.stopped.is_set()
    assert end["event"] == "message_end"
    assert [source["position"] for source in end["metadata"]["retriever_resources"]] == [1]
    assert end["metadata"]["usage"]["total_tokens"] == 10
    (round,) = listed(running, "/v1/messages", conversation_id=first["conversation_id"])["data"]
    assert round["answer"] == first["answer"] == "工作满一年的员工每年享有10天年假。[1]"
    stop(running, first["task_id"])


def test_an_answer_is_stopped_by_whichever_of_several_processes_is_asked(home, tmp_path, monkeypatch):
    monkeypatch.setenv(SHARED, str(tmp_path))
    with serving(home, model := Slow()) as writing, serving(home) as other:
        coming = events_while(writing)
        first = next(event for event in coming if "ping" not in event and event["answer"])
        stop(other, first["task_id"], "somebody else")
        stop(other, "nix" * 1000)
        time.sleep(2 * tasks.LOOK)
        assert not model.stopped.is_set()
        stop(other, first["task_id"])
        *_, end = coming
        assert model.stopped.is_set()
        assert end["event"] == "message_end"
        (round,) = listed(other, "/v1/messages", conversation_id=first["conversation_id"])["data"]
        assert round["answer"] == first["answer"]
        wait_until(lambda: writing.service.tasks._looking is None)  # nobody looks where nothing is written


def test_an_answer_that_is_stopped_before_its_turn_is_none(service):
    """Whoever has stopped it before anything was said has nothing to be kept."""
    kept = service.service.conversations
    answering = Answering(kept, Conversation("default", "local", "queued", "?"), LEAVE)
    answering.stop()
    cancellation = Cancellation()

    def parts():
        cancellation.check()
        yield Piece("too late")

    (answer,) = answering.keep(parts(), cancellation)
    assert (answer.text, answer.citations) == ("", ())
    assert kept.all("local", "queued", 9) == []


def test_a_whole_answer_has_the_tokens_of_the_model(slow):
    running, model = slow
    model.go_on.set()
    answer = said(running)
    assert answer["answer"].count("。[") == 2
    usage = answer["metadata"]["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 5, 12)


def test_a_silent_model_sends_pings(slow, monkeypatch):
    monkeypatch.setattr(stream, "PULSE", 0.1)
    running, model = slow
    coming = events_while(running)
    assert "event: ping" in coming
    model.go_on.set()
    *_, end = coming
    assert end["event"] == "message_end"


def test_a_client_that_goes_stops_the_model_and_leaves_no_round(slow):
    running, model = slow
    coming = events_while(running)
    id = next(coming)["conversation_id"]
    coming.close()
    wait_until(model.stopped.is_set)
    assert listed(running, "/v1/messages", conversation_id=id)["data"] == []


class Failing:
    name = "failing"

    def stream(self, request):
        yield Piece("工作满一年的员工每年享有10天年假。")
        raise ZeroDivisionError("secret detail")


def test_a_model_that_breaks_off_ends_the_stream_with_an_error(home):
    with serving(home, Failing()) as running:
        *_, end = told(running)
        assert (end["event"], end["status"], end["code"]) == ("error", 500, "internal_server_error")
        assert "secret" not in json.dumps(end)
        again = send(running)
        assert dify_error(again, 500, "internal_server_error")
        assert said_before(running, end["conversation_id"]) == []


def said_before(running, id):
    return listed(running, "/v1/messages", conversation_id=id)["data"]


def test_a_registry_that_cannot_be_used_is_one_clear_error(home):
    with serving(home) as running:
        running.service.database.close()
        assert f"{FILE} was closed" in dify_error(send(running), 503, "registry_error")
