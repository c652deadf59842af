"""The object store: where artifacts are kept, in a directory or in S3, each under a name that says what it holds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from tbdiff.errors import Failed, Rejected

PIECE = 1 << 18


class Store:
    """Objects by their keys; they appear as a whole. Addresses: file:///DIRECTORY or s3://BUCKET/PREFIX."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        try:
            if parts.scheme == "file":
                self._inner: ObjectStore = LocalStore(Path(url2pathname(parts.path)), mkdir=True)
            elif parts.scheme == "s3":
                # Keys, region and endpoint are in the environment, as for other programs (AWS_…).
                self._inner = from_url(url)
            else:
                raise Rejected(f"{url} is no place for artifacts", "Name file:///DIRECTORY or s3://BUCKET/PREFIX.")
        except BaseError as error:
            raise Failed(f"the place for artifacts {url} cannot be used: {_line(error)}") from None

    def put(self, key: str, data: bytes) -> None:
        """Keep a few bytes."""
        obstore.put(self._inner, key, data)

    def put_file(self, key: str, path: Path) -> None:
        """Keep what is in a file."""
        with path.open("rb") as file:
            obstore.put(self._inner, key, file)

    def read(self, key: str, begin: int, end: int) -> Iterator[bytes]:
        """The bytes from `begin` up to `end`, in pieces; FileNotFoundError if the object is not there."""
        while begin < end:
            piece = bytes(obstore.get_range(self._inner, key, start=begin, end=min(begin + PIECE, end)))
            if not piece:
                raise OSError(f"{key} is shorter than it was")
            begin += len(piece)
            yield piece

    def size(self, key: str) -> int | None:
        """How many bytes an object has; None if it is not there."""
        try:
            return int(obstore.head(self._inner, key)["size"])
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Remove one object, which may be gone already."""
        with suppress(FileNotFoundError):
            obstore.delete(self._inner, key)

    def remove(self, prefix: str) -> None:
        """Remove all objects whose keys begin with a prefix of whole names."""
        for found in obstore.list(self._inner, prefix=prefix):
            obstore.delete(self._inner, [one["path"] for one in found])


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
