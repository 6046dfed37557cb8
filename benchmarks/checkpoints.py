"""What checkpoints cost: seconds of saving beside seconds of training, and their size.

    python benchmarks/checkpoints.py [MINUTES]

trains the first stage of mnist_latent for so many minutes (1) with each way to say how often.
"""

import json
import sys
import tempfile
from datetime import datetime
from pathlib import Path

from uldm_core.cli import main as program

MINUTES = sys.argv[1] if len(sys.argv) > 1 else "1"
EVERY = ('"30 s"', '"10 s"', "50")


def train(every, out):
    """Train; return the events of the run's log."""
    options = [f"run.checkpoint={{ every = {every} }}", "--until", "first", "--max-minutes", MINUTES]
    try:
        program.main(["run", "mnist_latent", "--out", str(out), *options])
    except SystemExit:
        return [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]


def measure(every, out):
    """Return the number of saves, their median seconds, the share of the training's time, and MB of one."""
    events = train(every, out)
    saves = [event for event in events if event["event"] == "checkpoint"]
    began, *_ = (event["time"] for event in events if event["event"] == "stage")
    seconds = (datetime.fromisoformat(saves[-1]["time"]) - datetime.fromisoformat(began)).total_seconds()
    spent = sorted(save["seconds"] for save in saves)
    folder = out / "stages/first/checkpoints" / str(saves[-1]["step"])
    size = sum(path.stat().st_size for path in folder.iterdir())
    return len(saves), spent[len(spent) // 2], sum(spent) / seconds, size / 1e6


def main():
    """Print a table, a row for each way to say how often."""
    rows = ["| every | saves | seconds each | share of the time | MB each |", "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder:
        for every in EVERY:
            saves, each, share, size = measure(every, Path(folder) / every.strip('"'))
            rows.append(f"| {every} | {saves} | {each:.2f} | {share:.1%} | {size:.1f} |")
    print("\n".join(rows))


main()
