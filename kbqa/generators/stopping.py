"""Stop strings in text that comes in pieces."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["Stopper"]


class Stopper:
    """Lets text through up to the first stop string; `hit` tells that one has come.

    What could be the beginning of a stop string is held back until the next piece decides it.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = [text for text in stop if text]
        self._held = ""
        self.hit = False

    def add(self, text: str) -> str:
        """The text that may be shown now; none any more once a stop string has come."""
        if self.hit:
            return ""
        text = self._held + text
        if found := [at for stop in self._stop if (at := text.find(stop)) >= 0]:
            self.hit, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def end(self) -> str:
        """What was held back and turned out to be no stop string."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of `text` begin `stop`."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
