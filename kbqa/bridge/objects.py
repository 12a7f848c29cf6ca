"""A knowledge base as a LangChain retriever, an embedder as LangChain embeddings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document as LangChainDocument
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from pydantic import Field, GetPydanticSchema
from pydantic_core.core_schema import is_instance_schema

from kbqa.build import Installation
from kbqa.chain import KnowledgeBase
from kbqa.config import find_home
from kbqa.types import Embedder, Hit

__all__ = ["KbqaEmbeddings", "KbqaRetriever", "open_retriever"]


# Checked to be one and otherwise left alone: pydantic would look into its fields, as it is a dataclass.
_KnowledgeBase = Annotated[KnowledgeBase, GetPydanticSchema(lambda cls, handler: is_instance_schema(cls))]


class KbqaRetriever(BaseRetriever):
    """The `k` best passages of an open knowledge base, best first; sync, async and in batches.

    `page_content` is the passage, table rows with their header. The metadata holds id, source, title, heading, page,
    span, score and the `confidence` in [0, 1] that the passages answer the question. Below `min_confidence` nothing
    is returned at all; `kbqa ask` refuses below `retrieval.min_confidence` of config.yaml.
    """

    knowledge_base: _KnowledgeBase
    k: int = Field(default=4, ge=1)
    min_confidence: float = Field(default=0.0, ge=0, le=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[LangChainDocument]:
        found = self.knowledge_base.search(query, self.k)
        if found.confidence < self.min_confidence:
            return []
        return [_document(hit, found.confidence) for hit in found.hits]


def _document(hit: Hit, confidence: float) -> LangChainDocument:
    chunk = hit.chunk
    metadata: dict[str, Any] = {
        "id": chunk.id,
        "source": chunk.source,
        "title": chunk.title,
        "heading": chunk.heading,
        "page": chunk.page,  # counted from 1
        "span": list(chunk.span),
        "score": hit.score,
        "confidence": confidence,
    }
    return LangChainDocument(page_content=chunk.passage, metadata=metadata, id=str(chunk.id))


@contextmanager
def open_retriever(
    home: str | Path | None = None, kb: str | None = None, k: int = 4, min_confidence: float = 0.0
) -> Iterator[KbqaRetriever]:
    """The base `kb` of a home folder, open for as long as the `with` block runs; both default as for `kbqa ask`."""
    with Installation(find_home(home)).open(kb) as knowledge_base:
        yield KbqaRetriever(knowledge_base=knowledge_base, k=k, min_confidence=min_confidence)


class KbqaEmbeddings(Embeddings):
    """Any kbqa embedder, for LangChain's vector stores. Vectors have unit length."""

    def __init__(self, embedder: Embedder) -> None:
        self.embedder = embedder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[float(x) for x in row] for row in self.embedder.embed_passages(texts)]

    def embed_query(self, text: str) -> list[float]:
        return [float(x) for x in self.embedder.embed_query(text)]
