"""A net that is compiled when that pays. In: a net, tensors of N rows. Out: its answer. Knows nothing of what the net is.

Compiling takes minutes, so a short film is done before it is. What was compiled is kept in the cache folder (Inductor's own cache), so
that the next process compiles nothing.

CUDA graphs are left out: torch's belong to one thread, and shots are painted from several; at 8 rows and more the GPU is busy for
longer than Python takes to launch.
"""

import os
import threading
import warnings
from collections.abc import Callable

import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

COMPILE_AFTER = 4096  # rows, three minutes of film: a job that has come so far is likely long


class Compiled:
    """`net` in eager mode for the first rows, then compiled for the batch that it is given then; other batches stay eager.

    Where compiling fails the net stays eager, with one RuntimeWarning. Safe in threads: who comes meanwhile goes on in eager mode.
    """

    def __init__(self, net: nn.Module, after: int | None) -> None:
        """after: rows; None never compiles."""
        self._net, self._after, self._rows = net, after, 0
        self._compiled: Callable[..., Tensor] | None = None
        self._size = 0  # for which it is compiled
        self._compiling = threading.Lock()

    def __call__(self, *given: Tensor) -> Tensor:
        rows = len(given[0])
        if self._compiled is not None and rows == self._size:
            return self._compiled(*given)
        self._rows += rows
        if self._after is not None and self._rows > self._after and self._compiling.acquire(blocking=False):
            try:
                return self._compile(*given)
            finally:
                self._compiling.release()
        answer: Tensor = self._net(*given)
        return answer

    def _compile(self, *given: Tensor) -> Tensor:
        self._after = None  # once
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(user_cache_path("musetalk") / "inductor"))
        answer: Tensor
        try:
            compiled: Callable[..., Tensor] = torch.compile(self._net, dynamic=False)
            answer = compiled(*given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # noqa: BLE001 whatever a compiler, its driver or its cache may raise: the net needs none of them
            said = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            warnings.warn(f"torch.compile failed, going on without: {said}", RuntimeWarning, stacklevel=3)
            answer = self._net(*given)
            return answer
        self._compiled, self._size = compiled, len(given[0])
        return answer
