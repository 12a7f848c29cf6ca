"""Questions: search shows what is found, ask answers one, chat holds a conversation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from collections.abc import Generator as Generating
from contextlib import closing, nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

import click

from kbqa.cli.common import Command, Session, kb_option, pass_session, typed
from kbqa.cli.screen import cited, complain, is_terminal, print_json, quoted, say, shown
from kbqa.config import ingest_command
from kbqa.errors import ConfigError, GeneratorError, QuestionError
from kbqa.fields import DOUBTED, answer_fields, search_fields, without_markers
from kbqa.prompt import messages
from kbqa.types import Answer, GenerationRequest, Generator, Hit, Message, Piece, Sentence, Turn

if TYPE_CHECKING:
    from kbqa.build import Installation
    from kbqa.chain import KnowledgeBase

__all__ = ["ask", "chat", "search"]

HIT_LINES = 6  # of a passage that `search` shows on a terminal


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
        print_json(search_fields(question, found))
        return
    for rank, hit in enumerate(found.hits, 1):
        _show_hit(rank, hit)
    if not found.hits:
        say(f"nothing in {base.name} has a word of the question")


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
            print_json(answer_fields(base.ask(question)))
            return
        answer = _spoken(base, question, ())
        _show_grounds(answer, base, quotes=True)
        if verbose:
            say(f"confidence {answer.confidence:.2f}, {answer.seconds:.2f} s", dim=True)


def _spoken(base: KnowledgeBase, question: str, history: tuple[Turn, ...]) -> Answer:
    """Prints the answer sentence by sentence, each as soon as it has been checked, and gives it back whole."""
    text, printed = "", 0
    parts = cast("Generating[Piece | Sentence | Answer, None, None]", base.stream(question, history))
    with closing(parts):  # which cancels the work when Ctrl-C or a broken pipe comes between
        for part in parts:
            match part:
                case Piece():
                    text = text + part.text if text else part.text.lstrip()
                case Sentence():
                    start, end = part.span
                    _say_some(without_markers(text[printed:start]))
                    _say_sentence(part)
                    printed = end
                case Answer():
                    say(shown(without_markers(part.text[printed:]), lines=True))
                    return part
    raise AssertionError("stream() ends with an Answer")


def _say_sentence(sentence: Sentence) -> None:
    """On a terminal one that the documents do not bear out is marked; in a pipe the answer stays as it is."""
    mark, text = DOUBTED.get(sentence.verdict), without_markers(sentence.text)  # [1] is the source below
    if mark and is_terminal():
        _say_some(text, dim=True)
        _say_some(mark, fg="yellow")
    else:
        _say_some(text)


def _say_some(text: str, **style: Any) -> None:
    say(shown(text, lines=True), end="", **style)
    sys.stdout.flush()


def _show_grounds(answer: Answer, base: KnowledgeBase, quotes: bool) -> None:
    if not answer.grounded:
        empty = not base.store.counts().documents
        why = "There are no documents in {} yet: `{}`." if empty else "The documents in {} do not tell."
        say(why.format(shown(base.name), ingest_command(base.name)), fg="yellow")
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
@click.option("--bare", is_flag=True, help="Talk to the model itself, without documents.")
@click.option("--system", help="With --bare: what the model is told before the conversation.")
@click.option("--temperature", type=click.FloatRange(0, 2), help="With --bare: 0 always takes the likeliest word.")
@click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), help="With --bare: draw from the likeliest words.")
@click.option("--max-tokens", type=click.IntRange(1), help="With --bare: the most tokens of an answer.")
@click.option("--adapter", help="With --bare: a P-Tuning prefix that config.yaml names.")
@pass_session
def chat(session: Session, /, kb: str | None, bare: bool, **options: Any) -> None:
    """Hold a conversation: questions may refer to earlier ones.

    Questions are read from standard input, one a line, so that a file of them can be piped in. Commands: /sources,
    /clear, /exit, /help.
    """
    given = {name: value for name, value in options.items() if value is not None}
    installation = session.installation()
    if bare:
        if kb is not None:
            raise click.UsageError("--bare talks to the model itself: it takes no --kb")
        _converse(_BareConversation(_model_of(installation), session.json, given), session.json)
        return
    if given:
        raise click.UsageError(
            f"--{min(given).replace('_', '-')} is for --bare: config.yaml says how questions are answered"
        )
    with installation.open(kb) as base:
        _converse(_Conversation(base, session.json), session.json)


def _converse(conversation: _Conversation | _BareConversation, json: bool) -> None:
    if sys.stdin.isatty() and not json:
        complain(conversation.welcome)
    for line in _lines():
        if not conversation.hear(line):
            break
    if conversation.failed and not sys.stdin.isatty():
        click.get_current_context().exit(1)


class _Talk:
    """What both kinds of conversation share: lines in, commands, errors that end one turn and not the whole."""

    help = "/clear: forget what was said  /exit: leave  /help: this line"
    welcome = help

    def __init__(self, json: bool) -> None:
        self._json = json
        self._history: tuple[Turn, ...] = ()
        self.failed = False
        self._commands: dict[str, Callable[[], None]] = {"/clear": self._clear, "/help": lambda: complain(self.help)}

    def hear(self, line: str) -> bool:
        """Answers one line; False when it was the last one."""
        line = line.strip().removeprefix("\ufeff")
        if line in ("/exit", "/quit"):
            return False
        if command := self._commands.get(line):
            command()
        elif line.startswith("/"):
            complain(f"there is no command {shown(line)}; {self.help}")
        elif line:
            self._question(line)
        return True

    def _question(self, question: str) -> None:
        try:
            answer = self._answered(question)
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
        self._history = (*self._history, (question, answer))

    def _answered(self, question: str) -> str:
        """Shows the answer, and gives it back for the history."""
        raise NotImplementedError

    def _clear(self) -> None:
        self._history = ()
        complain("forgotten; the next question starts a new conversation")


class _Conversation(_Talk):
    """With the documents."""

    help = f"/sources: where the last answer stands  {_Talk.help}"

    def __init__(self, base: KnowledgeBase, json: bool) -> None:
        super().__init__(json)
        self._base = base
        self._last: Answer | None = None
        self._commands["/sources"] = self._sources
        self.welcome = f"{shown(base.name)}: {base.store.counts().documents} documents. {self.help}"

    def _answered(self, question: str) -> str:
        if self._json:
            answer = self._base.ask(question, self._history)
            print_json(answer_fields(answer))
        else:
            answer = _spoken(self._base, question, self._history)
            _show_grounds(answer, self._base, quotes=False)
            say()
        self._last = answer
        return answer.text

    def _clear(self) -> None:
        super()._clear()
        self._last = None

    def _sources(self) -> None:
        if self._last is None or not self._last.citations:
            complain("there is nothing to show: no answer yet, or one without sources")
            return
        for citation in self._last.citations:
            say(cited(citation), fg="cyan")
            say(f"    「{shown(citation.quote, lines=True)}」")


class _BareConversation(_Talk):
    """With the model itself."""

    def __init__(self, generator: Generator, json: bool, options: Mapping[str, Any]) -> None:
        super().__init__(json)
        self._generator = generator
        self._before = (Message("system", options["system"]),) if "system" in options else ()
        self._options = {name: value for name, value in options.items() if name != "system"}
        self.welcome = f"{shown(generator.name)}, without documents. {self.help}"

    def _answered(self, question: str) -> str:
        request = GenerationRequest((*self._before, *messages(question, self._history)), **self._options)
        text, finish = "", None
        pieces = self._generator.stream(request)
        with closing(pieces) if isinstance(pieces, Generating) else nullcontext():
            for piece in pieces:
                text, finish = text + piece.text, piece.finish or finish
                if not self._json:
                    _say_some(piece.text)
        if self._json:
            print_json({"question": question, "answer": text, "finish": finish})
        else:
            say("" if finish != "length" else " …", dim=True)
            say()
        return text


def _model_of(installation: Installation) -> Generator:
    if installation.config.generator.kind == "extractive":
        raise ConfigError(
            "there is no model to talk to: generator.kind is extractive, which quotes documents; name a model in "
            "config.yaml, for example {kind: chatglm, model: models/chatglm3-6b}"
        )
    return installation.generator


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
