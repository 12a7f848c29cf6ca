"""Write knowledge/samples/: the documents of an invented company that kbqa is tried out with.

    python scripts/make_samples.py [FOLDER]

Nine files in nine formats, mutually consistent, written for this project. The same every time: dates and metadata
are fixed. Needs the libraries of the `test` extra. The questions about them are tests/data/samples_qa.jsonl.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from datetime import datetime
from email.message import EmailMessage
from pathlib import Path

import docx
import openpyxl
from openpyxl.styles import Alignment, Font
from reportlab.lib import colors
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer, Table, TableStyle

COMPANY = "岚桥光测科技有限公司"
DAY = datetime(2024, 3, 1, 9, 0, 0)
FONT = "STSong-Light"


def handbook() -> bytes:
    """员工手册.docx: headings of two levels and a table."""
    book = docx.Document()
    book.core_properties.author = COMPANY
    book.core_properties.title = "员工手册"
    book.core_properties.created = book.core_properties.modified = DAY
    book.add_heading("员工手册", 0)
    book.add_paragraph(f"本手册适用于{COMPANY}苏州总部、成都分公司和西安办事处的全体正式员工，自2024年3月1日起施行。")
    book.add_heading("第一章 工作时间与考勤", 1)
    book.add_paragraph("工作日上午8:45上班，下午17:30下班，中午休息一小时。研发中心实行弹性工作制，最迟9:45到岗。")
    book.add_paragraph(
        "每月迟到三次以内不扣工资，从第四次起每次扣五十元。忘记打卡的，应在三个工作日内在办公系统补签，每月最多两次。"
    )
    book.add_heading("第二章 休假", 1)
    book.add_heading("2.1 年休假", 2)
    book.add_paragraph("年休假按累计工作年限计算，见下表。当年未休完的，可顺延至次年3月31日，逾期作废。")
    table = book.add_table(rows=1, cols=3)
    table.style = "Table Grid"
    rows = [
        ("累计工作年限", "年休假天数", "可否分次休"),
        ("满1年不满5年", "7天", "最多分两次"),
        ("满5年不满15年", "12天", "最多分三次"),
        ("满15年", "18天", "不限次数"),
    ]
    for number, row in enumerate(rows):
        cells = table.rows[0].cells if number == 0 else table.add_row().cells
        for cell, text in zip(cells, row, strict=True):
            cell.text = text
    book.add_heading("2.2 其他假期", 2)
    book.add_paragraph(
        "婚假十三天，须在领证之日起一年内休完。陪产假十五天。病假须提交二级及以上医院的证明，病假工资为基本工资的百分之七十。"
    )
    book.add_heading("第三章 入职与离职", 1)
    book.add_paragraph("试用期为三个月，试用期工资为转正工资的百分之八十五。转正由部门经理和人力资源部共同评定。")
    book.add_paragraph("员工离职须提前三十日书面通知，试用期内提前三日。门禁卡和笔记本电脑应在最后工作日交还行政部。")
    book.add_heading("第四章 福利", 1)
    book.add_paragraph(
        "公司每年9月组织一次体检，费用由公司承担，标准为每人八百元。午餐补贴每个工作日二十五元，随工资发放。"
    )
    book.add_paragraph("推荐人才入职并转正的，推荐人可得奖金三千元；推荐光学工程师的，奖金为八千元。")
    buffer = io.BytesIO()
    book.save(buffer)
    return fixed_zip(buffer.getvalue())


def travel_rules() -> bytes:
    """差旅费用管理办法.pdf: three pages with facts of their own, a table, running heads."""
    pdfmetrics.registerFont(UnicodeCIDFont(FONT))
    body = ParagraphStyle("body", fontName=FONT, fontSize=11, leading=18, firstLineIndent=22, wordWrap="CJK")
    chapter = ParagraphStyle("chapter", fontName=FONT, fontSize=15, leading=24, spaceBefore=10, spaceAfter=6)
    title = ParagraphStyle("title", fontName=FONT, fontSize=20, leading=30, alignment=1, spaceAfter=12)
    cell = ParagraphStyle("cell", fontName=FONT, fontSize=10, leading=14, wordWrap="CJK")

    def text(*paragraphs: str) -> list[Paragraph]:
        return [Paragraph(paragraph, body) for paragraph in paragraphs]

    grades = [
        ("城市类别", "城市", "部门经理及以上", "其他员工"),
        ("甲类", "北京、上海、深圳", "每晚750元", "每晚520元"),
        ("乙类", "省会城市及苏州、宁波、青岛", "每晚560元", "每晚400元"),
        ("丙类", "其他城市", "每晚420元", "每晚310元"),
    ]
    limits = Table([[Paragraph(text_, cell) for text_ in row] for row in grades], colWidths=[70, 180, 110, 90])
    limits.setStyle(TableStyle([("GRID", (0, 0), (-1, -1), 0.6, colors.black), ("VALIGN", (0, 0), (-1, -1), "MIDDLE")]))
    story = [
        Paragraph("差旅费用管理办法", title),
        Paragraph("第一章 出差申请", chapter),
        *text(
            f"为规范{COMPANY}的差旅管理，合理控制费用，制定本办法。文件编号为LQ-FIN-012，由财务部负责解释。",
            "员工出差应提前两个工作日在办公系统提交申请，由部门经理批准；连续出差超过十天的，还须分管副总经理批准。",
            "赴国外及港澳台地区出差，须提前十五个工作日申请，由总经理批准。",
            "客户现场设备故障需要紧急出动的，可先电话报告部门经理，返回后一个工作日内补办申请。",
        ),
        PageBreak(),
        Paragraph("第二章 费用标准", chapter),
        *text(
            "住宿费在下表限额内凭发票据实报销，超出部分由个人承担。两名同性员工同行的，原则上合住标准间。",
        ),
        Spacer(1, 6),
        limits,
        Spacer(1, 10),
        *text(
            "伙食补助为每人每天一百元，出发当日和返回当日均按半天计算。接待单位提供工作餐的，不再发放。",
            "部门经理及以上可乘坐高铁一等座，其他员工乘坐二等座；行程在一千二百公里以上的，均可乘坐飞机经济舱。",
            "市内交通费凭票报销，每天不超过八十元。驾驶私家车出差的，按每公里一元二角补贴。",
        ),
        PageBreak(),
        Paragraph("第三章 借款与报销", chapter),
        *text(
            "出差人员可预借差旅费，每次不超过八千元；前次借款没有结清的，不得再借。",
            "报销须在返回后十个工作日内提交，附出差申请单、交通票据、住宿发票和付款记录。超过三十日未提交的，不予报销。",
            "单张金额在一千元以上的支出，应以公司卡或对公转账支付，不得使用现金。",
            "财务部在收到齐全的单据后五个工作日内付款，每周二和周四集中支付。",
        ),
        Paragraph("第四章 附则", chapter),
        *text("本办法自2024年1月1日起施行，2019年发布的《出差管理暂行规定》同时废止。"),
    ]
    buffer = io.BytesIO()
    report = SimpleDocTemplate(
        buffer, pagesize=A4, title="差旅费用管理办法", author=COMPANY, invariant=1, pageCompression=0, topMargin=80
    )

    def frame(canvas, document):  # type: ignore[no-untyped-def]
        canvas.setFont(FONT, 9)
        canvas.drawString(72, A4[1] - 40, f"{COMPANY} 财务制度")
        canvas.drawCentredString(A4[0] / 2, 40, f"第 {document.page} 页")

    report.build(story, onFirstPage=frame, onLaterPages=frame)
    return buffer.getvalue()


def price_list() -> bytes:
    """产品价格与参数.xlsx: a merged title over each of two sheets."""
    book = openpyxl.Workbook()
    prices = book.active
    prices.title = "价格"
    sheet_of(
        prices,
        "2024年产品价格表（含13%增值税，单位：元）",
        ["型号", "名称", "标准价", "五台以上单价", "交货期"],
        [
            ["LQ-300", "白光干涉轮廓仪", 386000, 358000, "六周"],
            ["LQ-120", "激光测微仪", 52800, 48500, "三周"],
            ["LQ-80", "光谱共焦位移传感器", 18600, 16900, "两周"],
            ["LQ-S10", "气浮隔振台", 29500, 27000, "四周"],
        ],
    )
    sheet_of(
        book.create_sheet("参数"),
        "主要技术参数",
        ["型号", "测量范围", "分辨率", "重复精度", "供电", "重量（千克）"],
        [
            ["LQ-300", "垂直10毫米", "0.1纳米", "0.5纳米", "220V，600W", 86],
            ["LQ-120", "直径0.2至30毫米", "0.05微米", "±0.3微米", "24V，15W", 6.4],
            ["LQ-80", "±2毫米", "12纳米", "40纳米", "24V，8W", 0.9],
            ["LQ-S10", "台面600×600毫米", "—", "—", "压缩空气0.5MPa", 145],
        ],
    )
    book.properties.creator = COMPANY
    book.properties.created = DAY
    buffer = io.BytesIO()
    book.save(buffer)
    return fixed_zip(buffer.getvalue())


def sheet_of(sheet, title: str, header: list[str], rows: list[list[object]]) -> None:  # type: ignore[no-untyped-def]
    sheet.append([title])
    sheet.merge_cells(start_row=1, start_column=1, end_row=1, end_column=len(header))
    sheet["A1"].font = Font(bold=True, size=14)
    sheet["A1"].alignment = Alignment(horizontal="center")
    sheet.append(header)
    for row in rows:
        sheet.append(row)


MANUAL = """\
# LQ-300 白光干涉轮廓仪使用手册

LQ-300 用于测量光滑表面的三维形貌和粗糙度，测量头由苏州总部装配，出厂前经过七十二小时老化试验。

## 1 安装环境

仪器应放在 LQ-S10 气浮隔振台或同等的隔振台上，远离冲压设备。环境温度应保持在 20±2 ℃，相对湿度 40% 至 60%，
测量期间温度变化每小时不得超过 0.5 ℃。

压缩空气的压力为 0.5 MPa，须经过 0.01 微米的过滤器。

## 2 开机与预热

1. 打开隔振台的气阀，等待台面浮起。
2. 按下电源开关，光源指示灯由红变绿约需四分钟。
3. 预热三十分钟之后再进行测量；要求亚纳米精度时，预热两小时。

首次登录的用户名是 `operator`，初始密码印在机箱背面的铭牌上，登录后系统要求立即修改。

## 3 校准

每周用随机附带的台阶标样校准一次，标样的标称高度为 1.8 微米。校准偏差超过 1% 时，应清洁物镜后重做；
仍然超差的，请联系售后服务部。标样本身每两年送检一次。

## 4 故障代码

| 代码 | 含义 | 处理办法 |
| --- | --- | --- |
| E01 | 光源温度过高 | 关机冷却二十分钟，检查风扇 |
| E07 | 压电陶瓷超出行程 | 重新对焦，使干涉条纹位于视场中央 |
| E12 | 隔振台气压不足 | 检查空压机，压力不低于 0.45 MPa |
| E20 | 相机通信中断 | 重新插拔 USB 3.0 电缆，更换主机端口 |

## 5 维护

物镜只能用无水乙醇和擦镜纸清洁，不得使用丙酮。空气过滤器的滤芯每六个月更换一次。
光源的寿命为两万小时，到期前五百小时软件会给出提示。
"""

WARRANTY = """\
# Warranty and Service Terms

These terms apply to instruments sold by Lanqiao Optical Metrology Co., Ltd. outside mainland China.

## Warranty period

The LQ-300 profilometer is covered for 24 months and all sensors for 18 months, counted from the date of shipment.
Objectives and light sources are covered for 12 months.

## What is not covered

Damage caused by acetone cleaning, by unfiltered compressed air or by opening the sealed measuring head is excluded.

## Service response

Requests sent to service@lanqiao-metrology.example are answered within one business day. An engineer is on site within
five business days in Asia and within ten business days elsewhere. On-site work outside the warranty is charged at
USD 140 per hour plus travel expenses.

## Loan instruments

If a repair takes longer than 15 business days, a loan instrument is provided free of charge.
"""

SAFETY = """\
实验室安全须知

一、进入光学实验室必须穿防尘服和鞋套，未经培训的人员须由本室人员陪同。

二、三号实验室使用四类激光器，工作时门外警示灯亮红灯，室内人员必须佩戴OD6以上的防护眼镜。
激光器的钥匙由实验室主管保管，每次取用都要登记。

三、无水乙醇和异丙醇存放在防爆柜中，实验台上每种溶剂不得超过五百毫升。废液倒入蓝色废液桶，
每月最后一个周五由有资质的单位收走，严禁倒入水池。

四、氮气瓶应固定在墙架上。室内氧气浓度低于百分之十九点五时报警器鸣响，听到报警应立即撤离并打开排风。

五、发生火情时先切断电源，使用二氧化碳灭火器，不得用水扑救带电设备。集合地点为一号楼北侧停车场。

六、安全事故应在三十分钟内报告安全主管吴晓岚，内线电话6119。实验室每季度进行一次应急演练。
"""

PARTS = """\
备件编号,名称,适用型号,库存数量,单价（元）,库位
SP-3001,10倍干涉物镜,LQ-300,6,24800,A-02
SP-3002,50倍干涉物镜,LQ-300,3,41500,A-03
SP-3010,光源模块,LQ-300,11,9600,A-07
SP-3015,空气过滤器滤芯,LQ-300,58,320,B-11
SP-1204,激光二极管组件,LQ-120,9,3850,B-04
SP-0801,光纤探头（2米）,LQ-80,17,2750,C-01
SP-1001,隔振台橡胶膜片,LQ-S10,24,460,C-09
"""

FAQ = (
    (
        "LQ-80 传感器的电缆最长可以用多少米？",
        "光纤探头标准长度为2米，可定制5米和10米两种，最长10米。超过10米信噪比下降，我们不提供。",
    ),
    (
        "仪器可以租用吗？",
        "LQ-300 可以租用，起租期为三个月，每月租金一万九千元，押金为标准价的百分之二十。其他型号只售不租。",
    ),
    (
        "购买之前能不能试测样品？",
        "可以。每家客户可免费试测三件样品，把样品寄到苏州应用实验室，五个工作日内出具测量报告。",
    ),
    (
        "软件升级收费吗？",
        "保修期内免费升级；保修期之后，每年的软件服务费为仪器标准价的百分之三。",
    ),
    (
        "国内客户的保修期是多久？",
        "国内销售的仪器整机保修三年，物镜和光源保修一年，自验收合格之日起计算。",
    ),
    (
        "怎样联系售后服务？",
        "售后热线是400-820-7315，工作日8:30至18:00有人接听，其余时间请在微信公众号“岚桥光测”留言。",
    ),
)


def faq() -> bytes:
    """客户常见问题.html."""
    entries = "\n".join(f"<h2>{question}</h2>\n<p>{answer}</p>" for question, answer in FAQ)
    return f"""<!DOCTYPE html>
<html lang="zh-CN">
<head><meta charset="utf-8"><title>客户常见问题</title>
<style>body {{ font-family: sans-serif; }}</style></head>
<body>
<nav><a href="/">首页</a> <a href="/products">产品</a></nav>
<h1>客户常见问题</h1>
{entries}
<script>console.log("loaded");</script>
</body>
</html>
""".encode()


def contract_mail() -> bytes:
    """主板采购合同续签.eml: in GB18030."""
    mail = EmailMessage()
    mail["From"] = "陆闻笛 <luwendi@lanqiao-metrology.example>"
    mail["To"] = "采购部 <purchase@lanqiao-metrology.example>, 财务部 <finance@lanqiao-metrology.example>"
    mail["Subject"] = "测控主板采购合同续签的要点"
    mail["Date"] = "Wed, 21 Feb 2024 10:15:00 +0800"
    mail["Message-ID"] = "<20240221.1015@lanqiao-metrology.example>"
    mail.set_content(
        "各位同事：\n\n"
        "与昆山启衡电子有限公司的测控主板采购合同已经谈妥，合同编号为CG-2024-031，要点如下：\n\n"
        "1. 合同期两年，从2024年4月1日到2026年3月31日，年采购量不低于六百块。\n"
        "2. 单价由原来的1,480元降为1,365元，含税；铜价波动超过百分之十时双方重新议价。\n"
        "3. 付款方式为货到验收后四十五天电汇，质保金为合同额的百分之五，一年后退还。\n"
        "4. 逾期交货每天按该批货款的千分之三支付违约金，累计不超过百分之八。\n"
        "5. 来料不良率超过千分之四的，整批退货，运费由对方承担。\n\n"
        "请法务在2月28日之前完成审核，签字人为运营副总经理贺知秋。\n\n"
        "陆闻笛\n供应链管理部",
        charset="gb18030",
        cte="base64",
    )
    return mail.as_bytes()


def fixed_zip(data: bytes) -> bytes:
    """The same container with fixed dates, in its members' properties too."""
    stamp = DAY.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"(<dcterms:(?:modified|created)[^>]*>)[^<]*", rb"\g<1>" + stamp, content)
            entry = zipfile.ZipInfo(name, DAY.timetuple()[:6])
            entry.compress_type = zipfile.ZIP_DEFLATED
            new.writestr(entry, content)
    return buffer.getvalue()


FILES: Mapping[str, Callable[[], bytes]] = {
    "员工手册.docx": handbook,
    "差旅费用管理办法.pdf": travel_rules,
    "产品价格与参数.xlsx": price_list,
    "LQ-300使用手册.md": lambda: MANUAL.encode(),
    "Warranty Terms.md": lambda: WARRANTY.encode(),
    "实验室安全须知.txt": lambda: SAFETY.encode("gb18030"),
    "备件清单.csv": lambda: PARTS.encode("gbk"),
    "客户常见问题.html": faq,
    "主板采购合同续签.eml": contract_mail,
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        (folder / name).write_bytes(make())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "knowledge" / "samples")
