"""The networks that are timed, in plain torch; this file is copied beside the recipe."""

from torch import nn


def teacher(width: int = 16) -> nn.Module:
    """Build a CNN for 28x28 images: the Fashion-MNIST teacher's shape at another width.

    Shapes: (B, 1, 28, 28) to (B, 10).
    """
    return nn.Sequential(
        *_convolution(1, width),
        nn.MaxPool2d(2),
        *_convolution(width, 2 * width),
        nn.MaxPool2d(2),
        *_convolution(2 * width, 4 * width),
        nn.AdaptiveAvgPool2d(3),
        nn.Flatten(),
        nn.Linear(4 * width * 3 * 3, 10),
    )


def student(width: int = 16) -> nn.Module:
    """Build a CNN of two strided convolutions.

    Shapes: (B, 1, 28, 28) to (B, 10).
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 7 * 7, 10),
    )


def _convolution(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
