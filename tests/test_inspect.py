"""Promises of inspection: everyone in a shot is told of, who is dubbed and why; a sheet shows it, for films of any length."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_faces import faces_at, landmarks_at, make_film, source_of
from PIL import Image

from musetalk_cli.contact_sheet import DUBBED, HEAD_PX, MARGIN_PX, OTHER, TILE_WIDTHS_PX, Label, Mark, Tile, draw_pages, letter_of
from musetalk_cli.errors import OutputExistsError, UsageError
from musetalk_cli.inspection import Inspection, check_sheet, inspect_film, report, sheet_path, write_sheets
from musetalk_cli.session import Place, Voice
from musetalk_cli.settings import Choices
from musetalk_cli.stages.s2_faces import ShotSeen, TrackSeen
from musetalk_cli.types import Faces, Source

SIZE = (192, 160)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film") / "a film.mkv", 20)


@pytest.fixture(scope="module")
def source(film: Path) -> Source:
    """Three shots: [0, 10), [10, 16), [16, 20)."""
    return source_of(film, 10, 16)


@pytest.fixture(scope="module")
def shots(source: Source) -> list[tuple[ShotSeen, Faces]]:
    """Someone dubbed but in frames 3 and 4, with a passer-by; someone who is too small; nobody."""
    points = landmarks_at(60, 60, 50)
    one, two, three = source.shots
    rows = [(frame, 0, points) for frame in (0, 1, 2, 5, 6, 7, 8, 9)]
    drawn: Any = tuple((float(x), float(y)) for x, y in points)
    her = TrackSeen(0, 10, 8, 0, 9, (50.0, 70.0), 0.93, True, "largest face", None, (35, 30, 85, 100), drawn)
    passer = TrackSeen(1, 4, 0, 6, 9, (30.0, 41.0), 0.81, False, "in the picture with a larger face", None, (120, 40, 150, 81))
    small = TrackSeen(0, 6, 0, 10, 15, (20.0, 27.0), 0.85, False, "too small: 20 px wide, needs 32")
    return [
        (ShotSeen(one, 6, 0, (her, passer)), faces_at(one, SIZE, *rows)),
        (ShotSeen(two, 12, 0, (small,)), faces_at(two, SIZE)),
        (ShotSeen(three, 18, 4), faces_at(three, SIZE)),
    ]


def test_a_shot_is_told_with_everyone_in_it(source: Source, shots: list[tuple[ShotSeen, Faces]]) -> None:
    told = report(*shots[0], source)
    assert (told.shot, told.start, told.duration, told.frames) == (0, 0.0, 0.4, 10)
    assert (told.frames_with_face, told.frames_dubbed, told.dubbed) == (10, 8, ((0, 3), (5, 10)))
    assert (told.people, told.widest_px, told.verdict) == (1, 50, "dubbed in 8 of 10 frames")
    assert [(p.person, p.dubbed, p.width_px, p.why) for p in told.persons] == [
        ("A", True, 50.0, "largest face"),
        ("B", False, 30.0, "in the picture with a larger face"),
    ]


def test_shots_that_stay_as_they_are_say_why(source: Source, shots: list[tuple[ShotSeen, Faces]]) -> None:
    small, nobody = (report(*shot, source) for shot in shots[1:])
    assert (small.verdict, small.frames_with_face, small.dubbed) == ("stays as it is: A too small: 20 px wide, needs 32", 6, ())
    assert (nobody.verdict, nobody.frames_with_face, nobody.persons) == ("stays as it is: no face", 0, ())
    assert (nobody.start, nobody.duration) == (0.64, 0.16)  # to the end of the last frame


def test_json_is_json_and_lines_end_with_the_sheet(source: Source, shots: list[tuple[ShotSeen, Faces]]) -> None:
    told = Inspection(Path("f.mkv"), (Path("f.faces.png"),), tuple(report(*shot, source) for shot in shots))
    again = json.loads(json.dumps(told.as_json()))
    assert again["shots"][0]["persons"][0]["person"] == "A"
    assert again["sheets"] == ["f.faces.png"]
    assert told.lines()[-1] == "f.faces.png"
    assert [line.split()[0] for line in told.lines()[1:4]] == ["1", "2", "3"]  # as on the sheet and in progress
    assert len(told.lines()) == 5


def test_the_largest_of_several_gives_the_reason(source: Source, shots: list[tuple[ShotSeen, Faces]]) -> None:
    seen, faces = shots[1]
    more = TrackSeen(1, 6, 0, 10, 15, (25.0, 30.0), 0.9, False, "too small: 25 px wide, needs 32")
    told = report(replace(seen, tracks=(*seen.tracks, more)), faces, source)
    assert told.verdict == "stays as it is: B too small: 25 px wide, needs 32, and 1 more"


def test_the_sheet_explains_first_who_is_in_the_still(film: Path, source: Source, shots: list[tuple[ShotSeen, Faces]]) -> None:
    from musetalk_cli.inspection import _tile

    (seen, faces), small = shots[0], shots[1]
    away = replace(seen.tracks[0], track=2, still_box=None, still_landmarks=None, size_px=(90.0, 90.0))
    crowded = replace(seen, tracks=(*seen.tracks, away))
    drawn = _tile(film, source, crowded, report(crowded, faces, source))
    assert [label.letter for label in drawn.labels] == ["A", "B", "C"]
    assert drawn.title == "Shot 1"
    stays, why = _tile(film, source, small[0], report(*small, source)).labels
    assert (stays.text, why.letter, why.text) == ("stays as it is", "A", "too small: 20 px wide, needs 32")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "me.png").write_bytes(b"\x89PNG")
    return tmp_path / "me.png"


def inspect(film: Path, output: Path, face: Path, *, overwrite: bool = True) -> None:
    """In no work folder: what is refused here is refused before there is one."""
    inspect_film(film, output, Choices(face=str(face)), Place(Path("/nonexistent")), Voice("none"), overwrite=overwrite)


def test_a_sheet_never_replaces_what_is_read(film: Path, picture: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.png"
    link.symlink_to(film)
    with pytest.raises(UsageError, match="is itself an input"):
        inspect(film, link, picture)
    with pytest.raises(UsageError, match="is itself an input"):
        inspect(film, picture, picture)
    second = picture.rename(tmp_path / "sheet-2.png")
    with pytest.raises(UsageError, match="sheet-2.png: is itself an input"):  # the second page, should there be one
        inspect(film, tmp_path / "sheet.png", second)


def test_a_sheet_is_a_png_and_never_the_film(film: Path, picture: Path) -> None:
    before = film.read_bytes()
    with pytest.raises(UsageError, match="cannot write .mkv"):
        inspect(film, film, picture)
    assert film.read_bytes() == before


def test_no_page_replaces_a_file_unasked(film: Path, picture: Path, tmp_path: Path) -> None:
    (tmp_path / "sheet-2.png").touch()
    with pytest.raises(OutputExistsError, match="sheet-2.png"):
        inspect(film, tmp_path / "sheet.png", picture, overwrite=False)
    (tmp_path / "sheet-x.png").touch()
    (tmp_path / "sheet-2.png").unlink()
    check_sheet(tmp_path / "sheet.png", [film], overwrite=False)  # the other one is no page


def test_a_sheets_folder_that_is_not_there_is_told_before_any_work(film: Path, picture: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere: not a folder that can be written"):
        inspect(film, tmp_path / "nowhere" / "sheet.png", picture)


def test_a_sheet_goes_into_a_folder_under_its_usual_name(film: Path, tmp_path: Path) -> None:
    assert sheet_path(film, tmp_path) == tmp_path / "a film.faces.png"
    assert sheet_path(film, None) == film.with_name("a film.faces.png")


def test_sheet_frames_the_dubbed_face_and_shows_when(
    film: Path, source: Source, shots: list[tuple[ShotSeen, Faces]], tmp_path: Path
) -> None:
    reports = [report(*shot, source) for shot in shots]
    (path,) = write_sheets(tmp_path / "sheet.png", film, source, shots, reports)
    sheet = np.asarray(Image.open(path))
    width = TILE_WIDTHS_PX[2]
    assert sheet.shape[1] == 2 * MARGIN_PX + 3 * width + 2 * 28
    zoom, height = width / SIZE[0], round(width * SIZE[1] / SIZE[0])
    still = sheet[HEAD_PX : HEAD_PX + height, MARGIN_PX : MARGIN_PX + width]
    assert near(still[round(65 * zoom), round(35 * zoom) + 1], DUBBED)  # the box's left side
    assert near(still[round(60 * zoom), round(120 * zoom)], OTHER)  # the passer-by's
    bar = sheet[HEAD_PX + height + 8, MARGIN_PX : MARGIN_PX + width]
    assert [near(bar[round(width * share)], DUBBED) for share in (0.15, 0.35, 0.45, 0.75)] == [True, False, False, True]


def near(pixel: np.ndarray[Any, Any], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(pixel.astype(int) - colour).max() < 60)


def tile(number: int) -> Tile:
    mark = Mark("A", (10, 10, 40, 50), (), True)
    labels = tuple(Label(letter_of(i), "a reason that is far too long for the width of one of these tiles") for i in range(9))
    return Tile(np.full((54, 96, 3), 80, np.uint8), 16 / 9, f"Shot {number}", "0:00:01.000", ((0.0, 1.0),), (mark,), labels)


@pytest.mark.parametrize(("count", "pages"), [(0, 1), (1, 1), (24, 1), (60, 3)])
def test_a_long_film_has_several_pages_of_a_size_that_can_be_looked_at(count: int, pages: int) -> None:
    taken: list[int] = []

    def tiles() -> Any:
        for number in range(count):
            taken.append(number)
            yield tile(number)

    drawn = 0
    for page in draw_pages("film.mp4", "facts", tiles(), count):
        drawn += 1
        assert len(taken) <= 24 * drawn  # not more stills in memory than one page needs
        assert page.width <= 1950 and page.height <= 2600
    assert (drawn, len(taken)) == (pages, count)


def test_pages_of_a_long_film_are_files_side_by_side(
    film: Path, source: Source, shots: list[tuple[ShotSeen, Faces]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("musetalk_cli.contact_sheet.ROWS_A_PAGE", 1)
    many = shots * 3
    paths = list(write_sheets(tmp_path / "sheet.png", film, source, many, [report(*shot, source) for shot in many]))
    assert [path.name for path in paths] == ["sheet.png", "sheet-2.png", "sheet-3.png"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)  # and no half file


@pytest.mark.parametrize(("aspect", "shape"), [(16 / 9, (245, 435)), (1.0, (435, 435)), (9 / 16, (435, 435))])
def test_stills_keep_their_shape_upright_or_wide(aspect: float, shape: tuple[int, int]) -> None:
    from musetalk_cli.contact_sheet import _marked_still

    upright = tile(0)._replace(aspect=aspect, still=np.full((100, 100, 3), 200, np.uint8), marks=())
    still = np.asarray(_marked_still(upright, 435))
    assert still.shape[:2] == shape
    shown = (still == 200).all(-1)
    assert shown.any(0).sum() / shown.any(1).sum() == pytest.approx(aspect, rel=0.02)


def test_people_have_letters() -> None:
    assert [letter_of(track) for track in (0, 25, 26, 27, 51, 52)] == ["A", "Z", "AA", "AB", "AZ", "BA"]
