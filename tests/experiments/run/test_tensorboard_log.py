"""What TensorBoard shows of a run: groups, counts, settings and the HParams tab."""

from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import backend_context, list_session_groups
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS, STATUS_UNKNOWN, ListSessionGroupsRequest

from agents import TRPO
from agents.update_log import READ_BY_PEOPLE
from experiments.run.run_folder import RunFolder
from experiments.run.run_log import RunLog
from experiments.run.tensorboard_log import tag_of, write_final

SMALL: dict[str, Any] = {"n_steps": 64, "batch_size": 64, "device": "cpu"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> EventMultiplexer:
    """Return the events of two short runs that differ in one setting; the second one has not ended."""
    root = tmp_path_factory.mktemp("runs")
    for seed, damping in ((0, 0.1), (1, 0.2)):
        folder = root / f"seed-{seed}"
        folder.mkdir()
        document = {"algo": "trpo", "seed": seed, "hyperparameters": {"cg_damping": damping, "flag": True}}
        log = RunLog(RunFolder(folder), settings=document | {"hardware": {"cpu": "none"}})
        agent = TRPO("MlpPolicy", "CartPole-v1", seed=seed, cg_damping=damping, **SMALL)
        agent.set_logger(log.logger)
        agent.learn(3 * 64)
        log.logger.close()
    write_final(root / "seed-0", {"mean_return": 21.5, "steps": 192})
    events = EventMultiplexer().AddRunsFromDirectory(str(root))
    events.Reload()
    return events


def test_groups_are_in_the_order_of_reading(runs: EventMultiplexer) -> None:
    """TensorBoard sorts them by name; below the group is the name that progress.csv has."""
    tags = runs.Runs()["seed-0"]["tensors"]
    groups = sorted({tag.partition("/")[0] for tag in tags} - {"_hparams_", "config.yaml"})
    assert groups == ["1-return", "2-evaluation", "3-step", "4-critic", "5-time"]
    for name in (
        "1-return/rollout/ep_rew_mean",
        "3-step/train/kl_divergence_loss",
        "4-critic/train/value_loss",
    ):
        assert name in tags
    assert tag_of("npg/geometry/trace") == "6-geometry/npg/geometry/trace"
    assert tag_of("eval/mean_reward") == "2-evaluation/eval/mean_reward"
    assert tag_of("mine/x") == "mine/x"


def test_what_never_happened_is_not_shown(runs: EventMultiplexer, tmp_path: Path) -> None:
    """And a number is shown once; progress.csv has all of them."""
    tags = set(runs.Runs()["seed-0"]["tensors"])
    left_out = ("rejected", "kl_exceeded", "accepted", "npg/kl", "npg/gain", "npg/damping")
    assert not [tag for tag in tags if tag.endswith(left_out[1:]) or "rejected" in tag]
    header = (Path(runs.RunPaths()["seed-0"]) / "progress.csv").read_text().partition("\n")[0].split(",")
    for name in ("npg/kl", "npg/accepted", "npg/rejected/no_improvement", "train/critic_rejected"):
        assert name in header


def test_a_count_is_shown_from_the_first_event_on() -> None:
    """Up to then, it is 0 in the files that programs read."""
    agent = TRPO("MlpPolicy", "CartPole-v1", seed=0, **SMALL)
    agent.learn(64)
    name = "npg/rejected/no_improvement"
    rows: list[tuple[float, tuple[str, ...]]] = []
    for rejected in (0, 1):
        agent.outcomes["no_improvement"] += rejected
        agent.train()
        rows.append((agent.logger.name_to_value[name], agent.logger.name_to_excluded[name]))
    assert rows == [(0, READ_BY_PEOPLE), (1, ("",))]


def test_the_settings_are_text(runs: EventMultiplexer) -> None:
    """As config.yaml has them."""
    (event,) = runs.Tensors("seed-1", "config.yaml/text_summary")
    assert b"cg_damping: 0.2" in event.tensor_proto.string_val[0]


def test_hparams_lists_the_runs(runs: EventMultiplexer) -> None:
    """With the settings that differ marked, and the final evaluation as a metric."""
    provider = MultiplexerDataProvider(runs, "")
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    request = RequestContext()
    metadata = context.hparams_metadata(request, "")
    experiment = context.experiment_from_metadata(
        request, "", True, metadata, context.hparams_from_data_provider(request, "", 0)
    )
    differs = {info.name: info.differs for info in experiment.hparam_infos}
    assert differs == {"algo": False, "seed": True, "cg_damping": True, "flag": False}
    final = "2-evaluation/final/mean_return"
    assert final in [info.name.tag for info in experiment.metric_infos][:5]  # as many are shown
    wanted = ListSessionGroupsRequest(slice_size=10, allowed_statuses=[STATUS_SUCCESS, STATUS_UNKNOWN])
    for info in experiment.metric_infos:
        wanted.col_params.add(metric=info.name)
    listed = list_session_groups.Handler(request, context, "", wanted).run()
    sessions = {session.name: session for group in listed.session_groups for session in group.sessions}
    assert set(sessions) == {"seed-0", "seed-1"}
    assert sessions["seed-0"].status == STATUS_SUCCESS
    values = {value.name.tag: value.value for value in sessions["seed-0"].metric_values}
    assert values[final] == 21.5
