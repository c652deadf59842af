"""Run as `python -m tbdiff`."""

from tbdiff.cli import main

main()
