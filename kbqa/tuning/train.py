"""A run: rows, a frozen base, and what is learnt beside it, from settings to checkpoints.

OUTPUT_DIR/settings.json    what the run is
OUTPUT_DIR/checkpoint-N/    pytorch_model.bin and config.json of the prefix (LoRA: adapter_model.safetensors and
                            adapter_config.json), passport.json, and what --resume needs
OUTPUT_DIR/loss.png, runs/  how the loss fell, the latter for TensorBoard
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kbqa.config import DEFAULT_TEMPLATE
from kbqa.errors import ConfigError, TuningError
from kbqa.importing import is_out_of_memory
from kbqa.tuning.data import Columns, Row, read_rows
from kbqa.tuning.preprocess import NOT_COUNTED, Example, Limits, example
from kbqa.tuning.saving import begin_run, check_run, checkpoints, newest, remove
from kbqa.tuning.settings import Settings

if TYPE_CHECKING:
    from kbqa.chatglm.architecture import DType
    from kbqa.chatglm.model import ChatGLM
    from kbqa.chatglm.passport import Passport
    from kbqa.tuning.trainer import Tuning

__all__ = ["Began", "Logged", "Outcome", "Stepped", "train", "tuning_of"]

PACKAGES = ("torch", "transformers", "accelerate", "safetensors", "matplotlib", "tensorboardX")
# Settings that may be others when a run goes on: they change nothing of what was learnt, or only how long it goes on.
# What lies where the paths lead must be the same, which the passport tells.
FREE = (
    *("max_steps", "early_stopping_patience", "save_total_limit", "overwrite_output_dir", "per_device_eval_batch_size"),
    *("output_dir", "model_name_or_path", "train_file", "validation_file"),
)


@dataclass(frozen=True, slots=True)
class Began:
    """`cut` and `dev_cut` count the rows that were longer than the limits. `learnt` parameters of `parameters`."""

    rows: int
    dev: int
    cut: int
    dev_cut: int
    steps: int
    step: int  # at which it goes on
    learnt: int
    parameters: int
    where: str  # precision and device


@dataclass(frozen=True, slots=True)
class Stepped:
    step: int


@dataclass(frozen=True, slots=True)
class Logged:
    step: int
    loss: float | None = None
    dev_loss: float | None = None
    learning_rate: float | None = None


Event = Began | Stepped | Logged


@dataclass(frozen=True, slots=True)
class Outcome:
    """`best` is the checkpoint with the smallest loss on the dev rows, None without such. Losses are the last."""

    last: Path
    best: Path | None
    step: int
    loss: float | None
    dev_loss: float | None
    stopped_early: bool
    seconds: float


def train(
    settings: Settings,
    *,
    resume: bool = False,
    template: str = DEFAULT_TEMPLATE,
    on_event: Callable[[Event], None] = lambda event: None,
) -> Outcome:
    """Runs to the end, or goes on with a run. `template` is that of config.yaml's prompts.

    ConfigError and ModelError for what cannot be meant, TuningError when the run has to stop.
    """
    packages = (*PACKAGES, "peft") if settings.method == "lora" else PACKAGES
    if missing := [name for name in packages if find_spec(name) is None]:
        raise TuningError(f"tuning needs more packages ({', '.join(missing)}); pip install 'kbqa[tune]'")
    rows, dev = _rows(settings)
    run = Path(settings.output_dir).expanduser().resolve()
    check_run(run, _told(settings), resume=resume, overwrite=settings.overwrite_output_dir)
    if resume and (done := checkpoints(run)[-1][0]) >= settings.max_steps:
        raise ConfigError(f"the run in {run} is done: it has {done} steps; raise max_steps to go on with it")
    try:
        return _Run(settings, run, rows, dev, template, on_event).go(newest(run) if resume else None)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise TuningError(
            "the memory does not suffice; say gradient_checkpointing: true, quantization_bit: 4, a smaller "
            "per_device_train_batch_size (and more gradient_accumulation_steps) or shorter rows"
        ) from error


def _told(settings: Settings) -> dict[str, Any]:
    return {name: value for name, value in asdict(settings).items() if name not in FREE}


def _rows(settings: Settings) -> tuple[list[Row], list[Row] | None]:
    columns = Columns(settings.prompt_column, settings.response_column, settings.history_column)
    rows = read_rows(Path(settings.train_file).expanduser(), columns)
    dev = settings.validation_file
    return rows, None if dev is None else read_rows(Path(dev).expanduser(), columns)


class _Run:
    def __init__(
        self,
        settings: Settings,
        run: Path,
        rows: Sequence[Row],
        dev: Sequence[Row] | None,
        template: str,
        on_event: Callable[[Event], None],
    ) -> None:
        self.settings, self.run, self.rows, self.dev = settings, run, rows, dev
        self.template, self.on_event = template, on_event

    def go(self, checkpoint: Path | None) -> Outcome:
        from transformers import set_seed

        from kbqa.tuning.passport import issue
        from kbqa.tuning.trainer import Following, NotANumber, Stopping, Tuner, arguments

        settings, start = self.settings, time.monotonic()
        glm, dtype, device = self._model()
        assert glm.folder is not None
        rows, dev = self._examples(glm, self.rows), self._examples(glm, self.dev or ())
        set_seed(settings.seed)
        tuning = tuning_of(settings, glm)
        step = int(checkpoint.name.partition("-")[2]) if checkpoint else 0
        passport = issue(settings, glm.folder, glm.architecture, dtype, self.rows, self.template)
        if checkpoint:
            _check_same(checkpoint, passport)
        else:
            begin_run(self.run, _told(settings))
        following = Following(self.run, step, self._logged, self._stepped)
        tuner = Tuner(
            tuning,
            glm.folder,
            passport,
            arguments(settings, self.run, device == "cpu", measured=self.dev is not None),
            rows,
            None if self.dev is None else dev,
            settings.save_total_limit,
            (following, Stopping(settings.early_stopping_patience)),
        )
        self.on_event(_began(settings, tuning, rows, dev, step, f"{dtype} on {device}"))
        try:
            tuner.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except NotANumber as error:
            remove(self.run / f"checkpoint-{tuner.state.global_step}")  # with what it holds the loss is no number
            raise TuningError(_why(str(error), settings, dtype, newest(self.run))) from error
        finally:
            following.close(tuner.state.log_history)
        return _outcome(self.run, tuner.state, settings, time.monotonic() - start)

    def _model(self) -> tuple[ChatGLM, str, str]:
        """The base as it is learnt beside: with weights restored exactly. Its precision, and the device."""
        import torch

        from kbqa.chatglm import load_chatglm
        from kbqa.chatglm.architecture import read_architecture
        from kbqa.chatglm.hub import find_model

        settings = self.settings
        device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        if device == "cuda" and not torch.cuda.is_available():
            raise ConfigError("device is cuda, but torch finds no CUDA device here; see `kbqa doctor`")
        folder = find_model(settings.model_name_or_path)
        architecture = read_architecture(folder, settings.family)
        usual: DType = "bfloat16" if device == "cpu" else architecture.dtype
        dtype = usual if settings.dtype == "auto" else settings.dtype
        bits = settings.quantization_bit or None
        glm = load_chatglm(folder, dtype, device, bits, family=settings.family, exact=True)
        twice = settings.gradient_checkpointing
        glm.decoder.checkpointing = device == "cuda" if twice is None else twice
        return glm, dtype, device

    def _examples(self, glm: ChatGLM, rows: Sequence[Row]) -> list[Example]:
        settings = self.settings
        limits = Limits(settings.max_source_length, settings.max_target_length)
        made = [example(glm.tokenizer, row, limits, settings.train_format) for row in rows]
        for number, it in enumerate(made, 1):
            if len(it.ids) > glm.architecture.context:
                raise ConfigError(
                    f"row {number} has {len(it.ids)} tokens within max_source_length and max_target_length, and the "
                    f"model's context is {glm.architecture.context}; lower them"
                )
            if all(label == NOT_COUNTED for label in it.labels):
                raise ConfigError(f"nothing of the answer of row {number} is left; raise max_target_length")
        return made

    def _stepped(self, step: int) -> None:
        self.on_event(Stepped(step))

    def _logged(self, step: int, figures: Mapping[str, float]) -> None:
        told = (figures.get(name) for name in ("loss", "eval_loss", "learning_rate"))
        self.on_event(Logged(step, *told))


def tuning_of(settings: Settings, glm: ChatGLM) -> Tuning:
    """What is learnt, beside the model; it begins with what ptuning_checkpoint holds, if that is named."""
    from kbqa.chatglm.passport import check_base
    from kbqa.tuning.lora import LoraTuning
    from kbqa.tuning.prefix import PrefixTuning

    tuning: Tuning
    if settings.method == "p-tuning":
        tuning = PrefixTuning(glm.decoder, settings.pre_seq_len, settings.prefix_projection, settings.prefix_dropout)
    else:
        rank, alpha = settings.lora_rank, settings.lora_alpha
        tuning = LoraTuning(glm.decoder, rank, alpha, settings.lora_dropout, settings.lora_targets)
    if settings.ptuning_checkpoint is not None:
        folder = Path(settings.ptuning_checkpoint).expanduser()
        tuning.load(folder)
        assert glm.folder is not None
        check_base(folder, glm.folder, lambda: glm.fingerprint)
    return tuning


def _check_same(checkpoint: Path, now: Passport) -> None:
    """ConfigError when the run that is to go on was of another model, or of other rows."""
    from kbqa.chatglm.passport import read_passport

    before = read_passport(checkpoint)
    for name, what in (("fingerprint", "weights of the base"), ("data", "rows")):
        if before and getattr(before, name) != getattr(now, name):
            raise ConfigError(f"{checkpoint} was trained with other {what}; begin a new run")


def _began(
    settings: Settings, tuning: Tuning, rows: Sequence[Example], dev: Sequence[Example], step: int, where: str
) -> Began:
    return Began(
        rows=len(rows),
        dev=len(dev),
        cut=sum(it.cut for it in rows),
        dev_cut=sum(it.cut for it in dev),
        steps=settings.max_steps,
        step=step,
        learnt=sum(it.numel() for it in tuning.parameters() if it.requires_grad),
        parameters=tuning.decoder.architecture.parameters,
        where=where,
    )


def _why(what: str, settings: Settings, dtype: str, whole: Path | None) -> str:
    remedies = [f"a learning_rate below {settings.rate:g}"]
    if dtype == "float16":
        remedies.append("dtype bfloat16 or float32, which hold larger numbers")
    kept = f"{whole} is the last good checkpoint" if whole else "no checkpoint had been saved yet"
    return f"training stopped: {what}. Try {', or '.join(remedies)}. {kept}"


def _outcome(run: Path, state: Any, settings: Settings, seconds: float) -> Outcome:
    from kbqa.tuning.trainer import best_step

    best = best_step(state.log_history, [step for step, _ in checkpoints(run)])

    def last(name: str) -> float | None:
        return next((it[name] for it in reversed(state.log_history) if name in it), None)

    return Outcome(
        last=run / f"checkpoint-{state.global_step}",
        best=None if best is None else run / f"checkpoint-{best}",
        step=state.global_step,
        loss=last("loss"),
        dev_loss=last("eval_loss"),
        stopped_early=state.global_step < settings.max_steps,
        seconds=seconds,
    )
