"""From what the user chose to what the stages take. In: flags and musetalk.toml. Out: DubConfig, Runtime, defaults of flags.

Flags win over MUSETALK_*, those over ./musetalk.toml, that over musetalk.toml in the user's config folder. Knows no stages.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast, get_args

from musetalk_cli import __version__, weights
from musetalk_cli.config import (
    MODELS,
    BlendConfig,
    CastConfig,
    CutConfig,
    DecideConfig,
    DemuxConfig,
    DubConfig,
    FacesConfig,
    InferenceConfig,
    Length,
    MaskConfig,
    MaskMode,
    ModelConfig,
    Precision,
    RemuxConfig,
    Runtime,
    Silence,
)
from musetalk_cli.errors import MissingError, UsageError
from musetalk_cli.machine import has_matrix_tiles
from musetalk_cli.media import encoders
from musetalk_cli.media.encoders import ENCODERS
from musetalk_cli.types import DubJob

FILE_NAME = "musetalk.toml"
PRECISIONS = get_args(Precision)
LITE_NOTICE = "model lite, which came along: for trial and preview"
LITE_CURE = "`musetalk weights pull v15` gets the published weights for release work"


@dataclass(frozen=True, slots=True)
class Choices:
    """The flags of `dub` that shape the picture and the pace, as the user gave them."""

    model: str = "auto"  # auto | lite | v15 | v1 | a folder that `musetalk train` made
    weights: Path | None = None
    face: str = "largest"
    parsing_mode: MaskMode | None = None  # None: the model's own
    batch_size: str = "auto"
    device: str = "auto"
    precision: str = "auto"  # auto | fp32 | fp16 | bf16
    exact: bool = False
    codec: str = "auto"
    crf: float | None = None
    preset: str = "auto"
    chunk: float = 10.0
    length: Length = "keep"
    silence: Silence = "auto"
    max_yaw: float = DecideConfig().max_yaw
    occlusion: float = DecideConfig().occlusion
    fade: float = DecideConfig().fade
    min_face: int = FacesConfig().min_face
    steady: float = 1.0
    copy: bool = True
    original_audio: bool = True


def dub_config(choices: Choices, runtime: Runtime) -> DubConfig:
    """Every knob of the stages. Raises MissingError where the model that was asked for is not there, UsageError for an unknown face."""
    check_face(choices.face)
    root = weights.folder(choices.weights)
    precision = choose_precision(choices.precision, runtime.device, exact=choices.exact)
    model = replace(choose_model(choices.model, root), precision=precision, exact=choices.exact)
    parsing = weights.fingerprint("parsing", root) if weights.complete("parsing", root) else ()
    alignment = weights.fingerprint("face-alignment", root) if weights.complete("face-alignment", root) else ()
    first_version = model.name == "v1"  # differs from v15 as the released scripts do
    return DubConfig(
        demux=DemuxConfig(chunk=Fraction(str(choices.chunk))),
        faces=FacesConfig(
            analyser="face-alignment" if alignment else "embedded",
            weights=alignment,
            min_face=choices.min_face,
            smooth=FacesConfig().smooth if choices.steady > 0 else 0.0,
            margin=0 if first_version else 10,
        ),
        cast=CastConfig(choose=choices.face),
        decide=_decisions(choices),
        model=model,
        inference=_steadied(choices.steady),
        masks=MaskConfig(
            mode=choices.parsing_mode or ("raw" if first_version else "jaw"),
            parser="bisenet" if parsing else "landmarks",
            weights=parsing,
            cheek=80 if first_version else 90,
        ),
        blend=BlendConfig(codec=choices.codec, crf=choices.crf, preset=choices.preset),
        cut=CutConfig(copy=choices.copy),
        remux=RemuxConfig(length=choices.length, original_audio=choices.original_audio),
    )


def _decisions(choices: Choices) -> DecideConfig:
    usual = DecideConfig()
    return replace(
        usual,
        max_yaw=choices.max_yaw,
        review_yaw=min(usual.review_yaw, choices.max_yaw),
        occlusion=choices.occlusion,
        silence=choices.silence,
        fade=choices.fade,
    )


def _steadied(strength: float) -> InferenceConfig:
    usual = InferenceConfig()
    return InferenceConfig(usual.heard_hz / strength, usual.answered_hz / strength) if strength > 0 else InferenceConfig(0, 0)


def check_crf(choices: Choices, suffix: str) -> None:
    """Raises UsageError for a quality outside of what the encoder takes. suffix: of the finished film.

    Which encoder `auto` means is known once the film is; until then what any in that container takes will do.
    """
    encoder = choices.codec
    if encoder == "auto":
        fitting = [name for name, able in ENCODERS.items() if suffix.lower() in able.containers] or list(ENCODERS)
        encoder = max(fitting, key=lambda name: ENCODERS[name].most_crf or 0)
    encoders.check_crf(encoder, choices.crf)


def for_job(config: DubConfig, job: DubJob) -> DubConfig:
    """The same work towards this job's output: its language, its container, and the notice that it was altered."""
    suffix = job.output.suffix.lower()
    notice = f"The lips in this film were altered by musetalk {__version__} (model {config.model.name}) to fit another voice."
    remux = replace(config.remux, language=job.language, suffix=suffix, notice=notice)
    return replace(config, blend=replace(config.blend, suffix=suffix), remux=remux)


def choose_precision(name: str, device: str, *, exact: bool) -> Precision:
    """auto: what is fastest on that device without a visible difference, or fp32 where results are to be exact."""
    if name in PRECISIONS:
        return cast(Precision, name)
    if name != "auto":
        raise UsageError(f"--precision {name}: no such precision", f"choose auto, {', '.join(PRECISIONS)}")
    if exact:
        return "fp32"
    if device.startswith("cuda"):
        return "fp16"
    return "bf16" if has_matrix_tiles() else "fp32"


def choose_model(name: str, root: Path) -> ModelConfig:
    """auto: v15 where its files are all there, else lite. name may be a folder of a trained model of either architecture.

    Raises MissingError for a model whose files are not there or damaged, UsageError for what is neither a model nor a folder of one.
    """
    if name == "auto":
        name = "v15" if weights.complete("v15", root) else "lite"
    own = trained_model(name)
    if name == "lite" or (own is not None and weights.is_lite(own)):
        return ModelConfig("lite", weights.lite_fingerprint(own or weights.embedded_lite()))
    if own is not None:
        return ModelConfig("v15", weights.fingerprint("v15", root, unet=own))
    return ModelConfig(name, weights.fingerprint(name, root))


def trained_model(name: str) -> Path | None:
    """The folder that `--model` names, None for a model's name. Raises UsageError for what is neither."""
    if name in ("auto", *MODELS):
        return None
    folder = Path(name)
    if weights.is_lite(folder) or weights.has_unet(folder):
        return folder
    fact = "a folder without a model" if folder.is_dir() else f"neither {', '.join(('auto', *MODELS))} nor a folder"
    raise UsageError(f"--model {name}: {fact}", "give a folder that `musetalk train` made, or one of the names")


def choose_runtime(choices: Choices) -> Runtime:
    """Where and how fast. Imports torch to see what devices there are."""
    device, batch = choose_device(choices.device), _batch_size(choices.batch_size)
    return Runtime(device, batch, weights=choices.weights, model=trained_model(choices.model))


def choose_device(name: str) -> str:
    """auto: the first CUDA device, else the CPU. Raises MissingError for a CUDA device that is not there."""
    if name == "cpu":
        return name
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind, _, number = name.partition(":")
    if kind != "cuda" or (number and not number.isdigit()):
        raise UsageError(f"--device {name}: no such device", "choose auto, cpu, cuda or cuda:N")
    if int(number or 0) >= torch.cuda.device_count():
        fact = f"{name}: torch sees {torch.cuda.device_count()} CUDA devices"
        raise MissingError(fact, "choose --device cpu, or see `musetalk doctor`")
    return name


def _batch_size(text: str) -> int:
    if text == "auto":
        return 0
    if not text.isdigit() or int(text) == 0:
        raise UsageError(f"--batch-size {text}: not a number of faces", "choose auto, or 1 and more")
    return int(text)


def check_face(face: str) -> None:
    """Raises UsageError for what is neither a rule nor a file."""
    if face not in ("largest", "all") and not Path(face).is_file():
        raise UsageError(
            f"--face {face}: neither largest, all, nor a file", "choose one of the two, or a picture of the person to dub"
        )


def read_settings(files: Sequence[Path], known: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, Any]]:
    """{command: {parameter: value}} of the files that exist, a later one over an earlier one.

    known: {command: {flag: parameter}}. Raises UsageError for a table or key that is not there, so that a typing error does not
    go unnoticed.
    """
    merged: dict[str, dict[str, Any]] = {}
    for path in files:
        for command, table in _read_toml(path).items():
            if not isinstance(table, dict) or command not in known:
                raise UsageError(f"{path}: [{command}]: no such table", f"choose from {', '.join(known)}")
            for key, value in table.items():
                flag = key.replace("_", "-")
                if flag not in known[command]:
                    raise UsageError(f"{path}: {command}.{key}: no such setting", f"see `musetalk {command} --help`")
                merged.setdefault(command, {})[known[command][flag]] = value
    return merged


def settings_files() -> list[Path]:
    """The user's file, then the project's."""
    from platformdirs import user_config_path

    return [user_config_path("musetalk") / FILE_NAME, Path(FILE_NAME)]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}", "mend the file or move it away") from error
