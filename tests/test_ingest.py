"""scan and plan decide; Ingestion acts. The command line on top of them has tests of its own."""

import os
import time
from functools import partial
from pathlib import Path

import pytest

from kbqa.build import Installation
from kbqa.config import Config, Home, KnowledgeConfig, SplitterConfig
from kbqa.errors import ConfigError, DocumentError, FolderGone, IndexMismatch, KnowledgeBaseError
from kbqa.ingest import Found, copy_in, plan, scan
from kbqa.sandbox import Sandbox
from kbqa.store import Store, StoredDocument, verify
from kbqa.types import Block, Document


def stored(source, *, size=1, mtime_ns=1, status="indexed", origin="folder", kind=""):
    return StoredDocument(
        source=source,
        title=source,
        digest="d",
        size=size,
        mtime_ns=mtime_ns,
        origin=origin,
        reader="txt",
        status=status,
        error="坏了" if status == "failed" else "",
        error_kind=kind,
        pages=None,
        tables=0,
        chunks=1,
        warnings=(),
        metadata={},
        seconds=0.0,
        added_at=time.time(),
        updated_at=time.time(),
    )


def planned(indexed, found, **options):
    options = {"scope": lambda source: True, "retry": False} | options
    return plan({document.source: document for document in indexed}, found, **options)


def file(size=1, mtime_ns=1, problem=""):
    return Found(Path("x"), size, mtime_ns, problem)


def test_the_plan_adds_updates_and_removes():
    todo = planned(
        [stored("旧.txt"), stored("改.txt"), stored("走.txt")],
        {"旧.txt": file(), "改.txt": file(size=2), "新.txt": file()},
    )
    assert todo.read == ("改.txt", "新.txt")
    assert todo.remove == ("走.txt",)
    assert todo.unchanged == ("旧.txt",)


def test_what_a_program_pushed_is_never_removed_by_mirroring():
    assert planned([stored("推送", origin="api")], {}).remove == ()


def test_what_lies_outside_the_scope_stays():
    todo = planned([stored("甲/一.txt"), stored("乙/二.txt")], {}, scope=lambda source: source.startswith("甲/"))
    assert todo.remove == ("甲/一.txt",)


def test_a_failure_is_remembered_until_the_file_or_the_installation_may_have_changed():
    broken = stored("坏.pdf", status="failed", kind="corrupt")
    scan_without_ocr = stored("扫描.pdf", status="failed", kind="needs-ocr")
    todo = planned([broken, scan_without_ocr], {"坏.pdf": file(), "扫描.pdf": file()})
    assert todo.failed == ("坏.pdf",)
    assert todo.read == ("扫描.pdf",)
    assert planned([broken], {"坏.pdf": file()}, retry=True).read == ("坏.pdf",)


def test_a_file_that_became_unusable_no_longer_answers():
    todo = planned([stored("链接.txt")], {"链接.txt": file(problem="它指向别处")})
    assert todo.skip == ("链接.txt",)
    assert todo.remove == ("链接.txt",)


def test_a_file_changed_just_before_it_was_taken_in_is_looked_at_again():
    now = time.time_ns()
    assert planned([stored("新.txt", mtime_ns=now)], {"新.txt": file(mtime_ns=now)}).read == ("新.txt",)


# --- scan ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "knowledge" / "库"
    folder.mkdir(parents=True)
    return folder


def test_scan_finds_files_in_folders_and_leaves_out_what_is_no_document(folder):
    (folder / "部门 一").mkdir()
    (folder / "部门 一" / "制度😀.txt").write_text("年假十天")
    (folder / ".DS_Store").write_bytes(b"x")
    (folder / "~$制度.docx").write_bytes(b"x")
    (folder / ".git").mkdir()
    (folder / ".git" / "说明.md").write_text("x")
    assert sorted(scan(folder)) == ["部门 一/制度😀.txt"]


def test_a_link_out_of_the_folder_is_a_problem_and_one_inside_is_a_file(folder, tmp_path):
    (tmp_path / "秘密.txt").write_text("口令")
    (folder / "外.txt").symlink_to(tmp_path / "秘密.txt")
    (folder / "里.txt").write_text("年假")
    (folder / "也里.txt").symlink_to(folder / "里.txt")
    found = scan(folder)
    assert "leads out" in found["外.txt"].problem
    assert found["也里.txt"].problem == ""


def test_a_link_to_itself_and_one_to_nothing_stop_no_other_file(folder):
    (folder / "年假.txt").write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    (folder / "环.txt").symlink_to("环.txt")
    (folder / "空.txt").symlink_to("没有.txt")
    found = scan(folder)
    assert not found["年假.txt"].problem
    assert found["环.txt"].problem
    assert found["空.txt"].problem


def test_a_base_may_be_a_link_to_a_share_and_links_in_it_may_not_lead_out_of_that(installation, tmp_path):
    share = tmp_path / "共享" / "制度"
    (share / "部门").mkdir(parents=True)
    (share / "部门" / "年假.txt").write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    (tmp_path / "共享" / "秘密.txt").write_text("口令是芝麻开门。", encoding="utf-8")
    (share / "外.txt").symlink_to(tmp_path / "共享" / "秘密.txt")
    (share / "上级").symlink_to(tmp_path / "共享", target_is_directory=True)
    (share / "也是.txt").symlink_to("部门/年假.txt")
    linked = installation.home.documents("共享库")
    linked.symlink_to(share, target_is_directory=True)
    report = installation.ingest("共享库")
    assert statuses(report) == {
        "部门/年假.txt": "added",
        "也是.txt": "added",
        "外.txt": "skipped",
        "上级": "skipped",
    }
    assert statuses(installation.ingest("共享库", [linked / "部门"])) == {"部门/年假.txt": "unchanged"}
    with pytest.raises(ConfigError, match="not inside"):
        installation.ingest("共享库", [linked / "上级" / "秘密.txt"])


@pytest.mark.parametrize("path", ["../别处.txt", "..", "/etc/passwd"])
def test_paths_out_of_the_folder_are_refused(folder, path):
    with pytest.raises(ConfigError, match="not inside"):
        scan(folder, [folder / path])


def test_a_missing_folder_is_an_error_and_not_an_empty_one(tmp_path):
    with pytest.raises(ConfigError, match="no folder"):
        scan(tmp_path / "没有")


def test_a_folder_that_cannot_be_listed_is_an_error_and_not_an_empty_one(folder, monkeypatch):
    """Its documents would be taken for vanished and removed. Root may list everything, hence the stand-in."""
    (folder / "部门").mkdir()
    listed = os.scandir

    def scandir(path):
        if str(path).endswith("部门"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ConfigError, match="部门 cannot be looked into"):
        scan(folder)


# --- the whole way ---------------------------------------------------------------------------------------------------


@pytest.fixture
def installation(tmp_path, folder):
    return Installation(Home(tmp_path), Config())


def statuses(report):
    return {file.source: file.status for file in report.files}


def sources(installation, question):
    with installation.open("库") as base:
        return [hit.chunk.source for hit in base.search(question).hits]


def settle(folder):
    """Make all files old enough not to be taken for files that may still be changing."""
    for path in folder.rglob("*"):
        os.utime(path, (time.time() - 60, time.time() - 60))


def test_a_folder_is_mirrored(installation, folder):
    (folder / "年假.txt").write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    (folder / "报销.md").write_text("# 差旅\n\n住宿费每天四百二十元。", encoding="gb18030")
    (folder / "坏.pdf").write_bytes(b"not a pdf at all" * 100)
    settle(folder)
    first = installation.ingest("库")
    assert statuses(first) == {"年假.txt": "added", "报销.md": "added", "坏.pdf": "failed"}
    assert next(f for f in first.files if f.source == "坏.pdf").error
    assert sources(installation, "住宿费每天多少？")[0] == "报销.md"
    assert statuses(installation.ingest("库")) == {"年假.txt": "unchanged", "报销.md": "unchanged", "坏.pdf": "failed"}

    (folder / "年假.txt").write_text("员工每年享有十五天带薪年假。", encoding="utf-8")
    (folder / "报销.md").unlink()
    assert statuses(installation.ingest("库")) == {"年假.txt": "updated", "报销.md": "removed", "坏.pdf": "failed"}
    with installation.open("库") as base:
        assert "十五天" in base.search("带薪年假几天").hits[0].chunk.text
    assert sources(installation, "住宿费每天多少") in ([], ["年假.txt"])
    assert verify(installation.home.base("库")).findings == ()


def test_identical_text_under_two_names_is_embedded_once(installation, folder):
    for name in ("甲.txt", "乙.txt"):
        (folder / name).write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    installation.ingest("库")
    with installation.store("库") as store:
        assert store.counts().chunks == 2
        assert store.counts().vectors == 1


@pytest.mark.parametrize(("patience", "longest"), [(0, 1000), (1000, 0)])
def test_what_is_read_does_not_wait_for_a_long_scan_beside_it(folder, tmp_path, monkeypatch, patience, longest):
    monkeypatch.setattr("kbqa.ingest.PATIENCE", patience)
    monkeypatch.setattr("kbqa.ingest.LONGEST", longest)
    monkeypatch.setattr("kbqa.ingest.Sandbox", partial(Sandbox, reader="hostile:obey"))
    asked = tmp_path / "asked"
    (folder / "扫描.txt").write_text(f"await {asked}", encoding="utf-8")
    (folder / "年假.txt").write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    installation = Installation(Home(tmp_path), Config(knowledge=KnowledgeConfig(workers=2, seconds_per_file=20)))

    def ask(report):
        if report.source == "年假.txt":
            assert sources(installation, "带薪年假几天？") == ["年假.txt"]
            asked.touch()

    report = installation.ingest("库", on_file=ask)
    assert statuses(report) == {"年假.txt": "added", "扫描.txt": "added"}


def test_a_touched_file_is_unchanged(installation, folder):
    (folder / "年假.txt").write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    installation.ingest("库")
    settle(folder)
    assert statuses(installation.ingest("库")) == {"年假.txt": "unchanged"}


def test_only_the_named_paths_are_taken_in(installation, folder):
    for name in ("甲.txt", "乙.txt"):
        (folder / name).write_text(f"{name}说明", encoding="utf-8")
    assert statuses(installation.ingest("库", [folder / "甲.txt"])) == {"甲.txt": "added"}
    (folder / "甲.txt").unlink()
    assert statuses(installation.ingest("库", [folder / "甲.txt"])) == {"甲.txt": "removed"}


def test_pushed_documents_survive_mirroring_and_rebuilding(installation, folder, tmp_path):
    (folder / "年假.txt").write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    installation.ingest("库")
    pushed = Document("接口/公告", "公告", (Block("text", "周五停电检修。"),), "0" * 64, "api")
    installation.add_documents("库", [pushed])
    installation.ingest("库")
    assert sources(installation, "哪天停电检修？")[0] == "接口/公告"

    other = Installation(Home(tmp_path), Config(splitter=SplitterConfig(size=100, overlap=10)))
    with pytest.raises(IndexMismatch, match="--rebuild"):
        other.ingest("库")
    assert sources(other, "哪天停电检修？")[0] == "接口/公告"
    report = other.ingest("库", rebuild=True)
    assert statuses(report)["年假.txt"] == "added"
    assert sources(other, "哪天停电检修？")[0] == "接口/公告"
    with Store.open(other.home.base("库")) as store:
        assert store.passport.splitter == other.splitter.fingerprint


def test_a_file_that_became_unreadable_leaves_its_earlier_version_and_says_so(installation, folder):
    path = folder / "年假.html"
    path.write_text("<p>员工每年享有十天带薪年假。</p>", encoding="utf-8")
    installation.ingest("库")
    path.write_bytes(b"%PDF-1.7 half a copy")
    (failed,) = installation.ingest("库").files
    assert failed.status == "failed"
    assert failed.error.endswith("its earlier version still answers")
    assert sources(installation, "带薪年假几天？") == ["年假.html"]
    path.write_bytes(b"")
    installation.ingest("库")
    assert sources(installation, "带薪年假几天？") == []


def test_a_rebuild_that_would_lose_documents_leaves_the_base_as_it_was(installation, folder):
    for name in ("年假.txt", "报销.txt"):
        (folder / name).write_text(f"{name}：员工每年享有十天带薪年假。", encoding="utf-8")
    installation.ingest("库")
    (folder / "报销.txt").write_bytes(b"PK\x03\x04 half a copy")
    with pytest.raises(KnowledgeBaseError, match=r"报销\.txt"):
        installation.ingest("库", rebuild=True)
    for path in folder.iterdir():
        path.unlink()
    (folder / "新的.txt").write_bytes(b"PK\x03\x04 half a copy")
    with pytest.raises(KnowledgeBaseError, match="stays as it was"):
        installation.ingest("库", rebuild=True)
    assert set(sources(installation, "带薪年假几天？")) == {"年假.txt", "报销.txt"}


@pytest.fixture
def two_documents(installation, folder):
    """A base with a document of its folder and one that a program pushed."""
    (folder / "年假.txt").write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    installation.ingest("库")
    installation.add_documents("库", [Document("推送", "推送", (Block("text", "食堂十二点开饭。"),), "1" * 64, "api")])
    return folder


def unmounted(folder):
    folder.rename(folder.with_name("走了"))


def emptied(folder):
    (folder / "年假.txt").unlink()


def left_with_what_nobody_reads(folder):
    (folder / "年假.txt").rename(folder / "年假.xyz")
    (folder / ".DS_Store").touch()


@pytest.mark.parametrize("rebuild", [False, True])
@pytest.mark.parametrize("lost", [unmounted, emptied, left_with_what_nobody_reads])
def test_a_folder_that_has_lost_all_its_documents_at_once_takes_none_from_the_base(
    installation, two_documents, lost, rebuild
):
    lost(two_documents)
    with pytest.raises(FolderGone) as error:
        installation.ingest("库", rebuild=rebuild)
    assert str(two_documents) in str(error.value)
    assert "lose all 1 documents" in str(error.value)
    assert "kbqa kb delete 库" in str(error.value)
    assert sources(installation, "带薪年假几天？") == ["年假.txt", "推送"]


@pytest.mark.parametrize("rebuild", [False, True])
def test_who_says_so_has_a_base_emptied_of_its_files_and_of_nothing_else(installation, two_documents, rebuild):
    emptied(two_documents)
    installation.ingest("库", rebuild=rebuild, allow_empty=True)
    assert sources(installation, "带薪年假几天？食堂几点开饭？") == ["推送"]
    installation.ingest("库")  # it has nothing more to lose


def test_a_folder_whose_last_document_has_another_name_now_is_mirrored(installation, two_documents):
    (two_documents / "年假.txt").rename(two_documents / "休假.txt")
    assert statuses(installation.ingest("库")) == {"年假.txt": "removed", "休假.txt": "added"}


def test_a_rebuild_mends_a_base_that_cannot_be_opened(installation, folder):
    (folder / "年假.txt").write_text("员工每年享有十天带薪年假。", encoding="utf-8")
    installation.ingest("库")
    catalogue = installation.home.base("库") / "kb.sqlite"
    catalogue.write_bytes(b"\x00\x01\x02" * 5000)
    with pytest.raises(KnowledgeBaseError):
        installation.ingest("库")
    installation.ingest("库", rebuild=True)
    assert sources(installation, "带薪年假几天？") == ["年假.txt"]
    assert list(catalogue.parent.glob("kb.sqlite.damaged-*")), "the damaged file is kept"


def test_a_copied_file_never_replaces_another_one_unasked(folder, tmp_path):
    (tmp_path / "制度.txt").write_text("新的")
    (folder / "制度.txt").write_text("旧的")
    with pytest.raises(ConfigError, match="--replace"):
        copy_in([tmp_path / "制度.txt"], folder)
    assert (folder / "制度.txt").read_text() == "旧的"
    copy_in([tmp_path / "制度.txt"], folder, replace_existing=True)
    assert (folder / "制度.txt").read_text() == "新的"


def test_a_copy_that_fails_leaves_nothing_and_names_its_target(tmp_path):
    """The first file fits; of the second, the last bytes are only written when the copy is closed."""
    resource = pytest.importorskip("resource")  # a limit of this process stands in for a full disk
    (tmp_path / "小.txt").write_bytes(b"x" * 10)
    (tmp_path / "大.txt").write_bytes(b"x" * 67_000)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (66_000, before[1]))
    try:
        with pytest.raises(DocumentError, match=r"库/大\.txt: .*nothing was added"):
            copy_in([tmp_path / "小.txt", tmp_path / "大.txt"], tmp_path / "新" / "库")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list((tmp_path / "新").iterdir()) == []


def test_only_files_are_copied(folder, tmp_path):
    with pytest.raises(ConfigError, match=r"is a folder; `kbqa add` takes files"):
        copy_in([tmp_path], folder)
    with pytest.raises(ConfigError, match="there is no file"):
        copy_in([tmp_path / "没有.txt"], folder)
