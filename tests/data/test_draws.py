import pytest

from visplay.data.draws import Draws, DrawsOnce, MixedDraws
from visplay.data.images.image_folder import UnusableItemError


class Spotted:
    """Numbers, of which some cannot be used."""

    def __init__(self, size, bad=()):
        self.size, self.bad = size, set(bad)

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.bad:
            raise UnusableItemError(f"row {index}", "broken")
        return index


def test_every_item_comes_once_before_any_repeats():
    draws = Draws(Spotted(10), seed=3)
    first = draws.draw(4) + draws.draw(6)
    assert sorted(first) == list(range(10))
    assert draws.draw(10) != first
    assert draws.position == 20


def test_goes_on_where_it_stopped():
    whole = Draws(Spotted(7), seed=1).draw(20)
    parts = Draws(Spotted(7), seed=1)
    begun = parts.draw(9)
    assert begun + Draws(Spotted(7), seed=1, position=parts.position).draw(11) == whole


def test_an_unusable_item_is_counted_and_the_next_takes_its_place(caplog):
    draws = Draws(Spotted(10, bad={2, 5}), seed=0)
    assert sorted(draws.draw(8)) == [0, 1, 3, 4, 6, 7, 8, 9]
    assert draws.skipped == {"row 2": "broken", "row 5": "broken"}
    draws.draw(20)
    assert len(draws.skipped) == 2
    assert caplog.text.count("skipped row 2: broken") == 1


def test_once_and_in_order():
    draws = DrawsOnce(Spotted(5, bad={1}), seed=0)
    assert (draws.draw(3), draws.draw(3), draws.draw(3)) == ([0, 2], [3, 4], [])
    assert (draws.position, draws.skipped) == (5, {"row 1": "broken"})
    assert DrawsOnce(Spotted(5), seed=0, position=3, why_not=lambda item: None).draw(9) == [3, 4]


def test_what_cannot_be_drawn_from():
    with pytest.raises(ValueError, match="items: must not be empty"):
        Draws([], seed=0)
    with pytest.raises(ValueError, match="none of the 3 can be used, for example row"):
        Draws(Spotted(3, bad={0, 1, 2}), seed=0).draw(1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.9, 1.0])
def test_a_mixture_keeps_its_share_in_any_run(share):
    mixed = MixedDraws(Draws(["silver"], seed=0), Draws(["gold"], seed=0), share)
    drawn = mixed.draw(33) + mixed.draw(1) + mixed.draw(66)
    for start in range(80):
        assert abs(drawn[start : start + 20].count("silver") - 20 * share) <= 1
    assert drawn.count("silver") == pytest.approx(100 * share, abs=1)


def test_a_mixture_of_more_than_everything():
    with pytest.raises(ValueError, match=r"share: must lie in \[0, 1\], got 1.5"):
        MixedDraws(Draws(["a"], seed=0), Draws(["b"], seed=0), 1.5)
