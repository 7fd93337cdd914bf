"""The report's page: what it says, that nothing from a film is more than text, that it stays small, and the page in a real browser."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import WIDTHS, Browser, open_browser
from made_report import curve, jpeg, made_report

from musetalk_cli.charts import BLUE, COLOURS, GREY, Bar, Line, bars, lines, loss_curves, thinned
from musetalk_cli.report.page import MOST_PLOTS, PICTURE_BYTES, clock, page
from musetalk_cli.report.records import Pair, Report

EVIL = '</script><script>window.hit=1</script><img src=x onerror="window.hit=1">\'"'


# ---- what it says -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0:00.0"), (75.25, "1:15.2"), (59.99, "0:59.9"), (3723.5, "1:02:03.5"), (0.3, "0:00.3")]
)
def test_times_are_written_as_players_write_them(seconds: float, told: str) -> None:
    assert clock(seconds) == told


@pytest.mark.parametrize(
    ("kinds", "verdict"),
    [
        ((), "Nothing was found"),
        (("needs review", "needs review"), "Nothing failed; 2 places to look at"),
        (("seam",), "1 finding in 1 shot"),
        (("seam", "seam", "needs review"), "2 findings in 2 shots"),
    ],
)
def test_the_verdict_counts_what_failed(kinds: tuple[str, ...], verdict: str) -> None:
    report = made_report(found=2)
    found = [replace(report.findings[0], kind=kind, shot=n) for n, kind in enumerate(kinds)]
    assert verdict in page(replace(report, findings=tuple(found)))


def test_findings_come_before_everything_else_with_shot_time_and_sentence() -> None:
    html = page(made_report(found=5))
    first = html.index('href="#shot-1"')
    assert first < html.index('id="timeline"') < html.index('id="table"')
    assert "0:00.4–0:02.8" in html[first : first + 200]
    assert "the lips come 200 ms after the voice" in html and "Whole film" in html


def test_the_score_the_judge_hashes_settings_and_stages_are_told() -> None:
    html = page(made_report())
    for told in (
        "83.2",
        "LSE-C, LSE-D (lip judge)",
        "stands in for the published SyncNet",
        "a1" * 32,
        "48.1 MB",
        "decide.max_yaw",
        "14.5 s",
    ):
        assert told in html, told


def test_a_figure_that_was_not_measured_is_a_dash_and_no_zero() -> None:
    report = made_report()
    html = page(replace(report, totals=replace(report.totals, confidence=None, film_confidence=0.4)))
    assert re.search(r"<dt>Sync confidence</dt><dd>–<small></small>", html)


def test_names_and_reasons_of_a_film_are_text_only() -> None:
    report = made_report(film=EVIL, person=EVIL, why=EVIL)
    report = replace(
        report, findings=tuple(replace(one, text=EVIL) for one in report.findings), settings={EVIL: EVIL}, result=EVIL
    )
    html = page(report)
    assert html.count("<script") == 2 and 'onerror="' not in html and "<img src=x" not in html


def test_nothing_is_loaded_from_outside() -> None:
    html = page(made_report())
    assert not re.search(r'(?:src|href)="(?!data:|#)', html) and "url(" not in html and "@import" not in html
    assert "default-src 'none'; img-src data:" in unescape(html)
    assert html.startswith("<!doctype html>")


def test_an_empty_film_has_a_page_too() -> None:
    report = made_report(shots=1, found=0)
    assert "Nothing was found" in page(replace(report, shots=(), curves=(), pairs=(), stage_seconds={}, settings={}, files=()))


# ---- how large it is --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long() -> Report:
    """Two hours, 2,000 shots, every one with a finding, a curve and a pair of 30 kB."""
    report = made_report(shots=2000, found=2000)
    one, picture = curve(0, 0, 0, 1500), jpeg(1) * 3
    return replace(
        report,
        curves=tuple(replace(one, shot=n) for n in range(2000)),
        pairs=tuple(Pair(n, 0, n * 90, n * 3.6, "random", picture, picture) for n in range(2000)),
    )


def test_a_film_of_two_hours_stays_below_10_mb(long: Report) -> None:
    assert long.seconds == 7200
    html = page(long)
    assert len(html.encode()) < 10_000_000
    assert html.count('class="plot"') == MOST_PLOTS + 1  # and the stages
    shown = html.count('class="card pair"')
    assert 0 < shown * 2 * len(long.pairs[0].film_jpeg) <= PICTURE_BYTES


def test_plots_of_shots_with_findings_come_before_others() -> None:
    report = made_report(shots=100, found=0)
    bad = replace(made_report(shots=100, found=2).findings[1], shot=90, track=0)
    html = page(replace(report, findings=(bad,), curves=tuple(curve(n, 0, n * 90, 30) for n in range(100))))
    plotted = re.findall(r'<figure class="card" data-shot="(\d+)"', html)
    assert len(plotted) == MOST_PLOTS and plotted == [*map(str, range(1, MOST_PLOTS)), "91"]


# ---- plots ------------------------------------------------------------------------------------------------------------------


def test_thinning_keeps_every_peak_and_every_gap() -> None:
    x = [float(n) for n in range(10_000)]
    y: list[float | None] = [0.0] * 10_000
    y[1234], y[5678] = 9.0, -9.0
    y[3000:3100] = [None] * 100
    kept = thinned(x, y, 400)
    assert len(kept) <= 800 and [a for a, _ in kept] == sorted(a for a, _ in kept)
    assert (1234.0, 9.0) in kept and (5678.0, -9.0) in kept and any(value is None for _, value in kept)


def test_a_gap_breaks_the_line_and_a_lone_point_is_seen() -> None:
    svg = lines([Line("a", [0, 1, 2, 3, 4], [0, 1, None, 1, None])], label="x")
    d = re.findall(r'<path d="([^"]+)" fill="none"', svg)[0]
    assert [piece.count(" ") for piece in d.split("M")[1:]] == [3, 3]


def test_plots_are_well_formed_and_escape_names() -> None:
    made = [
        lines(
            [Line("<b>", [0, 1], [1, 2]), Line("v", [0, 1], [0, 1], GREY, filled=True)],
            label='"&',
            title="<i>",
            marked=[(0.2, 0.4)],
        ),
        bars([Bar("<b> & co", -1.5), Bar("all", 2.0, 0.4)], label="<"),
        lines([], label="none"),
        bars([], label="none"),
    ]
    for svg in made:
        ElementTree.fromstring(svg)
        assert "<b>" not in svg


def test_bars_start_at_zero_and_go_both_ways() -> None:
    svg = bars([Bar("worse", -1.0), Bar("better", 3.0)], label="x")
    assert [tuple(map(float, bar)) for bar in re.findall(r'<rect x="([\d.]+)%" y="\d+" width="([\d.]+)%"', svg)] == [
        (0, 25),
        (25, 75),
    ]


def test_loss_curves_put_training_and_validation_into_one_plot(tmp_path: Path) -> None:
    logged = [{"step": n, "loss/l1": 10 / n, "loss/d": None} for n in range(1, 60)] + [{"step": 59, "val/l1": 0.3}]
    text = "".join(json.dumps(line) + "\n" for line in logged) + '{"step": 60, "loss/l'
    (tmp_path / "metrics.jsonl").write_text(text)
    svg = loss_curves(tmp_path)
    assert svg == loss_curves(tmp_path / "metrics.jsonl")
    assert len(ElementTree.fromstring(svg).findall("{*}svg/{*}svg")) == 2  # l1, d
    assert "l1 by step; at last loss/l1 0.1695, val/l1 0.3" in svg


@pytest.mark.parametrize("colour", [*COLOURS, BLUE, GREY])
@pytest.mark.parametrize("paper", ["#ffffff", "#212121"])
def test_lines_are_seen_on_white_and_on_dark(colour: str, paper: str) -> None:
    """WCAG 1.4.11: 3:1."""
    light, dark = sorted((luminance(colour), luminance(paper)), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 3


def luminance(colour: str) -> float:
    """Relative, WCAG 2."""
    parts = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# ---- in a browser -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as opened:
        yield opened


def written(folder: Path, report: Report) -> Path:
    path = folder / "film.report.html"
    path.write_text(page(report), encoding="utf-8")
    return path


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_the_window_in_either_scheme(browser: Browser, tmp_path: Path, width: int, dark: bool) -> None:
    with browser.open(written(tmp_path, made_report(film="a" * 90 + ".mp4")), width=width, dark=dark) as shown:
        assert shown.overflow_px() == 0
        assert "6 findings in 5 shots" in shown.text("header")
        background = shown.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(22, 22, 22)" if dark else "rgb(241, 241, 241)")
        shown.evaluate("location.hash = '#shot-3'")
        shown.wait("document.querySelector('tr.detail')")
        assert shown.overflow_px() == 0


def test_a_finding_leads_to_its_shot_with_plot_and_picture(browser: Browser, tmp_path: Path) -> None:
    with browser.open(written(tmp_path, made_report(shots=400, found=5))) as shown:
        shown.click('.findings a[href="#shot-161"]')
        shown.wait("document.querySelector('tr.detail')")
        assert "Shot 161" in shown.text("tr.at") and "frozen mouth" in shown.text("tr.detail")
        assert shown.evaluate("document.activeElement.textContent") == "Shot 161"
        assert shown.evaluate("document.querySelectorAll('tr.detail svg.plot').length") == 1
        assert shown.evaluate("document.querySelectorAll('tr.detail .wipe').length") == 1


def test_the_timeline_is_clicked_and_goes_by_keys(browser: Browser, tmp_path: Path) -> None:
    with browser.open(written(tmp_path, made_report(shots=10))) as shown:
        box = shown.evaluate(
            "(() => { const b = document.querySelector('.strip svg').getBoundingClientRect(); return [b.x, b.y, b.width, b.height] })()"
        )
        shown.raw.mouse.click(box[0] + 0.45 * box[2], box[1] + box[3] / 2)
        shown.wait("location.hash === '#shot-5'")
        shown.evaluate("document.getElementById('timeline').focus()")
        shown.press("ArrowRight")
        shown.press("ArrowRight")
        assert "Shot 7, 0:21.6–0:25.2" in shown.text("#shown")
        shown.press("Enter")
        shown.wait("location.hash === '#shot-7'")
        assert shown.evaluate("document.getElementById('timeline').getAttribute('aria-valuenow')") == "7"


def test_the_table_is_sorted_filtered_and_paged(browser: Browser, tmp_path: Path) -> None:
    figures = "[...document.querySelectorAll('#table td[data-name=Jitter]')].map((cell) => parseFloat(cell.textContent)).filter((v) => !isNaN(v))"
    with browser.open(written(tmp_path, made_report(shots=200, found=6))) as shown:
        assert shown.evaluate("document.querySelectorAll('#table tbody tr').length") == 50
        shown.click("#next")
        assert shown.text("#where").startswith("Page 2 of")
        shown.click("#table th:nth-child(9) button")
        values = shown.evaluate(figures)
        assert values == sorted(values, reverse=True) and len(values) == 50
        shown.click("#table th:nth-child(9) button")
        assert (values := shown.evaluate(figures)) == sorted(values)
        assert shown.evaluate("document.querySelector('#table th:nth-child(9)').ariaSort") == "ascending"
        shown.click("#only")
        assert shown.evaluate("document.querySelectorAll('#table tbody tr').length") == 6
        assert shown.text("#count").startswith("6 of")
        shown.fill("#find", "seam")
        assert shown.text("#count").startswith("0 of")
        shown.evaluate("location.hash = '#shot-2'")  # one that the filter hides
        shown.wait("document.querySelector('tr.at')")
        assert not shown.evaluate("document.getElementById('only').checked")


def test_a_picture_is_wiped_by_keys_and_mouse(browser: Browser, tmp_path: Path) -> None:
    with browser.open(written(tmp_path, made_report())) as shown:
        at = "document.querySelector('.wipe').style.getPropertyValue('--at')"
        shown.evaluate("document.querySelector('.wipe input').focus()")
        shown.press("ArrowRight")
        assert shown.evaluate(at) == "51%"
        shown.raw.locator(".wipe").first.click(position={"x": 10, "y": 60})
        assert float(shown.evaluate(at).rstrip("%")) < 10


def test_a_film_named_as_a_script_does_nothing(browser: Browser, tmp_path: Path) -> None:
    report = made_report(film=EVIL, person=EVIL, why=EVIL)
    report = replace(report, findings=tuple(replace(one, text=EVIL) for one in report.findings))
    with browser.open(written(tmp_path, report)) as shown:
        shown.evaluate("location.hash = '#shot-1'")
        shown.wait("document.querySelector('tr.detail')")
        assert shown.evaluate("window.hit === undefined && !document.querySelector('img[src=x]')")
        assert EVIL in shown.text("#table")


def test_thousands_of_shots_stay_quick(browser: Browser, tmp_path: Path, long: Report) -> None:
    with browser.open(written(tmp_path, long), width=390) as shown:
        took_ms = shown.evaluate(
            "(() => { const t = performance.now(); document.querySelectorAll('#table th button')[3].click(); return performance.now() - t })()"
        )
        assert took_ms < 1500  # 30 on a machine that does nothing else
        assert shown.evaluate("document.querySelectorAll('*').length") < 12_000
        assert shown.overflow_px() == 0
