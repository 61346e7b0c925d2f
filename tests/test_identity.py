"""Whatever is dropped, reordered or corrupted on the way: no item ever meets another item's answer, image or reward."""

import random
import re
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from helpers import Scripted, image_number, plain_image
from visplay.callbacks.curation.curation import Curation
from visplay.callbacks.curation.curator import as_example
from visplay.callbacks.curation.gates import Candidate
from visplay.callbacks.self_play import SelfPlay
from visplay.data.draws import Draws
from visplay.data.generated import GeneratedDataset, write_examples
from visplay.data.images.image_folder import ImageFolder
from visplay.functional import difficulty, keep_in_band, parse_boxed
from visplay.modules import GRPOConfig, Questioner, Reasoner, VisPlay, Voting
from visplay.tiny import ANSWER, ASK
from visplay.types import derive_seed

G, K = 3, 4
CONFIG = GRPOConfig(steps=1, prompts_per_step=4, prompts_per_update=None, group_size=G, max_new_tokens=40)
ASKED = re.compile(r"What does image (\d+) show in way ([a-d])\?")


class Unreliable(Scripted):
    """Works through the prompts in any order, and garbles some completions; what it says names image and question."""

    def __init__(self, seed: int, faults: float) -> None:
        super().__init__(self._say)
        self.seed, self.faults = seed, faults

    def sample(self, policy, prompts, sampling):
        order = list(range(len(prompts)))
        random.Random(self.seed).shuffle(order)
        done = {index: super(Unreliable, self).sample(policy, [prompts[index]], sampling)[0] for index in order}
        return [done[index] for index in range(len(prompts))]

    def _say(self, _, prompt, text, sample):
        dice = random.Random(derive_seed(self.seed, prompt.key, text, sample))
        number = image_number(prompt.images[0])
        if "Ask." in text:
            said = f"What does image {number} show in way {dice.choice('abcd')}?"
            said = f"<type>numerical</type><question>{said}</question>"
        else:
            asked, way = ASKED.search(text).groups()
            assert int(asked) == number, "a question reached another image"
            said = f"\\boxed{{p{number}{way}{dice.choice('xyz')}}}"
        fault = (
            dice.choice(["", "nonsense", said[:-3], "<type></type>", "\\boxed{}", "cut"])
            if dice.random() < self.faults
            else None
        )
        return (said, False) if fault == "cut" else said if fault is None else fault


def _self_play(base, engine):
    module = VisPlay(base, Questioner(CONFIG, ASK), Reasoner(CONFIG, ANSWER, Voting(votes=K)))
    module.attach_engine(engine)
    return module


def _check_question(image, problem, vote):
    """A question names its own image, and every vote on it names both."""
    if problem is None:
        assert vote is None
        return
    number, way = ASKED.fullmatch(problem).groups()
    assert int(number) == image_number(image)
    if vote is not None:
        assert all(name.startswith(f"p{number}{way}") for name, _ in vote.counts)
        assert vote.answer is None or vote.answer.startswith(f"p{number}{way}")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(1, 6),
    broken=st.sets(st.integers(0, 5), max_size=3),
    seed=st.integers(0, 2**32),
    faults=st.sampled_from([0.0, 0.2, 0.6, 1.0]),
)
def test_nothing_meets_what_is_not_its_own(base, count, broken, seed, faults):
    module = _self_play(base, Unreliable(seed, faults))
    with TemporaryDirectory() as directory:
        images = _directory(directory, count, broken)
        batch = Draws(images, seed, position=seed % 7).draw(4)
        assert all(item.key == f"{image_number(item.image)}.png" for item in batch)
        _check_questioner(module, batch, seed)
        examples = _check_curation(module, batch, seed)
        write_examples(f"{directory}/generated.parquet", examples)
        stored = GeneratedDataset(f"{directory}/generated.parquet")
        assert [(e.key, e.problem, e.answer) for e in stored.read_all()] == [
            (e.key, e.problem, e.answer) for e in examples
        ]
        if examples:
            _check_reasoner(module, Draws(stored, seed).draw(4), seed)


def _directory(directory, count, broken):
    for number in range(count):
        path = f"{directory}/{number}.png"
        plain_image(number).save(path)
        if number in broken and count > len(broken):
            with open(path, "r+b") as file:
                file.truncate(40)
    return ImageFolder(directory)


def _check_questioner(module, batch, seed):
    rollout = module.questioner.rollout(batch, G, seed)
    judgement = module.questioner.judge(batch, rollout, seed)
    assert len(judgement.records) == len(batch) * G
    for index, record in enumerate(judgement.records):
        item, said = batch[index // G], rollout.completions[index // G][index % G]
        assert record.image is item.image
        assert record.text == said.text
        assert record.reward == judgement.rewards[index // G, index % G]
        _check_question(record.image, record.problem, record.vote)
        if record.reward > 0:
            assert module.reasoner.is_valid(record.vote)
            assert record.reward <= difficulty(judgement.rewards.new_tensor(record.vote.confidence))


def _check_curation(module, batch, seed):
    proposals = module.propose(batch, G, seed)
    assert [p.image for p in proposals] == [item for item in batch for _ in range(G)]
    for proposal in proposals:
        _check_question(proposal.image.image, proposal.question and proposal.question.text, proposal.vote)
    kept = keep_in_band([p.vote for p in proposals], 0.2, 0.9)
    found = {
        index: Candidate(proposals[index].image.key, proposals[index].question, proposals[index].vote) for index in kept
    }
    examples = [as_example(str(index), proposals[index].image, each, 1) for index, each in found.items()]
    for example in examples:
        assert example.image_id == f"{image_number(example.image)}.png"
        number, way = ASKED.fullmatch(example.problem).groups()
        assert int(number) == image_number(example.image)
        assert example.answer.startswith(f"p{number}{way}")
        assert 0.2 <= example.score <= 0.9
    return examples


def _check_reasoner(module, examples, seed):
    rollout = module.reasoner.rollout(examples, G, seed)
    judgement = module.reasoner.judge(examples, rollout, seed)
    for index, record in enumerate(judgement.records):
        example, said = examples[index // G], rollout.completions[index // G][index % G]
        assert record.image is example.image
        assert (record.problem, record.text) == (example.problem, said.text)
        right = said.finished and parse_boxed(said.text) == example.answer
        assert record.reward == float(right) == float(judgement.rewards[index // G, index % G])


def test_the_band_of_self_play_is_the_published_one():
    assert (SelfPlay().curation.low, SelfPlay().curation.high) == (0.25, 0.75)
    assert Curation() == SelfPlay().curation
