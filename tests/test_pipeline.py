"""The sequences that the pipeline builds, read back from images that tell their own digit."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform
from scipy.stats import binomtest, chisquare

from keras_cnnlstm import pipeline
from keras_cnnlstm.digits import LabeledImages
from keras_cnnlstm.pipeline import digit_sequences
from keras_cnnlstm.tasks import Trend

TASK = Trend(4)


def take(data, batches):
    frames, targets = zip(*data.take(batches).as_numpy_iterator(), strict=True)
    return np.concatenate(frames), np.concatenate(targets)


def digits_in(frames):
    return frames[:, :, 0, 0, 0].astype(int) // 20


def test_batches_hold_whole_images_and_the_trend_of_their_digits(coded_images):
    frames, targets = take(digit_sequences(coded_images, TASK, batch_size=64, seed=0), 5)
    assert frames.shape == (320, 4, 6, 5, 1)
    assert frames.dtype == np.uint8
    assert (frames == frames[:, :, :1, :1]).all()  # each frame is one of the images
    np.testing.assert_array_equal(targets, TASK.targets(digits_in(frames)))


def test_every_image_of_a_digit_is_equally_likely(coded_images):
    frames, _ = take(digit_sequences(coded_images, TASK, batch_size=500, seed=1, balance=0), 20)
    counts = np.bincount(frames[:, :, 0, 0, 0].ravel(), minlength=200).reshape(10, 20)
    for digit, of_digit in enumerate(counts):
        assert (of_digit[digit + 1 :] == 0).all()
        assert digit == 0 or chisquare(of_digit[: digit + 1]).pvalue > 1e-4
    assert chisquare(counts.sum(axis=1)).pvalue > 1e-4


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balance_is_the_share_of_uniform_classes(coded_images, balance):
    data = digit_sequences(coded_images, TASK, batch_size=500, seed=2, balance=balance)
    _, targets = take(data, 20)
    natural = np.array(TASK.counts()) / 10_000
    expected = 10_000 * (balance / 7 + (1 - balance) * natural)
    assert chisquare(np.bincount(targets, minlength=7), expected).pvalue > 1e-3
    constants = int((targets == 0).sum())
    assert binomtest(constants, 10_000, balance / 7 + (1 - balance) / 1000).pvalue > 1e-3


@pytest.mark.parametrize("augment", [False, True])
def test_a_batch_depends_on_seed_and_step_alone(coded_images, augment):
    def data(**changes):
        arguments = {"batch_size": 8, "seed": 3, "augment": augment} | changes
        return digit_sequences(coded_images, TASK, **arguments)

    frames, targets = take(data(), 6)
    again, _ = take(data(), 6)
    np.testing.assert_array_equal(again, frames)
    later, later_targets = take(data(start=4), 2)
    np.testing.assert_array_equal(later, frames[32:])
    np.testing.assert_array_equal(later_targets, targets[32:])
    bounded, _ = take(data(num_sequences=48), 6)
    np.testing.assert_array_equal(bounded, frames)
    assert (take(data(seed=4), 1)[0] != frames[:8]).any()
    assert (frames[8:16] != frames[:8]).any()


@pytest.mark.parametrize(
    ("num_sequences", "sizes"), [(130, [64, 64, 2]), (128, [64, 64]), (5, [5])]
)
def test_exactly_as_many_sequences_as_asked_for(coded_images, num_sequences, sizes):
    data = digit_sequences(
        coded_images, TASK, batch_size=64, seed=0, num_sequences=num_sequences, augment=True
    )
    assert data.cardinality() == len(sizes)
    assert [(len(f), len(t)) for f, t in data.as_numpy_iterator()] == [(n, n) for n in sizes]


def test_endless_without_a_number(coded_images):
    data = digit_sequences(coded_images, TASK, batch_size=2, seed=0)
    assert data.cardinality() == -1  # tf.data's sign for infinite


def test_long_sequences(coded_images):
    task = Trend(32)
    frames, targets = take(digit_sequences(coded_images, task, batch_size=200, seed=0), 1)
    np.testing.assert_array_equal(targets, task.targets(digits_in(frames)))
    assert len(np.unique(targets)) > 30


def test_the_images_are_not_copied_into_the_graph():
    images = LabeledImages(np.zeros((1000, 40, 40, 1), np.uint8), np.arange(1000) % 10)
    data = digit_sequences(images, TASK, batch_size=2, seed=0)
    while not data._functions():  # down from prefetch to the map
        data = data._input_dataset
    graph = data._functions()[0].function.graph
    assert graph.as_graph_def().ByteSize() < 200_000  # the images are 1.6 MB


class TestAugment:
    def smooth_images(self):
        """Two blurred blobs, off the centre, as every digit."""
        y, x = np.mgrid[:28, :24]
        blob = 200 * np.exp(-((y - 9) ** 2 + (x - 14) ** 2) / 20)
        blob += 150 * np.exp(-((y - 19) ** 2 + (x - 8) ** 2) / 12)
        return LabeledImages(
            np.tile(blob.astype(np.uint8)[None, ..., None], (10, 1, 1, 1)), range(10)
        )

    def test_each_frame_is_distorted_by_itself_and_a_little(self):
        images = self.smooth_images()
        plain = images.images[0].astype(float)
        data = digit_sequences(images, TASK, batch_size=100, seed=0, augment=True)
        frames = take(data, 1)[0].reshape(400, 28, 24, 1).astype(float)
        assert len(np.unique(frames, axis=0)) == 400
        likeness = [np.corrcoef(f.ravel(), plain.ravel())[0, 1] for f in frames]
        assert min(likeness) > 0.5
        assert np.mean(likeness) > 0.85
        # Moved both ways alike: on average the mass stays where it was, give or take a fifth pixel.
        assert abs(centre_of_mass(frames.mean(0)) - centre_of_mass(plain)).max() < 0.2

    def test_digits_and_targets_are_those_of_the_plain_sequences(self, coded_images):
        plain, distorted = (
            take(digit_sequences(coded_images, TASK, batch_size=64, seed=0, augment=a), 2)
            for a in (False, True)
        )
        np.testing.assert_array_equal(distorted[1], plain[1])
        np.testing.assert_array_equal(distorted[0][:, :, 3, 2], plain[0][:, :, 3, 2])

    @pytest.mark.parametrize(
        "draw", [*np.eye(6)[:2], (0, 0, 1, -1, 0, 0), (-1, 0.5, 0.3, 0.9, -0.4, 1)]
    )
    def test_equals_scipy(self, draw):
        import tensorflow as tf

        image = self.smooth_images().images[0]
        maps = pipeline._affine_maps(tf.constant([draw], tf.float32), 28, 24)
        a, b, c, d, e, f, *perspective = maps.numpy()[0].astype(float)
        assert perspective == [0, 0]
        by_tensorflow = tf.raw_ops.ImageProjectiveTransformV3(
            images=tf.constant(image[None], tf.float32), transforms=maps, output_shape=(28, 24),
            fill_value=0.0, interpolation="BILINEAR", fill_mode="CONSTANT",
        )  # fmt: skip
        by_scipy = affine_transform(
            image[..., 0].astype(float),
            [[e, d], [b, a]],
            offset=[f, c],
            order=1,
            mode="grid-constant",
        )
        np.testing.assert_allclose(by_tensorflow[0, ..., 0], by_scipy, atol=0.05)

    def test_the_maps_by_hand(self):
        import tensorflow as tf

        def maps(*draw):
            return pipeline._affine_maps(tf.constant([draw], tf.float32), 28, 24).numpy()[0]

        np.testing.assert_allclose(maps(0, 0, 0, 0, 0, 0), [1, 0, 0, 0, 1, 0, 0, 0], atol=1e-6)
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
            a, b, c, d, e, f, *_ = maps(*draw)
            centre = 11.5, 13.5
            moved = a * 11.5 + b * 13.5 + c, d * 11.5 + e * 13.5 + f
            np.testing.assert_allclose(moved, centre, rtol=1e-5)


def centre_of_mass(image):
    image = np.squeeze(image, -1)
    y, x = np.indices(image.shape)
    return np.array([(y * image).sum(), (x * image).sum()]) / image.sum()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be 1 or more; received 0"),
        ({"balance": 1.5}, "`balance` must be 0 to 1; received 1.5"),
        ({"num_sequences": 0}, "`num_sequences` must be 1 or more, or None; received 0"),
        ({"start": -1}, "`start` must be 0 or more; received -1"),
    ],
)
def test_bad_arguments(coded_images, changes, message):
    with pytest.raises(ValueError, match=message):
        digit_sequences(coded_images, TASK, **({"batch_size": 4, "seed": 0} | changes))


def test_a_digit_without_an_image(coded_images):
    with pytest.raises(ValueError, match=r"each digit from 0 to 11; received none of \[10, 11\]"):
        digit_sequences(coded_images, Trend(4, num_digits=12), batch_size=4, seed=0)
