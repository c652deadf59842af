"""The last words of a kernel that panicked, as firmware, reserved memory and systemd-pstore leave them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tbupdate import journal, pstore

T = 1_700_000_000
WORDS = ("line 1", "line 2", "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100", "Call Trace:")


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(pstore, "PLACES", (str(tmp_path / "sys"), str(tmp_path / "var")))
    (tmp_path / "sys").mkdir()
    return tmp_path


def panic(place: Path, words: tuple[str, ...] = WORDS, when: int = T, count: int = 1, name: str = "efi_pstore") -> None:
    """A part for each line, as the kernel writes them: the last first."""
    place.mkdir(parents=True, exist_ok=True)
    for part, word in enumerate(reversed(words), 1):
        text = f"Panic#{count} Part{part}\n<{part}>[    {part}.0] {word}\n"
        (place / f"dmesg-{name}-{(when * 100 + part) * 1000 + count}").write_text(text)


def lines(since: float = T - 10) -> list[str]:
    return [line.partition("] ")[2] for line in pstore.last_words(since).splitlines()]


@pytest.mark.parametrize("where", ["sys", f"var/{T}/001", "var"])
def test_it_is_put_together_wherever_it_is(kept: Path, where: str) -> None:
    panic(kept / where)
    assert lines() == list(WORDS)


def test_the_last_one_counts_and_none_that_is_too_old(kept: Path) -> None:
    panic(kept / "var", ("Kernel panic - not syncing: an earlier try",), T + 20)
    panic(kept / "sys", when=T + 90)
    assert lines() == list(WORDS)
    assert lines(T + 91) == []


@pytest.mark.parametrize("seconds", [1, 3, 14])
def test_a_kernel_may_take_seconds_to_keep_them(kept: Path, seconds: int) -> None:
    """Each part has the time at which it was written."""
    panic(kept / "var", tuple(f"an earlier try {n}" for n in range(4)), T - 100)
    place = kept / "sys"
    place.mkdir(exist_ok=True)
    for part, word in enumerate(reversed(WORDS), 1):
        text = f"Panic#1 Part{part}\n<{part}>[    {part}.0] {word}\n"
        (place / f"dmesg-efi_pstore-{((T + part * seconds) * 100 + part) * 1000 + 1}").write_text(text)
    assert lines(T - 1000) == list(WORDS)
    assert lines(T) == list(WORDS)


def test_parts_whose_end_is_lost_are_nothing(kept: Path) -> None:
    panic(kept / "sys")
    next((kept / "sys").glob("*01001")).unlink()
    assert lines() == []


def test_reserved_memory_keeps_one_part(kept: Path) -> None:
    path = kept / "sys/dmesg-ramoops-0"
    path.write_text("Panic#1 Part1\n<6>[ 1.0] line 1\n<0>[ 2.0] Kernel panic - not syncing: no root")
    os.utime(path, (T, T))
    assert lines() == ["line 1", "Kernel panic - not syncing: no root"]
    assert lines(T + 1) == []


def test_what_is_no_panic_is_passed_over(kept: Path) -> None:
    (kept / "sys/dmesg-ramoops-0").write_text("Oops#1 Part1\n<6>[ 1.0] line 1\n")
    (kept / "sys/dmesg-ramoops-1.enc.z").write_bytes(b"\x78\x9c")
    (kept / "sys/console-ramoops-0").write_text("Panic#1 Part1\nx\n")
    (kept / "sys/dmesg-ramoops-2").symlink_to("/etc/passwd")
    os.mkfifo(kept / "sys/dmesg-ramoops-3")
    assert pstore.last_words(0) == ""


def test_it_takes_the_place_of_the_log_that_ended_before(kept: Path) -> None:
    panic(kept / "sys", tuple(f"line {n}\x1b[31m" for n in range(90)) + WORDS)
    before = journal.Tail(("it went well",), "2" * 32, "2023-11-14T22:30:51Z")
    tail = journal.of_panic(pstore.last_words(T), before)
    assert (tail.boot, tail.logged) == (before.boot, before.logged)
    assert len(tail.lines) == journal.LINES
    assert tail.lines[-1].endswith("Call Trace:")
    assert not any("\x1b" in line for line in tail.lines)
    assert tail.panic == "Attempted to kill init! exitcode=0x00000100"
    assert journal.of_panic(pstore.last_words(T + 1), before) == before
    assert before.panic == ""


def test_a_long_trace_does_not_hide_what_it_is_of(kept: Path) -> None:
    panic(kept / "sys", (*(f"line {n}" for n in range(20)), WORDS[2], *(f" call_{n}+0x1" for n in range(60))))
    tail = journal.of_panic(pstore.last_words(T), journal.NO_LOG)
    assert len(tail.lines) == journal.LINES
    assert tail.panic == "Attempted to kill init! exitcode=0x00000100"
    assert [line.partition("] ")[2] for line in tail.lines[9:12]] == ["line 19", WORDS[2], " call_0+0x1"]
