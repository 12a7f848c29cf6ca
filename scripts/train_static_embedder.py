"""Train the built-in embedder, kbqa/data/static/model.npz, from text alone (docs/static-embedder.md).

    KBQA_TESTDATA=... python scripts/train_static_embedder.py            # minutes on two idle cores
    ... --steps 20 --rows 2000 --documents 500 --out /tmp/model.npz      # a miniature in seconds

Contrastive: a sentence, or a heading, cut down until it looks like a question, must find the passage it was taken
from among the passages of the batch. No question of any benchmark is read, and headings that are questions are left
out, since those of the manual's FAQ pages are one.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import re
import tarfile
import time
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from kbqa.analyzer import Terms, analyze
from kbqa.embedders.static import UNKNOWN, Vocabulary, save_model

Ints = NDArray[np.int64]
Bag = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # rows, where each text's begin, weights

OUT = Path(__file__).parents[1] / "kbqa" / "data" / "static" / "model.npz"
POWER = 0.75  # a term that occurs c times counts c ** POWER
NEWS, MANUAL = range(2)
SHARES = (0.55, 0.25)  # of --batch: what a batch from both sources takes of each
CLUSTER = 64  # passages of one subject side by side in a batch: they are each other's hard negatives

SENTENCE_END = re.compile(r"(?<=[。！？!?；;\n])")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.S)
IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
TAG = re.compile(r"<[^>\n]{1,200}>")
HEADING = re.compile(r"(#{1,6})\s+(.*)")
QUESTION = re.compile(r"[?？吗呢怎哪几]|如何|什么|为何|是否|能否|可否|多少|多久|why|how|what", re.I)
QUESTION_PAGES = re.compile(r"faq|troubleshoot")
QUESTION_WORDS = (
    "什么 多少 怎么 如何 哪 哪里 哪个 哪些 谁 为什么 怎样 吗 呢 是否 几 何时 有没有 是 的 在 有 了 被 多久".split()
)
QUESTION_WORDS += "what how which why who when".split()


@dataclass(frozen=True, slots=True)
class Text:
    source: int
    heading: str
    body: str


def read_texts(data: Path) -> Iterator[Text]:
    """News and a product manual. Texts of the question sets stay out, so that those can measure."""
    with gzip.open(data / "text" / "news-train.jsonl.gz", "rt", encoding="utf-8") as file:
        for line in file:
            yield Text(NEWS, "", json.loads(line)["text"])
    with tarfile.open(data / "enterprise" / "tidb-docs-cn.tar.gz") as archive:
        for member in sorted(archive.getmembers(), key=lambda member: member.name):
            content = archive.extractfile(member) if member.name.endswith(".md") else None
            if content is not None:
                yield from sections(content.read().decode("utf-8"), bool(QUESTION_PAGES.search(member.name)))


def sections(markdown: str, asks: bool) -> Iterator[Text]:
    """The sections of a page under their heading paths. Headings that are questions are left out; `asks`: all are."""
    for pattern, instead in ((FRONT_MATTER, ""), (IMAGE, ""), (LINK, r"\1"), (TAG, " ")):
        markdown = pattern.sub(instead, markdown)
    path: list[tuple[int, str]] = []
    body: list[str] = []
    code = False
    for line in [*markdown.split("\n"), "# "]:
        if line.lstrip().startswith("```"):
            code = not code
            continue
        heading = None if code and line != "# " else HEADING.match(line)
        if heading is None:
            body.append(line)
            continue
        if any(body):
            told = [title for _, title in path if not (asks or QUESTION.search(title))]
            yield Text(MANUAL, " > ".join(told), "\n".join(body).strip())
        body = []
        path = [outer for outer in path if outer[0] < len(heading[1])] + [(len(heading[1]), heading[2].strip())]


# --- tokens ----------------------------------------------------------------------------------------------------------


def terms_of(text: Text) -> tuple[int, bool, list[Terms]]:
    """Source, headed or not, and the terms of each sentence; the heading is the first."""
    pieces = [text.heading] if text.heading else []
    pieces += [stripped for piece in SENTENCE_END.split(text.body) if (stripped := piece.strip())]
    return text.source, bool(text.heading), [analyze(piece) for piece in pieces]


@lru_cache(maxsize=4096)
def places_of(count: int) -> bytes:
    """Where the terms of a stream of `count` stand in it: 0..255."""
    return bytes(255 * (2 * at + 1) // (2 * count) for at in range(count))


@dataclass(frozen=True)
class Corpus:
    """All texts as flat arrays: text -> sentences -> terms."""

    codes: Ints  # of each term, by the vocabulary
    places: NDArray[np.uint8]  # where in its sentence
    sentence: Ints  # (sentences + 1,) where each begins
    text: Ints  # (texts + 1,) its first sentence
    headed: NDArray[np.bool_]  # is a text's first sentence its heading?
    source: Ints
    idf: NDArray[np.float64]  # by row of the vocabulary
    vocabulary: Vocabulary


def build_corpus(texts: Iterable[Text], known: int, buckets: int) -> Corpus:
    strings: dict[str, int] = {}
    frequency: Counter[int] = Counter()
    terms, places = array("l"), bytearray()
    sentence, first, headed, source = [0], [0], [], []
    with ProcessPoolExecutor() as pool:
        for text_source, has_heading, sentences in pool.map(terms_of, texts, chunksize=50):
            start = len(terms)
            for found in sentences:
                for stream in (found.words, found.bigrams):
                    terms.extend([strings.setdefault(term, len(strings)) for term in stream])
                    places += places_of(len(stream))
                sentence.append(len(terms))
            frequency.update(set(terms[start:]))
            first.append(len(sentence) - 1)
            headed.append(has_heading)
            source.append(text_source)
    names = list(strings)
    frequent = sorted(frequency, key=lambda number: (-frequency[number], names[number]))[:known]
    vocabulary = Vocabulary([names[number] for number in frequent], buckets)
    code_of = np.array([vocabulary[name] for name in names])
    counts = np.array([frequency[number] for number in frequent])
    return Corpus(
        code_of[np.array(terms)],
        np.frombuffer(places, dtype=np.uint8),
        np.array(sentence),
        np.array(first),
        np.array(headed),
        np.array(source),
        np.log((len(source) + 1) / (counts + 0.5)),
        vocabulary,
    )


# --- pairs -----------------------------------------------------------------------------------------------------------


def spans(starts: Ints, ends: Ints) -> tuple[Ints, Ints]:
    """All numbers of the ranges [starts, ends), and which range each belongs to."""
    lengths = ends - starts
    owner = np.repeat(np.arange(len(lengths)), lengths)
    before = np.cumsum(lengths) - lengths
    return owner, np.arange(lengths.sum()) + np.repeat(starts - before, lengths)


def to_bag(owner: Ints, rows: Ints, texts: int, total: int) -> Bag:
    """Rows of `texts` texts as torch's embedding_bag wants them: each once per text, weighted count ** POWER."""
    keys, counts = np.unique(owner * total + rows, return_counts=True)
    starts = np.searchsorted(keys // total, np.arange(texts))
    weights = (counts**POWER).astype(np.float32)
    return torch.from_numpy(keys % total), torch.from_numpy(starts), torch.from_numpy(weights)


class Sampler:
    """Cuts batches of (query, passage) out of a corpus."""

    def __init__(self, corpus: Corpus, rng: np.random.Generator, clusters: int, longest: int) -> None:
        self.corpus = corpus
        self.rng = rng
        self.longest = longest
        self.total = len(corpus.vocabulary) + corpus.vocabulary.buckets
        self.body = corpus.text[:-1] + corpus.headed  # the first sentence after the heading
        self.end = corpus.text[1:]
        terms = corpus.sentence[self.end] - corpus.sentence[self.body]
        usable = np.flatnonzero((self.end > self.body) & (terms >= 30))
        self.by_source = [usable[corpus.source[usable] == source] for source in (NEWS, MANUAL)]
        self.clusters = [group for group in cluster_texts(corpus, usable, clusters) if len(group) >= 16]
        words = np.array([corpus.vocabulary[word] for word in QUESTION_WORDS])
        self.question_rows = words[words < UNKNOWN]

    def batch(self, size: int) -> tuple[Bag, Bag]:
        chosen = self._choose(size)
        corpus, rng = self.corpus, self.rng
        sentence, first, last = corpus.sentence, self.body[chosen], self.end[chosen]
        n = len(chosen)
        picked = self._pick_sentences(first, last)
        # The passage: a window of whole sentences around the picked one.
        length = rng.integers(60, self.longest, n)
        start = np.searchsorted(sentence, sentence[picked] - (rng.random(n) * length).astype(np.int64))
        start = np.clip(start, first, picked)
        stop = np.searchsorted(sentence, sentence[start] + length, "right") - 1
        stop = np.minimum(np.maximum(stop, picked + 1), last)
        by_heading = corpus.headed[chosen] & (rng.random(n) < 0.15)
        # Half of the passages keep the sentence they are asked for: questions do share words with their answers.
        keeps = (rng.random(n) < 0.5) | (stop - start < 2) | by_heading
        owner, term = spans(sentence[start], sentence[stop])
        removed = ~keeps[owner] & (term >= sentence[picked][owner]) & (term < sentence[picked + 1][owner])
        passage = [(owner[~removed], term[~removed])]
        passage.append(self._headings(chosen, corpus.headed[chosen] & ~by_heading & (rng.random(n) < 0.6)))
        query = [self._shortened(np.where(by_heading, corpus.text[chosen], picked), stop, by_heading)]
        query.append(self._headings(chosen, corpus.headed[chosen] & ~by_heading & (rng.random(n) < 0.35)))
        asked = np.repeat(np.flatnonzero(rng.random(n) < 0.5), 2)
        return (
            self._bag(query, n, (asked, rng.choice(self.question_rows, len(asked)))),
            self._bag(passage, n, None),
        )

    def _choose(self, size: int) -> Ints:
        """Texts, none twice: of some subjects, of the manual alone, or of both sources."""
        kind = self.rng.random()
        if kind < 0.6 and self.clusters:
            groups = self.rng.permutation(len(self.clusters))[: size // CLUSTER]
            parts = [self.rng.permutation(self.clusters[group])[:CLUSTER] for group in groups]
        elif kind < 0.75:
            parts = [self.rng.permutation(self.by_source[MANUAL])[:size]]
        else:
            pools = zip(self.by_source, SHARES, strict=True)
            parts = [self.rng.permutation(pool)[: round(size * share)] for pool, share in pools]
        return np.concatenate(parts)

    def _pick_sentences(self, first: Ints, last: Ints) -> Ints:
        """One of each text's sentences; a very short one is given two more chances to be another."""
        sentence = self.corpus.sentence
        picked = first + (self.rng.random(len(first)) * (last - first)).astype(np.int64)
        for _ in range(2):
            other = first + (self.rng.random(len(first)) * (last - first)).astype(np.int64)
            picked = np.where(sentence[picked + 1] - sentence[picked] < 12, other, picked)
        return picked

    def _shortened(self, picked: Ints, stop: Ints, whole: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        """A stretch of the sentence (or of two) with a hole where the answer may have stood, and words missing."""
        corpus, rng, n = self.corpus, self.rng, len(picked)
        further = ~whole & (rng.random(n) < 0.2) & (picked + 1 < stop)
        owner, term = spans(corpus.sentence[picked], corpus.sentence[picked + 1 + further])
        place = corpus.places[term] / 255
        length = np.maximum(corpus.sentence[picked + 1] - corpus.sentence[picked], 1)
        share = np.where(whole, 1.0, np.clip(rng.uniform(12, 50, n) / length, 0, 1))
        left = rng.random(n) * (1 - share)
        hole = left + rng.random(n) * share
        hole_end = hole + rng.random(n) * 0.35 * share * (rng.random(n) < 0.6)
        lost = rng.random(n) * 0.5
        kept = (place >= left[owner]) & (place <= (left + share)[owner])
        kept &= (place < hole[owner]) | (place >= hole_end[owner])
        kept &= rng.random(len(term)) >= lost[owner]
        return owner[kept], term[kept]

    def _headings(self, chosen: Ints, wanted: NDArray[np.bool_]) -> tuple[Ints, Ints]:
        at = np.flatnonzero(wanted)
        heading = self.corpus.text[chosen[at]]
        owner, term = spans(self.corpus.sentence[heading], self.corpus.sentence[heading + 1])
        return at[owner], term

    def _bag(self, parts: list[tuple[Ints, Ints]], texts: int, extra: tuple[Ints, Ints] | None) -> Bag:
        owner = np.concatenate([part[0] for part in parts])
        codes = self.corpus.codes[np.concatenate([part[1] for part in parts])]
        rows, origin = self.corpus.vocabulary.rows(codes)
        owner = owner[origin]
        if extra is not None:
            owner, rows = np.concatenate([owner, extra[0]]), np.concatenate([rows, extra[1]])
        return to_bag(owner, rows, texts, self.total)


def cluster_texts(corpus: Corpus, usable: Ints, clusters: int) -> list[Ints]:
    """`usable` texts grouped by subject: k-means over random projections of their telling terms."""
    if not clusters:
        return []
    from faiss import Kmeans

    rng = np.random.default_rng(1)
    rare, common = np.log(len(corpus.source) / 5), np.log(len(corpus.source) / 4000)
    weight = np.where((corpus.idf < rare) & (corpus.idf > common), corpus.idf, 0)
    rows = rng.standard_normal((len(weight), 96), dtype=np.float32) * weight[:, None].astype(np.float32)
    vectors = np.zeros((len(usable), 96), dtype=np.float32)
    for at, text in enumerate(usable):
        codes = corpus.codes[corpus.sentence[corpus.text[text]] : corpus.sentence[corpus.text[text + 1]]]
        distinct, counts = np.unique(codes[codes < UNKNOWN], return_counts=True)
        vectors[at] = np.sqrt(counts) @ rows[distinct]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True) + 1e-9
    means = Kmeans(96, clusters, niter=12, seed=1)
    means.train(vectors)
    nearest = means.index.search(vectors, 1)[1][:, 0]
    return [usable[nearest == cluster] for cluster in range(clusters)]


# --- training --------------------------------------------------------------------------------------------------------


def initial_rows(corpus: Corpus, dim: int, rng: np.random.Generator) -> torch.Tensor:
    """Random directions, as long as the term is telling: before any training this is BM25's little brother."""
    unseen = np.full(corpus.vocabulary.buckets, np.log(len(corpus.source) / 3) / np.sqrt(2))
    weight = np.concatenate([corpus.idf, unseen])
    weight = (weight / weight.max()) ** 0.75
    rows = rng.standard_normal((len(weight), dim), dtype=np.float32) / np.sqrt(dim, dtype=np.float32)
    return torch.from_numpy(rows * weight[:, None].astype(np.float32))


def embed(rows: torch.Tensor, bag: Bag) -> torch.Tensor:
    """(texts, dim), unit length; a text that lost all its terms is a row of zeros."""
    sums = functional.embedding_bag(bag[0], rows, bag[1], mode="sum", per_sample_weights=bag[2])
    return functional.normalize(sums, dim=1)


def train(corpus: Corpus, options: argparse.Namespace) -> torch.Tensor:
    rng = np.random.default_rng(options.seed)
    torch.manual_seed(options.seed)
    initial = initial_rows(corpus, options.dim, rng)
    rows = torch.nn.Parameter(initial.clone())
    sampler = Sampler(corpus, rng, options.clusters, options.longest)
    optimizer = torch.optim.Adam([rows], lr=options.lr, betas=(0.9, 0.99), fused=True)
    begun, losses, step = time.monotonic(), [], 0
    while (done := progress(step, begun, options)) < 1:
        optimizer.param_groups[0]["lr"] = options.lr * min(1, (step + 1) / 100) * (1 - done)
        query, passage = (embed(rows, bag) for bag in sampler.batch(options.batch))
        similar = query @ passage.T / options.temperature
        right = torch.arange(len(similar))
        loss = (functional.cross_entropy(similar, right) + functional.cross_entropy(similar.T, right)) / 2
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
        step += 1
        if step % 100 == 0:
            print(f"step {step}  loss {np.mean(losses[-100:]):.3f}  {time.monotonic() - begun:.0f} s", flush=True)
    print(f"{step} steps in {time.monotonic() - begun:.0f} s, loss {np.mean(losses[-100:]):.3f}")
    blended: torch.Tensor = options.blend * rows.detach() + (1 - options.blend) * initial
    return blended


def progress(step: int, begun: float, options: argparse.Namespace) -> float:
    """0 to 1, by steps or by minutes, whichever is further."""
    by_time: float = (time.monotonic() - begun) / 60 / options.minutes if options.minutes else 0.0
    return max(by_time, float(step / options.steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="the data folder ($KBQA_TESTDATA/data)")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=None, help="stop earlier; the result then depends on speed")
    parser.add_argument("--documents", type=int, default=None, help="of each source, for a smoke test")
    parser.add_argument("--rows", type=int, default=48_000, help="terms with a row of their own")
    parser.add_argument("--buckets", type=int, default=16_384, help="rows that all other terms share")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--temperature", type=float, default=0.05)
    parser.add_argument("--longest", type=int, default=1000, help="terms of a passage")
    parser.add_argument("--clusters", type=int, default=400)
    parser.add_argument("--blend", type=float, default=0.65, help="share of the trained rows; the rest are the initial")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    data = options.data or Path(os.environ["KBQA_TESTDATA"]) / "data"
    begun = time.monotonic()
    taken: Counter[int] = Counter()
    texts = []
    for text in read_texts(data):
        taken[text.source] += 1
        if taken[text.source] <= (options.documents or taken[text.source]):
            texts.append(text)
    corpus = build_corpus(texts, options.rows, options.buckets)
    print(f"{len(texts)} texts, {len(corpus.codes)} terms, read in {time.monotonic() - begun:.0f} s", flush=True)
    rows = train(corpus, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_model(options.out, list(corpus.vocabulary), rows.numpy(), POWER)
    content = options.out.read_bytes()
    print(f"{options.out}: {len(content):,} bytes, sha256 {sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
