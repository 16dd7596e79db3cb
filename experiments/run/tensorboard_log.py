"""Write TensorBoard's events: groups in reading order, the settings, and what the HParams tab needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.logger import TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from torch.utils.tensorboard import SummaryWriter

from experiments.settings.run_settings import flattened

# TensorBoard sorts groups by name, and a card shows its tag without the group. The first match counts.
GROUPS = {
    "rollout/": "1-return",
    "eval/": "2-evaluation",
    "final/": "2-evaluation",
    "train/value_loss": "4-critic",
    "train/explained_variance": "4-critic",
    "train/critic_rejected": "4-critic",
    "npg/geometry/": "6-geometry",
    "npg/": "3-step",
    "train/": "3-step",
    "time/": "5-time",
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


class TensorBoardLog(TensorBoardOutputFormat):
    """Write rows as SB3's writer does, each under its group.

    Args:
        folder: the folder of the event file, which is created.
    """

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Write a row."""
        super().write(
            {tag_of(name): value for name, value in key_values.items()},
            {tag_of(name): excluded for name, excluded in key_excluded.items()},
            step,
        )


def tag_of(name: str) -> str:
    """Return the tag of a logged name: the name below its group; a user's own names have no group."""
    group = next((group for prefix, group in GROUPS.items() if name.startswith(prefix)), None)
    return name if group is None else f"{group}/{name}"


def write_settings(folder: Path, document: Mapping[str, Any]) -> None:
    """Write the content of config.yaml, as text and for the HParams tab, into an event file of its own."""
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
        write_plugin(writer, metadata.SESSION_START_INFO_TAG, session_start_info=start)


def write_final(folder: Path, result: Mapping[str, Any]) -> None:
    """Write the final evaluation of a finished run into an event file of its own; empty if there was none."""
    end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
    with SummaryWriter(str(folder)) as writer:
        if result:
            writer.add_scalar(tag_of(FINAL), result["mean_return"], result["steps"])
        write_plugin(writer, metadata.SESSION_END_INFO_TAG, session_end_info=end)


def write_plugin(writer: SummaryWriter, tag: str, **data: Any) -> None:
    """Write what the HParams tab reads."""
    assert writer.file_writer is not None
    found = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(**data))
    value = Summary.Value(tag=tag, metadata=found, tensor=metadata.NULL_TENSOR)
    writer.file_writer.add_summary(Summary(value=[value]))
