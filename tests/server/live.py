"""A server on the loopback interface, and the same as what keeps the contract of DDI."""

from __future__ import annotations

import hashlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from sqlalchemy import select

from tbserver import devices, files, steering, tallies
from tbserver.app import create_app
from tbserver.records import Artifact, Assignment, Device, DeviceToken, Release, Report, Rollout, Statements, Tenant
from tbserver.rollout import Plan, Stage, State
from tbserver.server import Server, open_server
from tbserver.serving import configure
from tbserver.settings import Settings
from tbserver.tokens import digest
from tests.ddi_server import TENANT

WORDS = {
    Stage.SUCCEEDED: "finished",
    Stage.INSTALLED: "finished",
    Stage.FAILED: "error",
    Stage.CANCELLED: "canceled",
}


@contextmanager
def listening(server: Server) -> Iterator[str]:
    """Answer on the loopback interface; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        running = uvicorn.Server(configure(create_app(server)))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            while not running.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            running.should_exit = True
            thread.join()


class Live:
    """The server, told what to do by its records."""

    gateway_token = "gateway-token-of-demo"

    def __init__(self, server: Server, url: str) -> None:
        self.server, self.url = server, url
        self._numbers = iter(range(1, 1 << 20))
        with server.database.writing() as session:
            tenant = Tenant(name=TENANT, created=0)
            session.add(tenant)
            session.flush()
            self.tenant_id = tenant.id
            self._token(session, "gateway", self.gateway_token, None)

    def _token(self, session: Any, kind: str, secret: str, device: str | None) -> None:
        session.add(
            DeviceToken(
                tenant_id=self.tenant_id, kind=kind, name="test", digest=digest(secret), controller=device, created=0
            )
        )

    def _device(self, session: Any, device: str) -> Device:
        query = select(Device).where(Device.tenant_id == self.tenant_id, Device.controller == device)
        found = session.scalar(query)
        assert isinstance(found, Device)
        return found

    def add_device(self, device: str) -> str:
        with self.server.database.writing() as session:
            devices.register(session, self.tenant_id, device).token = digest(f"token-of-{device}")
        return f"token-of-{device}"

    def add_enrolment(self, device: str) -> str:
        with self.server.database.writing() as session:
            self._token(session, "enrolment", f"once-for-{device}", device)
        return f"once-for-{device}"

    def add_action(
        self,
        device: str,
        files: Mapping[str, bytes],
        *,
        version: str = "1.0",
        update: Any = "attempt",
        confirm: bool = False,
        command: str = "",
    ) -> str:
        # Where others say "skip", this server does not say anything yet.
        later = {"start": (1 << 37) - 1} if update == "skip" else {"handling": update}
        plan = Plan(confirm=confirm, **later)
        number = next(self._numbers)
        with self.server.database.writing() as session:
            release = Release(
                tenant_id=self.tenant_id,
                tree=hashlib.sha256(f"{number}".encode()).hexdigest(),
                statement=b"",
                name="demo",
                version=version,
                epoch=0,
                device_types=[],
                size=0,
                created=0,
            )
            session.add(release)
            session.flush()
            for name, data in files.items():
                self._artifact(session, release, name, data)
            accountable = session.scalar(select(Rollout.created_by)) or 1
            row = Rollout(
                tenant_id=self.tenant_id,
                name=f"rollout {number}",
                release_id=release.id,
                filter="",
                plan=plan.model_dump(mode="json"),
                state=State.RUNNING,
                phase=0,
                seed="",
                reason="",
                created_by=accountable,
                created=0,
            )
            session.add(row)
            session.flush()
            one = Assignment(
                tenant_id=self.tenant_id,
                rollout_id=row.id,
                device_id=self._device(session, device).id,
                release_id=release.id,
                command=command,
                phase=0,
                state=Stage.WAITING,
                why="",
            )
            session.add(one)
            tallies.add(session, self.tenant_id, tallies.stages_of(row.id, 0), {Stage.WAITING: 1})
            session.flush()
            # As if the device had asked already.
            steering.take(session, one.device_id)
            return str(one.id)

    def _artifact(self, session: Any, release: Release, name: str, data: bytes) -> None:
        sums = {kind: hashlib.new(kind, data).hexdigest() for kind in ("md5", "sha1")}
        whole = hashlib.sha256(data).hexdigest()
        self.server.store.put(files.key_of(self.tenant_id, whole), data)
        found = session.scalar(select(Artifact).where(Artifact.digest == whole))
        if found is not None:
            found.digest += "-"  # of a release before, which nobody asks for any more
            session.flush()
        session.add(
            Artifact(
                tenant_id=self.tenant_id,
                release_id=release.id,
                name=name,
                digest=whole,
                size=len(data),
                image=whole,
                base="",
                free=0,
                encoders=[],
                signers=[],
                made="uploaded",
                created=0,
                **sums,
            )
        )

    def put_statements(self, chain: bytes, version: int) -> None:
        with self.server.database.writing() as session:
            session.merge(Statements(tenant_id=self.tenant_id, chain=chain, version=version))

    def cancel(self, action: str) -> None:
        with self.server.database.writing() as session:
            one = session.get_one(Assignment, int(action))
            device = session.get_one(Device, one.device_id)
            steering.ask_to_stop(session, device, one, "asked to stop")

    def state(self, action: str) -> str:
        with self.server.database.reading() as session:
            return WORDS.get(Stage(session.get_one(Assignment, int(action)).state), "open")

    def told(self, action: str) -> list[str]:
        with self.server.database.reading() as session:
            query = select(Report.details).where(Report.assignment_id == int(action)).order_by(Report.id)
            return [line for lines in session.scalars(query) for line in lines]

    def attributes(self, device: str) -> dict[str, str]:
        with self.server.database.reading() as session:
            return devices.attributes(session, self._device(session, device))

    def installed(self, device: str) -> tuple[str, str] | None:
        with self.server.database.reading() as session:
            found = self._device(session, device)
            return (found.system, found.release) if found.release else None


@contextmanager
def live(database_url: str = "") -> Iterator[Live]:
    """A server that runs, with what the contract of DDI wants of it."""
    with tempfile.TemporaryDirectory() as place:
        server, _ = open_server(Settings(data=Path(place), database=database_url))
        try:
            with listening(server) as url:
                yield Live(server, url)
        finally:
            server.database.close()
