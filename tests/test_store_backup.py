"""A base as a file and back, a base built anew, and what verify finds and mends."""

import dataclasses
import json
import sqlite3
import zipfile

import numpy as np
import pytest
from storekit import DIM, LOW, PASSPORT, number, put, texts, vector

from kbqa.analyzer import question_terms
from kbqa.errors import IndexMismatch, KnowledgeBaseBusy, KnowledgeBaseError, UnknownKnowledgeBase
from kbqa.store import Store, backup, restore, text_digest, verify


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "制度"
    with Store.create(folder, PASSPORT, LOW) as store, store.write() as writer:
        for at in range(20):
            put(writer, f"{at}.md")
        put(writer, "推送", origin="api")
    return folder


def sources(folder):
    with Store.open(folder, LOW) as store:
        return {document.source for document in store.documents()}


def first_source(store, question):
    found = store.search_words(question_terms(question), 1)
    return store.chunks([found[0][0]])[found[0][0]].source if found else None


def edit(folder, *statements):
    connection = sqlite3.connect(folder / "kb.sqlite", isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


# --- backup and restore ----------------------------------------------------------------------------------------------


def test_a_restored_base_is_the_one_that_was_backed_up(folder, tmp_path):
    backup(folder, tmp_path / "备份.zip")
    restore(tmp_path / "备份.zip", tmp_path / "又一个", limits=LOW)
    assert sources(tmp_path / "又一个") == sources(folder)
    assert verify(tmp_path / "又一个").findings == ()
    with Store.open(tmp_path / "又一个", LOW) as store, Store.open(folder, LOW) as old:
        assert first_source(store, number("5.md")) == "5.md"
        for at in range(20):
            same = vector(texts(f"{at}.md")[1])
            assert store.search_vectors(same, 1)[0][0] == old.search_vectors(same, 1)[0][0]
        assert list(store.api_documents()) == list(old.api_documents())


def test_a_backup_is_taken_while_somebody_writes(folder, tmp_path):
    with Store.open(folder, LOW) as store, store.write() as writer:
        put(writer, "正在写.md")
        backup(folder, tmp_path / "b.zip")
        put(writer, "以后.md")
    restore(tmp_path / "b.zip", tmp_path / "b", limits=LOW)
    assert sources(tmp_path / "b") == sources(folder) - {"以后.md"}


def test_a_backup_never_writes_over_a_file_unless_told(folder, tmp_path):
    (tmp_path / "b.zip").write_text("重要", encoding="utf-8")
    with pytest.raises(KnowledgeBaseError, match=r"b\.zip exists already"):
        backup(folder, tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_text(encoding="utf-8") == "重要"
    backup(folder, tmp_path / "b.zip", overwrite=True)
    assert zipfile.is_zipfile(tmp_path / "b.zip")


def test_a_backup_that_cannot_be_written_leaves_nothing(folder, tmp_path):
    with pytest.raises(KnowledgeBaseError, match="nowhere"):
        backup(folder, tmp_path / "nowhere" / "b.zip")
    with pytest.raises(UnknownKnowledgeBase, match="没有"):
        backup(tmp_path / "没有", tmp_path / "b.zip")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["制度"]


def test_a_base_that_could_not_be_restored_is_not_backed_up(folder, tmp_path):
    catalogue = folder / "kb.sqlite"
    pages = bytearray(catalogue.read_bytes())
    for at in range(20_000, len(pages) - 8192, 8192):
        pages[at : at + 500] = b"\xaa" * 500
    catalogue.write_bytes(pages)
    with pytest.raises(KnowledgeBaseError, match=r"kb\.sqlite is damaged"):
        backup(folder, tmp_path / "备份.zip")
    assert list(tmp_path.iterdir()) == [folder]


def test_restoring_over_a_base_must_be_asked_for_and_open_readers_follow(folder, tmp_path):
    backup(folder, tmp_path / "b.zip")
    with Store.open(folder, LOW) as reader:
        with reader.write() as writer:
            put(writer, "后来.md")
            writer.remove("3.md")
        later = {chunk for chunk, _ in reader.search_words(question_terms(number("后来.md")), 3)}
        with pytest.raises(KnowledgeBaseError, match=r"exists already.*add --replace"):
            restore(tmp_path / "b.zip", folder)
        assert first_source(reader, number("后来.md")) == "后来.md"
        revision = reader.revision
        restore(tmp_path / "b.zip", folder, replace=True, limits=LOW)
        assert first_source(reader, number("3.md")) == "3.md"
        assert "后来.md" not in {document.source for document in reader.documents()}
        assert reader.revision > revision
        with reader.write() as writer:
            put(writer, "新.md")
        newer = {chunk for chunk, _ in reader.search_words(question_terms(number("新.md")), 1)}
        assert not later & newer, "ids given between backup and restore are not given again"
    assert verify(folder).findings == ()


def spoiled(path, target, change):
    """A copy of a zip whose members went through `change(name, data) -> (name, data)`."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(*change(name, old.read(name)))


def flip(name, data):
    if name != "kb.sqlite":
        return name, data
    return name, data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


def longer(name, data):
    return name, data + b"\0" * 8192 if name == "kb.sqlite" else data


def climbing(name, data):
    return ("../../kb.sqlite", data) if name == "kb.sqlite" else (name, data)


def future(name, data):
    if name != "manifest.json":
        return name, data
    return name, json.dumps({**json.loads(data), "format": 99}).encode()


def senseless(name, data):
    return (name, b"[1]") if name == "manifest.json" else (name, data)


@pytest.mark.parametrize("change", [flip, longer, climbing, future, senseless])
def test_a_spoiled_backup_is_refused_and_changes_nothing(folder, tmp_path, change):
    backup(folder, tmp_path / "b.zip")
    spoiled(tmp_path / "b.zip", tmp_path / "spoiled.zip", change)
    before = sources(folder)
    for target in (folder, tmp_path / "neu"):
        with pytest.raises(KnowledgeBaseError, match=r"spoiled\.zip is not a whole backup.*nothing was changed"):
            restore(tmp_path / "spoiled.zip", target, replace=True)
    assert sources(folder) == before
    assert not (tmp_path / "neu").exists()
    assert not (tmp_path.parent / "kb.sqlite").exists()
    assert verify(folder).findings == ()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", "不是压缩包".encode() * 99])
def test_a_file_that_is_no_backup_is_refused(tmp_path, content):
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(KnowledgeBaseError, match=r"b\.zip is not a whole backup"):
        restore(tmp_path / "b.zip", tmp_path / "neu")


def test_some_other_zip_is_no_backup(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as other:
        other.writestr("照片.txt", "假期")
    with pytest.raises(KnowledgeBaseError, match=r"b\.zip is not a backup of kbqa"):
        restore(tmp_path / "b.zip", tmp_path / "neu")
    assert not (tmp_path / "neu").exists()


def test_a_cut_backup_is_refused(folder, tmp_path):
    backup(folder, tmp_path / "b.zip")
    data = (tmp_path / "b.zip").read_bytes()
    (tmp_path / "b.zip").write_bytes(data[: len(data) // 2])
    with pytest.raises(KnowledgeBaseError, match="not a whole backup"):
        restore(tmp_path / "b.zip", folder, replace=True)


def test_a_missing_backup_is_named(tmp_path):
    with pytest.raises(KnowledgeBaseError, match=r"none\.zip"):
        restore(tmp_path / "none.zip", tmp_path / "neu")


# --- rebuild ---------------------------------------------------------------------------------------------------------


def test_the_old_base_answers_until_the_new_one_is_whole(folder):
    with Store.open(folder, LOW) as reader:
        old = {chunk for chunk, _ in reader.search_words(question_terms("编号"), 100)}
        with Store.rebuild(folder, PASSPORT, LOW) as writer:
            for document in reader.api_documents():
                put(writer, document.source, [block.text for block in document.blocks], "api")
            put(writer, "新.md")
            assert first_source(reader, number("7.md")) == "7.md"
            with pytest.raises(KnowledgeBaseBusy), reader.write():
                pass
        assert {document.source for document in reader.documents()} == {"推送", "新.md"}
        assert first_source(reader, number("推送")) == "推送"
        assert reader.search_words(question_terms(number("7.md")), 1) == []
        assert not old & {chunk for chunk, _ in reader.search_words(question_terms("编号"), 100)}
    assert verify(folder).findings == ()


def test_a_rebuild_that_fails_changes_nothing(folder):
    before = sources(folder)

    def rebuild_and_stop():
        with Store.rebuild(folder, PASSPORT, LOW) as writer:
            for at in range(10):
                put(writer, f"新{at}.md")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        rebuild_and_stop()
    assert sources(folder) == before
    assert verify(folder).sound
    assert not list(folder.glob("rebuild*"))


def test_a_rebuild_takes_vectors_over_from_the_same_embedder_only(folder):
    digests = {text_digest(text) for text in texts("3.md")}
    with Store.rebuild(folder, dataclasses.replace(PASSPORT, splitter="splitter-2"), LOW) as writer:
        assert writer.missing(digests) == set()
        put(writer, "3.md")
    with Store.open(folder, LOW) as store:
        assert first_source(store, number("3.md")) == "3.md"
        assert store.passport.splitter == "splitter-2"
    other = dataclasses.replace(PASSPORT, embedder="大模型", embedder_fingerprint="2", dim=DIM + 3)
    with Store.open(folder, LOW) as reader:
        with Store.rebuild(folder, other, LOW) as writer:
            assert writer.missing(digests) == digests
            put(writer, "3.md", dim=DIM + 3)
        with pytest.raises(IndexMismatch, match="大模型"):
            reader.search_vectors(vector("年假"), 3)
        assert len(reader.search_vectors(vector("年假", DIM + 3), 3)) == 3
        assert reader.passport == other
    assert verify(folder).findings == ()


def test_a_base_that_is_not_there_can_be_built_in_one_go(tmp_path):
    with Store.rebuild(tmp_path / "新", PASSPORT, LOW) as writer:
        put(writer, "一.md")
    assert sources(tmp_path / "新") == {"一.md"}


# --- verify ----------------------------------------------------------------------------------------------------------

WRONG = {
    "a chunk is gone": ("DELETE FROM chunks WHERE id = 5", "chunks are recorded", False),
    "a span does not fit": ("UPDATE chunks SET stop = stop + 1 WHERE id = 5", "its span", False),
    "ordinals have a gap": ("UPDATE chunks SET ordinal = 9 WHERE id = 5", "numbered", False),
    "a vector is too short": ("UPDATE vectors SET data = substr(data, 1, 10) WHERE id = 30", "dimensions", False),
    "a vector is not of unit length": (
        f"UPDATE vectors SET data = x'{np.full(DIM, 3, '<f2').tobytes().hex()}' WHERE id = 30", "length", False,
    ),
    "a chunk has no document": ("DELETE FROM documents WHERE source = '4.md'", "is not in documents", False),
    "a vector is unused": (
        f"INSERT INTO vectors (digest, data) VALUES (x'00', x'{bytes(2 * DIM).hex()}')", "belong to no chunk", True,
    ),
    "the count is wrong": ("UPDATE state SET chunks = 7", "7 chunks are counted", True),
    "an index is named that is not there": (
        "UPDATE indexes SET name = 'words-x', files = '{\"words-x/a\": [1, 2]}' WHERE kind = 'words'", "damaged", True,
    ),
    "segments do not cover everything": (
        "DELETE FROM indexes WHERE name = (SELECT name FROM indexes WHERE kind = 'vectors' ORDER BY first LIMIT 1)",
        "in no segment", True,
    ),
    "a segment holds what is gone": (
        "DELETE FROM removed", "do not exist", True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
def test_verify_finds_what_is_wrong_and_mends_what_can_be(folder, wrong):
    statement, told, mendable = WRONG[wrong]
    with Store.open(folder, LOW) as store, store.write() as writer:
        for at in range(20, 30):
            put(writer, f"{at}.md")
        writer.checkpoint()
        writer.remove("0.md")
    assert verify(folder).findings == ()
    edit(folder, statement)
    before = verify(folder, mend=False)
    assert any(told in finding.what for finding in before.findings), before.findings
    assert not before.sound
    report = verify(folder)
    assert report.sound == mendable, report.findings
    assert all("\n" not in finding.what for finding in report.findings)
    if mendable:
        assert verify(folder).findings == ()
        with Store.open(folder, LOW) as store:
            assert first_source(store, number("7.md")) == "7.md"
            assert len(store.search_vectors(vector("x"), 500)) == store.chunk_count


def test_leftovers_are_found_and_thrown_away(folder):
    (folder / "index" / "vectors-old.faiss").write_bytes(b"x")
    (folder / "index" / "words-old").mkdir()
    report = verify(folder)
    assert [finding.mended for finding in report.findings] == [True, True]
    assert not (folder / "index" / "words-old").exists()


def test_a_format_of_another_time_is_told_with_the_remedy(folder):
    edit(folder, "PRAGMA user_version = 99")
    with pytest.raises(IndexMismatch, match=r"format 99.*--rebuild"):
        Store.open(folder, LOW)
    with Store.rebuild(folder, PASSPORT, LOW) as writer:
        put(writer, "新.md")
    assert sources(folder) == {"新.md"}


def test_another_sqlite_file_is_not_taken_for_a_base(tmp_path):
    (tmp_path / "制度").mkdir()
    edit(tmp_path / "制度", "CREATE TABLE t (x)")
    with pytest.raises(KnowledgeBaseError, match="not a catalogue of kbqa"):
        Store.open(tmp_path / "制度")
