"""The distribution's own way to bring its packages up to date, by what the system has."""

from __future__ import annotations

from tbdiff.errors import Rejected
from tbupdate.boot.kernel import is_program, opened

# Nobody is there to be asked: a configuration file that was changed here stays, and the new one lies beside it.
_APT = (
    "apt-get update && DEBIAN_FRONTEND=noninteractive exec apt-get -y "
    "-o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold dist-upgrade"
)
UPGRADES = (
    ("usr/bin/apt-get", ("sh", "-c", _APT)),
    ("usr/bin/dnf", ("dnf", "-y", "upgrade", "--refresh")),
    ("usr/bin/zypper", ("zypper", "--non-interactive", "dist-upgrade")),
)


def upgrade_command(tree: str) -> tuple[str, ...]:
    """The command that upgrades all packages of the system in `tree`."""
    with opened(tree) as root:
        for program, command in UPGRADES:
            if is_program(root, program):
                return command
    raise Rejected(
        "the system has none of the package managers that are known (apt-get, dnf, zypper); nothing was changed",
        "Run its own command: tb-update run -- COMMAND",
    )
