"""Every knob, one reason each. What changes the pixels is a Config and names the results; what changes only the speed is Runtime.

Knows nothing of stages, and imports nothing heavy.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
# keep: voice and picture as long as they are; trim: the voice ends with the picture; hold, bounce: the picture goes on with the voice.
Length = Literal["keep", "trim", "hold", "bounce"]
Silence = Literal["auto", "original", "closed"]  # what a mouth does in the voice's pauses
MaskMode = Literal["jaw", "raw", "neck"]
MODELS = ("lite", "v15", "v1")


@dataclass(frozen=True, slots=True)
class DemuxConfig:
    chunk: Fraction = Fraction(10)  # seconds; no shot is longer: memory and lost work after a kill are bounded by it
    cut_threshold: float = 27.0  # PySceneDetect's ContentDetector default; lower finds more cuts
    min_shot: int = 8  # frames; a cut nearer than this to the last one is a flash


@dataclass(frozen=True, slots=True)
class FacesConfig:
    analyser: str = "embedded"  # embedded (YuNet + MediaPipe) | face-alignment (S3FD + FAN, weights pulled)
    weights: tuple[tuple[str, str], ...] = ()  # (file, sha256) of what was pulled; what is embedded is pinned by its packages
    min_score: float = 0.6  # of the detector; below it, YuNet sees faces in wallpaper
    min_face: int = 32  # pixels of box width; smaller mouths hold nothing to move
    smooth: float = 1.0  # sigma in frames of the zero-phase filter over landmarks; 0 is off
    bridge: int = 5  # frames a track may lose its face and keep its name
    margin: int = 10  # source pixels below the chin, MuseTalk v1.5; v1 uses 0
    shift: int = 0  # bbox_shift of v1


@dataclass(frozen=True, slots=True)
class CastConfig:
    choose: str = "largest"  # where there is no cast map: largest | all | path of a picture of the person to dub
    similarity: float = 0.363  # cosine of SFace above which a face is the one in a picture (OpenCV's published threshold)


@dataclass(frozen=True, slots=True)
class DecideConfig:
    max_yaw: float = 60.0  # degrees; beyond, half the mouth is hidden and the landmarks are guesses
    review_yaw: float = 45.0  # beyond, a person should look at the result
    review_face: int = 64  # pixels of box width; below, the mouth is a few pixels and the result is soft
    outside: float = 0.3  # share of the lower jaw beyond the picture's edge; a mouth is not painted without its chin
    occlusion: float = 0.5  # share of the lower face that does not look like itself: a microphone 0.6 to 1, speech below 0.3
    silence: Silence = (
        "auto"  # in the voice's pauses: the film's own mouth, a closed one, or auto: closed only where the film's moves
    )
    pause: float = 0.5  # seconds; shorter ones belong to the speech
    reach: float = 0.15  # seconds before and after speech in which lips still belong to it
    fade: float = 0.12  # seconds of cross-fade where generated and original pixels meet within a shot


@dataclass(frozen=True, slots=True)
class InferenceConfig:
    heard_hz: float = 5.0  # cutoff of the zero-phase low-pass over what mouths hear: faster is trembling; 0 is off
    answered_hz: float = 8.0  # the same over what they answer; below about 5 lips that move fast become ghosts


@dataclass(frozen=True, slots=True)
class ModelConfig:
    name: str = "lite"  # lite | v15 | v1
    weights: tuple[tuple[str, str], ...] = ()  # (file, sha256): other weights, other results
    precision: Literal["fp32", "fp16"] = "fp32"  # fp16 on CUDA


@dataclass(frozen=True, slots=True)
class MaskConfig:
    mode: MaskMode = "jaw"
    parser: str = "landmarks"  # bisenet where its weights are there, else the face's outline from landmarks
    weights: tuple[tuple[str, str], ...] = ()
    expand: float = 1.5  # square around the face box, in box sides (v1: 1.2)
    upper: float = 0.5  # share of the square, from its top, that stays the film's
    blur: float = 0.05  # of the square's width: Gaussian kernel = 2 * floor(blur * width / 2) + 1
    cheek: int = 90  # half width, in 512-space, of the strip that may move the chin


@dataclass(frozen=True, slots=True)
class BlendConfig:
    codec: str = "auto"  # auto: the film's own, where the container holds it and an encoder keeps the picture
    crf: float | None = None  # None: the codec's visually lossless setting; 0: lossless
    preset: str = "veryfast"  # x264's names; at this quality slower ones take 3 to 5 times as long for a few per cent of size
    reordering: int | None = (
        None  # frames that the encoder may hold back, where the film's own packets stand beside its; None: any
    )
    suffix: str = ".mp4"  # of the finished film: WebM holds VP9, AVI only frames that show in the order in which they are stored
    grain: float = 1.0  # share of the film's grain that the generated mouth lacks and is given; 0 is off
    sharpen: float = 1.0  # the same of its sharpness


@dataclass(frozen=True, slots=True)
class CutConfig:
    copy: bool = True  # stretches without a generated mouth are the film's own packets, where the codec allows
    shortest: Fraction = Fraction(1, 2)  # seconds; a joint is not worth less


@dataclass(frozen=True, slots=True)
class RemuxConfig:
    length: Length = "keep"
    original_audio: bool = True  # the film's own sound stays, as tracks after the new voice
    language: str = ""
    suffix: str = ".mp4"  # of the finished film; names the container
    notice: str = ""  # written into the film's metadata: that it was altered, and by what


@dataclass(frozen=True, slots=True)
class DubConfig:
    demux: DemuxConfig = field(default_factory=DemuxConfig)
    faces: FacesConfig = field(default_factory=FacesConfig)
    cast: CastConfig = field(default_factory=CastConfig)
    decide: DecideConfig = field(default_factory=DecideConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    cut: CutConfig = field(default_factory=CutConfig)
    remux: RemuxConfig = field(default_factory=RemuxConfig)


@dataclass(frozen=True, slots=True)
class Runtime:
    """How, not what: nothing here changes a result."""

    device: str = "cpu"  # a torch device
    batch_size: int = 0  # rows; 0: found from memory
    threads: int = 0  # torch threads; 0: all cores
    weights: Path | None = None  # folder of pulled weights
    model: Path | None = None  # folder of a model that `musetalk train` made; its weights are named in ModelConfig
