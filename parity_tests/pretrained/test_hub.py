"""Names on the Hugging Face Hub: which files are downloaded, and one sentence for each error."""

import errno
import json
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import httpx2
import pytest
from huggingface_hub import constants, errors, snapshot_download
from huggingface_hub.utils import hf_raise_for_status

from attention_bridge.errors import CheckpointError, DiskError, InputError
from attention_bridge.pretrained import read_pretrained
from attention_bridge.pretrained.hub import local_directory

NAME = "someone/model"
API = f"https://huggingface.co/api/models/{NAME}/revision/main"


@pytest.fixture
def repository(monkeypatch, tmp_path):
    """A function that makes a repository of these files; returns the calls that download from it."""

    def make(*names):
        calls = []

        def fetch(name, *, revision, allow_patterns):
            calls.append((name, revision))
            snapshot = tmp_path / "snapshot"
            for file in names:
                if any(fnmatch(file, pattern) for pattern in allow_patterns):
                    (snapshot / file).parent.mkdir(parents=True, exist_ok=True)
                    (snapshot / file).write_text("{}")
            return str(snapshot)

        monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
        return calls

    return make


def downloaded(directory):
    return {path.relative_to(directory).as_posix() for path in Path(directory).rglob("*") if path.is_file()}


BESIDE = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
)
OTHERS = (
    "README.md",
    "flax_model.msgpack",
    "tf_model.h5",
    "model.gguf",
    "rust_model.ot",
    "original/params.json",
)
WEIGHTS = {
    "Flax": ({"flax_model.msgpack"}, {"onnx/model.onnx"}),
    "one file": ({"model.safetensors"}, {"pytorch_model.bin", "onnx/model.onnx"}),
    "shards": (
        {
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        },
        {"pytorch_model-00001-of-00001.bin", "pytorch_model.bin.index.json", "consolidated.safetensors"},
    ),
    "pickles": ({"pytorch_model.bin"}, {"training_args.bin", "onnx/model.safetensors"}),
    "pickled shards": (
        {"pytorch_model.bin.index.json", "pytorch_model_00001-of-00001.bin"},
        {"optimizer.bin"},
    ),
    "adapter": ({"adapter_model.safetensors"}, {"training_args.bin"}),
}


@pytest.mark.parametrize("kind", WEIGHTS)
def test_description_and_one_kind_of_weights_are_downloaded(repository, kind):
    wanted, others = WEIGHTS[kind]
    repository(*BESIDE, *OTHERS, *wanted, *others)
    assert downloaded(local_directory(NAME)) == {*BESIDE, *wanted}


@pytest.mark.parametrize(
    ("source", "name", "revision", "file"),
    [
        ("gpt2", "gpt2", None, ""),
        (f"{NAME}@v1.0", NAME, "v1.0", ""),
        (f"{NAME}@refs/pr/1", NAME, "refs/pr/1", ""),
        (f"https://huggingface.co/{NAME}", NAME, None, ""),
        (f"https://huggingface.co/{NAME}/", NAME, None, ""),
        (f"huggingface.co/{NAME}/tree/v2", NAME, "v2", ""),
        (f"hf://{NAME}@v3", NAME, "v3", ""),
        (f"{NAME}/model.gguf", NAME, None, "model.gguf"),
        (f"{NAME}@v3/model.gguf", NAME, "v3", "model.gguf"),
        (f"https://huggingface.co/{NAME}/blob/main/flax_model.msgpack", NAME, "main", "flax_model.msgpack"),
        ("https://hf.co/gpt2/resolve/main/model.gguf?download=true", "gpt2", "main", "model.gguf"),
    ],
)
def test_name_may_have_a_revision_a_file_and_an_address(repository, tmp_path, source, name, revision, file):
    calls = repository("config.json", "model.safetensors", *OTHERS)
    assert local_directory(source) == tmp_path / "snapshot" / file
    assert set(calls) == {(name, revision)}
    assert downloaded(tmp_path / "snapshot") == {"config.json", file or "model.safetensors"}


def test_repository_without_weights_raises(repository):
    repository("config.json", *(name for name in OTHERS if name != "flax_model.msgpack"))
    with pytest.raises(
        CheckpointError, match=r"has neither model\*.safetensors nor pytorch_model\*.bin: name one"
    ):
        local_directory(NAME)
    with pytest.raises(
        CheckpointError, match=r"someone/model on the Hugging Face Hub has no file other.gguf$"
    ):
        local_directory(f"{NAME}/other.gguf")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "source must name something, got ''"),
        (None, "source must name something, got None"),
        (7, "source must name something, got 7"),
        (b"gpt2", "source must name something, got b'gpt2'"),
        ("my model", "'my model' does not exist and names no model: expected a file, a directory, or"),
        ("a//b", "'a//b' does not exist and names no model"),
        ("someone/..", "'someone/..' does not exist and names no model"),
        (
            "someone/model/part",
            "`hf download someone/model --include 'part/*' --local-dir DIR`, and give DIR/part",
        ),
        (
            "https://example.org/someone/model",
            "is no page of a model: expected an address such as https://huggingface",
        ),
        ("https://huggingface.co/datasets/someone/texts", "is no page of a model"),
        ("https://huggingface.co/", "is no page of a model"),
    ],
)
def test_source_that_names_no_model_raises(repository, source, said):
    calls = repository("config.json", "model.safetensors")
    with pytest.raises((InputError, CheckpointError)) as raised:
        local_directory(source)
    assert said in one_line(raised)
    assert not calls


@pytest.mark.parametrize(
    "source", ["./nowhere", "../nowhere", "/nowhere/x", "nowhere/", "a/x.safetensors", "x.gguf"]
)
def test_local_path_is_not_looked_for_on_the_hub(repository, source):
    calls = repository("config.json", "model.safetensors")
    assert local_directory(source) == Path(source)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_pretrained(source)
    assert not calls


def test_path_below_a_local_directory_is_local(repository, tmp_path, monkeypatch):
    calls = repository("config.json", "model.safetensors")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_directory("runs/first/last") == Path("runs/first/last")
    assert local_directory("~/runs") == tmp_path / "runs"
    assert not calls


def test_revision_of_a_local_directory_raises(tmp_path):
    with pytest.raises(InputError, match=r"revision must be None for a local file or directory, got 'v1'"):
        local_directory(tmp_path, "v1")


def one_line(raised):
    message = str(raised.value)
    assert "\n" not in message
    assert "..." not in message  # nothing was cut off
    return message


def answer(status, **headers):
    """The exception that the Hugging Face Hub's client makes of a server's answer."""
    request = httpx2.Request("GET", API)
    response = httpx2.Response(status, headers=headers, request=request, content=b"a page\nof many lines")
    with pytest.raises(Exception) as raised:
        hf_raise_for_status(response)
    return raised.value


def caused(error, cause):
    error.__cause__ = cause
    return error


NOT_CACHED = "and its cache lacks the model: "
ERRORS = {
    "gated": (
        lambda: answer(401, **{"X-Error-Code": "GatedRepo"}),
        "it is gated: accept its conditions at https://huggingface.co/someone/model, then log in with `hf auth login`",
    ),
    "no such model": (
        lambda: answer(404, **{"X-Error-Code": "RepoNotFound"}),
        "it has no model of this name, or a private one: check the name, or log in with `hf auth login`",
    ),
    "private, no token": (lambda: answer(401), "it has no model of this name, or a private one"),
    "no such revision": (
        lambda: answer(404, **{"X-Error-Code": "RevisionNotFound"}),
        "someone/model has no revision 'v9': give a branch, tag or commit of https://huggingface.co/someone/model/tree",
    ),
    "wrong token": (
        lambda: answer(401, **{"X-Error-Message": "Invalid credentials in Authorization header"}),
        "the token is missing or not valid (401): log in with `hf auth login`, or set HF_TOKEN",
    ),
    "token without permission": (lambda: answer(403), "the token may not read it (403): use a token with"),
    "token without permission, not cached": (
        lambda: caused(errors.LocalEntryNotFoundError("Got: ...\nAn error"), answer(403)),
        "the token may not read it (403)",
    ),
    "disabled": (
        lambda: answer(403, **{"X-Error-Message": "Access to this resource is disabled."}),
        "its owner or the Hugging Face Hub has disabled it",
    ),
    "no such file": (lambda: answer(404, **{"X-Error-Code": "EntryNotFound"}), "it has no such file (404)"),
    "too many requests": (lambda: answer(429), "it received too many requests (429): try again later"),
    "server fails": (lambda: answer(503), "its server answers with status 503: try again later"),
    "offline": (
        lambda: errors.OfflineModeIsEnabled("Cannot reach https://huggingface.co"),
        f"HF_HUB_OFFLINE is set, {NOT_CACHED}unset it, or run `hf download someone/model --revision v9` first",
    ),
    "offline, not cached": (
        lambda: caused(
            errors.LocalEntryNotFoundError("Cannot find"), errors.OfflineModeIsEnabled("Cannot reach")
        ),
        f"HF_HUB_OFFLINE is set, {NOT_CACHED}unset it",
    ),
    "no network": (
        lambda: caused(
            errors.LocalEntryNotFoundError("Got"), httpx2.ConnectError("[Errno -2] Name not known")
        ),
        f"there is no connection to it ([Errno -2] Name not known), {NOT_CACHED}check the network",
    ),
    "not cached": (
        lambda: errors.LocalEntryNotFoundError("Cannot"),
        f"there is no connection to it, {NOT_CACHED}",
    ),
    "broken connection": (
        lambda: ConnectionError("reset"),
        f"there is no connection to it (reset), {NOT_CACHED}",
    ),
    "timeout": (
        lambda: httpx2.ReadTimeout("timed out"),
        f"there is no connection to it (timed out), {NOT_CACHED}",
    ),
    "proxy": (
        lambda: httpx2.ProxyError("407"),
        f"there is no connection to it (407), {NOT_CACHED}check the network",
    ),
    "no name": (
        lambda: errors.HFValidationError("Repo id must"),
        "'someone/model' is no name of a model: expected",
    ),
    "anything else": (lambda: RuntimeError("strange\nthings"), "does not provide it: strange things"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_error_of_the_hub_is_one_sentence(monkeypatch, what):
    error, said = ERRORS[what]
    monkeypatch.setattr("huggingface_hub.snapshot_download", raising(error()))
    with pytest.raises(CheckpointError) as raised:
        read_pretrained(NAME, revision="v9")
    assert not isinstance(raised.value, DiskError)
    message = one_line(raised)
    assert message.startswith(
        f"{NAME} is not a local directory, and the Hugging Face Hub does not provide it: "
    )
    assert said in message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "no space is left in the cache "),
        (caused(RuntimeError("x"), OSError(errno.EDQUOT, "Quota")), "no space is left in the cache "),
        (
            RuntimeError("Data error: No space left on device (os error 28)"),
            "free some, or set HF_HOME to another",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "is not writable: set HF_HOME to a directory that is",
        ),
        (OSError(errno.EROFS, "Read-only file system"), "is not writable"),
    ],
)
def test_full_disk_is_an_error_of_the_disk(monkeypatch, error, said):
    monkeypatch.setattr("huggingface_hub.snapshot_download", raising(error))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", "/cache")
    with pytest.raises(DiskError) as raised:
        local_directory(NAME)
    assert one_line(raised).startswith(f"{NAME} cannot be downloaded: ")
    assert said in one_line(raised)


def raising(error):
    def fetch(*_, **__):
        raise error

    return fetch


class Server(BaseHTTPRequestHandler):
    """A repository on this machine, or one answer to all requests."""

    answer: ClassVar[tuple[int, dict[str, str]] | None] = None
    files: ClassVar[dict[str, bytes]] = {}
    commit = "0123456789" * 4

    def do_GET(self):
        path = self.path.partition("?")[0]
        if self.answer is not None:
            self.send(self.answer[0], b"{}", self.answer[1])
        elif "/tree/" in path:
            listed = [
                {"type": "file", "path": name, "size": len(x), "oid": name} for name, x in self.files.items()
            ]
            self.send(200, json.dumps(listed).encode(), {})
        elif path.startswith("/api/"):
            self.send(200, json.dumps({"id": NAME, "sha": self.commit, "siblings": []}).encode(), {})
        else:
            name = path.partition(self.commit)[2].strip("/")
            self.send(200, self.files[name], {"X-Repo-Commit": self.commit, "ETag": f'"{name}"'})

    do_HEAD = do_GET  # noqa: N815

    def send(self, status, body, headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    """The real client's server: the class above, with an empty cache."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = Thread(target=running.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{running.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + template)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    yield monkeypatch
    running.shutdown()
    running.server_close()
    thread.join()


ANSWERS = {
    (403, "GatedRepo", ""): "it is gated: accept its conditions at",
    (404, "RepoNotFound", ""): "it has no model of this name, or a private one",
    (404, "RevisionNotFound", ""): "someone/model has no revision 'v9'",
    (401, "", "Invalid credentials in Authorization header"): "the token is missing or not valid (401)",
    (403, "", ""): "the token may not read it (403)",
    (429, "", ""): "it received too many requests (429)",
    (503, "", ""): "its server answers with status 503",
}


@pytest.mark.parametrize("answer", ANSWERS, ids=str)
def test_real_client_that_a_server_refuses(server, answer):
    status, code, message = answer
    headers = {"X-Error-Code": code, "X-Error-Message": message}
    server.setattr(Server, "answer", (status, {name: value for name, value in headers.items() if value}))
    with pytest.raises(CheckpointError) as raised:
        local_directory(f"{NAME}@v9")
    assert ANSWERS[answer] in one_line(raised)


def test_real_client_without_a_server(server):
    server.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError) as raised:
        local_directory(NAME)
    assert "there is no connection to it (" in one_line(raised)


def test_real_client_downloads_description_and_weights(server):
    names = (
        "config.json",
        "tokenizer.json",
        "pytorch_model.bin",
        "model.gguf",
        "tf_model.h5",
        "onnx/model.onnx",
    )
    server.setattr(Server, "files", {name: name.encode() for name in names})
    directory = local_directory(NAME)
    assert downloaded(directory) == {"config.json", "tokenizer.json", "pytorch_model.bin"}
    assert local_directory(f"{NAME}/model.gguf").read_bytes() == b"model.gguf"
    server.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_directory(NAME) == directory


def test_real_client_that_is_offline(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError) as raised:
        local_directory(f"{NAME}@v2")
    assert one_line(raised).endswith(f"unset it, or run `hf download {NAME} --revision v2` first")


def test_real_client_that_is_offline_finds_its_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--model"
    snapshot = model / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps({}))
    (snapshot / "pytorch_model.bin").write_bytes(b"")
    assert local_directory(NAME) == snapshot
    (snapshot / "pytorch_model.bin").rename(snapshot / "flax_model.msgpack")
    assert local_directory(NAME) == snapshot


def test_partly_cached_model_is_loaded_offline(server):
    """As `hf download someone/model config.json pytorch_model.bin` leaves it: the tokenizer is not there."""
    names = ("config.json", "tokenizer.json", "pytorch_model.bin", "model.safetensors")
    server.setattr(Server, "files", {name: name.encode() for name in names})
    directory = snapshot_download(NAME, allow_patterns=["config.json", "pytorch_model.bin"])
    server.setattr(constants, "HF_HUB_OFFLINE", True)
    assert local_directory(NAME) == Path(directory)
    (Path(directory) / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError) as raised:
        local_directory(NAME)
    assert "HF_HUB_OFFLINE is set" in one_line(raised)


def test_unfinished_download_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = tmp_path / "models--someone--model"
    for path in (model / "refs", model / "blobs", model / "snapshots" / "0123"):
        path.mkdir(parents=True)
    (model / "refs" / "main").write_text("0123")
    (model / "blobs" / "4567.incomplete").write_bytes(b"x")
    (model / "snapshots" / "0123" / "config.json").write_text("{}")
    with pytest.raises(CheckpointError) as raised:
        local_directory(NAME)
    assert one_line(raised).endswith("is an unfinished download: run `hf download someone/model`")


def test_interruption_is_not_an_error_of_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.snapshot_download", raising(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        local_directory(NAME)
