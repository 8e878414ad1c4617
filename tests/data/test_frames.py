"""Frames from image files of every size and mode, and from files that are none."""

import struct
import zlib
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.data import frames as frames_module
from keras_cnnlstm.data.frames import (
    Fit,
    check_indices,
    fit_image,
    frame_files,
    load_frames,
    read_image,
)


@pytest.fixture
def save(tmp_path):
    def save(pixels, name="frame.png", **options):
        image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
        image.save(tmp_path / name, **options)
        return tmp_path / name

    return save


def ramp(height=28, width=28):
    return np.linspace(0, 255, height * width).reshape(height, width).astype(np.uint8)


def load(path, size=(28, 28), **options):
    return load_frames([path], image_size=size, **options)[0]


def test_frames_of_the_right_size_come_through_unchanged_and_in_order(save):
    paths = [save(np.full((5, 4), 10 * i, np.uint8), f"{i}.png") for i in (3, 1, 2)]
    frames = load_frames(paths, image_size=(5, 4))
    assert frames.shape == (3, 5, 4, 1)
    assert frames.dtype == np.uint8
    assert frames[:, 0, 0, 0].tolist() == [30, 10, 20]
    np.testing.assert_array_equal(load(save(ramp()))[..., 0], ramp())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_every_mode_shows_the_same_picture(save, mode):
    square = np.zeros((28, 28), np.uint8)
    square[8:20, 8:20] = 255
    if mode == "I;16":
        image = Image.fromarray(square.astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(square.astype(np.float32) / 255)
    else:
        image = Image.fromarray(square).convert(mode)
    name = {"F": "frame.tiff", "CMYK": "frame.tiff"}.get(mode, "frame.png")
    np.testing.assert_allclose(load(save(image, name))[..., 0], square, atol=2)
    assert load(save(image, name), channels=3).shape == (28, 28, 3)


def test_colours_stay_colours(save):
    pixels = np.zeros((6, 6, 3), np.uint8)
    pixels[..., 0] = 200
    np.testing.assert_array_equal(load(save(pixels), (6, 6), channels=3), pixels)


def test_large_images_are_averaged_not_sampled(save):
    fine = np.indices((280, 280)).sum(0) % 2 * 255  # a chequer-board finer than a pixel
    np.testing.assert_allclose(load(save(fine.astype(np.uint8))), 127.5, atol=1)


@pytest.mark.parametrize("invert", [False, True])
def test_bars_are_black_whatever_the_image_shows(save, invert):
    """A colour taken from the image, as its border's, is one that a model can learn from."""
    wide = np.full((10, 40), 230, np.uint8)
    wide[:, 18:22] = 0  # one upright stroke
    frame = load(save(wide), (40, 40), invert=invert)[..., 0]
    assert (frame[:15] == 0).all()
    assert (frame[25:] == 0).all()
    np.testing.assert_array_equal(frame[15:25], 255 - wide if invert else wide)


def test_the_three_fits_by_hand(save):
    wide = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.uint8) * 10
    show = {fit: load(save(wide), (2, 2), fit=fit)[..., 0].tolist() for fit in get_args(Fit)}
    assert show["crop"] == [[20, 30], [60, 70]]
    assert show["stretch"] == [[15, 35], [55, 75]]
    assert load(save(wide), (4, 4), fit="letterbox")[..., 0].tolist() == [
        [0] * 4, *wide.tolist(), [0] * 4
    ]  # fmt: skip
    tall = load(save(wide.T.copy()), (2, 2), fit="crop")[..., 0]
    assert tall.T.tolist() == show["crop"]


def test_dark_on_light_paper_is_inverted_on_request(save):
    paper = 255 - ramp()
    np.testing.assert_array_equal(load(save(paper), invert=True)[..., 0], ramp())


def test_transparent_parts_are_background(save):
    pixels = np.zeros((28, 28, 4), np.uint8)
    pixels[10:18, 10:18] = [255, 255, 255, 255]  # white ink on nothing
    assert load(save(pixels))[0, 0, 0] == 0
    assert load(save(pixels))[14, 14, 0] == 255
    pixels[10:18, 10:18] = [0, 0, 0, 255]  # black ink on nothing, that is, on paper
    assert load(save(pixels), invert=True)[0, 0, 0] == 0
    assert load(save(pixels), invert=True)[14, 14, 0] == 255


def test_the_camera_s_orientation_is_followed(save):
    upright = ramp()
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    path = save(np.rot90(upright), "frame.png", exif=exif)
    np.testing.assert_array_equal(load(path)[..., 0], upright)
    np.testing.assert_array_equal(read_image(path, channels=1)[..., 0], upright)


def test_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no\.png: expected an image file; found nothing"):
        load(tmp_path / "no.png")
    with pytest.raises(FileNotFoundError, match="expected an image file; found a folder"):
        load(tmp_path)


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp"])
def test_damaged_files(save, ending):
    path = save(ramp(), f"frame.{ending}")
    whole = path.read_bytes()
    for content in (b"", b"no image at all", whole[: len(whole) // 2], whole[:10]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"frame\.{ending}: expected an image"):
            load(path)


def test_an_image_too_large_to_decode(save, monkeypatch):
    monkeypatch.setattr(frames_module, "_MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="expected at most 100 pixels; received 28x28"):
        load(save(ramp()))


def test_a_side_too_long_to_decode(save):
    with pytest.raises(ValueError, match="sides of at most 65,535 pixels; received 70000x1"):
        load(save(np.zeros((1, 70_000), np.uint8)))


def test_a_file_that_would_start_another_program_is_no_image(tmp_path):
    Image.fromarray(ramp()).save(tmp_path / "drawn.eps")  # PostScript, which Ghostscript would run
    (tmp_path / "drawn.eps").rename(tmp_path / "frame.png")
    with pytest.raises(ValueError, match=r"frame\.png: expected an image .*; Unidentified"):
        load(tmp_path / "frame.png")


@pytest.mark.parametrize("fit", ["crop", "letterbox", "stretch"])
@pytest.mark.parametrize("shape", [(20, 2000), (2000, 20)])
def test_a_thin_image_keeps_a_line_of_pixels(save, fit, shape):
    path = save(np.full(shape, 200, np.uint8))
    (frame,) = load_frames([path], image_size=(28, 28), channels=1, fit=fit)
    if fit == "letterbox":
        line = frame[..., 0].max(axis=np.argmax(shape))
        assert sorted(line) == [0] * 27 + [200]
    else:
        assert (frame == 200).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_colours_of_other_spaces(tmp_path, channels):
    """L* = 100 is white."""
    Image.merge("LAB", [Image.new("L", (6, 5), value) for value in (255, 128, 128)]).save(
        tmp_path / "frame.tif"
    )
    (frame,) = load_frames([tmp_path / "frame.tif"], image_size=(5, 6), channels=channels)
    assert frame.min() >= 254


def test_webp(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "0.webp", lossless=True)
    assert frame_files(tmp_path) == [tmp_path / "0.webp"]
    (frame,) = load_frames(frame_files(tmp_path), image_size=(5, 7), channels=3)
    np.testing.assert_array_equal(frame, pixels)


@pytest.mark.parametrize("width", [10_000, 30_000])  # Pillow warns of the first
def test_an_image_that_pillow_takes_for_an_attack(save, width):
    path = save(ramp())
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, 9_000)  # the header's sizes, and its checksum
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"frame\.png: expected an image .*; DecompressionBomb"):
        load(path)


def test_an_image_may_keep_its_size():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    frame = fit_image(Image.fromarray(pixels), image_size=None, channels=3, invert=True)
    np.testing.assert_array_equal(frame, 255 - pixels)


class TestCheckIndices:
    def test_gives_a_list(self):
        assert check_indices("f", np.array([0, 3, 4], np.uint8)) == [0, 3, 4]
        assert check_indices("f", range(2)) == [0, 1]

    @pytest.mark.parametrize("indices", [[], [1, 1], [2, 1], [-1, 0], [0.5], [[0, 1]], [True], 3])
    def test_refuses(self, indices):
        with pytest.raises(ValueError, match="f: `indices` must be integers from 0, each lar"):
            check_indices("f", indices)


def test_bad_arguments(save):
    with pytest.raises(
        ValueError, match=r"`fit` must be one of crop, letterbox, .*; received 'no'"
    ):
        load_frames(["a.png"], image_size=(28, 28), fit="no")
    with pytest.raises(ValueError, match="load_frames: `channels` must be 1 or 3; received 2"):
        load(save(ramp()), channels=2)
    with pytest.raises(ValueError, match="`paths` must name one file for each frame"):
        load_frames([], image_size=(28, 28))


class TestFrameFiles:
    def test_natural_order_and_images_only(self, tmp_path):
        for name in ("10.png", "2.PNG", "1b.jpg", "1a.jpg", "notes.txt", "b2.gif", "b10.gif"):
            (tmp_path / name).touch()
        (tmp_path / "folder.png").mkdir()
        names = [p.name for p in frame_files(tmp_path)]
        assert names == ["1a.jpg", "1b.jpg", "2.PNG", "10.png", "b2.gif", "b10.gif"]

    def test_hidden_files_are_left_out(self, tmp_path):
        for name in ("._1.png", ".2.png", "3.png"):
            (tmp_path / name).touch()
        assert [p.name for p in frame_files(tmp_path)] == ["3.png"]

    def test_nothing_there(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"a folder of image files.*none in it"):
            frame_files(tmp_path)
        with pytest.raises(FileNotFoundError, match="no such folder"):
            frame_files(tmp_path / "none")
