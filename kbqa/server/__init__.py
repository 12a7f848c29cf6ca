"""The service: HTTP in front of an installation. `kbqa serve` starts it; `create_app` is its ASGI application.

fastapi, uvicorn and prometheus_client are imported by nobody else.
"""
