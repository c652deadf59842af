"""A file system that is full for real: of data, of metadata, and at every level in between while a deploy runs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tbdiff.create import Label, create_image
from tests.btrfs.devices import committed, delta, first, initialised, staged
from tests.honest import differences
from tests.rig import Rig, system_tree
from tests.trees import Noise, build, sparse

pytestmark = pytest.mark.slow

MIB = 1 << 20


def fill_data(top: Path, leave: int = 0) -> Path:
    """Take all room for data but `leave` bytes."""
    filler = top / "filler"
    filler.mkdir(exist_ok=True)
    step = 16 * MIB
    number = 0
    while step >= 4096:
        fd = os.open(filler / f"data-{number}", os.O_WRONLY | os.O_CREAT)
        try:
            os.posix_fallocate(fd, 0, step)
            number += 1
        except OSError as error:
            assert error.errno == errno.ENOSPC
            os.ftruncate(fd, 0)
            step //= 2
        finally:
            os.close(fd)
    os.sync()
    for held in sorted(filler.glob("data-*"), key=lambda path: path.stat().st_size):
        if leave <= 0:
            break
        leave -= held.stat().st_size
        held.unlink()
    os.sync()
    return filler


def fill_metadata(top: Path) -> Path:
    """Take all room for metadata too: with large attributes, then smaller ones, until not even a name finds room."""
    filler = fill_data(top)
    for size in (15_000, 3_000, 100, 0):
        for number in range(1_000_000):
            try:
                fd = os.open(filler / f"meta-{size}-{number}-{'x' * 200}", os.O_WRONLY | os.O_CREAT)
            except OSError as error:
                assert error.errno == errno.ENOSPC
                break
            try:
                os.setxattr(fd, "user.filler", bytes(size))
            except OSError as error:
                assert error.errno == errno.ENOSPC
                break
            finally:
                os.close(fd)
        os.sync()
    assert is_full(top)
    return filler


def empty(filler: Path) -> None:
    for held in filler.iterdir():
        held.unlink()
    filler.rmdir()
    os.sync()


def is_full(top: Path) -> bool:
    """Whether a directory cannot be made any more."""
    try:
        (top / "probe").mkdir()
    except OSError as error:
        return error.errno == errno.ENOSPC
    (top / "probe").rmdir()
    return False


@pytest.mark.parametrize("fill", [fill_data, fill_metadata])
def test_status_works_and_changes_nothing(fill: object, rig: Rig) -> None:
    with rig.copy(committed(rig)) as (top, _):
        before = rig.run(top, "status", "--json").json
        del before["free"]
        assert callable(fill)
        fill(top)
        assert is_full(top) == (fill is fill_metadata)
        shown = rig.run(top, "status", "--json")
        assert shown.code == 0
        assert {key: value for key, value in shown.json.items() if key != "free"} == before
        for command in (["list"], ["history"], ["diff"], ["verify"]):
            assert rig.run(top, *command).code == 0, command
        ended = rig.run(top, "doctor", "--json")
        assert ended.code == 1
        assert "space" in ended.out


@pytest.mark.parametrize("fill", [fill_data, fill_metadata])
@pytest.mark.parametrize("golden", [staged, committed])
def test_rollback_works(golden: object, fill: object, rig: Rig) -> None:
    assert callable(golden)
    assert callable(fill)
    with rig.copy(golden(rig)) as (top, _):
        filler = fill(top)
        ended = rig.run(top, "rollback", first(rig))
        assert ended.code == 0, ended.err
        assert rig.boots(top, (1, 2)) == 1
        assert rig.run(top, "status").code == 0
        empty(filler)
        # The next command puts the names right that there was no room for.
        assert rig.run(top, "rollback", first(rig)).code == 4
        assert rig.boots(top, (1, 2)) == 1
        rig.check_layout(top)


@pytest.mark.parametrize("fill", [fill_data, fill_metadata])
def test_commit_works(fill: object, rig: Rig) -> None:
    assert callable(fill)
    with rig.copy(staged(rig)) as (top, _):
        filler = fill(top)
        ended = rig.run(top, "commit")
        assert ended.code == 0, ended.err
        assert rig.run(top, "status", "--json").json["staged"] is None
        empty(filler)
        assert rig.run(top, "commit").code == 4
        assert rig.boots(top, (1, 2)) == 2
        rig.check_layout(top)


def test_prune_makes_room_on_a_full_file_system(rig: Rig) -> None:
    with rig.copy(committed(rig)) as (top, _):
        filler = fill_metadata(top)
        assert rig.run(top, "deploy", rig.image(None, 3)).code == 3
        ended = rig.run(top, "prune", "--keep", "1")
        assert ended.code in (0, 4), ended.err
        assert rig.boots(top, (2,)) == 2
        empty(filler)
        assert rig.run(top, "deploy", rig.image(None, 3)).code == 0
        assert rig.boots(top, (3,)) == 3
        rig.check_layout(top)


@pytest.mark.slow
@pytest.mark.parametrize("leave", [0, 1, 4, 8, 12, 16, 20, 24, 28, 32, 40, 64])
def test_deploy_at_every_level_of_fullness(leave: int, rig: Rig) -> None:
    """An image with 12 MiB of new data; the reserve that is kept otherwise is switched off."""
    image = big_image(rig)
    config = rig.config.read_text()
    with rig.copy(initialised(rig)) as (top, _):
        names = set(os.listdir(top / "snapshots"))
        filler = fill_data(top, leave * MIB)
        rig.config.write_text(config + "[space]\nreserve = 0\n")
        try:
            ended = rig.run(top, "deploy", image)
        finally:
            rig.config.write_text(config)
        assert ended.code in (0, 1, 3), ended
        assert "Traceback" not in ended.err
        if ended.code == 0:
            assert differences(rig.trees / "big", top / "snapshots/current") == []
        else:
            assert rig.boots(top, (1,)) == 1
            assert set(os.listdir(top / "snapshots")) == names
        assert leave or ended.code == 3
        empty(filler)
        assert rig.run(top, "deploy", image).code == (4 if ended.code == 0 else 0)
        assert differences(rig.trees / "big", top / "snapshots/current") == []
        rig.check_layout(top)


def big_image(rig: Rig) -> Path:
    out = rig.folder / "big.tbdiff"
    if not out.exists():
        tree = system_tree(2) | {b"usr/bulk": sparse(12 * MIB, Noise(0, 12 * MIB, 99))}
        build(tree, rig.trees / "big")
        label = Label(name="demo", release="9.0")
        create_image(None, rig.trees / "big", out, label=label, key=rig.folder / "builder", effort="fast")
    return out


def test_a_delta_needs_little_room(rig: Rig) -> None:
    """What does not change is not copied: a delta of some hundred kilobytes goes where the system would not."""
    with rig.copy(initialised(rig)) as (top, _):
        filler = fill_data(top, 24 * MIB)
        ended = rig.run(top, "deploy", delta(rig))
        assert ended.code in (0, 3), ended.err
        empty(filler)
