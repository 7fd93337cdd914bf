"""Promises of the figures: time goes to the work that took it, sums are whole, two editions do the same work in turn, the published way
pastes where it should, what is not known is said."""

import faulthandler
import json
import tempfile
import threading
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import FunctionType, SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import av
import numpy as np
import pytest
import torch
from made_films import clip
from numpy.typing import NDArray

from musetalk_cli.bench import film as footage
from musetalk_cli.bench import machine, measure, meter, reference, steps
from musetalk_cli.bench.against import compare
from musetalk_cli.bench.kinds import (
    KINDS,
    PACKAGE,
    Call,
    Kind,
    Looker,
    Stack,
    apportioned,
    kind_of,
    kind_of_stack,
    read_stacks,
    waits_for_child,
)
from musetalk_cli.bench.machine import Ceiling, matmul_ceiling
from musetalk_cli.bench.measure import Bench, Options, Shares, StageSpeed, bench_film, measured
from musetalk_cli.bench.meter import Meter, Sample, merge, use_of
from musetalk_cli.bench.plot import write_plot
from musetalk_cli.bench.random_weights import drawn, published_nets
from musetalk_cli.cli import run
from musetalk_cli.config import ModelConfig
from musetalk_cli.errors import InternalError, MissingError, UsageError
from musetalk_cli.models.family import Plan
from musetalk_cli.settings import Choices

RATE: dict[Kind, float] = {"network": 0.03, "blending": 0.01}


def of_file(file: str, function: FunctionType) -> FunctionType:
    """The same function, which Python takes for one of that file of the package."""
    return FunctionType(function.__code__.replace(co_filename=f"{PACKAGE}{file}"), function.__globals__)


def here() -> Stack:
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return read_stacks(file.read().decode())[threading.get_ident()]


def here_within() -> Stack:
    return here()


def run_ffmpeg() -> Stack:
    return here()


def compute() -> None:
    end = time.thread_time() + 0.15
    while time.thread_time() < end:
        pass


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("models/lite.py", "network"),
        ("models/analysis.py", "detector"),
        ("models/parsing.py", "detector"),
        ("media/video.py", "codec"),
        ("media/shots.py", "detector"),
        ("media/planes.py", "blending"),
        ("stages/s5_blend.py", "blending"),
        ("stages/s3_masks.py", "blending"),
        ("crop.py", "blending"),
        ("work.py", "python"),
        ("stages/s2_decide.py", "python"),
    ],
)
def test_a_file_says_what_kind_of_work_it_is(file: str, kind: str) -> None:
    assert (Path(PACKAGE) / file).is_file()
    assert kind_of(f"{PACKAGE}{file}") == kind
    assert kind_of_stack(of_file(file, here)()) == kind


def test_numpy_counts_for_who_called_it_and_an_import_for_itself() -> None:
    assert kind_of(np.__file__) is None
    inner = of_file("media/grain.py", here_within)
    assert kind_of_stack(inner()) == "blending"
    assert kind_of_stack((Call("<frozen importlib._bootstrap>", "_load"), *inner())) == "imports"
    assert kind_of_stack(()) == "python"


def test_stacks_of_all_threads_are_read() -> None:
    told = (
        'Thread 0x00007f56bebfa6c0 (most recent call first):\n  File "/a b/video.py", line 260 in write\n  File "x.py", line ??? in f\n\n'
        'Current thread 0x00007f57695296c0 [meter] (most recent call first):\n  File "<frozen importlib._bootstrap>", line 2 in g\n'
    )
    assert read_stacks(told) == {
        0x7F56BEBFA6C0: (Call("/a b/video.py", "write"), Call("x.py", "f")),
        0x7F57695296C0: (Call("<frozen importlib._bootstrap>", "g"),),
    }


@pytest.mark.parametrize(
    ("used", "child", "told"),
    [
        ({}, False, {"waiting": 0.04}),
        ({}, True, {"codec": 0.04}),
        (RATE, False, {"network": 0.03, "blending": 0.01, "waiting": 0.0}),
        ({"network": 0.06, "blending": 0.02}, False, {"network": 0.03, "blending": 0.01, "waiting": 0.0}),  # two cores
        ({"blending": 0.01}, False, {"blending": 0.01, "waiting": 0.03}),
        ({"blending": 0.01}, True, {"blending": 0.01, "codec": 0.03}),
    ],
)
def test_wall_time_is_shared_out_whole_by_cpu_time(used: dict[Kind, float], child: bool, told: dict[str, float]) -> None:
    found = apportioned(0.04, used, child=child)
    assert found == pytest.approx(told)
    assert sum(found.values()) == pytest.approx(0.04)


@pytest.mark.skipif(not Looker.able(), reason="this system does not tell of single threads")
def test_work_of_a_thread_is_found_as_what_it_is_and_sleep_is_waiting() -> None:
    work = of_file("media/planes.py", compute)
    with Meter(stacks=True) as seen:
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        time.sleep(0.1)
    kinds = seen.kinds
    assert kinds is not None
    assert kinds["blending"] >= 0.1
    assert kinds["waiting"] >= 0.08
    assert kinds["network"] == kinds["codec"] == 0


def test_who_waits_for_ffmpeg_is_known() -> None:
    assert waits_for_child(of_file("media/ffmpeg.py", run_ffmpeg)())
    assert not waits_for_child(run_ffmpeg())
    assert not waits_for_child(here())


def test_use_of_a_stretch_is_between_its_samples() -> None:
    samples = [Sample(t, cpu, memory, gpu, 7) for t, cpu, memory, gpu in ((0, 0, 5, 0.5), (1, 2, 9, 1.0), (2, 2, 6, 0.0))]
    busy = use_of(samples, [(0.0, 1.0)], cores=2)
    assert (busy.cpu_busy, busy.gpu_busy, busy.memory, busy.gpu_memory) == (1.0, 0.5, 5, 7)
    assert use_of(samples, [(1.0, 2.0)], cores=2).cpu_busy == 0
    assert use_of(samples, [(0.5, 1.0), (0.75, 1.5)], cores=2).cpu_busy == pytest.approx(0.5)
    assert use_of(samples, [(0.2, 0.21)], cores=4).memory == 6  # too short for a sample: the last one


def test_stretches_that_overlap_count_once() -> None:
    assert merge([(3, 4), (0, 2), (1, 2.5), (2.5, 2.6)]) == [(0, 2.6), (3, 4)]


def test_without_nvml_the_gpu_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(meter, "import_module", missing)
    assert meter.open_nvml(0) is None
    assert Meter("cuda:0").note == meter.NO_NVML
    assert Meter("cpu").note == ""


def test_nvml_tells_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = SimpleNamespace(gpu=83)
    fake = SimpleNamespace(
        NVMLError=OSError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByIndex=lambda number: number,
        nvmlDeviceGetUtilizationRates=lambda handle: rates,
    )
    monkeypatch.setattr(meter, "import_module", lambda name: fake)
    busy = meter.open_nvml(1)
    assert busy is not None and busy() == 0.83


def test_the_peak_is_not_below_what_is_there() -> None:
    assert meter.peak_resident() >= meter.resident() > 0


def test_stages_are_summed_over_shots_and_told_by_their_own_time() -> None:
    def event(name: str, unit: str, at: int, seconds: float | None = None) -> dict[str, Any]:
        more = {} if seconds is None else {"seconds": seconds}
        return {"event": name, "stage": "blend", "unit": unit, "t": f"2026-01-01T00:00:{at:02d}+00:00", **more}

    start = {"event": "run.start", "frames": 50, "seconds": 2.0, "model": "lite"}
    events = [start, *(event("stage.start", u, t) for u, t in (("0", 0), ("1", 2)))]
    events += [event("stage.done", "0", 1, 1.0), event("stage.done", "1", 4, 2.0)]
    at = 1767225600.0  # that midnight
    samples = [Sample(at + t, 2.0 * min(t, 2), 10 * t, None, 0) for t in range(6)]  # two cores busy for two seconds
    (stage,) = measured(Path("f.mp4"), events, samples).stages
    assert (stage.stage, stage.seconds, stage.fps) == ("blend", 3.0, 16.67)
    assert stage.cpu_busy == pytest.approx(2 / (3 * machine.cores()), abs=1e-3)
    assert stage.gpu_busy is None
    assert stage.memory_mb == round(30 / 1e6, 1)


def test_overhead_is_blending_imports_and_python() -> None:
    seconds: dict[Kind, float] = dict.fromkeys(KINDS, 1.0) | {"network": 5.0, "waiting": 2.0}
    seen: Any = SimpleNamespace(kinds=seconds)
    found = measure.shares_of(seen, 12.0)
    assert found is not None
    assert (found.overhead, found.of_work) == (0.25, 0.3)


def test_a_film_is_made_in_full_hd_with_voices_as_long_and_only_once(tmp_path: Path) -> None:
    made = footage.generated(0.4, tmp_path)
    with av.open(str(made.film)) as file:
        picture = file.streams.video[0]
        shown = (picture.width, picture.height, picture.average_rate, picture.frames)
        assert shown == (1920, 1080, Fraction(25), 10)
        assert file.streams.audio
    for voice in (made.voice, made.other_voice):
        with av.open(str(voice)) as file:
            assert float(file.duration or 0) / 1e6 == pytest.approx(0.4, abs=0.02)
    assert made.voice.read_bytes() != made.other_voice.read_bytes()
    before = made.film.stat().st_mtime_ns
    assert footage.generated(0.4, tmp_path) == made
    assert made.film.stat().st_mtime_ns == before


def test_without_examples_a_film_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footage, "EXAMPLES", tmp_path)
    with pytest.raises(MissingError, match="give a FILM"):
        footage.generated(1, tmp_path)


def test_the_ceiling_is_the_best_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = {(8, 8, 8): 1.0, (16, 16, 16): 3.0, (16, 4, 4): 2.0}
    monkeypatch.setattr(machine, "SHAPES", tuple(rates))
    monkeypatch.setattr(machine, "_rate", lambda shape, device, dtype: rates[shape])
    assert matmul_ceiling("cpu", "bf16") == Ceiling(3.0, (16, 16, 16), "bf16")


def test_a_multiplication_has_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(machine, "TRIES_S", 0.01)
    assert matmul_ceiling("cpu", "fp32").gflops > 0.1


def test_the_published_architecture_is_the_published_one() -> None:
    unet, _ = published_nets()
    sizes = [tensor.numel() for tensor in unet.state_dict().values()]
    assert (len(sizes), sum(sizes)) == (686, 849_947_844)
    found = steps.gflop_a_row(ModelConfig("v15"), steps.noise(1, 4))
    assert found == pytest.approx({"infer": 170, "decode": 620, "encode": 2 * 271}, rel=0.05)


def test_random_kernels_keep_activations_of_one_size() -> None:
    net = torch.nn.Sequential(*(torch.nn.Conv2d(64, 64, 3, padding=1) for _ in range(8)))
    net.load_state_dict(drawn(net.state_dict(), 0, torch.float32))
    with torch.inference_mode():
        assert 0.2 < float(net(torch.randn(1, 64, 16, 16)).std()) < 5
    other = drawn(net.state_dict(), 1, torch.float32)
    assert not torch.equal(other["0.weight"], net.state_dict()["0.weight"])
    assert not other["0.bias"].any()


class ToyFamily:
    """Takes 2 ms a call."""

    name, latent_channels = "toy", 4

    def encode(self, crops_rgb: NDArray[np.uint8]) -> Any:
        time.sleep(0.002)

    def infer(self, masked: Any, reference: Any, windows: Any, lent: Any, *, fp32: bool = False) -> Any:
        time.sleep(0.002)

    def decode(self, latents: Any) -> Any:
        time.sleep(0.002)

    def plan(self, points: NDArray[np.float32], windows: Any, track: Any) -> Plan:
        return Plan(points, np.arange(len(points)))


def test_steps_are_faces_a_second_and_a_share_of_the_ceiling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "LEAST_S", 0.02)
    monkeypatch.setattr(steps, "gflop_a_row", lambda config, rows: {"encode": 1.0, "infer": 2.0, "decode": 0.0})
    toy: Any = ToyFamily()
    found = {
        step.name: step for step in steps.measure_steps(toy, ModelConfig(), steps.noise(4, 4), Ceiling(10_000, (1, 1, 1), "fp32"))
    }
    assert 300 < found["infer"].rows_a_second < 2000
    assert found["infer"].share == pytest.approx(2 * found["infer"].rows_a_second / 10_000, rel=0.01)
    assert found["decode"].share is None  # nothing was counted
    assert found["infer + decode"].rows_a_second == pytest.approx(found["infer"].rows_a_second / 2, rel=0.5)


def test_rows_repeat_where_there_are_too_few() -> None:
    rows = steps.noise(3, 4)
    assert np.array_equal(rows.first(5).masked, rows.masked[[0, 1, 2, 0, 1]])


def test_a_plot_is_well_formed_and_names_what_it_shows(tmp_path: Path) -> None:
    shares = Shares(dict.fromkeys(KINDS, 1.0), 0.4, 0.5)
    found = Bench(Path("a&b.mp4"), "lite", 10, (StageSpeed("faces", 1.0, 10.0), StageSpeed("blend", 2.0, 5.0)), shares=shares)
    write_plot(tmp_path / "plot.svg", [found, found])
    drawn_ = ElementTree.parse(tmp_path / "plot.svg").getroot()
    told = " ".join(drawn_.itertext())
    assert all(word in told for word in ("faces", "blend", "codec", "waiting"))
    assert not (tmp_path / "part.plot.svg").exists()


FAKE = """
import json, pathlib, sys, time
if "--help" in sys.argv:
    print("--no-report" if NEW else "")
    sys.exit()
work = pathlib.Path(sys.argv[sys.argv.index("--work-dir") + 1])
work.mkdir()
time.sleep(PACE)
log = pathlib.Path(__file__).parents[2] / "log"
with log.open("a") as file: file.write(json.dumps([NEW, sys.argv[1:]]) + chr(10))
(work / "run.jsonl").write_text(json.dumps({"event": "stage.done", "stage": "blend", "seconds": PACE}) + chr(10))
sys.exit(CODE)
"""


def checkout(folder: Path, name: str, pace: float, code: int = 0) -> Path:
    package = folder / name / "musetalk_cli"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(f"NEW, PACE, CODE = {name == 'new'}, {pace}, {code}\n{FAKE}")
    return folder / name


def test_editions_dub_in_turn_with_the_flags_they_know(tmp_path: Path) -> None:
    new, old = checkout(tmp_path, "new", 0.0), checkout(tmp_path, "old", 0.5)
    found = compare(Path("f.mp4"), Path("v.wav"), old, ["--model", "lite"], 2, this=new, quiet=True)
    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [is_new for is_new, _ in told] == [True, False, False, True]
    assert all(arguments[0] == "dub" and arguments[-2:] == ["--model", "lite"] for _, arguments in told)
    assert [("--no-report" in arguments) for _, arguments in told] == [True, False, False, True]
    assert found.wall.median > 1.5 and found.wall.least <= found.wall.median <= found.wall.most
    assert [pair[1].stages for pair in found.pairs] == [{"blend": 0.5}] * 2
    assert json.loads(json.dumps(found.as_json()))["pairs"][0]["other"]["stages"] == {"blend": 0.5}


def test_a_dub_that_fails_is_told_and_no_checkout_is_refused(tmp_path: Path) -> None:
    new, bad = checkout(tmp_path, "new", 0.0), checkout(tmp_path, "bad", 0.0, code=3)
    with pytest.raises(InternalError, match="ended with 3"):
        compare(Path("f.mp4"), Path("v.wav"), bad, [], 1, this=new, quiet=True)
    with pytest.raises(UsageError, match="no checkout"):
        compare(Path("f.mp4"), Path("v.wav"), tmp_path, [], 1, this=new, quiet=True)


def test_the_published_paste_changes_the_lower_face_alone() -> None:
    frame = np.full((120, 160, 3), 100, np.uint8)
    mouth = np.full((256, 256, 3), 200, np.uint8)
    box = (60, 30, 100, 80)
    pasted = reference.pasted_face(frame, mouth, box, lambda rgb: np.full((512, 512), 255, np.uint8))
    changed = (pasted != frame).any(2)
    assert changed[60:78, 62:98].all()
    assert not changed[:50].any() and not changed[85:].any() and not changed[:, :55].any() and not changed[:, 106:].any()


def test_the_published_loop_answers_every_row_in_batches() -> None:
    asked: list[int] = []

    def unet(given: torch.Tensor, step: torch.Tensor, encoder_hidden_states: torch.Tensor) -> Any:
        asked.append(len(given))
        assert given.shape[1:] == (8, 32, 32) and encoder_hidden_states.shape[1:] == (50, 384)
        return SimpleNamespace(sample=given[:, :4] * 0 + reference.LATENT_SCALE)

    def decode(latents: torch.Tensor) -> Any:
        picture = torch.nn.functional.interpolate(latents[:, :3], scale_factor=8)
        picture[:, 0] = -1.0  # red
        return SimpleNamespace(sample=picture)

    nets = reference.Nets(unet, SimpleNamespace(decode=decode), "cpu", torch.float32)
    made = reference.generate(nets, steps.noise(11, 4))
    assert asked == [8, 3]
    assert len(made) == 11 and made[0].shape == (256, 256, 3)
    assert made[0][0, 0].tolist() == [255, 255, 0]  # BGR


@pytest.mark.parametrize(
    "arguments",
    [("--against", ".", "--reference"), ("--random-weights", "--model", "lite"), ("film.mp4", "--further")],
)
def test_what_does_not_fit_together_is_refused(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", *arguments, "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "usage"


def test_a_real_dub_is_measured(tmp_path: Path, make_speech: Callable[..., Path]) -> None:
    """Every kind of work is in it, and their sum is the wall time."""
    film, voice = clip(tmp_path), make_speech(tmp_path / "fr.wav", seconds=0.4)
    found = bench_film(film, voice, Choices("lite", device="cpu"), quiet=True, options=Options(share=True, steps=False))
    assert (found.frames, found.model, found.device) == (8, "lite", "cpu")
    assert {"faces", "latents", "inference", "blend"} <= {stage.stage for stage in found.stages}
    assert found.wall_s >= found.seconds * 0.9 and found.cpu_s > 0
    assert found.peak_memory_mb > 100 and found.peak_gpu_memory_mb == 0
    assert found.machine is not None and found.machine.cores >= 1
    if found.shares is not None:
        assert sum(found.shares.seconds.values()) == pytest.approx(found.wall_s, rel=0.1, abs=0.3)
        assert found.shares.seconds["network"] > 0 and 0 < found.shares.overhead <= found.shares.of_work <= 1
    assert json.loads(json.dumps(found.as_json()))["stages"][0]["fps"] > 0
    assert any("times real time" in line for line in found.lines())
