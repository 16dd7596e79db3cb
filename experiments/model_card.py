"""Write the model card of a shared policy: a README.md as Hugging Face's hub reads it."""

import shlex
from collections.abc import Collection, Mapping
from typing import Any

import yaml

from experiments.algorithms import own_modules
from experiments.report.appearance import label
from experiments.report.reproduce import arguments_for
from experiments.settings.run_settings import RunSettings
from experiments.terminal import one_line

FILES = {
    "policy.safetensors": "parameters and normalisers",
    "policy.json": "policy, its arguments and spaces",
    "config.yaml": "all settings of the run, and its versions",
    "progress.csv": "one row per update of the training",
    "evaluation.json": "the returns of the policy in this folder, and of what they are the mean",
    "curve.png": "training return over environment steps",
    "replay.mp4": "the first episodes of the evaluation",
}


def model_card(
    settings: RunSettings,
    document: Mapping[str, Any],
    result: Mapping[str, Any],
    files: Collection[str],
    name: str,
    masked: bool = False,
) -> str:
    """Return the content of README.md.

    Args:
        settings: the run's settings.
        document: the content of config.yaml.
        result: the content of evaluation.json.
        files: names of the files in the folder.
        name: what to call the folder in commands.
        masked: whether the policy chooses among the actions that the environment's masks allow.
    """
    title = f"{label(settings.algo)} on {settings.env}"
    mean, spread = f"{result['mean_return']:.2f}", f"{result['std_return']:.2f}"
    metadata = {
        "library_name": "npg-toolkit",
        "pipeline_tag": "reinforcement-learning",
        "tags": [settings.env, settings.algo, "reinforcement-learning", "npg-toolkit", "stable-baselines3"],
        "model-index": [
            {
                "name": title,
                "results": [
                    {
                        "task": {"type": "reinforcement-learning", "name": "reinforcement-learning"},
                        "dataset": {"name": settings.env, "type": settings.env},
                        "metrics": [
                            {"type": "mean_reward", "value": f"{mean} +/- {spread}", "name": "mean_reward"}
                        ],
                    }
                ],
            }
        ],
    }
    low, high = result["iqm_return_interval"]
    interval = "unknown" if low is None or high is None else f"{low:.2f} to {high:.2f}"
    modules = sorted(settings.modules - own_modules(settings.track))
    imports = ["--import", *modules] if modules else []
    table = "\n".join(f"| `{file}` | {about} |" for file, about in FILES.items() if file in files)
    versions = document.get("versions") or {}
    packages = ", ".join(f"{package} {version}" for package, version in versions.items())
    parts = [
        f"# {plain(title)}",
        f"A policy for `{code(settings.env)}`, trained with {plain(label(settings.algo))} of "
        f"npg-toolkit for {result['steps']} environment steps, seed {settings.seed}.",
        *(["![Training return over environment steps](curve.png)"] if "curve.png" in files else []),
        "## Evaluation",
        f"{result['episodes']} episodes with the most likely actions; episode k starts from seed "
        f"{result['seed']} + k. The interval is over episodes of this policy; other training seeds differ by "
        "more.",
        f"| | return |\n|---|---|\n| mean ± standard deviation | {mean} ± {spread} |\n"
        f"| interquartile mean | {result['iqm_return']:.2f} |\n| its 95 % interval | {interval} |\n"
        f"| smallest, largest | {result['min_return']:.2f}, {result['max_return']:.2f} |",
        "## Use it",
        "With npg-toolkit installed"
        + (f", and with {' and '.join(f'`{code(m)}`' for m in modules)} of its author" if modules else "")
        + ", which executes no code of this folder:",
        f"    npg evaluate {code(shlex.join([name, *imports]))}",
        f"```python\n{''.join(f'import {code(m)}{chr(10)}' for m in modules)}import agents\n\n"
        f"policy = agents.load({name!r})\n"
        f"action, _ = policy.predict(observation, {'action_masks=env.action_masks(), ' * masked}"
        f"deterministic=True)   # {observation(settings)}\n```",
        "## Training",
        training(settings),
        f"Versions: {plain(packages)}." if packages else "",
        f"| file | content |\n|---|---|\n{table}",
    ]
    front = yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n\n".join(part for part in parts if part) + "\n"


def observation(settings: RunSettings) -> str:
    """Return what `predict` takes, for a comment: normalisers are in the policy, but wrappers are not."""
    wrapped = settings.env_wrapper or settings.vec_env_wrapper
    what = "of the environment within its wrappers; see config.yaml" if wrapped else ""
    if settings.frame_stack > 1:
        return f"the last {settings.frame_stack} raw observations, stacked as by VecFrameStack {what}".strip()
    return f"a raw observation {what}".strip()


def training(settings: RunSettings) -> str:
    """Return the command that makes the run again, or why there is none."""
    try:
        words = arguments_for(settings).words()
    except Exception as error:  # settings of an untrusted run can be anything
        return f"No command line has all of its settings ({plain(error):.300}); they are in `config.yaml`."
    return f"    {code(shlex.join(['npg', 'train', *words]))}"


def code(text: object) -> str:
    """Return text for code in Markdown: one line, without backquotes."""
    return one_line(text).replace("`", "'")


def plain(text: object) -> str:
    """Return text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#!&" else c for c in one_line(text))
