"""The notebook runs from its first cell to its last, and what comes out are digits."""

from pathlib import Path

import nbformat
import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs/notebooks/first_steps.ipynb"
CLASSIFY = """
import json
classifier = registry.build("backbone", "mnist_judge")
sure = classifier.logits(to_float(samples)).softmax(1).max(1).values
print(json.dumps({"samples": list(samples.shape), "sure": sure.mean().item()}))
"""


def pictures(notebook):
    return [
        output.data["image/png"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]


def test_the_notebook_shows_what_its_cells_made():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == "error"]
    assert len(pictures(notebook)) == 7 and NOTEBOOK.stat().st_size < 500_000


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that run notebooks
def test_the_notebook_makes_digits(tmp_path):
    import json

    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    shown = len(pictures(notebook))
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell["outputs"] = []
    notebook.cells.append(nbformat.v4.new_code_cell(CLASSIFY))
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=900, kernel_name="python3", resources=resources).execute()
    assert len(pictures(notebook)) == shown
    measured = json.loads(notebook.cells[-1].outputs[-1].text)
    assert measured["samples"] == [20, 1, 28, 28] and measured["sure"] > 0.7
