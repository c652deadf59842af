"""The server of this device, in the commands that bring it elsewhere: what it orders, and what it is told of that."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tbdiff.errors import Failed, NothingToDo, Rejected, Stop
from tbdiff.line import Line
from tbdiff.show import size
from tbupdate import consent, health, history, identity, journal, orders, planning, trusted
from tbupdate.choosing import Bounds, Update, choose_ordered
from tbupdate.cli.conduct import carry_out, changing, now, tell_trust
from tbupdate.cli.options import Settings
from tbupdate.cli.sites import working
from tbupdate.cli.terminal import warn
from tbupdate.config import Config, Server
from tbupdate.consent import APPROVED, DECLINED, POSTPONED, Decision
from tbupdate.contact import Contact, Seen, Watch, WithdrawnError
from tbupdate.ddi import Client
from tbupdate.layout import HISTORY, STATE
from tbupdate.orders import Order
from tbupdate.protocol import POSTPONE
from tbupdate.reach import Reach
from tbupdate.site import Site
from tbupdate.system import System
from tbupdate.trusted import Trusted
from tbupdate.unattended import Act, Next

HOUR = 3600


@dataclass
class Served:
    """A device and its server during one command; without a `contact` it has none, or none that answers (`fault`).

    `order` is what is still to be decided.
    """

    contact: Contact | None = None
    order: Order | None = None
    fault: Stop | None = None
    url: str = ""
    line: Line = field(default_factory=Line)

    @property
    def is_at_work(self) -> bool:
        """Whether something that the server ordered is not over yet."""
        return self.contact is not None and self.contact.is_at_work

    @property
    def asks(self) -> bool:
        """Whether the server wants a person to agree."""
        return self.order is not None and self.order.ask

    @property
    def held(self) -> str:
        """Why the server wants it to wait; empty if it does not."""
        return self.order.waits if self.order is not None else ""

    def update(self, order: Order, system: System, rules: Config) -> Update:
        """The way to what is ordered; if that is none for this device, the server is told so."""
        if order.release is None:
            raise AssertionError("it is no release")
        if order.command is not None:
            return Update(order.release, ())
        wanted = rules.upgrade
        bounds = Bounds("", rules.device_type, wanted.at_most, wanted.exactly)
        try:
            return choose_ordered(system, order.release, order.images, bounds, _encoders(order))
        except (NothingToDo, Rejected) as stop:
            with self._over() as contact:
                contact.refuse(order, stop)
            raise

    def waits(self, order: Order, why: str) -> None:
        """Tell that it can be done later only, and why."""
        if self.contact is not None and not order.ask:
            self.contact.tell(order.action, "scheduled", [why])
            self.contact.finish()

    def answer(self, decision: Decision | None, what: Next) -> None:
        """Tell what a person said, or what is waited for."""
        order, contact = self.order, self.contact
        if order is None or contact is None:
            return
        said = decision.said if decision is not None else ""
        try:
            if order.ask and said in (APPROVED, DECLINED):
                contact.confirm(order, said == APPROVED, [f"a person at the device {said} it"])
            elif not order.ask and said == DECLINED:
                contact.tell(order.action, "rejected", ["a person at the device declined it"])
            elif not order.ask and what.act is Act.WAIT:
                contact.tell(order.action, "scheduled", [what.why])
            contact.finish()
        except Stop as stop:
            warn(f"{stop}")

    def carry(self, update: Update, act: Callable[[Callable[[], None]], None], done: str) -> None:
        """Do what is ordered, and tell how that goes; `act` is given what looks whether it is still wanted."""
        order, contact = self.order, self.contact
        if order is None or contact is None:
            act(_always)
            return
        contact.tell(order.action, "download", [f"{update.release.called}: {size(update.size)} to fetch"])
        contact.finish()
        try:
            act(Watch(contact.client, order.action))
        except WithdrawnError as withdrawn:
            with self._over():
                contact.withdrawn(order, str(withdrawn))
            raise
        except (Failed, Rejected) as stop:
            with self._over():
                contact.fell(order, stop)
            raise
        contact.tell(order.action, "proceeding", [f"{update.release.called} {done}"])
        contact.finish()

    def go_back(self, said: Settings, rules: Config) -> None:
        """Carry out the order to roll back."""
        order, contact = self.order, self.contact
        if order is None or contact is None or order.command is None:
            raise AssertionError("nobody ordered it")
        with working(said, rules) as site, changing(site) as system:
            there = orders.back_to(system, order.command[1], rules)
            why = f"the server sent it back (action {order.action})"
            plan = planning.plan_rollback(system, there.id, now(), why, journal.of_this_boot())
            carry_out("rollback", plan, site, said)
        contact.obeyed(order, ())

    def obey(self, site: Site, system: System) -> None:
        """Carry out what needs no decision: to postpone what is offered."""
        order, contact = self.order, self.contact
        if order is None or contact is None or order.command is None or order.command[0] != POSTPONE:
            return
        self.order = None
        place = os.path.join(site.top, STATE)
        try:
            hours = orders.hours_of(order.command[1])
            if POSTPONE not in contact.commands:
                raise Rejected(
                    "this device does not let its server postpone anything; nothing was changed", orders.ALLOW
                )
            offer = consent.offered(place, system)
            if offer is not None and offer.said in (APPROVED, DECLINED):
                raise Rejected(
                    f"a person at the device {offer.said} it already; nothing was changed",
                    "Only what nobody has answered yet can be postponed: ask that person.",
                )
        except Rejected as rejected:
            with self._over():
                contact.refuse(order, rejected)
            return
        if offer is not None:
            consent.answer(place, system, POSTPONED, time.time() + hours * HOUR)
        contact.obeyed(order, ["postponed" if offer is not None else "nothing is offered here"])
        contact.finish()

    @contextmanager
    def _over(self) -> Iterator[Contact]:
        """The order is none any more, and the server is told so, if it answers."""
        self.order = None
        if self.contact is None:
            raise AssertionError("nobody ordered it")
        try:
            yield self.contact
            self.contact.finish()
        except Stop as stop:
            warn(f"{stop}")


def reach_server(site: Site, system: System, rules: Config, reach: Reach, *, looking: bool = False) -> Served:
    """Meet the server of this device, if it has one: tell what there is to tell, and hear what it orders."""
    state = os.path.join(site.top, STATE)
    served = Served()
    try:
        server = identity.settled(rules.server, state, running=system.booted_id is not None)
        if not server.url:
            return served
        served.url = server.url
        account = identity.account(server, state)
        if account.once:
            if looking:
                raise NothingToDo("this device is not enrolled yet", "tb-update upgrade --unattended does that.")
            enrol(account, server, state, reach)
            account = identity.account(server, state)
        served.line = reach.line_to(account.identity)
        known = trusted.load(state, rules)
        contact = served.contact = Contact(state, Client(account, served.line), rules, known, looking=looking)
        try:
            served.order = contact.meet(_seen(site, system))
        finally:
            if not looking:
                keep_trust(state, known, contact.known)
        if not looking:
            served.obey(site, system)
    except Stop as stop:
        served.fault = stop
    if served.contact is not None and not looking and system.booted_id is not None:
        served.contact.tell_agent()
    return served


def keep_trust(state: str, before: Trusted, known: Trusted) -> None:
    """Write down whom the device trusts by statements that are new to it."""
    if known.version <= before.version:
        return
    tell_trust(state, f"statement {known.version} says which keys are trusted", now())
    try:
        trusted.remember(state, known)
    except OSError as error:
        warn(f"which keys are trusted now could not be written down: {error.strerror}")


def enrol(account: identity.Account, server: Server, state: str, reach: Reach) -> None:
    """Exchange a token that is good once for one of this device's own."""
    own = identity.begin(server, state)
    Client(account, reach.line_to(account.identity)).enrol(own.token)
    identity.write(state, own.model_copy(update={"done": True}))


def _seen(site: Site, system: System) -> Seen:
    events = history.read(os.path.join(site.top, STATE, HISTORY))
    checks = health.kept() if system.booted_id is not None else []
    return Seen(system, history.last_failure(events, system.marks.bad), checks)


def _encoders(order: Order) -> frozenset[str]:
    if not any(image.encoders for image in order.images):
        return frozenset()
    from tbdiff.encoders import here  # noqa: PLC0415 - most memory that it takes is for images that need it

    return frozenset(here())


def _always() -> None:
    """It is wanted."""
