"""Content: big, empty, sparse, copied, grown, cut."""

from __future__ import annotations

from tests.trees import NOON, Bytes, Hole, Noise, Tree, change, file, move, sparse

MIB = 1 << 20
HUGE = 256 * MIB


def before() -> Tree:
    return {
        b"content/big": sparse(40 * MIB, Noise(0, 40 * MIB, 1)),
        b"content/big-moves": sparse(3 * MIB + 17, Noise(0, 3 * MIB + 17, 2)),
        b"content/copied": sparse(200_000, Noise(0, 200_000, 3)),
        b"content/renamed-1.0.0": sparse(100_000, Noise(0, 100_000, 4)),
        b"content/empty": file(),
        b"content/empty-gets-content": file(),
        b"content/gets-empty": file(b"full"),
        b"content/grows": sparse(9_000, Noise(0, 9_000, 5)),
        b"content/shrinks": sparse(90_000, Noise(0, 90_000, 6)),
        b"content/shrinks-by-one": sparse(8193, Noise(0, 8193, 6)),
        b"content/same-size-same-time": file(b"abcd"),
        b"content/swap-a": sparse(70_000, Noise(0, 70_000, 7)),
        b"content/swap-b": sparse(70_000, Noise(0, 70_000, 8)),
        b"holes/stays": sparse(MIB, Noise(0, 4096, 10), Noise(512 << 10, 4096, 11)),
        b"holes/all": sparse(5 * MIB),
        b"holes/all-gets-data": sparse(MIB),
        b"holes/data-gets-all": sparse(MIB, Noise(0, MIB, 12)),
        b"holes/gains": sparse(MIB, Noise(0, MIB, 13)),
        b"holes/loses": sparse(MIB, Noise(0, 64 << 10, 14), Noise(512 << 10, 64 << 10, 15)),
        b"holes/zeros-become-hole": sparse(256 << 10, Noise(0, 256 << 10, 0)),
        b"holes/hole-becomes-zeros": sparse(256 << 10),
        b"holes/tail-grows": sparse(8192, Noise(0, 8192, 16)),
        b"holes/tail-goes": sparse(MIB, Noise(0, 8192, 17)),
        b"holes/moves": sparse(MIB, Noise(0, 256 << 10, 18), Noise(768 << 10, 256 << 10, 19)),
        b"holes/odd-edges": sparse(100_001, Bytes(5_000, b"x"), Bytes(50_001, b"y" * 5_000), Bytes(100_000, b"z")),
        b"holes/huge": sparse(HUGE, Bytes(0, b"start"), Bytes(HUGE - 3, b"end")),
        b"holes/linked-1": sparse(MIB, Noise(128 << 10, 4096, 20), group="sparse"),
        b"holes/linked-2": sparse(MIB, Noise(128 << 10, 4096, 20), group="sparse"),
    }


def edit(tree: Tree) -> None:
    spots = tuple(Noise(offset, 16, offset + 1) for offset in range(100_003, 40 * MIB, 3 * MIB + 11))
    change(tree, b"content/big", runs=(*tree[b"content/big"].runs, *spots), mtime=NOON + 3)
    # All bytes move by a few: nothing is block-aligned any more.
    change(tree, b"content/big-moves", runs=(Bytes(0, b"in front"), Noise(8, 3 * MIB + 17, 2)), size=3 * MIB + 25)
    tree[b"content/copy-1"] = tree[b"content/copied"]
    tree[b"other/copy-2"] = file(runs=tree[b"content/copied"].runs, size=200_000, mode=0o755, uid=9)
    move(tree, b"content/renamed-1.0.0", b"content/renamed-1.0.1")
    change(tree, b"content/empty-gets-content", runs=(Bytes(0, b"now"),), size=3)
    change(tree, b"content/gets-empty", runs=(), size=0)
    change(tree, b"content/grows", runs=(*tree[b"content/grows"].runs, Noise(9_000, 300_000, 21)), size=309_000)
    change(tree, b"content/shrinks", size=10_001)
    change(tree, b"content/shrinks-by-one", size=8192)
    change(tree, b"content/same-size-same-time", runs=(Bytes(0, b"abce"),))
    tree[b"content/swap-a"], tree[b"content/swap-b"] = tree[b"content/swap-b"], tree[b"content/swap-a"]
    tree[b"content/added-empty"] = file()
    tree[b"content/added-big"] = sparse(9 * MIB, Noise(0, 9 * MIB, 22))
    tree[b"content/added-zeros"] = sparse(2 * MIB, Noise(0, 2 * MIB, 0))
    change(tree, b"holes/stays", runs=(Noise(0, 4096, 10), Noise(512 << 10, 4096, 23)))
    change(tree, b"holes/all-gets-data", runs=(Noise(0, MIB, 24),))
    change(tree, b"holes/data-gets-all", runs=())
    punched = (Hole(128 << 10, 256 << 10), Hole(900 << 10, 124 << 10))
    change(tree, b"holes/gains", runs=(*tree[b"holes/gains"].runs, *punched))
    change(tree, b"holes/loses", runs=(*tree[b"holes/loses"].runs, Noise(64 << 10, 448 << 10, 25)))
    change(tree, b"holes/zeros-become-hole", runs=())
    change(tree, b"holes/hole-becomes-zeros", runs=(Noise(0, 256 << 10, 0),))
    change(tree, b"holes/tail-grows", size=3 * MIB + 5)
    change(tree, b"holes/tail-goes", size=8192)
    change(tree, b"holes/moves", runs=(Noise(0, 128 << 10, 18), Noise(640 << 10, 384 << 10, 19)))
    change(tree, b"holes/odd-edges", runs=(Bytes(4_096, b"x"), Bytes(50_002, b"y" * 5_000)), size=100_002)
    change(tree, b"holes/huge", runs=(Bytes(0, b"start"), Bytes(HUGE // 2, b"middle"), Bytes(HUGE - 3, b"END")))
    change(tree, b"holes/linked-1", runs=(Noise(256 << 10, 4096, 20),))
    tree[b"holes/added"] = sparse(10 * MIB, Noise(5 * MIB, 4096, 26))
