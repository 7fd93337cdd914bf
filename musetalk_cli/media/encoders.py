"""Which encoder keeps a film's picture, and how it is told to. In: Source, BlendConfig. Out: names and options, by libav's names.
Opens no file, encodes nothing.

    film's codec, pixel format, size, HDR10 --.
    container of the finished film -----------|-- choose_encoder -- encoder_options -- SegmentWriter
    --codec, --crf, --preset -----------------'

The film's own codec comes first; what cannot keep the picture in the container asked for is passed over.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from musetalk_cli.config import BlendConfig
from musetalk_cli.errors import InputError, MissingError, UsageError
from musetalk_cli.types import Source


class Encoder(NamedTuple):
    """What an encoder of libav is good for."""

    codec: str  # that it writes, ffmpeg's name
    containers: tuple[str, ...]  # suffixes of films
    crf: float | None = None  # visually lossless; None: its rate is not chosen by quality
    most_crf: int | None = None  # the worst it takes, 0 is lossless; None: --crf means nothing to it
    odd_sizes: bool = False  # also where chroma is subsampled
    least: tuple[int, int] = (1, 1)  # smallest picture
    hdr10: bool = False  # its stream carries mastering display and content light level
    alpha: bool = False


# CRF: over 45 dB against the decoded film in every frame, even of noise: measured in docs/decisions.md.
ENCODERS: Mapping[str, Encoder] = {
    "libx264": Encoder("h264", (".mp4", ".m4v", ".mov", ".mkv", ".avi"), 8.0, 51, hdr10=True),
    "libx265": Encoder("hevc", (".mp4", ".m4v", ".mov", ".mkv"), 6.5, 51, least=(16, 16), hdr10=True),
    "libvpx-vp9": Encoder("vp9", (".mp4", ".m4v", ".mkv", ".webm"), 6.0, 63, odd_sizes=True),
    "libsvtav1": Encoder("av1", (".mp4", ".m4v", ".mkv", ".webm"), 7.0, 63, odd_sizes=True, hdr10=True),
    "prores_ks": Encoder("prores", (".mov", ".mkv"), alpha=True),
    "dnxhd": Encoder("dnxhd", (".mov",), least=(256, 120)),
    "ffv1": Encoder("ffv1", (".mkv",), most_crf=0, odd_sizes=True, alpha=True),
}
NAMES = ("auto", *ENCODERS)
OFTEN = {8: ("libx264", "libx265", "libvpx-vp9", "libsvtav1"), 16: ("libx265", "libx264", "libsvtav1", "libvpx-vp9")}
# Of the same family, where the film's own encoder cannot: libvpx is built for 8 bits here, SVT-AV1 knows 4:2:0 alone.
KIN = {"vp9": ("libsvtav1",)}
IN_MOV = ("prores_ks", "dnxhd")  # NUT does not hold what they write

AUTO_PRESET = "auto"
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo")
# x264's superfast with what it leaves out and sizes hang on, the quantiser that looks ahead. Per frame against veryfast at CRF 9:
# 1080p 20 ms for 51 and 48 kB for 40 (without: 27 ms, 119 kB); film grain 47 for 68, and the worst frame 0.4 dB better.
LOOKING_AHEAD = ("mbtree=1", "rc-lookahead=10")
THREADS = 4  # the bytes of x264 and x265 depend on it; constant, so that a rerun on another machine is bit-identical

# prores_ks takes 10 bits, libav's decoder gives the two 4444 profiles 12: rounding is 20 dB below what their quantiser does.
TEN_BITS = {"yuv422p12le": "yuv422p10le", "yuv444p12le": "yuv444p10le", "yuva444p12le": "yuva444p10le"}
PRORES = {"apco": "proxy", "apcs": "lt", "apcn": "standard", "apch": "hq", "ap4h": "4444", "ap4x": "4444xq"}
DNXHR = {"1270": "dnxhr_444", "1271": "dnxhr_hqx", "1272": "dnxhr_hq", "1273": "dnxhr_sq", "1274": "dnxhr_lb"}
# Classic DNxHD, by compression id (SMPTE ST 2019-1): one bit rate of those that name it, in Mbit/s.
DNXHD = {"1235": 185, "1237": 145, "1238": 220, "1250": 180, "1251": 220, "1252": 145, "1253": 45, "1258": 42, "1259": 84}
DNXHR_FOR = {"yuv422p": "dnxhr_hq", "yuv422p10le": "dnxhr_hqx", "yuv444p10le": "dnxhr_444", "gbrp10le": "dnxhr_444"}
DISPLAY = re.compile(r"G\((\d+),(\d+)\)B\((\d+),(\d+)\)R\((\d+),(\d+)\)WP\((\d+),(\d+)\)L\((\d+),(\d+)\)")


def choose_encoder(source: Source, config: BlendConfig) -> str:
    """The encoder for this film in this container: a name that libav knows.

    auto: of the film's own codec where one keeps its pixel format and size and `config.suffix` holds it, else H.264, or HEVC for
    more than 8 bits, else VP9 or AV1. Raises InputError where none keeps the picture as it is, UsageError for a name or a quality
    that there is not, MissingError for one that this build of PyAV is without.
    """
    if config.codec not in NAMES:
        raise UsageError(f"there is no encoder {config.codec!r}", f"choose one of {', '.join(NAMES)}")
    candidates = _candidates(source) if config.codec == "auto" else (config.codec,)
    for encoder in candidates:
        if not _misfit(encoder, source, config.suffix):
            _check_there(encoder)
            check_crf(encoder, config.crf)
            return encoder
    asked = next((name for name in candidates if config.suffix in ENCODERS[name].containers), candidates[0])
    raise InputError(_misfit(asked, source, config.suffix), _cure(source, config, candidates))


def check_crf(encoder: str, crf: float | None) -> None:
    """Raises UsageError for a quality that the encoder does not take. encoder: one of ENCODERS."""
    most = ENCODERS[encoder].most_crf
    if crf is None:
        return
    if most is None:
        fact = f"--crf {crf:g}: {encoder} has no such setting, its profile says the rate"
        raise UsageError(fact, "leave it out, or choose another --codec")
    if not 0 <= crf <= most:
        cure = "leave it out: FFV1 is lossless" if most == 0 else "lower is better; without it the film is visually lossless"
        raise UsageError(f"--crf {crf:g}: outside of 0 to {most}", cure)


def encoder_options(encoder: str, source: Source, config: BlendConfig) -> dict[str, str]:
    """Options by libav's names; the same for every segment of a film. Tags that the film lacks stay unset: nothing is guessed.

    `config.reordering` 0 is no B-frames, 1 none that others refer to. Raises UsageError for an unknown preset.
    """
    if config.preset not in (AUTO_PRESET, *PRESETS):
        raise UsageError(f"there is no preset {config.preset!r}", f"choose one of {', '.join((AUTO_PRESET, *PRESETS))}")
    colour = source.colour
    tags = {
        "colorspace": colour.matrix,
        "color_primaries": colour.primaries,
        "color_trc": colour.transfer,
        "color_range": colour.range,
        "chroma_sample_location": colour.chroma_location,
    }
    tags = {key: value for key, value in tags.items() if value}
    crf = ENCODERS[encoder].crf if config.crf is None else config.crf
    if encoder == "libx264":
        return tags | _x264(source, config, crf)
    if encoder == "libx265":
        return tags | _x265(source, config, crf)
    if encoder == "libvpx-vp9":
        return tags | _vp9(config, crf)
    if encoder == "libsvtav1":
        return tags | _svtav1(source, config, crf)
    if encoder == "prores_ks":
        return tags | {"profile": _prores_profile(source)}
    if encoder == "dnxhd":
        return tags | _dnxhd(source)
    return tags | {"level": "3", "slices": "4", "slicecrc": "1", "g": "1"}


def coded_format(encoder: str, pix_fmt: str) -> str:
    """The pixel format that the encoder is given for a film's."""
    return TEN_BITS.get(pix_fmt, pix_fmt) if encoder == "prores_ks" else pix_fmt


def _candidates(source: Source) -> tuple[str, ...]:
    """Encoders for `auto`, best first."""
    from av import VideoFormat

    deep = max(component.bits for component in VideoFormat(source.colour.pix_fmt).components) > 8
    own = [name for name, encoder in ENCODERS.items() if encoder.codec == source.codec and name != "ffv1"]
    return tuple(dict.fromkeys([*own, *KIN.get(source.codec, ()), *OFTEN[16 if deep else 8]]))


def _check_there(encoder: str) -> None:
    """Raises MissingError where this build of PyAV lacks it: another one would change the film's codec unasked."""
    from av import codecs_available

    if encoder not in codecs_available:
        cure = "install PyAV's own wheel: pip install --force-reinstall --no-deps av; or choose another --codec"
        raise MissingError(f"{encoder}: this build of PyAV is without it", cure)


def _misfit(encoder: str, source: Source, suffix: str) -> str:
    """Why an encoder does not keep the picture as it is in a container; empty where it does."""
    from av import Codec, VideoFormat, codecs_available

    pix_fmt, (width, height), able = source.colour.pix_fmt, source.size, ENCODERS[encoder]
    layout = VideoFormat(pix_fmt, width, height)
    alpha = any(component.is_alpha for component in layout.components)
    coded = coded_format(encoder, pix_fmt)
    taken = {form.name for form in Codec(encoder, "w").video_formats or ()} if encoder in codecs_available else {coded}
    if coded not in taken or (alpha and not able.alpha):
        return f"the picture is {pix_fmt}, which {encoder} cannot keep as it is"
    luma, chroma = layout.components[0], layout.components[2 if len(layout.components) > 2 else 0]
    cut = (chroma.width < luma.width and width % 2 == 1) or (chroma.height < luma.height and height % 2 == 1)
    if cut and not able.odd_sizes:
        return f"the picture is {width}x{height}: {encoder} cannot keep an odd size in {pix_fmt}"
    if width < able.least[0] or height < able.least[1]:
        return f"the picture is {width}x{height}: {encoder} takes {able.least[0]}x{able.least[1]} and more"
    if (source.mastering or source.light) and not able.hdr10 and source.codec != able.codec:
        return f"the picture is HDR10, whose metadata {encoder} cannot keep"
    if suffix not in able.containers:
        return f"{suffix} cannot hold the picture ({pix_fmt}, {width}x{height}) as {encoder} encodes it"
    return ""


def _cure(source: Source, config: BlendConfig, candidates: Sequence[str]) -> str:
    """The nearest way to keep the picture: the same encoder elsewhere, another one here, any anywhere; else a conversion."""
    for encoder, suffix in _ways(source, config.suffix, candidates):
        if not _misfit(encoder, source, suffix):
            chosen = config.codec != "auto" or encoder not in candidates
            flags = (f"--codec {encoder}" if chosen else "", f"-o NAME{suffix}" if suffix != config.suffix else "")
            return "use " + " and ".join(flag for flag in flags if flag)
    width, height = source.size
    if width % 2 or height % 2:
        return "crop the film first: ffmpeg -i FILM -vf crop=trunc(iw/2)*2:trunc(ih/2)*2 NEW.mp4"
    return "convert the film first: ffmpeg -i FILM -pix_fmt yuv420p -crf 8 -c:a copy NEW.mp4"


def _ways(source: Source, suffix: str, candidates: Sequence[str]) -> Iterator[tuple[str, str]]:
    others = [other for other in (".mp4", ".mov", ".mkv") if other != suffix]
    every = [*_candidates(source), "prores_ks", "ffv1"]
    yield from ((encoder, other) for encoder in candidates for other in others)
    yield from ((encoder, suffix) for encoder in every)
    yield from ((encoder, other) for encoder in every for other in others)


def _x264(source: Source, config: BlendConfig, crf: float | None) -> dict[str, str]:
    # Without adaptive quantisation, which gives noise fewer bits: the error is then the same everywhere.
    params = ["aq-mode=0", "cpu-independent=1"]
    if config.preset == AUTO_PRESET and crf != 0:
        params += LOOKING_AHEAD
    preset = "superfast" if config.preset == AUTO_PRESET else config.preset
    options = {"preset": preset, "qp" if crf == 0 else "crf": f"{crf:g}"}
    if _is_444(source):
        params.append("chroma-qp-offset=-6")  # takes back the 6 that x264 adds, which costs chroma 5 dB
    if source.mastering:
        params.append(f"mastering-display={source.mastering}")
    if source.light:
        params.append(f"cll={source.light}")
    if config.suffix == ".avi":  # has no timestamps to show frames by and no place for headers
        params.append("repeat-headers=1")
    if config.suffix == ".avi" or config.reordering == 0:
        options["bf"] = "0"
    elif config.reordering == 1:
        params.append("b-pyramid=none")
    return options | {"x264-params": ":".join(params)}


def _x265(source: Source, config: BlendConfig, crf: float | None) -> dict[str, str]:
    params = ["log-level=none", "open-gop=0", "aq-mode=0", f"pools={THREADS}", f"frame-threads={THREADS // 2}"]
    if crf == 0:
        params.append("lossless=1")
    if _is_444(source):
        params += ["cbqpoffs=-6", "crqpoffs=-6"]  # as in x264
    if source.mastering:
        params.append(f"master-display={source.mastering}")
    if source.light:
        params.append(f"max-cll={source.light}")
    if config.reordering in (0, 1):
        params.append("b-pyramid=0" if config.reordering else "bframes=0")
    return {"preset": _named(config.preset), "crf": f"{crf:g}", "x265-params": ":".join(params)}


def _named(preset: str) -> str:
    return "veryfast" if preset == AUTO_PRESET else preset


def _is_444(source: Source) -> bool:
    return "444" in source.colour.pix_fmt


def _vp9(config: BlendConfig, crf: float | None) -> dict[str, str]:
    speed = str(max(8 - PRESETS.index(_named(config.preset)), 0))
    rate = {"lossless": "1"} if crf == 0 else {"crf": f"{crf:g}"}
    return {"b": "0", "deadline": "good", "cpu-used": speed, "row-mt": "0"} | rate


def _svtav1(source: Source, config: BlendConfig, crf: float | None) -> dict[str, str]:
    """Without temporal filter, which alters what is encoded, and with one quantiser for all frames: half the size, 1 dB less.

    What SVT-AV1 4.1 does wrong with 10 bits: its presets 8 and faster fall to 30 dB, and its lossless mode loses between frames.
    """
    speed = min(max(9 - PRESETS.index(_named(config.preset)), 0), 7)
    params = [f"preset={speed}", "aq-mode=0", "enable-tf=0", f"lp={THREADS}"]
    if crf == 0:
        params += ["lossless=1", *(["keyint=1"] if "10" in source.colour.pix_fmt else [])]
    else:
        params += [f"crf={crf:g}", "use-fixed-qindex-offsets=1"]
    if source.mastering:
        params.append(f"mastering-display={_in_units(source.mastering)}")
    if source.light:
        params.append(f"content-light={source.light}")
    return {"svtav1-params": ":".join(params)}


def _in_units(mastering: str) -> str:
    """x265's notation with chromaticities and candelas in place of steps of 0.00002 and 0.0001."""
    steps = DISPLAY.fullmatch(mastering)
    numbers = [int(step) / (50_000 if n < 8 else 10_000) for n, step in enumerate(steps.groups() if steps else ())]
    return "G({:g},{:g})B({:g},{:g})R({:g},{:g})WP({:g},{:g})L({:g},{:g})".format(*numbers)


def _prores_profile(source: Source) -> str:
    """The film's own; of another film, and for an alpha that the own lacks, one that holds the samples."""
    own, pix_fmt = PRORES.get(source.profile, ""), source.colour.pix_fmt
    if own.startswith("4444") or (own and "yuva" not in pix_fmt):
        return own
    return "4444" if "444" in pix_fmt or "p12" in pix_fmt else "hq"


def _dnxhd(source: Source) -> dict[str, str]:
    """The film's own profile and rate; of another film, and of the RGB profile of DNxHD (1256), the DNxHR one for its samples."""
    if source.profile in DNXHD:
        return {"b": f"{DNXHD[source.profile]}M"}
    return {"profile": DNXHR.get(source.profile, DNXHR_FOR[source.colour.pix_fmt])}
