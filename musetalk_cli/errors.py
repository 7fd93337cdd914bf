"""What can go wrong, drawn once. Every error names the thing, the fact and the cure, and knows its exit code.

MusetalkError
├── InternalError       1   a bug of ours
├── UsageError          2   flags or settings that do not fit together
├── InputError          3   a film or voice that cannot be read or is not supported
├── MissingError        4   a dependency or a model file is not there, or is not what it should be
├── NoFaceError         5   no usable face in the whole film
├── OutputExistsError   6   refused to overwrite
├── QualityGateError    7   finished, but --fail-under was not met
├── PartialError        8   some films of a batch failed
├── ResourceError       9   out of disk or memory, or a disk that fails
├── RetryableError     75   the folder is locked, a worker was lost: try again
└── InterruptedRun   130/143   SIGINT / SIGTERM; what is finished is kept
"""

import signal
from typing import Any


class MusetalkError(Exception):
    """An error for the person at the terminal: `fact` names the thing and what is wrong with it, `cure` what to do.

    thing: where it is told apart from the fact, which then is of it alone; else the thing is what stands before the first ": ".
    """

    exit_code = 1
    code = "internal"

    def __init__(self, fact: str, cure: str = "", *, thing: str = "") -> None:
        before, colon, after = fact.partition(": ")
        self.thing, self.about = (thing, fact) if thing else (before, after) if colon else (self.code, fact)
        self.fact = f"{thing}: {fact}" if thing else fact
        self.cure = cure
        super().__init__(self.fact)
        self.told = False  # stderr shows it already, as a JSON line

    def __str__(self) -> str:
        return f"{self.fact}; {self.cure}" if self.cure else self.fact

    def __reduce__(self) -> tuple[Any, ...]:
        """It crosses from one process to another as it is, whatever its class takes to be made."""
        return _as_it_was, (type(self), self.args, self.__dict__)


def _as_it_was(kind: type["MusetalkError"], args: tuple[Any, ...], state: dict[str, Any]) -> "MusetalkError":
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InternalError(MusetalkError):
    pass


class UsageError(MusetalkError):
    exit_code = 2
    code = "usage"


class InputError(MusetalkError):
    exit_code = 3
    code = "input"


class MissingError(MusetalkError):
    exit_code = 4
    code = "missing"


class NoFaceError(MusetalkError):
    exit_code = 5
    code = "no_face"


class OutputExistsError(MusetalkError):
    exit_code = 6
    code = "output_exists"


class QualityGateError(MusetalkError):
    exit_code = 7
    code = "quality_gate"


class PartialError(MusetalkError):
    exit_code = 8
    code = "partial"


class ResourceError(MusetalkError):
    exit_code = 9
    code = "resource"


class RetryableError(MusetalkError):
    exit_code = 75
    code = "retryable"


class InterruptedRun(MusetalkError):
    """The run was stopped by a signal; exit code 128 + its number."""

    code = "interrupted"

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}", "run the same command again to go on from here")
        self.exit_code = 128 + number
