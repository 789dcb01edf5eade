"""Progress of a batch: jobs, images a minute, time left, one line per server. A log gets one line every 15 s."""

import shutil
import sys
import time
from collections import deque
from typing import TYPE_CHECKING, TextIO

from ....comfy_api.names import one_line
from .schedule import Task
from .server import UP, Server

if TYPE_CHECKING:
    from .runner import Runner

LOG_EVERY = 15.0  # seconds
MOST_SERVERS = 12  # lines


class Display:
    """
    stream      default: stderr
    runner      whose progress is shown
    to_measure  number of images to measure
    measured    number of those that are measured
    """

    def __init__(self, stream: TextIO | None = None):
        self.stream = stream or sys.stderr
        self.runner: Runner | None = None
        self.to_measure = self.measured = 0
        self._lines = 0  # height of the redrawn block
        self._logged = 0.0
        self._recent: deque[tuple[float, int]] = deque(maxlen=60)  # (time, pictures) of each recent job

    def begin(self, runner: "Runner") -> None:
        self.runner = runner
        self._started = time.monotonic()
        self._done = len(runner.batch.jobs) - len(runner.schedule.waiting)
        if self._done:
            self.say(f"{self._done} of {len(runner.batch.jobs)} jobs are settled already")

    def done(self, task: Task, pictures: int) -> None:
        self._done += 1
        self._recent.append((time.monotonic(), pictures))

    def set_aside(self, task: Task, message: str) -> None:
        self._done += 1
        self.say(f"job {task.number} ({task.job.name}) is set aside: {message}")

    def say(self, line: str) -> None:
        """Print a permanent line above the redrawn block."""
        self._erase()
        self.stream.write(one_line(line) + "\n")
        self.stream.flush()

    def draw(self) -> None:
        now = time.monotonic()
        if self.stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            lines = [self.headline(), *self.server_lines()]
            self._erase()
            self.stream.write("".join(one_line(line)[:width] + "\n" for line in lines))
            self._lines = len(lines)
        elif now - self._logged >= LOG_EVERY:
            self._logged = now
            self.stream.write(one_line(" | ".join([self.headline(), *self.server_lines()])) + "\n")
        self.stream.flush()

    def end(self) -> None:
        if self.runner:
            self._logged = 0.0
            self.draw()
        self._lines = 0

    def headline(self) -> str:
        total = len(self.runner.batch.jobs)
        filled = 24 * self._done // max(total, 1)
        jobs, pictures = self._rates()
        left = f", {duration((total - self._done) / jobs)} left" if jobs and self._done < total else ""
        bar = "#" * filled + "." * (24 - filled)
        measured = f", measured {self.measured} of {self.to_measure}" if self.to_measure else ""
        return f"[{bar}] {self._done}/{total} jobs, {60 * pictures:.1f} pictures/min{left}{measured}"

    def server_lines(self) -> list[str]:
        servers = self.runner.servers
        lines = [self._line(server) for server in servers[:MOST_SERVERS]]
        return lines + [f"… and {len(servers) - MOST_SERVERS} more servers"] * (len(servers) > MOST_SERVERS)

    def _line(self, server: Server) -> str:
        line = f"{server.name}: {server.state}, {server.done} done"
        if server.state != UP:
            return f"{line} ({server.note})" if server.note else line
        for number, step in sorted(server.steps.items()):
            line += f", job {number}"
            if step is not None and step.maximum > 1:
                line += f" step {step.value}/{step.maximum}"
        return line

    def _rates(self) -> tuple[float, float]:
        """Jobs and images per second, averaged over recent jobs."""
        if not self._recent:
            return 0.0, 0.0
        full = len(self._recent) == self._recent.maxlen
        since = self._recent[0][0] if full else self._started
        seconds = max(time.monotonic() - since, 1e-3)
        return len(self._recent) / seconds, sum(pictures for _, pictures in self._recent) / seconds

    def _erase(self) -> None:
        if self._lines:
            self.stream.write(f"\033[{self._lines}A\033[J")
            self._lines = 0


def duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
