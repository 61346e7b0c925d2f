"""Which tests are marked ``vllm``, ``process`` and ``slow``, and which files are run first."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
WHERE = {  # mark -> beginnings of names of tests, as pytest prints them, below tests/
    "vllm": [
        *(f"callbacks/engines/test_vllm{name}" for name in (".", "_adapters", "_families", "_loop")),
        *(f"callbacks/engines/test_vllm{name}" for name in ("_mismatch", "_ranks", "_server", "_sockets", "_text")),
        "checking/test_family_check.py::test_vllm",
        "judge/test_vllm_judge.py",
        "pretrained/test_smollm2.py::test_vllm",
        "test_configs.py::test_base[qwen",
        "test_configs.py::test_vllm",
    ],
    "process": [  # they start Python anew
        "benchmarks/test_faults.py::test_a",
        "benchmarks/test_kills.py::test_a_run",
        "browser",
        "callbacks/test_few_items_on_two_ranks.py",
        "callbacks/test_fit_on_two_ranks.py",
        "callbacks/test_loggers.py::test_wandb",
        "callbacks/engines/test_time_limit.py::test_a_call",
        "benchmarks/test_soak.py::test_a_short_run",
        "benchmarks/test_soak.py::test_what_is_kept",
        "callbacks/test_progress.py::test_a_run_whose_output_is_a_file",
        "data/benchmarks/test_benchmark_memory.py",
        "data/test_sources.py::TestElsewhere::test_opening_takes_no_memory",
        "data/images/test_image_decoding.py::TestFormats::test_heic",
        "data/test_zoo.py::test_memory_is_bounded",
        "evaluation/test_stop_and_continue.py",
        "functional/test_purity.py::test_importing_loads_no_framework",
        "grading/test_worker.py",
        "judge/test_cache.py::test_a_process_killed",
        "judge/test_judge.py::test_importing",
        "judge/test_cache.py::test_processes_share",
        "metrics/test_ranks.py",
        "modules/learner/test_two_ranks.py",
        "planning/test_peak.py::test_a_step",
        "test_cli.py::test_help_is_quick",
        "test_cli.py::test_a_shell_completes_keys",
        "test_cli.py::test_threads_spin_little",
        "test_odd_input.py",
        "test_packaging.py",
        "test_rank_watch.py",
        "test_several_machines.py",
        "test_study_command.py",
        *(f"test_run_directory.py::test_{name}" for name in ("two_processes", "no_socket", "a_lock")),
    ],
    "slow": [  # more than five seconds, or a file of many seconds that looks at one thing in many settings
        "benchmarks/test_evaluation.py",
        "benchmarks/test_faults.py::test_a",
        "benchmarks/test_gpu.py",
        "benchmarks/test_kills.py",
        "benchmarks/test_soak.py::test_a_short_run",
        "benchmarks/test_soak.py::test_what_is_kept",
        "benchmarks/test_whole_iteration.py::test_both",
        "browser/test_tensorboard.py",
        "callbacks/export",
        "callbacks/test_adaptive_kl.py",
        "callbacks/test_adapters_in_a_run.py",
        "callbacks/test_continued.py",
        "callbacks/records",
        "callbacks/test_health.py",
        "checking/test_check_record.py",
        "modules/learner/test_skipped_updates.py",
        "modules/learner/test_two_ranks.py",
        "test_cli.py::test_a_",
        "test_cli.py::test_sigterm_ends",
        "test_cli.py::test_that_nothing_is_left",
        "test_cli.py::test_what_is_no_checkpoint",
        "callbacks/test_checkpoints.py",
        "callbacks/curation/test_curation_policies.py",
        "callbacks/test_diagnostics.py::test_divergence",
        "callbacks/test_few_items_on_two_ranks.py",
        "callbacks/test_fit_on_two_ranks.py",
        "callbacks/curation/test_gates.py::test_a_run_continued",
        "callbacks/test_loggers.py::test_wandb",
        "callbacks/test_memory.py::test_a_",
        "callbacks/iterations/test_referee.py::test_a_",
        "callbacks/iterations/test_replay_buffer.py::test_a_run_goes_on",
        "callbacks/test_self_play.py::test_a_run_continued",
        "callbacks/test_self_play.py::test_same_seed",
        "callbacks/test_stages.py",
        "callbacks/curation/test_survey.py::test_the_command",
        "data_engine/test_exports.py::test_trl",
        "callbacks/test_teacher.py",
        "checking/test_family_check.py",
        "documents/test_blocks.py::test_its_settings",
        "documents/test_blocks.py::test_yaml",
        "documents/test_hardware.py",
        "documents/test_site.py",
        "evaluation/test_the_eight.py",
        "judge/test_faults.py",
        "modules/families/test_family_adapters.py",
        "modules/families/test_family_exports.py",
        "modules/learner/test_grpo.py::test_learns_what_is_rewarded",
        "modules/test_own_roles.py",
        "planning/costs/test_step_costs.py",
        "planning/test_docs.py",
        "planning/test_families.py",
        "planning/test_live.py",
        "planning/test_plan.py",
        "pretrained/test_smollm2.py",
        "recipes/test_overlays.py",
        "test_add_a_vlm.py",
        "test_auto_resume.py",
        "test_cli.py::test_adapters",
        "test_cli.py::test_the_benchmarks",
        "test_configs.py",
        "test_demo.py",
        "test_examples.py",
        "test_export_command.py",
        "test_predict_command.py::test_a_prediction",
        "test_odd_input.py",
        "test_packaging.py",
        "test_rank_watch.py",
        "test_run_directory.py",
        "test_replay_command.py",
        "test_several_machines.py",
        "test_study_command.py",
        "tiny/test_base.py::test_base_leaves_head_room",
        "tiny/test_cold_start.py",
    ],
}
FIRST = [  # those that take longest; a worker takes a whole file
    "test_configs.py",
    "test_rank_watch.py",
    "callbacks/test_fit_on_two_ranks.py",
    "callbacks/engines/test_vllm_loop.py",
    "test_demo.py",
    "callbacks/engines/test_vllm_families.py",
    "callbacks/engines/test_vllm_ranks.py",
    "evaluation/test_stop_and_continue.py",
    "planning/test_peak.py",
    "planning/test_live.py",
    "test_cli.py",
    "callbacks/engines/test_vllm_server.py",
    "callbacks/engines/test_vllm.py",
    "judge/test_vllm_judge.py",
    "planning/test_families.py",
    "planning/test_plan.py",
    "grading/test_worker.py",
    "callbacks/test_checkpoints.py",
    "callbacks/test_few_items_on_two_ranks.py",
    "test_several_machines.py",
    "test_study_command.py",
    "test_auto_resume.py",
    "test_run_directory.py",
    "recipes/test_overlays.py",
    "benchmarks/test_kills.py",
    "benchmarks/test_soak.py",
    "benchmarks/test_faults.py",
]


def mark(items: Iterable[pytest.Item]) -> None:
    """Give every test its marks."""
    for item in items:
        for name, beginnings in WHERE.items():
            if _name(item).startswith(tuple(beginnings)):
                item.add_marker(name)


def order(item: pytest.Item) -> int:
    """The key that sorts what takes longest to the beginning, else changes nothing."""
    file = _name(item).partition("::")[0]
    return FIRST.index(file) if file in FIRST else len(FIRST)


def _name(item: pytest.Item) -> str:
    if not item.path.is_relative_to(TESTS):
        return ""  # an example in a docstring
    return "::".join([item.path.relative_to(TESTS).as_posix(), *item.nodeid.split("::")[1:]])
