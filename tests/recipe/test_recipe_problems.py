from pathlib import Path

import pytest

from pipeline.errors import RecipeError
from pipeline.recipe import load_recipe, require_tables

GOOD = """\
name = "good"
data.train.kind = "arrays"
data.train.inputs = "inputs.npy"
"""
BAD = """\
name = ""
[data.train]
kind = "parquet"
path = "a.parquet"
size = [1]
shape = [1, "8"]
filter = { split = ["a", "b"] }
class_names = []
[data.photos]
kind = "imagse"
path = "photos"
[data.other]
path = "a"
[data.number]
kind = 5
[teacher]
model = { kind = "python", factory = "a:b", checkpont = "x" }
batch_size = true
[targets]
selection = { kind = "top_k", k = 0 }
temperatures = [0.5]
[student]
model = "small_cnn"
[[losses]]
kind = "soft_targets"
weight = nan
tail = "buckets"
[[losses]]
kind = "hard_labels"
weight = 1
temperature = 3.0
[training]
data = "trian"
epochs = "4"
steps = 3
learning_rate = inf
momentum = 1.0
[validation]
best_by = "teacher_kl"
[test]
data = 3
[runs]
path = "runs/bad"
"""
EVERY_PROBLEM = """\
bad.toml: 27 problems
  --set epochs: must be key=value, such as training.epochs=3
  name: must be text of at least 1 character; got ''
  data.train.class_names: must be a list of at least 1; got []
  data.train.size.1: is missing
  data.train.shape.1: must be a valid integer; got '8'
  data.train.filter.split: must be text, a number, true or false; got ['a', 'b']
  data.photos: unknown kind 'imagse'; did you mean 'images'?
  data.other: kind is missing; give kind = "..."
  data.number: unknown kind '5'; allowed: parquet, images, arrays, idx, python, text, huggingface, cache
  teacher.model.checkpont: unknown key; did you mean 'checkpoint'?
  teacher.batch_size: must be a valid integer; got True
  targets.selection.k: must be at least 1; got 0
  targets.temperatures.0: must be at least 1; got 0.5
  student.model: must be a table; got 'small_cnn'
  losses.0.weight: must be a finite number; got nan
  losses.0.tail: must be 'bucket', 'low_rank', 'sampled', 'renormalise', 'uniform' or 'none'; \
got 'buckets'
  losses.1.temperature: unknown key; allowed: kind, weight
  training.epochs: must be a valid integer; got '4'
  training.learning_rate: must be a finite number; got inf
  training.momentum: must be less than 1; got 1.0
  test.data: must be text; got 3
  runs: unknown key; did you mean 'run'?
  training.data: there is no dataset 'trian'; did you mean 'train'?
  validation.data: there is no dataset 'validation'; \
allowed: number, other, photos, train
  training: needs exactly one of epochs and steps; got both
  losses: soft_targets needs the table [cache], which says where the targets lie
  validation.best_by: 'teacher_kl' needs validation.cache, a cache of that data"""  # noqa: E501


def refuse(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, overrides)
    assert str(refused.value).splitlines()[0].startswith("bad.toml: ")
    return list(refused.value.problems)


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(BAD)
    with pytest.raises(RecipeError) as refused:
        load_recipe(path, ["epochs"])
    assert str(refused.value) == EVERY_PROBLEM


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("nmae = 1", "nmae: unknown key; did you mean 'name'?"),
        ("training.epoch = 1", "training.epoch: unknown key; did you mean 'epochs'?"),
        ("data.train.lables = 'a'", "data.train.lables: unknown key; did you mean 'labels'?"),
        (
            "data.train.subset = { cout = 3 }",
            "data.train.subset.cout: unknown key; did you mean 'count'?",
        ),
        ("cache.path = 'c'\ncache.dat = 'x'", "cache.dat: unknown key; did you mean 'data'?"),
        (
            "data.train.colour = 1",
            "data.train.colour: unknown key; allowed: class_names, ids, inputs, kind, labels, "
            "on_error, path, subset",
        ),
    ],
    ids=["root", "table", "by_kind", "nested", "optional", "far_from_all"],
)
def test_an_unknown_key_is_told_with_its_nearest(line: str, problem: str, tmp_path: Path) -> None:
    assert problem in refuse(tmp_path, GOOD + line)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("teacher.batch_size = '4'", "teacher.batch_size: must be a valid integer; got '4'"),
        ("teacher.batch_size = true", "teacher.batch_size: must be a valid integer; got True"),
        ("teacher.batch_size = 4.0", "teacher.batch_size: must be a valid integer; got 4.0"),
        ("training.clip_norm = '1'", "training.clip_norm: must be a valid number; got '1'"),
        ("training.clip_norm = true", "training.clip_norm: must be a valid number; got True"),
        ("training.patience = 0", "training.patience: must be at least 1; got 0"),
        ("training.clip_norm = 0", "training.clip_norm: must be greater than 0; got 0"),
        ("run.path = 3", "run.path: must be text; got 3"),
        ("run.path = ''", "run.path: must be text of at least 1 character; got ''"),
        ("run = 3", "run: must be a table; got 3"),
        ("data.train.class_names = 'a'", "data.train.class_names: must be a list; got 'a'"),
        ("data.train.class_names = [1]", "data.train.class_names.0: must be text; got 1"),
        *(
            (
                f"student = {{ initialise = {{ layers = {given} }} }}",
                f"student.initialise.{problem}",
            )
            for given, problem in [
                (
                    "'every_one'",
                    "layers: must be 'every_other', 'first', 'last' or 'spread'; got 'every_one'",
                ),
                ("3", "layers: must be 'every_other', 'first', 'last' or 'spread'; got 3"),
                ("[0, 'two']", "layers.1: must be a valid integer; got 'two'"),
                ("[-1]", "layers.0: must be at least 0; got -1"),
                ("[]", "layers: must be a list of at least 1; got []"),
            ]
        ),
        ("test.data = 'tset'", "test.data: there is no dataset 'tset'; allowed: train"),
    ],
)
def test_a_value_of_another_kind_is_refused(line: str, problem: str, tmp_path: Path) -> None:
    problems = refuse(tmp_path, GOOD + line)
    assert problem in problems
    assert sum(each.startswith(problem.partition(":")[0]) for each in problems) == 1


def test_whole_numbers_are_fine_where_a_fraction_may_stand(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD + "training = { epochs = 1, learning_rate = 1 }")
    training = load_recipe(path).training
    assert training is not None
    assert training.learning_rate == 1.0


@pytest.mark.parametrize(
    ("given", "got"), [("", "neither"), ("epochs = 1\nsteps = 1", "both")], ids=["neither", "both"]
)
def test_training_needs_exactly_one_of_epochs_and_steps(
    given: str, got: str, tmp_path: Path
) -> None:
    problems = refuse(tmp_path, f"{GOOD}[training]\n{given}")
    assert problems == [f"training: needs exactly one of epochs and steps; got {got}"]


def test_tables_name_datasets_that_exist(tmp_path: Path) -> None:
    text = 'name = "x"\n[cache]\npath = "c"\n[data.trains]\nkind = "arrays"\ninputs = "a"'
    assert refuse(tmp_path, text) == [
        "cache.data: there is no dataset 'train'; did you mean 'trains'?"
    ]
    assert refuse(tmp_path, 'name = "x"\n[test]') == [
        "test.data: there is no dataset 'test'; the recipe has no [data.NAME] table"
    ]


def test_soft_targets_need_a_cache(tmp_path: Path) -> None:
    text = GOOD + '[[losses]]\nkind = "soft_targets"\nweight = 1.0\n'
    assert refuse(tmp_path, text) == [
        "losses: soft_targets needs the table [cache], which says where the targets lie"
    ]
    (tmp_path / "good.toml").write_text(text + '[cache]\npath = "c"')
    assert load_recipe(tmp_path / "good.toml").losses[0].kind == "soft_targets"


def test_features_have_names_of_their_own_that_can_name_a_field(tmp_path: Path) -> None:
    feature = '[[features]]\nmodule = "m"\nname = "{}"\n'
    assert refuse(tmp_path, GOOD + feature.format("a") * 2) == [
        "features: a name occurs twice; every feature needs its own"
    ]
    assert refuse(tmp_path, GOOD + feature.format("Last.Hidden")) == [
        "features.0.name: must be a name that matches ^[a-z][a-z0-9_]{0,39}$; got 'Last.Hidden'"
    ]


def test_a_loss_of_features_needs_a_cache(tmp_path: Path) -> None:
    loss = '[[losses]]\nkind = "cosine"\nweight = 1.0\nfeature = "a"\nmodule = "m"\n'
    assert refuse(tmp_path, GOOD + loss) == [
        "losses: cosine needs the table [cache], which says where the targets lie"
    ]


def test_layers_are_those_of_a_model_that_is_named(tmp_path: Path) -> None:
    text = (
        GOOD + 'student.initialise.layers = "first"\nstudent.model = { kind = "run", path = "r" }\n'
    )
    assert refuse(tmp_path, text) == [
        "student.initialise: needs [teacher], or a model of its own, whose layers to begin as"
    ]
    given = 'student.initialise.model = { kind = "run", path = "r" }'
    (tmp_path / "good.toml").write_text(text + given)
    assert load_recipe(tmp_path / "good.toml").student is not None


def test_losses_that_all_weigh_nothing_are_refused(tmp_path: Path) -> None:
    loss = '[[losses]]\nkind = "hard_labels"\nweight = 0.0\n'
    assert refuse(tmp_path, f'name = "idle"\n{loss}{loss}') == [
        "losses: every weight is 0, so there is nothing to learn; give one above 0"
    ]


def test_a_class_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    text = """name = "twins"
[data.train]
kind = "images"
path = "photos"
class_names = ["cat", "dog", "cat"]
"""
    assert refuse(tmp_path, text) == [
        "data.train.class_names: a name occurs twice; every class needs its own"
    ]


@pytest.mark.parametrize("line", ["size = [0, 5]", "subset = { count = 2, seed = -1 }"])
def test_numbers_out_of_range_are_refused(line: str, tmp_path: Path) -> None:
    text = f'name = "low"\n[data.train]\nkind = "images"\npath = "photos"\n{line}\n'
    [problem] = refuse(tmp_path, text)
    assert "must be at least" in problem


def test_the_best_by_divergence_needs_a_cache_of_that_data(tmp_path: Path) -> None:
    text = GOOD + '[validation]\ndata = "train"\nbest_by = "teacher_kl"\n'
    assert refuse(tmp_path, text) == [
        "validation.best_by: 'teacher_kl' needs validation.cache, a cache of that data"
    ]
    (tmp_path / "good.toml").write_text(text + 'cache = "c"')
    assert load_recipe(tmp_path / "good.toml").validation is not None


def test_a_stage_names_every_table_that_it_misses(tmp_path: Path) -> None:
    path = tmp_path / "good.toml"
    path.write_text(GOOD)
    with pytest.raises(RecipeError) as refused:
        require_tables(load_recipe(path), "cache-teacher", "data", "teacher", "cache")
    assert str(refused.value) == (
        "good.toml: 2 problems\n"
        "  teacher: is missing; cache-teacher needs the table [teacher]\n"
        "  cache: is missing; cache-teacher needs the table [cache]"
    )


def test_what_is_no_recipe_is_refused_by_name(tmp_path: Path) -> None:
    missing, folder, broken = tmp_path / "none.toml", tmp_path, tmp_path / "broken.toml"
    broken.write_text("name = ")
    (tmp_path / "latin.toml").write_bytes(b'name = "caf\xe9"')
    expected = {
        missing: "there is no such file; `pipeline init images` writes a starter",
        folder: "is a folder, not a recipe (a .toml file)",
        broken: "is not TOML: Invalid value (at end of document)",
        broken / "more.toml": "cannot be read: Not a directory",
    }
    for path, problem in expected.items():
        with pytest.raises(RecipeError) as refused:
            load_recipe(path)
        assert str(refused.value) == f"{path}: 1 problem\n  {problem}"
    with pytest.raises(RecipeError, match="is not TOML: 'utf-8' codec can't decode"):
        load_recipe(tmp_path / "latin.toml")
