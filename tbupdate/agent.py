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
from tbupdate.signals import interrupt_on_end

log = logging.getLogger(__name__)

# Ten thousand devices that came up together must not ask together.
FIRST = 60.0
SPREAD = 0.25
PATIENCE = 3


def pause(every: float, failures: int, dice: float) -> float:
    """Seconds until the next time: `every` or, after failures, up to eight times that; `dice` (0 to 1) spreads it."""
    return every * 2.0 ** min(failures, PATIENCE) * (1 - SPREAD + 2 * SPREAD * dice)


def look_after(command: Sequence[str], every: float, sleep: Callable[[float], None] = time.sleep) -> None:
    """Run `command` about every `every` seconds, for ever; what it prints is its own."""
    failures = 0
    sleep(min(FIRST, every) * random.random())  # noqa: S311 - it need not be a secret
    while True:
        ended = _run(command)
        failures = 0 if ended in (0, NothingToDo.exit_code) else failures + 1
        wait = pause(every, failures, random.random())  # noqa: S311
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
