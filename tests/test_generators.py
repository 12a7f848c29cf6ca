"""One contract for all generators, then what is special about each."""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import repeat

import chatserver
import pytest
from conftest import PARROT

pytest.importorskip("langchain_core", reason="LangChain is not installed: pip install 'kbqa[langchain]'")
from langchain_core.language_models import FakeListChatModel, FakeListLLM, GenericFakeChatModel
from langchain_core.language_models.chat_models import BaseChatModel
from langchain_core.language_models.fake import FakeStreamingListLLM
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.outputs import ChatGenerationChunk, ChatResult

from kbqa.build import make_generator
from kbqa.cancellation import Cancellation
from kbqa.config import GeneratorConfig
from kbqa.errors import Cancelled, ConfigError, GeneratorError
from kbqa.generators.extractive import ExtractiveGenerator
from kbqa.generators.langchain import LangChainGenerator
from kbqa.generators.openai import OpenAIGenerator
from kbqa.generators.transformers import TransformersGenerator
from kbqa.prompt import fill, messages
from kbqa.types import REFUSAL, Chunk, GenerationRequest, Generator, Hit, Message, Piece

QUESTION = "年假有几天？"
PASSAGE = "员工每年享有十天年假。未休的年假可以顺延到次年三月。食堂在二楼。"
SAID = "根据制度，员工每年享有 10 天年假。 未休的可以顺延。"


def request(question: str = QUESTION, *passages: str, **settings) -> GenerationRequest:
    hits = tuple(Hit(Chunk(f"{n}.md", n, text, (0, len(text))), 0.9 - n / 10) for n, text in enumerate(passages))
    prompt = fill(question, passages)
    return GenerationRequest(messages=messages(prompt), question=question, hits=hits, **settings)


ASKED = request(QUESTION, PASSAGE)

KINDS = {
    "extractive": "员工每年享有十天年假。",
    "chat model, letter by letter": SAID,
    "chat model, word by word": SAID,
    "chat model by name": SAID,
    "plain LLM": SAID,
    "plain LLM that streams": SAID,
    "openai": chatserver.SAID,
    "transformers": PARROT,
}


@pytest.fixture(params=KINDS)
def made(request):
    """A generator of each kind and what it says to ASKED."""

    def make() -> Generator:
        match request.param:
            case "extractive":
                return ExtractiveGenerator()
            case "chat model, letter by letter":
                return LangChainGenerator(FakeListChatModel(responses=[SAID]))
            case "chat model, word by word":
                return LangChainGenerator(GenericFakeChatModel(messages=repeat(SAID)))
            case "chat model by name":
                return LangChainGenerator("langchain_core.language_models.FakeListChatModel", {"responses": [SAID]})
            case "plain LLM":
                return LangChainGenerator(FakeListLLM(responses=[SAID]))
            case "plain LLM that streams":
                return LangChainGenerator(FakeStreamingListLLM(responses=[SAID]))
            case "openai":
                return OpenAIGenerator(request.getfixturevalue("chat_server").url, "glm")
            case "transformers":
                return TransformersGenerator(request.getfixturevalue("parrot"), device="cpu", waiting=20)
        raise AssertionError(request.param)

    return make(), KINDS[request.param]


def text_of(pieces: Iterable[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


# --- the contract ----------------------------------------------------------------------------------------------------


def test_the_pieces_together_are_the_whole_and_nothing_is_repeated(made):
    generator, expected = made
    assert text_of(generator.stream(ASKED)) == expected


def test_the_last_piece_and_only_that_one_ends_it(made):
    generator, _ = made
    *before, last = generator.stream(ASKED)
    assert before
    assert all(piece.text and piece.finish is None for piece in before)
    assert (last.text, last.finish) == ("", "stop")


def test_no_piece_holds_half_a_character(made):
    generator, _ = made
    assert not any("\ufffd" in piece.text for piece in generator.stream(ASKED))


def test_closing_early_is_fine_and_the_next_question_is_answered(made):
    generator, expected = made
    stream = generator.stream(ASKED)
    assert expected.startswith(next(stream).text)
    stream.close()
    assert list(stream) == []
    unread = generator.stream(ASKED)
    unread.close()
    assert text_of(generator.stream(ASKED)) == expected


def test_a_deadline_in_the_future_does_no_harm_and_one_that_has_passed_ends_it(made):
    generator, expected = made
    assert text_of(generator.stream(replace(ASKED, deadline=time.monotonic() + 60))) == expected
    if generator.name != "extractive":  # which takes no time worth a deadline
        with pytest.raises(GeneratorError, match="in time"):
            list(generator.stream(replace(ASKED, deadline=time.monotonic() - 1)))
    assert text_of(generator.stream(ASKED)) == expected


def test_a_question_that_was_taken_back_is_not_answered_and_the_next_one_is(made):
    generator, expected = made
    gone = Cancellation()
    gone.cancel()
    with pytest.raises(Cancelled):
        list(generator.stream(replace(ASKED, cancellation=gone)))
    assert text_of(generator.stream(ASKED)) == expected


def test_a_conversation_is_taken(made):
    generator, expected = made
    said = (Message("user", "食堂在哪里？"), Message("assistant", "二楼。"), *ASKED.messages)
    assert text_of(generator.stream(replace(ASKED, messages=said))) == expected


def test_many_may_ask_at_once_and_each_gets_an_answer_of_its_own(made):
    generator, expected = made
    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(lambda _: text_of(generator.stream(ASKED)), range(12))) == {expected}


def test_a_stream_may_be_read_by_changing_threads(made):
    generator, expected = made
    stream = generator.stream(ASKED)
    text = ""
    while True:
        with ThreadPoolExecutor(1) as pool:
            piece = pool.submit(next, stream).result()
        text += piece.text
        if piece.finish:
            break
    assert text == expected


def test_a_generator_has_a_name(made):
    generator, _ = made
    assert generator.name


# --- extractive ------------------------------------------------------------------------------------------------------


def extract(question: str, *passages: str, sentences: int = 3) -> str:
    return "".join(piece.text for piece in ExtractiveGenerator(sentences).stream(request(question, *passages)))


@pytest.mark.parametrize("question", ["年假有几天？", "未休的年假怎么办？", "食堂在哪里？", "二楼有什么？"])
def test_every_line_of_an_extracted_answer_is_a_sentence_of_a_passage(question):
    lines = extract(question, PASSAGE, "食堂七点开门。").split("\n")
    assert lines
    assert all(line in PASSAGE or line == "食堂七点开门。" for line in lines)


def test_the_sentence_that_answers_is_taken_not_its_neighbours():
    assert extract("食堂在哪里？", "员工每年享有十天年假。食堂在二楼。", "会议室在三楼。") == "食堂在二楼。"


def test_a_sentence_that_can_fill_the_gap_of_the_question_is_preferred():
    passage = "报销应当及时提交，逾期提交的报销不予受理。报销在十五个工作日之内提交。"
    assert extract("报销要在几天之内提交？", passage, sentences=1) == "报销在十五个工作日之内提交。"


def test_a_sentence_with_semicolons_is_quoted_whole_unless_it_is_long():
    listed = "5万元以下的采购由经理审批；5万元至20万元的采购由副总审批；20万元以上的由总经理审批。"
    assert extract("20万元以上的采购由谁审批？", f"采购须事先批准。{listed}其他费用另行规定。") == listed
    long = "".join(f"{n}号仓库存放第{n}类物资和相应的备件与工具；" for n in range(1, 20))
    assert extract("7号仓库存放什么？", long) == "7号仓库存放第7类物资和相应的备件与工具；"


def test_a_table_row_is_told_with_the_column_that_was_asked_for():
    table = "大区 | 8月 | 9月\n西南 | 180 | 560.2\n华北 | 95 | 610.5"
    assert extract("华北9月的销售额是多少？", table, sentences=1) == "华北；9月：610.5"
    cities = "城市级别 | 城市范围 | 限额\n一类 | 北京 | 800\n二类 | 其他 | 600"
    assert extract("二类城市呢？", cities, sentences=1) == "城市级别：二类；城市范围：其他；限额：600"


def test_a_sentence_that_points_at_a_table_brings_its_rows():
    table = "工龄 | 天数\n满1年 | 7天\n满5年 | 12天"
    told = "年休假按工龄计算，见下表。\n工龄：满1年；天数：7天\n工龄：满5年；天数：12天"
    assert extract("年休假怎么计算？", f"年休假按工龄计算，见下表。\n{table}\n病假另行规定。") == told
    long = "\n".join(f"满{year}年 | {year}天" for year in range(1, 30))
    assert (
        extract("年休假怎么计算？", f"年休假按工龄计算，见下表。\n工龄 | 天数\n{long}") == "年休假按工龄计算，见下表。"
    )


def test_a_table_is_told_whole_when_the_question_names_no_row():
    table = "职级 | 一线城市 | 其他\n经理 | 600元 | 350元\n主管 | 400元 | 220元"
    passage = f"住宿限额按职级划分，具体见下表。\n{table}"
    told = "职级：经理；一线城市：600元；其他：350元\n职级：主管；一线城市：400元；其他：220元"
    assert extract("住宿限额的标准是多少？", passage, sentences=1) == told
    assert extract("主管在一线城市的住宿限额是多少？", passage, sentences=1) == "主管；一线城市：400元"


def test_a_sentence_that_points_at_a_table_elsewhere_brings_its_rows():
    rule = Chunk("办法.md", 0, "第八条 住宿费限额报销，住宿费标准见附件2。", (0, 22), heading="第三章")
    table = Chunk("办法.md", 1, "级别 | 限额\n一级 | 800\n二级 | 600", (22, 50), heading="附件2")
    other = Chunk("别的.md", 0, "级别 | 限额\n一级 | 30", (0, 20), heading="附件2")
    hits = tuple(Hit(chunk, 1.0) for chunk in (rule, table, other))
    asked = GenerationRequest((Message("user", "？"),), "住宿费标准是多少？", hits, {})
    told = "".join(piece.text for piece in ExtractiveGenerator(1).stream(asked))
    assert told == f"{rule.text}\n级别：一级；限额：800\n级别：二级；限额：600"


def test_not_more_sentences_are_taken_than_were_asked_for():
    passage = "年假有十天。病假有五天。婚假有三天。产假有九十八天。"
    question = "年假、病假、婚假、产假各有几天？"
    assert len(extract(question, passage, sentences=2).split("\n")) <= 2


def test_without_hits_the_answer_is_the_refusal():
    pieces = list(ExtractiveGenerator().stream(request(QUESTION)))
    assert pieces == [Piece(REFUSAL), Piece(finish="stop")]


def test_a_number_alone_does_not_answer_a_question_of_something_else():
    assert extract("公司有多少员工？", "电话 8001。") == REFUSAL


def test_words_that_tell_more_in_this_base_weigh_more():
    hits = request("年假报销", "年假有十天。报销找财务。").hits
    for telling, expected in (("年假", "年假有十天。"), ("报销", "报销找财务。")):
        weights = {"年假": 0.1, "报销": 0.1} | {telling: 5.0}
        asked = GenerationRequest((Message("user", "年假报销"),), "年假报销", hits, weights)
        assert next(ExtractiveGenerator(1).stream(asked)).text == expected


# --- any LangChain model ---------------------------------------------------------------------------------------------


class Recorder(BaseChatModel):
    """A chat model that answers 一二三 and keeps what it was asked, with which settings, and whether it was let go."""

    temperature: float | None = 0.7
    max_output_tokens: int | None = None
    reason: str = "stop"
    fail: str = ""
    seen: list = []  # noqa: RUF012 - a pydantic field
    closed: list = []  # noqa: RUF012

    @property
    def _llm_type(self) -> str:
        return "recorder"

    def _generate(self, messages: list[BaseMessage], stop=None, run_manager=None, **kwargs) -> ChatResult:
        raise NotImplementedError

    def _stream(self, messages, stop=None, run_manager=None, **kwargs) -> Iterator[ChatGenerationChunk]:
        self.seen.append((messages, self.temperature, self.max_output_tokens, stop, kwargs))
        try:
            for text in "一二三":
                if self.fail:
                    raise RuntimeError(self.fail)
                yield ChatGenerationChunk(message=AIMessageChunk(text))
            usage = {"input_tokens": 20, "output_tokens": 3, "total_tokens": 23}
            end = AIMessageChunk("", usage_metadata=usage, response_metadata={"finish_reason": self.reason})
            yield ChatGenerationChunk(message=end)
        finally:
            self.closed.append(True)


def recorder(**settings) -> Recorder:
    return Recorder(seen=[], closed=[], **settings)


def test_messages_keep_their_roles():
    model = recorder()
    said = (Message("system", "你是助手"), Message("user", "问"), Message("assistant", "答"), Message("user", "再问"))
    list(LangChainGenerator(model).stream(GenerationRequest(said)))
    assert [(message.type, message.content) for message in model.seen[0][0]] == [
        ("system", "你是助手"),
        ("human", "问"),
        ("ai", "答"),
        ("human", "再问"),
    ]


def test_a_plain_llm_gets_the_prompt_byte_for_byte():
    class Echo(FakeListLLM):
        def _call(self, prompt, stop=None, run_manager=None, **kwargs):
            return prompt

    assert next(LangChainGenerator(Echo(responses=[])).stream(ASKED)).text == fill(QUESTION, [PASSAGE])


def test_token_counts_come_out_with_the_end():
    last = list(LangChainGenerator(recorder()).stream(ASKED))[-1]
    assert last == Piece(finish="stop", prompt_tokens=20, completion_tokens=3)


@pytest.mark.parametrize(("reason", "finish"), [("length", "length"), ("MAX_TOKENS", "length"), ("end_turn", "stop")])
def test_an_answer_that_was_cut_off_says_so(reason, finish):
    assert list(LangChainGenerator(recorder(reason=reason)).stream(ASKED))[-1].finish == finish


def test_sampling_is_set_on_the_fields_that_the_model_has_and_the_model_itself_stays_as_it_was():
    model = recorder()
    asked = request(QUESTION, PASSAGE, temperature=0.0, top_p=0.5, max_tokens=9, stop=("停",))
    list(LangChainGenerator(model, temperature=0.3).stream(asked))
    assert model.seen[0][1:] == (0.0, 9, ["停"], {})
    assert model.temperature == 0.7


def test_the_generators_own_settings_hold_where_a_request_has_none():
    model = recorder()
    generator = LangChainGenerator(model, temperature=0.3, max_tokens=50)
    list(generator.stream(ASKED))
    list(LangChainGenerator(model).stream(ASKED))
    assert [seen[1:3] for seen in model.seen] == [(0.3, 50), (0.7, None)]


def test_closing_the_answer_closes_the_models_stream():
    model = recorder()
    stream = LangChainGenerator(model).stream(ASKED)
    assert next(stream).text == "一"
    assert model.closed == []
    stream.close()
    assert model.closed == [True]


def test_who_takes_a_question_back_hears_nothing_more_of_the_model():
    gone = Cancellation()
    stream = LangChainGenerator(FakeListChatModel(responses=[SAID])).stream(replace(ASKED, cancellation=gone))
    assert SAID.startswith(next(stream).text)
    gone.cancel()
    with pytest.raises(Cancelled):
        next(stream)


def test_what_the_model_raises_comes_out_in_one_line():
    with pytest.raises(GeneratorError, match=r"Recorder failed: 连接被拒绝 host=gpu-box$"):
        list(LangChainGenerator(recorder(fail="连接被拒绝\n  host=gpu-box")).stream(ASKED))


def test_an_error_in_the_middle_comes_after_the_pieces_before_it():
    stream = LangChainGenerator(FakeListChatModel(responses=["一二三"], error_on_chunk_number=2)).stream(ASKED)
    assert [next(stream).text, next(stream).text] == ["一", "二"]
    with pytest.raises(GeneratorError, match="FakeListChatModelError"):
        next(stream)


def test_a_deadline_that_has_passed_ends_it_and_lets_the_model_go():
    model = recorder()
    with pytest.raises(GeneratorError, match="in time"):
        list(LangChainGenerator(model).stream(request(QUESTION, PASSAGE, deadline=time.monotonic() - 1)))
    assert model.closed == [True]


@pytest.mark.parametrize(
    "asked",
    [
        request(QUESTION, PASSAGE, tools=({"name": "查询"},)),
        request(QUESTION, PASSAGE, response_schema={"type": "object"}),
        GenerationRequest((Message("tool", "42"),)),
    ],
    ids=["tools", "schema", "tool message"],
)
def test_what_it_cannot_do_is_refused_rather_than_ignored(asked):
    with pytest.raises(GeneratorError, match="only used to write text"):
        next(LangChainGenerator(recorder()).stream(asked))


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("no_such_package.Model", {}, "generator.import_path no_such_package.Model cannot be imported"),
        ("langchain_core.language_models.NoSuchModel", {}, "cannot be imported"),
        ("Model", {}, "package.module.Class"),
        ("langchain_core.language_models.FakeListChatModel", {}, "generator.options do not make a .*responses"),
    ],
)
def test_a_model_that_cannot_be_made_names_the_setting(path, options, message):
    with pytest.raises(ConfigError, match=message) as caught:
        LangChainGenerator(path, options)
    assert "\n" not in str(caught.value)


def test_a_chat_model_of_blocks_gives_its_text_only():
    blocks = [{"type": "reasoning", "reasoning": "想一想"}, {"type": "text", "text": "十天。"}]

    class Blocks(FakeListChatModel):
        def _stream(self, *args, **kwargs):
            yield ChatGenerationChunk(message=AIMessageChunk(content=blocks))

    assert [piece.text for piece in LangChainGenerator(Blocks(responses=[])).stream(ASKED)] == ["十天。", ""]


def test_an_answer_of_a_model_without_streaming_comes_in_one_piece():
    class Whole(FakeListChatModel):
        def _should_stream(self, **kwargs):
            return False

    pieces = list(LangChainGenerator(Whole(responses=[SAID])).stream(ASKED))
    assert [piece.text for piece in pieces] == [SAID, ""]


def test_config_yaml_can_name_any_of_them():
    assert make_generator(GeneratorConfig()).name == "extractive"
    config = GeneratorConfig(
        kind="langchain",
        import_path="langchain_core.language_models.FakeListChatModel",
        options={"responses": ["十天。"]},
    )
    assert AIMessage("".join(piece.text for piece in make_generator(config).stream(ASKED))).content == "十天。"


class TellsSettings(FakeListLLM):
    temperature: float = 0.7
    max_tokens: int = 0

    def _call(self, prompt, stop=None, run_manager=None, **kwargs):
        return f"{self.temperature} {self.max_tokens}"


def test_the_settings_of_config_yaml_reach_the_model():
    path = f"{__name__}.TellsSettings"
    config = GeneratorConfig("langchain", import_path=path, options={"responses": []}, temperature=0.25, max_tokens=80)
    assert next(make_generator(config).stream(ASKED)).text == "0.25 80"
