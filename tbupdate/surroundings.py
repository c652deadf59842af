"""What stands around an unattended run: whether there is mains power, and what holds a reboot back. Only looks."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tbdiff.entry import printable

SUPPLIES = Path("/sys/class/power_supply")
INHIBIT = Path("/run/tb-update/inhibit")
_ASKED = (
    "busctl",
    "get-property",
    "org.freedesktop.login1",
    "/org/freedesktop/login1",
    "org.freedesktop.login1.Manager",
)


def on_mains(supplies: Path = SUPPLIES) -> bool:
    """Whether power comes from the grid; so it does where there is no battery."""
    kinds = [(_said(place / "type"), _said(place / "online")) for place in _held(supplies)]
    # The batteries of mice and keyboards are no batteries of the device.
    batteries = [place for place in _held(supplies) if _said(place / "type") == "Battery" and _of_device(place)]
    return not batteries or any(kind != "Battery" and online == "1" for kind, online in kinds)


def inhibitors(directory: Path = INHIBIT) -> list[str]:
    """Who holds a reboot back: files in a directory for it, and systemd's block inhibitors."""
    found = [printable(os.fsencode(path.name)) for path in _held(directory)]
    try:
        said = subprocess.run(
            [*_ASKED, "BlockInhibited"], capture_output=True, text=True, timeout=30, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return found
    if "shutdown" in re.split(r"[\s\":]+", said):
        found.append("systemd-inhibit")
    return found


def _held(directory: Path) -> list[Path]:
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []


def _said(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""


def _of_device(place: Path) -> bool:
    return _said(place / "scope") != "Device"
