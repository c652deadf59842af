"""Signed tarballs: not a byte is believed that the signature does not cover, and what it says is held against it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.errors import Rejected, Stop
from tbdiff.image import open_image
from tbdiff.signature import KeyRing, create_key
from tbdiff.tar.signing import sign_tarball
from tbdiff.tree import read_tree
from tests import metered
from tests.honest import differences
from tests.tarballs import PACKINGS, Raw, archive, directory

pytestmark = pytest.mark.slow

TAR = archive(directory(), Raw(b"file", b"content" * 100), directory(b"d"), Raw(b"d/x", flag=b"2", link=b"../file"))
LAYER = archive(Raw(b".wh.file"), Raw(b"new", b"new"))


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        ground = Path(path)
        create_key(ground / "key")
        create_key(ground / "other")
        (ground / "image").write_bytes(TAR)
        (ground / "tree").mkdir()
        yield ground


def ring(ground: Path, *names: str) -> KeyRing:
    return KeyRing.of([ground / f"{name}.pub" for name in names or ("key",)])


@pytest.mark.parametrize("packing", PACKINGS)
def test_signed_and_applied(packing: str, ground: Path) -> None:
    (ground / "image").write_bytes(PACKINGS[packing](TAR))
    said = {"name": "system", "release": "1.2", "device_types": ("pi",), "epoch": 3}
    assert sign_tarball(ground / "image", ground / "key", **said) == ground / "image.sig"
    with open_image(str(ground / "image"), ring(ground)) as image:
        target = image.manifest.target
        assert (target.name, target.release, target.device_types, target.epoch) == ("system", "1.2", ("pi",), 3)
        assert (target.entries, target.size, target.largest, image.manifest.way.free) == (4, 700, 700, 700)
        assert image.signers == ("key",)
        listing = image.apply(ground / "tree")
    assert listing.digest.hex() == target.tree == read_tree(ground / "tree").digest.hex()


@pytest.mark.slow
def test_every_wrong_byte_is_noticed(ground: Path) -> None:
    sign_tarball(ground / "image", ground / "key")
    keys = ring(ground)
    for name in ("image", "image.sig"):
        whole = (ground / name).read_bytes()
        for at in range(len(whole)):
            data = bytearray(whole)
            data[at] ^= 1 << at % 8
            (ground / name).write_bytes(data)
            with pytest.raises(Rejected), open_image(str(ground / "image"), keys) as image:
                image.apply(ground / "tree")
        for data in (whole[:-1], whole + b"\0", b"", whole[: len(whole) // 2], whole * 2):
            (ground / name).write_bytes(data)
            with pytest.raises(Rejected), open_image(str(ground / "image"), keys) as image:
                image.apply(ground / "tree")
        (ground / name).write_bytes(whole)
    assert list((ground / "tree").iterdir()) == []


def test_nothing_is_parsed_before_it_is_verified(ground: Path) -> None:
    """A damaged chunk of a hostile tarball is called damaged, not hostile."""
    sign_tarball(ground / "image", ground / "key")
    (ground / "image").write_bytes(archive(directory(), Raw(b"../x", b"content" * 100)).ljust(len(TAR), b"\0"))
    with pytest.raises(Rejected, match="damaged in chunk 0"), open_image(str(ground / "image"), ring(ground)) as image:
        image.apply(ground / "tree")


def test_unsigned(ground: Path) -> None:
    with pytest.raises(Rejected, match="not signed"):
        open_image(str(ground / "image"), ring(ground))
    with open_image(str(ground / "image"), ring(ground), unsigned_ok=True) as image:
        assert image.signers == () == image.claimed_signers
        image.apply(ground / "tree")
        assert len(image.digest) == 64


def test_signed_by_a_stranger(ground: Path) -> None:
    sign_tarball(ground / "image", ground / "other")
    for allowed in (False, True):
        with pytest.raises(Rejected, match="no trusted key"):
            open_image(str(ground / "image"), ring(ground), unsigned_ok=allowed)
    with open_image(str(ground / "image"), ring(ground, "key", "other")) as image:
        assert image.signers == ("other",)


def test_two_signers(ground: Path) -> None:
    sign_tarball(ground / "image", ground / "key", release="1")
    sign_tarball(ground / "image", ground / "other", release="1")
    for name in ("key", "other"):
        with open_image(str(ground / "image"), ring(ground, name)) as image:
            assert image.signers == (name,)
    # Over another statement the first signature would be worth nothing.
    sign_tarball(ground / "image", ground / "other", release="2")
    with pytest.raises(Rejected, match="no trusted key"):
        open_image(str(ground / "image"), ring(ground))


def test_the_signature_of_another_tarball(ground: Path) -> None:
    sign_tarball(ground / "image", ground / "key")
    (ground / "image").write_bytes(LAYER)
    with pytest.raises(Rejected, match=r"cut off|damaged"), open_image(str(ground / "image"), ring(ground)) as image:
        image.apply(ground / "tree")
    shutil.copy(ground / "key.pub", ground / "image.sig")
    with pytest.raises(Rejected, match="signature file is none"):
        open_image(str(ground / "image"), ring(ground))


def test_a_full_system_is_no_layer(ground: Path) -> None:
    sign_tarball(ground / "image", ground / "key")
    with pytest.raises(Rejected, match="signed as a full system"):
        open_image(str(ground / "image"), ring(ground), delta=True)
    (ground / "layer").write_bytes(LAYER)
    sign_tarball(ground / "layer", ground / "key", delta=True)
    with pytest.raises(Rejected, match="signed as a layer"):
        open_image(str(ground / "layer"), ring(ground), delta=False)
    with open_image(str(ground / "image"), ring(ground)) as image:
        image.apply(ground / "tree")
    with open_image(str(ground / "layer"), ring(ground)) as image:
        assert image.manifest.way.container == "tar-delta"
        assert image.manifest.way.free == 3
        image.apply(ground / "tree")
    assert sorted(path.name for path in (ground / "tree").iterdir()) == ["d", "new"]


def test_what_cannot_be_applied_is_not_signed(ground: Path) -> None:
    for data in (TAR[:1024], archive(Raw(b"../x")), LAYER, b"text"):
        (ground / "image").write_bytes(data)
        with pytest.raises(Stop):
            sign_tarball(ground / "image", ground / "key")
    assert not (ground / "image.sig").exists()


def test_a_target_that_is_not_reached(ground: Path) -> None:
    """A signature over another tree than the tarball's, as a careless signer would make it."""
    sign_tarball(ground / "image", ground / "key")
    import hashlib

    from tbdiff.head import DETACHED_MAGIC, Head, read_head
    from tbdiff.manifest import parse_target, parse_way
    from tbdiff.signature import load_private_key
    from tbdiff.signing import signed

    with (ground / "image.sig").open("rb") as file:
        assert file.read(len(DETACHED_MAGIC)) == DETACHED_MAGIC
        head, table = read_head(file), file.read()
    target = parse_target(head.target)
    for wrong in ({"tree": "0" * 64}, {"entries": 5}, {"size": 701}, {"largest": 699}, {"size": 10, "largest": 10}):
        said = target.model_copy(update=wrong).to_bytes()
        way = parse_way(head.way, head.target).model_copy(update={"target": hashlib.sha256(said).hexdigest()})
        made = signed(Head(said, way.to_bytes()), load_private_key(ground / "key"))
        (ground / "image.sig").write_bytes(made.to_bytes(DETACHED_MAGIC) + table)
        with pytest.raises(Rejected, match="signer answers"), open_image(str(ground / "image"), ring(ground)) as image:
            image.apply(ground / "tree")
        assert list((ground / "tree").iterdir()) == []


def test_on_the_command_line(ground: Path) -> None:
    image, tree, keys = ground / "image", ground / "tree", ("--keys", ground / "key.pub")
    said = ("--name", "system", "--release", "7")
    assert metered.run("tbdiff", "sign", image, "--key", ground / "key", *said).code == 0
    shown = json.loads(metered.run("tbdiff", "show", "--json", "--operations", image, *keys).out)
    assert (shown["target"]["release"], shown["signers"], shown["summary"]["added"]) == ("7", ["key"], 4)
    assert [operation["path"] for operation in shown["operations"]] == ["", "d", "d/x", "file"]
    assert metered.run("tbdiff", "apply", image, tree, *keys).code == 0
    assert metered.run("tbdiff", "verify", image, tree, *keys).code == 0
    (tree / "file").write_bytes(b"other")
    assert metered.run("tbdiff", "verify", image, tree, *keys).code == 1
    assert metered.run("tbdiff", "apply", image, tree, "--delta", *keys).code == 3
    (ground / "layer").write_bytes(LAYER)
    (ground / "copy").mkdir()
    assert metered.run("tbdiff", "apply", image, ground / "copy").code == 0
    assert metered.run("tbdiff", "apply", ground / "layer", ground / "copy", "--delta").code == 0
    assert not (ground / "copy/file").exists()
    assert metered.run("tbdiff", "show", ground / "layer").code == 3
    shown = json.loads(metered.run("tbdiff", "show", "--json", "--delta", ground / "layer").out)
    assert (shown["summary"]["added"], shown["summary"]["removed"]) == (1, 1)


def test_beside_a_url(ground: Path) -> None:
    from tests.btrfs.test_corpus import served

    sign_tarball(ground / "image", ground / "key")
    with served(ground) as url:
        with open_image(f"{url}/image", ring(ground)) as image:
            image.apply(ground / "tree")
        (ground / "image.sig").unlink()
        with pytest.raises(Rejected, match="not signed"):
            open_image(f"{url}/image", ring(ground))
    (ground / "again").mkdir()
    with open_image(str(ground / "image")) as image:
        image.apply(ground / "again")
    assert differences(ground / "tree", ground / "again") == []
