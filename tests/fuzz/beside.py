"""Parsers beside the dub: a film's manifest, what the web page sends, the user study, training data, evaluations. In: bytes. Out: nothing."""

import json
from collections.abc import Callable
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fuzz.target import Target, bytes_of
from musetalk_cli.evaluation.protocol import read_inputs
from musetalk_cli.evaluation.run import _kept
from musetalk_cli.evaluation.tables import Evaluation
from musetalk_cli.provenance.identity import identity
from musetalk_cli.provenance.jumbf import envelope_is_whole
from musetalk_cli.provenance.read import _told, read_provenance
from musetalk_cli.provenance.sign import SIDECAR, sign
from musetalk_cli.provenance.statement import ALTERED, Altered, FileHash, Region, Statement
from musetalk_cli.serve.orders import DubWish, InspectWish, Order, Request, Settings, VerifyWish, from_json, to_json
from musetalk_cli.study import FORMAT
from musetalk_cli.study.tally import tally
from musetalk_cli.training.checkpoint import load_checkpoint, save_checkpoint
from musetalk_cli.training.dataset import SAMPLE, TRACK, About, read_sample
from musetalk_cli.training.prepare import read_records
from musetalk_cli.training.prepare_video import RECORDS_DIR, TrackRecord, VideoRecord

SECOND = Fraction(1, 25)


def targets(folder: Path) -> tuple[Target, ...]:
    """All of them, at work in an empty folder. XDG_DATA_HOME is where certificates are kept."""
    folder.mkdir()
    return (*_manifests(folder), *_page(), *_study(folder), *_training(folder), *_evaluation(folder))


def _manifests(folder: Path) -> tuple[Target, ...]:
    """What lies beside an MKV, read by c2pa and by us; and what c2pa makes of it."""
    film, said = folder / "f.mkv", _said()
    plain = folder / "plain.mkv"
    plain.write_bytes(b"\x1a\x45\xdf\xa3" + bytes(60))
    hashes = [FileHash("film", "a.mkv", 64, "0" * 64)]
    sidecar = sign(plain, Statement(json.dumps(said)), hashes, identity(None, None), film).sidecar
    assert sidecar is not None
    told = {**said, "inputs": [hashes[0]._asdict()], "head": ""}

    def beside(data: bytes) -> object:
        film.with_name(film.name + SIDECAR).write_bytes(data)
        read = read_provenance(film)
        return None if read is None else (read.lines(), json.dumps(read.as_json()))

    def envelope(data: bytes) -> object:
        path = folder / "e.mkv.c2pa"
        path.write_bytes(data)
        return envelope_is_whole(path)

    def reported(data: bytes) -> object:
        """Around our assertion everything is as c2pa's reader makes it."""
        manifest = {"signature_info": {"issuer": "x"}, "assertions": [{"label": ALTERED, "data": _json(data)}]}
        return _told(film, {"active_manifest": "m", "validation_state": "Valid", "manifests": {"m": manifest}}).lines()

    return (
        Target("manifest.c2pa", (sidecar.read_bytes(),), beside, weight=0.3),
        Target("manifest.c2pa, its envelope", (sidecar.read_bytes(),), envelope),
        Target("altered.json", (json.dumps(told).encode(),), reported, True),
    )


def _said() -> dict[str, Any]:
    region = Region(8, 8, 64, 64)
    one = Altered(0, 0, "anna", "form 12", 0, 25, "0", str(25 * SECOND), region)
    told = {
        "v": 1,
        "tool": "musetalk",
        "ai_modified": True,
        "what": "lips",
        "model": {"name": "lite", "files": [["a", "0" * 64]]},
    }
    return {**told, "watermark": False, "language": "fr", "altered": [one.as_json()]}


def _json(data: bytes) -> object:
    """Assertions are JSON when c2pa gives them."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return {}


def _page() -> tuple[Target, ...]:
    kinds: tuple[Any, ...] = (InspectWish("a.mp4"), DubWish("a.mp4", "b.wav"), VerifyWish("a.mp4", "b.mp4"))
    order = Order("dub", "/films", "a.mp4", "b.wav")
    records = (*kinds, order, Request(order, Settings()))

    def ask(data: bytes) -> object:
        for record in records:
            try:
                from_json(data, type(record))
            except ValueError:  # the page is told
                continue
        return None

    return (Target("order.json", tuple(to_json(record).encode() for record in records), ask, True),)


def _study(folder: Path) -> tuple[Target, ...]:
    clips = {f"{method}-{source}": {"method": method, "source": source} for method in ("a", "b") for source in ("x", "y")}
    key = json.dumps({"study": "s", "format": FORMAT, "methods": {"a": "1", "b": "2"}, "clips": clips, "originals": {}}).encode()
    rows = [{"clip": clip, "VQ": 3, "IC": 4, "LSQ": 5} for clip in clips]
    saved = {"study": "s", "format": FORMAT, "rater": "r", "saved": "2026-01-01T00:00:00Z", "asked": 4, "ratings": rows}
    rating = json.dumps(saved).encode()

    def given(name: str, other: str, rest: bytes) -> Callable[[bytes], object]:
        def ask(data: bytes) -> object:
            (folder / name).write_bytes(data)
            (folder / other).write_bytes(rest)
            return tally([folder / "rating.json"], folder / "key.json")

        return ask

    return (
        Target("key.json", (key,), given("key.json", "rating.json", rating), True),
        Target("rating.json", (rating,), given("rating.json", "key.json", key), True),
    )


def _training(folder: Path) -> tuple[Target, ...]:
    sample = folder / "sample"
    sample.mkdir()
    about = About("a", "i", "a.mp4", 0.0, 25, 3, 100.0, 1.0, 0, False, 5.0, "train")
    box = np.zeros((3, 4), np.int32)
    track = bytes_of(lambda file: np.savez(file, landmarks=np.zeros((3, 68, 2), np.float32), box=box, film=box))
    step = save_checkpoint(folder / "checkpoints", 1, {"net": {"a": torch.zeros(2)}}, {"seed": 1}, keep=1)
    line = TrackRecord("a", "a.mp4", True, "", "i", "train")
    record = VideoRecord("a.mp4", 100, 3.0, False, (line,))
    (folder / RECORDS_DIR).mkdir()

    def sampled(name: str, other: str, rest: bytes) -> Callable[[bytes], object]:
        def ask(data: bytes) -> object:
            (sample / name).write_bytes(data)
            (sample / other).write_bytes(rest)
            return read_sample(sample)

        return ask

    def in_file(path: Path, read: Callable[[], object]) -> Callable[[bytes], object]:
        def ask(data: bytes) -> object:
            path.write_bytes(data)
            return read()

        return ask

    told = json.dumps(about._asdict()).encode()
    state = step / "state.json"
    return (
        Target("sample.json", (told,), sampled(SAMPLE, TRACK, track), True),
        Target("track.npz", (track,), sampled(TRACK, SAMPLE, told), weight=0.5),
        Target("state.json", (state.read_bytes(),), in_file(state, lambda: load_checkpoint(step)), True),
        Target(
            "record.json",
            (json.dumps(asdict(record)).encode(),),
            in_file(folder / RECORDS_DIR / "a.json", lambda: read_records(folder)),
            True,
        ),
    )


def _evaluation(folder: Path) -> tuple[Target, ...]:
    films = [folder / name for name in ("a.mp4", "b.mp4")]
    for film in films:
        film.write_bytes(b"film")
    kept = json.dumps(asdict(Evaluation("p", "t", 0, (), (), (), {"torch": "2"}))).encode()

    def ask(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def asked(data: bytes) -> object:
            (folder / name).write_bytes(data)
            return read(folder / name)

        return asked

    def named(path: Path) -> object:
        return read_inputs([path])

    return (
        Target("films.csv", (b"film,voice\na.mp4,b.mp4\nb.mp4,\n",), ask("films.csv", named)),
        Target("films.jsonl", (b'{"film": "a.mp4", "voice": "b.mp4"}\n{"film": "b.mp4"}\n',), ask("films.jsonl", named), True),
        Target("evaluation.json", (kept,), ask("evaluation.json", lambda path: _kept("a", path.parent)), True),
    )
