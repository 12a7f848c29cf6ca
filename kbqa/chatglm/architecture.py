"""What a model folder's config.json says."""

from __future__ import annotations

from typing import Literal

__all__ = ["Family"]

Family = Literal["chatglm", "chatglm2", "chatglm3", "glm4"]
