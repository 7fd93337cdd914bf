"""Examples by task, at the end of each command's --help and in its manual page. In: nothing. Out: lines that run as they stand.

A test runs every one of them, in a folder with the files that they name.
"""

from typing import NamedTuple

import typer


class Example(NamedTuple):
    """A task, and the command that does it."""

    task: str
    command: str


EXAMPLES: dict[str, tuple[Example, ...]] = {
    "dub": (
        Example("one voice; the result is film.fr.mp4", "musetalk dub film.mp4 --audio fr.wav"),
        Example(
            "two languages over one analysis", "musetalk dub film.mp4 --audio fr=fr.wav --audio de=de.wav -o 'out.{lang}.mp4'"
        ),
        Example("how long, and how much disk, first", "musetalk dub film.mp4 --audio fr.wav -o new.mp4 --dry-run"),
        Example(
            "two people with their own voices, over music and effects",
            "musetalk dub film.mp4 --cast film.cast.toml --audio anna=anna.wav --audio paul=paul.wav --mix effects.wav -o cast.mp4",
        ),
        Example("a gate for a render job", "musetalk dub film.mp4 --audio fr.wav -o gated.mp4 --fail-under 0 --json"),
    ),
    "batch": (
        Example("a folder: one.mp4 with one.fr.wav beside it, and so on", "musetalk batch films"),
        Example("voices elsewhere, results elsewhere", "musetalk batch films --audio 'fr={folder}/voices/{stem}.wav' -o dubbed"),
        Example("a manifest", "musetalk batch jobs.toml"),
    ),
    "plan": (
        Example("on one machine", "musetalk plan film.mp4 --audio fr.wav -o farm.mp4 --work-dir shared"),
        Example("then on each of three", "musetalk work shared --shard 0/3"),
        Example("and at the end", "musetalk join shared"),
    ),
    "inspect": (
        Example("a contact sheet, and a cast map to edit", "musetalk inspect film.mp4"),
        Example("elsewhere, for a program", "musetalk inspect film.mp4 -o sheets --cast sheets --json"),
    ),
    "verify": (Example("what a dub kept", "musetalk verify film.mp4 dubbed.mp4"),),
    "status": (
        Example("where the work stands", "musetalk status film.mp4"),
        Example("what another quality would make again", "musetalk status film.mp4 --why --audio fr.wav --crf 20"),
    ),
    "doctor": (Example("what is missing here", "musetalk doctor"),),
    "weights list": (Example("what is here, and under which licence", "musetalk weights list"),),
    "weights pull": (
        Example("in a script, where nobody can be asked", "musetalk weights pull parsing --accept-licence"),
        Example("from a folder that another machine pulled into", "musetalk weights pull v15 --mirror mirror --accept-licence"),
    ),
    "weights verify": (Example("by sha256", "musetalk weights verify parsing"),),
    "preview": (Example("a second, side by side", "musetalk preview film.mp4 --audio fr.wav --from 0 --to 1"),),
    "report": (Example("how good a result is", "musetalk report film.mp4 dubbed.mp4 -o reports"),),
    "config show": (
        Example("every setting of dub, and who says so", "musetalk config show dub --origin"),
        Example("of all commands, for a program", "musetalk config show --json"),
    ),
    "prepare": (Example("a folder of talking videos", "musetalk prepare clips sets/mine"),),
}


def add_examples(app: typer.Typer, above: str = "") -> None:
    """Each command of the tree gets its own."""
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__.replace("_", "-") if command.callback else "")
        if examples := EXAMPLES.get(f"{above} {name}".strip()):
            command.epilog = told(examples)
    for group in app.registered_groups:
        if group.typer_instance is not None:
            named = group.typer_instance.info.name
            add_examples(group.typer_instance, f"{above} {named if isinstance(named, str) else ''}".strip())


def told(examples: tuple[Example, ...]) -> str:
    """\\b keeps typer from filling the lines."""
    return "\b\nExamples:\n" + "\n".join(f"  # {one.task}\n  {one.command}" for one in examples)
