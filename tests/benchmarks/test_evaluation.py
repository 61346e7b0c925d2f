from benchmarks.evaluation import measure


def test_the_stages_of_an_evaluation():
    figures = measure(1280)
    assert figures["seconds"].keys() == {"decoding", "prompts", "generation", "grading", "rest"}
    assert all(seconds > 0 for seconds in figures["seconds"].values())
    assert figures["milliseconds_per_row"] < 20  # benchmarks are measured alone, tests are not
    assert figures["growth_mib"] < 40
