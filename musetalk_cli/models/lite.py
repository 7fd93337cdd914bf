"""The lite family: MuseTalk in small, shipped with the package. In: speech and face crops. Out: new mouths. CPU first.

    speech (S,) -> whisper-tiny encoder -> (T, 5, 384)                                   listen
    crop (256, 256, 3) -> encoder -> masked, reference (16, 32, 32) each                 encode
    windows (N, 10, 5, 384) -> lip encoder -> lip codes
    landmarks (N, 68, 2), lip codes, basis -> wanted landmarks, whose mouth each row borrows    plan
    reference, lender's reference, landmarks -> mouth laid on and moved -> lent reference
    [masked, lent reference, outline of the mouth], lip code -> U-Net -> latent              infer
    latent -> decoder -> (256, 256, 3)                                                   decode

One step, timestep 0, no noise, as in the paper; what differs is the size, the autoencoder, a lip code between voice and U-Net, and
that a mouth is borrowed and moved by geometry before the U-Net paints: see weights/lite/README.md. Landmarks are those of the
analysis. Knows nothing of films, boxes or stages.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from musetalk_cli.crop import CROP_PX, MASK_ROW, hide_mouth
from musetalk_cli.errors import InternalError, MissingError
from musetalk_cli.landmarks import JAW, JAW_SHARES, MOUTH, STILL
from musetalk_cli.machine import cores
from musetalk_cli.models.family import FULL, WINDOW, Lent, Numbers, Plan
from musetalk_cli.models.feed import as_memory_error
from musetalk_cli.models.lenders import choose_lenders
from musetalk_cli.models.lip_codes import CODE_SIZE, MOUTH_NUMBERS, SHAPES, CodeBasis, wanted_landmarks
from musetalk_cli.models.loading import DAMAGE
from musetalk_cli.models.small_unet import SmallUnet
from musetalk_cli.models.whisper import hidden_states
from musetalk_cli.models.whisper_encoder import WIDTH, WhisperEncoder, sinusoids
from musetalk_cli.reading import read_json

T = TypeVar("T")
WINDOW_TOKENS = WINDOW
TOKEN_WIDTH = WIDTH  # of whisper-tiny, and of the U-Net's cross-attention
HEARD_LAYER = 4  # the last hidden state says most about the lips, measured in docs/decisions.md
CODE_SPREAD = 256  # numbers that a lip code becomes, beside the U-Net's time embedding
LATENT_PX = 32
PX_A_CELL = CROP_PX // LATENT_PX
REACH = 5  # rows of latents that the encoder sees to each side: two for its convolutions at 64x64, three for those at 32x32
ROWS_AT_ONCE = 8  # through the small nets on a CPU, however many are asked for
PICTURE_BYTES = 64 << 20  # 248 pictures of a decoded face in bf16; a chunk of 10 s has 250 rows
MOVED_FROM = 10  # latent row from which a picture is decoded to be moved; nothing changes above the mask
MAPS_FROM = 2 * MOVED_FROM - 1  # row of 64, which the first row of the picture still leans on
LIGHT_ROWS = 48  # of the moved picture, just above the mask: there faces are compared for their light
SHADOW = 0.7  # how much darker the stretched lips become where a mouth opens
KEPT_TO = 14  # latent row down to which the reference is kept; an encoder that begins at row 10 is right from here

AUTOENCODER_FILES = ("autoencoder.safetensors",)
LIPS_FILES = ("lips.safetensors",)
BASIS_FILE = "basis.safetensors"
UNET_FILES = ("unet.safetensors",)
WHISPER_FILES = ("whisper.safetensors",)
FILES = (*AUTOENCODER_FILES, *LIPS_FILES, BASIS_FILE, *UNET_FILES, *WHISPER_FILES)
CONFIG_FILE = "config.json"
MOST_WIDTH = 4096  # of a net; the largest here is 160
MOST_LEVELS = 8
BASIS_SHAPES = {"template": (68, 2), "slope": (MOUTH_NUMBERS,), "shapes": (SHAPES, MOUTH_NUMBERS), "spread": (CODE_SIZE,)}


@dataclass(frozen=True, slots=True)
class LiteConfig:
    """The sizes of the nets; `config.json` holds exactly these fields."""

    latent_channels: int = 16
    encoder_widths: tuple[int, int] = (64, 128)  # at 64x64 and at 32x32
    decoder_widths: tuple[int, int] = (160, 64)  # at 32x32 and at 64x64
    encoder_blocks: tuple[int, int] = (1, 1)
    decoder_blocks: tuple[int, int] = (2, 1)
    code_size: int = 8  # numbers in a lip code
    code_tokens: int = 4  # what cross-attention sees of it
    lip_nets: int = 4  # their mean is the answer
    lip_token_width: int = 48
    lip_hidden: int = 128
    unet_widths: tuple[int, ...] = (96, 128)  # at 16x16 and 8x8
    unet_heads: int = 4


def read_config(path: Path) -> LiteConfig:
    """LiteConfig of a `config.json`. Raises MissingError where it is not one, or its nets would fill any memory."""
    try:
        values = read_json(path)
        sizes: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
        config = LiteConfig(**sizes)
        _check_sizes(config)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise MissingError(f"{path}: no configuration of a lite model ({error})", "get the model again") from error
    return config


def _check_sizes(config: LiteConfig) -> None:
    """Raises ValueError."""
    for size in fields(LiteConfig):
        value, usual = getattr(config, size.name), size.default
        numbers = value if isinstance(value, tuple) else (value,)
        fits = (
            len(numbers) == len(usual)
            if isinstance(usual, tuple) and size.name != "unet_widths"
            else 0 < len(numbers) <= MOST_LEVELS
        )
        if isinstance(value, tuple) != isinstance(usual, tuple) or not fits:
            raise ValueError(f"{size.name} is of another form")
        if not all(type(number) is int and 0 < number <= MOST_WIDTH for number in numbers):
            raise ValueError(f"{size.name} is outside of 1 to {MOST_WIDTH}")


def write_config(path: Path, config: LiteConfig) -> None:
    """LiteConfig as a `config.json`."""
    path.write_text(json.dumps(asdict(config), indent=2) + "\n")


class Residual(nn.Module):
    """Two convolutions beside an identity. No normalisation: a black lower half must not change the latent of the upper half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.normal_(self.second.weight, std=1e-3)
        nn.init.zeros_(self.second.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.silu(self.first(functional.silu(x)), inplace=True)
        out: Tensor = self.second(hidden)
        return out.add_(x)


class Autoencoder(nn.Module):
    """(N, 3, 256, 256) in [-1, 1] <-> (N, 16, 32, 32) of about unit variance. Fully convolutional: any side that 8 divides."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        fine, coarse = config.encoder_widths
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            *(Residual(fine) for _ in range(config.encoder_blocks[0])),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            *(Residual(coarse) for _ in range(config.encoder_blocks[1])),
            nn.SiLU(),
            nn.Conv2d(coarse, config.latent_channels, 3, padding=1),
        )
        coarse, fine = config.decoder_widths
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, coarse, 3, padding=1),
            *(Residual(coarse) for _ in range(config.decoder_blocks[0])),
            nn.Conv2d(coarse, 4 * fine, 3, padding=1),
            nn.PixelShuffle(2),
            *(Residual(fine) for _ in range(config.decoder_blocks[1])),
            nn.SiLU(),
            nn.Conv2d(fine, 48, 3, padding=1),
            nn.PixelShuffle(4),
        )
        self.register_buffer("mean", torch.zeros(config.latent_channels, 1, 1))
        self.register_buffer("std", torch.ones(config.latent_channels, 1, 1))

    def encode(self, images: Tensor) -> Tensor:
        latents: Tensor = (self.encoder(images.to(self.mean.dtype)) - self.mean) / self.std
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        images: Tensor = self.decoder(latents.to(self.mean.dtype) * self.std + self.mean)
        return images


class LipNet(nn.Module):
    """One perceptron from a window of whisper tokens to standardised lips: (N, 10, 384) -> (N, code)."""

    def __init__(self, config: LiteConfig, dropout: float = 0.4) -> None:
        super().__init__()
        self.token = nn.Linear(TOKEN_WIDTH, config.lip_token_width)
        self.hidden = nn.Sequential(
            nn.Linear(WINDOW_TOKENS * config.lip_token_width, config.lip_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(config.lip_hidden, config.lip_hidden),
            nn.GELU(),
            nn.Dropout(dropout),
        )
        self.out = nn.Linear(config.lip_hidden, config.code_size)
        self.drop = nn.Dropout(dropout / 2)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.out(self.hidden(functional.gelu(self.token(self.drop(tokens))).flatten(1)))
        return out


class LipEncoder(nn.Module):
    """What the voice says about the lips: (N, 10, 5, 384) windows -> (N, code) lip codes.

    The nets answer in units of a speaker's own habit; `knots` carry each number over to the spread of real lips, so that mouths
    open fully and close fully although a regression alone pulls them to the mean. Number 0 is the opening, 0 where closed.
    """

    token_mean: Tensor
    token_std: Tensor
    knots_heard: Tensor
    knots_real: Tensor

    def __init__(self, config: LiteConfig, knots: int = 33) -> None:
        super().__init__()
        self.nets = nn.ModuleList(LipNet(config) for _ in range(config.lip_nets))
        self.register_buffer("token_mean", torch.zeros(TOKEN_WIDTH))
        self.register_buffer("token_std", torch.ones(TOKEN_WIDTH))
        line = torch.linspace(-4, 4, knots).repeat(config.code_size, 1)
        self.register_buffer("knots_heard", line.clone())
        self.register_buffer("knots_real", line.clone())

    def standardised(self, tokens: Tensor) -> Tensor:
        """(N, 10, 384) of the heard layer, each number with mean 0 and variance 1 over the training voices."""
        return (tokens - self.token_mean) / self.token_std

    def habits(self, windows: Tensor) -> Tensor:
        """(N, 10, 5, 384) -> (N, code) before the knots."""
        tokens = self.standardised(windows[:, :, HEARD_LAYER])
        return torch.stack([net(tokens) for net in self.nets]).mean(0)

    def forward(self, windows: Tensor) -> Tensor:
        return interpolate(self.habits(windows), self.knots_heard, self.knots_real)


def interpolate(values: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear, each column of values (N, D) by its own ascending knots (D, K); constant beyond them."""
    columns = values.T.contiguous()
    right = torch.searchsorted(xs.contiguous(), columns).clamp(1, xs.shape[1] - 1)
    x0, x1 = xs.gather(1, right - 1), xs.gather(1, right)
    y0, y1 = ys.gather(1, right - 1), ys.gather(1, right)
    part = ((columns - x0) / (x1 - x0).clamp_min(1e-6)).clamp(0, 1)
    return (y0 + part * (y1 - y0)).T


def lip_flow(wanted: Tensor, found: Tensor, first: int = 0) -> Tensor:
    """(N, 68, 2) twice -> (N, 2, 64 - first, 64): how far away in px a crop with points `found` shows what one with `wanted` has here,
    from row `first` of 64 down.

    Known at lips and chin, zero at still points and about the edge, between them by inverse distance.
    """
    moving = [*MOUTH, *JAW_SHARES]
    sides = [(x, y) for x in (0, 64, 128, 192, 255) for y in (0, 96, 192, 290) if x in (0, 255) or y != 192]
    edge = torch.tensor(sides, dtype=found.dtype, device=found.device).expand(len(found), -1, 2)
    places = torch.cat([wanted[:, moving], wanted[:, STILL], edge], 1)
    moves = torch.cat([(found - wanted)[:, moving], torch.zeros_like(places[:, len(moving) :])], 1)
    along = torch.arange(64, dtype=found.dtype, device=found.device) * 4 + 1.5
    cells = torch.stack([along.repeat(64 - first), along[first:].repeat_interleave(64)], 1)
    apart = cells.square().sum(1)[:, None] + places.square().sum(2)[:, None]  # (N, cells, P)
    near = apart.sub_(2 * cells @ places.mT).add_(36).rsqrt_()  # of the squared distance
    weight = (near * near).mul_(near)
    flow = weight @ moves / weight.sum(2, keepdim=True)
    return flow.mT.reshape(-1, 2, 64 - first, 64)


def lip_maps(points: Tensor) -> Tensor:
    """(N, 68, 2) px -> (N, 3, 64, 64), the maps of Lending: the inner lips as two lines from corner to corner."""
    cells = torch.arange(64, dtype=points.dtype, device=points.device) * 4 + 1.5
    lines = []
    for line in ([60, 61, 62, 63, 64], [60, 67, 66, 65, 64]):
        xs, ys = points[:, line, 0].cummax(1).values, points[:, line, 1]
        height = interpolate(cells[:, None].expand(-1, len(points)), xs, ys).T
        lines.append(cells.view(1, -1, 1) - height[:, None])
    left, right = points[:, 60, :1, None], points[:, 64, :1, None]
    across = torch.sigmoid((cells - left) / 3) * torch.sigmoid((right - cells) / 3)
    inside = torch.sigmoid(lines[0] / 1.5) * torch.sigmoid(-lines[1] / 1.5) * across
    return torch.stack([inside, *((line / 16).clamp(-1, 1) for line in lines)], 1)


class LipUNet(nn.Module):
    """[masked, lent reference, maps] and lip codes -> the latent of the answer, in one step, painted onto the reference.

    The reference is the frame itself with a borrowed mouth, see `lend_lips`; the net paints what borrowing leaves wrong.
    """

    def __init__(self, config: LiteConfig) -> None:
        super().__init__()
        self.config = config
        self.spread = nn.Sequential(
            nn.Linear(config.code_size, CODE_SPREAD), nn.SiLU(), nn.Linear(CODE_SPREAD, CODE_SPREAD), nn.SiLU()
        )
        self.tokens = nn.Linear(CODE_SPREAD, config.code_tokens * TOKEN_WIDTH)
        self.unet = make_unet(config)
        nn.init.zeros_(self.unet.conv_out.weight)  # an untrained net leaves the reference as it is
        nn.init.zeros_(self.unet.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, masked: Tensor, reference: Tensor, maps: Tensor, codes: Tensor) -> Tensor:
        dtype = self.tokens.weight.dtype
        spread = self.spread(codes.to(dtype))
        tokens = self.tokens(spread).view(len(codes), self.config.code_tokens, TOKEN_WIDTH)
        cells = torch.cat([masked, reference, functional.pixel_unshuffle(maps, 2)], 1)
        cells = functional.pixel_unshuffle(cells, 2)  # 16x16: four times the samples a second
        out: Tensor = self.unet(cells.to(dtype), tokens, spread)
        paint = functional.pixel_shuffle(out.float(), 2)
        return torch.cat([reference[:, :, :KEPT_TO], (reference + paint)[:, :, KEPT_TO:]], 2)


class Lending(NamedTuple):
    """A face with another's mouth moved to where its own lips are wanted."""

    picture: Tensor  # (N, 3, 176, 256) in [-1, 1], the crop from row 8 * MOVED_FROM down
    latents: Tensor  # (N, 16, 32, 32) of the crop with it
    maps: (
        Tensor  # (N, 3, 64, 64): inside of the mouth 0..1; way to the upper and to the lower inner lip, -1..1, positive below it
    )


def lend_lips(autoencoder: Autoencoder, own: Tensor, lender: Tensor, points: Tensor, lending: Tensor, wanted: Tensor) -> Lending:
    """The mouth and chin of `lender` laid on the face of `own`, its lips moved to `wanted`; nothing changes above the mask.

    own, lender: latents (N, 16, 32, 32). points, lending: their landmarks, wanted: the landmarks aimed at in own, (N, 68, 2) px in
    the crops. The lender lies on the face by the shift, turn and scale of their still points, its light taken to that of the face;
    what opens beyond what it shows is put in shadow.
    """
    face, mouth = (autoencoder.decode(latents[:, :, MOVED_FROM:]) for latents in (own, lender))
    return lend_pictures(autoencoder, own, face, mouth, points, lending, wanted)


def lend_pictures(
    autoencoder: Autoencoder, own: Tensor, face: Tensor, mouth: Tensor, points: Tensor, lending: Tensor, wanted: Tensor
) -> Lending:
    """`lend_lips` where both latents have been decoded from row MOVED_FROM down: face, mouth (N, 3, 176, 256)."""
    face, mouth = face.float(), mouth.float()
    turn, shift = similarity(lending[:, STILL], points[:, STILL])
    laid = lending @ turn.mT + shift[:, None]
    flow, maps = lip_flow(wanted, laid, MAPS_FROM), lip_maps(wanted)
    opened = (maps[:, :1, MAPS_FROM:] - warp(lip_maps(laid)[:, :1], flow / 4, MAPS_FROM)).clamp(0, 1)
    allowed = _below_mask(points)
    places = _places(points) + (allowed * _at_full_size(flow)).permute(0, 2, 3, 1)
    found = _sampled(mouth, (places - shift[:, None, None]) @ torch.linalg.inv(turn).mT[:, None])
    light = (face - found)[:, :, :LIGHT_ROWS, 64:192].mean((2, 3), keepdim=True)
    found = found.add_(light + 1).mul_(1 - SHADOW * _at_full_size(opened)).sub_(1)
    share = allowed * lower_face(points, torch.maximum(laid[:, 8, 1], wanted[:, 8, 1]))
    picture = torch.lerp(face, found, share)
    lower = autoencoder.encode(picture.contiguous(memory_format=torch.channels_last)).float()
    return Lending(picture, torch.cat([own[:, :, :KEPT_TO], lower[:, :, KEPT_TO - MOVED_FROM :]], 2), maps)


def similarity(points: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """(N, K, 2) twice -> (N, 2, 2), (N, 2): turn and scale, then shift, that carry points onto others best."""
    here, there = points.mean(1, keepdim=True), others.mean(1, keepdim=True)
    a, b = points - here, others - there
    size = a.square().sum((1, 2)).clamp_min(1e-6)
    along = (a * b).sum((1, 2)) / size
    across = (a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]).sum(1) / size
    turn = torch.stack([along, -across, across, along], 1).view(-1, 2, 2)
    return turn, (there - here @ turn.mT)[:, 0]


def lower_face(points: Tensor, chin: Tensor) -> Tensor:
    """(N, 68, 2), (N,) row of the lowest chin -> (N, 1, 176, 256): 1 on mouth and chin, 0 from the nose up and on the cheeks' sides."""
    top, bottom = points[:, 33, 1], torch.maximum(points[:, 8, 1], chin) + 14
    centre = torch.stack([points[:, 48:60, 0].mean(1), (top + bottom) / 2], 1)
    jaw = points[:, JAW, 0]
    half = torch.stack([0.42 * (jaw.amax(1) - jaw.amin(1)), (bottom - top) / 2], 1).clamp_min(8)
    places = _places(points)
    across, down = places[:, :1, :, 0], places[:, :, :1, 1]
    x, y = ((at - centre[:, i, None, None]) / half[:, i, None, None] for i, at in enumerate((across, down)))
    return ((1.2 - x**2 - y**4) / 0.4).clamp(0, 1)[:, None]


def _places(like: Tensor) -> Tensor:
    """(1, 176, 256, 2): x and y of each pixel from row 8 * MOVED_FROM down."""
    rows = torch.arange(8 * MOVED_FROM, CROP_PX, dtype=like.dtype, device=like.device)
    columns = torch.arange(CROP_PX, dtype=like.dtype, device=like.device)
    return torch.stack(torch.meshgrid(columns, rows, indexing="xy"), 2)[None]


def _below_mask(like: Tensor) -> Tensor:
    """(1, 1, 176, 1): 0 above the mask, 1 a little below its edge."""
    return ((_places(like)[:, None, :, :1, 1] - MASK_ROW + 8) / 12).clamp(0, 1)


def _at_full_size(cells: Tensor) -> Tensor:
    """(N, C, 45, 64), from row MAPS_FROM of 64 down -> (N, C, 176, 256)."""
    cells = cells.float().contiguous()  # channels last, torch takes four times as long
    return functional.interpolate(cells, scale_factor=4, mode="bilinear")[:, :, 8 * MOVED_FROM - 4 * MAPS_FROM :]


def _sampled(pictures: Tensor, places: Tensor) -> Tensor:
    """(N, 3, 176, 256) at places (N, 176, 256, 2) px of the whole crop; beyond the edges as at the edges."""
    grid = torch.stack(
        [places[..., 0] * 2 / (CROP_PX - 1) - 1, (places[..., 1] - 8 * MOVED_FROM) * 2 / (pictures.shape[2] - 1) - 1], 3
    )
    return functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp(images: Tensor, flow: Tensor, first: int = 0) -> Tensor:
    """(N, 3, H, W) and (N, 2, H - first, W) px -> images from row `first` down, each pixel taken from `flow` further right and down."""
    height, width = images.shape[2:]
    rows = torch.arange(first, height, device=images.device).view(1, -1, 1) + flow[:, 1]
    columns = torch.arange(width, device=images.device).view(1, 1, -1) + flow[:, 0]
    grid = torch.stack([columns * 2 / (width - 1) - 1, rows * 2 / (height - 1) - 1], 3)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def make_unet(config: LiteConfig) -> SmallUnet:
    """The published U-Net in small: attention at 8x8 only, and the lip code also beside the time embedding."""
    channels = 4 * (2 * config.latent_channels + 12)  # 12: three maps, four cells each
    answers = 4 * config.latent_channels
    return SmallUnet(channels, answers, config.unet_widths, config.unet_heads, TOKEN_WIDTH, CODE_SPREAD)


class LiteNets(NamedTuple):
    """The four nets, ready to work, and what lip codes mean."""

    autoencoder: Autoencoder
    lips: LipEncoder
    basis: CodeBasis
    unet: LipUNet
    whisper: WhisperEncoder


@dataclass(frozen=True, slots=True, eq=False)
class LiteModel:
    """The lite family behind the interface that all families share.

    On the CPU rows go through one by one where results are to be exact, and so the same row gives the same pixels in any batch. The
    convolutions of encoder and decoder gain nothing from a batch there, the small U-Net does: 28 ms a row one by one, 18 in eights.
    Raises MemoryError where a GPU has no room for what it was given, InternalError where the autoencoder twice answers with NaN.
    """

    nets: LiteNets
    device: torch.device
    numbers: Numbers = FULL
    name: str = "lite"
    latent_channels: int = 16
    _pictures: "Pictures" = field(default_factory=lambda: Pictures(PICTURE_BYTES))
    _known: list[NDArray[np.float16]] = field(default_factory=list)  # latents of a black crop, once they have been asked for

    @as_memory_error()
    def listen(self, speech: NDArray[np.float32]) -> NDArray[np.float16]:
        """(S,) 16 kHz -> (T, 5, 384), T = floor(S / 320): whisper's hidden states, in blocks of 30 s."""
        return hidden_states(self.nets.whisper, speech)

    @as_memory_error()
    def encode(self, crops_rgb: NDArray[np.uint8]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """(N, 256, 256, 3) -> masked, reference (N, 16, 32, 32), scaled."""
        reference = self._encode(crops_rgb)
        return self._masked(crops_rgb, reference) if len(crops_rgb) else reference, reference

    @as_memory_error()
    def plan(self, points: NDArray[np.float32], windows: NDArray[np.float16], track: NDArray[np.integer]) -> Plan:
        """Lips where the voice wants them, and for each row the one of the same person whose mouth is nearest to that."""
        wanted = wanted_landmarks(points, self.lip_codes(windows), track, self.nets.basis)
        return Plan(wanted, choose_lenders(points, wanted, track))

    @as_memory_error()
    def infer(
        self,
        masked: NDArray[np.float16],
        reference: NDArray[np.float16],
        windows: NDArray[np.float16],
        lent: Lent,
        *,
        fp32: bool = False,
    ) -> NDArray[np.float16]:
        """windows (N, 10, 5, 384) -> (N, 16, 32, 32). fp32: not looked at, bfloat16 has fp32's range and fp16 is not used here."""
        given = [
            self._tensor(masked),
            self._tensor(reference),
            self._tensor(lent.latents),
            *(torch.from_numpy(np.array(array)).to(self.device) for array in (lent.points, lent.lending, lent.wanted)),
            torch.from_numpy(self.lip_codes(windows)).to(self.device),
        ]
        size = 1 if self.numbers.exact else ROWS_AT_ONCE
        return self._numbers_of(self._spread(lambda rows: self._answer(*(tensor[rows] for tensor in given)), len(masked), size))

    @as_memory_error()
    def decode(self, latents: NDArray[np.float16]) -> NDArray[np.uint8]:
        """-> (N, 256, 256, 3) RGB."""
        given = self._tensor(latents)
        none = np.empty((0, CROP_PX, CROP_PX, 3), np.uint8)
        return np.concatenate([none, *self._spread(lambda rows: self._pixels(given[rows]), len(latents))])

    def lip_codes(self, windows: NDArray[np.float16]) -> NDArray[np.float32]:
        """(N, 10, 5, 384) -> (N, code): what the lips should do; number 0 is the opening."""
        with torch.inference_mode():
            parts = torch.split(torch.from_numpy(windows), 1 if self.numbers.exact else ROWS_AT_ONCE)
            codes = [self.nets.lips(part.to(self.device).float()).cpu().numpy() for part in parts if len(part)]
        return np.concatenate(codes) if codes else np.zeros((0, 1), np.float32)

    def _answer(
        self, masked: Tensor, own: Tensor, lender: Tensor, points: Tensor, lending: Tensor, wanted: Tensor, codes: Tensor
    ) -> Tensor:
        face, mouth = (
            torch.cat([self._pictures.of(row, self._moved) for row in torch.split(latents, self._alone(len(latents)))])
            for latents in (own, lender)
        )
        lent = lend_pictures(self.nets.autoencoder, own, face, mouth, points, lending, wanted)
        answer: Tensor = self.nets.unet(masked, lent.latents, lent.maps, codes)
        return answer

    def _moved(self, latents: Tensor) -> Tensor:
        return _finite(self.nets.autoencoder.decode, latents[:, :, MOVED_FROM:])

    def _pixels(self, latents: Tensor) -> NDArray[np.uint8]:
        images = _finite(self.nets.autoencoder.decode, latents).permute(0, 2, 3, 1)
        levels = ((images.float() + 1) * 127.5).round_().clamp_(0, 255)
        pixels: NDArray[np.uint8] = levels.to(torch.uint8).cpu().numpy()
        return pixels

    def _masked(self, crops_rgb: NDArray[np.uint8], reference: NDArray[np.float16]) -> NDArray[np.float16]:
        """What `_encode` gives for crops with the mouth hidden, to the last bit, from the rows about the mask's edge alone: the
        convolutions see REACH rows of latents, so that above them all is as in the reference, and below them as in a black picture."""
        edge = MASK_ROW // PX_A_CELL
        first, last = edge - REACH, edge + REACH  # rows of latents that see both
        top, bottom = (first - REACH) * PX_A_CELL, (last + REACH) * PX_A_CELL
        strip = self._encode(hide_mouth(crops_rgb)[:, top:bottom])
        masked = np.broadcast_to(self._black(), reference.shape).copy()
        masked[:, :, :first] = reference[:, :, :first]
        masked[:, :, first:last] = strip[:, :, REACH : REACH + last - first]
        return masked

    def _black(self) -> NDArray[np.float16]:
        """(1, 16, 32, 32): what encode gives for a black crop."""
        if not self._known:
            self._known.append(self._encode(np.zeros((1, CROP_PX, CROP_PX, 3), np.uint8)))
        return self._known[0]

    def _encode(self, crops_rgb: NDArray[np.uint8]) -> NDArray[np.float16]:
        images = torch.from_numpy(np.ascontiguousarray(crops_rgb)).to(self.device)
        encode = self.nets.autoencoder.encode
        return self._numbers_of(self._spread(lambda rows: _finite(encode, as_images(images[rows])), len(images)))

    def _tensor(self, array: NDArray[np.float16]) -> Tensor:
        """A copy, as torch warns of the read-only ones from disk; fp32, channels last."""
        return torch.from_numpy(np.array(array)).to(self.device).float().contiguous(memory_format=torch.channels_last)

    def _alone(self, rows: int, size: int = 1) -> int:
        """Rows that go through together: `size` on the CPU, elsewhere all."""
        return size if self.device.type == "cpu" else max(rows, 1)

    def _spread(self, net: Callable[[slice], T], rows: int, size: int = 1) -> list[T]:
        """net of all rows in parts, each in a thread of its own on the CPU: which rows a part holds depends on no number of cores."""

        def part(start: int) -> T:
            if self.device.type == "cpu" and torch.get_num_threads() != 1:
                torch.set_num_threads(1)  # of this thread of the pool
            with torch.inference_mode():
                return net(slice(start, start + step))

        step = self._alone(rows, size)
        starts = range(0, rows, step)
        return list(_lanes().map(part, starts)) if self.device.type == "cpu" else [part(start) for start in starts]

    def _numbers_of(self, parts: list[Tensor]) -> NDArray[np.float16]:
        """Latents in parts -> one array (N, 16, rows, 32)."""
        if not parts:
            return np.zeros((0, self.latent_channels, LATENT_PX, LATENT_PX), np.float16)
        out: NDArray[np.float16] = torch.cat([part.to("cpu", torch.float16) for part in parts]).contiguous().numpy()
        return out


def _finite(run: Callable[[Tensor], Tensor], given: Tensor) -> Tensor:
    """run(given), and once more where that is not finite: bfloat16 has the range of fp32, so it was no matter of precision."""
    for _ in range(2):
        answer = run(given)
        if torch.isfinite(answer).all():
            return answer
    raise InternalError(f"{run.__name__} of {len(given)} crops: NaN twice", "run `musetalk weights verify`")


@lru_cache(maxsize=1)
def _lanes() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(cores(), "rows")


class Pictures:
    """Pictures of latents, the last ones kept: a frame shows its own face, and lends its mouth to others.

    Safe in threads; a picture that two ask for at once is made twice.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._held: OrderedDict[bytes, Tensor] = OrderedDict()
        self._lock = Lock()
        self._bytes = 0

    def of(self, latents: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        """make(latents); of one row only is kept, since batches are not asked for twice."""
        if len(latents) != 1 or latents.device.type != "cpu":
            return make(latents)
        key = latents.contiguous().numpy().tobytes()
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key]
        made = make(latents)
        with self._lock:
            self._bytes += made.nbytes if key not in self._held else 0
            self._held[key] = made
            while self._bytes > self._most:
                self._bytes -= self._held.popitem(last=False)[1].nbytes
        return made


def as_images(crops_rgb: Tensor) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) float in [-1, 1], channels last."""
    return crops_rgb.permute(0, 3, 1, 2).float() / 127.5 - 1


def load_lite(folder: Path, device: torch.device, numbers: Numbers = FULL) -> LiteModel:
    """The embedded model from a folder of `config.json` and the weight files."""
    check_files(folder)
    config = read_config(folder / CONFIG_FILE)
    autoencoder, lips, unet = Autoencoder(config), LipEncoder(config), LipUNet(config)
    for net, names in ((autoencoder, AUTOENCODER_FILES), (lips, LIPS_FILES), (unet, UNET_FILES)):
        _fill(net, folder, names)
        net.eval().requires_grad_(False).to(device)
        if numbers.precision == "bf16" and net is not lips:  # lips are a thousandth of the work and decide what is said
            net.to(torch.bfloat16)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch 2.13 leaves it out of the signature
    nets = LiteNets(autoencoder, lips, read_basis(folder), unet, load_lite_whisper(folder).to(device))
    return LiteModel(nets, device, numbers, latent_channels=config.latent_channels)


def read_basis(folder: Path) -> CodeBasis:
    """The basis of lip codes of a model folder. Raises MissingError where its tensors are not those of this version."""
    tensors = _read(folder, (BASIS_FILE,))
    if {name: tuple(value.shape) for name, value in tensors.items()} != BASIS_SHAPES:
        raise MissingError(f"{folder / BASIS_FILE}: not of this version of the embedded model", "install the package again")
    return CodeBasis(**{name: value.numpy() for name, value in tensors.items()})


def load_lite_whisper(folder: Path) -> WhisperEncoder:
    """whisper-tiny's encoder from float16; its sinusoidal positions are computed, not stored."""
    check_files(folder)
    encoder = make_whisper()
    try:
        left_out = encoder.load_state_dict(_read(folder, WHISPER_FILES), strict=False)
    except RuntimeError as error:  # of another shape
        raise MissingError(f"{folder / WHISPER_FILES[0]}: not whisper-tiny's encoder", "install the package again") from error
    if left_out.unexpected_keys or left_out.missing_keys != ["embed_positions.weight"]:
        raise MissingError(f"{folder / WHISPER_FILES[0]}: not whisper-tiny's encoder", "install the package again")
    return encoder.eval().requires_grad_(False)


def make_whisper() -> WhisperEncoder:
    """whisper-tiny's encoder without its weights; the positions are filled in."""
    encoder = WhisperEncoder()
    with torch.no_grad():
        encoder.embed_positions.weight.copy_(sinusoids())
    return encoder


def check_files(folder: Path) -> None:
    """MissingError where a file of the model is not there."""
    for name in (CONFIG_FILE, *FILES):
        if not (folder / name).is_file():
            raise MissingError(f"{folder / name}: a file of the embedded model is not there", "install the package again")


def _fill(net: nn.Module, folder: Path, names: tuple[str, ...]) -> None:
    try:
        net.load_state_dict(_read(folder, names))
    except RuntimeError as error:
        fact = f"{folder / names[0]}: not of this version of the embedded model ({str(error).splitlines()[0]})"
        raise MissingError(fact, "install the package again") from error


def _read(folder: Path, names: tuple[str, ...]) -> dict[str, Tensor]:
    """Raises MissingError for a file that is none, whatever its header promises."""
    tensors: dict[str, Tensor] = {}
    for name in names:
        try:
            tensors |= {key: value.float() for key, value in load_file(folder / name).items()}
        except DAMAGE as error:
            fact = f"{folder / name}: damaged: {str(error)[:120]}"
            raise MissingError(fact, "get the model again, or install the package again") from error
    return tensors
