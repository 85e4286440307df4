"""benchmarks/records.py: which record is found, and records that other processes make."""

from __future__ import annotations

from pathlib import Path

import pytest

from prunus.errors import InputError


def test_the_last_record_with_the_whole_key_is_found(tmp_path: Path) -> None:
    from records import append, as_json, known, read, wanted

    path = tmp_path / "new" / "r.jsonl"
    key = as_json({"seed": 0, "settings": {"mean": (0.5, 0.25)}})
    assert read(path) == [] and known(path, key) is None
    for value in (1, 2):
        append(path, {**key, "value": value})
    append(path, {"seed": 0, "settings": {"mean": [0.5]}, "value": 3})
    assert known(path, key) == {**key, "value": 2} and known(path, {**key, "row": "a"}) is None
    assert [record["value"] for record in wanted(path, lambda record: record["value"] > 1)] == [2, 3]
    with pytest.raises(InputError, match="no records"):
        wanted(path, lambda record: False)


@pytest.mark.parametrize(
    ("code", "record", "why"),
    [
        ("print('noise'); print('{\"a\": 1}')", {"a": 1}, ""),
        ("print('{}'); raise SystemExit('no luck')", None, "no luck"),
        ("pass", None, "no output"),
        ("import time; time.sleep(60)", None, "more than 2 s"),
    ],
)
def test_a_record_from_a_process_of_its_own(code: str, record: object, why: str, tmp_path: Path) -> None:
    from records import made_apart

    script = tmp_path / "script.py"
    script.write_text(code)
    assert made_apart(str(script), [], 2) == (record, why)
