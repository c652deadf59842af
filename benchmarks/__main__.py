"""`make bench`: every contender on every pair, side by side in one run; ratios are to ostree's static delta."""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.metered import Cost, run
from benchmarks.pairs import MAKERS, Pair
from tests.corpus.debian import corpus

YARDSTICK = "ostree static delta"
HEAD = ("", "bytes", "ratio", "create CPU s", "MiB", "apply CPU s", "MiB", "new on disk, MiB")


@dataclass(frozen=True)
class Result:
    """What one contender needed for one pair; `new` is what only the new system holds on disk, in bytes."""

    contender: str
    bytes: int
    create: Cost
    apply: Cost
    new: int | None


def measure(contender: Contender, pair: Pair, work: Path) -> Result:
    """One contender on one pair."""

    def command(part: str) -> str:
        return contender.command(lambda way: getattr(way, part), pair, work)

    (work / "image").unlink(missing_ok=True)
    run(command("prepare"))
    created = run(command("create"))
    size = int(subprocess.run(["bash", "-c", command("size")], check=True, capture_output=True).stdout)
    run(command("prepare_apply"))
    try:
        applied = run(command("apply"))
        new = exclusive(Path(command("result").strip("'"))) if command("result") else None
    finally:
        clear(pair)
    return Result(contender.name, size, created, applied, new)


def exclusive(tree: Path) -> int:
    """How many bytes on disk only this subvolume holds."""
    subprocess.run(["btrfs", "filesystem", "sync", tree], check=True, stdout=subprocess.DEVNULL)
    shown = subprocess.run(["btrfs", "filesystem", "du", "-s", "--raw", tree], check=True, capture_output=True)
    return int(shown.stdout.splitlines()[1].split()[1])


def clear(pair: Pair) -> None:
    """Delete what contenders left on the file system of the pair."""
    subprocess.run(["btrfs", "subvolume", "set-default", "5", pair.top], check=True)
    made = (*pair.top.glob("bench-received/*"), *pair.top.glob("snapshots/*"))
    for left in (*made, pair.top / f"bench-{pair.name}", pair.top / "bench-plain"):
        if left.exists():
            subprocess.run(["btrfs", "-q", "subvolume", "delete", left], check=True)
    for name in ("snapshots", "tb-update"):
        shutil.rmtree(pair.top / name, ignore_errors=True)
    if (pair.top / "bench-received").exists():
        (pair.top / "bench-received").rmdir()
    subprocess.run(["btrfs", "-q", "filesystem", "sync", pair.top], check=True)


def table(results: list[Result]) -> Iterator[str]:
    """The results as lines, with ratios to the yardstick where it ran."""
    against = next((result for result in results if result.contender == YARDSTICK), None)
    rows = [
        (
            r.contender,
            f"{r.bytes:,}",
            f"{r.bytes / against.bytes:.3f}" if against else "",
            f"{r.create.cpu:.1f}",
            f"{r.create.memory >> 20}",
            f"{r.apply.cpu:.1f}",
            f"{r.apply.memory >> 20}",
            "" if r.new is None else f"{r.new / 2**20:.1f}",
        )
        for r in results
    ]
    widths = [max(len(row[n]) for row in (HEAD, *rows)) for n in range(len(HEAD))]
    for row in (HEAD, *rows):
        yield "  ".join(
            cell.rjust(width) if n else cell.ljust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )


def main() -> None:
    """Measure what is asked for, everything if nothing is."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--pair", action="append", choices=sorted(MAKERS), help="only this pair; repeatable")
    parser.add_argument("--only", action="append", metavar="TEXT", help="only contenders with this in their name")
    parser.add_argument("--json", action="store_true", help="as JSON, costs in seconds and bytes")
    asked = parser.parse_args()
    chosen = [one for one in CONTENDERS if not asked.only or any(text in one.name for text in asked.only)]
    shown: dict[str, list[Result]] = {}
    with corpus() as held, tempfile.TemporaryDirectory(prefix="tb-bench-", dir="/var/tmp") as place:
        for name in asked.pair or MAKERS:
            pair = MAKERS[name](held.top)
            for contender in chosen:
                if contender.missing():
                    print(f"{contender.name}: {', '.join(contender.missing())} not installed", file=sys.stderr)
                    continue
                work = Path(place) / f"{name}-{len(shown.get(name, []))}"
                work.mkdir()
                print(f"{name}: {contender.name} ...", file=sys.stderr)
                try:
                    shown.setdefault(name, []).append(measure(contender, pair, work))
                except RuntimeError as error:
                    print(error, file=sys.stderr)
                shutil.rmtree(work)
            if not asked.json:
                print(f"\n{name}\n" + "\n".join(table(shown.get(name, []))), flush=True)
    if asked.json:
        print(json.dumps({"format_version": 1, "pairs": {k: [asdict(r) for r in v] for k, v in shown.items()}}))


if __name__ == "__main__":
    main()
