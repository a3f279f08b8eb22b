"""Number words, English and German, by rule: parallel text that needs no download."""

from __future__ import annotations

import numpy as np

import topo

__all__ = ["LARGEST", "english", "german", "number_words"]

LARGEST = 999_999
HELD_OUT = 500
"""Pairs of the validation and of the test split each."""

_EN = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_EN_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_DE = [
    "null",
    "ein",
    "zwei",
    "drei",
    "vier",
    "fünf",
    "sechs",
    "sieben",
    "acht",
    "neun",
    "zehn",
    "elf",
    "zwölf",
    "dreizehn",
    "vierzehn",
    "fünfzehn",
    "sechzehn",
    "siebzehn",
    "achtzehn",
    "neunzehn",
]
_DE_TENS = ["zwanzig", "dreißig", "vierzig", "fünfzig", "sechzig", "siebzig", "achtzig", "neunzig"]
_SIGNS = {"plus": "plus", "minus": "minus", "times": "mal", "divided by": "geteilt durch"}


def english(number: int) -> str:
    """A number from 0 to 999,999 in English words.

    Examples
    --------
    >>> from dst.tasks.number_words import english
    >>> english(342), english(17001)
    ('three hundred forty-two', 'seventeen thousand one')
    """
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        return f"{english(thousands)} thousand" + (f" {english(rest)}" if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{_EN[hundreds]} hundred" + (f" {english(rest)}" if rest else "")
    if number >= 20:
        tens, ones = divmod(number, 10)
        return _EN_TENS[tens - 2] + (f"-{_EN[ones]}" if ones else "")
    return _EN[number]


def german(number: int) -> str:
    """A number from 0 to 999,999 in German: one word, ones before tens.

    Examples
    --------
    >>> from dst.tasks.number_words import german
    >>> german(342), german(17001)
    ('dreihundertzweiundvierzig', 'siebzehntausendeins')
    """
    return _german(number) + ("s" if number % 100 == 1 else "")


def _german(number: int) -> str:
    """As it is within a longer number: ein, not eins."""
    if number >= 1000:
        thousands, rest = divmod(number, 1000)
        return f"{_german(thousands)}tausend" + (_german(rest) if rest else "")
    if number >= 100:
        hundreds, rest = divmod(number, 100)
        return f"{_DE[hundreds]}hundert" + (_german(rest) if rest else "")
    if number >= 20:
        tens, ones = divmod(number, 10)
        return (f"{_DE[ones]}und" if ones else "") + _DE_TENS[tens - 2]
    return _DE[number]


def number_words(sentences: int, largest: int) -> dict[str, list[tuple[str, str]]]:
    """Sums and products in words, such as ("two times forty", "zwei mal vierzig").

    Parameters
    ----------
    sentences : int
        Pairs in the training split; 500 each are for validation and test.
    largest : int
        No number is above it, from 99 to 999,999. Numbers of few digits are as frequent as others.

    Returns
    -------
    dict of str to list of (English, German)
        The splits "train", "valid" and "test", always the same for the same arguments. All
        sentences differ: a hash of the sentence says which split it belongs to.

    Raises
    ------
    ValueError
        If one of the arguments is out of range.

    Examples
    --------
    >>> from dst.tasks.number_words import number_words
    >>> number_words(100, 999)["train"][0]
    ('sixty-eight plus ninety-three', 'achtundsechzig plus dreiundneunzig')
    """
    if not 99 <= largest <= LARGEST:
        raise ValueError(f"number words go up to a number from 99 to {LARGEST}, not {largest!r}")
    if not 1 <= sentences <= 1_000_000:
        raise ValueError(f"number words make 1 to 1,000,000 training pairs, not {sentences!r}")
    wanted = {"train": sentences, "valid": HELD_OUT, "test": HELD_OUT}
    splits: dict[str, list[tuple[str, str]]] = {name: [] for name in wanted}
    seen: set[str] = set()
    start, block = 0, 4096
    while any(len(splits[name]) < wanted[name] for name in wanted):
        for pair in _pairs(np.arange(start, start + block), largest):
            split = splits[_split(pair[0])]
            if pair[0] not in seen and len(split) < wanted[_split(pair[0])]:
                seen.add(pair[0])
                split.append(pair)
        start += block
    return splits


def _split(sentence: str) -> str:
    place = topo.stream(0, "number-words", sentence) % 20
    return {0: "valid", 1: "test"}.get(place, "train")


def _pairs(indices: np.ndarray, largest: int) -> list[tuple[str, str]]:
    """The pairs of these indices, each a function of its index alone."""

    def draw(purpose: str, choices: int | np.ndarray) -> np.ndarray:
        # at most four numbers a sentence, three signs between them
        hashes = topo.hash_links(
            topo.stream(0, "number-words", purpose),
            np.repeat(indices, 4),
            np.tile(range(4), len(indices)),
        )
        return (topo.uniform(hashes) * choices).astype(np.int64).reshape(-1, 4)

    digits = draw("digits", len(str(largest)))
    low = np.where(digits > 0, 10**digits, 0)
    high = np.minimum(10 ** (digits + 1), largest + 1)
    numbers = low + draw("numbers", (high - low).ravel())
    signs = draw("signs", len(_SIGNS))
    lengths = draw("lengths", 3)[:, 0] + 2
    words = list(_SIGNS.items())
    pairs = []
    for row, marks, length in zip(numbers.tolist(), signs.tolist(), lengths.tolist(), strict=True):
        en, de = english(row[0]), german(row[0])
        for number, mark in zip(row[1:length], marks, strict=False):
            en += f" {words[mark][0]} {english(number)}"
            de += f" {words[mark][1]} {german(number)}"
        pairs.append((en, de))
    return pairs
