"""The files that boot a system, as they are found in its tree: kernel, initrd, device trees."""

from __future__ import annotations

import functools
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from tbdiff.errors import Rejected
from tbupdate import release, syscalls

MODULES = ("usr/lib/modules", "lib/modules")
# {} is the version. Names without one count where the system has modules for one kernel only.
KERNELS = (
    *(f"{directory}/{{}}/vmlinuz" for directory in MODULES),
    *(f"boot/{name}-{{}}" for name in ("vmlinuz", "vmlinux", "Image", "zImage", "uImage")),
    *(f"boot/{name}" for name in ("vmlinuz", "vmlinux", "Image", "zImage", "uImage", "vmlinuz-linux")),
)
INITRDS = (
    *(f"boot/{name}" for name in ("initrd.img-{}", "initramfs-{}.img", "initrd-{}", "uInitrd-{}")),
    *(f"{directory}/{{}}/{name}" for directory in MODULES for name in ("initrd", "initrd.img", "initramfs.img")),
    *(f"boot/{name}" for name in ("initrd.img", "initrd", "initramfs.img", "initramfs-linux.img", "uInitrd")),
)
DEVICETREES = (
    "usr/lib/linux-image-{}",
    "boot/dtbs/{}",
    "boot/dtbs-{}",
    *(f"{directory}/{{}}/{name}" for directory in MODULES for name in ("dtb", "dtbs")),
    "boot/dtbs",
)
# What the kernel and the usual initramfs start, in their order.
INITS = ("sbin/init", "usr/sbin/init", "usr/lib/systemd/systemd", "lib/systemd/systemd", "etc/init", "bin/init")


@dataclass(frozen=True)
class Overrides:
    """Where an image says that its boot files are, if not in one of the usual places."""

    kernel: str | None = None
    initrd: str | None = None
    devicetree: str | None = None


@dataclass(frozen=True)
class BootFiles:
    """The boot files of one system, by their paths in its tree. `devicetrees`: name in the set -> path."""

    version: str
    kernel: str
    initrd: str | None
    devicetrees: Mapping[str, str] = field(default_factory=dict)

    @property
    def named(self) -> dict[str, str]:
        """All of them: the name that each gets on /boot -> its path in the tree."""
        found = {"vmlinuz": self.kernel} | dict(self.devicetrees)
        return found | ({"initrd": self.initrd} if self.initrd else {})


@contextmanager
def opened(tree: str) -> Iterator[int]:
    """A descriptor of the root of a tree."""
    descriptor = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Tree(Protocol):
    """A system's tree, as far as it is looked through here."""

    def names(self, directory: str, *, linked: bool = True) -> list[str]:
        """What a directory holds; nothing where it is none, or unless `linked` a link to one."""

    def is_file(self, path: str) -> bool:
        """Whether there is a regular file."""


@dataclass(frozen=True)
class OnDisk:
    """A tree by the descriptor of its root."""

    root: int

    def names(self, directory: str, *, linked: bool = True) -> list[str]:
        return _names(self.root, directory, linked=linked)

    def is_file(self, path: str) -> bool:
        return is_file(self.root, path)


def find(tree: str, wanted: Overrides = Overrides()) -> BootFiles:
    """The boot files of the system in `tree`: those of its newest kernel."""
    with opened(tree) as root:
        return find_in(OnDisk(root), wanted)


def find_in(root: Tree, wanted: Overrides) -> BootFiles:
    """The boot files of a system, wherever it can be looked through."""
    versions = module_versions(root)
    if not versions:
        raise Rejected(
            "the system has no modules for any kernel; nothing was changed", "Add the kernel's modules to the image."
        )
    if wanted.kernel is not None:
        version = _version_of(wanted.kernel, versions)
        return BootFiles(version, _require(root, wanted.kernel), *_others(root, version, versions, wanted))
    for version in versions:
        kernel = _first(root, KERNELS, version, versions)
        if kernel is not None:
            return BootFiles(version, kernel, *_others(root, version, versions, wanted))
    raise Rejected(
        f"the system has modules for {', '.join(versions)}, but no kernel that fits them; nothing was changed",
        "Add the kernel to the image (boot/vmlinuz-VERSION), or name it with `tbdiff create --kernel PATH`.",
    )


def find_installed(boot: str, tree: str) -> BootFiles | None:
    """The boot files of an installed system, which lie on its boot partition; those of the running kernel if it can."""
    with opened(tree) as descriptor:
        versions = module_versions(OnDisk(descriptor))
    running = os.uname().release
    versions.sort(key=lambda version: version != running)
    kernels, initrds, trees = (
        tuple(pattern.removeprefix("boot/") for pattern in patterns if pattern.startswith("boot/"))
        for patterns in (KERNELS, INITRDS, DEVICETREES)
    )
    with opened(boot) as descriptor:
        root = OnDisk(descriptor)
        for version in versions:
            found = _first(root, kernels, version, versions)
            if found is not None:
                initrd = _first(root, initrds, version, versions)
                return BootFiles(version, found, initrd, _find_devicetrees(root, trees, version))
    return None


@contextmanager
def read(root: int, path: str) -> Iterator[BinaryIO]:
    """A file of a tree, for reading."""
    with open(syscalls.open_inside(root, path), "rb") as file:
        yield file


def require_init(tree: str) -> None:
    """Refuse a system that has nothing to be started by its kernel."""
    with opened(tree) as root:
        if not any(is_program(root, path) for path in INITS):
            raise Rejected("the system has no init", f"Add one to the image, as {INITS[0]}.")


def module_versions(root: Tree) -> list[str]:
    """The kernels that a system has modules for, the newest first."""
    found = set()
    for directory in MODULES:
        for name in root.names(directory):
            if any(one.startswith("modules.") or one == "kernel" for one in root.names(f"{directory}/{name}")):
                found.add(name)
    return sorted(found, key=functools.cmp_to_key(release.compare), reverse=True)


def is_program(root: int, path: str) -> bool:
    """Whether a system can start what is at `path`."""
    try:
        descriptor = syscalls.open_inside(root, path)
    except OSError:
        return False
    try:
        mode = os.fstat(descriptor).st_mode
        return stat.S_ISREG(mode) and bool(mode & 0o111)
    finally:
        os.close(descriptor)


def is_file(root: int, path: str) -> bool:
    """Whether there is a regular file at `path`."""
    try:
        descriptor = syscalls.open_inside(root, path)
    except OSError:
        return False
    try:
        return stat.S_ISREG(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)


def _others(root: Tree, version: str, versions: list[str], wanted: Overrides) -> tuple[str | None, dict[str, str]]:
    if wanted.initrd is not None:
        initrd: str | None = _require(root, wanted.initrd)
    else:
        initrd = _first(root, INITRDS, version, versions)
    if wanted.devicetree is not None:
        return initrd, {"devicetree": _require(root, wanted.devicetree)}
    return initrd, _find_devicetrees(root, DEVICETREES, version)


def _find_devicetrees(root: Tree, patterns: tuple[str, ...], version: str) -> dict[str, str]:
    for pattern in patterns:
        directory = pattern.format(version)
        files = [path for path in _files_below(root, directory) if path.endswith((".dtb", ".dtbo"))]
        if files:
            return {f"dtbs/{path.removeprefix(directory).lstrip('/')}": path for path in sorted(files)}
    return {}


def _first(root: Tree, patterns: tuple[str, ...], version: str, versions: list[str]) -> str | None:
    paths = (pattern.format(version) for pattern in patterns if "{}" in pattern or len(versions) == 1)
    return next((path for path in paths if root.is_file(path)), None)


def _require(root: Tree, path: str) -> str:
    if not root.is_file(path):
        raise Rejected(
            f"the image says that {path} boots it, and has no such file; nothing was changed", "Make the image again."
        )
    return path


def _version_of(kernel: str, versions: list[str]) -> str:
    inside = [version for version in versions if version in kernel]
    if inside:
        return max(inside, key=len)
    if len(versions) == 1:
        return versions[0]
    raise Rejected(
        f"the image boots {kernel}, and has modules for {', '.join(versions)}: nobody knows which of them fit it; "
        "nothing was changed",
        "Name the kernel by its version, or leave only its modules in the image.",
    )


def _names(root: int, directory: str, *, linked: bool) -> list[str]:
    try:
        descriptor = syscalls.open_inside(root, directory, follow=linked)
    except OSError:
        return []
    try:
        return os.listdir(descriptor)
    except NotADirectoryError:
        return []
    finally:
        os.close(descriptor)


def _files_below(root: Tree, directory: str) -> Iterator[str]:
    left = [directory]
    while left:
        where = left.pop()
        # A link to a directory may lead round in a circle, or through all of the system.
        for name in root.names(where, linked=where == directory):
            path = f"{where}/{name}"
            if root.is_file(path):
                yield path
            elif name.isprintable():
                left.append(path)
