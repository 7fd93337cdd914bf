"""The user study: who sees what, that nobody can tell the methods, what the raters' files come to, and the page in a real browser."""

import csv
import io
import json
import random
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import pytest
from browser import WIDTHS, Browser, Page, open_browser
from conftest import run_tool

from musetalk_cli.errors import InputError, OutputExistsError, UsageError
from musetalk_cli.study.build import Built, StudyConfig, build
from musetalk_cli.study.orders import Layout, draw_orders
from musetalk_cli.study.tally import as_csv, holm, table_lines, tally

METHODS = ("MuseTalk", "Wav2Lip", "LatentSync")
CLIPS = ("anna", "bert")
MEDIA = "document.querySelectorAll('video')"


# ---- orders -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("methods", [2, 3, 5])
@pytest.mark.parametrize("per_rater", [1, 4, 7])
def test_side_by_side_no_label_stays_with_its_method(methods: int, per_rater: int) -> None:
    for order in draw_orders(random.Random(1), 60, 7, methods, layout="side-by-side", per_rater=per_rater):
        assert len({screen.source for screen in order}) == len(order) == per_rater
        assert all(sorted(screen.methods) == list(range(methods)) for screen in order)
        assert not any(a == b for one, two in pairwise(order) for a, b in zip(one.methods, two.methods, strict=True))


@pytest.mark.parametrize("methods", [2, 3, 5])
def test_one_by_one_neither_method_nor_source_comes_twice_in_a_row(methods: int) -> None:
    for order in draw_orders(random.Random(1), 60, 6, methods, layout="single", per_rater=6):
        clips = [(screen.source, *screen.methods) for screen in order]
        assert sorted(clips) == [(source, method) for source in range(6) for method in range(methods)]
        pairs = list(pairwise(clips))
        assert not any(one[1] == two[1] for one, two in pairs)
        assert sum(one[0] == two[0] for one, two in pairs) <= 1  # the last may have no other source left


@pytest.mark.parametrize("layout", ["side-by-side", "single"])
def test_a_single_method_and_a_single_source_are_orders_too(layout: Layout) -> None:
    (alone,) = draw_orders(random.Random(0), 1, 3, 1, layout=layout, per_rater=3)
    assert sorted(alone) == [(source, (0,)) for source in range(3)]
    (one,) = draw_orders(random.Random(0), 1, 1, 3, layout=layout, per_rater=1)
    assert sorted(method for screen in one for method in screen.methods) == [0, 1, 2]


def test_every_source_and_every_label_is_seen_as_often() -> None:
    orders = draw_orders(random.Random(2), 300, 7, 3, layout="side-by-side", per_rater=4)
    seen = Counter(screen.source for order in orders for screen in order)
    assert max(seen.values()) - min(seen.values()) <= 1
    first = Counter(screen.methods[0] for order in orders for screen in order)
    assert all(330 < count < 470 for count in first.values())  # 400 each of 1200, give or take four deviations
    assert len(set(orders)) == 300


# ---- the folder -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="films")
def _films(tmp_path_factory: pytest.TempPathFactory, make_film: Callable[..., Path]) -> Path:
    """A folder a method, of which one has what no browser plays; tags and encoder's notes name the methods."""
    folder = tmp_path_factory.mktemp("films")
    for method in (*METHODS, "original"):
        folder.joinpath(method).mkdir()
    for name in CLIPS:
        made = make_film(folder / f"{name}.mp4", frames=8, audio="aac")
        for method in ("MuseTalk", "Wav2Lip", "original"):
            _tagged(made, folder / method / f"{name}.mp4", method)
        made.unlink()
        made = make_film(
            folder / f"{name}.mkv", frames=8, audio="pcm_s16le", codec="libx265", options={"x265-params": "log-level=none"}
        )
        _tagged(made, folder / "LatentSync" / f"{name}.mkv", "LatentSync")
        made.unlink()
    return folder


def _tagged(film: Path, path: Path, name: str) -> None:
    run_tool("-i", str(film), "-c", "copy", "-metadata", f"title={name}", "-metadata:s", f"handler_name={name}", str(path))


@pytest.fixture(scope="module", name="built")
def _built(films: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build({name: films / name for name in METHODS}, tmp_path_factory.mktemp("study") / "out", reference=films / "original")


def test_nothing_handed_out_tells_a_method_or_a_source(built: Built) -> None:
    files = [path for path in built.page.rglob("*") if path.is_file()]
    assert len(files) == 1 + 4 * len(CLIPS)
    for path in files:
        told = path.read_bytes().lower() + path.name.encode()
        for name in (*METHODS, *CLIPS, "x264", "x265", "films"):
            assert name.lower().encode() not in told, f"{name} in {path.name}"
    assert {path.suffix for path in files} == {".mp4", ".html"}
    assert len({path.stat().st_mtime for path in files if path.suffix == ".mp4"}) == 1


def test_page_does_not_tell_which_clips_are_of_one_method(built: Built) -> None:
    """Clips are one list by their random names, and nothing else is said of them."""
    key = json.loads(built.key.read_text())
    data = _data(built)
    assert data["clips"] == sorted([*key["clips"], *key["originals"]])
    assert set(data) == {"study", "format", "mustWatch", "clips", "orders"}


def test_every_order_shows_each_source_beside_its_original(built: Built) -> None:
    key, data = json.loads(built.key.read_text()), _data(built)
    for order in data["orders"]:
        for original, clips in order:
            shown = [key["clips"][data["clips"][clip]] for clip in clips]
            assert {clip["source"] for clip in shown} == {key["originals"][data["clips"][original]]}
            assert sorted(clip["method"] for clip in shown) == sorted(METHODS)


def test_only_what_browsers_do_not_play_is_coded_anew(built: Built, films: Path) -> None:
    assert {coded.path.parent.name for coded in built.coded} == {"LatentSync"}
    assert {coded.why for coded in built.coded} == {"picture is hevc yuv420p, sound is pcm_s16le"}
    key = json.loads(built.key.read_text())
    for name, clip in key["clips"].items():
        given = films / clip["method"] / f"{clip['source']}{'.mkv' if clip['method'] == 'LatentSync' else '.mp4'}"
        assert _pictures(built.page / "clips" / f"{name}.mp4") == pytest.approx(_pictures(given), abs=2)


def _pictures(path: Path) -> list[float]:
    with av.open(str(path)) as film:
        return [float(frame.to_ndarray(format="gray").mean()) for frame in film.decode(video=0)]


def _data(built: Built) -> Any:
    page = (built.page / "index.html").read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="study">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


def test_seed_makes_the_same_study_of_the_same_files(films: Path, tmp_path: Path) -> None:
    methods = {name: films / name for name in METHODS[:2]}
    one, same, other, unseeded = (
        build(methods, tmp_path / name, config=StudyConfig(seed=seed))
        for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", None))
    )
    assert one.study == same.study and one.key.read_text() == same.key.read_text()
    assert len({one.study, other.study, unseeded.study}) == 3


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"config": StudyConfig(title="Is musetalk better?")}, "names this method"),
        ({"config": StudyConfig(note="wav2lip and another")}, "names this method"),
        ({"config": StudyConfig(per_rater=3)}, "there are 2 sources"),
        ({"config": StudyConfig(per_rater=0)}, "there are 2 sources"),
        ({"reference": Path("nowhere")}, "no such folder"),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_nothing(change: dict[str, Any], told: str, films: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        build({name: films / name for name in METHODS}, tmp_path / "out", **change)
    assert list(tmp_path.iterdir()) == []


def test_clip_that_a_method_lacks_is_refused_or_left_out_aloud(films: Path, tmp_path: Path) -> None:
    shutil.copytree(films / "Wav2Lip", tmp_path / "less")
    (tmp_path / "less" / "bert.mp4").unlink()
    methods = {"MuseTalk": films / "MuseTalk", "less": tmp_path / "less"}
    with pytest.raises(UsageError, match=r"bert: not in .*less"):
        build(methods, tmp_path / "out")
    built = build(methods, tmp_path / "out", config=StudyConfig(skip_missing=True))
    assert built.sources == 1
    assert built.skipped == (f"bert: not in {tmp_path / 'less'}",)


def test_clip_without_sound_is_refused_and_leaves_nothing(films: Path, tmp_path: Path, make_film: Callable[..., Path]) -> None:
    (tmp_path / "mute").mkdir()
    make_film(tmp_path / "mute" / "anna.mp4", frames=3)
    with pytest.raises(InputError, match="no sound"):
        build({"mute": tmp_path / "mute"}, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["mute"]


def test_clip_without_a_picture_that_can_be_read_is_refused(films: Path, tmp_path: Path) -> None:
    """Its first frames are lacking, on which the others build."""
    (tmp_path / "cut").mkdir()
    with av.open(str(films / "LatentSync" / "anna.mkv")) as given, av.open(str(tmp_path / "cut" / "anna.mkv"), "w") as new:
        kept = [new.add_stream_from_template(stream) for stream in given.streams]
        for packet in given.demux():
            if packet.dts is not None:
                packet.stream = kept[packet.stream.index]
                new.mux(packet)
    with pytest.raises(InputError, match="not one picture"):
        build({"cut": tmp_path / "cut"}, tmp_path / "out")


def test_folder_that_holds_something_is_not_written_over(films: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(OutputExistsError):
        build({"MuseTalk": films / "MuseTalk"}, tmp_path)


# ---- the tally --------------------------------------------------------------------------------------------------------------

SCORES = {  # rater -> method -> source -> (VQ, IC, LSQ)
    "r1": {"good": {"a": (5, 5, 5), "b": (4, 5, 4)}, "bad": {"a": (2, 3, 1), "b": (3, 3, 2)}},
    "r2": {"good": {"a": (4, 4, 5), "b": (4, 4, 4)}, "bad": {"a": (3, 4, 2), "b": (4, 4, 2)}},
    "r3": {"good": {"a": (5, 4, 4), "b": (5, 4, 3)}, "bad": {"a": (1, 4, 3), "b": (2, 4, 4)}},
}


@pytest.fixture(name="key")
def _key(tmp_path: Path) -> Path:
    clips = {f"{method}-{source}": {"method": method, "source": source} for method in ("bad", "good") for source in "ab"}
    path = tmp_path / "key.json"
    path.write_text(
        json.dumps({"study": "s1", "format": 1, "methods": {"bad": "x", "good": "y"}, "clips": clips, "originals": {}})
    )
    return path


def saved(folder: Path, who: str, *, name: str = "", **change: Any) -> Path:
    ratings = [
        {"clip": f"{method}-{source}", "screen": 1, "place": 1, **dict(zip(("VQ", "IC", "LSQ"), scores, strict=True))}
        for method, sources in SCORES[who].items()
        for source, scores in sources.items()
    ]
    told = {"study": "s1", "format": 1, "rater": who, "saved": "2026-01-01T00:00:00Z", "asked": 4, "ratings": ratings} | change
    path = folder / f"{name or who}.json"
    path.write_text(json.dumps(told))
    return path


def test_table_2_equals_what_was_computed_by_hand(tmp_path: Path, key: Path) -> None:
    table = tally([saved(tmp_path, rater) for rater in SCORES], key)
    good, bad = table.rows  # the better lip-sync first
    assert (good.method, good.raters, good.ratings) == ("good", 3, 6)
    assert (good.vq.mean, good.ic.mean, good.lsq.mean) == pytest.approx((27 / 6, 26 / 6, 25 / 6))
    assert (bad.vq.mean, bad.ic.mean, bad.lsq.mean) == pytest.approx((15 / 6, 22 / 6, 14 / 6))
    # Raters' means of VQ for `bad`: 2.5, 3.5, 1.5; deviation 1, error 1/sqrt(3), t of 2 degrees 4.3027: 2.5 -+ 2.484, cut at 1
    assert (bad.vq.low, bad.vq.high) == pytest.approx((1.0, 4.984), abs=1e-3)
    assert (good.ic.low, good.ic.high) == pytest.approx((13 / 3 - 1.434, 5.0), abs=1e-3)  # 5, 4, 4: deviation 0.577, error 1/3
    assert table.warnings == ()


def test_methods_are_compared_within_raters(tmp_path: Path, key: Path) -> None:
    vq, ic, lsq = tally([saved(tmp_path, rater) for rater in SCORES], key).comparisons
    assert (vq.method, vq.other, vq.question, vq.raters) == ("good", "bad", "VQ", 3)
    assert vq.difference == pytest.approx((2.0 + 0.5 + 3.5) / 3)
    assert vq.preferred == pytest.approx(5.5 / 6)
    assert ic.preferred == pytest.approx((2 + 4 * 0.5) / 6)
    assert vq.p == pytest.approx(2 / 8)  # three raters of one mind: the least p there is
    assert (vq.p_holm, lsq.p_holm, ic.p_holm) == pytest.approx((0.75, 1.0, 1.0))


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ([], []),
        ([0.03], [0.03]),
        ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]),
        ([0.5, None, 0.4], [0.8, None, 0.8]),
        ([0.9, 0.8], [1.0, 1.0]),
    ],
)
def test_holm_corrects_for_the_number_of_tests(p: list[float | None], corrected: list[float | None]) -> None:
    assert holm(p) == pytest.approx(corrected)


def test_rater_who_saw_less_weighs_as_much_as_the_others(tmp_path: Path, key: Path) -> None:
    one, two = saved(tmp_path, "r1"), saved(tmp_path, "r2")
    told = json.loads(two.read_text())
    told["ratings"] = [rating for rating in told["ratings"] if rating["clip"].endswith("a")]
    two.write_text(json.dumps(told))
    table = tally([one, two], key)
    assert table.rows[0].vq.mean == pytest.approx((4.5 + 4) / 2)
    assert table.rows[0].ratings == 3
    assert table.warnings == (f"{two}: unfinished, 2 of 4 clips",)


def test_clip_with_an_answer_missing_is_not_counted(tmp_path: Path, key: Path) -> None:
    path = saved(tmp_path, "r1")
    told = json.loads(path.read_text())
    del told["ratings"][0]["IC"]
    path.write_text(json.dumps(told))
    table = tally([path], key)
    assert table.ratings == 3
    assert "3 of 4" in table.warnings[0]


def test_rater_counts_once_by_the_last_file(tmp_path: Path, key: Path) -> None:
    later = saved(tmp_path, "r2", name="later", rater=" R1 ", saved="2026-01-02T00:00:00Z")
    table = tally([later, saved(tmp_path, "r1")], key)
    assert (table.raters, table.ratings) == (1, 4)
    assert table.rows[0].vq.mean == 4
    assert table.rows[0].vq.low is None  # one rater has no interval
    assert all(one.p is None for one in table.comparisons)
    assert "same rater" in table.warnings[0]


def test_methods_that_nobody_told_apart_have_p_one(tmp_path: Path, key: Path) -> None:
    same = [{"clip": f"{method}-a", "VQ": 3, "IC": 3, "LSQ": 3} for method in ("good", "bad")]
    files = [saved(tmp_path, rater, ratings=same, asked=2) for rater in SCORES]
    assert [one.p for one in tally(files, key).comparisons] == [1.0] * 3


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        ({"study": "s2"}, UsageError, "of study s2"),
        ({"format": 2}, InputError, "format 2"),
        ({"ratings": [{"clip": "other", "VQ": 1, "IC": 1, "LSQ": 1}]}, InputError, "no clip other"),
        ({"ratings": [{"clip": "bad-a", "VQ": 6, "IC": 1, "LSQ": 1}]}, InputError, "scores"),
        ({"ratings": [{"clip": "bad-a", "VQ": "3", "IC": 1, "LSQ": 1}]}, InputError, "scores"),
        ({"ratings": [{"clip": "bad-a", "VQ": 1, "IC": 1, "LSQ": 1}] * 2}, InputError, "rated twice"),
        ({"ratings": 3}, InputError, "no ratings"),
    ],
)
def test_files_that_are_not_of_this_study_are_refused(
    change: dict[str, Any], error: type[Exception], told: str, tmp_path: Path, key: Path
) -> None:
    with pytest.raises(error, match=told):
        tally([saved(tmp_path, "r1", **change)], key)


@pytest.mark.parametrize(("text", "told"), [("{", "JSON"), ("[]", "no object"), ("{}", "no key")])
def test_damaged_key_is_refused(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "key.json").write_text(text)
    with pytest.raises(InputError, match=told):
        tally([tmp_path / "any.json"], tmp_path / "key.json")


def test_table_is_printed_and_written(tmp_path: Path, key: Path) -> None:
    table = tally([saved(tmp_path, rater) for rater in SCORES], key)
    lines = table_lines(table)
    assert lines[0].split() == ["method", "VQ↑", "IC↑", "LSQ↑", "ratings", "raters"]
    assert lines[1].startswith("good") and "4.50 [" in lines[1]
    assert any("Holm" in line for line in lines)
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert float(rows[1]["VQ"]) == pytest.approx(2.5) and rows[1]["method"] == "bad"
    assert json.loads(json.dumps(table.as_json()))["rows"][0]["lsq"]["mean"] == pytest.approx(25 / 6)


# ---- in a browser -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", name="browser")
def _browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


def begin(page: Page, rater: str) -> None:
    page.fill("#rater", rater)
    page.press("Enter")
    page.wait(f"{MEDIA}.length")


def begin_and_load(page: Page, rater: str) -> None:
    begin(page, rater)
    page.wait(f"[...{MEDIA}].every((video) => video.readyState >= 2)")


def play_all(page: Page) -> None:
    """Each clip that is to be rated, one after the other, as its own controls would."""
    for number in range(page.evaluate(f"{MEDIA}.length")):
        page.evaluate(f"{MEDIA}[{number}].playbackRate = 8; {MEDIA}[{number}].play()")
        page.wait(f"{MEDIA}[{number}].ended")
    page.wait("!document.querySelector('.scale:disabled')")


def rate_all(page: Page, score: int) -> None:
    for scale in page.raw.locator(".scale").all():
        scale.locator(f"input[value='{score}']").check()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window(browser: Browser, built: Built, width: int, dark: bool, tmp_path: Path) -> None:
    with browser.open(built.page / "index.html", width=width, dark=dark) as page:
        light = page.evaluate("Math.max(...getComputedStyle(document.body).backgroundColor.match(/\\d+/g))") > 128
        assert light is not dark
        for number, step in enumerate(
            (lambda: None, lambda: begin(page, "x"), lambda: page.click("#next"), lambda: page.click("#stop"))
        ):
            step()
            page.screenshot(tmp_path / f"{number}.png")
            assert page.overflow_px() == 0
            assert page.evaluate(
                "[...document.querySelectorAll('.card, .row')].every((part) => part.scrollWidth <= part.clientWidth)"
            )


@pytest.mark.parametrize(("width", "dark"), [(WIDTHS[0], False), (WIDTHS[1], True)])
def test_study_is_done_in_a_browser_and_tallied(browser: Browser, built: Built, width: int, dark: bool, tmp_path: Path) -> None:
    with browser.open(built.page / "index.html", width=width, dark=dark) as page:
        begin_and_load(page, "Rater 7")
        for number in range(1, len(CLIPS) + 1):
            assert page.text("#where") == f"{number} of {len(CLIPS)}"
            page.click("#next")
            assert "not been played" in page.text("#clips")
            play_all(page)
            rate_all(page, 5 - number)
            page.click("#next")
        assert page.text("#count") == "You rated 6 of 6 clips."
        path = page.download("#save", tmp_path)
        assert json.loads(path.read_text()) == json.loads(page.evaluate("document.querySelector('#text').value"))
    table = tally([path], built.key)
    assert {row.method: (row.ratings, row.vq.mean) for row in table.rows} == dict.fromkeys(METHODS, (2, 3.5))
    assert table.warnings == ()


def test_clip_must_be_played_whole_and_alone(browser: Browser, built: Built) -> None:
    with browser.open(built.page / "index.html") as page:
        begin_and_load(page, "x")
        page.evaluate(f"{MEDIA}[1].currentTime = {MEDIA}[1].duration - 0.05")
        page.evaluate(f"{MEDIA}[1].play()")
        page.wait(f"{MEDIA}[1].ended")
        page.wait("document.querySelector('#clips').innerText.includes('Parts were skipped')")
        assert page.evaluate("document.querySelectorAll('.scale:disabled').length") == 3 * len(METHODS)
        page.evaluate(f"{MEDIA}[1].loop = true; {MEDIA}[1].play()")
        page.evaluate(f"{MEDIA}[2].play()")
        page.wait(f"{MEDIA}[1].paused && {MEDIA}[2].currentTime > 0")


def test_keys_rate_and_what_was_chosen_outlives_a_reload(browser: Browser, built: Built) -> None:
    with browser.open(built.page / "index.html") as page:
        begin_and_load(page, "Ann")
        play_all(page)
        page.evaluate("document.querySelector('.scale input').focus()")
        for score in "425":
            page.press(score)
            page.press("Tab")
        assert _chosen(page)[:4] == [4, 2, 5, None]
        page.evaluate(
            "new Promise((go) => setTimeout(go, 1000))"
        )  # a busy Chromium hands what is stored to the next page a moment later
        page.reload()
        assert page.evaluate("document.querySelector('#rater').value") == "Ann"
        page.press("Tab")
        begin(page, "ann")  # the same rater
        assert _chosen(page)[:4] == [4, 2, 5, None]
        assert page.evaluate("document.querySelectorAll('.scale:disabled').length") == 0
        page.click("#stop")
        assert page.text("#count") == "You rated 1 of 6 clips."
        page.click("#again")
        assert _chosen(page)[:3] == [4, 2, 5]


def _chosen(page: Page) -> list[int | None]:
    script = "[...document.querySelectorAll('.scale')].map((s) => +(s.querySelector(':checked')?.value ?? 0) || null)"
    return list(page.evaluate(script))


def test_next_says_what_is_missing_and_goes_there(browser: Browser, built: Built) -> None:
    with browser.open(built.page / "index.html") as page:
        begin_and_load(page, "x")
        play_all(page)
        rate_all(page, 3)
        page.evaluate("document.querySelectorAll('.scale')[4].querySelector(':checked').checked = false")
        page.click("#next")
        assert "Identity is not rated yet" in page.text(".card:nth-child(3) .state")
        assert page.evaluate("document.querySelectorAll('.scale')[4].contains(document.activeElement)")


def test_raters_get_orders_of_their_own_and_the_same_each_time(browser: Browser, built: Built) -> None:
    with browser.open(built.page / "index.html") as page:

        def shown(rater: str) -> tuple[str, ...]:
            page.reload()
            begin(page, rater)
            return tuple(page.evaluate("[...document.querySelectorAll('.card')].map((card) => card.dataset.clip)"))

        assert shown("1") == shown(" 1 ")
        assert len({shown(str(number)) for number in range(4)}) > 1


def test_clips_one_at_a_time_without_a_letter(browser: Browser, films: Path, tmp_path: Path) -> None:
    config = StudyConfig(layout="single", must_watch=False, per_rater=1)
    built = build({name: films / name for name in METHODS[:2]}, tmp_path / "out", config=config)
    with browser.open(built.page / "index.html") as page:
        assert "Letters" not in page.text("#start")
        begin(page, "x")
        for number in (1, 2):
            assert page.text("#where") == f"{number} of 2"
            assert page.text(".card h2") == "Clip"
            rate_all(page, 5)
            page.click("#next")
        assert page.text("#count") == "You rated 2 of 2 clips."


def test_every_control_has_a_name(browser: Browser, built: Built) -> None:
    with browser.open(built.page / "index.html") as page:
        begin(page, "x")
        told = page.raw.locator("main").aria_snapshot()
        assert 'group "Lip-sync of Clip C"' in told
        assert 'radio "5 excellent"' in told
