"""Which fault, and where. In: a seed, a number. Out: a Case, the same one on every machine. Knows nothing of how it is done."""

import errno
import signal
from dataclasses import dataclass, field
from random import Random
from typing import Any

from . import shim
from .deeds import NETS, Deed

# How often each kind is drawn, of about 600.
KINDS = {
    "SIGKILL at any moment": 70,
    "SIGKILL at a system call": 50,
    "SIGKILL between stages": 25,
    "SIGTERM or SIGINT at any moment": 60,
    "SIGTERM or SIGINT at a system call": 30,
    "SIGTERM or SIGINT between stages": 20,
    "ENOSPC from a system call": 60,
    "ENOSPC of a small disk": 40,
    "EFBIG, a limit on files": 10,
    "EIO when writing": 55,
    "EIO when reading": 40,
    "slow disk": 20,
    "clock jump": 30,
    "ffmpeg dies": 45,
    "GPU out of memory": 30,
    "out of memory": 10,
    "NaN": 30,
    "damaged result": 30,
    "worker process dies": 14,
}
WARM_ONLY = {  # done by patching the process
    "SIGKILL between stages",
    "SIGTERM or SIGINT between stages",
    "EFBIG, a limit on files",
    "GPU out of memory",
    "out of memory",
    "NaN",
}
REAL_SHARE = 0.05  # of the warm ones
COLD_SHARE = 0.13  # of the others run as a user starts them
WITHOUT_SHIM = {  # possible where nothing can be preloaded
    "SIGKILL at any moment",
    "SIGKILL between stages",
    "SIGTERM or SIGINT at any moment",
    "SIGTERM or SIGINT between stages",
    "ENOSPC of a small disk",
    "EFBIG, a limit on files",
    "ffmpeg dies",
    "GPU out of memory",
    "out of memory",
    "NaN",
    "damaged result",
    "worker process dies",
}
HOUR_S = 3600
CALLS = {"listen": 1, "encode": 12, "unet": 2, "decode": 8}  # of each network
READS = {"film.mp4": 23, "fr.wav": 25, ".npy": 277, ".nut": 21, "result.json": 90, "": 420}  # of files whose path holds that
STEPS = 19  # of a run: results that it makes


@dataclass(frozen=True, slots=True)
class Usual:
    """An undisturbed run on this machine, which tells where faults can strike."""

    warm_s: float
    real_s: float  # warm, without standin.py
    cold_s: float
    calls: dict[str, int]  # by name of the kind of call
    disk_bytes: int  # that its files take


@dataclass(frozen=True, slots=True)
class Case:
    """at, share: where it strikes; each kind has its own use of them, see `draw`."""

    number: int
    kind: str
    what: str  # in words, for the record
    cold: bool = False
    real: bool = True  # without standin.py
    workers: int = 0
    report: bool = False
    in_cache: bool = False  # the work folder, which then goes after delivery; else one that the user named
    earlier: bool = False  # an output is there already, to be replaced
    moment: float = 0.0  # 0..1 of an undisturbed run
    again: float = 0.0  # seconds until a second signal; 0: none
    signal: int = 0
    ops: int = 0  # kinds of system call
    at: int = 0  # which of them; of a clock: which asking; of a small disk: bytes
    error: int = 0
    sticky: bool = False
    delay_us: int = 0
    jump_s: int = 0
    where: str = ""  # folder of the case whose files it concerns, "": all
    part: str = ""  # of their paths
    deed: Deed = field(default_factory=Deed)
    ffmpeg: str = ""  # FAULTS_FFMPEG of ffmpeg.sh
    prey: str = ""
    damage: str = ""  # flip | cut | empty | gone | mark

    @property
    def codes(self) -> set[int]:
        """Exit codes that are right for this fault, where it struck."""
        match self.kind.partition(" ")[0]:
            case "SIGKILL":
                return {-signal.SIGKILL}
            case "SIGTERM":
                return {
                    128 + self.signal,
                    -self.signal,
                }  # which a shell shows alike; the second before there is a run, and after it
            case "ENOSPC" | "EFBIG,":
                return {9}
            case "EIO" if self.part in ("film.mp4", "fr.wav"):
                return {3, 9}  # read by us, or by ffmpeg
            case "EIO":
                return {9}
            case "ffmpeg" if self.prey:
                return {75, 4}  # 4: it was only asked for its version, and did not answer
            case "ffmpeg":
                return {9} if self.ffmpeg.startswith("blocks") else {1} if self.ffmpeg.startswith(("fail", "short")) else {75}
            case "GPU" | "out":
                return {9}
            case "NaN":
                return {1}
            case "worker":
                return {75}
        return set()  # it must not matter


def draw(seed: int, number: int, kinds: list[str], usual: Usual) -> Case:
    """Case `number` of a campaign: kinds in turn by their weights, all else by chance."""
    rng = Random(f"{seed} {number}")
    kind = rng.choices(kinds, [KINDS[name] for name in kinds])[0]
    return of_kind(kind, number, rng, usual)


def of_kind(kind: str, number: int, rng: Random, usual: Usual) -> Case:
    workers = 2 if kind == "worker process dies" else 0
    cold = kind not in WARM_ONLY and rng.random() < COLD_SHARE
    told: dict[str, Any] = {
        "cold": cold,
        "workers": workers,
        "report": rng.random() < 0.06 and not workers,
        "in_cache": rng.random() < 0.25 and kind not in ("damaged result", "EIO when reading"),
        "earlier": rng.random() < 0.3 and kind not in ("damaged result", "EIO when reading"),
    }
    told["real"] = rng.random() < REAL_SHARE or cold or bool(workers)
    told |= _of(kind, rng, usual)
    told["real"] |= told.get("deed", Deed()).net == "listen"
    return Case(number, kind, what=told.pop("what"), **told)


def _of(kind: str, rng: Random, usual: Usual) -> dict[str, Any]:
    match kind:
        case "SIGKILL at any moment" | "SIGTERM or SIGINT at any moment":
            number = _signal(kind, rng)
            again = rng.uniform(0.001, 0.5) if number != signal.SIGKILL and rng.random() < 0.3 else 0.0
            moment = rng.uniform(0.0, 0.98)
            twice = ", and again" if again else ""
            return {"signal": number, "moment": moment, "again": again, "what": f"{_name(number)} at {moment:.0%}{twice}"}
        case "SIGKILL at a system call" | "SIGTERM or SIGINT at a system call":
            number, ops = _signal(kind, rng), shim.CHANGES | shim.UNLINK
            return {"signal": number, **_call(ops, rng, usual), "what": _name(number)}
        case "SIGKILL between stages" | "SIGTERM or SIGINT between stages":
            deed = Deed("boundary", at=rng.randint(1, STEPS), times=1, signal=_signal(kind, rng), where=_where(rng))
            return {"signal": deed.signal, "deed": deed, "what": f"{_name(deed.signal)} {deed.where} step {deed.at}"}
        case "ENOSPC from a system call" | "EIO when writing":
            error = errno.EIO if "EIO" in kind else rng.choice([errno.ENOSPC, errno.ENOSPC, errno.EDQUOT])
            kinds = [shim.CHANGES, shim.CHANGES, shim.WRITE, shim.SYNC, shim.RENAME, shim.MKDIR | shim.CREATE]
            ops = rng.choice(kinds if error == errno.EIO else [kind for kind in kinds if kind != shim.SYNC])
            sticky, where = rng.random() < 0.6, rng.choice(["", "", "work", "out"])
            if where == "out":
                ops = shim.CHANGES
            what = f"{errno.errorcode[error]}{' for good' if sticky else ' once'}"
            return {"error": error, "sticky": sticky, **_call(ops, rng, usual, where), "what": what}
        case "EIO when reading":
            part = rng.choice(list(READS))
            of = READS[part]
            call = {"ops": shim.READ, "at": rng.randint(1, of), "part": part}
            return {"error": errno.EIO, "sticky": rng.random() < 0.5, **call, "what": f"EIO, {part or 'any file'}"}
        case "ENOSPC of a small disk":
            size = rng.randint(16 << 10, usual.disk_bytes)
            return {"at": size, "what": f"tmpfs of {size >> 10} KiB"}
        case "EFBIG, a limit on files":
            size = int(2 ** rng.uniform(8, 19))
            return {"deed": Deed("file limit", at=size), "what": f"RLIMIT_FSIZE {size}"}
        case "slow disk":
            every = rng.choice([1, 5, 50])
            nap = rng.randint(1_000, 4_000) * every
            ops = shim.CHANGES | rng.choice([0, shim.READ])
            return {"ops": ops, "at": every, "delay_us": nap, "what": f"{nap / 1000:.0f} ms at each {every}. call"}
        case "clock jump":
            jump = rng.choice([-24, -1, 1, 24]) * HOUR_S
            return {"jump_s": jump, "at": rng.randint(1, 400), "what": f"{jump // HOUR_S:+d} h"}
        case "ffmpeg dies":
            if rng.random() < 0.25:
                after, number = rng.uniform(0, 0.03), rng.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
                return {
                    "prey": "ffmpeg",
                    "signal": number,
                    "again": after,
                    "what": f"{_name(number)} {after * 1000:.0f} ms after it began",
                }
            how = rng.choice(["kill", "segv", "fail", "killed-at-end", "blocks", "blocks", "short"])
            more = {"blocks": f":{rng.randint(0, 60)}", "short": f":{rng.randint(0, 30_000)}"}.get(how, "")
            return {"ffmpeg": how + more, "what": how + more}
        case "GPU out of memory" | "NaN":
            net = rng.choice(NETS)
            deed = Deed("oom" if "GPU" in kind else "nan", net, at=rng.randint(1, CALLS[net]), times=rng.choice([0, 0, 1, 3]))
            if "GPU" in kind and rng.random() < 0.5:
                deed = Deed("oom", rng.choice(NETS[1:]), rows=rng.choice([0, 1, 3]), times=0)
            fits = f", {deed.rows} rows fit" if deed.rows else ""
            return {"deed": deed, "what": f"{deed.net} from call {deed.at} on, {deed.times or 'all'} times{fits}"}
        case "out of memory":
            deed = Deed("memory", at=rng.randint(1, STEPS), times=1, where="before")
            return {"deed": deed, "what": f"MemoryError in step {deed.at}"}
        case "damaged result":
            damage = rng.choice(["flip", "cut", "empty", "gone", "mark"])
            return {"damage": damage, "moment": rng.random(), "what": damage}
        case "worker process dies":
            if rng.random() < 0.5:
                return {"prey": "spawn_main", "signal": signal.SIGKILL, "again": rng.uniform(0, 8), "what": "SIGKILL of one"}
            call = _call(shim.CHANGES | shim.UNLINK, rng, usual, "work")
            return {"signal": signal.SIGKILL, **call, "what": "SIGKILL of one"}
    raise ValueError(kind)


def _signal(kind: str, rng: Random) -> int:
    return signal.SIGKILL if "SIGKILL" in kind else rng.choice([signal.SIGTERM, signal.SIGINT])


def _name(number: int) -> str:
    return signal.Signals(number).name


def _where(rng: Random) -> str:
    return rng.choice(["before", "published", "after"])


def _call(ops: int, rng: Random, usual: Usual, where: str = "") -> dict[str, Any]:
    """Any of the calls that an undisturbed run makes."""
    count = sum(usual.calls[name] for op, name in shim.NAMES.items() if ops & op)
    return {"ops": ops, "at": rng.randint(1, max(count if where != "out" else 8, 1)), "where": where}
