"""Videos of every container, whole and damaged, against the frames that they were made of."""

import contextlib
import io
import sys
from fractions import Fraction
from functools import partial
from typing import get_args

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.data import frames as frames_module
from keras_cnnlstm.data import videos as videos_module
from keras_cnnlstm.data.frames import Fit, fit_image, load_frames, read_image
from keras_cnnlstm.data.videos import (
    VIDEO_SUFFIXES,
    ClipInfo,
    probe_video,
    read_video,
    video_images,
    write_video,
)

av = pytest.importorskip("av")

WRITTEN = (".avi", ".mkv", ".mov", ".mp4", ".webm")


def moving(frames=12, height=24, width=32):
    """A bright square on grey paper that moves by two pixels a frame, `(T, H, W, 1)`."""
    film = np.full((frames, height, width, 1), 60, np.uint8)
    for t in range(frames):
        film[t, 6:14, 2 * t : 2 * t + 8] = 220
    return film


def noise(shape=(7, 9, 13, 3)):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def smooth(shape):
    """Frames without fine detail."""
    small = noise((shape[0], 5, 7, shape[3])).repeat(3 // shape[3], axis=-1)
    images = [
        Image.fromarray(frame).resize(shape[2:0:-1], Image.Resampling.BICUBIC) for frame in small
    ]
    return np.stack([np.asarray(image) for image in images])


def areas(old, new):
    """Weights `(new, old)` by which a new pixel is the mean of what it covers of the old ones."""
    edges = np.arange(new + 1)[:, None] * old / new
    covered = np.minimum(edges[1:], np.arange(old) + 1) - np.maximum(edges[:-1], np.arange(old))
    return covered.clip(0) * new / old


def encode(
    path, codec, frames, pixel_format="yuv420p", *,
    rate=10, rotation=0, mirrored=False, aspect=Fraction(1), options=None,
):  # fmt: skip
    """Writes a video as other programs do; `frames` `(T, H, W, C)` may be empty."""
    with av.open(path, "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        if rotation or mirrored:
            stream.set_display_rotation(rotation, mirrored)
        if aspect != 1:
            stream.codec_context.sample_aspect_ratio = aspect
        container.start_encoding()
        for frame in np.broadcast_to(frames, (*frames.shape[:3], 3)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(frame))
        if len(frames):
            container.mux(stream.encode(None))


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The same film in every container, by ending."""
    folder = tmp_path_factory.mktemp("videos")
    for ending in WRITTEN:
        write_video(folder / f"film{ending}", moving(), rate=12.5)
    first, *rest = (Image.fromarray(frame[..., 0]) for frame in moving())
    first.save(folder / "film.gif", save_all=True, append_images=rest, duration=80, loop=0)
    return {ending: folder / f"film{ending}" for ending in (*WRITTEN, ".gif")}


BOX = (12).to_bytes(4, "big") + b"ftypisom"
MATROSKA = b"\x1aE\xdf\xa3\x83xyz\x18S\x80g"  # header, and the name of the segment after it
GIF = b"GIF89a\1\0\1\0\0\0\0"
CONTAINERS = {  # its first bytes, and the size of the whole
    "avi": (b"RIFF" + (300).to_bytes(4, "little") + b"AVI ", 308),
    "matroska, size of 1 byte": (MATROSKA + b"\x85", 18),
    "matroska, size of 2 bytes": (MATROSKA + b"\x41\x00", 14 + 256),
    "matroska, size of 8 bytes": (MATROSKA + b"\x01\0\0\0\0\0\x01\x02", 20 + 258),
    "matroska, live": (MATROSKA + b"\xff", 0),
    "matroska, live, 8 bytes": (MATROSKA + b"\x01" + 7 * b"\xff", 0),
    "mp4": (BOX + (100).to_bytes(4, "big") + b"mdat", 112),
    "mp4, large": (BOX + b"\0\0\0\x01mdat" + (5_000_000_000).to_bytes(8, "big"), 5_000_000_012),
    "mp4, to the end": (BOX + b"\0\0\0\0mdat", 0),
    "mp4, with a letter after its end": (BOX + b"Dear Sir, this is a film", 12),
    "mpeg": (b"\0\0\1\xba\x44\0\4\0", 0),
    "gif": (GIF + b",\0\0\0\0\1\0\1\0\0\2\2L\1\0;", 29),
    "gif, cut off": (GIF + b"!\xf9\4\0\0\0\0", 21),
    "gif, cut off in a frame": (GIF + b",\0\0\0\0\1\0\1\0\x80", 13 + 10 + 6 + 2),
    "nothing": (b"", 0),
    "text": (b"\0\0\0\7text", 0),
}


class TestReadVideo:
    @pytest.mark.parametrize("ending", [*WRITTEN, ".gif"])
    def test_gives_the_frames_it_was_made_of(self, videos, ending):
        frames = read_video(videos[ending], channels=1)
        assert (frames.shape, frames.dtype) == ((12, 24, 32, 1), np.uint8)
        difference = np.abs(frames.astype(int) - moving())
        assert difference.max() <= (0 if ending in (".avi", ".gif") else 25)
        assert difference.mean() < 2

    def test_colours_exactly_from_avi(self, tmp_path):
        write_video(tmp_path / "a.avi", noise())
        np.testing.assert_array_equal(read_video(tmp_path / "a.avi"), noise())

    @pytest.mark.parametrize("ending", [".mp4", ".gif"])
    @pytest.mark.parametrize("indices", [[0], [11], [2, 3, 9], range(12)])
    def test_only_the_frames_asked_for(self, videos, ending, indices):
        whole = read_video(videos[ending])
        found = read_video(videos[ending], indices)
        np.testing.assert_array_equal(found, whole[np.array(indices)])

    @pytest.mark.parametrize("channels", [1, 3])
    @pytest.mark.parametrize("size", [(20, 30), (40, 60)])
    def test_frames_that_are_not_made_smaller_are_as_images(self, tmp_path, channels, size):
        frames = noise((3, 20, 30, 3))
        write_video(tmp_path / "a.avi", frames)
        files = [tmp_path / f"{t}.png" for t in range(3)]
        for file, frame in zip(files, frames, strict=True):
            Image.fromarray(frame).save(file)
        form = {"image_size": size, "channels": channels, "invert": True}
        found = read_video(tmp_path / "a.avi", **form)
        np.testing.assert_array_equal(found, load_frames(files, **form))

    @pytest.mark.parametrize("size", [(16, 16), (12, 30), (27, 9), (40, 70)])
    def test_a_pixel_is_the_mean_of_its_area(self, tmp_path, size):
        frames = smooth((3, 48, 80, 3))
        write_video(tmp_path / "a.avi", frames)
        found = read_video(tmp_path / "a.avi", image_size=size, fit="stretch")
        rows, columns = areas(48, size[0]), areas(80, size[1])
        expected = np.einsum("hi,tijc,wj->thwc", rows, frames.astype(float), columns)
        assert np.abs(found - expected).mean() < 0.8
        assert np.abs(found - expected).max() < 6

    @pytest.mark.parametrize("angle", [0, 90, 180, 270])
    @pytest.mark.parametrize("fit", get_args(Fit))
    @pytest.mark.parametrize("size", [(16, 16), (12, 24), (24, 8)])
    def test_scales_in_the_conversion_as_an_image_library_after_it(
        self, tmp_path, size, fit, angle
    ):
        """Of H.264, grey: Pillow's way from its colours to RGB is a coarser one."""
        path, form = tmp_path / "a.mp4", {"image_size": size, "channels": 3, "invert": False}
        encode(path, "libx264", smooth((4, 48, 96, 1)), rotation=angle)
        found = read_video(path, image_size=size, fit=fit).astype(int)
        expected = np.stack([fit_image(image, **form, fit=fit) for image in video_images(path)])
        assert (found.any((0, 3)) == expected.any((0, 3))).all()  # the same bars
        assert np.abs(found - expected).mean() < 1.5
        assert np.abs(found - expected).max() <= 6

    @pytest.mark.parametrize("angle", [90, 180, -90])
    def test_follows_the_camera_s_orientation(self, tmp_path, angle):
        frames = moving(3)
        options = {"rotation": angle, "options": {"crf": "0"}}
        encode(tmp_path / "a.mp4", "libx264rgb", frames, "rgb24", **options)
        expected = np.rot90(frames, angle // 90, axes=(1, 2))  # counter-clockwise
        np.testing.assert_array_equal(read_video(tmp_path / "a.mp4", channels=1), expected)
        assert probe_video(tmp_path / "a.mp4")[:3] == expected.shape[:3]

    @pytest.mark.parametrize("image_size", [None, (20, 12)])  # the latter scaled in the conversion
    @pytest.mark.parametrize("mirrored", [False, True])
    @pytest.mark.parametrize("angle", [0, 90, 180, 270])
    def test_all_eight_orientations(self, tmp_path, angle, mirrored, image_size):
        frames = smooth((3, 48, 96, 1))
        options = {"rotation": angle, "mirrored": mirrored, "options": {"crf": "0"}}
        encode(tmp_path / "a.mp4", "libx264", frames, **options)
        upright = np.rot90(frames, angle // 90, axes=(1, 2))
        upright = upright[:, :, ::-1] if mirrored else upright
        if image_size:
            form = {"image_size": image_size, "channels": 1, "invert": False, "fit": "letterbox"}
            expected = np.stack([fit_image(Image.fromarray(image), **form) for image in upright])
        else:
            expected = upright[..., :1]
        found = read_video(tmp_path / "a.mp4", channels=1, image_size=image_size)
        assert np.abs(found.astype(int) - expected).mean() < 2
        assert probe_video(tmp_path / "a.mp4")[:3] == upright.shape[:3]

    @pytest.mark.parametrize("image_size", [None, (8, 24), (100, 100)])
    def test_pixels_that_are_not_square(self, tmp_path, image_size):
        """A white square of 16x32 pixels, each twice as wide as high, is shown as 32x32."""
        frame = np.zeros((32, 48, 3), np.uint8)
        frame[:, 8:24] = 255
        options = {"aspect": Fraction(2, 1), "options": {"crf": "0"}}
        encode(tmp_path / "a.mkv", "libx264", frame[None], **options)
        assert probe_video(tmp_path / "a.mkv")[:3] == (1, 32, 96)
        (found,) = read_video(tmp_path / "a.mkv", channels=1, image_size=image_size)[..., 0] > 128
        rows, columns = found.any(1).sum(), found.any(0).sum()
        assert rows == columns
        height, width = image_size or (32, 96)
        assert rows == round(min(height, width / 3))  # the whole height is white

    def test_the_frames_of_a_gif_are_composed(self, tmp_path):
        """Each holds only what has changed, over what the ones before it left."""
        layers = []
        for t in range(3):
            pixels = np.zeros((4, 6, 4), np.uint8)
            pixels[:, 2 * t : 2 * t + 2] = 255  # two white columns, nothing elsewhere
            layers.append(Image.fromarray(pixels))
        layers[0].save(
            tmp_path / "a.gif", save_all=True, append_images=layers[1:], disposal=1, duration=50
        )
        frames = read_video(tmp_path / "a.gif", channels=1)[..., 0]
        for t, frame in enumerate(frames):
            assert (frame[:, : 2 * t + 2] == 255).all()
            assert (frame[:, 2 * t + 2 :] == 0).all()
        assert read_video(tmp_path / "a.gif", [0], channels=1, invert=True)[0, 0, 5, 0] == 0

    def test_frames_of_several_sizes(self, tmp_path, monkeypatch):
        """A GIF whose frames outgrow the first one, of which its header tells."""
        Image.fromarray(noise()[0]).save(tmp_path / "a.gif", save_all=True, append_images=[
            Image.fromarray(frame) for frame in noise()[1:]
        ])  # fmt: skip
        content = bytearray((tmp_path / "a.gif").read_bytes())
        place = content.index(b",", 800)  # a later frame's description: its place and size
        content[place + 1] = 4
        (tmp_path / "a.gif").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.gif: expected frames of one size; found several"):
            read_video(tmp_path / "a.gif")
        assert read_video(tmp_path / "a.gif", image_size=(5, 5)).shape == (7, 5, 5, 3)
        monkeypatch.setattr(frames_module, "_MAX_PIXELS", 9 * 14)
        with pytest.raises(ValueError, match="expected at most 126 pixels; received 17x9"):
            read_video(tmp_path / "a.gif", image_size=(5, 5))

    def test_bad_arguments(self, videos):
        with pytest.raises(ValueError, match="read_video: `channels` must be 1 or 3; received 2"):
            read_video(videos[".mp4"], channels=2)
        with pytest.raises(ValueError, match="read_video: `indices` must be integers from 0"):
            read_video(videos[".mp4"], [3, 1])

    @pytest.mark.parametrize("ending", [".mp4", ".gif"])
    def test_frames_that_are_not_there(self, videos, ending):
        with pytest.raises(ValueError, match=rf"film{ending}: expected a video of 14 frames or mo"):
            read_video(videos[ending], [3, 13])


class TestVideoImages:
    @pytest.mark.parametrize("ending", [".mp4", ".gif"])
    def test_upright_images_of_the_chosen_frames(self, videos, ending):
        every_third = video_images(videos[ending], lambda number: number % 3 == 0)
        form = {"image_size": None, "channels": 3, "invert": False}
        frames = np.stack([fit_image(image, **form) for image in every_third])
        np.testing.assert_array_equal(frames, read_video(videos[ending])[::3])

    @pytest.mark.parametrize("ending", [".mp4", ".gif"])
    def test_nothing_is_decoded_ahead(self, videos, ending):
        asked = []
        images = video_images(videos[ending], lambda number: asked.append(number) or True)
        for number in range(3):
            next(images)
            assert asked == list(range(number + 1))


class TestProbe:
    @pytest.mark.parametrize("ending", [*WRITTEN, ".gif"])
    @pytest.mark.parametrize("decode", [False, True])
    def test_what_there_is(self, videos, ending, decode):
        assert probe_video(videos[ending], decode=decode) == ClipInfo(12, 24, 32, 12.5)

    @pytest.mark.parametrize("ending", [".avi", ".mp4", ".gif"])
    def test_a_video_of_one_frame(self, tmp_path, ending):
        path = tmp_path / f"a{ending}"
        if ending == ".gif":
            Image.fromarray(noise()[0]).save(path)
        else:
            write_video(path, moving(1), rate=5)
        expected = ClipInfo(1, 9, 13, None) if ending == ".gif" else ClipInfo(1, 24, 32, 5.0)
        assert probe_video(path) == probe_video(path, decode=True) == expected
        assert len(read_video(path)) == 1

    def test_frames_that_are_never_shown_do_not_count(self, tmp_path):
        """VP8 keeps pictures that others refer to in packets of their own."""
        encode(tmp_path / "shown.webm", "libvpx", moving(5))
        shown = 1 << 4  # the bit of a packet's first byte, RFC 6386, section 9.1
        with (
            av.open(tmp_path / "shown.webm") as source,
            av.open(tmp_path / "hidden.webm", "w") as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(source.demux(video=0)):
                if packet.size:
                    content = bytearray(bytes(packet))
                    content[0] &= 0xFF ^ shown if number == 2 else 0xFF
                    changed = av.Packet(bytes(content))
                    changed.pts, changed.dts = packet.pts, packet.dts
                    changed.time_base, changed.stream = packet.time_base, stream
                    changed.is_keyframe = packet.is_keyframe
                    target.mux(changed)
        assert probe_video(tmp_path / "shown.webm").frames == 5
        assert probe_video(tmp_path / "hidden.webm").frames == 4
        assert probe_video(tmp_path / "hidden.webm", decode=True).frames == 4
        assert len(read_video(tmp_path / "hidden.webm")) == 4

    def test_frames_that_are_cut_away_do_not_count(self, videos, tmp_path):
        """Editors of telephones cut by a note in the file: show it from this time on."""
        content = bytearray(videos[".mp4"].read_bytes())
        place = content.index(b"elst") + 16  # after version, number of cuts and duration
        begin = int.from_bytes(content[place : place + 4], "big")
        frame = 1024  # ticks, of 12,800 in a second
        content[place : place + 4] = (begin + 3 * frame).to_bytes(4, "big")
        (tmp_path / "a.mp4").write_bytes(content)
        assert probe_video(tmp_path / "a.mp4").frames == 9
        assert probe_video(tmp_path / "a.mp4", decode=True).frames == 9
        np.testing.assert_array_equal(
            read_video(tmp_path / "a.mp4"), read_video(videos[".mp4"])[3:]
        )


class TestDamaged:
    @pytest.mark.parametrize("ending", [*WRITTEN, ".gif"])
    def test_a_file_cut_off_anywhere_is_found(self, videos, tmp_path, ending):
        whole = videos[ending].read_bytes()
        cut = tmp_path / f"cut{ending}"
        for share in (0, 0.01, 0.2, 0.5, 0.8, 0.95, 1):
            cut.write_bytes(whole[: min(int(share * len(whole)), len(whole) - 1)])
            with contextlib.suppress(ValueError):  # where only what follows the frames is gone
                found = probe_video(cut, decode=True)
                assert found == probe_video(videos[ending])
                assert share >= 0.95
                assert ending not in (".mkv", ".webm")
                continue
            with pytest.raises(ValueError, match=rf"cut{ending}: expected .* (whole|none)"):
                probe_video(cut, decode=True)

    @pytest.mark.parametrize("ending", [*WRITTEN, ".gif"])
    def test_no_error_but_one_kind(self, videos, tmp_path, ending):
        """Bytes changed at random: read, or refused by a `ValueError` that names the file."""
        rng = np.random.default_rng(0)
        whole = np.frombuffer(videos[ending].read_bytes(), np.uint8)
        bad, messages = tmp_path / f"bad{ending}", []
        for _ in range(20):
            content = whole.copy()
            content[rng.integers(0, len(whole), 10)] = rng.integers(0, 256, 10)
            bad.write_bytes(content)
            for ask in (probe_video, read_video, lambda path: probe_video(path, decode=True)):
                try:
                    ask(bad)
                except ValueError as error:
                    messages.append(str(error))
        assert messages
        assert all(message.startswith(f"{bad}: expected") for message in messages)

    def test_the_end_of_a_frame_is_missing(self, videos, tmp_path):
        whole = videos[".avi"].read_bytes()
        last = whole.rindex(b"00dc", 0, whole.index(b"idx1"))  # the last frame's name
        (tmp_path / "a.avi").write_bytes(whole[: last + 20])
        for ask in (probe_video, read_video):
            with pytest.raises(ValueError, match=r"a\.avi: .*the end of a frame is missing"):
                ask(tmp_path / "a.avi")
        assert len(read_video(tmp_path / "a.avi", range(11))) == 11

    def test_a_frame_is_damaged(self, tmp_path):
        frames = np.kron(noise((5, 6, 8, 3)), np.ones((1, 8, 8, 1), np.uint8))
        encode(tmp_path / "a.avi", "mpeg4", frames)
        content = bytearray((tmp_path / "a.avi").read_bytes())
        middle = content.rindex(b"00dc", 0, content.index(b"idx1")) + 60
        content[middle : middle + 40] = bytes(40)
        (tmp_path / "a.avi").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.avi: expected .*; a frame of it is damaged"):
            probe_video(tmp_path / "a.avi", decode=True)

    def test_it_ends_early(self, videos, tmp_path):
        (tmp_path / "a.webm").write_bytes(videos[".webm"].read_bytes()[:-30])
        with pytest.raises(ValueError, match=r"expected a whole video; .* truncated"):
            probe_video(tmp_path / "a.webm", decode=True)

    @pytest.mark.parametrize("container", CONTAINERS)
    def test_the_size_that_a_container_tells(self, tmp_path, container):
        """Headers by hand; `whole` bytes are the least that is not cut off."""
        header, whole = CONTAINERS[container]
        for size in (len(header), whole - 1, whole, whole + 1):
            if len(header) <= size < 1000:
                (tmp_path / "a").write_bytes(header + bytes(size - len(header)))
                assert videos_module._is_cut_off(tmp_path / "a") == (size < whole)

    def test_frames_that_need_ones_that_are_not_there(self, videos, tmp_path):
        """A stream that begins in the middle: packets whose frames never come."""
        with (
            av.open(videos[".mkv"]) as source,
            av.open(tmp_path / "a.mkv", "w") as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(source.demux(video=0)):
                if number and packet.size:
                    packet.stream = stream
                    target.mux(packet)
        for ask in (read_video, lambda path: probe_video(path, decode=True)):
            with pytest.raises(ValueError, match=r"a\.mkv: expected a video that can be read"):
                ask(tmp_path / "a.mkv")

    def test_no_pictures(self, tmp_path):
        with av.open(tmp_path / "a.mp4", "w") as container:
            stream = container.add_stream("aac", rate=8000)
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            sound.sample_rate = 8000
            container.mux(stream.encode(sound))
            container.mux(stream.encode(None))
        for ask in (probe_video, read_video):
            with pytest.raises(ValueError, match="expected a video; found a file without moving"):
                ask(tmp_path / "a.mp4")

    @pytest.mark.parametrize("ending", [".avi", ".mkv"])
    def test_no_frames(self, tmp_path, ending):
        path = tmp_path / f"a{ending}"
        encode(path, "ffv1", moving(0), "bgr0")
        with pytest.raises(ValueError, match=r"(with frames; found none|that can be read)"):
            probe_video(path)
        with pytest.raises(ValueError, match=r"expected a video (of 1 frames or more|that can be)"):
            read_video(path)

    @pytest.mark.parametrize("ending", VIDEO_SUFFIXES)
    def test_not_there_or_something_else(self, tmp_path, ending):
        path = tmp_path / f"a{ending}"
        for ask in (probe_video, read_video):
            with pytest.raises(FileNotFoundError, match=r"(video|image) file; found nothing"):
                ask(path)
        path.write_text("no video at all, but a text of some length")
        for ask in (probe_video, read_video):
            with pytest.raises(ValueError, match=rf"a{ending}: expected an? .* that can be read"):
                ask(path)

    @pytest.mark.parametrize(
        "playlist",
        [
            "ffconcat version 1.0\nfile film.mp4\n",
            "#EXTM3U\n#EXTINF:9,\nfilm.mp4\n#EXT-X-ENDLIST\n",
        ],
    )
    def test_a_playlist_in_disguise_opens_no_other_file(self, videos, playlist):
        path = videos[".mp4"].with_name("list.mp4")
        path.write_text(playlist)
        with pytest.raises(ValueError, match=r"list\.mp4: expected a video that can be read"):
            probe_video(path)

    @pytest.mark.parametrize("ending", [".mp4", ".gif"])
    def test_too_large_to_decode(self, videos, ending, monkeypatch):
        monkeypatch.setattr(frames_module, "_MAX_PIXELS", 700)
        for ask in (probe_video, read_video):
            with pytest.raises(ValueError, match="expected at most 700 pixels; received 32x24"):
                ask(videos[ending])


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        (".3gp", "libx264"), (".flv", "flv1"), (".m4v", "libx264"), (".mpeg", "mpeg1video"),
        (".mpg", "mpeg2video"), (".ts", "libx264"), (".ts", "mpeg2video"), (".wmv", "wmv2"),
    ],
)  # fmt: skip
def test_containers_that_are_read_but_not_written(tmp_path, ending, codec):
    path = tmp_path / f"film{ending}"
    encode(path, codec, moving(), rate=25, options={"b": "1000000"})
    assert probe_video(path) == probe_video(path, decode=True) == (12, 24, 32, 25)
    found = read_video(path, channels=1).astype(int)
    assert np.abs(found - moving()).mean() < 2  # of 256: what compression loses
    whole = path.read_bytes()
    path.write_bytes(whole + b"and more")
    np.testing.assert_array_equal(read_video(path, channels=1), found)


def test_a_film_that_grows_is_refused_at_the_frame_that_is_too_large(tmp_path, monkeypatch):
    with av.open(str(tmp_path / "grows.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuvj420p"
        for number, side in enumerate((16, 16, 160)):
            picture = io.BytesIO()
            Image.new("RGB", (side, side)).save(picture, "JPEG")
            packet = av.Packet(picture.getvalue())
            packet.stream, packet.time_base = stream, Fraction(1, 10)
            packet.pts = packet.dts = number
            container.mux(packet)
    monkeypatch.setattr(frames_module, "_MAX_PIXELS", 1000)
    assert read_video(tmp_path / "grows.avi", [0, 1]).shape == (2, 16, 16, 3)
    for ask in (partial(probe_video, decode=True), partial(read_video, image_size=(8, 8))):
        with pytest.raises(ValueError, match="expected at most 1,000 pixels; received 160x160"):
            ask(tmp_path / "grows.avi")


def test_a_small_file_of_many_large_frames(videos, monkeypatch):
    count = probe_video(videos[".gif"]).frames
    monkeypatch.setattr(videos_module, "_MOST_OF_GIF", count * 32 * 24)
    assert len(read_video(videos[".gif"])) == count
    monkeypatch.setattr(videos_module, "_MOST_OF_GIF", count * 32 * 24 - 1)
    for ask in (probe_video, read_video):
        with pytest.raises(ValueError, match=r"a GIF of at most .* Save it as a video"):
            ask(videos[".gif"])


def test_a_name_that_looks_like_an_address(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("http:a b ü.mp4", moving(2))
    assert probe_video("http:a b ü.mp4").frames == 2


def test_without_the_package(videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for ask in (probe_video, read_video):
        with pytest.raises(ValueError, match=r'av: .*pip install "keras-cnnlstm.video.'):
            ask(videos[".mp4"])
    assert probe_video(videos[".gif"]).frames == 12


@pytest.mark.parametrize("image_size", [None, (8, 8)])
@pytest.mark.parametrize(
    ("ending", "codec", "pixels"),
    [
        (".mov", "qtrle", "argb"), (".mov", "png", "rgba"), (".mov", "prores_ks", "yuva444p10le"),
        (".avi", "ffv1", "bgra"), (".avi", "utvideo", "gbrap"), (".avi", "rawvideo", "bgra"),
        (".webm", "libvpx-vp9", "yuva420p"), (".webm", "libvpx", "yuva420p"),
    ],
)  # fmt: skip
def test_what_is_transparent_is_black_as_in_images(tmp_path, ending, codec, pixels, image_size):
    picture = np.zeros((16, 32, 4), np.uint8)
    picture[..., :3] = (200, 255, 255)
    picture[:, 8:24, 3], picture[:, 24:28, 3] = 255, 128
    with av.open(tmp_path / f"a{ending}", "w") as container:
        stream = container.add_stream(codec, rate=5)
        stream.height, stream.width, stream.pix_fmt = 16, 32, pixels
        if ending == ".webm":
            stream.options = {"auto-alt-ref": "0", "crf": "4", "b": "2000000"}
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba").reformat(format=pixels)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    Image.fromarray(picture).save(tmp_path / "a.png")
    frames = read_video(tmp_path / f"a{ending}", image_size=image_size)
    expected = read_image(tmp_path / "a.png", image_size=image_size)
    assert expected.max() > 190
    assert len(frames) == probe_video(tmp_path / f"a{ending}").frames == 2
    assert np.abs(frames.astype(int) - expected).max() <= 2


def test_music_with_a_picture_on_its_cover_is_no_film(tmp_path):
    with av.open(tmp_path / "a.mp4", "w") as container:
        sound = container.add_stream("aac", rate=8000)
        cover = container.add_stream("png", rate=1)
        cover.height, cover.width, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        noise_ = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        noise_.sample_rate = 8000
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for stream, frame in ((cover, picture), (sound, noise_)):
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    for ask in (probe_video, read_video):
        with pytest.raises(ValueError, match="expected a video; found a file without moving"):
            ask(tmp_path / "a.mp4")


class TestWhatDecodesIsRead:
    def test_a_gif_without_its_end_or_with_more(self, videos, tmp_path):
        whole, path = videos[".gif"].read_bytes(), tmp_path / "a.gif"
        for content in (whole[:-1], whole + b"more", whole + bytes(3)):
            path.write_bytes(content)
            assert probe_video(path, decode=True) == probe_video(videos[".gif"])
            np.testing.assert_array_equal(read_video(path), read_video(videos[".gif"]))
        path.write_bytes(whole[:-3])
        with pytest.raises(ValueError, match=r"a\.gif: expected .* whole"):
            probe_video(path, decode=True)

    @pytest.mark.parametrize("change", [8, -8])
    def test_an_avi_whose_size_is_off_by_eight(self, videos, tmp_path, change):
        content = bytearray(videos[".avi"].read_bytes())
        size = int.from_bytes(content[4:8], "little") + change
        content[4:8] = size.to_bytes(4, "little")
        (tmp_path / "a.avi").write_bytes(content)
        assert probe_video(tmp_path / "a.avi", decode=True) == probe_video(videos[".avi"])

    def test_pictures_that_are_not_coded(self, tmp_path):
        """Of MPEG-4: packets that say that nothing changes, of which no frame is shown."""
        encode(tmp_path / "a.avi", "mpeg4", np.repeat(smooth((1, 32, 48, 3)), 6, axis=0))
        with av.open(tmp_path / "a.avi") as source, av.open(tmp_path / "b.avi", "w") as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for number, packet in enumerate(source.demux(video=0)):
                if not packet.size:
                    continue
                content = bytes(packet)
                if number in (2, 4):
                    # After the start: type (2 bits), seconds (1 at least, a zero at the end), a
                    # one, the time (4 bits of a rate of 10), a one, and whether it is coded.
                    start = content.index(b"\0\0\1\xb6") + 4
                    bits = int.from_bytes(content[start : start + 4])
                    seconds = f"{bits:032b}"[2:].index("0")
                    coded = 31 - (2 + seconds + 1 + 1 + 4 + 1)
                    assert bits >> coded & 1
                    bits = bits & ~(1 << coded) | (1 << coded) - 1
                    content = content[:start] + bits.to_bytes(4)[:2]
                changed = av.Packet(content)
                changed.pts, changed.dts = packet.pts, packet.dts
                changed.time_base, changed.stream = packet.time_base, stream
                changed.is_keyframe = packet.is_keyframe
                target.mux(changed)
        assert probe_video(tmp_path / "b.avi") == probe_video(tmp_path / "b.avi", decode=True)
        assert probe_video(tmp_path / "b.avi").frames == len(read_video(tmp_path / "b.avi")) == 4


class TestWriteVideo:
    @pytest.mark.parametrize("ending", [".mp4", ".webm"])
    def test_odd_sizes_are_made_even_by_their_last_row_and_column(self, tmp_path, ending):
        path = tmp_path / f"a{ending}"
        frames = np.repeat(np.linspace(40, 200, 13).astype(np.uint8)[None, None, :, None], 9, 1)
        write_video(path, np.repeat(frames, 4, 0))
        found = read_video(path, channels=1).astype(int)
        assert found.shape == (4, 10, 14, 1)
        np.testing.assert_allclose(found[:, :9, :13], np.repeat(frames, 4, 0), atol=12)
        np.testing.assert_allclose(found[:, :, 13], 200, atol=12)

    @pytest.mark.parametrize("rate", [1, 12.5, 30000 / 1001])
    def test_the_rate(self, tmp_path, rate):
        write_video(tmp_path / "a.mp4", moving(3), rate=rate)
        assert probe_video(tmp_path / "a.mp4").rate == pytest.approx(rate, rel=1e-6)

    def test_leaves_nothing_half_written(self, tmp_path, monkeypatch):
        def fail(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(av.VideoFrame, "from_ndarray", fail, raising=False)
        with pytest.raises(KeyboardInterrupt):
            write_video(tmp_path / "a.mp4", moving(2))
        assert not list(tmp_path.iterdir())

    def test_bad_arguments(self, tmp_path):
        path = tmp_path / "a.mp4"
        with pytest.raises(ValueError, match=r"`path` must end in one of \.avi, .*a\.gif"):
            write_video(tmp_path / "a.gif", moving())
        for frames in (moving()[0], moving().astype(float), moving()[:0], moving()[:, :0]):
            with pytest.raises(ValueError, match=r"`frames` must be \(T, H, W, C\) uint8, T 1 or"):
                write_video(path, frames)
        with pytest.raises(ValueError, match="write_video: `channels` must be 1 or 3; received 2"):
            write_video(path, moving().repeat(2, -1))
        for rate in (0, -1, float("nan")):
            with pytest.raises(ValueError, match=r"`rate` must be larger than 0.*received"):
                write_video(path, moving(), rate=rate)
