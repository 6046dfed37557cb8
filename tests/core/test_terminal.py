"""What a person sees at a terminal while a run goes on."""

import io
import logging
import sys

import pytest
from rich.console import Console

from uldm_core.cli.console import logs_shown
from uldm_core.cli.progress import Terminal, reporter
from uldm_core.engine.progress import Lines

METRICS = {"distance": 0.4189, "commitment": 0.01835, "generator": 2.091, "discriminator": 0.01481}


def terminal(width=80, **options):
    return Terminal(Console(file=io.StringIO(), force_terminal=True, width=width, **options))


def shown(terminal):
    """Return the list as text, line by line."""
    console = Console(file=io.StringIO(), width=terminal.console.width)
    console.print(terminal.rendered())
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.fixture
def running():
    """Return a terminal of four stages: one was done before, one is just done, one runs, one waits."""

    def running(width=80, **options):
        found = terminal(width, **options)
        found.stages(["first", "second", "samples", "scores"])
        found.reused("first", 127.0, {"accuracy": 0.5})
        found.started("second", "training steps", 100, 0)
        found.advanced(100, METRICS, 145.2)
        found.finished("second", 75.0, {})
        found.started("samples", "drawing images", 400, 100)
        found.advanced(300, {}, 20.0)
        return found

    yield running


def test_each_stage_says_what_has_become_of_it(running):
    found = running()
    lines = shown(found)
    found.close()
    assert lines[0] == "✓ first   done before, in 2:07  accuracy 0.5"
    assert lines[1] == "✓ second  1:15"
    assert lines[2].startswith("▸ samples ━") and "300/400" in lines[2] and lines[2].endswith("left")
    assert lines[3].strip() == "drawing images, 20 images/s"
    assert lines[4:] == ["· scores  waiting"]


def test_no_line_is_wider_than_the_terminal_and_no_metric_is_cut(running):
    for width in (40, 60, 80, 120, 200):
        found = running(width)
        found.started("scores", "training steps", 800, 0)
        found.advanced(400, METRICS, 145.2)
        lines = shown(found)
        found.close()
        assert max(map(len, lines)) < width - 2
        text = " ".join(" ".join(lines).split())
        for said in ("400/800", "145 images/s", "distance 0.4189", "discriminator 0.01481"):
            assert said in text, width


def test_a_run_that_ends_early_leaves_where_it_stopped(running):
    found = running()
    found.close()
    assert shown(found)[2:] == ["■ samples stopped at 300 of 400", "· scores  waiting"]
    assert "stopped at 300 of 400" in found.console.file.getvalue()


def test_messages_stand_above_the_list_and_the_last_one_below():
    found = terminal()
    found.message("sizes")
    found.stages(["first"])
    found.started("first", "training steps", 10, 0)
    found.message("a [word] of warning")
    found.finished("first", 3.0, {})
    found.message("done in 3 s")
    found.close()
    text = found.console.file.getvalue()
    assert "a [word] of warning" in text
    assert text.index("sizes") < text.index("first") and text.rstrip().endswith("done in 3 s")


def test_what_is_logged_stands_above_the_list(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    found = Terminal(Console(stderr=True, force_terminal=True, width=80))
    found.stages(["first"])
    found.started("first", "training steps", 10, 0)
    found.live.refresh()
    with logs_shown():
        logging.getLogger("uldm_core").info("checked [2] images")
    found.close()
    before, line, after = sys.stderr.getvalue().partition("checked [2] images\n")
    assert line and before.endswith("\x1b[2K"), "the list is taken away first"
    assert "first" in before and "first" in after


def test_without_a_list_the_line_vanishes_with_the_work():
    found = terminal()
    found.started("samples", "drawing images", 10, 0)
    found.advanced(5, {}, 2.0)
    assert shown(found)[0].startswith("▸ samples")
    found.close()
    assert found.console.file.getvalue().endswith("\x1b[2K")


def test_a_work_without_a_number_of_steps_has_no_bar():
    found = terminal()
    found.started("samples", "looking", 0, 0)
    assert shown(found) == ["▸ samples looking"]
    found.close()
    assert shown(found) == ["■ samples stopped"]


def test_no_colour_where_none_is_wanted(running, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    found = running()
    found.close()
    assert "\x1b[32m" not in found.console.file.getvalue()
    monkeypatch.delenv("NO_COLOR")
    found = running()
    found.close()
    assert "\x1b[32m" in found.console.file.getvalue()


def test_where_there_is_no_terminal_lines_are_written(monkeypatch, capsys):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with reporter() as notify:
        assert isinstance(notify, Lines)
        notify.stages(["first", "second"])
        notify.reused("first", 5.0, {})
    assert capsys.readouterr().err == "[first] is done already, nothing to do\n"


def test_a_terminal_that_cannot_move_its_cursor_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")
    with reporter() as notify:
        assert isinstance(notify, Lines)
    monkeypatch.setenv("TERM", "xterm-256color")
    with reporter() as notify:
        assert isinstance(notify, Terminal)
