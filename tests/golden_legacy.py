"""The trees behind the golden streams of the legacy format; run as a program, it writes the streams anew."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.trees import NOON, SECOND, Noise, Tree, build, capability, device, directory, fifo, file, sparse, symlink

GOLDEN = Path(__file__).parent / "golden" / "legacy"
BASE: Tree = {
    b"": directory(0o751, uid=1, gid=2, mtime=NOON - SECOND),
    b"bin": symlink(b"usr/bin", uid=3),
    b"dev/null": device("char", 1, 3, mode=0o666),
    b"dev/loop0": device("block", 7, 300, mode=0o660, gid=6),
    b"run/fifo": fifo(mode=0o600),
    b"usr/bin/ping": file(b"\x7fELF", mode=0o755, xattrs=(capability(1 << 13), ("user.z", b"1"))),
    b"usr/bin/su": file(b"\x7fELF", mode=0o4755),
    b"usr/share/odd\n\xff": file(b"odd name", mtime=-SECOND),
    b"usr/share/noise": sparse(3000, Noise(0, 3000, 1)),
    b"usr/share/old/deep/er": file(b"goes"),
    b"var": directory(0o1777, xattrs=(("user.dir", b"d"),)),
}
TARGET: Tree = {
    **{path: node for path, node in BASE.items() if b"old" not in path},
    b"": directory(0o755, mtime=NOON + SECOND),
    b"bin": directory(),
    b"bin/sh": symlink(b"dash"),
    b"usr/bin/su": file(b"\x7fELF", mode=0o755),
    b"usr/bin/ping": file(b"\x7fELF", mode=0o755, uid=4, xattrs=(("user.z", b"1"),)),
    b"usr/share/noise": sparse(3100, Noise(0, 3000, 1), Noise(1000, 50, 2)),
    b"var": directory(0o1777),
}

if __name__ == "__main__":
    from tbdiff.legacy.create import create_legacy

    GOLDEN.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        base, target = Path(place) / "base", Path(place) / "target"
        build(BASE, base)
        build(TARGET, target)
        create_legacy(None, base, GOLDEN / "full.tbd")
        create_legacy(base, target, GOLDEN / "change.tbd")
