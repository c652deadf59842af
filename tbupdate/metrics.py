"""How the device stands, as a text file for the collector of Prometheus' node exporter. The names never change."""

from __future__ import annotations

import os
from calendar import timegm
from collections.abc import Iterable, Iterator
from pathlib import Path
from time import strptime

from tbdiff.index import MOMENT
from tbdiff.output import replacing
from tbupdate.lastrun import RESULTS, LastRun
from tbupdate.outlook import Outlook
from tbupdate.status import state_of
from tbupdate.system import System
from tbupdate.trusted import Trusted
from tbupdate.unattended import Reason

Sample = tuple[dict[str, str], float]


def write(path: Path, text: str) -> None:
    """Put the file in its place at once: whoever reads it meanwhile finds the old one or the new. OSError if not."""
    with replacing(path) as file:
        os.fchmod(file.fileno(), 0o644)
        file.write(text.encode())


def render(system: System, shown: Outlook, last: LastRun | None, known: Trusted | None) -> str:
    """All metrics; `known` is None where it cannot be read whom the device trusts."""
    return "".join(_lines(system, shown, last, known))


def _lines(system: System, shown: Outlook, last: LastRun | None, known: Trusted | None) -> Iterator[str]:
    runs = system.booted or system.default
    if runs is not None:
        release = runs.record.release if runs.record is not None and runs.record.release else ""
        labels = {"deployment": runs.id, "release": release, "state": state_of(system, runs)}
        yield from _metric("info", "The deployment that runs.", [(labels, 1)])
    for name, said, value in (
        ("trial", "Whether a deployment is on trial.", system.trial is not None),
        ("staged", "Whether a deployment boots next that does not run yet.", system.staged is not None),
        ("ready", "Whether a deployment is fetched and waits to be deployed.", system.ready is not None),
        ("offered", "Whether a release is offered that is not deployed.", shown.offered is not None),
        ("deployments", "How many deployments are kept.", len(system.deployments)),
        ("epoch", "The highest epoch that was committed.", system.epoch),
    ):
        yield from _metric(name, said, [({}, float(value))])
    free = (("data", system.space.data), ("metadata", system.space.metadata))
    yield from _metric("free_bytes", "Bytes that are free on Btrfs.", [({"kind": kind}, count) for kind, count in free])
    waits = [({"reason": one.value}, float(one is shown.next.reason)) for one in Reason]
    yield from _metric("waiting", "What the device waits for.", waits)
    if last is not None:
        yield from _metric("last_run_timestamp_seconds", "When it looked after itself last.", [({}, last.time)])
        results = [({"result": str(one)}, float(one == last.result)) for one in RESULTS]
        yield from _metric("last_run_result", "How that ended.", results)
    if known is not None:
        yield from _metric("own_keys", "How many keys the owner has enrolled.", [({}, len(known.owner.own))])
        yield from _metric("trust_version", "The version of the trust statement; 0: none.", [({}, known.version)])
        if known.statement is not None:
            ends = timegm(strptime(known.statement.expires, MOMENT))
            yield from _metric("trust_expires_timestamp_seconds", "Until when that is good.", [({}, ends)])


def _metric(name: str, said: str, samples: Iterable[Sample]) -> Iterator[str]:
    yield f"# HELP tb_update_{name} {said}\n# TYPE tb_update_{name} gauge\n"
    for labels, value in samples:
        inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels.items())
        yield f"tb_update_{name}{f'{{{inside}}}' if inside else ''} {value:.16g}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
