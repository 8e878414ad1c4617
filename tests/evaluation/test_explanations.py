"""Occlusion against a plain loop; Grad-CAM against class activation maps and numeric gradients."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_cnnlstm import plots
from keras_cnnlstm.evaluation.explanations import grad_cam, occlusion
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.baselines import bag_of_frames, early_fusion_cnn
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.encoders import conv_pool, residual_cnn
from keras_cnnlstm.models.graph import all_layers
from keras_cnnlstm.models.imagenet import pretrained
from keras_cnnlstm.models.registry import MODELS

SHAPE = (3, 8, 8, 1)


def frames_like(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


FRAMES = frames_like(2, *SHAPE)
LENGTHS = np.array([1, 3])


def small(**options):
    keras.utils.set_random_seed(0)
    defaults = {"encoder": conv_pool((2, 3)), "lstm_units": (5,), "num_classes": 3}
    return cnn_lstm(**({"input_shape": SHAPE} | defaults | options))


def normalised(maps):
    maps = np.maximum(maps, 0)
    most = maps.max(axis=tuple(range(1, maps.ndim)), keepdims=True)
    return maps / np.where(most > 0, most, 1)


class TestOcclusion:
    def assert_equals_a_loop(self, model, number, replacement, **options):
        """Frame by frame, sequence by sequence; `number` picks one of an answer."""
        expected = np.zeros(FRAMES.shape[:2], np.float32)

        def ask(sequence, b):
            given = {"frames": sequence[None], "lengths": LENGTHS[b : b + 1].astype("int32")}
            return number(np.asarray(model(given))[0], b)

        for b, t in [(0, 0), (1, 0), (1, 1), (1, 2)]:
            blanked = FRAMES[b].copy()
            blanked[t] = replacement(FRAMES[b, : LENGTHS[b]])
            expected[b, t] = ask(FRAMES[b], b) - ask(blanked, b)
        changes = occlusion(model, FRAMES, LENGTHS, **options)
        assert changes.dtype == np.float32
        np.testing.assert_allclose(changes, expected, atol=1e-6)
        assert (changes[0, 1:] == 0).all()
        assert np.abs(expected).max() > 1e-3

    @pytest.mark.parametrize(
        ("blank", "replacement"),
        [("zeros", lambda x: 0), ("mean", lambda x: np.rint(x.mean(axis=0)).astype(np.uint8))],
    )
    def test_equals_a_plain_loop(self, blank, replacement):
        model = small(lengths=True)
        best = model.predict({"frames": FRAMES, "lengths": LENGTHS}, verbose=0).argmax(axis=1)
        self.assert_equals_a_loop(model, lambda x, b: x[best[b]], replacement, blank=blank)

    @pytest.mark.parametrize(("class_ids", "i"), [(None, 0), ([1, 1], 1)])
    def test_of_values_at_each_step_the_last_one_counts(self, class_ids, i):
        model, black = small(lengths=True, per_step=True, head="regression"), lambda frames: 0
        self.assert_equals_a_loop(
            model, lambda x, b: x[LENGTHS[b] - 1, i], black, class_ids=class_ids
        )

    def test_a_model_without_lengths_and_more_blanks_than_fit_at_a_time(self, monkeypatch):
        model, frames = small(return_state=True), frames_like(5, *SHAPE)
        whole = occlusion(model, frames)
        monkeypatch.setattr("keras_cnnlstm.evaluation.explanations._BLANKED", 4)
        np.testing.assert_allclose(occlusion(model, frames), whole, atol=1e-6)
        np.testing.assert_allclose(occlusion(model, frames[3:4]), whole[3:4], atol=1e-6)
        np.testing.assert_array_equal(frames, frames_like(5, *SHAPE))  # left as they are


class TestGradCam:
    def test_is_the_class_activation_map_where_that_is_known(self):
        # The scores are weighted means of the maps, so each map's weight is that of the class.
        keras.utils.set_random_seed(2)
        frames = keras.Input((3, 6, 5, 3), dtype="uint8", name="frames")
        x = layers.Rescaling(1 / 255)(frames)
        conv = layers.Conv2D(4, 1, activation="relu", bias_initializer="normal", name="conv")
        x = TimeDistributed(layers.GlobalAveragePooling2D())(TimeDistributed(conv)(x))
        head = layers.Dense(3, "softmax")
        model = keras.Model(frames, head(layers.GlobalAveragePooling1D()(x)))
        given = frames_like(2, 3, 6, 5, 3)
        kernel, bias = (np.asarray(w) for w in conv.weights)
        maps = np.maximum(given / 255 @ kernel[0, 0] + bias, 0)  # (B, T, H, W, 4)
        cams = np.moveaxis(maps @ np.asarray(head.kernel), -1, 0)  # (class, B, T, H, W)
        assert (cams.max(axis=(1, 2, 3, 4)) > 0).sum() > 1
        for class_id, cam in enumerate(cams):
            found = grad_cam(model, given, class_ids=[class_id] * 2)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, normalised(cam), atol=1e-5)

    def test_weights_are_the_numeric_gradients(self):
        model = small()
        last, head = model.get_layer("relu2"), model.get_layer("probabilities")
        maps = np.asarray(keras.Model(model.input, last.output)(FRAMES))  # (B, T, 2, 2, 3)

        def scores(maps):
            x = model.get_layer("flatten")(maps)
            return np.asarray(model.get_layer("lstm1")(x) @ head.kernel + head.bias)

        answers = scores(maps).argmax(axis=1)
        alpha, step = np.zeros((2, 3, 3)), 1e-2
        for t in range(3):
            for k in range(3):
                more, less = maps.copy(), maps.copy()
                more[:, t, :, :, k] += step
                less[:, t, :, :, k] -= step
                slope = (scores(more) - scores(less)) / (2 * step)
                alpha[:, t, k] = slope[[0, 1], answers] / 4  # mean over 2x2 places
        cam = np.maximum(np.einsum("btk,bthwk->bthw", alpha, maps), 0)
        large = tf.image.resize(cam.reshape(6, 2, 2, 1), (8, 8)).numpy().reshape(2, 3, 8, 8)
        assert cam.any()
        np.testing.assert_allclose(grad_cam(model, FRAMES), normalised(large), atol=5e-3)

    def test_both_spellings_and_a_saved_model_show_the_same(self, tmp_path):
        model, other = small(), small(wrap="encoder")
        other.set_weights(model.get_weights())
        expected = grad_cam(model, FRAMES)
        assert expected.shape == (2, 3, 8, 8)
        np.testing.assert_allclose(expected.max(axis=(1, 2, 3)), 1)
        np.testing.assert_allclose(grad_cam(other, FRAMES), expected, atol=1e-5)
        bare = keras.Model(model.inputs, model.outputs)  # as trainings save it
        bare.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        np.testing.assert_allclose(grad_cam(loaded, FRAMES), expected, atol=1e-6)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
    def test_in_half_precision_it_shows_about_the_same(self, policy):
        half = small()
        keras.config.set_dtype_policy("float32")
        whole = small()
        whole.set_weights(half.get_weights())
        np.testing.assert_allclose(grad_cam(half, FRAMES), grad_cam(whole, FRAMES), atol=0.05)

    def test_padding_shows_nothing_and_changes_nothing(self):
        model = small(lengths=True, encoder=residual_cnn((2, 3)))
        other = FRAMES.copy()
        other[0, 1:] = 7
        maps = grad_cam(model, FRAMES, LENGTHS, class_ids=[0, 0])
        assert (maps[0, 1:] == 0).all()
        again = grad_cam(model, other, LENGTHS, class_ids=[0, 0])
        np.testing.assert_allclose(maps, again, atol=1e-6)
        shorter = small(input_shape=(1, 8, 8, 1), lengths=True, encoder=residual_cnn((2, 3)))
        shorter.set_weights(model.get_weights())
        alone = grad_cam(shorter, FRAMES[:1, :1], LENGTHS[:1], class_ids=[0])
        np.testing.assert_allclose(maps[:1, :1], alone, atol=1e-5)

    def test_a_text_has_one_map_of_all_that_it_reads_or_of_one_character(self):
        keras.utils.set_random_seed(3)
        model = MODELS["crnn"]((8, 24, 1), 4, filters=(3, 5), lstm_units=(6,))
        image = frames_like(2, 8, 24, 1)
        inner = keras.Model(model.input, [model.get_layer("relu2").output, model.output])

        def expected(choose):
            with tf.GradientTape() as tape:
                maps, logits = inner(image)
                score = choose(logits)
            alpha = tf.reduce_mean(tape.gradient(score, maps), (1, 2), keepdims=True)
            cam = tf.nn.relu(tf.reduce_sum(alpha * maps, axis=-1))
            return normalised(tf.image.resize(cam[..., None], (8, 24)).numpy()[:, None, ..., 0])

        def read(logits):
            best = tf.argmax(logits, axis=-1)
            return tf.reduce_sum(tf.where(best > 0, tf.reduce_max(logits, axis=-1), 0.0))

        maps = grad_cam(model, image)
        assert maps.shape == (2, 1, 8, 24)
        np.testing.assert_allclose(maps, expected(read), atol=1e-4)
        for k in range(4):
            one = expected(lambda logits, k=k: tf.reduce_sum(logits[..., k + 1]))
            maps = np.maximum(maps, one)
            np.testing.assert_allclose(grad_cam(model, image, class_ids=[k, k]), one, atol=1e-4)
        assert maps.max() == 1

    def test_a_model_that_sees_all_frames_as_one_image_has_one_map(self):
        keras.utils.set_random_seed(0)
        maps = grad_cam(early_fusion_cnn(SHAPE, 3, encoder=conv_pool((2, 3)), units=(4,)), FRAMES)
        assert maps.any()
        assert maps.shape == (2, 3, 8, 8)
        for t in (1, 2):
            np.testing.assert_array_equal(maps[:, t], maps[:, 0])

    def test_a_bag_of_frames_weighs_each_frame_alike(self):
        keras.utils.set_random_seed(0)
        model = bag_of_frames(SHAPE, 3, encoder=conv_pool((2, 3)), lengths=True)
        maps = grad_cam(model, FRAMES, LENGTHS, class_ids=[0, 0])
        assert maps[1].any()
        backwards = grad_cam(model, FRAMES[:, ::-1], LENGTHS, class_ids=[0, 0])
        np.testing.assert_allclose(maps[1], backwards[1, ::-1], atol=1e-5)

    def test_lines_have_a_number_for_each_sample(self):
        model = small(input_shape=(3, 12, 2), encoder="conv1d")
        lines = np.random.default_rng(0).normal(size=(2, 3, 12, 2)).astype("float32")
        maps = grad_cam(model, lines)
        assert maps.shape == (2, 3, 12)
        assert maps.any()

    def test_the_last_maps_of_a_network_within_the_encoder_are_shown(self):
        # As in pretrained ones: squeezing layers on the way, and a ReLU after the last convolution.
        inner = keras.Input((8, 8, 1))
        x = layers.Conv2D(3, 3, padding="same", name="first")(inner)
        squeezed = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
        x = layers.Multiply(name="excited")([x, layers.Reshape((1, 1, 3))(squeezed)])
        x = layers.Conv2D(4, 3, padding="same", name="last")(x)
        x = layers.MaxPooling2D()(layers.ReLU(name="relu")(x))
        network = keras.Model(inner, x, name="network")
        encoder = keras.Sequential([inner, network, layers.GlobalAveragePooling2D()])
        encoder.trainable = False
        model = small(encoder=encoder, wrap="encoder")
        expected = grad_cam(model, FRAMES, layer="relu")
        assert expected.any()
        np.testing.assert_array_equal(grad_cam(model, FRAMES), expected)
        assert np.abs(grad_cam(model, FRAMES, layer="first") - expected).max() > 0.1

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["vgg16", "resnet50", "mobilenet_v3_small"])
    def test_pretrained_networks(self, name):
        encoder = pretrained(name, weights=None, input_shape=(64, 64, 3))
        model = cnn_lstm((2, 64, 64, 3), 3, encoder=encoder)
        maps = grad_cam(model, frames_like(1, 2, 64, 64, 3))
        assert maps.shape == (1, 2, 64, 64)
        assert maps.max() == 1

    def test_many_sequences_are_those_of_each(self):
        model, frames = small(), frames_like(70, *SHAPE)
        maps = grad_cam(model, frames)
        np.testing.assert_allclose(maps[65:67], grad_cam(model, frames[65:67]), atol=1e-5)

    def test_the_model_stays_as_it_is_meanwhile(self):
        seen = []

        class Watching(layers.Flatten):
            def call(self, x):
                exchanged = [part for part in all_layers(model) if "call" in vars(part)]
                seen.append((model.layers[-1].activation, exchanged))
                return super().call(x)

        model = small(encoder=keras.Sequential([layers.Conv2D(2, 3), Watching()]))
        before = model.predict(FRAMES, verbose=0)
        seen.clear()
        assert grad_cam(model, FRAMES).any()
        assert seen
        assert all(found == (keras.activations.softmax, []) for found in seen)
        np.testing.assert_array_equal(np.asarray(model(FRAMES)), before)


def test_a_planted_patch_is_found():
    rng, count = np.random.default_rng(0), 256
    frames = rng.integers(0, 60, (count, 3, 16, 16, 1)).astype(np.uint8)
    shown, top, left = rng.integers(0, 3, count), *rng.integers(1, 11, (2, count))
    planted = rng.random(count) < 0.5
    for b in np.flatnonzero(planted):
        frames[b, shown[b], top[b] : top[b] + 4, left[b] : left[b] + 4] = 255
    keras.utils.set_random_seed(0)
    # With an average over places, where a map's weight is the same in all of them.
    maps = [layers.Conv2D(8, 5, padding="same", activation="relu") for _ in range(2)]
    encoder = keras.Sequential([*maps, layers.GlobalAveragePooling2D()])
    model = cnn_lstm((3, 16, 16, 1), 4, encoder=encoder, lstm_units=(8,))
    adam = keras.optimizers.Adam(0.01)
    model.compile(adam, "sparse_categorical_crossentropy", metrics=["accuracy"])
    history = model.fit(frames, np.where(planted, shown, 3), epochs=16, verbose=0)
    assert history.history["accuracy"][-1] > 0.98
    chosen = np.flatnonzero(planted)[:64]
    np.testing.assert_array_equal(occlusion(model, frames[chosen]).argmax(axis=1), shown[chosen])
    maps = grad_cam(model, frames[chosen])
    steps, rows, columns = np.unravel_index(maps.reshape(64, -1).argmax(axis=1), (3, 16, 16))
    near = (np.abs(rows - top[chosen] - 1.5) < 4) & (np.abs(columns - left[chosen] - 1.5) < 4)
    assert near.mean() > 0.8  # by chance 0.2
    assert (steps == shown[chosen]).mean() > 0.7  # by chance 0.33


class TestPlot:
    """What `plot_explanation` draws."""

    def test_heat_lies_over_its_frames_and_bars_are_the_changes(self):
        frames, maps = FRAMES[0], grad_cam(small(), FRAMES)[0]
        figure = plots.plot_explanation(frames, maps, [0.5, -0.25, 0.0], title="why")
        pictures, bars = figure.axes[:3], figure.axes[3:]
        for t, axes in enumerate(pictures):
            grey, heat = axes.images
            np.testing.assert_array_equal(grey.get_array(), frames[t, ..., 0])
            np.testing.assert_allclose(heat.get_array()[..., 3] ** 2, maps[t], atol=1e-6)
        assert [axes.patches[0].get_height() for axes in bars] == [0.5, -0.25, 0.0]
        assert len({axes.get_ylim() for axes in bars}) == 1

    @pytest.mark.parametrize("given", ["maps", "changes"])
    def test_one_of_both_alone(self, given, tmp_path):
        values = {"maps": np.ones((3, 8, 8)), "changes": np.ones(3)}[given]
        figure = plots.plot_explanation(FRAMES[0], **{given: values})
        assert len(figure.axes) == (3 if given == "maps" else 6)
        plots.save_figure(figure, tmp_path / "a.png")

    def test_what_does_not_fit_is_refused(self):
        for maps in (np.ones((2, 8, 8)), np.full((3, 8, 8), 1.5), np.full((3, 8, 8), -0.1)):
            with pytest.raises(ValueError, match=r"`maps` must .*(\(3, 8, 8\)|\[0, 1\])"):
                plots.plot_explanation(FRAMES[0], maps)
        with pytest.raises(ValueError, match=r"`changes` must .*\(3,\)"):
            plots.plot_explanation(FRAMES[0], None, [1, 2])
        with pytest.raises(ValueError, match="plot_explanation: `frames` must be uint8"):
            plots.plot_explanation(FRAMES, None, [1, 2, 3])


BAD = {  # argument -> its rule, and values against it
    "frames": (
        r"uint8 of shape \(None, 3, 8, 8, 1\)",
        [FRAMES[:, :2], FRAMES[0], FRAMES / 255, FRAMES[:0]],
    ),
    "lengths": ("2 integers from 1 to 3", [[1], [0, 3], [1, 4], [1.0, 2.0]]),
    "class_ids": ("2 integers from 0 to 2", [[1], [0, 3], [-1, 0], ["a", "b"]]),
}


class TestRefused:
    @pytest.mark.parametrize("function", [occlusion, grad_cam])
    @pytest.mark.parametrize("name", BAD)
    def test_arguments_that_do_not_fit(self, function, name):
        rule, values = BAD[name]
        for value in values:
            with pytest.raises(ValueError, match=f"{function.__name__}: `{name}` must be {rule}"):
                function(small(lengths=True), **{"frames": FRAMES} | {name: value})
        with pytest.raises(ValueError, match="`lengths` must be None for a model without such"):
            function(small(), FRAMES, LENGTHS)

    @pytest.mark.parametrize("function", [occlusion, grad_cam])
    @pytest.mark.parametrize("options", [{"stateful": True, "batch_size": 2}, {"initial_state": 1}])
    def test_states_from_outside(self, function, options):
        with pytest.raises(ValueError, match=r"`model` must take frames.*Build it without init"):
            function(small(**options), FRAMES)

    def test_another_blank(self):
        with pytest.raises(ValueError, match="`blank` must be one of zeros, mean; received 'grey'"):
            occlusion(small(), FRAMES, blank="grey")

    def test_occlusion_of_single_images(self):
        model = MODELS["scan_lstm"]((8, 8, 1), 3, lstm_units=(4,))
        with pytest.raises(ValueError, match=r"`model` must read sequences .*Use grad_cam"):
            occlusion(model, FRAMES[:, 0])

    @pytest.mark.parametrize("name", ["scan_lstm", "renet", "flat_mlp"])
    def test_no_convolutions(self, name):
        model = MODELS[name](SHAPE[-3:] if name != "flat_mlp" else SHAPE, 3)
        frames = FRAMES if name == "flat_mlp" else FRAMES[:, 0]
        with pytest.raises(ValueError, match=f"`model` must have convolutions, .*; '{name}' has"):
            grad_cam(model, frames)

    def test_layers_without_maps(self):
        with pytest.raises(ValueError, match=r"`layer` must be one of .*conv2, .*received 'conv9'"):
            grad_cam(small(), FRAMES, layer="conv9")
        with pytest.raises(ValueError, match=r"`layer` must be one whose maps .*'lstm1' of 'cnn_"):
            grad_cam(small(), FRAMES, layer="lstm1")
