"""Numbers in Chinese characters."""

from __future__ import annotations

__all__ = ["DIGITS", "MYRIADS", "VALUES", "spelled", "value"]

DIGITS = "零一二三四五六七八九"
VALUES = {digit: value for value, digit in enumerate(DIGITS)} | {"〇": 0, "两": 2}
TENS = {"十": 10, "百": 100, "千": 1000}
MYRIADS = {"万": 10**4, "亿": 10**8}


def value(spelled: str) -> int | None:
    """105 of 一百零五; None where it is no number, or an estimate: 三四(天), 百."""
    if len(spelled) > 1 and all(character in VALUES for character in spelled):
        return None
    if spelled[0] in "百千万亿零〇":
        return None
    billions = myriads = part = digit = 0
    for character in spelled:
        if character in VALUES:
            digit = VALUES[character]
        elif character in TENS:
            part, digit = part + (digit or 1) * TENS[character], 0
        elif character == "万":
            myriads, part, digit = (part + digit) * MYRIADS["万"], 0, 0
        else:
            billions, myriads, part, digit = (myriads + part + digit) * MYRIADS["亿"], 0, 0, 0
    return billions + myriads + part + digit


def spelled(number: int) -> str:
    """一百零五 for 105; below 10 ** 16."""
    if number == 0:
        return "零"
    written, rest = "", number
    for name, size in (("亿", 10**8), ("万", 10**4), ("", 1)):
        part, rest = divmod(rest, size)
        if part:
            gap = "零" if written and part < 1000 else ""
            written += gap + (spelled(part) if part >= 10**4 else _below_ten_thousand(part)) + name
    return written.removeprefix("一") if written.startswith("一十") else written


def _below_ten_thousand(number: int) -> str:
    written, gap = "", False
    for name, size in (("千", 1000), ("百", 100), ("十", 10), ("", 1)):
        digit = number // size % 10
        if digit:
            written += ("零" if gap and written else "") + DIGITS[digit] + name
        gap = not digit
    return written
