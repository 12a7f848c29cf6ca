"""Settings in a file of YAML: a mapping in which no key stands twice, or an error that names the line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kbqa.errors import ConfigError

__all__ = ["read_yaml"]


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings or sections that a file holds; none when it is not there. ConfigError when it is no such file."""
    import yaml

    try:
        loader = yaml.SafeLoader(path.read_text(encoding="utf-8-sig"))
        tree = loader.get_single_node()
        if twice := _twice(tree):
            raise ConfigError(f"{path} holds {twice}; keep one of them")
        loaded = None if tree is None else loader.construct_document(tree)
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        where = getattr(error, "problem_mark", None)
        line = f" (line {where.line + 1})" if where else ""
        why = getattr(error, "problem", None) or getattr(error, "reason", error)
        raise ConfigError(f"{path} is not valid YAML{line}: {why}") from error
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} must hold sections (knowledge:, embedder:, ...), not a {type(loaded).__name__}")
    return {str(key): value for key, value in loaded.items()}


def _twice(tree: Any) -> str:
    """Which key stands twice and where, in a tree of YAML nodes: YAML itself would silently take the later one."""
    waiting, looked_at = [("", tree)], set()
    for prefix, node in waiting:
        if getattr(node, "id", "") != "mapping" or id(node) in looked_at:  # an alias may lead back to its own mapping
            continue
        looked_at.add(id(node))
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = f"{prefix}{key.value}", key.start_mark.line + 1
            if name in lines:
                return f"{name} twice, in lines {lines[name]} and {line}"
            lines[name] = line
            waiting.append((f"{name}.", value))
    return ""
