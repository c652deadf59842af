"""What is written appears as a whole or not at all, and replaces nothing but a file."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tbdiff import signature
from tbdiff.convert import convert_to_tar
from tbdiff.create import Label, create_image
from tbdiff.errors import Failed, Rejected
from tbdiff.legacy.create import create_legacy
from tbdiff.output import appearing, check_place
from tbdiff.scratch import scratch_directory
from tbdiff.signing import sign_image


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    made = tmp_path / "tree"
    made.mkdir()
    (made / "file").write_text("content")
    return made


def test_a_pipe_is_not_replaced(tree: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for out in (pipe, tmp_path / "link"):
        with pytest.raises(Rejected, match="is a device or a pipe"):
            create_image(None, tree, out)
        with pytest.raises(Rejected, match="is a device or a pipe"):
            create_legacy(None, tree, out)
    assert pipe.is_fifo()


def test_only_an_image_is_replaced_by_one(tree: Path, tmp_path: Path) -> None:
    out, kept, link = tmp_path / "out", tmp_path / "kept", tmp_path / "link"
    # An image of any kind, or nothing.
    out.touch()
    create_image(None, tree, out)
    made = out.read_bytes()
    convert_to_tar(str(out), None, tmp_path / "made.tar.gz")
    create_image(None, tree, tmp_path / "made.tar.gz")
    create_legacy(None, tree, out)
    create_image(None, tree, out)
    assert (tmp_path / "made.tar.gz").read_bytes() == out.read_bytes() == made
    signature.create_key(kept)
    before = kept.read_bytes()
    for create in (create_image, create_legacy):
        with pytest.raises(Rejected, match="kept is there, and is no image; nothing was written"):
            create(None, tree, kept)
    assert kept.read_bytes() == before
    # What a link leads to is not what was named.
    link.symlink_to("out")
    other = tree.rename(tmp_path / "other")
    (other / "file").write_text("else")
    with pytest.raises(Rejected, match="link is a symbolic link"):
        create_image(None, other, link)
    assert out.read_bytes() == made


@pytest.mark.parametrize(("out", "said"), [("-", "not to standard output"), ("tree/x", "lies in"), ("no/x", "no dir")])
def test_places_where_nothing_is_written(out: str, said: str, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.parent)
    with pytest.raises(Rejected, match=said):
        check_place(Path(out), None, tree)
    assert os.listdir(tree.parent) == ["tree"]


def test_nothing_appears_of_what_failed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("old")
    with pytest.raises(ValueError, match="no more"), appearing(out) as file:
        file.write(b"new")
        raise ValueError("no more")
    assert out.read_text() == "old"
    assert os.listdir(tmp_path) == ["out"]


def test_nothing_is_written_through_a_link_that_stands_where_it_is_written_aside(tmp_path: Path) -> None:
    out, victim = tmp_path / "out", tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / ".out.new").symlink_to(victim)
    with appearing(out) as file:
        file.write(b"new")
    assert (out.read_text(), victim.read_text()) == ("new", "mine")


def test_what_is_no_file_is_not_replaced_through_a_link(tmp_path: Path) -> None:
    pipe, link, loop = tmp_path / "pipe", tmp_path / "link", tmp_path / "loop"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with pytest.raises(OSError, match="no regular file"), appearing(link):
        pass
    assert pipe.is_fifo()
    loop.symlink_to(loop)
    with appearing(loop) as file:
        file.write(b"new")
    assert loop.read_bytes() == b"new"


def test_a_link_stays_when_what_it_leads_to_is_signed(tree: Path, tmp_path: Path) -> None:
    image, link, key = tmp_path / "image", tmp_path / "link", tmp_path / "key"
    signature.create_key(key)
    create_image(None, tree, image)
    link.symlink_to("image")
    unsigned = image.read_bytes()
    sign_image(link, key)
    assert link.is_symlink()
    assert image.read_bytes() != unsigned


def test_boot_files_must_be_there(tree: Path, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="there is no boot/vmlinuz"):
        create_image(None, tree, tmp_path / "image", label=Label(kernel="boot/vmlinuz"))
    assert not (tmp_path / "image").exists()


def test_key_files_that_are_none(tmp_path: Path) -> None:
    pipe, zero = tmp_path / "pipe.pub", tmp_path / "zero.pub"
    os.mkfifo(pipe)
    zero.symlink_to("/dev/zero")
    for path in (pipe, zero):
        with pytest.raises(Rejected, match="is not a public key"):
            signature.load_public_key(path)


def test_no_half_key_is_left(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(Failed, match="there is no new key"):
            signature.create_key(tmp_path / "key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert os.listdir(tmp_path) == []


def test_holes_take_no_room(tree: Path, tmp_path: Path) -> None:
    with (tree / "sparse").open("wb") as file:
        file.write(b"data")
        file.truncate(3 << 30)
    assert create_image(None, tree, tmp_path / "image").way.free < 1 << 20


# The main program, in which a signal comes while the image is being made.
STOPPED = """
import os, sys
from tbdiff import create
from tbdiff.cli import main
number = int(sys.argv.pop())
create.interleave = lambda *_: os.kill(os.getpid(), number)
main()
"""


@pytest.mark.parametrize("ended", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_of_what_was_stopped(ended: int, tree: Path, tmp_path: Path) -> None:
    before = set(os.listdir(tmp_path))
    arguments = ("create", "--full", tree, "-o", tmp_path / "image", str(int(ended)))
    done = subprocess.run([sys.executable, "-c", STOPPED, *arguments], capture_output=True, text=True)
    if ended == signal.SIGKILL:
        assert done.returncode == -ended
    else:
        assert (done.returncode, done.stderr.strip()) == (1, "tbdiff: interrupted")
    assert set(os.listdir(tmp_path)) == before


def test_rooms_of_runs_that_were_killed_go_with_the_next(tmp_path: Path) -> None:
    code = """
import os, pathlib, sys
from tbdiff.scratch import scratch_directory
with scratch_directory(pathlib.Path(sys.argv[1])) as room:
    (room / "file").write_text("x")
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code, tmp_path], check=False)
    (left,) = os.listdir(tmp_path)
    foreign = tmp_path / ".tbdiff-scratch-file"
    foreign.touch()
    with scratch_directory(tmp_path) as one:
        assert not (tmp_path / left).exists()
        with scratch_directory(tmp_path) as other:
            assert one.exists(), "somebody works in it"
            assert other != one
    assert os.listdir(tmp_path) == [foreign.name]


def test_what_cannot_be_said_of_an_image_is_told_before_trees_are_read(tree: Path) -> None:
    for said in ({"release": "a b"}, {"name": "two\nlines"}, {"device_types": ("",)}, {"epoch": -1}):
        with pytest.raises(ValueError, match=next(iter(said))):
            Label(**said)  # type: ignore[arg-type]
    command = [sys.executable, "-m", "tbdiff", "create", "--full", tree / "nowhere", "-o", tree.parent / "image"]
    for option, said in (
        ("--release", "a b"),
        ("--device-type", ""),
        ("--name", "two\nlines"),
        ("--epoch", "9" * 30),
        ("--kernel", "../vmlinuz"),
    ):
        done = subprocess.run([*command, option, said], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr.startswith((f"tbdiff: {option} ", f"tbdiff: {option}: not a plain path"))
        assert not any(word in done.stderr for word in ("pattern", "Value error", "Input"))
    for path, said in ((tree / "nowhere", "cannot be read"), ("/dev/zero", "is not what"), (deep(tree), "is not what")):
        done = subprocess.run([*command, "--encoders", path], capture_output=True, text=True)
        assert done.returncode == 3
        assert said in done.stderr


def deep(folder: Path) -> Path:
    """A file that no reader of JSON gets through."""
    path = folder / "deep"
    path.write_text("[" * 100_000)
    return path
