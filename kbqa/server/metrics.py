"""Figures for Prometheus. With several processes they go through files, so that any of them can tell the sum."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.multiprocess import MultiProcessCollector

__all__ = ["CONTENT_TYPE", "SHARED", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_LATEST
SHARED = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own variable: the folder of those files
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    def __init__(self) -> None:
        self._registry = to = CollectorRegistry()
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
        self.stage_seconds = Histogram(
            "kbqa_stage_seconds",
            "search: passages found; first: the first words of an answer; answer: all of it, checked.",
            ["stage"],
            buckets=SECONDS,
            registry=to,
        )
        self.answers = Counter(
            "kbqa_answers",
            "Answers: grounded, refused, written (by the model alone), failed or cancelled.",
            ["outcome"],
            registry=to,
        )
        self.files = Counter(
            "kbqa_files",
            "Files that jobs came to, by what became of them (as in the reports).",
            ["status"],
            registry=to,
        )
        self.jobs = Counter("kbqa_jobs", "Jobs by kind and how they ended.", ["kind", "state"], registry=to)
        self.in_flight = Gauge(
            "kbqa_requests_in_flight", "Requests that are being answered.", multiprocess_mode="livesum", registry=to
        )

    def render(self) -> bytes:
        """The figures in Prometheus' text format."""
        registry = self._registry
        if os.environ.get(SHARED):
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
