"""How fast and how near the published nets run on this machine: every precision and batch, fast against exact in full precision.

    python examples/measure_gpu.py                         random weights of the true sizes, all that the device can do
    python examples/measure_gpu.py --weights FOLDER        the real ones, laid out as `musetalk weights pull v15` does
    python examples/measure_gpu.py --device cpu --rows 2 --batch 1

For each precision and batch: rows a second of encode, infer and decode, share of the fastest matrix multiplication (infer + decode), and
how far decoded crops are from the exact ones (PSNR, largest and mean difference in levels of 255). Needs 12 GB of memory on a CPU.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from musetalk_cli.bench.machine import machine, matmul_ceiling
from musetalk_cli.bench.random_weights import random_v15
from musetalk_cli.bench.steps import Rows, gflop_a_row, noise
from musetalk_cli.config import ModelConfig, Precision
from musetalk_cli.models.family import Numbers
from musetalk_cli.models.published import PublishedModel, load_published

PRECISIONS: dict[str, tuple[Precision, ...]] = {"cuda": ("fp32", "fp16", "bf16"), "cpu": ("fp32", "bf16")}
BATCHES = (1, 4, 8, 16, 32, 64)


def main() -> None:
    """Print a line for each measurement; with --json, write them too."""
    asked = _arguments()
    device = torch.device(asked.device)
    rows = noise(asked.rows, 4)
    print(" | ".join(str(value) for value in machine(asked.device)))
    with _weights(asked.weights) as folder:
        exact = load_published("v15", folder, device, Numbers("fp32", exact=True))
        wanted = exact.decode(exact.infer(rows.masked, rows.reference, rows.windows))
        lines = [_line(exact, "fp32 exact", rows, 8, None, "fp32", device)]
        del exact
        for precision in PRECISIONS[device.type]:
            model = load_published("v15", folder, device, Numbers(precision, exact=False))
            lines += [_line(model, f"{precision} fast", rows, size, wanted, precision, device) for size in asked.batch]
            del model
    if asked.json:
        asked.json.write_text(json.dumps(lines, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--weights", type=Path, help="a folder of real ones")
    parser.add_argument("--rows", type=int, default=64, help="faces that are worked on in each measurement")
    parser.add_argument("--batch", type=int, nargs="+", default=BATCHES, help="rows given at once")
    parser.add_argument("--json", type=Path, help="write the figures here")
    return parser.parse_args()


@contextmanager
def _weights(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with random_v15() as made:
        yield made


def _line(
    model: PublishedModel,
    name: str,
    rows: Rows,
    size: int,
    wanted: NDArray[np.uint8] | None,
    precision: Precision,
    device: torch.device,
) -> dict[str, Any]:
    """Measured and printed. size: rows at once. wanted: exact crops to be near to."""
    parts = [slice(start, start + size) for start in range(0, len(rows.masked), size)]
    answer = np.concatenate([model.infer(rows.masked[part], rows.reference[part], rows.windows[part]) for part in parts])
    made = np.concatenate([model.decode(answer[part]) for part in parts])
    steps: dict[str, Callable[[slice], object]] = {
        "encode": lambda part: model.encode(rows.crops[part]),
        "infer": lambda part: model.infer(rows.masked[part], rows.reference[part], rows.windows[part]),
        "decode": lambda part: model.decode(answer[part]),
    }
    seconds = {step: _seconds(run, parts) / len(made) for step, run in steps.items()}
    gflop, ceiling = gflop_a_row(ModelConfig("v15"), rows), matmul_ceiling(str(device), precision)
    both = seconds["infer"] + seconds["decode"]
    line: dict[str, Any] = {"name": name, "batch": size, **{step: round(1 / spent, 2) for step, spent in seconds.items()}}
    line |= {"both": round(1 / both, 2), "share": round((gflop["infer"] + gflop["decode"]) / both / ceiling.gflops, 3)}
    line |= {} if wanted is None else _difference(made, wanted)
    print("  ".join(f"{key} {value}" for key, value in line.items()), flush=True)
    return line


def _seconds(run: Callable[[slice], object], parts: Sequence[slice]) -> float:
    """Of the faster of two rounds, after one that warms up. What is run returns arrays, so the device has finished."""
    spent = []
    for _ in range(3):
        began = time.perf_counter()
        for part in parts:
            run(part)
        spent.append(time.perf_counter() - began)
    return min(spent[1:])


def _difference(made: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> dict[str, float]:
    off = made.astype(np.float64) - wanted
    mean_square = max(float(np.square(off).mean()), 1e-12)
    return {
        "psnr_db": round(10 * np.log10(255**2 / mean_square), 2),
        "largest": float(np.abs(off).max()),
        "mean": round(float(np.abs(off).mean()), 3),
    }


if __name__ == "__main__":
    main()
