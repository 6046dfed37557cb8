"""Recipes at their edges: overrides in any order, references, kinds, terms, variables, resolved forms."""

import re
from pathlib import Path
from typing import Annotated

import pytest
import torch
from annotated_types import Ge
from torch import nn

from uldm_core import Component, check, use
from uldm_core.engine.components import RunComponents
from uldm_core.engine.device import choose_device
from uldm_core.engine.run import folder_of, run
from uldm_core.errors import MistakeError, dotted
from uldm_core.protocols import Autoencoder, Dataset, Denoiser, Loss, Quantizer
from uldm_core.recipe import Recipe, RunOptions
from uldm_core.recipe.document import Document
from uldm_core.recipe.variables import substitute as substituted
from uldm_core.spec.building import ComponentStore
from uldm_core.spec.component_spec import Reference
from uldm_core.spec.options import Exists
from uldm_core.toml_text.parse import parse_toml


def problems_of(registry, path, *overrides):
    """Return the problems, without the file's name."""
    return [str(p).replace(f"{path}:", "", 1) for p in check(Recipe.load(path, overrides), registry)]


def errors(recipe, registry):
    return [problem for problem in check(recipe, registry) if not problem.warning]


def resolved(registry, path, *overrides):
    return Recipe.load(path, overrides).resolve(registry)


def resolved_again(made, registry):
    return Recipe.from_dict(parse_toml(made.to_toml())).resolve(registry)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("7", 7),
        ("7.5", 7.5),
        ("true", True),
        ('"7"', "7"),
        ("[1, 2]", [1, 2]),
        ('{ use = "x", n = 1 }', {"use": "x", "n": 1}),
        ("plain words", "plain words"),
        ("a=b", "a=b"),
        ("", ""),
        ("C:\\runs", "C:\\runs"),
    ],
)
def test_an_overrides_value_is_toml_or_else_a_bare_string(write, written, value):
    data = Recipe.load(write(), [f"stages.second.text={written}"]).document.data
    found = data["stages"]["second"]["text"]
    assert found == value and type(found) is type(value)


def test_an_overrides_value_that_begins_as_a_string_is_one(registry, write):
    (problem,) = problems_of(registry, write(), 'stages.second.folder="unclosed')
    where = "override 'stages.second.folder=\"unclosed'"
    assert problem.startswith(f"{where}: not TOML: the string is never closed")


class Reads:
    """A stage that takes a number, a text and a path."""

    trains, makes, needs = (), (), ()

    def __init__(
        self,
        size: Annotated[int, Ge(1)] = 1,
        rate: float = 1.0,
        text: str | None = None,
        path: Path = Path("x"),
        either: float | str = 1,
        folder: Annotated[Path, Exists(folder=True)] | None = None,
    ):
        pass


@pytest.fixture
def reads(registry, write):
    """Return the options of a stage that the command line sets."""
    registry.register(Component("stage", "reads", Reads))
    path = write(text='[stages.only]\nuse = "reads"\n')

    def reads(*overrides):
        return resolved(registry, path, *(text.replace("only.", "stages.only.", 1) for text in overrides))

    return reads


@pytest.mark.parametrize("text", ["2024", "2024-01-01", "1e5", "1_000", "true", "nan", "[x]", "[1]", "{x}"])
def test_a_path_or_text_on_the_command_line_is_what_was_typed(reads, registry, text):
    made = reads(f"only.path={text}", f"only.text={text}", f"run.out={text}")
    options = made.stages["only"].options
    assert (options["path"], options["text"], made.run.out) == (Path(text).absolute(), text, text)
    again = resolved_again(made, registry)
    assert again.stages["only"].options == options and again.run.out == text
    quoted = reads(f'only.path="{text}"', f"only.text='{text}'").stages["only"].options
    assert (quoted["path"], quoted["text"]) == (Path(text).absolute(), text)


def test_a_number_on_the_command_line_is_a_number_where_one_is_taken(reads):
    options = reads("only.size=1_000", "only.rate=1e5", "only.either=2").stages["only"].options
    assert (options["size"], options["rate"], options["either"]) == (1000, 1e5, 2.0)
    assert reads("only.either=true").stages["only"].options["either"] == "true"
    for text, said in (("x", "got 'x'"), ("true", "got true"), ("[1", "got '[1'")):
        with pytest.raises(MistakeError, match=re.escape(said)):
            reads(f"only.size={text}")


def test_a_variable_on_the_command_line_is_what_was_typed_where_it_is_used(reads):
    made = reads(
        "vars.year=2024", "only.path=${vars.year}", "only.size=${vars.year}", "only.text=in ${vars.year}"
    )
    options = made.stages["only"].options
    assert (options["path"], options["size"], options["text"]) == (Path("2024").absolute(), 2024, "in 2024")


@pytest.mark.parametrize(
    ("written", "meant"), [("~", "."), ("~/a", "a"), ("./~", None), ("./~a", None), ("a~", None)]
)
def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(
    reads, registry, tmp_path, monkeypatch, written, meant
):
    monkeypatch.setenv("HOME", str(tmp_path))
    wanted = tmp_path / meant if meant else Path(written)
    made = reads(f"only.path={written}", f"run.out={written}")
    assert made.stages["only"].options["path"] == wanted.absolute()
    assert folder_of(made) == folder_of(made, written) == wanted
    again = resolved_again(made, registry)
    assert again.stages["only"].options["path"] == wanted.absolute(), "./~ is not read as ~"
    assert folder_of(again) == wanted


def test_a_recipe_its_base_and_its_runs_may_lie_in_the_home_folder(registry, write, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir("/")
    (tmp_path / "base.toml").write_text("[vars]\nx = 1\n")
    (tmp_path / "over.toml").write_text("extends = '~/base.toml'\n")
    assert Recipe.load("~/over.toml").document.data == {"vars": {"x": 1}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").write_text("[denoiser]\nkind = 'denoiser'\nuse = 'net'\n")
    made = Recipe.from_dict({"dataset": "points", "denoiser": {"from": "~/run"}})
    problems = [problem for problem in check(made, registry) if not problem.warning]
    assert not [problem for problem in problems if "there is no run" in problem.what]
    assert made.save("~/saved.toml") == tmp_path / "saved.toml"


def test_an_override_that_no_file_can_hold_is_refused(reads):
    with pytest.raises(MistakeError, match="not UTF-8"):
        reads("only.text=\udcff")


def test_overrides_reach_into_tables_that_are_not_there_yet(write):
    data = Recipe.load(write(), ["vars.a.b=1", "run.threads=2"]).document.data
    assert data["vars"] == {"a": {"b": 1}} and data["run"] == {"threads": 2}


def test_digits_name_a_table(registry, write):
    path = write(("[stages.third]", "[stages.3]"))
    assert resolved(registry, path, "stages.3.folder=x").stages["3"]
    for digits in ("3", "²", "0"):
        (problem,) = problems_of(registry, path, f"denoiser.{digits}=1")
        assert f"{dotted(('denoiser', digits))}: unknown option {digits!r}" in problem


@pytest.mark.parametrize(
    "where", ["losses[1]", "losses.0", "losses.²", "losses.x", "losses.use", "losses.-1"]
)
def test_no_item_is_added_to_a_list(registry, write, where):
    (problem,) = check(Recipe.load(write(), [f"stages.first.{where}.weight=1"]), registry)
    assert "stages.first.losses: the list is of length 1, there is no [" in str(problem)


def test_the_order_of_overrides_does_not_matter_between_a_table_and_what_is_in_it(write):
    overrides = ["autoencoder.quantizer.dim=2", "autoencoder.quantizer.use=q", "autoencoder.use=c"]
    for order in (overrides, overrides[::-1]):
        assert Recipe.load(write(), order).document.data["autoencoder"] == {
            "use": "c",
            "quantizer": {"use": "q", "dim": 2},
        }
    data = Recipe.load(write(), ["denoiser.width=3", "denoiser=net"]).document.data
    assert data["denoiser"] == {"use": "net", "width": 3}


def test_the_last_of_two_overrides_of_one_key_counts(registry, write):
    assert resolved(registry, write(), "seed=5", "seed=6").seed == 6


def test_the_same_use_again_keeps_the_options(write):
    data = Recipe.load(write(), ["stages.first.use=train"]).document.data
    assert data["stages"]["first"]["steps"] == 6


def test_a_new_use_keeps_the_kind(registry, write):
    path = write(("[stages.first]", '[tiny]\nkind = "denoiser"\nuse = "other"\nx = 1\n[stages.first]'))
    assert resolved(registry, path, "tiny.use=net").components["tiny"].kind.name == "denoiser"


def test_what_an_override_put_in_place_of_a_table_has_no_line_of_the_file(registry, write):
    override = 'stages.first.losses=[{ use = "nope" }]'
    (problem,) = problems_of(registry, write(), override)
    assert problem.startswith(f"override {override!r}: stages.first.losses[0].use: unknown loss 'nope'")
    outer, inner = 'autoencoder={ use = "coder", quantizer = 3 }', "autoencoder.quantizer=4"
    (problem,) = problems_of(registry, write(), inner, outer)
    assert problem.startswith(f"override {inner!r}: autoencoder.quantizer: expected a quantizer")
    table = 'denoiser={ use = "nope" }'
    (problem,) = problems_of(registry, write(), "denoiser.use=other", table)
    assert problem.startswith(f"override {table!r}: denoiser.use: unknown denoiser 'nope'")


MISTAKES = {
    "a reference that is no name": (
        ("steps = 6", "steps = 6\nautoencoder = { ref = ['x'] }"),
        "17: stages.first.autoencoder.ref: expected the name of a table at the top, got ['x']",
    ),
    "something beside a reference": (
        ("steps = 6", 'steps = 6\nautoencoder = { ref = "autoencoder", width = 3 }'),
        "17: stages.first.autoencoder.width: width and ref exclude each other",
    ),
    "a reference at the top": (
        ("[stages.first]", '[old_denoiser]\nref = "denoiser"\n[stages.first]'),
        "15: old_denoiser.ref: a table at the top is a component of its own",
    ),
    "unknown kind": (
        ("[stages.first]", '[tiny]\nkind = "denoisr"\nuse = "net"\n[stages.first]'),
        "15: tiny.kind: unknown kind 'denoisr' (did you mean 'denoiser'?)",
    ),
    "a stage as a component": (
        ("[stages.first]", '[stage]\nuse = "draw"\n[stages.first]'),
        "14: stage: unknown table 'stage' (did you mean 'stages'?)",
    ),
    "a number for a component": (
        ('[denoiser]\nuse = "net"', "[[denoiser]]\nx = 1"),
        "11: denoiser: expected a denoiser (a name or a table), got [{ x = 1 }]",
    ),
    "run is no table": (("seed = 3", "seed = 3\nrun = 3"), "3: run: expected a table"),
    "vars is no table": (("seed = 3", "seed = 3\nvars = 3"), "3: vars: expected a table"),
    "a fraction of a step": (
        ("weight = 0.5", "start = 0.5"),
        "17: stages.first.losses[0].start: expected an integer >= 0, got 0.5",
    ),
    "text for the format": (("uldm = 1", 'uldm = "1"'), "1: uldm: recipe format '1' is not known"),
    "a stage that is a number": (
        ("[stages.first]", "[stages]\nzero = 1\n[stages.first]"),
        "15: stages.zero: expected a stage (a name or a table), got 1",
    ),
    "run threads": (
        ("seed = 3", "seed = 3\n[run]\nthreads = true"),
        "4: run.threads: expected an integer >= 0",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_reported_once_and_at_its_place(registry, write, name):
    change, said = MISTAKES[name]
    (found,) = problems_of(registry, write(change))
    assert found.startswith(said)


def test_stages_are_tables(registry):
    (problem,) = errors(Recipe.from_dict({"stages": [{"use": "draw"}]}), registry)
    assert str(problem).startswith("stages: expected a table, got [{ use = 'draw' }]")


def test_a_variable_that_is_unknown_is_reported_with_the_nearest(registry, write):
    path = write(("[dataset]", "[vars]\nwidth = 3\n[dataset]"), ('"net"', '"net"\nwidth = "${vars.widht}"'))
    said = "15: denoiser.width: there is no variable 'widht' (did you mean 'width'?)\n    [vars] has: width"
    assert said in problems_of(registry, path)
    inside = write(("weight = 0.5", 'weight = "${vars.n}"'))
    assert problems_of(registry, inside)[0].startswith(
        "17: stages.first.losses[0].weight: there is no variable 'n'"
    )


def substitute(data):
    return substituted(Document(data))


@pytest.mark.parametrize("value", [3, 2.5, True, "text", [1, 2], {"a": 1}])
def test_a_variable_keeps_its_type(value):
    filled = substitute({"vars": {"x": value}, "seed": "${vars.x}", "run": ["${ vars.x }"]})
    assert filled.data == {"seed": value, "run": [value]} and filled.problems == []
    assert type(filled.data["seed"]) is type(value)
    assert filled.origins == {("seed",): [("vars", "x")], ("run", 0): [("vars", "x")]}


@pytest.mark.parametrize(("value", "said"), [(3, "<3>"), (True, "<true>"), ("a", "<a>")])
def test_a_variable_inside_a_text_stands_there_as_text(value, said):
    assert substitute({"vars": {"x": value}, "a": "<${vars.x}>"}).data == {"a": said}


def test_a_variable_may_be_made_of_others_and_lie_deeper():
    variables = {"name": "wide", "folder": "runs/${vars.name}", "net": {"widths": [8, "${vars.n}"]}, "n": 16}
    filled = substitute({"vars": variables, "out": "${vars.folder}", "w": "${vars.net.widths}"})
    assert filled.data == {"out": "runs/wide", "w": [8, 16]} and filled.problems == []
    assert substitute({"vars": {"l": [1, 2]}, "a": "${vars.l[1]}"}).data == {"a": 2}


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            {"vars": {"a": "${vars.b}", "b": "${vars.a}"}, "seed": "${vars.a}"},
            "seed: a cycle of variables: a -> b",
        ),
        (
            {"vars": {"a": [1]}, "seed": "<${vars.a}>"},
            "seed: vars.a is [1], which cannot be part of a text",
        ),
        ({"vars": {"a": {"use": "l1"}}, "seed": "${vars.a}"}, "seed: vars.a is a component, not a value"),
        ({"seed": "${env:HOME}"}, "seed: '${env:HOME}' is no variable"),
        ({"seed": "${vars.x"}, "seed: '${vars.x' is no variable"),
        ({"vars": {"stpes": 3}}, "vars.stpes: nothing uses this variable"),
        ({"vars": {"n": {"a": 1, "b": 2}}, "seed": "${vars.n.a}"}, "vars.n.b: nothing uses this variable"),
    ],
)
def test_what_is_wrong_with_variables_is_said(data, said):
    (problem,) = substitute(data).problems
    assert str(problem).startswith(said)


def test_mistakes_of_one_table_come_in_the_order_written(registry):
    names = [f"wrong{letter}" for letter in "fbdaec"]
    table = {"use": "net", **dict.fromkeys(names, 1)}
    recipe = Recipe.from_dict({"denoiser": {**table, "channels": 1}, "run": dict.fromkeys(names, 1)})
    found = [problem.where.key[-1] for problem in check(recipe, registry) if not problem.warning]
    assert found == names + names
    tables = errors(Recipe.from_dict({f"{name}s": {} for name in names}), registry)
    assert [problem.where.key[0] for problem in tables] == [f"{name}s" for name in names]


def test_an_integer_is_a_number_but_a_number_no_integer(registry, write):
    path = write(("codebook_size = 16", "codebook_size = 16, decay = 1"))
    decay = resolved(registry, path).components["autoencoder"].options["quantizer"].options["decay"]
    assert decay == 1.0 and type(decay) is float


def test_weight_and_start_are_the_terms_not_the_losses(registry, write):
    term = '[{ use = "distance", weight = 2, start = 30, power = 3 }, "distance"]'
    made = resolved(registry, write(('[{ use = "distance", weight = 0.5 }]', term)))
    first, second = made.stages["first"].options["losses"]
    assert (first.weight, first.start, first.component.options) == (2.0, 30, {"power": 3.0})
    assert (second.weight, second.start) == (1.0, 0)
    written = made.to_dict()["stages"]["first"]["losses"]
    assert written[0] == {"use": "distance", "power": 3.0, "weight": 2.0, "start": 30}


def test_a_table_without_use_changes_options_of_the_default(registry, write):
    path = write(("steps = 6", "steps = 6\nlr_schedule = { height = 0.5 }"))
    schedule = resolved(registry, path).stages["first"].options["lr_schedule"]
    assert (schedule.component.name, schedule.options) == ("flat", {"height": 0.5})


class Scaled:
    """A stage that makes its denoiser from a default."""

    trains, makes, needs = ("denoiser",), (), ()

    def __init__(self, dataset: Dataset, denoiser: Denoiser = use("net", width=5)) -> None:
        self.denoiser = denoiser

    def run(self, context):
        with torch.no_grad():
            self.denoiser.weight.fill_(7)
        return {}


class Wider(Scaled):
    """Another default for the same noun."""

    def __init__(self, dataset: Dataset, denoiser: Denoiser = use("net", width=6)) -> None:
        self.denoiser = denoiser


SHARED = {
    "dataset": "points",
    "autoencoder": "coder",
    "stages": {"a": {"use": "scaled"}, "b": {"use": "scaled"}, "c": {"use": "wider"}},
}


@pytest.fixture
def shared(registry):
    registry.register(Component("stage", "scaled", Scaled))
    registry.register(Component("stage", "wider", Wider))
    return registry


def test_a_component_that_stages_imply_is_one_for_all_that_agree_on_it(shared, tmp_path):
    made = Recipe.from_dict(SHARED).resolve(shared)
    assert made.components["denoiser"].options["width"] == 5
    assert made.stages["b"].options["denoiser"] == Reference("denoiser")
    assert made.stages["c"].to_dict()["denoiser"] == {"use": "net", "width": 6, "mode": "fast"}
    folder = run(made, out=tmp_path / "run")
    assert (folder / "stages/b/weights/denoiser.safetensors").is_file()
    assert not (folder / "stages/c/weights").exists()


def test_an_implied_component_resolves_to_a_written_one(shared):
    made = Recipe.from_dict(SHARED).resolve(shared)
    again = resolved_again(made, shared)
    assert again.to_toml() == made.to_toml() and "denoiser" in again.components


def test_a_stage_may_act_on_another_component_of_the_kind(registry, write):
    small = '[small_denoiser]\nuse = "net"\nwidth = 1\n[stages.first]'
    path = write(("[stages.first]", small), ('"draw"', '"draw"\ndenoiser = { ref = "small_denoiser" }'))
    made = resolved(registry, path)
    store = RunComponents.of(made, choose_device(RunOptions(device="cpu")))
    store.build(made.stages["second"])
    built = store.built.keys()
    assert "small_denoiser" in built and "denoiser" not in built
    assert store.component("small_denoiser").channels == 4  # from the autoencoder, as any denoiser's


class Wrapped(nn.Module):
    """A loss that holds another, by reference maybe."""

    def __init__(self, inner: Loss | None = None, table: dict[str, int] = {}) -> None:  # noqa: B006
        super().__init__()
        self.inner, self.table = inner, table

    def forward(self, prediction, target):
        return prediction


@pytest.mark.parametrize("length", [1, 2, 3])
def test_components_that_are_made_from_themselves_are_refused(registry, length):
    registry.register(Component("loss", "wrapped", Wrapped))
    ring = {
        f"l{n}_loss": {"use": "wrapped", "inner": {"ref": f"l{(n + 1) % length}_loss"}} for n in range(length)
    }
    (problem,) = errors(Recipe.from_dict(ring), registry)
    names = [*ring, "l0_loss"]
    assert problem.where.key == ("l0_loss",) and problem.what == f"is made from itself: {' -> '.join(names)}"
    ring["l0_loss"] = "wrapped"
    assert errors(Recipe.from_dict(ring), registry) == []


def test_a_table_of_values_survives_the_resolved_form(registry):
    registry.register(Component("loss", "wrapped", Wrapped))
    data = {"loss": {"use": "wrapped", "table": {"a": 1, "b": 2}}}
    made = Recipe.from_dict(data).resolve(registry)
    again = resolved_again(made, registry)
    assert again.components["loss"].options["table"] == {"a": 1, "b": 2}
    (problem,) = errors(Recipe.from_dict({"loss": {"use": "wrapped", "table": {"a": "1"}}}), registry)
    assert str(problem).startswith("loss.table.a: expected an integer, got '1'")


class Other(nn.Module):
    """A stranger's quantizer of a name that is taken."""

    def __init__(self, codebook_size: int, dim: int = 4) -> None:
        super().__init__()
        self.codebook_size, self.dim = codebook_size, dim

    def forward(self, latents):
        return latents, {}, latents

    lookup = forward


@pytest.mark.parametrize("own", [False, True])
def test_the_resolved_form_names_a_component_as_it_was_written(registry, own):
    for plugin in ("acme", "uldm" if own else "others"):
        registry.register(Component("quantizer", "twice", Other, plugin=plugin))
    quantizer = {"use": "acme/twice", "codebook_size": 4}
    data = {"dataset": "points", "autoencoder": {"use": "coder", "quantizer": quantizer}}
    again = resolved_again(Recipe.from_dict(data).resolve(registry), registry)
    assert again.components["autoencoder"].options["quantizer"].component.plugin == "acme"
    quantizer["use"] = "twice"
    if own:
        assert errors(Recipe.from_dict(data), registry) == []
    else:
        (problem,) = errors(Recipe.from_dict(data), registry)
        assert "is brought by several plugins" in problem.what and "acme/twice" in problem.hint


def test_every_option_of_the_run_table_is_taken(registry, write):
    numbers = "threads = 1\ncompile = false\ndeterministic = true"
    table = f'[run]\ndevice = "cpu"\nprecision = "float32"\n{numbers}\nout = "x"\n[dataset]'
    assert resolved(registry, write(("[dataset]", table))).run == RunOptions(
        "cpu", "float32", 1, False, True, "x"
    )


def test_problems_carry_place_key_and_hint_apart(registry, write):
    path = write(("steps = 6", "stepps = 6"))
    (problem,) = check(Recipe.load(path), registry)
    assert (problem.where.source, problem.where.line) == (str(path), 16)
    assert problem.where.key == ("stages", "first", "stepps")
    assert problem.hint.startswith(
        "stage/train takes: dataset (any dataset); autoencoder (any autoencoder); steps = 5 (an"
    )
    with pytest.raises(MistakeError) as caught:
        Recipe.load(path).resolve(registry)
    assert caught.value.problems == (problem,)


class Pair(nn.Module):
    """Two quantizers, and a list of them."""

    latent_channels, downscale = 4, 1

    def __init__(self, quantizer: Quantizer, more: list[Quantizer] = []) -> None:  # noqa: B006
        super().__init__()
        self.quantizer, self.more = quantizer, more

    encode = decode = forward = lambda self, x: x


def test_a_component_is_one_instance_wherever_it_is_referred_to(registry):
    registry.register(Component("autoencoder", "pair", Pair))
    reference = {"ref": "quantizer"}
    data = {
        "quantizer": {"use": "codes", "codebook_size": 4},
        "autoencoder": {"use": "pair", "quantizer": reference, "more": [reference, reference]},
    }
    made = Recipe.from_dict(data).resolve(registry)
    builder = ComponentStore(made.components)
    pair = builder.component("autoencoder")
    assert isinstance(pair, Autoencoder)
    assert pair.quantizer is builder.component("quantizer") and all(
        one is pair.quantizer for one in pair.more
    )


def test_an_overrides_key_is_written_as_toml_writes_it(registry, write):
    (problem,) = problems_of(registry, write(), "denoiser . 'widht'=3")
    assert "denoiser.widht: unknown option 'widht' (did you mean 'width'?)" in problem
    (problem,) = problems_of(registry, write(), "stages.first[0]=3")
    assert "stages.first[0]: unknown option 0" in problem
    (problem,) = problems_of(registry, write(), "seed=1\nuldm=2")
    assert "seed: expected an integer >= 0, got '1\\nuldm=2'" in problem


def test_an_override_nested_too_deeply_is_reported(registry, write):
    (problem,) = problems_of(registry, write(), "a." * 2000 + "a=1")
    assert "nested too deeply" in problem


def test_python_values_nested_too_deeply_or_in_themselves_are_reported():
    deep: dict = {}
    deep["seed"] = deep
    for _ in range(2):
        with pytest.raises(MistakeError, match="nested too deeply"):
            Recipe.from_dict(deep)
        deep = {"seed": 0}
        for _ in range(3000):
            deep = {"x": deep}


UNJUDGED = {
    "which component an unknown table is": (
        {"denoisr": {"use": "net"}, "stages": {"first": {"use": "draw", "denoiser": {"ref": "tiny"}}}},
        "unknown-table",
    ),
    "whether an unknown table holds the variables": (
        {"varz": {"n": 1}, "denoiser": {"use": "net", "width": "${vars.n}"}},
        "unknown-table",
    ),
    "which missing option an unknown one is meant to be": (
        {"quantizer": {"use": "codes", "codebok_size": 4}},
        "unknown-option",
    ),
    "what a constructor refuses beside a wrong option": (
        {"autoencoder": {"use": "coder", "quantizer": {"use": "codes", "codebook_size": 13, "dm": 1}}},
        "unknown-option",
    ),
    "what is unused beside a wrong reference": (
        {"denoiser": "net", "stages": {"first": {"use": "draw", "denoiser": {"ref": "denoisr"}}}},
        "missing-component",
    ),
}


@pytest.mark.parametrize("name", UNJUDGED)
def test_what_cannot_be_judged_because_of_another_problem_is_not_reported(registry, name):
    tables, code = UNJUDGED[name]
    recipe = Recipe.from_dict({"dataset": "points", "autoencoder": "coder", "seed": -1, **tables})
    assert sorted(problem.code for problem in check(recipe, registry)) == sorted(["out-of-range", code])


@pytest.mark.parametrize(
    "variables",
    [
        {f"v{i}": [f"${{vars.v{i + 1}}}"] * 9 for i in range(9)} | {"v9": 1},
        {f"v{i}": f"${{vars.v{i + 1}}}" * 9 for i in range(9)} | {"v9": "x"},
        {f"v{i}": f"${{vars.v{i + 1}}}" for i in range(500)} | {"v500": 1},
    ],
    ids=["lists", "texts", "deep"],
)
def test_variables_that_grow_beyond_measure_are_reported_at_once(registry, variables):
    problem, *_ = errors(Recipe.from_dict({"vars": variables, "seed": "${vars.v0}"}), registry)
    assert str(problem.where) == "vars" and problem.what == "grow too large as they are filled in"


@pytest.mark.parametrize("table", [{"from": "a" * 5000}, {"use": "net", "from": "\0"}])
def test_what_cannot_be_a_path_is_no_run(registry, table):
    problem, *_ = errors(Recipe.from_dict({"denoiser": table}), registry)
    assert problem.what.startswith("there is no run")


def test_a_list_with_a_component_that_is_none_is_tried_without_it(registry, write):
    path = write(('[{ use = "distance"', '[{ use = 3 }, { use = "distance"'))
    assert all("expected a name, got 3" in problem for problem in problems_of(registry, path))
