"""Conditions from a file of prompts to candidates, cache, batches, evaluation, gallery and export, with a tiny InstructPix2Pix."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tiny_pipelines import save_instruct_pix2pix
from tiny_preference_sets import picture

from diffalign.data.conditions import condition_id, condition_key, dropped_key, is_read_with_prompt, unprompted_key
from diffalign.data.importers import build_import
from diffalign.data.latents import LatentCache
from diffalign.data.modalities.image import Image, fit
from diffalign.data.records import Preference, read_candidates, read_preferences, write_candidates
from diffalign.data.shards import read_rows
from diffalign.training.alignment import Sampling
from diffalign.training.groups import CachedGroups
from pipelines import bench, encode, evaluate, export, gallery, generate, pair, score, train
from pipelines.config import Config
from pipelines.encode_conditions import condition_keys, plan_conditions, prompts_of
from pipelines.model import load_model
from pipelines.progress import Progress
from pipelines.prompts import Prompts, load_prompts

# diffusers hands tensors to numpy
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
QUIET = Progress(silent=True)
SIZE = (16, 24)
TEXTS = ("a red circle", "two yellow hearts", "a red circle")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng():
        return save_instruct_pix2pix(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Three prompts; the last one has the text of the first and the image of the second."""
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(picture(index, (32, 16)))
    rows = [{"prompt": text, "condition": f"{place}.png"} for text, place in zip(TEXTS, (0, 1, 1), strict=True)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_config(folder: Path, model: Path, prompts: Path, **sections: Any) -> Config:
    road: dict[str, Any] = {
        "run": folder,
        "seed": 3,
        "model": {"backbone": "instruct_pix2pix", "source": str(model), "device": "cpu"},
        "generate": {"prompts": {"file": prompts}, "samples_per_prompt": 2, "steps": 2, "size": list(SIZE)},
        "score": {"rewards": {"sharpness": {}}},
        "pair": {"rule": "best_vs_worst", "by": "sharpness.score"},
        "encode": {"posterior": "mean", "flip": True},
    }
    return Config.model_validate({**road, **sections})


def until_encoded(config: Config) -> None:
    for stage in (generate, score, pair, encode):
        stage.run(config, progress=QUIET)


def test_the_road_carries_them(tmp_path: Path, model: Path, prompts: Path) -> None:
    """What is stored is the file; what is sampled, encoded and trained on is its centre; the page shows it beside the prompt."""
    config = make_config(
        tmp_path / "run", model, prompts,
        train={"steps": 2, "warmup_steps": 1, "batch_size": 2, "lora": {"rank": 2}, "optimizer": "adamw", "prompt_dropout": 0.5},
        evaluate={"prompts": {"file": str(prompts)}, "steps": 2, "size": list(SIZE)}, gallery={},
    )  # fmt: skip
    until_encoded(config)
    candidates = list(read_candidates(config.run / "candidates"))
    files = [(tmp_path / f"{index}.png").read_bytes() for index in (0, 0, 1, 1, 1, 1)]
    assert [candidate.condition.encoded() for candidate in candidates if candidate.condition is not None] == files
    backbone: Any = load_model(config.model)
    cut = [Image.from_pixels(fit(Image.from_bytes(data).pixels(), SIZE)) for data in files[::2]]
    options: dict[str, Any] = {"steps": 2, "guidance": 3.0, "size": SIZE}
    [alone] = backbone.sample([TEXTS[2]], [candidates[4].seed], conditions=cut[2:], **options)
    assert np.abs(alone.pixels().astype(int) - candidates[4].media.pixels()).max() <= 1  # type: ignore[attr-defined]

    cache = LatentCache(config.run / "latents")
    wanted = backbone.embed_condition(cut, SIZE)["condition_latents"]
    ids, no = [candidate.candidate_id for candidate in candidates], [False] * 6
    found = cache.conditions(ids, no, no)["condition_latents"]
    assert torch.allclose(found, wanted.repeat_interleave(2, 0), atol=1e-5)
    mirrored = backbone.embed_condition([Image.from_pixels(each.pixels()[:, ::-1].copy()) for each in cut], SIZE)["condition_latents"]
    assert torch.allclose(cache.conditions(ids[::2], [True] * 3, no[:3])["condition_latents"], mirrored, atol=1e-5)
    assert not cache.conditions(ids, no, [True] * 6)["condition_latents"].any()
    stored = [row["condition"] for row in read_rows(config.run / "latents/conditions")]
    keys = [condition_key(condition_id(candidates[place].condition), SIZE) for place in (0, 2)]  # type: ignore[arg-type]
    assert sorted(stored) == sorted(["@16x24", *keys, *(f"{key}:flipped" for key in keys)])  # two images: each encoded once

    for stage in (train, evaluate, gallery):
        stage.run(config, progress=QUIET)
    first = json.loads((config.run / "train/metrics.jsonl").read_text().splitlines()[0])
    assert first["loss"] == pytest.approx(np.log(2), abs=1e-6)
    for name in ("base", "aligned"):
        made = list(read_candidates(config.run / "evaluation" / name))
        assert [each.condition.encoded() for each in made if each.condition is not None] == files[::2]
    for name, place in (("compare", 4), ("pairs", 5)):
        script = (config.run / f"gallery/data/{name}.js").read_text("ascii")
        lines = json.loads(script[script.index(",") + 1 : script.rindex(")")])
        assert [(line[place]["condition"]["width"], line[place]["condition"]["height"]) for line in lines] == [(32, 16)] * 3
        assert all((config.run / "gallery" / line[place]["condition"]["src"]).is_file() for line in lines)


def test_a_key_holds_the_prompt_where_a_model_reads_both() -> None:
    """The empty prompt has one of its own, mirrored or not; without a prompt a key is as it was."""
    own, empty = condition_key("id", SIZE, "a red circle"), condition_key("id", SIZE, "")
    assert own != empty and unprompted_key(own) == empty == unprompted_key(empty)
    assert unprompted_key(own + ":flipped") == empty + ":flipped" and dropped_key(own + ":flipped") == "@16x24"
    assert unprompted_key(condition_key("id", SIZE)) == condition_key("id", SIZE) == "id@16x24"
    assert is_read_with_prompt(own) and not is_read_with_prompt("id@16x24")


def test_a_candidate_is_read_with_one_prompt() -> None:
    rows = [Preference(f"g{place}", text, ("a", "b"), "pair") for place, text in enumerate(TEXTS)]
    assert prompts_of(rows[::2]) == {"a": TEXTS[0], "b": TEXTS[0]}
    with pytest.raises(ValueError, match="candidate 'a' is compared under 'a red circle' and 'two yellow hearts', and the model reads a"):
        prompts_of(rows)


def test_batches_flip_drop_and_share_them(tmp_path: Path, model: Path, prompts: Path) -> None:
    """One row for a group: the samples of a pair cannot differ in it; of a dropped prompt it stays, of another's prompt too."""
    config = make_config(tmp_path / "run", model, prompts)
    until_encoded(config)
    cache, rows = LatentCache(config.run / "latents"), read_preferences(config.run / "preferences")
    groups = CachedGroups(cache, rows, "pairs", mismatched=True)
    no = [False] * 3
    plain = groups.fetch([0, 1, 2], dropped=no, flipped=no)
    own = cache.conditions([row.samples[1] for row in rows], no, no)["condition_latents"]
    assert torch.equal(plain.embeds["condition_latents"], own) and torch.equal(own[1], own[2]) and not torch.equal(own[0], own[1])
    assert plain.mismatched is not None and torch.equal(plain.mismatched["condition_latents"], own)
    batch = groups.fetch([0, 1, 2], dropped=[True, False, False], flipped=[False, True, False], unconditioned=[False, False, True])
    assert torch.equal(batch.embeds["condition_latents"][0], own[0]) and not batch.embeds["condition_latents"][2].any()
    assert torch.equal(
        batch.embeds["condition_latents"][1], cache.conditions([rows[1].samples[0]], [True], [False])["condition_latents"][0]
    )
    assert torch.equal(batch.embeds["prompt_embeds"][0], cache.dropout_embeds()["prompt_embeds"][0])
    assert torch.equal(batch.embeds["prompt_embeds"][1:], plain.embeds["prompt_embeds"][1:])


def test_dropout_is_that_of_the_paper() -> None:
    """5 % without prompt, 5 % without image, 5 % without both, where a tenth of the prompts goes; none where none does."""
    uniform = (torch.arange(2000) + 0.5) / 2000
    prompt, condition = (torch.tensor(each) for each in Sampling(prompt_dropout=0.1).drops(uniform))
    counts = [int(each.sum()) for each in (prompt & ~condition, ~prompt & condition, prompt & condition)]
    assert counts == [100, 100, 100]
    assert not any(any(each) for each in Sampling().drops(uniform))


def test_another_image_is_another_run(tmp_path: Path, model: Path, prompts: Path) -> None:
    """A finished stage is done; with another image under the same name it is refused, for its samples are of the old one."""
    config = make_config(tmp_path / "run", model, prompts)
    generate.run(config, progress=QUIET)
    before = [candidate.media.identity() for candidate in read_candidates(config.run / "candidates")]
    shard = config.run / "candidates/shard-00000.parquet"
    stamp = shard.stat().st_mtime_ns
    generate.run(config, progress=QUIET)
    assert shard.stat().st_mtime_ns == stamp
    shard.unlink()
    generate.run(config, progress=QUIET)
    assert [candidate.media.identity() for candidate in read_candidates(config.run / "candidates")] == before
    (tmp_path / "0.png").write_bytes(picture(7, (32, 16)))
    with pytest.raises(ValueError, match="prompts_sha256"):
        generate.run(config, progress=QUIET)


def test_families_refuse_what_they_cannot_take(tmp_path: Path, model: Path, prompts: Path) -> None:
    plain = {"backbone": "stable_diffusion", "source": str(model), "device": "cpu"}
    sd = type(make_config(tmp_path, model, prompts).model).model_validate(plain)
    config = make_config(tmp_path / "run", model, prompts).model_copy(update={"model": sd})
    takes = r"generate.prompts has conditions, and backbone 'stable_diffusion' takes none; .* choose one of: instruct_pix2pix"
    with pytest.raises(ValueError, match=takes):
        generate.run(config, progress=QUIET)
    text = {"prompts": {"texts": ["a red circle"]}}
    needs = "has no conditions, and backbone 'instruct_pix2pix' needs an image with each prompt; give a column `condition`"
    with pytest.raises(ValueError, match=f"generate.prompts {needs}"):
        generate.run(make_config(tmp_path / "run", model, prompts, generate=text), progress=QUIET)
    with pytest.raises(ValueError, match=f"evaluate.prompts {needs}"):
        evaluate.run(make_config(tmp_path / "run", model, prompts, evaluate=text), progress=QUIET)
    config = make_config(tmp_path / "other", model, prompts)
    for stage in (generate, score, pair):
        stage.run(config, progress=QUIET)
    with pytest.raises(ValueError, match=r"candidates has conditions, and backbone 'stable_diffusion' takes none"):
        encode.run(config.model_copy(update={"model": sd}), progress=QUIET)


def test_a_prompt_s_column_is_a_path_beside_the_file_or_bytes(tmp_path: Path, prompts: Path) -> None:
    read = load_prompts(Prompts(file=prompts), 0)
    files = [(tmp_path / f"{index}.png").read_bytes() for index in range(2)]
    assert [prompt.condition.encoded() for prompt in read if prompt.condition] == [files[0], files[1], files[1]]
    assert len({prompt.cluster for prompt in read}) == 3 and read[0].identity.startswith("a red circle\0")
    table = pa.table({"prompt": ["a", "b"], "source": [{"bytes": data, "path": None} for data in files]})
    pq.write_table(table, tmp_path / "p.parquet")
    told = load_prompts(Prompts(file=tmp_path / "p.parquet", condition="source"), 0)
    assert [prompt.condition.encoded() for prompt in told if prompt.condition] == files
    assert [prompt.condition for prompt in load_prompts(Prompts(file=tmp_path / "p.parquet"), 0)] == [None, None]
    assert [prompt.condition for prompt in load_prompts(Prompts(file=prompts, condition=None), 0)] == [None] * 3
    with pytest.raises(ValueError, match=r"no column 'image'; it has: prompt, source; choose with prompts.condition"):
        load_prompts(Prompts(file=tmp_path / "p.parquet", condition="image"), 0)


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        ('{"prompt": "a", "condition": "0.png"}\n{"prompt": "b"}\n', ValueError, "1 of 2 have no condition, the first: number 2"),
        ('{"prompt": "a", "condition": "nothing.png"}\n', FileNotFoundError, "row 1, condition is 'nothing.png', .*condition=null"),
        ('{"prompt": "a", "condition": "../0.png"}\n', PermissionError, r"row 1, condition: '../0.png' lies outside"),
        ('{"prompt": "a", "condition": "prompts.jsonl"}\n', ValueError, "cannot be read"),
        ('{"prompt": "a", "condition": 3}\n', ValueError, "row 1, condition is int; give the path of an image, or its bytes"),
    ],
)
def test_what_is_no_image_is_refused(tmp_path: Path, prompts: Path, lines: str, error: type[Exception], message: str) -> None:
    prompts.write_text(lines, encoding="utf-8")
    with pytest.raises(error, match=message):
        load_prompts(Prompts(file=prompts), 0)


@pytest.mark.parametrize("form", ["parquet", "jsonl"])
def test_an_export_is_read_back_with_them(tmp_path: Path, model: Path, prompts: Path, form: str) -> None:
    config = make_config(tmp_path / "run", model, prompts)
    for stage in (generate, score, pair):
        stage.run(config, progress=QUIET)
    folder = export.run(config, tmp_path / "set", form=form, progress=QUIET)
    shutil.rmtree(config.run)
    again = (
        build_import("records", str(folder / "records.jsonl"))
        if form == "jsonl"
        else build_import("table", str(folder / "data/pairs"), exported=True)
    )
    groups = list(again.groups)
    files = [(tmp_path / f"{index}.png").read_bytes() for index in (0, 1, 1)]
    assert [[each.condition.encoded() for each in group.candidates if each.condition] for group in groups] == [[file] * 2 for file in files]


def test_a_table_names_its_column(tmp_path: Path) -> None:
    for index in range(3):
        (tmp_path / f"{index}.png").write_bytes(picture(index))
    (tmp_path / "t.csv").write_text("prompt,chosen,rejected,source\na,0.png,1.png,2.png\n")
    [group] = build_import("table", str(tmp_path / "t.csv"), condition="source").groups
    assert [each.condition.encoded() for each in group.candidates if each.condition] == [(tmp_path / "2.png").read_bytes()] * 2
    [group] = build_import("table", str(tmp_path / "t.csv")).groups
    assert [each.condition for each in group.candidates] == [None, None]


def test_samples_of_one_preference_have_one_condition(tmp_path: Path, model: Path, prompts: Path) -> None:
    config = make_config(tmp_path / "run", model, prompts)
    generate.run(config, progress=QUIET)
    folder = config.run / "candidates"
    candidates = list(read_candidates(folder))
    sizes: dict[str, tuple[int, ...]] = {candidate.candidate_id: SIZE for candidate in candidates}
    mixed = Preference("g", "p", (candidates[0].candidate_id, candidates[2].candidate_id))
    with pytest.raises(ValueError, match="1 of 1 preferences join samples of different conditions, the first: group 'g'"):
        condition_keys(folder, [mixed], sizes, None)
    sizes[candidates[1].candidate_id] = (32, 16)
    apart = Preference("g", "p", (candidates[0].candidate_id, candidates[1].candidate_id))
    with pytest.raises(ValueError, match=r"1 of 1 preferences join samples of several sizes \(16x24, 32x16\), .*: set encode.size"):
        condition_keys(folder, [apart], sizes, None)
    with pytest.raises(ValueError, match=r"1 of 6 have no condition, the first: number 1; give one to each, or to none"):
        write_candidates(tmp_path / "shard-00000.parquet", [type(candidates[0])("x", "g", "p", candidates[0].media), *candidates[1:]])


def test_samples_of_several_sizes_share_a_condition_at_the_size_they_are_encoded_at(tmp_path: Path, model: Path, prompts: Path) -> None:
    """Sizes in turn within a group: each sample is made with the condition at its own size, and all are trained on at one."""
    sizes = [list(SIZE), [32, 16]]
    made = {"prompts": {"file": prompts}, "samples_per_prompt": 2, "steps": 1, "size": sizes}
    pairs = {"rule": "best_vs_worst", "by": "sharpness.score", "same_size": False}
    config = make_config(tmp_path / "run", model, prompts, generate=made, pair=pairs, encode={"size": list(SIZE), "posterior": "mean"})
    until_encoded(config)
    candidates = list(read_candidates(config.run / "candidates"))
    assert [candidate.media.columns["height"] for candidate in candidates] == [16, 32] * 3
    cache, no = LatentCache(config.run / "latents"), [False] * 6
    found = cache.conditions([candidate.candidate_id for candidate in candidates], no, no)["condition_latents"]
    assert torch.equal(found[::2], found[1::2]) and len(list(read_rows(config.run / "latents/conditions"))) == 3


def test_a_mirrored_condition_is_cut_as_its_samples_are(tmp_path: Path, model: Path, prompts: Path) -> None:
    """Of an odd rest the cut takes one more column on the right: mirrored before it, it would lie a column beside the latents."""
    for index in range(2):
        (tmp_path / f"{index}.png").write_bytes(picture(index, (27, 16)))
    config = make_config(tmp_path / "run", model, prompts)
    until_encoded(config)
    ids = [candidate.candidate_id for candidate in read_candidates(config.run / "candidates")][:1]
    cut = fit(Image.from_path(tmp_path / "0.png").pixels(), SIZE)
    backbone: Any = load_model(config.model)
    wanted = backbone.embed_condition([Image.from_pixels(cut[:, ::-1])], SIZE)["condition_latents"]
    found = LatentCache(config.run / "latents").conditions(ids, [True], [False])["condition_latents"]
    assert torch.allclose(found, wanted, atol=1e-5)

    mirrored = {"objective": "dro", "steps": 2, "batch_size": 2, "lora": {"rank": 2}, "noising": "trajectory", "flip": 0.5}
    with pytest.raises(ValueError, match=r"train.flip is 0.5, and own samples are made beside .* not mirrored; set train.flip=0"):
        train.run(make_config(tmp_path / "run", model, prompts, train=mirrored), progress=QUIET)


def test_groups_of_a_set_have_conditions_all_or_none(tmp_path: Path, model: Path, prompts: Path) -> None:
    """Also where those with and those without fill shards of their own."""
    said = {"candidates": [{"path": "0.png"}, {"path": "1.png"}], "preferences": [{"type": "pair", "order": [0, 1]}]}
    rows = [{"prompt": "a", "condition": "0.png", **said}, {"prompt": "b", **said}]
    for name, order, told in (("first", rows, "conditions, and the next have none"), ("last", rows[::-1], "no conditions, and the next")):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in order), encoding="utf-8")
        source = {"source": {"importer": "records", "path": str(path), "groups_per_shard": 1}}
        config = make_config(tmp_path / name, model, prompts, generate=None, score=None, pair=source)
        with pytest.raises(ValueError, match=f"the first 1 groups have {told}"):
            pair.run(config, progress=QUIET)


def test_a_benchmark_has_no_conditions(model: Path) -> None:
    with pytest.raises(ValueError, match="a benchmark has no conditions, and backbone 'instruct_pix2pix' needs an image"):
        bench.run("step", bench.Bench(backbone="instruct_pix2pix", source=str(model)))


def test_in_time_a_condition_is_encoded_at_the_longest_length(tmp_path: Path, model: Path, prompts: Path) -> None:
    """Samples of two lengths share a key; sizes in space stay apart, a shard being of one."""
    config = make_config(tmp_path / "run", model, prompts)
    generate.run(config, progress=QUIET)
    names = [candidate.candidate_id for candidate in read_candidates(config.run / "candidates")]
    sizes: dict[str, tuple[int, ...]] = {name: (5 + 4 * (place % 2), 16, 16 * (1 + place // 4)) for place, name in enumerate(names)}
    keys = condition_keys(config.run / "candidates", [Preference("g", "p", (names[0], names[1]))], sizes, 8.0)
    assert [key.partition("@")[2] for key in keys.values()] == ["9x16x16"] * 4 + ["9x16x32"] * 2
    assert keys[names[0]] == keys[names[1]] != keys[names[2]]
    plan = plan_conditions(keys, 2, flip=False, drops=True)
    assert [[entry.size for entry in shard] for shard in plan] == [[(9, 16, 16)] * 2, [(9, 16, 16)], [(9, 16, 32)] * 2]
    assert [entry.candidate for entry in plan[0]] == [None, names[0]] and len({entry.key for shard in plan for entry in shard}) == 5
