"""Decide which data of an installed root gets subvolumes of its own, and by which steps. Looks at the root, no more."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tbdiff.errors import Rejected
from tbupdate import fstab, layout, marks, places
from tbupdate.datavocabulary import AddMounts, DeleteOutside, Isolate, LeaveEmpty, Move, PutOutside
from tbupdate.layout import partial
from tbupdate.steps import ClearMark, MakeSnapshot, Step
from tbupdate.system import System

ALL = "all"
_PLAIN = re.compile(r"(?:/[A-Za-z0-9_][A-Za-z0-9._@+-]*)+")
_NAME = re.compile(r"[A-Za-z0-9@_][A-Za-z0-9._@+-]{0,99}")
# Without these no system starts, or what is installed there is known from there only.
_SYSTEM = ("bin", "boot", "dev", "efi", "etc", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin", "sys", "usr")
_PACKAGES = ("var/lib/dpkg", "var/lib/rpm", "var/lib/pacman", "var/lib/apt", "usr/lib/sysimage")


def find_moves(tree: str, wanted: Sequence[str], taken: Iterable[str]) -> tuple[Move, ...]:
    """What a person wants moved out of the root in `tree`: `PATH`, `PATH=SUBVOLUME`, or "all" that is usual.

    `taken` are the names in the top level.
    """
    moves: list[Move] = []
    for said in wanted:
        if said == ALL:
            chosen = {move.place for move in moves}
            moves += [_move(f"/{place}", "") for place in places.in_root(tree) if place not in chosen]
        else:
            place, _, name = said.partition("=")
            moves.append(_move(place, name))
    moves = list(dict.fromkeys(moves))
    if moves and not fstab.is_plain(tree):
        _refuse("the /etc/fstab of the system is a link, or no file", "Put a file there, then try again.")
    table, taken = fstab.read(tree), set(taken)
    for move in moves:
        _check(tree, move, table)
        if move.subvolume in taken:
            _refuse(
                f"{move.subvolume} is there already in the top level",
                f"Say how it is to be called: --move /{move.place}=NAME; or remove that.",
            )
        inside = [one for one in moves if one != move and f"{one.place}/".startswith(f"{move.place}/")]
        if inside:
            _refuse(f"/{inside[0].place} is within /{move.place}, or is it", "Move out the one or the other.")
        taken.add(move.subvolume)
    return tuple(moves)


def _move(place: str, name: str) -> Move:
    if not _PLAIN.fullmatch(place):
        _refuse(f"{place!r} is no directory that could be moved out", 'Name it like /var/log, or say "all".')
    name = name or "@" + place.strip("/").replace("/", "-")
    if not _NAME.fullmatch(name) or name in (layout.SNAPSHOTS, layout.STATE):
        _refuse(f"{name!r} cannot be the name of a subvolume in the top level", "Name it like @home.")
    return Move(place.strip("/"), name)


def _check(tree: str, move: Move, table: Sequence[fstab.Line]) -> None:
    if places.is_outside(table, move.place):
        _refuse(f"/{move.place} is mounted from elsewhere by /etc/fstab already", "Leave it out.")
    if move.place.split("/")[0] in _SYSTEM:
        _refuse(f"/{move.place} belongs to the system", "What an update brings must be part of the root.")
    if not places.is_directory(tree, move.place):
        _refuse(f"/{move.place} is no directory of the installed root, or a subvolume already", "Leave it out.")
    for packages in _PACKAGES:
        if f"{packages}/".startswith(f"{move.place}/") and places.is_directory(tree, packages):
            _refuse(
                f"/{packages}, which says what is installed, is in /{move.place}",
                "It goes with the system: move out what is beside it, such as /var/log.",
            )


def _refuse(what: str, remedy: str) -> None:
    raise Rejected(f"{what}; nothing was changed", remedy)


def aside(number: int, deployment: str) -> str:
    """Where what is moved out stands while it is made ready; the repair after a cut knows it as unfinished."""
    return partial(f"data{number}-{deployment[-6:]}")


def take_out(moves: Sequence[Move], source: str, deployment: str) -> tuple[Step, ...]:
    """What is to be moved out of the snapshot `source` of an installed root is taken out of it, each by itself."""
    copies: list[Step] = [MakeSnapshot(source, aside(n, deployment)) for n in range(len(moves))]
    alone: list[Step] = [Isolate(aside(n, deployment), move.place) for n, move in enumerate(moves)]
    left: list[Step] = [LeaveEmpty(source, move.place) for move in moves]
    return (*copies, *alone, *left, *((AddMounts(source, tuple(moves)),) if moves else ()))


def put_outside(moves: Sequence[Move], deployment: str) -> tuple[Step, ...]:
    """It comes to where the system that boots next looks for it."""
    return tuple(PutOutside(aside(n, deployment), move) for n, move in enumerate(moves))


def take_back(system: System) -> tuple[Step, ...]:
    """What a cut `init` had put into the top level goes again: nobody has booted what looks for it there."""
    there = {place.path: place.uuid for place in system.elsewhere}
    steps: list[Step] = []
    for name, said in sorted(system.marks.moved.items()):
        # Something else may have got that name meanwhile.
        ours = there.get(name) == said.partition(":")[0]
        steps.append(DeleteOutside(name) if ours else ClearMark(marks.moved(name)))
    return tuple(steps)


def outside(system: System) -> dict[Move, bool]:
    """What `init` has moved out and that is there, and whether it is as it was then."""
    found = {}
    for place in system.elsewhere:
        seal, _, of = system.marks.moved.get(place.path, "").partition(" ")
        if of:
            found[Move(of, place.path)] = seal == place.seal
    return found


def nested(system: System, path: str) -> tuple[str, ...]:
    """The subvolumes right within `path`, from there; what is within those is not seen from it."""
    paths = [f"{layout.SNAPSHOTS}/{name}" for name in system.subvolumes] + [place.path for place in system.elsewhere]
    prefix = f"{path}/" if path else ""
    inside = sorted(one.removeprefix(prefix) for one in paths if one.startswith(prefix) and one != path)
    outer: list[str] = []
    for one in inside:
        if not any(one.startswith(f"{seen}/") for seen in outer):
            outer.append(one)
    if not path:
        return tuple(one for one in outer if one.split("/")[0] not in (layout.SNAPSHOTS, layout.STATE))
    return tuple(outer)


def propose(tree: str, moves: Sequence[Move]) -> tuple[str, ...]:
    """Say what else is in the root that an update would leave behind."""
    chosen = {move.place for move in moves}
    left = [place for place in places.in_root(tree) if place not in chosen and places.holds_something(tree, place)]
    if not left:
        return ()
    return (
        f"{', '.join(f'/{place}' for place in left)}: part of the root, so an update leaves behind what is there. "
        f"To give it subvolumes of its own: tb-update init {' '.join(f'--move /{place}' for place in left)}",
    )
