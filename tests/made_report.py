"""Made reports: of a film with some findings, and of a long one with thousands of shots."""

import io
import random

import numpy as np
from PIL import Image

from musetalk_cli.report.records import VERSION, Curve, Figures, FileFact, Finding, Kind, Pair, Report, ShotReport, TrackReport
from musetalk_cli.types import Outcome

FPS = 25.0
WHY: dict[Outcome, str] = {
    "synced": "the largest face",
    "passed through": "too small: 20 px wide, needs 32",
    "needs review": "turned by 51 degrees, over 45",
}


def jpeg(number: int, side: int = 256) -> bytes:
    """A picture that is unlike another number's."""
    y, x = np.mgrid[:side, :side]
    rgb = np.stack([(x + 40 * number) % 256, (y + 90 * number) % 256, np.full_like(x, 50 * number % 256)], -1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", quality=85)
    return file.getvalue()


def figures(rng: random.Random, rows: int) -> Figures:
    return Figures(
        rows=rows,
        seconds=rows / FPS,
        confidence=rng.uniform(0.2, 0.6),
        distance=rng.uniform(0.8, 1.4),
        offset_ms=rng.uniform(-40, 40),
        film_confidence=rng.uniform(0.3, 0.6),
        film_offset_ms=rng.uniform(-20, 20),
        lip_r=rng.uniform(0.3, 0.8),
        jitter=rng.uniform(6, 14),
        film_jitter=rng.uniform(7, 13),
        movement=rng.uniform(0.02, 0.1),
        film_movement=rng.uniform(0.02, 0.1),
        change=rng.uniform(2, 9),
        sharpness=rng.uniform(0.8, 1.05),
        seam=rng.uniform(0.8, 1.2),
    )


def curve(shot: int, track: int, start: int, frames: int) -> Curve:
    at = np.arange(start, start + frames) / FPS
    was, now = 0.1 + 0.08 * np.sin(9 * at), 0.1 + 0.09 * np.sin(11 * at + 1)
    told: list[float | None] = [round(float(v), 4) for v in now]
    told[frames // 3 : frames // 3 + 4] = [None] * len(told[frames // 3 : frames // 3 + 4])
    return Curve(
        shot,
        track,
        tuple(round(float(t), 3) for t in at),
        tuple(round(float(v), 4) for v in was),
        tuple(told),
        tuple(round(float(v), 4) for v in 0.1 + 0.09 * np.sin(11 * at + 0.8)),
        tuple(round(float(v), 4) for v in np.abs(np.sin(3 * at))),
    )


def made_report(
    *,
    shots: int = 12,
    frames: int = 90,
    found: int = 5,
    film: str = "film.mp4",
    person: str = "Anna",
    why: str = "",
    seed: int = 1,
) -> Report:
    """`shots` of `frames` each, two people in every third; `found` findings of every kind in turn, the last of the whole film."""
    rng = random.Random(seed)
    told = [_shot(rng, number, frames, person, why) for number in range(shots)]
    kinds: tuple[Kind, ...] = ("no-op", "shift", "frozen mouth", "weak sync", "jitter", "blurred", "seam", "needs review")
    findings = []
    for n in range(found):
        shot = told[(n * max(shots // max(found, 1), 1)) % shots]
        text = f"the mouth is as in the film in {90 - n % 9} % of its frames: dub it"
        findings.append(Finding(kinds[n % len(kinds)], shot.shot, 0, shot.start + 10, shot.stop - 20, 0.9, 0.8, text))
    if found > 2:
        findings.append(Finding("shift", None, None, 0, shots * frames, 200.0, 80.0, "the lips come 200 ms after the voice"))
    marked = sorted({one.shot for one in findings if one.shot is not None})[:12]
    return Report(
        version=VERSION,
        tool="musetalk 0.4.0",
        made_at="2026-01-31T12:30:00+00:00",
        film=film,
        result="film.fr.mp4",
        frames=shots * frames,
        seconds=shots * frames / FPS,
        fps=FPS,
        score=100.0 if not found else 83.25,
        findings=tuple(findings),
        totals=figures(rng, shots * frames),
        shots=tuple(told),
        curves=tuple(curve(n, 0, n * frames, frames) for n in (marked or [0])),
        pairs=tuple(
            Pair(n, 0, n * frames + 30, (n * frames + 30) / FPS, "worst: seam 3.1" if k < 3 else "random", jpeg(n), jpeg(n + 1))
            for k, n in enumerate(marked or [0])
        ),
        files=(FileFact(film, "film", 48_123_456, "a1" * 32), FileFact("fr.wav", "voice", 9_123, "b2" * 32)),
        settings={"decide.max_yaw": "60.0", "faces.analyser": "embedded"},
        stage_seconds={"demux": 1.2, "faces": 14.5, "latents": 7.0, "inference": 9.25, "blend": 12.0},
        judge="LSE-C, LSE-D (lip judge)",
    )


def _shot(rng: random.Random, number: int, frames: int, person: str, why: str) -> ShotReport:
    start, stop = number * frames, (number + 1) * frames
    what: Outcome = "needs review" if number % 7 == 5 else ("passed through" if number % 4 == 3 else "synced")
    about = why or WHY[what]
    tracks = (
        []
        if number % 8 == 7
        else [TrackReport(0, person, start, stop, what, about, None if what == "passed through" else figures(rng, frames))]
    )
    if number % 3 == 0 and tracks:
        tracks.append(TrackReport(1, "", start, stop, "passed through", "another face is larger", None))
    return ShotReport(number, start, stop, start / FPS, stop / FPS, what, about if tracks else "no face", tuple(tracks))
