"""Bytes taken one value after the other; what is wrong with an image is refused here."""

from __future__ import annotations


class RefusedError(Exception):
    """The image is not one that may be applied."""


def demand(condition: object, why: str) -> None:
    if not condition:
        raise RefusedError(why)


class Bytes:
    """Bytes that are taken from the front."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def __bool__(self) -> bool:
        return self.at < len(self.data)

    def take(self, size: int) -> bytes:
        demand(0 <= size <= len(self.data) - self.at, "cut off")
        self.at += size
        return self.data[self.at - size : self.at]

    def fixed(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def number(self) -> int:
        value = shift = 0
        while True:
            byte = self.fixed(1)
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        demand(value < 2**64 and (byte or not shift), "a number of too many bytes")
        return value

    def signed(self) -> int:
        value = self.number()
        return -(value + 1) // 2 if value % 2 else value // 2

    def terminated(self) -> bytes:
        end = self.data.find(b"\0", self.at)
        demand(end >= 0, "cut off")
        return self.take(end - self.at + 1)[:-1]
