"""Modes, owners, xattrs, ACLs and capabilities on every kind that can wear them."""

from __future__ import annotations

from dataclasses import replace

from tests.trees import (
    NOON,
    Bytes,
    Node,
    Tree,
    acl,
    capability,
    change,
    device,
    directory,
    fifo,
    file,
    ordered,
    symlink,
)

CAP_NET_BIND, CAP_NET_RAW = 1 << 10, 1 << 13
KINDS = {
    "file": file(b"x"),
    "dir": directory(),
    "link": symlink(b"x"),
    "fifo": fifo(),
    "char": device("char", 4, 64),
    "block": device("block", 259, (1 << 20) - 1),
}


def before() -> Tree:
    wear: Tree = {}
    xattrs = (("trusted.t", b"1"), ("user.u", b"1"))
    for name, node in KINDS.items():
        mine = tuple(x for x in xattrs if name in ("file", "dir") or x[0].startswith("trusted."))
        for what in ("same", "added", "removed", "changed"):
            wear[f"dressed/{name}-xattr-{what}".encode()] = _wearing(node, *(() if what == "added" else mine))
        wear[f"dressed/{name}-mode".encode()] = node
        wear[f"dressed/{name}-owner".encode()] = node
        wear[f"dressed/{name}-time".encode()] = node
    return wear | {
        b"dressed/suid": file(b"#!", mode=0o4755),
        b"dressed/sgid": file(b"#!", mode=0o755),
        b"dressed/suid-owner": file(b"#!", mode=0o4755),
        b"dressed/tmp": directory(0o1777),
        b"dressed/sgid-dir": directory(0o2775, gid=20),
        b"dressed/sgid-dir/below": directory(0o755, gid=0),
        b"dressed/sgid-dir/file": file(b"", gid=0),
        b"dressed/no-w": directory(0o555),
        b"dressed/no-w/in": file(b"locked"),
        b"dressed/no-w/gone": file(b"locked"),
        b"dressed/none": directory(0),
        b"dressed/none/in": file(b"hidden", mode=0),
        b"dressed/cap": file(b"\x7fELF", mode=0o755, xattrs=(capability(CAP_NET_BIND),)),
        b"dressed/cap-removed": file(b"\x7fELF", mode=0o755, xattrs=(capability(CAP_NET_BIND),)),
        b"dressed/cap-new-content": file(b"\x7fELF", mode=0o755, xattrs=(capability(CAP_NET_RAW),)),
        b"dressed/cap-owner": file(b"\x7fELF", mode=0o755, xattrs=(capability(CAP_NET_RAW),)),
        b"dressed/acl": _wearing(file(mode=0o640), acl(0o640, (1000, 4))),
        b"dressed/acl-removed": _wearing(file(mode=0o660), acl(0o660, (1000, 6))),
        b"dressed/acl-dir": _wearing(directory(0o750), acl(0o750, (1000, 5)), acl(0o750, (7, 7), default=True)),
        # A default ACL is inherited by what is made in the directory; nothing of it may show in the result.
        b"dressed/acl-dir/in": file(b"plain", mode=0o604),
        b"dressed/acl-dir/sub": directory(0o705),
        b"dressed/big-xattr": _wearing(file(), ("user.big", b"v" * 3900)),
        b"dressed/empty-xattr": _wearing(file(), ("user.empty", b"")),
        b"dressed/odd-xattr": _wearing(file(), ("user.ä b\n" + "k" * 200, bytes(range(256)))),
        b"dressed/many-xattrs": _wearing(file(), *((f"user.n{n:02}", bytes([n])) for n in range(40))),
        b"dressed/selinux": _wearing(file(), ("security.selinux", b"system_u:object_r:etc_t:s0\0")),
    }


def _wearing(node: Node, *xattrs: tuple[str, bytes]) -> Node:
    return replace(node, xattrs=ordered(dict(xattrs)))


def edit(tree: Tree) -> None:
    for name in KINDS:
        path = f"dressed/{name}-".encode()
        change(tree, path + b"xattr-added", xattrs=(("security.mine", b"s"), ("trusted.new", b"\0\xff")))
        change(tree, path + b"xattr-removed", xattrs=())
        change(tree, path + b"xattr-changed", xattrs=(("trusted.t", b"2"),))
        if name != "link":
            change(tree, path + b"mode", mode=0o7707 if name == "dir" else 0o421)
        change(tree, path + b"owner", uid=1234, gid=4321)
        change(tree, path + b"time", mtime=NOON + 123_456_789)
    change(tree, b"dressed/suid", mode=0o755)
    change(tree, b"dressed/sgid", mode=0o2755, gid=5)
    change(tree, b"dressed/suid-owner", uid=33, gid=33)
    change(tree, b"dressed/tmp", mode=0o777)
    tree[b"dressed/sgid-dir/added"] = file(b"no group inherited")
    tree[b"dressed/sgid-dir/added-dir"] = directory(0o755)
    del tree[b"dressed/no-w/gone"]
    tree[b"dressed/no-w/added"] = file(b"new in a directory without w")
    tree[b"dressed/none/in/deeper"] = tree.pop(b"dressed/none/in")
    change(tree, b"dressed/cap", xattrs=(capability(CAP_NET_BIND | CAP_NET_RAW, effective=False),))
    change(tree, b"dressed/cap-removed", xattrs=())
    change(tree, b"dressed/cap-new-content", runs=(Bytes(0, b"\x7fELF2"),), size=5)
    change(tree, b"dressed/cap-owner", uid=8)
    change(tree, b"dressed/acl", mode=0o660, xattrs=(acl(0o660, (1000, 6), (1001, 4)),))
    change(tree, b"dressed/acl-removed", xattrs=())
    tree[b"dressed/acl-dir/added"] = file(b"plain", mode=0o604)
    tree[b"dressed/acl-dir/added-dir"] = directory(0o705)
    tree[b"dressed/acl-dir/added-acl"] = _wearing(file(mode=0o640), acl(0o640, (55, 4)))
    change(tree, b"dressed/big-xattr", xattrs=(("user.big", b"w" * 3900),))
    change(tree, b"dressed/empty-xattr", xattrs=(("user.empty2", b""),))
    change(tree, b"dressed/many-xattrs", xattrs=tuple((f"user.n{n:02}", bytes([n % 7])) for n in range(20, 60)))
    change(tree, b"dressed/selinux", xattrs=(("security.selinux", b"system_u:object_r:shadow_t:s0\0"),))
