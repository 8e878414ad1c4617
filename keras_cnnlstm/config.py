"""Every option of a training run, in one frozen dataclass. Loads neither Keras nor TensorFlow.

The command line's flags, their help and their checks all come from `TrainConfig`.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, Union, get_args, get_origin

from keras_cnnlstm.utils.validation import as_path, short_repr

if TYPE_CHECKING:
    from keras_cnnlstm.tasks.task import Task

_EPOCHS_BUNDLED, _EPOCHS_OTHERS, _EPOCHS_CLIPS = 8, 40, 30

Model = Literal[
    "cnn_lstm",
    "bag_of_frames",
    "flat_mlp",
    "early_fusion_cnn",
    "image_cnn",
    "scan_lstm",
    "renet",
    "crnn",
    "captioner",
]

Small = Literal["conv_pool", "small_cnn", "residual_cnn", "paired_cnn", "strided_cnn"]

Encoder = Literal[
    Small,
    "vgg16",
    "resnet50",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
    "efficientnet_v2_b0",
    "efficientnet_lite0",
]

_WITH_ENCODER = ("cnn_lstm", "bag_of_frames", "early_fusion_cnn", "image_cnn")
_FRAME_BY_FRAME = ("cnn_lstm", "bag_of_frames", "image_cnn", "captioner")
_ENCODER_RULE = f"one of {', '.join(get_args(Encoder))}, a .keras file, or run directories"
_OF_CLIPS = (
    "image_size", "fit", "color_mode", "depth_range", "groups", "skip_broken", "flip", "sampling",
    "stride", "frames_per_second", "folds", "motion_seconds", "labels", "frame_numbers",
    "class_weight", "focal",
)  # fmt: skip
_DATA_SETS = ("digits", "mnist", "kmnist")  # names that never mean a folder
_MOST_LAYERS = 100  # of one kind; building thousands takes hours
_GROUP = 4  # sequences that exchange their frames where supervision is "permuted"
Transform = Literal["affine", "elastic", "erasing", "probability"]
Augmentation = Literal["none", "light", "strong"] | dict[Transform, Annotated[float, (0, 3)]]
_NO_TRANSFORM = {"affine": 0.0, "elastic": 0.0, "erasing": 0.0, "probability": 1.0}

_LEVELS: dict[str, dict[str, float]] = {
    "none": {},
    "light": {"affine": 1.0},
    "strong": {"affine": 1.0, "elastic": 0.3, "probability": 0.9},
}

_LEVELS_OF_CLIPS = {**_LEVELS, "strong": {"affine": 2.0}}
Count = Annotated[int, (1, 1_000_000)]  # an annotation holds the range of its option
Many = Annotated[int, (1, 1_000_000_000)]
Share = Annotated[float, (0, 1)]


def _is_folder(text: str, *, slashes: int = 0) -> bool:
    """Whether a text names a folder: by its form, with more slashes than that, or by being one."""
    plain = text.count("/") <= slashes and not text.endswith("/") and "\\" not in text
    return not plain or text.startswith(".") or os.path.isabs(text) or os.path.isdir(text)


def _as_folder(text: str) -> str:
    """The same folder in a form that names a folder although there may be none any more."""
    marked = text.startswith(".") or os.path.isabs(text) or "\\" in text
    return text if marked else f"./{text}"


def _is_encoder(text: str) -> bool:
    """Whether a text names an encoder, or a file of one; else it is a run directory."""
    return text in get_args(Encoder) or text.endswith(".keras")


def _lasting(encoder: str) -> str:
    """A run directory in a form that names a folder; another encoder as it is."""
    run = not _is_encoder(encoder) and _is_folder(encoder)
    return _as_folder(encoder) if run else encoder


def _known(encoder: str | tuple[str, ...] | None) -> bool:
    """Whether it is one name or one file, or run directories."""
    if encoder is None:
        return False
    if isinstance(encoder, str):
        return _is_encoder(encoder) or _is_folder(encoder)
    return all(_is_folder(run) and not _is_encoder(run) for run in encoder)


def _check_types(config: Any) -> None:
    """Refuses options whose values are not of their annotations."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not _fits(value, field.type):
            raise ValueError(
                f"{field.name} must be {_rule(field.type)}; received {short_repr(value)}."
            )


def _fits(value: Any, annotation: Any) -> bool:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        low, high = inner[1]
        return _fits(value, inner[0]) and bool(low <= value <= high)
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:  # or a list, as JSON writes it
        if not isinstance(value, tuple | list) or not value:
            return False
        if inner[1] is not Ellipsis and len(value) != len(inner):
            return False
        return all(_fits(one, inner[0]) for one in value)
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else [(None, None)]
        return all(_fits(key, inner[0]) and _fits(one, inner[1]) for key, one in pairs)
    if annotation in (int, float):
        numbers = (int, float) if annotation is float else int
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, annotation)


_NAMES = {int: "an integer", float: "a number", str: "text", bool: "True or False"}


def _rule(annotation: Any) -> str:
    """What an annotation allows, for an error."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        low, high = inner[1]
        form = ",g" if inner[0] is float else ","
        return f"{_rule(inner[0])} from {low:{form}} to {high:{form}}"
    if origin is Literal:
        return "one of " + ", ".join(map(repr, inner))
    if origin in (Union, UnionType):
        return " or ".join(_rule(one) for one in inner if one is not NoneType)
    if origin is tuple:
        count = "one or more" if inner[1] is Ellipsis else len(inner)
        return f"{count}, each {_rule(inner[0])}"
    if origin is dict:
        return f"{_rule(inner[1])} for each of {_rule(inner[0]).removeprefix('one of ')}"
    return _NAMES[annotation]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What a model reads and what it is asked: the options that decide its architecture."""

    data: str = "digits"
    """Images to train on: "digits" (8x8 handwriting that comes with scikit-learn, no download), a
    TensorFlow Datasets name such as "mnist" (kept in $TFDS_DATA_DIR), or a folder of your own clips
    with CLASS/CLIP/FRAME.png and CLASS/CLIP.mp4 (see keras-cnnlstm validate). An existing folder
    goes before a name; ./mnist is always a folder."""

    image_size: tuple[Count, Count] | None = None
    """Height and width of the frames of clips, in pixels. Default: 64 64."""

    fit: Literal["crop", "letterbox", "stretch"] = "stretch"
    """How frames of clips of another aspect ratio are brought to this size: the middle of them; all
    of them between black bars; or all of them, height and width scaled differently."""

    color_mode: Literal["rgb", "grayscale", "inverted"] = "rgb"
    """Colors of the frames of clips. "inverted" is grayscale with black and white exchanged: dark
    strokes on light paper become light on dark."""

    depth_range: tuple[float, float] | None = None
    """Values of images of 16 bits, as of depth cameras, that become 0 and 255: 500 4500 for half a
    metre to four and a half, in mm. Default: 0 65535."""

    labels: str | None = None
    """Table of labels, .csv, .tsv or .jsonl: a row a clip, with the columns clip (its path below
    --data) and class; or classes (several, separated by |); or value, or value:NAME for several
    numbers; or start, end (seconds) and class, a row a segment; or "frame classes", as
    0-29:walk|30-59:run. Also split (train, validation, test), group and weight. Default: the class
    of a clip is the folder that it lies in."""

    frame_numbers: bool = False
    """Read start and end in --labels as numbers of frames, from 0, not as seconds."""

    model: Model = "cnn_lstm"
    """Architecture. "bag_of_frames", "flat_mlp", "early_fusion_cnn" and, of one image, "image_cnn"
    are the baselines without an LSTM. "scan_lstm" and "renet" read one image by LSTMs alone, "crnn"
    reads digits side by side as text, "captioner" describes what it sees in words."""

    task: str | None = None
    """What the model answers: the trend of a sequence, the digit or the sum so far at each step
    (cnn_lstm), the class of a clip (a folder as --data), its labels, its numbers or the class of
    each of its frames (clip_labels, clip_values, clip_segments, as --labels says), the label of one
    image (image_cnn,
    scan_lstm, renet), a text (crnn), a caption (captioner): of a sequence of digits, of one image
    with --length 1, of clips as FOLDER/captions.csv (columns clip and caption) or the class says.
    Default: the usual task of the model."""

    length: Annotated[int, (1, 10_000)] | None = None
    """Frames in the longest sequence (T): of clips at most 10000, of digits 32. Default: clips 16,
    digits 4, running_sum 8. There are 2T - 1 trends. For a text: its digits."""

    min_length: Annotated[int, (1, 10_000)] | None = None
    """Frames in the shortest sequence (clips, digits, running_sum, text). Default: clips and
    running_sum 1, else as in the longest one."""

    encoder: str | tuple[str, ...] | None = None
    """CNN that turns a frame into a vector. A name: conv_pool (the reference), small_cnn (half its
    arithmetic), with BatchNorm residual_cnn (the fastest), paired_cnn and strided_cnn (best on
    digits, from 13 pixels on), or one trained on ImageNet and frozen (from 32 pixels on): vgg16,
    resnet50, mobilenet_v3_small, mobilenet_v3_large, efficientnet_v2_b0, and efficientnet_lite0,
    whose weights come with an installed package (the extra "pretrained"). Or a .keras file of your
    own encoder. Or run directories, frozen: of image classifiers the LSTM reads the probabilities,
    of several their geometric mean; of other models the vectors of their encoders. Default:
    conv_pool; of clips efficientnet_lite0 where it is installed and the frames have 96 pixels or
    more, else residual_cnn."""

    motion: Literal["none", "difference", "both"] | None = None
    """What the encoder reads: the frames; how each differs from the one `motion_seconds` before, as
    an image (Sudhakaran and Lanz, AVSS 2017); or both (Simonyan and Zisserman, NeurIPS 2014). The
    features of single frames say little about an action. cnn_lstm and bag_of_frames. Default: none;
    of clips both with efficientnet_lite0 or residual_cnn, but of videos difference with the former.
    """

    motion_seconds: Annotated[float, (1e-3, 60)] = 0.2
    """Time of film between the two frames that are compared, rounded to whole steps of
    `frames_per_second`, one at least. Where there is no such rate: one frame."""

    encoder_filters: tuple[Annotated[int, (1, 65_536)], ...] | None = None
    """Output channels of each stage of a small encoder, first to last. Default: 32 64 (conv_pool),
    16 32 64 (small_cnn), 32 64 96 (residual_cnn), 24 48 96 (paired_cnn), 32 64 128 (strided_cnn).
    """

    fine_tune: Annotated[int, (1, 1000)] | None = None
    """Last layers of a frozen encoder that are trained too: one trained on ImageNet, or a .keras
    file. Default: none."""

    tta: Annotated[int, (1, 7)] = 1
    """Test-time augmentation of an encoder from run directories: copies of each frame, each
    turned, zoomed or shifted a little, whose mean answer it gives. Costs that many times the work.
    """

    lstm_units: tuple[Annotated[int, (1, 65_536)], ...] | None = None
    """Units of each LSTM layer, first to last. Default: 128 (cnn_lstm, crnn, captioner), 100 100
    (scan_lstm), 64 64 (renet, in each direction)."""

    bidirectional: bool = False
    """Read in both directions (cnn_lstm, scan_lstm, captioner)."""

    scan_by: Literal["rows", "columns", "patches"] | None = None
    """What a step of scan_lstm is. Default: columns of the image."""

    scan_size: Annotated[int, (1, 10_000)] | None = None
    """Rows or columns in a step of scan_lstm, or the side of a patch, in pixels. Default: 1."""

    dropout: Annotated[float, (0, 0.999)] | None = None
    """Share dropped in training of the encoder's vectors, of the outputs of each LSTM or hidden
    layer, and of each stage of a strided_cnn, 0 to 0.999. Default: 0; of clips 0.5."""

    def __post_init__(self):
        _check_types(self)
        if self.resolved is self:  # else that was checked when it was made
            self._check()

    @cached_property
    def resolved(self) -> Self:
        """These options with each open one (`None`) decided, as config.json keeps them."""
        changes = {
            name: value for name, value in self._defaults().items() if getattr(self, name) is None
        }
        for name, value in self._plain().items():
            if value != getattr(self, name):
                changes[name] = value
        return dataclasses.replace(self, **changes) if changes else self

    def _defaults(self) -> dict[str, Any]:
        """What each option is that may be left open."""
        task = self._task_class
        length = task.default_length if self.length is None else self.length
        size = {"image_size": (64, 64)} if self.reads_clips else {}
        shortest = task.default_min_length or length
        lengths = {"length": length, "min_length": shortest}
        usual = {"encoder": "conv_pool", "motion": "none", "dropout": 0.0}
        return {"task": self._task_name, **lengths, **size, **usual}

    def _plain(self) -> dict[str, Any]:
        """Options in the one form that means the same in every folder."""
        lists = {
            field.name: tuple(value)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), list)  # as JSON writes a tuple
        }
        encoder: Any = tuple(map(_lasting, self.encoder_runs)) or None
        if isinstance(self.encoder, str):
            encoder = _lasting(self.encoder)
        data = _as_folder(self.data) if self.reads_clips else self.data
        return {**lists, "encoder": encoder, "data": data}

    @property
    def reads_clips(self) -> bool:
        """Whether `data` is a folder of clips; else it is the name of a data set."""
        return self.data not in _DATA_SETS and _is_folder(self.data, slashes=1)

    @property
    def encoder_runs(self) -> tuple[str, ...]:
        """Run directories that the encoder is taken from; none if it is a name or a file."""
        if not isinstance(self.encoder, str):
            return tuple(self.encoder or ())
        return () if _is_encoder(self.encoder) else (self.encoder,)

    @property
    def channels(self) -> int:
        """Channels of the frames of clips: 1 or 3."""
        return 3 if self.color_mode == "rgb" else 1

    @property
    def invert(self) -> bool:
        """Whether frames of clips are inverted."""
        return self.color_mode == "inverted"

    @property
    def _task_name(self) -> str:
        """The task, or the model's usual one."""
        return self.task or next(iter(self._tasks), "")

    @property
    def _tasks(self) -> "dict[str, type[Task]]":
        """The tasks that the model can answer on such data, the usual one first."""
        from keras_cnnlstm.tasks.registry import TASKS  # loads NumPy, which --help does without

        clips, length = self.reads_clips, self.length
        tasks = {name: task.variant(length=length, clips=clips) for name, task in TASKS.items()}
        return {
            name: task
            for name, task in tasks.items()
            if self.model in task.models and task.draws_digits != clips
        }

    @property
    def _task_class(self) -> "type[Task]":
        """The class of the task.

        Raises:
            ValueError: if the model cannot answer it on such data.
        """
        tasks, data = self._tasks, "clips" if self.reads_clips else "digits"
        if not tasks:
            raise ValueError(f"model must be one that reads {data}; received {self.model!r}.")
        if self._task_name not in tasks:
            raise ValueError(
                f"task must be {' or '.join(tasks)} with model {self.model} on {data}; received "
                f"{short_repr(self.task)}."
            )
        return tasks[self._task_name]

    def _check(self):
        """Refuses options that do not fit together; none is open any more."""
        self._check_lengths()
        for field in dataclasses.fields(self) if not self.reads_clips else ():
            usual = field.name not in _OF_CLIPS or getattr(self, field.name) == field.default
            rule = f"be left out unless --data is an existing folder of clips ({self.data} is none)"
            self._require(field.name, usual, rule)
        low, high = self.depth_range or (0, 1)
        self._require("depth_range", low < high, "begin with the smaller of two numbers")
        for name in ("lstm_units", "encoder_filters"):
            few = len(getattr(self, name) or ()) <= _MOST_LAYERS
            self._require(name, few, f"name {_MOST_LAYERS} layers at most")
        self._require("encoder", _known(self.encoder), f"be {_ENCODER_RULE}")
        runs, small = self.encoder_runs, self.encoder in get_args(Small)
        self._require(
            "encoder",
            not runs or self.model in _FRAME_BY_FRAME,
            f"be no run directory with model {self.model}, which does not encode single frames",
        )
        self._require(
            "encoder_filters",
            self.encoder_filters is None or small,
            f"be left out with encoder {self.encoder}, whose channels are given",
        )
        self._require(
            "fine_tune",
            self.fine_tune is None or not (small or runs),
            "be left out unless the encoder was trained on ImageNet or is a .keras file",
        )
        self._require("tta", self.tta == 1 or runs, "be 1 unless --encoder names run directories")

    def _require(self, name, fits, rule):
        """Refuses an option that does not fit the others."""
        if not fits:
            raise ValueError(f"{name} must {rule}; received {short_repr(getattr(self, name))}.")

    def _check_lengths(self):
        task, longest, shortest = self._task_class, self.length or 0, self.min_length or 0
        low, high = task.lengths
        self._require(
            "length", low <= longest <= high, f"be {low} to {high:,} for the task {self.task}"
        )
        low = 1 if task.variable_length else longest
        high = longest if task.draws_digits else 1  # a clip may have any number of frames
        self._require(
            "min_length", low <= shortest <= high, f"be {low} to {high} for the task {self.task}"
        )


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ModelConfig):
    """Every option of a training run.

    With no option at all: the reference CNN-LSTM, which answers the trend of four digits, on the
    real handwriting that comes with scikit-learn.
    """

    batch_size: Count | None = None
    """Clips or sequences in a training batch, of all devices together. Default: clips 16, digits
    64."""

    steps_per_epoch: Many | None = None
    """Training batches from one validation to the next. Default: for clips as many as hold each
    training clip once, for digits 400."""

    epochs: Count | None = None
    """Validations until the end. Default: 8 on the bundled digits, 40 on other data sets, 30 on
    clips."""

    sampling: Literal["segments", "uniform", "window", "first"] | None = None
    """Which T frames of a longer clip are read: one of each of T equal parts, at random in training
    ("segments", the default); evenly spaced; a window of frames `stride` apart, anywhere in
    training, else in the middle; the first ones. Shorter clips are padded and masked."""

    stride: Count = 1
    """Step between the frames of a "window"."""

    frames_per_second: Annotated[float, (0, 1000)] | None = None
    """Frames of a second of film from which sampling chooses, so that clips of all rates are seen
    at the same speed; a film of fewer frames per second gives all it has. Folders of images have no
    time: each image counts. 0: every frame. Default: 5, of folders of images 0."""

    groups: str | None = None
    """Which clips belong together in a split, such as all clips of one recording: a regular
    expression whose first group they share in their names ('^(.+?)_'), or a CSV file with the
    columns clip and group. Default: each clip is a group of its own."""

    skip_broken: bool = False
    """Train without the clips that cannot be read, and list them. By default they stop the run
    before it starts."""

    flip: bool = False
    """Mirror half of the training clips left to right. Off, since left and right may be the class.
    """

    cache: str | None = None
    """Folder for what need not be computed again in later epochs and runs: decoded clips, and the
    vectors that a frozen encoder makes of frames, of which the LSTM alone trains; of augmented
    clips or digits those of four or eight copies. Default: for clips, the user's cache folder
    ($XDG_CACHE_HOME/keras-cnnlstm). Decoded clips fill a quarter of the free memory first, then at
    most 20 GB or a third of the free disk, the oldest removed first. "none": nothing is kept."""

    class_weight: Literal["none", "balanced"] = "none"
    """Weight of training clips in the loss: "balanced" gives each class the same sum, whatever the
    number of its clips. A column weight in --labels multiplies it."""

    focal: Annotated[float, (0, 10)] = 0.0
    """Exponent of the focal loss of the class of a clip, which lets sure answers count less; 2 is
    usual, 0 is cross-entropy. Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017."""

    patience: Count | None = None
    """Validations in a row without a better score after which training stops. Default: never."""

    keep: Literal["best", "last"] | None = None
    """Epoch whose weights become the model: the one with the best validation score, or the last. If
    validation data are few, the best of many scores is the luckiest. Default: best; of clips last
    where fewer than 500 validate."""

    checkpoint_steps: Many | None = None
    """Batches from one checkpoint to the next. Default: there is one after each epoch."""

    init_from: str | None = None
    """Run directory to take first weights from, for every layer with the same name and shapes. All
    layers are trained; for an encoder that stays as it is, give the run as --encoder."""

    supervision: Literal["last", "every_step", "permuted"] = "last"
    """What a cnn_lstm learns from a trend: its answer after the last frame; after every step, from
    the trend so far; or also in other orders of the frames, in which each frame follows each other
    equally often, exchanged among each four sequences of a batch ("permuted", for which batch_size
    is a multiple of 4). The encoder reads each frame once. Not bidirectional."""

    optimizer: Literal["adam", "adadelta", "rmsprop", "sgd"] = "adam"
    """How gradients become steps; with Keras's settings, adadelta with PyTorch's."""

    learning_rate: Annotated[float, (1e-12, 1e3)] = 1e-3
    """Step size of the optimizer at the start. It falls to zero along half a cosine; that of
    adadelta, which adapts its steps, stays."""

    weight_decay: Share = 0.0
    """Share of each weight taken off at every step, times the learning rate (Loshchilov and Hutter,
    "Decoupled Weight Decay Regularization", 2019)."""

    ema: Annotated[float, (0, 0.99999)] = 0.0
    """Momentum of a running average of the weights, which validation and the saved model use; 0.999
    is usual, 0 is off."""

    balance: Share | None = None
    """Share of training sequences whose class is drawn uniformly, 0 to 1; the rest is natural. Only
    for trends and their captions, and for clips, whose rare classes then come more often. Default:
    0.5, of clips 0."""

    augmentation: Augmentation | None = None
    """Random transforms of training frames, or of a clip as a whole. "light" is affine: rotation up
    to 12 degrees, shear, zoom, and shift up to 8 % of the side. "strong" adds elastic distortion
    and leaves a tenth of the frames as they are; for clips it is affine at 2. Or strengths by name,
    0 to 3, 1 being usual: affine 1.1 elastic 0.3 erasing 1 probability 0.9. Elastic: Simard et al.,
    "Best Practices for Convolutional Neural Networks", 2003. Erasing blackens up to three
    rectangles: Zhong et al., "Random Erasing Data Augmentation", 2020. Probability: share of the
    frames that is transformed, 0 to 1. Default: light; of clips with a frozen efficientnet_lite0
    none, where four copies of each clip took four times the time and changed no score."""

    validation_sequences: Many = 2000
    """Natural sequences of validation digits for each validation, rounded up to whole batches. Of
    clips the whole validation part is used."""

    test_sequences: Many = 10_000
    """Sequences of test digits for the final scores, once natural and once balanced. Of clips the
    whole test part is used."""

    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Number format of the computation; "auto" takes what the hardware is fastest in."""

    strategy: Literal["auto", "one-device", "mirrored", "multi-worker"] = "auto"
    """Devices; "auto" mirrors the model on all GPUs of this machine, and trains with other machines
    where $TF_CONFIG names them ("multi-worker")."""

    ensemble: tuple[str, ...] | None = None
    """Encoders of the members of an ensemble, each as --encoder takes it: paired_cnn strided_cnn
    paired_cnn trains three models one after the other, each with the next seed, whose mean answer
    is the answer of the run. Each member is a run of its own, in RUN/members."""

    folds: Annotated[int, (2, 100)] | None = None
    """Cross-validation of clips: train this many models one after the other, each tested on another
    part of the clips, so that each clip is tested once by a model that has not seen it, nor its
    group. Use it where there are few clips: one test part of 20 clips says little. Each class needs
    as many --groups as folds. Each fold is a run of its own, in RUN/folds; RUN/out_of_fold.csv has
    the answer to each clip. Takes that many times as long. Default: one split, one model."""

    ensemble_folds: bool = False
    """Also make one model of those of the folds, their mean answer, as RUN/model.keras. It has seen
    every clip, so the scores of the folds stand for it; it takes the work of all of them."""

    seed: Annotated[int, (0, 2**31 - 1)] = 0
    """Seed of weights, data and dropout. Same seed and machine type, same numbers."""

    run_dir: str | None = None
    """Where to write; must not exist. Default: runs/DATA-MODEL, with the task where it is not the
    model's usual one, numbered if that is taken."""

    tensorboard: bool = False
    """Also write TensorBoard logs into the run directory: curves, and after each validation the
    confusion matrix and examples with the answers (needs the extra "tensorboard")."""

    def _defaults(self):
        clips, bundled = self.reads_clips, self.data == "digits"
        of_clips = {"sampling": "segments", "frames_per_second": 0.0}
        epochs = _EPOCHS_CLIPS if clips else _EPOCHS_BUNDLED if bundled else _EPOCHS_OTHERS
        return {
            **super()._defaults(),
            "epochs": epochs,
            "batch_size": 16 if clips else 64,
            "balance": 0.5 if self._task_class.can_balance and not clips else 0.0,
            "keep": "best",
            **(of_clips if clips else {"steps_per_epoch": 400}),
        }

    def _plain(self):
        ensemble = self.ensemble and tuple(map(_lasting, self.ensemble))
        return {**super()._plain(), "ensemble": ensemble, "augmentation": self.transforms}

    @property
    def transforms(self) -> dict[str, float]:
        """Strengths of the transforms affine, elastic and erasing, and their probability."""
        if self.augmentation is None or isinstance(self.augmentation, str):
            levels = _LEVELS_OF_CLIPS if self.reads_clips else _LEVELS
            return {**_NO_TRANSFORM, **levels[self.augmentation or "light"]}
        return _NO_TRANSFORM | {str(name): value for name, value in self.augmentation.items()}

    @property
    def motion_lag(self) -> int:
        """Steps between the frames that `motion` compares."""
        return max(1, round(self.motion_seconds * (self.frames_per_second or 0)))

    @property
    def cache_folder(self) -> str | None:
        """The folder that `cache` names, if it does."""
        return None if self.cache == "none" else self.cache

    @property
    def augments(self) -> bool:
        """Whether any training frame is transformed."""
        transforms = self.transforms
        return bool(transforms.pop("probability")) and any(transforms.values())

    @property
    def group(self) -> int:
        """Sequences of a batch that exchange their frames."""
        return _GROUP if self.supervision == "permuted" else 1

    def _check(self):
        super()._check()
        clips, transforms = self.reads_clips, self.transforms
        self._require(
            "stride", self.stride == 1 or self.sampling == "window", "be 1 unless --sampling window"
        )
        self._require(
            "motion", clips or self.motion == "none", "be none with digits, which are drawn singly"
        )
        lag = self.motion_lag
        self._require(
            "motion_seconds",
            self.motion == "none" or lag < (self.length or 0),
            f"be shorter than the sequence: {self.length} frames, each compared with the one {lag} "
            "before",
        )
        self._require(
            "augmentation",
            not clips or {**transforms, "affine": 0.0} == _NO_TRANSFORM,
            "name affine alone for clips (--data FOLDER), each of which is moved as a whole",
        )
        self._require(
            "augmentation", transforms["probability"] <= 1, "have a probability from 0 to 1"
        )
        task = self._task_class
        causal = self.model == "cnn_lstm" and not self.bidirectional
        self._require(
            "supervision",
            self.supervision == "last" or (task.answers_at_every_step and causal),
            "be last except for the task trend with model cnn_lstm, not bidirectional",
        )
        self._require(
            "batch_size",
            (self.batch_size or 1) % self.group == 0,
            f"be a multiple of {_GROUP} with --supervision permuted",
        )
        self._require(
            "cache",
            not self.cache_folder
            or clips
            or (self.model == "cnn_lstm" and self.supervision == "last"),
            "be left out with digits, except for a cnn_lstm with --supervision last",
        )
        self._require(
            "balance", not self.balance or task.can_balance, f"be 0 for the task {self.task}"
        )
        self._require(
            "labels",
            self.labels is not None or not task.needs_labels,
            f"be a table for the task {self.task}, which folders do not answer",
        )
        self._require(
            "frame_numbers",
            not self.frame_numbers or self.labels is not None,
            "be left out without --labels, whose segments it is about",
        )
        self._require(
            "focal",
            not self.focal or (task.output == "probabilities" and not task.per_step),
            f"be 0 for the task {self.task}, whose answer is not one class",
        )
        weighs = self.class_weight == "none" or (clips and task.can_balance)
        self._require("class_weight", weighs, f"be none for the task {self.task}")
        self._require(
            "folds",
            not (self.folds and self.ensemble),
            "be left out with --ensemble: train the folds of each encoder in a run of their own",
        )
        one_answer = self.folds and task.output != "tokens"
        self._require(
            "ensemble_folds",
            one_answer or not self.ensemble_folds,
            "be left out without --folds, and for captions, whose folds have words of their own",
        )
        if self.ensemble is not None:
            self._check_ensemble(self.ensemble)

    def _check_ensemble(self, members):
        self._require("ensemble", len(members) > 1, "have two encoders or more")
        self._require(
            "ensemble",
            self.model in _WITH_ENCODER,
            f"be left out with model {self.model}: train each member with a seed of its own, and "
            "average them with evaluate --ensemble",
        )
        self._require("ensemble", all(map(_known, members)), f"be encoders, each {_ENCODER_RULE}")
        self._require(
            "encoder",
            self.encoder in (None, "conv_pool"),
            "be left out with --ensemble, which names the encoders",
        )
        most = 2**31 - len(members)
        self._require("seed", self.seed <= most, f"be {most} at most for {len(members)} members")

    def to_json(self) -> str:
        """The options as a JSON object, the open ones decided."""
        return json.dumps(dataclasses.asdict(self.resolved), indent=2) + "\n"

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
        return cls(**values).resolved

    @property
    def task_metadata(self) -> dict[str, Any]:
        """What the model was trained for, and how its frames were read, for exports."""
        config = self.resolved
        names = ["length", "min_length"]
        if self.reads_clips:
            names += ["sampling", "stride", "frames_per_second", "fit", "depth_range"]
        source = {"invert": self.invert} if self.reads_clips else {"dataset": self.data}
        read = {name: getattr(config, name) or None for name in names}
        return {"name": config.task, **read, **source}

    @property
    def num_steps(self) -> int:
        """Training batches of the whole run; for clips once `steps_per_epoch` is known."""
        config = self.resolved
        assert config.epochs is not None
        assert config.steps_per_epoch is not None  # decided when the clips were counted
        return config.epochs * config.steps_per_epoch

    @property
    def default_run_dir(self) -> Path:
        """`runs/DATA-MODEL` (and the task, if it is not the model's usual one).

        With the first free number if that is taken.
        """
        unusual = "" if self._task_name == next(iter(self._tasks)) else f"-{self._task_name}"
        data = Path(self.data).resolve().name if self.reads_clips else self.data.replace("/", "-")
        base = Path("runs") / f"{data}-{self.model}{unusual}"
        number, path = 1, base
        while path.exists():
            number += 1
            path = base.with_name(f"{base.name}-{number}")
        return path


def load_config(path: str | Path) -> TrainConfig:
    """Reads the options of a run directory.

    Raises:
        FileNotFoundError: if there is no such directory, or it has no `config.json`.
        ValueError: if that cannot be read.
    """
    from keras_cnnlstm.utils.files import check_run_file, read_text  # they load NumPy

    path = as_path("load_config: `path`", path)
    check_run_file(path, "config.json")
    return TrainConfig.from_json(read_text(path / "config.json"))
