"""`musetalk evaluate`: from films to the paper's table. In: a plan. Out: an Evaluation, and in OUT its table, JSON, CSV and results.

    films, seed -- pairs -- dub -- OUT/results/SYSTEM/PAIR.mp4 --.
    folders of other systems ------------------------------------|-- watch -- figures of a pair -- means, FID -- table
    the film itself, the film untouched under the new voice -----'

What was finished is kept in OUT/work, named by all that made it: a killed evaluation goes on. Knows nothing of how a figure is made.
"""

import json
import os
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from importlib.metadata import version
from pathlib import Path
from typing import Literal, NamedTuple

import cattrs
import numpy as np
from numpy.typing import NDArray

from musetalk_cli import __version__
from musetalk_cli.config import Runtime
from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.evaluation.judges import CSIM, JudgeNames, choose_judges, file_sha256
from musetalk_cli.evaluation.protocol import PROTOCOL, Pair, draw, own_voices, read_inputs
from musetalk_cli.evaluation.tables import Evaluation, Metric, Row, System, Weight, as_csv, table, totals_of
from musetalk_cli.evaluation.watch import (
    SAMPLE_S,
    Likeness,
    Published,
    Trail,
    WatchConfig,
    Watched,
    liken,
    published,
    trail_of,
    watch,
)
from musetalk_cli.jobs import Existing, dub_film, plan_jobs
from musetalk_cli.media.audio import speech_blocks
from musetalk_cli.metrics.csim import csim
from musetalk_cli.metrics.fid import fid, statistics
from musetalk_cli.metrics.jitter import jitter
from musetalk_cli.metrics.lips import correlation, opening
from musetalk_cli.metrics.sync import Asked, LipSync, judge_lips
from musetalk_cli.models.lip_judge import WEIGHTS_FILE, LipJudge
from musetalk_cli.models.voice_activity import CHUNK, HZ, TOKENS_PER_SECOND, VoiceActivity
from musetalk_cli.pipeline import Run, find_faces
from musetalk_cli.progress import clock
from musetalk_cli.reading import read_json
from musetalk_cli.session import Place, Session, Voice, open_session
from musetalk_cli.settings import Choices, choose_runtime, dub_config
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.suffixes import FILMS, SOUNDS
from musetalk_cli.types import Source
from musetalk_cli.weights import folder as weights_folder
from musetalk_cli.work import Work, fingerprint

MOST_EVALUATION = 512 << 20  # bytes; as of a report

FILM, UNTOUCHED = "film", "untouched"  # the controls: the film with its own voice; its picture under the new one
BLOCK_SAMPLES = 160_000  # of a voice at once
LEAST_MOMENTS = 25


@dataclass(frozen=True, slots=True)
class EvaluationPlan:
    """What the user asked for."""

    films: tuple[Path, ...]
    output: Path
    voices: tuple[Path, ...] = ()
    own: bool = False
    compare: tuple[str, ...] = ()
    dub: bool = True
    controls: bool = True
    identity: Literal["auto", "arcface", "dlib", "sface"] = "auto"
    seed: int = 0
    seconds: float | None = None


class Looked(NamedTuple):
    """A film as it is, and where its face is."""

    source: Source
    trail: Trail
    watched: Watched


def evaluate_films(plan: EvaluationPlan, choices: Choices, voice: Voice) -> Evaluation:
    """Everything, and OUT/evaluation.json, .csv and .txt. A film or result that cannot be read is told in its system's `missing`.

    Raises UsageError where there is nothing to measure, MissingError for a judge that is asked for and not there.
    """
    if not plan.films:
        return _written(_merged([], [_kept(name, folder) for name, folder in _folders(plan)], plan.seed), plan.output)
    pairs = pairs_of(plan)
    runtime = choose_runtime(choices)
    judges = choose_judges(plan.identity, weights_folder(choices.weights))
    plan.output.mkdir(parents=True, exist_ok=True)
    desk = _Desk(plan, choices, runtime, WatchConfig(judges, plan.seconds), voice, _Ear(), {})
    systems = list(_systems(plan, choices))
    earlier = [_kept(name, folder) for name, folder in _folders(plan) if (folder / "evaluation.json").is_file()]
    measured = desk.measure(pairs, systems)
    metrics = _metrics(judges, own=plan.own)
    found = [_system(name, rows, metrics, desk) for name, rows in measured.items()]
    evaluation = Evaluation(
        PROTOCOL, f"musetalk {__version__}", plan.seed, metrics, tuple(found), _weights(judges, desk), _versions()
    )
    return _written(_merged([evaluation], earlier, plan.seed), plan.output)


def pairs_of(plan: EvaluationPlan) -> tuple[Pair, ...]:
    """Voices are drawn from --voices, else from those of the films in which somebody speaks."""
    wanted = read_inputs(plan.films)
    if plan.own:
        return own_voices(wanted)
    voices = [path for given in plan.voices for path in _sounds_in(given)]
    undrawn = [line.film for line in wanted if line.voice is None]
    if undrawn and not voices:
        speaking = [film for film in undrawn if speaks(film)]
        if not speaking:
            raise UsageError("nobody speaks in any of the films", "give voices to draw from: --voices", thing=str(undrawn[0]))
        voices = speaking if len(speaking) < len(undrawn) else []
    return draw(wanted, plan.seed, voices)


def speaks(path: Path) -> bool:
    """Whether a voice is heard in a tenth of the file's first minute. False where it has no sound or cannot be read."""
    try:
        block = next(speech_blocks(path, 60 * HZ), np.zeros(0, np.float32))
    except InputError:
        return False
    return len(block) >= CHUNK and float((VoiceActivity().hear(block, len(block) * TOKENS_PER_SECOND // HZ) > 0.5).mean()) > 0.1


class _Result(NamedTuple):
    """A system's answer to a pair."""

    figures: dict[str, float | None]
    seconds: float
    features: tuple[NDArray[np.float32], NDArray[np.float32]]  # of the film and of the result


Measured = dict[str, dict[Pair, "_Result | str"]]  # a text: why there is none


class _Ear:
    """What voices ask of lips, each heard once."""

    def __init__(self) -> None:
        self._judge = LipJudge()
        self._asked: dict[str, Asked] = {}

    def asked(self, path: Path) -> Asked:
        key = fingerprint(path)
        if key not in self._asked:
            self._asked[key] = self._judge.asked(speech_blocks(path, BLOCK_SAMPLES))
        return self._asked[key]

    @property
    def folder(self) -> Path:
        return self._judge.folder


@dataclass(frozen=True, slots=True)
class _Desk:
    """Where measuring is done."""

    plan: EvaluationPlan
    choices: Choices
    runtime: Runtime
    config: WatchConfig
    voice: Voice
    ear: _Ear
    openings: dict[Path, tuple[NDArray[np.float64], NDArray[np.float32]]]  # of films whose lips were seen: times, openings

    def measure(self, pairs: Sequence[Pair], systems: Sequence[tuple[str, Path | None]]) -> Measured:
        """Films first, so that a voice's own lips are known before another's are judged by them."""
        films = list(
            dict.fromkeys([pair.film for pair in pairs] + [pair.voice for pair in pairs if pair.voice.suffix.lower() in FILMS])
        )
        told = _Progress(len(films) + len(pairs) * len(systems), self.voice)
        seen: dict[Path, Looked | str] = {}
        for film in films:
            seen[film] = self._film(film)
            told.step(film.name)
        measured: Measured = {name: {} for name, _ in systems}
        for name, folder in systems:
            for pair in pairs:
                looked = seen[pair.film]
                measured[name][pair] = looked if isinstance(looked, str) else self._pair(name, folder, pair, looked)
                told.step(f"{name} {pair.name}")
        return measured

    def _film(self, film: Path) -> Looked | str:
        try:
            with self._session(film) as (session, run):
                own = session.work.do(demux, film, config=run.config.demux, runtime=self.runtime, unit="film")
                trail = trail_of(own.load(), [face.load() for face in find_faces(own, run)])
                if not len(trail.time_s):
                    return f"no usable face in {film.name}"
                found = session.work.do(watch, film, own, trail, config=self.config, runtime=self.runtime, unit="film").load()
                self.openings[film] = (found.time_s, opening(found.landmarks))
                return Looked(own.load(), trail, found)
        except InputError as error:
            return error.fact

    def _pair(self, name: str, folder: Path | None, pair: Pair, film: Looked) -> _Result | str:
        try:
            match name:
                case "film":
                    own = pair._replace(voice=pair.film)
                    return self._judged(own, film, film.watched, published=self._published(own, pair.film, film.source, film))
                case "untouched":
                    return self._judged(pair, film, film.watched, published=self._published(pair, pair.film, film.source, film))
            result = self._dubbed(name, pair) if folder is None else _file_of(folder, pair.name)
            if result is None:
                return "not there"
            with self._session(pair.film) as (session, run):
                shown = session.work.do(demux, result, config=run.config.demux, runtime=self.runtime, unit=f"result-{name}")
                found = session.work.do(
                    watch, result, shown, film.trail, config=self.config, runtime=self.runtime, unit=name
                ).load()
                alike = self._liken(pair, result, film, shown.load(), session.work) if pair.own else None
            return self._judged(pair, film, found, alike=alike, published=self._published(pair, result, shown.load(), film))
        except InputError as error:
            return error.fact

    def _dubbed(self, name: str, pair: Pair) -> Path:
        """By musetalk itself, as a user would; what is there of these very settings is found done."""
        folder = self.plan.output / "results" / name
        folder.mkdir(parents=True, exist_ok=True)
        output = folder / f"{pair.name}{pair.film.suffix}"
        place, existing = self._place(pair.film), Existing(overwrite=True)
        jobs = plan_jobs(pair.film, [str(pair.voice.absolute())], output, "", existing, place)
        return dub_film(jobs, self.choices, place, Voice("none", quiet=True), existing)[0].output

    def _liken(self, pair: Pair, result: Path, film: Looked, shown: Source, work: Work) -> Likeness | None:
        if shown.frames != film.source.frames or shown.size != film.source.size:
            return None
        made = work.do(
            liken, pair.film, result, film.source, shown, film.trail, config=self.config, runtime=self.runtime, unit="film"
        )
        return made.load()

    def _judged(
        self, pair: Pair, film: Looked, found: Watched, *, alike: Likeness | None = None, published: Published | None = None
    ) -> _Result:
        asked = self.ear.asked(pair.voice) if speaks(pair.voice) else None
        sync = None if asked is None else judge_lips(found.landmarks, found.time_s, asked)
        figures = _figures(film.watched, found, sync, self.config.judges)
        figures["lip r"] = self._lip_r(pair, found)
        if published is not None and published.moments:
            figures |= {
                "LSE-C": published.confidence,
                "LSE-D": published.distance,
                "|AV offset| ms": 1000 * abs(published.offset_s),
            }
        if alike is not None:
            figures |= {"PSNR": _mean(alike.psnr), "SSIM": _mean(alike.ssim), "LPIPS": _mean(alike.lpips)}
        return _Result(figures, _seconds(found), (film.watched.features, found.features))

    def _published(self, pair: Pair, video: Path, shown: Source, film: Looked) -> Published | None:
        """None without the published SyncNet, or where nobody speaks."""
        if not self.config.judges.sync or not speaks(pair.voice):
            return None
        with self._session(pair.film) as (session, _):
            do = session.work.do
            return do(
                published, video, pair.voice, shown, film.trail, config=self.config, runtime=self.runtime, unit="film"
            ).load()

    def _lip_r(self, pair: Pair, found: Watched) -> float | None:
        """With the lips of whoever spoke that voice, at the same moments."""
        if pair.voice not in self.openings:
            return None
        times, wanted = self.openings[pair.voice]
        near = np.interp(found.time_s, times, wanted, np.nan, np.nan)  # NaN beside a frame without a face
        mine = opening(found.landmarks)
        both = int((~(np.isnan(near) | np.isnan(mine))).sum())
        return correlation(mine, near) if both >= LEAST_MOMENTS else None

    def _place(self, film: Path) -> Place:
        return Place(self.plan.output / "work" / fingerprint(film)[:16], keep=True)

    @contextmanager
    def _session(self, film: Path) -> Iterator[tuple[Session, Run]]:
        config = dub_config(self.choices, self.runtime)
        with open_session(film, self._place(film), Voice("none", quiet=True), deliver=False) as session:
            yield session, Run(film, config, self.runtime, session.work, session.events)


def _figures(film: Watched, found: Watched, sync: LipSync | None, judges: JudgeNames) -> dict[str, float | None]:
    both, ours, theirs = np.intersect1d(found.slot, film.slot, return_indices=True)
    wide = film.identity.shape[1] == found.identity.shape[1]
    still = jitter(film.landmarks)
    return {
        CSIM[judges.identity]: csim(film.identity[theirs], found.identity[ours]) if len(both) and wide else None,
        "LSE-C (lip judge)": None if sync is None else sync.confidence,
        "LSE-D (lip judge)": None if sync is None else sync.distance,
        "|offset| ms": None if sync is None else 1000 * abs(sync.offset_s),
        "jitter": jitter(found.landmarks) if _seconds(found) else None,
        "of film's": jitter(found.landmarks) / still if still else None,
        "sharpness": _ratio(found.sharpness[ours], film.sharpness[theirs]),
        "seam": _ratio(found.seam[ours], film.seam[theirs]),
    }


def _metrics(judges: JudgeNames, *, own: bool) -> tuple[Metric, ...]:
    identity = {"arcface": "ArcFace", "dlib": "dlib's ResNet, a stand-in", "sface": "SFace, a stand-in"}[judges.identity]
    step = f"{float(SAMPLE_S):g} s"
    found = [
        Metric(
            "FID", "lower", 2, f"Heusel et al. 2017, of 256 px face crops every {step}; biased by their number: same sets only"
        ),
        Metric(CSIM[judges.identity], "higher", 3, f"mean cosine of identity to the film's own frame, by {identity}"),
        *(_published_metrics() if judges.sync else ()),
        Metric("LSE-C (lip judge)", "higher", 3, "sync confidence by the embedded judge, a stand-in: not SyncNet's scale"),
        Metric("LSE-D (lip judge)", "lower", 3, "sync distance by the same; 1.41: nothing in common"),
        Metric(
            "|offset| ms", "lower", 0, "by which lips and voice are apart, by the same; of chance where the confidence is low"
        ),
        Metric("lip r", "higher", 2, "correlation of the lips' opening with that of whoever spoke the voice"),
        Metric("jitter", "lower", 1, "acceleration of the mouth's points in thousandths of the eyes' distance, root mean square"),
        Metric("of film's", "", 2, "the same in that of the film"),
        Metric("sharpness", "higher", 2, "of the mouth in that of the film, median"),
        Metric("seam", "lower", 2, "colour step at the lower face's outline in that of the film, median"),
    ]
    if own:
        found += [
            Metric("PSNR", "higher", 1, "dB on the face crop"),
            Metric("SSIM", "higher", 3, "on the face crop (Wang et al. 2004)"),
        ]
    return tuple(found)


def _published_metrics() -> tuple[Metric, ...]:
    return (
        Metric("LSE-C", "higher", 2, "sync confidence by the published SyncNet (Chung and Zisserman 2016; Prajwal et al. 2020)"),
        Metric("LSE-D", "lower", 2, "sync distance by the same"),
        Metric("|AV offset| ms", "lower", 0, "by which lips and voice are apart, by the same"),
    )


def _system(name: str, rows: Mapping[Pair, _Result | str], metrics: Sequence[Metric], desk: _Desk) -> System:
    good = {pair: result for pair, result in rows.items() if not isinstance(result, str)}
    table_rows = tuple(
        Row(pair.name, pair.film.name, (pair.film if name == FILM else pair.voice).name, round(result.seconds, 2), result.figures)
        for pair, result in good.items()
    )
    missing = tuple(f"{pair.name} ({result})" for pair, result in rows.items() if isinstance(result, str))
    return System(
        name, table_rows, totals_of(table_rows, metrics, {"FID": _fid([result.features for result in good.values()])}), missing
    )


def _fid(features: Sequence[tuple[NDArray[np.float32], NDArray[np.float32]]]) -> float | None:
    real, made = ([part[side] for part in features if part[side].shape[1]] for side in (0, 1))
    if not real or not made:
        return None
    return fid(statistics(real, real[0].shape[1]), statistics(made, made[0].shape[1]))


def _systems(plan: EvaluationPlan, choices: Choices) -> Iterator[tuple[str, Path | None]]:
    """Names, and the folder of results that are there already."""
    if plan.dub:
        model = dub_config(choices, choose_runtime(choices)).model.name
        yield model, None
    for name, folder in _folders(plan):
        if not (folder / "evaluation.json").is_file():
            yield name, folder
    if plan.controls:
        yield FILM, None
        if not plan.own:
            yield UNTOUCHED, None


def _folders(plan: EvaluationPlan) -> list[tuple[str, Path]]:
    """Raises UsageError for what is no folder, or two of one name."""
    found: dict[str, Path] = {}
    for text in plan.compare:
        name, equals, path = text.partition("=")
        folder = Path(path if equals else text)
        name = name if equals else folder.name or str(folder)
        if not folder.is_dir():
            raise UsageError("is no folder", "give NAME=DIR, or DIR, with a system's results", thing=str(folder))
        if name in found or name in (FILM, UNTOUCHED):
            raise UsageError(f"{name} names two systems", "give each a name of its own: NAME=DIR", thing="--compare")
        found[name] = folder
    if not found and not plan.films:
        raise UsageError("is missing", "give films to dub and measure, or --compare with earlier evaluations", thing="FILM")
    return list(found.items())


def _kept(name: str, folder: Path) -> Evaluation:
    """An earlier evaluation, its systems under this name."""
    path = folder / "evaluation.json"
    try:
        found = cattrs.structure(read_json(path, MOST_EVALUATION), Evaluation)
    except FileNotFoundError:
        fact = f"{folder}: there is no evaluation.json in it"
        raise InputError(fact, "give films, too, for results that were never measured") from None
    except (OSError, ValueError, cattrs.BaseValidationError) as error:
        raise InputError(f"{path}: no evaluation of ours", "evaluate that system again") from error
    named = [
        System(
            system.name if system.name in (FILM, UNTOUCHED) else f"{name}/{system.name}",
            system.rows,
            system.totals,
            system.missing,
        )
        for system in found.systems
    ]
    return Evaluation(found.protocol, found.tool, found.seed, found.metrics, tuple(named), found.weights, found.versions)


def _merged(new: Sequence[Evaluation], kept: Sequence[Evaluation], seed: int) -> Evaluation:
    """Side by side; a control that several have stands there once. Raises UsageError where protocols differ: figures would not compare."""
    every = [*new, *kept]
    if len({found.protocol for found in every}) > 1:
        raise UsageError("evaluations by different protocols", "evaluate them again with one version", thing="--compare")
    systems: dict[str, System] = {}
    metrics: dict[str, Metric] = {}
    for found in every:
        metrics |= {metric.name: metric for metric in found.metrics}
        for system in found.systems:
            systems.setdefault(system.name, system)
    weights = tuple(dict.fromkeys(weight for found in every for weight in found.weights))
    return Evaluation(
        every[0].protocol,
        every[0].tool,
        every[0].seed if new else seed,
        tuple(metrics.values()),
        tuple(systems.values()),
        weights,
        _versions(),
    )


def _written(found: Evaluation, folder: Path) -> Evaluation:
    folder.mkdir(parents=True, exist_ok=True)
    _publish(folder / "evaluation.csv", as_csv(found))
    _publish(folder / "evaluation.txt", "\n".join(table(found, per_pair=True)) + "\n")
    _publish(folder / "evaluation.json", json.dumps(found.as_json(), ensure_ascii=False, indent=1) + "\n")
    return found


def _publish(path: Path, text: str) -> None:
    part = path.with_name(f"part.{path.name}")
    part.write_text(text)
    os.replace(part, path)


def _weights(judges: JudgeNames, desk: _Desk) -> tuple[Weight, ...]:
    ear = (f"judge/{WEIGHTS_FILE}", file_sha256(desk.ear.folder / WEIGHTS_FILE))
    model = dub_config(desk.choices, desk.runtime).model if desk.plan.dub else None
    named = [*judges.files, ear, *(() if model is None else model.weights)]
    return tuple(Weight(name, digest) for name, digest in named)


def _versions() -> dict[str, str]:
    names = ("torch", "opencv-python", "mediapipe", "numpy", "scipy", "av")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def _file_of(folder: Path, name: str) -> Path | None:
    found = sorted(path for path in folder.glob(f"{escape(name)}.*") if path.suffix.lower() in FILMS)
    return found[0] if found else None


def _sounds_in(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    return sorted(path for path in given.iterdir() if path.suffix.lower() in FILMS | SOUNDS and not path.name.startswith("."))


def _seconds(found: Watched) -> float:
    return float(found.time_s[-1] - found.time_s[0]) if len(found.time_s) else 0.0


def _mean(values: NDArray[np.floating]) -> float | None:
    known = values[np.isfinite(values)]
    return float(known.astype(np.float64).mean()) if len(known) else None


def _ratio(result: NDArray[np.floating], film: NDArray[np.floating]) -> float | None:
    with np.errstate(divide="ignore", invalid="ignore"):
        shares = result.astype(np.float64) / film
    known = shares[np.isfinite(shares)]
    return float(np.median(known)) if len(known) else None


class _Progress:
    """A line on stderr for each step, with the time that is left."""

    def __init__(self, steps: int, voice: Voice) -> None:
        self._steps, self._done, self._began = steps, 0, time.monotonic()
        self._mode = "none" if voice.quiet else voice.progress

    def step(self, what: str) -> None:
        self._done += 1
        spent = time.monotonic() - self._began
        left = spent / self._done * (self._steps - self._done)
        if self._mode == "jsonl":
            told = {"v": 1, "event": "evaluate.step", "what": what, "done": self._done, "of": self._steps, "left_s": round(left)}
            print(json.dumps(told), file=sys.stderr, flush=True)
        elif self._mode != "none":
            print(f"evaluate: {self._done} of {self._steps}, {what}, about {clock(left)} left", file=sys.stderr, flush=True)
