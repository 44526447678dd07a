"""Prompts of others: PartiPrompts, lists by style, sets on a hub; what they say of a prompt stays with it as tags."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_backbone import Loader, fake_config, loader  # noqa: F401 (a fixture)

from diffalign.data.records import read_candidates
from pipelines.config import Config
from pipelines.generate import run
from pipelines.progress import Progress
from pipelines.prompts import Prompts, load_prompts

PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "bond\tAbstract\tBasic\tBiology-inspired\n"
    'a sign that says "deep learning"\tWorld Knowledge\tWriting & Symbols\t\n'
)


def told(**settings: Any) -> list[tuple[str, dict[str, str]]]:
    return [(prompt.text, dict(prompt.tags)) for prompt in load_prompts(Prompts(**settings), 0)]


def test_parti_prompts_keep_category_and_challenge(tmp_path: Path) -> None:
    file = tmp_path / "PartiPrompts.tsv"
    file.write_text(PARTI.replace('"deep learning"', "deep learning"), encoding="utf-8")
    two = [("bond", {"Category": "Abstract", "Challenge": "Basic"}),
           ("a sign that says deep learning", {"Category": "World Knowledge", "Challenge": "Writing & Symbols"})]  # fmt: skip
    assert told(file=file) == told(file=file, column="prompt") == two
    assert told(file=file, tags=("Note",)) == [("bond", {"Note": "Biology-inspired"}), (two[1][0], {})]
    assert told(file=file, tags=()) == [(text, {}) for text, _ in two]
    assert told(file=file, column="Category", count=1) == [("Abstract", two[0][1])]
    with pytest.raises(ValueError, match=r"no column 'style'; it has: Prompt, Category, Challenge, Note; choose with prompts\.tags"):
        told(file=file, tags=("style",))


def test_a_quote_in_a_tsv_is_part_of_the_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(PARTI, encoding="utf-8")
    assert told(file=tmp_path / "a.tsv")[1][0] == 'a sign that says "deep learning"'


def test_a_prompt_that_begins_with_a_quote_is_read_from_a_tsv_without_quoting(tmp_path: Path) -> None:
    """As in PartiPrompts' file; a quote is one of the field's letters where it does not close at its end."""
    texts = ['"G I G G L E" painted in thick letters', '"', '"Time" and "Tide"', 'a 5" disk']
    (tmp_path / "a.tsv").write_text("Prompt\tCategory\tChallenge\tNote\n" + "".join(f"{text}\tArts\tBasic\t\n" for text in texts))
    assert told(file=tmp_path / "a.tsv", tags=()) == [(text, {}) for text in texts]
    (tmp_path / "b.tsv").write_bytes(f"kind\tprompt\r\na\t{texts[0]}\r\nb\t{texts[2]}".encode())
    assert told(file=tmp_path / "b.tsv") == [(texts[0], {}), (texts[2], {})]


def test_a_quoted_tsv_holds_tabs_lines_and_quotes(tmp_path: Path) -> None:
    texts = ["a\ttab", 'two\n"lines"\tand a tab', '"G I" painted', 'the end"', "plain", '"all of it"']
    with (tmp_path / "a.tsv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t").writerows([("prompt", "kind"), *((text, "b\tc") for text in texts)])
    assert told(file=tmp_path / "a.tsv", tags=("kind",)) == [(text, {"kind": "b\tc"}) for text in texts]


def test_lists_by_style(tmp_path: Path) -> None:
    styles = {"anime": ["a cat", "a dog"], "photo": ["a street"]}
    expected = [("a cat", {"style": "anime"}), ("a dog", {"style": "anime"}), ("a street", {"style": "photo"})]
    (tmp_path / "all.json").write_text(json.dumps(styles))
    assert told(file=tmp_path / "all.json") == expected
    (tmp_path / "benchmark").mkdir()
    for style, texts in styles.items():
        (tmp_path / "benchmark" / f"{style}.json").write_text(json.dumps(texts))
    assert told(file=tmp_path / "benchmark") == expected
    assert told(file=tmp_path / "benchmark" / "photo.json") == [("a street", {})]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match=r"holds no \.json of prompts, one for each style"):
        told(file=tmp_path / "nothing")


def test_tags_of_every_form(tmp_path: Path) -> None:
    rows = [{"prompt": "a cat", "task": "one", "level": 3}, {"prompt": "a dog", "task": "", "level": 4}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.csv").write_text("level,prompt,task\n3,a cat,one\n4,a dog,\n")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for form in ("jsonl", "json", "csv", "parquet"):
        assert told(file=tmp_path / f"a.{form}", tags=("task", "level")) == [
            ("a cat", {"task": "one", "level": "3"}),
            ("a dog", {"level": "4"}),
        ]
        assert told(file=tmp_path / f"a.{form}") == [("a cat", {}), ("a dog", {})]


@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_an_object_without_a_tag_has_none(form: str, tmp_path: Path) -> None:
    rows = [{"prompt": "a cat"}, {"prompt": "a dog", "task": "one"}, "a fox", {"prompt": "an owl", "task": None}]
    file = tmp_path / f"a.{form}"
    file.write_text(json.dumps(rows) if form == "json" else "\n".join(map(json.dumps, rows)))
    assert told(file=file, tags=("task",)) == [("a cat", {}), ("a dog", {"task": "one"}), ("a fox", {}), ("an owl", {})]
    with pytest.raises(ValueError, match=r"no column 'style'; it has: prompt, task; choose with prompts\.tags"):
        told(file=file, tags=("style",))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON .* list of prompts, or {style: list of prompts}"),
        ('{"anime": "a cat"}', "anime is str, not a list"),
        ('"a cat"', "it is str, not a list"),
        ('{"anime": ["a cat"], "photo": [3]}', "row 2: the prompt is 3, not text"),
        ('[{"text": "a cat"}]', "no column 'prompt'; it has: text"),
        ('[{"prompt": "a cat"}, {"text": "a cat"}]', "row 2: the prompt is None, not text"),
    ],
)
def test_bad_json(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        told(file=tmp_path / "a.json")


@pytest.mark.parametrize("row", [r'"a \ud800 fox"', r'{"prompt": "a \ud800 fox"}', r'{"prompt": "a fox", "task": "a \ud800"}'])
def test_half_a_character_is_named_with_its_prompt(row: str, tmp_path: Path) -> None:
    """JSON can say what no file can hold."""
    first = '"a cat"' if row.startswith('"') else '{"prompt": "a cat", "task": "one"}'
    tags = ("task",) if "task" in row else ()
    for name, content in (("a.jsonl", f"{first}\n{row}\n"), ("a.json", f"[{first}, {row}]")):
        (tmp_path / name).write_text(content)
        with pytest.raises(
            ValueError, match=rf"prompt 2 of .*{name} holds '\\ud800' at character 2, half a character; write the whole one"
        ):
            told(file=tmp_path / name, tags=tags)


def test_a_set_on_a_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    pq.write_table(pa.Table.from_pylist([{"caption": f"p{i}", "kind": "a", "n": i} for i in range(5)]), tmp_path / "a.parquet")
    asked, load = [], datasets.load_dataset

    def from_disk(name: str, **settings: Any) -> Any:
        asked.append((name, settings))
        return load("parquet", data_files=str(tmp_path / "a.parquet"), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    assert told(hub="some/prompts", column="caption", split="test", revision="v1", tags=("kind",), count=2) == [
        ("p0", {"kind": "a"}),
        ("p1", {"kind": "a"}),
    ]
    assert asked == [("some/prompts", {"split": "test", "revision": "v1", "streaming": True})]
    with pytest.raises(
        ValueError, match=r"'some/prompts' lacks the columns prompt or Prompt; .*found caption, kind, n\. Choose with prompts\."
    ):
        told(hub="some/prompts")


def test_of_a_set_on_a_hub_no_other_column_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Pick-a-Pic's images, beside its captions; a subset is named behind the id."""
    datasets = pytest.importorskip("datasets")
    pq.write_table(pa.Table.from_pylist([{"caption": "a cat", "kind": "a", "jpg_0": b"large"}]), tmp_path / "a.parquet")
    pq.write_table(
        pa.Table.from_pylist([{"Prompt": "a cat", "Category": "Animals", "Challenge": "Basic", "Note": ""}]), tmp_path / "b.parquet"
    )
    asked, load, select = [], datasets.load_dataset, datasets.IterableDataset.select_columns

    def from_disk(name: str, subset: str, **_: Any) -> Any:
        return load("parquet", data_files=str(tmp_path / f"{subset}.parquet"), split="train", streaming=True)

    monkeypatch.setattr(datasets, "load_dataset", from_disk)
    monkeypatch.setattr(datasets.IterableDataset, "select_columns", lambda rows, names: asked.append(names) or select(rows, names))
    assert told(hub="some/prompts:a", column="caption", tags=("kind",)) == [("a cat", {"kind": "a"})]
    assert told(hub="some/prompts:b") == [("a cat", {"Category": "Animals", "Challenge": "Basic"})]
    assert told(hub="some/prompts:b", column="Prompt", tags=("Prompt", "Note")) == [("a cat", {"Prompt": "a cat"})]
    assert [set(names) for names in asked[:2]] == [{"caption", "kind"}, {"Prompt", "Category", "Challenge"}]


def test_what_names_no_hub(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"hub is 'prompts\.txt'; give the name of a set, owner/name or owner/name:subset, or a file"):
        Prompts(hub="prompts.txt")
    with pytest.raises(ValueError, match="revision 'v1' is of a set on a hub, and there is none"):
        Prompts(texts=("a",), revision="v1")
    with pytest.raises(ValueError, match="give exactly one of world, file, hub and texts; got file and hub"):
        Prompts(file=tmp_path / "a.txt", hub="a/b")


def test_tags_reach_the_candidates_and_the_resolved_config_reads_them_again(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    (tmp_path / "p.tsv").write_text(PARTI, encoding="utf-8")
    section = {"prompts": {"file": str(tmp_path / "p.tsv")}, "samples_per_prompt": 1, "long_prompts": "truncate"}
    config = fake_config(tmp_path / "run", generate=section)
    run(config, progress=Progress(silent=True))
    assert [dict(row.tags) for row in read_candidates(config.run / "candidates")] == [
        {"Category": "Abstract", "Challenge": "Basic"},
        {"Category": "World Knowledge", "Challenge": "Writing & Symbols"},
    ]
    import yaml

    again = Config.model_validate(yaml.safe_load(config.to_yaml()))
    assert again.generate is not None and load_prompts(again.generate.prompts, 0)[0].text == "bond"


def test_settings_of_runs_made_before_stay_what_they_were() -> None:
    assert set(Prompts(texts=("a",)).model_dump()) == {"world", "split", "seed", "file", "column", "texts", "count"}
