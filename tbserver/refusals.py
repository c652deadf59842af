"""The ways in which a request is refused: each with a sentence, a remedy, and a status of HTTP."""

from __future__ import annotations

from tbdiff.errors import Rejected


class Refusal(Rejected):
    """A request that was refused; nothing was changed."""

    status = 409


class NotKnown(Refusal):
    """Nobody knows who asks."""

    status = 401


class NotAllowed(Refusal):
    """Who asks may not do this."""

    status = 403


class MustChange(NotAllowed):
    """Who asks has to choose a password before anything else."""


class NotThere(Refusal):
    """There is no such thing, or none that who asks may know of."""

    status = 404

    def __init__(self, message: str, remedy: str = "Look at the list: it may have been removed meanwhile.") -> None:
        super().__init__(message, remedy)


class Over(Refusal):
    """It was there, and is no longer open."""

    status = 410


class TooLarge(Refusal):
    """More bytes than are taken."""

    status = 413


class NotValid(Refusal):
    """What was said is not understood, or contradicts itself."""

    status = 422


class TooOften(Refusal):
    """Too many tries; `wait` says for how many seconds."""

    status = 429

    def __init__(self, message: str, wait: int) -> None:
        super().__init__(message, f"Try again in {wait} seconds.")
        self.wait = wait
