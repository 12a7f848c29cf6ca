"""The doors to LangChain. docs/langchain.md is run here, block by block."""

import asyncio
import base64
import io
import os
import pickle
import re
import shutil
import subprocess
import sys
import warnings
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import yaml

pytest.importorskip("langchain_core", reason="LangChain is not installed: pip install 'kbqa[langchain]'")
from langchain_core.documents import Document as LangChainDocument
from langchain_text_splitters import RecursiveCharacterTextSplitter

from kbqa.bridge import KbqaEmbeddings, KbqaRetriever, from_langchain, import_langchain, open_retriever
from kbqa.bridge.faiss_folder import MAX_BYTES
from kbqa.build import Installation
from kbqa.config import Config, GeneratorConfig, Home, RetrievalConfig
from kbqa.documents import safe_source
from kbqa.errors import DocumentError, UnknownKnowledgeBase

LEAVE = "员工每年享有十天年假。未休的年假可以顺延到次年三月。"
TRAVEL = "差旅住宿标准为每晚四百元。"
TABLE = "| 地区 | 上限 |\n|---|---|\n" + "".join(f"| 城市{n} | {300 + n} 元 |\n" for n in range(40))


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """An installation with one base that holds two files."""
    home = tmp_path_factory.mktemp("home")
    folder = home / "knowledge" / "default"
    folder.mkdir(parents=True)
    (folder / "年假制度.txt").write_text(LEAVE, encoding="utf-8")
    (folder / "差旅.md").write_text(f"# 差旅\n\n{TRAVEL}\n\n## 城市上限\n\n{TABLE}", encoding="utf-8")
    report = Installation(Home(home), Config()).ingest()
    assert [file.status for file in report.files] == ["added", "added"]
    return home


@pytest.fixture
def home(built, tmp_path) -> Path:
    """A copy to do with as one likes."""
    return shutil.copytree(built, tmp_path / "home")


def page(text: str, source: object = "手册.pdf", **metadata: object) -> LangChainDocument:
    return LangChainDocument(page_content=text, metadata={"source": source, **metadata})


# --- a base as a retriever -------------------------------------------------------------------------------------------


def test_the_retriever_returns_passages_best_first_and_where_they_stand(home):
    with open_retriever(home, k=3) as retriever:
        found = retriever.invoke("年假有几天？")
    assert found[0].page_content == LEAVE
    metadata = found[0].metadata
    assert (metadata["source"], metadata["title"], metadata["page"]) == ("年假制度.txt", "年假制度", None)
    assert metadata["span"] == [0, len(LEAVE)]
    assert 0.5 < metadata["confidence"] <= 1
    assert [document.metadata["score"] for document in found] == sorted(
        (document.metadata["score"] for document in found), reverse=True
    )
    assert found[0].id == str(metadata["id"])


def test_table_rows_come_with_their_header(home):
    with open_retriever(home, k=1) as retriever:
        (found,) = retriever.invoke("城市37的上限是多少？")
    assert "城市37 | 337 元" in found.page_content
    assert found.page_content.startswith("地区 | 上限")
    assert found.metadata["heading"] == "差旅 > 城市上限"


def test_k_bounds_what_is_returned(home):
    with open_retriever(home) as retriever:
        assert len(retriever.model_copy(update={"k": 1}).invoke("差旅住宿")) == 1
        assert len(retriever.model_copy(update={"k": 2}).invoke("差旅住宿")) == 2


def test_below_the_least_confidence_nothing_is_returned(home):
    with open_retriever(home, min_confidence=0.5) as retriever:
        assert retriever.invoke("年假有几天？")
        assert retriever.invoke("火星上有水吗？") == []


def test_asynchronous_and_batched_questions_find_the_same(home):
    questions = ["年假有几天？", "差旅住宿每晚多少？"]
    with open_retriever(home, k=1) as retriever:
        one_by_one = [retriever.invoke(question) for question in questions]
        assert retriever.batch(questions) == one_by_one
        assert asyncio.run(retriever.abatch(questions)) == one_by_one
    assert [found[0].metadata["source"] for found in one_by_one] == ["年假制度.txt", "差旅.md"]


def test_a_base_that_is_open_already_can_be_used(home):
    with Installation(Home(home), Config()).open() as base:
        retriever = KbqaRetriever(knowledge_base=base, k=1)
        assert retriever.invoke("年假")[0].page_content == LEAVE
        with pytest.raises(ValueError, match="knowledge_base"):
            KbqaRetriever(knowledge_base="default")


def test_a_base_that_does_not_exist_is_named(home):
    with pytest.raises(UnknownKnowledgeBase, match="没有这个库"), open_retriever(home, "没有这个库"):
        pass


def test_an_embedder_gives_langchain_the_vectors_it_gives_kbqa(home):
    embedder = Installation(Home(home), Config()).embedder
    embeddings = KbqaEmbeddings(embedder)
    assert embeddings.embed_documents([LEAVE, TRAVEL]) == embedder.embed_passages([LEAVE, TRAVEL]).tolist()
    assert embeddings.embed_query("年假有几天？") == embedder.embed_query("年假有几天？").tolist()
    assert len(asyncio.run(embeddings.aembed_query("年假"))) == embedder.dim
    assert embeddings.embed_documents([]) == []


# --- LangChain documents as ours -------------------------------------------------------------------------------------


def test_pages_of_a_source_become_one_document_also_when_they_do_not_come_in_a_row():
    pages = [page("第一页。", page=0), page("另一本。", "别的.txt"), page("第二页。", page=1)]
    first, second = from_langchain(iter(pages))
    assert (first.source, first.title, first.pages) == ("手册.pdf", "手册", 2)
    assert [(block.text, block.page) for block in first.blocks] == [("第一页。", 1), ("第二页。", 2)]
    assert (second.source, second.text, second.pages) == ("别的.txt", "另一本。", None)


def test_page_numbers_that_count_from_one_are_taken_as_they_are():
    (document,) = from_langchain([page("甲", page_number=1), page("乙", page_number=7)])
    assert [block.page for block in document.blocks] == [1, 7]


def test_a_text_that_langchain_cut_with_overlap_comes_out_as_it_went_in():
    text = "".join(f"第{n}条，员工应当在三个工作日之内提交申请，并附上第{n}号凭证。" for n in range(200))
    cut = RecursiveCharacterTextSplitter(chunk_size=200, chunk_overlap=60, separators=["。", "，", ""])
    pieces = cut.split_documents([page(text)])
    assert sum(len(piece.page_content) for piece in pieces) > 1.1 * len(text)
    (document,) = from_langchain(pieces)
    assert document.text == text


def test_pieces_that_do_not_overlap_are_paragraphs():
    (document,) = from_langchain([page("年假有十天。"), page("十天之内提交。")])
    assert [block.text for block in document.blocks] == ["年假有十天。", "十天之内提交。"]


def test_metadata_is_kept_as_far_as_it_is_plain_and_all_pieces_agree():
    metadata = {"title": "员工手册", "year": 2024, "draft": False, "rate": 0.5, "tags": ["a"], "none": None}
    (document,) = from_langchain([page("甲", page=0, **metadata), page("乙", page=1, **metadata)])
    assert document.metadata == {"source": "手册.pdf", "title": "员工手册", "year": 2024, "draft": False, "rate": 0.5}
    assert document.title == "员工手册"


@pytest.mark.parametrize(
    ("given", "source"),
    [
        ("制度/年假.txt", "制度/年假.txt"),
        ("/data/docs/年假.txt", "data/docs/年假.txt"),
        ("../../etc/passwd", "etc/passwd"),
        ("a/../../b.txt", "a/b.txt"),
        ("./a//b.txt", "a/b.txt"),
        ("C:\\资料\\合同.docx", "资料/合同.docx"),
        ("\\\\server\\share\\合同.docx", "server/share/合同.docx"),
        ("https://oa.example.cn/wiki/年假", "oa.example.cn/wiki/年假"),
        ("file:///data/a.txt", "data/a.txt"),
        ("第1章: 总则.txt", "第1章: 总则.txt"),
        (" 换\n行\x00.txt ", "换 行.txt"),
        ("..", ""),
        ("/", ""),
    ],
)
def test_a_source_becomes_a_path_below_the_base(given, source):
    assert safe_source(given) == source


@pytest.mark.parametrize("source", ["", "/", "../..", None, 7])
def test_without_a_usable_source_the_text_names_itself(source):
    first, second = from_langchain([page("甲方", source), page("乙方", source)])
    assert re.fullmatch(r"langchain/[0-9a-f]{16}\.txt", first.source)
    assert first.source != second.source
    assert next(from_langchain([page("甲方", source)])) == first


def test_a_path_object_is_a_source_too():
    (document,) = from_langchain([page("甲", Path("制度/年假.txt"))])
    assert document.source == "制度/年假.txt"


def test_characters_that_no_database_takes_are_left_out():
    (document,) = from_langchain([page("年假\x00十\ud800天", title="手\x00册")])
    assert (document.text, document.title) == ("年假十天", "手册")


def test_a_document_without_text_says_so():
    (document,) = from_langchain([page(" \n ")])
    assert document.blocks == ()
    assert document.warnings == ("it holds no text",)


@pytest.mark.parametrize("thing", ["一段文字", {"page_content": "甲"}, None])
def test_what_is_no_langchain_document_is_refused(thing):
    with pytest.raises(DocumentError, match="not a LangChain document"):
        list(from_langchain([thing]))


def test_langchain_documents_are_answered_from_and_survive_mirroring(home):
    installation = Installation(Home(home), Config())
    with installation.open() as base:
        report = base.add_langchain_documents(
            [page("班车早上七点发车。", "/srv/班车.pdf", page=0), page(" ", "空.txt")]
        )
        assert [(file.source, file.status) for file in report.files] == [("srv/班车.pdf", "added"), ("空.txt", "added")]
        assert base.add_langchain_documents([page("班车早上八点发车。", "/srv/班车.pdf", page=4)]).count("updated") == 1
    installation.ingest()
    with installation.open() as base:
        answer = base.ask("班车几点发车？")
    assert answer.text == "班车早上八点发车。"
    assert [(citation.source, citation.page) for citation in answer.citations] == [("srv/班车.pdf", 5)]


# --- old FAISS folders -----------------------------------------------------------------------------------------------

# What FAISS.save_local of real old versions wrote for the three documents of OLD.
LANGCHAIN_0_0_200 = """
gASVvwIAAAAAAACMHGxhbmdjaGFpbi5kb2NzdG9yZS5pbl9tZW1vcnmUjBBJbk1lbW9yeURvY3N0b3JllJOUKYGUfZSMBV9kaWN0lH2UKIwkNjNiMzlk
Y2QtYTIxYi00YTUyLWFkM2UtZDFiZjk0OGYyOGY3lIwQbGFuZ2NoYWluLnNjaGVtYZSMCERvY3VtZW50lJOUKYGUfZQojAhfX2RpY3RfX5R9lCiMCWxj
X2t3YXJnc5R9lCiMDHBhZ2VfY29udGVudJSMQuWRmOW3peavj+W5tOS6q+acieWNgeWkqeW5tOWBh++8jOWFpeiBjOa7oeS4gOW5tOWQjuW8gOWni+iu
oeeul+OAgpSMCG1ldGFkYXRhlH2UjAZzb3VyY2WUjBHliLbluqYv5bm05YGHLnR4dJRzdWgRaBJoE2gUdYwOX19maWVsZHNfc2V0X1+Uj5QoaA9oE2gR
kIwcX19wcml2YXRlX2F0dHJpYnV0ZV92YWx1ZXNfX5R9lHVijCQ4MDgwNjRjZi05NGUxLTRkMTgtYWY1Ni05ODQ2ZGU0N2ZlMzaUaAopgZR9lChoDX2U
KGgPfZQoaBGMJ+W3ruaXheS9j+Wuv+agh+WHhuS4uuavj+aZmuWbm+eZvuWFg+OAgpRoE32UKGgVjBAvZGF0YS/miYvlhowucGRmlIwEcGFnZZRLAHV1
aBFoIGgTaCF1aBePlChoD2gTaBGQaBl9lHVijCQ0OWQ1Njc1OS03NGNkLTRmMmQtODdjZS1iOTU2NWE2ZTQ5YjmUaAopgZR9lChoDX2UKGgPfZQoaBGM
J+i2heWHuuagh+WHhueahOmDqOWIhueUseS4quS6uuaJv+aLheOAgpRoE32UKGgVaCJoI0sBdXVoEWgraBNoLHVoF4+UKGgPaBNoEZBoGX2UdWJ1c2J9
lChLAGgHSwFoG0sCaCZ1hpQu
"""
LANGCHAIN_0_2_17 = """
gASVuQIAAAAAAACMJmxhbmdjaGFpbl9jb21tdW5pdHkuZG9jc3RvcmUuaW5fbWVtb3J5lIwQSW5NZW1vcnlEb2NzdG9yZZSTlCmBlH2UjAVfZGljdJR9
lCiMJDE4YzE4ODUzLTFjODQtNGUxZS04YzE4LTJmYTNjYzY3YWE1ZpSMHWxhbmdjaGFpbl9jb3JlLmRvY3VtZW50cy5iYXNllIwIRG9jdW1lbnSUk5Qp
gZR9lCiMCF9fZGljdF9flH2UKIwCaWSUTowIbWV0YWRhdGGUfZSMBnNvdXJjZZSMEeWItuW6pi/lubTlgYcudHh0lHOMDHBhZ2VfY29udGVudJSMQuWR
mOW3peavj+W5tOS6q+acieWNgeWkqeW5tOWBh++8jOWFpeiBjOa7oeS4gOW5tOWQjuW8gOWni+iuoeeul+OAgpSMBHR5cGWUaAl1jA5fX2ZpZWxkc19z
ZXRfX5SPlChoFGgQkIwcX19wcml2YXRlX2F0dHJpYnV0ZV92YWx1ZXNfX5R9lHVijCRjOTc5MmI2ZC0yNGI3LTQzODctOTk1Mi03ZGUzNTIzNGNkMDSU
aAopgZR9lChoDX2UKGgPTmgQfZQoaBKMEC9kYXRhL+aJi+WGjC5wZGaUjARwYWdllEsAdWgUjCflt67ml4XkvY/lrr/moIflh4bkuLrmr4/mmZrlm5vn
mb7lhYPjgIKUaBZoCXVoF4+UKGgUaBCQaBl9lHVijCQwMDJlMzBhOC1iNzY0LTRmMDItODczMi01YjQyMTVmYzZlNTaUaAopgZR9lChoDX2UKGgPTmgQ
fZQoaBJoIGghSwF1aBSMJ+i2heWHuuagh+WHhueahOmDqOWIhueUseS4quS6uuaJv+aLheOAgpRoFmgJdWgXj5QoaBRoEJBoGX2UdWJ1c2J9lChLAGgH
SwFoG0sCaCV1hpQu
"""
OLD = [
    ("制度/年假.txt", [("员工每年享有十天年假，入职满一年后开始计算。", None)]),
    ("data/手册.pdf", [("差旅住宿标准为每晚四百元。", 1), ("超出标准的部分由个人承担。", 2)]),
]


def folder_with(content: bytes, folder: Path, name: str = "index") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.pkl").write_bytes(content)
    (folder / f"{name}.faiss").write_bytes(b"IxF2")
    return folder


@pytest.mark.parametrize("saved", [LANGCHAIN_0_0_200, LANGCHAIN_0_2_17], ids=["0.0.200", "0.2.17"])
def test_folders_of_old_langchain_versions_are_read(saved, tmp_path):
    documents = import_langchain(folder_with(base64.b64decode(saved), tmp_path))
    assert [(d.source, [(block.text, block.page) for block in d.blocks]) for d in documents] == OLD


def test_a_folder_of_todays_langchain_is_read_in_the_order_of_its_rows(tmp_path):
    texts = [page(f"第{n}段的内容说的是第{n}件事。", "手册.txt", at=Path("x"), seen={n}) for n in range(50)]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*langchain-community.*sunset", DeprecationWarning)
        from langchain_community.vectorstores import FAISS
    embeddings = KbqaEmbeddings(Installation(Home(tmp_path), Config()).embedder)
    FAISS.from_documents(texts, embeddings).save_local(str(tmp_path / "旧"), index_name="别名")
    (document,) = import_langchain(tmp_path / "旧")
    assert [block.text for block in document.blocks] == [text.page_content for text in texts]


def test_importing_needs_no_langchain(tmp_path):
    folder = folder_with(base64.b64decode(LANGCHAIN_0_0_200), tmp_path)
    program = (
        "import sys; sys.modules['langchain_core'] = sys.modules['langchain'] = None\n"
        "from pathlib import Path; import kbqa.bridge\n"
        f"print(len(list(kbqa.bridge.import_langchain(Path({str(folder)!r})))))\n"
        "try: kbqa.bridge.KbqaRetriever\n"
        "except kbqa.errors.ConfigError as error: print(error)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines() == ["2", "kbqa.bridge.KbqaRetriever needs LangChain: pip install 'kbqa[langchain]'"]


class Runs:
    """Pickled, a call of any function with any arguments."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("function", [os.system, eval, os.mkdir, subprocess.Popen], ids=lambda f: f.__name__)
def test_a_pickle_that_wants_to_run_something_is_refused_and_nothing_runs(function, protocol, tmp_path):
    trace = tmp_path / "it-ran"
    argument = {os.system: f"touch {trace}", eval: f"open({str(trace)!r}, 'w')", os.mkdir: str(trace)}.get(
        function, ["touch", str(trace)]
    )
    folder = folder_with(pickle.dumps((Runs(function, argument), {0: "a"}), protocol), tmp_path / "旧")
    with pytest.raises(DocumentError, match=rf"index\.pkl was not opened: it names \w+\.{function.__name__}"):
        import_langchain(folder)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Runs(os.mkdir, str(trace))))  # noqa: S301 - the attack itself works
    assert trace.exists()


@pytest.mark.parametrize(
    "name", ["langchain.schema.os.system", "langchain.schema.Document.__init__.__globals__", "builtins.getattr"]
)
def test_there_is_no_way_from_an_admitted_class_to_others(name, tmp_path):
    module, _, attribute = name.partition(".schema.") if ".schema." in name else name.partition(".")
    module += ".schema" if ".schema." in name else ""
    program = b"\x80\x04\x8c" + bytes([len(module)]) + module.encode() + b"\x8c" + bytes([len(attribute)])
    program += attribute.encode() + b"\x93."
    with pytest.raises(DocumentError, match=re.escape(f"{module}.{attribute}")):
        import_langchain(folder_with(program, tmp_path))


def test_a_pickle_cannot_change_the_records_it_is_given(tmp_path):
    """STACK_GLOBAL leaves a class on the stack, BUILD then sets attributes of it."""
    program = b"\x80\x04\x8c\x10langchain.schema\x8c\x08Document\x93N}\x8c\x0cpage_contentK\x01s\x86b."
    with pytest.raises(DocumentError):
        import_langchain(folder_with(program, tmp_path))
    documents = import_langchain(folder_with(base64.b64decode(LANGCHAIN_0_0_200), tmp_path))
    assert len(list(documents)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not a pickle",
        pickle.dumps({"a": 1}),
        pickle.dumps((1, 2)),
        base64.b64decode(LANGCHAIN_0_0_200)[:-20],
        b"\x80\x04r\xff\xff\xff\xff.",  # a memo slot that would need 32 GB
        b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b"x.",  # a byte array of a terabyte
        b"\x80\x04" + b"(" * 100_000 + b"t" * 100_000 + b".",
    ],
    ids=["empty", "text", "dict", "numbers", "truncated", "memo bomb", "size bomb", "deep"],
)
def test_a_file_that_is_no_index_is_refused_in_one_line(content, tmp_path):
    with pytest.raises(DocumentError, match=r"index\.pkl") as caught:
        import_langchain(folder_with(content, tmp_path))
    assert "\n" not in str(caught.value)


def test_a_file_beyond_the_size_limit_is_not_read(tmp_path):
    folder = folder_with(b"x" * 2000, tmp_path)
    with pytest.raises(DocumentError, match="2,000 bytes; at most 1,000"):
        import_langchain(folder, max_bytes=1000)
    assert MAX_BYTES >= 1 << 28


def test_a_folder_without_an_index_says_what_to_give(tmp_path):
    (tmp_path / "index.pkl").write_bytes(b"")
    with pytest.raises(DocumentError, match=r"index\.faiss and index\.pkl"):
        import_langchain(tmp_path)


# --- a LangChain model behind the whole chain ------------------------------------------------------------------------


def test_an_answer_of_a_langchain_model_is_cited_and_made_up_parts_are_not(home):
    generator = GeneratorConfig(
        kind="langchain",
        import_path="langchain_core.language_models.FakeListChatModel",
        options={"responses": ["员工每年享有十天年假。公司还送每人一辆汽车。"]},
    )
    with Installation(Home(home), Config(generator=generator, retrieval=RetrievalConfig(k=2))).open() as base:
        answer = base.ask("年假有几天？")
    assert answer.grounded
    assert answer.text == "员工每年享有十天年假。公司还送每人一辆汽车。"
    assert [(citation.quote, citation.source) for citation in answer.citations] == [
        ("员工每年享有十天年假。", "年假制度.txt")
    ]


# --- docs/langchain.md -----------------------------------------------------------------------------------------------

GUIDE = Path(__file__).parents[1] / "docs" / "langchain.md"
BLOCK = re.compile(r"```(python|text|yaml)\n(.*?)```", re.DOTALL)


def blocks_of_the_guide() -> list[tuple[str, str]]:
    """(kind, content), without those of the last section, which test_bridge_chat.py runs."""
    text, chat, _ = GUIDE.read_text(encoding="utf-8").partition("## A kbqa generator as a LangChain chat model")
    assert chat
    return BLOCK.findall(text)


def tiny_model(folder: Path) -> None:
    """A sentence-transformers model of random weights that takes milliseconds."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"差旅住宿每晚年假"]))
    config = BertConfig(vocab_size=13, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    BertModel(config).save_pretrained(folder)
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    modules = [Transformer(str(folder)), Pooling(16)]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))


@pytest.mark.filterwarnings("ignore:.*langchain-community.*sunset:DeprecationWarning")
def test_the_programs_of_the_guide_print_what_it_says(tmp_path, monkeypatch):
    pytest.importorskip("langchain_huggingface", reason="langchain-huggingface is not installed")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "knowledge" / "default"
    folder.mkdir(parents=True)
    (folder / "年假制度.txt").write_text(LEAVE, encoding="utf-8")
    tiny_model(tmp_path / "models" / "tiny")
    Installation(Home(tmp_path), Config()).ingest()
    blocks = blocks_of_the_guide()
    assert sum(kind == "python" for kind, _ in blocks) == sum(kind == "text" for kind, _ in blocks) == 5
    names: dict[str, object] = {}
    printed = io.StringIO()
    for kind, content in blocks:
        if kind == "python":
            printed = io.StringIO()
            with redirect_stdout(printed):
                exec(compile(content, str(GUIDE), "exec"), names)
        elif kind == "text":
            assert printed.getvalue() == content


def test_the_configuration_of_the_guide_answers(home):
    (content,) = [content for kind, content in blocks_of_the_guide() if kind == "yaml"]
    generator = GeneratorConfig(**yaml.safe_load(content)["generator"])
    with Installation(Home(home), Config(generator=generator)).open() as base:
        assert base.ask("年假有几天？").text == "员工每年享有十天年假。"
