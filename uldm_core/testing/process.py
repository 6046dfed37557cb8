"""What every component of a process shares, and must leave as it found it."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def process_state() -> dict[str, Any]:
    """Return the state of the process by what it is called; values compare equal where nothing changed.

    Random states are compared by their content, threads by their identity.
    """
    kind, keys, *rest = np.random.get_state(legacy=True)
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": (kind, np.asarray(keys).tobytes(), *rest),
        "Python's random state": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "whether gradients are computed": torch.is_grad_enabled(),
        "whether algorithms are deterministic": torch.are_deterministic_algorithms_enabled(),
        "whether autograd looks for anomalies": torch.is_anomaly_enabled(),
        "whether autocast is on": torch.is_autocast_enabled("cpu"),
        "the environment": dict(os.environ),
        "sys.path": list(sys.path),
        "what Ctrl-C calls": signal.getsignal(signal.SIGINT),
        "what a termination calls": signal.getsignal(signal.SIGTERM),
        "the running threads": frozenset(threading.enumerate()),
    }


def changes(before: dict[str, Any], *, but: frozenset[str] = frozenset()) -> list[str]:
    """Return what differs from an earlier state; threads that have ended are no change."""
    now = process_state()
    now["the running threads"] = before["the running threads"] | now["the running threads"]
    return [name for name, value in now.items() if name not in but and value != before[name]]


@contextmanager
def restored() -> Iterator[None]:
    """Put the process back as it was when the context ends: all that ``process_state`` knows but threads.

    Output streams and the working folder are left to ``containment``, which says who changed them.
    """
    environment, path = dict(os.environ), list(sys.path)
    python, numpy = random.getstate(), np.random.get_state()
    dtype, threads, device = torch.get_default_dtype(), torch.get_num_threads(), torch.get_default_device()
    flags = torch.are_deterministic_algorithms_enabled(), torch.is_anomaly_enabled()
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    with torch.random.fork_rng(), torch.set_grad_enabled(torch.is_grad_enabled()), warnings.catch_warnings():
        try:
            yield
        finally:
            sys.path[:] = path
            random.setstate(python)
            np.random.set_state(numpy)
            torch.set_default_dtype(dtype)
            if torch.get_default_device() != device:
                torch.set_default_device(device)
            if torch.get_num_threads() != threads:
                torch.set_num_threads(threads)
            if torch.are_deterministic_algorithms_enabled() != flags[0]:  # or torch's compiler is imported
                torch.use_deterministic_algorithms(flags[0])
            torch.autograd.set_detect_anomaly(flags[1])
            torch.set_autocast_enabled("cpu", False)
            _restore_signals(handlers)
            _restore_environment(environment)  # last: torch sets variables of its own on the way


def _restore_environment(environment: dict[str, str]) -> None:
    for name in os.environ.keys() - environment.keys():
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value


def _restore_signals(handlers: dict[signal.Signals, Any]) -> None:
    """Only the main thread may; elsewhere nobody else could have changed them either."""
    if threading.current_thread() is threading.main_thread():
        for number, handler in handlers.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
