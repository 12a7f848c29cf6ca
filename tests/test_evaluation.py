"""The figures that kbqa measures itself by: on small folders through the real parts, formulas by hand."""

import json
import math
import re
import shutil
from random import Random

import pytest
from click.testing import CliRunner

from kbqa.build import Installation
from kbqa.cli import kbqa, screen
from kbqa.config import Config, Home, RetrievalConfig
from kbqa.embedders.static import SHIPPED, StaticEmbedder
from kbqa.embedders.weight import WEIGHT_FILE, own_weight
from kbqa.errors import ConfigError
from kbqa.evaluation import (
    AnswersReport,
    Comparison,
    FusionReport,
    FusionScores,
    Question,
    RefusalReport,
    Reply,
    evaluate_answers,
    evaluate_fusion,
    evaluate_refusal,
    evaluate_retrieval,
    evaluate_support,
    load_benchmark,
    load_questions,
    located,
    measure_support,
    opened,
    support_cases,
)
from kbqa.evaluation.fusion import WEIGHTS
from kbqa.evaluation.perturb import FALSE, TRUE, Setting, variants
from kbqa.evaluation.retrieval import _ndcg
from kbqa.evaluation.scores import contains, exact_match, f1, plain
from kbqa.support import Support
from kbqa.types import REFUSAL

CORPUS = {
    "假期": "员工每年享有十天带薪年假。年假须提前三个工作日申请，由部门经理批准。病假须提交医院证明。",
    "住宿": "北京的住宿费每天四百二十元，上海的住宿费每天450元。超过标准的部分由员工本人承担。",
    "备份": "服务器每周日全量备份，由赵国强负责。备份在异地机房保存90天，2019年3月起执行。",
    "仓库": "昆山仓库的面积为12000平方米，存放轴承、齿轮、皮带和电机。仓库温度不得高于30度。",
}
QUERIES = {
    "q1": ("带薪年假有几天？", ["10天", "十天"], ["员工每年享有十天带薪年假。"]),
    "q2": ("服务器的備份在哪天？", ["周日"], []),  # traditional characters find simplified text
    "q3": ("昆山仓库的面积是多少？", ["5000平方米"], []),  # a gold answer that no document holds
}
QRELS = [("q1", "假期", 1), ("q2", "备份", 2), ("q2", "假期", 0), ("q3", "仓库", 1)]
UNTOLD = ["董事长的电子邮箱地址是什么？", "公司股票的发行价是多少港币？"]


class Embeddings:
    """What LangChain calls Embeddings: a text's length and its number of different characters."""

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        return [float(len(text)), float(len(set(text)))]


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


@pytest.fixture
def folder(tmp_path):
    """A benchmark in BEIR layout."""
    made = tmp_path / "fragen"
    made.mkdir()
    write_lines(made / "corpus.jsonl", ({"_id": key, "title": "", "text": text} for key, text in CORPUS.items()))
    rows = [{"id": key, "text": q, "answers": a, "evidence": e} for key, (q, a, e) in QUERIES.items()]
    write_lines(made / "queries.jsonl", rows)
    (made / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{grade}\n" for q, d, grade in QRELS)
    )
    write_lines(made / "queries_unanswerable.jsonl", ({"id": f"u{i}", "text": q} for i, q in enumerate(UNTOLD)))
    return made


@pytest.fixture
def files(tmp_path):
    """A benchmark of files of any format."""
    made = tmp_path / "firma"
    (made / "files" / "人事").mkdir(parents=True)
    (made / "files" / "人事" / "年假.md").write_text(f"# 年假\n\n{CORPUS['假期']}\n", encoding="utf-8")
    (made / "files" / "备份.txt").write_bytes(CORPUS["备份"].encode("gb18030"))
    rows = [
        {"id": "1", "question": "带薪年假有几天？", "answers": ["十天"], "answerable": True, "file": "人事/年假.md"},
        {"id": "2", "question": "服务器备份由谁负责？", "answers": ["赵国强"], "answerable": True, "file": "备份.txt"},
        {"id": "3", "question": UNTOLD[0], "answers": [], "answerable": False, "file": None},
    ]
    write_lines(made / "qa.jsonl", rows)
    return made


@pytest.fixture
def open_base(tmp_path):
    return Installation(Home(tmp_path), Config()).temporary_base


# --- retrieval -------------------------------------------------------------------------------------------------------


def test_recall_is_measured_through_the_real_parts(folder, open_base):
    report = evaluate_retrieval(folder, open_base).as_json()
    assert (report["documents"], report["queries"]) == (4, 3)
    assert set(report["arms"]) == {"lexical", "dense", "hybrid"}
    hybrid = report["arms"]["hybrid"]
    assert hybrid["recall@1"] == hybrid["mrr@10"] == hybrid["ndcg@10"] == hybrid["evidence_recall@1"] == 1.0
    assert hybrid["latency_ms"]["p99"] > 0


def test_evidence_is_found_whatever_the_spaces_and_only_in_the_first_chunks(folder, open_base):
    evidence = ["员工 每年享有十天带薪年假。", "服务器每周日全量备份，由赵国强负责。"]
    write_lines(folder / "queries.jsonl", [{"id": "q1", "text": "带薪年假有几天？", "evidence": evidence}])
    hybrid = evaluate_retrieval(folder, open_base).as_json()["arms"]["hybrid"]
    assert (hybrid["evidence_recall@1"], hybrid["evidence_recall@5"]) == (0.5, 1.0)


def test_a_wrong_order_costs_what_the_formula_says():
    """Two graded documents, the better one second: DCG (1/log2(2) + 2/log2(3)) over the ideal (2 + 1/log2(3))."""
    assert math.isclose(_ndcg([1, 2], [1, 2]), (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3)))


@pytest.mark.parametrize("missing", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_a_missing_file_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(ConfigError, match=missing):
        load_benchmark(folder)


def test_a_broken_line_is_named(folder):
    with (folder / "queries.jsonl").open("a") as file:
        file.write("\n{not json\n")
    with pytest.raises(ConfigError, match="line 4"):
        load_benchmark(folder)


def test_a_sample_is_the_same_for_the_same_seed(folder, open_base):
    asked = [
        [reply.question.id for reply in evaluate_answers(folder, open_base, 2, seed).replies]
        for seed in (0, 0, 1, 2, 3)
    ]
    assert asked[0] == asked[1]
    assert len({tuple(ids) for ids in asked}) > 1
    assert all(ids == sorted(ids) and len(ids) == 2 for ids in asked)


# --- the weight of the dense arm -------------------------------------------------------------------------------------


def test_the_weights_of_a_set_are_those_that_a_search_would_have(folder, open_base, tmp_path):
    scores = evaluate_fusion(folder, open_base)
    report = evaluate_retrieval(folder, open_base).as_json()["arms"]
    assert (scores.queries, scores.name) == (3, folder.name)
    assert scores.lexical == report["lexical"]["recall@5"] == scores.hybrid[0]
    assert scores.dense == report["dense"]["recall@5"] == scores.hybrid[-1]


def test_the_best_weight_is_the_best_of_those_that_lose_nothing_on_any_set():
    def scored(name, lexical, dense, **at):
        return FusionScores(name, 9, lexical, dense, tuple(at.get(f"w{int(w * 100)}", lexical) for w in WEIGHTS))

    one = scored("甲", 0.5, 0.4, w20=0.6, w30=0.62, w40=0.9)
    other = scored("乙", 0.8, 0.7, w20=0.798, w30=0.798, w40=0.79)
    report = FusionReport((one, other))
    assert report.best == 0.3
    assert [row["weight"] for row in report.as_json()["weights"] if not row["holds"]] == [0.4]
    assert FusionReport((scored("丙", 0.5, 0.6),)).best is None


def test_of_equal_weights_the_smallest_is_the_best():
    flat = FusionScores("甲", 9, 0.5, 0.4, (0.5, *[0.6] * 20))
    assert FusionReport((flat,)).best == WEIGHTS[1]


def test_the_learned_weight_is_kept_and_counts_in_the_next_search(folder, tmp_path, monkeypatch):
    kept = tmp_path / WEIGHT_FILE
    shutil.copy(SHIPPED, tmp_path / "model.npz")
    monkeypatch.setattr("kbqa.embedders.static.SHIPPED", tmp_path / "model.npz")
    home = tmp_path / "家"
    assert CliRunner().invoke(kbqa, ["init", str(home)]).exit_code == 0
    result = CliRunner().invoke(kbqa, ["--home", str(home), "eval", "fusion", str(folder), "--save", "--json"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["saved"] == str(kept)
    assert told["best"] == own_weight(StaticEmbedder())
    assert [found["dataset"] for found in told["sets"]] == [folder.name]
    table = CliRunner().invoke(kbqa, ["--home", str(home), "eval", "fusion", str(folder)]).stdout.splitlines()
    assert table[0].split("\t") == ["Recall@5", folder.name, "mean", ""]
    assert [line.split("\t")[0] for line in table if line.endswith("best")] == [f"{told['best']:.2f}"]
    with Installation(Home(home), Config()).temporary_base(tmp_path / "库", []) as base:
        assert base.retriever.dense_weight == told["best"]
    config = Config(retrieval=RetrievalConfig(dense_weight=0.7))
    with Installation(Home(home), config).temporary_base(tmp_path / "庫", []) as base:
        assert base.retriever.dense_weight == 0.7


def test_a_weight_is_not_learned_in_vain_where_it_cannot_be_kept(folder, tmp_path):
    (tmp_path / "config.yaml").write_text(
        f"embedder: {{kind: langchain, import_path: {__name__}.Embeddings}}", encoding="utf-8"
    )
    result = CliRunner().invoke(kbqa, ["--home", str(tmp_path), "eval", "fusion", str(folder), "--save"])
    assert result.exit_code == 1
    assert "set retrieval.dense_weight in config.yaml" in result.stderr


# --- scores ----------------------------------------------------------------------------------------------------------


def test_width_script_spaces_and_punctuation_do_not_matter():
    assert plain("「資料庫」 共 １，２００ 条。") == plain("资料库共1200条")
    assert contains("根据文档，数据库共有 1,200 条记录。", ["共有1200条"])
    assert not contains("数据库很大。", ["。", "1200"])  # punctuation alone is no answer
    assert exact_match("《星河》", ["星河"])
    assert not exact_match("《星河》二", ["星河"])


def test_f1_of_chinese_counts_the_longest_common_run():
    # said 6 characters, wanted 4, "十天带薪" in common: 2*4/(6+4)
    assert f1("享有十天带薪。", ["十天带薪"]) == pytest.approx(0.8)
    # 年假 and 十天 are both there, but apart: only one of them counts
    assert f1("年假有十天", ["十天年假"]) == pytest.approx(2 * 2 / (5 + 4))
    assert f1("GLM 模型", ["GLM模型"]) == 1.0  # a Latin word is one token


def test_f1_of_english_counts_the_words_in_common_without_articles():
    assert f1("The new CEO was appointed in January 2021.", ["in January, 2021"]) == pytest.approx(2 * 3 / (7 + 3))
    assert f1("nothing of the kind", ["January 2021", "kind of"]) == pytest.approx(2 * 2 / (3 + 2))  # the best counts


# --- answers ---------------------------------------------------------------------------------------------------------


def test_answers_are_compared_with_gold_answers_and_citations_with_judged_documents(folder, open_base):
    report = evaluate_answers(folder, open_base).as_json()
    assert report["queries"] == 3
    assert report["contains"] == pytest.approx(2 / 3, abs=1e-4)
    assert report["exact_match"] == 0.0
    assert 0 < report["f1"] < 1
    assert report["citation_recall"] == 1.0
    assert report["refused"] == 0
    assert report["mean_length"] > 10


def reply(question="问", answers=("十天",), text="十天", *, cited=(), relevant=(), refused=False, answerable=True):
    asked = Question(question, question, answers, answerable, dict.fromkeys(relevant, 1))
    return Reply(asked, REFUSAL if refused else text, refused, 0.5, cited, 0.0)


def test_a_refusal_is_counted_and_is_a_wrong_answer():
    """Even where the gold answer happens to stand in the words of the refusal."""
    report = AnswersReport([reply(), reply(refused=True, answers=("无法回答",))], 0.0).as_json()
    assert (report["queries"], report["refused"], report["contains"]) == (2, 1, 0.5)
    assert report["exact_match"] == report["f1"] == 0.5
    assert report["mean_length"] == 2.0  # of the answer that was given


def test_citation_precision_is_over_citations_and_recall_over_questions():
    replies = [
        reply(cited=("甲", "甲", "乙", "丙"), relevant=("甲",)),
        reply(cited=("丁",), relevant=("甲", "丁")),
        reply(cited=(), relevant=("甲",)),
        reply(refused=True, relevant=("甲",)),
        reply(cited=("甲",)),  # nothing is judged here
    ]
    report = AnswersReport(replies, 0.0).as_json()
    assert report["citation_precision"] == (2 / 4 + 1) / 2
    assert report["citation_recall"] == 2 / 4


def test_files_of_any_format_with_their_questions_are_a_benchmark_too(files, open_base):
    answers = evaluate_answers(files, open_base).as_json()
    assert (answers["queries"], answers["contains"], answers["citation_recall"]) == (2, 1.0, 1.0)
    refusal = evaluate_refusal(files, open_base).as_json()
    assert refusal["answerable"] == {"asked": 2, "refused": 0}
    assert refusal["unanswerable"] == {"asked": 1, "answered": 0}
    assert evaluate_retrieval(files, open_base).as_json()["arms"]["hybrid"]["recall@1"] == 1.0


def test_without_gold_answers_the_folder_is_named(folder, open_base):
    write_lines(folder / "queries.jsonl", [{"id": "q1", "text": "带薪年假有几天？"}])
    with pytest.raises(ConfigError, match="fragen: no question has a gold answer"):
        evaluate_answers(folder, open_base)


def test_a_question_that_cannot_be_asked_counts_as_refused(folder, open_base):
    write_lines(folder / "queries.jsonl", [{"id": "q1", "text": " ", "answers": ["十天"]}])
    report = evaluate_answers(folder, open_base).as_json()
    assert (report["refused"], report["contains"], report["mean_length"]) == (1, 0.0, None)


def test_a_comparison_lists_what_became_right_and_what_became_wrong():
    right, wrong = reply(), reply(text="五天")
    told, untold = reply(answerable=False), reply(answerable=False, refused=True)
    found = Comparison.of([right, right, wrong, told], [right, wrong, right, untold])
    assert found.better == [(wrong, right), (told, untold)]
    assert found.worse == [(right, wrong)]


# --- refusal ---------------------------------------------------------------------------------------------------------


def test_unanswerable_questions_are_refused_and_answerable_ones_are_not(folder, open_base):
    report = evaluate_refusal(folder, open_base).as_json()
    assert report["answerable"] == {"asked": 3, "refused": 0}
    assert report["unanswerable"] == {"asked": 2, "answered": 0}
    assert report["auc"] == 1.0
    assert report["threshold"] == Config().retrieval.min_confidence
    assert report["at_wrong_refusals"] == {"0.01": 0.0, "0.05": 0.0, "0.10": 0.0}


def test_questions_marked_unanswerable_may_stand_among_the_others(folder, open_base):
    (folder / "queries_unanswerable.jsonl").unlink()
    with (folder / "queries.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + json.dumps({"id": "u0", "text": UNTOLD[0], "answers": [], "answerable": False}))
    report = evaluate_refusal(folder, open_base).as_json()
    assert (report["answerable"]["asked"], report["unanswerable"]["asked"]) == (3, 1)


def with_confidences(values):
    return [Reply(Question("问", "问"), "", False, value, (), 0.0) for value in values]


def refusals(told, untold):
    return RefusalReport(with_confidences(told), with_confidences(untold), 0.3, 0.0)


def test_auc_is_the_share_of_pairs_in_the_right_order_and_ties_count_half():
    # 0.2 beats neither, 0.5 ties with one and beats the other, 0.9 beats both
    assert refusals([0.2, 0.5, 0.9], [0.5, 0.4]).auc == (0 + 0 + 0.5 + 1 + 1 + 1) / 6


def test_the_trade_off_puts_the_threshold_where_so_many_answerable_questions_are_refused():
    told = [i / 100 for i in range(1, 101)]
    report = refusals(told, [0.005, 0.015, 0.055, 0.105, 0.5])
    assert report.answered_at(0.0) == 4 / 5  # the threshold is 0.01, the least confidence of an answerable one
    assert report.answered_at(0.01) == 3 / 5  # 0.02
    assert report.answered_at(0.05) == 2 / 5  # 0.06
    assert report.answered_at(0.10) == pytest.approx(1 / 5)  # 0.11


def test_the_trade_off_runs_from_refusing_nothing_to_refusing_everything():
    assert refusals([0.4, 0.8], [0.4, 0.1]).trade_off() == [(0, 1), (0, 0.5), (0.5, 0), (1, 0)]


def test_a_confidence_that_says_how_often_it_is_right_has_no_calibration_error():
    """Three of four answerable at 0.75 and one of four at 0.25, either kind weighing the same."""
    assert refusals([0.75, 0.75, 0.75, 0.25], [0.75, 0.25, 0.25, 0.25]).calibration_error == pytest.approx(0)
    assert refusals([0.95], [0.95]).calibration_error == pytest.approx(0.45)
    # four times as many answerable ones do not change it
    assert refusals([0.95] * 4, [0.95]).calibration_error == pytest.approx(0.45)


def test_the_reliability_bins_hold_all_questions():
    bins = refusals([0.0, 0.31, 0.99, 1.0], [0.05, 0.39]).bins()
    assert [found.low for found in bins] == [0.0, 0.3, 0.9]
    assert sum(found.weight for found in bins) == pytest.approx(1)
    assert [round(found.answerable, 3) for found in bins] == [0.333, 0.333, 1.0]


def test_without_unanswerable_questions_the_wrong_refusals_are_still_counted(folder, open_base):
    (folder / "queries_unanswerable.jsonl").unlink()
    report = evaluate_refusal(folder, open_base).as_json()
    assert report["answerable"] == {"asked": 3, "refused": 0}
    assert report["auc"] is report["at_wrong_refusals"] is report["calibration_error"] is None


# --- support ---------------------------------------------------------------------------------------------------------

SALES = "2019年3月，华夏公司的销售额为5000万元，净利润增长了12%，由赵国强负责。"
STORED = "仓库存放轴承、齿轮、皮带和电机，面积为12000元。"


@pytest.mark.parametrize(
    ("kind", "sentence", "made"),
    [
        ("verbatim", SALES, {SALES}),
        (
            "led_in",
            "年假有十天。",
            {f"{lead}，年假有十天。" for lead in ("根据已知信息", "根据文档", "资料显示", "文中提到")},
        ),
        ("clause_dropped", SALES, {SALES.replace("，由赵国强负责", "")}),
        ("list_reordered", STORED, {STORED.replace("齿轮、皮带", "皮带、齿轮")}),
        ("date_moved", SALES, {f"{SALES[8:-1]}（2019年3月）。"}),
        ("number_rewritten", "年假有十五天。", {"年假有15天。"}),
        ("number_rewritten", "须在3个工作日内申请。", {"须在三个工作日内申请。"}),
        ("number_rewritten", "利润增长了12.5%。", {"利润增长了百分之12.5。"}),
        ("number_rewritten", "面积为12000元。", {"面积为1.2万元。"}),
        ("joined", "年假有十天。", {"年假有十天，须提前申请。"}),
        ("number_borrowed", "销售额为5000万元。", {"销售额为3000万元。"}),
        ("numbers_interchanged", "收入由300万元增至500万元。", {"收入由500万元增至300万元。"}),
        ("date_swapped", "2019年3月起执行。", {"2020年8月起执行。"}),
        ("negated", "员工不得转借账号。", {"员工可以转借账号。"}),
        ("negated", "账号可以转借。", {"账号不可以转借。"}),
        ("negated", "The plan was approved.", {"The plan was not approved."}),
        ("opposite", "利润比上年增长。", {"利润比上年下降。"}),
        ("opposite", "Sales increased in May.", {"Sales decreased in May."}),
        ("clause_added", "年假有十天。", {"年假有十天，食堂位于二楼大厅。"}),
        ("foreign", "年假有十天。", {"食堂位于二楼大厅。"}),
    ],
)
def test_a_sentence_is_told_otherwise_or_made_false(kind, sentence, made):
    around = ("须提前申请。", "去年的成本为3000万元，共20人。", "2020年8月，公司成立。")
    setting = Setting("须提前申请。", (sentence, *around), "食堂位于二楼大厅。")
    assert dict(variants(sentence, setting, Random(1)))[kind] in made


def test_a_changed_number_keeps_its_length_and_is_another():
    made = [dict(variants("共有4096台。", Setting("", (), ""), Random(seed)))["number_changed"] for seed in range(20)]
    assert all(len(text) == len("共有4096台。") and text != "共有4096台。" for text in made)
    assert len(set(made)) > 5


def test_a_name_is_swapped_for_another_of_its_sort():
    passages = ("会议由曹永廉主持。", "会议在北京举行。", "合同由林则徐签订，货物运往上海。")
    made = {dict(variants(text, Setting("", passages, ""), Random(0)))["name_swapped"] for text in passages[:2]}
    assert made == {"会议由林则徐主持。", "会议在上海举行。"}


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("clause_dropped", "如果下雨，则活动取消，另行通知时间。"),  # without a clause a condition says something else
        ("list_reordered", "甲、乙、丙、丁依次发言。"),
        ("numbers_interchanged", "温度为10度至30度。"),
        ("negated", "星河有限公司成立于昆山。"),  # 有 stands inside a word
        ("number_changed", "2019年3月起执行。"),  # that is a date
    ],
)
def test_where_the_verdict_would_not_be_sure_nothing_is_made(kind, sentence):
    assert kind not in dict(variants(sentence, Setting("", (sentence,), ""), Random(0)))


def test_a_false_sentence_that_the_passages_happen_to_say_is_left_out():
    passages = ("甲厂有5台机床。", "乙厂有7台机床。", "甲厂有7台机床。")
    kinds = dict(variants("甲厂有5台机床。", Setting("", passages, ""), Random(0)))
    assert "number_borrowed" not in kinds


@pytest.fixture
def many(tmp_path):
    """A benchmark with documents enough for foreign sentences."""
    made = tmp_path / "many"
    made.mkdir()
    towns = "北京 上海 广州 深圳 成都 杭州 武汉 西安 重庆 天津 苏州 南京".split()
    texts = [
        f"{town}分公司成立于{2001 + i}年{i + 1}月，现有员工{i * 37 + 20}人。{town}分公司的经理可以批准{i + 3}天以内的"
        f"假期，但是不得批准加班。{town}的仓库存放轴承、齿轮、皮带和电机，面积为{i + 2}000平方米，"
        f"租金为每月{i + 1}5000元。"
        for i, town in enumerate(towns)
    ]
    corpus = {**dict(zip(towns, texts, strict=True)), **CORPUS}
    write_lines(made / "corpus.jsonl", ({"id": key, "title": key, "text": text} for key, text in corpus.items()))
    write_lines(made / "queries.jsonl", ({"id": f"q{t}", "text": f"{t}分公司有多少员工？"} for t in towns))
    (made / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n")
    return made


def test_the_same_seed_gives_the_same_sentences(many, open_base):
    benchmark = load_benchmark(many)
    with opened(benchmark, open_base) as kb:
        first, again, other = (list(support_cases(kb, benchmark, 6, seed)) for seed in (1, 1, 2))
    assert first == again
    assert [case.sentence for case in first] != [case.sentence for case in other]
    assert {case.kind for case in first} >= {"verbatim", "led_in", "foreign", "clause_added"}
    for case in first:
        assert case.true == (case.kind in TRUE)
        assert case.original in "\n".join(chunk.text for chunk in case.passages)
        if case.kind == "foreign":
            assert case.sentence not in "".join(chunk.text for chunk in case.passages)


def test_precision_and_recall_of_a_check_are_what_they_say(many, open_base):
    """One that flags everything, and one that flags nothing."""
    benchmark = load_benchmark(many)

    def flags(verdict):
        return lambda sentence, passages: Support(verdict, None, 0.0)

    with opened(benchmark, open_base) as kb:
        all_, none = (measure_support(kb, benchmark, 8, 0, flags(v)).as_json() for v in ("partly", "supported"))
    false = {kind: scores["count"] for kind, scores in all_["false"].items()}
    true = {kind: scores["count"] for kind, scores in all_["true"].items()}
    assert all_["recall"] == all_["true_flagged"] == 1.0
    assert all_["precision"] == pytest.approx(sum(false.values()) / all_["sentences"], abs=1e-4)
    assert all(scores["precision"] == 0.5 for scores in all_["false"].values())  # each beside its original
    assert sum(false.values()) + sum(true.values()) == all_["sentences"]
    assert (none["recall"], none["true_flagged"], none["precision"]) == (0.0, 0.0, None)


def test_the_check_that_guards_answers_is_what_is_measured(many, open_base):
    report = evaluate_support(many, open_base).as_json()
    assert set(report["true"]) <= set(TRUE)
    assert set(report["false"]) <= set(FALSE)
    assert report["true"]["verbatim"] == {"count": 12, "flagged": 0.0}
    assert report["false"]["foreign"]["recall"] == 1.0
    assert report["quoted"] == 1.0


# --- a user's own questions ------------------------------------------------------------------------------------------


def write_xlsx(path, *sheets):
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    book.remove(book.active)
    for number, rows in enumerate(sheets):
        sheet = book.create_sheet(f"表{number}")
        for row in rows:
            sheet.append(row)
    book.save(path)


def test_a_spreadsheet_of_questions_is_read(tmp_path):
    path = tmp_path / "问题.xlsx"
    rows = [
        ["序号", "问题", "答案1", "答案2", "来源"],
        [1, "年假有几天？", "十天", 10, "年假.md"],
        [2, "单价是多少？", "48500\n四万八千五百元|4.85万元", None, None],
        [None] * 5,
        [3, "注册资本是多少？", "无", None, None],
        [4, "谁批准年假？", None, None, "人事/年假.md|备份.txt"],
    ]
    write_xlsx(path, [["填写说明"], ["请勿修改"]], rows)
    first, second, third, fourth = load_questions(path)
    assert (first.id, first.text, first.answers, list(first.relevant)) == (
        "表1 row 2",
        "年假有几天？",
        ("十天", "10"),
        ["年假.md"],
    )
    assert second.answers == ("48500", "四万八千五百元", "4.85万元")
    assert (third.answerable, third.answers, third.id) == (False, (), "表1 row 5")
    assert (fourth.answerable, fourth.answers, list(fourth.relevant)) == (True, (), ["人事/年假.md", "备份.txt"])


def test_questions_in_csv_and_jsonl_are_read(tmp_path):
    table = tmp_path / "q.csv"
    table.write_bytes("问题;可回答;参考答案\n年假有几天？;是;无\n股价是多少？;否;\n".encode("gb18030"))
    first, second = load_questions(table)
    assert (first.answerable, first.answers) == (True, ("无",))  # said to be an answer
    assert not second.answerable
    lines = tmp_path / "q.jsonl"
    write_lines(
        lines,
        [
            {"question": "年假？", "answers": ["十天", "10天"], "answerable": True, "file": "a.md"},
            {"Q": "股价？", "A": "无法回答"},
        ],
    )
    first, second = load_questions(lines)
    assert (first.answers, list(first.relevant), first.answerable) == (("十天", "10天"), ["a.md"], True)
    assert not second.answerable


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("q.csv", "问题,答案\n年假有几天？,\n", ["row 2", "neither answer nor source", "无"]),
        ("q.csv", "题干,答案\n年假有几天？,十天\n", ["no column of questions", "题干"]),
        ("q.csv", "问题,标准答\n年假有几天？,十天\n", ["no column of answers", "标准答"]),
        ("q.csv", "问题,答案,可回答\n年假有几天？,十天,也许\n", ["row 2", "也许"]),
        ("q.csv", "问题,答案\n", ["no question"]),
        ("q.csv", "", ["no column of questions"]),
        ("q.jsonl", '{"question": "年假？", "answer": "十天"}\n[1]\n', ["line 2"]),
        ("q.jsonl", '{"answer": "十天"}\n', ["line 1", "no question"]),
        ("q.xlsx", "not a workbook", ["cannot be read as a spreadsheet"]),
        ("q.docx", "问题", ["q.docx", "xlsx"]),
        ("", "", ["no file or folder"]),
    ],
)
def test_a_table_that_does_not_do_is_named_with_its_row(tmp_path, name, text, said):
    path = tmp_path / (name or "nowhere.csv")
    if name:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_questions(path)
    assert all(part in str(caught.value) for part in (str(path), *said))


def test_a_source_may_leave_out_its_folders_but_must_exist(tmp_path):
    asked = [Question("row 2", "问", relevant={"年假.md": 1})]
    (found,) = located(tmp_path, asked, ["人事/年假.md", "旧/年假.md", "别的年假.md"], "default")
    assert set(found.relevant) == {"人事/年假.md", "旧/年假.md"}
    with pytest.raises(ConfigError, match=r"row 2: default holds no document 年假\.md"):
        located(tmp_path, asked, ["别的年假.md"], "default")


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    made = tmp_path_factory.mktemp("built") / "home"
    (made / "knowledge" / "default").mkdir(parents=True)
    (made / "knowledge" / "default" / "年假.md").write_text(f"# 年假\n\n{CORPUS['假期']}\n", encoding="utf-8")
    (made / "knowledge" / "default" / "备份.md").write_text(f"# 备份\n\n{CORPUS['备份']}\n", encoding="utf-8")
    Installation(Home(made)).ingest()
    return made


@pytest.fixture
def home(built, tmp_path, monkeypatch):
    """A home with a base of two documents."""
    monkeypatch.setenv("KBQA_KNOWLEDGE__WORKERS", "1")  # a second one takes longer to start than two files to read
    return shutil.copytree(built, tmp_path / "home")


def run(home, *arguments, code=0):
    result = CliRunner().invoke(kbqa, ["--home", str(home), "eval", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


def objects(result):
    return [json.loads(line) for line in result.stdout.splitlines()]


ANSWERS = {
    "queries",
    "contains",
    "exact_match",
    "f1",
    "citation_precision",
    "citation_recall",
    "refused",
    "mean_length",
}
REFUSALS = {"answerable", "unanswerable", "auc", "threshold", "at_wrong_refusals", "calibration_error"}
SUPPORT = {"questions", "sentences", "precision", "recall", "f1", "true_flagged", "quoted", "true", "false"}


@pytest.mark.parametrize(
    ("command", "fields"),
    [
        ("retrieval", {"documents", "chunks", "queries", "arms"}),
        ("answers", ANSWERS),
        ("refusal", REFUSALS),
        ("support", SUPPORT),
    ],
)
def test_every_measure_prints_its_fields_and_a_table(home, folder, files, command, fields):
    (report,) = objects(run(home, command, folder, "--json"))
    assert set(report) == {*fields, "seconds"}
    reports = objects(run(home, command, folder, files, "--json"))
    assert [report["dataset"] for report in reports] == [str(folder), str(files)]
    shown = run(home, command, folder, files).stdout
    assert "fragen" in shown
    assert "firma" in shown


@pytest.mark.parametrize(
    ("command", "names"),
    [
        ("answers", ["questions", "contains", "F1", "cited right", "right cited", "refused", "length"]),
        ("refusal", ["answerable", "unanswerable", "answered", "at 10 %"]),
        ("retrieval", ["recall@1", "recall@10", "ndcg@10", "p99 ms"]),
    ],
)
def test_on_a_narrow_terminal_no_name_and_no_figure_is_broken_up(home, folder, files, monkeypatch, command, names):
    monkeypatch.setattr(screen, "is_terminal", lambda stream=None: True)
    monkeypatch.setenv("COLUMNS", "80")
    lines = run(home, command, folder, files).stdout.splitlines()
    for name in names:
        assert any(re.match(rf"\s*{re.escape(name)}\s+[\d.–]+( |$)", line) for line in lines), name


def test_a_folder_that_cannot_be_measured_does_not_stop_the_others(home, folder, files, tmp_path):
    result = run(home, "answers", tmp_path / "nichts", files, "--json", code=1)
    first, second = objects(result)
    assert first["error"]["type"] == "ConfigError"
    assert second["contains"] == 1.0
    assert "there is no file or folder" in result.stderr
    alone = run(home, "support", tmp_path / "nichts", code=1)
    assert "there is no folder" in alone.stderr


def test_own_questions_are_put_to_a_base_that_exists(home, tmp_path):
    path = tmp_path / "我的问题.xlsx"
    rows = [["带薪年假有几天？", "十天", "年假.md"], ["服务器备份由谁负责？", "李四", None], [UNTOLD[0], "无", None]]
    write_xlsx(path, [["问题", "答案", "来源"], *rows])
    (report,) = objects(run(home, "answers", path, "--json"))
    assert [row["verdict"] for row in report["questions"]] == ["right", "wrong answer", "refused rightly"]
    assert (report["queries"], report["contains"]) == (2, 0.5)
    assert report["unanswerable"] == {"asked": 1, "answered": 0}
    shown = run(home, "answers", path).stdout
    assert "wrong answer: 服务器备份由谁负责？" in shown
    assert "expected: 李四" in shown
    assert "带薪年假" not in shown  # what goes right is not listed
    assert "there is no knowledge base 没有" in run(home, "answers", path, "--kb", "没有", code=1).stderr


def test_two_configurations_are_compared_question_by_question(home, tmp_path):
    path = tmp_path / "q.csv"
    path.write_text(f"问题,答案\n带薪年假有几天？,十天\n{UNTOLD[0]},无\n", encoding="utf-8")
    strict = tmp_path / "strict.yaml"
    strict.write_text("retrieval: {min_confidence: 1.0}\n", encoding="utf-8")
    (report,) = objects(run(home, "answers", path, "--compare", strict, "--json"))
    assert (report["current"]["contains"], report["other"]["contains"]) == (1.0, 0.0)
    assert report["better"] == []
    (worse,) = report["worse"]
    assert (worse["question"], worse["other"]["verdict"]) == ("带薪年假有几天？", "refused wrongly")
    assert "十天" in worse["current"]["answer"]
    shown = run(home, "answers", path, "--compare", strict).stdout
    assert f"worse with {strict}: 1" in shown
    assert "带薪年假有几天？" in shown


def test_a_configuration_that_cuts_otherwise_is_compared_on_a_base_of_its_own(home, tmp_path):
    """The base that users ask is neither changed nor needed in two versions."""
    path = tmp_path / "q.csv"
    path.write_text("问题,答案\n带薪年假有几天？,十天\n", encoding="utf-8")
    small = tmp_path / "small.yaml"
    small.write_text("splitter: {size: 50, overlap: 0}\n", encoding="utf-8")
    with Installation(Home(home)).open() as kb:
        before = kb.store.chunk_count
    (report,) = objects(run(home, "answers", path, "--compare", small, "--json"))
    assert report["other"]["contains"] == 1.0
    with Installation(Home(home)).open() as kb:
        assert kb.store.chunk_count == before


def test_an_unreadable_file_of_a_benchmark_is_named(home, files):
    (files / "files" / "坏的.pdf").write_bytes(b"%PDF-1.7 nothing more")
    result = run(home, "answers", files, "--json")
    assert "坏的.pdf is left out" in result.stderr
    assert objects(result)[0]["contains"] == 1.0
