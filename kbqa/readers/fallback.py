"""Formats of others, read by the optional package `unstructured`."""

from __future__ import annotations

import importlib.util
import io
import os

from kbqa.readers.content import Content, ReadOptions, heading_block, text_block
from kbqa.readers.html import html_blocks
from kbqa.types import Block

__all__ = ["is_installed", "read_other"]


def is_installed() -> bool:
    return importlib.util.find_spec("unstructured") is not None


def read_other(data: bytes, options: ReadOptions, name: str) -> Content:
    os.environ.setdefault("DO_NOT_TRACK", "1")  # it reports its import to a host otherwise
    os.environ.setdefault("SCARF_NO_ANALYTICS", "true")
    from unstructured.partition.auto import partition  # type: ignore[import-not-found,unused-ignore]

    blocks: list[Block] = []
    for element in partition(file=io.BytesIO(data), metadata_filename=name):
        page = element.metadata.page_number
        if element.category == "Table" and element.metadata.text_as_html:
            blocks += html_blocks(element.metadata.text_as_html)
        elif element.category == "Title":
            blocks.append(heading_block(element.text, (element.metadata.category_depth or 0) + 1, page))
        else:
            blocks.append(text_block(element.text, page))
    return Content(blocks=tuple(blocks))
