"""Publishing that is interrupted or killed, at any moment, and then run again."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hub_user import Client
from loopback import Fault, Hub, client_environment
from waiting import wait_for


def start(client: Client, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pythia_quant", "publish", str(folder), "--repo-id", "me/tiny", "--yes"]
    environment = client_environment(client.hub, client.home)
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("route", ["POST /api/repos/create", "PUT /lfs/me/tiny", "POST /api/models/me/tiny/commit"])
def test_killed_anywhere_the_next_call_finishes(client: Client, hub: Hub, artifacts: Path, route: str) -> None:
    method, path = route.split()
    hub.faults.append(Fault(method, path, stall=1.0))
    child = start(client, artifacts / "onnx-int8")
    wait_for(lambda: any(write.startswith(route) for write in hub.writes))
    child.kill()
    child.communicate()
    printed = client.succeed("publish", artifacts / "onnx-int8", "--repo-id", "me/tiny", "--yes")
    # The hub may go on with a commit whose sender is gone.
    assert "read back and compared" in printed or "was there already" in printed
    assert [commit.title for commit in hub.commits("me/tiny")][:-1] == ["Publish onnx-int8"]


def test_ctrl_c_ends_an_upload_soon_and_commits_nothing(client: Client, hub: Hub, artifacts: Path) -> None:
    hub.faults.append(Fault("PUT", "/lfs/me/tiny", stall=2.0, status=503, times=99))
    child = start(client, artifacts / "onnx-int8")
    wait_for(lambda: any(write.startswith("PUT") for write in hub.writes))
    child.send_signal(signal.SIGINT)
    _, complaint = child.communicate(timeout=20)
    assert child.returncode == 130
    assert complaint.splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in complaint
    assert len(hub.commits("me/tiny")) == 1
