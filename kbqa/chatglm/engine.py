"""Many users, one model: a single thread writes the next token of every sequence at once, and reads prompts between.

A request waits in a bounded queue, first come first served, until one of the cache's slots is free. Its prompt is read
in parts, one between two steps of the others, so that a long prompt does not stop them (ChatGLM-6B's must be read
whole), and what stands in the cache from an earlier answer is not read again. What goes wrong with one request, or
takes too long, ends that request alone. Whoever closes its iterator, or cancels it from another thread, gives its place
back at once: in the queue, and while its prompt is read.

Knows ids, not text.
"""

from __future__ import annotations

import atexit
import threading
import time
from collections import deque
from collections.abc import Generator
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Literal

import torch
from torch import Tensor

from kbqa.cancellation import Cancellation
from kbqa.chatglm.decoder import Decoder
from kbqa.chatglm.lora import Lora
from kbqa.chatglm.runner import CHUNK, Runner, Sequence, check_ids
from kbqa.chatglm.sampling import Chooser, Rules, Sampling
from kbqa.chatglm.slots import Content, Slots
from kbqa.errors import BeyondModel, Cancelled, GeneratorBusy, GeneratorError, ModelError
from kbqa.importing import is_out_of_memory

__all__ = ["PREFIX", "Ended", "Engine", "Job"]

SHARED = 64  # tokens of a prompt that are read in one go while others write; CHUNK when nobody does
PREFIX = 128  # room kept beside the context for a P-Tuning prefix; the length that the original trains


@dataclass(frozen=True)
class Job:
    """What to write: at most `most` ids behind `ids`, until one of `stops`."""

    ids: Many[int]
    sampling: Sampling
    most: int
    stops: frozenset[int]
    prefix: Tensor | None = None
    lora: Lora | None = None
    deadline: float | None = None  # of time.monotonic()
    rules: Rules | None = None  # of what may be said, for this one job
    owner: str | None = None  # what was read for one is not used again for another
    cancellation: Cancellation = field(default_factory=Cancellation)


@dataclass(frozen=True, slots=True)
class Ended:
    """The last thing that a request's iterator gives."""

    finish: Literal["stop", "length"]


class _Unwanted(Exception):
    """The prompt need not be read to its end."""


@dataclass(eq=False)
class _Ticket:
    job: Job
    out: SimpleQueue[int | Ended | Exception] = field(default_factory=SimpleQueue)
    cancelled: bool = False  # set by whoever waits, seen by the engine at its next step
    sequence: Sequence | None = None
    chooser: Chooser | None = None
    next: int = -1  # chosen, but not yet given to the model

    @property
    def expired(self) -> bool:
        return self.job.deadline is not None and time.monotonic() > self.job.deadline

    def check(self) -> None:
        if self.cancelled or self.expired:
            raise _Unwanted


class Engine:
    """`slots` requests are worked on at once, `waiting` more may wait; `context` is the most tokens of one of them.

    Prefixes of up to `prefix` tokens stand beside the context; what a longer one has more is taken from it. `graphs`
    are those of the Runner.
    """

    def __init__(
        self,
        decoder: Decoder,
        *,
        slots: int = 4,
        waiting: int = 32,
        context: int | None = None,
        prefix: int = PREFIX,
        graphs: bool = False,
    ) -> None:
        most = decoder.architecture.context
        self.context = most if context is None else min(context, most)
        self.waiting = waiting
        self._beside = prefix
        try:
            self._runner = Runner(decoder, slots, self.context + prefix, graphs)
        except (RuntimeError, MemoryError) as error:
            raise ModelError(
                f"there is no memory for the keys and values of {slots} answers at once with {self.context} tokens "
                "each; lower generator.slots or generator.context"
            ) from error
        self._queue: deque[_Ticket] = deque()
        self._slots = Slots(self._runner.cache, shares=not decoder.architecture.is_v1)
        self._running: list[_Ticket] = []  # in the order in which they came
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None

    def write(self, job: Job) -> Generator[int | Ended, None, None]:
        """The ids as they are written, then Ended. Closing the iterator stops the work.

        GeneratorBusy when the queue is full, BeyondModel for a prompt that the model cannot take, GeneratorError when
        the model fails or the deadline passes, Cancelled when the job's cancellation is asked for.
        """
        job.cancellation.check()
        check_ids(job.ids, self._runner.decoder.architecture.vocabulary)
        kept = 0 if job.prefix is None else job.prefix.shape[3]
        if max(kept - self._beside, 0) + len(job.ids) >= self.context:
            raise BeyondModel(f"the prompt has {len(job.ids)} tokens; the context is {self.context}, answer included")
        ticket = _Ticket(job)
        self._enqueue(ticket)
        try:
            with job.cancellation.waking(lambda: self._leave(ticket)):
                while True:
                    got = ticket.out.get()
                    job.cancellation.check()
                    if isinstance(got, Exception):
                        raise got
                    yield got
                    if isinstance(got, Ended):
                        return
        finally:
            self._leave(ticket)

    def close(self) -> None:
        """Ends all requests with an error and the thread with them."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread = self._thread
        if thread is not None:
            thread.join()
        atexit.unregister(self.close)

    @property
    def load(self) -> tuple[int, int]:
        """(requests that are worked on, requests that wait)"""
        return len(self._running), len(self._queue)

    def _enqueue(self, ticket: _Ticket) -> None:
        with self._changed:
            if self._closed:
                raise GeneratorError("the model is shutting down")
            waiting = len(self._queue)
            free = len(self._slots.free) + sum(it.cancelled for it in self._running)  # given back at the next step
            if waiting >= self.waiting + free:
                raise GeneratorBusy(f"{waiting} questions are waiting already; try again in a few seconds")
            self._queue.append(ticket)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="chatglm-engine", daemon=True)
                self._thread.start()
                atexit.register(self.close)  # a thread that ends in the midst of torch takes the process down with it
            self._changed.notify()

    def _leave(self, ticket: _Ticket) -> None:
        """Nobody waits for it any more. It leaves the line at once, its slot at the next step or layer."""
        ticket.cancelled = True
        ticket.out.put(Cancelled("nobody waits for the answer any more"))
        with self._changed:
            if ticket in self._queue:
                self._queue.remove(ticket)
            self._changed.notify()

    # --- the engine's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._work()
        finally:  # whatever it was, nobody may wait for ever because of it
            with self._changed:
                self._closed = True
                left = [*self._running, *self._queue]
            for ticket in left:
                ticket.out.put(GeneratorError("the model is shutting down"))

    def _work(self) -> None:
        """Until the engine is closed."""
        while True:
            with self._changed:
                while not (self._queue or self._running or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                self._sweep()
                self._admit()
            try:
                self._step()
            except Exception as error:  # noqa: BLE001  (the engine goes on for those who come next)
                for ticket in list(self._running):
                    self._end(ticket, _foreign(error))

    def _step(self) -> None:
        reading = [ticket for ticket in self._running if ticket.sequence is not None and ticket.sequence.unread]
        writing = [ticket for ticket in self._running if ticket not in reading]
        if reading:
            self._read(reading[0], SHARED if writing else CHUNK)
        if writing:
            self._write(writing)

    def _admit(self) -> None:
        """The first that wait get the free slots."""
        while self._queue and self._slots.free:
            ticket = self._queue.popleft()
            job = ticket.job
            running = {its.slot: content for its, content in map(_content, self._running)}
            slot = None
            try:
                slot, known = self._slots.take(Content(job.ids, job.prefix, job.lora, job.owner), running)
                ticket.sequence = self._runner.begin(slot, job.ids, job.prefix, job.lora, known)
                ticket.chooser = Chooser(job.sampling, job.ids, self._runner.device, job.rules)
            except Exception as error:  # noqa: BLE001  (it is in no list any more: only this can tell who waits for it)
                if slot is not None:
                    self._slots.give_back(slot, None)
                self._end(ticket, _foreign(error))
                continue
            self._running.append(ticket)

    def _sweep(self) -> None:
        """Lets go of those whom nobody waits for any more, and of those that are late."""
        for ticket in (*self._running, *self._queue):
            if ticket.cancelled or ticket.expired:
                self._end(ticket, None if ticket.cancelled else _late())

    def _read(self, ticket: _Ticket, most: int) -> None:
        assert ticket.sequence is not None
        try:
            logits = self._runner.read(ticket.sequence, most, ticket.check)
        except _Unwanted:
            return  # the next sweep lets go of it
        except (RuntimeError, MemoryError) as error:  # torch has one class for all; memory that ran out among them
            self._end(ticket, _foreign(error))
            return
        if logits is not None:
            self._choose(ticket, logits)

    def _write(self, tickets: Many[_Ticket]) -> None:
        """One step for all. When it fails, the youngest pays: the others get their step in the next round."""
        sequences = [ticket.sequence for ticket in tickets if ticket.sequence is not None]
        try:
            logits = self._runner.write(sequences, [ticket.next for ticket in tickets])
        except (RuntimeError, MemoryError) as error:
            self._end(tickets[-1], _foreign(error))
            return
        for ticket, its in zip(tickets, logits, strict=True):
            self._choose(ticket, its)

    def _choose(self, ticket: _Ticket, logits: Tensor) -> None:
        assert ticket.sequence is not None
        assert ticket.chooser is not None
        try:
            token = ticket.chooser.choose(logits)
        except (GeneratorError, RuntimeError) as error:
            self._end(ticket, _foreign(error))
            return
        if token in ticket.job.stops:
            self._end(ticket, Ended("stop"))
            return
        ticket.next = token
        ticket.out.put(token)
        written = len(ticket.sequence.written) + 1
        room = self._runner.cache.capacity - ticket.sequence.filled
        if written >= ticket.job.most or room < 1 or len(ticket.sequence.ids) + written >= self.context:
            self._end(ticket, Ended("length"))

    def _end(self, ticket: _Ticket, last: Ended | Exception | None) -> None:
        if ticket in self._running:
            self._running.remove(ticket)
            sequence, left = _content(ticket)
            good = last is None or isinstance(last, Ended)  # else there may be what is no number, and spoil what comes
            if not isinstance(last, Ended):  # a step that broke off may have left such, too
                self._runner.cache.clear(sequence.slot, sequence.touched, sequence.filled if good else 0)
            fits = sequence.filled < self._runner.cache.capacity  # idle slots get dummies in the last column
            self._slots.give_back(sequence.slot, left if good and fits else None)
        elif ticket in self._queue:
            self._queue.remove(ticket)
        ticket.sequence = ticket.chooser = None
        if last is not None:
            ticket.out.put(last)


def _content(ticket: _Ticket) -> tuple[Sequence, Content]:
    sequence, job = ticket.sequence, ticket.job
    assert sequence is not None
    ids = [*sequence.ids, *sequence.written][: sequence.filled - sequence.prefix]
    return sequence, Content(ids, job.prefix, job.lora, job.owner)


def _late() -> GeneratorError:
    return GeneratorError("the answer was not finished in time")


def _foreign(error: BaseException) -> GeneratorError:
    """What torch says, as one of ours; memory that ran out is named, and what was held for nothing given back."""
    if isinstance(error, GeneratorError):
        return error
    if is_out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return GeneratorError(
            "the memory did not suffice for this question; ask a shorter one, or lower generator.slots"
        )
    said = str(error).strip().splitlines()
    return GeneratorError(f"the model failed: {said[0] if said else type(error).__name__}")
