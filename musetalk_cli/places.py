"""Where the user's things lie between runs. In: the environment. Out: folders, which need not be there yet."""

import os
from pathlib import Path


def data_folder() -> Path:
    """`musetalk` in $XDG_DATA_HOME or ~/.local/share: what outlives a cache: weights, accepted licences, the certificate, manifests once
    signed."""
    data = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(data).expanduser() / "musetalk"
