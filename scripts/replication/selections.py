"""What to keep of a language model: students of every kind of target, at three temperatures.

The teacher is SmolLM2-135M over its 16,384 commonest tokens of Shakespeare; what students are
compared by is their divergence from all that it says of held-out plays.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median, stdev

import torch

from pipeline.errors import SampleError
from pipeline.experiment import open_data
from pipeline.losses import hard_labels, soft_targets
from pipeline.models import load_network
from pipeline.progress import progress
from pipeline.recipe import Recipe, load_recipe
from pipeline.store import open_cache
from pipeline.stream import Stream
from replication.recipes import HARD, as_toml
from replication.report import Bar, Report
from replication.vocabulary import cut_vocabulary
from stages import cache_teacher, train_student

HERE = Path(__file__).resolve().parent
ASSETS = HERE.parents[1] / "data" / "assets"
VOCABULARY = 16_384
FULL, SMALL, LARGE = "all", "small-36", "small-94"
# Of held-out divergence, against targets of all classes.
MOST_LOST = 1.04
# Cache -> selection, tail and encoding.
CACHES = {
    "top-12": ("kind = 'top_k', k = 12", "kind = 'bucket'", ""),
    "sampled-17": ("kind = 'sampled', draws = 17", "kind = 'bucket'", ""),
    "hybrid-4-13": ("kind = 'hybrid', k = 4, draws = 13", "kind = 'bucket'", ""),
    "low-rank-64": ("kind = 'top_k', k = 8", "kind = 'low_rank', rank = 64", ""),
    SMALL: ("kind = 'top_k', k = 4", "kind = 'low_rank', bytes = 18", "small"),
    LARGE: ("kind = 'top_k', k = 8", "kind = 'low_rank', bytes = 64, positions = 4096", "small"),
    FULL: ("kind = 'all'", "kind = 'bucket'", ""),
}
TEMPERATURES = (1.0, 2.0, 4.0)


@dataclass(frozen=True)
class Row:
    """Students of one kind of target at one temperature, one a seed."""

    targets: str
    temperature: float
    size_bytes: int
    divergences: list[float]
    perplexities: list[float]


def run(out: Path, *, seeds: int) -> Report:
    """Cache the teacher's answers under `out` in every way, and train `seeds` students of each.

    Raises: SampleError if the assets are not there.
    """
    prepare(out)
    plans = [("hard labels", 1.0), *((name, t) for t in TEMPERATURES for name in CACHES)]
    rows = []
    with progress("selections", total=seeds * len(plans), unit="students") as advance:
        for name, temperature in plans:
            students = []
            for seed in range(seeds):
                students.append(train(out, name, temperature, seed))
                advance(1, f"{name} at T = {temperature:g}: {students[-1][0]:.3f}")
            divergences, perplexities = map(list, zip(*students, strict=True))
            rows.append(Row(name, temperature, _size(out, name), divergences, perplexities))
    return report(rows)


def prepare(out: Path) -> None:
    """Cut the vocabulary and make every cache that is not there yet."""
    source, texts = ASSETS / "smollm2", ASSETS / "shakespeare"
    for place in (source, texts):
        if not place.is_dir():
            raise SampleError(
                f"replicate: {place} is not there; run `scripts/assets smollm2 shakespeare` first"
            )
    cut_vocabulary(source, sorted(texts.rglob("*.txt")), VOCABULARY, out / "smollm2-cut")
    for name in CACHES:
        cache_teacher.run(_recipe(out, name, {}))
    cache_teacher.run(_recipe(out, FULL, {"cache.data": "validation"}, cache="validation"))


def train(out: Path, name: str, temperature: float, seed: int) -> tuple[float, float]:
    """Train a student, or find it there; give its divergence and perplexity."""
    loss = f"[{{ kind = 'soft_targets', weight = 1.0, temperature = {temperature} }}]"
    run_folder = out / "runs" / f"{name.replace(' ', '-')}-{temperature:g}-{seed}"
    values: dict[str, Path | int | str] = {
        "losses": HARD if name == "hard labels" else loss,
        "training.seed": seed,
        "run.path": run_folder,
    }
    train_student.run(_recipe(out, name, values), quiet=True)
    return evaluate(out, run_folder, temperature)


@torch.no_grad()
def evaluate(out: Path, run_folder: Path, temperature: float) -> tuple[float, float]:
    """Measure KL(teacher || student) at a temperature, and the perplexity, on held-out text."""
    network = load_network("run", base=Path(), where="student", path=str(run_folder.resolve()))
    samples = open_data(_recipe(out, FULL, {}), "validation")
    cache = open_cache(out / "validation")
    divergence, surprise, positions = 0.0, 0.0, 0
    for batch in Stream(samples, cache, batch_size=8, seed=None, check=False):
        assert batch.targets
        logits = network.eval()(batch.inputs).logits
        far = soft_targets(logits, batch.targets, temperature=temperature, count=1.0)
        divergence += float(far) / temperature**2
        surprise += float(hard_labels(logits, batch.labels, count=1.0))
        positions += len(logits)
    return divergence / positions, float(torch.tensor(surprise / positions).exp())


def report(rows: Iterable[Row]) -> Report:
    """Lay out the rows, and how far the low-rank tails are from all classes."""
    table = [
        "SmolLM2-135M over 16,384 classes, Shakespeare, students of 2 layers: held-out KL to it",
        f"{'targets':14} {'T':>3} {'bytes':>7} {'KL':>7} {'+-':>6} {'of all':>7} "
        f"{'perplexity':>10}",
    ]
    found = {(row.targets, row.temperature): row for row in rows}
    lost = {}
    for (name, temperature), row in found.items():
        # Of medians: now and then a student learns badly, whatever it is taught.
        middle = median(row.divergences)
        spread = stdev(row.divergences) if len(row.divergences) > 1 else 0.0
        lost[name, temperature] = middle / median(found[FULL, temperature].divergences)
        table.append(
            f"{name:14} {temperature:>3g} {row.size_bytes:>7,} {middle:>7.4f} {spread:>6.4f} "
            f"{lost[name, temperature]:>7.3f} {median(row.perplexities):>10.2f}"
        )
    bars = [
        Bar(
            f"{name} ({found[name, t].size_bytes} bytes) against all at T = {t:g}",
            lost[name, t],
            "<=",
            MOST_LOST,
        )
        for name, t in ((SMALL, 1.0), *((LARGE, t) for t in TEMPERATURES))
    ]
    return Report(table, bars)


def _size(out: Path, name: str) -> int:
    """Count the bytes of a position's arrays; a label alone is a token."""
    if name == "hard labels":
        return 2
    return sum(
        field.entry_bytes
        for field in open_cache(out / name).plan.fields
        if field.axis == "positions"
    )


def _recipe(
    out: Path, name: str, values: Mapping[str, Path | int | str], *, cache: str = ""
) -> Recipe:
    selection, tail, encoding = CACHES.get(name, CACHES[FULL])
    paths = {
        "data.train.path": ASSETS / "shakespeare" / "train",
        "data.validation.path": ASSETS / "shakespeare" / "validation",
        "cache.path": out / (cache or name),
        **{f"data.{each}.tokenizer": out / "smollm2-cut" for each in ("train", "validation")},
        "teacher.model.arguments.path": out / "smollm2-cut",
        "teacher.model.arguments.memory": out / "states",
    }
    everything: dict[str, Path | int | str] = {
        **paths,
        "targets.selection": f"{{ {selection} }}",
        "targets.tail": f"{{ {tail} }}",
        **({"targets.encoding": encoding} if encoding else {}),
        **values,
    }
    return load_recipe(
        HERE / "selections.toml", [f"{key}={as_toml(value)}" for key, value in everything.items()]
    )
