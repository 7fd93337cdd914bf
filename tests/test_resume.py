"""The promise of a film overnight: kill -9 at any moment, run again, and the film is the one that an undisturbed run would have made.

The real command, the embedded model, a real codec. MUSETALK_TEST_KILLS raises the number of kills (20 before a release).
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from conftest import make_speech

KILLS = int(os.environ.get("MUSETALK_TEST_KILLS", "4"))
FRAMES = 36
SIZE_PX = 192
ANALYSIS = {"demux", "faces", "pick", "latents", "masks"}


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """36 frames at 25 fps: the portrait, a cut to its mirror image, a grey wall without anyone."""
    from skimage import data

    portrait = np.ascontiguousarray(data.astronaut()[0:256, 96:352])
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width = stream.height = SIZE_PX
        stream.pix_fmt = "yuv420p"
        for number in range(FRAMES):
            picture = [portrait, portrait[:, ::-1], np.full_like(portrait, 90)][min(number // 14, 2)]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24").reformat(SIZE_PX, SIZE_PX, "yuv420p")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def command(film: Path, sound: Path, output: Path, work: Path) -> list[str]:
    flags = ["--audio", str(sound), "-o", str(output), "--work-dir", str(work), "--progress", "none", "--chunk", "0.4"]
    return [sys.executable, "-m", "musetalk_cli", "dub", str(film), *flags]


def events(work: Path) -> list[dict[str, Any]]:
    lines = (work / "run.jsonl").read_text().splitlines()
    return [event for line in lines if (event := _parsed(line))]


def _parsed(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line))
    except ValueError:
        return {}  # the line that a kill cut short


def computed(work: Path) -> Counter[str]:
    """How often each result was made, by stage and key."""
    done = [event for event in events(work) if event["event"] == "stage.done" and not event["reused"]]
    return Counter(f"{event['stage']} {event['key']}" for event in done)


def kill_after(line: list[str], seconds: float) -> bool:
    """Start, wait, kill -9 the whole process group; True where it had finished by itself."""
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    return process.returncode == 0


def test_killed_and_resumed_is_bit_identical_and_computes_nothing_twice(film: Path, tmp_path: Path) -> None:
    sound = make_speech(tmp_path / "fr.wav", seconds=2)
    began = time.monotonic()
    subprocess.run(command(film, sound, tmp_path / "whole.mp4", tmp_path / "whole"), check=True, capture_output=True)
    undisturbed = time.monotonic() - began

    moments = random.Random(2026)
    work, output = tmp_path / "work", tmp_path / "resumed.mp4"
    for _ in range(KILLS):
        done = kill_after(command(film, sound, output, work), moments.uniform(0, undisturbed))
        if done or output.exists():  # or killed between the delivery and the end of the process
            assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
            output.unlink()
    subprocess.run(command(film, sound, output, work), check=True, capture_output=True)

    assert output.read_bytes() == (tmp_path / "whole.mp4").read_bytes()
    assert set(computed(work).values()) == {1}
    assert computed(work).keys() == computed(tmp_path / "whole").keys()
    assert not list((work / "tmp").glob("*"))


def test_second_language_detects_crops_and_encodes_nothing_again(film: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    for language, pace in (("fr", 1.0), ("de", 1.2)):
        sound = make_speech(tmp_path / f"{language}.wav", seconds=2, pace=pace)
        subprocess.run(command(film, sound, tmp_path / f"{language}.mp4", work), check=True, capture_output=True)
    runs = [event["event"] for event in events(work)]
    second = events(work)[runs.index("run.done") + 1 :]
    made = {event["stage"] for event in second if event["event"] == "stage.done" and not event["reused"]}
    assert made == {"listen", "decide", "inference", "blend", "remux"}
    reused = {(event["stage"], event["unit"][:5]) for event in second if event["event"] == "stage.done" and event["reused"]}
    assert {stage for stage, _ in reused} >= ANALYSIS
    assert {unit for stage, unit in reused if stage not in ANALYSIS} == {"00004"}  # the wall hears no voice
    assert (tmp_path / "fr.mp4").read_bytes() != (tmp_path / "de.mp4").read_bytes()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_first_signal_checkpoints_and_the_next_run_goes_on(film: Path, tmp_path: Path, number: int, code: int) -> None:
    line = command(film, make_speech(tmp_path / "fr.wav", seconds=2), tmp_path / "out.mp4", tmp_path / "work")
    process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = tmp_path / "work" / "run.jsonl"
    while not (journal.exists() and "faces" in journal.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    assert process.wait(120) == code
    assert not (tmp_path / "out.mp4").exists()
    subprocess.run(line, check=True, capture_output=True)
    assert set(computed(tmp_path / "work").values()) == {1}
    assert (tmp_path / "out.mp4").exists()
