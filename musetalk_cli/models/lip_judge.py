"""A judge of lip sync that comes along. In: a voice. Out: what it asks of lips, 40 times a second. Knows nothing of films or faces.

    16 kHz blocks -> log-mel, 80 columns a second -> each band by its own level in the half minute around -> four small convolutional
    nets over 0.6 s, their mean -> opening, width, height, chin (T, 4), as metrics.sync measures them

It shares no ear, no net and no loss with the lite family that it judges. A stand-in for machines without the published SyncNet, see
weights/judge/README.md. Memory is bounded by the block, but for the answer: 20 bytes a 40th of a second.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from musetalk_cli.errors import MissingError
from musetalk_cli.metrics.sync import NUMBERS, Asked
from musetalk_cli.models.loading import DAMAGE
from musetalk_cli.models.syncnet import MEL_HOP, MELS, MELS_PER_SECOND, mel_columns
from musetalk_cli.models.voice_activity import CHUNK, HZ, TOKENS_PER_SECOND, VoiceActivity

COLUMNS_PER_ANSWER = 2
RATE_HZ = MELS_PER_SECOND // COLUMNS_PER_ANSWER  # 40
SAMPLES_PER_TOKEN = HZ // TOKENS_PER_SECOND
HALF = 24  # columns heard before and after an answer's own, 0.3 s
BLOCK_COLUMNS = 10 * MELS_PER_SECOND
EDGE_COLUMNS = 3  # a column sees 400 samples to either side and one more: whole columns kept of the sound before
LOUD = 0.6  # of the columns are quieter than those that tell a band's level
LEAST_LEVEL = -2.5  # of the mel's -4..4, 19 dB above its floor: silence is not made loud
SPREAD = 1.5  # of speech about its level
WEIGHTS_FILE, CONFIG_FILE = "judge.safetensors", "config.json"


@dataclass(frozen=True, slots=True)
class JudgeConfig:
    """The sizes; `config.json` holds exactly these fields."""

    nets: int = 4  # their mean is the answer
    width: int = 32
    hidden: int = 96
    numbers: int = NUMBERS


class JudgeNet(nn.Module):
    """(N, 80, 2 * HALF + 1 + 2 k) levelled columns -> (N, numbers, k + 1): an answer each second column."""

    def __init__(self, config: JudgeConfig, dropout: float = 0.4) -> None:
        super().__init__()
        self.hear = nn.Conv1d(MELS, config.width, 5, stride=COLUMNS_PER_ANSWER)
        self.join = nn.Conv1d(config.width, config.width, 5)
        self.whole = nn.Conv1d(config.width, config.hidden, 10, dilation=2)  # all that is left of 0.6 s
        self.answer = nn.Conv1d(config.hidden, config.numbers, 1)
        self.few, self.many = nn.Dropout(dropout / 2), nn.Dropout(dropout)

    def forward(self, columns: Tensor) -> Tensor:
        heard = self.few(nn.functional.gelu(self.hear(columns)))
        joined = self.few(nn.functional.gelu(self.join(heard)))
        out: Tensor = self.answer(self.many(nn.functional.gelu(self.whole(joined))))
        return out


class LipJudge:
    """The nets of a folder; the embedded one if none is given. Raises MissingError where a file is not there or not theirs."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = embedded_judge() if folder is None else folder
        try:
            self.config = JudgeConfig(**json.loads((self.folder / CONFIG_FILE).read_text()))
            tensors = {name: tensor.float() for name, tensor in load_file(self.folder / WEIGHTS_FILE).items()}
            self.spread = tensors.pop("spread").numpy()
            self.nets = nn.ModuleList(JudgeNet(self.config) for _ in range(self.config.nets))
            self.nets.load_state_dict(tensors)
        except DAMAGE as error:
            raise MissingError(
                f"{self.folder}: not the lip judge: {str(error).splitlines()[0]}", "install the package again"
            ) from error
        self.nets.eval().requires_grad_(False)

    def asked(self, speech: Iterable[NDArray[np.float32]]) -> Asked:
        """Blocks of mono 16 kHz sound in [-1, 1], cut anywhere, one after the other -> Asked, 40 a second.

        Answer j is about second j / 40. The last one is before the sound's end; no sound, no answer.
        """
        voices: list[NDArray[np.float16]] = []
        columns = levelled(mel_blocks(_overheard(speech, voices)))
        answers = [self._answered(part) for part in with_surroundings(columns)]
        numbers = np.concatenate([np.zeros((0, self.config.numbers), np.float32), *answers])
        voice = np.concatenate([np.zeros(0, np.float16), *voices]).astype(np.float32)
        token = np.minimum(np.arange(len(numbers)) * TOKENS_PER_SECOND // RATE_HZ, len(voice) - 1)
        return Asked(numbers / self.spread, voice[token] if len(voice) else np.zeros(len(numbers), np.float32), RATE_HZ)

    def _answered(self, columns: NDArray[np.float32]) -> NDArray[np.float32]:
        """(C + 2 * HALF, 80) -> (ceil(C / 2), numbers): of columns HALF, HALF + 2 and so on."""
        with torch.inference_mode():
            heard = torch.from_numpy(columns.T[None].copy())
            answer: NDArray[np.float32] = torch.stack([net(heard) for net in self.nets]).mean(0)[0].T.numpy()
        return answer


def embedded_judge() -> Path:
    """The folder of the judge that comes along: inside the installed package, else `weights/judge` of a checkout."""
    package = Path(__file__).parents[1]
    places = (package / "_judge", package.parent / "weights" / "judge")
    for place in places:
        if (place / CONFIG_FILE).is_file():
            return place
    raise MissingError(f"{places[0]}: the embedded lip judge is not there", "install the package again")


def save_judge(folder: Path, config: JudgeConfig, nets: nn.ModuleList, spread: NDArray[np.floating]) -> None:
    """Writes a folder that LipJudge reads: nets in float16. spread: (numbers,) standard deviation of their mean answer."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in nets.state_dict().items()}
    beside = folder / f"part.{WEIGHTS_FILE}"
    save_file({**tensors, "spread": torch.from_numpy(np.asarray(spread, np.float32))}, beside)
    beside.replace(folder / WEIGHTS_FILE)
    (folder / CONFIG_FILE).write_text(json.dumps(asdict(config), indent=2) + "\n")


def _overheard(speech: Iterable[NDArray[np.float32]], voices: list[NDArray[np.float16]]) -> Iterator[NDArray[np.float32]]:
    """The blocks as they are; meanwhile `voices` gets the voice activity, only for what was heard to its end: cuts do not tell."""
    activity, samples, tokens = VoiceActivity(), 0, 0
    for block in speech:
        samples += len(block)
        due = samples // CHUNK * CHUNK // SAMPLES_PER_TOKEN - tokens
        voices.append(activity.hear(block, due))
        tokens += due
        yield block
    voices.append(activity.hear(np.zeros(0, np.float32), samples // SAMPLES_PER_TOKEN - tokens))


def mel_blocks(speech: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Blocks of sound -> (<= BLOCK_COLUMNS, 80) columns, S // 200 of them in all: as those of the sound in one piece."""
    held, before, told = np.zeros(0, np.float32), 0, 0  # column `before` is sample 0 of what is held; `told` is the next
    for block in speech:
        held = np.concatenate([held, block])
        while len(held) >= (told - before + BLOCK_COLUMNS + EDGE_COLUMNS) * MEL_HOP:
            yield mel_columns(held, told - before, told - before + BLOCK_COLUMNS).T
            told += BLOCK_COLUMNS
            kept = told - EDGE_COLUMNS
            held, before = held[(kept - before) * MEL_HOP :], kept
    stop = len(held) // MEL_HOP
    while told - before < stop:
        first = told - before
        yield mel_columns(held, first, min(first + BLOCK_COLUMNS, stop)).T
        told += BLOCK_COLUMNS


def levelled(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Columns about the level of each band in the louder columns of their own block and its neighbours: no microphone, no loudness."""
    before = own = np.zeros((0, MELS), np.float32)
    for after in blocks:
        if len(own):
            yield _about_level(own, np.concatenate([before, own, after]))
        before, own = own, after
    if len(own):
        yield _about_level(own, np.concatenate([before, own]))


def _about_level(columns: NDArray[np.float32], around: NDArray[np.float32]) -> NDArray[np.float32]:
    loudness = around.mean(1)
    level = around[loudness >= np.quantile(loudness, LOUD)].mean(0)
    return np.asarray((columns - np.maximum(level, LEAST_LEVEL)) / SPREAD, np.float32)


def with_surroundings(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Each block with HALF columns before and after it; at both ends the last column goes on."""
    held = np.zeros((0, MELS), np.float32)  # what goes before the next answers, then the block itself
    for block in blocks:
        if not len(held):
            held = np.repeat(block[:1], HALF, 0)
        held = np.concatenate([held, block])
        whole = (len(held) - 2 * HALF) // COLUMNS_PER_ANSWER * COLUMNS_PER_ANSWER
        if whole > 0:
            yield held[: whole + 2 * HALF]
            held = held[whole:]
    rest = len(held) - HALF
    if rest > 0:
        yield np.concatenate([held, np.repeat(held[-1:], HALF, 0)])
