"""The command `keras-cnnlstm`: parses, delegates, prints. Imports the heavy parts when needed."""

import contextlib
import io
import json
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from keras_cnnlstm.config import ModelConfig, TrainConfig
from keras_cnnlstm.recipes import RECIPES, RecipeName

_DESCRIPTION = """Classify sequences of images with a CNN that looks at each frame and an LSTM that
reads the frames in order.

Start with: keras-cnnlstm train
"""

_TF = "tensorflow"  # as KERAS_BACKEND names it


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
    minutes; "best" the highest score, an hour or more."""

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

    num_sequences: int = 10_000
    """Test sequences to draw for each of the two scores; clips to take at most."""

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

    sequences: int | None = None
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


_Command = (
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        arguments: the words after the program's name; by default those of this process.

    Returns:
        The exit code: 0; 2 if the input was bad, after one line on stderr that says so; 1 if
        the training failed by its numbers, or validate found clips that cannot be read; 130 if
        interrupted, 143 if a training was stopped by SIGTERM. With the environment variable
        `KERAS_CNNLSTM_DEBUG=1` the traceback comes with it.
    """
    try:
        return _run(_parse(arguments)) or 0
    except BrokenPipeError:  # whoever reads the output has had enough of it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("KERAS_CNNLSTM_DEBUG"):
            traceback.print_exc()
        print(f"keras-cnnlstm: {_one_line(str(error))}", file=sys.stderr)
        return 1 if isinstance(error, FloatingPointError) else 2
    except KeyboardInterrupt as stop:
        print(f"keras-cnnlstm: {str(stop) or 'interrupted'}", file=sys.stderr)
        return 143 if str(stop) else 130  # by SIGTERM, with a message, or from the keyboard


def _run(command) -> int | None:
    actions = {
        Train: _train,
        Evaluate: _evaluate,
        Calibrate: _calibrate,
        Report: _report,
        Predict: _predict,
        Stream: _stream,
        Demo: _demo,
        Export: _export,
        ImportTorch: _import_torch,
        Validate: _validate,
        Benchmark: _benchmark,
    }
    # Predict and Validate load it only if they need it; a benchmark must run without.
    other = isinstance(command, Benchmark) and os.environ.get("KERAS_BACKEND", _TF) != _TF
    if not isinstance(command, Predict | Validate) and not other:
        _load_tensorflow()
    return actions[type(command)](command)


def _parse(arguments):
    """The command's dataclass; of a recipe its options where none are given."""
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
    to a file meanwhile; what is in it is shown if the loading fails. From then on warnings and
    errors are logged, unless the user has set another level.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import tensorflow as tf

            if "TF_CONFIG" not in os.environ:  # or the workers join before
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


def _train(command):
    from keras_cnnlstm.scores import summary
    from keras_cnnlstm.training import train

    names = [field.name for field in fields(TrainConfig)]
    config = TrainConfig(**{name: getattr(command, name) for name in names})
    if command.resume:
        config = _options_to_resume(command.resume, config)
    run = train(config, resume=bool(command.resume))
    if not run.metrics:
        print(f"\nthis worker is done; the chief writes {run.path}")
        return
    facts = run.metrics["training"]
    print(
        f"\ntrained on {facts['sequences']:,} sequences in {facts['seconds']:.0f} s "
        f"({facts['sequences_per_second']:,.0f} a second); best epoch {facts['best_epoch']}, "
        f"kept epoch {facts['kept_epoch']}"
    )
    _print_scores(run.metrics["test"], summary)
    print(
        f"\nwritten to {run.path}\n"
        f"try: keras-cnnlstm predict {run.path} {run.path / 'example'}/*.png\n"
        f"look: keras-cnnlstm report {run.path}"
    )


def _options_to_resume(run, given):
    """The options of a run, and those that were given on the command line."""
    from keras_cnnlstm.runs import load_config

    defaults, stored = TrainConfig(), load_config(Path(run))
    changes = {
        name: value
        for name, value in vars(given).items()
        if value != getattr(defaults, name) and name != "run_dir"
    }
    return replace(stored, **changes, run_dir=run)


def _evaluate(command):
    from keras_cnnlstm.evaluation import score
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.scores import summary
    from keras_cnnlstm.sources import batches_to_score

    run = _averaged(load_run(command.run), command)
    tests, task = batches_to_score(
        run,
        dataset=command.dataset,
        data_dir=command.data_dir,
        data=command.data,
        num_sequences=command.num_sequences,
    )
    scores = score(run.model, tests, task)
    if command.json:
        print(json.dumps(scores, indent=2))
    else:
        _print_scores(scores, summary)


def _averaged(run, command):
    """The run with the model that averages over the ensemble, and over so many views."""
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.views import average_models, average_views

    if command.ensemble:
        others = [load_run(path) for path in command.ensemble]
        for other in others:
            _check_same_question(run, other)
        run = replace(run, model=average_models([run.model, *(other.model for other in others)]))
    if command.views == 1:
        return run
    return replace(run, model=average_views(run.model, command.views))


def _check_same_question(run, other):
    from keras_cnnlstm.arguments import told

    for what, one, another in (
        ("that read frames", run.config.reading, other.config.reading),
        ("with classes", run.class_names, other.class_names),
    ):
        if one != another:
            raise ValueError(
                f"ensemble: expected runs {what} as {run.path} does, {told(one)}; received "
                f"{other.path}, {told(another)}."
            )


def _calibrate(command):
    from keras_cnnlstm.calibration import facts_as_text
    from keras_cnnlstm.evaluation import calibrate
    from keras_cnnlstm.runs import load_run

    found = calibrate(load_run(command.run), unsure_below=command.unsure_below).calibration
    if command.json:
        print(found.to_json(), end="")
    else:
        print(
            f"temperature {found.temperature:.3f}; of {found.validation['num_answers']:,} answers "
            f"to validation data: {facts_as_text(found.validation)}"
        )


def _print_scores(scores, summary):
    titles = {
        "natural": "natural test sequences (each digit uniform)",
        "balanced": "balanced test sequences (each class uniform)",
        "clips": "clips that the training has not seen",
        "folder": "all clips of the folder",
    }
    for name, score in scores.items():
        print(f"\n{titles[name]}: {summary(score)}")


def _report(command):
    # Each of the report's small models is traced once; TensorFlow warns that this is expensive.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from keras_cnnlstm.evaluation import evaluate
    from keras_cnnlstm.report_facts import Comparison, comparison_lines
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.scores import summary

    found = evaluate(
        load_run(command.run),
        num_sequences=command.sequences,
        num_mistakes=command.mistakes,
        say=lambda text: print(text, flush=True),
    )["report"]
    _print_scores(found["tests"], summary)
    if found["does_time_help"]:
        rows = [Comparison(row["title"], "", row) for row in found["does_time_help"]]
        print("\ndoes time help?", *comparison_lines(rows), sep="\n")
        print(found["verdict"])
    print(f"\nwritten to {command.run / 'report.html'}; open it in a browser")


def _predict(command):
    from keras_cnnlstm.answers import as_text, headline
    from keras_cnnlstm.predictors import kind_of, open_predictor

    if kind_of(command.model) in ("run", "saved_model"):
        _load_tensorflow()
    predictor = open_predictor(command.model, beam=command.beam)
    clips = [path for path in command.frames if predictor.takes_as_clip(path)]
    if not clips:
        told = predictor.answer_images(command.frames, invert=command.invert)
        print(json.dumps(told, indent=2) if command.json else as_text(told))
        return
    if len(clips) < len(command.frames):
        other = next(path for path in command.frames if path not in clips)
        raise ValueError(
            f"frames: expected either image files, the frames of one sequence, or folders and "
            f"videos, a clip each; received {clips[0]} and {other}."
        )
    for clip in clips:
        told = predictor.answer_clip(clip, invert=command.invert)
        if command.json:
            print(json.dumps({"clip": str(clip), **told}), flush=True)
        elif len(clips) > 1:
            print(f"{clip}: {headline(told)}", flush=True)
        else:
            print(as_text(told))


def _stream(command):
    from keras_cnnlstm.answers import as_json, headline
    from keras_cnnlstm.clips import iterate_frames
    from keras_cnnlstm.runs import load_run
    from keras_cnnlstm.streaming import FrameStream

    run = load_run(command.run)
    live = FrameStream(run.model, run.class_names)
    height, width, channels = live.stream.frame_shape
    frames = iterate_frames(
        command.source,
        image_size=(height, width),
        channels=channels,
        invert=command.invert != run.config.invert,
        every=command.every,
    )
    for name, frame in frames:
        answer = live.push(frame)
        output = "probabilities" if answer.values is None else "values"
        unsure = run.reading.get("unsure_below")
        told = as_json(output, getattr(answer, output), run.class_names, unsure_below=unsure)
        if command.json:
            print(json.dumps({"step": answer.step, "file": name, **told}), flush=True)
        else:
            print(f"{answer.step:5}  {Path(name).name:20}  {headline(told)}", flush=True)


def _validate(command):
    from keras_cnnlstm.clip_checks import check_clips
    from keras_cnnlstm.leakage import progress_line

    report = check_clips(command.data, progress=progress_line())
    print(report.to_json() if command.json else report.text())
    return 1 if report.failures else 0


def _demo(command):
    from keras_cnnlstm.demo import serve

    def ready(address):
        print(f"open {address} in a browser; Ctrl-C ends it", flush=True)

    serve(command.run, host=command.host, port=command.port, ready=ready)
    print("stopped; what was drawn and dropped is gone")


def _export(command):
    from keras_cnnlstm.export import export
    from keras_cnnlstm.runs import load_run

    run = _averaged(load_run(command.run), command)
    done = export(run, command.directory, command.format, version=command.version)
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
    # Each of its models is traced once; TensorFlow warns that this is expensive.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    from keras_cnnlstm.benchmark import benchmark

    measured = benchmark(
        command.sections,
        batch_size=command.batch_size,
        lengths=command.lengths,
        repeats=command.repeats,
        output=command.output,
        say=lambda text: print(text, file=sys.stderr, flush=True),
    )
    print(measured.to_json() if command.json else f"{measured.text()}\n", end="")
    print(f"written to {command.output}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
