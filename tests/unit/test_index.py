"""The index of a folder of images: who answers for it, what it holds, and what is refused of it."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from tbdiff.create import Label, create_image
from tbdiff.errors import Failed, Rejected
from tbdiff.index import NAME, read_index
from tbdiff.publish import publish
from tbdiff.signature import create_key, load_public_key


class Host:
    """A build host with a key and trees by number."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.key, self.folder = place / "release.key", place / "folder"
        create_key(self.key)

    @property
    def keys(self) -> tuple:  # type: ignore[type-arg]
        return (load_public_key(self.key.with_name("release.key.pub")),)

    def tree(self, number: int) -> Path:
        tree = self.place / f"tree{number}"
        if not tree.exists():
            tree.mkdir()
            (tree / "version").write_text(f"{number}\n" * 100)
        return tree

    def image(self, base: int | None, target: int, *, signed: bool = True) -> Path:
        out = self.place / f"{base}-{target}.tbdiff"
        start = None if base is None else self.tree(base)
        label = Label(release=f"{target}.0")
        create_image(start, self.tree(target), out, label=label, key=self.key if signed else None)
        return out

    def read(self, raw: bytes | None = None):  # type: ignore[no-untyped-def]
        return read_index(raw or (self.folder / NAME).read_bytes(), self.keys)[0]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_a_folder_grows(host: Host) -> None:
    publish([host.image(None, 1)], host.folder, "stable", host.key, 30)
    publish([host.image(1, 2), host.image(None, 2)], host.folder, "stable", host.key, 30)
    publish([host.image(2, 3)], host.folder, "beta", host.key, 30)
    index = host.read()
    assert index.version == 3
    named = {channel: [index.release_of(tree).release for tree in trees] for channel, trees in index.channels.items()}
    assert named == {"stable": ["1.0", "2.0"], "beta": ["3.0"]}
    assert [(image.base is None, image.size) for image in index.images] == [
        (image.base is None, (host.folder / image.file).stat().st_size) for image in index.images
    ]
    assert sorted(path.name for path in host.folder.iterdir() if not path.name.startswith(".")) == sorted(
        [NAME, *(image.file for image in index.images)]
    )


def test_what_is_published_again_stays_as_it_is(host: Host) -> None:
    for _ in range(2):
        publish([host.image(None, 1)], host.folder, "stable", host.key, 30)
    index = host.read()
    assert (len(index.images), len(index.channels["stable"]), index.version) == (1, 1, 2)


def test_it_is_renewed_without_an_image(host: Host) -> None:
    before = publish([host.image(None, 1)], host.folder, "stable", host.key, 1)
    after = publish([], host.folder, "stable", host.key, 60)
    assert (after.images, after.channels, after.version) == (before.images, before.channels, 2)
    assert after.expires > before.expires


def test_what_cannot_be_published_leaves_the_folder_as_it_was(host: Host) -> None:
    with pytest.raises(Rejected, match="nothing to renew"):
        publish([], host.folder, "stable", host.key, 30)
    publish([host.image(None, 1)], host.folder, "stable", host.key, 30)
    before = {path.name: path.read_bytes() for path in host.folder.iterdir()}
    with pytest.raises(Rejected, match="is not signed"):
        publish([host.image(1, 2, signed=False)], host.folder, "stable", host.key, 30)
    damaged = host.image(1, 3)
    raw = bytearray(damaged.read_bytes())
    raw[-3] ^= 1
    damaged.write_bytes(raw)
    with pytest.raises(Rejected):
        publish([damaged], host.folder, "stable", host.key, 30)
    create_key(host.place / "other.key")
    with pytest.raises(Rejected, match="not an index that this key made"):
        publish([host.image(1, 4)], host.folder, "stable", host.place / "other.key", 30)
    with pytest.raises(Failed):
        publish([host.image(1, 4)], host.key, "stable", host.key, 30)
    assert {path.name: path.read_bytes() for path in host.folder.iterdir()} == before


def test_no_bit_of_it_can_be_changed(host: Host) -> None:
    publish([host.image(None, 1)], host.folder, "stable", host.key, 30)
    raw = (host.folder / NAME).read_bytes()
    right = host.read()
    for place in range(len(raw)):
        for bit in (1, 32):
            other = bytes((*raw[:place], raw[place] ^ bit, *raw[place + 1 :]))
            try:
                # White space, and names that nobody looks at, say nothing.
                assert host.read(other) == right
            except Rejected:
                continue
    for end in range(0, len(raw) - 2, 7):
        with pytest.raises(Rejected):
            host.read(raw[:end] or b" ")


def test_another_statement_of_the_same_key_is_no_index(host: Host) -> None:
    image = host.image(None, 1)
    publish([image], host.folder, "stable", host.key, 30)
    sealed = json.loads((host.folder / NAME).read_bytes())
    sealed["payload"] = base64.b64encode(b'{"type":"tbdiff-index","format":1}').decode()
    with pytest.raises(Rejected, match="signed by no trusted key"):
        host.read(json.dumps(sealed).encode())
    with pytest.raises(Rejected, match="it is damaged, or something else"):
        host.read(image.read_bytes())
