"""The sections of ``docs/performance.md``: what each says, and the tables of its figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.tables import facts, grid, middle, number, table

Figures = Mapping[str, Any]


class Section(NamedTuple):
    """A section of the document.

    Args:
        title: Heading.
        prose: How the numbers are made.
        tables: Figures to Markdown.
    """

    title: str
    prose: str
    tables: Callable[[Figures], str]


def step_tables(figures: Figures) -> str:
    """Seconds of each stage, and how many times as long the others take."""
    rows, ours = figures["rows"], figures["rows"]["ours"]
    ratios = {
        name: {stage: middle(row[stage]) / middle(ours[stage]) for stage in row if stage in ours}
        for name, row in rows.items()
        if name != "ours"
    }
    seconds = facts(figures["shape"]) + "\n" + grid(rows, "seconds")
    return seconds + "\n" + grid(ratios, "times as long as ours")


def surface_tables(figures: Figures) -> str:
    """All cells."""
    columns = ["G", "P", "T", "ours", "padded", "rounds", "speedup", "bound", "share"]
    cells = sorted(figures["cells"], key=lambda cell: (cell["G"], cell["P"], cell["T"]))
    lines = [[number(cell[name]) for name in columns] for cell in cells]
    return facts({name: figures[name] for name in ("model", "dtype")}) + "\n" + table(columns, lines)


def rollout_tables(figures: Figures) -> str:
    """One table for each model."""
    return "\n".join(f"Model {name}:\n\n{grid(rows)}" for name, rows in figures["models"].items())


def loop_tables(figures: Figures) -> str:
    """Parts of the loop."""
    sizes = facts({name: figures[name] for name in ("prompts", "G", "T")})
    return sizes + "\n" + grid(figures["rows"], "part")


def iteration_tables(figures: Figures) -> str:
    """Seconds of the whole and of its stages."""
    stages = {f"`{name}`": {"seconds": seconds} for name, seconds in figures["seconds"].items()}
    return facts({"runs": figures["rounds"]}) + "\n" + grid(stages, "stage")


def clustering_tables(figures: Figures) -> str:
    """Seconds of both ways, and the memory of ours."""
    told = f"Peak memory of ours: {number(figures['peak_mib'])} MiB. "
    told += f"The released way was timed on {figures['released_questions_timed']} questions.\n"
    return told + "\n" + grid(figures["seconds"], "seconds")


def evaluation_tables(figures: Figures) -> str:
    """Seconds by stage, and memory."""
    told = facts({"rows": figures["rows"], "milliseconds_per_row": figures["milliseconds_per_row"]})
    stages = {f"`{name}`": {"seconds": seconds} for name, seconds in figures["seconds"].items()}
    return told + f"\nMemory grows by {number(figures['growth_mib'])} MiB.\n\n" + grid(stages, "stage")


def head_tables(figures: Figures) -> str:
    """Memory and seconds of both ways, and the ratios of memory."""
    rows = {f"{way}, {dtype}": row for dtype, ways in figures["rows"].items() for way, row in ways.items()}
    ratios = {dtype: row for dtype, row in figures["ratios"].items()}
    return facts(figures["shape"]) + "\n" + grid(rows, "way") + "\n" + grid(ratios, "lean over full")


def profile_tables(figures: Figures) -> str:
    """The peak, the update's fraction of it, the operators and the overhead."""
    peaks = {dtype: max(rates.values()) for dtype, rates in figures["peak"].items()}
    update = {
        dtype: {
            "peak, GFLOP/s": peaks[dtype] / 1e9,
            "GFLOP of an update": row["flops"] / 1e9,
            "seconds": row["seconds"],
            "fraction of the peak": row["share"],
        }
        for dtype, row in figures["update"].items()
    }
    operators = {f"`{row['name']}`": {"seconds": row["seconds"], "share": row["share"]} for row in figures["operators"]}
    overhead = figures["overhead"]
    stages = {stage: {"seconds of a step": seconds} for stage, seconds in overhead["seconds"].items()}
    told = f"Overhead: {overhead['share']:.2%} of a step, a mean over {overhead['steps']} steps.\n"
    tables = [facts(figures["shape"]), grid(update, "precision"), grid(operators, "operator"), told, grid(stages)]
    return "\n".join(tables)


def gpu_tables(figures: Figures) -> str:
    """Updates and rollouts of each model."""
    parts = []
    for name, model in figures["models"].items():
        updates = {path: {k: v for k, v in row.items() if k != "error"} for path, row in model["updates"].items()}
        failed = [f"{path}: {row['error']}.\n" for path, row in model["updates"].items() if "error" in row]
        parts += [f"Model {name}: {facts(model['shape'])}", *failed, grid(updates, "path")]
        parts.append(grid({engine: {"tokens/s": rate} for engine, rate in model["rollout"].items()}, "rollout"))
    return "\n".join(parts)


_STEP = """One step on the same images, answers of one length and the same model: ours (groups packed into one
row), our fallback (the prompt read once, its keys and values copied for each answer), padded rows (prompt, image
and answer, for each answer), and TRL's `GRPOTrainer`, given the settings that make it fast. An update is forward,
loss, backward, clipping and the optimizer's step; a step of ours and of TRL's is a real one, sampled through
transformers and rewarded. On a CPU, TRL's head scores prompts as well as answers, which its kernels elsewhere do
not."""


def memory_tables(figures: Figures) -> str:
    """A line for each form."""
    return grid(figures["rows"], "form")


SECTIONS = {
    "step": Section(
        "Step and update",
        _STEP,
        step_tables,
    ),
    "step_float32": Section("Step and update in float32", _STEP, step_tables),
    "surface": Section(
        "Where packing pays",
        "Forward and backward of one group, packed and with padded rows, over tokens of a prompt (P) and of an\n"
        "answer (T), for several group sizes (G); one image of 256 tokens, the rest of the prompt is text. The\n"
        "bound is the speed-up if the tokens and images that packing does not read cost nothing more (see\n"
        "`benchmarks/surface.py`); the fraction is the speed-up over it. The answers' attention to the prompt cannot\n"
        "be saved, and where rows are long it is most of the work (G 16, P 3000, T 1024: packing leaves 0.30 of\n"
        "the tokens, but 0.48 of the pairs that attend); a wider batch may slow padded rows down, so that a fraction\n"
        "can exceed 1. Cells of long rows have fewer rounds. A red line in the plot fences off the cells where\n"
        "packing is worth nothing (a speed-up of at most 1.05).",
        surface_tables,
    ),
    "rollout": Section(
        "Rollouts and votes",
        "Tokens per second by engine, no completion ending before its limit, and `generate`: transformers' own\n"
        "with `num_return_sequences`. Rows are sequences x tokens; votes are 8 questions about one image, 10\n"
        "answers each.",
        rollout_tables,
    ),
    "loop": Section(
        "The embedded default",
        "The parts of a step of the embedded model, 1.3 million parameters, on its own questions; `generate` is\n"
        "transformers' own with `num_return_sequences`.",
        loop_tables,
    ),
    "iteration": Section(
        "A whole iteration",
        "`visplay fit` with the embedded default for one iteration, as a command of its own: `whole` is from start\n"
        "to end, imports and both validations included; the stages are what the run itself logs.",
        iteration_tables,
    ),
    "head": Section(
        "Memory of the head",
        "Log-probabilities from hidden states, forward and backward: lean (rows in chunks, recomputed) and from\n"
        "the logits of all rows. Each runs in a fresh process. `whole_mib` is the peak memory of the process,\n"
        "`growth_mib` what the head added; the weight's gradient is part of both ways' growth.",
        head_tables,
    ),
    "profile": Section(
        "Fraction of the peak, operators, overhead",
        "The operations that an update needs are counted by formula (matrix products and attention, forward and\n"
        "twice that back; recomputation does not count) and divided by its seconds and by the fastest matrix\n"
        "product measured in the same precision. Operators are of one update under torch.profiler, by the time\n"
        "they take themselves. Overhead is what of a `training_step` under Lightning's Trainer is outside the\n"
        "model's forward and backward, the optimizer with clipping, and sampling: grading, collating, cutting\n"
        "images into patches, loss, and logging.",
        profile_tables,
    ),
    "clustering": Section(
        "Clustering of questions",
        "Ours, and the released code's way (every pair scored with nltk, linked with scikit-learn), timed on a\n"
        "part of the questions and extrapolated by the number of pairs.",
        clustering_tables,
    ),
    "evaluation": Section(
        "Evaluation",
        "Rows of a parquet file, answered at once by an engine that only writes text: one greedy answer and two\n"
        "samples a row, one row in 25 with an answer that needs mathematics to be graded. `milliseconds_per_row` are\n"
        "those of grading and of the rest: writing rows, metrics with their intervals, and the trainer. Memory is\n"
        "what the process holds of its own, at its peak against after a fifth of the rows.",
        evaluation_tables,
    ),
    "memory": Section(
        "Planned and measured memory",
        "A whole step of GRPO on a CPU, in a fresh process, with the true widths of a model and few layers, against\n"
        "what `visplay plan` reckons; see docs/models.md. The process part of the plan is what the process held\n"
        "before the model was made; the ratio is measured over planned.",
        memory_tables,
    ),
    "gpu": Section(
        "CUDA",
        "Models of the shapes of Qwen2.5-VL with random weights: groups packed into one row, the same with\n"
        "gradient checkpointing, and the fallback. MFU is needed operations over seconds and over the fastest\n"
        "matrix product measured in bfloat16.",
        gpu_tables,
    ),
}
