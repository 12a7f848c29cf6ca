"""The tools that a base offers to language models over MCP: search, ask, list_knowledge_bases.

Knows nothing of transports: whoever serves says who calls. Imports the SDK (kbqa[mcp]) and so is imported when needed.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from kbqa import __version__
from kbqa.fields import answer_fields, search_fields
from kbqa.server.auth import Caller
from kbqa.server.dialects.cited import whole_text
from kbqa.server.errors import BadRequest, problem_of
from kbqa.server.logs import Trace, log
from kbqa.server.native import AnswerFields, BasesFields, SearchFields
from kbqa.server.request import Text, base_of
from kbqa.server.service import Service
from kbqa.types import Answer

__all__ = ["Context", "WhoCalls", "make_server"]

Context = ServerRequestContext[Any, Any]
WhoCalls = Callable[[Context], tuple[Caller, Trace]]

INSTRUCTIONS = (
    "Answers from an organisation's own documents. `ask` gives an answer whose sentences are checked against the "
    "documents, with citations, or says that they do not tell; `search` gives the passages themselves."
)

Kb = Field(default=None, description="The knowledge base; the usual one unless given (see list_knowledge_bases).")


class SearchArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Text = Field(description="What to look for, in whole words: a question or its key terms.")
    kb: Text | None = Kb
    k: int = Field(default=10, ge=1, le=100, description="How many passages.")


class AskArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")

    question: Text
    kb: Text | None = Kb
    history: list[tuple[Text, Text]] = Field(
        default=[], max_length=100, description="Earlier questions and their answers, for a question that needs them."
    )


class NoArguments(BaseModel):
    model_config = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class _Result:
    """The same for programs and for models that read."""

    fields: dict[str, Any]
    text: str


async def _search(service: Service, caller: Caller, trace: Trace, given: SearchArguments) -> _Result:
    base = base_of(service, caller, given.kb, "kb")
    found = search_fields(given.question, await service.search(trace, base, given.question, given.k))
    return _Result(found, "\n\n".join(map(_passage, found["hits"])) or "nothing was found")


def _passage(hit: Mapping[str, Any]) -> str:
    page = f"page {hit['page']}" if hit["page"] is not None else ""
    where = " · ".join(filter(None, (hit["source"], page, hit["heading"])))
    return f"[{hit['rank']}] {' '.join(where.split())}\n{hit['text']}"


async def _ask(service: Service, caller: Caller, trace: Trace, given: AskArguments) -> _Result:
    base = base_of(service, caller, given.kb, "kb")
    feed = await service.answer(trace, base, given.question, given.history)
    try:
        async for part in feed:
            if isinstance(part, Answer):
                return _Result(answer_fields(part), whole_text(part))
    finally:  # also when the caller does not wait any longer
        feed.close()
    raise AssertionError("a stream ends with an Answer")


async def _list(service: Service, caller: Caller, trace: Trace, given: NoArguments) -> _Result:
    bases = await service.run(service.bases, caller.sees)
    return _Result({"bases": bases}, json.dumps(bases, ensure_ascii=False))


@dataclass(frozen=True, slots=True)
class _Tool:
    name: str
    title: str
    description: str
    takes: type[BaseModel]
    gives: type[BaseModel]
    work: Callable[[Service, Caller, Trace, Any], Awaitable[_Result]]

    def described(self) -> Tool:
        return Tool(
            name=self.name,
            title=self.title,
            description=self.description,
            input_schema=self.takes.model_json_schema(),
            output_schema=self.gives.model_json_schema(),
            annotations=ToolAnnotations(read_only_hint=True, open_world_hint=False),
        )


TOOLS = {
    tool.name: tool
    for tool in (
        _Tool(
            "search",
            "Search documents",
            "Find the passages of the organisation's documents that belong to a question, best first.",
            SearchArguments,
            SearchFields,
            _search,
        ),
        _Tool(
            "ask",
            "Ask the documents",
            "Answer a question from the organisation's documents, with citations. Each sentence carries a verdict, "
            "whether the documents bear it out; grounded false means that they do not tell.",
            AskArguments,
            AnswerFields,
            _ask,
        ),
        _Tool(
            "list_knowledge_bases",
            "List knowledge bases",
            "The knowledge bases that may be asked, and how much each holds.",
            NoArguments,
            BasesFields,
            _list,
        ),
    )
}


def make_server(service: Service, who_calls: WhoCalls) -> Server[Any]:
    async def list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        return ListToolsResult(tools=[tool.described() for tool in TOOLS.values()])

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        caller, trace = who_calls(context)
        try:
            tool = TOOLS.get(params.name)
            if tool is None:
                raise BadRequest(f"there is no tool {params.name!r}; there are: {', '.join(TOOLS)}")
            result = await tool.work(service, caller, trace, _checked(tool, params.arguments))
        except Exception as error:  # noqa: BLE001  (the model that called hears of it, and may do better)
            return _failed(trace, error)
        return CallToolResult(content=[_text(result.text)], structured_content=result.fields)

    return Server(
        "kbqa", version=__version__, instructions=INSTRUCTIONS, on_list_tools=list_tools, on_call_tool=call_tool
    )


def _checked(tool: _Tool, arguments: Mapping[str, Any] | None) -> BaseModel:
    try:
        return tool.takes.model_validate(arguments or {})
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc'])) or tool.name}: {fault['msg']}" for fault in error.errors()[:5])
        raise BadRequest("; ".join(faults)) from None


def _failed(trace: Trace, error: Exception) -> CallToolResult:
    problem = problem_of(error)
    trace.error = problem.type
    if problem.type == "InternalError":
        log.error(f"{type(error).__name__} in request {trace.id}", exc_info=error)
    return CallToolResult(content=[_text(problem.message)], is_error=True)


def _text(text: str) -> TextContent:
    return TextContent(text=text.encode(errors="replace").decode())
