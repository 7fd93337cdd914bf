"""The paper's ablations, Tables 3 and 4, at whatever scale this machine allows: one training a row, all else alike.

    python examples/ablation.py OUT SET... --init MODEL --perceptual alexnet.ckpt [--syncnet FILE] [--steps 300] [--model lite]

Every row is a run of `musetalk train` on the same sets, seed and number of steps; what is printed is its last validation on
identities that were held out: PSNR and SSIM of self-reconstruction and, with a SyncNet, the cosine of lips and voice. The paper's
FID, CSIM and LSE-C stand beside, from its tables: other measures, other data and a thousand times the training, so compare the
order of the rows, not the numbers. A run that is there already is not made again.
OUT/ablation.svg shows the rows as bars.
"""

import argparse
import json
import subprocess
from pathlib import Path
from typing import NamedTuple

from musetalk_cli.charts import Bar, bars


class Row(NamedTuple):
    """One setting."""

    table: str
    name: str
    settings: tuple[str, ...]  # of `musetalk train --set`
    paper: str  # FID, CSIM, LSE-C as published, "-" where it has none
    stages: tuple[str, ...] = ("stage1",)


ROWS = (
    Row("Table 3: Informative Frame Sampling", "k = 25 %", ("reference.share=0.25",), "8.31 / - / 2.94"),
    Row("Table 3: Informative Frame Sampling", "k = 50 %", ("reference.share=0.5",), "6.52 / - / 6.53"),
    Row("Table 3: Informative Frame Sampling", "k = 75 %", ("reference.share=0.75",), "11.22 / - / 3.27"),
    Row("Table 3: Informative Frame Sampling", "random", ("reference.rule=random",), "9.24 / - / 4.41"),
    Row("Table 4: Dynamic Margin Sampling", "N(20, 20), apart", ("margin.mean_px=20", "margin.std_px=20"), "11.95 / .81 / 5.78"),
    Row("Table 4: Dynamic Margin Sampling", "N(10, 10), shared", ("margin.shared=true",), "6.43 / .85 / 4.95"),
    Row("Table 4: Dynamic Margin Sampling", "N(10, 10), apart", (), "6.52 / .86 / 6.53"),
    Row("Stages", "stage 2 alone", (), "-", ("stage2",)),
    Row("Stages", "stage 1, then 2", (), "6.52 / .86 / 6.53", ("stage1", "stage2")),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("sets", nargs="+", type=Path)
    parser.add_argument("--init", default="", help="what every row begins with")
    parser.add_argument("--perceptual", default="")
    parser.add_argument("--syncnet", default="", help="without one, the sync term and its figure are left out")
    parser.add_argument("--steps", type=int, default=300, help="of a stage; where there are two, half of it each")
    parser.add_argument("--model", default="lite", choices=("lite", "published"))
    asked = parser.parse_args()
    figures = [trained(row, asked) for row in ROWS]
    print(f"{asked.model}, {asked.steps} steps a row, sets {', '.join(path.name for path in asked.sets)}; held-out identities")
    table = ""
    for row, found in zip(ROWS, figures, strict=True):
        if row.table != table:
            table = row.table
            print(f"\n{table}\n{'':20}{'PSNR':>8}{'SSIM':>8}{'sync':>8}   paper: FID / CSIM / LSE-C")
        shown = [f"{found[key]:8.3f}" if key in found else f"{'-':>8}" for key in ("psnr", "ssim", "sync")]
        print(f"{row.name:20}{''.join(shown)}   {row.paper}")
    shown = [Bar(f"{row.table.split(':')[0]}, {row.name}", found["psnr"]) for row, found in zip(ROWS, figures, strict=True)]
    (asked.out / "ablation.svg").write_text(bars(shown, label="PSNR of self-reconstruction by setting, dB"))


def trained(row: Row, asked: argparse.Namespace) -> dict[str, float]:
    """The last validation of a row's last stage."""
    run, init = asked.out, asked.init
    for stage in row.stages:
        run = asked.out / "-".join((row.table.split(":")[0], row.name, stage)).replace(" ", "_").replace(",", "").replace("%", "")
        steps = max(asked.steps // len(row.stages), 1)
        if not (run / "model").exists():
            subprocess.run(command(stage, run, init, steps, row, asked), check=True)
        init = str(run / "model")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = next(line for line in reversed(lines) if "val/psnr" in line)
    return {name.removeprefix("val/"): value for name, value in last.items() if name.startswith("val/")}


def command(stage: str, run: Path, init: str, steps: int, row: Row, asked: argparse.Namespace) -> list[str]:
    settings = [*row.settings, f"validate_every={steps}"]
    flags = ["--model", asked.model, "--steps", str(steps), "--perceptual", asked.perceptual, "--init", init]
    if stage == "stage2":
        flags += ["--syncnet", asked.syncnet] if asked.syncnet else []
        settings += [] if asked.syncnet else ["weights.sync=0"]
    options = [part for setting in settings for part in ("--set", setting)]
    return ["musetalk", "train", stage, str(run), *map(str, asked.sets), *flags, *options, "-q"]


if __name__ == "__main__":
    main()
