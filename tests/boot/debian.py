"""A real Debian that boots: built by mmdebstrap once into a cache directory, with our package and hook from here.

It is the release that this computer runs, or another one (a suite by its name). TB_BOOT names the cache directory, if
not /var/tmp/tb-boot.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
GUEST = Path(__file__).parent / "guest"
PACKAGES = (
    "systemd-sysv,udev,kmod,initramfs-tools,busybox,lz4,btrfs-progs,e2fsprogs,"
    "python3,python3-btrfsutil,python3-cryptography,python3-pygments,libarchive13,grub-pc-bin,grub2-common,"
    "extlinux,syslinux-common,libubootenv-tool"
)
# Where it is not the release of this computer, it installs our package by itself.
PACKAGES_TO_INSTALL = "make,python3-venv,python3-pydantic,python3-click,python3-rich,python3-libarchive-c"
# The two newest ones for virtual machines.
KERNELS = (
    'found=$(apt-cache search -n "^linux-image-[0-9].*-cloud-amd64$" | cut -d" " -f1 | sort -V | tail -n 2); '
    "apt-get install -y $found"
)
# What a system under test need not do, each boot anew, ten times slower than elsewhere.
MASKED = {
    "timer": "apt-daily apt-daily-upgrade dpkg-db-backup e2scrub_all fstrim systemd-tmpfiles-clean",
    "service": (
        "e2scrub_reap getty@tty1 serial-getty@ttyS0 getty-static grub-common grub-initrd-fallback "
        "systemd-hwdb-update systemd-update-utmp systemd-update-utmp-runlevel systemd-random-seed systemd-pstore "
        "systemd-logind systemd-user-sessions systemd-binfmt systemd-udev-settle "
        "modprobe@drm modprobe@efi_pstore modprobe@configfs modprobe@fuse modprobe@dm_mod modprobe@loop"
    ),
    "mount": "dev-hugepages dev-mqueue sys-kernel-debug sys-kernel-tracing sys-fs-fuse-connections sys-kernel-config",
    "target": "getty",
    "automount": "proc-sys-fs-binfmt_misc",
}
# Of all devices that there are it needs its disk, and the port by which it is told what to do.
DEVICES = """[Service]
ExecStart=
ExecStart=-udevadm trigger --type=subsystems --action=add --subsystem-match=block
ExecStart=-udevadm trigger --type=devices --action=add --subsystem-match=block --subsystem-match=virtio-ports
"""


def cache() -> Path:
    return Path(os.environ.get("TB_BOOT", "/var/tmp/tb-boot"))


def run(*command: str | Path, **how: object) -> None:
    done = subprocess.run(list(map(os.fspath, command)), capture_output=True, text=True, **how)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"


def here() -> str:
    """The release of this computer."""
    lines = Path("/etc/os-release").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if "=" in line)["VERSION_CODENAME"]


def numbers(version: str) -> list[int]:
    """What a kernel's version is ordered by."""
    return [int(part) for part in re.findall(r"\d+", version.removesuffix("-cloud-amd64"))]


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Let one process at a time make what the cache is to hold."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def base(suite: str) -> Path:
    """The unpacked Debian, as its packages made it."""
    packages = PACKAGES if suite == here() else f"{PACKAGES},{PACKAGES_TO_INSTALL}"
    key = hashlib.sha256(f"2 {packages} {KERNELS}".encode()).hexdigest()[:12]
    tree = cache() / f"{suite}-{key}"
    with locked():
        if not tree.exists():
            # What a run left that was ended in the middle.
            shutil.rmtree(tree.with_suffix(".partial"), ignore_errors=True)
            run(
                "mmdebstrap",
                "--mode=root",
                "--variant=minbase",
                f"--include={packages}",
                f"--customize-hook=chroot \"$1\" sh -ec '{KERNELS}'",
                '--aptopt=Acquire::Languages "none"',
                '--aptopt=Apt::Install-Recommends "false"',
                *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
                suite,
                tree.with_suffix(".partial"),
                env=os.environ | {"INITRD": "No", "TMPDIR": os.fspath(cache())},
            )
            tree.with_suffix(".partial").rename(tree)
    return tree


def build(tree: Path, suite: str) -> tuple[str, str]:
    """Make a system in `tree` that boots, with tb-update in it; the versions of its two kernels, the older first."""
    run("cp", "-a", "--reflink=auto", f"{base(suite)}/.", tree)
    install(tree, suite)
    run("install", "-m755", GUEST / "agent", tree / "usr/local/sbin/agent")
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(exist_ok=True)
    for unit in ("agent.service", "environment.service"):
        run("install", "-m644", GUEST / unit, tree / "etc/systemd/system" / unit)
        (wants / unit).symlink_to(f"../{unit}")
    run("install", "-D", "-m644", GUEST / "fw_env.config", tree / "etc/fw_env.config")
    for unit in (f"{name}.{kind}" for kind, names in MASKED.items() for name in names.split()):
        (tree / "etc/systemd/system" / unit).unlink(missing_ok=True)
        (tree / "etc/systemd/system" / unit).symlink_to("/dev/null")
    trigger = tree / "etc/systemd/system/systemd-udev-trigger.service.d"
    trigger.mkdir()
    (trigger / "devices.conf").write_text(DEVICES)
    (tree / "etc/hostname").write_text("device\n")
    (tree / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tree / "etc/tb-version").write_text("v1\n")
    (tree / "etc/fstab").write_text(
        "LABEL=system / btrfs noatime 0 0\nLABEL=boot /boot auto noatime 0 0\n"
        "LABEL=system /data btrfs noatime,subvol=@data 0 0\n"
    )
    (tree / "data").mkdir()
    settings = tree / "etc/initramfs-tools"
    # No file system: the hook has to see to it that what it mounts is there.
    (settings / "modules").write_text("virtio_pci\nvirtio_blk\nvirtio_console\n")
    text = (settings / "initramfs.conf").read_text()
    text = re.sub(r"(?m)^MODULES=.*", "MODULES=list", text)
    (settings / "initramfs.conf").write_text(re.sub(r"(?m)^COMPRESS=.*", "COMPRESS=lz4", text))
    versions = sorted(os.listdir(tree / "lib/modules"), key=numbers)
    for version in versions:
        for part in ("drivers/net", "drivers/infiniband", "net"):
            shutil.rmtree(tree / f"lib/modules/{version}/kernel/{part}", ignore_errors=True)
    with chroot(tree) as inside:
        for version in versions:
            inside("update-initramfs", "-c", "-k", version)
    for leftover in ("vmlinuz", "vmlinuz.old", "initrd.img", "initrd.img.old"):
        (tree / leftover).unlink(missing_ok=True)
    return versions[0], versions[1]


def install(tree: Path, suite: str) -> None:
    """Our package, into the tree: put there from here, or where Python is another one by the system itself."""
    # It builds in the repository.
    with locked():
        if suite == here():
            run("make", "install", f"DESTDIR={tree}", cwd=REPOSITORY)
            return
        with online(tree, (REPOSITORY, "mnt")) as inside:
            inside("make", "-C", "/mnt", "install")


@contextlib.contextmanager
def online(tree: Path, *more: tuple[Path, str], pypi: bool = True) -> Iterator[object]:
    """Run programs within a tree that sees the network as this computer does, and more of its places, to write to.

    For PyPI it sees whom this computer trusts as well, so that no package can be installed that has a say in that.
    """
    names = ("/etc/resolv.conf", *(("/etc/ssl/certs", "/etc/pip.conf") if pypi else ()))
    lent = [(path, str(path)[1:], "ro") for path in map(Path, names) if path.exists()]
    with contextlib.ExitStack() as held:
        for path, name, how in [*lent, *((path, name, "rw") for path, name in more)]:
            place = tree / name
            if path.is_dir():
                place.mkdir(parents=True, exist_ok=True)
            else:
                place.touch()
            run("mount", "--bind", "-o", how, path, place)
            held.callback(run, "umount", place)
        yield held.enter_context(chroot(tree))


@contextlib.contextmanager
def chroot(tree: Path) -> Iterator[object]:
    """Run programs within a tree."""
    run("mount", "-t", "proc", "proc", tree / "proc")
    run("mount", "--bind", "/dev", tree / "dev")
    try:
        path = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
        yield lambda *command: run("chroot", tree, *command, env=os.environ | path)
    finally:
        run("umount", tree / "dev", tree / "proc")


def keep_kernel(tree: Path, wanted: str, other: str) -> None:
    """Leave one kernel in a tree."""
    shutil.rmtree(tree / f"lib/modules/{other}")
    for name in (tree / "boot").iterdir():
        if other in name.name:
            name.unlink()
    assert (tree / f"boot/vmlinuz-{wanted}").exists()


def dracut_initrd(tree: Path, version: str, out: Path) -> None:
    """An initrd of that system's, made by dracut, which its packages do not bring: initramfs-tools is in its place."""
    unpack(tree, "dracut-core", "cpio")
    with chroot(tree) as inside:
        drivers = "virtio_pci virtio_blk virtio_console btrfs ext4"
        inside(
            *("dracut", "--quiet", "--force", "--no-hostonly", "--no-compress", "--add-drivers", drivers),
            *("--kver", version, "/initrd.dracut"),
        )
    shutil.move(tree / "initrd.dracut", out)


def unpack(tree: Path, *packages: str) -> None:
    """The files of packages that are not installed."""
    folder = Path(tempfile.mkdtemp(dir=tree))
    folder.chmod(0o755)
    run("apt-get", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=folder)
    for package in folder.iterdir():
        # Not `dpkg -x`: that would make directories of the links /bin and /lib.
        packed = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "-C", tree], input=packed, check=True)
    shutil.rmtree(folder)
