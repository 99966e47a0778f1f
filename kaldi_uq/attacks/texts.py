"""Texts of utterances as users give them: words, or one string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Texts = Mapping[str, "str | Sequence[str]"]


def as_words(text: str | Sequence[str]) -> list[str]:
    """A text as words.

    >>> as_words("one two"), as_words(["one", "two"])
    (['one', 'two'], ['one', 'two'])
    """
    return text.split() if isinstance(text, str) else list(text)


def require_texts(name: str, texts: object) -> None:
    """Refuse texts that do not say whose they are.

    Raises:
        TypeError: no mapping, and not ``None``.
    """
    if texts is not None and not isinstance(texts, Mapping):
        raise TypeError(f"{name} must say whose, such as {{'a': 'one two'}}, got {type(texts).__name__} {texts!r:.60}")


def shown(texts: Texts) -> str:
    """The first of some texts, and how many more there are.

    >>> shown({"a": "one two", "b": ["three"]})
    "{'a': 'one two', and 1 more}"
    """
    first = "".join(f"{utt!r}: {' '.join(as_words(texts[utt]))!r:.60}" for utt in [*texts][:1])
    return f"{{{first}{f', and {len(texts) - 1} more' if len(texts) > 1 else ''}}}"
