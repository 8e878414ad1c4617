"""The estimate against sums by hand; control groups made of files; errors of the allocator."""

import re
from types import SimpleNamespace

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from keras import layers

from keras_cnnlstm.layers.residual_block import ResidualBlock
from keras_cnnlstm.layers.time_distributed import TimeDistributed
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.encoders import conv_pool
from keras_cnnlstm.models.graph import every_step_model
from keras_cnnlstm.runtime import memory
from keras_cnnlstm.runtime.memory import (
    Estimate,
    activation_memory,
    available_memory,
    check_memory,
    out_of_memory_hint,
)

SHAPE = (2, 4, 4, 1)  # (T, H, W, C)
BATCH = 2 * 16  # bytes of a sequence of raw frames
PASSING = 2 * 16 + 4 * 2 * 16  # raw and rescaled frames
RECURRENT = 4 * 6 * 2 * 5  # six numbers a step of each of the five units
# Two maps of 4x4, pooled to 2x2, and behind ReLU; the LSTM; three classes.
KEPT = 4 * (2 * 2 * 16 + 2 * 2 * 2 * 4) + RECURRENT + 4 * 3
SEQUENCE = BATCH + PASSING + 2 * KEPT
CONV, LSTM, HEAD = (9 * 2, 2), (8 * 20, 5 * 20, 20), (5 * 3, 3)  # numbers in each weight
NUMBERS = sum([*CONV, *LSTM, *HEAD])


def tiny(shape=SHAPE, **options):
    return cnn_lstm(shape, 3, **{"encoder": conv_pool((2,)), "lstm_units": (5,)} | options)


def per_sequence(model, **options):
    """Bytes of one more sequence."""
    few, many = (activation_memory(model, batch, **options) for batch in (1000, 2000))
    return (many - few) / 1000


def fixed(model):
    """Bytes that do not grow with the batch."""
    return activation_memory(model, 1) - per_sequence(model)


class TestEstimate:
    def test_equals_the_sum_by_hand(self):
        for batch in (1, 6):  # weights, gradients, Adam's two numbers
            assert activation_memory(tiny(), batch) == 4 * 4 * NUMBERS + batch * SEQUENCE

    @pytest.mark.parametrize(
        "options", [{}, {"wrap": "encoder"}, {"shape": (None, 4, 4, 1)}, {"encoder": "graph"}]
    )
    def test_the_activations_are_the_same_however_the_layers_are_put_together(self, options):
        if "encoder" in options:
            image = keras.Input((None, None, 1))
            options = {"encoder": keras.Model(image, conv_pool((2,)).layers[0](image))}
            x = layers.MaxPooling2D(2)(options["encoder"].output)
            options["encoder"] = keras.Model(image, layers.Reshape((8,))(layers.ReLU()(x)))
        assert per_sequence(tiny(**options), time=2) == SEQUENCE

    def test_as_many_frames_as_the_model_is_told(self):
        model = tiny((None, 4, 4, 1))
        head = 2 * 4 * 3
        assert per_sequence(model, time=7) == (SEQUENCE - head) / 2 * 7 + head

    def test_lstms_that_answer_at_each_step_and_in_two_directions(self):
        both = tiny(bidirectional=True, per_step=True)
        assert per_sequence(both) == SEQUENCE + 2 * (RECURRENT + 4 * 3)

    @pytest.mark.parametrize(("filters", "strides", "parts"), [(3, 1, 4), (6, 2, 5)])
    def test_layers_inside_of_a_layer_count(self, filters, strides, parts):
        frames = keras.Input((2, 8, 8, 3))
        model = keras.Model(frames, TimeDistributed(ResidualBlock(filters, strides))(frames))
        output = 2 * filters * (8 // strides) ** 2
        assert per_sequence(model) == 4 * (2 * 8 * 8 * 3 + 2 * parts * output)

    @pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
    def test_half_precision_takes_half_but_for_pixels_and_the_head(self, policy):
        full = BATCH + PASSING + 2 * 4 * 3
        assert per_sequence(tiny()) == full + (SEQUENCE - full) / 2

    def test_a_frozen_encoder_keeps_nothing_and_has_no_gradients(self):
        encoder = conv_pool((2,))
        encoder.trainable = False
        model = tiny(encoder=encoder, wrap="encoder")
        passing = 4 * (2 * 16 + 2 * 2 * 16)  # frames in, two maps out, and gone
        assert per_sequence(model) == BATCH + passing + 2 * (RECURRENT + 4 * 3)
        assert fixed(model) == 4 * (NUMBERS + 3 * sum([*LSTM, *HEAD]))

    @pytest.mark.parametrize(("optimizer", "slots"), [("sgd", 0), ("adam", 2), ("rmsprop", 1)])
    def test_what_the_optimizer_keeps(self, optimizer, slots):
        model = tiny()
        model.compile(optimizer, "sparse_categorical_crossentropy")
        assert fixed(model) == 4 * 4 * NUMBERS  # its optimizer is not built yet
        model.train_on_batch(np.zeros((2, *SHAPE), "uint8"), np.zeros(2, int))
        expected = 4 * (2 + slots) * NUMBERS
        assert 0 <= fixed(model) - expected < 100  # counters, rates and metrics

    def test_sequential_models_and_several_inputs(self):
        chain = keras.Sequential([keras.Input((6,)), layers.Dense(5), layers.Dense(2)])
        assert per_sequence(chain) == 4 * (6 + 2 * (5 + 2))
        options = {"lengths": True, "initial_state": True, "return_state": True}
        states = per_sequence(tiny(**options)) - SEQUENCE
        assert 0 < states < 400

    def test_no_layer_is_changed(self):
        model = tiny()
        activation_memory(model, 4)
        assert all(len(layer._inbound_nodes) == 1 for layer in model.layers)
        assert model.get_layer("lstm1").output.shape == (None, 5)


class TestCheck:
    LIMIT = 50_000_000

    def test_what_fits_is_told(self):
        estimate = check_memory(tiny(), 64, limit=self.LIMIT)
        assert estimate.bytes == activation_memory(tiny(), 64) <= self.LIMIT
        assert (estimate.limit, estimate.batch_size) == (self.LIMIT, 64)
        assert estimate.describe() == "99 kB of 50 MB for a batch of 64"

    def test_the_largest_batch_that_fits_is_the_largest(self):
        model = tiny()
        largest = check_memory(model, 1, limit=self.LIMIT).largest_batch
        sizes = [activation_memory(model, batch) for batch in (largest, largest + 1)]
        assert sizes[0] <= self.LIMIT < sizes[1]

    @pytest.mark.parametrize(("shape", "time"), [(SHAPE, None), ((None, 4, 4, 1), 5)])
    def test_a_batch_that_cannot_fit_and_those_that_the_error_names(self, shape, time):
        model, options = tiny(shape), {"limit": self.LIMIT, "time": time}
        with pytest.raises(ValueError, match=r"^check_memory: `batch_size` must be at mo") as info:
            check_memory(model, 2**20, **options)
        found = re.search(
            r"at most (\d+) with 'cnn_lstm' and T=(\d), to fit into 50 MB; received 1048576, which "
            r"takes [\d.]+ GB\. Take (\d+), or fewer frames",
            str(info.value),
        )
        largest, frames, power = map(int, found.groups())
        assert frames == (time or 2)
        assert largest / 2 < power <= largest
        assert power.bit_count() == 1
        for batch in (largest, power):
            assert check_memory(model, batch, **options).largest_batch == largest
        with pytest.raises(ValueError, match=f"at most {largest} with"):
            check_memory(model, largest + 1, **options)

    def test_sequences_that_go_together_take_what_they_would_take_alone(self):
        model, alone = tiny(), [[1, 0], [0, 1]]  # (K, T)
        groups = [alone, np.add(alone, 2), np.add(alone, 4)]  # none of which exchanges frames
        expected = check_memory(every_step_model(model, alone), 60, limit=self.LIMIT)
        learner = every_step_model(model, groups)
        found = check_memory(learner, 60, together=3, limit=self.LIMIT)
        assert found.bytes == pytest.approx(expected.bytes, rel=1e-6)
        assert found.bytes > check_memory(model, 60, limit=self.LIMIT).bytes

    def test_what_is_advised_to_them_is_a_multiple_of_their_number(self):
        learner = every_step_model(tiny(), np.arange(6).reshape(3, 1, 2))
        with pytest.raises(ValueError, match="`batch_size` must be at most") as error:
            check_memory(learner, 3 * 10**6, together=3, limit=self.LIMIT)
        largest, advised = (
            int(re.search(rf"{before} (\d+)", str(error.value))[1]) for before in ("most", "Take")
        )
        assert largest % 3 == advised % 3 == 0
        assert 3 <= advised <= largest
        assert check_memory(learner, largest, together=3, limit=self.LIMIT).largest_batch == largest
        with pytest.raises(ValueError, match=r"takes .* for a batch of 3"):
            check_memory(learner, 3, together=3, limit=5000)

    def test_a_model_of_images_has_no_frames_to_name(self):
        model = keras.Sequential([keras.Input((6,)), layers.Dense(5)], name="net")
        with pytest.raises(ValueError, match=r"at most \d+ with 'net', to fit into 50 MB"):
            check_memory(model, 10**9, limit=self.LIMIT)

    @pytest.mark.parametrize("limit", [0, 1, 5000])
    def test_a_model_that_does_not_fit_at_all(self, limit):
        message = (
            r"`model` must fit into .*received 'cnn_lstm', which takes 6.6 kB for a batch of 1"
        )
        with pytest.raises(ValueError, match=message):
            check_memory(tiny(), 1, limit=limit)

    def test_the_machine_s_memory_by_default(self, monkeypatch):
        monkeypatch.setattr(memory, "available_memory", lambda: self.LIMIT)
        assert check_memory(tiny(), 4).limit == self.LIMIT
        with pytest.raises(ValueError, match="to fit into 50 MB"):
            check_memory(tiny(), 2**20)

    @pytest.mark.parametrize("call", [activation_memory, check_memory])
    @pytest.mark.parametrize(
        ("shape", "arguments", "message"),
        [
            (
                SHAPE,
                {"batch_size": 0},
                "`batch_size` must be an integer from 1",
            ),
            (SHAPE, {"batch_size": 2.5}, "`batch_size` must be .*received 2.5"),
            (
                (None, 4, 4, 1),
                {},
                "`time` must be the number .*'cnn_lstm' takes any; received None",
            ),
            ((None, 4, 4, 1), {"time": 0}, "`time` must be the number of frames.*received 0"),
        ],
    )
    def test_bad_arguments(self, call, shape, arguments, message):
        with pytest.raises(ValueError, match=f"^{call.__name__}: {message}"):
            call(tiny(shape), **{"batch_size": 4} | arguments)

    def test_models_whose_layers_cannot_be_followed(self):
        unbuilt = keras.Sequential([layers.Dense(2)], name="net")
        with pytest.raises(ValueError, match=r"`model` must have a graph .*Sequential 'net' with"):
            activation_memory(unbuilt, 4)
        image = keras.Input((8, None, 1), name="image")
        model = keras.Model(image, layers.GlobalMaxPooling2D()(image))
        with pytest.raises(ValueError, match=r"known size .*\(None, 8, None, 1\) for 'image'"):
            activation_memory(model, 4)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1, "1 B"), (1_000, "1 kB"), (37_600_000, "38 MB"), (1_234_000_000, "1.2 GB"),
        (999_400_000, "999 MB"), (999_600_000, "1 GB"), (9_960_000, "10 MB"),
        (2 * 10**15, "2000 TB"),
    ],
)  # fmt: skip
def test_sizes_as_a_person_says_them(size, text):
    estimate = Estimate(bytes=size, limit=2 * 10**10, largest_batch=64, batch_size=64)
    assert estimate.describe() == f"{text} of 20 GB for a batch of 64"


def v2(folder, limit, used=1000, cached=300):
    """The files of a control group, as the second version names them."""
    return {
        f"{folder}/memory.max": f"{limit}\n",
        f"{folder}/memory.current": f"{used}\n",
        f"{folder}/memory.stat": f"anon 9\ninactive_file {cached}\nactive_file 7\n",
    }


def v1(folder, limit, used=1000, cached=300):
    return {
        f"{folder}/memory.limit_in_bytes": f"{limit}\n",
        f"{folder}/memory.usage_in_bytes": f"{used}\n",
        f"{folder}/memory.stat": f"inactive_file 5\ntotal_inactive_file {cached}\n",
    }


ROOT = "sys/fs/cgroup"
HUGE = 9223372036854771712  # how the first version says that there is no limit
THREE = "4:cpu,cpuacct:/\n3:memory:/job\n0::/\n"


class TestAvailableMemory:
    """A machine of 8,000 bytes, with the files of its control groups."""

    @pytest.mark.parametrize(
        ("groups", "files", "expected"),
        [
            pytest.param("0::/\n", v2(ROOT, "max"), 8000, id="no limit"),
            pytest.param("0::/job\n", v2(f"{ROOT}/job", 5000), 4300, id="files read count not"),
            pytest.param(
                "0::/a/b\n", v2(f"{ROOT}/a/b", 5000) | v2(f"{ROOT}/a", 2000, 600, 0), 1400,
                id="the least of all groups above",
            ),
            pytest.param(
                THREE, v1(f"{ROOT}/memory/job", 5000) | v1(f"{ROOT}/memory", HUGE), 4300, id="v1"
            ),
            pytest.param(
                "3:memory:/docker/4af\n", v1(f"{ROOT}/memory", 5000), 4300, id="elsewhere"
            ),
            pytest.param("3:cpu:/job\n", v1(f"{ROOT}/memory/job", 5000), 8000, id="not memory"),
            pytest.param("0::/\n", v2(ROOT, 500), 0, id="more used than allowed"),
            pytest.param(None, {}, 8000, id="not Linux"),
        ],
    )  # fmt: skip
    def test_the_least_of_machine_and_groups(self, groups, files, expected, tmp_path, monkeypatch):
        for name, text in {"proc/self/cgroup": groups, **files}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                (tmp_path / name).write_text(text)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8000))
        monkeypatch.setattr(memory, "Path", lambda path: tmp_path)
        assert available_memory() == expected

    def test_this_machine_has_some(self):
        assert 10**6 < available_memory() < 10**15


class TestOutOfMemory:
    @pytest.mark.parametrize(
        ("batch", "remedy"), [(64, "32 or fewer, or fewer or"), (1, "fewer or")]
    )
    def test_one_line_with_the_remedy(self, batch, remedy):
        message = rf"batch_size .*; {batch} did not\. Take {remedy}"
        with pytest.raises(MemoryError, match=message), out_of_memory_hint(batch):
            tf.zeros((1 << 24, 1 << 24))  # a petabyte

    def test_of_python_itself_too_and_nothing_else(self):
        with pytest.raises(MemoryError, match="batch_size"), out_of_memory_hint(2):
            np.zeros((1 << 24, 1 << 24))
        with pytest.raises(ValueError, match=r"^other$"), out_of_memory_hint(2):
            raise ValueError("other")
