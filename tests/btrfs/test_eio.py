"""A medium that fails: data that no longer matches its checksum, and a file system that has become read-only."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from tests.btrfs.devices import committed, delta, first, initialised
from tests.rig import Rig, mounted


def damage(image: Path, content: bytes) -> int:
    """Flip a bit in every copy of `content` on an image that is not mounted; how many there were."""
    found, at = 0, 0
    with image.open("r+b") as device:
        data = device.read()
        while (at := data.find(content, at)) >= 0:
            device.seek(at)
            device.write(bytes([content[0] ^ 1]))
            found, at = found + 1, at + 1
    return found


def test_a_damaged_base_is_refused_and_named(rig: Rig) -> None:
    """`usr/big` is changed in one place: the delta takes the rest of it from the base, where one block is damaged."""
    image = rig.copied(initialised(rig))
    # Not in its first blocks: the kernel's module holds the same.
    assert damage(image, random.Random(1).randbytes(400_000)[12288:12352])
    with mounted(image) as top:
        names = sorted(os.listdir(top / "snapshots"))
        ended = rig.run(top, "deploy", delta(rig))
        assert ended.code in (1, 3), ended
        assert "Traceback" not in ended.err
        assert sorted(os.listdir(top / "snapshots")) == names
        assert rig.run(top, "status").code == 0
        told = rig.run(top, "verify")
        assert told.code == 1, told
        assert "usr/big" in told.out + told.err
        # A full image needs nothing of what is damaged.
        assert rig.run(top, "deploy", rig.image(None, 2)).code == 0
        assert rig.boots(top, (2,)) == 2
        rig.check_layout(top)


def test_damage_elsewhere_does_not_stand_in_the_way(rig: Rig) -> None:
    """`usr/same` does not change: a deploy does not even read it, and `verify` finds it."""
    image = rig.copied(initialised(rig))
    assert damage(image, random.Random(2).randbytes(100_000)[8192:8256])
    with mounted(image) as top:
        assert rig.run(top, "deploy", delta(rig)).code == 0
        told = rig.run(top, "verify")
        assert told.code == 1
        assert "usr/same" in told.out + told.err
        assert rig.run(top, "rollback", first(rig)).code == 0


def test_a_read_only_file_system(rig: Rig) -> None:
    """As the kernel leaves it after an error: looking works, changing is refused in one sentence."""
    with rig.copy(committed(rig)) as (top, _):
        subprocess.run(["mount", "-o", "remount,ro", top], check=True)
        for command in (["status"], ["list"], ["history"], ["verify"], ["diff"]):
            assert rig.run(top, *command).code == 0, command
        for command in (["deploy", rig.image(None, 3)], ["rollback"], ["pin", first(rig)]):
            ended = rig.run(top, *command)
            assert ended.code in (1, 3), (command, ended)
            assert "read-only" in ended.err.lower(), (command, ended.err)
            assert "Traceback" not in ended.err
        subprocess.run(["mount", "-o", "remount,rw", top], check=True)
        assert rig.boots(top, (2,)) == 2
        rig.check_layout(top)
