"""One contract, every index: exact in memory, FAISS and tantivy on disk; and how segments are planned."""

import numpy as np
import pytest
from storekit import LAWS

from kbqa.analyzer import question_terms
from kbqa.store.derived import IndexRow, Limits, Piece, plan_segments
from kbqa.store.errors import DamagedIndex
from kbqa.store.lexical import ExactWords, TantivyWords, chunk_fields, extend
from kbqa.store.vectors import ExactVectors, FaissVectors, search_live
from kbqa.types import Chunk

# --- vectors ---------------------------------------------------------------------------------------------------------


def clustered(count, dim, seed=0):
    """Unit vectors around some centres, as texts are; and their ids, with gaps."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(2, count // 20), dim))
    vectors = centres[rng.integers(len(centres), size=count)] + 0.5 * rng.standard_normal((count, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.arange(count, dtype=np.int64) * 3 + 5, vectors.astype(np.float32)


def exact(ids, vectors):
    index = ExactVectors(vectors.shape[1])
    for start in range(0, len(ids), 70):
        index = index.grown(ids[start : start + 70], vectors[start : start + 70])
    return index


def flat(ids, vectors):
    return FaissVectors.build(vectors.shape[1], vectors, [(ids[:7], vectors[:7]), (ids[7:], vectors[7:])], fast=False)


def fast(ids, vectors):
    return FaissVectors.build(vectors.shape[1], vectors, [(ids, vectors)], fast=True)


@pytest.fixture(params=[exact, flat, fast])
def build(request):
    return request.param


@pytest.mark.parametrize("dim", [1, 7, 24, 66])
def test_an_index_finds_what_an_exact_comparison_finds(build, dim):
    ids, vectors = clustered(1500, dim)
    index = build(ids, vectors)
    assert len(index) == 1500
    assert index.ids.tolist() == ids.tolist()
    alike = 0
    for at in range(0, 1500, 150):
        found = index.search(vectors[at], 10)
        cosines = vectors @ vectors[at]
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
        assert len({chunk for chunk, _ in found}) == 10
        for chunk, score in found:
            assert score == pytest.approx(float(cosines[(chunk - 5) // 3]), abs=0.01)
        tenth = np.sort(cosines)[-10] - 0.01
        alike += sum(cosines[(chunk - 5) // 3] >= tenth for chunk, _ in found)
    assert alike >= 95


@pytest.mark.parametrize("k", [0, 1, 39, 40, 1000])
def test_an_index_gives_all_it_has_and_no_more(build, k):
    ids, vectors = clustered(40, 12)
    assert len(build(ids, vectors).search(vectors[3], k)) == min(k, 40)


def test_every_vector_of_a_large_segment_can_be_reached():
    ids, vectors = clustered(1200, 6)
    assert {chunk for chunk, _ in fast(ids, vectors).search(vectors[0], 1200)} == set(ids.tolist())


def test_live_results_are_found_behind_dead_ones(build):
    ids, vectors = clustered(1200, 16)
    index = build(ids, vectors)
    nearest = [chunk for chunk, _ in index.search(vectors[0], 1200)]
    for dead in (set(), set(nearest[:500]), set(nearest[:1197]), set(nearest)):
        live = search_live(lambda k: index.search(vectors[0], k), len(index), 5, dead)
        assert len(live) == min(5, 1200 - len(dead))
        assert not {chunk for chunk, _ in live} & dead


def test_a_zero_row_lies_at_right_angles_to_everything(build):
    ids, vectors = clustered(50, 8)
    vectors[10] = 0
    scores = dict(build(ids, vectors).search(vectors[0], 50))
    assert scores[int(ids[10])] == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("kind", [flat, fast])
def test_a_segment_reads_back_as_it_was_written(tmp_path, kind):
    ids, vectors = clustered(1300, 20)
    index = kind(ids, vectors)
    index.write(tmp_path / "s.faiss")
    again = FaissVectors.read(tmp_path / "s.faiss")
    assert again.ids.tolist() == ids.tolist()
    assert again.search(vectors[9], 20) == index.search(vectors[9], 20)


def test_a_file_that_is_no_segment_is_refused(tmp_path):
    (tmp_path / "s.faiss").write_bytes("不是索引".encode() * 100)
    with pytest.raises(DamagedIndex, match=r"s\.faiss"):
        FaissVectors.read(tmp_path / "s.faiss")


def test_an_exact_index_grows_without_changing_the_one_before():
    ids, vectors = clustered(300, 8)
    before = exact(ids[:200], vectors[:200])
    after = before.grown(ids[200:], vectors[200:])
    assert (len(before), len(after)) == (200, 300)
    assert before.search(vectors[250], 200) != after.search(vectors[250], 200)
    assert after.after(int(ids[249])).ids.tolist() == ids[250:].tolist()


# --- words -----------------------------------------------------------------------------------------------------------

TEXTS = [*LAWS, "GLM-4-9B 的显存占用是多少", "资料库备份 database backup", "年假 年假 年假", "Ａ４ 纸 A4"]


def passages():
    return [
        Chunk("手册.md", at, text, (0, len(text)), title="员工手册", heading=f"第{at}章 总则", id=at + 1)
        for at, text in enumerate(TEXTS * 3)
    ]


def in_memory(folder, chunks):
    index = ExactWords()
    for chunk in chunks:
        index.add(chunk)
    return index


def on_disk(folder, chunks):
    """Written in three steps, as checkpoints do."""
    files, totals, name = [], {}, ""
    for step in range(3):
        name = f"words-{step}"
        totals = extend(folder, name, files, totals, [], chunks[step::3], {})
        files = [f"{name}/{path.name}" for path in (folder / name).iterdir()]
    return TantivyWords(folder / name, totals)


@pytest.fixture(params=[in_memory, on_disk])
def words(request, tmp_path):
    return request.param(tmp_path, passages())


QUESTIONS = ["年假有几天", "差旅住宿怎么报销", "GLM-4-9B 需要多少显存", "数据库備份", "a4", "服务器机房温度", "第3章"]


@pytest.mark.parametrize("question", QUESTIONS)
def test_lexical_indexes_agree_with_the_formula(words, tmp_path_factory, question):
    oracle = in_memory(None, passages())
    found = words.search(question_terms(question), 100)
    expected = dict(oracle.search(question_terms(question), 100))
    assert {chunk for chunk, _ in found} == set(expected)
    for chunk, score in found:
        assert score == pytest.approx(expected[chunk], rel=0.08), "tantivy rounds the lengths of fields"
    assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)
    best = found[0][0]
    assert expected[best] == pytest.approx(max(expected.values()), rel=0.08)


def test_counts_and_frequencies_are_those_of_the_chunks(words):
    chunks = passages()
    assert len(words) == len(chunks)
    assert words.totals["chunks"] == len(chunks)
    assert words.totals["words"] == sum(len(chunk_fields(chunk)["words"]) for chunk in chunks)
    assert words.frequency("words", "glm-4-9b") == 3
    assert words.frequency("bigrams", "glm-4-9b") == 3, "names stand beside the pairs"
    assert words.frequency("words", "不存在的词") == 0


def test_only_chunks_that_hold_a_term_are_found(words):
    assert words.search(question_terms("火星移民"), 10) == []
    assert words.search(question_terms("，。！"), 10) == []
    assert len(words.search(question_terms("年假"), 2)) == 2
    assert words.search(question_terms("年假"), 0) == []


def test_new_chunks_are_scored_like_those_on_disk(tmp_path):
    """A chunk must not win or lose because it is still in the tail."""
    chunks = passages()
    main, tail = on_disk(tmp_path, chunks[:-4]), in_memory(None, chunks[-4:])
    whole = dict(in_memory(None, chunks).search(question_terms("资料库备份"), 100))
    for chunk, score in tail.search(question_terms("资料库备份"), 10, beside=main):
        assert score == pytest.approx(whole[chunk], rel=0.02)


def test_a_term_may_count_less(words):
    terms = question_terms("年假 GLM-4-9B")
    oracle = in_memory(None, passages())
    less = dict.fromkeys(question_terms("GLM-4-9B").words, 0.25)
    for index in (words, oracle):
        whole, part = dict(index.search(terms, 100)), dict(index.search(terms, 100, less))
        leave, model = (dict(index.search(question_terms(name), 100)) for name in ("年假", "GLM-4-9B"))
        assert set(part) == set(whole)
        for chunk, score in part.items():
            assert score == pytest.approx(leave.get(chunk, 0.0) + model.get(chunk, 0.0) / 4, rel=0.01)


def test_the_next_index_leaves_the_one_before_as_it_was(tmp_path):
    chunks = passages()
    totals = extend(tmp_path, "words-a", [], {}, [], chunks[:20])
    old = {path.name: path.read_bytes() for path in (tmp_path / "words-a").iterdir()}
    files = [f"words-a/{name}" for name in old]
    after = extend(tmp_path, "words-b", files, totals, [1, 2, 3], chunks[20:])
    assert {path.name: path.read_bytes() for path in (tmp_path / "words-a").iterdir()} == old
    assert sorted(TantivyWords(tmp_path / "words-b", after).ids()) == list(range(4, len(chunks) + 1))
    assert len(TantivyWords(tmp_path / "words-a", totals)) == 20


# --- the plan --------------------------------------------------------------------------------------------------------

LIMITS = Limits(seal_at=10, fan_out=3, dead_share=0.2)


def row(name):
    return IndexRow(name, "vectors", 1, 0, 0, 0, {})


def pieces(*sizes):
    at, made = 0, []
    for live, dead in sizes:
        made.append(Piece(at + 1, at + live + dead, live, dead, row(f"{at}")))
        at += live + dead
    return made


def test_segments_that_are_in_order_stay():
    for before in ([], pieces((90, 0), (30, 2), (10, 1))):
        assert plan_segments(before, LIMITS) == before


def test_a_worn_segment_is_written_anew_and_an_empty_one_goes():
    planned = plan_segments(pieces((90, 0), (20, 10), (0, 10)), LIMITS)
    assert [(piece.live, piece.row is None) for piece in planned] == [(90, False), (20, True)]


def test_many_segments_of_a_size_become_one():
    (merged,) = plan_segments(pieces((10, 0), (12, 0), (29, 0)), LIMITS)
    assert (merged.first, merged.last, merged.live, merged.row) == (1, 51, 51, None)


@pytest.mark.parametrize("seals", [1, 10, 100, 500])
def test_segments_stay_few_and_each_vector_is_written_seldom(seals):
    segments, written = [], 0
    for at in range(seals):
        planned = plan_segments([*segments, Piece(at * 10 + 1, at * 10 + 10, 10)], LIMITS)
        written += sum(piece.live for piece in planned if piece.row is None)
        segments = [Piece(p.first, p.last, p.live, 0, p.row or row("x")) for p in planned]
    assert sum(piece.live for piece in segments) == seals * 10
    assert [piece.first for piece in segments] == sorted(piece.first for piece in segments)
    classes = np.log(seals) / np.log(3) + 1
    assert len(segments) <= 2 * classes + 1
    assert written <= (classes + 1) * seals * 10
