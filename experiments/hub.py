"""Upload a shared folder to Hugging Face's hub."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.extras import needs

PREFIX = "hf:"
NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")


def repository(to: str) -> str:
    """Return the repository in "hf:name/model", after checking that the hub knows the token.

    Raises:
        ImportError: the extra `hub` is not installed.
        OSError: the hub cannot be reached, or rejects the token.
        ValueError: the text has another form.
    """
    name = to.removeprefix(PREFIX)
    if not NAME.fullmatch(name):
        raise ValueError(f"expected --to hf:NAME/MODEL, e.g. hf:my-name/cartpole-trpo, got {to!r}")
    hub = import_hub()
    api = hub.HfApi()
    try:
        api.whoami()
    except Exception as error:  # several HTTP libraries raise their own exceptions
        raise OSError(f"cannot upload to {api.endpoint}: {advice(hub, error)}") from error
    return name


def upload(folder: Path, name: str) -> str:
    """Upload a folder to a model repository, which is created if it is missing, and return its address.

    Raises:
        OSError: the hub cannot be reached, or rejects the token or the folder; the message says what to do.
    """
    hub = import_hub()
    api = hub.HfApi()
    try:
        api.create_repo(name, repo_type="model", exist_ok=True)
        api.upload_folder(repo_id=name, folder_path=folder, commit_message="Share a policy with npg share")
    except Exception as error:  # several HTTP libraries raise their own exceptions
        raise OSError(f"cannot upload to {name} on {api.endpoint}: {advice(hub, error)}") from error
    return f"{api.endpoint}/{name}"


def advice(hub: Any, error: Exception) -> str:
    """Return what an error of the hub means, and what to do."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401 or isinstance(error, hub.errors.LocalTokenNotFoundError):
        return (
            "no token, or an invalid one; log in with `hf auth login`, or set HF_TOKEN to a token that may "
            "write (https://huggingface.co/settings/tokens)"
        )
    if status == 403:
        return "the token may not write there; use one with the permission to write, or your own name"
    what = " ".join(str(error).split()) or type(error).__name__
    if status is None and not isinstance(error, ValueError):
        return f"no connection ({what:.200}); check the network, or write a folder with --to FOLDER"
    return f"{what:.300}"


def import_hub() -> Any:
    """Return the module huggingface_hub.

    Raises:
        ImportError: the extra `hub` is not installed.
    """
    with needs("hub"):
        import_module("huggingface_hub.errors")
        return import_module("huggingface_hub")
