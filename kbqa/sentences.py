"""Where sentences begin and end, in Chinese and in Latin scripts."""

from __future__ import annotations

import re

__all__ = ["sentence_spans"]

# A sentence ends behind 。！？； and the quotes or brackets that close with it, at a line break, and behind . ! ? ;
# where white space follows. "3.5" and "192.168.88.1" hold together.
_SENTENCE = re.compile(
    r"""[^\n]*?(?:
        [。！？；!?…]+[”’」』）)\]"']*(?=[^。！？；!?…]|$)
      | [.;]["')\]”’]*(?=\s)
      | (?=\n) | $
    )""",
    re.VERBOSE,
)


def sentence_spans(text: str, start: int = 0, end: int | None = None) -> list[tuple[int, int]]:
    """The spans of the sentences of `text[start:end]` in order, without the white space around them.

    Every character that is not white space lies in exactly one span.
    """
    end = len(text) if end is None else end
    spans = []
    at = start
    while at < end:
        if text[at].isspace():
            at += 1
            continue
        match = _SENTENCE.match(text, at, end)
        stop = match.end() if match and match.end() > at else end
        last = stop
        while last > at and text[last - 1].isspace():
            last -= 1
        spans.append((at, last))
        at = stop
    return spans
