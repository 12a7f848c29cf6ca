"""Holds one clause of a claim against one quote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, dropwhile, pairwise, takewhile

from kbqa.support.claim import Claim, Span, Word
from kbqa.support.dictionary import tagged
from kbqa.support.passage import Candidate
from kbqa.support.wording import PAUSE, PAUSES, Number, Pair, Wording, is_han, is_number, likeness
from kbqa.support.words import EMPTY, GENERIC, LINKS, UNITS

__all__ = ["Finding", "exchanged", "judge"]

RIVAL = 0.1  # more likeness than at its own place makes another place the one that a number is told of
NUMBER = 2  # what a number weighs, in characters
DATE_UNITS = frozenset("年月日号")
SURROUNDING = 3  # atoms before and behind a word that make the place where it stands
FILLER = 8  # atoms that may stand there instead
COORDINATORS = frozenset("和与及或跟同")
PART = 10  # atoms of a part that may have changed places
BROKEN = 6  # new neighbours that two words which changed places can make


@dataclass(frozen=True, slots=True)
class Finding:
    """What a quote says about a clause: nothing against it when `doubts` (words, numbers, negations) is empty.

    `own` is the weight of the clause's words that stand in the quote itself, `lost` of those that are doubted.
    `substance`: the weight with that of numbers which do not date. `leans`: something is told only around the quote.
    `grave`: a name, number or negation is doubted; `wrong`: the quote tells otherwise.
    """

    weight: int
    own: int
    lost: int
    substance: int
    doubts: tuple[str, ...]
    leans: bool
    grave: bool
    wrong: bool


def judge(claim: Claim, clause: Span, candidate: Candidate) -> Finding:
    wording = candidate.wording
    words, numbers = claim.words_in(clause), claim.numbers_in(clause)
    stray = _stray(claim, clause, wording)
    own: list[Word] = []
    lost: list[Word] = []
    replaced: list[Word] = []
    for word in words:
        if word.start not in stray and _stands(claim, word, wording):
            (replaced if _is_elsewhere(claim, word, wording) else own).append(word)
        elif not _stands_around(claim, word, candidate, is_subject=not own):
            lost.append(word)
    untold = [number for number in numbers if not _is_told(number, wording, candidate.title)]
    rivalled = [number for number in numbers if _is_rivalled(claim, number, candidate, number in untold)]
    missing = [n for n in untold if not any(_is_told(n, w, candidate.title) for w in candidate.around)]
    turned = _turned_round(claim, clause, wording)
    doubted = [n for n in numbers if n in rivalled or n in missing]
    weight = sum(word.weight for word in words)
    return Finding(
        weight=weight,
        own=sum(word.weight for word in own),
        lost=sum(word.weight for word in (*lost, *replaced)),
        substance=weight + NUMBER * sum(number.unit not in DATE_UNITS for number in numbers),
        doubts=(
            *(w.text for w in (*lost, *replaced)),
            *(claim.atoms[n.at].removeprefix("#") for n in doubted),
            *turned,
        ),
        leans=len(words) > len(own) + len(lost) + len(replaced) or len(untold) > len(missing),
        grave=bool(doubted or turned or replaced) or any(word.is_name for word in lost),
        wrong=bool(rivalled or turned or replaced),
    )


# --- words -----------------------------------------------------------------------------------------------------------


def _stands(claim: Claim, word: Word, wording: Wording, also: frozenset[Pair] = frozenset()) -> bool:
    """Whether all characters of a word stand in a text with a neighbour that they have in the word (营业…收入).

    Where the dictionary does not know the word it may have been cut wrongly: then the neighbour may lie outside.
    """
    atoms, start, end = claim.atoms, word.start, word.end
    if end - start == 1:
        return atoms[start] in wording.known
    pairs = wording.pairs
    met = [pair in pairs or pair in also for pair in pairwise(atoms[start - 1 : end + 1])]
    inside = [False, *met[1:-1], False]
    lost = [n for n in range(end - start) if not (inside[n] or inside[n + 1] or atoms[start + n] in EMPTY)]
    if not lost or word.is_known:
        return not lost
    full = [n for n in lost if not (met[n] or met[n + 1])]
    if len(full) == 1 and end - start == 2:  # 「石为」, cut out of 「竹石为一绝」
        return EMPTY.intersection(atoms[start:end]) != frozenset() and atoms[start + full[0]] in wording.known
    return not full


def _stray(claim: Claim, clause: Span, wording: Wording) -> frozenset[int]:
    """Places of characters next to each other none of which has a neighbour that it has in the text.

    One such character alone may be a word that stands elsewhere in the text; two are a name that does not.
    """
    start, end = clause
    met = [pair in wording.pairs for pair in pairwise(claim.atoms[start - 1 : end + 1])]
    found: set[int] = set()
    run: list[int] = []
    for place in range(start, end + 1):
        if place < end and is_han(claim.atoms[place]) and not met[place - start] and not met[place - start + 1]:
            run.append(place)
            continue
        if len(run) > 1:
            found.update(run)
        run = []
    return frozenset(word.start for word in claim.words if word.end - word.start == 1 and word.start in found)


def _is_elsewhere(claim: Claim, word: Word, wording: Wording) -> bool:
    """Whether the word stands in the text, but in the claim where the text has another one.

    「经济下降带来」 of 「水位下降，经济增长带来」: both neighbours are new, and between these the text says 增长.
    """
    atoms, pairs = claim.atoms, wording.pairs
    if (atoms[word.start - 1], atoms[word.start]) in pairs or (atoms[word.end - 1], atoms[word.end]) in pairs:
        return False
    before, behind = _surroundings(claim, word)
    return bool(before and behind) and _is_filled(word, before, behind, wording)


def _stands_around(claim: Claim, word: Word, candidate: Candidate, is_subject: bool) -> bool:
    """Whether a word stands in the title, or as the subject in a sentence before, and the quote has no other there."""
    pairs = candidate.wording.pairs
    if not _stands(claim, word, candidate.title, pairs) and not (
        is_subject and any(_stands(claim, word, before, pairs) for before in candidate.before)
    ):
        return False
    before, behind = _surroundings(claim, word)
    return bool(before or behind) and not _is_filled(word, before, behind, candidate.wording)


def _surroundings(claim: Claim, word: Word) -> tuple[Sequence[str], Sequence[str]]:
    """The atoms before and behind a word, without empty words next to it; none at a pause."""
    left, right = word.start - 1, word.end
    while claim.atoms[left] in EMPTY:
        left -= 1
    while claim.atoms[right] in EMPTY:
        right += 1
    before = list(takewhile(_goes_on, reversed(claim.atoms[max(0, left - SURROUNDING + 1) : left + 1])))
    behind = list(takewhile(_goes_on, claim.atoms[right : right + SURROUNDING]))
    return before[::-1], behind


def _goes_on(atom: str) -> bool:
    return atom not in PAUSES


def _is_filled(word: Word, before: Sequence[str], behind: Sequence[str], wording: Wording) -> bool:
    """Whether the text says something else than `word` between these surroundings; a pause stands for missing ones."""
    atoms = wording.atoms
    for end in range(2, len(atoms)):
        if not (atoms[end : end + len(behind)] == behind if behind else atoms[end] in PAUSES):
            continue
        for start in range(end - 1, max(0, end - 1 - FILLER), -1):
            if atoms[start] in PAUSES:
                break
            opens = atoms[start - len(before) : start] == before if before else atoms[start - 1] in PAUSES
            if opens and _is_another(atoms[start:end], word):
                return True
    return False


def _is_another(filler: Sequence[str], word: Word) -> bool:
    """Whether it begins with a noun, and with another one: 太宗 stands for 唐太宗, 学校 for any school."""
    full = list(dropwhile(EMPTY.__contains__, filler))
    if not full or not is_han(full[0]):
        return bool(full) and not is_number(full[0])
    noun, sort = next(tagged("".join(takewhile(is_han, full))))
    return len(noun) > 1 and sort.startswith("n") and noun not in GENERIC and noun not in word.text


# --- numbers ---------------------------------------------------------------------------------------------------------


def _is_rivalled(claim: Claim, number: Number, candidate: Candidate, is_untold: bool) -> bool:
    """Whether another number of the same unit stands at the place in the text that the number has in the claim."""
    wording, title = candidate.wording, candidate.title
    alike = [n for n in wording.numbers if n.unit == number.unit or not (n.unit and number.unit)]
    rivals = [n for n in alike if not _equal(number, n, wording, title)]
    if number.loose:
        return bool(rivals) and len(rivals) == len(alike) and any(n.unit == number.unit for n in rivals)
    here = claim.near_number(number)
    same = [n for n in wording.numbers if _equal(number, n, wording, title)]
    own = max((likeness(here, wording.near_number(n)) for n in same), default=0.0)
    for rival in rivals:
        there = wording.near_number(rival)
        fits = likeness(here, there)
        others = [n for n in claim.numbers if n is not number and n.value == rival.value]
        if fits > own + RIVAL and not any(likeness(claim.near_number(n), there) >= fits for n in others):
            return True
        if is_untold and not others and rival.unit and rival.unit == number.unit:
            return True
    return False


def _is_told(number: Number, wording: Wording, title: Wording) -> bool:
    return number.loose or any(_equal(number, other, wording, title) for other in wording.numbers)


def _equal(number: Number, other: Number, *said: Wording) -> bool:
    """3万 and 30000, or 560.2万 and 560.2 where the table's header says 万元; never of two known units."""
    unit, another = UNITS.get(number.unit), UNITS.get(other.unit)
    if unit and another and unit != another:
        return False
    if number.value == other.value:
        return True
    scale = number.scale or other.scale
    return number.digits == other.digits and not (number.scale and other.scale) and any(scale in w.known for w in said)


# --- negations -------------------------------------------------------------------------------------------------------


def _turned_round(claim: Claim, clause: Span, wording: Wording) -> list[str]:
    """What the claim negates and the text does not, and the other way round."""
    negated = {wording.feature(place) for place in wording.in_negation}
    denied = [
        "".join(claim.atoms[at : places[-1] + 1])
        for at, places in claim.negated.items()
        if clause[0] <= at < clause[1] and places and at not in claim.whole
        if not any(claim.feature(place) in negated for place in places)
    ]
    affirmed = [
        "".join(wording.atoms[at : place + 1])
        for at, places in wording.negated.items()
        for place in places
        if _is_affirmed(claim, clause, wording, place)
    ]
    return denied + affirmed


def _is_affirmed(claim: Claim, clause: Span, wording: Wording, place: int) -> bool:
    """Whether the claim says without a negation what the text negates at `place`, and nowhere says so itself."""
    feature = wording.feature(place)
    if feature in EMPTY or (wording.atoms[place] in EMPTY and wording.atoms[place + 1] in EMPTY):
        return False
    for at in range(*clause):
        if at in claim.in_negation or claim.feature(at) != feature:
            continue
        here = claim.near(at)
        fits = likeness(here, wording.near(place))
        if not any(
            wording.feature(other) == feature
            and other not in wording.in_negation
            and likeness(here, wording.near(other)) >= fits
            for other in range(1, len(wording.atoms) - 1)
        ):
            return True
    return False


# --- words that changed places ---------------------------------------------------------------------------------------


def exchanged(claim: Claim, span: Span, wording: Wording) -> str:
    """Two parts of the claim that would have to change places for all neighbours to be as in the text; "" if none.

    「乙收购甲」 where the text has 「甲收购乙」. Words next to each other, or parted by nothing but empty words, may
    stand either way, and so may the members of a list.
    """
    atoms = claim.atoms[span[0] - 1 : span[1] + 1]
    if not 0 < _broken(atoms, wording) <= BROKEN:
        return ""
    offset = span[0] - 1
    words = [(word.start - offset, word.end - offset) for word in claim.words_in(span)]
    met = [pair in wording.pairs for pair in pairwise(atoms)]
    cuts = [0, *(at + 1 for at, is_met in enumerate(met) if not is_met), len(atoms)]
    parts = {(a + (atoms[a] in PAUSES), b - (atoms[b - 1] in PAUSES)) for a, b in pairwise(cuts) if b - a <= PART}
    parts = {(a, b) for a, b in parts if not EMPTY.issuperset(atoms[a:b])}
    parts |= {(a, b) for a, b in words if not met[a - 1] or not met[b - 1]}
    for (a, b), (c, d) in combinations(sorted(parts), 2):
        if atoms[a:b] == atoms[c:d] or not any(b <= start and end <= c for start, end in words):
            continue
        swapped = [*atoms[:a], *atoms[c:d], *atoms[b:c], *atoms[a:b], *atoms[d:]]
        joints = (a, a + d - c, d - b + a, d)  # where the parts meet what stands around them
        if not _broken(swapped, wording) and all(_meet(swapped, joint, wording) for joint in joints):
            return f"{''.join(atoms[a:b])}/{''.join(atoms[c:d])}"
    return ""


def _broken(atoms: Sequence[str], wording: Wording) -> int:
    """How many neighbours are none in the text, but for those across a pause and beside 和."""
    full = [atom for atom in atoms if atom not in LINKS]
    return sum(
        pair not in wording.pairs and PAUSES.isdisjoint(pair) and COORDINATORS.isdisjoint(pair)
        for pair in pairwise(full)
    )


def _meet(atoms: Sequence[str], joint: int, wording: Wording) -> bool:
    """Whether the atoms before and behind a joint are neighbours in the text, pauses counted."""
    before = next((atom for atom in reversed(atoms[:joint]) if atom not in LINKS), PAUSE)
    behind = next((atom for atom in atoms[joint:] if atom not in LINKS), PAUSE)
    return (before, behind) in wording.pairs
