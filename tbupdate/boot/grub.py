"""GRUB: Debian's grub.cfg reads custom.cfg beside it, which leads to our script; that counts the tries itself."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from tbdiff.errors import Rejected
from tbupdate.boot import place
from tbupdate.boot.chooser import DEVICETREES, OURS, Choice, Coverage, Entry
from tbupdate.boot.inplace import add_line, has_line, of_variables, remove_line, to_variables, variables

HEAD = "# GRUB Environment Block\n"
SCRIPT = "grub.cfg"
LINE = f"source ${{config_directory}}/../{OURS}/{SCRIPT}"
TRIES_MAX = 9
_FOLLOWS = re.compile(r"^\s*set btrfs_relative_path=[\"']?y", re.MULTILINE)

# GRUB cannot calculate, so counting down is a table. What is not in the block counts as nothing: then `default` boots.
_COUNT = "".join(f'  if [ "${{tb_tries}}" = {n} ]; then set tb_left={n - 1}; fi\n' for n in range(1, TRIES_MAX + 1))
_TEXT = f"""# Written by `tb-update init`: boots the deployment that the file `choice` beside this one names.
# While a deployment is on trial, its tries are counted down here, before its kernel can fail.
set tb_dir="${{config_directory}}/../{OURS}"
set tb_default=
set tb_trial=
set tb_tries=
load_env -f "${{tb_dir}}/choice" tb_default tb_trial tb_tries
set tb_next="${{tb_default}}"
set tb_options=
if [ -n "${{tb_trial}}" ]; then
  set tb_left=
{_COUNT}  if [ -n "${{tb_left}}" ]; then
    set tb_tries="${{tb_left}}"
    save_env -f "${{tb_dir}}/choice" tb_tries
    set tb_next="${{tb_trial}}"
    set tb_options="panic=10"
  fi
  source "${{tb_dir}}/entries/${{tb_trial}}.cfg"
fi
export tb_dir
export tb_options
if [ -n "${{tb_default}}" ]; then
  source "${{tb_dir}}/entries/${{tb_default}}.cfg"
  set default="tb-${{tb_next}}"
  set fallback="tb-${{tb_default}}"
fi
"""  # noqa: S608 - a script of GRUB's, not of a database


@dataclass(frozen=True)
class Grub:
    """How GRUB is told."""

    name = "grub"
    suffix = ".cfg"
    coverage = Coverage(
        True,
        "GRUB counts the tries before it starts a kernel, so even one that dies at once is given up; it must be able "
        "to write to /boot (ext4 or FAT on a plain partition)",
    )

    def write_choice(self, choice: Choice) -> str:
        return HEAD + to_variables(choice)

    def read_choice(self, text: str) -> Choice | None:
        return of_variables(variables(text)) if text.startswith(HEAD) else None

    def write_entry(self, entry: Entry) -> str:
        lines = [f'menuentry "{entry.title}" --id "tb-{entry.deployment}" {{']
        lines.append(f'  linux "${{tb_dir}}/{entry.kernels}/vmlinuz" {entry.options} ${{tb_options}}')
        if entry.initrd:
            lines.append(f'  initrd "${{tb_dir}}/{entry.kernels}/initrd"')
        if entry.devicetree not in ("", DEVICETREES):
            lines.append(f'  devicetree "${{tb_dir}}/{entry.kernels}/{entry.devicetree}"')
        return "\n".join([*lines, "}", ""])

    def include(self, directory: str) -> None:
        grub = grub_directory(directory)
        with open(os.path.join(grub, "grub.cfg"), errors="replace") as file:
            if "custom.cfg" not in file.read():
                raise Rejected(
                    f"{grub}/grub.cfg does not read custom.cfg, where tb-update's entries come from; "
                    "nothing was changed",
                    "Make /etc/grub.d/41_custom executable, run update-grub, then try again.",
                )
        place.write_new(os.path.join(directory, OURS, SCRIPT), _TEXT.encode())
        place.flush(directory)
        add_line(os.path.join(grub, "custom.cfg"), LINE)

    def leads(self, directory: str) -> bool:
        return has_line(os.path.join(grub_directory(directory), "custom.cfg"), LINE)

    def exclude(self, directory: str) -> None:
        remove_line(os.path.join(grub_directory(directory), "custom.cfg"), LINE)


def grub_directory(directory: str) -> str:
    """Where GRUB's own files are on the boot partition; empty where it is not used."""
    found = (os.path.join(directory, name) for name in ("grub", "grub2"))
    return next((path for path in found if os.path.isfile(os.path.join(path, "grub.cfg"))), "")


def follows_default(directory: str) -> bool:
    """Whether GRUB looks for its files and for kernels in the default subvolume (openSUSE's does)."""
    found = grub_directory(directory)
    if not found:
        return False
    with open(os.path.join(found, "grub.cfg"), errors="replace") as file:
        return _FOLLOWS.search(file.read()) is not None
