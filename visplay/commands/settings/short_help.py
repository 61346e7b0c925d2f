"""``visplay fit --help``: the settings that a run is usually given, on one page; ``--help=all`` lists every one."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

from visplay.shipped import configurations

PURPOSES: Mapping[str, str] = {
    "fit": "Self-play: Questioner and Reasoner learn in turns, one epoch of the trainer per phase.",
    "validate": "Score the Reasoner on the benchmarks to validate on.",
    "test": "Score models on all benchmarks, and compare each with the first: base against evolved.",
}
GROUPS: Mapping[str, str] = {
    "model": """\
--model.vlm=CLASS                               family, such as visplay.modules.Qwen2_5_VL (docs/models.md)
--model.vlm.path=DIR                            Hugging Face directory, or name on the Hub
--model.vlm.max_pixels                    null  area in pixels that larger images are scaled to
--model.vlm.max_context_tokens            null  tokens of a sequence, images expanded; null is the model's
--model.shared_policy                    false  one policy for both roles
--model.seed                                 0  root of every draw""",
    "data": """\
--data.images=DIR                               directory, .parquet or .arrow file, name on the Hub (docs/data.md)
--data.labelled=FILE                      null  labelled questions to mix in
--data.benchmarks.sources                   []  benchmarks; --config benchmarks has the paper's eight""",
    "self-play": """\
--self_play.iterations                       3  times that every role has its phase
--self_play.curation.images               1000  images asked about in each iteration
--self_play.curation.questions_per_image     8  questions asked about each
--self_play.curation.low                  0.25  least confidence of a question that is kept
--self_play.curation.high                 0.75  highest confidence of one
--self_play.curation.gates+=CLASS           []  further rules for what is kept (docs/gates.md)
--self_play.advance=CLASS                 null  whether a phase is repeated or undone""",
    "learning: ROLE is questioner or reasoner": """\
--model.ROLE.grpo.steps                     20  steps of a phase
--model.ROLE.grpo.prompts_per_step         512  images or questions of a step
--model.ROLE.grpo.prompts_per_update       128  of them in one update; null is all
--model.ROLE.grpo.group_size                 8  completions of a prompt
--model.ROLE.grpo.max_new_tokens          2048  tokens of a completion at most
--model.ROLE.grpo.temperature              1.0  of sampling
--model.ROLE.grpo.learning_rate          1e-06  of AdamW
--model.ROLE.grpo.kl_weight               0.01  weight of the KL to the reference
--model.ROLE.grpo.tokens_per_micro_batch 16384  tokens in one forward and backward pass
--model.reasoner.voting.votes               10  answers of which a vote is made""",
    "sampling": """\
--rollout=CLASS                             of visplay.callbacks: TransformersRollout, VLLMRollout, …""",
    "evaluation": """\
--evaluation.answering.samples            null  answers sampled per question; null is what each benchmark says
--evaluation.judges                         []  chat models that judge answers besides the rule (docs/evaluation.md)""",
    "run": """\
--trainer.accelerator                     auto  cpu, gpu, …
--trainer.devices                            1  processes, one per GPU
--trainer.strategy                        auto  ddp; --config fsdp shards weights (docs/scaling.md)
--trainer.precision                       null  bf16-mixed computes in bfloat16; weights stay float32
--trainer.default_root_dir                runs  directory below which all is written
--ckpt_path=FILE                          null  checkpoint; last is the newest of the runs of this name""",
    "continuing": """\
--auto_resume                            false  continue the last run of this name, or start one""",
}
"""Settings by title: key, default where there is one, and meaning."""
LEARNING = ("self-play", "learning: ROLE is questioner or reasoner", "continuing")
"""Groups that ``fit`` alone has."""


def short_help(command: str) -> str:
    """The page of one of ``PURPOSES``: usage, settings with their defaults, and where there are more."""
    titles = [title for title in GROUPS if command == "fit" or title not in LEARNING]
    settings = "\n\n".join(f"{title}\n{_indent(GROUPS[title])}" for title in titles)
    return f"""\
usage: visplay {command} --config NAME [--config NAME ...] [--KEY=VALUE ...]

{PURPOSES[command]}
A configuration is a YAML file, or the name of one of the package's; later ones override, keys override all:
{_indent(_wrap(", ".join(configurations())))}

Settings, with their defaults:

{settings}

more
  visplay {command} --help=all                      every setting
  visplay {command} --model.vlm.help=CLASS          the settings of a class; likewise --rollout.help=CLASS, …
  visplay {command} --config NAME --print_config    the whole configuration
"""


def _indent(lines: str) -> str:
    return "\n".join(f"  {line}" for line in lines.splitlines())


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, 110))
