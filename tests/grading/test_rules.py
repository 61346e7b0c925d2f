import pytest

from visplay.functional import equivalent
from visplay.grading.rules import GradingRules
from visplay.grading.worker import Grader


@pytest.mark.parametrize(
    ("rules", "same", "different"),
    [
        (GradingRules(), ["50%", "50"], ["50%", "0.5"]),
        (GradingRules(percent="fraction"), ["50%", "0.5"], ["50%", "50"]),
        (GradingRules(), ["12 cm", "12"], ["100 cm", "1 m"]),
        (GradingRules(require_units=True), ["12 cm", "12 centimeters"], ["12 cm", "12"]),
        (GradingRules(convert_units=True), ["100 cm", "1 m"], ["100 cm", "1 km"]),
        (GradingRules(convert_units=True), ["1.5 hours", "90 min"], ["20 °C", "68 °F"]),
        (GradingRules(), ["3,14", "3.14"], ["1,234", "1.234"]),
        (GradingRules(decimal_comma=False), ["1,234", "1234"], ["3,14 m", "3.14 m"]),
        (GradingRules(), ["二十", "20"], ["zwanzig", "20"]),
        (GradingRules(languages=("de", "fr")), ["zwanzig", "vingt"], ["twenty", "20"]),
    ],
)
def test_where_people_differ(rules, same, different):
    for a, b in (same, same[::-1]):
        assert equivalent(a, b, rules=rules)
    for a, b in (different, different[::-1]):
        assert not equivalent(a, b, rules=rules)
    grader = Grader(rules=rules)
    assert (grader(*same), grader(*different)) == (True, False)
    assert grader.normalise(same[0]) == grader.normalise(grader.normalise(same[0]))


def test_an_unknown_rule_for_percent():
    with pytest.raises(ValueError, match="percent: must be 'number' or 'fraction', got 'both'"):
        GradingRules(percent="both")
