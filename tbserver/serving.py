"""A process that answers: it opens what it needs, says where to log in, and stops gracefully."""

from __future__ import annotations

import signal
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from tbserver import journal
from tbserver.app import create_app
from tbserver.limits import HEAD_MAX, PromptProtocol
from tbserver.server import open_server
from tbserver.settings import Settings, parse_listen
from tbserver.working import working

CONNECTIONS = 2000
STOP_SECONDS = 20


def serve(settings: Settings, listen: str, tls_cert: str | None, tls_key: str | None) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish those that were begun."""
    host, port = parse_listen(listen)
    journal.begin()
    server, password = open_server(settings)
    where = settings.url or f"{'https' if tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    if password is not None:
        print(f"First account: admin, password {password} (good for one login)", file=sys.stderr, flush=True)
    print(f"Log in at {where}", file=sys.stderr, flush=True)
    config = configure(create_app(server), host=host, port=port, ssl_certfile=tls_cert, ssl_keyfile=tls_key)
    # It is told to stop, and ends when it has: not by the signal, which the server passes on at last.
    signal.signal(signal.SIGTERM, lambda *_: None)
    with working(server):
        uvicorn.Server(config).run()


def configure(app: FastAPI, **more: Any) -> uvicorn.Config:
    """How the application is run: what a client may take of the process, and nothing said that was not decided here."""
    return uvicorn.Config(
        app,
        http=PromptProtocol,
        ws="none",
        lifespan="off",
        proxy_headers=False,
        server_header=False,
        log_config=None,
        access_log=False,
        h11_max_incomplete_event_size=HEAD_MAX,
        limit_concurrency=CONNECTIONS,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=STOP_SECONDS,
        **more,
    )
