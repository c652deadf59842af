"""Pairs of systems to go from and to: two of real Debian systems, two made up, all subvolumes of one Btrfs."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pair:
    """Two read-only subvolumes on the file system mounted at `top`."""

    name: str
    top: Path
    base: Path
    target: Path


MOMENT = 1_700_000_000
WORDS = [hashlib.sha256(b"%d" % n).hexdigest()[: 3 + n % 8] for n in range(4000)]


def made(top: Path) -> Pair:
    """A system that nobody has: texts, programs, packed files; then what a release of it changes."""
    base, target = top / "made-v1", top / "made-v2"
    if not target.exists():
        shutil.rmtree(base, ignore_errors=True)
        subprocess.run(["btrfs", "-q", "subvolume", "create", base], check=True)
        _first(base)
        subprocess.run(["btrfs", "-q", "subvolume", "snapshot", base, target], check=True)
        _second(target)
        for tree in (base, target):
            subprocess.run(["btrfs", "property", "set", tree, "ro", "true"], check=True)
    return Pair("made", top, base, target)


def _first(tree: Path) -> None:
    dice = random.Random(1)
    for number in range(12_000):
        _write(tree / f"usr/share/texts/{number % 300}/{number}.txt", _text(dice, dice.randrange(20, 900)))
    for number in range(400):
        _write(tree / f"usr/share/doc/{number}/changelog.gz", _packed(_text(dice, dice.randrange(500, 9000))))
    for number in range(40):
        _write(tree / f"usr/lib/lib{number}.so.1.0.{number}", _program(number, dice.randrange(2_000, 60_000), 0))


def _second(tree: Path) -> None:
    """Fixes in texts and programs, new change logs, a library by a new name, a directory moved, times touched."""
    dice = random.Random(2)
    for number in dice.sample(range(12_000), 240):
        path = tree / f"usr/share/texts/{number % 300}/{number}.txt"
        lines = path.read_bytes().split(b"\n")
        lines[dice.randrange(len(lines))] = b"another line " + _text(dice, 6)
        _write(path, b"\n".join(lines))
    for number in dice.sample(range(400), 60):
        path = tree / f"usr/share/doc/{number}/changelog.gz"
        _write(path, _packed(b"a new release\n" + _text(dice, 40) + gzip.decompress(path.read_bytes())))
    for number in dice.sample(range(40), 20):
        path = tree / f"usr/lib/lib{number}.so.1.0.{number}"
        words = path.stat().st_size // 12
        path.unlink()
        _write(path.with_name(f"lib{number}.so.1.0.{number + 1}"), _program(number, words, 96))
    (tree / "usr/share/texts/7").rename(tree / "usr/share/texts/seven")


def many(top: Path) -> Pair:
    """A hundred thousand small files, and a snapshot in which a hundred of them changed."""
    base, target = top / "many-v1", top / "many-v2"
    if not target.exists():
        shutil.rmtree(base, ignore_errors=True)
        subprocess.run(["btrfs", "-q", "subvolume", "create", base], check=True)
        for number in range(100_000):
            _write(base / f"{number % 300}/{number}", b"%d\n" % number)
        subprocess.run(["btrfs", "property", "set", base, "ro", "true"], check=True)
        subprocess.run(["btrfs", "-q", "subvolume", "snapshot", base, target], check=True)
        for number in range(0, 100_000, 1000):
            _write(target / f"{number % 300}/{number}", b"%d changed\n" % number)
        subprocess.run(["btrfs", "property", "set", target, "ro", "true"], check=True)
    return Pair("many", top, base, target)


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (MOMENT, MOMENT))


def _text(dice: random.Random, words: int) -> bytes:
    return "".join(dice.choice(WORDS) + ("\n" if n % 9 == 8 else " ") for n in range(words)).encode()


def _packed(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def _program(number: int, words: int, moved: int) -> bytes:
    """Twelve bytes an instruction, every fourth with an address; what is behind the middle moved by some bytes."""
    dice = random.Random(number)
    code = bytearray(b"\x7fELF" + bytes(60))
    for place in range(words):
        if place == words // 2 and moved:
            code += random.Random(number + 1000).randbytes(moved)
        address = dice.randrange(words * 12)
        address += moved if address > words * 6 else 0
        operation = dice.choice((b"\x48\x8b\x05", b"\xe8\x90\x90", b"\x0f\x1f\x40")) + bytes((place % 7,))
        code += operation + (
            address.to_bytes(8, "little") if place % 4 == 0 else dice.choice(WORDS)[:3].encode() * 2 + b"\0\0"
        )
    return bytes(code)


MAKERS: dict[str, Callable[[Path], Pair]] = {
    "point": lambda top: Pair("point", top, top / "point-v1", top / "point-v2"),
    "tiny": lambda top: Pair("tiny", top, top / "point-v2", top / "tiny-v2"),
    "made": made,
    "many": many,
}
