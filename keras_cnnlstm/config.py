"""Every option of a training run, in one frozen dataclass. Loads neither Keras nor TensorFlow.

The command line's flags, their help and their checks all come from `TrainConfig`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Literal, Self, get_args, get_origin

_EPOCHS_BUNDLED, _EPOCHS_OTHERS = 8, 40


@dataclass(frozen=True)
class TrainConfig:
    """Train a model to tell the trend of a digit sequence, and score it on unseen digits.

    With no option at all: the reference CNN-LSTM on the real handwriting that comes with
    scikit-learn. Writes a run directory with the model, its history, its scores and plots.
    """

    dataset: str = "digits"
    """Images: "digits" (bundled, no network), or a TensorFlow Datasets name such as "mnist"."""

    data_dir: str | None = None
    """Folder of TensorFlow Datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""

    length: int = 4
    """Frames in a sequence (T), 2 to 32; there are 2T - 1 trends."""

    model: Literal["cnn_lstm", "flat_mlp", "channel_cnn"] = "cnn_lstm"
    """Architecture. "flat_mlp" and "channel_cnn" are the baselines without an LSTM."""

    encoder: Literal["conv_pool"] = "conv_pool"
    """The CNN that turns a frame into a vector (cnn_lstm and channel_cnn)."""

    lstm_units: tuple[int, ...] = (128,)
    """Units of each LSTM layer, first to last (cnn_lstm)."""

    bidirectional: bool = False
    """Read the frames in both directions (cnn_lstm)."""

    wrap: Literal["layer", "encoder"] = "layer"
    """Distribute each CNN layer over time by itself, or the CNN as one (cnn_lstm). Same answers."""

    dropout: float = 0.0
    """Share of the outputs of each LSTM or hidden layer dropped in training, 0 to below 1."""

    batch_size: int = 64
    """Sequences in a training batch; with several devices, all of them together."""

    steps_per_epoch: int = 400
    """Training batches from one validation to the next."""

    epochs: int | None = None
    """Validations until the end; by default 8 on the bundled digits and 40 on other data sets."""

    learning_rate: float = 1e-3
    """Step size of Adam at the start."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on: down to zero along a half cosine, or not at all."""

    balance: float = 0.5
    """Share of training sequences whose trend is drawn uniformly, 0 to 1; the rest is natural."""

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
    """Where to write; must not exist. By default runs/DATASET-MODEL, numbered if that is taken."""

    tensorboard: bool = False
    """Also write TensorBoard logs into the run directory (needs the extra "tensorboard")."""

    def __post_init__(self):
        for field in dataclasses.fields(self):
            _check_type(field.name, getattr(self, field.name), field.type)
        object.__setattr__(self, "lstm_units", tuple(self.lstm_units))
        if self.epochs is None:
            default = _EPOCHS_BUNDLED if self.dataset == "digits" else _EPOCHS_OTHERS
            object.__setattr__(self, "epochs", default)
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name}: expected {low:g} to {high:g}; received {value}.")
        if not self.lstm_units or min(self.lstm_units) < 1:
            raise ValueError(
                f"lstm_units: expected one or more positive numbers; received {self.lstm_units}."
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
        """`runs/DATASET-MODEL`, with the first free number if that is taken."""
        base = Path("runs") / f"{self.dataset.replace('/', '-')}-{self.model}"
        number, path = 1, base
        while path.exists():
            number += 1
            path = base.with_name(f"{base.name}-{number}")
        return path


_RANGES = (
    ("length", 2, 32),
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
        if get_origin(expected) is Literal:
            wanted = "one of " + ", ".join(map(repr, get_args(expected)))
        else:
            wanted = expected.__name__ if isinstance(expected, type) else str(expected)
        raise ValueError(f"{name}: expected {wanted}; received {value!r}.")


def _matches(value, expected) -> bool:
    origin, arguments = get_origin(expected), get_args(expected)
    if origin is Literal:
        return value in arguments
    if origin is UnionType:
        return any(_matches(value, option) for option in arguments)
    if origin is tuple:  # tuple[int, ...], which JSON can only write as a list
        return isinstance(value, tuple | list) and all(_matches(v, arguments[0]) for v in value)
    if expected is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, expected)
