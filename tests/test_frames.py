"""Frames from image files of every size and mode, and from files that are none."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm import frames as frames_module
from keras_cnnlstm.frames import check_indices, fit_image, frame_files, image_shape, load_frames


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


def test_aspect_ratio_is_kept_and_padded_with_the_paper(save):
    wide = np.full((10, 40), 230, np.uint8)
    wide[:, 18:22] = 0  # one upright stroke
    frame = load(save(wide), (40, 40))[..., 0]
    assert (frame[:14] == 230).all()
    assert (frame[16:24, 19:21] == 0).all()


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
        with pytest.raises(
            ValueError, match=rf"frame\.{ending}: expected an image that can be read"
        ):
            load(path)


def test_an_image_too_large_to_decode(save, monkeypatch):
    monkeypatch.setattr(frames_module, "_MAX_PIXELS", 100)
    with pytest.raises(ValueError, match="expected at most 100 pixels; received 28x28"):
        load(save(ramp()))
    with pytest.raises(ValueError, match="expected at most 100 pixels; received 28x28"):
        image_shape(save(ramp()))


@pytest.mark.parametrize("width", [10_000, 30_000])  # Pillow warns of the first
def test_an_image_that_pillow_takes_for_an_attack(save, width):
    path = save(ramp())
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", width, 9_000)  # the header's sizes, and its checksum
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"frame\.png: expected an image .*; DecompressionBomb"):
        load(path)


class TestImageShape:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_is_that_of_the_frame(self, save, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(ramp(20, 30), "frame.jpg", exif=exif)
        height, width = image_shape(path)
        assert (height, width) == ((20, 30) if orientation < 5 else (30, 20))
        # Brought to this shape, nothing of the picture is scaled or padded.
        with Image.open(path) as file:
            pixels = np.asarray(file)
        assert sorted(load(path, (height, width)).ravel()) == sorted(pixels.ravel())

    def test_is_read_from_the_header(self, save):
        path = save(ramp(200, 300), "frame.jpg")
        path.write_bytes(path.read_bytes()[:700])
        assert image_shape(path) == (200, 300)

    def test_files_that_are_none(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="expected an image file; found nothing"):
            image_shape(tmp_path / "no.png")
        (tmp_path / "text.png").write_text("no image")
        with pytest.raises(ValueError, match=r"text\.png: expected an image that can be read"):
            image_shape(tmp_path / "text.png")


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
        with pytest.raises(ValueError, match="f: `indices` must be whole numbers from 0, each lar"):
            check_indices("f", indices)


def test_bad_arguments(save):
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
        with pytest.raises(
            FileNotFoundError, match=r"expected a folder of image files.*none in it"
        ):
            frame_files(tmp_path)
        with pytest.raises(FileNotFoundError, match="no such folder"):
            frame_files(tmp_path / "none")
