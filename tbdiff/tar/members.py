"""The members of a tar stream, read by libarchive and by `tarcheck`; what the two do not agree on is refused."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tbdiff.entry import Entry, Kind, printable
from tbdiff.errors import Failed, Malformed
from tbdiff.tar.check import Member, Scan

DONE, WARNING = 1, -20
TYPES = {
    Kind.FILE: 0o100000,
    Kind.HARDLINK: 0o100000,
    Kind.DIRECTORY: 0o040000,
    Kind.SYMLINK: 0o120000,
    Kind.FIFO: 0o010000,
    Kind.CHAR: 0o020000,
    Kind.BLOCK: 0o060000,
}

Blocks = Iterator[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Arriving:
    """An entry whose content, in (offset, data) blocks, is to be read before the next entry; holes have no block."""

    entry: Entry
    blocks: Blocks


def members(pieces: Iterator[bytes]) -> Iterator[Arriving]:
    """The entries of a tar stream, in its order; `pieces` is read to its end."""
    try:
        import libarchive.read  # noqa: PLC0415 - it loads a large library
        from libarchive.exception import ArchiveError  # noqa: PLC0415
    except (ImportError, OSError, TypeError) as error:
        raise Failed(f"tarballs cannot be read: {error}", "Install libarchive (Debian: libarchive13).") from None
    feed = _Feed(pieces)
    callback = libarchive.ffi.READ_CALLBACK(feed.next)
    nothing = libarchive.ffi.NO_OPEN_CB, libarchive.ffi.NO_CLOSE_CB
    with libarchive.read.new_archive_read("tar", "none") as archive:
        try:
            libarchive.ffi.read_open(archive, None, nothing[0], callback, nothing[1])
        except ArchiveError as error:
            feed.check()
            raise Malformed(f"the tarball cannot be read: {_words(error.msg)}") from None
        yield from _Reading(libarchive.ffi, archive, feed).members()
    feed.finish()


class _Feed:
    """The stream as libarchive asks for it, a piece at a time; each is scanned before it is handed over."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._error: BaseException | None = None
        self.scan = Scan()

    def next(self, _archive: int, _context: int, buffer: Any) -> int:
        """libarchive's read callback. An exception must not pass through its C code: it is kept for later."""
        try:
            self._piece = next(self._pieces, b"")
            self.scan.feed(self._piece)
            if not self._piece:
                self.scan.finish()
            buffer[0] = ctypes.cast(ctypes.c_char_p(self._piece), ctypes.c_void_p)
            return len(self._piece)
        except BaseException as error:  # noqa: BLE001 - raised again by `check`
            self._error = error
            return -1

    def check(self) -> None:
        """Raise what was kept."""
        if self._error is not None:
            raise self._error

    def finish(self) -> None:
        """Read on to the end, which libarchive does not always do."""
        self.check()
        for piece in self._pieces:
            self.scan.feed(piece)
        self.scan.finish()
        if self.scan.members:
            raise Malformed("the tarball has more entries than libarchive reads of it")


class _Reading:
    """One archive being read."""

    def __init__(self, ffi: Any, archive: int, feed: _Feed) -> None:
        self._ffi = ffi
        self._archive = archive
        self._feed = feed
        # Not the checked functions of the binding: what they log as a warning is for us to judge.
        self._next_header = ffi.libarchive["archive_read_next_header2"]
        self._next_header.argtypes = (ctypes.c_void_p, ctypes.c_void_p)
        self._next_block = ffi.libarchive["archive_read_data_block"]
        self._next_block.argtypes = (ctypes.c_void_p,) + (ctypes.c_void_p,) * 3

    def members(self) -> Iterator[Arriving]:
        entry = self._ffi.entry_new()
        try:
            while self._succeeded(self._next_header(self._archive, entry)):
                if not self._feed.scan.members:
                    raise Malformed("libarchive reads an entry where the tarball has none")
                member = self._feed.scan.members.popleft()
                self._compare(member, entry)
                blocks = self._blocks(member.entry)
                yield Arriving(member.entry, blocks)
                for _ in blocks:  # whoever does not need a content does not read it
                    pass
        finally:
            self._ffi.entry_free(entry)

    def _succeeded(self, code: int) -> bool:
        """False at the end."""
        self._feed.check()
        if code == DONE:
            return False
        # Warnings are about names that a locale does not have; these are read elsewhere.
        if code < WARNING:
            raise Malformed(f"the tarball cannot be read: {_words(self._ffi.error_string(self._archive))}")
        return True

    def _compare(self, member: Member, found: int) -> None:
        ffi, entry = self._ffi, member.entry
        linked = ffi.entry_hardlink(found) is not None
        facts: list[tuple[object, object]] = [(linked, entry.kind is Kind.HARDLINK)]
        if not linked:
            facts.append((ffi.entry_filetype(found), TYPES[entry.kind]))
            facts.append(((ffi.entry_uid(found), ffi.entry_gid(found)), (entry.uid, entry.gid)))
        if entry.kind is Kind.FILE:
            facts.append((ffi.entry_size(found), entry.size))
        if entry.kind in (Kind.CHAR, Kind.BLOCK):
            facts.append(((ffi.entry_rdevmajor(found), ffi.entry_rdevminor(found)), entry.rdev))
        name = ffi.entry_pathname(found)
        if name is not None and member.raw.isascii():
            # Other names depend on the locale.
            facts.append((name, member.raw))
        if any(one != other for one, other in facts):
            raise Malformed(f"the tarball says of {printable(entry.path)!r} what can be read in two ways")

    def _blocks(self, entry: Entry) -> Blocks:
        runs = iter(((0, entry.size),) if entry.extents is None else entry.extents)
        pointer, length, offset = ctypes.c_void_p(), ctypes.c_size_t(), ctypes.c_longlong()
        places = ctypes.byref(pointer), ctypes.byref(length), ctypes.byref(offset)
        at, end = 0, 0
        while self._succeeded(self._next_block(self._archive, *places)):
            if not length.value:
                continue
            if at == end:
                at, length_of_run = next(runs, (0, 0))
                end = at + length_of_run
            if offset.value != at or length.value > end - at:
                raise Malformed(f"the content of {printable(entry.path)!r} is not where the tarball says it is")
            at += length.value
            yield offset.value, ctypes.string_at(pointer.value or 0, length.value)
        if at != end or next(runs, (0, 0))[1]:
            raise Malformed(f"the content of {printable(entry.path)!r} is not where the tarball says it is")


def _words(message: bytes | str | None) -> str:
    text = message.encode() if isinstance(message, str) else message or b"libarchive does not say why"
    return printable(text[:200])
