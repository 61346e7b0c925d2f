"""Images, questions, votes and rewards to the loggers, one panel per completion."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from math import isnan
from typing import Any

from lightning import Callback, Trainer
from PIL import Image, ImageDraw, ImageFont

from visplay.callbacks.logging import log_histogram, log_images, log_table
from visplay.foreign_text import visible
from visplay.modules.training import GRPOModule
from visplay.types import Record, Vote

WIDTH, HEIGHT, MARGIN = 720, 880, 20
"""Pixels of a panel, which loggers show at about half its size."""
IMAGE_PIXELS = 320
TEXT, SMALL, TITLE = 30, 24, 44
"""Pixels of letters."""
INK, GREY, PALE, GREEN, RED = "#202124", "#5f6368", "#dadce0", "#188038", "#c5221f"
MOST_BARS = 5
SHOWN_CHARACTERS = 10_000
"""Of a text; more is cut off."""


class SampleLogger(Callback):
    """Shows what was asked, said and rewarded, see ``log_images``.

    Args:
        every_n_steps: Steps between two panels.
        groups: Prompts shown; of each, the completions with the lowest and the highest reward.
        images: Whether images are shown; without them texts still are.
        texts: Whether questions, completions and answers are shown; without them, images with their rewards still are.
            With neither, nothing of what a run reads or writes is in its logs, but figures.
    """

    def __init__(self, every_n_steps: int = 10, groups: int = 3, images: bool = True, texts: bool = True) -> None:
        if every_n_steps < 1 or groups < 1:
            raise ValueError(f"every_n_steps={every_n_steps} and groups={groups} must be at least 1")
        self.every_n_steps = every_n_steps
        self.groups = groups
        self.images = images
        self.texts = texts

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: GRPOModule, outputs: Any, batch: Sequence, batch_idx: int
    ) -> None:
        """Log panels and the histogram of confidence every so many steps, the first one included."""
        if pl_module.result is None or (pl_module.phase.step - 1) % self.every_n_steps or not trainer.is_global_zero:
            return
        judgement, advantages = pl_module.result.judgement, pl_module.result.advantages
        step, name = pl_module.phase.role_step, pl_module.role.name
        chosen = _extremes(judgement.records, len(judgement.rewards), self.groups)
        learned_with = [None] * len(judgement.records) if advantages is None else advantages.flatten().tolist()
        if self.images:
            which = ("lowest", "highest")
            panels = {
                f"group-{number // 2 + 1}-{which[number % 2]}-reward": draw_panel(
                    judgement.records[index], self.texts, learned_with[index]
                )
                for number, index in enumerate(chosen)
            }
            log_images(trainer, f"{name}/samples", panels, step)
        if self.texts:
            columns = ("reward", "question", "completion", "votes")
            log_table(trainer, f"{name}/samples", columns, [_cells(judgement.records[index]) for index in chosen], step)
        confidences = [r.vote.confidence for r in judgement.records if r.vote is not None and r.vote.answer is not None]
        log_histogram(trainer, f"{name}/confidence_histogram", confidences, step)


def draw_panel(record: Record, texts: bool = True, advantage: float | None = None) -> Image.Image:
    """Draw an image with what was asked, said, voted and rewarded; without texts, the image and the reward alone.

    Args:
        record: The completion.
        texts: Whether texts are shown.
        advantage: What was learned with; None, or not a number, where it was left out of the update.
    """
    panel = Image.new("RGB", (WIDTH, HEIGHT), "white")
    _draw_image(panel, record.image)
    page = _Page(panel)
    page.column(2 * MARGIN + IMAGE_PIXELS)
    page.write("reward", SMALL, GREY)
    page.write(f"{record.reward:+.3f}", TITLE, GREEN if record.reward > 0 else RED if record.reward < 0 else INK)
    for part, value in record.parts.items():
        page.write(f"{part} {value:.3f}", SMALL, GREY)
    if advantage is not None and not isnan(advantage):
        page.write(f"advantage {advantage:+.3f}", SMALL, GREY)
    vote = record.vote
    if texts and record.gold is not None:
        page.write("true answer", SMALL, GREY, space=10)
        page.write(record.gold, TEXT, most=2)
    if texts and vote is not None:
        page.write("silver answer", SMALL, GREY, space=10)
        page.write("none: no answer parsed" if vote.answer is None else vote.answer, TEXT, most=2)
    if vote is not None:
        page.write(f"confidence {vote.confidence:.2f}", SMALL, GREY)
    page.column(MARGIN, below=max(page.top, MARGIN + IMAGE_PIXELS) + MARGIN)
    if texts:
        page.write(record.problem or "(the completion is no question)", TEXT, most=3)
        if vote is not None:
            page.write(f"votes: {vote.parsed} of {vote.total} answers parsed", SMALL, GREY, space=14)
            page.bars(vote)
        page.write("completion", SMALL, GREY, space=14)
        page.write(record.text, SMALL, most=99)
    return panel


def _draw_image(panel: Image.Image, image: Image.Image | None) -> None:
    """Put an image into its square at the top on the left, in the middle of it."""
    if image is None:
        return
    scale = IMAGE_PIXELS / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    resized = image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    panel.paste(resized, (MARGIN + (IMAGE_PIXELS - size[0]) // 2, MARGIN + (IMAGE_PIXELS - size[1]) // 2))


class _Page:
    """Writes into a panel from the top down, and nothing below its edge."""

    def __init__(self, panel: Image.Image) -> None:
        self.draw = ImageDraw.Draw(panel)
        self.left, self.top = MARGIN, MARGIN

    def column(self, left: int, below: int = MARGIN) -> None:
        """Go on at another place."""
        self.left, self.top = left, below

    def write(self, text: str, pixels: int, ink: str = INK, most: int = 1, space: int = 0) -> None:
        """Write a text in as many lines as it takes, ``most`` at most, as long as there is room."""
        font, line = ImageFont.load_default(size=pixels), round(1.25 * pixels)
        self.top += space
        room = (HEIGHT - MARGIN - self.top) // line
        for shown in wrap(text, font, WIDTH - MARGIN - self.left, min(most, room)):
            self.draw.text((self.left, self.top), shown, fill=ink, font=font)
            self.top += line

    def bars(self, vote: Vote) -> None:
        """Draw how many answers said what, the silver answer first."""
        font, height, names = ImageFont.load_default(size=SMALL), round(1.4 * SMALL), 250
        longest = WIDTH - 2 * MARGIN - names - 60
        shown = vote.counts if len(vote.counts) <= MOST_BARS else vote.counts[: MOST_BARS - 1]
        others = sum(count for _, count in vote.counts[len(shown) :])
        for name, count in (*shown, *([("(others)", others)] if others else [])):
            if self.top + height > HEIGHT - MARGIN:
                break
            (label,) = wrap(name, font, names - 10, 1) or [""]
            self.draw.text((self.left, self.top), label, fill=INK, font=font)
            bar = (self.left + names, self.top + 4)
            end = (bar[0] + max(2, round(longest * count / max(vote.total, 1))), self.top + height - 6)
            self.draw.rectangle((bar, end), fill=GREEN if name == vote.answer else PALE)
            self.draw.text((end[0] + 10, self.top), str(count), fill=INK, font=font)
            self.top += height


def wrap(text: str, font: Any, pixels: int, most: int) -> list[str]:
    """Lines of a text that fit a width, the last with an ellipsis where there is more; control characters are visible.

    Args:
        text: The text; what is behind 10,000 characters is not looked at.
        font: Measures it.
        pixels: The width.
        most: How many lines.
    """
    rest, lines = visible(" ".join(text[:SHOWN_CHARACTERS].split())), list[str]()
    while rest and len(lines) < most:
        fitting = max(1, _count_fitting(rest, font, pixels))
        space = rest.rfind(" ", 1, fitting + 1)
        end = fitting if fitting == len(rest) or space < 0 else space
        if end < len(rest) and len(lines) == most - 1:
            end = _count_fitting(rest, font, pixels - font.getlength("…"))
            lines.append(f"{rest[:end].rstrip()}…")
        else:
            lines.append(rest[:end])
        rest = rest[end:].lstrip()
    return lines


def _count_fitting(text: str, font: Any, pixels: float) -> int:
    """How many of a text's first characters fit a width."""
    return bisect_right(range(1, min(len(text), 200) + 1), pixels, key=lambda count: font.getlength(text[:count]))


def _extremes(records: Sequence[Record], prompts: int, groups: int) -> list[int]:
    """Where the worst and the best completion of each of the first groups are."""
    size = len(records) // prompts
    starts = range(0, min(groups, prompts) * size, size)
    ordered = (sorted(range(start, start + size), key=lambda index: records[index].reward) for start in starts)
    return [index for group in ordered for index in (group[0], group[-1])]


def _cells(record: Record) -> list[str]:
    """The record in a table."""
    votes = "" if record.vote is None else ", ".join(f"{name} ×{count}" for name, count in record.vote.counts)
    texts = (f"{record.reward:+.3f}", record.problem or "", record.text, votes)
    return [text[:SHOWN_CHARACTERS] for text in texts]
