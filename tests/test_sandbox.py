import json
import os
import subprocess
import sys
import textwrap
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from kbqa.config import SplitterConfig
from kbqa.embedders.static import StaticEmbedder
from kbqa.errors import DocumentError, KbqaError
from kbqa.readers import read
from kbqa.sandbox import Sandbox, read_one, render_page, rendering
from kbqa.sandbox.messages import read_chunks, read_document, read_prepared, read_vectors, write_document, write_vectors
from kbqa.splitter import Splitter
from kbqa.store.lexical import prepare
from kbqa.types import Block, Document

on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux limits a worker's memory")


@pytest.fixture
def file(tmp_path):
    """Writes a file that tells the obedient reader of tests/hostile.py what to do; gives the job."""

    def write(text, name="文件.txt"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path, name

    return write


def sandbox(workers=1, seconds=20.0, memory_mb=2048, **more):
    return Sandbox(workers, seconds, memory_mb, **{"reader": "hostile:obey", **more})


def only(outcomes):
    (outcome,) = outcomes
    return outcome


def test_a_document_arrives_as_it_was_read(tmp_path):
    path = tmp_path / "制度.md"
    path.write_text("# 总则\n\n年假十天。\n\n| 城市 | 上限 |\n| --- | --- |\n| 北京 | 800 |\n", encoding="utf-8")
    with Sandbox(1, 20, 2048) as real:
        outcome = only(real.read_all([(path, "人事/制度.md")]))
    assert outcome.error is None
    assert outcome.document == read(path, "人事/制度.md")
    assert read_one(path) == read(path)


def test_a_missing_file_is_reported_and_read_one_raises(tmp_path):
    with pytest.raises(DocumentError, match=r"没有\.txt: cannot be opened") as caught:
        read_one(tmp_path / "没有.txt")
    assert caught.value.kind == "unreadable"


def test_all_files_come_back_each_once(file):
    jobs = [file(f"内容 {number}", f"{number}.txt") for number in range(40)]
    with sandbox(workers=2) as box:
        found = {outcome.source: outcome.document.text for outcome in box.read_all(jobs)}
    assert found == {f"{number}.txt": f"内容 {number}" for number in range(40)}


def test_a_worker_reads_many_files_and_idle_ones_are_used_again(file):
    with sandbox(workers=4) as box:
        pids = {only(box.read_all([file("pid")])).document.text for _ in range(5)}
    assert len(pids) == 1


def test_jobs_are_taken_only_as_workers_are_free(file):
    taken = []

    def jobs():
        for number in range(50):
            taken.append(number)
            yield file(f"内容 {number}", f"{number}.txt")

    with sandbox(workers=2) as box:
        outcomes = box.read_all(jobs())
        for seen in range(1, 10):
            next(outcomes)
            time.sleep(0.02)  # a caller slower than the workers
            assert len(taken) <= seen + 3
        outcomes.close()
        assert only(box.read_all([file("后来", "后来.txt")])).document.text == "后来"


@pytest.mark.parametrize("text", ["sleep 60", "spin"])
def test_a_file_that_takes_too_long_is_given_up_and_the_rest_is_read(file, text):
    began = time.monotonic()
    with sandbox(seconds=1) as box:
        late, fine = box.read_all([file(text, "慢.pdf"), file("正常", "好.txt")])
    assert (late.source, late.error.kind) == ("慢.pdf", "timeout")
    assert "慢.pdf: reading took longer than 1 s" in str(late.error)
    assert fine.document.text == "正常"
    assert time.monotonic() - began < 15


def test_reported_pages_renew_the_time_limit(file):
    with sandbox(seconds=1.5) as box:
        assert only(box.read_all([file("pages 6 0.5")])).document is not None
        stuck = only(box.read_all([file("pages 2 30")]))
    assert "longer than 1.5 s, at page 1 of 2" in str(stuck.error)


def test_reported_pages_do_not_renew_it_for_ever(file):
    with sandbox(seconds=1, total_seconds=2) as box:
        outcome = only(box.read_all([file("pages 100000 0.2")]))
    assert outcome.error.kind == "timeout"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals of this kind")
@pytest.mark.parametrize(("text", "told"), [("die 11", "signal 11"), ("die 9", "signal 9"), ("exit 3", "exit code 3")])
def test_a_crash_costs_one_file(file, text, told):
    with sandbox() as box:
        before, crash, after = box.read_all([file("前", "前.txt"), file(text, "坏.pdf"), file("后", "后.txt")])
    assert "坏.pdf: the reader crashed" in str(crash.error)
    assert told in str(crash.error)
    assert (before.document.text, after.document.text) == ("前", "后")


@on_linux
def test_a_file_that_eats_memory_is_given_up(file):
    with sandbox(memory_mb=400) as box:
        eater, after = box.read_all([file("grow", "炸弹.xlsx"), file("后", "后.txt")])
    assert eater.error.kind == "memory"
    assert "炸弹.xlsx: reading needs more memory" in str(eater.error)
    assert after.document.text == "后"


def test_errors_keep_their_kind_and_strange_ones_become_errors_of_the_file(file):
    with sandbox() as box:
        refused, failed = box.read_all([file("refuse", "a.txt"), file("raise", "b.txt")])
    assert (str(refused.error), refused.error.kind) == ("a.txt: is refused", "unsupported")
    assert str(failed.error) == "b.txt: the reader failed: ZeroDivisionError: durch null"
    assert failed.error.kind == "malformed"


def test_what_a_parser_prints_disturbs_nothing(file, capfd):
    with sandbox() as box:
        assert only(box.read_all([file("print")])).document is not None
    assert capfd.readouterr().out == ""


def test_a_reply_that_is_no_document_is_refused(file):
    with sandbox(reader="hostile:lie") as box:
        outcome = only(box.read_all([file("x")]))
    assert "something else than a document" in str(outcome.error)


def test_stopping_early_leaves_no_worker_behind(file):
    jobs = [file("pid", "0.txt"), *(file("sleep 60", f"{number}.txt") for number in range(1, 4))]
    with sandbox(workers=2) as box:
        pid = int(next(box.read_all(jobs)).document.text)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_reader_that_cannot_be_imported_is_an_error_of_the_program(file):
    with sandbox(reader="no_such_module:read") as box, pytest.raises(KbqaError, match="workers cannot start"):
        list(box.read_all([file("x")]))


@on_linux
def test_workers_end_with_their_parent(file, tmp_path):
    path, _ = file("pid")
    script = tmp_path / "program.py"
    script.write_text(
        textwrap.dedent(f"""
            import os, sys
            sys.path.insert(0, {str(Path(__file__).parent)!r})
            from pathlib import Path
            from kbqa.sandbox import Sandbox
            box = Sandbox(1, 20, 2048, reader="hostile:obey")
            print(next(box.read_all([(Path({str(path)!r}), "a")])).document.text, flush=True)
            os.kill(os.getpid(), 9)
        """),
        encoding="utf-8",
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, cwd=Path.cwd())
    worker = int(done.stdout)
    for _ in range(100):
        if not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text().split(")")[1][:3]:
            return
        time.sleep(0.1)
    pytest.fail("the worker outlived its parent")


def test_documents_survive_the_journey_as_json():
    document = Document(
        "人事/制度.md",
        "制度",
        (Block("heading", "总则", level=1, page=1), Block("table", "甲 | 乙\n一 | 二", page=2, header_rows=1)),
        digest="ab" * 32,
        reader="pdf",
        pages=2,
        warnings=("page 2 is an image",),
        metadata={"author": "王", "words": 12, "draft": False},
    )
    assert read_document(json.loads(json.dumps(write_document(document))), document.source) == document


@pytest.mark.parametrize("field", ["title", "blocks", "digest", "pages", "warnings", "metadata"])
def test_json_with_a_wrong_field_is_refused(field):
    good = write_document(Document("a", "a", (Block("text", "x"),), digest="0"))
    with pytest.raises((TypeError, ValueError, KeyError)):
        read_document(good | {field: [{"x": {}}]}, "a")


def test_chunks_arrive_as_the_splitter_cut_them(tmp_path):
    rows = "\n".join(f"| 城市{n} | {n * 100} 元 |" for n in range(60))
    path = tmp_path / "差旅.md"
    path.write_text(
        f"# 差旅\n\n{'乘坐高铁二等座。' * 80}\n\n## 住宿\n\n| 城市 | 上限 |\n| --- | --- |\n{rows}\n", encoding="utf-8"
    )
    config = SplitterConfig(size=120)
    with Sandbox(1, 20, 2048, splitter=config) as box:
        outcome = only(box.read_all([(path, "财务/差旅.md")]))
    assert outcome.chunks == Splitter(config).split(read(path, "财务/差旅.md"))
    assert len(outcome.chunks) > 5
    assert outcome.prepared == [prepare(chunk) for chunk in outcome.chunks]
    assert outcome.vectors is None


def test_workers_embed_as_the_built_in_embedder_does(tmp_path):
    path = tmp_path / "年假.md"
    path.write_text("# 年假\n\n员工每年享有十天年假。\n\n## 顺延\n\n未休的可顺延至次年三月。\n", encoding="utf-8")
    with Sandbox(1, 20, 2048, splitter=SplitterConfig(), embedder=StaticEmbedder()) as box:
        outcome = only(box.read_all([(path, "年假.md")]))
    expected = StaticEmbedder().embed_passages([chunk.embedded for chunk in outcome.chunks])
    assert np.array_equal(outcome.vectors, expected)
    assert len(expected) == 2


@pytest.mark.parametrize("wrong", [[], [["甲", 1]], [["甲", 1, "乙", -1, "丙", 1]], [["甲", 1, "乙", "2", "丙", 1]], 7])
def test_terms_that_are_none_are_refused(wrong):
    with pytest.raises((TypeError, ValueError)):
        read_prepared(wrong, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        "???",
        7,
        "AAAA",
        write_vectors(np.ones((2, 3))),
        write_vectors(np.ones((3, 2))),
        write_vectors(np.full((2, 2), np.nan)),
    ],
)
def test_vectors_that_are_none_are_refused(wrong):
    """Also those of another dimension: the store would end the whole run over them, and not the one file."""
    with pytest.raises((TypeError, ValueError)):
        read_vectors(wrong, 2, 2)


@pytest.mark.parametrize(
    "wrong", [[0, 99, "", "", None, []], [2, 1, "", "", None, []], [-1, 2, "", "", None, []], [0, 1, 7, "", None, []],
              [0, 1, "", "", "一", []], [0, 1, "", "", None, [[0]]], [0, 1, "", ""], {}]
)  # fmt: skip
def test_a_chunk_that_is_not_of_the_document_is_refused(wrong):
    document = Document("a", "a", (Block("text", "年假十天"),), digest="0")
    with pytest.raises((TypeError, ValueError, KeyError)):
        read_chunks([wrong], document)


def test_a_worker_imports_nothing_from_the_current_folder(file, tmp_path, monkeypatch):
    """A document share may hold a file that is called like a module."""
    (tmp_path / "json.py").write_text("raise SystemExit(7)", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with sandbox() as box:
        assert only(box.read_all([file("年假十天")])).document.text == "年假十天"


# --- pages as pictures -----------------------------------------------------------------------------------------------


def pdf(folder, lines, **settings):
    canvas = pytest.importorskip("reportlab.pdfgen.canvas")
    path = folder / "报告.pdf"
    page = canvas.Canvas(str(path), pagesize=(400, 200), **settings)
    for place, line in enumerate(lines):
        page.drawString(20, 160 - 30 * place, line)
    page.save()
    return path


def pixels(png):
    """(height, width, 3) of a picture as it is written here: no filter, RGB."""
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    start = png.index(b"IDAT") + 4
    rows = np.frombuffer(zlib.decompressobj().decompress(png[start:]), np.uint8).reshape(height, 1 + 3 * width)
    return rows[:, 1:].reshape(height, width, 3)


def marked(png):
    """The lines on which something is marked, from 0."""
    picture = pixels(png).astype(int)
    found = np.flatnonzero((picture[:, :, 0] - picture[:, :, 2] > 60).any(axis=1))
    return sorted({int(row - 25) // 30 for row in found})


def test_a_passage_is_marked_where_it_stands_on_its_page(tmp_path):
    path = pdf(tmp_path, ["Leave is ten days a year.", "Sick notes", "are due on the third day."])
    assert pixels(render_page(path, 1, "", 400)).shape == (200, 400, 3)
    assert marked(render_page(path, 1, "", 400)) == []
    assert marked(render_page(path, 1, "Leave is ten days a year.", 400)) == [0]
    assert marked(render_page(path, 1, "Sick notes are due on the third day.", 400)) == [1, 2]
    assert marked(render_page(path, 1, "notes | third day", 400)) == [1, 2]
    assert marked(render_page(path, 1, "没有的话", 400)) == []


def test_a_page_that_cannot_be_drawn_says_why(tmp_path):
    path = pdf(tmp_path, ["one page"])
    (tmp_path / "x").mkdir()
    locked = pdf(tmp_path / "x", ["secret"], encrypt="geheim")
    junk = tmp_path / "坏的.pdf"
    junk.write_bytes(b"%PDF-1.7 nothing of the kind")
    for file, page, kind in ((path, 2, "unreadable"), (locked, 1, "encrypted"), (junk, 1, "corrupt")):
        with pytest.raises(DocumentError) as caught:
            render_page(file, page, "", 100)
        assert caught.value.kind == kind
    with pytest.raises(DocumentError, match="takes longer than") as caught:
        render_page(path, 1, "", 100, seconds=0.01)
    assert caught.value.kind == "timeout"


@pytest.mark.parametrize(
    "says",
    [
        "os._exit(3)",
        "os.kill(os.getpid(), 11)",
        "os.write(1, b'png\\nno picture')",
        "os.write(1, b'error\\n[]')",
        "[os.write(1, bytes(1 << 20)) for _ in range(99)]",
    ],
)
def test_a_process_that_is_taken_over_is_not_believed(tmp_path, monkeypatch, says):
    monkeypatch.setattr(rendering, "_PROGRAM", f"import os, sys; sys.stdin.read(); {says}")
    with pytest.raises(DocumentError) as caught:
        render_page(tmp_path / "报告.pdf", 1, "", 100)
    assert caught.value.kind == "crashed"
