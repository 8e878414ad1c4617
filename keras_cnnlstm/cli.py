"""The command `keras-cnnlstm`: parses, delegates, prints. Imports the heavy parts when needed."""

import contextlib
import io
import json
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from keras_cnnlstm.config import ModelConfig, TrainConfig

_DESCRIPTION = """Classify sequences of images with a CNN that looks at each frame and an LSTM that
reads the frames in order.

Start with: keras-cnnlstm train
"""


@dataclass(frozen=True)
class Evaluate:
    """Score a trained run on sequences of test digits, natural and balanced."""

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    dataset: str | None = None
    """Score on the test digits of another data set; by default the one it was trained on."""

    data_dir: str | None = None
    """Folder of TensorFlow Datasets; by default the one it was trained with."""

    num_sequences: int = 10_000
    """Test sequences to draw for each of the two scores."""

    json: bool = False
    """Print the scores as JSON."""


@dataclass(frozen=True)
class Predict:
    """Answer for one sequence of image files, or one image, with a run or an exported model."""

    model: tyro.conf.Positional[Path]
    """Run directory, or an export of any format (a SavedModel is code: trust its maker)."""

    frames: tyro.conf.Positional[tuple[Path, ...]]
    """One image file for each frame, in order; any size, any mode. A model of unequal lengths takes
    fewer than its longest; a model that reads one image takes one."""

    invert: bool = False
    """The images show dark strokes on light paper; the model was trained on light on dark."""

    json: bool = False
    """Print the answer as JSON, with class indices and all probabilities."""


@dataclass(frozen=True)
class Stream:
    """Read a folder of frames one by one, and tell the answer after each."""

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    source: tyro.conf.Positional[Path]
    """Folder of image files, read in natural order of their names (2.png before 10.png)."""

    invert: bool = False
    """The images show dark strokes on light paper; the model was trained on light on dark."""

    json: bool = False
    """Print each answer as a line of JSON."""


@dataclass(frozen=True)
class Export:
    """Take a model out: write it in a format that runs without this package, and prove it equal."""

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    directory: tyro.conf.Positional[Path]
    """Where to write; for a SavedModel the directory over its versions, else a new one."""

    format: Literal["saved_model", "litert", "onnx"] = "saved_model"
    """For TensorFlow Serving; for phones and small devices; for ONNX Runtime and browsers."""

    version: int | None = None
    """Of a SavedModel; by default one more than the newest in the directory."""


@dataclass(frozen=True)
class ImportTorch(ModelConfig):
    """Make a run of a model that PyTorch trained; says which weights went where.

    The options describe the architecture, as those of train do. Give LSTM units as PyTorch has
    them: two layers of 100 are --lstm-units 100 100.
    """

    file: tyro.conf.Positional[Path]
    """Weights as safetensors.torch.save_file(model.state_dict(), FILE) writes them."""

    run: tyro.conf.Positional[Path]
    """Run directory to write; must not exist."""


@dataclass(frozen=True)
class Benchmark:
    """Time the reference model on this machine: against stock Keras, the data, and streaming."""

    batch_size: int = 64
    """Sequences in a training batch."""

    length: int = 4
    """Frames in a sequence (T)."""

    repeats: int = 15
    """Turns of each comparison; more take longer and scatter less."""

    json: bool = False
    """Print the rows as JSON."""


_Command = (
    Annotated[TrainConfig, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Stream, tyro.conf.subcommand("stream")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[ImportTorch, tyro.conf.subcommand("import-torch")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Returns:
        The exit code: 0; 2 if the input was bad, after one line on stderr that says so; 1 if
        the training failed by its numbers; 130 if interrupted. With the environment variable
        `KERAS_CNNLSTM_DEBUG=1` the traceback comes with it.
    """
    try:
        _run(_parse(arguments))
    except BrokenPipeError:  # whoever reads the output has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("KERAS_CNNLSTM_DEBUG"):
            traceback.print_exc()
        print(f"keras-cnnlstm: {_one_line(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt:
        print("keras-cnnlstm: interrupted", file=sys.stderr)
        return 130
    return 0


def _run(command) -> None:
    actions = {
        TrainConfig: _train,
        Evaluate: _evaluate,
        Predict: _predict,
        Stream: _stream,
        Export: _export,
        ImportTorch: _import_torch,
        Benchmark: _benchmark,
    }
    if not isinstance(command, Predict):  # which loads it only if the model needs it
        _load_tensorflow()
    actions[type(command)](command)


def _parse(arguments):
    """The command's dataclass; `--help` prints and exits, bad flags raise a ValueError."""
    box = io.StringIO()  # tyro draws a box around its complaint; one line is easier to act on
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                _Command,
                prog="keras-cnnlstm",
                description=_DESCRIPTION,
                args=arguments,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        title, *complaint = box.getvalue().splitlines()
        raise ValueError(_one_line(" ".join(complaint) or title)) from None


def _load_tensorflow() -> None:
    """Loads TensorFlow without the dozen lines that its C++ side logs on every machine.

    No setting turns off what it logs before its logging is set up, so the process's stderr goes
    to a file meanwhile; what is in it is shown if the loading fails.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_logical_devices()  # sets the devices up, and logs about that too
        except BaseException:
            log.seek(0)
            os.write(stderr, log.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)


def _one_line(text: str) -> str:
    """All words of a text on one line, without the strokes of a box around it."""
    return " ".join("".join(" " if "\u2500" <= c <= "\u257f" else c for c in text).split())


def _train(config):
    from keras_cnnlstm.evaluation import summary
    from keras_cnnlstm.training import train

    run = train(config)
    facts = run.metrics["training"]
    print(
        f"\ntrained on {facts['sequences']:,} sequences in {facts['seconds']:.0f} s "
        f"({facts['sequences_per_second']:,.0f} a second); best epoch {facts['best_epoch']}"
    )
    _print_scores(run.metrics["test"], summary)
    print(
        f"\nwritten to {run.path}\n"
        f"try: keras-cnnlstm predict {run.path} {run.path / 'example'}/*.png"
    )


def _evaluate(command):
    from keras_cnnlstm.digits import load_digits
    from keras_cnnlstm.evaluation import score_digits, summary
    from keras_cnnlstm.objectives import task_for
    from keras_cnnlstm.runs import load_run

    run = load_run(command.run)
    splits = load_digits(
        command.dataset or run.config.dataset, command.data_dir or run.config.data_dir
    )
    task = task_for(run.config, splits.train)
    scores = score_digits(run.model, splits.test, task, num_sequences=command.num_sequences)
    if command.json:
        print(json.dumps(scores, indent=2))
    else:
        _print_scores(scores, summary)


def _print_scores(scores, summary):
    meanings = {"natural": "each digit uniform", "balanced": "each class uniform"}
    for name, score in scores.items():
        print(f"\n{name} test sequences ({meanings[name]}): {summary(score)}")


def _predict(command):
    import numpy as np

    from keras_cnnlstm.answers import as_json, as_text
    from keras_cnnlstm.clips import load_frames

    opened = _open(command.model)
    *time, height, width, channels = opened.input_shape
    count = len(command.frames)
    low, high = opened.frame_counts
    if not low <= count <= (high or count):
        expected = f"{low} to {high}" if low < (high or low) else f"{low}"
        raise ValueError(
            f"frames: expected {expected} image files, one for each frame; received {count}."
        )
    frames = load_frames(
        command.frames, image_size=(height, width), channels=channels, invert=command.invert
    )
    if not time:
        inputs = frames, None  # one image is a batch of one
    elif opened.takes_lengths:
        padding = [(0, (high or count) - count), *[(0, 0)] * 3]
        inputs = np.pad(frames, padding)[None], np.array([count], np.int32)
    else:
        inputs = frames[None], None
    (answer,) = opened.predict(*inputs)
    if opened.takes_lengths and answer.ndim == 2:
        answer = answer[:count]  # the steps after it are padding
    told = as_json(opened.output, answer, opened.class_names)
    print(json.dumps(told, indent=2) if command.json else as_text(told))


class _Opened(NamedTuple):
    """What answers for frames, of a run or of an export."""

    predict: Callable[..., Any]  # frames, lengths -> the first output
    input_shape: tuple[int | None, ...]  # (T, H, W, C), or (H, W, C) of one image
    takes_lengths: bool
    output: str
    class_names: Sequence[str]

    @property
    def frame_counts(self) -> tuple[int, int | None]:
        """The fewest and the most files that it takes; `None` for any number."""
        if len(self.input_shape) == 3:
            return 1, 1
        most = self.input_shape[0]
        return (1 if self.takes_lengths or most is None else most), most


def _open(path) -> _Opened:
    from keras_cnnlstm.artefacts import load_artefact, located

    if (path / "config.json").is_file():
        return _open_run(path)
    try:
        kind, _ = located(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{path}: expected a run directory, as keras-cnnlstm train writes it, or an exported "
            f"model; found {'neither in this folder' if path.is_dir() else 'no such folder'}."
        ) from error
    if kind == "saved_model":
        _load_tensorflow()
    artefact = load_artefact(path)
    takes_lengths, output = (
        "lengths" in artefact.metadata["inputs"],
        artefact.metadata["outputs"][0],
    )
    names = artefact.class_names
    return _Opened(artefact.predict, artefact.input_shape, takes_lengths, output, names)


def _open_run(path) -> _Opened:
    _load_tensorflow()
    from keras_cnnlstm.runs import load_run

    run = load_run(path)
    takes_lengths = any(tensor.name == "lengths" for tensor in run.model.inputs)

    def predict(frames, lengths):
        inputs = {"frames": frames, "lengths": lengths} if takes_lengths else frames
        return run.model.predict(inputs, verbose=0)

    shape = next(tensor.shape for tensor in run.model.inputs if tensor.name == "frames")
    output = run.model.output_names[0]
    return _Opened(predict, tuple(shape[1:]), takes_lengths, output, run.class_names)


def _stream(command):
    from keras_cnnlstm.answers import as_json, headline
    from keras_cnnlstm.clips import frame_files, load_frames
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.streaming import FrameStream

    run = load_run(command.run)
    live = FrameStream(run.model, run.class_names)
    height, width, channels = live.stream.frame_shape
    for file in frame_files(command.source):
        (frame,) = load_frames(
            [file], image_size=(height, width), channels=channels, invert=command.invert
        )
        answer = live.push(frame)
        output = "probabilities" if answer.values is None else "values"
        told = as_json(output, getattr(answer, output), run.class_names)
        if command.json:
            print(json.dumps({"step": answer.step, "file": str(file), **told}), flush=True)
        else:
            print(f"{answer.step:5}  {file.name:20}  {headline(told)}", flush=True)


def _export(command):
    from keras_cnnlstm.export import export

    done = export(command.run, command.directory, command.format, version=command.version)
    print(f"written to {done.path}")
    print(json.dumps(done.parity, indent=2))


def _import_torch(command):
    from keras_cnnlstm.training import import_torch

    options = {field.name: getattr(command, field.name) for field in fields(ModelConfig)}
    config = TrainConfig(**options, precision="float32", run_dir=str(command.run))
    run, report = import_torch(command.file, config)
    print(report)
    print(f"\nwritten to {run.path}\ntry: keras-cnnlstm evaluate {run.path}")


def _benchmark(command):
    from keras_cnnlstm.benchmark import benchmark

    rows = benchmark(batch_size=command.batch_size, length=command.length, repeats=command.repeats)
    if command.json:
        print(json.dumps([row._asdict() for row in rows], indent=2))
        return
    width = max(len(row.name) for row in rows)
    for row in rows:
        print(f"{row.name:<{width}}  {row.seconds * 1e3:9.3f} ms  {row.remark}")


if __name__ == "__main__":
    sys.exit(main())
