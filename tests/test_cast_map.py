"""Promises of the cast map: what a person can mean is understood; what nobody can mean is refused, with the entry and the cure."""

import tomllib
from fractions import Fraction
from pathlib import Path

import pytest

from musetalk_cli.cast_map import (
    ALL_CHANNELS,
    CastMap,
    CastRange,
    VoiceFile,
    letters,
    parse_clock,
    quoted,
    read_cast,
    with_voices,
)
from musetalk_cli.errors import InputError, MusetalkError, UsageError

WHOLE = """
film = "film.mp4"
analysis = "0123456789abcdef"

[[person]]
name = "Anna Ö."
faces = ["A", "D"]
still = "film.cast/A.jpg"
voice = "voices/anna.wav"
channel = 1
silence = "closed"

[[person]]
name = "paul"
faces = ["B"]

[[range]]
person = "paul"
from = "0:01:02.5"
to = 64
voice = "/elsewhere/paul.wav"

[[range]]
from = 70.25
to = 00:01:11  # TOML's own time of day
pass = true
"""
ANNA = '[[person]]\nname = "anna"\n'
TIMES = 'from = "0:01"\nto = "0:02"\n'


def cast(folder: Path, text: str) -> CastMap:
    path = folder / "cast.toml"
    path.write_text(text, encoding="utf-8")
    return read_cast(path)


def test_everything_that_can_be_said_is_understood(tmp_path: Path) -> None:
    found = cast(tmp_path, WHOLE)
    assert found.analysis == "0123456789abcdef"
    anna, paul = found.persons
    assert (anna.name, anna.faces, anna.silence) == ("Anna Ö.", ("A", "D"), "closed")
    assert anna.still == tmp_path / "film.cast" / "A.jpg"
    assert anna.voice == VoiceFile(tmp_path / "voices" / "anna.wav", 1)
    assert (paul.name, paul.faces, paul.still, paul.voice, paul.silence) == ("paul", ("B",), None, None, "auto")
    assert found.ranges == (
        CastRange(Fraction(125, 2), Fraction(64), "paul", voice=VoiceFile(Path("/elsewhere/paul.wav"), ALL_CHANNELS)),
        CastRange(Fraction(281, 4), Fraction(71), passes=True),
    )


def test_every_voice_is_told_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = (
        f'{ANNA}voice = "a.wav"\n[[person]]\nname = "bert"\nvoice = "a.wav"\nchannel = 1\n'
        f'[[person]]\nname = "carl"\nvoice = "a.wav"\n[[range]]\n{TIMES}voice = "b.wav"\n'
    )
    a, b = tmp_path / "a.wav", tmp_path / "b.wav"
    assert cast(tmp_path, text).voices() == (VoiceFile(a), VoiceFile(a, 1), VoiceFile(b))


@pytest.mark.parametrize(
    ("text", "fact", "cure"),
    [
        ("[[person]\n", "line 1", "mend that line; `musetalk inspect` drafts a new file"),
        ("", "no [[person]]", "give each person a name"),
        ('film = "f.mp4"\n', "no [[person]]", "give each person a name"),
        (f"fps = 25\n{ANNA}", "the file: no such key 'fps'", "choose from analysis, film, person, range"),
        ('[person]\nname = "anna"\n', "person is no list of tables", "begin each with [[person]]"),
        ('person = ["anna"]\n', "person is no list of tables", "begin each with [[person]]"),
        (f"{ANNA}[range]\n{TIMES}", "range is no list of tables", "begin each with [[range]]"),
        (ANNA + ANNA, "two persons of one name", "give each person a name"),
        ('[[person]]\nfaces = ["A"]\n', "person '': needs a name", 'write name = "anna"'),
        ('[[person]]\nname = "a=b"\n', "person 'a=b': needs a name without '='", 'write name = "anna"'),
        (f'{ANNA}faces = "A"\n', "person 'anna': faces is no list of letters", 'write faces = ["A"]'),
        (f"{ANNA}faces = [1]\n", "faces is no list of letters", 'write faces = ["A"]'),
        (
            f'{ANNA}face = ["A"]\n',
            "person 'anna': no such key 'face'",
            "choose from channel, consent, faces, name, silence, still, voice",
        ),
        (
            f'{ANNA}faces = ["A"]\n[[person]]\nname = "bert"\nfaces = ["B", "A"]\n',
            "a face belongs to two persons",
            "leave each letter with one of them",
        ),
        (f"{ANNA}channel = 1\n", "person 'anna': a channel without a voice", "add voice = PATH"),
        (f'{ANNA}voice = "a.wav"\nchannel = -2\n', "channel -2", "channels are counted from 0"),
        (f'{ANNA}voice = "a.wav"\nchannel = "left"\n', "channel 'left'", "channels are counted from 0"),
        (f'{ANNA}voice = "a.wav"\nchannel = true\n', "channel True", "channels are counted from 0"),
        (f'{ANNA}silence = "quiet"\n', "person 'anna': silence 'quiet'", "choose from auto, original, closed"),
        (f'{ANNA}[[range]]\n{TIMES}until = "0:03"\n', "range from 0:01: no such key 'until'", "choose from channel, from, pass"),
        (
            f'{ANNA}[[range]]\nfrom = "0:01"\n',
            "range from 0:01: needs from and to ('to')",
            'write them as "0:01:02.5" or seconds',
        ),
        (f'{ANNA}[[range]]\nto = "0:01"\n', "range from ?: needs from and to ('from')", 'write them as "0:01:02.5" or seconds'),
        (f'{ANNA}[[range]]\nfrom = "soon"\nto = 2\n', "'soon' is no time", 'write them as "0:01:02.5" or seconds'),
        (f"{ANNA}[[range]]\nfrom = -1\nto = 2\n", "-1 is no time", 'write them as "0:01:02.5" or seconds'),
        (f"{ANNA}[[range]]\nfrom = 2\nto = 2\n", "range from 2: ends at 2, before it begins", "mend from and to"),
        (f"{ANNA}[[range]]\n{TIMES}pass = 1\n", "pass is neither true nor false", "write pass = true"),
        (f'{ANNA}[[range]]\n{TIMES}person = "bert"\n', "range from 0:01: nobody is called 'bert'", "choose from anna"),
        (f"{ANNA}[[range]]\n{TIMES}", "range from 0:01: changes nothing", "give it pass = true"),
        (f'{ANNA}[[range]]\nfrom = "0:00:99"\nto = "3:00"\npass = true\n', "60 or more where only 59 fit", "write them as"),
        (f'{ANNA}[[range]]\nfrom = "0:01"\nto = "1:75"\npass = true\n', "60 or more where only 59 fit", "write them as"),
        (f'{ANNA}voice = "v.wav"\nchannel = -1\n', "channel -1", "channels are counted from 0"),
        (f"{ANNA}[[range]]\n{TIMES}channel = 0\npass = true\n", "range from 0:01: a channel without a voice", "add voice = PATH"),
        (f'{ANNA}[[range]]\n{TIMES}silence = ""\n', "range from 0:01: silence ''", "choose from auto, original, closed"),
    ],
)
def test_what_nobody_can_mean_is_refused_with_the_entry_and_the_cure(tmp_path: Path, text: str, fact: str, cure: str) -> None:
    error = refused(UsageError, tmp_path / "cast.toml", text.encode())
    assert error.fact.startswith(f"{tmp_path / 'cast.toml'}: ")
    assert fact in error.fact
    assert str(error.cure).startswith(cure)


def refused(kind: type[MusetalkError], path: Path, content: bytes | None) -> MusetalkError:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind) as caught:
        read_cast(path)
    return caught.value


def test_a_file_that_cannot_be_read_is_told_as_one(tmp_path: Path) -> None:
    missing = refused(InputError, tmp_path / "none.toml", None)
    assert "No such file" in missing.fact
    assert missing.cure == "give the file that `musetalk inspect` drafted"
    refused(InputError, tmp_path, None)  # a folder
    refused(UsageError, tmp_path / "cast.toml", b'film = "\xff"\n')  # no UTF-8


# voices of the command line


def test_a_named_voice_takes_the_place_of_the_files(tmp_path: Path) -> None:
    a, p = tmp_path / "a.wav", tmp_path / "p.wav"
    voiced = with_voices(cast(tmp_path, WHOLE), {"paul": p, "Anna Ö.": a})
    assert [person.voice for person in voiced.persons] == [VoiceFile(a), VoiceFile(p)]
    assert voiced.persons[0].silence == "closed"
    kept = with_voices(cast(tmp_path, WHOLE), {"paul": p})
    assert kept.persons[0].voice == VoiceFile(tmp_path / "voices" / "anna.wav", 1)


def test_a_file_under_two_names_is_one_voice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be heard twice as loud."""
    (tmp_path / "a.wav").touch()
    (tmp_path / "link.wav").symlink_to("a.wav")
    monkeypatch.chdir(tmp_path)
    text = f'{ANNA}[[person]]\nname = "bert"\nvoice = "link.wav"\n[[range]]\n{TIMES}voice = "../{tmp_path.name}/a.wav"\n'
    assert with_voices(cast(tmp_path, text), {"anna": Path("a.wav")}).voices() == (VoiceFile(tmp_path / "a.wav"),)


def test_a_name_that_nobody_has_is_refused_with_the_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is called 'pual'") as caught:
        with_voices(cast(tmp_path, WHOLE), {"pual": Path("p.wav")})
    assert (caught.value.thing, caught.value.cure) == ("--audio", "choose from Anna Ö., paul")


def test_a_cast_without_a_voice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nobody in the cast has a voice") as caught:
        with_voices(cast(tmp_path, ANNA), {})
    assert caught.value.thing == str(tmp_path / "cast.toml")
    assert "--audio NAME=PATH" in str(caught.value.cure)


def test_a_voice_of_a_range_alone_is_a_voice(tmp_path: Path) -> None:
    voiced = with_voices(cast(tmp_path, f'{ANNA}[[range]]\n{TIMES}voice = "a.wav"\n'), {})
    assert voiced.voices() == (VoiceFile(tmp_path / "a.wav"),)


# clocks, letters, strings


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1:02:03.5", Fraction(7447, 2)),
        ("2:03.25", Fraction(493, 4)),
        ("3.5", Fraction(7, 2)),
        ("90:00", 5400),
        ("0:00:00", 0),
        ("00:00:01.0416666", Fraction(10416666, 10**7)),
        (12, 12),
        (12.5, Fraction(25, 2)),
        (0.1, Fraction(1, 10)),  # as it is written, not the float beside it
    ],
)
def test_a_clock_is_exact(text: str | float, seconds: Fraction | int) -> None:
    assert parse_clock(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "soon", "1:2:3:4", "-1", "1:-2", ":30", "1:", "1.", "1,5", "1:02:03 ", "1h", True, float("inf")]
)
def test_what_is_no_clock_is_refused(text: str | float) -> None:
    with pytest.raises(ValueError, match="is no time"):
        parse_clock(text)


def test_persons_have_letters() -> None:
    told = [letters(number) for number in (0, 1, 25, 26, 27, 51, 52, 701, 702)]
    assert told == ["A", "B", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA"]
    assert len({letters(number) for number in range(2000)}) == 2000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "film.mp4",
        'a "b" c',
        "back\\slash\\",
        "two\nlines\ttab\r",
        "фильм 映画 é",
        "\x00\x07\x7f\x85\u2028",
        "🎬",
        "\U000f0000x",
        "#=[]'",
    ],
)
def test_any_string_comes_back_out_of_toml_as_it_was(text: str) -> None:
    assert tomllib.loads(f"x = {quoted(text)}")["x"] == text
    assert "\n" not in quoted(text)


def test_a_name_that_is_no_utf_8_can_still_be_written() -> None:
    written = quoted("film\udcff.mp4")
    assert tomllib.loads(f"x = {written}")["x"] == "film\ufffd.mp4"
    written.encode("utf-8")
