"""What the page of a run answers, without a browser: each task, files, and what is no drawing."""

import contextlib
import html.parser
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import types
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.cli import main
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.digit_source import digit_task
from keras_cnnlstm.data.run_files import save_task
from keras_cnnlstm.demo import page
from keras_cnnlstm.demo.drawings import GLYPHS, PENS, as_digit, draw_strokes
from keras_cnnlstm.demo.page import Step, pad
from keras_cnnlstm.demo.server import serve
from keras_cnnlstm.demo.session import DemoAnswers
from keras_cnnlstm.export.predictor import Predictor, open_predictor
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.tasks import TASKS, Classes
from keras_cnnlstm.training.build import build_model
from keras_cnnlstm.training.run_directory import load_run, new_run_dir, save_model

SMALL = {"encoder": "small_cnn", "lstm_units": (4,)}
RUNS = {
    "trend": SMALL,
    "bidirectional": {**SMALL, "bidirectional": True, "length": 3},
    "digits": {**SMALL, "task": "digits", "length": 3, "min_length": 1},
    "both_ways": {**SMALL, "task": "digits", "length": 3, "min_length": 1, "bidirectional": True},
    "running_sum": {**SMALL, "task": "running_sum", "length": 3},
    "label": {"model": "scan_lstm", "scan_size": 4, "lstm_units": (4,)},
    "text": {"model": "crnn", "length": 3, "lstm_units": (4,)},
    "clip": {**SMALL, "image_size": (12, 10), "length": 3},
}
NAMES = ("left", "right", "<b>up</b>")
TASK = {name: task() for name, task in TASKS.items() if task.draws_digits} | {
    "clip": Classes(NAMES)
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each kind, not trained at all, under its name."""
    folder, images = tmp_path_factory.mktemp("runs"), types.SimpleNamespace(num_classes=10)
    for name, options in RUNS.items():
        clips = name == "clip"
        data = {"data": str(folder)} if clips else {}
        config = TrainConfig(**options, **data, run_dir=str(folder / name)).resolved
        path = new_run_dir(config)
        task = Classes(NAMES, 3) if clips else digit_task(config, images)
        save_model(build_model(config, task, (12, 10, 3) if clips else (28, 28, 1)),
                   path / "model.keras")  # fmt: skip
        save_task(path, config, task)
    return {name: load_run(folder / name) for name in RUNS}


def drawn(*digits, look="scan"):
    """Frames of digits as they should be, `(n, 28, 28, 1)`."""
    frames = [as_digit(draw_strokes(GLYPHS[d], pen=PENS[look]), look=look) for d in digits]
    return np.stack(frames)[..., None]


def boxes(*digits):
    """What a browser sends: lists of lists, and nothing for an empty box."""
    return [[] if d is None else json.loads(json.dumps(GLYPHS[d])) for d in digits]


class TestDrawn:
    def test_the_answers_are_those_of_the_model_for_the_frames_so_far(self, runs):
        steps = list(DemoAnswers(runs["trend"]).from_boxes(boxes(7, 3, 8, 2)))
        frames = drawn(7, 3, 8, 2)
        np.testing.assert_array_equal([step.frame for step in steps], frames)
        whole = open_predictor(runs["trend"].path).answer_frames(frames)
        assert steps[-1].answer["label"] == whole["label"]
        any_length = cnn_lstm((None, 28, 28, 1), 7, encoder="small_cnn", lstm_units=(4,))
        any_length.set_weights(runs["trend"].model.get_weights())
        for n, step in enumerate(steps, start=1):
            expected = any_length(frames[None, :n], training=False)[0]
            shares = list(step.answer["probabilities"].values())
            np.testing.assert_allclose(shares, expected, atol=1e-5)

    def test_empty_boxes_are_left_out(self, runs):
        answers = DemoAnswers(runs["trend"])
        steps = list(answers.from_boxes(boxes(None, 7, None, 3)))
        np.testing.assert_array_equal([step.frame for step in steps], drawn(7, 3))
        assert list(answers.from_boxes(boxes(None, None))) == []
        assert list(answers.from_boxes([])) == []

    def test_a_model_that_needs_all_frames_waits_for_them(self, runs):
        steps = list(DemoAnswers(runs["bidirectional"]).from_boxes(boxes(1, 2, 3)))
        assert [step.answer is None for step in steps] == [True, True, False]
        whole = runs["bidirectional"].model(drawn(1, 2, 3)[None], training=False)[0]
        shares = list(steps[-1].answer["probabilities"].values())
        np.testing.assert_allclose(shares, whole, atol=1e-5)

    @pytest.mark.parametrize("name", ["digits", "both_ways", "running_sum"])
    def test_an_answer_at_each_step_for_any_number_of_them(self, runs, name):
        frames = drawn(4, 0)
        steps = list(DemoAnswers(runs[name]).from_boxes(boxes(4, 0, None)))
        assert [len(step.answer["steps"]) for step in steps] == [1, 2]
        given = {"frames": np.pad(frames, [(0, 1), *[(0, 0)] * 3])[None], "lengths": np.array([2])}
        expected = np.asarray(runs[name].model(given, training=False))[0, :2]
        for answer, row in zip(steps[-1].answer["steps"], expected, strict=True):
            found = answer.get("values") or list(answer["probabilities"].values())
            np.testing.assert_allclose(found, row, atol=1e-5)

    def test_one_image(self, runs):
        (step,) = DemoAnswers(runs["label"]).from_boxes(boxes(6))
        expected = runs["label"].model(drawn(6), training=False)[0]
        np.testing.assert_allclose(list(step.answer["probabilities"].values()), expected, atol=1e-5)

    def test_a_text_is_a_strip_of_the_digits_with_black_at_its_end(self, runs, monkeypatch):
        answers, asked = DemoAnswers(runs["text"]), []
        assert answers.frame_shape == (28, 28, 1)
        monkeypatch.setattr(
            Predictor, "answer_frames", lambda self, frames: asked.append(frames) or {"text": ""}
        )
        assert len(list(answers.from_boxes(boxes(1, 9)))) == 2
        one, nine = drawn(1, 9)
        black = np.zeros_like(one)
        np.testing.assert_array_equal(asked[0], np.hstack([one, black, black])[None])
        np.testing.assert_array_equal(asked[1], np.hstack([one, nine, black])[None])

    def test_a_reader_of_other_images(self, runs):
        reader = types.SimpleNamespace(input_shape=(None, 9, 9, 1))
        with pytest.raises(ValueError, match=r"DemoAnswers: `reader` must read images \("):
            DemoAnswers(runs["trend"], reader)

    def test_what_a_reader_reads(self, runs):
        def predict(frames):
            seen.append(frames)
            return np.eye(10)[[7, 3]] * 0.5 + 0.05

        seen = []
        shape = (None, *runs["trend"].model.input_shape[2:])
        reader = types.SimpleNamespace(predict_on_batch=predict, input_shape=shape)
        answers = DemoAnswers(runs["trend"], reader)
        steps = list(answers.from_boxes(boxes(7, 3)))
        assert [step.digit for step in steps] == [(7, 0.55), (3, 0.55)]
        np.testing.assert_array_equal(seen, [drawn(7, 3)])

    @pytest.mark.parametrize(
        "sent",
        [None, 3, "boxes", {"a": 1}, [[]] * 5, [1], [[1]], [[[]]], [[[[1]]]], [[[["a", "b"]]]],
         [[[[0, None]]]], [[[[0, 1e400]]]], [{"x": 2}], [["0123"]]],
    )  # fmt: skip
    def test_what_is_no_drawing_is_one_line(self, runs, sent):
        with pytest.raises(ValueError, match=r"(boxes: |`strokes` must be ).*received") as error:
            list(DemoAnswers(runs["trend"]).from_boxes(sent))
        assert "\n" not in str(error.value)


class TestFiles:
    @pytest.fixture
    def save(self, tmp_path):
        def save(name, pixels, **options):
            Image.fromarray(pixels).save(tmp_path / name, **options)
            return tmp_path / name

        return save

    def seen(self, run, *paths):
        return np.stack([step.frame for step in DemoAnswers(run).from_files(paths)])

    def test_frames_of_the_models_size_stay_as_they_are_in_natural_order(self, runs, save):
        images = np.random.default_rng(0).integers(0, 256, (3, 28, 28), np.uint8)
        paths = [save(f"{n}.png", images[i]) for i, n in enumerate((2, 10, 1))]
        frames = self.seen(runs["trend"], *paths)
        np.testing.assert_array_equal(frames[..., 0], images[[2, 0, 1]])

    def test_a_photograph_is_brought_to_the_look_of_the_data(self, runs, save):
        ink = np.pad(draw_strokes(GLYPHS[5], pen=PENS["scan"]), 50)
        photo = save("5.png", np.stack([240 - 0.8 * ink] * 3, axis=-1).astype(np.uint8))
        np.testing.assert_allclose(self.seen(runs["trend"], photo), drawn(5), atol=3)

    @pytest.mark.parametrize("colour", [0, 255])
    def test_ink_without_a_ground_is_seen(self, runs, save, colour):
        ink = np.pad(draw_strokes(GLYPHS[5], pen=PENS["scan"]), 50)
        bare = np.full((*ink.shape, 4), colour, np.uint8)
        bare[..., 3] = ink  # transparent elsewhere
        np.testing.assert_allclose(self.seen(runs["trend"], save("5.png", bare)), drawn(5), atol=3)

    def test_a_gif_is_a_sequence(self, runs, tmp_path):
        frames = [Image.fromarray(np.pad(draw_strokes(GLYPHS[d]), 30)[:320, :260]) for d in (3, 8)]
        frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
        assert len(self.seen(runs["trend"], tmp_path / "a.gif")) == 2

    def test_a_strip_is_one_image(self, runs, save):
        row = np.hstack([np.pad(draw_strokes(GLYPHS[d]), 30)[:310, :250] for d in (3, 8, 1)])
        (frame,) = self.seen(runs["text"], save("row.png", 255 - row))
        assert frame.shape == (28, 84, 1)
        assert frame[:, :2].max() == 0 < frame.max()

    def test_clips_are_read_as_predict_reads_them(self, runs, tmp_path):
        rng = np.random.default_rng(1)
        images = [Image.fromarray(rng.integers(0, 256, (12, 10, 3), np.uint8)) for _ in range(7)]
        (tmp_path / "clip").mkdir()
        for n, image in enumerate(images, start=1):
            image.save(tmp_path / "clip" / f"{n}.png")
        images[0].save(tmp_path / "clip.gif", save_all=True, append_images=images[1:])
        predictor = open_predictor(runs["clip"].path)
        for given, path in (
            (sorted((tmp_path / "clip").iterdir()), tmp_path / "clip"),
            ([tmp_path / "clip.gif"], tmp_path / "clip.gif"),
        ):
            steps = list(DemoAnswers(runs["clip"]).from_files(given))
            frames, indices, count = predictor.clip_frames(path)
            assert (len(indices), count) == (3, 7)
            np.testing.assert_array_equal([step.frame for step in steps], frames)
            expected = predictor.answer_clip(path)["probabilities"]
            assert steps[-1].answer["probabilities"] == pytest.approx(expected, abs=1e-5)

    @pytest.mark.parametrize("task", ["trend", "clip"])
    @pytest.mark.parametrize(
        ("name", "content"),
        [("a.png", b"no image"), ("a.gif", b"GIF89a"), ("a.mp4", b"no video"), ("a.txt", b"text"),
         ("a.png", b""), ("a", b"\x89PNG\r\n\x1a\n"), ("a.svg", b"<svg/>")],
    )  # fmt: skip
    def test_what_cannot_be_read_is_one_line(self, runs, tmp_path, task, name, content):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name}: expected an? .*") as error:
            list(DemoAnswers(runs[task]).from_files([tmp_path / name]))
        assert "\n" not in str(error.value)

    def test_an_image_too_large_to_decode(self, runs, tmp_path):
        Image.new("1", (30_000, 30_000)).save(tmp_path / "huge.png")
        with pytest.raises(ValueError, match=r"huge\.png: expected .*(64,000,000 pixels|pixels)"):
            list(DemoAnswers(runs["trend"]).from_files([tmp_path / "huge.png"]))

    def test_an_empty_image(self, runs, save):
        with pytest.raises(ValueError, match=r"must show a digit on an empty ground"):
            self.seen(runs["trend"], save("a.png", np.zeros((9, 9), "uint8")))

    @pytest.mark.parametrize(("task", "most"), [("trend", 4), ("label", 1), ("text", 1)])
    def test_too_many(self, runs, save, task, most):
        paths = [save(f"{n}.png", np.eye(28, dtype=np.uint8) * 255) for n in range(5)]
        with pytest.raises(ValueError, match=f"files: expected {most} images or frames at most"):
            list(DemoAnswers(runs[task]).from_files(paths))

    @pytest.mark.parametrize("count", [0, 1001])
    def test_no_number_of_files(self, runs, tmp_path, count):
        with pytest.raises(ValueError, match=f"files: expected 1 to 1000; received {count}"):
            DemoAnswers(runs["trend"]).from_files([tmp_path / "a.png"] * count)


FRAME = np.zeros((4, 4, 1), np.uint8)


def answer(label, *rest):
    return {"label": label, "probabilities": {label: 0.75, **dict.fromkeys(rest, 0.25 / len(rest))}}


class TestPage:
    def text(self, page):
        """The words of a page, after a check that its elements close."""
        open_ones, words = [], []

        class Reader(html.parser.HTMLParser):
            def handle_starttag(self, tag, attributes):
                if tag != "img":
                    open_ones.append(tag)

            def handle_endtag(self, tag):
                assert open_ones.pop() == tag

            def handle_data(self, data):
                words.append(data)

        Reader().feed(page)
        assert not open_ones
        return " ".join(" ".join(words).split())

    def test_a_trend_is_said_in_words_and_is_a_guess_before_its_end(self):
        names = ("constant", "falling-rising")
        steps = [Step(FRAME, answer(*names)), Step(FRAME, answer(*names[::-1]))]
        shown = page.answer(steps, TASK["trend"], 2)
        assert "After 2 of 2 digits Falling, then rising" in self.text(shown)
        assert "75%" in shown
        assert shown.count('class="bar') == 2 + 1
        assert 'class="headline guess"' not in shown
        before = page.answer(steps[:1], TASK["trend"], 2)
        assert "After 1 of 2 digits: a guess, until all are there Constant" in self.text(before)
        assert 'class="headline guess"' in before

    def test_digits_are_in_a_row_and_bars_are_those_of_the_last(self):
        steps = [answer("7", "1"), answer("3", "8")]
        shown = page.answer([Step(FRAME, {"steps": steps})], TASK["digits"], 3)
        assert "7 3" in self.text(shown)
        assert re.findall(r'<div class="bar(?: best)?"><span>(\d)', shown) == ["3", "8"]

    def test_sums_are_numbers_beside_what_was_read(self):
        values = [{"values": [7.02]}, {"values": [10.1]}]
        steps = [Step(FRAME, {"steps": values[: n + 1]}, (d, 0.9)) for n, d in enumerate((7, 3))]
        words = self.text(page.answer(steps, TASK["running_sum"], 8))
        assert "10.10 read: 7 + 3 = 10" in words
        assert "read as 7 90% → 7.02" in words

    @pytest.mark.parametrize(
        ("known", "task", "text"),
        [
            ({"text": "7382"}, "text", "7382"),
            (None, "trend", "waiting for all 4"),
            (answer("left", "right") | {"unsure": True}, "clip", "unsure, perhaps left"),
        ],
    )
    def test_texts_models_that_wait_and_unsure_answers(self, known, task, text):
        assert text in self.text(page.answer([Step(FRAME, known)], TASK[task], 4))

    def test_names_and_messages_cannot_bring_markup(self, runs):
        shown = page.answer([Step(FRAME, answer("<script>x", "<img src=y>"))], TASK["clip"], 3)
        assert "<script" not in shown
        assert "<img src=y" not in shown
        assert "<b>" not in page.problem("<b>")
        assert "<b>" not in page.intro(TASK["clip"], 3, ["<b>"])

    def test_only_the_likeliest_of_many_classes_have_bars(self):
        shares = {f"class {n}": n / 4950 for n in range(100)}
        step = Step(FRAME, {"label": "class 99", "probabilities": shares})
        shown = page.answer([step], TASK["clip"], 3)
        assert shown.count('class="bar') == 12 + 1
        assert "class 88<" in shown
        assert "class 87<" not in shown

    def test_frames_are_images_within_the_page(self):
        shown = page.answer([Step(np.full((4, 4, 3), 9, np.uint8), None)] * 2, TASK["clip"], 3)
        assert len(re.findall(r'src="data:image/png;base64,[\w+/=]+"', shown)) == 2
        assert "http" not in shown

    def test_before_the_first_frame(self):
        assert "Draw a digit" in page.answer([], TASK["trend"], 4)
        assert "Drop a clip" in page.answer([], TASK["clip"], 4)

    @pytest.mark.parametrize("count", [1, 4, 8, 32])
    def test_a_box_for_each_digit(self, count):
        page = pad(count, GLYPHS)
        assert page.count("<canvas") == count
        self.text(page)

    @pytest.mark.parametrize("task", TASK)
    def test_every_task_has_a_title_that_asks(self, task):
        assert "? " in self.text(page.intro(TASK[task], 4))


class TestCommand:
    @pytest.fixture
    def fails(self, capsys):
        """Runs `demo`, expects exit code 2 and returns its one line on stderr."""

        def fails(*arguments):
            assert main.main(["demo", *map(str, arguments)]) == 2
            out, err = capsys.readouterr()
            assert (out, err.count("\n")) == ("", 1)
            return err

        return fails

    def test_without_gradio(self, fails, runs, monkeypatch):
        monkeypatch.setitem(sys.modules, "gradio", None)  # to import it is an error now
        assert 'pip install "keras-cnnlstm[demo]"' in fails(runs["trend"].path)

    @pytest.fixture
    def gradio(self, monkeypatch):
        """In its place, since it takes seconds to load: none of these gets as far."""
        monkeypatch.setitem(sys.modules, "gradio", types.ModuleType("gradio"))

    def test_a_port_that_is_taken(self, fails, runs, gradio):
        with socket.create_server(("127.0.0.1", 0)) as server:
            taken = server.getsockname()[1]
            line = fails(runs["trend"].path, "--port", taken)
        assert "port: expected one that is free at host 127.0.0.1" in line
        assert f"received {taken} (" in line

    @pytest.mark.parametrize(
        ("flags", "message"),
        [
            (["--port", "70000"], "port: expected 1 to 65535; received 70000"),
            (["--port", "-1"], "port: expected 1 to 65535; received -1"),
            (["--host", "a\0b"], r"host: expected a name or address of this machine"),
            (["--host", "300.1.1.1"], r"host: expected a name .*; received '300\.1\.1\.1' \("),
            (["--host", "192.0.2.1", "--port", "7860"], r"free at host 192\.0\.2\.1, .*--port"),
        ],
    )
    def test_no_address_of_this_machine(self, fails, runs, gradio, flags, message):
        assert re.search(message, fails(runs["trend"].path, *flags))

    def test_no_run(self, fails, tmp_path, gradio):
        assert "expected a run directory" in fails(tmp_path / "none")
        assert "expected a run directory" in fails(tmp_path)

    def test_settings_of_the_process_are_as_before(self, tmp_path, gradio, monkeypatch):
        monkeypatch.setenv("GRADIO_TEMP_DIR", "mine")
        before, interrupt = dict(os.environ), signal.getsignal(signal.SIGINT)
        with pytest.raises(FileNotFoundError):
            serve(tmp_path)
        assert dict(os.environ) == before
        assert signal.getsignal(signal.SIGINT) is interrupt

    def test_help_says_what_it_is(self):
        command = [sys.executable, "-m", "keras_cnnlstm", "demo", "--help"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "draw digits, or drop a clip" in " ".join(done.stdout.split())


class TestNames:
    """A site whose name leads to this machine (DNS rebinding) gets nothing from the page."""

    OTHERS = ("evil.example", "evil.example:7860", "localhost.evil.example", "localhost@evil", "")

    @pytest.mark.parametrize(
        ("host", "own", "others"),
        [
            ("127.0.0.1", ["localhost", "127.0.0.1"], ["192.0.2.7", socket.gethostname()]),
            ("0.0.0.0", ["localhost", "192.0.2.7", socket.gethostname()], ["192.0.2.7.example"]),
        ],
    )
    def test_requests_for_other_names_are_refused(self, runs, host, own, others):
        command = [sys.executable, "-m", "keras_cnnlstm", "demo", runs["clip"].path, "--host", host]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            port = urlsplit(process.stdout.readline().split()[1]).port
            found = {name: self.status(port, name) for name in (*own, *others, *self.OTHERS)}
            upload = self.status(port, "evil.example", "POST", "/gradio_api/upload")
            process.terminate()
            process.communicate(timeout=120)
        assert found == dict.fromkeys(own, 200) | dict.fromkeys((*others, *self.OTHERS), 400)
        assert (upload, process.returncode) == (400, 0)

    def status(self, port, name, method="GET", path="/"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, headers={"Host": name})
            return connection.getresponse().status
