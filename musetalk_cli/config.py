"""Every knob, one reason each. What changes the pixels is a Config and names the results; what changes only the speed is Runtime.

Knows nothing of stages, and imports nothing heavy.
"""

from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda", "mps"]
MaskMode = Literal["jaw", "raw", "neck"]
MODELS = ("lite", "v15", "v1")


@dataclass(frozen=True, slots=True)
class DemuxConfig:
    chunk: Fraction = Fraction(10)  # seconds; no shot is longer: memory and lost work after a kill are bounded by it
    cut_threshold: float = 27.0  # PySceneDetect's ContentDetector default; lower finds more cuts
    min_shot: int = 8  # frames; a cut nearer than this to the last one is a flash


@dataclass(frozen=True, slots=True)
class FacesConfig:
    choose: str = "largest"  # largest | all | path of a picture of the person to dub
    choose_sha256: str = ""  # of that picture, so that another picture under the same name makes another result
    analyser: str = "embedded"  # embedded (YuNet + MediaPipe) | face-alignment (S3FD + FAN, weights pulled)
    weights: tuple[tuple[str, str], ...] = ()  # (file, sha256) of what was pulled; what is embedded is pinned by its packages
    min_score: float = 0.6  # of the detector; below it, YuNet sees faces in wallpaper
    min_face: int = 32  # pixels of box width; smaller mouths hold nothing to move
    similarity: float = 0.363  # cosine of SFace above which two faces are one person (OpenCV's published threshold)
    smooth: float = 1.0  # sigma in frames of the zero-phase filter over landmarks; 0 is off
    bridge: int = 5  # frames a track may lose its face and keep its name
    margin: int = 10  # source pixels below the chin, MuseTalk v1.5; v1 uses 0
    shift: int = 0  # bbox_shift of v1


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
    codec: str = "auto"  # auto: H.264, or HEVC where the film has more than 8 bits
    crf: float | None = None  # None: the codec's visually lossless setting
    preset: str = "veryfast"  # x264's names; at this quality slower ones take 3 to 5 times as long for a few per cent of size
    suffix: str = ".mp4"  # of the finished film: WebM holds VP9, AVI only frames that show in the order in which they are stored


@dataclass(frozen=True, slots=True)
class RemuxConfig:
    length: Literal["keep", "trim"] = "keep"  # keep: voice and picture as long as they are; trim: voice ends with the picture
    original_audio: bool = True  # the film's own sound stays, as tracks after the new voice
    language: str = ""
    suffix: str = ".mp4"  # of the finished film; names the container
    notice: str = ""  # written into the film's metadata: that it was altered, and by what


@dataclass(frozen=True, slots=True)
class DubConfig:
    demux: DemuxConfig = field(default_factory=DemuxConfig)
    faces: FacesConfig = field(default_factory=FacesConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    masks: MaskConfig = field(default_factory=MaskConfig)
    blend: BlendConfig = field(default_factory=BlendConfig)
    remux: RemuxConfig = field(default_factory=RemuxConfig)


@dataclass(frozen=True, slots=True)
class Runtime:
    """How, not what: nothing here changes a result."""

    device: str = "cpu"  # a torch device
    batch_size: int = 0  # rows; 0: found from memory
    threads: int = 0  # torch threads; 0: all cores
    weights: Path | None = None  # folder of pulled weights
    model: Path | None = None  # folder of a model that `musetalk train` made; its weights are named in ModelConfig
