"""Digits by label, judged by a classifier that has seen real digits alone."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from scidiffusion import ImageDiffusion
from scidiffusion.images import (
    ImageJudge,
    closer_share,
    copied_share,
    diversity,
    frechet_distance,
    label_precision,
    load_digits,
)


def test_the_judge_knows_real_digits():
    X, y = load_digits()
    train, test, train_y, test_y = train_test_split(
        X, y, test_size=0.3, stratify=y, random_state=0
    )
    judge = ImageJudge().fit(train, train_y)
    assert label_precision(judge.predict(test), test_y) >= 0.97


@pytest.mark.slow
def test_digits_show_their_label_and_are_no_copies():
    X, y = load_digits()
    train, test, train_y, _ = train_test_split(X, y, test_size=0.3, stratify=y, random_state=0)
    judge = ImageJudge().fit(train, train_y)
    features = judge.features(X)
    halves = [
        train_test_split(features, test_size=0.5, stratify=y, random_state=k) for k in range(5)
    ]
    model = ImageDiffusion(max_steps=1500, random_state=0, progress=False, device="cpu")
    model.fit(train, train_y)
    labels = np.resize(np.arange(10), len(halves[0][0]))
    drawn = {
        scale: model.sample(len(labels), conditions=labels, guidance_scale=scale, random_state=0)
        for scale in (1.0, 3.0)
    }
    found = {scale: judge.predict(images) for scale, images in drawn.items()}
    assert label_precision(found[1.0], labels) >= 0.95
    assert label_precision(found[3.0], labels) >= label_precision(found[1.0], labels)
    plain = judge.features(drawn[1.0])
    distance = np.mean([frechet_distance(plain, half) for _, half in halves])
    assert distance < 1.5 * np.mean([frechet_distance(*pair) for pair in halves])
    assert diversity(drawn[3.0], labels) < diversity(drawn[1.0], labels)
    assert copied_share(drawn[1.0], train) <= copied_share(test, train)
    assert closer_share(drawn[1.0], train, test) <= closer_share(test, train, test)
