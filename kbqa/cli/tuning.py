"""kbqa tune: from a spreadsheet of questions and answers to a tuned model that is measured and served."""

from __future__ import annotations

import click

from kbqa.cli.common import Group

__all__ = ["tuning"]


@click.group("tune", cls=Group)
def tuning() -> None:
    """Tune a ChatGLM model on your own questions and answers, measure it, serve it.

    \b
    kbqa tune convert faq.xlsx train.jsonl --dev dev.jsonl
    kbqa tune evaluate models/chatglm3-6b output/checkpoint-1000 --data dev.jsonl
    """
