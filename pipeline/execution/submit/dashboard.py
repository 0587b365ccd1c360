"""Ray's dashboard as a client of Ray Jobs sees it. Ray's own client needs Ray's extras, and turns exit codes into 1."""

from __future__ import annotations

import http.client
import json
import os
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote, urlsplit

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_fixed

from promptmill.pipeline.display import first_line, redact
from promptmill.schemas.errors import ClusterError, JobError, Problem

DEFAULT_PORT: Final = 8265
_EXPECTED: Final = "the address of a Ray dashboard, http://HEAD:8265"
_TIMEOUT_S: Final = 30.0
_UPLOAD_TIMEOUT_S: Final = 600.0
_NO_AGENT = "No available agent"
_TOKEN_FILE: Final = Path("~/.ray/auth_token")


def dashboard_address(given: str | None) -> tuple[str, str]:
    """The address, and the option or variable that gives it. Raises JobError where none does."""
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if given is None and (found := os.environ.get(name)):
            return found, name
    if given is None:
        raise JobError(Problem("--address", _EXPECTED, "none", "RAY_API_SERVER_ADDRESS says it too"))
    return given, "--address"


def _checked(address: str, where: str) -> str:
    scheme, mark, _ = address.partition("://")
    text = address if mark else f"http://{address}"
    if mark and scheme not in ("http", "https"):
        hint = "`ray://` is Ray Client's, by which no job comes" if scheme == "ray" else ""
        raise JobError(Problem(f"{where}: {redact(address)}", _EXPECTED, f"an address of {scheme}://", hint))
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise JobError(Problem(f"{where}: {redact(address)}", _EXPECTED, str(error))) from None
    if not parts.hostname or parts.query or parts.fragment or re.search(r"[\s\x00-\x1f]", text):
        raise JobError(Problem(f"{where}: {redact(address)}", _EXPECTED, "no such address"))
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = port or (DEFAULT_PORT if parts.scheme == "http" else None)
    return f"{parts.scheme}://{host}{f':{port}' if port else ''}{parts.path.rstrip('/')}"


class UnknownJobError(JobError):
    pass


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token must not go to whoever a server names."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Dashboard:
    """Each method raises ClusterError where it does not answer, or wants another token; JobError for what is none."""

    def __init__(self, address: str | None, ca_cert: str | None = None) -> None:
        """`ca_cert` is a file of certificates to trust beside those of this machine."""
        chosen, self.where = dashboard_address(address)
        self.url = _checked(chosen, self.where)
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if self.url.startswith("https:"):
            handlers.append(urllib.request.HTTPSHandler(context=_tls(ca_cert)))
        self._opener = urllib.request.build_opener(*handlers)
        self._token = _token()

    def ray_version(self) -> str:
        """Raises JobError where something else than Ray's dashboard answers."""
        try:
            answer = json.loads(self._ask("GET", "/api/version"))
            return str(answer["ray_version"])
        except (ValueError, TypeError, KeyError):
            raise self._no_dashboard("a web server that is none") from None

    def has_package(self, name: str) -> bool:
        try:
            self._ask("GET", f"/api/packages/gcs/{name}")
        except UnknownJobError:
            return False
        return True

    def upload_package(self, name: str, content: bytes) -> None:
        self._ask("PUT", f"/api/packages/gcs/{name}", content, timeout_s=_UPLOAD_TIMEOUT_S)

    def submit(self, request: Mapping[str, Any]) -> str:
        """The id of the job. A head that has just started has no agent for jobs yet: it is asked for a minute."""
        patient = Retrying(
            retry=retry_if_exception(lambda error: isinstance(error, ClusterError) and _NO_AGENT in str(error)),
            stop=stop_after_delay(60),
            wait=wait_fixed(2),
            reraise=True,
        )
        return str(patient(self._object, "POST", "/api/jobs/", request)["submission_id"])

    def job(self, job: str) -> dict[str, Any]:
        return self._object("GET", f"/api/jobs/{quote(job, safe='')}")

    def jobs(self) -> list[dict[str, Any]]:
        found = self._parsed("GET", "/api/jobs/")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def log(self, job: str) -> str:
        return str(self._object("GET", f"/api/jobs/{quote(job, safe='')}/logs").get("logs") or "")

    def stop(self, job: str) -> bool:
        """Whether it was running."""
        return bool(self._object("POST", f"/api/jobs/{quote(job, safe='')}/stop", {}).get("stopped"))

    def _object(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> dict[str, Any]:
        found = self._parsed(method, path, content)
        if not isinstance(found, dict):
            raise self._no_dashboard("a web server that answers something else")
        return found

    def _parsed(self, method: str, path: str, content: Mapping[str, Any] | None = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        try:
            return json.loads(self._ask(method, path, body, "application/json"))
        except ValueError:
            raise self._no_dashboard("a web server that answers something else") from None

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        kind: str = "application/octet-stream",
        timeout_s: float = _TIMEOUT_S,
    ) -> bytes:
        request = urllib.request.Request(f"{self.url}{path}", body, method=method)  # noqa: S310 - http and https alone
        if body is not None:
            request.add_header("Content-Type", kind)
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with self._opener.open(request, timeout=timeout_s) as answer:
                content: bytes = answer.read()
                return content
        except urllib.error.HTTPError as error:
            raise self._refused(error) from None
        except http.client.HTTPException:
            raise self._no_dashboard("a port where no web server answers") from None
        except (OSError, ValueError) as error:
            raise self._silent(error) from None

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        with error:
            text = _last_line(error)
        if error.code in (401, 403):
            got = "a token that it does not take" if self._token else "no token"
            return ClusterError(
                f"{self.url} asks for a token and got {got}: set RAY_AUTH_TOKEN to the cluster's ({text})"
            )
        if error.code == 404:
            return UnknownJobError(Problem(self.url, "something that is there", text or "nothing of that name"))
        if error.code < 400:
            place = redact(str(error.headers.get("Location", "elsewhere")))
            return JobError(Problem(f"{self.where}: {self.url}", _EXPECTED, f"one that points to {place}", "Give that"))
        return ClusterError(f"{self.url} refuses ({error.code}): {text}")

    def _silent(self, error: Exception) -> Exception:
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLError):
            hint = "--ca-cert names the file of the authority that signed it"
            return ClusterError(f"{self.url}: TLS: {cause.reason or cause}. {hint}, and http:// is without")
        hint = f"{DEFAULT_PORT} is the dashboard's port where nobody chose another (`ray start --dashboard-host`)"
        return ClusterError(f"no Ray dashboard answers at {self.url}: {cause}. {hint}")

    def _no_dashboard(self, got: str) -> JobError:
        hint = f"6379 is the port of the head, {DEFAULT_PORT} that of its dashboard"
        return JobError(Problem(f"{self.where}: {self.url}", _EXPECTED, got, hint))


def _tls(ca_cert: str | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context()
        if ca_cert is not None:
            context.load_verify_locations(cafile=ca_cert)
    except (OSError, ssl.SSLError) as error:
        raise JobError(Problem(f"--ca-cert: {ca_cert}", "a file of certificates (PEM)", first_line(error))) from None
    return context


def _token() -> str:
    """Where Ray itself looks for it; empty where there is none."""
    if token := os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return token
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(given) if given else _TOKEN_FILE.expanduser()
    try:
        return file.read_text().strip()
    except (OSError, ValueError) as error:
        if given:
            raise JobError(
                Problem(f"RAY_AUTH_TOKEN_PATH: {given}", "a file with the token", first_line(error))
            ) from None
        return ""


def _last_line(answer: IO[bytes]) -> str:
    """Of a traceback or a message the line that says what it is."""
    lines = [line.strip() for line in answer.read(1 << 16).decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""
