"""`.keras` files made to harm: to run code, to write elsewhere, to take all memory."""

import io
import json
import pickle
import threading
import zipfile

import h5py
import keras
import pytest
from oracles import assert_all_equal

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.run_files import read_task, save_task
from keras_cnnlstm.models.blocks import lstm_stack
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.tasks import Classes
from keras_cnnlstm.training.run_directory import load_model, load_run, new_run_dir, save_model
from keras_cnnlstm.training.safe_load import read_model

LAMBDA = {
    "class_name": "Lambda",
    "config": {
        "name": "probabilities",
        "function": {"class_name": "__lambda__", "config": {"code": "4wEA"}},
    },
}
SAVED_MODEL = {
    "class_name": "TFSMLayer",
    "config": {"name": "probabilities", "filepath": "served/1", "call_endpoint": "serve"},
}


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """What a small model's file holds, by name."""
    path = tmp_path_factory.mktemp("whole") / "model.keras"
    save_model(cnn_lstm((4, 8, 8, 1), 2, encoder="small_cnn", lstm_units=(2,)), path)
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture
def packed(members, tmp_path):
    """Packs a file with other members, or with another configuration."""

    def packed(change=None, *, method=zipfile.ZIP_STORED, **others):
        content = dict(members)
        if change:
            config = json.loads(content["config.json"])
            change({layer["name"]: layer for layer in config["config"]["layers"]}, config)
            content["config.json"] = json.dumps(config).encode()
        content |= others
        with zipfile.ZipFile(tmp_path / "model.keras", "w", method) as archive:
            for name, data in content.items():
                if data is not None:
                    archive.writestr(name, data)
        return tmp_path / "model.keras"

    return packed


def refused(path, match):
    before = sorted(path.parent.iterdir())
    with pytest.raises(ValueError, match=match) as raised:
        read_model(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)
    assert sorted(path.parent.iterdir()) == before


def test_packed_as_it_was_it_is_read(packed, members):
    loaded = read_model(packed())
    assert loaded.count_params() > 100
    assert load_model(packed()).get_config() == loaded.get_config()


class TestCode:
    @pytest.mark.parametrize(
        ("layer", "reason"),
        [
            (LAMBDA, r"ValueError: .*`?Lambda`? .*arbitrary code execution and thus it is disall"),
            (SAVED_MODEL, r"ValueError: .*`TFSMLayer`, which loads an external SavedModel.*disall"),
        ],
    )
    def test_layers_that_could_run_it(self, layer, reason, packed):
        def change(layers, config):
            layers["probabilities"].update(layer)

        path = packed(change)
        refused(path, rf"expected a model in Keras' format; {reason}")
        with pytest.raises(ValueError, match=r"^((?!safe_mode).)*$"):  # no hint how to run it
            read_model(path)

    @pytest.mark.parametrize("module", ["os", "builtins", "subprocess", "keras_cnnlstm.cli.main"])
    def test_classes_from_elsewhere(self, module, packed):
        def change(layers, config):
            layers["probabilities"] |= {"module": module, "class_name": "system"}

        refused(packed(change), "Could not locate class 'system'")

    @pytest.mark.parametrize(
        ("content", "found"),
        [
            (b"\x89HDF\r\n\x1a\n and so on", r"an HDF5 file \(\.h5\), which can hold code"),
            (pickle.dumps({"w": 1}), "a pickle, which can hold code"),
            (b"\x08\x01\x12 and so on", "a SavedModel, which can hold code"),
            (b"", "no zip archive"),
            (b"anything", "no zip archive"),
        ],
    )
    @pytest.mark.parametrize("ending", ["keras", "h5"])
    def test_other_formats(self, content, found, ending, tmp_path):
        (tmp_path / f"m.{ending}").write_bytes(content)
        refused(tmp_path / f"m.{ending}", rf"a zip archive named \.keras; found {found}\. Save")

    def test_another_ending(self, packed):
        path = packed()
        refused(path.rename(path.with_suffix(".h5")), "found another ending")

    @pytest.mark.parametrize("name", [".", "no.keras"])
    def test_no_file(self, name, tmp_path):
        with pytest.raises(FileNotFoundError, match=r"expected a model .*; found (a dir|nothing)"):
            read_model(tmp_path / name)


EMPTY = io.BytesIO()
h5py.File(EMPTY, "w").close()
DENSE = {"class_name": "Dense", "module": "keras.layers", "config": {"units": 3}}
HELD = "expected config.json, metadata.json, model.weights.h5 in it"


class TestArchive:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"../../evil": b"x"}, HELD),
            ({"/evil": b"x"}, HELD),
            ({"assets/x": b"x"}, HELD),
            ({"..\\evil": b"x"}, HELD),
            ({"model.weights.npz": b"x"}, HELD),
            ({"model.weights.h5": None}, "received 'config.json', 'metadata.json'"),
            ({"method": zipfile.ZIP_DEFLATED}, "it is packed"),  # and could be of any size
            ({"config.json": json.dumps(DENSE)}, "found a Dense"),
            ({"model.weights.h5": EMPTY.getvalue()}, "Skipping nested|could not be load"),
        ],
    )
    def test_members(self, changes, message, packed):
        refused(packed(**changes), message)

    @pytest.mark.parametrize("config", [b"[", b"[" * 10**5, b"{}", b"[]", b"null", b"\xff"])
    def test_configurations_that_are_none(self, config, packed):
        refused(packed(**{"config.json": config}), "expected a model in Keras' format; ")

    def test_a_member_that_is_there_twice(self, packed):
        path = packed()
        with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
            archive.writestr("config.json", b"{}")
        refused(path, HELD)

    def test_checksums(self, packed):
        path = packed()
        content = bytearray(path.read_bytes())
        content[content.index(b"\x89HDF") + 5000] ^= 1
        path.write_bytes(content)
        refused(path, "model.weights.h5 in it is damaged")


class TestSizes:
    """Checked before anything of that size is made: no machine here has these."""

    @pytest.mark.parametrize("units", [10**6, 10**9, 10**15])
    def test_weights_beyond_the_file(self, units, packed):
        def change(layers, config):
            layers["probabilities"]["config"]["units"] = units

        refused(packed(change), r"more weights than the file holds; .*\(2, 1")

    def test_many_weights_that_are_small(self, packed):
        def change(layers, config):
            for name in ("conv1", "conv2", "conv3"):
                layers[name]["config"]["layer"]["config"]["filters"] = 10_000

        refused(packed(change), "more weights than the file holds")

    @pytest.mark.parametrize(
        "shape", [[10**9, 4, 8, 8, 1], [None, 2**31, 8, 8, 1], [0, 4, 8, 8, 1]]
    )
    def test_inputs(self, shape, packed):
        def change(layers, config):
            layers["frames"]["config"]["batch_shape"] = shape

        refused(packed(change), r"expected an input that fits into memory; received shape \[")

    def test_arrays_that_their_file_cannot_hold(self, packed, members):
        file = io.BytesIO(members["model.weights.h5"])
        with h5py.File(file, "a") as weights:
            weights.create_dataset("bomb", (10**12,), chunks=(10**4,), dtype="f4")
        refused(packed(**{"model.weights.h5": file.getvalue()}), "declares")

    def test_what_other_threads_build_meanwhile_is_theirs(self, packed, monkeypatch):
        def build():
            built.append(lstm_stack(keras.Input((4, 8)), (600,)).shape)  # 1.4 million weights

        def meanwhile(*args, **kwargs):
            thread = threading.Thread(target=build)
            thread.start()
            thread.join()
            return original(*args, **kwargs)

        built, original = [], keras.models.load_model
        monkeypatch.setattr(keras.models, "load_model", meanwhile)
        assert read_model(packed())
        assert built == [(None, 600)]


class TestRuns:
    @pytest.fixture
    def run(self, tmp_path):
        return new_run_dir(TrainConfig(run_dir=str(tmp_path / "run")))

    def test_a_model_that_reads_neither_sequences_nor_images(self, run):
        model = keras.Sequential([keras.Input((3,), name="frames"), keras.layers.Dense(2)])
        save_model(model, run / "model.keras")
        with pytest.raises(ValueError, match=r"model\.keras: .*`frames`, .*; found"):
            load_run(run)

    def test_metrics_that_are_no_object(self, run):
        save_model(cnn_lstm((4, 8, 8, 1), 2, lstm_units=(2,)), run / "model.keras")
        (run / "metrics.json").write_text("[1]")
        with pytest.raises(ValueError, match=r"metrics\.json: expected a JSON object; received li"):
            load_run(run)

    def test_as_many_classes_as_outputs(self, tmp_path):
        config = TrainConfig(run_dir=str(tmp_path / "clips"), data="./x", image_size=(8, 8))
        run = new_run_dir(config)
        save_model(cnn_lstm((16, 8, 8, 3), 2, lstm_units=(2,), lengths=True), run / "model.keras")
        save_task(run, config.resolved, Classes(("a", "b", "c")))
        assert read_task(run).class_names == ("a", "b", "c")
        with pytest.raises(ValueError, match=r"task\.json: .* 2 outputs, .*; received .*3"):
            load_run(run).task  # noqa: B018 - it is the property that refuses

    @pytest.mark.parametrize("text", ["9" * 5000, "[" * 10**5, "{"])
    def test_numbers_and_depths_beyond_reason(self, text, run):
        (run / "task.json").write_text(text)
        with pytest.raises(ValueError, match=r"task\.json: expected JSON; "):
            read_task(run)

    def test_a_missing_task(self, run):
        with pytest.raises(FileNotFoundError, match=r"it has no task\.json"):
            read_task(run)


def test_weights_are_those_that_were_saved(packed):
    model = cnn_lstm((4, 8, 8, 1), 2, encoder="small_cnn", lstm_units=(2,))
    path = packed()
    model.save(path)
    assert_all_equal(read_model(path).get_weights(), model.get_weights())
