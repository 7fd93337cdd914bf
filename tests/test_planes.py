"""Compositing in the film's own pixel format: what is outside a mask stays, what is inside has the film's colour."""

from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from made_faces import make_film

from musetalk_cli.errors import InputError, InternalError
from musetalk_cli.media.planes import Patch, composite, layout_of, region_rgb, rounded
from musetalk_cli.media.video import region_to_rgb, to_rgb
from musetalk_cli.types import Colour

RGB_FORMATS = ["gbrp", "gbrp10le", "gbrap", "gbrap12le", "rgb24", "bgr24", "rgba", "argb", "bgr0", "0rgb", "rgb48le", "bgr48be"]
YUV_FORMATS = [
    *("yuv420p", "yuvj420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "yuva420p", "yuva444p10le"),
    *(
        "yuv420p9le",
        "yuv420p10le",
        "yuv420p10be",
        "yuv422p10le",
        "yuv444p10le",
        "yuv420p12le",
        "yuv444p12le",
        "yuv422p12le",
        "yuva444p12le",
        "yuv420p16le",
    ),
    *("nv12", "nv21", "nv16", "nv24", "p010le", "p012le", "p016le", "p210le", "p416le", "yuyv422", "uyvy422"),
]
GRAY_FORMATS = ["gray", "gray10le", "gray16le", "ya8", "ya16le"]
FORMATS = RGB_FORMATS + YUV_FORMATS + GRAY_FORMATS
SKINS = [(200, 60, 50), (10, 240, 30), (128, 128, 128), (255, 255, 255), (0, 0, 0), (30, 50, 230), (220, 180, 160)]


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_samples_where_alpha_is_zero_keep_every_bit(pix_fmt: str) -> None:
    frame = noise(pix_fmt, 101, 77)
    before = plane_bytes(frame)
    alpha = np.zeros((30, 40), np.uint8)
    alpha[8:22, 9:33] = 255
    composite(frame, [Patch(noise_rgb(40, 30), alpha, 31, 20)], Colour(pix_fmt))
    changed = [changed_places(frame, plane, old) for plane, old in enumerate(before)]
    xs, ys = np.concatenate([x for x, _ in changed]), np.concatenate([y for _, y in changed])
    assert len(xs) > 300
    assert xs.min() > 31 + 9 - 5 and xs.max() < 31 + 33 + 4  # a chroma sample of 4:1:0 is 4 pixels wide
    assert ys.min() > 20 + 8 - 5 and ys.max() < 20 + 22 + 4


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_layout_agrees_with_libav(pix_fmt: str) -> None:
    libav = {}
    for component, role in zip(
        av.VideoFormat(pix_fmt, 64, 48).components, "RGBA" if pix_fmt in RGB_FORMATS else "YUVA", strict=False
    ):
        libav["A" if component.is_alpha else role] = (component.plane, component.bits)
    layout = layout_of(pix_fmt)
    assert {c.role: (c.plane, layout.depth) for c in layout.channels} == libav


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_colour_of_a_patch_comes_back_within_two_code_values(pix_fmt: str) -> None:
    """For every matrix and range, against swscale."""
    for matrix in ("bt709", "smpte170m", "bt2020nc", ""):
        for colour in (Colour(pix_fmt, matrix, range=name) for name in ("tv", "pc", "")):
            frame = av.VideoFrame(32, 24 * len(SKINS), pix_fmt)
            skins = [skin if pix_fmt not in GRAY_FORMATS else (skin[0],) * 3 for skin in SKINS]
            stripes = np.repeat(np.array(skins, np.uint8), 24, 0)[:, None].repeat(32, 1)
            composite(frame, [Patch(stripes, np.full(stripes.shape[:2], 255, np.uint8), 0, 0)], colour)
            seen = to_rgb(frame, colour)[12::24, 16].astype(int)
            assert np.abs(seen - skins).max() <= 2, (colour, seen)


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuv422p10le", "p010le", "yuv444p", "rgb24"])
def test_a_perfect_crop_changes_nothing_visible(pix_fmt: str, tmp_path: Path) -> None:
    with av.open(str(make_film(tmp_path / "film.mkv", 1))) as film:
        frame = next(film.decode(video=0)).reformat(format=pix_fmt)
    colour = Colour(pix_fmt)
    before = to_rgb(frame, colour)
    composite(frame, [Patch(before[20:120, 31:151], np.full((100, 120), 255, np.uint8), 31, 20)], colour)
    assert psnr(to_rgb(frame, colour)[22:118, 33:149], before[22:118, 33:149]) > 45


def test_ten_bits_stay_ten_bits_under_a_partial_alpha() -> None:
    frame = av.VideoFrame(64, 16, "yuv444p10le")
    luma = np.frombuffer(frame.planes[0], "<u2").reshape(16, -1)[:, :64]
    luma[:] = 400 + np.arange(64)  # steps of one code value, a quarter of an 8-bit one
    composite(frame, [Patch(np.full((16, 64, 3), 128, np.uint8), np.full((16, 64), 51, np.uint8), 0, 0)], Colour("yuv444p10le"))
    shown = np.frombuffer(frame.planes[0], "<u2").reshape(16, -1)[:, :64]
    gray = 128 / 255 * 876 + 64
    assert np.abs(shown - (0.8 * (400 + np.arange(64)) + 0.2 * gray)).max() <= 0.5


def test_a_patch_finer_than_eight_bits_is_not_rounded_to_them() -> None:
    frame = av.VideoFrame(64, 16, "gray16le")
    patch = np.repeat(np.linspace(100, 101, 64, dtype=np.float32)[None, :, None], 16, 0).repeat(3, 2)
    composite(frame, [Patch(patch, np.full((16, 64), 255, np.uint8), 0, 0)], Colour("gray16le"))
    assert len(np.unique(np.frombuffer(frame.planes[0], "<u2").reshape(16, -1)[0, :64])) == 64


@pytest.mark.parametrize(("pix_fmt", "plane"), [("yuva420p", 3), ("yuva444p10le", 3), ("gbrap", 3)])
def test_alpha_plane_of_the_film_is_kept(pix_fmt: str, plane: int) -> None:
    frame = noise(pix_fmt, 64, 48)
    before = plane_bytes(frame)
    composite(frame, [Patch(noise_rgb(64, 48), np.full((48, 64), 255, np.uint8), 0, 0)], Colour(pix_fmt))
    after = plane_bytes(frame)
    assert after[plane] == before[plane]
    assert after[0] != before[0]


@pytest.mark.parametrize(("location", "left_shift"), [("left", 0.0), ("center", 0.5), ("topleft", 0.0), ("", 0.5)])
def test_chroma_sits_where_the_film_has_it(location: str, left_shift: float) -> None:
    frame = av.VideoFrame(64, 16, "yuv420p")
    ramp = np.zeros((16, 64, 3), np.float32)
    ramp[..., 2] = 4 * np.arange(64)  # blue, hence Cb, linear from left to right
    composite(
        frame,
        [Patch(ramp, np.full((16, 64), 255, np.uint8), 0, 0)],
        Colour("yuv420p", "bt709", range="pc", chroma_location=location),
    )
    blue = np.frombuffer(frame.planes[1], np.uint8).reshape(8, -1)[4, 4:28]
    expected = 128 + 0.5 * (4 * (2 * np.arange(4, 28) + left_shift))
    assert np.abs(blue - np.clip(expected, 0, 255)).max() <= 0.51


def test_time_and_colour_of_the_frame_are_kept() -> None:
    frame = noise("yuv420p", 64, 48)
    frame.pts, frame.time_base, frame.colorspace, frame.color_range = 77, Fraction(1, 90000), 1, 1
    shown = composite(frame, [Patch(noise_rgb(20, 20), np.full((20, 20), 255, np.uint8), 4, 4)], Colour("yuv420p"))
    assert (shown.pts, shown.time_base, shown.colorspace, shown.color_range) == (77, Fraction(1, 90000), 1, 1)
    assert (shown.format.name, shown.width, shown.height) == ("yuv420p", 64, 48)


def test_pasting_does_not_spoil_the_frames_that_the_decoder_still_needs(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", 12, codec="libx264")
    patch = Patch(np.zeros((100, 100, 3), np.uint8), np.full((100, 100), 255, np.uint8), 20, 20)
    with av.open(str(film)) as container:
        untouched = [
            frame.to_ndarray()[:20].tobytes() + frame.to_ndarray()[:160, 130:].tobytes() for frame in container.decode(video=0)
        ]
    with av.open(str(film)) as container:
        container.streams.video[0].thread_type = "FRAME"
        seen = [composite(frame, [patch], Colour("yuv420p")).to_ndarray() for frame in container.decode(video=0)]
    assert [shown[:20].tobytes() + shown[:160, 130:].tobytes() for shown in seen] == untouched


@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_colour_of_a_region_is_that_of_the_whole_frame_in_rgb(pix_fmt: str, tmp_path: Path) -> None:
    with av.open(str(make_film(tmp_path / "film.mkv", 1))) as film:
        soft = cv2.GaussianBlur(next(film.decode(video=0)).to_ndarray(format="rgb24"), (0, 0), 12)
    frame = av.VideoFrame(192, 160, pix_fmt)
    for colour in (Colour(pix_fmt, "bt709", range="pc"), Colour(pix_fmt)):
        composite(frame, [Patch(soft, np.full((160, 192), 255, np.uint8), 0, 0)], colour)
        error = region_rgb(frame, (31, 20, 151, 121), colour) - to_rgb(frame, colour)[20:121, 31:151]
        assert np.abs(cv2.blur(error, (8, 8))).max() < 2.5


@pytest.mark.parametrize("size", [(512, 384), (642, 357)])
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_a_region_is_converted_as_in_the_whole_frame_to_the_last_bit(pix_fmt: str, size: tuple[int, int]) -> None:
    frame = noise(pix_fmt, *size)
    frame.time_base = Fraction(1, 25)
    for colour in (Colour(pix_fmt, "bt709", range="pc"), Colour(pix_fmt)):
        whole = to_rgb(frame, colour)
        for x1, y1, x2, y2 in ((0, 0, 40, 31), (131, 77, 318, 203), (size[0] - 51, size[1] - 60, *size)):
            np.testing.assert_array_equal(region_to_rgb(frame, (x1, y1, x2, y2), colour), whole[y1:y2, x1:x2])


def test_where_a_decoder_says_chroma_lies_is_not_lost_in_a_region(tmp_path: Path) -> None:
    film = make_film(tmp_path / "film.mkv", 2, codec="libx264")  # H.264 says: beside the left luma sample
    with av.open(str(film)) as container:
        frame = next(container.decode(video=0))
    colour, region = Colour("yuv420p"), (33, 21, 150, 140)
    np.testing.assert_array_equal(region_to_rgb(frame, region, colour), to_rgb(frame, colour)[21:140, 33:150])


def test_a_later_patch_lies_over_an_earlier_one() -> None:
    frame = av.VideoFrame(32, 32, "rgb24")
    full = np.full((32, 32), 255, np.uint8)
    patches = [Patch(np.full((32, 32, 3), value, np.uint8), full, 0, 0) for value in (50, 90)]
    assert (composite(frame, patches, Colour("rgb24")).to_ndarray() == 90).all()


def test_odd_sizes_are_filled_to_the_last_row_and_column() -> None:
    frame = av.VideoFrame(33, 31, "yuv420p")
    for plane in frame.planes:
        np.frombuffer(plane, np.uint8)[:] = 16
    composite(
        frame, [Patch(np.full((31, 33, 3), (200, 60, 50), np.uint8), np.full((31, 33), 255, np.uint8), 0, 0)], Colour("yuv420p")
    )
    blue = np.frombuffer(frame.planes[1], np.uint8).reshape(16, -1)[:, :17]
    assert len(np.unique(blue)) == 1


def test_fewer_bits_are_the_nearest_and_alpha_comes_back_from_them() -> None:
    fine = av.VideoFrame(256, 16, "yuva444p12le")
    codes = np.arange(4096, dtype="<u2").reshape(16, 256)
    for plane in fine.planes:
        np.frombuffer(plane, "<u2").reshape(16, -1)[:, :256] = codes
    fine.pts, fine.time_base, fine.color_trc, fine.color_range = 7, Fraction(1, 25), 16, 1
    coarse = rounded(fine, "yuva444p10le")
    luma, *_, alpha = (np.frombuffer(plane, "<u2").reshape(16, -1)[:, :256].astype(int) for plane in coarse.planes)
    assert np.abs(luma - np.minimum(codes / 4, 1023)).max() <= 0.5
    assert np.abs((alpha << 2 | alpha >> 8) - codes.astype(int)).max() <= 2 and (alpha.min(), alpha.max()) == (0, 1023)
    assert (coarse.pts, coarse.time_base, coarse.color_trc, coarse.color_range) == (7, Fraction(1, 25), 16, 1)


@pytest.mark.parametrize("pix_fmt", ["pal8", "grayf32le", "bayer_rggb8", "xyz12le", "monob"])
def test_a_format_that_cannot_be_written_is_refused_with_a_cure(pix_fmt: str) -> None:
    with pytest.raises(InputError, match=f"{pix_fmt} is not supported; convert"):
        layout_of(pix_fmt)


def test_a_matrix_that_is_not_linear_is_refused() -> None:
    with pytest.raises(InputError, match="ictcp is not supported"):
        composite(
            noise("yuv420p", 32, 32), [Patch(noise_rgb(8, 8), np.full((8, 8), 9, np.uint8), 0, 0)], Colour("yuv420p", "ictcp")
        )


def test_a_patch_that_reaches_outside_the_frame_is_a_bug() -> None:
    with pytest.raises(InternalError, match="does not lie"):
        composite(noise("yuv420p", 32, 32), [Patch(noise_rgb(8, 8), np.full((8, 8), 9, np.uint8), 28, 0)], Colour("yuv420p"))


def noise(pix_fmt: str, width: int, height: int) -> av.VideoFrame:
    frame = av.VideoFrame(width, height, pix_fmt)
    layout = layout_of(pix_fmt)
    draw = np.random.default_rng(3)
    for plane in frame.planes:
        samples = np.frombuffer(plane, layout.dtype)
        samples[:] = draw.integers(0, 1 << (layout.depth + layout.shift), samples.size)  # low bits of P010 too
    return frame


def noise_rgb(width: int, height: int) -> np.ndarray:
    return cv2.GaussianBlur(np.random.default_rng(4).integers(0, 256, (height, width, 3)).astype(np.uint8), (0, 0), 2)


def plane_bytes(frame: av.VideoFrame) -> list[bytes]:
    return [bytes(plane) for plane in frame.planes]


def changed_places(frame: av.VideoFrame, plane: int, before: bytes) -> tuple[np.ndarray, np.ndarray]:
    """x and y, in pixels of the frame, of the bytes of a plane that are not what they were; by libav's word, not the layout's."""
    components = [c for c in frame.format.components if c.plane == plane]
    row_bytes = sum(c.width for c in components) * (2 if components[0].bits > 8 else 1)
    if len({c.plane for c in frame.format.components}) == 1:
        row_bytes = max(row_bytes, -(-frame.width * frame.format.padded_bits_per_pixel // 8))
    stride, rows = frame.planes[plane].line_size, components[0].height
    changed = np.frombuffer(frame.planes[plane], np.uint8) != np.frombuffer(before, np.uint8)
    ys, xs = np.nonzero(changed[: stride * rows].reshape(rows, stride))
    assert not changed[stride * rows :].any()
    return xs * frame.width / row_bytes, ys * frame.height / rows


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(np.mean((a.astype(float) - b) ** 2), 1e-9)))
