"""A model of the ChatGLM family from its folder, for many users at once.

The model is loaded when the first question needs it. Conversations that do not fit the context lose their oldest turns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal
from uuid import uuid4

from kbqa.chatglm.hub import find_model
from kbqa.errors import BeyondModel, ModelError
from kbqa.generators.stopping import Stopper
from kbqa.registry.adapters import Served
from kbqa.types import GenerationRequest, Load, Piece

if TYPE_CHECKING:
    from torch import Tensor

    from kbqa.chatglm.architecture import DType, Family
    from kbqa.chatglm.engine import Engine
    from kbqa.chatglm.lora import Lora
    from kbqa.chatglm.model import ChatGLM
    from kbqa.chatglm.sampling import Sampling

__all__ = ["ChatGLMGenerator"]

PACKAGES = ("torch", "safetensors", "sentencepiece", "tiktoken", "tokenizers")
MAX_TOKENS = 1024  # of an answer, where neither request nor config.yaml says
ROOM = 4  # of the context: at most so large a part is kept free for the answer when history and passages are fitted


class ChatGLMGenerator:
    """`model` is a folder with a published checkpoint, or the id of one that has been downloaded; `prefix` is that of a
    P-Tuning checkpoint (or a LoRA adapter) used by default, `adapters` are further ones by name. `served` tells at any
    time which ones are promoted. Requests that name none get `adapter`, one of either.

    `slots` answers are written at once, `waiting` more questions may wait. `context` limits how many tokens one of them
    may have, and with it the memory for keys and values; None: what the model knows, at most 8,192. `device` None means
    a GPU if there is one; `dtype` "auto" what the weights are stored in, on a CPU bfloat16.

    ModelError when the folder is no such model or does not fit into memory, and when packages are missing.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: DType | Literal["auto"] = "auto",
        device: str | None = None,
        quantize: Literal[4, 8] | None = None,
        prefix: str | Path | None = None,
        adapters: Mapping[str, str | Path] | None = None,
        adapter: str | None = None,
        served: Callable[[], Served] | None = None,
        family: Family | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
        context: int | None = None,
        slots: int = 4,
        waiting: int = 32,
    ) -> None:
        self._folder = _found(model)
        if missing := [name for name in PACKAGES if find_spec(name) is None]:
            raise ModelError(f"ChatGLM needs more packages ({', '.join(missing)}); pip install 'kbqa[glm]'")
        if not (self._folder / "config.json").is_file():
            raise ModelError(f"generator.model {model} is no folder with a model: it has no config.json")
        for setting, path in (("prefix", prefix), *((f"adapters.{name}", it) for name, it in (adapters or {}).items())):
            if path is not None and not Path(path).is_dir():
                raise ModelError(f"generator.{setting}: there is no folder {path}{_beginning(path)}")
        self.name = f"chatglm:{Path(model).resolve().name}"
        self._dtype, self._device, self._bits, self._family = dtype, device, quantize, family
        self._prefix, self._adapters = prefix, dict(adapters or {})
        self._adapter, self._served = adapter, served or (lambda: Served({}))
        self._promoted: dict[str, Path] = {}  # those that are loaded, and from where
        self._temperature, self._max_tokens = temperature, max_tokens
        self._context, self._slots, self._waiting = context, slots, waiting
        self._lock, self._adapting = Lock(), Lock()
        self._loaded: tuple[ChatGLM, Engine] | None = None

    def fits(self, request: GenerationRequest) -> bool:
        """Whether what must stay of it (the last question, system messages, tools) leaves room for the answer."""
        from kbqa.chatglm.chat import least
        from kbqa.chatglm.messages import from_messages

        model, engine = self._ready()
        messages = from_messages(request.messages, request.tools)
        return least(model.tokenizer, messages) <= self._room(engine, request) - len(_begun(model, request))

    @property
    def load(self) -> Load:
        running, waiting = self._loaded[1].load if self._loaded else (0, 0)
        return Load(running, waiting, self._slots, self._waiting)

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        from kbqa.chatglm.engine import Ended, Job

        model, engine = self._ready()
        ids = self._prompt(model, engine, request)
        prefix, lora = self._tuned(model, request.adapter)
        job = Job(
            ids=ids,
            sampling=self._sampling(model, request),
            most=min(request.max_tokens or self._max_tokens or MAX_TOKENS, engine.context - len(ids)),
            stops=model.stops,
            prefix=prefix,
            lora=lora,
            deadline=request.deadline,
            cancellation=request.cancellation,
            owner=request.owner,
            rules=None if request.response_schema is None else model.constraint(request.response_schema),
        )
        text = _Text(model, request)
        count, finish = 0, "stop"
        with closing(engine.write(job)) as written:
            for it in written:
                if isinstance(it, Ended):
                    finish = it.finish
                    break
                count += 1
                if shown := text.add(it):
                    yield Piece(shown, prompt_tokens=len(ids), completion_tokens=count)
                if text.stopped:
                    break
        if rest := text.end():
            yield Piece(rest)
        calls = text.calls()
        yield from (Piece(tool_call=call) for call in calls)
        yield Piece(
            finish="tool_calls" if calls else "length" if finish == "length" else "stop",
            prompt_tokens=len(ids),
            completion_tokens=count,
        )

    def check(self) -> None:
        """ModelError for what would keep the model from being loaded, as far as that shows without loading it."""
        from kbqa.chatglm.checkpoint import usable
        from kbqa.chatglm.info import what_is
        from kbqa.chatglm.lora import is_lora, load_lora
        from kbqa.chatglm.prefix import load_prefix
        from kbqa.chatglm.tokenizers import load_tokenizer

        about = what_is(self._folder, self._family)
        if about.trouble:
            raise ModelError(about.trouble)
        load_tokenizer(self._folder, about.architecture.family)
        own = [self._prefix] if self._prefix else []
        for path in (*own, *self._adapters.values(), *self._served().folders.values()):
            if is_lora(Path(path)):
                load_lora(Path(path), about.architecture)
            else:
                load_prefix(Path(path), about.architecture)
        usable(self._device or "cpu")

    def close(self) -> None:
        """Ends the answers that are being written, and the thread that writes them."""
        with self._lock:
            if self._loaded is not None:
                self._loaded[1].close()

    def _prompt(self, model: ChatGLM, engine: Engine, request: GenerationRequest) -> list[int]:
        """Without the oldest turns of a conversation that has become too long."""
        from kbqa.chatglm import chat
        from kbqa.chatglm.messages import from_messages

        messages, begun = from_messages(request.messages, request.tools), _begun(model, request)
        return chat.fit(model.tokenizer, messages, self._room(engine, request) - len(begun)).ids + begun

    def _room(self, engine: Engine, request: GenerationRequest) -> int:
        """Tokens that a prompt may have, so that enough are left for the answer."""
        answer = request.max_tokens or self._max_tokens or MAX_TOKENS
        return engine.context - max(1, min(answer, engine.context // ROOM))

    def _sampling(self, model: ChatGLM, request: GenerationRequest) -> Sampling:
        """What is asked for; then config.yaml's temperature; then what the original chat() does."""
        from kbqa.chatglm import chat
        from kbqa.chatglm.sampling import Sampling

        usual = chat.sampling_defaults(model.family)
        temperature = next(it for it in (request.temperature, self._temperature, usual.temperature) if it is not None)
        return Sampling(
            temperature=temperature,
            top_p=usual.top_p if request.top_p is None else request.top_p,
            top_k=usual.top_k if request.top_k is None else request.top_k,
            repetition_penalty=1.0 if request.repetition_penalty is None else request.repetition_penalty,
            seed=request.seed,
        )

    def adapters(self) -> tuple[str, ...]:
        """The names that a request may give: those of config.yaml, and those that are promoted."""
        return tuple(dict.fromkeys((*self._adapters, *self._served().folders)))

    def _tuned(self, model: ChatGLM, asked: str | None) -> tuple[Tensor | None, Lora | None]:
        """What is beside the model for a request: what it asks for, else config.yaml's adapter, else the promoted one
        that is the default, else config.yaml's prefix. BeyondModel when there is none of that name."""
        with self._adapting:
            served = self._served()
            while True:
                try:
                    return self._beside(model, asked, served)
                except BeyondModel:
                    raise
                except ModelError:
                    before, served = served, self._served()
                    if served == before:
                        raise  # else it was removed before it was read, since another one is promoted, or none

    def _beside(self, model: ChatGLM, asked: str | None, served: Served) -> tuple[Tensor | None, Lora | None]:
        name = asked or self._adapter or served.default
        for gone in self._promoted.keys() - served.folders.keys():
            del self._promoted[gone]
            model.unload(gone)
        if name is not None and name not in self._adapters:
            if name not in served.folders:
                known = ", ".join(dict.fromkeys((*self._adapters, *served.folders))) or "none"
                raise BeyondModel(f"there is no adapter {name!r} (there are: {known})")
            if self._promoted.get(name) != served.folders[name]:
                model.load_adapter(name, served.folders[name])
                self._promoted[name] = served.folders[name]
        return model.prefix(name), model.lora(name)

    def _ready(self) -> tuple[ChatGLM, Engine]:
        """The model and its engine; whoever comes first loads them, the others wait."""
        with self._lock:
            if self._loaded is None:
                self._loaded = self._load()
            return self._loaded

    def _load(self) -> tuple[ChatGLM, Engine]:
        import torch

        from kbqa.chatglm import load_chatglm
        from kbqa.chatglm.architecture import read_architecture
        from kbqa.chatglm.engine import PREFIX, Engine

        device = self._device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ModelError(f"generator.device is {device}, but torch finds no CUDA device here; see `kbqa doctor`")
        architecture = read_architecture(self._folder, self._family)
        usual: DType = "bfloat16" if device == "cpu" else architecture.dtype
        dtype = usual if self._dtype == "auto" else self._dtype
        model = load_chatglm(self._folder, dtype, device, self._bits, self._prefix, self._family)
        for name, path in self._adapters.items():
            model.load_adapter(name, path)
        context = min(architecture.context, 8192) if self._context is None else self._context
        prefix = max([PREFIX, *(it.shape[3] for it in model.prefixes.values())])
        return model, Engine(model.decoder, slots=self._slots, waiting=self._waiting, context=context, prefix=prefix)


def _begun(model: ChatGLM, request: GenerationRequest) -> list[int]:
    """What the answer is begun with, which is no prompt and no answer, but takes room."""
    from kbqa.chatglm.chat import before_json

    return [] if request.response_schema is None else before_json(model.tokenizer)


def _found(model: str | Path) -> Path:
    try:
        return find_model(model)
    except ModelError as error:
        raise ModelError(f"generator.model: {error}{_beginning(model)}") from error


def _beginning(path: str | Path) -> str:
    return "" if Path(path).expanduser().is_absolute() else "; a relative path begins at the folder of config.yaml"


class _Text:
    """Ids to what the user may see of them, up to the first stop string; then the tool calls among them."""

    def __init__(self, model: ChatGLM, request: GenerationRequest) -> None:
        from kbqa.chatglm.replies import ReplyStream

        self._ids = model.tokenizer.stream()
        # JSON is left as it is: ChatGLM-6B's reply would get full-width punctuation.
        plain = request.response_schema is not None
        self._reply = ReplyStream("chatglm2" if plain else model.family, request.tools)
        self._stopper = Stopper(request.stop)

    @property
    def stopped(self) -> bool:
        return self._stopper.hit

    def add(self, token: int) -> str:
        return self._stopper.add(self._reply.push(self._ids.push(token)))

    def end(self) -> str:
        rest = self._reply.push(self._ids.end()) + self._reply.end()
        return self._stopper.add(rest) + self._stopper.end()

    def calls(self) -> list[dict[str, object]]:
        return [
            {"id": f"call_{uuid4().hex[:24]}", "name": call.name, "arguments": dict(call.arguments)}
            for call in self._reply.reply.calls
        ]
