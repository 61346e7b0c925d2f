"""Placeholders expanded as a tokenizer reads the expanded text."""

from types import SimpleNamespace

import pytest

from visplay.modules.policy.expansion import expand

IMAGE, OPEN, END = 90, 91, 92


class Words:
    """A token is a run of one letter, 10 times the letter and its length; 90 and more are controls."""

    added_tokens_decoder = {IMAGE: SimpleNamespace(special=True), OPEN: SimpleNamespace(special=True)}
    all_special_ids = (END,)

    def decode(self, ids, **options):
        assert options == {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        assert max(ids) < IMAGE
        return "".join(chr(ord("a") + token // 10) * (token % 10) for token in ids)

    def encode(self, text, **options):
        assert options == {"add_special_tokens": False, "split_special_tokens": True}
        ids = []
        for letter in text:
            number = 10 * (ord(letter) - ord("a"))
            if ids and ids[-1] // 10 * 10 == number:
                ids[-1] += 1
            else:
                ids.append(number + 1)
        return ids


@pytest.mark.parametrize(
    ("prompt", "images", "expected"),
    [
        ([1, IMAGE, 2], [[OPEN, 7, 7, END]], [1, OPEN, 7, 7, END, 2]),
        ([END, 1, IMAGE, 13], [[2, OPEN, 2]], [END, 3, OPEN, 2, 13]),
        ([11, 1, IMAGE, 1, 1, 12], [[2, OPEN, 2]], [11, 3, OPEN, 4, 12]),
        ([1, IMAGE, IMAGE, 1], [[2, OPEN, 2], [3, OPEN, 1]], [3, OPEN, 5, OPEN, 2]),
        ([IMAGE], [[2, OPEN, 2]], [2, OPEN, 2]),
        ([1, 1, END], [], [1, 1, END]),
        ([1, IMAGE, 1], [[1]], [3]),
    ],
)
def test_by_hand(prompt, images, expected):
    assert expand(Words(), prompt, images, IMAGE) == expected
