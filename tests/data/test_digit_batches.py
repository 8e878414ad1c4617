"""The sequences that the pipeline builds, read back from images that tell their own digit."""

import numpy as np
import pytest
import tensorflow as tf
from oracles import assert_all_equal, take
from scipy.stats import binomtest, chisquare

from keras_cnnlstm.data import digit_batches
from keras_cnnlstm.data.augmentation import Augmentation
from keras_cnnlstm.data.datasets import EncodedImages, LabeledImages
from keras_cnnlstm.data.digit_batches import (
    augmented_copy,
    batches,
    digit_sequences,
    digit_strips,
    labeled_images,
)
from keras_cnnlstm.tasks import Digits, Label, RunningSum, Text
from keras_cnnlstm.tasks.trends import Trend

TASK = Trend(4)


def digits_in(frames):
    return frames[:, :, 0, 0, 0].astype(int) // 20


def test_batches_hold_whole_images_and_the_trend_of_their_digits(coded_images):
    frames, targets = take(digit_sequences(coded_images, TASK, batch_size=64, seed=0), 5)
    assert frames.shape == (320, 4, 6, 5, 1)
    assert frames.dtype == np.uint8
    assert (frames == frames[:, :, :1, :1]).all()  # each frame is one of the images
    np.testing.assert_array_equal(targets, TASK.targets(digits_in(frames)))


def test_the_numbers_of_a_batch_do_not_change_from_one_version_to_the_next(coded_images):
    """A run that a former version began must go on with the same data."""
    frames, targets = take(digit_sequences(coded_images, TASK, batch_size=6, seed=7), 1)
    assert targets.tolist() == [4, 3, 4, 4, 1, 4]
    assert frames[:, :, 0, 0, 0].tolist() == [
        [160, 102, 0, 147], [40, 185, 185, 83], [103, 83, 21, 103],
        [103, 104, 0, 80], [60, 100, 160, 166], [42, 21, 20, 120],
    ]  # fmt: skip


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
    natural = np.array(TASK.class_counts()) / 10_000
    expected = 10_000 * (balance / 7 + (1 - balance) * natural)
    assert chisquare(np.bincount(targets, minlength=7), expected).pvalue > 1e-3
    constants = int((targets == 0).sum())
    assert binomtest(constants, 10_000, balance / 7 + (1 - balance) / 1000).pvalue > 1e-3


@pytest.mark.parametrize("affine", [0.0, 1.0])
def test_a_batch_depends_on_seed_and_step_alone(coded_images, affine):
    def data(**changes):
        arguments = {"batch_size": 8, "seed": 3, "augmentation": Augmentation(affine)} | changes
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


@pytest.mark.parametrize("task", [TASK, Digits(5, min_length=2), Label()])
@pytest.mark.parametrize("rows", [None, slice(2, 5)])
@pytest.mark.parametrize("start", [0, 3])
def test_batches_made_together_are_those_made_one_by_one(
    coded_images, monkeypatch, task, rows, start
):
    def parts(together, size=2**20):
        monkeypatch.setattr(digit_batches, "_TOGETHER", together)
        monkeypatch.setattr(digit_batches, "_BYTES", size)
        augmentation = Augmentation(affine=0.7, elastic=0.5, erasing=0.5, probability=0.7)
        options = {"augmentation": augmentation, "rows": rows, "start": start}
        data = batches(coded_images, task, batch_size=7, seed=2, **options).take(9)
        return [tf.nest.flatten(element) for element in data.as_numpy_iterator()]

    alone = parts(1)
    for together in (parts(4), parts(4, size=1), parts(3, size=2 * 7 * task.length * 30)):
        for some, others in zip(alone, together, strict=True):
            assert_all_equal(some, others)


def test_only_small_batches_are_made_together(coded_images, monkeypatch):
    """Of 10 sequences of 4 frames of 30 bytes: as many as fit, and one at least."""
    for size, together in ((1199, 1), (2400, 2), (3599, 2), (2**20, 8)):
        monkeypatch.setattr(digit_batches, "_BYTES", size)
        data = digit_sequences(coded_images, TASK, batch_size=10, seed=0)
        made = next(iter(whole_map(data)))[0]
        assert made.shape == ((together, 10, 4, 6, 5, 1) if together > 1 else (10, 4, 6, 5, 1))


@pytest.mark.parametrize(
    ("num_sequences", "sizes"), [(130, [64, 64, 2]), (128, [64, 64]), (5, [5])]
)
def test_exactly_as_many_sequences_as_asked_for(coded_images, num_sequences, sizes):
    options = {"num_sequences": num_sequences, "augmentation": Augmentation(affine=1.0)}
    data = digit_sequences(coded_images, TASK, batch_size=64, seed=0, **options)
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
    assert graph_bytes(digit_sequences(images, TASK, batch_size=2, seed=0)) < 200_000  # of 1.6 MB


def test_the_table_of_a_long_task_is_in_the_graph_once(coded_images):
    task = Trend(12)
    size = graph_bytes(digit_sequences(coded_images, task, batch_size=2, seed=0))
    assert size < 1.5 * task.completions.nbytes


def graph_bytes(data):
    return whole_map(data)._functions()[0].function.graph.as_graph_def().ByteSize()


def whole_map(data):
    """Down from what takes its elements apart and prefetches them to the map that makes them."""
    while not data._functions():
        data = data._input_dataset
    return data


class TestStepByStep:
    """Tasks with a target for each step, and sequences of unequal length."""

    def test_each_target_is_the_digit_of_its_frame(self, coded_images):
        frames, targets = take(digit_sequences(coded_images, Digits(3), batch_size=50, seed=0), 2)
        assert targets.dtype == np.int64
        np.testing.assert_array_equal(targets, digits_in(frames))

    def test_each_target_is_the_sum_of_the_digits_so_far(self, coded_images):
        data = digit_sequences(coded_images, RunningSum(3), batch_size=50, seed=0)
        frames, targets = take(data, 2)
        assert targets.dtype == np.float32
        for shown, sums in zip(digits_in(frames).tolist(), targets.tolist(), strict=True):
            assert sums == [[sum(shown[: t + 1])] for t in range(3)]

    @pytest.mark.parametrize("kind", [Digits, RunningSum])
    @pytest.mark.parametrize("affine", [0.0, 1.0])
    def test_after_its_end_a_sequence_is_black_and_weighs_nothing(self, coded_images, kind, affine):
        options = {"batch_size": 40, "seed": 5, "augmentation": Augmentation(affine)}
        data = digit_sequences(coded_images, kind(5, min_length=2), **options)
        inputs, targets, weights = next(data.as_numpy_iterator())
        whole, whole_targets = take(digit_sequences(coded_images, kind(5), **options), 1)
        assert sorted(inputs) == ["frames", "lengths"]
        assert (inputs["frames"].dtype, inputs["lengths"].dtype) == (np.uint8, np.int32)
        assert (weights.dtype, targets.dtype) == (np.float32, whole_targets.dtype)
        for b, length in enumerate(inputs["lengths"]):
            np.testing.assert_array_equal(inputs["frames"][b, :length], whole[b, :length])
            np.testing.assert_array_equal(targets[b, :length], whole_targets[b, :length])
            assert not inputs["frames"][b, length:].any()
            assert not targets[b, length:].any()
            assert weights[b].tolist() == [1.0] * length + [0.0] * (5 - length)

    def test_every_length_is_equally_likely(self, coded_images):
        task = Digits(5, min_length=2)
        data = digit_sequences(coded_images, task, batch_size=500, seed=0).take(8)
        lengths = [inputs["lengths"] for inputs, *_ in data.as_numpy_iterator()]
        counts = np.bincount(np.concatenate(lengths))
        assert counts[:2].tolist() == [0, 0]
        assert chisquare(counts[2:]).pvalue > 1e-3
        assert len(counts) == 6
        assert (lengths[0] != lengths[1]).any()

    def test_lengths_depend_on_seed_and_step_alone(self, coded_images):
        def lengths(seed, start):
            task = Digits(9, min_length=1)
            data = digit_sequences(coded_images, task, batch_size=20, seed=seed, start=start)
            return next(data.as_numpy_iterator())[0]["lengths"].tolist()

        assert lengths(0, 3) == lengths(0, 3)
        assert lengths(0, 3) != lengths(1, 3)

    def test_all_parts_of_the_last_batch_are_shorter(self, coded_images):
        data = digit_sequences(
            coded_images, Digits(3, min_length=1), batch_size=4, seed=0, num_sequences=10
        )
        sizes = [
            (len(inputs["frames"]), len(inputs["lengths"]), len(targets), len(weights))
            for inputs, targets, weights in data.as_numpy_iterator()
        ]
        assert sizes == [(4, 4, 4, 4), (4, 4, 4, 4), (2, 2, 2, 2)]


class TestEncoded:
    """Sequences of what an encoder says of the images, here all their pixels."""

    @staticmethod
    def pixels_of(images):
        vectors = images.images.reshape(len(images), -1).astype("float32")
        return EncodedImages(vectors, images.labels)

    def test_are_those_of_the_images(self, coded_images):
        options = {"batch_size": 32, "seed": 3}
        for task in (TASK, RunningSum(3)):
            frames, targets = take(digit_sequences(coded_images, task, **options), 3)
            data = digit_sequences(self.pixels_of(coded_images), task, **options)
            features, same_targets = zip(*data.take(3).as_numpy_iterator(), strict=True)
            features = np.concatenate([f["features"] for f in features])
            assert features.dtype == np.float32
            np.testing.assert_array_equal(features.reshape(frames.shape), frames)
            np.testing.assert_array_equal(np.concatenate(same_targets), targets)

    def test_of_unequal_length(self, coded_images):
        options = {"task": RunningSum(4, min_length=1), "batch_size": 32, "seed": 3}
        expected = next(digit_sequences(coded_images, **options).as_numpy_iterator())
        data = digit_sequences(self.pixels_of(coded_images), **options)
        inputs, *others = next(data.as_numpy_iterator())
        assert inputs.keys() == {"features", "lengths"}
        frames = expected[0]["frames"]
        np.testing.assert_array_equal(inputs["features"].reshape(frames.shape), frames)
        np.testing.assert_array_equal(inputs["lengths"], expected[0]["lengths"])
        assert_all_equal(others, expected[1:])

    def test_are_not_augmented_any_more(self, coded_images):
        for name in ("affine", "elastic", "erasing"):
            options = {"batch_size": 1, "seed": 0, "augmentation": Augmentation(**{name: 0.5})}
            with pytest.raises(ValueError, match="must have no strength for EncodedImages; rec"):
                digit_sequences(self.pixels_of(coded_images), TASK, **options)


class TestDistortedCopies:
    def test_each_image_is_in_its_place(self, monkeypatch):
        monkeypatch.setattr(digit_batches, "_BLOCK", 16)  # two whole ones and a rest
        rng = np.random.default_rng(0)
        coarse = rng.integers(0, 256, (40, 6, 6, 1), dtype="uint8")
        images = LabeledImages(coarse.repeat(4, axis=1).repeat(4, axis=2), np.zeros(40, int))
        copy = augmented_copy(images, 2, seed=5, augmentation=Augmentation(affine=0.5))
        assert copy.shape == images.images.shape
        assert copy.dtype == np.uint8
        flat = [x.reshape(40, -1).astype(float) for x in (copy, images.images)]
        likeness = np.corrcoef(*flat)[:40, 40:]  # of each copy to each image
        np.testing.assert_array_equal(likeness.argmax(axis=1), np.arange(40))
        assert (copy != images.images).any(axis=(1, 2, 3)).all()

    def test_each_number_and_each_seed_has_its_own(self, monkeypatch):
        monkeypatch.setattr(digit_batches, "_BLOCK", 2)
        images = LabeledImages(np.full((3, 12, 12, 1), 200, np.uint8), np.zeros(3, int))
        asked = [(0, 0), (1, 0), (2, 0), (0, 1)]  # number, seed
        options = {"augmentation": Augmentation(affine=1.0)}
        copies = [augmented_copy(images, number, seed=seed, **options) for number, seed in asked]
        for copy, (number, seed) in zip(copies, asked, strict=True):
            again = augmented_copy(images, number, seed=seed, **options)
            np.testing.assert_array_equal(again, copy)
        everything = np.concatenate(copies).reshape(12, -1)
        assert len(np.unique(everything, axis=0)) == 12

    def test_without_strength_they_are_the_images(self, coded_images):
        for augmentation in (Augmentation(), Augmentation(affine=1.0, probability=0)):
            copy = augmented_copy(coded_images, 0, seed=0, augmentation=augmentation)
            np.testing.assert_array_equal(copy, coded_images.images)


class TestStrips:
    def images(self):
        """Three images of noise for each digit, none like another, 4x6 pixels in colour."""
        noise = np.random.default_rng(0).integers(0, 256, (30, 4, 6, 3), np.uint8)
        return LabeledImages(noise, np.arange(30) % 10)

    @pytest.mark.parametrize("affine", [0.0, 1.0])
    def test_a_strip_is_the_digits_from_left_to_right(self, affine):
        options = {"batch_size": 7, "seed": 0, "num_sequences": 17, "start": 1}
        options["augmentation"] = Augmentation(affine)
        strips, targets = take(digit_strips(self.images(), Text(3), **options), 2)
        frames, digits = take(digit_sequences(self.images(), Digits(3), **options), 2)
        assert strips.shape == (10, 4, 18, 3)
        assert strips.dtype == np.uint8
        expected = [np.concatenate([*sequence], axis=1) for sequence in frames]
        np.testing.assert_array_equal(strips, expected)
        np.testing.assert_array_equal(targets, digits + 1)

    def test_shorter_texts_end_in_black_and_in_blanks(self):
        options = {"batch_size": 30, "seed": 0}
        strips, targets = take(digit_strips(self.images(), Text(4, min_length=1), **options), 1)
        whole, digits = take(digit_sequences(self.images(), Digits(4), **options), 1)
        lengths = (targets > 0).sum(axis=1)
        assert set(lengths) == {1, 2, 3, 4}
        for b, length in enumerate(lengths):
            assert targets[b].tolist() == [*digits[b, :length] + 1] + [0] * (4 - length)
            expected = np.concatenate([*whole[b, :length]], axis=1)
            np.testing.assert_array_equal(strips[b, :, : 6 * length], expected)
            assert not strips[b, :, 6 * length :].any()


class TestSingleImages:
    def numbers(self, data):
        """Which image each is: in `coded_images` the value of all its pixels."""
        frames, targets = zip(*data.as_numpy_iterator(), strict=True)
        frames, targets = np.concatenate(frames), np.concatenate(targets)
        assert (frames == frames[:, :1, :1]).all()
        assert (frames.dtype, targets.dtype) == (np.uint8, np.int64)
        np.testing.assert_array_equal(frames[:, 0, 0, 0] // 20, targets)  # pairs stay together
        return frames[:, 0, 0, 0].tolist()

    def test_without_a_seed_each_image_once_in_order(self, coded_images):
        own = coded_images.images[:, 0, 0, 0].tolist()
        data = labeled_images(coded_images, batch_size=16)
        assert self.numbers(data) == own
        assert [len(targets) for _, targets in data.as_numpy_iterator()] == [16, 16, 16, 7]
        assert data.cardinality() == 4
        assert self.numbers(labeled_images(coded_images, batch_size=16, start=2)) == own[32:]
        assert self.numbers(labeled_images(coded_images, batch_size=55)) == own

    @pytest.mark.parametrize("batch_size", [16, 55, 100])
    def test_with_a_seed_each_image_once_before_any_comes_again(self, coded_images, batch_size):
        own = coded_images.images[:, 0, 0, 0].tolist()
        data = labeled_images(coded_images, batch_size=batch_size, seed=3)
        assert data.cardinality() == -1  # tf.data's sign for infinite
        numbers = self.numbers(data.take(-(-220 // batch_size)))
        epochs = [numbers[55 * i : 55 * (i + 1)] for i in range(4)]
        assert [sorted(e) for e in epochs] == [sorted(own)] * 4
        assert len({tuple(e) for e in [*epochs, own]}) == 5  # each in an order of its own
        other = self.numbers(labeled_images(coded_images, batch_size=55, seed=4).take(1))
        assert other not in epochs

    def test_the_order_does_not_depend_on_the_batch_size_and_starts_anywhere(self, coded_images):
        numbers = self.numbers(labeled_images(coded_images, batch_size=10, seed=-1).take(12))
        assert self.numbers(labeled_images(coded_images, batch_size=60, seed=-1).take(2)) == numbers
        later = labeled_images(coded_images, batch_size=10, seed=-1, start=5).take(7)
        assert self.numbers(later) == numbers[50:]

    @pytest.mark.parametrize("count", [1, 2, 55, 1000])
    def test_every_number_of_images_is_permuted(self, count):
        images = LabeledImages(np.zeros((count, 1, 1, 1), np.uint8), np.arange(count))
        (_, targets), *_ = labeled_images(images, batch_size=count, seed=0).take(1)
        assert sorted(targets.numpy().tolist()) == list(range(count))

    def test_the_order_is_as_irregular_as_chance(self):
        """The permutation is a block cipher of a few rounds; with too few it shows a pattern."""
        import tensorflow as tf

        count = 55_000  # as many as MNIST has to train on
        places = tf.range(count, dtype=tf.int64)
        order = digit_batches._shuffled(places, count, 0).numpy()
        np.testing.assert_array_equal(np.sort(order), np.arange(count))
        next_epoch = digit_batches._shuffled(places + count, count, 0).numpy()
        other_seed = digit_batches._shuffled(places, count, 1).numpy()
        for other in (places.numpy(), next_epoch, other_seed, np.roll(order, 1), np.roll(order, 2)):
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.02  # 4.7 standard deviations
        # Images from all tenths in each batch of 64, as unevenly as chance has it: chi-square of
        # 9 degrees of freedom in each batch.
        batches_of_64 = order[: 859 * 64].reshape(859, 64) // 5500
        tenths = np.array([np.bincount(b, minlength=10) for b in batches_of_64])
        assert (tenths > 0).sum(axis=1).min() >= 8
        freedoms = 859 * 9
        unevenness = ((tenths - 6.4) ** 2 / 6.4).sum()
        assert abs(unevenness - freedoms) < 5 * np.sqrt(2 * freedoms)

    def test_each_image_is_augmented_on_its_own(self, coded_images):
        plain, found = (
            take(labeled_images(coded_images, batch_size=20, seed=0, augmentation=a), 3)
            for a in (Augmentation(), Augmentation(affine=1.0))
        )
        np.testing.assert_array_equal(found[1], plain[1])
        np.testing.assert_array_equal(found[0][:, 3, 2], plain[0][:, 3, 2])
        moved = (found[0] != plain[0]).any(axis=(1, 2, 3))
        assert moved.mean() > 0.8
        share = found[0][..., 0] / np.maximum(plain[0][..., 0], 1)
        assert len(np.unique(share[moved].round(2), axis=0)) > 20


@pytest.mark.parametrize(
    ("task", "function"),
    [
        (Trend(3), digit_sequences),
        (Digits(3, min_length=2), digit_sequences),
        (RunningSum(3), digit_sequences),
        (Text(3), digit_strips),
    ],
)
def test_batches_of_any_task(coded_images, task, function):
    import tensorflow as tf

    options = {"batch_size": 5, "seed": 1, "num_sequences": 8, "start": 1}
    found = list(batches(coded_images, task, **options).as_numpy_iterator())
    expected = list(function(coded_images, task, **options).as_numpy_iterator())
    assert len(found) == 1
    tf.nest.map_structure(np.testing.assert_array_equal, found, expected)


def test_batches_of_single_images(coded_images):
    found, expected = (
        take(data, 4)
        for data in (
            batches(coded_images, Label(), batch_size=16, seed=1, balance=None),
            labeled_images(coded_images, batch_size=16, seed=1),
        )
    )
    np.testing.assert_array_equal(found[0], expected[0])
    scored = batches(coded_images, Label(), batch_size=16, seed=1, num_sequences=40)
    np.testing.assert_array_equal(take(scored, 9)[0], coded_images.images)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "`batch_size` must be an integer from 1"),
        ({"balance": 1.5}, "`balance` must be 0 to 1; received 1.5"),
        ({"num_sequences": 0}, "`num_sequences` must be 1 or more, or None; received 0"),
        ({"start": -1}, "`start` must be an integer from 0"),
        ({"augmentation": 1.0}, "`augmentation` must be an Augmentation.*; received 1"),
    ],
)
def test_bad_arguments(coded_images, changes, message):
    with pytest.raises(ValueError, match=message):
        digit_sequences(coded_images, TASK, **({"batch_size": 4, "seed": 0} | changes))


def test_a_digit_without_an_image(coded_images):
    with pytest.raises(ValueError, match=r"each digit from 0 to 11; received none of \[10, 11\]"):
        digit_sequences(coded_images, Trend(4, num_digits=12), batch_size=4, seed=0)


def test_nothing_to_balance(coded_images):
    with pytest.raises(ValueError, match=r"Digits\.draw: `balance` must be 0"):
        digit_sequences(coded_images, Digits(4), batch_size=4, seed=0, balance=0.5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "labeled_images: `batch_size` must be an integer from 1"),
        ({"start": -1}, "labeled_images: `start` must be an integer from 0"),
        ({"augmentation": Augmentation(1.0)}, "labeled_images: `augmentation` needs a `seed`"),
    ],
)
def test_bad_arguments_of_single_images(coded_images, changes, message):
    with pytest.raises(ValueError, match=message):
        labeled_images(coded_images, **({"batch_size": 4} | changes))
