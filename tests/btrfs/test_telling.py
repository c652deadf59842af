"""What is told to those who do not ask: metrics, the message of the day, the journal."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tbupdate import notices
from tbupdate.cli import telling
from tbupdate.consent import Decision
from tbupdate.history import Event
from tbupdate.lastrun import RESULTS
from tbupdate.outlook import Outlook
from tbupdate.system import System
from tbupdate.unattended import Act, Next, Reason
from tests.btrfs.test_upgrade import Fleet
from tests.console import REPOSITORY, Device
from tests.journals import read_back


class Watched(Fleet):
    @property
    def metrics(self) -> Path:
        return self.dev.work / "tb-update.prom"

    def read(self) -> dict[str, float]:
        """The samples that are not zero, by name and labels."""
        found = {}
        for family in text_string_to_metric_families(self.metrics.read_text()):
            assert family.name.startswith("tb_update_")
            assert family.type == "gauge"
            for sample in family.samples:
                labels = ",".join(sample.labels.values()) if "info" not in sample.name else sample.labels["release"]
                found[sample.name.removeprefix("tb_update_") + (f" {labels}" if labels else "")] = sample.value
        return found


@pytest.fixture
def fleet(dev: Device) -> Watched:
    made = Watched(dev)
    made.follow(str(made.folder), more=f'[upgrade]\npolicy = "ask"\n[metrics]\ntextfile = "{made.metrics}"')
    made.publish((None, 1))
    dev("upgrade")
    return made


def test_metrics_follow_each_step(fleet: Watched) -> None:
    assert fleet.read()["staged"] == 1
    fleet.dev("commit")
    told = fleet.read()
    assert (told["info 1.0"], told["staged"], told["deployments"], told["free_bytes data"] > 0) == (1, 0, 2, True)
    assert "last_run_timestamp_seconds" not in told
    fleet.publish((1, 2))
    fleet.dev("upgrade", "--unattended", code=4)
    told = fleet.read()
    assert (told["offered"], told["waiting approval"], told["last_run_result waiting"]) == (1, 1, 1)
    # The set of names is the same whatever happens.
    assert {f"waiting {one.value}" for one in Reason} | {f"last_run_result {one}" for one in RESULTS} <= set(told)
    assert sum(told[f"waiting {one.value}"] for one in Reason) == 1
    fleet.dev("decline")
    assert fleet.read()["waiting declined"] == 1
    fleet.dev("approve")
    told = fleet.read()
    assert (told["last_run_result deployed"], told["last_run_result waiting"], told["offered"]) == (1, 0, 0)
    assert fleet.dev.status()["last_run"]["result"] == "deployed"
    fleet.folder.joinpath("index.json").write_text("junk")
    fleet.dev("upgrade", "--unattended", code=3)
    assert fleet.read()["last_run_result rejected"] == 1
    assert fleet.metrics.stat().st_mode & 0o777 == 0o644


def test_where_metrics_cannot_be_written_nothing_else_fails(fleet: Watched) -> None:
    fleet.metrics.unlink()
    fleet.metrics.mkdir()
    done = fleet.dev.run("commit")
    assert done.returncode == 0
    assert "could not be told" in done.stderr


def test_the_journal_is_told_and_says_it_again(tmp_path: Path) -> None:
    place = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(place))
        notices.tell_event(Event("", "deploy", "2.0-abcdef", more={"release": "2.0"}), place)
        notices.tell_event(Event("", "fallback", "1.0-abcdef", more={"reason": "two\nlines \x1b"}), place)
        notices.tell_event(Event("", "deploy", "3.0-abcdef", "failed", {"why": "no room"}), place)
        notices.tell("waiting", "it waits for approval", place, reason="approval")
        # What nobody waits for is not told.
        notices.tell_event(Event("", "pin", "1.0-abcdef"), place)
        datagrams = [journal.recv(1 << 16) for _ in range(4)]
        journal.setblocking(False)
        with pytest.raises(BlockingIOError):
            journal.recv(1)
    entries = read_back(tmp_path, datagrams)
    assert [one["TB_UPDATE_EVENT"] for one in entries] == ["deployed", "rolled-back", "failed", "waiting"]
    assert [one["MESSAGE_ID"] for one in entries] == [notices.MESSAGE_IDS[one["TB_UPDATE_EVENT"]] for one in entries]
    assert (entries[0]["TB_UPDATE_DEPLOYMENT"], entries[0]["TB_UPDATE_RELEASE"]) == ("2.0-abcdef", "2.0")
    assert entries[0]["SYSLOG_IDENTIFIER"] == "tb-update"
    reason = entries[1]["TB_UPDATE_REASON"]
    assert (reason if isinstance(reason, str) else bytes(reason).decode()) == "two\nlines \x1b"
    assert [one["PRIORITY"] for one in entries] == ["5", "4", "4", "5"]


def test_without_a_journal_or_with_one_that_takes_nothing_nobody_waits(tmp_path: Path) -> None:
    notices.tell("found", "x", tmp_path / "none")
    place = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(place))
        for _ in range(5000):
            notices.tell("found", "x" * 1000, place)


def test_message_ids_are_those_of_the_page_and_all_different() -> None:
    page = (REPOSITORY / "docs/updates.md").read_text()
    assert dict(re.findall(r"^\| `([a-z-]+)` \| `([0-9a-f]{32})` \|", page, re.MULTILINE)) == notices.MESSAGE_IDS
    assert len(set(notices.MESSAGE_IDS.values())) == len(notices.MESSAGE_IDS)


def test_the_message_of_the_day(tmp_path: Path) -> None:
    system = System(default_id=5)
    offered = Decision(tree="0" * 64, called="demo \x1b[31m2.0", bytes=2048)
    text = telling.motd(system, Outlook(offered, Next(Act.WAIT, "it waits for approval: tb-update approve")))
    assert text == "An update is there: demo \\x1b[31m2.0 (2.0 KiB); it waits for approval: tb-update approve\n"
    assert telling.motd(system, Outlook(None, Next(Act.WAIT, "the reboot is held back: cook"))).endswith("cook\n")
    assert telling.motd(system, Outlook(None, Next(Act.NOTHING))) == ""
    place = tmp_path / "motd.d/tb-update"
    telling.put_motd(place, text)
    assert (place.read_text(), place.stat().st_mode & 0o777) == (text, 0o644)
    telling.put_motd(place, "")
    telling.put_motd(place, "")
    assert os.listdir(place.parent) == []
