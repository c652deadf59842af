"""What a device says of itself to its server: a fixed set of facts, and those of programs in `inventory.d`."""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Iterable, Mapping, Sequence

from tbdiff import __version__
from tbdiff.signature import PublicKey
from tbupdate import dropins
from tbupdate.config import Config
from tbupdate.protocol import ATTRIBUTES_MAX, KEY_MAX, VALUE_MAX
from tbupdate.system import System
from tbupdate.trusted import Trusted

KIND = "inventory.d"
LIMIT, OUTPUT_MAX = 10.0, 1 << 14
_KEY = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{KEY_MAX - 1}}}")
# Free space changes all the time: told in steps of so many bytes, it need not be told anew with each change.
_STEP = 256 << 20


def facts(system: System, rules: Config, trusted: Trusted, health: str = "") -> dict[str, str]:
    """The fixed set; `health` is what the checks of this boot said, in a word."""
    ring = trusted.ring
    runs = system.booted if system.booted_id is not None else system.default
    known = runs.record if runs is not None else None
    said = {
        "deployment": runs.id if runs is not None else "",
        "name": known.name if known else "",
        "release": (known.release or "") if known else "",
        "tree": (known.tree or "") if known else "",
        "health": health,
        "device_type": rules.device_type or "",
        "kernel": platform.release() if system.booted_id is not None else "",
        "arch": platform.machine(),
        "tb-update": __version__,
        "chooser": system.boot.name if system.boot is not None else "none",
        "epoch": str(system.epoch),
        "free_mib": str(system.space.data // _STEP * _STEP >> 20),
        "keys": _ids(ring.release),
        # Also those that were revoked since: that there was one is told until the device is reset.
        "own_keys": _ids(trusted.own_keys),
        "delivery_keys": _ids(ring.delivery),
        "trust": str(trusted.version),
    }
    return {key: value for key, value in said.items() if value}


def _ids(keys: Iterable[PublicKey]) -> str:
    return " ".join(sorted(key.key_id.hex() for key in keys))


def gather(fixed: Mapping[str, str], places: Iterable[str] = dropins.PLACES) -> tuple[dict[str, str], list[str]]:
    """The fixed set, and what programs say: lines `key=value`; and which of them did not say anything that counts."""
    said, faults = dict(fixed), []
    for name, path in dropins.find(KIND, places):
        ended = dropins.run(path, LIMIT, OUTPUT_MAX)
        if ended.why:
            faults.append(f"{KIND}/{name}: {ended.why}")
            continue
        for line in ended.said.decode("utf-8", "replace").splitlines():
            key, equals, value = line.partition("=")
            # Nobody says of the device what is known of it.
            if equals and _KEY.fullmatch(key) and key not in fixed and len(said) < ATTRIBUTES_MAX:
                said[key] = value
    return {key: _line(value) for key, value in said.items()}, faults


def digest(said: Mapping[str, str] | Sequence[str]) -> str:
    """What tells whether it was told before."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def _line(value: str) -> str:
    return "".join(c for c in value if c.isprintable())[:VALUE_MAX]
