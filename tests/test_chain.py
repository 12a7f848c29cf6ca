"""The walk of a question, with a scripted generator where it matters what a model is given and what it says."""

from dataclasses import replace

import pytest

from kbqa.build import Installation
from kbqa.config import Config, Home, PromptConfig
from kbqa.types import REFUSAL, Answer, Block, Document, Piece


class Scripted:
    """A generator that says what it is told to, and keeps what it was asked."""

    name = "scripted"

    def __init__(self, *pieces):
        self.pieces, self.requests, self.closed = pieces, [], False

    def stream(self, request):
        self.requests.append(request)
        try:
            for piece in self.pieces:
                yield Piece(piece)
            yield Piece(finish="stop")
        finally:
            self.closed = True


DOCUMENTS = [
    Document(
        "手册/年假.docx",
        "员工手册",
        (Block("heading", "第二章 休假", 1), Block("text", "员工每年享有十天带薪年假。年假可以顺延至次年3月31日。")),
        "1" * 64,
        "docx",
    ),
    Document(
        "价格.xlsx",
        "价格",
        (Block("table", "型号 | 名称 | 标准价\nX200 | 智能网关 | 3800\nX300 | 边缘网关 | 5200", header_rows=1),),
        "2" * 64,
        "xlsx",
    ),
    Document(
        "制度.pdf",
        "制度",
        (Block("text", "第一页讲的是总则。", page=1), Block("text", "违反安全规定的罚款二百元。", page=2)),
        "3" * 64,
        "pdf",
        pages=2,
    ),
]


@pytest.fixture
def kb(tmp_path):
    installation = Installation(Home(tmp_path), Config())
    with installation.temporary_base(tmp_path / "库", DOCUMENTS) as base:
        yield base


def texts():
    return {document.source: document.text for document in DOCUMENTS}


def test_an_answer_quotes_the_documents_exactly(kb):
    answer = kb.ask("员工每年有几天带薪年假？")
    assert answer.grounded
    assert answer.text == "员工每年享有十天带薪年假。"
    (citation,) = answer.citations
    assert (citation.marker, citation.source, citation.heading) == (1, "手册/年假.docx", "第二章 休假")
    assert citation.quote == texts()[citation.source][slice(*citation.span)] == answer.text


def test_a_table_cell_is_told_with_its_column_and_cited_by_its_row(kb):
    answer = kb.ask("X300的标准价是多少？")
    assert answer.text == "X300；标准价：5200"
    assert [citation.quote for citation in answer.citations] == ["X300 | 边缘网关 | 5200"]


def test_a_citation_names_the_page_of_its_quote(kb):
    (citation,) = kb.ask("违反安全规定罚款多少？").citations
    assert citation.page == 2


def test_what_the_documents_do_not_tell_is_refused_and_no_generator_is_asked(kb):
    generator = Scripted("编造的答案")
    answer = replace(kb, generator=generator).ask("公司食堂几点开门？")
    assert (answer.text, answer.grounded, answer.citations) == (REFUSAL, False, ())
    assert generator.requests == []


def test_the_prompt_holds_the_passage_and_the_question_and_history_is_bare(kb):
    generator = Scripted("十天。")
    kb = replace(kb, generator=generator)
    kb.ask("员工每年有几天带薪年假？", [("你好", "您好")])
    (request,) = generator.requests
    assert [(message.role, message.content) for message in request.messages[:2]] == [
        ("user", "你好"),
        ("assistant", "您好"),
    ]
    prompt = request.messages[-1].content
    assert prompt.startswith("已知信息:\n")
    assert "员工每年享有十天带薪年假。" in prompt
    assert prompt.endswith("\n根据已知信息回答问题:\n员工每年有几天带薪年假？")


def test_the_passages_keep_to_the_budget(kb):
    generator = Scripted("十天。")
    replace(kb, generator=generator, prompt=PromptConfig(max_characters=40)).ask("员工每年有几天带薪年假？")
    context = generator.requests[0].messages[-1].content.split("\n根据已知信息")[0].removeprefix("已知信息:\n")
    assert len(context) <= 40


def test_a_made_up_sentence_gets_no_citation(kb):
    answer = replace(kb, generator=Scripted("员工每年享有十天带薪年假。", "另有三十天探亲假。")).ask("带薪年假有几天？")
    assert [citation.quote for citation in answer.citations] == ["员工每年享有十天带薪年假。"]


def test_a_model_that_says_it_cannot_tell_is_not_grounded(kb):
    answer = replace(kb, generator=Scripted("根据已知信息", "无法回答该问题。")).ask("带薪年假有几天？")
    assert not answer.grounded
    assert answer.citations == ()


def test_a_model_that_says_nothing_is_a_refusal_in_the_stream_too(kb):
    parts = list(replace(kb, generator=Scripted("", " ")).stream("带薪年假有几天？"))
    assert [part.text for part in parts if isinstance(part, Piece)][-1] == REFUSAL
    assert parts[-1].text == REFUSAL


def test_the_stream_is_the_answer_in_pieces_and_then_the_answer(kb):
    parts = list(replace(kb, generator=Scripted("员工每年", "享有十天", "带薪年假。")).stream("带薪年假有几天？"))
    assert isinstance(parts[-1], Answer)
    assert "".join(part.text for part in parts[:-1]) == parts[-1].text


def test_closing_the_stream_cancels_the_work(kb):
    generator = Scripted("员工每年", "享有十天")
    stream = replace(kb, generator=generator).stream("带薪年假有几天？")
    next(stream)
    stream.close()
    assert generator.closed


def test_a_follow_up_is_answered_from_what_went_before(kb):
    first = kb.ask("X200的标准价是多少？")
    assert "3800" in first.text
    assert "5200" in kb.ask("那X300呢？", [(first.question, first.text)]).text


def test_a_new_subject_after_another_one_is_answered_as_if_it_came_first(kb):
    """「午餐补贴是多少」 after a question about leave was refused: it was searched for with that one's words."""
    alone = kb.ask("安全罚款多少？")
    after = kb.ask("安全罚款多少？", [("员工每年有几天带薪年假？", "十天")])
    assert alone.grounded
    assert (after.text, after.confidence) == (alone.text, alone.confidence)
