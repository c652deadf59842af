"""Images of the legacy format (TBDIFFv0) as images: the whole stream is checked and staged before a tree changes."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tbdiff.changes import KINDS, Change
from tbdiff.compare import compare
from tbdiff.descent import Descent
from tbdiff.entry import Kind, Listing, join, printable
from tbdiff.errors import Malformed, NothingToDo, Rejected, Stop
from tbdiff.head import Head
from tbdiff.legacy.commands import (
    ChangeDirectory,
    ChangeFile,
    Command,
    Delete,
    Enter,
    Leave,
    MakeDirectory,
    MakeFile,
    MakeSpecial,
    MakeSymlink,
    Mask,
    PatchFile,
    SetXattrs,
)
from tbdiff.legacy.content import LegacyContents
from tbdiff.legacy.tree import LegacyTree
from tbdiff.legacy.wire import Fields, commands
from tbdiff.manifest import Manifest, Target, Way
from tbdiff.opened import Expect, OpenedImage, anything, changing
from tbdiff.rebuild import rebuild
from tbdiff.rehearsal import rehearse
from tbdiff.source import Source
from tbdiff.tree import Progress, quiet, read_tree

if TYPE_CHECKING:
    from tbdiff.signature import KeyRing

ASPECTS = {Mask.MTIME: "time", Mask.MODE: "mode", Mask.UID: "owner", Mask.GID: "group"}


class LegacyImage(OpenedImage):
    """An opened stream of the legacy format. It says nothing of itself, and its digest is known when it was read."""

    def __init__(self, source: Source, head: Head, manifest: Manifest) -> None:
        super().__init__(source, head, manifest, ())
        self._found = ""

    @property
    def digest(self) -> str:
        """What names the image: the SHA-256 of its stream, once it was read."""
        return self._found

    def changes(self) -> list[Change]:
        """What it changes, as far as it tells without its base."""
        return stream_changes(self._commands("read", quiet))

    def check(self, progress: Progress = quiet) -> None:
        """Read all of it, without a tree."""
        depth = 0
        for command in self._commands("verify", progress):
            depth += isinstance(command, Enter) - isinstance(command, Leave)
            check_depth(depth)

    def apply(
        self, tree: Path, base: Listing | None = None, progress: Progress = quiet, expect: Expect = anything
    ) -> Listing:
        """Change `tree` as the stream says; return the listing of what comes of it."""
        with changing(tree) as writer:
            base = base or read_tree(tree, progress=progress)
            staging = writer.begin(base)
            with Descent(tree) as descent:
                new = LegacyTree(base, LegacyContents(staging, base), lambda path: _is_socket(descent, path))
                for command in self._commands("apply", progress):
                    new.follow(command)
            self.notices += (f"{printable(path)} is a socket and was left out" for path in new.sockets)
            target = new.listing()
            del new  # what comes needs memory too
            if target.digest == base.digest:
                raise NothingToDo(f"{tree} is as the image leaves it already")
            expect(target)
            delta = compare(base, target)
            del target  # it is made once more, with what is where in it
            rebuilt = rebuild(base, delta)
            rehearse(staging.fd, (rebuilt.target.entries[n] for n in chain(rebuilt.added, rebuilt.edited)))
            writer.transform(base, delta, rebuilt, progress)
        return rebuilt.target

    def _commands(self, phase: str, progress: Progress) -> Iterator[Command]:
        fields = Fields(self._source)
        for command in commands(fields):
            yield command
            progress(phase, fields.done, 0)
        self._found = fields.digest()


def open_legacy(source: Source, keys: KeyRing | None, *, unsigned_ok: bool) -> LegacyImage:
    """Open a stream of which nothing was read yet. Nobody can have signed it: with `keys`, `unsigned_ok` is needed."""
    if keys is not None and not unsigned_ok:
        raise Rejected(
            f"{source.name} is of the legacy format, which has no signatures",
            "Make a signed image of it with `tbdiff convert --key`.",
        )
    target = Target()
    way = Way(
        target=hashlib.sha256(target.to_bytes()).hexdigest(),
        container="legacy",
        chunks=hashlib.sha256().hexdigest(),
    )
    return LegacyImage(source, Head(target.to_bytes(), way.to_bytes()), Manifest(target=target, way=way))


def check_depth(depth: int) -> None:
    """Rejected where a stream leaves its tree."""
    if depth < 0:
        raise Malformed("the image leaves the tree that it is applied to; nothing was changed")


def _is_socket(tree: Descent, path: bytes) -> bool:
    """Whether the tree has a socket at `path`; nothing of a listing is there."""
    try:
        directory, name = tree.parent(path)
        return stat.S_ISSOCK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except (OSError, Stop):
        return False


# --- in words


def stream_changes(stream: Iterator[Command]) -> list[Change]:
    """What a stream changes, by path (pure)."""
    found: dict[bytes, Change] = {}
    here = [b""]
    for command in stream:
        if isinstance(command, Enter):
            here.append(join(here[-1], command.name))
        elif isinstance(command, Leave):
            here.pop()
            check_depth(len(here) - 1)
        else:
            path = join(here[-1], command.name) if command.name else here[-1]
            found[path] = _merged(found.get(path), _change(path, command))
    return [found[path] for path in sorted(found)]


def _merged(earlier: Change | None, change: Change) -> Change:
    """What two commands about one path come to."""
    if earlier is None:
        return change
    if earlier.kind == "removed" and change.kind == "added":
        return Change("changed", change.path, ("replaced by a " + change.what[0],), size=change.size)
    if change.kind != "changed":
        return change
    if earlier.kind == "added":
        return earlier
    what = tuple(dict.fromkeys((*earlier.what, *change.what)))
    return Change("changed", change.path, what, size=change.size or earlier.size)


def _change(path: bytes, command: Command) -> Change:
    kind = "changed"
    size: int | None = None
    what: tuple[str, ...] = ()
    match command:
        case MakeFile(size=size):
            kind, what = "added", (KINDS[Kind.FILE],)
        case MakeDirectory():
            kind, what = "added", (KINDS[Kind.DIRECTORY],)
        case MakeSymlink():
            kind, what = "added", (KINDS[Kind.SYMLINK],)
        case MakeSpecial():
            kind, what = "added", (KINDS[command.kind] if command.kind else "socket, which is left out",)
        case PatchFile(size=size):
            what = ("content",)
        case ChangeFile() | ChangeDirectory():
            what = tuple(word for bit, word in ASPECTS.items() if command.mask & bit)
        case SetXattrs():
            what = ("attributes",)
        case Delete():
            kind = "removed"
    return Change(kind, path, what, size=size)
