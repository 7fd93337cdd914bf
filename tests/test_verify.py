"""What `musetalk verify` must not let pass, and what it must; a trimmed voice in MOV; aspects that containers round."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import pytest
from conftest import make_speech, run_tool
from made_films import clip

from musetalk_cli.stages.s6_remux import same_aspect
from musetalk_cli.stages.s7_verify import Verification, verify_film

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def dubbed(folder: Path, film: Path, *more: str) -> Path:
    output = folder / f"dubbed{film.suffix}"
    voice = make_speech(folder / "fr.wav", seconds=1.5)
    command = [
        sys.executable,
        "-m",
        "musetalk_cli",
        "dub",
        str(film),
        "--audio",
        str(voice),
        "-o",
        str(output),
        "--model",
        "lite",
        "-q",
    ]
    subprocess.run([*command, "--work-dir", str(folder / "work"), *more], check=True, env=ENVIRONMENT, timeout=200)
    return output


def broken(found: Verification) -> set[str]:
    return {check.name for check in found.checks if not check.kept}


@pytest.fixture(scope="module", name="pair")
def _pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("verify")
    film = clip(folder, audio="aac", frames=20)
    return film, dubbed(folder, film)


def test_dub_passes(pair: tuple[Path, Path]) -> None:
    assert broken(verify_film(*pair)) == set()


@pytest.mark.parametrize("filters", ["negate", "hflip,negate", "vflip"])
def test_other_pictures_in_the_same_form_are_found(pair: tuple[Path, Path], tmp_path: Path, filters: str) -> None:
    other = tmp_path / "other.mp4"
    run_tool("-i", str(pair[1]), "-map", "0", "-vf", filters, "-c:v", "libx264", "-c:a", "copy", str(other))
    assert "content" in broken(verify_film(pair[0], other))


def test_coarsely_coded_film_is_still_the_same_film(pair: tuple[Path, Path], tmp_path: Path) -> None:
    coarse = tmp_path / "coarse.mp4"
    run_tool("-i", str(pair[1]), "-map", "0", "-c:v", "libx264", "-crf", "38", "-c:a", "copy", str(coarse))
    assert "content" not in broken(verify_film(pair[0], coarse))


def test_voice_that_does_not_decode_is_found(pair: tuple[Path, Path], tmp_path: Path) -> None:
    data = bytearray(pair[1].read_bytes())
    with av.open(str(pair[1])) as file:
        places = [(packet.pos, packet.size) for packet in file.demux(audio=0) if packet.size]
    for start, size in places[5:25]:
        for at in range(start, start + size):
            data[at] ^= 0x5A
    (tmp_path / "bad.mp4").write_bytes(data)
    assert "decodes" in broken(verify_film(pair[0], tmp_path / "bad.mp4"))


def test_trimmed_voice_stays_in_a_mov(tmp_path: Path) -> None:
    """ffmpeg -t before a PCM that is copied dropped the whole track."""
    film = clip(tmp_path, suffix=".mov", audio="pcm_s16le", frames=20)
    found = verify_film(film, dubbed(tmp_path, film, "--length", "trim"))
    assert broken(found) == set()


@pytest.mark.parametrize(
    ("one", "other", "size", "same"),
    [
        (Fraction(1641, 1643), Fraction(5744, 5751), (639, 359), True),
        (Fraction(1), Fraction(5744, 5751), (639, 359), True),
        (Fraction(1), Fraction(1), (1920, 1080), True),
        (Fraction(1), Fraction(64, 45), (720, 576), False),
        (Fraction(1), Fraction(720, 719), (1920, 1080), False),
    ],
)
def test_aspects_are_the_same_to_a_pixel(one: Fraction, other: Fraction, size: tuple[int, int], same: bool) -> None:
    assert same_aspect(one, other, size) is same
