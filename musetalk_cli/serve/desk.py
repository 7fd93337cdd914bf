"""What the page can do, in the words of the page. In: names of files. Out: records; work that begins. Every step is one of the commands'.

A dub that was stopped leaves its Order in the work folder of its film, where the work itself is: so that a server that is started
another day, or on another port, can offer to go on with it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from musetalk_cli.cast_draft import cast_path
from musetalk_cli.cast_map import check_known, read_cast
from musetalk_cli.contact_sheet import further_pages, sheet_path
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.report.files import paths as report_paths
from musetalk_cli.report.files import read as read_report
from musetalk_cli.serve.casting import Cast, Change, change_cast, check_inside, shown_cast
from musetalk_cli.serve.folder import Folder
from musetalk_cli.serve.orders import DubWish, InspectWish, Order, Settings, VerifyWish, unfinished_order
from musetalk_cli.serve.tasks import Tasks
from musetalk_cli.standing import standing


@dataclass(frozen=True, slots=True)
class FilmStanding:
    """Where the work on a film stands."""

    film: str
    results_kept: int  # in its work folder
    size_mb: float
    holder: str  # who else is at work on it
    unfinished: Order | None  # a dub that was stopped
    cast: Cast | None
    cast_problem: str  # why there is no cast, though there is a file
    sheets: tuple[str, ...]  # pages of the contact sheet


@dataclass(frozen=True, slots=True)
class ShotShown:
    start_s: float
    stop_s: float
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class ResultShown:
    """A result beside its film."""

    film: str  # name in the folder, "" where it is not there
    result: str
    report: str
    seconds: float
    fps: float
    score: float
    findings: int
    shots: tuple[ShotShown, ...]


class Desk:
    """root: the only folder that is read from and written to, but for the work folders of its films."""

    def __init__(self, root: Path, settings: Settings) -> None:
        self.folder, self.tasks, self._settings = Folder(root), Tasks(), settings

    def standing(self, name: str) -> FilmStanding:
        """Raises InputError for what is not in the folder."""
        film = self.folder.film(name)
        found, cast, problem = standing(film, self._settings.place, None), None, ""
        try:
            cast = shown_cast(self._cast_of(film)) if cast_path(film, None).exists() else None
        except (UsageError, InputError) as error:
            problem = str(error)
        holder = "" if self.tasks.at_work else found.holder
        unfinished = unfinished_order(found.folder, self.folder.root, name)
        return FilmStanding(name, sum(found.kept.values()), found.size_mb, holder, unfinished, cast, problem, self._sheets(film))

    def inspect(self, wish: InspectWish) -> None:
        """Begin."""
        self.folder.film(wish.film)
        order = Order("inspect", str(self.folder.root), wish.film, face=wish.face, overwrite=wish.overwrite)
        self.tasks.start(order, self._settings)

    def change_cast(self, film: str, version: str, changes: Sequence[Change]) -> Cast:
        """Each entry's voice is a file of the folder, or stays what a person wrote."""
        path = self._cast_of(self.folder.film(film))
        written = {person.voice for person in shown_cast(path).persons}
        for change in changes:
            if change.voice not in {"", *written}:
                self.folder.voice(change.voice)
        return change_cast(path, version, changes)

    def dub(self, wish: DubWish) -> None:
        """Begin, or go on. What a dub refuses is told by the work itself."""
        film = self.folder.film(wish.film)
        if wish.cast:
            check_inside(check_known(read_cast(self._cast_of(film))), self.folder)
        else:
            self.folder.voice(wish.voice)
        if wish.output:
            self.folder.target(wish.output)
        voices = {"voice": "", "cast": cast_path(film, None).name} if wish.cast else {"cast": ""}
        self.tasks.start(Order("dub", str(self.folder.root), **(asdict(wish) | voices)), self._settings)

    def verify(self, wish: VerifyWish) -> None:
        """Begin."""
        film, result = self.folder.film(wish.film), self.folder.film(wish.result)
        self.tasks.start(Order("verify", str(self.folder.root), film.name, output=result.name), self._settings)

    def still_of_person(self, film: str, name: str) -> Path:
        return self.folder.still(cast_path(self.folder.film(film), None), name)

    def still(self, name: str, second: float, width_px: int) -> bytes:
        from musetalk_cli.serve.stills import still_of

        return still_of(self.folder.film(name), second, width_px)

    def report(self, name: str) -> Path:
        """The page of a result."""
        return self.folder.file(report_paths(self.folder.film(name).with_suffix(""))[0].name)

    def result(self, name: str) -> ResultShown:
        """What the report of a result says of it."""
        html, told = report_paths(self.folder.film(name).with_suffix(""))
        report = read_report(self.folder.file(told.name))
        films = {one.name for one in self.folder.listing().films}
        shots = tuple(ShotShown(shot.start_s, shot.stop_s, shot.what, shot.why) for shot in report.shots)
        film = report.film if report.film in films else ""
        return ResultShown(film, name, html.name, report.seconds, report.fps, report.score, len(report.findings), shots)

    def _cast_of(self, film: Path) -> Path:
        return self.folder.file(cast_path(film, None).name)

    def _sheets(self, film: Path) -> tuple[str, ...]:
        first = sheet_path(film, None)
        pages = [first, *further_pages(first)] if first.exists() else []
        return tuple(page.name for page in pages if page.is_file() and not page.is_symlink())
