"""The service in other programs' words: OpenAI's, ChatGLM-6B's, Dify's and MCP's. Each has a router, listed in `app`.

A dialect knows requests and answers as its clients write them, and otherwise only the service, as `native` does.
"""
