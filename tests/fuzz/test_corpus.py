"""Every input of the corpus, and some thousands made of them, through the parsers of untrusted bytes."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
_MUTATIONS = 1000
_LONGEST_SECS = 2.0
"Far above what any input takes, far below what one that explodes takes."


def corpus_of(target: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((CORPUS / target).iterdir())}


def test_every_target_has_a_corpus_and_every_corpus_a_target() -> None:
    assert {path.name for path in CORPUS.iterdir()} == TARGETS.keys()
    assert all(len(corpus_of(target)) >= 5 for target in TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_input_of_the_corpus_is_taken_or_refused_as_it_should_be(target: str) -> None:
    for name, data in corpus_of(target).items():
        start = time.monotonic()
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"{target}/{name}") from error
        assert time.monotonic() - start < _LONGEST_SECS, name


@pytest.mark.parametrize("target", TARGETS)
def test_input_made_of_the_corpus_is_taken_or_refused_as_it_should_be(target: str) -> None:
    corpus = list(corpus_of(target).values())
    chance = random.Random(target)
    for _ in range(_MUTATIONS):
        data = mutated(corpus, chance)
        try:
            TARGETS[target](data)
        except Exception as error:
            raise AssertionError(f"{target}: {data!r}") from error
