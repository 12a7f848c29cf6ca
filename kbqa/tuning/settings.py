"""How a model is tuned, under the names that the original trainers' options have: a file of YAML, or options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_type_hints

from kbqa.chatglm.architecture import Family
from kbqa.config import checked_settings
from kbqa.errors import ConfigError
from kbqa.yamlfile import read_yaml

__all__ = ["Settings", "read_settings"]

LORA_TARGETS = {"query_key_value": "qkv", "dense": "out", "dense_h_to_4h": "up", "dense_4h_to_h": "down"}

# Options of the originals that have no counterpart here, each with the reason why.
_WITHOUT_NEED = dict.fromkeys(
    ("do_train", "do_eval", "do_predict", "overwrite_cache", "predict_with_generate", "preprocessing_num_workers"),
    "it is not needed here; leave it out",
)
_OTHERWISE = _WITHOUT_NEED | {
    "deepspeed": "full fine-tuning with DeepSpeed (ds_train_finetune.sh) is not supported; --method lora trains more "
    "than a prefix does on one GPU",
    "fp16": "say dtype: float16 instead",
    "bf16": "say dtype: bfloat16 instead",
    "max_seq_length": "say max_source_length and max_target_length instead",
    "num_train_epochs": "say max_steps instead",
}


@dataclass(frozen=True, slots=True)
class Settings:
    """Where nothing else is said, the figures are those of the original's train.sh."""

    model_name_or_path: str = ""  # the folder of the base, or the id of one that has been downloaded
    train_file: str = ""  # JSON lines, as `kbqa tune convert` makes them
    validation_file: str | None = None  # rows whose loss is measured, and never learnt from
    prompt_column: str = "content"
    response_column: str = "summary"
    history_column: str = "history"
    output_dir: str = ""
    overwrite_output_dir: bool = False  # remove the run that is there
    method: Literal["p-tuning", "lora"] = "p-tuning"
    pre_seq_len: int = 128  # p-tuning: tokens of the prefix
    prefix_projection: bool = False  # p-tuning: learn them through two layers that they share
    prefix_dropout: float = 0.1  # p-tuning: the share of the prefix that is left out at random
    ptuning_checkpoint: str | None = None  # p-tuning, lora: begin with what this one holds
    lora_rank: int = 8
    lora_alpha: int = 32
    lora_dropout: float = 0.1
    lora_target: str = "query_key_value"  # of query_key_value, dense, dense_h_to_4h, dense_4h_to_h, with commas between
    max_source_length: int = 256  # tokens of a prompt; what is longer is cut, and counted
    max_target_length: int = 256  # tokens of an answer
    train_format: Literal["multi-turn", "input-output"] = "multi-turn"  # ChatGLM3, GLM-4: with roles, as they are asked
    learning_rate: float | None = None  # None: 0.02 for a prefix, 0.0002 for LoRA
    lr_scheduler_type: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    per_device_train_batch_size: int = 1
    per_device_eval_batch_size: int = 1
    gradient_accumulation_steps: int = 16
    max_steps: int = 3000
    logging_steps: int = 10
    save_steps: int = 500
    eval_steps: int | None = None  # None: as save_steps
    save_total_limit: int | None = None  # the newest checkpoints, and the best; None: all
    early_stopping_patience: int = 0  # stop when the loss on validation_file did not fall so often; 0: never
    quantization_bit: Literal[0, 4, 8] = 0  # of the base, while loading
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = (
        "auto"  # of the base; auto: as it is stored, on a CPU bfloat16
    )
    device: Literal["cpu", "cuda"] | None = None  # None: a GPU if there is one
    gradient_checkpointing: bool | None = None  # less memory, a third more time; None: on a GPU
    seed: int = 42
    family: Family | None = None  # where nothing in the folder tells ChatGLM2 from ChatGLM3

    def __post_init__(self) -> None:
        for name in ("model_name_or_path", "train_file", "output_dir"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is missing; say it in the file, or as --{name}")
        _check_ranges(self)
        if unknown := set(self.lora_targets) - set(LORA_TARGETS):
            raise ConfigError(f"lora_target {min(unknown)!r} is no layer; there are: {', '.join(LORA_TARGETS)}")

    @property
    def rate(self) -> float:
        return {"p-tuning": 2e-2, "lora": 2e-4}[self.method] if self.learning_rate is None else self.learning_rate

    @property
    def lora_targets(self) -> list[str]:
        return [name.strip() for name in self.lora_target.split(",") if name.strip()]


_LEAST: Mapping[str, float] = {
    "pre_seq_len": 1,
    "lora_rank": 1,
    "lora_alpha": 1,
    "max_source_length": 4,
    "max_target_length": 3,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "max_steps": 1,
    "logging_steps": 1,
    "save_steps": 1,
    "eval_steps": 1,
    "save_total_limit": 1,
    "early_stopping_patience": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "learning_rate": 0,
    "seed": 0,
}


def _check_ranges(settings: Settings) -> None:
    for name, least in _LEAST.items():
        value = getattr(settings, name)
        if value is not None and not least <= value < float("inf"):
            raise ConfigError(f"{name} is {value}; it must be {least:g} or more")
    for name in ("prefix_dropout", "lora_dropout"):
        if not 0 <= getattr(settings, name) < 1:
            raise ConfigError(f"{name} is {getattr(settings, name)}; it must be from 0 to below 1")
    if settings.early_stopping_patience and settings.validation_file is None:
        raise ConfigError("early_stopping_patience needs a validation_file, on which to see when to stop")


def read_settings(path: Path | None, options: Mapping[str, Any]) -> Settings:
    """Those of the file, if one is given, and `options` before them. ConfigError names what is unknown or wrong.

    Paths in the file are relative to the folder in which it lies.
    """
    given: dict[str, Any] = {}
    if path is not None:
        if not path.is_file():
            raise ConfigError(f"there is no file {path}")
        given = {name: _below(path.parent, name, value) for name, value in read_yaml(path).items()}
    where = "the options" if path is None else path.name
    given |= options
    _check_names(where, given)
    hints = get_type_hints(Settings)
    numbers = {name: _number(value) for name, value in given.items() if float in _kinds(hints[name])}
    settings: Settings = checked_settings(where, Settings, given | numbers)
    return settings


def _below(folder: Path, name: str, value: Any) -> Any:
    if not value or not isinstance(value, str):
        return value
    if name in ("train_file", "validation_file", "output_dir", "ptuning_checkpoint"):
        return str(folder / Path(value).expanduser())
    if name == "model_name_or_path" and (folder / value).is_dir():
        return str(folder / value)
    return value


def _check_names(where: str, given: Mapping[str, Any]) -> None:
    known = [it.name for it in fields(Settings)]
    unknown = [name for name in given if name not in known]
    if not unknown:
        return
    said = []
    for name in unknown:
        near = get_close_matches(name, known, 1)
        said.append(f"{name} ({_OTHERWISE.get(name) or (f'did you mean {near[0]}?' if near else 'unknown')})")
    raise ConfigError(f"{where} has settings that there are not: {', '.join(said)}; there are: {', '.join(known)}")


def _kinds(hint: Any) -> tuple[Any, ...]:
    return getattr(hint, "__args__", (hint,))


def _number(value: Any) -> Any:
    """YAML takes 2e-2, which everybody writes, for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
