"""The data card: what is counted, and metadata that the Hub reads."""

from huggingface_hub import DatasetCard

from visplay.callbacks.curation.curation import AskedQuestion
from visplay.callbacks.curation.gates import Candidate
from visplay.data_engine.card import Tally, data_card
from visplay.types import Question, Vote

RUN = {
    "visplay_version": "1.0",
    "model": "base|x",
    "questioner_weights": "q",
    "reasoner_weights": "r",
    "seed": 7,
    "sampling": "{}",
    "prompts": '{"reasoner": {"user": "```\\n# {question}"}}',
}
SETTINGS = {"source": "my <images>", "gates": ["confidence_band"], "band": (0.25, 0.75), "votes": 10}


def _counted():
    """Three questions about one image: kept, too sure, and unparsed."""
    question, votes = Question("How many?", "numerical"), [Vote("2", c, (("2", 6),), 8, 8) for c in (0.75, 1.0)]
    asked = [*(AskedQuestion("a", question, vote) for vote in votes), AskedQuestion("a", None, None)]
    found = [
        Candidate("a", question, votes[0], views_agree=True, accuracy=0.5, blind=False),
        Candidate("a", question, votes[1], views_agree=False, accuracy=0.9, blind=True),
        "unparsed_question",
    ]
    tally = Tally()
    tally.add(asked, found, [None, "confidence_band/above", "unparsed_question"])
    return tally


def test_counts_by_hand():
    tally = _counted()
    assert (tally.images, tally.asked, tally.voted, tally.kept) == (1, 3, 2, 1)
    assert (tally.votes, tally.saved(10)) == (16, 4)
    assert (tally.needs_image, tally.answered_blind, tally.agreed, tally.differed) == (1, 1, 1, 1)
    assert tally.confidences == [0, 0, 0, 0, 0, 0, 0, 1, 0, 1]
    assert tally.kept_confidences == [0, 0, 0, 0, 0, 0, 0, 1, 0, 0]
    assert (tally.kinds, tally.rejected) == (
        {"numerical": 1},
        {"confidence_band/above": 1, "unparsed_question": 1},
    )
    assert tally.accuracy == (0.5, 1)


def test_the_card():
    text = data_card(_counted(), RUN, duplicates=3, skipped=True, embedded=False, **SETTINGS)
    card = DatasetCard(text)
    assert card.data.configs == [{"config_name": "default", "data_files": "data/*.parquet"}]
    assert card.data.size_categories == ["n<1K"]
    assert card.data.task_categories == ["visual-question-answering"]
    for line in (
        "# Questions about my \\<images\\>",
        "| images that look like one before them | 3, left out (duplicates.json) |",
        "| answers sampled | 16 of 20 |",
        "| a second view agrees with | 1 of 2 |",
        "| kept silver answers right, estimated | 0.500 |",
        "| silver answers not given without the image | 1 of 2 |",
        "| 0.7–0.8 | 1 | 1 | ██████████████████████████████ |",
        "| 0.9–1.0 | 1 | 0 | ██████████████████████████████ |",
        "| numerical | 1 |",
        "- model: base\\|x",
    ):
        assert line in text.splitlines()
    assert text.count("```") == 2, "a prompt does not end its block"
    assert "It is not a label" in text


def test_what_was_not_asked_is_not_there():
    text = data_card(Tally(), RUN, duplicates=None, skipped=False, embedded=True, **SETTINGS)
    assert "| images that look like one before them | not looked for |" in text
    for absent in ("second view", "estimated |", "without the image |"):
        assert absent not in text
