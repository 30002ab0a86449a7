"""What long work says while it waits for a cluster, and of what a cluster loses."""

import time
from functools import partial

import pytest
from ray._private import worker
from ray.util import placement_group, remove_placement_group

from pipeline.ray_messages import in_lines, line_of
from pipeline.training.checks import StageSetup
from pipeline.training.stage_fit import room_waited_for
from pipeline.waiting import waiting_lines

# Of Ray 2.60, when a node is killed.
LOST = (
    "The node with node id: 8f0d and address: 10.0.0.7 and node name: 10.0.0.7 has been marked dead because "
    "the detector has missed too many heartbeats from it. This can happen when a \t(1) raylet crashes "
    "unexpectedly (OOM, etc.) \n\t(2) raylet has lagging heartbeats due to slow network or busy workload."
)
STATE = (
    "Raylet is terminated. Termination is unexpected. Last 20 lines of the Raylet logs:\n    [state] a\n    b"
)


@pytest.mark.usefixtures("ray_session")
def test_a_training_without_room_for_its_workers_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("pipeline.waiting.SECONDS_BETWEEN_LINES", 0.05)
    setup = StageSetup(2, gpu=True)
    assert room_waited_for("stage1", setup) == []
    # What Ray Train asks for.
    group = placement_group([setup.resources] * setup.workers)
    with waiting_lines(partial(room_waited_for, "stage1", setup)):
        until = time.monotonic() + 30
        while not (said := capsys.readouterr().err) and time.monotonic() < until:
            time.sleep(0.05)
    assert "stage1 waits for nodes: 2 workers want 1 CPU and 1 GPU each" in said
    assert room_waited_for("stage1", StageSetup(1, gpu=True)) == []
    remove_placement_group(group)
    assert room_waited_for("stage1", setup) == []


def test_a_lost_node_is_a_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    # Put back after it: other tests share the process.
    monkeypatch.setattr(worker, "print_to_stdstream", worker.print_to_stdstream)
    in_lines()
    for message in (STATE, LOST, "a task cannot be scheduled\nand more\n"):
        worker.print_to_stdstream({"lines": [message], "pid": "raylet", "is_err": False}, ignore_prefix=False)
    said = capsys.readouterr()
    assert said.out == ""
    lost = "Ray lost the node 10.0.0.7: what it was at is done again elsewhere"
    assert said.err.splitlines() == [lost, "Ray: a task cannot be scheduled"]
    assert line_of("") == line_of(LOST, alone=True) == ""
