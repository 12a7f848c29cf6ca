"""The page in a real browser, and what it alone asks of the service: passages, pages of PDFs, its own files."""

import ast
import os
import re
import shutil
import threading
from pathlib import Path
from typing import get_args

import pytest
from serverkit import serving, wait_until

import kbqa
from kbqa.build import Installation
from kbqa.checks import Code
from kbqa.config import Config, Home
from kbqa.errors import GeneratorBusy
from kbqa.server import passages, stream
from kbqa.server.page import site
from kbqa.types import Block, Document, Load, Piece

SAMPLES = Path(__file__).parents[1] / "knowledge" / "samples"
TRAVEL = "差旅费用管理办法.pdf"
HANDBOOK = """# 员工手册

## 第三章 休假

工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。年假须提前三个工作日申请。

病假须提交医院证明，病假期间工资按百分之八十发放。
"""
LEAVE = "年假有几天？"
TRUE = "工作满一年的员工每年享有10天年假，满十年的员工每年享有15天年假。"
FALSE = "公司上市后股价上涨了三倍。"
NOWHERE = "公司的注册资本是多少？"
HOSTILE = '<img src=x onerror="window.pwned=1"><script>window.pwned=1</script>'


IDLE = Load(running=1, waiting=0, slots=4, places=36)


class Model:
    """Says what a test tells it to: `pieces` may hold texts, exceptions, and events that it waits for."""

    name = "chatglm3-6b"

    def __init__(self):
        self.says(TRUE)

    def says(self, *pieces, endless=None, load=IDLE):
        self.pieces, self.endless, self.load = pieces, endless, load
        self.requests = []
        self.closed = threading.Event()

    def stream(self, request):
        self.requests.append(request)
        try:
            for piece in self.pieces:
                if isinstance(piece, threading.Event):
                    assert piece.wait(20), "nobody lets it go on"
                elif isinstance(piece, Exception):
                    raise piece
                else:
                    yield Piece(piece)
            while self.endless:
                yield Piece(self.endless)
            yield Piece(finish="stop", prompt_tokens=20, completion_tokens=12)
        finally:
            self.closed.set()


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    folder = home / "knowledge" / "default"
    folder.mkdir(parents=True)
    (folder / "员工手册.md").write_text(HANDBOOK, encoding="utf-8")
    shutil.copy(SAMPLES / TRAVEL, folder)
    Installation(Home(home), Config()).ingest("default")
    return home


@pytest.fixture(scope="module")
def running(built):
    """With a model; tests that change documents do so in bases of their own."""
    with serving(built, Model()) as service:
        yield service


@pytest.fixture
def model(running):
    running.service.generator.says(TRUE)
    return running.service.generator


# --- over HTTP -------------------------------------------------------------------------------------------------------


def cited(running, question):
    found = running.search(question).json()["hits"][0]
    return found["source"], found["span"]


def passage(running, source, start, end, **params):
    return running.http.get(f"/api/v1/kb/default/passages/{source}", params={"start": start, "end": end, **params})


def test_the_page_lets_nothing_run_but_its_own_files(running):
    page = running.http.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self';" in policy
    assert "unsafe" not in policy
    assert not re.search(r"(?:src|href)=\"(?!web/|#)", page.text), "something from elsewhere"
    assert not re.search(r"<script(?! (?:type=\"module\" )?src=)|style=|\son\w+=", page.text), "something inline"
    for name in re.findall(r"\"(web/[^\"]+)\"", page.text):
        part = running.http.get(f"/{name}")
        assert part.status_code == 200
        assert "immutable" in part.headers["cache-control"]
    assert running.http.get("/", headers={"If-None-Match": page.headers["etag"]}).status_code == 304
    assert running.http.post("/", content=b"{}").status_code == 422  # ChatGLM's dialect has the same address


def test_every_module_that_the_page_imports_is_there():
    for name, content in site().files.items():
        if name.endswith(".js"):
            for wanted in re.findall(rb"from \"\./([^\"]+)\"", content):
                assert wanted.decode() in site().files, f"{name} imports {wanted}"


@pytest.mark.parametrize("name", ["index.html", "page.py", "..%2fapp.py", "%2e%2e/app.py", "x/y", "none.js"])
def test_nothing_but_the_files_of_the_page_is_served(running, name):
    assert running.http.get(f"/web/{site().version}/{name}").status_code == 404


def test_no_module_of_the_page_makes_html_of_text():
    for name, content in site().files.items():
        made = re.search(
            rb"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function|DOMParser", content
        )
        assert not made, f"{name}: {made}"


def test_every_word_that_the_page_shows_is_there_in_both_languages():
    known = dict(re.findall(r"^  \"?([\w-]+)\"?: \[(.*?)\],$", site().files["words.js"].decode(), re.M | re.S))
    assert len(known) > 200
    for key, both in known.items():
        assert len(re.findall(r"\",\s*\"", both)) == 1, key
    for name, content in {**site().files, "index.html": site().start}.items():
        shown = re.findall(
            r"\b(?:word|button|toast|tell|t)\(\"([\w-]+)\"|data-(?:say|label)=\"([\w-]+)\"", content.decode()
        )
        assert {first or second for first, second in shown} <= set(known), name


def chinese():
    """What the page says for the service, by its codes."""
    return set(re.findall(r"^  \"?([\w-]+)\"?: \"", site().files["said.js"].decode(), re.M))


def test_whatever_doctor_finds_has_its_chinese():
    assert {key.removeprefix("found_") for key in chinese() if key.startswith("found_")} == set(get_args(Code))
    assert {key.removeprefix("mend_") for key in chinese() if key.startswith("mend_")} <= set(get_args(Code))


def test_every_reason_why_a_file_is_not_taken_in_has_words():
    kinds = set()
    for module in Path(kbqa.__file__).parent.rglob("*.py"):
        for call in ast.walk(ast.parse(module.read_bytes())):
            if isinstance(call, ast.Call) and getattr(call.func, "id", "") in ("DocumentError", "Found"):
                told = [given.value for given in call.keywords if given.arg in ("kind", "error_kind")]
                told += call.args[1:2] if call.func.id == "DocumentError" else call.args[4:5]
                kinds |= {each.value for each in told if isinstance(each, ast.Constant)}
    assert len(kinds) > 15
    shown = set(re.findall(r"^  \"?why_([\w-]+)\"?: \[", site().files["words.js"].decode(), re.M))
    assert kinds <= shown


def test_a_passage_comes_with_its_surroundings(running):
    source, (start, end) = cited(running, "病假工资怎么发？")
    told = passage(running, source, start, end).json()
    assert (told["source"], told["title"]) == (source, "员工手册")
    assert "".join(part["text"] for part in told["parts"] if part["cited"]).replace("\n", "") in HANDBOOK.replace(
        "\n", ""
    )
    assert {part["heading"] for part in told["parts"]} == {"员工手册 > 第三章 休假"}
    assert not told["more_before"]
    inside = passage(running, source, start + 2, start + 6, around=0).json()
    assert "".join(part["text"] for part in inside["parts"]) == HANDBOOK[HANDBOOK.index("工作满一年") :][2:6]
    assert inside["more_before"]
    assert inside["more_after"]


def test_a_passage_of_an_answer_is_its_quote(running, model):
    model.says("病假须提交医院证明。", "连续出差超过十天的，还须分管副总经理批准。")
    for citation in running.ask("病假和出差怎么批准？").json()["citations"]:
        told = passage(running, citation["source"], *citation["span"]).json()
        assert "".join(part["text"] for part in told["parts"] if part["cited"]) == citation["quote"]


def test_surroundings_begin_and_end_with_sentences(tmp_path):
    sentences = [f"第{number}条规定编号为{number}的设备由专人保管，不得外借。" for number in range(400)]
    home = tmp_path / "home"
    installation = Installation(Home(home), Config())
    text = "".join(sentences)
    installation.add_documents("default", [Document("规定", "规定", (Block("text", text),), digest="0" * 64)])
    with serving(home) as running:
        start = text.index(sentences[200])
        told = passage(running, "规定", start, start + len(sentences[200]), around=100).json()
    shown = "".join(part["text"] for part in told["parts"])
    assert [part["text"] for part in told["parts"] if part["cited"]] == [sentences[200]]
    assert text.count(shown) == 1
    assert shown.startswith("第19")
    assert shown.endswith("不得外借。")
    assert len(sentences[200]) + 100 < len(shown) < len(sentences[200]) + 200
    assert told["more_before"]
    assert told["more_after"]


@pytest.mark.parametrize(
    ("source", "start", "end", "status", "said"),
    [
        ("员工手册.md", 5, 5, 422, "above start"),
        ("员工手册.md", 9, 2, 422, "above start"),
        ("员工手册.md", 0, passages.LONGEST + 1, 422, "at most"),
        ("员工手册.md", 10**8, 10**8 + 5, 404, "has changed since"),
        ("没有.md", 0, 5, 404, "has no document '没有.md'"),
        ("../员工手册.md", 0, 5, 404, ""),
    ],
)
def test_a_passage_that_is_none_is_told_of(running, source, start, end, status, said):
    response = passage(running, source, start, end)
    assert response.status_code == status, response.text
    assert said in response.json()["error"]["message"]


def test_the_page_of_a_pdf_comes_as_a_picture_with_its_passage_marked(running, model):
    model.says("连续出差超过十天的，还须分管副总经理批准。")
    citation = running.ask("出差超过十天由谁批准？").json()["citations"][0]
    assert (citation["source"], citation["page"]) == (TRAVEL, 1)
    start, end = citation["span"]
    address = f"/api/v1/kb/default/pages/{TRAVEL}"
    marked = running.http.get(address, params={"page": 1, "start": start, "end": end, "width": 300})
    plain = running.http.get(address, params={"page": 1, "width": 300})
    for picture in (marked, plain):
        assert picture.headers["content-type"] == "image/png"
        assert picture.content.startswith(b"\x89PNG\r\n\x1a\n")
    assert marked.content != plain.content


@pytest.mark.parametrize(
    ("source", "params", "status", "said"),
    [
        (TRAVEL, {"page": 99}, 404, "no page 99"),
        (TRAVEL, {"page": 0}, 422, "page"),
        (TRAVEL, {"page": 1, "width": 100_000}, 422, "width"),
        ("员工手册.md", {"page": 1}, 422, "is no PDF"),
        ("没有.pdf", {"page": 1}, 404, "has no file"),
        ("..%2f..%2fconfig.pdf", {"page": 1}, 404, "has no file"),
    ],
)
def test_a_page_that_cannot_be_shown_is_told_of(running, source, params, status, said):
    response = running.http.get(f"/api/v1/kb/default/pages/{source}", params=params)
    assert response.status_code == status, response.text
    assert said in response.json()["error"]["message"]


def test_a_broken_pdf_costs_nobody_but_itself(running, built):
    (built / "knowledge" / "default" / "坏的.pdf").write_bytes(
        b"%PDF-1.7\n" + b"1 0 obj << /Type /Catalog >> endobj" * 9
    )
    try:
        response = running.http.get("/api/v1/kb/default/pages/坏的.pdf", params={"page": 1})
    finally:
        (built / "knowledge" / "default" / "坏的.pdf").unlink()
    assert response.status_code == 422
    assert "坏的.pdf" in response.json()["error"]["message"]
    assert running.http.get("/healthz").status_code == 200


def test_the_status_says_who_answers_and_what_the_key_may_do(running):
    told = running.http.get("/api/v1/status").json()
    assert told["generator"] == {"kind": "extractive", "name": "chatglm3-6b", "writes": True}
    assert told["caller"] == {"name": "local", "scope": "admin"}
    assert ".pdf" in told["uploads"]["suffixes"]
    found = running.http.get("/api/v1/doctor").json()
    assert "base default" in {finding["subject"] for finding in found["findings"]}
    assert found["failed"] == 0


def test_a_key_for_one_base_sees_that_base_and_no_findings(built):
    with serving(built) as running:
        keys = [
            running.service.keys.add("读", bases=["default"]),
            running.service.keys.add("管", "admin", bases=["别的"]),
        ]
        reader, other = (running.with_key(key.secret) for key in keys)
        try:
            assert running.http.get("/").status_code == 200
            assert running.http.get("/api/v1/status").status_code == 401
            assert reader.http.get("/api/v1/status").json()["caller"] == {"name": "读", "scope": "read"}
            assert other.http.get("/api/v1/status").json()["default"] is None
            assert [who.http.get("/api/v1/doctor").status_code for who in (reader, other)] == [403, 403]
            for path in ("passages/员工手册.md?start=20&end=25", f"pages/{TRAVEL}?page=1"):
                got = [who.http.get(f"/api/v1/kb/default/{path}").status_code for who in (running, reader, other)]
                assert got == [401, 200, 403]
        finally:
            for key in keys:
                running.service.keys.revoke(key.key.name)


# --- in a browser ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser():
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        found, sync_playwright = None, None
    if found is None:
        missing = "the page needs Chromium (apt-get install chromium) and playwright to be tested"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    as_root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=[*as_root, "--disable-dev-shm-usage"])
        yield chromium
        chromium.close()


@pytest.fixture
def visit(browser):
    """`visit(running, "#documents", locale=...)`: the page, which may complain of nothing and ask no other host."""
    opened = []

    def visit(running, view="", expected=(), **settings):
        settings = {"locale": "zh-CN", "viewport": {"width": 1280, "height": 800}, **settings}
        context = browser.new_context(**settings)
        page = context.new_page()
        page.set_default_timeout(20_000)
        wrong = []
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("console", lambda said: wrong.append(f"{said.type}: {said.text}"))
        page.on(
            "request", lambda asked: wrong.append(asked.url) if not asked.url.startswith((running.url, "blob:")) else 0
        )
        opened.append((context, wrong, expected))
        page.goto(f"{running.url}/{view}")
        return page

    yield visit
    for context, wrong, expected in opened:
        context.close()
        assert [line for line in wrong if not any(part in line for part in expected)] == []


def ask(page, question):
    box = page.get_by_label("问题", exact=True)
    box.fill(question)
    box.press("Enter")


def expect(what):
    from playwright.sync_api import expect

    expect.set_options(timeout=20_000)
    return expect(what)


def test_an_answer_comes_sentence_by_sentence_and_its_citation_opens_the_passage(running, model, visit):
    go_on = threading.Event()
    model.says(TRUE, "年假须提前三个", go_on, "工作日申请。", FALSE)
    page = visit(running)
    ask(page, LEAVE)
    text = page.locator("#ask .text")
    expect(text).to_contain_text(f"{TRUE}1年假须提前三个")
    expect(page.locator("#ask .unchecked")).to_have_text("年假须提前三个")
    expect(page.get_by_role("button", name="停止")).to_be_visible()
    go_on.set()
    expect(page.locator("#ask .actions")).to_be_visible()
    expect(text).to_have_text(f"{TRUE}1年假须提前三个工作日申请。2{FALSE}文档未证实")
    expect(page.locator("#ask .verdict.not")).to_have_text(FALSE)
    expect(page.locator("#ask .note")).to_contain_text("有 1 句未得到文档证实")

    cite = page.get_by_role("button", name="引用 2：员工手册.md")
    cite.click()
    panel = page.locator("#panel")
    expect(panel.locator("mark")).to_have_text("年假须提前三个工作日申请。")
    expect(panel.locator(".passage")).to_contain_text("病假须提交医院证明")
    panel.get_by_role("button", name="上一处引用").click()
    expect(panel.locator("mark")).to_have_text(TRUE)
    page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    expect(cite).to_be_focused()


def test_sentences_are_told_apart_behind_characters_of_two_units(running, model, visit):
    model.says("😀𠮷家的食堂在火星。", TRUE)
    page = visit(running)
    ask(page, LEAVE)
    expect(page.locator("#ask .text")).to_have_text(f"😀𠮷家的食堂在火星。文档未证实{TRUE}1")
    expect(page.locator("#ask .verdict.not")).to_have_text("😀𠮷家的食堂在火星。")


@pytest.mark.parametrize("clipboard", ["navigator", "none, as over HTTP from another machine"])
def test_an_answer_is_copied_with_its_sources(running, model, visit, clipboard):
    page = visit(running, permissions=["clipboard-read", "clipboard-write"])
    ask(page, LEAVE)
    expect(page.locator("#ask .cite")).to_be_visible()
    if clipboard != "navigator":
        page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    page.get_by_role("button", name="复制").click()
    expect(page.get_by_role("button", name="已复制")).to_be_visible()
    page.evaluate("delete navigator.clipboard")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == f"{TRUE}[1]\n\n出处\n[1] 员工手册.md · 员工手册 > 第三章 休假"


def test_the_page_of_a_pdf_is_shown_beside_the_answer(running, model, visit):
    model.says("连续出差超过十天的，还须分管副总经理批准。")
    page = visit(running)
    ask(page, "出差超过十天由谁批准？")
    page.locator("#ask button.source").click()
    picture = page.locator("#panel .sheet img")
    expect(picture).to_have_attribute("alt", f"{TRAVEL} 第 1 页的图像，引用处已标出")
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") == 1000
    page.locator("#panel .sheet").click()
    expect(page.locator("dialog img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    expect(page.locator("#panel")).to_be_visible()


def test_a_refusal_is_shown_as_one_and_a_question_may_follow_up(running, model, visit):
    page = visit(running)
    ask(page, NOWHERE)
    expect(page.locator("#ask .refusal")).to_contain_text("文档中没有答案")
    ask(page, LEAVE)
    expect(page.locator("#ask .cite")).to_have_count(1)
    ask(page, "那满十年的员工呢？")
    expect(page.locator("#ask .turn")).to_have_count(3)
    expect(page.locator("#ask .actions")).to_have_count(3)
    assert LEAVE in [message.content for message in model.requests[-1].messages]
    page.reload()
    expect(page.locator("#ask .turn")).to_have_count(3)
    expect(page.locator("#ask .cite")).to_have_count(2)
    page.get_by_role("button", name="新对话").click()
    expect(page.locator("#ask .turn")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("heading", name="向文档提问")).to_be_visible()
    expect(page.locator("#ask .turn")).to_have_count(0)


def test_stop_ends_the_answer_and_the_work(running, model, visit):
    model.says(TRUE, endless="还有，")
    page = visit(running)
    ask(page, LEAVE)
    expect(page.locator("#ask .text")).to_contain_text("还有，还有，")
    page.get_by_role("button", name="停止").click()
    expect(page.locator("#ask .foot")).to_contain_text("已停止")
    assert model.closed.wait(10), "the model still writes"
    expect(page.locator("#ask .text")).to_contain_text(TRUE)
    expect(page.get_by_role("button", name="发送")).to_be_visible()


def test_a_busy_model_is_told_of_in_clear_words_and_asked_again(running, model, visit):
    model.says(GeneratorBusy("every place in the queue is taken"))
    page = visit(running, expected=["503"])
    ask(page, LEAVE)
    expect(page.get_by_role("alert")).to_contain_text("模型正忙，排队的人太多")
    model.says(TRUE)
    page.get_by_role("button", name="重试").click()
    expect(page.locator("#ask .cite")).to_have_count(1)
    expect(page.get_by_role("alert")).to_have_count(0)


def test_who_waits_for_the_model_is_told_how_many_do(running, model, visit, monkeypatch):
    monkeypatch.setattr(stream, "FIRST", 0.05)
    go_on = threading.Event()
    model.says(go_on, TRUE, load=Load(running=4, waiting=2, slots=4, places=36))
    page = visit(running)
    ask(page, LEAVE)
    expect(page.locator("#ask .waiting")).to_contain_text("模型正在为 4 人作答，2 人排队")
    go_on.set()
    expect(page.locator("#ask .cite")).to_have_count(1)
    expect(page.locator("#ask .waiting")).to_be_hidden()


def test_a_service_that_is_away_is_told_of(running, model, visit):
    page = visit(running, expected=["ERR_INTERNET_DISCONNECTED"])
    expect(page.get_by_label("问题", exact=True)).to_be_visible()
    page.context.set_offline(True)
    ask(page, LEAVE)
    expect(page.get_by_role("alert")).to_contain_text("连接不上服务")
    page.context.set_offline(False)
    page.get_by_role("button", name="重试").click()
    expect(page.locator("#ask .cite")).to_have_count(1)


def test_what_an_answer_was_worth_is_kept(running, model, visit):
    page = visit(running)
    ask(page, "年假要提前多久申请？")
    page.get_by_role("button", name="没有帮助").click()
    page.get_by_label("哪里不对").fill("没有说要提前多久")
    page.get_by_role("button", name="提交").click()
    expect(page.locator(".toast")).to_have_text("谢谢，已记录")
    kept = [one for one in running.service.feedback.all("default") if one.question == "年假要提前多久申请？"]
    assert [(one.rating, one.comment, one.answer) for one in kept] == [("down", "没有说要提前多久", TRUE)]
    assert kept[0].citations[0]["source"] == "员工手册.md"


def test_the_model_is_talked_to_with_its_sliders(running, model, visit):
    model.says("你好！\n\n- 第一\n- **第二**\n\n", "[外链](https://example.com/a)")
    page = visit(running, "#model")
    page.get_by_label("温度").fill("0.3")
    page.get_by_label("最大长度").fill("128")
    box = page.get_by_label("对模型说点什么")
    box.fill("你好")
    box.press("Enter")
    expect(page.locator("#model .actions")).to_contain_text("12 个词元")
    expect(page.locator("#model .list li")).to_have_count(2)
    expect(page.locator("#model strong")).to_have_text("第二")
    link = page.locator("#model .text a")
    expect(link).to_have_attribute("rel", "noopener noreferrer nofollow")
    asked = model.requests[-1]
    assert (asked.temperature, asked.top_p, asked.max_tokens) == (0.3, 0.7, 128)
    box.fill("再说一次")
    box.press("Enter")
    expect(page.locator("#model .actions")).to_have_count(2)
    assert [message.role for message in model.requests[-1].messages] == ["user", "assistant", "user"]
    page.get_by_role("button", name="清空对话").click()
    expect(page.locator("#model .turn")).to_have_count(0)
    page.reload()
    expect(page.get_by_label("温度")).to_have_value("0.3")


def test_what_a_model_writes_never_acts(running, model, visit):
    model.says(
        f"{HOSTILE}\n\n![图](https://evil.example/p.png)\n\n",
        "[点我](javascript:alert(1)) **<b>粗</b>**\n\n| a |\n|---|\n",
        f"| {HOSTILE} |",
    )
    for view, name in (("#ask", "问题"), ("#model", "对模型说点什么…")):
        page = visit(running, view)
        box = page.get_by_label(name, exact=True)
        box.fill(LEAVE)
        box.press("Enter")
        expect(page.locator(f"{view} .actions")).to_be_visible()
        expect(page.locator(f"{view} .text")).to_contain_text("<script>window.pwned=1</script>")
        expect(page.locator(f"{view} .text")).to_contain_text("![图](https://evil.example/p.png)")
        assert page.locator(f"{view} .turn").locator("img, script, iframe, b").count() == 0
        assert all(
            link.startswith("https://")
            for link in page.locator(f"{view} .text a").evaluate_all("all => all.map(a => a.href)")
        )
        assert page.evaluate("window.pwned") is None
        box.fill(HOSTILE)
        box.press("Enter")
        expect(page.locator(f"{view} .question").last).to_have_text(f"你的问题{HOSTILE}")
        expect(page.locator(f"{view} .actions")).to_have_count(2)


def test_what_documents_hold_never_acts(running, model, visit):
    name = "a<img src=x onerror=window.pwned=1>.md"
    Installation(Home(running.service.installation.home.folder), Config()).add_documents(
        "敌意",
        [
            Document(
                name,
                HOSTILE,
                (Block("heading", HOSTILE, 1), Block("text", f"公车由{HOSTILE}统一调度。")),
                digest="0" * 64,
            )
        ],
    )
    model.says(f"公车由{HOSTILE}统一调度。")
    page = visit(running)
    page.get_by_role("combobox", name="知识库").select_option("敌意")
    ask(page, "公车由谁统一调度？")
    page.locator("#ask button.source").click()
    expect(page.locator("#panel .passage")).to_contain_text("<script>")
    expect(page.locator("#panel .about")).to_contain_text(name)
    page.goto(f"{running.url}/#documents")
    expect(page.locator("table.documents")).to_contain_text(name)
    assert page.locator("main img").count() == 0
    assert page.evaluate("window.pwned") is None


def test_files_are_uploaded_listed_with_their_reasons_and_deleted(running, visit, tmp_path):
    (tmp_path / "公告").mkdir()
    for file, content in (
        ("食堂.txt", "食堂每天早上七点开门。".encode()),
        ("坏的.pdf", b"%PDF-1.7 nothing of the kind"),
        ("程序.exe", b"MZ"),
        ("公告/放假.md", "# 放假\n\n春节放假八天。".encode()),
    ):
        (tmp_path / file).write_bytes(content)
    page = visit(running, "#documents")
    page.get_by_role("button", name="新建知识库").click()
    page.get_by_label("名称", exact=True).fill("上传")
    page.get_by_role("button", name="创建").click()
    expect(page.get_by_role("heading", name="上传", exact=True)).to_be_visible()

    page.locator("input[type=file][multiple]").set_input_files(
        [tmp_path / n for n in ("食堂.txt", "坏的.pdf", "程序.exe")]
    )
    rows = page.locator(".uploads li")
    expect(rows.filter(has_text="程序.exe")).to_contain_text("未接受不支持 .exe 文件")
    expect(rows.filter(has_text="食堂.txt")).to_contain_text("已收录")
    expect(rows.filter(has_text="坏的.pdf")).to_contain_text("未能收录文件已损坏")
    listed = page.locator("table.documents tbody tr")
    expect(listed).to_have_count(2)
    expect(listed.filter(has_text="坏的.pdf").locator(".reason")).to_contain_text("文件已损坏")
    page.locator("input[webkitdirectory]").set_input_files(tmp_path / "公告")
    expect(listed.filter(has_text="公告/放假.md")).to_contain_text("1 个段落")

    page.get_by_role("button", name="未能收录").click()
    expect(listed).to_have_count(1)
    page.get_by_role("button", name="删除 坏的.pdf").click()
    page.get_by_role("dialog").get_by_role("button", name="删除", exact=True).click()
    expect(page.locator(".none")).to_have_text("没有符合的文档。")
    page.get_by_role("button", name="全部", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="下载 食堂.txt").click()
    assert Path(download.value.path()).read_text(encoding="utf-8") == "食堂每天早上七点开门。"

    delete_base(page, with_files=True)
    expect(page.locator(".basename", has_text="上传")).to_have_count(0)
    assert not (running.service.installation.home.documents("上传")).exists()


def delete_base(page, with_files):
    page.get_by_role("button", name="删除知识库").click()
    page.get_by_role("dialog").get_by_label("同时删除").set_checked(with_files)
    page.get_by_role("dialog").get_by_role("button", name="删除知识库").click()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_base_that_is_deleted_without_its_files_says_where_they_are_and_how_they_go_too(running, visit):
    installation = running.service.installation
    folder = installation.home.documents("留下")
    folder.mkdir()
    (folder / "车辆.md").write_text("公车由行政部统一调度。", encoding="utf-8")
    installation.ingest("留下")
    page = visit(running, "#documents")
    page.locator(".basename", has_text="留下").click()
    delete_base(page, with_files=False)
    expect(page.locator(".toast")).to_contain_text("不再用于回答；原始文件仍在 knowledge/留下")
    expect(page.locator(".basename", has_text="留下")).to_contain_text("尚未建立")
    expect(page.locator(".basehead")).to_contain_text("“删除知识库”会删除这些文件")
    assert (folder / "车辆.md").is_file()
    page.get_by_role("button", name="删除知识库").click()
    expect(page.get_by_role("dialog")).to_contain_text("knowledge/留下 中的原始文件将全部删除，无法恢复")
    page.get_by_role("dialog").get_by_role("button", name="删除知识库").click()
    expect(page.locator(".basename", has_text="留下")).to_have_count(0)
    assert not folder.exists()


def test_a_job_that_waits_says_for_what_and_is_cancelled_with_the_keyboard(running, visit):
    installation = running.service.installation
    installation.create("等待")
    page = visit(running, "#documents")
    page.locator(".basename", has_text="等待").click()
    with installation.store("等待") as store, store.write():
        page.get_by_role("button", name="检查文件夹").click()
        page.get_by_role("dialog").get_by_role("button", name="检查文件夹").click()
        expect(page.locator(".job")).to_contain_text("知识库正由别的程序写入，等它完成…")
        cancel = page.get_by_role("button", name="取消任务")
        cancel.focus()
        asked = page.locator(".job .one span")
        drawn = asked.element_handle()
        wait_until(lambda: not drawn.evaluate("node => node.isConnected"))  # the card is drawn anew,
        expect(cancel).to_be_focused()  # and what has the focus keeps it
        page.keyboard.press("Enter")
        expect(page.locator(".toast")).to_have_text("任务已取消")


def test_each_file_that_is_not_accepted_has_its_own_reason_in_chinese(running, visit, tmp_path):
    running.service.installation.create("拒收")
    names = {"~$锁.docx": "是隐藏文件或程序的临时文件", "con.txt": "文件名不能用，请改名"}
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    page = visit(running, "#documents", expected=["422"])
    page.locator(".basename", has_text="拒收").click()
    expect(page.get_by_role("heading", name="拒收", exact=True)).to_be_visible()
    page.locator("input[type=file][multiple]").set_input_files([tmp_path / name for name in names])
    for name, why in names.items():
        row = page.locator(".uploads li").filter(has_text=name)
        expect(row).to_contain_text(f"未接受{why}")
        expect(row.locator(".said")).to_contain_text(name)  # in the service's own words


def test_a_job_that_fails_says_why_in_chinese_until_it_is_dismissed(running, visit):
    installation = running.service.installation
    folder = installation.home.documents("空了")
    folder.mkdir()
    (folder / "车辆.md").write_text("公车由行政部统一调度。", encoding="utf-8")
    installation.ingest("空了")
    (folder / "车辆.md").unlink()
    page = visit(running, "#documents")
    page.locator(".basename", has_text="空了").click()
    page.get_by_role("button", name="检查文件夹").click()
    page.get_by_role("dialog").get_by_role("button", name="检查文件夹").click()
    failure = page.locator(".job.bad")
    expect(failure).to_contain_text("文件夹里一个文档也没有了")
    expect(failure.locator(".said")).to_contain_text("knowledge/空了")
    failure.get_by_role("button", name="收起").click()
    expect(failure).to_have_count(0)


def test_dropped_files_are_taken_in_and_another_of_the_same_name_only_when_that_is_meant(running, visit):
    running.service.installation.create("拖放")
    page = visit(running, "#documents", expected=["422"])
    page.locator(".basename", has_text="拖放").click()
    expect(page.get_by_role("heading", name="拖放", exact=True)).to_be_visible()
    drop = """(view, text) => {
        const held = new DataTransfer();
        held.items.add(new File([text], "制度.txt"));
        view.dispatchEvent(new DragEvent("drop", { dataTransfer: held, bubbles: true }));
    }"""
    rows = page.locator(".uploads li")
    page.locator("#documents .content").evaluate(drop, "公车由行政部统一调度。")
    expect(rows.first).to_contain_text("已收录")
    page.locator("#documents .content").evaluate(drop, "公车由车队统一调度。")
    expect(rows.first).to_contain_text("已有同名但内容不同的文件")
    page.get_by_label("覆盖同名文件").check()
    page.locator("#documents .content").evaluate(drop, "公车由车队统一调度。")
    expect(rows.first).to_contain_text("已更新")
    assert "车队" in running.search("公车由谁调度？", kb="拖放").json()["hits"][0]["text"]


def test_what_is_dropped_and_cannot_be_read_is_told_and_the_rest_goes_in(running, visit):
    running.service.installation.create("读不了")
    page = visit(running, "#documents")
    page.locator(".basename", has_text="读不了").click()
    expect(page.get_by_role("heading", name="读不了", exact=True)).to_be_visible()
    page.locator("#documents .content").evaluate(  # as browsers tell of a folder; one of its files is locked
        """view => {
            const good = new File(["食堂每天早上七点开门。"], "食堂.txt");
            const bad = new DOMException("It is in use.", "NotReadableError");
            const lost = new DOMException("It is gone.", "NotFoundError");
            const changed = new File(["x"], "改动.txt");
            changed.slice = () => ({ arrayBuffer: () => Promise.reject(bad) }); // as when it was written to meanwhile
            const gone = { readEntries: (resolve, reject) => reject(lost) };
            const files = [
                { isFile: true, fullPath: "/公告/食堂.txt", file: (resolve) => resolve(good) },
                { isFile: true, fullPath: "/公告/改动.txt", file: (resolve) => resolve(changed) },
                { isFile: true, fullPath: "/公告/占用.txt", file: (resolve, reject) => reject(bad) },
                { isFile: false, fullPath: "/公告/丢失", createReader: () => gone },
            ];
            const readEntries = (resolve) => resolve(files.splice(0));
            const folder = { isFile: false, fullPath: "/公告", createReader: () => ({ readEntries }) };
            const drop = new Event("drop", { bubbles: true, cancelable: true });
            drop.dataTransfer = { types: ["Files"], files: [], items: [{ webkitGetAsEntry: () => folder }] };
            view.dispatchEvent(drop);
        }"""
    )
    rows = page.locator(".uploads li")
    expect(rows.filter(has_text="公告/占用.txt")).to_contain_text("未接受无法打开文件It is in use.")
    expect(rows.filter(has_text="公告/丢失")).to_contain_text("未接受无法打开文件It is gone.")
    expect(rows.filter(has_text="公告/改动.txt")).to_contain_text("未接受无法打开文件It is in use.")
    expect(rows.filter(has_text="公告/食堂.txt")).to_contain_text("已收录")


def test_somebody_new_is_led_to_the_first_upload_and_the_first_answer(visit, tmp_path):
    (tmp_path / "员工手册.md").write_text(HANDBOOK, encoding="utf-8")
    with serving(tmp_path / "home") as running:
        page = visit(running)
        expect(page.get_by_role("heading", name="还没有文档")).to_be_visible()
        page.get_by_role("link", name="上传第一批文档").click()
        page.locator("input[type=file][multiple]").set_input_files(tmp_path / "员工手册.md")
        expect(page.locator("table.documents")).to_contain_text("员工手册.md")
        page.get_by_role("link", name="模型").click()
        expect(page.get_by_role("heading", name="没有配置模型")).to_be_visible()
        page.get_by_role("link", name="提问").click()
        ask(page, LEAVE)
        expect(page.locator("#ask .cite").first).to_have_text("1")
        expect(page.locator("#ask .text")).to_contain_text("10天年假")


def test_language_and_appearance_are_by_the_browser_until_they_are_chosen(running, visit):
    page = visit(running, locale="en-US", color_scheme="dark")
    expect(page.get_by_role("heading", name="Ask your documents")).to_be_visible()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="切换到中文").click()
    expect(page.get_by_role("heading", name="向文档提问")).to_be_visible()
    expect(page.locator(".lead").first).to_contain_text("中有 2 个文档")
    page.get_by_role("button", name="外观：跟随系统").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.emulate_media(color_scheme="light")  # what was chosen holds, and is light already
    page.reload()
    expect(page.get_by_role("heading", name="向文档提问")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    expect(page.get_by_role("button", name="外观：浅色")).to_be_visible()


def test_appearance_follows_the_system_while_the_page_is_open(running, visit):
    page = visit(running, color_scheme="light")
    shade = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(shade)
    page.emulate_media(color_scheme="dark")
    wait_until(lambda: page.evaluate(shade) != light)
    page.get_by_role("button", name="外观：跟随系统").click()
    wait_until(lambda: page.evaluate(shade) == light)
    page.get_by_role("button", name="外观：浅色").click()
    wait_until(lambda: page.evaluate(shade) != light)
    page.emulate_media(color_scheme="light")
    expect(page.get_by_role("button", name="外观：深色")).to_be_visible()
    assert page.evaluate(shade) != light


def test_what_keeps_the_page_from_beginning_takes_the_place_of_every_view(built, visit):
    with serving(built) as running:
        running.service.keys.add("谁")
        try:
            page = visit(running, expected=["401"])
            page.get_by_role("dialog").get_by_role("button", name="取消").click()
            for view in ("文档", "状态", "提问"):
                page.get_by_role("link", name=view).click()
                expect(page.locator("main > :visible")).to_have_count(1)
                expect(page.locator(".trouble")).to_contain_text("需要有效的密钥。这个服务需要 API 密钥")
            expect(page).to_have_title("提问 · kbqa")
        finally:
            running.service.keys.revoke("谁")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(built, visit):
    with serving(built) as running:
        key = running.service.keys.add("读者")
        try:
            page = visit(running, expected=["401"])
            prompt = page.get_by_role("dialog")
            expect(prompt).to_contain_text("需要密钥")
            prompt.get_by_label("API 密钥").fill("kbqa_wrong")
            prompt.get_by_role("button", name="进入").click()
            expect(prompt).to_contain_text("密钥不对、已过期或已撤销")
            prompt.get_by_label("API 密钥").fill("ｋｂｑａ＿密钥")  # which no header can hold
            prompt.get_by_role("button", name="进入").click()
            expect(prompt).to_contain_text("密钥不对")
            prompt.get_by_label("API 密钥").fill(key.secret)
            prompt.get_by_role("button", name="进入").click()
            expect(page.get_by_role("heading", name="向文档提问")).to_be_visible()
            ask(page, LEAVE)
            expect(page.locator("#ask .cite").first).to_be_visible()
            page.reload()
            expect(page.locator("#ask .cite").first).to_be_visible()
            assert key.secret not in str(page.evaluate("Object.values(localStorage)"))
            page.get_by_role("link", name="文档").click()
            expect(page.locator("table.documents")).to_be_visible()
            expect(page.get_by_role("button", name="选择文件", exact=True)).to_be_hidden()
            assert page.get_by_role("button", name="删除").count() == 0
            page.get_by_role("link", name="状态").click()
            expect(page.locator("#status")).to_contain_text("读者 · 只能提问")
        finally:
            running.service.keys.revoke("读者")


def test_the_status_view_tells_of_the_service_and_its_bases(running, visit):
    page = visit(running, "#status")
    expect(page.locator("#status .facts")).to_contain_text("chatglm3-6b")
    expect(page.locator("#status .figures")).to_contain_text("default")
    page.get_by_text("项正常").click()
    found = page.locator("#status details[open]")
    expect(found).to_contain_text("sqlite")
    expect(found).to_contain_text(re.compile(r"磁盘.*所在磁盘剩余 [\d.]+ GB"))
    expect(found).to_contain_text(re.compile(r"知识库 default \d+ 个文档，\d+ 个段落"))
    page.get_by_role("button", name="Switch to English").click()
    expect(found).to_contain_text(re.compile(r"disk [\d.]+ GiB free in "))


@pytest.mark.parametrize("locale", ["zh-CN", "en-US"])
def test_on_a_phone_nothing_is_wider_than_the_screen(running, model, visit, locale):
    Installation(Home(running.service.installation.home.folder), Config()).add_documents(
        "长" * 40, [Document("很" * 120 + ".md", "x" * 200, (Block("text", "y" * 3000),), digest="0" * 64)]
    )
    model.says(
        TRUE,
        "x" * 400,
        "\n\n| " + " | ".join("列" * 9 for _ in range(9)) + " |\n|" + "---|" * 9 + "\n\n```\n" + "z" * 300,
    )
    page = visit(running, locale=locale, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    box = page.locator("#ask textarea")
    for number, question in enumerate((LEAVE, "w" * 300), 1):
        box.fill(question)
        box.press("Enter")
        expect(page.locator("#ask .actions")).to_have_count(number)

    def sideways():
        return page.evaluate(
            """[...document.querySelectorAll("html, body, main, .view, .thread, .content, #panel .inside")]
                .filter(node => node.scrollWidth > node.clientWidth + 1).map(node => node.id || node.className)"""
        )

    assert sideways() == []
    page.locator("#ask .cite").first.click()
    expect(page.locator("#panel mark")).to_be_visible()
    assert sideways() == []
    page.locator("#panel button.close").click()
    for view in ("model", "documents", "status"):
        page.locator(f"[data-view={view}]").click()
        expect(page.locator(f"#{view}")).to_be_visible()
        if view == "documents":
            page.locator(".basename", has_text="长长").click()
            expect(page.locator("table.documents")).to_contain_text("很很")
        assert sideways() == [], view


def test_the_page_can_be_used_with_the_keyboard_alone(running, model, visit):
    page = visit(running)
    expect(page.get_by_label("问题", exact=True)).to_be_focused()
    page.keyboard.type(LEAVE)
    page.keyboard.press("Enter")
    cite = page.locator("#ask .cite")
    expect(cite).to_be_visible()
    page.keyboard.press("Shift+Tab")
    wait_until(lambda: page.evaluate("document.activeElement.matches('button')"))
    cite.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#panel mark")).to_have_text(TRUE)
    expect(page.locator("#panel button.close")).to_be_focused()
    page.keyboard.press("Enter")
    expect(cite).to_be_focused()


def test_who_uses_the_keyboard_goes_on_where_he_was(running, visit):
    home = running.service.installation.home.folder
    told = [Document(f"{name}.md", name, (Block("text", f"{name}的内容。"),), digest="0" * 64) for name in "甲乙丙"]
    Installation(Home(home), Config()).add_documents("键盘", told)
    page = visit(running, "#documents")
    base = page.locator(".basename", has_text="键盘")
    base.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="键盘", exact=True)).to_be_visible()
    expect(base).to_be_focused()
    page.get_by_role("button", name="删除 乙.md").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="取消")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="删除 乙.md")).to_have_count(0)
    expect(page.get_by_role("button", name="删除 甲.md")).to_be_focused()  # which comes behind it
