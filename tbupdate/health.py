"""Health: programs that say whether a system works, each with a time limit; what they said is kept for `status`."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass

import pydantic

from tbupdate import dropins

REQUIRED, WANTED = "required.d", "wanted.d"
SUMMARY = "/run/tb-update/health.json"
# It is there while something is on trial: the units need not start a program to learn that nothing is.
TRIAL = "/run/tb-update/trial"
_TAIL = 400
_SUMMARY_MAX = 1 << 20


@dataclass(frozen=True)
class Check:
    """A program: exit code 0 says that all is well."""

    name: str
    path: str
    required: bool


@dataclass(frozen=True)
class Result:
    """How a check ended; `said` is the end of what it printed."""

    name: str
    required: bool
    passed: bool
    attempts: int
    said: str = ""

    @property
    def line(self) -> str:
        """The result in a line."""
        kind = "required" if self.required else "wanted"
        how = "passed" if self.passed else "FAILED"
        said = f": {self.said.splitlines()[-1]}" if self.said and not self.passed else ""
        return f"{how:6} {kind:8} {self.name}{said}"


def find_checks(places: Iterable[str] = dropins.PLACES) -> list[Check]:
    """All checks, the required ones first. A name in an earlier place shadows later ones; /dev/null masks it."""
    found = []
    for kind in (REQUIRED, WANTED):
        found += [Check(name, path, kind == REQUIRED) for name, path in dropins.find(kind, places)]
    return found


def run_checks(
    checks: Iterable[Check], limit: float, attempts: int, pause: float, wait: Callable[[float], None] = time.sleep
) -> list[Result]:
    """Run all checks, one after the other; one that fails is run again after a pause, `attempts` times in all."""
    results = []
    for check in checks:
        for attempt in range(1, attempts + 1):
            passed, said = _run(check, limit)
            if passed or attempt == attempts:
                results.append(Result(check.name, check.required, passed, attempt, said))
                break
            wait(pause)
    return results


def why_unhealthy(results: Iterable[Result]) -> str | None:
    """The required checks that failed, in a sentence; None if there are none."""
    failed = [one for one in results if one.required and not one.passed]
    if not failed:
        return None
    names = ", ".join(one.name for one in failed)
    said = failed[0].said.splitlines()[-1:] or ["it said nothing"]
    return f"the required check {names} failed: {said[0]}"


def verdict(results: Collection[Result]) -> str:
    """All of them in a word: `good`, `degraded` (only wanted ones failed), `failed`; empty if there are none."""
    failed = {one.required for one in results if not one.passed}
    if failed:
        return "failed" if True in failed else "degraded"
    return "good" if results else ""


class Summary(pydantic.BaseModel):
    """What the checks of this boot said."""

    results: tuple[Result, ...] = ()


def keep(results: Iterable[Result], path: str = SUMMARY) -> None:
    """Keep the results until the next boot."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    with open(path + ".partial", "w") as file:
        file.write(Summary(results=tuple(results)).model_dump_json(indent=1))
    os.rename(path + ".partial", path)


def tell_units(*, on_trial: bool, path: str = TRIAL) -> None:
    """Let the units of the system know whether there is something to decide after this boot."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    if on_trial:
        with open(path, "w"):
            pass
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def kept(path: str = SUMMARY) -> list[Result]:
    """The results of this boot, as far as there are any."""
    try:
        with open(path, "rb") as file:
            return list(Summary.model_validate_json(file.read(_SUMMARY_MAX)).results)
    except (OSError, pydantic.ValidationError):
        return []


def fields(results: Iterable[Result]) -> list[dict[str, object]]:
    """The results, for programs."""
    return [asdict(one) for one in results]


def _run(check: Check, limit: float) -> tuple[bool, str]:
    ended = dropins.run(check.path, limit, _TAIL)
    # Of one that said itself what is wrong, the exit code tells nothing more.
    more = ended.why if not ended.said.strip() or not ended.why.startswith("exit code") else ""
    text = f"{ended.said.decode('utf-8', 'replace')}\n{more}".strip()
    return not ended.why, "".join(c for c in text if c.isprintable() or c == "\n")
