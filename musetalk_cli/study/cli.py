"""The commands of the user study: parse, build a config, call one function, print. Imports nothing heavy at module level."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from musetalk_cli.errors import UsageError

study_app = typer.Typer(
    name="study",
    help="The user study of the paper's section 4.2: a page that works offline, and its table.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

Methods = Annotated[
    list[str], typer.Argument(metavar="NAME=DIR...", help="A method's results; files of one name belong together.")
]
Out = Annotated[
    Path, typer.Option("-o", "--output", metavar="OUT", help="OUT/page is what raters get, OUT/key.json is for you alone.")
]
Reference = Annotated[
    Path | None,
    typer.Option("--reference", metavar="DIR", exists=True, file_okay=False, help="The originals, shown beside as such."),
]
Seed = Annotated[int | None, typer.Option("--seed", help="Of shuffling. Default: another each time.")]
Layout = Annotated[
    Literal["side-by-side", "single"], typer.Option("--layout", help="All methods of a clip at once, or one by one.")
]
PerRater = Annotated[int | None, typer.Option("--per-rater", min=1, metavar="N", help="Items that a rater sees. Default: all.")]
Watch = Annotated[bool, typer.Option("--must-watch/--no-must-watch", help="A clip has to be seen to its end before it is rated.")]
SkipMissing = Annotated[bool, typer.Option("--skip-missing", help="Leave out clips that not every method has.")]
Title = Annotated[str, typer.Option("--title", help="Of the page.")]
Note = Annotated[str, typer.Option("--note", help="To the raters, on the first page.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, errors too.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.")]
Key = Annotated[Path, typer.Argument(metavar="KEY", help="key.json of the study.")]
Results = Annotated[list[Path], typer.Argument(metavar="RESULT...", help="What raters saved.")]
Csv = Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="The table as CSV, too.")]


@study_app.command()
def build(
    methods: Methods,
    output: Out = Path("study"),
    reference: Reference = None,
    seed: Seed = None,
    layout: Layout = "side-by-side",
    per_rater: PerRater = None,
    must_watch: Watch = True,
    skip_missing: SkipMissing = False,
    title: Title = "Video rating",
    note: Note = "",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """A blinded, shuffled rating page from the results of several methods; the last line of stdout is the page."""
    from musetalk_cli.session import as_faults
    from musetalk_cli.study.build import StudyConfig, build

    config = StudyConfig(seed, layout, per_rater, must_watch, skip_missing, title, note)
    with as_faults():
        made = build(_named(methods), output, reference=reference, config=config, told=_silent if quiet else _told)
    coded = [f"{one.path}: encoded for browsers, {one.why}" for one in made.coded]
    left_out = [f"{name}: left out, not every method has it" for name in made.skipped]
    if not quiet:
        typer.echo("\n".join([*coded, *left_out]), err=True, nl=bool(coded or left_out))
    found = {"study": made.study, "page": str(made.page), "key": str(made.key), "coded": coded, "left_out": left_out}
    typer.echo(json.dumps(found, ensure_ascii=False) if as_json else str(made.page / "index.html"))


@study_app.command()
def tally(key: Key, results: Results, csv: Csv = None, as_json: Json = False) -> None:
    """The paper's Table 2: means of visual quality, identity and lip-sync with 95 % intervals."""
    from musetalk_cli.session import as_faults
    from musetalk_cli.study.tally import as_csv, table_lines, tally

    with as_faults():
        found = tally(results, key)
        if csv is not None:
            csv.write_text(as_csv(found))
    typer.echo(json.dumps(found.as_json(), ensure_ascii=False) if as_json else "\n".join(table_lines(found)))


def _named(methods: list[str]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for text in methods:
        name, equals, path = text.partition("=")
        folder = Path(path if equals else text)
        name = name if equals else folder.name
        if not name or (equals and not path):
            raise UsageError("names no method", "write NAME=DIR", thing=repr(text))
        if name in found:
            raise UsageError(f"{name} names two methods", "give each a name of its own: NAME=DIR", thing=text)
        found[name] = folder
    return found


def _told(done: int, of: int) -> None:
    typer.echo(f"study: {done} of {of} clips", err=True)


def _silent(done: int, of: int) -> None:
    pass
