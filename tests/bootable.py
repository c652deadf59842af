"""Small systems that look as if they could boot, and a device whose boot loader knows them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tbupdate import conversion, perform, planning, upkeep
from tbupdate.boot.chooser import Chooser
from tbupdate.record import Record
from tbupdate.site import Applicable, Site
from tbupdate.steps import Plan
from tbupdate.system import System
from tests import bootpart, device
from tests.device import NOW, TinyImage, fresh_id


def archive(*names: str) -> bytes:
    """A cpio archive of empty files."""
    parts = b""
    for name in (*names, "TRAILER!!!"):
        encoded = name.encode() + b"\0"
        head = b"070701" + b"".join(b"%08X" % n for n in (1, 0o100755, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(encoded), 0))
        parts += (head + encoded).ljust(-(-(len(head) + len(encoded)) // 4) * 4, b"\0")
    return parts


INITRD = archive("init", "usr/lib/tb-update/boot")


def bootable(version: str, size: int = 100_000) -> Callable[[Path], None]:
    """Give a tree the kernel `version`, and take any other away."""

    def dress(tree: Path) -> None:
        for directory in ("boot", "etc", "usr/bin", "usr/lib/modules", "usr/sbin"):
            (tree / directory).mkdir(parents=True, exist_ok=True)
        for name in ("fw_printenv", "fw_setenv"):
            (tree / "usr/bin" / name).write_text("#!")
            (tree / "usr/bin" / name).chmod(0o755)
        (tree / "etc/fw_env.config").write_text("/boot/uboot.env 0x0 0x2000\n")
        for old in (tree / "boot").iterdir():
            old.unlink()
        for old in (tree / "usr/lib/modules").iterdir():
            (old / "modules.dep").unlink()
            old.rmdir()
        (tree / f"boot/vmlinuz-{version}").write_bytes(version.encode() * (size // len(version)))
        (tree / f"boot/initrd.img-{version}").write_bytes(INITRD + version.encode())
        (tree / f"usr/lib/modules/{version}").mkdir()
        (tree / f"usr/lib/modules/{version}/modules.dep").write_text("")
        (tree / "usr/sbin/init").write_text("#!")
        (tree / "usr/sbin/init").chmod(0o755)
        if not (tree / "sbin").is_symlink():
            (tree / "sbin").symlink_to("usr/sbin")

    return dress


@dataclass
class Device:
    """A device that is not running, with a boot partition."""

    top: Path
    boot: Path
    image: Path
    chooser: Chooser

    def site(self, image: Applicable | None = None) -> Site:
        return Site(str(self.top), image, chooser=self.chooser, options="quiet")

    def survey(self) -> System:
        return self.site().survey()

    def run(self, plan: Plan, image: TinyImage | None = None) -> None:
        warnings = perform.perform(plan, self.site(image), NOW)
        assert warnings == (), (warnings, [str(step) for step in plan.every_step])

    def run_first(self, plan: Plan, count: int, image: TinyImage | None = None) -> None:
        """As if the power went out after the first `count` steps."""
        site = self.site(image)
        for step in plan.every_step[:count]:
            perform.do(step, site)

    def plan_deploy(self, image: TinyImage, **more: object) -> Plan:
        return planning.plan_deploy(self.survey(), image.manifest, device.offer(image.release or "t", **more))

    def deploy(self, image: TinyImage, **more: object) -> str:
        plan = self.plan_deploy(image, **more)
        self.run(plan, image)
        assert plan.deployment is not None
        return plan.deployment

    def plan_commit(self) -> Plan:
        return planning.plan_commit(self.survey(), NOW)

    def plan_rollback(self, target: str | None = None) -> Plan:
        return planning.plan_rollback(self.survey(), target, NOW, "test")

    def repair(self) -> None:
        plan = upkeep.plan_repair(self.survey(), NOW)
        if plan.every_step:
            self.run(plan)

    def sets(self) -> set[str]:
        return {path.name for path in (self.boot / "tb-update").glob("k-*")}

    def boots(self, block: str = "") -> str:
        """What the loader boots, by its own reading of the disk: a whole kernel set and a root of the same system."""
        block = block or bootpart.next_block(self.chooser)
        if self.chooser.name == "systemd-boot":
            return self._boots_first_seen(block)
        suffix = {"grub": ".cfg", "flash-kernel": ".env"}.get(self.chooser.name, ".conf")
        text = self._read(f"tb-update/{block}")
        if self.chooser.name in ("grub", "flash-kernel"):
            found = dict(re.findall(r"^(tb_\w+)=(\S*)$", text, re.MULTILINE))
            assert {"tb_trial", "tb_tries", "tb_default"} <= set(found), text
            chosen = found["tb_trial"] if found["tb_trial"] and int(found["tb_tries"]) else found["tb_default"]
        else:
            labels = re.findall(r"^DEFAULT tb-(\S+)$", text, re.MULTILINE)
            assert labels, text
            chosen = labels[-1].removesuffix("-trial")
            assert f"INCLUDE /tb-update/entries/{chosen}.conf" in text
        return self._boots_entry(chosen, self._read(f"tb-update/entries/{chosen}{suffix}"))

    def _boots_first_seen(self, block: str) -> str:
        """What systemd-boot takes first (`back`: what it takes when there are no tries left)."""
        found = []
        for path in (self.boot / "loader/entries").glob("tb-update-*.conf"):
            spent = "+0" in path.name or (block == "back" and "+" in path.name)
            found.append((not spent, path.name, path.read_text()))
        _, _, text = max(found)
        chosen = re.search(r"^options .*tb\.id=(\S+)", text, re.MULTILINE)
        assert chosen is not None
        return self._boots_entry(chosen[1], text)

    def _boots_entry(self, chosen: str, entry: str) -> str:
        assert f"tb.id={chosen}" in entry
        kernels = re.search(r"(k-[0-9a-f]+)(?:/vmlinuz|\n)", entry)
        assert kernels is not None
        kernel = self._read(f"tb-update/{kernels[1]}/vmlinuz")
        initrd = self._read(f"tb-update/{kernels[1]}/initrd")
        deployment = self.top / "snapshots" / chosen
        version = next((deployment / "usr/lib/modules").iterdir()).name
        assert kernel == (deployment / f"boot/vmlinuz-{version}").read_text()
        assert initrd.endswith(version)
        # The hook takes a root that was made of it, or makes one.
        return (deployment / "etc/system").read_text()

    def _read(self, path: str) -> str:
        content = bootpart.as_loader(self.image, path)
        assert content is not None, path
        return content.decode(errors="replace")


def initialised(top: Path, boot: Path, image: Path) -> Device:
    """A device on which `init` was run, with an installed system called "first"."""
    device.make_root(top)
    bootable("6.1.0-1")(top)
    made = Device(top, boot, image, bootpart.chooser(boot))
    made.run(plan_init(made))
    return made


def plan_init(made: Device) -> Plan:
    system = made.survey()
    record = Record(id=fresh_id("first"), release="1.0", created=NOW)
    return conversion.plan_init(system, conversion.find_source(system, None, [""]), record, NOW)
