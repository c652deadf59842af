"""Tarballs of all makers and packings become the tree that was packed, as exactly as their form can say."""

from __future__ import annotations

import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from tbdiff.image import open_image
from tbdiff.tree import read_tree
from tests import metered
from tests.corpus.debian import Corpus
from tests.honest import differences
from tests.kitchen.sink import target_tree
from tests.random_trees import tree_pairs
from tests.roundtrip import clear
from tests.tarballs import GNU_TARS, PACKINGS, gnu_tar, python_tar
from tests.trees import (
    NOON,
    Bytes,
    Noise,
    Tree,
    acl,
    build,
    device,
    directory,
    drop,
    fifo,
    file,
    ordered,
    sparse,
    symlink,
)

pytestmark = pytest.mark.slow

MEMORY_MAX = 64 << 20
# The forms of GNU tar that keep all that a tree has.
EXACT = ("pax-sparse-1.0", "pax-sparse-0.1", "pax-sparse-0.0")


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)


def applied(tarball: Path, to: Path, **how: bool) -> Path:
    """The tree that comes of the tarball; what `apply` says that it is must be what is there."""
    to.mkdir(exist_ok=True)
    with open_image(str(tarball), **how) as image:
        listing = image.apply(to)
    assert listing.digest == read_tree(to).digest
    return to


def kitchen() -> Tree:
    """Everything; only that hard links of devices are nothing that GNU tar keeps."""
    tree = target_tree()
    drop(tree, b"links/null-1")
    drop(tree, b"links/null-2")
    return tree


def plain() -> Tree:
    """What every tar archive since Version 7 keeps."""
    return {
        b"": directory(0o711, uid=1, gid=2),
        b"bin": symlink(b"usr/bin"),
        b"empty": file(b"", mode=0o600),
        b"etc": directory(0o2755),
        b"etc/hosts": file(b"127.0.0.1 localhost\n", uid=1000, gid=100),
        b"usr": directory(),
        b"usr/bin": directory(0o1777, mtime=NOON - 10**9 * 10**8),
        b"usr/bin/su": file(b"\x7fELF", mode=0o4755),
        b"usr/bin/su2": file(b"\x7fELF", mode=0o4755, group="su"),
        b"usr/bin/\xff\n\x01": file(b"\x7fELF", mode=0o4755, group="su"),
        b"usr/large": sparse(300_000, Noise(0, 300_000, 1)),
    }


def ustar() -> Tree:
    """What ustar keeps as well: devices, FIFOs, and long names that a slash divides."""
    return plain() | {
        b"dev": directory(),
        b"dev/null": device("char", 1, 3, mode=0o666),
        b"dev/loop": device("block", 7, 200),
        b"dev/fifo": fifo(),
        b"/".join((b"d" * 90, b"f" * 90)): file(b"long"),
        b"/".join((b"d" * 90, b"linked")): symlink(b"t" * 100),
    }


def gnu() -> Tree:
    """What GNU tar's own form keeps as well: large numbers, long names and long links."""
    return ustar() | {
        b"n" * 255: file(b"long name", uid=2**32 - 2, gid=2**31),
        b"long-link": symlink(b"x/" * 200 + b"end"),
        b"old": file(b"before 1970", mtime=-(10**9) * 10**9),
        b"far": file(b"after 2242", mtime=2**34 * 10**9),
        b"dev/large": device("char", 4095, 2**20 - 1),
        b"linked-long": file(b"y", group="long"),
        b"z" * 200: file(b"y", group="long"),
    }


def holes() -> Tree:
    """Sparse files, with few holes and with many."""
    return {
        b"all-hole": sparse(1 << 20),
        b"begins": sparse(1 << 20, Bytes(1 << 19, b"later")),
        b"ends": sparse((1 << 20) + 5, Noise(0, 4096, 3)),
        b"many": sparse(100 * 65536, *(Noise(n * 65536, 4096, n + 1) for n in range(90))),
        b"large": sparse(100 << 20, Noise(0, 5000, 1), Noise((100 << 20) - 5000, 5000, 2)),
        b"none": sparse(10_000, Noise(0, 10_000, 1)),
    }


@pytest.mark.parametrize("form", EXACT)
def test_the_kitchen_sink(form: str, ground: Path) -> None:
    build(kitchen(), ground / "tree")
    tarball = gnu_tar(ground / "tree", ground / "image", *GNU_TARS[form])
    assert differences(ground / "tree", applied(tarball, ground / "new")) == []


@pytest.mark.parametrize("packing", PACKINGS)
def test_packings(packing: str, ground: Path) -> None:
    build(gnu() | holes(), ground / "tree")
    tar = gnu_tar(ground / "tree", ground / "tar", *GNU_TARS["pax-sparse-1.0"])
    tarball = ground / "named.as.you.like"
    tarball.write_bytes(PACKINGS[packing](tar.read_bytes()))
    assert differences(ground / "tree", applied(tarball, ground / "new")) == []


@given(pair=tree_pairs())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=25)
def test_random_trees(pair: tuple[Tree, Tree], btrfs_of_module: Path) -> None:
    ground = btrfs_of_module / "random"
    ground.mkdir(exist_ok=True)
    clear(ground)
    build(pair[1], ground / "tree")
    tarball = gnu_tar(ground / "tree", ground / "image", *GNU_TARS["pax-sparse-1.0"])
    # GNU tar passes over holes in small files, and over second names of devices and FIFOs.
    found = differences(ground / "tree", applied(tarball, ground / "new"), holes=False)
    assert [line for line in found if "hard-linked with" not in line] == []


@pytest.mark.parametrize(
    ("form", "tree"),
    [
        ("v7", plain()),
        ("ustar", ustar()),
        ("gnu", gnu()),
        ("gnu-sparse", gnu() | holes()),
        ("oldgnu-sparse", ustar() | holes()),
        ("pax", gnu()),
        ("pax-sparse-raw", gnu() | holes()),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_forms_of_gnu_tar(form: str, tree: Tree, ground: Path) -> None:
    build(tree, ground / "tree")
    tarball = gnu_tar(ground / "tree", ground / "image", *GNU_TARS[form])
    assert differences(ground / "tree", applied(tarball, ground / "new")) == []


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_python_tars(form: int, ground: Path) -> None:
    tree = ustar() if form == tarfile.USTAR_FORMAT else gnu()
    # Python keeps times as floating-point numbers, and hard links by the first name that it meets.
    build(tree, ground / "tree")
    tarball = python_tar(ground / "tree", ground / "image", form)
    assert differences(ground / "tree", applied(tarball, ground / "new")) == []


def test_bsdtar(ground: Path) -> None:
    tree = kitchen()
    for path in [path for path, node in tree.items() if node.mtime < 0 and node.mtime % 10**9]:
        # Of such times bsdtar 3.6 writes a second too much.
        tree[path] = replace(tree[path], mtime=NOON)
    build(tree, ground / "tree")
    packed = ["bsdtar", "--format=pax", "-cf", ground / "image", "-C", ground / "tree", "."]
    subprocess.run(packed, check=True, env=os.environ | {"LC_ALL": "C.UTF-8"}, capture_output=True)
    assert differences(ground / "tree", applied(ground / "image", ground / "new")) == []


def test_access_control_lists_as_text(ground: Path) -> None:
    tree = {
        b"file": file(b"x", xattrs=(acl(0o640, (54322, 6), (54323, 4)),), mode=0o640),
        b"user": file(b"x", xattrs=(("user.plain", b"\0\n="), ("user.a%3Db=c", b""))),
        b"dir": directory(0o755, xattrs=ordered(dict((acl(0o755, (54321, 7)), acl(0o755, default=True))))),
    }
    build(tree, ground / "tree")
    tarball = gnu_tar(ground / "tree", ground / "image", *GNU_TARS["pax-acls-as-text"])
    assert b"SCHILY.acl.access=" in tarball.read_bytes()
    assert b"SCHILY.xattr.system" not in tarball.read_bytes()
    assert differences(ground / "tree", applied(tarball, ground / "new")) == []


def test_without_a_locale(ground: Path) -> None:
    """Names are bytes: the locale has no say."""
    build(kitchen(), ground / "tree")
    tarball = gnu_tar(ground / "tree", ground / "image", *GNU_TARS["pax-sparse-1.0"])
    for locale in ("C", "C.UTF-8", "de_DE.ISO-8859-1"):
        new = ground / f"new-{locale}"
        new.mkdir()
        ended = metered.run("tbdiff", "apply", tarball, new, environment={"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0"})
        assert ended.code == 0, ended.err
        assert "WARN" not in ended.err.upper()
        assert differences(ground / "tree", new) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [2**31 - 1, 2**31 + 1, 2**32 - 1, 2**32 + 1])
def test_sizes_where_numbers_end(size: int, ground: Path) -> None:
    build({b"big": sparse(size, Bytes(0, b"begins"), Bytes(size - 3, b"end"))}, ground / "tree")
    for form in ("pax-sparse-1.0", "gnu-sparse"):
        tarball = gnu_tar(ground / "tree", ground / "image", *GNU_TARS[form])
        assert differences(ground / "tree", applied(tarball, ground / form), holes=False) == []


@pytest.mark.slow
@pytest.mark.parametrize("packing", PACKINGS)
def test_memory_is_bounded(packing: str, ground: Path) -> None:
    """A file of a size that would not fit, in one piece."""
    build({b"big": sparse(120 << 20, Noise(0, 10 << 20, 1), Noise(20 << 20, 100 << 20, 0))}, ground / "tree")
    tar = gnu_tar(ground / "tree", ground / "tar", *GNU_TARS["pax"])
    tarball = ground / "image"
    tarball.write_bytes(PACKINGS[packing](tar.read_bytes()))
    (ground / "new").mkdir()
    ended = metered.run("tbdiff", "apply", tarball, ground / "new")
    assert ended.code == 0, ended.err
    assert differences(ground / "tree", ground / "new", holes=False) == []
    assert ended.memory < MEMORY_MAX, f"{ended.memory >> 20} MiB"


@pytest.mark.slow
def test_from_a_pipe_with_the_signature_named(ground: Path) -> None:
    build(kitchen(), ground / "tree")
    tarball = gnu_tar(ground / "tree", ground / "image", *GNU_TARS["pax-sparse-1.0"])
    tarball.write_bytes(PACKINGS["tar.zst"](tarball.read_bytes()))
    assert metered.run("tbdiff", "keygen", ground / "key").code == 0
    assert metered.run("tbdiff", "sign", tarball, "--key", ground / "key").code == 0
    (ground / "new").mkdir()
    arguments = ("apply", "-", ground / "new", "--keys", ground / "key.pub")
    with tarball.open("rb") as pipe:
        assert metered.run("tbdiff", *arguments, stdin=pipe).code == 3
    with subprocess.Popen(["cat", tarball], stdout=subprocess.PIPE) as cat:
        ended = metered.run("tbdiff", *arguments, "--signature", ground / "image.sig", stdin=cat.stdout)
    assert ended.code == 0, ended.err
    assert differences(ground / "tree", ground / "new") == []


# --- two real systems


@pytest.mark.parametrize("name", ["point-v1", "point-v2"])
def test_a_real_system(name: str, corpus: Corpus, ground: Path) -> None:
    tarball = gnu_tar(corpus.top / name, ground / "image", *GNU_TARS["pax-sparse-1.0"])
    (ground / "new").mkdir()
    assert metered.run("tbdiff", "keygen", ground / "key").code == 0
    assert metered.run("tbdiff", "sign", tarball, "--key", ground / "key").code == 0
    ended = metered.run("tbdiff", "apply", tarball, ground / "new", "--keys", ground / "key.pub")
    assert ended.code == 0, ended.err
    assert ended.memory < MEMORY_MAX, f"{ended.memory >> 20} MiB"
    assert differences(corpus.top / name, ground / "new") == []
    said = metered.run("tbdiff", "verify", tarball, corpus.top / name, "--keys", ground / "key.pub")
    assert said.code == 0, said.err
