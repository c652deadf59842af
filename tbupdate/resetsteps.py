"""Do the steps by which a reset empties user data, and lets a fresh root find its disks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from tbdiff.descent import Descent
from tbdiff.metadata import set_metadata
from tbdiff.tree import read_names
from tbupdate import marks, subvolumes
from tbupdate.datasteps import exchange_outside
from tbupdate.datavocabulary import AwaitEmptying, Dress, EmptyData, KeepMounts, ResetStep
from tbupdate.flags import INHERITED, flags_of, opened, set_flags
from tbupdate.localchanges.accounts import PEOPLE
from tbupdate.site import Site
from tbupdate.syscalls import sync

TABLES = ("etc/fstab", "etc/crypttab")


def do(step: ResetStep, site: Site) -> None:
    """Perform one step."""
    match step:
        case Dress():
            _dress(step, site)
        case AwaitEmptying(name, subvolume, root):
            ids = (_uuid(path) for path in (os.path.join(site.top, subvolume), site.path(root)))
            marks.put(site.path(""), marks.emptying(subvolume), " ".join((*ids, name)))
        case EmptyData(name, subvolume):
            _empty_data(name, subvolume, site)
        case KeepMounts(source, name):
            for table in TABLES:
                _bring(site.path(source), site.path(name), table)


def _uuid(path: str) -> str:
    return subvolumes.seal(path).partition(":")[0]


def _empty_data(name: str, subvolume: str, site: Site) -> None:
    marked = marks.read(site.path("")).emptying.get(subvolume, "").partition(" ")[0]
    # After a cut it may have been done already.
    if _uuid(os.path.join(site.top, subvolume)) == marked:
        exchange_outside(name, subvolume, site)
        sync(site.top)
    marks.remove(site.path(""), marks.emptying(subvolume))


def _dress(step: Dress, site: Site) -> None:
    old, new = Path(site.top, step.subvolume), site.path(step.name)
    with Descent(old) as was:
        entry, flags = read_names(was, [b""])[b""], flags_of(was.open(b""))
    for name, (uid, gid) in sorted(_homes(site.path(step.deployment), step.place).items()):
        if not os.path.lexists(os.path.join(new, name)):
            _make_home(os.path.join(site.path(step.deployment), "etc/skel"), os.path.join(new, name), uid, gid)
    with opened(new) as root:
        set_flags(root, flags & INHERITED)
        set_metadata(entry, root)


def _homes(tree: str, place: str) -> dict[str, tuple[int, int]]:
    """The homes right within a place that the people of a system have, and to which numbers they belong."""
    found = {}
    path = os.path.join(tree, "etc/passwd")
    if os.path.isfile(path) and not os.path.islink(path):
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.rstrip("\n").split(":") for line in file]
        for line in lines:
            if len(line) > 5 and line[2].isdigit() and line[3].isdigit() and int(line[2]) in PEOPLE:
                above, name = os.path.split(os.path.normpath(line[5]))
                if above == f"/{place}" and name:
                    found[name] = (int(line[2]), int(line[3]))
    return found


def _make_home(skeleton: str, home: str, uid: int, gid: int) -> None:
    if os.path.isdir(skeleton) and not os.path.islink(skeleton):
        shutil.copytree(skeleton, home, symlinks=True)
    else:
        os.mkdir(home)
    for above, directories, files in os.walk(home):
        for name in (*directories, *files):
            os.chown(os.path.join(above, name), uid, gid, follow_symlinks=False)
    os.chown(home, uid, gid)
    os.chmod(home, 0o700)


def _bring(source: str, to: str, path: str) -> None:
    """Let a file of one root be in another as well; there is none where the former has none."""
    one, other = os.path.join(source, path), os.path.join(to, path)
    if os.path.islink(os.path.dirname(one)) or os.path.islink(os.path.dirname(other)):
        return
    if os.path.isfile(one) and not os.path.islink(one) and os.path.isdir(os.path.dirname(other)):
        if os.path.lexists(other):
            os.unlink(other)
        shutil.copy2(one, other)
        status = os.stat(one)
        os.chown(other, status.st_uid, status.st_gid)
