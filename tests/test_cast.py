"""A cast from end to end, by the command: two people, two voices, one film, analysed once.

36 frames at 25 a second in three shots: Anna and Bert side by side, Bert alone, Anna alone. Bert is Anna in negative, whom the identity
network takes for somebody else.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import make_film, make_speech, make_voice, run_tool
from numpy.typing import NDArray

from musetalk_cli import cli
from musetalk_cli.cast_map import read_cast
from musetalk_cli.media.audio import read_speech

SHOT = 12  # frames
FRAMES = 3 * SHOT
SIZE = (288, 160)
LEFT, RIGHT = slice(0, 144), slice(144, 288)  # columns
FLAGS = ("--device", "cpu", "--model", "lite", "--preset", "ultrafast", "--progress", "none")

Rgb = NDArray[np.uint8]
Event = dict[str, Any]


@dataclass(frozen=True)
class Studio:
    """A folder with the film, voices, the draft of the cast map and the work folder of all dubs."""

    folder: Path
    drafted: str  # cast.toml as `inspect` wrote it

    @property
    def film(self) -> Path:
        return self.folder / "film.mp4"

    @property
    def journal(self) -> Path:
        return self.folder / "work" / "run.jsonl"

    def run(self, *arguments: object) -> int:
        return cli.run([*map(str, arguments), "--work-dir", str(self.folder / "work")])

    def dub(self, name: str, *arguments: object) -> tuple[Path, list[Event]]:
        """The output, and what was told on the way."""
        before = len(self.journal.read_text().splitlines())
        output = self.folder / f"{name}.mp4"
        assert self.run("dub", self.film, "-o", output, *FLAGS, "-y", *arguments) == 0
        return output, [json.loads(line) for line in self.journal.read_text().splitlines()[before:]]

    def cast(self, name: str, text: str) -> Path:
        path = self.folder / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    def named(self, name: str, more: str = "") -> Path:
        """The draft with names in place of letters, and further entries."""
        return self.cast(name, self.drafted.replace('name = "A"', 'name = "anna"').replace('name = "B"', 'name = "bert"') + more)


@pytest.fixture(scope="module")
def portrait() -> Rgb:
    from skimage.data import astronaut

    return np.asarray(astronaut()[16:240, 112:336], np.uint8)


def scene(portrait: Rgb) -> Callable[[int], Rgb]:
    anna = np.asarray(cv2.resize(portrait, (138, 138), interpolation=cv2.INTER_AREA))
    bert = np.asarray(cv2.resize(255 - portrait, (120, 120), interpolation=cv2.INTER_AREA))  # of whom less is seen: B

    def picture(number: int) -> Rgb:
        shot, moved = number // SHOT, number % SHOT // 4
        rgb = np.full((SIZE[1], SIZE[0], 3), ((90, 90, 90), (20, 60, 20), (180, 170, 200))[shot], np.uint8)
        if shot != 1:
            rgb[22:, 2 + moved : 140 + moved] = anna
        if shot != 2:
            rgb[40:, 156 - moved : 276 - moved] = bert
        return rgb

    return picture


@pytest.fixture(scope="module")
def studio(tmp_path_factory: pytest.TempPathFactory, portrait: Rgb) -> Iterator[Studio]:
    folder = tmp_path_factory.mktemp("studio")
    keys = {"x264-params": f"keyint={SHOT}:min-keyint=1:scenecut=0", "crf": "12"}
    silent = make_film(folder / "silent.mp4", frames=FRAMES, size=SIZE, picture=scene(portrait), options=keys)
    make_speech(folder / "anna.wav", seconds=1.7)
    make_speech(folder / "bert.wav", seconds=1.7, pace=1.25)
    run_tool(
        "-i", str(silent), "-i", str(folder / "bert.wav"), "-c:v", "copy", "-c:a", "aac", "-shortest", str(folder / "film.mp4")
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "HOME"):
            patch.setenv(name, str(folder / "home"))
        started = Studio(folder, "")
        assert started.run("inspect", folder / "film.mp4", "--progress", "none") == 0
        yield Studio(folder, (folder / "film.cast.toml").read_text(encoding="utf-8"))


def made(told: list[Event]) -> dict[str, set[str]]:
    """Stage -> units that were not found done."""
    found: dict[str, set[str]] = {}
    for event in told:
        if event["event"] == "stage.done" and not event["reused"]:
            found.setdefault(event["stage"], set()).add(event["unit"])
    return found


def shots_of(units: set[str]) -> set[int]:
    return {int(unit[:5]) for unit in units}


def pictures(film: Path) -> list[NDArray[np.int16]]:
    with av.open(str(film)) as file:
        return [frame.to_ndarray(format="gray").astype(np.int16) for frame in file.decode(video=0)]


def changed(film: Path, other: Path, columns: slice) -> set[int]:
    """Frames in which a half of the picture is another by more than an encoder makes it."""
    pairs = enumerate(zip(pictures(film), pictures(other), strict=True))
    return {number for number, (a, b) in pairs if np.abs(a[:, columns] - b[:, columns]).max() > 40}


def packets(film: Path) -> dict[Fraction, bytes]:
    with av.open(str(film)) as file:
        stream = file.streams.video[0]
        return {(p.pts or 0) * Fraction(stream.time_base or 1): bytes(p) for p in file.demux(stream) if p.size}


@pytest.fixture(scope="module")
def two_voices(studio: Studio) -> tuple[Path, list[Event]]:
    """Everyone with his own voice, by the draft as it is."""
    voices = ("--audio", "A=anna.wav", "--audio", "B=bert.wav")
    return studio.dub("two", "--cast", studio.folder / "film.cast.toml", *voices, "--lang", "fr")


# the draft


def test_inspect_drafts_everyone_with_a_still_where_he_is_seen(studio: Studio) -> None:
    found = read_cast(studio.folder / "film.cast.toml")
    assert [(person.name, person.faces, person.voice) for person in found.persons] == [("A", ("A",), None), ("B", ("B",), None)]
    assert all(person.still is not None and person.still.read_bytes()[:2] == b"\xff\xd8" for person in found.persons)
    seen = [line for line in studio.drafted.splitlines() if line.startswith("# seen")]
    assert seen == ["# seen    0:00:00.000 to 0:00:00.480, 0:00:00.960 to 0:00:01.440", "# seen    0:00:00.000 to 0:00:00.960"]
    assert studio.drafted.count("# speaks") == 2
    assert (studio.folder / "film.faces.png").exists()


def test_the_draft_is_accepted_as_it_is_and_what_inspect_found_is_not_done_again(two_voices: tuple[Path, list[Event]]) -> None:
    _, told = two_voices
    assert {"demux", "faces"}.isdisjoint(made(told))
    assert told[-1]["event"] == "run.done"


def test_an_edited_draft_is_never_replaced_unasked(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    copied = studio.folder / "edit.mp4"
    copied.write_bytes(studio.film.read_bytes())
    edited = studio.cast("edit.cast", "# my work\n")
    assert studio.run("inspect", copied, "--progress", "plain", "--cast", edited) == 6
    assert capsys.readouterr().err.splitlines() == [
        f"musetalk: {edited}",
        "  is there already",
        "  -y replaces it, --cast names another",
    ]
    assert studio.run("inspect", copied, "--progress", "plain") == 0  # nobody asked for it: it stays, and that is told
    assert f"{edited}: is there and says something else; left as it is" in capsys.readouterr().err
    copied.with_name("edit.faces.png").unlink()
    assert edited.read_text() == "# my work\n"
    assert studio.run("inspect", copied, "--progress", "none", "-y") == 0
    assert edited.read_text().count("[[person]]\n") == 2


# two people, two voices


def test_both_mouths_of_a_frame_are_dubbed_and_every_frame_is_kept(studio: Studio, two_voices: tuple[Path, list[Event]]) -> None:
    output, _ = two_voices
    left, right = changed(studio.film, output, LEFT), changed(studio.film, output, RIGHT)
    first, second, third = (set(range(start, start + SHOT)) for start in range(0, FRAMES, SHOT))
    assert len(left & first) > SHOT // 2 and len(left & third) > SHOT // 2 and not left & second
    assert len(right & first) > SHOT // 2 and len(right & second) > SHOT // 2 and not right & third
    assert len(pictures(output)) == FRAMES
    assert sorted(packets(output)) == sorted(packets(studio.film))  # their times


def test_the_sound_is_both_voices_from_the_films_start(studio: Studio, two_voices: tuple[Path, list[Event]]) -> None:
    heard = read_speech(two_voices[0])
    anna, bert = (read_speech(studio.folder / f"{name}.wav") for name in ("anna", "bert"))
    size = min(map(len, (heard, anna, bert)))
    said = anna[:size] + bert[:size]
    assert np.corrcoef(heard[:size], said)[0, 1] > 0.995
    assert np.corrcoef(heard[: size - 3], said[3:])[0, 1] < 0.95  # three samples of 16 kHz would be heard
    with av.open(str(two_voices[0])) as file:
        assert [stream.language for stream in file.streams.audio][0] == "fra"
        assert len(file.streams.audio) == 2  # and the film's own


def mouths(studio: Studio, told: list[Event], shot: int) -> NDArray[np.float16]:
    """(14 or 28, C, 32, 32) answer latents of a shot, as this dub found or made them."""
    (unit,) = [e for e in told if e["event"] == "stage.done" and e["stage"] == "inference" and int(e["unit"]) == shot]
    (path,) = (studio.folder / "work" / "inference").glob(f"*-{unit['key']}/latents.npy")
    return np.asarray(np.load(path))


def test_each_mouth_follows_its_own_voice_in_either_order(studio: Studio, two_voices: tuple[Path, list[Event]]) -> None:
    """Rows alternate, one of each person in every frame: Anna's are the same whatever Bert says, and the other way round."""

    def said(name: str, **voices: str) -> NDArray[np.float16]:
        ranges = [f'\n[[range]]\nperson = "{who}"\nfrom = 0\nto = 0.48\nvoice = "{voice}.wav"\n' for who, voice in voices.items()]
        cast = studio.named(name, "".join(ranges))
        return mouths(studio, studio.dub(name, "--cast", cast, "--audio", "anna=anna.wav", "--audio", "bert=bert.wav")[1], 0)

    two = mouths(studio, two_voices[1], 0)
    swapped, alike = said("swapped", anna="bert", bert="anna"), said("alike", anna="bert", bert="bert")
    np.testing.assert_array_equal(two[1::2], alike[1::2])  # Bert with his own voice
    np.testing.assert_array_equal(swapped[0::2], alike[0::2])  # Anna with Bert's
    for person in (0, 1):
        assert np.abs(two[person::2].astype(float) - swapped[person::2]).max() > 0.1


def plan_of(told: list[Event]) -> Event:
    (plan,) = [event for event in told if event["event"] == "run.plan"]
    return plan


def test_the_plan_tells_what_becomes_of_whom(two_voices: tuple[Path, list[Event]]) -> None:
    plan = plan_of(two_voices[1])
    tracks = [
        [(track["start"], track["stop"], track["what"] != "passed through") for track in shot["tracks"]]
        for shot in plan["decisions"]
    ]
    assert tracks == [[(0, 12, True), (0, 12, True)], [(12, 24, True)], [(24, 36, True)]]
    assert (plan["frames_encoded"], plan["frames_copied"]) == (FRAMES, 0)
    assert plan["why_not_copied"].startswith("no stretch without a generated mouth")


# an edit


def test_an_edit_renders_again_only_the_shots_that_it_touches(studio: Studio, two_voices: tuple[Path, list[Event]]) -> None:
    """Everyone is passed through for six frames of the second shot."""
    edited = studio.named("edited", '\n[[range]]\nfrom = "0:00:00.72"\nto = 0.96\npass = true\n')
    output, told = studio.dub("edited", "--cast", edited, "--audio", "anna=anna.wav", "--audio", "bert=bert.wav", "--lang", "fr")
    again = made(told)
    assert set(again) == {"decide", "inference", "blend", "remux"}
    assert {stage: shots_of(units) for stage, units in again.items() if stage != "remux"} == {
        "decide": {1},
        "inference": {1},
        "blend": {1},
    }
    assert not changed(studio.film, output, RIGHT) & set(range(18, 24))
    assert changed(two_voices[0], output, RIGHT) <= set(range(SHOT, 2 * SHOT))


def test_an_edit_that_changes_no_mouth_only_tells_the_new_names(studio: Studio, two_voices: tuple[Path, list[Event]]) -> None:
    """Names, which the manifest tells; a comment, a range after the film's end."""
    edited = studio.named("idle", '\n# later\n[[range]]\nfrom = "1:00:00"\nto = "1:00:01"\npass = true\n')
    output, told = studio.dub("idle", "--cast", edited, "--audio", "anna=anna.wav", "--audio", "bert=bert.wav", "--lang", "fr")
    assert made(told) == {"remux": {"film"}}
    assert packets(output) == packets(two_voices[0])
    again = studio.named("idle", '\n# later still\n[[range]]\nfrom = "2:00:00"\nto = "2:00:01"\npass = true\n')
    same, told = studio.dub("idle", "--cast", again, "--audio", "anna=anna.wav", "--audio", "bert=bert.wav", "--lang", "fr")
    assert made(told) == {}
    assert same == output


def test_who_has_no_voice_stays_and_a_shot_without_a_dubbed_face_is_the_films_own_packets(
    studio: Studio, two_voices: tuple[Path, list[Event]]
) -> None:
    output, told = studio.dub("anna", "--cast", studio.named("one"), "--audio", "anna=anna.wav", "--lang", "fr")
    assert not changed(studio.film, output, RIGHT)
    before, after = packets(studio.film), packets(output)
    kept = [number for number, time in enumerate(sorted(before)) if before[time] == after[time]]
    assert kept == list(range(SHOT, 2 * SHOT))
    assert plan_of(told)["frames_copied"] == SHOT
    assert {track["why"] for track in plan_of(told)["decisions"][1]["tracks"]} == {"bert has no voice"}
    run_tool("-xerror", "-err_detect", "explode", "-i", str(output), "-f", "null", "-")


def test_copying_can_be_switched_off(studio: Studio, two_voices: tuple[Path, list[Event]]) -> None:
    _, told = studio.dub("encoded", "--cast", studio.named("one"), "--audio", "anna=anna.wav", "--lang", "fr", "--no-copy")
    assert (plan_of(told)["frames_copied"], plan_of(told)["why_not_copied"]) == (0, "switched off")


def test_the_draft_fits_also_where_the_picture_goes_on_with_the_voice(
    studio: Studio, two_voices: tuple[Path, list[Event]]
) -> None:
    """Its letters are those of the film, whatever follows on it; and Anna, who is in its last frame, is still Anna."""
    cast = studio.named("held")
    output, told = studio.dub("held", "--cast", cast, "--audio", "anna=anna.wav", "--audio", "bert=bert.wav", "--length", "hold")
    assert len(pictures(output)) == 43  # 1.7 s and a begun frame
    assert made(told)["faces"] == {"00003"}
    assert "outside the cast" not in {track["why"] for track in plan_of(told)["decisions"][3]["tracks"]}


# people by their stills


def test_a_hand_written_cast_finds_people_by_their_stills(
    studio: Studio, two_voices: tuple[Path, list[Event]], portrait: Rgb
) -> None:
    """Other names, in another order, voices in the file: the same dub."""
    for name, rgb in (("her.png", portrait), ("him.png", 255 - portrait)):
        cv2.imwrite(str(studio.folder / name), rgb[..., ::-1])
    people = (("Mr B", "him.png", "bert.wav"), ("Ms A", "her.png", "anna.wav"))
    text = "".join(f'[[person]]\nname = "{name}"\nstill = "{still}"\nvoice = "{voice}"\n' for name, still, voice in people)
    _, told = studio.dub("stills", "--cast", studio.cast("stills", text), "--lang", "fr")
    np.testing.assert_array_equal(mouths(studio, told, 0), mouths(studio, two_voices[1], 0))


# silence, music and effects


def test_a_voice_in_which_nobody_speaks_leaves_the_film_as_it_is(studio: Studio) -> None:
    noise = make_voice(studio.folder / "noise.wav", seconds=1.5)
    output, told = studio.dub("silent", "--audio", f"fr={noise}", "--face", "all", "--silence", "original")
    assert packets(output) == packets(studio.film)
    assert {"blend", "inference", "latents", "masks"}.isdisjoint(event.get("stage") for event in told)
    assert {track["why"] for shot in plan_of(told)["decisions"] for track in shot["tracks"]} == {"silence"}


def test_in_silence_a_mouth_is_shut_where_that_is_asked_for(studio: Studio) -> None:
    noise = make_voice(studio.folder / "noise.wav", seconds=1.5)
    cast = studio.cast("shut", f'[[person]]\nname = "anna"\nfaces = ["A"]\nvoice = "{noise.name}"\nsilence = "closed"\n')
    _, told = studio.dub("shut", "--cast", cast)
    assert {int(e["unit"]) for e in told if e["event"] == "stage.done" and e["stage"] == "inference"} == {0, 2}
    assert plan_of(told)["frames_copied"] == SHOT  # of the shot in which she is not


def test_the_voice_is_laid_over_music_and_effects(studio: Studio) -> None:
    time = np.arange(48_000 * 2) / 48_000
    music = np.stack([0.2 * np.sin(2 * np.pi * hz * time) for hz in (200, 300)], 1)
    path = studio.folder / "music.wav"
    run_tool("-f", "f64le", "-ar", "48000", "-ac", "2", "-i", _raw(studio.folder, music), "-c:a", "pcm_s24le", str(path))
    output, told = studio.dub("mixed", "--audio", "fr=anna.wav", "--mix", path)
    assert made(told)["sound"] == {"film"}
    with av.open(str(output)) as file:
        stream = file.streams.audio[0]
        assert (stream.layout.name, stream.rate, stream.codec_context.codec.canonical_name) == ("stereo", 48_000, "flac")
        sound = np.concatenate([frame.to_ndarray().reshape(-1, 2) for frame in file.decode(stream)]) / 2.0**31
    voice = sound[: len(music)] - music[: len(sound)]
    np.testing.assert_allclose(voice[:, 0], voice[:, 1], atol=1e-5)  # in the middle
    assert np.abs(voice).max() > 0.1
    assert np.abs(voice[round(1.75 * 48_000) :]).max() < 1e-4  # after it, music alone


def _raw(folder: Path, samples: NDArray[np.float64]) -> str:
    path = folder / "music.f64"
    path.write_bytes(samples.astype("<f8").tobytes())
    return str(path)


# refusals, in words that name them


def refused(studio: Studio, capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, list[str]]:
    code = studio.run("dub", studio.film, "-o", studio.folder / "never.mp4", *FLAGS, *arguments)
    assert not (studio.folder / "never.mp4").exists()
    return code, capsys.readouterr().err.splitlines()


def test_2_for_a_name_that_nobody_has_with_the_names_there_are(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = refused(studio, capsys, "--cast", studio.named("n"), "--audio", "ana=anna.wav")
    assert code == 2
    assert told == ["musetalk: --audio", f"  nobody in {studio.folder}/n.toml is called 'ana'", "  choose from anna, bert"]


def test_2_for_letters_of_another_analysis(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    analysis = read_cast(studio.folder / "film.cast.toml").analysis
    other = studio.cast("other", studio.drafted.replace(analysis, "0" * 16))
    code, told = refused(studio, capsys, "--cast", other, "--audio", "A=anna.wav")
    assert code == 2
    assert told[0] == f"musetalk: {other}"
    assert "letters are of another film, or of other settings of the analysis" in told[1]
    assert "musetalk inspect" in told[2]


def test_2_for_a_letter_that_nobody_has(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = refused(
        studio, capsys, "--cast", studio.cast("q", '[[person]]\nname = "q"\nfaces = ["Q"]\nvoice = "anna.wav"\n')
    )
    assert (code, told[2]) == (2, "  letters go to B")


def test_3_for_a_channel_that_a_voice_lacks(studio: Studio, capsys: pytest.CaptureFixture[str]) -> None:
    text = '[[person]]\nname = "a"\nfaces = ["A"]\nvoice = "anna.wav"\nchannel = 3\n'
    code, told = refused(studio, capsys, "--cast", studio.cast("channel", text))
    assert code == 3
    assert "has 1 channels, none with number 3" in told[1]


def test_5_where_nobody_of_the_cast_is_in_the_film(
    studio: Studio, capsys: pytest.CaptureFixture[str], portrait: Rgb, monkeypatch: pytest.MonkeyPatch
) -> None:
    cv2.imwrite(str(studio.folder / "her.png"), portrait[..., ::-1])
    monkeypatch.setattr("musetalk_cli.casting.SAME_AS_PICTURE", 1.1)  # as if it were another
    text = '[[person]]\nname = "eve"\nstill = "her.png"\nvoice = "anna.wav"\n'
    code, told = refused(studio, capsys, "--cast", studio.cast("eve", text))
    assert code == 5
    assert told[1] == f"  nobody to whom eve.toml gives a voice is seen in {FRAMES} frames"
