"""What a tuned prefix or adapter says about itself, and whether it belongs to a model: passport.json beside it.

A model is recognized by its norms. They are small, no release changes them and no way of storing weights rounds them,
so that a model brought to 8 or 4 bits, or converted, is still the one that was tuned.

Checkpoints of other trainers have no passport. They are loaded where their shapes fit, and a line in the log says so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from kbqa.chatglm.checkpoint import Checkpoint, place_of, tensors_of
from kbqa.chatglm.writing import write_json
from kbqa.errors import ModelError

__all__ = ["FILE", "Method", "Passport", "check_base", "fingerprint", "read_passport", "write_passport"]

FILE = "passport.json"
FORMAT = 1
Method = Literal["p-tuning", "lora"]

log = logging.getLogger("kbqa.chatglm")


@dataclass(frozen=True, slots=True)
class Passport:
    """`base` is the folder's name, for people; `fingerprint` tells which model it was."""

    method: Method
    base: str
    fingerprint: str
    family: str
    train_format: str = ""  # of families in which messages have roles
    template: str = ""  # of prompts with passages, where the rows had such
    pre_seq_len: int | None = None
    prefix_projection: bool | None = None
    lora_rank: int | None = None
    quantization_bit: int | None = None  # of the base while it was trained
    dtype: str = ""
    step: int = 0
    rows: int = 0
    data: str = ""  # digest of the rows
    dev_loss: float | None = None
    versions: dict[str, str] = field(default_factory=dict)
    format: int = FORMAT


def fingerprint(folder: Path) -> str:
    """Of the model in `folder`, in whatever form its weights are."""
    norms = {}
    for path in Checkpoint(folder).files:
        for name, tensor in tensors_of(path, _is_norm):
            place = place_of(name)
            assert place is not None
            norms[place.name] = tensor.float().numpy().tobytes()
    digest = sha256()
    for name in sorted(norms):
        digest.update(name.encode() + b"\0" + norms[name])
    return digest.hexdigest()


def _is_norm(name: str) -> bool:
    try:
        place = place_of(name)
    except KeyError:
        return False
    return place is not None and "norm." in place.name


def write_passport(folder: Path, passport: Passport) -> None:
    write_json(folder / FILE, asdict(passport))


def read_passport(folder: Path) -> Passport | None:
    """None when there is none. ModelError when it cannot be read, or is of a newer kbqa."""
    path = folder / FILE
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ModelError(f"{path} is not one that this kbqa knows; was it written by a newer one?")
    known: dict[str, Any] = {it.name: said[it.name] for it in fields(Passport) if it.name in said}
    try:
        return Passport(**known)
    except TypeError as error:
        raise ModelError(f"{path} is incomplete: {error}") from error


def check_base(
    folder: Path, base: Path, its_fingerprint: Callable[[], str], warn: Callable[[str], object] = log.warning
) -> Passport | None:
    """The passport of what was tuned and lies in `folder`; ModelError when that was another model than `base`.

    To be asked after its shapes were found to fit. `warn` hears of one without a passport.
    """
    passport = read_passport(folder)
    if passport is None:
        warn(f"{folder} has no {FILE}: nothing tells which model it was tuned on; it fits {base.name} in shape")
        return None
    if passport.fingerprint != (found := its_fingerprint()):
        raise ModelError(
            f"{folder} was tuned on {passport.base} ({passport.family}, {passport.fingerprint[:12]}), and this is "
            f"{base.name} ({found[:12]}), another model; name that one as the model, or tune this one"
        )
    return passport
