"""A strict reading of a tar stream's headers while it passes, before anybody else believes them; it does no I/O."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from tbdiff.entry import ID_MAX, LINK_MAX, MODE_MASK, PATH_MAX, Entry, Extents, Kind, check_path, printable
from tbdiff.errors import Malformed, Rejected
from tbdiff.tar import header as tarheader
from tbdiff.tar.header import BLOCK, SIZE_MAX, Header, within
from tbdiff.tar.pax import Pax, check_global
from tbdiff.tree import STAGING

EXTENSION_MAX = 1 << 20
SPARSE_MAP_MAX = 1 << 22
SPARSE_PARTS_MAX = 1 << 18
# Tapes are filled up to whole records behind the end mark.
PADDING_MAX = 1 << 22
MTIME_SECONDS_MAX = 2**62
MODE_FIELD_MAX = 0o177777
# One number in memory for each mode, however many entries have it.
MODES = tuple(range(MODE_MASK + 1))

ZEROS = bytes(BLOCK)
KINDS = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.HARDLINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.CHAR,
    b"4": Kind.BLOCK,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}
OTHERS = {
    b"V": "a volume label",
    b"M": "the rest of a file that another volume begins",
    b"D": "a directory of an incremental backup",
    b"N": "an old list of long names",
    b"X": "an extended header of Solaris",
    b"s": "a socket",
}

# A parser says how many bytes it wants to see next; what it says as a negative number goes by unseen.
Parser = Generator[int, bytes, None]


@dataclass(frozen=True, slots=True)
class Member:
    """One entry of a tarball, without its content's digest, and its name as it stands in the archive."""

    entry: Entry
    raw: bytes


class Scan:
    """The headers of one tar stream. `feed` it all bytes; `members` are those whose headers went by."""

    def __init__(self) -> None:
        self.members: deque[Member] = deque()
        self._parser = self._stream()
        self._wanted = next(self._parser)
        self._held = bytearray()
        self._ended = False
        self._padding = 0

    def feed(self, data: bytes) -> None:
        """Look at the next bytes of the stream; Rejected if they are not what may stand there."""
        at = 0
        while at < len(data):
            if self._ended:
                self._pad(data[at:] if at else data)
                return
            if self._wanted < 0:
                step = min(-self._wanted, len(data) - at)
                self._wanted += step
                if not self._wanted:
                    self._next(b"")
            else:
                step = min(self._wanted - len(self._held), len(data) - at)
                self._held += data[at : at + step]
                if len(self._held) == self._wanted:
                    block = bytes(self._held)
                    self._held.clear()
                    self._next(block)
            at += step

    def _next(self, block: bytes) -> None:
        try:
            self._wanted = self._parser.send(block)
        except StopIteration:
            self._ended = True

    def _pad(self, data: bytes) -> None:
        self._padding += len(data)
        if data.count(0) != len(data) or self._padding > PADDING_MAX:
            raise Malformed("the tarball goes on behind its end")

    def finish(self) -> None:
        """Say that the stream is over; Rejected if its end mark did not come."""
        if not self._ended:
            raise Rejected("the tarball is cut off: its end mark is missing; nothing was changed", "Fetch it again.")

    # --- the parser: it reads as the archive does, from top to bottom

    def _stream(self) -> Parser:
        while (block := (yield BLOCK)) != ZEROS:
            header = tarheader.parse(block)
            if header.flag == b"g":
                check_global((yield from _body(header, EXTENSION_MAX)))
            else:
                yield from self._member(header)
        if (yield BLOCK) != ZEROS:
            raise Malformed("the tarball has only half an end mark")

    def _member(self, header: Header) -> Parser:
        pax, long = None, {}
        while header.flag in b"xLK":
            if header.flag == b"x":
                if pax is not None:
                    raise Malformed("the tarball has two extended headers for one entry")
                pax = Pax((yield from _body(header, EXTENSION_MAX)))
            else:
                if header.flag in long:
                    raise Malformed("the tarball has two long names for one entry")
                long[header.flag] = _long_name((yield from _body(header, PATH_MAX + 1)))
            block = yield BLOCK
            if block == ZEROS:
                raise Malformed("the tarball ends where an entry should follow")
            header = tarheader.parse(block)
        raw, entry, stored = _entry(header, pax or Pax(), long)
        if header.flag == b"S":
            pairs = yield from _old_sparse_map(header)
            entry = _sparse(entry, tarheader.sparse_size(header), pairs, stored)
        elif pax is not None and pax.is_sparse:
            entry, stored = yield from _pax_sparse(entry, pax, stored)
        self.members.append(Member(entry, raw))
        yield from _pass_by(stored)


def _pass_by(size: int) -> Parser:
    if size:
        yield -(size + -size % BLOCK)


def _body(header: Header, limit: int) -> Generator[int, bytes, bytes]:
    """The content of an extension header."""
    if not 0 < header.size <= limit:
        raise Malformed(f"the tarball has a header of {header.size} bytes, and {limit} is the limit")
    body = yield header.size + -header.size % BLOCK
    return body[: header.size]


def _long_name(body: bytes) -> bytes:
    name = body.rstrip(b"\0")
    if not name or b"\0" in name:
        raise Malformed("the tarball has a long name that is empty or holds a NUL byte")
    return name


# --- one entry


def _entry(header: Header, pax: Pax, long: dict[bytes, bytes]) -> tuple[bytes, Entry, int]:
    """The name as it stands there, the entry, and how many bytes are stored for it."""
    kind = KINDS.get(header.flag)
    raw = _name(header, pax, long)
    shown = repr(printable(raw[:300]))
    if kind is None:
        what = OTHERS.get(header.flag, f"an entry of the unknown type {printable(header.flag)!r}")
        raise Rejected(f"the tarball holds {what} ({shown}), which no image can hold", "Pack it without.")
    if kind is Kind.FILE and raw.endswith(b"/") and header.flag in (b"0", b"\0"):
        # Before directories had a type of their own this was how they were told.
        kind = Kind.DIRECTORY
    stored = pax.number(b"size", SIZE_MAX)
    if stored is None:
        stored = within(header.size, SIZE_MAX, f"the size of {shown}")
    if stored and kind is not Kind.FILE:
        raise Malformed(f"the tarball has content for {shown}, which is no regular file")
    entry = Entry(
        path=clean(raw, directory=kind is Kind.DIRECTORY),
        kind=kind,
        mode=0 if kind is Kind.SYMLINK else _mode(header.mode, shown),
        uid=_owner(pax, b"uid", header.uid, shown),
        gid=_owner(pax, b"gid", header.gid, shown),
        mtime=_mtime(pax, header, shown),
        size=stored if kind is Kind.FILE else 0,
        link=_link(kind, header, pax, long, shown),
        rdev=_device(header, pax, shown) if kind in (Kind.CHAR, Kind.BLOCK) else (0, 0),
        xattrs=pax.xattrs(),
    )
    if kind is not Kind.FILE and pax.is_sparse:
        raise Malformed(f"the tarball has holes for {shown}, which is no regular file")
    if kind is Kind.HARDLINK:
        entry = Entry(path=entry.path, kind=kind, link=entry.link)
    return raw, entry, stored


def _name(header: Header, pax: Pax, long: dict[bytes, bytes]) -> bytes:
    sparse_name, path = pax.text(b"GNU.sparse.name"), pax.text(b"path")
    if b"L" in long and (sparse_name or path):
        raise Malformed("the tarball names one entry in two ways")
    return sparse_name or path or long.get(b"L") or header.name


def _link(kind: Kind, header: Header, pax: Pax, long: dict[bytes, bytes], shown: str) -> bytes:
    path = pax.text(b"linkpath")
    if b"K" in long and path:
        raise Malformed("the tarball names the target of one link in two ways")
    link = path or long.get(b"K") or header.link
    if kind is Kind.HARDLINK:
        return clean(link, directory=False)
    if kind is not Kind.SYMLINK:
        return b""
    if not 0 < len(link) <= LINK_MAX:
        raise Malformed(f"the tarball has a symbolic link {shown} with a target of {len(link)} bytes")
    return link


def _mode(stated: int, shown: str) -> int:
    return MODES[within(stated, MODE_FIELD_MAX, f"the mode of {shown}") & MODE_MASK]


def _owner(pax: Pax, key: bytes, stated: int, shown: str) -> int:
    value = pax.number(key, ID_MAX)
    return within(stated, ID_MAX, f"the {key.decode()} of {shown}") if value is None else value


def _mtime(pax: Pax, header: Header, shown: str) -> int:
    mtime = pax.time(b"mtime")
    if mtime is None:
        mtime = header.mtime * 1_000_000_000
    if abs(mtime) > MTIME_SECONDS_MAX * 1_000_000_000:
        raise Malformed(f"the tarball holds a time of {shown} that no clock shows")
    return mtime


def _device(header: Header, pax: Pax, shown: str) -> tuple[int, int]:
    if header.rdev is None:
        raise Malformed(f"the tarball has a device {shown} without its number")
    major = pax.number(b"SCHILY.devmajor", tarheader.MAJOR_MAX)
    minor = pax.number(b"SCHILY.devminor", tarheader.MINOR_MAX)
    return (
        within(header.rdev[0], tarheader.MAJOR_MAX, f"the major number of {shown}") if major is None else major,
        within(header.rdev[1], tarheader.MINOR_MAX, f"the minor number of {shown}") if minor is None else minor,
    )


def clean(raw: bytes, *, directory: bool) -> bytes:
    """The path that a name in a tarball means: relative to the root, without what means nothing."""
    if raw.startswith(b"/"):
        raise Rejected(f"the tarball names {printable(raw[:300])!r}, which is outside of the tree", "Pack it relative.")
    names = [name for name in raw.split(b"/") if name not in (b"", b".")]
    if not directory and (not names or raw.endswith((b"/", b"/."))):
        raise Malformed(f"the tarball names {printable(raw[:300])!r}, which can only be a directory")
    if not raw:
        raise Malformed("the tarball has an entry without a name")
    if names and names[0] == STAGING:
        raise Malformed(f"the tarball names {printable(raw[:300])!r}, which tbdiff needs for itself")
    return check_path(b"/".join(names)) if names else b""


# --- sparse files


def _old_sparse_map(header: Header) -> Generator[int, bytes, list[tuple[int, int]]]:
    pairs, more = tarheader.sparse_pairs(header), tarheader.goes_on(header)
    while more:
        further, more = tarheader.more_sparse_pairs((yield BLOCK))
        pairs += further
        if len(pairs) > SPARSE_PARTS_MAX:
            raise Malformed("the tarball has a sparse file of too many parts")
    return pairs


def _pax_sparse(entry: Entry, pax: Pax, stored: int) -> Generator[int, bytes, tuple[Entry, int]]:
    """A sparse file in one of the three forms of GNU tar, and how many bytes are stored behind its map."""
    form = pax.fields.get(b"GNU.sparse.major", b"0"), pax.fields.get(b"GNU.sparse.minor", b"0")
    if form == (b"1", b"0"):
        pairs, length = yield from _stored_map(stored)
        stored -= length
    elif form[0] == b"0" and form[1] in (b"0", b"1"):
        count = pax.number(b"GNU.sparse.numblocks", SPARSE_PARTS_MAX)
        pairs = _listed_pairs(pax)
        if count != len(pairs):
            raise Malformed("the tarball has a sparse file with another number of parts than it says")
    else:
        raise Rejected("the tarball has a sparse file in a form that tbdiff does not know", "Pack it with GNU tar.")
    size = pax.number(b"GNU.sparse.realsize" if form[0] == b"1" else b"GNU.sparse.size", SIZE_MAX)
    if size is None:
        raise Malformed("the tarball has a sparse file that does not say how large it is")
    return _sparse(entry, size, pairs, stored), stored


def _listed_pairs(pax: Pax) -> list[tuple[int, int]]:
    listed = pax.fields.get(b"GNU.sparse.map")
    if listed is not None:
        values = listed.split(b",") if listed else []
        if pax.sparse:
            raise Malformed("the tarball says in two ways where a file has its holes")
    else:
        keys = [key for key, _ in pax.sparse]
        if keys != [b"GNU.sparse.offset", b"GNU.sparse.numbytes"] * (len(keys) // 2):
            raise Malformed("the tarball has a sparse file whose parts are not in pairs")
        values = [value for _, value in pax.sparse]
    numbers = [_decimal(value) for value in values]
    if len(numbers) % 2:
        raise Malformed("the tarball has a sparse file whose parts are not in pairs")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _stored_map(stored: int) -> Generator[int, bytes, tuple[list[tuple[int, int]], int]]:
    """The map that stands in front of the content, and how many bytes it takes."""
    text = bytearray()
    lines: list[bytes] = []
    while not lines or len(lines) < 1 + 2 * _count(lines[0]):
        if len(text) >= min(stored, SPARSE_MAP_MAX):
            raise Malformed("the tarball has a sparse file whose list of parts does not end")
        block = yield BLOCK
        # A line may begin in one block and end in the next.
        rest = text[text.rfind(b"\n") + 1 :]
        text += block
        lines += bytes(rest + block).split(b"\n")[:-1]
    numbers = [_decimal(line) for line in lines[1 : 1 + 2 * _count(lines[0])]]
    return list(zip(numbers[::2], numbers[1::2], strict=True)), len(text)


def _count(line: bytes) -> int:
    return within(_decimal(line), SPARSE_PARTS_MAX, "the number of a sparse file's parts")


def _decimal(text: bytes) -> int:
    if not re.fullmatch(rb"\d{1,20}", text):
        raise Malformed("the tarball has a sparse file with a part that is no number")
    return int(text)


def _sparse(entry: Entry, size: int, pairs: list[tuple[int, int]], stored: int) -> Entry:
    """The entry with its size and the parts of it that hold data, which must be just what is stored."""
    found: list[tuple[int, int]] = []
    end = 0
    for offset, length in pairs:
        if offset < end or length < 0 or offset + length > size:
            raise Malformed(
                f"the tarball has a sparse file {printable(entry.path)!r} whose parts overlap or lie outside"
            )
        if found and offset == end and length:
            found[-1] = (found[-1][0], found[-1][1] + length)
        elif length:
            found.append((offset, length))
        end = offset + length
    if sum(length for _, length in found) != stored or not 0 <= size <= SIZE_MAX:
        raise Malformed(f"the tarball has a sparse file {printable(entry.path)!r} with another content than it says")
    extents: Extents | None = None if not size or found == [(0, size)] else tuple(found)
    return entry._replace(size=size, extents=extents)
