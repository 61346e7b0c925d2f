"""How the data set of an iteration is generated: the settings, and the questions asked and voted on, batch by batch."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any, Literal, NamedTuple

from visplay.callbacks.curation.gates import ConfidenceBand, Gate, describe_gate
from visplay.data.draws import Draws
from visplay.data.manifest import Shards
from visplay.modules.second_view import SecondView, VoteOn
from visplay.modules.visplay import VisPlay
from visplay.modules.voting import Voting, VotingRounds
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
        second_view: How questions are voted on a second time, for a label that both votes support, for gates that need
            it, and for an estimate of how many silver answers are right; null does not.
        votes_per_round: Answers sampled at a time in the first vote on a question. It ends when those left can change
            neither the silver answer nor whether the question is kept (``visplay.functional.is_settled``), and its
            confidence is of the answers taken. Null samples all of them.
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
    second_view: SecondView | None = None
    votes_per_round: int | None = None
    images_per_batch: int = 64

    def __post_init__(self) -> None:
        """Reject an empty band, an empty collection, or gates that cannot be told apart."""
        for gate in self.gates:
            if not is_dataclass(gate):
                raise ValueError(f"gates: {type(gate).__name__} must be a dataclass, whose arguments are its settings")
        if self.second_view is None and "view" in self.needs:
            needing = [gate.name for gate in self.gates if "view" in gate.needs]
            raise ValueError(f"second_view: the gates {needing} judge by a second vote on each question, got null")
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
        if self.votes_per_round is not None:
            self._check_rounds(self.votes_per_round)

    def _check_rounds(self, size: int) -> None:
        """Reject rounds where more follows from a vote than its answer and the side of the band."""
        if size < 1:
            raise ValueError(f"votes_per_round: {size} must be at least 1, or null")
        readers = [f"the gate {gate.name}" for gate in self.gates if gate.reads_votes]
        if self.on_too_few == "relax":
            readers.append("on_too_few: relax")
        if self.second_view is not None and self.second_view.label == "harmonic":
            readers.append("second_view.label: harmonic")
        if readers:
            raise ValueError(f"votes_per_round: all votes count for {', '.join(readers)}; give null, got {size}")

    @property
    def needs(self) -> set[str]:
        """What its gates must know of a question besides the vote."""
        return {need for gate in self.gates for need in gate.needs}


class AskedQuestion(NamedTuple):
    """A proposal without its image.

    Args:
        image: Key of the image.
        question: The question; None if it did not parse.
        vote: The vote on it; None if there is no question, or one too long for the context.
        view: The vote on another view of it; None where none was taken.
        blind: What the Reasoner answers without the image; None where it was not asked, or its answer did not parse.
    """

    image: str
    question: Question | None
    vote: Vote | None
    view: Vote | None = None
    blind: str | None = None


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
        tokens: Of each stage, as statistics.
    """

    config: Curation
    images: Draws
    questions: list[AskedQuestion] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    graded: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)

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
                proposals[index] = Proposal(image, *found[1:])
            yield proposals


def ask(
    curation: Curation,
    module: VisPlay,
    images: Draws,
    shards: Shards,
    on_images: Callable[[Sequence[UnlabeledImage]], None] | None = None,
) -> Asked:
    """Ask about images and have the questions voted on, those left out that are on the disk already.

    Args:
        curation: How.
        module: Asks and votes.
        images: Moves on by the images that were asked about.
        shards: Takes the text of each batch when it is done, from rank 0; no image outlasts its batch.
        on_images: Told of the images of each batch that is asked about, on rank 0.
    """
    asked = Asked(curation, images)
    for batch in ask_in_batches(curation, module, images, shards, on_images):
        asked.positions.append(batch.position)
        asked.graded.update(batch.facts["graded"])
        asked.seconds.update(batch.facts["seconds"])
        asked.tokens.update(batch.facts.get("tokens", {}))  # older shards have none
        asked.questions += batch.questions
    return asked


class AskedBatch(NamedTuple):
    """What was asked about the images of one batch.

    Args:
        number: Of the batch, from 0.
        position: Where in the order of the images it begins.
        questions: ``questions_per_image`` for each image, image by image.
        facts: What was written with its shard: "position" behind it, "graded", "seconds" and "tokens".
    """

    number: int
    position: int
    questions: list[AskedQuestion]
    facts: dict[str, Any]


def ask_in_batches(
    curation: Curation,
    module: VisPlay,
    images: Draws,
    shards: Shards,
    on_images: Callable[[Sequence[UnlabeledImage]], None] | None = None,
) -> Iterator[AskedBatch]:
    """Do as ``ask``, one batch after the other, and keep none."""
    vote_again = None if curation.second_view is None else module.second_voter(curation.second_view)
    for number, start in enumerate(range(0, curation.images, curation.images_per_batch)):
        module.clock.note = f"{start}/{curation.images} images"
        position = images.position
        facts = from_first(partial(shards.get, number)) or _ask_batch(
            curation, module, vote_again, images, shards, number, on_images
        )
        images.position = facts["position"]
        yield AskedBatch(number, position, from_first(partial(_read, shards, number)), facts)
    module.clock.note = ""


def describe_asking(curation: Curation, module: VisPlay) -> dict[str, Any]:
    """What questions, votes and verdicts follow from besides the images, as JSON values; all ranks take part."""
    roles = (module.questioner, module.reasoner)
    facts = {
        "seed": module.stage_seed("curation"),
        "curation": asdict(replace(curation, gates=())),
        "gates": [describe_gate(gate) for gate in curation.gates],
        "format": asdict(module.questioner.format),
        "voting": asdict(module.reasoner.voting),
        "templates": [asdict(role.template) for role in roles],
        "sampling": [asdict(role.sampling(1, seed=0)) for role in roles],
        "policies": [role.vlm.fingerprint() for role in roles],
    }
    if module.teacher is not None:
        facts["teacher"] = {"weights": module.teacher.fingerprint(), "labels": module.labeller is not None}
    return json.loads(json.dumps(facts, default=_plain))  # as the manifest gives it back


def _plain(setting: Any) -> Any:
    """A setting that JSON does not know: a set in one order, a function by its name, anything else as it shows."""
    if isinstance(setting, set | frozenset):
        return sorted(setting)
    return getattr(setting, "__qualname__", None) or repr(setting)


def _ask_batch(
    c: Curation,
    module: VisPlay,
    vote_again: VoteOn | None,
    images: Draws,
    shards: Shards,
    number: int,
    on_images: Callable[[Sequence[UnlabeledImage]], None] | None,
) -> dict[str, Any]:
    most_tokens = c.max_new_tokens and min(c.max_new_tokens, module.questioner.vlm.context_tokens - 1)
    drawn = _draw_batch(c, images, number)
    if on_images is not None:
        from_first(partial(on_images, drawn))
    proposals = module.propose(
        drawn,
        c.questions_per_image,
        module.stage_seed("curation", number * c.images_per_batch),
        c.template,
        c.voting,
        vote_again,
        "blind" in c.needs,
        None if c.votes_per_round is None else VotingRounds(c.votes_per_round, c.low, c.high),
        max_new_tokens=most_tokens,
        top_p=c.top_p,
        top_k=c.top_k,
    )
    graded, seconds = total(module.reasoner.grader.drain_outcomes()), module.clock.drain()
    facts = {"position": images.position, "graded": graded, "seconds": seconds, "tokens": module.clock.drain_tokens()}
    from_first(lambda: shards.write(number, map(_as_row, proposals), **facts))
    return facts


def _draw_batch(c: Curation, images: Draws, number: int) -> list[UnlabeledImage]:
    """The images of a batch, the last one of which may be smaller."""
    return images.draw(min(c.images_per_batch, c.images - number * c.images_per_batch))


def _as_row(proposal: Proposal) -> dict[str, Any]:
    parts = {"question": proposal.question, "vote": proposal.vote, "view": proposal.view}
    written = {name: None if part is None else asdict(part) for name, part in parts.items()}
    return {"image": proposal.image.key, **written, "blind": proposal.blind}


def _read(shards: Shards, number: int) -> list[AskedQuestion]:
    asked = []
    for row in shards.read(number):
        question = None if row["question"] is None else Question(**row["question"])
        asked.append(AskedQuestion(row["image"], question, _vote(row["vote"]), _vote(row["view"]), row["blind"]))
    return asked


def _vote(written: dict[str, Any] | None) -> Vote | None:
    if written is None:
        return None
    return Vote(**written | {"counts": tuple((name, count) for name, count in written["counts"])})
