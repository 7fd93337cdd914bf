"""A report as one HTML page. In: a Report. Out: HTML without external assets, which asks no network. Knows nothing of measuring.

Whatever comes from the film, names above all, is text: templates escape it, the script writes it as text, and a content security policy
lets no other script run. The page's size is bounded: plots and pictures have a budget, findings before the others.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from musetalk_cli.charts import BLUE, GREY, ORANGE, Bar, Line, bars, lines
from musetalk_cli.report.records import Curve, Figures, Finding, Pair, Report
from musetalk_cli.types import Outcome

MOST_PLOTS = 48
PICTURE_BYTES = 4_000_000  # of all pictures, before base64 makes 4 of 3
FIRST_FINDINGS = 25  # the others unfold
MOST_FINDINGS = 300  # that are listed; the table has all
ROW_STEPS_S = (60, 120, 300, 600, 1200, 3600)  # of the timeline
MOST_ROWS = 24
STRIP_WIDE, STRIP_HIGH = 1000, 30  # grid of a row of the timeline
SHOT_TOP = {"synced": 9, "needs review": 9, "passed through": 20}  # told apart without colour: those that stay are low
MARK_WIDE, MARK_HIGH = 5, 6  # of a finding, over the shots
OUTCOMES: tuple[Outcome, ...] = ("synced", "needs review", "passed through")
KNOWN_JUDGES = {
    "lip judge": "a small network that comes along and hears how far a voice opens the lips. It never trained the model that it judges. "
    "It stands in for the published SyncNet, whose figures are others: do not compare them.",
}


class Strip(NamedTuple):
    """A row of the timeline."""

    start_s: float
    seconds: float
    share: float  # of the row's width that the film fills
    shots: tuple[tuple[Outcome, str], ...]  # paths on the grid
    marks: str


class Place(NamedTuple):
    """Where something is, as people read it; shot: from 1, 0 for the whole film."""

    shot: int
    time: str


class Told(NamedTuple):
    """A finding as the page shows it."""

    kind: str
    place: Place
    person: str
    text: str


class Plot(NamedTuple):
    place: Place
    track: int
    person: str
    svg: Markup


class Picture(NamedTuple):
    place: Place
    track: int
    why: str
    film: str  # data: URI
    dubbed: str


class Fact(NamedTuple):
    """A total: a name, a figure, and what it is beside."""

    name: str
    value: str
    beside: str
    meaning: str


def page(report: Report) -> str:
    """The whole file. About 5 MB for a film of two hours and 2,000 shots."""
    template = environment().get_template("report.html")
    code = environment().get_template("report.js").render()
    return template.render(
        report=report,
        verdict=_verdict(report.findings),
        kinds=Counter(one.kind for one in report.findings),
        told=[_told(one, report) for one in report.findings],
        first=FIRST_FINDINGS,
        most=MOST_FINDINGS,
        strips=list(_strips(report)),
        outcomes=Counter(shot.what for shot in report.shots),
        high=STRIP_HIGH,
        wide=STRIP_WIDE,
        pictures=list(_pictures(report)),
        plots=list(_plots(report)),
        facts=list(_facts(report.totals)),
        judge=next((text for name, text in KNOWN_JUDGES.items() if name in report.judge), ""),
        stages=_stages(report),
        data=_data(report),
        code=Markup(code),
        policy=policy(code),
    )


@cache
def environment() -> Environment:
    """The templates of this folder; everything is escaped that is not Markup."""
    loader = PackageLoader("musetalk_cli.report")
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    pages.filters |= {"clock": clock, "size": _size}
    return pages


def policy(code: str) -> str:
    """Content security policy: nothing is loaded, no script runs but this one."""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"


def clock(seconds: float) -> str:
    """75.25 -> "1:15.2"."""
    tenths = int(max(seconds, 0) * 10 + 1e-6)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest / 10:04.1f}" if hours else f"{minutes}:{rest / 10:04.1f}"


def data_uri(jpeg: bytes) -> str:
    """A picture within the page."""
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e5 else f"{count / 1e3:,.1f} kB"


def _verdict(found: Sequence[Finding]) -> tuple[str, str]:
    """(class, sentence)"""
    failing = [one for one in found if one.kind != "needs review"]
    looks = len(found) - len(failing)
    if failing:
        shots = len({one.shot for one in failing if one.shot is not None})
        where = f" in {shots} shot{'s' * (shots != 1)}" if shots else ""
        return "bad", f"{len(failing)} finding{'s' * (len(failing) != 1)}{where}"
    if looks:
        return "look", f"Nothing failed; {looks} place{'s' * (looks != 1)} to look at"
    return "good", "Nothing was found"


def _time(report: Report, frame: int) -> float:
    """Seconds at which a frame is shown; by the shot's own clock, for films whose frames are not evenly spaced."""
    for shot in report.shots:
        if shot.start <= frame < shot.stop:
            return shot.start_s + (shot.stop_s - shot.start_s) * (frame - shot.start) / (shot.stop - shot.start)
    return frame / report.fps


def _span_s(report: Report, one: Finding) -> tuple[float, float]:
    """[start, stop) in seconds."""
    shots = report.shots
    if one.shot is not None and one.shot < len(shots) and shots[one.shot].start <= one.start < shots[one.shot].stop:
        shot = shots[one.shot]  # no search: a long film has thousands of both
        pace = (shot.stop_s - shot.start_s) / (shot.stop - shot.start)
        return tuple(shot.start_s + pace * (frame - shot.start) for frame in (one.start, one.stop))  # type: ignore[return-value]
    return _time(report, one.start), _time(report, one.stop)


def _told(one: Finding, report: Report) -> Told:
    start, stop = _span_s(report, one)
    number = 0 if one.shot is None else one.shot + 1
    return Told(one.kind, Place(number, f"{clock(start)}–{clock(stop)}"), _person(report, one.shot, one.track), one.text)


def _person(report: Report, shot: int | None, track: int | None) -> str:
    if shot is None or track is None or shot >= len(report.shots):
        return ""
    return next((one.person for one in report.shots[shot].tracks if one.track == track and one.person), "")


def _strips(report: Report) -> Iterator[Strip]:
    """Rows of the timeline: one for a minute, else as many as are seen at a glance."""
    whole = max(report.seconds, 1e-3)
    step = whole if whole <= ROW_STEPS_S[0] else next((s for s in ROW_STEPS_S if whole / s <= MOST_ROWS), whole / MOST_ROWS)
    begin = report.shots[0].start_s if report.shots else 0.0
    spans = [_span_s(report, one) for one in report.findings if one.shot is not None]
    row = 0
    while row * step < whole - 1e-6:
        low = begin + row * step
        seconds = min(step, whole - row * step)
        yield Strip(
            low, step, seconds / step, tuple(_row_paths(report, low, low + seconds, step)), _marks(spans, low, seconds, step)
        )
        row += 1


def _row_paths(report: Report, low: float, high: float, step: float) -> Iterator[tuple[Outcome, str]]:
    for what in OUTCOMES:
        d = []
        for shot in report.shots:
            a, b = max(shot.start_s, low), min(shot.stop_s, high)
            if shot.what == what and a < b:
                x, wide = (a - low) / step * STRIP_WIDE, (b - a) / step * STRIP_WIDE
                d.append(f"M{x:.1f} {SHOT_TOP[what]}h{max(wide - 1.5, wide * 0.7, 0.5):.1f}V{STRIP_HIGH}H{x:.1f}Z")
        if d:
            yield what, "".join(d)


def _marks(spans: Sequence[tuple[float, float]], low: float, seconds: float, step: float) -> str:
    d = []
    for start, stop in spans:
        a, b = max(start, low), min(stop, low + seconds)
        if a < b:
            x, wide = (a - low) / step * STRIP_WIDE, max((b - a) / step * STRIP_WIDE, MARK_WIDE)
            d.append(f"M{min(x, STRIP_WIDE - wide):.1f} 0h{wide:.1f}v{MARK_HIGH}h{-wide:.1f}Z")
    return "".join(dict.fromkeys(d))


def _pictures(report: Report) -> Iterator[Picture]:
    room = PICTURE_BYTES
    for pair in report.pairs:
        room -= len(pair.film_jpeg) + len(pair.dubbed_jpeg)
        if room < 0:
            return
        yield _picture(pair)


def _picture(pair: Pair) -> Picture:
    place = Place(pair.shot + 1, clock(pair.time_s))
    return Picture(place, pair.track, pair.why, data_uri(pair.film_jpeg), data_uri(pair.dubbed_jpeg))


def _plots(report: Report) -> Iterator[Plot]:
    """Of tracks with findings first, then by time."""
    found: dict[tuple[int, int], list[Finding]] = {}
    for one in report.findings:
        if one.shot is not None and one.track is not None:
            found.setdefault((one.shot, one.track), []).append(one)
    order = sorted(report.curves, key=lambda curve: (curve.shot, curve.track) not in found)
    for curve in sorted(order[:MOST_PLOTS], key=lambda curve: (curve.shot, curve.track)):
        if curve.times_s:
            marked = [_span_s(report, one) for one in found.get((curve.shot, curve.track), [])]
            yield _plot(curve, marked, _person(report, curve.shot, curve.track))


def _plot(curve: Curve, marked: Sequence[tuple[float, float]], person: str) -> Plot:
    first, last = curve.times_s[0], curve.times_s[-1]
    time = f"{clock(first)}–{clock(last)}"
    drawn = [
        Line("voice", curve.times_s, curve.voice, GREY, filled=True),
        Line("film's lips", curve.times_s, curve.film_opening, GREY, "2 3"),
        Line("asked by the voice", curve.times_s, curve.asked, ORANGE, "6 4"),
        Line("result's lips", curve.times_s, curve.opening, BLUE, width=2.2),
    ]
    label = f"Opening of the lips in shot {curve.shot + 1}, {time}: film, result, what the voice asks for, and the voice"
    within = [(a, b) for a, b in marked if a < last and b > first]
    svg = lines(drawn, label=label, x_told=clock, from_zero=True, marked=within)
    return Plot(Place(curve.shot + 1, time), curve.track, person, Markup(svg))


def _facts(totals: Figures) -> Iterator[Fact]:
    """What was measured of the whole film; a dash where it could not be."""

    def fact(name: str, value: float | None, form: str, meaning: str, film: float | None = None, beside: str = "") -> Fact:
        of_film = f"film {film:{form}}" if film is not None else beside
        return Fact(name, "–" if value is None else f"{value:{form}}", of_film if value is not None else "", meaning)

    t = totals
    offset = None if t.offset_ms is None else round(t.offset_ms)
    yield fact("Sync confidence", t.confidence, ".2f", "how clearly lips and voice belong together", t.film_confidence)
    yield fact("Sync distance", t.distance, ".2f", "between lips and voice at the best offset; less is better")
    yield fact("Offset", offset, "+d", "by which lips come after the voice, beyond what they do in the film", beside="ms")
    yield fact("Lips follow", t.lip_r, ".2f", "correlation of the lips' opening with what the voice asks for", beside="of 1")
    yield fact("Jitter", t.jitter, ".1f", "trembling of the mouth, in thousandths of the eyes' distance", t.film_jitter)
    yield fact("Movement", t.movement, ".3f", "of the lips' opening, in eye distances", t.film_movement)
    yield fact("Change", t.change, ".1f", "of the mouth's brightness", beside="of 255")
    yield fact("Sharpness", t.sharpness, ".0%", "of the mouth", beside="of the film's")
    yield fact("Seam", t.seam, ".2f", "colour step at the mask's edge", beside="times the film's")
    yield Fact("Measured", f"{t.seconds:.0f} s", f"of {t.rows:,} mouths", "faces in frames whose mouth was generated")


def _stages(report: Report) -> Markup:
    rows = sorted(report.stage_seconds.items(), key=lambda row: -row[1])
    told = [Bar(name, seconds) for name, seconds in rows]
    return Markup(bars(told, label="Seconds by stage", told=lambda s: f"{s:,.1f} s")) if told else Markup("")


COLUMNS = tuple(field.name for field in fields(Figures))


def _data(report: Report) -> dict[str, Any]:
    """What the script needs: the table's rows, as lists, for there may be thousands."""
    kinds = list(dict.fromkeys(one.kind for one in report.findings))
    rows: list[list[Any]] = []
    for shot in report.shots:
        pace = (shot.stop_s - shot.start_s) / max(shot.stop - shot.start, 1)
        for track in shot.tracks:
            times = [round(shot.start_s + pace * (frame - shot.start), 2) for frame in (track.start, track.stop)]
            what = OUTCOMES.index(track.what)
            rows.append(
                [shot.shot, track.track, track.person, *times, what, track.why, _figures(track.figures), track.start, track.stop]
            )
        if not shot.tracks:
            ends = (round(shot.start_s, 2), round(shot.stop_s, 2))
            rows.append([shot.shot, -1, "", *ends, OUTCOMES.index(shot.what), shot.why, 0, shot.start, shot.stop])
    return {
        "shots": [
            [shot.shot, round(shot.start_s, 2), round(shot.stop_s, 2), OUTCOMES.index(shot.what), shot.why]
            for shot in report.shots
        ],
        "rows": rows,
        "findings": [
            [kinds.index(f.kind), f.shot, f.track, f.start, f.stop, f.text] for f in report.findings if f.shot is not None
        ],
        "kinds": kinds,
        "outcomes": OUTCOMES,
        "columns": COLUMNS,
    }


def _figures(figures: Figures | None) -> list[float | None] | int:
    """In the order of COLUMNS, four digits; 0 for none."""
    if figures is None:
        return 0
    values = (getattr(figures, name) for name in COLUMNS)
    return [None if value is None else float(f"{value:.4g}") for value in values]
