"""Odd images and videos, read by every door to the same pixels.

The doors: the batches of a training, `predict`, the page of `demo`, and of PNG and JPEG the
function `serve_images` of exports. What the pixels must be is said by hand where it is known.
"""

import io
import struct
import zlib
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageCms

from keras_cnnlstm.data import frames
from keras_cnnlstm.data.clip_batches import clip_sequences
from keras_cnnlstm.data.clips import Clip
from keras_cnnlstm.demo.session import DemoAnswers
from keras_cnnlstm.export.predictor import Predictor
from keras_cnnlstm.export.signatures import decode_images

av = pytest.importorskip("av")

SIZE = (12, 10)
HALVES = np.zeros((24, 20, 3), np.uint8)  # red above, blue below, and a green corner at the left
HALVES[:12, :, 0], HALVES[12:, :, 2] = 240, 200
HALVES[:6, :5] = (0, 220, 0)
NOISE = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
ALPHA = np.dstack([NOISE, np.tile(np.arange(20, dtype=np.uint8) * 12, (24, 1))])
GREY = NOISE[..., 0]
DEEP = (np.arange(480).reshape(24, 20) * 136).astype(np.uint16)


def saved(pixels, form, mode=None, **options):
    """An image file; `pixels` is an array, or an image."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (image.convert(mode) if mode else image).save(file, form, **options)
    return file.getvalue()


def turned(number, form="JPEG"):
    exif = Image.Exif()
    exif[0x0112] = number
    return saved(
        HALVES, form, exif=exif, **({"quality": 100, "subsampling": 0} if form == "JPEG" else {})
    )


def palette(**options):
    image = Image.fromarray(NOISE).quantize(16)
    return saved(image, "PNG", **options)


def chunk(name, content):
    crc = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", crc)


def png(pixels, depth, color, *, interlaced=False, chunks=()):
    """A PNG of `(h, w, channels)`, in forms that Pillow does not write."""
    height, width = pixels.shape[:2]
    passes = [(0, 0, 1, 1)]
    if interlaced:
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2)]
        passes += [(0, 1, 2, 2), (1, 0, 2, 1)]  # of Adam7: top, left, steps down and right
    rows = b""
    for top, left, down, right in passes:
        for row in pixels[top::down, left::right]:
            if row.size:
                rows += b"\0" + row.astype(">u2" if depth == 16 else "u1").tobytes()
    head = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlaced))
    body = [chunk(b"IHDR", head), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def lab():
    profiles = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(Image.fromarray(NOISE), *profiles, outputMode="LAB")


DEEP_COLOR = (NOISE.astype(np.uint16) << 8) + 77
CLEAR = np.array([16, 32, 48])  # the colour that counts as transparent
KEYED = np.where(np.arange(20)[None, :, None] < 10, CLEAR, NOISE).astype(np.uint8)
ODD = {
    **{f"exif {n}.jpg": turned(n) for n in range(1, 9)},
    "exif of png.png": turned(6, "PNG"),
    "exif of webp.webp": turned(8, "WEBP"),
    "alpha.png": saved(ALPHA, "PNG"),
    "grey alpha.png": saved(Image.fromarray(ALPHA).convert("LA"), "PNG"),
    "alpha.webp": saved(ALPHA, "WEBP", lossless=True, exact=True),
    "palette.png": palette(),
    "palette, one colour clear.png": palette(transparency=3),
    "palette, some clear.png": palette(transparency=bytes(range(0, 256, 16))),
    "palette of 4.png": saved(Image.fromarray(NOISE).quantize(4), "PNG", bits=2),
    "colour key.png": saved(KEYED, "PNG", transparency=tuple(CLEAR.tolist())),
    "grey key.png": saved(GREY, "PNG", transparency=int(GREY[0, 0])),
    "1 bit.png": saved(GREY, "PNG", "1"),
    "1 bit.bmp": saved(GREY, "BMP", "1"),
    "16 bit.png": saved(DEEP, "PNG"),
    "16 bit colour.png": png(DEEP_COLOR, 16, 2),
    "16 bit alpha.png": png(np.dstack([DEEP_COLOR, DEEP]), 16, 6),
    "interlaced.png": png(NOISE, 8, 2, interlaced=True),
    "interlaced alpha.png": png(ALPHA, 8, 6, interlaced=True),
    "animated.png": saved(NOISE, "PNG", save_all=True, append_images=[Image.fromarray(HALVES)]),
    "animated.webp": saved(NOISE, "WEBP", save_all=True, append_images=[Image.fromarray(HALVES)]),
    "gamma.png": png(NOISE, 8, 2, chunks=[chunk(b"gAMA", struct.pack(">I", 45455))]),
    "cmyk.jpg": saved(NOISE, "JPEG", "CMYK", quality=95),
    "grey.jpg": saved(GREY, "JPEG", quality=95),
    "progressive.jpg": saved(NOISE, "JPEG", progressive=True, quality=95),
    "subsampled.jpg": saved(NOISE, "JPEG", subsampling=2, quality=95),
    "restarts.jpg": saved(NOISE, "JPEG", restart_marker_blocks=1, quality=95),
    "comment.jpg": saved(NOISE, "JPEG", comment=b"x" * 60000, quality=95),
    "a jpeg.png": saved(NOISE, "JPEG", quality=95),
    "a png.jpg": saved(NOISE, "PNG"),
    "lab.png": saved(lab(), "TIFF"),
    "a float.png": saved(GREY.astype(np.float32) / 255, "TIFF"),
    "a ppm.png": saved(NOISE, "PPM"),
    "32 bit.bmp": saved(ALPHA, "BMP"),
    "thin.png": saved(np.tile(NOISE[:, :1], (40, 1, 1)), "PNG"),
    "wide.jpg": saved(np.tile(NOISE[:1], (2, 100, 1)), "JPEG", quality=95),
    "one pixel.png": saved(NOISE[:1, :1], "PNG"),
    "long side.png": saved(np.repeat(GREY[:1], 1500, 1), "PNG"),
}  # fmt: skip
SERVED = (".png", ".jpg")


def film(codec, pixels, frames, *, source="rgb24", **stream_options):
    def write(path):
        with av.open(path, "w") as container:
            stream = container.add_stream(codec, rate=5, options={"qscale": "2"})
            stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixels
            turn = stream_options.get("turn")
            if turn:
                stream.set_display_rotation(*turn)
            for name in ("sample_aspect_ratio", "color_range"):
                if name in stream_options:
                    setattr(stream.codec_context, name, stream_options[name])
            container.start_encoding()
            for frame in frames:
                made = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format=source)
                container.mux(stream.encode(made.reformat(format=pixels)))
            container.mux(stream.encode(None))

    return write


def gif(**options):
    layers = [Image.fromarray(np.roll(ALPHA, n, 0)) for n in range(3)]
    return lambda path: layers[0].save(path, save_all=True, append_images=layers[1:], **options)


FILM = np.stack([np.roll(HALVES, 2 * n, 0) for n in range(3)])
FILMS = {
    "turned.mp4": film("libx264", "yuv420p", FILM, turn=(90, False)),
    "mirrored.mov": film("libx264", "yuv420p", FILM, turn=(180, True)),
    "pixels.mkv": film("ffv1", "yuv420p", FILM, sample_aspect_ratio=Fraction(2)),
    "clear.mov": film("qtrle", "argb", np.stack([ALPHA] * 3), source="rgba"),
    "clear.webm": film("libvpx-vp9", "yuva420p", np.stack([ALPHA] * 3), source="rgba"),
    "10 bit.mkv": film("ffv1", "yuv420p10le", FILM),
    "12 bit.mkv": film("ffv1", "gbrp12le", FILM),
    "4-4-4.mkv": film("ffv1", "yuv444p", FILM),
    "full range.avi": film("mjpeg", "yuvj420p", FILM),
    "grey.mkv": film("ffv1", "gray", FILM),
    "grey 16.mkv": film("ffv1", "gray16le", FILM),
    "odd.avi": film("ffv1", "bgr0", FILM[:, :23, :17]),
    "1 bit.avi": film("ffv1", "gray", FILM * 255),
    "half clear.mkv": film("ffv1", "yuva420p", np.stack([ALPHA] * 3), source="rgba"),
    "one frame.mp4": film("mpeg4", "yuv420p", FILM[:1]),
    "clear.gif": gif(disposal=2),
    "loop.gif": gif(loop=0, duration=40),
}


def page(predictor, path):
    """What the page of a model of clips reads of a file that was dropped."""
    answers = object.__new__(DemoAnswers)
    answers.task, answers._predictor = SimpleNamespace(draws_digits=False), predictor
    answers.steps = lambda frames: frames
    return answers.from_files([path])


def read_by_all(path, *, fit="letterbox", channels=3, depth_range=None):
    """The frames `(n, H, W, C)` that each door reads of a file, by the door."""
    image = path.parent.name == "clip"
    clip = Clip(path.parent if image else path, "a", "a/clip")
    options = {"image_size": SIZE, "channels": channels, "fit": fit, "depth_range": depth_range}
    (inputs, _), *_ = clip_sequences([clip], length=None, batch_size=1, **options)
    predictor = Predictor(
        None, (None, *SIZE, channels), True, None, {"sampling": "first", **options}
    )
    doors = {
        "train": inputs["frames"].numpy()[0],
        "predict": predictor.clip_frames([path] if image else path)[0],
        "page": page(predictor, path),
    }
    if image:
        doors["predict a folder"] = predictor.clip_frames(path.parent)[0]
    if image and path.suffix in SERVED:
        asked = tf.constant([path.read_bytes()])
        served = SERVE[fit, channels](asked)
        if depth_range:
            served = decode_images(asked, (*SIZE, channels), fit, depth_range)
        doors["serve_images"] = served.numpy()
    return doors


def serve(fit, channels):
    return tf.function(
        lambda images: decode_images(images, (*SIZE, channels), fit), autograph=False
    )


SERVE = {(fit, n): serve(fit, n) for fit in ("letterbox", "crop", "stretch") for n in (1, 3)}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_image_is_the_same_at_every_door(name, tmp_path):
    path = tmp_path / "clip" / name
    path.parent.mkdir()
    path.write_bytes(ODD[name])
    for fit, channels in (("letterbox", 3), ("stretch", 1)):
        if name.partition(".")[0] in ("lab", "a float", "a ppm"):  # no PNG at all
            with pytest.raises(
                tf.errors.InvalidArgumentError, match="expected encoded PNG or JPEG"
            ):
                SERVE[fit, channels](tf.constant([path.read_bytes()]))
            path = path.rename(path.with_suffix(".bmp"))
        doors = read_by_all(path, fit=fit, channels=channels)
        known = doors["train"]
        assert known.shape == (1, *SIZE, channels)
        for door, found in doors.items():
            # Means of thousands of pixels are rounded otherwise in float32.
            most = int(name == "long side.png" and door == "serve_images")
            np.testing.assert_allclose(found.astype(int), known, atol=most, err_msg=door)


@pytest.mark.parametrize("name", FILMS)
def test_an_odd_film_is_the_same_at_every_door(name, tmp_path):
    FILMS[name](str(tmp_path / name) if name[-3:] != "gif" else tmp_path / name)
    doors = read_by_all(tmp_path / name)
    assert len(doors["train"]) == (1 if name == "one frame.mp4" else 3)
    for door, found in doors.items():
        np.testing.assert_array_equal(found, doors["train"], err_msg=door)


def red_above(frame):
    return frame[1:5, 5:9, 0].min() > 200 and frame[7:11, :, 2].min() > 170


@pytest.mark.parametrize("number", range(1, 9))
def test_an_orientation_puts_up_what_the_camera_saw(number, tmp_path):
    """The stored picture is turned so that, by the tag, red is above and green at the left."""
    stored = HALVES.transpose(1, 0, 2) if number > 4 else HALVES
    stored = stored[:, ::-1] if number in (2, 3, 7, 8) else stored
    stored = stored[::-1] if number in (3, 4, 6, 7) else stored
    exif = Image.Exif()
    exif[0x0112] = number
    path = tmp_path / "clip" / "0.png"
    path.parent.mkdir()
    path.write_bytes(saved(np.ascontiguousarray(stored), "PNG", exif=exif))
    for door, (frame,) in read_by_all(path, fit="stretch").items():
        assert red_above(frame), door
        assert tuple(frame[0, 0]) == (0, 220, 0), door


@pytest.mark.parametrize(
    "name", ["pixels.mkv", "10 bit.mkv", "12 bit.mkv", "4-4-4.mkv", "full range.avi"]
)
def test_pixel_forms_of_films_keep_the_picture(name, tmp_path):
    FILMS[name](str(tmp_path / name))
    for first, *_ in read_by_all(tmp_path / name, fit="stretch").values():
        expected = FILM[0].reshape(12, 2, 10, 2, 3).mean((1, 3))
        assert np.abs(first - expected).mean() < 12
        assert red_above(first)


def test_transparent_parts_are_black_and_deep_ones_scaled(tmp_path):
    cases = {
        "alpha.png": NOISE * (ALPHA[..., 3:] / 255), "16 bit.png": np.stack([DEEP / 257] * 3, -1),
        "colour key.png": np.where(np.arange(20)[None, :, None] < 10, 0, NOISE),
        "interlaced.png": NOISE, "16 bit colour.png": NOISE, "gamma.png": NOISE,
    }  # fmt: skip
    for name, pixels in cases.items():
        path = tmp_path / name / "clip" / "0.png"
        path.parent.mkdir(parents=True)
        path.write_bytes(ODD[name])
        expected = pixels.reshape(12, 2, 10, 2, 3).mean((1, 3))
        for door, (frame,) in read_by_all(path, fit="stretch").items():
            assert np.abs(frame - expected).max() <= 1.6, (name, door)


@pytest.mark.parametrize("depth_range", [(500, 4500), (0, 1000.5), (-100, 70000)])
def test_depths_are_scaled_alike_at_every_door(tmp_path, depth_range):
    """The range of a depth camera in mm; nearer and farther is black and white."""
    depths = np.linspace(400, 4600, 480).reshape(24, 20).astype(np.uint16)
    path = tmp_path / "clip" / "0.png"
    path.parent.mkdir()
    path.write_bytes(saved(depths, "PNG"))
    low, high = depth_range
    scaled = (np.clip(depths.astype(float), low, high) - low) / (high - low) * 255
    expected = scaled.reshape(12, 2, 10, 2).mean((1, 3))
    for door, found in read_by_all(path, channels=1, depth_range=depth_range).items():
        assert np.abs(found[0, ..., 0] - expected).max() <= 1.6, door
        np.testing.assert_array_equal(found, read_image(path, SIZE, depth_range), err_msg=door)


def read_image(path, size, depth_range):
    form = {"image_size": size, "channels": 1, "depth_range": depth_range}
    return frames.load_frames([path], **form)
