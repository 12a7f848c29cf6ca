"""Figures for Prometheus. With several processes they go through files, so that any of them can tell the sum.

What counts up is counted where it happens; what merely is so at the moment (jobs in line, the model's queue) is looked
up when somebody asks. Labels have few values, whatever clients send: routes and not paths, no names of bases or keys.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from kbqa import __version__
from kbqa.errors import KbqaError
from kbqa.types import Queued

if TYPE_CHECKING:
    from kbqa.types import Answer, Generator

__all__ = ["CONTENT_TYPE", "SHARED", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own variable: the folder of those files
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
JOB_SECONDS = (1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 4 * 3600)


class Metrics:
    """`generator` writes the answers; `jobs_pending` tells state -> how many jobs wait and run in the installation."""

    def __init__(self, generator: Generator, jobs_pending: Callable[[], Mapping[str, int]]) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside each, as of several processes
        self._registry = to = CollectorRegistry()
        self._moment = _Moment(generator, jobs_pending)
        self.requests = Counter(
            "kbqa_requests",
            "Requests by where they went and how they ended.",
            ["route", "method", "status"],
            registry=to,
        )
        self.request_seconds = Histogram(
            "kbqa_request_seconds",
            "From a request to the last byte of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=to,
        )
        self.in_flight = Gauge(
            "kbqa_requests_in_flight", "Requests that are being answered.", multiprocess_mode="livesum", registry=to
        )
        self.answers = Counter(
            "kbqa_answers",
            "Answers: grounded, refused, written (by the model alone), failed, busy (the model's queue was full) or "
            "cancelled.",
            ["outcome"],
            registry=to,
        )
        self.under_way = Gauge(
            "kbqa_answers_under_way",
            "Answers that wait for a thread (server.threads), and those that have one.",
            ["state"],
            multiprocess_mode="livesum",
            registry=to,
        )
        self.stage_seconds = Histogram(
            "kbqa_stage_seconds",
            "search: passages found for a client; retrieve, generate, check: the parts of an answer; first: its first "
            "words; answer: all of it.",
            ["stage"],
            buckets=SECONDS,
            registry=to,
        )
        self.tokens = Counter(
            "kbqa_tokens",
            "Tokens of answers, also of those that were broken off, as far as the model has told them.",
            ["route", "kind"],
            registry=to,
        )
        self.files = Counter(
            "kbqa_files",
            "Files that jobs came to, by what became of them (as in the reports).",
            ["status"],
            registry=to,
        )
        self.file_seconds = Histogram(
            "kbqa_file_seconds", "Reading a file and taking it in, or failing to.", buckets=SECONDS, registry=to
        )
        self.chunks = Counter("kbqa_chunks", "Passages that jobs took in.", registry=to)
        self.jobs = Counter("kbqa_jobs", "Jobs by kind and how they ended.", ["kind", "state"], registry=to)
        self.job_seconds = Histogram(
            "kbqa_job_seconds", "From a job's beginning to its end.", ["kind"], buckets=JOB_SECONDS, registry=to
        )

    def count_stages(self, answer: Answer) -> None:
        for stage, seconds in answer.stages.items():
            self.stage_seconds.labels(stage).observe(seconds)

    def count_tokens(self, route: str, prompt: int, completion: int) -> None:
        for kind, count in (("prompt", prompt), ("completion", completion)):
            if count:
                self.tokens.labels(route, kind).inc(count)

    def count_file(self, status: str, chunks: int, seconds: float) -> None:
        """One that a job came to, with the fields of a FileReport."""
        self.files.labels(status).inc()
        if status in ("added", "updated", "failed"):
            self.file_seconds.observe(seconds)
        if status in ("added", "updated"):
            self.chunks.inc(chunks)

    def render(self) -> bytes:
        """The figures in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(self._moment)
        if folder := os.environ.get(SHARED):
            _forget_the_dead(Path(folder))
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        ProcessCollector(registry=registry)
        return generate_latest(self._registry) + generate_latest(registry)


class _Moment(Collector):
    """What is so when it is asked. All processes of an installation see the same jobs; a model is only where there is
    a single process."""

    def __init__(self, generator: Generator, jobs_pending: Callable[[], Mapping[str, int]]) -> None:
        self._generator = generator
        self._jobs_pending = jobs_pending

    def collect(self) -> Iterable[Metric]:
        version = GaugeMetricFamily("kbqa_info", "Always 1; what runs.", labels=["version", "generator"])
        version.add_metric([__version__, self._generator.name], 1)
        yield version
        with suppress(KbqaError, OSError):  # the registry cannot be read: /readyz says so
            pending = GaugeMetricFamily("kbqa_jobs_pending", "Jobs that wait, and that run.", labels=["state"])
            for state, count in self._jobs_pending().items():
                pending.add_metric([state], count)
            yield pending
        yield from self._model()

    def _model(self) -> Iterator[Metric]:
        if not isinstance(self._generator, Queued):
            return
        load = self._generator.load
        now = GaugeMetricFamily("kbqa_model_requests", "What the model works on, and its queue.", labels=["state"])
        most = GaugeMetricFamily("kbqa_model_places", "How many of them there may be.", labels=["state"])
        for state, count, places in (("running", load.running, load.slots), ("waiting", load.waiting, load.places)):
            now.add_metric([state], count)
            most.add_metric([state], places)
        yield now
        yield most


def _forget_the_dead(folder: Path) -> None:
    """What a process that was killed had under way counts no more; what it had counted up still does."""
    if os.name == "nt":  # where nobody can be asked whether he lives by sending him nothing
        return
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
        except PermissionError:  # somebody else's by now: it was one of ours
            mark_process_dead(pid)  # type: ignore[no-untyped-call]
