"""Small pictures of one colour, encoded, and tables of them."""

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image


def picture(value: int, size: tuple[int, int] = (6, 4), mode: str = "RGB") -> Image.Image:
    """A width x height picture of one colour (value, value / 2, 0), or of one grey."""
    return Image.new(mode, size, (value, value // 2, 0) if mode == "RGB" else value)


def encoded(value: int, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    picture(value, **options).save(out, kind, **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


def write_table(path, images: list[bytes | None], labels: list, label: str = "label", names=None, image: str = "img"):
    columns = {
        image: pa.array(
            [{"bytes": b, "path": None} for b in images], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        ),
        label: pa.array(labels),
    }
    table = pa.table(columns)
    if names:
        features = {image: {"_type": "Image"}, label: {"_type": "ClassLabel", "names": names}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text
