"""Files are read, and cut, in worker processes: a hostile or broken one costs its worker, not the program.

A worker takes one file at a time under a time limit and, where the system has rlimits for it (Linux), a memory limit;
on Windows and macOS the time limit still holds. What a worker sends back is JSON, checked field by field: a document
that takes over a parser cannot reach the parent through pickle.
"""

from kbqa.sandbox.pool import Outcome, Sandbox, read_one
from kbqa.sandbox.rendering import render_page

__all__ = ["Outcome", "Sandbox", "read_one", "render_page"]
