"""Number formats of spreadsheets: what a person sees of 0.985 formatted 0.0%, of 36.5 formatted 0.0"℃", of 45306.

Knows the codes of Excel, which every spreadsheet program shares; nothing about files.
"""

from __future__ import annotations

import datetime as dt
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache

__all__ = ["BUILT_IN", "PLAIN", "NumberFormat", "cell_text", "date_of", "parse_format"]

_LITERAL = re.compile(r'"([^"]*)"|\\(.)|!(.)|\[\$([^\-\]]*)[^\]]*\]|([¥￥$€£℃‰])|_.|\*.|\[[^\]]*\]')
_CONDITION = re.compile(r"\[[<>=]")
_DURATION = re.compile(r"\[(?:h+|m+|s+)\]", re.IGNORECASE)
_DATE = re.compile(r"[ymdhs]|e(?![+-])|aaa", re.IGNORECASE)
_DIGITS = re.compile(r"[0#?][0#?,.]*")
_MAX_DAYS = 2_958_466  # the year 10000
_DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class NumberFormat:
    """`prefix` and `suffix` are the words around the figure, `zeros` its least number of digits."""

    kind: str = "number"  # percent, date, duration
    decimals: int = 0  # of a percentage
    prefix: str = ""
    suffix: str = ""
    zeros: int = 0


PLAIN = NumberFormat()
_PERCENT = {9: NumberFormat("percent"), 10: NumberFormat("percent", 2)}
_DATES = dict.fromkeys([*range(14, 23), *range(27, 37), 45, 47, *range(50, 59)], NumberFormat("date"))
BUILT_IN = {**_PERCENT, **_DATES, 46: NumberFormat("duration")}  # number of the format -> what it means


@lru_cache(maxsize=1024)
def parse_format(code: str) -> NumberFormat:
    """What the code makes of a positive number. PLAIN where it only groups or rounds, or is beyond us."""
    section = re.sub("General", "0", _section(code), flags=re.IGNORECASE)
    if _DURATION.search(section):
        return NumberFormat("duration")
    bare = _LITERAL.sub(lambda literal: " " * len(literal.group()), section)
    if _DATE.search(bare):
        return NumberFormat("date")
    if "%" in bare:
        decimals = re.search(r"\.([0#?]+)", bare)
        return NumberFormat("percent", len(decimals.group(1)) if decimals else 0)
    figures = list(_DIGITS.finditer(bare))
    if len(figures) != 1 or "E" in bare or "/" in bare or figures[0].group().endswith(",") or _CONDITION.search(code):
        return PLAIN  # scientific, fractions, thousands left out: the words would not fit the figure
    digits = figures[0].group()
    zeros = len(digits) if digits.strip("0") == "" else 0
    before, after = section[: figures[0].start()], section[figures[0].end() :]
    return NumberFormat("number", 0, _words(before).lstrip(), _words(after).rstrip(), zeros if zeros > 1 else 0)


def _section(code: str) -> str:
    """The first of the sections that semicolons part; one inside quotation marks parts nothing."""
    match = re.match(r'(?:"[^"]*"|\\.|[^;"\\])*', code)
    return match.group() if match else ""


def _words(code: str) -> str:
    """The letters and signs that stand beside the figure."""
    found = (next((group for group in match.groups() if group), "") for match in _LITERAL.finditer(code))
    return "".join(found)


def date_of(serial: float, since_1904: bool = False) -> dt.datetime | dt.time | float:
    """The date, or the time of day, that Excel keeps as a number of days; the number itself where it is none."""
    if since_1904:
        serial += 1462
    if not 0 <= serial < _MAX_DAYS:
        return serial
    milliseconds = round(serial * _DAY_MS)
    days, rest = divmod(milliseconds, _DAY_MS)
    if days == 0 and rest:
        return (dt.datetime.min + dt.timedelta(milliseconds=rest)).time()
    first = dt.datetime(1899, 12, 31 if days < 60 else 30)  # Excel believes that 1900 was a leap year
    return first + dt.timedelta(days=days, milliseconds=rest)


def cell_text(value: object, format: NumberFormat = PLAIN, since_1904: bool = False) -> str:
    """What a person would read in the cell: no float noise, ISO dates, percentages and units as they are shown."""
    match value:
        case bool():
            return "TRUE" if value else "FALSE"
        case int() | float() if format.kind == "date":
            return cell_text(date_of(value, since_1904))
        case int() | float() if format.kind == "duration":
            return cell_text(dt.timedelta(days=value))
        case int() | float() if format.kind == "percent":
            return f"{value * 100:.{format.decimals}f}%"
        case int() | float():
            return format.prefix + _plain(value).zfill(format.zeros) + format.suffix
        case dt.datetime():
            return value.date().isoformat() if value.time() == dt.time() else value.isoformat(" ", "seconds")
        case dt.time():
            return value.isoformat("seconds" if value.second else "minutes")
        case dt.timedelta():
            minutes, seconds = divmod(round(value.total_seconds()), 60)
            return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
        case _:
            return str(value)


def _plain(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1e16:
        return str(int(value))
    return format(Decimal(f"{value:.12g}"), "f")
