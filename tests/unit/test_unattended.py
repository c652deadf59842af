"""What a device does by itself: every state and answer, and windows over midnight and the change of the clocks."""

from __future__ import annotations

import json
import os
import re
import time
import zoneinfo
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tbupdate import agent, consent, sources, surroundings
from tbupdate.config import Config, Window
from tbupdate.consent import Decision
from tbupdate.unattended import Act, State, next_action

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
# A Wednesday.
NOON = datetime(2026, 7, 1, 12, 0, tzinfo=BERLIN)
NEW = "0" * 64
NIGHT = Window(start="02:00", minutes=120)
DAY = Window(start="11:00", minutes=120)
FETCH_DAY = Window(start="11:00", minutes=120, allows=("fetch",))
FETCH_NIGHT = Window(start="02:00", minutes=120, allows=("fetch",))
OTHER = "1" * 64


def said(word: Any, until: float = 0) -> Decision:
    return Decision(tree="0" * 64, said=word, until=until)


@pytest.mark.parametrize(
    ("state", "answer", "act", "why"),
    [
        ({}, None, Act.NOTHING, ""),
        ({}, NEW, Act.DEPLOY, "by the next run"),
        ({"trial": "x"}, NEW, Act.WAIT, "x runs on trial"),
        ({"trial": "x"}, None, Act.WAIT, "x runs on trial"),
        ({"staged": "x"}, None, Act.NOTHING, ""),
        ({"staged": "x", "reboot": True}, None, Act.REBOOT, "the next run reboots"),
        ({"staged": "x", "reboot": True}, NEW, Act.DEPLOY, "by the next run"),
        ({"staged": "x", "reboot": True, "inhibitors": ["cook"]}, None, Act.WAIT, "held back: cook"),
        (
            {"staged": "x", "reboot": True, "windows": [NIGHT]},
            None,
            Act.WAIT,
            "reboot waits for .*07-02 at 02:00",
        ),
        ({"staged": "x", "reboot": True, "windows": [DAY]}, None, Act.REBOOT, "the next run reboots"),
        ({"policy": "ask"}, NEW, Act.WAIT, "tb-update approve"),
        ({"policy": "ask", "decision": said("approved")}, NEW, Act.DEPLOY, "by the next run"),
        ({"policy": "ask", "decision": said("approved"), "windows": [NIGHT]}, NEW, Act.WAIT, "deploy waits for"),
        ({"decision": said("declined")}, NEW, Act.NOTHING, "declined"),
        ({"decision": said("postponed", NOON.timestamp() + 3600)}, NEW, Act.WAIT, "until 2026-07-01 13:00"),
        ({"decision": said("postponed", NOON.timestamp() - 1)}, NEW, Act.DEPLOY, "by the next run"),
        # Such a time comes from a clock that stood in the future.
        ({"decision": said("postponed", datetime(2100, 1, 1).timestamp())}, NEW, Act.DEPLOY, "by the next run"),
        ({"policy": "ask", "decision": said("postponed", NOON.timestamp() - 1)}, NEW, Act.WAIT, "approval"),
        ({"mains_only": True}, NEW, Act.DEPLOY, "by the next run"),
        ({"mains_only": True, "on_mains": False}, NEW, Act.WAIT, "mains power"),
        ({"on_mains": False}, NEW, Act.DEPLOY, "by the next run"),
        ({"idle_only": True}, NEW, Act.DEPLOY, "by the next run"),
        ({"idle_only": True, "in_use": True, "decision": said("approved")}, NEW, Act.DEPLOY, "by the next run"),
        ({"in_use": True, "staged": "x", "reboot": True}, None, Act.REBOOT, "the next run reboots"),
        ({"windows": [NIGHT]}, NEW, Act.WAIT, "deploy waits for the maintenance window on .*07-02 at 02:00"),
        ({"windows": [NIGHT, DAY]}, NEW, Act.DEPLOY, "by the next run"),
        ({"windows": [Window(start="11:00", minutes=90, allows=("reboot",))]}, NEW, Act.WAIT, "no maintenance window"),
        ({"policy": "download"}, NEW, Act.FETCH, "fetched by the next run"),
        ({"policy": "download", "ready": NEW}, NEW, Act.WAIT, "is fetched and waits for approval: tb-update approve"),
        ({"policy": "download", "ready": OTHER}, NEW, Act.FETCH, "by the next run"),
        ({"policy": "download", "ready": NEW, "decision": said("approved")}, NEW, Act.DEPLOY, "by the next run"),
        ({"policy": "download", "decision": said("declined")}, NEW, Act.NOTHING, "declined"),
        ({"policy": "download", "windows": [NIGHT]}, NEW, Act.WAIT, "the deploy waits for"),
        ({"policy": "download", "windows": [FETCH_DAY, NIGHT]}, NEW, Act.FETCH, "by the next run"),
        ({"windows": [FETCH_DAY, NIGHT]}, NEW, Act.FETCH, "by the next run"),
        ({"windows": [FETCH_DAY, NIGHT], "ready": NEW}, NEW, Act.WAIT, "the deploy waits for"),
        ({"windows": [FETCH_NIGHT, DAY]}, NEW, Act.WAIT, "the fetch waits for the maintenance window on .*02:00"),
        ({"windows": [FETCH_NIGHT, DAY], "ready": NEW}, NEW, Act.DEPLOY, "by the next run"),
        ({"windows": [FETCH_DAY]}, NEW, Act.FETCH, "by the next run"),
        ({"mains_only": True, "on_mains": False, "ready": NEW}, NEW, Act.WAIT, "mains power"),
        ({"inhibitors": ["cook"]}, NEW, Act.DEPLOY, "by the next run"),
    ],
)
def test_the_table_of_states(state: dict[str, Any], answer: str | None, act: Act, why: str) -> None:
    found = next_action(State(**({"now": NOON} | state)), answer)
    assert found.act is act
    assert re.search(why, found.why)
    assert bool(why) == bool(found.why)
    # Whoever waits can say for what in one word.
    assert (found.reason is None) == (found.act not in (Act.WAIT, Act.NOTHING) or not found.why)


@pytest.mark.parametrize(
    ("window", "now", "is_open"),
    [
        (Window(start="23:00", minutes=120), NOON.replace(day=2, hour=0, minute=59), True),
        (Window(start="23:00", minutes=120), NOON.replace(day=2, hour=1, minute=0), False),
        (Window(start="23:00", minutes=120, days=("wed",)), NOON.replace(day=2, hour=0), True),
        (Window(start="23:00", minutes=120, days=("thu",)), NOON.replace(day=2, hour=0), False),
        (Window(start="00:00", minutes=7 * 1440, days=("mon",)), NOON.replace(day=5, hour=23), True),
        # The clocks go forward from 02:00 to 03:00 on 2026-03-29, and back from 03:00 on 2026-10-25.
        (Window(start="01:30", minutes=120), datetime(2026, 3, 29, 3, 15, tzinfo=BERLIN), True),
        (Window(start="02:00", minutes=60), datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1), True),
    ],
)
def test_windows(window: Window, now: datetime, is_open: bool) -> None:
    found = next_action(State(now=now, windows=[window]), NEW)
    assert (found.act is Act.DEPLOY) == is_open, found.why


@pytest.mark.parametrize(
    "wrong",
    [
        *({"start": "24:00"}, {"start": "2:00"}, {"start": "02:00", "minutes": 0}, {"start": "02:00", "allows": []}),
        *({"start": "02:00", "days": ["monday"]}, {"start": "02:00", "days": []}),
    ],
)
def test_windows_that_are_none(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"window": [wrong]})
    with pytest.raises(ValidationError):
        Config.model_validate({"upgrade": {"zone": "Nowhere/Town"}})


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"[]",
        b'{"tree": 5}',
        b'{"tree": "x", "said": "postponed", "until": Infinity}',
        b'{"tree": "x", "said": "postponed", "until": 1e300}',
        b'{"tree": "x", "bytes": 1%s}' % (b"0" * 400),
        b"[" * 100000,
        os.mkfifo,
        os.mkdir,
        lambda place: place.symlink_to(place),
    ],
)
def test_what_was_said_or_seen_may_be_damaged(tmp_path: Path, junk: Any) -> None:
    """Nothing is known then; and nothing needs to be written where nothing was said."""
    for place in (tmp_path / consent.PLACE, tmp_path / sources.SEEN):
        place.write_bytes(junk) if isinstance(junk, bytes) else junk(place)
    assert consent.read(str(tmp_path)) is None
    assert sources.read_seen(str(tmp_path)) == {}
    consent.write(str(tmp_path), None)


@pytest.mark.parametrize(
    "one", [{"version": 1, "issued": "zzz"}, {"version": 10**30, "issued": "2026-01-01T00:00:00Z"}]
)
def test_what_cannot_have_been_seen_keeps_nobody_from_updates(tmp_path: Path, one: dict[str, Any]) -> None:
    (tmp_path / sources.SEEN).write_text(json.dumps({"https://example.org": one}))
    assert sources.read_seen(str(tmp_path)) == {}


def test_a_link_in_the_place_of_what_was_said_is_not_written_through(tmp_path: Path) -> None:
    """The device may be an image that a stranger made, and the link lead out of it."""
    state, victim = tmp_path / "state", tmp_path / "victim"
    state.mkdir()
    victim.write_text("mine")
    for name in (consent.PLACE, f".{consent.PLACE}.new"):
        (state / name).symlink_to(victim)
    consent.write(str(state), said("declined"))
    assert consent.read(str(state)) == said("declined")
    assert victim.read_text() == "mine"


def test_what_is_written_down_already_needs_no_room(tmp_path: Path) -> None:
    consent.write(str(tmp_path), said("approved"))
    before = (tmp_path / consent.PLACE).stat()
    consent.write(str(tmp_path), said("approved"))
    assert (tmp_path / consent.PLACE).stat().st_ino == before.st_ino
    consent.write(str(tmp_path), None)
    assert consent.read(str(tmp_path)) is None


def supply(place: Path, name: str, **files: str) -> None:
    (place / name).mkdir(parents=True)
    for file, content in files.items():
        (place / name / file).write_text(content + "\n")


def test_power(tmp_path: Path) -> None:
    assert surroundings.on_mains(tmp_path / "none")
    supply(tmp_path, "mouse", type="Battery", scope="Device")
    assert surroundings.on_mains(tmp_path)
    supply(tmp_path, "BAT0", type="Battery")
    assert not surroundings.on_mains(tmp_path)
    supply(tmp_path, "AC", type="Mains", online="0")
    assert not surroundings.on_mains(tmp_path)
    (tmp_path / "AC/online").write_text("1\n")
    assert surroundings.on_mains(tmp_path)


def logind(place: Path, monkeypatch: pytest.MonkeyPatch, **answers: str) -> None:
    """What busctl says of logind's properties."""
    said = "".join(f"{name}) printf '%s' '{answer}' ;;\n" for name, answer in answers.items())
    (place / "busctl").write_text(f"#!/bin/sh\ncase $5 in\n{said}esac\n")
    (place / "busctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}:/usr/bin:/bin")


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ('s "shutdown:sleep"\n', True),
        ('s "idle:shutdown"\n', True),
        ('s "sleep:idle"\n', False),
        ('s ""\n', False),
        ("", False),
        ("\\377 shutdowns\n" * 1000, False),
    ],
)
def test_what_systemd_says_of_inhibitors(
    said: str, holds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logind(tmp_path, monkeypatch, BlockInhibited=said)
    assert surroundings.inhibitors(tmp_path / "none") == ["systemd-inhibit"] * holds


@pytest.mark.parametrize(
    ("hint", "load", "used"),
    [("b true", 0.0, False), ("b false", 0.0, True), ("b true", 1e6, True), ("", 0.0, False), ("s false", 0.0, False)],
)
def test_a_device_that_is_used(
    hint: str, load: float, used: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logind(tmp_path, monkeypatch, IdleHint=hint)
    monkeypatch.setattr(os, "getloadavg", lambda: (9e9, load, 9e9))
    assert surroundings.in_use() is used


def test_whoever_holds_a_reboot_back_is_named(tmp_path: Path) -> None:
    (tmp_path / "backup runs\n").touch()
    assert "backup runs\\n" in surroundings.inhibitors(tmp_path)
    # Whatever it is called and whatever it is, it counts; and nobody fills the message of the day with it.
    (tmp_path / "a link").symlink_to("nowhere")
    (tmp_path / "a directory").mkdir()
    Path(os.fsdecode(bytes(tmp_path) + b"/\xff\x1b[2J")).touch()
    for n in range(1000):
        (tmp_path / f"{n:03}{'x' * 200}").touch()
    found = surroundings.inhibitors(tmp_path)
    assert "999 more" in found
    assert len(", ".join(found)) < 2000
    for path in tmp_path.glob("[0-9]*"):
        path.unlink()
    assert all(one.isprintable() for one in surroundings.inhibitors(tmp_path))
    # What cannot be read is none: the device does not stand still for ever.
    assert surroundings.inhibitors(tmp_path / "backup runs\n") == surroundings.inhibitors(tmp_path / "none")


def test_the_next_time_is_spread_and_further_off_after_failures() -> None:
    assert [round(agent.pause(100, 0, dice)) for dice in (0, 0.5, 1)] == [75, 100, 125]
    assert [agent.pause(100, failures, 0.5) for failures in (1, 2, 3, 9, 10**6)] == [200, 400, 800, 800, 800]


def test_the_agent_goes_on_whatever_happens(tmp_path: Path) -> None:
    """A command that ends with 1, 4, 0, 4: the pauses tell what the agent makes of it."""
    count, pauses = tmp_path / "count", []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 4:
            raise KeyboardInterrupt

    script = f"echo x >>{count}; case $(wc -l <{count}) in 1) exit 1;; 3) exit 0;; *) exit 4;; esac"
    with pytest.raises(KeyboardInterrupt):
        agent.look_after(["sh", "-c", script], 100, sleep)
    assert count.read_text() == "x\n" * 4
    assert 0 <= pauses[0] <= agent.FIRST
    assert [75 <= wait <= 125 for wait in pauses[1:]] == [False, True, True, True]


# The table in docs/updates.md, row by row: how such a device stands, and what is offered.
ROWS: list[tuple[str, dict[str, Any], str | None]] = [
    ("a deployment is on trial", {"trial": "x"}, NEW),
    ("nothing new, nothing staged", {}, None),
    ("nothing new, something staged, `reboot = true`", {"staged": "x", "reboot": True}, None),
    ("a new release, declined", {"decision": said("declined")}, NEW),
    ("a new release, postponed", {"decision": said("postponed", NOON.timestamp() + 60)}, NEW),
    ('a new release, `policy = "ask"` or the server wants a person to agree, not approved', {"policy": "ask"}, NEW),
    ('a new release, `policy = "download"`, fetched, not approved', {"policy": "download", "ready": NEW}, NEW),
    ("a new release, and the [server](server.md) that orders it says: not yet", {"held": "not yet"}, NEW),
    ("a new release, `mains_only = true`, on battery", {"mains_only": True, "on_mains": False}, NEW),
    (
        "a new release, not approved by a person, `idle_only = true`, somebody uses the device",
        {"idle_only": True, "in_use": True},
        NEW,
    ),
    (
        "a new release, not fetched, windows for a fetch, none of them open",
        {"windows": [FETCH_NIGHT, DAY]},
        NEW,
    ),
    ('a new release, `policy = "download"`, not fetched', {"policy": "download"}, NEW),
    (
        "a new release, not fetched, a window for a fetch open, none for a deploy",
        {"windows": [FETCH_DAY, NIGHT]},
        NEW,
    ),
    ("a new release, no window open for a deploy", {"windows": [NIGHT]}, NEW),
    ("a new release, nothing in its way", {}, NEW),
    (
        "to reboot: a file in `/run/tb-update/inhibit/`, or a block inhibitor of systemd "
        "(`systemd-inhibit --what=shutdown`)",
        {"staged": "x", "reboot": True, "inhibitors": ["cook"]},
        None,
    ),
    (
        "to reboot: `idle_only = true`, somebody uses the device",
        {"staged": "x", "reboot": True, "idle_only": True, "in_use": True},
        None,
    ),
    ("to reboot: no window open for a reboot", {"staged": "x", "reboot": True, "windows": [NIGHT]}, None),
]


def test_the_documented_table_is_what_is_done() -> None:
    page = (Path(__file__).parents[2] / "docs/updates.md").read_text()
    table = page.partition("| state | what is done |\n|---|---|\n")[2].partition("\n\n")[0]
    documented = [tuple(cell.strip() for cell in row.strip("|").split(" | ")) for row in table.splitlines()]
    assert [state for state, _ in documented] == [state for state, _, _ in ROWS]
    for (_, done), (row, state, answer) in zip(documented, ROWS, strict=True):
        found = next_action(State(**({"now": NOON} | state)), answer)
        assert done.startswith(found.act.value), row


def test_what_comes_first_where_several_things_are_in_the_way() -> None:
    """In the order of the table: each row holds whatever later ones say."""
    ways = [state for _, state, offered in ROWS if offered and not {"ready", "windows"} & set(state)]
    for n, state in enumerate(ways):
        merged: dict[str, Any] = {}
        for later in reversed(ways[n:]):
            merged |= later
        assert next_action(State(now=NOON, **merged), NEW) == next_action(State(now=NOON, **state), NEW)


def test_the_agent_waits_as_long_as_a_server_says(tmp_path: Path) -> None:
    place, pauses = tmp_path / "again", []
    place.write_text(f"{time.clock_gettime(time.CLOCK_BOOTTIME) + 300:.0f}\n")
    assert 298 < agent.again(str(place)) < 302
    for junk in ("", "x", "nan", "inf", "-1", "1e9", "0"):
        place.write_text(junk)
        assert agent.again(str(place)) == 0

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        agent.look_after(["true"], 100, sleep, lambda: 42.0)
    assert pauses[1:] == [42.0, 42.0]
