#!/bin/sh
# systemd as the first process of a system of its own, in name spaces: BASE is its tree, PLACE is empty, RESULTS is for what
# probes say. What is mounted goes when it ends.
set -e
base=$1 place=$2 results=$3
mount -t tmpfs tmpfs "$place"
mkdir "$place/up" "$place/work" "$place/root"
mount -t overlay overlay -o "lowerdir=$base,upperdir=$place/up,workdir=$place/work" "$place/root"
cd "$place/root"
mount -t proc proc proc
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
for name in boot run dev; do mount -t tmpfs -o mode=755 tmpfs $name; done
for name in null zero full random urandom tty; do cp -a /dev/$name dev/; done
mkdir -p dev/pts dev/shm dev/mqueue dev/hugepages etc/tb-update results
mount -t devpts -o ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
mount --bind "$results" results
cp -r results/system/. etc/systemd/system/
echo 0123456789abcdef0123456789abcdef >etc/machine-id
echo 127.0.0.1 localhost >etc/hosts
# Not by chroot alone: within that there are no name spaces of users.
pivot_root . mnt
umount -l /mnt
exec chroot . env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --unit=probes.target --log-target=console --show-status=no
