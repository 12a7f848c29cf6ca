"""Tokenizers: what the originals recorded, row by row, and the same rules on small vocabularies made here."""

import json
import random
import shutil
import subprocess
import sys
import time
import unicodedata

import pytest
from tokenizerkit import (
    FAMILIES,
    MAKERS,
    golden,
    golden_rows,
    golden_tokenizer,
    make_glm4,
    make_glm4_hf,
    make_v1,
    make_v2,
)

from kbqa.chatglm.tokenizers import load_tokenizer
from kbqa.errors import ModelError

# The originals turn these into control tokens where a user types them. Here they are text, and nothing else differs.
DELIBERATE = {
    "v1": {"[gMASK]<sop>", "[MASK] [sMASK]", "<eop></s><pad><unk>"},
    "v2": set(),
    "v3": set(),
    "glm4": {
        "[gMASK]<sop>",
        "[MASK] [sMASK]",
        "<eop></s><pad><unk>",
        "<|user|>\n你好<|assistant|>",
        "<|system|><|observation|>",
        "<|endoftext|>",
    },
}
TYPED = "你好 <sop><eop>[MASK][gMASK]<pad><unk></s>sop eop<|user|>\n<|assistant|><|system|><|endoftext|>"
TEXTS = [
    "",
    " ",
    "知识库支持哪些文档格式？",
    "  两个空格，\t制表符\n\n换行  和尾部  ",
    "a  b   c" + " " * 170 + "d",
    "🙂 日本語 ǅ é ﷺ \x00 ①",
    "def f(x):\n\treturn  x + 1\n",
    TYPED,
]


@pytest.fixture(params=MAKERS)
def small(request, tmp_path):
    """A tokenizer of each kind, made here."""
    make, family = MAKERS[request.param]
    return load_tokenizer(make(tmp_path), family)


# --- the reference ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("encode"))
def test_text_becomes_the_recorded_ids(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    ids = tokenizer.encode(row["text"])
    if row["text"] in DELIBERATE[name]:
        assert ids != row["ids_no_special"]
        assert not set(ids) & set(tokenizer.specials.values())
        assert tokenizer.decode(ids) == row["text"]
    else:
        assert ids == row["ids_no_special"]
        assert tokenizer.prompt(ids) == row["ids"]


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("encode"))
def test_recorded_ids_become_the_recorded_text(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    assert tokenizer.decode(row["ids_no_special"]) == row["decoded"]
    assert tokenizer.decode(row["ids"]) == row["decoded_with_special"]


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("decode"))
def test_any_ids_become_the_recorded_text(name, kind, row):
    text = golden_tokenizer(name, kind).decode(row["ids"])
    assert text == ("" if "original_raises" in row["text"] else row["text"])


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("special_token_ids"))
def test_control_tokens_have_the_recorded_ids(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    pieces = {token for token in row if token in ("<n>", "<|tab|>") or token.startswith("<|blank_")}  # text, to us
    assert {token: tokenizer.specials[token] for token in row.keys() - pieces} == {
        token: row[token] for token in row.keys() - pieces
    }
    for token in pieces:
        assert tokenizer.encode(token)[-1] == row[token]


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("batch"))
def test_a_batch_is_padded_on_the_left_as_recorded(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    prompts = [tokenizer.prompt(tokenizer.encode(text)) for text in row["texts"]]
    longest = max(map(len, prompts))
    assert [[tokenizer.pad] * (longest - len(ids)) + ids for ids in prompts] == row["input_ids"]


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("pad_to_max_length"))
def test_a_prompt_is_padded_to_a_length_as_recorded(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    ids = tokenizer.prompt(tokenizer.encode(row["text"]))
    assert [[tokenizer.pad] * (row["max_length"] - len(ids)) + ids] == row["input_ids"]


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("truncate"))
def test_a_cut_prompt_keeps_its_control_tokens_as_recorded(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    ids = tokenizer.encode(row["text"])[: row["max_length"] - len(tokenizer.prompt_specials)]
    assert [tokenizer.prompt(ids)] == row["input_ids"]


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("pair", ("v1", "v2", "v3")))
def test_question_and_answer_are_joined_as_recorded(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    question, answer = tokenizer.encode(row["text"]), tokenizer.encode(row["pair"])
    assert [*tokenizer.prompt(question), *answer, tokenizer.eos] == row["ids"]


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("vocab_size"))
def test_end_and_pad_are_the_recorded_ones(name, kind, row):
    tokenizer, recorded = golden_tokenizer(name, kind), golden(name, kind)
    assert (tokenizer.eos, tokenizer.pad) == (recorded["eos_token_id"], recorded["pad_token_id"])


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("family"))
def test_pieces_pushed_join_to_the_text_with_the_published_vocabularies(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    assert_streams_join(tokenizer, random.Random(len(name + kind)), rounds=60)


@pytest.mark.parametrize(("name", "kind", "row"), golden_rows("family"))
def test_a_long_prompt_is_encoded_in_milliseconds(name, kind, row):
    tokenizer = golden_tokenizer(name, kind)
    text = ("根据上述已知信息，简洁和专业的来回答用户的问题 (PDF, Word 2023)。\n" * 90)[:3000]
    took = []
    for _ in range(5):
        started = time.perf_counter()
        tokenizer.encode(text)
        took.append(time.perf_counter() - started)
    assert min(took) < 0.05  # about 0.0005 s on an idle machine


# --- the same rules on vocabularies made here -------------------------------------------------------------------------


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_encoding_and_decoding(small, text):
    decoded = small.decode(small.encode(text))
    if small.family == "chatglm":  # whose normalizer folds characters and strips blanks
        assert decoded.split() == unicodedata.normalize("NFKC", text).split()
    else:
        assert decoded == text


def test_what_a_user_types_never_becomes_a_control_token(small):
    assert not set(small.encode(TYPED)) & set(small.specials.values())
    for name in small.specials:
        assert small.specials[name] not in small.encode(name)


def test_encoding_adds_nothing(small):
    assert small.encode("") == []
    assert small.encode("你好") == small.encode("你好")


def test_half_a_surrogate_pair_is_no_reason_to_fail(small):
    assert "你好" in small.decode(small.encode("\ud83d你好\udc00"))


def test_endless_blanks_are_encoded(small):
    assert len(small.encode("x" + " " * 200_000 + "\n" * 50_000 + "x")) > 1000


def test_runs_of_blanks_are_one_token_each_up_to_eighty(tmp_path):
    tokenizer = load_tokenizer(make_v1(tmp_path), "chatglm")
    two, eighty, tab, line = (tokenizer.encode(name)[-1] for name in ("<|blank_2|>", "<|blank_80|>", "<|tab|>", "<n>"))
    assert tokenizer.encode("年  假").count(two) == 1
    assert tokenizer.encode("年" + " " * 162 + "\t\n")[-5:] == [eighty, eighty, two, tab, line]
    assert tokenizer.decode([eighty, tab, line, two]) == " " * 80 + "\t\n  "


@pytest.mark.parametrize("ids", [[-1], [10**9], [-5, 10**6, -1], [2**63]])
def test_ids_that_stand_for_nothing_are_nothing(small, ids):
    assert small.decode(ids) == ""
    some = small.encode("年假")
    assert small.decode([*some, *ids]) == small.decode(some)


def test_pieces_pushed_join_to_the_text(small):
    assert_streams_join(small, random.Random(7), rounds=200)


def test_text_arrives_while_it_is_written(small):
    stream = small.stream()
    ids = small.encode("知识库支持哪些文档格式？\n年假有几天")
    pushed = [stream.push(token) for token in ids]
    assert sum(map(bool, pushed)) > 5
    assert "".join(pushed) == small.decode(ids)  # the end brings nothing more
    assert stream.end() == ""


def test_half_a_character_waits_for_its_other_half(small):
    ids = small.encode("好🙂")
    stream = small.stream()
    pushed = [stream.push(token) for token in ids]
    assert not any("\ufffd" in piece for piece in pushed)
    assert pushed[-1] == "🙂"
    assert small.decode(ids[:-1]).endswith("\ufffd")  # cut short, it shows


def test_each_token_costs_the_same_however_long_the_text_is(small):
    once = small.encode("年假有几天")

    def seconds(times):
        stream = small.stream()
        started = time.perf_counter()
        for token in once * times:
            stream.push(token)
        return (time.perf_counter() - started) / times

    seconds(10)
    assert min(seconds(4000) for _ in range(3)) < 8 * min(seconds(100) for _ in range(3))


def test_decoding_takes_ids_of_any_integer_type(small):
    numpy = pytest.importorskip("numpy")
    ids = small.encode("年假")
    assert small.decode(numpy.array(ids)) == small.decode(ids)


@pytest.mark.parametrize("family", ["chatglm", "chatglm2"])
def test_sentencepiece_itself_decodes_alike(tmp_path, family):
    import sentencepiece

    folder = MAKERS[family][0](tmp_path)
    tokenizer = load_tokenizer(folder, family)
    model = sentencepiece.SentencePieceProcessor()
    model.load(str(next(folder.glob("*.model"))))
    chance = random.Random(3)
    size = model.get_piece_size()
    plain = [at for at in range(4, size) if "<|" not in model.id_to_piece(at)]
    bytes_ = [at for at in range(size) if model.is_byte(at)]
    blank = model.piece_to_id("▁")
    for _ in range(1500):
        pools = (plain, bytes_, [blank, 1, 2])
        ids = [chance.choice(chance.choice(pools)) for _ in range(chance.randrange(1, 10))]
        assert tokenizer.decode(ids) == model.decode(ids).replace("<n>", "\n")


def test_both_layouts_of_glm4_give_the_same_ids(tmp_path):
    (tmp_path / "hf").mkdir()
    one, other = load_tokenizer(make_glm4(tmp_path), "glm4"), load_tokenizer(make_glm4_hf(tmp_path / "hf"), "glm4")
    for text in TEXTS:
        assert one.encode(text) == other.encode(text)
    assert one.specials == other.specials


def test_glm4_hf_decodes_as_the_library_does(tmp_path):
    from tokenizers import Tokenizer

    ours = load_tokenizer(make_glm4_hf(tmp_path), "glm4")
    library = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert ours.decode(ours.encode(text)) == library.decode(ours.encode(text))


def test_ids_of_images_come_first_where_a_release_has_them(tmp_path):
    plain = load_tokenizer(make_v1(tmp_path), "chatglm")
    shifted = load_tokenizer(make_v1(tmp_path, images=20_000), "chatglm")
    assert shifted.encode("年假") == [token + 20_000 for token in plain.encode("年假")]
    assert shifted.decode([7, 19_999, *shifted.encode("年假")]) == "年假"
    assert shifted.specials["<sop>"] == plain.specials["<sop>"] + 20_000
    assert shifted.pad == plain.pad + 20_000


def test_the_model_s_config_says_how_many_images(tmp_path):
    sop = load_tokenizer(make_v1(tmp_path), "chatglm").specials["<sop>"]
    (tmp_path / "tokenizer_config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": sop + 300}), encoding="utf-8")
    assert load_tokenizer(tmp_path, "chatglm").specials["<sop>"] == sop + 300
    (tmp_path / "config.json").write_text(json.dumps({"bos_token_id": sop - 1}), encoding="utf-8")
    with pytest.raises(ModelError, match="belong to two models"):
        load_tokenizer(tmp_path, "chatglm")


# --- bad files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES.values())
def test_a_folder_without_tokenizer_names_the_file(tmp_path, family):
    with pytest.raises(ModelError, match=r"has no (ice_text|tokenizer)\.model"):
        load_tokenizer(tmp_path, family)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("damage", ["empty", "cut", "noise", "text"])
def test_a_damaged_file_is_named(tmp_path, kind, damage):
    make, family = MAKERS[kind]
    make(tmp_path)
    path = next(path for path in tmp_path.iterdir() if path.name != "tokenizer_config.json")
    content = path.read_bytes()
    broken = {
        "empty": b"",
        "cut": content[: len(content) // 2],
        "noise": bytes(range(256)) * 9,
        "text": "你好".encode(),
    }
    path.write_bytes(broken[damage])
    with pytest.raises(ModelError, match=path.name.replace(".", r"\.")):
        load_tokenizer(tmp_path, family)


def test_another_family_s_tokenizer_is_named(tmp_path):
    pieces, ranks = tmp_path / "pieces", tmp_path / "ranks"
    pieces.mkdir(), ranks.mkdir()
    make_v2(pieces), make_glm4(ranks)
    shutil.copy(ranks / "tokenizer_config.json", pieces)
    for folder, family in ((pieces, "glm4"), (ranks, "chatglm2"), (ranks, "chatglm3")):
        with pytest.raises(ModelError, match=r"tokenizer\.model"):
            load_tokenizer(folder, family)
    shutil.copy(pieces / "tokenizer.model", pieces / "ice_text.model")
    with pytest.raises(ModelError, match="not the tokenizer of ChatGLM-6B"):
        load_tokenizer(pieces, "chatglm")
    make_v1(ranks)
    shutil.copy(ranks / "ice_text.model", ranks / "tokenizer.model")
    with pytest.raises(ModelError, match="not the tokenizer of ChatGLM2-6B"):
        load_tokenizer(ranks, "chatglm2")


def test_ranks_with_a_hole_are_damaged(tmp_path):
    make_glm4(tmp_path)
    path = tmp_path / "tokenizer.model"
    lines = path.read_text(encoding="ascii").splitlines(keepends=True)
    for missing, complaint in ((lines[65], "has gaps"), (lines[-1], "control tokens .* begin at")):
        path.write_text("".join(line for line in lines if line != missing), encoding="ascii")
        with pytest.raises(ModelError, match=complaint):
            load_tokenizer(tmp_path, "glm4")


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ("{", "cannot be read"),
        ("[]", "no.* JSON object|not hold a JSON object"),
        ('{"added_tokens_decoder": {"316": "<|endoftext|>"}}', "added tokens is damaged"),
        ('{"added_tokens_decoder": {"x": {"content": "[gMASK]"}}}', "added tokens is damaged"),
        ('{"added_tokens_decoder": {"316": {"content": "[gMASK]"}}}', "has no <"),
    ],
)
def test_a_bad_tokenizer_config_is_named(tmp_path, config, complaint):
    make_glm4(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    with pytest.raises(ModelError, match=f"tokenizer_config.json.*({complaint})|({complaint}).*tokenizer_config.json"):
        load_tokenizer(tmp_path, "glm4")


def test_glm4_without_a_list_of_ids_has_its_control_tokens_behind_the_ranks(tmp_path):
    listed = load_tokenizer(make_glm4(tmp_path), "glm4").specials
    (tmp_path / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    assert load_tokenizer(tmp_path, "glm4").specials == listed


def test_a_missing_library_names_the_extra(tmp_path, monkeypatch):
    make_v2(tmp_path)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ModelError, match=r'pip install "kbqa\[glm\]"'):
        load_tokenizer(tmp_path, "chatglm2")


def test_importing_loads_no_library():
    code = "import sys, kbqa.chatglm.tokenizers, kbqa.chatglm.chat; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"torch", "sentencepiece", "tiktoken", "tokenizers", "transformers", "jinja2"}


def assert_streams_join(tokenizer, chance, rounds):
    """Random ids, among them control tokens, parts of characters, and ids that stand for nothing."""
    odd = [*tokenizer.specials.values(), -1, tokenizer.size, tokenizer.size + 9, 2**40]
    halves = tokenizer.encode("🙂龘é\x80")
    for _ in range(rounds):
        pools = (range(tokenizer.size), odd, halves)
        ids = [chance.choice(chance.choice(pools)) for _ in range(chance.randrange(30))]
        stream = tokenizer.stream()
        pushed = [stream.push(token) for token in ids]
        assert "".join(pushed) + stream.end() == tokenizer.decode(ids)
        again = tokenizer.stream()
        so_far = ""
        for at, token in enumerate(ids):  # what was said is never taken back: it begins what all ids so far come to
            so_far += again.push(token)
            assert tokenizer.decode(ids[: at + 1]).startswith(so_far)


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_the_tokens_are_the_text(small, text):
    ids = small.encode(text)
    said = b"".join(small.bytes_of(token) for token in ids).decode()
    assert said.lstrip(" ") == small.decode(ids).lstrip(" ")  # a blank may stand before the first word


def test_control_tokens_and_ids_that_are_none_add_no_bytes(small):
    assert {small.bytes_of(token) for token in small.specials.values()} == {b""}
    assert small.bytes_of(small.size + 5) == small.bytes_of(-3) == b""
