"""The house rules that a test can hold: who may import whom, what starts light, what is written down."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import musetalk_cli

PACKAGE = Path(musetalk_cli.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
HEAVY = {"av", "cv2", "diffusers", "face_alignment", "mediapipe", "ray", "scenedetect", "torch", "transformers"}
LIGHT = ("api", "cli", "config", "errors", "jobs", "progress", "session", "settings", "signals", "types", "weights", "work")

# A module may import from its own rank and from ranks below; a name is a module, or a folder of modules.
RANKS = (
    ("errors", "config"),
    (
        "types",
        "cast_map",
        "charts",
        "crew",
        "crop",
        "sharing",
        "landmarks",
        "help_examples",
        "languages",
        "machine",
        "occlusion",
        "offline",
        "pose",
        "progress",
        "places",
        "reading",
        "signals",
        "steady",
        "store",
        "suffixes",
    ),
    ("work", "tracks", "people", "casting", "metrics", "speaking"),
    ("media", "models", "download", "licences", "weights", "provenance"),
    ("stages",),
    ("training", "pieces", "executor", "executor_processes", "executor_ray"),
    ("pipeline",),
    ("cast_draft", "contact_sheet", "settings", "session", "jobs", "inspection", "standing", "doctor", "targets"),
    (
        "api",
        "batch",
        "bench",
        "config_cli",
        "predict",
        "shards",
        "farm_cli",
        "evaluation",
        "preview",
        "report",
        "serve",
        "study",
        "watermark",
        "watermark_cli",
        "weights_cli",
    ),
    ("cli", "__main__"),
)


def rank(module: str) -> int:
    part = module.removeprefix("musetalk_cli.").split(".")[0]
    ranks = [i for i, names in enumerate(RANKS) if part in names]
    assert ranks, f"{part} has no rank yet: give it one in RANKS"
    return ranks[0]


def imports(path: Path) -> Iterator[str]:
    """Modules of the package that a file names in its imports, at any depth."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("musetalk_cli."))
        elif isinstance(node, ast.ImportFrom) and node.module == "musetalk_cli":
            yield from (f"musetalk_cli.{alias.name}" for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("musetalk_cli."):
            yield str(node.module)


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", [p for p in FILES if name_of(p) != "musetalk_cli"], ids=name_of)
def test_imports_point_downwards(path: Path) -> None:
    upwards = [target for target in imports(path) if rank(target) > rank(name_of(path))]
    assert not upwards, f"{name_of(path)} imports {upwards} from above"


def test_starting_is_light() -> None:
    """In a process of its own, since this one has seen torch."""
    names = ", ".join(f"musetalk_cli.{name}" for name in LIGHT)
    script = f"import sys, {names}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_functions_stay_short_enough_to_read(path: Path) -> None:
    """The signature of a command is the list of its flags, a line each, and does not count."""
    long = [
        f"{node.name}: {lines(node)} lines"
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and lines(node) > 50
    ]
    assert long == []


def lines(function: ast.FunctionDef) -> int:
    begin = (
        function.body[0].lineno if any("command" in ast.unparse(mark) for mark in function.decorator_list) else function.lineno
    )
    return (function.end_lineno or begin) - begin + 1
