"""Signed images to upload."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from pathlib import Path

from tbdiff.create import Label, Stated, create_image
from tbdiff.image import open_image
from tbdiff.signature import create_key
from tests.server.harness import Person


@dataclass
class Works:
    """A build host: two releases, and keys."""

    place: Path
    types: tuple[str, ...] = ("kiosk",)

    def key(self, name: str) -> Path:
        path = self.place / f"{name}.key"
        if not path.exists():
            create_key(path)
        return path

    def pem(self, name: str) -> str:
        return self.key(name).with_name(f"{name}.key.pub").read_text()

    def tree(self, version: str) -> Path:
        tree = self.place / f"tree-{version}"
        if not tree.exists():
            tree.mkdir()
            (tree / "same").write_bytes(random.Random(1).randbytes(50_000))
            (tree / "version").write_text(version * 100)
        return tree

    def image(self, version: str, base: str | None = None, key: str | None = "release", of: Path | None = None) -> Path:
        """An image of a release, from nothing or from another; to the stated target of another image."""
        out = self.place / f"{base}-{version}-{key}.tbdiff"
        stated = None
        if of is not None:
            with open_image(str(of)) as opened:
                stated = Stated(*opened.stated)
        create_image(
            self.tree(base) if base else None,
            self.tree(version),
            out,
            label=Label(name="demo", release=version, device_types=self.types),
            stated=stated,
            key=self.key(key) if key else None,
            effort="fast",
        )
        return out


def upload(person: Person, image: Path | bytes, part: int = 1 << 20) -> tuple[int, dict[str, object]]:
    """Send an image in parts; the status and what was said at last."""
    data = image if isinstance(image, bytes) else image.read_bytes()
    begun = person.ask("POST", "/uploads", json={"digest": hashlib.sha256(data).hexdigest(), "size": len(data)})
    if begun.status_code != 201:
        return begun.status_code, begun.json()
    place = f"/uploads/{begun.json()['id']}"
    for offset in range(begun.json()["received"], len(data), part):
        answer = person.ask("PATCH", f"{place}?offset={offset}", content=data[offset : offset + part])
        assert answer.status_code == 200, answer.text
    done = person.ask("POST", f"{place}/finish")
    return done.status_code, done.json()
