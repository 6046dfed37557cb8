"""The graph of a recipe, and its two written forms."""

import re

import pytest
from click.testing import CliRunner
from core.conftest import RECIPE

from uldm_core.cli.main import cli
from uldm_core.recipe import Recipe
from uldm_plugins.diagram.flowchart import Edge, Graph, Node, dot, graph_of, mermaid


def edges(resolved):
    graph = graph_of(resolved)
    titles = {node.id: node.lines[0].partition(":")[0] for node in graph.nodes}
    return {(titles[edge.start], titles[edge.end], edge.label) for edge in graph.edges}


def test_components_feed_stages_and_stages_feed_each_other(registry, write):
    assert edges(Recipe.load(write()).resolve(registry)) == {
        ("dataset", "first", ""),
        ("first", "autoencoder", "trains"),
        ("autoencoder", "second", ""),
        ("denoiser", "second", ""),
        ("second", "third", "drawing.txt"),
    }


def boxes(recipe):
    return {node.lines[0]: list(node.lines[1:]) for node in graph_of(recipe).nodes}


def test_a_box_says_what_was_written_of_a_component_and_of_those_within_it(registry, write):
    found = boxes(Recipe.load(write()).resolve(registry))
    assert found["autoencoder: coder"] == ["quantizer: codes (codebook_size 16)"]
    assert found["denoiser: net"] == []
    assert found["first: train"] == [
        "steps 6",
        "losses: 0.5 * distance",
        "optimizer: sgd",
        "lr_schedule: flat",
    ]


def test_a_component_of_another_name_says_its_kind_and_a_stage_names_it(registry, write):
    text = '\n[small_autoencoder]\nuse = "coder"\n[stages.fourth]\nuse = "train"\n'
    text += 'autoencoder = { ref = "small_autoencoder" }\n'
    text += 'losses = [{ use = "distance", start = 3 }, "distance"]\n'
    resolved = Recipe.load(write(text=RECIPE + text)).resolve(registry)
    assert "small_autoencoder: autoencoder coder" in boxes(resolved)
    assert boxes(resolved)["fourth: train"][0] == "losses: distance from step 3, distance"
    assert ("fourth", "small_autoencoder", "trains") in edges(resolved)
    assert not any(end == "fourth" and start == "autoencoder" for start, end, _ in edges(resolved))


ODD = Graph(
    [Node("a", ('say "hi"', "[x] {y} <b> & #1;", "Größe \\ n", "a\nb")), Node("b", ("b",), True)],
    [Edge("a", "b", "makes", 'a "b"'), Edge("b", "a", "trains", "trains")],
)


def test_odd_names_break_neither_form():
    written = mermaid(ODD)
    assert written.splitlines()[1] == (
        '  a["say #34;hi#34;<br/>[x] {y} #60;b#62; #38; #35;1#59;<br/>Größe \\ n<br/>a#10;b"]'
    )
    assert '  a -->|"a #34;b#34;"| b' in written and '  b ==>|"trains"| a' in written
    assert '  a [label="say \\"hi\\"\\n[x] {y} <b> & #1;\\nGröße \\\\ n\\na\\nb"];' in dot(ODD).splitlines()
    assert '  a -> b [label="a \\"b\\""];' in dot(ODD) and "shape=hexagon" in dot(ODD)


def test_the_edges_of_a_shipped_recipe():
    assert edges(Recipe.load("mnist_latent").resolve()) == {
        *((component, "first", "") for component in ("dataset", "discriminator")),
        ("first", "autoencoder", "trains"),
        *(
            (component, "second", "")
            for component in (
                "dataset",
                "autoencoder",
                "noise_scheduler",
                "timestep_weighting",
                "coupling",
                "guidance",
            )
        ),
        ("second", "condition", "trains"),
        ("condition", "denoiser", ""),
        ("second", "denoiser", "trains"),
        ("second", "latent_scaling", "trains"),
        *((component, "samples", "") for component in ("dataset", "autoencoder", "denoiser")),
        *(
            (component, "samples", "")
            for component in ("noise_scheduler", "latent_scaling", "guidance", "condition")
        ),
        *((component, "scores", "") for component in ("dataset", "autoencoder")),
        ("samples", "scores", "samples.npz"),
    }


@pytest.mark.parametrize("form", ["mermaid", "dot"])
def test_every_end_of_an_edge_is_a_node(form):
    output = CliRunner().invoke(cli, ["diagram", "mnist_latent", "--format", form]).output
    declared = set(re.findall(r"^  ((?:component|stage)_\d+)(?:\[| \[|\{)", output, re.MULTILINE))
    ends = re.findall(r"^  (\w+) (?:-->|==>|->)(?:\|[^|]*\|)? (\w+)", output, re.MULTILINE)
    assert len(ends) > 10 and {end for pair in ends for end in pair} <= declared and len(declared) == 14
