"""From spreadsheets, csv and JSON to rows that a model is tuned on: nothing is lost without a word."""

from __future__ import annotations

import gzip
import json
import random
import time
import zipfile
from dataclasses import replace
from datetime import date, datetime

import pytest
from chatserver import SAID, answer, endless, refusal
from click.testing import CliRunner
from openpyxl import Workbook
from test_readers import compound_file

from kbqa.cli import kbqa
from kbqa.errors import ConfigError
from kbqa.generators.openai import OpenAIGenerator
from kbqa.tuning import Columns, Row, read_rows, split, write_rows
from kbqa.tuning.checks import Lengths, check, without_duplicates
from kbqa.tuning.convert import convert
from kbqa.tuning.knowledge import grounded
from kbqa.tuning.tables import Named, read_table
from kbqa.tuning.teacher import teach
from kbqa.types import REFUSAL, Piece

LEAVE = ("年假有几天？", "满一年的员工每年有10天年假。")
CLAIM = ("如何催单", "首页，我的申请事项：\n1.进行中单据；\n2.催单按钮。")


def sheet(path, *rows, title="问答", more=()):
    """An xlsx file; `more` are (title, rows) of further sheets."""
    workbook = Workbook()
    workbook.remove(workbook.active)
    for name, its in ((title, rows), *more):
        made = workbook.create_sheet(name)
        for row in its:
            made.append(list(row))
    workbook.save(path)
    return path


def merged(path, *ranges):
    from openpyxl import load_workbook

    workbook = load_workbook(path)
    for cells in ranges:
        workbook.active.merge_cells(cells)
    workbook.save(path)
    return path


def written(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pairs(read):
    return [(row.prompt, row.response) for row in read.rows]


def run(*arguments, code=0):
    result = CliRunner().invoke(kbqa, ["tune", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result


# --- files of rows ---------------------------------------------------------------------------------------------------


def test_rows_are_read_as_they_were_written(tmp_path):
    rows = [Row(*CLAIM), Row("还没有处理呢？", "再等两天。", (CLAIM,)), Row(*LEAVE, teacher="glm-4")]
    path = tmp_path / "新的" / "train.jsonl"
    write_rows(path, rows)
    assert read_rows(path) == rows
    first, second, third = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert first == {"content": CLAIM[0], "summary": CLAIM[1]}
    assert second["history"] == [list(CLAIM)]
    assert third["teacher"] == "glm-4"
    own = Columns("question", "answer", "turns")
    write_rows(tmp_path / "own.jsonl", rows, own)
    assert read_rows(tmp_path / "own.jsonl", own) == rows


def test_the_sample_of_the_original_trainers_is_read(testdata):
    assert len(read_rows(testdata / "data" / "ptuning" / "adgen_dev.jsonl.gz")) == 120


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"content": "问"}', r"line 2: no field 'summary'; it has 'content' \(--prompt-column and"),
        ('{"question": "问", "answer": "答"}', "no field 'content'; it has 'question', 'answer'"),
        ('{"content": "问", "summary": " "}', "'summary' is empty; `kbqa tune convert` leaves such rows out"),
        ('{"content": ["问"], "summary": "答"}', "'content' is no text"),
        ('{"content": "问", "summary": "答", "history": ["旧"]}', "'history' must be a list of pairs"),
        ("问,答", "line 2: not a JSON object; `kbqa tune convert` makes such a file"),
        ("[1]", "line 2: not a JSON object"),
    ],
)
def test_a_line_that_is_no_row_is_named_with_what_it_has(tmp_path, line, said):
    path = written(tmp_path / "train.jsonl", '{"content": "问", "summary": "答"}\n' + line)
    with pytest.raises(ConfigError, match=said):
        read_rows(path)


def test_a_file_without_rows_a_folder_and_nothing_at_all_are_told_apart(tmp_path):
    for path, said in (
        (written(tmp_path / "empty.jsonl", "\n"), "holds no row"),
        (tmp_path, "is a folder"),
        (tmp_path / "none.jsonl", "there is no file"),
        (written(tmp_path / "gbk.jsonl", "问".encode("gbk")), "is not UTF-8"),
        (written(tmp_path / "cut.jsonl.gz", gzip.compress(b"{}" * 999)[:30]), "not a JSON object"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_rows(path)


def test_half_a_character_does_not_come_in(tmp_path):
    half = written(
        tmp_path / "half.jsonl", '{"content": "年假\\ud83d", "summary": "十天", "history": [["\\udc00", "好😀"]]}'
    )
    (row,) = read_rows(half)
    assert row == Row("年假\ufffd", "十天", (("\ufffd", "好😀"),))
    write_rows(tmp_path / "again.jsonl", [row])
    assert read_table(half).rows[0].prompt == "年假"


def test_rows_are_written_whole_or_not_at_all_and_never_over_others(tmp_path):
    path = tmp_path / "train.jsonl"

    def failing():
        yield Row(*LEAVE)
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        write_rows(path, failing())
    assert list(tmp_path.iterdir()) == []
    write_rows(path, [Row(*LEAVE)])
    with pytest.raises(ConfigError, match="exists already"):
        write_rows(path, [Row(*CLAIM)])
    assert read_rows(path) == [Row(*LEAVE)]


# --- splitting -------------------------------------------------------------------------------------------------------


def test_the_same_seed_parts_the_same_and_a_question_stands_on_one_side():
    rows = [Row(f"问题{number % 50}？", f"回答{number}") for number in range(100)]
    rows += [Row(f"问题 {number}", "换了写法") for number in range(50)]
    train, dev = split(rows, 0.2, seed=7)
    assert (train, dev) == split(rows, 0.2, seed=7)
    assert split(rows, 0.2, seed=8) != (train, dev)
    assert len(dev) == 30
    assert sorted(train + dev, key=rows.index) == rows
    assert check(train, dev).leaked == []


def test_neither_side_is_left_empty_where_there_is_enough_for_both():
    assert [len(side) for side in split([Row("甲", "1"), Row("乙", "2")], 0.01, 0)] == [1, 1]
    assert [len(side) for side in split([Row("甲", "1")], 0.5, 0)] == [1, 0]
    assert [len(side) for side in split([Row("甲", "1"), Row("乙", "2")], 0, 0)] == [2, 0]


# --- spreadsheets ----------------------------------------------------------------------------------------------------


def test_the_real_spreadsheet_becomes_the_expected_file(testdata, tmp_path):
    data = testdata / "data" / "ptuning"
    out = tmp_path / "out.jsonl"
    run("convert", data / "base.xlsx", out)
    assert out.read_bytes() == (data / "base_expected.jsonl").read_bytes()
    helpdesk = read_table(data / "helpdesk_qa.xlsx")
    assert len(helpdesk.rows) == 40
    assert not helpdesk.dropped
    assert "\n1.急用" in helpdesk.rows[1].response


def test_numbers_dates_and_percentages_are_as_a_person_sees_them(tmp_path):
    path = tmp_path / "数.xlsx"
    workbook = Workbook()
    made = workbook.active
    made.append(["编号", "问题", "答案"])
    for number, value in enumerate((15, 12.5, date(2024, 3, 1), datetime(2024, 3, 1, 9, 30), True, 0.985), 1):
        made.append([number, f"第{number}个？", value])
    made["C7"].number_format = "0.0%"
    workbook.save(path)
    assert [row.response for row in read_table(path).rows] == [
        "15",
        "12.5",
        "2024-03-01",
        "2024-03-01 09:30:00",
        "TRUE",
        "98.5%",
    ]


def test_results_of_formulas_are_read_and_formulas_without_one_are_told(tmp_path):
    path = sheet(tmp_path / "式.xlsx", ("Q", "A"), ("六乘七是多少？", "=6*7"), ("八乘八呢？", "=8*8"), LEAVE)
    with zipfile.ZipFile(path) as package:
        parts = {name: package.read(name) for name in package.namelist()}
    (name,) = [name for name in parts if name.endswith("sheet1.xml")]
    assert b"<f>6*7</f><v" in parts[name]
    parts[name] = parts[name].replace(b"<f>6*7</f><v/>", b"<f>6*7</f><v>42</v>")
    parts[name] = parts[name].replace(b"<f>6*7</f><v />", b"<f>6*7</f><v>42</v>")
    parts[name] = parts[name].replace(b"<f>6*7</f><v></v>", b"<f>6*7</f><v>42</v>")
    with zipfile.ZipFile(path, "w") as package:
        for part, content in parts.items():
            package.writestr(part, content)
    read = read_table(path)
    assert pairs(read) == [("六乘七是多少？", "42"), LEAVE]
    assert [(it.where, it.reason) for it in read.dropped] == [("问答 row 3", "no answer")]
    assert "1 formulas have no stored result" in read.warnings[0]


def test_a_merged_answer_belongs_to_each_question_beside_it_and_a_merged_question_to_each_answer(tmp_path):
    path = sheet(
        tmp_path / "并.xlsx",
        ("类别", "问题", "答案"),
        ("请假", "年假几天？", "请查看员工手册第三章的规定，或者直接咨询人力资源部。"),
        (None, "病假几天？", None),
        ("报销", "住宿标准？", "每晚400元。"),
        (None, None, "一线城市每晚600元。"),
    )
    merged(path, "A2:A3", "C2:C3", "B4:B5", "A4:A5")
    rows = pairs(read_table(path))
    assert [prompt for prompt, _ in rows] == ["年假几天？", "病假几天？", "住宿标准？", "住宿标准？"]
    assert rows[0][1] == rows[1][1]
    assert rows[1][1].startswith("请查看员工手册")
    assert [response for _, response in rows[2:]] == ["每晚400元。", "一线城市每晚600元。"]


def test_all_sheets_are_read_below_a_title_and_one_without_the_columns_is_told(tmp_path):
    path = sheet(
        tmp_path / "多.xlsx",
        ("员工常见问题", None),
        (None, None),
        ("问题", "答案"),
        LEAVE,
        ("", ""),
        ("只有问题", ""),
        (None, "只有答案"),
        more=[("报销", [("Q", "A"), CLAIM]), ("说明", [("本表由人力资源部维护", "2024年"), ("甲", "乙")]), ("空", [])],
    )
    read = read_table(path)
    assert pairs(read) == [LEAVE, CLAIM]
    told = {it.where: it.reason for it in read.dropped}
    assert told["问答 row 6"] == "no answer"
    assert told["问答 row 7"] == "no question"
    assert "it has: 本表由人力资源部维护, 2024年" in told["说明"]
    assert len(told) == 3


def test_columns_are_found_under_the_names_that_are_given(tmp_path):
    path = sheet(tmp_path / "列.xlsx", ("Q", "用户问", "客服答"), ("1", *LEAVE), ("2", *CLAIM))
    assert pairs(read_table(path, Named("用户问", "客服答"))) == [LEAVE, CLAIM]
    with pytest.raises(ConfigError, match=r"no column of that name: '回应'; it has: Q, 用户问, 客服答"):
        read_table(path, Named("用户问", "回应"))
    with pytest.raises(
        ConfigError, match=r"no column for an answer \(such as Q and A\); it has: Q, 用户问, 客服答\. --pr"
    ):
        read_table(path)
    with pytest.raises(ConfigError, match="in one column, 'Q'"):
        read_table(path, Named("Q", "Q"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("空.xlsx", b"", "is empty"),
        ("锁.xlsx", compound_file("EncryptedPackage"), "password; save a copy without one"),
        ("坏.xlsx", b"PK\x03\x04" + b"x" * 500, "damaged or cut off"),
        ("图.xlsx", b"\x89PNG\r\n\x1a\n" + bytes(90), "is image, not a table; save it as xlsx, csv or json"),
        ("页.xls", b"<html><table><tr><td>Q</td></tr></table></html>", "is html, not a table"),
        ("只有标题.csv", "问题,答案\n".encode(), "holds no row with a question and an answer"),
        ("缺.csv", "问题,答案\n年假几天？,\n".encode(), "holds no row with a question and an answer: row 2: no answer"),
        ("坏.json", b'[{"Q": "x"', "is no JSON"),
        ("坏.jsonl", b'{"Q": "x", "A": "y"}\nhello', "neither a JSON list nor JSON lines: line 2"),
        (
            "别.jsonl",
            b'{"title": "x", "body": "y"}',
            r"no column for a question \(such as Q and A\); it has: title, body",
        ),
    ],
)
def test_what_holds_no_rows_is_refused_in_one_line_that_names_it(tmp_path, name, content, said):
    path = written(tmp_path / name, content)
    with pytest.raises(ConfigError, match=said) as caught:
        read_table(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_an_empty_sheet_a_folder_and_nothing_at_all_are_refused(tmp_path):
    for path, said in (
        (sheet(tmp_path / "无.xlsx"), "is empty"),
        (tmp_path, "is a folder"),
        (tmp_path / "x", "no file"),
    ):
        with pytest.raises(ConfigError, match=said):
            read_table(path)


# --- csv and JSON ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_csv_is_read_in_the_encodings_that_spreadsheet_programs_write(tmp_path, encoding):
    text = f'问题,答案\r\n{LEAVE[0]},{LEAVE[1]}\r\n{CLAIM[0]},"{CLAIM[1]}"\r\n'
    assert pairs(read_table(written(tmp_path / "表.csv", text.encode(encoding)))) == [LEAVE, CLAIM]
    tabs = written(tmp_path / "表.tsv", f"问题\t答案\n{LEAVE[0]}\t{LEAVE[1]}\n".encode(encoding))
    assert pairs(read_table(tabs)) == [LEAVE]


def test_json_is_read_as_a_list_and_as_lines_gzipped_or_not(tmp_path):
    objects = [{"question": LEAVE[0], "answer": LEAVE[1]}, {"question": CLAIM[0], "answer": CLAIM[1]}]
    as_list = written(tmp_path / "一.json", json.dumps(objects, ensure_ascii=False, indent=2))
    lines = "\n".join(json.dumps(it) for it in objects)
    as_lines = written(tmp_path / "二.json", lines)
    packed = written(tmp_path / "三.jsonl.gz", gzip.compress(lines.encode()))
    for path in (as_list, as_lines, packed):
        assert pairs(read_table(path)) == [LEAVE, CLAIM]


def test_history_is_read_from_json_and_from_cells(tmp_path):
    wanted = [Row("那报销呢？", "十五天内。", (LEAVE,))]
    fields = {"content": "那报销呢？", "summary": "十五天内。", "history": [list(LEAVE)]}
    assert read_table(written(tmp_path / "史.jsonl", json.dumps(fields))).rows == wanted
    cell = json.dumps([list(LEAVE)], ensure_ascii=False)
    path = sheet(tmp_path / "史.xlsx", ("Q", "A", "history"), ("那报销呢？", "十五天内。", cell), (*CLAIM, "以前说过"))
    read = read_table(path)
    assert read.rows == wanted
    assert [it.reason for it in read.dropped] == ["its history is no list of pairs [question, answer]"]


def test_conversations_become_a_row_for_each_answer_and_alpaca_keeps_its_input(tmp_path):
    said = [
        {"role": "user", "content": "年假？"},
        {"role": "assistant", "content": "10天。"},
        {"role": "user", "content": "病假？"},
        {"role": "assistant", "content": "看医嘱。"},
    ]
    rows = [{"conversations": said}, {"messages": [{"role": "system", "content": "你是客服"}, *said]}]
    rows.append({"instruction": "翻译", "input": "年假", "output": "annual leave"})
    read = read_table(written(tmp_path / "聊.json", json.dumps(rows)))
    assert read.rows == [
        Row("年假？", "10天。"),
        Row("病假？", "看医嘱。", (("年假？", "10天。"),)),
        Row("翻译\n年假", "annual leave"),
    ]
    assert "neither a question nor an answer (system, tools)" in read.dropped[0].reason


def test_odd_members_of_a_json_list_are_left_out_and_told(tmp_path):
    objects = [{"Q": "甲", "A": "乙"}, ["甲"], {"Q": "丙", "A": None}, {"问": "丁"}, {"Q": {"x": 1}, "A": "戊"}]
    read = read_table(written(tmp_path / "杂.json", json.dumps(objects)))
    assert pairs(read) == [("甲", "乙")]
    assert [it.where for it in read.dropped] == ["entry 2", "entry 3", "entry 4", "entry 5"]


# --- several files, duplicates, checks -------------------------------------------------------------------------------


def test_duplicates_over_several_files_are_told_with_where_the_first_stands(tmp_path):
    one = sheet(tmp_path / "一.xlsx", ("Q", "A"), LEAVE, CLAIM, LEAVE)
    two = written(tmp_path / "二.csv", f"问题,答案\n{LEAVE[0]},{LEAVE[1]}\n年假有几天?,另一个答案\n")
    found = convert([one, two])
    assert [row.response for row in found.rows] == [LEAVE[1], CLAIM[1], "另一个答案"]
    assert [(it.where, it.reason) for it in found.repeated] == [
        ("一.xlsx, 问答 row 4", "the same as 一.xlsx, 问答 row 2"),
        ("二.csv, row 2", "the same as 一.xlsx, 问答 row 2"),
    ]
    assert len(convert([one, two], keep_duplicates=True).rows) == 5


def test_contradictions_and_leaks_are_found_through_other_ways_of_writing():
    train = [Row("年假有几天？", "10天"), Row("年假 有几天?", "15天"), Row("年假有几天", "10天。"), Row(*CLAIM)]
    checks = check(train, [Row("如何催单？", "点按钮")])
    assert [(it.prompt, list(it.responses)) for it in checks.conflicts] == [
        ("年假有几天？", ["10天", "15天"]),
        ("如何催单", [CLAIM[1], "点按钮"]),
    ]
    assert checks.leaked == ["如何催单？"]
    after = [Row("还有呢？", "甲", (LEAVE,)), Row("还有呢？", "乙", (CLAIM,))]
    assert check(after).conflicts == []  # the same words after another conversation are another question


def test_without_duplicates_keeps_the_first_and_the_order():
    rows = [Row("甲", "1"), Row("乙", "2"), Row("甲", "1", teacher="x"), Row("甲", "3")]
    assert without_duplicates(rows) == [rows[0], rows[1], rows[3]]


def test_the_histogram_counts_each_length_once():
    values = sorted(random.Random(0).choices(range(500), k=300))
    lengths = Lengths(values, 200)
    assert sum(count for _, count in lengths.bars()) == 300
    assert lengths.over == sum(value > 200 for value in values)
    assert Lengths([]).bars() == []


@pytest.mark.parametrize("family", ["chatglm", "chatglm2", "chatglm3", "glm4"])
def test_what_is_said_to_be_cut_is_what_training_cuts(testdata, tmp_path, family):
    pytest.importorskip("torch", reason="kbqa[glm] is not installed")
    from kbqa.chatglm.tokenizers import load_tokenizer
    from kbqa.tuning.preprocess import Limits, example

    name = {"chatglm": "v1", "chatglm2": "v2", "chatglm3": "v3", "glm4": "glm4"}[family]
    tokenizer = load_tokenizer(testdata / "golden" / name / "base", family)
    rows = read_rows(testdata / "data" / "ptuning" / "adgen_dev.jsonl.gz")[:30]
    whole = check(rows, (), tokenizer)
    for source in set(whole.prompts.values):
        limits = Limits(source, 10_000)
        assert check(rows, (), tokenizer, limits).prompts.over == sum(example(tokenizer, it, limits).cut for it in rows)
    for target in whole.responses.values[::5]:
        limits = Limits(10_000, target)
        cut = sum(example(tokenizer, it, limits).cut for it in rows)
        assert check(rows, (), tokenizer, limits).responses.over == cut


# --- the command line ------------------------------------------------------------------------------------------------


def test_convert_parts_rows_tells_what_it_left_out_and_check_reads_them(tmp_path):
    rows = [(f"第{number}条是什么？", f"第{number}条的内容。") for number in range(20)]
    source = sheet(tmp_path / "faq.xlsx", ("Q", "A"), *rows, ("空的", None), rows[0])
    train, dev = tmp_path / "train.jsonl", tmp_path / "dev.jsonl"
    (told,) = map(json.loads, run("convert", source, train, "--dev", dev, "--seed", 3, "--json").stdout.splitlines())
    assert (told["rows"], told["dev_rows"]) == (18, 2)
    assert told["files"][0]["dropped"] == [{"where": "问答 row 22", "reason": "no answer"}]
    assert told["duplicates"] == [{"where": "问答 row 23", "reason": "the same as 问答 row 2"}]
    assert told["checks"]["leaked"] == []
    assert len(read_rows(train)) == 18
    assert {row.prompt for row in read_rows(train) + read_rows(dev)} == {prompt for prompt, _ in rows}
    shown = run("check", train, dev).output
    assert "18 rows, 2 to measure with" in shown
    assert "questions, characters: 7 to 8" in shown
    leaking = run("check", train, train, "--json").stdout
    assert len(json.loads(leaking)["leaked"]) == 18


@pytest.mark.parametrize(
    ("out", "dev", "said"),
    [
        ("old.jsonl", None, "exists already; name another file"),
        ("new.jsonl", "old.jsonl", "exists already"),
        ("new.xlsx", None, "is to hold JSON lines; name it with .jsonl at its end"),
        ("new.jsonl", "new.jsonl", "cannot hold the rows to train on and those to measure with"),
    ],
)
def test_convert_overwrites_nothing_and_writes_nothing_when_it_refuses(tmp_path, out, dev, said):
    source = sheet(tmp_path / "faq.xlsx", ("Q", "A"), LEAVE, CLAIM)
    old = written(tmp_path / "old.jsonl", "old")
    more = ["--dev", tmp_path / dev] if dev else []
    assert said in run("convert", source, tmp_path / out, *more, code=1).output
    assert old.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"faq.xlsx", "old.jsonl"}


# --- a teacher -------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path, chat_server):
    """A home folder whose config.yaml knows the teacher `gpt`, a server on loopback."""
    folder = tmp_path / "home"
    folder.mkdir()
    teacher = f"{{kind: openai, base_url: '{chat_server.url}', model: glm}}"
    written(folder / "config.yaml", f"generator:\n  teachers:\n    gpt: {teacher}\n    quoting: {{kind: extractive}}\n")
    return folder


def questions(path, count=6):
    rows = [(f"第{number}条是什么？", "" if number % 2 else f"人写的第{number}条。") for number in range(count)]
    return sheet(path, ("Q", "A"), *rows)


def test_a_teacher_answers_what_has_no_answer_and_is_named_in_the_row(home, tmp_path, chat_server):
    source, out = questions(tmp_path / "faq.xlsx"), tmp_path / "out.jsonl"
    shown = run("--home", home, "convert", source, out, "--teacher", "gpt").output
    rows = read_rows(out)
    assert [row.teacher for row in rows] == ["", "gpt"] * 3
    assert {row.response for row in rows if row.teacher} == {SAID.strip()}
    assert rows[0].response == "人写的第0条。"
    assert "answered by gpt: 3" in shown
    assert sorted(seen["messages"][-1]["content"] for seen in chat_server.seen) == [
        f"第{n}条是什么？" for n in (1, 3, 5)
    ]
    assert {seen["temperature"] for seen in chat_server.seen} == {0}
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl"]


def test_a_teacher_that_fails_loses_no_answer_and_goes_on_where_it_was(home, tmp_path, chat_server):
    source, out = questions(tmp_path / "faq.xlsx", 12), tmp_path / "out.jsonl"
    chat_server.script = [answer("一"), answer("二"), *[refusal(400, {"error": {"message": "余额不足"}})] * 10]
    failed = run("--home", home, "convert", source, out, "--teacher", "gpt", code=1).output
    assert "gpt does not answer any more" in failed
    assert "余额不足" in failed
    assert not out.exists()
    kept = tmp_path / "out.teacher.jsonl"
    assert {row.response for row in read_rows(kept)} == {"一", "二"}
    with kept.open("ab") as file:
        file.write('{"content": "第11条是什么？", "summ'.encode())  # as a process that is killed leaves it
    chat_server.script, chat_server.seen[:] = [], []
    run("--home", home, "convert", source, out, "--teacher", "gpt")
    assert len(chat_server.seen) == 4
    assert sorted(row.response for row in read_rows(out) if row.teacher) == sorted(["一", "二", *[SAID.strip()] * 4])
    assert not kept.exists()


def test_who_breaks_off_waits_for_nobody_and_keeps_what_was_answered(tmp_path, chat_server):
    teacher = OpenAIGenerator(chat_server.url, "glm")
    chat_server.script, chat_server.usual = [answer("一")], endless
    kept = tmp_path / "out.teacher.jsonl"

    def interrupted(row):
        raise KeyboardInterrupt

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        teach([Row(f"第{at}条？", "") for at in range(9)], teacher, "gpt", kept, on_row=interrupted)
    assert time.monotonic() - began < 10  # the others go on for ever
    assert [row.response for row in read_rows(kept)] == ["一"]


def test_answers_of_another_teacher_are_never_taken_for_this_ones(home, tmp_path, chat_server):
    source, out = questions(tmp_path / "faq.xlsx"), tmp_path / "out.jsonl"
    kept = tmp_path / "out.teacher.jsonl"
    write_rows(kept, [Row("第1条是什么？", "别人说的。", teacher="other")])
    said = run("--home", home, "convert", source, out, "--teacher", "gpt", code=1).output
    assert "holds answers of other; name that one as --teacher, or remove the file" in said
    assert chat_server.seen == []
    assert len(read_rows(kept)) == 1


def test_an_answer_that_was_cut_off_or_is_empty_is_no_answer(home, tmp_path, chat_server):
    source, out = questions(tmp_path / "faq.xlsx"), tmp_path / "out.jsonl"
    chat_server.script = [answer("说到一半", finish="length"), answer("")]
    (told,) = map(
        json.loads, run("--home", home, "convert", source, out, "--teacher", "gpt", "--json").stdout.splitlines()
    )
    assert sorted(reason for _, reason in told["unanswered"]) == [
        "it said nothing",
        "its answer was cut off at max_tokens",
    ]
    assert told["teachers"] == {"gpt": 1}
    assert len(read_rows(out)) == 4


def test_a_question_that_a_person_answered_elsewhere_is_asked_of_nobody(home, tmp_path, chat_server):
    source = sheet(tmp_path / "faq.xlsx", ("Q", "A"), (LEAVE[0], None), LEAVE)
    shown = run("--home", home, "convert", source, tmp_path / "out.jsonl", "--teacher", "gpt").output
    assert chat_server.seen == []
    assert "问答 row 2: its answer stands in 问答 row 3" in shown
    assert read_rows(tmp_path / "out.jsonl") == [Row(*LEAVE)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nobody", "names no teacher 'nobody' (generator.teachers); it has: generator, gpt, quoting"),
        ("quoting", "quotes documents and writes nothing"),
        ("generator", "quotes documents and writes nothing"),
    ],
)
def test_a_teacher_that_there_is_not_or_that_writes_nothing_is_refused(home, tmp_path, name, said):
    source = questions(tmp_path / "faq.xlsx")
    shown = run("--home", home, "convert", source, tmp_path / "out.jsonl", "--teacher", name, code=1).output
    assert said in shown
    assert not (tmp_path / "out.jsonl").exists()


# --- below passages --------------------------------------------------------------------------------------------------

FACTS = {
    "年假": "工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。",
    "报销": "出差回来后应在十五个工作日内提交报销单，逾期不予报销。",
    "住宿": "一线城市的住宿费每晚不超过600元，其他城市每晚不超过400元。",
    "试用期": "新员工的试用期为三个月，表现优秀的可以提前转正。",
}


@pytest.fixture(scope="module")
def base_home(tmp_path_factory):
    """A home with a base of one document for each of FACTS."""
    folder = tmp_path_factory.mktemp("base-home")
    documents = folder / "knowledge" / "制度"
    documents.mkdir(parents=True)
    for name, fact in FACTS.items():
        written(documents / f"{name}规定.md", f"# {name}规定\n\n{fact}\n")
    written(folder / "config.yaml", "knowledge: {default: 制度}\n")
    result = CliRunner().invoke(kbqa, ["--home", str(folder), "ingest"])
    assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def base(base_home):
    from kbqa.build import Installation
    from kbqa.config import Home

    with Installation(Home(base_home)).open("制度") as opened:
        yield opened


ASKED = [
    Row("年假有多少天？", "工作满一年的员工每年享有10天年假。"),
    Row("报销单要在几天内提交？", "出差回来后应在十五个工作日内提交报销单。", teacher="gpt"),
    Row("住宿费最多多少？", "住宿费每晚最多5000元。"),  # the documents tell otherwise
    Row("你是谁？", "我是智能助手小白。"),
]


class Recorder:
    """A generator that keeps what it is asked."""

    name = "recorder"

    def __init__(self):
        self.asked = []

    def stream(self, request):
        self.asked.append(request)
        yield Piece("好的。", finish="stop")


def test_questions_are_put_below_the_passages_that_bear_out_their_answers(base):
    found = grounded(ASKED, base, refusals=0)
    assert (found.with_passages, found.refusals, list(found.bare)) == (2, 0, ["住宿费最多多少？", "你是谁？"])
    first, second, *others = found.rows
    assert others == ASKED[2:]
    recorder = Recorder()
    list(replace(base, generator=recorder).stream(ASKED[0].prompt))
    assert first == Row(recorder.asked[-1].messages[-1].content, ASKED[0].response)
    assert FACTS["年假"] in first.prompt
    assert FACTS["试用期"] in first.prompt  # which does not answer
    assert second.teacher == "gpt"


def test_some_questions_are_asked_again_without_what_answers_them_and_are_refused(base):
    found = grounded(ASKED, base, refusals=1)
    assert (found.with_passages, found.refusals) == (2, 2)
    refused = found.rows[1]
    assert refused.response == REFUSAL
    assert refused.prompt.endswith(ASKED[0].prompt)
    assert FACTS["年假"] not in refused.prompt
    assert refused.prompt.startswith("已知信息:\n")
    assert not any(row.teacher for row in found.rows if row.response == REFUSAL)
    assert grounded(ASKED, base, refusals=0.5, seed=3) == grounded(ASKED, base, refusals=0.5, seed=3)


def test_passages_are_kept_as_short_as_is_asked_and_what_is_cut_away_answers_nothing(base):
    found = grounded(ASKED[:1], base, max_characters=70, refusals=0)
    assert found.with_passages == 1
    assert len(found.rows[0].prompt) < 120
    assert FACTS["年假"] in found.rows[0].prompt
    assert grounded(ASKED[:1], base, max_characters=15, refusals=0).bare == ["年假有多少天？"]


def test_convert_with_knowledge_parts_before_it_asks_and_tells_what_stayed_bare(base_home, tmp_path):
    source = tmp_path / "rows.jsonl"
    write_rows(source, ASKED)
    out, dev = tmp_path / "out.jsonl", tmp_path / "dev.jsonl"
    shown = run(
        "--home", base_home, "convert", source, out, "--dev", dev, "--dev-share", 0.25, "--with-knowledge", "制度"
    ).output
    assert "below passages: 2" in shown
    assert "left bare, for the passages found do not tell the answer: 2" in shown
    rows = [*read_rows(out), *read_rows(dev)]
    assert sum(row.prompt.startswith("已知信息:\n") for row in rows if row.response != REFUSAL) == 2
    missing = run(
        "--home", base_home, "convert", source, tmp_path / "x.jsonl", "--with-knowledge", "没有", code=1
    ).output
    assert "没有" in missing
    assert not (tmp_path / "x.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--dev-share", 0.2), "say where with --dev"),
        (("--max-characters", 99), "name their base with --with-knowledge"),
    ],
)
def test_options_that_would_do_nothing_are_refused(tmp_path, options, said):
    source = sheet(tmp_path / "faq.xlsx", ("Q", "A"), LEAVE)
    assert said in run("convert", source, tmp_path / "out.jsonl", *options, code=2).output
