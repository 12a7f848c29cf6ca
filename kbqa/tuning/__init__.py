"""Teach a ChatGLM what your own question and answer pairs show, and measure what it learned and what it forgot."""

from kbqa.tuning.data import Columns, Row, read_rows, split, write_rows

__all__ = ["Columns", "Row", "read_rows", "split", "write_rows"]
