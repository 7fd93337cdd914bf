"""What a dub needs, and whether it is here. In: the weights folder and a work folder. Out: a check for each thing, its cure."""

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from musetalk_cli.errors import MusetalkError

ENCODERS = ("libx264", "libx265", "libvpx-vp9", "aac", "libopus")
ENOUGH_FREE_GB = 5  # a work folder takes about 1 GB for ten minutes of 1080p
LEAST_FREE_GB = 0.2  # a film of two minutes
State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing: warn where a dub still works, fail where it does not."""

    name: str
    state: State
    fact: str
    cure: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    checks: tuple[Check, ...]

    @property
    def missing(self) -> bool:
        return any(check.state == "fail" for check in self.checks)

    def as_json(self) -> dict[str, object]:
        return {"ok": not self.missing, "checks": [asdict(check) for check in self.checks]}

    def lines(self) -> list[str]:
        rows = [
            f"{check.state:4}  {check.name:22} {check.fact}" + (f"; {check.cure}" if check.cure else "") for check in self.checks
        ]
        return [*rows, "something is missing" if self.missing else "ready to dub"]


def examine(weights_folder: Path, work_dir: Path | None) -> Health:
    """Every check; one that breaks is a failed check, never an error."""
    checks: list[Check] = []
    for name, look in (
        ("python", _python),
        ("torch", _torch),
        ("ffmpeg", _ffmpeg),
        ("encoders", _encoders),
        ("provenance", _provenance),
        ("face models", _face_models),
        ("embedded model", _embedded),
        ("weights", lambda: _weights(weights_folder)),
        ("disk", lambda: _disk(work_dir)),
    ):
        checks.extend(_guarded(name, look))
    return Health(tuple(checks))


def _guarded(name: str, look: Callable[[], Iterator[Check]]) -> list[Check]:
    try:
        return list(look())
    except MusetalkError as error:
        return [Check(name, "fail", error.fact, error.cure)]
    except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return [Check(name, "fail", f"{type(error).__name__}: {error}", "install musetalk again")]


def _python() -> Iterator[Check]:
    version = metadata.version("musetalk") if _installed("musetalk") else "not installed, run from a checkout"
    yield Check("musetalk", "ok", version)
    yield Check("python", "ok", f"{platform.python_version()} at {sys.executable}")


def _torch() -> Iterator[Check]:
    import torch

    if torch.cuda.is_available():
        yield Check("torch", "ok", f"{torch.__version__}, {torch.cuda.get_device_name()}")
    else:
        yield Check("torch", "ok", f"{torch.__version__}, no CUDA device: the CPU, {torch.get_num_threads()} threads")


def _ffmpeg() -> Iterator[Check]:
    from musetalk_cli.media.ffmpeg import find_ffmpeg

    program = find_ffmpeg()
    told = subprocess.run([program, "-version"], capture_output=True, text=True, check=True, timeout=30).stdout
    whose = "the system's" if shutil.which("ffmpeg") == str(program) else "imageio-ffmpeg's"
    yield Check("ffmpeg", "ok", f"{told.split()[2]}, {whose}: {program}")


def _encoders() -> Iterator[Check]:
    import av

    lacking = [name for name in ENCODERS if name not in av.codecs_available]
    cure = "install the av wheel from PyPI instead of a build without them" if lacking else ""
    yield Check(
        "encoders",
        "fail" if "libx264" in lacking else "warn" if lacking else "ok",
        f"PyAV {av.__version__}: " + (f"no {', '.join(lacking)}" if lacking else ", ".join(ENCODERS)),
        cure,
    )


def _provenance() -> Iterator[Check]:
    """That the library loads and that there is a certificate: both are needed when the film is finished, hours after it began."""
    import c2pa

    from musetalk_cli.provenance.identity import algorithm, identity

    yield Check(
        "provenance", "ok", f"c2pa {c2pa.sdk_version()}, signs with this machine's own {algorithm(identity(None, None))} key"
    )


def _face_models() -> Iterator[Check]:
    from musetalk_cli.models.analysis import ANALYSIS_FILES, model_file

    for row in ANALYSIS_FILES:
        yield Check("face model", "ok", f"{model_file(row).name}, sha256 fits")


def _embedded() -> Iterator[Check]:
    from musetalk_cli.weights import embedded_lite

    folder = embedded_lite()
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    yield Check("model lite", "ok", f"{size / 1e6:.1f} MB at {folder}")


def _weights(folder: Path) -> Iterator[Check]:
    from musetalk_cli.weights import SETS, list_sets

    rows = list_sets(folder)
    for name in SETS:
        states = [row.state for row in rows if row.set == name]
        there = len(states) - states.count("absent")
        fact = f"{there} of {len(states)} files in {folder}"
        if "wrong" in states:
            yield Check(
                f"weights {name}", "warn", f"{fact}, not all of them the published ones", f"`musetalk weights verify {name}`"
            )
        elif there < len(states):
            partial = there > 0 or name == "v15"  # the others are for those who know that they want them
            yield Check(f"weights {name}", "warn" if partial else "ok", fact, f"`musetalk weights pull {name}` gets them")
        else:
            yield Check(f"weights {name}", "ok", fact)


def _disk(work_dir: Path | None) -> Iterator[Check]:
    from musetalk_cli.session import cache_folder

    folder = work_dir or cache_folder()
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    try:
        with TemporaryFile(dir=there):
            free_gb = shutil.disk_usage(there).free / 1e9
    except OSError as error:
        yield Check("disk", "fail", f"{folder}: cannot be written ({error.strerror})", "choose another --work-dir")
        return
    state: State = "ok" if free_gb >= ENOUGH_FREE_GB else "warn" if free_gb >= LEAST_FREE_GB else "fail"
    cure = "" if state == "ok" else "free some space, or choose another --work-dir"
    yield Check("disk", state, f"{free_gb:.1f} GB free for {folder}", cure)


def _installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True
