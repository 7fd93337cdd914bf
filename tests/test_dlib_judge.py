"""dlib as a judge: what it says where it is absent; and where it is installed, that it knows a face again."""

import sys
from importlib.util import find_spec

import numpy as np
import pytest

from musetalk_cli.errors import MissingError
from musetalk_cli.models import dlib_judge
from musetalk_cli.models.dlib_judge import DlibJudge

HAS_DLIB = bool(find_spec("dlib") and find_spec("face_recognition_models"))


def test_without_dlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", None)
    with pytest.raises(MissingError, match=r"dlib: not installed; pip install 'musetalk\[eval\]'"):
        DlibJudge.load()


def test_without_its_files_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dlib", type(sys)("dlib"))
    monkeypatch.setattr(dlib_judge, "SHAPE", dlib_judge.SHAPE._replace(package="no_such_package"))
    with pytest.raises(MissingError, match=r"no_such_package.*pip install 'musetalk\[eval\]'"):
        DlibJudge.load()


@pytest.mark.skipif(not HAS_DLIB, reason="needs the extra eval")
def test_the_face_that_is_meant_is_found_and_known_again() -> None:
    from skimage.data import astronaut

    judge, picture = DlibJudge.load(), astronaut()
    beside = np.concatenate([picture, np.zeros_like(picture)], 1)
    meant = np.array([[190, 90], [270, 200]], np.float32).repeat(34, 0)  # corners of her face for landmarks
    points = judge.landmarks(beside, meant)
    assert points is not None and points.shape == (68, 2)
    assert 0.5 < np.ptp(points[:, 0]) / 80 < 1.5
    a, b = judge.embed(beside, points), judge.embed((beside * 0.8).astype(np.uint8), points)
    assert a is not None and b is not None and float(a @ a) == pytest.approx(1, abs=1e-5)
    assert float(a @ b) > 0.97
    assert judge.embed(beside, points + np.array([512, 0])) is None
    assert judge.landmarks(np.zeros_like(beside), points) is None
