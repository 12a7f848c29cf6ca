"""/docs: the OpenAPI description as a plain page, without scripts and without anything from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

__all__ = ["api_page"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
html { color-scheme: light dark }
h2 code { font-size: 1.1rem } pre { overflow: auto; padding: .8rem; border: 1px solid #8886; border-radius: .4rem }
table { border-collapse: collapse } td { padding: .1rem 1rem .1rem 0; vertical-align: top }
"""


def api_page(described: Mapping[str, Any]) -> str:
    operations = [
        _operation(method.upper(), path, operation)
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    ]
    schemas = [_schema(name, schema) for name, schema in described.get("components", {}).get("schemas", {}).items()]
    info = described["info"]
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])} API</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('summary', ''))} "
        'For programs: <a href="/openapi.json">openapi.json</a>. A key goes into the header '
        "<code>Authorization: Bearer &lt;key&gt;</code>.</p>"
        f"{''.join(operations)}<h1>Objects</h1>{''.join(schemas)}</body></html>"
    )


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    content = operation.get("requestBody", {}).get("content", {})
    bodies = "".join(f"<p>Body, {escape(kind)}: {_link(body.get('schema', {}))}</p>" for kind, body in content.items())
    answers = "".join(
        f"<tr><td>{escape(status)}</td><td>{escape(answer.get('description', ''))}</td>"
        f"<td>{' '.join(_link(body.get('schema', {})) for body in answer.get('content', {}).values())}</td></tr>"
        for status, answer in operation["responses"].items()
    )
    return (
        f"<h2><code>{method} {escape(path)}</code></h2><p>{escape(operation.get('summary', ''))}</p>"
        f"{bodies}<table>{answers}</table>"
    )


def _link(schema: Mapping[str, Any]) -> str:
    """To the object that it names, if it names one."""
    name = schema.get("$ref", "").rpartition("/")[2]
    return f'<a href="#{escape(name)}">{escape(name)}</a>' if name else ""


def _schema(name: str, schema: Mapping[str, Any]) -> str:
    text = json.dumps(schema, ensure_ascii=False, indent=2)
    return f'<h2 id="{escape(name)}">{escape(name)}</h2><pre>{escape(text)}</pre>'
