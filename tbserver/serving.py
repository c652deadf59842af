"""A process that answers: it opens what it needs, says where to log in, and stops gracefully."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import ssl
import sys
from typing import Any

import uvicorn
from fastapi import FastAPI

from tbdiff.errors import Failed, Rejected
from tbserver import delivery, journal
from tbserver.app import create_app
from tbserver.limits import HEAD_MAX, PromptProtocol
from tbserver.server import Server, open_server
from tbserver.settings import Settings, parse_listen
from tbserver.working import working

CONNECTIONS = 2000
STOP_SECONDS = 20


def serve(settings: Settings, listen: str, tls_cert: str | None, tls_key: str | None) -> None:
    """Answer requests until SIGTERM or SIGINT; then finish those that were begun."""
    journal.begin()
    require_place(listen)
    if tls_cert is not None:
        require_certificate(tls_cert, tls_key)
    server, password = open_server(settings)
    if password is not None:
        _tell(f"First account: admin, password {password} (good for one login)")
    if settings.making.makers:
        _tell(delivery.advice(settings))
    with working(server):
        _answer(server, listen, tls_cert, tls_key)


def show(settings: Settings, listen: str, devices: int) -> None:
    """The same over a new server with a simulated fleet, which goes on meanwhile."""
    from tbserver import demo  # noqa: PLC0415 - it makes images, which no server does

    journal.begin(logging.WARNING)
    require_place(listen)
    server, first = open_server(settings)
    if first is None:
        raise Rejected(f"there is a server in {settings.data} already", "Name an empty directory with --data.")
    simulated, password = demo.prepare(server, first, devices)
    _tell(f"A simulated fleet of {devices} devices. Release {demo.BAD} is a bad one: roll it out, and see it stop.")
    _tell(f"Account: admin, password {password}")
    with demo.living(simulated):
        _answer(server, listen, None, None)


def _tell(words: str) -> None:
    print(words, file=sys.stderr, flush=True)


def require_place(listen: str) -> None:
    """Refuse a place where nobody can listen, before anything is made for a server there."""
    host, port = parse_listen(listen)
    try:
        for family, _, _, _, address in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
            socket.create_server(address, family=family).close()
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        if number == errno.EAFNOSUPPORT:
            # A name also stands for addresses of a kind that this system has not; they are passed over.
            return
        # Python adds to the words of the system what was said already; those on names are not the system's.
        why = os.strerror(number) if number > 0 else getattr(error, "strerror", "it is no name of a machine")
        raise Failed(
            f"nobody can listen at {listen}: {why}; nothing was done",
            "Name another place with --listen HOST:PORT, or stop what listens there already.",
        ) from None


def require_certificate(cert: str, key: str | None) -> None:
    """Refuse what TLS cannot be spoken with, before anything is made for a server."""
    try:
        # Without a password: who would ask for one is no person.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except OSError as error:
        files = f"{cert} and {key} are" if key else f"{cert} is"
        why = error.strerror if not isinstance(error, ssl.SSLError) else f"{files} no certificate with its private key"
        raise Rejected(
            f"TLS cannot be spoken: {why}; nothing was done",
            "Name a certificate with --tls-cert, and the key that it was made for with --tls-key: PEM, no password.",
        ) from None


def _answer(server: Server, listen: str, tls_cert: str | None, tls_key: str | None) -> None:
    host, port = parse_listen(listen)
    where = f"{'https' if tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"
    _tell(f"Log in at {server.settings.url or where}")
    config = configure(create_app(server), host=host, port=port, ssl_certfile=tls_cert, ssl_keyfile=tls_key)
    # It is told to stop, and ends when it has: not by the signal, which the server passes on at last.
    signal.signal(signal.SIGTERM, lambda *_: None)
    Answering(config).run()


class Answering(uvicorn.Server):
    """What answers; the application can see that it is about to stop, and ends what would go on for long."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        app = config.app
        if isinstance(app, FastAPI):
            app.state.is_stopping = lambda: self.should_exit


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
