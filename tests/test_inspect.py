"""Promises of inspection: everyone in a shot is told of, who is dubbed and why; a sheet shows it, for films of any length."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_faces import faces_at, landmarks_at, make_film, source_of
from PIL import Image

from musetalk_cli.cast_draft import cast_path, check_cast, write_cast
from musetalk_cli.cast_map import letters, read_cast, with_voices
from musetalk_cli.casting import cast_by_rule, choose_largest
from musetalk_cli.config import DecideConfig
from musetalk_cli.contact_sheet import (
    DUBBED,
    HEAD_PX,
    MARGIN_PX,
    OTHER,
    TILE_WIDTHS_PX,
    Label,
    Mark,
    Tile,
    draw_pages,
    sheet_path,
)
from musetalk_cli.errors import OutputExistsError, UsageError
from musetalk_cli.inspection import Inspection, Seen, Targets, check_sheet, inspect_film, report, write_sheets
from musetalk_cli.people import candidates, find_persons
from musetalk_cli.session import Place, Voice
from musetalk_cli.settings import Choices
from musetalk_cli.speaking import Spoken
from musetalk_cli.stages.s2_decide import ALWAYS, decisions_of
from musetalk_cli.stages.s2_faces import ShotSeen, TrackSeen
from musetalk_cli.stages.s2_speaking import Speakers
from musetalk_cli.types import Faces, Source, Verdict

SIZE = (192, 160)
Shots = list[tuple[ShotSeen, Faces]]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film") / "a film.mkv", 20)


@pytest.fixture(scope="module")
def source(film: Path) -> Source:
    """Three shots: [0, 10), [10, 16), [16, 20)."""
    return source_of(film, 10, 16)


@pytest.fixture(scope="module")
def shots(source: Source) -> Shots:
    """Someone dubbed but in frames 3 and 4, with a smaller passer-by; someone who is too small; nobody."""
    her, his = landmarks_at(60, 60, 50), landmarks_at(135, 55, 30)
    one, two, three = source.shots
    rows = [(frame, 0, her) for frame in (0, 1, 2, 5, 6, 7, 8, 9)] + [(frame, 1, his) for frame in range(5, 10)]
    rows.sort(key=lambda row: row[:2])
    drawn: Any = tuple((float(x), float(y)) for x, y in her)
    she = TrackSeen(0, 10, 8, 0, 9, (50.0, 70.0), 0.93, "", (35, 30, 85, 100), drawn)
    passer = TrackSeen(1, 5, 5, 5, 9, (30.0, 41.0), 0.81, "", (120, 40, 150, 81))
    small = TrackSeen(0, 6, 0, 10, 15, (20.0, 27.0), 0.85, "too small: 20 px wide, needs 32")
    return [
        (ShotSeen(one, 6, 0, (she, passer)), faces_at(one, SIZE, *rows)),
        (ShotSeen(two, 12, 0, (small,)), faces_at(two, SIZE)),
        (ShotSeen(three, 18, 4), faces_at(three, SIZE)),
    ]


def seen_of(film: Path, source: Source, shots: Shots, speakers: tuple[Speakers, ...] = ()) -> Seen:
    """What the analysis makes of them, by the rule that --face names by default."""
    faces = tuple(face for _, face in shots)
    return Seen(
        film,
        source,
        tuple(shot for shot, _ in shots),
        faces,
        find_persons(faces),
        tuple(
            dict(zip((one.track for one in candidates(face)), choose_largest(candidates(face)), strict=True)) for face in faces
        ),
        tuple(
            decisions_of(source, face, cast_by_rule(face, choose_largest, "auto").casting, [ALWAYS], DecideConfig())
            for face in faces
        ),
        speakers,
        "0123456789abcdef",
    )


@pytest.fixture(scope="module")
def seen(film: Path, source: Source, shots: Shots) -> Seen:
    return seen_of(film, source, shots)


def test_a_shot_is_told_with_everyone_in_it(seen: Seen) -> None:
    told = report(seen, 0)
    assert (told.shot, told.start, told.duration, told.frames) == (0, 0.0, 0.4, 10)
    assert (told.frames_with_face, told.frames_dubbed, told.dubbed) == (10, 8, ((0, 3), (5, 10)))
    assert (told.people, told.widest_px, told.verdict) == (1, 50, "dubbed in 8 of 10 frames")
    assert [(p.person, p.dubbed, p.width_px, p.why) for p in told.persons] == [
        ("A", True, 50.0, "largest face"),
        ("B", False, 30.0, "in the picture with a larger face"),
    ]


def test_decisions_are_told_frame_by_frame(seen: Seen) -> None:
    her, passer = report(seen, 0).persons
    doubt = "face only 50 px wide"
    assert her.verdicts == (Verdict(0, 0, 3, "needs review", doubt), Verdict(0, 5, 10, "needs review", doubt))
    assert passer.verdicts == (Verdict(1, 5, 10, "passed through", "in the picture with a larger face"),)


def test_who_is_chosen_and_never_dubbed_has_the_reason_of_the_decision(film: Path, source: Source, shots: Shots) -> None:
    shown, faces = shots[0]
    hidden = replace(faces, hidden=np.full(faces.rows, 0.9, np.float32))
    told = report(seen_of(film, source, [(shown, hidden), *shots[1:]]), 0)
    assert [(p.dubbed, p.why) for p in told.persons] == [
        (False, "occluded mouth"),
        (False, "in the picture with a larger face"),
    ]
    assert told.verdict == "stays as it is: A occluded mouth, and 1 more"


def test_shots_that_stay_as_they_are_say_why(seen: Seen) -> None:
    small, nobody = (report(seen, number) for number in (1, 2))
    assert (small.verdict, small.frames_with_face, small.dubbed) == ("stays as it is: ? too small: 20 px wide, needs 32", 6, ())
    assert (nobody.verdict, nobody.frames_with_face, nobody.persons) == ("stays as it is: no face", 0, ())
    assert (nobody.start, nobody.duration) == (0.64, 0.16)  # to the end of the last frame


def test_a_person_has_one_letter_in_the_whole_film(film: Path, source: Source, shots: Shots) -> None:
    """By his face, not by his number in a shot."""
    her, him = np.eye(128, dtype=np.float32)[:2]
    shown, faces = shots[0]
    one = replace(faces, identity=np.stack([her, him]))
    rows = [(frame, 0, landmarks_at(60, 60, 30)) for frame in range(10, 16)]
    two = replace(faces_at(source.shots[1], SIZE, *rows), identity=him[None])
    alone = TrackSeen(0, 6, 6, 10, 15, (30.0, 41.0), 0.9, "")
    told = seen_of(film, source, [(shown, one), (ShotSeen(source.shots[1], 12, 0, (alone,)), two), shots[2]])
    assert [[person.person for person in report(told, number).persons] for number in range(2)] == [["A", "B"], ["B"]]


def test_json_is_json_and_lines_end_with_the_files(seen: Seen) -> None:
    cast = Path("f.cast.toml")
    told = Inspection(Path("f.mkv"), (Path("f.faces.png"),), tuple(report(seen, number) for number in range(3)), cast)
    again = json.loads(json.dumps(told.as_json()))
    her = again["shots"][0]["persons"][0]
    assert her["person"] == "A"
    assert her["verdicts"][0] == {"track": 0, "start": 0, "stop": 3, "what": "needs review", "why": "face only 50 px wide"}
    assert her["speaks"] == []
    assert (again["sheets"], again["cast"]) == (["f.faces.png"], "f.cast.toml")
    assert told.lines()[-2:] == ["f.faces.png", "f.cast.toml"]
    assert [line.split()[0] for line in told.lines()[1:4]] == ["1", "2", "3"]  # as on the sheet and in progress
    assert len(told.lines()) == 6


def test_who_speaks_is_told_with_the_person(film: Path, source: Source, shots: Shots) -> None:
    words = (Spoken(0, 5, 9, 0.6), Spoken(1, 5, 6, 0.3))
    speakers = tuple(Speakers(shot, words if not shot.index else ()) for shot in source.shots)
    told = report(seen_of(film, source, shots, speakers), 0)
    assert [person.speaks for person in told.persons] == [words[:1], words[1:]]


def test_the_largest_of_several_gives_the_reason(film: Path, source: Source, shots: Shots) -> None:
    shown, faces = shots[1]
    more = TrackSeen(1, 6, 0, 10, 15, (25.0, 30.0), 0.9, "too small: 25 px wide, needs 32")
    told = report(seen_of(film, source, [shots[0], (replace(shown, tracks=(*shown.tracks, more)), faces), shots[2]]), 1)
    assert told.verdict == "stays as it is: ? too small: 25 px wide, needs 32, and 1 more"


def test_the_sheet_explains_first_who_is_in_the_still(film: Path, source: Source, shots: Shots) -> None:
    from musetalk_cli.inspection import _tile

    shown, faces = shots[0]
    away = replace(shown.tracks[0], track=2, still_box=None, still_landmarks=None, size_px=(90.0, 90.0), unfit="no landmarks")
    crowded = seen_of(film, source, [(replace(shown, tracks=(*shown.tracks, away)), faces), *shots[1:]])
    drawn = _tile(crowded, crowded.shots[0], report(crowded, 0))
    assert [label.letter for label in drawn.labels] == ["A", "B", "?"]
    assert drawn.title == "Shot 1"
    stays, why = _tile(crowded, crowded.shots[1], report(crowded, 1)).labels
    assert (stays.text, why.letter, why.text) == ("stays as it is", "?", "too small: 20 px wide, needs 32")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    (tmp_path / "me.png").write_bytes(b"\x89PNG")
    return tmp_path / "me.png"


def inspect(film: Path, output: Path, face: Path, *, overwrite: bool = True) -> None:
    """In no work folder: what is refused here is refused before there is one."""
    place = Place(Path("/nonexistent"))
    inspect_film(film, Targets(output), Choices(face=str(face)), place, Voice("none"), overwrite=overwrite)


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


def test_sheet_frames_the_dubbed_face_and_shows_when(seen: Seen, tmp_path: Path) -> None:
    (path,) = write_sheets(tmp_path / "sheet.png", seen, [report(seen, number) for number in range(3)])
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
    labels = tuple(Label(letters(i), "a reason that is far too long for the width of one of these tiles") for i in range(9))
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


def test_pages_of_a_long_film_are_files_side_by_side(seen: Seen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("musetalk_cli.contact_sheet.ROWS_A_PAGE", 1)
    many = replace(seen, shots=seen.shots * 3, faces=seen.faces * 3, decisions=seen.decisions * 3, choices=seen.choices * 3)
    paths = list(write_sheets(tmp_path / "sheet.png", many, [report(many, number) for number in range(9)]))
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


# the draft of a cast map


def test_a_draft_can_be_read_and_names_everyone_by_his_letter(film: Path, source: Source, shots: Shots, tmp_path: Path) -> None:
    """A film name with all that TOML and a comment could stumble over; somebody seen for a fifth of a second is left out."""
    speakers = (Speakers(source.shots[0], (Spoken(0, 5, 9, 0.61),)), *(Speakers(shot, ()) for shot in source.shots[1:]))
    odd = film.with_name('a "film"\\ ü\n[[person]].mkv')
    if not odd.exists():
        odd.symlink_to(film)
    seen = replace(seen_of(film, source, longer(source, shots), speakers), film=odd)
    cast = tmp_path / "film.cast.toml"
    write_cast(cast, seen, tmp_path / "sheet.png")
    text, found = cast.read_text(encoding="utf-8"), read_cast(cast)
    assert found.analysis == "0123456789abcdef"
    assert [(person.name, person.faces, person.voice) for person in found.persons] == [("A", ("A",), None)]
    assert found.ranges == ()
    assert "# seen    0:00:00.000 to 0:00:00.640\n# speaks  0:00:00.200 to 0:00:00.360 (0.61)" in text
    assert "# Seen for less than 0.5 s, and left as they are: B" in text
    with Image.open(tmp_path / "film.cast" / "A.jpg") as still:
        assert still.size == (384, 384)
    assert found.persons[0].still == tmp_path / "film.cast" / "A.jpg"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.cast", "film.cast.toml"]  # and no half file
    assert [path.name for path in (tmp_path / "film.cast").iterdir()] == ["A.jpg"]
    assert with_voices(found, {"A": Path("a.wav")}).voices()  # named as it is, it can be dubbed at once


def longer(source: Source, shots: Shots) -> Shots:
    """She is in the second shot as well: 0.64 s in all."""
    her = np.eye(128, dtype=np.float32)[:1]
    (shown, faces), second, third = shots
    one = replace(faces, identity=np.concatenate([her, np.full((1, 128), np.nan, np.float32)]))
    rows = [(frame, 0, landmarks_at(60, 60, 50)) for frame in range(10, 16)]
    return [(shown, one), (second[0], replace(faces_at(source.shots[1], SIZE, *rows), identity=her)), third]


def test_a_still_shows_the_largest_view_from_the_front_with_nothing_before_it(film: Path, source: Source, shots: Shots) -> None:
    from musetalk_cli.cast_draft import _best_view

    faces = shots[0][1]
    hidden = np.where((faces.track == 0) & (faces.frame != 7), 0.6, 0.0).astype(np.float32)
    worth, row = _best_view(replace(faces, hidden=hidden), 0)
    assert (int(faces.frame[row]), int(faces.track[row])) == (7, 0)
    assert worth > _best_view(faces, 1)[0]


def test_a_film_without_sound_says_nothing_of_who_speaks(film: Path, source: Source, shots: Shots, tmp_path: Path) -> None:
    write_cast(tmp_path / "film.cast.toml", seen_of(film, source, longer(source, shots)), tmp_path / "sheet.png")
    assert "# speaks " not in (tmp_path / "film.cast.toml").read_text()


def test_a_cast_map_that_was_edited_is_never_replaced_unasked(film: Path, tmp_path: Path) -> None:
    cast = tmp_path / "film.cast.toml"
    check_cast(cast, [film], overwrite=False)
    cast.write_text("edited")
    with pytest.raises(OutputExistsError) as caught:
        check_cast(cast, [film], overwrite=False)
    assert (caught.value.thing, caught.value.cure) == (str(cast), "-y replaces it, --cast names another")
    check_cast(cast, [film], overwrite=True)
    cast.unlink()
    (tmp_path / "film.cast").mkdir()
    with pytest.raises(OutputExistsError, match=r"film\.cast: is there"):  # stills, which may be another film's
        check_cast(cast, [film], overwrite=False)


@pytest.mark.parametrize(
    ("name", "fact"), [("cast.txt", "cannot write .txt"), ("cast", "has no suffix"), ("no/cast.toml", "not a folder")]
)
def test_a_cast_map_that_cannot_be_written_is_told_before_any_work(film: Path, tmp_path: Path, name: str, fact: str) -> None:
    with pytest.raises(UsageError, match=fact):
        check_cast(tmp_path / name, [film], overwrite=True)


def test_a_cast_map_never_replaces_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "film.toml").touch()
    with pytest.raises(UsageError, match="is itself an input"):
        check_cast(tmp_path / "film.toml", [tmp_path / "film.toml"], overwrite=True)


def test_a_cast_map_lies_beside_the_film_or_in_a_folder_under_its_usual_name(film: Path, tmp_path: Path) -> None:
    assert cast_path(film, None) == film.with_name("a film.cast.toml")
    assert cast_path(film, tmp_path) == tmp_path / "a film.cast.toml"
    assert cast_path(film, tmp_path / "x.toml") == tmp_path / "x.toml"
