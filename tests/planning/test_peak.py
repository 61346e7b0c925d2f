"""The plan against the peaks of processes that take a whole step with the true widths of Qwen2.5-VL-3B and -7B.

The step that is taken here has a small vocabulary: the true one takes 7 GiB more.
"""

import pytest

from benchmarks.measure import run_apart
from benchmarks.memory import FORMS, plan_form
from benchmarks.results import load
from visplay.planning.reading import host_memory

SHORT = "3b, vocabulary of 8192, short, without reference"
RECORDED = load()["sections"]["memory"]["figures"]["rows"]


@pytest.mark.timeout(900)
@pytest.mark.skipif(host_memory() < 8 * 2**30, reason="the step takes 5.8 GiB")
def test_a_step_with_the_widths_of_3b_peaks_where_the_plan_says():
    figures = run_apart("memory", SHORT)
    assert figures["weights"] == 248_551_536
    assert figures["ratio"] == pytest.approx(1.0, abs=0.15)


def test_what_was_measured_are_forms_that_there_are():
    assert SHORT in FORMS
    assert "3b, short, without reference" in RECORDED  # the same step with the true vocabulary
    assert RECORDED.keys() <= FORMS.keys()


@pytest.mark.parametrize("form", RECORDED)
def test_the_plan_of_today_agrees_with_what_was_measured(tmp_path, form):
    row = RECORDED[form]
    planned = plan_form(form, int(row["process_mib"] * 2**20), tmp_path)
    assert row["measured_mib"] / planned == pytest.approx(1.0, abs=0.15)
