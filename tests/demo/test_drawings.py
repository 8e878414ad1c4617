"""Drawings brought to the look of a data set: where the digit lies, how large, which way up."""

import os
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from keras_cnnlstm.data.datasets import load_digits
from keras_cnnlstm.demo.drawings import GLYPHS, PENS, as_digit, as_strip, draw_strokes, look_of


def box(image):
    """Top, bottom, left and right of what is not black, ends included."""
    rows, columns = np.flatnonzero(image.any(axis=1)), np.flatnonzero(image.any(axis=0))
    return rows[0], rows[-1], columns[0], columns[-1]


def centre_of_mass(image):
    """`(y, x)` in pixels from the corner, by the definition."""
    mass = image.astype(float)
    y, x = np.indices(image.shape) + 0.5
    return (mass * y).sum() / mass.sum(), (mass * x).sum() / mass.sum()


class TestStrokes:
    def test_a_line_is_as_wide_as_the_pen_and_round_at_its_ends(self):
        image = draw_strokes([[(0, 0), (3, 0)]], pen=0.2)  # 240 pixels long, the pen 48
        top, bottom, left, right = box(image)
        assert bottom - top + 1 == pytest.approx(48, abs=1)
        assert right - left + 1 == pytest.approx(240 + 48, abs=2)
        end = image[:, left : left + 24] > 0  # half a disc
        assert end.sum() == pytest.approx(np.pi * 24**2 / 2, rel=0.05)

    def test_a_corner_has_no_gap(self):
        image = draw_strokes([[(0, 0), (1, 0), (1, 1)]], pen=0.2)
        _, _, _, right = box(image)
        top = box(image)[0]
        corner = image[top : top + 48, right - 47 : right + 1] > 0
        assert corner.mean() == pytest.approx(1 - (1 - np.pi / 4) / 4, abs=0.02)  # a round tip

    def test_position_and_size_of_the_drawing_do_not_matter(self):
        small = [[(0.4 + x / 10, 0.2 + y / 10) for x, y in stroke] for stroke in GLYPHS[5]]
        np.testing.assert_allclose(
            draw_strokes(small).mean(), draw_strokes(GLYPHS[5]).mean(), rtol=0.01
        )

    def test_one_point_is_a_dot(self):
        top, bottom, left, right = box(draw_strokes([[(0.5, 0.5)]]))
        assert bottom - top == right - left > 10

    @pytest.mark.parametrize(
        "strokes",
        [None, 3, "12", [], [[]], [None], [[1, 2]], [[(1, 2, 3)]], [[(1, "a")]], [[(np.nan, 0)]],
         [[(1e300, 0)]], {"a": 1}, [{"x": 1}], [[(0, 0), (1,)]]],
    )  # fmt: skip
    def test_what_is_no_stroke_is_refused(self, strokes):
        with pytest.raises(
            ValueError, match=r"^draw_strokes: `strokes` must be .*received"
        ) as error:
            draw_strokes(strokes)
        assert "\n" not in str(error.value)

    def test_too_many_points_are_refused(self):
        with pytest.raises(ValueError, match=r"20,000 points at most; received 20,001\. Leave"):
            draw_strokes([[(0, 0)] * 20_001])

    @pytest.mark.parametrize("pen", [0, 2, "wide", np.nan])
    def test_a_pen_of_no_width_is_refused(self, pen):
        with pytest.raises(ValueError, match=r"`pen` must be 0\.01 to 1; received"):
            draw_strokes(GLYPHS[1], pen=pen)


class TestMnist:
    @pytest.mark.parametrize("digit", range(10))
    @pytest.mark.parametrize("size", [(28, 28), (56, 56), (28, 40)])
    def test_twenty_of_28_pixels_with_the_mass_in_the_middle(self, digit, size):
        frame = as_digit(draw_strokes(GLYPHS[digit]), size)
        assert frame.shape == size
        assert frame.dtype == np.uint8
        top, bottom, left, right = box(frame)
        assert max(bottom - top, right - left) + 1 == 20 * size[0] // 28
        for found, side in zip(centre_of_mass(frame), size, strict=True):
            assert found == pytest.approx(side / 2 + 0.5, abs=0.51)  # to whole pixels
        assert frame.max() == 255

    def test_edges_are_anti_aliased_and_no_ink_is_lost(self):
        image = draw_strokes(GLYPHS[0])
        frame = as_digit(image)
        assert ((frame > 0) & (frame < 255)).sum() > 30
        top, bottom, left, right = box(image)
        share = (image > 0).sum() / max(bottom - top + 1, right - left + 1) ** 2
        assert frame.sum() / 255 / 20**2 == pytest.approx(share, rel=0.03)

    def test_an_l_is_not_cut_off_although_its_mass_lies_in_a_corner(self):
        image = np.zeros((200, 200), np.uint8)
        image[:, :2] = image[-60:, :] = 255
        top, bottom, left, right = box(as_digit(np.pad(image, 20)))
        assert (bottom - top + 1, right - left + 1) == (20, 20)

    def test_paper_pen_place_and_size_make_no_difference(self):
        image = draw_strokes(GLYPHS[2])
        expected = as_digit(image).astype(int)
        photo = 235 - 0.8 * np.pad(image, ((10, 90), (120, 30))).astype(float)  # dark on light
        colour = np.stack([photo, photo - 5, photo - 20], axis=-1).astype(np.uint8)
        light = np.pad(image // 3 + 40, 35, constant_values=40)
        small = np.asarray(Image.fromarray(np.pad(image, 20)).resize((150, 180)))
        large = np.asarray(Image.fromarray(np.pad(image, 20)).resize((600, 720)))
        for other in (colour, light):
            assert np.abs(as_digit(other).astype(int) - expected).max() <= 3
        assert np.abs(as_digit(small).astype(int) - as_digit(large)).mean() < 3

    def test_faint_shadows_count_as_paper(self):
        image = np.pad(draw_strokes(GLYPHS[4]), 40)
        shaded = image.copy()
        shaded[:15, :15] = 36
        np.testing.assert_array_equal(as_digit(shaded), as_digit(image))

    @pytest.mark.mnist
    def test_mnist_digits_stay_as_they_are(self):
        if "TFDS_DATA_DIR" not in os.environ:
            pytest.skip("no $TFDS_DATA_DIR")
        images = load_digits("mnist").test.images[:200, ..., 0]
        again = np.stack([as_digit(image) for image in images])
        differences = np.abs(again.astype(int) - images).mean(axis=(1, 2))
        assert np.median(differences) < 2  # of 255; one pixel aside they differ by 17


class TestScan:
    @pytest.mark.parametrize("digit", range(10))
    def test_it_fills_the_height_as_the_bundled_digits_do(self, digit):
        frame = as_digit(draw_strokes(GLYPHS[digit], pen=PENS["scan"]), look="scan")
        top, bottom, left, right = box(frame > 60)
        assert (top, bottom) == (0, 27)
        assert (left + right + 1) / 2 == pytest.approx(14, abs=2)
        assert right - left + 1 <= 24

    def test_blocks_are_counted(self):
        """A vertical bar, 12 of 32 pixels wide: 4 pixels of a block, or none."""
        image = np.zeros((64, 24), np.uint8)
        image[:] = 255
        frame = as_digit(np.pad(image, 10), (8, 8), look="scan")
        assert frame.shape == (8, 8)
        np.testing.assert_array_equal(frame[3], [0, 0, 128, 255, 255, 128, 0, 0])

    def test_a_dash_stays_a_dash(self):
        top, bottom, _, _ = box(as_digit(draw_strokes([[(0, 0), (1, 0)]]), look="scan") > 60)
        assert bottom - top < 9

    @pytest.mark.parametrize(("look", "least"), [("scan", 9), ("mnist", 0)])
    def test_the_look_is_the_one_that_the_data_has(self, look, least):
        """Neighbours among the scans name drawn digits if these look like scans."""
        train = load_digits().train
        judge = KNeighborsClassifier(3).fit(train.images.reshape(len(train), -1), train.labels)
        drawn = [as_digit(draw_strokes(g, pen=PENS[look]), look=look) for g in GLYPHS]
        right = (judge.predict(np.stack(drawn).reshape(10, -1)) == np.arange(10)).sum()
        assert right >= least
        if look == "mnist":
            assert right < 9  # the other look would not do

    def test_photographed_scans_are_read_as_before(self):
        splits = load_digits()
        train, test = splits.train, splits.test
        judge = KNeighborsClassifier(3).fit(train.images.reshape(len(train), -1), train.labels)
        photos = []
        for image in test.images[:150, ..., 0]:
            large = np.asarray(Image.fromarray(image).resize((170, 170)))
            photos.append(240 - np.pad(large * 0.9, ((60, 20), (10, 75))).astype(np.uint8))
        again = np.stack([as_digit(photo, look="scan") for photo in photos])
        assert judge.score(again.reshape(150, -1), test.labels[:150]) > 0.9


@pytest.mark.parametrize(
    ("dataset", "look"), [("digits", "scan"), ("mnist", "mnist"), ("emnist/digits", "mnist")]
)
def test_each_data_set_has_its_look(dataset, look):
    assert look_of(dataset) == look


class TestStrip:
    def row(self, *digits):
        cells = [np.pad(draw_strokes(GLYPHS[d]), 40)[:320, :260] for d in digits]
        return np.hstack(cells)

    def test_the_row_is_as_high_as_mnist_digits_and_starts_at_the_margin(self):
        strip = as_strip(255 - self.row(7, 3), (28, 112))
        top, bottom, left, right = box(strip)
        assert (top, bottom, left) == (4, 23, 4)
        assert 24 < right < 60
        assert strip.shape == (28, 112)

    def test_a_long_row_is_made_to_fit(self):
        top, bottom, left, right = box(as_strip(self.row(*range(10)), (28, 112)))
        assert (left, right) == (4, 107)
        assert bottom - top + 1 < 20
        assert (top + bottom + 1) / 2 == pytest.approx(14, abs=0.6)


class TestRefused:
    @pytest.mark.parametrize("call", [as_digit, lambda image: as_strip(image, (28, 112))])
    @pytest.mark.parametrize("level", [0, 128, 255])
    def test_an_empty_image(self, call, level):
        image = np.full((30, 30, 3), level, np.uint8)
        image[3] += 0 if level else 20
        with pytest.raises(ValueError, match=r"must show a digit .* one colour, .* more contrast"):
            call(image)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((3, 3)), "must be numbers; received|must be integers; received float"),
            (np.zeros((0, 3), np.uint8), "must be uint8 of shape"),
            (np.zeros(3, np.uint8), "must be uint8 of shape"),
            (np.zeros((2, 2, 2, 2), np.uint8), "must be uint8 of shape"),
            (np.zeros((3, 3), np.uint16), "must be uint8 of shape .* received uint16"),
            ("image", "must be integers; received"),
        ],
    )
    def test_no_image(self, image, message):
        with pytest.raises(ValueError, match=f"^as_digit: `image` ({message})"):
            as_digit(image)

    @pytest.mark.parametrize("size", [(0, 28), (28, 1e9), (28, "a")])
    def test_no_size(self, size):
        image = draw_strokes(GLYPHS[0])
        with pytest.raises(ValueError, match=r"^as_digit: `image_size` must be height and width"):
            as_digit(image, size)
        with pytest.raises(ValueError, match=r"^as_strip: `image_size` must be height and width"):
            as_strip(image, size)

    def test_no_look(self):
        with pytest.raises(
            ValueError, match=re.escape("`look` must be one of mnist, scan; received 7")
        ):
            as_digit(draw_strokes(GLYPHS[0]), look=7)
