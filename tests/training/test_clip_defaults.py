"""What is chosen for the clips of a folder where options are left open."""

import dataclasses

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data import write_video
from keras_cnnlstm.training import clip_defaults
from keras_cnnlstm.training.clip_defaults import suited


@pytest.fixture
def there(monkeypatch):
    """Says whether the pretrained encoder is installed."""

    def say(installed):
        monkeypatch.setattr(clip_defaults, "installed", lambda: installed)

    say(True)
    return say


@pytest.fixture
def films(tmp_path):
    """Nine films of 3 s and one of 6 s, 96 pixels high, at two rates."""
    for i in range(10):
        folder = tmp_path / "films" / "ab"[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        rate = (10, 30)[i % 2]
        frames = np.zeros((rate * (6 if i == 9 else 3), 96, 128, 1), "uint8")
        write_video(folder / f"{i}.avi", frames, rate=rate)
    return tmp_path / "films"


@pytest.fixture
def images(tmp_path):
    """Six clips of 5 to 10 images of 20 pixels."""
    for i in range(6):
        folder = tmp_path / "images" / "ab"[i % 2] / f"clip {i}"
        folder.mkdir(parents=True)
        for t in range(5 + i):
            Image.new("L", (30, 20), i).save(folder / f"{t}.png")
    return tmp_path / "images"


def of(folder, **options):
    return suited(TrainConfig(data=str(folder), **options))


def test_films_with_the_pretrained_encoder(films, there):
    config, text = of(films)
    assert config.encoder == "efficientnet_lite0"
    assert (config.image_size, config.motion, config.dropout) == ((224, 224), "difference", 0.5)
    # 5 a second of 3 s, of either rate: 15 frames, of the long one 30
    assert (config.frames_per_second, config.length, config.sampling) == (5.0, 17, "window")
    assert config.keep == "last"
    assert "efficientnet_lite0" in text
    assert "10 videos of 3.0 s and 96 pixels" in text


def test_films_without_it(films, there):
    there(False)
    config, text = of(films)
    assert (config.encoder, config.motion, config.image_size) == ("residual_cnn", "both", (64, 64))
    assert "keras-cnnlstm[pretrained]" in text


def test_small_images_have_a_small_encoder_of_their_size(images, there):
    config, text = of(images)
    assert (config.encoder, config.image_size) == ("residual_cnn", (20, 20))
    assert (config.frames_per_second, config.length, config.sampling) == (0.0, 10, "window")
    assert "pretrained" not in text


def test_of_images_without_a_time_each_is_read_too(tmp_path, there):
    for name in ("a", "b"):
        (tmp_path / name / "clip").mkdir(parents=True)
        for t in range(3):
            Image.new("RGB", (128, 128), (t, 0, 0)).save(tmp_path / name / "clip" / f"{t}.png")
    config, _ = of(tmp_path)
    assert (config.encoder, config.motion, config.length) == ("efficientnet_lite0", "both", 4)


def test_long_clips_of_images_are_read_in_parts(images, there, monkeypatch):
    monkeypatch.setattr(clip_defaults, "_LONGEST", 7)
    config, _ = of(images)
    assert (config.length, config.sampling) == (7, "segments")


def test_what_is_given_stays(films, there):
    given = {
        "encoder": "small_cnn", "length": 6, "image_size": (32, 40), "dropout": 0.0,
        "motion": "none", "frames_per_second": 0.0, "sampling": "uniform", "keep": "best",
    }  # fmt: skip
    config, text = of(films, **given)
    assert config == TrainConfig(data=str(films), **given)
    assert text == ""
    config, text = of(films, length=6)
    assert (config.length, config.encoder) == (6, "efficientnet_lite0")
    assert "length" not in text


def test_a_rate_that_is_given_decides_the_length(films, there):
    config, _ = of(films, frames_per_second=2.0)
    assert config.length == 7  # six of 3 s, twelve of the long one


def test_grey_and_members_have_no_network_of_photographs(films, there):
    assert of(films, color_mode="grayscale")[0].encoder == "residual_cnn"
    members = ("small_cnn", "small_cnn")
    config, _ = of(films, ensemble=members)
    assert (config.ensemble, config.encoder) == (members, None)


@pytest.mark.parametrize("data", ["digits", "mnist"])
def test_digits_stay_as_they_are(data, there):
    config = TrainConfig(data=data)
    assert suited(config) == (config, "")


def test_what_is_chosen_is_a_run_s_options(films, there):
    config, _ = of(films)
    again, text = suited(config.resolved)
    assert (again, text) == (config.resolved, "")
    assert dataclasses.replace(config, motion_seconds=0.5).resolved.motion_lag == 2
