"""The hint of an error about a word that is not known."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """' (did you mean …?)', or nothing where no known word is near. Up to three words that begin with it are nearer than any other."""
    words = list(known)
    longer = [each for each in words if each.startswith(str(word))] if word else []
    near = longer if 0 < len(longer) <= 3 else get_close_matches(str(word), words, n=1)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
