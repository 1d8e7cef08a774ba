"""The network: three convolutions with pooling, then three dense layers."""

import keras

from projects.cifar10.errors import UserError

# Three rounds of "3x3 convolution, 2x2 pooling" leave nothing of a smaller image.
SMALLEST_SIDE = 22


def check_image_shape(image_shape: tuple[int, int, int]) -> None:
    """Check that images of `image_shape` pass through the network.

    Args:
        image_shape: (height, width, channels).

    Raises:
        UserError: They are too small.
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
    """Build and compile the CNN; 258,762 parameters for 32x32x3 images and 10 classes.

    Args:
        image_shape: (height, width, channels).
        classes: Number of classes.
        learning_rate: Adam's step size.

    Returns:
        A model from raw pixels, (N, height, width, channels) in 0..255, to class probabilities,
        (N, classes) float32.

    Raises:
        UserError: The images are too small for the network.
    """
    check_image_shape(image_shape)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input(image_shape),
            # Inside the model, so that whoever reloads or serves it sends plain pixels.
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
    """Give `model` its optimizer, loss and metric.

    Args:
        model: Ends in softmax, so the loss is told to expect probabilities.
        learning_rate: Adam's step size.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=False),
        metrics=["accuracy"],
    )
