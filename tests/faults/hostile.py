"""What hostile arguments are drawn from, and tables of the functions that receive them.

Most arguments that are drawn fit, so that each check is reached. `ends_well` judges the result.
"""

import functools
import itertools
import math
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from keras_cnnlstm.data import Clip, LabeledImages
from keras_cnnlstm.data.run_files import save_task
from keras_cnnlstm.models import cnn_lstm
from keras_cnnlstm.training import Run

SMALL = {"encoder": "small_cnn", "lstm_units": (2,)}
IMAGES = LabeledImages(
    np.arange(20 * 64, dtype=np.int64).astype("uint8").reshape(20, 8, 8, 1), np.arange(20) % 10
)
PATHS = ["no/such", "/dev/null/x", Path("no")]
CLIPS = [Clip(Path(f"{name}/{i}"), name, f"{name}/{i}") for name in "ab" for i in range(5)]

ANYTHING = st.sampled_from(
    [
        None, True, 0, -1, 1, 2, 3, 7, 33, 10**5, 10**9, 2**31, 2**63, 10**18, -(2**64), 10**30,
        0.0, 0.5, 1.0, -0.5, 1e300, math.nan, math.inf, -math.inf, 1j, "", "a", "3", "\n\0",
        "é" * 300, b"x", [], [1], [1, 2, 3], [[1], [2, 3]], (), (4,), (0, 0), (-1, 5), (8, 8, 1), {}, {"a": 1},
        set(), object(), int, np.int64(3), np.uint8(255), np.float32(2), np.float64("nan"), np.array(3),
        np.zeros(0), np.zeros((2, 2)), np.array(["x"]), np.array([None]), range(3),
        (10**5, 10**6), (4, 10**6, 10**6, 1), (2, 8, 8, 10**8), (10**9, 16, 1), [2**40], "x" * 300,
    ]
)  # fmt: skip

SHAPES = st.one_of(
    st.lists(st.sampled_from([0, 1, 2, 3, 4, 5, 8]), max_size=5).map(tuple),
    st.sampled_from([(3, 2), (3,), (2, 4), (4, 8, 8, 1), (2, 8, 8, 1), (2, 4, 8, 8, 1), (8, 8, 1)]),
)
DTYPES = st.sampled_from(
    ["uint8", "int64", "float32", "float64", "bool", "int8", "uint64", "float16", "complex64", "U2",
     "O", "M8[s]"]
)  # fmt: skip
FILLS = st.sampled_from(["zeros", "ones", "range", "minus", "most", "nan", "infinity"])
LAYOUTS = st.sampled_from(["C", "F", "reversed", "every second", "read-only"])


@st.composite
def arrays(draw, shapes=SHAPES, dtypes=DTYPES, fills=FILLS):
    """An array of any shape, type, values and layout in memory."""
    shape, dtype = draw(shapes), np.dtype(draw(dtypes))
    size, fill = math.prod(shape), draw(fills)
    values = {
        "zeros": np.zeros(size), "ones": np.ones(size), "range": np.arange(size) % 10,
        "minus": -np.ones(size), "most": np.full(size, 2.0**62), "nan": np.full(size, np.nan),
        "infinity": np.full(size, np.inf),
    }[fill]  # fmt: skip
    with np.errstate(all="ignore"):
        array = values.reshape(shape).astype("i8" if dtype.kind == "M" else dtype).astype(dtype)
    match draw(LAYOUTS):
        case "F":
            array = np.asfortranarray(array)
        case "reversed":
            array = array[::-1] if array.ndim else array
        case "every second":
            array = np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array
        case "read-only":
            array.flags.writeable = False
    return array


@functools.cache
def toy():
    """A small model; made before the first case, since Keras draws seeds and a case must not."""
    return cnn_lstm((None, 8, 8, 1), 2, **SMALL)


def run_of(model, task, config):
    """A run that was not trained, with its `task.json` in a directory of its own."""
    path = Path(tempfile.mkdtemp()) / "run"
    path.mkdir()
    save_task(path, config.resolved, task)
    return Run(path, config.resolved, model, {})


class Either(NamedTuple):
    """What fits, and what may be given in its place."""

    fitting: st.SearchStrategy
    hostile: st.SearchStrategy = ANYTHING


def of(*values, hostile=ANYTHING):
    """One of some values that fit, or anything."""
    return Either(st.sampled_from(values), hostile)


def fixed(value):
    """An argument that only the package gives."""
    return Either(st.just(value), st.just(value))


def made(make, hostile=ANYTHING):
    """What is made when a case asks for it, or anything."""
    return Either(st.builds(make), hostile)


def like(shape, dtype, fill="range", *, optional=False):
    """An array that fits, or another one, or anything at all."""
    exact = arrays(st.just(shape), st.just(dtype), st.sampled_from([fill, "zeros"]))
    others = (arrays(st.just(shape)), arrays(dtypes=st.just(dtype)), arrays(), ANYTHING)
    return Either(st.none() | exact if optional else exact, st.one_of(*others))


@st.composite
def given_to(draw, eithers):
    """Arguments of which at most two are hostile, as no check behind them would be reached else."""
    hostile = draw(st.sets(st.sampled_from(list(eithers)), max_size=2))
    return {name: draw(e.hostile if name in hostile else e.fitting) for name, e in eithers.items()}


def call(*function, named_by=(), **eithers):
    """An entry of a table: a function, perhaps after a title, and what to draw for its arguments.

    A title, such as "file.function of a model", names the function's file and the function. Errors
    may name one of `named_by` in place of an argument.
    """
    *title, function = function
    name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
    return (title[0] if title else name), (function, given_to(eithers), named_by)


def method(name, make, **eithers):
    """An entry of a table: a method of what `make` makes, a class or a function.

    For a function the name is a title, such as "file.Class.method".
    """
    file = make.__module__.rpartition(".")[2]
    title = name if "." in name else f"{file}.{make.__qualname__}.{name}"
    name = name.rpartition(".")[2]
    return call(title, lambda **arguments: getattr(make(), name)(**arguments), **eithers)


def table(*entries):
    """Functions and what to draw for their arguments, by name."""
    assert len(dict(entries)) == len(entries), "an entry needs another title"
    return dict(entries)


def paths_in(arguments):
    """What a message may name in place of an argument that is a path, or a clip."""
    for name in ("folder", "path", "paths", "root", "source", "clip", "clips", "split"):
        value = arguments.get(name, "")
        value = list(value.values()) if isinstance(value, dict) else value
        for one in value if isinstance(value, list | tuple) else [value]:
            path = getattr(one, "path", one)
            if isinstance(path, str | Path) and str(path):
                yield str(path)
                if path != Path(path).name:
                    yield str(Path(path).parent)


def tried(case, data, ends_well):
    """Calls the function of an entry with arguments that are drawn for it.

    An iterator that it returns takes some steps.
    """
    function, strategy, named_by = case
    arguments = data.draw(strategy)

    def run():
        result = function(**arguments)
        return list(itertools.islice(result, 20)) if isinstance(result, Iterator) else result

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hostile numbers overflow; only the end counts
        ends_well(run, *arguments, *paths_in(arguments), *named_by)


def few_and_many(few, many):
    """Runs a test with `number` few cases, and with many as a slow test of faults."""
    marks = [pytest.mark.faults, pytest.mark.slow]
    numbers = [pytest.param(few, id="few"), pytest.param(many, id="many", marks=marks)]
    return pytest.mark.parametrize("number", numbers)


def draw_cases(number, check):
    """Calls `check(data)` for `number` cases, the same ones each time."""

    @settings(
        max_examples=number, derandomize=True, deadline=None, database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
    @given(data=st.data())
    def case(data):
        check(data)

    case()


def refused(call, function, argument, word, errors=ValueError):
    """The error of a call: one line with function, argument, a key word of the rule, what came.

    Without a function or an argument the error is of a file or of an option.
    """
    argument = f"`{argument}`" if argument else ""
    parts = [function and f"{function}: ", argument, word]
    pattern = ".*".join(re.escape(part) for part in parts if part)
    with pytest.raises(errors, match=f"^{pattern}" if function else pattern) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 1000
    assert re.search("received|found|has no", message), message
    return raised.value
