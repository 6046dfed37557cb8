"""``extends``: what is laid over what, and which file a problem names."""

import pytest

from uldm_core import Component, MistakeError, check
from uldm_core.recipe import Recipe


@pytest.fixture
def base(write):
    return write()


def over(base, text):
    path = base.parent / "over.toml"
    path.write_text(f'extends = "{base.name}"\n{text}', "utf-8")
    return path


def test_a_recipe_says_only_what_is_different(registry, base):
    path = over(base, 'seed = 9\n[stages.first]\nsteps = 2\n[stages.last]\nuse = "frame"\n')
    resolved = Recipe.load(path).resolve(registry)
    theirs = Recipe.load(base).resolve(registry)
    assert resolved.seed == 9 and resolved.stages["first"].options["steps"] == 2
    assert list(resolved.stages) == [*theirs.stages, "last"]
    assert resolved.stages["first"].options["losses"][0].weight == 0.5
    assert resolved.recipe.name == "over"


@pytest.mark.parametrize(
    ("text", "quantizer"),
    [
        ("[autoencoder.quantizer]\ndim = 8", {"use": "codes", "codebook_size": 16, "dim": 8}),
        ('[autoencoder.quantizer]\nuse = "codes"\ndim = 8', {"use": "codes", "codebook_size": 16, "dim": 8}),
        ('[autoencoder.quantizer]\nuse = "other"\ndim = 8', {"use": "other", "dim": 8}),
        ('[autoencoder]\nquantizer = "other"', {"use": "other"}),
        ('[autoencoder]\nquantizer = "codes"', {"use": "codes", "codebook_size": 16}),
        ('[autoencoder]\nquantizer = { ref = "quantizer" }', {"ref": "quantizer"}),
    ],
)
def test_a_new_use_takes_the_place_of_the_old_table(base, text, quantizer):
    found = Recipe.load(over(base, text)).to_dict()["autoencoder"]["quantizer"]
    assert found == quantizer or found == quantizer["use"]


def test_a_bare_name_below_is_a_table_to_what_lies_over_it(registry, write):
    base = write(('[denoiser]\nuse = "net"', ""), ("[dataset]", 'denoiser = "net"\n[dataset]'))
    assert Recipe.load(over(base, "[denoiser]\nwidth = 5")).to_dict()["denoiser"] == {
        "use": "net",
        "width": 5,
    }


def test_lists_and_numbers_are_replaced_whole(base):
    data = Recipe.load(over(base, '[stages.first]\nlosses = ["distance"]')).to_dict()
    assert data["stages"]["first"]["losses"] == ["distance"]


def test_a_kind_stays_with_its_table(registry, write):
    base = write(("[stages.first]", '[tiny]\nkind = "denoiser"\nuse = "other"\nx = 1\n[stages.first]'))
    assert Recipe.load(over(base, '[tiny]\nuse = "net"')).to_dict()["tiny"] == {
        "kind": "denoiser",
        "use": "net",
    }


def test_a_problem_names_the_file_it_is_in(registry, write):
    base = write(("steps = 6", "stepz = 6"))
    path = over(base, "\n[denoiser]\nwidht = 3\n[autoencoder.quantizer]\ncodebook_size = 0\n")
    told = [str(problem).splitlines()[0] for problem in check(Recipe.load(path), registry)]
    assert [line.partition(": ")[0] for line in told] == [f"{path}:4", f"{path}:6", f"{base}:16"]


def test_a_list_laid_over_another_has_the_lines_of_its_own_file(registry, base):
    path = over(base, '\n[stages.first]\nlosses = [\n  "distance",\n  { use = "distance", power = 0 },\n]')
    (problem,) = check(Recipe.load(path), registry)
    assert str(problem).startswith(f"{path}:6: stages.first.losses[1].power: expected a number > 0")


def test_what_stood_below_has_its_place_no_more(registry, base):
    (problem,) = check(Recipe.load(over(base, '[autoencoder]\nquantizer = "nope"')), registry)
    assert str(problem).startswith(f"{base.parent / 'over.toml'}:3: autoencoder.quantizer.use: unknown")


def test_what_a_table_lacks_is_said_where_it_was_changed_last(registry, base):
    (problem,) = check(Recipe.load(over(base, '\n[autoencoder.quantizer]\nuse = "needy"')), needy(registry))
    assert str(problem).startswith(f"{base.parent / 'over.toml'}:3: autoencoder.quantizer: missing option")


def needy(registry):
    registry.register(Component("quantizer", "needy", Needy))
    return registry


class Needy:
    """A quantizer that cannot do without a number."""

    def __init__(self, dim: int) -> None:
        self.dim = dim


def test_overrides_come_last(registry, base):
    recipe = Recipe.load(over(base, "[stages.first]\nsteps = 2"), ["stages.first.steps=3"])
    assert recipe.resolve(registry).stages["first"].options["steps"] == 3


def test_extending_continues_through_folders(registry, base, tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "middle.toml").write_text('extends = "../r.toml"\nseed = 8')
    (tmp_path / "top.toml").write_text('extends = "deep/middle.toml"\n[denoiser]\nwidth = 4')
    resolved = Recipe.load(tmp_path / "top.toml").resolve(registry)
    assert resolved.seed == 8 and resolved.components["denoiser"].options["width"] == 4


def test_a_shipped_recipe_can_be_extended_by_its_name(tmp_path):
    (tmp_path / "mine.toml").write_text('extends = "mnist_smoke"\nseed = 5')
    data = Recipe.load(tmp_path / "mine.toml").to_dict()
    assert data["seed"] == 5 and data["dataset"]["use"] == "mnist"


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ('extends = "none.toml"', 1, "there is no recipe "),
        ("extends = 3", 1, "expected the path of a recipe, got 3"),
        ('\nextends = "a.toml"', 2, "a cycle: a.toml -> a.toml"),
        ('extends = "b.toml"', 1, "a cycle: a.toml -> b.toml -> a.toml"),
        ('extends = "mnist_smoky"', 1, "mnist_smoke"),
    ],
)
def test_what_cannot_be_extended_is_said_at_its_line(tmp_path, text, line, said):
    (tmp_path / "a.toml").write_text(text)
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    with pytest.raises(MistakeError) as caught:
        Recipe.load(tmp_path / "a.toml")
    (problem,) = caught.value.problems
    place = "b.toml:1" if "b.toml ->" in said else f"a.toml:{line}"
    assert said in str(problem) and f"{tmp_path / place}: extends: " in str(problem)


def test_python_values_extend_too_and_an_override_comes_too_late(registry, base, monkeypatch):
    monkeypatch.chdir(base.parent)
    assert Recipe.from_dict({"extends": "r.toml", "seed": 7}).resolve(registry).seed == 7
    (problem,) = check(Recipe.load(base, ["extends=other.toml"]), registry)
    assert problem.what.startswith("comes too late")


def test_problems_of_both_files_are_reported_each_in_its_own(registry, write):
    base = write(("steps = 6", "steps = 0"))
    path = over(base, "[denoiser]\nwidht = 3")
    problems = check(Recipe.load(path), registry)
    assert [(problem.where.source, problem.where.line) for problem in problems] == [
        (str(path), 3),
        (str(base), 16),
    ]


def test_a_base_that_is_not_there_is_reported_with_the_nearest_beside_it(base):
    path = over(base, "")
    path.write_text(f'extends = "{base.stem}s.toml"', "utf-8")
    with pytest.raises(MistakeError, match=rf"did you mean '{base.name}'"):
        Recipe.load(path)


def test_a_folder_is_no_base(base):
    path = over(base, "")
    (base.parent / "sub").mkdir()
    path.write_text('extends = "sub"', "utf-8")
    with pytest.raises(MistakeError, match="sub: a folder without a recipe"):
        Recipe.load(path)
