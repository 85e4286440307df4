"""Learning rates by hand."""

import pytest

from prunus.engine.config import Fit
from prunus.engine.optimizer import factor
from prunus.engine.schedule import cosine, multistep, onecycle


def test_cosine_by_hand():
    # cos of 0, 60, 90 and 120 degrees
    assert [round(cosine(step, 6), 12) for step in (0, 2, 3, 4)] == [1.0, 0.75, 0.5, 0.25]


def test_cosine_after_a_warmup_starts_at_one_and_ends_like_a_shorter_one():
    assert [cosine(step, 10, warmup=4) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert [cosine(step, 10, warmup=4) for step in range(4, 10)] == [cosine(step, 6) for step in range(6)]


def test_multistep_by_hand():
    assert [multistep(step, (2, 4), 0.1) for step in range(5)] == pytest.approx([1, 1, 0.1, 0.1, 0.01])


def test_multistep_milestones_count_from_the_first_step_even_with_warmup():
    assert [multistep(step, (3,), 0.5, warmup=2) for step in range(4)] == [0.5, 1.0, 1.0, 0.5]


def test_published_cifar_schedule_in_epochs():
    config = Fit(epochs=300, schedule="steps", steps=(150, 225))
    per_epoch = 196
    assert factor(config, 150 * per_epoch - 1, per_epoch) == 1.0
    assert factor(config, 150 * per_epoch, per_epoch) == pytest.approx(0.1)
    assert factor(config, 225 * per_epoch, per_epoch) == pytest.approx(0.01)


def test_warmup_in_fractions_of_an_epoch():
    config = Fit(epochs=2, warmup=0.5)
    assert [factor(config, step, 8) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(config, 10, 8) == pytest.approx(0.5)  # half way through the 12 steps that remain


def test_one_cycle_by_hand():
    # up over 3 of 10 steps, then half a cosine over the 6 that lead to the last
    found = [onecycle(step, 10) for step in range(10)]
    assert found[0] == pytest.approx(0.04)
    assert found[3] == pytest.approx(1.0)
    assert found[6] == pytest.approx(0.5, abs=1e-4)
    assert found[9] == pytest.approx(1e-5)
    assert found[1] == pytest.approx(0.04 + 0.96 * 0.25)  # cos 120°, raised
