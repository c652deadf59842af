"""`python -m tbupdate` is `tb-update`."""

from tbupdate.cli import main

if __name__ == "__main__":
    main()
