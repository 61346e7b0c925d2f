"""Two ranks sample, vote, judge and learn what one does, with whole weights on each and with sharded ones."""

from pathlib import Path

import pytest
import torch

from two_ranks import run_ranks

pytestmark = pytest.mark.timeout(900)  # two processes, which load all there is
LEARNED = [
    *("tied embeddings", "frozen vision tower", "refilled", "one group", "few images", "lora", "shared policy"),
    *("sampled ahead", "taught", "from the base", "second view"),
]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What one rank says alone, and what each of two says together with the other."""
    first, second = run_ranks(Path(__file__).with_name("learner_rank.py"), tmp_path_factory.mktemp("ranks"))
    return first["alone"], first["together"], second["together"]


@pytest.fixture(scope="module", params=["whole", "sharded"])
def said(request, ranks):
    """What one rank says of its whole weights, and two of theirs, whole or sharded."""
    alone, first, second = ranks
    return alone["whole"], first[request.param], second[request.param]


@pytest.mark.parametrize("scenario", [*LEARNED, "skipped"])
def test_ranks_are_alike(said, scenario):
    _, first, second = (each[scenario] for each in said)
    assert first["weights"].keys() == second["weights"].keys()
    assert all(torch.equal(weight, second["weights"][name]) for name, weight in first["weights"].items())
    for name in ("sampled", "judged", "statistics", "version", "skipped"):
        assert repr(first[name]) == repr(second[name]), name  # a NaN is not equal to itself


@pytest.mark.parametrize("scenario", LEARNED)
def test_samples_votes_and_rewards_are_those_of_one_rank(said, scenario):
    alone, together, _ = (each[scenario] for each in said)
    assert alone["sampled"] == together["sampled"]
    assert alone["judged"] == together["judged"]
    assert all(map(torch.equal, alone["rewards"], together["rewards"]))
    assert alone.get("proposals") == together.get("proposals")
    assert any(float(rewards.std()) > 0 for rewards in alone["rewards"])


@pytest.mark.parametrize("scenario", ["lora", "shared policy", "second view"])
def test_votes_were_taken(said, scenario):
    votes = [vote for _, _, vote, _ in said[1][scenario]["proposals"]]
    assert len(votes) == 16
    assert sum(vote is not None for vote in votes) >= 8


def test_the_base_votes_beside_a_reasoner_that_has_moved_away(said):
    votes = [(vote, view) for _, _, vote, view in said[1]["second view"]["proposals"] if vote is not None]
    assert all(view is not None for _, view in votes)
    assert any(vote.counts != view.counts for vote, view in votes)


@pytest.mark.parametrize("scenario", LEARNED)
def test_updates_are_those_of_one_rank(said, scenario):
    alone, together, _ = (each[scenario] for each in said)
    assert alone["version"] == together["version"]
    assert len(alone["gradients"]) == len(together["gradients"]) == alone["version"] - (scenario == "from the base")
    first, other = alone["gradients"][0], together["gradients"][0]
    assert {name for name, each in first.items() if each is None} == {n for n, each in other.items() if each is None}
    for name, gradient in first.items():
        if gradient is not None:
            assert float((gradient - other[name]).norm()) <= 1e-5 * float(gradient.norm()), name
    assert any(each is not None and bool(each.any()) for each in first.values())
    for name, weight in alone["weights"].items():
        assert float((weight - together["weights"][name]).norm()) <= 1e-5 * float(weight.norm()), name


@pytest.mark.parametrize("scenario", LEARNED)
def test_statistics_are_those_of_one_rank(said, scenario):
    alone, together, _ = (each[scenario]["statistics"] for each in said)
    for step, other in zip(alone, together, strict=True):
        assert step.keys() == other.keys()
        for name, value in step.items():
            rounding = 1e-5 if name.startswith(("logp_gap", "policy_loss")) else 1e-6  # sums of what cancels
            assert other[name] == pytest.approx(value, rel=1e-3, abs=rounding), name


def test_what_is_not_finite_on_one_rank_is_skipped_on_both(said):
    for rank in said[1:]:
        assert (rank["skipped"]["version"], rank["skipped"]["skipped"]) == (1, 2)
        assert [step["skipped_updates"] for step in rank["skipped"]["statistics"]] == [0.0, 1.0, 1.0]


def test_groups_were_refilled(said):
    assert said[1]["refilled"]["statistics"][0]["sampled_groups"] > 5


def test_collectives(ranks):
    alone, *together = (each["collectives"] for each in ranks)
    assert alone == {
        "size": 1,
        "gathered": [0],
        "first": 0,
        "total": {"same": 2, "rank 0": 1},
        "sum": [1.0, 1.0],
        "copied": [0.0, 0.0],
        "differing": "",
        "failed": "",
        "gradients": [[1.0, 1.0, 1.0], None, None],
        "spread": ["0 of 0", "1 of 0", "2 of 0", "3 of 0"],
    }
    for rank in together:
        assert rank == {
            "size": 2,
            "gathered": [0, 1],
            "first": 0,
            "total": {"same": 4, "rank 0": 1, "rank 1": 1},
            "sum": [2.0, 2.0],
            "copied": [0.0, 0.0],
            "differing": "items: rank 1 has ['a', 'only on 1'] and rank 0 ['a', 'only on 0']; all ranks must draw the "
            "same items, from the same files",
            "failed": "rank 1 has failed",
            "gradients": [[3.0, 3.0, 3.0], [1.0, 1.0], None],
            "spread": ["0 of 1", "1 of 0", "2 of 1", "3 of 1"],
        }
