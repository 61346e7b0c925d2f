r"""From what a policy wrote to a question or an answer, or to None; never an exception."""

from __future__ import annotations

import re
from collections.abc import Collection

from visplay.types import Question

DEFAULT_KINDS = ("multiple choice", "numerical", "regression")
_PARTS = ("type", "question", "answer")
_TAGLESS = r"[^<]*(?:<(?!/?[A-Za-z]\w*\s*/?>)[^<]*)*"
_PART = {name: rf"<{name}>(?P<{name}>{_TAGLESS})</{name}>" for name in _PARTS}
_FORMAT = re.compile(rf"\s*(?:{_PART['type']}\s*)?{_PART['question']}\s*(?:{_PART['answer']}\s*)?")
_SPACED_TAG = re.compile(rf"<\s*(/?)\s*({'|'.join(_PARTS)})\s*>")
_SPACE_BEHIND_BRACKET = re.compile(r"(?<=[<>/])\s++")
_SPACE_BEFORE_BRACKET = re.compile(r"(?<!\s)\s++(?=[<>/])")
_BOX = re.compile(r"\\boxed\s*\{")
_BRACE = re.compile(r"\\.|[{}]", re.DOTALL)


def parse_question(
    text: str,
    kinds: Collection[str] | None = DEFAULT_KINDS,
    require: Collection[str] = ("type", "question"),
    *,
    text_around: bool = False,
    spaced_tags: bool = False,
) -> Question | None:
    """Read a question in the required format (validity v of Eq. 7).

    The whole text is ``<type>..</type><question>..</question><answer>..</answer>``, each tag at most once and in this
    order, with white space between and around; no part contains a tag. The question is never empty. With
    ``text_around`` the first of each part counts wherever it stands, as in the released code. A thought before all
    that, see ``split_thought``, is passed over.

    Args:
        text: What the Questioner wrote.
        kinds: Allowed types, without regard to case; None allows any type that is not empty.
        require: Parts that must be there and not empty, of "type", "question" and "answer"; ``("question",)`` is the
            paper's format. A type that is there must be allowed even where none is required.
        text_around: Whether other text may stand before, between and after the parts.
        spaced_tags: Whether ``< type >`` is a tag too, as in the released code.

    Returns:
        The question, its type in lower case ("" without one), or None when the text does not parse.

    Raises:
        ValueError: ``require`` names an unknown part.

    Example:
        >>> parse_question("<type>Numerical</type><question>How many?</question>")
        Question(text='How many?', kind='numerical', answer=None)
        >>> parse_question("Sure: <type>numerical</type><question>How many?</question>") is None
        True
        >>> parse_question("<think>Eggs?</think><type>numerical</type><question>How many?</question>").text
        'How many?'
    """
    if unknown := set(require) - set(_PARTS):
        raise ValueError(f"require: parts are among {_PARTS}, got {sorted(unknown)}")
    if spaced_tags:
        text = _SPACED_TAG.sub(r"<\1\2>", text)
    thought, form = split_thought(text)
    if not text_around and not _begins(thought):
        return None
    found = _find_parts(form) if text_around else _match_parts(form)
    parts = {name: (found.get(name) or "").strip() for name in _PARTS}
    if not all(parts[name] for name in {"question", *require}):
        return None
    kind = _fold(parts["type"])
    if found.get("type") is not None and not _is_allowed(kind, kinds):
        return None
    return Question(text=parts["question"], kind=kind, answer=parts["answer"] or None)


def parse_boxed_question(text: str, *, text_around: bool = False) -> Question | None:
    r"""Read a question in the form of R-Zero (arXiv 2508.05004): ``<question>..</question>`` and a boxed answer.

    The question is not empty and contains no tag, and there is an answer. With ``text_around`` the last question and
    the last box count, wherever they stand, as in its released code. A thought before all that, see ``split_thought``,
    is passed over.

    Args:
        text: What the Questioner wrote.
        text_around: Whether other text may stand before, between and behind the two.

    Returns:
        The question, without a type, or None when the text does not parse.

    Example:
        >>> parse_boxed_question(r"<question>What is 2 + 3?</question> \boxed{5}")
        Question(text='What is 2 + 3?', kind='', answer='5')
        >>> parse_boxed_question(r"Sure: <question>What is 2 + 3?</question> \boxed{5}") is None
        True
    """
    thought, form = split_thought(text)
    if not text_around and not _begins(thought):
        return None
    before, opened, rest = form.rpartition("<question>")
    question, closed, behind = rest.partition("</question>")
    answer, question = parse_boxed(form if text_around else behind), question.strip()
    if not opened or not closed or not question or answer is None:
        return None
    if not text_around:
        box = _BOX.match(behind.strip())
        end = None if box is None else _find_closing_brace(behind.strip(), box.end())
        if before.strip() or end != len(behind.strip()) - 1 or not re.fullmatch(_TAGLESS, question):
            return None
    return Question(question, kind="", answer=answer)


def parse_boxed(text: str) -> str | None:
    r"""Read the final answer: the content of the last ``\boxed{...}``, of those behind the thought if there is one.

    Args:
        text: What the Reasoner wrote.

    Returns:
        The content, stripped, or None when there is no box, or the last one is empty or its braces do not balance.
        Escaped braces do not count.

    Example:
        >>> parse_boxed(r"So \boxed{1}; no: \boxed{\frac{1}{2}}.")
        '\\frac{1}{2}'
    """
    _, text = split_thought(text)
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    end = _find_closing_brace(text, start)
    return None if end is None else text[start:end].strip() or None


def has_thought(text: str) -> bool:
    r"""Whether an answer is ``<think>...</think>\boxed{...}`` and nothing else: the format of the released reward.

    White space does not count around the parts and within tags. The opening mark is in the prompt where a chat template
    writes it, and need not be in the answer.

    Example:
        >>> has_thought(r"<think>one, two</think> \boxed{2}"), has_thought(r"<think>one, two</think> so \boxed{2}")
        (True, False)
    """
    thought, answer = split_thought(_SPACE_BEFORE_BRACKET.sub("", _SPACE_BEHIND_BRACKET.sub("", text)))
    boxed = answer.strip().startswith("\\boxed{") and answer.rstrip().endswith("}")
    return thought is not None and _begins(thought) and boxed


def parse_description(text: str) -> str | None:
    """Read the first ``<description>..</description>`` of an answer; None where there is none, or it is empty.

    Example:
        >>> parse_description("<description> a red dot </description><think>one</think>")
        'a red dot'
    """
    _, opened, rest = text.partition("<description>")
    description, closed, _ = rest.partition("</description>")
    return (description.strip() or None) if opened and closed else None


def has_description(text: str) -> bool:
    r"""Whether an answer is a description, a thought and a boxed answer, and nothing else: the form of Vision-SR1.

    White space does not count around the parts and within tags.

    Example:
        >>> has_description(r"<description>a dot</description> <think>one</think> \boxed{1}")
        True
        >>> has_description(r"<think>one</think> \boxed{1}")
        False
    """
    text = _SPACE_BEFORE_BRACKET.sub("", _SPACE_BEHIND_BRACKET.sub("", text)).strip()
    _, closed, rest = text.partition("</description>")
    described = text.startswith("<description>") and parse_description(text) is not None
    return bool(described and closed) and rest.startswith("<think>") and has_thought(rest)


def split_thought(text: str) -> tuple[str | None, str]:
    r"""Split what a model that thinks wrote into its thought and what follows the thought.

    The thought ends with the last ``</think>``, as it may quote any mark; where it begins is for the caller to judge,
    as chat templates may have opened it already. Without that mark there is no thought.

    Example:
        >>> split_thought(r"<think>Is </think> a tag? \boxed{1}</think>\boxed{2}")
        ('<think>Is </think> a tag? \\boxed{1}', '\\boxed{2}')
        >>> split_thought("no thought")
        (None, 'no thought')
    """
    thought, end, rest = text.rpartition("</think>")
    return (thought, rest) if end else (None, text)


def _begins(thought: str | None) -> bool:
    """Whether a thought, if there is one, begins with its mark, or has none as the chat template wrote it."""
    return thought is None or thought.lstrip().startswith("<think>") or "<think>" not in thought


def _match_parts(text: str) -> dict[str, str | None]:
    """The parts of a text that is nothing else; none of them if it is."""
    match = _FORMAT.fullmatch(text)
    return {} if match is None else match.groupdict()


def _find_parts(text: str) -> dict[str, str | None]:
    """The first of each part, wherever it stands."""
    found: dict[str, str | None] = {}
    for name in _PARTS:  # not by one pattern, which would read on to the end from every mark that is not closed
        _, _, rest = text.partition(f"<{name}>")
        part, end, _ = rest.partition(f"</{name}>")
        found[name] = part if end else None
    return found


def _find_closing_brace(text: str, start: int) -> int | None:
    """The index of the brace that closes the one before ``start``."""
    depth = 1
    for brace in _BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.start()
    return None


def _is_allowed(kind: str, kinds: Collection[str] | None) -> bool:
    return bool(kind) and (kinds is None or kind in {_fold(allowed) for allowed in kinds})


def _fold(text: str) -> str:
    return " ".join(text.lower().split())
