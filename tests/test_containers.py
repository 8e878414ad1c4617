"""Sizes that containers tell of themselves: small ones by hand; real videos are in test_videos."""

import pytest

from keras_cnnlstm.containers import promised_size

MATROSKA, SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"


@pytest.fixture
def size_of(tmp_path):
    def size_of(content):
        (tmp_path / "file").write_bytes(content)
        return promised_size(tmp_path / "file")

    return size_of


def test_avi(size_of):
    assert size_of(b"RIFF" + (300).to_bytes(4, "little") + b"AVI ") == 308


@pytest.mark.parametrize(
    ("size", "promised"),
    [
        (b"\x85", 5),  # one byte: 1 and seven bits of the number
        (b"\x41\x00", 256),  # two bytes: 01 and fourteen bits
        (b"\x01\x00\x00\x00\x00\x00\x01\x02", 258),  # eight bytes
        (b"\xff", None),  # all ones: not known
        (b"\x01" + 7 * b"\xff", None),
    ],
)
def test_matroska(size_of, size, promised):
    content = MATROSKA + b"\x83" + b"xyz" + SEGMENT + size
    assert size_of(content) == (0 if promised is None else len(content) + promised)
    assert size_of(content + b"more") == (0 if promised is None else len(content) + promised)


def test_matroska_cut_off_in_its_header(size_of):
    whole = MATROSKA + b"\x83" + b"xyz" + SEGMENT + b"\x85" + b"12345"
    for length in range(8, len(whole)):
        assert size_of(whole[:length]) > length or length < 13
    assert size_of(whole) == len(whole)


def box(size, name, content=b""):
    return size.to_bytes(4, "big") + name + content


def test_mp4(size_of):
    first = box(12, b"ftyp", b"isom")
    assert size_of(first) == 12
    assert size_of(first + box(100, b"mdat", b"only this")) == 112
    assert size_of(first + box(1, b"mdat", (5_000_000_000).to_bytes(8, "big"))) == 5_000_000_012
    assert size_of(first + box(0, b"mdat", b"to the end")) == 12
    assert size_of(first + box(2**31, b"mdat") + box(8, b"free")) == 2**31 + 12


def test_gif(size_of):
    assert size_of(b"GIF89a...;") == 10
    assert size_of(b"GIF89a...;\0\0") == 12
    assert size_of(b"GIF89a...") == 10


def test_anything_else_promises_nothing(size_of):
    assert size_of(b"") == 0
    assert size_of(b"\0\0\0\7text") == 0
