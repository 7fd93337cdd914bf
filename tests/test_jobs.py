"""What a dub refuses before any work: outputs that would cost an input, or that nobody could write; settings that no encoder takes."""

import os
from pathlib import Path

import pytest

from musetalk_cli.errors import OutputExistsError, UsageError
from musetalk_cli.jobs import Existing, dub_film, plan_jobs
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
        (99, "auto", ".mp4", 51),
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
