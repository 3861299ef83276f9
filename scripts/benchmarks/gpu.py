"""What costs what on a GPU: a student's step, the losses, encoding, and making a cache.

The same as on a CPU, in a GPU's sizes and with bfloat16. Without a GPU only `--quick` runs, which
says that it works.
"""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from benchmarks import cache_teacher, losses, train_student
from benchmarks.measure import Figure, Options, ratios
from benchmarks.setting import setting
from benchmarks.text_setting import VOCABULARY, text_setting
from pipeline.compute import device_kind, pick_device
from pipeline.errors import PipelineError

COMMAND = "scripts/bench gpu"
IMAGES, QUICK_IMAGES = 81_920, 300
# Rows of 128 words, which are read as rows of 512.
TEXTS, QUICK_TEXTS = 2560, 16
POSITIONS, CLASSES = 16_384, 49_152
ON_GPU = ["teacher.device='cuda'", "training.device='cuda'", "training.precision='bfloat16'"]
LONG_ROWS = ["data.train.length=512", "training.batch_size=32", "teacher.batch_size=32"]
LARGE_TEACHER = ["teacher.model.arguments={classes=49152}"]
LARGE_STUDENT = [
    f"student.model.config.{key}={value}"
    for key, value in {
        "vocab_size": 49_152,
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
    }.items()
]
ALL = "targets.selection={kind='all'}"
# Widths of image students: one that a GPU is busy with, and one that it waits for.
WIDE, NARROW = {"width": 512}, {"width": 48}
STUDENTS = {
    "GPU, wide image student, top-4 with tail": ([], WIDE),
    "GPU, wide image student, all 10 classes": ([ALL], WIDE),
    "GPU, narrow image student, top-4 with tail": ([], NARROW),
    "GPU, narrow image student, all 10 classes": ([ALL], NARROW),
}
TOP_64 = "targets.selection={kind='top_k', k=64}"
LOW_RANK = "targets.tail={kind='low_rank', rank=16}"
LANGUAGE_STUDENTS = {
    "GPU, language student, top-64 with tail": [TOP_64],
    "GPU, language student, top-64 with a low-rank tail": [TOP_64, LOW_RANK],
}
TEACHERS = {
    "GPU, SmolLM2's shape, bfloat16, top-64 with tail": [TOP_64],
    "GPU, SmolLM2's shape, bfloat16, top-8 with a low-rank tail": [
        "targets.selection={kind='top_k', k=8}",
        LOW_RANK,
    ],
}


def run(options: Options) -> list[Figure]:
    """Measure all of it."""
    device = _device(options)
    torch.set_num_threads(options.threads)
    found = _measure_losses(device, options)
    with setting(QUICK_IMAGES if options.quick else IMAGES) as recipe:
        found += _measure_images(recipe, options)
    with text_setting(QUICK_TEXTS if options.quick else TEXTS) as recipe:
        return found + _measure_texts(recipe, options)


def _device(options: Options) -> torch.device:
    try:
        return pick_device("cpu" if options.quick else "cuda")
    except PipelineError as error:
        sys.exit(f"bench: {error}")


def _measure_images(recipe: Path, options: Options) -> list[Figure]:
    where = _where(options, [*ON_GPU, "training.batch_size=512"])
    return [
        figure
        for name, (overrides, width) in STUDENTS.items()
        for figure in train_student.measure(
            recipe, name, [*where, *overrides], NARROW if options.quick else width, options, COMMAND
        )
    ]


def _measure_texts(recipe: Path, options: Options) -> list[Figure]:
    where = _where(options, [*ON_GPU, *LONG_ROWS, *LARGE_TEACHER, *LARGE_STUDENT])
    students = [
        figure
        for name, overrides in LANGUAGE_STUDENTS.items()
        for figure in train_student.measure(
            recipe, name, [*where, *overrides], None, options, COMMAND
        )
    ]
    teacher = _save_teacher(recipe.parent / "smollm2", options)
    own = [
        "teacher.precision='bfloat16'",
        f"teacher.model={{kind='transformers', path='{teacher}'}}",
        "cache.path='of-smollm2'",
    ]
    return [*students, *_measure_caching(recipe, [*where, *own], options)]


def _measure_caching(recipe: Path, overrides: list[str], options: Options) -> list[Figure]:
    return [
        cache_teacher.measure(recipe, name, [*overrides, *more], options, COMMAND)
        for name, more in TEACHERS.items()
    ]


def _where(options: Options, overrides: list[str]) -> list[str]:
    return [] if options.quick else overrides


def _save_teacher(folder: Path, options: Options) -> Path:
    """Save a language model of SmolLM2's shape, with weights that the library makes up."""
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = losses.SMOLLM2 | (losses.TINY | {"vocab_size": VOCABULARY} if options.quick else {})
    config = AutoConfig.for_model(**settings)
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _measure_losses(device: torch.device, options: Options) -> list[Figure]:
    positions, classes = losses.QUICK if options.quick else (POSITIONS, CLASSES)
    case = losses.make_case(positions, classes, device)
    steps = {name: partial(_narrow, step, device) for name, step in losses.make_steps(case).items()}
    times = [
        replace(
            losses.measure_time(case, steps, *pair, options),
            what=f"GPU, bfloat16, soft and hard, {pair[0]} / {pair[2]}",
            command=COMMAND,
        )
        for pair in losses.PAIRS
    ]
    encoding = losses.time_encoding(case.teacher, options)
    best = min(each[0] for pairs in encoding for each in pairs)
    return [
        *times,
        *_measure_memory(case, steps, device),
        Figure(
            "GPU, encoding top-64 with its tail, to host memory / logsumexp and topk",
            ratios(encoding),
            "x",
            losses.ENCODING_BAR,
            COMMAND,
            f"{len(case.teacher) / best:,.0f} positions a second of {classes} classes, float32, on "
            f"{device_kind(device)}",
        ),
    ]


def _narrow(step: losses.Step, device: torch.device, case: losses.Case) -> losses.Begun:
    with torch.autocast(device.type, torch.bfloat16):
        return step(case)


def _measure_memory(
    case: losses.Case, steps: dict[str, losses.Step], device: torch.device
) -> list[Figure]:
    """Compare the peaks of what the GPU holds; on a CPU nobody counts that."""
    if device.type != "cuda":
        return []
    names = (losses.FUSED_1, losses.FUSED_RANK, "hard")
    *ours, baseline = [_peak_mib(case, steps[name], device) for name in names]
    return [
        Figure(
            f"GPU, bfloat16, peak memory, soft and hard, {name} / plain cross-entropy",
            [peak / baseline],
            "x",
            losses.MEMORY_BAR,
            COMMAND,
            f"{peak:.0f} MiB and {baseline:.0f} MiB above what was there",
        )
        for name, peak in zip(names, ours, strict=False)
    ]


def _peak_mib(case: losses.Case, step: losses.Step, device: torch.device) -> float:
    losses.go_back(case, step)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    losses.go_back(case, step)
    return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
