"""The published way, as a baseline that ratios are quoted against. In: v15's nets, frames. Out: what they take, beside what ours take.

Written from the description of the released scripts (spec 3 to 5), for speed and not for use: all frames of the film as PNG files and then
in memory, the analysis of every whole frame alone, the autoencoder a picture at a time, U-Net and decoder in eager torch eight at a time
in fp32 (fp16 on a GPU, as their flag does), a full-frame PIL image and a parsing for each paste, PNGs again, and two encodes.

Detection is ours, every frame: the published detectors (S3FD and DWPose) are slower and are not to be had from a package registry.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from musetalk_cli import weights
from musetalk_cli.bench.machine import Ceiling, Machine, machine, matmul_ceiling
from musetalk_cli.bench.steps import Rows, calls_of, gflop_a_row, noise, share_of
from musetalk_cli.config import ModelConfig, Precision, Runtime
from musetalk_cli.settings import Choices, choose_precision, choose_runtime

if TYPE_CHECKING:
    import torch

Rgb = NDArray[np.uint8]
BATCH = 8  # the published script's default
LATENT_SCALE = 0.18215
EXPAND, UPPER, BLUR = 1.5, 0.5, 0.05  # of the square that is parsed, and its mask


class Rate(NamedTuple):
    """U-Net and decoder. share: of the matmul ceiling in that precision; best: of the runs."""

    precision: Precision
    frames_a_second: float
    best: float
    share: float | None
    ceiling: Ceiling


class Spent(NamedTuple):
    """Seconds a frame of a step of the published scripts."""

    step: str
    seconds: float


@dataclass(frozen=True, slots=True)
class NetPair:
    """In one process and in turn. ratio: ours over the reference's, median of the runs."""

    reference: Rate
    ours: Rate
    ratio: float
    least: float
    most: float
    batch: int  # ours
    device: str
    random_weights: bool
    published: tuple[Spent, ...]  # the whole of the published way, a frame
    machine: Machine

    def as_json(self) -> dict[str, object]:
        def told(rate: Rate) -> dict[str, object]:
            return {**rate._asdict(), "ceiling": rate.ceiling._asdict()}

        spent = [one._asdict() for one in self.published]
        of_nets = {"reference": told(self.reference), "ours": told(self.ours)}
        return {**asdict(self), **of_nets, "published": spent, "machine": self.machine._asdict()}

    def lines(self) -> list[str]:
        """A line each, the ratio, the published way by step."""
        here = self.machine
        made = ", random weights" if self.random_weights else ""
        rows = [
            f"v15's U-Net and decoder at 256x256{made}, {here.gpu or here.cpu}, {here.cores} cores, load {here.load:g}, {here.date}"
        ]
        for name, rate in (("reference", self.reference), ("ours", self.ours)):
            share = "" if rate.share is None else f", {rate.share:.0%} of {rate.ceiling.gflops:.0f} GFLOP/s"
            rows.append(f"{name:10} {rate.frames_a_second:8.3f} frames/s in {rate.precision}{share} (best {rate.best:.3f})")
        rows.append(f"ratio {self.ratio:.2f} ({self.least:.2f} to {self.most:.2f})")
        rows += [f"published {one.step:14} {one.seconds * 1e3:9.1f} ms a frame" for one in self.published]
        whole = sum(one.seconds for one in self.published)
        return [*rows, f"published {'in all':14} {whole * 1e3:9.1f} ms a frame"]


class Nets(NamedTuple):
    """The published U-Net and autoencoder as diffusers builds them."""

    unet: Any
    vae: Any
    device: str
    dtype: "torch.dtype"


def pair_nets(choices: Choices, runs: int, *, random_weights: bool) -> NetPair:
    """choices: whose weights, and where. Raises MissingError where v15's weights are not there."""
    from musetalk_cli.models import free_batch, load_family

    runtime = choose_runtime(choices)
    folder = weights.folder(choices.weights)
    precision = choose_precision(choices.precision, runtime.device, exact=choices.exact)
    theirs: Precision = "fp16" if runtime.device.startswith("cuda") else "fp32"
    here, ceilings = machine(runtime.device), {p: matmul_ceiling(runtime.device, p) for p in {precision, theirs}}
    config = ModelConfig("v15", (), precision, choices.exact)
    family, nets = load_family(config, runtime), load_nets(folder, runtime.device, theirs)
    rows = noise(runtime.batch_size or free_batch(runtime), family.latent_channels)
    calls = calls_of(family, rows)
    ours, reference = list[float](), list[float]()
    for number in range(runs + 1):  # the first warms up
        theirs_s = _clocked(lambda: generate(nets, rows.first(BATCH))) / BATCH
        ours_s = _clocked(lambda: (calls["infer"](), calls["decode"]())) / len(rows.masked)
        if number:
            reference.append(1 / theirs_s)
            ours.append(1 / ours_s)
    counted = gflop_a_row(config, rows)
    gflop = counted["infer"] + counted["decode"]
    ratios = [mine / other for mine, other in zip(ours, reference, strict=True)]
    return NetPair(
        _rate(theirs, reference, gflop, ceilings[theirs]),
        _rate(precision, ours, gflop, ceilings[precision]),
        round(float(np.median(ratios)), 3),
        round(min(ratios), 3),
        round(max(ratios), 3),
        len(rows.masked),
        runtime.device,
        random_weights,
        published_way(nets, runtime),
        here,
    )


def load_nets(folder: Path, device: str, precision: Precision) -> Nets:
    """From a weights folder, by diffusers' own classes, as the published scripts do."""
    from musetalk_cli.models.published import DTYPES
    from musetalk_cli.models.unet import load_unet
    from musetalk_cli.models.vae import load_vae

    where, dtype = _torch_device(device), DTYPES[precision]
    unet_config, unet, vae_config, vae = (
        weights.locate(need, folder) for need in (weights.UNET_V15_CONFIG, weights.UNET_V15, weights.VAE_CONFIG, weights.VAE)
    )
    return Nets(load_unet(unet_config, unet, where, dtype), load_vae(vae_config, vae, where, dtype), device, dtype)


def generate(nets: Nets, rows: Rows) -> list[Rgb]:
    """U-Net and decoder, eight at a time; every answer to the CPU as float, and to BGR by itself. -> N pictures (256, 256, 3)."""
    import torch

    from musetalk_cli.models.unet import positional_encoding

    positions = positional_encoding().to(nets.device, nets.dtype)
    made: list[Rgb] = []
    with torch.no_grad():
        for start in range(0, len(rows.masked), BATCH):
            part = slice(start, start + BATCH)
            latents = np.concatenate([rows.masked[part], rows.reference[part]], axis=1)
            given = torch.from_numpy(latents).to(nets.device, nets.dtype)
            heard = torch.from_numpy(rows.windows[part]).to(nets.device, nets.dtype).flatten(1, 2) + positions
            answer = nets.unet(given, torch.tensor([0], device=nets.device), encoder_hidden_states=heard).sample
            pictures = nets.vae.decode((answer / LATENT_SCALE).to(nets.dtype)).sample
            pictures = (pictures / 2 + 0.5).clamp(0, 1).detach().cpu().permute(0, 2, 3, 1).float().numpy()
            made += [np.asarray(one[..., ::-1], np.uint8) for one in (pictures * 255).round().astype(np.uint8)]
    return made


def published_way(nets: Nets, runtime: Runtime, frames: int = BATCH) -> tuple[Spent, ...]:
    """Every step over the first frames of a 1080p25 film that is made for it. Whisper is left out: a tenth of a second for a film."""
    from musetalk_cli.bench.film import generated

    spent: dict[str, float] = {}
    film = generated(20).film
    with TemporaryDirectory(prefix="musetalk-reference-") as name:
        folder = Path(name)
        with _timed("to PNG", spent):
            _to_pngs(film, folder, frames)
        with _timed("read PNG", spent):
            pictures = _read_pngs(folder)
        with _timed("detect", spent):
            boxes = _boxes(pictures)
        with _timed("encode", spent):
            latents = [_encoded(nets, picture, box) for picture, box in zip(pictures, boxes, strict=True)]
        masked, reference = (np.concatenate([pair[of] for pair in latents]) for of in (0, 1))
        with _timed("U-Net, decode", spent):
            mouths = generate(nets, noise(frames, 4)._replace(masked=masked, reference=reference))
        with _timed("paste", spent):
            pasted = [pasted_face(*given, _parser(runtime)) for given in zip(pictures, mouths, boxes, strict=True)]
        with _timed("write PNG", spent):
            _write_pngs(folder, pasted)
        with _timed("two encodes", spent):
            _encode_twice(folder)
    return tuple(Spent(step, round(seconds / frames, 5)) for step, seconds in spent.items())


def pasted_face(frame_bgr: Rgb, mouth_bgr: Rgb, box: tuple[int, int, int, int], parse: Any) -> Rgb:
    """Through PIL, with a mask as large as the face's square and a copy of the whole frame. parse: (S, S, 3) RGB -> (512, 512) 0 or 255."""
    import cv2
    from PIL import Image

    x1, y1, x2, y2 = box
    face = Image.fromarray(cv2.resize(mouth_bgr, (x2 - x1, y2 - y1))[..., ::-1])
    body = Image.fromarray(frame_bgr[..., ::-1])
    middle_x, middle_y, half = (x1 + x2) // 2, (y1 + y2) // 2, int(max(x2 - x1, y2 - y1) // 2 * EXPAND)
    square = (middle_x - half, middle_y - half, middle_x + half, middle_y + half)
    large = body.crop(square)
    seen = Image.fromarray(parse(np.asarray(large))).resize(large.size)
    inside = (x1 - square[0], y1 - square[1], x2 - square[0], y2 - square[1])
    mask = Image.new("L", large.size, 0)
    mask.paste(seen.crop(inside), inside)
    levels = np.array(mask)
    levels[: int(levels.shape[0] * UPPER)] = 0
    kernel = int(BLUR * large.size[0] // 2 * 2) + 1
    alpha = Image.fromarray(cv2.GaussianBlur(levels, (kernel, kernel), 0))
    large.paste(face, inside)
    body.paste(large, square[:2], alpha)
    return np.asarray(np.array(body)[..., ::-1], np.uint8)


def _to_pngs(film: Path, folder: Path, frames: int) -> None:
    import ffmpeg

    from musetalk_cli.media.ffmpeg import AS_FILE, media_url, run_ffmpeg

    run_ffmpeg(
        ffmpeg.input(media_url(film), **AS_FILE).output(str(folder / "%08d.png"), vframes=frames, start_number=0),
        purpose="write PNGs",
    )


def _read_pngs(folder: Path) -> list[Rgb]:
    import cv2

    return [np.asarray(cv2.imread(str(path)), np.uint8) for path in sorted(folder.glob("*.png"))]


def _write_pngs(folder: Path, pictures: Sequence[Rgb]) -> None:
    import cv2

    for number, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{number:08d}.png"), picture)


def _encode_twice(folder: Path) -> None:
    import ffmpeg

    from musetalk_cli.media.ffmpeg import media_url, run_ffmpeg

    first, second = folder / "first.mp4", folder / "second.mp4"
    given = ffmpeg.input(str(folder / "%08d.png"), framerate=25)
    run_ffmpeg(given.output(media_url(first), vcodec="libx264", pix_fmt="yuv420p", crf=18), purpose="encode PNGs")
    run_ffmpeg(ffmpeg.input(media_url(first)).output(media_url(second), vcodec="libx264"), purpose="encode again")


def _boxes(pictures: Sequence[Rgb]) -> list[tuple[int, int, int, int]]:
    """Of the surest face of every frame; where there is none, of the frame before."""
    from musetalk_cli.models.analysis import EmbeddedAnalyser

    found: list[tuple[int, int, int, int]] = []
    with EmbeddedAnalyser() as analyser:
        for picture in pictures:
            rgb = np.ascontiguousarray(picture[..., ::-1])
            faces = analyser.detect(rgb)
            points = analyser.landmarks(rgb, faces[0].box) if faces else None
            if points is None:
                found.append(found[-1] if found else (0, 0, rgb.shape[1], rgb.shape[0]))
                continue
            (x1, y1), (x2, y2) = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
            found.append((max(x1, 0), max(y1, 0), min(x2, rgb.shape[1]), min(y2, rgb.shape[0])))
    return found


def _encoded(nets: Nets, frame_bgr: Rgb, box: tuple[int, int, int, int]) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
    """Masked and reference latents (1, 4, 32, 32), the posterior drawn from: one picture at a time."""
    import cv2
    import torch

    x1, y1, x2, y2 = box
    crop = cv2.resize(frame_bgr[y1:y2, x1:x2], (256, 256), interpolation=cv2.INTER_LANCZOS4)[..., ::-1]
    whole = torch.from_numpy(np.ascontiguousarray(crop)).permute(2, 0, 1)[None].float() / 255
    upper = whole.clone()
    upper[:, :, 128:] = 0
    out = []
    with torch.no_grad():
        for image in (upper, whole):
            given = ((image - 0.5) / 0.5).to(nets.device, nets.dtype)
            out.append(LATENT_SCALE * nets.vae.encode(given).latent_dist.sample())
    masked, reference = (np.asarray(one.to("cpu", torch.float16).numpy(), np.float16) for one in out)
    return masked, reference


def _parser(runtime: Runtime) -> Any:
    """BiSeNet and the jaw's mask."""
    from musetalk_cli.models.parsing import load, mask_of

    parser = load(runtime)
    return lambda rgb: mask_of(parser.parse(rgb[None])[0], "jaw")


def _rate(precision: Precision, rates: Sequence[float], gflop: float, ceiling: Ceiling) -> Rate:
    middle = float(np.median(rates))
    return Rate(precision, round(middle, 4), round(max(rates), 4), share_of(gflop * middle, ceiling), ceiling)


def _clocked(call: Any) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


@contextmanager
def _timed(step: str, spent: dict[str, float]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    spent[step] = time.perf_counter() - began


def _torch_device(name: str) -> "torch.device":
    import torch

    return torch.device(name)
