import torch
from transformers.cache_utils import DynamicLayer

from visplay.modules.policy.kv_cache import RoomyLayer, similar_lengths


def test_a_layer_with_room_holds_what_a_plain_one_holds():
    generator = torch.Generator().manual_seed(0)
    roomy, plain = RoomyLayer(), DynamicLayer()
    assert roomy.get_seq_length() == plain.get_seq_length() == 0
    for tokens in [5, *[1] * 80, 50, 1]:
        keys, values = torch.rand(2, 3, 2, tokens, 4, generator=generator)
        for mine, theirs in zip(roomy.update(keys, values), plain.update(keys, values), strict=True):
            assert torch.equal(mine, theirs)
        assert roomy.get_seq_length() == plain.get_seq_length()
        assert roomy.buffers[0].shape[2] <= roomy.length + max(32, roomy.length)


def test_rows_of_similar_length_come_together_and_none_is_lost():
    lengths = torch.randint(1, 300, (200,), generator=torch.Generator().manual_seed(0))
    groups = similar_lengths(lengths.tolist())
    assert sorted(number for group in groups for number in group) == list(range(200))
    assert sorted(sum(similar_lengths(lengths.tolist(), [3, 5, 8]), [])) == [3, 5, 8]
    for group in groups:
        assert lengths[group].max() <= 1.5 * lengths[group].min() + 4
