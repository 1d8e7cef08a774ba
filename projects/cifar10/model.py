"""The network: three convolutions with pooling, then three dense layers."""

import keras

from projects.cifar10.errors import UserError

# A smaller image vanishes in three layers of 3x3 convolution and 2x2 pooling.
SMALLEST_SIDE = 22


def check_image_shape(image_shape: tuple[int, int, int]) -> None:
    """Check that the network can process images of `image_shape`.

    Args:
        image_shape: (height, width, channels).

    Raises:
        UserError: If the images are too small.
    """
    height, width, _ = image_shape
    if min(height, width) < SMALLEST_SIDE:
        raise UserError(
            f"The images are too small for this network: expected at least {SMALLEST_SIDE}x"
            f"{SMALLEST_SIDE} pixels. Received: {height}x{width}; enlarge them first"
        )


def build_model(
    image_shape: tuple[int, int, int], classes: int, learning_rate: float
) -> keras.Model:
    """Build and compile the CNN, with 258,762 parameters for 32x32x3 images and 10 classes.

    Args:
        image_shape: (height, width, channels).
        classes: Number of classes.
        learning_rate: Learning rate of Adam.

    Returns:
        A model from raw pixels, (N, height, width, channels) in 0..255, to class probabilities,
        (N, classes) float32.

    Raises:
        UserError: If the images are too small for the network.
    """
    check_image_shape(image_shape)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input(image_shape),
            # In the model, so that a loaded or served model takes raw pixels.
            layers.Rescaling(1 / 255),
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(128, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(256, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(classes, activation="softmax"),
        ],
        name="cifar10_cnn",
    )
    compile_model(model, learning_rate)
    return model


def compile_model(model: keras.Model, learning_rate: float = 0.001) -> None:
    """Compile `model` with its optimizer, loss and metric.

    Args:
        model: The model, whose outputs are probabilities.
        learning_rate: Learning rate of Adam.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False),
        metrics=["accuracy"],
    )
