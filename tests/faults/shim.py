"""The control block that shim.c reads: which system call of which files goes wrong. Knows nothing of films."""

import ctypes
import mmap
import os
import shutil
import subprocess
from pathlib import Path

CREATE, WRITE, SYNC, RENAME, MKDIR, READ, UNLINK, RESERVE = (1 << bit for bit in range(8))
CHANGES = CREATE | WRITE | SYNC | RENAME | MKDIR | RESERVE  # what asks for space, and what a disk that fails refuses
NAMES = {
    CREATE: "create",
    WRITE: "write",
    SYNC: "fsync",
    RENAME: "rename",
    MKDIR: "mkdir",
    READ: "read",
    UNLINK: "unlink",
    RESERVE: "reserve",
}


class Control(ctypes.Structure):
    """`struct control` of shim.c."""

    _fields_ = [
        *((name, ctypes.c_uint32) for name in ("armed", "ops", "error", "signal", "sticky", "skip_main")),
        *((name, ctypes.c_int64) for name in ("at", "delay_us", "jump_s", "jump_at", "seen", "fired", "clock_seen")),
        ("of_kind", ctypes.c_int64 * 8),
        ("fired_op", ctypes.c_int32),
        ("main_pid", ctypes.c_int32),
        ("prefix", ctypes.c_char * 512),
        ("part", ctypes.c_char * 128),
        ("fired_path", ctypes.c_char * 512),
        ("log", ctypes.c_char * 512),
    ]


def control_in(path: Path) -> Control:
    """The block in a file, shared with whoever maps it; made where it is not there. The map lives as long as the block."""
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.truncate(ctypes.sizeof(Control))
        return Control.from_buffer(mmap.mmap(file.fileno(), ctypes.sizeof(Control)))


def build(folder: Path) -> Path | None:
    """shim.so in folder; None where there is no C compiler, or no LD_PRELOAD."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or os.uname().sysname != "Linux":
        return None
    made = folder / "shim.so"
    subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(Path(__file__).with_name("shim.c")), "-ldl"], check=True
    )
    return made
