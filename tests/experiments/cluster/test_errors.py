"""What --cluster rejects before Ray is started, and what a task does on its node."""

import socket
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from experiments import train
from experiments.cluster_task import run_command, storage_problem
from experiments.run.run_folder import RunFolder
from experiments.settings.arguments import AUTO, Arguments


def error_of(capsys: pytest.CaptureFixture, tmp_path: Path, **changes: object) -> str:
    """Return the message of a grid that is not started."""
    given = {"algo": ("vpg",), "seeds": 2, "out": tmp_path / "runs", "cluster": "ray"} | changes
    assert train.main(Arguments(**given)) == 2  # type: ignore[arg-type]
    assert not (tmp_path / "runs").exists()
    return capsys.readouterr().err.strip().splitlines()[-1]


@pytest.mark.parametrize("tune", [None, 5])
def test_without_ray_the_error_names_the_extra(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tune: int | None
) -> None:
    """Ray is an extra."""
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "experiments.cluster", raising=False)
    error = error_of(capsys, tmp_path, tune=tune, seeds=1)
    assert error.startswith("error: import of ray halted")
    assert 'pip install -c constraints.txt -e ".[cluster]"' in error


def test_the_share_of_a_gpu_is_at_most_one(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Ray takes 2.5 GPUs for an error, and 0 for none."""
    for share in (0.0, 1.5):
        assert "expected 0 < --gpu-share ≤ 1" in error_of(capsys, tmp_path, gpu_share=share)


def test_addresses_that_do_not_answer(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Ray itself would try for minutes."""
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for address in (f"127.0.0.1:{port}",):
        error = error_of(capsys, tmp_path, cluster=address)
        assert error.startswith(f"error: --cluster {address} does not answer ([Errno ")
        assert error.endswith("start the cluster with: ray start --head")
    for address in ("slurm", "ray://host:1", "host:port"):
        assert f"auto or HOST:PORT, got {address};" in error_of(capsys, tmp_path, cluster=address)


def test_resources_that_no_node_has() -> None:
    """One node must have all of them; the error says what is asked, and what is there."""
    pytest.importorskip("ray")
    from experiments.cluster import check_resources

    nodes = [{"CPU": 4.0}, {"CPU": 0.0, "GPU": 1.0}]
    check_resources(nodes, {"CPU": 1, "GPU": 0.0})
    check_resources([*nodes, {"CPU": 1.0, "GPU": 1.0}], {"CPU": 1, "GPU": 0.5})
    with pytest.raises(ValueError, match=r"asks for 1 CPU, 0.5 GPU, and no .*: 4 CPU, 0 GPU; 0 CPU, 1 GPU$"):
        check_resources(nodes, {"CPU": 1, "GPU": 0.5})


def test_storage_that_a_node_does_not_share(tmp_path: Path) -> None:
    """A file of the command is missing there, or is another one, or nothing can be written next to it."""
    token = tmp_path / "token"
    assert "No such file" in str(storage_problem(token))
    with pytest.raises(OSError, match=r"the node does not share the storage of --out: .*No such file"):
        run_command(["python", "-c", ""], tmp_path / "log", token)
    token.write_text("another")
    assert storage_problem(token) == f"{token} has other content there"
    token.write_text(token.name)
    assert storage_problem(token) is None and list(tmp_path.iterdir()) == [token]


def test_a_task_returns_the_exit_code_and_stops_its_run(tmp_path: Path) -> None:
    """Ray's request to stop is a KeyboardInterrupt; the run gets SIGTERM, and may save."""
    token, log = tmp_path / "token", tmp_path / "log"
    token.write_text(token.name)
    assert run_command(["python", "-c", "import sys; print('error: no'); sys.exit(3)"], log, token) == 3
    assert log.read_text() == "error: no\n"
    program = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); "
        "print('ready', flush=True); time.sleep(60)"
    )

    def interrupt() -> None:
        while "ready" not in log.read_text():
            time.sleep(0.05)
        import _thread

        _thread.interrupt_main()  # as Ray does

    thread = threading.Thread(target=interrupt)
    thread.start()
    assert run_command(["python", "-c", program], log, token) == 7
    thread.join()


def test_resume_auto(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """It starts a run, then finds it finished; with other settings it is an error."""
    given = Arguments(algo=("vpg",), steps=256, episodes=1, out=tmp_path, device="cpu", resume=AUTO)
    assert train.main(given) == 0
    folder = RunFolder.of(tmp_path, "CartPole-v1", "vpg", 0)
    assert folder.finished
    before = folder.evaluation.stat().st_mtime_ns
    assert train.main(given) == 0 and folder.evaluation.stat().st_mtime_ns == before
    assert "is finished" in capsys.readouterr().out
    folder.evaluation.unlink()  # e.g. stopped in its evaluation
    assert train.main(given) == 0 and folder.finished
    assert "resuming from" in capsys.readouterr().out
    assert train.main(replace(given, set=(("gamma=0.5",),))) == 2
    assert "holds a finished run with other settings" in capsys.readouterr().err
