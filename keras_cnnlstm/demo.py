"""A page to try a run in the browser: draw digits or drop a clip, and watch the answer grow.

`demo_answers` answers, `demo_page` says how it looks; `serve` puts both behind Gradio, on this
machine alone unless it is told otherwise. The page asks for nothing from elsewhere, and nothing
that was drawn or dropped is kept.
"""

import contextlib
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from keras_cnnlstm import demo_pad, demo_page
from keras_cnnlstm.arguments import as_path, is_whole, told
from keras_cnnlstm.artefacts import required
from keras_cnnlstm.demo_answers import DemoAnswers
from keras_cnnlstm.drawings import GLYPHS
from keras_cnnlstm.frames import frame_files
from keras_cnnlstm.predictors import run_predictor
from keras_cnnlstm.runs import Run, load_run

_PORTS = range(7860, 7960)  # where a free one is looked for
_LARGEST_FILE = "64mb"
_PAUSE = 0.25  # seconds between the answers for a dropped clip's frames, for people to watch


def serve(
    run: str | Path,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    ready: Callable[[str], None] = print,
) -> None:
    """Serves the page of a run until Ctrl-C or SIGTERM.

    Args:
        run: the run directory.
        host: name or IPv4 address of this machine to listen at; 0.0.0.0 lets other machines in.
        port: where to listen, 1 to 65535; by default the first free one from 7860 on.
        ready: is called with the page's address when it can be opened.

    Raises:
        FileNotFoundError: if there is no such run.
        ValueError: if Gradio is missing, the run cannot be read, or the address is taken.
    """
    run = as_path("serve: `run`", run)
    with _nothing_kept():
        port = _free_port(host, port)
        required("gradio", extra="demo")
        opened = load_run(run)
        run_predictor(opened)  # refuses it before a minute goes into a reader of digits
        page = _page(DemoAnswers(opened, _digit_reader(opened)))
        with _stopped_by_signals() as stopped:
            _, address, _ = page.launch(
                server_name=host, server_port=port, max_file_size=_LARGEST_FILE,
                css=demo_page.STYLE, theme=_theme(), footer_links=[], quiet=True,
                prevent_thread_lock=True, share=False, inbrowser=False, run_history=False,
                enable_monitoring=False, mcp_server=False, pwa=False, ssr_mode=False,
            )  # fmt: skip
            try:
                ready(address)
                stopped.wait()
            finally:
                page.close(verbose=False)


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Has Gradio tell nobody, and keep what is dropped in a folder that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="keras-cnnlstm-demo-") as folder:
        settings = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name)
                if value is not None:
                    os.environ[name] = value


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set, so that the page is closed in order."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped  # signals go to the main thread alone
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, lambda *_: stopped.set()) for number in numbers]
    try:
        yield stopped
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _free_port(host, port):
    """A port that can be listened at, found out before the model is loaded."""
    if not isinstance(host, str) or not host or "\0" in host:
        raise ValueError(f"host: expected a name or address of this machine; received {host!r}.")
    if port is not None and not is_whole(port, 1, 65_535):
        raise ValueError(f"port: expected 1 to 65535; received {told(port)}.")
    try:
        socket.getaddrinfo(host, None, socket.AF_INET)
    except (OSError, UnicodeError) as error:  # at no port is it another host
        raise ValueError(
            f"host: expected a name or address of this machine; received {told(host)} ({error}). "
            "Leave it out, or give an address such as 127.0.0.1."
        ) from error
    for number in _PORTS if port is None else [port]:
        try:
            with socket.create_server((host, number)):
                return number
        except OSError as error:
            reason = error
    received = f"{_PORTS.start} to {_PORTS.stop - 1}" if port is None else port
    raise ValueError(
        f"port: expected one that is free at host {host}, an address of this machine; received "
        f"{received} ({reason}). Give another one with --port."
    ) from reason


def _digit_reader(run: Run) -> keras.Model | None:
    """What reads single digits, for a run that does not say which they are; trained at need."""
    if run.config.data or run.config.task not in ("trend", "running_sum", "sentence"):
        return None
    from keras_cnnlstm.baselines import digit_reader

    try:
        return digit_reader(run, progress=_told_progress)
    except (ValueError, OSError) as error:  # its digits are not on this machine, say
        print(f"digits are not read: {error}")
        return None


def _told_progress(done, total):
    if done == 1:
        print("training a reader of single digits for this run; that is done once", flush=True)
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done:,} of {total:,} steps" + "\n" * (done == total))
        sys.stderr.flush()


def _page(answers: DemoAnswers) -> Any:
    """The page as Gradio's blocks."""
    import gradio as gr

    task, most = answers.task, answers.most
    private: Any = {"api_visibility": "private", "show_progress": "hidden"}
    with gr.Blocks(title="keras-cnnlstm", analytics_enabled=False) as page:
        head = demo_page.intro(task, most or 0, _facts(answers.run))
        gr.HTML(head, elem_classes="intro", apply_default_css=False)
        shown = gr.HTML(demo_page.answer([], task, most), apply_default_css=False, render=False)
        if task == "clip":
            files, example = _drop(answers)
            shown.render()
        else:
            pad = gr.HTML(
                html_template=demo_pad.pad(most or 4, GLYPHS),
                js_on_load=demo_pad.PAD_SCRIPT,
                apply_default_css=False,
            )
            shown.render()
            with gr.Accordion("Or drop images, a GIF or a video", open=False):
                files, example = _drop(answers)
            pad.drawn(_when_drawn(answers), None, shown, trigger_mode="always_last", **private)
        dropped = _when_dropped(answers)
        files.change(dropped, files, shown, trigger_mode="always_last", **private)
        example.click(lambda: _example(answers), None, files, **private)
    return page


def _when_drawn(answers):
    """What Gradio calls when the pen rests; yields the answer as HTML."""
    import gradio as gr

    def drawn(event: gr.EventData):
        yield from _told(answers, lambda: answers.from_boxes(event._data.get("boxes")))

    return drawn


def _when_dropped(answers):
    """What Gradio calls when files were dropped; yields the answer as HTML, after each frame."""

    def dropped(files: list[str] | None):
        paths = [Path(file) for file in files or []]
        steps = (lambda: answers.from_files(paths)) if paths else (lambda: ())
        yield from _told(answers, steps, pause=_PAUSE, paths=paths)

    return dropped


def _told(answers, steps, *, pause=0.0, paths=()):
    """The answer so far as HTML, after each frame if there is a pause between them."""
    known: list[demo_page.Step] = []
    try:
        for step in steps():
            known.append(step)
            if pause:
                yield demo_page.answer(known, answers.task, answers.most)
                time.sleep(pause)
        yield demo_page.answer(known, answers.task, answers.most)
    except (ValueError, OSError) as error:
        message = str(error)
        for path in paths:  # people know their files by name
            message = message.replace(str(path), path.name)
        yield demo_page.problem(message)


def _drop(answers):
    """Where to drop files, and the button that takes the example of the run in their place."""
    import gradio as gr

    files = gr.File(file_count="multiple", show_label=False, height=170)
    example = gr.Button("Take the example of the run", visible=_example(answers) != [])
    return files, example


def _example(answers):
    """The test sequence that lies in the run, as files to drop."""
    with contextlib.suppress(FileNotFoundError):
        return [str(path) for path in frame_files(answers.run.path / "example")]
    return []


def _facts(run):
    """What the page says of the run in small."""
    data = Path(run.config.data).name if run.config.data else run.config.dataset
    facts = [f"run {run.path.name}", f"{run.config.model} on {data}"]
    scores = next(iter(run.metrics.get("test", {}).values()), {})
    if "accuracy" in scores:
        facts.append(f"right in {scores['accuracy']:.1%} of tests")
    return facts


def _theme():
    """A theme of the fonts that are on every machine, as others would be fetched."""
    import gradio as gr

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono)
