"""Reading clips side by side: all ways give the same frames, and the rows compare them."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from keras_cnnlstm.benchmark import clips as module
from keras_cnnlstm.benchmark.clips import REFERENCE, clips, compared
from keras_cnnlstm.benchmark.timings import Settings
from keras_cnnlstm.data.clips import Clip
from keras_cnnlstm.data.videos import write_video

pytest.importorskip("av")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "_FILM", (6, 48, 64))
    monkeypatch.setattr(module, "_CLIPS", 2)
    monkeypatch.setattr(module, "SIZE", (16, 20))
    monkeypatch.setattr(module, "num_cores", lambda: 2)
    for name in ("cv2", "decord"):
        monkeypatch.setitem(sys.modules, name, None)  # not installed


def test_each_way_is_a_row_and_what_is_not_installed_is_left_out(small):
    rows = clips(Settings(lengths=(3, 8), repeats=1))
    known = [row.name for row in rows if not np.isnan(row.value)]
    assert known[:5] == [
        "keras_cnnlstm, one thread", "keras_cnnlstm, 2 threads", REFERENCE,
        "PyAV and Pillow, 2 threads", "keras_cnnlstm, from the cache",
    ]  # fmt: skip
    assert known[:5] == known[5:]
    missing = [row for row in rows if np.isnan(row.value)]
    assert len(missing) == 8
    assert all("ModuleNotFoundError" in row.remark for row in missing)
    assert {row.section for row in rows} == {f"clips to {t} frames of 16x20" for t in (3, 8)}
    assert next(row for row in rows if row.name == REFERENCE).ratio == 1


def test_all_ways_read_the_same_frames(small, tmp_path):
    (clip, _) = module._written(tmp_path, Settings())
    ours = module._ours(clip, 3)
    np.testing.assert_array_equal(module._cached()(clip, length=3), ours)
    assert np.abs(module._pyav(clip, 3).astype(int) - ours).mean() < 4
    assert ours.shape == (3, 16, 20, 3)


def test_the_videos_of_a_folder(small, tmp_path):
    frames = np.zeros((4, 32, 32, 3), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_video(tmp_path / name / "film.avi", frames)
    (tmp_path / "b" / "images").mkdir()
    found = module._videos(str(tmp_path))
    assert [clip.name for clip in found] == ["a/film.avi", "b/film.avi"]
    (row, *_) = clips(Settings(lengths=(2,), repeats=1, data=str(tmp_path)))
    assert row.value > 0
    for name in ("a", "b"):
        (tmp_path / name / "film.avi").rename(tmp_path / name / "clip")
        (tmp_path / name / "clip").unlink()
        (tmp_path / name / "images").mkdir(exist_ok=True)
    (row,) = clips(Settings(lengths=(2,), repeats=1, data=str(tmp_path)))
    assert "there is no video" in row.remark


def test_the_rows_by_hand():
    now = [0.0]

    def takes(seconds):
        def call():
            now[0] += seconds

        return call

    calls = {"ours": takes(2.0), REFERENCE: takes(8.0)}
    ours, reference = compared("s", calls, 4, 2, clock=lambda: now[0])
    assert (ours.value, reference.value) == (0.5, 2.0)
    assert (ours.ratio, reference.ratio) == (4.0, 1.0)
    assert ours.remark == f"as fast as {REFERENCE}; 2.0 clips a second"


def test_opencv_frames_are_rgb(small, tmp_path):
    """By a package of the same form whose frames tell their number in blue, which it puts first."""

    class Film:
        def __init__(self, path):
            self.number = -1

        def get(self, what):
            return 9.0

        def grab(self):
            self.number += 1

        def retrieve(self):
            frame = np.zeros((4, 4, 3), np.uint8)
            frame[..., 0] = self.number
            return True, frame

        def release(self):
            pass

    cv2 = SimpleNamespace(
        VideoCapture=Film, CAP_PROP_FRAME_COUNT=7, INTER_AREA=3, COLOR_BGR2RGB=4,
        resize=lambda frame, size, interpolation: np.resize(frame, (*size[::-1], 3)),
        cvtColor=lambda frame, code: frame[..., ::-1],
    )  # fmt: skip
    found = module._opencv(cv2, Clip(tmp_path, "", ""), 3)
    assert found[:, 0, 0].tolist() == [[0, 0, 1], [0, 0, 4], [0, 0, 7]]
