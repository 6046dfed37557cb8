"""How long the program takes to print something: every command's help, `ls`, beside Python and click alone.

    python benchmarks/start_up.py [ROUNDS]

Each round runs everything once, so that other load affects all; medians are printed, in milliseconds.
"""

import statistics
import subprocess
import sys
import time
from importlib import import_module

from uldm_core import registry

ROUNDS = int(sys.argv[1]) if len(sys.argv) > 1 else 15


def commands():
    program = import_module("uldm_core.cli.main")
    uldm = [sys.executable, "-c", "from uldm_core.__main__ import main; main()"]
    yield "python -c pass", [sys.executable, "-c", "pass"]
    yield 'python -c "import click"', [sys.executable, "-c", "import click"]
    yield "uldm ls", [*uldm, "ls"]
    yield "uldm --help", [*uldm, "--help"]
    for name in [*program.CORE, *registry.default().commands]:
        yield f"uldm {name} --help", [*uldm, name, "--help"]


def main():
    timed = {name: [] for name, _ in commands()}
    for _ in range(ROUNDS):
        for name, command in commands():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            timed[name].append(1000 * (time.perf_counter() - began))
    for name, times in timed.items():
        print(f"{name:28} {statistics.median(times):6.0f} ms")


main()
