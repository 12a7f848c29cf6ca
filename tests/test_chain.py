"""The walk of a question, with a scripted generator where it matters what a model is given and what it says."""

from dataclasses import replace

import pytest

from kbqa.build import Installation
from kbqa.config import Config, Home, PromptConfig
from kbqa.support import Reply
from kbqa.types import REFUSAL, Answer, Block, Document, Piece, Sentence


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


class Narrow(Scripted):
    """Takes prompts of at most `most` characters, history aside."""

    def __init__(self, most, *pieces):
        super().__init__(*pieces)
        self.most = most

    def fits(self, request):
        self.limit = request.max_tokens
        return len(request.messages[-1].content) <= self.most


def test_a_generator_with_little_room_gets_fewer_passages_and_at_last_a_part_of_the_best(kb):
    text = "员工每年享有十天带薪年假，" + "、".join(f"第{n}条也讲年假" for n in range(40)) + "。"
    kb.add_documents(
        [Document(f"{n}.md", "年假", (Block("text", text + str(n)),), str(n) * 64, "md") for n in range(4)]
    )
    lengths = []
    for most in (3000, 900, 250):
        model = Narrow(most, "十天。")
        list(replace(kb, generator=model).stream("年假有几天？"))
        lengths.append(len(model.requests[0].messages[-1].content))
    assert lengths[0] > 900 >= lengths[1] > 250 >= lengths[2] > 100
    list(replace(kb, generator=model).stream("年假有几天？", options={"max_tokens": 77}))
    assert model.limit == 77  # so much must be left for the answer


def test_a_short_best_passage_does_not_keep_the_ones_after_it_in_the_prompt(kb):
    model = Narrow(10**6, "3800元。")
    kb = replace(kb, generator=model)
    kb.ask("X200智能网关的标准价")
    whole = model.requests[0].messages[-1].content
    model.most = len(whole) - 1
    kb.ask("X200智能网关的标准价")
    shorter = model.requests[1].messages[-1].content
    assert len(shorter) < len(whole) < 200  # so every passage is a short one
    assert "X200 | 智能网关 | 3800" in shorter


def test_a_question_too_long_for_the_generator_is_left_to_it(kb):
    model = Narrow(10, "十天。")
    assert replace(kb, generator=model).ask("年假有几天？").text == "十天。"
    assert len(model.requests) == 1


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
    assert "".join(part.text for part in parts if isinstance(part, Piece)) == parts[-1].text


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


# --- each sentence is checked as soon as it is whole -----------------------------------------------------------------

MIXED = """
根据文档：

1. 员工每年享有十天带薪年假。[1]
2. 员工每年享有30天带薪年假。

| 型号 | 标准价 |
|---|---|
| X200 | 3800 |
| X300 | 3800 |"""
CHECKED = [
    ("1. 员工每年享有十天带薪年假。[1]", "supported", (1,)),
    ("2. 员工每年享有30天带薪年假。", "not", ()),
    ("| X200 | 3800 |", "supported", (2,)),
    ("| X300 | 3800 |", "not", ()),
]


def told(sentences):
    return [(sentence.text, sentence.verdict, sentence.markers) for sentence in sentences]


@pytest.mark.parametrize(
    "pieces", [[MIXED], list(MIXED), MIXED.splitlines(keepends=True)], ids=["whole", "letters", "lines"]
)
def test_the_same_sentences_are_told_however_the_answer_is_cut_into_pieces(kb, pieces):
    *parts, answer = replace(kb, generator=Scripted(*pieces)).stream("员工每年有几天带薪年假？")
    assert told(part for part in parts if isinstance(part, Sentence)) == told(answer.sentences) == CHECKED
    assert [citation.marker for citation in answer.citations] == [1, 2]
    for sentence in answer.sentences:
        assert answer.text[slice(*sentence.span)] == sentence.text


def test_a_sentence_comes_behind_the_piece_that_shows_that_it_is_whole_and_before_the_next(kb):
    pieces = ("员工每年享有", "十天带薪年假。", "另", "有三十天探亲假")
    parts = list(replace(kb, generator=Scripted(*pieces)).stream("带薪年假有几天？"))
    texts = [part.text for part in parts]
    assert texts[:4] == ["员工每年享有", "十天带薪年假。", "另", "员工每年享有十天带薪年假。"]
    assert texts[4:6] == ["有三十天探亲假", "另有三十天探亲假"]
    assert [part.verdict for part in parts if isinstance(part, Sentence)] == ["supported", "not"]


def test_an_answer_without_any_sentence_end_is_checked_when_it_is_over(kb):
    answer = replace(kb, generator=Scripted("员工每年", "享有十天带薪年假")).ask("带薪年假有几天？")
    assert told(answer.sentences) == [("员工每年享有十天带薪年假", "supported", (1,))]


def test_a_quote_is_cited_once_and_a_sentence_of_two_quotes_has_both_markers(kb):
    said = (
        "员工每年享有十天带薪年假。",
        "年假可以顺延至次年3月31日。",
        "员工每年享有十天带薪年假，年假可以顺延至次年3月31日。",
    )
    answer = replace(kb, generator=Scripted(*said)).ask("带薪年假有几天？")
    assert [sentence.markers for sentence in answer.sentences] == [(1,), (2,), (1, 2)]
    assert len(answer.citations) == 2


def test_what_an_extracted_row_says_is_one_sentence_and_supported(kb):
    assert told(kb.ask("X300的标准价是多少？").sentences) == [("X300；标准价：5200", "supported", (1,))]


def test_what_is_refused_has_no_sentences(kb):
    for generator in (Scripted("根据已知信息无法回答该问题。"), Scripted("")):
        assert replace(kb, generator=generator).ask("带薪年假有几天？").sentences == ()
    assert kb.ask("公司食堂几点开门？").sentences == ()


def test_an_earlier_answer_bears_nothing_out(kb):
    """What a model repeats from the conversation must stand in the documents like anything else."""
    said = "员工每年另有三十天探亲假。"
    answer = replace(kb, generator=Scripted(said)).ask("带薪年假有几天？", [("有探亲假吗？", said)])
    assert [sentence.verdict for sentence in answer.sentences] == ["not"]


def test_closing_the_stream_behind_a_sentence_cancels_the_work(kb):
    generator = Scripted("员工每年享有十天带薪年假。", "另", "有")
    stream = replace(kb, generator=generator).stream("带薪年假有几天？")
    while not isinstance(next(stream), Sentence):
        pass
    assert not generator.closed
    stream.close()
    assert generator.closed


def test_what_a_model_says_around_an_answer_is_no_claim(kb):
    said = "好的！\n以下是相关内容：\n员工每年享有十天带薪年假。\n\n希望以上信息对您有帮助！"
    answer = replace(kb, generator=Scripted(*said)).ask("带薪年假有几天？")
    assert [sentence.text for sentence in answer.sentences] == ["员工每年享有十天带薪年假。"]


# --- where the sentences of a growing answer end ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("十天。[1][2] 可以顺延！另外", ["十天。[1][2]", "可以顺延！", "另外"]),
        ("西南大区；9月：560.2\n华北；9月：3.5", ["西南大区；9月：560.2", "华北；9月：3.5"]),
        ("他说：“好。”然后走了。", ["他说：“好。”", "然后走了。"]),
        ("1. 年假十天。\n2. 病假五天；婚假三天。", ["1. 年假十天。", "2. 病假五天；婚假三天。"]),
        ("| 大区 | 备注 |\n| 西南 | 含税；已审。是 |", ["| 大区 | 备注 |", "| 西南 | 含税；已审。是 |"]),
        ("Acme Inc. was founded in 2001. It grew 3.5 times!", ["Acme Inc. was founded in 2001.", "It grew 3.5 times!"]),
        ("See /a?id=3 now? Yes.", ["See /a?id=3 now?", "Yes."]),
        (" \n没有句号", ["没有句号"]),
        (" \n ", []),
    ],
)
def test_half_a_sentence_is_never_taken_for_a_whole_one(text, sentences):
    for size in (1, 2, 3, len(text)):
        reply, spans = Reply(), []
        for at in range(0, len(text), size):
            spans += reply.add(text[at : at + size])
        spans += reply.end()
        assert [reply.text[slice(*span)] for span in spans] == sentences
