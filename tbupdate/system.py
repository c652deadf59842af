"""The system as it was found: one frozen value that planning decides on. Looking changes nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tbdiff.errors import Rejected
from tbupdate import layout, marks, mounts, record, saved, space, subvolumes, volatility
from tbupdate.boot import kernelsets, place
from tbupdate.boot.chooser import PLAIN_WORD, Choice, Chooser, command_line
from tbupdate.localchanges import conflicts
from tbupdate.localchanges.conflicts import Conflict
from tbupdate.marks import Marks
from tbupdate.record import Record
from tbupdate.saved import Saved
from tbupdate.space import Space
from tbupdate.volatility import Made


@dataclass(frozen=True)
class Subvolume:
    """A subvolume in `snapshots/`; `nested` are the paths of other subvolumes within it."""

    name: str
    id: int
    uuid: bytes
    parent_uuid: bytes
    read_only: bool
    nested: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A subvolume that is not in `snapshots/`, by its path from the top level; `seal` as `subvolumes.seal` says it."""

    path: str
    id: int
    seal: str = ""

    @property
    def uuid(self) -> str:
        """Its UUID, in hex."""
        return self.seal.partition(":")[0]


@dataclass(frozen=True)
class Deployment:
    """An applied image that is kept under its id, and the writable roots that were made from it, the used one first.

    `conflicts` are those of local changes with its image; `saved` its saved copies, by number. `volatile`: what its
    roots are made of says that they are to be thrown away.
    """

    id: str
    subvolume: Subvolume
    record: Record | None = None
    roots: tuple[Subvolume, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    saved: tuple[Saved, ...] = ()
    volatile: bool = False

    @property
    def newest(self) -> Saved | None:
        """The newest saved copy that is whole."""
        return next((one for one in reversed(self.saved) if one.whole), None)

    @property
    def template(self) -> str:
        """The name of what its roots are made of: the newest saved copy, else the deployment itself."""
        return self.newest.name if self.newest is not None else self.id


@dataclass(frozen=True)
class Boot:
    """The boot partition where a chooser is used, and what its entries need to know; no `choice` before `init`.

    `entries` are the deployments that have one whose kernel is there, `loose` the kernel sets that no entry names,
    `root` and `partition` the UUIDs of Btrfs and of the boot partition, `note` what the hook said last, `leads` whether
    the boot loader's own files lead it to our choice.
    """

    name: str
    choice: Choice | None
    entries: frozenset[str]
    root: str
    partition: str
    loose: frozenset[str] = frozenset()
    options: str = ""
    tries: int = 3
    note: str = ""
    leads: bool = True


@dataclass(frozen=True)
class System:
    """What the top level holds. Which one is which is read from Btrfs itself, never from a file that can go stale.

    Where a boot chooser is used, `boot` says which deployment boots next, and the default subvolume only follows it.
    `foreign` are names of ours in `snapshots/` that something else than a subvolume has.
    `busy` says that another run is in progress, for those who only look.
    `tries` are the tries that the hook in the initramfs has not taken yet, of those deployments that have a number.

    `booted_id` is the subvolume that runs as / from this file system; None where none does: an image of another system.
    `mounted` are all that are mounted somewhere here.
    `made` is what the hook has said of that boot.
    """

    default_id: int
    booted_id: int | None = None
    mounted: frozenset[int] = frozenset()
    subvolumes: Mapping[str, Subvolume] = field(default_factory=dict)
    deployments: tuple[Deployment, ...] = ()
    elsewhere: tuple[Place, ...] = ()
    marks: Marks = field(default_factory=Marks)
    records: frozenset[str] = frozenset()
    space: Space = field(default_factory=Space)
    has_snapshots: bool = False
    foreign: frozenset[str] = frozenset()
    busy: bool = False
    boot: Boot | None = None
    tries: Mapping[str, int] = field(default_factory=dict)
    made: Made = field(default_factory=Made)

    @property
    def choice(self) -> Choice | None:
        """What the boot chooser was told; None where there is none."""
        return self.boot.choice if self.boot is not None else None

    @property
    def initialised(self) -> bool:
        """Whether `init` came to its end here."""
        return self.marks.good is not None

    def get(self, deployment: str | None) -> Deployment | None:
        """The kept deployment with that id."""
        return next((kept for kept in self.deployments if kept.id == deployment), None)

    def made_from(self, subvolume: Subvolume | None) -> Deployment | None:
        """The deployment that a root or a mirror is a snapshot of."""
        if subvolume is None or layout.is_id(subvolume.name):
            # A deployment is a snapshot of the one that it started from, but none of its roots.
            return None
        source = self.parent(subvolume)
        # A root that is made anew at each boot is made of a saved copy.
        name = layout.saved_of(source.name) or source.name if source is not None else None
        return self.get(name)

    def parent(self, subvolume: Subvolume | None) -> Subvolume | None:
        """What a snapshot was made of, if that is there."""
        if subvolume is None:
            return None
        return next((one for one in self.subvolumes.values() if one.uuid == subvolume.parent_uuid), None)

    def owner(self, subvolume: Subvolume | None) -> Deployment | None:
        """The deployment that a subvolume is, is a saved copy of, or is a root or a mirror of."""
        if subvolume is None:
            return None
        name = subvolume.name if layout.is_id(subvolume.name) else layout.saved_of(subvolume.name)
        return self.get(name) if name is not None else self.made_from(subvolume)

    def throws_away(self, deployment: Deployment | None) -> bool:
        """Whether the hook makes the root of a deployment anew at each boot, and what was written to it is lost."""
        return deployment is not None and deployment.volatile and self.choice is not None

    def by_number(self, number: int | None) -> Subvolume | None:
        """The subvolume in `snapshots/` with that Btrfs id."""
        return next((held for held in self.subvolumes.values() if held.id == number), None)

    @property
    def default(self) -> Deployment | None:
        """The deployment that boots next."""
        choice = self.choice
        if choice is None:
            return self.made_from(self.by_number(self.default_id))
        booted = self.booted
        if booted is not None and booted.id == choice.trial:
            # Its last try may be this very boot: when that goes well, it gets it back.
            return booted
        return self.get(choice.trial if choice.is_due(choice.trial or "") else choice.default)

    @property
    def default_root(self) -> Subvolume | None:
        """The root that boots next: the default subvolume, or what that has yet to become."""
        marked = self.by_number(self.default_id)
        if self.choice is None or (marked is not None and self.made_from(marked) == self.default):
            return marked
        return self.default.roots[0] if self.default is not None and self.default.roots else None

    @property
    def booted(self) -> Deployment | None:
        """The deployment that runs."""
        return self.made_from(self.by_number(self.booted_id))

    @property
    def root(self) -> Deployment | None:
        """The deployment that `snapshots/root` belongs to."""
        return self.made_from(self.subvolumes.get(layout.ROOT))

    @property
    def current(self) -> Deployment | None:
        """The deployment that `snapshots/current` shows."""
        return self.made_from(self.subvolumes.get(layout.CURRENT))

    @property
    def previous(self) -> Deployment | None:
        """The deployment that `snapshots/previous` shows."""
        return self.made_from(self.subvolumes.get(layout.PREVIOUS))

    @property
    def good(self) -> Deployment | None:
        """The deployment that was committed last."""
        return self.get(self.marks.good)

    @property
    def pending(self) -> Deployment | None:
        """The deployment that boots next and is not committed: staged, or on trial."""
        return self.default if self.default is not None and self.default.id != self.marks.good else None

    @property
    def trial(self) -> Deployment | None:
        """The pending deployment, if it runs."""
        return self.pending if self.pending is not None and self.pending == self.booted else None

    @property
    def staged(self) -> Deployment | None:
        """The pending deployment, if it does not run yet."""
        return self.pending if self.trial is None else None

    @property
    def epoch(self) -> int:
        """The highest epoch that was committed here: by the mark, and by what is known of all that was committed."""
        known = (kept.record for kept in self.deployments if kept.record is not None and self.is_committed(kept))
        return max(self.marks.epoch, *(record.epoch for record in known if not record.own), 0)

    @property
    def ready(self) -> Deployment | None:
        """The deployment that was fetched and is complete, and waits to be switched to for the first time."""
        kept = self.get((self.marks.ready or "").partition(" ")[0])
        if kept is None or kept in (self.default, self.booted) or kept.id in self.marks.bad or self.is_committed(kept):
            return None
        return kept

    @property
    def ready_by(self) -> str:
        """What was trusted when the deployment was fetched that is ready."""
        return (self.marks.ready or "").partition(" ")[2]

    def is_committed(self, deployment: Deployment) -> bool:
        """Whether it was committed at some time."""
        return deployment.id in self.marks.committed


def survey(top: str, chooser: Chooser | None = None, options: str = "", tries: int = 3) -> System:
    """Look at the Btrfs whose top level is mounted at `top`, and at the boot chooser that belongs to it.

    `options` and `tries` are what the configuration says of new entries and of trials.
    """
    if not subvolumes.is_top_level(top):
        raise Rejected(
            f"{top} is not the top level of a Btrfs",
            "Mount it with: mount -o subvolid=5 DEVICE DIRECTORY",
        )
    snapshots = os.path.join(top, layout.SNAPSHOTS)
    there = os.path.isdir(snapshots) and not os.path.islink(snapshots)
    held, elsewhere = _subvolumes(top)
    marked = marks.read(snapshots) if there else Marks()
    default_id, booted_id = subvolumes.default(top), _booted(top)
    made = volatility.read_made() if booted_id is not None else Made()
    return System(
        default_id=default_id,
        booted_id=booted_id,
        mounted=mounts.subvolumes_of(top),
        subvolumes=held,
        deployments=_deployments(top, held, (default_id, booted_id), made),
        elsewhere=elsewhere,
        marks=marked,
        records=_records(top),
        space=space.measure(top),
        has_snapshots=there,
        foreign=frozenset(os.listdir(snapshots) if there else ()).intersection(layout.NAMES) - set(held),
        boot=_boot(top, chooser, options, tries, booted_id is not None) if chooser is not None else None,
        tries=_tries(top),
        made=made,
    )


def _boot(top: str, chooser: Chooser, options: str, tries: int, running: bool) -> Boot:
    choice, entries = chooser.choice(), chooser.entries()
    whole = (name for name, one in entries.items() if kernelsets.holds(chooser.directory, one.kernels, one.files))
    known = space.identify(top)
    if not options:
        # As the entry of what boots has them: an update changes nothing that nobody asked for.
        last = entries.get(choice.default) if choice is not None else None
        options = last.options if last is not None else command_line() if running else ""
    return Boot(
        name=chooser.name,
        choice=choice,
        entries=frozenset(whole),
        root=space.dashed(known.fsid) if known is not None else "",
        partition=place.uuid_of(chooser.directory),
        loose=frozenset(kernelsets.loose(chooser.directory, (entry.kernels for entry in entries.values()))),
        options=" ".join(filter(_is_plain_option, options.split())),
        tries=tries,
        note=chooser.note() if choice is not None else "",
        leads=chooser.leads(),
    )


def _is_plain_option(word: str) -> bool:
    """Whether a word of a command line is not ours to say, and none that a boot loader's script would read as more."""
    name = word.partition("=")[0]
    ours = name in ("BOOT_IMAGE", "initrd", "root", "rootfstype", "ro", "rw", "panic") or name.startswith("tb.")
    return not ours and "subvol" not in word and PLAIN_WORD.fullmatch(word) is not None


def _tries(top: str) -> dict[str, int]:
    directory = os.path.join(top, layout.STATE, layout.TRIES)
    try:
        held = {name: os.listdir(os.path.join(directory, name)) for name in os.listdir(directory)}
    except FileNotFoundError:
        return {}
    return {name: len([one for one in left if one != layout.TRIAL]) for name, left in held.items()}


def _subvolumes(top: str) -> tuple[dict[str, Subvolume], tuple[Place, ...]]:
    found = sorted(subvolumes.find_all(top), key=lambda one: one.id)
    nested: dict[str, list[str]] = {}
    for one in found:
        directory, _, rest = one.path.partition("/")
        name, _, below = rest.partition("/")
        if directory == layout.SNAPSHOTS and below:
            nested.setdefault(name, []).append(below)
    held: dict[str, Subvolume] = {}
    elsewhere: list[Place] = []
    for one in found:
        directory, _, name = one.path.partition("/")
        if directory != layout.SNAPSHOTS or not name:
            elsewhere.append(Place(one.path, one.id, one.seal))
        elif "/" not in name:
            below_it = tuple(sorted(nested.get(name, ())))
            held[name] = Subvolume(name, one.id, one.uuid, one.parent_uuid, one.read_only, below_it)
    return held, tuple(elsewhere)


def _deployments(
    top: str, held: Mapping[str, Subvolume], used: tuple[int | None, ...], made: Made
) -> tuple[Deployment, ...]:
    """All kept deployments, in the order in which they were made: Btrfs counts upwards, clocks may be wrong."""
    kept = []
    for name, subvolume in held.items():
        if layout.is_id(name):
            sources = {one.uuid for one in held.values() if one == subvolume or layout.saved_of(one.name) == name}
            roots = [
                one
                for one in held.values()
                if one.parent_uuid in sources and (one.name == layout.ROOT or one.name.endswith(layout.KEPT_ROOT))
            ]
            roots.sort(key=lambda one: (one.id not in used, one.name != layout.ROOT, one.id))
            directory = os.path.join(top, layout.STATE, name)
            disputed, copies = conflicts.read(directory), _saved(top, name, held, made)
            found = Deployment(name, subvolume, record.read(directory), tuple(roots), disputed, copies)
            template = os.path.join(top, layout.SNAPSHOTS, found.template)
            kept.append(replace(found, volatile=volatility.is_set(template)))
    return tuple(sorted(kept, key=lambda one: one.subvolume.id))


def _saved(top: str, deployment: str, held: Mapping[str, Subvolume], made: Made) -> tuple[Saved, ...]:
    copies = []
    for proof in saved.read(os.path.join(top, layout.STATE, deployment)):
        name = layout.saved(deployment, proof.number)
        whole = name in held and held[name].read_only and name not in made.damaged
        whole = whole and subvolumes.seal(os.path.join(top, layout.SNAPSHOTS, name)) == proof.seal
        copies.append(Saved(proof.number, name, proof.time, whole))
    return tuple(copies)


def _records(top: str) -> frozenset[str]:
    try:
        names = os.listdir(os.path.join(top, layout.STATE))
    except OSError:
        return frozenset()
    return frozenset(name for name in names if layout.is_id(name))


def _booted(top: str) -> int | None:
    """The subvolume that / is, when / is on this very file system."""
    here, there = space.identify("/"), space.identify(top)
    if here is None or there is None or here.fsid != there.fsid:
        return None
    return subvolumes.containing("/")
