"""Two processes say what one does: of items that a sampler pads, and where one of them has no items."""

import json
import os
import subprocess
import sys
from pathlib import Path

import visplay

TIMEOUT_SECONDS = 120
ROWS = 13
PATHS = os.pathsep.join([str(Path(visplay.__file__).parents[1]), str(Path(__file__).parents[1])])


def test_two_ranks_measure_what_one_does(tmp_path):
    command = [sys.executable, str(Path(__file__).with_name("metric_rank.py")), str(tmp_path)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATHS}
    ranks = [
        subprocess.Popen(command, env=environment | {"VISPLAY_TEST_RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    errors = [rank.communicate(timeout=TIMEOUT_SECONDS)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(error[-2000:] for error in errors)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2))
    assert len(first["items"]) + len(second["items"]) == ROWS + 1
    assert set(first["items"] + second["items"]) == set(range(ROWS))
    assert first["together"] == second["together"] == first["alone"]
    assert "'items': 13, 'conflicts': 0" in first["alone"]["0 RuleAccuracy"]
    assert "'items': 1, 'conflicts': 0, 'skipped': 13, 'samples': 1, 'unjudged/m': 0" in first["alone"]["8 SuiteScores"]
