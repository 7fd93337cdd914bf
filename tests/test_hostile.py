"""Files that were made to harm, or cannot be what they say: refused at once, without being believed."""

import json
import os
import pickle
import struct
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as save_tensors

from musetalk_cli import batch, config, shards, store
from musetalk_cli.cast_map import read_cast
from musetalk_cli.config import DemuxConfig, Runtime
from musetalk_cli.errors import InputError, MissingError, MusetalkError, UsageError
from musetalk_cli.media import ffmpeg as ffmpeg_module
from musetalk_cli.media import video as video_module
from musetalk_cli.media.audio import read_speech
from musetalk_cli.media.ffmpeg import AS_FILE_ARGS, find_ffmpeg, media_url
from musetalk_cli.media.video import check_span, open_film
from musetalk_cli.metrics.stats import Moments
from musetalk_cli.models import analysis, lite
from musetalk_cli.models.loading import read_tensors
from musetalk_cli.progress import Events
from musetalk_cli.reading import MOST_BYTES, is_plain_name, parse_fraction, parse_json, read_json, read_text
from musetalk_cli.settings import read_settings
from musetalk_cli.signals import Stop
from musetalk_cli.stages import s1_demux as demux_module
from musetalk_cli.stages.s1_demux import demux
from musetalk_cli.store import Store, digest_of
from musetalk_cli.work import Ref, Work, fingerprint, kept_results, sha256_of

MakeFilm = Callable[..., Path]
PACKAGE = Path(ffmpeg_module.__file__).parents[1]

# media


@pytest.fixture(name="film", scope="module")
def _film(tmp_path_factory: pytest.TempPathFactory, make_film: MakeFilm) -> Path:
    return make_film(tmp_path_factory.mktemp("hostile") / "film.mp4", frames=10, size=(64, 48))


def test_whatever_opens_a_file_to_read_it_does_so_as_a_file() -> None:
    """By the text: av.open for reading, and ffmpeg's inputs but a benchmark's own files, name AS_FILE, here or in their options."""
    for path in PACKAGE.rglob("*.py"):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if "av.open(" in line and '"w"' not in line:
                assert "AS_FILE" in line, (path, number)
            if "ffmpeg.input(" in line and path.name != "reference.py":
                assert "AS_FILE" in line or "**options" in line, (path, number)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{film}\n#EXT-X-ENDLIST\n"),
        ("list.mp4", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n"),
        ("list.txt", "ffconcat version 1.0\nfile {film}\n"),
        ("film.mov", "ffconcat version 1.0\nfile /etc/passwd\n"),
        (
            "stream.sdp",
            "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        ),
        (
            "film.mpd",
            '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" profiles="dash:profile:isoff"></MPD>',
        ),
    ],
)
def test_what_names_other_files_is_refused(tmp_path: Path, film: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text.format(film=film))
    with pytest.raises(InputError), open_film(path):
        pass
    asked = [str(find_ffmpeg()), "-v", "error", "-nostdin", *AS_FILE_ARGS, "-i", media_url(path), "-f", "null", "-"]
    assert subprocess.run(asked, capture_output=True, check=False).returncode


def test_film_whose_samples_lie_in_another_file_gives_none_of_it(tmp_path: Path, film: Path) -> None:
    """A QuickTime alias; libav follows one only where `enable_drefs` is set, which is nowhere."""
    (tmp_path / "other.mp4").write_bytes(film.read_bytes())
    path = tmp_path / "film.mov"
    path.write_bytes(_referring(film.read_bytes(), str(tmp_path / "other.mp4").encode()))
    with av.open(str(path), options={"enable_drefs": "1", "use_absolute_path": "1"}) as file:
        assert sum(bool(packet.size) for packet in file.demux(video=0)) == 10
    with pytest.raises(InputError):
        demux(path, config=DemuxConfig(), runtime=Runtime("cpu"), out=tmp_path)


def _referring(data: bytes, other: bytes) -> bytes:
    """An MP4 whose moov comes last, its samples in another file: as libavformat/mov.c reads `alis`."""
    own = b"\0\0\0\x0curl \0\0\0\x01"
    named = struct.pack(">hH", 2, len(other)) + other + b"\0" * (len(other) % 2) + struct.pack(">hH", -1, 0)
    about = (
        b"\0" * 10
        + b"\x01v"
        + b"\0" * 26
        + b"\0" * 12
        + b"\x01f"
        + b"\0" * 62
        + b"\0" * 16
        + struct.pack(">HH", 1, 1)
        + b"\0" * 16
    )
    alias = b"alis" + b"\0" * 4 + about + named
    alias = struct.pack(">I", len(alias) + 4) + alias
    at, found = data.index(own), bytearray(data)
    for name in (b"moov", b"trak", b"mdia", b"minf", b"dinf", b"dref"):
        size = data.rindex(name, 0, at) - 4
        found[size : size + 4] = struct.pack(">I", int.from_bytes(data[size : size + 4]) + len(alias) - len(own))
    return bytes(found[:at]) + alias + bytes(found[at + len(own) :])


@pytest.mark.parametrize(
    "name", ["http:x.mp4", "concat:a|b.mp4", "-i.mp4", "%d.mp4", "a\nb.mp4", "pipe:0.mp4", "a:b;c&d$(e).mp4"]
)
def test_odd_names_are_names_of_files(tmp_path: Path, film: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / name).write_bytes(film.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert demux(Path(name), config=DemuxConfig(), runtime=Runtime("cpu"), out=tmp_path).frames == 10


@pytest.mark.parametrize("kind", ["empty", "folder", "fifo", "device", "gone", "nul"])
def test_what_is_no_file_is_refused_at_once(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "film.mp4"
    match kind:
        case "empty":
            path.touch()
        case "folder":
            path.mkdir()
        case "fifo":
            os.mkfifo(path)
        case "device":
            path = Path("/dev/zero")
        case "nul":
            path = tmp_path / "a\0b.mp4"
    began = time.process_time()
    for read in (lambda: demux(path, config=DemuxConfig(), runtime=Runtime("cpu"), out=tmp_path), lambda: read_speech(path)):
        with pytest.raises(InputError):
            read()
    if kind != "empty":
        with pytest.raises(InputError):
            fingerprint(path)
    assert time.process_time() - began < 2


@pytest.mark.parametrize(("name", "most"), [("side_px", 60), ("fps", 24), ("streams", 0), ("hours", 0)])
def test_film_beyond_the_limits_is_refused(film: Path, name: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (video_module, demux_module):
        monkeypatch.setattr(module, "FILE_LIMITS", replace(config.FILE_LIMITS, **{name: most}))
    with pytest.raises(InputError, match="more than"):
        demux(film, config=DemuxConfig(), runtime=Runtime("cpu"), out=film.parent)


def test_timestamps_days_apart_are_not_filled_with_silence(tmp_path: Path) -> None:
    path = tmp_path / "voice.mkv"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("pcm_s16le", rate=16_000, layout="mono")
        for number in (0, 30 * 24 * 3600 * 16_000):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts = 16_000, number
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    with pytest.raises(InputError, match=r"hours"):
        read_speech(path)
    with pytest.raises(InputError, match="hours after the first"):
        check_span(Fraction(25 * 3600), path)


# texts


def test_text_files_are_bounded_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    with path.open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(InputError, match="larger than"):
        batch.read_entries(batch.Plan((path,)))
    with pytest.raises(UsageError, match="larger than"):
        read_settings([path], {})
    fifo = tmp_path / "fifo.toml"
    os.mkfifo(fifo)
    with pytest.raises(UsageError, match="not a file"):
        read_cast(fifo)
    with pytest.raises(ValueError, match="not a file"):
        read_text(Path("/dev/zero"))


def test_deep_nesting_and_numbers_of_any_size_are_value_errors(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    (tmp_path / "deep.toml").write_text("a=" + "[" * 10_000)
    with pytest.raises(ValueError, match="nested"):
        read_json(tmp_path / "deep.json")
    with pytest.raises(InputError, match="nested"):
        batch.read_entries(batch.Plan((tmp_path / "deep.toml",)))
    for text in ("1e999999999", "9" * 70, "1/0", "x"):
        with pytest.raises(ValueError, match="raction"):
            parse_fraction(text)
    assert parse_json("[1]") == [1]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/a", "a\0", "a" * 256, "\ud800", None, 3])
def test_names_that_lead_out_of_a_folder_are_not_plain(name: object) -> None:
    assert not is_plain_name(name)
    assert is_plain_name("frames.nut")


# work folders


@dataclass(frozen=True, slots=True)
class Thing:
    frames: Path
    numbers: NDArray[np.int64]


def _made(folder: Path, **changes: object) -> Ref[Thing]:
    """A finished result, and what another program makes of it; its hashes are right."""
    ref = Ref("0" * 64, "thing", "u", folder / "thing" / ("u-" + "0" * 16), Thing)
    ref.folder.mkdir(parents=True)
    (ref.folder / "frames.bin").write_bytes(b"x")
    np.save(ref.folder / "numbers.npy", np.arange(3))
    files = {name: sha256_of(ref.folder / name) for name in ("frames.bin", "numbers.npy")}
    record = {"frames": "frames.bin", "numbers": "numbers.npy"}
    told = {"stage": "thing", "unit": "u", "key": ref.key, "made_of": {"inputs": {}}, "record": record, "files": files, **changes}
    (ref.folder / "result.json").write_text(json.dumps({**told, "sha256": digest_of(told)}))
    return ref


def _work(folder: Path) -> Work:
    return Work(folder, Events(), Stop())


def test_result_as_we_write_it_is_kept(tmp_path: Path) -> None:
    ref = _made(tmp_path)
    assert _work(tmp_path).keeps(ref)
    assert ref.load().frames == ref.folder / "frames.bin"


def test_result_that_names_a_file_elsewhere_is_made_again(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"x")
    ref = _made(tmp_path, files={"../../secret": sha256_of(tmp_path / "secret")})
    assert not _work(tmp_path).keeps(ref)


def test_record_that_names_a_file_elsewhere_is_not_read(tmp_path: Path) -> None:
    ref = _made(tmp_path, record={"frames": "../../secret", "numbers": "numbers.npy"})
    with pytest.raises(InputError, match="not what thing leaves"):
        ref.load()


def test_result_with_a_link_is_made_again(tmp_path: Path) -> None:
    ref = _made(tmp_path)
    (ref.folder / "frames.bin").rename(tmp_path / "elsewhere")
    (ref.folder / "frames.bin").symlink_to(tmp_path / "elsewhere")
    assert not _work(tmp_path).keeps(ref)


def test_result_that_is_a_link_is_made_again(tmp_path: Path) -> None:
    ref = _made(tmp_path)
    ref.folder.rename(tmp_path / "elsewhere")
    ref.folder.symlink_to(tmp_path / "elsewhere")
    assert not _work(tmp_path).keeps(ref)


def test_array_that_promises_more_than_there_is_takes_no_memory(tmp_path: Path) -> None:
    ref = _made(tmp_path)
    path = ref.folder / "numbers.npy"
    path.write_bytes(path.read_bytes().replace(b"(3,), }" + b" " * 10, b"(3000000000000,), }"[:17]))
    with pytest.raises(InputError, match="not what thing leaves"):
        ref.load()


def test_result_json_that_is_none_of_ours_is_passed_over(tmp_path: Path) -> None:
    _made(tmp_path)
    for number, text in enumerate(("", "[]", '{"stage": 1}', "\xff", "[" * 9_000)):
        (tmp_path / "thing" / f"x-{number}").mkdir()
        (tmp_path / "thing" / f"x-{number}" / "result.json").write_text(text, encoding="latin-1")
    assert len(list(kept_results(tmp_path))) == 1


def test_store_whose_mark_names_files_elsewhere_gives_nothing(tmp_path: Path) -> None:
    told = {"files": {"../../../x": "00" * 32}}
    place = tmp_path / "store" / "thing" / "u"
    place.mkdir(parents=True)
    (place / "result.json").write_text(json.dumps({**told, "sha256": digest_of(told)}))
    (tmp_path / "into").mkdir()
    assert not Store(str(tmp_path / "store")).fetch("thing/u", tmp_path / "into")
    assert not store.is_mark(b"[" * 9_000)


def test_plan_that_names_a_device_is_refused(tmp_path: Path) -> None:
    told = {"choices": {}, "jobs": [], "files": {"/dev/zero": ""}, "config": {}, "store": ""}
    (tmp_path / "plan.json").write_text(json.dumps(told))
    with pytest.raises(MusetalkError):
        shards.read_plan(tmp_path)
    (tmp_path / "units.json").write_text('[["a", 1.0, ["../x"]]]')
    with pytest.raises(InputError, match="damaged"):
        shards.read_units(tmp_path / "units.json", tmp_path)


# models


class _Touch:
    """What a pickle can do when it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._path,)


@pytest.mark.parametrize("suffix", [".pth", ".npz", ".npy"])
def test_pickle_that_would_run_code_is_refused(tmp_path: Path, suffix: str) -> None:
    path, touched = tmp_path / f"x{suffix}", tmp_path / "touched"
    bad = np.array([_Touch(touched)], object)
    match suffix:
        case ".pth":
            torch.save({"a": _Touch(touched)}, path)
        case ".npz":
            np.savez(path, count=3, mean=bad, scatter=bad)
        case ".npy":
            ref = _made(tmp_path)
            np.save(ref.folder / "numbers.npy", bad, allow_pickle=True)
    touched.unlink(missing_ok=True)
    with pytest.raises(MusetalkError):
        _read(path, tmp_path)
    assert not touched.exists()
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(_Touch(touched), protocol=2))
    with pytest.raises(MissingError):
        read_tensors(tmp_path / "raw.pth")
    assert not touched.exists()


def _read(path: Path, folder: Path) -> object:
    match path.suffix:
        case ".pth":
            return read_tensors(path)
        case ".npz":
            return Moments.load(path)
    return _made_ref(folder).load()


def _made_ref(folder: Path) -> Ref[Thing]:
    return Ref("0" * 64, "thing", "u", folder / "thing" / ("u-" + "0" * 16), Thing)


@pytest.mark.parametrize("length", [0, 7, 1 << 40, (1 << 64) - 1])
def test_safetensors_whose_header_lies_is_refused(tmp_path: Path, length: int) -> None:
    data = save_tensors({"a": np.zeros(4, np.float32)})
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", length) + data[8:])
    with pytest.raises(MissingError, match="damaged"):
        read_tensors(tmp_path / "x.safetensors")
    (tmp_path / "y.safetensors").write_bytes(data.replace(b"[0,16]", b"[0,99]"))
    with pytest.raises(MissingError, match="damaged"):
        read_tensors(tmp_path / "y.safetensors")


@pytest.mark.parametrize(
    "text",
    ['{"lip_hidden": 1000000000}', '{"lip_hidden": -1}', '{"lip_hidden": true}', '{"x": 1}', "[]", "", '{"unet_widths": 3}'],
)
def test_configuration_of_no_net_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(MissingError, match="no configuration"):
        lite.read_config(tmp_path / "config.json")


def test_nothing_of_ours_reads_pickles_freely() -> None:
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "allow_pickle=True" not in text, path
        assert text.count("torch.load(") == text.count("weights_only=True"), path


def test_cast_whose_voice_is_no_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text('[[person]]\nname = "a"\nfaces = ["A"]\nvoice = "a\\u0000b"\n')
    with pytest.raises(UsageError, match="voice"):
        read_cast(tmp_path / "c.toml")


def test_mediapipe_begins_and_ends_where_it_reaches_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    with analysis._deaf():
        assert os.environ["https_proxy"] == "http://127.0.0.1:9"
    assert os.environ["https_proxy"] == "http://proxy.example:3128"
    monkeypatch.delenv("https_proxy")
    with analysis._deaf():
        pass
    assert "https_proxy" not in os.environ
