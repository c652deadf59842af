"""The command that makes this device known to its server."""

from __future__ import annotations

import os
import sys

import click

from tbdiff.errors import NothingToDo, Rejected
from tbupdate import config, identity, planning
from tbupdate.cli.conduct import glance
from tbupdate.cli.options import everywhere, settings
from tbupdate.cli.serving import enrol as exchange_tokens
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import print_json, print_lines
from tbupdate.config import Config, Server
from tbupdate.layout import STATE
from tbupdate.reach import Reach


@click.command()
@click.argument("url", required=False)
@click.option("--token", metavar="TOKEN|-", required=True, help="The token that is good once; - reads it from stdin.")
@everywhere
def enrol(url: str | None, token: str) -> None:
    """Exchange a token that is good once for this device's own, at the server URL (default: the configured one)."""
    said = settings()
    rules = config.load(said.config)
    typed = sys.stdin.readline() if token == "-" else token  # noqa: S105 - it says where the token is
    once = identity.check_token(typed)
    with Reach(rules.fetch) as reach, working(said, rules) as site:
        system, state = glance(site), os.path.join(site.top, STATE)
        planning.require_layout(system)
        server = identity.settled(_server(url, rules), state, running=system.booted_id is not None)
        if not server.url:
            raise Rejected(
                "no server is named; nothing was sent", "Name its URL, here or in config.toml: [server] url = …"
            )
        known = identity.read(state)
        if known is not None and known.done and (known.url, known.id) == (server.url, server.id):
            raise NothingToDo(f"this device is known to {server.url} as {server.id} already")
        exchange_tokens(identity.enrolling(server, once), server, state, reach)
    if said.json:
        print_json({"done": "enrol", "url": server.url, "tenant": server.tenant, "id": server.id})
    else:
        print_lines([f"{server.url} knows this device as {server.id}."])


def _server(url: str | None, rules: Config) -> Server:
    """The configured server, or another one where none is configured."""
    configured = rules.server
    if url is None:
        return configured
    if configured.url and configured.url != url.rstrip("/"):
        raise Rejected(
            f"config.toml names another server, {configured.url}; nothing was sent", "Correct it there first."
        )
    try:
        return Server.model_validate(configured.model_dump() | {"url": url})
    except ValueError:
        raise Rejected(
            f"{url} is no https:// address of a server; nothing was sent",
            "Name one such as https://updates.example.org.",
        ) from None
