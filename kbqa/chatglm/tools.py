"""The tools on offer, in the words in which a model was told of them when it was trained.

GLM-4's words stand in the chat template that comes with the model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kbqa.chatglm.limits import to_json
from kbqa.chatglm.tokens import need
from kbqa.errors import BeyondModel, ModelError
from kbqa.importing import one_line

__all__ = ["as_json", "chatglm3_offer", "function_of", "glm4_offer", "tool_name"]

CHATGLM3_TOOLS = "Answer the following questions as best as you can. You have access to the following tools:"
# For GLM-4 folders whose chat template knows no tools. The other releases bring their own wording in it.
GLM4_TOOLS = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
GLM4_TOOL = "\n\n## {name}\n\n{function}\n在调用上述函数时，请使用 Json 格式表示调用的参数。"
GLM4_BUILT_IN = ("python", "simple_browser", "cogview")


def chatglm3_offer(instruction: str, tools: Sequence[Mapping[str, Any]]) -> str:
    functions = [function_of(tool) for tool in tools]
    return f"{instruction or CHATGLM3_TOOLS}\n{as_json(functions, indent=4)}"


def function_of(tool: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool as ChatGLM3 knows them: the bare function."""
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not function.get("name"):
        raise BeyondModel("a tool must be a function with a name: its JSON has none")
    return function


def glm4_offer(template: str | None, tools: Sequence[Mapping[str, Any]]) -> str:
    """The system text that offers the tools, in the words of the model's own template.

    Only this text is taken from the template: what users say goes past it, so that no control token arises from it.
    """
    offered = [tool if "type" in tool else {"type": "function", "function": tool} for tool in tools]
    names = [tool_name(tool) for tool in offered]
    system = {"role": "system", "content": "", "tools": offered}
    tries: tuple[dict[str, Any], ...] = ({"messages": [system]}, {"messages": [], "tools": offered})
    for variables in tries if template and "tools" in template else ():
        text = _rendered(str(template), variables).partition("<|system|>\n")[2].removesuffix("<|system|>\n")
        if text and all(f"## {name}" in text for name in names):
            return text
    if built_in := next((name for name in names if name in GLM4_BUILT_IN), None):
        raise BeyondModel(f"this model's chat template does not describe the tool {built_in}")
    functions = [function_of(tool) for tool in offered]
    return GLM4_TOOLS + "".join(
        GLM4_TOOL.format(name=function["name"], function=as_json(function, indent=4)) for function in functions
    )


def tool_name(tool: Mapping[str, Any]) -> str:
    if tool.get("type") in GLM4_BUILT_IN:
        return str(tool["type"])
    if "type" in tool and tool["type"] != "function" and "function" not in tool and "name" not in tool:
        raise BeyondModel(f"{tool['type']} is no type of tool; GLM-4 knows: function, {', '.join(GLM4_BUILT_IN)}")
    return str(function_of(tool)["name"])


def _rendered(template: str, variables: Mapping[str, Any]) -> str:
    need("jinja2")
    from kbqa.chatglm.templates import render

    try:
        return render(template, add_generation_prompt=False, **variables)
    except ModelError:
        raise
    except Exception as error:  # the template is the model's, and so is what it raises
        raise BeyondModel(f"the model's chat template cannot be filled with these tools: {one_line(error)}") from error


def as_json(value: Any, indent: int | None = None) -> str:
    try:
        return to_json(value, indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise BeyondModel(f"tools and the arguments of calls must be JSON: {error}") from error
