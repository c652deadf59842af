"""A device that asks: found by what it sends, and answered in one transaction, again while the database is away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, TypeVar
from urllib.parse import quote

import pydantic
from fastapi import Depends, Request, Response
from sqlalchemy.orm import Session

from tbserver import devices, peers
from tbserver.access import Here
from tbserver.records import Device
from tbserver.refusals import NotKnown, NotThere, NotValid, Over
from tbupdate import protocol

# What a proxy says of the certificate that it has verified.
CERTIFIED = "x-controller-id"
# Where devices ask, below the name of their tenant.
PLACE = "/controller/v1/"
T = TypeVar("T")
_CONTROLLER: pydantic.TypeAdapter[str] = pydantic.TypeAdapter(protocol.ControllerId)


class Unanswered(Exception):
    """A request of a device that gets a status and nothing else, as devices expect it."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def unanswered(_: Request, error: Exception) -> Response:
    """The answer to it."""
    return Response(status_code=error.status if isinstance(error, Unanswered) else 500)


class Asking:
    """A device that asks: `read` and `write` find it, and do something for it in one transaction."""

    def __init__(self, server: Here, request: Request, tenant: str, controller: str) -> None:
        self.server = server
        self._tenant, self._controller = tenant, controller
        said = request.headers
        self._authorization = said.get("authorization", "")
        self._certified = said.get(CERTIFIED) if peers.is_proxy(server.settings, request) else None
        self._registers = request.method == "GET"
        self.address = peers.address_of(server.settings, request)
        place = f"{quote(tenant)}{PLACE}{quote(controller)}"
        self.base = f"{peers.origin_of(server.settings, request)}/{place}"

    def read(self, do: Callable[[Session, Device], T]) -> T:
        """Look at something of the device; one that is not known yet becomes so, if it may."""

        def looked(session: Session) -> tuple[T] | None:
            device = self._identified(session)[1]
            return None if device is None else (self._answered(do, session, device),)

        found = self.server.database.patiently(looked, writes=False)
        return self.write(do) if found is None else found[0]

    def write(self, do: Callable[[Session, Device], T]) -> T:
        """Do something for it that must not be lost: again, while the database is away."""

        def done(session: Session) -> T:
            tenant_id, device = self._identified(session)
            if device is None:
                device = devices.register(session, tenant_id, self._controller)
            return self._answered(do, session, device)

        return self.server.database.patiently(done)

    def enrol(self, chosen: str) -> None:
        """Make it known."""
        if not _is_controller(self._controller):
            raise Unanswered(401)

        def done(session: Session) -> None:
            devices.enrol(session, self._tenant, self._controller, self._authorization, chosen)

        try:
            self.server.database.patiently(done)
        except NotKnown:
            raise Unanswered(401) from None

    def _identified(self, session: Session) -> tuple[int, Device | None]:
        registers = self._registers and _is_controller(self._controller)
        try:
            return devices.identify(
                session, self._tenant, self._controller, self._authorization, self._certified, registers=registers
            )
        except NotKnown:
            raise Unanswered(401) from None

    @staticmethod
    def _answered(do: Callable[[Session, Device], T], session: Session, device: Device) -> T:
        try:
            return do(session, device)
        except (NotThere, Over) as refusal:
            raise Unanswered(refusal.status) from None
        except NotValid:
            raise Unanswered(400) from None


def _is_controller(name: str) -> bool:
    try:
        return _CONTROLLER.validate_python(name) == name
    except pydantic.ValidationError:
        return False


Device_ = Annotated[Asking, Depends(Asking)]
