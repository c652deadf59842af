"""The object store: where artifacts are kept, in a directory or in S3, each under a name that says what it holds."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from tbdiff.errors import Failed, Rejected

log = logging.getLogger(__name__)
PIECE = 1 << 18


class AwayError(OSError):
    """The store does not answer, or not as it should."""


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        # The reason may name places that are nobody's business but the administrator's.
        log.error("the store of artifacts: %s", _line(error))
        raise AwayError("the store of artifacts does not answer as it should") from None


class Store:
    """Objects by their keys; they appear as a whole. Addresses: file:///DIRECTORY or s3://BUCKET/PREFIX.

    All raise AwayError where the store does not do what it is asked for.
    """

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
            raise Failed(
                f"the place for artifacts {url} cannot be used: {_line(error)}",
                "Correct --artifacts; for s3:// see also AWS_… in the environment.",
            ) from None

    def put(self, key: str, data: bytes) -> None:
        """Keep a few bytes."""
        with _answering():
            obstore.put(self._inner, key, data)

    def put_file(self, key: str, path: Path) -> None:
        """Keep what is in a file."""
        with path.open("rb") as file, _answering():
            obstore.put(self._inner, key, file)

    def read(self, key: str, begin: int, end: int) -> Iterator[bytes]:
        """The bytes from `begin` up to `end`, in pieces; FileNotFoundError if the object is not there."""
        while begin < end:
            with _answering():
                piece = bytes(obstore.get_range(self._inner, key, start=begin, end=min(begin + PIECE, end)))
            if not piece:
                raise OSError(f"{key} is shorter than it was")
            begin += len(piece)
            yield piece

    def size(self, key: str) -> int | None:
        """How many bytes an object has; None if it is not there."""
        try:
            with _answering():
                return int(obstore.head(self._inner, key)["size"])
        except FileNotFoundError:
            return None

    def delete(self, key: str) -> None:
        """Remove one object, which may be gone already."""
        with suppress(FileNotFoundError), _answering():
            obstore.delete(self._inner, key)

    def remove(self, prefix: str) -> None:
        """Remove all objects whose keys begin with a prefix of whole names."""
        with _answering():
            for found in obstore.list(self._inner, prefix=prefix):
                obstore.delete(self._inner, [one["path"] for one in found])


def _line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]
