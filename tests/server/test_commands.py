"""`tb-server` as a client: what it asks a server over HTTP, and what it prints."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from tbdiff.errors import Failed, Rejected
from tbdiff.rotation import Wish, rotate
from tbdiff.signature import create_key
from tbserver import comparing, devices, tending
from tbserver.accounts import Role
from tbserver.cli import cli, run
from tests import schemas
from tests.server.harness import Fleet, Person
from tests.server.images import Works
from tests.server.live import listening
from tests.server.test_artifacts import trust


class Shell:
    """A person with a token, at a command line."""

    def __init__(self, url: str, person: Person) -> None:
        self.person = person
        self._env = {"TB_SERVER_URL": url, "TB_SERVER_TOKEN": person.secret}
        self.seen: set[str] = set()

    def __call__(self, *words: object, **env: str) -> str:
        """What is printed; errors as they are raised."""
        done = CliRunner().invoke(cli, [str(word) for word in words], env=self._env | env, standalone_mode=False)
        if done.exception is not None:
            raise done.exception
        return done.stdout

    def json(self, *words: object) -> Any:
        """The same as JSON, which is held against its schema."""
        told = json.loads(self(*words, "--json"))
        self.seen.add(schemas.hold("tb-server", [str(word) for word in words], told))
        assert told.pop("format_version") == 1
        return told


@pytest.fixture
def shell(small_fleet: Fleet) -> Iterator[Shell]:
    with listening(small_fleet.server) as url:
        yield Shell(url, small_fleet.person(Role.ADMIN))


def test_from_an_upload_to_a_rollout(shell: Shell, small_fleet: Fleet, tmp_path: Path) -> None:
    works = Works(tmp_path)
    works.key("release")
    assert "answers for uploads" in shell("trust", tmp_path / "release.key.pub", "--name", "build host")
    assert "build host  release" in shell("keys")
    first, second = works.image("1.0"), works.image("2.0", "1.0")
    # What broke off goes on where it was.
    data = first.read_bytes()
    begun = shell.person.post("/uploads", digest=hashlib.sha256(data).hexdigest(), size=len(data))
    shell.person.ask("PATCH", f"/uploads/{begun['id']}?offset=0", content=data[:10_000])
    told = shell.json("upload", first, second)["artifacts"]
    assert [one["digest"] for one in told] == [hashlib.sha256(one.read_bytes()).hexdigest() for one in (first, second)]
    assert "demo" in shell("releases")
    assert "against 1.0: waiting, its turn comes" in shell("release", told[1]["release_id"])
    assert comparing.compare_next(small_fleet.server)
    shown = shell("release", told[1]["release_id"])
    assert "against 1.0: 0 added (0 bytes), 1 changed (300 bytes), 0 removed (0 bytes)" in shown
    assert shell.json("release", told[1]["release_id"])["news"]["since"] == "1.0"
    with small_fleet.server.database.writing() as session:
        for n in range(4):
            device = devices.register(session, 1, f"box-{n}\x1b")
            devices.describe(session, device, "replace", {"release": "1.0", "site": "here"})
    assert "\x1b" not in shell("devices")
    assert shell("devices", "--limit", 2).count("box-") == 2
    made = shell("roll-out", told[1]["release_id"], "--filter", "site = here", "--phases", "1, rest")
    assert made.startswith("1 to 2.0: preparing")
    tending.tend(small_fleet.server.database)
    assert shell.json("rollout", 1)["phases"][1]["waiting"] == 3
    assert "paused by admin-1" in shell("rollout", 1, "pause")
    assert "to 2.0: waiting, the rollout is paused" in shell("device", "box-0\x1b")
    assert shell("group", "first", "--make", "--put", "box-1\x1b", "--put", "box-2\x1b").count("box-") == 2
    assert [one["id"] for one in shell.json("group", "first", "--take", "box-1\x1b")["items"]] == [3]
    assert ("first" in shell("groups"), "no group any more" in shell("group", "first", "--remove")) == (True, True)
    assert shell.json("device", "box-0\x1b", "--revoke")["device"]["revoked"] is True
    assert "rollout.pause" in shell("audit")


def test_all_that_is_printed_is_as_the_schemas_say(shell: Shell, small_fleet: Fleet, tmp_path: Path) -> None:
    said, works = shell.json, Works(tmp_path)
    works.key("release")
    said("delivery-key", "--data", small_fleet.server.settings.data)
    assert said("trust", tmp_path / "release.key.pub", "--name", "build host")["kind"] == "release"
    assert said("keys")["items"]
    first, second = said("upload", works.image("1.0"), works.image("2.0", "1.0"))["artifacts"]
    assert comparing.compare_next(small_fleet.server)
    assert said("release", second["release_id"])["news"]["found"]["files"]["changed"]["count"] == 1
    assert len(said("releases")["items"]) == 2
    assert said("deltas")["items"]
    with small_fleet.server.database.writing() as session:
        device = devices.register(session, 1, "box")
        devices.describe(session, device, "replace", {"release": "1.0", "site": "here"})
    assert said("group", "first", "--make", "--put", "box")["items"]
    assert said("groups")["items"]
    made = said("roll-out", second["release_id"], "--filter", "site = here", "--phases", "1, 50 %, rest")["rollout"]
    tending.tend(small_fleet.server.database)
    assert said("rollout", made["id"])["phases"][0]["waiting"] == 1
    assert said("device", "box")["todo"]
    assert said("devices")["items"]
    assert said("rollout", made["id"], "cancel")["rollout"]["ended"]
    assert said("rollouts")["items"]
    assert said("withdraw", first["release_id"])["withdrawn"]
    assert said("group", "first", "--remove")["items"] == []
    assert said("statements")["version"] == 0
    rotate(tmp_path / "trust.json", Wish(release=[tmp_path / "release.key.pub"]), [tmp_path / "release.key"])
    assert said("statements", tmp_path / "trust.json")["release"]
    said("add-user", "eve", "viewer")
    said("device-token", "enrolment", "--name", "for box 7", "--days", 30)
    said("webhooks", "--add", "chat", "https://chat.example/hook")
    assert said("webhooks")["items"]
    assert said("audit")["items"]
    assert shell.seen == {name for _, names in schemas.table("tb-server") for name in names}


def test_trust_statements_go_on_from_what_is_there(shell: Shell, tmp_path: Path) -> None:
    for name in ("alice", "bob", "eve"):
        create_key(tmp_path / name)
    alice, bob, eve = (tmp_path / f"{name}.pub" for name in ("alice", "bob", "eve"))
    chain, other, bad = tmp_path / "trust.json", tmp_path / "other.json", tmp_path / "bad.json"
    assert shell("statements") == "none\n"
    rotate(chain, Wish(release=[alice]), [tmp_path / "alice"])
    assert "statement 1, of 2" in shell("statements", chain)
    first = chain.read_bytes()
    rotate(chain, Wish(release=[bob], revoke=[alice]), [tmp_path / "alice"])
    with pytest.raises(Rejected, match="lacks signatures"):
        shell("statements", chain)
    rotate(chain, Wish(release=[bob], revoke=[alice]), [tmp_path / "alice", tmp_path / "bob"])
    said = shell.json("statements", chain)
    assert (said["version"], [key["name"] for key in said["release"]], len(said["revoked"])) == (2, ["bob"], 1)
    # Neither back, nor to one that others began.
    rotate(other, Wish(release=[eve]), [tmp_path / "eve"])
    for raw in (first, other.read_bytes(), first[:-9], b'{"statements": []}', b"[" * 100_000):
        bad.write_bytes(raw)
        with pytest.raises(Rejected):
            shell("statements", bad)
    assert "bob" in shell("statements")
    assert "statements.put" in shell("audit")
    assert shell("statements", "--remove") == "none\n"
    with pytest.raises(Rejected, match="no trust statement"):
        shell("statements", "--remove")


def test_more_than_a_page_is_read_page_by_page(shell: Shell, small_fleet: Fleet) -> None:
    with small_fleet.server.database.writing() as session:
        for n in range(520):
            devices.register(session, 1, f"box-{n:03}")
    assert len(shell.json("devices", "--limit", 510)["items"]) == 510


def test_secrets_are_printed_once(shell: Shell) -> None:
    assert "good for one login" in shell("add-user", "eve", "viewer")
    assert len(shell("device-token", "enrolment", "--name", "for box 7", "--days", 30).strip()) > 40


def test_what_is_wrong_is_said(shell: Shell, small_fleet: Fleet, tmp_path: Path) -> None:
    works = Works(tmp_path)
    trust(small_fleet, works)
    (tmp_path / "plan.json").write_text("{")
    for words, why in (
        (("upload", works.image("1.0", key="other")), "key"),
        (("rollout", 9), "there is no such rollout"),
        (("device", "nothing"), "there is no device nothing"),
        (("devices", "--filter", "x ="), "the filter is not understood"),
        (("roll-out", 1, "--phases", "many"), "the phase 'many' is not understood"),
        (("roll-out", 1, "--plan", tmp_path / "plan.json"), "is no JSON"),
    ):
        with pytest.raises(Rejected, match=why):
            shell(*words)
    for url, error in (
        ("http://127.0.0.1:9", Failed),
        ("http://updates.example.org", Rejected),
        ("ftp://localhost", Rejected),
        ("http://[", Rejected),
    ):
        with pytest.raises(error):
            shell("releases", TB_SERVER_URL=url)
    with pytest.raises(Rejected, match="there is no API token"):
        shell("releases", TB_SERVER_TOKEN="")
    with pytest.raises(Rejected, match="this token is not known"):
        shell("releases", TB_SERVER_TOKEN="tbapi_x")


def test_what_is_wrong_in_the_middle_has_changed_nothing(shell: Shell, small_fleet: Fleet) -> None:
    with small_fleet.server.database.writing() as session:
        for n in range(3):
            devices.register(session, 1, f"box-{n}")
    for words in (("--put", "box-1", "--put", "nothing"), ("--put", "box-1", "--take", "nothing")):
        with pytest.raises(Rejected, match="there is no device nothing; nothing was changed"):
            shell("group", "first", "--make", *words)
        assert shell.json("groups")["items"] == []
    shell("group", "first", "--make", "--put", "box-0")
    for words in (("--take", "box-0", "--take", "nothing"), ("--put", "box-1", "--take", "nothing")):
        with pytest.raises(Rejected, match="there is no device nothing; nothing was changed"):
            shell("group", "first", *words)
    with pytest.raises(click.UsageError):
        shell("group", "first", "--take", "box-0", "--remove")
    assert [one["controller"] for one in shell.json("group", "first")["items"]] == ["box-0"]

    number = shell.json("webhooks", "--add", "chat", "https://chat.example/hook")["webhook"]["id"]
    with pytest.raises(Rejected):
        shell("webhooks", "--remove", number, "--add", "bad", "ftp://chat.example")
    with pytest.raises(Rejected, match="there is no webhook 99; nothing was changed"):
        shell("webhooks", "--remove", 99, "--add", "more", "https://chat.example/more")
    with pytest.raises(click.UsageError):
        shell("webhooks", "--on", "rollout.*")
    assert [one["id"] for one in shell.json("webhooks")["items"]] == [number]
    shell("webhooks", "--remove", number, "--add", "more", "https://chat.example/more")
    assert [one["name"] for one in shell.json("webhooks")["items"]] == ["more"]


def test_of_several_images_it_is_said_which_were_uploaded(shell: Shell, small_fleet: Fleet, tmp_path: Path) -> None:
    works = Works(tmp_path)
    trust(small_fleet, works)
    good, more = works.image("1.0"), works.image("2.0")
    bad = works.image("3.0", key="other")
    (tmp_path / "notes").write_text("none")
    # What is no image is noticed before anything is sent.
    with pytest.raises(Rejected, match="notes is not an image"):
        shell("upload", good, tmp_path / "notes")
    with pytest.raises(Rejected, match=f"{bad}: .*; none of the images was uploaded"):
        shell("upload", bad, good)
    assert shell.json("releases")["items"] == []
    with pytest.raises(Failed, match=f"{bad}: .*; uploaded before it: {good}") as ended:
        shell("upload", good, bad, more)
    assert ended.value.remedy.endswith(f"What is still to be uploaded: {bad}, {more}")
    assert [one["version"] for one in shell.json("releases")["items"]] == ["1.0"]


def test_trust_statements_are_replaced_or_removed(shell: Shell, tmp_path: Path) -> None:
    create_key(tmp_path / "alice")
    rotate(tmp_path / "trust.json", Wish(release=[tmp_path / "alice.pub"]), [tmp_path / "alice"])
    shell("statements", tmp_path / "trust.json")
    with pytest.raises(click.UsageError):
        shell("statements", tmp_path / "trust.json", "--remove")
    assert shell.json("statements")["version"] == 1


def test_a_first_token_is_made_where_the_server_is(small_fleet: Fleet) -> None:
    place = ["--data", str(small_fleet.server.settings.data)]
    with listening(small_fleet.server) as url:

        def run(*words: str, **env: str) -> str:
            done = CliRunner().invoke(cli, list(words), env={"TB_SERVER_URL": url} | env, standalone_mode=False)
            if done.exception is not None:
                raise done.exception
            return done.stdout.strip()

        made = run("token", "build-host", *place)
        assert "build-host" in run("audit", TB_SERVER_TOKEN=made)
        with pytest.raises(Rejected):
            run("add-user", "anna", "viewer", TB_SERVER_TOKEN=made)
        made = run("token", "boss", "--role", "admin", *place)
        assert "anna" in run("add-user", "anna", "viewer", TB_SERVER_TOKEN=made)
        with pytest.raises(Rejected, match="no tenant nowhere"):
            run("token", "x", "--tenant", "nowhere", *place)
        with pytest.raises(Rejected):
            run("token", "boss", *place)
        with pytest.raises(Failed, match="unable to open"):
            run("token", "x", "--data", f"{place[1]}-elsewhere")
        with pytest.raises(Rejected, match="no records of this program"):
            run("token", "x", "--data", str(small_fleet.server.settings.scratch))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trust", "{bytes}", "--name", "x"), "holds no text"),
        (("delivery-key", "--data", "/proc/x"), "/proc/x: No such file or directory"),
        (("migrate", "--data", "/proc/x"), "/proc/x: No such file or directory"),
    ],
)
def test_what_the_system_refuses_is_a_sentence(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    monkeypatch.setenv("TB_SERVER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TB_SERVER_TOKEN", "x")
    assert run([word.format(bytes=tmp_path / "bytes") for word in words]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("listen", "code", "message"),
    [
        (
            "127.0.0.1:{port}",
            1,
            "nobody can listen at 127.0.0.1:{port}: Address already in use; nothing was done",
        ),
        ("192.0.2.1:{port}", 1, "nobody can listen at 192.0.2.1:{port}: Cannot assign requested address"),
        ("a..b:{port}", 1, "nobody can listen at a..b:{port}: "),
        ("nowhere", 3, "nowhere is nowhere to listen"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "demo"])
def test_where_nobody_can_listen_nothing_is_made(
    command: str, listen: str, code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert run([command, "--data", str(tmp_path / "data"), "--listen", listen.format(port=port)]) == code
    said = capsys.readouterr().err
    assert said.startswith(f"tb-server: {message.format(port=port)}")
    assert "Log in" not in said
    assert not (tmp_path / "data").exists()


def test_tls_that_cannot_be_spoken_is_refused_before_anything_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, no_pem, empty = tmp_path / "data", tmp_path / "no.pem", tmp_path / "empty"
    no_pem.write_text("nothing")
    empty.touch()
    place = ("serve", "--data", str(data), "--listen", "127.0.0.1:0")
    for words, code, message in (
        (("--tls-key", str(no_pem)), 2, "--tls-key goes with --tls-cert"),
        (("--tls-cert", str(no_pem)), 3, f"TLS cannot be spoken: {no_pem} is no certificate with its private key"),
        (("--tls-cert", str(no_pem), "--tls-key", str(empty)), 3, f"{no_pem} and {empty} are no certificate with"),
    ):
        assert run([*place, *words]) == code
        assert message in capsys.readouterr().err
        assert not data.exists()


@pytest.mark.parametrize(
    ("words", "code", "kind", "message"),
    [
        (("releases", "--nonsense"), 2, "usage", "No such option"),
        (("device",), 2, "usage", "Missing argument 'NAME'."),
        (("rollout", "x"), 2, "usage", "Invalid value for 'NUMBER': 'x' is not a valid integer."),
        (("nothing",), 2, "usage", "No such command 'nothing'."),
        (("releases", "--server", "ftp://a\x1b"), 3, "rejected", "ftp://a\x1b is no address of a server"),
        (("releases",), 1, "failed", "http://127.0.0.1:9 does not answer"),
        (("delivery-key", "--data", "/proc/x"), 1, "failed", "/proc/x: No such file or directory"),
    ],
)
def test_an_error_is_an_object_as_those_of_the_other_programs(
    words: tuple[str, ...],
    code: int,
    kind: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TB_SERVER_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TB_SERVER_TOKEN", "x")
    assert run([*words, "--json"]) == code
    out, err = capsys.readouterr()
    said = json.loads(out)
    assert schemas.hold("tb-server", words, said) == schemas.ERROR
    assert said["error"]["kind"] == kind
    assert said["error"]["message"].startswith(message)
    # For people, on one line that does nothing to a terminal.
    assert err.startswith(f"tb-server: {message}".replace("\x1b", "\\x1b"))


def test_every_command_and_option_is_documented() -> None:
    text = "".join(path.read_text() for path in (Path(__file__).parents[2] / "docs/server").glob("*.md"))
    for name, command in cli.commands.items():
        assert f"`{name}" in text, name
        for option in (one for one in command.params if isinstance(one, click.Option)):
            assert f"`{option.opts[0]}" in text, (name, option.opts)


def test_every_command_that_is_documented_is_there() -> None:
    page = (Path(__file__).parents[2] / "docs/server/commands.md").read_text()
    rows = (line.split("|")[1] for line in page.splitlines() if line.startswith("| `") and not line.startswith("| `--"))
    named = {words.split()[0] for row in rows for words in re.findall(r"`([^`]+)`", row)}
    assert named == set(cli.commands)
