"""The small files of the device: configuration, history, marks, mounts, names."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tbdiff.errors import Failed, Rejected
from tbdiff.signature import create_key
from tbupdate import config, fstab, history, layout, marks, mounts, trust
from tbupdate.history import Event


def test_config_defaults_and_values(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text('keys = "/k"\nkeep = 2\ndevice_type = "pump"\n[boot]\nchooser = "none"\n[space]\nreserve = 0\n')
    read = config.load(path)
    assert (read.keys, read.keep, read.device_type, read.space.reserve) == (Path("/k"), 2, "pump", 0)
    assert config.Config().keep == 5


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kep = 3", "kep"),
        ("[boot]\nchoser = 'none'", "boot.choser"),
        ("[boot]\nchooser = 'lilo'", "boot.chooser"),
        ("keep = 0", "keep must be at least 1"),
        ("keep = '5'", "keep must be a whole number"),
        ("keep = 1e26", "keep must be a whole number"),
        ("keep = 10000", "keep must be at most"),
        ("keys = ''", "keys must name a directory"),
        ("keys = '.'", "keys must name a directory"),
        ("keys = 3", "keys must be a path"),
        ("boot = 3", "boot must be a table"),
        ("device_type = 'a b'", "device_type may hold letters"),
        ("[health]\ncommit = 'perhaps'", "health.commit must be true or false"),
        ("[health]\ncommit = 'yes'", "health.commit must be true or false, without quotes"),
        ("[upgrade]\nreboot = 1", "upgrade.reboot must be true or false"),
        ("[health]\nlimit = 0", "health.limit must be more than 0"),
        ("[health]\nlimit = inf", "health.limit must be at most"),
        ("[health]\nlimit = nan", "health.limit must be"),
        ("[health]\npause = 1e300", "health.pause must be at most"),
        ("[health]\nattempts = '3'", "health.attempts must be a whole number"),
        ("[boot]\ntries = '3'", "boot.tries must be a whole number"),
        ("[local]\ncarry = '/etc'", r'local.carry must be a list: \["/etc"\]'),
        ("source = {}", r"source must be tables, each below a line \[\[source\]\]"),
        ("[boot]\nchooser = 3", "boot.chooser must be one of"),
        (
            "[boot]\noptions = 'quiet a=\"b\"'",
            r"boot.options has 'a=\"b\"', and boot loaders agree on letters",
        ),
        ("[boot]\noptions = 'quiet a=$(b)'", r"boot.options has 'a=\$\(b\)'"),
        ("[boot]\noptions = 'rootflags=subvol=@'", "boot.options has 'rootflags=subvol=@': the default subvolume says"),
        ("keep = 'many'", "keep"),
        ("keep =", "TOML"),
        (f"keep = {'[' * 5000}", "TOML: it is nested too deep"),
        (f"keep = 1{'0' * 5000}", "TOML"),
        ("#" * (1 << 20) + "\n", "larger than 1 MiB"),
    ],
)
def test_config_names_what_is_wrong(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(Failed, match=named):
        config.load(path)


def test_a_table_of_mounts_is_read_as_mount_reads_it() -> None:
    table = "# LABEL=a /b ext4\n  #x /c ext4\n"
    table += "LABEL=a#1 /my\\040data\\134 btrfs subvol=@d#\\303\\274 0 0 # mine\nx /n\\000 ext4\n"
    first, second = fstab.lines(table)
    assert first == fstab.Line("LABEL=a#1", "/my data\\", "btrfs", ("subvol=@d#ü",))
    assert second.point == "/n\\000", "no name has a zero byte in it"


def test_a_key_that_is_none_brings_those_that_its_table_has(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    for text, remedy in (
        ("[boot]\nchoser = 1", "chooser, options, tries"),
        ("[[window]]\nstrat = 1", "allows, days, start"),
        ("kep = 1", "keys, threshold"),
    ):
        path.write_text(text)
        with pytest.raises(Failed) as refused:
            config.load(path)
        assert refused.value.remedy.startswith(f"Known keys: {remedy}")


def test_a_config_that_cannot_be_read_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(Failed, match=f"{tmp_path} cannot be read: Is a directory$"):
        config.load(tmp_path)
    (tmp_path / "image").write_bytes(b"\x89tbdiff")
    with pytest.raises(Failed, match=r"cannot be read: it is no text in UTF-8$"):
        config.load(tmp_path / "image")
    with pytest.raises(Failed, match="larger than 1 MiB"):
        config.load(Path("/dev/zero"))


def test_a_config_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="no configuration"):
        config.load(tmp_path / "none")


def test_history_survives_a_torn_line(tmp_path: Path) -> None:
    path = str(tmp_path / "history")
    history.append(path, Event("t1", "init", "a-000001"))
    with open(path, "a") as file:
        file.write('{"time": "t2", "ev')
    history.append(path, Event("t3", "deploy", "b-000002", "failed", {"why": "line\nbreak", "release": None}))
    assert history.read(path) == [
        {"time": "t1", "event": "init", "id": "a-000001", "result": "done"},
        {"time": "t3", "event": "deploy", "id": "b-000002", "result": "failed", "why": "line\nbreak"},
    ]
    assert history.read(str(tmp_path / "none")) == []


def test_an_event_comes_back_from_a_mark() -> None:
    assert history.from_brief(history.brief(Event("t1", "rollback", "a-000001"))).deployment == "a-000001"
    assert history.from_brief("cut off").result == "?"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_a_history_that_is_no_file(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "history")
    with pytest.raises(Failed, match="no file"):
        history.read(str(tmp_path / "history"))


def test_history_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        history.append(str(tmp_path / "link"), Event("t", "init", None))


def test_marks(btrfs: Path) -> None:
    directory = str(btrfs)
    assert marks.read(directory) == marks.Marks()
    marks.put(directory, "good", "a-000001")
    marks.put(directory, "bad.a-000001", "é" * 300)
    marks.put(directory, "pin.a-000001", "now")
    os.setxattr(directory, "user.other", b"x")
    read = marks.read(directory)
    assert read.good == "a-000001"
    assert read.bad == {"a-000001": "é" * 100}
    assert read.names_of("a-000001") == ("bad.a-000001", "pin.a-000001")
    marks.remove(directory, "good")
    marks.remove(directory, "good")
    assert marks.read(directory).good is None


def test_mountinfo() -> None:
    text = (
        "29 1 0:26 /snapshots/root / rw,noatime shared:1 - btrfs /dev/sd\\040a rw,subvolid=258\n"
        "30 29 0:5 / /dev rw master:2 shared:2 - devtmpfs udev rw\n"
        "broken\n"
    )
    assert mounts.read_mounts(text) == [
        mounts.Mount("/", "btrfs", "/dev/sd a", "rw,subvolid=258", "0:26"),
        mounts.Mount("/dev", "devtmpfs", "udev", "rw", "0:5"),
    ]


@pytest.mark.parametrize(
    "words", ["1.0", "", "Debian GNU/Linux 12", "../..", "x" * 500, "root", "a.partial", "é", "-", "1:2~3+4"]
)
def test_every_id_is_an_id_and_no_other_name(words: str) -> None:
    made = layout.make_id(words, "0a1b2c")
    assert layout.is_id(made)
    for other in (layout.ROOT, layout.CURRENT, layout.partial(made), layout.kept_root(made), f"../{made}", f"{made}\n"):
        assert not layout.is_id(other)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("LABEL=s / btrfs subvol=@,noatime 0 0\n", "LABEL=s / btrfs noatime 0 0\n"),
        ("UUID=1\t/\tbtrfs\tsubvol=@rootfs\t0\t0", "UUID=1\t/\tbtrfs\tdefaults\t0\t0"),
        ("a / btrfs noatime,subvolid=256,subvol=/x,compress=zstd", "a / btrfs noatime,compress=zstd"),
        ("# a / btrfs subvol=@\na /home btrfs subvol=@home\n\nb\n", None),
        ("a / btrfs noatime 0 0\n", None),
    ],
)
def test_the_table_of_file_systems_names_no_subvolume_for_the_root(before: str, after: str | None) -> None:
    assert fstab.without_subvolume(before) == (before if after is None else after)


def test_a_table_is_never_written_through_a_link(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("a / btrfs subvol=@ 0 0\n")
    (tmp_path / "tree/etc").mkdir(parents=True)
    fstab.free(str(tmp_path / "tree"))
    (tmp_path / "tree/etc/fstab").symlink_to(outside)
    fstab.free(str(tmp_path / "tree"))
    assert "subvol=@" in outside.read_text()


def test_keys_that_others_could_have_put_there_are_not_trusted(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    (keys / "delivery").mkdir(parents=True)
    create_key(tmp_path / "a")
    for place in (keys / "a.pub", keys / "delivery/b.pub"):
        place.write_bytes((tmp_path / "a.pub").read_bytes())
    assert len(trust.load(keys)) == trust.count(keys) == 1
    for place in (keys, keys / "delivery", keys / "a.pub", keys / "delivery/b.pub"):
        kept = place.stat().st_mode
        for mode, owner in ((kept | 0o020, 0), (kept | 0o002, 0), (kept, 1000)):
            place.chmod(mode)
            os.chown(place, owner, 0)
            with pytest.raises(Rejected, match="can be changed by others") as refused:
                trust.load(keys)
            assert str(place) in refused.value.remedy
            assert len(trust.faults(keys)) == 1
        place.chmod(kept)
        os.chown(place, 0, 0)
    (keys / "c.pub").write_text("junk")
    (keys / "d.pub").write_text("junk")
    assert [fault.remedy != "" for fault in trust.faults(keys)] == [True, True]
    assert trust.count(keys) == 1
    with pytest.raises(Rejected, match="nothing was changed"):
        trust.load(keys)
