"""What a worker process may take, told to the system from inside it. Linux has limits that work this way."""

from __future__ import annotations

import sys

__all__ = ["limit_cpu", "limit_memory"]


def limit_memory(megabytes: int) -> None:
    """Private memory on Linux; other systems have no limit that works this way."""
    if sys.platform.startswith("linux"):
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (megabytes << 20, megabytes << 20))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def limit_cpu(seconds: float) -> None:
    """So that a worker that spins ends by itself even when its parent was killed and cannot end it."""
    if sys.platform.startswith("linux"):
        import resource

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        _, hard = resource.getrlimit(resource.RLIMIT_CPU)
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + seconds) + 1, hard))
