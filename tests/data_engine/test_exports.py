"""Every export, loaded back as its tool loads it, with the fields that the tool reads."""

import base64
import hashlib
import json
from io import BytesIO

import datasets
import numpy as np
import pandas
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from transformers import AutoProcessor

from data.rows import encode
from visplay.commands.convert import run
from visplay.data_engine.exports.vlmevalkit import letter_of, split_options
from visplay.data_engine.pairs import Pairs, portable_image
from visplay.data_engine.rows import FEATURES
from visplay.tiny import BASE

PROMPTS = {"reasoner": {"system": "Put it in \\boxed{}.", "user": "Q: {question}"}, "questioner": {"user": "Ask."}}
ASKED = [  # question, type, silver answer, kept
    ("How many\t<image> dots?", "numerical", "3", True),
    ("Which? A) red B) blue", "multiple choice", "blue", True),
    ("Is it?", "yes or no", "yes", False),
    (None, None, None, False),
]


@pytest.fixture
def written(tmp_path):
    """What a prediction wrote about two images that it names by path."""
    images, output = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    (output / "data").mkdir(parents=True)
    rows = []
    for number, (question, kind, answer, kept) in enumerate(ASKED):
        image = encode(number // 2)
        (images / f"{number // 2}.png").write_bytes(image)
        row = dict.fromkeys(FEATURES) | {"key": f"{number:09d}", "question": question, "question_type": kind}
        row |= {"silver_answer": answer, "kept": kept, "confidence": 0.5, "votes": [], "prompts": json.dumps(PROMPTS)}
        row |= {"image_path": f"{number // 2}.png", "image_sha256": hashlib.sha256(image).hexdigest()}
        rows.append(row)
    datasets.Dataset.from_list(rows, features=FEATURES).to_parquet(output / "data" / "part-00000.parquet")
    settings = {"images": {"data": {"path": str(images)}, "found": 2}}
    (output / "predict.json").write_text(json.dumps(settings))
    return output


def _convert(written, to, *more):
    place = written.parent / to
    run([str(written), "--to", to, "--output", str(place), *more])
    return place


def _load(path, tmp_path):
    return datasets.load_dataset("parquet", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))


def _number(image):
    return np.asarray(image.convert("RGB"))[0, 0].tolist()


def test_trl(written, tmp_path):
    data_utils, rewards = (pytest.importorskip(f"trl.{name}") for name in ("data_utils", "rewards"))
    sft_trainer = pytest.importorskip("trl.trainer.sft_trainer")
    place = _convert(written, "trl")
    grpo, sft = _load(place / "grpo.parquet", tmp_path), _load(place / "sft.parquet", tmp_path)
    assert grpo.column_names == ["prompt", "images", "solution", "key", "question_type", "confidence"]
    assert grpo["solution"] == ["3", "blue"]
    said = [[{"role": "assistant", "content": f"\\boxed{{{number}}}"}] for number in (3, 4)]
    assert rewards.accuracy_reward(said, [grpo[0]["solution"]] * 2) == [1.0, 0.0]
    assert grpo[1]["prompt"] == [
        {"role": "system", "content": "Put it in \\boxed{}."},
        {"role": "user", "content": "Q: Which? A) red B) blue"},
    ]
    _, user = data_utils.prepare_multimodal_messages(grpo[1]["prompt"], images=grpo[1]["images"])
    assert [part["type"] for part in user["content"]] == ["image", "text"]
    assert _number(user["content"][0]["image"]) == _number(Image.open(BytesIO(encode(0))))
    assert sft[0]["messages"][1] == {"role": "assistant", "content": "3"}
    question, answer = data_utils.prepare_multimodal_messages(sft[0]["messages"], images=sft[0]["images"])
    assert [part["type"] for part in question["content"]] == ["image", "text"]
    assert [part["type"] for part in answer["content"]] == ["text"]
    collate = sft_trainer.DataCollatorForVisionLanguageModeling(AutoProcessor.from_pretrained(BASE))
    batch = collate([{name: row[name] for name in ("messages", "images")} for row in sft])
    assert len(batch["image_grid_thw"]) == 2


def test_verl(written, tmp_path):
    """As examples/data_preprocess/geo3k.py of verl prepares its own, and rl_dataset.py reads them."""
    rows = _load(_convert(written, "verl", "--name", "dots") / "train.parquet", tmp_path)
    assert rows.column_names == ["data_source", "prompt", "images", "ability", "reward_model", "extra_info"]
    row = rows[0]
    assert row["data_source"] == "dots"
    assert row["prompt"][1] == {"role": "user", "content": "<image>Q: How many\t[image] dots?"}
    assert row["prompt"][1]["content"].count("<image>") == len(row["images"])
    assert row["reward_model"] == {"style": "rule", "ground_truth": "3"}
    assert row["extra_info"]["index"] == 0
    assert row["extra_info"]["answer"] == "3"
    stored = pq.read_table(written.parent / "verl" / "train.parquet")["images"][0].as_py()
    assert Image.open(BytesIO(stored[0]["bytes"])).format == "PNG"


def test_easyr1(written, tmp_path):
    rows = _load(_convert(written, "easyr1", "--all") / "train.parquet", tmp_path)
    assert rows["answer"] == ["3", "blue", "yes"], "with what a gate rejected"
    assert rows["problem"][1] == "<image>Which? A) red B) blue"
    assert all(len(images) == 1 for images in rows["images"])


def test_llama_factory(written):
    place = _convert(written, "llama_factory", "--name", "dots")
    entry = json.loads((place / "dataset_info.json").read_text())["dots"]
    assert entry["formatting"] == "sharegpt"
    rows = json.loads((place / entry["file_name"]).read_text())
    assert len(rows) == 2
    first = rows[0][entry["columns"]["messages"]]
    tags = entry["tags"]
    assert [each[tags["role_tag"]] for each in first] == [tags["user_tag"], tags["assistant_tag"]]
    assert [each[tags["content_tag"]] for each in first] == ["<image>How many\t[image] dots?", "3"]
    images = [row[entry["columns"]["images"]] for row in rows]
    assert images[0] == images[1], "an image that two share"
    assert (place / images[0][0]).read_bytes() == encode(0)


def test_llama_factory_without_rows(written):
    rows = pq.read_table(written / "data" / "part-00000.parquet").slice(2)
    pq.write_table(rows, written / "data" / "part-00000.parquet")
    assert json.loads((_convert(written, "llama_factory") / "visplay.json").read_text()) == []


def test_lmms_eval(written, tmp_path):
    place = _convert(written, "lmms_eval", "--name", "dots")
    task = yaml.safe_load((place / "dots.yaml").read_text())
    files = datasets.load_dataset(task["dataset_path"], cache_dir=str(tmp_path / "cache"), **task["dataset_kwargs"])
    rows = files[task["test_split"]]
    assert {task["doc_to_visual"], task["doc_to_text"], task["doc_to_target"]} <= {*rows.features}
    assert isinstance(rows[0][task["doc_to_visual"]], Image.Image)
    assert rows[0][task["doc_to_text"]].startswith("How many\t[image] dots?\nAnswer")
    assert rows[task["doc_to_target"]] == ["3", "blue"]
    assert (task["output_type"], task["metric_list"][0]["metric"]) == ("generate_until", "exact_match")


def test_vlmevalkit(written):
    place = _convert(written, "vlmevalkit", "--name", "dots")
    choices = pandas.read_csv(place / "dots_MCQ.tsv", sep="\t")
    questions = pandas.read_csv(place / "dots_VQA.tsv", sep="\t", dtype=str)
    (choice,) = choices.to_dict("records")
    assert (choice["question"], choice["A"], choice["B"], choice["answer"]) == ("Which?", "red", "blue", "B")
    assert pandas.isna(choice["C"])
    assert base64.b64decode(choice["image"]) == encode(0)
    (question,) = questions.to_dict("records")
    assert (question["index"], question["question"], question["answer"]) == ("0", "How many\t[image] dots?", "3")
    assert "A" not in questions


def test_options():
    assert split_options("Which (A) a cat, (B) a dog?") == ("Which", ("a cat", "a dog?"))
    assert split_options("Which?\nA. red\nB. blue\nC. green").options == ("red", "blue", "green")
    assert split_options("How many?") is None
    assert split_options("Vitamin B) or not?") is None
    assert split_options("A) B) x") is None, "an option without words"
    assert letter_of("(b)", ["red", "blue"]) == "B"
    assert letter_of("green", ["red", "blue"]) is None
    assert letter_of("red", ["red", "red"]) is None


def test_images_that_tools_would_read_otherwise():
    upright, sideways, clear = BytesIO(), BytesIO(), BytesIO()
    image = Image.new("RGB", (16, 8), "red")
    image.save(upright, "JPEG")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(sideways, "JPEG", exif=exif)
    image.convert("RGBA").save(clear, "WEBP")
    assert portable_image(upright.getvalue()) == (upright.getvalue(), ".jpg")
    turned, suffix = portable_image(sideways.getvalue())
    assert (Image.open(BytesIO(turned)).size, suffix) == ((8, 16), ".png")
    assert Image.open(BytesIO(portable_image(clear.getvalue())[0])).mode == "RGB"


def test_what_cannot_be_exported(written, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"is not what visplay predict wrote: no predict\.json"):
        Pairs(tmp_path)
    with pytest.raises(SystemExit, match="output: .* is there already"):
        run([str(written), "--to", "trl", "--output", str(written)])
    (tmp_path / "images" / "0.png").write_bytes(encode(2))
    with pytest.raises(SystemExit, match=r"0\.png' has changed since it was asked about"):
        _convert(written, "easyr1")
    assert not (tmp_path / "easyr1").exists()
    with pytest.raises(
        SystemExit, match="'0.png' is no file of a directory .*; give the directory, or write the images"
    ):
        _convert(written, "easyr1", "--images", str(tmp_path / "nowhere"))
