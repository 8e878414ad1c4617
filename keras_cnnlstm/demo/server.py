"""A page to try a run in the browser: draw digits or drop a clip, and watch the answer grow.

`session` answers, `page` says how it looks; `serve` puts both behind Gradio, on this machine alone
unless `host` says otherwise. The page asks for nothing from elsewhere, and nothing that was drawn
or dropped is kept.
"""

import contextlib
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras

from keras_cnnlstm.data.frames import frame_files
from keras_cnnlstm.demo import page
from keras_cnnlstm.demo.drawings import GLYPHS
from keras_cnnlstm.demo.session import DemoAnswers
from keras_cnnlstm.export.predictor import run_predictor
from keras_cnnlstm.training.run_directory import Run, load_run
from keras_cnnlstm.utils.environment import progress_line, required
from keras_cnnlstm.utils.validation import as_path, is_integer, short_repr

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
            Requests for other names than it and loopback names are refused.
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
        from starlette.middleware import Middleware
        from starlette.middleware.trustedhost import TrustedHostMiddleware

        own = Middleware(TrustedHostMiddleware, allowed_hosts=_own_names(host), www_redirect=False)
        blocks = _page(DemoAnswers(opened, _digit_reader(opened)))
        with _stopped_by_signals() as stopped:
            _, address, _ = blocks.launch(
                server_name=host, server_port=port, max_file_size=_LARGEST_FILE,
                app_kwargs={"middleware": [own]},
                css=page.STYLE, theme=_theme(), footer_links=[], quiet=True,
                prevent_thread_lock=True, share=False, inbrowser=False, run_history=False,
                enable_monitoring=False, mcp_server=False, pwa=False, ssr_mode=False,
            )  # fmt: skip
            try:
                ready(address)
                while not stopped.wait(0.5):  # Windows notices Ctrl-C between two waits only
                    pass
            finally:
                blocks.close(verbose=False)


def _own_names(host):
    """The names and addresses for which the page answers requests; others are refused.

    Any web page can let its own name lead to this machine (DNS rebinding) and would then read what
    is served here; but its requests carry that name.
    """
    names = ["localhost", "127.0.0.1", "[::1]", host]
    if host == "0.0.0.0":  # this machine's name, and IPv4 addresses: no name ends with a number
        names += [socket.gethostname(), socket.getfqdn(), *(f"*.{n}" for n in range(256))]
    return names


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """Gradio sends no statistics, and its folder of dropped files is removed at the end."""
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
    """A port to listen at, found before the model is loaded."""
    if not isinstance(host, str) or not host or "\0" in host:
        raise ValueError(
            f"host: expected a name or address of this machine; received {short_repr(host)}."
        )
    if port is not None and not is_integer(port, 1, 65_535):
        raise ValueError(f"port: expected 1 to 65535; received {short_repr(port)}.")
    try:
        socket.getaddrinfo(host, None, socket.AF_INET)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f"host: expected a name or address of this machine; received {short_repr(host)} "
            f"({error}). Leave it out, or give an address such as 127.0.0.1."
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
    """Reads single digits, for a run whose answer is not the digits; trained if need be."""
    task = run.task
    if not task.draws_digits or not task.has_rule or task.arrangement == "strip":
        return None
    from keras_cnnlstm.evaluation.reader import digit_reader

    line = progress_line("steps")

    def progress(done, total):
        if done == 1:
            print("training a reader of single digits for this run, once", flush=True)
        if line:
            line(done, total)

    try:
        return digit_reader(run, progress=progress)
    except (ValueError, OSError) as error:  # its digits are not on this machine, say
        print(f"digits are not read: {error}")
        return None


def _page(answers: DemoAnswers) -> Any:
    """The page as Gradio's blocks."""
    import gradio as gr

    task, most, example = answers.task, answers.most, _example(answers.run)
    private: Any = {"api_visibility": "private", "show_progress": "hidden"}
    latest: Any = {"trigger_mode": "always_last", **private}

    def drawn(event: gr.EventData):
        yield from _answered(answers, lambda: answers.from_boxes(event._data.get("boxes")))

    def dropped(names: list[str] | None):
        paths = [Path(name) for name in names or []]
        steps = (lambda: answers.from_files(paths)) if paths else (lambda: ())
        yield from _answered(answers, steps, pause=_PAUSE, paths=paths)

    def drop_zone():
        files = gr.File(file_count="multiple", show_label=False, height=170)
        button = gr.Button("Take the example of the run", visible=example != [])
        button.click(lambda: example, None, files, **private)
        return files

    with gr.Blocks(title="keras-cnnlstm", analytics_enabled=False) as blocks:
        head = page.intro(task, most or 0, _facts(answers))
        gr.HTML(head, elem_classes="intro", apply_default_css=False)
        shown = gr.HTML(page.answer([], task, most), apply_default_css=False, render=False)
        if task.draws_digits:
            boxes = page.pad(most or 4, GLYPHS)
            pad: Any = gr.HTML(
                html_template=boxes, js_on_load=page.PAD_SCRIPT, apply_default_css=False
            )
            pad.drawn(drawn, None, shown, **latest)
            shown.render()
            with gr.Accordion("Or drop images, a GIF or a video", open=False):
                files = drop_zone()
        else:
            files = drop_zone()
            shown.render()
        files.change(dropped, files, shown, **latest)
    return blocks


def _answered(answers, steps, *, pause=0.0, paths=()):
    """The answer so far as HTML, after each frame if there is a pause between them."""
    known: list[page.Step] = []
    try:
        for step in steps():
            known.append(step)
            if pause:
                yield page.answer(known, answers.task, answers.most)
                time.sleep(pause)
        yield page.answer(known, answers.task, answers.most)
    except (ValueError, OSError) as error:
        message = str(error)
        for path in paths:  # people know their files by name
            message = message.replace(str(path), path.name)
        yield page.problem(message)


def _example(run):
    """The test sequence that lies in the run, as files to drop."""
    with contextlib.suppress(FileNotFoundError):
        return [str(path) for path in frame_files(run.path / "example")]
    return []


def _facts(answers):
    """Lines in small print about the run."""
    run = answers.run
    data = answers.metadata.get("dataset", "clips")
    facts = [f"run {run.path.name}", f"{run.config.model} on {data}"]
    scores: dict[str, Any] = next(iter(run.metrics.get("test", {}).values()), {})
    if "accuracy" in scores:
        facts.append(f"right in {scores['accuracy']:.1%} of tests")
    return facts


def _theme():
    """A theme of the fonts that are on every machine, as others would be fetched."""
    import gradio as gr

    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif"]
    mono = ["ui-monospace", "Consolas", "monospace"]
    return gr.themes.Default(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono)
