"""Other names of the same thing, as the users of a base know them: 年假 and 年休假, HR and 人力资源部.

A question that uses one name is searched for with the others too, which weigh less. Then it is put in the words of
the best passages, and so whatever looks at them afterwards needs to know nothing about synonyms.

The file has a group on each line, its names parted by commas: `年假, 年休假, 带薪假`. `KB => 知识库` works one way:
who asks for KB is also shown 知识库, who asks for 知识库 is not shown KB. Lines that begin with # are comments. What
every office calls by several names (kbqa/data/common_synonyms.txt) is known to all bases; `! 年假` in the file of a
base switches off what is known of 年假, `! *` all of it.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from kbqa.analyzer import Terms, analyze, fold, question_words
from kbqa.errors import ConfigError
from kbqa.retriever.subject import stands_in, whole

__all__ = ["SynonymFile", "Synonyms", "common"]

EVERYTHING = "*"
BESIDE_KNOWN = 0.3  # what a word of another name counts where the documents use the question's own

_ARROW = re.compile("=>|→")
_COMMA = re.compile("[,，、;；|]")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Synonyms:
    """`others`: a name -> its other names, all folded.

    `common`: those names of which nobody said that the documents of this base use them. They count only where the
    dictionary cuts them out of the question (今年假期 names no 年假). `dropped`: names that shall not be among them.
    """

    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    common: frozenset[str] = frozenset()
    dropped: frozenset[str] = frozenset()

    @classmethod
    def parse(cls, text: str, where: str) -> Synonyms:
        """ConfigError with `where` and the line for one that cannot be understood."""
        others: dict[str, dict[str, None]] = {}
        dropped: set[str] = set()
        for number, line in enumerate(text.splitlines(), 1):
            line, place = fold(line).strip(), f"{where}, line {number}"
            if line.startswith("!"):
                dropped.update(_dropped(line[1:], place))
            elif line and not line.startswith("#"):
                for name, names in _pairs(line, place):
                    others.setdefault(name, {}).update(dict.fromkeys(names))
        return cls({name: tuple(names) for name, names in others.items()}, dropped=frozenset(dropped))

    def beside(self, common: Synonyms) -> Synonyms:
        """These, and of the `common` ones those that are not dropped."""
        kept: dict[str, tuple[str, ...]] = {}
        if EVERYTHING not in self.dropped:
            for name, names in common.others.items():
                if name not in self.dropped and (left := tuple(n for n in names if n not in self.dropped)):
                    kept[name] = left
        merged = {
            name: tuple(dict.fromkeys([*self.others.get(name, ()), *kept.get(name, ())]))
            for name in [*self.others, *kept]
        }
        return Synonyms(merged, frozenset(kept.keys() - self.others.keys()), self.dropped)

    def named(self, question: str) -> dict[str, tuple[str, ...]]:
        """The names that stand in `question`, with their others; none that only stands within a longer one."""
        if not self.others:
            return {}
        folded = fold(question)
        present = [name for name in self.others if name in folded]
        if not present:
            return {}
        words = question_words(question)
        found = [name for name in present if _is_named(name, folded, words, name in self.common)]
        return {
            name: self.others[name] for name in found if not any(name != longer and name in longer for longer in found)
        }


def _pairs(line: str, where: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Each name of a line that a question may hold, with its other names."""
    sides = _ARROW.split(line)
    if len(sides) > 2:
        raise ConfigError(f"{where}: more than one =>; write `KB => 知识库`, one line for each")
    groups = [_names(side, where) for side in sides]
    if len(groups) == 2:
        asked, meant = groups
        if not asked or not meant:
            raise ConfigError(f"{where}: nothing stands on one side of =>; write `KB => 知识库`")
    else:
        asked = meant = groups[0]
        if len(asked) < 2:
            raise ConfigError(
                f"{where}: {line!r} is one name; a line needs two or more, parted by commas: 年假, 年休假"
            )
    for name in asked:
        if names := tuple(other for other in meant if other != name):
            yield name, names


def _names(text: str, where: str) -> tuple[str, ...]:
    names = dict.fromkeys(" ".join(name.split()) for name in _COMMA.split(text))
    for name in names:
        if name and not analyze(name).words:
            raise ConfigError(f"{where}: {name!r} holds no letter or digit, so nothing can be found by it")
    return tuple(name for name in names if name)


def _dropped(text: str, where: str) -> Iterator[str]:
    names = [EVERYTHING] if text.strip() == EVERYTHING else _names(text, where)
    if not names:
        raise ConfigError(f"{where}: nothing stands behind !; write `! 年假`, or `! *` for all common synonyms")
    yield from names


def _is_named(name: str, question: str, words: Sequence[str], common: bool) -> bool:
    """A single Chinese character must be a word: 重 stands in 「多重？」, but is not meant by 重庆."""
    if len(name) == 1 or (common and not name.isascii()):
        return _is_made_of(name, words)
    return stands_in(name, question)


def _is_made_of(name: str, words: Sequence[str]) -> bool:
    """Whether some of the words, one behind the other, are the name."""
    for start in range(len(words)):
        made = ""
        for word in words[start:]:
            made += word
            if made == name:
                return True
            if not name.startswith(made):
                break
    return False


def widened(terms: Terms, named: Mapping[str, Sequence[str]], texts: Sequence[str]) -> tuple[Terms, dict[str, float]]:
    """The terms with those of the other names behind them, and what each of these counts.

    `texts` are the best passages, folded, for the terms as they are. A name that they use is what the base says, and
    the others only a help; for one that none of them uses the others stand in.
    """
    words, pairs = dict.fromkeys(terms.words), dict.fromkeys(terms.bigrams)
    asked = {*words, *pairs}
    shares: dict[str, float] = {}
    for name, others in named.items():
        share = BESIDE_KNOWN if any(stands_in(name, text) for text in texts) else 1.0
        for other in map(analyze, others):
            words |= dict.fromkeys(other.words)
            pairs |= dict.fromkeys(other.bigrams)
            shares |= {term: max(share, shares.get(term, 0.0)) for term in {*other.words, *other.bigrams} - asked}
    return Terms([*words], [*pairs]), shares


def in_words_of(texts: Sequence[str], question: str, named: Mapping[str, Sequence[str]]) -> str:
    """`question`, each name replaced by another one where `texts`, folded, the best first, use that and not the name.

    The first text that uses any name of a group decides.
    """
    for name, others in named.items():
        used = (_used(name, others, text) for text in texts)
        if (other := next(filter(None, used), name)) != name:
            question = whole(name).sub(other.replace("\\", r"\\"), fold(question))
    return question


def _used(name: str, others: Sequence[str], text: str) -> str:
    """The name itself if the text holds it, else the first of the others that it holds, else ""."""
    return next((candidate for candidate in (name, *others) if stands_in(candidate, text)), "")


@lru_cache(maxsize=1)
def common() -> Synonyms:
    """What ships with kbqa, for bases without a file of their own too."""
    name = "common_synonyms.txt"
    return Synonyms().beside(Synonyms.parse(files("kbqa").joinpath("data", name).read_text(encoding="utf-8"), name))


class SynonymFile:
    """The synonyms of one base beside those of all, read again when the file has changed.

    `own` are those of the file; without a file there are none.
    """

    def __init__(self, path: Path) -> None:
        """ConfigError when the file cannot be understood now."""
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._stamp()
        self.own = self._read()
        self._synonyms = self.own.beside(common())

    @property
    def current(self) -> Synonyms:
        """As the file is now. While it cannot be understood, as it was before; a line in the log says why."""
        stamp = self._stamp()
        if stamp != self._seen:
            with self._lock:
                self._seen = stamp
                try:
                    self.own = self._read()
                    self._synonyms = self.own.beside(common())
                except ConfigError as error:
                    _log.warning("%s; until that is mended, the synonyms stay as they were", error)
        return self._synonyms

    def _stamp(self) -> tuple[int, int] | None:
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_mtime_ns, stat.st_size

    def _read(self) -> Synonyms:
        try:
            text = self._path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            return Synonyms()
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._path} is not UTF-8 text; save it as UTF-8") from error
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror}") from error
        return Synonyms.parse(text, str(self._path))
