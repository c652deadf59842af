"""Hostile tarballs: what is refused leaves the tree, and all around it, as it was; what is applied is what it says."""

from __future__ import annotations

import random
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tbdiff.errors import Rejected, Stop
from tbdiff.image import open_image
from tbdiff.signature import create_key
from tbdiff.tree import read_tree
from tests import metered
from tests.conftest import MakeBtrfs
from tests.honest import differences
from tests.hostile_tars import APPLIED, EITHER, REJECTED, Case, cases, old_sparse
from tests.tarballs import END, Raw, archive, directory, long_name, pax
from tests.trees import Tree, build, fifo, file, sock, symlink
from tests.trees import directory as folder

SECONDS = 30
BASE: Tree = {
    b"": folder(mtime=12345),
    b"dir": folder(mtime=5),
    b"dir/file": file(b"in a directory"),
    b"fifo": fifo(),
    b"file": file(b"of the base"),
    b"hard1": file(b"linked", group="hard"),
    b"hard2": file(b"linked", group="hard"),
    b"link": symlink(b"dir"),
    b"out": symlink(b"../outside"),
    b"socket": sock(),
}
OUTSIDE: Tree = {b"": folder(), b"secret": file(b"secret", mode=0o600), b"x": folder()}


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(dir=btrfs_of_module))
    build({b"": folder()}, path / "ground")
    build(OUTSIDE, path / "ground/outside")
    yield path / "ground"
    # Some trees are too deep for Python's own way of removing them.
    subprocess.run(["rm", "-rf", path], check=True)


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    def ring(*_: object) -> None:
        raise AssertionError(f"it takes more than {seconds} seconds")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def attempt(data: bytes, ground: Path, *, delta: bool) -> Stop | None:
    """Apply a tarball; why it was refused, after a look at what it left."""
    tarball = ground.parent / "tarball"
    tarball.write_bytes(data)
    build(BASE if delta else {b"": folder(mtime=12345)}, ground / "tree")
    subprocess.run(["cp", "-a", ground, ground.parent / "before"], check=True)
    try:
        with no_longer_than(SECONDS), open_image(str(tarball), delta=delta or None) as image:
            listing = image.apply(ground / "tree")
    except Stop as stop:
        assert differences(ground.parent / "before", ground) == []
        assert str(stop).isprintable() and str(stop)
        assert "changed to the end" not in str(stop)
        return stop
    assert differences(ground.parent / "before/outside", ground / "outside") == []
    assert sorted(path.name for path in ground.iterdir()) == ["outside", "tree"]
    assert listing.digest == read_tree(ground / "tree").digest
    return None


@pytest.mark.parametrize("delta", [False, True], ids=["full", "layer"])
@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_each(case: Case, delta: bool, ground: Path) -> None:
    if delta not in case.layers:
        return
    stopped = attempt(case.data, ground, delta=delta)
    if case.outcome != EITHER:
        assert (REJECTED if stopped else APPLIED) == case.outcome, stopped
    assert stopped is None or isinstance(stopped, Rejected)


@pytest.mark.parametrize("seed", range(8))
def test_wrong_bits(seed: int, ground: Path) -> None:
    """Whatever a few wrong bits make of a tarball: it is applied as it then is, or refused."""
    chance = random.Random(seed)
    whole = archive(
        directory(),
        pax((b"path", b"dir/file"), (b"mtime", b"1.5"), (b"SCHILY.xattr.user.a", b"b")),
        Raw(b"dir/file", b"1" * 600),
        directory(b"dir"),
        Raw(b"hard", flag=b"1", link=b"dir/file"),
        long_name(b"n" * 150),
        Raw(b"n", flag=b"2", link=b"x"),
        old_sparse([(1024, 512)], 4096, b"x" * 512),
    )
    for _ in range(60):
        data = bytearray(whole)
        at = chance.randrange(len(data))
        block = at // 512 * 512
        data[at] ^= 1 << chance.randrange(8)
        if data[block + 257 : block + 262] == b"ustar" and not 148 <= at % 512 < 156:
            # Past the checksum, to where it hurts.
            data[block + 148 : block + 156] = b" " * 8
            data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])
        attempt(bytes(data), ground, delta=bool(chance.getrandbits(1)))
        for made in ("ground/tree", "before"):
            subprocess.run(["rm", "-rf", ground.parent / made], check=True)


SHOWN = ("name b'../x'", "file through a link", "uid -1", "cut after 3 blocks", "gzip with a wrong checksum", "nothing")


@pytest.mark.parametrize("case", [case for case in cases() if case.name in SHOWN], ids=lambda case: case.name)
@pytest.mark.parametrize("command", ["apply", "show", "verify", "sign"])
def test_commands_refuse_in_one_sentence(command: str, case: Case, ground: Path) -> None:
    tarball, tree, key = ground / "tarball", ground / "tree", ground / "key"
    tarball.write_bytes(case.data)
    tree.mkdir()
    create_key(key)
    rest: dict[str, tuple[str | Path, ...]] = {"apply": (tree,), "sign": ("--key", key)}
    ended = metered.run("tbdiff", command, tarball, *rest.get(command, ()))
    assert ended.code == 3, ended.err
    assert "Traceback" not in ended.err
    said = [line for line in ended.err.splitlines() if line.startswith("tbdiff: ") and "--keys" not in line]
    assert len(said) == 1
    assert list(tree.iterdir()) == []
    assert not (ground / "tarball.sig").exists()


@pytest.mark.parametrize("size", [64 << 20, 1 << 20, 100_000], ids=["two large files", "large files", "many files"])
def test_a_full_disk(size: int, make_btrfs: MakeBtrfs, tmp_path: Path) -> None:
    """More than there is room for: found out before or on the way, the room is there again afterwards."""
    ground = make_btrfs(128 << 20) / "ground"
    build(OUTSIDE, ground / "outside")
    tarball = tmp_path / "tarball"
    noise = random.Random(1).randbytes(size)
    with tarball.open("wb") as out:
        out.write(directory().bytes())
        for n in range(-(-(120 << 20) // size)):
            content = n.to_bytes(8, "little") + noise[8:]
            out.write(Raw(b"%d" % n, content).bytes())
        out.write(END)
    (ground / "tree").mkdir()
    subprocess.run(["cp", "-a", ground, ground.parent / "before"], check=True)
    with open_image(str(tarball)) as image, pytest.raises(Stop, match=r"no room|No space"):
        image.apply(ground / "tree")
    assert differences(ground.parent / "before", ground) == []
    (ground / "tree/again").write_bytes(noise[: 32 << 20])
