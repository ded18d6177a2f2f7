import signal
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.measures_time
PROGRAM = """
    import signal, sys, time
    from pythia_quant.core.interrupt import interrupt_own_code
    interrupt_own_code()
    library = compile({library!r}, "library.py", "exec")
    names = {{}}
    exec(library, names)
    print("ready", flush=True)
    try:
        exec(compile({ours!r}, sys.modules["pythia_quant"].__path__[0] + "/quantizers/gptq.py", "exec"), names)
    except KeyboardInterrupt:
        print("interrupted after", names["done"])
"""
BUSY = """
import time
done = 0
def work(seconds):
    global done
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done += 1
        time.sleep(0.01)
    done = "the library's work"
"""


def interrupted(ours: str) -> str:
    program = textwrap.dedent(PROGRAM).format(library=BUSY, ours=ours)
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    child.send_signal(signal.SIGINT)
    return child.communicate(timeout=30)[0].strip()


def test_it_waits_for_a_library_to_end() -> None:
    assert interrupted("work(0.4)\nfor i in range(100):\n    time.sleep(0.1)") == "interrupted after the library's work"


def test_it_does_not_wait_for_ever() -> None:
    assert interrupted("work(60)").startswith("interrupted after")
