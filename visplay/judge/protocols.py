"""What a judge is sent and how its reply is read."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any, Protocol

from visplay.judge.config import JudgeConfig, JudgeItem, Ruling
from visplay.prompts import JUDGE, JUDGE_GRADED, JUDGE_PAPER

STEPS = 10  # a graded score is a multiple of one tenth
_CONTROL = re.compile(r"<(?!\s|=|(?:AND|OR)>)|\[(?=/?[A-Z_]+\])")
_PAPER_BOX = re.compile(r"\\boxed\{([^}]+)\}")
_PAPER_YES = frozenset({"1", "correct", "yes", "true"})


class MalformedReplyError(ValueError):
    """A judge's reply that is no verdict; ``kind`` is one of ``visplay.judge.config.FAILURES``."""

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class JudgeProtocol(Protocol):
    """A way to ask a judge.

    Attributes:
        suffix: Ends the name of a judge that is asked so; empty for the default.
        takes_completion: Whether an item's prediction is the whole completion, which the protocol cuts itself.
        grades: Whether a score is given where one is wanted.
    """

    suffix: str
    takes_completion: bool
    grades: bool

    def fields(self, item: JudgeItem) -> dict[str, str]:
        """The texts of an item that the judge is shown, as it is shown them."""

    def request(self, item: JudgeItem, nonce: str) -> dict[str, Any]:
        """The fields of a chat-completions request that this protocol decides."""

    def read(self, text: str, graded: bool) -> Ruling:
        """Read a reply.

        Raises:
            MalformedReplyError: It is no verdict.
        """


class JsonProtocol:
    """Question, gold and prediction as JSON fields under a nonce, and a verdict by JSON schema, at temperature 0."""

    suffix = ""
    takes_completion = False
    grades = True

    def fields(self, item: JudgeItem) -> dict[str, str]:
        """Question, gold and prediction."""
        return {"question": item.question, "gold": item.gold, "prediction": item.prediction}

    def request(self, item: JudgeItem, nonce: str) -> dict[str, Any]:
        """Messages with the item under the nonce, the schema, and the temperature."""
        template = JUDGE_GRADED if item.graded else JUDGE
        assert template.system is not None
        return {
            "messages": [
                {"role": "system", "content": template.system.format(nonce=nonce)},
                {"role": "user", "content": template.user.format(row=_data_json({nonce: self.fields(item)}))},
            ],
            "temperature": 0.0,
            "response_format": {"type": "json_schema", "json_schema": _schema(item.graded)},
        }

    def read(self, text: str, graded: bool) -> Ruling:
        """Read ``{"correct": true}``, with ``"score": 0.8`` if graded, and nothing else.

        Raises:
            MalformedReplyError: It is not JSON (``malformed``), or of another form (``wrong_schema``): other fields,
                other types, a score between two steps, full marks for a wrong answer or none for a right one.
        """
        try:
            reply = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise MalformedReplyError("malformed") from error
        expected = {"correct", "score"} if graded else {"correct"}
        if not isinstance(reply, dict) or set(reply) != expected or type(reply["correct"]) is not bool:
            raise MalformedReplyError("wrong_schema")
        score = read_score(reply["score"]) if graded else None
        if score == (0.0 if reply["correct"] else 1.0):
            raise MalformedReplyError("wrong_schema")
        return Ruling(reply["correct"], score)


class PaperProtocol:
    """As the released evaluation asked: without the question, temperature 0.6, texts in the prompt, a word back.

    The prediction is ``paper_prediction`` of the completion. A reply that is not one of the words for yes is a no.
    """

    suffix = "-paper"
    takes_completion = True
    grades = False

    def fields(self, item: JudgeItem) -> dict[str, str]:
        """Gold and prediction."""
        return {"gold": _encodable(item.gold), "prediction": _encodable(paper_prediction(item.prediction))}

    def request(self, item: JudgeItem, nonce: str) -> dict[str, Any]:
        """Messages and temperature; there is no nonce."""
        messages = [
            {"role": "system", "content": JUDGE_PAPER.system},
            {"role": "user", "content": JUDGE_PAPER.user.format(**self.fields(item))},
        ]
        return {"messages": messages, "temperature": 0.6}

    def read(self, text: str, graded: bool) -> Ruling:
        """Read a word; a grade is never given."""
        return Ruling(text.strip().lower() in _PAPER_YES)


PROTOCOLS: dict[str, JudgeProtocol] = {"json": JsonProtocol(), "paper": PaperProtocol()}


def paper_prediction(completion: str) -> str:
    r"""What the released evaluation took for the answer: the last box up to its first brace, else 100 characters.

    Example:
        >>> paper_prediction(r"So \boxed{\frac{1}{2}}"), paper_prediction(" B ")
        ('\\frac{1', 'B')
    """
    boxes = _PAPER_BOX.findall(completion)
    return boxes[-1].strip() if boxes else completion.strip()[:100]


def read_score(value: object) -> float:
    """Read a score in [0, 1] that is a multiple of 0.1; a MalformedReplyError (``wrong_schema``) if it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise MalformedReplyError("wrong_schema")
    steps = round(value * STEPS)
    if abs(value * STEPS - steps) > 1e-9:
        raise MalformedReplyError("wrong_schema")
    return steps / STEPS


def request_body(config: JudgeConfig, item: JudgeItem, nonce: str) -> dict[str, Any]:
    """The chat-completions request that asks for a ruling on an item."""
    body = {"model": config.model, "max_tokens": config.max_tokens, **PROTOCOLS[config.protocol].request(item, nonce)}
    return {name: value for name, value in (body | config.request_options).items() if value is not None}


def content_key(config: JudgeConfig, item: JudgeItem) -> str:
    """The cache's key: a hash of the request without its nonce, so that only an equal request meets its verdict."""
    content = json.dumps(request_body(config, item, nonce=""), sort_keys=True, default=str)
    return hashlib.sha256(content.encode()).hexdigest()


def _schema(graded: bool) -> dict[str, Any]:
    properties: dict[str, Any] = {"correct": {"type": "boolean"}}
    if graded:
        properties["score"] = {"type": "number", "enum": [step / STEPS for step in range(STEPS + 1)]}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return {"name": "verdict", "strict": True, "schema": schema}


def _data_json(fields: dict[str, Any]) -> str:
    """JSON without any control token of a chat template: its first character is written as an escape."""
    text = _encodable(json.dumps(fields, ensure_ascii=False))
    return _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _encodable(text: str) -> str:
    """The text with lone surrogates, which no request can carry, replaced."""
    return text.encode(errors="replace").decode()
