"""Fixtures that several test modules share."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.digits import LabeledImages


@pytest.fixture(scope="session")
def coded_images():
    """55 images of 6x5 pixels, each telling its digit and its index by its pixels' values.

    `digit + 1` images of each digit: all pixels are `20 * digit + k`, k = 0, 1, ..., shuffled.
    """
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), np.arange(1, 11)))
    seen = np.zeros(10, int)
    images = np.empty((55, 6, 5, 1), np.uint8)
    for i, label in enumerate(labels):
        images[i] = 20 * label + seen[label]
        seen[label] += 1
    return LabeledImages(images, labels)


@pytest.fixture
def policy(request):
    """The dtype policy that the test asks for by `indirect=True`, for as long as it runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)
