"""Trained nets as the package ships them. In: a run folder. Out: float16 safetensors under 16 MB each, config, manifest."""

import hashlib
import json
import os
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from musetalk_cli.errors import InternalError
from musetalk_cli.models.lite import (
    AUTOENCODER_FILES,
    CONFIG_FILE,
    FILES,
    LIPS_FILES,
    MOVER_FILES,
    UNET_FILES,
    WHISPER_FILES,
    Autoencoder,
    LipEncoder,
    LipMover,
    LipUNet,
    LiteConfig,
    write_config,
)

LARGEST_FILE = 16_000_000
MANIFEST_FILE = "manifest.json"


def export(run: Path, whisper: Path, out: Path, sizes: LiteConfig) -> None:
    """Writes the nets of `run` into `out`; one that the run does not have yet is written untrained, for a first trial."""
    out.mkdir(parents=True, exist_ok=True)
    for net, name, files in (
        (Autoencoder(sizes), "autoencoder", AUTOENCODER_FILES),
        (LipEncoder(sizes), "lips", LIPS_FILES),
        (LipMover(sizes), "mover", MOVER_FILES),
        (LipUNet(sizes), "unet", UNET_FILES),
    ):
        _save(_trained(net, run, name), out, files)
    _save(whisper_encoder(whisper), out, WHISPER_FILES)
    write_config(out / CONFIG_FILE, sizes)
    write_manifest(out)


def whisper_encoder(folder: Path) -> dict[str, Tensor]:
    """The encoder of whisper-tiny in transformers' layout, without its positions, which are sines."""
    from transformers import WhisperModel

    state = WhisperModel.from_pretrained(folder, dtype=torch.float32).get_encoder().state_dict()
    return {key: value for key, value in state.items() if key != "embed_positions.weight"}


def write_manifest(folder: Path) -> None:
    """`manifest.json`: name, bytes and sha256 of each file."""
    rows = [_row(folder / name) for name in (*FILES, CONFIG_FILE)]
    largest = max(rows, key=lambda row: int(row["bytes"]))
    if int(largest["bytes"]) > LARGEST_FILE:
        raise InternalError(f"{largest['name']} has {largest['bytes']} bytes, more than {LARGEST_FILE}")
    (folder / MANIFEST_FILE).write_text(json.dumps({"files": rows}, indent=2) + "\n")


def _trained(net: nn.Module, run: Path, name: str) -> dict[str, Tensor]:
    finished, under_way = run / f"{name}.pt", run / f"{name}.checkpoint.pt"
    if finished.exists():
        net.load_state_dict(torch.load(finished, weights_only=True))
    elif under_way.exists():
        net.load_state_dict(torch.load(under_way, weights_only=True)["average"])
    return net.state_dict()


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
