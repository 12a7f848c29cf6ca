"""A question to Hits: the lexical and the dense arm, fused by calibrated scores, and how far they can be trusted.

A follow-up question is made self-contained first; other names of what it names, and other ways to write its numbers,
are searched for too.

Both arms give their best `candidates`; each candidate gets a score from both, so that nothing is ranked by where it
was found. Scores are calibrated by the question and added (`fusion`). The best may then be read by a reranker, which
has a say of its own in their order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from kbqa.analyzer import Passage, Terms, fold, question_terms
from kbqa.config import RetrievalConfig
from kbqa.embedders.weight import own_weight
from kbqa.errors import QuestionError
from kbqa.evidence import gather
from kbqa.pointers import label_of, pointers
from kbqa.pointers import spellings as spellings_of
from kbqa.questions import impersonal
from kbqa.retriever.confidence import confidence
from kbqa.retriever.followup import leaning, standalone
from kbqa.retriever.fusion import Candidates, Ranking, calibrated, reordered
from kbqa.retriever.numerals import spellings
from kbqa.retriever.passages import Passages
from kbqa.retriever.subject import stands_in
from kbqa.retriever.synonyms import SynonymFile, common, in_words_of, widened
from kbqa.types import REFUSAL, Chunk, Embedder, Hit, Reranker, Turn

if TYPE_CHECKING:
    from kbqa.store import Store
    from kbqa.types import Vectors

__all__ = ["Retrieval", "Retriever"]

CARRIED = 0.5  # what a word counts that comes from an earlier question
TURNS_BACK = 6  # earlier questions that a follow-up may reach back to
BELONGS = 0.5  # of the earlier question's words: a passage that answers both holds so much of them

TOLD = 0.3  # of what was asked just now; where no passage holds as much, the earlier question's words prove nothing

DEEPEST = 20_000  # chunks that are looked at to find some that fit

POINTED_AT = 3  # labels of tables that one passage may point at, ...
NAMESAKES = 20  # ... looked for among so many passages with a table that name one of them

LISTENED_TO = 5  # best passages whose wording decides by which of its names a thing is called


@dataclass(frozen=True, slots=True)
class Retrieval:
    """`hits`, best first; `confidence` in [0, 1] that they answer the question; `weights`: word -> idf.

    `question` is what was searched for: with what it left unsaid, and in the documents' words where a name has others.
    """

    hits: tuple[Hit, ...]
    confidence: float
    weights: Mapping[str, float]
    question: str


@dataclass(frozen=True, slots=True)
class _Found:
    """The candidates for one question, best first by both arms; `carried`: what words of an earlier one count."""

    question: str
    weights: Mapping[str, float]
    carried: Mapping[str, float]
    passages: Passages
    candidates: Candidates
    ranking: Ranking

    @property
    def best(self) -> Passage | None:
        chunk = self.passages.get(self.ranking[0][0]) if self.ranking else None
        return Passage(chunk.searchable) if chunk else None


class Retriever:
    """Searches one store. Safe to use from many threads.

    `dense_weight` is the configuration's, else the embedder's own. `reranker` is called at each search and so made
    when it is first needed: a base that is only written to loads no model.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        config: RetrievalConfig,
        synonyms: SynonymFile | None = None,
        reranker: Callable[[], Reranker] | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._config = config
        self._synonyms = synonyms
        self._reranker = reranker if config.reranker else None
        self.dense_weight = own_weight(embedder) if config.dense_weight is None else config.dense_weight

    @property
    def reranks(self) -> bool:
        return self._reranker is not None

    def fused(self, dense_weight: float) -> Retriever:
        """The same without a reranker and with another weight of the dense arm: 0 leaves the words alone, with what
        belongs to them, synonyms and the documents that the question names."""
        config = replace(self._config, dense_weight=dense_weight, reranker=None)
        return Retriever(self._store, self._embedder, config, self._synonyms)

    def search(self, question: str, k: int | None = None, history: Sequence[Turn] = ()) -> Retrieval:
        """The `k` best chunks (config.k unless given); QuestionError for an empty or overlong question.

        With a `history`, what the question leaves unsaid is taken from there.
        """
        question = self._usable(question)
        k = self._config.k if k is None else k
        with self._store.steady():
            leans = leaning(question)
            if not history or leans == "no":
                return self._retrieved(self._search(question, k), k)
            # Who was told that the documents do not tell goes on to something else, unless the question says otherwise.
            meant = self._meant(
                [impersonal(asked) for asked, told in history[-TURNS_BACK:] if leans == "yes" or REFUSAL not in told]
            )
            return self._retrieved(self._follow(question, meant, k), k)

    def search_among(self, question: str, k: int, fits: Callable[[Chunk], bool]) -> Retrieval:
        """The `k` best of the chunks that fit, looked for step by step among the DEEPEST best of all."""
        question, depth = self._usable(question), max(k * 4, 100)
        with self._store.steady():
            while True:
                found = self._retrieved(self._search(question, depth), k, fits)
                if len(found.hits) == k or depth >= min(DEEPEST, self._store.chunk_count):
                    return found
                depth = min(depth * 10, DEEPEST)

    def candidates(self, question: str, k: int) -> Candidates:
        """What both arms know of the `k` best chunks of each, for measuring how to weigh them."""
        return self._search(self._usable(question), k).candidates

    def _meant(self, questions: Sequence[str]) -> str:
        """The last of the questions, made self-contained by those before it."""
        meant = ""
        for question in questions:
            match leaning(question):
                case "no":
                    meant = question
                case "yes":
                    meant = standalone(question, meant)
                case "perhaps":
                    meant = self._follow(question, meant, 1).question
        return meant

    def _follow(self, question: str, previous: str, k: int) -> _Found:
        """Searches for a question that may need the one before.

        One that does not point back is a new one unless some passage speaks of both: it holds the words of this one as
        well as any passage, and half of those of the one before.
        """
        whole = standalone(question, previous)[-self._config.max_question_characters :]
        if whole == question:
            return self._search(question, k)
        together = self._search(whole, k, typed=question)
        if leaning(question) == "yes":
            return together
        alone = self._search(question, k)
        return together if _speaks_of_both(together, alone) else alone

    def _search(self, question: str, k: int, typed: str | None = None) -> _Found:
        """`typed` is the part of the question that was asked just now; what else it holds counts less."""
        wanted = max(k, self._config.candidates, self._config.reranker.candidates if self._config.reranker else 0)
        terms = question_terms(question)
        carried = {} if typed is None else _carried(terms, question_terms(typed))
        lexical = dict(self._store.search_words(terms, wanted, carried))
        numbers, named = spellings(fold(question)), self._named(question)
        texts = self._texts(lexical) if numbers or named else []
        # A number that the best passage spells as the question does is not worth a second search.
        if names := {it: others for it, others in numbers.items() if not stands_in(it, "".join(texts[:1]))} | named:
            wide, shares = widened(terms, names, texts)
            lexical = dict(self._store.search_words(wide, wanted, carried | shares))
            question = in_words_of(self._texts(lexical), question, names)
            terms = question_terms(question)
        weights = {word: idf * carried.get(word, 1.0) for word, idf in self._weights(terms).items()}
        vector, near = self._nearest(question, wanted)
        dense = near | self._cosines(vector, lexical.keys() - near.keys())
        passages = Passages(self._store, dense.keys() | lexical.keys())
        candidates = calibrated(question, passages, passages.titles, lexical, dense)
        return _Found(question, weights, carried, passages, candidates, candidates.ranked(self.dense_weight))

    def _retrieved(self, found: _Found, k: int, fits: Callable[[Chunk], bool] | None = None) -> Retrieval:
        candidates, ranking, judged = found.candidates, found.ranking, {}
        if fits is not None:
            ranking = [it for it in ranking if (chunk := found.passages.get(it[0])) and fits(chunk)]
        deep = max(k, self._config.reranker.candidates if self._config.reranker else 0)
        there = set(found.passages.read([i for i, _ in ranking[:deep]]))  # one may have been removed while we looked
        ranking = [candidate for candidate in ranking[:deep] if candidate[0] in there]
        if self._reranker and self._config.reranker:
            first = [i for i, _ in ranking[: self._config.reranker.candidates]]
            passages = [found.passages[i].searchable for i in first]
            judged = dict(zip(first, self._reranker().score(found.question, passages), strict=True))
            ranking = reordered(ranking, list(judged.values()), self._config.reranker.weight)
        hits = [
            Hit(found.passages[i], score, candidates.lexical.get(i), candidates.dense.get(i), judged.get(i))
            for i, score in ranking[:k]
        ]
        if fits is None:
            hits = self._with_table(hits, k)
        asked = {word: weight for word, weight in found.weights.items() if word not in found.carried}
        told = not found.carried or _told(found.question, asked, hits) >= TOLD
        sure = confidence(found.question, found.weights, hits) if told else 0.0
        return Retrieval(tuple(hits), sure, found.weights, found.question)

    def _with_table(self, hits: list[Hit], k: int) -> list[Hit]:
        """The hits, behind the first of the best ones that points at a table (见附表一) this one, which may share no
        word with the question. Of `k` hits at most the last gives way to it."""
        for at, hit in enumerate(hits[:LISTENED_TO]):
            if labels := list(islice(pointers(hit.chunk.text), POINTED_AT)):
                table = self._table(hit.chunk.source, labels)
                if table is None or at + 1 == k or any(it.chunk.id == table.id for it in hits[: at + 1]):
                    return hits
                rest = [it for it in hits[at + 1 :] if it.chunk.id != table.id]
                return [*hits[: at + 1], Hit(table, hit.score), *rest][:k]
        return hits

    def _table(self, source: str, labels: Sequence[str]) -> Chunk | None:
        """The first passage of the document that is the table of one of the labels."""
        texts = [spelling for label in labels for spelling in spellings_of(label)]
        return next((it for it in self._store.tables(source, texts, NAMESAKES) if label_of(it) in labels), None)

    def _named(self, question: str) -> dict[str, tuple[str, ...]]:
        return (self._synonyms.current if self._synonyms else common()).named(question)

    def _texts(self, found: Iterable[int]) -> list[str]:
        """Of the best passages, folded, in the order given."""
        ids = list(islice(found, LISTENED_TO))
        chunks = self._store.chunks(ids)
        return [fold(chunks[i].searchable) for i in ids if i in chunks]

    def _nearest(self, question: str, wanted: int) -> tuple[Vectors | None, dict[int, float]]:
        """The question's vector and the cosines of the `wanted` nearest chunks; nothing where the arm has no weight."""
        if not self.dense_weight:
            return None, {}
        vector = self._embedder.embed_query(question)
        return vector, dict(self._store.search_vectors(vector, wanted))

    def _cosines(self, vector: Vectors | None, ids: Collection[int]) -> dict[int, float]:
        """Of chunks that the dense arm did not find itself; 0 for one that is removed while we look."""
        if vector is None:
            return {}
        stored = self._store.vectors(ids)
        return {i: float(stored[i] @ vector) if i in stored else 0.0 for i in ids}

    def _usable(self, question: str) -> str:
        question = impersonal(question.strip())
        if not question:
            raise QuestionError("the question is empty")
        limit = self._config.max_question_characters
        if len(question) > limit:
            raise QuestionError(
                f"the question has {len(question)} characters; at most {limit} are allowed "
                "(retrieval.max_question_characters)"
            )
        return question

    def _weights(self, terms: Terms) -> dict[str, float]:
        """idf of the question's words, as BM25 has it; a word that no chunk holds weighs as one that a single does."""
        total = self._store.chunk_count
        frequencies = self._store.word_frequencies(terms.words)
        return {
            word: math.log(1 + (total - max(n, 1) + 0.5) / (max(n, 1) + 0.5)) if total else 0.0
            for word, n in zip(terms.words, frequencies, strict=True)
        }


def _carried(terms: Terms, typed: Terms) -> dict[str, float]:
    """What each term counts that is not in the question as it was typed."""
    return dict.fromkeys({*terms.words, *terms.bigrams} - {*typed.words, *typed.bigrams}, CARRIED)


def _speaks_of_both(together: _Found, alone: _Found) -> bool:
    """Whether the best passage for two questions together answers the second as well as the best one for it alone."""
    best, best_alone = together.best, alone.best
    if best is None or best_alone is None:
        return False
    own = alone.weights
    earlier = {word: weight for word, weight in together.weights.items() if word not in own}
    return _held(earlier, best) >= BELONGS and _held(own, best) >= _held(own, best_alone)


def _told(question: str, asked: Mapping[str, float], hits: Sequence[Hit]) -> float:
    """How much of what was asked just now one of the best hits holds; all, when nothing was asked (为什么？)."""
    if not asked:
        return 1.0
    return max((it.anywhere for it in gather(question, asked, hits[:LISTENED_TO])), default=0.0)


def _held(weights: Mapping[str, float], passage: Passage) -> float:
    """The share of the words, by their weight, that the passage holds."""
    return sum(weight * passage.share(word) for word, weight in weights.items()) / (sum(weights.values()) or 1.0)
