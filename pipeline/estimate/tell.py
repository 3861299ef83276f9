"""What a dry run found, in a dozen aligned lines; every number with its unit."""

from collections.abc import Iterable, Sequence
from typing import Any

from pipeline.caching.whole import tell_plan
from pipeline.progress import duration

UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
# Columns of a table of workers: as many as fit a terminal, from one to as many as there are parts.
SHOWN_WORKERS = 6
LABEL, CELL = 14, 13


def tell_estimate(summary: dict[str, Any]) -> str:
    """Say what a cache would take, and from when on it is cheaper than a live teacher."""
    costs, measured = summary["costs"], summary["measured"]
    lines = [
        _line("positions", _positions(summary)),
        _line("size", _size_text(summary)),
        _line("", _arrays(summary)),
        _line("teacher", _rate(measured)),
        _line("", _machine(summary)),
        *_workers(costs["by_workers"], _start_s(measured)),
        *_live(costs["live_pass_s"]),
        *_students(costs["by_students"], measured),
        *(_pays(costs["paid_after"]) if costs["live_pass_s"] is not None else []),
    ]
    if there := summary["parts_there"]:
        lines.append(_line("there", f"{there} of {summary['parts']} parts are made already"))
    return "\n".join([tell_plan(summary), *lines, "  dry run: nothing was written"])


def _line(label: str, text: str) -> str:
    return f"  {label:<{LABEL}}{text}"


def _row(label: str, cells: Iterable[str], note: str = "") -> str:
    return _line(label, "".join(f"{cell:>{CELL}}" for cell in cells) + note)


def _positions(summary: dict[str, Any]) -> str:
    a_row = summary["measured"]["teacher"]["positions_a_row"]
    count = f"{summary['costs']['positions']:,.0f}"
    if summary["measured"]["positions_vary"]:
        return f"about {count}, {a_row:.1f} a row in the batches that were timed"
    return f"{count}, {a_row:g} a row"


def _size_text(summary: dict[str, Any]) -> str:
    costs = summary["costs"]
    shared = f", and {_size(costs['shared_bytes'])} that parts share"
    return (
        f"{_size(costs['size_bytes'])} in files, {costs['bytes_a_position']:.1f} bytes a position, "
        f"compression '{summary['compression']}'" + (shared if costs["shared_bytes"] else "")
    )


def _arrays(summary: dict[str, Any]) -> str:
    a_position = summary["array_bytes"] / max(1.0, summary["costs"]["positions"])
    features = f", {_size(summary['feature_bytes'])} of them features"
    return (
        f"{_size(summary['array_bytes'])} as arrays of full rows, {a_position:.1f} bytes a position"
        + (features if summary["feature_bytes"] else "")
    )


def _rate(measured: dict[str, Any]) -> str:
    seen, batches = measured["teacher"], measured["batches"]
    rates = sorted(each["rows"] / each["forward_s"] for each in batches)
    a_row = seen["positions_a_row"]
    positions = f", {a_row / seen['ask_s']:,.0f} positions/s" if a_row != 1 else ""
    return (
        f"{1 / seen['ask_s']:,.0f} rows/s forward{positions} ({len(batches)} batches of "
        f"{max(each['rows'] for each in batches)} rows: {rates[0]:,.0f} to {rates[-1]:,.0f} rows/s)"
    )


def _machine(summary: dict[str, Any]) -> str:
    machine = summary["machine"]
    threads = f"{machine['threads']} thread{'' if machine['threads'] == 1 else 's'}"
    return f"{machine['device']}, {threads}, {machine['precision']}"


def _start_s(measured: dict[str, Any]) -> float:
    seen = measured["teacher"]
    return float(seen["startup_s"] + seen["warmth_s"])


def _workers(times: Sequence[dict[str, Any]], startup_s: float) -> list[str]:
    last = len(times) - 1
    steps = min(last, SHOWN_WORKERS - 1)
    shown = [times[last * place // max(1, steps)] for place in range(steps + 1)]
    return [
        _row("workers", (f"{each['workers']:,}" for each in shown)),
        _row("cache made in", (_time(each["elapsed_s"]) for each in shown)),
        _line("", f"of which {_time(startup_s)} is each worker's start, once Python runs"),
    ]


def _students(times: Sequence[dict[str, Any]], measured: dict[str, Any]) -> list[str]:
    student = measured["student"]
    if student is None:
        return [_line("students", f"not timed: {measured['no_student']}")]
    plural = "" if student["epochs"] == 1 else "s"
    epochs = f"  of {student['epochs']:g} epoch{plural} each, steps alone"
    return [
        _row("students", (f"{each['students']}" for each in times), epochs),
        _row("teacher live", (_time(each["live_s"]) for each in times)),
        _row("from a cache", (_time(each["cached_s"]) for each in times), "  with making it"),
    ]


def _live(pass_s: float | None) -> list[str]:
    if pass_s is None:
        return []
    return [_line("live", f"{_time(pass_s)} of forward passes in every epoch")]


def _pays(after: int | None) -> list[str]:
    text = (
        f"from pass {after} over the data on (epochs x students); "
        "one epoch of one student never pays"
    )
    never = "never in time: reading targets takes as long as asking this teacher"
    return [_line("pays", never if after is None else text)]


def _time(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 0.95 else duration(seconds)


def _size(size_bytes: float) -> str:
    power, unit = next(each for each in UNITS if size_bytes >= each[0] or each[0] == 1e3)
    return f"{size_bytes / power:.2f} {unit}"
