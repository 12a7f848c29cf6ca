"""A model as it is asked while it is measured: greedily, many prompts at once, bare or with what was tuned.

Knows nothing about files or scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from kbqa.chatglm.engine import Ended, Engine, Job
from kbqa.chatglm.model import ChatGLM
from kbqa.chatglm.replies import ReplyStream
from kbqa.chatglm.sampling import Sampling
from kbqa.errors import GeneratorError, ModelError
from kbqa.tuning.data import Row
from kbqa.tuning.preprocess import NOT_COUNTED, Format, Limits, example, prompt_ids

__all__ = ["Said", "Speaker"]

AT_ONCE = 8  # prompts
WINDOW = 256  # tokens of text whose logits are in memory at once: 150 MB with the vocabulary of GLM-4


@dataclass(frozen=True, slots=True)
class Said:
    """What a model answered; `error` says why it did not."""

    text: str
    tokens: int = 0
    cut_off: bool = False
    error: str = ""


@dataclass(frozen=True, slots=True)
class Speaker:
    """`model` with the prefix or LoRA adapter that was loaded under the name `adapter`; None: as it was loaded.

    `format` is how prompts are written where messages have roles: as it was tuned.
    """

    model: ChatGLM
    adapter: str | None = None
    format: Format = "multi-turn"

    def asked(self, question: str, limits: Limits | None = None, history: Sequence[tuple[str, str]] = ()) -> list[int]:
        """The prompt; what is longer than the limits is cut as it is in training."""
        whole = self.model.architecture.context
        row = Row(question, "", tuple(history))
        return prompt_ids(self.model.tokenizer, row, limits or Limits(whole, whole), self.format)

    def loss(self, row: Row, limits: Limits) -> float:
        """The mean surprise at a token of the row's answer, as training computes it."""
        made = example(self.model.tokenizer, row, limits, self.format)
        logits = self.model.logits([made.ids], self.adapter)[0][:-1]
        labels = torch.tensor(made.labels[1:], device=logits.device)
        return cross_entropy(logits, labels, ignore_index=NOT_COUNTED).item()

    def replies(self, prompts: Sequence[Sequence[int]], most: int, at_once: int = AT_ONCE) -> Iterator[Said]:
        """For each prompt what follows, at most `most` tokens; one that the model cannot take stops no other."""
        if not prompts:
            return
        slots = min(at_once, len(prompts))
        prefix = self.model.prefix(self.adapter)
        context = max(map(len, prompts)) + most
        beside = 0 if prefix is None else prefix.shape[3]
        try:
            engine = Engine(self.model.decoder, slots=slots, waiting=slots, context=context, prefix=beside)
        except ModelError as error:
            raise ModelError(
                f"there is no memory for {slots} rows of {context} tokens at once; lower --batch"
            ) from error
        pool = ThreadPoolExecutor(slots)
        try:
            yield from pool.map(partial(self._reply, engine, most), prompts)
        finally:
            engine.close()  # first: whoever leaves early waits for no answer
            pool.shutdown(cancel_futures=True)

    def perplexity(self, texts: Iterable[str]) -> float:
        """exp of the mean surprise at a token of `texts`, which stand where an answer would. ModelError for no text."""
        begin = self.model.tokenizer.prompt([])
        most = min(WINDOW, self.model.architecture.context - len(begin))
        surprise, tokens = 0.0, 0
        for text in texts:
            ids = self.model.tokenizer.encode(text)
            for start in range(0, len(ids), most):
                part = ids[start : start + most]
                surprise += self._surprise(begin, part)
                tokens += len(part)
        if not tokens:
            raise ModelError("there is no text to measure the perplexity on")
        return float(torch.tensor(surprise / tokens, dtype=torch.float64).exp())

    def _surprise(self, begin: Sequence[int], ids: Sequence[int]) -> float:
        logits = self.model.logits([[*begin, *ids]], self.adapter)[0][len(begin) - 1 : -1]
        found = cross_entropy(logits, torch.tensor(ids, device=logits.device), reduction="sum").item()
        if found != found:
            raise ModelError(
                f"the model's logits are no numbers in {self.model.decoder.dtype}; use float32 or bfloat16"
            )
        return found

    def _reply(self, engine: Engine, most: int, ids: Sequence[int]) -> Said:
        text, reply, count = self.model.tokenizer.stream(), ReplyStream(self.model.family), 0
        prefix, lora = self.model.prefix(self.adapter), self.model.lora(self.adapter)
        job = Job(ids, Sampling(), most, self.model.stops, prefix, lora)
        finish = "stop"
        shown = ""
        try:
            with closing(engine.write(job)) as written:
                for it in written:
                    if isinstance(it, Ended):
                        finish = it.finish
                        break
                    count += 1
                    shown += reply.push(text.push(it))
        except GeneratorError as error:
            return Said(shown, count, error=str(error))
        shown += reply.push(text.end()) + reply.end()
        return Said(shown, count, finish == "length")
