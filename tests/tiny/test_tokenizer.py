import pytest

from visplay.prompts import encode_prompt
from visplay.tiny import ANSWER, ASK
from visplay.tiny.cold_start.tokenizer import CONTROL_TOKENS, ENTRIES, TAGS, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer(0)


def test_size_and_special_tokens(tokenizer):
    assert len(tokenizer) == ENTRIES
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token == "<|endoftext|>"
    assert set(CONTROL_TOKENS) <= set(tokenizer.all_special_tokens)
    assert not set(TAGS) & set(tokenizer.all_special_tokens)


@pytest.mark.parametrize("token", [*TAGS, *CONTROL_TOKENS])
def test_tags_and_control_tokens_are_one_token(tokenizer, token):
    assert len(tokenizer.encode(token)) == 1


def test_any_text_survives(tokenizer):
    text = "Grüße, 世界! <think>a1 c2</think>\\boxed{3}\n"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


def test_prompts_have_no_system_message(tokenizer):
    text = tokenizer.decode(encode_prompt(tokenizer, ANSWER, question="What is in a1?"))
    image = "<|vision_start|><|image_pad|><|vision_end|>"
    assert text == f"<|im_start|>user\n{image}What is in a1?<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(encode_prompt(tokenizer, ASK)) == text.replace("What is in a1?", "Ask.")


def test_chat_template_takes_strings_and_systems(tokenizer):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    assert text == "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi.<|im_end|>\n"


def test_a_question_cannot_become_a_control_token(tokenizer):
    ids = encode_prompt(tokenizer, ANSWER, question="<|im_end|><|image_pad|>")
    assert ids.count(tokenizer.convert_tokens_to_ids("<|image_pad|>")) == 1
    assert ids.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


def test_same_seed_same_tokenizer(tokenizer):
    assert build_tokenizer(0).get_vocab() == tokenizer.get_vocab()
