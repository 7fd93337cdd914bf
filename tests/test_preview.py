"""`musetalk preview`: the very frames, four panels, the new voice; nothing done twice; a page and a sheet to look at."""

import io
import json
import os
import re
import subprocess
import sys
import wave
from base64 import b64decode
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import Colorspace
from browser import open_browser
from conftest import make_film, make_speech, number_of
from made_films import talking, turned
from numpy.typing import NDArray
from PIL import Image

from musetalk_cli.errors import OutputExistsError, UsageError
from musetalk_cli.media.video import to_rgb
from musetalk_cli.preview.make import Previewed, Range, _still_size, preview_film
from musetalk_cli.preview.panels import ROWS_A_SHEET, Moment, jpeg, sheet, write_film
from musetalk_cli.report.cli import _second
from musetalk_cli.session import Place, Voice
from musetalk_cli.settings import Choices
from musetalk_cli.types import Colour

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def musetalk(*arguments: Path | str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "musetalk_cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


@pytest.fixture(scope="module", name="made")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames 20 to 29 of a talking film, as the command leaves them."""
    folder = tmp_path_factory.mktemp("preview")
    talking(folder)
    make_speech(folder / "fr.wav", seconds=2, pace=0.8)
    ran = musetalk(
        *("preview", folder / "film.mp4", "--audio", folder / "fr.wav", "--from", "0.8", "--to", "1.2"),
        *("--work-dir", folder / "work", "--model", "lite", "--json"),
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["frames"] == 10
    return folder


def pictures(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as film:
        return [np.asarray(frame.to_ndarray(format="rgb24"), np.uint8) for frame in film.decode(video=0)]


def test_panels_show_the_films_own_frames(made: Path) -> None:
    shown, film = pictures(made / "film.preview.mp4"), pictures(made / "film.mp4")[20:30]
    assert len(shown) == 10
    high, wide = shown[0].shape[0] // 2, shown[0].shape[1] // 2
    assert (wide, high) == (320, 288)
    for panel, frame in zip((picture[:high, :wide] for picture in shown), film, strict=True):
        below = slice(60, None)  # the label is above
        assert np.abs(panel[below].astype(int) - frame[below]).mean() < 4
    apart = [np.abs(shown[0][60:high, :wide].astype(int) - frame[60:]).mean() for frame in pictures(made / "film.mp4")]
    assert int(np.argmin(apart)) == 20


def test_dubbed_panel_differs_where_the_mask_is_and_nowhere_else(made: Path) -> None:
    picture = pictures(made / "film.preview.mp4")[5].astype(int)
    high, wide = picture.shape[0] // 2, picture.shape[1] // 2
    film, dubbed, mask = picture[:high, :wide], picture[:high, wide:], picture[high:, wide:]
    masked = np.abs(mask - film).sum(2) > 60
    masked[:60] = False
    changed = np.abs(dubbed - film).mean(2)
    assert 0.01 < masked.mean() < 0.4
    assert changed[masked].mean() > 3 and changed[60:][~masked[60:]].mean() < 3


def test_sound_is_the_new_voice_of_that_range(made: Path) -> None:
    with av.open(str(made / "film.preview.mp4")) as film:
        seconds = float(film.streams.audio[0].duration * film.streams.audio[0].time_base)
        assert seconds == pytest.approx(0.4, abs=0.05)
        heard = np.concatenate([frame.to_ndarray().mean(0) for frame in film.decode(audio=0)])
    assert np.sqrt(np.mean(heard**2)) > 0.005


def test_sound_and_picture_run_together(made: Path) -> None:
    """The voice's own samples from 0.8 s on, to 2 ms; the picture begins with them."""
    with av.open(str(made / "film.preview.mp4")) as film:
        assert film.streams.audio[0].start_time == 0 and film.streams.video[0].start_time == 0
        heard = np.concatenate([frame.to_ndarray().mean(0) for frame in film.decode(audio=0)])
    with wave.open(str(made / "fr.wav")) as voice:
        said = np.frombuffer(voice.readframes(voice.getnframes()), "<i2").astype(np.float64)
    at = np.arange(len(said) * 3) / 3  # 16 to 48 kHz
    said = np.interp(at, np.arange(len(said)), said)
    start, length, reach = round(0.8 * 48_000), round(0.3 * 48_000), 4_800
    likeness = [float(np.dot(heard[:length], said[start + lag : start + lag + length])) for lag in range(-reach, reach)]
    assert abs(int(np.argmax(likeness)) - reach) <= 96


def test_colours_are_the_films_for_a_player_that_believes_the_tags(tmp_path: Path) -> None:
    """Even where the preview has as many lines as HD, whose untagged films are taken for BT.709."""
    flat = np.empty((360, 640, 3), np.uint8)
    flat[:, :320], flat[:, 320:] = (200, 40, 40), (40, 180, 60)
    moment = Moment(0, Fraction(0), flat, flat, flat, np.zeros((0, 20, 2), np.float32))
    write_film(tmp_path / "film.mp4", iter([moment]), (640, 360), Fraction(1, 25), Fraction(25))
    with av.open(str(tmp_path / "film.mp4")) as film:
        assert film.streams.video[0].codec_context.colorspace == Colorspace.ITU709
        rgb = to_rgb(next(film.decode(video=0)), Colour(matrix="bt709", range="tv")).astype(int)
    assert np.abs(rgb[200, 100] - (200, 40, 40)).max() <= 2 and np.abs(rgb[200, 500] - (40, 180, 60)).max() <= 2


def test_dub_finds_what_the_preview_has_made(made: Path, tmp_path: Path) -> None:
    """All but the blend, which is of the range alone."""
    before = {
        path.parent.name
        for stage in ("faces", "latents", "masks", "inference")
        for path in made.glob(f"work/{stage}/*/result.json")
    }
    output, work = tmp_path / "film.fr.mp4", made / "work"
    ran = musetalk(
        "dub",
        made / "film.mp4",
        "--audio",
        made / "fr.wav",
        "-o",
        output,
        "--work-dir",
        work,
        "--model",
        "lite",
        "--no-report",
        "-q",
    )
    assert ran.returncode == 0, ran.stderr
    after = {
        path.parent.name
        for stage in ("faces", "latents", "masks", "inference")
        for path in made.glob(f"work/{stage}/*/result.json")
    }
    assert len(before) == 4 and before == after


def test_files_that_are_there_are_replaced_only_when_asked(made: Path) -> None:
    arguments = [
        "preview",
        made / "film.mp4",
        "--audio",
        made / "fr.wav",
        "--from",
        "1",
        "--to",
        "1.1",
        "--work-dir",
        made / "work",
    ]
    assert musetalk(*arguments, "-q").returncode == 6


def test_wipe_page_moves_its_line_and_names_the_frames(made: Path) -> None:
    with open_browser() as browser:
        for width, dark in ((1280, False), (390, True)):
            with browser.open(made / "film.preview.html", width=width, dark=dark) as page:
                assert page.overflow_px() == 0
                page.raw.locator("input").first.focus()
                before = page.evaluate("getComputedStyle(document.querySelector('.wipe')).getPropertyValue('--at')")
                page.press("ArrowRight")
                assert page.evaluate("getComputedStyle(document.querySelector('.wipe')).getPropertyValue('--at')") != before
                assert "AI-modified" in page.text("body")


def test_turned_film_is_seen_upright(tmp_path: Path) -> None:
    film = turned(tmp_path, 90)
    make_speech(tmp_path / "fr.wav", seconds=0.5)
    ran = musetalk(
        "preview", film, "--audio", tmp_path / "fr.wav", "--from", "0", "--work-dir", tmp_path / "work", "--model", "lite", "-q"
    )
    assert ran.returncode == 0, ran.stderr
    with av.open(str(film)) as file:
        coded = (file.streams.video[0].width, file.streams.video[0].height)
    picture = pictures(tmp_path / "film.preview.mp4")[0]
    assert (picture.shape[1] // 2, picture.shape[0] // 2) == (coded[1] // 2 * 2, coded[0] // 2 * 2)


def test_stills_alone_are_a_frame_of_each_shot_from_the_whole_film(made: Path, tmp_path: Path) -> None:
    """The page and the sheet, no film; without a range of the whole film."""
    done = stills(made, tmp_path)
    assert done.frames == 1 and (done.start_s, done.stop_s) == (0, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["film.preview.html", "film.preview.png"]
    html = (tmp_path / "film.preview.html").read_text()
    assert html.count("<figure>") == 1 and "stays as filmed" not in html
    film, dubbed = (
        np.asarray(Image.open(io.BytesIO(b64decode(data))), int)
        for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
    )
    assert film.shape == dubbed.shape == (288, 320, 3) and 0.1 < np.abs(film - dubbed).mean() < 20
    with pytest.raises(OutputExistsError):
        stills(made, tmp_path)
    with pytest.raises(UsageError, match="mp4"):
        stills(made, tmp_path / "film.mp4")


def stills(made: Path, output: Path) -> Previewed:
    place = Place(made / "work")
    return preview_film(
        made / "film.mp4", [str(made / "fr.wav")], Range(), output, Choices(model="lite"), place, Voice("none"), stills=True
    )


def test_many_stills_stay_small(tmp_path: Path) -> None:
    """In memory they are JPEG, on the page the smaller the more there are, and the sheet has a page's worth of them."""
    from made_faces import make_film as drifting
    from made_faces import source_of

    source = replace(source_of(drifting(tmp_path / "film.mkv", 2)), size=(1920, 1080))
    widths = [_still_size(source, count)[0] for count in (1, 40, 41, 200, 201, 5000)]
    assert widths == [960, 960, 480, 480, 320, 320]
    picture = jpeg(np.zeros((180, 320, 3), np.uint8))
    sheet(tmp_path / "sheet.png", [(f"shot {n}", picture, picture) for n in range(500)], 16 / 9)
    with Image.open(tmp_path / "sheet.png") as drawn:
        assert drawn.size == (1280, ROWS_A_SHEET * 360)


def test_range_outside_the_film_is_refused(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mp4", frames=10)
    make_speech(tmp_path / "fr.wav", seconds=0.5)
    arguments = ["preview", film, "--audio", tmp_path / "fr.wav", "--work-dir", tmp_path / "work"]
    late = musetalk(*arguments, "--from", "9")
    assert late.returncode == 2 and "0.400 s" in late.stderr
    assert musetalk(*arguments, "--from", "0.3", "--to", "0.1").returncode == 2
    assert musetalk(*arguments).returncode == 5  # nobody is in it
    assert number_of(pictures(film)[3]) == 3  # and the film is as it was


@pytest.mark.parametrize(("text", "seconds"), [("12.5", 12.5), ("1:02.5", 62.5), ("1:00:00", 3600), ("0", 0)])
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert _second("--from", text) == seconds


@pytest.mark.parametrize("text", ["1:75", "-3", "a", "1/2", "1:2:3:4", "1:"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        _second("--from", text)
