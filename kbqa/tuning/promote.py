"""From a checkpoint to what is served: it must fit the model that answers, and have forgotten little."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kbqa.chatglm.architecture import Architecture, Family, read_architecture
from kbqa.chatglm.lora import ADAPTER_CONFIG, ADAPTER_WEIGHTS, is_lora, load_lora
from kbqa.chatglm.passport import FILE, Passport, check_base, fingerprint
from kbqa.chatglm.prefix import load_prefix
from kbqa.errors import ConfigError, ModelError
from kbqa.registry.adapters import Adapter, Adapters
from kbqa.tuning.guard import EVALUATION, check_forgetting, weights_digest

__all__ = ["Promoted", "promote"]

KEPT = ("pytorch_model.bin", "config.json", ADAPTER_WEIGHTS, "adapter_model.bin", ADAPTER_CONFIG, FILE, EVALUATION)
DIGITS = 12  # of the digest that names a folder


@dataclass(frozen=True, slots=True)
class Promoted:
    """`drop` is what it forgot, None where that is not known; `notes` are what a person should know."""

    adapter: Adapter
    passport: Passport | None
    drop: float | None
    notes: tuple[str, ...]


def promote(
    adapters: Adapters,
    name: str,
    checkpoint: Path,
    base: Path,
    *,
    family: Family | None = None,
    template: str = "",
    max_drop: float,
    default: bool = False,
    force: bool = False,
) -> Promoted:
    """Makes `checkpoint` the adapter `name` beside the model in `base`, of which `template` fills the prompts.

    ModelError when it was tuned on another model. ConfigError when the name cannot be, and when it forgot more than
    `max_drop`, or nobody measured that, which `force` lets pass.
    """
    if name == base.name:
        raise ConfigError(f"{name} is what the model itself is called (chatglm:{name}); choose another name")
    if not checkpoint.is_dir():
        raise ConfigError(f"there is no folder {checkpoint}")
    notes: list[str] = []
    passport = _checked(checkpoint, base, read_architecture(base, family), notes.append)
    if passport and passport.template and passport.template != template:
        notes.append("its rows with passages were filled by another prompt.template than config.yaml has now")
    if passport and passport.train_format == "input-output":
        notes.append("it was tuned on bare prompts (train_format input-output), and is asked in messages with roles")
    drop, said = _forgotten(checkpoint, max_drop, force)
    notes += said
    files = [checkpoint / it for it in KEPT if (checkpoint / it).is_file()]
    adapter = adapters.promote(
        name,
        files,
        weights_digest(checkpoint)[:DIGITS],
        method="lora" if is_lora(checkpoint) else "p-tuning",
        base=passport.base if passport else "",
        source=str(checkpoint.resolve()),
        default=default,
    )
    return Promoted(adapter, passport, drop, tuple(notes))


def _checked(checkpoint: Path, base: Path, a: Architecture, warn: Callable[[str], object]) -> Passport | None:
    """The passport, after the shapes were found to fit."""
    if is_lora(checkpoint):
        load_lora(checkpoint, a)
    else:
        try:
            load_prefix(checkpoint, a)
        except ModelError as error:
            runs = sorted(path.name for path in checkpoint.glob("checkpoint-*"))
            hint = f"; name one of its checkpoints, such as {checkpoint / runs[-1]}" if runs else ""
            raise ModelError(f"{error}{hint}") from error
    return check_base(checkpoint, base, lambda: fingerprint(base), warn)


def _forgotten(checkpoint: Path, max_drop: float, force: bool) -> tuple[float | None, list[str]]:
    """How much, as far as that is known, and what there is to say of it."""
    try:
        return check_forgetting(checkpoint, max_drop).drop, []
    except ConfigError as error:
        if not force:
            raise ConfigError(f"{error}; --force promotes it all the same") from error
        return None, [f"{error}; promoted all the same"]
