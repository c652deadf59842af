"""How both programs meet the outside: streams that may be closed or fail, text that is safe to print, exit codes."""

from __future__ import annotations

import codecs
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import click

from tbdiff.errors import Busy, Failed, NothingToDo, Rejected, Stop

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

USAGE = 2
_KINDS = {Rejected: "rejected", NothingToDo: "nothing-to-do", Busy: "busy"}


class Report(Protocol):
    """How a program prints an error."""

    def __call__(self, kind: str, message: str, remedy: str, *, as_json: bool) -> None:
        """Print what kind of error it is, what is wrong, and what to do."""


@dataclass(frozen=True)
class Program:
    """What differs between the programs: how errors are printed, what is said of signals and of the system's errors."""

    name: str
    report: Report
    interrupted: Failed
    advice: str = ""

    def main(self, run: Callable[[list[str]], int]) -> int:
        """Run the command that the process was started with; the exit code."""
        # What else is installed has no part in how messages are read; and looking for it takes time at each start.
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        with _streams() as output:
            code = run(sys.argv[1:])
        if output.error is None or isinstance(output.error, BrokenPipeError):
            # Whoever read along has seen enough.
            return code
        done = "what was asked for is done, but " if code == 0 else ""
        self.report("failed", f"{done}the result could not be printed: {output.error.strerror}", "", as_json=False)
        return code or Failed.exit_code

    def run(self, command: Callable[[], Any], *, as_json: bool) -> int:
        """Run one command; the exit code, by how it ended."""
        try:
            ended = command()
        except Stop as stop:
            kind = next((word for family, word in _KINDS.items() if isinstance(stop, family)), "failed")
            return self._ended(kind, stop, as_json)
        except click.ClickException as error:
            self._ended("usage", Stop(error.format_message(), f"See: {self.name} --help"), as_json)
            return USAGE
        except (KeyboardInterrupt, click.Abort):
            return self._ended("failed", self.interrupted, as_json)
        except OSError as error:
            return self._ended("failed", refused_by_system(error, self.advice), as_json)
        return ended if isinstance(ended, int) else 0

    def _ended(self, kind: str, stop: Stop, as_json: bool) -> int:
        self.report(kind, str(stop), stop.remedy, as_json=as_json)
        return stop.exit_code


def refused_by_system(error: OSError, remedy: str) -> Failed:
    """What the system refuses, with the name of the file if it was one."""
    where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return Failed(f"{where}{error.strerror or error}", remedy)


def safe(text: str) -> str:
    """Text from outside (names, reasons, records) as one line that does nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class _Output(io.FileIO):
    """A stream that lets no failure reach what is being done; it remembers the first, and drops the rest."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.error: OSError | None = None

    def write(self, data: ReadableBuffer, /) -> int:
        if self.error is None:
            try:
                return super().write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes


@contextmanager
def _streams() -> Iterator[_Output]:
    """Standard output and error that never fail; what could not be written is told by what is yielded."""
    for descriptor, access in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        # A stream that was closed would be the next file that is opened. Writing to a result that is only read fails.
        if not _is_open(descriptor):
            os.set_inheritable(os.open(os.devnull, access), True)
    outputs = _Output(1), _Output(2)
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_text(raw, stream) for raw, stream in zip(outputs, before, strict=True))
    try:
        yield outputs[0]
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _text(raw: _Output, stream: Any) -> io.TextIOWrapper:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    line_by_line = raw.isatty() or raw.fileno() == 2
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, _IN_ASCII, line_buffering=line_by_line)


_IN_ASCII = "tbdiff-in-ascii"


def _in_ascii(error: UnicodeError) -> tuple[str | bytes, int]:
    """What a terminal without UTF-8 gets: dots for the sign that something goes on, else an escape sequence."""
    if isinstance(error, UnicodeEncodeError) and error.object[error.start : error.end] == "\N{HORIZONTAL ELLIPSIS}":
        return "...", error.end
    return codecs.backslashreplace_errors(error)


codecs.register_error(_IN_ASCII, _in_ascii)
