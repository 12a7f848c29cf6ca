"""kbqa on the command line. Everything heavy is imported by the command that needs it: --help answers at once."""

from __future__ import annotations

import click

from kbqa import __version__
from kbqa.cli.asking import ask, chat, search
from kbqa.cli.bases import bases
from kbqa.cli.common import Root
from kbqa.cli.doctor import doctor
from kbqa.cli.evaluate import evaluation
from kbqa.cli.feedback import feedback
from kbqa.cli.ingesting import add, ingest
from kbqa.cli.keys import keys
from kbqa.cli.measuring import evaluate
from kbqa.cli.models import models
from kbqa.cli.reading import read
from kbqa.cli.screen import prepare_streams
from kbqa.cli.serving import mcp, serve
from kbqa.cli.setting_up import completion, init
from kbqa.cli.training import demote, promote, promoted, train
from kbqa.cli.tuning import tuning

__all__ = ["kbqa", "main"]


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kbqa")
def kbqa() -> None:
    """Answers from your own documents, with citations, offline.

    \b
    kbqa init                  make the folders
    kbqa ingest                take in what lies in knowledge/
    kbqa ask "年假有几天？"      ask
    """


for command in (
    *(init, ingest, ask, chat, search, read, add, bases, keys, serve, mcp),
    *(feedback, evaluation, models, tuning, doctor, completion),
):
    kbqa.add_command(command)

for command in (train, evaluate, promote, promoted, demote):
    tuning.add_command(command)


def main() -> None:
    """The `kbqa` of the shell."""
    prepare_streams()
    kbqa(prog_name="kbqa")
