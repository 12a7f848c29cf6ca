"""What a tuned model learned and what it forgot, on tiny models of every family."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")
for library in ("jieba", "nltk", "rouge_chinese", "matplotlib"):
    pytest.importorskip(library, reason="kbqa[tune] is not installed")

import glmkit  # noqa: E402, F401  (one thread)
from click.testing import CliRunner  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from kbqa.analyzer import fold  # noqa: E402
from kbqa.chatglm import load_chatglm  # noqa: E402
from kbqa.chatglm.lora import lora_tensors  # noqa: E402
from kbqa.chatglm.tiny import Shape, make_tiny  # noqa: E402
from kbqa.cli import kbqa  # noqa: E402
from kbqa.errors import ConfigError, ModelError  # noqa: E402
from kbqa.tuning import Row, write_rows  # noqa: E402
from kbqa.tuning.evaluate import BASE, Candidate, checkpoints, compare, evaluate  # noqa: E402
from kbqa.tuning.guard import (  # noqa: E402
    Answered,
    Forgetting,
    Held,
    Question,
    Standing,
    check_forgetting,
    forgetting,
    held,
    standing,
    write_evaluation,
)
from kbqa.tuning.preprocess import Limits  # noqa: E402
from kbqa.tuning.report import draw, page  # noqa: E402
from kbqa.tuning.speaker import Speaker  # noqa: E402

FAMILIES = ("chatglm", "chatglm2", "chatglm3", "glm4")
LIMITS = Limits(64, 24)
FAST = ("--dtype", "float32")  # on models as small as these
QUESTIONS = ("年假有几天？", "出差补助是多少？", "仓库在哪里？", "保修期是多久?", "what is it")
FEW = Held({"chinese": ["年假有几天？", "公司的上班时间是上午。"]}, (Question("general", QUESTIONS[0], ("天",)),))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tiny model of each family."""
    where = tmp_path_factory.mktemp("models")
    for family in FAMILIES:
        make_tiny(family, where / family)
    return where


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, folders):
    return load_chatglm(folders / request.param)


@pytest.fixture(scope="module")
def chatglm2(folders):
    return load_chatglm(folders / "chatglm2")


def make_prefix(folder, model, size=0.5, seed=0, tokens=8):
    """A P-Tuning checkpoint of random keys and values."""
    a = model.architecture
    drawn = torch.randn(tokens, 2 * a.layers * a.groups * a.head_dim, generator=torch.Generator().manual_seed(seed))
    folder.mkdir(parents=True)
    torch.save({"transformer.prefix_encoder.embedding.weight": drawn * size}, folder / "pytorch_model.bin")
    return folder


def make_lora(folder, model, size=0.5, rank=2):
    a = model.architecture
    drawn = torch.Generator().manual_seed(1)
    rows = (a.heads + 2 * a.groups) * a.head_dim
    pairs = {
        f"blocks.{block}.attention.qkv": (
            torch.randn(rank, a.hidden, generator=drawn) * size,
            torch.randn(rows, rank, generator=drawn) * size,
        )
        for block in range(a.layers)
    }
    folder.mkdir(parents=True)
    save_file(
        {name: it.contiguous() for name, it in lora_tensors(a, pairs).items()}, folder / "adapter_model.safetensors"
    )
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 4}))
    return folder


def own_answers(model, questions=QUESTIONS, most=LIMITS.max_target_length - 4):
    """Rows whose answers are what the model says anyway; those that it can spell another time."""
    return [
        Row(question, text)
        for question in questions
        if isinstance(text := model.chat(question, do_sample=False, max_new_tokens=most)[0], str) and text
    ]


def tune(*arguments, code=0):
    result = CliRunner().invoke(kbqa, ["tune", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result


# --- asking and scoring ----------------------------------------------------------------------------------------------


def test_each_row_gets_what_it_would_get_alone(model):
    speaker = Speaker(model)
    prompts = [speaker.asked(question, history=(("你好", "好"),) * (at % 2)) for at, question in enumerate(QUESTIONS)]
    alone = [model.tokenizer.decode(model.generate(ids, 24)).strip() for ids in prompts]
    together = list(speaker.replies(prompts, 24, at_once=3))
    assert [said.tokens for said in together] == [len(model.generate(ids, 24)) for ids in prompts]
    if model.family != "chatglm":  # whose replies get other punctuation
        assert [said.text.strip() for said in together] == [text.split("<|")[0].strip() for text in alone]
    assert [said.cut_off for said in together] == [said.tokens == 24 for said in together]


def test_a_model_that_says_what_is_wanted_scores_full(chatglm2):
    rows = own_answers(chatglm2)
    found = evaluate(Candidate(BASE, None, Speaker(chatglm2)), rows, replace(LIMITS, max_target_length=20))
    exact = [it for it in found.scored if it.said.text == it.wanted]
    assert len(exact) >= len(rows) - 1  # bytes that make no character are spelled otherwise
    assert all(it.scores.exact_match == 100.0 and it.scores.rouge_l > 99 for it in exact)
    assert found.scores.exact_match >= 100.0 * (len(rows) - 1) / len(rows)


def test_the_answer_that_is_wanted_is_compared_in_the_models_own_spelling(folders):
    """ChatGLM-6B's vocabulary folds 。，？ of full width to those of half width; its replies turn some of them back."""
    model = load_chatglm(folders / "chatglm")
    (scored,) = evaluate(Candidate(BASE, None, Speaker(model)), [Row("年假?", "年假，有几天？")], LIMITS).scored
    assert scored.wanted == model.tokenizer.decode(model.tokenizer.encode("年假,有几天?")).replace(",", "，").replace(
        "?", "？"
    )


def test_the_loss_is_the_surprise_at_the_answer_alone(chatglm2):
    row = Row("年假有几天？", "十天")
    speaker = Speaker(chatglm2)
    prompt, answer = chatglm2.chat_ids(row.prompt), [*chatglm2.tokenizer.encode(row.response), chatglm2.tokenizer.eos]
    logs = chatglm2.logits([[*prompt, *answer]])[0].log_softmax(-1)
    wanted = -sum(logs[len(prompt) - 1 + at, token].item() for at, token in enumerate(answer)) / len(answer)
    assert speaker.loss(row, LIMITS) == pytest.approx(wanted, rel=1e-5)


def test_the_perplexity_is_that_of_the_text_whatever_its_length(model):
    text = "出差回来后应在十五个工作日内提交报销单。" * 30
    begin, ids = model.tokenizer.prompt([]), model.tokenizer.encode(text)
    surprise = 0.0
    for start in range(0, len(ids), 256):
        part = ids[start : start + 256]
        logs = model.logits([[*begin, *part]])[0].log_softmax(-1)
        surprise -= sum(logs[len(begin) - 1 + at, token].item() for at, token in enumerate(part))
    assert Speaker(model).perplexity([text]) == pytest.approx(math.exp(surprise / len(ids)), rel=1e-4)
    with pytest.raises(ModelError, match="no text"):
        Speaker(model).perplexity([""])


def test_a_prompt_beyond_the_context_costs_its_row_and_no_other(chatglm2):
    rows = [Row("长" * 900, "十天"), *own_answers(chatglm2)[:2]]
    found = evaluate(Candidate(BASE, None, Speaker(chatglm2)), rows, Limits(800, 20))
    assert [bool(it.said.error) for it in found.scored] == [True, False, False]
    assert "the context is" in found.scored[0].said.error
    assert (found.failed, found.long_prompts) == (1, 1)
    assert math.isnan(found.loss) or found.loss > 0


def test_what_is_longer_than_the_limits_is_counted(chatglm2):
    rows = [Row("年假多" * 40, "十天"), Row("年假", "十天不" * 40), Row("年假", "十天")]
    found = evaluate(Candidate(BASE, None, Speaker(chatglm2)), rows, LIMITS)
    assert (found.long_prompts, found.long_answers) == (1, 1)


# --- several checkpoints ---------------------------------------------------------------------------------------------


def test_checkpoints_are_compared_with_the_base_on_the_same_rows(model, tmp_path):
    tuned = [make_prefix(tmp_path / "output" / "checkpoint-20", model)]
    if model.family != "chatglm":
        tuned.append(make_lora(tmp_path / "lora", model, size=2.0))
    rows = own_answers(model)
    seen = []
    found = list(compare(model, tuned, rows, LIMITS, FEW, on_row=lambda it, scored: seen.append(it.name)))
    assert [it.name for it in found] == [BASE, *(it.name for it in tuned)]
    assert seen == [name for name in (it.name for it in found) for _ in rows]
    base, *others = found
    assert base.forgetting is None
    for name, other in zip((it.name for it in tuned), others, strict=True):
        (again,) = list(Speaker(model, name).replies([Speaker(model).asked(rows[0].prompt)], 24))
        assert other.scored[0].said.text == again.text
        assert other.loss != base.loss
        assert other.forgetting.base == standing(Speaker(model), FEW)


def test_checkpoints_are_told_apart_by_as_much_of_their_path_as_it_takes(chatglm2, tmp_path):
    tuned = [make_prefix(tmp_path / run / "checkpoint-20", chatglm2, seed=at) for at, run in enumerate("甲乙")]
    tuned.append(make_prefix(tmp_path / "base", chatglm2))
    names = [it.name for it in compare(chatglm2, tuned, [Row("年假?", "十天")], LIMITS, base=False)]
    assert names == ["甲/checkpoint-20", "乙/checkpoint-20", f"{tmp_path.name}/base"]


def test_a_run_stands_for_all_its_checkpoints_in_their_order(chatglm2, tmp_path):
    for step in (1000, 500, 50):
        make_prefix(tmp_path / f"checkpoint-{step}", chatglm2)
    (tmp_path / "checkpoint-9").mkdir()  # nothing in it yet
    assert [it.name for it in checkpoints(tmp_path)] == ["checkpoint-50", "checkpoint-500", "checkpoint-1000"]
    assert checkpoints(tmp_path / "checkpoint-50") == [tmp_path / "checkpoint-50"]
    for path, said in ((tmp_path / "checkpoint-9", "holds neither a prefix"), (tmp_path / "x", "there is no folder")):
        with pytest.raises(ConfigError, match=said):
            checkpoints(path)


# --- forgetting ------------------------------------------------------------------------------------------------------


def test_the_same_model_forgot_nothing_and_a_wild_prefix_much(model, tmp_path):
    make_prefix(tmp_path / "wild", model, size=30.0)
    model.load_adapter("wild", tmp_path / "wild")
    speaker = Speaker(model)
    assert forgetting(speaker, speaker, FEW).drop == 0
    found = forgetting(speaker, Speaker(model, "wild"), FEW)
    before, after = found.base.perplexity["chinese"], found.tuned.perplexity["chinese"]
    assert found.drops["perplexity on chinese text"] == pytest.approx(max(0.0, 1 - before / after))
    assert before != after


def test_the_worst_of_what_was_lost_counts():
    def side(perplexity, right):
        return Standing({"chinese": perplexity}, tuple(Answered("rag", f"问{at}", "", at < right) for at in range(4)))

    worse_text = Forgetting(side(10.0, 3), side(20.0, 2))
    assert worse_text.drops == {"perplexity on chinese text": 0.5, "rag questions": 0.25}
    assert worse_text.told() == "perplexity on chinese text: 10.0 → 20.0, a drop of 0.50"
    worse_answers = Forgetting(side(10.0, 4), side(9.0, 1))
    assert worse_answers.told() == "rag questions: 100% → 25% right, a drop of 0.75"
    assert Forgetting(side(10.0, 0), side(8.0, 4)).drop == 0
    assert Forgetting.from_json(json.loads(json.dumps(worse_text.as_json()))) == worse_text


def test_promoting_is_refused_above_the_limit_and_without_a_measure(chatglm2, tmp_path):
    folder = make_prefix(tmp_path / "tuned", chatglm2)
    with pytest.raises(ConfigError, match=r"nobody knows yet what .* forgot: .*`kbqa tune evaluate BASE"):
        check_forgetting(folder)

    def side(perplexity):
        return Standing({"chinese": perplexity}, ())

    found = Forgetting(side(10.0), side(15.0))
    write_evaluation(folder, {"forgetting": found.as_json()})
    with pytest.raises(
        ConfigError, match=r"forgot more than the 0\.20 allowed: perplexity on chinese text: 10\.0 → 15\.0"
    ):
        check_forgetting(folder)
    assert check_forgetting(folder, max_drop=0.5) == found
    shutil.copy(make_prefix(tmp_path / "other", chatglm2, seed=5) / "pytorch_model.bin", folder)
    with pytest.raises(ConfigError, match="is of other weights"):
        check_forgetting(folder, max_drop=1)
    (folder / "evaluation.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        check_forgetting(folder, max_drop=1)


def test_what_comes_with_kbqa_can_be_answered_from_what_is_shown():
    what = held()
    assert {group: len(texts) for group, texts in what.texts.items()} == {"chinese": 8, "english": 6}
    assert {question.group for question in what.questions} == {"general", "rag"}
    for question in what.questions:
        shown = fold("".join(question.passages))
        told = any(fold(answer) in shown for answer in question.answers)
        assert told == (bool(question.passages) and "无法回答" not in question.answers), question.text
        assert not any(fold(answer) in fold(question.text) for answer in question.answers), question.text


def test_text_and_questions_of_ones_own_are_held_too(tmp_path):
    text = tmp_path / "自己的.txt"
    text.write_text("第一段。\n\n第二段。\n", encoding="utf-8")
    assert held(text).texts["own"] == ["第一段。", "第二段。"]
    rows = tmp_path / "自己的.jsonl"
    lines = [
        {"text": "一段。"},
        {"question": "押金多少？", "answers": ["300"], "passages": ["押金300元。"]},
        {"question": "你是谁？", "answers": ["助手"]},
    ]
    rows.write_text("\n".join(json.dumps(line) for line in lines) + "\n", encoding="utf-8")
    found = held(rows)
    assert found.texts["own"] == ["一段。"]
    assert [question.prompt for question in found.questions if question.group == "own"] == [
        "已知信息:\n押金300元。\n根据已知信息回答问题:\n押金多少？",
        "你是谁？",
    ]


@pytest.mark.parametrize("line", ['{"question": "x"}', '{"question": "x", "answers": "y"}', "[]", "x", '{"a": 1}'])
def test_a_held_line_that_is_neither_text_nor_question_is_named(tmp_path, line):
    path = tmp_path / "own.jsonl"
    path.write_text('{"text": "一"}\n' + line, encoding="utf-8")
    with pytest.raises(ConfigError, match="line 2: not an object with text, or with question and answers"):
        held(path)


# --- the report and the command --------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else_and_shows_hostile_text_as_text(chatglm2, tmp_path):
    hostile = "<script>alert('年假')</script>"
    tuned = make_prefix(tmp_path / "调<b>", chatglm2)
    found = list(compare(chatglm2, [tuned], [Row(hostile, hostile)], LIMITS, FEW))
    chart = draw(found)
    assert chart.startswith(b"\x89PNG")
    html = page(found, {"base": hostile}, chart)
    assert "<script" not in html
    assert "&lt;script&gt;alert(&#x27;年假&#x27;)&lt;/script&gt;" in html
    assert "What 调&lt;b&gt; forgot" in html
    assert html.count("src=") == html.count('src="data:image/png;base64,') == 1
    assert not any(word in html for word in ("http:", "https:", "<link", "url("))


@pytest.fixture
def dev(chatglm2, tmp_path):
    path = tmp_path / "dev.jsonl"
    write_rows(path, own_answers(chatglm2))
    return path


def test_evaluate_writes_answers_a_page_and_what_was_forgotten(folders, chatglm2, dev, tmp_path, monkeypatch):
    monkeypatch.setattr("kbqa.tuning.guard.MOST", 8)  # tokens: 96 questions are asked
    tuned = make_prefix(tmp_path / "run" / "checkpoint-20", chatglm2)
    shut = make_prefix(tmp_path / "run" / "checkpoint-30", chatglm2, seed=3)
    (shut / "evaluation.json.partial").mkdir()  # nothing can be written there
    out = tmp_path / "found"
    arguments = ("evaluate", folders / "chatglm2", tmp_path / "run", "--data", dev, "--out", out, *FAST)
    shown = tune(*arguments, "--max-target-length", 24, "--json")
    told = json.loads(shown.stdout)
    assert sorted(path.name for path in out.iterdir()) == [
        "base.jsonl",
        "checkpoint-20.jsonl",
        "checkpoint-30.jsonl",
        "report.html",
        "report.png",
        "summary.json",
    ]
    base, other, _ = told["models"]
    lines = [json.loads(line) for line in (out / "base.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["content"] for line in lines] == list(QUESTIONS[: len(lines)])
    assert {"labels", "predict", "bleu_4", "rouge_l", "loss"} <= lines[0].keys()
    assert base["rouge_l"] > other["rouge_l"]
    assert base["forgetting"] is None
    kept = json.loads((tuned / "evaluation.json").read_text(encoding="utf-8"))
    assert kept["forgetting"] == other["forgetting"]
    assert kept["rouge_l"] == other["rouge_l"]
    assert check_forgetting(tuned, max_drop=1).drop == pytest.approx(other["forgetting"]["drop"], abs=1e-4)
    assert "cannot be kept beside" in shown.stderr
    assert not (shut / "evaluation.json").exists()
    assert "is there already; name a new folder with --out" in tune(*arguments, code=1).output


def test_evaluate_prints_a_table_and_counts_what_is_too_long(folders, tmp_path):
    data = tmp_path / "dev.jsonl"
    write_rows(data, [Row("年假有几天？", "十天", teacher="gpt"), Row("长" * 90, "短"), Row("病假？", "短" * 30)])
    limits = ("--max_source_length", 64, "--max_target_length", 24)
    shown = tune("evaluate", folders / "chatglm2", "--data", data, "--out", tmp_path / "found", *limits, *FAST)
    assert shown.stdout.splitlines()[0].split("\t")[:4] == ["", "BLEU-4", "ROUGE-1", "ROUGE-2"]
    assert shown.stdout.splitlines()[1].startswith("base\t")
    assert "1 of the questions were cut to 64 tokens" in shown.stderr
    assert "1 of the wanted answers are longer than 24 tokens" in shown.stderr
    assert "1 of the wanted answers were written by a model (teacher)" in shown.stderr


def test_a_sample_is_the_same_for_the_same_seed(folders, dev, tmp_path):
    asked = []
    for at, seed in enumerate((1, 1)):
        out = tmp_path / f"found{at}"
        arguments = ("--data", dev, "--out", out, "--limit", 2, "--seed", seed, "--max-target-length", 8, *FAST)
        tune("evaluate", folders / "chatglm2", *arguments)
        asked.append([json.loads(line)["content"] for line in (out / "base.jsonl").read_text().splitlines()])
    assert asked[0] == asked[1]
    assert len(asked[0]) == 2


def test_evaluate_refuses_before_anything_is_asked_or_written(folders, chatglm2, dev, tmp_path):
    other = tmp_path / "other-model"
    make_tiny("chatglm2", other, Shape(layers=3))
    foreign = make_prefix(tmp_path / "foreign", load_chatglm(other))
    base = folders / "chatglm2"
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    for arguments, said in (
        ((base, foreign, "--data", dev), "it was trained for another model"),
        ((base, tmp_path / "none", "--data", dev), "there is no folder"),
        ((base, "--data", empty), "holds no row"),
        ((base, "--data", tmp_path), "is a folder"),
        ((base, "--data", dev, "--response-column", "answer"), "no field 'answer'; it has 'content', 'summary'"),
        ((base, foreign, "--data", dev, "--held", tmp_path / "none.txt"), "No such file"),
        ((tmp_path / "none", "--data", dev), "none"),
    ):
        out = tmp_path / "out"
        assert said in tune("evaluate", *arguments, "--out", out, code=1).output
        assert not out.exists() or not any(out.iterdir())
        if out.exists():
            out.rmdir()
