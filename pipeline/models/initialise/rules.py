"""Which layers of a model a smaller one begins as: arithmetic on two counts."""

from collections.abc import Callable, Sequence

from pipeline.errors import ModelError


def choose_layers(
    layers: str | Sequence[int], source_count: int, student_count: int, *, where: str
) -> tuple[int, ...]:
    """Name the layer of the source that each layer of the student begins as.

    Raises: ModelError if they are not as many as the student's, or the source lacks one.
    """
    if isinstance(layers, str) and layers not in RULES:
        raise ModelError(f"{where}: '{layers}' is not known, allowed are {', '.join(RULES)}")
    if layers in ("first", "last", "spread") and source_count < student_count:
        raise ModelError(
            f"{where}: the model to begin from has {source_count} layers, the student "
            f"{student_count}. Give the student at most {source_count}, or list the layers; one "
            "may be listed twice."
        )
    if isinstance(layers, str):
        chosen = tuple(RULES[layers](source_count, student_count))
        said = f"'{layers}' of {source_count} layers gives"
    else:
        chosen, said = tuple(layers), "lists"
    if beyond := [each for each in chosen if not 0 <= each < source_count]:
        raise ModelError(
            f"{where}: there is no layer {beyond[0]}; the model to begin from has {source_count}, "
            f"so 0 to {source_count - 1} are allowed."
        )
    if len(chosen) != student_count:
        raise ModelError(
            f"{where}: {said} {len(chosen)} layers ({', '.join(map(str, chosen))}), but the "
            f"student has {student_count}. Give it {len(chosen)}, or choose {student_count}: "
            "'spread' always fits."
        )
    return chosen


def _every_other(source_count: int, student_count: int) -> Sequence[int]:
    return range(0, source_count, 2)


def _first(source_count: int, student_count: int) -> Sequence[int]:
    return range(student_count)


def _last(source_count: int, student_count: int) -> Sequence[int]:
    return range(source_count - student_count, source_count)


def _spread(source_count: int, student_count: int) -> Sequence[int]:
    """Spread evenly, the first and the last among them; a student of one layer has the first.

    Source: of 12 layers for 6 it gives 0, 2, 4, 7, 9, 11, those of DistilBERT (Sanh et al. 2019,
        arXiv:1910.01108, and scripts/extract_distilbert.py beside it).
    """
    gaps = max(1, student_count - 1)
    # Rounded to the nearest, halves upwards.
    return [(2 * each * (source_count - 1) + gaps) // (2 * gaps) for each in range(student_count)]


# Of the number of layers of the source and of the student; the result may be of another length.
RULES: dict[str, Callable[[int, int], Sequence[int]]] = {
    "every_other": _every_other,
    "first": _first,
    "last": _last,
    "spread": _spread,
}
