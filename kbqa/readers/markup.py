"""Help for XML packages (docx, pptx, odt, epub): safe parsing, names without namespaces, relations between parts.

Namespaces are ignored on purpose: "strict" Office files differ from the usual ones in nothing else.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from posixpath import dirname, join, normpath
from typing import NamedTuple
from xml.etree.ElementTree import Element, fromstring

__all__ = ["Element", "Relation", "attribute", "children", "descendants", "first", "name", "parse", "relations"]


class Relation(NamedTuple):
    kind: str  # the last word of the relation's type: styles, header, notesSlide, ...
    target: str  # a member of the package


def parse(data: bytes) -> Element:
    """The root of an XML part. Callers see to it that the part declares no entities (`archive.check_markup`)."""
    return fromstring(data)


def name(element: Element) -> str:
    return element.tag.rpartition("}")[2]


def attribute(element: Element, wanted: str) -> str | None:
    """The attribute of that local name, whatever its namespace."""
    for key, value in element.attrib.items():
        if key.rpartition("}")[2] == wanted:
            return value
    return None


def children(element: Element | None, wanted: str) -> Iterator[Element]:
    yield from (child for child in (element if element is not None else ()) if name(child) == wanted)


def descendants(element: Element | None, wanted: str) -> Iterator[Element]:
    """All elements of that name below `element`, in document order."""
    yield from (found for found in (element.iter() if element is not None else ()) if name(found) == wanted)


def first(element: Element | None, *path: str) -> Element | None:
    """The element reached by taking the first child of each name in turn."""
    for step in path:
        element = next(children(element, step), None)
    return element


def relations(container: zipfile.ZipFile, part: str) -> dict[str, Relation]:
    """The parts that `part` refers to, by relation id; external ones and missing ones are left out."""
    members = set(container.namelist())
    path = f"{dirname(part)}/_rels/{part.rpartition('/')[2]}.rels".lstrip("/")
    found: dict[str, Relation] = {}
    if path not in members:
        return found
    for element in parse(container.read(path)):
        target = attribute(element, "Target") or ""
        target = target.lstrip("/") if target.startswith("/") else normpath(join(dirname(part), target))
        if attribute(element, "TargetMode") != "External" and target in members:
            kind = (attribute(element, "Type") or "").rpartition("/")[2]
            found[attribute(element, "Id") or ""] = Relation(kind, target)
    return found
