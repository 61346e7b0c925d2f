"""The plan against the peaks of processes that take a whole step with the true widths of Qwen2.5-VL-3B and -7B."""

import pytest

from benchmarks.memory import FORMS, measure_apart, plan_form
from benchmarks.results import load
from visplay.planning.reading import host_memory

SHORT = "3b, short, without reference"
RECORDED = load()["sections"]["memory"]["figures"]["rows"]


@pytest.mark.timeout(900)
@pytest.mark.skipif(host_memory() < 15 * 2**30, reason="the step takes 12.4 GiB")
def test_a_step_with_the_widths_of_3b_peaks_where_the_plan_says():
    figures = measure_apart(FORMS[SHORT])
    assert figures["weights"] == 542_939_248
    assert figures["ratio"] == pytest.approx(1.0, abs=0.15)


def test_what_was_measured_are_forms_that_there_are():
    assert SHORT in RECORDED
    assert RECORDED.keys() <= FORMS.keys()


@pytest.mark.parametrize("form", RECORDED)
def test_the_plan_of_today_agrees_with_what_was_measured(tmp_path, form):
    row = RECORDED[form]
    planned = plan_form(form, int(row["process_mib"] * 2**20), tmp_path)
    assert row["measured_mib"] / planned == pytest.approx(1.0, abs=0.15)
