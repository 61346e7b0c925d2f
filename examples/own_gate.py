"""An admission gate of one's own: which of the questions that were voted on are learned from (docs/gates.md).

PYTHONPATH=. visplay fit --config tiny --self_play.curation.gates+=examples.own_gate.ShortAnswers
"""

from collections.abc import Sequence
from dataclasses import dataclass

from visplay.callbacks import Candidate, Gate


@dataclass(frozen=True)
class ShortAnswers(Gate):
    """Keeps questions whose silver answer is short: long ones seldom agree word by word. The reason is "long".

    Args:
        most_words: Words of a silver answer that is kept.
        name: What rejections are counted under.
    """

    most_words: int = 3
    name: str = "short_answers"

    def judge(self, candidates: Sequence[Candidate]) -> list[str | None]:
        """None keeps a question, a word rejects it."""
        lengths = [len((each.vote.answer or "").split()) for each in candidates]
        return [None if length <= self.most_words else "long" for length in lengths]
