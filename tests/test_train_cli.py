"""`musetalk train` from sets to models, on made faces and nets of toy size: every task, resume, settings, export."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from made_set import make_set
from safetensors.torch import load_file, save_file

from musetalk_cli.cli import run
from musetalk_cli.errors import InputError, MissingError, UsageError
from musetalk_cli.models.lite import LiteConfig, load_lite
from musetalk_cli.models.published import load_published
from musetalk_cli.models.syncnet import SyncNet, SyncNetConfig, load_syncnet, save_syncnet
from musetalk_cli.training import syncnet_stage
from musetalk_cli.training.checkpoint import load_checkpoint, newest
from musetalk_cli.training.config import StageConfig
from musetalk_cli.training.lite_export import open_parts, write_lite
from musetalk_cli.training.lite_stage import LITE
from musetalk_cli.training.published_stage import open_unet
from musetalk_cli.training.report import read_metrics
from musetalk_cli.training.runs import differing, overridden, plain, restored
from musetalk_cli.training.tasks import LiteOptions
from musetalk_cli.weights import embedded_lite

TOY = LiteConfig(
    latent_channels=4,
    encoder_widths=(8, 8),
    decoder_widths=(16, 8),
    lip_nets=2,
    lip_token_width=8,
    lip_hidden=16,
    unet_widths=(16, 32),
    unet_heads=2,
)
TOY_SYNCNET = replace(SyncNetConfig.small(), visual_widths=(8,) * 6, audio_widths=(8,) * 4, groups=4, stem_stride=2, dropout=0.0)
TOY_UNET = {"block_out_channels": [16, 32], "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 2}
TOY_UNET |= {
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
}
FAST = ["--threads", "1", "--log-every", "1", "--set", "validate_every=2", "--quiet"]
SMALL_JUDGES = ["--set", "discriminator.widths=4,4,8,8", "--set", "weights.vgg=0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_set(tmp_path_factory.mktemp("made") / "set")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lite model of toy size; whisper is the embedded one's, and so is the basis of lip codes."""
    torch.manual_seed(0)
    folder, embedded = tmp_path_factory.mktemp("toy") / "model", embedded_lite()
    write_lite(open_parts(embedded, TOY, ("autoencoder", "lips", "unet")), TOY, embedded, folder)
    return folder


@pytest.fixture(scope="module")
def expert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SyncNet of toy size."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("expert") / "syncnet.safetensors"
    save_syncnet(SyncNet(TOY_SYNCNET), path)
    return path


def _train(*arguments: object) -> int:
    return run(["train", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def stages(made: Path, toy: Path, expert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Runs of both stages, the second begun from the first."""
    first, second = (tmp_path_factory.mktemp("stages") / name for name in ("first", "second"))
    assert _train("stage1", first, made, "--init", toy, "--steps", 2, "--batch", 2, *FAST, *SMALL_JUDGES) == 0
    arguments = ("--init", first / "model", "--syncnet", expert, "--steps", 2, "--set", "weights.fm=0.1")
    assert _train("stage2", second, made, *arguments, *FAST, *SMALL_JUDGES) == 0
    return first, second


def test_both_stages_end_in_a_model_that_loads(stages: tuple[Path, Path]) -> None:
    first, second = stages
    assert load_lite(second / "model", torch.device("cpu")).nets.unet.config == TOY
    before, after = (load_file(folder / "model" / "autoencoder.safetensors") for folder in (first, second))
    assert not torch.equal(before["decoder.0.weight"], after["decoder.0.weight"])
    assert torch.equal(before["encoder.1.weight"], after["encoder.1.weight"])


def test_card_tells_data_losses_validation_and_files(stages: tuple[Path, Path]) -> None:
    out = stages[1]
    records = read_metrics(out)
    losses = {"loss/l1", "loss/latent", "loss/sync", "loss/adv_face", "loss/adv_lip", "loss/fm", "loss/d_face", "loss/d_lip"}
    assert losses <= records[0].keys() and "loss/vgg" not in records[0]
    assert {"val/l1", "val/psnr", "val/ssim", "val/ceiling_psnr", "val/lent_l1", "val/sync", "val/sync_real"} <= records[
        -1
    ].keys()
    card = (out / "model" / "README.md").read_text()
    assert "| trained on | 2 | 2 |" in card and "| held out, whole people | 1 | 1 |" in card
    assert "adv_lip" in card and "unet.safetensors" in card and '"gan": "lsgan"' in card
    assert (out / "model" / "losses.png").stat().st_size > 1000
    assert "<svg" in (out / "curves.svg").read_text()
    assert [path.name for path in (out / "strips").iterdir()] == ["held_out-00000002.png"]


def test_stopped_by_sigterm_it_exits_143_and_goes_on_to_the_same_weights(made: Path, toy: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    settings = ["--init", toy, "--batch", 1, *SMALL_JUDGES, "--set", "schedule=constant", *FAST]
    stopper = Thread(target=_stop_after, args=(cut, 3))
    stopper.start()
    assert _train("stage1", cut, made, "--steps", 4000, *settings) == 143
    stopper.join()
    last = ["--steps", int(newest(cut / "checkpoints").name.split("-")[1]) + 2]  # type: ignore[union-attr]
    assert _train("stage1", cut, made, *settings, *last, "--changed") == 0
    assert _train("stage1", whole, made, *settings, *last) == 0
    one, other = (load_checkpoint(newest(folder / "checkpoints")).tables for folder in (whole, cut))  # type: ignore[arg-type]
    assert one.keys() == other.keys()
    assert [name for table in one for name in one[table] if not torch.equal(one[table][name], other[table][name])] == []


def _stop_after(out: Path, steps: int) -> None:
    while len(read_metrics(out)) < steps:
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)


def test_run_with_other_settings_is_refused_and_told_what_changed(
    made: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["stage1", tmp_path, made, "--init", toy, "--steps", 1, "--batch", 1, *FAST, *SMALL_JUDGES]
    assert _train(*settings) == 0
    assert _train(*settings, "--set", "rate=0.5") == UsageError.exit_code
    told = capsys.readouterr().err
    assert "settings.rate: 0.0005 -> 0.5" in told and "--fresh" in told
    assert _train(*settings, "--set", "keep=9") == 0
    assert _train(*settings, "--set", "rate=0.5", "--fresh") == 0
    assert newest(tmp_path / "before-1" / "checkpoints") is not None


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("speed=1", "no setting speed"),
        ("weights.speed=1", "no setting speed"),
        ("rate=fast", "not a float"),
        ("steps=2.5", "not a int"),
        ("gan=none", "choose one of wgan, lsgan"),
        ("betas=0.5", "give 2"),
        ("rate", "no value"),
        ("rate=nan", "not a float"),
    ],
)
def test_setting_that_is_not_there_or_of_another_type_is_refused(assignment: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        overridden(LITE.stage1, [assignment])


def test_settings_are_read_as_their_types_and_come_back_from_json() -> None:
    given = [
        "weights.sync=0.1",
        "betas=0.5,0.9",
        "gan=wgan",
        "perceptual.side_px=none",
        "margin.shared=true",
        "perceptual.pyramid=1,0.5",
        "perceptual.kind=vgg19",
    ]
    changed = overridden(LITE.stage2, [*given[:5], given[6], given[5]])
    assert changed.weights.sync == 0.1 and changed.betas == (0.5, 0.9) and changed.margin.shared is True
    assert changed.perceptual.pyramid == (1.0, 0.5)
    assert restored(StageConfig, json.loads(json.dumps(plain(changed)))) == changed
    options = LiteOptions(TOY)
    assert restored(LiteOptions, json.loads(json.dumps(plain(options)))) == options


def test_only_what_changes_the_result_counts_as_changed() -> None:
    before = {"task": "stage1", "settings": {"rate": 1.0, "keep": 3, "weights": {"l1": 1.0}}}
    now = {"task": "stage1", "settings": {"rate": 1.0, "keep": 9, "weights": {"l1": 2.0}}}
    assert differing(before, now) == ["settings.weights.l1: 1.0 -> 2.0"]


def test_syncnet_trains_and_is_validated_on_both_kinds_of_wrong_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncnet_stage, "VAL_WINDOWS", 12)
    voices = make_set(tmp_path / "set", people=4, frames=40, held_out=2)
    settings = ["--steps", 2, "--batch", 3, "--threads", 1, "--log-every", 1, "--set", "loop.validate_every=2", "-q"]
    assert _train("syncnet", tmp_path / "run", voices, *settings, "--set", "weights.bce=0.5") == 0
    figures = read_metrics(tmp_path / "run")
    assert {"loss/nce", "loss/bce"} <= figures[0].keys()
    wanted = {"val/accuracy", "val/auc_shifted", "val/auc_other", "val/offset_within_1", "val/offset_median"}
    assert wanted <= figures[-1].keys() and all(figures[-1][name] is not None for name in wanted)
    net = load_syncnet(tmp_path / "run" / "model" / "syncnet.safetensors")
    assert net.config == SyncNetConfig.small()


def test_autoencoder_and_lips_hand_on_a_whole_model(made: Path, toy: Path, tmp_path: Path) -> None:
    coder = ["--steps", 1, "--batch", 2, "--threads", 1, "-q", "--set", "weights.vgg=0", "--set", "weights.adv_face=0.1"]
    assert _train("autoencoder", tmp_path / "a", made, "--init", toy, *coder, "--set", "loop.validate_every=1") == 0
    sets = make_set(tmp_path / "set", people=3, frames=40, held_out=0)
    lips = ["--set", "epochs=1", "--set", "rounds=1", "-q"]
    assert _train("lips", tmp_path / "l", sets, "--init", tmp_path / "a" / "model", *lips) == 0
    assert _train("lips", tmp_path / "b", sets, "--init", tmp_path / "a" / "model", *lips, "--set", "fit_basis=true") == 0
    before, coder, same, fitted = (load_lite(folder, torch.device("cpu")).nets for folder in (toy, *_models(tmp_path, "alb")))
    for nets, alike in ((coder, True), (same, True), (fitted, False)):
        assert np.array_equal(nets.basis.template, before.basis.template) == alike
        assert np.array_equal(nets.basis.spread, before.basis.spread) == alike
    assert torch.equal(coder.lips.token_mean, before.lips.token_mean) and not torch.equal(
        same.lips.token_mean, before.lips.token_mean
    )
    assert torch.equal(same.autoencoder.mean, coder.autoencoder.mean) and not torch.equal(
        coder.autoencoder.mean, before.autoencoder.mean
    )


def _models(folder: Path, runs: str) -> list[Path]:
    return [folder / name / "model" for name in runs]


def test_lips_without_a_sample_to_train_on_are_refused(toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    held = make_set(tmp_path / "set", people=1, frames=8, held_out=1)
    assert _train("lips", tmp_path / "run", held, "--init", toy, "-q") == InputError.exit_code
    assert "no sample of the split train" in capsys.readouterr().err


def test_decoder_only_leaves_latents_as_they_are(made: Path, toy: Path, tmp_path: Path) -> None:
    settings = ["--steps", 1, "--batch", 2, "-q", "--set", "weights.vgg=0", "--set", "decoder_only=true"]
    assert _train("autoencoder", tmp_path, made, "--init", toy, *settings, "--set", "sizes.decoder_widths=24,8") == 0
    before, after = (load_file(folder / "autoencoder.safetensors") for folder in (toy, tmp_path / "model"))
    kept = [name for name in before if name.startswith("encoder") or name in ("mean", "std")]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert after["decoder.0.weight"].shape[0] == 24


def test_export_takes_the_newest_checkpoint_and_never_overwrites(made: Path, toy: Path, tmp_path: Path) -> None:
    run_folder, out = tmp_path / "run", tmp_path / "out"
    settings = ["--init", toy, "--steps", 1, "--batch", 1, *FAST, *SMALL_JUDGES]
    assert _train("stage1", run_folder, made, *settings) == 0
    shutil.rmtree(run_folder / "model")
    assert _train("export", run_folder, out) == 0
    assert (out / "README.md").is_file()
    load_lite(out, torch.device("cpu"))
    assert _train("export", run_folder, out) == 6
    assert _train("export", tmp_path, tmp_path / "other") == UsageError.exit_code


def test_sync_term_without_an_expert_is_refused(
    made: Path, toy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _train("stage2", tmp_path, made, "--init", toy, "--steps", 1, *FAST, *SMALL_JUDGES) == UsageError.exit_code
    assert "--syncnet" in capsys.readouterr().err


def _published_weights(root: Path) -> None:
    """sd-vae and the U-Net of toy size in MuseTalk's layout."""
    torch.manual_seed(0)
    (root / "sd-vae").mkdir(parents=True)
    vae = AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        norm_num_groups=4,
    )
    (root / "sd-vae/config.json").write_text(json.dumps({"_class_name": "AutoencoderKL", **dict(vae.config)}, default=list))
    save_file(vae.state_dict(), root / "sd-vae/diffusion_pytorch_model.safetensors")
    unet_config: dict[str, Any] = {"in_channels": 8, "out_channels": 4, "cross_attention_dim": 384, **TOY_UNET}
    (root / "toy.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel", **unet_config}))


def test_published_architecture_goes_through_both_stages(
    made: Path, expert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "weights"
    _published_weights(root)
    monkeypatch.setenv("MUSETALK_WEIGHTS", str(root))
    first, second = tmp_path / "first", tmp_path / "second"
    common = [
        "--model",
        "published",
        "--threads",
        1,
        "--log-every",
        1,
        *SMALL_JUDGES,
        "-q",
        "--set",
        f"config={root / 'toy.json'}",
    ]
    assert _train("stage1", first, made, "--steps", 1, "--batch", 1, *common) == 0
    two = [
        "--init",
        first / "model",
        "--syncnet",
        expert,
        "--steps",
        2,
        "--batch",
        1,
        "--set",
        "accumulate=1",
        "--set",
        "validate_every=0",
    ]
    assert (
        _train("stage2", second, made, "--preset", "released", "--set", "gan_from=1", "--set", "min_face_px=0", *two, *common)
        == 0
    )
    records = read_metrics(second)
    assert "loss/adv_face" not in records[0] and {"loss/fm", "loss/sync", "loss/l1"} <= records[0].keys()
    assert {"loss/adv_face", "loss/adv_lip", "loss/d_lip"} <= records[1].keys()
    shutil.copytree(root / "sd-vae", second / "model" / "sd-vae")
    shutil.copytree(_whisper(tmp_path), second / "model" / "whisper")
    loaded = load_published("v15", second / "model", torch.device("cpu"))
    assert loaded.nets.unet.config["cross_attention_dim"] == 384


def _whisper(tmp_path: Path) -> Path:
    """The embedded whisper-tiny in transformers' layout."""
    from transformers import WhisperConfig

    from musetalk_cli.models.lite import load_lite_whisper

    encoder = load_lite_whisper(embedded_lite())
    WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6).save_pretrained(tmp_path / "whisper")
    tensors = {f"encoder.{name}": value.clone() for name, value in encoder.state_dict().items()}
    save_file(tensors, tmp_path / "whisper" / "model.safetensors")
    return tmp_path / "whisper"


def test_stable_diffusion_unet_serves_as_a_beginning(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"in_channels": 8, "out_channels": 4, "cross_attention_dim": 384, **TOY_UNET}
    (tmp_path / "musetalk.json").write_text(json.dumps(sizes))
    source = UNet2DConditionModel(**{**sizes, "in_channels": 4, "cross_attention_dim": 768})
    save_file(source.state_dict(), tmp_path / "sd.safetensors")
    unet = open_unet(str(tmp_path / "sd.safetensors"))
    wanted = source.conv_in.weight / 2
    torch.testing.assert_close(unet.conv_in.weight[:, :4], wanted)
    torch.testing.assert_close(unet.conv_in.weight[:, 4:], wanted)
    torch.testing.assert_close(unet.conv_out.weight, source.conv_out.weight)
    save_file({"conv_in.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(MissingError, match="not in it"):
        open_unet(str(tmp_path / "other.safetensors"))


def test_training_help_needs_no_torch() -> None:
    script = (
        "import sys; from musetalk_cli.training import train_cli, runs; print(sorted({'torch', 'cv2', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_made_faces_open_their_mouths(made: Path) -> None:
    """The set that these tests train on holds what its sample.json says."""
    from musetalk_cli.training.dataset import read_frames, read_samples

    sample = read_samples([made], "val")[0]
    assert read_frames(sample, [0, 5]).shape == (2, 144, 112, 3)
    gaps = np.linalg.norm(sample.landmarks[:, 62] - sample.landmarks[:, 66], axis=1)
    assert np.ptp(gaps) > 4
