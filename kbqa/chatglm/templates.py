"""Chat templates are programs of whoever made the model. They run in jinja's sandbox, and here within limits too.

A template cannot go on for ever: each turn of a loop, each call and each filter looks at the clock. Nor can it take all
the memory: what it makes is measured before it can be used again, and what would make something huge at once is not
there, or measured before it is done. What real templates do (loops, conditions, macros, namespaces, JSON, joining and
replacing) stays far below the limits, and comes out as in transformers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, Literal, NoReturn

from jinja2 import Environment, Template, nodes, pass_environment, pass_eval_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension
from jinja2.filters import do_batch, do_indent, do_join, do_replace, do_round, sync_do_sum
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from kbqa.chatglm.limits import MOST, TooMuch, measure, to_json

__all__ = ["render"]

SOURCE = 1 << 16  # characters of a template; those of real models have some thousands
ROOM = 1 << 25  # characters that it may write in all, also where only a variable gets them
RANGE = 1000
PLACES = 20  # to which a number may be rounded
SECONDS = 2.0  # for what takes a millisecond

TEXTS = (nodes.TemplateData, nodes.Const)
TEXT = {"strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition", "startswith"}
TEXT |= {"endswith", "find", "rfind", "count", "lower", "upper", "title", "capitalize", "isdigit", "isspace"}
TEXT |= {
    "removeprefix",
    "removesuffix",
    "replace",
    "join",
    "index",
    "rindex",
    "isalpha",
    "isalnum",
    "isupper",
    "islower",
    "casefold",
}
MAPPING = {"get", "items", "keys", "values", "copy"}
FILTERS = "abs batch capitalize count d default dictsort e escape first float groupby indent int items join last"
FILTERS += " length list lower map max min reject rejectattr replace reverse round safe select selectattr sort string"
FILTERS += " sum title tojson trim truncate unique upper wordcount"


def render(template: str, **variables: Any) -> str:
    """TooMuch beyond the limits; else whatever jinja and the template itself raise."""
    if len(template) > SOURCE:
        raise TooMuch(f"it has {len(template)} characters, more than {SOURCE}")
    try:
        return _rendered(template, variables)
    except RecursionError:  # in what compiles it, too
        raise TooMuch("it is nested too deep, or one of its macros calls itself without end") from None


def _rendered(template: str, variables: Mapping[str, Any]) -> str:
    environment, compiled, one_at_a_time = _compiled(template)
    written: list[str] = []
    size = 0
    with one_at_a_time:
        environment.begin(variables)
        for piece in compiled.generate(**variables):
            written.append(piece)
            size += len(piece)
            if size > MOST:
                raise TooMuch(f"it writes more than {MOST} characters")
    return "".join(written)


@lru_cache(maxsize=4)  # to compile one takes longer than to fill it
def _compiled(template: str) -> tuple[_Bounded, Template, Lock]:
    environment = _Bounded()
    return environment, environment.from_string(template), Lock()


class _Bounded(ImmutableSandboxedEnvironment):
    """For one template, and one rendering of it at a time."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        # The options are those that chat templates are written for.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", _Generation],
            finalize=self._written,
        )
        self._own = 1  # characters that the template itself has to write
        self.begin({})
        self.filters |= {"tojson": to_json, "join": _join, "replace": _replace, "indent": _indent}
        self.filters |= {"sum": _sum, "round": _round, "batch": _batch}
        self.filters = {name: self._watched(self.filters[name]) for name in FILTERS.split()}
        self.filters["_turns"], self.filters["_measured"] = self._turns, self._measured
        self.globals = {"range": _range, "namespace": self.globals["namespace"], "dict": dict}
        self.globals |= {"raise_exception": _raise, "strftime_now": _now}

    def begin(self, variables: Mapping[str, Any]) -> None:
        """What is given does not change, and is measured here once and for all."""
        self._end, self._room = time.monotonic() + SECONDS, ROOM
        self._known: dict[int, int] = {}
        for value in variables.values():
            for part in value if isinstance(value, list | tuple) else ():
                self._known[id(part)] = measure(part)
            self._known[id(value)] = measure(value, self._known)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = super()._parse(source, name, filename)
        texts = [getattr(it, "data", getattr(it, "value", None)) for it in tree.find_all(TEXTS)]
        self._own += sum(len(text) for text in texts if isinstance(text, str))
        watched: nodes.Template = _Watched().visit(tree)
        return watched

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = TEXT if isinstance(obj, str) else MAPPING if isinstance(obj, Mapping) else None
        jinjas = type(obj).__module__ in ("jinja2.runtime", "jinja2.utils")  # loop, namespaces, macros
        return (attr in known if known else jinjas) and super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """jinja would let any text have `format`, which makes as wide a line as it is told to."""

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __self._step()
        measure([args, kwargs], __self._known)
        if isinstance(text := getattr(__obj, "__self__", None), str):
            args = _checked(text, __obj.__name__, args)
        return __self._measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._step()
        if operator == "*" and isinstance(left, str) and isinstance(right, int):
            _check_size(len(left) * right)
            return left * right
        numbers = all(isinstance(it, int | float) and abs(it) < 2**31 for it in (left, right))
        if operator != "+" and (operator == "**" or not numbers):
            raise SecurityError(f"a chat template may not use {operator} on these values")
        return self._measured(super().call_binop(context, operator, left, right))

    def _turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._step()
            yield item

    def _watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)  # jinja reads off the function what else it is to be given
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._step()
            measure([args, kwargs], self._known)
            return self._measured(work(*args, **kwargs))

        return bounded

    def _written(self, value: Any) -> Any:
        if isinstance(self._measured(value), str):
            self._take(len(value))
        return value

    def _step(self) -> None:
        if time.monotonic() > self._end:
            raise TooMuch(f"it is not done after {SECONDS:g} seconds")
        self._take(self._own)  # so much of its own text at most until the next step

    def _take(self, characters: int) -> None:
        self._room -= characters
        if self._room < 0:
            raise TooMuch("it goes through too many loops, or writes too much")

    def _measured(self, value: Any) -> Any:
        measure(value, self._known)
        return value


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %}: what the model has said, for who trains on it; here it is only text."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Watched(NodeTransformer):
    """Has loops watched, and measured what is joined, put together or given a name: it could double each time."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        if node.recursive:
            raise SecurityError("a chat template may have no recursive loops")
        node.iter = _through("_turns", node.iter)
        return node

    def visit_Assign(self, node: nodes.Assign) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.node = _through("_measured", node.node)
        return node

    def visit_AssignBlock(self, node: nodes.AssignBlock) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        node.filter = _through("_measured", node.filter)
        return node

    def visit_made(self, node: nodes.Expr) -> nodes.Node:
        self.generic_visit(node)
        return _through("_measured", node)

    visit_List = visit_Dict = visit_Concat = visit_made  # noqa: N815


def _through(name: str, node: Any) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None)


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(format: str) -> str:
    return datetime.now().strftime(format[:100])


def _check_size(size: int) -> None:
    if size > MOST:
        raise TooMuch(f"something would have more than {MOST} characters or parts")


def _checked(text: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The arguments of a text's method, where that would make nothing huge."""
    if name == "join":
        args = (list(args[0]),)  # it may be one that can be gone through once
        _check_joined(args[0], text)
    elif name == "replace":
        _check_replaced(text, *args[:2])
    return args


def _check_joined(items: list[Any], between: str) -> None:
    measure(items)
    _check_size(len(items) * len(between))


def _check_replaced(text: str, old: str, new: str) -> None:
    _check_size(len(text) + text.count(old) * len(new))


@pass_eval_context
def _join(context: EvalContext, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    _check_joined(items, str(d))
    return do_join(context, items, str(d), attribute)


@pass_eval_context
def _replace(context: EvalContext, text: str, old: str, new: str, count: int | None = None) -> str:
    _check_replaced(str(text), str(old), str(new))
    return do_replace(context, str(text), str(old), str(new), count)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    _check_size((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(width)))
    return do_indent(str(text), width, first, blank)


@pass_environment
def _sum(
    environment: Environment, items: Iterable[Any], attribute: str | int | None = None, start: float = 0
) -> int | float:
    """Of numbers: lists would be copied once for each."""
    if not isinstance(start, int | float):
        raise SecurityError("a chat template may add up numbers only")
    total: int | float = sync_do_sum(environment, items, attribute, start)
    return total


def _round(value: float, precision: int = 0, method: Literal["common", "ceil", "floor"] = "common") -> float:
    if abs(precision) > PLACES:
        raise TooMuch(f"it rounds to more than {PLACES} places")
    return do_round(value, precision, method)


def _batch(items: Iterable[Any], linecount: int, fill_with: Any = None) -> Iterator[list[Any]]:
    _check_size(linecount)
    return do_batch(items, linecount, fill_with)


def _range(*bounds: int) -> range:
    if len(wanted := range(*bounds)) > RANGE:
        raise TooMuch(f"it counts through more than {RANGE} numbers")
    return wanted
