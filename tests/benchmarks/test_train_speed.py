"""benchmarks/train_speed.py and allocator.py, on a few steps of a small network."""

import pytest


@pytest.fixture
def setting():
    from train_speed import Setting

    return Setting("resnet20", 32, 10, 4, steps=2, warm=1)


def test_the_engine_and_a_loop_by_hand_are_compared_in_pairs(setting):
    from train_speed import CASES, measured, table

    case = next(case for case in CASES if case.hand and not case.runtime.get("compile"))
    rate = measured(setting, case)
    assert rate.images > 0 and 0.05 < rate.pair < 20
    text = "\n".join(table([case], {case.name: [rate]}, 50_000))
    assert f"Engine to {case.name}: {rate.pair:.3f} of its speed in pairs of steps" in text


def test_of_two_processes_one_speaks(setting):
    from train_speed import Case, remote

    rate = remote(setting, Case("two", processes=2), threads=2)
    assert rate.images > 0 and rate.pair is None


def test_kept_memory_changes_no_weight(setting, monkeypatch):
    from allocator import CASES, measured

    import prunus.engine.memory

    monkeypatch.setattr(prunus.engine.memory, "allocator", prunus.engine.memory.allocator)  # put back afterwards
    kept = measured(setting, CASES[0])
    monkeypatch.setenv("PRUNUS_BENCHMARK_ALLOCATOR", "default")
    default = measured(setting, CASES[0])
    assert prunus.engine.memory.allocator() is None
    assert kept["weights"] == default["weights"] and kept["seconds"] > 0 and kept["bytes"] > 0
