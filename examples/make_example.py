"""Makes the example: a public-domain portrait that talks, and a French voice to dub it with. In: nothing. Out: film.mp4, fr.wav.

`python examples/make_example.py [FOLDER]` needs the packages of `pip install ".[test]"`: scikit-image carries the portrait
(NASA, public domain), py-nanotts speaks. The film has a moving head, one second without a face, and a cut to a closer, mirrored
framing; the jaw follows the English sound. Same packages, same bytes.
"""

import sys
import wave
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np
import soxr
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from numpy.typing import NDArray
from py_nanotts import NanoTTS
from skimage.data import astronaut

ENGLISH = "Hello and welcome on board, please look out of the window: beautiful, isn't it?"
FRENCH = "Bonjour à tous et bienvenue à bord, regardez par la fenêtre, c'est magnifique, n'est-ce pas ?"
SIZE = (1280, 720)
FPS = 25
FRAMES = 150
VOICE_HZ = 16_000  # what py-nanotts speaks
FILM_HZ = 48_000
MIDDLE_X = 223.5  # of the portrait's mouth, in its own pixels; measured once, as are the curves in `open_mouth`
HALF_MOUTH = 21.0


class Framing(NamedTuple):
    """How the camera sees the portrait from frame `start` on."""

    start: int
    scale: float  # film pixels a portrait pixel
    middle: tuple[float, float]  # of the picture, in portrait pixels
    mirrored: bool
    title: bool = False  # a card instead of the portrait


FRAMINGS = (
    Framing(0, 2.75, (235.0, 142.0), mirrored=False),
    Framing(60, 1.0, (0.0, 0.0), mirrored=False, title=True),
    Framing(85, 3.4, (226.0, 126.0), mirrored=True),
)


def main(folder: Path) -> None:
    """Writes folder/film.mp4 and folder/fr.wav."""
    english = speak(ENGLISH, "en-GB", FRAMES / FPS)
    write_film(folder / "film.mp4", english)
    write_wav(folder / "fr.wav", speak(FRENCH, "fr-FR", FRAMES / FPS))


def speak(text: str, voice: str, seconds: float) -> NDArray[np.int16]:
    """(S,) mono at 16 kHz, exactly `seconds` long, silence at the end."""
    pcm = np.frombuffer(NanoTTS().speak(text, voice=voice, volume=0.6), np.int16)
    if len(pcm) > seconds * VOICE_HZ:
        raise SystemExit(f"{text!r}: {len(pcm) / VOICE_HZ:.1f} s of speech, longer than {seconds} s; say less")
    return np.pad(pcm, (0, round(seconds * VOICE_HZ) - len(pcm)))


def write_film(path: Path, speech: NDArray[np.int16]) -> None:
    """H.264 and AAC; colour tagged BT.709."""
    portrait = cv2.cvtColor(astronaut(), cv2.COLOR_RGB2BGR)
    opening = jaw(speech)
    with av.open(str(path), "w", options={"movflags": "+faststart"}) as film:
        picture = film.add_stream("libx264", rate=FPS, options={"crf": "20", "preset": "slow", "x264-params": "threads=1"})
        picture.width, picture.height = SIZE
        picture.pix_fmt = "yuv420p"
        sound = film.add_stream("aac", rate=FILM_HZ, layout="mono", bit_rate=96_000)
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(draw(portrait, number, opening[number]), format="bgr24")
            film.mux(picture.encode(as_bt709(frame, number)))
        film.mux(picture.encode(None))
        for samples in sound_frames(speech):
            film.mux(sound.encode(samples))
        film.mux(sound.encode(None))


def jaw(speech: NDArray[np.int16]) -> NDArray[np.float64]:
    """(S,) sound -> (FRAMES,) jaw of each frame, portrait pixels: -5 with lips closed in a pause, up to 7 on a loud vowel."""
    a_frame = VOICE_HZ // FPS
    loud = np.sqrt(np.mean((speech.reshape(FRAMES, a_frame) / 32768.0) ** 2, axis=1))
    opening = np.clip(loud / np.percentile(loud, 97), 0, 1)
    smooth = np.convolve(np.pad(opening, 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    return -5 + 12 * smooth


def draw(portrait: NDArray[np.uint8], number: int, opening: float) -> NDArray[np.uint8]:
    """One frame, (720, 1280, 3) BGR."""
    framing = [f for f in FRAMINGS if f.start <= number][-1]
    if framing.title:
        return title_card(number - framing.start)
    x, y = look(framing, number / FPS)
    y, gap = open_mouth(x, y, opening)
    seen = cv2.remap(portrait, x.astype(np.float32), y.astype(np.float32), cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    dark = cv2.GaussianBlur(gap.astype(np.float32), (0, 0), framing.scale * 0.8)[..., None]
    return np.clip(seen * (1 - dark) + np.array([28, 22, 60]) * dark, 0, 255).astype(np.uint8)


def look(framing: Framing, t: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Portrait coordinates of every film pixel, (720, 1280) each: a camera that drifts, turns and breathes a little."""
    width, height = SIZE
    u, v = np.meshgrid(np.arange(width) - width / 2, np.arange(height) - height / 2)
    if framing.mirrored:
        u = -u
    angle = np.radians(2.0 * np.sin(2 * np.pi * 0.35 * t))
    scale = framing.scale * (1 + 0.02 * np.sin(2 * np.pi * 0.2 * t))
    x = framing.middle[0] + (np.cos(angle) * u - np.sin(angle) * v) / scale + 7 * np.sin(2 * np.pi * 0.3 * t)
    y = framing.middle[1] + (np.sin(angle) * u + np.cos(angle) * v) / scale + 4 * np.sin(2 * np.pi * 0.45 * t + 1)
    return x, y


def open_mouth(x: NDArray[np.float64], y: NDArray[np.float64], opening: float) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rows of the portrait that the pixels show with the jaw `opening` pixels down, and where the mouth's inside shows."""
    across = (x - MIDDLE_X) / HALF_MOUTH
    teeth_top, lip = 143 - 2.5 * across**2, 149.5 - 9 * across**2  # the lower lip's upper edge at rest
    lips = np.clip(1 - across**2, 0, 1)
    chin = np.cos(np.clip((x - MIDDLE_X) / 48, -1, 1) * np.pi / 2) ** 2
    below = np.clip((y - 155) / 18, 0, 1)
    fade = np.clip((212 - y) / 30, 0, 1)  # the neck stays
    moved = opening * (lips * (1 - below) + chin * below) * fade
    lip_now = lip + opening * lips
    gap = (y > lip) & (y < lip_now) & (np.abs(across) < 1)
    source = np.where(y > lip_now, y - moved, np.minimum(y, lip))
    if opening < 0:  # lips close over the teeth: the rows between are squeezed
        share = (lip - teeth_top) / np.maximum(lip_now - teeth_top, 0.5)
        squeezed = np.clip(teeth_top + (y - teeth_top) * share, teeth_top, lip)
        source = np.where(y > lip_now, y - moved, np.where(y > teeth_top, squeezed, y))
    return np.where((np.abs(across) < 1) | (y > 155), source, y), gap


def title_card(number: int) -> NDArray[np.uint8]:
    """A second without a face: words on a moving gradient."""
    width, height = SIZE
    ramp = np.linspace(0, 1, width)[None, :] * 0.5 + np.linspace(0, 1, height)[:, None] * 0.5
    card = np.stack([90 + 40 * np.sin(2 * np.pi * (ramp + number / 50)), 50 + 20 * ramp, 30 + 0 * ramp], axis=-1)
    card = np.ascontiguousarray(card.astype(np.uint8))
    for text, row, size in (("WELCOME ABOARD", 350, 2.6), ("no face for a second", 430, 1.2)):
        (wide, _), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_DUPLEX, size, 2)
        cv2.putText(card, text, ((width - wide) // 2, row), cv2.FONT_HERSHEY_DUPLEX, size, (235, 235, 235), 2, cv2.LINE_AA)
    return card


def as_bt709(frame: av.VideoFrame, number: int) -> av.VideoFrame:
    """The same picture in the film's own format, tagged."""
    out = frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        dst_color_primaries=ColorPrimaries.BT709,
        dst_color_trc=ColorTrc.BT709,
    )
    out.pts = number
    return out


def sound_frames(speech: NDArray[np.int16]) -> list[av.AudioFrame]:
    """(S,) 16 kHz -> 48 kHz in one frame."""
    samples = soxr.resample(speech.astype(np.float32) / 32768, VOICE_HZ, FILM_HZ, "HQ").astype(np.float32)
    frame = av.AudioFrame.from_ndarray(samples[None, :], format="fltp", layout="mono")
    frame.sample_rate, frame.pts = FILM_HZ, 0
    return [frame]


def write_wav(path: Path, samples: NDArray[np.int16]) -> None:
    """Mono, 16 bit, 16 kHz."""
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(VOICE_HZ)
        out.writeframes(samples.tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
