"""tb-update is killed at its system calls: what boots is a whole system every time, and the next command repairs.

Each kill is judged twice: by the file system as it is, and by a copy of its device from the moment of the kill, which
is what a power cut would have left.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import faults
from tests.btrfs.devices import SCENARIOS, Scenario
from tests.rig import Rig, mounted

KILLED = -9
# How many calls of each command are tried when not all are (TB_FAULTS=all).
LIMIT = 12

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_killed_at_a_system_call(name: str, rig: Rig) -> None:
    case = SCENARIOS[name]
    golden, arguments = case.golden(rig), case.arguments(rig)
    with rig.copy(golden) as (top, _):
        ended, calls = faults.record(rig.command(top, *arguments), top)
        assert ended.code == 0, ended.err
        assert rig.boots(top, (case.after,), converting=case.converting) == case.after
        rig.check_layout(top, converting=case.converting)
    wrong, missed, chosen = [], [], list(faults.some(calls, LIMIT))
    for call in chosen:
        try:
            if not kill_once(rig, case, golden, arguments, call):
                missed.append(str(call))
        except AssertionError as error:
            wrong.append(f"killed at {call}: {error}")
    assert not wrong, "\n".join(wrong)
    # Ids are random, so a run can have a call less than the recorded one; not more than that.
    assert len(missed) <= len(chosen) // 10, missed


def kill_once(rig: Rig, case: Scenario, golden: Path, arguments: list[str | Path], call: faults.Call) -> bool:
    with rig.copy(golden) as (top, image):
        ended = faults.kill_at(call, rig.command(top, *arguments))
        assert ended.code in (KILLED, 0), ended
        cut = rig.copied(image)
        check_after(rig, case, top, arguments)
    with mounted(cut) as top:
        try:
            check_after(rig, case, top, arguments)
        except AssertionError as error:
            raise AssertionError(f"(power cut) {error}") from error
    cut.unlink()
    return ended.code == KILLED


def check_after(rig: Rig, case: Scenario, top: Path, arguments: list[str | Path]) -> None:
    """What boots is whole; status works; the same command again ends well, and then all is as if never cut."""
    both = (case.before, case.after)
    boots = rig.boots(top, both, converting=case.converting)
    shown = rig.run(top, "status", "--json")
    assert shown.code == 0 or case.converting, shown
    assert rig.boots(top, both, converting=case.converting) == boots, "status changed what boots"
    again = rig.run(top, *arguments)
    assert again.code in case.again, again
    assert "Traceback" not in again.err
    settle(rig, case, top, again.code)
    rig.check_layout(top, converting=case.converting)


def settle(rig: Rig, case: Scenario, top: Path, code: int) -> None:
    """After the repeated command the new version boots: now, or since the run that was killed."""
    assert rig.boots(top, (case.before, case.after), converting=case.converting) == case.after, code
