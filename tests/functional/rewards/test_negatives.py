import pytest
import torch

from visplay.functional import RareAnswers, WeakConsensus, answer_classes, group_advantages, penalized_advantages


def test_classes_of_answers_by_hand():
    answers, surprisals = ["2", "3 m", None, "2.0", "3", "3 cm", " "], torch.tensor([1.0, 2, 3, 4, 5, 6, 7])
    shares, means = answer_classes(answers, surprisals)
    # "3" says the same as "3 m" and "3 cm", which contradict each other
    torch.testing.assert_close(shares, torch.tensor([2, 2, 0, 2, 3, 2, 0]) / 7)
    torch.testing.assert_close(means, torch.tensor([2.5, 3.5, 3.0, 2.5, 13 / 3, 5.5, 7.0]))


def test_no_answer_at_all():
    shares, means = answer_classes([None, None], torch.tensor([1.0, 2.0]))
    assert (shares.tolist(), means.tolist()) == ([0.0, 0.0], [1.0, 2.0])


def test_weak_consensus_by_hand():
    """Four answers agree; two; none parsed."""
    rewards = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    shares = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.5, 0.5, 0.25, 0.25], [0.0, 0.0, 0.0, 0.0]])
    given = rewards, rewards, shares, shares
    assert WeakConsensus(0.5)(*given).tolist() == [[1.0] * 4, [1.0, 1.0, 0.0, 0.0], [-1.0] * 4]
    penalized = WeakConsensus(0.75, penalty=0.5)(*given)
    assert penalized.tolist() == [[1.0] * 4, [-0.5] * 4, [-0.5] * 4]
    assert penalized_advantages(penalized).tolist() == [[0.0] * 4, [-0.5] * 4, [-0.5] * 4]
    assert group_advantages(penalized).tolist() == [[0.0] * 4] * 3


def test_penalized_advantages_are_those_of_the_group_elsewhere():
    rewards = torch.tensor([[1.0, 0.0, -1.0], [-1.0, -0.5, -0.25], [0.0, -1.0, -1.0]])
    found = penalized_advantages(rewards)
    torch.testing.assert_close(found[[0, 2]], group_advantages(rewards)[[0, 2]])
    assert found[1].tolist() == [-1.0, -0.5, -0.25]


def test_rare_answers_by_hand():
    """Of 20: 10 times the label, 4 of another, 3 of a third, 2 of a fourth, and one that did not parse."""
    counts = [10, 4, 3, 2, 1]
    shares = torch.tensor([n / 20 if n > 1 else 0.0 for n in counts for _ in range(n)])[None]
    agrees = torch.tensor([float(k == 0) for k, n in enumerate(counts) for _ in range(n)])[None]
    sure, unsure = torch.ones(1, 20), torch.ones(1, 20)
    unsure[0, 17:19] = 3.0  # the fourth: .1 of the answers
    negatives = [index for index, reward in enumerate(RareAnswers()(agrees, agrees, shares, unsure)[0]) if reward < 0]
    assert negatives == [17, 18]
    unsure[0, 10] = 9.0  # one of the second: too common; the mean is 1.425 now
    unsure[0, 17:19] = 1.25
    assert RareAnswers()(agrees, agrees, shares, unsure).equal(agrees)
    wide = RareAnswers(below=0.25, penalty=0.5)(agrees, agrees, shares, sure)  # nobody is below the mean
    assert wide[0].tolist() == [1.0] * 10 + [-0.5] * 9 + [0.0]


def test_a_label_is_never_negative():
    rare, ones = torch.full((1, 20), 0.05), torch.ones(1, 20)
    assert RareAnswers()(ones, ones, rare, ones).equal(ones)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WeakConsensus(least=1.5), r"least: must be in \[0, 1\], got 1.5"),
        (lambda: WeakConsensus(penalty=0.0), "penalty: must be above 0, got 0.0"),
        (lambda: RareAnswers(below=0.0), r"below: must be in \(0, 1\], got 0.0"),
        (lambda: RareAnswers(penalty=float("nan")), "penalty: must be above 0, got nan"),
        (lambda: RareAnswers()(*[torch.ones(1, 19)] * 4), "group_size: shares need 20 answers at least, got 19"),
    ],
)
def test_bad_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()
