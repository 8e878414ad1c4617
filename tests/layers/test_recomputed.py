"""`keras.RematScope` around the architectures."""

import keras
import numpy as np
import pytest

from keras_cnnlstm.models.cnn_lstm import cnn_lstm


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of tf.recompute_grad")
def test_layers_that_are_recomputed_train_alike():
    frames = np.random.default_rng(0).integers(0, 256, (4, 3, 8, 8, 1), np.uint8)

    def trained(names):
        keras.utils.set_random_seed(1)
        with keras.RematScope("list_of_layers", layer_names=names):
            model = cnn_lstm((3, 8, 8, 1), 2, lstm_units=(4,))
            model.compile("sgd", "sparse_categorical_crossentropy")
            model.fit(frames, np.arange(4) % 2, verbose=0, epochs=2, shuffle=False)
        return model.get_weights()

    for one, other in zip(trained([]), trained(["conv1", "conv2", "lstm1"]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
