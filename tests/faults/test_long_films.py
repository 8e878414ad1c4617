"""A film of one hour, made small: reading, caching and training on it take bounded memory."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

av = pytest.importorskip("av")

FRAMES = 36_000  # an hour at 10 a second
KEPT = 32 * 32 * 3  # bytes of a frame in the model's form: 111 MB in all
MOST = 90  # MB that an hour may take more than a second: signatures of frames, and their copy

CODE = """
import json, sys
from pathlib import Path
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data import Clip, read_clip
from keras_cnnlstm.data.clip_cache import ClipCache
from keras_cnnlstm.data.clip_checks import survey
from keras_cnnlstm.training import train

def peak():
    # Not the ru_maxrss of getrusage, which begins with that of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1000  # kB

root, folder = Path(sys.argv[1]), Path(sys.argv[2])
options = dict(data=str(root), image_size=(32, 32), frames_per_second=0.0, length=4, epochs=1,
               model="bag_of_frames", encoder="small_cnn", motion="none", precision="float32")
def run(name, cache):
    return train(TrainConfig(**options, run_dir=str(folder / name), cache=cache))

for film in root.glob("*/film.mp4"):
    film.rename(folder / film.name)
run("before", "none")  # of short clips alone
begun = peak()
film = (folder / "film.mp4").rename(root / "a" / "film.mp4")
clip, form = Clip(film, "a", "a/film.mp4"), dict(image_size=(32, 32), channels=3)
read_clip(clip, [0, 100, 35_999], **form)
read = peak()
(folder / "cache").mkdir()
cache = ClipCache({**form, "invert": False, "fit": "stretch"}, folder=folder / "cache")
(found,) = survey(root, [clip], cache=cache)
cached = peak()
run("after", str(folder / "cache"))
print(json.dumps({"frames": found.info.frames, "reading": read - begun, "caching": cached - begun,
                  "training": peak() - begun}))
"""


def hash_of(name):
    """A level of grey of each clip's own, so that none is another's double."""
    return sum(map(ord, name)) % 50


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells the peak of a process")
def test_an_hour_takes_no_more_memory_than_a_second(tmp_path, record):
    root, small = tmp_path / "clips", np.zeros((48, 64, 3), np.uint8)
    for name, frames in [(f"{k}/{i}", 10) for k in "ab" for i in range(8)] + [("a/film", FRAMES)]:
        path = root / f"{name}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        with av.open(str(path), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for number in range(frames):
                small[number % 48, :, number % 3] = (200 if number % 7 > 3 else 0) + hash_of(name)
                frame = av.VideoFrame.from_ndarray(small, format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    folder = tmp_path / "work"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(root), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("frames") == FRAMES
    assert max(file.stat().st_size for file in (folder / "cache").glob("*.npy")) > FRAMES * KEPT
    record("an hour of film: " + ", ".join(f"{what} {mb:.0f} MB" for what, mb in found.items()))
    assert max(found.values()) < MOST
