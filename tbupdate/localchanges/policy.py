"""Which local changes follow to another root: paths and patterns, as the configuration says them (pure)."""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

CARRY = ("/etc",)
# Made anew by the programs they belong to, or copies that these keep of what they changed.
DROP = (
    "/etc/.updated",
    "/etc/.pwd.lock",
    "/etc/ld.so.cache",
    "/etc/mtab",
    "/etc/passwd-",
    "/etc/group-",
    "/etc/shadow-",
    "/etc/gshadow-",
    "/etc/subuid-",
    "/etc/subgid-",
)
BOTH_WAYS = ("/etc/machine-id", "/etc/ssh/ssh_host_*", "/etc/shadow")
# What makes an installed system this machine and no other: how it finds its disks and its net, who uses it, who may
# update it. Of accounts only people's count.
OWN = (
    "/etc/fstab",
    "/etc/crypttab",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    "/etc/network/interfaces",
    "/etc/network/interfaces.d",
    "/etc/netplan",
    "/etc/systemd/network",
    "/etc/NetworkManager/system-connections",
    "/etc/wpa_supplicant",
    "/etc/passwd",
    "/etc/group",
    "/etc/gshadow",
    "/etc/subuid",
    "/etc/subgid",
    "/etc/sudoers.d",
    "/etc/localtime",
    "/etc/timezone",
    "/etc/locale.conf",
    "/etc/default/locale",
    "/etc/default/keyboard",
    "/etc/vconsole.conf",
    "/etc/tb-update",
)


class Fate(enum.Enum):
    """What becomes of a local change when another deployment boots."""

    CARRIED = "carried"
    BOTH_WAYS = "both ways"
    DROPPED = "dropped"


def check_pattern(pattern: str) -> str:
    """Return `pattern` if it names something in a root; ValueError otherwise."""
    parts = pattern.split("/")
    if parts[0] or len(parts) < 2 or any(part in ("", ".", "..") for part in parts[1:]) or "\0" in pattern:
        raise ValueError("must be a path in the root, like /etc/hosts; * and ? stand for parts of one name")
    return pattern


@dataclass(frozen=True)
class Policy:
    """`carry`, `drop`, `both_ways` and `own` name paths, and mean all below them; what is dropped counts first.

    `own` is what stays this machine's when an image comes that knows nothing of the installed system.
    """

    carry: tuple[str, ...] = CARRY
    drop: tuple[str, ...] = DROP
    both_ways: tuple[str, ...] = BOTH_WAYS
    own: tuple[str, ...] = OWN
    reject: bool = False

    def fate(self, path: bytes) -> Fate:
        """What becomes of a change at `path` (relative to the root)."""
        if self._dropped.fullmatch(path):
            return Fate.DROPPED
        if self._both_ways.fullmatch(path):
            return Fate.BOTH_WAYS
        return Fate.CARRIED if self._carried.fullmatch(path) or self._own.fullmatch(path) else Fate.DROPPED

    def is_own(self, path: bytes) -> bool:
        """Whether what is at `path` makes this machine what it is, whoever has put it there."""
        fate = self.fate(path)
        return fate is Fate.BOTH_WAYS or (fate is Fate.CARRIED and self._own.fullmatch(path) is not None)

    def follows(self, path: bytes) -> bool:
        """Whether a change at `path` goes with a deploy."""
        return self.fate(path) is not Fate.DROPPED

    def gives_up(self, path: bytes) -> bool:
        """Whether it is said of `path` that it stays behind."""
        return self._dropped.fullmatch(path) is not None

    @property
    def backwards(self) -> Policy:
        """The policy of a rollback: only what goes both ways."""
        return replace(self, carry=(), own=(), reject=False)

    @property
    def empty(self) -> bool:
        """Whether nothing follows."""
        return not self.carry and not self.both_ways and not self.own

    @cached_property
    def _dropped(self) -> re.Pattern[bytes]:
        return _expression(self.drop)

    @cached_property
    def _both_ways(self) -> re.Pattern[bytes]:
        return _expression(self.both_ways)

    @cached_property
    def _own(self) -> re.Pattern[bytes]:
        return _expression(self.own)

    @cached_property
    def _carried(self) -> re.Pattern[bytes]:
        return _expression(self.carry)


DEFAULT = Policy()


def _expression(patterns: Iterable[str]) -> re.Pattern[bytes]:
    """What matches the paths that the patterns name, and all below them; without patterns, nothing."""
    said = [re.escape(os.fsencode(pattern.lstrip("/"))) for pattern in patterns]
    said = [one.replace(rb"\*", b"[^/]*").replace(rb"\?", b"[^/]") for one in said]
    return re.compile(b"(?:" + b"|".join(said) + b")(?:/.*)?" if said else b"(?!)", re.DOTALL)
