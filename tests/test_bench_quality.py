"""The quality benchmark on a data folder of a few invented texts: every section and picture of its page."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

TEXTS = {
    "年假": "员工每年享有十天带薪年假。年假须提前三个工作日申请，由部门经理批准。",
    "备份": "服务器每周日全量备份，由赵国强负责。备份在异地机房保存90天，2019年3月起执行。",
    "仓库": "昆山仓库的面积为12000平方米，存放轴承、齿轮、皮带和电机。仓库温度不得高于30度。",
}
QUESTIONS = {
    "年假": ("带薪年假有几天？", "十天"),
    "备份": ("服务器备份由谁负责？", "赵国强"),
    "仓库": ("昆山仓库的面积是多少？", "12000"),
}


def write_lines(path, rows):
    path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data" / "retrieval" / "cmrc2018-a"
    folder.mkdir(parents=True)
    write_lines(folder / "corpus.jsonl", ({"id": key, "title": key, "text": text} for key, text in TEXTS.items()))
    questions = [
        {"id": key, "text": q, "answers": [a], "evidence": [TEXTS[key].split("。")[0]]}
        for key, (q, a) in QUESTIONS.items()
    ]
    write_lines(folder / "queries.jsonl", questions)
    (folder / "qrels.tsv").write_text("".join(f"{key}\t{key}\t1\n" for key in TEXTS), encoding="utf-8")
    write_lines(folder / "queries_unanswerable.jsonl", [{"id": "u", "text": "公司股票的发行价是多少港币？"}])
    return tmp_path


def run(*arguments, **environment):
    command = [sys.executable, ROOT / "scripts" / "bench_quality.py", *arguments]
    given = {key: value for key, value in os.environ.items() if not key.startswith("KBQA_")}
    return subprocess.run(
        command,
        env={**given, "PYTHONUTF8": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


def test_the_page_holds_our_figures_beside_the_baselines_and_three_pictures(data, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    done = run("--sets", "cmrc2018-a", "--limit", "2", "--out", str(out), KBQA_TESTDATA=str(data))
    assert done.returncode == 0, done.stderr
    page = (out / "quality.md").read_text(encoding="utf-8")
    assert "bench_quality.py --limit 2" in page
    assert "| cmrc2018-a | 2 | 0.976 | **1.000** (1.000, " in page  # recall@1: baseline, ours
    assert "| cmrc2018-a | 2 | 0.598, 44 characters | **1.000** |" in page  # answers
    assert "| cmrc2018-a | 0 of 2 | 0 of 1 | 0.965 | **1.000** |" in page  # refusals
    assert "| true | verbatim | 0.00 (2) |" in page
    for picture in ("recall", "refusal", "reliability"):
        assert f"(quality/{picture}.png)" in page
        assert (out / "quality" / f"{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_a_set_that_is_not_there_is_named(data):
    done = run("--sets", "cmrc2018", KBQA_TESTDATA=str(data))
    assert done.returncode == 2
    assert "no set cmrc2018; there are: cmrc2018-a" in done.stderr


def test_without_data_sets_the_page_stays_and_the_samples_are_measured():
    page = ROOT / "docs" / "quality.md"
    before = page.read_bytes() if page.exists() else None
    done = run("--limit", "3")
    assert done.returncode == 0, done.stderr
    assert "KBQA_TESTDATA is not set" in done.stdout
    assert "| samples | 3 |" in done.stdout
    assert (page.read_bytes() if page.exists() else None) == before
