"""From what the user chose to what the stages take. In: flags and musetalk.toml. Out: DubConfig, Runtime, defaults of flags.

Flags win over MUSETALK_*, those over ./musetalk.toml, that over musetalk.toml in the user's config folder. Knows no stages.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, cast, get_args

from musetalk_cli import __version__, weights
from musetalk_cli.config import (
    MODELS,
    PUBLIC_KEY,
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
    SignConfig,
    Silence,
)
from musetalk_cli.errors import MissingError, UsageError
from musetalk_cli.machine import has_matrix_tiles
from musetalk_cli.media import encoders
from musetalk_cli.media.encoders import ENCODERS, PRESETS
from musetalk_cli.reading import parse_toml, read_text
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
    watermark: bool = False
    watermark_key: str = PUBLIC_KEY
    copy: bool = True
    original_audio: bool = True
    provenance: bool = True
    sign_cert: Path | None = None
    sign_key: Path | None = None


LIMITS: dict[str, tuple[float, float]] = {  # least and most of each number
    "chunk": (0.1, 86_400.0),
    "max_yaw": (0, 90),
    "min_face": (8, 65_536),
    "occlusion": (0, 1),
    "fade": (0, 2),
    "steady": (0, 3),
}
NAMES: dict[str, tuple[str | None, ...]] = {  # what each word may be
    "parsing_mode": (None, *get_args(MaskMode)),
    "codec": ("auto", *ENCODERS),
    "preset": ("auto", *PRESETS),
    "length": get_args(Length),
    "silence": get_args(Silence),
}


def dub_config(choices: Choices, runtime: Runtime) -> DubConfig:
    """Every knob of the stages. Raises MissingError where the model that was asked for is not there, UsageError for an unknown face or
    what `check_choices` refuses."""
    check_choices(choices)
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
        blend=_encoded(choices),
        cut=CutConfig(copy=choices.copy),
        remux=RemuxConfig(length=choices.length, original_audio=choices.original_audio),
        sign=SignConfig(choices.provenance, choices.sign_cert, choices.sign_key),
    )


def _encoded(choices: Choices) -> BlendConfig:
    mark = choices.watermark_key if choices.watermark else ""
    return BlendConfig(codec=choices.codec, crf=choices.crf, preset=choices.preset, watermark=mark)


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


def check_choices(choices: Choices) -> None:
    """Whoever made them: a program or a manifest has no command line that knows the limits. Raises UsageError."""
    for name, (least, most) in LIMITS.items():
        number = getattr(choices, name)
        if not isinstance(number, int | float) or not least <= number <= most:  # nan is not within either
            fact = f"{number!r} is outside of {least:g} to {most:g}"
            raise UsageError(fact, "choose one within", thing=name.replace("_", "-"))
    if choices.watermark and not choices.watermark_key:
        raise UsageError("is empty", "choose one, or leave it out for the public one", thing="--watermark-key")
    for name, words in NAMES.items():
        if getattr(choices, name) not in words:
            cure = f"choose from {', '.join(word for word in words if word)}"
            raise UsageError(f"{getattr(choices, name)!r} is none", cure, thing=name.replace("_", "-"))


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


Flags = Mapping[str, Mapping[str, str]]  # {command: {flag: what its function calls it}}; a command of a group is "weights pull"


def flags_of(group: Any, above: str = "") -> dict[str, dict[str, str]]:
    """Every command below a group of typer's that has options."""
    found: dict[str, dict[str, str]] = {}
    for name, command in group.commands.items():
        title = f"{above} {name}".strip()
        if hasattr(command, "commands"):
            found.update(flags_of(command, title))
        else:
            options = [one for one in command.params if one.param_type_name == "option"]
            found[title] = {max(one.opts, key=len).lstrip("-"): one.name for one in options}
    return found


def read_settings(files: Sequence[Path], known: Flags) -> dict[str, Any]:
    """{command: {parameter: value}} of the files that exist, a later one over an earlier one; for a command of a group one level deeper.

    Raises UsageError for a table or key that is not there, so that a typing error does not go unnoticed.
    """
    merged: dict[str, Any] = {}
    for path in files:
        for command, table in _tables(_read_toml(path), known, path):
            for key, value in table.items():
                flag = key.replace("_", "-")
                if flag not in known[command]:
                    raise UsageError(f"{path}: {command}.{key}: no such setting", f"see `musetalk {command} --help`")
                place = merged
                for name in command.split():
                    place = place.setdefault(name, {})
                place[known[command][flag]] = value
    return merged


def _tables(read: Mapping[str, Any], known: Flags, path: Path, above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    for name, table in read.items():
        command = f"{above} {name}".strip()
        group = any(other.startswith(f"{command} ") for other in known)
        if not isinstance(table, dict) or not (group or command in known):
            titles = ", ".join(other.replace(" ", ".") for other in known)
            raise UsageError(f"{path}: [{command.replace(' ', '.')}]: no such table", f"choose from {titles}")
        if command in known:
            yield command, table
        else:
            yield from _tables(table, known, path, command)


def settings_files() -> list[Path]:
    """The user's file, then the project's."""
    from platformdirs import user_config_path

    return [user_config_path("musetalk") / FILE_NAME, Path(FILE_NAME)]


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(path))
    except (FileNotFoundError, NotADirectoryError):  # the latter where HOME is /dev/null, as services have it
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}", "mend the file or move it away") from error
