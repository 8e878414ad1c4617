"""The functions of an export: they check a request, ask the model and name its answer.

    serving_default  frames (B, T, H, W, C) uint8 -> probabilities, class_id, label
    serve_images     images (B, T), encoded PNG or JPEG -> the same
    init_states      batch -> the states of that many streams before their first frame
    step             frame (B, H, W, C) uint8 and states -> probabilities and the next states

A loaded SavedModel checks no shapes: 4 sequences of 3 frames given to a model of 4 frames would be
answered as 3 sequences of 4. So its functions assert, inside the graph, that frames and images
have the model's shape, that there is one sequence of one frame at least, that lengths are from 1
to T, and that a stream has as many states as frames.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_cnnlstm.data.frames import DepthRange, Fit
from keras_cnnlstm.models.streaming import step_model
from keras_cnnlstm.tasks.metrics import read_text
from keras_cnnlstm.tasks.vocabulary import pieces

MAX_PIXELS = 16_000_000  # of one encoded image, checked before it is decoded
_AT_ONCE = 4  # images decoded side by side; the largest take most of a gigabyte each
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_SHORTEST = 26  # bytes; the header that tells a PNG's size and depth takes fewer


def input_specs(model: keras.Model) -> dict[str, tf.TensorSpec]:
    """The model's inputs by name, with free sizes as `None`."""
    return {t.name: tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in model.inputs}


def call(model: keras.Model, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The model's outputs by name, for inputs by name, whichever way it was built."""
    given = keras.tree.map_structure(lambda t: tf.convert_to_tensor(inputs[t.name]), model.input)
    outputs = model(given, training=False)
    if isinstance(outputs, Mapping):
        return dict(outputs)
    return dict(zip(output_names(model), keras.tree.flatten(outputs), strict=True))


def output_names(model: keras.Model) -> list[str]:
    """Names of the outputs, in their order; the only one of a softmax layer is `probabilities`."""
    if isinstance(model.output, Mapping):
        return list(model.output)
    names = list(model.output_names)
    last = next((layer for layer in model.layers if [layer.name] == names), None)
    if getattr(last, "activation", None) is keras.activations.softmax:
        return ["probabilities"]
    return names


def serving(model: keras.Model, class_names: Sequence[str] = (), *, checked: bool = True):
    """The whole-sequence function of an export, from the model's inputs to its outputs.

    It also answers with `class_id` int32 and `label` next to `probabilities`, `text` next to the
    `logits` of a `crnn`, and `caption` next to the `tokens` of a `captioner`. LiteRT and ONNX hold
    no assertions, so functions for them are not `checked`.
    """
    specs = input_specs(model)

    def serving_default(**inputs):
        if checked:
            inputs = _checked(inputs, specs)
        return _named(call(model, inputs), class_names)

    return tf.function(serving_default, autograph=False).get_concrete_function(**specs)


def image_serving(
    model: keras.Model,
    class_names: Sequence[str],
    *,
    fit: Fit | None = None,
    depth_range: DepthRange | None = None,
):
    """The same function for encoded images, PNG or JPEG: from `images (B, T)` strings.

    From `images (B,)` where the model reads one image. The options are those of the model's
    training; `fit` is letterbox by default.
    """
    specs = input_specs(model)
    frames = specs.pop("frames")
    images = tf.TensorSpec(frames.shape[:-3], tf.string, name="images")

    def serve_images(images, **inputs):
        images = _checked_shape("images", images, frames)
        inputs["frames"] = decode_images(
            images, tuple(frames.shape[-3:]), fit or "letterbox", depth_range
        )
        return _named(call(model, _checked(inputs, {"frames": frames, **specs})), class_names)

    function = tf.function(serve_images, autograph=False)
    return function.get_concrete_function(images=images, **specs)


def streaming(model: keras.Model, *, checked: bool = True) -> dict[str, Any]:
    """`init_states`, from a scalar `batch` int32, and `step`; none if it cannot be streamed."""
    step = step_of(model)
    if step is None:
        return {}
    specs = input_specs(step)
    shapes = {name: spec.shape[1:] for name, spec in specs.items() if name != "frame"}

    def init_states(batch):
        if checked:
            batch = _asserted(batch, batch > 0, "`batch`: expected 1 or more; received", batch)
        return {name: tf.zeros((batch, *shape)) for name, shape in shapes.items()}

    def one_step(**inputs):
        if checked:
            inputs = _checked_states(_checked(inputs, specs))
        return {name: tf.identity(value) for name, value in call(step, inputs).items()}

    return {
        "init_states": tf.function(init_states, autograph=False).get_concrete_function(
            batch=tf.TensorSpec((), tf.int32, name="batch")
        ),
        "step": tf.function(one_step, autograph=False).get_concrete_function(**specs),
    }


def step_of(model: keras.Model) -> keras.Model | None:
    """The step of a model, its answer named as the model's; `None` if it cannot be streamed."""
    try:
        step = step_model(model)
    except ValueError:
        return None
    (name,) = output_names(model)
    states = {tensor.name for tensor in step.inputs}
    outputs = {key if key in states else name: value for key, value in step.output.items()}
    return keras.Model(step.input, outputs, name=step.name)


def decode_images(
    images: tf.Tensor,
    frame_shape: tuple[int, int, int],
    fit: Fit = "letterbox",
    depth_range: DepthRange | None = None,
) -> tf.Tensor:
    """Decodes the bytes of PNG or JPEG files inside a graph, `(B, T)` or `(B,)` strings.

    Images become frames as `load_frames` makes them: upright by their EXIF orientation, transparent
    parts on black, grey or colour as C is 1 or 3, scaled by averaging over areas, brought to the
    aspect ratio by `fit`, those of 16 bits by `depth_range`. Images of more than `MAX_PIXELS` are
    refused: a small file can hold a very large one.

    Returns:
        `(B, T, H, W, C)` uint8, or `(B, H, W, C)`.
    """
    flat = _checked_encoding(tf.reshape(images, [-1]))  # (B*T,)
    frames = tf.map_fn(
        lambda image: _frame(image, frame_shape, fit, depth_range),
        flat,
        parallel_iterations=_AT_ONCE,
        fn_output_signature=tf.TensorSpec(frame_shape, tf.uint8),
    )
    return tf.reshape(frames, tf.concat([tf.shape(images), frame_shape], axis=0))


def _named(outputs, class_names):
    if "tokens" in outputs and class_names:
        parts = tf.gather(tf.constant(pieces(class_names)), outputs["tokens"])  # (B, L)
        outputs["caption"] = tf.strings.regex_replace(tf.strings.reduce_join(parts, -1), "^ ", "")
    if "logits" in outputs and class_names:
        characters = read_text(outputs["logits"])  # (B, T), -1 after the end
        names = tf.constant([*class_names, ""])
        places = tf.where(characters < 0, len(class_names), characters)
        outputs["text"] = tf.strings.reduce_join(tf.gather(names, places), axis=-1)
    if "probabilities" not in outputs:
        return outputs
    outputs["class_id"] = tf.argmax(outputs["probabilities"], axis=-1, output_type=tf.int32)
    if class_names:
        outputs["label"] = tf.gather(tf.constant(class_names), outputs["class_id"])
    return outputs


def _checked(inputs, specs):
    inputs = {k: _checked_shape(k, value, specs[k]) for k, value in inputs.items()}
    if "lengths" in inputs:
        lengths, time = inputs["lengths"], tf.shape(inputs["frames"])[1]
        fits = tf.reduce_all((lengths >= 1) & (lengths <= time))
        message = "`lengths`: expected 1 to", time, "frames; received", lengths
        inputs["lengths"] = _asserted(lengths, fits, *message)
    return inputs


def _checked_shape(name, value, spec):
    value = tf.ensure_shape(value, spec.shape[: value.shape.rank])
    message = f"`{name}`: expected one sequence of one frame at least; received shape"
    return _asserted(value, tf.size(value) > 0, message, tf.shape(value))


def _checked_states(inputs):
    """Without this, one state would be shared by all frames."""
    counts = tf.stack([tf.shape(value)[0] for value in inputs.values()])
    message = "expected as many states as frames; received counts"
    return _asserted(inputs, tf.reduce_all(counts == counts[0]), message, counts)


def _asserted(value, condition, *message):
    """The value, computed only if the condition holds."""
    with tf.control_dependencies([tf.debugging.Assert(condition, message, summarize=8)]):
        return tf.nest.map_structure(tf.identity, value)


def _checked_encoding(images):
    """The images `(N,)`, if each is a PNG or JPEG."""
    known = _starts_with(images, _PNG) | _starts_with(images, _JPEG)
    known &= tf.strings.length(images) >= _SHORTEST
    message = "`images`: expected encoded PNG or JPEG files; something else is at, counting from 0,"
    return _asserted(images, tf.reduce_all(known), message, tf.where(~known)[:, 0])


def _starts_with(images, magic):
    return tf.strings.substr(images, 0, len(magic)) == magic


def _frame(image, shape, fit, depth_range):
    """One encoded image -> `(H, W, C)` uint8."""
    png = _starts_with(image, _PNG)
    size = tf.cond(png, lambda: _png_size(image), lambda: tf.io.extract_jpeg_shape(image)[:2])
    pixels = tf.reduce_prod(tf.cast(size, tf.int64))
    message = f"`images`: expected at most {MAX_PIXELS:,} pixels; received"
    image = _asserted(image, pixels <= MAX_PIXELS, message, size)
    rgb = tf.cond(png, lambda: _decode_png(image, depth_range), lambda: _decode_jpeg(image))
    rgb = _upright(rgb, _orientation(image, png))
    image = _grey(rgb) if shape[2] == 1 else rgb
    frame = _letterbox(image, shape) if fit == "letterbox" else _filling(image, shape, fit)
    return tf.ensure_shape(tf.cast(frame, tf.uint8), shape)


def _png_size(image):
    """Height and width as the header says: two big-endian numbers after 16 bytes."""
    header = tf.strings.substr(image, 16, 8)
    return tf.io.decode_raw(header, tf.int32, little_endian=False)[::-1]


def _decode_png(image, depth_range):
    """`(h, w, 3)` float32, integers, transparent parts on black."""
    rgba = tf.cast(tf.io.decode_png(image, channels=4), tf.float32)
    if_deep = tf.strings.substr(image, 24, 2) == b"\x10\0"  # grey of 16 bits
    rgba = tf.cond(if_deep, lambda: _decode_deep(image, depth_range), lambda: rgba)
    # Where an image of fewer bits has no alpha, the decoder puts 1, 3 or 15 for opaque, not 255.
    bits = tf.io.decode_raw(tf.strings.substr(image, 24, 1), tf.uint8)[0]
    opaque = 2.0 ** tf.cast(tf.minimum(bits, 8), tf.float32) - 1
    alpha = rgba[..., 3:]
    alpha = tf.where(tf.reduce_all(alpha == opaque), 255.0, alpha)
    return _round(rgba[..., :3] * (alpha / 255.0))


def _decode_deep(image, depth_range):
    """A grey PNG of 16 bits as `(h, w, 4)` float32, integers to 255."""
    grey = tf.io.decode_png(image, channels=1, dtype=tf.uint16)
    low, high = depth_range or (0, 65535)
    grey = (tf.clip_by_value(tf.cast(grey, tf.float64), low, high) - low) * (255 / (high - low))
    grey = tf.cast(tf.round(grey), tf.float32)
    return tf.concat([grey, grey, grey, tf.fill(tf.shape(grey), 255.0)], axis=-1)


def _decode_jpeg(image):
    """`(h, w, 3)` float32, integers."""
    # The accurate transform is the one that image libraries use.
    rgb = tf.io.decode_jpeg(image, channels=3, dct_method="INTEGER_ACCURATE")
    return tf.cast(rgb, tf.float32)


def _upright(image, orientation):
    """Turns and mirrors `(h, w, c)` as an EXIF orientation says."""
    image = tf.cond(orientation > 4, lambda: tf.transpose(image, (1, 0, 2)), lambda: image)
    for axis, numbers in ((1, (2, 3, 6, 7)), (0, (3, 4, 7, 8))):
        turned = tf.reduce_any(orientation == numbers)
        image = tf.cond(turned, lambda x=image, a=axis: tf.reverse(x, [a]), lambda x=image: x)
    return image


def _orientation(image, png):
    """The EXIF orientation of a PNG or JPEG, 1 to 8; 1 where there is none."""
    data = tf.cast(tf.io.decode_raw(image, tf.uint8), tf.int64)
    size = tf.size(data, tf.int64)

    def number(start, count, little=False):
        """An integer of some bytes; 0 after the end."""
        part = data[tf.minimum(start, size) : start + count]
        part = tf.pad(part, [[0, count - tf.size(part)]])
        worth = tf.constant([256**place for place in range(count)], tf.int64)
        return tf.reduce_sum(part * tf.where(little, worth, worth[::-1]))

    def has_exif(place):  # "eXIf" in PNG; in JPEG an APP1 that begins with "Exif"
        jpeg = (number(place, 2) == 0xFFE1) & (number(place + 4, 4) == 0x45786966)
        return tf.where(png, number(place + 4, 4) == 0x65584966, jpeg)

    def following(place):
        last = ~png & ((data[place] != 0xFF) | (data[place + 1] == 0xDA))  # the image begins
        part = tf.where(png, 12 + number(place, 4), 2 + number(place + 2, 2))
        return tf.where(last, size, place + part)

    (place,) = tf.while_loop(
        lambda place: (place < size - 8) & ~has_exif(place),
        lambda place: (following(place),),
        (tf.where(png, tf.constant(8, tf.int64), 2),),
    )
    start = place + tf.where(png, tf.constant(8, tf.int64), 10)
    little = number(start, 1) == ord("I")
    entries = start + number(start + 4, 4, little)
    count = number(entries, 2, little)

    def value(i):
        entry = entries + 2 + 12 * i
        right = number(entry, 2, little) == 0x0112
        return tf.where(right, number(entry + 8, 2, little), 0)

    found = tf.reduce_max(tf.map_fn(value, tf.range(tf.minimum(count, 100))), axis=0)
    return tf.where((found >= 1) & (found <= 8), found, 1)


def _grey(rgb):
    """`(h, w, 3)` -> `(h, w, 1)`, weighted as in ITU-R BT.601."""
    return _round(tf.reduce_sum(rgb * (0.299, 0.587, 0.114), axis=-1, keepdims=True))


def _letterbox(image, shape):
    """Scales to fit into `(H, W)`, and centres it on black."""
    room = tf.constant(shape[:2], tf.float32)
    size = tf.cast(tf.shape(image)[:2], tf.float32)
    scaled = tf.maximum(tf.cast(tf.round(size * tf.reduce_min(room / size)), tf.int32), 1)
    image = _resample(_resample(image, scaled[1], axis=1), scaled[0], axis=0)
    before = tf.cast(tf.round((room - tf.cast(scaled, tf.float32)) / 2), tf.int32)
    after = shape[:2] - scaled - before
    return tf.pad(image, [[before[0], after[0]], [before[1], after[1]], [0, 0]])


def _filling(image, shape, fit):
    """Scales to `(H, W)`; with "crop" only the middle of the same aspect ratio."""
    size = tf.cast(tf.shape(image)[:2], tf.float64)
    ratio = shape[1] / shape[0]
    of_ratio = tf.stack([size[1] / ratio, size[0] * ratio])
    shown = tf.minimum(size, of_ratio) if fit == "crop" else size
    for axis in (1, 0):
        image = _resample(image, shape[axis], axis=axis, shown=shown[axis])
    return image


def _resample(image, size, axis, shown=None):
    """Scales one axis: each new pixel is the mean of the old ones whose centres it covers.

    With the same ties as Pillow's BOX filter, so that both answer the same; hence the precisions,
    which are its own. `shown` is the length of the middle part to scale, in old pixels; by default
    all.
    """
    old = tf.shape(image)[axis]
    length = tf.cast(old, tf.float64)
    shown = length if shown is None else shown
    start, end = (tf.cast((length + sign * shown) / 2, tf.float32) for sign in (-1, 1))
    scale = tf.cast(end - start, tf.float64) / tf.cast(size, tf.float64)
    centres = (tf.range(size, dtype=tf.float64) + 0.5)[:, None] * scale + tf.cast(start, tf.float64)
    distance = (tf.range(old, dtype=tf.float64) + 0.5 - centres) / tf.maximum(scale, 1.0)
    weights = tf.cast((distance > -0.5) & (distance <= 0.5), tf.float32)  # (new, old)
    weights /= tf.reduce_sum(weights, axis=1, keepdims=True)
    pattern = "no,owc->nwc" if axis == 0 else "no,hoc->hnc"
    return _round(tf.einsum(pattern, weights, image))


def _round(x):
    return tf.floor(x + 0.5)  # half up, as image libraries round; tf.round goes to even numbers
