"""What TensorBoard shows of a run: tags, charts, counts, settings and the HParams tab."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.custom_scalar.custom_scalars_plugin import CustomScalarsPlugin
from tensorboard.plugins.custom_scalar.metadata import CONFIG_SUMMARY_TAG
from tensorboard.plugins.hparams import backend_context, list_session_groups
from tensorboard.plugins.hparams.api_pb2 import STATUS_SUCCESS, STATUS_UNKNOWN, ListSessionGroupsRequest

from agents import TRPO
from agents.update_log import READ_BY_PEOPLE
from experiments.run.run_folder import RunFolder
from experiments.run.run_log import RunLog
from experiments.run.tensorboard_log import FINAL, write_final

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


def test_tags_are_the_names_of_the_log(runs: EventMultiplexer) -> None:
    """Those of SB3, so that its runs are in the same charts, and scripts find them."""
    tags = {*runs.Runs()["seed-0"]["tensors"]} - {FINAL, "config.yaml/text_summary"}
    tags = {tag for tag in tags if not tag.startswith(("_hparams_", CONFIG_SUMMARY_TAG))}
    header = (Path(runs.RunPaths()["seed-0"]) / "progress.csv").read_text().partition("\n")[0].split(",")
    assert "rollout/ep_rew_mean" in tags and tags <= {*header}


def test_charts_are_in_the_order_of_reading(runs: EventMultiplexer) -> None:
    """On the tab Custom Scalars, once for all runs; each chart has the tags that it names."""
    provider = MultiplexerDataProvider(runs, "")
    plugin = CustomScalarsPlugin(base_plugin.TBContext(data_provider=provider))
    groups = json.loads(plugin.layout_impl(RequestContext(), ""))["category"]
    assert [group["title"] for group in groups] == ["return", "evaluation", "step", "critic", "time"]
    charts = [chart for group in groups for chart in group["chart"]]
    assert len(charts) == len({chart["title"] for chart in charts})  # once for both runs
    logged = [*runs.Runs()["seed-0"]["tensors"], "npg/rejected/no_improvement", "eval/mean_reward"]
    for chart in charts:
        (pattern,) = chart["multiline"]["tag"]
        assert [tag for tag in logged if re.match(pattern, tag)], pattern


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
    assert FINAL in [info.name.tag for info in experiment.metric_infos][:5]  # as many are shown
    wanted = ListSessionGroupsRequest(slice_size=10, allowed_statuses=[STATUS_SUCCESS, STATUS_UNKNOWN])
    for info in experiment.metric_infos:
        wanted.col_params.add(metric=info.name)
    listed = list_session_groups.Handler(request, context, "", wanted).run()
    sessions = {session.name: session for group in listed.session_groups for session in group.sessions}
    assert set(sessions) == {"seed-0", "seed-1"}
    assert sessions["seed-0"].status == STATUS_SUCCESS
    values = {value.name.tag: value.value for value in sessions["seed-0"].metric_values}
    assert values[FINAL] == 21.5
