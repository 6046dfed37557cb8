"""``from = "runs/other"``: components that start from trained weights, and what speaks against that."""

import shutil
from pathlib import Path

import pytest
import torch
from attrs import evolve

from uldm_core import check
from uldm_core.engine.opened_run import TrainedRun
from uldm_core.engine.run import run
from uldm_core.errors import MistakeError
from uldm_core.recipe import Recipe
from uldm_core.run_folder.files import digest, read_tensors
from uldm_core.run_folder.folder import RunFolder
from uldm_core.run_folder.keys import stage_keys
from uldm_core.run_folder.pretrained import pretrained_weights, weights_from
from uldm_core.spec.building import ComponentStore
from uldm_core.toml_text.parse import parse_toml

TAKEN = (
    '[autoencoder]\nuse = "coder"\nquantizer = { use = "codes", codebook_size = 16 }',
    '[autoencoder]\nfrom = "other"',
)
ONLY_DRAW = ('[stages.first]\nuse = "train"\nsteps = 6\nlosses = [{ use = "distance", weight = 0.5 }]\n', "")


@pytest.fixture
def other(registry, write, tmp_path, monkeypatch):
    """A finished run in the current folder, and its trained weights."""
    monkeypatch.chdir(tmp_path)
    run(Recipe.load(write()).resolve(registry), out="other")
    return read_tensors(RunFolder(tmp_path / "other").stage("first").weights("autoencoder"))


def test_a_component_comes_with_its_options_and_its_weights(registry, write, other, tmp_path):
    plan = Recipe.load(write(TAKEN, ONLY_DRAW)).resolve(registry)
    assert plan.components["autoencoder"].options["quantizer"].options["codebook_size"] == 16
    run(plan, out="mine")
    drawn = (tmp_path / "mine" / "stages" / "second" / "artifacts" / "drawing.txt").read_text()
    assert drawn == f"hello {other['weight'].tolist()}"
    opened = TrainedRun.open(tmp_path / "mine", registry=registry)
    assert torch.equal(opened.component("autoencoder").weight, other["weight"])


def test_training_starts_from_the_weights_it_is_given(registry, write, other):
    run(Recipe.load(write(TAKEN, ("steps = 6", "steps = 1"))).resolve(registry), out="tuned")
    run(Recipe.load(write(("steps = 6", "steps = 1"))).resolve(registry), out="fresh")
    tuned, fresh = (
        read_tensors(RunFolder(path).stage("first").weights("autoencoder"))["weight"]
        for path in (Path("tuned"), Path("fresh"))
    )
    assert not torch.equal(tuned, fresh)


def test_the_resolved_recipe_names_the_run_and_is_its_own_resolved_form(registry, write, other):
    resolved = Recipe.load(write(TAKEN)).resolve(registry)
    table = resolved.to_dict()["autoencoder"]
    assert table["from"] == str(Path("other").absolute()) and table["quantizer"]["codebook_size"] == 16
    assert Recipe.from_dict(resolved.to_dict()).resolve(registry).to_dict() == resolved.to_dict()


def test_options_beside_from_change_the_runs_own(registry, write, other):
    path = write((TAKEN[0], f'{TAKEN[1]}\nquantizer = {{ use = "codes", codebook_size = 16, decay = 0.75 }}'))
    assert (
        Recipe.load(path).resolve(registry).components["autoencoder"].options["quantizer"].options["decay"]
        == 0.75
    )


def test_with_use_beside_from_only_the_weights_are_the_runs(registry, write, other):
    path = write((TAKEN[0], '[autoencoder]\nuse = "coder"\nfrom = "other"'))
    component = Recipe.load(path).resolve(registry).components["autoencoder"]
    assert component.options["quantizer"].options["codebook_size"] == 8
    assert component.source == str(Path("other").absolute())


def test_the_weights_are_those_of_the_last_stage_that_trained(registry, write, other, tmp_path):
    more = ("[stages.second]", '[stages.more]\nuse = "train"\n\n[stages.second]')
    run(Recipe.load(write(more)).resolve(registry), out="longer")
    assert weights_from("longer", "autoencoder").parts[-3] == "more"
    run(
        Recipe.load(write((TAKEN[0], '[autoencoder]\nfrom = "longer"'), ONLY_DRAW)).resolve(registry),
        out="third",
    )
    assert weights_from("third", "autoencoder") == Path("third/pretrained/autoencoder.safetensors")
    assert digest(weights_from("third", "autoencoder")) == digest(weights_from("longer", "autoencoder"))


def test_it_counts_what_the_weights_are_not_where_they_lie(registry, write, other, tmp_path):
    def keys(*replacements):
        plan = Recipe.load(write(*replacements)).resolve(registry)
        return {
            name: key.content
            for name, key in stage_keys(
                plan, ComponentStore(plan.components), brought=pretrained_weights(plan)
            ).items()
        }

    shutil.copytree("other", "moved")
    here = keys(TAKEN, ONLY_DRAW)
    moved = (TAKEN[0], TAKEN[1].replace("other", "moved"))
    assert keys(moved, ONLY_DRAW) == here
    stage = RunFolder(tmp_path / "moved").stage("first")
    weights = stage.weights("autoencoder")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    with pytest.raises(MistakeError, match="has changed since it was written"):
        keys(moved, ONLY_DRAW)
    stage.write_record(evolve(stage.record(), digests={}))
    assert keys(moved, ONLY_DRAW)["second"] != here["second"]


def test_a_stage_may_act_on_what_comes_trained_before_it_is_trained_further(registry, write, other):
    last = '[stages.third]\nuse = "frame"\n'
    again = (last, f'{last}\n[stages.again]\nuse = "train"\n')
    problems = check(Recipe.load(write(ONLY_DRAW, again)), registry)
    assert any("acts on autoencoder, which only a later stage trains" in problem.what for problem in problems)
    (untrained,) = check(Recipe.load(write(TAKEN, ONLY_DRAW, again)), registry)
    assert untrained.warning and str(untrained.where).endswith(": denoiser")


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('from = "nowhere"', "autoencoder.from: there is no run 'nowhere'"),
        ("from = 3", "autoencoder.from: expected a run's folder, got 3"),
        (
            'from = "other"\nquantizer = { use = "codes", codebook_size = 0.5 }',
            "autoencoder.quantizer.codebook_size: exp",
        ),
        ('use = "nope"\nfrom = "other"', "autoencoder.use: unknown autoencoder 'nope'"),
    ],
)
def test_what_is_wrong_with_from_is_said_at_its_line(registry, write, other, table, said):
    path = write((TAKEN[0], f"[autoencoder]\n{table}"))
    (problem,) = [problem for problem in check(Recipe.load(path), registry) if not problem.warning]
    assert (
        f"r.toml:{8 if 'nope' not in table and 'quantizer' not in table else problem.where.line}: {said}"
        in str(problem)
    )


def test_a_run_without_such_a_component_or_with_another_kind_of_it_is_refused(registry, write, other):
    extra = ("[stages.first]", '[small_denoiser]\nfrom = "other"\n\n[stages.first]')
    problem = check(Recipe.load(write(extra)), registry)[0]
    assert (
        problem.what == "other has no [small_denoiser] (did you mean 'denoiser'?)"
        and "autoencoder" in problem.hint
    )
    data = parse_toml(Path("other/recipe.toml").read_text("utf-8"))
    data["autoencoder"]["kind"] = "denoiser"
    shutil.copytree("other", "odd")
    Recipe.from_dict(data).save("odd/recipe.toml")
    (problem,) = check(Recipe.load(write((TAKEN[0], '[autoencoder]\nfrom = "odd"'))), registry)
    assert problem.what == "expected an autoencoder, [autoencoder] of odd is a denoiser"


def test_weights_that_are_not_there_yet_are_said_before_anything_is_done(registry, write, other, tmp_path):
    shutil.rmtree("other/stages/first/weights")
    with pytest.raises(
        MistakeError, match=r"r.toml:8: autoencoder.from: .*/other has no trained weights of autoencoder"
    ):
        run(Recipe.load(write(TAKEN)).resolve(registry), out="mine")
    assert not (tmp_path / "mine" / "stages").exists()


@pytest.mark.parametrize("source", ["other", "second", "x/second"])
def test_runs_that_have_their_weights_from_each_other_are_refused(registry, write, other, tmp_path, source):
    shutil.rmtree("other/stages")
    shutil.copytree("other", "second")
    (tmp_path / "x").symlink_to(tmp_path)
    for folder, theirs in (("other", source), ("second", "other")):
        data = parse_toml(Path("other/recipe.toml").read_text("utf-8"))
        data["autoencoder"]["from"] = theirs
        Recipe.from_dict(data).save(f"{folder}/recipe.toml")
    cycle = "other -> other" if source == "other" else "other -> second -> other"
    with pytest.raises(MistakeError, match=rf"r\.toml:8: autoencoder\.from: a cycle: .*: {cycle}"):
        run(Recipe.load(write(TAKEN, ONLY_DRAW)).resolve(registry), out="mine")


def test_a_run_takes_no_weights_from_itself(registry, write, other, tmp_path):
    before = (tmp_path / "other" / "recipe.toml").read_bytes()
    with pytest.raises(MistakeError, match=r"toml:8: autoencoder\.from: .*other is the folder of this run"):
        run(Recipe.load(write(TAKEN)).resolve(registry), out=tmp_path / "other")
    assert (tmp_path / "other" / "recipe.toml").read_bytes() == before


@pytest.mark.parametrize("place", ["other/recipe.toml", "other/stages", "other/stages/first/weights"])
def test_another_run_holds_its_own_files(registry, write, other, tmp_path, place):
    (tmp_path / place).rename(tmp_path / "elsewhere")
    (tmp_path / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MistakeError, match=f"{place}: a symbolic link"):
        run(Recipe.load(write(TAKEN, ONLY_DRAW)).resolve(registry), out="mine")


def test_weights_that_are_damaged_are_said_before_anything_is_done(registry, write, other, tmp_path):
    path = tmp_path / "other/stages/first/weights/autoencoder.safetensors"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(MistakeError, match=r"weights/autoencoder\.safetensors has changed"):
        run(Recipe.load(write(TAKEN, ONLY_DRAW)).resolve(registry), out="mine")
    assert not (tmp_path / "mine" / "stages").exists()
