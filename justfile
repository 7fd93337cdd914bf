# What CI runs, and a few habits. `just` comes from: pip install rust-just

# everything that must be true before a commit
check: lint types docs test

lint:
    ruff check .
    ruff format --check .

types:
    mypy

test *arguments:
    python -m pytest {{arguments}}

# docs/cli.md says what --help says
docs:
    python docs/make_cli.py --check

# for working on the code: the checkout itself, and the tools
develop:
    pip install -c constraints.txt -e ".[test]"

# examples/film.mp4 and examples/fr.wav, from nothing
example:
    python examples/make_example.py
