"""The commands of the original tbdiff, for scripts that call them: `tbdiff-create` and `tbdiff-deploy`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tbdiff.errors import NothingToDo, Stop
from tbdiff.signals import interrupt_on_end


def create_main() -> None:
    """`tbdiff-create OUT SOURCE TARGET`: write the difference of two trees in the original format."""
    sys.exit(_run("tbdiff-create", ("OUT", "SOURCE", "TARGET"), _create, sys.argv[1:]))


def deploy_main() -> None:
    """`tbdiff-deploy PATCH`: apply an image to the current directory."""
    sys.exit(_run("tbdiff-deploy", ("PATCH",), _deploy, sys.argv[1:]))


def _create(arguments: Sequence[str], notice: Callable[[str], None]) -> None:
    from tbdiff.legacy.create import create_legacy  # noqa: PLC0415 - deploying needs none of it

    out, source, target = map(Path, arguments)
    create_legacy(source, target, out, notice=notice)


def _deploy(arguments: Sequence[str], notice: Callable[[str], None]) -> None:
    from tbdiff.image import open_image  # noqa: PLC0415
    from tbdiff.writer import sync  # noqa: PLC0415

    here = Path()
    with open_image(arguments[0]) as image:
        image.apply(here)
        sync(here)
        for text in image.notices:
            notice(text)


def _run(
    program: str,
    names: Sequence[str],
    command: Callable[[Sequence[str], Callable[[str], None]], None],
    arguments: Sequence[str],
) -> int:
    """Run one of them; its exit code is 0 or 1, whatever was wrong, as it always was."""

    def say(text: str) -> None:
        print(f"{program}: {text}", file=sys.stderr)

    interrupt_on_end()
    if len(arguments) != len(names) or arguments[0] in ("-h", "--help"):
        print(f"Usage: {program} {' '.join(names)}", file=sys.stderr)
        return 0 if arguments and arguments[0] in ("-h", "--help") else 1
    try:
        command(arguments, say)
    except NothingToDo:
        return 0
    except Stop as stop:
        say(f"{stop}\n{stop.remedy}" if stop.remedy else str(stop))
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 1
    except OSError as error:
        say(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error))
        return 1
    return 0
