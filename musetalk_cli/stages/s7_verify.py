"""Is a dubbed film what it should be? In: the film and the dubbed one. Out: a Verification: each promise, kept or broken.

Looks at the files alone: no work folder, no settings. Reads packets, looks at some frames of both, and decodes the dubbed picture and its voice once, strictly.
"""

import hashlib
import subprocess
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from musetalk_cli.media.audio import voice_of
from musetalk_cli.media.ffmpeg import AS_FILE_ARGS, find_ffmpeg, media_url
from musetalk_cli.media.video import clock, earliest_start, open_film, packet_times, picture_of
from musetalk_cli.provenance.read import FOREIGN, Provenance, read_provenance
from musetalk_cli.stages.s6_remux import REMADE, same_aspect

NOTICE = "altered by musetalk"
LOG_LINES = 3
LOOKS = 24  # frames of both that are compared, spread over the film
LOOK_PX = (64, 36)
LIKE = (
    8.0  # levels of grey, median over a picture: coding coarsely has 1 to 3, a generated mouth is less than half of any picture
)


@dataclass(frozen=True, slots=True)
class Check:
    """One promise."""

    name: str
    kept: bool
    fact: str


@dataclass(frozen=True, slots=True)
class Verification:
    film: Path
    dubbed: Path
    checks: tuple[Check, ...]
    copied: tuple[tuple[int, int], ...]  # frames [start, stop) that are the film's own packets, byte for byte
    provenance: Provenance | None = None

    @property
    def passed(self) -> bool:
        return all(check.kept for check in self.checks)

    def as_json(self) -> dict[str, object]:
        checks = [asdict(check) for check in self.checks]
        return {
            "film": str(self.film),
            "dubbed": str(self.dubbed),
            "passed": self.passed,
            "checks": checks,
            "copied": self.copied,
            "provenance": None if self.provenance is None else self.provenance.as_json(),
        }

    def lines(self) -> list[str]:
        told = [] if self.provenance is None else ["", *self.provenance.lines()]
        return [*(f"{'ok  ' if check.kept else 'FAIL'}  {check.name:12} {check.fact}" for check in self.checks), *told]


class Packets(NamedTuple):
    """A picture's packets in showing order."""

    times: tuple[Fraction, ...]  # seconds
    digests: tuple[bytes, ...]


def verify_film(
    film: Path, dubbed: Path, *, original_audio: bool = True, decode: bool = True, provenance: bool = True
) -> Verification:
    """original_audio: whether the film's own sound should be there. decode: whether to decode the dubbed picture, which takes longest.
    provenance: whether it should carry a manifest that fits it.

    Raises InputError where one of the files cannot be read.
    """
    was, now = _packets(film), _packets(dubbed)
    copied = _copied(was, now)
    checks = [_frames(was, now), _times(was, now), _copies(copied, len(was.times)), *_form(film, dubbed)]
    checks += [_voice(dubbed), *_streams(film, dubbed, original_audio=original_audio), _chapters(film, dubbed), _notice(dubbed)]
    told = read_provenance(dubbed)
    if provenance or told is not None:
        checks.append(_signed(told))
    if decode:
        checks += [_content(film, dubbed, was.times[: len(now.times)]), _decodes(dubbed, len(now.times))]
    return Verification(film, dubbed, tuple(checks), copied, told)


def _signed(told: Provenance | None) -> Check:
    if told is None:
        return Check("provenance", False, "none: nothing proves what was altered, and by whom; --no-provenance accepts that")
    if not told.intact:
        fact = (
            f"{FOREIGN}, which says nothing of a dub"
            if told.faults == (FOREIGN,)
            else f"not as it was signed: {', '.join(told.faults)}"
        )
        return Check("provenance", False, fact)
    return Check(
        "provenance",
        True,
        f"signed by {told.signer}{'' if told.trusted else ', whom nobody here knows'}; nothing was changed since",
    )


def _packets(path: Path) -> Packets:
    """Streamed: of each packet only its time and digest stay."""
    times, tick = packet_times(path)
    with open_film(path) as file:
        stream = picture_of(file, path)
        found = [(packet.pts, _digest(packet)) for packet in file.demux(stream) if packet.size and not packet.is_discard]
    if all(pts is not None for pts, _ in found):
        found.sort(key=lambda pair: pair[0] or 0)
    return Packets(tuple(int(pts) * tick for pts in times), tuple(digest for _, digest in found))


def _digest(packet: Any) -> bytes:
    return hashlib.blake2b(memoryview(packet), digest_size=16).digest()


def _copied(was: Packets, now: Packets) -> tuple[tuple[int, int], ...]:
    same = [a == b for a, b in zip(was.digests, now.digests, strict=False)]
    runs = groupby(enumerate(same), key=lambda pair: pair[1])
    numbers = [[number for number, _ in run] for equal, run in runs if equal]
    return tuple((run[0], run[-1] + 1) for run in numbers)


def _frames(was: Packets, now: Packets) -> Check:
    a, b = len(was.times), len(now.times)
    return Check("frames", b >= a, f"{b}" if a == b else f"{b}, the film has {a}")


def _times(was: Packets, now: Packets) -> Check:
    pairs = enumerate(zip(was.times, now.times, strict=False))
    wrong = next(((number, a, b) for number, (a, b) in pairs if a != b), None)
    if wrong is None:
        return Check("timestamps", True, f"all as in the film, the last at {clock(now.times[-1])}")
    number, a, b = wrong
    return Check("timestamps", False, f"frame {number} is at {float(b):.6f} s, in the film at {float(a):.6f} s")


def _copies(copied: Sequence[tuple[int, int]], frames: int) -> Check:
    count = sum(stop - start for start, stop in copied)
    return Check("untouched", True, f"{count} of {frames} frames are the film's own packets, in {len(copied)} stretches")


def _form(film: Path, dubbed: Path) -> Iterator[Check]:
    """Size, aspect, pixel format, colour tags and rotation."""
    a, b = _told_of(film), _told_of(dubbed)
    if a["size"] == b["size"] and same_aspect(a["aspect"], b["aspect"], a["size"]):
        b["aspect"] = a["aspect"]
    wrong = [f"{name} {b[name]}, in the film {a[name]}" for name in a if a[name] != b[name]]
    size = f"{a['size'][0]}x{a['size'][1]} {a['pix_fmt']}"
    yield Check("picture", not wrong, "; ".join(wrong) or f"{size}, colour, aspect and rotation as in the film")


def _told_of(path: Path) -> dict[str, Any]:
    with open_film(path) as file:
        stream = picture_of(file, path)
        context = stream.codec_context
        told = {
            "size": (context.width, context.height),
            "pix_fmt": context.pix_fmt,
            "aspect": stream.sample_aspect_ratio or Fraction(1),
            "matrix": context.colorspace,
            "primaries": context.color_primaries,
            "transfer": context.color_trc,
            "range": context.color_range,
        }
        frame = next(file.decode(stream), None)
        return {**told, "rotation": None if frame is None else frame.rotation % 360}


def _voice(dubbed: Path) -> Check:
    with open_film(dubbed) as file:
        if not file.streams.audio:
            return Check("voice", False, "there is no sound")
        stream = voice_of(file, dubbed)
        first = bool(stream.disposition & Disposition.default)
        starts = (stream.start_time or 0) * (stream.time_base or Fraction(1))
        fact = f"{stream.codec_context.name} {stream.rate} Hz, {stream.language or 'no language'}, from {float(starts):.3f} s"
        early = starts - earliest_start(file)
        return Check("voice", first and abs(early) < Fraction(1, 10), fact if first else f"{fact}: not the default track")


def _streams(film: Path, dubbed: Path, *, original_audio: bool) -> Iterator[Check]:
    """Every other stream of the film must be there, packet for packet."""
    was, now = Counter(_others(film, skip=0)), Counter(_others(dubbed, skip=1))
    if not original_audio:
        was = Counter({key: count for key, count in was.items() if key[0] != "audio"})
    missing = was - now
    names = ", ".join(f"{kind} {codec}" for kind, codec, _ in missing)
    carried = Counter(kind for kind, _, _ in was.elements())
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(carried.items())) or "none"
    yield Check("streams", not missing, f"not as in the film: {names}" if missing else f"carried packet for packet: {told}")


def _others(path: Path, *, skip: int) -> Iterator[tuple[str, str, str]]:
    """(kind, codec, digest of all packets) of what is neither the picture nor one of the first `skip` tracks of sound."""
    with open_film(path) as file:
        picture = picture_of(file, path).index
        voices = [stream.index for stream in file.streams.audio][:skip]
        kept = [stream for stream in file.streams if stream.index not in (picture, *voices)]
        kept = [stream for stream in kept if _name(stream) not in REMADE and not stream.disposition & Disposition.attached_pic]
        digests = {stream.index: hashlib.sha256() for stream in kept}
        for packet in file.demux(kept) if kept else ():
            if packet.size:
                digests[packet.stream.index].update(memoryview(packet))
        for stream in kept:
            if stream.type == "attachment":
                digests[stream.index].update(_attachment(stream))
            yield stream.type, _name(stream), digests[stream.index].hexdigest()


def _name(stream: Any) -> str:
    return stream.codec.canonical_name if stream.codec_context else ("text" if stream.type == "data" else "")


def _attachment(stream: Any) -> bytes:
    """Its name and all that it holds: it has no packets."""
    return str(stream.metadata.get("filename", "")).encode() + b"\0" + bytes(stream.data)


def _chapters(film: Path, dubbed: Path) -> Check:
    def titles(path: Path) -> list[tuple[Fraction, str]]:
        with open_film(path) as file:
            return [(chapter["start"] * Fraction(chapter["time_base"] or 1), _title(chapter)) for chapter in file.chapters()]

    was, now = titles(film), titles(dubbed)
    same = len(was) == len(now) and all(
        a[1] == b[1] and abs(a[0] - b[0]) < Fraction(1, 500) for a, b in zip(was, now, strict=True)
    )
    return Check(
        "chapters", same, f"{len(now)} as in the film" if same else f"{len(now)}, the film has {len(was)}, or other ones"
    )


def _title(chapter: Any) -> str:
    return str(chapter.get("metadata", {}).get("title", ""))


def _notice(dubbed: Path) -> Check:
    with open_film(dubbed) as file:
        marked = any(NOTICE in value for value in _tags(file))
    return Check("notice", marked, "says that it was altered" if marked else "does not say that it was altered")


def _tags(file: InputContainer) -> list[str]:
    return [str(value) for value in file.metadata.values()]


def _content(film: Path, dubbed: Path, times: Sequence[Fraction]) -> Check:
    """That it is the same film: some frames of both, small, in grey. A mouth may change, most of the picture may not."""
    count = min(LOOKS, len(times))
    wanted = [times[(2 * n + 1) * len(times) // (2 * count)] for n in range(count)]
    apart = [float(np.median(np.abs(a - b))) for a, b in zip(_looks(film, wanted), _looks(dubbed, wanted), strict=False)]
    wrong = [n for n, value in enumerate(apart) if value > LIKE]
    told = f"{len(apart)} frames looked at, most of each as in the film"
    if len(apart) < count:
        return Check("content", False, f"only {len(apart)} of {count} frames could be looked at")
    where = f"{len(wrong)} of {count} frames show something else, the first at {clock(wanted[wrong[0]])}" if wrong else ""
    return Check("content", not wrong, where or told)


def _looks(path: Path, times: Sequence[Fraction]) -> Iterator[NDArray[np.int16]]:
    """The frame at each of these times, in LOOK_PX of grey; a film that cannot be sought or decoded ends it early."""
    with open_film(path) as file:
        stream = picture_of(file, path)
        tick = stream.time_base or Fraction(1)
        for time in times:
            with suppress(av.FFmpegError):
                file.seek(int(time / tick), stream=stream)
                frame = next((one for one in file.decode(stream) if one.pts is not None and one.pts * tick >= time), None)
                if frame is not None:
                    yield np.asarray(frame.reformat(*LOOK_PX, format="gray").to_ndarray(), np.int16)


def _decodes(dubbed: Path, frames: int) -> Check:
    """Picture and voice, by ffmpeg, which stops at the first error that it would else conceal."""
    with open_film(dubbed) as file:
        index = picture_of(file, dubbed).index
        voices = [stream.index for stream in file.streams.audio][:1]
    program = [
        str(find_ffmpeg()),
        "-v",
        "error",
        "-xerror",
        "-err_detect",
        "explode",
        "-nostdin",
        *AS_FILE_ARGS,
    ]
    heard = [part for voice in voices for part in ("-map", f"0:{voice}")]
    shown = ["-fps_mode", "passthrough", "-f", "null", "-progress", "pipe:1", "-"]
    done = subprocess.run(
        [*program, "-i", media_url(dubbed), "-map", f"0:{index}", *heard, *shown],
        capture_output=True,
        text=True,
        errors="replace",
    )
    counts = [line.partition("=")[2] for line in done.stdout.splitlines() if line.startswith("frame=")]
    count = int(counts[-1]) if counts else 0
    said = " | ".join(done.stderr.strip().splitlines()[-LOG_LINES:])
    good = done.returncode == 0 and not said and count == frames
    return Check(
        "decodes", good, f"{count} frames without an error" if good else f"{count} of {frames} frames: {said or 'too few'}"
    )
