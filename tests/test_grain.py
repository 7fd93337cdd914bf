"""Sharpness and grain of a patch: what is missing is added, as strong and as coarse as in the film, and nothing else."""

import cv2
import numpy as np
import pytest

from musetalk_cli.media.grain import MEMORY, SHARPEST, Detail, Look, Seen

SIDE = 160
WHOLE = (slice(0, SIDE), slice(0, SIDE))
EVERYWHERE = np.ones((SIDE, SIDE), bool)
FULL = np.full((SIDE, SIDE), 255, np.uint8)


def skin(side: int = SIDE) -> np.ndarray:
    """(side, side) of soft shades with a few edges."""
    rng = np.random.default_rng(5)
    shades = cv2.GaussianBlur(rng.normal(0, 1, (side, side)).astype(np.float32), (0, 0), 12)
    shades = 140 + 25 * shades / shades.std()
    for x, y in ((30, 40), (110, 60), (70, 120)):
        cv2.circle(shades, (x, y), 9, 70.0, -1, cv2.LINE_AA)
    return cv2.GaussianBlur(shades, (0, 0), 0.8)


def grain(number: int, sigma: float, size: float = 0.0) -> np.ndarray:
    noise = np.random.default_rng([9, number]).normal(0, 1, (SIDE, SIDE)).astype(np.float32)
    if size:
        noise = cv2.GaussianBlur(noise, (0, 0), size)
        noise /= noise.std()
    return sigma * noise


def look(film: np.ndarray, patch: np.ndarray, number: int, middle: tuple[float, float] = (80.0, 80.0)) -> Look:
    film, patch = (np.repeat(luma[..., None], 3, 2).astype(np.float32) for luma in (film, patch))
    return Look(film, patch, EVERYWHERE, EVERYWHERE, number, (0, 0), middle)


def added_to(films: list[np.ndarray], patches: list[np.ndarray], *, grain: float = 1.0, sharpen: float = 1.0) -> list[np.ndarray]:
    """What each patch is given when the next one has been seen, but for the last."""
    detail, found = Detail(grain=grain, sharpen=sharpen), []
    before: Seen | None = None
    for number, (film, patch) in enumerate(zip(films, patches, strict=True)):
        seen = detail.seen(look(film, patch, number))
        if before is not None:
            found.append(detail.missing(before, WHOLE, FULL, track=0))
        before = seen
    return found


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a - b) ** 2)))


@pytest.mark.parametrize("size", [0.0, 0.6, 0.9, 1.5])
def test_a_smooth_patch_is_given_the_films_grain_as_strong_and_as_coarse(size: float) -> None:
    films = [skin() + grain(i, 3, size) for i in range(4)]
    for added, film in zip(added_to(films, [skin()] * 4), films, strict=False):
        theirs = film - skin()
        assert 0.85 < added.std() / theirs.std() < 1.1
        for sigma in (1.0, 2.0):
            ours_fine, theirs_fine = (np.std(x - cv2.GaussianBlur(x, (0, 0), sigma)) for x in (added, theirs))
            assert 0.85 < ours_fine / theirs_fine < 1.12


def test_grain_is_new_in_every_frame_and_the_same_in_every_run() -> None:
    films = [skin() + grain(i, 3) for i in range(4)]
    first, second = (added_to(films, [skin()] * 4) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert abs(np.corrcoef(first[0].ravel(), first[1].ravel())[0, 1]) < 0.05


def test_grain_is_steady_over_a_track() -> None:
    films = [skin() + grain(i, 3, 0.8) for i in range(3 * MEMORY)]
    strengths = [added.std() for added in added_to(films, [skin()] * len(films))]
    assert np.ptp(strengths[MEMORY:]) < 0.05 * np.mean(strengths)


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_a_patch_that_is_the_film_stays_as_it_is(sigma: float) -> None:
    films = [skin() + grain(i, sigma) for i in range(4)]
    assert all(not added.any() for added in added_to(films, films))


def test_a_patch_that_has_half_of_the_grain_is_given_the_rest() -> None:
    films = [skin() + grain(i, 3) + grain(100 + i, 3) for i in range(4)]
    patches = [skin() + grain(100 + i, 3) for i in range(4)]
    for added in added_to(films, patches, sharpen=0):
        assert 0.85 * 3 < added.std() < 1.1 * 3


def test_pores_of_a_skin_are_no_grain() -> None:
    """A film as sharp as this patch never was, and hardly a noise."""
    films = [skin() + grain(50, 3) + grain(i, 0.1) for i in range(3)]
    assert all(added.std() < 0.3 for added in added_to(films, [skin()] * 3, sharpen=0))


def test_pores_that_move_with_the_face_are_no_grain() -> None:
    texture = np.random.default_rng(2).normal(0, 3, (SIDE, SIDE + 20)).astype(np.float32)
    detail = Detail(grain=1, sharpen=0)
    for number in range(4):
        moved = skin() + texture[:, 3 * number : 3 * number + SIDE] + grain(number, 0.1)  # 3 px to the left in a frame
        seen = detail.seen(look(moved, skin(), number, (80.0 - 3 * number, 80.0)))
    assert detail.missing(seen, WHOLE, FULL, track=0).std() < 0.3


def test_a_frame_that_is_shown_again_keeps_its_grain() -> None:
    films = [skin() + grain(i // 2, 3) for i in range(9)]
    found = added_to(films, [skin()] * 9)
    for first, again, other in zip(found[2::2], found[3::2], found[4::2], strict=False):
        assert np.corrcoef(first.ravel(), again.ravel())[0, 1] > 0.99
        assert abs(np.corrcoef(again.ravel(), other.ravel())[0, 1]) < 0.05
        assert 0.85 * 3 < again.std() < 1.1 * 3


def test_two_faces_in_a_frame_have_their_own_grain() -> None:
    detail = Detail(grain=1, sharpen=0)
    for number in range(2):
        seen = detail.seen(look(skin() + grain(number, 3), skin(), number))
    first, second = (detail.missing(seen, WHOLE, FULL, track=track) for track in (0, 1))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("sigma", [0.0, 3.0])
def test_a_blurred_patch_is_sharpened_towards_the_film(sigma: float) -> None:
    blurred = cv2.GaussianBlur(skin(), (0, 0), 0.8)
    films = [skin() + grain(i, sigma) for i in range(4)]
    for added in added_to(films, [blurred] * 4, grain=0):
        assert psnr(blurred + added, skin()) > psnr(blurred, skin()) + 1.5


def test_sharpening_is_bounded() -> None:
    blurred = cv2.GaussianBlur(skin(), (0, 0), 3)
    added = added_to([skin()] * 3, [blurred] * 3, grain=0)[-1]
    first, second = (cv2.GaussianBlur(blurred, (0, 0), sigma) for sigma in (1.0, 2.0))
    assert np.abs(added).max() <= (SHARPEST - 1) * (np.abs(blurred - first) + np.abs(first - second)).max() * 1.001


def test_another_picture_sharpens_nothing() -> None:
    other = np.ascontiguousarray(skin()[::-1]) + grain(7, 2, 1.0)
    assert all(not added.any() for added in added_to([skin()] * 3, [other * 0.3 + 98] * 3, grain=0))


def test_shares_are_of_what_is_missing() -> None:
    films, patches = [skin() + grain(i, 3) for i in range(3)], [skin()] * 3
    whole, half = (added_to(films, patches, grain=share, sharpen=0)[0] for share in (1.0, 0.5))
    np.testing.assert_allclose(half, whole / 2, rtol=1e-5)
    assert not Detail(grain=0, sharpen=0).wanted and Detail(grain=0.1, sharpen=0).wanted and Detail(grain=0, sharpen=1).wanted


def test_under_a_partial_weight_both_grains_make_up_the_films() -> None:
    detail = Detail(grain=1, sharpen=0)
    for number in range(3):
        seen = detail.seen(look(skin() + grain(number, 3), skin(), number))
    for weight in (0.1, 0.5, 0.9):
        alpha = np.full((SIDE, SIDE), round(255 * weight), np.uint8)
        added = detail.missing(seen, WHOLE, alpha, track=0)
        shown = (1 - alpha / 255) * grain(50, 3) + alpha / 255 * added
        assert 0.85 * 3 < shown.std() < 1.1 * 3


def test_too_little_skin_tells_nothing() -> None:
    detail = Detail(grain=1, sharpen=1)
    few = np.zeros((SIDE, SIDE), bool)
    few[:5, :5] = True
    seen = detail.seen(look(skin() + grain(0, 5), skin(), 0)._replace(skin=few))
    assert not detail.missing(seen, WHOLE, FULL, track=0).any()
