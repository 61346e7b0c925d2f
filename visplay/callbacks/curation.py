"""How the data set of an iteration is generated: the settings, and the questions asked and voted on, batch by batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from functools import partial
from itertools import groupby
from typing import Any, Literal, NamedTuple

from visplay.callbacks.gates import ConfidenceBand, Gate
from visplay.data.draws import Draws
from visplay.data.manifest import Shards
from visplay.modules.visplay import VisPlay
from visplay.modules.voting import Voting
from visplay.prompts import Template
from visplay.ranks import from_first, total
from visplay.types import Proposal, Question, UnlabeledImage, Vote


@dataclass(frozen=True)
class Curation:
    """How the data set of an iteration is generated.

    Args:
        images: Images asked about in each iteration, from a seeded permutation that advances.
        questions_per_image: Questions asked about each.
        low: Least confidence of a question that is kept (Eq. 9).
        high: Highest confidence of a question that is kept.
        gates: What keeps or rejects the questions of this band, one after the other; ``low: 0`` and ``high: 1`` leave
            the choice to them. Those that remember belong to one run.
        min_kept: Fewer kept questions than this are too few.
        on_too_few: What happens then: "continue" with what there is, "relax" the band until it has enough, or "stop"
            with an error. Without a single question every run stops.
        template: The Questioner's prompt in this stage; null takes its own.
        max_new_tokens: Most tokens of a question in this stage, no more than the context has; null takes the
            Questioner's own, as for the next two.
        top_p: Nucleus of sampling.
        top_k: Most probable tokens kept in sampling; 0 keeps all.
        voting: How the Reasoner votes in this stage; null takes what it does while it judges.
        images_per_batch: Images asked about in one batch.
    """

    images: int = 1000
    questions_per_image: int = 8
    low: float = 0.25
    high: float = 0.75
    gates: Sequence[Gate] = ()
    min_kept: int = 1
    on_too_few: Literal["continue", "relax", "stop"] = "continue"
    template: Template | None = None
    max_new_tokens: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    voting: Voting | None = None
    images_per_batch: int = 64

    def __post_init__(self) -> None:
        """Reject an empty band, an empty collection, or gates that cannot be told apart."""
        for gate in self.gates:
            if not is_dataclass(gate):
                raise ValueError(f"gates: {type(gate).__name__} must be a dataclass, whose arguments are its settings")
        names = [gate.name for gate in (ConfidenceBand(self.low, self.high), *self.gates)]
        if twice := sorted(name for name, count in Counter(names).items() if count > 1):
            raise ValueError(
                f"gates: names must differ, got {twice} more than once; low and high are a gate named {names[0]!r}"
            )
        if min(self.images, self.questions_per_image, self.images_per_batch, self.min_kept) < 1:
            raise ValueError(
                "curation: images, questions_per_image, images_per_batch and min_kept must be at least 1, got "
                f"{self.images}, {self.questions_per_image}, {self.images_per_batch} and {self.min_kept}"
            )
        if self.max_new_tokens is not None and self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: {self.max_new_tokens} must be at least 1, or null")


class AskedQuestion(NamedTuple):
    """A proposal without its image.

    Args:
        image: Key of the image.
        question: The question; None if it did not parse.
        vote: The vote on it; None if there is no question, or one too long for the context.
    """

    image: str
    question: Question | None
    vote: Vote | None


@dataclass
class Asked:
    """All that was asked in an iteration.

    Args:
        config: How.
        images: What was drawn from.
        questions: ``questions_per_image`` for each image, image by image.
        positions: Where in the order of the images each batch begins.
        graded: How many comparisons of answers were decided in which way.
        seconds: Of each stage.
    """

    config: Curation
    images: Draws
    questions: list[AskedQuestion] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    graded: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)

    def proposals(self, indices: Iterable[int]) -> Iterator[dict[int, Proposal]]:
        """Some of the questions with their images, which are drawn again.

        Args:
            indices: Ascending indices into ``questions``.

        Returns:
            Those of one batch after the other, by their indices.

        Raises:
            ValueError: The images are others now.
        """
        c = self.config
        per_batch = c.images_per_batch * c.questions_per_image
        for number, in_batch in groupby(indices, lambda index: index // per_batch):
            again = Draws(self.images.items, self.images.seed, self.positions[number], self.images.why_not)
            batch, proposals = _draw_batch(c, again, number), {}
            for index in in_batch:
                image, found = batch[index % per_batch // c.questions_per_image], self.questions[index]
                if image.key != found.image:
                    raise ValueError(f"images: {found.image!r} was asked about, and {image.key!r} is in its place now")
                proposals[index] = Proposal(image, found.question, found.vote)
            yield proposals


def ask(curation: Curation, module: VisPlay, images: Draws, shards: Shards) -> Asked:
    """Ask about images and have the questions voted on, those left out that are on the disk already.

    Args:
        curation: How.
        module: Asks and votes.
        images: Moves on by the images that were asked about.
        shards: Takes the text of each batch when it is done, from rank 0; no image outlasts its batch.
    """
    asked = Asked(curation, images)
    for number, start in enumerate(range(0, curation.images, curation.images_per_batch)):
        module.clock.note = f"{start}/{curation.images} images"
        asked.positions.append(images.position)
        facts = from_first(partial(shards.get, number)) or _ask_batch(curation, module, images, shards, number)
        images.position = facts["position"]
        asked.graded.update(facts["graded"])
        asked.seconds.update(facts["seconds"])
        asked.questions += from_first(partial(_read, shards, number))
    module.clock.note = ""
    return asked


def _ask_batch(c: Curation, module: VisPlay, images: Draws, shards: Shards, number: int) -> dict[str, Any]:
    most_tokens = c.max_new_tokens and min(c.max_new_tokens, module.questioner.vlm.context_tokens - 1)
    proposals = module.propose(
        _draw_batch(c, images, number),
        c.questions_per_image,
        module.stage_seed("curation", number * c.images_per_batch),
        c.template,
        c.voting,
        max_new_tokens=most_tokens,
        top_p=c.top_p,
        top_k=c.top_k,
    )
    graded, seconds = total(module.reasoner.grader.drain_outcomes()), module.clock.drain()
    facts = {"position": images.position, "graded": graded, "seconds": seconds}
    from_first(lambda: shards.write(number, map(_as_row, proposals), **facts))
    return facts


def _draw_batch(c: Curation, images: Draws, number: int) -> list[UnlabeledImage]:
    """The images of a batch, the last one of which may be smaller."""
    return images.draw(min(c.images_per_batch, c.images - number * c.images_per_batch))


def _as_row(proposal: Proposal) -> dict[str, Any]:
    question, vote = proposal.question, proposal.vote
    return {
        "image": proposal.image.key,
        "question": None if question is None else asdict(question),
        "vote": None if vote is None else asdict(vote),
    }


def _read(shards: Shards, number: int) -> list[AskedQuestion]:
    asked = []
    for row in shards.read(number):
        question, vote = row["question"], row["vote"]
        if vote is not None:
            vote = Vote(**vote | {"counts": tuple((name, count) for name, count in vote["counts"])})
        asked.append(AskedQuestion(row["image"], None if question is None else Question(**question), vote))
    return asked
