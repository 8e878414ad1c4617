"""What is scored has at least one sequence."""

import numpy as np
import pytest
import tensorflow as tf

from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.tasks.trends import Trend
from keras_cnnlstm.training.scoring import answers_of, score


def test_no_data_and_empty_batches_are_refused():
    model = cnn_lstm((4, 8, 8, 1), 7, lstm_units=(2,))
    batches = tf.data.Dataset.from_tensors((np.zeros((2, 4, 8, 8, 1), np.uint8), np.zeros(2, int)))
    with pytest.raises(ValueError, match="`sequences` must be one batch or more"):
        answers_of(model, batches.take(0))
    with pytest.raises(ValueError, match="`sequences` must be one batch or more"):
        score(model, {"natural": batches.take(0)}, Trend(4))
    with pytest.raises(ValueError, match="`frames` must be one sequence or more"):
        answers_of(model, batches.map(lambda x, y: (x[:0], y[:0])))
    assert answers_of(model, batches).answers.shape == (2, 7)
