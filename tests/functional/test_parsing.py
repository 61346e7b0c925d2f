import pytest
from hypothesis import given
from hypothesis import strategies as st

from visplay.functional import has_thought, parse_boxed, parse_boxed_question, parse_question
from visplay.types import Question

PIECES = [
    "<type>",
    "</type>",
    "<question>",
    "</question>",
    "<answer>",
    "</answer>",
    "numerical",
    "\n",
    " ",
    "<",
    "x",
    "é",
]
GOOD = "<type>numerical</type><question>How many?</question>"


def test_reads_all_three_parts():
    text = "\n<type> Multiple  Choice </type>\n<question> Which? </question> <answer> B </answer>\n"
    assert parse_question(text) == Question(text="Which?", kind="multiple choice", answer="B")


@pytest.mark.parametrize("kind", ["multiple choice", "numerical", "regression", "NUMERICAL"])
def test_reads_each_kind(kind):
    question = parse_question(f"<type>{kind}</type><question>How many?</question>")
    assert question == Question(text="How many?", kind=kind.lower(), answer=None)


def test_angle_brackets_are_no_tags():
    text = "<type>numerical</type><question>Is 1 < 2, x<3 and 4 > 3?</question>"
    assert parse_question(text).text == "Is 1 < 2, x<3 and 4 > 3?"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "How many?",
        "<question>How many?</question>",
        "<type>numerical</type>",
        f"Sure! {GOOD}",
        f"{GOOD} Done.",
        f"Sure! <think>hm</think>{GOOD}",
        f"<think>hm</think> So: {GOOD}",
        f"<think>hm {GOOD}",
        f"<think>{GOOD}</think>",
        f"<think>hm</think>{GOOD}</think>",
        GOOD + GOOD,
        f"<type>numerical</type>{GOOD}",
        f"{GOOD}<question>And?</question>",
        f"{GOOD}<answer>1</answer><answer>1</answer>",
        f"{GOOD}<answer>1",
        "<question>How many?</question><type>numerical</type>",
        f"<answer>1</answer>{GOOD}",
        "<type>riddle</type><question>How many?</question>",
        "<type></type><question>How many?</question>",
        "<type>numerical</type><question> \n </question>",
        "<type>numerical</type><question>How <b>many</b>?</question>",
        "<type>numerical</type><question>How <question>many?</question>",
        "<type>numerical</type><question>How many?</question",
        "<TYPE>numerical</TYPE><question>How many?</question>",
        "<type>numerical</type> and <question>How many?</question>",
    ],
)
def test_refuses_what_is_not_exactly_the_format(text):
    assert parse_question(text) is None


def test_the_papers_format_needs_the_question_alone():
    assert parse_question("<question>Why?</question>", require=("question",)) == Question("Why?", "", None)
    assert parse_question("<type>riddle</type><question>Why?</question>", require=("question",)) is None


def test_the_released_format_needs_an_answer():
    require = ("type", "question", "answer")
    assert parse_question(GOOD, require=require) is None
    assert parse_question(f"{GOOD}<answer> </answer>", require=require) is None
    assert parse_question(f"{GOOD}<answer>3</answer>", require=require).answer == "3"
    assert parse_question(f"{GOOD}<answer> </answer>").answer is None


def test_kinds_can_be_others_or_any():
    text = "<type>Riddle</type><question>Why?</question>"
    assert parse_question(text, kinds=["RIDDLE"]).kind == "riddle"
    assert parse_question(text, kinds=None).kind == "riddle"
    assert parse_question("<type> </type><question>Why?</question>", kinds=None) is None


def test_refuses_an_unknown_part():
    with pytest.raises(ValueError, match=r"require: parts are among .* got \['description'\]"):
        parse_question(GOOD, require=("description",))


@given(st.one_of(st.text(), st.lists(st.sampled_from(PIECES)).map("".join)))
def test_never_raises_and_never_keeps_a_tag(text):
    question = parse_question(text, kinds=None, require=("question",))
    if question is not None:
        assert question.text == question.text.strip() != ""
        assert not any(piece in question.text for piece in PIECES[:6])


@given(st.text(st.characters(exclude_characters="<>"), min_size=1).filter(str.strip))
def test_returns_the_question_that_was_put_in(text):
    assert parse_question(f"<type>regression</type><question>{text}</question>").text == text.strip()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{3}", "3"),
        (r"First \boxed{1}, then \boxed{ 2 }.", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\text{a {b} c}} }", r"\text{a {b} c}"),
        (r"\boxed {x}", "x"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{\{}", r"\{"),
        ("\\boxed{a\nb}", "a\nb"),
        (r"\boxed{None}", "None"),
        ("", None),
        ("3", None),
        (r"\boxed", None),
        (r"\boxed 3", None),
        (r"\boxed{}", None),
        (r"\boxed{  }", None),
        (r"\boxed{1", None),
        (r"\boxed{1} or \boxed{\frac{2}", None),
        (r"\boxed{1} or \boxed{}", None),
        (r"\boxed{1\}", None),
    ],
)
def test_reads_the_last_box(text, answer):
    assert parse_boxed(text) == answer


@given(st.one_of(st.text(), st.lists(st.sampled_from(["\\boxed", "{", "}", "\\", "x", " "])).map("".join)))
def test_box_never_raises_and_is_never_blank(text):
    answer = parse_boxed(text)
    assert answer is None or answer == answer.strip() != ""


AROUND = (
    "Sure!\n<answer>4</answer> <type>Riddle</type> then <question>How\nmany?</question> done <question>And?</question>"
)


def test_the_released_format_takes_the_first_of_each_part_wherever_it_stands():
    question = parse_question(AROUND, kinds=None, require=("type", "question", "answer"), text_around=True)
    assert question == Question(text="How\nmany?", kind="riddle", answer="4")
    assert parse_question(AROUND, kinds=None) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "How many?",
        "<question>How many?</question>",
        "<type>x</type><question>How many?</question>",
        "<type>x</type><question> </question><answer>4</answer>",
        "<type>x</type><question>How many?<answer>4</answer>",
    ],
)
def test_the_released_format_needs_every_part(text):
    assert parse_question(text, kinds=None, require=("type", "question", "answer"), text_around=True) is None


def test_the_published_format_needs_the_question_alone():
    assert parse_question("<question>How many?</question>", require=("question",)) == Question("How many?", "")


def test_tags_with_spaces_are_tags_where_asked_for():
    text = "< type >numerical< /type ><question >Is 1 / 2 < 3 > 2?</ question>\n< answer >yes</answer >"
    assert parse_question(text) is None
    expected = Question("Is 1 / 2 < 3 > 2?", "numerical", "yes")
    assert parse_question(text, spaced_tags=True) == expected
    assert parse_question(f"Sure: {text}.", spaced_tags=True) is None
    assert parse_question(f"Sure: {text}.", spaced_tags=True, text_around=True) == expected


@pytest.mark.parametrize(
    ("text", "formatted"),
    [
        (r"<think>a1</think>\boxed{3}", True),
        ("\n<think>one\ntwo</think>\n \\boxed{3}\n", True),
        ("< think >one< / think >\\boxed{\\frac{1}{2}}", True),
        ("<think>one</think> so \\boxed{3}", False),
        ("<think>one</think>\\boxed{3}.", False),
        ("<think>one</think> The answer is\n\\boxed{3}", False),
        (r"\boxed{3}", False),
        (r"<think>a1</think> 3", False),
        (r"<think>a1 \boxed{3}", False),
        (r"Well: <think>a1</think>\boxed{3}", False),
        (r"<think>a1 \boxed{3}</think> 3", False),
        ("the template has opened it\n</think>\n\n\\boxed{3}", True),
        ("the template has opened it\n</think>\n\n3", False),
        (r"<think>the tag </think> ends it</think>\boxed{3}", True),
    ],
)
def test_has_thought(text, formatted):
    assert has_thought(text) is formatted


QUOTING = [
    "hm",
    "",
    "I write <type>riddle</type><question>Fake?</question><answer>0</answer>, then stop. \\boxed{0}",
    "They end a thought with </think>, and begin it with <think>. \\boxed{0} <question>Fake?</question>",
    "<question> must come first, <type>numerical</type> too; \\boxed{ opens a box",
]


@pytest.mark.parametrize("opened", [True, False])  # by the chat template, whose mark is not in the completion then
@pytest.mark.parametrize("thought", QUOTING)
@pytest.mark.parametrize("text_around", [True, False])
def test_a_thought_is_no_part_of_a_question(thought, opened, text_around):
    text = f"{'' if opened else '<think>'}{thought}</think>\n\n{GOOD}<answer>4</answer>"
    if opened and "<think>" in thought and not text_around:
        pytest.skip("what such a text begins with may be anything")
    assert parse_question(text, text_around=text_around) == Question("How many?", "numerical", "4")


@pytest.mark.parametrize("opened", [True, False])
@pytest.mark.parametrize("thought", QUOTING)
def test_a_thought_is_no_part_of_an_answer(thought, opened):
    text = f"{'' if opened else '<think>'}{thought}</think>\n\nSo it is \\boxed{{4}}."
    assert parse_boxed(text) == "4"
    assert parse_boxed(text.replace("\\boxed{4}", "4")) is None
    assert not has_thought(text)  # the released form has nothing between the thought and the box
    bare = text.replace("So it is \\boxed{4}.", "\\boxed{4}")
    assert has_thought(bare) or (opened and "<think>" in thought)


@pytest.mark.parametrize("text", ["<question>", "<type>", "<answer>", "\\boxed{", "</think>", "<", "<a ", "{", "\\"])
def test_a_megabyte_of_one_mark_is_read_at_once(text):
    """Not a timing: what is quadratic takes minutes here, and the test's time limit ends it."""
    text *= 2**20 // len(text)
    assert parse_question(text) is parse_question(text, text_around=True) is None
    assert parse_boxed(text) is None
    assert parse_boxed_question(text) is parse_boxed_question(text, text_around=True) is None
    assert parse_boxed_question(f"<question>{text}</question> \\boxed{{1}}") in (None, Question(text.strip(), "", "1"))
    assert not has_thought(f"</think>{text}")


def test_the_first_of_each_part_is_found_as_a_pattern_would():
    text = "<type>a<type>numerical</type></type><question><question>b</question>"
    assert parse_question(text, None, text_around=True) == Question("<question>b", "a<type>numerical", None)
    assert parse_question("</question><question>b", None, ("question",), text_around=True) is None


BOXED = {  # text -> question and answer, strictly and with text around
    r"<question>What is 2 + 3?</question>\boxed{5}": (("What is 2 + 3?", "5"),) * 2,
    "<question>\n a \n</question>\n\n \\boxed{\\frac{1}{2}} \n": (("a", r"\frac{1}{2}"),) * 2,
    r"<think>Hm: <question>b</question></think><question>a</question> \boxed{5}": (("a", "5"),) * 2,
    r"Sure. <question>a</question> \boxed{5}": (None, ("a", "5")),
    r"<question>a</question> It is \boxed{5}": (None, ("a", "5")),
    r"<question>a</question> \boxed{5}.": (None, ("a", "5")),
    r"<question>a</question> \boxed{4} \boxed{5}": (None, ("a", "5")),
    r"<question>a</question><question>b</question> \boxed{5}": (None, ("b", "5")),
    r"\boxed{5} <question>a</question>": (None, ("a", "5")),
    r"<question>a <b>c</b></question> \boxed{5}": (None, ("a <b>c</b>", "5")),
    r"<question>a</question>": (None, None),
    r"<question>a</question> \boxed{}": (None, None),
    r"<question>a</question> \boxed{5": (None, None),
    r"<question> </question> \boxed{5}": (None, None),
    r"<question>a \boxed{5}": (None, None),
    r"\boxed{5}": (None, None),
    "": (None, None),
}


@pytest.mark.parametrize("text", BOXED)
def test_the_form_of_r_zero(text):
    for expected, text_around in zip(BOXED[text], (False, True), strict=True):
        found = parse_boxed_question(text, text_around=text_around)
        assert found == (None if expected is None else Question(expected[0], "", expected[1]))


@given(st.text("<>/\\boxedquestion{}ab ", max_size=200), st.booleans())
def test_the_form_of_r_zero_never_raises(text, text_around):
    found = parse_boxed_question(text, text_around=text_around)
    assert found is None or (found.text.strip() and found.answer.strip())
