"""A Ray cluster of two nodes on this machine leaves the same files as one process, whoever of it is killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_errands import Knob, Toy
from test_executor import Heard

from musetalk_cli.config import Runtime
from musetalk_cli.errors import InputError, InterruptedRun, RetryableError
from musetalk_cli.executor import Hands
from musetalk_cli.progress import Events
from musetalk_cli.signals import Stop
from musetalk_cli.work import Work

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # ray's own
from ray.cluster_utils import Cluster  # noqa: E402

from musetalk_cli.executor_ray import OnRay, on_ray  # noqa: E402

STORE_BYTES = 80_000_000  # the least that ray takes


def start() -> Any:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "object_store_memory": STORE_BYTES})
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    cluster.wait_for_nodes()
    return cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
        environment.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "2")  # for which a driver waits for a lost head; usually 60
        started = [start()]
        yield started
        started[-1].shutdown()


@pytest.fixture(scope="module")
def there(cluster: Any) -> Iterator[OnRay]:
    with on_ray(Hands(executor="ray", ray_address=cluster[0].address)) as executor:
        yield executor


def test_two_nodes_give_the_results_in_order_and_their_events(there: OnRay, tmp_path: Path) -> None:
    heard = Heard()
    errands = [Toy(number, cost=cost) for number, cost in enumerate((1, 0, 3, 2, 5))]
    with Work.open(tmp_path, Events([heard]), Stop()) as work:
        made = there.map(errands, work, Runtime())
    assert [int(ref.load().of[0]) for ref in made] == [0, 1, 4, 9, 16]
    assert len([event for event in heard if event["event"] == "stage.done"]) == 10


def test_a_worker_killed_over_a_shot_costs_that_shot_alone(there: OnRay, tmp_path: Path) -> None:
    heard = Heard()
    with Work.open(tmp_path, Events([heard]), Stop()) as work:
        made = there.map([Toy(number, Knob("die once")) for number in range(4)], work, Runtime())
        with pytest.raises(RetryableError, match="shot 00009: 3 workers were lost over it"):
            there.map([Toy(9, Knob("die")), Toy(8)], work, Runtime())
    assert [int(ref.load().of[0]) for ref in made] == [0, 1, 4, 9]
    assert not list((tmp_path / "tmp").rglob("half"))


def test_errors_and_signals_come_back_as_they_are(there: OnRay, tmp_path: Path) -> None:
    stop = Stop()
    with Work.open(tmp_path, Events(), stop) as work:
        with pytest.raises(InputError, match=r"film\.mp4: is broken; mend it"):
            there.map([Toy(0, Knob("fail")), *(Toy(number, Knob(seconds=0.2)) for number in range(1, 20))], work, Runtime())
        assert len(list(tmp_path.glob("square/*"))) < 5
        stop.number = signal.SIGINT
        with pytest.raises(InterruptedRun):
            there.map([Toy(30)], work, Runtime())


DRIVER = """
import sys
from pathlib import Path
from made_errands import Knob, Toy
from musetalk_cli.config import Runtime
from musetalk_cli.executor import Hands
from musetalk_cli.executor_ray import on_ray
from musetalk_cli.progress import open_events
from musetalk_cli.signals import Stop
from musetalk_cli.work import Work
folder = Path(sys.argv[1])
with open_events(folder / "run.jsonl", "none") as events, Work.open(folder, events, Stop()) as work:
    with on_ray(Hands(executor="ray", ray_address=sys.argv[2])) as there:
        there.map([Toy(number, Knob(seconds=0.3)) for number in range(20)], work, Runtime())
"""


def test_after_the_head_was_killed_the_same_command_goes_on(cluster: Any, there: OnRay, tmp_path: Path) -> None:
    there.end()
    ray.shutdown()
    line = [sys.executable, "-c", DRIVER, str(tmp_path)]
    driver = subprocess.Popen([*line, cluster[0].address], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while len(list(tmp_path.glob("square/*"))) < 4:
        assert driver.poll() is None
        time.sleep(0.05)
    cluster[0].head_node.kill_gcs_server()
    cluster[0].head_node.kill_raylet()
    assert driver.wait(60) != 0
    finished = times_of(tmp_path)
    cluster[0].shutdown()
    cluster.append(start())
    assert subprocess.run([*line, cluster[-1].address], check=False).returncode == 0
    assert len(list(tmp_path.glob("square/*"))) == 20
    assert len(finished) >= 8
    assert finished.items() <= times_of(tmp_path).items()


def times_of(folder: Path) -> dict[str, int]:
    """When each result was made."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("[bs]*/*/result.json")}
