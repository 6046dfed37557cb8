"""The environment of a run: versions, libraries, hardware, and which of them decide a result's last bits."""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import socket
import subprocess
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import torch

from uldm_core.engine.device import Device
from uldm_core.recipe import ResolvedRecipe
from uldm_core.run_folder.events import Event

LIBRARIES = ("uldm", "torchvision", "numpy")
BITS = (
    "torch",
    "blas",
    "cpu",
    "cuda",
    "gpu",
    "device",
    "precision",
    "threads",
    "compile",
    "deterministic",
)
"""What a result may depend on in its last bits."""
GIT_SECONDS = 5.0
_LIBRARY = re.compile(
    r"- (Intel\(R\) (?:oneAPI )?Math Kernel Library Version [\d.]+|.*MKL-DNN v[\d.]+|.*OpenBLAS.*)"
)


def environment_of(resolved: ResolvedRecipe, device: Device, command: str) -> dict[str, object]:
    """Return what a run's result may depend on beside its recipe: the content of ``environment.json``."""
    components = [
        part.component for spec in (*resolved.specs(), *resolved.trackers) for part in spec.nested()
    ]
    plugins = {c.plugin: f"{c.distribution} {c.version}".strip() for c in components if c.plugin}
    installed = sorted({"uldm", *(c.distribution for c in components if c.distribution)})
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{library: found for library in LIBRARIES if (found := _version(library))},
        "platform": platform.platform(),
        "host": socket.gethostname(),
        "machine": str(device),
        "cpu": processor(),
        "blas": _blas(),
        **_gpu(device.device),
        "device": device.device.type,
        "precision": str(device.precision).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "compile": device.compile,
        "deterministic": _deterministic(device),
        "plugins": plugins,
        "git": {name: state for name in installed if (state := _git_state(name))},
        "command": command,
    }


def of_bits(environment: Mapping[str, object]) -> dict[str, object]:
    """Return the part of an environment on which every bit of a result depends."""
    return {name: environment.get(name, "") for name in BITS}


def differences(before: Mapping[str, object], now: Mapping[str, object]) -> list[str]:
    """Return what differs between two environments, as far as both tell: ``threads 2 -> 1``."""
    # an environment of an earlier version has these in one text
    names = BITS if "threads" in before else ("torch", "machine")
    known = (name for name in names if name in before and name in now)
    return [f"{name} {before[name]} -> {now[name]}" for name in known if before[name] != now[name]]


def checkpoint_environments(events: Iterable[Event]) -> dict[tuple[str, str], Mapping[str, object]]:
    """Return the environment in which the last checkpoint of a stage was made: by its name and its key.

    With no key, that of the last one of any key: earlier versions note none.
    """
    found: dict[tuple[str, str], Mapping[str, object]] = {}
    current: Mapping[str, object] = {}
    keys: dict[str, str] = {}
    for event in events:
        if event.name in ("started", "resumed"):
            values = event.values.get("environment")
            current = values if isinstance(values, dict) else {}
        elif event.name == "stage":
            keys[event.stage] = str(event.values.get("key", ""))
        elif event.name == "checkpoint":
            found[event.stage, ""] = found[event.stage, keys.get(event.stage, "")] = current
    return found


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""


@cache
def processor() -> str:
    """Return the processor and the instructions that torch uses of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
    except OSError:
        lines = []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.processor() or platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


@cache
def _blas() -> str:
    """Return the libraries that multiply matrices on the CPU."""
    return ", ".join(match[1] for match in _LIBRARY.finditer(torch.__config__.show()))


def _gpu(device: torch.device) -> dict[str, object]:
    if device.type != "cuda":
        return {}
    cuda = f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"
    return {"cuda": cuda, "gpu": torch.cuda.get_device_name(device)}


def _deterministic(device: Device) -> str:
    """Return the settings that decide between algorithms."""
    cudnn = torch.backends.cudnn
    flags = {
        "algorithms": torch.are_deterministic_algorithms_enabled(),
        "cudnn.deterministic": cudnn.deterministic,
        "cudnn.benchmark": cudnn.benchmark,
        "matmul": torch.get_float32_matmul_precision(),
    }
    if device.device.type == "cuda":
        flags["run"] = device.deterministic
    return ", ".join(f"{name} {str(value).lower()}" for name, value in flags.items())


@cache
def _git_state(name: str) -> str:
    """Return the commit of an editable install, and whether its files are changed; empty if there is none."""
    try:
        installed = json.loads(distribution(name).read_text("direct_url.json") or "{}")
        url = urlsplit(installed["url"] if installed["dir_info"]["editable"] else "")
    except (PackageNotFoundError, ValueError, KeyError, TypeError):
        return ""
    folder = url2pathname(url.path)
    commit = _git(folder, "rev-parse", "HEAD") if url.scheme == "file" else None
    changed = _git(folder, "status", "--porcelain", "--untracked-files=no") if commit else ""
    return f"{commit} (changed)" if changed else commit or ""


def _git(folder: str, *arguments: str) -> str | None:
    """Return what git says; None if there is no git, it fails, or it takes too long."""
    if (git := shutil.which("git")) is None:
        return None
    try:
        said = subprocess.run(
            [git, "-C", folder, *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=GIT_SECONDS,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return said.stdout.strip() if said.returncode == 0 else None
