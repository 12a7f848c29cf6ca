"""A service among enemies: names, forms, lengths and paces that mean harm. Behind each it answers as before."""

import io
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import unicodedata
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import docx
import httpx
import openpyxl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from serverkit import serving, wait_until

from kbqa.build import Installation
from kbqa.config import Config, Home
from kbqa.errors import DocumentError, RegistryError
from kbqa.server import auth, connection, front, runner, uploads
from kbqa.server.uploads import as_source, below, sweep
from kbqa.store import verify
from kbqa.types import Piece

HANDBOOK = "# 员工手册\n\n工作满一年的员工每年享有10天年假。\n".encode()
UPLOAD = "/api/v1/kb/default/documents"
FORM = "multipart/form-data; boundary=x"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    folder = home / "knowledge" / "default"
    folder.mkdir(parents=True)
    (folder / "员工手册.md").write_bytes(HANDBOOK)
    Installation(Home(home), Config()).ingest("default")
    return home


@pytest.fixture(scope="module")
def running(home):
    with serving(
        home, max_upload_mb=8, max_upload_total_mb=32, max_upload_files=200, concurrent_requests=16
    ) as service:
        yield service


@pytest.fixture
def service(running, home):
    """It answers behind every test, knows of no fault of its own, and holds what it held."""
    del running.log.records[:]
    yield running
    assert running.ask("年假有几天？").json()["grounded"]
    wait_until(lambda: not leftovers(home))
    assert on_disk(home) == ["员工手册.md"]
    faults = [record for record in running.log.records if record.exc_info or "InternalError" in record.getMessage()]
    assert not faults
    wait_until(lambda: running.service.metrics.in_flight._value.get() == 0)


def on_disk(home):
    folder = home / "knowledge" / "default"
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def leftovers(home):
    try:
        return [path for path in home.rglob(f"{uploads.HIDDEN}*") if path.exists()]
    except FileNotFoundError as gone:  # it went while it was looked into
        return [gone.filename]


def part(name, content=b"x", raw=False):
    name = name if raw else name.replace("\\", "\\\\").replace('"', "%22").encode(errors="surrogatepass")
    return b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + name + b'"\r\n\r\n' + content + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--x--\r\n"


def send(service, body, path=UPLOAD, **headers):
    return service.http.post(path, content=body, headers={"Content-Type": FORM, **headers})


@pytest.fixture
def raw(service):
    """Connections that say what they are told, and everything that comes back until the service closes them."""
    opened = []

    def connect(*pieces, pause=0.0):
        link = socket.create_connection(("127.0.0.1", service.http.base_url.port), timeout=10)
        opened.append(link)
        with suppress(OSError):  # it is cut off: what it heard before that says why
            for piece in pieces:
                link.sendall(piece)
                time.sleep(pause)
        return link

    yield connect
    for link in opened:
        link.close()


def heard(link):
    said = b""
    with suppress(ConnectionError):
        while more := link.recv(65536):
            said += more
    return said


def head(path=UPLOAD, *lines, method="POST"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()


CHUNKED = head("/api/v1/kb/default/ask", "Content-Type: application/json", "Transfer-Encoding: chunked")


# --- names -----------------------------------------------------------------------------------------------------------

RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
PIECES = [
    "..",
    ".",
    "/",
    "\\",
    "\0",
    "\n",
    "a",
    "年假",
    ".md",
    "con",
    "COM¹",
    "NUL ",
    "\u200b",
    "\u202e",
    "e\u0301",
    ":",
]
NAMES = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(name=NAMES.map(lambda name: name + ".md"))
@example(name="con .md")
@example(name="COM¹.md")
@example(name="conin$.md")
@example(name="e\u200d\u0301.md")
@example(name=".\u200b./a.md")
@example(name="\u200b/a.md")
def test_whatever_a_file_is_called_it_is_refused_or_lies_in_the_base_under_a_name_for_every_system(
    name, tmp_path_factory
):
    try:
        source = as_source(name)
    except DocumentError:
        return
    folder = tmp_path_factory.getbasetemp() / "below"
    assert below(folder, source) == folder / source
    assert unicodedata.is_normalized("NFC", source)
    assert as_source(source) == source
    assert len(source.encode()) <= uploads.LONGEST_NAME
    for piece in source.split("/"):
        assert piece == piece.strip(" .") or piece.strip(" .").endswith("md")
        assert not set(piece) & set('<>:"\\|?*\0')
        assert not any(unicodedata.category(character) in ("Cc", "Cf", "Cs") for character in piece)
        assert not RESERVED.fullmatch(piece), piece


def test_names_that_mean_harm_are_rejected_one_by_one_as_they_come_over_the_wire(service):
    names = [
        b"../../a.md",
        b"/etc/a.md",
        b"..\\\\..\\\\a.md",
        b"a\0.md",
        b"nul.md",
        b"con .md",
        b".hidden.md",
        b"a" * 3000 + b".md",
        "长".encode() * 80 + b".md",
        b"a/" * 20 + b"b.md",
        b"%2e%2e/%2e%2e/\r\nb.md".replace(b"\r\n", b"%0D%0A"),
        b"\xff\xfe.md",
        b"a.md/",
        b"CONOUT$.md",
        "LPT³.md".encode(),
    ]
    response = send(service, form(*(part(name, raw=True) for name in names)))
    assert response.status_code == 422, response.text
    assert f"(and {len(names) - 1} more)" in response.json()["error"]["message"]


def test_of_a_name_that_is_composed_in_two_ways_there_is_one_file(service):
    response = send(service, form(part("cafe\u0301.md"), part("caf\u00e9.md"), part("caf\u200de\u0301.md")))
    told = response.json()
    assert [file["source"] for file in told["accepted"]] == ["caf\u00e9.md"]
    assert ["comes twice" in file["error"] for file in told["rejected"]] == [True, True]
    wait_until(lambda: service.http.get(f"/api/v1/jobs/{told['job']['id']}").json()["state"] == "done")
    assert service.http.delete(f"{UPLOAD}/caf\u00e9.md").json()["removed"]


def test_a_file_is_removed_only_by_the_name_that_it_has(service, home, monkeypatch):
    """Where capitals do not matter, and on Windows final dots, `A.MD` and `a.md.` open a.md too."""
    folder = home / "knowledge" / "default"
    monkeypatch.setattr("kbqa.server.documents.below", lambda folder, source: folder / "员工手册.md")
    monkeypatch.setattr("kbqa.server.removal._is_spelled", lambda path: False)
    assert service.http.delete(f"{UPLOAD}/员工手册.MD").status_code == 404
    assert (folder / "员工手册.md").exists()


@pytest.mark.parametrize(
    "source", ["C:a.md", "员工手册.md:b", "员工手册.md::$DATA", "员工手册.md.", "a /b.md", "nul.md", "a/con"]
)
def test_on_windows_a_file_has_one_name(home, monkeypatch, source):
    monkeypatch.setattr(uploads, "_ON_WINDOWS", True)
    folder = home / "knowledge" / "default"
    assert below(folder, source) is None
    assert below(folder, "员工手册.md") == folder / "员工手册.md"


# --- forms -----------------------------------------------------------------------------------------------------------


def test_ten_thousand_files_in_one_form_are_refused_at_the_first_that_is_too_many(service):
    response = send(service, form(*(part(f"{number}.md") for number in range(10_000))))
    assert response.status_code == 413
    assert "more than 200 files in one request (server.max_upload_files)" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (form(b"--x\r\nX-Long: " + b"y" * 100_000 + b"\r\n\r\nz\r\n"), 400, "form"),
        (form(b"--x\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(1000)) + b"\r\nz\r\n"), 400, "form"),
        (form(*(b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nz\r\n' for _ in range(101))), 413, "fields"),
        (form(part("a.md").replace(b"\r\n\r\n", b"\r\n")), 400, "form"),
        (form(b"--x\r\n\r\nno headers\r\n"), 400, "no file"),
        (form(part("")), 400, "no file"),
        (b"--y\r\n" + form(part("a.md")), 400, "form"),
    ],
)
def test_forms_of_odd_shapes_say_what_is_wrong_with_them(service, body, status, said):
    response = send(service, body)
    assert (response.status_code, said in response.json()["error"]["message"]) == (status, True), response.text


def test_forms_with_random_damage_are_taken_or_refused_and_never_a_fault(service):
    dice = random.Random(7)
    whole = form(part("../损坏.exe", b"y" * 300), part("b\\..\\c.pdf", b"z" * 300))
    assert service.post("/api/v1/kb", {"name": "乱"}).status_code == 201
    for _ in range(150):
        body = bytearray(whole)
        for _ in range(dice.randint(1, 12)):
            at = dice.randrange(len(body))
            match dice.randrange(4):
                case 0:
                    body[at] = dice.randrange(256)
                case 1:
                    del body[at : at + dice.randint(1, 40)]
                case 2:
                    body[at:at] = dice.choice([b"--x", b"\r\n", b"\0", b'"', b";", b"--x--", b"filename*=UTF-8''a.md"])
                case 3:
                    body += body[at : at + 60]
        response = send(service, bytes(body), "/api/v1/kb/乱/documents")
        assert response.status_code in (202, 400, 422), (bytes(body), response.text)
    assert service.http.delete("/api/v1/kb/乱", params={"files": True}).status_code == 200


def test_headers_of_a_part_are_bounded_also_where_the_parser_does_not_bound_them(tmp_path):
    receiver = uploads.Receiver(tmp_path, b"x", uploads.Limits(10, 1000))
    try:
        receiver._parser.max_header_size = receiver._parser.max_header_count = 10**9
        with pytest.raises(uploads.RequestError, match="8192 bytes of headers"):
            receiver.feed(b"--x\r\nX-Long: " + b"y" * 10_000)
    finally:
        receiver.close()
    assert list(tmp_path.iterdir()) == []


# --- lengths ---------------------------------------------------------------------------------------------------------


def test_who_sends_two_gigabytes_hears_that_it_is_too_much_while_he_sends(service, raw):
    link = raw(head(UPLOAD, f"Content-Type: {FORM}", "Content-Length: 2147483648"), *[b"y" * 65536] * 160)
    assert heard(link).startswith(b"HTTP/1.1 413")
    link = raw(head("/api/v1/kb/default/ask", "Content-Type: application/json", "Content-Length: 99999999999999999999"))
    assert heard(link).split(b" ")[1] in (b"400", b"413")


def test_who_asks_before_he_sends_is_told_at_once(service, raw):
    start = time.monotonic()
    link = raw(head(UPLOAD, f"Content-Type: {FORM}", "Content-Length: 2147483648", "Expect: 100-continue"))
    assert heard(link).startswith(b"HTTP/1.1 413")
    assert time.monotonic() - start < front.PAUSE


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        (["Content-Length: 30"], b"400"),  # the form goes on behind it: no request begins like that
        (["Content-Length: -5"], b"400"),
        (["Content-Length: 1e3"], b"400"),
        (["Content-Length: 30", "Content-Length: 31"], b"400"),
        (["Transfer-Encoding: chunked"], b"400"),  # and no chunk does
        (["Transfer-Encoding: gzip"], b"400"),
        ([], b"400"),  # no body at all
    ],
)
def test_a_length_that_is_a_lie_leaves_nothing(service, raw, lines, status):
    link = raw(head(UPLOAD, f"Content-Type: {FORM}", *lines) + form(part("lie.md", b"y" * 200)))
    assert heard(link).split(b" ")[1] == status


def test_a_body_that_is_shorter_than_was_said_is_no_fault_of_the_service(service, raw):
    body = part("half.md", b"y" * 300_000)
    link = raw(head(UPLOAD, f"Content-Type: {FORM}", f"Content-Length: {len(body) + 1000}") + body)
    link.close()
    wait_until(lambda: [line["status"] for line in service.log.requests] == [front.CLIENT_GONE])


# --- paces -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr(front, "PATIENCE", 0.4)
    monkeypatch.setattr(front, "LEAST_RATE", 10_000)
    monkeypatch.setattr(connection, "HEADERS", 1.0)


@pytest.mark.parametrize(("path", "kind"), [(UPLOAD, FORM), ("/api/v1/kb/default/ask", "application/json")])
def test_a_body_that_drips_is_cut_off_although_it_never_stops(service, raw, hasty, path, kind):
    start = time.monotonic()
    body = part("slow.md", b"y" * 4000) if kind == FORM else b'{"question": "' + b"y" * 4000
    link = raw(
        head(path, f"Content-Type: {kind}", "Content-Length: 100000"), *re.findall(rb"(?s).{40}", body), pause=0.02
    )
    assert heard(link).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - start < 5
    wait_until(lambda: service.log.requests)
    assert service.log.requests[-1]["seconds"] < 1.5


def test_a_body_that_is_slow_but_not_too_slow_is_waited_for(service, hasty):
    def slowly():
        body = json.dumps({"question": "年假有几天？"}).encode() + b" " * 20_000
        for at in range(0, len(body), 2000):
            time.sleep(0.1)
            yield body[at : at + 2000]

    response = httpx.post(
        f"{service.url}/api/v1/kb/default/ask", content=slowly(), headers={"Content-Type": "application/json"}
    )
    assert response.json()["grounded"]


def test_slow_bodies_give_their_places_back(service, raw, hasty):
    links = [
        raw(head("/api/v1/kb/default/ask", "Content-Type: application/json", "Content-Length: 1000"), b"{")
        for _ in range(20)
    ]
    statuses = sorted(heard(link).split(b" ")[1] for link in links)
    assert statuses == [b"408"] * 16 + [b"503"] * 4, "16 may be under way at once here"


@pytest.mark.parametrize(
    "pieces",
    [
        [],
        [b"POST /api/v1/kb/default/ask HTTP/1.1\r\n", *[b"X: y\r\n"] * 100],
        [*(bytes([byte]) for byte in head("/healthz", method="GET")[:-2])],
        [head("/healthz", "Content-Length: 100000", method="GET"), *[b"y"] * 100],  # nobody waits for that body
        [head("/healthz", method="GET") + b"GET /", *[b"y"] * 100],
    ],
)
def test_who_never_says_what_he_wants_is_shown_out(service, raw, monkeypatch, pieces):
    monkeypatch.setattr(connection, "HEADERS", 0.5)
    start = time.monotonic()
    heard(raw(*pieces, pause=0.02))
    assert time.monotonic() - start < 4


@pytest.mark.parametrize(
    ("begun", "more"),
    [
        (b"GET /healthz HTTP/1.1\r\n", b"X: " + b"y" * 4000 + b"\r\n"),
        (b"GET /", b"y" * 4000),
        (CHUNKED + b"2\r\n{}\r\n0\r\n", b"X: " + b"y" * 4000 + b"\r\n"),  # behind the body
        (CHUNKED + b"2;", b"y" * 4000),  # between its pieces
    ],
    ids=["headers", "address", "trailers", "extension"],
)
def test_what_is_said_beside_the_body_is_bounded(service, raw, begun, more):
    link, sent = raw(begun), 0
    with suppress(OSError):
        while sent < 2**25:
            link.sendall(more)
            sent += len(more)
    assert sent < 2**24, "it is cut off, whatever lies in the buffers"
    assert service.http.get("/healthz").is_success


def test_a_stream_lasts_longer_than_anybody_is_waited_for(service, monkeypatch):
    monkeypatch.setattr(connection, "HEADERS", 0.2)
    with httpx.Client(base_url=service.url) as http:
        for _ in range(3):
            assert http.get("/healthz").status_code == 200
            time.sleep(0.1)
        with http.stream(
            "POST", "/api/v1/kb/default/ask", json={"question": "年假有几天？", "stream": True}
        ) as response:
            time.sleep(0.5)
            assert "event: done" in response.read().decode()


def test_many_who_hold_the_line_do_not_keep_others_out(service, raw):
    for _ in range(200):
        raw(b"POST /api/v1/kb/default/ask HTTP/1.1\r\nHost: localhost\r\n")
    assert service.ask("年假有几天？").json()["grounded"]


# --- contents --------------------------------------------------------------------------------------------------------


def bomb(document, name):
    """A document of an office program that unpacks to far more than it has."""
    packed = io.BytesIO()
    if hasattr(document, "add_paragraph"):
        document.add_paragraph("里面有炸弹。")
    document.save(packed)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, bytes(60 << 20))
    return packed.getvalue()


def test_contents_that_mean_harm_are_told_of_file_by_file_and_the_rest_goes_in(service, home):
    page = (
        "<html><head><script>alert('头')</script></head><body onload=alert(1)><h1>食堂</h1>"
        "<p>食堂每天<script>alert('早')</script>早上七点开门<img src=x onerror=alert(2)>。</p>"
        "<p>写法是 &lt;script&gt;alert('晚')&lt;/script&gt;。</p></body></html>"
    ).encode()
    files = {
        "炸弹.docx": bomb(docx.Document(), "word/media/image1.xml"),
        "炸弹.xlsx": bomb(openpyxl.Workbook(), "xl/worksheets/sheet9.xml"),
        "页面.html": page,
        "其实是网页.docx": page,
        "其实是程序.pdf": b"MZ\x90\x00" + bytes(4000),
        "其实是压缩包.txt": bomb(docx.Document(), "x")[:100_000],
        "只有零.txt": bytes(100_000),
        "半个字.txt": "年假".encode()[:-1] * 50,
    }
    told = send(service, form(*(part(name, content) for name, content in files.items()))).json()
    try:
        assert len(told["accepted"]) == len(files), told["rejected"]
        wait_until(lambda: service.http.get(f"/api/v1/jobs/{told['job']['id']}").json()["state"] == "done", 60)
        became = {
            document["source"]: (document["status"], document["error_kind"])
            for document in service.http.get(UPLOAD).json()["documents"]
        }
        assert became["炸弹.docx"] == became["炸弹.xlsx"] == ("failed", "bomb")
        assert became["页面.html"] == ("indexed", "")
        assert became["其实是程序.pdf"][0] == "failed"
        found = service.search("食堂几点开门？").json()["hits"][0]
        assert (found["source"], "食堂每天早上七点开门。" in found["text"]) == ("页面.html", True)
        assert "<script>alert('晚')</script>" in found["text"], "what is told of is text"
        assert "alert('早')" not in found["text"]
        assert verify(home / "vectorstore" / "default").sound
    finally:
        for name in files:
            service.http.delete(f"{UPLOAD}/{name}")


# --- what uploads leave behind ---------------------------------------------------------------------------------------


def test_what_dead_uploads_and_deletions_left_is_swept_and_what_lives_is_not(tmp_path):
    old = time.time() - 2 * uploads.OLD
    for name in ("default/.uploading-dead", "default/.uploading-alive", ".uploading-deleted", "default/kept"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "0").write_bytes(b"half")
        os.utime(folder / "0", (old, old))
        os.utime(folder, (old, old))
    (tmp_path / "default" / ".uploading-alive" / "0").write_bytes(b"more of it")
    sweep(tmp_path)
    assert sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("0")) == [
        "default/.uploading-alive/0",
        "default/kept/0",
    ]


def test_a_disk_that_fills_up_in_the_midst_of_a_form_does_not_hide_what_is_in(service, home, monkeypatch):
    place = uploads.place
    given = []

    def full(file, *rest):
        given.append(file.name)
        if len(given) == 2:
            raise uploads.NotStored("no space left on this disk")
        return place(file, *rest)

    monkeypatch.setattr("kbqa.server.documents.place", full)
    told = send(service, form(part("一.md", "第一份规定。".encode()), part("二.md"))).json()
    assert [file["source"] for file in told["accepted"]] == ["一.md"]
    assert [file["error"] for file in told["rejected"]] == ["no space left on this disk"]
    wait_until(lambda: service.http.get(f"/api/v1/jobs/{told['job']['id']}").json()["state"] == "done")
    assert service.http.delete(f"{UPLOAD}/一.md").json()["removed"]
    given[:] = ["before"]
    assert send(service, form(part("三.md"))).status_code == 507


def test_where_too_many_jobs_wait_an_upload_is_refused_before_it_is_sent(service, monkeypatch):
    monkeypatch.setattr("kbqa.registry.jobs.MOST_WAITING", 0)
    response = send(service, form(part("a.md")))
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


# --- memory ----------------------------------------------------------------------------------------------------------


def test_names_and_methods_that_nobody_knows_are_not_remembered(service):
    for number in range(50):
        assert service.ask("年假", f"基地{number}").status_code == 404
        assert service.http.request(f"ODD{number}", "/api/v1/kb").status_code == 400
    assert service.http.request("PROPFIND", "/api/v1/kb").status_code == 405
    assert len(service.service._opening) <= 2
    figures = service.http.get("/metrics").text
    assert "ODD" not in figures
    assert "PROPFIND" not in figures
    assert 'method="other"' in figures


# --- jobs ------------------------------------------------------------------------------------------------------------


def test_a_registry_that_fails_between_two_jobs_leaves_none_of_them_stuck(service, monkeypatch):
    jobs, alike = service.service.jobs, service.service.jobs.claim_alike
    failures = []

    def failing(job):
        if not failures:
            failures.append(job)
            raise RegistryError("the disk is full")
        return alike(job)

    monkeypatch.setattr(jobs, "claim_alike", failing)
    job = service.http.post("/api/v1/kb/default/ingest").json()["id"]
    wait_until(lambda: service.http.get(f"/api/v1/jobs/{job}").json()["state"] == "done")
    assert failures


def test_what_nobody_foresaw_does_not_end_the_thread_that_does_the_jobs(service, monkeypatch):
    jobs, claim = service.service.jobs, service.service.jobs.claim
    failures = []

    def failing(busy):
        if not failures:
            failures.append(busy)
            raise RuntimeError("can't start new thread")
        return claim(busy)

    monkeypatch.setattr(jobs, "claim", failing)
    job = service.http.post("/api/v1/kb/default/ingest").json()["id"]
    wait_until(lambda: service.http.get(f"/api/v1/jobs/{job}").json()["state"] == "done")
    told = [record for record in service.log.records if record.exc_info]
    assert ["can't start new thread" in record.getMessage() for record in told] == [True]
    service.log.records.clear()


STUCK = """
import pathlib, subprocess, sys, time
order = sys.stdin.readline()
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], stdout=subprocess.DEVNULL)
pathlib.Path({where!r}).write_text(str(child.pid))
time.sleep(600)
"""


@pytest.mark.skipif(os.name == "nt", reason="process groups")
def test_what_reads_files_for_a_job_that_is_killed_does_not_outlive_it(service, tmp_path, monkeypatch):
    where = tmp_path / "pid"
    monkeypatch.setattr(runner, "_PROGRAM", STUCK.format(where=str(where)))
    monkeypatch.setattr(runner, "GRACE", 0.2)
    job = service.http.post("/api/v1/kb/default/ingest").json()["id"]
    wait_until(lambda: where.exists() and where.read_text())
    service.http.delete(f"/api/v1/jobs/{job}")
    wait_until(lambda: service.http.get(f"/api/v1/jobs/{job}").json()["state"] == "cancelled")

    def is_gone():
        try:
            os.kill(int(where.read_text()), 0)
        except ProcessLookupError:
            return True
        status = Path(f"/proc/{where.read_text()}/stat")  # what nobody has waited for is a zombie
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"

    wait_until(is_gone)


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_service_that_is_killed_again_and_again_loses_nothing():
    script = Path(__file__).parents[1] / "scripts" / "crash_serve.py"
    command = [sys.executable, script, "--kills", "2", "--seconds", "1", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost" in done.stdout


def test_bases_that_are_made_at_the_same_time_are_made_once(service):
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: service.post("/api/v1/kb", {"name": "同时"}).status_code, range(8)))
    assert answers.count(201) == 1
    assert set(answers) <= {201, 409, 503}
    assert service.http.delete("/api/v1/kb/同时", params={"files": True}).status_code == 200


def test_a_base_that_goes_while_it_is_asked_is_not_there_and_no_fault(service):
    answers, over = [], threading.Event()

    def ask():
        with httpx.Client(base_url=service.url) as http:
            while not over.is_set():
                response = http.post("/api/v1/kb/短命/search", json={"question": "年假"})
                answers.append((response.status_code, response.text))

    with ThreadPoolExecutor(4) as pool:
        for _ in range(4):
            pool.submit(ask)
        try:
            for _ in range(5):
                assert service.post("/api/v1/kb", {"name": "短命"}).status_code == 201
                assert service.http.delete("/api/v1/kb/短命", params={"files": True}).status_code == 200
        finally:
            over.set()
    assert {status for status, _ in answers} <= {200, 404, 503}, answers
    assert all("was closed" in said for status, said in answers if status == 503)


# --- bodies that are work --------------------------------------------------------------------------------------------


def test_no_body_holds_up_the_others(service):
    """To tell what is wrong with half a million values took seven seconds, in which nobody else was answered."""
    most = 2**20 - 200
    bodies = {
        "/v1/chat/completions": b'{"model":"kb:default","messages":[' + b"1," * (most // 2 - 40) + b"1]}",
        "/api/v1/kb/default/ask": ('{"question":"x"' + "".join(f',"k{n}":1' for n in range(80_000)) + "}").encode(),
        "/": b'{"prompt":"x","history":[' + b"[]," * (most // 3 - 40) + b"[]]}",
        "/retrieval": b'{"knowledge_id":"default","query":"x","retrieval_setting":[' + b"0," * 500_000 + b"0]}",
        "/v1/chat-messages": b'{"query":"x","user":"u","inputs":{},"files":[' + b"0," * 500_000 + b"0]}",
        "/api/v1/kb/default/feedback": b'{"citations":[' + b"{}," * 300_000 + b"{}]}",
    }
    slowest, over = [0.0], threading.Event()

    def others():
        with httpx.Client(base_url=service.url, timeout=60) as http:
            while not over.is_set():
                start = time.perf_counter()
                http.get("/healthz")
                slowest[0] = max(slowest[0], time.perf_counter() - start)

    with ThreadPoolExecutor(1) as pool:
        pool.submit(others)
        try:
            for path, body in bodies.items():
                response = service.post(path, body)
                assert response.status_code == 400, (path, response.text)
                assert "more than 20000 values" in response.text
        finally:
            over.set()
    assert slowest[0] < 5


@pytest.mark.parametrize(
    "body", [b"[" * 500_000, b'{"question":' + b"9" * 500_000 + b"}", b'{"a":' * 100_000, b"\xff" * 9]
)
@pytest.mark.parametrize(
    "path", ["/api/v1/kb/default/ask", "/v1/chat/completions", "/", "/retrieval", "/v1/chat-messages"]
)
def test_json_that_breaks_parsers_is_refused(service, path, body):
    assert service.post(path, body).status_code == 400


def test_slow_disks_keep_nobody_out(service, monkeypatch):
    """Uploads and deletions share a few threads, and may all wait; who may come in is looked up without them."""
    busy, free = [], threading.Event()
    monkeypatch.setattr(auth, "FRESH", 0.0)
    monkeypatch.setattr(
        "kbqa.server.documents._delete", lambda service, kb, files: busy.append(kb) or free.wait(20) or kb
    )
    with ThreadPoolExecutor(15) as pool:
        going = [pool.submit(httpx.delete, f"{service.url}/api/v1/kb/default", timeout=30) for _ in range(15)]
        try:
            wait_until(lambda: len(busy) > 1)
            time.sleep(0.3)
            assert service.http.post("/api/v1/kb/default/ask", json={"question": "年假有几天？"}, timeout=10).json()[
                "grounded"
            ]
        finally:
            free.set()
        assert [one.result().status_code for one in going] == [200] * 15


def test_what_a_client_calls_a_field_is_not_repeated_at_any_length(service):
    response = service.post("/api/v1/kb/default/search", b'{"question":"x","' + b"k" * 900_000 + b'":1}')
    assert response.status_code == 422
    assert len(response.content) < 1000


def test_a_file_in_thousands_of_pieces_is_no_work(service):
    ranges = "bytes=" + ",".join(f"{at}-{at}" for at in range(0, 60, 2)) + ",0-" * 3000
    start = time.perf_counter()
    response = service.http.get("/api/v1/kb/default/files/员工手册.md", headers={"Range": ranges})
    assert response.status_code in (200, 206, 400, 416)
    assert time.perf_counter() - start < 2
    assert len(response.content) < 20_000


# --- every dialect ---------------------------------------------------------------------------------------------------


def _mcp(service, base):
    call = {"name": "ask", "arguments": {"question": "年假有几天？", "knowledge_base": base}}
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call}
    return service.post("/mcp", body, headers={"Accept": "application/json, text/event-stream"})


def _chat(service, base, **fields):
    messages = [{"role": "user", "content": "年假有几天？"}]
    return service.post("/v1/chat/completions", {"model": f"kb:{base}", "messages": messages, **fields})


DIALECTS = {
    "ask": lambda service, base: service.ask("年假有几天？", base),
    "ask, streamed": lambda service, base: service.ask("年假有几天？", base, stream=True),
    "search": lambda service, base: service.search("年假有几天？", base),
    "openai": _chat,
    "openai, streamed": lambda service, base: _chat(service, base, stream=True),
    "openai model": lambda service, base: service.http.get(f"/v1/models/kb:{base}"),
    "dify retrieval": lambda service, base: service.post(
        "/retrieval",
        {"knowledge_id": base, "query": "年假有几天？", "retrieval_setting": {"top_k": 3, "score_threshold": 0}},
    ),
    "dify chat": lambda service, base: service.post(
        "/v1/chat-messages",
        {"query": "年假有几天？", "inputs": {"kb": base}, "user": "u", "response_mode": "blocking"},
    ),
    "documents": lambda service, base: service.http.get(f"/api/v1/kb/{base}/documents"),
    "file": lambda service, base: service.http.get(f"/api/v1/kb/{base}/files/员工手册.md"),
}


@pytest.fixture(scope="module")
def keyed(home, tmp_path_factory):
    """Two bases, and callers with keys of all kinds."""
    other = tmp_path_factory.mktemp("keyed") / "home"
    shutil.copytree(home, other)
    (other / "knowledge" / "秘密").mkdir()
    (other / "knowledge" / "秘密" / "员工手册.md").write_bytes(HANDBOOK)
    Installation(Home(other), Config()).ingest("秘密")
    with serving(other, chatglm_knowledge="秘密") as service:
        ring = service.service.keys
        soon = time.time() + 0.2
        callers = {
            "none": service,
            "wrong": service.with_key("kbqa_" + "x" * 43),
            "odd": service.with_key("' OR 1=1 --"),
            "expired": service.with_key(ring.add("abgelaufen", "admin", expires_at=soon).secret),
            "foreign": service.with_key(ring.add("fremd", "admin", bases=["default"]).secret),
            "good": service.with_key(ring.add("gut", "read", bases=["default", "秘密"]).secret),
        }
        wait_until(lambda: time.time() > soon)
        yield callers


@pytest.mark.parametrize("dialect", DIALECTS)
def test_no_dialect_opens_a_base_to_who_may_not(keyed, dialect):
    ask = DIALECTS[dialect]
    assert ask(keyed["good"], "秘密").status_code == 200
    for caller in ("none", "wrong", "odd", "expired"):
        answer = ask(keyed[caller], "秘密")
        assert answer.status_code in (401, 403), (caller, answer.text)
        assert "10天" not in answer.text
    refused = ask(keyed["foreign"], "秘密")
    assert refused.status_code in (403, 404), refused.text
    assert "10天" not in refused.text
    unknown = ask(keyed["foreign"], "不存在")
    assert (unknown.status_code, "秘密" in unknown.text) == (refused.status_code, False), (
        "whether there is one is not told"
    )
    there_not = ask(keyed["good"], "gut")
    assert there_not.status_code in (403, 404), there_not.text


def test_neither_does_chatglms_nor_mcp(keyed):
    assert "10天" in keyed["good"].post("/", {"prompt": "年假有几天？"}).json()["response"]
    for caller, status in (("none", 401), ("wrong", 401), ("expired", 401), ("foreign", 403)):
        assert keyed[caller].post("/", {"prompt": "年假有几天？"}).status_code == status
    for caller in ("none", "wrong", "expired"):
        assert _mcp(keyed[caller], "秘密").status_code in (401, 403)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/kb/default/search", {"question": "年假", "k": 0}),
        ("/api/v1/kb/default/search", {"question": "年假", "k": 10**9}),
        ("/api/v1/kb/default/search", {"question": "年假", "k": 1.5}),
        ("/api/v1/kb/default/ask", {"question": "长" * 4001}),
        ("/v1/chat/completions", {"model": "kb:default", "messages": [{"role": "user", "content": "长" * 4001}]}),
        ("/v1/chat/completions", {"model": "gpt-4o", "messages": [{"role": "user", "content": "年假"}]}),
        ("/v1/chat/completions", {"model": "kb:", "messages": [{"role": "user", "content": "年假"}]}),
        ("/v1/chat/completions", {"model": "kb:../default", "messages": [{"role": "user", "content": "年假"}]}),
        ("/v1/chat/completions", {"model": "kb:default", "messages": []}),
        ("/v1/chat/completions", {"model": "kb:default", "messages": [{"role": "user", "content": "x"}], "top_k": -1}),
        ("/v1/chat/completions", {"model": "kb:default", "messages": [{"role": "root", "content": "x"}]}),
        ("/v1/embeddings", {"model": "text-embedding-3-small", "input": "年假"}),
        ("/v1/embeddings", {"model": "static", "input": ["年假"] * 2049}),
        ("/v1/embeddings", {"model": "static", "input": ""}),
        ("/", {"prompt": "长" * 4001}),
        ("/", {"prompt": "年假", "history": [["nur eins"]]}),
        ("/", {"prompt": "年假", "max_length": 10**9}),
        ("/retrieval", {"knowledge_id": "default", "query": "年假", "retrieval_setting": {"top_k": 0}}),
        ("/retrieval", {"knowledge_id": "default", "query": "年假", "retrieval_setting": {"top_k": 10**9}}),
        ("/v1/chat-messages", {"query": "长" * 4001, "inputs": {"kb": "default"}, "user": "u"}),
        ("/v1/chat-messages", {"query": "年假", "inputs": {"kb": "default"}, "user": "u", "response_mode": "nie"}),
    ],
)
def test_what_cannot_be_asked_is_refused_with_a_reason(keyed, path, body):
    answer = keyed["good"].post(path, body)
    assert answer.status_code in (400, 403, 404, 422), answer.text
    assert answer.headers["content-type"].startswith("application/json")
    assert len(answer.text) > 40, "a reason is told"


def test_a_key_is_counted_whatever_it_is_called(home, tmp_path):
    """`local` is what the log calls those who need no key."""
    shutil.copytree(home, tmp_path / "home")
    with serving(tmp_path / "home", requests_per_minute=1) as service:
        caller = service.with_key(service.service.keys.add("local").secret)
        assert [caller.search("年假").status_code for _ in range(2)] == [200, 429]


class Endless:
    """A model that never comes to an end, and tells when it is stopped."""

    name = "endless"

    def __init__(self):
        self.begun, self.stopped = threading.Event(), threading.Event()

    def stream(self, request):
        try:
            while True:
                yield Piece("工作满一年的员工每年享有10天年假。")
                self.begun.set()
                time.sleep(0.01)
        finally:
            self.stopped.set()


@pytest.fixture(scope="module")
def endless(home):
    with serving(home, Endless()) as service:
        yield service


ASKED = {"messages": [{"role": "user", "content": "年假有几天？"}]}
TOOL = {"name": "ask", "arguments": {"question": "年假有几天？"}}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/kb/default/ask", {"question": "年假有几天？"}),
        ("/api/v1/kb/default/ask", {"question": "年假有几天？", "stream": True}),
        ("/v1/chat/completions", {"model": "kb:default", **ASKED}),
        ("/v1/chat/completions", {"model": "kb:default", "stream": True, **ASKED}),
        ("/v1/chat/completions", {"model": "chatglm", **ASKED}),
        ("/v1/chat/completions", {"model": "chatglm", "stream": True, **ASKED}),
        ("/", {"prompt": "年假有几天？"}),
        ("/v1/chat-messages", {"query": "年假有几天？", "inputs": {}, "user": "u"}),
        ("/v1/chat-messages", {"query": "年假有几天？", "inputs": {}, "user": "u", "response_mode": "streaming"}),
        ("/mcp", {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": TOOL}),
    ],
)
def test_who_goes_stops_the_model_in_every_dialect(endless, path, body):
    endless.service.generator.__init__()
    content = json.dumps(body).encode()
    lines = ["Content-Type: application/json", "Accept: application/json, text/event-stream"]
    with socket.create_connection(("127.0.0.1", endless.http.base_url.port), timeout=10) as link:
        link.sendall(head(path, *lines, f"Content-Length: {len(content)}") + content)
        assert endless.service.generator.begun.wait(10), link.recv(1000)
    assert endless.service.generator.stopped.wait(10)
    wait_until(lambda: endless.service.metrics.in_flight._value.get() == 0)
