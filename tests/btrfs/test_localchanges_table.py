"""Every combination of what is at a path in the old image, in the root and in the new image, in one deploy."""

from __future__ import annotations

import itertools
import subprocess

from tests.btrfs.test_localchanges import root
from tests.console import Device
from tests.honest import differences
from tests.trees import NOON, Node, Tree, acl, build, directory, fifo, file, symlink

STATES: dict[str, dict[bytes, Node]] = {
    "absent": {},
    "one": {b"": file(b"one")},
    "two": {b"": file(b"\0two")},
    "three": {b"": file(b"\0three", mode=0o4711, uid=3, xattrs=(acl(0o4711, (1000, 4)),))},
    "empty": {b"": directory(0o700, uid=9)},
    "full": {b"": directory(), b"/\xff\n": file(b"held"), b"/d": directory(), b"/d/.e": file(b"deep")},
    "link": {b"": symlink(b"../nowhere")},
    "fifo": {b"": fifo(mode=0o622)},
}
DIRECTORIES = ("empty", "full")


def tree_of(chosen: dict[str, str]) -> Tree:
    """For each name in /etc/t, the state that is chosen for it."""
    tree: Tree = {b"etc/t": directory(), b"etc/system": file(b"x"), b"etc/fstab": file(b"LABEL=x / btrfs\n")}
    for name, state in chosen.items():
        tree |= {b"etc/t/" + name.encode() + below: node for below, node in STATES[state].items()}
    return tree


def expected(base: str, ours: str, theirs: str) -> tuple[str, bool]:
    """What comes, and whether it is a conflict."""
    if ours in (base, theirs):
        return theirs, False
    return (ours, False) if theirs == base else (ours, True)


def test_every_combination(dev: Device) -> None:
    combinations = {"-".join(one): one for one in itertools.product(STATES, repeat=3)}
    # Of two directories each thing in them counts for itself: that is not said by one state.
    combinations = {
        name: one
        for name, one in combinations.items()
        if not (sum(state in DIRECTORIES for state in one) > 1 and len(set(one)) > 1)
        or expected(*one) == (one[2], False)
    }
    sides = [tree_of({name: one[n] for name, one in combinations.items()}) for n in range(3)]
    outcomes = {name: expected(*one) for name, one in combinations.items()}
    for n, side in enumerate(sides):
        build(side, dev.work / f"side-{n}")
    build(tree_of({name: state for name, (state, _) in outcomes.items()}), dev.work / "expected")
    with (dev.work / "config.toml").open("a") as config:
        # Nothing of the installed system comes in between.
        config.write("[local]\nown = []\n")
    dev("deploy", dev.image(None, dev.work / "side-0", "2.0", device_types=("test",)))
    dev("commit")
    at = root(dev) / "etc/t"
    local = sorted(name for name, one in combinations.items() if one[0] != one[1])
    subprocess.run(["rm", "-rf", *local], cwd=at, check=True)
    there = [name for name in local if combinations[name][1] != "absent"]
    subprocess.run(["cp", "-a", "--no-preserve=links", *there, at], cwd=dev.work / "side-1/etc/t", check=True)
    subprocess.run(["touch", "-d", f"@{NOON // 10**9}", at], check=True)
    done = dev.json("deploy", dev.image(None, dev.work / "side-2", "3.0", device_types=("test",)))
    assert differences(dev.work / "expected", root(dev)) == []
    told = {one["path"].removeprefix("etc/t/").split("/")[0] for one in done["deployments"][0]["conflicts"]}
    assert told == {name for name, (_, conflict) in outcomes.items() if conflict}
