"""How the loss fell: as a picture, and as events for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["EVENTS", "PICTURE", "Events", "draw"]

PICTURE = "loss.png"
EVENTS = "runs"


def draw(run: Path, history: Sequence[Mapping[str, Any]]) -> None:
    """`loss.png` in the folder of the run; `history` is what the Trainer logged."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    for name, label, mark in (("loss", "training rows", ""), ("eval_loss", "dev rows", "o")):
        steps = [it["step"] for it in history if name in it]
        if steps:
            axes.plot(steps, [it[name] for it in history if name in it], label=label, marker=mark, linewidth=1.2)
    axes.grid(alpha=0.3)
    axes.legend()
    partial = run / f".{PICTURE}"
    figure.savefig(partial, format="png", dpi=120)
    partial.replace(run / PICTURE)


class Events:
    """Writes what is logged below `runs` in the folder of the run; `begin` is the step at which it goes on."""

    def __init__(self, run: Path, begin: int) -> None:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        self._writer = SummaryWriter(str(run / EVENTS), purge_step=begin or None)

    def write(self, step: int, figures: Mapping[str, Any]) -> None:
        names = {
            "loss": "loss/train",
            "eval_loss": "loss/dev",
            "learning_rate": "learning_rate",
            "grad_norm": "grad_norm",
        }
        for name, tag in names.items():
            if name in figures:
                self._writer.add_scalar(tag, figures[name], step)

    def close(self) -> None:
        self._writer.close()
