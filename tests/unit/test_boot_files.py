"""Where kernels, initrds and device trees are found in a system, and what is read of an initrd."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tbdiff.compression import zstd
from tbdiff.errors import Rejected
from tbdiff.tree import read_tree
from tbupdate.boot import initrd, kernel, kernelsets, listed
from tbupdate.boot.kernel import BootFiles, Overrides
from tests.bootable import archive


def tree(root: Path, *files: str) -> str:
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)
        path.chmod(0o755)
    return str(root)


FOUND = [
    (
        ("lib/modules/6.1/modules.dep", "boot/vmlinuz-6.1", "boot/initrd.img-6.1"),
        BootFiles("6.1", "boot/vmlinuz-6.1", "boot/initrd.img-6.1"),
    ),
    (
        (
            "usr/lib/modules/6.1/modules.dep",
            "usr/lib/modules/6.1/vmlinuz",
            "usr/lib/modules/6.1/initrd",
            "boot/vmlinuz-6.1",
        ),
        BootFiles("6.1", "usr/lib/modules/6.1/vmlinuz", "usr/lib/modules/6.1/initrd"),
    ),
    # The newest that has both.
    (
        ("lib/modules/6.10/kernel/x.ko", "lib/modules/6.9/kernel/x.ko", "boot/vmlinuz-6.9", "boot/vmlinuz-6.10"),
        BootFiles("6.10", "boot/vmlinuz-6.10", None),
    ),
    (
        ("lib/modules/6.10/kernel/x.ko", "lib/modules/6.9/kernel/x.ko", "boot/vmlinuz-6.9", "boot/vmlinuz-6.11"),
        BootFiles("6.9", "boot/vmlinuz-6.9", None),
    ),
    # Names without a version, where there is no doubt.
    (("lib/modules/5/modules.dep", "boot/zImage", "boot/uInitrd"), BootFiles("5", "boot/zImage", "boot/uInitrd")),
    (
        ("lib/modules/5/modules.dep", "boot/Image-5", "boot/dtbs/5/a/one.dtb", "boot/dtbs/5/README"),
        BootFiles("5", "boot/Image-5", None, {"dtbs/a/one.dtb": "boot/dtbs/5/a/one.dtb"}),
    ),
    (
        ("lib/modules/5/modules.dep", "boot/uImage-5", "usr/lib/linux-image-5/x.dtb", "boot/dtbs/5/y.dtb"),
        BootFiles("5", "boot/uImage-5", None, {"dtbs/x.dtb": "usr/lib/linux-image-5/x.dtb"}),
    ),
]


@pytest.mark.parametrize(("files", "found"), FOUND)
def test_boot_files_are_found(tmp_path: Path, files: tuple[str, ...], found: BootFiles) -> None:
    assert kernel.find(tree(tmp_path, *files)) == found


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ((), "no modules"),
        (("boot/vmlinuz-6.1",), "no modules"),
        (("lib/modules/6.1/build",), "no modules"),
        (("lib/modules/6.1/modules.dep", "boot/vmlinuz-6.2"), "no kernel that fits"),
        (("lib/modules/6.1/modules.dep", "lib/modules/6.2/modules.dep", "boot/vmlinuz"), "no kernel that fits"),
        (("lib/modules/6.1/modules.dep", "boot/vmlinuz-6.1/x"), "no kernel that fits"),
    ],
)
def test_what_does_not_fit_is_rejected(tmp_path: Path, files: tuple[str, ...], words: str) -> None:
    with pytest.raises(Rejected, match=words) as refused:
        kernel.find(tree(tmp_path, *files))
    assert refused.value.remedy


def test_the_manifest_may_name_them(tmp_path: Path) -> None:
    files = ("lib/modules/5-a/modules.dep", "lib/modules/5-ab/modules.dep", "opt/k-5-ab", "opt/i", "opt/d", "opt/k")
    root = tree(tmp_path, *files)
    found = kernel.find(root, Overrides("opt/k-5-ab", "opt/i", "opt/d"))
    assert found == BootFiles("5-ab", "opt/k-5-ab", "opt/i", {"devicetree": "opt/d"})
    with pytest.raises(Rejected, match="no such file"):
        kernel.find(root, Overrides("opt/k-5-ab", "opt/none"))
    with pytest.raises(Rejected, match="nobody knows"):
        kernel.find(root, Overrides("opt/k"))


def test_links_stay_inside_of_the_tree(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("secret")
    root = tmp_path / "tree"
    tree(root, "usr/lib/modules/6.1/modules.dep", "usr/lib/systemd/systemd")
    (root / "lib").symlink_to("usr/lib")
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-6.1").symlink_to(outside)
    with pytest.raises(Rejected, match="no kernel"):
        kernel.find(str(root))
    (root / "boot/vmlinuz-6.1").unlink()
    (root / "boot/vmlinuz-6.1").symlink_to("/opt/k")
    tree(root, "opt/k")
    assert kernel.find(str(root)).kernel == "boot/vmlinuz-6.1"
    (root / "sbin").mkdir()
    (root / "sbin/init").symlink_to("/lib/systemd/systemd")
    kernel.require_init(str(root))
    (root / "usr/lib/systemd/systemd").unlink()
    with pytest.raises(Rejected, match="no init"):
        kernel.require_init(str(root))


def check_listed(root: str, *named: str) -> None:
    """What a listing tells of boot files is what the tree itself tells, to the name of the set."""
    found = kernel.find(root, Overrides(*named)).named
    files = listed.find(read_tree(Path(root)), Overrides(*named))
    assert set(files) == set(found)
    name, size = kernelsets.digest({name: (root, path) for name, path in found.items()})
    assert kernelsets.name_of({name: file.digest for name, file in files.items()}) == name
    assert sum(file.size for file in files.values()) == size


@pytest.mark.parametrize("files", [files for files, _ in FOUND])
def test_a_listing_tells_as_much_as_the_tree(tmp_path: Path, files: tuple[str, ...]) -> None:
    check_listed(tree(tmp_path, *files))


def test_a_listing_tells_where_links_lead(tmp_path: Path) -> None:
    root = tree(tmp_path, "usr/lib/modules/6.1/modules.dep", "usr/lib/modules/6.1/vmlinuz", "opt/a/b/c/d/k", "opt/i")
    (tmp_path / "lib").symlink_to("usr/lib")
    (tmp_path / "boot").mkdir()
    (tmp_path / "boot/initrd.img-6.1").symlink_to("/../opt/./i")
    (tmp_path / "boot/again").hardlink_to(tmp_path / "usr/lib/modules/6.1/vmlinuz")
    check_listed(root)
    check_listed(root, "boot/again")
    check_listed(root, "opt/a/b/c/d/k", "boot/initrd.img-6.1")
    (tmp_path / "boot/initrd.img-6.1").unlink()
    (tmp_path / "boot/initrd.img-6.1").symlink_to("initrd.img-6.1")
    assert set(listed.find(read_tree(tmp_path), Overrides())) == {"vmlinuz"}
    with pytest.raises(Rejected, match="no modules"):
        listed.find(read_tree(tmp_path / "opt"), Overrides())


def test_device_trees_are_looked_for_in_no_linked_directory(tmp_path: Path) -> None:
    """Each would be found again and again: with two links in more ways than can be tried."""
    root = tree(tmp_path, "lib/modules/5/modules.dep", "boot/Image-5", "boot/trees/a/one.dtb", "boot/trees/two.dtb")
    (tmp_path / "boot/dtbs-5").symlink_to("trees")
    for name, to in (("again", "."), ("b", "a"), ("linked.dtb", "a/one.dtb")):
        (tmp_path / "boot/trees" / name).symlink_to(to)
    names = ("a/one.dtb", "linked.dtb", "two.dtb")
    assert kernel.find(root).devicetrees == {f"dtbs/{name}": f"boot/dtbs-5/{name}" for name in names}
    check_listed(root)


def test_a_set_that_is_there_needs_no_room(tmp_path: Path) -> None:
    file = listed.File(1 << 42, "0" * 64)
    kernels = tmp_path / "tb-update" / kernelsets.name_of({"vmlinuz": file.digest})
    kernels.mkdir(parents=True)
    # A cut while it was written leaves it without all that it needs.
    for size in (None, 0, file.size - 1):
        if size is not None:
            (kernels / "vmlinuz").touch()
            os.truncate(kernels / "vmlinuz", size)
        with pytest.raises(Rejected, match="not enough space"):
            kernelsets.require_room(str(tmp_path), {"vmlinuz": file}, [kernels.name])
    os.truncate(kernels / "vmlinuz", file.size)
    kernelsets.require_room(str(tmp_path), {"vmlinuz": file}, [])


@pytest.mark.parametrize("left", ["", "the kernel", "somewhat of its length"])
def test_a_set_that_was_cut_is_written_again(tmp_path: Path, left: str) -> None:
    """A cut leaves files that are short, or as long as they are to be with something else in them; and no entry."""
    root = Path(tree(tmp_path / "root", "k", "i"))
    (root / "k").write_text("the kernel, all of it.")
    files = {"vmlinuz": (str(root), "k"), "initrd": (str(root), "i")}
    boot = tmp_path / "boot"
    boot.mkdir()
    name = kernelsets.put(str(boot), files, [])
    made = boot / "tb-update" / name
    assert [path.name for path in made.parent.iterdir()] == [name]
    written = (made / "initrd").stat().st_ino, (made / "vmlinuz").stat().st_ino
    assert kernelsets.put(str(boot), files, [name]) == name
    assert ((made / "initrd").stat().st_ino, (made / "vmlinuz").stat().st_ino) == written
    (made / "vmlinuz").write_text(left)
    assert kernelsets.put(str(boot), files, []) == name
    assert (made / "vmlinuz").read_text() == "the kernel, all of it."


def test_sets_are_named_by_their_content(tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for root in (one, same, other):
        tree(root, "k", "i")
    (other / "i").write_text("changed")
    digests = [
        kernelsets.digest({"vmlinuz": (str(root), "k"), "initrd": (str(root), "i")})[0] for root in (one, same, other)
    ]
    assert digests[0] == digests[1] != digests[2]


# --- initrds ---------------------------------------------------------------------------------------------------------

PLAIN = archive("kernel", "kernel/x86/microcode.bin")
MAIN = archive("init", "usr/lib/tb-update/boot", "usr/bin/sh")


def lz4(data: bytes) -> bytes:
    return subprocess.run(["lz4", "-l", "-c"], input=data, capture_output=True, check=True).stdout


PACKERS: list[Callable[[bytes], bytes]] = [
    bytes,
    gzip.compress,
    lzma.compress,
    lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    zstd.compress,
    lz4,
]


@pytest.mark.parametrize("pack", PACKERS)
@pytest.mark.parametrize("before", [b"", PLAIN, PLAIN + bytes(300), PLAIN + PLAIN])
def test_names_are_found_however_it_is_packed(pack: Callable[[bytes], bytes], before: bytes) -> None:
    found = list(initrd.names(io.BytesIO(before + pack(MAIN))))
    assert found[-3:] == ["init", "usr/lib/tb-update/boot", "usr/bin/sh"]
    assert initrd.has_hook(io.BytesIO(before + pack(MAIN)))
    assert not initrd.has_hook(io.BytesIO(before + pack(archive("init", "lib/tb-update/boot/not"))))


def test_a_real_archive_with_contents(tmp_path: Path) -> None:
    tree(tmp_path, "a", "lib/tb-update/boot", "z")
    (tmp_path / "a").write_bytes(b"x" * 100_001)
    made = subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"],
        input=b"a\nlib\nlib/tb-update\nlib/tb-update/boot\nz\n",
        cwd=tmp_path,
        capture_output=True,
        check=True,
    ).stdout
    assert list(initrd.names(io.BytesIO(zstd.compress(made)))) == [
        "a",
        "lib",
        "lib/tb-update",
        "lib/tb-update/boot",
        "z",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"no archive",
        gzip.compress(b"no archive", mtime=0),
        b"070701" + b"x" * 200,
        b"070701" + b"F" * 200,
        b"\x1f\x8b\x08\0" + b"x" * 50,
        b"\x28\xb5\x2f\xfd" + b"x" * 50,
        b"\xfd7zXZ" + b"x" * 50,
    ],
)
def test_damaged_ones_are_rejected(data: bytes) -> None:
    with pytest.raises(Rejected):
        initrd.has_hook(io.BytesIO(data))
