"""The daemon: it lets this program look after the device again and again, and holds nothing in memory in between.

It is a process of its own, which knows nothing of what the program that it starts needs.
"""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from tbdiff.errors import NothingToDo
from tbdiff.signals import interrupt_on_end

log = logging.getLogger(__name__)

# Ten thousand devices that came up together must not ask together.
FIRST = 60.0
SPREAD = 0.25
PATIENCE = 3
# When a server is to be asked next: in seconds of the clock that counts since the boot. No server waits longer.
AGAIN = "/run/tb-update/again"
AGAIN_MOST = 30 * 3600


def pause(every: float, failures: int, dice: float) -> float:
    """Seconds until the next time: `every` or, after failures, up to eight times that; `dice` (0 to 1) spreads it."""
    return every * 2.0 ** min(failures, PATIENCE) * (1 - SPREAD + 2 * SPREAD * dice)


def again(place: str = AGAIN) -> float:
    """Seconds until the device's server wants to be asked, as the last run wrote down; 0 if it did not."""
    try:
        with open(place, encoding="ascii") as file:
            left = float(file.read(40)) - time.clock_gettime(time.CLOCK_BOOTTIME)
    except (OSError, ValueError):
        return 0
    return left if 0 < left <= AGAIN_MOST else 0


def look_after(
    command: Sequence[str],
    every: float,
    sleep: Callable[[float], None] = time.sleep,
    again: Callable[[], float] = again,
) -> None:
    """Run `command` about every `every` seconds, or when its server says, for ever; what it prints is its own."""
    failures = 0
    sleep(min(FIRST, every) * random.random())  # noqa: S311 - it need not be a secret
    while True:
        ended = _run(command)
        failures = 0 if ended in (0, NothingToDo.exit_code) else failures + 1
        # A server that does not answer was reckoned with when that was written down.
        wait = again() or pause(every, failures, random.random())  # noqa: S311
        log.info("the next time in %d seconds", wait)
        sleep(wait)


def _run(command: Sequence[str]) -> int:
    with subprocess.Popen(command) as running:
        try:
            return running.wait()
        except KeyboardInterrupt:
            # It clears what it has begun; we end when it has.
            running.terminate()
            running.wait()
            raise


def main() -> None:
    """Look after a device: whether it says what it waits for (-v, or nothing), seconds, and the command."""
    verbose, every, *command = sys.argv[1:]
    interrupt_on_end()
    if verbose == "-v":
        logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="tb-update: %(message)s")
    try:
        look_after(command, float(every))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
