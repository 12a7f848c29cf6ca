"""A writer of small binary Excel workbooks (MS-XLSB), for nothing free that Python has writes them."""

import io
import struct
import zipfile

XLSB_PARTS = {
    "[Content_Types].xml": """<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">
        <Default Extension="bin" ContentType="application/vnd.ms-excel.sheet.binary.macroEnabled.main"/></Types>""",
    "_rels/.rels": """<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">
        <Relationship Id="r1" Type="http://x/officeDocument" Target="xl/workbook.bin"/></Relationships>""",
}
FORMATS = {"": 0, "0%": 9, "0.0%": 164, "yyyy-mm-dd": 165, '0.0"℃"': 166, "[h]:mm": 46}
STYLES = list(FORMATS)


def record(kind, content=b""):
    head = bytes([kind]) if kind < 0x80 else bytes([kind & 0x7F | 0x80, kind >> 7])
    size, length = b"", len(content)
    while True:
        size += bytes([length & 0x7F | (0x80 if length > 0x7F else 0)])
        length >>= 7
        if not length:
            return head + size + content


def wide(text):
    return struct.pack("<I", len(text.encode("utf-16-le")) // 2) + text.encode("utf-16-le")


def rk(value):
    """Whole numbers and hundredths of them, as Excel itself keeps nearly every number."""
    hundredths = value != int(value)
    return struct.pack("<i", round(value * 100 if hundredths else value) << 2 | 2 | hundredths)


class Cell:
    """A cell in the record of that type; `content` follows the style. A short one has no column of its own."""

    def __init__(self, kind, content, style="", short=False):
        self.kind, self.content, self.style, self.short = kind, content, style, short

    def bytes(self, column):
        style = struct.pack("<I", STYLES.index(self.style))
        if self.short:
            return record(self.kind + 11, style + self.content)
        return record(self.kind, struct.pack("<I", column) + style + self.content)


def whole(value, style="", short=False):
    return Cell(2, rk(value), style, short)


def real(value, style=""):
    return Cell(5, struct.pack("<d", value), style)


def sheet(rows, merged=()):
    """`rows` hold strings (shared if the workbook shares them, else written in place), Cells and None."""
    parts = [record(129), record(145)]
    for number, row in enumerate(rows):
        parts.append(record(0, struct.pack("<I", number) + bytes(21)))
        parts += [cell.bytes(column) for column, cell in enumerate(row) if cell is not None]
    parts.append(record(146))
    parts += [record(176, struct.pack("<4I", top, bottom, left, right)) for top, left, bottom, right in merged]
    return b"".join([*parts, record(130)])


def shared(index):
    return Cell(7, struct.pack("<I", index))


def inline(text, short=False):
    return Cell(6, wide(text), short=short)


def comments(*found):
    """(row, column, text) of each."""
    return b"".join(
        record(635, struct.pack("<5I", 0, row, row, column, column) + bytes(16)) + record(637, b"\0" + wide(text))
        for row, column, text in found
    )


def xlsb(sheets, strings=(), notes=b"", since_1904=False):
    """A workbook: title -> the bytes of a sheet. `notes` are the comments on the first."""
    relations, bundle = [], []
    for number, title in enumerate(sheets, start=1):
        relations.append(
            f'<Relationship Id="rId{number}" Type="http://x/worksheet" Target="worksheets/s{number}.bin"/>'
        )
        bundle.append(record(156, struct.pack("<II", 0, number) + wide(f"rId{number}") + wide(title)))
    head = record(131) + record(153, struct.pack("<II", since_1904, 0)) + record(143)
    styles = b"".join(record(44, struct.pack("<H", number) + wide(code)) for code, number in FORMATS.items() if code)
    cells = b"".join(record(47, struct.pack("<HH", 0, FORMATS[code]) + bytes(12)) for code in STYLES)
    first = '<Relationship Id="r1" Type="http://x/comments" Target="../comments1.bin"/>'
    members = {
        **XLSB_PARTS,
        "xl/workbook.bin": head + b"".join(bundle) + record(144) + record(132),
        "xl/_rels/workbook.bin.rels": f"<Relationships>{''.join(relations)}</Relationships>",
        "xl/worksheets/_rels/s1.bin.rels": f"<Relationships>{first}</Relationships>",
        "xl/comments1.bin": notes,
        "xl/sharedStrings.bin": b"".join(record(19, b"\0" + wide(text)) for text in strings),
        "xl/styles.bin": styles + record(626) + record(47, bytes(16)) + record(627) + record(617) + cells + record(618),
        **{f"xl/worksheets/s{number}.bin": content for number, content in enumerate(sheets.values(), start=1)},
    }
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as container:
        for name, content in members.items():
            container.writestr(name, content)
    return package.getvalue()
