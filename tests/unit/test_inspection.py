"""Images looked into: what their bytes are spent on, their changes as a tree, the difference of one file."""

from __future__ import annotations

import hashlib
import json
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tbdiff.changes import Change
from tbdiff.content import carried, needed
from tbdiff.costs import Costs
from tbdiff.create import Label, create_image
from tbdiff.entry import EMPTY, Kind
from tbdiff.errors import Rejected
from tbdiff.head import MAGIC, Head, read_head
from tbdiff.image import Image, open_image
from tbdiff.outline import as_json, as_text, outline
from tbdiff.payload import chunk_table
from tbdiff.since import Amount, news
from tbdiff.tree import read_tree
from tests import metered
from tests.random_trees import tree_pairs
from tests.roundtrip import clear
from tests.trees import Noise, Tree, build, directory, file, sparse, symlink

GOLDEN = sorted((Path(__file__).parents[1] / "golden/v1").glob("*.tbdiff"))


def costs_of(image: Path) -> Costs:
    with open_image(str(image), None) as opened:
        assert isinstance(opened, Image)
        return opened.costs()


def made(base: Tree | None, target: Tree, ground: Path, **how: object) -> Path:
    """An image between two trees, which are `base` and `target` in `ground`."""
    if base is not None:
        build(base, ground / "base")
    build(target, ground / "target")
    image = ground / "i.tbdiff"
    create_image(ground / "base" if base is not None else None, ground / "target", image, effort="fast", **how)
    return image


def show(*arguments: str | Path) -> metered.Ended:
    return metered.run("tbdiff", "show", *arguments)


# --- what bytes are spent on


@pytest.mark.parametrize("image", GOLDEN, ids=lambda path: path.stem)
def test_every_byte_is_accounted_for(image: Path) -> None:
    costs = costs_of(image)
    assert costs.size == sum(costs.causes.values()) == image.stat().st_size
    for cause in ("delta", "recompressed", "new"):
        assert costs.causes[cause] == sum(one.stored for one in costs.files if one.cause == cause)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inspection")


@given(pair=tree_pairs())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
def test_accounts_of_random_images_name_the_right_files(pair: tuple[Tree, Tree], ground: Path) -> None:
    clear(ground)
    image = made(*pair, ground)
    costs = costs_of(image)
    assert costs.size == image.stat().st_size
    carries = {e.path: carried(e) for e in needed(read_tree(ground / "base"), read_tree(ground / "target"))}
    named = {one.path: one.size for one in costs.files if one.path is not None}
    assert len(costs.files) == len(carries)
    assert named.items() <= carries.items()


def test_all_files_of_a_full_image_are_named(tmp_path: Path) -> None:
    tree = {b"a": file(b"1"), b"d/b": file(b"22"), b"d/c": file(b"1"), b"e": file(b""), b"s": sparse(1 << 16)}
    image = made(None, tree, tmp_path)
    wanted = {entry.path for entry in needed(EMPTY, read_tree(tmp_path / "target"))}
    assert {one.path for one in costs_of(image).files} == wanted


def test_a_file_that_the_base_has_elsewhere_confuses_no_name(tmp_path: Path) -> None:
    """The image does not tell which contents the base has; sizes do, or the name stays unknown."""
    base = {b"a": file(b"aaaa"), b"b": file(b"bbb"), b"c": file(b"c"), b"d": file(b"d")}
    target = base | {b"a": file(b"bbb"), b"c": file(b"other"), b"d": file(b"b")}
    assert {one.path for one in costs_of(made(base, target, tmp_path)).files} == {b"c", b"d"}
    clear(tmp_path)
    alike = base | {b"a": file(b"bbb"), b"c": file(b"333")}
    assert [one.path for one in costs_of(made(base, alike, tmp_path)).files] == [None]


def test_what_is_dear_comes_first_and_under_its_cause(tmp_path: Path) -> None:
    page = b"".join(b"line %d of a manual page\n" % n for n in range(3000))
    old, new = (
        subprocess.run(["gzip", "-9n"], input=text, capture_output=True, check=True).stdout
        for text in (page, page + b"more\n")
    )
    base = {b"man.gz": file(old), b"program": sparse(90_000, Noise(0, 90_000, 1))}
    target = {
        b"man.gz": file(new),
        b"program": sparse(90_000, Noise(0, 90_000, 1), Noise(40_000, 300, 2)),
        b"fresh": sparse(30_000, Noise(0, 30_000, 3)),
    }
    image = tmp_path / "i.tbdiff"
    build(base, tmp_path / "base")
    build(target, tmp_path / "target")
    create_image(tmp_path / "base", tmp_path / "target", image)
    found = [(one.path, one.cause) for one in costs_of(image).files]
    assert found == [(b"fresh", "new"), (b"program", "delta"), (b"man.gz", "recompressed")]
    fresh, program, manual = costs_of(image).files
    assert 30_000 <= fresh.stored < 30_200
    assert 250 < program.stored < 700
    assert manual.stored < 300
    ended = show(image, "--why", "--json")
    said = json.loads(ended.out)
    assert said["size"] == image.stat().st_size == sum(said["causes"].values())
    assert [one["path"] for one in said["files"]] == ["fresh", "program", "man.gz"]
    text = show(image, "--why").out
    assert "fresh (new, of 29.3 KiB)" in text


def test_only_own_images_have_an_account(tmp_path: Path) -> None:
    subprocess.run(["tar", "-cf", tmp_path / "t.tar", "-C", "/etc", "hostname"], check=True)
    for view in (["--why"], ["--diff", "hostname"]):
        ended = show(tmp_path / "t.tar", *view)
        assert ended.code == 3, ended
        assert "another form" in ended.err


def test_a_damaged_image_has_no_account(tmp_path: Path) -> None:
    image = made(None, {b"a": sparse(9000, Noise(0, 9000, 1))}, tmp_path)
    raw = bytearray(image.read_bytes())
    raw[-100] ^= 1
    image.write_bytes(raw)
    ended = show(image, "--why")
    assert (ended.code, ended.out) == (3, "")
    assert "damaged" in ended.err


HARM = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 4), st.binary(max_size=6)), min_size=1, max_size=4)


@given(image=st.sampled_from(GOLDEN), harm=HARM)
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300)
def test_whoever_signs_nonsense_gets_an_account_or_a_refusal(
    image: Path, harm: list[tuple[int, int, bytes]], ground: Path
) -> None:
    raw = BytesIO(image.read_bytes())
    raw.read(len(MAGIC))
    head = read_head(raw)
    old = head.manifest().way
    raw.read(32 * old.chunk_count)
    payload = bytearray(raw.read())
    for where, gone, come in harm:
        at = where % (len(payload) + 1)
        payload[at : at + gone] = come
    table, size = chunk_table(BytesIO(payload), old.chunk_size)
    way = old.model_copy(update={"payload": size, "chunks": hashlib.sha256(table).hexdigest()}).to_bytes()
    (ground / "forged").write_bytes(Head(head.target, way).to_bytes() + table + payload)
    try:
        assert costs_of(ground / "forged").size == (ground / "forged").stat().st_size
    except Rejected:
        pass


# --- the tree


def test_the_outline_adds_up() -> None:
    root = outline(
        [
            Change("changed", b"", ("time",)),
            Change("added", b"usr/bin/ls", ("file",), size=1000),
            Change("added", b"usr/bin/cp", ("file",), size=24),
            Change("renamed", b"usr/lib", (), b"lib"),
            Change("removed", b"x\x1b[2J"),
            Change("changed", None, ("mode",)),
        ]
    )
    assert (root.size, root.count, root.held[b"usr"].size, root.held[b"usr"].count) == (1024, 5, 1024, 3)
    text = list(as_text(root, None))
    assert [line.split()[-1] for line in text[-2:]] == ["cp", "ls"]
    assert text[0].split() == ["1.0", "KiB", "~", "/", "(time)"]
    assert any("> lib (was lib)" in line for line in text)
    assert not any("\x1b" in line for line in text)
    cut = list(as_text(root, 1))
    assert len(cut) == 3
    assert "usr/ [3 changes]" in cut[-1]
    document = as_json(root, None)
    assert (document["size"], document["changes"], document["kind"]) == (1024, 5, "changed")
    assert {"size", "changes", "name"} <= set(document["held"][1]["held"][0])
    assert "held" not in as_json(root, 0)


def test_the_tree_on_the_command_line(tmp_path: Path) -> None:
    image = made({b"a": file(b"1")}, {b"a": file(b"22"), b"d/e": file(b"333")}, tmp_path)
    assert show(image, "--tree").out.splitlines()[0].split()[:2] == ["5", "bytes"]
    said = json.loads(show(image, "--tree", "--json").out)
    assert said["tree"]["size"] == 5
    assert show(image, "--depth", "1").code == 2
    assert show(image, "--tree", "--why").code == 2


# --- one file


BASE: Tree = {
    b"": directory(),
    b"etc/conf": file(b"one\ntwo\nthree\n"),
    b"etc/gone": file(b"bye\n"),
    b"etc/same": file(b"same\n"),
    b"etc/link": symlink(b"same"),
    b"etc/binary": file(b"\0\1\2"),
    b"lib-1/inner": file(b"inner\n"),
    b"lib-1/more": sparse(9000, Noise(0, 9000, 1)),
    b"x": file(b"twin\n", group="g"),
    b"y": file(b"twin\n", group="g"),
    b"donor": file(b"given\n"),
    b"taker": file(b"old\n"),
}
TARGET: Tree = {
    b"": directory(),
    b"etc/conf": file(b"one\n2\nthree"),
    b"etc/same": file(b"same\n", mode=0o600),
    b"etc/link": symlink(b"conf"),
    b"etc/new": file(b"hello\n"),
    b"etc/binary": file(b"\0\1\2\3"),
    b"lib-2/inner": file(b"inner changed\n"),
    b"lib-2/more": sparse(9000, Noise(0, 9000, 1)),
    b"x": file(b"twins\n", group="g"),
    b"y": file(b"twins\n", group="g"),
    b"donor": file(b"given\n"),
    b"taker": file(b"given\n"),
}
DIFFS = {
    "etc/conf": "--- a/etc/conf\n+++ b/etc/conf\n@@ -1,3 +1,3 @@\n one\n-two\n-three\n+2\n+three\n"
    "\\ No newline at end of file\n",
    "/etc/gone": "--- a/etc/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-bye\n",
    "etc/new": "--- /dev/null\n+++ b/etc/new\n@@ -0,0 +1 @@\n+hello\n",
    "lib-2/inner": "--- a/lib-1/inner\n+++ b/lib-2/inner\n@@ -1 +1 @@\n-inner\n+inner changed\n",
    "y": "--- a/y\n+++ b/y\n@@ -1 +1 @@\n-twin\n+twins\n",
    "taker": "--- a/taker\n+++ b/taker\n@@ -1 +1 @@\n-old\n+given\n",
}
NOTES = {
    "etc/same": "etc/same has the same content in base and target. Only these differ: mode.",
    "etc/link": "etc/link is a symlink to conf; it was a symlink to same.",
    "etc/binary": "etc/binary differs, but it is not text.",
    "lib-2": "lib-2 is a directory, as it was before.",
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compared")
    made(BASE, TARGET, place)
    return place


@pytest.mark.parametrize("path", DIFFS)
def test_the_difference_of_a_text(path: str, compared: Path) -> None:
    ended = show(compared / "i.tbdiff", "--diff", path, "--base", compared / "base")
    assert (ended.code, ended.out) == (0, DIFFS[path]), ended


def test_differences_can_be_applied(compared: Path, tmp_path: Path) -> None:
    """`patch` takes what we print."""
    old, new = compared / "base/etc/conf", compared / "target/etc/conf"
    (tmp_path / "conf").write_bytes(old.read_bytes())
    ended = show(compared / "i.tbdiff", "--diff", "etc/conf", "--base", compared / "base")
    git = ["git", "apply", "-p2", "-"]
    subprocess.run(git, input=ended.out.encode(), cwd=tmp_path, check=True)
    assert (tmp_path / "conf").read_bytes() == new.read_bytes()


@pytest.mark.parametrize("path", NOTES)
def test_what_has_no_difference_in_words(path: str, compared: Path) -> None:
    ended = show(compared / "i.tbdiff", "--diff", path, "--base", compared / "base")
    assert (ended.code, ended.out) == (0, NOTES[path] + "\n"), ended
    said = json.loads(show(compared / "i.tbdiff", "--diff", path, "--base", compared / "base", "--json").out)
    assert (said["diff"], said["note"]) == (None, NOTES[path])


def test_questions_without_an_answer(compared: Path) -> None:
    image = compared / "i.tbdiff"
    for arguments, code, words in (
        (["--diff", "etc/none", "--base", compared / "base"], 3, "neither the base nor the target"),
        (["--diff", "etc/conf"], 3, "--base"),
        (["--diff", "etc/conf", "--base", compared / "target"], 4, "target already"),
        (["--base", compared / "base"], 2, "--base with --diff"),
    ):
        ended = show(image, *arguments)
        assert ended.code == code, ended
        assert words in ended.err
        assert ended.out == ""


def test_a_file_of_a_full_image(tmp_path: Path) -> None:
    image = made(None, TARGET, tmp_path)
    assert show(image, "--diff", "etc/new").out == DIFFS["etc/new"]
    assert show(image, "--diff", "etc/new", "--base", tmp_path / "target").code == 3


# --- what is new in a release


def _release(version: str, *more: str) -> Tree:
    """A system with packages, as dpkg leaves them, and a kernel."""
    packages = {"same": "1", "libc6:amd64": version, "new" if version == "2" else "old": "1"}
    held = {f"var/lib/dpkg/info/{name}.md5sums": f"{name} {content}" for name, content in packages.items()}
    held |= {path: path for path in more}
    found: Tree = {path.encode(): file(content.encode()) for path, content in held.items()}
    return found | {f"usr/lib/modules/6.1.0-{version}".encode(): directory()}


def test_what_is_new_since_the_release_before(tmp_path: Path) -> None:
    first, second = tmp_path / "1.tbdiff", tmp_path / "2.tbdiff"
    for version, image, paths in (("1", first, ("a", "gone")), ("2", second, ("a", "b", "c"))):
        build(_release(version, *paths), tmp_path / version)
        create_image(None, tmp_path / version, image, label=Label(name="demo", release=version), effort="fast")
    ended = show(second, "--since", first, "--json")
    found = json.loads(ended.out)
    assert (found["base"]["release"], found["target"]["release"]) == ("1", "2")
    # "b", "c" and the list of the new package; libc's; "gone" and the list of the old one.
    assert found["files"] == {
        "added": {"count": 3, "size": 1 + 1 + len("new 1")},
        "changed": {"count": 1, "size": len("libc6:amd64 2")},
        "removed": {"count": 2, "size": len("gone") + len("old 1")},
    }
    assert found["packages"] == {"added": ["new"], "changed": ["libc6:amd64"], "removed": ["old"]}
    assert found["kernels"] == {"added": ["6.1.0-2"], "changed": [], "removed": ["6.1.0-1"]}
    # The same where the later one came as a delta, and nothing of it without what it starts from.
    delta = tmp_path / "delta.tbdiff"
    create_image(tmp_path / "1", tmp_path / "2", delta, label=Label(name="demo", release="2"), effort="fast")
    assert json.loads(show(delta, "--since", first, "--json").out) == found
    back = json.loads(show(first, "--since", delta, "--over", first, "--json").out)
    assert (back["files"]["added"], back["files"]["removed"]) == (found["files"]["removed"], found["files"]["added"])
    assert show(delta, "--since", delta).code == 3
    lines = show(second, "--since", first).out
    assert "3 added (7 bytes), 1 changed (13 bytes), 2 removed (9 bytes)" in lines
    assert "Packages  1 changed: libc6:amd64" in lines


@given(pair=tree_pairs())
@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=40)
def test_the_news_of_random_trees_add_up(pair: tuple[Tree, Tree], ground: Path) -> None:
    clear(ground)
    for tree, name in zip(pair, ("base", "target"), strict=True):
        build(tree, ground / name)
    old, new = read_tree(ground / "base"), read_tree(ground / "target")
    found, back = news(old, new), news(new, old)
    assert (found.added, found.removed) == (back.removed, back.added)
    assert found.touched == back.touched
    paths = [{one.path for one in listing if one.kind is not Kind.DIRECTORY} for listing in (old, new)]
    assert found.added.count == sum(old.get(path) is None for path in paths[1])
    assert found.removed.count == sum(new.get(path) is None for path in paths[0])
    assert found.changed.count <= len(paths[1]) - found.added.count
    assert news(old, old) == replace(news(old, old), added=Amount(), changed=Amount(), removed=Amount(), touched=0)
