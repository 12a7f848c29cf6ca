"""Files as they come from people: every test builds its own, but for the manifest of the document collection."""

import datetime
import hashlib
import importlib.util
import io
import json
import random
import socket
import struct
import sys
import zipfile
from email.message import EmailMessage
from pathlib import Path

import pytest
import xlsbkit

from kbqa.errors import DocumentError
from kbqa.readers import ReadOptions, is_ignored, read, supports
from kbqa.readers.fallback import offline
from kbqa.readers.numberformat import cell_text, parse_format
from kbqa.readers.xls import formats_of

RULES = "员工出差须提前三个工作日在协同办公系统提交《出差申请单》，经部门负责人审批后方可购票。"


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return path


def failure(path: Path, options: ReadOptions | None = None) -> DocumentError:
    with pytest.raises(DocumentError) as caught:
        read(path, options=options)
    assert "\n" not in str(caught.value), "an error is one line"
    assert path.name in str(caught.value), "an error names its file"
    return caught.value


def shapes(document) -> list[tuple[str, str]]:
    return [(block.kind, block.text) for block in document.blocks]


def tables(document) -> list[list[str]]:
    return [block.text.split("\n") for block in document.blocks if block.kind == "table"]


def headings(document) -> list[tuple[int, str]]:
    return [(block.level, block.text) for block in document.blocks if block.kind == "heading"]


# --- the collection --------------------------------------------------------------------------------------------------


def checker():
    path = Path(__file__).parents[1] / "scripts" / "check_readers.py"
    spec = importlib.util.spec_from_file_location("check_readers", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_the_document_collection_is_read_as_its_manifest_says(testdata):
    check = checker()
    entries, folder = check.manifest(testdata)
    entries = [entry for entry in entries if not entry["expect"].get("ocr")]  # minutes; scripts/check_readers.py does
    results = [check.check(entry, folder, ocr=False) for entry in entries]
    found = "\n".join(f"{result.path}: {problem}" for result in results for problem in result.problems)
    assert "CRASH" not in found, found
    for group, (passed, count, goal) in check.reached(results).items():
        assert passed >= goal * count, f"{group}: {passed} of {count}\n{found}"


def test_the_questions_of_the_small_company_are_answered_by_the_text_of_their_files(testdata):
    check = checker()
    texts = {path.name: check.fold(read(path).text) for path in (testdata / "data/minikb/files").iterdir()}
    lines = (testdata / "data/minikb/qa.jsonl").read_text(encoding="utf-8").splitlines()
    missed = [
        question["question"]
        for question in map(json.loads, lines)
        if question["answerable"]
        and not any(check.fold(answer) in texts[question["file"]] for answer in question["answers"])
    ]
    assert missed == []


# --- encodings -------------------------------------------------------------------------------------------------------

TRADITIONAL = "員工出差須提前三個工作日在協同辦公系統提交申請單，經部門負責人審批後方可購票。"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (RULES, "utf-8"),
        (RULES, "utf-8-sig"),
        (RULES, "utf-16"),
        (RULES, "utf-16-le"),
        (RULES, "utf-16-be"),
        (RULES, "gbk"),
        (RULES + "𠮷野家㐂", "gb18030"),
        (TRADITIONAL, "big5"),
        (TRADITIONAL, "gbk"),
        ("名前,年齢,住所\n佐藤太郎,30,東京", "shift_jis"),
        ("これは日本語のテキストです。文字コードの判定を試験する。", "euc_jp"),
        ("안녕하세요. 이것은 한국어 텍스트 파일입니다. 문자 인코딩을 확인합니다.", "euc_kr"),
        ("Größe und Maße: 5 µm – für die Kühlung der Geräte.", "cp1252"),
    ],
)
def test_the_encoding_of_a_text_is_found_out(tmp_path, text, encoding):
    document = read(written(tmp_path / "规定.txt", text.encode(encoding)))
    assert document.text == text
    assert document.warnings == ()


def test_a_few_bad_bytes_do_not_turn_utf8_into_mojibake(tmp_path):
    data = RULES.encode()
    document = read(written(tmp_path / "坏字节.txt", data[:30] + b"\xff\xfe" + data[30:] + b"\xc0"))
    assert "协同办公系统提交《出差申请单》" in document.text
    assert "2 invalid byte sequences" in document.warnings[0]


def test_a_charset_label_that_lies_is_not_believed(tmp_path):
    page = f'<html><head><meta charset="gbk"><title>规定</title></head><body><p>{RULES}</p></body></html>'
    assert RULES in read(written(tmp_path / "a.html", page)).text
    page = page.replace("gbk", "iso-8859-1")
    assert RULES in read(written(tmp_path / "b.html", page.encode("gb18030"))).text


# --- plain text, markdown, rst ---------------------------------------------------------------------------------------


def test_numbered_headings_of_a_chinese_text_are_found(tmp_path):
    text = f"差旅费管理办法\n\n第一章 总则\n第一条 {RULES}\n第二章 标准\n2.1 住宿\n住宿费凭票据实报销。\n"
    document = read(written(tmp_path / "办法.txt", text))
    assert document.title == "差旅费管理办法"
    assert headings(document) == [(1, "差旅费管理办法"), (3, "第一章 总则"), (3, "第二章 标准"), (4, "2.1 住宿")]


def test_a_table_of_contents_is_text_and_not_a_row_of_empty_headings(tmp_path):
    text = f"管理办法\n\n第一章 总则\n第二章 标准\n第三章 附则\n\n第一章 总则\n{RULES}"
    document = read(written(tmp_path / "办法.txt", text))
    assert shapes(document) == [
        ("heading", "管理办法"),
        ("text", "第一章 总则\n第二章 标准\n第三章 附则"),
        ("heading", "第一章 总则"),
        ("text", RULES),
    ]


def test_hard_wrapped_lines_are_joined_and_others_are_not(tmp_path):
    long = RULES.replace("。", "") * 3
    wrapped = "\n".join(long[at : at + 30] for at in range(0, len(long), 30))
    assert long in read(written(tmp_path / "a.txt", f"标题\n\n{wrapped}")).text
    assert "地址：上海\n电话：8008" in read(written(tmp_path / "b.txt", "联系方式\n\n地址：上海\n电话：8008")).text


MARKDOWN = """---
title: "备份手册"
summary: 如何备份与恢复。
---

# 备份 {#backup}

{{< copyable "shell" >}}

```shell
br backup --pd "<PD>"  # 注释
```

<CustomContent platform="self">

使用 `tidb_ddl` 和 [恢复工具](/restore.md "提示")，见 **重要** 说明<br/>第二行。

</CustomContent>

1. 停止写入
2. 备份
   - 全量
   - 增量 <HOST>

| 参数 | 说明 |
| --- | --- |
| `a \\| b` | 两者<br>之一 |

<table><tr><th>区域</th><th>负责人</th></tr>
<tr><td rowspan=2>华东</td><td>周启明</td></tr><tr><td>韩雪梅</td></tr></table>

<script>不应出现</script>
"""


def test_markdown_keeps_what_is_said_and_drops_the_marks(tmp_path):
    document = read(written(tmp_path / "手册.md", MARKDOWN))
    assert document.title == "备份手册"
    assert headings(document) == [(1, "备份")]
    assert ("code", 'br backup --pd "<PD>"  # 注释') in shapes(document)
    assert "使用 tidb_ddl 和 恢复工具，见 重要 说明 第二行。" in document.text
    assert ("text", "1. 停止写入\n2. 备份\n  - 全量\n  - 增量 <HOST>") in shapes(document)
    assert tables(document) == [
        ["参数 | 说明", "a ｜ b | 两者 之一"],
        ["区域 | 负责人", "华东 | 周启明", "华东 | 韩雪梅"],
    ]
    for mark in ("CustomContent", "copyable", "restore.md", "不应出现", "{#"):
        assert mark not in document.text


def test_markdown_that_opens_comments_without_end_does_not_take_minutes(tmp_path):
    document = read(written(tmp_path / "a.md", "<!--" * 20_000 + "{{<" * 20_000 + f"\n\n{RULES}"))
    assert document.text


def test_markdown_says_powers_and_not_what_is_struck_out(tmp_path):
    text = "约 10<sup>3</sup> 个，单价~~900~~800元，~~七折~~。\n\n~~全部作废~~\n\n用 `~~` 删除~~文字~~。"
    assert read(written(tmp_path / "a.md", text)).text.split("\n\n") == [
        "约 10^3 个，单价800元，。",
        "全部作废",
        "用 ~~ 删除文字。",
    ]


def test_rst_has_titles_tables_and_code(tmp_path):
    text = (
        "安装\n====\n\n使用 ``pip`` 和 :ref:`指南 <guide>`::\n\n    pip install kbqa\n\n"
        "参数\n----\n\n===== =====\n名称  默认\n===== =====\nk     10\n===== =====\n\n"
        ".. note:: 需要联网\n\n.. 注释不读\n"
    )
    document = read(written(tmp_path / "a.rst", text))
    assert headings(document) == [(1, "安装"), (2, "参数")]
    assert ("code", "pip install kbqa") in shapes(document)
    assert ("text", "使用 pip 和 指南:") in shapes(document)
    assert "需要联网" in document.text
    assert "注释不读" not in document.text


ORG = """#+TITLE: 差旅费管理办法

前言：本办法自2026年1月1日起施行。

* 总则
员工出差须提前三个工作日在协同办公系统提交
《出差申请单》，经部门负责人审批后方可购票。
** TODO 住宿标准
| 城市 | 总监 | 员工 |
|------+------+------|
| 北京 | 800  | 500  |

1. 凭票据
   - 报销
#+BEGIN_SRC python
def 年假():
    return 10
#+END_SRC
"""


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_an_org_file_is_read_without_a_model_or_a_connection(tmp_path, encoding):
    pytest.importorskip("unstructured", reason="the extra kbqa[unstructured] is not installed")
    document = read(written(tmp_path / "办法.org", ORG.encode(encoding)))
    assert (document.title, document.reader) == ("差旅费管理办法", "org")
    assert shapes(document) == [
        ("text", "前言：本办法自2026年1月1日起施行。"),
        ("heading", "总则"),
        ("text", RULES),
        ("heading", "住宿标准"),
        ("table", "城市 | 总监 | 员工\n北京 | 800 | 500"),
        ("text", "- 凭票据\n- 报销"),
        ("code", "def 年假():\n    return 10"),
    ]


def test_an_org_file_without_its_package_names_the_command(tmp_path, monkeypatch):
    for module in ("unstructured", "unstructured.nlp"):
        monkeypatch.setitem(sys.modules, module, None)
    error = failure(written(tmp_path / "办法.org", ORG))
    assert error.kind == "missing-extra"
    assert "pip install 'kbqa[unstructured]'" in str(error)


def test_a_package_of_others_that_wants_to_connect_is_stopped_at_once():
    with pytest.raises(DocumentError, match="kbqa downloads nothing"), offline():
        socket.create_connection(("127.0.0.1", 9))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", 9))


# --- JSON ------------------------------------------------------------------------------------------------------------


def test_flat_records_become_a_table_and_long_ones_a_block_each(tmp_path):
    records = [{"编号": "GYS-1", "评级": "A", "金额": 1180.0}, {"编号": "GYS-2", "评级": None, "金额": 3076.1}]
    document = read(written(tmp_path / "a.json", json.dumps(records)))
    assert tables(document) == [["编号 | 评级 | 金额", "GYS-1 | A | 1180.0", "GYS-2 |  | 3076.1"]]
    asked = [{"instruction": f"问题{n}", "output": RULES * 9} for n in range(3)]
    document = read(written(tmp_path / "b.jsonl", "\n".join(map(json.dumps, asked)) + "\n{broken"))
    assert document.blocks[1].text.startswith("instruction: 问题1\noutput: 员工出差")
    assert document.warnings == ("1 lines that are no JSON were left out",)


def test_nested_json_says_where_each_value_stands_and_bad_json_is_text(tmp_path):
    value = {"服务": {"端口": 8000, "标签": ["内网", "测试"]}, "节点": [{"名": "甲", "盘": [{"容量": 1}]}]}
    text = read(written(tmp_path / "a.json", json.dumps(value))).text
    assert "端口: 8000\n标签: 内网、测试" in text
    assert "盘[1].容量: 1" in text
    document = read(written(tmp_path / "b.json", "{'不是': JSON}"))
    assert document.text == "{'不是': JSON}"
    assert "no valid JSON" in document.warnings[0]


# --- spreadsheets ----------------------------------------------------------------------------------------------------


def workbook(path: Path, fill) -> Path:
    openpyxl = pytest.importorskip("openpyxl")
    book = openpyxl.Workbook()
    fill(book)
    book.save(path)
    return path


def test_every_row_of_a_sheet_with_merged_cells_says_its_region(tmp_path):
    def fill(book):
        sheet = book.active
        sheet.title = "销售"
        for row in [
            ["2023年销售汇总（单位：万元）"],
            ["大区", "城市", "一类城市", None],
            [None, None, "总监及以上", "其他员工"],
            ["华东", "上海", 800.1 + 0.2, 550],
            [None, "杭州", 600, 420],
        ]:
            sheet.append(row)
        for cells in ("A1:D1", "C2:D2", "A2:A3", "B2:B3", "A4:A5"):
            sheet.merge_cells(cells)

    document = read(workbook(tmp_path / "销售.xlsx", fill))
    assert headings(document) == [(1, "销售"), (2, "2023年销售汇总（单位：万元）")]
    assert tables(document) == [
        [
            "大区 | 城市 | 一类城市/总监及以上 | 一类城市/其他员工",
            "华东 | 上海 | 800.3 | 550",
            "华东 | 杭州 | 600 | 420",
        ]
    ]
    assert next(block for block in document.blocks if block.kind == "table").header_rows == 1


def test_cells_read_as_a_person_sees_them(tmp_path):
    def fill(book):
        sheet = book.active
        sheet.append(["项目", "完成率", "日期", "编号"])
        sheet.append(["甲|乙\n丙", 0.985, datetime.date(2024, 6, 28), "000123"])
        sheet["B2"].number_format = "0.0%"
        book.create_sheet("隐藏").append(["内部备注"])
        book["隐藏"].sheet_state = "hidden"

    document = read(workbook(tmp_path / "a.xlsx", fill))
    assert tables(document) == [["项目 | 完成率 | 日期 | 编号", "甲｜乙 丙 | 98.5% | 2024-06-28 | 000123"]]
    assert "内部备注" in document.text


def test_a_binary_workbook_is_read_like_any_other(tmp_path):
    kit = xlsbkit
    strings = ["地区", "职级", "住宿标准", "占比", "生效日期", "北京", "总监", "员工"]
    rates = kit.sheet(
        [
            [kit.inline("2024年差旅费标准（单位：元）")],
            [kit.shared(number) for number in range(5)],
            [kit.shared(5), kit.shared(6), kit.whole(800), kit.real(0.985, "0.0%"), kit.whole(45306, "yyyy-mm-dd")],
            [None, kit.shared(7), kit.whole(550.25), kit.whole(1, "0%"), kit.real(45323.5, "yyyy-mm-dd")],
        ],
        merged=[(0, 0, 0, 4), (2, 0, 3, 0)],
    )
    limits = kit.sheet(
        [
            [kit.inline("项目"), kit.inline("上限", short=True), kit.inline("时长", short=True)],
            [kit.inline("室温"), kit.whole(36.5, '0.0"℃"', short=True), kit.real(1.25, "[h]:mm")],
            [kit.inline("巡检"), kit.Cell(3, b"\7"), kit.Cell(4, b"\1")],
        ]
    )
    notes = kit.comments((2, 2, "含早餐"))
    document = read(written(tmp_path / "标准.xlsb", kit.xlsb({"标准": rates, "限值": limits}, strings, notes)))
    assert document.reader == "xlsb"
    assert shapes(document) == [
        ("heading", "标准"),
        ("heading", "2024年差旅费标准（单位：元）"),
        (
            "table",
            "地区 | 职级 | 住宿标准 | 占比 | 生效日期\n"
            "北京 | 总监 | 800 | 98.5% | 2024-01-15\n"
            "北京 | 员工 | 550.25 | 100% | 2024-02-01 12:00:00",
        ),
        ("text", "批注（C3）：含早餐"),
        ("heading", "限值"),
        ("table", "项目 | 上限 | 时长\n室温 | 36.5℃ | 30:00:00\n巡检 |  | TRUE"),
    ]


def test_dates_of_a_binary_workbook_may_count_from_1904(tmp_path):
    cells = xlsbkit.sheet([[xlsbkit.inline("日期"), xlsbkit.whole(43844, "yyyy-mm-dd")]])
    data = xlsbkit.xlsb({"甲": cells}, since_1904=True)
    assert tables(read(written(tmp_path / "a.xlsb", data))) == [["日期 | 2024-01-15"]]


def outcome(path: Path) -> str:
    """The format that was read, or the kind of the DocumentError. Anything else that is raised is a bug."""
    try:
        return read(path).reader
    except DocumentError as error:
        return error.kind


def test_a_damaged_binary_workbook_fails_alone(tmp_path):
    dice = random.Random(5)
    whole = xlsbkit.sheet([[xlsbkit.inline(RULES), xlsbkit.whole(7)], [xlsbkit.shared(0)]])
    outcomes = set()
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[dice.randrange(len(whole))] = dice.randrange(256)
        path = written(tmp_path / "a.xlsb", xlsbkit.xlsb({"甲": bytes(damaged)}, ["乙"]))
        outcomes.add(outcome(path))
    assert {"xlsb", "corrupt"} <= outcomes <= {"xlsb", "corrupt", "empty", "too-large"}
    far = xlsbkit.sheet([[xlsbkit.inline("近")]]).replace(
        xlsbkit.record(146), xlsbkit.record(0, b"\0\0\x0f\0") + xlsbkit.inline("远").bytes(9000) + xlsbkit.record(146)
    )
    assert failure(written(tmp_path / "b.xlsb", xlsbkit.xlsb({"甲": far}))).kind == "too-large"


@pytest.mark.parametrize(
    ("code", "shown"),
    [
        ("0.0%", "150.0%"),
        ('"¥"#,##0.00', "¥1.5"),
        ("[$¥-804]#,##0.00;[Red]-[$¥-804]#,##0.00", "¥1.5"),
        ('_ ¥* #,##0.00_ ;_ ¥* -#,##0.00_ ;_ ¥* "-"??_ ;_ @_ ', "¥1.5"),
        ('0.0"元/晚"', "1.5元/晚"),
        ("General\\台", "1.5台"),
        ("#,##0_);(#,##0)", "1.5"),
        ('0!.0,"万"', "1.5"),  # shows 0.0万: the unit would not fit the figure
        ('[>100]"高";"低"', "1.5"),
        ("# ?/?", "1.5"),
        ("0.00E+00", "1.5"),
        ('yyyy"年"m"月"d"日"', "1900-01-01 12:00:00"),
        ("[h]:mm", "36:00:00"),
    ],
)
def test_a_number_is_read_with_the_signs_that_its_format_shows(code, shown):
    assert cell_text(1.5, parse_format(code)) == shown


def test_numbers_keep_leading_zeros_and_units(tmp_path):
    def fill(book):
        sheet = book.active
        sheet.append(["工号", "单价", "体温"])
        sheet.append([7, 1234.5, 36.5])
        for cell, code in (("A2", "00000"), ("B2", '"¥"#,##0.00'), ("C2", '0.0"℃"')):
            sheet[cell].number_format = code

    assert tables(read(workbook(tmp_path / "a.xlsx", fill)))[0][1] == "00007 | ¥1234.5 | 36.5℃"


def test_comments_and_text_boxes_of_a_sheet_are_read(tmp_path):
    def fill(book):
        from openpyxl.comments import Comment

        book.active.append(["型号", "价格"])
        book.active.append(["LQ-1", 800])
        book.active["B2"].comment = Comment("此价含税", "张三")

    path = workbook(tmp_path / "a.xlsx", fill)
    with zipfile.ZipFile(path) as package:
        members = {name: package.read(name) for name in package.namelist()}
    relations = "xl/worksheets/_rels/sheet1.xml.rels"
    members[relations] = members[relations].replace(
        b"</Relationships>",
        b'<Relationship Id="box" Type="http://x/drawing" Target="../drawings/box.xml"/></Relationships>',
    )
    members["xl/drawings/box.xml"] = "<d><sp><txBody><p><r><t>三月起</t></r><r><t>执行</t></r></p></txBody></sp></d>"
    with zipfile.ZipFile(path, "w") as package:
        for name, content in members.items():
            package.writestr(name, content)
    assert [text for kind, text in shapes(read(path)) if kind == "text"] == ["批注（B2）：此价含税", "三月起执行"]


ODS = """<document-content xmlns="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0"
 xmlns:table="urn:oasis:names:tc:opendocument:xmlns:table:1.0"
 xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0"><body><spreadsheet><table:table table:name="标准">
<table:table-row><table:table-cell table:number-columns-spanned="4"><text:p>差旅标准</text:p></table:table-cell>
 <table:covered-table-cell table:number-columns-repeated="3"/></table:table-row>
<table:table-row>{header}<table:table-cell table:number-columns-repeated="16380"/></table:table-row>
<table:table-row><table:table-cell table:number-rows-spanned="2"><text:p>北京</text:p></table:table-cell>
 <table:table-cell office:value-type="currency" office:value="1800.5"><office:annotation><text:p>含早</text:p>
 </office:annotation><text:p>¥1,800.50</text:p></table:table-cell>
 <table:table-cell office:value-type="percentage" office:value="0.985"><text:p>98.5%</text:p></table:table-cell>
 <table:table-cell office:value-type="date" office:date-value="2024-01-15"><text:p>24/1/15</text:p></table:table-cell>
</table:table-row>
<table:table-row table:number-rows-repeated="2"><table:covered-table-cell/>
 <table:table-cell office:value-type="float" office:value="0.3333333"><text:p>0.33</text:p></table:table-cell>
 <table:table-cell office:value-type="string"><text:p>#DIV/0!</text:p></table:table-cell>
 <table:table-cell office:value-type="boolean" office:boolean-value="true"><text:p>真</text:p></table:table-cell>
</table:table-row>
<table:table-row table:number-rows-repeated="1048000"><table:table-cell table:number-columns-repeated="16384"/>
</table:table-row></table:table></spreadsheet></body></document-content>"""


def ods(path: Path, content: str) -> Path:
    with zipfile.ZipFile(path, "w") as package:
        package.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        package.writestr("content.xml", content)
    return path


def test_an_open_spreadsheet_is_read_like_any_other(tmp_path):
    header = "".join(
        f"<table:table-cell><text:p>{name}</text:p></table:table-cell>" for name in "城市 单价 占比 日期".split()
    )
    document = read(ods(tmp_path / "a.ods", ODS.format(header=header)))
    assert shapes(document) == [
        ("heading", "标准"),
        ("heading", "差旅标准"),
        (
            "table",
            "城市 | 单价 | 占比 | 日期\n北京 | ¥1800.50 | 98.5% | 2024-01-15\n"
            "北京 | 0.3333333 |  | TRUE\n | 0.3333333 |  | TRUE",
        ),
        ("text", "批注（B3）：含早"),
    ]


def test_an_open_spreadsheet_that_repeats_a_cell_without_end_is_refused(tmp_path):
    cell = '<table:table-cell table:number-columns-repeated="999999999"><text:p>多</text:p></table:table-cell>'
    assert failure(ods(tmp_path / "a.ods", ODS.format(header=cell))).kind == "too-large"


def test_percentages_of_an_old_excel_file_are_told():
    def part(*records):
        return b"".join(struct.pack("<HH", kind, len(content)) + content for kind, content in records)

    code, title = "0.0%", "标准"
    styles = [(0xE0, struct.pack("<HH", 0, number) + bytes(16)) for number in (0, 164)]
    cells = [
        (0x203, struct.pack("<3Hd", 4, 2, 1, 0.985)),
        (0xBD, struct.pack("<2HHIHIH", 5, 0, 0, 0, 1, 0, 1)),
    ]
    sheet = part((0x809, struct.pack("<HH", 0x600, 0x10)), *cells, (0x0A, b""))

    def globals_(start):
        name = struct.pack("<IBBBB", start, 0, 0, len(title), 1) + title.encode("utf-16-le")
        named = (0x41E, struct.pack("<HHB", 164, len(code), 0) + code.encode())
        return part((0x809, struct.pack("<HH", 0x600, 5)), named, *styles, (0x85, name), (0x0A, b""))

    stream = globals_(len(globals_(0))) + sheet
    percent = parse_format(code)
    assert formats_of(stream) == {"标准": {(4, 2): percent, (5, 1): percent}}
    assert formats_of(stream[:30]) == {}


def test_two_tables_below_each_other_keep_their_own_headers(tmp_path):
    def fill(book):
        for row in [["产品", "价格"], ["网关", 1180], [], ["员工", "电话"], ["沈佳宜", "8008"]]:
            book.active.append(row)

    assert tables(read(workbook(tmp_path / "a.xlsx", fill))) == [
        ["产品 | 价格", "网关 | 1180"],
        ["员工 | 电话", "沈佳宜 | 8008"],
    ]


def test_two_cells_in_far_corners_are_refused_before_they_take_all_memory(tmp_path):
    def fill(book):
        book.active["A1"], book.active["XFD1048576"] = "甲", "乙"

    error = failure(workbook(tmp_path / "稀疏.xlsx", fill))
    assert error.kind == "too-large"
    assert "1,048,576 rows" in str(error)


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("b.csv", ";"), ("c.tsv", "\t"), ("d.csv", "|")])
def test_the_delimiter_of_a_table_is_found_out(tmp_path, name, delimiter):
    rows = [["编号", "名称", "备注"], ["GYS-1", "锐芯，电子", '"两行\n文字"'], ["GYS-2", "百川", ""]]
    data = "\r\n".join(delimiter.join(row) for row in rows).encode("gbk")
    assert tables(read(written(tmp_path / name, data))) == [
        ["编号 | 名称 | 备注", "GYS-1 | 锐芯，电子 | 两行 文字", "GYS-2 | 百川 | "]
    ]


# --- HTML ------------------------------------------------------------------------------------------------------------


def test_a_page_is_read_without_scripts_styles_and_menus(tmp_path):
    page = f"""<!doctype html><html><head><title> 常见 问题 </title><style>.a{{color:red}}</style></head><body>
    <nav><a href=/>首页</a> <a href=/p>产品</a></nav><script>脚本不读</script><noscript>请启用</noscript>
    <h1>保修</h1><div>标准保修期为<b>36</b>
    个月<br>电池12个月</div><p>{RULES}</p>
    <ol start=3><li>甲<ul><li>子项</li></ul></li><li>乙</li></ol>
    <table><caption>标准</caption><thead><tr><th rowspan=2>级别</th><th colspan=2>限额</th></tr>
    <tr><th>总监</th><th>员工</th></tr></thead><tr><td>一类</td><td>800</td><td>550</td></tr></table>
    <pre>第一行
  第二行</pre></body></html>"""
    document = read(written(tmp_path / "a.html", page))
    assert document.title == "常见 问题"
    assert shapes(document) == [
        ("heading", "保修"),
        ("text", "标准保修期为36 个月\n电池12个月"),
        ("text", RULES),
        ("text", "3. 甲\n  - 子项\n4. 乙"),
        ("text", "标准"),
        ("table", "级别 | 限额/总监 | 限额/员工\n一类 | 800 | 550"),
        ("code", "第一行\n  第二行"),
    ]


def test_a_page_that_is_all_navigation_still_has_its_text(tmp_path):
    assert RULES in read(written(tmp_path / "a.html", f"<html><body><nav><p>{RULES}</p></nav></body></html>")).text


def test_a_saved_page_and_a_spreadsheet_that_is_html_are_read(tmp_path):
    web = EmailMessage()
    web.set_content(f"<html><title>页面</title><p>{RULES}</p></html>", subtype="html", charset="gb18030")
    assert RULES in read(written(tmp_path / "a.mht", web.as_bytes())).text
    page = "<html><meta charset=gbk><table><tr><td>姓名<td>电话<tr><td>沈佳宜<td>8008</table></html>"
    document = read(written(tmp_path / "导出.xls", page.encode("gbk")))
    assert tables(document) == [["姓名 | 电话", "沈佳宜 | 8008"]]
    assert document.warnings == ("named .xls, but read as html",)


def test_a_page_says_powers_and_not_what_is_struck_out(tmp_path):
    page = (
        "<p>约 10<sup>3</sup> 个，每 m<sup>2</sup> 单价<del>900</del>800元</p><p><s>整段作废</s></p>"
        "<p><ruby>漢<rp>(</rp><rt>hàn</rt></ruby>字</p>"
    )
    assert read(written(tmp_path / "a.html", page)).text.split("\n\n") == [
        "约 10^3 个，每 m2 单价800元",
        "整段作废",
        "漢字",
    ]


def test_a_table_in_a_cell_keeps_its_rows_apart(tmp_path):
    inner = "<table><tr><th>级别</th><th>限额</th></tr><tr><td>一类</td><td>800</td></tr></table>"
    page = f"<table><tr><th>部门</th><th>标准</th></tr><tr><td>财务部</td><td>{inner}</td></tr></table>"
    assert tables(read(written(tmp_path / "a.html", page))) == [["部门 | 标准", "财务部 | 级别 限额；一类 800"]]


@pytest.mark.parametrize(
    ("rows", "lines", "header_rows"),
    [
        pytest.param(
            [
                "<td>姓名<td colspan=2>张三<td>性别<td>男",
                "<td colspan=2>身份证号<td colspan=3>110101",
                "<td colspan=5>备注",
            ],
            ["姓名 | 张三 | 性别 | 男", "身份证号 | 110101 |  | ", "备注 |  |  | "],
            0,
            id="a form",
        ),
        pytest.param(
            ["<td>时间<td>周一<td>周二", "<td>上午<td colspan=2>例会", "<td>下午<td>巡检<td>复盘"],
            ["时间 | 周一 | 周二", "上午 | 例会 | 例会", "下午 | 巡检 | 复盘"],
            1,
            id="a schedule",
        ),
        pytest.param(
            ["<td>产品<td colspan=2>价格", "<td>甲<td>100<td>200", "<td>乙<td>110<td>210", "<td colspan=2>合计<td>620"],
            ["产品 | 价格 | 价格", "甲 | 100 | 200", "乙 | 110 | 210", "合计 |  | 620"],
            1,
            id="a total",
        ),
        pytest.param(
            ["<td>条款<td>甲方<td>乙方", "<td>付款<td colspan=2>双方应当在合同签订之日起三十个工作日之内结清"],
            ["条款 | 甲方 | 乙方", "付款 | 双方应当在合同签订之日起三十个工作日之内结清 | "],
            1,
            id="a long text",
        ),
    ],
)
def test_a_cell_over_several_columns_stands_where_it_says_something(tmp_path, rows, lines, header_rows):
    page = "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
    (block,) = read(written(tmp_path / "a.html", page)).blocks
    assert (block.text.split("\n"), block.header_rows) == (lines, header_rows)


def test_a_page_nested_too_deep_for_recursion_is_read(tmp_path):
    assert RULES in read(written(tmp_path / "a.html", "<div>" * 3000 + RULES)).text


# --- Word ------------------------------------------------------------------------------------------------------------

W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def word(path: Path, body: str, **parts: str) -> Path:
    """A .docx of nothing but the given XML: python-docx cannot write tracked changes."""
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    rel = '<Relationship Id="{0}" Type="' + office + '/{1}" Target="{2}"/>'
    rels = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("[Content_Types].xml", "<Types/>")
        package.writestr("_rels/.rels", rels.format(rel.format("r1", "officeDocument", "word/document.xml")))
        package.writestr("word/document.xml", f"<w:document {W}><w:body>{body}</w:body></w:document>")
        listed = "".join(rel.format(kind, kind, f"{kind}.xml") for kind in parts)
        package.writestr("word/_rels/document.xml.rels", rels.format(listed))
        for kind, xml in parts.items():
            package.writestr(f"word/{kind}.xml", xml)
    return path


def p(text: str, properties: str = "") -> str:
    return f"<w:p><w:pPr>{properties}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def test_tracked_changes_are_read_as_accepted(tmp_path):
    body = (
        "<w:p><w:r><w:t>付款期限为</w:t></w:r>"
        "<w:del><w:r><w:delText>三十天</w:delText></w:r></w:del><w:ins><w:r><w:t>四十五天</w:t></w:r></w:ins></w:p>"
        f"<w:ins>{p('整段新增')}</w:ins>"
        "<w:moveFrom><w:r><w:t>移走</w:t></w:r></w:moveFrom>"
    )
    assert read(word(tmp_path / "合同.docx", body)).text == "付款期限为四十五天\n\n整段新增"


def test_words_that_are_struck_out_are_left_out_unless_they_are_all_there_is(tmp_path):
    def run(text, properties=""):
        return f"<w:r><w:rPr>{properties}</w:rPr><w:t>{text}</w:t></w:r>"

    struck, kept, raised = "<w:strike/>", "<w:strike w:val='0'/>", "<w:vertAlign w:val='superscript'/>"
    body = (
        f"<w:p>{run('单价')}{run('900', struck)}{run('800元', kept)}</w:p>"
        f"<w:p>{run('整条作废', '<w:dstrike/>')}</w:p>"
        f"<w:p>{run('约 10')}{run('3', raised)}{run(' 个')}</w:p>"
    )
    assert read(word(tmp_path / "a.docx", body)).text.split("\n\n") == ["单价800元", "整条作废", "约 10^3 个"]


def test_the_table_of_contents_of_a_word_document_is_passed_over(tmp_path):
    gallery = "<w:sdtPr><w:docPartObj><w:docPartGallery w:val='Table of Contents'/></w:docPartObj></w:sdtPr>"
    contents = f"<w:sdt>{gallery}<w:sdtContent>{p('第一章 总则 1')}</w:sdtContent></w:sdt>"
    other = f"<w:sdt><w:sdtContent>{p('控件里的正文。')}</w:sdtContent></w:sdt>"
    assert read(word(tmp_path / "a.docx", contents + other)).text == "控件里的正文。"


def test_automatic_numbers_of_articles_are_spelled_out(tmp_path):
    numbering = (
        f"<w:numbering {W}><w:abstractNum w:abstractNumId='0'><w:lvl w:ilvl='0'><w:start w:val='9'/>"
        "<w:numFmt w:val='chineseCounting'/><w:lvlText w:val='第%1条'/></w:lvl><w:lvl w:ilvl='1'>"
        "<w:numFmt w:val='decimal'/><w:lvlText w:val='（%2）'/></w:lvl></w:abstractNum>"
        "<w:num w:numId='5'><w:abstractNumId w:val='0'/></w:num></w:numbering>"
    )
    article = "<w:numPr><w:ilvl w:val='0'/><w:numId w:val='5'/></w:numPr>"
    clause = article.replace("'0'", "'1'")
    body = (
        p("适用范围。", article)
        + p("住宿费。", article)
        + p("上海。", clause)
        + p("北京。", clause)
        + p("附则。", article)
    )
    text = read(word(tmp_path / "a.docx", body, numbering=numbering)).text
    assert text == "第九条 适用范围。\n第十条 住宿费。\n（1） 上海。\n（2） 北京。\n第十一条 附则。"


def test_heading_styles_count_by_name_base_and_outline(tmp_path):
    styles = (
        f"<w:styles {W}><w:style w:styleId='a3'><w:name w:val='Title'/></w:style>"
        "<w:style w:styleId='1'><w:name w:val='标题 1'/></w:style>"
        "<w:style w:styleId='x'><w:name w:val='公司二级'/><w:basedOn w:val='2'/></w:style>"
        "<w:style w:styleId='2'><w:name w:val='heading 2'/></w:style></w:styles>"
    )
    body = "".join(
        p(text, properties)
        for text, properties in [
            ("管理办法", "<w:pStyle w:val='a3'/>"),
            ("总则", "<w:pStyle w:val='1'/>"),
            ("范围", "<w:pStyle w:val='x'/>"),
            ("细则", "<w:outlineLvl w:val='2'/>"),
            (RULES, ""),
        ]
    )
    document = read(word(tmp_path / "a.docx", body, styles=styles))
    assert document.title == "管理办法"
    assert headings(document) == [(1, "管理办法"), (1, "总则"), (2, "范围"), (3, "细则")]


def test_word_tables_repeat_merged_cells_and_hold_nested_ones(tmp_path):
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("附表一", 1)
    table = document.add_table(rows=3, cols=3)
    for row, texts in zip(table.rows, ["级别 城市 限额", "一类 上海 800", "x 北京 750"], strict=True):
        for cell, text in zip(row.cells, texts.split(), strict=True):
            cell.text = text
    table.cell(1, 0).merge(table.cell(2, 0)).text = "一类"
    inner = table.cell(2, 1).add_table(1, 2)
    inner.cell(0, 0).text, inner.cell(0, 1).text = "朝阳", "海淀"
    document.sections[0].header.paragraphs[0].text = "内部资料"
    document.save(tmp_path / "a.docx")
    got = read(tmp_path / "a.docx")
    assert tables(got) == [["级别 | 城市 | 限额", "一类 | 上海 | 800", "一类 | 北京 朝阳 海淀 | 750"]]
    assert got.blocks[0].text == "内部资料"
    assert got.text.count("内部资料") == 1


# --- slides, OpenDocument, books, RTF --------------------------------------------------------------------------------


def test_slides_have_pages_titles_tables_groups_and_notes(tmp_path):
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "入职第一天"
    table = slide.shapes.add_table(2, 2, 0, 0, 99999, 99999).table
    for (row, column), text in {(0, 0): "事项", (0, 1): "时限", (1, 0): "工位", (1, 1): "入职前一天"}.items():
        table.cell(row, column).text = text
    group = slide.shapes.add_group_shape()
    group.shapes.add_textbox(0, 0, 9, 9).text_frame.text = "组合内的文字"
    slide.notes_slide.notes_text_frame.text = "讲师提示：工牌押金已取消。"
    deck.slides.add_slide(deck.slide_layouts[5]).shapes.title.text = "试用期"
    deck.save(tmp_path / "a.pptx")
    document = read(tmp_path / "a.pptx")
    assert (document.title, document.pages) == ("入职第一天", 2)
    assert [(block.kind, block.text, block.page) for block in document.blocks] == [
        ("heading", "入职第一天", 1),
        ("table", "事项 | 时限\n工位 | 入职前一天", 1),
        ("text", "组合内的文字", 1),
        ("text", "讲师提示：工牌押金已取消。", 1),
        ("heading", "试用期", 2),
    ]


def test_a_slide_of_text_boxes_is_titled_by_its_largest_line(tmp_path):
    pptx = pytest.importorskip("pptx")
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[6])
    for text, points in (("全年无休", 18), ("售后服务政策", 32), ("两小时内响应", 18)):
        run = slide.shapes.add_textbox(0, 0, 9, 9).text_frame.paragraphs[0].add_run()
        run.text, run.font.size = text, pptx.util.Pt(points)
    deck.save(tmp_path / "a.pptx")
    assert shapes(read(tmp_path / "a.pptx")) == [
        ("heading", "售后服务政策"),
        ("text", "全年无休"),
        ("text", "两小时内响应"),
    ]


def test_an_open_document_has_headings_lists_and_tables(tmp_path):
    names = " ".join(f'xmlns:{n}="urn:oasis:names:tc:opendocument:xmlns:{n}:1.0"' for n in ("office", "text", "table"))
    content = (
        f"<office:document-content {names}><office:body><office:text>"
        "<text:tracked-changes><text:p>已删除</text:p></text:tracked-changes>"
        "<text:h text:outline-level='2'>费用</text:h>"
        "<text:p>提前<text:s text:c='2'/>申请<text:line-break/>审批</text:p>"
        "<text:list><text:list-item><text:p>住宿</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>级别</text:p></table:table-cell>"
        "<table:table-cell><text:p>限额</text:p></table:table-cell></table:table-row><table:table-row>"
        "<table:table-cell table:number-columns-repeated='2'><text:p>无</text:p></table:table-cell>"
        "</table:table-row></table:table></office:text></office:body></office:document-content>"
    )
    with zipfile.ZipFile(tmp_path / "a.odt", "w") as package:
        package.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        package.writestr("content.xml", content)
    assert shapes(read(tmp_path / "a.odt")) == [
        ("heading", "费用"),
        ("text", "提前  申请\n审批"),
        ("text", "- 住宿"),
        ("table", "级别 | 限额\n无 | 无"),
    ]


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path):
    with zipfile.ZipFile(tmp_path / "书.epub", "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr("META-INF/container.xml", '<c><rootfile full-path="O/b.opf"/></c>')
        items = "".join(f'<item id="{n}" href="%E7%AB%A0{n}.xhtml"/>' for n in (1, 2))
        spine = '<itemref idref="2"/><itemref idref="1"/>'
        book.writestr(
            "O/b.opf", f"<package><title>员工手册</title><manifest>{items}</manifest><spine>{spine}</spine></package>"
        )
        for n in (1, 2):
            book.writestr(
                f"O/章{n}.xhtml", f"<html><head><title>第{n}章</title></head><body><p>内容{n}</p></body></html>"
            )
    document = read(tmp_path / "书.epub")
    assert document.title == "员工手册"
    assert shapes(document) == [("heading", "第2章"), ("text", "内容2"), ("heading", "第1章"), ("text", "内容1")]


def test_a_chapter_that_begins_with_its_title_says_it_once(tmp_path):
    with zipfile.ZipFile(tmp_path / "书.epub", "w") as book:
        book.writestr("mimetype", "application/epub+zip")
        book.writestr(
            "b.opf",
            "<package><manifest><item id='1' href='1.html'/></manifest><spine><itemref idref='1'/></spine></package>",
        )
        book.writestr("1.html", "<html><head><title>第一章</title></head><body><p>第一章</p><p>内容</p></body></html>")
    assert shapes(read(tmp_path / "书.epub")) == [("heading", "第一章"), ("text", "内容")]


def test_rtf_in_code_page_936_and_with_unicode_escapes(tmp_path):
    hexed = "".join(f"\\'{byte:02x}" for byte in "住宿费".encode("gbk"))
    rtf = "{\\rtf1\\ansi\\ansicpg936 " + hexed + "\\par \\u38480?\\u39069?\\par}"
    assert read(written(tmp_path / "a.rtf", rtf)).text.split() == ["住宿费", "限额"]


# --- mail ------------------------------------------------------------------------------------------------------------


def mail(**parts: bytes) -> EmailMessage:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = (
        "综合办公室 <office@example.com>",
        "all@example.com",
        "周会纪要",
    )
    message["Date"] = "Fri, 13 Oct 2023 18:02:00 +0800"
    message.set_content("各位同事：\n\n演示版本冻结时间调整为10月27日。", charset="gb18030")
    for name, data in parts.items():
        message.add_attachment(data, "application", "octet-stream", filename=name)
    return message


def test_a_mail_says_who_when_and_what_and_takes_its_attachments_in(tmp_path):
    message = mail(**{"差旅附件.csv": "城市,限额\n上海,800".encode("gbk"), "坏的.docx": b"PK\x03\x04broken"})
    document = read(written(tmp_path / "纪要.eml", message.as_bytes()))
    assert document.title == "周会纪要"
    assert "发件人：综合办公室 <office@example.com>" in document.text
    assert "日期：2023-10-13 18:02+08:00" in document.text
    assert "演示版本冻结时间调整为10月27日。" in document.text
    assert (1, "差旅附件.csv") in headings(document)
    assert tables(document) == [["城市 | 限额", "上海 | 800"]]
    assert document.warnings[0].startswith("attachment 坏的.docx: is damaged")


TABLE = "<p>价格如下：</p><table><tr><td>型号</td><td>价格</td></tr><tr><td>LQ-1</td><td>800</td></tr></table>"


def said(path: Path, message) -> list[str]:
    """What the blocks below the head of a mail say."""
    head, *rest = (text for kind, text in shapes(read(written(path, message.as_bytes()))) if kind != "heading")
    assert head.startswith("发件人：")
    return rest


def test_of_alternatives_the_one_is_read_that_says_more(tmp_path):
    same = mail()
    same.add_alternative("<p>各位同事：</p><p>演示版本冻结时间调整为10月27日。</p>", subtype="html")
    same.add_alternative("BEGIN:VCALENDAR\nEND:VCALENDAR", subtype="calendar")
    assert said(tmp_path / "a.eml", same) == ["各位同事：", "演示版本冻结时间调整为10月27日。"]
    table = mail()
    table.add_alternative(TABLE, subtype="html")
    assert said(tmp_path / "b.eml", table) == ["价格如下：", "型号 | 价格\nLQ-1 | 800"]
    empty = mail()
    empty.set_content("请用支持HTML的软件查看。")
    empty.add_alternative(f"<p>{RULES * 3}</p>", subtype="html")
    assert said(tmp_path / "c.eml", empty) == [RULES * 3]


def test_text_after_an_html_message_does_not_hide_it(tmp_path):
    message = mail()
    message.set_content(TABLE, subtype="html")
    message.make_mixed()
    for text in ("本邮件由列表转发。", "价格如下：\n型号 价格\nLQ-1 800"):  # the second says the same again
        part = EmailMessage()
        part.set_content(text)
        message.attach(part)
    assert said(tmp_path / "a.eml", message) == ["价格如下：", "型号 | 价格\nLQ-1 | 800", "本邮件由列表转发。"]


def test_mails_inside_mails_are_read_down_to_a_limit(tmp_path):
    message = mail(**{"最里面.txt": RULES.encode()})
    for depth in range(4):
        outer = mail()
        outer.add_attachment(message, filename=f"转发{depth}.eml")
        message = outer
    document = read(written(tmp_path / "a.eml", message.as_bytes()))
    assert RULES not in document.text
    assert "too deep" in document.warnings[-1]
    deeper = ReadOptions(max_attachment_depth=9)
    assert RULES in read(tmp_path / "a.eml", options=deeper).text


def test_a_mail_with_broken_headers_is_read(tmp_path):
    raw = b"Subject: =?gbk?B?A?=\r\nFrom: " + "张三".encode("gbk") + b"\r\nDate: yesterday\r\n"
    raw += b"Content-Type: text/plain; charset=unknown-8bit\r\n\r\n" + RULES.encode("gbk")
    text = read(written(tmp_path / "a.eml", raw)).text
    assert "张三" in text
    assert RULES in text


# --- XML ------------------------------------------------------------------------------------------------------------


def test_the_xml_that_systems_export_as_excel_is_a_table(tmp_path):
    cell = '<Cell{}><Data ss:Type="String">{}</Data></Cell>'.format
    rows = [
        [cell("", "大区"), cell("", "城市"), cell("", "限额")],
        [cell(' ss:MergeDown="1"', "华东"), cell("", "上海"), cell("", "800")],
        [cell(' ss:Index="2"', "杭州"), cell("", "600")],
    ]
    body = "".join(f"<Row>{''.join(row)}</Row>" for row in rows)
    xml = (
        '<?xml version="1.0" encoding="UTF-8"?><?mso-application progid="Excel.Sheet"?>'
        '<Workbook xmlns="urn:schemas-microsoft-com:office:spreadsheet" '
        'xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet">'
        f'<Worksheet ss:Name="限额"><Table>{body}</Table></Worksheet></Workbook>'
    )
    document = read(written(tmp_path / "导出.xls", xml))
    assert tables(document) == [["大区 | 城市 | 限额", "华东 | 上海 | 800", "华东 | 杭州 | 600"]]
    assert headings(document) == [(1, "限额")]


def test_the_xml_of_excel_tells_dates_and_percentages(tmp_path):
    cells = [
        ("Number", "0.985", "p"),
        ("Number", "36.5", "c"),
        ("DateTime", "2024-01-15T00:00:00.000", ""),
        ("DateTime", "1899-12-31T13:30:00.000", ""),
        ("Boolean", "1", ""),
        ("Error", "#DIV/0!", ""),
        ("Number", "x", "p"),
    ]
    row = "".join(
        f'<Cell ss:StyleID="{style}"><Data ss:Type="{kind}">{value}</Data></Cell>' for kind, value, style in cells
    )
    xml = (
        '<Workbook xmlns:ss="urn:schemas-microsoft-com:office:spreadsheet"><Styles>'
        '<Style ss:ID="p"><NumberFormat ss:Format="Percent"/></Style>'
        '<Style ss:ID="c"><NumberFormat ss:Format="0.0&quot;℃&quot;"/></Style></Styles>'
        f'<Worksheet ss:Name="甲"><Table><Row>{row}</Row></Table></Worksheet></Workbook>'
    )
    assert tables(read(written(tmp_path / "a.xml", xml))) == [["98.50% | 36.5℃ | 2024-01-15 | 13:30 | TRUE | x"]]


def test_other_xml_is_read_by_its_text_and_entities_are_refused(tmp_path):
    assert read(written(tmp_path / "a.xml", "<a><标题>手册</标题><p>见<b>附件</b>二</p></a>")).text.split("\n") == [
        "标题: 手册",
        "p: 见",
        "b: 附件",
        "二",
    ]
    bomb = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "啊">]><a>&b;</a>'
    assert failure(written(tmp_path / "b.xml", bomb)).kind == "bomb"
    assert failure(written(tmp_path / "c.xml", "<a><b></a>")).kind == "malformed"


# --- old Office formats ----------------------------------------------------------------------------------------------


def test_chinese_word_97_documents_keep_text_headings_and_tables(testdata):
    document = read(testdata / "data/docs/real/61490.doc")
    assert (1, "章节1") in headings(document)
    assert ["11 | 12 | 13", "21 | 22 | 23", "31 | 32 | 33"] in tables(document)


def test_a_damaged_compound_file_fails_and_does_not_loop(testdata, tmp_path):
    data = bytearray((testdata / "data/docs/made/13_two_sheets.xls").read_bytes())
    table = int.from_bytes(data[76:80], "little") * 512 + 512
    directory = int.from_bytes(data[48:52], "little")
    data[table + 4 * directory : table + 4 * directory + 4] = directory.to_bytes(4, "little")  # it follows itself
    assert failure(written(tmp_path / "圈.xls", bytes(data))).kind == "corrupt"


# --- hostile, wrong and empty files ----------------------------------------------------------------------------------


def test_an_xml_bomb_is_refused_at_once(tmp_path):
    entities = "".join(f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 9))
    bomb = f'<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a0 "啊">{entities}]><w:styles {W}>&a8;</w:styles>'
    error = failure(word(tmp_path / "炸弹.docx", p(RULES), styles=bomb))
    assert error.kind == "bomb"
    wide = word(tmp_path / "宽.docx", p(RULES))
    with zipfile.ZipFile(wide, "a") as package:
        package.writestr("word/settings.xml", bomb.encode("utf-16"))
    assert failure(wide).kind == "bomb"


def test_a_zip_bomb_is_refused_by_ratio_and_by_total(tmp_path):
    bomb = word(tmp_path / "炸弹.docx", p(RULES))
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as package:
        package.writestr("word/media/image1.xml", b" " * (40 << 20))
    assert failure(bomb).kind == "bomb"
    small = word(tmp_path / "小.docx", p(RULES))
    assert failure(small, ReadOptions(max_uncompressed_bytes=100)).kind == "bomb"


def compound_file(stream: str) -> bytes:
    """An OLE2 file with one empty stream of that name."""
    free, end = b"\xff" * 4, b"\xfe\xff\xff\xff"
    header = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16) + b"\x3e\0\x03\0\xfe\xff\x09\0\x06\0" + bytes(10)
    header += (1).to_bytes(4, "little") + (1).to_bytes(4, "little") + bytes(4) + (4096).to_bytes(4, "little")
    header += end + bytes(4) + end + bytes(4) + bytes(4) + free * 108
    table = b"\xfd\xff\xff\xff" + end + free * 126

    def entry(name: str, kind: int, child: bytes) -> bytes:
        encoded = name.encode("utf-16-le") + b"\0\0"
        return (
            encoded.ljust(64, b"\0") + bytes([len(encoded), 0, kind, 1]) + free * 2 + child + bytes(36) + end
        ).ljust(128, b"\0")

    return header + table + entry("Root Entry", 5, (1).to_bytes(4, "little")) + entry(stream, 2, free) + bytes(256)


def test_an_encrypted_office_package_is_told_from_a_damaged_one(tmp_path):
    for name in ("合同.docx", "报价.xlsx", "介绍.pptx"):
        error = failure(written(tmp_path / name, compound_file("EncryptedPackage")))
        assert error.kind == "encrypted"
        assert "password" in str(error)
    assert failure(written(tmp_path / "旧.doc", compound_file("Something"))).kind == "corrupt"


def test_truncated_and_scrambled_files_are_reported_as_damaged(tmp_path):
    whole = word(tmp_path / "全.docx", p(RULES * 50)).read_bytes()
    assert failure(written(tmp_path / "半.docx", whole[: len(whole) // 2])).kind == "corrupt"
    assert failure(written(tmp_path / "坏.docx", whole.replace(b"PK\x01\x02", b"PK\x09\x09"))).kind == "corrupt"
    assert failure(written(tmp_path / "x.pdf", b"x" * 5000)).kind == "corrupt"
    assert failure(written(tmp_path / "x.png", bytes(range(256)) * 20)).kind == "corrupt"
    unclosed = word(tmp_path / "xml.docx", "<w:p><w:r><w:t>没有结束")
    assert failure(unclosed).kind == "corrupt"


def test_a_file_is_read_by_what_it_is_and_the_wrong_name_is_told(tmp_path):
    data = word(tmp_path / "办法.docx", p(RULES)).read_bytes()
    document = read(written(tmp_path / "办法.pdf", data))
    assert (document.text, document.reader) == (RULES, "docx")
    assert document.warnings == ("named .pdf, but read as docx",)


@pytest.mark.parametrize("data", [b"", b" \r\n\t \n", b"\0\0\0", b"\xef\xbb\xbf\n"])
def test_an_empty_file_is_said_to_be_empty(tmp_path, data):
    assert failure(written(tmp_path / "空.txt", data)).kind == "empty"


def test_documents_without_any_text_are_said_to_be_empty(tmp_path):
    assert failure(word(tmp_path / "空.docx", "<w:p/>")).kind == "empty"
    assert failure(written(tmp_path / "空.html", "<html><script>var a</script></html>")).kind == "empty"
    assert failure(workbook(tmp_path / "空.xlsx", lambda book: None)).kind == "empty"


def test_unknown_formats_are_refused_with_the_names_of_those_that_are_read(tmp_path):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as package:
        package.writestr("a.txt", "x")
    error = failure(written(tmp_path / "文件.zip", archive.getvalue()))
    assert error.kind == "unsupported"
    assert "docx" in str(error)
    assert failure(written(tmp_path / "程序.exe", b"MZ\x90\0\x03\0\0\0\x04\0" * 99)).kind == "unsupported"


def test_limits_on_bytes_and_characters_hold(tmp_path):
    path = written(tmp_path / "长.txt", RULES * 100)
    assert failure(path, ReadOptions(max_bytes=100)).kind == "too-large"
    assert failure(path, ReadOptions(max_characters=100)).kind == "too-large"
    assert failure(tmp_path / "没有.txt").kind == "unreadable"
    assert failure(tmp_path).kind == "unreadable"


def test_hostile_names_are_only_names(tmp_path):
    path = written(tmp_path / "; rm -rf $(x) 'a' #测试\u202e.txt", RULES)
    assert read(path, source="制度/../a.txt").source == "制度/../a.txt"
    message = mail(**{"../../etc/密码.txt": RULES.encode()})
    assert (1, ".._.._etc_密码.txt") in headings(read(written(tmp_path / "a.eml", message.as_bytes())))


def test_the_digest_is_that_of_the_bytes_and_the_title_falls_back_to_the_name(tmp_path):
    document = read(written(tmp_path / "编号：7.txt", f"编号：7\n{RULES}"))
    assert document.digest == hashlib.sha256((tmp_path / "编号：7.txt").read_bytes()).hexdigest()
    assert (document.title, document.source) == ("编号：7", "编号：7.txt")


def test_what_ingestion_takes_and_what_it_passes_over():
    assert all(supports(Path(f"a.{suffix}")) for suffix in "txt MD docx doc xls csv eml epub rtf odt jpg pdf".split())
    assert not supports(Path("a.zip"))
    ignored = [".DS_Store", "~$合同.docx", "Thumbs.db", ".hidden.txt", "a.txt~"]
    assert all(is_ignored(Path("制度", name)) for name in ignored)
    assert not is_ignored(Path("制度/合同.docx"))
