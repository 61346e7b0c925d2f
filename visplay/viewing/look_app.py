"""The questions of a run in the terminal, paged and filtered."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Any, ClassVar

from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, VerticalScroll
from textual.widgets import DataTable, Footer, Input, Static

from visplay.foreign_text import visible
from visplay.viewing.half_blocks import half_blocks
from visplay.viewing.run_reader import RunReader, mark_changed, mark_disagreeing

_ALL = "all"


class LookApp(App[None]):
    """A table of questions, and what is known of the one under the cursor.

    Args:
        run: The run.
        iterations: Whose questions; None is all.
    """

    CSS = """
    #questions { width: 1fr; }
    #detail { width: 46; padding: 0 1; border-left: solid $primary; }
    #found { height: 1; padding: 0 1; }
    #search { display: none; }
    #search.shown { display: block; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("slash", "search", "Search", key_display="/"),
        Binding("i", "next('iteration')", "Iteration"),
        Binding("v", "next('verdict')", "Verdict"),
        Binding("t", "next('kind')", "Type"),
        Binding("c", "only('changed')", "Changed"),
        Binding("d", "only('disagrees')", "Silver ≠ own"),
        Binding("escape", "clear", "Clear"),
        Binding("q", "quit", "Quit"),
    ]

    def __init__(self, run: RunReader, iterations: Sequence[int] | None = None) -> None:
        super().__init__()
        self.title = run.name
        self.run_reader = run
        self.rows = list(run.asked(iterations))
        mark_changed(self.rows)
        mark_disagreeing(self.rows)
        self.choices: dict[str, list[str]] = {
            "iteration": [_ALL, *dict.fromkeys(str(row["iteration"]) for row in self.rows)],
            "verdict": [_ALL, "kept", *sorted({row["rejected"] for row in self.rows if row["rejected"]})],
            "kind": [_ALL, *sorted({row["kind"] for row in self.rows if row["kind"]})],
        }
        self.chosen = dict.fromkeys(self.choices, _ALL)
        self.wanted = {"changed": False, "disagrees": False}
        self.words = ""
        self.found: list[dict[str, Any]] = []
        self._hashes = run.thumbnails.hashes()

    def compose(self) -> ComposeResult:
        """The widgets."""
        yield Static(id="found", markup=False)
        yield Input(placeholder="words of the question or an answer", id="search")
        with Horizontal():
            yield DataTable(id="questions", cursor_type="row", zebra_stripes=True)
            with VerticalScroll(id="detail"):
                yield Static(id="about", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Show all questions."""
        self.query_one(DataTable).add_columns("", "it", "conf", "question")
        self._filter()
        self.query_one(DataTable).focus()

    def action_search(self) -> None:
        """Have words typed that must be there."""
        search = self.query_one("#search", Input)
        search.add_class("shown")
        search.focus()

    def action_next(self, name: str) -> None:
        """Go on to the next value of a filter."""
        values = self.choices[name]
        self.chosen[name] = values[(values.index(self.chosen[name]) + 1) % len(values)]
        self._filter()

    def action_only(self, name: str) -> None:
        """Show only questions whose verdict changed, or whose silver answer is not the Questioner's, or all again."""
        self.wanted[name] = not self.wanted[name]
        self._filter()

    def action_clear(self) -> None:
        """Show all again."""
        search = self.query_one("#search", Input)
        search.remove_class("shown")
        search.value = self.words = ""
        self.chosen = dict.fromkeys(self.choices, _ALL)
        self.wanted = dict.fromkeys(self.wanted, False)
        self._filter()
        self.query_one(DataTable).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter by the words."""
        self.words = event.value.lower()
        self._filter()

    def on_input_submitted(self) -> None:
        """Go back to the table."""
        self.query_one(DataTable).focus()

    def on_data_table_row_highlighted(self, event: DataTable.RowHighlighted) -> None:
        """Show what is known of the question under the cursor."""
        if event.cursor_row < len(self.found):
            self.query_one("#about", Static).update(self._describe(self.found[event.cursor_row]))

    def _filter(self) -> None:
        self.found = [row for row in self.rows if self._fits(row)]
        table = self.query_one(DataTable)
        table.clear()
        table.add_rows(map(_line, self.found))
        filters = [f"{name}: {value}" for name, value in self.chosen.items() if value != _ALL]
        filters += [name for name, wanted in self.wanted.items() if wanted]
        filters += [f"words: {self.words}"] if self.words else []
        self.query_one("#found", Static).update(
            visible(" · ".join([f"{len(self.found)} of {len(self.rows)} questions", *filters]))
        )
        if not self.found:
            self.query_one("#about", Static).update("no question fits")

    def _fits(self, row: dict[str, Any]) -> bool:
        values = {"iteration": str(row["iteration"]), "verdict": row["rejected"] or "kept", "kind": row["kind"]}
        return (
            all(self.chosen[name] in (_ALL, value) for name, value in values.items())
            and all(row[name] for name, wanted in self.wanted.items() if wanted)
            and any(self.words in (row[name] or "").lower() for name in ("question", "silver", "own", "image"))
        )

    def _describe(self, row: dict[str, Any]) -> RenderableType:
        lines = [Text(visible(row["question"] or "(no question: the completion did not parse)"), "bold"), Text()]
        lines += vote_bars(row["votes"])
        lines.append(Text(visible(f"silver answer: {row['silver']}")))
        if row["own"] is not None:
            lines.append(Text(visible(f"the Questioner's own: {row['own']}"), "yellow" if row["disagrees"] else ""))
        for name, label in (("confidence", "confidence"), ("accuracy", "right, estimated"), ("blind", "without image")):
            if row[name] is not None:
                value = f"{row[name]:.2f}" if isinstance(row[name], float) else str(row[name])
                lines.append(Text(visible(f"{label}: {value}")))
        kept = row["rejected"] is None
        lines.append(Text("kept" if kept else f"rejected: {row['rejected']}", "green" if kept else "red"))
        if row["view"] is not None:
            lines += [Text(), Text("second view", "dim"), *vote_bars(row["view"])]
        lines += [Text(), Text(visible(f"{row['image']}  iteration {row['iteration']}  {row['kind']}"), "dim")]
        webp = self.run_reader.thumbnails.read([self._hashes.get(row["image"], "")])
        pictures = [half_blocks(Image.open(BytesIO(each)), 38, 19) for each in webp.values()]
        return Group(*pictures, *lines)


def vote_bars(counts: Sequence[Sequence[Any]], columns: int = 20) -> list[Text]:
    """A bar for each answer of a vote; one of all votes has so many columns."""
    total = sum(count for _, count in counts) or 1
    return [
        Text.assemble(
            (f"{visible(str(answer))[:16]:16} ", ""),
            ("━" * max(1, round(columns * count / total)), "bold cyan" if n == 0 else "cyan"),
            (f" {count}", "dim"),
        )
        for n, (answer, count) in enumerate(counts)
    ]


def _line(row: dict[str, Any]) -> tuple[Text, ...]:
    confidence = "" if row["confidence"] is None else f"{row['confidence']:.2f}"
    mark = Text("✓", "green") if row["rejected"] is None else Text("✗", "red")
    question = visible(row["question"] or "(did not parse)")
    return mark, Text(str(row["iteration"])), Text(confidence), Text(question[:200])
