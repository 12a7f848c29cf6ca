"""Chat templates are programs of whoever made the model. They run in jinja's sandbox, and here within limits too.

A template cannot go on for ever: each turn of a loop, each call and each filter looks at the clock. Nor can it take all
the memory: what it makes is measured before it can be used again, and what would make something huge at once is not
there. What real templates do (loops, conditions, macros, namespaces, JSON) stays far below the limits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from kbqa.chatglm.limits import MOST, TooMuch, measure, to_json

__all__ = ["render"]

SOURCE = 1 << 16  # characters of a template; those of real models have some thousands
ROOM = 1 << 25  # characters that it may write in all, also where only a variable gets them
RANGE = 1000
SECONDS = 2.0  # for what takes a millisecond

TEXT = {"strip", "lstrip", "rstrip", "split", "rsplit", "splitlines", "partition", "rpartition", "startswith"}
TEXT |= {"endswith", "find", "rfind", "count", "lower", "upper", "title", "capitalize", "isdigit", "isspace"}
TEXT |= {"removeprefix", "removesuffix"}
MAPPING = {"get", "items", "keys", "values"}
FILTERS = "capitalize count d default first int items last length list lower map reject rejectattr reverse safe select"
FILTERS += " selectattr sort string title tojson trim unique upper"


def render(template: str, **variables: Any) -> str:
    """TooMuch beyond the limits; else whatever jinja and the template itself raise."""
    if len(template) > SOURCE:
        raise TooMuch(f"it has {len(template)} characters, more than {SOURCE}")
    written: list[str] = []
    size = 0
    for piece in _Bounded(len(template)).from_string(template).generate(**variables):
        written.append(piece)
        size += len(piece)
        if size > MOST:
            raise TooMuch(f"it writes more than {MOST} characters")
    return "".join(written)


class _Bounded(ImmutableSandboxedEnvironment):
    """For one rendering of a template of `source` characters."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, source: int) -> None:
        # The options are those that chat templates are written for.
        super().__init__(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"], finalize=self._written
        )
        self._end, self._source, self._room = time.monotonic() + SECONDS, source, ROOM
        self.filters["tojson"] = lambda value, indent=None, **_: to_json(value, indent)
        self.filters = {name: self._watched(self.filters[name]) for name in FILTERS.split()}
        self.filters["_turns"], self.filters["_measured"] = self._turns, _measured
        self.globals = {"range": _range, "namespace": self.globals["namespace"], "dict": dict}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Watched().visit(super()._parse(source, name, filename))
        return tree

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        known = TEXT if isinstance(obj, str) else MAPPING if isinstance(obj, Mapping) else None
        jinjas = type(obj).__module__ in ("jinja2.runtime", "jinja2.utils")  # loop, namespaces, macros
        return (attr in known if known else jinjas) and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        __self._step()
        measure([args, kwargs])
        return _measured(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        self._step()
        numbers = all(isinstance(it, int | float) and abs(it) < 2**31 for it in (left, right))
        if operator != "+" and (operator == "**" or not numbers):
            raise SecurityError(f"a chat template may not use {operator} on these values")
        return _measured(super().call_binop(context, operator, left, right))

    def _turns(self, items: Iterable[Any]) -> Iterator[Any]:
        for item in items:
            self._step()
            yield item

    def _watched(self, work: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(work)  # jinja reads off the function what else it is to be given
        def bounded(*args: Any, **kwargs: Any) -> Any:
            self._step()
            measure([args, kwargs])
            return _measured(work(*args, **kwargs))

        return bounded

    def _written(self, value: Any) -> Any:
        if isinstance(_measured(value), str):
            self._take(len(value))
        return value

    def _step(self) -> None:
        if time.monotonic() > self._end:
            raise TooMuch(f"it is not done after {SECONDS:g} seconds")
        self._take(self._source)  # so much of its own text at most until the next step

    def _take(self, characters: int) -> None:
        self._room -= characters
        if self._room < 0:
            raise TooMuch("it goes through too many loops, or writes too much")


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


def _range(*bounds: int) -> range:
    if len(wanted := range(*bounds)) > RANGE:
        raise TooMuch(f"it counts through more than {RANGE} numbers")
    return wanted


def _measured(value: Any) -> Any:
    measure(value)
    return value
