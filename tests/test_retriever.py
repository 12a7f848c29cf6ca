import pytest

from kbqa.build import Installation
from kbqa.config import Config, Home, RetrievalConfig
from kbqa.errors import QuestionError
from kbqa.retriever import expand, standalone
from kbqa.retriever.subject import named
from kbqa.types import Block, Chunk, Document

TEXTS = {
    "年假.md": "员工每年享有十天带薪年假。年假可以顺延至次年3月31日。",
    "差旅.md": "普通员工在一类城市的住宿费每天五百二十元。报销须在返回后十个工作日内提交。",
    "备份.md": "数据库每周日进行全量备份。备份数据异地保存一百八十天。",
    "资料.md": "資料庫管理員負責資料庫的備份與恢復。",
}


def documents():
    for number, (source, text) in enumerate(TEXTS.items()):
        yield Document(source, source.removesuffix(".md"), (Block("text", text),), f"{number:064}", "md")


@pytest.fixture
def kb(tmp_path):
    installation = Installation(Home(tmp_path), Config())
    with installation.temporary_base(tmp_path / "库", documents()) as base:
        yield base


def test_the_chunk_that_answers_comes_first(kb):
    assert kb.search("一类城市住宿费是多少？").hits[0].chunk.source == "差旅.md"
    assert kb.search("哪天做全量备份？").hits[0].chunk.source == "备份.md"


def test_traditional_and_simplified_characters_meet(kb):
    assert kb.search("资料库管理员负责什么").hits[0].chunk.source == "资料.md"
    assert kb.search("帶薪年假有幾天").hits[0].chunk.source == "年假.md"


def test_scores_fall_and_lie_between_0_and_1(kb):
    scores = [hit.score for hit in kb.search("备份数据保存多少天？", 10).hits]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_k_limits_the_hits(kb):
    assert len(kb.search("员工备份年假住宿", 2).hits) == 2


def test_confidence_tells_what_is_told_from_what_is_not(kb):
    told = kb.search("员工每年有几天带薪年假？").confidence
    untold = kb.search("公司食堂的营业时间是几点？").confidence
    other_number = kb.search("普通员工在三类城市的住宿费每天多少？").confidence
    assert told > 0.8
    assert untold < 0.1
    assert other_number < kb.search("普通员工在一类城市的住宿费每天多少？").confidence


@pytest.mark.parametrize("question", ["", "  \n\t "])
def test_an_empty_question_is_refused(kb, question):
    with pytest.raises(QuestionError, match="empty"):
        kb.search(question)


def test_an_overlong_question_is_refused_with_the_limit(kb):
    with pytest.raises(QuestionError, match="4000"):
        kb.search("年" * 4001)


def test_a_question_of_signs_alone_finds_nothing_it_is_sure_of(kb):
    assert kb.search("？？！").confidence == 0


def test_an_empty_base_answers_with_nothing(tmp_path):
    installation = Installation(Home(tmp_path), Config())
    with installation.temporary_base(tmp_path / "空", []) as empty:
        found = empty.search("年假有几天？")
        assert found.hits == ()
        assert found.confidence == 0


def test_without_a_dense_weight_the_words_alone_decide(tmp_path):
    config = Config(retrieval=RetrievalConfig(dense_weight=0.0))
    with Installation(Home(tmp_path), config).temporary_base(tmp_path / "库", documents()) as base:
        for hit in base.search("住宿费", 10).hits:
            assert hit.score == 0 or hit.lexical is not None


# --- follow-up questions ---------------------------------------------------------------------------------------------

HISTORY = [("年假有几天？", "十天")]


@pytest.mark.parametrize("question", ["它可以顺延吗？", "那病假呢？", "What about it?", "上海呢？"])
def test_a_question_that_leans_on_the_one_before_takes_its_words_along(question):
    assert standalone(question, HISTORY) == f"年假有几天？ {question}"


def test_a_question_that_stands_alone_stays_as_it_is():
    question = "数据库的全量备份在每周几进行？"
    assert standalone(question, HISTORY) == question
    assert standalone("它呢？", []) == "它呢？"


def test_a_chain_of_follow_ups_reaches_back_to_the_subject():
    history = [("X200网关的保修期多长？", "36个月"), ("它的功耗呢？", "12W")]
    assert standalone("那重量呢？", history).startswith("X200网关的保修期多长？")


# --- passages --------------------------------------------------------------------------------------------------------


def test_neighbours_of_the_same_section_join_a_hit_without_repeating_the_overlap(tmp_path):
    sentences = [f"第{number}条规定了第{number}件事情应当如何办理以及由谁负责。" for number in range(60)]
    text = "".join(sentences)
    document = Document("制度.md", "制度", (Block("heading", "总则", 1), Block("text", text)), "0" * 64, "md")
    with Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", [document]) as base:
        hits = base.search("第30件事情由谁负责？", 1).hits
        ((passage, chunks),) = expand(hits, base.store, 1)
    assert len(chunks) == 3
    assert passage.startswith("制度 > 总则\n")
    assert passage.partition("\n")[2] in text


def test_a_hit_inside_the_passage_of_a_better_one_is_not_shown_twice(tmp_path):
    text = "".join(f"第{number}条规定了员工第{number}件事情如何办理。" for number in range(60))
    document = Document("制度.md", "制度", (Block("text", text),), "0" * 64, "md")
    with Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", [document]) as base:
        hits = base.search("员工的事情如何办理", 10).hits
        ids = [chunk.id for _, chunks in expand(hits, base.store, 1) for chunk in chunks]
    assert len(ids) == len(set(ids))


REPORTS = {
    "蓝天旅游有限公司": "二零二一年公司治理报告。员工健康与安全计划使员工满意度上升。",
    "建天建筑有限公司": "本年度公司实施了员工健康与安全计划，员工健康与安全计划的培训使员工满意度提升百分之五。",
    "绿源环保有限公司": "公司的员工健康与安全计划和人才发展计划提升了员工满意度，员工满意度达到百分之九十。",
}


@pytest.fixture
def reports(tmp_path):
    installation = Installation(Home(tmp_path), Config())
    made = [
        Document(f"{number}.md", title, (Block("text", text),), f"{number:064}", "md")
        for number, (title, text) in enumerate(REPORTS.items())
    ]
    with installation.temporary_base(tmp_path / "库", made) as base:
        yield base


@pytest.mark.parametrize("company", REPORTS)
def test_a_document_that_the_question_names_comes_before_others_that_say_the_same(reports, company):
    question = f"{company}的员工健康与安全计划如何提升员工满意度？"
    assert reports.search(question).hits[0].chunk.title == company


def chunk(number, title, text):
    return Chunk(f"{number}.md", 0, text, (0, len(text)), title=title, id=number)


def test_a_title_that_every_passage_mentions_names_no_document():
    manual = [chunk(1, "TiDB", "概述"), *(chunk(n, f"第{n}章", "TiDB 支持备份") for n in range(2, 9))]
    assert named("TiDB 如何备份？", manual) == {}


def test_a_title_is_named_only_whole():
    books = [chunk(1, "员工手册", "甲"), chunk(2, "外包员工手册", "乙"), chunk(3, "Acme", "丙")]
    assert named("外包员工手册规定年假几天？", books) == {"外包员工手册": 1.0}
    assert named("员工手册规定年假几天？", books) == {"员工手册": 1.0}
    assert named("Acmeville 在哪里？", books) == {}
    assert named("ACME公司在哪里？", books) == {"Acme": 1.0}


def test_without_a_dense_weight_only_words_count(tmp_path):
    installation = Installation(Home(tmp_path), Config(retrieval=RetrievalConfig(dense_weight=0.0)))
    with installation.temporary_base(tmp_path / "库", documents()) as base:
        hits = base.search("备份数据保存多少天？", 10).hits
    assert hits[0].chunk.source == "备份.md"
    assert {hit.dense for hit in hits} == {None}
