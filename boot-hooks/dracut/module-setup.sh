#!/bin/bash
# dracut: what the hook needs, into the initramfs. dracut calls these functions.

check() {
    require_binaries btrfs blkid cmp dd sed readlink sha256sum || return 1
}

depends() {
    echo btrfs
}

installkernel() {
    instmods ext4 vfat nls_cp437 nls_ascii nls_iso8859_1 nls_utf8
}

install() {
    inst_multiple btrfs blkid cmp dd sed readlink sha256sum mkdir mount umount mv rm sync cat uname sleep reboot
    inst_multiple -o findfs
    inst_simple /usr/share/tb-update/boot /usr/lib/tb-update/boot
    # shellcheck disable=SC2154 # dracut sets moddir
    inst_hook pre-mount 50 "$moddir/tb-update.sh"
}
