"""Word vectors learned from texts: the contract, what they know of words, and corpora of which nothing can be learned."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from topwork_plugins.word2vec import output_vectors
from topwork_plugins.word2vec.pretrain import WordsOptions, WordsPretrainer
from topwork_server import InvalidInput, PretrainResult
from topwork_server.testing import PretrainerContract
from topwork_server.testing.pretrainer import SUBJECTS, sentences


class TestWords(PretrainerContract):
    kind = "words"
    options = {"dim": 8, "min_count": 2}  # noqa: RUF012


def learn(texts: Sequence[str], out: Path, **options: Any) -> PretrainResult:
    out.mkdir(exist_ok=True)
    chosen = WordsOptions(**{"dim": 16, "min_count": 2, **options})
    return WordsPretrainer.pretrain(texts, None, chosen, 3, 1, out, lambda done, words: None)


@pytest.mark.parametrize("algorithm", ["cbow", "skip-gram"])
def test_output_vectors_predict_words_of_the_subject(tmp_path: Path, algorithm: str) -> None:
    subjects = [[f"{word}{number}" for word in subject] for number in range(5) for subject in SUBJECTS]
    chance = np.random.default_rng(0)
    texts = [" ".join(chance.choice(subjects[number % len(subjects)], 10)) for number in range(1500)]
    result = learn(texts, tmp_path, algorithm=algorithm, epochs=20, subsample=0.0)
    words = (tmp_path / "vectors.txt").read_text("utf-8").split()
    vectors, output = np.load(tmp_path / "vectors.npy"), np.load(tmp_path / "vectors.output.npy")
    assert output_vectors.training(tmp_path)["architecture"] == algorithm
    rows = {word: row for row, word in enumerate(words)}
    for subject, other in pairwise(subjects):
        scores = output @ vectors[[rows[word] for word in subject[:3]]].mean(axis=0)
        assert scores[[rows[word] for word in subject]].min() > scores[[rows[word] for word in other]].max()
    loss, found = result.measures
    assert loss.before == pytest.approx(6 * np.log(2), rel=1e-3)  # u is zero
    assert loss.after < loss.before
    assert (found.before, found.after) == (0.0, pytest.approx(1.0, abs=0.05))
    assert [entry["epoch"] for entry in result.history] == list(range(1, 21))


def test_words_are_split_and_joined(tmp_path: Path) -> None:
    texts = ["New York's owls don't fly, they say.", "I saw New York!", "New York (well-made) is far"] * 20
    learn(texts, tmp_path / "plain", lowercase=False)
    words = set((tmp_path / "plain" / "vectors.txt").read_text("utf-8").split())
    assert {"New", "York", "York's", "don't", "well-made", "say", "far"} <= words
    others = [" ".join(f"w{n}x{i}" for i in range(50)) for n in range(40)]
    learn([*texts, *others], tmp_path / "joined", phrases=True, min_count=5)
    assert "new_york" in (tmp_path / "joined" / "vectors.txt").read_text("utf-8").split()


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["owl owl owl", "owl"], "one word alone, 'owl'"),
        (["the red owl"], "no word comes 2 times"),
        (["red owl", "red whale"], "one word comes 2 times"),
        (["red", "owl", "red", "owl"], "no text has two"),
        (["?!", "..."], "no words"),
    ],
)
def test_a_corpus_without_words_to_learn_is_refused(texts: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=message):
        learn(texts, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_few_texts_and_a_time_limit_are_warned_of(tmp_path: Path) -> None:
    result = learn(sentences(20), tmp_path / "few")
    [loss] = result.measures
    assert loss.name == "loss of learned texts"
    assert loss.before == pytest.approx(6 * np.log(2), rel=1e-3)
    assert all({"epoch", loss.name} == set(entry) for entry in result.history)  # among ten words one is found by chance
    assert "too few" in result.warnings[0]
    assert "a small corpus: 200 words" in result.warnings[1]
    assert "hardly anything" in result.warnings[2]
    assert not [word for word in learn(sentences(20), tmp_path / "more", epochs=200).warnings if "hardly" in word]
    limited = learn(sentences(300), tmp_path / "limited", epochs=10_000, max_seconds=0.2)
    assert "max_seconds" in limited.warnings[-1]
    assert len(limited.history) < 10_000
