"""The index of a folder of images: who answers for it, what it holds, and what is refused of it."""

from __future__ import annotations

import base64
import json
import os
import resource
from pathlib import Path

import pytest

from tbdiff.create import Label, create_image
from tbdiff.errors import Failed, NothingToDo, Rejected
from tbdiff.index import NAME, TYPE, Index, ListedImage, Release, read_index, write_index
from tbdiff.publish import publish, withdraw
from tbdiff.signature import create_key, load_private_key, load_public_key, sign_as


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


def test_what_was_damaged_in_the_folder_is_whole_again(host: Host) -> None:
    image = host.image(None, 1)
    publish([image], host.folder, "stable", host.key, 30)
    place = host.folder / host.read().images[0].file
    place.write_bytes(bytes(place.stat().st_size))
    publish([image], host.folder, "stable", host.key, 30)
    assert place.read_bytes() == image.read_bytes()


def test_what_a_run_that_was_killed_left_goes(host: Host) -> None:
    publish([host.image(None, 1)], host.folder, "stable", host.key, 30)
    left = host.folder / f".{host.read().images[0].file}.new"
    left.write_bytes(b"half of it")
    publish([], host.folder, "stable", host.key, 30)
    assert not left.exists()


def test_links_in_the_folder_lead_nowhere(host: Host) -> None:
    """Who may write to the folder may not be who publishes."""
    image, victim = host.image(None, 1), host.place / "victim"
    victim.write_text("mine")
    publish([image], host.folder, "stable", host.key, 30)
    temporary = host.folder / f".{NAME}.new"
    temporary.symlink_to(victim)
    publish([], host.folder, "stable", host.key, 30)
    for place in (host.folder / NAME, host.folder / host.read().images[0].file):
        place.unlink()
        place.symlink_to(victim)
        with pytest.raises(Rejected, match="is a symbolic link"):
            publish([image], host.folder, "stable", host.key, 30)
        place.unlink()
    assert victim.read_text() == "mine"


def test_an_index_that_no_device_would_read_is_not_written(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    publish([host.image(None, 1)], host.folder, "stable", host.key, 30)
    before = (host.folder / NAME).read_bytes()
    monkeypatch.setattr("tbdiff.publish.INDEX_MAX", len(before) + 9)
    with pytest.raises(Rejected, match="no device reads; nothing was published"):
        publish([host.image(None, 2)], host.folder, "stable", host.key, 30)
    assert (host.folder / NAME).read_bytes() == before
    assert len(list(host.folder.glob("*.tbdiff"))) == 1


@pytest.mark.parametrize("what", ["fifo", "directory", "nothing"])
def test_what_is_no_file_is_not_waited_for(host: Host, what: str) -> None:
    place = host.place / "odd"
    {"fifo": os.mkfifo, "directory": os.mkdir, "nothing": lambda _: None}[what](place)
    with pytest.raises(Failed, match=r"there is no file .*; nothing was published"):
        publish([place], host.folder, "stable", host.key, 30)
    publish([host.image(None, 1)], host.folder, "stable", host.key, 30)
    (host.folder / NAME).unlink()
    if what != "nothing":
        place.rename(host.folder / NAME)
        with pytest.raises(Failed, match=r"cannot be read: .*; nothing was published"):
            publish([], host.folder, "stable", host.key, 30)
    with pytest.raises(Rejected, match="there is no folder"):
        publish([], host.place / "typo", "stable", host.key, 30)
    assert not (host.place / "typo").exists()


@pytest.mark.parametrize("part", [b"{},", b"[],", b"0,"])
def test_what_would_take_much_memory_is_refused_before_it_does(host: Host, part: bytes) -> None:
    """Also where somebody signed it: whoever holds a delivery key must not stop devices."""
    raw = b'{"x":[' + part * ((8 << 20) // len(part) - 9) + b"0]}"
    sealed = {"payloadType": TYPE, "payload": base64.b64encode(raw[: 5 << 20]).decode()}
    made_by, value = sign_as(load_private_key(host.key), TYPE.encode(), raw[: 5 << 20])
    signature = {"keyid": made_by.hex(), "sig": base64.b64encode(value).decode()}
    signed = json.dumps(sealed | {"signatures": [signature]}).encode()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Rejected, match="it is damaged, or something else"):
        host.read(raw)
    with pytest.raises(Rejected, match="more parts than can belong to it"):
        host.read(signed)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10


def test_an_index_as_large_as_they_come_is_read(host: Host) -> None:
    trees = [f"{n:064x}" for n in range(10000)]
    index = Index(
        version=1,
        issued="2026-01-01T00:00:00Z",
        expires="2026-01-01T00:00:00Z",
        releases=tuple(Release(tree=one, device_types=("a", "bc", "def")) for one in trees),
        channels={"stable": tuple(trees)},
        images=tuple(ListedImage(file="a", size=1, digest=one, tree=one) for one in trees),
    )
    assert host.read(write_index(index, load_private_key(host.key))) == index


def test_the_order_of_releases_is_as_they_are_named_and_not_against_what_images_say(host: Host) -> None:
    full, delta = host.image(None, 1), host.image(1, 2)
    with pytest.raises(Rejected, match=r"1\.0 would be newer than 2\.0, though an image leads from it to 2\.0"):
        publish([delta, full], host.folder, "stable", host.key, 30)
    assert not (host.folder / NAME).exists()
    publish([full, delta], host.folder, "stable", host.key, 30)
    # Where images lead both ways, none of them says which is newer; nor do they where nothing is new.
    publish([host.image(3, 4), host.image(4, 3)], host.folder, "stable", host.key, 30)
    publish([host.image(1, 4), full], host.folder, "stable", host.key, 30)
    index = host.read()
    assert [index.release_of(tree).release for tree in index.channels["stable"]] == ["1.0", "2.0", "4.0", "3.0"]


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


def test_a_release_is_withdrawn(host: Host) -> None:
    publish([host.image(None, 1)], host.folder, "stable", host.key, 30)
    publish([host.image(1, 2), host.image(None, 2)], host.folder, "stable", host.key, 30)
    publish([host.image(2, 3)], host.folder, "beta", host.key, 30)
    publish([host.image(None, 2)], host.folder, "beta", host.key, 30)
    withdraw("2.0", host.folder, "stable", host.key, 30)
    assert [len(trees) for trees in host.read().channels.values()] == [1, 2]
    assert len(host.read().images) == 4
    withdraw("2.0", host.folder, None, host.key, 30)
    index = host.read()
    assert [index.release_of(tree).release for trees in index.channels.values() for tree in trees] == ["1.0", "3.0"]
    # The way away from it stays.
    assert [(image.base is None, image.file) for image in index.images] == [
        (image.base is None, path.name) for image in index.images for path in host.folder.glob(image.file)
    ]
    assert len(list(host.folder.glob("*.tbdiff"))) == len(index.images) == 2
    with pytest.raises(NothingToDo):
        withdraw("2.0", host.folder, None, host.key, 30)
    with pytest.raises(Rejected, match="no channel 'gamma'"):
        withdraw("1.0", host.folder, "gamma", host.key, 30)
    withdraw(index.channels["beta"][0][:12], host.folder, None, host.key, 30)
    assert host.read().channels["beta"] == ()


@pytest.mark.parametrize("named", ["", "2", "00", "3.0"])
def test_only_what_is_named_is_withdrawn(named: str, host: Host) -> None:
    publish([host.image(None, 1), host.image(None, 2)], host.folder, "stable", host.key, 30)
    before = (host.folder / NAME).read_bytes()
    with pytest.raises(NothingToDo):
        withdraw(named, host.folder, None, host.key, 30)
    assert (host.folder / NAME).read_bytes() == before
