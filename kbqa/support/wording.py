"""A text taken apart for comparison: its atoms, its numbers with what stands near them, and what it negates.

Knows nothing about passages or verdicts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from itertools import pairwise

from kbqa.analyzer import CJK
from kbqa.support.spelling import MEASURES
from kbqa.support.words import EMPTY, LINKS, MODALS, NEGATIONS, stem

__all__ = ["LISTING", "PAUSE", "PAUSES", "Feature", "Number", "Pair", "Wording", "is_han", "is_number", "likeness"]

PAUSE = ","  # a comma, a full stop, the end of the text: what parts clauses
LISTING = "、"
ASIDE = "("  # a bracket or a dash: words on both sides are no neighbours, but the clause goes on
PAUSES = frozenset((PAUSE, LISTING, ASIDE))

_LATIN = r"a-z_\u00c0-\u1fff"
_ATOM = re.compile(
    rf"(?P<han>[{CJK}])"
    r"|(?P<number>\d+(?:\.\d+)*)"
    r"(?P<scale>[十百千]?[万亿]|万亿|[百千](?![米克瓦卡])|[ -]?(?:thousand|million|billion|trillion)\b)?"
    rf"|(?P<word>[{_LATIN}][{_LATIN}\d]*(?:[._\-/@+#&'][{_LATIN}\d]+)*)"
    r"|(?P<percent>%)|(?P<pause>[,;。!?|\n])|(?P<listing>、)|(?P<aside>[()\[\]—…])"
)
_SCALES = {"十": 10, "百": 100, "千": 10**3, "万": 10**4, "亿": 10**8}
_LATIN_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}

BEFORE, BEHIND = 16, 8  # atoms that count as near a place
NEAR = 0.85  # what stands one atom further away says so much less about it,
BEYOND = 0.5, 0.1  # ... and so much less when it stands in the clause before, in the clause behind

Pair = tuple[str, str]
Feature = str | Pair


@dataclass(frozen=True, slots=True)
class Number:
    """`value` has its `scale` (万, million) multiplied in, `digits` has not; `unit` is the atom behind, "" at a pause.

    A `loose` one is 一 before a measure word, which often counts nothing (是一个国家).
    """

    at: int
    value: str
    digits: str
    scale: str
    unit: str
    loose: bool = False


class Wording:
    """The atoms of a text that `plain` has spelled: characters, Latin words without endings, # and a number, pauses.

    They begin and end with a pause. `pairs` are the neighbours, also those that come together without LINKS.
    """

    def __init__(self, text: str) -> None:
        atoms = [PAUSE]
        self._numerals: list[tuple[int, str, str]] = []  # (place, digits, scale)
        for match in _ATOM.finditer(text.replace("cannot", "can not").replace("n't", " not") if "n" in text else text):
            atom, kind = match[0], match.lastgroup
            if kind in ("pause", "listing", "aside"):
                atom = {"pause": PAUSE, "listing": LISTING}.get(kind, ASIDE)
                if atoms[-1] in PAUSES:  # of two the comma counts, not the bracket before it
                    atoms[-1] = atom if atoms[-1] == ASIDE else atoms[-1]
                    continue
            elif kind == "word":
                atom = stem(atom)
            elif kind in ("number", "scale") and match["number"].count(".") < 2:
                digits, scale = _shortest(match["number"]), (match["scale"] or "").strip(" -")
                self._numerals.append((len(atoms), digits, scale))
                atom = "#" + _times(digits, scale)
            atoms.append(atom)
        if atoms[-1] != PAUSE:
            atoms.append(PAUSE)
        full = [atom for atom in atoms if atom not in LINKS]
        self.atoms: Sequence[str] = atoms
        self.known = frozenset(atoms)
        self.pairs: frozenset[Pair] = frozenset((*pairwise(atoms), *pairwise(full)))
        self._near: dict[int, Mapping[Feature, float]] = {}

    @cached_property
    def numbers(self) -> Sequence[Number]:
        found = []
        for at, digits, scale in self._numerals:
            unit = self.atoms[at + 1]
            found.append(Number(at, self.atoms[at][1:], digits, scale, "" if unit in PAUSES or unit in LINKS else unit))
        for at, atom in enumerate(self.atoms):
            if atom == "一" and self.atoms[at + 1] in MEASURES:
                found.append(Number(at, "1", "1", "", self.atoms[at + 1], loose=True))
        return found

    @cached_property
    def negated(self) -> Mapping[int, Sequence[int]]:
        """The place of each negation, with the places of what it negates: the next word, and modal verbs before it."""
        found = {}
        for at, atom in enumerate(self.atoms):
            if atom in NEGATIONS:
                to = at + 1
                while self.atoms[to] in MODALS:
                    to += 1
                found[at] = [place for place in range(at + 1, to + 1) if self.atoms[place] not in PAUSES]
        return found

    @cached_property
    def in_negation(self) -> frozenset[int]:
        return frozenset(place for places in self.negated.values() for place in places)

    def feature(self, at: int) -> Feature:
        """What an atom is known by: a Latin word or a number by itself, a character with the one behind it."""
        atom = self.atoms[at]
        return (atom, self.atoms[at + 1]) if is_han(atom) else atom

    def near(self, at: int, never_past: Collection[int] = ()) -> Mapping[Feature, float]:
        """What stands around a place, the nearer the heavier, and not past one of the other places."""
        found: dict[Feature, float] = {}
        for step, reach in ((-1, BEFORE), (1, BEHIND)):
            weight = 1.0
            for place in range(at + step, at + step * (reach + 1), step):
                if not 0 < place < len(self.atoms) - 1 or place in never_past:
                    break
                atom, following = self.atoms[place], self.atoms[place + 1]
                if atom in PAUSES:
                    weight *= BEYOND[step > 0]
                    continue
                if atom not in EMPTY and following not in PAUSES and place + 1 != at:
                    feature = self.feature(place)
                    found[feature] = max(weight, found.get(feature, 0.0))
                weight *= NEAR
        return found

    def near_number(self, number: Number) -> Mapping[Feature, float]:
        """The same, not past another number of the same unit: what stands there belongs to that one."""
        if number.at not in self._near:
            others = {n.at for n in self.numbers if n.unit == number.unit and not n.loose and n is not number}
            self._near[number.at] = self.near(number.at, others)
        return self._near[number.at]


def likeness(one: Mapping[Feature, float], other: Mapping[Feature, float]) -> float:
    """How much two places have around them in common."""
    return sum(min(weight, other[feature]) for feature, weight in one.items() if feature in other)


def is_han(atom: str) -> bool:
    return len(atom) == 1 and atom >= "\u3040"


def is_number(atom: str) -> bool:
    return atom.startswith("#")


def _shortest(number: str) -> str:
    """007 and 3.50 as 7 and 3.5."""
    whole, _, part = number.partition(".")
    part = part.rstrip("0")
    return f"{whole.lstrip('0') or '0'}{'.' + part if part else ''}"


def _times(digits: str, scale: str) -> str:
    if not scale:
        return digits
    factor = _LATIN_SCALES.get(scale, 1)
    for character in scale if factor == 1 else "":
        factor *= _SCALES[character]
    return f"{(Decimal(digits) * factor).normalize():f}"
