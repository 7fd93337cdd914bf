"""Who gets whose voice in an evaluation, and how its figures are printed."""

import csv
import io
import json
from collections import Counter
from pathlib import Path

import pytest

from musetalk_cli.errors import InputError, UsageError
from musetalk_cli.evaluation.protocol import Wanted, draw, own_voices, read_inputs
from musetalk_cli.evaluation.tables import (
    CITED,
    Evaluation,
    Metric,
    Row,
    System,
    as_csv,
    cited_lines,
    mean_of,
    table,
    totals_of,
)

FILMS = [Path(f"films/{name}.mp4") for name in "abcdefg"]


@pytest.mark.parametrize("seed", range(20))
def test_no_film_gets_its_own_voice_and_every_voice_is_used_once(seed: int) -> None:
    pairs = draw([Wanted(film) for film in FILMS], seed)
    assert Counter(pair.film for pair in pairs) == Counter(pair.voice for pair in pairs) == Counter(FILMS)
    assert not any(pair.own for pair in pairs)


def test_seed_and_names_alone_decide() -> None:
    wanted = [Wanted(film) for film in FILMS]
    assert draw(wanted, 3) == draw(wanted[::-1], 3)
    assert draw(wanted, 3) != draw(wanted, 4)


def test_given_voices_are_drawn_as_evenly_as_may_be() -> None:
    voices = [Path("de.wav"), Path("fr.wav")]
    pairs = draw([Wanted(film) for film in FILMS], 1, voices)
    assert sorted(Counter(pair.voice for pair in pairs).values()) == [3, 4]


@pytest.mark.parametrize("seed", range(10))
def test_films_among_the_given_voices_do_not_get_their_own(seed: int) -> None:
    pairs = draw([Wanted(film) for film in FILMS], seed, FILMS[:3])
    assert not any(pair.own for pair in pairs) and {pair.voice for pair in pairs} == set(FILMS[:3])
    with pytest.raises(UsageError, match="only voice is its own"):
        draw([Wanted(film) for film in FILMS], seed, FILMS[:1])


def test_voice_of_the_manifest_is_not_drawn(tmp_path: Path) -> None:
    manifest = tmp_path / "pairs.csv"
    manifest.write_text("film,voice\na.mp4,b.wav\nc.mp4,\nd.mp4,\n")
    pairs = draw(read_inputs([manifest]), 0)
    told = {(pair.film.name, pair.voice.name) for pair in pairs}
    assert told == {("a.mp4", "b.wav"), ("c.mp4", "d.mp4"), ("d.mp4", "c.mp4")}
    lines = tmp_path / "pairs.jsonl"
    lines.write_text('{"film": "a.mp4", "voice": "b.wav"}\n\n{"film": "c.mp4"}\n{"film": "d.mp4"}\n')
    assert draw(read_inputs([lines]), 0) == pairs


def test_films_of_one_name_have_results_of_their_own() -> None:
    films = [Wanted(Path("one/a.mp4")), Wanted(Path("two/a.mp4"))]
    assert [pair.name for pair in draw(films, 0)] == ["a__a", "a__a-2"]
    assert [pair.name for pair in own_voices(films)] == ["a__own", "a__own-2"]


def test_folder_gives_its_films_and_nothing_else(tmp_path: Path) -> None:
    for name in ("b.mp4", "a.MOV", "notes.txt", ".hidden.mp4"):
        (tmp_path / name).touch()
    assert [line.film.name for line in read_inputs([tmp_path])] == ["a.MOV", "b.mp4"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("a.jsonl", "[1]\n", "no object"),
        ("a.jsonl", "{\n", "no manifest"),
        ("a.jsonl", '{"voice": "a.wav"}\n', "names no film"),
        ("a.jsonl", '{"film": 3}\n', "names no film"),
        ("a.csv", "film,vioce\na.mp4,b.wav\n", "has vioce"),
        ("a.csv", "a.mp4\nb.mp4\n", "has a.mp4"),
    ],
)
def test_bad_manifest_is_refused_with_its_line(tmp_path: Path, name: str, text: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InputError, match=told):
        read_inputs([path])


def test_what_cannot_be_paired_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no film"):
        read_inputs([tmp_path])
    with pytest.raises(InputError, match="no such"):
        read_inputs([tmp_path / "none"])
    with pytest.raises(UsageError, match="no other's voice"):
        draw([Wanted(FILMS[0])], 0)
    with pytest.raises(UsageError, match="named 2 times"):
        read_inputs([FILM, FILM] if (FILM := _touched(tmp_path / "x.mp4")) else [])


def _touched(path: Path) -> Path:
    path.touch()
    return path


METRICS = (Metric("CSIM (SFace)", "higher", 2, "identity"), Metric("FID", "lower", 1, "pictures"))


def made() -> Evaluation:
    rows = (
        Row("a__b", "a.mp4", "b.mp4", 4.0, {"CSIM (SFace)": 0.8, "FID": None}),
        Row("b__a", "b.mp4", "a.mp4", 4.0, {"CSIM (SFace)": None, "FID": None}),
    )
    totals = totals_of(rows, METRICS, {"FID": 12.34})
    return Evaluation("p-1", "musetalk 9", 7, METRICS, (System("lite", rows, totals, ("c__a",)),), (), {})


def test_unmeasured_is_a_dash_and_does_not_count_as_zero() -> None:
    assert mean_of([0.8, None, float("nan")]) == 0.8
    assert mean_of([None]) is None
    lines = table(made(), per_pair=True)
    assert lines[0].split() == ["system", "pair", "n", "CSIM", "(SFace)↑", "FID↓"]
    assert [line.split() for line in lines[1:4]] == [
        ["lite", "a__b", "1", "0.80", "-"],
        ["lite", "b__a", "1", "-", "-"],
        ["lite", "all", "2", "0.80", "12.3"],
    ]
    assert any("no result for c__a" in line for line in lines)


def test_csv_and_json_hold_what_the_table_holds() -> None:
    found = made()
    read = list(csv.DictReader(io.StringIO(as_csv(found))))
    assert [line["pair"] for line in read] == ["a__b", "b__a", "all"]
    assert read[0]["CSIM (SFace)"] == "0.8" and read[1]["CSIM (SFace)"] == "" and read[2]["FID"] == "12.34"
    told = json.loads(json.dumps(found.as_json()))
    assert told["systems"][0]["totals"]["FID"] == 12.34 and told["seed"] == 7


def test_published_rows_are_printed_as_cited() -> None:
    lines = cited_lines()
    assert "cited, not measured here" in lines[0]
    assert len(lines) == 2 + sum(len(rows) for rows in CITED.values()) == 18
    assert ["HDTF", "MuseTalk", "6.52", "0.86", "6.53"] in [line.split() for line in lines]
