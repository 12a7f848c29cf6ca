"""Documents, bases and jobs over HTTP: uploads of all kinds and tricks, and a service that is killed in their midst."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import pytest
from serverkit import serving, wait_until

from kbqa.build import Installation
from kbqa.config import Config, Home
from kbqa.errors import DocumentError, RegistryError
from kbqa.server import auth, runner
from kbqa.server.uploads import as_source, below
from kbqa.store import Store, verify
from kbqa.types import Block, Document

HANDBOOK = "# 员工手册\n\n工作满一年的员工每年享有10天年假。\n".encode()
CANTEEN = "食堂每天早上七点开门，晚上八点关门。".encode()
CARS = "公车由行政部统一调度，私用须经总经理批准。".encode()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    folder = home / "knowledge" / "default"
    folder.mkdir(parents=True)
    (folder / "员工手册.md").write_bytes(HANDBOOK)
    (home / "knowledge" / "waiting").mkdir()
    Installation(Home(home), Config()).ingest("default")
    return home


@pytest.fixture
def home(built, tmp_path):
    shutil.copytree(built, tmp_path / "home")
    return tmp_path / "home"


@pytest.fixture
def service(home, monkeypatch):
    monkeypatch.setenv("KBQA_KNOWLEDGE__WORKERS", "1")  # a second one takes longer to start than small files to read
    with serving(home) as running:
        yield running


def upload(service, *files, kb="default", **params):
    """`files`: name and content of each."""
    form = [("files", (name, content)) for name, content in files]
    return service.http.post(f"/api/v1/kb/{kb}/documents", files=form, params=params)


def ended(http, job, seconds=60):
    """The job, once it has."""
    found = {}

    def over():
        found.update(http.get(f"/api/v1/jobs/{job}").json())
        return found["state"] in ("done", "failed", "cancelled")

    wait_until(over, seconds)
    return found


def taken_in(service, *files, **params):
    """The job of an upload, once it has ended."""
    response = upload(service, *files, **params)
    assert response.status_code == 202, response.text
    return ended(service.http, response.json()["job"]["id"])


def error_of(response, status):
    assert response.status_code == status, response.text
    return response.json()["error"]["type"], response.json()["error"]["message"]


def sources(service, kb="default", **params):
    listed = service.http.get(f"/api/v1/kb/{kb}/documents", params=params).json()
    return [document["source"] for document in listed["documents"]]


def on_disk(home, kb="default"):
    folder = home / "knowledge" / kb
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def many(count):
    return [
        (f"规定{number:04}.txt", f"第{number}号规定：编号{number}的设备由{number}组保管。".encode())
        for number in range(count)
    ]


@contextmanager
def written_by_somebody_else(home, kb="default"):
    with Installation(Home(home), Config()).store(kb) as store, store.write():
        yield


# --- uploads ---------------------------------------------------------------------------------------------------------


def test_files_of_all_kinds_are_taken_in_and_a_broken_one_says_why(service, home):
    response = upload(
        service,
        ("食堂.txt", CANTEEN),
        ("设备.csv", "名称,单价\n激光测微仪,4200元\n".encode()),
        ("公告/2026/放假.html", "<h1>放假</h1><p>春节放假八天。</p><script>alert(1)</script>".encode()),
        ("坏的.pdf", b"%PDF-1.7 nothing of the kind"),
        ("空的.md", b""),
    )
    assert response.status_code == 202
    told = response.json()
    assert [file["source"] for file in told["accepted"]] == [
        "食堂.txt",
        "设备.csv",
        "公告/2026/放假.html",
        "坏的.pdf",
        "空的.md",
    ]
    assert told["rejected"] == []
    assert (told["job"]["state"], told["job"]["base"]) == ("queued", "default")
    job = ended(service.http, told["job"]["id"])
    at = time.monotonic()
    assert service.ask("食堂几点开门？").json()["citations"][0]["source"] == "食堂.txt"
    assert time.monotonic() - at < 1
    assert service.ask("激光测微仪的单价是多少？").json()["citations"][0]["source"] == "设备.csv"
    assert job["state"] == "done"
    assert job["error"] is None
    status = {file["source"]: (file["status"], file["error"]) for file in job["files"]}
    assert [status[name][0] for name in ("食堂.txt", "设备.csv", "公告/2026/放假.html")] == ["added"] * 3
    assert status["坏的.pdf"][0] == "failed"
    assert "坏的.pdf" in status["坏的.pdf"][1]
    assert status["空的.md"][0] == "failed"
    kinds = {file["source"]: file["error_kind"] for file in job["files"]}
    assert [kinds[name] for name in ("食堂.txt", "坏的.pdf", "空的.md")] == ["", "corrupt", "empty"]
    assert job["progress"]["counts"] == {"added": 3, "failed": 2}
    assert job["progress"]["current"] == ""
    assert (job["progress"]["done"], job["progress"]["total"]) == (5, 5)
    assert on_disk(home) == ["公告/2026/放假.html", "员工手册.md", "坏的.pdf", "空的.md", "设备.csv", "食堂.txt"]


def test_a_document_is_listed_with_what_became_of_it(service):
    taken_in(service, ("食堂.txt", CANTEEN), ("坏的.docx", b"PK\x03\x04broken"))
    assert sources(service) == ["员工手册.md", "坏的.docx", "食堂.txt"]
    assert sources(service, status="failed") == ["坏的.docx"]
    assert sources(service, contains="食堂") == ["食堂.txt"]
    shown = service.http.get("/api/v1/kb/default/documents/食堂.txt").json()
    assert (shown["status"], shown["chunks"], shown["bytes"], shown["error"]) == ("indexed", 1, len(CANTEEN), "")
    assert shown["added_at"].startswith("20")
    broken = service.http.get("/api/v1/kb/default/documents/坏的.docx").json()
    assert (broken["status"], broken["chunks"]) == ("failed", 0)
    assert broken["error"]
    assert broken["error_kind"] == "corrupt"
    assert error_of(service.http.get("/api/v1/kb/default/documents/nix.md"), 404)[0] == "NotFound"


def test_a_thousand_small_files_are_listed_page_by_page(service):
    job = taken_in(service, *many(1000))
    assert job["progress"]["counts"] == {"added": 1000}
    assert len(job["files"]) == 1000
    first = service.http.get("/api/v1/kb/default/documents", params={"limit": 400}).json()
    assert (first["total"], len(first["documents"])) == (1001, 400)
    pages = [sources(service, limit=400, offset=offset) for offset in (0, 400, 800, 1200)]
    assert sorted(name for page in pages for name in page) == sorted([*dict(many(1000)), "员工手册.md"])
    assert pages[3] == []
    assert len(service.http.get(f"/api/v1/jobs/{job['id']}", params={"limit": 10, "offset": 995}).json()["files"]) == 5
    assert service.ask("编号777的设备由哪个组保管？").json()["citations"][0]["source"] == "规定0777.txt"


def test_uploads_at_the_same_time_do_not_mix(service, home):
    files = [(f"部门{number}.txt", f"部门{number}的电话是{number:04}。".encode() * 2000) for number in range(4)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(
                lambda file: httpx.post(f"{service.url}/api/v1/kb/default/documents", files={"files": file}), files
            )
        )
    assert [answer.status_code for answer in answers] == [202] * 4
    for answer in answers:
        assert ended(service.http, answer.json()["job"]["id"])["state"] == "done"
    for name, content in files:
        assert (home / "knowledge" / "default" / name).read_bytes() == content
    assert len(sources(service)) == 5


def test_of_two_files_of_one_name_at_the_same_time_one_is_whole_and_the_other_is_told(service, home):
    contents = [b"a" * 300_000, b"b" * 300_000]
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(
                lambda content: httpx.post(
                    f"{service.url}/api/v1/kb/default/documents", files={"files": ("同名.txt", content)}
                ),
                contents,
            )
        )
    assert sorted(answer.status_code for answer in answers) == [202, 422]
    assert (home / "knowledge" / "default" / "同名.txt").read_bytes() in contents


def test_another_file_is_replaced_only_if_that_is_said(service, home):
    refused = upload(service, ("员工手册.md", "# 员工手册\n\n每年享有15天年假。\n".encode()))
    message = error_of(refused, 422)[1]
    assert "员工手册.md exists and is another file" in message
    assert "?replace=true" in message
    assert (home / "knowledge" / "default" / "员工手册.md").read_bytes() == HANDBOOK
    assert taken_in(service, ("员工手册.md", HANDBOOK))["files"][0]["status"] == "unchanged"
    job = taken_in(
        service, ("员工手册.md", "# 员工手册\n\n工作满一年的员工每年享有15天年假。\n".encode()), replace=True
    )
    assert job["files"][0]["status"] == "updated"
    assert "15天" in service.ask("年假有几天？").json()["answer"]


def test_a_name_that_leads_elsewhere_is_rejected_alone(service, home, tmp_path):
    names = [
        "../../出去.md",
        "/etc/绝对.md",
        "C:盘.md",
        "a/../../b.md",
        "..\\..\\c.md",
        "nul.md",
        "aux/d.md",
        ".隐藏.md",
        "病毒.exe",
        "~$lock.docx",
    ]
    response = upload(service, ("好的.md", CARS), *((name, b"x") for name in names), ("制度//e.md", b"x"))
    told = response.json()
    assert [file["source"] for file in told["accepted"]] == ["好的.md"]
    assert [file["name"] for file in told["rejected"]] == [*names, "制度//e.md"]
    assert all(file["error"] for file in told["rejected"])
    kinds = [*["name"] * 7, "hidden", "unsupported", "hidden", "name"]
    assert [file["error_kind"] for file in told["rejected"]] == kinds
    assert ended(service.http, told["job"]["id"])["state"] == "done"
    assert on_disk(home) == ["员工手册.md", "好的.md"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home"]


def test_where_every_name_is_rejected_nothing_happens(service):
    response = upload(service, ("../a.md", b"x"), ("b.exe", b"x"))
    kind, message = error_of(response, 422)
    assert kind == "Unprocessable"
    told = response.json()["error"]["rejected"]
    assert [(file["name"], file["error_kind"]) for file in told] == [("../a.md", "name"), ("b.exe", "unsupported")]
    assert "does not read .exe" in told[1]["error"]
    assert "'../a.md'" in message
    assert "(and 1 more)" in message
    assert service.http.get("/api/v1/jobs").json()["total"] == 0


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("手册.md", "手册.md"),
        ("制度\\2026\\手册.md", "制度/2026/手册.md"),
        ("问题?<1>.md", "问题__1_.md"),
        ("cafe\u0301.md", "caf\u00e9.md"),
        ("\u202efdp.手册.md", "fdp.手册.md"),
        ("说明 .md", "说明 .md"),
        ("结尾点. /a.md", "结尾点/a.md"),
        ("全角　空格.md", "全角　空格.md"),
    ],
)
def test_a_name_is_made_one_that_every_system_can_hold(name, source):
    assert as_source(name) == source


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "a/",
        "/a.md",
        "//host/a.md",
        "C:a.md",
        "a\0.md",
        "a\n.md",
        "\ud800.md",
        "长" * 100 + ".md",
        "a/" * 17 + "b.md",
        "con.md",
        "COM1.txt",
        "a/prn/b.md",
        "Thumbs.db",
        "无后缀",
        "\u200b/a.md",
        "坏\ufffd.md",
    ],
)
def test_a_name_that_cannot_be_a_documents_is_refused(name):
    with pytest.raises(DocumentError):
        as_source(name)


def test_a_link_that_leads_out_of_the_base_is_no_way_out(service, home, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.md").write_text("secret")
    folder = home / "knowledge" / "default"
    (folder / "link").symlink_to(outside)
    (folder / "file.md").symlink_to(outside / "secret.md")
    assert "leads out" in error_of(upload(service, ("link/a.md", b"x")), 422)[1]
    assert error_of(service.http.get("/api/v1/kb/default/files/link/secret.md"), 404)
    assert error_of(service.http.get("/api/v1/kb/default/files/file.md"), 404)
    assert error_of(service.http.delete("/api/v1/kb/default/documents/link/secret.md"), 404)
    assert [path.name for path in outside.iterdir()] == ["secret.md"]
    assert below(folder, "link/secret.md") is None
    assert below(folder, "员工手册.md") == folder / "员工手册.md"


def test_what_is_too_large_is_refused_and_leaves_nothing_behind(home):
    with serving(home, max_upload_mb=1, max_upload_total_mb=3, max_upload_files=5) as service:
        message = error_of(upload(service, ("好.md", CARS), ("大.txt", b"x" * (2**20 + 1))), 413)[1]
        assert "大.txt is larger than 1 MiB (server.max_upload_mb)" in message
        assert "more than 5 files" in error_of(upload(service, *many(6)), 413)[1]
        assert "larger than 3 MiB" in error_of(upload(service, *((f"{n}.txt", b"x" * 2**20) for n in range(4))), 413)[1]
        with socket.create_connection(("127.0.0.1", service.http.base_url.port), timeout=10) as raw:
            raw.sendall(
                b"POST /api/v1/kb/default/documents HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 2147483648\r\n\r\n--x\r\n"
            )
            assert raw.recv(4096).startswith(b"HTTP/1.1 413")
        assert on_disk(home) == ["员工手册.md"]
        assert not list((home / "knowledge" / "default").glob(".uploading-*"))
        assert upload(service, ("好.md", CARS)).status_code == 202


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("application/json", b"{}", "send the files as multipart/form-data"),
        ("multipart/form-data", b"", "send the files as multipart/form-data"),
        ("multipart/form-data; boundary=x", b"", "in the midst of the form"),
        ("multipart/form-data; boundary=x", b"nonsense", "no multipart form"),
        ("multipart/form-data; boundary=x", b"--x--\r\n", "no file"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--x--\r\n',
            "no file",
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.md"\r\n\r\nhalf',
            "in the midst of the form",
        ),
        ("multipart/form-data; boundary=" + "x" * 300, b"--x", "no multipart form"),
    ],
)
def test_a_body_that_is_no_form_with_files_says_so(service, home, content_type, body, said):
    response = service.http.post("/api/v1/kb/default/documents", content=body, headers={"Content-Type": content_type})
    assert said in error_of(response, 400)[1]
    assert on_disk(home) == ["员工手册.md"]


def test_a_name_in_the_encoding_of_an_old_chinese_windows_is_understood(service):
    body = (
        b'--x\r\nContent-Disposition: form-data; name="files"; filename="'
        + "制度.txt".encode("gbk")
        + b'"\r\n\r\n'
        + CARS
        + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = service.http.post("/api/v1/kb/default/documents", content=body, headers=headers)
    assert response.json()["accepted"] == [{"name": "制度.txt", "source": "制度.txt"}]


def test_a_client_that_goes_in_the_middle_of_an_upload_leaves_nothing_behind(service, home):
    with socket.create_connection(("127.0.0.1", service.http.base_url.port), timeout=10) as raw:
        raw.sendall(
            b"POST /api/v1/kb/default/documents HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.md"\r\n\r\n' + b"y" * 400_000
        )
        wait_until(lambda: list((home / "knowledge" / "default").glob(".uploading-*")))
    wait_until(lambda: not list((home / "knowledge" / "default").glob(".uploading-*")))
    assert on_disk(home) == ["员工手册.md"]


# --- what goes out ---------------------------------------------------------------------------------------------------


def test_a_file_is_given_to_be_saved_and_never_to_be_shown(service):
    page = "<script>alert(document.cookie)</script>年假".encode()
    taken_in(service, ("公告/页面.html", page))
    got = service.http.get("/api/v1/kb/default/files/公告/页面.html")
    assert (got.status_code, got.content) == (200, page)
    assert got.headers["content-type"] == "application/octet-stream"
    assert got.headers["content-disposition"].startswith("attachment; filename*=")
    assert got.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in got.headers["content-security-policy"]
    part = service.http.get("/api/v1/kb/default/files/员工手册.md", headers={"Range": "bytes=0-1"})
    assert (part.status_code, part.content) == (206, b"# ")


@pytest.mark.parametrize(
    "source",
    [
        "nix.md",
        "..%2f..%2fconfig.yaml",
        "%2e%2e/%2e%2e/vectorstore/kbqa.sqlite",
        "%2fetc%2fpasswd",
        "a%00b",
        "..%5c..%5cx",
        "a" * 300 + ".md",
        "x" * 5000,
        ".hidden.md",
    ],
)
def test_what_is_not_below_the_base_is_not_given_out(service, home, source):
    (home / "config.yaml").write_text("")
    (home / "knowledge" / "default" / ".hidden.md").write_text("secret")
    for method in ("GET", "DELETE"):
        path = f"/api/v1/kb/default/{'files' if method == 'GET' else 'documents'}/{source}"
        assert service.http.request(method, path).status_code == 404
    assert (home / "config.yaml").exists()


def test_a_document_that_is_removed_is_not_found_any_more(service, home):
    taken_in(service, ("公告/食堂.txt", CANTEEN))
    assert service.ask("食堂几点开门？").json()["grounded"]
    gone = service.http.delete("/api/v1/kb/default/documents/公告/食堂.txt")
    assert (gone.status_code, gone.json()) == (200, {"source": "公告/食堂.txt", "removed": True, "job": None})
    assert not service.ask("食堂几点开门？").json()["grounded"]
    assert service.search("食堂").json()["hits"] == [] or "食堂" not in service.search("食堂").text.partition("hits")[2]
    assert sources(service) == on_disk(home) == ["员工手册.md"]
    assert not (home / "knowledge" / "default" / "公告").exists()
    assert error_of(service.http.delete("/api/v1/kb/default/documents/公告/食堂.txt"), 404)


def test_a_document_that_a_program_pushed_is_removed_too(service, home):
    pushed = Document("推送.txt", "推送", (Block("text", CANTEEN.decode()),), "1")
    Installation(Home(home), Config()).add_documents("default", [pushed])
    assert service.ask("食堂几点开门？").json()["grounded"]
    assert service.http.delete("/api/v1/kb/default/documents/推送.txt").json()["removed"]
    assert not service.ask("食堂几点开门？").json()["grounded"]


def test_a_document_is_removed_by_a_job_while_the_base_is_being_written(service, home):
    taken_in(service, ("食堂.txt", CANTEEN))
    with written_by_somebody_else(home):
        gone = service.http.delete("/api/v1/kb/default/documents/食堂.txt")
        assert (gone.status_code, gone.json()["removed"]) == (202, False)
        assert not (home / "knowledge" / "default" / "食堂.txt").exists()
        job = gone.json()["job"]["id"]
        wait_until(lambda: "is being written by process" in service.http.get(f"/api/v1/jobs/{job}").json()["note"])
    done = ended(service.http, job)
    assert (done["state"], done["note"]) == ("done", "")
    assert [(file["source"], file["status"]) for file in done["files"]] == [("食堂.txt", "removed")]
    assert not service.ask("食堂几点开门？").json()["grounded"]


def test_a_removal_in_whose_midst_the_service_is_killed_is_done_when_it_is_there_again(home, monkeypatch):
    (home / "knowledge" / "default" / "食堂.txt").write_bytes(CANTEEN)
    Installation(Home(home), Config()).ingest("default")

    def killed(*arguments):
        raise ZeroDivisionError

    with serving(home) as service:
        service.service.runner.stop()
        with monkeypatch.context() as patched:
            patched.setattr(Store, "write", killed)
            assert service.http.delete("/api/v1/kb/default/documents/食堂.txt").status_code == 500
        assert (on_disk(home), sources(service)) == (["员工手册.md"], ["员工手册.md", "食堂.txt"])
    (home / "config.yaml").write_text("server: {}", encoding="utf-8")
    with serving(home) as again:
        (home / "config.yaml").write_text("broken: [", encoding="utf-8")
        wait_until(lambda: sources(again) == ["员工手册.md"])
        (job,) = again.http.get("/api/v1/jobs").json()["jobs"]
        assert (job["kind"], ended(again.http, job["id"])["state"]) == ("remove", "done")


def test_a_removal_that_did_not_come_to_its_file_changes_nothing(service, home):
    """Killed before that, or somebody has sent a file of that name again."""
    job = service.service.jobs.add("default", "remove", "x", ["员工手册.md"])
    done = ended(service.http, job.id)
    assert [(file["status"], file["error"]) for file in done["files"]] == [("skipped", "a file of that name is there")]
    assert service.ask("年假有几天？").json()["grounded"]


def test_a_removal_that_cannot_be_written_down_changes_nothing(service, home, monkeypatch):
    def full(*arguments):
        raise RegistryError("kbqa.sqlite cannot grow")

    monkeypatch.setattr(service.service.jobs, "add", full)
    error_of(service.http.delete("/api/v1/kb/default/documents/员工手册.md"), 503)
    assert on_disk(home) == sources(service) == ["员工手册.md"]


def test_a_removal_that_is_done_at_once_leaves_no_job_behind(service):
    service.service.runner.stop()
    assert service.http.delete("/api/v1/kb/default/documents/员工手册.md").json()["removed"]
    assert service.http.get("/api/v1/jobs").json()["total"] == 0


# --- bases -----------------------------------------------------------------------------------------------------------


def test_a_base_is_made_filled_and_deleted(service, home):
    made = service.post("/api/v1/kb", {"name": "车辆 制度"})
    assert (made.status_code, made.json()["name"], made.json()["documents"]) == (201, "车辆 制度", 0)
    assert sources(service, "车辆 制度") == []
    assert not service.ask("公车私用要谁批准？", "车辆 制度").json()["grounded"]
    assert taken_in(service, ("公车.md", CARS), kb="车辆 制度")["state"] == "done"
    assert service.ask("公车私用要谁批准？", "车辆 制度").json()["grounded"]
    assert error_of(service.post("/api/v1/kb", {"name": "车辆 制度"}), 409)[0] == "Conflict"
    assert service.http.delete("/api/v1/kb/车辆 制度").json() == {"deleted": "车辆 制度", "files_deleted": False}
    assert error_of(service.ask("公车私用要谁批准？", "车辆 制度"), 404)
    assert on_disk(home, "车辆 制度") == ["公车.md"], "the documents stay"
    assert "has documents" in error_of(service.post("/api/v1/kb", {"name": "车辆 制度"}), 409)[1].replace(
        "with documents", "has documents"
    )
    assert service.http.delete("/api/v1/kb/车辆 制度", params={"files": True}).json()["files_deleted"]
    assert not (home / "knowledge" / "车辆 制度").exists()
    assert error_of(service.http.delete("/api/v1/kb/车辆 制度"), 404)
    assert [base["name"] for base in service.http.get("/api/v1/kb").json()["bases"]] == ["default", "waiting"]


@pytest.mark.parametrize("name", ["", "..", "a/b", "con", ".hidden", "长" * 100, "a\0b", "\ud800"])
def test_a_base_of_an_impossible_name_is_not_made(service, home, name):
    assert error_of(service.post("/api/v1/kb", {"name": name}), 422)
    assert sorted(path.name for path in (home / "knowledge").iterdir()) == ["default", "waiting"]


def test_the_folder_is_mirrored_and_a_base_rebuilt_by_jobs(service, home):
    folder = home / "knowledge" / "default"
    (folder / "食堂.txt").write_bytes(CANTEEN)
    os.utime(folder / "食堂.txt", (1e9, 1e9))  # one that is as young as what is known of it would be read again
    (folder / "员工手册.md").unlink()
    job = ended(service.http, service.http.post("/api/v1/kb/default/ingest").json()["id"])
    assert {file["source"]: file["status"] for file in job["files"]} == {"食堂.txt": "added", "员工手册.md": "removed"}
    job = ended(service.http, service.http.post("/api/v1/kb/default/rebuild").json()["id"])
    assert (job["state"], job["kind"], job["progress"]["counts"]) == ("done", "rebuild", {"added": 1})
    assert service.ask("食堂几点开门？").json()["grounded"]
    again = ended(service.http, service.http.post("/api/v1/kb/default/ingest").json()["id"])
    assert (again["files"], again["progress"]["done"]) == ([], again["progress"]["counts"]["unchanged"])


def test_a_base_that_was_never_built_is_built_by_the_first_upload(service):
    assert taken_in(service, ("公车.md", CARS), kb="waiting")["state"] == "done"
    assert service.ask("公车私用要谁批准？", "waiting").json()["grounded"]


def test_a_folder_that_lost_everything_is_not_mirrored_unless_that_is_said(service, home):
    (home / "knowledge" / "default" / "员工手册.md").unlink()
    job = ended(service.http, service.http.post("/api/v1/kb/default/ingest").json()["id"])
    assert (job["state"], job["error"]["type"]) == ("failed", "FolderGone")
    assert service.ask("年假有几天？").json()["grounded"]
    response = service.http.post("/api/v1/kb/default/ingest", params={"allow_empty": True})
    assert ended(service.http, response.json()["id"])["state"] == "done"
    assert not service.ask("年假有几天？").json()["grounded"]


def test_a_base_that_does_not_exist_takes_nothing_in(service, home):
    for response in (
        upload(service, ("a.md", b"x"), kb="nix"),
        service.http.get("/api/v1/kb/nix/documents"),
        service.http.delete("/api/v1/kb/nix/documents/a.md"),
        service.http.get("/api/v1/kb/nix/files/a.md"),
        service.http.post("/api/v1/kb/nix/ingest"),
        service.http.post("/api/v1/kb/nix/rebuild"),
        service.http.delete("/api/v1/kb/nix"),
        upload(service, ("a.md", b"x"), kb="con"),
    ):
        assert error_of(response, 404)[0] == "UnknownKnowledgeBase"
    assert not (home / "knowledge" / "nix").exists()


# --- keys ------------------------------------------------------------------------------------------------------------


def test_each_key_may_what_its_scope_says(home, monkeypatch):
    monkeypatch.setattr(auth, "FRESH", 0.0)
    with serving(home) as service:
        ring = service.service.keys
        keys = {scope: service.with_key(ring.add(scope, scope).secret) for scope in ("read", "write", "admin")}
        other = service.with_key(ring.add("other", "admin", bases=["waiting"]).secret)
        job = taken_in(keys["write"], ("食堂.txt", CANTEEN))
        assert job["by"] == "write"
        needs = {
            "read": [
                ("GET", "/kb/default/documents"),
                ("GET", "/kb/default/documents/食堂.txt"),
                ("GET", "/kb/default/files/食堂.txt"),
                ("GET", f"/jobs/{job['id']}"),
            ],
            "write": [
                ("POST", "/kb/default/documents"),
                ("POST", "/kb/default/ingest"),
                ("DELETE", f"/jobs/{job['id']}"),
                ("DELETE", "/kb/default/documents/nix.md"),
            ],
            "admin": [("POST", "/kb/default/rebuild"), ("DELETE", "/kb/default"), ("POST", "/kb")],
        }
        order = ["read", "write", "admin"]
        for scope, requests in needs.items():
            for method, path in requests:
                for name, caller in keys.items():
                    if path in ("/kb/default", "/kb/default/rebuild") and name == "admin":
                        continue
                    status = caller.http.request(method, f"/api/v1{path}").status_code
                    assert (status == 403) is (order.index(name) < order.index(scope)), (method, path, name, status)
                if path not in ("/kb",):
                    assert other.http.request(method, f"/api/v1{path}").status_code in (403, 404), (method, path)
        assert other.http.get("/api/v1/jobs").json()["total"] == 0
        assert keys["read"].http.get("/api/v1/jobs").json()["total"] > 0
        assert error_of(other.post("/api/v1/kb", {"name": "mine"}), 403)
        assert error_of(service.http.get("/api/v1/jobs"), 401)


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_job_that_is_cancelled_stops_and_what_it_has_done_stays(service, home):
    for name, content in many(1200):
        (home / "knowledge" / "default" / name).write_bytes(content * 20)
    job = service.http.post("/api/v1/kb/default/ingest").json()["id"]
    wait_until(lambda: service.http.get(f"/api/v1/jobs/{job}").json()["progress"]["done"] > 5, 60)
    cancelling = service.http.delete(f"/api/v1/jobs/{job}").json()
    assert cancelling["cancelling"]
    done = ended(service.http, job)
    assert done["state"] == "cancelled"
    figure = b'kbqa_jobs_total{kind="ingest",state="cancelled"} 1.0'
    wait_until(lambda: figure in service.http.get("/metrics").content)
    added = done["progress"]["counts"]["added"]
    assert 0 < added < 1200
    assert service.http.get("/api/v1/kb/default").json()["documents"] >= added
    assert service.ask("年假有几天？").json()["grounded"]
    assert "cancelled" in {
        file["status"] for file in service.http.get(f"/api/v1/jobs/{job}?limit=10000").json()["files"]
    }
    assert service.http.delete(f"/api/v1/jobs/{job}").json()["state"] == "cancelled"
    assert verify(home / "vectorstore" / "default").sound


def test_a_job_that_waits_for_its_turn_is_cancelled_at_once(service, home):
    with written_by_somebody_else(home):
        first = service.http.post("/api/v1/kb/default/ingest").json()["id"]
        second = service.http.post("/api/v1/kb/default/ingest").json()["id"]
        wait_until(lambda: service.http.get(f"/api/v1/jobs/{first}").json()["note"])
        assert service.http.delete(f"/api/v1/jobs/{second}").json()["state"] == "cancelled"
        service.http.delete(f"/api/v1/jobs/{first}")
        assert ended(service.http, first)["state"] == "cancelled"
    assert error_of(service.http.get("/api/v1/jobs/nix"), 404)[0] == "UnknownJob"
    assert [job["id"] for job in service.http.get("/api/v1/jobs", params={"state": "cancelled"}).json()["jobs"]] == [
        second,
        first,
    ]


def test_many_uploads_of_one_file_each_are_taken_in_together(service, home):
    with written_by_somebody_else(home):
        told = [upload(service, (name, content)).json()["job"]["id"] for name, content in many(12)]
        wait_until(lambda: service.http.get(f"/api/v1/jobs/{told[0]}").json()["note"])
        gone = told.pop(5)
        assert service.http.delete(f"/api/v1/jobs/{gone}").status_code == 200
    done = [ended(service.http, job) for job in told]
    assert [job["state"] for job in done] == ["done"] * 11
    assert all(
        job["progress"] | {"current": ""} == {"total": 1, "done": 1, "current": "", "chunks": 1, "counts": {"added": 1}}
        for job in done
    )
    assert [[file["source"] for file in job["files"]] for job in done] == [job["sources"] for job in done]
    assert ended(service.http, gone)["state"] == "cancelled"
    assert len({job["finished_at"][:19] for job in done}) <= 4, "a process for each would have taken longer"
    assert service.ask("编号7的设备由哪个组保管？").json()["grounded"]


def test_a_registry_that_fails_for_a_while_leaves_no_job_stuck(service, monkeypatch):
    jobs, finish = service.service.jobs, service.service.jobs.finish
    failures = []

    def failing(*arguments):
        if not failures:
            failures.append(arguments)
            raise RegistryError("the disk is full")
        return finish(*arguments)

    monkeypatch.setattr(jobs, "finish", failing)
    assert taken_in(service, ("食堂.txt", CANTEEN))["state"] == "done"
    assert failures


def test_a_base_that_somebody_writes_for_too_long_fails_the_job(service, home, monkeypatch):
    monkeypatch.setattr(runner, "PATIENCE", 0.5)
    with written_by_somebody_else(home):
        job = ended(service.http, service.http.post("/api/v1/kb/default/ingest").json()["id"])
    assert (job["state"], job["error"]["type"]) == ("failed", "KnowledgeBaseBusy")


def test_a_job_whose_process_dies_says_so(service, home, monkeypatch):
    monkeypatch.setattr(runner, "_PROGRAM", "import sys; sys.stdin.readline(); sys.exit('no memory')")
    job = ended(service.http, service.http.post("/api/v1/kb/default/ingest").json()["id"])
    assert (job["state"], job["error"]["type"]) == ("failed", "JobFailed")
    assert "what is done is kept; ask again for the rest" in job["error"]["message"]
    assert any("no memory" in record.getMessage() for record in service.log.records)


LYING = "the files lie in knowledge/default, and the next ingest of that folder takes them in"


def test_an_upload_while_the_settings_are_broken_says_so_and_the_next_ingest_takes_it_in(service, home):
    config = home / "config.yaml"
    for name, broken, wrong in (
        ("食堂.txt", "embedder: [", "not valid YAML"),
        ("公车.txt", "embedder: {kind: 静态}", "静态"),
    ):
        config.write_text(broken, encoding="utf-8")
        job = taken_in(service, (name, CANTEEN))
        assert (job["state"], job["error"]["type"]) == ("failed", "ConfigError")
        said = job["error"]["message"]
        assert said.count(str(config)) == 1
        assert wrong in said
        assert said.endswith(f"; correct it, `kbqa doctor` says whether it is right; {LYING}")
    assert on_disk(home) == sorted(["员工手册.md", "食堂.txt", "公车.txt"])
    assert service.ask("年假有几天？").json()["grounded"], "the service goes on with what it began with"
    config.unlink()
    ended(service.http, service.http.post("/api/v1/kb/default/ingest").json()["id"])
    assert service.ask("食堂几点开门？").json()["grounded"]


def test_files_whose_job_cannot_be_written_down_are_told_to_be_there(service, home, monkeypatch):
    def full(*arguments):
        raise RegistryError("kbqa.sqlite cannot grow")

    monkeypatch.setattr(service.service.jobs, "add", full)
    told = error_of(upload(service, ("食堂.txt", CANTEEN)), 503)
    assert told == ("RegistryError", f"kbqa.sqlite cannot grow; {LYING}")
    assert on_disk(home) == ["员工手册.md", "食堂.txt"]


def test_a_base_is_deleted_in_the_midst_of_its_jobs(service, home):
    for name, content in many(400):
        (home / "knowledge" / "default" / name).write_bytes(content * 20)
    job = service.http.post("/api/v1/kb/default/ingest").json()["id"]
    wait_until(lambda: service.http.get(f"/api/v1/jobs/{job}").json()["state"] == "running")
    assert service.http.delete("/api/v1/kb/default", params={"files": True}).status_code == 200
    assert ended(service.http, job)["state"] in ("cancelled", "failed")
    assert [base["name"] for base in service.http.get("/api/v1/kb").json()["bases"]] == ["waiting"]


def test_of_two_services_over_one_installation_one_runs_the_jobs(service, home):
    with serving(home) as other:
        job = other.http.post("/api/v1/kb/default/ingest").json()["id"]
        assert ended(other.http, job)["state"] == "done"
        assert ended(service.http, job)["progress"]["counts"] == {"unchanged": 1}


def test_a_service_that_ends_hands_its_job_to_the_next(home):
    for name, content in many(300):
        (home / "knowledge" / "default" / name).write_bytes(content * 20)
    with serving(home) as service:
        job = service.http.post("/api/v1/kb/default/ingest").json()["id"]
        wait_until(lambda: service.http.get(f"/api/v1/jobs/{job}").json()["state"] == "running")
    with serving(home) as service:
        done = ended(service.http, job)
        assert done["state"] == "done"
        assert service.http.get("/api/v1/kb/default").json()["documents"] == 301


class Process:
    """`kbqa serve` as a program of its own."""

    def __init__(self, home):
        command = [sys.executable, "-m", "kbqa", "--home", str(home), "serve", "--port", "0", "--json"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, start_new_session=True
        )
        self.url = json.loads(self.process.stdout.readline())["url"]
        self.http = httpx.Client(base_url=self.url, timeout=30)

    def end(self, how, tell=os.kill):
        tell(self.process.pid, how)
        self.process.wait(30)
        self.process.stdout.close()
        self.http.close()


def tell_all(pid, how):
    """The process and all that it started, and so on, whatever groups they are in: as systemd does."""
    for child in subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True).stdout.split():
        tell_all(int(child), how)
    with suppress(ProcessLookupError):
        os.kill(pid, how)


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("ps"), reason="signals, and ps as Linux has it")
@pytest.mark.parametrize("how", ["kill -9", "systemd"])
def test_a_service_that_is_killed_in_the_midst_of_a_job_and_an_upload_goes_on_when_it_is_there_again(home, how):
    """systemd, as Ctrl-C, signals all its processes at once, those that read files among them."""
    files = [(f"规定{number:04}.txt", content * 20) for number, (_, content) in enumerate(many(300))]
    first = Process(home)
    response = first.http.post("/api/v1/kb/default/documents", files=[("files", file) for file in files])
    assert response.status_code == 202
    job = response.json()["job"]["id"]
    wait_until(lambda: first.http.get(f"/api/v1/jobs/{job}").json()["progress"]["done"] > 0, 60)
    with socket.create_connection(("127.0.0.1", first.http.base_url.port), timeout=10) as half:
        half.sendall(
            b"POST /api/v1/kb/default/documents HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="half.md"\r\n\r\n' + b"y" * 400_000
        )
        wait_until(lambda: list((home / "knowledge" / "default").glob(".uploading-*")))
        if how == "systemd":
            half.close()
            first.end(signal.SIGTERM, tell_all)
        else:
            first.end(signal.SIGKILL)
    second = Process(home)
    try:
        done = ended(second.http, job)
        assert done["state"] == "done", done["error"]
        assert {file["status"] for file in done["files"]} <= {"added", "unchanged"}
        assert len(done["files"]) == 300
        assert second.http.get("/api/v1/kb/default").json()["documents"] == 301
        assert "half.md" not in on_disk(home)
    finally:
        second.end(signal.SIGTERM)
    assert verify(home / "vectorstore" / "default").sound


def test_questions_are_answered_while_documents_are_taken_in(service, home):
    for name, content in many(500):
        (home / "knowledge" / "default" / name).write_bytes(content * 20)
    service.ask("年假有几天？")
    job = service.http.post("/api/v1/kb/default/ingest").json()["id"]
    slowest = 0.0
    while service.http.get(f"/api/v1/jobs/{job}").json()["state"] in ("queued", "running"):
        start = time.perf_counter()
        assert service.ask("年假有几天？").json()["grounded"]
        slowest = max(slowest, time.perf_counter() - start)
    assert slowest < 5


def test_uploads_and_removals_stand_in_the_audit_log(home):
    with serving(home, audit_log="audit.jsonl") as service:
        taken_in(service, ("食堂.txt", CANTEEN))
        service.http.delete("/api/v1/kb/default/documents/食堂.txt")
        service.http.delete("/api/v1/kb/default")
    lines = [json.loads(line) for line in (home / "audit.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(line["action"], line["base"], line.get("documents")) for line in lines] == [
        ("upload", "default", ["食堂.txt"]),
        ("remove", "default", ["食堂.txt"]),
        ("delete", "default", None),
    ]
