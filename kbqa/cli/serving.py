"""kbqa serve, kbqa mcp: the bases for programs."""

from __future__ import annotations

from dataclasses import replace

import click

from kbqa.cli.common import Command, Session, kb_option, pass_session, typed
from kbqa.cli.screen import print_json, say
from kbqa.config import load_config

__all__ = ["mcp", "serve"]


@click.command(cls=Command)
@click.option("--host", type=typed, help="The address to listen on; else server.host of config.yaml (127.0.0.1).")
@click.option("--port", type=click.IntRange(0, 65_535), help="The port, 0 for a free one; else server.port (8000).")
@click.option("--workers", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes that answer.")
@pass_session
def serve(session: Session, host: str | None, port: int | None, workers: int) -> None:
    """Answer over HTTP, until Ctrl-C or SIGTERM.

    Any other address than this machine's own needs a key first: kbqa key add NAME.
    """
    from kbqa.server.serve import serve as run

    config = load_config(session.home)
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    config = replace(config, server=replace(config.server, **given))  # type: ignore[arg-type]

    def started(address: str) -> None:
        if session.json:
            print_json({"url": address})
        else:
            say(f"kbqa answers on {address}  (API: {address}/docs; Ctrl-C ends it)")

    run(session.home, config, workers, started)


@click.command(cls=Command)
@kb_option()
@pass_session
def mcp(session: Session, kb: str | None) -> None:
    """Offer the bases to a language model's program over MCP, on standard input and output.

    The program starts this command itself; its tools are search, ask and list_knowledge_bases. With --kb only that
    base may be asked. For programs on other machines: kbqa serve, and /mcp.
    """
    from kbqa.server.dialects.mcp import serve_stdio

    installation = session.installation()
    serve_stdio(installation, None if kb is None else installation.name(kb))
