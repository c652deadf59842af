"""A U-Boot for QEMU that counts starts, as Debian's packages hold none: built once into the cache, from their source.

Its environment lies in two files of a FAT partition, the third of the disk.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
from pathlib import Path

from tests.boot import debian
from tests.boot.debian import run

SUITE = "bookworm"
TOOLS = (
    "gcc,gcc-multilib,libc6-dev,make,bison,flex,bc,xz-utils,dpkg-dev,libssl-dev,libgnutls28-dev,uuid-dev,"
    "swig,python3-dev,python3-setuptools"
)
ROM, VARIABLES = "u-boot.rom", "u-boot-initial-env"
ENVIRONMENTS, ENVIRONMENT_SIZE = ("uboot.env", "uboot-redundant.env"), 0x2000
SETTINGS = f"""
CONFIG_BOOTCOUNT_LIMIT=y
CONFIG_BOOTCOUNT_ENV=y
# CONFIG_ENV_IS_NOWHERE is not set
CONFIG_ENV_IS_IN_FAT=y
CONFIG_SYS_REDUNDAND_ENVIRONMENT=y
CONFIG_ENV_SIZE={ENVIRONMENT_SIZE:#x}
CONFIG_ENV_FAT_INTERFACE="virtio"
CONFIG_ENV_FAT_DEVICE_AND_PART="0:3"
CONFIG_ENV_FAT_FILE="{ENVIRONMENTS[0]}"
CONFIG_ENV_FAT_FILE_REDUND="{ENVIRONMENTS[1]}"
CONFIG_CMD_NVEDIT_LOAD=y
CONFIG_USE_PREBOOT=y
CONFIG_PREBOOT="virtio scan; env load"
CONFIG_BOOTDELAY=0
"""
BUILD = rf"""
cd /root
apt-get source --only-source u-boot
cd u-boot-*/
cat configs/qemu-x86_defconfig - >configs/tests_defconfig
make -s tests_defconfig
# This version of x86 starts a kernel of extlinux.conf without the size of its initrd.
sed -i 's/^\t*size = snprintf(initrd_str/sprintf(initrd_filesize, "%lx", size); &/' boot/pxe_utils.c
grep -q 'initrd_filesize, "%lx"' boot/pxe_utils.c
make -s -j2 BUILD_ROM=y
make -s {VARIABLES}
cp {ROM} {VARIABLES} /root
"""


def make_environments(folder: Path) -> list[Path]:
    """Both files, with what U-Boot begins with; but initrds go to where no kernel of today unpacks itself."""
    first = (built() / VARIABLES).read_text()
    text = re.sub(r"(?m)^ramdisk_addr_r=.*", "ramdisk_addr_r=0x10000000", first)
    assert text != first
    for name in ENVIRONMENTS:
        made = ("mkenvimage", "-r", "-s", str(ENVIRONMENT_SIZE), "-o", folder / name, "-")
        run(*made, input=text)
    return [folder / name for name in ENVIRONMENTS]


def built() -> Path:
    """Where its ROM is, and the variables that it begins with."""
    key = hashlib.sha256(f"{TOOLS} {SETTINGS} {BUILD}".encode()).hexdigest()[:12]
    made = debian.cache() / f"u-boot-{SUITE}-{key}"
    with debian.locked():
        if not made.exists():
            partial = made.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            build = f'printf %s {shlex.quote(SETTINGS)} | chroot "$1" sh -ec {shlex.quote(BUILD)}'
            run(
                *("mmdebstrap", "--mode=root", "--variant=apt", "--format=null", f"--include={TOOLS}"),
                *('--aptopt=Acquire::Languages "none"', '--aptopt=Apt::Install-Recommends "false"'),
                *(f"--customize-hook={hook}" for hook in (build, f"copy-out /root/{ROM} /root/{VARIABLES} {partial}")),
                *(SUITE, "-"),
                *(f"{kind} http://deb.debian.org/debian {SUITE} main" for kind in ("deb", "deb-src")),
                env=os.environ | {"TMPDIR": os.fspath(debian.cache())},
            )
            partial.rename(made)
    return made
