"""What hostile arguments are drawn from, for the tests that draw them; `ends_well` judges."""

import math
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

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


class Either(NamedTuple):
    """What fits, and what may be given in its place."""

    fitting: st.SearchStrategy
    hostile: st.SearchStrategy = ANYTHING


def of(*values, hostile=ANYTHING):
    """One of some values that fit, or anything."""
    return Either(st.sampled_from(values), hostile)


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


def call(function, /, **eithers):
    """An entry of `CASES`: the function, and what to draw for its arguments."""
    return function, given_to(eithers)


def of_task(make, method, **strategies):
    """A method of a task that is in order."""
    return call(lambda **arguments: getattr(make(), method)(**arguments), **strategies)


def first_of(function):
    """Makes an iterator begin: a generator checks nothing before."""

    def begin(**arguments):
        return next(iter(function(**arguments)), None)

    return begin


def paths_in(arguments):
    """What a message may say in place of an argument that is a path, or a clip."""
    for name in ("folder", "path", "paths", "root", "source", "clip", "clips", "split"):
        value = arguments.get(name, "")
        value = list(value.values()) if isinstance(value, dict) else value
        values = value if isinstance(value, list | tuple) else [value]
        for one in values:
            path = getattr(one, "path", one)
            if isinstance(path, str | Path) and str(path):
                yield from (
                    (str(path), str(Path(path).parent)) if path != Path(path).name else (str(path),)
                )


def tried(case, data, ends_well, also=()):
    """Calls the function of an entry of `CASES` with arguments that are drawn for it.

    Its errors may name one of `also` in place of an argument.
    """
    function, strategy = case
    arguments = data.draw(strategy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # hostile numbers overflow; what counts is how it ends
        ends_well(lambda: function(**arguments), *arguments, *paths_in(arguments), *also)


def examples(number):
    """So many cases, the same ones each time."""
    return settings(
        max_examples=number, derandomize=True, deadline=None, database=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )  # fmt: skip
