"""kbqa as users and their scripts call it: what it prints, in which fields, with which exit code."""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import tomllib
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Event

import httpx
import hubkit
import pytest
from chatserver import answer as says
from chatserver import delta, encoded, endless, refusal
from click.testing import CliRunner

from kbqa.checks import EXTRAS, gpu_finding
from kbqa.cli import kbqa
from kbqa.cli.screen import quoted, shown
from kbqa.registry import FILE, Database, Feedback, FeedbackLog
from kbqa.types import REFUSAL

HANDBOOK = """# 员工手册

## 第三章 休假

### 年假

工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。年假须提前三个工作日申请。

### 病假

病假须提交医院证明，病假期间工资按百分之八十发放。

## 第四章 报销

出差回来后应在十五个工作日内提交报销单，逾期不予报销。
"""
PRICES = "产品,型号,价格\n智能网关,X200,3980元\n温度传感器,T10,129元\n"
SEARCH_HIT = {"rank", "score", "source", "page", "heading", "span", "text"}
CITATION = {"marker", "source", "page", "heading", "quote", "span"}
posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals, terminals or file names")


class Shell:
    """kbqa in one home folder, within this process."""

    def __init__(self, home):
        self.home = home

    def __call__(self, *arguments, typed=None, code=0):
        result = CliRunner().invoke(kbqa, ["--home", str(self.home), *map(str, arguments)], input=typed)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    def json(self, *arguments, **settings):
        """The objects that --json prints."""
        printed = self(*arguments, "--json", **settings).stdout
        return [json.loads(line) for line in printed.splitlines()]

    def put(self, name, text, kb="default"):
        path = self.home / "knowledge" / kb / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path


@pytest.fixture
def shell(tmp_path, monkeypatch):
    """An empty home, as `kbqa init` makes it."""
    monkeypatch.delenv("KBQA_HOME", raising=False)
    monkeypatch.setenv("KBQA_KNOWLEDGE__WORKERS", "1")  # a second one takes longer to start than small files to read
    monkeypatch.chdir(tmp_path)
    made = Shell(tmp_path)
    made("init")
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A home with a base that has been taken in. Not to be changed."""
    made = Shell(tmp_path_factory.mktemp("built"))
    made("init")
    made.put("员工手册.md", HANDBOOK)
    made.put("价目表.csv", PRICES)
    made.put("坏的.pdf", b"%PDF-1.7 nothing more")
    made("ingest", code=3)
    return made


# --- setting up ------------------------------------------------------------------------------------------------------


def test_init_makes_the_folders_and_never_overwrites(tmp_path):
    shell = Shell(tmp_path)
    home = tmp_path / "新的 家"
    (made,) = shell.json("init", home)
    assert made == {
        "home": str(home.resolve()),
        "made": [
            "knowledge/default/",
            "vectorstore/",
            "config.yaml",
            "knowledge/default.synonyms.txt",
            "vectorstore/.gitignore",
        ],
    }
    (home / "config.yaml").write_text("retrieval: {k: 3}\n", encoding="utf-8")
    assert shell.json("init", home)[0]["made"] == []
    assert (home / "config.yaml").read_text(encoding="utf-8") == "retrieval: {k: 3}\n"


def test_the_example_of_synonyms_is_all_comments_until_it_is_filled_in(shell):
    shell.put("员工手册.md", HANDBOOK)
    (summary,) = [line["summary"] for line in shell.json("ingest") if "summary" in line]
    assert (summary["added"], summary["skipped"]) == (1, 0), "it is no document"
    assert not shell.json("ask", "带薪假有几天？")[0]["grounded"]
    example = shell.home / "knowledge" / "default.synonyms.txt"
    example.write_text(example.read_text(encoding="utf-8").replace("# 年假, ", "年假, "), encoding="utf-8")
    (answer,) = shell.json("ask", "带薪假有几天？")
    assert (answer["question"], answer["grounded"]) == ("带薪假有几天？", True)
    assert "10" in answer["answer"] or "十" in answer["answer"]


def test_a_bad_line_of_synonyms_stops_questions_and_nothing_else(shell):
    shell.put("员工手册.md", HANDBOOK)
    bad = shell.home / "knowledge" / "default.synonyms.txt"
    bad.write_text("年假, 年休假\n带薪假\n", encoding="utf-8")
    shell("ingest")
    shell("kb", "list")
    assert f"{bad}, line 2: '带薪假' is one name" in shell("ask", "年假有几天？", code=1).stderr
    assert "synonyms of default" in shell("doctor", code=1).stdout


def test_init_says_what_to_do_next(tmp_path):
    printed = Shell(tmp_path)("init", tmp_path / "x").stdout
    assert "ingest" in printed
    assert "ask" in printed


def test_init_leaves_no_half_written_file(tmp_path, no_file_grows):
    with no_file_grows(1000):
        assert "config.yaml" in Shell(tmp_path)("init", code=1).stderr
    assert not (tmp_path / "config.yaml").exists()
    Shell(tmp_path)("init")
    assert (tmp_path / "config.yaml").stat().st_size > 1000


def test_init_refuses_a_file(tmp_path):
    (tmp_path / "x").touch()
    assert "is a file" in Shell(tmp_path)("init", tmp_path / "x", code=1).stderr


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_completion_prints_a_script(shell, name):
    (told,) = shell.json("completion", name)
    assert set(told) == {"shell", "script", "place"}
    assert "_KBQA_COMPLETE" in told["script"]


# --- taking in -------------------------------------------------------------------------------------------------------


def test_ingest_reports_every_file_and_then_the_sum(shell):
    shell.put("员工手册.md", HANDBOOK)
    shell.put("子目录/价目表.csv", PRICES)
    *reported, summary = shell.json("ingest")
    assert [set(file) for file in reported] == [
        {"source", "status", "reader", "chunks", "pages", "error", "error_kind", "seconds"}
    ] * 2
    assert {file["source"]: file["status"] for file in reported} == {
        "员工手册.md": "added",
        "子目录/价目表.csv": "added",
    }
    assert set(summary) == {"summary"}
    counts = summary["summary"]
    assert set(counts) == {"added", "updated", "unchanged", "removed", "failed", "skipped", "chunks", "seconds"}
    assert counts["added"] == 2
    assert counts["chunks"] == sum(file["chunks"] for file in reported) > 0


def test_ingest_mirrors_the_folder(shell):
    kept, changed, gone = (shell.put(f"{name}.txt", f"{name}的内容在这里。") for name in ("甲", "乙", "丙"))
    shell("ingest")
    changed.write_text("乙的内容变了很多。", encoding="utf-8")
    gone.unlink()
    *reported, _ = shell.json("ingest")
    assert {file["source"]: file["status"] for file in reported} == {
        kept.name: "unchanged", changed.name: "updated", gone.name: "removed",
    }  # fmt: skip


def test_ingest_exits_3_when_a_file_fails_and_takes_in_the_rest(shell):
    shell.put("好.md", HANDBOOK)
    shell.put("坏.docx", b"PK\x03\x04 not a document")
    *reported, summary = shell.json("ingest", code=3)
    by_source = {file["source"]: file for file in reported}
    assert by_source["好.md"]["status"] == "added"
    assert by_source["坏.docx"]["status"] == "failed"
    assert by_source["坏.docx"]["error"]
    assert summary["summary"]["failed"] == 1
    assert "10天" in shell("ask", "工作满一年的员工有几天年假？").stdout


def test_ingest_in_a_pipe_prints_a_line_a_file_and_nothing_for_terminals(shell):
    shell.put("好.md", HANDBOOK)
    printed = shell("ingest").stdout
    assert printed.splitlines()[0] == "added\t好.md"
    assert re.fullmatch(r"added 1  \(\d+ passages, [\d.]+ s\)", printed.splitlines()[-1])
    assert "\x1b" not in printed


def test_ingest_takes_single_paths_from_where_the_user_stands_and_from_the_base(shell, monkeypatch):
    shell.put("甲.txt", "甲的内容在这里。")
    shell.put("乙.txt", "乙的内容在这里。")
    shell("ingest", "乙.txt")
    monkeypatch.chdir(shell.home / "knowledge")
    shell("ingest", Path("default", "甲.txt"))
    (listed,) = shell.json("kb", "documents", "default")
    assert [document["source"] for document in listed["documents"]] == ["乙.txt", "甲.txt"]


def test_ingest_of_an_empty_folder_says_where_documents_go(shell):
    (shell.home / "knowledge" / "新库").mkdir(parents=True)
    done = shell("ingest", "--kb", "新库")
    assert "nothing to take in" in done.stdout
    assert "no documents in 新库 yet: `kbqa ingest --kb 新库`" in shell("ask", "年假有几天？", "--kb", "新库").stdout
    assert done.stderr == f"put documents into {shell.home / 'knowledge' / '新库'}\n"


def test_ingest_refuses_what_lies_elsewhere_and_what_is_not_there(shell, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "外.txt"
    elsewhere.write_text("外面的内容", encoding="utf-8")
    assert "kbqa add" in shell("ingest", elsewhere, code=1).stderr
    assert "kbqa add" in shell("ingest", "..", code=1).stderr
    refused = shell("ingest", "没有.txt", code=1)
    assert (refused.stdout, refused.stderr) == ("", "kbqa: there is no file or folder 没有.txt\n")


def test_ingest_of_a_path_that_vanished_forgets_what_was_there(shell):
    there = shell.put("部门/甲.txt", "甲的内容在这里。")
    shell("ingest")
    there.unlink()
    there.parent.rmdir()
    assert shell.json("ingest", "部门")[0]["status"] == "removed"
    assert "no file or folder 部门" in shell("ingest", "部门", code=1).stderr


def test_rebuild_takes_everything_in_again(shell):
    shell.put("甲.txt", "甲的内容在这里。")
    shell("ingest")
    shell.put("config", "", kb=".")
    (shell.home / "config.yaml").write_text("splitter: {size: 120, overlap: 20}", encoding="utf-8")
    assert "--rebuild" in shell("ingest", code=1).stderr
    *reported, _ = shell.json("ingest", "--rebuild")
    assert [file["status"] for file in reported] == ["added"]


def test_add_copies_and_takes_in(shell, tmp_path_factory):
    original = tmp_path_factory.mktemp("elsewhere") / "制度 一.txt"
    original.write_text("迟到三次扣一天年假。", encoding="utf-8")
    *reported, _ = shell.json("add", original, "--kb", "人事 部")
    assert [(file["source"], file["status"]) for file in reported] == [("制度 一.txt", "added")]
    assert (shell.home / "knowledge" / "人事 部" / "制度 一.txt").read_bytes() == original.read_bytes()
    original.write_text("迟到五次扣一天年假。", encoding="utf-8")
    assert "--replace" in shell("add", original, "--kb", "人事 部", code=1).stderr
    *reported, _ = shell.json("add", original, "--kb", "人事 部", "--replace")
    assert [file["status"] for file in reported] == ["updated"]


@posix
def test_add_says_where_the_files_are_when_the_base_cannot_take_them(shell, tmp_path_factory):
    shell.put("手册.md", HANDBOOK)
    shell("ingest")
    (shell.home / "config.yaml").write_text("splitter: {size: 120, overlap: 20}", encoding="utf-8")
    new = tmp_path_factory.mktemp("elsewhere") / "新.txt"
    new.write_text("新的规定。", encoding="utf-8")
    told = shell("add", new, "--kb", "default", code=1).stderr
    assert "knowledge/default now, but not taken in yet" in told
    assert "--rebuild" in told
    assert (shell.home / "knowledge" / "default" / "新.txt").is_file()


def test_names_that_could_play_with_a_terminal_are_spelled_out(shell):
    shell.put("坏\n名\x1b]0;x\x07.txt", "一些内容在这里。")
    printed = shell("ingest").stdout
    assert "坏\\n名\\x1b]0;x\\x07.txt" in printed
    assert "\x1b" not in printed


# --- asking ----------------------------------------------------------------------------------------------------------


def test_search_has_the_promised_fields(built):
    (found,) = built.json("search", "满十年的员工有几天年假？", "-k", 2)
    assert set(found) == {"question", "confidence", "hits"}
    assert found["question"] == "满十年的员工有几天年假？"
    assert 0 <= found["confidence"] <= 1
    assert [hit["rank"] for hit in found["hits"]] == [1, 2]
    assert {frozenset(hit) for hit in found["hits"]} == {frozenset(SEARCH_HIT)}
    best = found["hits"][0]
    assert best["source"] == "员工手册.md"
    assert "15天年假" in best["text"]
    assert isinstance(best["heading"], str)
    start, end = best["span"]
    assert end - start == len(best["text"])


def test_search_prints_the_passages(built):
    printed = built("search", "X200的价格").stdout
    assert printed.startswith("1. 价目表.csv")
    assert "3980元" in printed


def test_ask_has_the_promised_fields(built):
    (answer,) = built.json("ask", "满十年的员工有几天年假？")
    assert set(answer) == {"question", "answer", "grounded", "confidence", "citations", "sentences", "seconds"}
    assert answer["sentences"] == [{"text": answer["answer"], "verdict": "supported", "markers": [1]}]
    assert answer["grounded"] is True
    assert "15天" in answer["answer"]
    (citation, *_) = answer["citations"]
    assert set(citation) == CITATION
    assert (citation["marker"], citation["source"], citation["page"]) == (1, "员工手册.md", None)
    assert "第三章 休假" in citation["heading"]
    (document,) = built.json("read", built.home / "knowledge" / "default" / "员工手册.md")
    start, end = citation["span"]
    assert document["text"][start:end] == citation["quote"]


def test_ask_prints_the_answer_and_where_it_stands(built):
    answer, _, sources = built("ask", "满十年的员工有几天年假？").stdout.partition("\n\n")
    assert "15天" in answer
    assert re.match(r"\[1\] 员工手册\.md · .*第三章 休假 > 年假 「.*15天.*」", sources)


def test_ask_says_when_the_documents_do_not_tell(built):
    question = "火星移民计划的预算是多少？"
    printed = built("ask", question).stdout
    assert printed.startswith(REFUSAL)
    assert "do not tell" in printed
    (answer,) = built.json("ask", question)
    assert (answer["grounded"], answer["citations"], answer["answer"]) == (False, [], REFUSAL)


MADE_UP = "满十年的员工每年享有15天年假。满一年的员工每年享有15天年假。"


@pytest.fixture
def inventive(built, tmp_path):
    """The home `built`, with a model that makes half of its answer up."""
    pytest.importorskip("langchain_core", reason="LangChain is not installed: pip install 'kbqa[langchain]'")
    home = tmp_path / "inventive"
    shutil.copytree(built.home, home)
    model = {"kind": "langchain", "import_path": "langchain_core.language_models.FakeListChatModel"}
    settings = {"generator": {**model, "options": {"responses": [MADE_UP]}}}
    (home / "config.yaml").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    return Shell(home)


def test_ask_says_which_sentences_the_documents_do_not_bear_out(inventive):
    (answer,) = inventive.json("ask", "满十年的员工有几天年假？")
    assert answer["answer"] == MADE_UP
    assert [(s["text"], s["verdict"], s["markers"]) for s in answer["sentences"]] == [
        ("满十年的员工每年享有15天年假。", "supported", [1]),
        ("满一年的员工每年享有15天年假。", "not", []),
    ]


def test_in_a_pipe_the_answer_stays_as_it_is_and_the_doubts_come_behind_the_sources(inventive):
    lines = inventive("ask", "满十年的员工有几天年假？").stdout.splitlines()
    assert lines[0] == MADE_UP
    assert lines[-1] == "[未证实] 「满一年的员工每年享有15天年假。」"


def written_by(built, home, **generator):
    """The home `built` with another generator."""
    shutil.copytree(built.home, home, dirs_exist_ok=True)
    (home / "config.yaml").write_text(json.dumps({"generator": generator}, ensure_ascii=False), encoding="utf-8")
    return Shell(home)


@pytest.fixture
def served(built, chat_server, tmp_path):
    """The home `built`, with a server that makes half of its answer up."""
    chat_server.usual = says(MADE_UP)
    return written_by(built, tmp_path / "served", kind="openai", base_url=chat_server.url, model="glm")


@pytest.fixture
def modelled(built, tmp_path):
    """The home `built`, with a model folder that makes half of its answer up."""
    pytest.importorskip("transformers", reason="transformers is not installed: pip install 'kbqa[transformers]'")
    from modelkit import make_parrot

    make_parrot(tmp_path / "modelled" / "models" / "parrot", MADE_UP)
    return written_by(built, tmp_path / "modelled", kind="transformers", model="models/parrot", device="cpu")


@pytest.mark.parametrize("home", ["served", "modelled"])
def test_whoever_writes_an_answer_it_is_checked_and_cited(home, request):
    lines = request.getfixturevalue(home)("ask", "满十年的员工有几天年假？").stdout.splitlines()
    assert lines[0] == MADE_UP
    assert lines[2].startswith("[1] 员工手册.md · 员工手册 > 第三章 休假 > 年假 「")
    assert "满十年的员工每年享有15天年假" in lines[2]
    assert lines[-1] == "[未证实] 「满一年的员工每年享有15天年假。」"


@pytest.mark.parametrize("home", ["served", "modelled"])
def test_in_a_conversation_a_model_sees_what_was_said(home, request, chat_server):
    shell = request.getfixturevalue(home)
    first, second = shell.json("chat", typed="满十年的员工有几天年假？\n病假期间工资怎么发？\n")
    assert first["answer"] == second["answer"] == MADE_UP
    if home == "served":
        *history, last = chat_server.seen[-1]["messages"]
        assert history == [
            {"role": "user", "content": "满十年的员工有几天年假？"},
            {"role": "assistant", "content": MADE_UP},
        ]
        assert last["content"].startswith("已知信息:\n")
        assert last["content"].endswith("\n根据已知信息回答问题:\n病假期间工资怎么发？")


def test_a_server_is_not_asked_when_the_documents_do_not_tell(served, chat_server):
    (answer,) = served.json("ask", "公司的注册资本是多少？")
    assert (answer["grounded"], answer["answer"], answer["citations"]) == (False, REFUSAL, [])
    assert chat_server.seen == []


def test_a_refusal_of_a_model_is_one_whatever_was_found(served, chat_server):
    chat_server.usual = says("抱歉，根据提供的内容无法回答这个问题。")
    (answer,) = served.json("ask", "年假有几天？")
    assert (answer["grounded"], answer["citations"]) == (False, [])


def test_bare_chat_talks_to_the_model_itself(served, chat_server):
    """No documents, no prompt around the question, and the options as they are given."""
    options = ("--system", "说中文。", "--temperature", "0", "--top-p", "0.5", "--max-tokens", "9")
    first, second = served.json("chat", "--bare", *options, typed="你好\n\n再见\n/exit\n没人听\n")
    assert (first["question"], first["answer"], first["finish"]) == ("你好", MADE_UP, "stop")
    seen = chat_server.seen[-1]
    assert [message["content"] for message in seen["messages"]] == ["说中文。", "你好", MADE_UP, "再见"]
    assert (seen["temperature"], seen["top_p"], seen["max_tokens"]) == (0, 0.5, 9)
    assert second["question"] == "再见"


def test_bare_chat_shows_the_answer_and_forgets_on_request(served, chat_server):
    said = served("chat", "--bare", typed="你好\n/clear\n/sources\n再见\n")
    assert said.stdout.count(MADE_UP) == 2
    assert "there is no command /sources" in said.stderr
    assert [message["content"] for message in chat_server.seen[-1]["messages"]] == ["再见"]


def test_bare_chat_needs_a_model_and_takes_no_base(built, served):
    assert "there is no model to talk to" in built("chat", "--bare", typed="你好\n", code=1).stderr
    assert "--bare" in served("chat", "--bare", "--kb", "默认", typed="", code=2).stderr
    assert "--top-p is for --bare" in served("chat", "--top-p", "0.5", typed="", code=2).stderr


def test_a_conversation_goes_on_after_a_server_was_busy(served, chat_server):
    chat_server.script = [refusal(503, {"error": {"message": "排队中"}})]
    result = served("chat", typed="年假有几天？\n满十年的员工有几天年假？\n", code=1)
    assert f"kbqa: {chat_server.url}/chat/completions is busy (503 排队中)" in result.stderr
    assert MADE_UP in result.stdout


@posix
def test_on_a_terminal_a_sentence_is_marked_where_it_stands(inventive):
    printed, _ = on_a_terminal(inventive.home, "ask", "满十年的员工有几天年假？")
    assert "满一年的员工每年享有15天年假。[未证实]" in re.sub(r"\x1b\[[0-9;]*m", "", printed)
    assert "满十年的员工每年享有15天年假。[未证实]" not in re.sub(r"\x1b\[[0-9;]*m", "", printed)
    assert "do not bear this out" in printed


def test_ask_tells_its_confidence_only_when_asked_to(built):
    assert "confidence" not in built("ask", "年假有几天？").stdout
    assert "confidence" in built("ask", "年假有几天？", "-v").stdout


def test_chat_reads_questions_from_a_pipe(built):
    typed = """工作满一年的员工每年享有几天年假？

/sources
/nonsense
/help
/clear
/sources
火星移民计划的预算是多少？
/exit
没人问的问题
"""
    result = built("chat", typed=typed)
    answer, rest = result.stdout.split("\n", 1)
    assert "10天" in answer
    assert rest.count("[1] 员工手册.md") == 2  # below the answer, and with /sources
    assert "「工作满一年的员工" in rest
    assert REFUSAL in rest
    assert "没人问" not in result.stdout
    assert "no command /nonsense" in result.stderr
    assert "nothing to show" in result.stderr


def test_chat_understands_what_a_question_leaves_unsaid(built):
    first, second = built.json("chat", typed="病假期间的工资怎么发放？\n它须提交什么？\n")
    assert "百分之八十" in first["answer"]
    assert "医院证明" in second["answer"]
    assert REFUSAL in built("ask", "它须提交什么？").stdout


def test_chat_goes_on_after_a_question_that_cannot_be_asked(built):
    asked = built.json("chat", typed="问" * 5000 + "\n满十年的员工有几天年假？\n", code=1)
    assert asked[0]["error"]["type"] == "QuestionError"
    assert "15天" in asked[1]["answer"]


def test_read_shows_what_ingestion_would_see(built):
    path = built.home / "knowledge" / "default" / "价目表.csv"
    (document,) = built.json("read", path)
    assert set(document) == {"source", "reader", "title", "pages", "tables", "text", "warnings"}
    assert (document["source"], document["reader"], document["tables"]) == ("价目表.csv", "csv", 1)
    assert "X200" in document["text"]
    assert document["text"] in built("read", path).stdout


# --- bases -----------------------------------------------------------------------------------------------------------


def test_list_shows_bases_built_and_not_built(shell):
    shell.put("甲.txt", "甲的内容在这里。")
    shell.put("乙.txt", "乙的内容在这里。", kb="部门 二")
    shell("ingest")
    (listed,) = shell.json("kb", "list")
    told = {base["name"]: (base["built"], base["documents"]) for base in listed["bases"]}
    assert told == {"default": (True, 1), "部门 二": (False, 0)}
    printed = shell("kb", "list").stdout
    assert printed.startswith("name\tdocuments\tfailed\tpassages\tsize\tnote\n")
    assert "default\t1\t0\t" in printed


def test_list_marks_a_damaged_base_and_shows_the_others(shell):
    shell.put("甲.txt", "甲的内容在这里。")
    shell.put("乙.txt", "乙的内容在这里。", kb="坏")
    shell("ingest")
    shell("ingest", "--kb", "坏")
    (shell.home / "vectorstore" / "坏" / "kb.sqlite").write_bytes(b"nonsense" * 1000)
    (listed,) = shell.json("kb", "list")
    good, bad = sorted(listed["bases"], key=lambda base: "error" in base)
    assert (good["name"], good["documents"]) == ("default", 1)
    assert (bad["name"], bad["built"], bad["documents"]) == ("坏", True, None)
    assert "is damaged" in bad["error"]
    assert bad["error_type"] == "KnowledgeBaseError"
    printed = shell("kb", "list").stdout
    assert "is damaged" in next(line for line in printed.splitlines() if line.startswith("坏\t"))


def test_list_marks_a_base_that_may_not_be_looked_into_and_shows_the_others(shell, monkeypatch):
    """Root may look everywhere, hence the stand-in."""
    shell.put("手册.md", HANDBOOK)
    shell.put("别的.md", HANDBOOK, kb="别的")
    shell("ingest")
    shell("ingest", "--kb", "别的")
    look = Path.stat

    def stat(path, **options):
        if path.parent.name == "default":
            raise PermissionError(13, "Permission denied", str(path))
        return look(path, **options)

    monkeypatch.setattr(Path, "stat", stat)
    shut, other = shell.json("kb", "list")[0]["bases"]
    assert "cannot be opened; give this user the right" in shut["error"]
    assert other["documents"] == 1
    assert "give this user the right" in shell("ask", "年假", code=1).stderr


def test_show_tells_what_a_base_was_built_with(built):
    (told,) = built.json("kb", "show", "default")
    assert {"name", "documents", "failed", "chunks", "bytes", "knowledge", "vectorstore", "passport"} <= set(told)
    assert (told["documents"], told["failed"]) == (2, 1)
    assert told["passport"]["dim"] > 0
    assert "documents:" in built("kb", "show", "default").stdout


def test_documents_lists_them_with_the_reason_of_failure(built):
    (listed,) = built.json("kb", "documents", "default")
    told = {document["source"]: document for document in listed["documents"]}
    assert {source: document["status"] for source, document in told.items()} == {
        "员工手册.md": "indexed", "价目表.csv": "indexed", "坏的.pdf": "failed",
    }  # fmt: skip
    assert told["坏的.pdf"]["error"]
    assert built("kb", "documents", "default").stdout.startswith("failed\t坏的.pdf\t")


def test_backup_delete_and_restore(shell, tmp_path):
    document = shell.put("员工手册.md", HANDBOOK)
    shell("ingest")
    (told,) = shell.json("kb", "backup", "default", tmp_path / "备份.zip")
    assert told["bytes"] == (tmp_path / "备份.zip").stat().st_size
    assert "--yes" in shell("kb", "delete", "default", code=1).stderr
    assert "stay" in shell("kb", "delete", "default", "--yes").stdout
    assert document.exists()
    assert not (shell.home / "vectorstore" / "default").exists()
    assert "kbqa ingest" in shell("ask", "年假有几天？", code=1).stderr
    assert shell.json("kb", "restore", tmp_path / "备份.zip", "--kb", "另一个")[0]["documents"] == 1
    assert shell.json("kb", "restore", tmp_path / "备份.zip", "--kb", "default")[0]["documents"] == 1
    assert "15天" in shell("ask", "满十年的员工有几天年假？").stdout
    assert "exists already" in shell("kb", "restore", tmp_path / "备份.zip", "--kb", "default", code=1).stderr
    assert shell.json("kb", "restore", tmp_path / "备份.zip", "--replace")[0]["name"] == "default"


@posix
def test_a_base_that_is_a_link_to_another_disk_is_deleted_there_too(shell, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    (shell.home / "vectorstore" / "default").symlink_to(disk / "default", target_is_directory=True)
    (disk / "default").mkdir()
    shell.put("手册.md", HANDBOOK)
    shell("ingest")
    shell("kb", "delete", "default", "--yes")
    assert list(disk.iterdir()) == []
    assert not (shell.home / "vectorstore" / "default").is_symlink()


def test_list_names_a_folder_that_cannot_be_a_base_and_shows_the_others(shell):
    shell.put("手册.md", HANDBOOK)
    shell("ingest")
    shutil.copytree(shell.home / "vectorstore" / "default", shell.home / "vectorstore" / "default (copy)")
    copied, whole = sorted(shell.json("kb", "list")[0]["bases"], key=lambda base: base["name"], reverse=True)
    assert "cannot name a knowledge base" in copied["error"]
    assert whole["documents"] == 1


def test_verify_finds_and_mends_a_damaged_index(shell):
    shell.put("员工手册.md", HANDBOOK)
    shell("ingest")
    (told,) = shell.json("kb", "verify", "default")
    assert told == {"name": "default", "sound": True, "findings": []}
    index = shell.home / "vectorstore" / "default" / "index"
    for path in sorted(path for path in index.rglob("*") if path.is_file()):
        path.write_bytes(b"x" * path.stat().st_size)
    (told,) = shell.json("kb", "verify", "default")
    assert told["sound"] is True
    assert told["findings"]
    assert "15天" in shell("ask", "满十年的员工有几天年假？").stdout


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask", ""], "the question is empty"),
        (["ask", " \t\n"], "the question is empty"),
        (["ask", "问" * 35_000], "at most 4000"),
        (["search", ""], "the question is empty"),
        (["ask", "问", "--kb", "没有"], "there is no knowledge base 没有"),
        (["ask", "问", "--kb", ""], "name of the knowledge base is empty"),
        (["ask", "问", "--kb", "../default"], "cannot name a knowledge base"),
        (["ask", "问", "--kb", "/etc"], "cannot name a knowledge base"),
        (["ask", "问", "--kb", "😀"], "cannot name a knowledge base"),
        (["ask", "问", "--kb", "库" * 200], "cannot name a knowledge base"),
        (["ask", "问", "--kb", "一\n二"], "cannot name a knowledge base"),
        (["ingest", "--kb", "没有"], "there is no folder"),
        (["add", "没有.txt", "--kb", "default"], "there is no file"),
        (["add", "没有.txt", "--kb", "../x"], "cannot name a knowledge base"),
        (["ask", "问", "--kb", "两 个"], '`kbqa ingest --kb "两 个"`'),
        (["read", "没有.txt"], "there is no file"),
        (["read", ""], "a path is empty"),
        (["add", "", "--kb", "default"], "a path is empty"),
        (["ingest", ""], "a path is empty"),
        (["read", "."], "is not a file"),
        (["add", ".", "--kb", "default"], "is a folder"),
        (["ask", "问", "--kb", "CON"], "reserved"),
        (["kb", "delete", "没有"], "there is no knowledge base 没有"),
        (["kb", "delete", "没有", "--yes"], "there is no knowledge base 没有"),
        (["kb", "show", "没有"], "there is no knowledge base"),
        (["kb", "delete", "..", "--yes"], "cannot name a knowledge base"),
        (["kb", "verify", "没有"], "there is no knowledge base"),
        (["kb", "backup", "没有", "x.zip"], "there is no knowledge base"),
        (["kb", "restore", "没有.zip", "--kb", "新"], "没有.zip"),
        (["kb", "restore", "没有.zip"], "没有.zip does not exist"),
        (["kb", "restore", "."], "is no file; name a file that `kbqa kb backup` wrote"),
        (["kb", "backup", "default", "没有/备份.zip"], "there is no folder 没有"),
        (["kb", "import-langchain", "没有", "--kb", "新"], "没有"),
    ],
)
def test_bad_input_is_one_clear_line_and_the_same_as_json(built, arguments, words, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    result = built(*arguments, code=1)
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.startswith("kbqa: ")
    assert result.stderr.count("\n") == 1
    (told,) = built.json(*arguments, code=1)
    assert set(told) == {"error"}
    assert set(told["error"]) == {"type", "message"}
    assert words in told["error"]["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["ask"],
        ["ask", "问", "--nonsense"],
        ["search", "问", "-k", "0"],
        ["add", "x"],
        ["ingest", "--watch", "--rebuild"],
    ],
)
def test_wrong_usage_exits_2(built, arguments):
    assert "Usage:" in built(*arguments, code=2).stderr


def test_a_bad_setting_is_named(shell):
    (shell.home / "config.yaml").write_text("retrieval: {min_confidense: 0.5}", encoding="utf-8")
    assert "retrieval.min_confidense is not a setting" in shell("ask", "问", code=1).stderr
    assert "retrieval.min_confidense is not a setting" in shell("doctor", code=1).stdout


def test_a_home_that_is_not_there_is_an_error(tmp_path):
    assert "kbqa init" in Shell(tmp_path / "nowhere")("ask", "问", code=1).stderr
    (tmp_path / "文件").touch()
    assert "is a file, not a folder" in Shell(tmp_path / "文件")("ask", "问", code=1).stderr


@posix
@pytest.mark.parametrize("home", ["links/loop", "~没有这个人/kb"])
def test_a_home_that_leads_nowhere_is_an_error(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "loop").symlink_to("loop")
    for command in (["kb", "list"], ["init"]):
        assert "leads nowhere" in Shell(home)(*command, code=1).stderr


@posix
def test_a_base_that_is_a_link_to_itself_is_an_error(shell):
    (shell.home / "knowledge" / "圈").symlink_to("圈")
    assert "there is no folder" in shell("ingest", "--kb", "圈", code=1).stderr
    assert "leads nowhere" in shell("ingest", "甲.txt", "--kb", "圈", code=1).stderr


def test_without_a_knowledge_folder_one_is_asked_for(tmp_path):
    assert "there is no folder" in Shell(tmp_path)("ingest", code=1).stderr


def test_home_and_json_may_stand_before_or_behind_the_command(built, monkeypatch):
    first = CliRunner().invoke(kbqa, ["--json", "--home", str(built.home), "kb", "list"])
    last = CliRunner().invoke(kbqa, ["kb", "list", "--home", str(built.home), "--json"])
    monkeypatch.setenv("KBQA_HOME", str(built.home))
    from_environment = CliRunner().invoke(kbqa, ["kb", "--json", "list"])
    assert json.loads(first.stdout) == json.loads(last.stdout) == json.loads(from_environment.stdout)


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_doctor_names_what_is_wrong_and_what_mends_it(built):
    (told,) = built.json("doctor")
    assert set(told) == {"findings", "failed", "warned"}
    assert {frozenset(finding) for finding in told["findings"]} == {
        frozenset({"level", "subject", "detail", "remedy", "code", "values"})
    }
    assert all(finding["code"] for finding in told["findings"])
    by_subject = {finding["subject"]: finding for finding in told["findings"]}
    assert {"python", "sqlite", "faiss-cpu", "tantivy", "configuration", "disk", "embedder", "base default"} <= set(
        by_subject
    )
    assert by_subject["base default"]["level"] == "warn"
    assert by_subject["base default"]["remedy"] == "kbqa kb documents default"
    assert by_subject["base default"]["code"] == "base-failures"
    assert {"base": "default", "failed": 1}.items() <= by_subject["base default"]["values"].items()


def test_doctor_knows_every_extra_that_a_user_can_install():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"test", "dev"}


@pytest.mark.parametrize(
    ("capability", "built_for", "level"),
    [
        ((6, 0), ["sm_75", "sm_80", "sm_90", "compute_90"], "fail"),  # a Tesla P100 under a torch of today
        ((6, 0), ["sm_50", "sm_60", "sm_70"], "ok"),
        ((8, 6), ["sm_75", "sm_80"], "ok"),  # kernels run on later members of their generation
        ((8, 0), ["sm_86"], "fail"),  # and not on earlier ones
        ((12, 0), ["sm_90", "compute_90"], "ok"),  # translated
        ((12, 0), ["sm_80", "sm_90"], "fail"),
        ((9, 0), ["sm_90a"], "ok"),
        ((9, 4), ["gfx942"], "ok"),  # AMD's
    ],
)
def test_doctor_says_when_torch_has_no_kernels_for_the_gpu(capability, built_for, level):
    finding = gpu_finding("Tesla P100-PCIE-16GB", capability, built_for, "torch 2.13.0+cu130")
    assert finding.level == level
    if level == "fail":
        assert f"is sm_{capability[0]}{capability[1]}, for which torch 2.13.0+cu130 is not built" in finding.detail
        assert "generator.device: cpu" in finding.remedy


def test_doctor_fails_when_the_model_that_config_yaml_names_cannot_run(shell, monkeypatch):
    monkeypatch.setattr("kbqa.checks._distributions", lambda extra: ["torch", "sentencepiece"])
    monkeypatch.setattr("kbqa.checks._installed", lambda name: name != "sentencepiece")
    (shell.home / "config.yaml").write_text("generator: {kind: chatglm, model: models/none}", encoding="utf-8")
    by_subject = {finding["subject"]: finding for finding in shell.json("doctor", code=1)[0]["findings"]}
    assert by_subject["glm"]["level"] == "fail"
    assert by_subject["glm"]["detail"] == (
        "not installed: runs ChatGLM models (lacks sentencepiece), which config.yaml asks for"
    )
    assert by_subject["glm"]["remedy"] == "pip install 'kbqa[glm]'"
    assert by_subject["generator"]["level"] == "fail"


def test_doctor_fails_when_a_file_of_the_chatglm_is_missing(shell):
    pytest.importorskip("torch", reason="kbqa[glm] is not installed")
    from kbqa.chatglm.tiny import make_tiny

    make_tiny("chatglm3", shell.home / "models" / "小")
    (shell.home / "config.yaml").write_text("generator: {kind: chatglm, model: models/小}", encoding="utf-8")
    next((shell.home / "models" / "小").glob("*.bin")).unlink()
    by_subject = {finding["subject"]: finding for finding in shell.json("doctor", code=1)[0]["findings"]}
    assert by_subject["generator"]["level"] == "fail"
    assert "download them again" in by_subject["generator"]["detail"]


def test_doctor_tries_the_server_that_config_yaml_names(shell, chat_server, monkeypatch):
    chat_server.listed = refusal(200, {"object": "list", "data": [{"id": "glm"}, {"id": "embed"}]})

    def found(**generator) -> tuple[str, str]:
        settings = {"kind": "openai", "base_url": chat_server.url, "model": "glm"} | generator
        (shell.home / "config.yaml").write_text(json.dumps({"generator": settings}), encoding="utf-8")
        code = 1 if "base_url" in generator else 0
        by_subject = {finding["subject"]: finding for finding in shell.json("doctor", code=code)[0]["findings"]}
        return by_subject["generator"]["level"], by_subject["generator"]["detail"]

    assert found() == ("ok", f"openai:glm: {chat_server.url}/chat/completions answers, and has it")
    level, said = found(model="gpt")
    assert (level, "has no model of that name (glm, embed)" in said) == ("warn", True)
    level, said = found(base_url="http://127.0.0.1:9/v1")
    assert level == "fail"
    assert said.startswith("http://127.0.0.1:9/v1/models cannot be reached: ")


def test_settings_of_another_kind_are_told_and_stop_nothing(shell):
    shell.put("甲.txt", "年假有十天。")
    (shell.home / "config.yaml").write_text("generator: {quantize: 4, slots: 4}", encoding="utf-8")
    told = "generator.quantize is for kind chatglm; it does nothing with kind extractive"
    assert shell("ingest").stderr.strip() == f"kbqa: {told}"
    findings = [it for it in shell.json("doctor")[0]["findings"] if it["subject"] == "configuration"]
    assert [(it["level"], it["detail"]) for it in findings if it["level"] != "ok"] == [("warn", told)]


def test_doctor_tells_of_variables_that_nothing_reads(built, monkeypatch):
    monkeypatch.setenv("KBQA_RETRIEVAL_K", "3")
    monkeypatch.setenv("KBQA_FOO", "1")
    by_subject = {finding["subject"]: finding for finding in built.json("doctor")[0]["findings"]}
    assert by_subject["KBQA_RETRIEVAL_K"]["remedy"] == "rename it to KBQA_RETRIEVAL__K"
    assert (by_subject["KBQA_RETRIEVAL_K"]["level"], by_subject["KBQA_FOO"]["level"]) == ("warn", "note")


def test_doctor_fails_when_a_base_cannot_be_opened(shell):
    shell.put("甲.txt", "甲的内容在这里。")
    shell("ingest")
    (shell.home / "vectorstore" / "default" / "kb.sqlite").write_bytes(b"nonsense" * 1000)
    (told,) = shell.json("doctor", code=1)
    assert [finding["subject"] for finding in told["findings"] if finding["level"] == "fail"] == ["base default"]


def test_doctor_fails_when_the_registry_is_damaged(shell):
    def found(code):
        return next(it for it in shell.json("doctor", code=code)[0]["findings"] if it["subject"] == path.name)

    shell("key", "add", "人事系统")
    path = shell.home / "vectorstore" / "kbqa.sqlite"
    assert (found(0)["level"], found(0)["code"]) == ("ok", "registry")
    with path.open("r+b") as file:
        file.seek(path.stat().st_size - 4096)
        file.write(bytes(range(256)) * 16)
    damaged = found(1)
    assert (damaged["level"], damaged["code"]) == ("fail", "registry-broken")
    assert "remove kbqa.sqlite-wal and kbqa.sqlite-shm beside it and put a copy of it back" in damaged["detail"]


def test_doctor_fails_when_a_base_was_built_with_other_settings(shell):
    shell.put("甲.txt", "甲的内容在这里。")
    shell("ingest")
    (shell.home / "config.yaml").write_text("splitter: {size: 120, overlap: 20}", encoding="utf-8")
    (failed,) = (f for f in shell.json("doctor", code=1)[0]["findings"] if f["level"] == "fail")
    assert failed["remedy"] == "kbqa ingest --kb default --rebuild"


def test_a_base_that_was_cut_otherwise_is_told_in_the_users_words(shell):
    shell.put("甲.txt", "甲的内容在这里。")
    shell("ingest")
    assert "size 400, overlap 50, in characters\n" in shell("kb", "show", "default").stdout
    (shell.home / "config.yaml").write_text("splitter: {size: 120, overlap: 20}", encoding="utf-8")
    told = shell("ingest", code=1).stderr
    assert "(size 400, overlap 50, in characters)" in told
    assert "config.yaml (size 120, overlap 20, in characters)" in told
    assert "kbqa ingest --kb default --rebuild" in told
    assert "甲的内容" in shell("search", "甲的内容").stdout


@pytest.mark.parametrize(
    ("part", "words"), [("embedder_fingerprint", "with the embedder"), ("analyzer", "of the text analyzer")]
)
def test_a_base_of_other_parts_is_not_searched_with_todays(shell, part, words):
    shell.put("甲.txt", "甲的内容在这里。")
    shell("ingest")
    with closing(sqlite3.connect(shell.home / "vectorstore" / "default" / "kb.sqlite")) as catalogue, catalogue:
        catalogue.execute("UPDATE passport SET value = '\"别的\"' WHERE key = ?", (part,))
    for command in (["ask", "甲"], ["search", "甲"], ["ingest"]):
        told = shell(*command, code=1).stderr
        assert words in told
        assert "kbqa ingest --kb default --rebuild" in told
    shell("ingest", "--rebuild")
    assert "甲的内容" in shell("ask", "甲的内容在哪里？").stdout


# --- what is printed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("员工手册.docx", "员工手册.docx"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[31m红", "\\x1b[31m红"),
        ("\x9b31m", "\\x9b31m"),
        ("invoice\u202efdp.exe", "invoice\\u202efdp.exe"),
        ("\udce4", "\\udce4"),
        ("\u2028", "\\u2028"),
    ],
)
def test_control_characters_are_spelled_out(text, safe):
    assert shown(text) == safe


def test_line_breaks_of_a_text_may_stay():
    assert shown("一\n二\t三\r\x1b", lines=True) == "一\n二\t三\\r\\x1b"


def test_a_long_quote_is_shortened_to_one_line():
    assert quoted("一\n二  三") == "「一 二 三」"
    assert quoted("长" * 500) == "「" + "长" * 119 + "…」"


# --- as a process ----------------------------------------------------------------------------------------------------


@contextmanager
def started(home, *arguments, **environment):
    """kbqa as a process of its own, which ends with the block."""
    # Tests that run as a background job of a shell ignore Ctrl-C, and would have their children ignore it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen(
        [sys.executable, "-m", "kbqa", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "KBQA_HOME": str(home), **environment},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_output_is_utf8_whatever_the_locale_says(built):
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with started(built.home, "ask", "年假有几天？", "--json", **locale) as process:
        out, err = process.communicate(timeout=60)
    assert "员工手册.md" in out.decode("utf-8")
    assert json.loads(out)["grounded"] is True
    assert err == b""


@posix
def test_a_reader_that_goes_away_is_no_error(built):
    with started(built.home, "read", built.home / "knowledge" / "default" / "员工手册.md") as process:
        process.stdout.close()
        told = process.stderr.read().decode()
        assert process.wait(timeout=60) != 0
    assert told.startswith("员工手册.md: md")
    assert told.count("\n") == 1  # and no traceback


@posix
def test_watch_takes_in_what_changes_until_ctrl_c(shell):
    shell.put("甲.txt", "甲的内容在这里。")
    with started(shell.home, "ingest", "--watch", "--json") as process:
        lines = (json.loads(line) for line in iter(process.stdout.readline, b""))
        assert next(lines)["source"] == "甲.txt"
        assert next(lines)["summary"]["added"] == 1
        shell.put("乙.txt", "乙的内容在这里。")
        later = [next(lines), next(lines)]
        assert {file["source"]: file["status"] for file in later} == {"甲.txt": "unchanged", "乙.txt": "added"}
        assert next(lines)["summary"]["added"] == 1
        process.send_signal(signal.SIGINT)
        err = process.communicate(timeout=30)[1].decode()
    assert process.returncode == 130
    assert "is kept" in err
    assert "Traceback" not in err


def test_watch_outlives_a_share_that_goes_away_and_comes_back(shell):
    """As a link to a mount point does: gone, then there but empty, then there again with something new."""
    share, away = shell.home / "knowledge" / "default", shell.home / "away"
    shell.put("甲.txt", "甲的内容在这里。")
    with started(shell.home, "ingest", "--watch", "--json") as process:
        lines = (json.loads(line) for line in iter(process.stdout.readline, b""))
        told = (line.decode() for line in iter(process.stderr.readline, b""))
        assert [next(lines)["status"], next(lines)["summary"]["added"]] == ["added", 1]
        assert "watching" in next(told)
        share.rename(away)
        assert "cannot be looked into" in next(told)
        share.mkdir()
        assert "lose all 1 documents" in next(told)
        share.rmdir()
        away.rename(share)
        shell.put("乙.txt", "乙的内容在这里。")
        later = [next(lines), next(lines)]
        assert {file["source"]: file["status"] for file in later} == {"甲.txt": "unchanged", "乙.txt": "added"}
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_watch_begins_before_its_share_is_mounted(shell):
    share, away = shell.home / "knowledge" / "default", shell.home / "away"
    shell.put("甲.txt", "甲的内容在这里。")
    shell("ingest")
    share.rename(away)
    with started(shell.home, "ingest", "--watch", "--json") as process:
        told = (line.decode() for line in iter(process.stderr.readline, b""))
        assert "there is no folder" in next(told)
        assert "watching" in next(told)
        away.rename(share)
        assert json.loads(process.stdout.readline())["status"] == "unchanged"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
    assert process.returncode == 130


def test_ingest_removes_nothing_when_everything_is_missing_unless_it_is_told_to(shell):
    path = shell.put("员工手册.md", HANDBOOK)
    shell("ingest")
    path.unlink()
    stderr = shell("ingest", code=1).stderr
    assert "--allow-empty" in stderr
    assert len(stderr.splitlines()) == 1
    assert shell.json("ask", "年假有几天？")[0]["grounded"]
    assert shell.json("ingest", "--allow-empty")[-1]["summary"]["removed"] == 1


def on_a_terminal(home, *arguments, typed=""):
    """What a person at a terminal sees, and the exit code."""
    import pty

    ours, theirs = pty.openpty()
    os.write(ours, typed.encode())
    environment = {**os.environ, "KBQA_HOME": str(home), "TERM": "xterm"}
    command = [sys.executable, "-m", "kbqa", *map(str, arguments)]
    done = subprocess.run(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, check=False)
    os.close(theirs)
    printed = b""
    while True:
        try:
            printed += os.read(ours, 65536)
        except OSError:  # Linux says so when the other end is closed
            break
    os.close(ours)
    return printed.decode(), done.returncode


@posix
def test_on_a_terminal_the_answer_is_the_same_and_pleasant(built):
    printed, _ = on_a_terminal(built.home, "ask", "年假有几天？")
    assert "\x1b[" in printed
    assert "[1] 员工手册.md · " in printed


@posix
def test_on_a_terminal_deleting_is_asked_about_with_what_is_lost(shell):
    shell.put("手册.md", HANDBOOK)
    shell("ingest")
    printed, code = on_a_terminal(shell.home, "kb", "delete", "default", typed="n\n")
    assert ("Delete default (1 documents)?" in printed, code) == (True, 1)
    catalogue = shell.home / "vectorstore" / "default" / "kb.sqlite"
    catalogue.write_bytes(b"nonsense" * 1000)
    printed, code = on_a_terminal(shell.home, "kb", "delete", "default", typed="n\n")
    assert "kb.sqlite is damaged" in printed
    assert ("Delete default (what it holds cannot be told)?" in printed, code) == (True, 1)
    assert catalogue.exists()
    printed, code = on_a_terminal(shell.home, "kb", "delete", "default", typed="y\n")
    assert ("deleted default" in printed, code) == (True, 0)
    assert not catalogue.exists()


# --- models ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glm(tmp_path_factory):
    """A tiny ChatGLM3, and a shell around it. Not to be changed."""
    pytest.importorskip("torch", reason="kbqa[glm] is not installed")
    made = Shell(tmp_path_factory.mktemp("models"))
    (told,) = made.json("model", "make-tiny", "chatglm3", made.home / "小模型", "--seed", 3)
    assert (told["family"], told["path"]) == ("chatglm3", str(made.home / "小模型"))
    return made


def test_model_info_tells_a_program_what_a_model_is_and_takes(glm):
    (told,) = glm.json("model", "info", glm.home / "小模型")
    assert (told["family"], told["layout"], told["quantization"], told["dtype"]) == (
        "chatglm3",
        "chatglm",
        None,
        "float16",
    )
    assert (told["context"], told["trouble"], len(told["files"])) == (512, None, 3)
    assert [need["bits"] for need in told["needs"]] == [16, 8, 4]
    assert all(need["fits"] and need["total"] > need["weights"] for need in told["needs"])
    assert told["memory"] > 2**28


def test_model_info_tells_a_person_in_words(glm):
    said = glm("model", "info", glm.home / "小模型").stdout
    assert "chatglm3, 0.19 million parameters, float16" in said
    assert " 4 bits: " in said
    assert "this machine has it" in said


def test_a_model_is_quantized_and_converted_into_new_folders_only(glm):
    small, other = glm.home / "小四", glm.home / "变"
    (told,) = glm.json("model", "quantize", glm.home / "小模型", small, "--bits", 4)
    assert (told["bits"], told["family"]) == (4, "chatglm3")
    assert glm.json("model", "info", small)[0]["quantization"] == 4
    (told,) = glm.json("model", "convert", small, other, "--dtype", "float32")
    assert told["family"] == "chatglm3"
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= {path.name for path in other.iterdir()}
    assert glm.json("model", "info", other)[0]["layout"] == "glm"
    for again in (("quantize", glm.home / "小模型", small, "--bits", 8), ("convert", small, other)):
        assert "nothing is overwritten" in glm("model", *again, code=1).stderr


def test_model_bench_measures_reading_and_writing(glm):
    (told,) = glm.json("model", "bench", glm.home / "小模型", "--dtype", "float32", "--prompt", 40, "--batch", 2)
    assert told["prompt"] == 42  # with the two control tokens before it
    assert told["read_per_second"] > 0
    ((batch, tokens, floor),) = [tuple(each.values()) for each in told["writing"]]
    assert (batch, tokens > 0) == (2, True)
    assert 0 < floor < 1, "no model reads its weights faster than the memory gives them"
    assert told["read_per_step"] < told["peak"]


def test_steps_of_a_training_that_is_not_asked_for_are_a_mistake_of_use(glm, tmp_path):
    assert "give --train too" in glm("model", "make-tiny", "glm4", tmp_path / "out", "--steps", "5", code=2).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("info", "nowhere"), "there is no model folder nowhere"),
        (("info", "THUDM/chatglm3-6b"), "`kbqa model download THUDM/chatglm3-6b DIR` fetches it"),
        (("convert", "nowhere", "out"), "there is no model folder nowhere"),
        (("make-tiny", "glm4", "out", "--hidden", "50"), "cannot have hidden 50; it must be a multiple of 16"),
        (("make-tiny", "glm4", "out", "--layers", "0"), "cannot have layers 0; it must be 1 or more"),
        (("download", "no id", "out"), "no id is no id of a model"),
    ],
)
def test_what_a_model_command_cannot_do_is_one_line_and_exit_1(glm, monkeypatch, tmp_path, arguments, said):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    told = glm("model", *arguments, code=1).stderr
    assert said in told
    assert told.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.fixture
def hub(glm, tmp_path):
    """A place with the tiny model and a piece of code beside it; `hub(arguments)` runs kbqa against it."""
    pytest.importorskip("huggingface_hub")
    there = shutil.copytree(glm.home / "小模型", tmp_path / "served" / "ZhipuAI" / "tiny")
    (there / "modeling_chatglm.py").write_text("raise SystemExit", encoding="utf-8")
    (tmp_path / "own").mkdir()
    with hubkit.serving(tmp_path / "served") as server:

        def run(*arguments):
            server.sent.clear()
            command = [sys.executable, "-m", "kbqa", "model", "download", *map(str, arguments), "--from", "huggingface"]
            environment = server.environment(tmp_path / "own")
            done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
            return done.returncode, done.stderr, sorted(name for name, _ in server.sent)

        yield run


def test_a_model_is_downloaded_without_its_code_and_goes_on_where_it_was(glm, hub, tmp_path):
    code, said, asked = hub("ZhipuAI/tiny", tmp_path / "got")
    assert (code, "modeling_chatglm.py" in asked, "config.json" in asked) == (0, False, True), said
    assert glm.json("model", "info", tmp_path / "got")[0]["family"] == "chatglm3"
    for path in (glm.home / "小模型").iterdir():
        assert (tmp_path / "got" / path.name).read_bytes() == path.read_bytes()
    (tmp_path / "got" / "tokenizer.model").unlink()
    assert hub("ZhipuAI/tiny", tmp_path / "got")[2] == ["tokenizer.model"], "the others are there"


def test_a_model_that_the_hub_does_not_have_is_one_clear_line(hub, tmp_path):
    code, said, _ = hub("ZhipuAI/none", tmp_path / "got")
    assert code == 1
    assert "ZhipuAI/none could not be downloaded: huggingface has no such model" in said.splitlines()[-1]


# --- the service -----------------------------------------------------------------------------------------------------


@contextmanager
def serving(home, *arguments, **environment):
    """`kbqa serve` on a free port, once it answers: the process, and where."""
    with started(home, "serve", "--port", "0", "--json", *arguments, **environment) as process:
        yield process, json.loads(process.stdout.readline())["url"]


def lets_in(url):
    try:
        return httpx.get(f"{url}/healthz", timeout=5).is_success
    except httpx.TransportError:
        return False


@posix
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_serve_answers_until_it_is_told_to_stop(built, how):
    with serving(built.home) as (process, url), httpx.Client(base_url=url, timeout=30) as http:
        answered = http.post("/api/v1/kb/default/ask", json={"question": "年假有几天？"}).json()
        assert answered["citations"][0]["source"] == "员工手册.md"
        process.send_signal(how)  # an idle connection does not keep it
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, b"")
    (line,) = [json.loads(line) for line in err.decode().splitlines()]
    assert (line["path"], line["status"], line["base"]) == ("/api/v1/kb/default/ask", 200, "default")


@posix
def test_serve_answers_without_delay(built):
    """asyncio leaves Nagle's algorithm on for a socket that does not name its protocol: 40 ms for every answer."""
    with serving(built.home) as (_, url), httpx.Client(base_url=url, timeout=30) as http:
        took = []
        for _ in range(40):
            begun = time.perf_counter()
            http.get("/healthz")
            took.append(time.perf_counter() - begun)
    assert sorted(took[10:])[10] < 0.035


@posix
def test_serve_lets_an_answer_that_is_being_written_come_to_its_end(built, chat_server, tmp_path):
    go_on = Event()

    def slowly(handler):
        handler.begin()
        handler.chunk(encoded([delta("员工每年")]))
        go_on.wait(30)
        handler.chunk(encoded([delta("享有10天年假。"), delta(finish="stop"), "[DONE]"]))
        handler.wfile.write(b"0\r\n\r\n")

    chat_server.script = [slowly]
    request = {"question": "年假有几天？", "stream": True}
    model = {"kind": "openai", "base_url": chat_server.url, "model": "glm"}
    with serving(written_by(built, tmp_path / "home", **model).home) as (process, url):
        with httpx.stream("POST", f"{url}/api/v1/kb/default/ask", json=request, timeout=30) as response:
            bits = response.iter_text()
            assert "员工每年" in next(bits)
            process.send_signal(signal.SIGTERM)
            while lets_in(url):
                time.sleep(0.05)
            go_on.set()
            rest = "".join(bits)
        assert "event: done" in rest
        assert process.wait(timeout=30) == 0


@posix
def test_serve_does_not_wait_for_ever_for_an_answer_that_does_not_end(built, chat_server, tmp_path):
    chat_server.script = [endless]
    request = {"question": "年假有几天？", "stream": True}
    model = {"kind": "openai", "base_url": chat_server.url, "model": "glm"}
    home = written_by(built, tmp_path / "home", **model).home
    with serving(home, KBQA_SERVER__SHUTDOWN_SECONDS="1") as (process, url):
        with httpx.stream("POST", f"{url}/api/v1/kb/default/ask", json=request, timeout=30) as response:
            next(response.iter_text())
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=20) == 0
        assert chat_server.left.wait(10)


@posix
def test_several_processes_answer_and_any_of_them_tells_the_figures_of_all(built):
    with serving(built.home, "--workers", "2") as (process, url):
        for _ in range(12):  # each over a connection of its own, so that both get some
            question = {"question": "年假有几天？"}
            assert httpx.post(f"{url}/api/v1/kb/default/search", json=question, timeout=60).status_code == 200
        figures = httpx.get(f"{url}/metrics", timeout=60).text
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    assert 'route="/api/v1/kb/{kb}/search",status="200"} 12.0' in figures


@posix
def test_the_processes_end_with_the_one_that_started_them(built):
    with serving(built.home, "--workers", "2") as (process, url):
        assert httpx.get(f"{url}/healthz", timeout=60).is_success
        process.kill()
        process.wait(timeout=30)
        end = time.monotonic() + 30
        while lets_in(url):
            assert time.monotonic() < end, "a process goes on by itself"
            time.sleep(0.05)


def test_serve_says_when_its_port_is_taken(built):
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        port = other.getsockname()[1]
        with started(built.home, "serve", "--port", port) as process:
            out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    told = err.decode()
    assert told.startswith(f"kbqa: 127.0.0.1:{port} cannot be listened on: ")
    assert "choose another --port" in told
    assert told.count("\n") == 1


def test_serve_names_the_address_that_is_none_of_this_machine(shell):
    shell("key", "add", "app")
    assert "kbqa: 203.0.113.77:" in shell("serve", "--host", "203.0.113.77", "--port", "0", code=1).stderr


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5"])
def test_serve_lets_other_machines_in_only_with_a_key(shell, host):
    told = shell("serve", "--host", host, "--port", "0", code=1).stderr
    assert f"{host} can be reached from other machines" in told
    assert "kbqa key add NAME" in told


def test_serve_does_not_load_a_model_several_times(shell):
    model = "generator: {kind: chatglm, model: models/chatglm3-6b}\n"
    (shell.home / "config.yaml").write_text(model, encoding="utf-8")
    told = shell("serve", "--workers", "2", code=1).stderr
    assert "generator.kind chatglm 2 times" in told
    assert "kind: openai" in told


def test_serve_says_at_once_when_its_model_is_not_there(shell):
    model = "generator: {kind: chatglm, model: models/none}\n"
    (shell.home / "config.yaml").write_text(model, encoding="utf-8")
    with started(shell.home, "serve", "--port", "0") as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, b"")
    assert "models/none" in err.decode()
    assert err.count(b"\n") == 1


# --- keys ------------------------------------------------------------------------------------------------------------


def test_a_key_is_printed_once_and_listed_without_its_secret(shell):
    made = shell("key", "add", "人事系统", "--kb", "default,制度", "--scope", "write", "--expires", "30d")
    secret = made.stdout.strip()
    assert secret.startswith("kbqa_")
    assert "人事系统 may write in default, 制度, until " in made.stderr
    assert "there is no knowledge base 制度 yet" in made.stderr
    (listed,) = shell.json("key", "list")[0]["keys"]
    assert (listed["name"], listed["scope"], listed["bases"]) == ("人事系统", "write", ["default", "制度"])
    assert listed["hint"] == secret[-4:]
    assert not listed["expired"]
    assert secret not in shell("key", "list").stdout


def test_a_key_for_a_program_comes_as_json(shell):
    (made,) = shell.json("key", "add", "app")
    assert made["key"].startswith("kbqa_")
    assert (made["bases"], made["expires_at"]) == (None, None)
    assert shell.json("key", "revoke", "app") == [{"revoked": "app"}]
    assert shell.json("key", "list") == [{"keys": []}]


def test_revoking_the_last_key_says_what_that_means(shell):
    shell("key", "add", "one")
    shell("key", "add", "two")
    assert "no key is left" not in shell("key", "revoke", "one").stderr
    assert "no key is left" in shell("key", "revoke", "two").stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("add", "app", "--expires", "soon"), "'soon' is no time to expire: write 30d, 12h or a date"),
        (("add", "app", "--expires", "2001-01-01"), "would have expired already"),
        (("add", "app", "--kb", "../x"), "cannot name a knowledge base"),
        (("add", "app", "--kb", " , "), "--kb names no base"),
        (("add", "a\tb"), "cannot name a key"),
        (("revoke", "nobody"), "there is no key nobody (there are: none yet)"),
    ],
)
def test_what_a_key_command_cannot_do_is_one_line_and_makes_no_key(shell, arguments, said):
    assert said in shell("key", *arguments, code=1).stderr
    assert shell.json("key", "list") == [{"keys": []}]


# --- feedback --------------------------------------------------------------------------------------------------------


@pytest.fixture
def rated(shell):
    with closing(Database(shell.home / "vectorstore" / FILE)) as database:
        log = FeedbackLog(database)
        log.add(Feedback("default", "page", "up", "年假有几天？", "10天。\x1b[2J"))
        log.add(Feedback("default", "page", "down", "病假呢？", "80%。", comment="不全"))
        log.add(Feedback("制度", "app", "up", "谁批准？", REFUSAL))
    return shell


def test_feedback_is_exported_to_a_file_or_to_the_screen(rated, tmp_path):
    file = tmp_path / "评价.jsonl"
    assert "2 in" in rated("feedback", "export", file, "--kb", "default").output
    told = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert [(line["question"], line["rating"], line["comment"]) for line in told] == [
        ("年假有几天？", "up", ""),
        ("病假呢？", "down", "不全"),
    ]
    assert [line["answerable"] for line in rated.json("feedback", "export", "--rating", "up")] == [True, False]
    assert "\x1b" not in rated("feedback", "export").stdout


def test_feedback_that_is_not_there_is_told_of(rated):
    assert "there is no such feedback on nix" in rated("feedback", "export", "--kb", "nix").output
    assert "there is no such feedback" in rated("feedback", "export", "--since", "2999-01-01").output
    assert "write it as 2026-11-21" in rated("feedback", "export", "--since", "gestern", code=1).output
