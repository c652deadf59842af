"""`python -m benchmarks.scale`: how many a second a very large fleet asks: every night, all day, and after an outage.

The devices are simulated by what decides it on a device (`tbupdate.standing`, and the delay of the shipped timer); one
in `SAMPLE` is, and counted as so many.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

from tbupdate.standing import Standing

FLEET, SAMPLE = 10_000_000, 100
HOUR, DAY = 3600.0, 86400.0
# Of boot-hooks/systemd/tb-update-upgrade.timer.
DELAY = 3 * HOUR


def main() -> None:
    """Print what comes of it."""
    chance = random.Random(1)
    devices = FLEET // SAMPLE
    _tell("a folder, asked every night", (chance.uniform(0, DELAY) for _ in range(devices)), DELAY)
    for minutes in (5, 60, 1440):
        length = max(HOUR, minutes * 60.0)
        _tell(f"a server, asked every {minutes} minutes", _asking(chance, devices, minutes * 60.0, length), length)
    for minutes in (5, 60):
        asked = _asking(chance, devices, minutes * 60.0, 4 * HOUR, away=(HOUR, 2 * HOUR))
        _tell(f"the same at {minutes} minutes, away for an hour, from then on", _after(asked, 2 * HOUR), 2 * HOUR)


def _asking(
    chance: random.Random, devices: int, every: float, until: float, away: tuple[float, float] = (0.0, 0.0)
) -> Iterator[float]:
    """The moments at which devices ask: a server that is `away` does not answer."""
    for _ in range(devices):
        # Shifted, for a device takes 0 as no moment at all.
        now, standing = DAY + chance.uniform(0, every), Standing()
        while now < DAY + until:
            yield now - DAY
            if away[0] <= now - DAY < away[1]:
                standing = standing.unanswered(now, chance.random())
            else:
                standing = standing.answered(now, every, chance.random())
            now = standing.again


def _after(moments: Iterator[float], begin: float) -> Iterator[float]:
    return (moment - begin for moment in moments if moment >= begin)


def _tell(name: str, moments: Iterator[float], length: float) -> None:
    seconds: Counter[int] = Counter(int(moment) // 60 for moment in moments)
    mean = sum(seconds.values()) * SAMPLE / length
    most = max(seconds.values()) * SAMPLE / 60
    print(f"{name:60} {mean:8,.0f} a second, {most:8,.0f} in the busiest minute", flush=True)


if __name__ == "__main__":
    main()
