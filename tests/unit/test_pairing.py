"""A new content is built on the file that it most likely grew out of."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest

from tbdiff.compare import compare
from tbdiff.create import create_image
from tbdiff.entry import Entry, Kind, Listing, in_order
from tbdiff.likeness import most_alike, sample
from tbdiff.pairing import Pairing
from tbdiff.rebuild import rebuild


def tree(files: dict[str, int]) -> Listing:
    entries = {b"": Entry(b"", Kind.DIRECTORY)}
    for name, size in files.items():
        path = name.encode()
        parts = path.split(b"/")
        for n in range(1, len(parts)):
            above = b"/".join(parts[:n])
            entries[above] = Entry(above, Kind.DIRECTORY)
        entries[path] = Entry(path, Kind.FILE, size=size, digest=hashlib.sha256(b"%s %d" % (path, size)).digest())
    return in_order(entries)


def paired(base: dict[str, int], target: dict[str, int], path: str) -> str | None:
    old, new = tree(base), tree(target)
    delta = compare(old, new)
    entry = new.get(path.encode())
    assert entry is not None
    number = Pairing(old, delta, rebuild(old, delta)).source(entry)
    return None if number is None else old.entries[number].path.decode()


LIBRARIES = {f"lib/lib{n}.so.1.0.{n}": 1000 for n in range(40)}


@pytest.mark.parametrize(
    ("base", "target", "path", "source"),
    [
        ({"a": 5}, {"a": 6}, "a", "a"),
        ({"a": 0}, {"a": 6}, "a", None),
        ({"boot/vmlinuz-6.1.9": 9}, {"boot/vmlinuz-6.1.10": 9}, "boot/vmlinuz-6.1.10", "boot/vmlinuz-6.1.9"),
        (LIBRARIES, {"lib/lib34.so.1.0.35": 1001}, "lib/lib34.so.1.0.35", "lib/lib34.so.1.0.34"),
        # Of two that are as near the one that is no more.
        ({"m/k-1": 9, "m/k-2": 9}, {"m/k-1": 9, "m/k-3": 9}, "m/k-3", "m/k-2"),
        ({"m/k-1": 9, "m/k-2": 9}, {"m/k-2": 9, "m/k-3": 9}, "m/k-3", "m/k-1"),
        ({"usr/sbin/tool": 9, "x": 1}, {"usr/bin/tool": 8, "x": 1}, "usr/bin/tool", "usr/sbin/tool"),
        ({"a/__init__.py": 9, "b/c/__init__.py": 9}, {"b/d/__init__.py": 8}, "b/d/__init__.py", "b/c/__init__.py"),
        ({"a": 5}, {"b": 6}, "b", None),
    ],
)
def test_sources(base: dict[str, int], target: dict[str, int], path: str, source: str | None) -> None:
    assert paired(base, target, path) == source


def lines(*ranges: range) -> bytes:
    return b"".join(b"this is line %d of many\n" % n for numbers in ranges for n in numbers)


def test_contents_that_are_alike() -> None:
    olds = [(3, sample(lines(range(500)))), (5, sample(lines(range(400, 2000)))), (9, sample(lines(range(9000, 9100))))]
    news = {
        b"mostly 3": sample(lines(range(20), range(3000, 3010), range(30, 490))),
        b"mostly 5": sample(lines(range(300, 1900))),
        b"a bit of 9": sample(lines(range(9000, 9003), range(5000, 5500))),
        b"none": sample(lines(range(7000, 7400))),
        b"empty": sample(b""),
    }
    assert most_alike(news, olds) == {b"mostly 3": 3, b"mostly 5": 5}


def test_an_image_is_small_where_only_contents_tell(tmp_path: Path) -> None:
    sizes = {}
    for name, there in (("gone", "old/some.conf"), ("other", "old/unlike")):
        base, target = tmp_path / name / "base", tmp_path / name / "target"
        (base / "old").mkdir(parents=True)
        target.mkdir(parents=True)
        noise = random.Random(1).randbytes(60_000).hex().encode()
        content = b"\n".join(noise[n : n + 60] for n in range(0, len(noise), 60))
        (base / there).write_bytes(content if name == "gone" else content[::-1])
        (target / "quite-another").write_bytes(content.replace(noise[600:660], b"changed"))
        create_image(base, target, tmp_path / name / "image")
        sizes[name] = (tmp_path / name / "image").stat().st_size
    assert sizes["gone"] < 2000 < 50_000 < sizes["other"]
