"""Model files to tensors and nets. In: a .safetensors, .pth or .bin file. Out: its tensors, or a net filled with exactly them.

Strict: a name too many or too few is an error. Pickles are read weights-only: a file that would run code is refused. Knows
nothing of which net it is.
"""

import pickle
import re
import struct
import zipfile
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from musetalk_cli.errors import InternalError, MissingError
from musetalk_cli.reading import read_json

N = TypeVar("N", bound=nn.Module)
DAMAGE = (  # what readers raise on files with some bytes changed or cut off, tried on thousands
    OSError,
    EOFError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
    SafetensorError,
    zipfile.BadZipFile,
)
VERIFY = "`musetalk weights verify` tells whether it is the published file, `musetalk weights pull SET --force` fetches it again"


def read_config(path: Path) -> dict[str, Any]:
    """A net's config.json. Raises MissingError where it is not one."""
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        raise MissingError(f"{path}: cannot be read: {error}", VERIFY) from error
    if not isinstance(config, dict):
        raise MissingError(f"{path}: holds no configuration", VERIFY)
    return config


def read_tensors(path: Path, *, key: str = "") -> dict[str, Tensor]:
    """{name: tensor} on the CPU, in the file's own precision, mapped from the disk where the format allows it.

    key: where the file is a whole checkpoint, the name under which it keeps its tensors. Raises MissingError where the file is damaged, holds something other than tensors, or is a pickle that asks for code to run.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise MissingError(f"{path}: refused: not a file of tensors alone: {_asked_for(error)}", VERIFY) from error
    except DAMAGE as error:
        raise MissingError(f"{path}: damaged: {_first_line(error)}", VERIFY) from error
    if key and isinstance(loaded, dict):
        loaded = loaded.get(key)
    if not isinstance(loaded, dict) or not all(isinstance(tensor, Tensor) for tensor in loaded.values()):
        raise MissingError(f"{path}: holds something other than named tensors", VERIFY)
    return loaded


def fill(net: N, tensors: dict[str, Tensor], path: Path, device: torch.device, dtype: torch.dtype) -> N:
    """`net`, built on torch's meta device, with exactly `tensors`; frozen, for use alone. path: for the error's text.

    Raises MissingError where a name is missing, left over, or of another shape.
    """
    try:
        net.load_state_dict({name: _in(dtype, tensor) for name, tensor in tensors.items()}, strict=True, assign=True)
    except RuntimeError as error:
        raise MissingError(f"{path}: not this model's weights: {_second_line(error)}", VERIFY) from error
    if any(tensor.is_meta for tensor in net.state_dict().values()):
        raise InternalError(f"{path}: {type(net).__name__} was left without some of its weights")
    return net.requires_grad_(False).eval().to(device)


def _in(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor  # BatchNorm also counts


def _asked_for(error: Exception) -> str:
    """What the pickle wanted. The rest of torch's text is advice to load it all the same, which nobody should see here."""
    wanted = re.search(r"GLOBAL (\S+)", str(error))
    return f"it asks for {wanted[1]}" if wanted else "its bytes are no pickle of tensors"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:120]


def _second_line(error: Exception) -> str:
    """torch's first line only names the class; the second has the facts."""
    return " ".join(str(error).split("\n", 1)[-1].split())[:300]
