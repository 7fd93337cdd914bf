"""The training loop on toys: exact resume, several processes, accumulation, what is not finite, what is not asked for."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from musetalk_cli.errors import InterruptedRun, MissingError, UsageError
from musetalk_cli.signals import Stop
from musetalk_cli.training.checkpoint import checkpoints, load_checkpoint, newest
from musetalk_cli.training.loop import (
    CHECKPOINTS,
    Answer,
    LoopConfig,
    Nets,
    Pair,
    Run,
    Trained,
    gradients,
    open_run,
    rate_at,
    train,
    update,
)
from musetalk_cli.training.report import Validation, read_metrics

CONFIG = LoopConfig(
    steps=12,
    batch=4,
    rate=0.02,
    warmup=2,
    discriminator_rate=0.01,
    log_every=1,
    checkpoint_every=100,
    checkpoint_minutes=1000,
    ema=0.9,
    weight_decay=0.01,
)


class Row(NamedTuple):
    given: np.ndarray  # (3, 8, 8)
    wanted: np.ndarray  # (3, 8, 8)


class ToyRows:
    def row(self, random: np.random.Generator) -> Row:
        given = random.normal(size=(3, 8, 8)).astype(np.float32)
        return Row(given, given[::-1].copy())


class Toy:
    """A generator and a discriminator in small, with every kind of thing that a run must remember."""

    def __init__(self, *, noisy: bool = True, adversarial_from: int = 0, weights: Mapping[str, float] | None = None) -> None:
        torch.manual_seed(0)
        body = [nn.Conv2d(3, 8, 3, padding=1), nn.SiLU(), *([nn.Dropout(0.2)] if noisy else []), nn.Conv2d(8, 3, 1)]
        self.networks = {"generator": nn.Sequential(*body)}
        critic = nn.Sequential(spectral_norm(nn.Conv2d(3, 4, 3)), nn.InstanceNorm2d(4, affine=True), nn.Conv2d(4, 1, 1))
        nn.init.normal_(critic[0].parametrizations.weight.original)  # type: ignore[union-attr, arg-type]  # its norm is not known yet
        self.discriminators = {"face": critic}
        self.rows = ToyRows()
        self.noisy, self.adversarial_from = noisy, adversarial_from
        self.given_weights = weights or {"l1": 1.0, "adv_face": 0.1}
        self.computed: list[str] = []
        self.poison: set[int] = set()
        self.poisoned = "loss"
        self.micro = 0
        self.stop_at, self.stop = -1, Stop()

    def weights(self, step: int) -> Mapping[str, float]:
        late = {"adv_face"} if step < self.adversarial_from else set()
        if step == self.stop_at:
            self.stop.number = signal.SIGTERM
        return {name: weight for name, weight in self.given_weights.items() if weight and name not in late}

    def to(self, device: torch.device) -> None:
        pass

    def generator_terms(self, networks: Nets, discriminators: Nets, batch: Row, weights: Mapping[str, float]) -> Answer:
        answer = networks["generator"](batch.given)
        noise = (random.random() + np.random.rand() + float(torch.rand(()))) * 0.01 if self.noisy else 0.0  # noqa: NPY002
        known = {
            "l1": lambda: (answer - batch.wanted).abs().mean() * (1 + noise),
            "l2": lambda: (answer - batch.wanted).square().mean(),
            "adv_face": lambda: -discriminators["face"](answer).mean(),
        }
        terms: dict[str, Tensor] = {}
        for name in weights:
            self.computed.append(name)
            terms[name] = known[name]()
        if self.micro in self.poison:
            bad = terms["l1"] * float("nan") if self.poisoned == "loss" else (answer * 0).abs().sum().sqrt()  # its slope at 0
            terms["l1"] = terms["l1"] + bad
        self.micro += 1
        return Answer(terms, {"face": Pair(answer, batch.wanted)} if "adv_face" in weights else {})

    def discriminator_terms(self, discriminators: Nets, pairs: Mapping[str, Pair]) -> dict[str, Tensor]:
        scores = discriminators["face"](torch.cat(pairs["face"]))
        fake, real = scores.chunk(2)
        return {"d_face": (1 - real).square().mean() + fake.square().mean()}

    def validate(self, networks: Nets) -> Validation | None:
        picture = np.zeros((4, 4, 3), np.uint8)
        return Validation({"mean": float(next(networks["generator"].parameters()).mean())}, {"strip": picture})


def _run(out: Path, config: LoopConfig = CONFIG, toy: Toy | None = None) -> Trained:
    toy = toy or Toy()
    return train(toy, config, out, stop=toy.stop, cpu=True)


def _state(out: Path) -> dict[str, Tensor]:
    """Everything in the newest checkpoint."""
    found = newest(out / CHECKPOINTS)
    assert found
    return {f"{table}/{name}": value for table, rows in load_checkpoint(found).tables.items() for name, value in rows.items()}


def _assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_stopped_and_resumed_run_equals_an_unbroken_one_bit_for_bit(tmp_path: Path) -> None:
    _run(tmp_path / "whole")
    for step in (3, 8):
        toy = Toy()
        toy.stop_at = step
        with pytest.raises(InterruptedRun) as raised:
            _run(tmp_path / "cut", toy=toy)
        assert raised.value.exit_code == 143
        assert newest(tmp_path / "cut" / CHECKPOINTS).name == f"step-{step + 1:08}"  # type: ignore[union-attr]
    assert _run(tmp_path / "cut").step == 12
    whole, cut = _state(tmp_path / "whole"), _state(tmp_path / "cut")
    assert {"network.generator", "average.generator", "discriminator.face", "optimiser.networks", "optimiser.discriminators"} == {
        name.split("/")[0] for name in whole
    }
    _assert_same(whole, cut)


def test_run_killed_at_any_moment_resumes_from_its_last_checkpoint(tmp_path: Path) -> None:
    """A real kill -9, in the middle of the run, of a process of its own."""
    script = (
        "import sys, os, signal; sys.path.insert(0, sys.argv[1]); from pathlib import Path; import test_loop as t\n"
        f"t.torch.set_num_threads({torch.get_num_threads()})\n"  # another number sums in another order
        "toy, step = t.Toy(), [0]\n"
        "def weights(n, usual=toy.weights):\n"
        "    if n == 7: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return usual(n)\n"
        "toy.weights = weights\n"
        "t._run(Path(sys.argv[2]), t.replace(t.CONFIG, checkpoint_every=5), toy)\n"
    )
    out = tmp_path / "killed"
    killed = subprocess.run([sys.executable, "-c", script, str(Path(__file__).parent), str(out)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    (out / CHECKPOINTS / "part.step-00000007").mkdir()  # as a kill while saving leaves it
    assert [path.name for path in checkpoints(out / CHECKPOINTS)] == ["step-00000005"]
    _run(out)
    _run(tmp_path / "whole")
    _assert_same(_state(tmp_path / "whole"), _state(out))
    assert [record["step"] for record in read_metrics(out)] == list(range(1, 13))
    assert not (out / CHECKPOINTS / "part.step-00000007").exists()


def test_rows_made_by_workers_are_the_same(tmp_path: Path) -> None:
    _run(tmp_path / "own", replace(CONFIG, steps=4))
    _run(tmp_path / "workers", replace(CONFIG, steps=4, workers=1))
    _assert_same(_state(tmp_path / "own"), _state(tmp_path / "workers"))


def _gradients(run: Run) -> dict[str, Tensor]:
    gradients(run)
    nets = {**run.trainee.networks, **run.trainee.discriminators}
    return {f"{n}.{path}": p.grad.clone() for n, net in nets.items() for path, p in net.named_parameters() if p.grad is not None}


def test_two_micro_batches_give_the_gradients_of_one_twice_as_large(tmp_path: Path) -> None:
    large = _gradients(open_run(Toy(noisy=False), replace(CONFIG, batch=8), tmp_path, cpu=True))
    small = _gradients(open_run(Toy(noisy=False), replace(CONFIG, batch=4, accumulate=2), tmp_path, cpu=True))
    assert large.keys() == small.keys() and any(name.startswith("face.") for name in large)
    for name, wanted in large.items():
        torch.testing.assert_close(small[name], wanted, rtol=1e-4, atol=1e-6)


def _process(rank: int, port: int, out: str) -> None:
    """One of two processes: three updates, then the gradients of the fourth."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    run = open_run(Toy(noisy=False), replace(CONFIG, batch=2, accumulate=2), Path(out), cpu=True)
    assert run.accelerator.num_processes == 2
    torch.save(_gradients(run), Path(out) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def _both(port: int, out: Path) -> None:
    """Wait for the two, but not for ever: processes that lost each other wait without end."""
    children = torch.multiprocessing.spawn(_process, (port, str(out)), nprocs=2, join=False)  # type: ignore[no-untyped-call]
    until = time.monotonic() + 180
    try:
        while not children.join(timeout=1):
            assert time.monotonic() < until, "the two processes do not come to an end"
    finally:
        for process in children.processes:
            process.kill()


def test_two_processes_give_the_gradients_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Discriminators included, over gloo."""
    single = _gradients(open_run(Toy(noisy=False), replace(CONFIG, batch=4, accumulate=2), tmp_path / "one", cpu=True))
    port = _free_port()
    _both(port, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert single.keys() == first.keys() and {"face.0.parametrizations.weight.original", "generator.0.weight"} <= first.keys()
    for name, wanted in single.items():
        torch.testing.assert_close(first[name], second[name], rtol=0, atol=0)
        torch.testing.assert_close(first[name], wanted, rtol=1e-4, atol=1e-6)


def test_step_counts_updates_whatever_the_accumulation(tmp_path: Path) -> None:
    toy = Toy()
    done = _run(tmp_path, replace(CONFIG, steps=3, accumulate=4), toy)
    assert done.step == 3 and toy.micro == 12


@pytest.mark.parametrize(("poisoned", "told"), [("loss", "loss/l1"), ("gradient", "not finite: grad/generator")])
def test_update_that_is_not_finite_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], poisoned: str, told: str
) -> None:
    toy = Toy(noisy=False)
    toy.poison, toy.poisoned = {2}, poisoned
    _run(tmp_path, replace(CONFIG, steps=4), toy)
    state = _state(tmp_path)
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert state["optimiser.networks/generator.0.weight/step"] == 3
    assert told in capsys.readouterr().err
    assert read_metrics(tmp_path)[-1]["skipped"] == 1


def test_run_that_is_never_finite_ends_with_a_clear_error(tmp_path: Path) -> None:
    toy = Toy()
    toy.poison = set(range(100))
    with pytest.raises(UsageError, match="5 updates in a row.*loss/l1"):
        _run(tmp_path, replace(CONFIG, steps=100, bad_in_a_row=5), toy)


def test_terms_without_weight_are_not_computed_and_discriminators_wait(tmp_path: Path) -> None:
    toy = Toy(weights={"l1": 1.0, "l2": 0.0, "adv_face": 0.1}, adversarial_from=3)
    before = {name: value.clone() for name, value in toy.discriminators["face"].named_parameters()}
    _run(tmp_path / "a", replace(CONFIG, steps=3), toy)
    assert set(toy.computed) == {"l1"}
    assert all(torch.equal(before[name], value) for name, value in toy.discriminators["face"].named_parameters())
    _run(tmp_path / "a", replace(CONFIG, steps=4), toy)
    assert set(toy.computed) == {"l1", "adv_face"}
    assert not torch.equal(
        before["0.parametrizations.weight.original"], toy.discriminators["face"][0].parametrizations.weight.original
    )  # type: ignore[index]


def test_each_term_is_logged_by_its_name(tmp_path: Path) -> None:
    _run(tmp_path, replace(CONFIG, steps=2, validate_every=1))
    first, *_ = read_metrics(tmp_path)
    assert {"loss/l1", "loss/adv_face", "loss/d_face", "grad/generator", "grad/face", "rate", "samples_per_s"} <= first.keys()
    assert "val/mean" in read_metrics(tmp_path)[1]
    assert sorted(path.name for path in (tmp_path / "strips").iterdir()) == ["strip-00000001.png", "strip-00000002.png"]
    assert list((tmp_path / "tensorboard").iterdir())


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    _run(tmp_path, replace(CONFIG, checkpoint_every=3, keep=2))
    assert [path.name for path in checkpoints(tmp_path / CHECKPOINTS)] == ["step-00000009", "step-00000012"]


def test_damaged_checkpoint_is_named_with_its_cure(tmp_path: Path) -> None:
    _run(tmp_path, replace(CONFIG, steps=1))
    path = newest(tmp_path / CHECKPOINTS)
    assert path
    (path / "network.generator.safetensors").write_bytes(b"nothing")
    with pytest.raises(MissingError, match="step-00000001.*remove that folder"):
        _run(tmp_path)


def test_minutes_end_a_run_with_a_checkpoint(tmp_path: Path) -> None:
    done = _run(tmp_path, replace(CONFIG, steps=100_000, minutes=0.002))
    assert 0 < done.step < 100_000
    assert newest(tmp_path / CHECKPOINTS).name == f"step-{done.step:08}"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("schedule", "share", "step", "wanted"),
    [
        ("constant", 0.5, 100, 1.0),
        ("linear", 0.25, 100, 0.75),
        ("cosine", 0.5, 100, 0.5),
        ("linear", 1.0, 100, 0.0),
        ("linear", 0.0, 0, 0.1),
        ("linear", 0.0, 4, 0.5),
    ],
)
def test_rate_warms_up_and_falls(schedule: Any, share: float, step: int, wanted: float) -> None:
    config = LoopConfig(steps=1000, rate=1.0, warmup=10, schedule=schedule)
    assert rate_at(share, step, config) == pytest.approx(wanted)


def test_half_precision_on_a_cpu_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fp16"):
        _run(tmp_path, replace(CONFIG, precision="fp16"))


def test_bfloat16_runs(tmp_path: Path) -> None:
    assert _run(tmp_path, replace(CONFIG, steps=2, precision="bf16")).step == 2


def test_loss_scale_is_shared_by_both_optimisers_and_leaves_the_steps_as_they_were(tmp_path: Path) -> None:
    """fp16's scaler, which a GPU has; scaling by a power of two changes no bit."""
    plain, scaled = (open_run(Toy(noisy=False), CONFIG, tmp_path, cpu=True) for _ in range(2))
    scaled.accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=2)
    for _ in range(5):
        update(plain)
        update(scaled)
    for one, other in zip(_parameters(plain), _parameters(scaled), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    assert scaled.accelerator.scaler.get_scale() == 2.0**12
    scaled.trainee.poison = {scaled.trainee.micro}  # type: ignore[attr-defined]
    update(scaled)
    assert scaled.accelerator.scaler.get_scale() == 2.0**11 and scaled.skipped == 1


def _parameters(run: Run) -> list[Tensor]:
    return [p for nets in (run.trainee.networks, run.trainee.discriminators) for net in nets.values() for p in net.parameters()]


def _free_port() -> int:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
