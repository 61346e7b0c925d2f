import asyncio

import pytest
from PIL import Image
from textual.widgets import DataTable, Static

from visplay.commands import look
from visplay.viewing.half_blocks import half_blocks
from visplay.viewing.look_app import LookApp, vote_bars
from visplay.viewing.run_reader import RunReader
from written_run import HOSTILE, write_run


def _press(tmp_path, *keys, text="How many?"):
    """What the line above the table and the detail say after some keys, and how many rows there are."""

    async def press():
        app = LookApp(RunReader(write_run(tmp_path, text)))
        async with app.run_test(size=(120, 60)) as pilot:
            await pilot.press(*keys)
            await pilot.pause()
            found = str(app.query_one("#found", Static).render())
            screen = app.export_screenshot()
            return found, app.query_one(DataTable).row_count, screen.replace("&#160;", " ")

    return asyncio.run(press())


def test_all_questions_and_the_first_one_in_detail(tmp_path):
    found, rows, screen = _press(tmp_path)
    assert (found, rows) == ("4 of 4 questions", 4)
    assert "silver answer: 3" in screen
    assert "confidence: 0.75" in screen
    assert screen.count("▀") == 38 * 13


@pytest.mark.parametrize(
    ("keys", "found"),
    [
        ("i", "2 of 4 questions · iteration: 1"),
        ("ii", "2 of 4 questions · iteration: 2"),
        ("iii", "4 of 4 questions"),
        ("v", "2 of 4 questions · verdict: kept"),
        ("vv", "2 of 4 questions · verdict: margin/close"),
        ("d", "2 of 4 questions · disagrees"),
        ("c", "4 of 4 questions · changed"),
        (["i", "v", "escape"], "4 of 4 questions"),
        (["slash", *"many", "enter"], "2 of 4 questions · words: many"),
        (["slash", *"zzz"], "0 of 4 questions · words: zzz"),
    ],
)
def test_filters(tmp_path, keys, found):
    assert _press(tmp_path, *keys)[0] == found


def test_hostile_text_is_text(tmp_path):
    screen = _press(tmp_path, "down", text=HOSTILE)[2]
    assert "\x1b" not in screen
    assert "\u202e" not in screen
    assert "[31mred" in screen


def test_half_blocks_have_both_pixels():
    image = Image.new("RGB", (2, 2), "red")
    image.putpixel((1, 1), (0, 0, 255))
    text = half_blocks(image, 2, 1)
    styles = [span.style for span in text.spans]
    assert text.plain == "▀▀"
    assert [(style.color.triplet.rgb, style.bgcolor.triplet.rgb) for style in styles] == [
        ("rgb(255,0,0)", "rgb(255,0,0)"),
        ("rgb(255,0,0)", "rgb(0,0,255)"),
    ]
    assert half_blocks(Image.new("RGB", (400, 100)), 40, 20).plain.count("\n") == 4


def test_bars_are_as_long_as_the_votes():
    assert [bar.plain for bar in vote_bars([["3", 3], ["a\x1bb", 1]])] == [
        "3                ━━━━━━━━━━━━━━━ 3",
        "a\\x1bb           ━━━━━ 1",
    ]


def test_a_run_without_questions_is_one_line(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(SystemExit, match="error: run: '.*' has no questions of a data set yet"):
        look.run([str(tmp_path)])
    with pytest.raises(SystemExit, match=r"error: run: '.*nowhere' is not the directory of a run"):
        look.run([str(tmp_path / "nowhere")])
