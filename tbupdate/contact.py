"""One contact of a device with its server: what it has to tell is told, and what it is to do is heard."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbdiff.errors import Failed, NothingToDo, Rejected, Stop
from tbdiff.index import ListedImage, Release
from tbdiff.output import replacing
from tbupdate import health, inventory, orders, standing, trusted
from tbupdate.agent import AGAIN
from tbupdate.config import Config
from tbupdate.ddi import Client
from tbupdate.orders import Order, Verdict
from tbupdate.protocol import (
    ROLLBACK,
    Artifact,
    Chunk,
    Consent,
    Execution,
    Finished,
    Handled,
    Link,
    Poll,
    Statements,
    details,
)
from tbupdate.spool import Report, Spool, report
from tbupdate.standing import TRIES, Heads, Standing, Work
from tbupdate.system import System
from tbupdate.trusted import Trusted

log = logging.getLogger(__name__)

# So often a poll may lead to the next one, as what it told of is done at once.
POLLS = 3
# Seconds between two looks whether what is being deployed is still wanted.
WATCH = 60.0


class WithdrawnError(NothingToDo):
    """The server does not want any more what is being done."""


@dataclass(frozen=True)
class Seen:
    """The device as it was found: `failed` is what the history says of the last failure, `checks` what they said."""

    system: System
    failed: Mapping[str, Any] | None = None
    checks: Sequence[health.Result] = ()


class Contact:
    """A device in touch with its server, for one run. `looking` changes nothing, neither here nor there.

    `known` is whom the device trusts, by all that was heard so far.
    """

    def __init__(
        self,
        state: str,
        client: Client,
        rules: Config,
        known: Trusted,
        *,
        looking: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._state, self._client, self._rules, self.known = state, client, rules, known
        self._looking, self._clock = looking, clock
        self._standing = standing.read(state)
        self._spool = Spool(state)

    @property
    def client(self) -> Client:
        """Who talks to the server."""
        return self._client

    @property
    def commands(self) -> Sequence[str]:
        """The commands that this device lets its server give."""
        return self._rules.server.commands

    @property
    def is_at_work(self) -> bool:
        """Whether there is an action that this device has not come to an end with."""
        return self._standing.work is not None

    def meet(self, seen: Seen) -> Order | None:
        """Deliver what is kept, say what is new, and hear what is still to be decided; None if nothing is.

        Failed: the server did not answer, and is left alone for a while.
        """
        now = self._clock()
        if not self._looking:
            if not self._standing.may_ask(now):
                left = self._standing.left(now)
                raise Failed(
                    f"the server did not answer, and is asked again in {left / 60:.0f} minutes",
                    "If that goes on, see whether it can be reached from here.",
                )
            self._settle(seen)
        try:
            poll, order = self._converse(seen)
        except Failed:
            self._keep(self._standing.unanswered(now, random.random()))  # noqa: S311 - it need not be a secret
            raise
        self._keep(self._standing.answered(now, poll.config.polling.seconds, random.random()))  # noqa: S311
        return order

    def _converse(self, seen: Seen) -> tuple[Poll, Order | None]:
        self._deliver()
        order = None
        for _ in range(POLLS):
            poll = self._client.poll()
            self._learn(poll.links.trust_statements)
            self._describe(seen, wanted=poll.links.config_data is not None)
            again, order = self._heard(poll, seen)
            self._deliver()
            if not again:
                break
        return poll, order

    def _learn(self, link: Statements | None) -> None:
        """Follow the trust statements that are new here, as far as the keys before them answer for them."""
        if link is None or link.version <= self.known.version:
            return
        chain = self._client.statements(link)
        if chain is not None:
            self.known, fault = trusted.learn(self.known, chain)
            if fault is not None:
                log.warning("%s: %s", link.href, fault)

    def _heard(self, poll: Poll, seen: Seen) -> tuple[bool, Order | None]:
        """What a poll leads to; and whether to poll again, as that is done."""
        links = poll.links
        if links.cancel_action is not None:
            return self._cancel(links.cancel_action, seen), None
        action, handled, ask = "", None, links.confirmation_base is not None
        if links.confirmation_base is not None:
            offered = self._client.confirmation(links.confirmation_base)
            if offered is not None:
                action, handled = offered.id, offered.confirmation
        elif links.deployment_base is not None:
            given = self._client.deployment(links.deployment_base)
            if given is not None:
                action, handled = given.id, given.deployment
        if handled is None:
            self._work(None)
            return False, None
        if self._standing.work is None or self._standing.work.action != action:
            self._work(Work(action=action))
        try:
            order = self._understood(action, handled, ask, seen)
        except Rejected as rejected:
            self.refuse(Order(action, ask=ask), rejected)
            return False, None
        if order.release is not None:
            self._aim(order.release.tree)
            verdict = orders.judge(seen.system, order.release.tree, seen.failed)
            if verdict is not None:
                if order.ask and verdict.finished == "success":
                    # It is here already: whoever asks whether it may come has the answer.
                    self.confirm(order, True, verdict.lines)
                self._say(verdict, seen)
                return verdict.finished != "none", None
        return False, order

    def _understood(self, action: str, handled: Handled, ask: bool, seen: Seen) -> Order:
        waits, command = orders.waits(handled), orders.command_of(handled)
        if command is None:
            return self._of_images(action, handled.chunks, ask, waits)
        if int(action) < int(self._standing.command):
            raise Rejected(
                f"this command is older than one that was obeyed here ({self._standing.command}); nothing was changed",
                "Give it again, as a new action.",
            )
        if command[0] != ROLLBACK:
            return Order(action, command=command, ask=ask, waits=waits)
        there = orders.back_to(seen.system, command[1], self._rules)
        return Order(action, orders.release_of(there), command=command, ask=ask, waits=waits)

    def _of_images(self, action: str, chunks: Sequence[Chunk], ask: bool, waits: str) -> Order:
        artifacts = [one for chunk in chunks for one in chunk.artifacts]
        of = inventory.digest([action, self.known.ring.fingerprint, *(one.model_dump_json() for one in artifacts)])
        work = self._standing.work
        if work is not None and work.heads is not None and work.heads.of == of:
            found = work.heads.images
        else:
            found, whole = self._read(artifacts)
            if work is not None and whole:
                self._work(work.model_copy(update={"heads": Heads(of=of, images=found)}))
        aim = orders.aim([(release, image) for release, image, _ in found])
        addresses = {image.digest: address for _, image, address in found}
        return Order(action, aim, tuple(image for _, image, _ in found), addresses, None, ask, waits)

    def _read(self, artifacts: Sequence[Artifact]) -> tuple[tuple[tuple[Release, ListedImage, str], ...], bool]:
        """What the heads of images say, and where these are; and whether all of them could be read."""
        found, faults = [], []
        for artifact in artifacts:
            try:
                head = self._client.head(artifact)
                if head is not None:
                    address = self._client.address(artifact)
                    found.append((*orders.listed(head, self.known.ring, address, artifact.size), address))
            except Rejected as rejected:
                faults.append(rejected)
                log.warning("%s: %s", artifact.filename, rejected)
        if not found:
            none = Rejected("the action holds no image; nothing was changed", "Give it one (.tbdiff).")
            raise faults[0] if faults else none
        return tuple(found), not faults

    def _settle(self, seen: Seen) -> None:
        """What has become of what this device was at."""
        work = self._standing.work
        if work is not None and work.tree:
            verdict = orders.judge(seen.system, work.tree, seen.failed)
            if verdict is not None and verdict.finished != "none":
                self._say(verdict, seen)

    def _say(self, verdict: Verdict, seen: Seen) -> None:
        """Tell how it stands; if it is over, this device is at nothing any more."""
        work = self._standing.work
        if work is None:
            return
        if verdict.finished == "none":
            self.tell(work.action, "proceeding", list(verdict.lines))
            return
        self._close(
            work.action,
            verdict.finished,
            [*verdict.lines, *orders.tells(seen.system, [one.line for one in seen.checks])],
        )

    def _close(self, action: str, finished: Finished, lines: Sequence[str]) -> None:
        self._report(report(action, "closed", finished, list(lines), self._clock()))
        self._work(None)

    def _cancel(self, link: Link, seen: Seen) -> bool:
        """Stop what is to be stopped, if it is not too late; whether there may be something else to do now."""
        asked = self._client.to_cancel(link)
        if asked is None:
            return False
        work = self._standing.work
        mine = work is not None and work.action == asked.cancel_action.stop_id
        verdict = orders.judge(seen.system, work.tree, seen.failed) if mine and work and work.tree else None
        now = self._clock()
        if verdict is None or verdict.finished == "failure":
            lines = verdict.lines if verdict is not None else ("it was stopped; nothing was changed",)
            self._report(report(asked.id, "closed", "success", list(lines), now, "cancelAction"))
            self._work(None)
        else:
            lines = (f"too late: {verdict.lines[0]}",)
            self._report(report(asked.id, "rejected", "none", list(lines), now, "cancelAction"))
        return True

    def tell(self, action: str, execution: Execution, lines: Sequence[str]) -> None:
        """Tell how it is going, unless that was said last."""
        work = self._standing.work
        digest = inventory.digest([action, execution, *lines])
        if work is None or work.told == digest:
            return
        self._work(work.model_copy(update={"told": digest}))
        self._report(report(action, execution, "none", list(lines), self._clock()))

    def confirm(self, order: Order, agreed: bool, lines: Sequence[str]) -> None:
        """Tell what a person said, unless that was said last."""
        work = self._standing.work
        word: Any = "confirmed" if agreed else "denied"
        digest = inventory.digest([order.action, word, *lines])
        if self._looking or work is None or work.told == digest:
            return
        self._client.confirm(order.action, Consent(confirmation=word, code=0, details=details(lines)))
        self._work(work.model_copy(update={"told": digest}))

    def refuse(self, order: Order, stop: Stop) -> None:
        """Tell that it will not be done here, why, and what to do; with that it is over, or a person has to look."""
        if order.ask:
            self.confirm(order, False, orders.words_of(stop))
        else:
            self._close(order.action, "failure", orders.words_of(stop))

    def fell(self, order: Order, stop: Stop) -> None:
        """Tell that it could not be done: it is over when it was refused, or failed too often."""
        work = self._standing.work
        if work is None:
            return
        if isinstance(stop, Rejected) or work.tries + 1 >= TRIES:
            self._close(order.action, "failure", orders.words_of(stop))
            return
        self._work(work.model_copy(update={"tries": work.tries + 1}))
        self.tell(order.action, "proceeding", [f"try {work.tries + 1} of {TRIES} failed: {stop}"])

    def withdrawn(self, order: Order, why: str) -> None:
        """Tell that it was stopped in time, as the server wanted."""
        self._report(report(order.action, "closed", "success", [why], self._clock(), "cancelAction"))
        self._work(None)

    def obeyed(self, order: Order, lines: Sequence[str]) -> None:
        """Remember that a command was carried out: no older one counts any more. With lines it is over."""
        self._keep(self._standing.model_copy(update={"command": order.action}))
        if lines:
            self._close(order.action, "success", lines)

    def tell_agent(self, place: str = AGAIN) -> None:
        """Say when the server is to be asked next, for whoever starts us again and again."""
        again = time.clock_gettime(time.CLOCK_BOOTTIME) + self._standing.left(self._clock())
        try:
            os.makedirs(os.path.dirname(place), mode=0o700, exist_ok=True)
            with replacing(Path(place)) as file:
                file.write(f"{again:.0f}\n".encode())
        except OSError as error:
            log.warning("%s cannot be written: %s", place, error.strerror)

    def finish(self) -> None:
        """Deliver what came up meanwhile, if that can be done now."""
        try:
            self._deliver()
        except Failed as failed:
            log.warning("%s", failed)

    def _report(self, new: Report) -> None:
        if not self._looking:
            self._spool.add(new)

    def _deliver(self) -> None:
        if not self._looking:
            self._spool.deliver(self._client)

    def _describe(self, seen: Seen, *, wanted: bool) -> None:
        """Say what this device is and runs, where that is wanted, or new."""
        if self._looking:
            return
        said, faults = inventory.gather(
            inventory.facts(seen.system, self._rules, self.known, health.verdict(seen.checks))
        )
        for fault in faults:
            log.warning("%s", fault)
        found = inventory.digest(said)
        try:
            if wanted or found != self._standing.described:
                self._client.describe(said)
            runs = [said.get("name", ""), said.get("release", "")]
            if all(runs) and inventory.digest(runs) != self._standing.runs:
                self._client.runs(*runs)
        except Rejected as rejected:
            log.warning("%s", rejected)
        self._keep(self._standing.model_copy(update={"described": found, "runs": inventory.digest(runs)}))

    def _aim(self, tree: str) -> None:
        work = self._standing.work
        if work is not None and work.tree != tree:
            self._work(work.model_copy(update={"tree": tree}))

    def _work(self, work: Work | None) -> None:
        self._keep(self._standing.model_copy(update={"work": work}))

    def _keep(self, new: Standing) -> None:
        if not self._looking and new != self._standing:
            standing.write(self._state, new)
        self._standing = new


class Watch:
    """Whether an action is still wanted, asked now and then while it is being done."""

    def __init__(self, client: Client, action: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client, self._action, self._clock = client, action, clock
        self._next = clock() + WATCH

    def __call__(self) -> None:
        """Raise WithdrawnError if it is not wanted; where the server does not answer, it is."""
        if self._clock() < self._next:
            return
        self._next = self._clock() + WATCH
        try:
            link = self._client.poll().links.cancel_action
            asked = self._client.to_cancel(link) if link is not None else None
        except (Failed, Rejected):
            return
        if asked is not None and asked.cancel_action.stop_id == self._action:
            raise WithdrawnError("the server wants it no more; nothing was changed")
