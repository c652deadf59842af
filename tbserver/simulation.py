"""A fleet of devices that are none: they ask, take what they are offered, report, and sometimes fail."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.orm import Session

from tbserver import devices, steering
from tbserver.records import Assignment, Device, Release
from tbserver.rollout import Stage
from tbserver.server import Server
from tbupdate.protocol import Feedback, Result, Status

TYPES = ("kiosk", "gateway", "signage")
SITES = (
    ("berlin", "Europe/Berlin"),
    ("lisbon", "Europe/Lisbon"),
    ("oslo", "Europe/Oslo"),
    ("boston", "America/New_York"),
)
SYSTEM = "demo"
LOG = (
    "deployed, booted, on trial",
    "check network: passed in 0.4 s",
    "check app: failed with exit code 1",
    "app.service: Main process exited, code=exited, status=1/FAILURE",
    "app[612]: cannot open /var/lib/app/state: unknown format 4",
    "went back to the release before; it runs, and is committed",
)


@dataclass(frozen=True)
class Simulation:
    """Devices of one tenant. `faults` says of releases on what part of the devices they do not work."""

    server: Server
    tenant_id: int
    faults: Mapping[str, float] = field(default_factory=dict)

    def register(self, count: int, releases: Sequence[str]) -> None:
        """Let devices become known, which run these releases by turns."""
        for n in range(count):
            site, zone = SITES[n * 7 % len(SITES)]
            kind = TYPES[n * 5 // 3 % len(TYPES)]
            said = {
                "device_type": kind,
                "site": f"{site} {n % 9 + 1}",
                "timezone": zone,
                "release": releases[n % len(releases)],
                "name": SYSTEM,
                "health": "good",
            }
            with self.server.database.writing() as session:
                device = devices.register(session, self.tenant_id, f"{kind}-{n + 1:04}")
                devices.describe(session, device, "replace", said | {"serial": f"TB{n * 7919 % 1000000:06}"})
                devices.touch(session, device, f"10.{n % 4}.{n // 200}.{n % 200 + 1}")

    def ask(self, part: float = 1.0) -> int:
        """Let a part of the devices ask, by chance; how many of them had something to do."""
        query = select(Device.id).where(Device.tenant_id == self.tenant_id).order_by(Device.id)
        with self.server.database.reading() as session:
            known = session.scalars(query).all()
        some = random.sample(known, round(len(known) * part))  # nothing secret hangs on it
        return sum(self._ask(device_id) for device_id in sorted(some))

    def _ask(self, device_id: int) -> bool:
        with self.server.database.writing() as session:
            one = steering.take(session, device_id)
            device = session.get_one(Device, device_id)
            devices.touch(session, device, device.address)
            if one is None or one.state == Stage.INSTALLED:
                return False
            self._do(session, device, one)
            return True

    def _do(self, session: Session, device: Device, one: Assignment) -> None:
        release = session.get_one(Release, one.release_id).version
        if one.state == Stage.STOPPING:
            _report(session, device, one, "closed", "success", "it was stopped", on_stop=True)
        elif one.state == Stage.OFFERED:
            _report(
                session, device, one, "proceeding", "none", "it goes back" if one.command else "it fetches the image"
            )
        elif not one.command and self._fails(device.controller, release):
            _report(session, device, one, "closed", "failure", *LOG)
        else:
            devices.describe(session, device, "merge", {"release": release, "name": SYSTEM})
            _report(session, device, one, "closed", "success", f"it runs {release}, and is committed")

    def _fails(self, controller: str, release: str) -> bool:
        drawn = hashlib.sha256(f"{controller} {release}".encode()).digest()
        return int.from_bytes(drawn[:4], "big") < self.faults.get(release, 0.0) * (1 << 32)


def _report(
    session: Session, device: Device, one: Assignment, execution: str, finished: str, *lines: str, on_stop: bool = False
) -> None:
    status = Status.model_validate(
        {"execution": execution, "result": Result.model_validate({"finished": finished}), "details": lines}
    )
    steering.report(session, device, str(one.id), Feedback(status=status), on_stop=on_stop)
