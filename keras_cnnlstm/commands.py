"""What `keras-cnnlstm` takes: a dataclass of options for each command, and how words become one.

Loads neither Keras nor TensorFlow, so that `--help` answers at once.
"""

import contextlib
import io
import re
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_cnnlstm.config import ModelConfig, TrainConfig
from keras_cnnlstm.recipes import RECIPES, RecipeName

_DESCRIPTION = """Classify sequences of images with a CNN that looks at each frame and an LSTM that
reads the frames in order.

Start with: keras-cnnlstm train
"""


@dataclass(frozen=True)
class Train(TrainConfig):
    """Train a model on sequences of digits, or on clips of your own, and score it on unseen ones.

    With no option at all: the reference CNN-LSTM, which tells the trend of four digits, on the
    real handwriting that comes with scikit-learn. Writes a run directory with the model, its
    history, its scores and plots.
    """

    recipe: RecipeName | None = None
    """Options that belong together, as a start; others given with it take the place of its own.
    "reference" is the tutorials' system on MNIST; "fast" the shortest way to 98 % of its trends,
    minutes; "single" the highest score of one model, half an hour or more; "best" the mean of four
    such (--members), an hour or more."""

    resume: str | None = None
    """Run directory to go on with, from its last checkpoint, with its own options; only --epochs
    may be given too, to train longer."""


@dataclass(frozen=True)
class Evaluate:
    """Score a trained run on sequences of test digits, natural and balanced."""

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    dataset: str | None = None
    """Score on the test digits of another data set; by default the one it was trained on."""

    data: str | None = None
    """Score on all clips of another folder with the same classes; by default on the test clips of
    the folder it was trained on."""

    data_dir: str | None = None
    """Folder of TensorFlow Datasets; by default the one it was trained with."""

    num_sequences: int | None = None
    """Test sequences to draw for each score, or clips to take at most; by default as many as the
    training scored, and all clips."""

    views: int = 1
    """Average the answers to so many slightly moved copies of the frames, up to 7: fewer errors, so
    many times the work. See export --views."""

    ensemble: tuple[Path, ...] = ()
    """Further run directories of the same task, such as of other seeds: the mean of all their
    answers is scored. See export --ensemble."""

    json: bool = False
    """Print the scores as JSON."""


@dataclass(frozen=True)
class Calibrate:
    """Make a run's probabilities mean what they say, and choose below which they mean "unsure".

    Training ends with it; do it again for another threshold, or for a model from elsewhere.
    Divides the logits by one number, fitted to the validation data: no answer changes.
    """

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` or `import-torch` writes it."""

    unsure_below: float = 0.5
    """Answers with less probability are told as unsure, 0 to 1. At 0.5 a calibrated answer is as
    likely wrong as right; 0.95 asks for more."""

    json: bool = False
    """Print what was found as JSON."""


@dataclass(frozen=True)
class Report:
    """Find out what a run learned, and why it errs: a page that opens in any browser, offline.

    Does time help (beside a bag of frames, shuffled frames and, for digits, a reader with the exact
    rule)? Which classes, which lengths, how sure, learned when, how fast? And its most confident
    mistakes, frame by frame. Writes report.html and its figures into the run directory; of digits
    trains a reader of single ones the first time, about a minute.
    """

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    num_sequences: int | None = None
    """Test sequences to draw, or clips to take at most; by default as many as the training scored,
    and all clips."""

    mistakes: int = 12
    """The most confident mistakes to show."""


@dataclass(frozen=True)
class Predict:
    """Answer for one sequence of image files, one image, or any number of clips, with a run or an
    exported model.
    """

    model: tyro.conf.Positional[Path]
    """Run directory, or an export of any format (a SavedModel is code: trust its maker)."""

    frames: tyro.conf.Positional[tuple[Path, ...]]
    """One image file for each frame, in order; any size, any mode. A model of unequal lengths takes
    fewer than its longest; a model that reads one image takes one. Or folders of frames and videos,
    a clip each, answered one by one."""

    invert: bool = False
    """The images show dark strokes on light paper; the model was trained on light on dark."""

    beam: int | None = None
    """Of a describer: follow so many beginnings of the sentence side by side; by default it says
    the likeliest word after each other."""

    json: bool = False
    """Print the answer as JSON, with class indices and all probabilities."""


@dataclass(frozen=True)
class Stream:
    """Read a folder of frames, or a video, frame by frame, and tell the answer after each."""

    run: tyro.conf.Positional[Path]
    """Run directory, as `train` writes it."""

    source: tyro.conf.Positional[Path]
    """Folder of image files, read in natural order of their names (2.png before 10.png), or a
    video."""

    every: int = 1
    """Read each so many-th frame only: a model of clips saw frames that far apart in training."""

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
    """Address to listen at; 0.0.0.0 lets everyone in who reaches this machine."""

    port: int | None = None
    """Port to listen at; by default the first free one from 7860 on."""


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

    views: int = 1
    """Write the model that averages its answers to so many slightly moved copies of the frames, up
    to 7, as evaluate --views scores it."""

    ensemble: tuple[Path, ...] = ()
    """Further run directories of the same task: write one model that gives the mean of all their
    answers, as evaluate --ensemble scores it."""


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
class Validate:
    """Look at a folder of clips before training: what there is, and what cannot be read, and why.

    Decodes every frame. The exit code is 1 if a clip would stop a training.
    """

    data: tyro.conf.Positional[Path]
    """Folder with a folder for each class, and in these the clips: folders of frames, or videos."""

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
        Literal["machine", "models", "torch", "latency", "streaming", "pipeline", "scale"], ...
    ] = ("machine", "models", "torch", "latency", "streaming", "pipeline")
    """What to measure; scale takes minutes more. What cannot run here is left out, and told."""

    batch_size: int = 64
    """Sequences in a training batch."""

    lengths: tuple[int, ...] = (4, 16, 40)
    """Frames in a sequence (T), of each comparison."""

    repeats: int = 15
    """Turns of each comparison, fewer of long sequences; more take longer and scatter less."""

    output: Path = Path("benchmark.json")
    """File to write: the rows, and what they were measured on."""

    json: bool = False
    """Print what the file holds, in place of a table."""


Command = (
    Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Calibrate, tyro.conf.subcommand("calibrate")]
    | Annotated[Report, tyro.conf.subcommand("report")]
    | Annotated[Predict, tyro.conf.subcommand("predict")]
    | Annotated[Stream, tyro.conf.subcommand("stream")]
    | Annotated[Demo, tyro.conf.subcommand("demo")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[ImportTorch, tyro.conf.subcommand("import-torch")]
    | Annotated[Validate, tyro.conf.subcommand("validate")]
    | Annotated[Benchmark, tyro.conf.subcommand("benchmark")]
)


def parse(arguments: Sequence[str] | None = None) -> Command:
    """The command that the words give; of a recipe its options where none are given.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Returns:
        `Train`, `Evaluate`, ... with their options.

    Raises:
        ValueError: if a word is not understood, or options do not fit together.
        SystemExit: after `--help` has been printed.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    command = _parsed([*words, *_of_recipe(words)])
    if isinstance(command, Train) and command.recipe is not None and command.resume:
        raise ValueError(
            f"recipe: expected none with --resume, since a run goes on with its own options; "
            f"received {command.recipe!r}."
        )
    return command


def _of_recipe(words) -> list[str]:
    """The options of the recipe that is named among the words, without those that are given."""
    named = re.search(r"^train .*--recipe[= ](\S+)", " ".join(words))
    flags = {word.split("=")[0].lstrip("-").replace("_", "-") for word in words if word[:2] == "--"}
    added: list[str] = []
    for name, value in (RECIPES.get(named[1], {}) if named else {}).items():
        flag = name.replace("_", "-")
        if flag in flags or f"no-{flag}" in flags:
            continue
        values = value if isinstance(value, tuple) else [] if value is True else [value]
        added += [f"--{flag}", *map(str, values)]
    return added


def _parsed(arguments):
    """The command's dataclass; `--help` prints and exits, bad flags raise a ValueError."""
    box = io.StringIO()  # tyro draws a box around its complaint; one line is easier to act on
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                Command,
                prog="keras-cnnlstm",
                description=_DESCRIPTION,
                args=arguments,
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ValueError(_complaint(box.getvalue(), next(iter(arguments), ""))) from None


def _complaint(box, command):
    """What tyro's box says, in one line: what is wrong, what was meant, where the help is."""
    title, *lines = box.splitlines()
    sections: list[list[str]] = [[]]
    for line in lines:
        line = line.strip("\u2502")  # the box's sides, which it lacks where all must be ASCII
        if line.strip(" \u2500-\u256f"):
            sections[-1].append(line)
        else:  # a rule, or the bottom
            sections.append([])
    said = []
    for section in filter(None, sections):
        section = textwrap.dedent("\n".join(section)).splitlines()
        if section[0].startswith("Perhaps you meant"):
            flags = _flags_of(command, section[1:])
            section = ["Perhaps you meant:", ", ".join(flags)] if flags else []
        elif section[0].startswith("Argument helptext"):
            section = []  # the whole of it is where the last section says
        said.append(one_line(" ".join(section)).rstrip("."))
    text = ". ".join(filter(None, said)) or one_line(title)
    if "Available subcommands" in text or not command[:1].isalpha():
        return text
    return text.replace(" keras-cnnlstm --help", f" keras-cnnlstm {command} --help")


def _flags_of(command, suggestions):
    """Of the options that tyro suggests, each with its help and where it is from, the command's."""
    helps: dict[str, str] = {}
    for line in suggestions:
        if line.startswith("    --"):
            helps[line.split()[0]] = ""
        elif helps:
            helps[next(reversed(helps))] += line
    return [flag for flag, told in helps.items() if f" {command} --help" in one_line(told)]


def one_line(text: str) -> str:
    """All words of a text on one line, without the strokes of a box around it."""
    return " ".join("".join(" " if "\u2500" <= c <= "\u257f" else c for c in text).split())
