"""What is wrong with a recipe, each at its place; and what a right one means."""

import re

import pytest

from uldm_core import check
from uldm_core.errors import MistakeError
from uldm_core.recipe import Recipe
from uldm_core.spec.component_spec import Reference
from uldm_core.toml_text.parse import parse_toml


def problems(registry, path, overrides=()):
    return [str(p).replace(f"{path}:", "", 1) for p in check(Recipe.load(path, overrides), registry)]


MISTAKES = {
    "unknown option": (
        ("codebook_size = 16", "codebok_size = 16"),
        "9: autoencoder.quantizer.codebok_size: "
        "unknown option 'codebok_size' (did you mean 'codebook_size'?)",
    ),
    "unknown component": (
        ('"coder"', '"codre"'),
        "8: autoencoder.use: unknown autoencoder 'codre' (did you mean 'coder'?)",
    ),
    "unknown table": (
        ("[denoiser]", "[denoisr]"),
        "11: denoisr: unknown table 'denoisr' (did you mean 'denoiser'?)",
    ),
    "string for an integer": (
        ("steps = 6", 'steps = "6"'),
        "16: stages.first.steps: expected an integer >= 1, got '6'",
    ),
    "fraction for an integer": (
        ("steps = 6", "steps = 6.5"),
        "16: stages.first.steps: expected an integer >= 1, got 6.5",
    ),
    "truth for an integer": (
        ("steps = 6", "steps = true"),
        "16: stages.first.steps: expected an integer >= 1, got true",
    ),
    "out of range": (("steps = 6", "steps = 0"), "16: stages.first.steps: expected an integer >= 1, got 0"),
    "one of a list": (
        ("weight = 0.5", "weight = -1"),
        "17: stages.first.losses[0].weight: expected a number >= 0, got -1",
    ),
    "unknown choice": (
        ('use = "net"', 'use = "net"\nmode = "lazy"'),
        "13: denoiser.mode: expected one of 'fast', 'slow', got 'lazy'",
    ),
    "no list": (
        ('[{ use = "distance", weight = 0.5 }]', "3"),
        "17: stages.first.losses: expected a list of (any loss with weight and start), got 3",
    ),
    "reference to nothing": (
        ("steps = 6", 'autoencoder = { ref = "coder2" }'),
        "16: stages.first.autoencoder.ref: there is no [coder2] in the recipe",
    ),
    "reference of another kind": (
        ("steps = 6", 'autoencoder = { ref = "denoiser" }'),
        "16: stages.first.autoencoder.ref: expected an autoencoder, [denoiser] is a denoiser",
    ),
    "missing component": (
        ('[denoiser]\nuse = "net"\n', "\n\n"),
        "19: stages.second: needs a denoiser, and the recipe has none",
    ),
    "no component": (('use = "net"', "width = 3"), '11: denoiser: names no denoiser: write use = "..."'),
    "a number for a component": (
        ('{ use = "codes", codebook_size = 16 }', "7"),
        "9: autoencoder.quantizer: expected a quantizer (a name or a table), got 7",
    ),
    "missing option": (
        ("codebook_size = 16", "dim = 3"),
        "9: autoencoder.quantizer: missing option 'codebook_size' (an integer >= 1)",
    ),
    "future format": (
        ("uldm = 1", "uldm = 9"),
        "1: uldm: recipe format 9 is not known to this uldm, which reads format 1",
    ),
    "negative seed": (("seed = 3", "seed = -3"), "2: seed: expected an integer >= 0, got -3"),
    "run option": (
        ("[dataset]", "[run]\nthreds = 2\n[dataset]"),
        "5: run.threds: unknown option 'threds' (did you mean 'threads'?)",
    ),
    "run value": (
        ("[dataset]", '[run]\nprecision = "half"\n[dataset]'),
        "5: run.precision: expected one of 'auto', 'float32', 'bfloat16', got 'half'",
    ),
    "unknown variable": (
        ("steps = 6", 'steps = "${vars.n}"'),
        "16: stages.first.steps: there is no variable 'n'",
    ),
    "import path": (('"coder"', '"os:system"'), "8: autoencoder.use: 'os:system' is an import path"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_at_its_place(registry, write, name):
    change, said = MISTAKES[name]
    assert said in problems(registry, write(change))[0]


def test_all_mistakes_are_reported_at_once_in_the_order_of_lines(registry, write):
    found = problems(
        registry, write(("steps = 6", "steps = 0"), ('"net"', '"nett"'), ("seed = 3", "seed = true"))
    )
    assert [text.split(":")[0] for text in found] == ["2", "12", "16"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = [1,\n b = 2\n", ":1: not TOML: '[' is never closed"),
        ("a = 1\na = 2\n", ":2: a: is written twice"),
        ("\n\nx 1", ":3: not TOML"),
    ],
)
def test_what_is_no_toml_is_reported_with_its_line(write, text, said):
    with pytest.raises(MistakeError) as caught:
        Recipe.load(write(text=text))
    assert said in str(caught.value)


def test_files_that_cannot_be_read_are_named(tmp_path):
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(MistakeError, match=re.escape(str(path))):
            Recipe.load(path)
    (tmp_path / "latin.toml").write_bytes(b"a = 1\nb = '\xe9'")
    with pytest.raises(MistakeError, match=r"latin\.toml:2: not UTF-8"):
        Recipe.load(tmp_path / "latin.toml")


def test_a_stage_in_front_of_what_makes_its_need_is_reported(registry, write):
    path = write(
        ('[stages.second]\nuse = "draw"', '[stages.second]\nuse = "frame"'),
        ('[stages.third]\nuse = "frame"', '[stages.third]\nuse = "draw"'),
    )
    (problem,) = check(Recipe.load(path), registry)
    assert problem.where.line == 19 and "needs drawing.txt, which no earlier stage makes" in problem.what
    assert problem.hint == "move it behind [stages.third]"


def test_a_right_recipe_has_no_problems_and_its_resolved_form_is_itself(registry, write):
    resolved = Recipe.load(write()).resolve(registry)
    assert resolved.seed == 3 and list(resolved.stages) == ["first", "second", "third"]
    again = Recipe.from_dict(parse_toml(resolved.to_toml())).resolve(registry)
    assert again.to_toml() == resolved.to_toml()
    assert resolved.to_dict()["autoencoder"]["quantizer"] == {
        "use": "codes",
        "codebook_size": 16,
        "dim": 4,
        "decay": 0.5,
    }


def test_variables_keep_their_type_and_go_into_strings(registry, write):
    path = write(
        ("[dataset]", '[vars]\nn = 7\nw = "big"\n[dataset]'),
        ("steps = 6", 'steps = "${vars.n}"'),
        ('"draw"', '"draw"\ntext = "a ${vars.w} ${vars.n}"'),
    )
    resolved = Recipe.load(path).resolve(registry)
    assert resolved.stages["first"].options["steps"] == 7
    assert resolved.stages["second"].options["text"] == "a big 7"


def test_components_are_named_by_kind_ending_or_word(registry, write):
    extra = '[small_denoiser]\nuse = "net"\n[tiny]\nkind = "denoiser"\nuse = "net"\n[stages.first]'
    path = write(("[stages.first]", extra), ('"draw"', '"draw"\ndenoiser = { ref = "small_denoiser" }'))
    resolved = Recipe.load(path).resolve(registry)
    assert (
        resolved.components["tiny"].kind.name == resolved.components["small_denoiser"].kind.name == "denoiser"
    )
    assert resolved.stages["second"].options["denoiser"] == Reference("small_denoiser")


def test_a_bare_string_is_short_for_use(registry, write):
    resolved = Recipe.load(
        write(('[denoiser]\nuse = "net"', ""), ("[dataset]", 'denoiser = "net"\n[dataset]'))
    ).resolve(registry)
    assert resolved.components["denoiser"].component.name == "net"


def overridden(registry, path, *overrides):
    return Recipe.load(path, overrides).resolve(registry)


def test_overrides_set_any_key_typed_by_toml(registry, write):
    resolved = overridden(
        registry,
        write(),
        "stages.first.steps=9",
        "stages.first.losses[0].weight=2",
        "stages.second.text=plain words",
        "autoencoder.quantizer.decay=0.25",
        "stages.first.optimizer.lr=0.3",
        "run.threads=1",
    )
    assert resolved.stages["first"].options["steps"] == 9
    assert resolved.stages["first"].options["losses"][0].weight == 2.0
    assert resolved.stages["second"].options["text"] == "plain words"
    assert resolved.stages["first"].options["optimizer"].options == {"lr": 0.3}
    assert resolved.run.threads == 1


def test_a_new_use_leaves_no_option_of_the_old_component_behind(registry, write):
    problem = problems(registry, write(), ["autoencoder.quantizer.use=codes2", "autoencoder.quantizer.dim=2"])
    assert "unknown quantizer 'codes2'" in problem[0]
    recipe = Recipe.load(write(), ["autoencoder.quantizer.dim=2", "autoencoder.quantizer.use=other"])
    assert recipe.document.data["autoencoder"]["quantizer"] == {"use": "other", "dim": 2}


@pytest.mark.parametrize("override", ["steps", "=3", "a..b=1", ".a=1", "a[x]=1", "a[0=1"])
def test_what_is_no_override_is_reported_with_the_recipes_other_problems(registry, write, override):
    found = problems(registry, write(("steps = 6", "steps = 0")), [override])
    assert [text.partition("\n")[0] for text in found] == [
        "16: stages.first.steps: expected an integer >= 1, got 0",
        f"override {override!r}: expected KEY=VALUE",
    ]


def test_overrides_that_lead_nowhere_are_reported_with_the_recipes_other_problems(registry, write):
    path = write(("steps = 6", "steps = 0"))
    item = "stages.first.losses[4]=1"
    found = problems(registry, path, ["seed.x=1", item])
    assert [text.partition(": expected")[0] for text in found] == [
        "16: stages.first.steps",
        "override 'seed.x=1': seed",
        f"override '{item}': stages.first.losses: the list is of length 1, there is no [4]",
    ]


def test_a_slip_in_an_overrides_key_is_reported_the_nearest(registry, write):
    for override, said in [
        ("stages.frist.steps=3", "stages.frist: there is no stage 'frist' (did you mean 'first'?)"),
        ("denoisr.width=3", "denoisr: unknown table 'denoisr' (did you mean 'denoiser'?)"),
        ("denoiser.widht=3", "denoiser.widht: unknown option 'widht' (did you mean 'width'?)"),
    ]:
        (problem,) = problems(registry, write(), [override])
        assert problem.startswith(f"override {override!r}: {said}")


def test_a_mistake_in_an_override_names_the_override(registry, write):
    (problem,) = check(Recipe.load(write(), ["stages.first.steps=none"]), registry)
    assert str(problem).startswith(
        "override 'stages.first.steps=none': stages.first.steps: expected an integer"
    )
