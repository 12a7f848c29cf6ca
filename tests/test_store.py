"""One knowledge base in one process: what goes in, what comes out, what a search sees."""

import dataclasses
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from storekit import DIM, LAWS, LOW, PASSPORT, chunks, document, number, put, stat, texts, vector

from kbqa.analyzer import question_terms
from kbqa.errors import DocumentError, IndexMismatch, KnowledgeBaseBusy, KnowledgeBaseError, UnknownKnowledgeBase
from kbqa.store import FileStat, Store, text_digest, verify
from kbqa.types import Block, Chunk, Document


@pytest.fixture
def store(tmp_path):
    with Store.create(tmp_path / "制度", PASSPORT, LOW) as made:
        yield made


def found(store, question, k=10):
    """The sources that a lexical search finds, best first."""
    ids = [chunk for chunk, _ in store.search_words(question_terms(question), k)]
    of = store.chunks(ids)
    return [of[chunk].source for chunk in ids if chunk in of]  # else removed a moment ago


def nearest(store, text, k=10):
    ids = [chunk for chunk, _ in store.search_vectors(vector(text), k)]
    of = store.chunks(ids)
    return [of[chunk].text for chunk in ids if chunk in of]


def test_a_document_is_found_by_its_words_and_by_its_vector(store):
    with store.write() as writer:
        for at in range(20):
            put(writer, f"制度/第{at}份.md")
    assert found(store, f"编号 {number('制度/第7份.md')} 是什么")[0] == "制度/第7份.md"
    wanted = texts("制度/第7份.md")[1]
    assert nearest(store, wanted)[0] == wanted
    (best, cosine), *_ = store.search_vectors(vector(wanted), 1)
    assert cosine == pytest.approx(1, abs=0.01)
    assert store.chunks([best])[best].ordinal == 1


def test_a_chunk_comes_back_as_it_went_in(store):
    text = "城市 | 限额\n北京 | 500\n上海 | 500"
    chunk = Chunk(
        "差旅😀/标准.xlsx", 0, text, (4, 4 + len(text)), title="差旅标准", heading="第三章 报销 > 3.2 住宿",
        preface="地区 | 元", page=3, breaks=((9, 4), (15, 5)),
    )  # fmt: skip
    made = Document("差旅😀/标准.xlsx", "差旅标准", (Block("table", text, header_rows=1),), "ab" * 32, "table", 5)
    with store.write() as writer:
        writer.put(made, [chunk], [text_digest("x")], {text_digest("x"): vector("x")}, stat(made), "upload", 1.5)
    ((chunk_id, _),) = store.search_words(question_terms("北京的限额"), 5)
    assert store.chunks([chunk_id]) == {chunk_id: replace(chunk, id=chunk_id)}
    assert found(store, "报销住宿") == ["差旅😀/标准.xlsx"]  # the heading path is searched too
    assert found(store, "地区") == ["差旅😀/标准.xlsx"]  # and a table's header
    stored = store.document("差旅😀/标准.xlsx")
    assert (stored.pages, stored.tables, stored.chunks, stored.origin, stored.seconds) == (5, 1, 1, "upload", 1.5)
    assert (stored.status, stored.digest, stored.reader) == ("indexed", "ab" * 32, "table")


def test_replacing_a_document_leaves_nothing_of_the_old_one(store):
    with store.write() as writer:
        put(writer, "制度.md", ["年假每年十天", "病假需要证明"])
    before = {chunk for chunk, _ in store.search_words(question_terms("年假病假"), 10)}
    with store.write() as writer:
        put(writer, "制度.md", ["年假每年十五天"])
    ((chunk, _),) = store.search_words(question_terms("年假病假"), 10)
    assert chunk not in before, "ids are never used twice"
    assert store.chunks(before) == {}
    assert nearest(store, "病假需要证明") == ["年假每年十五天"]
    assert store.counts().vectors == 1
    assert store.document("制度.md").added_at <= store.document("制度.md").updated_at


def test_a_removed_document_is_not_found_again(store):
    with store.write() as writer:
        for at in range(10):
            put(writer, f"{at}.md")
    with store.write() as writer:
        assert writer.remove("3.md")
        assert not writer.remove("3.md")
        assert "3.md" not in found(store, number("3.md")), "already before the indexes are brought up to date"
        assert texts("3.md")[0] not in nearest(store, texts("3.md")[0], 30)
    assert "3.md" not in found(store, number("3.md"))
    assert store.document("3.md") is None
    assert store.chunk_count == 27


def test_every_document_is_found_as_soon_as_it_is_in_while_a_writer_goes_on(store):
    with store.write() as writer:
        for at in range(40):  # checkpoints, seals and merges happen on the way
            put(writer, f"{at}.md")
            assert found(store, number(f"{at}.md", 1))[0] == f"{at}.md"
            assert nearest(store, texts(f"{at}.md")[2], 1) == [texts(f"{at}.md")[2]]
    assert verify(store.folder).findings == ()


def test_what_is_read_steadily_is_of_one_moment_and_other_threads_go_on(store):
    with store.write() as writer:
        put(writer, "1.md")
        with ThreadPoolExecutor(1) as other, store.steady():
            assert found(store, number("1.md"))[0] == "1.md"
            put(writer, "2.md")
            writer.remove("1.md")
            assert set(found(store, number("1.md"))) == {"1.md"}, "still, and not 2.md"
            assert nearest(store, texts("1.md")[2], 1) == [texts("1.md")[2]]
            assert set(other.submit(found, store, number("2.md")).result()) == {"2.md"}
        assert set(found(store, number("2.md"))) == {"2.md"}


def test_k_live_results_come_however_many_were_removed(store):
    with store.write() as writer:
        put(writer, "大.md", [f"{LAWS[0]}第{at}条" for at in range(60)])
        put(writer, "小.md", [f"{LAWS[0]}附则{at}" for at in range(5)])
        writer.checkpoint()
        writer.remove("大.md")
        assert len(store.search_words(question_terms("带薪年休假"), 5)) == 5
        assert len(store.search_vectors(vector("随便什么"), 5)) == 5
        assert set(found(store, "带薪年休假")) == {"小.md"}
    assert len(store.search_vectors(vector("随便什么"), 50)) == 5


def test_the_same_text_is_stored_and_embedded_once(store):
    with store.write() as writer:
        put(writer, "甲.md", ["相同的段落", "不同的段落"])
        assert writer.missing([text_digest("相同的段落"), text_digest("没有见过")]) == {text_digest("没有见过")}
        put(writer, "乙.md", ["相同的段落"])
        assert store.counts().vectors == 2
        writer.remove("甲.md")
        assert store.counts().vectors == 1, "乙.md still uses it"
        writer.remove("乙.md")
    assert store.counts().vectors == 0


def test_a_vector_that_is_nowhere_or_misshapen_changes_nothing(store):
    made = document("制度.md", ["年假每年十天"])
    digest = text_digest("年假每年十天")
    with store.write() as writer:
        for vectors in ({}, {digest: np.zeros(DIM + 1, np.float32)}, {digest: np.full(DIM, np.nan, np.float32)}):
            with pytest.raises(ValueError, match="vector"):
                writer.put(made, chunks(made), [digest], vectors, stat(made), "folder")
    assert store.documents() == []
    assert verify(store.folder).findings == ()


def test_vectors_come_back_within_half_precision(store):
    with store.write() as writer:
        put(writer, "制度.md")
    ids = [chunk.id for chunk in store.neighbours("制度.md", 0, 9)]
    of = store.vectors([*ids, 999])
    assert set(of) == set(ids)
    for chunk in store.neighbours("制度.md", 0, 9):
        assert of[chunk.id] == pytest.approx(vector(chunk.text), abs=5e-4)


def test_vectors_are_those_of_the_chunks_that_there_are_sealed_or_not(store):
    with store.write() as writer:
        for at in range(12):  # some are sealed, the last ones are not
            put(writer, f"{at}.md")
        writer.remove("3.md")
        writer.remove("11.md")
    there = {chunk.id: chunk.text for at in range(12) for chunk in store.neighbours(f"{at}.md", 0, 9)}
    got = store.vectors(range(100))
    assert set(got) == set(there)
    assert all(np.allclose(got[i], vector(text), atol=1e-3) for i, text in there.items())
    assert len(store._current().tail) < len(there), "else all were in memory"
    assert store.vectors([]) == {}


def test_neighbours_are_the_passages_around_in_reading_order(store):
    with store.write() as writer:
        put(writer, "长.md", [f"第{at}段" for at in range(9)])
        put(writer, "别的.md")
    assert [chunk.text for chunk in store.neighbours("长.md", 3, 5)] == ["第3段", "第4段", "第5段"]
    assert [chunk.ordinal for chunk in store.neighbours("长.md", -1, 1)] == [0, 1]
    assert store.neighbours("没有.md", 0, 9) == []


def test_the_tables_that_hold_a_text_are_the_first_ones_of_the_document(store):
    with store.write() as writer:
        put(
            writer,
            "制度.md",
            ["第一条 总则", "标准见附表一", "附表一\n城市 | 元", "附表1\n城市 | 元", "附表二\n城市 | 元"],
        )
        put(writer, "别的.md", ["附表一\n城市 | 元"])
    assert [chunk.ordinal for chunk in store.tables("制度.md", ["附表一", "附表1"], 9)] == [2, 3]
    assert [chunk.ordinal for chunk in store.tables("制度.md", ["附表一", "附表1"], 1)] == [2]
    assert store.tables("制度.md", ["附表%"], 9) == store.tables("制度.md", [], 9) == []


def test_a_failure_is_remembered_and_takes_the_old_content_away(store):
    with store.write() as writer:
        made = put(writer, "合同.pdf")
        writer.put_failure("合同.pdf", FileStat("cd" * 32, 7, 8), "pdf", "合同.pdf is encrypted", "encrypted", "folder")
    failed = store.document("合同.pdf")
    assert (failed.status, failed.error_kind, failed.chunks) == ("failed", "encrypted", 0)
    assert failed.digest == "cd" * 32
    assert found(store, number("合同.pdf")) == []
    assert (store.counts().documents, store.counts().failed) == (0, 1)
    with store.write() as writer:
        put(writer, "合同.pdf")
    assert (store.document("合同.pdf").status, store.document("合同.pdf").error) == ("indexed", "")
    assert store.document("合同.pdf").digest == made.digest


def test_touching_changes_the_time_and_nothing_else(store):
    with store.write() as writer:
        made = put(writer, "制度.md")
        revision = store.revision
        writer.touch("制度.md", dataclasses.replace(stat(made), mtime_ns=99))
        assert (store.document("制度.md").mtime_ns, store.revision) == (99, revision)
        with pytest.raises(ValueError, match="没有"):
            writer.touch("没有.md", stat(made))


def test_documents_pushed_by_a_program_are_kept_whole(store):
    blocks = (Block("heading", "总则", 1), Block("table", "甲 | 乙\n1 | 2", page=2, header_rows=1), Block("text", "😀"))
    about = {"author": "张三", "year": 2024}
    made = Document("api/说明", "说明", blocks, "ef" * 32, "api", 2, ("一张图没有读",), about)
    with store.write() as writer:
        writer.put(made, [], [], {}, stat(made), "api")
        put(writer, "文件.md")
    assert list(store.api_documents()) == [made]
    assert store.document("api/说明").metadata == about
    assert store.document("api/说明").warnings == ("一张图没有读",)
    with store.write() as writer:
        writer.remove("api/说明")
    assert list(store.api_documents()) == []


@pytest.mark.parametrize("source", ["a'b\"; DROP TABLE chunks;--.md", "报告 (终稿)%20#1?.md", "👩‍👩‍👧/é.md", "a\0b.md"])
def test_any_name_will_do(store, source):
    with store.write() as writer:
        put(writer, source)
    assert [document.source for document in store.documents()] == [source]
    assert found(store, number(source))[0] == source
    assert verify(store.folder).findings == ()


def test_characters_that_cannot_be_stored_fail_that_document_alone(store):
    with store.write() as writer:
        put(writer, "好.md")
        with pytest.raises(DocumentError, match="characters"):
            writer.put(document("坏\udcff.md", []), [], [], {}, FileStat("00", 1, 1), "folder")
        put(writer, "也好.md")
    assert [document.source for document in store.documents()] == ["也好.md", "好.md"]


def test_word_frequencies_count_chunks(store):
    with store.write() as writer:
        put(writer, "甲.md", ["服务器机房的温度", "服务器备份", "年假"])
        assert store.word_frequencies(["服务器", "备份", "没有这词"]) == [2, 1, 0]
    assert store.word_frequencies(["服务器", "备份", "没有这词"]) == [2, 1, 0]
    assert store.chunk_count == 3


def test_a_zero_vector_finds_nothing_and_a_wrong_one_is_refused(store):
    with store.write() as writer:
        put(writer, "制度.md")
    assert store.search_vectors(np.zeros(DIM, np.float32), 5) == []
    assert store.search_vectors(vector("年假"), 0) == []
    with pytest.raises(IndexMismatch, match="--rebuild"):
        store.search_vectors(np.ones(DIM + 1, np.float32), 5)


def test_an_empty_base_answers_nothing(store):
    assert store.search_words(question_terms("年假"), 5) == []
    assert store.search_vectors(vector("年假"), 5) == []
    assert store.counts().chunks == 0
    assert store.word_frequencies(["年假"]) == [0]


def test_a_base_that_is_not_there_is_named(tmp_path):
    assert not Store.exists(tmp_path / "没有")
    with pytest.raises(UnknownKnowledgeBase, match=r"没有.*kbqa ingest"):
        Store.open(tmp_path / "没有")


def test_a_base_is_not_made_over_another_one(store):
    with pytest.raises(KnowledgeBaseError, match="exists already"):
        Store.create(store.folder, PASSPORT)


def test_a_second_writer_is_told_who_is_writing(store):
    with store.write(), pytest.raises(KnowledgeBaseBusy, match=r"制度 is being written by process \d+"), store.write():
        pass
    with store.write() as writer:
        put(writer, "制度.md")


def test_what_was_put_before_an_error_stays(store):
    def write_and_stop():
        with store.write() as writer:
            put(writer, "制度.md")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_stop()
    assert found(store, number("制度.md")) == ["制度.md"]


def test_a_base_deleted_and_made_anew_is_noticed(store, tmp_path):
    with store.write() as writer:
        put(writer, "旧.md")
    assert found(store, number("旧.md")) == ["旧.md"]
    store.folder.rename(tmp_path / "away")
    with pytest.raises(UnknownKnowledgeBase):
        store.search_words(question_terms("年假"), 1)
    with Store.create(tmp_path / "制度", PASSPORT, LOW) as other, other.write() as writer:
        put(writer, "新.md")
    assert found(store, number("旧.md")) == []
    assert found(store, number("新.md"))[0] == "新.md"


def test_many_threads_search_while_one_writes(store):
    problems, done = [], threading.Event()
    with store.write() as writer:
        put(writer, "始.md")

    def search():
        while not done.is_set():
            try:
                assert found(store, number("始.md"))[0] == "始.md"
                assert texts("始.md")[0] in nearest(store, texts("始.md")[0], 3)
            except Exception as error:  # noqa: BLE001 - told below, in the thread that can fail the test
                problems.append(repr(error))
                return

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    with store.write() as writer:
        for at in range(30):
            put(writer, f"{at % 12}.md", [*texts(f"{at}.md"), "共同的一段"])
    done.set()
    for thread in threads:
        thread.join()
    assert problems == []
    assert verify(store.folder).findings == ()


def test_the_catalogue_is_plain_sqlite_that_others_can_read(store):
    with store.write() as writer:
        put(writer, "制度.md", ["年假每年十天"])
    with sqlite3.connect(f"file:{store.folder}/kb.sqlite?mode=ro", uri=True) as connection:
        assert connection.execute("SELECT text FROM chunks").fetchall() == [("年假每年十天",)]
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()
