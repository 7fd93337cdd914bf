"""From what the user chose to what the stages take: which model a name or a folder stands for."""

import re
import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from musetalk_cli import weights
from musetalk_cli.config import (
    CastConfig,
    CutConfig,
    DecideConfig,
    DemuxConfig,
    DubConfig,
    InferenceConfig,
    RemuxConfig,
    Runtime,
)
from musetalk_cli.errors import MissingError, UsageError
from musetalk_cli.settings import LIMITS, NAMES, Choices, choose_model, choose_runtime, dub_config, for_job
from musetalk_cli.types import DubJob
from musetalk_cli.work import sha256_of


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A model folder as `musetalk train` leaves it, one byte of a net another, and its manifest says so."""
    folder = Path(shutil.copytree(weights.embedded_lite(), tmp_path / "run" / "model"))
    net, manifest = folder / "unet.safetensors", folder / "manifest.json"
    before = sha256_of(net)
    net.write_bytes(net.read_bytes()[:-1] + b"\0")
    manifest.write_text(manifest.read_text().replace(before, sha256_of(net)))
    return folder


def test_folder_of_a_trained_lite_is_loaded_from_there_and_named_by_its_weights(trained: Path, tmp_path: Path) -> None:
    own, shipped = (choose_model(name, tmp_path) for name in (str(trained), "lite"))
    assert own.name == shipped.name == "lite"
    changed = {name for (name, digest), (_, other) in zip(own.weights, shipped.weights, strict=True) if digest != other}
    assert changed == {"unet.safetensors"}
    assert choose_runtime(Choices(model=str(trained), device="cpu")).model == trained
    assert choose_runtime(Choices(model="lite", device="cpu")).model is None


def test_card_beside_a_trained_model_names_no_other_results(trained: Path, tmp_path: Path) -> None:
    before = choose_model(str(trained), tmp_path)
    (trained / "README.md").write_text("another card")
    assert choose_model(str(trained), tmp_path) == before


def test_trained_unet_goes_with_the_published_nets_around_it(tmp_path: Path) -> None:
    root, own = tmp_path / "weights", tmp_path / "model"
    for need in weights.SETS["v15"]:
        write(root / need[0].path, "published")
    write(own / "musetalkV15/musetalk.json", "{}")
    write(own / "musetalkV15/unet.safetensors", "ours")
    config = choose_model(str(own), root)
    published = dict(choose_model("v15", root).weights)
    assert config.name == "v15"
    ours = dict(config.weights)
    assert "musetalkV15/unet.safetensors" in ours and "musetalkV15/unet.pth" not in ours
    assert {name: digest for name, digest in ours.items() if "V15" not in name}.items() <= published.items()


def test_trained_unet_without_the_nets_around_it_says_what_to_pull(tmp_path: Path) -> None:
    write(tmp_path / "model/musetalkV15/musetalk.json", "{}")
    write(tmp_path / "model/musetalkV15/unet.safetensors", "ours")
    with pytest.raises(MissingError, match="sd-vae") as caught:
        dub_config(Choices(model=str(tmp_path / "model"), weights=tmp_path), choose_runtime(Choices(device="cpu")))
    assert "weights pull v15" in str(caught.value.cure)


@pytest.mark.parametrize(("name", "fact"), [("v2", "nor a folder"), (".", "a folder without a model")])
def test_what_is_no_model_is_refused(name: str, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=fact):
        choose_model(name, tmp_path)


def test_a_face_that_is_no_file_is_refused_with_the_words_there_are(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--face biggest: neither largest, all, nor a file"):
        dub_config(Choices(model="lite", face="biggest", weights=tmp_path), choose_runtime(Choices(device="cpu")))


def config_of(**choices: Any) -> DubConfig:
    return dub_config(Choices(model="lite", device="cpu", **choices), Runtime())


@pytest.mark.parametrize(
    ("choices", "part", "expected"),
    [
        ({"face": "all"}, "cast", CastConfig(choose="all")),
        ({"silence": "closed"}, "decide", DecideConfig(silence="closed")),
        ({"max_yaw": 30.0}, "decide", DecideConfig(max_yaw=30.0, review_yaw=30.0)),
        ({"copy": False}, "cut", CutConfig(copy=False)),
        ({"original_audio": False, "length": "trim"}, "remux", RemuxConfig(original_audio=False, length="trim")),
        ({"chunk": 2.5}, "demux", DemuxConfig(chunk=Fraction(5, 2))),
    ],
)
def test_each_flag_reaches_its_stage_and_no_other(choices: dict[str, Any], part: str, expected: object) -> None:
    usual, chosen = config_of(), config_of(**choices)
    assert getattr(chosen, part) == expected != getattr(usual, part)
    assert replace(chosen, **{part: getattr(usual, part)}) == usual


def test_whom_to_dub_changes_nothing_of_the_analysis() -> None:
    """So that another choice finds the faces done."""
    assert config_of(face="all").faces == config_of(face="largest").faces


def test_steadiness_is_a_strength_and_nought_is_off() -> None:
    usual, strong, weak, off = (config_of(steady=strength).inference for strength in (1, 2, 0.5, 0))
    assert usual == InferenceConfig()
    assert strong.heard_hz < usual.heard_hz < weak.heard_hz and strong.answered_hz < usual.answered_hz < weak.answered_hz
    assert off == InferenceConfig(0, 0)


def test_a_jobs_output_says_its_container_language_and_notice(tmp_path: Path) -> None:
    job = DubJob(tmp_path / "a.mp4", tmp_path / "fr.wav", tmp_path / "OUT.MKV", "fr")
    config = for_job(config_of(), job)
    assert (config.blend.suffix, config.remux.suffix, config.remux.language) == (".mkv", ".mkv", "fr")
    assert "altered by musetalk" in config.remux.notice


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def test_what_a_program_may_choose_is_what_the_flags_take() -> None:
    """The limits stand twice: typer shows them in --help, programs and manifests have no typer."""
    from typer.main import get_command

    from musetalk_cli import cli

    commands: Any = vars(get_command(cli.app))["commands"]
    flags = {one.name: one for one in commands["dub"].params}
    for name, (least, most) in LIMITS.items():
        assert (flags[name].min, most if flags[name].max is None else flags[name].max) == (least, most), name
    for name, words in NAMES.items():
        taken = re.findall(r"'([^']+)'", str(flags[name].type_descriptor.annotation))
        assert set(taken) == {word for word in words if word}, name


@pytest.mark.parametrize(
    "choices", [{"chunk": 0.0}, {"fade": float("nan")}, {"steady": "much"}, {"codec": "divx"}, {"silence": ""}]
)
def test_what_no_flag_would_take_is_refused_of_a_program_too(choices: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        config_of(**choices)
    assert caught.value.thing == next(iter(choices)) and caught.value.cure
