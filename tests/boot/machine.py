"""A machine in QEMU: switched on, watched on its serial console, told what to do by the agent in it, cut off."""

from __future__ import annotations

import base64
import os
import re
import select
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.boot import emulator
from tests.crash import recording

# Ten times what an idle machine takes.
PATIENCE = 400.0
# Flags that no processor has: always 0, and always 1.
ZEROS, ONES = 0xFFC0_0000, 0b10


class EmulatorFault(Exception):
    """The guest's kernel died of what only an emulator does: QEMU's translation now and then computes flags wrongly."""


@dataclass(frozen=True)
class Recording:
    """What the disk was when the machine was switched on, and the log of all that it saw since."""

    before: Path
    log: Path

    @property
    def count(self) -> int:
        """How many writes and flushes there were until now."""
        return recording.count(self.log)


class Machine:
    """One disk, one machine. It does not reset: it ends then, and is switched on anew, as hardware would be."""

    def __init__(self, folder: Path, disk: Path, *more: str) -> None:
        self.folder = folder
        self.disk = disk
        self.console = folder / "console.log"
        self.console.touch()
        self.seen = 0
        self.boots = 0
        self.command = [
            # It ends with us, however we end.
            *("setpriv", "--pdeathsig", "KILL"),
            *emulator.command(),
            *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
            *("-M", "pc", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "qemu64", "-smp", "1", "-m", "768"),
            *("-chardev", f"file,id=con,path={self.console},append=on", "-serial", "chardev:con"),
            *("-chardev", f"socket,id=agent,path={folder}/agent,server=on,wait=off"),
            *("-device", "virtio-serial-pci", "-device", "virtserialport,chardev=agent,name=tb.agent"),
            *more,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Machine:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut()

    def start(self, *drive: str) -> None:
        """Switch it on."""
        assert self.process is None
        (self.folder / "agent").unlink(missing_ok=True)
        drive = drive or ("-drive", f"file={self.disk},format=raw,if=none,id=disk,cache=unsafe,discard=unmap")
        # Merged writes have more parts than a log can take.
        command = [*self.command, *drive, "-device", "virtio-blk-pci,drive=disk,bootindex=1,request-merging=off"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self.boots += 1
        self.agent = socket.socket(socket.AF_UNIX)
        limit = time.monotonic() + 30
        while True:
            try:
                self.agent.connect(os.fspath(self.folder / "agent"))
                break
            except OSError:
                assert self.process.poll() is None, "QEMU ended at once"
                assert time.monotonic() < limit
                time.sleep(0.05)
        self.lines = self.agent.makefile("r", errors="replace")

    def start_recorded(self, name: str) -> Recording:
        """Switch it on, and log what its disk sees."""
        made = Recording(*(self.disk.with_name(f"{name}.{what}") for what in ("before", "log")))
        subprocess.run(["cp", "--sparse=always", "--reflink=auto", self.disk, made.before], check=True)
        recording.create_log(made.log)
        self.start(*recording.drive(self.disk, made.log))
        return made

    def cut(self) -> None:
        """Cut the power."""
        if self.process is not None:
            self.process.send_signal(signal.SIGKILL)
            self._ended()

    @property
    def spent(self) -> float:
        """Seconds of a processor that it has used since it was switched on: they pass as it does its work."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def cut_at(self, spent: float) -> None:
        """Cut the power when it has spent that much, or as soon as a script that it was asked for has ended.

        One that is up and has nothing more to do spends nothing: it is cut as it is, and has to come up again.
        """
        limit = time.monotonic() + PATIENCE
        while self.process is not None and self.process.poll() is None and self.spent < spent:
            if time.monotonic() > limit:
                break
            if select.select([self.agent], [], [], 0)[0] and b"done " in self.agent.recv(1 << 20, socket.MSG_PEEK):
                break
            time.sleep(0.01)
        self.cut()

    def wait_end(self) -> None:
        """Until it switches itself off, or wants to start anew."""
        assert self.process is not None
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end; {self._tail()}") from None
        self._ended()

    def _ended(self) -> None:
        assert self.process is not None
        self.process.wait()
        self.process = None
        self.lines.close()
        self.agent.close()
        self.blame_emulator()

    def blame_emulator(self) -> None:
        """Raise EmulatorFault if the console says so."""
        for flags in re.findall(r"EFLAGS: ([0-9a-f]{8})", self.text()):
            if int(flags, 16) & ZEROS or not int(flags, 16) & ONES:
                raise EmulatorFault(f"flags that no processor has: {flags}")

    def text(self) -> str:
        """All that was on the console."""
        return self.console.read_text(errors="replace")

    def expect(self, pattern: str) -> str:
        """Wait for a line on the console, behind the last one that was waited for."""
        limit = time.monotonic() + PATIENCE
        while True:
            text = self.text()
            found = re.compile(pattern).search(text, self.seen)
            if found:
                self.seen = found.end()
                return found[0]
            assert time.monotonic() < limit, f"{pattern!r} did not come; {self._tail()}"
            assert self.process is None or self.process.poll() is None, f"it ended before {pattern!r}; {self._tail()}"
            time.sleep(0.1)

    def up(self) -> str:
        """Wait until the system is up; its version."""
        self.agent.settimeout(PATIENCE)
        try:
            for line in self.lines:
                if line.startswith("hello "):
                    return line.split()[1]
        except TimeoutError:
            pass
        self.blame_emulator()
        raise AssertionError(f"it did not come up; {self._tail()}")

    def settle(self) -> str:
        """Wait until the system is up and has done all that it does by itself then; its version."""
        version = self.up()
        self.run("systemctl is-system-running --wait", code=None)
        return version

    def settle_or_end(self) -> str | None:
        """The same; None if it switches itself off, or wants to start anew."""
        try:
            return self.settle()
        except (AssertionError, OSError):
            self.wait_end()
            return None

    def run(self, script: str, code: int | None = 0) -> str:
        """Run a script in it; its output."""
        self.agent.settimeout(PATIENCE)
        self.tell(script)
        for line in self.lines:
            if line.startswith("done "):
                fields = line.split()
                said = base64.b64decode(fields[2]).decode(errors="replace") if len(fields) > 2 else ""
                assert code is None or int(fields[1]) == code, f"{script}: exit {fields[1]}\n{said}"
                return said
        raise AssertionError(f"the agent went away during {script!r}; {self._tail()}")

    def tell(self, script: str) -> None:
        """Let it begin with a script."""
        self.agent.sendall(base64.b64encode(script.encode()) + b"\n")

    def ask(self, script: str) -> None:
        """Let it do what ends the agent."""
        self.tell(f"({script}) >/dev/null 2>&1 &")

    def switch_off(self) -> None:
        """Shut it down."""
        self.ask("systemctl poweroff")
        self.wait_end()

    def reboot(self) -> str:
        """A clean reboot; the version that comes up."""
        self.ask("systemctl reboot")
        self.wait_end()
        self.start()
        return self.settle()

    def _tail(self) -> str:
        return "its console:\n" + self.text()[-3000:]
