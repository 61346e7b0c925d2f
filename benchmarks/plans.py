"""The plans of the shipped configurations, written into ``docs/models.md``.

``python -m benchmarks.plans`` makes each model's configuration without weights, plans it in full for one device of
80 GB and of 141 GB, with adapters for one of 80 GB, and in full for eight, and replaces what stands between the marks
of the page, with what ``benchmarks.memory`` recorded. Prompts are counted with the embedded tokenizer, which needs more
tokens for English than that of Qwen.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.models import save_empty
from benchmarks.results import load
from benchmarks.tables import table
from visplay.cli import instantiate
from visplay.planning.plan import Plan, gib, make_plan
from visplay.planning.quantities import host_bytes
from visplay.planning.reading import given_device, read_settings
from visplay.planning.showing import facts_markdown, memory_markdown, notes, refusals

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/models.md"
MARK = "<!-- {}: {} -->"
MODELS = {"qwen2_5_vl_3b": "3b", "qwen2_5_vl_7b": "7b", "mimo_vl_7b": "mimo"}
GIB, LARGE_GIB = 79.0, 139.0
"""What devices of 80 GB and of 141 GB have for a process."""
LORA = f"--config={ROOT / 'configs/lora.yaml'}"
EIGHT = ("--trainer.strategy=fsdp", "--trainer.devices=8")
WAYS = {
    "in full, one device of 80 GB": (GIB, ()),
    "in full, one device of 141 GB": (LARGE_GIB, ()),
    "with lora.yaml, one device of 80 GB": (GIB, (LORA,)),
    "in full, eight devices of 80 GB, weights cut over all (several devices: not in this version)": (GIB, EIGHT),
}
Plans = dict[str, dict[str, Plan]]
"""By configuration, and by way."""


def plan_config(config: str, directory: Path, memory: float, *further: str) -> Plan:
    """Plan a shipped configuration with a model's configuration from a directory."""
    path = f"--model.init_args.vlm.init_args.path={directory}"
    built = instantiate([f"--config={ROOT / 'configs' / config}.yaml", path, *further])
    return make_plan(read_settings(built.model, built.callbacks, built.trainer, given_device("gpu", memory, 0, None)))


def describe(config: str, plans: dict[str, Plan]) -> str:
    """The section of one configuration."""
    first = next(iter(plans.values()))
    lines = [f"### {config}.yaml", facts_markdown(first), *map("- {}".format, notes(first))]
    for title, plan in plans.items():
        lines += [f"**{title[0].upper()}{title[1:]}**", memory_markdown(plan)]
        lines += (
            ["```\n" + "\n".join(f"does not fit: {line}" for line in refusals(plan)) + "\n```"] if plan.problems else []
        )
    return "\n\n".join(lines)


def make_plans() -> Plans:
    """All plans of the page."""
    with tempfile.TemporaryDirectory() as place:
        directories = {config: Path(place) / shape for config, shape in MODELS.items()}
        for config, directory in directories.items():
            save_empty(MODELS[config], directory)
        return {
            config: {way: plan_config(config, directory, memory, *further) for way, (memory, further) in WAYS.items()}
            for config, directory in directories.items()
        }


def sections(plans: Plans) -> str:
    """All sections, as the page has them."""
    return "\n\n".join(describe(config, ways) for config, ways in plans.items())


def overview(plans: Plans) -> str:
    """Which configuration runs on which hardware: the highest peak of each, the host's share, and whether all fits."""
    cells = [[way, *(_verdict(plans[config][way]) for config in plans)] for way in WAYS]
    return table(["", *(f"{config}.yaml" for config in plans)], cells).strip()


def _verdict(plan: Plan) -> str:
    stage = max(plan.stages, key=plan.peak)
    host = sum(host_bytes(plan.settings).values())
    beside = f", host {gib(host)}" if host else ""
    return f"{'fits' if not plan.problems else '**no**'}: {gib(plan.peak(stage))} ({stage}){beside}"


def measured() -> str:
    """The recorded measurements of ``benchmarks.memory``."""
    rows = load()["sections"]["memory"]["figures"]["rows"]
    cells = [
        [form, *(f"{row[name]:,.0f}" for name in ("weights", "planned_mib", "measured_mib")), f"{row['ratio']:.3f}"]
        for form, row in rows.items()
    ]
    return table(["form", "weights", "planned MiB", "measured MiB", "measured / planned"], cells).strip()


def written(page: str, **texts: str) -> str:
    """The page with texts between their marks."""
    for name, text in texts.items():
        begin, end = MARK.format(name, "begin"), MARK.format(name, "end")
        page = f"{page.partition(begin)[0]}{begin}\n\n{text}\n\n{end}{page.partition(end)[2]}"
    return page


def main() -> None:
    """Write the page anew."""
    plans = make_plans()
    page = PAGE.read_text()
    PAGE.write_text(written(page, overview=overview(plans), measured=measured(), plans=sections(plans)))


if __name__ == "__main__":
    main()
