import pytest
import torch

from helpers import plain_image
from stand_ins import CHECKPOINTS, write_stand_in
from visplay.modules import Qwen2_5_VL
from visplay.tiny import ANSWER


@pytest.mark.parametrize("checkpoint", CHECKPOINTS)
def test_a_stand_in_has_the_heads_of_the_checkpoint_and_the_answers_of_the_base(checkpoint, base, tmp_path):
    heads, keys, tied = CHECKPOINTS[checkpoint]
    vlm = Qwen2_5_VL(str(write_stand_in(checkpoint, tmp_path)))
    vlm.load()
    text = vlm.model.config.text_config
    assert text.num_attention_heads / text.num_key_value_heads == heads / keys
    assert (vlm.model.lm_head.weight is vlm.model.get_input_embeddings().weight) is tied
    ids = torch.randint(0, 400, (1, 3, 12), generator=torch.Generator().manual_seed(0))
    found = []
    for model in (base, vlm):
        prompt = model.encode("p", ANSWER, plain_image(90, (100, 150)), question="Is it red?")
        with torch.no_grad():
            found.append(model.logps([prompt], ids, torch.ones_like(ids, dtype=torch.bool))[0])
    assert (found[0] - found[1]).abs().max() < 1e-4
