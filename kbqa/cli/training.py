"""kbqa tune train, promote, promoted, demote: from rows to what is served."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kbqa.cli.common import Command, FilePath, Session, pass_session, typed
from kbqa.cli.screen import complain, is_terminal, print_json, say, shown, table
from kbqa.config import as_argument
from kbqa.errors import ConfigError

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.registry import Adapter
    from kbqa.tuning.train import Began, Event, Outcome

__all__ = ["demote", "promote", "promoted", "train"]

MAX_DROP = 0.2  # as in kbqa.tuning.guard, which is not imported to show --help

# The settings of kbqa.tuning.settings, which a test holds against these: importing that for --help takes time.
OPTIONS: dict[str, tuple[Any, str]] = {
    "model_name_or_path": (str, "The base: a folder, or the id of a model that has been downloaded."),
    "train_file": (FilePath(), "Rows to learn, as `kbqa tune convert` makes them."),
    "validation_file": (FilePath(), "Rows to measure the loss on."),
    "prompt_column": (str, "What the field of prompts is called: content."),
    "response_column": (str, "What the field of answers is called: summary."),
    "history_column": (str, "What the field of earlier turns is called: history."),
    "output_dir": (FilePath(), "The folder of the run."),
    "overwrite_output_dir": (bool, "Remove the run that is there."),
    "method": (("p-tuning", "lora"), "p-tuning (a prefix), or lora."),
    "pre_seq_len": (int, "p-tuning: tokens of the prefix: 128."),
    "prefix_projection": (bool, "p-tuning: learn it through two layers."),
    "prefix_dropout": (float, "p-tuning: the share left out at random: 0.1."),
    "ptuning_checkpoint": (FilePath(), "Begin with what this checkpoint holds."),
    "lora_rank": (int, "lora: 8."),
    "lora_alpha": (int, "lora: 32."),
    "lora_dropout": (float, "lora: 0.1."),
    "lora_target": (str, "lora: query_key_value, dense, dense_h_to_4h, dense_4h_to_h, with commas between."),
    "max_source_length": (int, "Tokens of a prompt, the rest is cut: 256."),
    "max_target_length": (int, "Tokens of an answer: 256."),
    "train_format": (("multi-turn", "input-output"), "ChatGLM3, GLM-4: with roles, as they are asked; or bare."),
    "learning_rate": (float, "0.02 for a prefix, 0.0002 for lora."),
    "lr_scheduler_type": (("linear", "cosine", "constant", "constant_with_warmup"), "linear."),
    "warmup_steps": (int, "0."),
    "weight_decay": (float, "0."),
    "max_grad_norm": (float, "1."),
    "per_device_train_batch_size": (int, "1."),
    "per_device_eval_batch_size": (int, "1."),
    "gradient_accumulation_steps": (int, "16."),
    "max_steps": (int, "3000."),
    "logging_steps": (int, "10."),
    "save_steps": (int, "500."),
    "eval_steps": (int, "As save_steps."),
    "save_total_limit": (int, "How many checkpoints are kept, beside the best; else all."),
    "early_stopping_patience": (int, "Stop when the loss on validation_file did not fall so often; 0: never."),
    "quantization_bit": (("0", "4", "8"), "Of the base, while loading."),
    "dtype": (("auto", "float32", "float16", "bfloat16"), "Of the base; auto: as stored, on a CPU bfloat16."),
    "device": (("cpu", "cuda"), "Else a GPU if there is one."),
    "gradient_checkpointing": (bool, "Less memory for a third more time; else on a GPU."),
    "seed": (int, "42."),
    "family": (("chatglm", "chatglm2", "chatglm3", "glm4"), "Where the folder does not tell ChatGLM2 from ChatGLM3."),
}


def _settings_options(command: Any) -> Any:
    for name, (kind, help) in reversed(OPTIONS.items()):
        names = list(dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")))
        chosen = click.Choice(kind) if isinstance(kind, tuple) else kind
        if kind is bool:
            names = [f"{it}/--no-{it.removeprefix('--')}" for it in names]
        option = click.option(*names, name, type=None if kind is bool else chosen, default=None, help=help)
        command = option(command)
    return command


@click.command(cls=Command)
@click.argument("config", metavar="[CONFIG.yaml]", required=False, type=FilePath())
@click.option("--resume", is_flag=True, help="Go on with the run in output_dir from its newest checkpoint.")
@_settings_options
@pass_session
def train(session: Session, /, config: Path | None, resume: bool, **given: Any) -> None:
    """Tune a model on rows of questions and answers: a P-Tuning prefix, or LoRA.

    Settings stand in CONFIG.yaml, one `name: value` a line, or are options with the same names, which come first.
    """
    from kbqa.config import load_config
    from kbqa.tuning.settings import read_settings
    from kbqa.tuning.train import train as run

    options = {name: _plain(name, value) for name, value in given.items() if value is not None}
    settings = read_settings(config, options)
    template = load_config(session.home).prompt.template
    with _progress(session) as on_event:
        outcome = run(settings, resume=resume, template=template, on_event=on_event)
    if session.json:
        print_json({"summary": _outcome_fields(outcome)})
        return
    _show(outcome)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    return int(value) if name == "quantization_bit" else value


def _outcome_fields(outcome: Outcome) -> dict[str, Any]:
    best = None if outcome.best is None else str(outcome.best)
    return asdict(outcome) | {"last": str(outcome.last), "best": best}


def _show(outcome: Outcome) -> None:
    losses = [("loss", outcome.loss), ("dev loss", outcome.dev_loss)]
    told = ", ".join(f"{name} {value:.4f}" for name, value in losses if value is not None)
    early = ", stopped because the dev loss did not fall any more" if outcome.stopped_early else ""
    say(f"{outcome.step} steps in {_time(outcome.seconds)}{early}: {told}")
    say(f"the last checkpoint: {shown(str(outcome.last))}")
    best = outcome.best or outcome.last
    if best != outcome.last:
        say(f"the one with the smallest dev loss: {shown(str(best))}")
    folder = as_argument(shown(str(best)))
    say(f"next: kbqa tune evaluate BASE {folder} --data DEV.jsonl\n      kbqa tune promote NAME {folder}")


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


@contextmanager
def _progress(session: Session) -> Iterator[Callable[[Event], None]]:
    """A bar with loss and the time that is left; in a pipe a line for each step that is logged, or JSON."""
    from kbqa.tuning.train import Began, Logged, Stepped

    if session.json or not is_terminal(sys.stderr):

        def tell(event: Event) -> None:
            if session.json and isinstance(event, Began | Logged):
                print_json({"event": type(event).__name__.lower()} | asdict(event))
            elif isinstance(event, Began):
                _begin(event)
            elif isinstance(event, Logged) and (line := _figures(event)):
                complain(f"step {event.step}: {line}")

        yield tell
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True, markup=False)) as progress:
        task = progress.add_task("loading", total=None)
        seen: dict[str, str] = {}

        def show(event: Event) -> None:
            if isinstance(event, Began):
                _begin(event)
                progress.update(task, total=event.steps, completed=event.step, description="")
            elif isinstance(event, Stepped):
                progress.update(task, completed=event.step)
            elif event.loss is not None or event.dev_loss is not None:
                name, value = ("loss", event.loss) if event.loss is not None else ("dev loss", event.dev_loss)
                seen[name] = f"{name} {value:.4f}"
                progress.update(task, description=", ".join(seen.values()))

        yield show


def _begin(event: Began) -> None:
    rows = f"{event.rows} rows" + (f", {event.dev} to measure on" if event.dev else "")
    complain(f"{rows}; {event.learnt:,} numbers are learnt beside {event.parameters:,}, in {event.where}")
    if event.cut or event.dev_cut:
        complain(
            f"{event.cut + event.dev_cut} rows are longer than max_source_length or max_target_length and were cut",
            fg="yellow",
        )
    if event.step:
        complain(f"going on from step {event.step}")


def _figures(event: Any) -> str:
    named = (("loss", event.loss), ("dev loss", event.dev_loss), ("learning rate", event.learning_rate))
    return ", ".join(f"{name} {value:.4g}" for name, value in named if value is not None)


# --- serving ----------------------------------------------------------------------------------------------------------


@click.command(cls=Command)
@click.argument("name", type=typed)
@click.argument("checkpoint", type=FilePath())
@click.option("--default", is_flag=True, help="Answer with it wherever nobody names another.")
@click.option(
    "--max-drop", type=click.FloatRange(0, 1), default=MAX_DROP, show_default=True, help="How much it may have forgot."
)
@click.option("--force", is_flag=True, help="Even when it forgot more, or nobody measured it.")
@pass_session
def promote(session: Session, name: str, checkpoint: Path, default: bool, max_drop: float, force: bool) -> None:
    """Serve what was tuned in the folder CHECKPOINT beside the model of config.yaml, as NAME.

    Requests name it as the model chatglm:NAME; a running service has it from the next request on.
    """
    from kbqa.tuning.promote import promote as served

    installation = session.installation()
    config = installation.config
    with installation.adapters() as adapters:
        made = served(
            adapters,
            name,
            checkpoint,
            _base(installation),
            family=config.generator.family,
            template=config.prompt.template,
            max_drop=max_drop,
            default=default,
            force=force,
        )
    for note in made.notes:
        complain(f"note: {shown(note)}", fg="yellow")
    if session.json:
        print_json({**_adapter_fields(made.adapter), "drop": made.drop, "notes": list(made.notes)})
        return
    forgot = "" if made.drop is None else f", having forgotten {made.drop:.2f}"
    say(f"chatglm:{shown(name)} is served{forgot}" + (", and by default" if default else ""))


def _base(installation: Installation) -> Path:
    from kbqa.chatglm.hub import find_model

    config = installation.config.generator
    if config.kind != "chatglm" or not config.model:
        raise ConfigError(
            "config.yaml names no ChatGLM that it could be served with: say generator.kind: chatglm and generator.model"
        )
    local = installation.home.folder / config.model
    return find_model(local if local.is_dir() else config.model)


@click.command(cls=Command)
@pass_session
def promoted(session: Session) -> None:
    """List what is served beside the model."""
    with session.installation().adapters() as adapters:
        found = adapters.all()
    if session.json:
        print_json({"adapters": [_adapter_fields(it) for it in found]})
    elif not found:
        say("there are none; `kbqa tune promote NAME CHECKPOINT` serves one")
    else:
        rows = [
            (f"chatglm:{it.name}", it.method, it.base or "unknown", _moment(it), "yes" if it.default else "")
            for it in found
        ]
        table(("model", "method", "tuned on", "promoted", "default"), rows, header=True)


@click.command(cls=Command)
@click.argument("name", type=typed)
@pass_session
def demote(session: Session, name: str) -> None:
    """Serve NAME no longer; the checkpoint it came from stays."""
    with session.installation().adapters() as adapters:
        gone = adapters.demote(name)
    if session.json:
        print_json({"demoted": gone.name})
    else:
        say(f"chatglm:{shown(gone.name)} is served no longer")


def _adapter_fields(adapter: Adapter) -> dict[str, Any]:
    return {
        "name": adapter.name,
        "model": f"chatglm:{adapter.name}",
        "method": adapter.method,
        "base": adapter.base or None,
        "source": adapter.source,
        "default": adapter.default,
        "promoted_at": _moment(adapter),
    }


def _moment(adapter: Adapter) -> str:
    return datetime.fromtimestamp(adapter.promoted_at).astimezone().isoformat(timespec="seconds")
