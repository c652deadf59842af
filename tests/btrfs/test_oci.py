"""OCI image layouts as what images are made of: layers, whiteouts, packings, digests, platforms."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.image import open_image
from tests import metered
from tests.honest import differences
from tests.oci import INDEX, MANIFEST, Layout, named, platform
from tests.tarballs import Raw, archive, directory, gzipped, zstandard
from tests.trees import Tree, build, file
from tests.trees import directory as folder

pytestmark = pytest.mark.slow

ROOT = directory(b"./")
LOWER = archive(
    directory(b"etc/"),
    Raw(b"etc/a", b"1"),
    Raw(b"etc/b", b"2"),
    directory(b"old/"),
    Raw(b"old/x", b"x"),
    Raw(b"gone", b""),
)
MIDDLE = archive(
    directory(b"etc/"), Raw(b"etc/a", b"one"), Raw(b".wh.gone"), directory(b"old/"), Raw(b"old/.wh..wh..opq")
)
UPPER = archive(Raw(b"old/y", b"y"), Raw(b"etc/c", flag=b"1", link=b"etc/b"))
NOON = 1_700_000_000 * 10**9
# What the three layers make.
MADE: Tree = {
    b"": folder(mtime=0),
    b"etc": folder(),
    b"etc/a": file(b"one"),
    b"etc/b": file(b"2", group="b"),
    b"etc/c": file(b"2", group="b"),
    b"old": folder(),
    b"old/y": file(b"y"),
}
LAYERS = ((gzipped(LOWER), "+gzip"), (zstandard(MIDDLE), "+zstd"), (UPPER, ""))


@pytest.fixture
def ground(btrfs_of_module: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=btrfs_of_module) as path:
        yield Path(path)


@pytest.fixture
def layout(ground: Path) -> Layout:
    return Layout(ground / "layout")


def tbdiff(*arguments: str | Path) -> metered.Ended:
    return metered.run("tbdiff", *arguments)


def applied(image: Path, tree: Path) -> Path:
    tree.mkdir(exist_ok=True)
    with open_image(str(image)) as opened:
        opened.apply(tree)
    return tree


def test_layers_become_one_tree(ground: Path, layout: Layout) -> None:
    layout.index(layout.image(*LAYERS))
    build(MADE, ground / "wanted")
    ended = tbdiff("create", "--full", layout.root, "-o", ground / "image")
    assert ended.code == 0, ended.err
    assert differences(ground / "wanted", applied(ground / "image", ground / "new")) == []
    ended = tbdiff("convert", layout.root, "-o", ground / "again")
    assert ended.code == 0, ended.err
    assert (ground / "again").read_bytes() == (ground / "image").read_bytes()
    assert tbdiff("convert", layout.root, "-o", ground / "out.tar.gz").code == 0
    assert differences(ground / "wanted", applied(ground / "out.tar.gz", ground / "unpacked")) == []
    assert not list(ground.glob(".*"))


def test_deltas_between_layouts_and_trees(ground: Path, layout: Layout) -> None:
    layout.index(layout.image(*LAYERS))
    build(MADE, ground / "wanted")
    lower = Layout(ground / "lower")
    lower.index(lower.image(LAYERS[0]))
    assert tbdiff("create", "--full", lower.root, "-o", ground / "full").code == 0
    tree = applied(ground / "full", ground / "tree")
    ended = tbdiff("create", lower.root, layout.root, "-o", ground / "delta")
    assert ended.code == 0, ended.err
    assert differences(ground / "wanted", applied(ground / "delta", tree)) == []
    assert tbdiff("create", tree, lower.root, "-o", ground / "back", "--scratch", ground).code == 0
    applied(ground / "back", tree)
    assert not (tree / "old/y").exists()


def test_the_platform_is_chosen(ground: Path, layout: Layout) -> None:
    arms = [
        layout.image((archive(ROOT, Raw(b"is", name)), ""), **platform("arm", name.decode())) for name in (b"v6", b"v7")
    ]
    amd = layout.image((archive(ROOT, Raw(b"is", b"amd64")), ""), architecture="amd64", **named("1.0"))
    extra = layout.image((archive(ROOT, Raw(b"is", b"attested")), ""), **platform("unknown", system="unknown"))
    inner = layout.document({"manifests": [*arms, extra]}, INDEX)
    layout.index(inner, amd)
    for wanted, content in (("linux/amd64", "amd64"), ("linux/arm/v7", "v7")):
        ended = tbdiff("create", "--full", layout.root, "--platform", wanted, "-o", ground / content)
        assert ended.code == 0, ended.err
        assert (applied(ground / content, ground / f"tree-{content}") / "is").read_text() == content
    for arguments, words in (
        ((), "linux/amd64 (1.0), linux/arm/v6, linux/arm/v7"),
        (("--platform", "linux/arm"), "several"),
        (("--platform", "linux/riscv64"), "no image for linux/riscv64"),
    ):
        ended = tbdiff("create", "--full", layout.root, *arguments, "-o", ground / "none")
        assert (ended.code, words in ended.err) == (3, True), ended
    assert not (ground / "none").exists()


def test_one_image_needs_no_choice_whatever_it_is_for(ground: Path, layout: Layout) -> None:
    extra = layout.image((archive(ROOT), ""), **platform("unknown", system="unknown"))
    layout.index(layout.image(*LAYERS, **platform("s390x")), extra)
    assert tbdiff("convert", layout.root, "-o", ground / "image").code == 0


def test_damage_and_nonsense(ground: Path, layout: Layout) -> None:
    manifest = layout.image(*LAYERS)

    def refused(words: str, *arguments: str | Path) -> None:
        ended = tbdiff("create", "--full", layout.root, *arguments, "-o", ground / "out")
        assert (ended.code, words in ended.err) == (3, True), ended
        assert "Traceback" not in ended.err
        assert sorted(path.name for path in ground.iterdir()) == ["layout"]

    layout.index({**manifest, "digest": "sha512:" + "0" * 128})
    refused("sha256 only")
    layout.index({**manifest, "digest": "sha256:../../../etc/passwd"})
    refused("sha256 only")
    layout.index({**manifest, "digest": "sha256:" + "0" * 64})
    refused("lacks a part")
    layout.index({**manifest, "size": 1})
    refused("damaged")
    layout.index({"mediaType": "application/vnd.example"})
    refused("no image for any platform")
    layout.index(layout.document({"layers": []}, MANIFEST))
    refused("no layers")
    layout.index(layout.document({"layers": [{"mediaType": "application/vnd.cncf.helm.chart"}]}, MANIFEST))
    refused("helm.chart")
    layout.index(layout.image((archive(ROOT, Raw(b"../out", b"x")), "")))
    refused("layer 1 of 1")
    deep = manifest
    for _ in range(8):
        deep = layout.document({"manifests": [deep]}, INDEX)
    layout.index(deep)
    refused("names no manifests")
    (layout.root / "index.json").write_text("[" * 100_000)
    refused("not the JSON")
    (layout.root / "index.json").write_text("[]")
    refused("not the JSON")
    layout.index(manifest)
    (layout.root / "oci-layout").write_text(json.dumps({"imageLayoutVersion": "2.0.0"}))
    refused("version")


def test_a_damaged_layer_is_found_before_it_is_read(ground: Path, layout: Layout) -> None:
    layout.index(layout.image(*LAYERS))
    for blob in (layout.root / "blobs/sha256").iterdir():
        content = blob.read_bytes()
        blob.write_bytes(content[:-1] + bytes((content[-1] ^ 1,)))
        ended = tbdiff("convert", layout.root, "-o", ground / "out")
        assert (ended.code, "damaged" in ended.err) == (3, True), ended
        blob.write_bytes(content)
    assert tbdiff("convert", layout.root, "-o", ground / "out").code == 0


def test_what_does_not_go_together(ground: Path, layout: Layout) -> None:
    layout.index(layout.image(*LAYERS))
    (ground / "tree").mkdir()
    assert tbdiff("keygen", ground / "key").code == 0
    for arguments, code, words in (
        (("convert", layout.root, ground / "tree"), 3, "goes over no base"),
        (("convert", layout.root, "--keys", ground / "key.pub"), 3, "no signature that tbdiff knows"),
        (("create", "--full", ground / "tree", "--platform", "linux/amd64"), 2, "there is none"),
        (("create", "--full", layout.root, "--legacy"), 2, "for trees"),
    ):
        ended = tbdiff(*arguments, "-o", ground / "out")
        assert (ended.code, words in ended.err) == (code, True), ended
