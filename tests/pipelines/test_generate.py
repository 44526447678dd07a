from __future__ import annotations

import errno
import json
import random
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fake_backbone import SLOW_RUN, FakeBackbone, Loader, fake_config, loader  # noqa: F401 (a fixture)
from kills import kill_after

from diffalign.data.records import read_candidates
from pipelines.config import Config, Model
from pipelines.generate import SampleRequest, candidate_seed, run, sample_requests
from pipelines.progress import Progress
from pipelines.prompts import Prompts, load_prompts

QUIET = Progress(silent=True)


def rows(config: Config) -> list[tuple[Any, ...]]:
    found = read_candidates(config.run / "candidates")
    return [
        (row.candidate_id, row.group_id, row.prompt, row.model, row.seed, row.steps, row.guidance, row.media.identity()) for row in found
    ]


def test_every_prompt_gets_its_samples(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    config = fake_config(tmp_path)
    run(config, progress=QUIET)
    found = list(read_candidates(tmp_path / "candidates"))
    assert len(found) == 24 and len({row.candidate_id for row in found}) == 24 and len({row.seed for row in found}) == 24
    assert [row.prompt for row in found[::4]] == [f"prompt {index}" for index in range(6)]
    for row in found:
        assert row.seed == candidate_seed(5, row.group_id, int(row.candidate_id[-2:])) and 0 <= row.seed < 2**63
    alone = FakeBackbone("fake/model").sample([found[13].prompt], [found[13].seed], steps=20, guidance=3.0)[0].pixels()
    assert np.array_equal(alone, found[13].media.pixels())


def test_seeds_are_these_numbers_for_ever() -> None:
    assert candidate_seed(0, "000000-abc", 0) == 2455260924456435375
    assert len({candidate_seed(seed, group, k) for seed in (0, 1) for group in ("a", "b") for k in range(4)}) == 16


def test_a_second_run_does_nothing(tmp_path: Path, loader: Loader, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    config = fake_config(tmp_path)
    run(config, progress=QUIET)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "candidates").iterdir()}
    run(config, progress=Progress())
    assert len(loader.loaded) == 1 and "nothing to do" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "candidates").iterdir()}


def test_batch_size_and_shard_size_change_no_sample(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    results = []
    for number, (batch, shard) in enumerate(((1, 2), (7, 2), (64, 6))):
        config = fake_config(
            tmp_path / str(number), generate={"batch_size": batch, "prompts_per_shard": shard, "steps": [5, 9], "guidance": [1, 3, 7]}
        )
        run(config, progress=QUIET)
        results.append(rows(config))
    assert results[0] == results[1] == results[2]


def test_batch_size_may_change_between_resumed_runs(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    run(fake_config(tmp_path), progress=QUIET)
    run(fake_config(tmp_path, generate={"batch_size": 2}), progress=QUIET)
    assert len(loader.loaded) == 1


def test_lists_are_cycled_over_the_samples(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    config = fake_config(tmp_path, generate={"steps": [5, 9], "guidance": [1.0, 3.0, 7.0]})
    run(config, progress=QUIET)
    found = list(read_candidates(tmp_path / "candidates"))[:4]
    assert [(row.steps, row.guidance) for row in found] == [(5, 1.0), (9, 3.0), (5, 7.0), (9, 1.0)]


def test_models_are_loaded_one_after_another(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    with pytest.raises(FileNotFoundError, match=r"'\./other' does not exist"):
        run(fake_config(tmp_path, generate={"models": ["fake/model", "./other"]}), progress=QUIET)
    assert not loader.loaded
    config = fake_config(tmp_path, generate={"models": ["fake/model", "fake/other", "fake/third"]})
    run(config, progress=QUIET)
    assert [backbone.source for backbone in loader.loaded] == ["fake/model", "fake/other", "fake/third"]
    by_group: dict[str, list[str]] = {}
    for row in sorted(read_candidates(tmp_path / "candidates"), key=lambda row: row.candidate_id):
        by_group.setdefault(row.group_id, []).append(row.model)
    assert list(by_group.values()) == [["fake/model", "fake/other", "fake/third", "fake/model"]] * 6


def test_models_of_other_families(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    """An entry may be a section: of what it does not say, the dtype is the run's, an adapter and another family's settings are not."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    own = {"source": "fake/model", "dtype": "bfloat16", "adapter": str(adapter), "settings": {"expert": "low"}}
    entries = ["fake/model", "fake/near", {"backbone": "sd3", "source": "fake/far", "dtype": "float16"}, {"source": "fake/model"}]
    config = fake_config(tmp_path, model=own, generate={"models": entries})
    run(config, progress=QUIET)
    assert [(model.source, model.backbone, model.dtype, model.adapter, model.settings) for model in loader.models] == [
        ("fake/model", "stable_diffusion", "bfloat16", str(adapter), {"expert": "low"}),
        ("fake/near", "stable_diffusion", "bfloat16", None, {"expert": "low"}),
        ("fake/far", "sd3", "float16", None, {}),
        ("fake/model", "stable_diffusion", "bfloat16", None, {"expert": "low"}),
    ]
    first = sorted(read_candidates(tmp_path / "candidates"), key=lambda row: row.candidate_id)[:4]
    assert [row.model for row in first] == ["fake/model + adapter", "fake/near", "fake/far", "fake/model"]
    dumped = Config.model_validate(json.loads(json.dumps(config.model_dump(mode="json"))))
    assert dumped == config
    run(dumped, progress=QUIET)
    assert len(loader.loaded) == 4  # nothing was made again
    entries[2] = {"backbone": "flux", "source": "fake/far", "dtype": "float16"}
    with pytest.raises(ValueError, match=r"sd3 float16 .*, is now .*flux float16"):
        run(fake_config(tmp_path, model=own, generate={"models": entries}), progress=QUIET)


def test_models_that_do_not_go_together(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    wan = {"backbone": "wan", "source": "fake/video"}
    with pytest.raises(ValueError, match=r"media of several kinds: fake/model images, fake/video videos"):
        run(fake_config(tmp_path, generate={"models": ["fake/model", wan]}), progress=QUIET)
    with pytest.raises(ValueError, match="two models that the records would both call 'fake/other'"):
        run(fake_config(tmp_path, generate={"models": ["fake/other", {"source": "fake/other", "revision": "two"}]}), progress=QUIET)
    with pytest.raises(ValueError, match=r"unknown backbone 'sd4'.* choose one of: stable_diffusion"):
        run(fake_config(tmp_path, generate={"models": [{"backbone": "sd4", "source": "x"}]}), progress=QUIET)
    with pytest.raises(ValueError, match=r"generate\.models.*adaptor"):
        fake_config(tmp_path, generate={"models": [{"source": "x", "adaptor": "y"}]})
    assert not loader.loaded


def test_a_model_is_gone_before_the_next_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[weakref.ref[FakeBackbone]] = []

    def load(model: Model) -> FakeBackbone:
        assert [each() for each in loaded] == [None] * len(loaded)
        backbone = FakeBackbone(model.source)
        backbone.itself = backbone  # a cycle, as modules and their hooks have
        loaded.append(weakref.ref(backbone))
        return backbone

    monkeypatch.setattr("pipelines.generate.load_model", load)
    run(fake_config(tmp_path, generate={"models": ["fake/model", "fake/other", "fake/third"]}), progress=QUIET)
    assert [each() for each in loaded] == [None] * 3


def test_only_the_model_of_a_missing_shard_is_loaded(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    config = fake_config(tmp_path, generate={"models": ["fake/model", "fake/other"]})
    run(config, progress=QUIET)
    before = rows(config)
    (tmp_path / "candidates" / "shard-00004.parquet").unlink()
    run(config, progress=QUIET)
    assert [backbone.source for backbone in loader.loaded[2:]] == ["fake/other"] and rows(config) == before


def test_changed_config_seed_and_prompts_are_refused(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    run(fake_config(tmp_path), progress=QUIET)
    with pytest.raises(ValueError, match=r"guidance: was \[3.0\], is now \[5.0\]"):
        run(fake_config(tmp_path, generate={"guidance": 5}), progress=QUIET)
    with pytest.raises(ValueError, match="seed: was 5, is now 6"):
        run(fake_config(tmp_path).model_copy(update={"seed": 6}), progress=QUIET)
    run(fake_config(tmp_path, generate={"guidance": 5}), redo=True, progress=QUIET)
    assert (tmp_path / "replaced" / "candidates.1" / "shard-00002.parquet").is_file()


def test_a_changed_prompt_file_is_noticed(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    file = tmp_path / "prompts.txt"
    config = fake_config(tmp_path / "run", generate={"prompts": {"file": str(file)}})
    file.write_text("a\nb\n")
    run(config, progress=QUIET)
    file.write_text("a\nc\n")
    with pytest.raises(ValueError, match="prompts_sha256"):
        run(config, progress=QUIET)


def test_long_prompts_are_refused_before_any_work(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    texts = {"prompts": {"texts": ["short", "one two three four five six seven"]}}
    with pytest.raises(ValueError, match=r"1 of 2 prompts are longer than the 8 tokens .*\(9 tokens\).*long_prompts: truncate"):
        run(fake_config(tmp_path, generate=texts), progress=QUIET)
    assert not list((tmp_path / "candidates").glob("*.parquet")) and not loader.loaded[0].calls
    run(fake_config(tmp_path, generate=texts | {"long_prompts": "truncate"}), progress=QUIET)


def test_equal_prompts_are_groups_of_their_own() -> None:
    first, second = load_prompts(Prompts(texts=("a cat", "a cat")), 0)
    assert first.group_id != second.group_id and first.text == second.text


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("p.txt", "a cat\n a dog \n", ["a cat", "a dog"]),
        ("p.jsonl", '{"prompt": "a cat", "x": 1}\n"a dog"\n', ["a cat", "a dog"]),
        ("p.csv", '\ufeffid,prompt\n1,"a cat, here"\n2,a dog\n', ["a cat, here", "a dog"]),
    ],
)
def test_prompt_files(tmp_path: Path, name: str, content: str, expected: list[str]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    assert [prompt.text for prompt in load_prompts(Prompts(file=tmp_path / name), 0)] == expected
    assert [prompt.text for prompt in load_prompts(Prompts(file=tmp_path / name, count=1), 0)] == expected[:1]


def test_only_a_line_feed_ends_a_prompt(tmp_path: Path) -> None:
    """Not U+2028 or U+0085, which JSON, CSV and plain text may hold; a quoted CSV field may hold a line feed too."""
    texts = ["a cat\u2028on a mat", "a dog\x85in \x0ba \u2029house"]
    (tmp_path / "p.txt").write_bytes("\r\n".join(texts).encode())
    (tmp_path / "p.jsonl").write_bytes("\n".join(json.dumps({"prompt": text}, ensure_ascii=False) for text in texts).encode())
    (tmp_path / "p.csv").write_bytes(("prompt\r\n" + "\r\n".join(texts)).encode())
    for name in ("p.txt", "p.jsonl", "p.csv"):
        assert [prompt.text for prompt in load_prompts(Prompts(file=tmp_path / name), 0)] == texts, name
    (tmp_path / "quoted.csv").write_bytes(b'prompt,id\n"a cat\non a mat",1\na dog,2\n')
    assert [prompt.text for prompt in load_prompts(Prompts(file=tmp_path / "quoted.csv"), 0)] == ["a cat\non a mat", "a dog"]


def test_prompts_of_a_parquet_column(tmp_path: Path) -> None:
    pq.write_table(pa.table({"caption": ["a cat", "a dog"]}), tmp_path / "p.parquet")
    assert [prompt.text for prompt in load_prompts(Prompts(file=tmp_path / "p.parquet", column="caption"), 0)] == ["a cat", "a dog"]
    with pytest.raises(ValueError, match=r"no column 'prompt'; it has: caption; choose with prompts.column"):
        load_prompts(Prompts(file=tmp_path / "p.parquet"), 0)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("p.txt", b"", "holds no prompts"),
        ("p.txt", b"a cat\n\na dog\n", "prompt 2 of .* is blank"),
        ("p.txt", b"\xff\xfe", "not UTF-8"),
        ("p.jsonl", b'{"prompt": 3}\n', "row 1: the prompt is 3, not text"),
        ("p.jsonl", b'{"text": "a"}\n', "no column 'prompt'; it has: text"),
        ("p.jsonl", b"{", "line 1: not JSON"),
        ("p.csv", b"id\n1\n", "no column 'prompt'; it has: id"),
        ("p.csv", b"id,prompt\n1\n", "the prompt is None, not text"),
        ("p.parquet", b"PAR1", r"no readable Parquet.*check prompts\.file"),
    ],
)
def test_bad_prompt_files(tmp_path: Path, name: str, content: bytes, told: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=told):
        load_prompts(Prompts(file=tmp_path / name), 0)


def test_missing_prompt_file_and_empty_list() -> None:
    with pytest.raises(FileNotFoundError, match="does not exist"):
        load_prompts(Prompts(file=Path("nothing.txt")), 0)
    with pytest.raises(ValueError, match="holds no prompts"):
        load_prompts(Prompts(texts=()), 0)
    with pytest.raises(ValueError, match=r"prompt 1 of prompts.texts is blank"):
        load_prompts(Prompts(texts=(" ",)), 0)


def test_prompts_of_a_world_follow_the_seed() -> None:
    drawn = [[prompt.text for prompt in load_prompts(Prompts(world="shapes", count=12), seed)] for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(drawn[0]) == 12
    fixed = [[prompt.text for prompt in load_prompts(Prompts(world="shapes", count=12, seed=0), seed)] for seed in (0, 1)]
    assert fixed[0] == fixed[1] == drawn[0]
    assert {"task", "split"} == set(load_prompts(Prompts(world="shapes", count=1), 0)[0].tags)


def test_prompts_of_a_world_have_the_shares_of_its_tasks_that_are_asked_for() -> None:
    tasks = [prompt.tags["task"] for prompt in load_prompts(Prompts(world="motion", count=8, shares={"single": 1, "pair": 3}), 0)]
    assert {task: tasks.count(task) for task in tasks} == {"single": 2, "pair": 6}
    with pytest.raises(ValueError, match="unknown task 'pairs' in shares; choose among: single, speed"):
        load_prompts(Prompts(world="motion", count=8, shares={"pairs": 1}), 0)
    with pytest.raises(ValueError, match="are of a world's tasks, and the prompts are of no world"):
        Prompts(texts=("a red circle",), shares={"single": 1})


def test_prompts_that_mean_the_same_are_one_cluster() -> None:
    drawn = load_prompts(Prompts(world="shapes", split="heldout", count=300), 0)
    assert len({prompt.cluster for prompt in drawn}) < len({prompt.text for prompt in drawn})
    written = load_prompts(Prompts(texts=("a cat", "one cat", "a cat")), 0)
    assert [prompt.cluster for prompt in written] == ["a cat", "one cat", "a cat"]


def test_requests_are_batched_over_prompts_and_come_back_in_order() -> None:
    backbone = FakeBackbone()
    requests = [SampleRequest(str(index), str(index // 2), "p", seed=index, steps=5 + index % 2, guidance=1.0) for index in range(10)]
    advanced: list[int] = []
    made = sample_requests(backbone, requests, batch_size=3, model="fake", advance=advanced.append)
    assert [row.candidate_id for row in made] == [str(index) for index in range(10)]
    assert sorted(backbone.calls) == [(2, 5, 1.0), (2, 6, 1.0), (3, 5, 1.0), (3, 6, 1.0)] and sum(advanced) == 10


def test_full_disk_loses_nothing(tmp_path: Path, loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    import diffalign.data.records as records

    config, write, written = fake_config(tmp_path), records.write_candidates, []

    def full(path: Path, candidates: Any) -> None:
        if written:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, candidates)

    monkeypatch.setattr(records, "write_candidates", full)
    with pytest.raises(OSError, match="disk is full"):
        run(config, progress=QUIET)
    monkeypatch.setattr(records, "write_candidates", write)
    run(config, progress=QUIET)
    whole = fake_config(tmp_path / "whole")
    run(whole, progress=QUIET)
    assert rows(config) == rows(whole)


def kill_once(folder: Path, stages: list[str], seconds: float, wait_for: str, delay: float) -> bool:
    """Starts a slow run, kills it `delay` after a file matching `wait_for` is there; whether it was still running."""
    code = SLOW_RUN.format(tests=str(Path(__file__).parent), seconds=seconds, run=str(folder), stages=stages)
    return kill_after(code, folder=folder, wait_for=wait_for, delay=delay)


def test_a_killed_run_resumes(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    config, whole = fake_config(tmp_path / "run"), fake_config(tmp_path / "whole")
    run(whole, progress=QUIET)
    assert kill_once(config.run, ["generate"], 0.3, "candidates/shard-*.parquet", 0.1)
    left = len(list((config.run / "candidates").glob("shard-*.parquet")))
    assert 1 <= left < 3
    run(config, progress=QUIET)
    assert rows(config) == rows(whole)
    assert sum(batch for batch, *_ in loader.loaded[-1].calls) == 24 - 8 * left
    records = [json.loads((each.run / "candidates" / "stage.json").read_text()) for each in (config, whole)]
    assert records[0]["fingerprint"] == records[1]["fingerprint"]


@pytest.mark.long
def test_a_run_killed_at_random_moments_resumes(tmp_path: Path, loader: Loader) -> None:  # noqa: F811
    whole = fake_config(tmp_path / "whole")
    run(whole, progress=QUIET)
    draw = random.Random(0)
    for number in range(20):
        config = fake_config(tmp_path / str(number))
        kill_once(config.run, ["generate"], 0.05, "candidates", draw.uniform(0, 0.4))
        run(config, progress=QUIET)
        assert rows(config) == rows(whole)
        assert not [path for path in (config.run / "candidates").iterdir() if ".tmp" in path.name]
