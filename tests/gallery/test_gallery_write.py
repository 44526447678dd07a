"""The gallery folder: its structure, that nothing from the data can break out of it, and that it is never half there."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffalign.gallery import Column, Comparison, Curve, PairRow, Row, Sample, SummaryLine
from diffalign.gallery.scripts import finite, script_json
from diffalign.gallery.write import PAGE, write_gallery

HOSTILE = "</script><img src=x onerror=alert(1)> <!-- & \u2028\u2029 ' \" \\ \ud800 é"
COLUMNS = (Column("base"), Column("dpo", "step 400"))


@dataclass(frozen=True)
class Plain:
    """One colour; counts how often it was asked for its pixels."""

    value: int = 0
    height: int = 8
    width: int = 8

    def pixels(self) -> np.ndarray:
        return np.full((self.height, self.width, 3), self.value, np.uint8)


def sample(value: int = 0, **scores: float) -> Sample:
    return Sample(Plain(value % 256), {name.replace("_", "."): score for name, score in scores.items()}, f"id-{value}")


def rows(count: int, columns: int = 2) -> Iterator[Row]:
    for index in range(count):
        samples = tuple(sample(index + column, shapes_overall=index / count + column) for column in range(columns))
        yield Row(f"prompt {index}", index, samples, {"task": "counting" if index % 2 else "two"})


def read_script(path: Path) -> tuple[str, object]:
    """What a data file hands to the page, read the way a browser would: galleryData(name, value);"""
    match = re.fullmatch(r"galleryData\((\"[^\"]+\"),(.*)\);\n", path.read_text("ascii"), re.DOTALL)
    assert match, path
    return json.loads(match[1]), json.loads(match[2])


def size_of(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        return image.size


def test_the_folder_holds_page_data_and_media(tmp_path: Path) -> None:
    pair = PairRow("a pair", sample(1, clip_score=0.5), sample(2, clip_score=0.25), 0.25, ("tie",), {"task": "two"})
    summary = SummaryLine("shapes.overall", 0.5, 0.6, 0.1, 0.05, 0.15, "dpo")
    comparison = Comparison(COLUMNS, rows(101), {"steps": "20"}, (summary,))
    curves, roles = [Curve("dpo", [(0, 0.7), (1, 0.6)], "loss")], {"shapes.overall": "same reward", "elsewhere": "guard"}
    index = write_gallery(tmp_path / "gallery", comparison, [pair], curves, title="A title", roles=roles)

    assert index == tmp_path / "gallery" / "index.html"
    folder = index.parent
    assert sorted(path.name for path in folder.iterdir()) == ["data", "index.html", "media", "page"]
    assert {path.name for path in (folder / "page").iterdir()} == {path.name for path in PAGE.iterdir()} - {"index.html"}

    name, header = read_script(folder / "data/gallery.js")
    assert name == "gallery"
    assert isinstance(header, dict)
    assert header["title"] == "A title"
    assert header["compare"]["count"] == 101
    assert header["compare"]["columns"] == [{"name": "base", "detail": ""}, {"name": "dpo", "detail": "step 400"}]
    assert header["compare"]["settings"] == [["steps", "20"]]
    assert header["compare"]["scores"] == ["shapes.overall"]
    assert header["compare"]["roles"] == ["same reward"]
    assert (header["compare"]["summary"][0]["change"], header["compare"]["summary"][0]["role"]) == (0.1, "same reward")
    assert header["pairs"] == {
        "scores": ["clip.score"],
        "roles": [None],
        "count": 1,
        "kind": "image",
        "width": 8,
        "height": 8,
        "tiny": True,
    }

    name, lines = read_script(folder / "data/compare.js")
    assert name == "compare"
    assert isinstance(lines, list)
    assert lines[1] == ["prompt 1", {"task": "counting"}, [[finite(1 / 101)], [finite(1 / 101 + 1)]], "1"]
    name, chunk = read_script(folder / "data/compare/0001.js")
    assert name == "compare/0001"
    assert chunk == [
        [
            {"kind": "image", "id": "id-100", "src": "media/000/000200.webp", "width": 8, "height": 8, "tiny": True},
            {"kind": "image", "id": "id-101", "src": "media/000/000201.webp", "width": 8, "height": 8, "tiny": True},
        ]
    ]
    assert read_script(folder / "data/pairs.js")[1] == [["a pair", {"task": "two"}, [[0.5], [0.25]], 0.25, ["tie"]]]
    assert read_script(folder / "data/curves.js")[1] == [{"name": "dpo", "group": "loss", "points": [[0, 0.7], [1, 0.6]]}]


def test_segments_and_context_stand_only_where_there_are_some(tmp_path: Path) -> None:
    bare = PairRow("p", sample(), sample(), 0.0)
    pairs = [bare, PairRow("q", sample(), sample(), 0.0, segments=(1, 0, -1), context="colour"), replace(bare, segments=(0,))]
    folder = write_gallery(tmp_path / "gallery", None, pairs, title="t").parent
    lines = read_script(folder / "data/pairs.js")[1]
    assert isinstance(lines, list)
    assert [line[5:] for line in lines] == [[], [{"segments": [1, 0, -1], "context": "colour"}], [{"segments": [0]}]]
    with pytest.raises(ValueError, match=r"pair 0 \('p'\): a segment is labelled 2; give 1 \(chosen better\), −1 \(rejected better\) or 0"):
        write_gallery(tmp_path / "other", None, [replace(bare, segments=(1, 2))], title="t")


def test_what_prompts_came_with_stands_beside_them_and_is_no_sample(tmp_path: Path) -> None:
    given = [replace(row, condition=Plain(5, 8, 16)) if index else row for index, row in enumerate(rows(2))]
    pair, written = PairRow("p", sample(), sample(), 0.0, condition=Plain(6, 300, 150)), []
    comparison = Comparison([Column("base"), Column("dpo")], given)
    folder = write_gallery(tmp_path / "gallery", comparison, [pair], title="t", progress=written.append).parent
    first, second = read_script(folder / "data/compare.js")[1]  # type: ignore[misc]
    assert len(first) == 4 and second[4]["condition"]["kind"] == "image"
    assert size_of(folder / second[4]["condition"]["src"]) == (16, 8)
    [[*_, more]] = read_script(folder / "data/pairs.js")[1]  # type: ignore[misc]
    assert size_of(folder / more["condition"]["src"]) == (128, 256) and (more["condition"]["width"], more["condition"]["height"]) == (
        150,
        300,
    )
    assert written == list(range(1, 7))


def test_every_file_that_the_page_names_exists_and_none_is_remote(tmp_path: Path) -> None:
    folder = write_gallery(tmp_path / "gallery", Comparison(COLUMNS, rows(2)), title="t").parent
    page = (folder / "index.html").read_text("utf-8")
    named = re.findall(r'(?:src|href)="([^"#]+)"', page)
    assert all((folder / name).is_file() for name in named if name != "data:,"), named
    for path in [folder / "index.html", *(folder / "page").iterdir()]:
        text = path.read_text("utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//cdn|@import|fetch\(|XMLHttpRequest", text), path.name


def test_no_script_of_the_page_turns_text_into_markup() -> None:
    for path in PAGE.glob("*.js"):
        text = path.read_text("utf-8")
        forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|setAttribute\(\"(?:on|style)"
        assert not re.search(forbidden, text), path.name
        code = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        modern = r"=>|`|^\s*(?:let|const|class|import|export)\b"  # the scripts are ES5 and classic: they run from disk
        assert not re.search(modern, code, re.MULTILINE), path.name
    assert "'unsafe" not in (PAGE / "index.html").read_text("utf-8")


def test_hostile_text_stays_text_in_every_data_file(tmp_path: Path) -> None:
    hostile = Sample(Plain(), {HOSTILE: 1.0}, HOSTILE)
    row = Row(HOSTILE, 2**64 - 1, (hostile, hostile), {HOSTILE: HOSTILE})
    line = SummaryLine(HOSTILE, 0, 1, 1, 0, 2, HOSTILE)
    comparison = Comparison((Column("base", HOSTILE), Column(HOSTILE)), [row], {HOSTILE: HOSTILE}, (line,))
    pair = PairRow(HOSTILE, hostile, hostile, 0.0, (HOSTILE,), {HOSTILE: HOSTILE})
    curves = [Curve(HOSTILE, [(0, 1.0)], HOSTILE)]
    folder = write_gallery(tmp_path / "gallery", comparison, [pair], curves, title=HOSTILE, roles={HOSTILE: "trained"}).parent
    for path in folder.rglob("data/**/*.js"):
        text = path.read_text("ascii")  # no raw U+2028, no surrogate
        assert not set("<>&") & set(text), path.name
    assert read_script(folder / "data/compare.js")[1] == [[HOSTILE, {HOSTILE: HOSTILE}, [[1.0], [1.0]], str(2**64 - 1)]]
    assert "script" not in "".join(str(path.relative_to(folder)) for path in (folder / "media").rglob("*"))
    assert HOSTILE not in (folder / "index.html").read_text("utf-8")


def test_script_json_escapes_what_ends_a_script_or_a_line() -> None:
    assert script_json("</script>&\u2028\u2029") == r'"\u003c/script\u003e\u0026\u2028\u2029"'
    with pytest.raises(ValueError, match="Out of range"):
        script_json(float("nan"))


def test_scores_that_are_not_finite_become_null(tmp_path: Path) -> None:
    scores = {"a": float("nan"), "b": float("inf"), "c": np.float32(0.1)}
    row = Row("p", 0, (Sample(Plain(), scores), None))
    pair = PairRow("p", sample(), sample(), float("-inf"))
    curve = Curve("c", [(0, float("nan")), (np.int64(1), np.float64(2.0))], "g")
    folder = write_gallery(tmp_path / "gallery", Comparison(COLUMNS, [row]), [pair], [curve], title="t").parent
    assert read_script(folder / "data/compare.js")[1] == [["p", {}, [[None, None, 0.1], None], "0"]]
    assert read_script(folder / "data/pairs.js")[1] == [["p", {}, [[], []], None, []]]
    assert read_script(folder / "data/curves.js")[1] == [{"name": "c", "group": "g", "points": [[0, None], [1, 2.0]]}]


def test_scores_met_late_keep_their_place(tmp_path: Path) -> None:
    late = [Row("p", 0, (sample(a=1.0), sample(b=2.0))), Row("q", 0, (sample(b=3.0), sample(a=4.0)))]
    folder = write_gallery(tmp_path / "gallery", Comparison(COLUMNS, late), title="t").parent
    lines = read_script(folder / "data/compare.js")[1]
    assert isinstance(lines, list)
    assert [line[2] for line in lines] == [[[1.0], [None, 2.0]], [[None, 3.0], [4.0, None]]]


def test_a_tiny_picture_is_kept_exactly(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 128, 3), dtype=np.uint8)

    class Noise:
        def pixels(self) -> np.ndarray:
            return pixels

    folder = write_gallery(tmp_path / "gallery", Comparison((Column("base"),), [Row("p", 0, (Sample(Noise(), {}),))]), title="t").parent
    with Image.open(folder / "media/000/000000.webp") as stored:
        assert np.array_equal(np.asarray(stored.convert("RGB")), pixels)


def test_a_large_picture_gets_a_thumbnail_and_a_detail(tmp_path: Path) -> None:
    row = Row("p", 0, (Sample(Plain(9, 600, 1500), {}),))
    for detail_size, expected in ((1024, [(64, 26), (1024, 410)]), (0, [(64, 26)])):
        comparison = Comparison((Column("base"),), [row])
        folder = write_gallery(tmp_path / str(detail_size), comparison, title="t", thumbnail_size=64, detail_size=detail_size).parent
        files = sorted((folder / "media/000").iterdir())
        assert [size_of(path) for path in files] == expected
        records = read_script(folder / "data/compare/0000.js")[1]
        assert isinstance(records, list)
        assert records[0][0].get("detail") == ("media/000/000001.webp" if detail_size else None)


def test_ten_thousand_samples_need_a_small_index_and_load_no_picture_at_once(tmp_path: Path) -> None:
    alive: list[int] = []

    @dataclass(frozen=True)
    class Counted(Plain):
        def pixels(self) -> np.ndarray:
            alive.append(1)
            return super().pixels()

    asked: list[int] = []

    def many() -> Iterator[Row]:
        for index in range(5000):
            asked.append(len(alive) - 2 * index)  # all earlier rows are written before the next is asked for
            scores = {"shapes.overall": index / 5000, "shapes.colour": index / 7, "sharpness.score": 0.0312345}
            pair = tuple(Sample(Counted(index % 256, 2, 2), scores, f"{index:08d}") for _ in COLUMNS)
            yield Row(f"a red circle left of a blue square, number {index}", index, pair, {"task": "position"})

    counts: list[int] = []
    folder = write_gallery(tmp_path / "gallery", Comparison(COLUMNS, many()), title="t", progress=counts.append).parent
    assert set(asked) == {0}
    assert counts == list(range(1, 10_001))
    start = [folder / "index.html", *(folder / "page").iterdir(), folder / "data/gallery.js", folder / "data/compare.js"]
    assert sum(path.stat().st_size for path in start) < 1_000_000
    assert len(list((folder / "data/compare").iterdir())) == 50
    assert max(path.stat().st_size for path in (folder / "data/compare").iterdir()) < 40_000
    shards = sorted((folder / "media").iterdir())
    assert [len(list(shard.iterdir())) for shard in shards] == [1000] * 10
    assert "<img" not in (folder / "index.html").read_text("utf-8")
    assert "webp" not in (folder / "data/compare.js").read_text("ascii")


@pytest.mark.parametrize(
    ("comparison", "message"),
    [
        (
            Comparison(COLUMNS, [Row("a cat", 7, (sample(),))]),
            r"row 0 \('a cat', seed 7\) has 1 samples, the comparison has 2 columns \(base, dpo\); give one sample per column, None",
        ),
        (Comparison((), []), "no columns; give the base first"),
        (Comparison((Column("a"), Column("a")), []), "column names repeat: a, a"),
        (Comparison(COLUMNS, [], summary=(SummaryLine("s", 0, 0, 0, 0, 0, "x"),)), "column 'x'; the columns are: base, dpo"),
        (
            Comparison(COLUMNS, [Row("p", 0, (Sample(Plain(), {}, kind="smell"), None))]),
            "column 'base' is of kind 'smell'; the gallery shows: image, video, audio",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_named(tmp_path: Path, comparison: Comparison, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        write_gallery(tmp_path / "gallery", comparison, title="t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 8, 3), np.float64), ((8, 8), np.uint8), ((3, 8, 8), np.uint8), ((8, 8, 4), np.uint8), ((0, 8, 3), np.uint8)]
)
def test_pixels_of_another_type_or_shape_are_refused(tmp_path: Path, shape: tuple[int, ...], dtype: type) -> None:
    class Wrong:
        def pixels(self) -> np.ndarray:
            return np.zeros(shape, dtype)

    comparison = Comparison((Column("base"),), [Row("p", 0, (Sample(Wrong(), {}),))])
    with pytest.raises(ValueError, match=r"row 0 \('p', seed 0\), column 'base': pixels\(\) returned .*; the gallery takes uint8 of shape"):
        write_gallery(tmp_path / "gallery", comparison, title="t")


def test_an_unknown_role_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"score 'a' has the role 'trained on'; choose one of: trained, same reward, held out, guard"):
        write_gallery(tmp_path / "gallery", None, title="t", roles={"a": "trained on"})
    assert not (tmp_path / "gallery").exists()


def test_sizes_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="thumbnail_size is 0; choose 16 to 4096"):
        write_gallery(tmp_path / "gallery", None, title="t", thumbnail_size=0)
    with pytest.raises(ValueError, match="detail_size is 20000; choose 0"):
        write_gallery(tmp_path / "gallery", None, title="t", detail_size=20000)


def test_an_error_midway_leaves_the_old_gallery_as_it_was(tmp_path: Path) -> None:
    folder = write_gallery(tmp_path / "gallery", Comparison(COLUMNS, rows(3)), title="old").parent
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def broken() -> Iterator[Row]:
        yield from rows(2)
        raise RuntimeError("the disk of the candidates is gone")

    with pytest.raises(RuntimeError, match="gone"):
        write_gallery(folder, Comparison(COLUMNS, broken()), title="new")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_a_new_gallery_replaces_the_old_one_and_keeps_what_is_not_its_own(tmp_path: Path) -> None:
    folder = write_gallery(tmp_path / "gallery", Comparison(COLUMNS, rows(3)), title="old").parent
    (folder / "stage.json").write_text("{}")
    (folder / "notes").mkdir()
    (folder / "notes/today.txt").write_text("looked")
    write_gallery(folder, None, title="new")
    assert read_script(folder / "data/gallery.js")[1] == {"title": "new", "chunk": 100, "compare": None, "pairs": None, "curves": None}
    assert (folder / "stage.json").read_text() == "{}"
    assert (folder / "notes/today.txt").read_text() == "looked"
    assert not (folder / "data/compare.js").exists()
    assert not (folder / "media").exists()
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_of_someone_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "home/media").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds media but no data/gallery.js.*give another folder"):
        write_gallery(tmp_path / "home", None, title="t")
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="file is a file; give a folder"):
        write_gallery(tmp_path / "file", None, title="t")


def test_a_run_killed_between_the_two_renames_is_put_right_by_the_next(tmp_path: Path) -> None:
    folder = write_gallery(tmp_path / "gallery", Comparison(COLUMNS, rows(1)), title="old").parent
    (folder / "stage.json").write_text("kept")
    folder.rename(tmp_path / ".gallery.previous")
    (tmp_path / ".gallery.partial").mkdir()
    write_gallery(folder, None, title="new")
    assert (folder / "stage.json").read_text() == "kept"
    assert list(tmp_path.iterdir()) == [folder]


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_gallery_write import COLUMNS, Comparison, rows, write_gallery
def endless():
    for index, row in enumerate(rows(10**9)):
        if index == 150:
            print("writing", flush=True)
            time.sleep(60)
        yield row
write_gallery(Path({folder!r}), Comparison(COLUMNS, endless()), title="killed")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")
def test_a_killed_run_leaves_no_half_gallery(tmp_path: Path) -> None:
    folder = tmp_path / "gallery"
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=PAGE.parents[2]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    time.sleep(0.05)
    assert not folder.exists()
    write_gallery(folder, Comparison(COLUMNS, rows(1)), title="next")
    assert list(tmp_path.iterdir()) == [folder]
