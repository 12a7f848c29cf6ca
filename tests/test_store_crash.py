"""Other processes, sudden death, damage, full and read-only disks: nothing acknowledged is lost, nothing lies."""

import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from storekit import LOW, PASSPORT, number, put, texts, vector

from kbqa.analyzer import question_terms
from kbqa.errors import KnowledgeBaseBusy, KnowledgeBaseError
from kbqa.store import Store, set_aside, verify
from kbqa.store.connections import Pool

HERE = Path(__file__).parent
REPOSITORY = HERE.parent


def start(folder, *steps, **more):
    command = [sys.executable, str(HERE / "storekit.py"), str(folder), *map(str, steps)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONIOENCODING": "utf-8"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, encoding="utf-8", **more)


@pytest.fixture
def folder(tmp_path):
    Store.create(tmp_path / "制度", PASSPORT, LOW).close()
    return tmp_path / "制度"


def filled(folder, count=20):
    with Store.open(folder, LOW) as store, store.write() as writer:
        for at in range(count):
            put(writer, f"{at}.md")
    return folder


def first_source(store, question):
    found = store.search_words(question_terms(question), 1)
    return store.chunks([found[0][0]])[found[0][0]].source if found else None


def assert_whole(folder, sources):
    """Every one of `sources` is found in both ways by somebody who opens the base, and nothing is wrong with it."""
    with Store.open(folder, LOW) as store:
        assert sources <= {document.source for document in store.documents()}
        for source in sources:
            assert first_source(store, number(source)) == source
            ((nearest, _),) = store.search_vectors(vector(texts(source)[0]), 1)
            assert store.chunks([nearest])[nearest].text == texts(source)[0]
    report = verify(folder)
    assert report.sound, report.findings
    assert all("belongs to nothing" in finding.what for finding in report.findings), report.findings


# --- other processes -------------------------------------------------------------------------------------------------


def test_a_reader_sees_what_another_process_wrote_at_once(folder):
    with Store.open(folder, LOW) as store, start(folder, "hold", stdin=subprocess.PIPE) as other:
        assert other.stdout.readline() == "held\n"
        for source in ("一.md", "二.md", "三.md"):
            other.stdin.write(source + "\n")
            other.stdin.flush()
            assert other.stdout.readline() == source + "\n"
            began = time.monotonic()
            assert first_source(store, number(source)) == source
            assert time.monotonic() - began < 1
        with pytest.raises(KnowledgeBaseBusy, match=f"process {other.pid} "), store.write():
            pass
        other.stdin.close()
        assert other.wait() == 0
        with store.write() as writer:
            writer.remove("二.md")
        assert store.counts().documents == 2


def test_a_reader_goes_on_while_another_process_replaces_merges_and_rebuilds(folder):
    filled(folder, 7)
    with Store.open(folder, LOW) as store:
        for steps in (("churn", 60), ("rebuild", 20)):
            with start(folder, *steps) as other:
                while other.poll() is None:
                    assert len(store.search_words(question_terms("编号"), 3)) == 3
                    assert len(store.search_vectors(vector("任何"), 3)) == 3
                assert other.returncode == 0
        assert {document.source for document in store.documents()} == {f"新{at}.md" for at in range(20)}
        assert first_source(store, number("新3.md")) == "新3.md"


# --- sudden death ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("acks", "pause"), [(1, 0.0), (5, 0.002), (9, 0.01), (14, 0.0), (23, 0.02)])
def test_what_was_acknowledged_survives_a_kill_at_any_moment(folder, acks, pause):
    filled(folder, 6)
    with start(folder, "write", 1000) as other:
        known = {other.stdout.readline().strip() for _ in range(acks)}
        time.sleep(pause)
        other.kill()
        known |= {line.strip() for line in other.stdout if line.endswith("\n")}
    assert other.returncode == -9
    assert len(known) >= acks
    assert_whole(folder, known | {f"{at}.md" for at in range(6)})


@pytest.mark.parametrize("sync", [1, 4, 9, 13, 16, 17, 30, 55])
def test_death_while_indexes_are_brought_to_disk_loses_nothing(folder, sync):
    filled(folder, 6)
    with start(folder, "churn", 1000, "die", sync) as other:
        known = {line.strip() for line in other.stdout if line.endswith("\n")}
    assert other.returncode == -9
    assert known
    with Store.open(folder, LOW) as store:
        for source in known:
            assert first_source(store, number(source)) == source
    assert_whole(folder, {f"{at}.md" for at in range(6)})


@pytest.mark.parametrize("sync", [1, 5, 12, 25])
def test_death_in_a_rebuild_leaves_the_old_base(folder, sync):
    filled(folder, 6)
    with start(folder, "rebuild", 30, "die", sync) as other:
        assert other.wait() == -9
    assert_whole(folder, {f"{at}.md" for at in range(6)})
    with Store.open(folder, LOW) as store, store.write() as writer:
        put(writer, "后来.md")
    assert not list(folder.glob("rebuild*")), "the next writer throws the leftovers away"


def test_a_kill_around_the_switch_gives_the_old_base_or_the_new_one(folder):
    filled(folder, 6)
    for pause in (0.0, 0.003, 0.01):
        with start(folder, "rebuild", 6) as other:
            assert other.stdout.readline() == "built\n"
            time.sleep(pause)
            other.kill()
        with Store.open(folder, LOW) as store:
            sources = {document.source for document in store.documents()}
        assert sources in ({f"{at}.md" for at in range(6)}, {f"新{at}.md" for at in range(6)})
        assert_whole(folder, sources)


# --- damaged files ---------------------------------------------------------------------------------------------------


def spoil(path, how):
    size = path.stat().st_size
    if how == "gone":
        path.unlink()
    elif how == "cut":
        os.truncate(path, size // 2)
    elif how == "empty":
        os.truncate(path, 0)
    else:  # a changed byte
        data = bytearray(path.read_bytes())
        data[size // 2] ^= 0xFF
        path.write_bytes(data)


def derived(folder, kind):
    if kind == "vectors":
        return next(iter((folder / "index").glob("vectors-*.faiss")))
    pattern = "meta.json" if kind == "meta" else "*.idx"
    return max((folder / "index").glob(f"words-*/{pattern}"), key=lambda path: path.stat().st_size)


@pytest.mark.parametrize("how", ["gone", "cut", "empty", "changed"])
@pytest.mark.parametrize("kind", ["vectors", "words", "meta"])
def test_a_damaged_index_is_mended_when_the_base_is_opened(folder, kind, how):
    filled(folder)
    spoil(derived(folder, kind), how)
    with Store.open(folder, LOW) as store:
        assert first_source(store, number("7.md")) == "7.md"
        ((nearest, _),) = store.search_vectors(vector(texts("7.md")[0]), 1)
        assert store.chunks([nearest])[nearest].source == "7.md"
    assert verify(folder).findings == ()


@pytest.mark.parametrize("kind", ["vectors", "words", "meta"])
def test_a_damaged_index_is_made_up_for_while_somebody_else_writes(folder, kind):
    filled(folder)
    with start(folder, "hold", stdin=subprocess.PIPE) as other:
        assert other.stdout.readline() == "held\n"
        spoil(derived(folder, kind), "changed")
        with Store.open(folder, LOW) as store:
            assert_found(store, {f"{at}.md" for at in range(20)})
            other.stdin.write("更多.md\n")
            other.stdin.close()
            assert other.stdout.readline() == "更多.md\n"
            assert_found(store, {"3.md", "更多.md"})
        assert other.wait() == 0
    assert verify(folder).findings == ()


def assert_found(store, sources):
    for source in sources:
        assert first_source(store, number(source)) == source
        ((nearest, _),) = store.search_vectors(vector(texts(source)[0]), 1)
        assert store.chunks([nearest])[nearest].source == source


def test_an_open_reader_follows_when_a_damaged_segment_falls_back_to_the_tail(folder):
    filled(folder, 4)
    with Store.open(folder, LOW) as reader:
        with reader.write() as writer:
            writer.remove("0.md")
            writer.remove("1.md")
        assert_found(reader, {"2.md", "3.md"})
        spoil(derived(folder, "vectors"), "changed")
        with reader.write() as writer:
            put(writer, "后来.md")
        assert not list((folder / "index").glob("vectors-*")), "too few for a segment"
        assert_found(reader, {"2.md", "3.md", "后来.md"})


def test_without_any_index_the_catalogue_suffices(folder):
    filled(folder)
    shutil.rmtree(folder / "index")
    with Store.open(folder, LOW) as store:
        assert_found(store, {f"{at}.md" for at in range(20)})


def read_all(folder):
    with Store.open(folder, LOW) as store:
        store.documents()
        store.chunks(range(100))


@pytest.mark.parametrize("how", ["empty", "cut", "head"])
def test_a_damaged_catalogue_is_told_with_the_remedy_and_can_be_rebuilt(folder, how):
    filled(folder)
    catalogue = folder / "kb.sqlite"
    if how == "head":
        catalogue.write_bytes("这不是数据库".encode() * 50 + catalogue.read_bytes()[900:])
    else:
        spoil(catalogue, how)
    with pytest.raises(KnowledgeBaseError, match=r"kb\.sqlite is damaged.*restore FILE --replace.*--kb 制度 --rebuild"):
        read_all(folder)
    assert verify(folder, mend=False).chunks == 0
    report = verify(folder)
    assert not report.sound
    (finding,) = report.findings
    assert "damaged" in finding.what
    assert "verify" not in finding.what
    assert "\n" not in finding.what
    with Store.rebuild(folder, PASSPORT, LOW) as writer:
        put(writer, "新.md")
    assert_whole(folder, {"新.md"})


@pytest.mark.parametrize("how", ["empty", "cut", "noise", "pages"])
def test_a_damaged_catalogue_can_be_set_aside_and_nothing_is_destroyed(folder, how):
    filled(folder)
    catalogue = folder / "kb.sqlite"
    whole = catalogue.read_bytes()
    noise = random.Random(7).randbytes(len(whole))
    half = len(whole) // 2
    left = {"empty": b"", "cut": whole[:half], "noise": noise, "pages": whole[:8192] + noise[8192:]}[how]
    for again in (1, 2):
        catalogue.write_bytes(left)
        assert set_aside(folder) == folder / f"kb.sqlite.damaged-{again}"
        assert (folder / f"kb.sqlite.damaged-{again}").read_bytes() == left
        with Store.create(folder, PASSPORT, LOW) as store, store.write() as writer:
            put(writer, "新.md")
        assert_whole(folder, {"新.md"})


def test_only_a_damaged_catalogue_is_set_aside(folder):
    assert set_aside(folder) is None
    filled(folder)
    assert set_aside(folder) is None
    with Store.open(folder, LOW) as store, store.write(), pytest.raises(KnowledgeBaseBusy):
        set_aside(folder)
    assert_whole(folder, {f"{at}.md" for at in range(20)})


# --- disks that do not take it ---------------------------------------------------------------------------------------


@contextmanager
def read_only(mounts, folder, where):
    with mounts(where, "--bind", str(folder)):
        subprocess.run(["mount", "-o", "remount,ro,bind", str(where)], check=True)
        yield where


def left_behind(folder, left, damage):
    """A base as its last writer left it, and what it must hold."""
    filled(folder)
    sources = {f"{at}.md" for at in range(20)}
    if left == "killed":
        with start(folder, "write", 1000) as other:
            sources |= {other.stdout.readline().strip() for _ in range(6)}
            other.kill()
    if damage:
        spoil(derived(folder, damage), "changed")
    return sources


@pytest.mark.parametrize("left", ["closed", "killed"])
@pytest.mark.parametrize("damage", ["", "vectors", "words"])
def test_a_base_that_cannot_be_written_is_searched_all_the_same(folder, tmp_path, mounts, left, damage):
    sources = left_behind(folder, left, damage)
    with read_only(mounts, folder, tmp_path / "ro") as where, Store.open(where, LOW) as store:
        assert_found(store, sources)
        with pytest.raises(KnowledgeBaseError, match=r"cannot be written.*right to write"), store.write():
            pass
        assert verify(where, mend=False).documents >= 20


def test_a_reader_that_may_not_write_sees_what_others_write(folder, tmp_path, mounts):
    filled(folder)
    with read_only(mounts, folder, tmp_path / "ro") as where, Store.open(where, LOW) as reader:
        assert_found(reader, {"3.md"})
        with Store.open(folder, LOW) as store, store.write() as writer:
            put(writer, "后来.md")
            assert_found(reader, {"后来.md"})
        assert_found(reader, {"后来.md", "3.md"})


def fill(folder, known):
    with Store.open(folder, LOW) as store, store.write() as writer:
        for at in range(2000):
            put(writer, f"{at}.md")
            known.add(f"{at}.md")


def use_up(disk):
    with suppress(OSError), (disk / "fill").open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


NO_SPACE = "no space left on the device that holds .*制度: free some space and run the command again"


def test_a_disk_that_fills_up_is_told_and_loses_nothing(tmp_path, mounts):
    with mounts(tmp_path / "small", "-t", "tmpfs", "-o", "size=3m", "tmpfs") as disk:
        folder = disk / "制度"
        Store.create(folder, PASSPORT, LOW).close()
        known = set()
        with pytest.raises(KnowledgeBaseError, match=NO_SPACE):
            fill(folder, known)
        assert len(known) > 5
        use_up(disk)
        with Store.open(folder, LOW) as store:
            assert_found(store, known)
        subprocess.run(["mount", "-o", "remount,size=40m", str(disk)], check=True)
        assert_whole(folder, known)
        filled(folder)
        assert verify(folder).findings == ()


def test_a_base_on_a_full_disk_is_searched_and_can_be_deleted(tmp_path, mounts):
    with mounts(tmp_path / "small", "-t", "tmpfs", "-o", "size=9m", "tmpfs") as disk:
        folder = disk / "制度"
        Store.create(folder, PASSPORT, LOW).close()
        filled(folder)
        use_up(disk)
        with Store.open(folder, LOW) as store:
            assert_found(store, {f"{at}.md" for at in range(20)})
            with pytest.raises(KnowledgeBaseError, match=NO_SPACE), store.write():
                pass
            assert verify(folder).findings == ()
            with pytest.raises(KnowledgeBaseError, match="no space left"):
                Store.create(disk / "新", PASSPORT, LOW)
            assert not list(disk.glob("新/*.sqlite"))
            (disk / "fill").unlink()
            with store.write() as writer:  # the reader that did without shared memory is in nobody's way
                put(writer, "后来.md")
            assert_found(store, {"3.md", "后来.md"})


@pytest.mark.parametrize("left", ["closed", "killed"])
@pytest.mark.parametrize("damage", ["", "vectors", "words"])
def test_where_no_file_can_grow_a_base_is_searched_all_the_same(folder, no_file_grows, monkeypatch, left, damage):
    sources = left_behind(folder, left, damage)
    monkeypatch.setattr(tempfile, "tempdir", str(folder / "nowhere"))
    with no_file_grows(16384):
        store = Store.open(folder, LOW)
        assert_found(store, sources)
        with pytest.raises(KnowledgeBaseError, match=r"allows no larger file.*run the command again"), store.write():
            pass
    with store, store.write() as writer:
        put(writer, "后来.md")
        assert_found(store, {"后来.md", *sources})
    assert_whole(folder, sources)


def test_a_reader_without_shared_memory_is_told_when_somebody_wrote_meanwhile(folder, no_file_grows):
    filled(folder)
    count = "SELECT count(*) FROM documents"
    with closing(Pool(folder / "kb.sqlite")) as pool:
        with no_file_grows(16384), pool.reading() as connection:
            assert connection.execute(count).fetchone() == (20,)
        told = pytest.raises(KnowledgeBaseBusy, match="was written to while it was being read; try again")
        with told, pool.reading(), Store.open(folder, LOW) as store, store.write() as writer:
            put(writer, "后来.md")
        with pool.reading() as connection:
            assert connection.execute(count).fetchone() == (21,)
