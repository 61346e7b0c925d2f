"""Drafts: what a completion may go on with, looked up in its prompt and in the other completions.

Completions of one group, and answers to questions about one image, repeat each other. A draft is read together with the
token before it; the tokens that sampling would have drawn anyway are kept, so that a draft changes no sample, only how
many passes it takes (a pass over more tokens rounds otherwise, as one over another batch does). Source: LLMA, arXiv
2304.04487, and REST, arXiv 2311.08252.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

_LONGEST, _SHORTEST = 3, 2
"""Tokens that two places must share for the one to be expected to go on as the other did."""


class Drafts:
    """Texts, and what followed any few tokens in them.

    Args:
        never: Tokens that no draft has.

    Example:
        >>> drafts = Drafts(never={9})
        >>> drafts.add("a", [1, 5, 6, 7, 8, 9]), drafts.add("b", [5]), drafts.add("b", [6])
        (None, None, None)
        >>> drafts.propose("b", most=4), drafts.propose("b", most=1), drafts.propose("a", most=4)
        ([7, 8], [7], [])
    """

    def __init__(self, never: Collection[int]) -> None:
        self._never = never
        self._texts: dict[Hashable, list[int]] = {}
        self._places: dict[tuple[int, ...], tuple[list[int], int]] = {}

    def add(self, name: Hashable, tokens: Sequence[int]) -> None:
        """Tell how the text of that name goes on, or begins."""
        text = self._texts.setdefault(name, [])
        for token in tokens:
            text.append(token)
            at = len(text) - 1
            for length in range(_SHORTEST, min(_LONGEST, at) + 1):
                self._places[tuple(text[at - length : at])] = (text, at)  # the latest place counts

    def propose(self, name: Hashable, most: int) -> list[int]:
        """What a text may go on with, at most so many tokens; empty where nothing like its end was seen."""
        text = self._texts[name]
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            found = self._places.get(tuple(text[-length:]))
            if found is not None:
                where, start = found
                draft = where[start : start + most]
                ends = (i for i, token in enumerate(draft) if token in self._never)
                return draft[: next(ends, len(draft))]
        return []
