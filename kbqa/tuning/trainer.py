"""The Trainer of transformers, taught what a checkpoint is here, and to stop when a loss is no number."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from kbqa.chatglm.passport import Passport, write_passport
from kbqa.errors import TuningError
from kbqa.importing import one_line
from kbqa.tuning.batch import collate
from kbqa.tuning.curve import Events, draw
from kbqa.tuning.lora import LoraTuning
from kbqa.tuning.optimizer import AdamW
from kbqa.tuning.prefix import PrefixTuning
from kbqa.tuning.preprocess import Example
from kbqa.tuning.saving import checkpoints, newest, remove, written_whole
from kbqa.tuning.settings import Settings

__all__ = ["Following", "NotANumber", "Stopping", "Tuner", "Tuning", "arguments", "best_step"]

PICTURE_SECONDS = 10  # between two pictures of one run
Tuning = PrefixTuning | LoraTuning


def arguments(settings: Settings, run: Path, on_cpu: bool, measured: bool) -> TrainingArguments:
    """As the Trainer wants to hear it; `measured`: there are rows to measure the loss on."""
    return TrainingArguments(
        output_dir=str(run),
        learning_rate=settings.rate,
        lr_scheduler_type=settings.lr_scheduler_type,
        warmup_steps=settings.warmup_steps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        per_device_eval_batch_size=settings.per_device_eval_batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        max_steps=settings.max_steps,
        logging_steps=settings.logging_steps,
        save_steps=settings.save_steps,
        eval_strategy="steps" if measured else "no",
        eval_steps=settings.eval_steps or settings.save_steps,
        metric_for_best_model="eval_loss" if measured else None,
        greater_is_better=False if measured else None,
        prediction_loss_only=True,
        seed=settings.seed,
        use_cpu=on_cpu,
        dataloader_pin_memory=not on_cpu,
        remove_unused_columns=False,
        label_names=["labels"],
        logging_nan_inf_filter=False,
        disable_tqdm=True,
        report_to="none",
        log_level="error",
    )


class Tuner(Trainer):
    """Trains `model`, whose base is in the folder `base`, and keeps it in checkpoints of the original's layout."""

    def __init__(
        self,
        model: Tuning,
        base: Path,
        passport: Passport | None,
        args: TrainingArguments,
        rows: Sequence[Example],
        dev: Sequence[Example] | None,
        limit: int | None = None,
        callbacks: Sequence[TrainerCallback] = (),
    ) -> None:
        """At most `limit` checkpoints are kept, and the best beside them."""
        super().__init__(
            model=model,
            args=args,
            data_collator=partial(collate, a=model.decoder.architecture),
            train_dataset=list(rows),
            eval_dataset=None if dev is None else list(dev),
            callbacks=[_Numbers(), *callbacks],
            optimizer_cls_and_kwargs=(AdamW, {"lr": args.learning_rate}),
        )
        self.remove_callback(PrinterCallback)
        self.tuning, self.base, self.passport, self.limit = model, base, passport, limit
        self.run = Path(str(args.output_dir))
        self._folder = self.run  # in which checkpoints are written
        self.model_accepts_loss_kwargs = False  # a step's loss is the mean of its batches', as in the original

    def training_step(self, *given: Any, **named: Any) -> Tensor:
        loss = super().training_step(*given, **named)
        if not bool(torch.isfinite(loss)):
            raise NotANumber(f"the loss at step {self.state.global_step + 1} is {loss.item()}")
        return loss

    # --- checkpoints ---------------------------------------------------------------------------------------------

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Beside its place first; the Trainer writes files one by one where it stands."""
        folder = self.run / f"checkpoint-{self.state.global_step}"
        try:
            with written_whole(folder) as partial:
                self._folder = partial.parent
                super()._save_checkpoint(model, trial)
                if self.state.best_global_step:
                    self.state.best_model_checkpoint = str(self.run / f"checkpoint-{self.state.best_global_step}")
                self.state.save_to_json(str(partial / TRAINER_STATE_NAME))
        except (OSError, RuntimeError, SafetensorError) as error:  # torch has no class of its own for a full disk
            whole = newest(self.run)
            kept = f"{whole.name} is whole: --resume goes on from there" if whole else "there is none before it"
            full = "" if isinstance(error, OSError) else "is its disk full? "  # the others do not say so
            raise TuningError(f"{folder} could not be written ({one_line(error)[:200]}); {full}{kept}") from error
        finally:
            self._folder = self.run
        self._forget_old()

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.run)
        folder.mkdir(parents=True, exist_ok=True)
        wrong = [name for name, tensor in self.tuning.tensors().items() if not bool(torch.isfinite(tensor).all())]
        if wrong:
            raise NotANumber(f"{wrong[0]} holds what is no number after step {self.state.global_step}")
        self.tuning.save(folder, self.base)
        if self.passport:
            step = self.state.global_step
            dev_loss = _dev_losses(self.state.log_history).get(step)
            write_passport(folder, replace(self.passport, step=step, dev_loss=dev_loss))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.tuning.load(Path(resume_from_checkpoint))

    def _forget_old(self) -> None:
        found = checkpoints(self.run)
        best = best_step(self.state.log_history, [step for step, _ in found])
        for step, folder in found[: -self.limit] if self.limit else ():
            if step != best:
                remove(folder)


def best_step(history: Iterable[Mapping[str, Any]], saved: Collection[int]) -> int | None:
    """At which of the saved ones the loss on the dev rows was the smallest: it is measured at other steps too."""
    losses = {step: loss for step, loss in _dev_losses(history).items() if step in saved}
    return min(losses, key=losses.__getitem__, default=None)


def _dev_losses(history: Iterable[Mapping[str, Any]]) -> dict[int, float]:
    """By step."""
    return {it["step"]: it["eval_loss"] for it in history if "eval_loss" in it}


class NotANumber(TuningError):
    """Learning has run away."""


class _Numbers(TrainerCallback):
    """A gradient that is no number would make the prefix one."""

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        gradients = [it.grad for it in model.parameters() if it.requires_grad and it.grad is not None]
        if not all(bool(torch.isfinite(it).all()) for it in gradients):
            raise NotANumber(f"the gradient at step {state.global_step + 1} is no number")


class Stopping(TrainerCallback):
    """Ends the run when the loss on the dev rows did not fall `patience` times in a row.

    Looks at what was logged, which a checkpoint brings back, so that a run that goes on stops where it would have.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        losses = [it["eval_loss"] for it in state.log_history if "eval_loss" in it]
        best = min(range(len(losses)), key=losses.__getitem__, default=0)
        if losses and not all(map(math.isfinite, losses)):
            raise NotANumber(f"the loss on the dev rows at step {state.global_step} is {losses[-1]}")
        if self._patience and len(losses) - 1 - best >= self._patience:
            control.should_training_stop = control.should_save = True


class Following(TrainerCallback):
    """Tells what happens to who waits, to TensorBoard, and in a picture of the loss."""

    def __init__(
        self, run: Path, begin: int, logged: Callable[[int, Mapping[str, float]], None], stepped: Callable[[int], None]
    ) -> None:
        self._run, self._logged, self._stepped = run, logged, stepped
        self._events = Events(run, begin)
        self._drawn = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._stepped(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self._events.write(state.global_step, logs)
        self._logged(state.global_step, logs)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if time.monotonic() - self._drawn > PICTURE_SECONDS:
            self._draw(state.log_history)

    def close(self, history: Sequence[Mapping[str, Any]]) -> None:
        with suppress(OSError):
            self._events.close()
        self._draw(history)

    def _draw(self, history: Sequence[Mapping[str, Any]]) -> None:
        """A picture that cannot be written, on a full disk for example, is no reason to stop; nor hides what is."""
        with suppress(OSError):
            draw(self._run, history)
        self._drawn = time.monotonic()
