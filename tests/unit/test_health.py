"""The checks: which count, how they are run, what is kept of what they say."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tbdiff.errors import Busy
from tbupdate import dropins, health, lock
from tbupdate.health import Check, Result


def program(path: Path, script: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def run(path: Path, attempts: int = 1, limit: float = 30) -> Result:
    pauses: list[float] = []
    (result,) = health.run_checks([Check(path.name, str(path), True)], limit, attempts, 5, pauses.append)
    assert pauses == [5.0] * (result.attempts - 1)
    return result


def test_an_earlier_place_shadows_a_later_one_and_dev_null_masks(tmp_path: Path) -> None:
    etc, usr = tmp_path / "etc", tmp_path / "usr"
    for name in ("10-a", "20-b", "30-c"):
        program(usr / "required.d" / name)
    program(etc / "required.d/10-a")
    (etc / "required.d/20-b").symlink_to("/dev/null")
    program(usr / "wanted.d/05-w")
    program(usr / "wanted.d/.hidden")
    (usr / "wanted.d/README").write_text("no program")
    found = health.find_checks([str(etc), str(usr), str(tmp_path / "nowhere")])
    assert found == [
        Check("10-a", f"{etc}/required.d/10-a", True),
        Check("30-c", f"{usr}/required.d/30-c", True),
        Check("05-w", f"{usr}/wanted.d/05-w", False),
    ]


def test_what_a_check_says_and_how_it_ends(tmp_path: Path) -> None:
    assert run(program(tmp_path / "a")) == Result("a", True, True, 1)
    assert run(program(tmp_path / "b", "echo no; echo network >&2; exit 3")) == Result(
        "b", True, False, 1, "no\nnetwork"
    )
    assert run(program(tmp_path / "c", "exit 3")).said == "exit code 3"
    assert run(program(tmp_path / "d", "printf '\\033[31mred\\007'")).said == "[31mred"
    assert len(run(program(tmp_path / "e", "yes | head -c 100000")).said) <= 400
    (tmp_path / "f").write_text("not a program")
    (tmp_path / "f").chmod(0o755)
    assert "cannot be started" in run(tmp_path / "f").said


def test_a_check_is_tried_again(tmp_path: Path) -> None:
    count = tmp_path / "count"
    flaky = program(tmp_path / "flaky", f"echo x >>{count}; test $(wc -l <{count}) = 3")
    assert run(flaky, attempts=5) == Result("flaky", True, True, 3)
    assert run(program(tmp_path / "never", "exit 1"), attempts=2).attempts == 2


def test_a_check_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    mark = f"99{os.getpid()}"
    result = run(program(tmp_path / "hangs", f"echo begun; sleep {mark} & sleep {mark}"), limit=0.5)
    assert not result.passed
    assert result.said == "begun\n\nit did not end within 0.5 seconds"
    assert subprocess.run(["pgrep", "-f", f"sleep {mark}"], capture_output=True).returncode == 1


def test_a_daemon_that_a_check_has_started_holds_nothing_up(tmp_path: Path) -> None:
    check = program(tmp_path / "required.d/check", "sleep 100 & echo $!; exit 0")
    result = run(check, limit=1000)
    os.kill(int(result.said), signal.SIGKILL)
    assert result.passed
    assert run(program(tmp_path / "required.d/killed", "kill -9 $$")).said == "it was ended by signal 9"


def test_what_can_check_nothing_is_named(tmp_path: Path) -> None:
    directory = tmp_path / "required.d"
    program(directory / "10-good")
    program(directory / "20-forgotten").chmod(0o644)
    (directory / "30-gone").symlink_to("/nowhere")
    (directory / "40-masked").symlink_to("/dev/null")
    assert dropins.passed_over("required.d", [str(tmp_path)]) == [
        str(directory / "20-forgotten"),
        str(directory / "30-gone"),
    ]


def test_only_required_checks_make_it_unhealthy() -> None:
    wanted, fine = Result("w", False, False, 3, "no mesh"), Result("a", True, True, 1)
    assert health.why_unhealthy([wanted, fine]) is None
    bad = [Result("b", True, False, 3, "one\ntwo"), Result("c", True, False, 1)]
    assert health.why_unhealthy([fine, *bad]) == "the required check b, c failed: two"


def test_results_are_kept_for_this_boot(tmp_path: Path) -> None:
    path = str(tmp_path / "run/health.json")
    assert health.kept(path) == []
    results = [Result("b", True, False, 3, "one\ntwo"), Result("c", False, True, 1)]
    health.keep(results, path)
    assert health.kept(path) == results
    Path(path).write_text("{")
    assert health.kept(path) == []


@pytest.mark.parametrize("passed", [True, False])
def test_a_result_in_a_line(passed: bool) -> None:
    line = Result("b", True, passed, 1, "one\ntwo").line
    assert line == ("passed required b" if passed else "FAILED required b: two")


def test_the_units_learn_whether_there_is_something_to_decide(tmp_path: Path) -> None:
    path = tmp_path / "run/trial"
    for on_trial in (False, True, True, False):
        health.tell_units(on_trial=on_trial, path=str(path))
        assert path.exists() == on_trial


def test_who_waits_for_the_lock_gets_it_when_the_other_run_has_ended(tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    other = subprocess.Popen(
        ["flock", tmp_path / "snapshots", "sh", "-c", "echo; read line"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdin and other.stdout
    other.stdout.readline()
    with pytest.raises(Busy), lock.hold(str(tmp_path)):
        pass
    # Longer than anybody who does not wait tries again.
    threading.Timer(1, other.stdin.close).start()
    try:
        with lock.hold(str(tmp_path), wait=True):
            pass
    finally:
        other.wait()
        other.stdout.close()
