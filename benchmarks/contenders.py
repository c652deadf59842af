"""What a person could use to carry a system from one state to another, as commands of the shell."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.pairs import Pair

TBDIFF = f"{shlex.quote(sys.executable)} -m tbdiff"
UPDATE = f"{shlex.quote(sys.executable)} -m tbupdate"


@dataclass(frozen=True)
class Way:
    """One way to carry a pair, in the directory `work`; only `create` and `apply` are measured.

    `prepare` makes what a user of it has anyway; `size` tells the bytes that a device fetches. `apply` leaves the
    new system at `{new}`, if it leaves one at all.
    """

    create: str
    apply: str
    prepare: str = "true"
    prepare_apply: str = "true"
    size: str = "stat -c %s {image}"
    result: str = "{new}"


@dataclass(frozen=True)
class Contender:
    """A way by its name, and the programs that it needs."""

    name: str
    way: Way
    needs: tuple[str, ...] = ()

    def missing(self) -> list[str]:
        """What it needs and is not here."""
        return [program for program in self.needs if shutil.which(program) is None]

    def command(self, part: Callable[[Way], str], pair: Pair, work: Path) -> str:
        """One command of its way, for a pair."""
        places = {
            "base": pair.base,
            "target": pair.target,
            "top": pair.top,
            "name": pair.target.name,
            "new": pair.top / f"bench-{pair.name}",
            "work": work,
            "image": work / "image",
        }
        return part(self.way).format_map({name: shlex.quote(str(path)) for name, path in places.items()})


SNAPSHOT = "btrfs -q subvolume snapshot {base} {new}"
EMPTY = "btrfs -q subvolume create {new}"


def _tbdiff(options: str) -> Way:
    return Way(
        create=f"{TBDIFF} create {options} {{base}} {{target}} -o {{image}}",
        apply=f"{TBDIFF} apply {{image}} {{new}}",
        prepare_apply=SNAPSHOT,
    )


def _deployed(options: str) -> Way:
    """The same, where a device does it: it knows its base, and keeps the old system whole."""
    return replace(
        _tbdiff(options),
        prepare_apply=f"{UPDATE} init --yes --top {{top}} --root $(realpath --relative-to={{top}} {{base}})",
        apply=f"{UPDATE} deploy --allow-unsigned --top {{top}} {{image}}",
        result="",
    )


def _exported(options: str) -> Way:
    """Where the target is what was changed on a device, and kept there: what that knows of both is written down."""
    root = "{top}/snapshots/root"
    return replace(
        _tbdiff(options),
        prepare=f"{UPDATE} init --yes --top {{top}} --root $(realpath --relative-to={{top}} {{base}}) && "
        f"{TBDIFF} create --effort fast {{base}} {{target}} -o {{image}} && {TBDIFF} apply {{image}} {root} && "
        f"{UPDATE} snapshot --top {{top}}",
        create=f"{UPDATE} export {options} --encoders all --top {{top}} -o {{image}}",
    )


# What a build host keeps from its last release.
KEPT = "--listings {work}/listings"

TARS = " && ".join(
    f"tar --sort=name --xattrs --acls --numeric-owner -C {{{t}}} -cf {{work}}/{t}.tar ." for t in ("base", "target")
)
EXT4 = " && ".join(
    f"rm -f {{work}}/{t}.ext4 && truncate -s 1300M {{work}}/{t}.ext4 && "
    f"mkfs.ext4 -q -E hash_seed=00000000-0000-0000-0000-000000000001 -U 00000000-0000-0000-0000-000000000002 "
    f"-d {{{t}}} {{work}}/{t}.ext4"
    for t in ("base", "target")
)  # fmt: skip


def _committed(tree: str) -> str:
    """A tree as a commit; ostree carries no device nodes, so they go first."""
    return (
        f"btrfs -q subvolume snapshot {{{tree}}} {{top}}/bench-plain && "
        "find {top}/bench-plain ! -type f ! -type d ! -type l -delete && "
        f"ostree commit --repo={{work}}/build -b {tree} --tree=dir={{top}}/bench-plain && "
        "btrfs -q subvolume delete {top}/bench-plain && "
    )


REVISION = "$(ostree rev-parse --repo={work}/build %s)"

CONTENDERS = (
    Contender("tbdiff default", _tbdiff("")),
    Contender("tbdiff best", _tbdiff("--effort best")),
    Contender("tbdiff common", _tbdiff("--encoders common")),
    Contender("tbdiff best common", _tbdiff("--effort best --encoders common")),
    Contender("tbdiff fast", _tbdiff("--effort fast")),
    Contender("tb-update deploy", _deployed("")),
    Contender("tb-update deploy common", _deployed("--encoders common")),
    Contender("tb-update deploy fast", _deployed("--effort fast")),
    Contender("tb-update export", _exported("")),
    Contender(
        "tbdiff, listings kept",
        replace(_tbdiff(KEPT), prepare=f"{TBDIFF} create {KEPT} {{base}} {{base}} -o {{image}}"),
    ),
    Contender(
        "ostree static delta",
        Way(
            prepare="rm -rf {work}/build {work}/device && ostree init --mode=bare --repo={work}/build && "
            "ostree init --mode=bare --repo={work}/device && "
            + _committed("base")
            + _committed("target")
            + "ostree pull-local --repo={work}/device {work}/build base",
            create="ostree static-delta generate --repo={work}/build --inline --min-fallback-size=0 "
            f"--from={REVISION % 'base'} --to={REVISION % 'target'} --filename={{image}}",
            apply="ostree static-delta apply-offline --repo={work}/device {image} && "
            f"ostree checkout --repo={{work}}/device {REVISION % 'target'} {{work}}/out",
            prepare_apply="rm -rf {work}/out",
            result="",
        ),
        ("ostree",),
    ),
    Contender(
        "btrfs send, zstd -19",
        Way(
            create="btrfs -q send -p {base} {target} | zstd -q -19 -T1 -o {image}",
            apply="mkdir {top}/bench-received && zstd -qdc {image} | btrfs -q receive {top}/bench-received",
            result="{top}/bench-received/{name}",
        ),
        ("btrfs", "zstd"),
    ),
    Contender(
        "zstd -19 --patch-from, of tars",
        Way(
            prepare=TARS,
            create="zstd -q -19 --long=31 --patch-from={work}/base.tar {work}/target.tar -o {image}",
            apply="zstd -qd --long=31 --memory=2048MB --patch-from={work}/base.tar {image} -o {work}/again.tar && "
            "tar --xattrs --acls --numeric-owner -C {new} -xf {work}/again.tar",
            prepare_apply=f"rm -f {{work}}/again.tar && {EMPTY}",
        ),
        ("zstd",),
    ),
    Contender(
        "xdelta3, of ext4 images",
        Way(
            prepare=EXT4,
            create="xdelta3 -e -9 -B 1400000000 -s {work}/base.ext4 {work}/target.ext4 {image}",
            apply="xdelta3 -d -B 1400000000 -s {work}/base.ext4 {image} {work}/again.ext4",
            prepare_apply="rm -f {work}/again.ext4",
            result="",
        ),
        ("xdelta3", "mkfs.ext4"),
    ),
    Contender(
        "casync, new chunks",
        Way(
            prepare="rm -rf {work}/chunks && casync make --store={work}/chunks {work}/base.caidx {base} && "
            "du -sb {work}/chunks | cut -f1 >{work}/before",
            create="casync make --store={work}/chunks {work}/target.caidx {target}",
            size="echo $(($(du -sb {work}/chunks | cut -f1) - $(cat {work}/before) + "
            "$(stat -c %s {work}/target.caidx)))",
            apply="casync extract --store={work}/chunks --seed={base} {work}/target.caidx {new}",
            prepare_apply=EMPTY,
        ),
        ("casync",),
    ),
    Contender(
        "whole system, tar.zst",
        Way(
            create="tar --sort=name --xattrs --acls --numeric-owner -C {target} -c . | zstd -q -3 -o {image}",
            apply="zstd -qdc {image} | tar --xattrs --acls --numeric-owner -C {new} -x",
            prepare_apply=EMPTY,
        ),
        ("zstd",),
    ),
    Contender(
        "changed files, tar.zst",
        Way(
            prepare="rsync -aHAXn --checksum --out-format=%n {target}/ {base}/ | grep -v '/$' | "
            "sed 's/ -> .*//' >{work}/changed",
            create="tar --xattrs --acls --numeric-owner -C {target} --no-recursion --files-from={work}/changed -c | "
            "zstd -q -19 -T1 -o {image}",
            apply="zstd -qdc {image} | tar --xattrs --acls --numeric-owner -C {new} -x",
            prepare_apply=SNAPSHOT,
        ),
        ("rsync", "zstd"),
    ),
)
