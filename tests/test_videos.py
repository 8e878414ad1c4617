"""Videos of every container, whole and damaged, against the frames that they were made of."""

import sys

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm import frames as frames_module
from keras_cnnlstm.frames import fit_image, load_frames
from keras_cnnlstm.videos import (
    VIDEO_SUFFIXES,
    VideoInfo,
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


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """The same film in every container, by ending."""
    folder = tmp_path_factory.mktemp("videos")
    for ending in WRITTEN:
        write_video(folder / f"film{ending}", moving(), rate=12.5)
    first, *rest = (Image.fromarray(frame[..., 0]) for frame in moving())
    first.save(folder / "film.gif", save_all=True, append_images=rest, duration=80, loop=0)
    return {ending: folder / f"film{ending}" for ending in (*WRITTEN, ".gif")}


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
    def test_brings_frames_to_shape_as_images(self, tmp_path, channels):
        frames = noise((3, 20, 30, 3))
        write_video(tmp_path / "a.avi", frames)
        files = [tmp_path / f"{t}.png" for t in range(3)]
        for file, frame in zip(files, frames, strict=True):
            Image.fromarray(frame).save(file)
        form = {"image_size": (8, 9), "channels": channels, "invert": True}
        found = read_video(tmp_path / "a.avi", **form)
        np.testing.assert_array_equal(found, load_frames(files, **form))

    @pytest.mark.parametrize("angle", [90, 180, -90])
    def test_follows_the_camera_s_orientation(self, tmp_path, angle):
        frames = moving(3)
        with av.open(tmp_path / "a.mp4", "w") as container:
            stream = container.add_stream("libx264rgb", rate=10, options={"crf": "0"})
            stream.height, stream.width, stream.pix_fmt = 24, 32, "rgb24"
            stream.set_display_rotation(angle)
            for frame in np.repeat(frames, 3, axis=-1):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        expected = np.rot90(frames, angle // 90, axes=(1, 2))  # counter-clockwise
        np.testing.assert_array_equal(read_video(tmp_path / "a.mp4", channels=1), expected)
        assert probe_video(tmp_path / "a.mp4")[:3] == expected.shape[:3]

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
        with pytest.raises(ValueError, match="read_video: `indices` must be whole numbers from 0"):
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
        assert probe_video(videos[ending], decode=decode) == VideoInfo(12, 24, 32, 12.5)

    @pytest.mark.parametrize("ending", [".avi", ".mp4", ".gif"])
    def test_a_video_of_one_frame(self, tmp_path, ending):
        path = tmp_path / f"a{ending}"
        if ending == ".gif":
            Image.fromarray(noise()[0]).save(path)
        else:
            write_video(path, moving(1), rate=5)
        expected = VideoInfo(1, 9, 13, None) if ending == ".gif" else VideoInfo(1, 24, 32, 5.0)
        assert probe_video(path) == probe_video(path, decode=True) == expected
        assert len(read_video(path)) == 1

    def test_frames_that_are_never_shown_do_not_count(self, tmp_path):
        """VP8 keeps pictures that others refer to in packets of their own."""
        with av.open(tmp_path / "shown.webm", "w") as container:
            stream = container.add_stream("libvpx", rate=10)
            stream.height, stream.width, stream.pix_fmt = 24, 32, "yuv420p"
            for frame in np.repeat(moving(5), 3, axis=-1):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
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
            with pytest.raises(
                ValueError, match=r"a\.avi: expected .*; the end of a frame is miss"
            ):
                ask(tmp_path / "a.avi")
        assert len(read_video(tmp_path / "a.avi", range(11))) == 11

    def test_a_frame_is_damaged(self, tmp_path):
        with av.open(tmp_path / "a.avi", "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
            for frame in np.kron(noise((5, 6, 8, 3)), np.ones((1, 8, 8, 1), np.uint8)):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        content = bytearray((tmp_path / "a.avi").read_bytes())
        middle = content.rindex(b"00dc", 0, content.index(b"idx1")) + 60
        content[middle : middle + 40] = bytes(40)
        (tmp_path / "a.avi").write_bytes(content)
        with pytest.raises(ValueError, match=r"a\.avi: expected .*; a frame of it is damaged"):
            probe_video(tmp_path / "a.avi", decode=True)

    def test_it_ends_early(self, videos, tmp_path):
        (tmp_path / "a.webm").write_bytes(videos[".webm"].read_bytes()[:-30])
        with pytest.raises(ValueError, match="expected a whole video; it ends before its time"):
            probe_video(tmp_path / "a.webm", decode=True)

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
            with pytest.raises(ValueError, match="expected a video; found a file without pictures"):
                ask(tmp_path / "a.mp4")

    @pytest.mark.parametrize("ending", [".avi", ".mkv"])
    def test_no_frames(self, tmp_path, ending):
        path = tmp_path / f"a{ending}"
        with av.open(path, "w") as container:
            stream = container.add_stream("ffv1", rate=10)
            stream.height, stream.width, stream.pix_fmt = 24, 32, "bgr0"
            container.start_encoding()
        with pytest.raises(
            ValueError, match=r"expected a video (with frames; found none|that can)"
        ):
            probe_video(path)
        with pytest.raises(ValueError, match=r"expected a video (of 1 frames or more|that can be)"):
            read_video(path)

    @pytest.mark.parametrize("ending", VIDEO_SUFFIXES)
    def test_not_there_or_something_else(self, tmp_path, ending):
        path = tmp_path / f"a{ending}"
        for ask in (probe_video, read_video):
            with pytest.raises(
                FileNotFoundError, match=r"expected an? (video|image) file; found n"
            ):
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


def test_a_name_that_looks_like_an_address(videos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video("http:a b ü.mp4", moving(2))
    assert probe_video("http:a b ü.mp4").frames == 2


def test_without_the_package(videos, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for ask in (probe_video, read_video):
        with pytest.raises(
            ValueError, match=r'av: expected .*pip install "keras-cnnlstm\[video\]"'
        ):
            ask(videos[".mp4"])
    assert probe_video(videos[".gif"]).frames == 12


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
            with pytest.raises(ValueError, match="`rate` must be larger than 0; received"):
                write_video(path, moving(), rate=rate)
