"""The end of a boot's log, out of real journals; and what the history and `status` make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tbupdate import history, journal, status
from tbupdate.history import Event
from tests.journals import started, write_journal

LEFT = "2.0-abcdef"


def test_the_last_boot_of_the_deployment_is_found_in_its_own_root(tmp_path: Path) -> None:
    boots = {
        "1": [started(LEFT), "an earlier try"],
        "2": [started(LEFT), *(f"line {n}" for n in range(50)), "it ends here"],
        # The image brought what its builder had logged; and one id may begin like another.
        "3": [started("9.9-fedcba"), "not this one"],
        "4": [started(LEFT + "0"), "nor this one"],
    }
    write_journal(tmp_path, boots)
    tail = journal.of_deployment(LEFT, str(tmp_path))
    assert tail.boot == "2" * 32
    assert tail.logged == "2023-11-14T22:30:51Z"
    assert len(tail.lines) == journal.LINES
    assert tail.lines[-1].endswith("it ends here")
    assert not any("an earlier try" in line for line in tail.lines)


def test_a_boot_that_never_wrote_anything_has_no_log(tmp_path: Path) -> None:
    write_journal(tmp_path, {"1": [started("1.0-000001"), "of the builder"]})
    assert journal.of_deployment(LEFT, str(tmp_path)) == journal.NO_LOG
    assert journal.of_deployment(LEFT, str(tmp_path / "gone")) == journal.NO_LOG
    assert journal.of_deployment(LEFT, None) == journal.NO_LOG


def test_no_link_leads_out_of_the_root(tmp_path: Path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "root"
    write_journal(outside, {"1": [started(LEFT), "secret"]})
    (root / "var/log").mkdir(parents=True)
    (root / "var/log/journal").symlink_to(outside / "var/log/journal")
    (root / "var/log/syslog").symlink_to(outside / "syslog")
    (outside / "syslog").write_text("secret\n")
    assert journal.of_deployment(LEFT, str(root)) == journal.NO_LOG


def test_without_a_journal_the_log_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "var/log").mkdir(parents=True)
    (tmp_path / "var/log/messages").write_text("".join(f"line {n}\n" for n in range(9999)) + "end\x1b[31m\n")
    lines = journal.of_deployment(LEFT, str(tmp_path)).lines
    assert len(lines) == journal.LINES
    assert lines[-1] == "end[31m"


def test_a_damaged_journal_is_none(tmp_path: Path) -> None:
    write_journal(tmp_path, {"1": [started(LEFT), "x"]})
    (file,) = (tmp_path / "var/log/journal").rglob("*.journal")
    file.write_bytes(file.read_bytes()[:300] + b"x" * 4000)
    assert journal.of_deployment(LEFT, str(tmp_path)) == journal.NO_LOG


# --- what is made of it ---------------------------------------------------------------------------------------------

TAIL = journal.Tail(tuple(f"line {n}" for n in range(9)), "2" * 32, "2023-11-14T22:30:51Z")


def fallback(tail: journal.Tail, kind: str = "fallback") -> dict[str, object]:
    more: dict[str, object] = {"from": LEFT, "reason": "it hung"}
    return Event("2023-11-15T00:00:00Z", kind, "1.0-000001", more=more | tail.to_fields()).to_fields()


@pytest.mark.parametrize("kind", ["fallback", "rollback"])
def test_what_failed_last_is_said_until_something_is_committed(kind: str) -> None:
    commit = Event("2023-11-16T00:00:00Z", "commit", "3.0-000003").to_fields()
    events = [commit, fallback(TAIL, kind), Event("x", "prune", None).to_fields()]
    failed = history.last_failure(events, {LEFT})
    assert failed is not None
    lines = status.failure_lines(failed)
    assert lines[0] == f"failed:       {LEFT}: it hung"
    assert lines[1].strip() == f"on the boot {'2' * 32}, which logged last at 2023-11-14T22:30:51Z"
    assert [line.strip() for line in lines[2:7]] == [f"| line {n}" for n in range(4, 9)]
    assert history.last_failure([*events, commit], {LEFT}) is None
    # What a person left in good order did not fail.
    assert history.last_failure(events, set()) is None


def test_a_failure_without_a_log_says_so() -> None:
    failed = history.last_failure([fallback(journal.NO_LOG)], {LEFT})
    assert failed is not None
    assert "left a log" in status.failure_lines(failed)[1]
