"""What `keras-cnnlstm` takes: a dataclass of options for each command, and how they are parsed.

Loads neither Keras nor TensorFlow, so that `--help` answers at once.
"""

import argparse
import contextlib
import difflib
import io
import itertools
import os
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args

import tyro

from keras_cnnlstm.config import ModelConfig, TrainConfig, load_config
from keras_cnnlstm.export.formats import FORMATS, FormatName

_DESCRIPTION = """Classify sequences of images, such as video clips, with a CNN that looks at each
frame and an LSTM that reads the frames in order.

Start with digits: keras-cnnlstm train. With clips of your own: keras-cnnlstm validate FOLDER, then
keras-cnnlstm train --data FOLDER.
"""
_FORMATS = "; ".join(f"{name} {format.purpose}" for name, format in FORMATS.items()) + "."


@dataclass(frozen=True)
class Train:
    """Train a model on clips of your own, or on sequences of digits, and score it on unseen ones.

    --data FOLDER trains on the clips of a folder. Without options it trains the reference CNN-LSTM,
    which answers the trend of four digits, on the real handwriting that comes with scikit-learn.
    Writes a run directory with the model, its history, its scores and plots.
    """

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]

    recipe: (
        Literal["reference", "fast", "single", "best", "quick", "careful", "from_scratch"] | None
    ) = None
    """Options that belong together; those given beside it replace its own. "reference" is the
    system of the tutorials on MNIST; "fast" the shortest way to 98 % of its trends, minutes;
    "single" the highest score of one model, half an hour or more; "best" the mean of four such
    models (--ensemble), an hour or more. For clips (--data FOLDER): "quick" is a first answer;
    "careful" also trains the last layers of the pretrained encoder; "from_scratch" takes none."""

    resume: str | None = None
    """Run directory whose training continues from its last checkpoint, with its own options. Only
    --epochs may be given too, to train longer."""


@dataclass(frozen=True)
class Evaluate:
    """Score a trained run on data that its training has not seen.

    For clips these are the clips of its test part, for digits sequences of test digits, natural and
    balanced.
    """

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    data: str | None = None
    """Other data to score on: a folder with clips of the same classes, all of which are scored, or
    for digits the name of a data set. Default: the test part of the run's own data."""

    labels: str | None = None
    """Table of labels of the clips in --data, as train --labels takes it."""

    num_sequences: int | None = None
    """Clips to score at most, or sequences of digits to draw for each score. Default: all clips,
    or as many sequences of digits as the training scored."""

    tta: int = 1
    """Test-time augmentation: average the answers to this many copies of the frames, 1 to 7, each
    turned, zoomed or shifted a little. Fewer errors for that many times the work."""

    ensemble: tuple[Path, ...] = ()
    """Further run directories of the same task, such as of other seeds: the mean of all their
    answers is scored. See export --ensemble."""

    json: bool = False
    """Print the scores as JSON."""


@dataclass(frozen=True)
class Calibrate:
    """Make a run's probabilities as high as it is often right, and set which answers are unsure.

    Training does it at its end. Repeat it for another threshold, or for a model from elsewhere. It
    divides the logits by one number, fitted to the validation data: no answer changes.
    """

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` or `import-torch` writes it."""

    confidence_threshold: float = 0.5
    """Answers with less probability are marked as unsure, 0 to 1. At 0.5 a calibrated answer is as
    likely wrong as right; 0.95 asks for more."""

    json: bool = False
    """Print what was found as JSON."""


@dataclass(frozen=True)
class Report:
    """Show what a run learned, and why it errs, on a page that opens in any browser, offline.

    Does the order of the frames help? The page compares the model with a bag of frames, with
    shuffled frames and, for digits, with a reader of digits and the exact rule. It shows scores by
    class and length, calibration, learning curves, speed, and the most confident mistakes, frame by
    frame. Writes report.html and its figures into the run directory. For digits it trains the
    reader the first time, about a minute.
    """

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    num_sequences: int | None = None
    """Clips to take at most, or sequences of digits to draw. Default: all clips, or as many
    sequences of digits as the training scored."""

    mistakes: int = 12
    """The most confident mistakes to show."""


@dataclass(frozen=True)
class Predict:
    """Print what a run or an exported model answers to clips, to a sequence of images, or to one
    image.
    """

    model: tyro.conf.Positional[Path]
    """Run directory, or an export of any format (a SavedModel is code: trust its maker)."""

    frames: tyro.conf.Positional[tuple[Path, ...]]
    """One image file for each frame, in order; any size, any mode. A model of unequal lengths takes
    fewer than its longest; a model that reads one image takes one. Or clips: a video, or a folder
    with image files in it, is one clip; any other folder stands for the clips in it and in its
    class folders; a pattern in quotes ('new/*.mp4') stands for all that match it; one table (.csv)
    with the column clip lists clips by their paths from its own folder."""

    csv: Path | None = None
    """File for the answers to clips, a row each, written one by one. Clips that it already has are
    left out, so the same command goes on after an interruption."""

    jsonl: Path | None = None
    """The same with a line of JSON for each clip, as --json prints it."""

    skip_broken: bool = False
    """Leave out clips that cannot be read, and list them at the end. Default: stop at the first."""

    invert: bool = False
    """The images show dark strokes on light paper; the model was trained on light on dark."""

    beam: int | None = None
    """Width of a captioner's beam search: beginnings of the caption that it keeps at each step.
    Default: it takes the likeliest word each time."""

    json: bool = False
    """Print the answer as JSON, with class indices and all probabilities."""


@dataclass(frozen=True)
class Stream:
    """Read a folder of frames, or a video, frame by frame, and print the answer after each."""

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    source: tyro.conf.Positional[Path]
    """Folder of image files, read in natural order of their names (2.png before 10.png), or a
    video."""

    every: int = 1
    """Step between the frames that are read. Of a video they are first taken at the
    --frames-per-second of the training. A model of clips expects frames as far apart as its
    training saw them."""

    invert: bool = False
    """The images show dark strokes on light paper; the model was trained on light on dark."""

    json: bool = False
    """Print each answer as a line of JSON."""


@dataclass(frozen=True)
class Demo:
    """Open a page to try a run in the browser: draw digits, or drop a clip, and watch the answer.

    Works offline, for this machine alone, until Ctrl-C. Needs the extra "demo".
    """

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    host: str = "127.0.0.1"
    """Address to listen at; 0.0.0.0 admits every machine that can reach this one."""

    port: int | None = None
    """Port to listen at; by default the first free one from 7860 on."""


@dataclass(frozen=True)
class Export:
    """Write a model in a format that runs without this package, and check that it answers alike."""

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    directory: tyro.conf.Positional[Path]
    """Directory to write: a new one, or for a SavedModel the one that holds its versions."""

    format: Annotated[FormatName, tyro.conf.arg(help=_FORMATS)] = "saved_model"

    version: int | None = None
    """Version of a SavedModel. Default: one more than the newest in the directory."""

    tta: int = 1
    """Test-time augmentation: write the model that averages its answers to this many copies of the
    frames, 1 to 7, as evaluate --tta scores it."""

    ensemble: tuple[Path, ...] = ()
    """Further run directories of the same task: write one model that gives the mean of all their
    answers, as evaluate --ensemble scores it."""


@dataclass(frozen=True)
class ImportTorch:
    """Make a run of a model that PyTorch trained, and print which weights went where.

    The options describe the architecture, as those of train do. Give LSTM units as PyTorch has
    them: two layers of 100 are --lstm-units 100 100.
    """

    config: Annotated[ModelConfig, tyro.conf.arg(name="")]

    file: tyro.conf.Positional[Path]
    """Weights as safetensors.torch.save_file(model.state_dict(), FILE) writes them."""

    run: tyro.conf.Positional[Path]
    """Run directory to write; must not exist."""

    ignore: tuple[str, ...] = ()
    """Entries of the file to leave out: regular expressions for whole names ('aux.*')."""


@dataclass(frozen=True)
class Validate:
    """List what a folder of clips holds, and what cannot be read and why, before you train on it.

    Decodes every frame. The exit code is 1 if something would stop a training with these options.
    """

    data: tyro.conf.Positional[Path]
    """Folder with a folder for each class, and in these the clips: folders of frames, or videos."""

    labels: Path | None = None
    """Table of labels, as train --labels takes it. All that is wrong in it is listed."""

    frame_numbers: bool = False
    """Read start and end in --labels as numbers of frames, as train --frame-numbers does."""

    groups: str | None = None
    """Which clips belong together in a split, as train --groups takes it."""

    skip_broken: bool = False
    """Leave out what cannot be read, as train --skip-broken does."""

    json: bool = False
    """Print what was found as JSON."""


@dataclass(frozen=True)
class Benchmark:
    """Time the reference model on this machine: against stock Keras, PyTorch, and its own data.

    What is compared takes turns in one process. T = 4 and 16 take 7 minutes on 2 cores, 40 longer.
    With KERAS_BACKEND=jax or torch the sections machine, models and torch run, on CPU or GPU,
    without TensorFlow.
    """

    sections: tuple[
        Literal["machine", "models", "torch", "latency", "streaming", "pipeline", "clips", "scale"],
        ...,
    ] = ("machine", "models", "torch", "latency", "streaming", "pipeline")
    """What to measure; scale takes minutes more, clips compares ways to read videos. What cannot
    run here is left out, and listed."""

    batch_size: int = 64
    """Sequences in a training batch."""

    lengths: tuple[int, ...] = (4, 16, 40)
    """Frames in a sequence (T), of each comparison."""

    repeats: int = 15
    """Turns of each comparison, fewer of long sequences; more take longer and scatter less."""

    data: Path | None = None
    """Folder of clips, of whose videos the section clips reads some. Default: it writes its own."""

    output: Path = Path("benchmark.json")
    """File to write: the rows, and what they were measured on."""

    json: bool = False
    """Print what the file holds, in place of a table."""


Command = (
    Train
    | Evaluate
    | Calibrate
    | Report
    | Predict
    | Stream
    | Demo
    | Export
    | ImportTorch
    | Validate
    | Benchmark
)

_COMMANDS = {  # "import-torch": ImportTorch, ...
    re.sub(r"\B([A-Z])", r"-\1", command.__name__).lower(): command for command in get_args(Command)
}


def parse(arguments: Sequence[str] | None = None) -> Command:
    """The command and its options.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Returns:
        `Train`, `Evaluate`, ... with their options.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    help_at = " ".join(["keras-cnnlstm", *(word for word in words[:1] if word in _COMMANDS)])
    if "" in words:  # which would name the current folder
        place = words.index("") + 1
        raise ValueError(
            f"argument {place} is empty; expected a name or a number. Is a variable of the shell "
            f"not set? See {help_at} --help."
        )
    printed = io.StringIO()  # tyro draws a box around its complaint; one line is easier to act on
    try:
        with contextlib.redirect_stderr(printed), _readable_width():
            command, unknown = tyro.cli(
                _with_start(words),
                prog="keras-cnnlstm",
                description=_DESCRIPTION,
                args=words,
                return_unknown_args=True,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(f"{_complaint(printed.getvalue())} See {help_at} --help.") from None
    if unknown:
        raise ValueError(f"{_unrecognized(unknown, command)} See {help_at} --help.")
    return command


@contextlib.contextmanager
def _readable_width():
    """Lays out the help for 40 to 200 columns; for fewer than 7 tyro does not come to an end."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(min(max(shutil.get_terminal_size().columns, 40), 200))
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _with_start(words) -> Any:
    """All commands as tyro takes them, with the options that a training starts from."""
    start = _start(words)
    default: dict[Any, Any] = {Train: {"default": Train(start)}} if start else {}
    return Union[  # noqa: UP007 - of a tuple that is made here
        tuple(
            Annotated[command, tyro.conf.subcommand(name, **default.get(command, {}))]
            for name, command in _COMMANDS.items()
        )
    ]


def _start(words) -> TrainConfig | None:
    """Options that those on the command line replace: of a recipe, or of the run to resume."""
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--recipe", nargs="?")
    early.add_argument("--resume", nargs="?")
    given, _ = early.parse_known_args(words if words[:1] == ["train"] else [])
    if given.recipe and given.resume:
        raise ValueError(
            "--recipe cannot be combined with --resume: a resumed run keeps its own options; "
            f"received {given.recipe!r}."
        )
    if given.resume:
        return replace(load_config(given.resume), run_dir=given.resume)
    if given.recipe is None:
        return None
    from keras_cnnlstm.recipes import RECIPES  # their checks load NumPy

    return RECIPES.get(given.recipe)


def _complaint(box: str) -> str:
    """The first paragraph in the box that tyro draws around a complaint, on one line."""
    rows = [row.strip("\u2502 ") for row in box.splitlines()[1:]]
    first = 0 if rows and rows[0].strip("\u2500-") else 1  # where all is ASCII, behind a rule
    said = " ".join(itertools.takewhile(lambda row: row.strip("\u2500-"), rows[first:]))
    return f"{' '.join(said.split()).rstrip('.')}."


def _unrecognized(words, command) -> str:
    """Which words are no options of a command, and the options that come near them."""
    options = [field for field in fields(command) if field.default is not MISSING]
    options += fields(command.config) if hasattr(command, "config") else ()
    flags = [f"--{field.name.replace('_', '-')}" for field in options]
    near = [
        flag
        for word in words
        if word.startswith("--") and word not in flags  # else it is in the wrong place
        for flag in difflib.get_close_matches(word.split("=")[0].replace("_", "-"), flags)
    ]
    meant = f" Perhaps you meant: {', '.join(dict.fromkeys(near))}." if near else ""
    return f"Unrecognized options: {', '.join(words)}.{meant}"
