#!/bin/sh
# dracut sources this before it mounts the root, by its default subvolume; root is "block:DEVICE" there.
# shellcheck disable=SC2154
case $root in
    block:*) sh /usr/lib/tb-update/boot "${root#block:}" ;;
esac
