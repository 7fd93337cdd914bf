"""The examples are what their README says: scripts run, and name no command or flag that is not there."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import wave
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
import pytest
import typer.main
import yaml
from conftest import make_speech
from made_films import clip
from numpy.typing import NDArray

from musetalk_cli import cli
from musetalk_cli.media.audio import read_speech
from musetalk_cli.media.video import to_rgb
from musetalk_cli.models.analysis import EmbeddedAnalyser
from musetalk_cli.types import Colour

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_example", EXAMPLES / "make_example.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def frames(*numbers: int) -> dict[int, av.VideoFrame]:
    with av.open(str(EXAMPLES / "film.mp4")) as film:
        return {i: frame for i, frame in enumerate(film.decode(video=0)) if i in numbers}


def test_both_files_are_small_and_six_seconds_long() -> None:
    assert (EXAMPLES / "film.mp4").stat().st_size + (EXAMPLES / "fr.wav").stat().st_size < 2_000_000
    with av.open(str(EXAMPLES / "film.mp4")) as film:
        picture, sound = film.streams.video[0], film.streams.audio[0]
        assert (picture.width, picture.height, picture.frames, picture.average_rate) == (1280, 720, 150, 25)
        assert (picture.codec.name, sound.codec.canonical_name) == ("h264", "aac")
    with wave.open(str(EXAMPLES / "fr.wav")) as voice:
        assert (voice.getnframes(), voice.getframerate(), voice.getnchannels()) == (96_000, 16_000, 1)


def test_a_face_is_found_in_both_framings_and_none_in_between() -> None:
    with EmbeddedAnalyser() as analyser:
        found = {i: analyser.detect(f.to_ndarray(format="rgb24")) for i, f in frames(0, 59, 60, 84, 85, 149).items()}
    assert {i: len(faces) for i, faces in found.items()} == {0: 1, 59: 1, 60: 0, 84: 0, 85: 1, 149: 1}
    assert min(faces[0].box[2] - faces[0].box[0] for faces in found.values() if faces) >= 150


def test_script_makes_the_same_voice_and_the_same_picture(script: ModuleType) -> None:
    """Nearly: the synthesiser's noise depends on what memory held before, so the jaw follows the film's own sound here."""
    english = np.resize(read_speech(EXAMPLES / "film.mp4"), 96_000)
    opening = script.jaw((english * 32767).astype(np.int16))
    with wave.open(str(EXAMPLES / "fr.wav")) as voice:
        kept = np.frombuffer(voice.readframes(voice.getnframes()), np.int16)
    np.testing.assert_allclose(loudness(script.speak(script.FRENCH, "fr-FR", 6)), loudness(kept), atol=0.05)
    portrait = script.cv2.cvtColor(script.astronaut(), script.cv2.COLOR_RGB2BGR)
    for i, frame in frames(8, 70, 90).items():
        drawn = script.draw(portrait, i, opening[i])[..., ::-1].astype(float)
        error = np.mean((to_rgb(frame, Colour(matrix="bt709", range="tv")) - drawn) ** 2)
        assert 10 * np.log10(255**2 / error) > 27, f"frame {i}"  # another noise moves the jaw by a pixel or two: 29.6 dB seen


def loudness(samples: NDArray[np.int16]) -> NDArray[np.float64]:
    """(S,) -> RMS of every 100 ms, 0..1."""
    return np.sqrt(np.mean((samples.reshape(-1, 1600) / 32768) ** 2, axis=1))


@pytest.fixture(name="bin_folder")
def _bin_folder(tmp_path: Path) -> Path:
    """The command on the PATH, and a `sbatch` that runs each task of an array at once, here."""
    folder = tmp_path / "bin"
    folder.mkdir()
    sbatch = """#!/usr/bin/env bash
set -eu
last=-1 arguments=()
for argument; do
    case $argument in
        --array=0-*) last=${argument#--array=0-} ;;
        --parsable | --dependency=afterany:41) ;;
        *) arguments+=("$argument") ;;
    esac
done
for task in $(seq 0 "$last"); do SLURM_ARRAY_TASK_ID=$task "${arguments[@]}" >&2 & done
if [ "$last" = -1 ]; then "${arguments[@]}" >&2; fi
wait
echo 41
"""
    for name, text in {"musetalk": f'#!/bin/sh\nexec "{sys.executable}" -m musetalk_cli "$@"\n', "sbatch": sbatch}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def script_run(bin_folder: Path, name: str, *arguments: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    own = {"PATH": f"{bin_folder}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(bin_folder / "cache")}
    command = ["bash", str(EXAMPLES / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **own, **environment}, timeout=300)


def test_loop_goes_past_a_broken_film_and_a_second_one_makes_only_what_is_missing(tmp_path: Path, bin_folder: Path) -> None:
    films = tmp_path / "films of today"
    films.mkdir()
    clip(films)
    (films / "broken.mp4").write_text("no film")
    for name in ("film", "broken"):
        make_speech(films / f"{name}.fr.wav", seconds=0.4)
    ran = script_run(bin_folder, "batch.sh", films, "--model", "lite", "-q")
    assert ran.returncode == 8 and "broken.mp4: exit code 3" in ran.stderr and "1 films are done" in ran.stderr
    made = (films / "film.fr.mp4").stat().st_mtime_ns
    (films / "broken.mp4").unlink()
    again = script_run(bin_folder, "batch.sh", films, "--model", "lite", "-q")
    assert again.returncode == 0, again.stderr
    assert (films / "film.fr.mp4").stat().st_mtime_ns == made


def test_slurm_job_plans_shares_and_joins(tmp_path: Path, bin_folder: Path) -> None:
    film, voice = clip(tmp_path, frames=24), make_speech(tmp_path / "fr.wav", seconds=0.9)
    flags = ["--audio", f"fr={voice}", "-o", tmp_path / "out.mp4", "--model", "lite", "--chunk", "0.4"]
    ran = script_run(bin_folder, "slurm.sh", "submit", film, *flags, DIR=str(tmp_path / "desk"), SHARDS="2")
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1] == "41", ran.stderr
    assert {"shard 0/2", "shard 1/2"} <= {line.partition(":")[0] for line in ran.stderr.splitlines()}
    assert (tmp_path / "out.mp4").is_file()
    assert (
        script_run(bin_folder, "slurm.sh", "work", DIR=str(tmp_path / "desk"), SHARDS="2").returncode != 0
    )  # without a task's number


SCRIPTS = (
    "Dockerfile",
    "batch.sh",
    "kubernetes.yaml",
    "ray_cluster.yaml",
    "render.yml",
    "slurm.sh",
    "train_lite.sh",
    "README.md",
)


def said_commands(name: str) -> Iterator[list[str]]:
    """The words after `musetalk` wherever a file of the examples calls it: in scripts, in YAML, in comments."""
    text = (EXAMPLES / name).read_text().replace("\\\n", " ")
    for line in re.findall(
        r"\bmusetalk(?::cpu|:cuda)? ((?:dub|batch|plan|work|join|inspect|report|verify|doctor|prepare|train|weights)\b[^\n|`]*)",
        text,
    ):
        yield shlex.split(line.split(" && ")[0].split(" # ")[0].split("  ")[0].rstrip("]),"), posix=False)
    if name == "kubernetes.yaml":
        for job in yaml.safe_load_all(text):
            yield job["spec"]["template"]["spec"]["containers"][0]["args"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_commands_of_the_examples_exist_with_these_flags(name: str) -> None:
    commands: Any = typer.main.get_command(cli.app)
    found = list(said_commands(name))
    assert found
    for words in found:
        command = commands.commands[words[0]]
        while hasattr(command, "commands"):
            words = words[1:]
            command = command.commands[words[0]]
        known = {opt for parameter in command.params for opt in (*parameter.opts, *parameter.secondary_opts)}
        used = {word.partition("=")[0] for word in words[1:] if re.fullmatch(r"--?[a-z][a-z-]*(=.*)?", word)}
        assert used <= known, f"{name}: musetalk {' '.join(words)}: {used - known}"


def test_render_job_hands_on_what_the_next_one_takes() -> None:
    jobs = yaml.safe_load((EXAMPLES / "render.yml").read_text())["jobs"]
    assert [job.get("needs") for job in jobs.values()] == [None, "plan", "work"]
    shards = yaml.safe_load((EXAMPLES / "render.yml").read_text())["env"]["SHARDS"]
    assert jobs["work"]["strategy"]["matrix"]["shard"] == list(range(shards))
    given, taken = (
        [step["with"] for step in job["steps"] if kind in step.get("uses", "")]
        for kind, job in (("upload-artifact", jobs["work"]), ("download-artifact", jobs["join"]))
    )
    assert given[0]["name"].startswith("desk-") and taken[0] == {
        "pattern": "desk-*",
        "path": given[0]["path"],
        "merge-multiple": True,
    }


def test_ray_cluster_is_what_ray_asks_for() -> None:
    cluster = yaml.safe_load((EXAMPLES / "ray_cluster.yaml").read_text())
    assert len(cluster["provider"]["worker_ips"]) == cluster["max_workers"]
    util = pytest.importorskip("ray.autoscaler._private.util")
    util.validate_config(util.prepare_config(cluster))


def test_image_copies_files_that_are_there() -> None:
    text = (EXAMPLES / "Dockerfile").read_text()
    sources = [word for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert "pyproject.toml" in sources and all((EXAMPLES.parent / source).exists() for source in sources)
    assert {"cpu", "cuda"} <= set(re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)) and "USER 1000" in text


@pytest.mark.parametrize("name", ["batch.sh", "slurm.sh", "train_lite.sh"])
def test_scripts_are_clean(name: str) -> None:
    assert os.access(EXAMPLES / name, os.X_OK)
    subprocess.run(["bash", "-n", str(EXAMPLES / name)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", str(EXAMPLES / name)], check=True)


def test_every_example_has_a_line_in_the_readme() -> None:
    told = (EXAMPLES / "README.md").read_text()
    kept = [path.name for path in EXAMPLES.iterdir() if path.is_file() and not path.name.startswith((".", "film.", "fr."))]
    assert [name for name in kept if name != "README.md" and f"`{name}`" not in told] == []
