"""A server to look at: signed releases, a simulated fleet, a rollout on its way, and a release that is bad."""

from __future__ import annotations

import hashlib
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from tbdiff.create import Label, create_image
from tbdiff.signature import create_key
from tbserver import accounts, artifacts, tending
from tbserver.accounts import Caller
from tbserver.api import releases
from tbserver.records import Release
from tbserver.rollout import Phase, Plan
from tbserver.server import Server
from tbserver.simulation import SYSTEM, TYPES, Simulation
from tbserver.working import repeating, working

OLD, PRESENT, NEW, BAD = "1.0", "1.1", "1.2", "2.0"
# On what part of the devices a release does not work.
FAULTS = {NEW: 0.01, BAD: 0.3}
EVERY, PART = 0.5, 0.08


def prepare(server: Server, first_password: str, devices: int) -> tuple[Simulation, str]:
    """Fill a new server; the simulation of its devices, and the password of its admin."""
    caller, password = _log_in(server, first_password)
    with tempfile.TemporaryDirectory(dir=server.settings.scratch) as place:
        _publish(server, caller, Path(place))
    simulated = Simulation(server, caller.tenant_id, FAULTS)
    # A few of them were left behind, as it is in life.
    simulated.register(devices, (OLD, *[PRESENT] * 6))
    phases = (Phase(devices=5), Phase(percent=25), Phase(percent=50), Phase())
    _begin(server, caller, NEW, Plan(phases=phases, on_errors="rollback", soak_seconds=20))
    return simulated, password


def _log_in(server: Server, first: str) -> tuple[Caller, str]:
    """The admin, with a password of their own."""
    _, secret = accounts.log_in(server.database, accounts.DEFAULT_TENANT, accounts.FIRST_ACCOUNT, first, "127.0.0.1")
    with server.database.reading() as session:
        caller, _ = accounts.caller_of_login(session, secret)
    password = secrets.token_urlsafe(9)
    accounts.change_password(server.database, caller, first, password)
    return caller, password


def _publish(server: Server, caller: Caller, place: Path) -> None:
    """Make a key, and releases that it signs: full, and each from the one before."""
    create_key(place / "release.key")
    pem = Path(place, "release.key.pub").read_text()
    releases.trust_key(server, caller, releases.NewKey(name="release key of the demo", pem=pem))
    before = None
    for version in (OLD, PRESENT, NEW, BAD):
        tree = _tree(place, version)
        for base in {before, None}:
            image = place / f"{version}-{base is None}.tbdiff"
            label = Label(name=SYSTEM, release=version, device_types=TYPES)
            create_image(base, tree, image, label=label, key=place / "release.key", effort="fast")
            upload(server, caller, image)
        before = tree


def _tree(place: Path, version: str) -> Path:
    tree = place / version
    (tree / "usr/lib").mkdir(parents=True)
    (tree / "usr/lib/library").write_bytes(hashlib.shake_256(b"library").digest(400_000))
    (tree / "usr/lib/app").write_bytes(hashlib.shake_256(version.encode()).digest(60_000))
    (tree / "usr/lib/os-release").write_text(f"NAME=demo\nVERSION_ID={version}\n")
    return tree


def upload(server: Server, caller: Caller, image: Path) -> None:
    """Make an artifact of a file."""
    data = image.read_bytes()
    with server.database.writing() as session:
        begun = artifacts.begin(session, caller, hashlib.sha256(data).hexdigest(), len(data))
    artifacts.add_part(server, caller, begun.id, 0, data)
    artifacts.finish(server, caller, begun.id)


def _begin(server: Server, caller: Caller, version: str, plan: Plan) -> None:
    with server.database.writing() as session:
        wanted = select(Release.id).where(Release.tenant_id == caller.tenant_id, Release.version == version)
        tending.create(session, caller, f"to {version}", session.scalars(wanted).one(), "", plan)


@contextmanager
def living(simulated: Simulation) -> Iterator[None]:
    """Let the devices go on asking, meanwhile."""
    with working(simulated.server, EVERY), repeating(lambda: simulated.ask(PART), EVERY, "devices"):
        yield
