"""Every option of a training run, in one frozen dataclass. Loads neither Keras nor TensorFlow.

The command line's flags, their help and their checks all come from `TrainConfig`.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from keras_cnnlstm.annotations import check_type

_EPOCHS_BUNDLED, _EPOCHS_OTHERS, _EPOCHS_CLIPS = 8, 40, 30

Model = Literal[
    "cnn_lstm",
    "bag_of_frames",
    "flat_mlp",
    "channel_cnn",
    "image_cnn",
    "scan_lstm",
    "renet",
    "crnn",
    "describer",
]
Question = Literal["trend", "digits", "running_sum", "clip", "label", "text", "sentence"]
Encoder = Literal[
    "conv_pool",
    "small_cnn",
    "residual_cnn",
    "paired_cnn",
    "strided_cnn",
    "vgg16",
    "resnet50",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
]

_TASKS = {
    "cnn_lstm": ("trend", "digits", "running_sum", "clip"),
    "bag_of_frames": ("trend", "clip"),
    "flat_mlp": ("trend",),
    "channel_cnn": ("trend",),
    "image_cnn": ("label",),
    "scan_lstm": ("label",),
    "renet": ("label",),
    "crnn": ("text",),
    "describer": ("sentence",),
}  # what each model can be asked, the usual question first

_LENGTHS = {"running_sum": 8, "label": 1, "clip": 16}  # of the longest sequence, where not 4
_SHORTEST = {"running_sum": 1, "clip": 1}  # sequence, where it is not as long as the longest
_WITH_ENCODER = ("cnn_lstm", "bag_of_frames", "channel_cnn", "image_cnn")
_OF_CLIPS = ("image_size", "channels", "groups", "skip_broken", "flip", "invert", "stride")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model reads and what it is asked: the options that decide its architecture."""

    dataset: str = "digits"
    """Images: "digits" (bundled, no network), or a TensorFlow Datasets name such as "mnist"."""

    data_dir: str | None = None
    """Folder of TensorFlow Datasets; by default $TFDS_DATA_DIR or ~/tensorflow_datasets."""

    data: str | None = None
    """Folder of clips of your own, in place of `dataset`: CLASS/CLIP/FRAME.png and CLASS/CLIP.mp4.
    See keras-cnnlstm validate."""

    image_size: tuple[int, int] | None = None
    """Height and width in pixels that frames of clips are brought to; by default 64 64."""

    channels: Literal[1, 3] | None = None
    """1 reads clips in grey, 3 in colour (the default)."""

    model: Model = "cnn_lstm"
    """Architecture. "bag_of_frames", "flat_mlp", "channel_cnn" and, of one image, "image_cnn" are
    the baselines without an LSTM. "scan_lstm" and "renet" read one image by LSTMs alone, "crnn"
    reads digits side by side as text, "describer" says in words what it sees."""

    task: Question | None = None
    """What is asked: the trend of a sequence, the digit or the sum so far at each step (cnn_lstm),
    the class of a clip (with --data), the label of one image (image_cnn, scan_lstm, renet), a text
    (crnn), a sentence (describer): of a sequence of digits, with --length 1 of one image, with
    --data of clips, as FOLDER/captions.csv (columns clip and sentence) says or else their class. By
    default what the model is for."""

    length: int | None = None
    """Frames in the longest sequence (T), by default 4, of running_sum 8, of clips 16; at most 32,
    of clips 10000. There are 2T - 1 trends. Digits in a text."""

    min_length: int | None = None
    """Frames in the shortest sequence (digits, running_sum, text); by default as many as in the
    longest, of running_sum and of clips 1."""

    encoder: Encoder = "conv_pool"
    """The CNN that turns a frame into a vector (cnn_lstm, bag_of_frames, channel_cnn, image_cnn and
    describer): the reference, conv_pool; small_cnn of half its arithmetic; with BatchNorm
    residual_cnn, the fastest of them, paired_cnn, and strided_cnn, which reads digits best (frames
    of 13 pixels or more); or a large one that was trained on ImageNet (32 pixels or more)."""

    encoder_filters: tuple[int, ...] | None = None
    """Output channels of each stage of a small encoder, first to last; by default the encoder's own
    (32 64 conv_pool, 16 32 64 small_cnn, 32 64 96 residual_cnn, 24 48 96 paired_cnn,
    32 64 128 strided_cnn)."""

    encoder_weights: str = "imagenet"
    """Weights of a large encoder: "imagenet", which are downloaded once, a file of them, or "none"
    for random ones."""

    fine_tune: int | None = None
    """Last layers of a large encoder that are trained too; by default none, it is frozen."""

    lstm_units: tuple[int, ...] | None = None
    """Units of each LSTM layer, first to last; by default 128 (cnn_lstm, crnn, describer), 100 100
    (scan_lstm) or 64 64 (renet, in each direction)."""

    bidirectional: bool = False
    """Read in both directions (cnn_lstm, scan_lstm, describer)."""

    attention: bool = True
    """Look back at all frames for each word (describer); else all that it knows of them is the
    state in which the LSTM that read them ended."""

    scan_by: Literal["rows", "columns", "patches"] | None = None
    """What a step of scan_lstm is; by default a column of the image."""

    scan_size: int | None = None
    """Rows or columns in a step of scan_lstm, by default 1; or the side of a patch."""

    wrap: Literal["layer", "encoder"] = "layer"
    """Distribute each CNN layer over time by itself, or the CNN as one (cnn_lstm). Same answers."""

    dropout: float = 0.0
    """Share of the encoder's vectors, and of the outputs of each LSTM or hidden layer, dropped in
    training; 0 to below 1."""

    encoder_dropout: float | None = None
    """Share of the outputs of each stage of a strided_cnn dropped in training; by default as many
    as of the rest (--dropout)."""

    def __post_init__(self):
        self._check_types()
        for name, value in list(vars(self).items()):
            if isinstance(value, list):  # as JSON writes a tuple
                object.__setattr__(self, name, tuple(value))
        self._fill("task", "clip" if self.data and not self._describes else _TASKS[self.model][0])
        self._fill("length", _LENGTHS.get(self._kind, 4))
        self._fill("min_length", _SHORTEST.get(self._kind, self.length))
        if self.data:
            self._fill("image_size", (64, 64))
            self._fill("channels", 3)
        self._check_ranges()
        for name in ("lstm_units", "encoder_filters"):
            sizes = getattr(self, name)
            if sizes is not None and min(sizes, default=0) < 1:
                raise ValueError(
                    f"{name}: expected one or more positive numbers; received {sizes}."
                )
        self._check_task()

    @property
    def _describes(self):
        return self.model == "describer"

    @property
    def _kind(self):
        """The task, for what it says of lengths: a sentence tells of clips, images or trends."""
        if self.task != "sentence":
            return self.task
        return "clip" if self.data else "label" if self.length == 1 else "trend"

    def _check_types(self):
        for field in dataclasses.fields(TrainConfig):
            if hasattr(self, field.name):
                check_type(field.name, getattr(self, field.name), field.type)

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
        if (self.task == "clip") != (self.data is not None) and not self._describes:
            raise ValueError(
                f"task: expected clip with a folder of clips (--data), and only then; received "
                f"{self.task!r} with data {self.data!r}."
            )
        low, high = {"trend": (2, 32), "label": (1, 1), "clip": (1, 10_000)}.get(
            self._kind, (1, 32)
        )
        if not low <= self.length <= high:
            raise ValueError(
                f"length: expected {low} to {high} for the task {self.task}; received "
                f"{self.length}."
            )
        low = self.length if self._kind in ("trend", "label") else 1
        high = 1 if self._kind == "clip" else self.length
        if not low <= self.min_length <= high:
            raise ValueError(
                f"min_length: expected {low} to {high} for the task {self.task}; received "
                f"{self.min_length}."
            )
        if self.data is None:
            self._check_no_clips()

    def _check_no_clips(self):
        for field in dataclasses.fields(self):
            if field.name in _OF_CLIPS and getattr(self, field.name) != field.default:
                raise ValueError(
                    f"{field.name}: expected its default without clips; received "
                    f"{getattr(self, field.name)!r}. Give the folder of clips with --data."
                )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ModelConfig):
    """Every option of a training run.

    With no option at all: the reference CNN-LSTM, which tells the trend of four digits, on the
    real handwriting that comes with scikit-learn.
    """

    batch_size: int | None = None
    """Sequences in a training batch, with several devices all of them together; by default 64, of
    clips 16."""

    steps_per_epoch: int | None = None
    """Training batches from one validation to the next; by default 400, of clips as many as hold
    each training clip once."""

    epochs: int | None = None
    """Validations until the end; by default 8 on the bundled digits, 40 on other data sets, 30 on
    clips."""

    sampling: Literal["segments", "uniform", "window", "first"] | None = None
    """Which T frames of a longer clip: one out of each of T equal parts, at random in training
    ("segments", the default); evenly spaced; a window of frames `stride` apart, anywhere in
    training and in the middle else; the first ones. Shorter clips are padded and masked."""

    stride: int = 1
    """Every how many frames a "window" takes one."""

    groups: str | None = None
    """What belongs together in a split of clips, such as all clips of one recording: a regular
    expression whose first group it is in the clip's name ('^(.+?)_'), or a CSV file with the
    columns clip and group. By default each clip stands for itself."""

    skip_broken: bool = False
    """Train although some clips cannot be read, and list them; else they stop the run before it
    starts."""

    flip: bool = False
    """Flip half of the training clips left to right. Off, since left and right may be the class."""

    invert: bool = False
    """Turn frames of clips negative: dark strokes on light paper into light on dark."""

    cache: str | None = None
    """Folder to keep decoded clips in, for later epochs and runs; with a frozen encoder and
    --no-augment the encoder's answers instead, so that the LSTM alone trains. For digits it is
    always the answers of a frozen encoder."""

    cached_copies: int = 8
    """In how many distorted copies, with cache, each training digit is encoded; once with
    --no-augment."""

    patience: int | None = None
    """Stop after so many validations in a row without a better one; by default never."""

    keep: Literal["best", "last"] = "best"
    """Whose weights become the model: those of the epoch with the best validation score, or of the
    last one. If validation data are few, the best of many scores is the luckiest."""

    checkpoint_steps: int | None = None
    """Also save a checkpoint after every so many batches; there is one after each epoch anyway."""

    init_from: str | None = None
    """Run directory to take first weights from, for every layer with the same name and shapes:
    to go on from a related task."""

    readers: tuple[str, ...] | None = None
    """Run directories of image_cnn, or of another model for one digit, in place of an encoder
    (cnn_lstm on digits): the LSTM reads their probabilities, of several the geometric mean. They
    stay as they are."""

    reader_views: int = 1
    """In how many copies of each frame the readers look, turned, zoomed and shifted a little, up to
    7; the mean is over these, too. So many times as slow, but for what --cache keeps."""

    freeze: bool = False
    """Leave the layers taken from init_from as they are, and train the others: a first stage, after
    which a run from that run may train all."""

    so_far: bool = False
    """Learn the trend so far at every step too, not only that of the whole sequence (cnn_lstm on
    trends, not bidirectional)."""

    reorder: bool = False
    """Also learn the trends of the same frames in other orders, in which each frame follows each
    other equally often: the encoder reads them once, for all orders (with so_far)."""

    regroup: int = 1
    """How many sequences of a batch exchange their frames: the trends of each sequence that comes
    of it are learned, too, and the encoder reads each frame once. A divisor of batch_size (with
    so_far)."""

    optimizer: Literal["adam", "adadelta", "rmsprop", "sgd"] = "adam"
    """How gradients become steps; with Keras's settings, adadelta with PyTorch's."""

    learning_rate: float = 1e-3
    """Step size of the optimizer at the start."""

    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on: down to zero along a half cosine, or not at all."""

    weight_decay: float = 0.0
    """Share of each weight taken off at every step, times the learning rate: keeps weights small,
    against learning by heart (Loshchilov and Hutter, "Decoupled Weight Decay Regularization",
    2019)."""

    ema: float = 0.0
    """Momentum of a running average of the weights, which takes their place in validation and in
    what is saved; 0.999 is usual, 0 is off."""

    balance: float | None = None
    """Share of training sequences whose trend is drawn uniformly, 0 to 1, by default half of them;
    the rest is natural. Other tasks than trend, and sentence on digits, have none."""

    augment: bool = True
    """Distort each training frame, or clip as a whole, by a small random rotation, shear, zoom and
    shift."""

    distortion: float = 1.0
    """Strength of augment: 1 turns a frame by up to 12 degrees and shifts it by up to 8 % of its
    size; twice that is hard to read."""

    elastic: float = 0.0
    """Strength of elastic distortions, as of an unsteady hand, that augment adds to frames of
    digits; 1 is usual, 0 is off (Simard et al., "Best Practices for Convolutional Neural Networks
    Applied to Visual Document Analysis", 2003)."""

    erasing: float = 0.0
    """Strength of random erasing, by which augment leaves gaps in frames of digits, as a pen does
    that does not write: at 1 three black rectangles, each of up to 30 % of the sides; 0 is off
    (Zhong et al., "Random Erasing Data Augmentation", 2020)."""

    untouched: float = 0.0
    """Share of the frames of digits that augment leaves as they are, 0 to 1: distorted ones are a
    little blurred, those of the test are not."""

    validation_sequences: int = 2000
    """Natural sequences of validation digits for each validation, rounded up to whole batches."""

    test_sequences: int = 10_000
    """Sequences of test digits for the final scores, once natural and once balanced."""

    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Number format of the computation; "auto" takes what the hardware is fastest in."""

    strategy: Literal["auto", "one-device", "mirrored", "multi-worker"] = "auto"
    """Devices; "auto" mirrors the model on all GPUs of this machine, and trains with other machines
    where $TF_CONFIG names them ("multi-worker")."""

    members: int = 1
    """Models to train, one after the other, each with the next seed, whose mean answer is the
    run's: an ensemble, better than each of them. Each is a run of its own, in RUN/members."""

    member_encoders: tuple[Encoder, ...] | None = None
    """Encoders that the members take in turn, since networks that differ err on different
    sequences; by default all have the one of --encoder."""

    seed: int = 0
    """Of weights, data and dropout, 0 to 2**31 - 1. Same seed and machine type, same numbers."""

    run_dir: str | None = None
    """Where to write; must not exist. By default runs/DATASET-MODEL, with the task where it is not
    the model's usual one, numbered if that is taken."""

    tensorboard: bool = False
    """Also write TensorBoard logs into the run directory: curves, and after each validation the
    confusion matrix and examples with the answers (needs the extra "tensorboard")."""

    def __post_init__(self):
        super().__post_init__()
        if self.data:
            self._fill("epochs", _EPOCHS_CLIPS)
            self._fill("batch_size", 16)
            self._fill("sampling", "segments")
            if self.stride > 1 and self.sampling != "window":
                raise ValueError(
                    f"stride: expected 1 with sampling {self.sampling}; received {self.stride}. "
                    "Use it with --sampling window."
                )
        else:
            self._fill("epochs", _EPOCHS_BUNDLED if self.dataset == "digits" else _EPOCHS_OTHERS)
            self._fill("batch_size", 64)
            self._fill("steps_per_epoch", 400)
            if self.sampling is not None:
                raise ValueError(
                    f"sampling: expected none without clips; received {self.sampling!r}. Give the "
                    "folder of clips with --data."
                )
        for name in ("elastic", "erasing", "untouched"):
            if getattr(self, name) and self.data:
                raise ValueError(
                    f"{name}: expected 0 with a folder of clips (--data), whose frames are "
                    f"distorted all alike; received {getattr(self, name)}."
                )
        if self.so_far and (self.task != "trend" or self.model != "cnn_lstm" or self.bidirectional):
            raise ValueError(
                "so_far: expected off but for the task trend, with model cnn_lstm, not "
                f"bidirectional; received True with task {self.task}, model {self.model}, "
                f"bidirectional {self.bidirectional}."
            )
        if self.reorder and not self.so_far:
            raise ValueError("reorder: expected off without so_far (--so-far); received True.")
        if self.readers is not None:
            self._check_readers()
        elif self.reader_views > 1:
            raise ValueError(
                f"reader_views: expected 1 without readers (--readers); received "
                f"{self.reader_views}."
            )
        self._check_members()
        if self.regroup > 1 and not self.so_far:
            raise ValueError(
                f"regroup: expected 1 without so_far (--so-far); received {self.regroup}."
            )
        if self.freeze and not self.init_from:
            raise ValueError(
                "freeze: expected off without init_from, which says where the layers to freeze "
                "come from; received True."
            )
        if self.cache and not self.data and (self.model != "cnn_lstm" or self.so_far):
            raise ValueError(
                "cache: expected none with digits, but for a cnn_lstm with a frozen encoder, whose "
                f"answers it keeps, and not with so_far; received {self.cache!r} with model "
                f"{self.model}, so_far {self.so_far}."
            )
        self._fill("balance", 0.5 if self._kind == "trend" else 0.0)
        if self.balance and self._kind != "trend":
            raise ValueError(
                f"balance: expected 0 for the task {self.task}, whose sequences have no class to "
                f"balance; received {self.balance}."
            )

    def _check_readers(self):
        if not self.readers:
            raise ValueError("readers: expected one run directory or more; received none.")
        if self.data or self.model != "cnn_lstm":
            raise ValueError(
                "readers: expected none but for model cnn_lstm on digits; received "
                f"{', '.join(self.readers)} with model {self.model}, data {self.data!r}."
            )
        for name in ("encoder", "encoder_filters", "encoder_dropout", "fine_tune"):
            if getattr(self, name) != getattr(ModelConfig, name):
                raise ValueError(
                    f"{name}: expected its default with readers, which take the encoder's place; "
                    f"received {getattr(self, name)!r}."
                )

    def _check_members(self):
        if self.members > 1 and self._describes:
            raise ValueError(
                "members: expected 1 with model describer, which says a sentence word by word; "
                f"received {self.members}."
            )
        if self.seed + self.members > 2**31:
            raise ValueError(
                f"seed: expected {2**31 - self.members} at most, since each of {self.members} "
                f"members takes the next one; received {self.seed}."
            )
        if self.member_encoders is None:
            return
        if not 1 <= len(self.member_encoders) <= self.members or self.members == 1:
            raise ValueError(
                "member_encoders: expected one or more encoders, and as many members at least "
                f"(--members), two or more; received {len(self.member_encoders)} for "
                f"{self.members}."
            )
        if self.encoder != ModelConfig.encoder:
            raise ValueError(
                f"encoder: expected its default with member_encoders, which take its place; "
                f"received {self.encoder!r}."
            )
        if self.readers or self.model not in _WITH_ENCODER:
            raise ValueError(
                f"member_encoders: expected none but with model {', '.join(_WITH_ENCODER)}, and "
                f"without readers, which take the encoder's place; received "
                f"{', '.join(self.member_encoders)} with model {self.model}, readers "
                f"{self.readers}."
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
        except (ValueError, RecursionError) as error:  # bad JSON, or a number of too many digits
            raise ValueError(
                f"config: expected a JSON object; received bad JSON ({error})."
            ) from error
        if not isinstance(values, dict):
            raise ValueError(f"config: expected a JSON object; received {type(values).__name__}.")
        unknown = sorted(values.keys() - {f.name for f in dataclasses.fields(cls)})
        if unknown:
            raise ValueError(
                f"config: expected options of TrainConfig; received {unknown!r:.200} too. Was it "
                "written by another version?"
            )
        return cls(**values)

    @property
    def reading(self) -> dict[str, Any]:
        """What the model was trained for, and how its frames were read, for those who ask it."""
        told = ["length", "min_length"]
        told += ["sampling", "stride", "invert"] if self.data else ["dataset"]
        return {"name": self.task, **{name: getattr(self, name) for name in told}}

    @property
    def num_steps(self) -> int:
        """Training batches of the whole run; for clips once `steps_per_epoch` is known."""
        assert self.epochs is not None  # filled in by __post_init__
        assert self.steps_per_epoch is not None  # filled in when the clips were counted
        return self.epochs * self.steps_per_epoch

    @property
    def default_run_dir(self) -> Path:
        """`runs/DATASET-MODEL` (and the task, if it is not the model's usual one).

        With the first free number if that is taken.
        """
        usual = self.task in (_TASKS[self.model][0], "clip")
        unusual = "" if usual else f"-{self.task}"
        data = Path(self.data).resolve().name if self.data else self.dataset.replace("/", "-")
        base = Path("runs") / f"{data}-{self.model}{unusual}"
        number, path = 1, base
        while path.exists():
            number += 1
            path = base.with_name(f"{base.name}-{number}")
        return path


_RANGES = (
    ("stride", 1, 1_000_000),
    ("fine_tune", 1, 1000),
    ("patience", 1, 1e6),
    ("weight_decay", 0, 1),
    ("ema", 0, 0.99999),
    ("distortion", 0, 3),
    ("elastic", 0, 3),
    ("erasing", 0, 3),
    ("untouched", 0, 1),
    ("checkpoint_steps", 1, 1e9),
    ("cached_copies", 1, 1000),
    ("regroup", 1, 1000),
    ("reader_views", 1, 7),
    ("members", 1, 100),
    ("scan_size", 1, 10_000),
    ("dropout", 0, 0.999),
    ("encoder_dropout", 0, 0.999),
    ("batch_size", 1, 1_000_000),
    ("steps_per_epoch", 1, 1e9),
    ("epochs", 1, 1e6),
    ("learning_rate", 1e-12, 1e3),
    ("balance", 0, 1),
    ("validation_sequences", 1, 1e9),
    ("test_sequences", 1, 1e9),
    ("seed", 0, 2**31 - 1),
)
