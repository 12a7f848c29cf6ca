"""One contract for every embedder, then what each of them does beside it."""

import base64
import json
import shutil
import subprocess
import sys
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from kbqa.analyzer import analyze
from kbqa.embedders.langchain import LangChainEmbedder
from kbqa.embedders.openai import OpenAIEmbedder
from kbqa.embedders.sentence_transformer import (
    BGE_EN,
    BGE_ZH,
    SentenceTransformerEmbedder,
    instructions_for,
    weights_digest,
)
from kbqa.embedders.static import StaticEmbedder, pack, save_model
from kbqa.embedders.vectors import unit_rows
from kbqa.embedders.weight import DEFAULT_WEIGHT, WEIGHT_FILE, own_weight, save_weight
from kbqa.errors import ConfigError, KbqaError

LEAVE = "员工每年享有十天带薪年假，须提前三天申请。"
TRAVEL = "出差住宿标准为每晚四百元，超出部分自理。"
SERVER = "数据库集群由三台服务器组成，每天凌晨自动备份。"
TEXTS = [LEAVE, TRAVEL, SERVER]


# --- a small example of each -----------------------------------------------------------------------------------------


def character_vector(text: str, dim: int = 64, salt: int = 0) -> list[float]:
    """An honest little embedding: characters counted in buckets. Not of unit length."""
    vector = [0.0] * dim
    for character in text:
        vector[(ord(character) + salt) % dim] += 1.0
    return vector


class CharacterEmbeddings:
    """What LangChain calls Embeddings, without LangChain."""

    def __init__(self, salt: int = 0, api_key: str = ""):
        self.salt = salt

    def embed_documents(self, texts):
        return [character_vector(text, salt=self.salt) for text in texts]

    def embed_query(self, text):
        return character_vector(text, salt=self.salt)


class EmbeddingsHandler(BaseHTTPRequestHandler):
    """`/v1/embeddings` as OpenAI documents it. `server.script` holds what to do with the next requests instead."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
        step = self.server.script.pop(0) if self.server.script else {}
        rows = [self.server.vector(text) for text in body["input"]]
        if step.get("base64"):
            rows = [base64.b64encode(np.array(row, "<f4").tobytes()).decode() for row in rows]
        data = [{"object": "embedding", "index": at, "embedding": row} for at, row in enumerate(rows)]
        payload = step.get("body", json.dumps({"object": "list", "data": data[::-1]}).encode())
        if step.get("forget"):
            payload = json.dumps({"data": data[1:]}).encode()
        self.send_response(step.get("status", 200))
        for name, value in step.get("headers", {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), EmbeddingsHandler)
    httpd.seen, httpd.script, httpd.vector = [], [], character_vector
    httpd.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield httpd
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def make_bert(folder, seed: int) -> None:
    """A BERT of two layers with a vocabulary of the characters in this file, in sentence-transformers' layout."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    characters = sorted(
        set("".join(TEXTS) + "维年假几天住宿多少钱querypassage: 为这个句子生成表示以用于检索相关文章：")
    )
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(c for c in characters if c.strip())]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), encoding="utf-8")
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)
    BertModel(
        BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            max_position_embeddings=128,
            initializer_range=0.3,  # so that an untrained model tells texts apart
        )
    ).save_pretrained(folder)
    # The layout in which models are published, whatever sentence-transformers would write today.
    types = [("", "Transformer"), ("1_Pooling", "Pooling")]
    modules = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for at, (path, kind) in enumerate(types)
    ]
    (folder / "1_Pooling").mkdir()
    for name, content in {
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": 128},
        "1_Pooling/config.json": {"word_embedding_dimension": 32, "pooling_mode_mean_tokens": True},
        "config_sentence_transformers.json": {"prompts": {}},
    }.items():
        (folder / name).write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny-bert"
    make_bert(folder, seed=1)
    return folder


def small_static(path, seed: int) -> StaticEmbedder:
    """A model file of eight terms and 16 buckets, with random rows."""
    terms = ["员工", "每年", "十天", "年假", "出差", "住宿", "数据库", "备份"]
    rows = np.random.default_rng(seed).standard_normal((len(terms) + 16, 32), dtype=np.float32)
    save_model(path, terms, rows, power=0.75)
    return StaticEmbedder(path)


@pytest.fixture(params=["static", "static-small", "sentence-transformers", "openai", "langchain", "langchain-own"])
def make(request, tmp_path):
    """make(other=False): an embedder; other=True: the same kind with other weights."""
    if request.param == "static":
        return lambda other=False: small_static(tmp_path / "other.npz", 2) if other else StaticEmbedder()
    if request.param == "static-small":
        return lambda other=False: small_static(tmp_path / f"{other}.npz", 1 + other)
    if request.param == "sentence-transformers":
        bert = request.getfixturevalue("bert")

        def tiny(other=False):
            if other:
                make_bert(tmp_path / "tiny-bert", seed=2)
            return SentenceTransformerEmbedder(str(tmp_path / "tiny-bert" if other else bert), device="cpu")

        return tiny
    if request.param == "openai":
        url = request.getfixturevalue("server").url
        return lambda other=False: OpenAIEmbedder(url, "bge-m3" if other else "bge-small-zh", backoff=0.01)
    if request.param == "langchain":
        pytest.importorskip("langchain_core")
        fake = "langchain_core.embeddings.DeterministicFakeEmbedding"
        return lambda other=False: LangChainEmbedder(fake, {"size": 48 if other else 32})
    return lambda other=False: LangChainEmbedder(f"{__name__}.CharacterEmbeddings", {"salt": int(other)})


# --- the contract ----------------------------------------------------------------------------------------------------


def test_every_text_becomes_a_float32_row_of_unit_length(make):
    embedder = make()
    vectors = embedder.embed_passages(TEXTS)
    assert vectors.shape == (3, embedder.dim)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    query = embedder.embed_query("年假几天？")
    assert query.shape == (embedder.dim,)
    assert query.dtype == np.float32
    assert np.linalg.norm(query) == pytest.approx(1, abs=1e-5)


def test_no_texts_give_no_rows(make):
    embedder = make()
    assert embedder.embed_passages([]).shape == (0, embedder.dim)


def test_rows_come_in_the_order_of_the_texts(make):
    embedder = make()
    texts = [*TEXTS, "年假", f"{LEAVE}{TRAVEL}{SERVER}", "住宿多少钱"] * 9  # more than one batch, of mixed lengths
    together = embedder.embed_passages(texts)
    for at in (0, 3, 4, 17, 52):
        assert together[at] == pytest.approx(embedder.embed_passages([texts[at]])[0], abs=1e-4)


def test_equal_texts_get_equal_rows_and_others_do_not(make):
    one, other, again = make().embed_passages([LEAVE, TRAVEL, LEAVE])
    assert np.array_equal(one, again)
    assert one @ other < 0.999


def test_a_text_is_close_to_itself_as_a_question(make):
    embedder = make()
    assert embedder.embed_query(LEAVE) @ embedder.embed_passages([LEAVE])[0] > 0.99


@pytest.mark.parametrize("text", ["", "   ", "？！", "\ufffd\u200b", "𠮷㐀ꙮ", "🙂"])
def test_a_text_that_says_nothing_known_gives_a_zero_row_or_a_unit_row(make, text):
    embedder = make()
    for vector in (embedder.embed_passages([text])[0], embedder.embed_query(text)):
        assert np.isfinite(vector).all()
        length = np.linalg.norm(vector)
        assert length == pytest.approx(0, abs=1e-6) or length == pytest.approx(1, abs=1e-5)


def test_a_very_long_text_works(make):
    vectors = make().embed_passages([LEAVE * 5000, SERVER])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


def test_the_fingerprint_is_stable_and_tells_other_weights(make):
    first, second = make(), make()
    assert first.fingerprint == second.fingerprint
    assert np.array_equal(first.embed_passages(TEXTS), second.embed_passages(TEXTS))
    assert make(other=True).fingerprint != first.fingerprint


def test_threads_may_share_an_embedder(make):
    embedder = make()
    expected = embedder.embed_passages(TEXTS)
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(lambda _: embedder.embed_passages(TEXTS), range(16)):
            assert vectors == pytest.approx(expected, abs=1e-5)
        for at, vector in enumerate(pool.map(embedder.embed_query, TEXTS * 4)):
            assert vector == pytest.approx(embedder.embed_query(TEXTS[at % 3]), abs=1e-5)


# --- vectors ---------------------------------------------------------------------------------------------------------


def test_unit_rows_survive_huge_tiny_and_broken_numbers():
    rows = unit_rows([[3e38, 3e38], [1e-38, 0], [0, 0], [np.nan, 1], [np.inf, 1]])
    assert rows == pytest.approx(np.array([[0.5**0.5] * 2, [1, 0], [0, 0], [0, 0], [0, 0]]))


def test_importing_embedders_loads_no_heavy_library():
    code = (
        "import sys, kbqa.embedders, kbqa.embedders.static, kbqa.embedders.openai, kbqa.embedders.langchain, "
        "kbqa.embedders.sentence_transformer as st; st.instructions_for('bge'); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "sentence_transformers", "langchain_core"} & set(done.stdout.split())


# --- the weight of its own -------------------------------------------------------------------------------------------


def test_a_weight_is_kept_beside_the_model_and_changes_no_vector(bert, tmp_path):
    folder = tmp_path / "bge-small-zh"
    shutil.copytree(bert, folder)
    before = SentenceTransformerEmbedder(str(folder), device="cpu")
    assert own_weight(before) == DEFAULT_WEIGHT
    save_weight(before.weight_file, 0.45, [{"dataset": "问题", "queries": 12}])
    after = SentenceTransformerEmbedder(str(folder), device="cpu")
    assert own_weight(after) == 0.45
    assert after.fingerprint == before.fingerprint, "no base must be built anew"


def test_what_else_stands_in_the_file_stays(tmp_path):
    (tmp_path / WEIGHT_FILE).write_text('{"说明": "我们的模型", "dense_weight": 0.1}', encoding="utf-8")
    save_weight(tmp_path / WEIGHT_FILE, 0.3, [])
    kept = json.loads((tmp_path / WEIGHT_FILE).read_text(encoding="utf-8"))
    assert (kept["说明"], kept["dense_weight"]) == ("我们的模型", 0.3)


def test_the_built_in_embedder_has_a_weight_that_was_learned():
    embedder = StaticEmbedder()
    assert embedder.weight_file is not None
    assert embedder.weight_file.is_file()
    assert 0 < own_weight(embedder) < 1


def test_one_whose_model_lies_elsewhere_has_the_default():
    assert own_weight(LangChainEmbedder(CharacterEmbeddings())) == DEFAULT_WEIGHT


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"dense_weight": "viel"}', '{"dense_weight": true}', '{"dense_weight": 3}']
)
def test_a_file_that_holds_no_weight_is_named(tmp_path, content):
    small_static(tmp_path / "model.npz", 1)
    (tmp_path / WEIGHT_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=WEIGHT_FILE):
        own_weight(StaticEmbedder(tmp_path / "model.npz"))


def test_a_weight_that_cannot_be_kept_is_told_with_the_setting_that_does_the_same(tmp_path):
    with pytest.raises(ConfigError, match=r"retrieval\.dense_weight: 0\.3 in config\.yaml"):
        save_weight(tmp_path / "nirgends" / WEIGHT_FILE, 0.3, [])


# --- static ----------------------------------------------------------------------------------------------------------


def test_the_static_embedder_finds_the_passage_that_answers():
    embedder = StaticEmbedder()
    passages = embedder.embed_passages(TEXTS)
    for question, answer in (("年假有几天？", 0), ("住酒店可以报销多少钱", 1), ("多久备份一次数据", 2)):
        assert np.argmax(passages @ embedder.embed_query(question)) == answer


def test_the_static_embedder_reads_traditional_and_full_width_text_as_simplified():
    embedder = StaticEmbedder()
    assert embedder.embed_query("資料庫備份 ＴｉＤＢ") == pytest.approx(embedder.embed_query("资料库备份 tidb"))


def test_words_the_static_embedder_never_saw_still_meet_themselves():
    embedder = StaticEmbedder()
    name = embedder.embed_query("qzxv-77801")
    with_it, without_it = embedder.embed_passages([f"{LEAVE}编号 QZXV-77801", f"{LEAVE}编号 JWKP-20364"])
    assert name @ with_it > name @ without_it + 0.1


def test_many_texts_are_embedded_as_each_of_them_alone():
    embedder = StaticEmbedder()
    texts = [f"{text}第{number}条 v{number}.{number % 7}" for number in range(150) for text in TEXTS] + [LEAVE * 3000]
    together = embedder.embed_passages(texts)
    alone = np.stack([embedder.embed_query(text) for text in texts])
    assert together == pytest.approx(alone, abs=1e-5)


def test_a_vector_is_the_sum_of_its_terms_rows_by_the_root_of_their_counts():
    embedder = StaticEmbedder()
    model = embedder._model
    values = np.hstack([model.packed & 15, model.packed >> 4]).astype(np.float32) - 8
    text = LEAVE * 2 + SERVER + "qzxv-77801"
    counts: dict[int, int] = {}
    for term in [*analyze(text).words, *analyze(text).bigrams]:
        code = model.vocabulary[term]
        checksum, known = zlib.crc32(term.encode()), len(model.vocabulary)
        buckets = [known + checksum % model.vocabulary.buckets, known + (checksum >> 16) % model.vocabulary.buckets]
        for row in [code] if code < known else buckets:
            counts[row] = counts.get(row, 0) + 1
    total = sum(count**model.power * model.scales[row] * values[row] for row, count in counts.items())
    [vector] = embedder.embed_passages([text])
    assert vector == pytest.approx(total / np.linalg.norm(total), abs=1e-6)


def test_the_shipped_model_is_small():
    import kbqa

    folder = __import__("pathlib").Path(kbqa.__file__).parent / "data" / "static"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 20_000_000


def test_packing_loses_little():
    rows = np.random.default_rng(0).standard_normal((50, 64), dtype=np.float32) * np.linspace(0, 9, 50)[:, None]
    packed, scales = pack(rows.astype(np.float32))
    assert packed.shape == (50, 32)
    back = np.concatenate([packed & 15, packed >> 4], axis=1).astype(np.float32) - 8
    back *= scales[:, None]
    assert np.linalg.norm(back - rows) / np.linalg.norm(rows) < 0.13
    assert not back[0].any()


def test_a_missing_or_broken_model_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing\.npz cannot be read"):
        StaticEmbedder(tmp_path / "nothing.npz")
    (tmp_path / "broken.npz").write_bytes("这不是模型".encode())
    with pytest.raises(ConfigError, match=r"broken\.npz is not a model"):
        StaticEmbedder(tmp_path / "broken.npz")
    save_model(tmp_path / "old.npz", ["年假"], np.ones((3, 8), dtype=np.float32), 0.75)
    with np.load(tmp_path / "old.npz") as arrays:
        np.savez(tmp_path / "old.npz", **{**arrays, "format": np.array(0)})
    with pytest.raises(ConfigError, match="format 0"):
        StaticEmbedder(tmp_path / "old.npz")


# --- sentence-transformers -------------------------------------------------------------------------------------------


def test_a_missing_folder_is_named_and_nothing_is_downloaded(tmp_path):
    for model in (str(tmp_path / "bge-small-zh"), "BAAI/not-in-the-cache", "models/a/b"):
        with pytest.raises(ConfigError, match=f"embedder.model {model} is neither"):
            SentenceTransformerEmbedder(model)
    with pytest.raises(ConfigError, match="holds no model"):
        SentenceTransformerEmbedder(str(tmp_path))


def test_without_the_libraries_the_extra_is_named(bert, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(ConfigError, match=r"pip install 'kbqa\[st\]'"):
        SentenceTransformerEmbedder(str(bert))


def test_a_gpu_that_is_not_there_is_named(bert):
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ConfigError, match=r"embedder\.device is cuda"):
        SentenceTransformerEmbedder(str(bert), device="cuda")


def test_bfloat16_changes_vectors_little_and_the_fingerprint(bert):
    exact = SentenceTransformerEmbedder(str(bert), device="cpu")
    half = SentenceTransformerEmbedder(str(bert), device="cpu", dtype="bfloat16")
    cosines = (exact.embed_passages(TEXTS) * half.embed_passages(TEXTS)).sum(axis=1)
    assert cosines == pytest.approx(1, abs=0.01)
    assert half.embed_passages(TEXTS).dtype == np.float32
    assert half.fingerprint != exact.fingerprint


def test_instructions_go_in_front_of_the_text_and_into_the_fingerprint(bert):
    plain = SentenceTransformerEmbedder(str(bert), device="cpu")
    told = SentenceTransformerEmbedder(
        str(bert), device="cpu", query_instruction="query: ", passage_instruction="passage: "
    )
    assert told.embed_query("年假几天") == pytest.approx(plain.embed_query("query: 年假几天"), abs=1e-5)
    assert told.embed_passages([LEAVE]) == pytest.approx(plain.embed_passages([f"passage: {LEAVE}"]), abs=1e-5)
    assert told.fingerprint != plain.fingerprint


def test_the_folder_name_tells_the_familys_instructions(bert, tmp_path):
    folder = tmp_path / "bge-small-zh-v1.5"
    folder.symlink_to(bert)
    plain = SentenceTransformerEmbedder(str(bert), device="cpu")
    family = SentenceTransformerEmbedder(str(folder), device="cpu")
    assert family.embed_query("年假几天") == pytest.approx(plain.embed_query(f"{BGE_ZH}年假几天"), abs=1e-5)
    assert family.embed_passages([LEAVE]) == pytest.approx(plain.embed_passages([LEAVE]), abs=1e-5)
    without = SentenceTransformerEmbedder(str(folder), device="cpu", query_instruction="")
    assert without.embed_query("年假几天") == pytest.approx(plain.embed_query("年假几天"), abs=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bge-large-zh-v1.5", (BGE_ZH, "")),
        ("BAAI/bge-base-en", (BGE_EN, "")),
        ("bge-m3", ("", "")),
        ("multilingual-e5-small", ("query: ", "passage: ")),
        ("text2vec-base-chinese", ("", "")),
    ],
)
def test_families_are_known_by_name(name, expected):
    assert instructions_for(name) == expected


def test_what_the_model_itself_declares_comes_before_its_family(bert, tmp_path):
    folder = tmp_path / "bge-small-zh"
    shutil.copytree(bert, folder)
    config = folder / "config_sentence_transformers.json"
    settings = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**settings, "prompts": {"query": "检索：", "document": "文章："}}), encoding="utf-8")
    plain = SentenceTransformerEmbedder(str(bert), device="cpu")
    declared = SentenceTransformerEmbedder(str(folder), device="cpu")
    assert declared.embed_query("年假几天") == pytest.approx(plain.embed_query("检索：年假几天"), abs=1e-5)
    assert declared.embed_passages([LEAVE]) == pytest.approx(plain.embed_passages([f"文章：{LEAVE}"]), abs=1e-5)


def test_the_digest_sees_new_weights_in_a_large_file(tmp_path):
    rows = np.random.default_rng(0).standard_normal((1000, 600), dtype=np.float32)
    (tmp_path / "model.safetensors").write_bytes(rows.tobytes())
    before = weights_digest(tmp_path)
    assert weights_digest(tmp_path) == before
    (tmp_path / "model.safetensors").write_bytes((rows * 1.001).astype(np.float32).tobytes())
    assert weights_digest(tmp_path) != before


# --- OpenAI-compatible -----------------------------------------------------------------------------------------------


def openai_embedder(server, **options) -> OpenAIEmbedder:
    return OpenAIEmbedder(server.url, "bge-small-zh", **{"backoff": 0.01, "dim": 64, **options})


def test_texts_are_sent_in_batches_with_model_and_key(server, monkeypatch):
    monkeypatch.setenv("KBQA_TEST_KEY", "密钥".encode().hex())
    openai_embedder(server, batch_size=2, api_key_env="KBQA_TEST_KEY").embed_passages(TEXTS)
    assert [request["input"] for request in server.seen] == [TEXTS[:2], TEXTS[2:]]
    assert {request["path"] for request in server.seen} == {"/v1/embeddings"}
    assert {request["model"] for request in server.seen} == {"bge-small-zh"}
    assert {request["key"] for request in server.seen} == {f"Bearer {'密钥'.encode().hex()}"}


def test_rows_are_put_in_order_by_their_index_and_base64_is_read(server):
    embedder = openai_embedder(server)
    plain = embedder.embed_passages(TEXTS)  # the server answers last row first
    assert plain[1] == pytest.approx(unit_rows([character_vector(TRAVEL)])[0])
    server.script = [{"base64": True}]
    assert embedder.embed_passages(TEXTS) == pytest.approx(plain)


def test_a_busy_server_is_asked_again(server):
    server.script = [{"status": 429, "headers": {"Retry-After": "0"}}, {"status": 503}, {}]
    assert openai_embedder(server).embed_query(LEAVE) @ unit_rows([character_vector(LEAVE)])[0] > 0.999
    assert len(server.seen) == 3


def test_a_server_that_stays_busy_is_named(server):
    server.script = [{"status": 503, "body": "模型加载中".encode()}] * 4
    with pytest.raises(KbqaError, match=r"/v1/embeddings cannot be used after 4 attempts: 503 模型加载中"):
        openai_embedder(server).embed_query(LEAVE)


def test_a_refused_key_or_model_is_not_tried_again(server):
    server.script = [{"status": 401, "body": b"bad key"}]
    with pytest.raises(ConfigError, match="401 bad key"):
        openai_embedder(server).embed_query(LEAVE)
    assert len(server.seen) == 1


def test_a_server_that_is_not_there_is_named():
    with pytest.raises(KbqaError, match=r"http://127\.0\.0\.1:9/v1/embeddings cannot be used after 2 attempts"):
        OpenAIEmbedder("http://127.0.0.1:9/v1", "bge-small-zh", attempts=2, backoff=0.01)
    with pytest.raises(ConfigError, match="must begin with http"):
        OpenAIEmbedder("file:///etc", "bge-small-zh")


def test_answers_that_are_no_embeddings_are_refused(server):
    embedder = openai_embedder(server)
    server.script = [{"forget": True}]
    with pytest.raises(KbqaError, match="2 vectors for 3 texts"):
        embedder.embed_passages(TEXTS)
    server.script = [{"body": "<html>登录</html>".encode()}]
    with pytest.raises(KbqaError, match="not with JSON"):
        embedder.embed_passages(TEXTS)
    server.script = [{"body": b'{"data": [{"index": 0, "embedding": "????"}]}'}]
    with pytest.raises(KbqaError, match="not as an embeddings endpoint"):
        embedder.embed_query(LEAVE)
    server.vector = lambda text: character_vector(text, dim=16)
    with pytest.raises(ConfigError, match="16 dimensions instead of 64"):
        embedder.embed_query(LEAVE)


# --- LangChain -------------------------------------------------------------------------------------------------------


def test_an_object_that_is_ready_can_be_given():
    embedder = LangChainEmbedder(CharacterEmbeddings())
    assert embedder.dim == 64
    assert embedder.name.endswith("CharacterEmbeddings")


def test_a_new_key_does_not_change_the_fingerprint():
    path = f"{__name__}.CharacterEmbeddings"
    one, other = (LangChainEmbedder(path, {"salt": 3, "api_key": key}) for key in ("甲", "乙"))
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize("path", ["没有这个模块.类", "NoModule", "json.NoSuchClass"])
def test_a_class_that_cannot_be_imported_is_named(path):
    with pytest.raises(ConfigError, match=f"embedder.import_path {path} cannot be imported"):
        LangChainEmbedder(path)


def test_options_the_class_refuses_and_classes_of_another_kind_are_named():
    with pytest.raises(ConfigError, match=r"embedder\.options do not make a .*CharacterEmbeddings: .*colour"):
        LangChainEmbedder(f"{__name__}.CharacterEmbeddings", {"colour": "红"})
    with pytest.raises(ConfigError, match="it has no method embed_documents"):
        LangChainEmbedder("json.JSONDecoder")


def test_failures_and_wrong_shapes_come_out_as_our_errors():
    class Moody(CharacterEmbeddings):
        def embed_documents(self, texts):
            if "坏" in texts[0]:
                raise RuntimeError("显存不足")
            return [character_vector(text) for text in texts[1:]]

    embedder = LangChainEmbedder(Moody())
    with pytest.raises(KbqaError, match="failed in embed_documents: 显存不足"):
        embedder.embed_passages(["坏"])
    with pytest.raises(KbqaError, match=r"\(2, 64\) instead of \(3, 64\)"):
        embedder.embed_passages(TEXTS)
