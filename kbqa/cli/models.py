"""kbqa model: look at ChatGLM models, fetch them, change their form, make tiny ones to try things with."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from kbqa.cli.common import FilePath, Group, Session, pass_session
from kbqa.cli.screen import complain, print_json, say, shown

if TYPE_CHECKING:
    from kbqa.chatglm.architecture import Family
    from kbqa.chatglm.info import Machine, ModelInfo, Need

__all__ = ["models"]

FAMILIES = ("chatglm", "chatglm2", "chatglm3", "glm4")
TRAINED = {"layers": 2, "hidden": 128, "steps": 400}  # what `make-tiny --train` makes: about a minute on two cores

family_option = click.option(
    "--family",
    type=click.Choice(FAMILIES),
    help="Needed only where nothing in the folder tells ChatGLM2 from ChatGLM3.",
)


@click.group("model", cls=Group)
def models() -> None:
    """ChatGLM models: look at, download, quantize, convert, make.

    A model is a folder, or an id (perhaps with @revision) that ModelScope's or Hugging Face's client has downloaded.
    """


# --- info ------------------------------------------------------------------------------------------------------------


@models.command()
@click.argument("model", metavar="PATH")
@family_option
@pass_session
def info(session: Session, model: str, family: str | None) -> None:
    """Say what the model in PATH is, and whether it fits this machine."""
    from kbqa.chatglm.hub import find_model
    from kbqa.chatglm.info import this_machine, what_is

    found = what_is(find_model(model), cast("Family | None", family))
    machine = this_machine()
    if session.json:
        print_json(_info_fields(found, machine))
        return
    a = found.architecture
    stored = f"quantized to {a.bits} bits" if a.bits else a.dtype
    say(f"{shown(str(found.folder))}: {a.family}, {_billions(a.parameters)} parameters, {stored}", bold=True)
    heads = f"{a.heads} heads" if a.groups == a.heads else f"{a.heads} heads in {a.groups} groups"
    say(f"  {a.layers} layers of {a.hidden}, {heads}, {a.vocabulary:,} tokens, a context of {a.context:,}")
    if found.trouble:
        complain(f"  its weights cannot be loaded: {shown(found.trouble)}", fg="yellow")
    else:
        many = len(found.files)
        size = _size(sum(size for _, size in found.files))
        say(f"  {many} {'file' if many == 1 else 'files'} of weights, {size}")
    say()
    say(f"  memory, with {_size(machine.memory)} in this machine:")
    for need in found.needs:
        _show_need(need, a.context, machine)


def _show_need(need: Need, context: int, machine: Machine) -> None:
    fit = [f"this machine {_verdict(need, machine.memory)}"] if machine.memory else []
    fit += [f"{name} ({_size(size)}) {_verdict(need, size)}" for name, size in machine.gpus]
    say(
        f"  {need.bits:2} bits: {_size(need.total)} = weights {_size(need.weights)}, {context:,} tokens "
        f"{_size(need.cache)}, and what surrounds them; {'; '.join(fit)}"
    )


def _verdict(need: Need, there: int) -> str:
    if need.total <= there:
        return "has it"
    return "has it for short contexts" if need.least <= there else "has too little"


def _info_fields(found: ModelInfo, machine: Machine) -> dict[str, Any]:
    a = found.architecture
    return {
        "path": str(found.folder),
        "family": a.family,
        "layout": a.layout,
        "parameters": a.parameters,
        "dtype": a.dtype,
        "quantization": a.bits,
        "context": a.context,
        "layers": a.layers,
        "hidden": a.hidden,
        "vocabulary": a.vocabulary,
        "files": [{"name": name, "bytes": size} for name, size in found.files],
        "trouble": found.trouble or None,
        "needs": [
            asdict(need)
            | {
                "total": need.total,
                "fits": need.total <= machine.memory,
                "fits_short": need.least <= machine.memory,
                "gpus": [need.total <= size for _, size in machine.gpus],
            }
            for need in found.needs
        ],
        "memory": machine.memory,
        "gpus": [{"name": name, "memory": size} for name, size in machine.gpus],
    }


def _billions(count: int) -> str:
    return f"{count / 1e9:.2f} billion" if count >= 1e8 else f"{count / 1e6:.2f} million"


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 / 10 else f"{count / 2**20:.1f} MiB"


# --- fetching and changing -------------------------------------------------------------------------------------------


@models.command()
@click.argument("identifier", metavar="ID")
@click.argument("folder", metavar="DIR", type=FilePath())
@click.option(
    "--from",
    "source",
    type=click.Choice(["modelscope", "huggingface"]),
    default="modelscope",
    show_default=True,
    help="Where the id is known.",
)
@click.option("--revision", metavar="REV", help="A branch, tag or commit; else the newest.")
@pass_session
def download(session: Session, identifier: str, folder: Path, source: str, revision: str | None) -> None:
    """Fetch the model ID into DIR, with the client of the place itself (pip install 'kbqa[hub]').

    The one command of `kbqa model` that uses the network. Interrupted, it goes on where it was.
    """
    from kbqa.chatglm.hub import Source, download

    download(identifier, folder, cast("Source", source), revision)
    if session.json:
        print_json({"id": identifier, "from": source, "revision": revision, "path": str(folder)})
    else:
        say(f"{identifier} is in {shown(str(folder))}; kbqa model info {shown(str(folder))} says what it takes")


@models.command()
@click.argument("model", metavar="IN")
@click.argument("out", metavar="OUT", type=FilePath())
@click.option("--bits", type=click.Choice(["4", "8"]), required=True, help="Of each weight of the linear layers.")
@family_option
@pass_session
def quantize(session: Session, model: str, out: Path, bits: str, family: str | None) -> None:
    """Write the model IN with weights of 4 or 8 bits into the new folder OUT, as the quantized releases are."""
    from kbqa.chatglm.hub import find_model
    from kbqa.chatglm.requantize import quantize_folder

    source = find_model(model)
    number = 4 if bits == "4" else 8
    a = quantize_folder(source, out, cast("Any", number), cast("Family | None", family))
    _report(session, {"path": str(out), "family": a.family, "bits": number}, out)


@models.command()
@click.argument("model", metavar="IN")
@click.argument("out", metavar="OUT", type=FilePath())
@click.option(
    "--dtype",
    type=click.Choice(["float16", "bfloat16", "float32"]),
    help="Of the weights; else that of IN. A quantized IN is restored exactly in float32 only.",
)
@family_option
@pass_session
def convert(session: Session, model: str, out: Path, dtype: str | None, family: str | None) -> None:
    """Write the model IN as transformers, vLLM and others know it, into the new folder OUT.

    For ChatGLM2, ChatGLM3 and GLM-4; ChatGLM-6B has no counterpart there.
    """
    from kbqa.chatglm.convert import convert as write
    from kbqa.chatglm.hub import find_model

    a = write(find_model(model), out, cast("Family | None", family), dtype)
    _report(session, {"path": str(out), "family": a.family}, out)


@models.command("make-tiny")
@click.argument("family", type=click.Choice(FAMILIES))
@click.argument("folder", metavar="DIR", type=FilePath())
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed makes the same weights.")
@click.option("--train", is_flag=True, help="Fit it to a little text, so that it answers from a passage.")
@click.option("--steps", type=click.IntRange(1), help=f"How long to train; else {TRAINED['steps']}.")
@click.option("--layers", type=int, help="How many blocks.")
@click.option("--hidden", type=int, help="How wide they are: a multiple of 16.")
@click.option("--context", type=int, default=512, show_default=True, help="Tokens, prompt and answer together.")
@pass_session
def make_tiny(
    session: Session,
    family: str,
    folder: Path,
    seed: int,
    train: bool,
    steps: int | None,
    layers: int | None,
    hidden: int | None,
    context: int,
) -> None:
    """Make a tiny model of FAMILY with random weights in the new folder DIR, laid out as the published ones are."""
    from kbqa.chatglm.tiny import Shape, make_tiny

    if steps and not train:
        raise click.UsageError("--steps says how long to train; give --train too")
    usual = TRAINED if train else {"layers": 2, "hidden": 64}
    shape = Shape(
        layers=usual["layers"] if layers is None else layers,
        hidden=usual["hidden"] if hidden is None else hidden,
        context=context,
    )
    count = (steps or TRAINED["steps"]) if train else 0
    if count and not session.json:
        complain(f"training for {count} steps, about a minute on two cores ...")
    a = make_tiny(cast("Family", family), folder, shape, seed, count)
    _report(session, {"path": str(folder), "family": a.family, "parameters": a.parameters}, folder)


@models.command()
@click.argument("model", metavar="PATH")
@click.option("--dtype", type=click.Choice(["bfloat16", "float16", "float32"]), default="bfloat16", show_default=True)
@click.option("--bits", type=click.Choice(["4", "8"]), help="Quantize the weights while loading.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, ...")
@click.option("--batch", type=click.IntRange(1, 256), multiple=True, help="Sequences at once; else 1 and 8.")
@click.option("--prompt", type=click.IntRange(1), default=256, show_default=True, help="Tokens to read.")
@family_option
@pass_session
def bench(
    session: Session,
    model: str,
    dtype: str,
    bits: str | None,
    device: str,
    batch: tuple[int, ...],
    prompt: int,
    family: str | None,
) -> None:
    """Measure how fast the model in PATH reads and writes here, and how near that is to what the memory allows."""
    from kbqa.chatglm.bench import measure
    from kbqa.chatglm.hub import find_model

    folder = find_model(model)
    number: Any = int(bits) if bits else None
    found = measure(
        folder, cast("Any", dtype), device, number, batch or (1, 8), prompt, family=cast("Family | None", family)
    )
    if session.json:
        print_json({"path": str(folder), "dtype": dtype, "bits": number, "device": device} | asdict(found))
        return
    say(f"loaded in {found.load_seconds:.1f} s; memory {_size(found.peak)} at most" if found.peak else "loaded")
    say(f"reads  {found.read_per_second:8.1f} tokens/s (a prompt of {found.prompt})")
    for writing in found.writing:
        say(
            f"writes {writing.tokens_per_second:8.1f} tokens/s, {writing.batch} at once: "
            f"{writing.floor:.0%} of what the memory allows ({found.memory_speed / 1e9:.1f} GB/s, "
            f"{_size(found.read_per_step)} of weights a step)"
        )


def _report(session: Session, fields: dict[str, Any], folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir())
    if session.json:
        print_json(fields | {"bytes": size})
    else:
        say(f"{shown(str(folder))}: {fields['family']}, {_size(size)}")
