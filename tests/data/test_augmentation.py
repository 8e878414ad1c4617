"""Augmentation against SciPy and by hand; and which frames of the pipeline they change."""

import numpy as np
import pytest
import tensorflow as tf
from oracles import take
from scipy import ndimage
from scipy.interpolate import BSpline
from scipy.stats import binomtest

from keras_cnnlstm.data import augmentation
from keras_cnnlstm.data.augmentation import (
    Augmentation,
    affine_transform,
    elastic_transform,
    random_erasing,
)
from keras_cnnlstm.data.datasets import LabeledImages
from keras_cnnlstm.data.digit_batches import digit_sequences, labeled_images
from keras_cnnlstm.tasks.trends import Trend

TASK = Trend(4)


def centre_of_mass(image):
    image = np.squeeze(image, -1)
    y, x = np.indices(image.shape)
    return np.array([(y * image).sum(), (x * image).sum()]) / image.sum()


class TestAugment:
    def smooth_images(self):
        """Two blurred blobs, off the centre, as every digit."""
        y, x = np.mgrid[:28, :24]
        blob = 200 * np.exp(-((y - 9) ** 2 + (x - 14) ** 2) / 20)
        blob += 150 * np.exp(-((y - 19) ** 2 + (x - 8) ** 2) / 12)
        return LabeledImages(
            np.tile(blob.astype(np.uint8)[None, ..., None], (10, 1, 1, 1)), range(10)
        )

    def test_each_frame_is_moved_on_its_own_and_a_little(self):
        images = self.smooth_images()
        plain = images.images[0].astype(float)
        data = digit_sequences(
            images, TASK, batch_size=100, seed=0, augmentation=Augmentation(affine=1.0)
        )
        frames = take(data, 1)[0].reshape(400, 28, 24, 1).astype(float)
        assert len(np.unique(frames, axis=0)) == 400
        likeness = [np.corrcoef(f.ravel(), plain.ravel())[0, 1] for f in frames]
        assert min(likeness) > 0.5
        assert np.mean(likeness) > 0.85
        # Moved both ways alike: on average the mass stays where it was, give or take a fifth pixel.
        assert abs(centre_of_mass(frames.mean(0)) - centre_of_mass(plain)).max() < 0.2

    def test_digits_and_targets_are_those_of_the_plain_sequences(self, coded_images):
        plain, moved = (
            take(
                digit_sequences(
                    coded_images, TASK, batch_size=64, seed=0, augmentation=Augmentation(affine=a)
                ),
                2,
            )
            for a in (False, True)
        )
        np.testing.assert_array_equal(moved[1], plain[1])
        np.testing.assert_array_equal(moved[0][:, :, 3, 2], plain[0][:, :, 3, 2])

    @pytest.mark.parametrize(
        "draw", [*np.eye(6)[:2], (0, 0, 1, -1, 0, 0), (-1, 0.5, 0.3, 0.9, -0.4, 1)]
    )
    def test_equals_scipy(self, draw):
        image = self.smooth_images().images[0]
        maps = augmentation._affine_maps(np.array([draw], "float32"), 28, 24)
        a, b, c, d, e, f = maps.numpy()[0].astype(float)
        found = affine_transform(image[None], np.array([draw], "float32"))
        by_scipy = ndimage.affine_transform(
            image[..., 0].astype(float),
            [[e, d], [b, a]],
            offset=[f, c],
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(found[0, ..., 0], by_scipy, atol=0.55)  # rounded

    def test_one_map_moves_all_images(self):
        images = np.random.default_rng(0).integers(0, 256, (3, 9, 12, 3), np.uint8)
        draw = np.array([[0.3, -0.8, 0.2, 0.5, -1, 0.4]], "float32")
        expected = affine_transform(images, np.tile(draw, (3, 1)))
        np.testing.assert_array_equal(affine_transform(images, draw), expected)
        assert np.any(expected != images)

    def test_compiled_or_not_all_pixels_are_the_same(self):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (20, 28, 24, 2), np.uint8)
        maps = rng.integers(-70_000, 70_000, (20, 6)).astype(np.int32)
        pulls = rng.integers(-300_000, 300_000, (20, 2, 28, 24)).astype(np.int32)
        arguments = [tf.constant(x) for x in (images, maps, pulls)]
        expected = augmentation._interpolated.python_function(*arguments)
        np.testing.assert_array_equal(augmentation._fetched(*arguments), expected)
        assert 5 < np.mean(expected) < 250

    def test_white_stays_white(self):
        images = np.full((1, 9, 9, 1), 255, np.uint8)
        turned = affine_transform(images, np.array([[1, 1, -1, -1, 0, 0]], "float32"))
        assert np.all(turned[0, 3:6, 3:6] == 255)  # no sum of weights is too large for its type

    def test_the_maps_by_hand(self):
        def maps(*draw):
            return augmentation._affine_maps(tf.constant([draw], tf.float32), 28, 24).numpy()[0]

        np.testing.assert_allclose(maps(0, 0, 0, 0, 0, 0), [1, 0, 0, 0, 1, 0], atol=1e-6)
        shifted = maps(0, 0, 0, 0, 1, -1)
        np.testing.assert_allclose(shifted[[2, 5]], [0.08 * 24, -0.08 * 28], rtol=1e-5)
        turned = maps(1, 0, 0, 0, 0, 0)
        np.testing.assert_allclose(turned[0], np.cos(np.radians(12)), rtol=1e-5)
        np.testing.assert_allclose(turned[3], np.sin(np.radians(12)), rtol=1e-5)
        sheared, zoomed = maps(0, 1, 0, 0, 0, 0), maps(0, 0, 1, -1, 0, 0)
        np.testing.assert_allclose(sheared[[0, 1, 3, 4]], [1, 0.15, 0, 1], atol=1e-6)
        np.testing.assert_allclose(zoomed[[0, 1, 3, 4]], [1.12, 0, 0, 0.88], atol=1e-6)
        composed = (  # shear, then turn, then zoom
            np.diag(zoomed[[0, 4]]) @ turned[[[0, 1], [3, 4]]] @ sheared[[[0, 1], [3, 4]]]
        )
        np.testing.assert_allclose(maps(1, 1, 1, -1, 0, 0)[[[0, 1], [3, 4]]], composed, rtol=1e-5)
        for draw in np.eye(6)[:4]:  # nothing but a shift moves the centre
            a, b, c, d, e, f = maps(*draw)
            centre = 11.5, 13.5
            moved = a * 11.5 + b * 13.5 + c, d * 11.5 + e * 13.5 + f
            np.testing.assert_allclose(moved, centre, rtol=1e-5)


class TestElastic:
    """`elastic_transform` against SciPy's B-splines and its interpolation."""

    def displaced(self, image, pulls):
        """The image where each pixel is fetched from where splines over the knots say."""
        knots = pulls.shape[-1]
        spline = BSpline(np.arange(-2, knots + 2), np.eye(knots), 3)  # one bump around each knot
        down, right = (spline(np.linspace(1, knots - 2, side)) for side in image.shape[:2])
        moves = np.einsum("yk,dkl,xl->dyx", down, pulls.astype(float), right) * 0.12
        y, x = np.indices(image.shape[:2]) + moves * np.array(image.shape[:2])[:, None, None]
        return np.stack(
            [
                ndimage.map_coordinates(
                    image[..., c].astype(float), (y, x), order=1, mode="grid-constant"
                )
                for c in range(image.shape[-1])
            ],
            axis=-1,
        )

    def test_equals_scipy(self):
        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (3, 28, 24, 2), np.uint8)
        pulls = rng.uniform(-1.5, 1.5, (3, 2, 7, 7)).astype("float32")
        found = np.asarray(elastic_transform(images, pulls)).astype(float)
        for image, pull, answer in zip(images, pulls, found, strict=True):
            expected = self.displaced(image, pull)
            assert np.abs(expected - image).mean() > 10
            np.testing.assert_allclose(answer, expected, atol=0.76)  # and its weights rounded

    def test_without_a_pull_nothing_moves_and_an_equal_pull_shifts_all(self):
        images = np.random.default_rng(0).integers(0, 256, (2, 25, 25, 1), np.uint8)
        still = np.zeros((2, 2, 7, 7), "float32")
        np.testing.assert_array_equal(elastic_transform(images, still), images)
        still[:, 0] = 1 / 3  # of 12 % of 25 pixels: each is fetched from the one below
        expected = np.pad(images[:, 1:], ((0, 0), (0, 1), (0, 0), (0, 0)))
        np.testing.assert_allclose(elastic_transform(images, still), expected, atol=1)

    def test_an_affine_map_on_top_is_interpolated_once(self):
        """Of an image that is a plane every interpolation is exact, however often."""
        y, x = np.indices((28, 24))
        image = (60 + 3 * y + 2 * x).astype(np.uint8)[None, ..., None]
        draws = np.array([[0.5, -0.3, 0.4, -0.2, 0.3, -0.5]], "float32")
        still = np.zeros((1, 2, 7, 7), "float32")
        inside = np.s_[:, 6:-6, 6:-6]
        found, expected = (
            np.asarray(elastic_transform(image, still, draws)),
            np.asarray(affine_transform(image, draws)),
        )
        np.testing.assert_allclose(found[inside], expected[inside].astype(float), atol=1)
        pulls = np.full((1, 2, 7, 7), 0.25, "float32")  # 3 % of the sides, everywhere
        both = np.asarray(elastic_transform(image, pulls, draws)).astype(float)
        shifted = found[inside] + 3 * 0.03 * 28 + 2 * 0.03 * 24
        np.testing.assert_allclose(both[inside], shifted, atol=1.1)

    def test_far_beyond_the_border_all_is_black(self):
        images = np.full((1, 8, 8, 1), 200, np.uint8)
        assert not np.any(elastic_transform(images, np.full((1, 2, 7, 7), 50, "float32")))

    def test_how_far_pixels_move(self):
        draws = np.random.default_rng(0).uniform(-1, 1, (500, 7, 7))
        spline = augmentation._spline(28, 7)
        np.testing.assert_allclose(spline.sum(1), 1, atol=1e-6)
        moves = np.einsum("yk,nkl,xl->nyx", spline, draws, spline) * 0.12
        assert np.sqrt((moves**2).mean()) == pytest.approx(0.035, abs=0.002)

    @pytest.mark.parametrize("affine", [0.0, 1.0])
    def test_each_frame_is_bent_on_its_own(self, coded_images, affine):
        options = {"batch_size": 20, "seed": 3}
        each = [Augmentation(affine, elastic) for elastic in (0.0, 1.0, 0.1)]
        plain, bent_ones, weaker = (
            take(digit_sequences(coded_images, TASK, augmentation=a, **options), 2) for a in each
        )
        np.testing.assert_array_equal(bent_ones[1], plain[1])
        moved = np.abs(bent_ones[0].astype(float) - plain[0]).mean((2, 3, 4))
        assert (moved > 0).mean() > 0.9
        assert np.abs(weaker[0].astype(float) - plain[0]).mean() < moved.mean() / 2

    def test_a_share_of_the_frames_stays_as_it_is(self, coded_images):
        options = {"batch_size": 100, "seed": 3}
        plain = take(digit_sequences(coded_images, TASK, batch_size=100, seed=3), 3)[0]
        for elastic in (0.0, 1.0):
            each = [Augmentation(1.0, elastic, probability=share) for share in (1, 0.7)]
            whole, part = (
                take(digit_sequences(coded_images, TASK, augmentation=a, **options), 3)[0]
                for a in each
            )
            same, kept = ((part == other).all((2, 3, 4)) for other in (whole, plain))
            assert (same | kept).all()
            told_apart = (whole != plain).any((2, 3, 4))  # some images are black
            count = int((kept & told_apart).sum())
            assert binomtest(count, int(told_apart.sum()), 0.3).pvalue > 1e-3

    def test_depends_on_seed_and_step_alone(self, coded_images):
        options = {"batch_size": 8, "seed": 3, "augmentation": Augmentation(elastic=1.0)}
        whole = take(digit_sequences(coded_images, TASK, **options), 3)[0]
        rows = digit_sequences(coded_images, TASK, start=2, rows=slice(2, 5), **options)
        np.testing.assert_array_equal(take(rows, 1)[0], whole[18:21])
        images = {**options, "batch_size": 4}
        single = take(labeled_images(coded_images, **images), 2)[0]
        later = take(labeled_images(coded_images, start=1, **images), 1)[0]
        np.testing.assert_array_equal(later, single[4:])
        assert np.any(single != take(labeled_images(coded_images, batch_size=4, seed=3), 2)[0])


class TestErasing:
    """`random_erasing` against a loop over pixels, and where the pipeline puts it."""

    @pytest.mark.parametrize("strength", [1.0, 0.4, 3.0])
    def test_equals_a_loop_over_the_pixels(self, strength):
        rng = np.random.default_rng(0)
        images = rng.integers(1, 256, (5, 28, 20, 2), np.uint8)
        draws = rng.uniform(-1, 1, (5, 3, 4)).astype("float32")
        expected = images.copy()
        for image, rectangles in zip(expected, draws.astype(float), strict=True):
            for high, wide, down, right in (rectangles + 1) / 2:
                for y in range(28):
                    for x in range(20):
                        beside = abs(y + 0.5 - 28 * down) / 28 < 0.3 * strength * high / 2
                        if beside and abs(x + 0.5 - 20 * right) / 20 < 0.3 * strength * wide / 2:
                            image[y, x] = 0
        assert 0 < np.mean(expected == 0) < 0.9
        np.testing.assert_array_equal(random_erasing(images, draws, strength), expected)

    def test_one_rectangle_by_hand(self):
        images = np.full((1, 10, 20, 1), 7, np.uint8)
        draws = np.array([[[0.4, -0.6, 0, -1]]], "float32")  # 2.1 high, 1.2 wide, at the left edge
        expected = images.copy()
        expected[0, 4:6, 0] = 0
        np.testing.assert_array_equal(random_erasing(images, draws), expected)

    def test_how_much_is_lost(self):
        """Half of 30 % of each side, less what lies beyond the edges: 2 % for a rectangle."""
        draws = np.random.default_rng(0).uniform(-1, 1, (3000, 1, 4)).astype("float32")
        lost = np.asarray(random_erasing(np.ones((3000, 28, 28, 1), np.uint8), draws) == 0)
        seen = lost.mean((1, 2, 3))
        # A side of L = 0.3 u, u in [0, 1), about a place in [0, 1), lies within by L - L**2 / 4.
        side = 0.3 / 2 - 0.3**2 / 3 / 4
        assert seen.mean() == pytest.approx(side**2, rel=0.1)
        assert lost.any(0).all()

    @pytest.mark.parametrize(
        "others", [{}, {"affine": 0.7}, {"affine": 1.0, "elastic": 1.0, "probability": 0.6}]
    )
    def test_gaps_are_black_and_sharp_and_all_else_as_without(self, coded_images, others):
        options = {"batch_size": 30, "seed": 3}
        (whole, target), (gaps, same) = (
            take(digit_sequences(coded_images, TASK, augmentation=a, **options), 2)
            for a in (Augmentation(**others), Augmentation(**others, erasing=3.0))
        )
        np.testing.assert_array_equal(same, target)
        assert np.all((gaps == whole) | (gaps == 0))
        bright = whole.min((2, 3, 4)) > 0 if not others else whole.mean((2, 3, 4)) > 20
        hit = (gaps != whole).any((2, 3, 4))[bright].mean()
        assert hit > (0.9 if "probability" not in others else 0.4)
        if "probability" in others:
            plain = take(digit_sequences(coded_images, TASK, batch_size=30, seed=3), 2)[0]
            kept = (gaps == plain).all((2, 3, 4))[bright].mean()
            assert 0.3 < kept < 0.65

    def test_depends_on_seed_and_step_alone(self, coded_images):
        options = {"batch_size": 8, "seed": 3, "augmentation": Augmentation(erasing=3.0)}
        whole = take(digit_sequences(coded_images, TASK, **options), 3)[0]
        rows = digit_sequences(coded_images, TASK, start=2, rows=slice(2, 5), **options)
        np.testing.assert_array_equal(take(rows, 1)[0], whole[18:21])
        single = take(labeled_images(coded_images, **options), 2)[0]
        later = take(labeled_images(coded_images, start=1, **options), 1)[0]
        np.testing.assert_array_equal(later, single[8:])
        other = take(digit_sequences(coded_images, TASK, **{**options, "seed": 4}), 3)[0]
        assert np.any((other == 0) != (whole == 0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"affine": np.nan}, "`affine` must be 0 to 3; received nan"),
        ({"elastic": 4}, "`elastic` must be 0 to 3; received 4"),
        ({"erasing": -1}, "`erasing` must be 0 to 3; received -1"),
        ({"probability": 1.5}, "`probability` must be 0 to 1; received 1.5"),
    ],
)
def test_strengths_out_of_range(options, message):
    with pytest.raises(ValueError, match=f"Augmentation: {message}"):
        Augmentation(**options)
