"""The delta of two listings as bytes: pure, by columns, first in every payload (docs/format.md, "Metadata")."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate

from tbdiff.entry import (
    ID_MAX,
    LINK_MAX,
    MODE_MASK,
    XATTR_NAME_MAX,
    XATTR_VALUE_MAX,
    Entry,
    Extents,
    Kind,
    Xattrs,
    check_name,
)
from tbdiff.errors import Malformed
from tbdiff.operation import RELEVANT, Add, Edit, Field, Ref, TreeDelta
from tbdiff.packed import NO_DIGEST
from tbdiff.varint import Column, gaps, number_at, numbers, take, take_below, ungap, unzigzag, zigzag

MTIME_SECONDS_MAX = 2**62
SIZE_MAX = 2**63 - 1
# What Linux has.
MAJOR_MAX = 2**12 - 1
MINOR_MAX = 2**20 - 1
# No listing in memory has as many entries.
NUMBER_MAX = 2**40


class _Fields:
    """The columns of all stated fields, edits first, then adds."""

    def __init__(self) -> None:
        self.modes = Column()
        self.uids = Column()
        self.gids = Column()
        self.seconds = Column()
        self.nanoseconds = Column()
        self.xattr_sets = Column()
        self.xattr_refs = Column()
        self.sizes = Column()
        self.digests = Column()
        self.targets = Column()
        self.links = Column()
        self.devices = Column()
        self.extents = Column()
        self._sets: dict[Xattrs, int] = {}
        self._second = self._nanosecond = self._link = 0

    def columns(self) -> Sequence[Column]:
        """All of them in the order in which they are stored."""
        return (
            self.modes, self.uids, self.gids, self.seconds, self.nanoseconds, self.xattr_sets, self.xattr_refs,
            self.sizes, self.digests, self.targets, self.links, self.devices, self.extents,
        )  # fmt: skip

    def state(self, entry: Entry, fields: Field, link: Ref | None) -> None:
        """Append the stated fields of one entry."""
        if fields & Field.MODE:
            self.modes.number(entry.mode)
        if fields & Field.UID:
            self.uids.number(entry.uid)
        if fields & Field.GID:
            self.gids.number(entry.gid)
        if fields & Field.MTIME:
            second, nanosecond = divmod(entry.mtime, 1_000_000_000)
            self.seconds.signed(second - self._second)
            self.nanoseconds.signed(nanosecond - self._nanosecond)
            self._second, self._nanosecond = second, nanosecond
        if fields & Field.XATTRS:
            self.xattr_refs.number(self._xattr_set(entry.xattrs))
        if fields & Field.CONTENT:
            self._content(entry, link)
        if fields & Field.EXTENTS:
            self._extents(entry.extents)

    def _xattr_set(self, xattrs: Xattrs) -> int:
        known = self._sets.get(xattrs)
        if known is None:
            known = self._sets[xattrs] = len(self._sets)
            self.xattr_sets.number(len(xattrs))
            for name, value in xattrs:
                self.xattr_sets.number(len(name))
                self.xattr_sets += name
                self.xattr_sets.number(len(value))
                self.xattr_sets += value
        return known

    def _content(self, entry: Entry, link: Ref | None) -> None:
        if entry.kind is Kind.FILE:
            self.sizes.number(entry.size)
            self.digests += entry.digest
        elif entry.kind is Kind.SYMLINK:
            self.targets += entry.link + b"\0"
        elif entry.kind is Kind.HARDLINK and link is not None:
            self.links.signed(link.code - self._link)
            self._link = link.code
        else:
            self.devices.number(entry.rdev[0])
            self.devices.number(entry.rdev[1])

    def _extents(self, extents: Extents | None) -> None:
        if extents is None:
            self.extents.number(0)
            return
        self.extents.number(len(extents) + 1)
        end = 0
        for offset, length in extents:
            self.extents.number(offset - end)
            self.extents.number(length)
            end = offset + length


def encode(delta: TreeDelta) -> bytes:
    """The delta as the metadata stream."""
    fields = _Fields()
    for edit in delta.edits:
        fields.state(edit.entry, edit.fields, edit.link)
    add_parents, add_sources = Column(), Column()
    last_parent = last_source = 0
    for add in delta.adds:
        fields.state(add.entry, add.fields, add.link)
        add_parents.signed(add.parent.code - last_parent)
        last_parent = add.parent.code
        if add.source is None:
            add_sources.number(0)
        else:
            add_sources.number(zigzag(add.source - last_source) + 1)
            last_source = add.source
    columns: tuple[bytes | Column, ...] = (
        gaps(delta.removed),
        gaps(edit.index for edit in delta.edits),
        bytes(edit.entry.kind for edit in delta.edits),
        bytes(edit.fields for edit in delta.edits),
        bytes(add.entry.kind for add in delta.adds),
        bytes(add.fields for add in delta.adds),
        add_parents,
        add_sources,
        b"".join(add.entry.path + b"\0" for add in delta.adds),
        *fields.columns(),
    )
    out = Column()
    for column in columns:
        out.number(len(column))
        out += column
    return bytes(out)


def _columns(data: bytes) -> Iterator[bytes]:
    """The columns one after the other."""
    position = 0
    while position < len(data):
        length, position = number_at(data, position)
        if length > len(data) - position:
            raise Malformed("the image's metadata is cut off")
        yield data[position : position + length]
        position += length


class _Reader:
    """The columns of all stated fields, taken one value after the other."""

    def __init__(self, columns: Iterator[bytes]) -> None:
        def column() -> bytes:
            found = next(columns, None)
            if found is None:
                raise Malformed("the image's metadata is cut off")
            return found

        self.column = column
        self.columns = columns

    def fields(self) -> None:
        """Open the columns that `state` reads."""
        self.modes = numbers(self.column())
        self.uids = numbers(self.column())
        self.gids = numbers(self.column())
        self.seconds = accumulate(map(unzigzag, numbers(self.column())))
        self.nanoseconds = accumulate(map(unzigzag, numbers(self.column())))
        self.sets = list(_xattr_sets(self.column()))
        self.used_sets = 0
        if len(set(self.sets)) != len(self.sets):
            raise Malformed("the image holds a set of attributes twice")
        self.xattr_refs = numbers(self.column())
        self.sizes = numbers(self.column())
        self.digests = self.column()
        self.digest_at = 0
        self.targets = iter(_terminated(self.column()))
        self.links = accumulate(map(unzigzag, numbers(self.column())))
        self.devices = numbers(self.column())
        self.extents = numbers(self.column())

    def state(self, kind: Kind, fields: Field, name: bytes) -> tuple[Entry, Ref | None]:
        """The stated fields of the next entry, and what it links to."""
        if int(fields) & ~int(RELEVANT[kind]):
            raise Malformed("the image states what an entry of its kind does not have")
        mode = take_below(self.modes, MODE_MASK) if fields & Field.MODE else 0
        uid = take_below(self.uids, ID_MAX) if fields & Field.UID else 0
        gid = take_below(self.gids, ID_MAX) if fields & Field.GID else 0
        mtime = self._mtime() if fields & Field.MTIME else 0
        xattrs: Xattrs = ()
        if fields & Field.XATTRS:
            number = take_below(self.xattr_refs, len(self.sets) - 1)
            if number > self.used_sets:
                raise Malformed("the image's sets of attributes are not in the order in which they are used")
            self.used_sets = max(self.used_sets, number + 1)
            xattrs = self.sets[number]
        size, digest, target, rdev = 0, b"", b"", (0, 0)
        link = None
        if fields & Field.CONTENT:
            if kind is Kind.FILE:
                size = take_below(self.sizes, SIZE_MAX)
                digest = self.digests[self.digest_at : self.digest_at + 32]
                self.digest_at += 32
                if len(digest) != 32:
                    raise Malformed("the image's metadata is cut off")
                if digest == NO_DIGEST:
                    raise Malformed("the image holds a file without a digest")
            elif kind is Kind.SYMLINK:
                target = next(self.targets, b"")
                if not 0 < len(target) <= LINK_MAX:
                    raise Malformed("the image holds a symbolic link that no system can hold")
            elif kind is Kind.HARDLINK:
                link = Ref.of_code(take(self.links))
            else:
                rdev = (take_below(self.devices, MAJOR_MAX), take_below(self.devices, MINOR_MAX))
        extents = self._extents(size) if fields & Field.EXTENTS else None
        return Entry(name, kind, mode, uid, gid, mtime, size, digest, target, rdev, xattrs, extents), link

    def _mtime(self) -> int:
        second, nanosecond = take(self.seconds), take(self.nanoseconds)
        if abs(second) > MTIME_SECONDS_MAX or not 0 <= nanosecond < 1_000_000_000:
            raise Malformed("the image holds a time that no clock shows")
        return second * 1_000_000_000 + nanosecond

    def _extents(self, size: int) -> Extents | None:
        count = take(self.extents)
        if not count:
            return None
        found = []
        end = 0
        for n in range(count - 1):
            gap, length = take(self.extents), take(self.extents)
            offset = end + gap
            end = offset + length
            if not length or (n and not gap) or end > SIZE_MAX or (count == 2 and not gap and length == size):
                raise Malformed("the image holds a sparse file whose parts overlap")
            found.append((offset, length))
        return tuple(found)

    def check_end(self) -> None:
        """Nothing may be left over: what is in an image is what it says."""
        iterators: tuple[Iterator[object], ...] = (
            self.modes, self.uids, self.gids, self.seconds, self.nanoseconds, self.xattr_refs, self.sizes,
            self.targets, self.links, self.devices, self.extents,
        )  # fmt: skip
        if (
            self.used_sets != len(self.sets)
            or next(self.columns, None) is not None
            or any(next(column, None) is not None for column in iterators)
            or self.digest_at != len(self.digests)
        ):
            raise Malformed("the image's metadata holds more than it uses")


def _terminated(data: bytes) -> list[bytes]:
    if data and not data.endswith(b"\0"):
        raise Malformed("the image's metadata is cut off")
    return data.split(b"\0")[:-1]


def _xattr_sets(data: bytes) -> Iterator[Xattrs]:
    position = 0

    def take_number(limit: int) -> int:
        nonlocal position
        value, position = number_at(data, position)
        if value > limit:
            raise Malformed("the image holds an attribute that is too large")
        return value

    def take_bytes(limit: int) -> bytes:
        nonlocal position
        length = take_number(limit)
        found = data[position : position + length]
        if len(found) != length:
            raise Malformed("the image's attributes are cut off")
        position += length
        return found

    while position < len(data):
        pairs = tuple((take_bytes(XATTR_NAME_MAX), take_bytes(XATTR_VALUE_MAX)) for _ in range(take_number(len(data))))
        names = [name for name, _ in pairs]
        if any(not name or b"\0" in name for name in names) or names != sorted(set(names)):
            raise Malformed("the image holds attributes that no entry can have")
        yield pairs


def _kinds(data: bytes) -> list[Kind]:
    try:
        return [Kind(value) for value in data]
    except ValueError:
        raise Malformed("the image holds an entry of an unknown kind") from None


def decode(data: bytes) -> TreeDelta:
    """Read a metadata stream; Rejected where it is not one."""
    read = _Reader(_columns(data))
    removed = ungap(read.column())
    indices = ungap(read.column())
    edit_kinds = _kinds(read.column())
    edit_fields = read.column()
    add_kinds = _kinds(read.column())
    add_fields = read.column()
    add_parents = list(accumulate(map(unzigzag, numbers(read.column()))))
    add_sources = list(_sources(read.column()))
    names = _terminated(read.column())
    if not len(indices) == len(edit_kinds) == len(edit_fields):
        raise Malformed("the image's metadata does not fit together")
    if not len(add_kinds) == len(add_fields) == len(add_parents) == len(add_sources) == len(names):
        raise Malformed("the image's metadata does not fit together")
    if any(not 0 <= code < NUMBER_MAX for code in (*add_parents, *indices)):
        raise Malformed("the image refers to an entry that is not there")
    read.fields()

    def edits() -> Iterator[Edit]:
        for index, kind, fields in zip(indices, edit_kinds, edit_fields, strict=True):
            entry, link = read.state(kind, Field(fields), b"")
            yield Edit(index, Field(fields), entry, link)

    def adds() -> Iterator[Add]:
        for n, (kind, fields) in enumerate(zip(add_kinds, add_fields, strict=True)):
            # Only the root of a full image has no name.
            name = check_name(names[n]) if n or names[n] else b""
            entry, link = read.state(kind, Field(fields), name)
            yield Add(Ref.of_code(add_parents[n]), entry, Field(fields), add_sources[n], link)

    delta = TreeDelta(removed, edits(), adds())
    read.check_end()
    return delta


def _sources(data: bytes) -> Iterator[int | None]:
    source = 0
    for value in numbers(data):
        if not value:
            yield None
        else:
            source += unzigzag(value - 1)
            yield source
