"""A DDI client that we did not write, rauc-hawkbit, goes through whole cycles with the double: so the double is right.

And with our server.
What it would install by way of D-Bus is installed by a stand-in.
"""

from __future__ import annotations

import asyncio
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.ddi_server import TENANT, DDIServer
from tests.unit.test_ddi_contract import SERVERS

IMAGE = bytes(range(256)) * 999
LIMIT = 60


class Bus:
    """A bus on which somebody installs whatever is given to them, and says how it went."""

    def __init__(self, result: int) -> None:
        self.result = result
        self.installed: list[bytes] = []
        self._say: Callable[..., None] = lambda *said: None

    def signal_subscribe(self, *said: Any) -> int:
        self._say = said[-1]
        return 0

    def signal_unsubscribe(self, subscription: int) -> None:
        """Nothing more will be said."""

    def get_cached_property_names(self) -> list[str]:
        return ["Progress"]

    def Install(self, _signature: str, place: str) -> None:
        self.installed.append(Path(place).read_bytes())
        name = "de.pengutronix.rauc.Installer"
        changed = (name, {"Progress": (50, "half of it", 1)}, [])
        loop = asyncio.get_running_loop()
        loop.call_soon(self._say, None, "", "/", "org.freedesktop.DBus.Properties", "PropertiesChanged", changed)
        loop.call_soon(self._say, None, "", "/", name, "Completed", (self.result,))


@pytest.fixture
def bus(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Bus:
    made = Bus(getattr(request, "param", 0))
    gi, repository = types.ModuleType("gi"), types.ModuleType("gi.repository")
    repository.GLib = types.SimpleNamespace(Error=OSError)  # type: ignore[attr-defined]
    repository.Gio = types.SimpleNamespace(  # type: ignore[attr-defined]
        BusType=types.SimpleNamespace(SYSTEM=0),
        bus_get_sync=lambda *_: made,
        DBusProxy=types.SimpleNamespace(new_sync=lambda *_: made),
    )
    monkeypatch.setitem(sys.modules, "gi", gi)
    monkeypatch.setitem(sys.modules, "gi.repository", repository)
    for name in [name for name in sys.modules if name.startswith("rauc_hawkbit")]:
        # It holds the bus of the test before.
        monkeypatch.delitem(sys.modules, name)
    return made


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[DDIServer]:
    with SERVERS[request.param]() as made:
        made.add_device("dev-1")
        yield made


def run(server: DDIServer, place: Path, polls: int) -> None:
    """Let the client poll so often, until nothing it was told is left to be done."""
    with warnings.catch_warnings():
        # Its regular expressions are not written as Python wants them today.
        warnings.simplefilter("ignore", DeprecationWarning)
        from rauc_hawkbit.rauc_dbus_ddi_client import RaucDBUSDDIClient

    class Client(RaucDBUSDDIClient):  # type: ignore[misc]
        async def sleep(self, base: dict[str, Any]) -> None:
            nonlocal polls
            assert base["config"]["polling"]["sleep"] == "00:05:00"
            while self.action_id is not None:
                await asyncio.sleep(0.01)
            polls -= 1
            if not polls:
                raise asyncio.CancelledError

    async def life() -> None:
        token, host = server.add_device("dev-1"), server.url.removeprefix("http://")
        async with aiohttp.ClientSession() as session:
            client = Client(
                session, host, False, TENANT, "dev-1", token, {"MAC": "00:11"}, str(place), lambda result: None
            )
            await asyncio.wait_for(client.start_polling(0.01), LIMIT)
            client.cleanup_dbus()

    # Where a browser was tested before, this thread has a loop that runs already.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, life()).result()


def test_it_installs_what_it_is_given(server: DDIServer, bus: Bus, tmp_path: Path) -> None:
    action = server.add_action("dev-1", {"bundle.raucb": IMAGE})
    run(server, tmp_path / "bundle", 2)
    assert bus.installed == [IMAGE]
    assert server.state(action) == "finished"
    assert server.told(action)[0] == "half of it"
    assert server.attributes("dev-1") == {"MAC": "00:11"}


@pytest.mark.parametrize("bus", [1], indirect=True)
def test_it_tells_of_a_failure(server: DDIServer, bus: Bus, tmp_path: Path) -> None:
    action = server.add_action("dev-1", {"bundle.raucb": IMAGE})
    run(server, tmp_path / "bundle", 1)
    assert (len(bus.installed), server.state(action)) == (1, "error")


def test_it_is_given_one_release_after_the_other(server: DDIServer, bus: Bus, tmp_path: Path) -> None:
    first = server.add_action("dev-1", {"bundle.raucb": IMAGE})
    run(server, tmp_path / "bundle", 2)
    second = server.add_action("dev-1", {"bundle.raucb": IMAGE[::-1]})
    run(server, tmp_path / "bundle", 2)
    assert [server.state(one) for one in (first, second)] == ["finished", "finished"]
    assert bus.installed == [IMAGE, IMAGE[::-1]]


def test_it_does_not_let_itself_be_stopped(server: DDIServer, bus: Bus, tmp_path: Path) -> None:
    action = server.add_action("dev-1", {"bundle.raucb": IMAGE})
    server.cancel(action)
    run(server, tmp_path / "bundle", 2)
    assert server.state(action) == "finished"
    assert server.told(action)[0] == "Cancelling not supported"


# Ours offers nothing of which nothing can come.
@pytest.mark.parametrize("server", ["double"], indirect=True)
def test_without_software_it_says_so(server: DDIServer, bus: Bus, tmp_path: Path) -> None:
    action = server.add_action("dev-1", {})
    run(server, tmp_path / "bundle", 1)
    assert (bus.installed, server.state(action)) == ([], "error")
