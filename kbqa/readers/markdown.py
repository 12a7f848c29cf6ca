"""Markdown.

markdown-it-py finds the blocks; the marks inside a line are removed here by one regular expression. Its own inline
parser builds a token for every emphasis and link, which we would only throw away: without it a manual is read more
than twice as fast (7 instead of 3 MB/s).
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

from kbqa.readers.content import Content, ReadOptions, clean, heading_block, table_block, text_block
from kbqa.readers.encoding import decode
from kbqa.types import Block

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

__all__ = ["read_md"]

_FRONT_MATTER = re.compile(r"\A\ufeff?(?:---|\+\+\+)[ \t]*\n(.*?)\n(?:---|\+\+\+|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FIELD = re.compile(r"""^(title|summary|description)[ \t]*[:=][ \t]*(["']?)(.+?)\2[ \t]*$""", re.MULTILINE)
_SHORTCODE = re.compile(r"\{\{[<%][^\n{}]*\}\}")  # Hugo: {{< copyable "sql" >}}
_ANCHOR = re.compile(r"\s*\{#[\w.:-]+\}\s*$")  # ## Title {#id}
_COMMENT = re.compile(r"<!--(?:[^<]|<(?!!--))*?-->")  # ends before the next one begins: stays linear
_SCRIPT = re.compile(r"<(script|style)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
_TABLE = re.compile(r"<table\b.*?(?:</table\s*>|\Z)", re.DOTALL | re.IGNORECASE)

# Names of tags are HTML's, or written like a component (<CustomContent>, <br/>); <HOST> and <your_name> are text.
_TAG = re.compile(
    r"</?(?:(?:a|abbr|b|big|blockquote|br|center|code|dd|del|details|div|dl|dt|em|figcaption|figure|font|h[1-6]|hr|i|iframe"
    r"|img|ins|kbd|label|li|main|mark|ol|p|pre|q|s|section|small|span|strike|strong|sub|summary|sup|svg|path|table|tbody"
    r"|td|tfoot|th|thead|tr|tt|u|ul|var|video|source|input|button)|[A-Z][a-z0-9]+(?:[A-Z][A-Za-z0-9]*)*)"
    r"(?:\s[^<>]*)?/?>"
)
_BREAK = re.compile(r"<(?:br|/p|/li|/div|/tr|/h[1-6]|/dt|/dd|/summary)\s*/?>[ \t]*\n?", re.IGNORECASE)
_POWER = re.compile(r"(?<=\d)<sup>\s*(\d+)\s*</sup>", re.IGNORECASE)
_STRUCK = re.compile(r"~~(?=\S)([^~\n]+?)(?<=\S)~~|<(del|s|strike)>[^<\n]*</\2>", re.IGNORECASE)
_SPECIAL = re.compile(r"[*_`\[\]<~\\&]")
_INLINE = re.compile(
    r"(?P<ticks>`+)(?P<code>(?:[^`]|(?!(?P=ticks))`+)+?)(?<!`)(?P=ticks)(?!`)"
    r"|\\(?P<escaped>[!-/:-@\[-`{-~])"
    r"|!?\[(?P<label>(?:[^\[\]\\]|\\.|\[[^\[\]]*\])*)\]"
    r"(?:\((?:<[^<>]*>|[^()\s]*(?:\([^()\s]*\)[^()\s]*)*)(?:\s+(?:\"[^\"]*\"|'[^']*'))?\s*\)|\[[^\[\]]*\])"
    r"|<(?P<url>(?:https?|ftp|mailto):[^<>\s]+)>"
    r"|(?P<tag>" + _TAG.pattern + ")"
    r"|(?P<marks>\*{1,3}|~~)(?=\S)(?P<strong>[^*~\n]+?)(?<=\S)(?P=marks)"
    r"|(?<![\w\\])(?P<bars>_{1,3})(?=\S)(?P<under>[^_\n]+?)(?<=\S)(?P=bars)(?!\w)"
)


def read_md(data: bytes, options: ReadOptions) -> Content:
    text, warnings = decode(data)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    title, blocks = "", []
    if front := _FRONT_MATTER.match(text):
        fields = {name: value.strip() for name, _, value in _FIELD.findall(front.group(1))}
        title = fields.get("title", "")
        if summary := fields.get("summary") or fields.get("description"):
            blocks.append(text_block(summary))
        text = text[front.end() :]
    blocks += markdown_blocks(text)
    if not title:
        title = next((block.text for block in blocks if block.kind == "heading" and block.level == 1), "")
    return Content(title=plain(title), blocks=tuple(blocks), warnings=warnings)


def plain(text: str) -> str:
    """A line of markdown without its marks: links and pictures keep their text, code its content.

    What is struck out is left out where other words stand beside it.
    """
    if not _SPECIAL.search(text):
        return text
    if "<sup" in text:
        text = _POWER.sub(r"^\1", text)
    if ("~~" in text or "</" in text) and "`" not in text:
        text = _STRUCK.sub("", text) if re.search(r"\w", _STRUCK.sub("", text)) else text
    text = _INLINE.sub(_unmarked, text)
    return html.unescape(text) if "&" in text else text


def _unmarked(match: re.Match[str]) -> str:
    kind = match.lastgroup
    if kind == "code":
        return match["code"].strip() or match["code"]
    if kind == "escaped" or kind == "url":
        return match[kind]
    if kind == "tag":
        return " " if match["tag"][:3].lower() == "<br" else ""
    return plain(match[kind]) if kind else ""


@lru_cache(maxsize=1)
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    return MarkdownIt("commonmark").enable("table").disable(["inline", "text_join"])


def markdown_blocks(text: str) -> list[Block]:
    if "{{" in text:
        text = _SHORTCODE.sub("", text)
    return list(_Walk(_parser().parse(text)).blocks())


class _Walk:
    """One pass over the block tokens. Lines of lists and quotes gather in `lines` and become one text block."""

    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = iter(tokens)
        self.lines: list[str] = []
        self.counters: list[int | None] = []  # one an open list: the next number, None for bullets
        self.mark = ""  # of the item that has just begun

    def blocks(self) -> Iterator[Block]:
        for token in self.tokens:
            match token.type:
                case "heading_open":
                    yield from self.flush()
                    yield heading_block(plain(_ANCHOR.sub("", next(self.tokens).content)), int(token.tag[1]))
                case "inline":
                    self.add(_readable(token.content))
                    if not self.counters:
                        yield from self.flush()
                case "fence" | "code_block":
                    yield from self.flush()
                    yield Block("code", clean(token.content))
                case "table_open":
                    yield from self.flush()
                    yield self.table()
                case "html_block":
                    yield from self.html(token.content)
                case "ordered_list_open":
                    self.counters.append(int(token.attrGet("start") or 1))
                case "bullet_list_open":
                    self.counters.append(None)
                case "ordered_list_close" | "bullet_list_close":
                    self.counters.pop()
                    if not self.counters:
                        yield from self.flush()
                case "list_item_open":
                    self.mark = self.next_mark()
        yield from self.flush()

    def next_mark(self) -> str:
        number = self.counters[-1]
        if number is None:
            return "- "
        self.counters[-1] = number + 1
        return f"{number}. "

    def add(self, text: str) -> None:
        if not text.strip():
            return
        indent = "  " * (len(self.counters) - 1)
        first, *rest = text.split("\n")
        self.lines.append(f"{indent}{self.mark}{first}")
        self.lines += [f"{indent}{line}" for line in rest]
        self.mark = ""

    def flush(self) -> Iterator[Block]:
        if self.lines:
            yield text_block("\n".join(self.lines))
            self.lines = []

    def table(self) -> Block:
        rows: list[list[str]] = []
        for token in self.tokens:
            if token.type == "tr_open":
                rows.append([])
            elif token.type == "inline":
                rows[-1].append(_readable(token.content))
            elif token.type == "table_close":
                break
        return table_block(rows)

    def html(self, content: str) -> Iterator[Block]:
        content = _SCRIPT.sub("", _COMMENT.sub("", content))
        at = 0
        for found in _TABLE.finditer(content):
            from kbqa.readers.html import html_blocks

            self.add(_readable(_BREAK.sub("\n", content[at : found.start()])))
            yield from self.flush()
            yield from html_blocks(found.group())
            at = found.end()
        self.add(_readable(_BREAK.sub("\n", content[at:])))
        if not self.counters:
            yield from self.flush()


def _readable(text: str) -> str:
    if "<!--" in text:
        text = _COMMENT.sub("", text)
    text = plain(text)
    if "\n" not in text:
        return text.strip()
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())
