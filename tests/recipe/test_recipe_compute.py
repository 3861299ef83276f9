from pathlib import Path

import pytest

from pipeline.compute.workers import KINDS, _submit, job_options
from pipeline.errors import RecipeError
from pipeline.recipe import comparable, load_recipe
from pipeline.recipe.load import BATCH_SYSTEMS
from pipeline.recipe.recipe import BatchCompute

BATCH = 'kind = "slurm"\nmemory = "4GB"\n'


def write(folder: Path, table: str) -> Path:
    path = folder / "recipe.toml"
    path.write_text(f'name = "x"\n[compute]\n{table}\n')
    return path


@pytest.mark.parametrize(
    "table",
    [
        'kind = "local"\nworkers = 2',
        'kind = "dask"\naddress = "tcp://host:8786"',
        BATCH + "workers = 8",
        BATCH + "workers_min = 2\nworkers_max = 100\ncores = 8\nqueue = 'gpu'\n"
        'walltime = "02:00:00"\nsetup = ["module load cuda"]\nextra = ["--gres=gpu:1"]\n'
        'interface = "ib0"',
    ],
)
def test_where_parts_are_made_is_no_part_of_what_comes_out(tmp_path: Path, table: str) -> None:
    assert comparable(load_recipe(write(tmp_path, table))) == comparable(
        load_recipe(write(tmp_path, 'kind = "local"\nworkers = 1'))
    )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('kind = "cloud"', "compute: unknown kind 'cloud'; allowed: local, dask, slurm, pbs, lsf"),
        ('kind = "local"', "compute.workers"),
        ('kind = "local"\nworkers = 0', "compute.workers"),
        (BATCH, "compute: needs exactly one of workers and workers_max; got neither"),
        (BATCH + "workers = 1\nworkers_max = 2", "compute: needs exactly one of workers and"),
        (
            BATCH + "workers_min = 3\nworkers_max = 2",
            "compute.workers_min: must be at most workers_max, 2; got 3",
        ),
        ('kind = "pbs"\nworkers = 1\nmemory = "much"', "compute.memory"),
    ],
)
def test_what_cannot_be_is_said_with_its_key(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(RecipeError) as refused:
        load_recipe(write(tmp_path, table))
    assert said in str(refused.value)


def test_a_recipe_knows_how_it_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, 'kind = "local"\nworkers = 1')
    recipe = load_recipe(path, ["compute.workers=3"])
    assert recipe.source == (str(path), ("compute.workers=3",))
    assert load_recipe(*recipe.source) == recipe


def test_every_system_of_a_recipe_is_known_to_the_workers() -> None:
    assert {"local", "dask", *BATCH_SYSTEMS} == set(KINDS)
    fields = set(BatchCompute.model_fields) - {"kind"}
    handed_on = {"cores", "memory", "queue", "walltime", "interface"}
    assert fields == (
        handed_on
        | (set(_submit.__annotations__) & fields)
        | (set(job_options.__annotations__) & fields)
    )
