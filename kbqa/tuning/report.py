"""What an evaluation found, to look at: one page that needs no other file and no network, and its chart as PNG."""

from __future__ import annotations

import io
import warnings
from base64 import b64encode
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from html import escape
from importlib.util import find_spec
from typing import Any

from kbqa.errors import ConfigError
from kbqa.tuning.evaluate import Evaluation, Scored
from kbqa.tuning.guard import MAX_DROP

__all__ = ["FIGURES", "check_libraries", "draw", "figures", "page"]

FIGURES = {  # figure -> its column
    "bleu_4": "BLEU-4",
    "rouge_1": "ROUGE-1",
    "rouge_2": "ROUGE-2",
    "rouge_l": "ROUGE-L",
    "exact_match": "exact",
}
EXAMPLES = 100  # rows that are shown, those first in which the models differ most
DPI = 110
CHINESE = (  # fonts of the usual systems
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",  # the first in the file of all languages, the only one that is seen
    "Noto Serif CJK JP",
    "Source Han Sans SC",
    "Microsoft YaHei",
    "PingFang SC",
    "SimHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
)

STYLE = """
body { font: 15px/1.5 system-ui, "PingFang SC", "Microsoft YaHei", "Noto Sans CJK SC", sans-serif; margin: 2em auto;
       max-width: 76em; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
table { border-collapse: collapse; margin: 1em 0; }
th, td { padding: .35em .8em; border-bottom: 1px solid #ddd; text-align: left; vertical-align: top; }
th { background: #f5f5f5; } td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.best { font-weight: bold; } td.bad { color: #b00020; font-weight: bold; } .quiet { color: #777; }
td.text { white-space: pre-wrap; overflow-wrap: anywhere; min-width: 12em; } img { max-width: 100%; }
@media (prefers-color-scheme: dark) { body { background: #1b1b1b; color: #ddd; } th { background: #2a2a2a; }
  th, td { border-color: #444; } td.bad { color: #ff8a8a; } img { background: #fff; } }
"""


def check_libraries() -> None:
    """ConfigError when the chart cannot be drawn: to be asked before hours are spent."""
    if find_spec("matplotlib") is None:
        raise ConfigError("the report's chart needs matplotlib; pip install 'kbqa[tune]'")


def figures(evaluation: Evaluation) -> dict[str, str]:
    """One line of the table: column -> text."""
    scores = asdict(evaluation.scores)
    line = {column: f"{scores[figure]:.2f}" for figure, column in FIGURES.items()}
    line["loss"] = f"{evaluation.loss:.4f}"
    found = evaluation.forgetting
    line["forgot"] = "" if found is None else f"{found.drop:.2f}"
    line["cut off"] = str(evaluation.cut_off)
    line["failed"] = str(evaluation.failed)
    line["s"] = f"{evaluation.seconds:.1f}"
    return line


# --- the chart -------------------------------------------------------------------------------------------------------


def draw(evaluations: Sequence[Evaluation]) -> bytes:
    """PNG: the scores of each model side by side; below, where it was measured, what each forgot."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.font_manager import get_font_names

    fonts = [name for name in CHINESE if name in get_font_names()]
    with matplotlib.rc_context({"font.family": ["DejaVu Sans", *fonts]}), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of characters that no font of this machine has
        told = [it for it in evaluations if it.forgetting is not None]
        chart = Figure(figsize=(9, 7 if told else 3.6), layout="constrained")
        axes = chart.subplots(2 if told else 1, 1, squeeze=False)[:, 0]
        groups = {it.name: list(asdict(it.scores).values()) for it in evaluations}
        colours = {it.name: f"C{number % 10}" for number, it in enumerate(evaluations)}
        _bars(axes[0], list(FIGURES.values()), groups, "percent", colours)
        if told:
            kinds = list(told[0].forgetting.drops) if told[0].forgetting else []
            drops = {it.name: list(it.forgetting.drops.values()) for it in told if it.forgetting}
            _bars(axes[1], kinds, drops, "forgotten (0 nothing, 1 all)", colours)
            axes[1].set_ylim(0, 1)
            axes[1].axhline(MAX_DROP, linestyle="--", linewidth=1, color="grey")  # above it, nothing is promoted
        handles, names = axes[0].get_legend_handles_labels()
        chart.legend(handles, names, loc="outside upper center", ncols=4, fontsize="small")
        out = io.BytesIO()
        chart.savefig(out, format="png", dpi=DPI, metadata={"Software": "kbqa"})
    return out.getvalue()


def _bars(axes: Any, labels: Sequence[str], groups: dict[str, list[float]], unit: str, colours: dict[str, str]) -> None:
    width = 0.8 / max(len(groups), 1)
    for number, (name, values) in enumerate(groups.items()):
        places = [at + (number - (len(groups) - 1) / 2) * width for at in range(len(values))]
        axes.bar(places, values, width, label=name, color=colours[name])
    axes.set_xticks(range(len(labels)), labels)
    axes.set_ylabel(unit)
    axes.spines[["top", "right"]].set_visible(False)


# --- the page --------------------------------------------------------------------------------------------------------


def page(evaluations: Sequence[Evaluation], about: dict[str, str], chart: bytes) -> str:
    """The whole report; `about` is told above the table."""
    parts = [
        _table(["", ""], [[_cell(name), _cell(text)] for name, text in about.items()]),
        "<h2>Scores</h2>",
        _scores(evaluations),
        "<p class=quiet>BLEU-4, ROUGE and exact match in percent, of answers written greedily; loss: mean surprise at "
        "a token of the wanted answer; forgot: the greatest drop below, 0 nothing, 1 all.</p>",
        f'<img alt="the scores as bars" src="data:image/png;base64,{b64encode(chart).decode()}">',
        *_forgotten(evaluations),
        *_examples(evaluations),
    ]
    return (
        '<!doctype html>\n<html lang="zh">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n<title>kbqa tune evaluate</title>\n'
        f"<style>{STYLE}</style>\n<h1>kbqa tune evaluate</h1>\n" + "\n".join(parts) + "\n</html>\n"
    )


def _scores(evaluations: Sequence[Evaluation]) -> str:
    lines = {it.name: figures(it) for it in evaluations}
    columns = list(next(iter(lines.values())))
    best = {column: max(float(line[column]) for line in lines.values()) for column in FIGURES.values()}
    best["loss"] = min(float(line["loss"]) for line in lines.values())
    rows = [
        [
            _cell(name),
            *(
                _cell(text, "number best" if text and column in best and float(text) == best[column] else "number")
                for column, text in line.items()
            ),
        ]
        for name, line in lines.items()
    ]
    return _table(["", *columns], rows)


def _forgotten(evaluations: Sequence[Evaluation]) -> Iterable[str]:
    for it in evaluations:
        if (found := it.forgetting) is None:
            continue
        yield f"<h2>What {escape(it.name)} forgot</h2>"
        rows = [
            [
                _cell(f"perplexity on {group} text"),
                _cell(f"{before:.2f}", "number"),
                _cell(f"{found.tuned.perplexity[group]:.2f}", "number"),
                _cell(f"{found.drops[f'perplexity on {group} text']:.2f}", "number"),
            ]
            for group, before in found.base.perplexity.items()
        ]
        rows += [
            [
                _cell(f"{group} questions answered right"),
                _cell(f"{found.base.right(group):.0%}", "number"),
                _cell(f"{found.tuned.right(group):.0%}", "number"),
                _cell(f"{found.drops[f'{group} questions']:.2f}", "number"),
            ]
            for group in found.base.groups
        ]
        yield _table(["", "base", it.name, "drop"], rows)
        lost = [
            (a, b) for a, b in zip(found.base.answered, found.tuned.answered, strict=True) if a.right and not b.right
        ]
        if lost:
            rows = [[_cell(a.question, "text"), _cell(a.reply, "text"), _cell(b.reply, "text bad")] for a, b in lost]
            yield _table(["question", "base", it.name], rows)


def _examples(evaluations: Sequence[Evaluation]) -> Iterable[str]:
    """The rows in which the models differ most first."""
    sides = list(zip(*(it.scored for it in evaluations), strict=True))
    if not sides:
        return
    apart = sorted(sides, key=_apart, reverse=True)[:EXAMPLES]
    yield f"<h2>Answers ({len(apart)} of {len(sides)} rows, those first in which the models differ most)</h2>"
    rows = [
        [
            _cell(side[0].row.prompt, "text"),
            _cell(side[0].wanted, "text"),
            *(_cell(it.said.error or it.said.text, "text bad" if it.said.error else "text") for it in side),
        ]
        for side in apart
    ]
    yield _table(["question", "wanted", *(it.name for it in evaluations)], rows)


def _apart(side: Sequence[Scored]) -> float:
    scores = [it.scores.rouge_l for it in side]
    return max(scores) - min(scores)


def _cell(text: str, kind: str = "") -> str:
    return f'<td class="{kind}">{escape(text)}</td>' if kind else f"<td>{escape(text)}</td>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns) if any(columns) else ""
    body = "\n".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    return f"<table>\n{f'<tr>{head}</tr>' if head else ''}\n{body}\n</table>"
