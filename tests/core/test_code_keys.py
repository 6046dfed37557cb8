"""A stage is done again when the code that it depends on changes: bases and imported modules too."""

import sys
from pathlib import Path

import pytest
from attrs import evolve

from uldm_core import Component, Recipe, run
from uldm_core import registry as components
from uldm_core.engine.progress import Silent
from uldm_core.preflight.forecast import forecast
from uldm_core.run_folder import code
from uldm_core.run_folder.code import code_of
from uldm_core.run_folder.folder import RunFolder

FILES = {
    "__init__.py": "",
    "losses/__init__.py": "from .. import settings",
    "losses/own.py": "from ideas.losses.base import Base\n\nclass Own(Base):\n    power = 2",
    "losses/base.py": (
        "from ideas.nn.blocks import root\n\nclass Base:\n    def __call__(self, prediction, target):\n"
        "        from ideas import late\n        return late.of(root(prediction - target))"
    ),
    "settings.py": "",
    "late.py": "def of(value):\n    return value.square().mean()",
    "nn/__init__.py": "",
    "nn/blocks.py": "from .deeper import same\n\ndef root(value):\n    return same(value)",
    "nn/deeper.py": "from typing import TYPE_CHECKING\n\ndef same(value):\n    return value",
    "nn/unrelated.py": "import ideas.nn.blocks",
}


class Lines(Silent):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines += text.splitlines()


@pytest.fixture
def ideas(registry, tmp_path, monkeypatch):
    """A plugin's package in a folder, of which one class is a loss."""
    for name, text in FILES.items():
        path = tmp_path / "ideas" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    registry.register(Component("loss", "own", "ideas.losses.own:Own"))
    yield tmp_path / "ideas"
    for name in [name for name in sys.modules if name.split(".")[0] == "ideas"]:
        del sys.modules[name]


@pytest.fixture
def resolved(registry, write, ideas):
    return Recipe.load(write(), ["stages.first.losses=['own']"]).resolve(registry)


@pytest.mark.parametrize(
    ("component", "file"),
    [
        ("quantizer/vq_ema", "quantizers/codebook.py"),
        ("sampler/heun", "samplers/path.py"),
        ("stage/train_diffusion", "stages/training.py"),
        ("autoencoder/vqvae_fast", "nn/blocks.py"),
    ],
)
def test_code_of_a_built_in_component_is_that_of_what_it_imports(component, file):
    found = code_of([components.default().get(*component.split("/")).load()])
    assert f"uldm_plugins/{file}" in found and "uldm_plugins/denoisers/dit.py" not in found
    assert found["uldm_core"] and not any(name.startswith(("uldm_core/", "torch")) for name in found)


def test_a_file_outside_packages_depends_on_those_beside_it(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "helper_of_mine.py").write_text("import torch")
    (tmp_path / "idea_of_mine.py").write_text(
        "import torch\nimport helper_of_mine\nfrom uldm_plugins.quantizers.vq_ema import VQEma\n\n"
        "class Idea(VQEma):\n    pass"
    )
    (tmp_path / "other_of_mine.py").write_text("")
    import idea_of_mine

    found = code_of([idea_of_mine.Idea])
    assert {name for name in found if "/" not in name} == {
        "idea_of_mine.py",
        "helper_of_mine.py",
        "uldm_core",
    }
    assert "uldm_plugins/quantizers/codebook.py" in found, "its base's code counts as well"


def test_a_class_without_a_file_has_no_code_and_a_broken_module_has_its_digest(ideas):
    assert {*code_of([type("Typed", (), {"__module__": "nowhere"})])} == {"uldm_core"}
    from ideas.losses.own import Own

    (ideas / "late.py").write_text("def broken(:")
    assert "ideas/late.py" in code_of([Own])


def test_an_edit_of_any_file_behind_a_component_is_reported_and_redone(resolved, ideas, tmp_path):
    out = tmp_path / "out"
    run(resolved, out=out)
    assert [found.does for found in forecast(resolved, out)] == ["reuse"] * 3
    for name in FILES:
        before = (ideas / name).read_text()
        (ideas / name).write_text(f"{before}\n# edited")
        found = forecast(resolved, out)
        (ideas / name).write_text(before)
        if name == "nn/unrelated.py":
            assert [of.does for of in found] == ["reuse"] * 3
            continue
        assert str(found[0]) == f"first: redo, the code of {name} has changed"
        assert str(found[1]) == "second: redo, autoencoder is made anew"
    assert [found.does for found in forecast(resolved, out)] == ["reuse"] * 3


def test_results_of_other_code_are_kept_and_taken_back(resolved, ideas, tmp_path):
    out, late = tmp_path / "out", ideas / "late.py"
    run(resolved, out=out)
    weights = out / "stages/first/weights/autoencoder.safetensors"
    first, text = weights.read_bytes(), late.read_text()
    for edited in ("# one", "# two"):
        late.write_text(f"{text}\n{edited}")
        reporter = Lines()
        run(resolved, out=out, reporter=reporter)
        assert any(
            "the code of late.py has changed; the finished result is kept" in line for line in reporter.lines
        )
        assert weights.read_bytes() == first, "a comment changes nothing, so later stages stay"
    kept = [path.name for path in (out / "set_aside").iterdir()]
    assert len(kept) == 2 and all(name.startswith("first-") for name in kept)
    late.write_text(text)
    reporter = Lines()
    run(resolved, out=out, reporter=reporter)
    assert any("first is restored" in line for line in reporter.lines)
    assert reporter.lines[-1].endswith("nothing to do: every stage is done")


def test_a_record_that_knows_no_code_is_of_the_same_and_gets_it(resolved, ideas, tmp_path):
    out = tmp_path / "out"
    run(resolved, out=out)
    folder = RunFolder(out).stage("first")
    record = folder.record()
    made_of = {group: content for group, content in record.key.made_of.items() if group != "code"}
    folder.write_record(evolve(record, key=evolve(record.key, made_of=made_of)))
    assert [found.does for found in forecast(resolved, out)] == ["reuse"] * 3
    run(resolved, out=out)
    assert folder.record() == record and folder.record().key.code == record.key.code


def test_files_are_read_once(resolved, monkeypatch):
    loss = resolved.stages["first"].options["losses"][0].component.component.load()
    code_of([loss])
    monkeypatch.setattr(code.ast, "parse", lambda content: pytest.fail("read again"))
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail("read again"))
    assert code_of([loss])
