"""Every option of a training run, in one frozen dataclass. Loads neither Keras nor TensorFlow.

The command line's flags, their help and their checks all come from `TrainConfig`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Literal, Self, Union, get_args, get_origin

_EPOCHS_BUNDLED, _EPOCHS_OTHERS = 8, 40

_TASKS = {
    "cnn_lstm": ("trend", "digits", "running_sum"),
    "flat_mlp": ("trend",),
    "channel_cnn": ("trend",),
    "scan_lstm": ("label",),
    "renet": ("label",),
    "crnn": ("text",),
}  # what each model can be asked, the usual question first

_LENGTHS = {"running_sum": 8, "label": 1}  # of the longest sequence, where it is not 4


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model reads and what it is asked: the options that decide its architecture."""

    dataset: str = "digits"
    """Images: "digits" (bundled, no network), or a TensorFlow Datasets name such as "mnist"."""

    data_dir: str | None = None
    """Folder of TensorFlow Datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""

    model: Literal["cnn_lstm", "flat_mlp", "channel_cnn", "scan_lstm", "renet", "crnn"] = "cnn_lstm"
    """Architecture. "flat_mlp" and "channel_cnn" are the baselines without an LSTM. "scan_lstm" and
    "renet" read one image by LSTMs alone, "crnn" reads digits side by side as text."""

    task: Literal["trend", "digits", "running_sum", "label", "text"] | None = None
    """What is asked: the trend of a sequence, the digit or the sum so far at each step (cnn_lstm),
    the label of one image (scan_lstm, renet), a text (crnn). By default what the model is for."""

    length: int | None = None
    """Frames in the longest sequence (T), 1 to 32, by default 4, of running_sum 8; there are 2T - 1
    trends. Digits in a text."""

    min_length: int | None = None
    """Frames in the shortest sequence (digits, running_sum, text); by default as many as in the
    longest, of running_sum 1."""

    encoder: Literal["conv_pool", "small_cnn", "residual_cnn"] = "conv_pool"
    """The CNN that turns a frame into a vector (cnn_lstm and channel_cnn): the reference, one of
    half its arithmetic, or the strongest, with residual blocks."""

    lstm_units: tuple[int, ...] | None = None
    """Units of each LSTM layer, first to last; by default 128 (cnn_lstm, crnn), 100 100 (scan_lstm)
    or 64 64 (renet, in each direction)."""

    bidirectional: bool = False
    """Read in both directions (cnn_lstm, scan_lstm)."""

    scan_by: Literal["rows", "columns", "patches"] | None = None
    """What a step of scan_lstm is; by default a column of the image."""

    scan_size: int | None = None
    """Rows or columns in a step of scan_lstm, by default 1; or the side of a patch."""

    wrap: Literal["layer", "encoder"] = "layer"
    """Distribute each CNN layer over time by itself, or the CNN as one (cnn_lstm). Same answers."""

    dropout: float = 0.0
    """Share of the outputs of each LSTM or hidden layer dropped in training, 0 to below 1."""

    def __post_init__(self):
        self._check_types()
        if self.lstm_units is not None:
            object.__setattr__(self, "lstm_units", tuple(self.lstm_units))
        self._fill("task", _TASKS[self.model][0])
        self._fill("length", _LENGTHS.get(self.task, 4))
        self._fill("min_length", 1 if self.task == "running_sum" else self.length)
        self._check_ranges()
        if self.lstm_units is not None and min(self.lstm_units, default=0) < 1:
            raise ValueError(
                f"lstm_units: expected one or more positive numbers; received {self.lstm_units}."
            )
        self._check_task()

    def _check_types(self):
        for field in dataclasses.fields(TrainConfig):
            if hasattr(self, field.name):
                _check_type(field.name, getattr(self, field.name), field.type)

    def _check_ranges(self):
        for name, low, high in _RANGES:
            value = getattr(self, name, None)
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name}: expected {low:g} to {high:g}; received {value}.")

    def _fill(self, name, default):
        """Gives an option that was left open its default."""
        if getattr(self, name) is None:
            object.__setattr__(self, name, default)

    def _check_task(self):
        if self.task not in _TASKS[self.model]:
            raise ValueError(
                f"task: expected {' or '.join(_TASKS[self.model])} with model {self.model}; "
                f"received {self.task!r}."
            )
        low, high = {"trend": (2, 32), "label": (1, 1)}.get(self.task, (1, 32))
        if not low <= self.length <= high:
            raise ValueError(
                f"length: expected {low} to {high} for the task {self.task}; received "
                f"{self.length}."
            )
        low = self.length if self.task in ("trend", "label") else 1
        if not low <= self.min_length <= self.length:
            raise ValueError(
                f"min_length: expected {low} to {self.length} for the task {self.task}; received "
                f"{self.min_length}."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ModelConfig):
    """Train a model on images of digits, and score it on digits it has never seen.

    With no option at all: the reference CNN-LSTM, which tells the trend of four digits, on the
    real handwriting that comes with scikit-learn. Writes a run directory with the model, its
    history, its scores and plots.
    """

    batch_size: int = 64
    """Sequences in a training batch; with several devices, all of them together."""

    steps_per_epoch: int = 400
    """Training batches from one validation to the next."""

    epochs: int | None = None
    """Validations until the end; by default 8 on the bundled digits and 40 on other data sets."""

    init_from: str | None = None
    """Run directory to take first weights from, for every layer with the same name and shapes:
    to go on from a related task."""

    optimizer: Literal["adam", "adadelta", "rmsprop", "sgd"] = "adam"
    """How gradients become steps; with Keras's settings, adadelta with PyTorch's."""

    learning_rate: float = 1e-3
    """Step size of the optimizer at the start."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on: down to zero along a half cosine, or not at all."""

    balance: float | None = None
    """Share of training sequences whose trend is drawn uniformly, 0 to 1, by default half of them;
    the rest is natural. Other tasks than trend have none."""

    augment: bool = True
    """Distort each training frame by a small random rotation, shear, zoom and shift."""

    validation_sequences: int = 2000
    """Natural sequences of validation digits for each validation, rounded up to whole batches."""

    test_sequences: int = 10_000
    """Sequences of test digits for the final scores, once natural and once balanced."""

    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Number format of the computation; "auto" takes what the hardware is fastest in."""

    strategy: Literal["auto", "one-device", "mirrored"] = "auto"
    """Devices; "auto" mirrors the model on all GPUs of this machine."""

    seed: int = 0
    """Of weights, data and dropout, 0 to 2**31 - 1. Same seed and machine type, same numbers."""

    run_dir: str | None = None
    """Where to write; must not exist. By default runs/DATASET-MODEL, with the task where it is not
    the model's usual one, numbered if that is taken."""

    tensorboard: bool = False
    """Also write TensorBoard logs into the run directory (needs the extra "tensorboard")."""

    def __post_init__(self):
        super().__post_init__()
        self._fill("epochs", _EPOCHS_BUNDLED if self.dataset == "digits" else _EPOCHS_OTHERS)
        self._fill("balance", 0.5 if self.task == "trend" else 0.0)
        if self.balance and self.task != "trend":
            raise ValueError(
                f"balance: expected 0 for the task {self.task}, whose sequences have no class to "
                f"balance; received {self.balance}."
            )

    def to_json(self) -> str:
        """The options as a JSON object, defaults filled in."""
        return json.dumps(dataclasses.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Reads what `to_json` wrote.

        Raises:
            ValueError: if the text is no JSON object of options, or an option is out of range.
        """
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(
                f"config: expected a JSON object; received bad JSON ({error})."
            ) from error
        if not isinstance(values, dict):
            raise ValueError(f"config: expected a JSON object; received {type(values).__name__}.")
        unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"config: expected options of TrainConfig; received {unknown} too. Was it written "
                "by another version?"
            )
        return cls(**values)

    @property
    def num_steps(self) -> int:
        """Training batches of the whole run."""
        assert self.epochs is not None  # filled in by __post_init__
        return self.epochs * self.steps_per_epoch

    @property
    def default_run_dir(self) -> Path:
        """`runs/DATASET-MODEL` (and the task, if it is not the model's usual one).

        With the first free number if that is taken.
        """
        unusual = f"-{self.task}" if self.task != _TASKS[self.model][0] else ""
        base = Path("runs") / f"{self.dataset.replace('/', '-')}-{self.model}{unusual}"
        number, path = 1, base
        while path.exists():
            number += 1
            path = base.with_name(f"{base.name}-{number}")
        return path


_RANGES = (
    ("scan_size", 1, 10_000),
    ("dropout", 0, 0.999),
    ("batch_size", 1, 1_000_000),
    ("steps_per_epoch", 1, 1e9),
    ("epochs", 1, 1e6),
    ("learning_rate", 1e-12, 1e3),
    ("balance", 0, 1),
    ("validation_sequences", 1, 1e9),
    ("test_sequences", 1, 1e9),
    ("seed", 0, 2**31 - 1),
)


def _check_type(name, value, expected) -> None:
    """Refuses a value whose type (or, for a Literal, value) the annotation does not allow."""
    if not _matches(value, expected):
        raise ValueError(f"{name}: expected {_described(expected)}; received {value!r}.")


def _described(expected) -> str:
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return "one of " + ", ".join(map(repr, arguments))
    if origin in (Union, UnionType):
        return " or ".join(_described(a) for a in arguments)
    if expected is NoneType:
        return "None"
    return str(expected) if origin else expected.__name__


def _matches(value, expected) -> bool:
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return value in arguments
    if origin in (Union, UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is tuple:  # tuple[int, ...], which JSON can only write as a list
        return isinstance(value, tuple | list) and all(_matches(v, arguments[0]) for v in value)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)
