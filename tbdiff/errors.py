"""The ways in which a command can end other than well: each with a sentence, a remedy and an exit code."""

from __future__ import annotations

MADE_WRONGLY = "It is damaged, or was made wrongly: fetch it again, and if that does not help, have it made anew."
OUR_FAULT = "That is a fault of tb-update itself: please report it."


class Stop(Exception):
    """Why a command ended; `str()` is one sentence that says what is wrong and what stayed untouched.

    `remedy` says what to do next; empty where there is nothing to add.
    """

    exit_code = 1

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class Failed(Stop):
    """The command could not do it (exit code 1)."""

    exit_code = 1


class Rejected(Stop):
    """The command refused to do it, and nothing was changed (exit code 3)."""

    exit_code = 3


class Malformed(Rejected):
    """What came from outside is not what it has to be: an image, a tarball, an index that is damaged or made wrongly.

    Such a thing is refused where it is decoded, which knows neither what it is part of nor what would become of it; so
    what stayed as it was, and what to do, is the same for all of them.
    """

    def __init__(self, message: str, remedy: str = MADE_WRONGLY) -> None:
        super().__init__(message if ";" in message else f"{message}; nothing was changed", remedy)


class NothingToDo(Stop):
    """There was nothing to do (exit code 4)."""

    exit_code = 4


class Busy(Stop):
    """Another run holds the lock (exit code 75)."""

    exit_code = 75
