"""Trackers write with their real libraries, on this machine, and what they wrote is read back."""

import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from uldm_core import registry
from uldm_core.protocols import RunStart
from uldm_plugins.trackers.mlflow import _allowed

RECIPE = {
    "uldm": 1,
    "seed": 7,
    "dataset": {"use": "mnist", "limit": 64},
    "stages": {"first": {"use": "train", "steps": 6, "losses": [{"use": "l1", "weight": 0.5}]}},
}
IMAGES = torch.arange(2 * 3 * 64, dtype=torch.uint8).view(2, 3, 8, 8)


def start(folder):
    folder.mkdir(exist_ok=True)
    return RunStart(folder, folder.name, RECIPE, ["first", "second"], "uldm run it")


def notified(tracker, folder, first=0, last=6, state="done"):
    """Tell a tracker of a run, whole or a part of it."""
    tracker.begin(start(folder))
    tracker.stage("first", first, 6)
    for step in range(first + 1, last + 1):
        tracker.scalars("first", step, {"loss": 1 / step})
    tracker.images("first", last, "samples", IMAGES)
    if state == "done":
        tracker.stage_done("first", 1.5, {})
        tracker.stage("second", 0, 0)
        tracker.stage_done("second", 0.5, {"frechet": 12.5})
    tracker.end(state)


def in_halves(name, folder, **options):
    """Have a run stop at step 5, and go on from its checkpoint at step 3."""
    notified(registry.build("tracker", name, **options), folder, last=5, state="stopped")
    notified(registry.build("tracker", name, **options), folder, first=3)


WHOLE = {step: pytest.approx(1 / step) for step in range(1, 7)}


def test_tensorboard_shows_stages_as_runs(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    in_halves("tensorboard", tmp_path / "run")
    first, second = (
        EventAccumulator(str(tmp_path / "run" / "tensorboard" / name)).Reload()
        for name in ("first", "second")
    )
    losses = [(event.step, event.value) for event in first.Scalars("loss")]
    assert dict(losses) == WHOLE and len(losses) == 6, "what is behind the checkpoint is purged"
    (picture,) = [event for event in first.Images("samples") if event.step == 6]
    assert picture.encoded_image_string.startswith(b"\x89PNG") and picture.height == 8 * (8 + 4)
    text = first.Tensors("recipe/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "    seed = 7" in text and "[stages.first]" in text
    assert second.Scalars("frechet")[0].value == 12.5


def test_mlflow_keeps_a_database_in_the_runs_folder(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    in_halves("mlflow", tmp_path / "run", experiment="digits")
    client = MlflowClient(f"sqlite:///{tmp_path}/run/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert run.info.run_name == "run" and run.info.status == "FINISHED"
    assert run.data.params["stages.first.losses.0.use"] == "l1" and run.data.params["seed"] == "7"
    history = client.get_metric_history(run.info.run_id, "first/loss")
    assert {metric.step: metric.value for metric in history} == WHOLE
    assert run.data.metrics["second/frechet"] == 12.5 and run.data.tags["command"] == "uldm run it"
    names = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    assert any("samples" in name and "step+6" in name and name.endswith(".png") for name in names)
    assert not (Path.cwd() / "mlruns").exists()


def test_mlflow_is_given_names_that_it_takes():
    assert _allowed("first/größe (%)") == "first/größe ___"
    assert _allowed("first/größe", re.ASCII) == "first/gr__e"


@pytest.mark.slow
def test_mlflow_logs_where_it_is_set_to(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/elsewhere.db"
    tracker = registry.build("tracker", "mlflow", uri=uri)
    assert MlflowClient(uri).create_experiment("uldm", artifact_location=(tmp_path / "art").as_uri())
    notified(tracker, tmp_path / "run", state="failed")
    (run,) = MlflowClient(uri).search_runs([MlflowClient(uri).get_experiment_by_name("uldm").experiment_id])
    assert run.info.status == "FAILED" and not (tmp_path / "run/mlflow/mlflow.db").exists()


BLOCK = 32768


def chunks(data):
    """Yield the records of a log in LevelDB's format, which wandb's files are in behind 7 bytes."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        record += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def records(folder):
    """Read what wandb wrote offline."""
    import wandb
    from wandb.proto import wandb_internal_pb2

    wandb.teardown()  # as at a process's end: what is written last is then on the disk
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns):
        for chunk in chunks(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(chunk)
            yield record


def test_wandb_writes_offline_what_sync_would_send(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_MODE", raising=False)
    in_halves("wandb", tmp_path / "run", project="digits", mode="offline", tags=["small"])
    found = list(records(tmp_path / "run"))
    runs = [record.run for record in found if record.HasField("run") and record.run.display_name]
    assert {(run.project, run.display_name, tuple(run.tags)) for run in runs} == {
        ("digits", "run", ("small",))
    }
    assert len({run.run_id for run in runs}) == 1, "the second half is the same run"
    config = {item.key: json.loads(item.value_json) for item in runs[0].config.update}
    assert config["seed"] == 7 and config["stages"] == RECIPE["stages"]
    rows = [row for record in found if record.HasField("history") for row in [_items(record.history)]]
    losses = {row["first/step"]: row["first/loss"] for row in rows if "first/loss" in row}
    assert losses == WHOLE
    pictures = {row["first/step"]: row["first/samples/path"] for row in rows if "first/samples/path" in row}
    assert pictures.keys() == {5, 6}
    assert list((tmp_path / "run").glob(f"wandb/offline-run-*/files/{pictures[6]}"))
    metrics = {record.metric.name or record.metric.glob_name for record in found if record.HasField("metric")}
    assert metrics >= {"first/step", "first/*"}
    summary = {
        "/".join(item.nested_key) or item.key: json.loads(item.value_json)
        for record in found
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary["second/frechet"] == 12.5
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [1, 0]


def _items(history):
    return {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in history.item}


@pytest.mark.parametrize(
    ("environment", "mode"),
    [
        ({}, "offline"),
        pytest.param({"WANDB_API_KEY": "k" * 40}, "online", marks=pytest.mark.slow),
        pytest.param({"WANDB_API_KEY": "k" * 40, "WANDB_MODE": "offline"}, "offline", marks=pytest.mark.slow),
    ],
)
def test_wandb_goes_online_only_with_a_key(environment, mode, tmp_path):
    code = "from uldm_plugins.trackers.wandb import _chosen_mode; print(_chosen_mode())"
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB_")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**clean, "HOME": str(tmp_path), "NETRC": str(tmp_path / "none"), **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.strip() == mode, done.stderr


def test_trackio_keeps_runs_in_its_own_place(tmp_path):
    from trackio.sqlite_storage import SQLiteStorage

    project = f"digits-{tmp_path.name}"
    in_halves("trackio", tmp_path / "run", project=project)
    (name,) = SQLiteStorage.get_runs(project)
    assert name.startswith("run-") and len(name) == len("run-") + 8
    assert SQLiteStorage.get_run_config(project, name)["stages"] == RECIPE["stages"]
    rows = SQLiteStorage.get_logs(project, name)
    assert {row["step"]: row["first/loss"] for row in rows if "first/loss" in row} == WHOLE
    pictures = [row["first/samples"] for row in rows if "first/samples" in row]
    assert pictures[-1]["_type"] == "trackio.image" and rows[-1]["state"] == "done"
    assert [row["second/frechet"] for row in rows if "second/frechet" in row] == [12.5]


LIBRARIES = ["tensorboard", "wandb", "mlflow", "trackio"]


def test_a_library_is_imported_only_when_a_run_begins():
    code = (
        "import sys; from uldm_core import registry\n"
        f"for name in {LIBRARIES}: registry.build('tracker', name)\n"
        f"print([name for name in {LIBRARIES} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_library_that_is_missing_is_named_with_its_extra(name, monkeypatch):
    from uldm_core import MistakeError
    from uldm_core.registry import component

    find = component.find_spec
    monkeypatch.setattr(component, "find_spec", lambda module: None if module == name else find(module))
    with pytest.raises(MistakeError) as caught:
        registry.build("tracker", name)
    assert f"tracker/{name} needs {name}, which is not installed" in str(caught.value)
    assert name in caught.value.problems[-1].hint


def test_grids_are_arrays_with_a_channel():
    from uldm_plugins.shared.images import array_of_grid

    assert array_of_grid(IMAGES).shape[-1] == 3 and array_of_grid(IMAGES).dtype == np.uint8
    assert array_of_grid(IMAGES[:, :1]).shape[-1] == 1
