"""Small preference sets in the layouts that users have: Pick-a-Pic's Parquet columns, two folders, suffixed files, a table."""

from __future__ import annotations

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
from tiny_stable_diffusion import TEXTS

# The public columns of yuvalkirstain/pickapic_v2, in its order.
PICKAPIC = pa.schema(
    [
        ("are_different", pa.bool_()), ("best_image_uid", pa.string()), ("caption", pa.string()), ("created_at", pa.timestamp("ns")),
        ("has_label", pa.bool_()), ("image_0_uid", pa.string()), ("image_0_url", pa.string()), ("image_1_uid", pa.string()),
        ("image_1_url", pa.string()), ("jpg_0", pa.binary()), ("jpg_1", pa.binary()), ("label_0", pa.float64()), ("label_1", pa.float64()),
        ("model_0", pa.string()), ("model_1", pa.string()), ("ranking_id", pa.int64()), ("user_id", pa.int64()),
        ("num_example_per_prompt", pa.int64()), ("__index_level_0__", pa.int64()),
    ]
)  # fmt: skip


def picture(number: int, size: tuple[int, int] = (32, 32), kind: str = "PNG") -> bytes:
    """An encoded picture of random blocks, another one for each number; size is (width, height)."""
    blocks = np.random.default_rng(number).integers(0, 256, (4, 4, 3), np.uint8)
    stream = BytesIO()
    PIL.Image.fromarray(blocks).resize(size, PIL.Image.Resampling.BICUBIC).save(stream, kind)
    return stream.getvalue()


def save_pickapic(folder: Path, count: int = 10) -> Path:
    """Parquet files with the exact columns: pictures of several models and sizes; every fifth row is a tie, the others alternate."""
    folder.mkdir(parents=True)
    rows = []
    for index in range(count):
        label = 0.5 if index % 5 == 4 else float(index % 2)
        size = ((32, 32), (48, 48), (40, 64))[index % 3]
        uids = (f"{index:08x}-0", f"{index:08x}-1")
        rows.append(
            {
                "are_different": True, "best_image_uid": "tie" if label == 0.5 else uids[int(label == 0)],
                "caption": TEXTS[index % len(TEXTS)], "created_at": 1_680_000_000_000_000_000 + index, "has_label": True,
                "image_0_uid": uids[0], "image_1_uid": uids[1],
                "image_0_url": f"https://example.org/{uids[0]}.png", "image_1_url": f"https://example.org/{uids[1]}.png",
                "jpg_0": picture(2 * index, size, "JPEG"), "jpg_1": picture(2 * index + 1, (32, 32), "JPEG"),
                "label_0": label, "label_1": 1 - label,
                "model_0": "stabilityai/stable-diffusion-2-1", "model_1": "dreamlike-art/dreamlike-photoreal-2.0",
                "ranking_id": 1000 + index, "user_id": index % 3, "num_example_per_prompt": 2, "__index_level_0__": index,
            }
        )  # fmt: skip
    half = len(rows) // 2
    for number, part in enumerate((rows[:half], rows[half:])):
        pq.write_table(pa.Table.from_pylist(part, schema=PICKAPIC), folder / f"train-{number:05d}-of-00002.parquet")
    return folder


def save_two_folders(folder: Path, count: int = 6) -> Path:
    """chosen/NAME.png, rejected/NAME.jpg and chosen/NAME.txt."""
    for side in ("chosen", "rejected"):
        (folder / side).mkdir(parents=True)
    for index in range(count):
        (folder / "chosen" / f"{index}.png").write_bytes(picture(2 * index))
        (folder / "rejected" / f"{index}.jpg").write_bytes(picture(2 * index + 1, (48, 32), "JPEG"))
        (folder / "chosen" / f"{index}.txt").write_text(TEXTS[index % len(TEXTS)] + "\n", encoding="utf-8")
    return folder


def save_suffix_folder(folder: Path, count: int = 6) -> Path:
    """NAME_w.png, NAME_l.png and NAME.txt, with the pictures of `save_two_folders`."""
    folder.mkdir(parents=True)
    for index in range(count):
        (folder / f"{index}_w.png").write_bytes(picture(2 * index))
        (folder / f"{index}_l.jpg").write_bytes(picture(2 * index + 1, (48, 32), "JPEG"))
        (folder / f"{index}.txt").write_text(TEXTS[index % len(TEXTS)] + "\n", encoding="utf-8")
    return folder


def save_table(folder: Path, count: int = 6) -> Path:
    """pairs.csv with prompt, chosen, rejected: the pictures of `save_two_folders`, by relative paths."""
    folder.mkdir(parents=True)
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "chosen", "rejected"])
        for index in range(count):
            (folder / f"a{index}.png").write_bytes(picture(2 * index))
            (folder / f"b{index}.jpg").write_bytes(picture(2 * index + 1, (48, 32), "JPEG"))
            table.writerow([TEXTS[index % len(TEXTS)], f"a{index}.png", f"b{index}.jpg"])
    return folder / "pairs.csv"
