"""A Hugging Face Hub of the project's own, on loopback, for the real clients to work against.

    with Hub(folder) as hub:
        hub.add_model("Qwen/Qwen2.5-0.5B-Instruct", model_folder)
        hub.faults.add("commit", "cut-after")
        hub.run("from huggingface_hub import model_info; ...", token=hub.WRITE)

Every repository is a line of commits; contents lie by their sha256 in blobs/. Large files go by
a second port, as they go by a storage host in the world; one larger than `part_size` (bytes)
goes in parts. A fault strikes the next `times` calls of a kind, after `skip` that pass; it is an
HTTP status, or
"cut-before"  the connection closes before the body of the request is read,
"cut-in"      in the middle of that body, or of the answer's where the request has none,
"cut-after"   after the request was carried out, without an answer,
"slow"        the same, but the answer comes only when the client has hung up,
"flip"        one byte of the answer is another one; of the content, where it is an upload.

It offers no Xet. A client that has hf_xet uploads by Xet without asking whether the server can:
it gets 404 from .../xet-write-token/main and raises the built-in ConnectionError. So
HF_HUB_DISABLE_XET is set here, which leaves LFS. Downloads need nothing: they take Xet only
where the answer bears X-Xet-Hash.
"""

import base64
import contextlib
import hashlib
import itertools
import json
import os
import re
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

REPO = r"(?P<id>[^/]+?(?:/[^/]+?)??)"
API, FILES = rf"/api/(?P<kind>models|datasets)/{REPO}", rf"/(?P<kind>datasets/)?{REPO}"
REV, SHA = "(?P<rev>[^/]+)", "(?P<sha>[0-9a-f]{64})"
ROUTES = [  # the first that fits; a call's name is also the name of its faults
    ("whoami", "GET", "/api/whoami-v2"),
    ("create", "POST", "/api/repos/create"),
    ("validate", "POST", "/api/validate-yaml"),
    ("auth", "GET", f"{API}/auth-check"),
    ("refs", "GET", f"{API}/refs"),
    ("tree", "GET", f"{API}/tree/{REV}(?:/(?P<path>.+))?"),
    ("paths", "POST", f"{API}/paths-info/{REV}"),
    ("preupload", "POST", f"{API}/preupload/{REV}"),
    ("commit", "POST", f"{API}/commit/{REV}"),
    ("tag", "POST", f"{API}/tag/{REV}"),
    ("info", "GET", f"{API}(?:/revision/{REV})?"),
    ("batch", "POST", rf"{FILES}\.git/info/lfs/objects/batch"),
    ("put", "PUT", f"/storage/{SHA}"),
    ("complete", "POST", f"/complete/{SHA}"),
    ("storage", "GET|HEAD", f"/storage/{SHA}"),
    ("verify", "POST", f"/verify/{SHA}"),
    ("resolve", "GET|HEAD", f"{FILES}/resolve/{REV}/(?P<path>.+)"),
]
UPLOAD_CALLS = ("preupload", "batch", "put", "complete", "verify", "commit", "tag")
LICENSES = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0", "cc0-1.0", "gpl-3.0", "other")


class RefusedError(Exception):
    """An answer other than success."""

    def __init__(self, status: int, message: str, code: str | None = None, **body: Any) -> None:
        super().__init__(message)
        self.status, self.code, self.body = status, code, {"error": message, **body}


@dataclass
class Fault:
    call: str
    what: int | str
    times: int = 1
    skip: int = 0
    retry_after: int | None = None


class Faults(list[Fault]):
    """What goes wrong next, and what has gone wrong so far."""

    def __init__(self) -> None:
        super().__init__()
        self.fired: list[Fault] = []

    def add(self, call: str, what: int | str, **how: Any) -> None:
        assert call in {name for name, _, _ in ROUTES}, call
        self.append(Fault(call, what, **how))

    def take(self, call: str) -> Fault | None:
        due = next((fault for fault in self if fault.call == call and fault.times > 0), None)
        if due and due.skip:
            due.skip -= 1
            return None
        if due:
            due.times -= 1
            self.fired.append(due)
        return due


@dataclass
class Entry:
    """A file in a commit: oid is git's, of the content or of the pointer to a large file."""

    sha: str
    size: int
    oid: str
    lfs: bool

    def listed(self, path: str) -> dict[str, Any]:
        large = {"oid": self.sha, "size": self.size, "pointerSize": 134}
        found: dict[str, Any] = {"type": "file", "path": path, "size": self.size, "oid": self.oid}
        return found | {"lfs": large} if self.lfs else found


@dataclass
class Repo:
    id: str
    kind: str  # models or datasets
    private: bool = False
    gated: bool = False
    commits: list[dict[str, Any]] = field(default_factory=list)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def head(self) -> str:
        return str(self.commits[-1]["oid"])

    def tree(self, revision: str = "main") -> dict[str, Entry]:
        found = next(c for c in self.commits if c["oid"] == self.resolve(revision))
        return {path: Entry(**entry) for path, entry in found["files"].items()}

    def resolve(self, revision: str) -> str:
        oid = self.head if revision == "main" else self.tags.get(revision, revision)
        if all(c["oid"] != oid for c in self.commits):
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid


class Hub:
    """The server; its state lies under the folder and is found there again."""

    WRITE, READ, OTHER = "hf_writeTOKENofTESTER1", "hf_readTOKENofTESTER22", "hf_OTHERuser3333"
    FINE = "hf_fineTOKENofTESTER44"
    TOKENS: ClassVar = {
        WRITE: ("tester", "write"), READ: ("tester", "read"), OTHER: ("somebody", "write"),
        FINE: ("tester", "fineGrained"),
    }  # fmt: skip

    def __init__(self, root: Path) -> None:
        self.root, self.faults = root, Faults()
        self.calls: list[tuple[str, str, int]] = []  # call, path, status (0: cut)
        self.renamed: dict[str, str] = {}
        self.part_size = 1_000_000_000
        self.scopes: list[tuple[str, str]] = []  # type and name of what FINE may write to
        self.lock, self._homes = threading.RLock(), itertools.count()
        (root / "blobs").mkdir(parents=True, exist_ok=True)
        found = [Repo(**json.loads(p.read_text())) for p in root.glob("repos/**/repo.json")]
        self.repos = {(repo.kind, repo.id): repo for repo in found}

    def __enter__(self) -> "Hub":
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for _ in range(2)]
        self.url, self.storage = (f"http://127.0.0.1:{s.server_port}" for s in self._servers)
        for server in self._servers:
            server.daemon_threads = True
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()

    # -- what tests do

    def add_model(self, repo_id: str, folder: Path, **flags: bool) -> str:
        """Commit every file of a folder to a model repository; returns the commit."""
        return self._add("models", repo_id, folder, flags)

    def add_dataset(self, repo_id: str, folder: Path, **flags: bool) -> str:
        """Commit every file of a folder to a dataset repository; returns the commit."""
        return self._add("datasets", repo_id, folder, flags)

    def model(self, repo_id: str) -> Repo:
        return self.repos["models", repo_id]

    def dataset(self, repo_id: str) -> Repo:
        return self.repos["datasets", repo_id]

    def rename(self, kind: str, old: str, new: str) -> None:
        """Move a repository; the old name answers with a redirect from now on."""
        repo = self.repos[kind, new] = self.repos.pop((kind, old))
        repo.id, self.renamed[old] = new, new

    def read(self, entry: Entry) -> bytes:
        return (self.root / "blobs" / entry.sha).read_bytes()

    def env(self, token: str | None = None, home: Path | None = None) -> dict[str, str]:
        """Environment in which every client talks to this Hub, with an empty cache of its own."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING_FACE"))}
        off = ("HF_HUB_DISABLE_XET", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_PROGRESS_BARS")
        kept |= dict.fromkeys((*off, "OMP_NUM_THREADS"), "1") | (
            {"HF_TOKEN": token} if token else {}
        )
        home = home or self.root / "homes" / str(next(self._homes))
        return kept | {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "NO_PROXY": "127.0.0.1"}

    def run(self, code: str, token: str | None = None, home: Path | None = None, **env: str) -> str:
        """Run Python code in a new process against this Hub, where waiting takes no time."""
        code = "import time; time.sleep = lambda seconds: None\n" + code
        env = self.env(token, home) | env
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def connect(self, monkeypatch: Any, token: str = "") -> None:
        """Point the Hub client of this process here, with an empty cache, and let it not wait."""
        from huggingface_hub import constants
        from huggingface_hub.utils import close_session, disable_progress_bars

        close_session()
        disable_progress_bars()
        home = self.root / "homes" / str(next(self._homes))
        for name, value in {
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(home / "hub"),
            "HF_TOKEN_PATH": str(home / "token"),
            "HF_HUB_DISABLE_XET": True,
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(time, "sleep", lambda seconds: None)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_TOKEN", token)

    # -- what it holds

    def entry(self, path: str, content: bytes) -> Entry:
        sha = self.store(content)
        if is_large(path, content, len(content)):
            return self.large(sha, len(content))
        return Entry(sha, len(content), git_oid(content), lfs=False)

    def large(self, sha: str, size: int) -> Entry:
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha}\nsize {size}\n"
        return Entry(sha, size, git_oid(pointer.encode()), lfs=True)

    def store(self, content: bytes) -> str:
        sha = hashlib.sha256(content).hexdigest()
        (self.root / "blobs" / sha).write_bytes(content)
        return sha

    def commit(self, repo: Repo, files: dict[str, Entry], title: str) -> str:
        with self.lock:
            listed = {path: asdict(entry) for path, entry in sorted(files.items())}
            body = {"title": title, "date": time.strftime("%FT%T.000Z"), "files": listed}
            parents = [c["oid"] for c in repo.commits]
            oid = hashlib.sha1(json.dumps([repo.kind, repo.id, parents, body]).encode()).hexdigest()
            repo.commits.append({"oid": oid, **body})
            self.repos[repo.kind, repo.id] = repo
            self.save(repo)
            return oid

    def save(self, repo: Repo) -> None:
        folder = self.root / "repos" / repo.kind / repo.id
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "repo.json").write_text(json.dumps(asdict(repo)))

    def _add(self, kind: str, repo_id: str, folder: Path, flags: dict[str, bool]) -> str:
        repo = self.repos.get((kind, repo_id)) or Repo(repo_id, kind, **flags)
        named = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        files = {name: self.entry(name, path.read_bytes()) for name, path in named.items()}
        return self.commit(repo, files, "Add files")


class Handler(BaseHTTPRequestHandler):
    """One request: finds its call, applies the fault that is due, answers."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):
            self.serve()

    do_HEAD = do_POST = do_PUT = do_GET

    def serve(self) -> None:
        url = urlsplit(self.path)
        self.query, self.content, self.out = parse_qs(url.query), b"", {}
        call, self.args = self.route(url.path)
        with self.hub.lock:
            fault = self.hub.faults.take(call) or Fault(call, "none")
        what = fault.what
        if what != "cut-before":
            self.content = b"".join(self.receive(half=what == "cut-in"))
        if what == "cut-before" or (what == "cut-in" and self.content):
            return self.cut(call)
        if what == "flip" and call == "put":
            self.content = flipped(self.content)
        status, body = self.outcome(call, fault)
        if what == "cut-after":
            return self.cut(call)
        if what == "slow":
            select.select([self.connection], [], [], 30)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answer(call, status, flipped(raw) if what == "flip" else raw, half=what == "cut-in")

    def outcome(self, call: str, fault: Fault) -> tuple[int, Any]:
        try:
            if isinstance(fault.what, int):
                code = "RepoNotFound" if fault.what in (401, 404) else None
                raise RefusedError(fault.what, "a fault on demand", code)
            with self.hub.lock:
                body = getattr(self, "on_" + call, self.on_unknown)()
            return body if isinstance(body, tuple) else (200, body)
        except RefusedError as refused:
            self.out["X-Error-Message"] = str(refused)
            self.out |= {"X-Error-Code": refused.code} if refused.code else {}
            if fault.retry_after is not None:
                self.out["Retry-After"] = str(fault.retry_after)
            return refused.status, refused.body

    def route(self, path: str) -> tuple[str, dict[str, str]]:
        for call, method, pattern in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method.split("|"):
                args = {k: unquote(v) for k, v in found.groupdict().items() if v is not None}
                return call, args | {"kind": args.get("kind", "models").rstrip("/")}
        return "unknown", {}

    def receive(self, half: bool) -> Iterator[bytes]:
        """Read the request's body, sent with its length or in chunks."""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                yield self.rfile.read(size // 2 if half else size)
                if half:
                    return
                self.rfile.readline()
            self.rfile.readline()
        elif length := int(self.headers.get("Content-Length") or 0):
            yield self.rfile.read((length + 1) // 2 if half else length)

    def answer(self, call: str, status: int, body: bytes, half: bool) -> None:
        self.hub.calls.append((call, self.path, status))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **self.out}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if half else body)
        self.close_connection = self.close_connection or half

    def cut(self, call: str) -> None:
        self.hub.calls.append((call, self.path, 0))
        self.close_connection = True

    # -- who may do what

    def user(self) -> tuple[str | None, str | None]:
        given = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if given and given not in self.hub.TOKENS:
            raise RefusedError(401, "Invalid credentials in Authorization header")
        return self.hub.TOKENS.get(given, (None, None))

    def repo(self, write: bool = False, files: bool = False) -> Repo:
        (name, _), asked = self.user(), self.args["id"]
        wanted = self.hub.renamed.get(asked, asked)
        if wanted != asked:
            self.out["Location"] = self.path.replace(asked, wanted, 1)
            raise RefusedError(307, f"Temporary Redirect. Redirecting to {wanted}")
        repo, owner = self.hub.repos.get((self.args["kind"], wanted)), wanted.split("/")[0]
        if repo is None or (repo.private and name != owner):
            raise RefusedError(404 if name else 401, "Repository not found", "RepoNotFound")
        if write and not self.may_write(repo.kind, repo.id):
            raise RefusedError(403, f"you need write access to {owner}")
        if files and repo.gated and name != owner:
            raise RefusedError(403 if name else 401, f"{wanted} is restricted", "GatedRepo")
        return repo

    # -- the calls

    def on_unknown(self) -> None:
        raise RefusedError(404, f"Sorry, no {self.command} {self.path} here", "EntryNotFound")

    def on_whoami(self) -> Any:
        name, role = self.user()
        if name is None:
            raise RefusedError(401, "Invalid username or password.")
        access: dict[str, Any] = {"displayName": "tests", "role": role}
        if role == "fineGrained":
            may = ["repo.content.read", "repo.write"]
            scopes = [
                {"entity": {"type": kind, "name": n}, "permissions": may}
                for kind, n in self.hub.scopes
            ]
            access["fineGrained"] = {"canReadGatedRepos": True, "global": [], "scoped": scopes}
        token = {"accessToken": access, "type": "access_token"}
        return {"type": "user", "name": name, "orgs": [], "auth": token}

    def may_write(self, kind: str, repo_id: str) -> bool:
        (name, role), owner = self.user(), repo_id.split("/")[0]
        if role == "fineGrained":
            wanted = {(kind.rstrip("s"), repo_id), ("user", owner), ("org", owner)}
            return not wanted.isdisjoint(self.hub.scopes)
        return role == "write" and name == owner

    def on_auth(self) -> Any:
        self.repo(files=True)
        return {}

    def on_create(self) -> Any:
        asked, (name, _) = json.loads(self.content), self.user()
        owner = asked["organization"] or name
        if name is None or not self.may_write("", f"{owner}/"):
            raise RefusedError(401 if name is None else 403, f"no right to create under {owner}")
        kind, repo_id = asked.get("type", "model") + "s", f"{owner}/{asked['name']}"
        url = f"{self.hub.url}/{'datasets/' if kind == 'datasets' else ''}{repo_id}"
        if (kind, repo_id) in self.hub.repos:
            raise RefusedError(409, f"You already created this {kind[:-1]} repo", url=url)
        repo = Repo(repo_id, kind, private=asked.get("visibility") == "private")
        first = self.hub.entry(".gitattributes", b"*.safetensors filter=lfs diff=lfs -text\n")
        self.hub.commit(repo, {".gitattributes": first}, "initial commit")
        return {"url": url, "id": repo_id}

    def on_validate(self) -> Any:
        try:
            data = card_data(json.loads(self.content)["content"])
        except yaml.YAMLError as error:
            raise RefusedError(400, "bad YAML", errors=[{"message": str(error)}]) from None
        wrong = [f'"{name}" is empty' for name, value in data.items() if value is None]
        named = data.get("license", [])
        for unknown in set([named] if isinstance(named, str) else named) - set(LICENSES):
            wrong.append(f'"license" {unknown!r} is unknown')
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", data.get("base_model", "x")):
            wrong.append(f'"base_model" {data["base_model"]!r} is no repository')
        if wrong:
            raise RefusedError(400, "bad card", errors=[{"message": m} for m in wrong])
        return {"errors": [], "warnings": [] if data else [{"message": "empty metadata"}]}

    def on_refs(self) -> Any:
        repo = self.repo()
        branch = {"name": "main", "ref": "refs/heads/main", "targetCommit": repo.head}
        tags = [
            {"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repo.tags.items()
        ]
        return {"branches": [branch], "converts": [], "tags": tags}

    def on_tree(self) -> Any:
        under, files = self.args.get("path", ""), self.repo().tree(self.args["rev"])
        inside = {p: e for p, e in files.items() if not under or p.startswith(under + "/")}
        if under and not inside:
            raise RefusedError(404, f"{under} does not exist", "EntryNotFound")
        deep = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        parents = {"/".join(p.split("/")[:n]) for p in inside for n in range(1, p.count("/") + 1)}
        folders = [{"type": "directory", "path": p, "oid": git_oid(p.encode())} for p in parents]
        listed = [*(e.listed(p) for p, e in inside.items()), *folders]
        depth = under.count("/") + 1 if under else 0
        return [e for e in listed if deep or e["path"].count("/") == depth]

    def on_paths(self) -> Any:
        files, asked = self.repo().tree(self.args["rev"]), self.content.decode()
        paths = json.loads(asked) if asked.startswith("{") else parse_qs(asked)
        return [files[p].listed(p) for p in paths.get("paths", []) if p in files]

    def on_preupload(self) -> Any:
        files, answer = self.repo(write=True).tree(self.args["rev"]), []
        for asked in json.loads(self.content)["files"]:
            path, found = asked["path"], files.get(asked["path"])
            large = is_large(path, base64.b64decode(asked["sample"]), asked["size"])
            oid = (found.sha if found.lfs else found.oid) if found else None
            told = {"path": path, "uploadMode": "lfs" if large else "regular", "oid": oid}
            answer.append({**told, "shouldIgnore": False})
        return {"files": answer}

    def on_batch(self) -> Any:
        repo, answer = self.repo(write=True), []
        known = {e["sha"] for c in repo.commits for e in c["files"].values()}
        for asked in json.loads(self.content)["objects"]:
            upload = self.way(asked["oid"], asked["size"])
            verify = {"href": f"{self.hub.url}/verify/{asked['oid']}"}
            todo = {"actions": {"upload": upload, "verify": verify}}
            answer.append({**asked, **({} if asked["oid"] in known else todo)})
        return {"transfer": "basic", "objects": answer}

    def way(self, sha: str, size: int) -> dict[str, Any]:
        """Say where to put a large file: whole, or in parts that are then joined."""
        address = f"{self.hub.storage}/storage/{sha}"
        if size <= self.hub.part_size:
            return {"href": address}
        numbers = range(1, -(-size // self.hub.part_size) + 1)
        parts = {f"{n:05}": f"{address}?part={n}" for n in numbers}
        header = {"chunk_size": str(self.hub.part_size), **parts}
        return {"href": f"{self.hub.url}/complete/{sha}", "header": header}

    def on_put(self) -> Any:
        if number := self.query.get("part"):
            part = self.hub.root / "parts" / self.args["sha"] / number[0]
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(self.content)
            self.out["ETag"] = etag(self.content)
            return b""
        if hashlib.sha256(self.content).hexdigest() != self.args["sha"]:
            raise RefusedError(400, "the content does not have the hash it was announced with")
        self.hub.store(self.content)
        return b""

    def on_complete(self) -> Any:
        folder = self.hub.root / "parts" / self.args["sha"]
        asked = sorted(json.loads(self.content)["parts"], key=lambda part: part["partNumber"])
        parts = [(folder / str(part["partNumber"])).read_bytes() for part in asked]
        if [etag(part) for part in parts] != [part["etag"] for part in asked]:
            raise RefusedError(400, "InvalidPart")
        if hashlib.sha256(b"".join(parts)).hexdigest() != self.args["sha"]:
            raise RefusedError(400, "the content does not have the hash it was announced with")
        self.hub.store(b"".join(parts))
        return {}

    def on_verify(self) -> Any:
        blob, asked = self.hub.root / "blobs" / self.args["sha"], json.loads(self.content)
        if not blob.exists() or blob.stat().st_size != asked["size"]:
            raise RefusedError(404, "no such object")
        return {"message": "Successful"}

    def on_commit(self) -> Any:
        repo, title = self.repo(write=True), ""
        files = repo.tree()
        for key, value in (
            (s["key"], s["value"]) for s in map(json.loads, self.content.splitlines())
        ):
            path = value.get("path")
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit", repo.head) != repo.head:
                    raise RefusedError(412, "A commit has happened since. Please try again.")
            elif key == "file":
                files[path] = self.hub.entry(path, base64.b64decode(value["content"]))
            elif key == "lfsFile":
                if not (self.hub.root / "blobs" / value["oid"]).exists():
                    raise RefusedError(400, f"{path} points at an object nobody sent")
                files[path] = self.hub.large(value["oid"], value["size"])
            elif files.pop(path, None) is None:
                raise RefusedError(404, "A file with this name doesn't exist", "EntryNotFound")
        oid = self.hub.commit(repo, files, title)
        return {"commitOid": oid, "commitUrl": f"{self.hub.url}/{repo.id}/commit/{oid}"}

    def on_tag(self) -> Any:
        repo, name = self.repo(write=True), json.loads(self.content)["tag"]
        if name in repo.tags:
            raise RefusedError(409, f"Reference already exists: {name}")
        repo.tags[name] = repo.resolve(self.args["rev"])
        self.hub.save(repo)
        return {}

    def on_info(self) -> Any:
        repo = self.repo()
        oid = repo.resolve(self.args.get("rev", "main"))
        files = repo.tree(oid)
        card = card_data(self.hub.read(files["README.md"]).decode()) if "README.md" in files else {}
        return {
            "_id": oid[:24], "id": repo.id, "sha": oid, "private": repo.private, "disabled": False,
            "gated": "auto" if repo.gated else False, "tags": [], "downloads": 0, "likes": 0,
            "siblings": [{"rfilename": path} for path in files], "cardData": card,
            "lastModified": repo.commits[-1]["date"], "createdAt": repo.commits[0]["date"],
        }  # fmt: skip

    def on_resolve(self) -> Any:
        repo = self.repo(files=True)
        oid = self.out["X-Repo-Commit"] = repo.resolve(self.args["rev"])
        entry = repo.tree(oid).get(self.args["path"])
        if entry is None:
            raise RefusedError(404, "Entry not found", "EntryNotFound")
        if entry.lfs:
            self.out["Location"] = f"{self.hub.storage}/storage/{entry.sha}"
            self.out |= {"X-Linked-Etag": f'"{entry.sha}"', "X-Linked-Size": str(entry.size)}
            return 302, b""
        return self.ranged(self.hub.read(entry), entry.oid)

    def on_storage(self) -> Any:
        blob = self.hub.root / "blobs" / self.args["sha"]
        if not blob.exists():
            raise RefusedError(404, "NoSuchKey")
        return self.ranged(blob.read_bytes(), blob.name)

    def ranged(self, content: bytes, etag: str) -> Any:
        self.out |= {"Accept-Ranges": "bytes", "ETag": f'"{etag}"'}
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found:
            return content
        first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
        if first > last:
            raise RefusedError(416, "range not satisfiable")
        self.out["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, content[first : last + 1]


def card_data(readme: str) -> dict[str, Any]:
    parts = re.match(r"---\r?\n(.*?)\r?\n---", readme, re.DOTALL)
    return (yaml.safe_load(parts[1]) if parts else None) or {}


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def is_large(path: str, sample: bytes, size: int) -> bool:
    return path.endswith((".safetensors", ".parquet")) or b"\0" in sample or size > 10_000_000


def flipped(content: bytes) -> bytes:
    at = len(content) // 2
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] if content else b""
