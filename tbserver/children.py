"""Commands of tbdiff that a server runs over its images: in a child, within limits, out of a directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from tbdiff.console import safe
from tbdiff.errors import Failed
from tbserver.claims import WHY_MOST, Claim
from tbserver.files import key_of
from tbserver.records import Artifact, Release
from tbserver.server import Server

LOOK_SECONDS = 0.2
# As much as a child may say.
SAID_MOST = 16 << 20
# What Python, zstd and the system say when there is none left.
OUT_OF_MEMORY = ("MemoryError", "not enough memory", "Cannot allocate memory")


def images_of(session: Session, ids: Sequence[int]) -> tuple[tuple[str, Artifact], ...]:
    """Artifacts by their numbers, each with the tree that it leads to."""
    query = select(Release.tree, Artifact).join(Artifact, Artifact.release_id == Release.id)
    return tuple((tree, image) for tree, image in session.execute(query.where(Artifact.id.in_(ids))))


def fetch(server: Server, images: Iterable[tuple[str, Artifact]], place: Path, claim: Claim) -> dict[str, Path]:
    """Images out of the store as files, by the trees that they lead to."""
    found = {}
    for tree, image in images:
        found[tree] = place / f"{image.id}.tbdiff"
        with found[tree].open("xb") as file:
            for piece in server.store.read(key_of(image.tenant_id, image.digest), 0, image.size):
                file.write(piece)
                claim.hold()
    return found


def words_for(images: Mapping[str, Path], first: str, second: str, *between: str) -> list[str]:
    """How a command is told the images of two trees, the second behind `between`, and those that they start from."""
    if not images.keys() >= {first, second}:
        raise Failed("an image that it is made of is gone")
    over = [word for tree in images.keys() - {first, second} for word in ("--over", str(images[tree]))]
    return [str(images[first]), *between, str(images[second]), *over]


def run(server: Server, words: Sequence[str], place: Path, claim: Claim) -> str:
    """Run a command to its end, with `--json`; what it said. Failed, with the reason that it gave."""
    memory = server.settings.making.memory
    with (place / "said").open("w+") as said, (place / "warned").open("w+") as warned:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "tbserver.confined", str(os.getpid()), str(memory), *words, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=warned,
            # It reads what others sent: of secrets that are in our environment it gets none.
            env={name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL", "TZ") if name in os.environ},
        )
        try:
            while child.poll() is None:
                claim.hold()
                with suppress(subprocess.TimeoutExpired):
                    child.wait(LOOK_SECONDS)
        finally:
            child.kill()
            child.wait()
        said.seek(0)
        warned.seek(0)
        answer = said.read(SAID_MOST)
        if child.returncode:
            raise Failed(_why(child.returncode, answer, warned.read(1 << 16), memory))
        return answer


def _why(code: int, said: str, warned: str, memory: int) -> str:
    if any(words in warned + said for words in OUT_OF_MEMORY):
        return f"it takes more memory than {memory >> 20} MiB"
    if code < 0:
        return f"what made it was ended by signal {-code}"
    try:
        return safe(str(json.loads(said)["error"]["message"]))[:WHY_MOST]
    except (ValueError, KeyError, TypeError):
        return safe(warned.strip().rpartition("\n")[2])[:WHY_MOST] or f"what made it ended with {code}"
