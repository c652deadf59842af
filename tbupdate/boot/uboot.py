"""U-Boot's own counter, which is in its environment; beside extlinux.conf, or the boot script of flash-kernel.

While `upgrade_available` is 1, U-Boot adds one to `bootcount` at each start; as soon as that is above `bootlimit` it
runs `altbootcmd` in place of `bootcmd`. Ours boots what stands in `back`: the deployment that was committed last.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tbdiff.errors import Failed, Rejected
from tbupdate import programs
from tbupdate.boot import kernel, place
from tbupdate.boot.chooser import OURS, Choice, Coverage, was_chosen
from tbupdate.boot.extlinux import Extlinux
from tbupdate.boot.inplace import BACK, InPlace

CONFIG = "/etc/fw_env.config"
READER, WRITER = "fw_printenv", "fw_setenv"
ON, COUNT, LIMIT, OTHERWISE = "upgrade_available", "bootcount", "bootlimit", "altbootcmd"
# The label of what boots otherwise; and whether a trial has shown that U-Boot counts.
GOOD, SEEN = "tb_good", "tb_counts"
WAS = "tb_was_"
# Each U-Boot knows one way or another to boot another label: `fallback` is from 2024, the label's name from 2022, the
# name of the file from 2018; and the boot script has one of its own. What one does not know it passes over.
_OTHERWISE = (
    f"bootmeth set extlinux fallback 1; setenv pxe_label_override ${{{GOOD}}}; "
    f"setenv boot_syslinux_conf {OURS}/{BACK}; setenv tb_notrial 1; run bootcmd"
)
# Says that U-Boot was told to count, also when its environment cannot be read any more.
TOLD = f"{OURS}/u-boot"
_BORROWED = (ON, COUNT, LIMIT, OTHERWISE)


@dataclass(frozen=True)
class Environment:
    """The environment of U-Boot, where `config` says that it is."""

    config: str

    def read(self) -> dict[str, str] | None:
        """All variables; None where there is no environment that could be read."""
        told = programs.run([READER, "-c", self.config])
        # One kind of fw_printenv goes on with variables of its own when the sum is wrong.
        if told.code != 0 or "CRC" in told.err:
            return None
        return dict(line.split("=", 1) for line in told.out.splitlines() if "=" in line)

    def write(self, wanted: Mapping[str, str]) -> None:
        """Set variables, one after the other; those that are to be empty go."""
        have = self.read()
        if have is None:
            raise self._failed("nothing can be read there")
        missing = [name for name, value in wanted.items() if have.get(name, "") != value]
        for name in missing:
            self._set(name, wanted[name])
        if missing:
            have = self.read() or {}
        if any(have.get(name, "") != value for name, value in wanted.items()):
            raise self._failed("it is not what was written to it")

    def _set(self, name: str, value: str) -> None:
        # One variable at a time: of the two kinds of fw_setenv each has a format of its own for several.
        told = programs.run([WRITER, "-c", self.config, name, *([value] if value else [])])
        if told.code != 0:
            raise self._failed(told.last_line)

    def _failed(self, why: str) -> Failed:
        return Failed(
            f"U-Boot's environment cannot be written: {why}",
            f'See {self.config}, or set [boot] chooser = "extlinux" to do without it.',
        )

    @property
    def is_redundant(self) -> bool:
        """Whether there are two copies, of which one is always whole."""
        with open(self.config, errors="replace") as file:
            return sum(1 for line in file if line.strip() and not line.lstrip().startswith("#")) > 1


class Words(Extlinux):
    """What is written for U-Boot: as for extlinux, and the label that it takes when the tries are used up."""

    name = "u-boot"

    def write_choice(self, choice: Choice) -> str:
        return f"{super().write_choice(choice)}FALLBACK tb-{choice.default}\n"


@dataclass(frozen=True)
class UBoot(InPlace):
    """U-Boot with its files on the boot partition, whatever leads it to them, and its counter in `environment`."""

    environment: Environment = field(default_factory=lambda: Environment(CONFIG))

    @property
    def coverage(self) -> Coverage:
        said = self._said()
        if self.environment.read() is None:
            return Coverage(
                False,
                f"U-Boot's environment cannot be read from here (see {self.environment.config}), so its counter cannot "
                "be stopped: nothing can be deployed, committed or rolled back to the end",
            )
        one = "" if self.environment.is_redundant else "; its environment has no second copy: a power cut can spoil it"
        if said.get(OTHERWISE) != _OTHERWISE:
            return Coverage(
                False,
                f"somebody has changed U-Boot's {OTHERWISE}, so that it does not go back by itself; as it was: "
                f"fw_setenv {OTHERWISE} '{_OTHERWISE}'",
            )
        if said.get(SEEN) == "no":
            return Coverage(
                False,
                "U-Boot did not count the last trial (it needs CONFIG_BOOTCOUNT_LIMIT and CONFIG_BOOTCOUNT_ENV): a "
                "kernel that dies before the initramfs is tried again and again until somebody chooses the other entry",
            )
        start = "U-Boot counts the tries before it starts a kernel, so even one that dies at once is given up"
        known = "as the last trial has shown" if said.get(SEEN) else "if it was built to; the first trial will show"
        return Coverage(True, f"{start}; {known}{one}")

    def require_tools(self, tree: int, current: int) -> None:
        places = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "usr/local/sbin")
        tools = (any(kernel.is_program(tree, f"{place}/{name}") for place in places) for name in (READER, WRITER))
        directory, name = os.path.split(CONFIG.lstrip("/"))
        there, before = (name in kernel.OnDisk(one).names(directory) for one in (tree, current))
        # What the deployment before did not have is a local change, which is brought along.
        if not all(tools) or (before and not there):
            raise Rejected(
                "the system could not stop U-Boot's counter, which would in the end go back from it: it lacks "
                f"{READER}, {WRITER} or {CONFIG}; nothing was changed",
                'Add them to the image (libubootenv-tool), or set [boot] chooser = "extlinux" to do without it.',
            )

    def choice(self) -> Choice | None:
        choice = super().choice()
        said = self._said()
        if choice is None or said.get(ON) != "1":
            return choice
        left = max(0, _number(said, LIMIT) - _number(said, COUNT))
        # For nobody: a cut, or the hook, has left the counter on.
        return replace(choice, tries=left if choice.trial is not None else max(left, 1))

    def choose(self, choice: Choice) -> None:
        before, said = super().choice(), self._said()
        if choice.trial is not None:
            limit = max(choice.tries, 1)
            count = {LIMIT: str(limit), COUNT: str(limit - choice.tries), GOOD: f"tb-{choice.default}", ON: "1"}
            self._tell(count)
            super().choose(choice)
        elif before is not None and before.trial == choice.default:
            # What was tried is kept. First the counter: left on, it would in the end give up what was kept.
            if said.get(ON) == "1" and (_number(said, COUNT) or was_chosen(choice.default)):
                self._tell({SEEN: "yes" if _number(said, COUNT) else "no"})
            self._stop()
            super().choose(choice)
        else:
            # What was tried is left. Last the counter: without it, a dead kernel would be tried for ever.
            super().choose(choice)
            self._stop()

    def set_up(self, choice: Choice) -> None:
        said = self._said()
        if said.get(OTHERWISE) != _OTHERWISE:
            kept = {f"{WAS}{name}": said.get(name, "") for name in _BORROWED}
            self._tell(kept | {OTHERWISE: _OTHERWISE})
        super().set_up(choice)
        place.write_new(os.path.join(self.directory, TOLD), b"U-Boot counts the tries in its environment.\n")
        place.flush(self.directory)

    def take_down(self) -> None:
        said = self._said()
        if said.get(OTHERWISE) == _OTHERWISE:
            mine = [name for name in said if name.startswith("tb_")]
            self._tell({name: said.get(WAS + name, "") for name in _BORROWED} | dict.fromkeys(mine, ""))
        super().take_down()

    def _said(self) -> dict[str, str]:
        return self.environment.read() or {}

    def _stop(self) -> None:
        # A counter that is no part of the environment is not stopped by the first; it is by the second.
        self._tell({ON: "0", LIMIT: ""} if self._said().get(ON) == "1" else {LIMIT: ""})

    def _tell(self, wanted: Mapping[str, str]) -> None:
        self.environment.write(wanted)
        # It may be a file on the boot partition.
        place.flush(self.directory)


def was_told(directory: str) -> bool:
    """Whether `init` has told U-Boot to count."""
    return os.path.exists(os.path.join(directory, TOLD))


def _number(said: Mapping[str, str], name: str) -> int:
    value = said.get(name, "")
    return int(value) if value.isdecimal() else 0
