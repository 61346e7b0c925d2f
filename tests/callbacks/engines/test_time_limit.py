"""What hangs is interrupted; what cannot be interrupted ends the process."""

import os
import signal
import subprocess
import sys
import time

import pytest

from visplay.callbacks.engines.time_limit import time_limit

OUT_OF_REACH = """
import signal, time
from visplay.callbacks.engines import time_limit
time_limit.GRACE_SECONDS = 0.1
with time_limit.time_limit(0.1):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])  # as in a call that never returns to Python
    time.sleep(60)
"""


def test_what_takes_longer_is_interrupted():
    with pytest.raises(TimeoutError, match=r"no step within 0.05 s \(timeout_seconds\)"), time_limit(0.05):
        time.sleep(60)


def test_what_ends_in_time_is_left_alone_and_so_is_what_has_no_limit():
    before = signal.getsignal(signal.SIGALRM)
    for seconds in (0.05, None):
        with time_limit(seconds):
            pass
        time.sleep(0.06)
    assert signal.getsignal(signal.SIGALRM) is before


def test_an_outer_limit_holds_after_an_inner_one():
    def sleep_after_an_inner_one():
        with time_limit(60):
            pass
        time.sleep(60)

    with pytest.raises(TimeoutError, match=r"within 0\.1 s"), time_limit(0.1):
        sleep_after_an_inner_one()


def test_a_call_out_of_reach_ends_the_process_with_its_stack():
    ended = subprocess.run([sys.executable, "-c", OUT_OF_REACH], capture_output=True, text=True, check=False)
    assert ended.returncode == os.EX_TEMPFAIL
    assert "cannot be interrupted" in ended.stderr
    assert "--auto_resume" in ended.stderr
    assert 'File "<string>", line 7' in ended.stderr
