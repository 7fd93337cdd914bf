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
Precision = Literal["fp32", "fp16", "bf16"]
MODELS = ("lite", "v15", "v1")
PUBLIC_KEY = "musetalk"  # of the invisible mark, where the user has none: anyone may look for it


@dataclass(frozen=True, slots=True)
class FileLimits:
    """What a film or voice may say of itself; beyond it, the file is damaged or was made to harm, and nothing of it is decoded."""

    side_px: int = 16_384  # of the picture: 16K; libavcodec itself refuses more than 2^28 pixels
    fps: int = 1_000
    streams: int = 64  # fonts and other attachments do not count
    hours: int = 24  # also from the first to the last timestamp: between two of a voice, silence is filled in
    sampling_hz: int = 768_000
    channels: int = 64


FILE_LIMITS = FileLimits()


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
    precision: Precision = "fp32"  # fp16 on CUDA, bf16 on a CPU with matrix tiles
    exact: bool = False  # the same bits however rows are batched; else whatever is fastest


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
    preset: str = "auto"  # or x264's names; at this quality slower ones take 3 to 5 times as long for a few per cent of size
    reordering: int | None = (
        None  # frames that the encoder may hold back, where the film's own packets stand beside its; None: any
    )
    suffix: str = ".mp4"  # of the finished film: WebM holds VP9, AVI only frames that show in the order in which they are stored
    grain: float = 1.0  # share of the film's grain that the generated mouth lacks and is given; 0 is off
    sharpen: float = 1.0  # the same of its sharpness
    watermark: str = ""  # key of the invisible mark in generated pixels; "": none


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
class SignConfig:
    """Whose name stands under a finished film. PEM files; neither: this machine's own certificate."""

    on: bool = True
    cert: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class ReportConfig:
    """When a result needs a person's look. Figures behind each: docs/evaluation.md."""

    seconds: float | None = (
        60.0  # of faces that are measured, evenly over the film: a fifth of what a dub of them took; None: all
    )
    seed: int = 0  # of the frames that are shown at random
    noise: float = (
        1.2  # change of the mouth, over 1 + that of the brow above it: coding again 0.5 to 0.8, a generated mouth 2 to 10
    )
    most_noise: float = (
        4.0  # change of the brow, of 255, that is still the codec's: x264 at CRF 28 has 2.5; more is another picture
    )
    same_lips: float = (
        0.95  # correlation of the lips' opening with the film's: coded again 0.98, the lips of another voice -0.2 to 0.4
    )
    unchanged: float = 0.8  # share of a piece's frames; where a mouth appears and goes it is half the film's
    shift_s: float = 0.08  # later or earlier than this is seen (ITU-R BT.1359 accepts -0.09 to 0.185 s of sound and picture)
    shift_rise: float = 0.08  # by which the judge's distance is less at the offset than in time: dubs moved by 0.2 s 0.10 to 0.37
    weak_confidence: float = 0.08  # of the judge; other people's words reach it
    weak_seconds: float = 4.0  # of speech, below which the judge cannot tell weak sync from chance
    stir: float = 0.25  # of the film's change from frame to frame: a picture that stands still has 0 to 0.01, a dub 0.6 to 1.1
    frozen: float = 0.012  # eye distances; a frozen mouth 0.002 to 0.005, the landmarker's own trembling; speech 0.03 to 0.13
    beside_film: float = 0.25  # of the film's movement, up to frozen_at_most: a mouth pasted on a turning head trembles
    frozen_at_most: float = 0.022  # a dub that mumbles in a film with lively lips has 0.030
    stiff: float = 0.028  # the same where the judge hears nothing of the voice in it
    stiff_confidence: float = 0.12  # of the judge; a dub has 0.17 and more
    jitter: float = 2.0  # times the film's: a dub has 0.6 to 1.1 of it
    least_jitter: float = 8.0  # thousandths of the eyes' distance: a calm film's own speech
    blurred: float = 0.75  # of the film's sharpness: a dub has 0.88 to 1.0
    seam: float = 2.0  # times the colour step of the film there: a dub has 0.8 to 1.1


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
    sign: SignConfig = field(default_factory=SignConfig)


@dataclass(frozen=True, slots=True)
class Runtime:
    """How, not what: nothing here changes a result."""

    device: str = "cpu"  # a torch device
    batch_size: int = 0  # rows; 0: found from memory
    workers: int = 0  # shots at once, in threads over one loaded model; 0: found from the device and the cores
    weights: Path | None = None  # folder of pulled weights
    model: Path | None = None  # folder of a model that `musetalk train` made; its weights are named in ModelConfig
