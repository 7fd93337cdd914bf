"""Every parser of ours that reads what somebody else may have written, and what it is given. In: bytes. Out: nothing, or an error of ours.

A Target writes the bytes where the parser looks for them and calls it. Whatever it raises beyond MusetalkError is a finding. What a caller
catches, `as_faults` apart, is caught here in the same words, where the parser is a part of that caller.
"""

import hashlib
import io
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from made_report import made_report
from numpy.typing import NDArray
from safetensors.torch import save as save_tensors
from typer.main import get_command

from fuzz import beside
from fuzz.target import Target, bytes_of
from musetalk_cli import batch, licences, predict, settings, shards, weights
from musetalk_cli.bench.probe import Ran, StageCost
from musetalk_cli.cast_map import check_known, read_cast, with_voices
from musetalk_cli.cli import app
from musetalk_cli.config import DubConfig, ModelConfig
from musetalk_cli.crew import enter, holder_in
from musetalk_cli.licences import record
from musetalk_cli.metrics.stats import Moments
from musetalk_cli.models import lite, loading
from musetalk_cli.pipeline import DubShot
from musetalk_cli.progress import Events
from musetalk_cli.report import files as report_files
from musetalk_cli.report.measure import _stage_seconds
from musetalk_cli.signals import Stop
from musetalk_cli.store import digest_of
from musetalk_cli.types import DubJob, Line, Shot, Stretch, Voicing
from musetalk_cli.work import Ref, Work, fingerprint, kept_results

CONFIG = DubConfig(model=ModelConfig("lite", ()))


@dataclass(frozen=True, slots=True)
class Small:
    """A result of a stage that is none."""

    rate: Fraction
    size: tuple[int, int]
    numbers: NDArray[np.int64]
    frames: Path
    name: str = ""


MANIFEST = b"""[defaults]
crf = 18.0
codec = "x264"

[[film]]
film = "a.mp4"
audio = "a.fr.wav"
output = "out/a.mp4"

[[film]]
film = "b.mp4"
audio = {fr = "b.fr.wav", de = "b.de.wav"}
cast = "cast.toml"
mix = "bed.wav"
max-yaw = 45
copy = true
"""
LINES = b"""{"film": "a.mp4", "audio": "a.wav"}
{"film": "b.mp4", "audio": ["fr=b.wav", "c.wav"], "output": "o.mp4", "crf": 20, "steady": 0.5}
{"film": "c.mp4", "audio": {"de": "c.wav"}, "silence": "closed", "min-face": 64}
"""
CAST = b"""film = "a.mp4"
analysis = "abc123"

[[person]]
name = "anna"
faces = ["A", "D"]
voice = "anna.wav"
silence = "auto"

[[person]]
name = "bert"
still = "b.jpg"
voice = "bert.wav"
channel = 0

[[range]]
person = "anna"
from = "0:01:02.5"
to = 64
pass = true

[[range]]
from = 1.5
to = "2:00"
voice = "c.wav"
"""
SETTINGS = b"""[dub]
device = "cpu"
crf = 18
face = "all"
no-copy = true

[batch]
overwrite = true

[weights.pull]
force = false
"""


def targets(folder: Path) -> tuple[Target, ...]:
    """All of them, at work in an empty folder."""
    os.environ["XDG_DATA_HOME"] = str(folder / "data")
    ours = (*_given(folder), *_work_folder(folder), *_model_files(folder), *_own_records(folder))
    return (*ours, *beside.targets(folder / "beside"))


def _given(folder: Path) -> tuple[Target, ...]:
    """What a user hands over."""
    known = settings.flags_of(get_command(app))

    def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def ask(data: bytes) -> object:
            (folder / name).write_bytes(data)
            return read(folder / name)

        return ask

    def cast(path: Path) -> object:
        return with_voices(check_known(read_cast(path)), {"anna": Path("x.wav")})

    def manifest(path: Path) -> object:
        return batch.read_entries(batch.Plan((path,)))

    return (
        Target("manifest.toml", (MANIFEST,), in_file("m.toml", manifest), weight=2),
        Target("manifest.jsonl", (LINES,), in_file("m.jsonl", manifest), True, weight=2),
        Target("cast.toml", (CAST,), in_file("c.toml", cast), weight=2),
        Target(
            "musetalk.toml", (SETTINGS,), in_file("musetalk.toml", lambda path: settings.read_settings([path], known)), weight=2
        ),
        Target("report.json", (_report(),), in_file("r.report.json", report_files.read), True),
        Target("run.jsonl", (_journal(),), in_file("run.jsonl", _stage_seconds), True),
    )


def _work_folder(folder: Path) -> tuple[Target, ...]:
    """What lies in a work folder, which another machine may have written."""
    root = folder / "work"
    (root / "small").mkdir(parents=True)
    place = root / "small" / ("u-" + "0" * 16)
    place.mkdir()
    (place / "frames.bin").write_bytes(b"frames")
    array = bytes_of(lambda file: np.save(file, np.arange(5)))
    (place / "numbers.npy").write_bytes(array)
    ref = Ref("0" * 64, "small", "u", place, Small)
    record = {"rate": "24000/1001", "size": [3, 4], "numbers": "numbers.npy", "frames": "frames.bin", "name": "x"}
    told = {
        "v": 1,
        "stage": "small",
        "unit": "u",
        "key": "0" * 64,
        "made_of": {"stage": "small", "version": 1, "config": {}, "inputs": {}},
    }
    told |= {"record": record, "files": {name: _sha256(place / name) for name in ("frames.bin", "numbers.npy")}}

    def signed(tree: Any) -> Any:
        if not isinstance(tree, dict):
            return tree
        rest = {name: value for name, value in tree.items() if name != "sha256"}
        return {**rest, "sha256": digest_of(rest)}

    def keeps(data: bytes) -> object:
        (place / "result.json").write_bytes(data)
        (place / "numbers.npy").write_bytes(array)
        list(kept_results(root))
        return ref.load() if Work(root, Events(), Stop()).keeps(ref) else None

    def load_array(data: bytes) -> object:
        (place / "result.json").write_text(json.dumps(signed(told)))
        (place / "numbers.npy").write_bytes(data)
        found = ref.load()
        return int(np.asarray(found.numbers).size)

    def settled(data: bytes) -> object:
        found = shards.read_errand(data.decode("utf-8", "replace"), Path("s.jsonl"), Path("f.mp4"), CONFIG, root)
        return found.unit, found.cost

    def rows(data: bytes) -> object:
        (root / "rows.json").write_bytes(data)
        return shards.read_units(root / "rows.json", root)

    return (
        Target("result.json", (json.dumps(signed(told)).encode(),), keeps, True, signed, weight=2),
        Target("array.npy", (array, bytes_of(lambda file: np.save(file, np.zeros((3, 4), np.float16)))), load_array, weight=2),
        _plan(folder),
        _claims(folder),
        Target("settled.jsonl", (_errand(),), settled, True),
        Target("settled.json", (b'[["a", 1.5, ["faces/x", "pick/y"]], ["b", 0.0, []]]',), rows, True),
    )


def _plan(folder: Path) -> Target:
    root = folder / "planned"
    root.mkdir()
    (root / "f.mp4").write_bytes(b"film")
    (root / "v.wav").write_bytes(b"voice")
    choices = {name: None if value is None else value for name, value in asdict(settings.Choices()).items()}
    job = {**DubJob(Path("f.mp4"), Path("v.wav"), Path("o.mp4"))._asdict()}
    job = {name: str(value) if isinstance(value, Path) else value for name, value in job.items()}
    files = {name: fingerprint(root / name) for name in ("f.mp4", "v.wav")}
    told = {
        "v": 1,
        "tool": "musetalk",
        "choices": choices,
        "config": {"a": {}},
        "jobs": [job],
        "files": files,
        "shots": [],
        "store": "",
    }

    def ask(data: bytes) -> object:
        (root / "plan.json").write_bytes(data)
        return shards.read_plan(root)

    return Target("plan.json", (json.dumps(told).encode(),), ask, True)


def _claims(folder: Path) -> Target:
    """What lies in claims/, holder and workers/ is told by their names and one line in them."""
    root = folder / "crowd"
    root.mkdir()

    def ask(data: bytes) -> object:
        (root / "claims").mkdir(exist_ok=True)
        (root / "workers").mkdir(exist_ok=True)
        (root / "holder").write_bytes(data)
        (root / "claims" / "unit").write_bytes(data)
        holder_in(root, wait_s=0)
        (root / "holder").unlink()
        with enter(root, "fuzz") as member:
            return member.claim("unit")

    return Target("claims", (b"host-123-shard-1of2", b""), ask, weight=0.1)


def _model_files(folder: Path) -> tuple[Target, ...]:
    """Weights, and what says how they are to be used."""
    models = folder / "models"
    models.mkdir()
    tensors = {"a.weight": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.zeros(2, dtype=torch.float16)}
    (models / "autoencoder.safetensors").write_bytes(save_tensors(tensors))
    pairs = [{"name": "autoencoder.safetensors", "sha256": _sha256(models / "autoencoder.safetensors")}]

    def in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
        def ask(data: bytes) -> object:
            (folder / name).write_bytes(data)
            return read(folder / name)

        return ask

    def manifest(data: bytes) -> object:
        (models / "manifest.json").write_bytes(data)
        return weights.lite_fingerprint(models)

    def moments(file: io.BytesIO) -> None:
        np.savez(file, count=3, mean=np.zeros(2), scatter=np.eye(2))

    return (
        Target("net.safetensors", (save_tensors(tensors),), in_file("n.safetensors", loading.read_tensors), weight=2),
        Target(
            "net.pth", (bytes_of(lambda file: torch.save(tensors, file)),), in_file("n.pth", loading.read_tensors), weight=0.3
        ),
        Target("statistics.npz", (bytes_of(moments),), in_file("s.npz", Moments.load), weight=0.5),
        Target("lite config.json", (json.dumps(asdict(lite.LiteConfig())).encode(),), in_file("l.json", lite.read_config), True),
        Target(
            "net config.json",
            (b'{"sample_size": 64, "block_out_channels": [320, 640], "act_fn": "silu"}',),
            in_file("n.json", loading.read_config),
            True,
        ),
        Target("manifest.json", (json.dumps({"files": pairs}).encode(),), manifest, True),
    )


def _own_records(folder: Path) -> tuple[Target, ...]:
    """What we keep in the cache and beside results."""

    def receipt(data: bytes) -> object:
        batch.receipt_of(folder / "o.mp4").write_bytes(data)
        return batch._receipt(folder / "o.mp4")

    def probe(data: bytes) -> object:
        (folder / "probe.json").write_bytes(data)
        return predict._kept_probe(folder / "probe.json")

    def accepted(data: bytes) -> object:
        record().parent.mkdir(parents=True, exist_ok=True)
        record().write_bytes(data)
        return licences._read()

    said = json.dumps(asdict(batch.Receipt("a.mp4", "done", ("o.mp4",)))).encode()
    return (
        Target("receipt.json", (said,), receipt, True),
        Target("prediction.json", (_probe(),), probe, True),
        Target("licences.json", (b'{"v15": {"sha256": "00", "at": "2026-01-01"}}',), accepted, True),
    )


def _report() -> bytes:
    return report_files.as_json(made_report(shots=2, frames=5, found=2)).encode()


def _journal() -> bytes:
    events = ({"event": "run.start"}, {"event": "stage.done", "stage": "demux", "unit": "film", "seconds": 0.5, "reused": False})
    return b"\n".join(json.dumps({"t": 1.0, **event}).encode() for event in (*events, *events[1:]))


def _probe() -> bytes:
    ran = Ran(10, 10, 10, 1.0, 1.0, 0.1, 0.8, 1, {"demux": StageCost(0.5, False, 100)})._asdict()
    return json.dumps(
        {"start_s": 1.0, "cold": ran, "warm": ran, "long": ran, "plain_s": 0.01, "workers": 2, "crowd": ran}
    ).encode()


def _errand() -> bytes:
    line = Line(track=0, start=0, stop=5, voice=0)
    refs: list[Ref[Any]] = [Ref(f"{n:064x}", name, "u", Path("x"), object) for n, name in enumerate(("demux", "pick", "listen"))]
    errand = DubShot(Path("f.mp4"), CONFIG, Shot(0, 0, 5), refs[0], refs[1], Voicing((line,)), (refs[2],), (Stretch(0, 5),), None)
    return json.dumps(shards.errand_as_json(errand)).encode()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
