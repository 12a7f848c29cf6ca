"""Any causal language model with a chat template, from its folder, through transformers.

Nothing is downloaded, no code of the folder is run. One answer at a time, written by a thread of its own that ends with
the stream: whoever serves many users at once is better off with a server and `kind: openai`. Conversations that do not
fit the context lose their oldest turns.
"""

from __future__ import annotations

import atexit
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Literal

from kbqa.cancellation import Cancellation
from kbqa.embedders.local import stay_offline
from kbqa.errors import BeyondModel, ConfigError, GeneratorError, ModelError
from kbqa.generators.stopping import Stopper
from kbqa.generators.turns import Turns
from kbqa.importing import is_out_of_memory, one_line
from kbqa.types import GenerationRequest, Load, Message, Piece

if TYPE_CHECKING:
    import torch

__all__ = ["TransformersGenerator"]

PACKAGES = ("torch", "transformers", "jinja2")
MAX_TOKENS = 1024  # of an answer, when neither request, config.yaml nor the model's folder says
ROOM = 4  # of the context: at most so large a part is kept free for the answer when passages and history are fitted
HALF = "\ufffd"  # what a tokenizer makes of bytes that are no whole character yet


class TransformersGenerator:
    """`model` is a folder; it is loaded when the first question needs it.

    `device` None means a GPU if there is one, `dtype` "auto" the one that the weights are stored in. `options` are
    variables of the chat template, such as Qwen3's enable_thinking. `temperature` and `max_tokens` hold where a request
    says nothing else, then what the folder's generation_config.json says. `waiting` requests may stand in line.
    ConfigError when packages or the device are missing, ModelError when the folder is no such model.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        device: str | None = None,
        dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
        temperature: float | None = None,
        max_tokens: int | None = None,
        waiting: int = 32,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self._folder = Path(model)
        if not (self._folder / "config.json").is_file():
            raise ModelError(
                f"generator.model {model} is no folder with a model (config.json is missing); kbqa downloads nothing "
                "by itself: put the model's files into a folder and name that"
            )
        if missing := [name for name in PACKAGES if find_spec(name) is None]:
            raise ConfigError(
                f"generator.kind transformers needs more packages ({', '.join(missing)}); "
                "pip install 'kbqa[transformers]'"
            )
        self._device, self._dtype = device, dtype
        self._temperature, self._max_tokens = temperature, max_tokens
        self._options = dict(options or {})
        self._model: _Model | None = None
        self._loading = Lock()
        self.name = f"transformers:{self._folder.resolve().name}"
        self._turns = Turns(self.name, waiting)

    def fits(self, request: GenerationRequest) -> bool:
        """Whether what must stay of it, the last question and what the system says, leaves room for the answer."""
        model, messages = self._ready(), request.messages
        while (shorter := _without_oldest_turn(messages)) != messages:
            messages = shorter
        return model.fits(model.prompt(messages, self._options), request.max_tokens or self._max_tokens)

    @property
    def load(self) -> Load:
        return self._turns.load

    def stream(self, request: GenerationRequest) -> Iterator[Piece]:
        if request.tools or request.response_schema is not None or request.adapter or _speaks_of_tools(request):
            raise BeyondModel(f"{self.name} is only used to write text: no tools, no response schema, no adapters")
        with self._turns.turn(request.deadline, request.cancellation):
            yield from self._answer(self._ready(), request)

    def _ready(self) -> _Model:
        with self._loading:
            if self._model is None:
                self._model = _Model(self._folder, self._device, self._dtype, self.name)
            return self._model

    def _answer(self, model: _Model, request: GenerationRequest) -> Iterator[Piece]:
        wanted = request.max_tokens or self._max_tokens
        ids = self._prompt(model, request.messages, wanted)
        temperature = self._temperature if request.temperature is None else request.temperature
        settings = _sampling(request, temperature)
        settings["max_new_tokens"] = most = model.room(ids, wanted)
        text, stopper, count = _Text(model.tokenizer), Stopper(request.stop), 0
        with model.writing(ids, settings, request.seed, request.cancellation) as written:
            ended = False
            for token in _until(request.deadline, written, self.name):
                count += 1
                ended = token in model.ends
                if shown := stopper.add(text.add(token)):
                    yield Piece(shown, prompt_tokens=len(ids), completion_tokens=count)
                if stopper.hit:
                    break
            request.cancellation.check()
        if rest := stopper.add(text.end()) + stopper.end():
            yield Piece(rest)
        cut_off = count >= most and not ended and not stopper.hit
        yield Piece(finish="length" if cut_off else "stop", prompt_tokens=len(ids), completion_tokens=count)

    def _prompt(self, model: _Model, messages: tuple[Message, ...], wanted: int | None) -> list[int]:
        """Without the oldest turns of a conversation that has become too long; what the system says stays."""
        while True:
            ids = model.prompt(messages, self._options)
            shorter = _without_oldest_turn(messages)
            if shorter == messages or model.fits(ids, wanted):
                return ids
            messages = shorter


def _speaks_of_tools(request: GenerationRequest) -> bool:
    return any(message.role == "tool" or message.tool_calls for message in request.messages)


def _without_oldest_turn(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    system = tuple(message for message in messages[:1] if message.role == "system")
    turns = messages[len(system) :]
    begins = (at for at, message in enumerate(turns) if at and message.role == "user")
    return system + turns[next(begins, 0) :]


def _sampling(request: GenerationRequest, temperature: float | None) -> dict[str, Any]:
    """What `generate` is told; it takes the rest from the folder."""
    settings: dict[str, Any] = {"repetition_penalty": request.repetition_penalty, "num_beams": 1}
    if temperature == 0:
        settings["do_sample"] = False
    else:
        settings |= {"temperature": temperature, "top_p": request.top_p, "top_k": request.top_k}
        settings["do_sample"] = None if temperature is None else True
    return {name: value for name, value in settings.items() if value is not None}


Written = SimpleQueue["int | Exception | None"]  # token ids, then how it ended


def _until(deadline: float | None, written: Written, name: str) -> Iterator[int]:
    """The tokens as they come; raises what the writing thread raised."""
    while True:
        try:
            token = written.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
        except Empty:
            raise GeneratorError(f"{name} did not finish in time") from None
        if token is None:
            return
        if isinstance(token, Exception):
            raise token
        yield token


class _Model:
    """A model that is loaded, with its tokenizer."""

    def __init__(self, folder: Path, device: str | None, dtype: str, name: str) -> None:
        stay_offline()
        self._name = name
        try:
            self.tokenizer = _tokenizer(folder)
            self._network = _network(folder, device, dtype)
        except (GeneratorError, ConfigError):
            raise
        except Exception as error:  # each kind of damage has an exception of its own, in three libraries
            said = f"generator.model {folder} cannot be loaded by transformers"
            raise _explained(error, said, ModelError) from error
        config = self._network.config.get_text_config()
        self._context: int | None = getattr(config, "max_position_embeddings", None)
        generation = self._network.generation_config
        self.ends = {*_as_list(generation.eos_token_id), *_as_list(self.tokenizer.eos_token_id)}
        generation.eos_token_id = sorted(self.ends) or None
        generation.max_length = None  # else transformers warns that max_new_tokens, which is always given, comes first
        if generation.pad_token_id is None:
            generation.pad_token_id = next(iter(self.ends), 0)  # one prompt is never padded; asked for all the same

    def prompt(self, messages: Sequence[Message], options: Mapping[str, Any]) -> list[int]:
        """The messages as the model's chat template puts them, which is a program and not trusted."""
        said = [{"role": m.role, "content": _disarmed(m.content, self._controls)} for m in messages]
        try:
            return self._encoded(said, options)
        except Exception as error:  # it is the model's, and so is what it raises
            raise BeyondModel(f"{self._name}: its chat template refuses the messages: {one_line(error)}") from error

    def _encoded(self, said: list[dict[str, str]], options: Mapping[str, Any]) -> list[int]:
        from kbqa.chatglm.templates import render

        if not self.tokenizer.chat_template:  # the program is then transformers' own, and may be trusted
            made = self.tokenizer.apply_chat_template(
                said, **{**options, "add_generation_prompt": True, "tokenize": True, "return_dict": True}
            )
        else:
            given = {"messages": said, "tools": None, "documents": None, "add_generation_prompt": True}
            variables = {**self.tokenizer.special_tokens_map, **options, **given}
            text = render(self.tokenizer.get_chat_template(), **variables)
            made = self.tokenizer(text, add_special_tokens=False)
        ids: list[int] = made["input_ids"]
        return ids

    @property
    def _controls(self) -> list[str]:
        try:
            added = self.tokenizer.added_tokens_decoder.values()
        except (NotImplementedError, AttributeError):  # Mistral's class, which makes no control token of any text
            return []
        return [token.content for token in added if token.special and len(token.content) > 1]

    def fits(self, ids: Sequence[int], wanted: int | None) -> bool:
        """Whether a fair part of the context is left for the answer."""
        if self._context is None:
            return True
        return len(ids) <= self._context - min(self._most(wanted), self._context // ROOM)

    def _most(self, wanted: int | None) -> int:
        return int(wanted or self._network.generation_config.max_new_tokens or MAX_TOKENS)

    def room(self, ids: Sequence[int], wanted: int | None) -> int:
        """How many tokens the answer may have; GeneratorError when there is no room at all."""
        if self._context is None:
            return self._most(wanted)
        if len(ids) >= self._context:
            raise BeyondModel(
                f"the prompt has {len(ids)} tokens and {self._name} reads at most {self._context}; "
                "ask in fewer words, or lower prompt.max_characters"
            )
        return min(self._most(wanted), self._context - len(ids))

    @contextmanager
    def writing(
        self, ids: list[int], settings: Mapping[str, Any], seed: int | None, cancellation: Cancellation
    ) -> Iterator[Written]:
        """A thread writes into the queue; it has ended when this is left, and ends when it is cancelled."""
        written: Written = SimpleQueue()
        cancelled = Event()
        thread = Thread(target=self._write, args=(ids, settings, seed, written, cancelled), daemon=True)
        thread.start()

        def stop() -> None:
            cancelled.set()
            thread.join()

        atexit.register(stop)  # a thread that ends in the midst of torch takes the process down with it
        try:
            with cancellation.waking(cancelled.set):
                yield written
        finally:
            stop()
            atexit.unregister(stop)

    def _write(
        self, ids: list[int], settings: Mapping[str, Any], seed: int | None, written: Written, cancelled: Event
    ) -> None:
        try:
            with _watched(self._network, cancelled), _seeded(seed, self._network.device):
                self._generate(ids, settings, _Tokens(written, len(ids)))
            written.put(None)
        except _Cancelled:
            written.put(None)
        except Exception as error:  # noqa: BLE001  (whatever it is, the reader must hear of it)
            written.put(_explained(error, f"{self._name} failed", GeneratorError))

    def _generate(self, ids: list[int], settings: Mapping[str, Any], streamer: _Tokens) -> None:
        import torch

        prompt = torch.tensor([ids], device=self._network.device)  # (1, n)
        with torch.inference_mode():
            self._network.generate(prompt, attention_mask=torch.ones_like(prompt), streamer=streamer, **settings)


class _Tokens:
    """What transformers calls a streamer: it is given the prompt first, then each token."""

    def __init__(self, written: Written, prompt: int) -> None:
        self._written, self._prompt = written, prompt

    def put(self, ids: torch.Tensor) -> None:
        for token in ids.flatten().tolist():
            if self._prompt:
                self._prompt -= 1
            else:
                self._written.put(token)

    def end(self) -> None:
        pass


class _Text:
    """Tokens to text as it grows. Bytes that are no whole character yet wait for the rest of it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._start = 0  # decoding begins a little before what is new: some tokenizers put a blank before a first word
        self._shown = 0

    def add(self, token: int) -> str:
        """The new text, if there is any."""
        self._ids.append(token)
        new = self._new()
        if not new or new.endswith(HALF):
            return ""
        self._start, self._shown = self._shown, len(self._ids)
        return new

    def end(self) -> str:
        """What was waiting, without the half character at its end."""
        return self._new().rstrip(HALF)

    def _new(self) -> str:
        before = self._decoded(self._ids[self._start : self._shown])
        return self._decoded(self._ids[self._start :])[len(before) :]

    def _decoded(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


# --- loading ---------------------------------------------------------------------------------------------------------


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    inherited = type(tokenizer).apply_chat_template is PreTrainedTokenizerBase.apply_chat_template
    if inherited and not tokenizer.chat_template:  # Mistral's class has none, but a way of its own
        raise ModelError(
            f"generator.model {folder} has no chat template, so it is not made to answer questions; "
            "use the model's chat or instruct version"
        )
    return tokenizer


def _network(folder: Path, device: str | None, dtype: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    where = device or ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")
    if where.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"generator.device is {where}, but torch finds no CUDA device here; leave it out or say cpu")
    disable_progress_bar()  # type: ignore[no-untyped-call]
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False, dtype=dtype, output_loading_info=True
    )
    network, report = loaded
    if missing := sorted(report["missing_keys"]):  # transformers would fill them with random numbers
        raise ModelError(
            f"generator.model {folder} lacks {len(missing)} of its weights, among them {missing[0]}; "
            "is it whole? copy or download it again"
        )
    return network.to(where).eval()


def _explained(error: Exception, said: str, cls: type[GeneratorError]) -> GeneratorError:
    """Ours for what a library raised."""
    if is_out_of_memory(error):
        error.__traceback__ = None  # its frames hold the tensors that were too many
        _release()
        return GeneratorError(
            f"{said}: memory does not suffice; a smaller model, generator.dtype or prompt.max_characters needs less"
        )
    if "trust_remote_code" in str(error):
        return ModelError(f"{said}: it needs code of its own, which kbqa does not run")
    return cls(f"{said}: {one_line(error)}")


def _release() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()


# --- writing ---------------------------------------------------------------------------------------------------------


class _Cancelled(Exception):
    pass


@contextmanager
def _watched(network: Any, cancelled: Event) -> Iterator[None]:
    """Within this the network stops before its next layer once `cancelled` is set, also in the midst of a prompt."""
    from torch.nn import ModuleList

    def check(*_: object) -> None:
        if cancelled.is_set():
            raise _Cancelled

    layers = [layer for module in network.modules() if isinstance(module, ModuleList) for layer in module]
    hooks = [module.register_forward_pre_hook(check) for module in (network, *layers)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Random numbers that begin at `seed`, without a trace for the rest of the process."""
    import torch

    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _disarmed(text: str, controls: Sequence[str]) -> str:
    """`text` in which no control token of the model stands: what users and documents say is never a command.

    A zero-width space behind the first character breaks each one up, so that the rest reads as before.
    """
    if not controls:
        return text
    longest_first = sorted(controls, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), lambda found: f"{found[0][0]}\u200b{found[0][1:]}", text)


def _as_list(ids: int | list[int] | None) -> list[int]:
    return [] if ids is None else ids if isinstance(ids, list) else [ids]
