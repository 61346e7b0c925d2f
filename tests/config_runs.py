"""The shipped configurations, which overlay fits which base, and one small run of any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from data.rows import STRUCT, rows
from stand_ins import write_stand_in
from visplay.tiny import BASE, QUESTION_KINDS
from visplay.tiny.self_play_images import write_images

DIRECTORY = Path(__file__).parent.parent / "configs"
PARENTS = ["r_zero", "r_zero_released", "vision_sr1", "vision_sr1_silver"]
"""Of the methods that VisPlay stands on; see recipes/test_r_zero.py and recipes/test_vision_sr1.py."""
PATHS = [path for path in DIRECTORY.glob("*.yaml") if path.stem not in PARENTS]
FILES = {path.stem: yaml.safe_load(path.read_text()) for path in PATHS}
BASES = sorted(name for name, file in FILES.items() if "class_path" in file.get("model", {}))
SELF_PLAY = [name for name in BASES if FILES[name]["model"]["class_path"] == "visplay.modules.VisPlay"]
OF_MODELS = ["mimo_vl_7b", "qwen2_5_vl_3b", "qwen2_5_vl_7b"]

_ALONE = dict.fromkeys(("tiny_labelled", "tiny_questioner"), "one role alone has no settings of two")
_SILENT = {"tiny_questioner": "a Questioner alone does not answer"}
MISFITS = {  # overlay -> base that it does not fit -> why
    "benchmarks": _SILENT,
    "digits": dict.fromkeys(OF_MODELS, "their images are of no small world")
    | {"tiny_questioner": "its frozen Reasoner has a path of its own"},
    "fsdp": {},
    "lora": _ALONE,
    "paper_protocol": _SILENT,
    "released_code": _ALONE,
    "vllm": dict.fromkeys(OF_MODELS, "they sample with vLLM as they are"),
    "vllm_server": {},
}
PAIRS = [(base, overlay) for overlay, misfits in MISFITS.items() for base in BASES if base not in misfits]

LEFT = ["--self_play.curation.low=0", "--self_play.curation.high=1", "--evaluation.answering.max_new_tokens=48"]
"""Whatever the overlay says, questions are kept, and answers are short."""
PIXELS = {"min_pixels": 3136, "max_pixels": 12544}
GRPO = {"steps": 1, "prompts_per_step": 2, "prompts_per_update": 1, "max_new_tokens": 48}
N_IMAGES = 6
ASKS = {"template": {"system": None, "user": "Ask."}, "format": {"kinds": list(QUESTION_KINDS)}}
ANSWERS = {"template": {"system": None, "user": "{question}"}}
"""The only words that the embedded base understands."""


def config(name: str) -> str:
    """The argument that names a configuration."""
    return f"--config={DIRECTORY / name}.yaml"


def shrink(base: str, directory: Path, model: Path | None = None) -> str:
    """The argument that makes one iteration of a base configuration small enough for a test; it goes before overlays.

    Args:
        base: Name of the configuration.
        directory: Where the settings, the stand-in of its model and its images are written.
        model: The model instead, a directory.
    """
    curation = {"images": 3, "questions_per_image": 4, "gates": [], "second_view": None}  # too few for a gate
    self_play = {"iterations": 1, "curation": curation}
    file = directory / f"{base}-{'small' if model is None else model.name}.yaml"
    small = {
        "model": {"init_args": _model(base, directory, model)},
        "data": _data(base, directory),
        "self_play": self_play,
    }
    file.write_text(yaml.safe_dump(small))
    return f"--config={file}"


def _model(base: str, directory: Path, model: Path | None) -> dict[str, Any]:
    of_models = base in OF_MODELS
    path = model or (stand_in(base, directory) if of_models else BASE)
    vlm = {"init_args": {"path": str(path)} | PIXELS | ({"max_context_tokens": 1024} if of_models else {})}
    if base not in SELF_PLAY:
        reasoner = {"reasoner": {"init_args": {"vlm": vlm, "voting": {"votes": 4}}}}
        return {"vlm": vlm, "grpo": GRPO} | (reasoner if "reasoner" in FILES[base]["model"]["init_args"] else {})
    questioner, reasoner = {"grpo": GRPO}, {"grpo": GRPO, "voting": {"votes": 4}}
    return {
        "vlm": vlm,
        "questioner": {"init_args": questioner | (ASKS if of_models else {})},
        "reasoner": {"init_args": reasoner | (ANSWERS if of_models else {})},
    }


def stand_in(base: str, directory: Path) -> Path:
    """The stand-in for the model of a configuration, written once."""
    checkpoint = FILES[base]["model"]["init_args"]["vlm"]["init_args"]["path"]
    path = directory / Path(checkpoint).name
    return path if path.is_dir() else write_stand_in(checkpoint, path)


def _data(base: str, directory: Path) -> dict[str, Any]:
    """A few images of the small world, for models in the columns of the published training set."""
    if base not in OF_MODELS:
        return {"init_args": {"n_images": N_IMAGES, "heldout_questions": 4, "heldout_votes": 2}}
    path = directory / "images.parquet"
    if not path.is_file():
        files = sorted(write_images(directory / "images", N_IMAGES, seed=0).glob("*.png"))
        images = [[{"bytes": file.read_bytes(), "path": None}] for file in files]
        pq.write_table(rows(N_IMAGES, images=pa.array(images, pa.list_(STRUCT))), path)
    return {"init_args": {"images": {"path": str(path)}}}
