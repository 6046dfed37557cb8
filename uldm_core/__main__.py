"""The program ``uldm``: it listens to signals before it imports the rest, which takes a tenth of a second."""

import os
import signal


def main() -> None:
    """Run and exit; see ``cli.main``. A signal that comes before a command begins ends it with a line."""
    own = (signal.SIG_DFL, signal.default_int_handler)  # one that is ignored, of a shell's job say, stays so
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    before = {number: handler for number, handler in before.items() if handler in own}
    for number in before:
        signal.signal(number, _stop)
    try:
        from uldm_core.cli.main import main as program

        program()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(signum: int, frame: object) -> None:
    """End at once: nothing has begun, and an error raised here would be one of whatever is imported."""
    try:
        os.write(2, f"stopped by {signal.Signals(signum).name} before it was done\n".encode())
    finally:
        os._exit(128 + signum)


if __name__ == "__main__":
    main()
