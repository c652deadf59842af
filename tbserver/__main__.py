"""`python -m tbserver`."""

from tbserver.cli import main

if __name__ == "__main__":
    main()
