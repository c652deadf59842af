"""What stands around an unattended run: mains power, who uses the device, who holds a reboot back. Only looks."""

from __future__ import annotations

import os
import re
from pathlib import Path

from tbdiff.entry import printable
from tbupdate import programs

SUPPLIES = Path("/sys/class/power_supply")
INHIBIT = Path("/run/tb-update/inhibit")
# So many of those who hold a reboot back are named.
NAMED = 5
# The load of five minutes, for each processor, from which on a device has something to do.
BUSY = 0.5
_LOGIND = ("org.freedesktop.login1", "/org/freedesktop/login1", "org.freedesktop.login1.Manager")
_ASKED = ("busctl", "get-property", *_LOGIND)


def on_mains(supplies: Path = SUPPLIES) -> bool:
    """Whether power comes from the grid; so it does where there is no battery."""
    kinds = {place: _said(place / "type") for place in _held(supplies)}
    # The batteries of mice and keyboards are no batteries of the device.
    battery = any(kind == "Battery" and _said(place / "scope") != "Device" for place, kind in kinds.items())
    return not battery or any(kind != "Battery" and _said(place / "online") == "1" for place, kind in kinds.items())


def in_use() -> bool:
    """Whether somebody works with the device, as systemd's logind knows it, or it is at work by itself."""
    said = programs.run((*_ASKED, "IdleHint"), 30).out
    return said.split() == ["b", "false"] or os.getloadavg()[1] > BUSY * (os.cpu_count() or 1)


def inhibitors(directory: Path = INHIBIT) -> list[str]:
    """Who holds a reboot back: files in a directory for it, and systemd's block inhibitors."""
    held = _held(directory)
    found = [printable(os.fsencode(path.name)) for path in held[:NAMED]]
    if len(held) > NAMED:
        found.append(f"{len(held) - NAMED} more")
    said = programs.run((*_ASKED, "BlockInhibited"), 30).out
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
