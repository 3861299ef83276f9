"""What can go wrong, and what a user can do about it.

PipelineError            anything a user can mend; the CLI prints it without a traceback
  RecipeError            a recipe or override is wrong; carries every problem
  SampleError            a dataset is not what its recipe says
  ModelError             a model cannot be loaded, or answers with something that is not logits
  TargetError            targets do not fit this student or this loss
  CacheError             something about a folder
    IncompleteCache      no manifest yet; says which parts are missing
    FingerprintMismatch  made from another setup; names the keys that differ
    CorruptPart          a checksum or a length is wrong; names the part and the file
  CorruptTable           pseudo-labels are not what was written; names the file
  RankLost               another rank of torchrun's has died, or does not answer
  ToldElsewhere          another rank has said what is wrong; nothing is left to say here

A message has four parts: where, what is wrong with the value given, what is allowed, what to do.
Anything else that escapes is our bug and shows its traceback.
"""

from collections.abc import Iterator, Sequence
from typing import TypeGuard, TypeVar


class PipelineError(Exception):
    """Anything a user can mend."""


class RecipeError(PipelineError):
    """A recipe or an override is wrong; `problems` carries every line, not only the first."""

    def __init__(self, where: str, problems: Sequence[str]) -> None:
        self.where, self.problems = where, tuple(problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__("\n  ".join([f"{where}: {count}", *problems]))

    def __reduce__(self) -> tuple[type["RecipeError"], tuple[str, tuple[str, ...]]]:
        """Travel between processes as what it was made from."""
        return type(self), (self.where, self.problems)


class SampleError(PipelineError):
    """A dataset is not what its recipe says."""


class ModelError(PipelineError):
    """A model cannot be loaded, or answers with something that is not logits."""


class TargetError(PipelineError):
    """Targets do not fit this student or this loss."""


class CacheError(PipelineError):
    """Something about a cache's folder."""


class IncompleteCache(CacheError):
    """There is no manifest yet."""


class FingerprintMismatch(CacheError):
    """The cache was made from another setup; names the keys that differ."""


class CorruptPart(CacheError):
    """A checksum or a length is wrong; names the part and the file."""


class CorruptTable(PipelineError):
    """Pseudo-labels are not what was written; names the file."""


class RankLost(PipelineError):
    """Another rank of torchrun's has died, or does not answer."""


class ToldElsewhere(PipelineError):
    """Another rank has said what is wrong; nothing is left to say here."""


SHOWN_DIFFERENCES = 8
GUIDE = "pipeline/guide"
Failure = TypeVar("Failure", bound=PipelineError)


def see(error: Failure, page: str) -> Failure:
    """Point to the page of the guide that says more; `page` may go on with a heading's anchor."""
    error.add_note(f"see {GUIDE}/{page}")
    return error


# Fewer letters begin too many words.
LEAST_BEGINNING = 3


def near_miss(word: str, allowed: Sequence[str]) -> str:
    """Name the closest allowed word, or one that begins so, or the allowed ones."""
    from difflib import get_close_matches

    longer = [each for each in allowed if word == each[: max(len(word), LEAST_BEGINNING)]]
    close = get_close_matches(word, allowed, n=1) or longer[:1]
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; allowed: {', '.join(allowed)}" if allowed else ""


def list_differences(*pairs: tuple[object, object]) -> list[str]:
    """Name the first eight dotted keys in which pairs of documents differ, with both values."""
    lines = [line for there, here in pairs for line in _differences("", there, here)]
    hidden = len(lines) - SHOWN_DIFFERENCES
    return lines[:SHOWN_DIFFERENCES] + ([f"and {hidden} more"] if hidden > 0 else [])


def _differences(prefix: str, there: object, here: object) -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            dotted = f"{prefix}.{key}" if prefix else str(key)
            yield from _differences(dotted, there.get(key), here.get(key))
    elif _are_tables(there) and _are_tables(here) and len(there) == len(here):
        for place, (old, new) in enumerate(zip(there, here, strict=True)):
            yield from _differences(f"{prefix}.{place}", old, new)
    elif there != here or type(there) is not type(here):
        yield f"{prefix}: there {_shown(there)}, here {_shown(here)}"


def _are_tables(value: object) -> TypeGuard[list[dict[str, object]]]:
    return isinstance(value, list) and all(isinstance(each, dict) for each in value)


def _shown(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
