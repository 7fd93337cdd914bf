"""A user study as a page. In: folders of results of several methods. Out: a folder for the raters, and the key that stays with us.

    OUT/page/index.html          works from the disk, without a network; names no method
    OUT/page/clips/<random>.mp4  pictures and sound alone: no tags, no encoder's notes, all of one date
    OUT/key.json                 which clip is of which method; the raters must not have it, so it is not under page/

Knows nothing of how the results were made or what the raters say.
"""

import json
import os
import random
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import ffmpeg
from jinja2 import Environment, PackageLoader, StrictUndefined

from musetalk_cli import __version__
from musetalk_cli.errors import InputError, OutputExistsError, UsageError
from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg
from musetalk_cli.media.video import open_film, picture_of
from musetalk_cli.study import FORMAT
from musetalk_cli.study.orders import Layout, Order, draw_orders
from musetalk_cli.suffixes import FILMS
from musetalk_cli.work import sha256_of

ORDERS = 200  # a rater's name picks one; two who meet the same one do no harm
LABELS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
SAME_DATE = 946_684_800  # 2000-01-01, of every clip: dates of writing would tell one method's clips from another's
# What Chromium, Firefox and Safari all play; other pictures and sounds are encoded.
PLAYED = {"h264": {"yuv420p", "yuvj420p"}, "vp9": {"yuv420p"}, "av1": {"yuv420p", "yuv420p10le"}}
HEARD = frozenset({"aac", "mp3", "opus"})
NO_NOTES = {"h264": {"bsf:v": "filter_units=remove_types=6"}}  # x264 writes its settings into the stream
EVEN = "crop=trunc(iw/2)*2:trunc(ih/2)*2"  # 4:2:0 has no odd sizes
H264: Mapping[str, Any] = {"c:v": "libx264", "crf": 12, "preset": "slow", "pix_fmt": "yuv420p", "vf": EVEN, **NO_NOTES["h264"]}
AAC = {"c:a": "aac", "b:a": "192k"}
BARE: Mapping[str, Any] = {
    "map_metadata": -1,
    "map_chapters": -1,
    "write_tmcd": 0,
    "movflags": "+faststart",
    "fflags": "+bitexact",  # no name of the muxer, nor of encoders
    "flags:v": "+bitexact",
    "flags:a": "+bitexact",
    "metadata:s:v": "encoder=-",  # empty, it would be written anew
}


@dataclass(frozen=True, slots=True)
class StudyConfig:
    """What raters get to see."""

    seed: int | None = None  # None: another study each time; else the same files give the same study
    layout: Layout = "side-by-side"  # all methods of one source on a screen, or one clip
    per_rater: int | None = None  # sources that one rater sees; None: all
    must_watch: bool = True  # a clip is rated only after it was played to its end
    skip_missing: bool = False  # leave out sources that a method lacks, and say so, instead of refusing
    title: str = "Video rating"
    note: str = ""  # to the raters, on the first page


class Coded(NamedTuple):
    """A clip that was not copied as it is."""

    path: Path  # as given
    why: str  # "picture is hevc yuv420p10le, sound is pcm_s16le"


class Built(NamedTuple):
    """page: the folder to hand out. key: keep it."""

    study: str
    page: Path
    key: Path
    sources: int
    methods: int
    per_rater: int
    coded: tuple[Coded, ...]
    skipped: tuple[str, ...]  # sources left out, each with the reason


class _Clip(NamedTuple):
    name: str  # blind
    path: Path
    method: str | None  # None: the original
    source: int


def build(
    methods: Mapping[str, Path],
    out: Path,
    *,
    reference: Path | None = None,
    config: StudyConfig | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
) -> Built:
    """Make the study in `out`, whole or not at all. methods: name -> folder of its results, which go together by file name, whatever
    the suffix. reference: a folder of originals under the same names, shown beside without a label. told: clips done, of how many.

    Raises OutputExistsError, UsageError for folders that do not go together and for a title or note that names a method, InputError
    for a clip that cannot be read or has no sound.
    """
    config = config or StudyConfig()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(f"{out}: is there already", "choose a folder that is not there yet")
    _check_texts(methods, config)
    found, skipped = _sources(methods, reference, skip_missing=config.skip_missing)
    per_rater = config.per_rater if config.per_rater is not None else len(found)
    if not 1 <= per_rater <= len(found):
        raise UsageError(f"--per-rater {per_rater}: there are {len(found)} sources", f"choose 1 to {len(found)}")
    clips, study, orders = _draw(found, tuple(methods), config, per_rater)
    with _published(out) as folder:
        coded = _write_clips(clips, folder / "page" / "clips", told)
        _write_page(folder / "page" / "index.html", clips, study, orders, config)
        _write_key(folder / "key.json", clips, study, methods, config, list(found))
    return Built(study, out / "page", out / "key.json", len(found), len(methods), per_rater, coded, skipped)


Sources = dict[str, dict[str | None, Path]]  # name -> method, or None for the original -> file


def _check_texts(methods: Mapping[str, Path], config: StudyConfig) -> None:
    if not 1 <= len(methods) <= len(LABELS):
        raise UsageError(f"{len(methods)} methods", f"give 1 to {len(LABELS)}, each as NAME=FOLDER")
    for name in methods:
        if not name.strip():
            raise UsageError("a method has no name", "give each as NAME=FOLDER")
        if name.casefold() in f"{config.title}\n{config.note}".casefold():
            raise UsageError(f"{name}: the title or the note names this method", "raters must not know the methods: reword it")


def _sources(methods: Mapping[str, Path], reference: Path | None, *, skip_missing: bool) -> tuple[Sources, tuple[str, ...]]:
    """Sources that every method has, by name; and of the others, what they lack."""
    folders: dict[str | None, Path] = dict(methods) | ({} if reference is None else {None: reference})
    files = {method: _files(folder) for method, folder in folders.items()}
    names = sorted({name for method in methods for name in files[method]})
    lacking = {name: [folders[method] for method in folders if name not in files[method]] for name in names}
    skipped = tuple(f"{name}: not in {', '.join(map(str, there))}" for name, there in lacking.items() if there)
    if skipped and not skip_missing:
        raise UsageError(
            f"{skipped[0]}{f', and {len(skipped) - 1} more' if len(skipped) > 1 else ''}", "add it, or --skip-missing"
        )
    found: Sources = {name: {method: files[method][name] for method in folders} for name in names if not lacking[name]}
    if not found:
        raise UsageError(
            "no clip is in every folder", "results go together by file name", thing=", ".join(map(str, folders.values()))
        )
    return found, skipped


def _files(folder: Path) -> dict[str, Path]:
    """A folder's films by name without suffix."""
    if not folder.is_dir():
        raise UsageError(f"{folder}: there is no such folder", "give each method as NAME=FOLDER")
    files: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in FILMS and not path.name.startswith("."):
            if path.stem in files:
                raise UsageError(f"{folder}: {files[path.stem].name} and {path.name} have one name", "keep one of them")
            files[path.stem] = path
    return files


def _draw(found: Sources, methods: tuple[str, ...], config: StudyConfig, per_rater: int) -> tuple[list[_Clip], str, list[Order]]:
    """Blind names, the study's name, and orders. The seed alone does not give the names away: the files' content is in them too."""
    content = [[sha256_of(path) for path in files.values()] for files in found.values()]
    seed = secrets.token_hex(16) if config.seed is None else f"{config.seed} {methods} {list(found)} {content} {config}"
    rng = random.Random(seed)
    study = f"{rng.getrandbits(64):016x}"
    clips = [
        _Clip(f"{rng.getrandbits(80):020x}", path, method, number)
        for number, files in enumerate(found.values())
        for method, path in files.items()
    ]
    orders = draw_orders(rng, ORDERS, len(found), len(methods), layout=config.layout, per_rater=per_rater)
    return clips, study, orders


@contextmanager
def _published(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place when all is well, and is gone when not."""
    folder = out.parent / f"part.{out.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        os.replace(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_clips(clips: list[_Clip], folder: Path, told: Callable[[int, int], None]) -> tuple[Coded, ...]:
    folder.mkdir(parents=True)
    coded = []
    for number, clip in enumerate(clips):
        told(number, len(clips))
        if why := _write_clip(clip, folder / f"{clip.name}.mp4"):
            coded.append(Coded(clip.path, why))
        os.utime(folder / f"{clip.name}.mp4", (SAME_DATE, SAME_DATE))
    told(len(clips), len(clips))
    return tuple(coded)


def _write_clip(clip: _Clip, path: Path) -> str:
    """Picture and first sound into an MP4 without tags: the suffix must not tell methods apart. Returns why they were coded anew."""
    indices, options, why = _coding(clip)
    given: Any = ffmpeg.input(media_url(clip.path), **AS_FILE)
    output = ffmpeg.output(*(given[str(index)] for index in indices), media_url(path), format="mp4", **BARE, **options)
    run_ffmpeg(output, purpose=f"prepare {clip.path}")
    with open_film(path) as film:
        if not film.streams.video:
            raise InputError(f"{clip.path}: not one picture of it can be read", "make this result again")
    return why


def _coding(clip: _Clip) -> tuple[tuple[int, ...], dict[str, Any], str]:
    """Streams to take, and options that copy what browsers play and encode the rest. why: empty where all is copied."""
    with open_film(clip.path) as film:
        picture = picture_of(film, clip.path)
        codec, form = picture.codec_context.codec.canonical_name, picture.codec_context.pix_fmt or "of unknown form"
        sounds = [(s.index, s.codec_context.codec.canonical_name) for s in film.streams.audio if s.codec_context is not None]
        index = picture.index
    if not sounds and clip.method is not None:
        raise InputError(f"{clip.path}: there is no sound in it, so lip-sync cannot be rated", "give results with their voice")
    seen = form in PLAYED.get(codec, ())
    options: dict[str, Any] = {"c:v": "copy", **NO_NOTES.get(codec, {})} if seen else dict(H264)
    why = [] if seen else [f"picture is {codec} {form}"]
    if not sounds:
        return (index,), options, ", ".join(why)
    sound, name = sounds[0]
    options |= {"c:a": "copy"} if name in HEARD else AAC
    why += [] if name in HEARD else [f"sound is {name}"]
    return (index, sound), options, ", ".join(why)


def _write_page(path: Path, clips: list[_Clip], study: str, orders: list[Order], config: StudyConfig) -> None:
    """The page speaks of clips by their place in a list that is sorted by blind name."""
    names = sorted(clip.name for clip in clips)
    methods = list(dict.fromkeys(clip.method for clip in clips if clip.method is not None))
    place = {(clip.source, clip.method): names.index(clip.name) for clip in clips}
    data = {
        "study": study,
        "format": FORMAT,
        "mustWatch": config.must_watch,
        "clips": names,
        "orders": [
            [
                [place.get((screen.source, None), -1), [place[screen.source, methods[number]] for number in screen.methods]]
                for screen in order
            ]
            for order in orders
        ],
    }
    pages = Environment(
        loader=PackageLoader("musetalk_cli.study"), autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    )
    original = any(clip.method is None for clip in clips)
    letters = config.layout == "side-by-side" and len(methods) > 1
    text = pages.get_template("page.html").render(config=config, data=data, letters=letters, original=original)
    path.write_text(text, encoding="utf-8")


def _write_key(
    path: Path, clips: list[_Clip], study: str, methods: Mapping[str, Path], config: StudyConfig, sources: list[str]
) -> None:
    told = {
        "study": study,
        "format": FORMAT,
        "tool": f"musetalk {__version__}",
        "config": asdict(config),
        "methods": {name: str(folder) for name, folder in methods.items()},
        "clips": {
            clip.name: {"method": clip.method, "source": sources[clip.source]} for clip in clips if clip.method is not None
        },
        "originals": {clip.name: sources[clip.source] for clip in clips if clip.method is None},
    }
    path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
