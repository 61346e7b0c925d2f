import pytest

from visplay.viewing.report_data import describe_run
from visplay.viewing.report_page import render_report
from visplay.viewing.run_reader import RunReader
from written_run import HOSTILE, write_run


def _open(browser, directory, text="How many?", questions=2, **settings):
    described = describe_run(RunReader(write_run(directory / "run", text, questions=questions)))
    (directory / "report.html").write_text(render_report(described))
    page = browser(**settings)
    page.errors = []
    page.on("pageerror", lambda error: page.errors.append(str(error)))
    page.on("console", lambda message: page.errors.append(message.text))
    page.goto((directory / "report.html").as_uri())
    return page


@pytest.fixture
def page(browser, tmp_path):
    return _open(browser, tmp_path)


def _questions(page):
    return page.locator("#cards .question").all_text_contents()


def test_every_part_is_there(page):
    assert page.locator("#story").text_content().startswith("4 phases of 2 iterations took 2 min.")
    assert page.locator("#charts h3").all_text_contents() == [
        "Scores by iteration (0 is the base)",
        "Confidence, and what silver answers are worth",
        "Reward of each step",
    ]
    assert page.locator("#charts path").count() == 7  # 1, 4 and 2 lines
    assert _questions(page) == ["What is it?", "How many?"] * 2
    assert page.locator("#cards img").count() == 4
    assert page.locator("#phases .row").count() == 4
    assert page.locator("#health li").count() == 4
    assert page.locator("#settings td").all_text_contents() == [
        *("self_play.iterations", "2", "3"),
        *("model.vlm.path", "tiny", ""),
    ]
    assert page.locator("#answers tr").count() == 2
    page.locator("#groups summary").click()
    assert page.locator("#groups tbody tr").first.locator("td").all_text_contents() == [
        "How many?",
        "1",
        "agreement 1",
        "0.7",
    ]
    assert page.errors == []


def test_filters(page):
    def choose(**values):
        page.locator("#clear").click()
        for name, value in values.items():
            if value is True:
                page.locator(f"#{name}").check()
            elif name in ("search", "low", "high"):
                page.locator(f"#{name}").fill(value)
            else:
                page.locator(f"#{name}").select_option(value)
        return page.locator("#cards .card").count()

    assert choose(iteration="1") == 2
    assert choose(verdict="kept") == 2
    assert choose(verdict="margin/close", iteration="2") == 1
    assert choose(kind="numerical") == 4
    assert choose(low="0.8") == 2
    assert choose(high="0.8") == 2
    assert choose(changed=True) == 4
    assert choose(disagrees=True) == 2
    assert choose(search="HOW MANY") == 2
    assert choose(search="nothing like it") == 0
    assert page.locator("#count").text_content() == "0 of 4 questions"
    assert choose() == 4


def test_more_questions_come_when_asked_for(browser, tmp_path):
    page = _open(browser, tmp_path, questions=40)
    assert page.locator("#cards .card").count() == 60
    page.locator("#more").click()
    assert page.locator("#cards .card").count() == 80
    assert not page.locator("#more").is_visible()


def test_all_questions_about_an_image(page):
    page.locator("#cards .picture").first.click()
    assert page.locator("dialog tbody tr").count() == 2
    assert page.locator("dialog").text_content().startswith("Image a.png2 questions in iterations 1, 2")
    page.keyboard.press("Escape")
    assert not page.locator("dialog").is_visible()


def test_the_keyboard_is_enough(page):
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.locator(".card.selected .question").all_text_contents() == ["What is it?"]
    page.keyboard.press("Enter")
    assert page.locator("dialog").is_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("many")
    assert _questions(page) == ["How many?"] * 2


@pytest.mark.parametrize(("scheme", "color"), [("light", "rgb(255, 255, 255)"), ("dark", "rgb(20, 23, 28)")])
def test_light_and_dark(browser, tmp_path, scheme, color):
    page = _open(browser, tmp_path, color_scheme=scheme)
    background = "getComputedStyle(document.body).backgroundColor"
    assert page.evaluate(background) == color
    page.locator("#theme").click()
    assert page.evaluate(background) != color


def test_nothing_is_wider_than_a_narrow_screen(browser, tmp_path):
    page = _open(browser, tmp_path, "x" * 500, viewport={"width": 380, "height": 700})
    assert page.evaluate("document.documentElement.scrollWidth") <= 380


def test_hostile_text_is_shown_as_text(browser, tmp_path):
    page = _open(browser, tmp_path, HOSTILE + "y" * 10_000_000)
    assert page.title().endswith("/run: report")
    shown = page.locator("#cards .question").nth(1).text_content()
    assert shown.startswith("</script><script>document.title='taken'</script><img src=x")
    assert "\\x1b[31mred" in shown
    assert page.locator("img[src='x']").count() == 0
    page.locator("#cards .picture").nth(1).click()
    assert page.title().endswith("report")
    assert page.errors == []
