"""What a person sees who opens TensorBoard on a finished run."""

import sys
from pathlib import Path

import pytest

from examples.screenshots import SHOTS, take, tensorboard, write_pages
from visplay.cli import run

ROOT = Path(__file__).parents[2]
SMALL = [
    *("--data.n_images=20", "--data.heldout_questions=16", "--data.heldout_votes=2", "--self_play.iterations=1"),
    *(f"--model.{role}.grpo={{steps: 1, prompts_per_step: 3}}" for role in ("questioner", "reasoner")),
    "--self_play.curation={images: 8, questions_per_image: 2, gates: [], second_view: null}",
    "--dashboard.references={heldout: {true labels: 0.75}}",
]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a small run."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", ["visplay"])
        run(["fit", "--config=configs/tiny.yaml", f"--trainer.default_root_dir={root}", *SMALL])
    write_pages(root / "tiny" / "version_0")
    return root / "tiny" / "version_0"


@pytest.fixture(scope="module")
def board(finished):
    with tensorboard(finished) as address:
        yield address


@pytest.fixture
def page(browser):
    page = browser(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(120_000)
    yield page
    page.context.close()


def test_custom_scalars_tell_the_story(page, board):
    page.goto(f"{board}#custom_scalars")
    for title in (
        "Accuracy by iteration (0 is the base)",
        "heldout: greedy, sampled, majority",
        "Silver answers: confidence and accuracy",
        "Questions rejected, by reason",
        "Reward of each role",
        "Questions: difficulty and redundancy",
        "KL from the reference, nats per token",
    ):
        page.get_by_text(title, exact=True).wait_for()
    for tag in (
        *("val/heldout/pass@1", "val/heldout/reference/true labels", "curation/mean_confidence"),
        *("questioner/reward", "reasoner/kl"),
    ):
        page.locator(".match-list-entry", has_text=tag).first.wait_for(state="attached")


def test_panels_are_images_of_their_own(page, board):
    page.goto(f"{board}#images")
    page.get_by_text("questioner/samples/group-1-highest-reward").wait_for()
    image = page.locator("tf-image-loader img").first
    image.wait_for()
    assert image.evaluate("(image) => image.decode().then(() => [image.naturalWidth, image.naturalHeight])") == [
        720,
        880,
    ]


def test_settings_and_scores_are_in_the_table_of_hparams(page, board):
    page.goto(f"{board}#hparams")
    page.get_by_text("model.questioner.grpo.steps", exact=True).first.wait_for()
    page.get_by_text("val/heldout/rule_accuracy").first.wait_for()
    assert page.get_by_text("dashboard.references").count() == 0


@pytest.mark.parametrize("shot", SHOTS, ids=lambda shot: shot.name)
def test_pictures_for_the_documents(browser, finished, board, shot):
    picture = take(shot, browser, finished, board)
    assert picture.startswith(b"\x89PNG")
