import json
import math

import pytest

from kbqa.build import Installation
from kbqa.config import Config, Home
from kbqa.errors import ConfigError
from kbqa.evaluation import evaluate_retrieval, load_benchmark

CORPUS = {"d1": "员工每年享有十天带薪年假。", "d2": "住宿费每天四百二十元。", "d3": "服务器每周日全量备份。"}
QUERIES = {"q1": "带薪年假有几天？", "q2": "备份在哪天？", "q3": "没有答案的问题"}


@pytest.fixture
def folder(tmp_path):
    rows = [{"_id": key, "title": "", "text": text} for key, text in CORPUS.items()]
    (tmp_path / "corpus.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    rows = [{"id": key, "text": text} for key, text in QUERIES.items()]
    (tmp_path / "queries.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td3\t2\nq2\td1\t0\n")
    return tmp_path


def test_recall_is_measured_through_the_real_parts(folder, tmp_path):
    installation = Installation(Home(tmp_path), Config())
    report = evaluate_retrieval(folder, installation.temporary_base).as_json()
    assert (report["documents"], report["queries"]) == (3, 2)
    assert set(report["arms"]) == {"lexical", "dense", "hybrid"}
    hybrid = report["arms"]["hybrid"]
    assert hybrid["recall@1"] == hybrid["mrr@10"] == hybrid["ndcg@10"] == 1.0
    assert hybrid["latency_ms"]["p99"] > 0


def test_a_wrong_order_costs_what_the_formula_says(folder):
    """Two graded documents, the better one second: DCG (1/log2(2) + 2/log2(3)) over the ideal (2 + 1/log2(3))."""
    from kbqa.evaluation.retrieval import _ndcg

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
