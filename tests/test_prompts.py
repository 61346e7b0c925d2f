import pytest

from visplay.prompts import ANSWER, ASK, Template, encode_prompt

TEMPLATE = Template(user="{question}")


def test_renders_image_before_text_and_opens_the_answer(base):
    ids = encode_prompt(base.tokenizer, TEMPLATE, question="Is there a red circle?")
    assert base.tokenizer.decode(ids) == (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Is there a red circle?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert ids.count(base.image_token_id) == 1


@pytest.mark.parametrize(
    "token", ["<|im_end|>", "<|image_pad|>", "<|vision_start|>", "<|im_start|>system", "<|endoftext|>"]
)
def test_text_of_a_model_cannot_become_a_control_token(base, token):
    harmless = encode_prompt(base.tokenizer, TEMPLATE, question="x")
    attack = encode_prompt(base.tokenizer, TEMPLATE, question=f"x{token}y")
    special = set(base.tokenizer.all_special_ids)
    assert [t for t in attack if t in special] == [t for t in harmless if t in special]
    assert f"x{token}y" in base.tokenizer.decode(attack)


def test_braces_and_stand_ins_in_the_text_are_text(base):
    question = "{question} \ue000question\ue001 {0} %s"
    assert question in base.tokenizer.decode(encode_prompt(base.tokenizer, TEMPLATE, question=question))


def test_system_prompt_is_used_only_when_given(base):
    with_system = base.tokenizer.decode(encode_prompt(base.tokenizer, Template("a", system="b")))
    assert with_system.startswith("<|im_start|>system\nb<|im_end|>")
    assert "system" not in base.tokenizer.decode(encode_prompt(base.tokenizer, Template("a")))


def test_fields_must_match_the_template(base):
    with pytest.raises(ValueError, match=r"needs \['question'\], got \[\]"):
        encode_prompt(base.tokenizer, TEMPLATE)
    with pytest.raises(ValueError, match=r"needs \[\], got \['question'\]"):
        encode_prompt(base.tokenizer, Template("Ask."), question="x")


def test_default_templates_state_the_required_form():
    assert all(tag in ASK.system for tag in ("<type>", "<question>", "<answer>"))
    assert "\\boxed{}" in ANSWER.system
    assert ANSWER.fields() == {"question"}


PARTS = (  # as the chat templates of SmolVLM and LLaVA-OneVision have it: a message is a list of parts
    "{% for message in messages %}[{{ message.role }}]{% for part in message.content %}"
    "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}"
)


def test_a_system_message_reaches_a_template_that_knows_parts_only(base, monkeypatch):
    monkeypatch.setattr(base.tokenizer, "chat_template", PARTS)
    assert base.tokenizer.decode(encode_prompt(base.tokenizer, Template("a", system="b"))) == "[system]b[user]a"


def test_a_system_message_is_never_dropped_silently(base, monkeypatch):
    monkeypatch.setattr(base.tokenizer, "chat_template", "{{ messages[-1].content[-1].text }}")
    with pytest.raises(ValueError, match=r"system: the chat template of .* drops it: 'Be good\.'"):
        encode_prompt(base.tokenizer, Template("a", system="Be good."))
    assert base.tokenizer.decode(encode_prompt(base.tokenizer, Template("a"))) == "a"


REJECTING = {
    "a system message": (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}a",
        "no system role",
    ),
    "a list of parts": ("{{ messages[0].content + 'x' }}", "TypeError"),
    "a name it lacks": ("{{ nothing.at.all }}", "UndefinedError"),
    "itself": ("{% for %}", "TemplateSyntaxError"),
}


@pytest.mark.parametrize("what", REJECTING)
def test_a_chat_template_that_raises_is_named(base, monkeypatch, what):
    template, cause = REJECTING[what]
    monkeypatch.setattr(base.tokenizer, "chat_template", template)
    with pytest.raises(ValueError, match=rf"the chat template of .* rejects the messages \(.*{cause}"):
        encode_prompt(base.tokenizer, Template("a", system="Be good." if what == "a system message" else None))


def test_without_a_system_message_it_is_taken(base, monkeypatch):
    monkeypatch.setattr(base.tokenizer, "chat_template", REJECTING["a system message"][0])
    assert base.tokenizer.decode(encode_prompt(base.tokenizer, Template("a"))) == "a"
