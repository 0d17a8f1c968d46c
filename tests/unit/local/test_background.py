import subprocess
import sys

import pytest

from local.background import begun
from local.instance import ROOT

WAITING = """
import os, signal, sys, threading
from local.session import raise_on_terminate
from local import deployment
deployment.client = lambda *_: None
deployment.start_function = lambda *_: threading.Event().wait(60)
raise_on_terminate()
threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
try:
    deployment.start_functions(deployment.NO_STATE)
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_call_gives_its_result_or_its_error() -> None:
    assert begun(lambda: 1 + 1).result() == 2
    with pytest.raises(ZeroDivisionError):
        begun(lambda: 1 // 0).result()


def test_an_interrupt_does_not_wait_for_the_answers_of_first_calls() -> None:
    """The process ended only when the answers had come."""
    command = [sys.executable, "-c", WAITING]
    done = subprocess.run(command, cwd=ROOT, timeout=30, check=False)
    assert done.returncode == 130
