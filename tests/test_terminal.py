import io
import logging

import pytest
from rich.table import Table
from rich.text import Text

from visplay import terminal
from visplay.__main__ import MODULES, main
from visplay.terminal import LineHandler, Terminal

HOSTILE = "[red]a[/blue] \x1b[2J\u202e :smile: [link=http://x]y[/link]"
SHOWN = r"[red]a[/blue] \x1b[2J\u202e :smile: [link=http://x]y[/link]"


@pytest.fixture
def written():
    return io.StringIO()


@pytest.mark.parametrize("force", [True, False])
@pytest.mark.parametrize("kind", [str, Text])
def test_text_is_text(written, kind, force):
    Terminal(file=written, width=200, force_terminal=force, color_system=None).print(kind(HOSTILE))
    assert SHOWN in written.getvalue()


@pytest.mark.parametrize("kind", [str, Text])
def test_text_in_a_table_is_text(written, kind):
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(kind(HOSTILE))
    Terminal(file=written, width=200, force_terminal=True, color_system=None).print(table)
    assert "\x1b" not in written.getvalue()
    assert "\u202e" not in written.getvalue()
    assert written.getvalue().count("[red]a[/blue]") == 3


def test_a_message_of_the_log_is_one_line(written, monkeypatch):
    monkeypatch.setattr(terminal, "CONSOLE", Terminal(file=written, width=40, force_terminal=True))
    try:
        raise ValueError("why\x1b[1m")
    except ValueError:
        told = logging.LogRecord("visplay", 20, "", 0, "skipped %s", (f"a\n2026-11-28 {HOSTILE}",), None)
        LineHandler().emit(told)
    (line,) = written.getvalue().splitlines()
    assert line.endswith(f"skipped a\\n2026-11-28 {SHOWN}")


@pytest.mark.parametrize("command", MODULES)
def test_an_error_that_ends_a_command_quotes_no_control_character(command, monkeypatch, tmp_path):
    def run(arguments):
        raise SystemExit("error: \x1b[2J\nmore")

    monkeypatch.setattr(f"{MODULES[command]}.run", run)
    with pytest.raises(SystemExit, match=r"^error: \\x1b\[2J\nmore$"):
        main([command])


def test_nor_does_one_of_the_parser(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["visplay", "fit", "--trainer.max_epochs=\x1b[2J"])
    with pytest.raises(SystemExit):
        main()
    error = capsys.readouterr().err
    assert "max_epochs" in error
    assert "\x1b" not in error
