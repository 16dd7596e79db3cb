"""Write what TensorBoard shows besides the log: settings, charts in reading order, the HParams tab."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from experiments.settings.run_settings import flattened

# {group: what the tags of each chart begin with}, on the tab Custom Scalars, in the order in which a person
# reads them. The other tabs sort tags by name.
CHARTS = {
    "return": ("rollout/ep_rew_mean", "rollout/ep_len_mean"),
    "evaluation": ("eval/mean_reward", "final/mean_return"),
    "step": (
        "train/kl_divergence_loss",
        "npg/step_length",
        "npg/cosine",
        "npg/backtracks",
        "npg/rejected",
    ),
    "critic": ("train/explained_variance", "train/value_loss"),
    "time": ("time/fps",),
}
SETTINGS = ".settings"  # end of the name of the event file with the settings
FINAL = "final/mean_return"
# Not in the HParams tab: that does not describe the agent, or may be changed when a run is resumed.
NO_HPARAMS = (
    "hardware",
    "versions",
    "worker_timeout",
    "checkpoint_every",
    "n_timesteps",
    "track",
    "eval_every",
)


def write_settings(folder: Path, document: Mapping[str, Any]) -> None:
    """Write the content of config.yaml, as text and for the HParams tab, and `CHARTS`, into an event file."""
    text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
    chosen = {name: value for name, value in document.items() if name not in NO_HPARAMS}
    # Without an `Experiment`, TensorBoard finds the settings that differ; of several it would read one.
    start = plugin_data_pb2.SessionStartInfo()
    for name, value in flattened(chosen):
        if isinstance(value, bool):
            start.hparams[name].bool_value = value
        elif isinstance(value, int | float):
            start.hparams[name].number_value = value
        else:
            start.hparams[name].string_value = str(value)
    with SummaryWriter(str(folder), filename_suffix=SETTINGS) as writer:
        writer.add_text("config.yaml", f"```yaml\n{text}```")
        writer.add_custom_scalars(
            {group: {tag: ["Multiline", [tag]] for tag in tags} for group, tags in CHARTS.items()}
        )
        write_plugin(writer, metadata.SESSION_START_INFO_TAG, session_start_info=start)


def write_final(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the final evaluation of a finished run into an event file of its own; empty if there was none."""
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    with SummaryWriter(str(folder)) as writer:
        if result:
            writer.add_scalar(FINAL, result["mean_return"], result["steps"])
        write_plugin(writer, metadata.SESSION_END_INFO_TAG, session_end_info=end)


def write_plugin(writer: SummaryWriter, tag: str, **data: Any) -> None:
    """Write what the HParams tab reads."""
    assert writer.file_writer is not None
    found = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**data))
    value = Summary.Value(tag=tag, metadata=found, tensor=metadata.NULL_TENSOR)
    writer.file_writer.add_summary(Summary(value=[value]))
