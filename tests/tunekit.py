"""Tiny models to tune, rows to tune them on, and settings for runs of seconds."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import glmkit  # noqa: F401  (one thread)

from kbqa.chatglm.architecture import Family
from kbqa.chatglm.tiny import make_tiny
from kbqa.tuning import Row, write_rows
from kbqa.tuning.settings import Settings
from kbqa.tuning.train import Event, Logged

NAMES = ("温度传感器", "智能网关", "激光测距仪", "无线摄像头")
# In the style of ADGEN: what there is to say, and how it is said.
ROWS = [
    Row(f"类型#{name}*数量#{number}", f"{name}有{number}个，价格是{number}元。")
    for name in NAMES
    for number in ("3", "5", "8", "10", "15", "24", "60", "90")
]


@cache
def base(family: Family, seed: int = 0) -> Path:
    """The folder of a tiny model with random weights."""
    folder = Path(mkdtemp(prefix="kbqa-tune-")) / f"tiny-{family}-{seed}"
    make_tiny(family, folder, seed=seed)
    return folder


def settings(run: Path, family: Family = "chatglm3", rows=ROWS, dev=None, **more) -> Settings:
    """A run in the folder `run`; the rows lie beside it."""
    given = {
        "model_name_or_path": str(base(family)),
        "train_file": _file(run, "train", rows),
        "validation_file": dev and _file(run, "dev", dev),
        "output_dir": str(run),
        "pre_seq_len": 8,
        "prefix_dropout": 0.0,
        "lora_dropout": 0.0,
        "learning_rate": 0.05,
        "max_steps": 8,
        "save_steps": 4,
        "logging_steps": 1,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "gradient_accumulation_steps": 1,
        "dtype": "float32",
        "device": "cpu",
    }
    return Settings(**(given | more))


def _file(run: Path, name: str, rows: list[Row]) -> str:
    path = run.with_name(f"{run.name}.{name}.jsonl")
    path.unlink(missing_ok=True)
    write_rows(path, rows)
    return str(path)


class Losses:
    """Listens to a run: `train` and `dev` are (step, loss)."""

    def __init__(self) -> None:
        self.train: list[tuple[int, float]] = []
        self.dev: list[tuple[int, float]] = []
        self.seen: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.seen.append(event)
        if isinstance(event, Logged):
            if event.loss is not None:
                self.train.append((event.step, event.loss))
            if event.dev_loss is not None:
                self.dev.append((event.step, event.dev_loss))
