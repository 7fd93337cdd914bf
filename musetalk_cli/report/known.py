"""What is known of a film and a result before anything is measured. In: both, or the job that made one of the other. Out: Known.

Every step is one of a dub's own, kept in the film's work folder, and after a dub found there done.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from musetalk_cli.cast_map import CastMap, VoiceFile, letters, read_cast, with_voices
from musetalk_cli.casting import ShotCast, cast_by_rule, choose_all
from musetalk_cli.config import DecideConfig
from musetalk_cli.models.family import TOKENS_PER_SECOND
from musetalk_cli.people import Persons, TrackOf, find_persons
from musetalk_cli.pipeline import Run, cast_shots, find_faces, hear, lengthened, source_of, unit_name, with_unfit
from musetalk_cli.report.pieces import Seen
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.stages.s2_decide import Pauses, decide, decisions_of, pauses_of
from musetalk_cli.stages.s2_faces import read_seen
from musetalk_cli.stages.s8_sounds import Wanted
from musetalk_cli.types import PASS, Casting, Decisions, DubJob, Faces, Source
from musetalk_cli.work import Ref

OWN_MOUTH = "not dubbed in this result"
CHANGED = 0.2  # of a track's measured rows: it was dubbed, whoever was meant to be


@dataclass(frozen=True, slots=True)
class Known:
    """A film and a result of it. decisions: of each shot; with `rule` those that would be, were everyone dubbed."""

    film: Path
    result: Path
    own: Ref[Source]
    source: Ref[Source]  # the film with what follows on it
    faces: tuple[Ref[Faces], ...]
    persons: Persons
    decisions: tuple[Decisions, ...]
    voices: tuple[tuple[VoiceFile, ...], ...]  # of each shot, as its lines number them; the result itself is its own voice
    names: Mapping[int, str]  # of persons
    files: tuple[Path, ...]  # the voices that were given
    rule: tuple[ShotCast, ...] | None = None  # who would be dubbed by default; None: the decisions are the dub's own

    def who(self, shot: int, track: int) -> str:
        """A person's name or letter, "" for one whom nobody could dub."""
        number = self.persons.of.get(TrackOf(shot, track))
        return "" if number is None else self.names.get(number, letters(number))


def known_of_dub(job: DubJob, run: Run) -> Known:
    """What the run of this job, just ended, decided."""
    do = partial(run.work.do, runtime=run.runtime)
    own = do(demux, job.video, config=run.config.demux, unit="film")
    cast_map = None if job.cast is None else with_voices(read_cast(job.cast), dict(job.voices))
    voices = [VoiceFile(job.audio)] if cast_map is None else list(cast_map.voices())
    source = lengthened(own, voices, run)
    film, found = source.load(), find_faces(own, run, source)
    shots = [face.load() for face in found]
    cast = cast_shots(film, shots, cast_map, run)
    speeches = [hear(voice, run) for voice in voices]
    decided = [
        do(
            decide,
            source_of(shot, own, source),
            face,
            asked.casting,
            [speeches[voice] for voice in asked.voices],
            config=run.config.decide,
            unit=unit_name(shot),
        ).load()
        for shot, face, asked in zip(film.shots, found, cast, strict=True)
    ]
    decisions = tuple(with_unfit(one, read_seen(face.folder)) for one, face in zip(decided, found, strict=True))
    alone = len(voices) == 1 and voices[0].channel < 0 and job.bed is None
    heard = [VoiceFile(job.output)] if alone else voices
    persons = find_persons(shots)
    return Known(
        job.video,
        job.output,
        own,
        source,
        tuple(found),
        persons,
        decisions,
        tuple(tuple(heard[voice] for voice in asked.voices) for asked in cast),
        _named(cast_map, len(persons.tracks)),
        tuple(dict.fromkeys(voice.path for voice in voices)),
    )


def known_of_files(film: Path, result: Path, speech: Wanted, run: Run) -> Known:
    """Two files and nothing else: the result's first sound is the voice, and who was dubbed is to be seen. speech: of the result."""
    own = run.work.do(demux, film, config=run.config.demux, runtime=run.runtime, unit="film")
    found = find_faces(own, run)
    source, shots = own.load(), [face.load() for face in found]
    rule = tuple(cast_shots(source, shots, None, run))
    pauses = pauses_in(speech, run.config.decide)
    everyone = [cast_by_rule(shot, choose_all, run.config.decide.silence).casting for shot in shots]
    decided = _decided(source, found, shots, everyone, pauses, run.config.decide)
    voices = tuple((VoiceFile(result),) for _ in shots)
    return Known(film, result, own, own, tuple(found), find_persons(shots), tuple(decided), voices, {}, (), rule)


def as_dubbed(known: Known, seen: Sequence[Seen], speech: Wanted, config: DecideConfig) -> Known:
    """Whose mouth should have been generated, as far as the result shows: those whose mouth was changed, and those whom the rule picks
    unless others were dubbed in their place."""
    if known.rule is None:
        return known
    shots = [face.load() for face in known.faces]
    changed = {TrackOf(part.shot, part.track) for part in seen if (~part.unchanged).mean() > CHANGED}
    persons = {known.persons.of[track] for track in changed}

    def asked(shot: Faces, track: int, chosen: bool) -> bool:
        this = TrackOf(shot.shot.index, track)
        in_place = any(other.shot == this.shot for other in changed - {this})
        return this in changed or (chosen and not in_place and (not persons or known.persons.of[this] in persons))

    castings = []
    for shot, rule in zip(shots, known.rule, strict=True):
        parts = [
            part._replace(voice=0, why="")
            if asked(shot, part.track, part.voice != PASS)
            else part._replace(voice=PASS, why=part.why or OWN_MOUTH)
            for part in rule.casting.parts
        ]
        castings.append(Casting(tuple(parts)))
    source = known.source.load()
    decided = _decided(source, known.faces, shots, castings, pauses_in(speech, config), config)
    return replace(known, decisions=tuple(decided))


def pauses_in(speech: Wanted, config: DecideConfig) -> Pauses:
    """When the voice speaks, as a dub would hear it."""
    tokens = len(speech.voice) * TOKENS_PER_SECOND // speech.rate_hz
    rows = np.arange(tokens) * speech.rate_hz // TOKENS_PER_SECOND
    activity: NDArray[np.float32] = np.asarray(speech.voice)[rows]
    return pauses_of(activity, config)


def _decided(
    source: Source,
    found: Sequence[Ref[Faces]],
    shots: Sequence[Faces],
    castings: Sequence[Casting],
    pauses: Pauses,
    config: DecideConfig,
) -> Iterator[Decisions]:
    for face, shot, casting in zip(found, shots, castings, strict=True):
        yield with_unfit(decisions_of(source, shot, casting, [pauses], config), read_seen(face.folder))


def _named(cast: CastMap | None, persons: int) -> dict[int, str]:
    """As the cast map calls those whom it knows by letter."""
    by_letter = {} if cast is None else {letter: person.name for person in cast.persons for letter in person.faces}
    return {number: by_letter[letters(number)] for number in range(persons) if letters(number) in by_letter}
