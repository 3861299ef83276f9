"""The networks that are timed, in plain torch; this file is copied beside the recipe."""

from torch import Tensor, nn


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


class Language(nn.Module):
    """A teacher of words that looks at one word: cheap, for students alone are timed on it."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(classes, width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Shapes: tokens (B, L); returns (B, L, classes)."""
        logits: Tensor = self.head(self.embedding(tokens))
        return logits


def language_teacher(classes: int = 8192) -> nn.Module:
    """Shapes: (B, L) to (B, L, classes)."""
    return Language(classes, 32)
