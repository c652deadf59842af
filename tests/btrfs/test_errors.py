"""System calls fail under tb-update: it says so, what boots is whole, and what is not done has left no trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests import faults
from tests.btrfs.devices import SCENARIOS, Scenario
from tests.btrfs.test_kill import check_after
from tests.rig import Rig

# How many calls of each command are failed when not all are (TB_FAULTS=all).
LIMIT = 10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("name", SCENARIOS)
def test_failed_at_a_system_call(name: str, error: str, rig: Rig) -> None:
    case = SCENARIOS[name]
    golden, arguments = case.golden(rig), case.arguments(rig)
    with rig.copy(golden) as (top, _):
        calls = faults.record(rig.command(top, *arguments), top)[1]
    wrong = []
    for call in faults.some(calls, LIMIT):
        try:
            fail_once(rig, case, golden, arguments, call, error)
        except AssertionError as problem:
            wrong.append(f"{error} at {call}: {problem}")
    assert not wrong, "\n".join(wrong)


def fail_once(
    rig: Rig, case: Scenario, golden: Path, arguments: list[str | Path], call: faults.Call, error: str
) -> None:
    with rig.copy(golden) as (top, _):
        before = names(top)
        ended = faults.fail_at(call, rig.command(top, *arguments), error)
        assert "Traceback" not in ended.err, ended.err[-1500:]
        assert ended.code in (0, 1), ended
        boots = rig.boots(top, (case.before, case.after), converting=case.converting)
        if ended.code == 0:
            assert boots == case.after, f"it said that all was well: {ended}"
        else:
            assert ended.err.strip(), "it failed without a word"
            if case.before != case.after and boots == case.after:
                # What comes after the switch failed: to undo it would take more than to tell.
                assert "boots next all the same" in ended.err, f"it said that it failed, but it switched: {ended}"
            elif case.before != case.after:
                assert names(top) == before, f"it failed and left a trace: {ended.err}"
        check_after(rig, case, top, arguments)


def names(top: Path) -> set[str]:
    """All names of ours."""
    return {
        f"{folder}/{name}"
        for folder in ("snapshots", "tb-update")
        if (top / folder).is_dir()
        for name in os.listdir(top / folder)
    } - {"tb-update/history.jsonl"}
