"""One knowledge base on disk: SQLite is the truth, FAISS and tantivy are derived from it.

catalogue   kb.sqlite: documents, chunks, vectors, which derived indexes there are
vectors     dense search: exact in memory, FAISS on disk
lexical     BM25: exact in memory, tantivy on disk
derived     how the writer brings these up to the catalogue
snapshot    what a search looks at
writer, store, switch (rebuild), backup, verify
"""

from kbqa.store.backup import backup, backup_name, restore
from kbqa.store.catalogue import FORMAT, Counts, FileStat, Passport, StoredDocument, text_digest
from kbqa.store.derived import Limits
from kbqa.store.store import Store
from kbqa.store.switch import set_aside
from kbqa.store.verify import Finding, VerifyReport, verify
from kbqa.store.writer import Writer

__all__ = [
    "FORMAT",
    "Counts",
    "FileStat",
    "Finding",
    "Limits",
    "Passport",
    "Store",
    "StoredDocument",
    "VerifyReport",
    "Writer",
    "backup",
    "backup_name",
    "restore",
    "set_aside",
    "text_digest",
    "verify",
]
