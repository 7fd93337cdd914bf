"""`python -m musetalk_cli` is `musetalk`."""

from musetalk_cli.cli import main

if __name__ == "__main__":
    main()
