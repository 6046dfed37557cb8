"""benchmarks/ablations.py on a few rows with few steps: what it trains, and the table that it writes."""

import importlib.util
import sys
from pathlib import Path

import pytest

from uldm_core import check
from uldm_core.run_folder.keys import stage_keys
from uldm_core.spec.building import ComponentStore
from uldm_plugins.stages.train_diffusion import TrainDiffusion

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "ablations.py"


@pytest.fixture(scope="module")
def ablations():
    spec = importlib.util.spec_from_file_location("ablations", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    sys.modules["ablations"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["ablations"]


def test_every_row_is_a_recipe_without_problems(ablations):
    for row in ablations.ROWS:
        problems = [problem for problem in check(ablations.recipe(row, 0)) if not problem.warning]
        assert not problems, (row, problems)


def test_the_plain_row_has_nothing_that_other_rows_add(ablations, tmp_path, monkeypatch):
    """Whatever the recipe has come to have."""
    richer = tmp_path / "richer.toml"
    text = ablations.RECIPE.read_text("utf-8").replace("[stages.second]", "[stages.second]\nheld_out = 0.1")
    for table in ("condition", "guidance", "stages.tuning"):
        if f"[{table}]" not in text:
            text += f'\n[{table}]\nuse = "{dict(condition="clusters", guidance="auto").get(table, "tune")}"\n'
    richer.write_text(text)
    monkeypatch.setattr(ablations, "RECIPE", richer)
    plain = ablations.recipe("plain", 3).to_dict()
    assert plain.keys() & {"condition", "guidance", "coupling"} == set() and plain["seed"] == 3
    assert {stage["use"] for stage in plain["stages"].values()} == set(ablations.STAGES) - {"tune"}
    assert "held_out" not in plain["stages"]["second"]
    own = ablations.recipe(ablations.AS_IT_IS, 0).to_dict()
    assert "condition" in own and "tune" in {stage["use"] for stage in own["stages"].values()}


def test_rows_of_another_guidance_or_sampler_have_the_same_training(ablations):
    """By their content keys, with which a run finds what is trained already."""

    def keys(row):
        resolved = ablations.recipe(row, 0, quick=True).resolve()
        return [
            str(stage_keys(resolved, ComponentStore(resolved.components))[name])
            for name in ("first", "second")
        ]

    assert keys("400 clusters") == keys("400 clusters, auto 2, heun 10")
    assert keys("400 clusters")[0] == keys("plain")[0] and keys("400 clusters")[1] != keys("plain")[1]


@pytest.mark.slow
def test_another_guidance_or_sampler_trains_nothing(ablations, tmp_path, monkeypatch, capsys):
    steps, step = [], TrainDiffusion.step
    monkeypatch.setattr(TrainDiffusion, "step", lambda *given: steps.append(given[1]) or step(*given))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{ablations.BEGIN}old\n{ablations.END}after\n")
    monkeypatch.setattr(ablations, "PAGE", page)
    rows = ("400 clusters, auto 2", "400 clusters, euler 4")
    ablations.main([*rows, "--quick", "--work", str(tmp_path / "work"), "--write"])
    assert len(steps) == 4
    ablations.main([rows[0], "--quick", "--work", str(tmp_path / "work")])
    assert len(steps) == 4, "what was archived is restored"
    text = page.read_text()
    assert text.startswith(f"before\n{ablations.BEGIN}") and text.endswith(f"{ablations.END}after\n")
    lines = [line.split(" | ") for line in text.splitlines() if line.startswith("| 400")]
    assert [line[0][2:] for line in lines] == list(rows) and [line[2] for line in lines] == ["38", "4"]
    assert "\nOn " in text and "old" not in text
    assert "Fréchet distance" in capsys.readouterr().out


def test_several_seeds_show_their_spread(ablations):
    numbers = dict.fromkeys(ablations.NUMBERS, 0.5) | {ablations.CALLS: 19.0}
    two = [ablations.Result({**numbers, "frechet_mnist": one}, {"denoiser": 9.6}, "a") for one in (1.0, 2.0)]
    text = ablations.table({"plain": two})
    assert "| plain | 2 | 19 | 1.50 (1.00 to 2.00) | 0.500 |" in text and text.startswith("On a.")


def test_a_page_without_the_lines_is_left_alone(ablations, tmp_path):
    (tmp_path / "page.md").write_text("text")
    with pytest.raises(ValueError, match="has no lines <!-- ablations: begin -->"):
        ablations.write_table("new", tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == "text"


def test_what_is_no_row_is_refused(ablations, capsys):
    with pytest.raises(SystemExit):
        ablations.main(["plane"])
    assert "no such row: plane" in capsys.readouterr().err


def test_the_page_has_the_lines_for_the_table(ablations):
    text = ablations.PAGE.read_text("utf-8")
    assert text.index(ablations.BEGIN) < text.index(ablations.END)
