"""Two pairs of real Debian systems round-trip bit-exact, from a file, a pipe and a URL, in little memory."""

from __future__ import annotations

import fcntl
import functools
import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.corpus.debian import Corpus
from tests.honest import differences
from tests.metered import Ended, run
from tests.roundtrip import snapshot
from tests.web import served

MEMORY_MAX = 64 << 20
CREATE_MEMORY_MAX = 512 << 20
# Packing an initrd as zstd -9 did takes 90 MiB by itself.
REPACKED_MEMORY_MAX = 192 << 20
# What `point` changes is 262 MB of files; a tree that shares nothing with its base would take 690 MB.
NEW_DATA_MAX = 300 << 20
PAIRS = {"point": ("point-v1", "point-v2"), "tiny": ("point-v2", "tiny-v2")}

Images = Callable[[str], Path]


@pytest.fixture(scope="module")
def images(corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    """The image of each pair, made once."""
    folder = tmp_path_factory.mktemp("images")

    @functools.cache
    def image(pair: str) -> Path:
        base, target = (corpus.top / name for name in PAIRS[pair])
        made = folder / f"{pair}.tbdiff"
        ended = run("tbdiff", "create", "--effort", "fast", base, target, "-o", made)
        assert ended.code == 0, ended.err
        return made

    yield image
    shutil.rmtree(folder)


@pytest.fixture
def copy(corpus: Corpus) -> Iterator[Callable[[str], Path]]:
    """A maker of writable snapshots, which go at the end."""
    made: list[Path] = []

    def of(name: str) -> Path:
        made.append(snapshot(corpus.top / name, corpus.top / f"test-{uuid.uuid4().hex[:12]}"))
        return made[-1]

    yield of
    for path in made:
        subprocess.run(["btrfs", "-q", "subvolume", "delete", path], check=True)


def exclusive(tree: Path) -> int:
    """How much data on disk only this tree holds."""
    os.sync()
    said = subprocess.run(
        ["btrfs", "filesystem", "du", "-s", "--raw", tree], check=True, capture_output=True, text=True
    )
    return int(said.stdout.splitlines()[-1].split()[1])


Done = Callable[[Ended], None]


@pytest.fixture(scope="module")
def done() -> Iterator[Done]:
    """Checks that a run went well; at the end, that none of all the runs held too much memory."""
    peaks: dict[str, int] = {}

    def check(ended: Ended) -> None:
        assert ended.code == 0, ended.err
        peaks[f"{os.environ['PYTEST_CURRENT_TEST']} {len(peaks)}"] = ended.memory

    yield check
    assert {run: f"{peak / 1024**2:.1f} MiB" for run, peak in peaks.items() if peak >= MEMORY_MAX} == {}


@pytest.mark.parametrize("pair", PAIRS)
def test_round_trips(pair: str, corpus: Corpus, images: Images, copy: Callable[[str], Path], done: Done) -> None:
    base, target = PAIRS[pair]
    tree = copy(base)
    done(run("tbdiff", "apply", images(pair), tree))
    assert differences(corpus.top / target, tree) == []
    if pair == "point":
        assert exclusive(tree) < NEW_DATA_MAX
    if pair == "tiny":
        assert exclusive(tree) < 4 << 20


def test_round_trips_with_all_that_makes_an_image_small(
    corpus: Corpus, images: Images, tmp_path: Path, copy: Callable[[str], Path]
) -> None:
    image, tree = tmp_path / "small.tbdiff", copy("point-v1")
    made = run("tbdiff", "create", corpus.point_v1, corpus.point_v2, "-o", image)
    assert made.code == 0, made.err
    assert made.memory < CREATE_MEMORY_MAX, f"{made.memory >> 20} MiB"
    assert image.stat().st_size < images("point").stat().st_size / 2
    applied = run("tbdiff", "apply", image, tree)
    assert applied.code == 0, applied.err
    assert applied.memory < REPACKED_MEMORY_MAX, f"{applied.memory >> 20} MiB"
    assert differences(corpus.point_v2, tree) == []
    image.unlink()


def test_round_trips_from_a_pipe(corpus: Corpus, images: Images, copy: Callable[[str], Path], done: Done) -> None:
    tree = copy("point-v2")
    with subprocess.Popen(["cat", images("tiny")], stdout=subprocess.PIPE) as cat:
        done(run("tbdiff", "apply", "-", tree, stdin=cat.stdout))
    assert differences(corpus.tiny_v2, tree) == []


def test_round_trips_from_a_url(corpus: Corpus, images: Images, copy: Callable[[str], Path], done: Done) -> None:
    tree = copy("point-v1")
    with served(images("point").parent) as url:
        done(run("tbdiff", "apply", f"{url}/{images('point').name}", tree))
    assert differences(corpus.point_v2, tree) == []


def test_round_trips_from_nothing(corpus: Corpus, tmp_path: Path, copy: Callable[[str], Path], done: Done) -> None:
    image, tree = tmp_path / "full.tbdiff", corpus.top / f"test-{uuid.uuid4().hex[:12]}"
    try:
        assert run("tbdiff", "create", "--full", "--effort", "fast", corpus.tiny_v2, "-o", image).code == 0
        subprocess.run(["btrfs", "-q", "subvolume", "create", tree], check=True)
        done(run("tbdiff", "apply", image, tree))
        assert differences(corpus.tiny_v2, tree) == []
    finally:
        subprocess.run(["btrfs", "-q", "subvolume", "delete", tree], check=True)
        image.unlink()


def test_a_device_is_updated_and_goes_back(corpus: Corpus, images: Images, tmp_path: Path, done: Done) -> None:
    """The real system as a device: converted without a copy, updated by a delta, kept, rolled back."""
    (tmp_path / "config.toml").write_text("keep = 5\n")
    options = ("--top", corpus.top, "--config", tmp_path / "config.toml")
    with device_ground(corpus):
        done(run("tbupdate", "init", "--root", "point-v1", "--yes", *options))
        assert differences(corpus.point_v1, corpus.top / "snapshots/root") == []
        assert run("tbupdate", "deploy", images("point"), *options).code == 3
        done(run("tbupdate", "deploy", "--allow-unsigned", images("point"), *options))
        assert differences(corpus.point_v2, corpus.top / "snapshots/root") == []
        assert differences(corpus.point_v2, corpus.top / "snapshots/current") == []
        assert differences(corpus.point_v1, corpus.top / "snapshots/previous") == []
        done(run("tbupdate", "commit", *options))
        done(run("tbupdate", "deploy", "--allow-unsigned", images("tiny"), *options))
        assert differences(corpus.tiny_v2, corpus.top / "snapshots/root") == []
        done(run("tbupdate", "verify", *options))
        done(run("tbupdate", "rollback", *options))
        assert differences(corpus.point_v2, corpus.top / "snapshots/root") == []
        brings_a_user_along(corpus, images("tiny"), options)


def brings_a_user_along(corpus: Corpus, image: Path, options: tuple[str | Path, ...]) -> None:
    """Local changes by the system's own programs: what they change besides the accounts is a copy of these."""
    root = corpus.top / "snapshots/root"
    subprocess.run(["chroot", root, "useradd", "--no-create-home", "--groups", "audio", "me"], check=True)
    subprocess.run(["chroot", root, "chpasswd", "-e"], input=b"me:$y$secret\n", check=True)
    found = json.loads(run("tbupdate", "changes", "--json", *options).out)["changes"]
    carried = {one["path"] for one in found if one["fate"] != "dropped"}
    assert carried == {f"etc/{name}" for name in ("passwd", "shadow", "group", "gshadow", "subuid", "subgid")}
    done = run("tbupdate", "deploy", "--allow-unsigned", "--again", "--json", image, *options)
    assert done.code == 0, done.err
    assert json.loads(done.out)["deployments"][0]["conflicts"] == []
    different = {line.split(":")[0].strip("'") for line in differences(corpus.tiny_v2, root)}
    assert different == carried, different
    said = subprocess.run(["chroot", root, "id", "-Gn", "me"], check=True, capture_output=True, text=True).stdout
    assert said == "me audio\n"
    assert subprocess.run(["chroot", root, "pwck", "-rq"]).returncode == 0
    assert "me:$y$secret:" in (root / "etc/shadow").read_text()


@contextmanager
def device_ground(corpus: Corpus) -> Iterator[None]:
    """One at a time makes a device of the corpus; afterwards it is none again."""
    with (corpus.top.parent / "device.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            subprocess.run(["btrfs", "subvolume", "set-default", "5", corpus.top], check=True)
            for path in (corpus.top / "snapshots").glob("*"):
                subprocess.run(["btrfs", "-q", "subvolume", "delete", path], check=True)
            for name in ("snapshots", "tb-update"):
                shutil.rmtree(corpus.top / name, ignore_errors=True)


def test_same_systems_same_bytes(corpus: Corpus, images: Images, tmp_path: Path) -> None:
    again = tmp_path / "again.tbdiff"
    assert run("tbdiff", "create", "--effort", "fast", corpus.point_v2, corpus.tiny_v2, "-o", again).code == 0
    assert again.read_bytes() == images("tiny").read_bytes()


def test_a_cut_image_changes_nothing(
    corpus: Corpus, images: Images, tmp_path: Path, copy: Callable[[str], Path]
) -> None:
    cut = tmp_path / "cut.tbdiff"
    with images("point").open("rb") as whole:
        cut.write_bytes(whole.read(20 << 20))
    tree = copy("point-v1")
    ended = run("tbdiff", "apply", cut, tree)
    assert ended.code in (1, 3)
    assert "Traceback" not in ended.err
    assert differences(corpus.point_v1, tree) == []


def test_digest_and_verify_agree(corpus: Corpus, images: Images) -> None:
    shown = json.loads(run("tbdiff", "show", "--json", images("tiny")).out)
    digest = run("tbdiff", "digest", corpus.tiny_v2)
    assert digest.code == 0
    assert json.dumps(shown).count(digest.out.split()[0]) == 1
    assert run("tbdiff", "verify", images("tiny"), corpus.tiny_v2).code == 0
    assert run("tbdiff", "verify", images("tiny"), corpus.point_v2).code == 1
