"""Numbers as bytes: the variable-length integers of the format, one by one and by columns."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate

from tbdiff.errors import Malformed

VARINT_MAX = 2**64 - 1


class Column(bytearray):
    """Bytes that are written one value after the other."""

    def number(self, value: int) -> None:
        """Append an unsigned number: seven bits a byte, lowest first, the top bit set where more follow."""
        while value > 0x7F:
            self.append(value & 0x7F | 0x80)
            value >>= 7
        self.append(value)

    def signed(self, value: int) -> None:
        """Append a signed number: zigzag, so that small ones stay short."""
        self.number(zigzag(value))


def zigzag(value: int) -> int:
    """A signed number as an unsigned one: small ones, whatever their sign, stay small."""
    return value << 1 if value >= 0 else (-value << 1) - 1


def unzigzag(value: int) -> int:
    """The signed number that was written as `value`."""
    return -((value + 1) >> 1) if value & 1 else value >> 1


def numbers(data: bytes) -> Iterator[int]:
    """The unsigned numbers in `data`; Rejected where one is longer than 64 bits or cut off."""
    value = shift = 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift > 63:
                raise Malformed("the image holds a number that is too long")
        else:
            if value > VARINT_MAX or (shift and not byte):
                raise Malformed("the image holds a number that is too large, or longer than it need be")
            yield value
            value = shift = 0
    if shift:
        raise Malformed("the image holds a number that is cut off")


def gaps(values: Iterable[int]) -> Column:
    """Ascending numbers as their distances."""
    column = Column()
    last = -1
    for value in values:
        column.number(value - last - 1)
        last = value
    return column


def ungap(data: bytes) -> list[int]:
    """The ascending numbers whose distances are in `data`."""
    return [n - 1 for n in accumulate(gap + 1 for gap in numbers(data))]


def take(column: Iterator[int]) -> int:
    """The next number of a column that must have one."""
    value = next(column, None)
    if value is None:
        raise Malformed("the image's metadata is cut off")
    return value


def take_below(column: Iterator[int], limit: int) -> int:
    """The next number of a column, at most `limit`."""
    value = take(column)
    if value > limit:
        raise Malformed("the image's metadata holds a number that is too large")
    return value


def number_at(data: bytes, position: int) -> tuple[int, int]:
    """The unsigned number at `position`, and the position behind it."""
    end = position
    while end < len(data) and data[end] & 0x80:
        end += 1
    if end >= len(data):
        raise Malformed("the image holds a number that is cut off")
    (value,) = numbers(data[position : end + 1])
    return value, end + 1
