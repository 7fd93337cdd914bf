"""What a dub refuses before any work: outputs that would cost an input, or that nobody could write; settings that no encoder takes."""

import os
from pathlib import Path

import pytest

from musetalk_cli.cast_map import check_known, read_cast
from musetalk_cli.errors import InputError, OutputExistsError, UsageError
from musetalk_cli.jobs import Existing, Parts, dub_film, plan_jobs
from musetalk_cli.session import Place, Voice
from musetalk_cli.settings import Choices
from musetalk_cli.types import DubJob

REFUSE = Existing()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("s.mp4", "es.wav", "s.es.mp4"):
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def plan(folder: Path, *audio: str, output: Path | None = None, existing: Existing = REFUSE, work: str = "work") -> list[DubJob]:
    return plan_jobs(folder / "s.mp4", audio, output, "", existing, Place(folder / work))


def test_no_output_replaces_the_voice_of_another_job(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"s\.es\.mp4: is itself an input"):
        plan(folder, f"es={folder}/es.wav", f"de={folder}/s.es.mp4", existing=Existing(overwrite=True))


def test_no_output_replaces_the_film_under_another_name(folder: Path) -> None:
    os.link(folder / "s.mp4", folder / "other.mp4")
    with pytest.raises(UsageError, match="is itself an input"):
        plan(folder, f"{folder}/es.wav", output=folder / "other.mp4", existing=Existing(overwrite=True))


@pytest.mark.parametrize(("name", "fact"), [("x.txt", "cannot write .txt"), ("x", "has no suffix")])
def test_an_output_of_no_container_is_a_usage_error_that_names_it(folder: Path, name: str, fact: str) -> None:
    with pytest.raises(UsageError, match=fact) as caught:
        plan(folder, f"{folder}/es.wav", output=folder / name)
    assert caught.value.thing == str(folder / name)
    assert ".mkv" in caught.value.cure
    assert plan(folder, f"{folder}/es.wav", output=folder / "X.MP4")[0].output == folder / "X.MP4"


def test_an_output_is_kept_unless_it_was_made_in_this_work_folder(folder: Path) -> None:
    """Of whatever settings: those are looked at when they are known, before any work."""
    voice = f"es={folder}/es.wav"
    with pytest.raises(OutputExistsError):
        plan(folder, voice)
    made = folder / "work" / "remux" / "film-0"
    made.mkdir(parents=True)
    (made / "film.mp4").write_bytes(b"s.es.mp4")
    assert [job.output.name for job in plan(folder, voice)] == ["s.es.mp4"]
    with pytest.raises(OutputExistsError):
        plan_jobs(folder / "s.mp4", [voice], None, "", Existing(), Place(folder / "work", fresh=True))
    (made / "film.mp4").write_bytes(b"S.es.mp4")
    with pytest.raises(OutputExistsError):
        plan(folder, voice)


def test_an_empty_voice_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="--audio: its path is empty"):
        plan(folder, "")


@pytest.mark.parametrize(
    ("crf", "codec", "suffix", "most"),
    [
        (99, "auto", ".mp4", 63),  # AV1, if the film is
        (52, "auto", ".mov", 51),
        (-1, "libx264", ".mp4", 51),
        (52, "libx265", ".mkv", 51),
        (64, "auto", ".webm", 63),
        (64, "libvpx-vp9", ".mkv", 63),
    ],
)
def test_a_quality_that_the_encoder_lacks_is_refused_before_the_film_is_opened(
    folder: Path, crf: float, codec: str, suffix: str, most: int
) -> None:
    job = DubJob(folder / "no film.mp4", folder / "es.wav", folder / f"out{suffix}")
    with pytest.raises(UsageError, match=f"--crf {crf}: outside of 0 to {most}"):
        dub_film([job], Choices(codec=codec, crf=crf), Place(folder / "work"), Voice("none"), Existing())


# a cast, and music and effects


@pytest.fixture
def cast(folder: Path) -> Path:
    """Anna has a voice in the file, Bert has none."""
    for name in ("anna.wav", "bert.wav", "music.wav"):
        (folder / name).write_bytes(name.encode())
    path = folder / "cast.toml"
    path.write_text('[[person]]\nname = "anna"\nfaces = ["A"]\nvoice = "anna.wav"\n[[person]]\nname = "bert"\nfaces = ["B"]\n')
    return path


def plan_cast(cast: Path, *audio: str, output: Path | None = None, language: str = "", bed: Path | None = None) -> DubJob:
    folder = cast.parent
    place = Place(folder / "work")
    (job,) = plan_jobs(folder / "s.mp4", audio, output, language, Existing(overwrite=True), place, Parts(cast, bed))
    return job


def test_a_cast_is_one_job_whatever_the_number_of_its_voices(cast: Path) -> None:
    folder = cast.parent
    job = plan_cast(cast, f"bert={folder}/bert.wav", bed=folder / "music.wav")
    assert job == DubJob(
        folder / "s.mp4",
        folder / "anna.wav",
        folder / "s.cast.mp4",
        "",
        cast,
        (("bert", folder / "bert.wav"),),
        folder / "music.wav",
    )
    assert plan_cast(cast).voices == ()  # the file says it all


def test_a_casts_output_is_named_by_its_language(cast: Path) -> None:
    assert plan_cast(cast, language="fr").output.name == "s.fr.mp4"
    assert plan_cast(cast, language="fr", output=cast.parent / "x.{lang}.mkv").output.name == "x.fr.mkv"
    with pytest.raises(UsageError, match="klingon"):
        plan_cast(cast, language="klingon")


@pytest.mark.parametrize("audio", ["bert.wav", "=bert.wav", "bert=", ""])
def test_with_a_cast_every_voice_names_somebody(cast: Path, audio: str) -> None:
    with pytest.raises(UsageError, match="names nobody") as caught:
        plan_cast(cast, audio)
    assert "NAME=PATH" in caught.value.cure


def test_a_persons_name_is_no_language(cast: Path) -> None:
    """It may look like one, and need not: bert, fr, Anna Maria."""
    cast.write_text('[[person]]\nname = "fr"\nfaces = ["A"]\n[[person]]\nname = "Anna Maria"\nfaces = ["B"]\n')
    folder = cast.parent
    job = plan_cast(cast, f"fr={folder}/bert.wav", f"Anna Maria={folder}/anna.wav")
    assert (job.language, [name for name, _ in job.voices]) == ("", ["fr", "Anna Maria"])


def test_two_voices_for_one_name_are_refused(cast: Path) -> None:
    with pytest.raises(UsageError, match="two voices for one name"):
        plan_cast(cast, f"anna={cast.parent}/anna.wav", f"anna={cast.parent}/bert.wav")


def test_nobodys_name_is_refused_with_the_names_there_are(cast: Path) -> None:
    with pytest.raises(UsageError, match="is called 'carl'") as caught:
        plan_cast(cast, f"carl={cast.parent}/bert.wav")
    assert caught.value.cure == "choose from anna, bert"


def test_every_file_of_sound_is_looked_for_before_any_work(cast: Path) -> None:
    folder = cast.parent
    with pytest.raises(InputError, match=r"no\.wav"):
        plan_cast(cast, f"bert={folder}/no.wav")
    with pytest.raises(InputError, match=r"no music\.wav"):
        plan_cast(cast, bed=folder / "no music.wav")
    (folder / "anna.wav").unlink()
    with pytest.raises(InputError, match=r"anna\.wav"):
        plan_cast(cast)


@pytest.mark.parametrize("name", ["anna.wav", "music.wav", "cast.toml"])
def test_no_output_replaces_a_voice_the_music_or_the_map(cast: Path, name: str) -> None:
    folder = cast.parent
    os.link(folder / name, folder / "out.mp4")
    with pytest.raises(UsageError, match="is itself an input"):
        plan_cast(cast, output=folder / "out.mp4", bed=folder / "music.wav")


def test_music_and_effects_lie_under_each_language(folder: Path) -> None:
    (folder / "music.wav").touch()
    voices = [f"es={folder}/es.wav", f"de={folder}/es.wav"]
    place = Place(folder / "work")
    jobs = plan_jobs(folder / "s.mp4", voices, None, "", Existing(overwrite=True), place, Parts(bed=folder / "music.wav"))
    assert [(job.language, job.bed) for job in jobs] == [("es", folder / "music.wav"), ("de", folder / "music.wav")]


def test_without_a_voice_and_without_a_cast_there_is_nothing_to_do(folder: Path) -> None:
    with pytest.raises(UsageError, match="--audio: is missing"):
        plan_jobs(folder / "s.mp4", [], None, "", Existing(), Place(folder / "work"))


def test_person_of_whom_nothing_says_who_it_is_is_told_before_any_work(tmp_path: Path) -> None:
    cast = tmp_path / "cast.toml"
    cast.write_text('[[person]]\nname = "paul"\nvoice = "v.wav"\n')
    with pytest.raises(UsageError, match="'paul': has neither faces nor still"):
        check_known(read_cast(cast))
    cast.write_text('[[person]]\nname = "paul"\nstill = "nope.jpg"\n')
    with pytest.raises(InputError, match=r"nope.jpg: there is no such file"):
        check_known(read_cast(cast))
