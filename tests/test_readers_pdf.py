"""PDFs are built here with reportlab (Chinese in its CID font STSong-Light), pictures with Pillow."""

import io
import json
import random
import unicodedata
from collections import Counter
from difflib import SequenceMatcher

import pytest
from PIL import Image, ImageDraw, ImageFont
from reportlab.lib import pdfencrypt
from reportlab.lib.pagesizes import A4
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen.canvas import Canvas

from kbqa.errors import DocumentError
from kbqa.readers import ReadOptions, read
from kbqa.readers.image import can_ocr, read_image
from kbqa.readers.pdf import read_pdf

FONT = "STSong-Light"
WIDTH, HEIGHT = A4
BODY = 11
NO_OCR = ReadOptions(ocr=False)

needs_ocr = pytest.mark.skipif(not can_ocr(), reason="text recognition is not installed: pip install 'kbqa[ocr]'")


@pytest.fixture(scope="module", autouse=True)
def chinese_font():
    pdfmetrics.registerFont(UnicodeCIDFont(FONT))


class Paper:
    """A PDF in the making; y counts down from the upper edge."""

    def __init__(self, **options):
        self._bytes = io.BytesIO()
        self.canvas = Canvas(self._bytes, pagesize=A4, **options)

    def write(self, x, y, text, size=BODY):
        self.canvas.setFont(FONT, size)
        self.canvas.drawString(x, HEIGHT - y, text)

    def lines(self, x, y, lines, size=BODY, pitch=1.4):
        for number, line in enumerate(lines):
            self.write(x, y + number * pitch * size, line, size)

    def grid(self, xs, ys):
        self.canvas.grid(xs, [HEIGHT - y for y in ys])

    def cells(self, xs, ys, rows):
        for y, row in zip(ys, rows, strict=False):
            for x, cell in zip(xs, row, strict=False):
                self.write(x + 3, y + 14, cell)

    def picture(self, width=WIDTH, height=HEIGHT):
        self.canvas.drawInlineImage(Image.new("RGB", (60, 80), "lightgray"), 0, 0, width, height)

    def next_page(self):
        self.canvas.showPage()

    def done(self, options=NO_OCR):
        return read_pdf(self.data(), options)

    def data(self):
        self.canvas.showPage()
        self.canvas.save()
        return self._bytes.getvalue()


def texts(content, kind=None):
    return [block.text for block in content.blocks if kind is None or block.kind == kind]


def squeezed(text):
    return "".join(text.split())


def test_every_block_knows_its_page():
    paper = Paper()
    paper.write(72, 100, "第一页讲年假，入职满一年者有十天。")
    paper.next_page()
    paper.write(72, 100, "第二页讲差旅，住宿每晚不超过五百元。")
    content = paper.done()
    assert content.pages == 2
    assert [(block.page, block.text[:5]) for block in content.blocks] == [(1, "第一页讲年"), (2, "第二页讲差")]


def test_lines_are_joined_to_paragraphs():
    paper = Paper()
    paper.lines(
        72,
        100,
        ["　　本手册适用于公司全体正式员工以及与公司签订了劳务协议的派遣人", "员，实习生参照执行。"],
    )
    paper.lines(
        72, 200, ["Every device is calibrated twice before delivery; the cali-", "bration is valid for a year."]
    )
    chinese, english = texts(paper.done())
    assert "派遣人员，实习生" in chinese
    assert english == "Every device is calibrated twice before delivery; the calibration is valid for a year."


def test_an_indented_line_begins_a_paragraph():
    paper = Paper()
    first = "报销单须在返回后十五个工作日内提交财务部门审核并附全部原始票据和审"
    paper.write(72 + 2 * BODY, 100, first)
    paper.write(72, 116, "批单，逾期三十日的不予受理，由此产生的损失由报销人自己承担，特殊情况除外。")
    paper.write(72 + 2 * BODY, 132, "借款须在七日内结清。")
    assert [text[:2] for text in texts(paper.done())] == ["报销", "借款"]


LEFT = [
    "左栏第一行讲的是出差审批的流程和权限",
    "左栏第二行说明三个工作日之前须提交申",
    "左栏第三行说明总经理审批出国的行程安",
    "左栏第四行结束。",
]
RIGHT = [
    "右栏第一行讲的是费用标准和城市的分级",
    "右栏第二行说明住宿的上限和补助的数额",
    "右栏第三行说明市内交通实行包干的办法",
    "右栏第四行结束。",
]


@pytest.mark.parametrize("interleaved", [False, True], ids=["column by column", "line by line"])
def test_the_left_column_is_read_before_the_right(interleaved):
    paper = Paper()
    paper.write(150, 80, "关于差旅费用报销的若干规定和说明通知", 16)
    if interleaved:
        for number in range(4):
            paper.write(60, 120 + 16 * number, LEFT[number])
            paper.write(320, 120 + 16 * number, RIGHT[number])
    else:
        paper.lines(60, 120, LEFT)
        paper.lines(320, 127, RIGHT)  # half a line lower, so that no two lines stand side by side
    text = "".join(texts(paper.done()))
    assert text.index("若干规定") < text.index("左栏第一行") < text.index("左栏第四行") < text.index("右栏第一行")
    assert "行程安左栏第四行" in text


def test_characters_placed_one_by_one_in_any_order_are_read_in_order():
    sentence = "设备应放置在通风干燥处，环境温度不超过四十摄氏度。"
    places = [(72 + BODY * number, character) for number, character in enumerate(sentence)]
    random.Random(7).shuffle(places)
    paper = Paper()
    for x, character in places:
        paper.write(x, 150, character)
    assert texts(paper.done()) == [sentence]


def test_what_is_printed_twice_for_boldness_is_read_once():
    paper = Paper()
    paper.write(72, 100, "重要通知")
    paper.write(72.3, 100, "重要通知")
    assert texts(paper.done()) == ["重要通知"]


def test_vertical_writing_is_read_down_and_to_the_left():
    paper = Paper()
    for column, line in enumerate(["竖排的文字从右向左", "一行一行地往下读完"]):
        for row, character in enumerate(line):
            paper.write(400 - 20 * column, 100 + 13 * row, character)
    assert squeezed("".join(texts(paper.done()))) == "竖排的文字从右向左一行一行地往下读完"


@pytest.mark.parametrize("angle", [90, 180, 270])
def test_text_that_is_turned_is_read(angle):
    paper = Paper()
    paper.canvas.translate(300, 400)
    paper.canvas.rotate(angle)
    paper.canvas.setFont(FONT, BODY)
    paper.canvas.drawString(0, 0, "横向页面的第一行文字")
    paper.canvas.drawString(0, -16, "横向页面的第二行文字")
    assert squeezed("".join(texts(paper.done()))) == "横向页面的第一行文字横向页面的第二行文字"


def test_running_heads_are_kept_once_and_page_numbers_dropped():
    paper = Paper()
    for page in range(1, 5):
        paper.write(72, 40, "云帆精密仪器有限公司员工手册")
        paper.write(72, 120, f"这是第{page}部分的正文，讲的是{'甲乙丙丁'[page - 1]}方面的事情。")
        paper.write(290, 810, f"- {page} -")
        paper.next_page()
    found = texts(paper.done())
    assert found.count("云帆精密仪器有限公司员工手册") == 1
    assert len(found) == 5
    assert not any("- " in text for text in found)


def test_headings_come_from_larger_type_and_get_levels():
    paper = Paper()
    paper.write(72, 80, "员工手册", 22)
    paper.write(72, 130, "第一章 总则", 15)
    paper.write(72, 160, "为了规范管理，制定本手册。")
    paper.write(72, 190, "1.1 适用范围", 13)
    paper.write(72, 220, "适用于全体员工，长期有效。")
    paper.write(72, 260, "第二章 考勤", 15)
    paper.write(72, 290, "上午九点上班，下午六点下班。")
    content = paper.done()
    headings = [(block.level, block.text) for block in content.blocks if block.kind == "heading"]
    assert headings == [(1, "员工手册"), (2, "第一章 总则"), (3, "1.1 适用范围"), (2, "第二章 考勤")]
    assert content.title == "员工手册"


def test_numbering_makes_headings_in_the_type_of_the_body():
    paper = Paper()
    paper.write(72, 100, "第三章 附则")
    paper.write(72, 130, "本制度自发布之日起施行，由人力资源部解释。")
    assert [block.kind for block in paper.done().blocks] == ["heading", "text"]


def test_the_outline_gives_headings_their_levels():
    paper = Paper()
    for title, level, y in (("安装", 0, 100), ("接线", 1, 170), ("维护", 0, 240)):
        paper.write(72, y, title)
        paper.write(72, y + 20, f"{title}的步骤如下，请逐条照做，不得省略。")
        paper.canvas.bookmarkPage(title)
        paper.canvas.addOutlineEntry(title, title, level)
    headings = [(block.level, block.text) for block in paper.done().blocks if block.kind == "heading"]
    assert headings == [(1, "安装"), (2, "接线"), (1, "维护")]


TABLE_XS = [60, 180, 300, 420]


def test_a_ruled_table_keeps_its_rows_and_header():
    ys = [100, 120, 140, 160]
    paper = Paper()
    paper.write(60, 80, "住宿标准见下表，超出部分由个人承担。")
    paper.grid(TABLE_XS, ys)
    paper.cells(TABLE_XS, ys, [["城市", "总监", "员工"], ["北京", "800", "550"], ["成都", "600", "420"]])
    paper.write(60, 190, "表格到此为止，以下是说明文字。")
    content = paper.done()
    assert [block.kind for block in content.blocks] == ["text", "table", "text"]
    assert content.blocks[1].text == "城市 | 总监 | 员工\n北京 | 800 | 550\n成都 | 600 | 420"
    assert content.blocks[1].header_rows == 1


def test_lines_of_a_cell_are_joined_and_a_header_of_two_rows_becomes_one():
    canvas_ys = [100, 120, 140, 180]
    paper = Paper()
    for y in (100, 140, 180):
        paper.canvas.line(60, HEIGHT - y, 420, HEIGHT - y)
    paper.canvas.line(180, HEIGHT - 120, 420, HEIGHT - 120)
    for x in (60, 180, 420):
        paper.canvas.line(x, HEIGHT - 100, x, HEIGHT - 180)
    paper.canvas.line(300, HEIGHT - 120, 300, HEIGHT - 180)
    paper.write(63, 125, "项目")
    paper.write(190, 114, "本期金额")
    paper.cells([180, 300], [canvas_ys[1]], [["预算", "实际"]])
    paper.lines(63, 154, ["仪器采购与", "维护费用"])
    paper.cells([180, 300], [canvas_ys[2]], [["1200", "1180"]])
    (table,) = paper.done().blocks
    assert table.text == "项目 | 本期金额/预算 | 本期金额/实际\n仪器采购与维护费用 | 1200 | 1180"
    assert table.header_rows == 1


def test_every_row_of_a_ruled_table_says_what_it_is_about():
    paper = Paper()
    ys = [100, 120, 140, 160, 180]
    paper.grid(TABLE_XS[1:], ys)
    for y in (100, 120, 160, 180):
        paper.canvas.line(60, HEIGHT - y, 180, HEIGHT - y)
    paper.canvas.line(60, HEIGHT - 100, 60, HEIGHT - 180)
    paper.cells(TABLE_XS, ys, [["部门", "岗位", "人数"], ["财务部", "会计", "3"], ["", "出纳", "1"], ["合计", "", "4"]])
    (table,) = paper.done().blocks
    assert table.text == "部门 | 岗位 | 人数\n财务部 | 会计 | 3\n财务部 | 出纳 | 1\n合计 |  | 4"


def test_a_cell_across_a_form_is_read_once():
    paper = Paper()
    for y in (100, 120, 140):
        paper.canvas.line(60, HEIGHT - y, 420, HEIGHT - y)
    for x in (60, 180, 420):
        paper.canvas.line(x, HEIGHT - 100, x, HEIGHT - 140)
    paper.canvas.line(300, HEIGHT - 100, 300, HEIGHT - 120)
    paper.cells(
        [60, 180, 300], [100, 120], [["姓名", "张三", "财务部"], ["简历", "历任会计、主管，曾获先进工作者称号"]]
    )
    (table,) = paper.done().blocks
    assert table.text == "姓名 | 张三 | 财务部\n简历 | 历任会计、主管，曾获先进工作者称号 | "


def test_a_paragraph_cut_off_by_the_end_of_a_page_is_read_whole():
    paper = Paper()
    line = "设备应当每月检查一次，检查结果记入台账，由班组长签字确认后交设备部存"
    paper.lines(72, 760, [line, line])
    paper.write(72, 800, "① 台账由设备部印制。", 8)
    paper.next_page()
    paper.lines(72, 80, ["档，保存五年。", "检查中发现的问题应当在三个工作日内整改。"])
    blocks = [(block.page, block.text) for block in paper.done().blocks]
    assert blocks == [
        (1, f"{line}{line}档，保存五年。"),
        (1, "① 台账由设备部印制。"),
        (2, "检查中发现的问题应当在三个工作日内整改。"),
    ]


def test_a_page_that_ends_with_a_sentence_is_not_joined_to_the_next():
    paper = Paper()
    line = "设备应当每月检查一次，检查结果记入台账，由班组长签字确认后交设备部存"
    paper.lines(72, 760, [line, line[:-1] + "。"])
    paper.next_page()
    paper.lines(72, 80, [line, "档。"])
    assert [block.page for block in paper.done().blocks] == [1, 2]


def test_a_watermark_is_read_in_order_and_once():
    paper = Paper()
    for number in "一二三":
        paper.write(72, 100, f"第{number}页的正文，讲的是另一件事情。")
        paper.canvas.saveState()
        paper.canvas.translate(300, 400)
        paper.canvas.rotate(45)
        paper.write(0, HEIGHT, "内部资料", 60)
        paper.canvas.restoreState()
        paper.next_page()
    assert [text for text in texts(paper.done()) if "页的" not in text] == ["内部资料"]


def test_a_raised_figure_is_no_part_of_the_one_before_it():
    paper = Paper()
    paper.write(72, 100, "大约 10")
    paper.write(72 + pdfmetrics.stringWidth("大约 10", FONT, BODY), 96, "5", 0.82 * BODY)
    assert texts(paper.done()) == ["大约 10^5"]


def test_a_table_with_lines_between_its_rows_alone_keeps_the_lines_of_its_cells_together():
    paper = Paper()
    for y in (100, 120, 160, 200):
        paper.canvas.line(60, HEIGHT - y, 500, HEIGHT - y)
    paper.cells([60, 150, 400], [100], [["条款", "内容", "备注"]])
    for y, label, lines, note in (
        (120, "保修", ["一年之内非人为的故障免费维修，往", "返运费由本公司承担。"], "见附件"),
        (160, "退货", ["七天之内不影响二次销售的可以退，", "运费由买方承担。"], "无"),
    ):
        paper.write(63, y + 24, label)
        paper.lines(153, y + 16, lines)
        paper.write(403, y + 24, note)
    (table,) = paper.done().blocks
    assert table.text.split("\n") == [
        "条款 | 内容 | 备注",
        "保修 | 一年之内非人为的故障免费维修，往返运费由本公司承担。 | 见附件",
        "退货 | 七天之内不影响二次销售的可以退，运费由买方承担。 | 无",
    ]


def test_lines_between_paragraphs_make_no_table():
    paper = Paper()
    for number in range(5):
        paper.canvas.line(60, HEIGHT - 100 - 30 * number, 500, HEIGHT - 100 - 30 * number)
        paper.write(72, 120 + 30 * number, f"第{number}条说明：设备应当每月检查一次，检查结果记入台账。")
    assert all(block.kind == "text" for block in paper.done().blocks)


def test_a_table_that_goes_on_over_the_page_keeps_its_header():
    paper = Paper()
    paper.grid(TABLE_XS, [700, 720, 740])
    paper.cells(TABLE_XS, [700, 720], [["型号", "量程", "精度"], ["YF-100", "10 mm", "0.01"]])
    paper.next_page()
    paper.grid(TABLE_XS, [80, 100, 120])
    paper.cells(TABLE_XS, [80, 100], [["YF-200", "20 mm", "0.02"], ["YF-300", "30 mm", "0.05"]])
    first, second = paper.done().blocks
    assert first.text == "型号 | 量程 | 精度\nYF-100 | 10 mm | 0.01"
    assert second.text == "型号 | 量程 | 精度\nYF-200 | 20 mm | 0.02\nYF-300 | 30 mm | 0.05"
    assert (second.page, second.header_rows) == (2, 1)


def test_columns_of_figures_without_lines_are_a_table():
    paper = Paper()
    rows = [["产品", "单价", "库存"], ["千分尺", "320.00", "45"], ["卡尺", "150.00", "120"], ["量块", "980.00", "8"]]
    for number, row in enumerate(rows):
        for x, cell in zip((72, 220, 340), row, strict=True):
            paper.write(x, 100 + 18 * number, cell)
    (table,) = paper.done().blocks
    assert table.kind == "table"
    assert table.text.splitlines()[2] == "卡尺 | 150.00 | 120"


def test_no_character_is_lost_or_read_twice():
    dice = random.Random(11)
    letters = "云帆精密仪器有限公司员工手册差旅报销制度ABCDEF0123456789"
    paper = Paper()
    written = Counter()
    for _ in range(60):
        text = "".join(dice.choice(letters) for _ in range(dice.randint(1, 30)))
        written.update(text)
        paper.write(dice.uniform(20, 300), 40 + 12.5 * dice.randint(0, 60), text, dice.choice([8, 9, 10.5, 12]))
    paper.grid([100, 250, 400], [300, 340, 420])
    read_back = Counter("".join(texts(paper.done())).replace("|", ""))
    read_back = Counter({key: count for key, count in read_back.items() if not key.isspace() and key != "^"})
    assert read_back == written


def test_what_was_typed_into_a_form_is_read():
    paper = Paper()
    paper.write(72, 100, "申请人姓名：")
    paper.canvas.acroForm.textfield(name="who", value="Zhang Wei", x=160, y=HEIGHT - 105, width=200, height=18)
    assert "Zhang Wei" in "\n".join(texts(paper.done()))


def test_a_password_is_told_with_what_to_do_and_one_for_changes_only_is_no_hindrance():
    lock = pdfencrypt.StandardEncryption("geheim", canPrint=0)
    paper = Paper(encrypt=lock)
    paper.write(72, 100, "内部价格表，请勿外传。")
    data = paper.data()
    with pytest.raises(DocumentError, match=r"^is protected by a password; save a copy without one$") as caught:
        read_pdf(data, NO_OCR)
    assert caught.value.kind == "encrypted"
    paper = Paper(encrypt=pdfencrypt.StandardEncryption("", ownerPassword="geheim", canModify=0))
    paper.write(72, 100, "内部价格表，请勿外传。")
    assert texts(paper.done()) == ["内部价格表，请勿外传。"]


@pytest.mark.parametrize(
    "data", [b"%PDF-1.7\n", b"%PDF-1.4\n%%EOF\n", b"\x00\x01\x02" * 500], ids=["cut", "bare", "junk"]
)
def test_damaged_files_are_called_damaged(data):
    with pytest.raises(DocumentError, match="damaged") as caught:
        read_pdf(data, NO_OCR)
    assert caught.value.kind == "corrupt"


def test_a_scan_without_recognition_names_the_remedy(monkeypatch):
    paper = Paper()
    paper.picture()
    data = paper.data()
    with pytest.raises(DocumentError, match="switched off") as caught:
        read_pdf(data, NO_OCR)
    assert caught.value.kind == "needs-ocr"
    monkeypatch.setattr("kbqa.readers.pdf.can_ocr", lambda: False)  # as where the extra is not installed
    with pytest.raises(DocumentError, match=r"pip install 'kbqa\[ocr\]'"):
        read_pdf(data, ReadOptions())


def test_scanned_pages_between_others_are_named_in_a_warning():
    paper = Paper()
    paper.write(72, 100, "正文从这里开始，附件是扫描件。")
    for _ in range(3):
        paper.next_page()
        paper.picture()
    content = paper.done()
    assert content.pages == 4
    assert len(content.warnings) == 1
    assert content.warnings[0].startswith("pages 2-4 are images and not read")


def test_a_picture_beside_text_is_no_scan():
    paper = Paper()
    paper.picture()
    paper.lines(72, 100, ["背景是一张图片，前面有足够多的文字，这一页不需要识别，直接读取文字即可。"] * 2)
    assert paper.done().warnings == ()


def test_titles_that_programs_make_up_are_not_taken():
    paper = Paper()
    paper.canvas.setTitle("Microsoft Word - 17_scan.docx")
    paper.write(72, 80, "安全须知", 20)
    paper.write(72, 120, "操作设备之前必须戴好护目镜和手套。")
    assert paper.done().title == "安全须知"


# --- recognition -----------------------------------------------------------------------------------------------------


def picture_of(text, size=(700, 160), mode="RGB", ground="white", ink="black"):
    picture = Image.new(mode, size, ground)
    ImageDraw.Draw(picture).text((30, 50), text, fill=ink, font=ImageFont.load_default(48))
    return picture


def as_bytes(picture, format="PNG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


@needs_ocr
def test_a_transparent_picture_is_read_on_white():
    data = as_bytes(picture_of("Calibration due 2024", mode="RGBA", ground=(0, 0, 0, 0)))
    assert "Calibration due 2024" in texts(read_image(data, ReadOptions()))[0]


@needs_ocr
def test_a_photograph_is_turned_as_its_exif_says():
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise to see it right
    turned = picture_of("Serial number 4711").rotate(90, expand=True)
    data = as_bytes(turned, "JPEG", exif=exif)
    assert "Serial number 4711" in texts(read_image(data, ReadOptions()))[0]


@needs_ocr
def test_a_scanned_page_is_recognised_and_keeps_its_number():
    paper = Paper()
    paper.write(72, 100, "第一页是文字，第二页是扫描件。")
    paper.next_page()
    paper.canvas.drawInlineImage(picture_of("Warranty 24 months", (900, 1200)), 0, 0, WIDTH, HEIGHT)
    content = paper.done(ReadOptions())
    assert ("Warranty 24 months", 2) in [(block.text, block.page) for block in content.blocks]
    assert content.warnings == ()


def test_a_picture_without_recognition_names_the_remedy(monkeypatch):
    monkeypatch.setattr("kbqa.readers.image.can_ocr", lambda: False)  # as where the extra is not installed
    with pytest.raises(DocumentError, match=r"pip install 'kbqa\[ocr\]'") as caught:
        read_image(as_bytes(picture_of("x")), ReadOptions())
    assert caught.value.kind == "needs-ocr"


@needs_ocr
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (as_bytes(Image.new("1", (20_000, 20_000))), "bomb"),
        (as_bytes(picture_of("cut off"))[:400], "corrupt"),
        (b"\x89PNG\r\n\x1a\n" + b"junk" * 50, "corrupt"),
    ],
    ids=["bomb", "cut", "junk"],
)
def test_bad_pictures_are_refused(data, kind):
    with pytest.raises(DocumentError) as caught:
        read_image(data, ReadOptions())
    assert caught.value.kind == kind


# --- the collection --------------------------------------------------------------------------------------------------


def folded(text):
    text = unicodedata.normalize("NFKC", text).lower()
    return "".join(c for c in text if not c.isspace() and unicodedata.category(c) != "Cf")


def manifest(testdata, formats):
    lines = (testdata / "data" / "docs" / "manifest.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["format"] in formats and row["expect"]["outcome"] == "text"]


def test_the_collections_pdfs_hold_what_they_must(testdata):
    checked = 0
    for row in manifest(testdata, {"pdf"}):
        expect = row["expect"]
        if expect.get("ocr"):
            continue
        text = folded(read(testdata / "data" / "docs" / row["path"]).text)
        assert [wanted for wanted in expect["strings"] if folded(wanted) not in text] == [], row["path"]
        for first, second in expect.get("order", []):
            assert text.index(folded(first)) < text.index(folded(second)), row["path"]
        checked += 1
    assert checked >= 15


def likeness(wanted, text):
    """The share of `wanted` that stands in the best window of `text`."""
    windows = range(max(1, len(text) - len(wanted) + 1))
    likely = (text[at : at + len(wanted)] for at in windows)
    return max(
        sum(block.size for block in SequenceMatcher(None, wanted, window, autojunk=False).get_matching_blocks())
        for window in likely
    ) / len(wanted)


@needs_ocr
def test_the_collections_pictures_are_recognised(testdata):
    good = 0
    rows = manifest(testdata, {"jpg", "jpeg", "png"})
    for row in rows:
        text = folded(read(testdata / "data" / "docs" / row["path"]).text)
        good += all(likeness(folded(wanted), text) >= 0.8 for wanted in row["expect"]["strings"])
    assert good >= 0.8 * len(rows)
