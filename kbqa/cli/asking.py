"""Questions: search shows what is found, ask answers one, chat holds a conversation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any, cast

import click

from kbqa.cli.common import Command, Session, kb_option, pass_session, typed
from kbqa.cli.screen import cited, complain, is_terminal, print_json, quoted, say, shown
from kbqa.errors import GeneratorError, QuestionError
from kbqa.types import Answer, Hit, Piece, Sentence, Turn, Verdict

if TYPE_CHECKING:
    from kbqa.chain import KnowledgeBase

__all__ = ["ask", "chat", "search"]

DOUBTED: dict[Verdict, str] = {"not": "[未证实]", "partly": "[部分证实]"}
HIT_LINES = 6  # of a passage that `search` shows on a terminal
COMMANDS = "/sources: where the last answer stands  /clear: forget what was said  /exit: leave  /help: this line"


@click.command(cls=Command)
@click.argument("question", type=typed)
@kb_option()
@click.option("-k", "count", type=click.IntRange(1, 1000), default=10, show_default=True, help="How many passages.")
@pass_session
def search(session: Session, question: str, kb: str | None, count: int) -> None:
    """Show the passages that QUESTION finds, best first."""
    with session.installation().open(kb) as base:
        found = base.search(question, count)
    if session.json:
        hits = [_hit_fields(rank, hit) for rank, hit in enumerate(found.hits, 1)]
        print_json({"question": question, "confidence": found.confidence, "hits": hits})
        return
    for rank, hit in enumerate(found.hits, 1):
        _show_hit(rank, hit)
    if not found.hits:
        say(f"nothing in {base.name} has a word of the question")


def _hit_fields(rank: int, hit: Hit) -> dict[str, Any]:
    chunk = hit.chunk
    return {
        "rank": rank,
        "score": hit.score,
        "source": chunk.source,
        "page": chunk.page,
        "heading": chunk.heading,
        "span": list(chunk.span),
        "text": chunk.text,
    }


def _show_hit(rank: int, hit: Hit) -> None:
    chunk = hit.chunk
    page = f"第{chunk.page}页" if chunk.page is not None else ""
    where = " · ".join(filter(None, (shown(chunk.source), page, shown(chunk.heading))))
    say(f"{rank}. {where}  ({hit.score:.2f})", bold=True)
    lines = [line for line in chunk.passage.splitlines() if line.strip()]
    kept = lines[:HIT_LINES] if is_terminal() else lines
    for line in kept:
        say(f"   {shown(line)}")
    if len(lines) > len(kept):
        say(f"   … {len(lines) - len(kept)} more lines", dim=True)
    say()


@click.command(cls=Command)
@click.argument("question", type=typed)
@kb_option()
@click.option("-v", "--verbose", is_flag=True, help="Also say how confident the answer is and how long it took.")
@pass_session
def ask(session: Session, question: str, kb: str | None, verbose: bool) -> None:
    """Answer QUESTION from the documents, with sources.

    When the documents do not tell, kbqa says so; that is an answer too, with exit code 0.
    """
    with session.installation().open(kb) as base:
        if session.json:
            print_json(_answer_fields(base.ask(question)))
            return
        answer = _spoken(base, question, ())
        _show_grounds(answer, base.name, quotes=True)
        if verbose:
            say(f"confidence {answer.confidence:.2f}, {answer.seconds:.2f} s", dim=True)


def _answer_fields(answer: Answer) -> dict[str, Any]:
    return {
        "question": answer.question,
        "answer": answer.text,
        "grounded": answer.grounded,
        "confidence": answer.confidence,
        "citations": [
            {
                "marker": citation.marker,
                "source": citation.source,
                "page": citation.page,
                "heading": citation.heading,
                "quote": citation.quote,
                "span": list(citation.span),
            }
            for citation in answer.citations
        ],
        "sentences": [
            {"text": sentence.text, "verdict": sentence.verdict, "markers": list(sentence.markers)}
            for sentence in answer.sentences
        ],
        "seconds": round(answer.seconds, 3),
    }


def _spoken(base: KnowledgeBase, question: str, history: tuple[Turn, ...]) -> Answer:
    """Prints the answer sentence by sentence, each as soon as it has been checked, and gives it back whole."""
    text, printed = "", 0
    parts = cast("Generator[Piece | Sentence | Answer, None, None]", base.stream(question, history))
    with closing(parts):  # which cancels the work when Ctrl-C or a broken pipe comes between
        for part in parts:
            match part:
                case Piece():
                    text = text + part.text if text else part.text.lstrip()
                case Sentence():
                    start, end = part.span
                    _say_some(text[printed:start])
                    _say_sentence(part)
                    printed = end
                case Answer():
                    say(shown(part.text[printed:], lines=True))
                    return part
    raise AssertionError("stream() ends with an Answer")


def _say_sentence(sentence: Sentence) -> None:
    """On a terminal one that the documents do not bear out is marked; in a pipe the answer stays as it is."""
    mark = DOUBTED.get(sentence.verdict)
    if mark and is_terminal():
        _say_some(sentence.text, dim=True)
        _say_some(mark, fg="yellow")
    else:
        _say_some(sentence.text)


def _say_some(text: str, **style: Any) -> None:
    say(shown(text, lines=True), end="", **style)
    sys.stdout.flush()


def _show_grounds(answer: Answer, base: str, quotes: bool) -> None:
    if not answer.grounded:
        say(f"The documents in {shown(base)} do not tell.", fg="yellow")
        return
    if not answer.citations:
        say("No sentence of this answer was found in the documents: check it before you rely on it.", fg="yellow")
        return
    say()
    for citation in answer.citations:
        say(cited(citation), fg="cyan", end=" " if quotes else "\n")
        if quotes:
            say(quoted(citation.quote), dim=True)
    doubted = [(mark, sentence) for sentence in answer.sentences if (mark := DOUBTED.get(sentence.verdict))]
    if doubted and is_terminal():
        marks = " and ".join(dict.fromkeys(mark for mark, _ in doubted))
        say(f"{marks}: the documents do not bear this out; check it before you rely on it.", fg="yellow")
        return
    for mark, sentence in doubted:
        say(f"{mark} {quoted(sentence.text)}")


@click.command(cls=Command)
@kb_option()
@pass_session
def chat(session: Session, kb: str | None) -> None:
    """Hold a conversation: questions may refer to earlier ones.

    Questions are read from standard input, one a line, so that a file of them can be piped in. Commands: /sources,
    /clear, /exit, /help.
    """
    with session.installation().open(kb) as base:
        conversation = _Conversation(base, session.json)
        if sys.stdin.isatty() and not session.json:
            complain(f"{shown(base.name)}: {base.store.counts().documents} documents. {COMMANDS}")
        for line in _lines():
            if not conversation.hear(line):
                break
    if conversation.failed and not sys.stdin.isatty():
        click.get_current_context().exit(1)


class _Conversation:
    def __init__(self, base: KnowledgeBase, json: bool) -> None:
        self._base = base
        self._json = json
        self._history: tuple[Turn, ...] = ()
        self._last: Answer | None = None
        self.failed = False
        self._commands: dict[str, Callable[[], None]] = {
            "/sources": self._sources,
            "/clear": self._clear,
            "/help": lambda: complain(COMMANDS),
        }

    def hear(self, line: str) -> bool:
        """Answers one line; False when it was the last one."""
        line = line.strip().removeprefix("\ufeff")
        if line in ("/exit", "/quit"):
            return False
        if command := self._commands.get(line):
            command()
        elif line.startswith("/"):
            complain(f"there is no command {shown(line)}; {COMMANDS}")
        elif line:
            self._question(line)
        return True

    def _question(self, question: str) -> None:
        try:
            if self._json:
                answer = self._base.ask(question, self._history)
                print_json(_answer_fields(answer))
            else:
                answer = _spoken(self._base, question, self._history)
                _show_grounds(answer, self._base.name, quotes=False)
                say()
        except (QuestionError, GeneratorError) as error:  # the next question may do better
            self.failed = True
            complain(f"kbqa: {shown(str(error))}", fg="red")
            if self._json:
                print_json({"error": {"type": type(error).__name__, "message": str(error)}})
            return
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            complain("\nstopped")
            return
        self._last = answer
        self._history = (*self._history, (question, answer.text))

    def _sources(self) -> None:
        if self._last is None or not self._last.citations:
            complain("there is nothing to show: no answer yet, or one without sources")
            return
        for citation in self._last.citations:
            say(cited(citation), fg="cyan")
            say(f"    「{shown(citation.quote, lines=True)}」")

    def _clear(self) -> None:
        self._history, self._last = (), None
        complain("forgotten; the next question starts a new conversation")


def _lines() -> Iterator[str]:
    """What is typed, or piped in, until it ends."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with suppress(ImportError):  # Windows' console edits lines by itself
        import readline  # noqa: F401  (arrow keys and earlier questions at the prompt)
    while True:
        try:
            yield input("问> ")
        except EOFError:
            complain("")
            return
