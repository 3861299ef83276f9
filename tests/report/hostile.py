"""Names that would break a page which took them for anything but text."""

import json
from pathlib import Path

HOSTILE = (
    "<script>window.hostile = 1</script>",
    '"><img src=x onerror="window.hostile = 2">',
    "</style></svg></table><iframe src=https://example.org>",
    "$x^{$ \\frac 日本 &amp;",
    "'; window.hostile = 3; //",
)
# A bell, half of a pair of signs, and one that turns what follows around.
UNSEEN = "\x07\ud800\u202e"


def hostile_evaluation(folder: Path) -> Path:
    """Begin a run, and evaluate it as `pipeline evaluate` would, with hostile names throughout."""
    folder.mkdir()
    recipe = {
        "student": {"model": {"kind": HOSTILE[0], "factory": HOSTILE[1]}},
        "losses": [{"kind": HOSTILE[2], "weight": 1.0}],
    }
    begun = {"identity": {"cache": HOSTILE[3]}, "recipe": recipe}
    (folder / "recipe.json").write_text(json.dumps(begun))
    lines = [
        {"step": step, "epoch": 0, "loss": 3.0 / step, HOSTILE[0]: 1.0, "learning_rate": 0.1}
        for step in range(1, 40)
    ]
    lines.append({"step": 39, "validation": {"accuracy": 0.5, HOSTILE[1]: 2.0}})  # type: ignore[dict-item]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in lines))
    write_evaluation(folder)
    return folder


def write_evaluation(folder: Path) -> None:
    """Write evaluation.json by its contract."""
    speed = {"median": 2.0, "least": 1.0, "most": 3.0}
    right = {"teacher": 0.9, "student": 0.8, HOSTILE[4]: None}
    document = {
        "headline": f"half as large, {HOSTILE[0]}",
        "data": {"name": HOSTILE[1], "rows": 20, "positions": 20},
        "conditions": {HOSTILE[2]: HOSTILE[3]},
        "models": [
            {"name": "teacher", "parameters": 2000, "weights_bytes": 8000, "latency_ms": speed,
             "throughput": {"rows a second": 1e5}, "accuracy": 0.9, "nll": 0.5},
            {"name": "student", "parameters": 1000, "latency_ms": None, "accuracy": 0.8,
             "teacher_kl": 0.1, "quality_kept": 0.89},
            {"name": HOSTILE[4]},
        ],
        "classes": [{"class": name, "count": 4, "right": right} for name in HOSTILE],
        "disagreements": [
            {"id": UNSEEN, "label": HOSTILE[0], "kl": 1.5, "answers": {
                "teacher": [[HOSTILE[0], 0.9], [HOSTILE[1], 0.1]],
                "student": [[HOSTILE[1], 0.6], [HOSTILE[2], 0.4]],
            }},
        ],
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(document))
