"""Many requests on one small random model: each must get what it would get alone."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="kbqa[glm] is not installed")

import glmkit  # noqa: E402, F401  (one thread)

from kbqa.cancellation import Cancellation  # noqa: E402
from kbqa.chatglm.architecture import Architecture  # noqa: E402
from kbqa.chatglm.decoder import Decoder  # noqa: E402
from kbqa.chatglm.engine import Ended, Engine, Job  # noqa: E402
from kbqa.chatglm.lora import Lora, adapt  # noqa: E402
from kbqa.chatglm.runner import Runner  # noqa: E402
from kbqa.chatglm.sampling import Chooser, Sampling  # noqa: E402
from kbqa.errors import Cancelled, GeneratorBusy, GeneratorError, ModelError  # noqa: E402

CONTEXT = 160
SIZES = {"layers": 2, "hidden": 32, "heads": 4, "head_dim": 8, "inner": 48, "vocabulary": 99, "eps": 1e-5, "eos": (98,)}
V1 = Architecture(
    family="chatglm",
    layout="chatglm",
    groups=4,
    context=CONTEXT,
    pad=3,
    dtype="float32",
    rotary=8,
    mask=90,
    gmask=91,
    sop=92,
    **SIZES,
)
V2 = Architecture(
    family="chatglm2", layout="chatglm", groups=2, context=CONTEXT, pad=0, dtype="float32", rotary=4, **SIZES
)
STOPS = frozenset({98})
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")
GREEDY = Sampling()


def decoder_of(a: Architecture) -> Decoder:
    torch.manual_seed(7)
    decoder = Decoder(a).eval().requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return decoder


@pytest.fixture(scope="module", params=[V1, V2], ids=["chatglm", "chatglm2"])
def decoder(request):
    return decoder_of(request.param)


def prompt(decoder: Decoder, *ids: int) -> list[int]:
    a = decoder.architecture
    return [*ids, a.gmask, a.sop] if a.is_v1 else list(ids)


def prefix_of(a: Architecture, seed: int, tokens: int = 5) -> torch.Tensor:
    shape = (a.layers, 2, a.groups, tokens, a.head_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def alone(decoder: Decoder, job: Job) -> list[int]:
    """The same request without an engine: one sequence in a cache of its own."""
    runner = Runner(decoder, 1, CONTEXT + 128)
    sequence = runner.begin(0, job.ids, job.prefix)
    logits = runner.read(sequence, CONTEXT)
    chooser, written = Chooser(job.sampling, job.ids), []
    while len(written) < job.most:
        token = chooser.choose(logits)
        if token in job.stops:
            break
        written.append(token)
        logits = runner.write([sequence], [token])[0]
    return written


@contextmanager
def engine_of(decoder: Decoder, **options):
    engine = Engine(decoder, **options)
    try:
        yield engine
    finally:
        engine.close()


def all_of(engine: Engine, job: Job) -> list[int]:
    *ids, ended = engine.write(job)
    assert isinstance(ended, Ended)
    return ids


def at_once(engine: Engine, jobs: list[Job]) -> list[list[int] | Exception]:
    results: list = [None] * len(jobs)

    def work(at: int) -> None:
        try:
            results[at] = all_of(engine, jobs[at])
        except (GeneratorError, Cancelled) as error:
            results[at] = error

    threads = [threading.Thread(target=work, args=(at,)) for at in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return results


def test_twelve_users_at_once_get_what_each_would_get_alone(decoder):
    """Other lengths, other prefixes, other ways to draw, more users than slots."""
    a = decoder.architecture
    jobs = [
        Job(
            prompt(decoder, *range(3, 5 + 4 * number)),
            Sampling(temperature=0.8, top_p=0.9, seed=number) if number % 3 == 0 else GREEDY,
            most=10 + number,
            stops=STOPS,
            prefix=prefix_of(a, number, tokens=3 + number) if number % 2 else None,
        )
        for number in range(12)
    ]
    with engine_of(decoder, slots=3) as engine:
        assert at_once(engine, jobs) == [alone(decoder, job) for job in jobs]


@contextmanager
def tokens_read(decoder: Decoder):
    """Counts the tokens that are given to the decoder."""
    counted = []
    hook = decoder.register_forward_pre_hook(lambda module, given: counted.append(given[0].shape[1]))
    try:
        yield counted
    finally:
        hook.remove()


def follow_up(decoder: Decoder, job: Job, said: list[int], *ids: int) -> Job:
    return replace(job, ids=prompt(decoder, *job.ids, *said, *ids))


LONG = [3 + at * 7 % 80 for at in range(40)]


def test_of_a_conversation_only_what_is_new_is_read(decoder):
    first = Job(prompt(decoder, *LONG), GREEDY, 8, frozenset())
    with engine_of(decoder, slots=2) as engine, tokens_read(decoder) as read:
        said = all_of(engine, first)
        second = follow_up(decoder, first, said, 5, 6, 7)
        del read[:]
        again = all_of(engine, second)
        new = len(second.ids) if decoder.architecture.is_v1 else 4  # of what was said the last token was never read
        assert read == [new] + [1] * 7
        assert again == alone(decoder, second)
        if not decoder.architecture.is_v1:
            del read[:]
            assert all_of(engine, second) == again  # asked once more
            assert read[0] == 1


def test_what_was_read_for_one_owner_prefix_or_adapter_is_read_again_for_another():
    decoder = decoder_of(V2)
    adapt(decoder)
    prefix = prefix_of(V2, 1, tokens=30)
    lora = Lora({"blocks.0.down": (torch.ones(1, V2.inner), 9 * torch.ones(V2.hidden, 1))})
    job = Job(LONG, GREEDY, 4, frozenset(), owner="甲")
    others = [replace(job, owner="乙"), replace(job, prefix=prefix), replace(job, lora=lora)]
    others += [replace(it, prefix=prefix_of(V2, 2)) for it in others[1:2]]
    with engine_of(decoder, slots=6) as engine, tokens_read(decoder) as read:
        answers = [all_of(engine, it) for it in (job, *others)]
        assert [count for count in read if count > 1] == [len(LONG)] * 5
        del read[:]
        assert [all_of(engine, it) for it in (job, *others)] == answers
        assert max(read) == 1
        assert len({tuple(it) for it in answers}) == 4  # one does not show who asks


def test_a_beginning_that_all_have_is_read_once_and_nobodys_conversation_is_lost_by_it():
    decoder = decoder_of(V2)
    jobs = [Job([*LONG, *range(10 * number, 10 * number + 30)], GREEDY, 6, frozenset()) for number in range(3)]
    with engine_of(decoder, slots=4) as engine, tokens_read(decoder) as read:
        answers = [all_of(engine, job) for job in jobs]
        assert [count for count in read if count > 1] == [70, 30, 30]
        assert answers == [alone(decoder, job) for job in jobs]
        further = [follow_up(decoder, job, said, 9, 8) for job, said in zip(jobs, answers, strict=True)]
        wanted = [alone(decoder, job) for job in further]
        del read[:]
        assert at_once(engine, further) == wanted
        assert max(read) == 3


@pytest.mark.parametrize("slots", [1, 3])
def test_whoever_asks_on_and_whoever_leaves_gets_what_a_fresh_engine_would_give(decoder, slots):
    """Conversations that branch, some given up while they are read or written, others behind prefixes."""
    draw = random.Random(5)
    prefixes = [None, prefix_of(decoder.architecture, 3)]
    jobs = [Job(prompt(decoder, *LONG[:20]), GREEDY, 6, STOPS)]
    with engine_of(decoder, slots=slots) as engine:
        for _ in range(40):
            before = draw.choice(jobs[-6:])
            if draw.random() < 0.3:
                with closing(engine.write(before)) as ids:
                    for _ in range(draw.randrange(3)):
                        next(ids, None)
                continue
            said = all_of(engine, before)
            assert said == alone(decoder, before)
            new = [draw.randrange(3, 80) for _ in range(draw.randrange(1, 25))]
            if len(before.ids) + len(said) + len(new) < CONTEXT - 20:
                jobs.append(replace(follow_up(decoder, before, said, *new), prefix=draw.choice(prefixes)))


def test_what_broke_off_leaves_nothing_that_is_used_again():
    decoder = decoder_of(V2)
    job = Job(LONG, GREEDY, 6, frozenset())
    with engine_of(decoder, slots=1) as engine:
        decoder.head.weight[5].fill_(float("nan"))
        with pytest.raises(GeneratorError, match="not finite"):
            all_of(engine, job)
        torch.nn.init.normal_(decoder.head.weight[5], std=0.3)
        with tokens_read(decoder) as read:
            assert all_of(engine, job) == alone(decoder, job)
        assert read[0] == len(LONG)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=NO_GPU)])
@pytest.mark.parametrize("a", [V1, V2], ids=["chatglm", "chatglm2"])
def test_steps_of_few_shapes_write_what_steps_of_any_shape_write(monkeypatch, a, device):
    """As a GPU replays them; on a CPU they are only computed. More users than slots, prefixes, and one who leaves."""
    monkeypatch.setattr("kbqa.chatglm.graphs.WIDTH", 32)
    decoder = decoder_of(a)
    jobs = [
        Job(
            prompt(decoder, *range(3, 5 + 6 * number)),
            GREEDY,
            most=8 + 5 * number,
            stops=STOPS,
            prefix=prefix_of(a, number, tokens=3 + number) if number % 2 else None,
        )
        for number in range(8)
    ]
    wanted = [alone(decoder, job) for job in jobs]
    there = decoder_of(a).to(device)
    there.frequencies = there.frequencies.to(device)
    on_device = [replace(job, prefix=None if job.prefix is None else job.prefix.to(device)) for job in jobs]
    with engine_of(there, slots=5, graphs=True) as engine:
        with closing(engine.write(on_device[3])) as ids:
            next(ids)
        assert at_once(engine, on_device) == wanted
        shapes = {*engine._runner._steps._known}
        assert {rows for rows, _ in shapes} <= {1, 2, 4, 5}
        assert {width % 32 for _, width in shapes} == {0}


def test_a_stop_token_ends_an_answer_and_a_full_context_cuts_it_off(decoder):
    job = Job(prompt(decoder, 5, 6, 7), GREEDY, most=6, stops=frozenset())
    with engine_of(decoder) as engine:
        *first, ended = engine.write(job)
        assert ended == Ended("length")
        *again, ended = engine.write(Job(job.ids, GREEDY, 6, frozenset({first[2]})))
        assert (again, ended) == (first[: first.index(first[2])], Ended("stop"))
        *long, ended = engine.write(Job(job.ids, GREEDY, 10_000, frozenset()))
        assert (len(job.ids) + len(long), ended) == (CONTEXT, Ended("length"))


def test_closing_the_iterator_gives_the_slot_to_the_next(decoder):
    endless = Job(prompt(decoder, 1, 2), GREEDY, most=10_000, stops=frozenset())
    with engine_of(decoder, slots=1, waiting=1) as engine:
        with closing(engine.write(endless)) as ids:
            next(ids)
        assert all_of(engine, Job(prompt(decoder, 3), GREEDY, 3, frozenset()))
        assert engine.load == (0, 0)


def test_an_engine_that_was_made_in_inference_mode_works_in_every_thread(decoder):
    job = Job(prompt(decoder, 1, 2), GREEDY, most=30, stops=frozenset(), prefix=prefix_of(decoder.architecture, 1))
    with torch.inference_mode():
        made = engine_of(decoder, slots=1)
        engine = made.__enter__()
    with closing(engine.write(job)) as ids:
        next(ids)
    assert all_of(engine, job) == alone(decoder, job)
    made.__exit__(None, None, None)


def test_a_full_queue_says_so_at_once(decoder):
    endless = Job(prompt(decoder, 1, 2), GREEDY, most=100, stops=frozenset())
    with engine_of(decoder, slots=1, waiting=0) as engine, closing(engine.write(endless)) as ids:
        next(ids)
        with pytest.raises(GeneratorBusy, match="try again"):
            next(engine.write(endless))


def test_who_leaves_the_line_gives_the_place_to_the_next_at_once(decoder):
    """Also while the engine is in the midst of a step, and so from another thread than the one that waits."""
    go, stuck = threading.Event(), threading.Event()

    def hold(*_) -> None:
        stuck.set()
        go.wait(10)

    block = decoder.blocks[0].register_forward_hook(hold)
    cancellation = Cancellation()
    job = Job(prompt(decoder, 1, 2), GREEDY, most=3, stops=frozenset())
    waiting = replace(job, cancellation=cancellation)
    try:
        with engine_of(decoder, slots=1, waiting=1) as engine, ThreadPoolExecutor(3) as others:
            first = others.submit(all_of, engine, job)
            assert stuck.wait(10)
            second = others.submit(all_of, engine, waiting)
            while engine.load != (1, 1):
                time.sleep(0.001)
            with pytest.raises(GeneratorBusy):
                next(engine.write(job))
            cancellation.cancel()
            assert engine.load == (1, 0)
            assert isinstance(second.exception(10), Cancelled)
            third = others.submit(all_of, engine, job)
            go.set()
            assert first.result(10) == third.result(10)
            with pytest.raises(Cancelled):
                next(engine.write(waiting))
    finally:
        go.set()
        block.remove()


def test_a_prompt_that_nobody_waits_for_any_more_is_not_read_to_its_end(decoder):
    """Not even within one part of it: ChatGLM-6B's are read whole."""
    cancellation, passed = Cancellation(), []
    hooks = [
        block.register_forward_hook(lambda *_, at=at: passed.append(at) or cancellation.cancel())
        for at, block in enumerate(decoder.blocks)
    ]
    job = Job(prompt(decoder, *[5] * 60), GREEDY, most=3, stops=frozenset(), cancellation=cancellation)
    try:
        with engine_of(decoder, slots=1) as engine:
            assert isinstance(at_once(engine, [job])[0], Cancelled)
            for hook in hooks:
                hook.remove()
            after = replace(job, cancellation=Cancellation())
            assert all_of(engine, after) == alone(decoder, after)
    finally:
        for hook in hooks:
            hook.remove()
    assert passed == [0]


def test_an_answer_that_is_being_written_can_be_cancelled_from_another_thread(decoder):
    cancellation = Cancellation()
    endless = Job(prompt(decoder, 1), GREEDY, 10_000, frozenset(), cancellation=cancellation)
    with engine_of(decoder, slots=1) as engine, closing(engine.write(endless)) as ids:
        next(ids)
        threading.Thread(target=cancellation.cancel).start()
        with pytest.raises(Cancelled):
            list(ids)
        assert all_of(engine, Job(prompt(decoder, 3), GREEDY, 3, frozenset()))


def test_an_answer_that_takes_too_long_ends_and_so_does_one_that_waits_too_long(decoder):
    soon = time.monotonic() + 0.05
    endless = Job(prompt(decoder, 1), GREEDY, most=10_000, stops=frozenset(), deadline=soon)
    patient = Job(prompt(decoder, 1), GREEDY, most=3, stops=frozenset())
    with engine_of(decoder, slots=1, context=100_000) as engine:
        late = Job(endless.ids, GREEDY, 3, frozenset(), deadline=time.monotonic() - 1)
        first, second, third = at_once(engine, [late, late, patient])
        assert "in time" in str(first)
        assert "in time" in str(second)
        assert len(third) == 3


def test_one_request_that_breaks_does_not_spoil_the_others_nor_who_comes_next(decoder):
    """Its values are no numbers; the next in its slot must not meet them."""
    a = decoder.architecture
    broken = torch.full_like(prefix_of(a, 1, tokens=40), float("nan"))
    good = Job(prompt(decoder, 4, 5, 6), GREEDY, most=30, stops=frozenset())
    bad = Job(prompt(decoder, 4, 5, 6), GREEDY, most=30, stops=frozenset(), prefix=broken)
    wanted = alone(decoder, good)
    with engine_of(decoder, slots=2) as engine:
        first, failed, second = at_once(engine, [good, bad, good])
        assert "float32 logits are not finite" in str(failed)
        assert first == second == wanted
        assert at_once(engine, [good, good, good]) == [wanted] * 3


def test_who_leaves_while_the_prompt_is_read_leaves_nothing_that_spoils_who_comes_next(monkeypatch):
    """Values that are no numbers show only when a token is chosen; until then nobody knows of them."""
    decoder = decoder_of(V2)
    broken = torch.full_like(prefix_of(V2, 1, tokens=60), float("nan"))
    short, long = (Job([5] * count, GREEDY, most=30, stops=frozenset()) for count in (3, 90))
    reading, leave = threading.Event(), threading.Event()
    read = Runner.read

    def slow(self, sequence, *given):
        if sequence.prefix and sequence.unread < 60:
            reading.set()
            leave.wait(10)
        return read(self, sequence, *given)

    monkeypatch.setattr(Runner, "read", slow)
    monkeypatch.setattr("kbqa.chatglm.engine.CHUNK", 8)
    with engine_of(decoder, slots=2) as engine:
        cancellation = Cancellation()
        job = Job([5] * 80, GREEDY, 5, frozenset(), prefix=broken, cancellation=cancellation)
        with ThreadPoolExecutor(1) as other:
            gone = other.submit(at_once, engine, [job])
            assert reading.wait(10)
            cancellation.cancel()
            assert isinstance(gone.result(10)[0], Cancelled)
        leave.set()
        with closing(engine.write(short)) as ids:  # in its slot, and beside one that makes the engine look further
            first = next(ids)
            assert all_of(engine, long) == alone(decoder, long)
            assert [first, *ids][:-1] == alone(decoder, short)


def test_a_long_prompt_is_read_between_the_steps_of_the_others(monkeypatch):
    decoder = decoder_of(V2)
    steps = []
    read, write = Runner.read, Runner.write
    monkeypatch.setattr(Runner, "read", lambda self, *given: steps.append("read") or read(self, *given))
    monkeypatch.setattr(Runner, "write", lambda self, *given: steps.append("write") or write(self, *given))
    with engine_of(decoder, slots=2) as engine:
        monkeypatch.setattr("kbqa.chatglm.engine.SHARED", 8)
        with closing(engine.write(Job([1, 2, 3], GREEDY, 10_000, frozenset()))) as ids:
            next(ids)
            all_of(engine, Job([5] * 80, GREEDY, 2, frozenset()))
    reads = [at for at, step in enumerate(steps) if step == "read"][1:]  # the first is the short prompt's
    assert len(reads) == 10
    assert all(steps[at + 1] == "write" for at in reads)


def test_a_prompt_that_does_not_fit_is_refused_with_its_size(decoder):
    with engine_of(decoder) as engine:
        with pytest.raises(ModelError, match=rf"{CONTEXT + 2 * decoder.architecture.is_v1} tokens; the context is"):
            next(engine.write(Job(prompt(decoder, *[5] * CONTEXT), GREEDY, 5, STOPS)))
        with pytest.raises(ModelError, match="no token 99; its ids go from 0 to 98"):
            next(engine.write(Job(prompt(decoder, 99), GREEDY, 5, STOPS)))
        with pytest.raises(ModelError, match="empty"):
            next(engine.write(Job([], GREEDY, 5, STOPS)))


def test_closing_the_engine_ends_who_waits_and_refuses_who_comes(decoder):
    engine = Engine(decoder, slots=1)
    job = Job(prompt(decoder, 1), GREEDY, most=100, stops=frozenset())
    ids = engine.write(job)
    next(ids)
    engine.close()
    with pytest.raises(GeneratorError, match="shutting down"):
        list(ids)
    with pytest.raises(GeneratorError, match="shutting down"):
        next(engine.write(job))


def test_memory_that_runs_out_ends_one_question_and_not_the_service(decoder, monkeypatch):
    """The real thing cannot be had on purpose; what torch raises then can."""
    write, failed = Runner.write, []

    def once(self, sequences, tokens):
        if len(sequences) == 2 and not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return write(self, sequences, tokens)

    monkeypatch.setattr(Runner, "write", once)
    job = Job(prompt(decoder, 4, 5), GREEDY, most=40, stops=frozenset())
    wanted = alone(decoder, job)
    with engine_of(decoder, slots=2) as engine:
        results = at_once(engine, [job, job])
    assert wanted in results
    assert any("memory did not suffice" in str(result) for result in results)


def test_an_error_of_the_engine_itself_leaves_nobody_waiting(decoder, monkeypatch):
    choose, failed = Chooser.choose, []

    def once(self, logits):
        if not failed:
            failed.append(True)
            raise KeyError("a mistake in our own code")
        return choose(self, logits)

    job = Job(prompt(decoder, 4, 5), GREEDY, most=5, stops=frozenset())
    wanted = alone(decoder, job)
    monkeypatch.setattr(Chooser, "choose", once)
    with engine_of(decoder) as engine:
        with pytest.raises(GeneratorError, match="a mistake in our own code"):
            all_of(engine, job)
        assert all_of(engine, job) == wanted


@pytest.mark.parametrize("broken", ["begin", "read", "write"])
def test_a_mistake_on_any_way_leaves_nobody_waiting(decoder, monkeypatch, broken):
    """Whoever it hits hears of it, and who comes next is answered."""
    work, failed = getattr(Runner, broken), []

    def once(self, *given):
        if not failed:
            failed.append(True)
            raise KeyError("a mistake in our own code")
        return work(self, *given)

    job = Job(prompt(decoder, 4, 5), GREEDY, most=5, stops=frozenset())
    wanted = alone(decoder, job)
    monkeypatch.setattr(Runner, broken, once)
    with engine_of(decoder, slots=1) as engine:
        first, second = at_once(engine, [job, job])
        assert wanted in (first, second)
        assert any("a mistake in our own code" in str(result) for result in (first, second))


def test_an_engine_that_cannot_go_on_ends_everybody_s_waiting(decoder, monkeypatch):
    def broken(self):
        raise KeyError("a mistake in our own code")

    monkeypatch.setattr(Engine, "_sweep", broken)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)  # it is told there
    job = Job(prompt(decoder, 4, 5), GREEDY, most=5, stops=frozenset())
    with engine_of(decoder) as engine:
        assert all("shutting down" in str(result) for result in at_once(engine, [job, job]))


ENDS = """
import torch
from test_chatglm_engine import GREEDY, V2, Engine, Job, decoder_of

torch.set_num_threads(1)
ids = Engine(decoder_of(V2)).write(Job([1, 2], GREEDY, 100_000, frozenset()))
print(next(ids) >= 0)
"""


def test_a_program_may_end_in_the_midst_of_an_answer():
    """A thread that is cut off within torch would take the process down with SIGABRT."""
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent)])
    done = subprocess.run(
        [sys.executable, "-c", ENDS], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "True", "")


def test_500_requests_leave_the_memory_where_the_20th_left_it(decoder):
    """Answered, closed in the middle, cancelled from another thread, failed: all of one length."""
    psutil = pytest.importorskip("psutil")
    a = decoder.architecture
    job = Job(prompt(decoder, *range(3, 40)), GREEDY, most=6, stops=frozenset())
    bad = replace(job, prefix=torch.full_like(prefix_of(a, 1), float("nan")))
    resident, ended = psutil.Process().memory_info, []

    def ask(engine: Engine, number: int) -> str:
        cancellation = Cancellation()
        asked = replace(bad if number % 7 == 3 else job, cancellation=cancellation)
        try:
            with closing(engine.write(asked)) as ids:
                for count, _ in enumerate(ids):
                    if count == 2 and number % 5 == 2:
                        return "closed"
                    if count == 2 and number % 11 == 5:
                        with ThreadPoolExecutor(1) as other:
                            other.submit(cancellation.cancel)
        except (GeneratorError, Cancelled) as error:
            return type(error).__name__
        return "answered"

    with engine_of(decoder, slots=2) as engine:
        for number in range(500):
            ended.append(ask(engine, number))
            if number == 20:
                early = resident().rss
        assert resident().rss - early < 4 << 20
    assert {*ended[:20]} == {*ended[20:]} == {"answered", "closed", "Cancelled", "GeneratorError"}
    assert ended.count("answered") > 250
