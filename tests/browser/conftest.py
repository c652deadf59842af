"""A browser as the distribution has it, and a server on the loopback interface that it talks to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tbserver import tending
from tbserver.server import Server, open_server
from tbserver.settings import Settings
from tbserver.simulation import TYPES, Simulation
from tests.server.images import Works
from tests.server.live import listening

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
FIELDS = "input:not([type=hidden]), select, textarea"


@pytest.fixture(scope="session")
def browser_type_launch_args() -> dict[str, Any]:
    """Debian's browser: nothing is downloaded for tests."""
    return {"executable_path": "/usr/bin/chromium", "args": list(OPTIONS)}


@dataclass
class Site:
    """A server, its simulated devices, and who looks at it."""

    server: Server
    url: str
    first_password: str
    page: Page
    works: Works
    devices: Simulation
    complaints: list[str] = field(default_factory=list)

    def go_on(self, times: int = 1) -> None:
        """All devices ask, and rollouts are looked after."""
        for _ in range(times):
            tending.tend(self.server.database)
            self.devices.ask()
            tending.tend(self.server.database)

    def open(self, place: str) -> None:
        """Go there by the address."""
        self.page.goto(self.url + place, wait_until="domcontentloaded")

    def check(self) -> None:
        """Each field has a name for who does not see, and nothing is wider than the screen."""
        nameless = f"[...document.querySelectorAll({FIELDS!r})].filter((one) => !one.labels.length).length"
        assert self.page.evaluate(nameless) == 0, self.page.url
        wide = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert self.page.evaluate(wide) <= 0, self.page.url


@pytest.fixture
def site(tmp_path: Path, page: Page) -> Iterator[Site]:
    """A new server and a browser; whatever the browser refuses or complains of fails the test."""
    server, password = open_server(Settings(data=tmp_path / "data"))
    assert password is not None
    try:
        with listening(server) as url:
            made = Site(server, url, password, page, Works(tmp_path, TYPES), Simulation(server, 1, {"2.0": 0.6}))
            # A busy machine is no fault of a page.
            expect.set_options(timeout=60_000)
            page.set_default_timeout(60_000)
            page.on("console", lambda said: made.complaints.append(said.text) if said.type == "error" else None)
            page.on("pageerror", lambda error: made.complaints.append(str(error)))
            yield made
            page.goto("about:blank")
            assert made.complaints == []
    finally:
        server.database.close()
