"""Settings of config.yaml that do nothing, because they belong to another kind of embedder or generator.

They are told and no error: who tries another kind for a day, or an older config.yaml, is not to be stopped by what
stands there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import Any

from kbqa.config import Config, EmbedderConfig, GeneratorConfig

__all__ = ["KINDS", "Idle", "idle_settings"]

CHATGLM = "chatglm"
LOCAL = "chatglm, transformers"
WRITERS = "chatglm, openai, transformers, langchain"
KINDS: Mapping[str, Mapping[str, str]] = {
    "embedder": {
        "model": "sentence-transformers, openai",
        "device": "sentence-transformers",
        "dtype": "sentence-transformers",
        "batch_size": "sentence-transformers, openai",
        "query_instruction": "sentence-transformers",
        "passage_instruction": "sentence-transformers",
        "base_url": "openai",
        "api_key_env": "openai",
        "import_path": "langchain",
        "options": "langchain",
    },
    "generator": {
        "sentences": "extractive",
        "model": "chatglm, openai, transformers",
        "base_url": "openai",
        "api_key_env": "openai",
        "timeout": "openai",
        "device": LOCAL,
        "dtype": LOCAL,
        **dict.fromkeys(("quantize", "prefix", "adapters", "adapter", "family", "context", "slots"), CHATGLM),
        "waiting": LOCAL,
        "import_path": "langchain",
        "options": "openai, transformers, langchain",
        "temperature": WRITERS,
        "max_tokens": WRITERS,
    },
}


@dataclass(frozen=True, slots=True)
class Idle:
    """`kinds` are those for which `setting` is, `kind` is the one at hand."""

    setting: str
    kinds: str
    kind: str

    def __str__(self) -> str:
        return f"{self.setting} is for kind {self.kinds}; it does nothing with kind {self.kind}"


def idle_settings(config: Config) -> Iterator[Idle]:
    """Each that is set to something and that its section's kind does not look at."""
    for name, section in (("embedder", config.embedder), ("generator", config.generator)):
        for setting in fields(section):
            kinds = KINDS[name].get(setting.name)
            if kinds and section.kind not in kinds.split(", ") and _is_set(section, setting):
                yield Idle(f"{name}.{setting.name}", kinds, section.kind)


def _is_set(section: EmbedderConfig | GeneratorConfig, setting: Field[Any]) -> bool:
    usual = setting.default if setting.default_factory is MISSING else setting.default_factory()
    return bool(getattr(section, setting.name) != usual)
