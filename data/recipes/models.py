"""The small networks that the shipped recipes name, in plain torch.

A recipe finds this file beside itself: `factory = "models:digits_teacher"`. The same seed gives the
same weights.
"""

from torch import nn


def digits_teacher() -> nn.Module:
    """Build a CNN for 8x8 digits.

    Shapes: (B, 1, 8, 8) to (B, 10).
    """
    return nn.Sequential(
        *_convolution(1, 32),
        *_convolution(32, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 64),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(64 * 2 * 2, 128),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(128, 10),
    )


def digits_student(width: int = 8) -> nn.Module:
    """Build a CNN with a sixteenth of the teacher's weights for 8x8 digits.

    Shapes: (B, 1, 8, 8) to (B, 10).
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2 * width * 4 * 4, 10),
    )


def fashion_teacher() -> nn.Module:
    """Build a CNN for Fashion-MNIST.

    Shapes: (B, 1, 28, 28) to (B, 10).
    """
    return nn.Sequential(
        *_convolution(1, 32),
        nn.MaxPool2d(2),
        *_convolution(32, 48),
        *_convolution(48, 48),
        nn.MaxPool2d(2),
        *_convolution(48, 96),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(96 * 3 * 3, 10),
    )


def fashion_student(width: int = 8) -> nn.Module:
    """Build a CNN with about a hundredth of the teacher's work.

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
