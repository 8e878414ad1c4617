"""Encoded images inside a graph, against the package's own reader of image files."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnnlstm.data.frames import load_frames
from keras_cnnlstm.export import signatures


@pytest.fixture(scope="module")
def decode():
    return tf.function(signatures.decode_images, autograph=False)


class TestImages:
    """Encoded images become the frames that `frames.load_frames` makes of the same files."""

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(12, 12), (24, 36), (30, 21), (7, 9), (5, 40), (1, 1)])
    @pytest.mark.parametrize(
        "mode", ["L", "RGB", "RGBA", "LA", "P", "1", "I;16", "L.jpg", "RGB.jpg"]
    )
    def test_of_every_kind(self, decode, mode, size, channels, tmp_path):
        file = picture(tmp_path, mode, size)
        received = decode(tf.constant([[file.read_bytes()]]), (12, 10, channels)).numpy()[0]
        expected = load_frames([file], image_size=(12, 10), channels=channels)
        difference = np.abs(received.astype(int) - expected.astype(int))
        assert difference.max() <= 2  # roundings of three steps

    @pytest.mark.parametrize("kind", [0, 3], ids=["grey", "palette"])
    @pytest.mark.parametrize("bits", [1, 2, 4])
    def test_of_few_bits(self, decode, bits, kind):
        png, expected = few_bits(bits, kind)
        received = decode(tf.constant([[png]]), (8, 8, 3)).numpy()[0, 0]
        np.testing.assert_array_equal(received, expected)

    def test_of_several_sizes_in_their_order(self, decode, tmp_path):
        files = [
            [picture(tmp_path, "L", (9 + i, 20 - j), i * 3 + j) for j in range(3)] for i in (0, 1)
        ]
        received = decode(tf.constant([[f.read_bytes() for f in row] for row in files]), (6, 7, 1))
        for row, frames in zip(files, received.numpy(), strict=True):
            expected = load_frames(row, image_size=(6, 7), channels=1)
            assert np.abs(frames.astype(int) - expected.astype(int)).max() <= 2

    @pytest.mark.parametrize("fit", ["crop", "stretch"])
    @pytest.mark.parametrize("size", [(12, 12), (24, 36), (30, 21), (7, 9), (5, 40), (1, 1)])
    def test_of_every_fit(self, decode, size, fit, tmp_path):
        file = picture(tmp_path, "RGB", size)
        received = decode(tf.constant([file.read_bytes()]), (12, 10, 3), fit).numpy()[0]
        (expected,) = load_frames([file], image_size=(12, 10), channels=3, fit=fit)
        assert np.abs(received.astype(int) - expected.astype(int)).max() <= 2

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (b"", r"`images`: expected encoded PNG or JPEG files; something else is at.*\[1\]"),
            (b"no image at all, but long enough", r"expected encoded PNG or JPEG.*\[1\]"),
            (b"\x89PNG\r\n\x1a\n\0", r"expected encoded PNG or JPEG.*\[1\]"),
            ("L.gif", r"expected encoded PNG or JPEG.*\[1\]"),
            ("L", "Invalid PNG data"),
            ("L.jpg", "Invalid JPEG data"),
        ],
        ids=["empty", "text", "stump", "gif", "cut png", "cut jpeg"],
    )
    def test_that_are_none_are_refused(self, decode, image, message, tmp_path):
        if isinstance(image, str):
            image = picture(tmp_path, image, (30, 30)).read_bytes()[:-20]
        good = picture(tmp_path, "L", (4, 4)).read_bytes()
        with pytest.raises(tf.errors.InvalidArgumentError, match=message):
            decode(tf.constant([[good, image]]), (12, 12, 1))

    @pytest.mark.parametrize("mode", ["L", "L.jpg"])
    def test_that_are_too_large_are_not_decoded(self, decode, mode, tmp_path):
        content = bytearray(picture(tmp_path, mode, (8, 8)).read_bytes())
        large = struct.pack(">II", 60_000, 60_000)
        if mode == "L":
            content[16:24] = large
            content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        else:
            start = content.index(b"\xff\xc0") + 5  # in the frame header: height, width
            content[start : start + 4] = struct.pack(">HH", 60_000, 60_000)
        with pytest.raises(
            tf.errors.InvalidArgumentError, match=r"at most 16,000,000 pixels; .*\[60000 60000\]"
        ):
            decode(tf.constant([[bytes(content)]]), (12, 12, 1))


def picture(folder, mode, size, seed=0):
    """Writes a smooth random picture of (H, W) in a mode; a suffix in the mode is the format's."""
    mode, _, suffix = mode.partition(".")
    height, width = size
    rng = np.random.default_rng(seed)
    depth = {"L": 1, "LA": 2, "RGBA": 4, "I;16": 1, "1": 1}.get(mode, 3)
    bands = [
        Image.fromarray(rng.integers(0, 256, (height // 4 + 1, width // 4 + 1), np.uint8)).resize(
            (width, height)
        )
        for _ in range(depth)
    ]
    if mode == "I;16":
        image = Image.fromarray(np.asarray(bands[0], np.uint16) * 257)
    elif depth == 1:
        image = bands[0].convert(mode)
    else:
        image = Image.merge({2: "LA", 3: "RGB", 4: "RGBA"}[depth], bands).convert(mode)
    file = folder / f"{seed}-{height}.{suffix or 'png'}"
    image.save(file)
    return file


def few_bits(bits, kind):
    """An 8x8 PNG of 1, 2 or 4 bits a pixel written by hand, and its pixels as colours."""
    rng = np.random.default_rng(bits)
    values = rng.integers(0, 2**bits, (8, 8))
    grey = np.arange(2**bits)[:, None].repeat(3, 1) * (255 // (2**bits - 1))
    palette = rng.integers(0, 256, (2**bits, 3)) if kind else grey
    rows = (values[..., None] >> np.arange(bits)[::-1]) & 1  # most significant bit first
    data = b"".join(b"\0" + np.packbits(row.ravel()).tobytes() for row in rows)
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 8, 8, bits, kind, 0, 0, 0)}
    if kind:
        chunks[b"PLTE"] = palette.astype(np.uint8).tobytes()
    chunks |= {b"IDAT": zlib.compress(data), b"IEND": b""}
    png = io.BytesIO(b"\x89PNG\r\n\x1a\n")
    png.seek(0, io.SEEK_END)
    for name, content in chunks.items():
        png.write(struct.pack(">I", len(content)) + name + content)
        png.write(struct.pack(">I", zlib.crc32(name + content)))
    return png.getvalue(), palette[values]
