"""Texts from outside, by the thousand: options, tables, tasks, strokes, requests, names.

No file of a model and no network is behind these doors, so a case takes a millisecond or two.
"""

import asyncio
import contextlib
import csv
import io
import json

import pytest
from hostile import CLIPS, draw_cases, few_and_many
from hypothesis import strategies as st
from test_hostile_files import JSON, JSON_DAMAGE, OPTIONS

from keras_cnnlstm import plots
from keras_cnnlstm.cli import commands, main
from keras_cnnlstm.config import TrainConfig
from keras_cnnlstm.data.splits import read_split, split_clips
from keras_cnnlstm.demo import page
from keras_cnnlstm.demo.drawings import draw_strokes
from keras_cnnlstm.demo.server import _own_names
from keras_cnnlstm.tasks import TASKS, Classes, ClipCaption, Digits, Trend
from keras_cnnlstm.tasks.registry import task_from_config
from keras_cnnlstm.utils.validation import short_repr

TEXT = st.text(max_size=20) | st.sampled_from(
    ["", " ", "\n", "\t", "\0", "\x1b[31m", "[bold]", "$\\frac{$", "<script>", "&amp;", '"', "'",
     "\udce9", "\u202e", "e\u0301", "\u8dcc\u5012", "../..", "-", "--", "a" * 5000, "ab " * 5000,
     "9" * 400, "-1", "nan", "1e999", "%s", "{0}", "None", "true", "\ufeff", "a;b", "a,b"]
)  # fmt: skip


def drawn_option(data):
    """Words of a command: options that are known and not, values that fit and do not."""
    command = data.draw(
        st.sampled_from(["train", "evaluate", "benchmark", "predict", "export", ""])
    )
    flag = st.sampled_from([f"--{name.replace('_', '-')}" for name in OPTIONS]) | TEXT
    words = data.draw(st.lists(flag | TEXT | st.sampled_from(["1", "0.5", "a"]), max_size=4))
    return [command, *words]


def an_option(data, ends_well, folder):
    words = drawn_option(data)

    def parsed():
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            commands.parse(words)

    complaints = ["argument", "See", *OPTIONS]
    problem = ends_well(lambda: one_line(parsed), *complaints, "run")
    assert problem is None or isinstance(problem, OSError | ValueError)


def one_line(call):
    """What a command does with an error: a line of printable characters that is not too long."""
    try:
        return call()
    except (ValueError, OSError) as error:
        with contextlib.redirect_stderr(io.StringIO()) as said:
            main._complain(error)
        line = said.getvalue().removesuffix("\n")
        assert line.isprintable()
        assert len(line) < 2100
        raise ValueError(line) from error


def a_complaint(data, ends_well, folder):
    text = "".join(data.draw(st.lists(TEXT, max_size=6)))

    def complain():
        raise ValueError(f"option: {text} is wrong: remedy")

    assert ends_well(lambda: one_line(complain), "option") is not None


def a_config(data, ends_well, folder):
    text = data.draw(JSON_DAMAGE)(TrainConfig().to_json().encode()).decode(errors="replace")
    found = ends_well(lambda: TrainConfig.from_json(text), *OPTIONS)
    if isinstance(found, TrainConfig):
        assert TrainConfig.from_json(found.to_json()) == found


TASKS_HERE = [Trend(4), Digits(3), Classes(("a", "b"), 4), ClipCaption(("it falls", "it rises"))]


def a_task(data, ends_well, folder):
    config = data.draw(st.sampled_from(TASKS_HERE)).get_config()
    key = data.draw(st.sampled_from([*config, "no_such"]))
    config |= {key: data.draw(JSON | TEXT)}
    name = data.draw(st.sampled_from([*TASKS]) | TEXT)
    named = (*config, *(f.replace("_", " ") for f in config), "task", "tokens", "Vocabulary")
    found = ends_well(lambda: task_from_config(name, config), *named)
    if not isinstance(found, Exception):
        assert found.num_outputs > 0


def a_table(data, ends_well, folder):
    """A split or a table of groups, whose cells, separators and ends of lines are drawn."""
    of_groups = data.draw(st.booleans())
    columns = ["clip", "group"] if of_groups else ["clip", "class", "group", "split"]
    parts = ["training", "validation", "test"]
    rows = [[clip.name, clip.class_name, clip.name, parts[i % 3]] for i, clip in enumerate(CLIPS)]
    rows = [columns, *([row[0], row[2]] if of_groups else row for row in rows)]
    for _ in range(data.draw(st.integers(0, 3))):
        row = data.draw(st.sampled_from(rows))
        match data.draw(st.sampled_from(["change", "repeat", "drop", "short"])):
            case "change":
                row[data.draw(st.integers(0, 1)) % max(1, len(row)) :] = [data.draw(TEXT)]
            case "repeat":
                rows.append(list(row))
            case "drop" if len(rows) > 1:
                rows.remove(row)
            case "short":
                del row[1:]
    stream = io.StringIO()
    form = {
        "delimiter": data.draw(st.sampled_from([",", ",", ";", "\t"])),
        "lineterminator": data.draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])),
    }
    try:
        csv.writer(stream, **form).writerows(rows)
    except csv.Error:
        return
    coded = stream.getvalue().encode("utf-8", "surrogatepass")
    (folder / "table.csv").write_bytes(data.draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + coded)
    if of_groups:
        call = lambda: split_clips(CLIPS, groups=str(folder / "table.csv"))  # noqa: E731
    else:
        call = lambda: read_split(folder / "table.csv", CLIPS)  # noqa: E731
    found = ends_well(call, "table.csv", "groups", "clips", "split_clips", "class")
    if not isinstance(found, Exception):
        names = [clip.name for _, clips in found.items() for clip in clips]
        assert sorted(names) == sorted(clip.name for clip in CLIPS)


NUMBERS = st.sampled_from(
    [0, 1, -1, 0.5, 3, 1e6, 1e7, 1e300, float("nan"), None, True, "1", [], 2**70]
)
POINTS = st.lists(st.lists(NUMBERS, min_size=1, max_size=3), max_size=4)


def strokes(data, ends_well, folder):
    drawn = data.draw(st.lists(POINTS, max_size=3) | JSON)
    image = ends_well(lambda: draw_strokes(drawn), "strokes")
    assert isinstance(image, Exception) or max(image.shape) < 2000


def host_names():
    names = st.sampled_from(["localhost", "127.0.0.1", "[::1]", "demo.lan"])
    ends = st.sampled_from(
        ["", ":7860", ".evil.com", "@evil.com", ":x", ".", "%00", " ", "/", "\t"]
    )
    other = st.sampled_from(["evil.com", "", "127.0.0.2", "localhost.evil.com", "[::2]", "*"])
    return st.tuples(names | other | TEXT, ends)


def a_request(data, ends_well, folder):
    """A request to the page by any name: answered for its own names only, with or without port."""
    pytest.importorskip("starlette")
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    host = "".join(data.draw(host_names()))
    path = data.draw(st.sampled_from(["/", "/gradio_api/upload", "/../etc/passwd"]))
    seen, sent = [], []

    async def inside(scope, receive, send):
        seen.append(scope["path"])

    async def send(message):
        sent.append(message)

    headers = [(b"host", host.encode("utf-8", "surrogatepass"))]
    kind = data.draw(st.sampled_from(["http", "websocket"]))
    scope = {"type": kind, "headers": headers, "path": path, "method": "GET", "query_string": b""}
    own = _own_names("demo.lan")
    guard = TrustedHostMiddleware(inside, allowed_hosts=own, www_redirect=False)
    ends_well(lambda: asyncio.run(guard(scope, None, send)))
    name = host.rsplit(":", 1)[0] if not host.startswith("[") else host.partition("]")[0] + "]"
    assert (not seen) or name in own or host.split(":")[0] in own
    assert bool(seen) != bool(sent)


def names_on_a_page(data, ends_well, folder):
    """Names of classes, tokens and files in the page: never as HTML; in figures never a formula."""
    names = data.draw(st.lists(TEXT, min_size=2, max_size=3, unique=True))
    shares = {name: 1 / len(names) for name in names}
    known = {"class_id": 0, "label": names[0], "unsure": False, "probabilities": shares}
    task = Classes(("a", "b"), 4)
    frame = plots.np.zeros((2, 2, 1), "uint8")

    def shown():
        html = page.answer([page.Step(frame, known)], task, 4)
        return html + page.problem(names[0]) + page.intro(task, 4, names)

    html = ends_well(shown)
    assert "<script" not in html
    for name in names:
        line = plots._drawable(name)
        assert "\n" not in line
        assert "$" not in line.replace(r"\$", "")
        line.encode()


def a_value(data, ends_well, folder):
    value = data.draw(JSON | TEXT | st.binary(max_size=300) | st.lists(TEXT, max_size=50))
    shown = ends_well(lambda: short_repr(value))
    assert len(shown) <= 200
    assert len(shown.splitlines()) <= 1
    with contextlib.suppress(UnicodeEncodeError):
        json.dumps(shown).encode()


FAST = {  # some thousand cases of each take seconds
    "complaint": a_complaint, "config": a_config, "task": a_task, "table": a_table,
    "strokes": strokes, "request": a_request, "page": names_on_a_page, "value": a_value,
}  # fmt: skip


@few_and_many(20, 1500)
@pytest.mark.parametrize("name", FAST)
def test_texts(name, number, ends_well, tmp_path):
    draw_cases(number, lambda data: FAST[name](data, ends_well, tmp_path))


@few_and_many(20, 300)
def test_options(number, ends_well, tmp_path):
    draw_cases(number, lambda data: an_option(data, ends_well, tmp_path))


def test_a_task_that_lacks_an_argument():
    with pytest.raises(ValueError, match=r"^task: the arguments do not fit caption; 'vocabulary'"):
        task_from_config("caption", {"class_names": ["a", "b"]})
