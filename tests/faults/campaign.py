"""A case played: the command with a fault, what it left, the command again, what that left. In: Cases. Out: a row each, as JSON.

Both runs are over the same film of 14 frames: someone, a cut to their mirror image, a wall without anyone.
"""

import ctypes
import json
import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
from conftest import make_film, make_speech
from made_films import portrait, wall

from musetalk_cli.media.ffmpeg import find_ffmpeg

from . import checks, shim
from .cases import WARM_ONLY, WITHOUT_SHIM, Case, Usual, draw, of_kind
from .nursery import Ended, Nursery, Order

SIZE_PX = 192
SHOTS = (6, 5, 3)  # frames of each
Starts = Literal["mixed", "warm", "cold"]
CHUNK_S = "0.24"
CLONE_NEWNS = 0x20000  # <linux/sched.h>
MS_REC, MS_PRIVATE = 0x4000, 1 << 18  # <linux/mount.h>
ROOM = 256 << 20  # bytes of a disk that has been cleared


class Campaign:
    """Cases of one seed, played in a folder. mounts: whether this process may give itself a view of the mounts of its own.
    starts: of the runs with a fault, see nursery.py."""

    def __init__(
        self, folder: Path, seed: int, kinds: list[str], each: int = 0, *, starts: Starts = "mixed", mounts: bool = True
    ) -> None:
        self._folder, self._seed = folder, seed
        self._given = folder / "given"
        self._given.mkdir(parents=True, exist_ok=True)
        self._shim = shim.build(self._given)
        self._mounts = mounts and _may_mount()
        kinds = [kind for kind in kinds if self._shim or kind in WITHOUT_SHIM]
        self._kinds = [kind for kind in kinds if self._mounts or kind != "ENOSPC of a small disk"]
        self._each, self._starts = each, starts
        self._film, self._voice = make_small_film(self._given / "film.mp4"), make_speech(self._given / "fr.wav", seconds=0.6)
        self._inputs = {path: path.read_bytes() for path in (self._film, self._voice)}
        self._wholes: dict[tuple[bool, ...], bytes] = {}

    def run(self, numbers: Iterable[int], rows: Path | None, *, keep: bool = False) -> list[dict[str, Any]]:
        """Play them, or find them played. keep: the folders of the cases."""
        made = [json.loads(line) for line in rows.read_text().splitlines()] if rows and rows.exists() else []
        known = {(row["seed"], row["number"], row["kind"]) for row in made}
        with Nursery(self._shim, self._environment(self._folder)) as nursery:
            usual = self._undisturbed(nursery)
            numbers = range(self._each * len(self._kinds)) if self._each else numbers
            for number in numbers:
                case = self._case(number, usual)
                if (self._seed, number, case.kind) in known:
                    continue
                made.append(self._played(case, usual, nursery, keep=keep))
                if rows is not None:
                    with rows.open("a") as file:
                        file.write(json.dumps(made[-1]) + "\n")
        return made

    def flushed(self) -> list[str]:
        """What an undisturbed run would lose in a power cut; none of it, if all is well."""
        case = Case(-1, "", "", real=False, report=True)
        place = self._laid_out(case, "flushed")
        control, log = shim.control_in(self._given / "control"), self._given / "log"
        log.unlink(missing_ok=True)
        ctypes.memset(ctypes.addressof(control), 0, ctypes.sizeof(control))
        control.prefix, control.log, control.armed = str(place.root).encode(), str(log).encode(), 1
        with Nursery(self._shim, self._environment(self._folder)) as nursery:
            ended = nursery.run(self._order(case, place))
        assert ended.code == 0 and "rename" in log.read_text(), (place.root / "said").read_text()
        return list(checks.unflushed(log.read_text()))

    def _case(self, number: int, usual: Usual) -> Case:
        if self._each:
            case = of_kind(self._kinds[number % len(self._kinds)], number, Random(f"{self._seed} {number}"), usual)
        else:
            case = draw(self._seed, number, self._kinds, usual)
        if self._starts == "cold" and case.kind not in WARM_ONLY:
            return replace(case, cold=True, real=True)
        return replace(case, cold=False, real=case.deed.net == "listen" or bool(case.workers)) if self._starts == "warm" else case

    def _undisturbed(self, nursery: Nursery) -> Usual:
        """What a run is like without a fault: its film, its time, its system calls. Twice: the second finds warm caches."""
        cold = 0.0 if self._starts == "warm" else self._measured(nursery, cold=True)[0]
        for _ in range(1 if self._starts == "warm" else 2):
            real, _ = self._measured(nursery)
        for _ in range(2):
            warm, calls = self._measured(nursery, real=False)
        root = self._folder / "usual"
        disk = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
        return Usual(warm, real, cold, calls, disk)

    def _measured(self, nursery: Nursery, *, cold: bool = False, real: bool = True) -> tuple[float, dict[str, int]]:
        case = Case(-1, "", "", cold=cold, real=real)
        place = self._laid_out(case, "usual")
        control = shim.control_in(self._given / "control")
        ctypes.memset(ctypes.addressof(control), 0, ctypes.sizeof(control))
        control.prefix, control.armed = str(place.root).encode(), 1
        ended = nursery.run(self._order(case, place))
        control.armed = 0
        film = place.output.read_bytes() if ended.code == 0 else b""
        assert film, (place.root / "said").read_text()
        self._keep_data(place)
        assert self._whole(case, film) == film, "the same command gave two films"
        return ended.seconds, {name: control.of_kind[bit] for bit, name in enumerate(shim.NAMES.values())}

    def _whole(self, case: Case, film: bytes = b"") -> bytes:
        """The right film for the settings of a case, where the same machine signs it."""
        return self._wholes.setdefault((_exact(case), case.real), film)

    def _keep_data(self, place: checks.Place) -> None:
        """Who signs, and what was signed: c2pa salts every manifest anew, but one that was kept is used again."""
        shutil.copytree(place.data, self._given / "data", dirs_exist_ok=True)

    def _played(self, case: Case, usual: Usual, nursery: Nursery, *, keep: bool) -> dict[str, Any]:
        if (_exact(case), case.real) not in self._wholes:
            model = Case(-1, "", "", deed=case.deed, real=case.real)
            calm = self._laid_out(model, "exact")
            nursery.run(self._order(model, calm, calm=True))
            self._keep_data(calm)
            self._whole(case, calm.output.read_bytes())
        whole, place = self._whole(case), self._laid_out(case, f"case{case.number}")
        if case.kind == "ENOSPC of a small disk":
            _mount(place.root, case.at)
            self._furnish(case, place)
        try:
            first, struck = self._with_fault(case, place, usual, nursery)
            problems = [*self._after_fault(case, place, first, whole, struck=struck)]
            if case.kind == "ENOSPC of a small disk":
                _mount(place.root, ROOM, more="remount,")
            second, more = self._again(case, place, whole, nursery)
            problems += [f"then: {problem}" for problem in more]
            problems += self._changed_inputs()
            said = "".join((place.root / name).read_text(errors="replace")[-600:] for name in ("said.first", "said"))
        finally:
            if case.kind == "ENOSPC of a small disk" and not keep:
                subprocess.run(["umount", "-l", place.root], check=True)
        if not keep and not problems:
            shutil.rmtree(place.root)
        return {
            "seed": self._seed,
            "number": case.number,
            "kind": case.kind,
            "what": case.what,
            "struck": struck,
            "cold": case.cold,
            "real": case.real,
            "code": first.code,
            "second": second.code,
            "seconds": [first.seconds, second.seconds],
            "orphans": [*first.orphans, *second.orphans],
            "problems": problems,
            "said": said if problems else "",
        }

    def _with_fault(self, case: Case, place: checks.Place, usual: Usual, nursery: Nursery) -> tuple[Ended, bool]:
        control = shim.control_in(self._given / "control")
        ctypes.memset(ctypes.addressof(control), 0, ctypes.sizeof(control))
        if case.kind == "damaged result":
            nursery.run(self._order(case, place, calm=True))
            _damage(case, place)
            place.output.unlink()
            return nursery.run(self._order(case, place)), True
        files = {"work": place.root / "work", "out": place.out, "": place.root}[case.where]
        if case.where == "work" and case.in_cache:
            files = place.cache
        control.prefix = str(self._given if case.part in ("film.mp4", "fr.wav") else files).encode()
        control.part = case.part.encode()
        control.ops, control.at, control.error = case.ops, case.at if case.ops else 0, case.error
        control.sticky, control.delay_us = case.sticky, case.delay_us
        control.signal = case.signal if case.ops else 0
        control.skip_main = bool(case.workers)
        control.jump_s, control.jump_at = case.jump_s, case.at
        control.armed = 1
        if case.kind == "EIO when reading" and case.part not in ("film.mp4", "fr.wav"):
            self._half_way(case, place, nursery)  # there must be something to be read
            control.armed, control.seen, control.fired = 1, 0, 0
        ended = nursery.run(self._order(case, place, usual=usual))
        control.armed = 0
        mark = self._given / "ffmpeg.mark"
        struck = bool(ended.struck or control.fired or mark.exists() or case.kind == "ENOSPC of a small disk")
        mark.unlink(missing_ok=True)
        return ended, struck

    def _half_way(self, case: Case, place: checks.Place, nursery: Nursery) -> None:
        """A run that made all its results; its film is taken away."""
        shim.control_in(self._given / "control").armed = 0
        nursery.run(self._order(case, place, calm=True))
        place.output.unlink()
        for path in sorted((place.root / "work").glob("remux/*")):
            shutil.rmtree(path)

    def _after_fault(self, case: Case, place: checks.Place, ended: Ended, whole: bytes, *, struck: bool) -> Iterable[str]:
        said = (place.root / "said").read_text(errors="replace")
        killed = ended.code == -signal.SIGKILL and case.kind.startswith("SIGKILL")
        if ended.hung:
            yield "it hung"
        if ended.code != 0 and not (struck and ended.code in case.codes):
            yield f"exit code {ended.code}, should be 0" + "".join(f" or {code}" for code in sorted(case.codes) if struck)
        if ended.code == 0 and (not place.output.exists() or place.output.read_bytes() != whole):
            yield "exit code 0, and not the right film"
        yield from (f"orphan: {line}" for line in ended.orphans)
        yield from checks.films(place, whole, earlier=case.earlier)
        yield from checks.reports(place)
        yield from checks.results(place)
        if not killed:
            yield from checks.leaks(place)
            yield from checks.said(
                said, ended.code, unheard=not case.where and ended.code == 9
            )  # stderr is a file among the others
        elif any(place.tmp.iterdir()):
            yield f"left in TMPDIR: {sorted(place.tmp.iterdir())}"
        (place.root / "said").replace(place.root / "said.first")
        (place.root / "said").touch()

    def _again(self, case: Case, place: checks.Place, whole: bytes, nursery: Nursery) -> tuple[Ended, list[str]]:
        """Without a fault: the film, nothing else, and nothing made twice."""
        ended = nursery.run(self._order(case, place, calm=True))
        problems = []
        if ended.code != 0:
            problems.append(f"exit code {ended.code}, should be 0")
        if not place.output.exists() or place.output.read_bytes() != whole:
            problems.append("not the right film")
        problems += [f"orphan: {line}" for line in ended.orphans]
        problems += [*checks.reports(place), *checks.leaks(place), *checks.results(place)]
        problems += checks.said((place.root / "said").read_text(errors="replace"), ended.code)
        if case.kind not in ("damaged result", "EIO when reading"):  # those are to be made again
            problems += checks.made_twice(place)
        if case.in_cache and place.works:
            problems.append("left in the cache after delivery")
        return ended, problems

    def _order(self, case: Case, place: checks.Place, *, usual: Usual | None = None, calm: bool = False) -> Order:
        """The command. calm: without the fault. usual: what tells the moment of a signal."""
        arguments = ["dub", str(self._film), "--audio", str(self._voice), "-o", str(place.output), "--chunk", CHUNK_S]
        arguments += ["--progress", "none", "--report" if case.report else "--no-report"]
        arguments += [] if case.in_cache else ["--work-dir", str(place.root / "work")]
        arguments += ["--workers", str(case.workers)] if case.workers else []
        arguments += ["--exact"] if _exact(case) else []
        if case.earlier or (calm and case.in_cache) or (not calm and case.kind == "damaged result"):
            arguments.append("-y")
        environment = self._environment(place.root)
        said, control = str(place.root / "said"), str(self._given / ("calm" if calm else "control"))
        if calm or case.number < 0:
            cold = case.cold and not calm
            return Order(tuple(arguments), environment, said, control, warm=not cold, stand_in=not case.real)
        if case.ffmpeg:
            environment |= self._dying_ffmpeg(case)
        seconds = 0.0
        if usual is not None:
            seconds = case.moment * (usual.cold_s if case.cold else usual.real_s if case.real else usual.warm_s)
        signals = [(seconds, case.signal), (seconds + case.again, case.signal)][: 2 if case.again else 1]
        return Order(
            tuple(arguments),
            environment,
            said,
            control,
            warm=not case.cold,
            stand_in=not case.real,
            deed=case.deed,
            signals=tuple(signals) if case.moment and case.signal else (),
            prey=case.prey,
            prey_signal=case.signal if case.prey else 0,
            prey_after_s=case.again if case.prey else 0.0,
        )

    def _environment(self, root: Path) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "LANG", "LD_LIBRARY_PATH", "PYTHONPATH") if name in os.environ}
        own = {
            "HOME": root / "home",
            "TMPDIR": root / "tmp",
            "XDG_CACHE_HOME": root / "cache",
            "XDG_DATA_HOME": root / "data",
            "MPLCONFIGDIR": self._given / "mpl",
        }
        return {**kept, "OMP_NUM_THREADS": "1", **{name: str(path) for name, path in own.items()}}

    def _dying_ffmpeg(self, case: Case) -> dict[str, str]:
        folder = self._given / "bin"
        folder.mkdir(exist_ok=True)
        program = folder / "ffmpeg"
        shutil.copyfile(Path(__file__).with_name("ffmpeg.sh"), program)
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return {
            "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
            "FAULTS_FFMPEG": case.ffmpeg,
            "FAULTS_FFMPEG_REAL": str(find_ffmpeg()),
            "FAULTS_FFMPEG_MARK": str(self._given / "ffmpeg.mark"),
        }

    def _laid_out(self, case: Case, name: str) -> checks.Place:
        place = checks.Place(self._folder / name, case.in_cache)
        shutil.rmtree(place.root, ignore_errors=True)
        place.root.mkdir()
        self._furnish(case, place)
        return place

    def _furnish(self, case: Case, place: checks.Place) -> None:
        for folder in (place.out, place.tmp, place.cache, place.data, place.root / "home"):
            folder.mkdir()
        if (self._given / "data").exists():
            shutil.copytree(self._given / "data", place.data, dirs_exist_ok=True)
        shim.control_in(self._given / "calm")
        (place.root / "said").touch()  # a run may be killed before it opens it
        if case.earlier:
            place.output.write_bytes(checks.EARLIER)

    def _changed_inputs(self) -> Iterable[str]:
        """They are put back for the next case."""
        for path, data in self._inputs.items():
            if path.read_bytes() != data:
                yield f"{path.name} was changed"
                path.write_bytes(data)


def _exact(case: Case) -> bool:
    """Where batches are halved, only --exact promises the same bits."""
    return case.deed.kind == "oom"


def _damage(case: Case, place: checks.Place) -> None:
    """One file of one finished result, or its mark; so that the film must be made again, all films."""
    rng = Random(case.number)
    folders = sorted(path.parent for path in (place.root / "work").glob("*/*/result.json"))
    folder = folders[int(case.moment * len(folders))]
    files = sorted(path for path in folder.iterdir() if (path.name == "result.json") == (case.damage == "mark"))
    path = rng.choice(files or [folder / "result.json"])
    data = bytearray(path.read_bytes())
    match case.damage:
        case "gone":
            path.unlink()
            return
        case "empty":
            data = bytearray()
        case "cut":
            data = data[: rng.randrange(len(data))] if data else data
        case _ if data:
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def _may_mount() -> bool:
    """Give this process its own view of mounts, so that none of ours is seen elsewhere or outlives us."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    libc = ctypes.CDLL(None, use_errno=True)
    return not libc.unshare(CLONE_NEWNS) and not libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)


def _mount(folder: Path, size: int, more: str = "") -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"{more}size={size}", "faults", folder], check=True)


def make_small_film(path: Path) -> Path:
    """14 frames at 25 fps: the portrait, a cut to its mirror image, a grey wall."""
    face = portrait(SIZE_PX, SIZE_PX)
    pictures = [face] * SHOTS[0] + [face[:, ::-1]] * SHOTS[1] + [wall((SIZE_PX, SIZE_PX))] * SHOTS[2]
    size = (SIZE_PX, SIZE_PX)
    return make_film(path, frames=len(pictures), size=size, picture=lambda number: np.ascontiguousarray(pictures[number]))
