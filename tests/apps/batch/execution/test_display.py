"""Progress of a batch in a terminal and in a log."""

import io
import os
import re
from types import SimpleNamespace

import pytest

from facecdm.apps.batch.execution.display import Display, duration
from facecdm.apps.batch.execution.server import Server
from facecdm.comfy_api.client import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(stream: io.StringIO) -> Display:
    display = Display(stream)
    up = Server("gpu1:8188", None, state="up", done=3, steps={4: Progress("x", "5", 7, 20), 5: None})
    away = Server("gpu2:8188", None, state="away", note="no answer \x1b[2J")
    runner = SimpleNamespace(
        batch=SimpleNamespace(jobs=[0] * 12), schedule=SimpleNamespace(waiting=[0] * 9), servers=[up, away]
    )
    display.begin(runner)
    return display


def test_a_terminal_shows_jobs_rate_servers_and_steps(monkeypatch):
    monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((200, 50)))
    stream = Terminal()
    display = shown(stream)
    display._started -= 60
    task = SimpleNamespace(number=4, job=SimpleNamespace(name="x"))
    display.done(task, 2)
    display.draw()
    text = stream.getvalue()
    assert "4/12 jobs, 2.0 pictures/min, 8 min left" in text
    assert "gpu1:8188: up, 3 done, job 4 step 7/20, job 5" in text and "gpu2:8188: away, 0 done (no answer" in text
    assert "\x1b[2J" not in text and "measured" not in text
    display.to_measure, display.measured = 9, 4
    assert display.headline().endswith("8 min left, measured 4 of 9")
    display.draw()
    assert stream.getvalue().count("\x1b[3A\x1b[J") == 1, "the block is renewed"
    display.set_aside(task, "no\nmemory")
    assert "job 4 (x) is set aside: no memory\n" in stream.getvalue()


def test_a_log_gets_one_line_at_times():
    stream = io.StringIO()
    display = shown(stream)
    for _ in range(5):
        display.draw()
    assert len(re.findall("jobs, 0.0 pictures/min", stream.getvalue())) == 1 and "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(12, "12 s"), (95, "2 min"), (5400, "1 h 30 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text
