"""What a dub will take, before it is begun. In: jobs, choices. Out: Prediction: wall time, CPU and GPU hours, disk. Refuses where the disk
is short.

    film, voice -- bench.excerpt -- frames, faces, speech, what is copied --.
                '- a few frames -- bench.probe, really dubbed --------------|-- Prediction
    work folder -- what is finished already --------------------------------'

Every stage's cost is measured on frames of the very film, on this machine, with these settings: seconds once, for each call, and for each
frame, face, or half minute of voice. The measurement is kept in the cache, and taken again after any of these has changed.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from math import ceil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from musetalk_cli import __version__, errors
from musetalk_cli.batch import Plan, undone
from musetalk_cli.bench.excerpt import (
    VOICE_S,
    Heard,
    Look,
    copied_frames,
    cut_film,
    cut_voice,
    face_frames,
    generated_frames,
    hear,
    look_at,
)
from musetalk_cli.bench.machine import cores
from musetalk_cli.bench.probe import AT_ONCE, FEW, LEAST, MOST, Given, Probe, as_given, ran_of
from musetalk_cli.config import DubConfig, ReportConfig
from musetalk_cli.errors import InternalError, MusetalkError, NoFaceError, ResourceError, UsageError
from musetalk_cli.executor import Hands, gpus_of
from musetalk_cli.jobs import Existing
from musetalk_cli.media.encoders import ENCODERS
from musetalk_cli.media.shots import SEEN_BESIDE, shots_between
from musetalk_cli.progress import SHOT_STAGES, clock
from musetalk_cli.provenance.sign import BMFF
from musetalk_cli.reading import read_json
from musetalk_cli.session import Place, cache_folder
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.standing import standing
from musetalk_cli.types import DubJob
from musetalk_cli.work import fingerprint

PACKAGE = Path(__file__).parent
MOST_MEASURED = 1e18
MARGIN = 1.1  # of the disk: films are not as even as their middle
LONG_AS = (FEW, LEAST, 40, MOST)  # frames of the excerpts
BY_VOICE = ("listen", "sound", "wanted")
BY_ROW = ("pick", "latents", "masks")
BY_SPOKEN = ("inference",)
BY_FRAME = ("demux", "measure", *SHOT_STAGES)  # whose calls cost little beside the frames of the long run
ANALYSIS = ("demux", "faces", "latents", "masks")  # done once for all languages


class Amount(NamedTuple):
    """How much of everything a run is given. measured: faces that the report looks at; voice: of VOICE_S each, in parts."""

    frames: int
    shots: int
    seen: int  # frames that the analysis looks at: some twice, where a take is cut into chunks
    rows: int
    spoken: int
    encoded: int
    measured: int
    voice: float

    def of(self, stage: str) -> float:
        """How much of what this stage's time goes by."""
        if stage in BY_VOICE:
            return self.voice
        by = {"faces": self.seen, "blend": self.spoken, "measure": self.measured}
        return by.get(stage, self.rows if stage in BY_ROW else self.spoken if stage in BY_SPOKEN else self.frames)


class Cost(NamedTuple):
    """Of a stage: seconds once a process, each call, each unit; bytes each unit."""

    first_s: float
    call_s: float
    unit_s: float
    unit_bytes: float
    of_shots: bool


class Spending(NamedTuple):
    """Of one stage over all films."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """films: how many. shots: about, where a film is too long to look for cuts. disk_bytes: at most, in the work folders, the outputs
    beside them included; free_bytes: what is there now."""

    films: int
    frames: int
    film_s: float
    shots: int
    synthesised_s: float  # of picture with a new mouth, of all languages together
    copied_frames: int
    wall_s: float
    cpu_hours: float
    gpu_hours: float
    disk_bytes: int
    free_bytes: int
    stages: tuple[Spending, ...]
    exact_shots: bool
    probe_s: float  # what the measurement itself took; 0 where it was kept

    def as_json(self) -> dict[str, object]:
        return {**asdict(self), "stages": {one.stage: round(one.seconds, 2) for one in self.stages}}

    def lines(self) -> list[str]:
        """For people; times are of this machine as it is now."""
        about = "" if self.exact_shots else "about "
        copied = f", {self.copied_frames} frames copied untouched" if self.copied_frames else ""
        stages = [f"  {one.stage:10} {clock(one.seconds):>8}" for one in self.stages if one.seconds >= 1]
        return [
            f"{self.films} film{'s' * (self.films != 1)}: {self.frames} frames, {clock(self.film_s)}, {about}{self.shots} shots",
            f"to synthesise: {clock(self.synthesised_s)}{copied}",
            f"wall time: about {clock(self.wall_s)}; {self.cpu_hours:.2f} CPU hours, {self.gpu_hours:.2f} GPU hours",
            *stages,
            f"disk: up to {self.disk_bytes / 1e9:.2f} GB, {self.free_bytes / 1e9:.1f} GB are free",
        ]


class Asked(NamedTuple):
    """A film with its voices. place: its work folder."""

    jobs: tuple[DubJob, ...]
    choices: Choices
    place: Place


def predict_jobs(
    jobs: Sequence[DubJob], choices: Choices, place: Place, hands: Hands, existing: Existing, *, report: bool
) -> Prediction:
    """Of `dub`. Raises what `predict` raises, UsageError for hands on other machines."""
    todo = tuple(job for job in jobs if not (existing.skip and job.output.exists()))
    asked = [Asked(todo, choices, place)] if todo else []
    return predict(asked, report=report, hands=_number_of(hands))


def predict_batch(plan: Plan, choices: Choices, hands: Hands, *, report: bool) -> Prediction:
    """Of `batch`: what is not done already. Raises what `predict` raises, UsageError for hands on other machines."""
    asked = [Asked(tuple(jobs), mine, place) for jobs, mine, place in undone(plan, choices)]
    return predict(asked, report=report, hands=_number_of(hands), alike=True)


def _number_of(hands: Hands) -> int:
    """Processes that share the shots."""
    if hands.executor == "ray":
        raise UsageError("a cluster is not predicted: its machines may differ", "leave out --executor ray", thing="--dry-run")
    return len(gpus_of(hands.gpus)) if hands.gpus else max(hands.workers, 1)


def predict(asked: Sequence[Asked], *, report: bool, hands: int = 1, alike: bool = False) -> Prediction:
    """Of all of it, one film after another in one process. report: whether each result is measured. hands: processes that share the
    shots. alike: one measurement for all films of the same codec, size and rate.

    Raises ResourceError where the disk is short, NoFaceError where no sampled frame of a film shows a face, InputError for what cannot
    be read, MissingError for a model that is not there.
    """
    if not asked:
        raise UsageError("everything is done already", "-y does it again", thing="--dry-run")
    began, parts = time.perf_counter(), list[_Film]()
    for one in asked:
        parts.append(_film(one, report=report, hands=hands, alike=alike, first=not parts))
    found = _sum(parts, time.perf_counter() - began)
    for one, part in zip(asked, parts, strict=True):
        check_disk(part.disk_bytes, _existing(one.place.folder(one.jobs[0].video)))
    check_disk(found.disk_bytes if len(parts) == 1 else 0, _existing(asked[0].jobs[0].output.parent))
    return found


def check_disk(needed: int, folder: Path) -> None:
    """Raises ResourceError where so many bytes do not fit."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ResourceError(
            f"{folder}: the disk is too small: {needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB free",
            "free some space, or choose another --work-dir",
        )


@dataclass(frozen=True, slots=True)
class _Film:
    """A prediction of one film. stages: seconds."""

    amounts: tuple[Amount, ...]  # of each job
    look: Look
    copied: int
    wall_s: float
    cpu_s: float
    gpu_s: float
    disk_bytes: int
    free_bytes: int
    stages: dict[str, float]


def _film(asked: Asked, *, report: bool, hands: int, alike: bool, first: bool) -> _Film:
    choices, film = asked.choices, asked.jobs[0].video
    runtime = choose_runtime(choices)
    config = dub_config(choices, runtime)
    look = look_at(film, config.faces, config.demux)
    if not look.share_with_face:
        raise NoFaceError(f"no face in {len(look.counted)} frames of it", "see what `musetalk inspect` finds", thing=str(film))
    voices = [hear(job.audio) for job in asked.jobs]
    probe = probed(film, look, asked.jobs[0].audio, voices[0], choices, report=report, alike=alike)
    own = hear(film) if look.sound and choices.silence == "auto" else None
    everyone = choices.face == "all" or asked.jobs[0].cast is not None
    amounts, copied = [], 0
    for voice in voices:
        amount, untouched = amount_of(look, voice, own, config, everyone=everyone)
        amounts.append(amount)
        copied += untouched
    kept = _kept(asked)
    stages = stage_seconds(probe, amounts, kept)
    shots = [shot.frames for shot in shots_between(look.cuts or (), look.frames, look.fps, config.demux.chunk)]
    wall_s, cpu_s = totals(probe, stages, len(amounts), shots, hands=hands, first=first)
    signed = config.sign.on and any(job.output.suffix.lower() in BMFF for job in asked.jobs)
    disk = disk_bytes(probe, amounts, signed=signed)
    free = shutil.disk_usage(_existing(asked.place.folder(film))).free
    gpu_s = wall_s if runtime.device.startswith("cuda") else 0.0
    return _Film(tuple(amounts), look, copied, wall_s, cpu_s, gpu_s, disk, free, stages)


def amount_of(look: Look, voice: Heard, own: Heard | None, config: DubConfig, *, everyone: bool) -> tuple[Amount, int]:
    """How much there will be to do, and the frames that are copied. everyone: all faces are dubbed, not one a frame."""
    shows = face_frames(look)
    decide = config.decide
    wanted = generated_frames(look, voice, own, decide.silence, decide.reach, decide.pause)
    touched = shows & wanted
    a_frame = look.faces_a_frame / max(look.share_with_face, 1e-9) if everyone else 1.0
    own_codec = config.blend.codec == "auto" or ENCODERS[config.blend.codec].codec == look.codec
    copied = copied_frames(look, touched, float(config.cut.shortest)) if config.cut.copy and own_codec else 0
    rows, spoken = (round(float(frames.sum()) * a_frame) for frames in (shows, touched))
    shots = shots_between(look.cuts or (), look.frames, look.fps, config.demux.chunk)
    seen = look.frames + sum(shot.lead + shot.tail for shot in shots)
    most = ReportConfig().seconds
    measured = spoken if most is None else min(spoken, round(most * float(look.fps)))
    blocks = ceil(voice.seconds / VOICE_S) if voice.seconds > VOICE_S else 1.0
    return Amount(look.frames, len(shots), seen, rows, spoken, look.frames - copied, measured, blocks), copied


def stage_seconds(probe: Probe, amounts: Sequence[Amount], kept: dict[str, float]) -> dict[str, float]:
    """Of each stage over all jobs of a film, in one process. kept: what share of it is finished already."""
    found: dict[str, float] = {}
    for stage, cost in costs(probe).items():
        jobs = amounts[:1] if stage in ANALYSIS else amounts
        seconds = sum(cost.call_s * (one.shots if cost.of_shots else 1) + cost.unit_s * one.of(stage) for one in jobs)
        if stage == "blend":
            seconds += probe.plain_s * sum(max(one.encoded - one.spoken, 0) for one in jobs)
        found[stage] = (cost.first_s + seconds) * (1 - kept.get(stage, 0.0))
    return found


def costs(probe: Probe) -> dict[str, Cost]:
    """From three runs: what the first takes more than the second is once a process; what the long one takes more than the second is by
    its units; the rest is for each call."""
    few, many = amount_in(probe.warm), amount_in(probe.long)
    found = {}
    for stage, long in probe.long.stages.items():
        cold, warm = (run.stages.get(stage, long) for run in (probe.cold, probe.warm))
        more = many.of(stage) - few.of(stage)
        alone = long.seconds / max(many.of(stage), 1e-9)  # where both had as much of it
        unit_s = max(long.seconds - warm.seconds, 0.0) / more if more > 0 else alone
        if stage in BY_FRAME:  # the difference of two short times is mostly noise where others use the machine
            unit_s = max(unit_s, alone / 2)
        call_s = max(warm.seconds - unit_s * few.of(stage), 0.0)
        size = long.size / max(many.of(stage), 1e-9)
        found[stage] = Cost(max(cold.seconds - warm.seconds, 0.0), call_s, unit_s, size, long.of_shots)
    return found


def amount_in(ran: Any) -> Amount:
    """Of a run of the probe: one shot, no pause, no copies."""
    return Amount(ran.frames, 1, ran.frames, ran.rows, ran.spoken, ran.frames, ran.spoken, 1.0)


def totals(
    probe: Probe, stages: dict[str, float], jobs: int, shots: Sequence[int], *, hands: int, first: bool
) -> tuple[float, float]:
    """Wall and CPU seconds. shots: frames of each; hands: processes that share them; first: the process starts here."""
    at_once = sum(seconds for stage, seconds in stages.items() if stage in AT_ONCE)
    rest = sum(stages.values()) - at_once
    busy = probe.long.cpu_s / max(probe.long.wall_s, 1e-9)  # cores that one shot keeps busy
    if hands > 1:
        lanes, speedup = hands, max(1.0, min(float(hands), cores() / max(busy, 1e-9)))
    else:
        lanes, speedup = probe.workers, crowd_speedup(probe)
    outside = probe.cold.outside_s + probe.warm.outside_s * (jobs - 1) if first else probe.warm.outside_s * jobs
    start = probe.start_s if first else 0.0
    wall = start + outside + rest + at_once / speedup_over(shots, lanes, speedup)
    return wall, (start + outside) + (rest + at_once) * busy


def crowd_speedup(probe: Probe) -> float:
    """How much sooner as many shots are done at once than one after another; 1 where there is one at a time."""
    if probe.crowd is None:
        return 1.0
    beside = sum(min(SEEN_BESIDE, probe.crowd.frames) for _ in range(2 * (probe.crowd.shots - 1)))
    amount = amount_in(probe.crowd)._replace(shots=probe.crowd.shots, seen=probe.crowd.frames + beside)
    alone = stage_seconds(probe._replace(cold=probe.warm), [amount], {})
    serial = sum(seconds for stage, seconds in alone.items() if stage in AT_ONCE)
    return max(1.0, min(serial / max(probe.crowd.shots_s, 1e-9), float(probe.workers)))


def speedup_over(shots: Sequence[int], lanes: int, speedup: float) -> float:
    """Of all shots, dearest first, each to the first lane that is free; towards the end lanes are idle, and the others go on alone.
    speedup: where all lanes work."""
    if lanes <= 1 or speedup <= 1 or not sum(shots):
        return 1.0
    ends = [0] * lanes
    for frames in sorted(shots, reverse=True):
        ends[ends.index(min(ends))] += frames
    wall, before = 0.0, 0
    for idle, end in enumerate(sorted(ends)):  # from `before` to `end` lanes - idle are at work
        working = lanes - idle
        rate = 1 + (speedup - 1) * (working - 1) / (lanes - 1)
        wall += (end - before) * working / rate
        before = end
    return sum(shots) / wall


def disk_bytes(probe: Probe, amounts: Sequence[Amount], *, signed: bool) -> int:
    """The work folder when the last film is finished, and the films beside it. signed: into the film itself, which lies there three
    times meanwhile: as it was, as c2pa writes it, and with its manifest."""
    whole = 0.0
    for stage, cost in costs(probe).items():
        jobs = amounts[:1] if stage in ANALYSIS else amounts
        size = sum(cost.unit_bytes * one.of(stage) for one in jobs)
        if stage == "blend":
            size = sum(cost.unit_bytes * max(one.encoded, one.spoken) for one in jobs)
        whole += size * (2 if stage == "remux" else 1)  # and once more where the user wants it
        if stage == "remux" and signed:
            whole += max((cost.unit_bytes * one.of(stage) for one in jobs), default=0.0)
    return int(whole * MARGIN)


def probed(film: Path, look: Look, audio: Path, voice: Heard, choices: Choices, *, report: bool, alike: bool) -> Probe:
    """Measured, or as measured before in the cache."""
    path = cache_folder() / "predict" / f"{_key(film, look, audio, choices, report=report, alike=alike)}.json"
    if (kept := _kept_probe(path)) is not None:
        return kept
    with TemporaryDirectory(prefix="musetalk-predict-") as name:
        folder = Path(name)
        for frames in LONG_AS:
            cut_film(film, look, min(frames, look.frames), folder / f"{min(frames, look.frames)}{film.suffix}")
        cut_voice(audio, voice, folder / "voice.wav")
        found = _asked_of_child(Given(folder, film.suffix, float(look.fps), folder / "voice.wav", choices, report), folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"part.{os.getpid()}.{path.name}")
    part.write_text(json.dumps(found), encoding="utf-8")
    part.replace(path)
    return _probe_of(found)


def _kept_probe(path: Path) -> Probe | None:
    """None where there is none, or another than we write: then it is measured again."""
    try:
        probe = _probe_of(read_json(path))
        return probe if all(map(_is_sound, _numbers(probe))) else None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return None


def _numbers(probe: Probe) -> Iterator[object]:
    for ran in filter(None, (probe.cold, probe.warm, probe.long, probe.crowd)):
        yield from ran[:-1]
        yield from (number for cost in ran.stages.values() for number in cost)
    yield from (probe.start_s, probe.plain_s, probe.workers)


def _is_sound(number: object) -> bool:
    """Of seconds, bytes and counts; what is a difference may be below 0, nan is not within."""
    return isinstance(number, int | float) and abs(number) < MOST_MEASURED


def _asked_of_child(given: Given, folder: Path) -> dict[str, Any]:
    """What the probe told. Raises its error as ours."""
    asked, told = folder / "given.json", folder / "found.json"
    asked.write_text(as_given(given), encoding="utf-8")
    began = time.time()
    command = [sys.executable, "-m", "musetalk_cli.bench.probe", str(asked), str(told)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    ended = time.time()
    if not told.exists():
        raise InternalError(f"the measurement ended with {done.returncode}: {done.stderr[-300:]}", "dub without --dry-run")
    read: dict[str, Any] = json.loads(told.read_text(encoding="utf-8"))
    if "error" in read:
        raise _error_of(**read["error"])
    return {**read, "start_s": (read["entered"] - began) + (ended - read["left"])}


def _error_of(exit_code: int, fact: str, cure: str) -> MusetalkError:
    kinds = {kind.exit_code: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, MusetalkError)}
    return kinds.get(exit_code, InternalError)(fact, cure)


def _probe_of(read: dict[str, Any]) -> Probe:
    cold, warm, long = (ran_of(read[name]) for name in ("cold", "warm", "long"))
    crowd = ran_of(read["crowd"]) if "crowd" in read else None
    return Probe(read["start_s"], cold, warm, long, read["plain_s"], read["workers"], crowd)


def _key(film: Path, look: Look, audio: Path, choices: Choices, *, report: bool, alike: bool) -> str:
    """Of this machine, this version's files, the settings, and the film: itself, or its kind."""
    newest = max(path.stat().st_mtime_ns for path in PACKAGE.rglob("*.py"))
    what = [look.codec, look.size, str(look.fps), film.suffix] if alike else [fingerprint(film), fingerprint(audio)]
    here = [os.uname().nodename, os.uname().machine, cores(), os.environ.get("OMP_NUM_THREADS", "")]
    told = [__version__, newest, here, asdict(choices), report, what]
    return sha256(json.dumps(told, default=str).encode()).hexdigest()[:24]


def _kept(asked: Asked) -> dict[str, float]:
    """{stage: share} of what earlier runs finished, as far as the first job's run can know without doing anything."""
    steps = standing(asked.jobs[0].video, asked.place, asked.choices, asked.jobs[0]).steps or ()
    names = dict.fromkeys(step.stage for step in steps)
    return {name: sum(s.kept for s in steps if s.stage == name) / sum(s.stage == name for s in steps) for name in names}


def _existing(folder: Path) -> Path:
    """The nearest folder that is there."""
    folder = folder.absolute()
    while not folder.is_dir():
        folder = folder.parent
    return folder


def _sum(parts: Sequence[_Film], probe_s: float) -> Prediction:
    amounts = [amount for part in parts for amount in part.amounts]
    stages: dict[str, float] = {}
    for part in parts:
        for stage, seconds in part.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
    return Prediction(
        len(amounts),
        sum(part.look.frames for part in parts),
        round(sum(part.look.seconds for part in parts), 3),
        sum(part.amounts[0].shots for part in parts),
        round(sum(amount.spoken / float(part.look.fps) for part in parts for amount in part.amounts), 2),
        sum(part.copied for part in parts),
        round(sum(part.wall_s for part in parts), 2),
        round(sum(part.cpu_s for part in parts) / 3600, 5),
        round(sum(part.gpu_s for part in parts) / 3600, 5),
        max(part.disk_bytes for part in parts),
        min(part.free_bytes for part in parts),
        tuple(Spending(stage, seconds) for stage, seconds in stages.items()),
        all(part.look.cuts is not None for part in parts),
        round(probe_s, 2),
    )
