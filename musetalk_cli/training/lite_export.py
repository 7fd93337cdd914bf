"""A lite model from and to a folder. In: nets, basis of lip codes, sizes. Out: safetensors, config, manifest: what `musetalk dub` loads.

Training begins with a folder and ends with one: nets that a run does not train are handed on as they are.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from musetalk_cli.errors import UsageError
from musetalk_cli.models.lip_codes import CodeBasis
from musetalk_cli.models.lite import (
    AUTOENCODER_FILES,
    BASIS_FILE,
    CONFIG_FILE,
    FILES,
    LIPS_FILES,
    UNET_FILES,
    WHISPER_FILES,
    Autoencoder,
    LipEncoder,
    LipUNet,
    LiteConfig,
    check_files,
    read_basis,
    write_config,
)

MANIFEST_FILE = "manifest.json"
NET_FILES = {"autoencoder": AUTOENCODER_FILES, "lips": LIPS_FILES, "unet": UNET_FILES}


class LiteParts(NamedTuple):
    """What of a lite model can be trained, in float32."""

    autoencoder: Autoencoder
    lips: LipEncoder
    unet: LipUNet
    basis: CodeBasis


def open_parts(folder: Path, sizes: LiteConfig, fresh: Collection[str] = ()) -> LiteParts:
    """The nets of a model folder; those named in `fresh`, and those that `sizes` makes another size, begin anew.

    Raises MissingError where a file is not there, UsageError for a name that is no net.
    """
    if unknown := set(fresh) - set(NET_FILES):
        raise UsageError(f"no net is called {', '.join(sorted(unknown))}", f"choose of {', '.join(NET_FILES)}")
    check_files(folder)
    parts = LiteParts(Autoencoder(sizes), LipEncoder(sizes), LipUNet(sizes), read_basis(folder))
    for name, files in NET_FILES.items():
        if name not in fresh:
            tensors = {key: value.float() for file in files for key, value in load_file(folder / file).items()}
            _fill_where_it_fits(getattr(parts, name), tensors)
    return parts


def write_lite(parts: LiteParts, sizes: LiteConfig, init: Path, folder: Path) -> None:
    """A whole model into a new folder; whisper comes from the model that training began with."""
    folder.mkdir(parents=True)
    for name, files in NET_FILES.items():
        _save(getattr(parts, name).state_dict(), folder, files)
    _save({name: torch.from_numpy(value) for name, value in asdict(parts.basis).items()}, folder, (BASIS_FILE,))
    for name in WHISPER_FILES:
        shutil.copyfile(init / name, folder / name)
    write_config(folder / CONFIG_FILE, sizes)
    write_manifest(folder)


def write_manifest(folder: Path) -> None:
    """`manifest.json`: name, bytes and sha256 of each file."""
    rows = [_row(folder / name) for name in (*FILES, CONFIG_FILE)]
    (folder / MANIFEST_FILE).write_text(json.dumps({"files": rows}, indent=2) + "\n")


def _fill_where_it_fits(net: nn.Module, tensors: dict[str, Tensor]) -> None:
    """All of a net or nothing: half a net helps nobody. Encoder and decoder are two."""
    groups = (("encoder.", "mean", "std"), ("decoder.",)) if isinstance(net, Autoencoder) else (("",),)
    for prefixes in groups:
        own = {name: value for name, value in tensors.items() if name.startswith(prefixes)}
        wanted = {name: value.shape for name, value in net.state_dict().items() if name.startswith(prefixes)}
        if wanted == {name: value.shape for name, value in own.items()}:
            net.load_state_dict(own, strict=False)


def _save(state: dict[str, Tensor], folder: Path, names: tuple[str, ...]) -> None:
    """Matrices in float16, the few numbers of one dimension or of tables in float32; spread over files of about equal size."""
    small = {key: value if value.numel() <= 4096 else value.half() for key, value in state.items()}
    share = sum(_bytes(value) for value in small.values()) / len(names)
    parts: list[dict[str, Tensor]] = [{} for _ in names]
    filled = 0
    for key, value in small.items():
        parts[min(int(filled / share), len(names) - 1)][key] = value.contiguous().clone()
        filled += _bytes(value)
    for name, part in zip(names, parts, strict=True):
        save_file(part, folder / f"part.{name}", metadata={"format": "pt"})
        (folder / f"part.{name}").chmod(0o644)
        os.replace(folder / f"part.{name}", folder / name)


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _row(path: Path) -> dict[str, str | int]:
    content = path.read_bytes()
    return {"name": path.name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
