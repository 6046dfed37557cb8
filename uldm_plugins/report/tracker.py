"""The tracker that keeps ``report.html`` up to date."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from uldm_core.protocols import RunStart
from uldm_plugins.report.page import write_report

LEAST_SECONDS = 30.0
MOST_SHARE = 0.02
"""The share of training time that writing may use: a page that needs 1 s is written every 50 s."""


class Report:
    """Writes ``report.html``: when a run begins and ends, after each stage, and now and then in between."""

    def begin(self, run: RunStart) -> None:
        """Write the first page."""
        self.folder: Path = run.folder
        self._write()

    def stage(self, name: str, step: int, total: int) -> None:
        """Write, if it is time, that the stage runs."""
        self._write_if_due()

    def scalars(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Write, if it is time, what was logged since."""
        self._write_if_due()

    def images(self, stage: str, step: int, name: str, images: Tensor) -> None:
        """Write, if it is time; the images are read from where they are kept."""
        self._write_if_due()

    def stage_done(self, stage: str, seconds: float, summary: Mapping[str, float]) -> None:
        """Write what the stage made."""
        self._write()

    def end(self, state: str) -> None:
        """Write the last page, which no longer renews itself."""
        self._write()

    def _write_if_due(self) -> None:
        if time.monotonic() >= self.due:
            self._write()

    def _write(self) -> None:
        began = time.monotonic()
        write_report(self.folder)
        ended = time.monotonic()
        self.due = ended + max(LEAST_SECONDS, (ended - began) / MOST_SHARE)
