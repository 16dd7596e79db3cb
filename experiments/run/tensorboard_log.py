"""Write TensorBoard's events: groups in reading order, the settings, and what the HParams tab needs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from stable_baselines3.common.logger import TensorBoardOutputFormat
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

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

    def write_settings(self, document: Mapping[str, Any]) -> None:
        """Write the content of config.yaml, as text and for the HParams tab."""
        text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True)
        self.writer.add_text("config.yaml", f"```yaml\n{text}```")
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
        self._write_plugin(
            metadata.SESSION_START_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_start_info=start)
        )
        self.writer.flush()

    def write_final(self, result: Mapping[str, Any]) -> None:
        """Write the final evaluation; empty if there was none."""
        if result:
            self.writer.add_scalar(tag_of(FINAL), result["mean_return"], result["steps"])
        end = plugin_data_pb2.SessionEndInfo(status=api_pb2.STATUS_SUCCESS)
        self._write_plugin(
            metadata.SESSION_END_INFO_TAG, plugin_data_pb2.HParamsPluginData(session_end_info=end)
        )
        self.writer.flush()

    def _write_plugin(self, tag: str, data: plugin_data_pb2.HParamsPluginData) -> None:
        assert self.writer.file_writer is not None
        found = metadata.create_summary_metadata(data)
        value = Summary.Value(tag=tag, metadata=found, tensor=metadata.NULL_TENSOR)
        self.writer.file_writer.add_summary(Summary(value=[value]))


def tag_of(name: str) -> str:
    """Return the tag of a logged name: the name below its group; a user's own names have no group."""
    group = next((group for prefix, group in GROUPS.items() if name.startswith(prefix)), None)
    return name if group is None else f"{group}/{name}"


def write_final(folder: Path, result: Mapping[str, Any]) -> None:
    """Add the final evaluation of a finished run to its events; empty if there was none."""
    log = TensorBoardLog(str(folder))
    log.write_final(result)
    log.close()
