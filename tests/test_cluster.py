"""The templates for clusters say what our commands understand; tests/slurm runs some of them."""

import re
import subprocess
from pathlib import Path

import click
import pytest
import yaml

from pipeline.cli import pipeline
from pipeline.recipe import load_recipe

FOLDER = Path(__file__).parents[1] / "scripts/cluster"
BATCH = sorted(FOLDER.glob("*.sbatch"))


@pytest.mark.parametrize("path", BATCH, ids=lambda path: path.stem)
def test_a_batch_script_is_one_that_bash_can_read(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")


def test_the_table_for_dask_is_one_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "x"\n' + (FOLDER / "slurm-dask.toml").read_text())
    compute = load_recipe(path).compute
    assert compute is not None
    assert compute.kind == "slurm"


def test_the_job_of_kubernetes_makes_every_share_once() -> None:
    text = (FOLDER / "kubernetes-indexed-job.yaml").read_text()
    job = yaml.safe_load(text)["spec"]
    (container,) = job["template"]["spec"]["containers"]
    (line,) = container["args"]
    shares = re.search(r'--part-range "\$\(\(JOB_COMPLETION_INDEX \+ 1\)\)/(\d+)"', line)
    assert shares is not None
    assert job["completions"] == job["parallelism"] == int(shares[1])
    words = line.replace(shares[0], "--part-range 1/2").split()
    with click.Context(pipeline) as context:
        pipeline.commands[words[2]].make_context(words[2], words[3:], parent=context)
