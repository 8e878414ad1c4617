"""Train a CNN-LSTM on sequences of digits: plain Keras, no command line. Run: python train.py

The model sees four handwritten digits, one after the other, and says which way they go: constant,
rising, falling, rising-falling, ... It needs no network.
"""

import keras

from keras_cnnlstm import Runtime, Trend, cnn_lstm, digit_sequences, load_digits
from keras_cnnlstm.data import Augmentation

EPOCHS, STEPS = 8, 400  # validations, and batches between two of them
BATCH_SIZE = 64
TEST_SEQUENCES = 10_000
MODEL_FILE = "trend.keras"

keras.utils.set_random_seed(0)

# Images (N, 28, 28, 1) uint8 with labels (N,), in three parts. No image is in two of them, so the
# test sequences show digits that the training has never seen. "mnist" in place of "digits" works.
splits = load_digits("digits")

# The task labels sequences. Four digits have seven trends: task.class_names lists them.
task = Trend(length=4)

# Endless batches: frames (B, T, H, W, C) uint8, one class index per sequence (B,). Batch i depends
# on the seed and on i alone. `affine` turns, zooms and shifts each frame a little. Half of the
# sequences are drawn with equally frequent classes, because the class "constant" is rare.
augmentation = Augmentation(affine=1.0)
training = digit_sequences(
    splits.train, task, batch_size=BATCH_SIZE, seed=0, augmentation=augmentation
)

# Validation and test are neither augmented nor balanced: digits are drawn as they come.
validation = digit_sequences(
    splits.validation, task, batch_size=100, seed=1, balance=0, num_sequences=2000
)
test = digit_sequences(
    splits.test, task, batch_size=100, seed=2, balance=0, num_sequences=TEST_SEQUENCES
)

# The scope sets the number format that is fastest on this machine, and uses several GPUs.
with Runtime().scope():
    # A CNN turns each frame into a vector, an LSTM reads the vectors in order, and a Dense layer
    # gives a probability for each trend. The model takes raw uint8 frames and rescales them itself.
    model = cnn_lstm(input_shape=(4, 28, 28, 1), num_classes=len(task.class_names))
    learning_rate = keras.optimizers.schedules.CosineDecay(1e-3, EPOCHS * STEPS)  # falls to zero
    model.compile(
        keras.optimizers.Adam(learning_rate),
        "sparse_categorical_crossentropy",  # the targets are class indices, not one-hot vectors
        metrics=["accuracy"],
    )
    # The data never ends, so steps_per_epoch says how long an epoch is. It is shuffled already.
    model.fit(
        training, validation_data=validation, epochs=EPOCHS, steps_per_epoch=STEPS, shuffle=False
    )

loss, accuracy = model.evaluate(test, verbose=0)
print(f"{accuracy:.1%} of {TEST_SEQUENCES:,} sequences of unseen digits")

model.save(MODEL_FILE)  # open it with keras.models.load_model after `import keras_cnnlstm.layers`
