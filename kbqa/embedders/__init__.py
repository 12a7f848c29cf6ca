"""Texts to unit vectors. Each implementation is a module of its own, so that none pays for the libraries of another.

- `static.StaticEmbedder`: built in, numpy only, the default
- `sentence_transformer.SentenceTransformerEmbedder`: a local model folder, on the CPU or a GPU
- `openai.OpenAIEmbedder`: any server with an OpenAI-compatible `/embeddings`
- `langchain.LangChainEmbedder`: any LangChain `Embeddings`, by its import path
"""
