"""The pairs of trees behind the golden images: small, the same wherever they are built, all kinds of change in them."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from dataclasses import dataclass
from functools import partial

from tests.trees import (
    NOON,
    SECOND,
    Bytes,
    Tree,
    acl,
    capability,
    change,
    device,
    directory,
    drop,
    fifo,
    file,
    move,
    sparse,
    symlink,
)


@dataclass(frozen=True)
class Scene:
    """What an image starts from (None: nothing), where it leads, and whose keys sign it."""

    base: Tree | None
    target: Tree
    target_key: str | None = None
    way_key: str | None = None
    effort: str = "default"


def words(seed: str, count: int) -> bytes:
    """Text that compresses as text does."""
    found = []
    for n in range(count):
        number = int.from_bytes(hashlib.sha256(f"{seed} {n}".encode()).digest()[:2], "little")
        found.append(hashlib.sha256(b"%d" % (number % 700)).hexdigest()[: 2 + number % 9])
    return " ".join(found).encode() + b"\n"


def noise(seed: str, size: int) -> bytes:
    """Bytes that do not compress."""
    return b"".join(hashlib.sha256(f"{seed} {n}".encode()).digest() for n in range(-(-size // 32)))[:size]


def packed(data: bytes) -> bytes:
    """A gzip member as zlib makes it, without a time."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=9, mtime=0, filename="") as packing:
        packing.write(data)
    return out.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    """A tar archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mtime = len(content), NOON // SECOND
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def system() -> Tree:
    """One of everything."""
    linked = partial(file, words("linked", 40), mode=0o640, gid=7)
    return {
        b"": directory(0o755),
        b"etc/motd": file(b"Welcome.\n", mtime=NOON + 123_456_789),
        b"etc/empty": file(),
        b"etc/secret": file(words("secret", 30), mode=0o400, uid=12, gid=34, xattrs=(("user.note", b"\0\xff"),)),
        b"etc/shared": file(b"shared", mode=0o664, xattrs=(acl(0o664, (1000, 6)),)),
        b"usr/bin/one": linked(group="one"),
        b"usr/bin/two": linked(group="one"),
        b"usr/lib/one": linked(group="one"),
        b"usr/bin/suid": file(noise("suid", 300), mode=0o4755, xattrs=(capability(1 << 10),)),
        b"usr/lib/libx.so.1": file(noise("lib", 5000) + words("lib", 500)),
        b"usr/lib/libx.so": symlink(b"libx.so.1", uid=5, mtime=-1),
        b"usr/share/doc/a/copyright": file(words("copyright", 300)),
        b"usr/share/doc/b/copyright": file(words("copyright", 300)),
        b"usr/share/doc/a/changes": file(words("changes", 200)),
        b"var/sparse": sparse(3 << 20, Bytes(1 << 20, noise("island", 4096)), Bytes(2 << 20, b"x" * 4096)),
        b"var/pipe": fifo(mode=0o620),
        b"dev/console": device("char", 5, 1, mode=0o600),
        b"dev/disk": device("block", 259, 70000, mode=0o660, gid=6),
        b"odd/new\nline": file(b"1"),
        b"odd/\xff\xfe": file(b"2"),
        b"odd/before 1970": file(b"3", mtime=-SECOND - 1),
        b"tmp": directory(0o1777, mtime=NOON + 1, xattrs=(("trusted.kept", b"yes"),)),
    }


def updated() -> Tree:
    """The same some time later."""
    tree = system()
    change(tree, b"etc/motd", runs=(Bytes(0, b"Welcome back.\n"),), size=14, mtime=NOON + SECOND)
    change(tree, b"etc/secret", mode=0o440, xattrs=(("user.note", b"\0"), ("user.other", b"")))
    change(tree, b"etc/shared", xattrs=())
    change(tree, b"dev/disk", rdev=(259, 3))
    change(tree, b"usr/lib/libx.so", target=b"libx.so.2", mtime=NOON)
    new = words("lib", 500)
    tree[b"usr/lib/libx.so.2"] = file(noise("lib", 5000) + new[:900] + b"something new" + new[900:])
    drop(tree, b"usr/lib/libx.so.1")
    drop(tree, b"usr/bin/one")
    tree[b"usr/bin/uno"] = tree[b"usr/bin/two"]
    move(tree, b"usr/share/doc", b"usr/doc")
    tree[b"usr/share/info"] = symlink(b"../doc")
    change(tree, b"usr/doc/a/changes", runs=(Bytes(0, words("changes", 210)),), size=len(words("changes", 210)))
    tree[b"var/sparse"] = sparse(3 << 20, Bytes(1 << 20, noise("islet", 4096)))
    tree[b"odd/copy"] = file(b"1", uid=9)
    drop(tree, b"odd/\xff\xfe")
    tree[b"odd/\xff\xfe/is a directory now"] = file(b"2")
    drop(tree, b"var/pipe")
    return tree


def patched() -> tuple[Tree, Tree]:
    """Files that are nearly as they were: bytes differ here and there, and parts moved."""
    old = noise("program", 60_000)
    new = bytearray(old)
    for place in range(1000, 40_000, 97):
        new[place] = (new[place] + 3) % 256
    moved = bytes(new[:20_000]) + noise("inserted", 700) + bytes(new[20_000:])
    table = b"".join(b"%08d %08d\n" % (n, n * n) for n in range(2000))
    renumbered = b"".join(b"%08d %08d\n" % (n, n * n + n) for n in range(2100))
    names = (b"lib/program", b"lib/table", b"lib/modules-1/driver")
    base: Tree = dict(zip(names, (file(old), file(table), file(old[:30_000])), strict=True))
    target: Tree = {b"lib/program": file(moved), b"lib/table": file(renumbered)}
    target[b"lib/modules-2/driver"] = file(bytes(new[:29_000]))
    return base, target


def repacked() -> tuple[Tree, Tree]:
    """A gzip file whose content changed a little."""
    old = words("manual", 3000)
    new = old[:7000] + b"one more sentence " + old[7000:]
    return {b"man/page.1.gz": file(packed(old))}, {b"man/page.1.gz": file(packed(new)), b"man/page.2": file(b"new\n")}


def archived() -> tuple[Tree, Tree]:
    """An archive of files that the system has anyway, some of them new."""
    kept, gone, come = noise("kept", 3000), noise("gone", 2000), noise("come", 2500)
    base: Tree = {b"kept": file(kept), b"gone": file(gone)}
    base[b"all.tar"] = file(archive({"kept": kept, "gone": gone}))
    target: Tree = {b"kept": file(kept), b"come": file(come)}
    target[b"all.tar"] = file(archive({"kept": kept, "come": come, "only here": words("here", 50)}))
    return base, target


SMALL: Tree = {b"": directory(), b"a": file(b"hello\n")}
LARGER: Tree = {b"": directory(mtime=NOON + SECOND), b"a": file(b"hello, world\n"), b"b": symlink(b"a")}

SCENES = {
    "full": Scene(None, system(), "release", "release"),
    "delta": Scene(system(), updated(), "release", "release"),
    "back": Scene(updated(), system()),
    "identical": Scene(system(), system()),
    "patch": Scene(*patched()),
    "repacked": Scene(*repacked()),
    "best": Scene(*patched(), effort="best"),
    "archive": Scene(*archived()),
    "signed": Scene(SMALL, LARGER, "release", "release"),
    "delivered": Scene(SMALL, LARGER, "release", "delivery"),
}
