"""What differs between two recipes, and what a run would do and why."""

import pytest

from uldm_core.engine.run import run
from uldm_core.preflight.forecast import forecast
from uldm_core.recipe import Recipe
from uldm_core.recipe.compare import differences
from uldm_core.run_folder.folder import RunFolder


def resolved(registry, path, *overrides):
    return Recipe.load(path, overrides).resolve(registry)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], []),
        (["stages.first.steps=7"], ["stages.first.steps: 6 -> 7"]),
        (["denoiser.width=2"], []),
        (["denoiser.mode=slow"], ['denoiser.mode: "fast" -> "slow"']),
        (["stages.first.losses[0].weight=2"], ["stages.first.losses[0].weight: 0.5 -> 2.0"]),
        (
            ["stages.first.losses=[]"],
            [
                'stages.first.losses[0].use: "distance" -> (not there)',
                "stages.first.losses[0].power: 2.0 -> (not there)",
                "stages.first.losses[0].weight: 0.5 -> (not there)",
                "stages.first.losses[0].start: 0 -> (not there)",
                "stages.first.losses: (not there) -> []",
            ],
        ),
    ],
)
def test_recipes_are_compared_option_by_option(registry, write, overrides, said):
    left, right = resolved(registry, write()).to_dict(), resolved(registry, write(), *overrides).to_dict()
    assert [str(difference) for difference in differences(left, right)] == said


def test_one_and_true_are_not_the_same():
    assert len(differences({"a": 1}, {"a": True})) == 1
    assert differences({"a": 1.5, "b": [1, 2]}, {"b": [1, 2], "a": 1.5}) == []


def logged(registry, path, out, *overrides):
    return [str(line) for line in forecast(resolved(registry, path, *overrides), out)]


def test_what_a_run_would_do_is_what_it_does(registry, write, tmp_path):
    path, out = write(), tmp_path / "out"
    new = "do, nothing of it is there yet"
    assert logged(registry, path, out) == [f"{name}: {new}" for name in ("first", "second", "third")]
    assert not out.exists()
    run(resolved(registry, path), out=out)
    done = [f"{name}: reuse, it is done" for name in ("first", "second", "third")]
    assert logged(registry, path, out) == done
    assert logged(registry, path, out, "run.threads=1") == done
    assert logged(registry, path, out, "stages.second.text=ho", "denoiser.width=3") == [
        done[0],
        'second: redo, text "hello" -> "ho"; denoiser.width 2 -> 3',
        "third: redo, drawing.txt is made anew",
    ]
    assert logged(registry, path, out, "stages.first.steps=8")[0] == "first: resume, from step 6 of 8"
    assert (
        logged(registry, path, out, "stages.first.steps=5")[0]
        == "first: redo, 6 steps are done, 5 are wanted"
    )
    assert logged(registry, path, out, "seed=4")[0] == "first: redo, seed 3 -> 4"


def test_a_result_that_was_archived_is_taken_back(registry, write, tmp_path):
    path, out = write(), tmp_path / "out"
    run(resolved(registry, path), out=out)
    run(resolved(registry, path, "stages.second.text=ho"), out=out)
    assert logged(registry, path, out)[1] == "second: reuse, the archived result is of these options"
    assert RunFolder(out).stage("second").record().key.made_of["stage"]["text"] == "ho"
