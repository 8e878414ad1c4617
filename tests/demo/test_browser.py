"""The page of a run in a real browser: a person draws digits, and the page names their trend."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from urllib.parse import urlsplit

import keras
import numpy as np
import pytest
from PIL import Image

from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.augmentation import Augmentation
from keras_cnnlstm.data.datasets import load_digits
from keras_cnnlstm.data.digit_batches import labeled_images
from keras_cnnlstm.data.run_files import save_task
from keras_cnnlstm.demo.drawings import GLYPHS
from keras_cnnlstm.evaluation.reader import digit_reader
from keras_cnnlstm.models.cnn_lstm import cnn_lstm
from keras_cnnlstm.models.graph import every_step_model, split_model
from keras_cnnlstm.tasks.trends import Trend, TrendAtEveryStep
from keras_cnnlstm.training.build import build_model
from keras_cnnlstm.training.run_directory import load_run, new_run_dir, save_model

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium, which is installed as apt-get install chromium"
)
FLAGS = [  # the last ones keep the browser itself from calling anyone
    "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on the bundled digits, trained in parts, which takes a sixth of the usual time.

    First the reader of single digits; then, on how likely it finds each digit, the LSTM. Joined
    they are as sure of a drawing as a person is: no answer here hangs on a processor's last digits.
    """
    config = TrainConfig(encoder="small_cnn", lstm_units=(64,), precision="float32",
                         run_dir=str(tmp_path_factory.mktemp("demo") / "run")).resolved  # fmt: skip
    images, task = load_digits().train, Trend()
    keras.utils.set_random_seed(0)
    path = new_run_dir(config)
    save_task(path, config, task)
    save_model(build_model(config, task, images.image_shape), path / "model.keras")
    reader = digit_reader(load_run(path), steps=250)
    parts = [reader.get_layer(name) for name in ("small_cnn", "dense1", "probabilities")]
    model = cnn_lstm((4, *images.image_shape), encoder=keras.Sequential(parts, name="reader"),
                     lstm_units=(64,), wrap="encoder")  # fmt: skip
    seen, labels = [], []
    augmentation = Augmentation(affine=0.7)
    data = labeled_images(images, batch_size=500, seed=0, augmentation=augmentation)
    for frames, digits in data.take(8):
        seen.append(reader.predict_on_batch(np.asarray(frames)))
        labels.append(np.asarray(digits))
    seen, labels = np.concatenate(seen), np.concatenate(labels)  # (N, 10), (N,)
    rng, task = np.random.default_rng(0), TrendAtEveryStep(permuted=True)
    wanted = rng.integers(0, task.num_outputs, 60_000)
    drawn = task.sample(len(wanted), rng, labels=wanted)  # (N, T)
    chosen = np.empty_like(drawn)
    for digit in range(10):
        places = drawn == digit
        chosen[places] = rng.choice(np.flatnonzero(labels == digit), places.sum())
    learner = every_step_model(split_model(model)[1], task.orders)
    schedule = keras.optimizers.schedules.CosineDecay(1e-2, len(wanted) // 128)
    learner.compile(keras.optimizers.Adam(schedule), "sparse_categorical_crossentropy")
    learner.fit(seen[chosen], task.targets(drawn), batch_size=128, verbose=0)
    save_model(model, path / "model.keras")
    return path


@pytest.fixture(scope="module")
def server(run, tmp_path_factory):
    """The command, serving the run; its process, its address and its folder for temporary files."""
    folder = tmp_path_factory.mktemp("temporary")
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_cnnlstm", "demo", str(run)], cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    line = process.stdout.readline()
    assert re.match(r"open http://127\.0\.0\.1:\d+/ in a browser; Ctrl-C ends it", line), (
        line + process.stderr.read()
    )
    yield process, line.split()[1], folder
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@contextlib.contextmanager
def opened(browser, address, **options):
    """The page in a new window; no request of it may leave the machine, and no script fail."""
    context = browser.new_context(**options)
    page, asked, errors = context.new_page(), [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.wait_for_selector(".pad canvas")
    yield page
    hosts = {urlsplit(url).hostname for url in asked if not url.startswith(("data:", "blob:"))}
    assert hosts == {"127.0.0.1"}
    assert errors == []
    context.close()


@pytest.fixture(scope="module")
def desktop(browser, server):
    with opened(browser, server[1], viewport={"width": 1280, "height": 900}) as page:
        yield page


@pytest.fixture
def page(desktop):
    """The page at desktop width, nothing drawn."""
    yield desktop
    desktop.get_by_role("button", name="Wipe all").click()
    desktop.wait_for_selector(".answer.empty")


def draw(page, digits, *, start=0):
    """Draws digits with the mouse, one in each box, at a size and place that differ a little."""
    for n, digit in enumerate(digits, start=start):
        box = page.locator(".pad canvas").nth(n)
        box.scroll_into_view_if_needed()
        place = box.bounding_box()
        for stroke in GLYPHS[digit]:
            points = [
                (place["x"] + place["width"] * (0.1 + 0.72 * x),
                 place["y"] + place["height"] * (0.02 * n + 0.85 * y))
                for x, y in stroke
            ]  # fmt: skip
            page.mouse.move(*points[0])
            page.mouse.down()
            for point in points[1:]:
                page.mouse.move(*point, steps=5)
            page.mouse.up()


def answer(page, frames):
    """What the page says in large letters, when it has read so many frames."""
    page.wait_for_function(
        f"document.querySelectorAll('.answer .frames li').length == {frames}", timeout=20_000
    )
    return page.inner_text(".answer .headline")


@pytest.mark.parametrize(
    ("digits", "trend"),
    [
        ((1, 4, 7, 9), "Rising"),
        ((8, 5, 3, 6), "Falling, then rising"),
        ((7, 3, 8, 2), "Falling, then rising, then falling"),
    ],
)
def test_drawn_digits_get_the_trend_that_a_person_would_name(page, digits, trend):
    draw(page, digits)
    assert answer(page, 4) == trend
    assert page.locator(".bar").count() == 7
    read = page.locator(".frames .read b").all_inner_texts()
    assert tuple(map(int, read)) == digits
    assert "guess" not in page.inner_text(".answer")


def test_the_answer_changes_with_each_digit_and_with_what_is_wiped(page):
    assert "the answer appears here" in page.inner_text(".answer")
    draw(page, (1, 4))
    answer(page, 2)
    assert "After 2 of 4 digits: a guess" in page.inner_text(".answer")
    draw(page, (7, 9), start=2)
    assert answer(page, 4) == "Rising"
    page.get_by_role("button", name="Wipe box 4").click()
    answer(page, 3)
    draw(page, (2,), start=3)
    assert answer(page, 4) == "Rising, then falling"
    page.get_by_role("button", name="Undo").click()
    answer(page, 3)
    page.get_by_role("button", name="Wipe all").click()
    page.wait_for_selector(".answer.empty")
    page.get_by_role("button", name="Draw some for me").click()
    assert answer(page, 4)


def test_a_finger_draws_on_a_phone_and_nothing_is_cut(browser, server):
    phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
    with opened(browser, server[1], **phone) as page:
        touch = page.context.new_cdp_session(page)
        for box in page.locator(".pad canvas").all():  # a line down the middle of each: ones
            box.scroll_into_view_if_needed()
            place = box.bounding_box()
            for i in range(12):
                point = {"x": place["x"] + place["width"] / 2,
                         "y": place["y"] + place["height"] * (0.2 + 0.06 * i)}  # fmt: skip
                kind, points = ("touchMove", [point]) if i < 11 else ("touchEnd", [])
                kind = kind if i else "touchStart"
                touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        assert answer(page, 4)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        for part in page.locator(".pad .box, .answer, .bar, .frames li").all():
            place = part.bounding_box()
            assert place["x"] >= 0
            assert place["x"] + place["width"] <= 390


def test_files_are_answered_and_bad_ones_are_one_line(page, tmp_path, server):
    page.get_by_text("Or drop images").click()
    test, files = load_digits().test, []
    for n, digit in enumerate((9, 6, 4, 1)):
        files.append(tmp_path / f"{n}.png")
        image = test.images[test.labels == digit][3, ..., 0]
        Image.fromarray(255 - np.pad(image, 20)).resize((300, 260)).save(files[-1])
    drop = page.locator("input[type=file]")
    drop.set_input_files(files)
    assert answer(page, 4) == "Falling"
    (tmp_path / "broken.png").write_bytes(files[0].read_bytes()[:90])
    (tmp_path / "page.html").write_text("<script>alert(1)</script>")
    Image.new("1", (20_000, 20_000)).save(tmp_path / "huge.png")
    for name in ("broken.png", "page.html", "huge.png"):
        page.get_by_role("button", name="Clear").first.click()
        page.wait_for_selector(".answer.empty")
        drop.set_input_files(tmp_path / name)
        page.wait_for_selector(".answer.problem")
        message = page.inner_text(".answer.problem")
        assert message.startswith(f"{name}: expected an image")
        assert "Traceback" not in message
        assert str(server[2]) not in message
    draw(page, (1, 4, 7, 9))  # the server is still there
    assert answer(page, 4) == "Rising"


def test_ctrl_c_ends_it_and_nothing_is_left(server):
    process, address, folder = server
    assert any(folder.iterdir())
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "stopped; what was drawn and dropped is gone\n")
    assert "Traceback" not in err
    assert list(folder.iterdir()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((urlsplit(address).hostname, urlsplit(address).port), timeout=5)
