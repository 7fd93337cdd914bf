"""Who judges faces and pictures. In: what is asked for, what is installed. Out: the judges' plain names, their files' hashes, and them.

The standard weights where they were pulled (`musetalk weights pull eval`), else stand-ins that packages carry, each under its own name.
None of them trained any model here. Knows nothing of films or tables.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from musetalk_cli import weights
from musetalk_cli.errors import MissingError
from musetalk_cli.models.analysis import ANALYSIS_FILES, model_file

Identity = Literal["arcface", "dlib", "sface"]
Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]  # (N, H, W, 3) RGB -> (N, 2048)
ARCFACE, INCEPTION, SYNC_EXPERT = (need[0].path for need in (weights.ARCFACE, weights.INCEPTION, weights.SYNC_EXPERT))
CSIM = {"arcface": "CSIM", "dlib": "CSIM (dlib)", "sface": "CSIM (SFace)"}
EVAL_CURE = "pip install 'musetalk[eval]', or musetalk weights pull eval"


@dataclass(frozen=True, slots=True)
class JudgeNames:
    """Who judges, as part of what a result is called. files: (name, sha256) of all that they are made of."""

    identity: Identity
    pictures: str  # "pulled" | "carried" | "none"
    sync: bool  # the published SyncNet is there; else LSE-C and LSE-D are the lip judge's alone
    lpips: bool
    files: tuple[tuple[str, str], ...]


def choose_judges(identity: Literal["auto", "arcface", "dlib", "sface"], root: Path) -> JudgeNames:
    """auto: ArcFace where it was pulled, else dlib where it is installed, else SFace, which comes along. The standard Inception where
    its file was pulled or a package carries it. Raises MissingError for one that is asked for and not there."""
    chosen = identity if identity != "auto" else _first_there(root)
    pictures, inception = _inception_there(root)
    sync = (root / SYNC_EXPERT).is_file()
    lpips = _lpips_there(root)
    others = [*([root / SYNC_EXPERT] if sync else []), *lpips]
    files = _hashed(chosen, root) | inception | {(str(path.relative_to(root)), file_sha256(path)) for path in others}
    return JudgeNames(chosen, pictures, sync, bool(lpips), tuple(sorted(files)))


def open_identity(
    names: JudgeNames, root: Path
) -> Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32] | None]:
    """(H, W, 3) RGB and (68, 2) -> (D,) of length 1, None where the judge sees no face."""
    return _identity(names.identity, root)


def open_pictures(names: JudgeNames, root: Path, device: str) -> Features | None:
    """None where there is no Inception: then there is no FID."""
    return None if names.pictures == "none" else _inception(names.pictures, root, device)


def _first_there(root: Path) -> Identity:
    if (root / ARCFACE).is_file():
        return "arcface"
    try:
        _hashed("dlib", root)
    except MissingError:
        return "sface"
    return "dlib"


def _hashed(identity: Identity, root: Path) -> set[tuple[str, str]]:
    if identity == "arcface":
        return {(ARCFACE, file_sha256(root / ARCFACE))}
    if identity == "sface":
        return {(Path(ANALYSIS_FILES[1].path).name, ANALYSIS_FILES[1].sha256)}
    from importlib.util import find_spec

    from musetalk_cli.models.dlib_judge import RESNET, SHAPE

    if find_spec("dlib") is None:
        raise MissingError("dlib: not installed", EVAL_CURE)
    for row in (SHAPE, RESNET):
        model_file(row)
    return {(Path(row.path).name, row.sha256) for row in (SHAPE, RESNET)}


def _lpips_there(root: Path) -> list[Path]:
    """Its files, or none of them."""
    try:
        return [*dict.fromkeys(weights.locate(need, root) for need in (weights.LPIPS_ALEXNET, weights.LPIPS_HEADS))]
    except MissingError:
        return []


def _inception_there(root: Path) -> tuple[str, set[tuple[str, str]]]:
    if (root / INCEPTION).is_file():
        return "pulled", {(INCEPTION, file_sha256(root / INCEPTION))}
    from musetalk_cli.models.inception import CARRIED

    try:
        model_file(CARRIED)
    except MissingError:
        return "none", set()
    return "carried", {(CARRIED.path, CARRIED.sha256)}


def file_sha256(path: Path) -> str:
    """Raises MissingError where it is not there."""
    if not path.is_file():
        raise MissingError(f"{path}: not there", "musetalk weights pull eval")
    return _sha256(str(path), path.stat().st_mtime_ns)


@lru_cache(maxsize=16)
def _sha256(path: str, _mtime_ns: int) -> str:
    digest = sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _identity(name: Identity, root: Path) -> Callable[[NDArray[np.uint8], NDArray[np.float32]], NDArray[np.float32] | None]:
    from musetalk_cli.models.arcface import ArcFace, SFace
    from musetalk_cli.models.dlib_judge import DlibJudge

    match name:
        case "arcface":
            return ArcFace.load(root / ARCFACE).embed
        case "dlib":
            return DlibJudge.load().embed
        case "sface":
            return SFace.load().embed


@lru_cache(maxsize=1)
def _inception(which: str, root: Path, device: str) -> Features:
    import torch

    from musetalk_cli.models.inception import load_carried_inception, load_inception

    place = torch.device(device)
    net = load_inception(root / INCEPTION, place) if which == "pulled" else load_carried_inception(place)

    def features(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            batch = torch.from_numpy(np.ascontiguousarray(images)).to(place).permute(0, 3, 1, 2).float() / 255
            found: NDArray[np.float32] = net(batch).cpu().numpy()
        return found

    return features
