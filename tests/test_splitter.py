import random
import re
from itertools import pairwise
from pathlib import Path

import pytest

from kbqa.build import Installation
from kbqa.config import Config, Home, SplitterConfig
from kbqa.errors import ConfigError
from kbqa.readers import ReadOptions, read
from kbqa.splitter import Splitter, in_words
from kbqa.types import Block, Document

WORDS = "员工 年假 差旅 报销 合同 服务器 备份 集群 region 审批 2024 GB/T-7714 住宿 每晚 电话 例外 version".split()
ENDS = ["。", "！", "；", "？", ". ", "。\n", "……"]


def document(*blocks: Block, source: str = "制度/手册.md") -> Document:
    return Document(source, "手册", blocks, "d" * 64)


def text(words: str, page: int | None = None) -> Block:
    return Block("text", words, page=page)


def heading(words: str, level: int) -> Block:
    return Block("heading", words, level=level)


def table(rows: int, page: int | None = None) -> Block:
    lines = ["地区 | 产品 | 金额", *(f"地区{row} | 产品{row}。系列 | {row * 37}.50" for row in range(rows))]
    return Block("table", "\n".join(lines), header_rows=1, page=page)


def random_document(seed: int) -> Document:
    """Headings of all levels, paragraphs of one word to thousands, tables, code, page changes."""
    chance = random.Random(seed)
    page = 1
    blocks: list[Block] = []
    for number in range(chance.randint(1, 25)):
        page += chance.random() < 0.3
        kind = chance.choice(["heading", "text", "text", "text", "table", "code"])
        if kind == "heading":
            blocks.append(Block("heading", f"{number} {chance.choice(WORDS)}", chance.randint(1, 4), page))
        elif kind == "table":
            blocks.append(table(chance.randint(1, 30), page))
        elif kind == "code":
            lines = [" " * chance.randint(0, 6) + f"print({n})  # {chance.choice(WORDS)}" for n in range(12)]
            blocks.append(Block("code", "\n".join(lines), page=page))
        else:
            some = [
                chance.choice(WORDS) + chance.choice(["", "", "，", chance.choice(ENDS)])
                for _ in range(chance.choice([1, 5, 40, 400]))
            ]
            blocks.append(text("".join(some).strip(), page))
    return document(*blocks)


def covered(doc: Document, config: SplitterConfig) -> set[int]:
    return {at for chunk in Splitter(config).split(doc) for at in range(*chunk.span)}


def not_blank(doc: Document) -> set[int]:
    """The offsets of all characters outside of headings that are not white space."""
    offsets, start = set(), 0
    for block in doc.blocks:
        if block.kind != "heading":
            offsets |= {start + at for at, c in enumerate(block.text) if not c.isspace()}
        start += len(block.text) + 2
    return offsets


def row_spans(doc: Document) -> list[tuple[int, int]]:
    spans, start = [], 0
    for block in doc.blocks:
        if block.kind == "table":
            at = start
            for line in block.text.split("\n"):
                spans.append((at, at + len(line)))
                at += len(line) + 1
        start += len(block.text) + 2
    return spans


CONFIGS = [SplitterConfig(), SplitterConfig(size=80, overlap=20), SplitterConfig(size=50, overlap=0)]


# --- what holds for every document -----------------------------------------------------------------------------------


def check_properties(doc: Document, config: SplitterConfig) -> None:
    chunks = Splitter(config).split(doc)
    whole = doc.text
    assert [chunk.ordinal for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.text == whole[slice(*chunk.span)]
        assert chunk.text.strip()
        assert (chunk.source, chunk.title) == (doc.source, doc.title)
    assert all(a.span[0] < b.span[0] and a.span[1] < b.span[1] for a, b in pairwise(chunks))
    assert not_blank(doc) <= covered(doc, config)
    assert chunks == Splitter(config).split(doc)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.size}/{config.overlap}")
@pytest.mark.parametrize("seed", range(25))
def test_chunks_are_spans_of_the_document_and_leave_nothing_out(seed, config):
    check_properties(random_document(seed), config)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.size}/{config.overlap}")
@pytest.mark.parametrize("seed", range(25))
def test_no_chunk_begins_or_ends_inside_a_table_row(seed, config):
    doc = random_document(seed)
    edges = {edge for chunk in Splitter(config).split(doc) for edge in chunk.span}
    assert not [(start, end) for start, end in row_spans(doc) for edge in edges if start < edge < end]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.size}/{config.overlap}")
@pytest.mark.parametrize("seed", range(25))
def test_chunks_keep_to_the_size(seed, config):
    """White space between sentences is not counted; rows are never cut, so one that is longer stands alone."""
    splitter = Splitter(config)
    for chunk in splitter.split(random_document(seed)):
        counted = splitter.length(re.sub(r"\s", "", chunk.text))
        assert counted <= config.size + 1 or len(chunk.text.splitlines()) == 1  # 1: parts are rounded up


@pytest.mark.parametrize("name", ["*报销管理办法.docx", "*.html", "信息安全*.txt", "*销售数据.xlsx", "*指南.pptx"])
def test_it_holds_for_what_readers_make_of_real_files(name, testdata):
    (file,) = (testdata / "data" / "minikb" / "files").glob(name)
    check_properties(read(file, file.name, ReadOptions()), SplitterConfig(size=100, overlap=30))


# --- sections --------------------------------------------------------------------------------------------------------


def test_a_chunk_knows_the_headings_above_it():
    doc = document(
        text("前言。"),
        heading("第三章 差旅", 1),
        text("总则。"),
        heading("3.2 住宿", 2),
        text("每晚四百元。"),
        heading("第四章 年假", 1),
        text("十天。"),
    )
    assert [(chunk.text, chunk.heading) for chunk in Splitter().split(doc)] == [
        ("前言。", ""),
        ("总则。", "第三章 差旅"),
        ("每晚四百元。", "第三章 差旅 > 3.2 住宿"),
        ("十天。", "第四章 年假"),
    ]


def test_a_heading_with_nothing_below_it_is_a_chunk_of_its_own():
    doc = document(heading("附录", 1), heading("表一 联系人", 2), heading("表二", 2), text("见背面。"))
    assert [(chunk.text, chunk.heading) for chunk in Splitter().split(doc)] == [
        ("表一 联系人", "附录"),
        ("见背面。", "附录 > 表二"),
    ]


def test_the_last_line_of_a_document_may_be_a_heading():
    assert [chunk.text for chunk in Splitter().split(document(text("正文。"), heading("完", 1)))] == ["正文。", "完"]


def test_an_empty_document_has_no_chunks():
    assert Splitter().split(document()) == []
    assert Splitter().split(document(text(" \n "))) == []


# --- sentences, overlap ----------------------------------------------------------------------------------------------


def test_chunks_end_at_sentence_ends_and_come_out_about_equally_long():
    sentences = [f"第{n}条规定员工应当在三个工作日之内提交申请。" for n in range(30)]
    chunks = Splitter(SplitterConfig(size=300, overlap=0)).split(document(text("".join(sentences))))
    assert all(chunk.text.endswith("。") for chunk in chunks)
    assert "".join(chunk.text for chunk in chunks) == "".join(sentences)
    lengths = [len(chunk.text) for chunk in chunks]
    assert min(lengths) > 0.7 * max(lengths)


def test_a_chunk_begins_with_the_last_sentences_of_the_one_before():
    sentences = [f"第{n:02}条是十个字的。" for n in range(40)]  # 10 characters each
    chunks = Splitter(SplitterConfig(size=100, overlap=25)).split(document(text("".join(sentences))))
    assert len(chunks) > 3
    for before, after in pairwise(chunks):
        repeated = before.span[1] - after.span[0]
        assert repeated == 20
        assert before.text.endswith(after.text[:repeated])


def test_overlap_does_not_reach_across_a_heading():
    doc = document(heading("一", 1), text("甲" * 30 + "。"), heading("二", 1), text("乙" * 30 + "。"))
    first, second = Splitter(SplitterConfig(size=50, overlap=25)).split(doc)
    assert (set(first.text), set(second.text)) == ({"甲", "。"}, {"乙", "。"})


def test_a_sentence_longer_than_a_chunk_is_cut_at_a_comma_where_there_is_one():
    clause = "员工因公出差期间发生的交通费用，"
    chunks = Splitter(SplitterConfig(size=50, overlap=0)).split(document(text(clause * 10 + "据实报销。")))
    assert all(chunk.text.endswith(("，", "。")) for chunk in chunks)
    assert max(len(chunk.text) for chunk in chunks) <= 50


def test_text_without_any_cut_is_cut_anywhere():
    chunks = Splitter(SplitterConfig(size=50, overlap=0)).split(document(text("字" * 120)))
    assert [len(chunk.text) for chunk in chunks] == [50, 50, 20]


def test_ten_megabytes_without_a_line_break_is_cut_in_no_noticeable_time():
    """Such lines are real: minified JSON, base64. Copying the rest of the line for every chunk would take hours."""
    length = 10_000_000
    chunks = Splitter(SplitterConfig(size=1000, overlap=0)).split(document(text("字" * length)))
    assert sum(len(chunk.text) for chunk in chunks) == length


def test_a_line_that_begins_with_much_white_space_makes_no_empty_chunk():
    doc = document(Block("code", " " * 400 + "return 年假"))
    assert [chunk.text for chunk in Splitter(SplitterConfig(size=50, overlap=0)).split(doc)] == ["return 年假"]


def test_a_latin_letter_counts_two_fifths_of_a_chinese_character():
    config = SplitterConfig(size=100, overlap=0)
    english = Splitter(config).split(document(text("Annual leave is granted after one year. " * 30)))
    chinese = Splitter(config).split(document(text("员工入职满一年之后享有年假。" * 30)))
    assert 200 < max(len(chunk.text) for chunk in english) <= 250
    assert max(len(chunk.text) for chunk in chinese) <= 100


# --- tables ----------------------------------------------------------------------------------------------------------


def test_rows_that_continue_a_table_carry_its_header():
    chunks = Splitter(SplitterConfig(size=100, overlap=30)).split(document(table(20)))
    assert len(chunks) > 2
    assert chunks[0].preface == ""
    assert chunks[0].text.startswith("地区 | 产品 | 金额\n地区0")
    assert {chunk.preface for chunk in chunks[1:]} == {"地区 | 产品 | 金额"}
    assert all(chunk.passage.startswith("地区 | 产品 | 金额\n") for chunk in chunks)


def test_rows_are_never_repeated_in_the_overlap():
    chunks = Splitter(SplitterConfig(size=100, overlap=50)).split(document(table(20)))
    assert all(before.span[1] < after.span[0] for before, after in pairwise(chunks))


def test_a_row_beyond_all_measure_is_cut_after_all():
    row = "说明 | " + "很长的单元格，" * 200
    chunks = Splitter(SplitterConfig(size=100, overlap=0)).split(
        document(Block("table", f"项 | 值\n{row}", header_rows=1))
    )
    assert max(len(chunk.text) for chunk in chunks) <= 400
    assert {chunk.preface for chunk in chunks[1:]} <= {"项 | 值", ""}


# --- pages -----------------------------------------------------------------------------------------------------------


def test_a_chunk_knows_on_which_page_each_of_its_characters_stands():
    doc = document(text("第一页的话。", 1), text("第二页的话。", 2), text("还在第二页。", 2), text("第四页的话。", 4))
    (chunk,) = Splitter().split(doc)
    assert chunk.page == 1
    assert [page for _, page in chunk.breaks] == [2, 4]
    assert {word: chunk.page_at(doc.text.index(word)) for word in ("第一页", "第二页", "还在", "第四页")} == {
        "第一页": 1,
        "第二页": 2,
        "还在": 2,
        "第四页": 4,
    }


def test_without_pages_a_chunk_has_none():
    (chunk,) = Splitter().split(document(text("没有页码。")))
    assert (chunk.page, chunk.breaks, chunk.page_at(0)) == (None, (), None)


# --- tokens ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """One token a Chinese character, one a Latin word."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    cut = tokenizers.pre_tokenizers
    made.pre_tokenizer = cut.Sequence(
        [cut.WhitespaceSplit(), cut.Split(tokenizers.Regex(r"[\u4e00-\u9fff。]"), "isolated")]
    )
    path = tmp_path / "tokenizer.json"
    made.save(str(path))
    return path


def test_sizes_can_be_counted_in_tokens(tokenizer):
    config = SplitterConfig(size=60, overlap=10, tokenizer=str(tokenizer))
    doc = document(text("The quick brown fox jumps over it. " * 40), text("员工每年享有十天年假。" * 40))
    splitter = Splitter(config)
    chunks = splitter.split(doc)
    check_properties(doc, config)
    assert 40 < max(splitter.length(chunk.text) for chunk in chunks) <= 60
    assert max(len(chunk.text) for chunk in chunks) > 200  # an English word is one token and many characters


@pytest.mark.parametrize("seed", range(5))
def test_counting_in_tokens_leaves_nothing_out_either(seed, tokenizer):
    check_properties(random_document(seed), SplitterConfig(size=50, overlap=10, tokenizer=str(tokenizer)))


def test_the_fingerprint_tells_settings_apart(tokenizer):
    configs = [
        SplitterConfig(),
        SplitterConfig(size=200),
        SplitterConfig(overlap=20),
        SplitterConfig(tokenizer=str(tokenizer)),
    ]
    assert len({Splitter(config).fingerprint for config in configs}) == 4
    assert Splitter(SplitterConfig()).fingerprint == Splitter().fingerprint


def test_settings_are_told_in_words(tokenizer):
    assert in_words(Splitter().fingerprint) == "size 400, overlap 50, in characters"
    by_tokens = in_words(Splitter(SplitterConfig(size=60, overlap=10, tokenizer=str(tokenizer))).fingerprint)
    assert re.fullmatch(r"size 60, overlap 10, in tokens of tokenizer \w{12}", by_tokens)
    assert in_words("1:400:50:characters") == "size 400, overlap 50, in characters, by version 1 of the splitter"


def test_a_tokenizer_is_looked_for_in_the_home_folder(tokenizer, monkeypatch):
    home = tokenizer.parent
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    named = Installation(Home(home), Config(splitter=SplitterConfig(tokenizer="tokenizer.json"))).splitter
    assert named.fingerprint == Splitter(SplitterConfig(tokenizer=str(tokenizer))).fingerprint


def test_a_broken_tokenizer_is_named(tmp_path):
    broken = tmp_path / "tokenizer.json"
    for content in (None, "{}", "不是 JSON"):
        if content is not None:
            broken.write_text(content, encoding="utf-8")
        with pytest.raises(ConfigError, match=r"splitter\.tokenizer: .*tokenizer\.json"):
            Splitter(SplitterConfig(tokenizer=str(broken)))
