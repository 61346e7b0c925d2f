"""The plans of the shipped configurations, written into ``docs/models.md``: ``python -m benchmarks.plans``.

Each model's configuration is made without weights and planned in full for one device of 80 GB and of 141 GB, with
adapters for one of 80 GB, and in full for eight. What ``benchmarks.memory`` recorded stands in the page too. Prompts
are counted with the embedded tokenizer, which needs more tokens for English than that of Qwen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.models import save_empty
from benchmarks.results import load
from benchmarks.tables import table, written
from visplay.cli import instantiate
from visplay.planning.amounts import host_bytes
from visplay.planning.plan_tables import amounts_lines, memory_lines, notes, rejections
from visplay.planning.reading import given_device, read_settings
from visplay.planning.run_plan import Plan, gib, make_plan

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/models.md"
MODELS = {"qwen2_5_vl_3b": "3b", "qwen2_5_vl_7b": "7b", "mimo_vl_7b": "mimo"}
GIB, LARGE_GIB = 79.0, 139.0
"""What devices of 80 GB and of 141 GB have for a process."""
EIGHT = ("--trainer.strategy=fsdp2", "--trainer.devices=8")
WAYS = {
    "in full, one device of 80 GB": (GIB, ()),
    "in full, one device of 141 GB": (LARGE_GIB, ()),
    "with lora.yaml, one device of 80 GB": (GIB, (f"--config={ROOT / 'configs/lora.yaml'}",)),
    "in full, eight devices of 80 GB, weights cut over all (FSDP2)": (GIB, EIGHT),
}
Plans = dict[str, dict[str, Plan]]
"""By configuration, and by way."""


def make_plans() -> Plans:
    """All plans of the page."""
    plans: Plans = {config: {} for config in MODELS}
    with tempfile.TemporaryDirectory() as directory:
        for config, shape in MODELS.items():
            save_empty(shape, Path(directory, shape))
            path = f"--model.init_args.vlm.init_args.path={directory}/{shape}"
            for way, (memory, further) in WAYS.items():
                built = instantiate([f"--config={ROOT / 'configs' / config}.yaml", path, *further])
                device = given_device("gpu", memory, 0, None)
                settings = read_settings(built.model, built.callbacks, built.trainer, device)
                plans[config][way] = make_plan(settings)
    return plans


def write_page(page: str, plans: Plans) -> str:
    """The page with its tables as they are now."""
    rows = load()["sections"]["memory"]["figures"]["rows"]
    columns = ["form", "weights", "planned MiB", "measured MiB", "measured / planned"]
    measured = [
        [form, *(f"{row[name]:,.0f}" for name in ("weights", "planned_mib", "measured_mib")), f"{row['ratio']:.3f}"]
        for form, row in rows.items()
    ]
    verdicts = [[way, *(_verdict(plans[config][way]) for config in plans)] for way in WAYS]
    return written(
        page,
        overview=table(["", *(f"{config}.yaml" for config in plans)], verdicts),
        measured=table(columns, measured),
        plans="\n\n".join(_describe(config, ways) for config, ways in plans.items()),
    )


def _verdict(plan: Plan) -> str:
    """The highest peak, what is in CPU memory, and whether all fits."""
    stage = max(plan.stages, key=plan.peak)
    host = sum(host_bytes(plan.settings).values())
    besides = f", CPU memory {gib(host)}" if host else ""
    return f"{'fits' if not plan.problems else '**no**'}: {gib(plan.peak(stage))} ({stage}){besides}"


def _describe(config: str, plans: dict[str, Plan]) -> str:
    """The section of one configuration."""
    first = next(iter(plans.values()))
    parts = [f"### {config}.yaml", table(["what", "how much"], amounts_lines(first))]
    parts += [f"- {note}" for note in notes(first)]
    for title, plan in plans.items():
        parts += [f"**{title[0].upper()}{title[1:]}**", table(["", *plan.stages], memory_lines(plan))]
        if plan.problems:
            parts.append("\n".join(["```", *(f"does not fit: {line}" for line in rejections(plan)), "```"]))
    return "\n\n".join(part.strip() for part in parts)


if __name__ == "__main__":
    PAGE.write_text(write_page(PAGE.read_text(), make_plans()))
