"""A SavedModel as a model server runs it: over HTTP, and by TensorFlow's own command line.

The server here is a stand-in that speaks the REST predict protocol of TensorFlow Serving and
knows nothing of this package; it only loads a directory of versions.
"""

import base64
import http.client
import io
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_cnnlstm.export.exporter import export
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.encoders import conv_pool

SHAPE = (4, 12, 10, 3)  # (T, H, W, C)
NAMES = ("up", "down", "still")


class StandIn(BaseHTTPRequestHandler):
    """POST /v1/models/trend[/versions/V]:predict, GET /v1/models/trend."""

    models: dict  # by version, as a string

    def do_GET(self):
        versions = [{"version": v, "state": "AVAILABLE"} for v in self.models]
        self.reply(200, {"model_version_status": versions})

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        try:
            name, _, action = self.path.removeprefix("/v1/models/").partition(":")
            name, _, version = name.partition("/versions/")
            if (name, action) != ("trend", "predict"):
                raise ValueError(f"Malformed request: POST {self.path}")
            model = self.models[version or max(self.models, key=int)]
            self.reply(200, predict(model, json.loads(body)))
        except (KeyError, ValueError, tf.errors.InvalidArgumentError) as error:
            self.reply(400, {"error": str(error)})

    def reply(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def predict(model, request):
    """The protocol: `instances` row by row, or `inputs` column by column, never both."""
    if ("instances" in request) == ("inputs" in request):
        raise ValueError("Request must have either 'instances' or 'inputs', not both or none")
    signature = model.signatures[request.get("signature_name", "serving_default")]
    specs = signature.structured_input_signature[1]
    if "inputs" in request:
        columns = request["inputs"]
        if not (isinstance(columns, dict) and set(columns) <= set(specs)):
            (only,) = specs  # a bare value is for the only input
            columns = {only: columns}
        outputs = call(signature, specs, columns)
        return {"outputs": next(iter(outputs.values())) if len(outputs) == 1 else outputs}
    rows = request["instances"]
    if not (isinstance(rows[0], dict) and set(rows[0]) <= set(specs)):
        (only,) = specs
        rows = [{only: row} for row in rows]
    outputs = call(signature, specs, {name: [row[name] for row in rows] for name in rows[0]})
    if len(outputs) == 1:
        return {"predictions": next(iter(outputs.values()))}
    count = range(len(rows))
    return {"predictions": [{name: v[i] for name, v in outputs.items()} for i in count]}


def call(signature, specs, columns):
    if set(columns) != set(specs):
        raise ValueError(f"Missing or unknown inputs: {sorted(set(columns) ^ set(specs))}")
    outputs = signature(**{name: tensor(columns[name], specs[name].dtype) for name in specs})
    return {name: plain(name, value.numpy()) for name, value in outputs.items()}


def tensor(value, dtype):
    """JSON to a tensor: binary values come as {"b64": ...}, numbers must fit the type."""
    if dtype == tf.string:
        return tf.constant(binary(value), tf.string)
    array = np.asarray(value)
    low, high = array.min(initial=0), array.max(initial=0)
    whole = array.dtype.kind in "iu" or not array.size
    if dtype.is_integer and not (whole and dtype.min <= low and high <= dtype.max):
        raise ValueError(f"JSON Value not formattable as {dtype.name}")
    return tf.constant(array, dtype)


def binary(value):
    if isinstance(value, dict):
        return base64.b64decode(value["b64"], validate=True)
    return [binary(v) for v in value] if isinstance(value, list) else value


def plain(name, array):
    """A tensor to JSON: an output is text unless its name ends in `_bytes`."""
    if array.dtype != object:
        return array.tolist()
    assert not name.endswith("_bytes")
    return np.vectorize(bytes.decode, otypes=[object])(array).tolist()


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(0)
    model = cnn_lstm(SHAPE, 3, encoder=conv_pool((4,)), lstm_units=(5,))
    for weights in model.weights:
        deviation = 4 / np.prod(weights.shape[:-1]) ** 0.5 if len(weights.shape) > 1 else 0.1
        weights.assign(rng.normal(0, deviation, weights.shape))
    return model


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "trend"
    export(model, path, class_names=NAMES, version=7)
    return path


@pytest.fixture(scope="module")
def server(directory):
    """The port of a server of the exported model."""
    models = {p.name: tf.saved_model.load(str(p)) for p in directory.iterdir() if p.name.isdigit()}
    handler = type("Handler", (StandIn,), {"models": models})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield running.server_port
        running.shutdown()
        thread.join()


@pytest.fixture
def post(server):
    def send(body, path="/v1/models/trend:predict"):
        connection = http.client.HTTPConnection("127.0.0.1", server, timeout=60)
        try:
            connection.request("POST", path, json.dumps(body))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    return send


@pytest.fixture(scope="module")
def frames():
    rng = np.random.default_rng(1)
    level = rng.integers(0, 256, (3, 4, 1, 1, 3))
    return (level * rng.random((3, *SHAPE))).astype(np.uint8)


@pytest.fixture(scope="module")
def expected(model, frames):
    """What each of the three sequences should be answered."""
    probabilities = np.asarray(model(frames, training=False))
    assert np.ptp(probabilities, axis=0).max() > 0.05  # a mix-up would show
    return [
        {"probabilities": pytest.approx(p.tolist(), abs=1e-6), "class_id": i, "label": NAMES[i]}
        for p, i in zip(probabilities, probabilities.argmax(axis=1).tolist(), strict=True)
    ]


def columns(rows):
    return {name: [row[name] for row in rows] for name in rows[0]}


def files(frames, format="PNG"):
    """Frames `(B, T, H, W, C)` as nested lists of encoded images in JSON's form."""
    if frames.ndim > 3:
        return [files(part, format) for part in frames]
    buffer = io.BytesIO()
    Image.fromarray(frames).save(buffer, format)
    return {"b64": base64.b64encode(buffer.getvalue()).decode()}


class TestPredict:
    def test_rows(self, post, frames, expected):
        assert post({"instances": frames.tolist()}) == (200, {"predictions": expected})

    def test_rows_with_names(self, post, frames, expected):
        body = {"instances": [{"frames": sequence.tolist()} for sequence in frames]}
        assert post(body) == (200, {"predictions": expected})

    @pytest.mark.parametrize("named", [True, False])
    def test_columns(self, post, frames, expected, named):
        body = {"inputs": {"frames": frames.tolist()} if named else frames.tolist()}
        assert post(body) == (200, {"outputs": columns(expected)})

    def test_one_sequence_of_a_version(self, post, frames, expected):
        body = {"signature_name": "serving_default", "instances": frames[1:2].tolist()}
        status, answer = post(body, "/v1/models/trend/versions/7:predict")
        assert (status, answer) == (200, {"predictions": expected[1:2]})

    def test_images_by_rows(self, post, frames, expected):
        body = {"signature_name": "serve_images", "instances": files(frames)}
        assert post(body) == (200, {"predictions": expected})

    def test_images_by_columns(self, post, frames, expected):
        body = {"signature_name": "serve_images", "inputs": {"images": files(frames)}}
        assert post(body) == (200, {"outputs": columns(expected)})

    def test_images_of_another_size_and_kind(self, post, frames, expected):
        large = frames.repeat(3, axis=2).repeat(3, axis=3)  # each pixel as 3x3
        body = {"signature_name": "serve_images", "instances": files(large)}
        assert post(body) == (200, {"predictions": expected})
        body["instances"] = files(large, "JPEG")
        status, answer = post(body)
        assert status == 200  # JPEG loses a little
        for row, wanted in zip(answer["predictions"], expected, strict=True):
            assert row["probabilities"] == pytest.approx(wanted["probabilities"].expected, abs=0.1)

    def test_a_stream(self, post, frames, expected):
        body = {"signature_name": "init_states", "inputs": {"batch": 3}}
        status, answer = post(body)
        assert status == 200
        states = answer["outputs"]
        for t in range(4):
            inputs = {"frame": frames[:, t].tolist(), **states}
            status, answer = post({"signature_name": "step", "inputs": inputs})
            assert status == 200
            states = {name: answer["outputs"].pop(name) for name in states}
        assert answer["outputs"]["probabilities"] == [row["probabilities"] for row in expected]

    def test_a_stream_by_rows(self, post, frames):
        """Each row has its own frame and states, so streams of several callers can share a call."""
        rows = [
            {"frame": f.tolist(), "lstm1_h": [0.0] * 5, "lstm1_c": [0.0] * 5} for f in frames[:, 0]
        ]
        status, together = post({"signature_name": "step", "instances": rows})
        assert status == 200
        for row, answer in zip(rows, together["predictions"], strict=True):
            _, alone = post({"signature_name": "step", "instances": [row]})
            for name, value in alone["predictions"][0].items():
                assert value == pytest.approx(answer[name], abs=1e-6)


class TestRefusals:
    """Each bad request is answered by an error that says what is wrong; none by a guess."""

    @pytest.mark.parametrize(
        ("shape", "message"),
        [
            ((1, 3, 12, 10, 3), "[1,3,12,10,3] is not compat"),
            ((4, 3, 12, 10, 3), "[4,3,12,10,3] is not compat"),
            ((4, 12, 10, 3), "[4,12,10,3] is not compatible"),
            ((1, 4, 10, 12, 3), "expected shape [?,4,12,10,3]"),
            ((0, *SHAPE), "is not compatible"),
        ],
        ids=["T", "T that folds", "rank", "size", "empty"],
    )
    def test_shapes(self, post, shape, message):
        status, answer = post({"inputs": np.zeros(shape, int).tolist()})
        assert status == 400
        assert message in answer["error"]

    def test_no_streams(self, post):
        status, answer = post({"inputs": {"batch": 0}, "signature_name": "init_states"})
        assert status == 400
        assert "`batch`: expected 1 or more" in answer["error"]

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "`images`: expected encoded PNG or JPEG files; something else is at"),
            (b"<svg>no image of a kind that can be decoded</svg>", "expected encoded PNG or JPEG"),
            (b"\x89PNG\r\n\x1a\n" + b"\0" * 99, "Invalid PNG"),
            (b"\xff\xd8\xff" + b"\0" * 99, "Invalid JPEG"),
        ],
        ids=["empty", "svg", "png", "jpeg"],
    )
    def test_a_corrupt_image_among_good_ones(self, post, frames, content, message):
        images = files(frames)
        images[1][2] = {"b64": base64.b64encode(content).decode()}
        status, answer = post({"signature_name": "serve_images", "instances": images})
        assert status == 400
        assert message in answer["error"]

    def test_images_of_another_number_than_frames(self, post, frames):
        images = [row[:3] for row in files(frames)]
        status, answer = post({"signature_name": "serve_images", "instances": images})
        assert status == 400
        assert "[3,3] is not compatible with expected shape [?,4]" in answer["error"]

    def test_states_of_another_number_of_streams(self, post, frames):
        states = {name: np.zeros((2, 5)).tolist() for name in ("lstm1_h", "lstm1_c")}
        inputs = {"frame": frames[:, 0].tolist(), **states}
        status, answer = post({"signature_name": "step", "inputs": inputs})
        assert status == 400
        assert "expected as many states as frames" in answer["error"]

    def test_pixels_that_are_none(self, post, frames):
        status, answer = post({"instances": (frames / 255).tolist()})
        assert (status, answer["error"]) == (400, "JSON Value not formattable as uint8")

    def test_requests_of_neither_or_both_forms(self, post, frames):
        for body in ({}, {"instances": frames.tolist(), "inputs": frames.tolist()}):
            status, answer = post(body)
            assert status == 400
            assert "either 'instances' or 'inputs'" in answer["error"]


class TestCommandLine:
    """`saved_model_cli`, which comes with TensorFlow."""

    def run(self, *words):
        program = Path(sys.executable).with_name("saved_model_cli")
        done = subprocess.run(
            [program, *map(str, words)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_shows_the_functions(self, directory):
        shown = self.run("show", "--dir", directory / "7", "--all")
        for name in ("serving_default", "serve_images", "init_states", "step"):
            assert f"signature_def['{name}']" in shown
        assert "dtype: DT_UINT8\n        shape: (-1, 4, 12, 10, 3)" in shown
        assert "dtype: DT_STRING\n        shape: (-1, 4)" in shown

    def test_runs_one(self, directory, frames, expected, tmp_path):
        np.save(tmp_path / "frames.npy", frames)
        self.run(
            *("run", "--dir", directory / "7", "--tag_set", "serve"),
            *("--signature_def", "serving_default", "--outdir", tmp_path),
            *("--inputs", f"frames={tmp_path / 'frames.npy'}"),
        )
        received = np.load(tmp_path / "probabilities.npy").tolist()
        assert received == [row["probabilities"] for row in expected]
