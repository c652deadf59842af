"""A boot that the emulator has spoilt is told from one that went wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.boot.machine import EmulatorFault, Machine

LAST_WORDS = """\
[   60.945631] RIP: 0010:__kmalloc_node_noprof+0x149/0x430
[   60.945632] RSP: 0018:ffffd4c80081b450 EFLAGS: {flags}
[   60.945680] Kernel panic - not syncing: Fatal exception in interrupt
"""


@pytest.mark.parametrize("flags", ["42caeb42", "00000200"])
def test_flags_that_no_processor_has_are_the_emulators_fault(flags: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path, tmp_path / "disk")
    machine.console.write_text(LAST_WORDS.format(flags="00010246"))
    machine.blame_emulator()
    with machine.console.open("a") as console:
        console.write(LAST_WORDS.format(flags=flags))
    with pytest.raises(EmulatorFault, match=flags):
        machine.blame_emulator()
