"""`python -m benchmarks.fleet [DEVICES]`: bytes that a fleet fetches for a release, by what it is offered.

Four releases of a real Debian: 1.0 as a point release left it, 2.0 with what was published since, 1.1 the same with
what somebody changed in an afternoon, and 2.1: 2.0 with a few bytes of twenty programs fixed.
A fleet that runs all of them is brought to 2.1 by a rollout of a real server, which is asked by DDI what each device
would fetch: with full images only; with a delta from the release before that somebody made and uploaded; and with what
the server makes by itself.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sqlalchemy import select
from starlette.testclient import TestClient

from tbdiff.create import Label, create_image
from tbdiff.show import size
from tbdiff.signature import create_key
from tbserver import demo, devices, tending, workshop
from tbserver.accounts import Caller, Role, create_local_token
from tbserver.api import releases
from tbserver.app import create_app
from tbserver.records import Account, Artifact, Device, Release
from tbserver.rollout import Plan
from tbserver.server import Server, open_server
from tbserver.settings import Settings
from tbserver.tokens import digest
from tests.corpus.debian import Corpus, corpus

# Of a thousand devices so many run what; most follow, some were away for long.
SPREAD = {"1.0": 100, "1.1": 150, "2.0": 700, "2.1": 50}
NEW, BEFORE = "2.1", "2.0"
FIXED = 20


def main() -> None:
    """Measure one rollout."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else sum(SPREAD.values())
    with corpus() as held, tempfile.TemporaryDirectory(prefix="tb-bench-", dir="/var/tmp") as place:
        with _fixed(held) as newest:
            trees = {"1.0": held.point_v1, "1.1": held.tiny_v2, "2.0": held.point_v2, NEW: newest}
            images = _images(trees, Path(place))
        server, _ = open_server(Settings(data=Path(place, "data")))
        try:
            _measure(server, images, Path(place), count)
        finally:
            server.database.close()


@contextmanager
def _fixed(held: Corpus) -> Iterator[Path]:
    """2.0, with a few bytes of twenty programs changed."""
    tree = held.top / "bench-fleet"
    subprocess.run(["btrfs", "-q", "subvolume", "snapshot", held.point_v2, tree], check=True)
    try:
        dice = random.Random(1)
        for path in sorted(one for one in (tree / "usr/bin").iterdir() if one.is_file() and not one.is_symlink())[
            :FIXED
        ]:
            content = bytearray(path.read_bytes())
            for _ in range(8):
                content[dice.randrange(len(content))] ^= 1
            path.write_bytes(content)
        yield tree
    finally:
        subprocess.run(["btrfs", "-q", "subvolume", "delete", tree], check=True, stdout=subprocess.DEVNULL)


def _images(trees: Mapping[str, Path], place: Path) -> dict[str, Path]:
    """A full image of each, signed."""
    create_key(place / "release.key")
    found = {}
    for version, tree in trees.items():
        found[version] = place / f"{version}.tbdiff"
        label = Label(name="debian", release=version)
        create_image(None, tree, found[version], label=label, key=place / "release.key", effort="fast")
        print(f"{version}: a full image of {size(found[version].stat().st_size)}", flush=True)
    return found


def _measure(server: Server, images: Mapping[str, Path], place: Path, count: int) -> None:
    with server.database.writing() as session:
        create_local_token(session, "default", "bench", Role.ADMIN, 1)
        account = session.scalars(select(Account).where(Account.name == "bench")).one()
        caller = Caller(1, "default", account.id, account.name, Role.ADMIN)
    releases.trust_key(server, caller, releases.NewKey(name="bench", pem=(place / "release.key.pub").read_text()))
    for image in images.values():
        demo.upload(server, caller, image)
    fleet = _register(server, count)
    with server.database.writing() as session:
        newest = session.scalars(select(Release.id).where(Release.version == NEW)).one()
        tending.create(session, caller, f"to {NEW}", newest, "", Plan())
    tending.tend(server.database)
    # Before the first device asks, as where a rollout has a start or waits for approval.
    begun = time.monotonic()
    # The server's settings are those that it starts with, but for a machine that others use, too.
    patient = replace(server, settings=replace(server.settings, making=replace(server.settings.making, seconds=7200)))
    while workshop.make_next(patient):
        pass
    taken = time.monotonic() - begun
    offered = _offered(TestClient(create_app(server)), fleet)
    full = {device: max(sizes) for device, sizes in offered.items()}
    made = {device: min(sizes) for device, sizes in offered.items()}
    one_before = {device: made[device] if version == BEFORE else full[device] for device, version in fleet.items()}
    _say("full images only", full, full)
    _say(f"and a delta {BEFORE} to {NEW}", one_before, full)
    _say("and what the server makes", made, full)
    with server.database.reading() as session:
        deltas = session.scalars(select(Artifact).where(Artifact.made == "delta").order_by(Artifact.id)).all()
        bases = {row.tree: row.version for row in session.scalars(select(Release))}
    for one in deltas:
        print(f"  {bases[one.base]} to {NEW}: {size(one.size)}")
    print(f"  made in {taken:.0f} s, one after the other")


def _register(server: Server, count: int) -> dict[str, str]:
    """Devices, and what each of them runs."""
    whole = sum(SPREAD.values())
    runs = [version for version, some in SPREAD.items() for _ in range(count * some // whole)]
    fleet = {f"box-{n}": version for n, version in enumerate(runs)}
    with server.database.writing() as session:
        for name, version in fleet.items():
            device: Device = devices.register(session, 1, name, digest(name))
            devices.describe(session, device, "replace", {"release": version, "name": "debian"})
    return fleet


def _offered(web: TestClient, fleet: Mapping[str, str]) -> dict[str, list[int]]:
    """What each device could fetch, in bytes: it takes the smallest; nothing is offered to one that is there."""
    found = {}
    for name in fleet:
        headers = {"Authorization": f"TargetToken {name}"}
        links = web.get(f"/default/controller/v1/{name}", headers=headers).json()["_links"]
        if "deploymentBase" in links:
            said = web.get(links["deploymentBase"]["href"], headers=headers).json()
            found[name] = [one["size"] for one in said["deployment"]["chunks"][0]["artifacts"]]
    return {name: found.get(name, [0]) for name in fleet}


def _say(what: str, fetched: Mapping[str, int], full: Mapping[str, int]) -> None:
    whole, most = sum(fetched.values()), sum(full.values())
    print(
        f"{what:28} {size(whole):>10}, {100 * whole / most:5.1f} %; for a device {size(whole // len(fetched))}",
        flush=True,
    )


if __name__ == "__main__":
    main()
