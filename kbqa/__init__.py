"""kbqa: answers from your own documents, with citations, offline."""

__all__ = ["__version__"]

__version__ = "0.1.0"
