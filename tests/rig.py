"""Devices to be hurt: prepared file systems that are copied for every run, and what must hold after any fault."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tbdiff.create import Label, create_image
from tbdiff.signature import create_key
from tests import faults, loops
from tests.honest import differences
from tests.trees import NOON, Noise, Tree, acl, build, capability, change, directory, drop, file, move, sparse, symlink

_counter = itertools.count(1)
OURS = re.compile(r"'(snapshots|tb-update)['/]")
ROOTS_TIME = "the root directory: mtime"


def system_tree(version: int) -> Tree:
    """A small system of three versions, with a little of everything that changes between them."""
    tree: Tree = {
        b"": directory(),
        b"etc/os-release": file(b'PRETTY_NAME="Demo %d"\n' % version),
        b"etc/fstab": file(b"LABEL=demo / btrfs defaults 0 0\n"),
        b"sbin/init": file(b"#!/bin/sh\n", mode=0o755),
        b"bin/ping": file(b"\x7fELF ping", mode=0o755, xattrs=(capability(1 << 13),)),
        b"bin/su": file(b"\x7fELF su", mode=0o4755),
        b"lib/libc.so.6": symlink(b"libc-2.%d.so" % version),
        b"lib/modules/6.%d.0/kernel.ko" % version: sparse(9000, Noise(0, 9000, version)),
        b"lib/modules/6.%d.0/modules.dep" % version: file(b"kernel.ko:\n"),
        b"usr/big": sparse(400_000, Noise(0, 400_000, 1), Noise(150_000, 16, version)),
        b"usr/holes": sparse(100_000, Noise(40_960, 4096, version)),
        b"usr/same": sparse(100_000, Noise(0, 100_000, 2)),
        b"usr/private": file(b"x", mode=0o640, xattrs=(acl(0o640, (1000 + version, 4)),)),
        b"usr/odd\xff\n": file(b"%d" % version),
        b"usr/one": file(b"linked", group="g"),
        b"usr/two": file(b"linked", group="g"),
    }
    if version > 1:
        move(tree, b"usr/one", b"usr/three")
        change(tree, b"usr/same", mtime=NOON + version)
        tree[b"opt/new/file"] = file(b"new in %d" % version, uid=version)
        tree[b"etc/gone"] = directory()
    if version > 2:
        drop(tree, b"opt")
        tree[b"etc/gone"] = symlink(b"now a link")
    return tree


@dataclass(frozen=True)
class Ended:
    """How a command ended that was run in this process."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return dict(json.loads(self.out))


def tb_update(top: Path, *arguments: str | Path, config: Path) -> Ended:
    """Run tb-update in this process: a fraction of a second less for each of many runs."""
    from tbupdate.cli import run

    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run([*map(os.fspath, arguments), "--top", os.fspath(top), "--config", os.fspath(config)])
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return Ended(code, out.getvalue(), err.getvalue())


@contextmanager
def mounted(image: Path, options: str = "") -> Iterator[Path]:
    """The top level of a file system image."""
    top = image.parent / f"{image.stem}-mnt"
    top.mkdir(exist_ok=True)
    wanted = ",".join(filter(None, ("loop,noatime,subvolid=5", options)))
    subprocess.run(["mount", "-o", wanted, image, top], check=True)
    try:
        yield top
    finally:
        loops.release(image)


def formatted(image: Path, size: int, *options: str) -> Path:
    """A new file system in a sparse file."""
    with image.open("wb") as file_:
        file_.truncate(size)
    subprocess.run(["mkfs.btrfs", "-q", *options, image], check=True, stdout=subprocess.DEVNULL)
    return image


def copied(image: Path, to: Path) -> Path:
    """A copy; of an image that is mounted it is what a power cut would leave: nothing is flushed before."""
    subprocess.run(["cp", "--sparse=always", image, to], check=True)
    return to


@contextmanager
def booted(top: Path) -> Iterator[Path]:
    """The default subvolume, mounted as a kernel does that is told nothing of subvolumes."""
    source = next(source for source, point in loops.mounts() if point == top)
    place = top.parent / f"boots-{next(_counter)}"
    place.mkdir()
    subprocess.run(["mount", "-o", "noatime", source, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
        place.rmdir()


class Rig:
    """A folder with the keys, images and expected trees of three versions, and the file systems made with them."""

    def __init__(self, folder: Path, trees: Path) -> None:
        self.folder = folder
        self.trees = trees
        self.config = folder / "config.toml"
        (folder / "keys").mkdir()
        create_key(folder / "builder")
        (folder / "builder.pub").rename(folder / "keys/builder.pub")
        self.config.write_text(f'keys = "{folder}/keys"\nkeep = 5\n[boot]\nchooser = "none"\n')
        for version in (1, 2, 3):
            build(system_tree(version), self.expected(version))

    def expected(self, version: int) -> Path:
        return self.trees / f"v{version}"

    def golden(self, name: str, *steps: Callable[[Path], None], origin: Path | None = None) -> Path:
        """A file system image on which `steps` were done, made once."""
        image = self.folder / f"golden-{name}.btrfs"
        if not image.exists():
            made = copied(origin, image) if origin else formatted(image, 320 << 20)
            with mounted(made) as top:
                for step in steps:
                    step(top)
        return image

    @contextmanager
    def copy(self, golden: Path) -> Iterator[tuple[Path, Path]]:
        """A mounted copy of a golden image, and the file that it is mounted from."""
        image = self.copied(golden)
        with mounted(image) as top:
            yield top, image
        image.unlink()

    def copied(self, image: Path) -> Path:
        """A copy under a name that was never used; see `copied`."""
        return copied(image, self.folder / f"copy-{next(_counter)}.btrfs")

    def image(self, base: Path | None, version: int) -> Path:
        """A signed image from the tree `base` (None: a full one) to a version, made once."""
        out = self.folder / f"{base.parents[1].name if base else 'full'}-{version}.tbdiff"
        if not out.exists():
            label = Label(name="demo", release=f"{version}.0")
            create_image(base, self.expected(version), out, label=label, key=self.folder / "builder", effort="fast")
        return out

    def run(self, top: Path, *arguments: str | Path) -> Ended:
        return tb_update(top, *arguments, config=self.config)

    def must(self, *arguments: str | Path) -> Callable[[Path], None]:
        """A step for `golden`: a command that has to succeed."""

        def step(top: Path) -> None:
            ended = self.run(top, *arguments)
            assert ended.code == 0, ended.err

        return step

    def command(self, top: Path, *arguments: str | Path) -> list[str]:
        """The same command for a process of its own."""
        return faults.python("tbupdate", *arguments, "--top", top, "--config", self.config)

    def boots(self, top: Path, versions: tuple[int, ...], *, converting: bool = False) -> int:
        """Which whole version the default subvolume holds; fails if it is none of `versions`, to the last bit."""
        found = {}
        with booted(top) as root:
            for version in versions:
                lines = differences(self.expected(version), root)
                if version == 1:
                    # It was installed, not deployed: its root got a new time when our directories were made in it.
                    lines = [line for line in lines if not line.startswith(ROOTS_TIME)]
                if converting:
                    lines = [line for line in lines if not OURS.match(line)]
                if not lines:
                    return version
                found[version] = lines[:4]
        raise AssertionError(f"the default subvolume is not whole: {found}")

    def check_layout(self, top: Path, *, converting: bool = False) -> None:
        """The documented layout, as Btrfs's own tools see it, with nothing left over."""
        names = set(os.listdir(top / "snapshots"))
        stray = {n for n in names if n.endswith((".partial", ".next"))}
        assert not stray, stray
        default = subprocess.run(["btrfs", "subvolume", "get-default", top], check=True, capture_output=True, text=True)
        assert default.stdout.split()[-1] == "snapshots/root", default.stdout
        with booted(top) as root:
            current = differences(top / "snapshots/current", root)
            assert not [line for line in current if not (converting and line.startswith(ROOTS_TIME))]
        for name in names - {"root"}:
            if not name.endswith(".root"):
                said = subprocess.run(
                    ["btrfs", "property", "get", "-ts", top / "snapshots" / name, "ro"],
                    check=True,
                    capture_output=True,
                    text=True,
                )
                assert said.stdout.strip() == "ro=true", name
        shown = self.run(top, "status", "--json")
        assert shown.code == 0, shown.err
        assert {kept["id"] for kept in shown.json["deployments"]} == {
            name for name in names - {"root", "current", "previous"} if not name.endswith((".root", ".carried"))
        }
