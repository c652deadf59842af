"""The record of one deployment (`tb-update/<id>/`): what it is, by which image it came, and the listing of its tree."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pydantic

from tbdiff.entry import Kind, Listing
from tbdiff.errors import Failed
from tbdiff.listing import load, store
from tbupdate import subvolumes
from tbupdate.boot.kernel import Overrides

RECORD = "record.json"
LISTING = "listing"
_RECORD_MAX = 1 << 20
# How the names of keys begin that the device's owner enrolled.
OWN = "own:"


class Record(pydantic.BaseModel):
    """What is written down about a deployment when it is made; nothing in it changes later.

    `seal` is what `subvolumes.seal` said when the tree was complete: while it says so, the listing is still true.
    `made_by` is the command that made it here (`snapshot`, or `run` and what was run); an image or `init` has none.
    """

    model_config = pydantic.ConfigDict(defer_build=True, frozen=True, extra="ignore")

    format_version: int = 1
    id: str
    name: str = ""
    release: str | None = None
    epoch: int = 0
    tree: str | None = None
    image_digest: str | None = None
    signers: tuple[str, ...] = ()
    base: str | None = None
    created: str
    entries: int = 0
    size: int = 0
    kernel: str | None = None
    made_by: tuple[str, ...] = ()
    boot_files: Overrides = Overrides()
    seal: str | None = None

    @property
    def own(self) -> bool:
        """Whether only a key of the device's owner answers for it."""
        return any(name.startswith(OWN) for name in self.signers)


def read(directory: str) -> Record | None:
    """The record in `directory`, or None where there is none that can be read."""
    try:
        with open(os.path.join(directory, RECORD), "rb") as file:
            return Record.model_validate_json(file.read(_RECORD_MAX))
    except (OSError, pydantic.ValidationError):
        # A deployment without its record still boots and can be gone back to; `doctor` names it.
        return None


def write(directory: str, record: Record, listing: Listing) -> None:
    """Write record and listing durably; the record comes last and makes them valid."""
    os.makedirs(directory, mode=0o700, exist_ok=True)
    store(listing, Path(directory, LISTING))
    temporary = os.path.join(directory, RECORD + ".partial")
    with open(temporary, "wb") as file:
        file.write(record.model_dump_json(indent=1).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
    os.rename(temporary, os.path.join(directory, RECORD))


def read_listing(directory: str, tree: str | None) -> Listing | None:
    """The listing of the deployment's tree as it was made; None where it is gone, damaged, or not of that tree."""
    try:
        listing = load(Path(directory, LISTING))
    except Failed:
        return None
    return listing if listing.digest.hex() == tree else None


def trusted_listing(directory: str, tree: Path) -> Listing | None:
    """The listing of the deployment at `tree`, if nothing was written to that since; None where it must be read."""
    known = read(directory)
    if known is None or known.seal is None or known.seal != subvolumes.seal(os.fspath(tree)):
        return None
    return read_listing(directory, known.tree)


def remove(directory: str) -> None:
    """Remove record and listing; what is not there is no error."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass


def kernel_of(listing: Listing) -> str | None:
    """The kernel that a tree brings modules for, by version; several are joined by commas."""
    found = set()
    for entry in listing:
        parent, _, name = entry.path.rpartition(b"/")
        if parent in (b"lib/modules", b"usr/lib/modules") and entry.kind is Kind.DIRECTORY:
            found.add(name.decode("ascii", "backslashreplace"))
    return ", ".join(sorted(found)) or None
