"""A root that is made anew at each boot: by the real hook, with what was saved, whatever is cut or damaged."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tbdiff.errors import NothingToDo, Rejected
from tbupdate import doctor, freezing, layout, resetting, saving, status, upkeep, volatility
from tbupdate.config import Config, Local
from tests import device, faults, schemas, systems, throwaway
from tests.btrfs.test_boot_hook import HOOK
from tests.btrfs.test_enospc import fill_metadata
from tests.conftest import MakeBtrfs
from tests.console import Device as Console
from tests.device import NOW, check_settled
from tests.throwaway import VOLATILE, Machine, damage, image, wanting

pytestmark = pytest.mark.slow


@pytest.fixture(params=["dash", "busybox"])
def machine(request: pytest.FixtureRequest, make_btrfs: MakeBtrfs, tmp_path: Path) -> Iterator[Machine]:
    with throwaway.machine(make_btrfs, tmp_path, request.param) as made:
        yield made


@pytest.fixture
def anew(make_btrfs: MakeBtrfs, tmp_path: Path) -> Iterator[Machine]:
    """One whose root is made anew, with a host name that was saved."""
    with throwaway.machine(make_btrfs, tmp_path) as made:
        wanting(made.root)
        made.set(motd="mine\n")
        made.save()
        made.start()
        yield made


def findings(machine: Machine, *, volatile: bool = True) -> dict[str, str]:
    config = Config(local=Local(volatile=volatile))
    found = doctor.examine(machine.survey(), machine.site(), str(machine.boot), config)
    return {one.name: one.problem for one in found if one.name in ("volatile", "saved")}


def test_what_was_not_saved_is_gone_with_the_next_boot(machine: Machine) -> None:
    machine.set(motd="mine\n")
    machine.start()
    assert machine.has("motd") == "mine\n"
    wanting(machine.root)
    machine.save()
    machine.set(motd="unsaved\n", junk="x")
    (machine.root / "usr/junk").write_text("x")
    for _ in range(3):
        assert "made anew" in machine.start()
        assert (machine.has("motd"), machine.has("junk")) == ("mine\n", None)
        assert not (machine.root / "usr/junk").exists()
        check_settled(machine.top)
        assert machine.roots() == ["root"]
        machine.set(motd="unsaved\n", junk="x")
        (machine.root / "usr/junk").write_text("x")
    machine.save()
    machine.start()
    assert (machine.has("motd"), machine.has("junk")) == ("unsaved\n", "x")
    assert not (machine.root / "usr/junk").exists()


def test_a_system_that_was_broken_is_whole_again(anew: Machine) -> None:
    subprocess.run(["rm", "-rf", *(anew.root / name for name in ("usr", "etc", "sbin"))], check=True)
    assert "made anew" in anew.start()
    assert anew.has("motd") == "mine\n"


def test_what_was_removed_here_stays_removed_when_it_was_saved(anew: Machine) -> None:
    (anew.root / "etc/fstab").unlink()
    anew.start()
    assert anew.has("fstab") is not None
    (anew.root / "etc/fstab").unlink()
    anew.save()
    anew.start()
    assert anew.has("fstab") is None


def test_between_the_boot_and_the_first_command_nothing_was_interrupted(anew: Machine) -> None:
    events = (anew.top / "tb-update/history.jsonl").read_text()
    anew.start(up=False)
    system = anew.survey()
    assert system.booted == system.default
    assert not status.interrupted(system)
    anew.repair()
    assert (anew.top / "tb-update/history.jsonl").read_text() == events


def test_boots_that_are_cut_short_leave_no_more_than_the_root_that_ran_last(anew: Machine) -> None:
    for _ in range(5):
        anew.start(up=False)
        anew.set(motd="unsaved\n")
    assert len(anew.roots()) == 3
    anew.repair()
    check_settled(anew.top)
    assert anew.roots() == ["root"]


def test_the_newest_copy_that_is_whole_is_taken(machine: Machine) -> None:
    wanting(machine.root)
    for name in ("one", "two"):
        machine.set(motd=name)
        machine.save()
    kept = machine.survey().booted
    assert kept is not None
    assert [one.number for one in kept.saved] == [1, 2]
    damage(machine.top / "snapshots" / kept.saved[1].name)
    assert "damaged" in machine.start()
    assert machine.has("motd") == "one"
    assert "damaged" in findings(machine)["saved"]
    assert status.fields(machine.survey())["volatile"]["damaged"] == [2]
    damage(machine.top / "snapshots" / kept.saved[0].name)
    machine.start()
    # The deployment itself does not say that its root is thrown away.
    assert machine.has("motd") == "one"
    machine.save()
    machine.start()
    assert findings(machine) == {}
    assert machine.has("motd") == "one"


def test_a_file_that_proves_a_copy_is_proved_itself(anew: Machine) -> None:
    kept = anew.survey().booted
    assert kept is not None
    anew.set(motd="newer\n")
    anew.save()
    proof = anew.top / f"tb-update/{kept.id}/saved/000002"
    proof.write_bytes(proof.read_bytes()[:-3])
    assert "damaged" in anew.start()
    assert anew.has("motd") == "mine\n"
    proof.write_bytes(b"")
    assert "damaged" in anew.start()
    assert anew.has("motd") == "mine\n"
    assert anew.survey().booted.newest.number == 1  # type: ignore[union-attr]


def test_names_that_are_no_words(anew: Machine) -> None:
    etc = anew.root / "etc"
    names = (b"a b", b"-n", b"back\\slash", b"\xff\xfe", b"line\nbreak", b"'quote\"", b"$(x)")
    for name in names:
        (Path(str(etc).encode().decode()) / name.decode("utf-8", "surrogateescape")).write_bytes(name)
    (etc / "dangling").symlink_to("/nowhere")
    anew.save()
    assert "damaged" not in anew.start()
    for name in names:
        assert (anew.root / "etc" / name.decode("utf-8", "surrogateescape")).read_bytes() == name


def test_it_is_set_and_taken_back_by_what_is_saved(machine: Machine) -> None:
    with pytest.raises(Rejected, match="nothing has to be saved"):
        machine.save(wanted=False)
    wanting(machine.root)
    assert "not in what the root is made of" in findings(machine)["volatile"]
    machine.start()
    assert machine.has("tb-update/config.toml") == VOLATILE
    machine.save()
    machine.start()
    assert findings(machine) == {}
    wanting(machine.root, "")
    assert "not saved" in findings(machine, volatile=False)["volatile"]
    machine.start()
    assert machine.has("tb-update/config.toml") == VOLATILE
    wanting(machine.root, "")
    machine.set(motd="stays")
    machine.save(wanted=False)
    for _ in range(2):
        assert "made anew" not in machine.start()
        assert machine.has("motd") == "stays"
        machine.set(motd="stays")
        check_settled(machine.top)


@pytest.fixture
def shipped(machine: Machine) -> Machine:
    """One whose image says it."""
    machine.deploy(image("second", "2.0", volatile=True))
    machine.start()
    machine.run(machine.plan_commit())
    return machine


def test_drop_forgets_what_was_saved(shipped: Machine) -> None:
    for name in ("one", "two"):
        shipped.set(motd=name)
        shipped.save()
        shipped.start()
    assert shipped.has("motd") == "two"
    shipped.run(saving.plan_drop(shipped.survey(), NOW))
    with pytest.raises(NothingToDo):
        saving.plan_drop(shipped.survey(), NOW)
    # What it was made of stays as long as the root that runs.
    deployment = shipped.survey().booted
    assert deployment is not None
    assert len(saving.of(shipped.survey(), deployment.id)) == 1
    assert shipped.has("motd") == "two"
    (left,) = saving.of(shipped.survey(), deployment.id)
    shipped.save()
    (made,) = shipped.survey().booted.saved  # type: ignore[union-attr]
    assert made.name > left
    shipped.run(saving.plan_drop(shipped.survey(), NOW))
    shipped.start()
    assert shipped.has("motd") == "of the image\n"
    assert saving.of(shipped.survey(), deployment.id) == ()
    check_settled(shipped.top)


def test_drop_forgets_all_but_that_the_root_is_made_anew(anew: Machine) -> None:
    anew.set(hostname="mine", **{"machine-id": "mine"})
    anew.save()
    anew.start()
    assert anew.has("hostname") == "mine"
    anew.run(saving.plan_drop(anew.survey(), NOW))
    for _ in range(2):
        assert "made anew" in anew.start()
        assert (anew.has("motd"), anew.has("tb-update/config.toml")) == ("of the image\n", VOLATILE)
        assert (anew.has("hostname"), anew.has("machine-id")) == (None, None)
        anew.set(motd="unsaved")
    check_settled(anew.top)


def test_drop_cut_after_every_step(shipped: Machine) -> None:
    for count in range(30):
        for name in ("one", "two"):
            shipped.set(motd=name)
            shipped.save()
        plan = saving.plan_drop(shipped.survey(), NOW)
        shipped.run_first(plan, count)
        shipped.start()
        # Never the older one of the two.
        assert shipped.has("motd") in ("two", "of the image\n")
        check_settled(shipped.top)
        if count > len(plan.every_step):
            assert shipped.has("motd") == "of the image\n"
            return
    raise AssertionError("a plan of thirty steps")


def test_a_deploy_takes_what_was_saved_and_nothing_else(anew: Machine) -> None:
    anew.set(motd="unsaved\n", unsaved="x")
    second = anew.deploy(image("second", "2.0"))
    anew.start()
    assert anew.survey().booted.id == second  # type: ignore[union-attr]
    assert (anew.has("system"), anew.has("motd"), anew.has("unsaved")) == ("second", "mine\n", None)
    anew.set(unsaved="x")
    # A trial is made anew, too; this is its last.
    assert "made anew" in anew.start()
    assert anew.has("unsaved") is None
    anew.run(anew.plan_commit())
    anew.set(motd="of second\n", machine="x")
    anew.save()
    anew.start()
    assert anew.has("motd") == "of second\n"
    check_settled(anew.top)
    anew.run(anew.plan_rollback())
    anew.start()
    assert (anew.has("system"), anew.has("motd"), anew.has("machine")) == ("first", "mine\n", None)
    check_settled(anew.top)


def test_what_is_saved_between_the_deploy_and_the_boot_is_not_lost(anew: Machine) -> None:
    anew.deploy(image("second", "2.0"))
    for name in ("late", "later"):
        anew.set(**{name: name})
        anew.save()
    anew.set(unsaved="x")
    anew.start()
    assert [anew.has(name) for name in ("system", "motd", "late", "later", "unsaved")] == [
        *("second", "mine\n", "late", "later", None)
    ]
    check_settled(anew.top)


def test_a_conflict_is_told(anew: Machine) -> None:
    made = image("second", "2.0")
    before = made.failure

    def other(tree: Path) -> None:
        before(tree)  # type: ignore[misc]
        (tree / "etc/motd").write_text("another\n")

    made.failure = other
    plan = anew.plan_deploy(made)
    from tbupdate import perform

    (said,) = perform.perform(plan, anew.site(made), NOW)
    assert "motd" in said
    anew.start()
    assert anew.has("motd") == "mine\n"
    assert [one.path for one in anew.survey().booted.conflicts] == [b"etc/motd"]  # type: ignore[union-attr]


def test_a_new_image_may_say_it_and_what_was_carried_counts_as_saved(machine: Machine) -> None:
    machine.set(mine="x")
    machine.deploy(image("second", "2.0", volatile=True))
    machine.set(late="x")
    machine.start()
    assert [machine.has(name) for name in ("system", "mine", "late")] == ["second", "x", "x"]
    machine.set(unsaved="x")
    machine.start()
    assert [machine.has(name) for name in ("system", "mine", "late", "unsaved")] == ["second", "x", "x", None]
    machine.run(machine.plan_commit())
    check_settled(machine.top)


def test_what_goes_both_ways_follows_a_rollback(anew: Machine) -> None:
    anew.deploy(image("second", "2.0"))
    anew.start()
    anew.run(anew.plan_commit())
    anew.set(**{"machine-id": "new"})
    anew.save()
    anew.run(anew.plan_rollback())
    for _ in range(2):
        anew.start()
        assert (anew.has("system"), anew.has("machine-id"), anew.has("motd")) == ("first", "new", "mine\n")
    check_settled(anew.top)


def test_reset_leaves_nothing_that_was_saved(anew: Machine) -> None:
    system = anew.survey()
    anew.run(resetting.plan_reset(system, resetting.find_target(system, None), NOW))
    anew.start()
    assert anew.has("motd") == "of the image\n"
    check_settled(anew.top)


def test_what_runs_is_frozen_with_what_was_not_saved(anew: Machine) -> None:
    anew.set(unsaved="x")
    wish = systems.wish(anew.top, anew.survey())
    plan = freezing.plan_snapshot(anew.survey(), wish)
    anew.run(plan)
    anew.run(anew.plan_rollback(plan.deployment))
    for _ in range(2):
        anew.start()
        assert (anew.survey().booted.id, anew.has("unsaved")) == (plan.deployment, "x")  # type: ignore[union-attr]
        anew.set(more="x")
        assert "made anew" in anew.start()
        assert anew.has("more") is None
        break


def test_on_a_full_disk_the_root_is_made_anew(anew: Machine) -> None:
    fill_metadata(anew.top)
    for _ in range(3):
        assert "made anew" in anew.start(up=False)
        assert anew.has("motd") == "mine\n"


# --- cuts ------------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
@pytest.mark.parametrize("staged", [False, True])
def test_save_cut_after_every_step(anew: Machine, staged: bool) -> None:
    old = "mine\n"
    for count in range(60):
        new = f"number {count}\n"
        if staged:
            anew.deploy(image("next", f"{count + 2}.0"))
        anew.set(motd=new)
        plan = anew.plan_save()
        anew.run_first(plan, count)
        anew.start()
        assert anew.has("motd") in (old, new)
        if staged:
            anew.run(anew.plan_commit())
        check_settled(anew.top)
        anew.set(motd=new)
        anew.save()
        anew.start()
        assert anew.has("motd") == new
        check_settled(anew.top)
        kept = anew.survey().booted
        assert kept is not None
        assert len(kept.saved) == 2
        assert set(saving.of(anew.survey(), kept.id)) == {one.name for one in kept.saved}
        if staged:
            with contextlib.suppress(NothingToDo):
                anew.run(upkeep.plan_prune(anew.survey(), 2, NOW))
        old = new
        if count > len(plan.every_step):
            return
    raise AssertionError("a plan of sixty steps")


@pytest.mark.timeout(900)
def test_deploy_cut_after_every_step(anew: Machine) -> None:
    for count in range(60):
        made = image("second", f"{count + 2}.0")
        anew.set(unsaved="x")
        plan = anew.plan_deploy(made)
        anew.run_first(plan, count, made)
        anew.start()
        assert (anew.has("motd"), anew.has("unsaved")) == ("mine\n", None)
        check_settled(anew.top)
        system = anew.survey()
        if system.booted is not None and system.booted.id == plan.deployment:
            anew.run(anew.plan_commit())
            anew.run(anew.plan_rollback())
            anew.start()
            with contextlib.suppress(NothingToDo):
                anew.run(upkeep.plan_prune(anew.survey(), 1, NOW))
        assert (anew.has("system"), anew.has("motd")) == ("first", "mine\n")
        check_settled(anew.top)
        assert sorted({layout.saved_of(name) for name in device.names(anew.top)} - {None}) == sorted(
            kept.id for kept in anew.survey().deployments
        )
        if count > len(plan.every_step):
            return
    raise AssertionError("a plan of sixty steps")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", ["killed", "EIO"])
def test_save_hurt_at_system_calls(anew: Machine, how: str) -> None:
    """Run as a command on a device that is not running: what would boot next is saved."""
    config = anew.top.parent / "config.toml"
    config.write_text(VOLATILE)
    anew.running = None
    options = ["--top", str(anew.top), "--boot", str(anew.boot), "--config", str(config)]
    command = faults.python("tbupdate", *options, "changes", "save")
    anew.set(motd="recorded\n")
    ended, calls = faults.record(command, anew.top)
    assert ended.code == 0, ended.err
    old = "recorded\n"
    for number, call in enumerate(faults.some(calls, 12)):
        anew.running = None
        new = f"number {number}\n"
        anew.set(motd=new)
        done = faults.kill_at(call, command) if how == "killed" else faults.fail_at(call, command, how)
        assert "Traceback" not in done.err
        assert done.code in ((-9, 0) if how == "killed" else (0, 1)), done
        anew.start()
        found = anew.has("motd")
        assert found in (old, new), str(call)
        if done.code == 0:
            assert found == new, str(call)
        old = found
        check_settled(anew.top)


# --- as a command ----------------------------------------------------------------------------------------------------


def test_as_a_person_sees_it(anew: Machine) -> None:
    anew.running = None
    config = anew.top.parent / "config.toml"
    config.write_text(VOLATILE)

    def command(*words: str, code: int = 0) -> str:
        told = ["--top", str(anew.top), "--boot", str(anew.boot), "--config", str(config)]
        done = subprocess.run([sys.executable, "-m", "tbupdate", *told, *words], capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    def seen(*words: str) -> dict[str, tuple[str, bool]]:
        said = json.loads(command("--json", "changes", *words))
        schemas.hold("tb-update", ("changes", *words), said)
        assert said["volatile"]
        return {one["path"]: (one["fate"], one["saved"]) for one in said["changes"]}

    anew.set(unsaved="x")
    (anew.root / "junk").write_text("x")
    deployment = anew.survey().default
    assert deployment is not None
    for words in ((), (deployment.id,), (deployment.id[:5],), ("current",)):
        held = seen(*words)
        assert held["etc/motd"] == ("carried", True)
        assert held["etc/unsaved"] == ("carried", False)
        assert held["junk"] == ("dropped", False)
    anew.set(motd="of the image\n")
    said = command("changes")
    assert re.search(r"^carried, not saved +~ etc/motd", said, re.MULTILINE)
    assert "lost with the next boot" in said
    assert "are saved, as copy 2" in command("changes", "save")
    assert seen()["etc/unsaved"] == ("carried", True)
    status = json.loads(command("status", "--json"))
    schemas.hold("tb-update", ("status",), status)
    assert status["volatile"]["saved"]["copy"] == 2
    assert "made anew at each boot; local changes as saved on" in command("status")
    assert "needs a yes" in command("changes", "drop", code=3)
    assert json.loads(command("--json", "--yes", "changes", "drop"))["done"] == "drop"
    command("changes", "nothing-there", code=3)


def test_without_our_boot_loader_nothing_can_be_saved(dev: Console) -> None:
    config = dev.work / "config.toml"
    dev("changes", "save", code=3)
    config.write_text(config.read_text() + VOLATILE)
    wanting(dev.top / "snapshots/root")
    assert "no boot loader" in dev.run("changes", "save").stderr
    found = {one["name"]: one["problem"] for one in dev.json("doctor", code=1)["findings"]}
    assert "stays as it is" in found["volatile"]
    assert dev.status()["volatile"] is None


# --- what the hook reads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (VOLATILE, True),
        ("keep = 3\n[local] # mine\ncarry = ['/etc']\n  volatile=true # yes\n[space]\nreserve = 1\n", True),
        ("[local]\nvolatile = false\n", False),
        ("[local]\n# volatile = true\n", False),
        ("[health]\nvolatile = true\n", False),
        ("[local]\nconflict = 'keep'\n[health]\nvolatile = true\n", False),
        ("volatile = true\n[local]\n", False),
        ("local.volatile = true\n", False),
        ("", False),
        ("[local]\nvolatile = true", True),
    ],
)
@pytest.mark.parametrize("shell", ["dash", "busybox sh"])
def test_the_hook_and_the_program_read_the_same(text: str, says: bool, shell: str, tmp_path: Path) -> None:
    wanting(tmp_path, text)
    function = HOOK.read_text().partition("is_volatile() {")[2].partition("\n}\n")[0]
    script = f"is_volatile() {{{function}\n}}\nis_volatile {tmp_path}"
    sed = 'sed() { busybox sed "$@"; }\n' if "busybox" in shell else ""
    done = subprocess.run([*shell.split(), "-c", sed + script], capture_output=True, text=True)
    assert done.stderr == ""
    assert (done.returncode == 0) is says
    assert volatility.is_set(str(tmp_path)) is says
    (tmp_path / "elsewhere").write_text(VOLATILE)
    (tmp_path / throwaway.CONFIG).unlink()
    (tmp_path / throwaway.CONFIG).symlink_to(tmp_path / "elsewhere")
    assert subprocess.run([*shell.split(), "-c", sed + script]).returncode != 0
    assert not volatility.is_set(str(tmp_path))
