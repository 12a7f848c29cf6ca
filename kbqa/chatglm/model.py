"""A loaded model: what a program asks of it, without a server and without other users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Many
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from kbqa.chatglm import chat
from kbqa.chatglm.architecture import Architecture, DType, Family, read_architecture
from kbqa.chatglm.checkpoint import load_decoder
from kbqa.chatglm.constraint import Constraint, Vocabulary
from kbqa.chatglm.decoder import Alone, Decoder, Keys
from kbqa.chatglm.hub import find_model
from kbqa.chatglm.lora import Lora, adapt, applied, is_lora, load_lora
from kbqa.chatglm.passport import check_base, fingerprint
from kbqa.chatglm.places import context_length, positions, visible
from kbqa.chatglm.prefix import Before, load_prefix
from kbqa.chatglm.quantization import Bits
from kbqa.chatglm.replies import ReplyStream
from kbqa.chatglm.runner import Runner, check_ids
from kbqa.chatglm.sampling import Chooser, Rules, Sampling
from kbqa.chatglm.tokenizers import Tokenizer, load_tokenizer
from kbqa.errors import ModelError
from kbqa.importing import is_out_of_memory

__all__ = ["ChatGLM", "load"]

FIRST = 256  # tokens of an answer that there is room for at first; where it grows longer, the room doubles


class ChatGLM:
    """One model with its tokenizer, and the P-Tuning prefixes and LoRA adapters that have been loaded beside it.

    Safe to use from many threads: nothing of it changes while it answers, and each call has keys and values of its own.
    Many users at once are served faster by an Engine.
    """

    def __init__(
        self, architecture: Architecture, decoder: Decoder, tokenizer: Tokenizer, folder: Path | None = None
    ) -> None:
        """`folder` is where the model lies; adapters with a passport are held against it."""
        self.architecture = architecture
        self.decoder = decoder
        self.tokenizer = tokenizer
        self.folder = folder
        self.prefixes: dict[str | None, Tensor] = {}  # under None the one of calls that name none
        self.loras: dict[str | None, Lora] = {}
        self._adapted = False
        self._adapting = Lock()
        self.stops = frozenset(chat.stop_ids(tokenizer, architecture.eos))
        self._vocabulary: Vocabulary | None = None

    @property
    def family(self) -> Family:
        return self.architecture.family

    def load_prefix(self, name: str | None, path: str | Path) -> None:
        """A P-Tuning checkpoint, for calls that say `adapter=name`; None: for those that name no other.

        ModelError when it is of another model.
        """
        prefix = load_prefix(Path(path), self.architecture).to(self.decoder.device, self.decoder.dtype)
        self._check_base(Path(path))
        self.loras.pop(name, None)
        self.prefixes[name] = prefix

    def load_adapter(self, name: str | None, path: str | Path) -> None:
        """The same for whatever lies in the folder `path`: a P-Tuning checkpoint, or a LoRA adapter."""
        if not is_lora(Path(path)):
            self.load_prefix(name, path)
            return
        lora = load_lora(Path(path), self.architecture).to(self.decoder.device)
        self._check_base(Path(path))
        with self._adapting:
            if not self._adapted:
                adapt(self.decoder)
                self._adapted = True
        self.prefixes.pop(name, None)
        self.loras[name] = lora

    def unload(self, name: str) -> None:
        """Forgets an adapter; answers that are being written with it go on."""
        self.prefixes.pop(name, None)
        self.loras.pop(name, None)

    @cached_property
    def fingerprint(self) -> str:
        assert self.folder is not None
        return fingerprint(self.folder)

    def _check_base(self, path: Path) -> None:
        if self.folder is not None:
            check_base(path, self.folder, lambda: self.fingerprint)

    def prefix(self, adapter: str | None) -> Tensor | None:
        """The prefix of that name; without a name the one that the model was loaded with, if any."""
        self._check_loaded(adapter)
        return self.prefixes.get(adapter)

    def lora(self, adapter: str | None) -> Lora | None:
        """The same for LoRA adapters; an adapter is one of the two."""
        self._check_loaded(adapter)
        return self.loras.get(adapter)

    def _check_loaded(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self.prefixes and adapter not in self.loras:
            known = ", ".join(filter(None, (*self.prefixes, *self.loras))) or "none"
            raise ModelError(f"no adapter {adapter!r} is loaded (loaded: {known})")

    def constraint(self, schema: Mapping[str, Any]) -> Constraint:
        """For one reply that is to be JSON of this schema. ModelError when the schema cannot be followed."""
        if self._vocabulary is None:
            self._vocabulary = Vocabulary(self.tokenizer, self.architecture.vocabulary, self.stops)
        return self._vocabulary.constraint(schema)

    # --- ids -------------------------------------------------------------------------------------------------------

    def chat_ids(
        self,
        query: str,
        history: Many[Any] = (),
        system: str | None = None,
        tools: Many[Mapping[str, Any]] | None = None,
        role: str = "user",
    ) -> list[int]:
        """What the original chat() feeds to generate. `history` holds (question, answer) pairs."""
        return chat.chat_ids(self.tokenizer, query, history, system, tools, role)

    @torch.inference_mode()
    def logits(self, batch: Many[Many[int]], adapter: str | None = None) -> list[Tensor]:
        """For each row of ids its (len, vocabulary) float32 logits."""
        a, prefix = self.architecture, self.prefix(adapter)
        rows = [check_ids(ids, a.vocabulary) for ids in batch]
        if not rows:
            return []
        tokens, kept = max(map(len, rows)), 0 if prefix is None else prefix.shape[3]
        ids = torch.zeros(len(rows), tokens, dtype=torch.long)
        placed = torch.zeros(len(rows), 2 if a.is_v1 else 1, tokens, dtype=torch.long)
        # Rows are filled up on the right: what comes later is seen by nothing that counts.
        for row, its in enumerate(rows):
            ids[row, : len(its)] = torch.tensor(its)
            placed[row, :, : len(its)] = positions(a, its)
        contexts = torch.tensor([kept + context_length(a, its) for its in rows])
        seen = visible(torch.full((len(rows),), kept), tokens, kept + tokens, contexts)
        keys: Keys = Alone() if prefix is None else Before(prefix)
        device = self.decoder.device
        with applied(self.lora(adapter)):
            out = self.decoder(ids.to(device), placed.to(device), keys, seen.to(device))
        return [logits[: len(its)].float() for logits, its in zip(out, rows, strict=True)]

    def generate(
        self,
        ids: Many[int],
        max_new_tokens: int | None = None,
        *,
        temperature: float | None = None,
        top_p: float = 1.0,
        top_k: int = 0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        do_sample: bool | None = None,
        adapter: str | None = None,
    ) -> list[int]:
        """The ids that follow, without the token that ends them.

        At most `max_new_tokens`, or until the context is full. Greedy, unless a temperature above 0 is given or
        `do_sample` asks for a draw.
        """
        if temperature is None:
            temperature = 1.0 if do_sample else 0.0
        sampling = Sampling(0.0 if do_sample is False else temperature, top_p, top_k, repetition_penalty, seed)
        return list(self.tokens(ids, sampling, max_new_tokens, adapter))

    def tokens(
        self,
        ids: Many[int],
        sampling: Sampling,
        max_new_tokens: int | None = None,
        adapter: str | None = None,
        rules: Rules | None = None,
    ) -> Iterator[int]:
        """The ids that follow, each as soon as it is known; closing the iterator stops the work.

        Memory for keys and values is that of the prompt and of what is written, not of the whole context.
        """
        prefix = self.prefix(adapter)
        kept = 0 if prefix is None else prefix.shape[3]
        room = self.architecture.context - len(ids)
        if room < 1:
            raise ModelError(f"the prompt has {len(ids)} tokens; the model's context is {self.architecture.context}")
        if max_new_tokens is not None and max_new_tokens < 1:
            raise ModelError(f"max_new_tokens is {max_new_tokens}; an answer has at least 1 token")
        wanted = room if max_new_tokens is None else min(max_new_tokens, room)
        most = kept + len(ids) + wanted
        runner = Runner(self.decoder, slots=1, capacity=min(most, kept + len(ids) + FIRST))
        sequence = runner.begin(0, ids, prefix, self.lora(adapter))
        logits = None
        while logits is None:
            logits = runner.read(sequence)
        chooser = Chooser(sampling, sequence.ids, self.decoder.device, rules)
        for left in range(wanted, 0, -1):
            token = chooser.choose(logits)
            if token in self.stops:
                return
            yield token
            if left > 1:
                if sequence.filled == runner.cache.capacity:
                    runner.cache.grow(min(most, 2 * runner.cache.capacity))
                logits = runner.write([sequence], [token])[0]

    # --- text ------------------------------------------------------------------------------------------------------

    def stream(self, query: str, history: Many[Any] = (), **options: Any) -> Iterator[str]:
        """The reply as it is written: new text only, never half a character; the options are those of `chat`.

        Closing the iterator stops the work.
        """
        yield from self._written(query, history, self._reply(options), **options)

    def chat(self, query: str, history: Many[Any] = (), **options: Any) -> tuple[str | dict[str, Any], list[Any]]:
        """(reply, history with this turn in it), the reply as the original chat() makes it of what was written.

        `history` holds (question, answer) pairs, or messages as ChatGLM3's and GLM-4's chat() have them, which is also
        how those families' history comes back. Options: system, tools, role ("observation" for what a tool gave back),
        temperature, top_p, top_k, repetition_penalty, max_new_tokens, seed, do_sample, adapter; what is not given is as
        in the original chat(). Temperature 0, or do_sample=False, is greedy. With `schema`, a JSON schema, the reply is
        JSON of that schema, unless max_new_tokens cuts it off.
        """
        reply = self._reply(options, _tools(history, options.get("tools")))
        for _ in self._written(query, history, reply, **options):
            pass
        done = reply.reply
        if self.family in ("chatglm", "chatglm2"):
            return done.response, [*history, (query, done.text)]
        turn = {"role": options.get("role", "user"), "content": query}
        said = [{"role": "assistant", "metadata": it.metadata, "content": it.content} for it in done.messages]
        return done.response, [*_as_messages(history), turn, *said]

    def _reply(self, options: Mapping[str, Any], tools: Many[Mapping[str, Any]] = ()) -> ReplyStream:
        """JSON is left as it is: in ChatGLM-6B's replies, punctuation becomes full-width."""
        plain = options.get("schema") is not None
        return ReplyStream("chatglm2") if plain else ReplyStream(self.family, tools)

    def _written(
        self,
        query: str,
        history: Many[Any],
        reply: ReplyStream,
        *,
        system: str | None = None,
        tools: Many[Mapping[str, Any]] | None = None,
        role: str = "user",
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        do_sample: bool = True,
        adapter: str | None = None,
        schema: Mapping[str, Any] | None = None,
    ) -> Iterator[str]:
        """New text of `reply`, which is fed token by token."""
        usual = chat.sampling_defaults(self.family)
        temperature = usual.temperature if temperature is None else temperature
        sampling = Sampling(
            temperature if do_sample else 0.0,
            usual.top_p if top_p is None else top_p,
            usual.top_k if top_k is None else top_k,
            repetition_penalty,
            seed,
        )
        ids = chat.chat_ids(self.tokenizer, query, history, system, tools, role)
        if schema is not None:
            ids += chat.before_json(self.tokenizer)
        if max_new_tokens is None and len(ids) < usual.max_length:
            max_new_tokens = usual.max_length - len(ids)
        rules = None if schema is None else self.constraint(schema)
        text = self.tokenizer.stream()
        for token in self.tokens(ids, sampling, max_new_tokens, adapter, rules):
            if new := reply.push(text.push(token)):
                yield new
        if rest := reply.push(text.end()) + reply.end():
            yield rest


def _tools(history: Many[Any], tools: Many[Mapping[str, Any]] | None) -> list[Mapping[str, Any]]:
    """All that are on offer: those of this turn, and those of a system message before it."""
    before = [tool for it in history if isinstance(it, Mapping) for tool in it.get("tools") or ()]
    return [*before, *(tools or ())]


def _as_messages(history: Many[Any]) -> list[Any]:
    messages: list[Any] = []
    for it in history:
        if isinstance(it, Mapping):
            messages.append(it)
        else:
            messages += [{"role": "user", "content": it[0]}, {"role": "assistant", "metadata": "", "content": it[1]}]
    return messages


def load(
    path: str | Path,
    dtype: DType = "float32",
    device: str = "cpu",
    quantize: Bits | None = None,
    prefix: str | Path | None = None,
    family: Family | None = None,
    exact: bool | None = None,
) -> ChatGLM:
    """`kbqa.chatglm.load_chatglm`."""
    exact = dtype == "float32" if exact is None else exact
    folder = find_model(path)
    architecture = read_architecture(folder, family)
    tokenizer = load_tokenizer(folder, architecture.family)
    try:
        decoder = load_decoder(folder, architecture, _dtype(dtype), device, quantize, exact)
    except (RuntimeError, OSError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{folder} does not fit into the memory of {device}; 4 bits need the least (generator.quantize: 4, in "
            f"Python quantize=4; `kbqa model info {folder}` tells how much)"
        ) from error
    model = ChatGLM(architecture, decoder, tokenizer, folder)
    if prefix is not None:
        model.load_adapter(None, prefix)
    return model


def _dtype(name: str) -> torch.dtype:
    known: Mapping[str, torch.dtype] = {
        "float32": torch.float32,
        "float16": torch.float16,
        "bfloat16": torch.bfloat16,
    }
    if name not in known:
        raise ModelError(f"dtype is {name!r}; it must be one of {', '.join(known)}")
    return known[name]
