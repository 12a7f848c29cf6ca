"""The sample knowledge base that ships with the project, and the questions about it."""

import json
import subprocess
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest

from kbqa.build import Installation
from kbqa.config import Config, Home
from kbqa.evaluation import ask_all, load_questions
from kbqa.readers import read

ROOT = Path(__file__).parents[1]
DATA = Path(__file__).parent / "data"
SAMPLES = ROOT / "knowledge" / "samples"
OFFICES = DATA / "offices"  # a hospital's, a school's, a factory's rules and a contract
QUESTIONS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "samples_qa.jsonl").read_text(encoding="utf-8").splitlines()
]
SAID_OTHERWISE = [
    json.loads(line)
    for name in ("synonyms_qa.jsonl", "numbers_qa.jsonl", "office_qa.jsonl")
    for line in (Path(__file__).parent / "data" / name).read_text(encoding="utf-8").splitlines()
]
CONVERSATIONS = [
    json.loads(line)
    for line in (Path(__file__).parent / "data" / "conversations.jsonl").read_text(encoding="utf-8").splitlines()
]
KINDS = {"ellipsis", "pronoun", "comparison", "clarification", "topic", "short", "untold"}


def folded(text):
    return "".join(unicodedata.normalize("NFKC", text).lower().split())


@pytest.fixture(scope="module")
def documents():
    return {path.name: read(path) for path in SAMPLES.iterdir()}


def test_the_script_writes_what_is_shipped(tmp_path, documents):
    """Compared as documents: compressed bytes differ from one zlib to another."""
    subprocess.run([sys.executable, ROOT / "scripts" / "make_samples.py", tmp_path], check=True, timeout=120)
    made = {path.name: replace(read(path), digest="") for path in tmp_path.iterdir()}
    assert made == {name: replace(document, digest="") for name, document in documents.items()}


def test_the_samples_are_in_many_formats_and_read_without_warnings(documents):
    readers = {document.reader for document in documents.values()}
    assert readers == {"docx", "pdf", "xlsx", "md", "txt", "csv", "html", "eml"}
    assert [document.warnings for document in documents.values()] == [()] * len(documents)
    assert sum(document.tables for document in documents.values()) >= 6


def test_the_pdf_tells_something_else_on_each_page(documents):
    pdf = documents["差旅费用管理办法.pdf"]
    assert {block.page for block in pdf.blocks} == {1, 2, 3}
    (table,) = [block for block in pdf.blocks if block.kind == "table"]
    assert (table.page, table.header_rows) == (2, 1)


@pytest.mark.parametrize("row", [*QUESTIONS, *SAID_OTHERWISE], ids=lambda row: row["question"])
def test_each_question_has_its_answer_in_the_file_it_names(row, documents):
    if row["answerable"]:
        text = folded(documents[row["file"]].text)
        assert any(folded(answer) in text for answer in row["answers"])
    else:
        assert (row["answers"], row["file"]) == ([], None)


def test_each_question_about_the_offices_has_its_answer_in_the_file_it_names():
    texts = {path.name: folded(path.read_text(encoding="utf-8")) for path in OFFICES.iterdir()}
    rows = [json.loads(line) for line in (DATA / "offices_qa.jsonl").read_text(encoding="utf-8").splitlines()]
    untold = [
        row["question"]
        for row in rows
        if row["answerable"] and not any(folded(answer) in texts[row["file"]] for answer in row["answers"])
    ]
    assert (len(rows), untold) == (72, [])


@pytest.mark.parametrize("talk", CONVERSATIONS, ids=lambda talk: talk["id"])
def test_each_turn_of_a_conversation_says_what_answers_it(talk, documents):
    first, *others = talk["turns"]
    assert "kind" not in first
    assert {turn["kind"] for turn in others} <= KINDS
    for turn in others:
        assert ("whole" in turn) == (turn["kind"] not in ("topic", "short")), "what leans has a whole question"
        assert (turn["kind"] == "untold") == (turn["files"] == turn["holds"] == [])
    for turn in talk["turns"] if talk["base"] == "samples" else ():
        if not turn["files"]:
            continue
        texts = [folded(documents[name].text) for name in turn["files"]]
        for wanted in (turn["holds"], turn.get("answers", turn["holds"])):
            assert any(folded(string) in text for string in wanted for text in texts)


def test_most_questions_in_the_words_of_office_workers_are_answered_right(tmp_path):
    verdicts = verdicts_on(SAMPLES, "office_qa.jsonl", tmp_path)
    assert sum(verdict in ("right", "refused rightly") for verdict in verdicts) >= 57, "of 72"
    assert verdicts.count("answered wrongly") <= 1


def test_questions_about_other_offices_are_answered_right_or_refused(tmp_path):
    verdicts = verdicts_on(OFFICES, "offices_qa.jsonl", tmp_path)
    assert sum(verdict in ("right", "refused rightly") for verdict in verdicts) >= 48, "of 72"
    assert verdicts.count("answered wrongly") <= 1


def verdicts_on(documents, questions, folder):
    with Installation(Home(folder), Config()).temporary_base(folder / "base", documents) as kb:
        return [reply.verdict for reply in ask_all(kb, load_questions(DATA / questions)).replies]
