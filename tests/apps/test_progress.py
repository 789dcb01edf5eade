"""Progress of a few jobs in a terminal and in a log."""

from types import SimpleNamespace

from facecdm.apps.progress import ProgressLine


class Terminal:
    def __init__(self, tty: bool):
        self.tty, self.text = tty, ""

    def isatty(self):
        return self.tty

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_progress_line_is_redrawn_only_in_a_terminal():
    for tty in (True, False):
        stream = Terminal(tty)
        line = ProgressLine(2, stream)
        line.begin("astronaut")
        line.step(SimpleNamespace(value=5, maximum=20))
        line.end("identity 0.50")
        assert "1/2  astronaut: identity 0.50\n" in stream.text
        assert ("step 5/20" in stream.text) == ("\r" in stream.text) == tty


def test_a_warning_is_written_once_on_a_line_of_its_own():
    stream = Terminal(False)
    line = ProgressLine(2, stream)
    for _ in range(2):
        line.note("this face is\x1bunlike those")
    assert stream.text == "  warning: this face is unlike those\n"
