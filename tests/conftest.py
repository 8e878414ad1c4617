"""Fixtures that several test modules share."""

import re
import signal

import keras
import numpy as np
import pytest

from keras_cnnlstm.data.datasets import LabeledImages


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """The user's folder of decoded clips, which no test may touch, lies elsewhere."""
    folder = str(tmp_path_factory.mktemp("cache"))
    with pytest.MonkeyPatch.context() as patch:
        for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
            patch.setenv(name, folder)
        yield


@pytest.fixture(scope="session")
def coded_images():
    """55 images of 6x5 pixels, whose values encode the digit and the index of the image.

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
def reloaded(tmp_path):
    """Saves a model and loads it as one of unknown origin."""

    def reloaded(model):
        model.save(tmp_path / "model.keras")
        return keras.models.load_model(tmp_path / "model.keras", safe_mode=True)

    return reloaded


@pytest.fixture
def policy(request):
    """The dtype policy that the test asks for with `indirect=True`, while it runs."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy(before)


class Hang(BaseException):
    """A function did not return; no function may raise or catch this."""


_HANG = 120  # seconds; a small input takes less even on a busy machine
_CASES = pytest.StashKey[int]()
_RECORDS = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def ends_well(pytestconfig):
    """Calls a function with hostile input; it must return, or raise a good error. Counts.

    A good error is one line that names one of `names`: the arguments, or the file.
    """
    pytestconfig.stash[_CASES] = 0

    def hang(number, frame):
        raise Hang(f"no answer in {_HANG} s")

    def ends_well(call, *names, errors=(ValueError, OSError, FloatingPointError)):
        pytestconfig.stash[_CASES] += 1
        before = signal.signal(signal.SIGALRM, hang)
        signal.alarm(_HANG)
        try:
            return call()
        except errors as error:
            message = str(error)
            assert message.strip(), f"{type(error).__name__} without a message"
            assert len(message.splitlines()) == 1, message
            assert len(message) < 2000, message
            patterns = {name: rf"(?<!\w){re.escape(name)}(?!\w)" for name in names}
            named = [name for name, pattern in patterns.items() if re.search(pattern, message)]
            assert named, f"{message!r} names none of {names}"
            return error
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)

    return ends_well


@pytest.fixture
def record(pytestconfig):
    """Prints a line, such as a measured figure, below the results."""
    return pytestconfig.stash.setdefault(_RECORDS, []).append


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    """Adds the counts and records of a process of pytest-xdist."""
    output, stash = getattr(node, "workeroutput", {}), node.config.stash
    stash[_CASES] = stash.get(_CASES, 0) + output.get("hostile cases", 0)
    stash.setdefault(_RECORDS, []).extend(output.get("records", []))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["hostile cases"] = session.config.stash.get(_CASES, 0)
        session.config.workeroutput["records"] = session.config.stash.get(_RECORDS, [])


def pytest_terminal_summary(terminalreporter, config):
    for line in config.stash.get(_RECORDS, []):
        terminalreporter.write_line(line)
    if cases := config.stash.get(_CASES, 0):
        terminalreporter.write_line(f"hostile cases: {cases:,}")
