import json
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from click.testing import CliRunner

from kbqa.analyzer import question_terms
from kbqa.build import Installation
from kbqa.cli import kbqa
from kbqa.config import Config, Home, RerankerConfig, RetrievalConfig, load_config
from kbqa.errors import ConfigError, KbqaError, QuestionError
from kbqa.retriever import Retriever, SynonymFile, expand
from kbqa.retriever.cross_encoder import CrossEncoderReranker
from kbqa.retriever.followup import leaning, standalone
from kbqa.retriever.fusion import calibrated, reordered
from kbqa.retriever.numerals import spellings
from kbqa.retriever.passages import Passages
from kbqa.retriever.subject import named, stands_in
from kbqa.retriever.synonyms import Synonyms, common
from kbqa.types import REFUSAL, Block, Chunk, Document

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


def test_only_passages_that_fit_are_found_however_deep_they_lie(kb):
    wanted = kb.retriever.search_among("员工备份年假住宿", 2, lambda chunk: chunk.source == "资料.md")
    assert [hit.chunk.source for hit in wanted.hits] == ["资料.md"]
    everything = kb.retriever.search_among("员工备份年假住宿", 2, lambda chunk: True)
    assert everything == kb.search("员工备份年假住宿", 2)
    nothing = kb.retriever.search_among("员工备份年假住宿", 2, lambda chunk: False)
    assert (nothing.hits, nothing.confidence) == ((), 0.0)
    with pytest.raises(QuestionError):
        kb.retriever.search_among(" ", 2, lambda chunk: True)


def test_a_document_that_is_removed_while_a_search_looks_is_left_out(kb):
    ids = [chunk_id for chunk_id, _ in kb.store.search_words(question_terms("员工备份年假"), 10)]
    passages = Passages(kb.store, ids)
    assert set(passages.titles.values()) == {"年假", "差旅", "备份", "资料"}
    first = passages.read(ids[:1])
    with kb.store.write() as writer:
        for source in TEXTS:
            writer.remove(source)
    assert passages.read(ids) == first, "what was read before is still at hand"
    assert [passages.get(i) is None for i in ids] == [False, *[True] * (len(ids) - 1)]


@pytest.mark.parametrize("question", ["a", "什么？", "the", "为什么", "多少钱？"])
def test_a_question_about_nothing_is_not_answered(kb, question):
    assert kb.search(question).confidence == 0


def test_confidence_tells_what_is_told_from_what_is_not(kb):
    told = kb.search("员工每年有几天带薪年假？").confidence
    untold = kb.search("公司食堂的营业时间是几点？").confidence
    other_number = kb.search("普通员工在三类城市的住宿费每天多少？").confidence
    assert told > 0.8
    assert untold < 0.1
    assert other_number < kb.search("普通员工在一类城市的住宿费每天多少？").confidence


TWO_COMPANIES = {
    "蓝天旅游": "蓝天旅游2021年的净利润为三百万元，员工满意度为百分之八十。",
    "绿源环保": "绿源环保2021年的净利润为五百万元，在社区投资了二十万元。",
}


def companies():
    for number, (title, text) in enumerate(TWO_COMPANIES.items()):
        yield Document(f"{title}.md", title, (Block("text", text),), f"{number:064}", "md")


def test_a_comparison_is_as_sure_as_what_is_compared_although_no_passage_holds_both(tmp_path):
    with Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", companies()) as base:
        both = base.search("比较蓝天旅游和绿源环保2021年的净利润，哪家公司的净利润更高？").confidence
        one_is_unknown = base.search("比较蓝天旅游和光明乳业2021年的净利润，哪家公司的净利润更高？").confidence
        summary = base.search("结合蓝天旅游的报告，总结其2021年的净利润和员工满意度。").confidence
        nothing = base.search("请总结一下食堂的菜单。").confidence
    assert both > 0.6 > one_is_unknown
    assert summary > 0.6
    assert nothing < 0.1


@pytest.mark.parametrize("question", ["", "  \n\t "])
def test_an_empty_question_is_refused(kb, question):
    with pytest.raises(QuestionError, match="empty"):
        kb.search(question)


def test_an_overlong_question_is_refused_with_the_limit(kb):
    with pytest.raises(QuestionError, match="4000"):
        kb.search("年" * 4001)


def test_a_question_of_signs_alone_finds_nothing_it_is_sure_of(kb):
    assert kb.search("？？！").confidence == 0


def test_who_asks_for_the_own_company_is_answered_as_who_does_not(kb):
    assert kb.search("我们公司年假有几天？") == kb.search("年假有几天?")
    told = kb.retriever.search("公司普通员工呢？", history=[("请问公司住宿费每天多少？", "……")])
    assert told == kb.retriever.search("普通员工呢?", history=[("住宿费每天多少?", "……")])


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


@pytest.mark.parametrize(
    ("question", "previous", "whole"),
    [
        ("那成都呢？", "去北京出差，住宿费多少？", "去成都出差，住宿费多少？"),
        ("9月呢？", "华东大区8月的销售额是多少？", "华东大区9月的销售额是多少？"),
        ("那第二年呢？", "第一年的折旧率是多少？", "第二年的折旧率是多少？"),
        ("8.1.0 呢？", "TiDB 7.5.0 是哪天发布的？", "TiDB 8.1.0 是哪天发布的？"),
        ("那 PD 呢？", "生产环境部署 TiKV 要多少内存？", "生产环境部署 PD 要多少内存？"),
        ("逻辑导入模式呢？", "物理导入模式的速度是多少？", "逻辑导入模式的速度是多少？"),
        ("TiProxy 的呢？", "TiDB 的默认端口是多少？", "TiProxy 的默认端口是多少？"),
        ("不是增量，我要问全量备份", "数据库的增量备份几点做？", "数据库的全量备份几点做？"),
        ("What about E20?", "What does E12 mean?", "What does E20 mean?"),
    ],
)
def test_a_word_takes_the_place_of_one_of_its_kind(question, previous, whole):
    assert leaning(question) == "yes"
    assert standalone(question, previous) == whole


def test_a_name_of_single_characters_has_a_counterpart():
    assert standalone("年假呢？", "婚假有几天？") == "年假有几天？"
    assert standalone("那婚假呢？", "公司年假有几天？") == "公司婚假有几天？"
    assert standalone("六十万的呢？", "八万元的采购由谁批准？") == "六十万的采购由谁批准？"


@pytest.mark.parametrize(
    ("question", "previous", "whole"),
    [
        ("它的重量呢？", "X200网关的额定功耗是多少？", "X200网关的额定功耗，它的重量呢？"),
        ("其默认值是什么？", "tidb_gc_life_time 有什么用？", "tidb_gc_life_time，其默认值是什么？"),
        ("该合同由谁签字？", "测控主板的合同编号是什么？", "测控主板的合同编号，该合同由谁签字？"),
        ("我是说研发岗位", "试用期有多长？", "研发岗位，试用期有多长？"),
        ("和二等座有什么不同？", "一等座给谁坐？", "一等座给谁坐，和二等座有什么不同？"),
        ("为什么？", "年假不能顺延吗？", "年假不能顺延，为什么？"),
        ("And what is its scope?", "What does gc_life_time do?", "What does gc_life_time do, what is its scope?"),
    ],
)
def test_what_has_no_counterpart_is_put_beside_the_question_before(question, previous, whole):
    assert leaning(question) == "yes"
    assert standalone(question, previous) == whole


@pytest.mark.parametrize(
    "question",
    [
        "数据库的全量备份在每周几进行？",
        "马其顿即将离任的总统是谁？",
        "出差回来应该怎么报销差旅费？",
        "其他城市的住宿费标准是多少？",
        "《阿三哥出马》这部影片是谁拍的？",
        "杨丽音和张国立的女儿，她的丈夫是谁？",
        "How did the company improve its liquidity in 2021?",
        "这个月有多少天需要值班？",
        "年假有几天？",  # two words to jieba, of one character each
        "谢谢！",
    ],
)
def test_a_question_of_its_own_is_not_taken_for_a_follow_up(question):
    assert leaning(question) != "yes"


def test_a_first_question_stays_as_it_is(kb):
    assert standalone("它呢？", "") == "它呢？"
    assert kb.retriever.search("那年假呢？").question == "那年假呢？"


@pytest.fixture
def company(tmp_path):
    texts = {
        "X200.md": "X200网关的额定功耗为12W。X200网关的重量为1.5千克。X200网关的联系人是许红。",
        "X300.md": "X300网关的额定功耗为18W。X300网关的重量为2.5千克。X300网关的联系人是林建国。",
        "热线.md": "服务热线是400-618-2023，工作日有人接听。",
    }
    made = [
        Document(source, source.removesuffix(".md"), (Block("text", text),), f"{number:064}", "md")
        for number, (source, text) in enumerate(texts.items())
    ]
    with Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", made) as base:
        yield base


def turns(*questions):
    return [(question, "……") for question in questions]


def test_a_chain_of_follow_ups_reaches_back_to_the_subject(company):
    history = turns("X300网关的额定功耗是多少？", "它的重量呢？")
    assert company.retriever.search("联系人是谁？", history=history).hits[0].chunk.source == "X300.md"
    history = turns("X300网关的额定功耗是多少？", "那X200呢？")
    assert company.retriever.search("它的联系人呢？", history=history).hits[0].chunk.source == "X200.md"


def test_a_short_new_question_is_not_mixed_with_the_one_before(company):
    found = company.retriever.search("服务热线是多少？", history=turns("X200网关的重量是多少？"))
    assert found == company.retriever.search("服务热线是多少？")
    after = company.retriever.search("那X300的重量呢？", history=turns("X200网关的重量是多少？", "服务热线是多少？"))
    assert after.hits[0].chunk.source == "X300.md"


def test_a_new_question_about_something_of_two_characters_is_not_mixed_with_the_one_before(kb):
    found = kb.retriever.search("年假有几天？", history=turns("普通员工的住宿费每天多少？"))
    assert found == kb.retriever.search("年假有几天？")


def test_a_new_question_is_not_mixed_with_one_that_was_refused(company):
    refused = [("X300网关的保修期是多久？", REFUSAL)]
    assert company.retriever.search("联系人是谁？", history=refused) == company.retriever.search("联系人是谁？")
    assert company.retriever.search("它的联系人呢？", history=refused).hits[0].chunk.source == "X300.md"
    history = [*turns("X300网关的额定功耗是多少？"), ("它的保修期呢？", REFUSAL)]
    assert company.retriever.search("联系人是谁？", history=history).hits[0].chunk.source == "X300.md"


def test_words_of_the_question_before_weigh_less_than_those_asked_now(company):
    found = company.retriever.search("它的重量呢？", history=turns("X200网关的额定功耗是多少？"))
    alone = company.retriever.search("X200网关的额定功耗和重量").weights
    assert found.weights["重量"] == alone["重量"]
    assert found.weights["功耗"] == alone["功耗"] / 2


def test_a_follow_up_that_no_passage_speaks_of_is_not_answered_with_the_words_of_the_question_before(company):
    history = turns("X200网关的额定功耗是多少？")
    assert company.retriever.search("它的重量呢？", history=history).confidence > 0.5
    assert company.retriever.search("它的保修期呢？", history=history).confidence == 0


def handbook(tmp_path):

    table = Block("table", "工作年限 | 天数\n满1年不满5年 | 7天\n满5年不满15年 | 12天", header_rows=1)
    blocks = (
        Block("heading", "休假", level=1),
        Block("text", "年休假按工作年限计算，见下表。"),
        table,
        Block("heading", "费用", level=1),
        Block("text", "住宿费限额报销，标准见附表一。"),
        Block("text", "误餐补贴每天二十五元。"),
        Block("heading", "附表一", level=1),
        Block("table", "级别 | 元\n一级 | 800\n二级 | 600", header_rows=1),
    )
    document = Document("手册.md", "手册", blocks, "0" * 64, "md")
    others = [
        Document(f"{n}.md", f"{n}", (Block("text", f"第{n}号仓库存放住宿用品。"),), f"{n:064}", "md") for n in range(9)
    ]
    return Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", [document, *others])


def test_a_follow_up_with_a_number_is_told_by_the_row_whose_range_holds_it(tmp_path):
    with handbook(tmp_path) as kb:
        found = kb.retriever.search("那满十年的呢？", history=turns("年假有几天？"))
        assert found.confidence > kb.retrieval.min_confidence
        assert kb.ask("那满十年的呢？", turns("年假有几天？")).text == "工作年限：满5年不满15年；天数：12天"


def test_the_table_that_a_passage_points_at_is_found_with_it(tmp_path):
    with handbook(tmp_path) as kb:
        first, second, *_ = kb.search("住宿费限额报销标准是多少？").hits
        assert (first.chunk.heading, second.chunk.heading) == ("费用", "附表一")
        assert len({hit.chunk.id for hit in kb.search("住宿费限额报销标准是多少？", 50).hits}) == kb.store.chunk_count


def test_the_table_is_found_behind_many_passages_that_point_at_it_and_only_the_last_hit_gives_way(tmp_path):
    rules = [
        block
        for n in range(40)
        for block in (Block("heading", f"第{n}条", level=1), Block("text", f"住宿费限额第{n}种情形，见附表 1。"))
    ]
    annex = [Block("heading", "附表一", level=1), Block("table", "级别 | 元\n一级 | 800", header_rows=1)]
    document = Document("手册.md", "手册", (*rules, *annex), "0" * 64, "md")
    with Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", [document]) as kb:
        five = [hit.chunk.heading for hit in kb.search("住宿费限额第3种情形是多少？", 5).hits]
        assert five[1] == "附表一"
        assert (len(five), len(set(five))) == (5, 5)
        (only,) = kb.search("住宿费限额第3种情形是多少？", 1).hits
        assert only.chunk.heading == five[0]


def test_a_long_conversation_does_not_get_slow_or_too_long(company):
    history = turns(*["它的重量呢？"] * 3000, "X200网关的额定功耗是多少？" * 200)
    assert company.retriever.search("它的联系人呢？", history=history).hits


# --- synonyms --------------------------------------------------------------------------------------------------------

BOTH_NAMES = {
    "手册.md": "员工每年享有十天年休假。年休假可以顺延至次年3月31日。",
    "人事.md": "人力资源部负责员工的入职手续，办公地点在三楼。",
    "通知.md": "HR 于九月组织体检。",
    "平台.md": "知识库每周日备份一次。",
}


@pytest.fixture
def named_otherwise(tmp_path):
    """A function: the text of a file of synonyms -> a retriever that knows them."""
    made = [
        Document(source, source.removesuffix(".md"), (Block("text", text),), f"{number:064}", "md")
        for number, (source, text) in enumerate(BOTH_NAMES.items())
    ]
    path = tmp_path / "库.synonyms.txt"
    with Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", made) as base:

        def retriever(text):
            path.write_text(text, encoding="utf-8")
            return Retriever(base.store, base.embedder, base.retrieval, SynonymFile(path))

        yield retriever


def test_a_question_is_put_in_the_words_of_the_documents(named_otherwise):
    without = named_otherwise("").search("带薪假可以顺延到什么时候？")
    found = named_otherwise("年假, 年休假，带薪假").search("带薪假可以顺延到什么时候？")
    assert found.question == "年休假可以顺延到什么时候?"
    assert found.hits[0].chunk.source == "手册.md"
    assert found.confidence > 0.5 > without.confidence
    assert "年休假" in found.weights or {"年", "休假"} <= found.weights.keys()


def test_what_the_documents_call_by_the_question_s_own_word_comes_first(named_otherwise):
    retriever = named_otherwise("HR, 人力资源部")
    assert retriever.search("HR 做什么？").hits[0].chunk.source == "通知.md"
    assert retriever.search("人力资源部做什么？").hits[0].chunk.source == "人事.md"
    assert retriever.search("HR 做什么？").question == "HR 做什么？"
    assert {hit.chunk.source for hit in retriever.search("HR 做什么？").hits} >= {"通知.md", "人事.md"}


def test_an_arrow_works_one_way(named_otherwise):
    retriever = named_otherwise("KB => 知识库")
    assert retriever.search("KB 多久备份一次？").question == "知识库 多久备份一次?"
    assert retriever.search("知识库多久备份一次？").question == "知识库多久备份一次？"


def test_a_name_must_stand_whole_in_the_question():
    synonyms = Synonyms.parse("HR, 人力资源部\n年假, 年休假\n带薪年假, 带薪假\n重, 重量", "文件")
    assert synonyms.named("three persons") == {}
    assert synonyms.named("带薪年假有几天") == {"带薪年假": ("带薪假",)}
    assert synonyms.named("重庆分公司在哪里") == {}
    assert synonyms.named("網關有多少人力資源部員工？ＨＲ呢") == {"hr": ("人力资源部",), "人力资源部": ("hr",)}


def test_a_name_of_two_groups_has_the_others_of_both():
    assert Synonyms.parse("甲方, 业主\n业主, 委托人", "文件").named("业主是谁")["业主"] == ("甲方", "委托人")


def test_comments_and_empty_lines_say_nothing():
    assert (
        Synonyms.parse("\ufeff# 年假, 年休假\n\n   \n  # KB => 知识库\n".removeprefix("\ufeff"), "文件") == Synonyms()
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("年假", "'年假' is one name"),
        ("年假, 年假,", "is one name"),
        ("KB =>", "one side of =>"),
        ("=> 知识库", "one side of =>"),
        ("KB => 知识库 => 资料库", "more than one =>"),
        ("年假, ——", "'——' holds no letter or digit"),
        ("!", "nothing stands behind !"),
    ],
)
def test_a_line_that_cannot_be_understood_is_named(tmp_path, line, said):
    path = tmp_path / "库.synonyms.txt"
    path.write_text(f"# 同义词\n病假, 病休\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as error:
        SynonymFile(path)
    assert str(error.value).startswith(f"{path}, line 3: ")
    assert said in str(error.value)


def test_a_file_in_another_encoding_is_refused(tmp_path):
    (tmp_path / "库.synonyms.txt").write_bytes("年假, 年休假".encode("gb18030"))
    with pytest.raises(ConfigError, match="UTF-8"):
        SynonymFile(tmp_path / "库.synonyms.txt")


def test_a_running_process_notices_that_the_file_has_changed(tmp_path, caplog):
    path = tmp_path / "库.synonyms.txt"
    file = SynonymFile(path)
    assert file.current.named("病假") == {}
    path.write_text("病假, 病休", encoding="utf-8")
    assert file.current.named("病假") == {"病假": ("病休",)}
    path.write_text("病假, 病休\n年假", encoding="utf-8")
    assert file.current.named("病假") == {"病假": ("病休",)}, "as before, while it cannot be understood"
    assert f"{path}, line 2: " in caplog.text
    path.unlink()
    assert file.current == common()


def test_what_every_office_calls_by_two_names_is_known_to_every_base(named_otherwise):
    found = named_otherwise("").search("帶薪年假有幾天？")
    assert found.question == "年休假有几天?"
    assert found.hits[0].chunk.source == "手册.md"
    assert found.confidence > 0.5 > named_otherwise("! *").search("帶薪年假有幾天？").confidence


@pytest.mark.parametrize(
    "question",
    [
        "今年假期怎么安排？",
        "青年假日酒店在哪里？",
        "产假有几天？",
        "陪产假有几天？",
        "合同的定金",
        "three",
        "一年几次？",
    ],
)
def test_what_only_looks_like_a_common_name_names_nothing(question):
    assert common().named(question) == {}


def test_a_day_is_no_night_and_a_hotel_no_allowance_in_every_base():
    assert common().named("每天查房几次？") == {"每天": ("每日",)}
    assert common().named("出差住酒店一天多少钱？") == {}


def test_a_base_adds_to_the_common_names_and_switches_them_off():
    def others(own):
        return Synonyms.parse(own, "文件").beside(common()).named("年假").get("年假", ())

    assert others("") == ("年休假", "带薪年假", "带薪年休假")
    assert others("年假, 带薪假") == ("带薪假", "年休假", "带薪年假", "带薪年休假")
    assert others("! 年假\n年假, 带薪假") == ("带薪假",)
    assert others("！带薪年假、带薪年休假") == ("年休假",)
    assert others("! *\n年假, 带薪假") == ("带薪假",)
    assert others("! *") == ()


def test_the_common_names_are_looked_up_in_no_time():
    common()
    start = time.perf_counter()
    for _ in range(1000):
        common().named("去北京出差住宿费每天能报多少？")
    assert time.perf_counter() - start < 1


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("question", "written", "other"),
    [
        ("罚款三百元吗", "三百元", "300元"),
        ("罚款300元吗", "300元", "三百元"),
        ("最多2万元", "2万元", "两万元"),
        ("租金一万九千元", "一万九千元", "19,000元"),
        ("光源用到20000小时", "20000小时", "两万小时"),
        ("注册资本一亿二千万元", "一亿二千万元", "120000000元"),
        ("超过十五天", "十五天", "15 天"),
        ("见第三章", "三章", "3章"),
        ("占15%", "15%", "百分之十五"),
        ("低于百分之十九点五", "百分之十九点五", "19.5%"),
        ("2024年3月的价格", "2024年3月", "2024-03"),
        ("2024/3/5的会议", "2024/3/5", "2024年3月5日"),
        ("二〇二四年的计划", "二〇二四年", "2024年"),
    ],
)
def test_a_number_is_looked_for_in_its_other_spellings(question, written, other):
    assert other in spellings(question)[written]


@pytest.mark.parametrize(
    ("question", "written", "others"),
    [
        ("车位多少钱一个月？", "一个月", ("每个月", "每月")),
        ("补助一天多少", "一天", ("每天", "每日")),
        ("一年体检几次？", "一年", ("每年", "每一年")),
    ],
)
def test_what_is_asked_for_one_month_is_told_for_each(question, written, others):
    assert spellings(question) == {written: others}


@pytest.mark.parametrize(
    "question", ["满一年有多少年假？", "入职一年多少钱", "一年以上的多少", "试用期一年工资多少", "住酒店一晚多少钱"]
)
def test_a_year_of_service_is_not_each_year(question):
    assert spellings(question) == {}


@pytest.mark.parametrize(
    "question", ["三四天", "一个", "三国演义", "五一放假", "192.168.1.1", "v7.5.0", "7.5.0 的发布", ""]
)
def test_what_counts_nothing_is_no_number(question):
    assert spellings(question) == {}


@pytest.mark.parametrize(
    "question", ["连续出差超过15天由谁批准？", "连续出差超过１５ 天由谁批准？", "连续出差超过十五天由谁批准？"]
)
@pytest.mark.parametrize("told", ["十五天", "15天", "15 天"])
def test_numbers_meet_however_they_are_written(tmp_path, question, told):
    texts = [f"连续出差超过{told}的，由分管副总经理批准。", "连续出差超过二十五天的，由总经理批准。"]
    made = [
        Document(f"{number}.md", "制度", (Block("text", text),), f"{number:064}", "md")
        for number, text in enumerate(texts)
    ]
    with Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", made) as base:
        assert base.search(question).hits[0].chunk.source == "0.md"
        assert base.ask(question).text == texts[0]


@pytest.mark.parametrize(
    ("name", "text", "stands"),
    [("5%", "增长1.5%", False), ("5%", "增长5%。", True), ("十天", "二十天", False), ("3个月", "13个月", False)],
)
def test_a_number_does_not_stand_within_a_longer_one(name, text, stands):
    assert stands_in(name, text) is stands


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


def test_an_english_word_is_found_in_its_other_forms(tmp_path):
    texts = ["Fabrikon restructured its debts.", "Fabrikon paid a dividend.", "Fabrikon opened a plant."]
    made = [Document(f"{n}.md", f"{n}", (Block("text", text),), f"{n:064}", "md") for n, text in enumerate(texts)]
    config = Config(retrieval=RetrievalConfig(dense_weight=0.0))
    with Installation(Home(tmp_path), config).temporary_base(tmp_path / "库", made) as base:
        assert base.search("Who is restructuring debt?").hits[0].chunk.source == "0.md"


# --- fusion ----------------------------------------------------------------------------------------------------------


def test_more_weight_of_the_dense_arm_lets_its_candidates_overtake():
    chunks = {1: chunk(1, "甲", "年假"), 2: chunk(2, "乙", "带薪休假")}
    titles = {i: it.title for i, it in chunks.items()}
    found = calibrated("年假有几天？", chunks, titles, {1: 9.0}, {1: 0.1, 2: 0.7})
    assert [i for i, _ in found.ranked(0.2)] == [1, 2]
    assert [i for i, _ in found.ranked(0.8)] == [2, 1]
    assert found.ranked(0.0) == [(1, 1.0), (2, 0.0)]


def test_cosines_that_lie_close_together_hardly_count():
    chunks = {1: chunk(1, "甲", "年假"), 2: chunk(2, "乙", "带薪休假")}
    titles = {i: it.title for i, it in chunks.items()}
    found = calibrated("年假有几天？", chunks, titles, {1: 9.0, 2: 8.0}, {1: 0.3, 2: 0.301})
    assert [i for i, _ in found.ranked(0.8)] == [1, 2]


# --- reranking -------------------------------------------------------------------------------------------------------

RULES = {
    "旧制度.md": "年假有几天？年假为五天，已经废止。",
    "新制度.md": "员工每年享有十天带薪年假。本条现行有效。",
    "食堂.md": "食堂每天供应午餐。",
}
LIKED, DISLIKED = "现行", "废止"


def make_cross_encoder(folder, labels=1, gain=4.0):
    """A BERT whose weights are set by hand: it likes pairs that hold many characters of LIKED, and not DISLIKED.

    Attention is uniform, so that [CLS] holds the mean of all tokens' vectors; of these only two components count.
    """
    import torch
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder.mkdir(parents=True)
    characters = sorted({character for text in RULES.values() for character in text})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=4,
            num_hidden_layers=1,
            num_attention_heads=1,
            intermediate_size=4,
            max_position_embeddings=64,
            layer_norm_eps=1.0,  # so that the length of a vector still tells after a layer norm
            num_labels=labels,
        )
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "LayerNorm.weight" not in name:
                parameter.zero_()
        for sign, characters in ((1.0, LIKED), (-1.0, DISLIKED)):
            for character in characters:
                at = vocabulary.index(character)
                model.bert.embeddings.word_embeddings.weight[at, :2] = torch.tensor([sign, -sign])
        layer = model.bert.encoder.layer[0].attention
        layer.self.value.weight.copy_(torch.eye(4))
        layer.output.dense.weight.copy_(torch.eye(4))
        model.bert.pooler.dense.weight[0, 0] = 4.0
        model.classifier.weight[0, 0] = gain
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    return make_cross_encoder(tmp_path_factory.mktemp("models") / "tiny-reranker")


class SharedCharacters:
    """A small honest reranker: the share of the question's characters that a passage holds. Counts its calls."""

    name = "shared characters"

    def __init__(self):
        self.read = []

    def score(self, question, passages):
        self.read.append((question, list(passages)))
        return [sum(character in passage for character in question) / len(question) for passage in passages]


@pytest.fixture(params=["cross-encoder", "shared characters"])
def reranker(request):
    if request.param == "shared characters":
        return SharedCharacters()
    return CrossEncoderReranker(str(request.getfixturevalue("cross_encoder")), device="cpu", batch_size=2)


def test_every_passage_is_judged_in_its_place_between_0_and_1(reranker):
    passages = [*RULES.values(), "", "🙂", "年假" * 500] * 3
    scores = reranker.score("年假有几天？", passages)
    assert all(isinstance(score, float) and 0 <= score <= 1 for score in scores)
    assert scores[:6] == pytest.approx(scores[6:12], abs=1e-5)
    assert scores[1] == pytest.approx(reranker.score("年假有几天？", [RULES["新制度.md"]])[0], abs=1e-5)
    assert reranker.score("年假有几天？", []) == []


def test_threads_may_share_a_reranker(reranker):
    expected = reranker.score("年假有几天？", list(RULES.values()))
    with ThreadPoolExecutor(4) as pool:
        for scores in pool.map(lambda _: reranker.score("年假有几天？", list(RULES.values())), range(8)):
            assert scores == pytest.approx(expected, abs=1e-5)


def test_a_cross_encoder_says_what_its_weights_say(cross_encoder):
    old, new, canteen = CrossEncoderReranker(str(cross_encoder), device="cpu").score("年假有几天？", [*RULES.values()])
    assert old < 0.45 < canteen < 0.55 < new


def test_judgements_reorder_and_those_not_judged_stay_behind():
    ranking = [(1, 1.0), (2, 0.9), (3, 0.8), (4, 0.7)]
    assert [i for i, _ in reordered(ranking, [0.1, 0.2, 0.9], 0.7)] == [3, 2, 1, 4]
    assert reordered(ranking, [0.1, 0.2, 0.9], 0.0) == ranking
    assert [i for i, _ in reordered(ranking, [0.001, 0.002, 0.003], 0.7)] == [1, 2, 3, 4], "all alike: nothing is said"
    scores = [score for _, score in reordered(ranking, [0.0, 1.0], 0.5)]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


@pytest.fixture
def rules(tmp_path):
    """A function: settings of the reranker, and the reranker -> a retriever of RULES."""
    made = [
        Document(source, source.removesuffix(".md"), (Block("text", text),), f"{number:064}", "md")
        for number, (source, text) in enumerate(RULES.items())
    ]
    with Installation(Home(tmp_path), Config()).temporary_base(tmp_path / "库", made) as base:

        def retriever(reranker, **settings):
            config = replace(base.retrieval, reranker=RerankerConfig("不用", **settings))
            return Retriever(base.store, base.embedder, config, reranker=lambda: reranker)

        yield retriever


def test_only_the_best_candidates_are_read(rules):
    fake = SharedCharacters()
    hits = rules(fake, candidates=2).search("年假有几天？", 3).hits
    assert [len(passages) for _, passages in fake.read] == [2]
    assert [hit.reranked is None for hit in hits] == [False, False, True]
    assert fake.read[0][1][0].startswith("旧制度\n"), "the context is read too"


def test_a_follow_up_is_judged_once_and_as_it_was_searched_for(rules):
    fake = SharedCharacters()
    found = rules(fake).search("那食堂呢？", history=[("年假有几天？", "十天")])
    assert [question for question, _ in fake.read] == [found.question]
    assert "食堂" in found.question


def test_each_arm_is_measured_without_the_reranker(rules):
    fake = SharedCharacters()
    rules(fake).fused(0.0).search("年假有几天？")
    assert fake.read == []


# --- reranking through config.yaml and the command line --------------------------------------------------------------


@pytest.fixture
def asked(tmp_path, monkeypatch, cross_encoder):
    """A function: kbqa in a home that holds RULES and a reranker below models/ -> its result."""
    home = tmp_path / "家"
    monkeypatch.delenv("KBQA_HOME", raising=False)

    def run(*arguments, code=0):
        result = CliRunner().invoke(kbqa, ["--home", str(home), *map(str, arguments)])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == code, result.output
        return result

    CliRunner().invoke(kbqa, ["init", str(home)])
    for name, text in RULES.items():
        (home / "knowledge" / "default" / name).write_text(text, encoding="utf-8")
    shutil.copytree(cross_encoder, home / "models" / "tiny-reranker")
    run("ingest")
    run.home = home
    return run


RERANKED = "retrieval: {reranker: {model: models/tiny-reranker, device: cpu}}"


def first(result):
    return json.loads(result.stdout)["hits"][0]["source"]


def test_the_reranker_of_config_yaml_decides_which_passage_comes_first(asked, monkeypatch):
    question = "年假有几天？"
    assert first(asked("search", question, "--json")) == "旧制度.md"
    (asked.home / "config.yaml").write_text(RERANKED, encoding="utf-8")
    assert first(asked("search", question, "--json")) == "新制度.md"
    assert "十天" in json.loads(asked("ask", question, "--json").stdout)["answer"]
    monkeypatch.setenv("KBQA_RETRIEVAL__RERANKER__WEIGHT", "0")
    assert first(asked("search", question, "--json")) == "旧制度.md"
    monkeypatch.setenv("KBQA_RETRIEVAL__RERANKER", "null")
    monkeypatch.delenv("KBQA_RETRIEVAL__RERANKER__WEIGHT")
    assert first(asked("search", question, "--json")) == "旧制度.md"


def test_eval_and_doctor_know_the_reranker(asked, tmp_path):
    (asked.home / "config.yaml").write_text(RERANKED, encoding="utf-8")
    questions = tmp_path / "问题"
    questions.mkdir()
    rows = [{"id": source, "title": "", "text": text} for source, text in RULES.items()]
    for name, lines in (("corpus", rows), ("queries", [{"id": "1", "text": "年假有几天？"}])):
        text = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
        (questions / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (questions / "qrels.tsv").write_text("1\t新制度.md\t1\n", encoding="utf-8")
    arms = json.loads(asked("eval", "retrieval", questions, "--json").stdout)["arms"]
    assert [arms[arm]["recall@1"] for arm in ("lexical", "hybrid", "reranked")] == [0.0, 0.0, 1.0]
    findings = json.loads(asked("doctor", "--json").stdout)["findings"]
    [found] = [finding for finding in findings if finding["subject"] == "reranker"]
    assert (found["level"], found["detail"]) == ("ok", "cross-encoder:tiny-reranker")


def test_taking_documents_in_needs_no_reranker(asked):
    (asked.home / "config.yaml").write_text("retrieval: {reranker: {model: models/fort}}", encoding="utf-8")
    asked("ingest")
    assert "retrieval.reranker.model models/fort is neither a folder" in asked("search", "年假", code=1).stderr
    findings = json.loads(asked("doctor", "--json", code=1).stdout)["findings"]
    assert [found["subject"] for found in findings if found["level"] == "fail"] == ["reranker"]


def test_the_reranker_is_loaded_once_whoever_comes_first(asked):
    (asked.home / "config.yaml").write_text(RERANKED, encoding="utf-8")
    installation = Installation(Home(asked.home), load_config(Home(asked.home), {}))
    with ThreadPoolExecutor(4) as pool:
        assert len({id(reranker) for reranker in pool.map(lambda _: installation.reranker(), range(8))}) == 1


def test_a_folder_that_is_no_cross_encoder_is_refused(tmp_path, cross_encoder):
    from transformers import BertConfig, BertModel

    embedder = tmp_path / "bge-small-zh"
    shutil.copytree(cross_encoder, embedder)
    BertModel(BertConfig(vocab_size=40, hidden_size=4, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        embedder
    )
    with pytest.raises(ConfigError, match="bge-small-zh is no cross-encoder but a BertModel"):
        CrossEncoderReranker(str(embedder), device="cpu")
    (tmp_path / "leer").mkdir()
    with pytest.raises(ConfigError, match=r"retrieval\.reranker\.model .*leer holds no model"):
        CrossEncoderReranker(str(tmp_path / "leer"))
    broken = tmp_path / "kaputt"
    shutil.copytree(cross_encoder, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ConfigError, match="kaputt cannot be loaded by sentence-transformers"):
        CrossEncoderReranker(str(broken), device="cpu")
    (broken / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read as JSON"):
        CrossEncoderReranker(str(broken), device="cpu")


def test_without_the_packages_the_extra_is_named(cross_encoder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"retrieval\.reranker\.model needs more packages; pip install 'kbqa\[st\]'"):
        CrossEncoderReranker(str(cross_encoder))


def test_a_model_that_tells_classes_apart_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="tells 3 classes apart"):
        CrossEncoderReranker(str(make_cross_encoder(tmp_path / "nli", labels=3)), device="cpu")


def test_scores_that_are_no_numbers_are_an_error(tmp_path):
    broken = CrossEncoderReranker(str(make_cross_encoder(tmp_path / "kaputt", gain=float("nan"))), device="cpu")
    with pytest.raises(KbqaError, match="scores that are no numbers"):
        broken.score("年假有几天？", ["年假"])
