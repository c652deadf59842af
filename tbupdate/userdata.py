"""Decide what user data a reset empties, and what of that is left to do after a cut or a reboot. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tbdiff.errors import Rejected
from tbupdate import fstab, marks
from tbupdate.datavocabulary import AwaitEmptying, Dress, EmptyData, Isolate
from tbupdate.layout import EMPTIED
from tbupdate.steps import ClearMark, DeleteSubvolume, MakeSnapshot, MakeSubvolume, Step
from tbupdate.system import Place, Subvolume, System

ALL = "all"


@dataclass(frozen=True)
class Data:
    """A subvolume of this file system, and where /etc/fstab mounts it; `shipped`: the deployment has that directory."""

    point: str
    subvolume: str
    shipped: bool = False


def mounted(table: Iterable[fstab.Line], system: System, file_system: str) -> dict[str, Place]:
    """The subvolumes beside the root that a system's table mounts from the Btrfs with that UUID, by mount point."""
    table = list(table)
    ours = {f"UUID={file_system}", f"/dev/disk/by-uuid/{file_system}"}
    ours |= {line.device for line in table if line.point == "/"}
    named = {place.path: place for place in system.elsewhere} | {str(place.id): place for place in system.elsewhere}
    found = {}
    for line in fstab.outside(table):
        place = named.get(fstab.subvolume_of(line) or "") if line.kind == "btrfs" and line.device in ours else None
        if place is not None:
            found[line.point] = place
        else:
            found.pop(line.point, None)
    return found


def find_data(wanted: Sequence[str], there: Mapping[str, Place], system: System) -> tuple[Data, ...]:
    """What a person wants emptied: mount points, or "all" of them."""
    points = list(dict.fromkeys(there if ALL in wanted else (f"/{point.strip('/')}" for point in wanted)))
    if wanted and not points:
        _refuse("no subvolume of this file system is mounted by /etc/fstab as user data", "Leave out --user-data.")
    for point in points:
        if point not in there:
            said = ", ".join(sorted(there)) or "nothing is"
            _refuse(f"{point} is no subvolume of this file system that /etc/fstab mounts", f"These are: {said}.")
        path = there[point].path
        inside = [one.path for one in system.elsewhere if one.path.startswith(f"{path}/")]
        if inside:
            _refuse(
                f"{path}, which is mounted on {point}, holds the subvolume {inside[0]}", "Delete that yourself first."
            )
    found = {there[point].path: Data(point, there[point].path) for point in points}
    return tuple(found.values())


def _refuse(what: str, remedy: str) -> None:
    raise Rejected(f"{what}; nothing was changed", remedy)


def aside(number: int, deployment: str) -> str:
    """Where the fresh one stands until it is exchanged, and then the old one until it is deleted."""
    return f"data{number}-{deployment[-6:]}{EMPTIED}"


def prepare(data: Sequence[Data], system: System, deployment: str, root: str) -> tuple[Step, ...]:
    """Fresh ones are made, as the deployment has them; they are awaited as soon as the root named `root` boots next."""
    steps: list[Step] = []
    for number, one in enumerate(data):
        name, place = aside(number, deployment), one.point.strip("/")
        if name in system.subvolumes:
            steps.append(DeleteSubvolume(name))
        if one.shipped:
            steps += [MakeSnapshot(deployment, name), Isolate(name, place)]
        else:
            steps.append(MakeSubvolume(name))
        steps.append(Dress(name, one.subvolume, deployment, place))
    return (*steps, *(AwaitEmptying(aside(n, deployment), one.subvolume, root) for n, one in enumerate(data)))


def empty(data: Sequence[Data], system: System, deployment: str) -> tuple[Step, ...]:
    """They take the places of those with data; these are deleted, but where they are in use, after the reboot."""
    exchanges = [EmptyData(aside(n, deployment), one.subvolume) for n, one in enumerate(data)]
    numbers = {place.path: place.id for place in system.elsewhere}
    free = [n for n, one in enumerate(data) if numbers.get(one.subvolume) not in system.mounted]
    return (*exchanges, *(DeleteSubvolume(aside(n, deployment)) for n in free))


def finish(system: System) -> tuple[Step, ...]:
    """After a cut: what boots next is the root that it was awaited for, or nothing is emptied. And what was goes."""
    steps: list[Step] = []
    awaited: dict[str, str] = {}
    for subvolume, said in sorted(system.marks.emptying.items()):
        _, root, name = (*said.split(" "), "", "")[:3]
        awaited[name] = subvolume
        if not _is_default(system, root) or name not in system.subvolumes:
            steps.append(ClearMark(marks.emptying(subvolume)))
        else:
            steps.append(EmptyData(name, subvolume))
    for name, one in sorted(system.subvolumes.items()):
        if name.endswith(EMPTIED) and not _will_be_in_use(system, one, awaited.get(name)):
            steps.append(DeleteSubvolume(name))
    return tuple(steps)


def _is_default(system: System, uuid: str) -> bool:
    root = system.default_root
    return root is not None and root.uuid.hex() == uuid


def _will_be_in_use(system: System, one: Subvolume, awaited: str | None) -> bool:
    """Whether somebody has it mounted, or will have it under that name when the names were exchanged."""
    root = system.marks.emptying.get(awaited or "", "").split(" ")[1:2]
    if awaited is not None and root and _is_default(system, root[0]):
        other = next((place.id for place in system.elsewhere if place.path == awaited), None)
        return other in system.mounted
    return one.id in system.mounted
