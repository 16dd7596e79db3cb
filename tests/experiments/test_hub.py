"""Uploading a shared folder, to a stand-in for Hugging Face's hub on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from experiments.hub import repository, upload
from experiments.model_card import model_card
from experiments.options import Share
from experiments.settings.arguments import Arguments
from experiments.settings.configuration import resolve
from experiments.share import main

TOKEN = "hf_goodgoodgood"
URL = f"https://huggingface.co/somebody/model/commit/{'1' * 40}"


class Hub(BaseHTTPRequestHandler):
    """Answers what an upload of small files asks, and keeps the files."""

    files: dict[str, bytes]
    created: list[str]

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def answer(self, status: int, content: Any) -> None:
        """Send JSON."""
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        """Describe a repository, or the owner of a token."""
        if self.path.startswith("/api/whoami") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
            return
        self.answer(200, {"id": "somebody/model", "sha": "0" * 40, "siblings": []})

    def do_POST(self) -> None:
        """Create a repository, say that all files are small, or take a commit."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid credentials in Authorization header"})
        elif "others" in self.path or b"others" in body:
            self.answer(403, {"error": "You don't have the rights to write under this namespace"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            self.created.append(name)
            self.answer(200, {"url": f"https://huggingface.co/{name}", "name": name})
        elif "/preupload/" in self.path:
            files = [{"path": f["path"], "uploadMode": "regular"} for f in json.loads(body)["files"]]
            self.answer(200, {"files": [each | {"shouldIgnore": False} for each in files]})
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": URL})
        else:
            self.answer(200, {"errors": [], "warnings": []})  # of the card's metadata


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[Hub]]:
    """The stand-in, which huggingface_hub takes for the real one, with a valid token."""
    pytest.importorskip("huggingface_hub")

    class Mine(Hub):
        files: dict[str, bytes] = {}  # noqa: RUF012
        created: list[str] = []  # noqa: RUF012

    server = ThreadingHTTPServer(("127.0.0.1", 0), Mine)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield Mine
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a card and a binary file."""
    out = tmp_path / "shared"
    out.mkdir()
    (out / "README.md").write_text("---\nlibrary_name: npg-toolkit\n---\n")
    (out / "policy.safetensors").write_bytes(bytes(range(256)))
    return out


def test_the_hub_gets_the_files_as_they_are(hub: type[Hub], folder: Path) -> None:
    """The repository is created, and every file arrives unchanged."""
    address = upload(folder, "somebody/model")
    assert address.endswith("/somebody/model") and hub.created == ["somebody/model"]
    assert hub.files == {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("token", "name", "advice"),
    [
        ("hf_bad", "somebody/model", "no token, or an invalid one; log in with `hf auth login`"),
        ("", "somebody/model", "no token, or an invalid one; log in with `hf auth login`"),
        (TOKEN, "others/model", "the token may not write there"),
    ],
)
def test_a_bad_token_is_explained(
    hub: type[Hub], folder: Path, monkeypatch: pytest.MonkeyPatch, token: str, name: str, advice: str
) -> None:
    """A missing or invalid token, or one without the right, ends with a sentence."""
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(OSError, match="cannot upload") as caught:
        upload(folder, name)
    assert advice in str(caught.value)
    assert hub.files == {}
    if token != TOKEN:  # this is known before the policy is evaluated
        with pytest.raises(OSError, match="no token, or an invalid one"):
            repository(f"hf:{name}")
    else:
        assert repository(f"hf:{name}") == name


def test_the_hub_reads_the_card() -> None:
    """Its metadata has the form of the hub's own library, and names cannot break out of it."""
    hub = pytest.importorskip("huggingface_hub")
    values = {"mean": 1.5, "std": 0.5, "iqm": 1.25, "median": 1.0, "min": -1.0, "max": 2.0}
    result = {f"{name}_return": value for name, value in values.items()}
    result |= {"iqm_return_interval": [1.0, 2.0], "steps": 64, "episodes": 3, "seed": 10_000}
    evil = "evil`\n---\n# <script>:Task-v0"
    settings = resolve(Arguments(algo=("npg",), steps=64.0))
    for env in ("CartPole-v1", evil):
        text = model_card(replace(settings, env=env), {"versions": {}}, result, {"policy.json"}, "model")
        card = hub.ModelCard(text)
        (entry,) = card.data.eval_results
        assert (entry.metric_type, entry.metric_value) == ("mean_reward", "1.50 +/- 0.50")
        assert (entry.dataset_name, card.data.library_name) == (env, "npg-toolkit")
        lines = card.text.splitlines()
        assert not any(line.startswith(("---", "# <")) for line in lines) and "evil`" not in card.text
        assert "| `policy.json` | policy, its arguments and spaces |" in lines


def test_a_missing_network_is_explained(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers at this port."""
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(OSError, match=r"no connection .* write a folder with --to FOLDER"):
        upload(folder, "somebody/model")


def test_names_and_the_extra_are_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong name, and a missing package, are rejected before anything is evaluated."""
    assert main(Share(tmp_path, "hf:model")) == 2
    assert (
        "expected --to hf:NAME/MODEL, e.g. hf:my-name/cartpole-trpo, got 'hf:model'"
        in capsys.readouterr().err
    )
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r'-e "\.\[hub\]"'):
        repository("hf:somebody/model")
