"""A question to the chunks that may answer it, and how far they can be trusted."""

from kbqa.retriever.fusion import Candidates
from kbqa.retriever.passages import expand
from kbqa.retriever.search import Retrieval, Retriever
from kbqa.retriever.synonyms import SynonymFile

__all__ = ["Candidates", "Retrieval", "Retriever", "SynonymFile", "expand"]
